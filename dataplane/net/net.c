#include "dataplane/net/net.h"

#include <assert.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dataplane/net/internal.h"
#include <maroon/error.h>
#include <rte_eal.h>
#include <rte_errno.h>

/* Elements need not be contiguous for a device: one mbuf then takes half the memory under
 * --no-huge. */
static struct rte_mempool *pool_make(const struct net_memory *m) {
    static uint32_t number;
    char name[32];
    snprintf(name, sizeof name, "maroon-%u", number++);
    uint32_t size = sizeof(struct rte_mbuf) + RTE_MBUF_DEFAULT_BUF_SIZE;
    struct rte_pktmbuf_pool_private facts = {.mbuf_data_room_size = RTE_MBUF_DEFAULT_BUF_SIZE};
    struct rte_mempool *pool = rte_mempool_create_empty(
        name, m->mbuf_count, size, 256, sizeof facts, SOCKET_ID_ANY, RTE_MEMPOOL_F_NO_IOVA_CONTIG);
    if (!pool)
        return NULL;
    if (rte_mempool_set_ops_byname(pool, "ring_mp_mc", NULL)) {
        rte_mempool_free(pool);
        return NULL;
    }
    rte_pktmbuf_pool_init(pool, &facts);
    if (rte_mempool_populate_default(pool) < 0) {
        rte_mempool_free(pool);
        return NULL;
    }
    rte_mempool_obj_iter(pool, rte_pktmbuf_init, NULL);
    return pool;
}

/* EAL learns of the device by its arguments. */
static int eal_for(const struct net_config *c, uint32_t memory_mb, char *ret_error) {
    struct net_eal_config eal = c->eal;
    char vdevs[NET_PORTS_MAX][NET_VDEV_BYTES];
    const char *arguments[24];
    if (!eal.memory_mb)
        eal.memory_mb = memory_mb;
    /* A virtio-user port shares all memory with its peer: a file of small pages can be shared. */
    if (c->fabric == NET_FABRIC_VIRTIO_USER && eal.hugepages == NET_HUGEPAGES_AUTO)
        eal.hugepages = NET_HUGEPAGES_OFF;
    uint32_t count = (uint32_t)net_ports_arguments(c, vdevs, arguments);
    if (c->fabric == NET_FABRIC_PCI) {
        eal.pci = true;
        eal.pci_address = c->ports[0].device;
    }
    for (uint32_t i = 0; i < c->eal.extra_arg_count && count < 24; i++)
        arguments[count++] = c->eal.extra_args[i];
    eal.extra_args = arguments;
    eal.extra_arg_count = count;
    int error = net_eal_start(&eal, ret_error);
    return error == MRN_ERR_EXISTS ? 0 : error;
}

int net_start(const struct net_config *config, struct net **ret_net, char *ret_error) {
    int error = net_config_check(config, ret_error);
    if (error)
        return error;
    struct net *net = calloc(1, sizeof *net);
    if (!net) {
        net_text(ret_error, "no memory");
        return MRN_ERR_NO_MEMORY;
    }
    net->config = *config;
    net_memory_plan(config, &net->memory);
    for (uint32_t i = 0; i < NET_ENDPOINTS_MAX; i++)
        net->endpoints[i].fd = -1;
    error = net_links_prepare(config, ret_error);
    if (!error)
        error = eal_for(config, net->memory.memory_mb, ret_error);
    if (!error) {
        net->pool = pool_make(&net->memory);
        if (!net->pool) {
            net_text(ret_error, "no memory for %u packet buffers: raise memory_mb above %u",
                     net->memory.mbuf_count, net->memory.memory_mb);
            error = MRN_ERR_NO_MEMORY;
        }
    }
    if (!error && config->fabric != NET_FABRIC_UDP)
        error = net_ports_open(net, ret_error);
    struct rte_ether_addr other;
    if (!error && net_ethdev_address_taken(net, &other)) {
        char mac[RTE_ETHER_ADDR_FMT_SIZE];
        uint32_t own = net->config.ipv4;
        rte_ether_format_addr(mac, sizeof mac, &other);
        net_text(
            ret_error,
            "another host has our address %u.%u.%u.%u: its MAC is %s. Give each host an address "
            "of its own",
            own >> 24, own >> 16 & 255, own >> 8 & 255, own & 255, mac);
        error = MRN_ERR_EXISTS;
    }
    for (uint32_t i = 0; !error && i < config->endpoint_count; i++) {
        net->endpoints[i].net = net;
        net->endpoints[i].config = config->endpoints[i];
        if (config->fabric == NET_FABRIC_UDP)
            error = net_udp_open(&net->endpoints[i], ret_error);
        else if (net_on_kernel_interface(net)) /* or the kernel answers with ICMP errors */
            (void)net_guard_open(&net->endpoints[i]);
    }
    if (!error) {
        error = net_lcores_open(net);
        if (error)
            net_text(ret_error, "no rings between the threads: %s", mrn_error_text(error));
    }
    if (error) {
        net_stop(net);
        return error;
    }
    *ret_net = net;
    return 0;
}

