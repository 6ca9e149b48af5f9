#include <string.h>

#include "runtime/internal.h"

uint64_t runtime_range_place(const struct runtime *runtime, uint64_t range) {
    return runtime_table_find(&runtime->ranges, &range);
}

/* ---- retired ranges ---- */

#define LAST_WORD_MASK ((UINT32_C(1) << (RETIRED_BITS - 64)) - 1) /* above it: the table's link */

/* 0 when there is none. */
static uint64_t retired_place(const struct runtime *runtime, uint64_t range) {
    return range < WIRE_RANGE_COUNT ? runtime_table_find(&runtime->retired, &range) : 0;
}

static struct retired retired_of(const void *entry) {
    struct retired record;
    memcpy(&record, entry, sizeof record);
    record.words[2] &= LAST_WORD_MASK;
    return record;
}

static uint32_t retired_end_at(const struct runtime *runtime, uint64_t place) {
    struct retired record = retired_of(runtime_state_at(&runtime->state, place));
    return retired_end(&record);
}

bool runtime_retired_insert(struct runtime *runtime, const struct retired *record) {
    uint64_t range = retired_range(record);
    uint64_t place = runtime_table_insert(&runtime->retired, &range);
    if (place == 0)
        return false;
    struct retired both; /* its bytes need not lie at a word */
    void *entry = runtime_state_change(&runtime->state, place, sizeof both);
    memcpy(&both, entry, sizeof both);
    both.words[0] = record->words[0];
    both.words[1] = record->words[1];
    both.words[2] = (both.words[2] & ~LAST_WORD_MASK) | record->words[2];
    memcpy(entry, &both, sizeof both);
    return true;
}

const char *runtime_retired_check(const struct runtime *runtime) {
    for (uint32_t i = 0; i < runtime_table_count(&runtime->retired); i++) {
        struct retired record = retired_of(runtime_table_at(&runtime->retired, i));
        if (retired_end(&record) > WIRE_RANGE_OFFSETS)
            return "retired: an end beyond its range";
    }
    return NULL;
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
    struct retired sealed = retired_pack(range, (uint32_t)end, retired_mark(record.owner));
    if (!runtime_retired_insert(runtime, &sealed))
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

static void active_facts(uint64_t range, const struct range_record *record,
                         struct runtime_range_facts *ret_range) {
    *ret_range = (struct runtime_range_facts){.range = range,
                                              .owner = record->owner,
                                              .executed = record->executed,
                                              .low_water = record->low_water,
                                              .results_kept = record->kept_count};
}

static void retired_facts(const void *entry, struct runtime_range_facts *ret_range) {
    struct retired record = retired_of(entry);
    uint32_t end = retired_end(&record);
    *ret_range = (struct runtime_range_facts){.range = retired_range(&record),
                                              .owner = retired_owner_mark(&record),
                                              .executed = end,
                                              .low_water = end,
                                              .retired = true};
}

bool runtime_range_find(const struct runtime *runtime, uint64_t range,
                        struct runtime_range_facts *ret_range) {
    uint64_t place = runtime_range_place(runtime, range);
    if (place != 0) {
        active_facts(range, runtime_state_at(&runtime->state, place), ret_range);
        return true;
    }
    place = retired_place(runtime, range);
    if (place != 0)
        retired_facts(runtime_state_at(&runtime->state, place), ret_range);
    return place != 0;
}

void runtime_ranges(const struct runtime *runtime, runtime_range_callback callback, void *user) {
    struct runtime_range_facts facts;
    for (uint32_t i = 0; i < runtime_table_count(&runtime->ranges); i++) {
        const uint8_t *entry = runtime_table_at(&runtime->ranges, i);
        uint64_t range;
        memcpy(&range, entry, sizeof range);
        active_facts(range, (const void *)(entry + runtime->ranges.value_at), &facts);
        callback(user, &facts);
    }
    for (uint32_t i = 0; i < runtime_table_count(&runtime->retired); i++) {
        retired_facts(runtime_table_at(&runtime->retired, i), &facts);
        callback(user, &facts);
    }
}
