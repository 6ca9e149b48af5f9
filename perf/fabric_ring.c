/* The real net over rings inside the process, for perf_fabric: see fabric.h. Every two hosts that
 * speak have a link: nodes with all, gateways with the nodes. */
#include "perf/fabric.h"

#include <stdio.h>
#include <string.h>

#include <maroon/error.h>

const char *perf_fabric_name(void) {
    return "ring";
}

static void add_port(struct net_config *c, uint32_t host, uint32_t peer) {
    struct net_port_config *p = &c->ports[c->port_count++];
    bool server = host < peer;
    snprintf(p->device, sizeof p->device, "link-%u-%u", server ? host : peer, server ? peer : host);
    p->peer_ipv4 = perf_fabric_ipv4(peer);
    p->server = server;
}

static void configure(uint32_t host, uint32_t host_count, uint32_t node_count,
                      struct net_config *c) {
    memset(c, 0, sizeof *c);
    c->fabric = NET_FABRIC_RING;
    c->ipv4 = perf_fabric_ipv4(host);
    c->prefix_bits = 24;
    c->queue_count = 1024;
    c->packet_count = 2048;
    c->endpoint_count = host < node_count ? WIRE_STAGE_COUNT : 1;
    for (uint32_t i = 0; i < c->endpoint_count; i++)
        c->endpoints[i] = (struct net_endpoint_config){
            .stage = (uint8_t)i,
            .udp_port = (uint16_t)(PERF_FABRIC_PORT + i * WIRE_STAGE_PORT_STEP)};
    for (uint32_t i = 0; i < host_count; i++)
        if (i != host && (host < node_count || i < node_count))
            add_port(c, host, i);
}

int perf_fabric_open(uint32_t host_count, uint32_t node_count, struct net **ret_nets,
                     char *ret_error) {
    struct net_eal_config eal = {.hugepages = NET_HUGEPAGES_AUTO};
    struct net_config c;
    struct net_memory m;
    if (host_count - 1 > NET_PORTS_MAX) {
        snprintf(ret_error, NET_TEXT_BYTES, "fabric ring links at most %d hosts",
                 NET_PORTS_MAX + 1);
        return MRN_ERR_INVALID;
    }
    for (uint32_t i = 0; i < host_count; i++) { /* EAL's memory is for all of them */
        configure(i, host_count, node_count, &c);
        net_memory_plan(&c, &m);
        eal.memory_mb += m.memory_mb;
    }
    int error = net_eal_start(&eal, ret_error);
    if (error)
        return error;
    for (uint32_t i = 0; i < host_count; i++) {
        configure(i, host_count, node_count, &c);
        error = net_start(&c, &ret_nets[i], ret_error);
        if (error) {
            perf_fabric_close(ret_nets, i);
            return error;
        }
    }
    return 0;
}

void perf_fabric_close(struct net **nets, uint32_t host_count) {
    for (uint32_t i = 0; i < host_count; i++)
        (void)net_stop(nets[i]); /* packets may lie in a peer's queue */
    net_eal_stop();
}
