#include "perf/stalls.h"

#include <string.h>
#include <sys/resource.h>

#include "perf/clock.h"

#define READ_EVERY 64

static uint64_t faults_now(void) {
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) ? 0 : (uint64_t)(usage.ru_minflt + usage.ru_majflt);
}

static void ask_kernel(struct perf_stalls *s, uint64_t now_ns) {
    s->cpu_ns = perf_clock_cpu_ns();
    s->faults = faults_now();
    s->read_ns = now_ns;
    s->passes_since_read = 0;
}

void perf_stalls_begin(struct perf_stalls *s, uint64_t now_ns) {
    memset(s, 0, sizeof *s);
    s->start_ns = s->at_ns = now_ns;
    ask_kernel(s, now_ns);
}

static void stalled(struct perf_stalls *s, uint64_t now_ns) {
    struct perf_stalls before = *s;
    ask_kernel(s, now_ns);
    uint64_t took_ns = now_ns - before.at_ns, wall_ns = now_ns - before.read_ns,
             cpu_ns = s->cpu_ns - before.cpu_ns;
    uint64_t away_ns = wall_ns > cpu_ns ? wall_ns - cpu_ns : 0;
    away_ns = away_ns < took_ns ? away_ns : took_ns;
    s->count++;
    s->stalled_ns += took_ns;
    s->away_ns += away_ns;
    s->over_ms_count += took_ns >= 1000000;
    if (took_ns <= s->longest_ns)
        return;
    s->longest_ns = took_ns;
    s->longest_away_ns = away_ns;
    s->longest_faults = s->faults - before.faults;
    s->longest_at_ns = before.at_ns - s->start_ns;
}

void perf_stalls_pass(struct perf_stalls *s, uint64_t now_ns) {
    if (now_ns - s->at_ns >= PERF_STALL_NS)
        stalled(s, now_ns);
    else if (++s->passes_since_read == READ_EVERY)
        ask_kernel(s, now_ns);
    s->at_ns = now_ns;
}

json_t *perf_stalls_json(const struct perf_stalls *s) {
    double measured_ns = s->at_ns > s->start_ns ? (double)(s->at_ns - s->start_ns) : 1;
    return json_pack("{sI sf sf sI sI sI sI sI}", "count", (json_int_t)s->count, "stalled_percent",
                     (double)s->stalled_ns * 100 / measured_ns, "away_percent",
                     (double)s->away_ns * 100 / measured_ns, "over_1_ms",
                     (json_int_t)s->over_ms_count, "longest_ns", (json_int_t)s->longest_ns,
                     "longest_away_ns", (json_int_t)s->longest_away_ns, "longest_faults",
                     (json_int_t)s->longest_faults, "longest_at_ns", (json_int_t)s->longest_at_ns);
}
