/* net.h in memory, for perf_fabric: see fabric.h. */
#include "perf/fabric.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <maroon/error.h>

#define QUEUE_COUNT 4096 /* per endpoint; power of two */
#define BUFFER_BYTES 1536
#define BUFFERS_PER_HOST 2048

struct rte_mbuf { /* a buffer, under the name that net.h gives it */
    struct rte_mbuf *next;
    uint8_t bytes[BUFFER_BYTES];
};

struct net_endpoint {
    struct net *net;
    uint8_t stage;
    uint32_t head, count, tx_count;
    struct net_packet queue[QUEUE_COUNT];
    struct net_packet tx[NET_BURST_COUNT];
    struct net_counters counters;
};

struct net {
    uint32_t ipv4, endpoint_count;
    struct net_endpoint endpoints[WIRE_STAGE_COUNT];
};

static struct {
    struct net *nets[PERF_FABRIC_HOSTS_MAX];
    uint32_t count;
    struct rte_mbuf *buffers, *free;
} fabric;

const char *perf_fabric_name(void) {
    return "memory";
}

int perf_fabric_open(uint32_t host_count, uint32_t node_count, struct net **ret_nets,
                     char *ret_error) {
    assert(host_count <= PERF_FABRIC_HOSTS_MAX && !fabric.count);
    uint32_t buffers = (host_count + 4) * BUFFERS_PER_HOST;
    fabric.buffers = calloc(buffers, sizeof *fabric.buffers);
    for (uint32_t i = 0; fabric.buffers && i < buffers; i++) {
        fabric.buffers[i].next = fabric.free;
        fabric.free = &fabric.buffers[i];
    }
    for (uint32_t i = 0; fabric.buffers && i < host_count; i++) {
        struct net *net = calloc(1, sizeof *net);
        if (!net)
            break;
        net->ipv4 = perf_fabric_ipv4(i);
        net->endpoint_count = i < node_count ? WIRE_STAGE_COUNT : 1;
        for (uint32_t j = 0; j < net->endpoint_count; j++) {
            net->endpoints[j].net = net;
            net->endpoints[j].stage = (uint8_t)j;
        }
        ret_nets[i] = fabric.nets[fabric.count++] = net;
    }
    if (fabric.count == host_count)
        return 0;
    snprintf(ret_error, NET_TEXT_BYTES, "no memory for %u hosts", host_count);
    perf_fabric_close(ret_nets, fabric.count);
    return MRN_ERR_NO_MEMORY;
}

void perf_fabric_close(struct net **nets, uint32_t host_count) {
    for (uint32_t i = 0; i < host_count; i++)
        free(nets[i]);
    free(fabric.buffers);
    memset(&fabric, 0, sizeof fabric);
}

struct net_endpoint *net_endpoint(struct net *net, enum wire_stage stage) {
    return (uint32_t)stage < net->endpoint_count ? &net->endpoints[stage] : NULL;
}

bool net_packet_alloc(struct net_endpoint *e, struct net_packet *ret_packet) {
    struct rte_mbuf *m = fabric.free;
    if (!m) {
        e->counters.no_buffer++;
        return false;
    }
    fabric.free = m->next;
    *ret_packet = (struct net_packet){.mbuf = m, .bytes = m->bytes};
    return true;
}

void net_packets_free(const struct net_packet *packets, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        packets[i].mbuf->next = fabric.free;
        fabric.free = packets[i].mbuf;
    }
}

uint32_t net_rx(struct net_endpoint *e, uint64_t now_us, struct net_packet *ret_packets,
                uint32_t max_count) {
    (void)now_us;
    uint32_t count = e->count < max_count ? e->count : max_count;
    for (uint32_t i = 0; i < count; i++) {
        ret_packets[i] = e->queue[e->head++ & (QUEUE_COUNT - 1)];
        e->counters.rx_bytes += ret_packets[i].length_bytes;
    }
    e->count -= count;
    e->counters.rx_packets += count;
    return count;
}

void net_tx(struct net_endpoint *e, const struct net_packet *packets, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        if (e->tx_count == NET_BURST_COUNT)
            net_flush(e);
        e->tx[e->tx_count++] = packets[i];
    }
}

static struct net_endpoint *endpoint_at(struct net_address address) {
    uint32_t host = address.ipv4 - perf_fabric_ipv4(0);
    uint32_t stage = (uint32_t)(address.port - PERF_FABRIC_PORT) / WIRE_STAGE_PORT_STEP;
    if (host >= fabric.count || stage >= fabric.nets[host]->endpoint_count)
        return NULL;
    return &fabric.nets[host]->endpoints[stage];
}

void net_flush(struct net_endpoint *e) {
    struct net_address source = {
        .ipv4 = e->net->ipv4,
        .port = (uint16_t)(PERF_FABRIC_PORT + e->stage * WIRE_STAGE_PORT_STEP)};
    for (uint32_t i = 0; i < e->tx_count; i++) {
        struct net_packet *p = &e->tx[i];
        struct net_endpoint *to = endpoint_at(p->address);
        if (!to || to->count == QUEUE_COUNT) {
            e->counters.tx_full++;
            net_packets_free(p, 1);
            continue;
        }
        e->counters.tx_packets++;
        e->counters.tx_bytes += p->length_bytes;
        p->address = source;
        to->queue[(to->head + to->count++) & (QUEUE_COUNT - 1)] = *p;
    }
    e->tx_count = 0;
}

bool net_wait(struct net *net, uint32_t lcore, uint32_t timeout_us, const int *wake_fds,
              uint32_t wake_fd_count) {
    (void)net, (void)lcore, (void)timeout_us, (void)wake_fds, (void)wake_fd_count;
    return true; /* one thread runs all: nobody sleeps */
}

void net_endpoint_counters(const struct net_endpoint *e, struct net_counters *ret_counters) {
    *ret_counters = e->counters;
}
