#include "hugepages/pages.h"

#include <inttypes.h>
#include <linux/mman.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <maroon/error.h>

static const char *size_name(uint32_t size_kb) {
    return size_kb == 2048 ? "2 MiB" : size_kb == 1048576 ? "1 GiB" : "other";
}

static void pool_directory(const struct pages *p, char *text, size_t room) {
    if (p->per_node)
        snprintf(text, room,
                 "sys/devices/system/node/node%" PRIu32 "/hugepages/hugepages-%" PRIu32 "kB",
                 p->node, p->size_kb);
    else
        snprintf(text, room, "sys/kernel/mm/hugepages/hugepages-%" PRIu32 "kB", p->size_kb);
}

int pages_read(const struct system *s, uint32_t node, uint32_t size_kb, struct pages *ret_pages) {
    struct pages p = {.node = node, .size_kb = size_kb, .per_node = true};
    char directory[160];
    int64_t total, free;
    p.per_node = system_exists(s, "sys/devices/system/node/node0");
    if (!p.per_node && node)
        return MRN_ERR_NOT_FOUND;
    pool_directory(&p, directory, sizeof directory);
    int error = system_number(s, &total, "%s/nr_hugepages", directory);
    if (!error)
        error = system_number(s, &free, "%s/free_hugepages", directory);
    if (error)
        return error;
    if (total < 0 || free < 0)
        return MRN_ERR_MALFORMED;
    p.total = (uint64_t)total;
    p.free = (uint64_t)free;
    *ret_pages = p;
    return 0;
}

/* Sets the pool's size; *ret_got is what the kernel made of it. */
static int set_total(const struct system *s, const struct pages *p, uint64_t total,
                     uint64_t *ret_got) {
    char directory[160], text[32];
    int64_t got;
    pool_directory(p, directory, sizeof directory);
    snprintf(text, sizeof text, "%" PRIu64 "\n", total);
    int error = system_write(s, text, "%s/nr_hugepages", directory);
    if (!error)
        error = system_number(s, &got, "%s/nr_hugepages", directory);
    if (!error)
        *ret_got = (uint64_t)got;
    return error;
}

/* ---- why not ---- */

struct room {
    uint64_t free_kb, whole_kb; /* free; of that in pieces of a page's size, 0 for 1 GiB */
};

/* "Node 0, zone Normal  4 3 2 ...": free pieces of 4 KiB << column. */
static void buddies(const struct system *s, const struct pages *p, struct room *room) {
    char text[4096], start[32], *rest = text, *row;
    if (system_read(s, text, sizeof text, "proc/buddyinfo"))
        return;
    snprintf(start, sizeof start, "Node %" PRIu32 ",", p->node);
    while ((row = strsep(&rest, "\n")) != NULL) {
        unsigned long long count;
        int used = 0;
        if (strncmp(row, start, strlen(start)) || sscanf(row, "Node %*u, zone %*s%n", &used) < 0)
            continue;
        row += used;
        for (uint32_t order = 0; sscanf(row, "%llu%n", &count, &used) == 1; order++, row += used) {
            room->free_kb += count * (UINT64_C(4) << order);
            room->whole_kb +=
                (UINT64_C(4) << order) >= p->size_kb ? count * (UINT64_C(4) << order) : 0;
        }
    }
}

/* Free memory of the node, and what the kernel could drop from its caches. */
static uint64_t available_kb(const struct system *s, const struct pages *p, uint64_t free_kb) {
    char text[4096];
    uint64_t free = free_kb, active = 0, inactive = 0;
    if (p->per_node && !system_read(s, text, sizeof text,
                                    "sys/devices/system/node/node%" PRIu32 "/meminfo", p->node)) {
        (void)system_field(text, "MemFree:", &free);
        (void)system_field(text, "Active(file):", &active);
        (void)system_field(text, "Inactive(file):", &inactive);
        return free + active + inactive;
    }
    if (!system_read(s, text, sizeof text, "proc/meminfo"))
        (void)system_field(text, "MemAvailable:", &free);
    return free;
}

