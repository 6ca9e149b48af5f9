/* The shell around one replica: what stages, journal, runtime and control plane do in a real node,
 * as small as it can be. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/retired.h"

#define INBOX_ROOM 256
#define STRETCH_POLL_NS 100000 /* for room: a real loop is never idle then */

/* ---- clocks ---- */

uint64_t sim_node_mono_ns(const struct sim *sim, const struct sim_node *node) {
    return node->mono_start_ns + (sim->now_ns - node->boot_ns) / 1000000 * node->ppm +
           (sim->now_ns - node->boot_ns) % 1000000 * node->ppm / 1000000;
}

uint64_t sim_node_wall_us(const struct sim *sim, const struct sim_node *node) {
    return (uint64_t)((int64_t)(sim->start_wall_us + sim->now_ns / 1000) + node->wall_offset_us);
}

/* When the node's monotonic clock will show `mono_ns`, not earlier. */
static uint64_t global_ns(const struct sim *sim, const struct sim_node *node, uint64_t mono_ns) {
    uint64_t mono_now = sim_node_mono_ns(sim, node);
    if (mono_ns <= mono_now)
        return sim->now_ns;
    uint64_t ahead = mono_ns - mono_now;
    if (ahead > 3600 * SIM_SECOND)
        return SIM_NEVER;
    return sim->now_ns + ahead / node->ppm * 1000000 + ahead % node->ppm * 1000000 / node->ppm + 2;
}

/* ---- life ---- */

void sim_node_create(struct sim *sim, struct sim_node *node) {
    struct sim_random *random = &sim->random[SIM_STREAM_NODE];
    node->life = 1;
    node->ppm = 1000000;
    if (sim->config.faults >> SIM_FAULT_CLOCK & 1)
        node->ppm = sim_random_between(random, 999500, 1000500);
    sim->tally[SIM_TALLY_clock_skew] += node->ppm != 1000000;
    node->wall_offset_us = (int64_t)sim_random_below(random, 400000) - 200000;
    node->slots = calloc(sim->config.replica.body_slots, sizeof *node->slots);
    node->free_slots = malloc(sim->config.replica.body_slots * sizeof *node->free_slots);
    node->slot_bytes = malloc((size_t)sim->config.replica.body_slots * SIM_BODY_BYTES_MAX);
    node->inbox = malloc(INBOX_ROOM * sizeof *node->inbox);
    node->inbox_mask = INBOX_ROOM - 1;
    node->runtime = malloc(sizeof *node->runtime);
    node->memory_bytes = replica_size(&sim->config.replica);
    if (!node->memory_bytes)
        sim_fail(sim, "config", "replica_size refuses the config");
    node->memory = aligned_alloc(64, (node->memory_bytes + 63) / 64 * 64);
    if (!node->slots || !node->free_slots || !node->slot_bytes || !node->inbox || !node->runtime ||
        !node->memory)
        abort();
    sim_journal_init(&node->journal);
}

static void inbox_clear(struct sim_node *node) {
    while (node->inbox_count) {
        free(node->inbox[node->inbox_head].data);
        node->inbox_head = (node->inbox_head + 1) & node->inbox_mask;
        node->inbox_count--;
    }
}

void sim_node_destroy(struct sim_node *node) {
    if (!node->slots)
        return;
    inbox_clear(node);
    sim_journal_free(&node->journal);
    free(node->slots);
    free(node->free_slots);
    free(node->slot_bytes);
    free(node->inbox);
    free(node->runtime);
    free(node->memory);
    free(node->stretch);
    free(node->reader);
}

static void shell_clear(struct sim *sim, struct sim_node *node) {
    uint32_t slots = sim->config.replica.body_slots;
    node->free_count = slots;
    for (uint32_t i = 0; i < slots; i++) {
        node->free_slots[i] = slots - 1 - i;
        node->slots[i].owned = false;
    }
    for (uint32_t to = 0; to < SIM_ENDPOINTS; to++)
        for (uint32_t stage = 0; stage < WIRE_STAGE_COUNT; stage++)
            node->writers[to][stage].bytes = NULL;
    memset(node->packet_numbers, 0, sizeof node->packet_numbers);
    memset(node->gateway_owner, 0, sizeof node->gateway_owner);
    memset(&node->seen, 0, sizeof node->seen);
    node->executing = node->snapshot_asked = false;
    free(node->stretch);
    free(node->reader);
    node->stretch = NULL;
    node->reader = NULL;
    node->stretched_seq = SIM_NEVER;
    node->idle_passes = 0;
    node->crash_in_steps = 0;
    node->forgets = false;
    node->answers = 0;
    node->pass_at_ns = SIM_NEVER;
    node->pass_token++;
}

static void wake(struct sim *sim, struct sim_node *node, uint64_t at_ns) {
    if (at_ns == SIM_NEVER || at_ns >= node->pass_at_ns)
        return;
    node->pass_at_ns = at_ns;
    sim_at(sim, at_ns, SIM_EVENT_PASS, node->index, node->life, ++node->pass_token, NULL);
}

