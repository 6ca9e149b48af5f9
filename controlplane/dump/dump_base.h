/* dump_base: what a new dump builds on: the newest one, when it is still whole.
 *
 *   pointer --> manifest, indexes --> still whole? (dump_check) --yes--> its pages need not be sent
 *                                        '--no--> nothing is built on it: all pages are sent anew
 *
 * Either way the epochs of the new dump follow that one. What was found damaged is told as a lie of
 * the store (store->lies, store->lie): the dump mends it.
 *
 * Threads: one that may wait. Errors, with words in `text` (DUMP_TEXT_BYTES): EXISTS (a dump of
 * this epoch or a later one is there), MISMATCH (of another cluster), UNSUPPORTED, DENIED (sealed
 * with another key), those of the store. */
#ifndef MAROON_DUMP_BASE_H
#define MAROON_DUMP_BASE_H

#include "controlplane/dump/dump_state.h"

struct dump_base {
    bool there;                  /* a dump is */
    uint64_t seq;                /* of it */
    struct wire_hash epoch_hash; /* all zero: not known */
    struct wire_hash manifest;   /* its name */
};

/* `state` is that of the newest dump as far as the caller knows, or empty. Afterwards: of the dump
 * to build on, or new with no pages. After an error it is empty or as it was. */
int dump_base_load(struct dump_store *store, const struct dump_key *key, const char *cluster,
                   const struct snapshot_head *head, uint32_t *check_next, struct dump_state *state,
                   struct dump_base *ret_base, char *text);

#endif
