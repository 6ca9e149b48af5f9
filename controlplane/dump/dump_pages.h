/* dump_pages: pages of the state in chunks, and which pages are where.
 *
 *   chunk   pages of 4,096 bytes one after the other, zstd
 *   index   for each page of a chunk its number and hash, in the chunk's order; also pages that
 *           became all zeros, which have no bytes in the chunk
 *
 * A state is a list of (chunk, index), oldest first: where two name a page, the later one counts.
 * So an incremental snapshot adds what changed and leaves the rest where it is.
 *
 * Pure; any thread. Errors: CORRUPT with words in `text` (DUMP_TEXT_BYTES); NO_MEMORY. */
#ifndef MAROON_DUMP_PAGES_H
#define MAROON_DUMP_PAGES_H

#include "controlplane/dump/dump_object.h"

#define DUMP_PAGE_BYTES 4096
#define DUMP_CHUNK_PAGES 1024 /* pages of a full chunk: 4 MiB */

struct dump_page_hash {
    uint8_t bytes[16]; /* the first half of the page's BLAKE2b-256; all zero: a page of zeros */
};

struct dump_index_entry { /* as stored */
    uint64_t page;
    struct dump_page_hash hash;
};

struct dump_page_hash dump_page_hash(const void *page);
static inline bool dump_page_hash_zero(const struct dump_page_hash *hash) {
    static const struct dump_page_hash zero;
    return __builtin_memcmp(hash, &zero, sizeof zero) == 0;
}

/* Payload of a chunk of `pages` pages. */
int dump_chunk_encode(const uint8_t *pages, uint32_t page_count, struct dump_bytes *ret_payload);
/* Its pages: page_count x DUMP_PAGE_BYTES, which must be what the payload says. */
int dump_chunk_decode(const struct dump_bytes *payload, uint32_t page_count,
                      struct dump_bytes *ret_pages, char *text);

int dump_index_encode(const struct dump_index_entry *entries, uint32_t count,
                      struct dump_bytes *ret_payload);
/* Entries inside the payload, which must be of `pages` pages and `zeros` zeros below `page_max`. */
int dump_index_decode(const struct dump_bytes *payload, uint32_t pages, uint32_t zeros,
                      uint64_t page_max, const struct dump_index_entry **ret_entries, char *text);

#endif
