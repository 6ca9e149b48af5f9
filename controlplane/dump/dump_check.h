/* dump_check: whether the store still has what its newest dump consists of, before the next one
 * builds on that.
 *
 *   manifest --lists of chunks and indexes--> each is there, with its size
 *            --a few chunks, other ones each time--> read back, each what its name stands for
 *
 * What a dump brings is read back when it is put (dump_store.h); this finds what got lost or rotted
 * since. Its cost is one list of names and DUMP_CHECK_CHUNKS chunks, whatever the state's size.
 *
 * Threads: one that may wait. Errors, with words in `text` (DUMP_TEXT_BYTES): CORRUPT (something is
 * missing or damaged), those of the store, NO_MEMORY. */
#ifndef MAROON_DUMP_CHECK_H
#define MAROON_DUMP_CHECK_H

#include "controlplane/dump/dump_manifest.h"
#include "controlplane/dump/dump_store.h"

#define DUMP_CHECK_CHUNKS 2

/* *next: the chunk that is read back next; moved on. */
int dump_check(struct dump_store *store, const struct dump_key *key,
               const struct dump_manifest *manifest, uint32_t *next, char *text);

#endif
