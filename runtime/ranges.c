#include <assert.h>
#include <string.h>

#include "runtime/internal.h"

uint64_t runtime_range_place(const struct runtime *runtime, uint64_t range) {
    return runtime_table_find(&runtime->ranges, &range);
}

/* A range that was sealed goes on at its end; the owner of an open range does not change. */
static int range_open(struct runtime *runtime, uint64_t range, uint64_t owner) {
    if (runtime_range_place(runtime, range) != 0) {
        runtime->counters.controls_ignored++;
        return 0;
    }
    uint32_t start = 0;
    uint64_t retired = runtime_table_find(&runtime->retired, &range);
    if (retired != 0)
        start = *(const uint32_t *)runtime_state_at(&runtime->state, retired);
    uint64_t place = runtime_table_insert(&runtime->ranges, &range);
    if (place == 0)
        return MRN_ERR_FULL;
    if (retired != 0)
        runtime_table_erase(&runtime->retired, &range);
    struct range_record *record = runtime_state_change(&runtime->state, place, sizeof *record);
    record->owner = owner;
    record->executed = record->low_water = record->results_from = start;
    return 0;
}

static int range_seal(struct runtime *runtime, uint64_t range, uint64_t end) {
    if (end > WIRE_RANGE_OFFSETS)
        return MRN_ERR_MISMATCH;
    uint64_t place = runtime_range_place(runtime, range);
    uint64_t retired = runtime_table_find(&runtime->retired, &range);
    if (place == 0 && retired != 0) { /* sealed before */
        runtime->counters.controls_ignored++;
        return *(const uint32_t *)runtime_state_at(&runtime->state, retired) == end
                   ? 0
                   : MRN_ERR_MISMATCH;
    }
    uint32_t executed = 0; /* of a range that was granted, and sealed before it was opened */
    if (place != 0)
        executed =
            ((const struct range_record *)runtime_state_at(&runtime->state, place))->executed;
    if (executed != end)
        return MRN_ERR_MISMATCH;
    retired = runtime_table_insert(&runtime->retired, &range);
    if (retired == 0)
        return MRN_ERR_FULL;
    *(uint32_t *)runtime_state_change(&runtime->state, retired, sizeof(uint32_t)) = (uint32_t)end;
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
    uint32_t end = *(const uint32_t *)runtime_state_at(&runtime->state, place);
    *ret_range = (struct runtime_range_facts){
        .range = range, .executed = end, .low_water = end, .retired = true};
}

bool runtime_range_find(const struct runtime *runtime, uint64_t range,
                        struct runtime_range_facts *ret_range) {
    uint64_t place = runtime_range_place(runtime, range);
    if (place != 0) {
        active_facts(runtime, range, place, ret_range);
        return true;
    }
    place = runtime_table_find(&runtime->retired, &range);
    if (place != 0)
        retired_facts(runtime, range, place, ret_range);
    return place != 0;
}

void runtime_ranges(const struct runtime *runtime, runtime_range_callback callback, void *user) {
    const struct table *tables[] = {&runtime->ranges, &runtime->retired};
    for (uint32_t t = 0; t < 2; t++)
        for (uint32_t i = 0; i < runtime_table_count(tables[t]); i++) {
            struct runtime_range_facts facts;
            uint64_t range;
            memcpy(&range, runtime_table_at(tables[t], i), sizeof range);
            bool found = runtime_range_find(runtime, range, &facts);
            assert(found);
            (void)found;
            callback(user, &facts);
        }
}
