/* hugepages_need: how much memory one process of a config wants in hugepages, and on which NUMA
 * node.
 *
 * Only DPDK's heap (packet buffers and what its drivers take) lies in hugepages; bodies, the state
 * and the journal's buffers are ordinary memory. The sums are the node's own: net_memory_plan,
 * stage_memory_plan. Pure but for hugepages_need_where, which reads /sys. */
#ifndef MAROON_HUGEPAGES_NEED_H
#define MAROON_HUGEPAGES_NEED_H

#include <stdio.h>

#include "config/config.h"
#include "dataplane/net/net.h"
#include "dataplane/stages/stage.h"
#include "hugepages/system.h"

#define HUGEPAGES_2M_KB 2048u
#define HUGEPAGES_1G_KB 1048576u
#define HUGEPAGES_WHY_BYTES 200

struct hugepages_need {
    struct net_memory net;
    struct stage_memory stage; /* a gateway's is 0 */
    uint32_t heap_mb;          /* EAL's -m */
    bool heap_given;           /* by the key memory-mb, not by the sum */
};

/* Adds up a checked config. Returns 0, or MRN_ERR_INVALID with a sentence in ret_error
 * (NET_TEXT_BYTES) when its fabric is not whole. */
int hugepages_need(const struct config *config, struct hugepages_need *ret_need, char *ret_error);

/* Pages of `size_kb` for `processes` of them. 2 MiB: one more for each, which `hugepages = auto`
 * wants free before it takes any. */
uint64_t hugepages_need_pages(const struct hugepages_need *need, uint32_t size_kb,
                              uint32_t processes);

/* The NUMA node they should lie on: the port's, else that of the first of `cpus`, else 0. `ret_why`
 * (HUGEPAGES_WHY_BYTES) says which of them it was. */
uint32_t hugepages_need_where(const struct config *config, const struct system *system,
                              char *ret_why);

/* The arithmetic, a line for each part. */
void hugepages_need_print(const struct config *config, const struct hugepages_need *need,
                          uint32_t processes, FILE *out);

#endif
