/* Ethernet, IPv4, UDP and ARP, frame by frame: a net of fabric ring whose one port is a segment;
 * the other end of the link is ours, byte by byte. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "dataplane/net/net.h"
#include <rte_mbuf.h>
#include <rte_ring.h>

#define OWN UINT32_C(0x0a000001)
#define PEER UINT32_C(0x0a000002)
#define ROUTER UINT32_C(0x0a0000fe)
#define FAR UINT32_C(0x0b000005)
#define PORT 3000
#define OTHER_PORT 13000
#define ETHER 14
#define IP 20
#define UDP 8
#define ARP_BYTES 28

static const uint8_t peer_mac[6] = {2, 0, 0, 0, 0, 9}, router_mac[6] = {2, 0, 0, 0, 0, 8};

static struct net *net;
static struct net_endpoint *first, *second; /* on different threads, by config */
static struct rte_mempool *pool;
static struct rte_ring *to_net, *from_net;
static uint64_t now_us = 1000000;

/* ---- our end ---- */

static void put16(uint8_t *at, uint32_t value) {
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value) {
    put16(at, value >> 16);
    put16(at + 2, value & 0xffff);
}

static uint32_t get16(const uint8_t *at) {
    return (uint32_t)at[0] << 8 | at[1];
}

static uint32_t get32(const uint8_t *at) {
    return get16(at) << 16 | get16(at + 2);
}

/* RFC 1071, our own: the code under test has another. */
static uint32_t sum(const uint8_t *at, uint32_t count, uint32_t total) {
    for (uint32_t i = 0; i + 1 < count; i += 2)
        total += get16(at + i);
    if (count % 2)
        total += (uint32_t)at[count - 1] << 8;
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return total;
}

static void seal_ip(uint8_t *frame) {
    uint8_t *ip = frame + ETHER;
    put16(ip + 10, 0);
    put16(ip + 10, ~sum(ip, (ip[0] & 15u) * 4, 0) & 0xffff);
}

/* A good datagram; returns the frame's length. */
static uint32_t datagram(uint8_t *frame, uint16_t to_port, uint32_t payload_bytes) {
    memset(frame, 0, ETHER + IP + UDP);
    memset(frame, 2, 6);
    memcpy(frame + 6, peer_mac, 6);
    put16(frame + 12, 0x0800);
    uint8_t *ip = frame + ETHER, *udp = ip + IP;
    ip[0] = 0x45;
    put16(ip + 2, IP + UDP + payload_bytes);
    put16(ip + 6, 0x4000);
    ip[8] = 64;
    ip[9] = 17;
    put32(ip + 12, PEER);
    put32(ip + 16, OWN);
    put16(udp, 4000);
    put16(udp + 2, to_port);
    put16(udp + 4, UDP + payload_bytes);
    for (uint32_t i = 0; i < payload_bytes; i++)
        udp[UDP + i] = (uint8_t)(i * 7);
    seal_ip(frame);
    return ETHER + IP + UDP + payload_bytes;
}

static uint32_t arp(uint8_t *frame, uint32_t operation, const uint8_t *mac, uint32_t from,
                    uint32_t asked) {
    memset(frame, 0, ETHER + ARP_BYTES);
    memset(frame, 0xff, 6);
    memcpy(frame + 6, mac, 6);
    put16(frame + 12, 0x0806);
    uint8_t *at = frame + ETHER;
    put16(at, 1);
    put16(at + 2, 0x0800);
    at[4] = 6;
    at[5] = 4;
    put16(at + 6, operation);
    memcpy(at + 8, mac, 6);
    put32(at + 14, from);
    put32(at + 24, asked);
    return ETHER + ARP_BYTES;
}

static void inject_flagged(const uint8_t *frame, uint32_t length, uint64_t flags) {
    struct rte_mbuf *m = rte_pktmbuf_alloc(pool);
    assert_non_null(m);
    memcpy(rte_pktmbuf_append(m, (uint16_t)length), frame, length);
    m->ol_flags |= flags;
    assert_int_equal(rte_ring_enqueue(to_net, m), 0);
}

static void inject(const uint8_t *frame, uint32_t length) {
    inject_flagged(frame, length, 0);
}

/* The next frame that net sent; 0: none. */
static uint32_t sent(uint8_t *frame) {
    void *m;
    if (rte_ring_dequeue(from_net, &m))
        return 0;
    uint32_t length = rte_pktmbuf_pkt_len((struct rte_mbuf *)m);
    memcpy(frame, rte_pktmbuf_mtod((struct rte_mbuf *)m, void *), length);
    rte_pktmbuf_free(m);
    return length;
}

