/* Records alone, without what compresses them: the dataplane reads them too. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "controlplane/dump/dump_stretch.h"
#include "maroon/error.h"

int64_t dump_record_next(const void *bytes, size_t count, struct dump_record *ret_record) {
    struct dump_record_head head;
    if (count < sizeof head)
        return MRN_ERR_CORRUPT;
    memcpy(&head, bytes, sizeof head);
    if (head.record_bytes < sizeof head || head.record_bytes > count ||
        head.epoch_bytes > head.record_bytes - sizeof head)
        return MRN_ERR_CORRUPT;
    const uint8_t *epoch = (const uint8_t *)bytes + sizeof head;
    const uint8_t *at = epoch + head.epoch_bytes;
    const uint8_t *end = (const uint8_t *)bytes + head.record_bytes;
    if (wire_epoch_check(epoch, head.epoch_bytes) != WIRE_DROP_NONE)
        return MRN_ERR_CORRUPT;
    for (uint32_t i = 0; i < head.body_count; i++) {
        struct dump_body_head body;
        if ((size_t)(end - at) < sizeof body)
            return MRN_ERR_CORRUPT;
        memcpy(&body, at, sizeof body);
        at += sizeof body;
        if ((size_t)(end - at) < body.length_bytes || body.length_bytes > WIRE_BODY_MAX_BYTES)
            return MRN_ERR_CORRUPT;
        at += body.length_bytes;
    }
    if (at != end)
        return MRN_ERR_CORRUPT;
    *ret_record = (struct dump_record){.seq = ((const struct wire_epoch_head *)epoch)->seq,
                                       .hash = wire_hash_blake2b(epoch, head.epoch_bytes),
                                       .epoch = epoch,
                                       .epoch_bytes = head.epoch_bytes,
                                       .body_count = head.body_count,
                                       .bodies = epoch + head.epoch_bytes};
    return head.record_bytes;
}

const uint8_t *dump_body_next(const uint8_t **at, struct dump_body_head *ret_head) {
    memcpy(ret_head, *at, sizeof *ret_head);
    const uint8_t *bytes = *at + sizeof *ret_head;
    *at = bytes + ret_head->length_bytes;
    return bytes;
}

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
