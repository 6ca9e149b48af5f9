/* Ethernet, IPv4, UDP and ARP on the ports; by the thread that owns them. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <string.h>
#include <unistd.h>

#include "dataplane/net/internal.h"
#include <maroon/error.h>
#include <rte_arp.h>
#include <rte_ethdev.h>
#include <rte_ip.h>
#include <rte_udp.h>

#define ARP_ASK_US 100000   /* between two questions for one address */
#define ARP_AGE_US 60000000 /* asked again after it, used until answered */
#define PROBE_MS 60         /* for which we listen whether our address is somebody else's */
#define PROBE_AGAIN_MS 20
#define HEADERS_BYTES \
    (sizeof(struct rte_ether_hdr) + sizeof(struct rte_ipv4_hdr) + sizeof(struct rte_udp_hdr))

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

static void arp_send(struct net *net, const struct net_port *port, uint16_t operation,
                     uint32_t from_ipv4, const struct rte_ether_addr *to_mac, uint32_t to_ipv4) {
    struct rte_mbuf *m = rte_pktmbuf_alloc(net->pool);
    if (!m)
        return;
    struct {
        struct rte_ether_hdr ether;
        struct rte_arp_hdr arp;
    } __attribute__((packed, aligned(2))) *frame = (void *)rte_pktmbuf_append(m, sizeof *frame);
    memset(frame, 0, sizeof *frame);
    frame->ether.src_addr = port->mac;
    frame->ether.ether_type = htons(RTE_ETHER_TYPE_ARP);
    memset(&frame->ether.dst_addr, 0xff, sizeof frame->ether.dst_addr);
    if (to_mac)
        frame->ether.dst_addr = frame->arp.arp_data.arp_tha = *to_mac;
    frame->arp.arp_hardware = htons(RTE_ARP_HRD_ETHER);
    frame->arp.arp_protocol = htons(RTE_ETHER_TYPE_IPV4);
    frame->arp.arp_hlen = RTE_ETHER_ADDR_LEN;
    frame->arp.arp_plen = 4;
    frame->arp.arp_opcode = htons(operation);
    frame->arp.arp_data.arp_sha = port->mac;
    frame->arp.arp_data.arp_sip = htonl(from_ipv4);
    frame->arp.arp_data.arp_tip = htonl(to_ipv4);
    if (rte_eth_tx_burst(port->id, 0, &m, 1) != 1)
        rte_pktmbuf_free(m);
}

/* An address whose packets can come straight to us: of our subnet, or the gateway's. */
static bool neighbour(const struct net *net, uint32_t ipv4) {
    uint32_t mask = UINT32_MAX << (32 - net->config.prefix_bits);
    return net_ipv4_unicast(ipv4) && ipv4 != net->config.ipv4 &&
           ((ipv4 & mask) == (net->config.ipv4 & mask) || ipv4 == net->config.gateway_ipv4);
}

/* Whether the frame is well-formed ARP. */
static bool arp_read(const struct rte_mbuf *m, struct rte_arp_hdr *ret_arp) {
    if (rte_pktmbuf_data_len(m) < sizeof(struct rte_ether_hdr) + sizeof *ret_arp)
        return false;
    memcpy(ret_arp, rte_pktmbuf_mtod_offset(m, void *, sizeof(struct rte_ether_hdr)),
           sizeof *ret_arp);
    return ret_arp->arp_hardware == htons(RTE_ARP_HRD_ETHER) &&
           ret_arp->arp_protocol == htons(RTE_ETHER_TYPE_IPV4) &&
           ret_arp->arp_hlen == RTE_ETHER_ADDR_LEN && ret_arp->arp_plen == 4 &&
           rte_is_valid_assigned_ether_addr(&ret_arp->arp_data.arp_sha);
}

/* On af_packet the kernel sees the question, too, and answers. */
static void arp_answer(struct net *net, const struct net_port *port,
                       const struct rte_arp_hdr *asked) {
    if (ntohs(asked->arp_opcode) == RTE_ARP_OP_REQUEST &&
        net->config.fabric != NET_FABRIC_AF_PACKET)
        arp_send(net, port, RTE_ARP_OP_REPLY, net->config.ipv4, &asked->arp_data.arp_sha,
                 ntohl(asked->arp_data.arp_sip));
}

/* Learns from what is meant for us only; whoever else speaks here can't push known ones out. */
static void arp_take(struct net *net, const struct net_port *port, const struct rte_mbuf *m) {
    struct rte_arp_hdr arp;
    bool good = arp_read(m, &arp) && ntohl(arp.arp_data.arp_tip) == net->config.ipv4;
    uint32_t sender = good ? ntohl(arp.arp_data.arp_sip) : 0;
    if (good && !sender) { /* RFC 5227: who would use our address asks whether it is free */
        arp_answer(net, port, &arp);
        return;
    }
    if (!good || !neighbour(net, sender)) {
        net->endpoints[0].counters.drops[WIRE_DROP_NOT_OURS]++;
        return;
    }
    struct net_arp *a = arp_find(net, sender);
    a->mac = arp.arp_data.arp_sha;
    a->known = true;
    a->heard_us = net->now_us;
    arp_answer(net, port, &arp);
}

