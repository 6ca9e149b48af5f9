/* net: UDP datagrams in and out of a process, over any DPDK port or over kernel sockets.
 *
 * Vocabulary
 *   EAL        DPDK's process-wide environment; started once, before or by the first net_start
 *   net        one host on the fabric: own IPv4 address, ports, one buffer pool, endpoints.
 *              Several live in one process (NET_FABRIC_RING: a whole cluster on one thread)
 *   port       an ethdev port, or for NET_FABRIC_UDP nothing: each endpoint has its kernel socket
 *   endpoint   one UDP port of this host, for one stage; found by net_endpoint()
 *   lcore      a small number from the config: endpoints with equal numbers are used by one thread
 *   packet     one UDP payload in a buffer of the pool
 *
 *   net_eal_start --> net_start --> loop on each lcore { net_rx ... net_tx ... net_flush;
 *                                   idle: net_wait } --> all lcores ended --> net_stop -->
 * net_eal_stop
 *
 * Threads: start, stop, describe: one thread. An endpoint: the one thread that first used it
 * (asserted). Endpoints of one lcore number must share that thread. A thread other than the one
 * that started EAL calls net_thread_enter() first. Counters may be read by any thread. Ports are
 * polled by the lcore of the first endpoint; datagrams of endpoints on other lcores go through a
 * single-producer single-consumer ring. All on one lcore: the same code, one cache.
 *
 * Ownership: net_rx and net_packet_alloc give a packet to the caller; net_tx and net_packets_free
 * take it back, always, also when it can't be sent. Nothing is sent before net_flush (or a full
 * burst). Everything is taken at start; afterwards nothing allocates.
 *
 * net does not know what a packet means. The sender's identity is session.h's. */
#ifndef MAROON_NET_H
#define MAROON_NET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/net/address.h"
#include "proto/wire.h"

#define NET_PORTS_MAX 8     /* point-to-point fabrics: one port per peer host */
#define NET_ENDPOINTS_MAX 4 /* per net */
#define NET_LCORES_MAX 4    /* different lcore numbers per net */
#define NET_BURST_COUNT 32  /* most that one net_rx returns */
#define NET_MTU_BYTES 1500
#define NET_PAYLOAD_MAX_BYTES (NET_MTU_BYTES - 28)
#define NET_DEVICE_BYTES 108 /* of an interface name, PCI address, link name or socket path */
#define NET_TEXT_BYTES 512

enum net_fabric {
    NET_FABRIC_UDP = 0,     /* kernel sockets; needs no privilege; the default */
    NET_FABRIC_AF_PACKET,   /* device: a Linux interface; shares it with the kernel */
    NET_FABRIC_AF_XDP,      /* device: a Linux interface; takes its queue 0 from the kernel */
    NET_FABRIC_MEMIF,       /* device: a socket path; one port per peer */
    NET_FABRIC_VIRTIO_USER, /* device: a vhost-user socket path; one port per peer */
    NET_FABRIC_VHOST,       /* device: a vhost-user socket path, made here; one port per peer */
    NET_FABRIC_RING,        /* device: a link name inside this process; one port per peer */
    NET_FABRIC_PCI          /* device: a PCI address bound to a DPDK driver */
};

enum net_hugepages { NET_HUGEPAGES_AUTO = 0, NET_HUGEPAGES_ON, NET_HUGEPAGES_OFF };

/* ---- EAL ---- */

struct net_eal_config {
    enum net_hugepages hugepages;
    uint32_t memory_mb;            /* DPDK's heap; 0: what net_memory_plan says for the one net */
    const char *file_prefix;       /* NULL: "maroon-<pid>" */
    bool pci;                      /* scan PCI devices; net_start sets it for NET_FABRIC_PCI */
    const char *pci_address;       /* allow only this one; NULL: all */
    bool telemetry;                /* DPDK's telemetry socket, in the run-time directory */
    const char *const *extra_args; /* after "--" of the command line; NULL: none */
    uint32_t extra_arg_count;
};

/* Starts EAL in this process: one floating main lcore (threads are the caller's own), no shared
 * config, hugepages if they can be had (tried by mapping one). Sets XDG_RUNTIME_DIR when this user
 * has no usable runtime directory. On failure `ret_error` (NET_TEXT_BYTES) says what and what to
 * do. Returns 0; MRN_ERR_EXISTS when it runs already; MRN_ERR_INVALID, NO_MEMORY, UNAVAILABLE. EAL
 * can be started once per process: after net_eal_stop, never again. */
