/* net's inside: plan.c (config, sums), net.c (start, endpoints), eal.c, udp.c (kernel sockets),
 * ports.c (ethdev ports of each fabric), losses.c (what they lost), ethdev.c (Ethernet, IPv4, ARP),
 * lcores.c (endpoints on several threads, sleeping). */
#ifndef MAROON_NET_INTERNAL_H
#define MAROON_NET_INTERNAL_H

#include <assert.h>
#include <rte_ether.h>
#include <rte_mbuf.h>
#include <stdatomic.h>

#include "dataplane/net/net.h"

#define NET_FIFO_COUNT 512 /* datagrams of an endpoint that another endpoint's poll received */
#define NET_ARP_COUNT 64
#define NET_LCORES_RING_COUNT 512 /* packets on the way to or from another lcore */
#define NET_VDEV_BYTES (NET_DEVICE_BYTES + 128)

struct net_arp {
    uint32_t ipv4;
    struct rte_ether_addr mac;
    bool known;
    uint64_t heard_us, asked_us;
};

/* One ethdev port. On a port with one peer no addresses are resolved: whatever is sent arrives. */
struct net_port {
    uint16_t id;
    bool started;
    bool checksums;     /* the port computes them for what is sent */
    uint32_t peer_ipv4; /* 0: a segment */
    struct rte_ether_addr mac;
    struct rte_mbuf *tx[NET_BURST_COUNT];
    uint16_t tx_count;
    int packet_fd;          /* of the driver: the kernel counts there; -1: none */
    uint64_t down_since_us; /* memif, its link; 0: up */
    uint64_t missed_count;  /* of the port's counter, as last seen */
};

/* A thread that uses endpoints. Another one that gives it packets wakes it when it sleeps. */
struct net_lcore {
    int wake_fd; /* -1: all endpoints are on one lcore */
    _Atomic bool asleep;
    uint32_t sleep_us; /* fabrics without something to poll: grows while nothing comes */
};

struct rte_ring;

struct net_endpoint {
    struct net *net;
    struct net_endpoint_config config;
    int fd; /* UDP: the socket. Else: the kernel socket that guards the port; -1: none */
    struct net_packet tx[NET_BURST_COUNT];
    uint32_t tx_count;
    struct rte_mbuf *spare[NET_BURST_COUNT]; /* UDP: buffers for the next receive */
    uint32_t spare_count;
    bool rings; /* the guard's socket becomes readable when a datagram comes */
    bool quiet; /* UDP: net_wait has just found nothing here; the next receive need not look */
    struct net_packet fifo[NET_FIFO_COUNT];
    uint32_t fifo_head, fifo_count;
    uint32_t polls_seen; /* the net's poll_count when it last looked */
    /* ethdev, an endpoint on another lcore than the ports': packets from and to their owner */
    struct rte_ring *rx_ring, *tx_ring;
    struct net_counters counters;
};

struct net {
    struct net_config config;
    struct rte_mempool *pool;
    struct net_endpoint endpoints[NET_ENDPOINTS_MAX];
    struct net_memory memory;
    struct net_port ports[NET_PORTS_MAX]; /* ethdev */
    uint32_t port_count;
    struct net_lcore lcores[NET_LCORES_MAX];
    struct net_arp arp[NET_ARP_COUNT];
    uint64_t now_us, mend_us, losses_at_us;
    uint16_t ip_id;
    uint32_t poll_count; /* of the ports */
};

/* plan.c */
void net_text(char *text, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* udp.c */
int net_udp_open(struct net_endpoint *endpoint, char *ret_error);
uint32_t net_udp_rx(struct net_endpoint *endpoint, struct net_packet *packets, uint32_t max_count);
void net_udp_flush(struct net_endpoint *endpoint);
int net_guard_open(struct net_endpoint *endpoint);
void net_guard_rearm(struct net_endpoint *endpoint); /* what comes from now on makes it readable */

/* links.c: removes what dead processes left where this one serves, and waits (up to 20 s) until
 * the others' sockets are served. Links must not form a circle; lower to higher index never do. */
int net_links_prepare(const struct net_config *config, char *ret_error);

/* Connects memif links again whose serving process has gone and come back. The ports' thread, in
 * each turn; looks ten times a second. */
void net_links_mend(struct net *net);

/* ports.c */
int net_ports_arguments(const struct net_config *config, char text[][NET_VDEV_BYTES],
                        const char **ret_arguments);
int net_ports_open(struct net *net, char *ret_error);
void net_ports_close(struct net *net);

/* losses.c: counts at the first endpoint what the ports lost (PORT_FULL). The ports' thread; looks
 * ten times a second. */
void net_losses_open(struct net *net, uint32_t number);
void net_losses_look(struct net *net);

/* ethdev.c */
/* Whether another host of a segment answers to our address (RFC 5227, with less patience: the
 * hosts are near, and a node that starts again is waited for). Takes 60 ms when none does. */
bool net_ethdev_address_taken(struct net *net, struct rte_ether_addr *ret_mac);
uint32_t net_ethdev_poll(struct net *net); /* receives bursts into the endpoints' queues */
void net_ethdev_send(struct net *net, struct net_endpoint *from, struct net_packet *packets,
                     uint32_t count);

/* lcores.c */
int net_lcores_open(struct net *net);
void net_lcores_close(struct net *net);
bool net_on_kernel_interface(const struct net *net); /* packets of ours reach the kernel, too */
bool net_lcores_hand_in(struct net_endpoint *to, const struct net_packet *packet);
uint32_t net_lcores_rx(struct net_endpoint *endpoint, struct net_packet *packets,
                       uint32_t max_count);
void net_lcores_flush(struct net_endpoint *endpoint); /* to the owner */
void net_lcores_send(struct net *net);                /* the owner sends what the others flushed */

#endif
