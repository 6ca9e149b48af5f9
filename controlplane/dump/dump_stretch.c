#include "controlplane/dump/dump_stretch.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <zstd.h>

#include "maroon/error.h"

#define ZSTD_LEVEL 3

struct stretch_head {
    uint64_t raw_bytes;
};

/* ---- records ---- */

static int wrong(char *text, int error, uint64_t seq, const char *what) {
    snprintf(text, DUMP_TEXT_BYTES, "epoch %" PRIu64 ": %s", seq, what);
    return error;
}

/* "Intervals by range, rotated so that number seq mod count comes first" (protocol.md §4). */
static bool bodies_follow(const struct dump_record *record, const struct wire_digest_key *key,
                          struct wire_digest *ret_sum) {
    const struct wire_epoch_head *epoch = (const void *)record->epoch;
    const struct wire_interval *intervals = wire_epoch_intervals(record->epoch);
    const uint8_t *at = record->bodies;
    uint32_t left = record->body_count;
    struct wire_digest sum = {0, 0};
    for (uint32_t i = 0; i < epoch->interval_count; i++) {
        const struct wire_interval *v = &intervals[(epoch->seq + i) % epoch->interval_count];
        for (uint32_t n = 0; n < v->count; n++, left--) {
            struct dump_body_head head;
            if (!left)
                return false;
            const uint8_t *bytes = dump_body_next(&at, &head);
            if (head.id != v->first_id + n ||
                wire_body_check(bytes, head.length_bytes) != WIRE_DROP_NONE)
                return false;
            sum = wire_digest_add(sum, wire_hash_body(key, head.id, bytes, head.length_bytes));
        }
    }
    *ret_sum = sum;
    return left == 0;
}

int dump_record_check(const struct dump_record *record, uint64_t seq,
                      const struct wire_hash *previous_hash,
                      const struct wire_digest_key *digest_key, char *text) {
    const struct wire_epoch_head *epoch = (const void *)record->epoch;
    struct wire_digest sum;
    if (record->seq != seq)
        return wrong(text, MRN_ERR_CORRUPT, seq, "another one stands in its place");
    if (memcmp(epoch->previous_hash, previous_hash, sizeof *previous_hash) != 0)
        return wrong(text, MRN_ERR_MISMATCH, seq,
                     "it does not continue the epoch before: of another cluster or history");
    if (!bodies_follow(record, digest_key, &sum))
        return wrong(text, MRN_ERR_CORRUPT, seq, "not the bodies that it names");
    if (sum.low != epoch->digest_low || sum.high != epoch->digest_high)
        return wrong(text, MRN_ERR_CORRUPT, seq, "bodies that do not have its digest");
    return 0;
}

/* ---- stretches ---- */

int dump_stretch_encode(const void *records, size_t count, struct dump_bytes *ret_payload) {
    struct stretch_head head = {count};
    return dump_bytes_pack(ret_payload, &head, sizeof head, records, count, ZSTD_LEVEL);
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