/* MAC of the next hop, or NULL while it is being asked for. */
static const struct rte_ether_addr *arp_resolve(struct net *net, const struct net_port *port,
                                                uint32_t ipv4) {
    if (!neighbour(net, ipv4))
        ipv4 = net->config.gateway_ipv4;
    if (!ipv4)
        return NULL;
    struct net_arp *a = arp_find(net, ipv4);
    bool old = a->known && net->now_us - a->heard_us > ARP_AGE_US;
    if ((!a->known || old) && (!a->asked_us || net->now_us - a->asked_us >= ARP_ASK_US)) {
        a->asked_us = net->now_us;
        arp_send(net, port, RTE_ARP_OP_REQUEST, net->config.ipv4, NULL, ipv4);
    }
    return a->known ? &a->mac : NULL;
}

/* Whether one of the frames that came says that our address is its sender's. The frames are freed:
 * nobody waits for any yet. */
static bool heard_our_address(const struct net *net, const struct net_port *port,
                              struct rte_ether_addr *ret_mac) {
    struct rte_mbuf *burst[NET_BURST_COUNT];
    struct rte_arp_hdr arp;
    bool heard = false;
    uint16_t count = rte_eth_rx_burst(port->id, 0, burst, NET_BURST_COUNT);
    for (uint16_t i = 0; i < count; i++) {
        const struct rte_ether_hdr *ether = rte_pktmbuf_mtod(burst[i], void *);
        if (ether->ether_type == htons(RTE_ETHER_TYPE_ARP) && arp_read(burst[i], &arp) &&
            ntohl(arp.arp_data.arp_sip) == net->config.ipv4 &&
            !rte_is_same_ether_addr(&arp.arp_data.arp_sha, &port->mac)) {
            *ret_mac = arp.arp_data.arp_sha;
            heard = true;
        }
    }
    rte_pktmbuf_free_bulk(burst, count);
    return heard;
}

bool net_ethdev_address_taken(struct net *net, struct rte_ether_addr *ret_mac) {
    for (uint32_t p = 0; p < net->port_count; p++) {
        const struct net_port *port = &net->ports[p];
        if (port->peer_ipv4 || net->config.fabric == NET_FABRIC_RING)
            continue; /* between two, or within this process */
        for (uint32_t ms = 0; ms < PROBE_MS; ms++) {
            if (ms % PROBE_AGAIN_MS == 0) /* from no address: nobody learns a wrong one */
                arp_send(net, port, RTE_ARP_OP_REQUEST, 0, NULL, net->config.ipv4);
            usleep(1000);
            if (heard_our_address(net, port, ret_mac))
                return true;
        }
    }
    return false;
}

/* ---- receive ---- */

