/* Kept results: per range a chain of 1 KiB chunks of one shared pool, written at the tail, dropped
 * from the head. Appending is sequential; a lookup walks the range's chain (it is for resends
 * only). */
#include <assert.h>
#include <string.h>

#include "runtime/internal.h"

static uint64_t chunk_offset(const struct runtime *runtime, uint32_t chunk) {
    return runtime->layout.chunks + (uint64_t)(chunk - 1) * RESULT_CHUNK_BYTES;
}
static uint32_t chunk_next(const struct runtime *runtime, uint32_t chunk) {
    return *(const uint32_t *)runtime_state_at(&runtime->state, chunk_offset(runtime, chunk));
}
static void chunk_link(struct runtime *runtime, uint32_t chunk, uint32_t next) {
    *(uint32_t *)runtime_state_change(&runtime->state, chunk_offset(runtime, chunk), sizeof next) =
        next;
}

static uint32_t chunk_take(struct runtime *runtime) {
    struct region_header *header = region_change(runtime);
    uint32_t chunk = header->chunk_free;
    if (chunk != 0)
        header->chunk_free = chunk_next(runtime, chunk);
    else
        chunk = ++header->chunk_high;
    assert(chunk <= runtime->layout.chunk_count);
    header->chunk_used_count++;
    chunk_link(runtime, chunk, 0);
    return chunk;
}

static void chunk_give_back(struct runtime *runtime, uint32_t chunk) {
    struct region_header *header = region_change(runtime);
    chunk_link(runtime, chunk, header->chunk_free);
    header->chunk_free = chunk;
    header->chunk_used_count--;
}

/* ---- reading along a chain ---- */

struct chain_cursor {
    uint32_t chunk;
    uint32_t at;
};

/* Copies (or skips: buffer NULL) and steps on. */
static void chain_read(const struct runtime *runtime, struct chain_cursor *cursor, void *buffer,
                       uint32_t length_bytes) {
    uint8_t *to = buffer;
    while (length_bytes > 0) {
        if (cursor->at == RESULT_CHUNK_ROOM) {
            cursor->chunk = chunk_next(runtime, cursor->chunk);
            cursor->at = 0;
        }
        uint32_t piece = (uint32_t)RESULT_CHUNK_ROOM - cursor->at;
        if (piece > length_bytes)
            piece = length_bytes;
        if (to != NULL) {
            uint64_t from = chunk_offset(runtime, cursor->chunk) + sizeof(uint32_t) + cursor->at;
            memcpy(to, runtime_state_at(&runtime->state, from), piece);
            to += piece;
        }
        cursor->at += piece;
        length_bytes -= piece;
    }
}

/* ---- dropping ---- */

void runtime_results_drop_all(struct runtime *runtime, uint64_t range_offset) {
    struct range_record *range = runtime_state_change(&runtime->state, range_offset, sizeof *range);
    uint32_t chunk = range->head_chunk;
    while (chunk != 0) {
        uint32_t next = chunk_next(runtime, chunk);
        chunk_give_back(runtime, chunk);
        chunk = next;
    }
    region_change(runtime)->results_kept -= range->kept_count;
    range->head_chunk = range->tail_chunk = range->chunk_count = range->kept_count = 0;
    range->head_at = range->tail_at = 0;
    range->results_from = range->executed;
}

/* Drops the range's oldest result; the range record is touched already. */
static void drop_oldest(struct runtime *runtime, uint64_t range_offset,
                        struct range_record *range) {
    if (range->kept_count == 1) {
        runtime_results_drop_all(runtime, range_offset);
        return;
    }
    struct chain_cursor cursor = {range->head_chunk, range->head_at};
    struct result_record record;
    chain_read(runtime, &cursor, &record, sizeof record);
    range->results_from = record.offset + 1;
    uint32_t chunk = range->head_chunk, left_bytes = record.length_bytes;
    chain_read(runtime, &cursor, NULL, left_bytes);
    while (chunk != cursor.chunk) {
        uint32_t next = chunk_next(runtime, chunk);
        chunk_give_back(runtime, chunk);
        range->chunk_count--;
        chunk = next;
    }
    range->head_chunk = cursor.chunk;
    range->head_at = (uint16_t)cursor.at;
    range->kept_count--;
    region_change(runtime)->results_kept--;
}