static uint64_t dropped(enum wire_drop reason) {
    struct net_counters c;
    net_endpoint_counters(first, &c);
    return c.drops[reason];
}

static uint64_t dropped_all(void) {
    uint64_t total = 0;
    for (uint32_t i = 0; i < WIRE_DROP_COUNT; i++)
        total += dropped((enum wire_drop)i);
    return total;
}

static uint32_t receive(struct net_endpoint *e, struct net_packet *packet) {
    return net_rx(e, ++now_us, packet, 1);
}

/* The frame is dropped, for this reason and no other. */
static void refuses_flagged(const uint8_t *frame, uint32_t length, uint64_t flags,
                            enum wire_drop reason) {
    struct net_packet packet;
    uint64_t before = dropped(reason), all = dropped_all();
    inject_flagged(frame, length, flags);
    assert_int_equal(receive(first, &packet), 0);
    assert_int_equal(receive(second, &packet), 0);
    assert_int_equal(dropped(reason), before + 1);
    assert_int_equal(dropped_all(), all + 1);
}

static void refuses(const uint8_t *frame, uint32_t length, enum wire_drop reason) {
    refuses_flagged(frame, length, 0, reason);
}

static void send_to(uint32_t ipv4, uint32_t payload_bytes) {
    struct net_packet p;
    assert_true(net_packet_alloc(first, &p));
    for (uint32_t i = 0; i < payload_bytes; i++)
        p.bytes[i] = (uint8_t)(i * 11 + 1);
    p.length_bytes = payload_bytes;
    p.address = (struct net_address){.ipv4 = ipv4, .port = 4000};
    net_tx(first, &p, 1);
    net_flush(first);
}

/* ---- the tests ---- */

static void takes_what_is_ours(void **state) {
    (void)state;
    uint8_t frame[2048];
    static const uint32_t lengths[] = {0, 1, 33, NET_PAYLOAD_MAX_BYTES};
    for (uint32_t i = 0; i < 4; i++) {
        struct net_packet p;
        uint32_t length = datagram(frame, PORT, lengths[i]);
        inject(frame, length < 60 ? 60 : length); /* Ethernet pads short frames */
        assert_int_equal(receive(first, &p), 1);
        assert_int_equal(p.length_bytes, lengths[i]);
        assert_int_equal(p.address.ipv4, PEER);
        assert_int_equal(p.address.port, 4000);
        assert_memory_equal(p.bytes, frame + ETHER + IP + UDP, lengths[i]);
        net_packets_free(&p, 1);
    }
}

static void hands_to_the_other_thread(void **state) {
    (void)state;
    uint8_t frame[256];
    struct net_packet p;
    inject(frame, datagram(frame, OTHER_PORT, 20));
    assert_int_equal(receive(second, &p), 0); /* the owner of the ports has not looked */
    assert_int_equal(receive(first, &p), 0);
    assert_int_equal(receive(second, &p), 1);
    assert_int_equal(p.length_bytes, 20);
    net_packets_free(&p, 1);
    uint64_t full = dropped(WIRE_DROP_RING_FULL);
    for (uint32_t i = 0; i < 600; i++) { /* nobody takes them */
        inject(frame, datagram(frame, OTHER_PORT, 20));
        assert_int_equal(receive(first, &p), 0);
    }
    full = dropped(WIRE_DROP_RING_FULL) - full;
    uint32_t taken = 0;
    for (; receive(second, &p); taken++)
        net_packets_free(&p, 1);
    assert_true(full > 0);
    assert_int_equal(taken + full, 600);
}

static void refuses_what_is_not_ours(void **state) {
    (void)state;
    uint8_t frame[256];
    uint32_t length = datagram(frame, PORT + 1, 20);
    refuses(frame, length, WIRE_DROP_NOT_OURS);
    length = datagram(frame, PORT, 20);
    put32(frame + ETHER + 16, OWN + 5);
    seal_ip(frame);
    refuses(frame, length, WIRE_DROP_NOT_OURS);
    length = datagram(frame, PORT, 20);
    frame[ETHER + 9] = 6; /* TCP */
    seal_ip(frame);
    refuses(frame, length, WIRE_DROP_NOT_OURS);
    length = datagram(frame, PORT, 20);
    put16(frame + 12, 0x86dd); /* IPv6 */
    refuses(frame, length, WIRE_DROP_NOT_OURS);
    static const uint32_t nobody[] = {0, 0xe0000001, 0xffffffff}; /* can't be answered */
    for (uint32_t i = 0; i < 3; i++) {
        length = datagram(frame, PORT, 20);
        put32(frame + ETHER + 12, nobody[i]);
        seal_ip(frame);
        refuses(frame, length, WIRE_DROP_NOT_OURS);
    }
}

