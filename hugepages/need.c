#include "hugepages/need.h"

#include <inttypes.h>
#include <string.h>

#include "dataplane/net/from_config.h"

#define NUMA_NODES_MAX 64

int hugepages_need(const struct config *g, struct hugepages_need *ret_need, char *ret_error) {
    static struct net_config c;
    net_from_config(g, &c);
    int error = net_config_check(&c, ret_error);
    if (error)
        return error;
    memset(ret_need, 0, sizeof *ret_need);
    net_memory_plan(&c, &ret_need->net);
    if (g->program == CONFIG_NODE)
        stage_memory_plan(g, &ret_need->stage);
    ret_need->heap_given = g->memory_mb != 0;
    ret_need->heap_mb = g->memory_mb ? g->memory_mb : ret_need->net.memory_mb;
    return 0;
}

uint64_t hugepages_need_pages(const struct hugepages_need *need, uint32_t size_kb,
                              uint32_t processes) {
    uint64_t heap_kb = (uint64_t)need->heap_mb << 10;
    uint64_t one = (heap_kb + size_kb - 1) / size_kb + (size_kb == HUGEPAGES_2M_KB);
    return one * processes;
}

/* The NUMA node whose list of CPUs has `cpu`; -1 when none says so. */
static int64_t node_of_cpu(const struct system *s, uint32_t cpu) {
    char list[1024];
    struct system_cpus cpus;
    for (uint32_t node = 0; node < NUMA_NODES_MAX; node++)
        if (!system_read(s, list, sizeof list, "sys/devices/system/node/node%u/cpulist", node) &&
            !system_cpus_parse(list, &cpus) && system_cpus_has(&cpus, cpu))
            return node;
    return -1;
}

uint32_t hugepages_need_where(const struct config *g, const struct system *s, char *ret_why) {
    int64_t node = -1;
    if (g->fabric == CONFIG_FABRIC_PCI)
        (void)system_number(s, &node, "sys/bus/pci/devices/%s/numa_node", g->interface);
    else if (g->interface[0])
        (void)system_number(s, &node, "sys/class/net/%s/device/numa_node", g->interface);
    if (node >= 0) {
        snprintf(ret_why, HUGEPAGES_WHY_BYTES, "the port %s is there", g->interface);
        return (uint32_t)node;
    }
    if (g->cpu_count && (node = node_of_cpu(s, g->cpu[0])) >= 0) {
        snprintf(ret_why, HUGEPAGES_WHY_BYTES, "CPU %" PRIu32 ", the first of `cpus`, is there",
                 g->cpu[0]);
        return (uint32_t)node;
    }
    snprintf(ret_why, HUGEPAGES_WHY_BYTES, "neither the port nor `cpus` names another");
    return 0;
}

static void line(FILE *out, const char *what, uint64_t bytes, const char *how) {
    fprintf(out, "  %-22s %9.1f MiB   %s\n", what, (double)bytes / (1 << 20), how);
}

static void print_ordinary(const struct hugepages_need *need, FILE *out) {
    const struct stage_memory *m = &need->stage;
    if (!m->most_bytes)
        return;
    fputs("ordinary memory, at most, of each process (not in hugepages):\n", out);
    stage_memory_print(m, "  ", out);
    if (need->net.kernel_bytes)
        line(out, "kernel", need->net.kernel_bytes, "af_packet's rings, locked");
}

void hugepages_need_print(const struct config *g, const struct hugepages_need *need,
                          uint32_t processes, FILE *out) {
    const struct net_memory *m = &need->net;
    char how[160];
    fprintf(out, "%s, fabric %s, config %s:\nDPDK's heap of each process:\n",
            config_program_name(g->program), config_fabric_name(g->fabric),
            g->config_file[0] ? g->config_file : "none");
    snprintf(how, sizeof how,
             "%" PRIu32 " buffers x %" PRIu32 " bytes x 2 (room for one to a page)", m->mbuf_count,
             m->mbuf_bytes);
    line(out, "packet buffers", m->pool_bytes, how);
    line(out, "rings between threads", m->rings_bytes, "stages of one thread need none");
    line(out, "other", m->other_bytes, "");
    line(out, "EAL and drivers", m->slack_bytes, "fixed");
    if (need->heap_given)
        snprintf(how, sizeof how, "memory-mb = %" PRIu32 " goes over the sum of %" PRIu32,
                 need->heap_mb, m->memory_mb);
    else
        snprintf(how, sizeof how, "the sum, rounded up");
    line(out, "heap", (uint64_t)need->heap_mb << 20, how);
    print_ordinary(need, out);
    fprintf(out,
            "pages for %" PRIu32 " process%s, of one size or the other:\n"
            "  2 MiB: (%" PRIu32 " / 2, rounded up, + 1 to try with) x %" PRIu32 " = %" PRIu64 "\n"
            "  1 GiB: (%" PRIu32 " / 1024, rounded up) x %" PRIu32 " = %" PRIu64
            "   (for hugepages = on; auto looks for 2 MiB pages)\n",
            processes, processes == 1 ? "" : "es", need->heap_mb, processes,
            hugepages_need_pages(need, HUGEPAGES_2M_KB, processes), need->heap_mb, processes,
            hugepages_need_pages(need, HUGEPAGES_1G_KB, processes));
}
