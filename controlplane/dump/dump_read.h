/* dump_read: a dump becomes a snapshot file again, or is checked to the last byte without one.
 *
 *   manifest, indexes --> where each page goes --> per chunk: (in the file already?) get --> check,
 *   unpack, hash pages, write --> state hash, sync
 *
 * DUMP_READ_CHUNKS chunks are under way at once, which bounds the memory (4 MiB each, and 4 to 8
 * for each worker); the caller's thread carries the bytes, a pool does the rest. Every page is
 * compared with its index, all of them with the state hash; a chunk that is wrong is got once more.
 * A file that a killed fetch left is taken up: pages that are in it are not fetched again. It is
 * synced once, at the end: whoever takes it up looks at every page.
 *
 * Threads: one that may wait; it has ended its own before it returns. Errors, with words in `text`
 * (DUMP_TEXT_BYTES): those of the store, CORRUPT, IO and NO_SPACE (the file). */
#ifndef MAROON_DUMP_READ_H
#define MAROON_DUMP_READ_H

#include "controlplane/dump/dump_state.h"

#define DUMP_READ_CHUNKS 12

struct dump_progress {
    uint64_t pages, pages_done; /* with content */
    uint64_t fetched_bytes;     /* of chunks */
    /* manifest and indexes; chunks; state hash and sync */
    uint64_t indexes_ms, chunks_ms, end_ms;
};

/* `path` of the manifest. `file`: where the snapshot goes, "" checks only; what is there under this
 * name counts as what an earlier try got. `tell` (may be NULL) comes after every chunk. */
int dump_read(struct dump_store *store, const struct dump_key *key, const char *path,
              const char *file, void (*tell)(void *context, const struct dump_progress *progress),
              void *context, struct dump_manifest *ret_manifest, char *text);

#endif
