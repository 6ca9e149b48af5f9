#include "perf/clock.h"

#include <stdbool.h>
#include <time.h>
#if defined(__x86_64__)
#    include <x86intrin.h>
#endif

#define VIRTUAL_START_NS UINT64_C(1000000000000000)

static bool virtual_clock;
static uint64_t virtual_ns = VIRTUAL_START_NS;

int __real_clock_gettime(clockid_t clock, struct timespec *ret_time);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret_time);

int __wrap_clock_gettime(clockid_t clock, struct timespec *ret_time) {
    if (!virtual_clock || clock == CLOCK_THREAD_CPUTIME_ID)
        return __real_clock_gettime(clock, ret_time);
    ret_time->tv_sec = (time_t)(virtual_ns / 1000000000);
    ret_time->tv_nsec = (long)(virtual_ns % 1000000000);
    return 0;
}

static uint64_t read_clock(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

uint64_t perf_clock_ns(void) {
    return read_clock(CLOCK_MONOTONIC);
}

uint64_t perf_clock_cpu_ns(void) {
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t perf_clock_tsc(void) {
#if defined(__x86_64__)
    return __rdtsc();
#else
    return perf_clock_ns();
#endif
}

double perf_clock_tsc_per_ns(void) {
    static double ratio;
    if (ratio > 0)
        return ratio;
    uint64_t ns = perf_clock_ns(), tsc = perf_clock_tsc();
    while (perf_clock_ns() - ns < 20000000)
        ;
    ratio = (double)(perf_clock_tsc() - tsc) / (double)(perf_clock_ns() - ns);
    return ratio;
}

void perf_clock_make_virtual(void) {
    virtual_clock = true;
}

void perf_clock_advance(uint64_t ns) {
    virtual_ns += virtual_clock ? ns : 0;
}