void sim_node_push(struct sim *sim, struct sim_node *node, enum sim_item_kind kind, void *data,
                   const struct replica_event *event) {
    if (node->inbox_count > node->inbox_mask) {
        uint32_t room = 2 * (node->inbox_mask + 1);
        struct sim_item *inbox = malloc(room * sizeof *inbox);
        if (!inbox)
            abort();
        for (uint32_t i = 0; i < node->inbox_count; i++)
            inbox[i] = node->inbox[(node->inbox_head + i) & node->inbox_mask];
        free(node->inbox);
        node->inbox = inbox;
        node->inbox_head = 0;
        node->inbox_mask = room - 1;
    }
    uint32_t at = (node->inbox_head + node->inbox_count++) & node->inbox_mask;
    node->inbox[at] = (struct sim_item){.kind = kind, .data = data, .event = *event};
    wake(sim, node,
         sim->now_ns + sim_random_below(&sim->random[SIM_STREAM_NODE], sim->config.poll_ns + 1));
}

/* ---- sending ---- */

static struct wire_writer *writer(struct sim_node *node, uint8_t to, uint8_t stage) {
    struct wire_writer *w = &node->writers[to][stage];
    if (!w->bytes)
        wire_writer_begin(w, node->writer_bytes[to][stage], WIRE_PACKET_MAX_BYTES, stage,
                          node->life);
    return w;
}

static void packet_end(struct sim *sim, struct sim_node *node, uint8_t to, uint8_t stage) {
    struct wire_writer *w = &node->writers[to][stage];
    uint64_t number = ++node->packet_numbers[stage];
    uint32_t length = wire_writer_end(w, number, sim->config.replica.configuration_id);
    sim_network_send(sim, node->index, to, stage, node->life, node->incarnation, number,
                     node->writer_bytes[to][stage], length);
    w->bytes = NULL;
}

static uint8_t *frame_room(struct sim *sim, struct sim_node *node, uint8_t to, uint8_t stage,
                           enum wire_kind kind, uint8_t flags, uint32_t length_bytes) {
    uint8_t *at = wire_writer_frame(writer(node, to, stage), kind, flags, length_bytes);
    if (at)
        return at;
    packet_end(sim, node, to, stage);
    at = wire_writer_frame(writer(node, to, stage), kind, flags, length_bytes);
    if (!at)
        sim_fail(sim, "action contract", "a %s frame of %u bytes fits no packet",
                 wire_kind_name((uint8_t)kind), length_bytes);
    return at;
}

void sim_node_flush(struct sim *sim, struct sim_node *node) {
    for (uint8_t to = 0; to < SIM_ENDPOINTS; to++)
        for (uint8_t stage = 0; stage < WIRE_STAGE_COUNT; stage++)
            if (node->writers[to][stage].bytes && !wire_writer_empty(&node->writers[to][stage]))
                packet_end(sim, node, to, stage);
}

void sim_node_to_gateway(struct sim *sim, struct sim_node *node, uint8_t gateway,
                         enum wire_kind kind, const void *payload, uint32_t length_bytes) {
    uint8_t to = (uint8_t)(WIRE_NODES_MAX + gateway);
    if (node->gateway_owner[gateway] &&
        node->gateway_life[gateway] != sim->gateways[gateway].life && kind != WIRE_HELLO &&
        kind != WIRE_RANGE_GRANT)
        return; /* to the session of a process that is gone: another one is at its address */
    memcpy(frame_room(sim, node, to, WIRE_STAGE_INGRESS, kind, 0, length_bytes), payload,
           length_bytes);
    if (sim->trace) {
        char text[512];
        sim_trace(sim, sim_name(node->index), "  -> %s %s", sim_name(to),
                  sim_frame_text(text, sizeof text, (uint8_t)kind, 0, payload, length_bytes));
    }
}

static void send_result(struct sim *sim, struct sim_node *node, uint8_t gateway, uint64_t owner,
                        const struct sim_result *result) {
    struct {
        struct wire_result head;
        struct sim_result body;
    } frame = {.head = {.id = result->id,
                        .epoch_seq = result->seq,
                        .logical_time_us = result->logical_time_us,
                        .code = (uint8_t)result->code,
                        .total_bytes = sizeof frame.body,
                        .owner_mark = retired_mark(owner) & RETIRED_MARK_MAX},
               .body = *result};
    uint8_t bytes[sizeof(struct wire_result) + sizeof(struct sim_result)];
    memcpy(bytes, &frame.head, sizeof frame.head);
    memcpy(bytes + sizeof frame.head, &frame.body, sizeof frame.body);
    sim_node_to_gateway(sim, node, gateway, WIRE_RESULT, bytes, sizeof bytes);
}

static void send_state(struct sim *sim, struct sim_node *node, uint8_t gateway, uint64_t owner,
                       uint64_t id, uint32_t outcome) {
    struct wire_tx_state state = {id, 0, (uint8_t)outcome, retired_mark(owner) & RETIRED_MARK_MAX};
    sim_node_to_gateway(sim, node, gateway, WIRE_TX_STATE, &state, sizeof state);
}

/* ---- bodies ---- */

uint8_t *sim_node_slot_bytes(struct sim_node *node, uint32_t slot) {
    return node->slot_bytes + (size_t)slot * SIM_BODY_BYTES_MAX;
}

