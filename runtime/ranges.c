#include <assert.h>
#include <string.h>

#include "proto/retired.h"
#include "runtime/internal.h"

uint64_t runtime_range_place(const struct runtime *runtime, uint64_t range) {
    return runtime_table_find(&runtime->ranges, &range);
}

/* ---- retired ranges ---- */

struct retired_key {
    uint8_t bytes[8]; /* RETIRED_KEY_BYTES of them */
};

static struct retired_key key_of(uint64_t range) {
    struct retired_key key;
    memcpy(key.bytes, &range, sizeof key.bytes);
    return key;
}

static uint64_t retired_place(const struct runtime *runtime, uint64_t range) {
    struct retired_key key = key_of(range);
    return runtime_table_find(&runtime->retired, key.bytes);
}

static uint32_t retired_end_at(const struct runtime *runtime, uint64_t place) {
    return *(const uint32_t *)runtime_state_at(&runtime->state, place);
}

/* The three bytes before the value. */
static uint32_t retired_mark_at(const struct runtime *runtime, uint64_t place) {
    const uint8_t *at = runtime_state_at(&runtime->state, place - 3);
    return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16;
}

static bool retired_insert(struct runtime *runtime, uint64_t range, uint32_t end, uint32_t mark) {
    struct retired_key key = key_of(range);
    uint64_t place = runtime_table_insert(&runtime->retired, key.bytes);
    if (place == 0)
        return false;
    const uint8_t bytes[] = {(uint8_t)mark, (uint8_t)(mark >> 8), (uint8_t)(mark >> 16)};
    memcpy(runtime_state_change(&runtime->state, place - 3, sizeof bytes), bytes, sizeof bytes);
    *(uint32_t *)runtime_state_change(&runtime->state, place, sizeof(uint32_t)) = end;
    return true;
}

static void retired_erase(struct runtime *runtime, uint64_t range) {
    struct retired_key key = key_of(range);
    runtime_table_erase(&runtime->retired, key.bytes);
}

/* ---- controls ---- */

/* A range that was sealed goes on at its end; the owner of an open range does not change. */
static int range_open(struct runtime *runtime, uint64_t range, uint64_t owner) {
    if (runtime_range_place(runtime, range) != 0) {
        runtime->counters.controls_ignored++;
        return 0;
    }
    uint32_t start = 0;
    uint64_t retired = retired_place(runtime, range);
    if (retired != 0)
        start = retired_end_at(runtime, retired);
    uint64_t place = runtime_table_insert(&runtime->ranges, &range);
    if (place == 0)
        return MRN_ERR_FULL;
    if (retired != 0)
        retired_erase(runtime, range);
    struct range_record *record = runtime_state_change(&runtime->state, place, sizeof *record);
    record->owner = owner;
    record->executed = record->low_water = record->results_from = start;
    return 0;
}

static int range_seal(struct runtime *runtime, uint64_t range, uint64_t end) {
    if (end > WIRE_RANGE_OFFSETS)
        return MRN_ERR_MISMATCH;
    uint64_t place = runtime_range_place(runtime, range);
    uint64_t retired = retired_place(runtime, range);
    if (place == 0 && retired != 0) { /* sealed before */
        runtime->counters.controls_ignored++;
        return retired_end_at(runtime, retired) == end ? 0 : MRN_ERR_MISMATCH;
    }
    struct range_record record = {0}; /* granted, and sealed before it was opened */
    if (place != 0)
        record = *(const struct range_record *)runtime_state_at(&runtime->state, place);
    if (record.executed != end)
        return MRN_ERR_MISMATCH;
    if (!retired_insert(runtime, range, (uint32_t)end, retired_mark(record.owner)))
        return MRN_ERR_FULL;
    if (place != 0) {
        runtime_results_drop_all(runtime, place);
        runtime_table_erase(&runtime->ranges, &range);
    }
    return 0;
}

int runtime_range_control(struct runtime *runtime, const struct wire_control *control) {
    if (control->range >= WIRE_RANGE_COUNT)
        return MRN_ERR_INVALID;
    if (control->kind == WIRE_CONTROL_OPEN)
        return range_open(runtime, control->range, control->value);
    if (control->kind == WIRE_CONTROL_SEAL)
        return range_seal(runtime, control->range, control->value);
    return MRN_ERR_INVALID;
}

/* ---- reading ---- */

static void active_facts(const struct runtime *runtime, uint64_t range, uint64_t place,
                         struct runtime_range_facts *ret_range) {
    const struct range_record *record = runtime_state_at(&runtime->state, place);
    *ret_range = (struct runtime_range_facts){.range = range,
                                              .owner = record->owner,
                                              .executed = record->executed,
                                              .low_water = record->low_water,
                                              .results_kept = record->kept_count};
}

static void retired_facts(const struct runtime *runtime, uint64_t range, uint64_t place,
                          struct runtime_range_facts *ret_range) {
    uint32_t end = retired_end_at(runtime, place);
    *ret_range = (struct runtime_range_facts){.range = range,
                                              .owner = retired_mark_at(runtime, place),
                                              .executed = end,
                                              .low_water = end,
                                              .retired = true};
}

bool runtime_range_find(const struct runtime *runtime, uint64_t range,
                        struct runtime_range_facts *ret_range) {
    uint64_t place = runtime_range_place(runtime, range);
    if (place != 0) {
        active_facts(runtime, range, place, ret_range);
        return true;
    }
    place = retired_place(runtime, range);
    if (place != 0)
        retired_facts(runtime, range, place, ret_range);
    return place != 0;
}

void runtime_ranges(const struct runtime *runtime, runtime_range_callback callback, void *user) {
    const struct table *tables[] = {&runtime->ranges, &runtime->retired};
    for (uint32_t t = 0; t < 2; t++)
        for (uint32_t i = 0; i < runtime_table_count(tables[t]); i++) {
            struct runtime_range_facts facts;
            uint64_t range = 0;
            memcpy(&range, runtime_table_at(tables[t], i), tables[t]->key_bytes);
            bool found = runtime_range_find(runtime, range, &facts);
            assert(found);
            (void)found;
            callback(user, &facts);
        }
}
