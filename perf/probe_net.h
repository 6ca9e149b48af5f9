/* A net of its own for a probe that speaks to other processes: --fabric, --interface, --address and
 * the other network keys of maroon-gateway, as docs/configuration.md has them.
 *
 * Threads: one. Errors end the program. */
#ifndef MAROON_PERF_PROBE_NET_H
#define MAROON_PERF_PROBE_NET_H

#include "dataplane/net/net.h"

/* Starts it with one endpoint for INGRESS on `udp_port` (0: any, on fabric udp). */
struct net *probe_net_open(uint16_t udp_port);
void probe_net_close(struct net *net);

/* --nodes=ADDRESS:PORT,...: returns how many. */
uint32_t probe_net_addresses(const char *option, struct net_address *ret_addresses, uint32_t max);

#endif