static void explain(const struct system *s, const struct pages *p, uint64_t count, uint64_t came,
                    char *why) {
    struct room room = {0, 0};
    buddies(s, p, &room);
    uint64_t available = available_kb(s, p, room.free_kb), wanted = count * p->size_kb;
    int at = snprintf(why, PAGES_WHY_BYTES,
                      "NUMA node %" PRIu32 ": %" PRIu64 " more pages of %s were asked for, the "
                      "kernel found %" PRIu64 ". ",
                      p->node, count, size_name(p->size_kb), came);
    if (available < wanted)
        snprintf(why + at, PAGES_WHY_BYTES - (size_t)at,
                 "There is too little memory: %" PRIu64 " MiB are available there, %" PRIu64
                 " MiB were asked for. Make the config smaller (see plan), or end other programs.",
                 available >> 10, wanted >> 10);
    else if (p->size_kb == 2048)
        snprintf(why + at, PAGES_WHY_BYTES - (size_t)at,
                 "Memory is too fragmented: %" PRIu64 " MiB are available, but only %" PRIu64
                 " MiB of the free memory lie in pieces of 2 MiB, and compacting did not help. "
                 "Drop the caches (sysctl vm.drop_caches=3) and try again, or reserve at boot: "
                 "enable maroon-hugepages.service, or hugepages=%" PRIu64
                 " on the kernel's command line.",
                 available >> 10, room.whole_kb >> 10, p->total + count);
    else
        snprintf(
            why + at, PAGES_WHY_BYTES - (size_t)at,
            "Memory is too fragmented: %" PRIu64 " MiB are available, but not in one piece. "
            "Pages of 1 GiB are found at boot only, as a rule: hugepagesz=1G hugepages=%" PRIu64
            " on the kernel's command line; or use --page 2M.",
            available >> 10, p->total + count);
}

/* ---- reserve, release ---- */

int pages_reserve(const struct system *s, const struct pages *p, uint64_t count, char *ret_why) {
    uint64_t got = p->total;
    int error = set_total(s, p, p->total + count, &got);
    if (!error && got < p->total + count) {
        (void)system_write(s, "1\n", "proc/sys/vm/compact_memory");
        error = set_total(s, p, p->total + count, &got);
    }
    if (error) {
        snprintf(ret_why, PAGES_WHY_BYTES, "nr_hugepages of NUMA node %" PRIu32 ": %s%s", p->node,
                 mrn_error_text(error), error == MRN_ERR_DENIED ? "; be root" : "");
        return error;
    }
    if (got >= p->total + count)
        return 0;
    explain(s, p, count, got > p->total ? got - p->total : 0, ret_why);
    (void)set_total(s, p, p->total, &got);
    return MRN_ERR_NO_MEMORY;
}

int pages_release(const struct system *s, const struct pages *p, uint64_t count, char *ret_why) {
    uint64_t got;
    count = count < p->total ? count : p->total;
    if (p->free < count) {
        snprintf(ret_why, PAGES_WHY_BYTES,
                 "NUMA node %" PRIu32 ": %" PRIu64
                 " pages of %s are to be given back, but only %" PRIu64
                 " are free: stop maroon-node (and what else uses them) first",
                 p->node, count, size_name(p->size_kb), p->free);
        return MRN_ERR_FULL;
    }
    int error = set_total(s, p, p->total - count, &got);
    if (error)
        snprintf(ret_why, PAGES_WHY_BYTES, "nr_hugepages of NUMA node %" PRIu32 ": %s%s", p->node,
                 mrn_error_text(error), error == MRN_ERR_DENIED ? "; be root" : "");
    return error;
}

/* In a child: where the pool is empty after all (cgroup, cpuset), the write ends in SIGBUS. */
int pages_try(uint32_t size_kb, uint64_t count) {
    pid_t child = fork();
    if (child < 0)
        return MRN_ERR_NO_MEMORY;
    if (child == 0) {
        size_t bytes = (size_t)size_kb << 10;
        char *at = mmap(NULL, bytes * count, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB |
                            (size_kb == 2048 ? MAP_HUGE_2MB : MAP_HUGE_1GB),
                        -1, 0);
        for (uint64_t i = 0; at != MAP_FAILED && i < count; i++)
            *(volatile char *)(at + i * bytes) = 1;
        _exit(at == MAP_FAILED);
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        ;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : MRN_ERR_NO_MEMORY;
}
