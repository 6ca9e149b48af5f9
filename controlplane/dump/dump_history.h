/* dump_history: the epochs between dumps, out of the store: each checked against the one before,
 * and at every dump on the way against that dump.
 *
 *   after (seq, hash) --stretches of the manifests, in order--> each epoch --> to seq
 *
 * Threads: one that may wait. Errors, with words in `text` (DUMP_TEXT_BYTES): NOT_FOUND (no stretch
 * holds the next epoch: *ret_seq says how far it went), CORRUPT, MISMATCH (of another cluster or
 * history), those of the store, and what `each` returned. */
#ifndef MAROON_DUMP_HISTORY_H
#define MAROON_DUMP_HISTORY_H

#include "controlplane/dump/dump_keep.h"
#include "controlplane/dump/dump_stretch.h"

/* One epoch, checked. `state_hash`: of a dump at this epoch, or NULL. Not 0 ends the reading. */
typedef int dump_history_each(void *context, const struct dump_record *record,
                              const struct wire_hash *state_hash);

/* Manifests of a store, oldest first. */
struct dump_history {
    struct dump_store *store;
    const struct dump_key *key;
    struct dump_manifest *manifests;
    uint32_t manifest_count;
    uint32_t damaged; /* manifests that cannot be read: left out */
    int error;        /* of the last of them, with words */
    char damage[DUMP_TEXT_BYTES];
};

/* Loads the manifests of `cluster_id` (0: of the newest one's cluster) from the last one at or
 * before `seq` on (UINT64_MAX: the newest; 0: all). Damaged ones are left out as long as one can be
 * read. dump_history_close in any case. */
int dump_history_open(struct dump_history *history, struct dump_store *store,
                      const struct dump_key *key, uint64_t cluster_id, uint64_t seq, char *text);
void dump_history_close(struct dump_history *history);

/* The dump at or before `seq` that reading begins at; NULL: none. */
const struct dump_manifest *dump_history_base(const struct dump_history *history, uint64_t seq);
/* The newest epoch that can be reached from `seq` without a gap. */
uint64_t dump_history_end(const struct dump_history *history, uint64_t seq);

/* From the epoch after `seq` (whose hash is given) to `to`. *ret_seq: the last one handed out. */
int dump_history_read(const struct dump_history *history, uint64_t seq,
                      const struct wire_hash *hash, uint64_t to, dump_history_each *each,
                      void *context, uint64_t *ret_seq, char *text);

/* Checks the stretches of one manifest to the last byte. */
int dump_history_verify(struct dump_store *store, const struct dump_key *key,
                        const struct dump_manifest *manifest, char *text);

#endif
