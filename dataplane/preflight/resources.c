#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/preflight/internal.h"
#include "hugepages/need.h"
#include "hugepages/pages.h"

#define CAPABILITY_NET_ADMIN 12
#define CAPABILITY_NET_RAW 13
#define OPEN_FILES_LEAST 1024
#define LOCKED_SPARE_KB 8192 /* io_uring, and what libraries lock */

/* ---- port ---- */

static bool may(const struct preflight *p, uint32_t capability) {
    char text[8192];
    if (system_read(p->system, text, sizeof text, "proc/self/status"))
        return false;
    const char *at = strstr(text, "CapEff:");
    return at && strtoull(at + strlen("CapEff:"), NULL, 16) >> capability & 1;
}

static void port_pci(struct preflight *p) {
    const char *device = p->config->interface;
    char driver[64] = "none";
    if (!system_exists(p->system, "sys/bus/pci/devices/%s", device)) {
        preflight_say(p, PREFLIGHT_FAIL, "port",
                      "there is no PCI device %s; maroon-nic list shows them", device);
        return;
    }
    (void)system_link(p->system, driver, sizeof driver, "sys/bus/pci/devices/%s/driver", device);
    if (strcmp(driver, "vfio-pci") && strcmp(driver, "uio_pci_generic") &&
        strcmp(driver, "mlx5_core") && strcmp(driver, "mlx4_core"))
        preflight_say(p, PREFLIGHT_FAIL, "port",
                      "%s has driver %s, which DPDK cannot use: maroon-nic bind %s", device, driver,
                      device);
    else
        preflight_say(p, PREFLIGHT_OK, "port", "%s, driver %s", device, driver);
}

static void port_interface(struct preflight *p) {
    const char *name = p->config->interface;
    char state[32] = "?";
    if (!system_exists(p->system, "sys/class/net/%s", name)) {
        preflight_say(p, PREFLIGHT_FAIL, "port", "there is no interface %s", name);
        return;
    }
    (void)system_read(p->system, state, sizeof state, "sys/class/net/%s/operstate", name);
    if (!may(p, CAPABILITY_NET_RAW) || !may(p, CAPABILITY_NET_ADMIN))
        preflight_say(p, PREFLIGHT_FAIL, "port",
                      "%s: fabric %s needs the capabilities NET_RAW and NET_ADMIN "
                      "(AmbientCapabilities= in the unit)",
                      name, config_fabric_name(p->config->fabric));
    else if (!strcmp(state, "down"))
        preflight_say(p, PREFLIGHT_FAIL, "port", "%s is down: ip link set %s up", name, name);
    else
        preflight_say(p, PREFLIGHT_OK, "port", "%s, %s", name, state);
}

static void port_numa(struct preflight *p) {
    const struct config *g = p->config;
    char why[HUGEPAGES_WHY_BYTES];
    struct config only_port = *g, only_cpu = *g;
    bool two = system_exists(p->system, "sys/devices/system/node/node1");
    if (!two) {
        preflight_say(p, PREFLIGHT_OK, "numa", "one NUMA node");
        return;
    }
    only_port.cpu_count = 0;
    uint32_t of_port = hugepages_need_where(&only_port, p->system, why);
    if (strncmp(why, "the port", 8)) {
        preflight_say(p, g->cpu_count ? PREFLIGHT_OK : PREFLIGHT_WARN, "numa",
                      g->cpu_count ? "several NUMA nodes; the port is at none, or says not which"
                                   : "several NUMA nodes, and threads are not pinned: set `cpus`");
        return;
    }
    only_cpu.interface[0] = '\0';
    for (uint32_t i = 0; i < g->cpu_count; i++) {
        only_cpu.cpu[0] = g->cpu[i];
        only_cpu.cpu_count = 1;
        uint32_t of_cpu = hugepages_need_where(&only_cpu, p->system, why);
        if (of_cpu != of_port) {
            preflight_say(p, PREFLIGHT_WARN, "numa",
                          "the port is on NUMA node %" PRIu32 ", CPU %" PRIu32 " on %" PRIu32
                          ": each packet crosses over; take `cpus` from /sys/devices/system/node/"
                          "node%" PRIu32 "/cpulist",
                          of_port, g->cpu[i], of_cpu, of_port);
            return;
        }
    }
    preflight_say(p, g->cpu_count ? PREFLIGHT_OK : PREFLIGHT_WARN, "numa",
                  g->cpu_count ? "port and `cpus` are on NUMA node %" PRIu32
                               : "the port is on NUMA node %" PRIu32 ", threads are not pinned",
                  of_port);
}

void preflight_port(struct preflight *p) {
    switch (p->config->fabric) {
    case CONFIG_FABRIC_PCI: port_pci(p); break;
    case CONFIG_FABRIC_AF_PACKET:
    case CONFIG_FABRIC_AF_XDP: port_interface(p); break;
    case CONFIG_FABRIC_UDP:
    case CONFIG_FABRIC_MEMIF:
    case CONFIG_FABRIC_VIRTIO_USER:
    case CONFIG_FABRIC_VHOST:
        preflight_say(p, PREFLIGHT_OK, "port", "fabric %s needs no device",
                      config_fabric_name(p->config->fabric));
        break;
    }
    port_numa(p);
}

/* ---- memory ---- */

