#include "controlplane/dump/dump_stretch.h"

#include <stdio.h>
#include <string.h>
#include <zstd.h>

#include "maroon/error.h"

#define ZSTD_LEVEL 3

struct stretch_head {
    uint64_t raw_bytes;
};

int dump_stretch_encode(const void *records, size_t count, struct dump_bytes *ret_payload) {
    struct stretch_head head = {count};
    return dump_payload_pack(ret_payload, &head, sizeof head, records, count, ZSTD_LEVEL);
}

int dump_stretch_decode(const struct dump_bytes *payload, struct dump_bytes *ret_records,
                        char *text) {
    struct stretch_head head;
    snprintf(text, DUMP_TEXT_BYTES, "a stretch that cannot be unpacked");
    if (payload->count < sizeof head)
        return MRN_ERR_CORRUPT;
    memcpy(&head, payload->at, sizeof head);
    if (head.raw_bytes > DUMP_PAYLOAD_MAX_BYTES)
        return MRN_ERR_CORRUPT;
    ret_records->count = 0;
    if (!dump_bytes_reserve(ret_records, head.raw_bytes + 1))
        return MRN_ERR_NO_MEMORY;
    size_t count = ZSTD_decompress(ret_records->at, head.raw_bytes, payload->at + sizeof head,
                                   payload->count - sizeof head);
    if (ZSTD_isError(count) || count != head.raw_bytes)
        return MRN_ERR_CORRUPT;
    ret_records->count = count;
    return 0;
}
