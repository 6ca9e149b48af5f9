/* The table of sessions: introductions, impostors, restarts, a full table. Each table has its own
 * memory; packets go from one to the other by hand. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/net/session.h"

#define CONFIGURATION UINT64_C(0x1122334455667788)
#define GATEWAYS 4

static const struct net_address node_address[2] = {{0x0a000001, 3000, 0}, {0x0a000002, 3000, 0}};

struct place {
    struct net_sessions *table;
    struct net_address address;
    uint64_t now_us;
};

static struct net_session_config node_config(uint8_t index) {
    return (struct net_session_config){.session = 100u + index,
                                       .role = WIRE_ROLE_NODE,
                                       .index = index,
                                       .stage = WIRE_STAGE_GOSSIP,
                                       .incarnation = 1,
                                       .process_token = 1000u + index,
                                       .configuration_id = CONFIGURATION,
                                       .ranges = {WIRE_RANGE_NONE, WIRE_RANGE_NONE},
                                       .capacity = GATEWAYS};
}

static struct net_session_config gateway_config(uint32_t number) {
    return (struct net_session_config){.session = 5000 + number,
                                       .role = WIRE_ROLE_GATEWAY,
                                       .stage = WIRE_STAGE_INGRESS,
                                       .incarnation = 70 + number,
                                       .process_token = 9000 + number,
                                       .ranges = {number, WIRE_RANGE_NONE},
                                       .capacity = 16};
}

static struct place place_at(const struct net_session_config *config, struct net_address address) {
    size_t bytes = (net_sessions_size(config->capacity) + 63) & ~(size_t)63;
    struct place p = {.address = address, .now_us = 1000000};
    void *memory = aligned_alloc(64, bytes);
    assert_non_null(memory);
    p.table = net_sessions_init(memory, config);
    return p;
}

static void gone(struct place *p) {
    net_sessions_check(p->table);
    free(p->table);
}

/* One HELLO from `from` to `to`, if one is due for its address. Returns what `to` said. */
static bool hello(struct place *from, struct place *to, enum wire_drop *ret_drop) {
    uint8_t bytes[NET_HELLO_PACKET_BYTES];
    uint32_t length;
    struct net_address address;
    struct net_received received;
    while (net_session_hello_next(from->table, from->now_us, bytes, &length, &address)) {
        assert_int_equal(length, NET_HELLO_PACKET_BYTES);
        if (!net_address_equal(address, to->address))
            continue;
        *ret_drop =
            net_session_receive(to->table, bytes, length, from->address, to->now_us, &received);
        assert_true(*ret_drop != WIRE_DROP_NONE || (received.hello && received.peer));
        return true;
    }
    return false;
}

static void introduce(struct place *a, struct place *b) {
    enum wire_drop drop;
    bool any = true;
    for (int i = 0; i < 8 && any; i++) {
        any = hello(a, b, &drop);
        any |= hello(b, a, &drop);
    }
    assert_false(any); /* it comes to rest */
}

/* A packet of data that `from` believes to be known to `to`. */
static enum wire_drop data(struct place *from, struct net_peer *peer, struct place *to,
                           struct net_address source, struct net_peer **ret_sender) {
    uint8_t bytes[256];
    struct wire_writer writer;
    struct net_received received;
    net_session_packet_begin(from->table, peer, &writer, bytes, sizeof bytes);
    assert_non_null(wire_writer_frame(&writer, WIRE_PING, 0, sizeof(struct wire_ping)));
    uint32_t length = net_session_packet_end(from->table, &writer);
    enum wire_drop drop =
        net_session_receive(to->table, bytes, length, source, to->now_us, &received);
    if (drop == WIRE_DROP_NONE)
        *ret_sender = received.peer;
    return drop;
}

static void two_nodes(struct place p[2]) {
    for (uint8_t i = 0; i < 2; i++) {
        struct net_session_config c = node_config(i);
        p[i] = place_at(&c, node_address[i]);
        assert_non_null(net_session_add_node(p[i].table, !i, node_address[!i]));
    }
}

static uint32_t gateways_known(struct net_sessions *table) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < net_session_peer_max(table); i++)
        count += net_session_peer(table, i)->role == WIRE_ROLE_GATEWAY;
    return count;
}