static struct sim_slot *owned_slot(struct sim *sim, struct sim_node *node, uint32_t slot,
                                   uint64_t id, const char *what) {
    if (slot >= sim->config.replica.body_slots || !node->slots[slot].owned)
        sim_fail(sim, "action contract", "n%u: %s names slot %u, which is not the replica's",
                 node->index, what, slot);
    if (node->slots[slot].id != id)
        sim_fail(sim, "action contract", "n%u: %s of id %llx names slot %u, which holds %llx",
                 node->index, what, (unsigned long long)id, slot,
                 (unsigned long long)node->slots[slot].id);
    return &node->slots[slot];
}

/* Stores a body; false when the store is full. */
bool sim_node_store(struct sim *sim, struct sim_node *node, uint64_t id, const uint8_t *bytes,
                    uint32_t length_bytes, struct replica_event_body *ret_body) {
    if (!node->free_count) {
        sim->drops[WIRE_DROP_BODY_POOL]++;
        return false;
    }
    uint32_t slot = node->free_slots[--node->free_count];
    struct sim_slot *s = &node->slots[slot];
    assert(!s->owned && length_bytes <= SIM_BODY_BYTES_MAX);
    memcpy(sim_node_slot_bytes(node, slot), bytes, length_bytes);
    const struct wire_body_header *header = (const void *)bytes;
    *s = (struct sim_slot){
        .id = id,
        .given_step = sim->steps + 1,
        .digest = wire_hash_body(&sim->digest_key, id, bytes, length_bytes),
        .length_bytes = length_bytes,
        .parts_following = header->parts_following,
        .owned = true,
    };
    *ret_body = (struct replica_event_body){.id = id,
                                            .digest = s->digest,
                                            .slot = slot,
                                            .parts_following = s->parts_following,
                                            .peer = REPLICA_NODE_NONE};
    return true;
}

static void free_slot(struct sim *sim, struct sim_node *node, uint32_t slot) {
    if (slot >= sim->config.replica.body_slots || !node->slots[slot].owned)
        sim_fail(sim, "action contract", "n%u frees slot %u, which is not the replica's",
                 node->index, slot);
    sim_check_freed(sim, node, &node->slots[slot]);
    node->slots[slot].owned = false;
    memset(sim_node_slot_bytes(node, slot), 0xdd, node->slots[slot].length_bytes);
    node->free_slots[node->free_count++] = slot;
}

/* ---- one step of the replica, and what it asks for ---- */

static void act_send(struct sim *sim, struct sim_node *node, const struct replica_action *a) {
    if (a->peer >= sim_nodes(sim) || a->peer == node->index || a->stage >= WIRE_STAGE_COUNT)
        sim_fail(sim, "action contract", "n%u sends to node %u, stage %u", node->index, a->peer,
                 a->stage);
    uint32_t length = a->inline_bytes + a->tail_bytes;
    uint8_t *at = frame_room(sim, node, a->peer, a->stage, a->frame_kind, a->frame_flags, length);
    memcpy(at, a->payload, a->inline_bytes);
    if (a->tail_bytes)
        memcpy(at + a->inline_bytes, a->tail, a->tail_bytes);
    if (sim->trace) {
        char text[512];
        sim_trace(sim, sim_name(node->index), "  -> n%u %s", a->peer,
                  sim_frame_text(text, sizeof text, a->frame_kind, a->frame_flags, at, length));
    }
    sim_fault_sent(sim, node, a);
    sim_check_sent(sim, node, a);
}

static void act_send_body(struct sim *sim, struct sim_node *node, const struct replica_action *a) {
    struct sim_slot *slot = owned_slot(sim, node, a->slot, a->id, "SEND_BODY");
    uint8_t *at = frame_room(sim, node, a->peer, a->stage, WIRE_BODY, 0,
                             (uint32_t)sizeof(struct wire_body) + slot->length_bytes);
    struct wire_body body = {a->id, a->owner};
    memcpy(at, &body, sizeof body);
    memcpy(at + sizeof body, sim_node_slot_bytes(node, a->slot), slot->length_bytes);
    SIM_TRACE(sim, sim_name(node->index), "  -> n%u BODY %llx", a->peer, (unsigned long long)a->id);
}

static void act_deliver(struct sim *sim, struct sim_node *node, uint64_t seq) {
    if (seq != node->delivered_seq + 1)
        sim_fail(sim, "action contract", "n%u delivers epoch %llu after %llu", node->index,
                 (unsigned long long)seq, (unsigned long long)node->delivered_seq);
    node->delivered_seq = seq;
    SIM_TRACE(sim, sim_name(node->index), "  DELIVER %llu", (unsigned long long)seq);
    sim_check_deliver(sim, node, seq);
}

static bool holds(const struct sim_node *node, uint8_t gateway, uint64_t range) {
    return node->gateway_range[gateway][0] == range || node->gateway_range[gateway][1] == range;
}

/* Ids of a pinned range are used again above a SEAL: what one owner sent is not another's. */
static bool owned(const struct sim_node *node, uint8_t gateway, uint64_t range) {
    const struct sim_runtime_range *r = sim_runtime_range(node->runtime, range);
    return r && r->owner == node->gateway_owner[gateway];
}

