/* perf_stalls: how long the measuring thread's own passes took while it measured, and what kept it:
 * so a late transaction can be told from a slow one.
 *
 * A pass over PERF_STALL_NS is a stall. Of a stall, `away` is the time in which the kernel had the
 * core do something else (wall time without CPU time of the thread), the rest is our own work; page
 * faults in it are counted. The kernel is asked in a stall and every 64th pass: time away in passes
 * shorter than that may be put down to the stall that follows.
 *
 * Threads: the measuring one's. */
#ifndef MAROON_PERF_STALLS_H
#define MAROON_PERF_STALLS_H

#include <jansson.h>
#include <stdint.h>

#define PERF_STALL_NS 50000u

struct perf_stalls {
    uint64_t start_ns, at_ns; /* of the first and the last pass */
    uint64_t read_ns, cpu_ns; /* when the kernel was asked last, and what it said */
    uint64_t faults;          /* of the thread, then */
    uint32_t passes_since_read;
    uint64_t count, stalled_ns, away_ns; /* of all stalls */
    uint64_t over_ms_count;
    uint64_t longest_ns, longest_away_ns, longest_faults, longest_at_ns; /* at: since the start */
};

void perf_stalls_begin(struct perf_stalls *stalls, uint64_t now_ns);

/* Another pass begins: what lies between this call and the last one was one. */
void perf_stalls_pass(struct perf_stalls *stalls, uint64_t now_ns);

/* {"count", "stalled_percent", "away_percent" (of the time measured), "over_1_ms", "longest_ns",
 * "longest_away_ns", "longest_faults", "longest_at_ns"}. */
json_t *perf_stalls_json(const struct perf_stalls *stalls);

#endif
