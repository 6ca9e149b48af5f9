/* dump_keep: which dumps a store holds, and the removal of old ones.
 *
 * Threads: one that may wait. Errors: those of the store and of manifests, with words in text. */
#ifndef MAROON_DUMP_KEEP_H
#define MAROON_DUMP_KEEP_H

#include "controlplane/dump/dump_state.h"

struct dump_listed {
    char path[DUMP_NAME_MAX]; /* of the manifest */
    uint64_t seq;
    uint64_t modified_ms;
};

/* All manifests, oldest epoch first; malloc'ed. */
int dump_list(struct dump_store *store, struct dump_listed **ret_list, uint32_t *ret_count,
              char *text);

/* As dump_pointer_get. Where the pointer is gone or cannot be read, the newest manifest that can be
 * is pointed to: it was written when all that it names was stored. *ret_lost: the pointer is there
 * and cannot be read (one that is gone may never have been written). NOT_FOUND: there is no dump.
 */
int dump_newest(struct dump_store *store, const struct dump_key *key, char *ret_pointer,
                size_t room, char ret_path[DUMP_NAME_MAX], uint64_t *ret_seq, bool *ret_lost,
                char *text);

struct dump_pruned {
    uint32_t manifests, objects; /* removed */
    uint64_t bytes;
    uint32_t young; /* unused objects that were left because they are younger than grace */
};

/* Keeps the `keep` (at least 1) newest dumps, the one the pointer names, and the one whose manifest
 * is `named` (by etcd; "": none); removes the other
 * manifests, then objects that no kept dump uses and that were put more than grace_s ago, then what
 * broken uploads left. What a dump being written puts is younger than grace_s. Nothing is removed
 * when a kept manifest cannot be read. */
int dump_prune(struct dump_store *store, const struct dump_key *key, uint32_t keep,
               uint64_t grace_s, const char *named, struct dump_pruned *ret_pruned, char *text);

#endif
