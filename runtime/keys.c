/* Idempotency keys: a ring of records in order of logical time, a ring of their result bytes, and a
 * table key -> record's counter. The span is one for all, so the oldest expires first. */
#include <assert.h>
#include <string.h>

#include "runtime/internal.h"

static uint64_t record_offset(const struct runtime *runtime, uint64_t counter) {
    return runtime->layout.keys_ring +
           counter % runtime->config.idempotency_slots * sizeof(struct key_record);
}

void runtime_keys_expire(struct runtime *runtime, uint64_t logical_time_us) {
    const struct region_header *header = region(runtime);
    while (header->key_first < header->key_next) {
        const struct key_record *record =
            runtime_state_at(&runtime->state, record_offset(runtime, header->key_first));
        if (logical_time_us - record->logical_time_us < runtime->config.idempotency_span_us)
            return;
        int erased = runtime_table_erase(&runtime->keys, record->key);
        assert(erased);
        (void)erased;
        struct region_header *change = region_change(runtime);
        change->key_first++;
        change->key_bytes_first = record->bytes_at + record->length_bytes;
    }
}

const struct key_record *runtime_keys_find(const struct runtime *runtime, const uint8_t key[16]) {
    uint64_t place = runtime_table_find(&runtime->keys, key);
    if (place == 0)
        return NULL;
    uint64_t counter = *(const uint64_t *)runtime_state_at(&runtime->state, place);
    return runtime_state_at(&runtime->state, record_offset(runtime, counter));
}

void runtime_keys_copy(const struct runtime *runtime, const struct key_record *record,
                       void *buffer) {
    uint64_t ring_bytes = runtime->config.idempotency_bytes;
    uint8_t *to = buffer;
    uint64_t at = record->bytes_at, left_bytes = record->length_bytes;
    while (left_bytes > 0) {
        uint64_t place = at % ring_bytes;
        uint64_t piece = ring_bytes - place < left_bytes ? ring_bytes - place : left_bytes;
        memcpy(to, runtime_state_at(&runtime->state, runtime->layout.keys_bytes + place), piece);
        to += piece;
        at += piece;
        left_bytes -= piece;
    }
}

bool runtime_keys_have_slot(const struct runtime *runtime) {
    const struct region_header *header = region(runtime);
    return header->key_next - header->key_first < runtime->config.idempotency_slots;
}

bool runtime_keys_have_bytes(const struct runtime *runtime, uint32_t length_bytes) {
    const struct region_header *header = region(runtime);
    return header->key_bytes_next - header->key_bytes_first + length_bytes <=
           runtime->config.idempotency_bytes;
}

void runtime_keys_remember(struct runtime *runtime, const struct wire_body_extension *extension,
                           uint64_t logical_time_us, uint32_t code, const void *bytes,
                           uint32_t length_bytes) {
    assert(runtime_keys_have_slot(runtime) && runtime_keys_have_bytes(runtime, length_bytes));
    struct region_header *header = region_change(runtime);
    uint64_t counter = header->key_next++;
    struct key_record *record =
        runtime_state_change(&runtime->state, record_offset(runtime, counter), sizeof *record);
    memcpy(record->key, extension->idempotency_key, sizeof record->key);
    memcpy(record->request_hash, extension->request_hash, sizeof record->request_hash);
    record->logical_time_us = logical_time_us;
    record->bytes_at = header->key_bytes_next;
    record->length_bytes = length_bytes;
    record->code = code;
    uint64_t ring_bytes = runtime->config.idempotency_bytes;
    const uint8_t *from = bytes;
    while (length_bytes > 0) {
        uint64_t place = header->key_bytes_next % ring_bytes;
        uint64_t room = ring_bytes - place;
        uint32_t piece = room < length_bytes ? (uint32_t)room : length_bytes;
        memcpy(runtime_state_change(&runtime->state, runtime->layout.keys_bytes + place, piece),
               from, piece);
        header->key_bytes_next += piece;
        from += piece;
        length_bytes -= piece;
    }
    uint64_t place = runtime_table_insert(&runtime->keys, extension->idempotency_key);
    assert(place != 0);
    *(uint64_t *)runtime_state_change(&runtime->state, place, sizeof counter) = counter;
}

const char *runtime_keys_check(const struct runtime *runtime) {
    const struct region_header *header = region(runtime);
    if (header->key_first > header->key_next ||
        header->key_next - header->key_first != runtime_table_count(&runtime->keys))
        return "keys: ring and table differ";
    uint64_t at = header->key_bytes_first, previous_us = 0;
    for (uint64_t counter = header->key_first; counter < header->key_next; counter++) {
        const struct key_record *record =
            runtime_state_at(&runtime->state, record_offset(runtime, counter));
        if (runtime_keys_find(runtime, record->key) != record)
            return "keys: a record is not under its key";
        if (record->bytes_at != at || record->logical_time_us < previous_us ||
            record->logical_time_us > header->logical_time_us ||
            record->length_bytes > runtime->config.max_result_bytes ||
            record->code >= MRN_CODE_COUNT)
            return "keys: a record out of order or of bounds";
        at += record->length_bytes;
        previous_us = record->logical_time_us;
    }
    if (at != header->key_bytes_next ||
        at - header->key_bytes_first > runtime->config.idempotency_bytes)
        return "keys: bytes of no record";
    return NULL;
}
