#include <string.h>

#include "proto/wire.h"

enum wire_drop wire_body_check(const void *body, size_t length_bytes) {
    struct wire_body_header header;
    if (length_bytes < sizeof header || length_bytes > WIRE_BODY_MAX_BYTES)
        return WIRE_DROP_FRAME_LENGTH;
    memcpy(&header, body, sizeof header);
    if (header.flags & ~WIRE_BODY_EXTENDED || header.low_water > WIRE_RANGE_OFFSETS)
        return WIRE_DROP_FRAME_VALUE;
    if (header.flags & WIRE_BODY_EXTENDED &&
        length_bytes < sizeof header + sizeof(struct wire_body_extension))
        return WIRE_DROP_FRAME_LENGTH;
    return WIRE_DROP_NONE;
}

static int controls_allowed(const struct wire_control *controls, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        if (controls[i].range >= WIRE_RANGE_COUNT)
            return 0;
        if (controls[i].kind == WIRE_CONTROL_SEAL
                ? controls[i].value > WIRE_RANGE_OFFSETS
                : controls[i].kind != WIRE_CONTROL_OPEN || !controls[i].value)
            return 0;
    }
    return 1;
}

static int intervals_allowed(const struct wire_interval *intervals, uint32_t count) {
    uint32_t bodies = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint64_t first = intervals[i].first_id;
        if (!intervals[i].count ||
            (uint64_t)wire_tx_offset(first) + intervals[i].count > WIRE_RANGE_OFFSETS)
            return 0;
        if (i && wire_tx_range(first) <= wire_tx_range(intervals[i - 1].first_id))
            return 0; /* sorted, at most one per range */
        bodies += intervals[i].count;
    }
    return bodies <= WIRE_EPOCH_BODIES_MAX;
}

enum wire_drop wire_epoch_check(const void *epoch, size_t length_bytes) {
    struct wire_epoch_head head;
    if (length_bytes < sizeof head)
        return WIRE_DROP_FRAME_LENGTH;
    memcpy(&head, epoch, sizeof head);
    if (head.control_count > WIRE_EPOCH_CONTROLS_MAX ||
        head.interval_count > WIRE_EPOCH_INTERVALS_MAX)
        return WIRE_DROP_FRAME_VALUE;
    if (length_bytes != wire_epoch_bytes(head.control_count, head.interval_count))
        return WIRE_DROP_FRAME_LENGTH;
    if (!head.seq || !head.term ||
        !controls_allowed(wire_epoch_controls(epoch), head.control_count) ||
        !intervals_allowed(wire_epoch_intervals(epoch), head.interval_count))
        return WIRE_DROP_FRAME_VALUE;
    return WIRE_DROP_NONE;
}
