#include "perf/hops.h"

#include "perf/clock.h"

void perf_hops_result(struct perf_hops *hops) {
#ifdef MAROON_PERF_MARKS
    uint64_t at[STAGE_MARK_COUNT];
    stage_mark(STAGE_MARK_RESULT);
    if (!stage_marks_read(at))
        return;
    for (uint32_t i = 1; i < STAGE_MARK_COUNT; i++)
        if (at[i] >= at[i - 1])
            perf_histogram_add(&hops->hops[i],
                               (uint64_t)((double)(at[i] - at[i - 1]) / perf_clock_tsc_per_ns()));
#else
    (void)hops;
#endif
}

json_t *perf_hops_table(const struct perf_hops *hops) {
    static const char *const names[] = {STAGE_MARK_NAMES};
    json_t *table = json_array();
    for (uint32_t i = 1; i < STAGE_MARK_COUNT; i++) {
        const struct perf_histogram *h = &hops->hops[i];
        if (h->count)
            json_array_append_new(table, json_pack("{ss sI sI sf}", "hop", names[i], "p50_ns",
                                                   (json_int_t)perf_histogram_at(h, 0.5), "p99_ns",
                                                   (json_int_t)perf_histogram_at(h, 0.99),
                                                   "mean_ns", (double)h->sum / (double)h->count));
    }
    return table;
}
