/* The ethdev ports of each fabric: what EAL is told, how they are opened and closed. */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/net/internal.h"
#include <maroon/error.h>
#include <rte_eth_ring.h>
#include <rte_ethdev.h>

#define QUEUE_DEFAULT 512
#define LINKS_MAX 32

static uint32_t queue_count(const struct net_config *c) {
    return c->queue_count ? c->queue_count : QUEUE_DEFAULT;
}

/* ---- rings: links between nets of one process ---- */

static struct {
    char name[NET_DEVICE_BYTES];
    struct rte_ring *toward[2]; /* [0] to the client, [1] to the server */
    bool opened[2];
} links[LINKS_MAX];

static int ring_port(const struct net_config *c, uint32_t number, uint16_t *ret_id,
                     char *ret_error) {
    const struct net_port_config *p = &c->ports[number];
    static uint32_t names;
    char name[32];
    uint32_t i = 0;
    while (i < LINKS_MAX && links[i].name[0] && strcmp(links[i].name, p->device))
        i++;
    if (i == LINKS_MAX || links[i].opened[p->server]) {
        net_text(ret_error, "link %s is in use, or there are more than %d", p->device, LINKS_MAX);
        return MRN_ERR_EXISTS;
    }
    for (int side = 0; side < 2 && !links[i].toward[side]; side++) {
        snprintf(name, sizeof name, "mrn-link-%u", names++);
        links[i].toward[side] =
            rte_ring_create(name, queue_count(c), SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
        if (!links[i].toward[side]) {
            net_text(ret_error, "no memory for the rings of link %s", p->device);
            return MRN_ERR_NO_MEMORY;
        }
    }
    snprintf(links[i].name, sizeof links[i].name, "%s", p->device);
    snprintf(name, sizeof name, "mrn-port-%u", names++);
    int id = rte_eth_from_rings(name, &links[i].toward[p->server], 1, &links[i].toward[!p->server],
                                1, 0);
    if (id < 0) {
        net_text(ret_error, "no port for link %s", p->device);
        return MRN_ERR_UNAVAILABLE;
    }
    links[i].opened[p->server] = true;
    *ret_id = (uint16_t)id;
    return 0;
}

static void ring_closed(const struct net_port_config *p) {
    for (uint32_t i = 0; i < LINKS_MAX; i++)
        if (!strcmp(links[i].name, p->device))
            links[i].opened[p->server] = false;
}

/* ---- what EAL is told: a virtual device for each port ---- */

static bool vhost_side(const struct net_config *c, const struct net_port_config *p) {
    return c->fabric == NET_FABRIC_VHOST || p->server;
}

static void device_name(const struct net_config *c, uint32_t number, char name[64]) {
    const struct net_port_config *p = &c->ports[number];
    const char *driver = "";
    switch (c->fabric) {
    case NET_FABRIC_AF_PACKET: driver = "net_af_packet"; break;
    case NET_FABRIC_AF_XDP: driver = "net_af_xdp"; break;
    case NET_FABRIC_MEMIF: driver = "net_memif"; break;
    case NET_FABRIC_VIRTIO_USER:
    case NET_FABRIC_VHOST: driver = vhost_side(c, p) ? "net_vhost" : "net_virtio_user"; break;
    case NET_FABRIC_UDP:
    case NET_FABRIC_RING:
    case NET_FABRIC_PCI: break;
    }
    snprintf(name, 64, "%s%u", driver, number);
}

/* Returns how many arguments were written. */
int net_ports_arguments(const struct net_config *c, char text[][NET_VDEV_BYTES],
                        const char **ret_arguments) {
    int count = 0;
    uint32_t queue = queue_count(c), log2 = 31u - (uint32_t)__builtin_clz(queue);
    for (uint32_t i = 0; i < c->port_count; i++) {
        const struct net_port_config *p = &c->ports[i];
        char name[64], *at = text[count];
        device_name(c, i, name);
        switch (c->fabric) {
        case NET_FABRIC_AF_PACKET:
            snprintf(at, NET_VDEV_BYTES,
                     "--vdev=%s,iface=%s,framecnt=%u,blocksz=65536,framesz=2048", name, p->device,
                     queue);
            break;
        case NET_FABRIC_AF_XDP:
            snprintf(at, NET_VDEV_BYTES, "--vdev=%s,iface=%s", name, p->device);
            break;
        case NET_FABRIC_MEMIF:
            snprintf(at, NET_VDEV_BYTES,
                     "--vdev=%s,role=%s,id=0,socket=%s,socket-abstract=no,bsize=2048,rsize=%u",
                     name, p->server ? "server" : "client", p->device, log2 < 14 ? log2 : 14);
            break;
        case NET_FABRIC_VIRTIO_USER:
        case NET_FABRIC_VHOST:
            if (vhost_side(c, p))
                snprintf(at, NET_VDEV_BYTES, "--vdev=%s,iface=%s,queues=1", name, p->device);
            else
                snprintf(at, NET_VDEV_BYTES, "--vdev=%s,path=%s,queues=1,queue_size=%u", name,
                         p->device, queue);
            break;
        case NET_FABRIC_UDP:
        case NET_FABRIC_RING:
        case NET_FABRIC_PCI: continue;
        }
        ret_arguments[count++] = at;
    }
    return count;
}

/* ---- open, close ---- */

/* Own address of a Linux interface that has one. */
static void interface_address(struct net *net) {
    struct ifaddrs *all, *i;
    if (net->config.ipv4 || getifaddrs(&all))
        return;
    for (i = all; i; i = i->ifa_next)
        if (i->ifa_addr && i->ifa_addr->sa_family == AF_INET &&
            !strcmp(i->ifa_name, net->config.ports[0].device)) {
            struct sockaddr_in a, mask;
            memcpy(&a, i->ifa_addr, sizeof a);
            memcpy(&mask, i->ifa_netmask, sizeof mask);
            net->config.ipv4 = ntohl(a.sin_addr.s_addr);
            net->config.prefix_bits = (uint8_t)__builtin_popcount(mask.sin_addr.s_addr);
            break;
        }
    freeifaddrs(all);
}

static int find_port(const struct net *net, uint32_t number, uint16_t *ret_id, char *ret_error) {
    const struct net_config *c = &net->config;
    char name[64];
    if (c->fabric == NET_FABRIC_RING)
        return ring_port(c, number, ret_id, ret_error);
    if (c->fabric == NET_FABRIC_PCI)
        snprintf(name, sizeof name, "%.63s", c->ports[number].device);
    else
        device_name(c, number, name);
    if (rte_eth_dev_get_port_by_name(name, ret_id)) {
        net_text(ret_error,
                 "DPDK finds no port for %s: does it exist, and may this process open it?",
                 c->ports[number].device);
        return MRN_ERR_UNAVAILABLE;
    }
    return 0;
}

/* Checksums by the port, both ways, where it is hardware. Between processes of one machine bytes
 * don't change on the way, and what the kernel sends over veth carries no UDP checksum yet. */
static void offloads(const struct net *net, struct net_port *p, const struct rte_eth_dev_info *info,
                     struct rte_eth_conf *conf) {
    const uint64_t tx = RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
    const uint64_t rx = RTE_ETH_RX_OFFLOAD_IPV4_CKSUM | RTE_ETH_RX_OFFLOAD_UDP_CKSUM;
    if (net->config.fabric != NET_FABRIC_PCI)
        return;
    p->checksums = (info->tx_offload_capa & tx) == tx;
    conf->txmode.offloads = p->checksums ? tx : 0;
    conf->rxmode.offloads = info->rx_offload_capa & rx;
}

static int open_port(struct net *net, uint32_t number, char *ret_error) {
    struct rte_eth_conf conf = {0};
    struct net_port *p = &net->ports[number];
    struct rte_eth_dev_info info;
    int error = find_port(net, number, &p->id, ret_error);
    if (error)
        return error;
    uint16_t rx = (uint16_t)queue_count(&net->config), tx = rx;
    p->peer_ipv4 = net->config.ports[number].peer_ipv4;
    if (rte_eth_dev_info_get(p->id, &info) == 0)
        offloads(net, p, &info, &conf);
    if (rte_eth_dev_configure(p->id, 1, 1, &conf) ||
        rte_eth_dev_adjust_nb_rx_tx_desc(p->id, &rx, &tx) ||
        rte_eth_rx_queue_setup(p->id, 0, rx, (unsigned)SOCKET_ID_ANY, NULL, net->pool) ||
        rte_eth_tx_queue_setup(p->id, 0, tx, (unsigned)SOCKET_ID_ANY, NULL) ||
        rte_eth_macaddr_get(p->id, &p->mac) || rte_eth_dev_start(p->id)) {
        net_text(ret_error, "port %s cannot be set up", net->config.ports[number].device);
        return MRN_ERR_UNAVAILABLE;
    }
    if (rte_is_zero_ether_addr(&p->mac)) /* rings have none */
        rte_eth_random_addr(p->mac.addr_bytes);
    p->started = true;
    net_losses_open(net, number);
    return 0;
}

int net_ports_open(struct net *net, char *ret_error) {
    int error = 0;
    if (net->config.fabric == NET_FABRIC_AF_PACKET || net->config.fabric == NET_FABRIC_AF_XDP)
        interface_address(net);
    if (!net->config.ipv4) {
        net_text(ret_error, "%s has no IPv4 address: give one with --address A.B.C.D/BITS",
                 net->config.ports[0].device);
        return MRN_ERR_INVALID;
    }
    if (!net->config.prefix_bits)
        net->config.prefix_bits = 24;
    for (uint32_t i = 0; !error && i < net->config.port_count; i++) {
        error = open_port(net, i, ret_error);
        net->port_count += !error;
    }
    return error;
}

void net_ports_close(struct net *net) {
    for (uint32_t i = 0; i < net->port_count; i++) {
        struct net_port *p = &net->ports[i];
        rte_pktmbuf_free_bulk(p->tx, p->tx_count);
        p->tx_count = 0;
        (void)rte_eth_dev_stop(p->id);
        (void)rte_eth_dev_close(p->id);
        if (net->config.fabric == NET_FABRIC_RING)
            ring_closed(&net->config.ports[i]);
    }
}