static void nodes_come_to_know_each_other(void **state) {
    (void)state;
    struct place p[2];
    struct net_peer *sender = NULL;
    two_nodes(p);
    introduce(&p[0], &p[1]);
    for (uint8_t i = 0; i < 2; i++) {
        struct net_peer *other = net_session_node(p[i].table, !i);
        assert_non_null(other);
        assert_true(other->knows_us);
        assert_int_equal(other->session, 100 + !i);
        enum wire_drop drop;
        assert_false(hello(&p[i], &p[!i], &drop)); /* none is due */
        assert_int_equal(data(&p[i], other, &p[!i], p[i].address, &sender), WIRE_DROP_NONE);
        assert_ptr_equal(sender, net_session_node(p[!i].table, i));
    }
    gone(&p[0]);
    gone(&p[1]);
}

static void an_impostor_is_not_a_peer(void **state) {
    (void)state;
    struct place p[2];
    struct net_peer *sender = NULL;
    two_nodes(p);
    introduce(&p[0], &p[1]);
    struct net_peer *one = net_session_node(p[0].table, 1);
    struct net_address elsewhere = {0x0a0000ff, 3000, 0}, other_port = {0x0a000001, 3001, 0};
    assert_int_equal(data(&p[0], one, &p[1], elsewhere, &sender), WIRE_DROP_SESSION_ADDRESS);
    assert_int_equal(data(&p[0], one, &p[1], other_port, &sender), WIRE_DROP_SESSION_ADDRESS);
    struct net_session_config c = node_config(0); /* says it is node 0, from an unknown address */
    c.session = 666;
    struct place impostor = place_at(&c, elsewhere);
    net_session_add_node(impostor.table, 1, node_address[1]);
    enum wire_drop drop;
    assert_true(hello(&impostor, &p[1], &drop));
    assert_int_equal(drop, WIRE_DROP_SESSION_ADDRESS);
    assert_int_equal(net_session_last_refusal(p[1].table)->hello.session, 666);
    assert_int_equal(net_session_node(p[1].table, 0)->session, 100);
    gone(&impostor);
    gone(&p[0]);
    gone(&p[1]);
}

static void an_unknown_session_is_asked_once(void **state) {
    (void)state;
    struct place p[2];
    struct net_peer *sender = NULL;
    two_nodes(p);
    introduce(&p[0], &p[1]);
    struct net_peer *one = net_session_node(p[0].table, 1);
    struct net_session_config c = node_config(1); /* node 1 starts again: knows nobody */
    c.session = 201;
    c.process_token = 77;
    gone(&p[1]);
    p[1] = place_at(&c, node_address[1]);
    net_session_add_node(p[1].table, 0, node_address[0]);
    enum wire_drop drop;
    while (hello(&p[1], &p[0], &drop)) /* its first HELLO of its own is lost */
        break;
    for (int i = 0; i < 100; i++)
        assert_int_equal(data(&p[0], one, &p[1], p[0].address, &sender), WIRE_DROP_SESSION_UNKNOWN);
    uint8_t bytes[NET_HELLO_PACKET_BYTES];
    uint32_t length, answers = 0;
    struct net_address to;
    while (net_session_hello_next(p[1].table, p[1].now_us, bytes, &length, &to))
        answers++;
    assert_int_equal(answers, 1);
    p[1].now_us += NET_HELLO_MIN_US;
    assert_int_equal(data(&p[0], one, &p[1], p[0].address, &sender), WIRE_DROP_SESSION_UNKNOWN);
    assert_true(net_session_hello_next(p[1].table, p[1].now_us, bytes, &length, &to));
    assert_int_equal(net_session_drops(p[1].table)[WIRE_DROP_SESSION_UNKNOWN], 101);
    gone(&p[0]);
    gone(&p[1]);
}

