#include <arpa/inet.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <string.h>

#include "dataplane/net/internal.h"
#include <maroon/error.h>
#include <rte_arp.h>
#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_udp.h>

#define ARP_ASK_US 100000   /* between two questions for one address */
#define ARP_AGE_US 60000000 /* asked again after it, used until answered */
#define HEADERS_BYTES \
    (sizeof(struct rte_ether_hdr) + sizeof(struct rte_ipv4_hdr) + sizeof(struct rte_udp_hdr))

/* ---- the port ---- */

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

int net_ethdev_open(struct net *net, char *ret_error) {
    struct rte_eth_conf conf = {0};
    uint16_t queue = (uint16_t)(net->config.queue_count ? net->config.queue_count : 512);
    if (!rte_eth_dev_count_avail()) {
        net_text(ret_error,
                 "DPDK finds no port for %s: does the interface exist, and may this process open "
                 "it (NET_RAW)?",
                 net->config.ports[0].device);
        return MRN_ERR_UNAVAILABLE;
    }
    net->port = 0;
    interface_address(net);
    if (!net->config.ipv4) {
        net_text(ret_error,
                 "interface %s has no IPv4 address: give one with --address A.B.C.D/BITS",
                 net->config.ports[0].device);
        return MRN_ERR_INVALID;
    }
    if (!net->config.prefix_bits)
        net->config.prefix_bits = 24;
    if (rte_eth_dev_configure(net->port, 1, 1, &conf) ||
        rte_eth_rx_queue_setup(net->port, 0, queue, (unsigned)SOCKET_ID_ANY, NULL, net->pool) ||
        rte_eth_tx_queue_setup(net->port, 0, queue, (unsigned)SOCKET_ID_ANY, NULL) ||
        rte_eth_macaddr_get(net->port, &net->mac) || rte_eth_dev_start(net->port)) {
        net_text(ret_error, "port %s cannot be set up", net->config.ports[0].device);
        return MRN_ERR_UNAVAILABLE;
    }
    net->port_started = true;
    return 0;
}

void net_ethdev_close(struct net *net) {
    (void)rte_eth_dev_stop(net->port);
    (void)rte_eth_dev_close(net->port);
}

/* ---- ARP (RFC 826) ---- */

static struct net_arp *arp_find(struct net *net, uint32_t ipv4) {
    struct net_arp *oldest = &net->arp[0];
    for (uint32_t i = 0; i < NET_ARP_COUNT; i++) {
        if (net->arp[i].ipv4 == ipv4)
            return &net->arp[i];
        if (net->arp[i].heard_us < oldest->heard_us)
            oldest = &net->arp[i];
    }
    *oldest = (struct net_arp){.ipv4 = ipv4, .heard_us = net->now_us};
    return oldest;
}

static void arp_send(struct net *net, uint16_t operation, const struct rte_ether_addr *to_mac,
                     uint32_t to_ipv4) {
    struct rte_mbuf *m = rte_pktmbuf_alloc(net->pool);
    if (!m)
        return;
    struct {
        struct rte_ether_hdr ether;
        struct rte_arp_hdr arp;
    } __attribute__((packed, aligned(2))) *frame = (void *)rte_pktmbuf_append(m, sizeof *frame);
    memset(frame, 0, sizeof *frame);
    frame->ether.src_addr = net->mac;
    frame->ether.ether_type = htons(RTE_ETHER_TYPE_ARP);
    memset(&frame->ether.dst_addr, 0xff, sizeof frame->ether.dst_addr);
    if (to_mac)
        frame->ether.dst_addr = frame->arp.arp_data.arp_tha = *to_mac;
    frame->arp.arp_hardware = htons(RTE_ARP_HRD_ETHER);
    frame->arp.arp_protocol = htons(RTE_ETHER_TYPE_IPV4);
    frame->arp.arp_hlen = RTE_ETHER_ADDR_LEN;
    frame->arp.arp_plen = 4;
    frame->arp.arp_opcode = htons(operation);
    frame->arp.arp_data.arp_sha = net->mac;
    frame->arp.arp_data.arp_sip = htonl(net->config.ipv4);
    frame->arp.arp_data.arp_tip = htonl(to_ipv4);
    if (rte_eth_tx_burst(net->port, 0, &m, 1) != 1)
        rte_pktmbuf_free(m);
}

