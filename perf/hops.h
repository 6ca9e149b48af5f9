/* perf_hops: where the time of a transaction goes, hop by hop, from the marks of a measuring build
 * (dataplane/stages/marks.h). In other builds it counts nothing.
 *
 * Threads: one. One transaction is watched at a time, also under load; then the next. */
#ifndef MAROON_PERF_HOPS_H
#define MAROON_PERF_HOPS_H

#include <jansson.h>

#include "dataplane/stages/marks.h"
#include "perf/histogram.h"

#define PERF_HOPS_TICKETS 8192

struct perf_hops {
    uint64_t submitted_tsc[PERF_HOPS_TICKETS];    /* by ticket */
    uint64_t armed_tsc, answered;                 /* the greatest id */
    struct perf_histogram hops[STAGE_MARK_COUNT]; /* ns since the mark before; [0] unused */
};

/* Transaction `ticket` is submitted. */
void perf_hops_submit(struct perf_hops *hops, uint32_t ticket);

/* Its result is here: counts its hops if it is the one watched, and watches the next. */
void perf_hops_result(struct perf_hops *hops, uint32_t ticket, uint64_t id);

/* [{"hop", "p50_ns", "p99_ns", "mean_ns"} ...]; empty without marks. */
json_t *perf_hops_table(const struct perf_hops *hops);

#endif
