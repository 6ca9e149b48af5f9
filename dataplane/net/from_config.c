#include "dataplane/net/from_config.h"

#include <stdio.h>
#include <string.h>

static enum net_fabric fabric_of(const struct config *g) {
    switch (g->fabric) {
    case CONFIG_FABRIC_UDP: return NET_FABRIC_UDP;
    case CONFIG_FABRIC_AF_PACKET: return NET_FABRIC_AF_PACKET;
    case CONFIG_FABRIC_AF_XDP: return NET_FABRIC_AF_XDP;
    case CONFIG_FABRIC_MEMIF: return NET_FABRIC_MEMIF;
    case CONFIG_FABRIC_VIRTIO_USER: return NET_FABRIC_VIRTIO_USER;
    case CONFIG_FABRIC_VHOST: return NET_FABRIC_VHOST;
    case CONFIG_FABRIC_PCI: return NET_FABRIC_PCI;
    }
    return NET_FABRIC_UDP;
}

static void endpoints_of_node(const struct config *g, struct net_config *c) {
    const uint32_t lcores[WIRE_STAGE_COUNT] = {g->lcore_ingress, g->lcore_gossip, g->lcore_fetch};
    c->endpoint_count = WIRE_STAGE_COUNT;
    for (uint32_t i = 0; i < WIRE_STAGE_COUNT; i++)
        c->endpoints[i] = (struct net_endpoint_config){
            (uint8_t)i, (uint8_t)lcores[i],
            (uint16_t)(g->node[g->index].port + i * WIRE_STAGE_PORT_STEP)};
}

void net_from_config(const struct config *g, struct net_config *c) {
    memset(c, 0, sizeof *c);
    c->fabric = fabric_of(g);
    if (c->fabric != NET_FABRIC_UDP) {
        c->ipv4 = g->own_ipv4;
        c->prefix_bits = (uint8_t)g->prefix_bits;
        c->gateway_ipv4 = g->next_hop_ipv4;
    }
    c->mtu_bytes = (uint16_t)g->mtu_bytes;
    for (uint32_t i = 0; i < g->link_count && i < NET_PORTS_MAX; i++) {
        struct net_port_config *port = &c->ports[c->port_count++];
        snprintf(port->device, sizeof port->device, "%.107s", g->link[i].device);
        port->peer_ipv4 = g->link[i].peer_ipv4;
        port->server = g->link[i].server;
    }
    if (c->fabric != NET_FABRIC_UDP && !c->port_count && g->interface[0]) {
        c->port_count = 1;
        snprintf(c->ports[0].device, sizeof c->ports[0].device, "%s", g->interface);
    }
    c->queue_count = g->queue_packets;
    c->eal.hugepages = g->hugepages == CONFIG_HUGEPAGES_ON    ? NET_HUGEPAGES_ON
                       : g->hugepages == CONFIG_HUGEPAGES_OFF ? NET_HUGEPAGES_OFF
                                                              : NET_HUGEPAGES_AUTO;
    c->eal.memory_mb = g->memory_mb;
    c->eal.extra_args = g->eal_args;
    c->eal.extra_arg_count = g->eal_arg_count;
    if (g->program == CONFIG_NODE)
        endpoints_of_node(g, c);
    else
        c->endpoints[c->endpoint_count++] = (struct net_endpoint_config){
            .stage = WIRE_STAGE_INGRESS, .udp_port = (uint16_t)g->udp_port};
}