static void arp_take(struct net *net, const struct rte_mbuf *m) {
    struct rte_arp_hdr arp;
    if (rte_pktmbuf_data_len(m) < sizeof(struct rte_ether_hdr) + sizeof arp) {
        net->endpoints[0].counters.drops[WIRE_DROP_NOT_OURS]++;
        return;
    }
    memcpy(&arp, rte_pktmbuf_mtod_offset(m, void *, sizeof(struct rte_ether_hdr)), sizeof arp);
    uint32_t sender = ntohl(arp.arp_data.arp_sip);
    if (ntohl(arp.arp_data.arp_tip) != net->config.ipv4 || arp.arp_hlen != RTE_ETHER_ADDR_LEN ||
        !net_ipv4_unicast(sender))
        return;
    struct net_arp *a = arp_find(net, sender);
    a->mac = arp.arp_data.arp_sha;
    a->known = true;
    a->heard_us = net->now_us;
    if (ntohs(arp.arp_opcode) == RTE_ARP_OP_REQUEST && net->config.fabric == NET_FABRIC_PCI)
        arp_send(net, RTE_ARP_OP_REPLY, &a->mac,
                 sender); /* the kernel answers for its own interfaces */
}

/* MAC of the next hop, or NULL while it is being asked for. */
static const struct rte_ether_addr *arp_resolve(struct net *net, uint32_t ipv4) {
    uint32_t mask = net->config.prefix_bits ? UINT32_MAX << (32 - net->config.prefix_bits) : 0;
    if ((ipv4 & mask) != (net->config.ipv4 & mask))
        ipv4 = net->config.gateway_ipv4;
    if (!ipv4)
        return NULL;
    struct net_arp *a = arp_find(net, ipv4);
    bool old = a->known && net->now_us - a->heard_us > ARP_AGE_US;
    if ((!a->known || old) && (!a->asked_us || net->now_us - a->asked_us >= ARP_ASK_US)) {
        a->asked_us = net->now_us;
        arp_send(net, RTE_ARP_OP_REQUEST, NULL, ipv4);
    }
    return a->known ? &a->mac : NULL;
}

/* ---- receive ---- */

static enum wire_drop parse(struct net *net, struct rte_mbuf *m, struct net_packet *ret_packet,
                            struct net_endpoint **ret_to) {
    const struct rte_ether_hdr *ether = rte_pktmbuf_mtod(m, void *);
    if (rte_pktmbuf_data_len(m) < HEADERS_BYTES || ether->ether_type != htons(RTE_ETHER_TYPE_IPV4))
        return WIRE_DROP_NOT_OURS;
    if (rte_is_same_ether_addr(&ether->src_addr, &net->mac))
        return WIRE_DROP_OUTGOING;
    const struct rte_ipv4_hdr *ip = (const void *)(ether + 1);
    if (ip->dst_addr != htonl(net->config.ipv4) || ip->next_proto_id != IPPROTO_UDP)
        return WIRE_DROP_NOT_OURS;
    const struct rte_udp_hdr *udp = (const void *)(ip + 1);
    uint32_t ip_bytes = ntohs(ip->total_length), udp_bytes = ntohs(udp->dgram_len);
    if (ip->version_ihl != RTE_IPV4_VHL_DEF ||
        (ntohs(ip->fragment_offset) & ~RTE_IPV4_HDR_DF_FLAG) ||
        ip_bytes > rte_pktmbuf_data_len(m) - sizeof *ether || ip_bytes < sizeof *ip + sizeof *udp ||
        udp_bytes < sizeof *udp || udp_bytes > ip_bytes - sizeof *ip || m->nb_segs != 1)
        return WIRE_DROP_IP_MALFORMED;
    if (rte_ipv4_cksum(ip) != 0 && ip->hdr_checksum != 0)
        return WIRE_DROP_IP_MALFORMED;
    struct net_endpoint *to = NULL;
    for (uint32_t i = 0; i < net->config.endpoint_count; i++)
        if (net->endpoints[i].config.udp_port == ntohs(udp->dst_port))
            to = &net->endpoints[i];
    if (!to || !net_ipv4_unicast(ntohl(ip->src_addr)))
        return WIRE_DROP_NOT_OURS;
    *ret_packet = (struct net_packet){
        .mbuf = m,
        .bytes = (uint8_t *)(uintptr_t)(udp + 1),
        .length_bytes = udp_bytes - (uint32_t)sizeof *udp,
        .address = {.ipv4 = ntohl(ip->src_addr), .port = ntohs(udp->src_port)},
    };
    *ret_to = to;
    return WIRE_DROP_NONE;
}

