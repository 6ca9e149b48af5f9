/* 1,000 gateway cores in one process ask three nodes for ranges at once, over frames of which every
 * fifth gets lost each way; the nodes' arbiters grant in a real etcd. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arbiter_node.h"
#include "controlplane/log.h"
#include "gateway/core/gateway_core.h"
#include "maroon/error.h"

#define GATEWAYS 1000u
#define NODES 3
#define LOSS_PERCENT 20
#define OWNER_BASE UINT64_C(0x5000000000000000)
#define LIMIT_MS 60000

static struct fixture_etcd server;
static struct arbiter_node nodes[NODES];
static struct gateway_core *cores[GATEWAYS];
static unsigned seed = 11;
static uint64_t requests, lost;

static bool loses(void) {
    bool gone = rand_r(&seed) % 100 < LOSS_PERCENT;
    lost += gone;
    return gone;
}

static void on_send(void *context, uint8_t node, enum wire_kind kind, const void *payload,
                    uint32_t payload_bytes, const void *tail, uint32_t tail_bytes) {
    (void)context;
    (void)tail;
    (void)tail_bytes;
    if (kind != WIRE_RANGE_REQUEST)
        return;
    struct wire_range_request request;
    assert_int_equal(payload_bytes, sizeof request);
    memcpy(&request, payload, sizeof request);
    requests++;
    if (!loses())
        arbiter_range_request(nodes[node].arbiter, request.owner, request.nonce, request.range, 0);
}
static void on_done(void *context, const struct gateway_core_done *done) {
    (void)context;
    (void)done;
}
static void on_state(void *context, const struct gateway_core_state *state) {
    (void)context;
    (void)state;
}
static void on_ranges(void *context, uint64_t owner, const uint64_t ranges[2]) {
    (void)context, (void)owner, (void)ranges;
}

static void make_cores(void) {
    struct gateway_core_shell shell = {NULL, on_send, on_done, on_state, on_ranges, NULL};
    for (uint32_t i = 0; i < GATEWAYS; i++) {
        struct gateway_core_config config = {.owner = OWNER_BASE + i,
                                             .pinned_range = WIRE_RANGE_NONE,
                                             .node_count = NODES,
                                             .parts_max = 64,
                                             .transaction_max_bytes = 4096,
                                             .result_max_bytes = 4096};
        size_t bytes = gateway_core_size(&config);
        assert_true(bytes > 0);
        void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
        assert_non_null(memory);
        cores[i] = gateway_core_init(memory, &config, &shell, fixture_now_ms() * 1000);
    }
}

/* What the nodes' arbiters granted goes back to who asked. */
static void deliver(void) {
    for (uint8_t n = 0; n < NODES; n++) {
        for (uint32_t i = 0; i < nodes[n].grant_count; i++) {
            const struct arbiter_grant *grant = &nodes[n].grants[i];
            struct wire_range_grant answer = {grant->nonce, grant->owner,   grant->range,
                                              grant->start, grant->outcome, grant->held_by};
            struct wire_frame frame = {.kind = WIRE_RANGE_GRANT,
                                       .length_bytes = sizeof answer,
                                       .payload = (const uint8_t *)&answer};
            assert_true(grant->owner >= OWNER_BASE && grant->owner < OWNER_BASE + GATEWAYS);
            if (!loses())
                gateway_core_frame(cores[grant->owner - OWNER_BASE], fixture_now_ms() * 1000, n,
                                   &frame);
        }
        nodes[n].grant_count = 0;
    }
}

static uint64_t range_of(uint32_t gateway) {
    struct gateway_core_facts facts;
    gateway_core_facts(cores[gateway], fixture_now_ms() * 1000, &facts);
    return facts.range;
}

static uint32_t served(void) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < GATEWAYS; i++)
        count += range_of(i) != WIRE_RANGE_NONE;
    return count;
}

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void test_1000_gateways_get_1000_ranges(void **state) {
    (void)state;
    struct loop *loop = loop_create();
    struct http_client *http = http_client_create(loop);
    for (uint8_t n = 0; n < NODES; n++) {
        arbiter_node_setup(&nodes[n], server.endpoint, n, NODES);
        nodes[n].config.range_ttl_s = 120; /* nobody renews here */
        arbiter_node_open(&nodes[n], loop, http);
    }
    for (uint8_t n = 0; n < NODES; n++)
        assert_true(arbiter_run_until(loop, &nodes[n].ready, PATIENCE_MS));
    make_cores();
    uint64_t began_ms = fixture_now_ms();
    while (served() < GATEWAYS && fixture_now_ms() < began_ms + LIMIT_MS) {
        for (uint32_t i = 0; i < GATEWAYS; i++)
            gateway_core_tick(cores[i], fixture_now_ms() * 1000);
        loop_run_once(loop, 5);
        deliver();
    }
    printf("%u of %u gateways served in %llu ms; %llu requests, %llu frames lost\n", served(),
           GATEWAYS, (unsigned long long)(fixture_now_ms() - began_ms),
           (unsigned long long)requests, (unsigned long long)lost);
    assert_int_equal(served(), GATEWAYS);
    assert_true(lost > GATEWAYS / 4);
    static uint64_t ranges[GATEWAYS];
    for (uint32_t i = 0; i < GATEWAYS; i++)
        ranges[i] = range_of(i);
    qsort(ranges, GATEWAYS, sizeof ranges[0], compare_u64);
    for (uint32_t i = 1; i < GATEWAYS; i++)
        assert_true(ranges[i - 1] < ranges[i]);
    /* A repeated request got what the first had got: nothing was given away twice. */
    assert_true(ranges[GATEWAYS - 1] < ranges[0] + GATEWAYS + GATEWAYS / 20);
    /* etcd says the same, at every node, and nothing stands in the way of the next. */
    for (uint32_t i = 0; i < GATEWAYS; i += 97) {
        struct arbiter_node *node = &nodes[i % NODES];
        uint32_t checked = node->checked_count;
        arbiter_range_check(node->arbiter, OWNER_BASE + i, range_of(i));
        while (node->checked_count == checked && fixture_now_ms() < began_ms + LIMIT_MS)
            loop_run_once(loop, 20);
        assert_true(node->checked_owned);
    }
    nodes[0].grant_count = 0;
    arbiter_range_request(nodes[0].arbiter, 77, 1, WIRE_RANGE_NONE, 0);
    assert_true(arbiter_run_grants(loop, &nodes[0], 1, 10000));
    for (uint32_t i = 0; i < GATEWAYS; i++)
        free(cores[i]);
    for (uint8_t n = 0; n < NODES; n++)
        arbiter_node_close(&nodes[n]);
    http_client_destroy(http);
    loop_destroy(loop);
}

static int start(void **state) {
    (void)state;
    mrn_log_set_level(MRN_LOG_ERROR);
    if (!fixture_etcd_start(&server, NULL)) {
        printf("etcd (Debian: etcd-server) is needed for this test\n");
        exit(77);
    }
    return 0;
}

static int stop(void **state) {
    (void)state;
    fixture_etcd_stop(&server);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_1000_gateways_get_1000_ranges)};
    return cmocka_run_group_tests_name("gateways_1000", tests, start, stop);
}
