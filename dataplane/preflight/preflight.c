#include "dataplane/preflight/preflight.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/preflight/internal.h"

void preflight_say(struct preflight *p, enum preflight_level level, const char *subject,
                   const char *format, ...) {
    static const char *const words[] = {"ok", "warn", "fail"};
    unsigned *const counts[] = {&p->counts.ok, &p->counts.warn, &p->counts.fail};
    va_list arguments;
    fprintf(p->out, "%-4s  %-13s ", words[level], subject);
    va_start(arguments, format);
    vfprintf(p->out, format, arguments);
    va_end(arguments);
    fputc('\n', p->out);
    ++*counts[level];
}

/* "2,3" */
static void append(char *list, size_t room, uint32_t number) {
    size_t at = strlen(list);
    snprintf(list + at, room - at, "%s%" PRIu32, at ? "," : "", number);
}

static bool busy(const struct preflight *p) {
    return p->config->poll == CONFIG_POLL_BUSY;
}

/* ---- CPUs ---- */

static uint32_t thread_count(const struct config *g) {
    const uint32_t of[] = {g->lcore_ingress, g->lcore_gossip, g->lcore_fetch, g->lcore_execute};
    uint32_t bits = 0;
    for (uint32_t i = 0; i < 4; i++)
        bits |= 1u << of[i];
    return (uint32_t)__builtin_popcount(bits);
}

static void pinning(struct preflight *p) {
    const struct config *g = p->config;
    char text[8192], bad[128] = "", *list;
    struct system_cpus allowed;
    if (g->cpu_count == 0) {
        preflight_say(p, busy(p) ? PREFLIGHT_WARN : PREFLIGHT_OK, "cpus",
                      busy(p) ? "%" PRIu32
                                " busy threads are not pinned; set `cpus` to as many CPUs"
                              : "%" PRIu32 " threads, not pinned: fine with poll = adaptive",
                      thread_count(g));
        return;
    }
    if (g->cpu_count < thread_count(g)) {
        preflight_say(p, PREFLIGHT_WARN, "cpus",
                      "%" PRIu32 " CPUs for %" PRIu32
                      " threads: the last ones are not pinned; name "
                      "more in `cpus`",
                      g->cpu_count, thread_count(g));
        return;
    }
    if (system_read(p->system, text, sizeof text, "proc/self/status") ||
        (list = strstr(text, "Cpus_allowed_list:")) == NULL) {
        preflight_say(p, PREFLIGHT_WARN, "cpus",
                      "/proc/self/status does not say which are allowed");
        return;
    }
    list += strlen("Cpus_allowed_list:");
    list += strspn(list, " \t");
    list[strcspn(list, "\n")] = '\0';
    if (system_cpus_parse(list, &allowed)) {
        preflight_say(p, PREFLIGHT_WARN, "cpus", "\"%.80s\" is no list of CPUs", list);
        return;
    }
    for (uint32_t i = 0; i < g->cpu_count; i++)
        if (!system_cpus_has(&allowed, g->cpu[i]))
            append(bad, sizeof bad, g->cpu[i]);
    if (bad[0])
        preflight_say(p, PREFLIGHT_FAIL, "cpus",
                      "CPU %s: this process may not run there (allowed: %.80s); change `cpus`, or "
                      "taskset, CPUAffinity= or the container's cpuset",
                      bad, list);
    else
        preflight_say(p, PREFLIGHT_OK, "cpus", "%s: allowed", g->cpus);
}

static void isolation(struct preflight *p) {
    const struct config *g = p->config;
    char isolated_text[1024] = "", quiet_text[1024] = "", bad[128] = "";
    struct system_cpus isolated = {.count = 0}, quiet = {.count = 0};
    (void)system_read(p->system, isolated_text, sizeof isolated_text,
                      "sys/devices/system/cpu/isolated");
    (void)system_read(p->system, quiet_text, sizeof quiet_text, "sys/devices/system/cpu/nohz_full");
    (void)system_cpus_parse(isolated_text, &isolated);
    (void)system_cpus_parse(quiet_text, &quiet); /* "(null)" where there are none */
    if (g->cpu_count == 0) {
        preflight_say(p, busy(p) ? PREFLIGHT_WARN : PREFLIGHT_OK, "isolcpus",
                      busy(p) ? "no `cpus` are set that could be isolated"
                              : "nothing is pinned, so nothing needs to be isolated");
        return;
    }
    for (uint32_t i = 0; i < g->cpu_count; i++)
        if (!system_cpus_has(&isolated, g->cpu[i]) || !system_cpus_has(&quiet, g->cpu[i]))
            append(bad, sizeof bad, g->cpu[i]);
    if (bad[0])
        preflight_say(
            p, PREFLIGHT_WARN, "isolcpus",
            "CPU %s: others are scheduled there, or its tick goes on; kernel command line: "
            "isolcpus=%s nohz_full=%s rcu_nocbs=%s",
            bad, g->cpus, g->cpus, g->cpus);
    else
        preflight_say(p, PREFLIGHT_OK, "isolcpus", "%s: isolated and without tick", g->cpus);
}