void runtime_results_low_water(struct runtime *runtime, uint64_t range_offset, uint32_t low_water) {
    struct range_record *range = runtime_state_change(&runtime->state, range_offset, sizeof *range);
    if (low_water <= range->low_water)
        return;
    range->low_water = low_water;
    while (range->kept_count > 0) {
        struct chain_cursor cursor = {range->head_chunk, range->head_at};
        uint32_t offset;
        chain_read(runtime, &cursor, &offset, sizeof offset);
        if (offset >= low_water)
            break;
        drop_oldest(runtime, range_offset, range);
    }
    if (range->results_from < low_water)
        range->results_from = low_water;
}

/* Offset of the record of the range that holds most chunks; equal: the first in the table. */
static uint64_t greatest_holder(const struct runtime *runtime) {
    uint64_t best = 0;
    uint32_t best_count = 0;
    for (uint32_t i = 0; i < runtime_table_count(&runtime->ranges); i++) {
        uint64_t at = runtime->ranges.entries_offset + (uint64_t)i * runtime->ranges.entry_bytes +
                      runtime->ranges.value_at;
        const struct range_record *range = runtime_state_at(&runtime->state, at);
        if (range->chunk_count > best_count) {
            best = at;
            best_count = range->chunk_count;
        }
    }
    return best;
}

static uint32_t chunks_free(const struct runtime *runtime) {
    return runtime->layout.chunk_count - region(runtime)->chunk_used_count;
}

/* Makes `count` chunks free for this range: its own oldest go while it holds more than an equal
 * share, else those of the greatest holder. */
static void make_room(struct runtime *runtime, uint64_t range_offset, uint32_t count) {
    uint32_t share = runtime->layout.chunk_count / runtime_table_count(&runtime->ranges);
    while (chunks_free(runtime) < count) {
        const struct range_record *own = runtime_state_at(&runtime->state, range_offset);
        uint64_t victim = own->kept_count > 0 && own->chunk_count + count > share
                              ? range_offset
                              : greatest_holder(runtime);
        assert(victim != 0); /* the pool holds the greatest result: bounds_hold */
        struct range_record *range = runtime_state_change(&runtime->state, victim, sizeof *range);
        runtime->counters.results_evicted++;
        drop_oldest(runtime, victim, range);
    }
}

/* ---- keeping ---- */

static void chain_append(struct runtime *runtime, struct range_record *range, const void *bytes,
                         uint32_t length_bytes) {
    const uint8_t *from = bytes;
    while (length_bytes > 0) {
        if (range->tail_chunk == 0 || range->tail_at == RESULT_CHUNK_ROOM) {
            uint32_t chunk = chunk_take(runtime);
            if (range->tail_chunk == 0) {
                range->head_chunk = chunk;
                range->head_at = 0;
            } else {
                chunk_link(runtime, range->tail_chunk, chunk);
            }
            range->tail_chunk = chunk;
            range->tail_at = 0;
            range->chunk_count++;
        }
        uint32_t piece = (uint32_t)RESULT_CHUNK_ROOM - range->tail_at;
        if (piece > length_bytes)
            piece = length_bytes;
        uint64_t to = chunk_offset(runtime, range->tail_chunk) + sizeof(uint32_t) + range->tail_at;
        memcpy(runtime_state_change(&runtime->state, to, piece), from, piece);
        range->tail_at = (uint16_t)(range->tail_at + piece);
        from += piece;
        length_bytes -= piece;
    }
}

void runtime_results_keep(struct runtime *runtime, uint64_t range_offset,
                          const struct result_record *record, const void *bytes) {
    struct range_record *range = runtime_state_change(&runtime->state, range_offset, sizeof *range);
    while (range->kept_count >= runtime->config.results_kept) {
        runtime->counters.results_evicted++;
        drop_oldest(runtime, range_offset, range);
    }
    uint64_t length_bytes = sizeof *record + record->length_bytes;
    uint32_t count = (uint32_t)((length_bytes + RESULT_CHUNK_ROOM - 1) / RESULT_CHUNK_ROOM) + 1;
    if (chunks_free(runtime) < count)
        make_room(runtime, range_offset, count);
    chain_append(runtime, range, record, sizeof *record);
    chain_append(runtime, range, bytes, record->length_bytes);
    range->kept_count++;
    region_change(runtime)->results_kept++;
}

