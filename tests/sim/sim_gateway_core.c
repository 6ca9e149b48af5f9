/* A gateway whose brain is gateway/core, unchanged: this file is its shell. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define PARTS_MAX SIM_RESULTS_KEPT
#define UNAVAILABLE 14
#define HELLO_NS SIM_SECOND

struct shell {
    struct sim *sim;
    struct sim_gateway *gateway;
};
/* One simulation runs at a time in a thread, one callback at a time in it. */
static _Thread_local struct shell current;

/* A conflicting gateway gives odd nodes another body under the same id. */
static void falsify(const struct sim_gateway *gateway, uint8_t node, uint8_t *body,
                    uint32_t length_bytes) {
    struct sim_payload payload;
    uint32_t at = sizeof(struct wire_body_header);
    if (!gateway->conflicting || !(node & 1) || length_bytes < at + sizeof payload)
        return;
    memcpy(&payload, body + at, sizeof payload);
    if (payload.operation % 3)
        return;
    payload.amount++;
    SIM_COUNT(current.sim, conflict);
    memcpy(body + at, &payload, sizeof payload);
}

static void on_send(void *context, uint8_t node, enum wire_kind kind, const void *payload,
                    uint32_t payload_bytes, const void *tail, uint32_t tail_bytes) {
    struct sim_gateway *gateway = context;
    uint8_t frame[WIRE_PACKET_MAX_BYTES];
    assert(payload_bytes + tail_bytes <= sizeof frame);
    if (kind == WIRE_TX && gateway->narrow != REPLICA_NODE_NONE && gateway->narrow != node)
        return;
    memcpy(frame, payload, payload_bytes);
    if (tail_bytes)
        memcpy(frame + payload_bytes, tail, tail_bytes);
    if (kind == WIRE_TX)
        falsify(gateway, node, frame + payload_bytes, tail_bytes);
    sim_gateway_send(current.sim, gateway, node, kind, frame, payload_bytes + tail_bytes);
}

static struct sim_transaction *find(struct sim_gateway *gateway, uint64_t operation) {
    for (uint32_t i = 0; i < gateway->open_count; i++)
        if (gateway->open[i].operation == operation)
            return &gateway->open[i];
    return NULL;
}

static void on_done(void *context, const struct gateway_core_done *done) {
    struct sim_gateway *gateway = context;
    struct sim *sim = current.sim;
    struct sim_transaction *t = find(gateway, (uint64_t)(uintptr_t)done->user);
    if (!t)
        sim_fail(sim, "gateway core", "g%u: a transaction is done twice", gateway->index);
    t->range = wire_tx_range(done->id);
    t->offset = wire_tx_offset(done->id);
    if (done->code == UNAVAILABLE && !done->length_bytes) { /* never executes: submit it again */
        t->range = WIRE_RANGE_NONE;
        gateway->moved++;
        return;
    }
    if (done->code == GATEWAY_CORE_DOUBT && !done->epoch_seq) {
        if (sim_arbiter_owner(sim, t->range) == gateway->owner)
            sim_fail(sim, "gateway core", "g%u gives up range %llu, which is its own",
                     gateway->index, (unsigned long long)t->range);
        gateway->doubt++;
    } else if (done->code == GATEWAY_CORE_EXPIRED) {
        sim_check_expired(sim, gateway, t);
        gateway->expired++;
    } else {
        uint8_t frame[sizeof(struct wire_result) + sizeof(struct sim_result)];
        struct wire_result head = {.id = done->id,
                                   .epoch_seq = done->epoch_seq,
                                   .logical_time_us = done->logical_time_us,
                                   .code = (uint8_t)done->code};
        if (done->length_bytes != sizeof(struct sim_result))
            sim_fail(sim, "gateway core", "g%u: a result of %u bytes", gateway->index,
                     done->length_bytes);
        memcpy(frame, &head, sizeof head);
        memcpy(frame + sizeof head, done->bytes, done->length_bytes);
        sim_check_result(sim, gateway, t, (const struct wire_result *)(const void *)frame);
        gateway->answered++;
    }
    *t = gateway->open[--gateway->open_count];
}

static void on_state(void *context, const struct gateway_core_state *state) {
    (void)context, (void)state; /* nobody asks for single ids here */
}

static void on_ranges(void *context, uint64_t owner, const uint64_t ranges[2]) {
    struct sim_gateway *gateway = context;
    gateway->owner = owner;
    gateway->has_range = ranges[0] != WIRE_RANGE_NONE;
    gateway->range = ranges[0];
    gateway->next = 0;
    gateway->hello_ns = 0;
}