static void governor(struct preflight *p) {
    const struct config *g = p->config;
    char text[64], bad[256] = "", kind[64] = "";
    uint32_t seen = 0;
    for (uint32_t i = 0; i < (g->cpu_count ? g->cpu_count : SYSTEM_CPUS_MAX); i++) {
        uint32_t cpu = g->cpu_count ? g->cpu[i] : i;
        if (!system_exists(p->system, "sys/devices/system/cpu/cpu%" PRIu32, cpu))
            continue;
        if (system_read(p->system, text, sizeof text,
                        "sys/devices/system/cpu/cpu%" PRIu32 "/cpufreq/scaling_governor", cpu))
            continue;
        seen++;
        if (strcmp(text, "performance")) {
            append(bad, sizeof bad, cpu);
            snprintf(kind, sizeof kind, "%.60s", text);
        }
    }
    if (bad[0])
        preflight_say(p, PREFLIGHT_WARN, "governor",
                      "CPU %s: %s; clocks rise late: cpupower frequency-set -g performance", bad,
                      kind);
    else if (seen)
        preflight_say(p, PREFLIGHT_OK, "governor", "performance");
    else
        preflight_say(p, PREFLIGHT_OK, "governor", "the kernel does not scale frequencies here");
}

static void hyper_threads(struct preflight *p) {
    const struct config *g = p->config;
    char text[256], bad[256] = "";
    struct system_cpus siblings;
    int64_t active = 0;
    if (g->cpu_count == 0) {
        (void)system_number(p->system, &active, "sys/devices/system/cpu/smt/active");
        preflight_say(p, active && busy(p) ? PREFLIGHT_WARN : PREFLIGHT_OK, "hyper-threads",
                      !active   ? "off, or the CPU has none"
                      : busy(p) ? "on; pin threads to CPUs of different cores with `cpus`"
                                : "on; nothing is pinned");
        return;
    }
    for (uint32_t i = 0; i < g->cpu_count; i++) {
        if (system_read(p->system, text, sizeof text,
                        "sys/devices/system/cpu/cpu%" PRIu32 "/topology/thread_siblings_list",
                        g->cpu[i]) ||
            system_cpus_parse(text, &siblings) || siblings.count < 2)
            continue;
        size_t at = strlen(bad);
        snprintf(bad + at, sizeof bad - at, "%s%.32s", at ? "; " : "", text);
    }
    if (bad[0])
        preflight_say(p, PREFLIGHT_WARN, "hyper-threads",
                      "cores shared with another thread: %s; take the others offline (echo 0 > "
                      "/sys/devices/system/cpu/cpuN/online), or switch SMT off",
                      bad);
    else
        preflight_say(p, PREFLIGHT_OK, "hyper-threads", "each CPU of `cpus` has its core alone");
}

/* Interrupts that may come to a pinned CPU. */
static void interrupts(struct preflight *p) {
    const struct config *g = p->config;
    char path[SYSTEM_PATH_BYTES], text[1024], bad[128] = "";
    struct system_cpus cpus;
    uint32_t count = 0;
    if (g->cpu_count == 0) {
        preflight_say(p, PREFLIGHT_OK, "interrupts", "nothing is pinned");
        return;
    }
    DIR *directory = opendir(system_path(p->system, path, "proc/irq"));
    if (!directory) {
        preflight_say(p, PREFLIGHT_WARN, "interrupts", "/proc/irq cannot be read");
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        uint32_t number = (uint32_t)strtoul(entry->d_name, NULL, 10);
        bool hit = false;
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9' ||
            (system_read(p->system, text, sizeof text,
                         "proc/irq/%" PRIu32 "/effective_affinity_list", number) &&
             system_read(p->system, text, sizeof text, "proc/irq/%" PRIu32 "/smp_affinity_list",
                         number)) ||
            system_cpus_parse(text, &cpus))
            continue;
        for (uint32_t i = 0; i < g->cpu_count; i++)
            hit |= system_cpus_has(&cpus, g->cpu[i]);
        count += hit;
        if (hit && count <= 12)
            append(bad, sizeof bad, number);
    }
    closedir(directory);
    if (count)
        preflight_say(p, PREFLIGHT_WARN, "interrupts",
                      "%" PRIu32 " come to CPU %s (%s%s); write other CPUs to "
                      "/proc/irq/N/smp_affinity_list, and stop irqbalance or ban these CPUs in it",
                      count, g->cpus, bad, count > 12 ? ",..." : "");
    else
        preflight_say(p, PREFLIGHT_OK, "interrupts", "none comes to CPU %s", g->cpus);
}

static void clock_source(struct preflight *p) {
    char text[64];
    if (system_read(p->system, text, sizeof text,
                    "sys/devices/system/clocksource/clocksource0/current_clocksource"))
        preflight_say(p, PREFLIGHT_WARN, "clock source", "the kernel does not say which it uses");
    else if (strcmp(text, "tsc") && strcmp(text, "arch_sys_counter") && strcmp(text, "kvm-clock"))
        preflight_say(p, PREFLIGHT_WARN, "clock source",
                      "%s: each look at the clock is a system call; kernel command line: "
                      "clocksource=tsc tsc=reliable, if the machine's TSC is",
                      text);
    else
        preflight_say(p, PREFLIGHT_OK, "clock source", "%s", text);
}

struct preflight_counts preflight(const struct config *config, const struct system *system,
                                  FILE *out) {
    struct preflight p = {.config = config, .system = system, .out = out};
    pinning(&p);
    isolation(&p);
    governor(&p);
    hyper_threads(&p);
    interrupts(&p);
    clock_source(&p);
    preflight_port(&p);
    preflight_memory(&p);
    preflight_limits(&p);
    fprintf(out, "%u ok, %u warn, %u fail\n", p.counts.ok, p.counts.warn, p.counts.fail);
    return p.counts;
}