static void refuses_every_truncation(void **state) {
    (void)state;
    uint8_t frame[256];
    uint32_t length = datagram(frame, PORT, 20);
    for (uint32_t cut = 1; cut < length; cut++)
        refuses(frame, cut, cut < ETHER + IP + UDP ? WIRE_DROP_NOT_OURS : WIRE_DROP_IP_MALFORMED);
}

static void refuses_wrong_lengths(void **state) {
    (void)state;
    uint8_t frame[2048];
    static const uint32_t ip_lengths[] = {0, 19, 20, 27, IP + UDP + 21, 65535};
    static const uint32_t udp_lengths[] = {0, 7, UDP + 21, 65535};
    for (uint32_t i = 0; i < 6; i++) {
        uint32_t length = datagram(frame, PORT, 20);
        put16(frame + ETHER + 2, ip_lengths[i]);
        seal_ip(frame);
        refuses(frame, length, WIRE_DROP_IP_MALFORMED);
    }
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t length = datagram(frame, PORT, 20);
        put16(frame + ETHER + IP + 4, udp_lengths[i]);
        refuses(frame, length, WIRE_DROP_IP_MALFORMED);
    }
    refuses(frame, datagram(frame, PORT, NET_PAYLOAD_MAX_BYTES + 1), WIRE_DROP_FRAME_LENGTH);
    refuses(frame, datagram(frame, PORT, 1900), WIRE_DROP_FRAME_LENGTH);
}

static void refuses_options_and_fragments(void **state) {
    (void)state;
    uint8_t frame[256];
    static const uint8_t heads[] = {0x46, 0x4f, 0x44, 0x40, 0x65}; /* options, too short, version */
    for (uint32_t i = 0; i < sizeof heads; i++) {
        uint32_t length = datagram(frame, PORT, 60);
        frame[ETHER] = heads[i];
        seal_ip(frame);
        refuses(frame, length, WIRE_DROP_IP_MALFORMED);
    }
    static const uint32_t fragments[] = {0x2000, 0x6000, 1, 0x2001, 0x1fff};
    for (uint32_t i = 0; i < 5; i++) {
        uint32_t length = datagram(frame, PORT, 60);
        put16(frame + ETHER + 6, fragments[i]);
        seal_ip(frame);
        refuses(frame, length, WIRE_DROP_IP_MALFORMED);
    }
}

static void refuses_bad_checksums(void **state) {
    (void)state;
    uint8_t frame[256];
    uint32_t length = datagram(frame, PORT, 20);
    frame[ETHER + 10] ^= 1;
    refuses(frame, length, WIRE_DROP_IP_MALFORMED);
    datagram(frame, PORT, 20);
    put16(frame + ETHER + 10, 0); /* none is not right either */
    refuses(frame, length, WIRE_DROP_IP_MALFORMED);
    datagram(frame, PORT, 20); /* what the hardware found */
    refuses_flagged(frame, length, RTE_MBUF_F_RX_L4_CKSUM_BAD, WIRE_DROP_UDP_CHECKSUM);
    refuses_flagged(frame, length, RTE_MBUF_F_RX_IP_CKSUM_BAD, WIRE_DROP_UDP_CHECKSUM);
}

/* Millions of these are made by the fuzzer of the frames above; here: the edge alone, quickly. */
static void survives_noise(void **state) {
    (void)state;
    uint8_t frame[2048];
    uint32_t random = 99, taken = 0;
    uint64_t before = dropped_all();
    for (uint32_t i = 0; i < 50000; i++) {
        uint32_t length = datagram(frame, i % 2 ? PORT : OTHER_PORT, i % 600);
        for (uint32_t k = 0; k < 1 + i % 4; k++) {
            random = random * 1664525 + 1013904223;
            frame[(random >> 8) % (k % 2 ? length : ETHER + IP + UDP)] = (uint8_t)(random >> 24);
        }
        if (i % 3 == 0)
            seal_ip(frame);
        struct net_packet p;
        inject(frame, 1 + (random >> 8) % length);
        inject(frame, length);
        for (uint32_t k = 0; k < 3; k++) {
            struct net_endpoint *e = k % 2 ? second : first;
            for (; receive(e, &p); taken++) {
                assert_true(p.length_bytes <= NET_PAYLOAD_MAX_BYTES);
                net_packets_free(&p, 1);
            }
        }
        while (sent(frame)) /* answers to what looked like ARP */
            ;
    }
    uint64_t lost = dropped_all() - before;
    assert_true(taken > 10000 && lost > 10000);
    assert_true(taken + lost <= 100000 && taken + lost > 99900); /* the rest was good ARP */
}

