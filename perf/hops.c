#include "perf/hops.h"

#include "perf/clock.h"

#ifdef MAROON_PERF_MARKS
#    define LOST_NS 50000000.0 /* its result does not come: another one */

static void arm(struct perf_hops *hops) {
    stage_watch_arm(hops->answered);
    hops->armed_tsc = __rdtsc();
}

void perf_hops_submit(struct perf_hops *hops, uint32_t ticket) {
    hops->submitted_tsc[ticket] = __rdtsc();
    if (!hops->armed_tsc)
        arm(hops);
}

void perf_hops_result(struct perf_hops *hops, uint32_t ticket, uint64_t id) {
    uint64_t watched = stage_watch->id;
    hops->answered = id > hops->answered ? id : hops->answered;
    stage_watch->above = hops->answered;
    if (watched != id) {
        if ((watched && watched <= hops->answered) ||
            (double)(__rdtsc() - hops->armed_tsc) > LOST_NS * perf_clock_tsc_per_ns())
            arm(hops);
        return;
    }
    stage_watch_mark(STAGE_MARK_RESULT);
    uint64_t at[STAGE_MARK_COUNT] = {hops->submitted_tsc[ticket]};
    bool whole = true;
    for (uint32_t i = 1; i < STAGE_MARK_COUNT; i++) {
        at[i] = stage_watch->at[i];
        whole = whole && at[i] >= at[i - 1];
    }
    for (uint32_t i = 1; whole && i < STAGE_MARK_COUNT; i++)
        perf_histogram_add(&hops->hops[i],
                           (uint64_t)((double)(at[i] - at[i - 1]) / perf_clock_tsc_per_ns()));
    arm(hops);
}
#else
void perf_hops_submit(struct perf_hops *hops, uint32_t ticket) {
    (void)hops, (void)ticket;
}
void perf_hops_result(struct perf_hops *hops, uint32_t ticket, uint64_t id) {
    (void)hops, (void)ticket, (void)id;
}
#endif

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
