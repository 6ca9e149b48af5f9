#include "perf/histogram.h"

#include <string.h>

void perf_histogram_reset(struct perf_histogram *h) {
    memset(h, 0, sizeof *h);
}

/* Values below 2 * SUB have a bucket each; above, the SUB_BITS after the leading one choose. */
static uint32_t bucket_of(uint64_t value) {
    if (value < 2 * PERF_HISTOGRAM_SUB)
        return (uint32_t)value;
    uint32_t shift = 63 - (uint32_t)__builtin_clzll(value) - PERF_HISTOGRAM_SUB_BITS;
    return shift * PERF_HISTOGRAM_SUB + (uint32_t)(value >> shift);
}

static uint64_t bucket_top(uint32_t bucket) {
    if (bucket < 2 * PERF_HISTOGRAM_SUB)
        return bucket;
    uint32_t shift = bucket / PERF_HISTOGRAM_SUB - 1;
    uint64_t base = bucket % PERF_HISTOGRAM_SUB + PERF_HISTOGRAM_SUB;
    return ((base + 1) << shift) - 1;
}

void perf_histogram_add(struct perf_histogram *h, uint64_t value) {
    h->buckets[bucket_of(value)]++;
    h->least = h->count && h->least < value ? h->least : value;
    h->greatest = h->greatest > value ? h->greatest : value;
    h->count++;
    h->sum += value;
}

void perf_histogram_merge(struct perf_histogram *into, const struct perf_histogram *from) {
    if (!from->count)
        return;
    for (uint32_t i = 0; i < PERF_HISTOGRAM_BUCKETS; i++)
        into->buckets[i] += from->buckets[i];
    into->least = into->count && into->least < from->least ? into->least : from->least;
    into->greatest = into->greatest > from->greatest ? into->greatest : from->greatest;
    into->count += from->count;
    into->sum += from->sum;
}

uint64_t perf_histogram_at(const struct perf_histogram *h, double share) {
    double exact = share * (double)h->count;
    uint64_t wanted = (uint64_t)exact, seen = 0;
    if ((double)wanted < exact || !wanted)
        wanted++;
    for (uint32_t i = 0; i < PERF_HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen >= wanted)
            return bucket_top(i) < h->greatest ? bucket_top(i) : h->greatest;
    }
    return h->greatest;
}
