/* perf_clock: the clock of a measurement.
 *
 * Real: CLOCK_MONOTONIC. Virtual: moves only when told, so that a run is the same instruction for
 * instruction; the programs of maroon-perf are linked with --wrap=clock_gettime, and then all of
 * maroon sees the virtual time too. Threads: virtual time is for one thread. */
#ifndef MAROON_PERF_CLOCK_H
#define MAROON_PERF_CLOCK_H

#include <stdint.h>

/* ns since an arbitrary start. */
uint64_t perf_clock_ns(void);

/* CPU time of the calling thread, always real. */
uint64_t perf_clock_cpu_ns(void);

/* Time stamp counter and its frequency, measured on the first call (takes 20 ms). */
uint64_t perf_clock_tsc(void);
double perf_clock_tsc_per_ns(void);

/* From now on the clocks stand still at an arbitrary time. */
void perf_clock_make_virtual(void);

/* Moves virtual time; nothing when the clock is real. */
void perf_clock_advance(uint64_t ns);

#endif
