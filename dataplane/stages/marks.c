#include "dataplane/stages/marks.h"

#ifdef MAROON_PERF_MARKS
#    include <fcntl.h>
#    include <stdio.h>
#    include <stdlib.h>
#    include <sys/mman.h>
#    include <time.h>
#    include <unistd.h>

static struct stage_watch own;
volatile struct stage_watch *stage_watch = &own;

/* Before main: a process that cannot map the file keeps marks of its own, which then never meet. */
__attribute__((constructor)) static void share(void) {
    const char *path = getenv("PERF_MARKS_FILE");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *shared = mmap(NULL, sizeof own, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (shared != MAP_FAILED)
        stage_watch = shared;
}

/* ---- parts of passes ---- */

#    define LONG_NS 100000

static struct { uint64_t count, sum, longest, long_count, long_sum; } parts[STAGE_PART_COUNT];
static double tsc_per_ns;
static uint64_t first_tsc, first_ns, long_tsc;

static uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_RAW, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

__attribute__((constructor)) static void calibrate(void) {
    first_ns = clock_ns();
    first_tsc = __rdtsc();
    while (clock_ns() - first_ns < 2000000)
        ;
    tsc_per_ns = (double)(__rdtsc() - first_tsc) / (double)(clock_ns() - first_ns);
    long_tsc = (uint64_t)(LONG_NS * tsc_per_ns);
}

void stage_part_add(enum stage_part part, uint64_t tsc) {
    parts[part].count++;
    parts[part].sum += tsc;
    if (tsc > parts[part].longest)
        parts[part].longest = tsc;
    if (tsc > long_tsc) {
        parts[part].long_count++;
        parts[part].long_sum += tsc;
    }
}

__attribute__((destructor)) static void say(void) {
    static const char *const names[] = {STAGE_PART_NAMES};
    if (!getenv("PERF_PARTS"))
        return;
    fprintf(stderr, "%-12s %10s %10s %10s %10s %8s %10s\n", "part", "count", "sum ms", "mean ns",
            "longest us", "> 100 us", "in those ms");
    for (uint32_t i = 0; i < STAGE_PART_COUNT; i++)
        if (parts[i].count)
            fprintf(stderr, "%-12s %10lu %10.1f %10.0f %10.1f %8lu %10.1f\n", names[i],
                    parts[i].count, (double)parts[i].sum / tsc_per_ns / 1e6,
                    (double)parts[i].sum / tsc_per_ns / (double)parts[i].count,
                    (double)parts[i].longest / tsc_per_ns / 1e3, parts[i].long_count,
                    (double)parts[i].long_sum / tsc_per_ns / 1e6);
}
#endif
