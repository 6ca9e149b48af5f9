#include <limits.h>
#include <linux/mman.h>
#include <rte_eal.h>
#include <rte_lcore.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "dataplane/net/internal.h"
#include <maroon/error.h>

static bool started, telemetry;

/* "0@(0,1)": the main lcore floats over the CPUs this process may use. */
static void lcores_argument(char *text, size_t room) {
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    (void)sched_getaffinity(0, sizeof cpus, &cpus);
    size_t at = (size_t)snprintf(text, room, "--lcores=0@(");
    bool first = true;
    for (int i = 0; i < CPU_SETSIZE && at < room; i++)
        if (CPU_ISSET((size_t)i, &cpus)) {
            at += (size_t)snprintf(text + at, room - at, "%s%d", first ? "" : ",", i);
            first = false;
        }
    if (at < room)
        snprintf(text + at, room - at, ")");
}

/* A user's own run-time directory: the shared one belongs to whoever came first. */
static void runtime_dir(void) {
    const char *dir = getenv("XDG_RUNTIME_DIR");
    char own[64];
    if (geteuid() == 0 || (dir && access(dir, W_OK) == 0))
        return;
    snprintf(own, sizeof own, "/tmp/maroon-%u", (unsigned)geteuid());
    if (mkdir(own, 0700) == 0 || access(own, W_OK) == 0)
        setenv("XDG_RUNTIME_DIR", own, 1);
}

/* Are there free pages for all of it? Tried by taking them: a number in a file is not leave. */
static bool hugepages_free(uint32_t memory_mb) {
    size_t bytes = ((size_t)memory_mb << 20) + ((size_t)2 << 20);
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_HUGE_2MB, -1, 0);
    if (at == MAP_FAILED)
        return false;
    munmap(at, bytes);
    return true;
}

/* EAL makes a directory for each process, and leaves it. */
static void runtime_dir_remove(void) {
    const char *dir = rte_eal_get_runtime_dir();
    char socket[PATH_MAX];
    if (!dir || !*dir)
        return;
    snprintf(socket, sizeof socket, "%s/dpdk_telemetry.v2", dir);
    (void)unlink(socket);
    (void)rmdir(dir);
}

static bool net_eal_hugepages(const struct net_eal_config *config) {
    return config->hugepages == NET_HUGEPAGES_ON ||
           (config->hugepages == NET_HUGEPAGES_AUTO &&
            hugepages_free(config->memory_mb ? config->memory_mb : 64));
}

int net_eal_start(const struct net_eal_config *config, char *ret_error) {
    if (started)
        return MRN_ERR_EXISTS;
    char lcores[256], memory[32], prefix[96], pci[64];
    const char *arguments[32] = {"maroon", lcores,        "-m",
                                 memory,   "--no-shconf", "--log-level=*:error"};
    int count = 6;
    lcores_argument(lcores, sizeof lcores);
    snprintf(memory, sizeof memory, "%u", config->memory_mb ? config->memory_mb : 64);
    snprintf(prefix, sizeof prefix, "--file-prefix=%s",
             config->file_prefix ? config->file_prefix : "");
    if (!config->file_prefix)
        snprintf(prefix, sizeof prefix, "--file-prefix=maroon-%d", (int)getpid());
    arguments[count++] = prefix;
    if (!config->telemetry)
        arguments[count++] = "--no-telemetry";
    arguments[count++] = net_eal_hugepages(config) ? "--in-memory" : "--no-huge";
    if (!config->pci)
        arguments[count++] = "--no-pci";
    else if (config->pci_address) {
        snprintf(pci, sizeof pci, "--allow=%s", config->pci_address);
        arguments[count++] = pci;
    }
    for (uint32_t i = 0; i < config->extra_arg_count && count < 31; i++)
        arguments[count++] = config->extra_args[i];
    runtime_dir();
    char *writable[32];
    for (int i = 0; i < count; i++)
        writable[i] = (char *)(uintptr_t)arguments[i];
    if (rte_eal_init(count, writable) < 0) {
        runtime_dir_remove();
        net_text(
            ret_error,
            "DPDK's environment does not start; its own message is above. Memory asked for: %s MiB",
            memory);
        return MRN_ERR_UNAVAILABLE;
    }
    started = true;
    telemetry = config->telemetry;
    return 0;
}

void net_eal_stop(void) {
    if (!started)
        return;
    /* The telemetry socket's threads cannot be ended, and "/eal/..." and "/mempool/..." read what
     * this unmaps: then it is the end of the process that gives all back. */
    if (!telemetry)
        rte_eal_cleanup();
    runtime_dir_remove();
    started = false;
}

int net_thread_enter(void) {
    net_thread_short_turns();
    if (rte_lcore_id() != LCORE_ID_ANY)
        return 0;
    return rte_thread_register() ? MRN_ERR_UNAVAILABLE : 0;
}

void net_thread_leave(void) {
    rte_thread_unregister();
}
