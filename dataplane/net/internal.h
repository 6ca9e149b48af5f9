/* net's inside: net.c (config, start, endpoints), eal.c, udp.c (kernel sockets), ethdev.c (ports,
 * Ethernet, IPv4, ARP). */
#ifndef MAROON_NET_INTERNAL_H
#define MAROON_NET_INTERNAL_H

#include <rte_ether.h>
#include <rte_mbuf.h>

#include "dataplane/net/net.h"

#define NET_FIFO_COUNT 512 /* datagrams of an endpoint that another endpoint's poll received */
#define NET_ARP_COUNT 64

struct net_arp {
    uint32_t ipv4;
    struct rte_ether_addr mac;
    bool known;
    uint64_t heard_us, asked_us;
};

struct net_endpoint {
    struct net *net;
    struct net_endpoint_config config;
    int fd; /* UDP: the socket. Else: the kernel socket that guards the port; -1: none */
    struct net_packet tx[NET_BURST_COUNT];
    uint32_t tx_count;
    struct rte_mbuf *spare[NET_BURST_COUNT]; /* UDP: buffers for the next receive */
    uint32_t spare_count;
    struct net_packet fifo[NET_FIFO_COUNT];
    uint32_t fifo_head, fifo_count;
    struct net_counters counters;
};

struct net {
    struct net_config config;
    struct rte_mempool *pool;
    struct net_endpoint endpoints[NET_ENDPOINTS_MAX];
    struct net_memory memory;
    uint16_t port; /* ethdev */
    bool port_started;
    struct rte_ether_addr mac;
    struct net_arp arp[NET_ARP_COUNT];
    uint64_t now_us;
    uint16_t ip_id;
};

void net_text(char *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* udp.c */
int net_udp_open(struct net_endpoint *endpoint, char *ret_error);
uint32_t net_udp_rx(struct net_endpoint *endpoint, struct net_packet *packets, uint32_t max_count);
void net_udp_flush(struct net_endpoint *endpoint);
int net_guard_open(struct net_endpoint *endpoint);
bool net_guard_wait(struct net *net, uint32_t timeout_us, const int *wake_fds,
                    uint32_t wake_fd_count);

/* ethdev.c */
int net_ethdev_open(struct net *net, char *ret_error);
void net_ethdev_close(struct net *net);
void net_ethdev_poll(struct net *net); /* receives a burst into the endpoints' queues */
void net_ethdev_flush(struct net_endpoint *endpoint);

#endif
