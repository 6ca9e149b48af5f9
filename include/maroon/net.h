/* net: the network of a program that uses mrn_gateway_open, by the keys of maroon-gateway
 * (maroon-gateway(8): node-urls, fabric, interface, ...).
 *
 *   mrn_net_open --> mrn_gateway_open ... mrn_gateway_close --> mrn_net_close
 *
 * Threads: one. Once in a process: DPDK's environment cannot be started again. */
#ifndef MAROON_NET_OPEN_H
#define MAROON_NET_OPEN_H

#include <maroon/gateway.h>

#define MRN_NET_TEXT_BYTES 512

/* Starts DPDK and the port. `settings`: "key=value", NULL-terminated, owned by the caller;
 * environment and files are not read, unless "config=FILE" says so. Fills *ret_config for
 * mrn_gateway_open; it may be changed. Names are resolved, which may block. Returns 0, or an error
 * of maroon/error.h with a sentence in `ret_error` (MRN_NET_TEXT_BYTES). */
int mrn_net_open(const char *const settings[], struct mrn_gateway_config *ret_config,
                 struct net **ret_net, char *ret_error);

/* After mrn_gateway_close. */
void mrn_net_close(struct net *net);

#endif