static void answers_arp(void **state) {
    (void)state;
    uint8_t frame[256];
    struct net_packet p;
    inject(frame, arp(frame, 1, peer_mac, PEER, OWN));
    assert_int_equal(receive(first, &p), 0);
    assert_int_equal(sent(frame), ETHER + ARP_BYTES);
    assert_memory_equal(frame, peer_mac, 6);
    assert_int_equal(get16(frame + ETHER + 6), 2); /* a reply */
    assert_int_equal(get32(frame + ETHER + 14), OWN);
    assert_int_equal(get32(frame + ETHER + 24), PEER);
    assert_memory_equal(frame + 6, frame + ETHER + 8, 6); /* its own MAC */
    uint8_t mac[6] = {0};
    assert_memory_not_equal(frame + 6, mac, 6);
    uint8_t own_mac[6];
    memcpy(own_mac, frame + 6, 6);
    inject(frame, arp(frame, 1, router_mac, 0, OWN)); /* is our address free? */
    assert_int_equal(receive(first, &p), 0);
    assert_int_equal(sent(frame), ETHER + ARP_BYTES);
    assert_memory_equal(frame, router_mac, 6);
    assert_memory_equal(frame + ETHER + 8, own_mac, 6);
    assert_int_equal(get32(frame + ETHER + 14), OWN);
    uint64_t before = dropped(WIRE_DROP_NOT_OURS);
    static const uint8_t group_mac[6] = {1, 0, 0x5e, 0, 0, 1};
    inject(frame, arp(frame, 1, peer_mac, PEER, OWN + 7)); /* somebody else is asked */
    inject(frame, arp(frame, 1, peer_mac, OWN, OWN));      /* says it is us */
    inject(frame, arp(frame, 1, group_mac, PEER, OWN));
    inject(frame, arp(frame, 1, peer_mac, FAR, OWN)); /* of another subnet */
    inject(frame, arp(frame, 1, peer_mac, PEER, OWN) - 1);
    assert_int_equal(receive(first, &p), 0);
    assert_int_equal(sent(frame), 0);
    assert_int_equal(dropped(WIRE_DROP_NOT_OURS), before + 5);
}

/* PEER is known from above. */
static void sends_right_frames(void **state) {
    (void)state;
    uint8_t frame[2048];
    static const uint32_t lengths[] = {1, 2, 33, 1000, NET_PAYLOAD_MAX_BYTES};
    for (uint32_t i = 0; i < 5; i++) {
        uint32_t n = lengths[i];
        send_to(PEER, n);
        assert_int_equal(sent(frame), ETHER + IP + UDP + n);
        assert_memory_equal(frame, peer_mac, 6);
        const uint8_t *ip = frame + ETHER, *udp = ip + IP;
        assert_int_equal(ip[0], 0x45);
        assert_int_equal(get16(ip + 2), IP + UDP + n);
        assert_int_equal(get16(ip + 6), 0x4000);
        assert_int_equal(get32(ip + 12), OWN);
        assert_int_equal(get32(ip + 16), PEER);
        assert_int_equal(get16(udp), PORT);
        assert_int_equal(get16(udp + 2), 4000);
        assert_int_equal(get16(udp + 4), UDP + n);
        assert_int_equal(sum(ip, IP, 0), 0xffff);
        uint32_t pseudo = sum(ip + 12, 8, 17 + UDP + n);
        assert_int_equal(sum(udp, UDP + n, pseudo), 0xffff);
        for (uint32_t k = 0; k < n; k++)
            assert_int_equal(udp[UDP + k], (uint8_t)(k * 11 + 1));
    }
}

static void asks_for_the_next_hop(void **state) {
    (void)state;
    uint8_t frame[256];
    struct net_packet p;
    uint64_t before = dropped(WIRE_DROP_UNREACHABLE);
    for (uint32_t i = 0; i < 10; i++)
        send_to(FAR, 20);
    assert_int_equal(dropped(WIRE_DROP_UNREACHABLE), before + 10);
    assert_int_equal(sent(frame), ETHER + ARP_BYTES); /* one question, about the router */
    assert_int_equal(get16(frame + ETHER + 6), 1);
    assert_int_equal(get32(frame + ETHER + 24), ROUTER);
    assert_int_equal(sent(frame), 0);
    now_us += 200000;
    assert_int_equal(receive(first, &p), 0);
    send_to(FAR, 20); /* asked again after a while */
    assert_int_equal(sent(frame), ETHER + ARP_BYTES);
    inject(frame, arp(frame, 2, router_mac, ROUTER, OWN));
    assert_int_equal(receive(first, &p), 0);
    send_to(FAR, 20);
    assert_int_equal(sent(frame), ETHER + IP + UDP + 20);
    assert_memory_equal(frame, router_mac, 6);
    assert_int_equal(get32(frame + ETHER + 16), FAR);
    assert_int_equal(sent(frame), 0);
}