static void pages(struct preflight *p, const struct hugepages_need *need) {
    static const uint32_t sizes[] = {HUGEPAGES_1G_KB, HUGEPAGES_2M_KB};
    const struct config *g = p->config;
    char why[HUGEPAGES_WHY_BYTES];
    struct pages pool = {0};
    uint64_t wanted = hugepages_need_pages(need, HUGEPAGES_2M_KB, 1);
    uint32_t node = hugepages_need_where(g, p->system, why);
    bool there = false;
    if (g->hugepages == CONFIG_HUGEPAGES_OFF) {
        preflight_say(p, g->fabric == CONFIG_FABRIC_PCI ? PREFLIGHT_FAIL : PREFLIGHT_OK,
                      "hugepages",
                      g->fabric == CONFIG_FABRIC_PCI ? "off: fabric pci needs them; hugepages = on"
                                                     : "off by the config");
        return;
    }
    for (uint32_t i = 0; i < 2; i++) /* auto looks at 2 MiB pages only */
        if ((i == 1 || g->hugepages == CONFIG_HUGEPAGES_ON) &&
            !pages_read(p->system, node, sizes[i], &pool) &&
            pool.free >= hugepages_need_pages(need, sizes[i], 1)) {
            there = true;
            break;
        }
    bool insists = g->hugepages == CONFIG_HUGEPAGES_ON || g->fabric == CONFIG_FABRIC_PCI;
    if (there)
        preflight_say(p, PREFLIGHT_OK, "hugepages",
                      "%" PRIu64 " of %" PRIu32 " MiB are free on NUMA node %" PRIu32, pool.free,
                      pool.size_kb >> 10, node);
    else
        preflight_say(p,
                      insists                                           ? PREFLIGHT_FAIL
                      : g->poll == CONFIG_POLL_BUSY || g->cpu_count > 0 ? PREFLIGHT_WARN
                                                                        : PREFLIGHT_OK,
                      "hugepages",
                      "%" PRIu64 " pages of 2 MiB are wanted on NUMA node %" PRIu32 ", %" PRIu64
                      " are free%s: maroon-hugepages reserve",
                      wanted, node, pool.size_kb == HUGEPAGES_2M_KB ? pool.free : 0,
                      insists ? "" : "; it runs without");
}

void preflight_memory(struct preflight *p) {
    struct hugepages_need need;
    char text[NET_TEXT_BYTES > 8192 ? NET_TEXT_BYTES : 8192];
    uint64_t available_kb = 0;
    if (hugepages_need(p->config, &need, text)) {
        preflight_say(p, PREFLIGHT_FAIL, "hugepages", "%.300s", text);
        return;
    }
    pages(p, &need);
    uint64_t most_mb = (need.stage.most_bytes >> 20) + need.heap_mb + 32;
    if (!system_read(p->system, text, sizeof text, "proc/meminfo"))
        (void)system_field(text, "MemAvailable:", &available_kb);
    if (available_kb >> 10 < most_mb)
        preflight_say(p, PREFLIGHT_WARN, "memory",
                      "%" PRIu64 " MiB are available, the config may take %" PRIu64
                      " MiB: make body-slots or state-bytes smaller (maroon-hugepages plan)",
                      available_kb >> 10, most_mb);
    else
        preflight_say(p, PREFLIGHT_OK, "memory",
                      "%" PRIu64 " MiB are available, the config takes at most %" PRIu64 " MiB",
                      available_kb >> 10, most_mb);
}

/* ---- limits ---- */

/* The soft limit of a row of /proc/self/limits. UINT64_MAX: unlimited. */
static bool limit(const char *text, const char *row, uint64_t *ret_limit) {
    const char *at = strstr(text, row);
    if (!at)
        return false;
    at += strlen(row);
    at += strspn(at, " ");
    *ret_limit = strncmp(at, "unlimited", 9) ? strtoull(at, NULL, 10) : UINT64_MAX;
    return true;
}

void preflight_limits(struct preflight *p) {
    const struct config *g = p->config;
    struct hugepages_need need;
    char text[8192], sentence[NET_TEXT_BYTES];
    uint64_t locked, files;
    if (system_read(p->system, text, sizeof text, "proc/self/limits") ||
        !limit(text, "Max locked memory", &locked) || !limit(text, "Max open files", &files) ||
        hugepages_need(g, &need, sentence)) {
        preflight_say(p, PREFLIGHT_WARN, "limits", "/proc/self/limits does not say them");
        return;
    }
    /* vfio pins the whole heap for the device. */
    uint64_t wanted_kb = g->fabric == CONFIG_FABRIC_UDP && g->durability == CONFIG_DURABILITY_MEMORY
                             ? 0
                             : need.net.kernel_bytes / 1024 + LOCKED_SPARE_KB;
    if (g->fabric == CONFIG_FABRIC_PCI)
        wanted_kb += (uint64_t)need.heap_mb << 10;
    if (locked / 1024 < wanted_kb)
        preflight_say(p, g->fabric == CONFIG_FABRIC_PCI ? PREFLIGHT_FAIL : PREFLIGHT_WARN,
                      "memlock",
                      "%" PRIu64 " KiB may be locked, %" PRIu64
                      " KiB are wanted: ulimit -l unlimited, LimitMEMLOCK=infinity",
                      locked / 1024, wanted_kb);
    else
        preflight_say(p, PREFLIGHT_OK, "memlock", "enough (%" PRIu64 " KiB are wanted)", wanted_kb);
    preflight_say(p, files < OPEN_FILES_LEAST ? PREFLIGHT_WARN : PREFLIGHT_OK, "nofile",
                  files < OPEN_FILES_LEAST ? "%" PRIu64 " open files: ulimit -n 65536, LimitNOFILE="
                                           : "%" PRIu64 " open files",
                  files);
}