static void a_restarted_node_is_somebody_else(void **state) {
    (void)state;
    struct place p[2];
    two_nodes(p);
    introduce(&p[0], &p[1]);
    struct net_peer *one = net_session_node(p[0].table, 1), *sender;
    uint32_t generation = one->generation;
    one->user = &p;
    one->user_tag = 5;
    gone(&p[1]);
    struct net_session_config c = node_config(1);
    c.session = 201;
    c.process_token = 77;
    c.incarnation = 2;
    p[1] = place_at(&c, node_address[1]);
    net_session_add_node(p[1].table, 0, node_address[0]);
    introduce(&p[1], &p[0]);
    assert_int_equal(one->session, 201);
    assert_true(one->generation != generation);
    assert_null(one->user);
    assert_int_equal(one->user_tag, 0);
    assert_int_equal(data(&p[0], one, &p[1], p[0].address, &sender), WIRE_DROP_NONE);
    /* What the older incarnation still says is old. */
    struct net_session_config old = node_config(1);
    struct place ghost = place_at(&old, node_address[1]);
    net_session_add_node(ghost.table, 0, node_address[0]);
    enum wire_drop drop;
    assert_true(hello(&ghost, &p[0], &drop));
    assert_int_equal(drop, WIRE_DROP_INCARNATION_OLD);
    assert_int_equal(one->session, 201);
    gone(&ghost);
    gone(&p[0]);
    gone(&p[1]);
}

static void another_configuration_is_refused(void **state) {
    (void)state;
    struct place p[2];
    two_nodes(p);
    gone(&p[1]);
    struct net_session_config c = node_config(1);
    c.configuration_id = CONFIGURATION + 1;
    p[1] = place_at(&c, node_address[1]);
    net_session_add_node(p[1].table, 0, node_address[0]);
    enum wire_drop drop;
    assert_true(hello(&p[1], &p[0], &drop));
    assert_int_equal(drop, WIRE_DROP_CONFIGURATION);
    assert_int_equal(net_session_node(p[0].table, 1)->session, 0);
    /* Taken over later: all are introduced again. */
    net_session_set_configuration(p[1].table, CONFIGURATION);
    introduce(&p[1], &p[0]);
    assert_int_equal(net_session_node(p[0].table, 1)->session, 101);
    gone(&p[0]);
    gone(&p[1]);
}

static struct place an_ingress(void) {
    struct net_session_config c = node_config(0);
    c.stage = WIRE_STAGE_INGRESS;
    return place_at(&c, node_address[0]);
}

static struct place a_gateway(uint32_t number) {
    struct net_session_config c = gateway_config(number);
    struct net_address address = {0x0a000100 + number, 30000, 0};
    struct place g = place_at(&c, address);
    net_session_add_node(g.table, NET_INDEX_UNKNOWN, node_address[0]);
    return g;
}

static void a_gateway_learns_the_configuration(void **state) {
    (void)state;
    struct place node = an_ingress(), gateway = a_gateway(1);
    struct net_peer *to = net_session_peer(gateway.table, 0), *from = NULL;
    assert_false(net_session_may_send(gateway.table, to, gateway.now_us));
    introduce(&gateway, &node);
    assert_int_equal(net_session_configuration(gateway.table), CONFIGURATION);
    assert_true(net_session_may_send(gateway.table, to, gateway.now_us));
    assert_int_equal(to->index, 0);
    assert_int_equal(data(&gateway, to, &node, gateway.address, &from), WIRE_DROP_NONE);
    assert_int_equal(from->role, WIRE_ROLE_GATEWAY);
    assert_int_equal(from->ranges[0], 1);
    const uint64_t ranges[2] = {1, 12}; /* its next range is told at once */
    net_session_set_ranges(gateway.table, ranges);
    introduce(&gateway, &node);
    assert_int_equal(from->ranges[1], 12);
    gone(&node);
    gone(&gateway);
}

/* A gateway that heard a node of another cluster first: each of its HELLOs is refused, and
 * answered, or it would never know why (when it knows no id yet it is answered once, and that may
 * be lost). */
