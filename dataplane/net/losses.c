/* What the ports lost themselves: frames that came while their receive ring was full. */
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>

#include "dataplane/net/internal.h"
#include <rte_ethdev.h>

#define LOOK_US 100000
#define FDS_LOOKED_AT 4096

/* DPDK 22.11's driver tells neither its socket nor the kernel's count of what did not fit its ring
 * (packet(7), PACKET_STATISTICS); the socket is one of this process, bound to the interface. */
static int packet_socket(const char *interface) {
    unsigned wanted = if_nametoindex(interface);
    for (int fd = 0; wanted && fd < FDS_LOOKED_AT; fd++) {
        int family = 0;
        struct sockaddr_ll bound = {0};
        socklen_t family_bytes = sizeof family, bound_bytes = sizeof bound;
        if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &family_bytes) == 0 &&
            family == AF_PACKET && getsockname(fd, (struct sockaddr *)&bound, &bound_bytes) == 0 &&
            bound.sll_ifindex == (int)wanted)
            return fd;
    }
    return -1;
}

void net_losses_open(struct net *net, uint32_t number) {
    struct net_port *p = &net->ports[number];
    p->packet_fd = net->config.fabric == NET_FABRIC_AF_PACKET
                       ? packet_socket(net->config.ports[number].device)
                       : -1;
}

static uint64_t lost_since(struct net *net, struct net_port *p) {
    if (p->packet_fd >= 0) { /* reading sets it to zero */
        struct tpacket_stats since = {0};
        socklen_t bytes = sizeof since;
        return getsockopt(p->packet_fd, SOL_PACKET, PACKET_STATISTICS, &since, &bytes) == 0
                   ? since.tp_drops
                   : 0;
    }
    struct rte_eth_stats all;
    if (net->config.fabric != NET_FABRIC_PCI || rte_eth_stats_get(p->id, &all))
        return 0;
    uint64_t since = all.imissed - p->missed_count;
    p->missed_count = all.imissed;
    return since;
}

void net_losses_look(struct net *net) {
    if (net->now_us < net->losses_at_us)
        return;
    net->losses_at_us = net->now_us + LOOK_US;
    for (uint32_t i = 0; i < net->port_count; i++)
        net->endpoints[0].counters.drops[WIRE_DROP_PORT_FULL] += lost_since(net, &net->ports[i]);
}