void net_ethdev_poll(struct net *net) {
    struct rte_mbuf *burst[NET_BURST_COUNT];
    uint16_t count = rte_eth_rx_burst(net->port, 0, burst, NET_BURST_COUNT);
    for (uint16_t i = 0; i < count; i++) {
        const struct rte_ether_hdr *ether = rte_pktmbuf_mtod(burst[i], void *);
        struct net_packet packet;
        struct net_endpoint *to;
        if (rte_pktmbuf_data_len(burst[i]) >= sizeof *ether &&
            ether->ether_type == htons(RTE_ETHER_TYPE_ARP) &&
            !rte_is_same_ether_addr(&ether->src_addr, &net->mac)) {
            arp_take(net, burst[i]);
            rte_pktmbuf_free(burst[i]);
            continue;
        }
        enum wire_drop drop = parse(net, burst[i], &packet, &to);
        if (drop == WIRE_DROP_NONE && to->fifo_count == NET_FIFO_COUNT)
            drop = WIRE_DROP_RING_FULL;
        if (drop == WIRE_DROP_NONE)
            to->fifo[(to->fifo_head + to->fifo_count++) % NET_FIFO_COUNT] = packet;
        else {
            net->endpoints[0].counters.drops[drop]++;
            rte_pktmbuf_free(burst[i]);
        }
    }
}

/* ---- send ---- */

static bool headers(struct net_endpoint *e, struct net_packet *p) {
    struct net *net = e->net;
    const struct rte_ether_addr *mac = arp_resolve(net, p->address.ipv4);
    if (!mac || p->address.ipv4 == net->config.ipv4) {
        e->counters.drops[mac ? WIRE_DROP_NOT_OURS : WIRE_DROP_UNREACHABLE]++;
        return false;
    }
    rte_pktmbuf_append(p->mbuf, (uint16_t)p->length_bytes);
    struct rte_ether_hdr *ether = (void *)rte_pktmbuf_prepend(p->mbuf, HEADERS_BYTES);
    struct rte_ipv4_hdr *ip = (void *)(ether + 1);
    struct rte_udp_hdr *udp = (void *)(ip + 1);
    ether->dst_addr = *mac;
    ether->src_addr = net->mac;
    ether->ether_type = htons(RTE_ETHER_TYPE_IPV4);
    *ip = (struct rte_ipv4_hdr){
        .version_ihl = RTE_IPV4_VHL_DEF,
        .total_length = htons((uint16_t)(sizeof *ip + sizeof *udp + p->length_bytes)),
        .packet_id = htons(net->ip_id++),
        .fragment_offset = htons(RTE_IPV4_HDR_DF_FLAG),
        .time_to_live = 64,
        .next_proto_id = IPPROTO_UDP,
        .src_addr = htonl(net->config.ipv4),
        .dst_addr = htonl(p->address.ipv4),
    };
    ip->hdr_checksum = rte_ipv4_cksum(ip);
    *udp = (struct rte_udp_hdr){.src_port = htons(e->config.udp_port),
                                .dst_port = htons(p->address.port),
                                .dgram_len = htons((uint16_t)(sizeof *udp + p->length_bytes))};
    udp->dgram_cksum = rte_ipv4_udptcp_cksum(ip, udp);
    return true;
}

void net_ethdev_flush(struct net_endpoint *e) {
    struct rte_mbuf *burst[NET_BURST_COUNT];
    uint16_t count = 0;
    for (uint32_t i = 0; i < e->tx_count; i++)
        if (headers(e, &e->tx[i])) {
            burst[count++] = e->tx[i].mbuf;
            e->counters.tx_bytes += e->tx[i].length_bytes;
        } else
            rte_pktmbuf_free(e->tx[i].mbuf);
    uint16_t sent = count ? rte_eth_tx_burst(e->net->port, 0, burst, count) : 0;
    e->counters.tx_packets += sent;
    e->counters.tx_full += (uint64_t)(count - sent);
    rte_pktmbuf_free_bulk(burst + sent, (unsigned)(count - sent));
}
