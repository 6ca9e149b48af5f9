#include "perf/client.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/stages/outbox.h"

struct perf_client {
    struct perf_client_config config;
    struct net_endpoint *endpoint;
    struct net_sessions *sessions;
    struct outbox outbox;
    struct gateway_core *core;
    struct net_peer *peers[WIRE_NODES_MAX];
    uint64_t now_us;
};

static void core_send(void *context, uint8_t node, enum wire_kind kind, const void *payload,
                      uint32_t payload_bytes, const void *tail, uint32_t tail_bytes) {
    struct perf_client *c = context;
    stage_outbox_frame(&c->outbox, c->peers[node], c->now_us, kind, 0, payload, payload_bytes, tail,
                       tail_bytes);
}

static void core_done(void *context, const struct gateway_core_done *done) {
    struct perf_client *c = context;
    c->config.done(c->config.context, done->user, done);
}

static void core_state(void *context, const struct gateway_core_state *state) {
    (void)context, (void)state; /* nothing is queried here */
}

static void core_ranges(void *context, uint64_t owner, const uint64_t ranges[2]) {
    (void)owner; /* nothing is pinned here: it stays */
    struct perf_client *c = context;
    net_session_set_ranges(c->sessions, ranges);
}

static void *take(size_t bytes) {
    return aligned_alloc(64, (bytes + 63) & ~(size_t)63);
}

static bool open_sessions(struct perf_client *c) {
    struct net_session_config s = {.role = WIRE_ROLE_GATEWAY,
                                   .incarnation = c->config.owner,
                                   .capacity = 16,
                                   .ranges = {WIRE_RANGE_NONE, WIRE_RANGE_NONE}};
    s.session = randombytes_random() | 1;
    randombytes_buf(&s.process_token, sizeof s.process_token);
    void *memory = take(net_sessions_size(16));
    if (!memory)
        return false;
    c->sessions = net_sessions_init(memory, &s);
    for (uint32_t i = 0; i < c->config.node_count; i++)
        c->peers[i] = net_session_add_node(c->sessions, NET_INDEX_UNKNOWN, c->config.nodes[i]);
    return stage_outbox_open(&c->outbox, c->endpoint, c->sessions) == 0;
}

struct perf_client *perf_client_open(const struct perf_client_config *config) {
    struct perf_client *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->config = *config;
    c->endpoint = net_endpoint(config->net, WIRE_STAGE_INGRESS);
    struct gateway_core_config g = {.owner = config->owner,
                                    .pinned_range = WIRE_RANGE_NONE,
                                    .node_count = (uint8_t)config->node_count,
                                    .parts_max = config->parts_max,
                                    .transaction_max_bytes = config->transaction_max_bytes,
                                    .result_max_bytes = config->transaction_max_bytes + 4096};
    struct gateway_core_shell shell = {c, core_send, core_done, core_state, core_ranges, NULL};
    size_t bytes = gateway_core_size(&g);
    void *memory = bytes ? take(bytes) : NULL;
    if (memory && open_sessions(c)) {
        c->core = gateway_core_init(memory, &g, &shell, 0);
        return c;
    }
    free(memory);
    perf_client_close(c);
    return NULL;
}

void perf_client_close(struct perf_client *c) {
    if (!c)
        return;
    stage_outbox_close(&c->outbox);
    free(c->sessions);
    free(c->core);
    free(c);
}

static uint32_t receive(struct perf_client *c) {
    struct net_packet packets[NET_BURST_COUNT];
    uint32_t count = net_rx(c->endpoint, c->now_us, packets, NET_BURST_COUNT);
    for (uint32_t i = 0; i < count; i++) {
        struct net_received received;
        if (net_session_receive(c->sessions, packets[i].bytes, packets[i].length_bytes,
                                packets[i].address, c->now_us, &received) != WIRE_DROP_NONE)
            continue;
        uint8_t node = 0;
        while (node < c->config.node_count && c->peers[node] != received.peer)
            node++;
        struct wire_frame frame;
        enum wire_drop drop;
        int more;
        while ((more = wire_frame_next(&received.cursor, &frame, &drop)) != 0)
            if (more > 0 && node < c->config.node_count && frame.kind != WIRE_HELLO)
                (void)gateway_core_frame(c->core, c->now_us, node, &frame);
    }
    net_packets_free(packets, count);
    return count;
}

uint32_t perf_client_poll(struct perf_client *c, uint64_t now_us) {
    c->now_us = now_us;
    return receive(c);
}

int perf_client_submit(struct perf_client *c, uint64_t now_us, uint32_t service, uint32_t method,
                       const void *payload, uint32_t length_bytes, void *user) {
    uint64_t id;
    c->now_us = now_us;
    return gateway_core_submit(c->core, now_us, service, method, payload, length_bytes, NULL, NULL,
                               user, &id);
}

void perf_client_flush(struct perf_client *c, uint64_t now_us) {
    c->now_us = now_us;
    gateway_core_tick(c->core, now_us);
    stage_outbox_flush(&c->outbox, now_us);
}

void perf_client_claim(struct perf_client *c, uint64_t now_us, uint64_t range) {
    struct wire_range_renew renew = {.owner = c->config.owner, .range = range};
    c->now_us = now_us;
    for (uint32_t i = 0; i < c->config.node_count; i++)
        core_send(c, (uint8_t)i, WIRE_RANGE_RENEW, &renew, sizeof renew, NULL, 0);
}

bool perf_client_ready(const struct perf_client *c, uint64_t now_us) {
    struct gateway_core_facts f;
    gateway_core_facts(c->core, now_us, &f);
    return f.range != WIRE_RANGE_NONE && f.leader != 255;
}

void perf_client_facts(const struct perf_client *c, uint64_t now_us,
                       struct gateway_core_facts *ret_facts) {
    gateway_core_facts(c->core, now_us, ret_facts);
}