uint32_t net_stop(struct net *net) {
    if (!net)
        return 0;
    for (uint32_t i = 0; i < NET_ENDPOINTS_MAX; i++) {
        struct net_endpoint *e = &net->endpoints[i];
        net_packets_free(e->tx, e->tx_count);
        for (; e->fifo_count; e->fifo_count--)
            net_packets_free(&e->fifo[e->fifo_head++ % NET_FIFO_COUNT], 1);
        for (uint32_t j = 0; j < e->spare_count; j++)
            rte_pktmbuf_free(e->spare[j]);
        if (e->fd >= 0)
            close(e->fd);
    }
    net_lcores_close(net);
    net_ports_close(net);
    uint32_t held = net->pool ? rte_mempool_in_use_count(net->pool) : 0;
    rte_mempool_free(net->pool);
    free(net);
    return held;
}

struct net_endpoint *net_endpoint(struct net *net, enum wire_stage stage) {
    for (uint32_t i = 0; i < net->config.endpoint_count; i++)
        if (net->endpoints[i].config.stage == stage)
            return &net->endpoints[i];
    return NULL;
}

struct net_address net_endpoint_address(const struct net_endpoint *e) {
    return (struct net_address){.ipv4 = e->net->config.ipv4, .port = e->config.udp_port};
}

void net_describe(const struct net *net, char *text, size_t room_bytes) {
    char mac[RTE_ETHER_ADDR_FMT_SIZE] = "none";
    if (net->port_count)
        rte_ether_format_addr(mac, sizeof mac, &net->ports[0].mac);
    snprintf(
        text, room_bytes,
        "fabric=%s device=%s mac=%s mbufs=%u mbuf_bytes=%u memory_mb=%u hugepages=%s icmp_guard=%s",
        net_fabric_name(net->config.fabric),
        net->config.port_count ? net->config.ports[0].device : "none", mac, net->memory.mbuf_count,
        net->memory.mbuf_bytes, net->memory.memory_mb, rte_eal_has_hugepages() ? "on" : "off",
        net->config.fabric == NET_FABRIC_UDP ? "not_needed"
        : net->endpoints[0].fd >= 0          ? "on"
                                             : "off");
}

/* ---- packets ---- */

uint32_t net_payload_max_bytes(const struct net *net) {
    return (net->config.mtu_bytes ? net->config.mtu_bytes : NET_MTU_BYTES) - 28u;
}

static uint32_t ethdev_rx(struct net_endpoint *e, struct net_packet *ret_packets,
                          uint32_t max_count) {
    struct net *net = e->net;
    uint32_t count = 0;
    net_lcores_send(net);
    /* The ports are polled once for all endpoints of a pass: again by whoever has seen it all. */
    if (!e->fifo_count && e->polls_seen == net->poll_count) {
        net_links_mend(net);
        net_losses_look(net);
        net_ethdev_poll(net);
        net->poll_count++;
    }
    e->polls_seen = net->poll_count;
    for (; count < max_count && e->fifo_count; e->fifo_count--)
        ret_packets[count++] = e->fifo[e->fifo_head++ % NET_FIFO_COUNT];
    return count;
}

uint32_t net_rx(struct net_endpoint *e, uint64_t now_us, struct net_packet *ret_packets,
                uint32_t max_count) {
    uint32_t count;
    if (e->net->config.fabric == NET_FABRIC_UDP)
        count = net_udp_rx(e, ret_packets, max_count);
    else if (e->rx_ring)
        count = net_lcores_rx(e, ret_packets, max_count);
    else {
        e->net->now_us = now_us;
        count = ethdev_rx(e, ret_packets, max_count);
    }
    e->counters.rx_packets += count;
    for (uint32_t i = 0; i < count; i++)
        e->counters.rx_bytes += ret_packets[i].length_bytes;
    return count;
}

bool net_packet_alloc(struct net_endpoint *e, struct net_packet *ret_packet) {
    struct rte_mbuf *m = rte_pktmbuf_alloc(e->net->pool);
    if (!m) {
        e->counters.no_buffer++;
        return false;
    }
    *ret_packet = (struct net_packet){.mbuf = m, .bytes = rte_pktmbuf_mtod(m, uint8_t *)};
    return true;
}

void net_tx(struct net_endpoint *e, const struct net_packet *packets, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        const struct net_packet *p = &packets[i];
        enum wire_drop drop = WIRE_DROP_NONE;
        if (!p->length_bytes || p->length_bytes > net_payload_max_bytes(e->net))
            drop = WIRE_DROP_FRAME_LENGTH;
        else if (!net_ipv4_unicast(p->address.ipv4) || !p->address.port)
            drop = WIRE_DROP_NOT_OURS;
        if (drop != WIRE_DROP_NONE) {
            e->counters.drops[drop]++;
            net_packets_free(p, 1);
            continue;
        }
        if (e->tx_count == NET_BURST_COUNT)
            net_flush(e);
        e->tx[e->tx_count++] = *p;
    }
}

void net_flush(struct net_endpoint *e) {
    if (!e->tx_count)
        return;
    if (e->net->config.fabric == NET_FABRIC_UDP)
        net_udp_flush(e);
    else if (e->tx_ring)
        net_lcores_flush(e);
    else
        net_ethdev_send(e->net, e, e->tx, e->tx_count);
    e->tx_count = 0;
}

void net_packets_free(const struct net_packet *packets, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        rte_pktmbuf_free(packets[i].mbuf);
}

void net_endpoint_counters(const struct net_endpoint *e, struct net_counters *ret_counters) {
    *ret_counters = e->counters;
}