int runtime_results_find(const struct runtime *runtime, const struct range_record *range,
                         uint32_t offset, uint32_t offset_bytes, void *buffer, uint32_t room_bytes,
                         struct result_record *ret_record, uint32_t *ret_copied) {
    struct chain_cursor cursor = {range->head_chunk, range->head_at};
    for (uint32_t i = 0; i < range->kept_count; i++) {
        struct result_record record;
        chain_read(runtime, &cursor, &record, sizeof record);
        if (record.offset > offset)
            return 0;
        if (record.offset < offset) {
            chain_read(runtime, &cursor, NULL, record.length_bytes);
            continue;
        }
        uint32_t skip = offset_bytes < record.length_bytes ? offset_bytes : record.length_bytes;
        uint32_t left = record.length_bytes - skip;
        uint32_t copied = left < room_bytes ? left : room_bytes;
        chain_read(runtime, &cursor, NULL, skip);
        chain_read(runtime, &cursor, buffer, copied);
        *ret_record = record;
        *ret_copied = copied;
        return 1;
    }
    return 0;
}

/* ---- check: safe on any bytes ---- */

/* Walks a chain; adds its chunks to *total. */
static const char *chain_check(const struct runtime *runtime, const struct range_record *range,
                               uint64_t *total) {
    uint32_t count = 0, last = 0;
    uint64_t bytes = 0;
    for (uint32_t chunk = range->head_chunk; chunk != 0; chunk = chunk_next(runtime, chunk)) {
        if (chunk > region(runtime)->chunk_high || count == range->chunk_count)
            return "results: chain leaves the pool or its length";
        bytes += RESULT_CHUNK_ROOM;
        last = chunk;
        count++;
    }
    *total += count;
    if (count != range->chunk_count || last != range->tail_chunk ||
        range->head_at > RESULT_CHUNK_ROOM || range->tail_at > RESULT_CHUNK_ROOM ||
        (range->kept_count == 0) != (count == 0))
        return "results: chain and its range differ";
    if (count == 0)
        return NULL;
    uint64_t unused = range->head_at + (RESULT_CHUNK_ROOM - range->tail_at);
    if (bytes < unused)
        return "results: chain ends before it begins";
    bytes -= unused;
    struct chain_cursor cursor = {range->head_chunk, range->head_at};
    uint64_t previous = range->results_from;
    for (uint32_t i = 0; i < range->kept_count; i++) {
        struct result_record record;
        if (bytes < sizeof record)
            return "results: record beyond its chain";
        chain_read(runtime, &cursor, &record, sizeof record);
        bytes -= sizeof record;
        if (record.length_bytes > bytes || record.offset < previous ||
            record.offset >= range->executed || record.code >= MRN_CODE_COUNT)
            return "results: record out of order or of bounds";
        chain_read(runtime, &cursor, NULL, record.length_bytes);
        bytes -= record.length_bytes;
        previous = (uint64_t)record.offset + 1;
    }
    return bytes == 0 ? NULL : "results: bytes of no record";
}

const char *runtime_results_check(const struct runtime *runtime) {
    const struct region_header *header = region(runtime);
    if (header->chunk_high > runtime->layout.chunk_count ||
        header->chunk_used_count > header->chunk_high)
        return "results: pool counts";
    uint64_t used = 0, kept = 0, free_count = 0;
    for (uint32_t i = 0; i < runtime_table_count(&runtime->ranges); i++) {
        const struct range_record *range =
            (const void *)(runtime_table_at(&runtime->ranges, i) + runtime->ranges.value_at);
        if (range->executed > WIRE_RANGE_OFFSETS || range->low_water > range->executed ||
            range->results_from > range->executed || range->results_from < range->low_water)
            return "ranges: positions";
        const char *broken = chain_check(runtime, range, &used);
        if (broken != NULL)
            return broken;
        kept += range->kept_count;
    }
    if (kept != header->results_kept)
        return "results: their number";
    for (uint32_t chunk = header->chunk_free; chunk != 0; chunk = chunk_next(runtime, chunk))
        if (chunk > header->chunk_high || ++free_count > header->chunk_high)
            return "results: free list leaves the pool";
    if (used != header->chunk_used_count || used + free_count != header->chunk_high)
        return "results: a chunk is lost or held twice";
    return NULL;
}
