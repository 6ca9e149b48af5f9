/* perf_fabric: the hosts of a cluster that lives in one process, each with its struct net.
 *
 * Host i has address 10.0.0.(i + 1) and the ports that a node on port 3000 has (a gateway uses the
 * first). Two implementations, chosen at link time:
 *   fabric_memory.c  implements net.h itself: packets are passed by pointer through small queues.
 *                    No DPDK, no headers below ours: what is measured is maroon.
 *   fabric_ring.c    the real net over NET_FABRIC_RING.
 *
 * Threads: one for all hosts. Ownership: perf_fabric_close takes the nets back. */
#ifndef MAROON_PERF_FABRIC_H
#define MAROON_PERF_FABRIC_H

#include "dataplane/net/net.h"

#define PERF_FABRIC_PORT 3000
#define PERF_FABRIC_HOSTS_MAX 80

static inline uint32_t perf_fabric_ipv4(uint32_t host) {
    return 0x0a000001u + host;
}

/* Makes hosts 0..host_count-1; the first `node_count` have an endpoint for each stage, the others
 * one for INGRESS. Returns 0 or enum mrn_error, with a sentence in ret_error (NET_TEXT_BYTES). */
int perf_fabric_open(uint32_t host_count, uint32_t node_count, struct net **ret_nets,
                     char *ret_error);
void perf_fabric_close(struct net **nets, uint32_t host_count);

/* "memory" or "ring". */
const char *perf_fabric_name(void);

#endif
