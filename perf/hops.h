/* perf_hops: where the time of a transaction goes, hop by hop, from the marks of a measuring build
 * (dataplane/stages/marks.h). In other builds it counts nothing.
 *
 * Threads: one. Only with one transaction in flight do the marks belong to it. */
#ifndef MAROON_PERF_HOPS_H
#define MAROON_PERF_HOPS_H

#include <jansson.h>

#include "dataplane/stages/marks.h"
#include "perf/histogram.h"

struct perf_hops {
    struct perf_histogram hops[STAGE_MARK_COUNT]; /* ns since the mark before; [0] unused */
};

/* The result is here: counts the transaction's hops, unless a mark is missing. */
void perf_hops_result(struct perf_hops *hops);

/* [{"hop", "p50_ns", "p99_ns", "mean_ns"} ...]; empty without marks. */
json_t *perf_hops_table(const struct perf_hops *hops);

#endif