/* A flood of neighbours that ask does not push out the one we speak to. */
static void keeps_busy_neighbours(void **state) {
    (void)state;
    uint8_t frame[256];
    struct net_packet p;
    for (uint32_t i = 0; i < 200; i++) {
        uint8_t mac[6] = {2, 1, 0, 0, 0, (uint8_t)i};
        now_us += 1000;
        inject(frame, arp(frame, 1, mac, 0x0a000010 + i, OWN));
        inject(frame, arp(frame, 2, peer_mac, PEER, OWN));
        assert_int_equal(receive(first, &p), 0);
        assert_int_equal(sent(frame), ETHER + ARP_BYTES);
        send_to(PEER, 20);
        assert_int_equal(sent(frame), ETHER + IP + UDP + 20);
    }
}

static void refuses_to_send_nonsense(void **state) {
    (void)state;
    uint8_t frame[256];
    uint64_t lengths = dropped(WIRE_DROP_FRAME_LENGTH), ours = dropped(WIRE_DROP_NOT_OURS);
    send_to(PEER, 0);
    send_to(PEER, NET_PAYLOAD_MAX_BYTES + 1);
    send_to(0xe0000001, 20);
    send_to(OWN, 20);
    assert_int_equal(sent(frame), 0);
    assert_int_equal(dropped(WIRE_DROP_FRAME_LENGTH), lengths + 2);
    assert_int_equal(dropped(WIRE_DROP_NOT_OURS), ours + 2);
}

/* ---- the net of all tests ---- */

static int open_net(void **state) {
    (void)state;
    char text[NET_TEXT_BYTES] = "";
    struct net_config c = {.fabric = NET_FABRIC_RING,
                           .ipv4 = OWN,
                           .gateway_ipv4 = ROUTER,
                           .port_count = 1,
                           .endpoint_count = 2,
                           .eal = {.hugepages = NET_HUGEPAGES_OFF, .memory_mb = 96}};
    c.ports[0].server = true;
    snprintf(c.ports[0].device, sizeof c.ports[0].device, "segment");
    c.endpoints[0] = (struct net_endpoint_config){WIRE_STAGE_INGRESS, 0, PORT};
    c.endpoints[1] = (struct net_endpoint_config){WIRE_STAGE_GOSSIP, 1, OTHER_PORT};
    if (net_start(&c, &net, text)) {
        fprintf(stderr, "%s\n", text);
        return -1;
    }
    first = net_endpoint(net, WIRE_STAGE_INGRESS);
    second = net_endpoint(net, WIRE_STAGE_GOSSIP);
    from_net = rte_ring_lookup("mrn-link-0"); /* to the client's side, which is ours */
    to_net = rte_ring_lookup("mrn-link-1");
    pool = rte_pktmbuf_pool_create("test", 1023, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
    return first && second && from_net && to_net && pool ? 0 : -1;
}

/* Every buffer is back where it came from. */
static int close_net(void **state) {
    (void)state;
    uint32_t held = net_stop(net), ours = rte_mempool_in_use_count(pool);
    if (held || ours)
        fprintf(stderr, "buffers not given back: %u of net, %u of the test\n", held, ours);
    net_eal_stop();
    return held || ours ? -1 : 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_what_is_ours),
        cmocka_unit_test(hands_to_the_other_thread),
        cmocka_unit_test(refuses_what_is_not_ours),
        cmocka_unit_test(refuses_every_truncation),
        cmocka_unit_test(refuses_wrong_lengths),
        cmocka_unit_test(refuses_options_and_fragments),
        cmocka_unit_test(refuses_bad_checksums),
        cmocka_unit_test(survives_noise),
        cmocka_unit_test(answers_arp),
        cmocka_unit_test(sends_right_frames),
        cmocka_unit_test(asks_for_the_next_hop),
        cmocka_unit_test(keeps_busy_neighbours),
        cmocka_unit_test(refuses_to_send_nonsense),
    };
    return cmocka_run_group_tests(tests, open_net, close_net);
}