static enum wire_drop parse(struct net *net, const struct net_port *port, struct rte_mbuf *m,
                            struct net_packet *ret_packet, struct net_endpoint **ret_to) {
    const struct rte_ether_hdr *ether = rte_pktmbuf_mtod(m, void *);
    if (rte_pktmbuf_data_len(m) < HEADERS_BYTES || ether->ether_type != htons(RTE_ETHER_TYPE_IPV4))
        return WIRE_DROP_NOT_OURS;
    if (!port->peer_ipv4 && rte_is_same_ether_addr(&ether->src_addr, &port->mac))
        return WIRE_DROP_OUTGOING; /* af_packet shows what the kernel sends, too */
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
    if ((m->ol_flags & RTE_MBUF_F_RX_IP_CKSUM_MASK) == RTE_MBUF_F_RX_IP_CKSUM_BAD ||
        (m->ol_flags & RTE_MBUF_F_RX_L4_CKSUM_MASK) == RTE_MBUF_F_RX_L4_CKSUM_BAD)
        return WIRE_DROP_UDP_CHECKSUM;
    if (rte_ipv4_cksum(ip) != 0)
        return WIRE_DROP_IP_MALFORMED;
    if (udp_bytes - sizeof *udp > net_payload_max_bytes(net))
        return WIRE_DROP_FRAME_LENGTH;
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

static void take(struct net *net, const struct net_port *port, struct rte_mbuf *m) {
    const struct rte_ether_hdr *ether = rte_pktmbuf_mtod(m, void *);
    struct net_packet packet;
    struct net_endpoint *to;
    if (rte_pktmbuf_data_len(m) >= sizeof *ether &&
        ether->ether_type == htons(RTE_ETHER_TYPE_ARP) &&
        !rte_is_same_ether_addr(&ether->src_addr, &port->mac)) {
        arp_take(net, port, m);
        rte_pktmbuf_free(m);
        return;
    }
    enum wire_drop drop = parse(net, port, m, &packet, &to);
    if (drop == WIRE_DROP_NONE && to->rx_ring) {
        if (net_lcores_hand_in(to, &packet))
            return;
        drop = WIRE_DROP_RING_FULL;
    } else if (drop == WIRE_DROP_NONE && to->fifo_count == NET_FIFO_COUNT)
        drop = WIRE_DROP_RING_FULL;
    if (drop == WIRE_DROP_NONE)
        to->fifo[(to->fifo_head + to->fifo_count++) % NET_FIFO_COUNT] = packet;
    else {
        net->endpoints[0].counters.drops[drop]++;
        rte_pktmbuf_free(m);
    }
}

uint32_t net_ethdev_poll(struct net *net) {
    struct rte_mbuf *burst[NET_BURST_COUNT];
    uint32_t total = 0;
    for (uint32_t p = 0; p < net->port_count; p++) {
        const struct net_port *port = &net->ports[p];
        uint16_t count = rte_eth_rx_burst(port->id, 0, burst, NET_BURST_COUNT);
        for (uint16_t i = 0; i < count; i++)
            take(net, port, burst[i]);
        total += count;
    }
    return total;
}

/* ---- send ---- */

/* The port behind which the address lies: its own, or the segment. */
static struct net_port *port_of(struct net *net, uint32_t ipv4) {
    struct net_port *segment = NULL;
    for (uint32_t i = 0; i < net->port_count; i++) {
        if (net->ports[i].peer_ipv4 == ipv4)
            return &net->ports[i];
        if (!net->ports[i].peer_ipv4)
            segment = &net->ports[i];
    }
    return segment;
}

static struct net_port *headers(struct net *net, uint16_t source_port, struct net_packet *p,
                                uint64_t drops[WIRE_DROP_COUNT]) {
    static const struct rte_ether_addr whoever = {{2, 0, 0, 0, 0, 1}}; /* there is only one */
    struct net_port *port = port_of(net, p->address.ipv4);
    bool own = p->address.ipv4 == net->config.ipv4; /* before somebody is asked for it */
    const struct rte_ether_addr *mac = !port || own      ? NULL
                                       : port->peer_ipv4 ? &whoever
                                                         : arp_resolve(net, port, p->address.ipv4);
    if (!mac) {
        drops[own ? WIRE_DROP_NOT_OURS : WIRE_DROP_UNREACHABLE]++;
        return NULL;
    }
    rte_pktmbuf_append(p->mbuf, (uint16_t)p->length_bytes);
    struct rte_ether_hdr *ether = (void *)rte_pktmbuf_prepend(p->mbuf, HEADERS_BYTES);
    struct rte_ipv4_hdr *ip = (void *)(ether + 1);
    struct rte_udp_hdr *udp = (void *)(ip + 1);
    ether->dst_addr = *mac;
    ether->src_addr = port->mac;
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
    *udp = (struct rte_udp_hdr){.src_port = htons(source_port),
                                .dst_port = htons(p->address.port),
                                .dgram_len = htons((uint16_t)(sizeof *udp + p->length_bytes))};
    if (port->checksums) { /* the port fills both in; it wants the sum of the pseudo header */
        p->mbuf->l2_len = sizeof *ether;
        p->mbuf->l3_len = sizeof *ip;
        p->mbuf->ol_flags |= RTE_MBUF_F_TX_IPV4 | RTE_MBUF_F_TX_IP_CKSUM | RTE_MBUF_F_TX_UDP_CKSUM;
        udp->dgram_cksum = rte_ipv4_phdr_cksum(ip, p->mbuf->ol_flags);
    } else {
        ip->hdr_checksum = rte_ipv4_cksum(ip);
        if (!port->peer_ipv4) /* to one peer it goes through memory; 0: none (RFC 768) */
            udp->dgram_cksum = rte_ipv4_udptcp_cksum(ip, udp);
    }
    return port;
}

static void port_flush(struct net_endpoint *counted, struct net_port *port) {
    uint16_t count = port->tx_count;
    if (!count)
        return;
    uint16_t sent = rte_eth_tx_burst(port->id, 0, port->tx, count);
    counted->counters.tx_packets += sent;
    counted->counters.tx_full += (uint64_t)(count - sent);
    rte_pktmbuf_free_bulk(port->tx + sent, (unsigned)(count - sent));
    port->tx_count = 0;
}

/* Counted where the owner's thread may write: at `from`, or at the first endpoint for another's. */
void net_ethdev_send(struct net *net, struct net_endpoint *from, struct net_packet *packets,
                     uint32_t count) {
    struct net_endpoint *counted = from->tx_ring ? &net->endpoints[0] : from;
    for (uint32_t i = 0; i < count; i++) {
        struct net_port *port =
            headers(net, from->config.udp_port, &packets[i], counted->counters.drops);
        if (!port) {
            rte_pktmbuf_free(packets[i].mbuf);
            continue;
        }
        counted->counters.tx_bytes += packets[i].length_bytes;
        port->tx[port->tx_count++] = packets[i].mbuf;
        if (port->tx_count == NET_BURST_COUNT)
            port_flush(counted, port);
    }
    for (uint32_t i = 0; i < net->port_count; i++)
        port_flush(counted, &net->ports[i]);
}