static void act_result_wanted(struct sim *sim, struct sim_node *node,
                              const struct replica_action *a) {
    if (a->gateway >= SIM_GATEWAYS_MAX)
        sim_fail(sim, "action contract", "n%u answers gateway %u", node->index, a->gateway);
    const struct sim_result *result = sim_runtime_result(node->runtime, a->id);
    if (node->seen.facts.role == REPLICA_ROLE_QUARANTINED)
        sim_fail(sim, "quarantine", "n%u is quarantined and answers", node->index);
    if (result && result->code == SIM_CODE_PART)
        return;
    const struct sim_runtime_range *range = sim_runtime_range(node->runtime, wire_tx_range(a->id));
    if (!range || wire_tx_offset(a->id) >= range->position)
        sim_fail(sim, "action contract", "n%u wants the result of %llx, which is not executed",
                 node->index, (unsigned long long)a->id);
    if (result)
        send_result(sim, node, (uint8_t)a->gateway, a->owner, result);
    else
        send_state(sim, node, (uint8_t)a->gateway, a->owner, a->id, WIRE_TX_EXPIRED);
}

static void act_progress(struct sim *sim, struct sim_node *node, const struct replica_action *a) {
    if (a->gateway >= SIM_GATEWAYS_MAX)
        sim_fail(sim, "action contract", "n%u tells gateway %u", node->index, a->gateway);
    struct {
        struct wire_vector vector;
        struct wire_vector_entry entry;
    } v;
    memset(&v, 0, sizeof v);
    struct replica_facts facts;
    replica_facts(node->replica, &facts);
    v.vector.commit_seq = facts.commit_seq;
    v.vector.exec_seq = facts.exec_seq;
    v.vector.window = a->window;
    v.vector.is_leader = facts.role == REPLICA_ROLE_LEADER;
    v.vector.count = 1;
    v.entry = (struct wire_vector_entry){a->range, a->received, a->committed};
    sim_node_to_gateway(sim, node, (uint8_t)a->gateway, WIRE_VECTOR, &v, sizeof v);
}

static void act_gateway(struct sim *sim, struct sim_node *node, const struct replica_action *a) {
    if (a->gateway >= SIM_GATEWAYS_MAX)
        sim_fail(sim, "action contract", "n%u answers gateway %u", node->index, a->gateway);
    if (a->kind == REPLICA_ACTION_TX_STATE) {
        send_state(sim, node, (uint8_t)a->gateway, a->owner, a->id, a->outcome);
    } else if (a->kind == REPLICA_ACTION_SEALED) {
        struct wire_sealed sealed = {a->range, a->end, retired_mark(a->owner)};
        sim_check_sealed(sim, a->range, a->owner, a->end);
        sim_node_to_gateway(sim, node, (uint8_t)a->gateway, WIRE_SEALED, &sealed, sizeof sealed);
    } else {
        struct wire_not_owner not_owner = {a->range, a->owner, replica_leads(node->replica)};
        sim_node_to_gateway(sim, node, (uint8_t)a->gateway, WIRE_NOT_OWNER, &not_owner,
                            sizeof not_owner);
    }
}

static void ask_range(struct sim *sim, struct sim_node *node, const struct replica_action *a,
                      enum sim_request_kind kind) {
    struct sim_request request = {
        .kind = kind, .range = a->range, .owner = a->owner, .end = a->end};
    sim_arbiter_ask(sim, node, &request);
}

static void act_resign(struct sim *sim, struct sim_node *node, uint64_t revision) {
    struct sim_request request = {.kind = SIM_REQUEST_RESIGN, .revision = revision};
    SIM_TRACE(sim, sim_name(node->index), "  RESIGN revision %llu", (unsigned long long)revision);
    sim_arbiter_ask(sim, node, &request);
}

static void act_need_snapshot(struct sim *sim, struct sim_node *node,
                              const struct replica_action *a) {
    SIM_TRACE(sim, sim_name(node->index), "  NEED_SNAPSHOT after %llu from %s",
              (unsigned long long)a->seq, sim_name(a->peer));
    if (node->snapshot_asked)
        return;
    node->snapshot_asked = true;
    sim_at(sim, sim->now_ns + sim_random_exponential(&sim->random[SIM_STREAM_NODE], SIM_MS),
           SIM_EVENT_SNAPSHOT, node->index, node->life, a->seq << 8 | a->peer, NULL);
}