void sim_gateway_core_start(struct sim *sim, struct sim_gateway *gateway) {
    struct gateway_core_config config = {.owner = gateway->owner,
                                         .pinned_range = gateway->pinned,
                                         .node_count = (uint8_t)sim_nodes(sim),
                                         .parts_max = PARTS_MAX,
                                         .transaction_max_bytes = 4 * WIRE_BODY_MAX_BYTES,
                                         .result_max_bytes = 1024,
                                         .lost_after_us = 2000000};
    struct gateway_core_shell shell = {.context = gateway,
                                       .send = on_send,
                                       .done = on_done,
                                       .state = on_state,
                                       .ranges = on_ranges};
    size_t bytes = (gateway_core_size(&config) + 63) / 64 * 64;
    void *memory = aligned_alloc(64, bytes);
    if (!bytes || !memory)
        abort();
    gateway->core = gateway_core_init(memory, &config, &shell, sim->now_ns / 1000);
}

static bool submit(struct sim *sim, struct sim_gateway *gateway, struct sim_transaction *t) {
    uint8_t bytes[4 * WIRE_BODY_MAX_BYTES];
    struct sim_payload payload = {.operation = t->operation,
                                  .kind = t->kind,
                                  .from = t->from,
                                  .to = t->to,
                                  .amount = t->amount};
    uint32_t length = t->length_bytes - (uint32_t)sizeof(struct wire_body_header);
    if (t->parts > 1)
        length = (t->parts < 4 ? t->parts - 1 : 2) * WIRE_BODY_MAX_BYTES;
    uint64_t id;
    memset(bytes, (int)(t->operation & 255), length);
    memcpy(bytes, &payload, sizeof payload);
    if (gateway_core_submit(gateway->core, sim->now_ns / 1000, 1, t->kind, bytes, length, NULL,
                            NULL, (void *)(uintptr_t)t->operation, &id))
        return false;
    t->range = wire_tx_range(id);
    t->offset = wire_tx_offset(id);
    return true;
}

static void submit_new(struct sim *sim, struct sim_gateway *gateway) {
    if (gateway->open_count == SIM_RESULTS_KEPT)
        return;
    struct sim_transaction *t = &gateway->open[gateway->open_count];
    memset(t, 0, sizeof *t);
    sim_gateway_fill(sim, t);
    if (!submit(sim, gateway, t))
        return; /* the client waits */
    t->floor_order = sim->checks.answered_order;
    gateway->open_count++;
    gateway->submitted++;
}

static void hello(struct sim *sim, struct sim_gateway *gateway) {
    struct wire_hello hello = {.session = 1000u + gateway->index,
                               .role = WIRE_ROLE_GATEWAY,
                               .incarnation = gateway->owner,
                               .ranges = {gateway->range, WIRE_RANGE_NONE}};
    gateway->hello_ns = sim->now_ns + HELLO_NS;
    for (uint8_t i = 0; gateway->has_range && i < sim_nodes(sim); i++)
        sim_gateway_send(sim, gateway, i, WIRE_HELLO, &hello, sizeof hello);
}

void sim_gateway_core_timer(struct sim *sim, struct sim_gateway *gateway) {
    current = (struct shell){sim, gateway};
    if (sim->now_ns >= gateway->hello_ns)
        hello(sim, gateway);
    for (uint32_t i = 0; i < gateway->open_count; i++)
        if (gateway->open[i].range == WIRE_RANGE_NONE)
            submit(sim, gateway, &gateway->open[i]);
    while (!sim->healed && sim->now_ns >= gateway->next_transaction_ns) {
        submit_new(sim, gateway);
        gateway->next_transaction_ns += sim_random_exponential(&sim->random[SIM_STREAM_GATEWAY],
                                                               sim->config.transaction_gap_ns);
    }
    gateway_core_tick(gateway->core, sim->now_ns / 1000);
    const char *broken = gateway_core_check(gateway->core);
    if (broken)
        sim_fail(sim, "gateway core", "g%u: %s", gateway->index, broken);
}

void sim_gateway_core_frame(struct sim *sim, struct sim_gateway *gateway, uint8_t node,
                            const struct wire_frame *frame) {
    current = (struct shell){sim, gateway};
    gateway_core_frame(gateway->core, sim->now_ns / 1000, node, frame);
}
