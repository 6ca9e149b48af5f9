/* dump_read: a dump becomes a snapshot file again, or is checked to the last byte without one.
 *
 * Chunks come in parallel; every page is compared with its index, all of them with the state hash.
 * A file that a killed fetch left is taken up: pages that are in it are not fetched again.
 *
 * Threads: one that may wait. Errors, with words in `text` (DUMP_TEXT_BYTES): those of the store,
 * CORRUPT, IO and NO_SPACE (the file). */
#ifndef MAROON_DUMP_READ_H
#define MAROON_DUMP_READ_H

#include "controlplane/dump/dump_state.h"

struct dump_progress {
    uint64_t pages, pages_done; /* with content */
    uint64_t fetched_bytes;     /* of chunks */
};

/* `path` of the manifest. `file`: where the snapshot goes, "" checks only; what is there under this
 * name counts as what an earlier try got. `tell` (may be NULL) comes after every chunk. */
int dump_read(struct dump_store *store, const struct dump_key *key, const char *path,
              const char *file, void (*tell)(void *context, const struct dump_progress *progress),
              void *context, struct dump_manifest *ret_manifest, char *text);

#endif
