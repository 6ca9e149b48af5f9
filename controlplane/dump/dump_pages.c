#include "controlplane/dump/dump_pages.h"

#include <stdio.h>
#include <string.h>
#include <zstd.h>

#include "maroon/error.h"

#define ZSTD_LEVEL 1 /* pages of tables: higher levels cost twice the time for a few percent */

struct chunk_head {
    uint32_t page_count, page_bytes;
};
struct index_head {
    uint32_t count, entry_bytes;
};
_Static_assert(sizeof(struct dump_index_entry) == 24, "no padding");

struct dump_page_hash dump_page_hash(const void *page) {
    static const uint8_t zeros[DUMP_PAGE_BYTES];
    struct dump_page_hash hash = {0};
    if (memcmp(page, zeros, sizeof zeros) == 0)
        return hash;
    struct wire_hash whole = wire_hash_blake2b(page, DUMP_PAGE_BYTES);
    memcpy(hash.bytes, whole.bytes, sizeof hash.bytes);
    return hash;
}

static int wrong(char *text, const char *what) {
    snprintf(text, DUMP_TEXT_BYTES, "%s", what);
    return MRN_ERR_CORRUPT;
}

int dump_chunk_encode(const uint8_t *pages, uint32_t page_count, struct dump_bytes *ret_payload) {
    struct chunk_head head = {page_count, DUMP_PAGE_BYTES};
    return dump_payload_pack(ret_payload, &head, sizeof head, pages,
                             (size_t)page_count * DUMP_PAGE_BYTES, ZSTD_LEVEL);
}

int dump_chunk_decode(const struct dump_bytes *payload, uint32_t page_count,
                      struct dump_bytes *ret_pages, char *text) {
    struct chunk_head head;
    if (payload->count < sizeof head)
        return wrong(text, "a chunk cut short");
    memcpy(&head, payload->at, sizeof head);
    if (head.page_count != page_count || head.page_bytes != DUMP_PAGE_BYTES ||
        page_count > DUMP_PAYLOAD_MAX_BYTES / DUMP_PAGE_BYTES)
        return wrong(text, "a chunk of another number or size of pages than the manifest says");
    size_t raw = (size_t)page_count * DUMP_PAGE_BYTES;
    ret_pages->count = 0;
    if (!dump_bytes_reserve(ret_pages, raw + 1))
        return MRN_ERR_NO_MEMORY;
    size_t count = ZSTD_decompress(ret_pages->at, raw, payload->at + sizeof head,
                                   payload->count - sizeof head);
    if (ZSTD_isError(count) || count != raw)
        return wrong(text, "a chunk that cannot be unpacked");
    ret_pages->count = raw;
    return 0;
}

int dump_index_encode(const struct dump_index_entry *entries, uint32_t count,
                      struct dump_bytes *ret_payload) {
    struct index_head head = {count, sizeof *entries};
    ret_payload->count = 0;
    return dump_bytes_add(ret_payload, &head, sizeof head) &&
                   dump_bytes_add(ret_payload, entries, count * sizeof *entries)
               ? 0
               : MRN_ERR_NO_MEMORY;
}

int dump_index_decode(const struct dump_bytes *payload, uint32_t pages, uint32_t zeros,
                      uint64_t page_max, const struct dump_index_entry **ret_entries, char *text) {
    struct index_head head;
    uint64_t count = (uint64_t)pages + zeros;
    if (payload->count < sizeof head)
        return wrong(text, "an index cut short");
    memcpy(&head, payload->at, sizeof head);
    if (head.count != count || head.entry_bytes != sizeof(struct dump_index_entry) ||
        payload->count - sizeof head != count * sizeof(struct dump_index_entry))
        return wrong(text, "an index of another size than the manifest says");
    const struct dump_index_entry *entries = (const void *)(payload->at + sizeof head);
    uint32_t found_zeros = 0;
    for (uint64_t i = 0; i < count; i++) {
        if (entries[i].page >= page_max)
            return wrong(text, "an index names a page outside the state");
        found_zeros += dump_page_hash_zero(&entries[i].hash);
    }
    if (found_zeros != zeros)
        return wrong(text, "an index of another number of zero pages than the manifest says");
    *ret_entries = entries;
    return 0;
}