static void a_refused_gateway_is_told_of_the_configuration(void **state) {
    (void)state;
    struct net_session_config c = gateway_config(1);
    c.configuration_id = CONFIGURATION + 1;
    struct place node = an_ingress(),
                 gateway = place_at(&c, (struct net_address){0x0a000101, 1, 0});
    net_session_add_node(gateway.table, NET_INDEX_UNKNOWN, node_address[0]);
    for (uint64_t i = 1; i <= 3; i++) {
        enum wire_drop drop;
        assert_true(hello(&gateway, &node, &drop));
        assert_int_equal(drop, WIRE_DROP_CONFIGURATION);
        assert_true(hello(&node, &gateway, &drop));
        assert_int_equal(drop, WIRE_DROP_CONFIGURATION);
        assert_false(hello(&node, &gateway, &drop)); /* once, */
        assert_false(hello(&gateway, &node, &drop)); /* and that is not answered */
        const struct net_session_refusal *told = net_session_last_refusal(gateway.table);
        assert_true(told->count == i && told->hello.configuration_id == CONFIGURATION);
        gateway.now_us += NET_HELLO_MAX_US;
        node.now_us += NET_HELLO_MAX_US;
    }
    gone(&node);
    gone(&gateway);
}

/* With its pinned range a gateway gets a new owner token: a session of its own, so that a HELLO of
 * before that comes late does not bring the old token back. */
static void a_new_owner_is_a_new_session(void **state) {
    (void)state;
    struct place node = an_ingress(), gateway = a_gateway(1);
    struct net_peer *to = net_session_peer(gateway.table, 0), *from = NULL, *before = NULL;
    uint8_t late[NET_HELLO_PACKET_BYTES];
    uint32_t length;
    struct net_address address;
    struct net_received received;
    assert_true(net_session_hello_next(gateway.table, gateway.now_us, late, &length, &address));
    gateway.now_us += NET_HELLO_MAX_US;
    introduce(&gateway, &node);
    assert_int_equal(data(&gateway, to, &node, gateway.address, &before), WIRE_DROP_NONE);
    uint64_t old = before->incarnation;
    net_session_set_owner(gateway.table, 4711, old + 1);
    introduce(&gateway, &node);
    assert_int_equal(data(&gateway, to, &node, gateway.address, &from), WIRE_DROP_NONE);
    assert_true(from != before && from->session == 4711 && from->incarnation == old + 1);
    assert_int_equal(
        net_session_receive(node.table, late, length, gateway.address, node.now_us, &received),
        WIRE_DROP_NONE);
    assert_int_equal(data(&gateway, to, &node, gateway.address, &from), WIRE_DROP_NONE);
    assert_true(from->incarnation == old + 1);
    gone(&node);
    gone(&gateway);
}

static void a_full_table_gives_up_the_silent_only(void **state) {
    (void)state;
    struct place node = an_ingress(), gateways[GATEWAYS + 1];
    for (uint32_t i = 0; i < GATEWAYS; i++) {
        gateways[i] = a_gateway(i);
        node.now_us += 1000;
        introduce(&gateways[i], &node);
    }
    assert_int_equal(gateways_known(node.table), GATEWAYS);
    gateways[GATEWAYS] = a_gateway(GATEWAYS);
    enum wire_drop drop;
    assert_true(hello(&gateways[GATEWAYS], &node, &drop));
    assert_int_equal(drop, WIRE_DROP_SESSION_TABLE_FULL);
    node.now_us += NET_GATEWAY_TIMEOUT_DEFAULT_US;
    struct net_peer *sender, *kept = NULL;
    for (uint32_t i = 1; i < GATEWAYS; i++) /* all but the first speak */
        assert_int_equal(data(&gateways[i], net_session_peer(gateways[i].table, 0), &node,
                              gateways[i].address, &kept),
                         WIRE_DROP_NONE);
    gateways[GATEWAYS].now_us += NET_HELLO_MAX_US;
    introduce(&gateways[GATEWAYS], &node);
    assert_int_equal(gateways_known(node.table), GATEWAYS);
    assert_int_equal(data(&gateways[0], net_session_peer(gateways[0].table, 0), &node,
                          gateways[0].address, &sender),
                     WIRE_DROP_SESSION_UNKNOWN);
    assert_int_equal(kept->session, 5000 + GATEWAYS - 1);
    for (uint32_t i = 0; i <= GATEWAYS; i++)
        gone(&gateways[i]);
    gone(&node);
}