int net_eal_start(const struct net_eal_config *config, char *ret_error);

/* Ends EAL and removes its run-time directory. No net may be left. With telemetry the memory stays
 * until the process ends: who asks over the socket is answered until then. */
void net_eal_stop(void);

/* Makes the calling thread known to DPDK (per-thread buffer caches). Returns 0 or
 * MRN_ERR_UNAVAILABLE. net_thread_leave before the thread ends. */
int net_thread_enter(void);

/* Asks the kernel's scheduler for the shortest turns, as a thread should that polls and shares its
 * core with others that do: who yields is then away for 0.1 ms when its neighbour works, not for
 * milliseconds. Linux 6.12 or newer; elsewhere nothing changes. net_thread_enter does it. */
void net_thread_short_turns(void);
void net_thread_leave(void);

/* ---- configuration ---- */

struct net_port_config {
    char device[NET_DEVICE_BYTES]; /* see enum net_fabric */
    uint32_t peer_ipv4; /* the one host behind the port; 0: a segment with many (one such port) */
    bool server;        /* MEMIF, RING: which of the two sides this is */
};

struct net_endpoint_config {
    uint8_t stage;     /* enum wire_stage */
    uint8_t lcore;     /* < NET_LCORES_MAX; the same number = the same thread */
    uint16_t udp_port; /* 0 (UDP fabric only): any free one, see net_endpoint_address */
};

struct net_config {
    enum net_fabric fabric;
    uint32_t ipv4;         /* own address. 0: UDP: all of this machine's; AF_PACKET, AF_XDP: the
                              interface's first address with its prefix */
    uint8_t prefix_bits;   /* 0: 24 */
    uint32_t gateway_ipv4; /* next hop for other subnets; 0: they can't be reached */
    uint16_t mtu_bytes;    /* 0: NET_MTU_BYTES; at most that */
    uint32_t port_count;   /* UDP: 0 */
    struct net_port_config ports[NET_PORTS_MAX];
    uint32_t endpoint_count; /* >= 1 */
    struct net_endpoint_config endpoints[NET_ENDPOINTS_MAX];
    uint32_t queue_count;  /* descriptors per port queue, ring between lcores; power of 2; 0: 512 */
    uint32_t packet_count; /* packets the user may hold at once beyond the queues; 0: 1024 */
    uint32_t other_bytes;  /* DPDK heap that other rooms take (rings); counted in the plan */
    struct net_eal_config eal;
};

/* Fills zero with defaults: one UDP endpoint for INGRESS on `udp_port`, all else 0. */
void net_config_default(struct net_config *ret_config, uint16_t udp_port);

/* Checks every value. Returns 0, or MRN_ERR_INVALID and a sentence in `ret_error`
 * (NET_TEXT_BYTES). Touches nothing of the machine. */
int net_config_check(const struct net_config *config, char *ret_error);

/* What start will take; for --check-config and the start line. */
struct net_memory {
    uint32_t mbuf_count;
    uint32_t mbuf_bytes;   /* of one, with its mempool header */
    uint64_t pool_bytes;   /* mbuf_count * mbuf_bytes + the pool's own ring */
    uint64_t rings_bytes;  /* between lcores */
    uint64_t kernel_bytes; /* outside DPDK's heap: af_packet rings, memif regions */
    uint64_t other_bytes;  /* as configured */
    uint64_t slack_bytes;  /* EAL's and the drivers' own */
    uint32_t memory_mb;    /* the sum of the heap's parts, rounded up: EAL's -m */
};

/* Adds up the pools of a checked config. Pure. */
void net_memory_plan(const struct net_config *config, struct net_memory *ret_memory);

/* "udp" ... "pci"; net_fabric_parse returns MRN_ERR_NOT_FOUND for another word. */
const char *net_fabric_name(enum net_fabric fabric);
int net_fabric_parse(const char *text, enum net_fabric *ret_fabric);

/* ---- a net ---- */

struct net;
struct net_endpoint;