static void act(struct sim *sim, struct sim_node *node, const struct replica_action *a) {
    switch (a->kind) {
    case REPLICA_ACTION_SEND: act_send(sim, node, a); break;
    case REPLICA_ACTION_SEND_BODY: act_send_body(sim, node, a); break;
    case REPLICA_ACTION_APPEND_BODY:
        owned_slot(sim, node, a->slot, a->id, "APPEND_BODY");
        sim_journal_append(sim, node, a);
        break;
    case REPLICA_ACTION_APPEND_PROMISE:
    case REPLICA_ACTION_APPEND_DROP:
    case REPLICA_ACTION_APPEND_COMMIT:
    case REPLICA_ACTION_APPEND_EPOCH: sim_journal_append(sim, node, a); break;
    case REPLICA_ACTION_DELIVER: act_deliver(sim, node, a->seq); break;
    case REPLICA_ACTION_FREE_SLOTS:
        for (uint32_t i = 0; i < a->slot_count; i++)
            free_slot(sim, node, a->slots[i]);
        break;
    case REPLICA_ACTION_RESULT_WANTED: act_result_wanted(sim, node, a); break;
    case REPLICA_ACTION_TX_STATE:
    case REPLICA_ACTION_SEALED:
    case REPLICA_ACTION_NOT_OWNER: act_gateway(sim, node, a); break;
    case REPLICA_ACTION_RANGE_PROGRESS: act_progress(sim, node, a); break;
    case REPLICA_ACTION_CAMPAIGN: sim_control_campaign(sim, node, a->revision); break;
    case REPLICA_ACTION_RESIGN: act_resign(sim, node, a->revision); break;
    case REPLICA_ACTION_RANGE_CHECK: ask_range(sim, node, a, SIM_REQUEST_CHECK); break;
    case REPLICA_ACTION_RANGE_SEALED:
        sim_check_told(sim, a->range, a->owner, a->end);
        ask_range(sim, node, a, SIM_REQUEST_SEALED);
        break;
    case REPLICA_ACTION_NEED_SNAPSHOT: act_need_snapshot(sim, node, a); break;
    case REPLICA_ACTION_DROPPED:
        if (a->outcome >= WIRE_DROP_COUNT)
            sim_fail(sim, "action contract", "n%u drops for reason %u", node->index, a->outcome);
        sim->drops[a->outcome]++;
        SIM_TRACE(sim, sim_name(node->index), "  dropped: %s",
                  wire_drop_label((enum wire_drop)a->outcome));
        break;
    case REPLICA_ACTION_FAIL_STOP:
        sim_fail(sim, "fail-stop", "n%u: %s", node->index, a->reason ? a->reason : "?");
    }
}

static uint64_t snapshot_seq(const struct sim_node *node) {
    return node->journal.snapshot ? node->journal.snapshot->exec_seq : 0;
}

void sim_node_step(struct sim *sim, struct sim_node *node, struct replica_event *event) {
    event->now_ns = sim_node_mono_ns(sim, node);
    event->wall_us = sim_node_wall_us(sim, node);
    sim->actions->count = 0;
    sim->steps++;
    replica_step(node->replica, event, sim->actions);
    if (sim->actions->count > REPLICA_ACTIONS_MAX)
        sim_fail(sim, "action contract", "n%u: %u actions in one step", node->index,
                 sim->actions->count);
    for (uint32_t i = 0; i < sim->actions->count; i++)
        act(sim, node, &sim->actions->items[i]);
    node->idle_passes = sim->actions->count ? 0 : node->idle_passes;
    sim_check_step(sim, node);
}

/* ---- frames of gateways ---- */

static void hello(struct sim_node *node, uint8_t gateway, uint32_t life,
                  const struct wire_hello *hello) {
    node->gateway_life[gateway] = life;
    node->gateway_owner[gateway] = hello->incarnation;
    memcpy(node->gateway_range[gateway], hello->ranges, sizeof node->gateway_range[gateway]);
}

/* "Introduce yourself": this process has not heard a HELLO of the gateway. */
static void introduce(struct sim *sim, struct sim_node *node, uint8_t gateway) {
    struct wire_hello hello = {.session = node->life,
                               .role = WIRE_ROLE_NODE,
                               .index = node->index,
                               .incarnation = node->incarnation,
                               .ranges = {WIRE_RANGE_NONE, WIRE_RANGE_NONE}};
    if (sim_random_chance(&sim->random[SIM_STREAM_NODE], 100000)) /* not for every packet */
        sim_node_to_gateway(sim, node, gateway, WIRE_HELLO, &hello, sizeof hello);
}

static void gateway_body(struct sim *sim, struct sim_node *node, uint8_t gateway,
                         const struct wire_frame *frame) {
    struct wire_tx tx;
    memcpy(&tx, frame->payload, sizeof tx);
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    if (!holds(node, gateway, wire_tx_range(tx.id))) { /* before memory is taken */
        struct wire_not_owner answer = {wire_tx_range(tx.id), 0, 0};
        sim->drops[WIRE_DROP_RANGE_UNKNOWN]++;
        sim_node_to_gateway(sim, node, gateway, WIRE_NOT_OWNER, &answer, sizeof answer);
        return;
    }
    if (!sim_node_store(sim, node, tx.id, frame->payload + sizeof tx,
                        frame->length_bytes - (uint32_t)sizeof tx, &event.body))
        return;
    if (MUTANT(shell_resend_executed) && sim_runtime_result(node->runtime, tx.id))
        sim_runtime_again(node->runtime, frame->payload + sizeof tx);
    event.body.gateway = gateway;
    event.body.owner = node->gateway_owner[gateway];
    sim_node_step(sim, node, &event);
}

static void gateway_query(struct sim *sim, struct sim_node *node, uint8_t gateway,
                          const struct wire_frame *frame) {
    struct wire_tx_query query;
    memcpy(&query, frame->payload, sizeof query);
    struct replica_event event = {.kind = REPLICA_EVENT_QUERY};
    event.query.id = query.id;
    event.query.owner = query.owner_mark;
    event.query.gateway = gateway;
    event.query.offset_bytes = query.offset_bytes;
    event.query.length_bytes = query.length_bytes;
    sim_node_step(sim, node, &event);
}