/* Every packet of garbage has a reason, and moves nothing. */
static void damaged_packets_have_a_reason(void **state) {
    (void)state;
    struct place p[2];
    two_nodes(p);
    introduce(&p[0], &p[1]);
    uint8_t bytes[256], copy[256];
    struct wire_writer writer;
    struct net_received received;
    uint64_t total = 0;
    net_session_packet_begin(p[0].table, net_session_node(p[0].table, 1), &writer, bytes,
                             sizeof bytes);
    assert_non_null(wire_writer_frame(&writer, WIRE_PING, 0, sizeof(struct wire_ping)));
    uint32_t length = net_session_packet_end(p[0].table, &writer);
    for (uint32_t cut = 0; cut < length; cut++) {
        memcpy(copy, bytes, length);
        enum wire_drop drop =
            net_session_receive(p[1].table, copy, cut, p[0].address, p[1].now_us, &received);
        assert_int_equal(drop, cut < sizeof(struct wire_packet_header) ? WIRE_DROP_SHORT
                                                                       : WIRE_DROP_CHECKSUM);
    }
    for (uint32_t bit = 0; bit < 8 * length; bit++) {
        memcpy(copy, bytes, length);
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
        enum wire_drop drop =
            net_session_receive(p[1].table, copy, length, p[0].address, p[1].now_us, &received);
        assert_true(drop != WIRE_DROP_NONE);
    }
    for (uint32_t i = 0; i < WIRE_DROP_COUNT; i++)
        total += net_session_drops(p[1].table)[i];
    assert_int_equal(total, length + 8 * length);
    assert_int_equal(
        net_session_receive(p[1].table, bytes, length, p[0].address, p[1].now_us, &received),
        WIRE_DROP_NONE);
    gone(&p[0]);
    gone(&p[1]);
}

/* Random sessions come and go; the index and the lists stay whole. */
static void the_index_survives_many(void **state) {
    (void)state;
    struct place node = an_ingress();
    uint32_t random = 12345;
    for (uint32_t round = 0; round < 3000; round++) {
        random = random * 1664525 + 1013904223;
        struct net_session_config c = gateway_config(random >> 24);
        c.session = 1 + (random >> 8 & 0xfff);
        c.process_token = c.session;
        struct place g = place_at(&c, (struct net_address){0x0a010000 + c.session, 4000, 0});
        net_session_add_node(g.table, NET_INDEX_UNKNOWN, node_address[0]);
        node.now_us += NET_GATEWAY_TIMEOUT_DEFAULT_US / 2;
        enum wire_drop drop;
        assert_true(hello(&g, &node, &drop));
        net_sessions_check(node.table);
        gone(&g);
    }
    assert_int_equal(gateways_known(node.table), GATEWAYS);
    gone(&node);
}

/* ---- PING of strangers ---- */

static enum wire_drop stranger(struct place *to, enum wire_kind kind, uint64_t nonce,
                               struct net_address source) {
    uint8_t bytes[128];
    struct wire_writer writer;
    struct net_received received = {.peer = (void *)1};
    uint32_t length = kind == WIRE_PING ? sizeof(struct wire_ping) : sizeof(struct wire_pong);
    wire_writer_begin(&writer, bytes, sizeof bytes, WIRE_STAGE_GOSSIP, 0);
    void *at = wire_writer_frame(&writer, kind, 0, length);
    memset(at, 0, length);
    memcpy(at, &nonce, sizeof nonce);
    enum wire_drop drop = net_session_receive(to->table, bytes, wire_writer_end(&writer, 1, 0),
                                              source, to->now_us, &received);
    struct wire_frame frame;
    enum wire_drop none;
    if (drop == WIRE_DROP_NONE) /* no frame for the stage, from nobody */
        assert_true(!received.peer && wire_frame_next(&received.cursor, &frame, &none) == 0);
    return drop;
}

