/* Who answers at an address: two processes' nets, over kernel sockets of this machine. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <setjmp.h>

#include <cmocka.h>
#include <string.h>
#include <unistd.h>

#include "dataplane/net/probe.h"
#include "dataplane/net/session.h"

#define LOOPBACK UINT32_C(0x7f000001)
#define TRIES 20000

static const char OURS[WIRE_CLUSTER_BYTES] = "ours", OTHERS[WIRE_CLUSTER_BYTES] = "others";
static struct net *nets[2];
static struct net_probe probes[2];
static uint64_t now_us = 1000000;

static struct net_address address_of(int i) {
    struct net_address address = net_endpoint_address(net_endpoint(nets[i], WIRE_STAGE_INGRESS));
    address.ipv4 = LOOPBACK;
    return address;
}

static int start(void **state) {
    (void)state;
    char text[NET_TEXT_BYTES] = "";
    for (int i = 0; i < 2; i++) {
        struct net_config c;
        net_config_default(&c, 0);
        c.ipv4 = LOOPBACK;
        c.eal.hugepages = NET_HUGEPAGES_OFF;
        if (net_start(&c, &nets[i], text)) {
            print_error("%s\n", text);
            return 1;
        }
        net_probe_open(&probes[i], nets[i]);
    }
    return 0;
}

static int stop(void **state) {
    (void)state;
    assert_int_equal(net_stop(nets[0]) + net_stop(nets[1]), 0); /* no packet is kept */
    net_eal_stop();
    return 0;
}

static void one_that_starts_too_answers(void **state) {
    (void)state;
    uint64_t token = 0;
    bool answered = false;
    assert_false(net_probe_answer(&probes[0], 5, &token));
    assert_true(net_probe_is_own(&probes[0], address_of(0)));
    assert_false(net_probe_is_own(&probes[0], address_of(1)));
    for (int i = 0; i < TRIES && !answered; i++) {
        net_probe_ask(&probes[0], address_of(1), 5, now_us);
        usleep(1000);
        net_probe_serve(&probes[1], 4711, OTHERS, now_us);
        usleep(1000);
        net_probe_serve(&probes[0], 1147, OURS, now_us);
        answered = net_probe_answer(&probes[0], 5, &token);
    }
    assert_true(answered);
    assert_int_equal(token, 4711);
    char name[WIRE_CLUSTER_BYTES + 1];
    struct net_address from;
    assert_true(net_probe_other(&probes[0], name, &from)); /* and is of another cluster */
    assert_string_equal(name, "others");
    assert_true(net_address_equal(from, address_of(1)));
    assert_false(net_probe_other(&probes[1], name, &from)); /* which asked nobody */
    assert_false(net_probe_answer(&probes[0], 6, &token));  /* another question */
    assert_false(net_probe_answer(&probes[0], 0, &token));
}

static void one_that_runs_answers(void **state) {
    (void)state;
    static uint8_t memory[1 << 20];
    struct net_endpoint *endpoint = net_endpoint(nets[1], WIRE_STAGE_INGRESS);
    struct net_session_config c = {.session = 77,
                                   .role = WIRE_ROLE_NODE,
                                   .index = 1,
                                   .stage = WIRE_STAGE_INGRESS,
                                   .process_token = 815,
                                   .configuration_id = 9,
                                   .incarnation = 1,
                                   .capacity = 16};
    assert_true(net_sessions_size(16) <= sizeof memory);
    struct net_sessions *sessions = net_sessions_init(memory, &c);
    uint64_t token = 0;
    bool answered = false;
    for (int i = 0; i < TRIES && !answered; i++) {
        now_us += NET_HELLO_MIN_US;
        net_probe_ask(&probes[0], address_of(1), 8, now_us);
        usleep(1000);
        struct net_packet packets[NET_BURST_COUNT], answer;
        struct net_received received;
        uint32_t count = net_rx(endpoint, now_us, packets, NET_BURST_COUNT);
        for (uint32_t k = 0; k < count; k++)
            assert_int_equal(net_session_receive(sessions, packets[k].bytes,
                                                 packets[k].length_bytes, packets[k].address,
                                                 now_us, &received),
                             WIRE_DROP_NONE);
        net_packets_free(packets, count);
        assert_true(net_packet_alloc(endpoint, &answer));
        if (net_session_hello_next(sessions, now_us, answer.bytes, &answer.length_bytes,
                                   &answer.address))
            net_tx(endpoint, &answer, 1);
        else
            net_packets_free(&answer, 1);
        net_flush(endpoint);
        usleep(1000);
        net_probe_serve(&probes[0], 1147, OURS, now_us);
        answered = net_probe_answer(&probes[0], 8, &token);
    }
    assert_true(answered);
    assert_int_equal(token, 815);
}

/* Whatever lies in the port is freed, and answered only when it is a PING of session 0. */
static void noise_is_dropped(void **state) {
    (void)state;
    struct net_endpoint *endpoint = net_endpoint(nets[0], WIRE_STAGE_INGRESS);
    uint64_t token;
    struct net_counters before, after;
    net_endpoint_counters(net_endpoint(nets[1], WIRE_STAGE_INGRESS), &before);
    for (uint32_t length = 1; length < 200; length += 7) {
        struct net_packet packet;
        assert_true(net_packet_alloc(endpoint, &packet));
        memset(packet.bytes, (int)length, length);
        packet.length_bytes = length;
        packet.address = address_of(1);
        net_tx(endpoint, &packet, 1);
    }
    net_flush(endpoint);
    after = before;
    for (int i = 0; i < TRIES && after.rx_packets == before.rx_packets; i++) {
        usleep(5000);
        net_probe_serve(&probes[1], 4711, OTHERS, now_us);
        net_endpoint_counters(net_endpoint(nets[1], WIRE_STAGE_INGRESS), &after);
    }
    assert_true(after.rx_packets > before.rx_packets);
    assert_int_equal(after.tx_packets, before.tx_packets);
    assert_false(net_probe_answer(&probes[1], 8, &token));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_that_starts_too_answers),
        cmocka_unit_test(one_that_runs_answers),
        cmocka_unit_test(noise_is_dropped),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