static void gateway_renew(struct sim *sim, struct sim_node *node, uint8_t gateway,
                          const struct wire_frame *frame) {
    struct wire_range_renew renew;
    memcpy(&renew, frame->payload, sizeof renew);
    struct replica_event event = {.kind = REPLICA_EVENT_RANGE_HELLO};
    event.range_hello.range = renew.range;
    event.range_hello.owner = renew.owner;
    event.range_hello.gateway = gateway;
    sim_node_step(sim, node, &event);
    if (node->seen.facts.role == REPLICA_ROLE_LEADER) /* one in the arbiter is enough */
        sim_control_renew(sim, node, renew.range, renew.owner);
}

static void gateway_range(struct sim *sim, struct sim_node *node, uint8_t gateway,
                          const struct wire_frame *frame) {
    struct wire_range_request r;
    memcpy(&r, frame->payload, sizeof r);
    struct sim_request request = {.kind = SIM_REQUEST_GRANT,
                                  .gateway = gateway,
                                  .nonce = r.nonce,
                                  .owner = r.owner,
                                  .range = r.range};
    if (r.range != WIRE_RANGE_NONE)
        request.life = replica_range_end(node->replica, r.range, &request.end);
    sim_arbiter_ask(sim, node, &request);
}

/* Sessions: a HELLO names the owner; frames of another owner's session are of one that is over. A
 * request for a range comes before any range, so before any HELLO. */
static void gateway_frame(struct sim *sim, struct sim_node *node, const struct sim_packet *packet,
                          const struct wire_frame *frame) {
    uint8_t gateway = (uint8_t)(packet->from - WIRE_NODES_MAX);
    if (frame->kind == WIRE_HELLO) {
        struct wire_hello h;
        memcpy(&h, frame->payload, sizeof h);
        hello(node, gateway, packet->life, &h);
    } else if (frame->kind == WIRE_RANGE_REQUEST) {
        gateway_range(sim, node, gateway, frame);
    } else if (node->gateway_owner[gateway] != packet->incarnation) {
        sim->drops[WIRE_DROP_SESSION_UNKNOWN]++;
        introduce(sim, node, gateway);
    } else if (frame->kind == WIRE_TX) {
        gateway_body(sim, node, gateway, frame);
    } else if (frame->kind == WIRE_TX_QUERY) {
        gateway_query(sim, node, gateway, frame);
    } else if (frame->kind == WIRE_RANGE_RENEW) {
        gateway_renew(sim, node, gateway, frame);
    } /* RANGE_CLOSE: what it held ends with its lease */
}

/* ---- frames of nodes ---- */

static void peer_frame(struct sim *sim, struct sim_node *node, const struct sim_packet *packet,
                       const struct wire_frame *frame) {
    struct replica_event event = {.kind = REPLICA_EVENT_FRAME};
    if (frame->kind == WIRE_BODY) {
        struct wire_body body;
        memcpy(&body, frame->payload, sizeof body);
        event.kind = REPLICA_EVENT_BODY;
        if (!sim_node_store(sim, node, body.id, frame->payload + sizeof body,
                            frame->length_bytes - (uint32_t)sizeof body, &event.body))
            return;
        event.body.owner = body.owner;
        event.body.peer = packet->from;
    } else {
        event.frame = (struct replica_event_frame){.peer = packet->from,
                                                   .kind = frame->kind,
                                                   .flags = frame->flags,
                                                   .length_bytes = frame->length_bytes,
                                                   .payload = frame->payload,
                                                   .incarnation = packet->incarnation,
                                                   .packet_number = packet->number,
                                                   .stage = packet->stage};
    }
    sim_node_step(sim, node, &event);
}

static void packet_item(struct sim *sim, struct sim_node *node, const struct sim_packet *packet) {
    struct wire_packet_header header;
    struct wire_cursor cursor;
    enum wire_drop drop = wire_packet_open(packet->bytes, packet->length_bytes,
                                           sim->config.replica.configuration_id, &header, &cursor);
    if (drop != WIRE_DROP_NONE)
        sim_fail(sim, "packet", "an undamaged packet from %s was dropped: %s",
                 sim_name(packet->from), wire_drop_label(drop));
    struct wire_frame frame;
    int more;
    while ((more = wire_frame_next(&cursor, &frame, &drop)) != 0 && node->up) {
        if (more < 0)
            sim_fail(sim, "packet", "%s sent a frame that is dropped: %s", sim_name(packet->from),
                     wire_drop_label(drop));
        if (sim->trace) {
            char text[512];
            sim_trace(sim, sim_name(node->index), "%s: %s", sim_name(packet->from),
                      sim_frame_text(text, sizeof text, frame.kind, frame.flags, frame.payload,
                                     frame.length_bytes));
        }
        if (packet->from >= WIRE_NODES_MAX)
            gateway_frame(sim, node, packet, &frame);
        else
            peer_frame(sim, node, packet, &frame);
    }
}

/* ---- execution ---- */

