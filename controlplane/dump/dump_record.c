/* Records alone, without what compresses and checks them: the dataplane reads them too. */
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