/* The nonce of the PONG that is due to `address`, if any; other frames are HELLOs. */
static uint64_t pong_to(struct place *from, struct net_address address) {
    uint8_t bytes[NET_HELLO_PACKET_BYTES];
    uint32_t length;
    struct net_address to;
    struct wire_packet_header header;
    struct wire_cursor cursor;
    struct wire_frame frame;
    enum wire_drop drop;
    while (net_session_hello_next(from->table, from->now_us, bytes, &length, &to)) {
        assert_int_equal(wire_packet_open(bytes, length, 0, &header, &cursor), WIRE_DROP_NONE);
        assert_int_equal(header.session, 0);
        assert_int_equal(wire_frame_next(&cursor, &frame, &drop), 1);
        if (frame.kind != WIRE_PONG || !net_address_equal(to, address))
            continue;
        struct wire_pong pong;
        memcpy(&pong, frame.payload, sizeof pong);
        assert_int_equal(pong.process_token, node_config(0).process_token);
        assert_int_equal(pong.term | pong.last_term | pong.last_seq, 0); /* nothing else is told */
        return pong.nonce;
    }
    return 0;
}

static void another_version_is_refused_with_both(void **state) {
    (void)state;
    struct place p[2];
    two_nodes(p);
    struct wire_packet_header header = {.magic = WIRE_MAGIC, .version = WIRE_VERSION + 1};
    struct net_received received;
    assert_int_equal(net_session_receive(p[0].table, &header, sizeof header, node_address[1],
                                         p[0].now_us, &received),
                     WIRE_DROP_VERSION);
    const struct net_session_refusal *last = net_session_last_refusal(p[0].table);
    assert_int_equal(last->drop, WIRE_DROP_VERSION);
    assert_int_equal(last->count, 1);
    assert_int_equal(last->hello.configuration_id, WIRE_VERSION + 1);
    assert_int_equal(last->own_configuration_id, WIRE_VERSION);
    assert_int_equal(net_session_drops(p[0].table)[WIRE_DROP_VERSION], 1);
    gone(&p[0]);
    gone(&p[1]);
}

static void a_stranger_learns_the_process_token_and_nothing_else(void **state) {
    (void)state;
    struct place p[2];
    struct net_address source = {.ipv4 = 0x0a000063, .port = 3000};
    two_nodes(p);
    (void)pong_to(&p[0], source); /* HELLOs that are due */
    assert_int_equal(stranger(&p[0], WIRE_PING, 7, source), WIRE_DROP_NONE);
    assert_int_equal(pong_to(&p[0], source), 7);
    /* Of one address again only after a while: nobody is made to shout at somebody else. */
    assert_int_equal(stranger(&p[0], WIRE_PING, 8, source), WIRE_DROP_NONE);
    assert_int_equal(pong_to(&p[0], source), 0);
    p[0].now_us += NET_HELLO_MIN_US;
    assert_int_equal(stranger(&p[0], WIRE_PING, 9, source), WIRE_DROP_NONE);
    assert_int_equal(pong_to(&p[0], source), 9);
    /* It has no session by that, and a PONG that nobody asked for is counted. */
    p[0].now_us += NET_HELLO_MIN_US;
    assert_int_equal(stranger(&p[0], WIRE_PONG, 10, source), WIRE_DROP_HELLO_ONLY);
    assert_int_equal(net_session_drops(p[0].table)[WIRE_DROP_HELLO_ONLY], 1);
    assert_int_equal(gateways_known(p[0].table), 0);
    gone(&p[0]);
    gone(&p[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(another_version_is_refused_with_both),
        cmocka_unit_test(a_stranger_learns_the_process_token_and_nothing_else),
        cmocka_unit_test(nodes_come_to_know_each_other),
        cmocka_unit_test(an_impostor_is_not_a_peer),
        cmocka_unit_test(an_unknown_session_is_asked_once),
        cmocka_unit_test(a_restarted_node_is_somebody_else),
        cmocka_unit_test(another_configuration_is_refused),
        cmocka_unit_test(a_gateway_learns_the_configuration),
        cmocka_unit_test(a_refused_gateway_is_told_of_the_configuration),
        cmocka_unit_test(a_new_owner_is_a_new_session),
        cmocka_unit_test(a_full_table_gives_up_the_silent_only),
        cmocka_unit_test(damaged_packets_have_a_reason),
        cmocka_unit_test(the_index_survives_many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