/* Starts ports, pool and endpoints; starts EAL first if it does not run. The config is not kept.
 * Returns 0 and *ret_net, or MRN_ERR_INVALID, NO_MEMORY, UNAVAILABLE (device), DENIED, EXISTS (UDP
 * port taken; on a segment: another host answers to our address), IO, with a sentence in
 * `ret_error` (NET_TEXT_BYTES) and everything given back. */
int net_start(const struct net_config *config, struct net **ret_net, char *ret_error);

/* Gives everything back except EAL. No thread may use it any more. Returns the number of packets
 * that the user still held (0 in a correct program; RING: or that lie in a peer's queue). */
uint32_t net_stop(struct net *net);

/* The endpoint of a stage; NULL when the config had none. */
struct net_endpoint *net_endpoint(struct net *net, enum wire_stage stage);

/* Own address of the endpoint (ipv4 0 for UDP on all addresses). */
struct net_address net_endpoint_address(const struct net_endpoint *endpoint);

/* One line of key=value facts for the start line: fabric, addresses, MACs, memory and why,
 * hugepages, checksum offload, what was not possible (no ICMP guard ...). Writes at most
 * `room_bytes`. */
void net_describe(const struct net *net, char *text, size_t room_bytes);

/* ---- packets ---- */

struct rte_mbuf;

struct net_packet {
    struct rte_mbuf *mbuf; /* opaque; owns the bytes */
    uint8_t *bytes;        /* the UDP payload */
    uint32_t length_bytes; /* received: of the payload. To send: set by the caller */
    struct net_address
        address; /* received: its source. To send: the destination, set by the caller */
};

/* Takes up to `max_count` (<= NET_BURST_COUNT) received packets of the endpoint. `now_us`: any
 * monotonic clock, the same for every call on this net; ages the ARP table and its requests. Also
 * answers ARP and hands datagrams to the other endpoints. Returns how many were written to
 * `ret_packets`. */
uint32_t net_rx(struct net_endpoint *endpoint, uint64_t now_us, struct net_packet *ret_packets,
                uint32_t max_count);

/* An empty packet: `bytes` has room for net_payload_max_bytes. False when the pool is empty
 * (counted). */
bool net_packet_alloc(struct net_endpoint *endpoint, struct net_packet *ret_packet);

/* Largest payload: mtu - 28. */
uint32_t net_payload_max_bytes(const struct net *net);

/* Queues packets to their addresses; sent by net_flush or when a burst is full. Takes ownership of
 * all. What can't be sent is freed and counted: UNREACHABLE (next hop not known yet, being asked
 * for), NOT_OURS (to ourselves, multicast, broadcast), FRAME_LENGTH (0 or too long), else tx_full.
 */
void net_tx(struct net_endpoint *endpoint, const struct net_packet *packets, uint32_t count);

/* Sends what is queued. Once per poll. */
void net_flush(struct net_endpoint *endpoint);

void net_packets_free(const struct net_packet *packets, uint32_t count);

/* ---- idling ---- */

/* Sleeps until a packet for an endpoint of `lcore` has come, an fd of `wake_fds` is readable, or
 * `timeout_us` has passed (at most 1 s). Flush first. UDP: poll() on the sockets. AF_PACKET: poll()
 * on the kernel sockets that guard our UDP ports. Other fabrics have nothing to poll: sleeps
 * min(timeout_us, 50 us... 1 ms, growing while nothing comes); call it again. Returns true when
 * there may be work. */
bool net_wait(struct net *net, uint32_t lcore, uint32_t timeout_us, const int *wake_fds,
              uint32_t wake_fd_count);

/* ---- counters ---- */

struct net_counters {
    uint64_t rx_packets, rx_bytes;   /* given to the user; bytes of payload */
    uint64_t tx_packets, tx_bytes;   /* taken by the port or the kernel */
    uint64_t tx_full;                /* freed because the port or the kernel took no more */
    uint64_t no_buffer;              /* the pool was empty, at alloc or receive */
    uint64_t waits, wakes;           /* net_wait: calls that slept; of these, ended by a packet */
    uint64_t drops[WIRE_DROP_COUNT]; /* by enum wire_drop */
};

/* A copy of the endpoint's counters. Frames of the interface that are no endpoint's are counted at
 * the first endpoint. Any thread; values may be some polls old. */
void net_endpoint_counters(const struct net_endpoint *endpoint, struct net_counters *ret_counters);

#endif
