/* perf_histogram: counts of values with a bounded relative error, as HdrHistogram does (Tene): 64
 * equal buckets between two powers of two, so a percentile is at most 1.6 % too high.
 *
 * Threads: one. Ownership: plain memory, zero is empty. No call fails. Values are in ns by custom;
 * the histogram does not care. */
#ifndef MAROON_PERF_HISTOGRAM_H
#define MAROON_PERF_HISTOGRAM_H

#include <stdint.h>

#define PERF_HISTOGRAM_SUB_BITS 6
#define PERF_HISTOGRAM_SUB (1u << PERF_HISTOGRAM_SUB_BITS)
#define PERF_HISTOGRAM_BUCKETS ((64 - PERF_HISTOGRAM_SUB_BITS + 1) * PERF_HISTOGRAM_SUB)

struct perf_histogram {
    uint64_t count, sum, least, greatest;
    uint64_t buckets[PERF_HISTOGRAM_BUCKETS];
};

/* Empties it. */
void perf_histogram_reset(struct perf_histogram *histogram);

/* Counts a value. O(1). */
void perf_histogram_add(struct perf_histogram *histogram, uint64_t value);

/* Adds all of `from` to `into`. */
void perf_histogram_merge(struct perf_histogram *into, const struct perf_histogram *from);

/* The value that `share` (0..1) of all are not above: the upper end of its bucket, at most the
 * greatest value seen; 0 when empty. */
uint64_t perf_histogram_at(const struct perf_histogram *histogram, double share);

#endif