static void execute_next(struct sim *sim, struct sim_node *node) {
    if (node->executing || node->delivered_seq <= node->runtime->exec_seq)
        return;
    node->executing = true;
    struct sim_random *random = &sim->random[SIM_STREAM_NODE];
    bool slow = node->slow_until_ns > sim->now_ns && sim_faulty(sim, SIM_FAULT_SLOW);
    uint64_t mean = slow ? sim->config.execute_slow_ns : sim->config.execute_ns;
    sim->tally[SIM_TALLY_slow] += slow;
    sim_at(sim, sim->now_ns + sim_random_exponential(random, mean), SIM_EVENT_EXECUTE, node->index,
           node->life, 0, NULL);
}

struct executing {
    struct sim *sim;
    struct sim_node *node;
    bool leader;
};

static void answer(void *context, const struct sim_result *result, const struct sim_body *body) {
    (void)body;
    struct executing *x = context;
    if (!x->leader)
        return; /* others answer when asked again */
    for (uint8_t g = 0; g < SIM_GATEWAYS_MAX; g++)
        if (x->node->gateway_owner[g] && owned(x->node, g, wire_tx_range(result->id)) &&
            (x->node->gateway_range[g][0] == wire_tx_range(result->id) ||
             x->node->gateway_range[g][1] == wire_tx_range(result->id)))
            send_result(x->sim, x->node, g, x->node->gateway_owner[g], result);
}

uint64_t sim_node_execute_one(struct sim *sim, struct sim_node *node, sim_runtime_fn *each,
                              void *context) {
    uint64_t seq = node->runtime->exec_seq + 1;
    const uint8_t *epoch;
    uint32_t epoch_bytes;
    struct wire_hash hash;
    uint32_t count =
        replica_delivery(node->replica, seq, &epoch, &epoch_bytes, &hash, sim->delivered);
    for (uint32_t i = 0; i < count; i++) {
        struct sim_slot *slot = owned_slot(sim, node, sim->delivered[i].slot, sim->delivered[i].id,
                                           "a delivered epoch");
        sim->bodies[i] = (struct sim_body){
            slot->id, sim_node_slot_bytes(node, sim->delivered[i].slot), slot->length_bytes};
    }
    sim_runtime_execute(node->runtime, epoch, &hash, sim->bodies, count, each, context);
    if (node->diverges) { /* the state, not the results: gateways must not be told wrong ones */
        node->diverges = false;
        SIM_COUNT(sim, diverged);
        node->runtime->chain[0] ^= 1;
    }
    sim_check_executed(sim, node);
    return seq;
}

void sim_node_execute(struct sim *sim, struct sim_node *node) {
    node->executing = false;
    if (node->delivered_seq <= node->runtime->exec_seq)
        return;
    struct executing context = {sim, node, node->seen.facts.role == REPLICA_ROLE_LEADER};
    uint64_t seq = sim_node_execute_one(sim, node, answer, &context);
    if (sim->config.replica.durable && sim->config.snapshot_epochs &&
        node->seen.facts.role != REPLICA_ROLE_QUARANTINED &&
        seq >= snapshot_seq(node) + sim->config.snapshot_epochs)
        sim_journal_snapshot_begin(sim, node);
    sim_node_flush(sim, node);
    struct replica_event event = {.kind = REPLICA_EVENT_EXECUTED};
    event.executed.seq = seq;
    event.executed.result_hash = sim_runtime_hash(node->runtime);
    sim_node_push(sim, node, SIM_ITEM_EVENT, NULL, &event);
    execute_next(sim, node);
}

/* ---- the loop ---- */

static void item(struct sim *sim, struct sim_node *node, struct sim_item *it) {
    switch (it->kind) {
    case SIM_ITEM_PACKET: packet_item(sim, node, it->data); break;
    case SIM_ITEM_EVENT:
        /* a snapshot may have come in between: then the epoch was not executed but restored */
        if (it->event.kind == REPLICA_EVENT_EXECUTED &&
            it->event.executed.seq <= node->seen.facts.exec_seq)
            break;
        if (sim->trace && it->event.kind == REPLICA_EVENT_STABLE)
            sim_trace(sim, sim_name(node->index), "STABLE %llu",
                      (unsigned long long)it->event.stable.position);
        sim_node_step(sim, node, &it->event);
        break;
    case SIM_ITEM_SNAPSHOT: sim_node_take_snapshot(sim, node, it->data); break;
    }
    free(it->data);
}

static void next_pass(struct sim *sim, struct sim_node *node) {
    if (node->inbox_count) {
        wake(sim, node, sim->now_ns + 1000);
        return;
    }
    uint64_t at = global_ns(sim, node, replica_next_deadline_ns(node->replica));
    if (node->stretch && at > sim->now_ns + STRETCH_POLL_NS)
        at = sim->now_ns + STRETCH_POLL_NS;
    if (at <= sim->now_ns) {
        at = sim->now_ns + 5000;
        if (++node->idle_passes > 100000)
            sim_fail(sim, "busy loop",
                     "n%u: deadline in the past for 100000 passes without an action", node->index);
    }
    wake(sim, node, at);
}

