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

/* Also where the time went. indexes_us, chunks_us and end_us come one after the other; gets_us and
 * unpack_us are within chunks_us, added up over what went on at once (DUMP_READ_CHUNKS GETs, the
 * pool's threads). */
struct dump_progress {
    uint64_t pages, pages_done;            /* with content */
    uint64_t indexes_bytes, fetched_bytes; /* of the indexes; of chunks, tries included */
    uint64_t indexes_us;                   /* manifest and indexes, and the plan made of them */
    uint64_t chunks_us, gets_us;           /* chunks: so far */
    uint64_t
        unpack_us;   /* files looked into, objects unsealed and unpacked, pages hashed, written */
    uint64_t end_us; /* state hash and sync */
};

/* `path` of the manifest. `file`: where the snapshot goes, "" checks only; what is there under this
 * name counts as what an earlier try got. `tell` (may be NULL) comes after every chunk. */
int dump_read(struct dump_store *store, const struct dump_key *key, const char *path,
              const char *file, void (*tell)(void *context, const struct dump_progress *progress),
              void *context, struct dump_manifest *ret_manifest, char *text);

#endif