void sim_node_pass(struct sim *sim, struct sim_node *node) {
    node->pass_at_ns = SIM_NEVER;
    sim->passes++;
    uint32_t count = node->inbox_count < sim->config.burst ? node->inbox_count : sim->config.burst;
    while (count-- && node->up) {
        struct sim_item it = node->inbox[node->inbox_head];
        node->inbox_head = (node->inbox_head + 1) & node->inbox_mask;
        node->inbox_count--;
        item(sim, node, &it);
        if (node->crash_in_steps && --node->crash_in_steps == 0 &&
            (sim->config.replica.durable || sim_loss_allowed(sim, node))) {
            SIM_COUNT(sim, crash_inside);
            sim_node_crash(sim, node, false);
            return;
        }
    }
    sim_stretch_poll(sim, node);
    struct replica_event tick = {.kind = REPLICA_EVENT_TICK};
    sim_node_step(sim, node, &tick);
    sim_node_flush(sim, node);
    sim_fault_flushed(sim, node);
    if (!node->up)
        return;
    sim_journal_pump(sim, node);
    execute_next(sim, node);
    next_pass(sim, node);
}

/* ---- start and end of a process ---- */

/* Amnesiac: not in genesis, and no promise of this incarnation on the disk (recovery ends with
 * one). */
static bool amnesiac(const struct sim *sim, const struct sim_node *node) {
    if (node->incarnation == node->listed)
        return !sim->config.replica.durable && node->life != 1;
    return !(sim->config.replica.durable && node->journal.promised_stable);
}

void sim_node_start(struct sim *sim, struct sim_node *node) {
    struct sim_random *random = &sim->random[SIM_STREAM_NODE];
    bool durable = sim->config.replica.durable;
    if (node->up)
        return;
    if (node->incarnation == 0) { /* a new store needs a number first; asks until it gets one */
        node->starting = true;
        struct sim_request request = {.kind = SIM_REQUEST_REGISTER};
        sim_arbiter_ask(sim, node, &request);
        sim_at(sim, sim->now_ns + 20 * SIM_MS, SIM_EVENT_START, node->index, node->life, 0, NULL);
        return;
    }
    node->starting = false;
    node->wiped = false;
    node->up = true;
    node->boot_ns = sim->now_ns;
    node->mono_start_ns = sim_random_between(random, SIM_SECOND, 1000 * SIM_SECOND);
    node->config = sim->config.replica;
    node->config.index = node->index;
    node->config.incarnation = node->incarnation;
    node->config.amnesiac = node->amnesiac_start = amnesiac(sim, node);
    node->recovered = !node->amnesiac_start;
    node->started_committed = sim->checks.committed;
    shell_clear(sim, node);
    sim_runtime_init(node->runtime, &node->config.genesis_hash);
    node->delivered_seq = 0;
    SIM_TRACE(sim, sim_name(node->index), "START life %u incarnation %llu%s", node->life,
              (unsigned long long)node->incarnation, node->amnesiac_start ? " amnesiac" : "");
    node->replica = replica_init(node->memory, &node->config, sim_node_mono_ns(sim, node));
    sim_check_started(sim, node);
    node->journal.base = node->journal.next;
    if (durable)
        sim_replay(sim, node);
    sim_check_replayed(node);
    sim_node_flush(sim, node);
    sim_control_start(sim, node);
    next_pass(sim, node);
}

void sim_node_crash(struct sim *sim, struct sim_node *node, bool wipe) {
    wipe |= node->rotten; /* its start will refuse the journal */
    if (sim_node_differs(sim, node))
        sim->diverged_ns = sim->now_ns;
    SIM_TRACE(sim, sim_name(node->index), "CRASH%s", wipe ? ", disk lost" : "");
    SIM_COUNT(sim, crash);
    sim->tally[SIM_TALLY_bit_error] += node->rotten;
    sim->tally[SIM_TALLY_memory_lost] += !sim->config.replica.durable;
    node->up = node->starting = false;
    node->life++;
    node->diverges = false;
    inbox_clear(node);
    if (sim->config.replica.durable)
        sim_journal_crash(sim, node);
    if (wipe) {
        SIM_COUNT(sim, disk_lost);
        sim_journal_wipe(&node->journal);
        node->wiped = true;
        node->rotten = false;
    }
    if (wipe || !sim->config.replica.durable) {
        node->incarnation = 0;
        node->visible_term = 0;
        node->recovered = false;
    }
    bool soon =
        sim->config.faults >> SIM_FAULT_AMNESIA & 1 || sim->config.faults >> SIM_FAULT_DEAD & 1;
    struct sim_random *random = &sim->random[SIM_FAULT_CRASH];
    uint64_t down_ns = soon ? sim_random_exponential(random, SIM_MS)
                            : SIM_MS + sim_random_exponential(random, 15 * SIM_MS);
    sim_at(sim, sim->now_ns + down_ns, SIM_EVENT_START, node->index, node->life, 0, NULL);
}

void sim_node_pause(struct sim *sim, struct sim_node *node, uint64_t until_ns, bool control) {
    const struct replica_config *c = &sim->config.replica;
    uint64_t longest_ns = sim->config.lease_ns;
    longest_ns = longest_ns > 4 * c->slice_max_ns ? longest_ns : 4 * c->slice_max_ns;
    longest_ns = longest_ns > c->seal_after_ns ? longest_ns : c->seal_after_ns;
    sim->tally[SIM_TALLY_pause] += node->up;
    sim->tally[SIM_TALLY_pause_long] += node->up && until_ns > sim->now_ns + longest_ns;
    node->paused_until_ns = until_ns;
    node->control_paused = control;
}
