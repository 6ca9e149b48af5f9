#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "dataplane/stages/internal.h"
#include "dataplane/stages/marks.h"
#include <sodium.h>

#define IDLE_PASSES_BEFORE_YIELD 16
#define IDLE_PASSES_BEFORE_SLEEP 256
#define SLEEP_MAX_US 1000
#define GATEWAYS_MAX 2048

uint64_t stage_clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t wall_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void stage_drop(struct stage *s, enum wire_drop reason) {
    if (reason >= 0 && reason < WIRE_DROP_COUNT)
        s->dropped[reason]++;
}

void stage_fail(struct stage *s, int error, const char *text) {
    if (s->failed)
        return;
    s->failed = true;
    struct mailbox_up up = {.kind = MAILBOX_UP_FAILED, .error = error};
    snprintf(up.text, sizeof up.text, "%s", text);
    mailbox_send_up(s->setup.mailbox, &up);
}

/* ---- what the replica wants done ---- */

static void ask_control(struct stage *s, const struct replica_action *a) {
    struct mailbox_up up = {.revision = a->revision,
                            .owner = a->owner,
                            .range = a->range,
                            .end = a->end,
                            .seq = a->seq,
                            .peer = a->peer,
                            .immediately = a->outcome == 1};
    up.kind = a->kind == REPLICA_ACTION_CAMPAIGN       ? MAILBOX_UP_CAMPAIGN
              : a->kind == REPLICA_ACTION_RESIGN       ? MAILBOX_UP_RESIGN
              : a->kind == REPLICA_ACTION_RANGE_CHECK  ? MAILBOX_UP_RANGE_CHECK
              : a->kind == REPLICA_ACTION_RANGE_SEALED ? MAILBOX_UP_RANGE_SEALED
                                                       : MAILBOX_UP_NEED_SNAPSHOT;
    if (mailbox_send_up(s->setup.mailbox, &up))
        stage_fail(s, MRN_ERR_FULL, "the control plane does not take messages");
}

static void act(struct stage *s, const struct replica_action *a) {
    switch (a->kind) {
    case REPLICA_ACTION_SEND: stage_gossip_send(s, a); break;
    case REPLICA_ACTION_SEND_BODY: stage_gossip_send_body(s, a); break;
    case REPLICA_ACTION_APPEND_PROMISE:
    case REPLICA_ACTION_APPEND_EPOCH:
    case REPLICA_ACTION_APPEND_BODY: assert(0 && "durability = memory appends nothing"); break;
    case REPLICA_ACTION_DELIVER:
        assert(a->seq == s->deliver_to);
        stage_mark(STAGE_MARK_COMMITTED);
        s->deliver_to = a->seq + 1;
        break;
    case REPLICA_ACTION_FREE_SLOT: stage_bodies_give(&s->bodies, a->slot); break;
    case REPLICA_ACTION_RESULT_WANTED:
        stage_ingress_wanted(s, a->gateway, a->id, a->offset_bytes, a->length_bytes);
        break;
    case REPLICA_ACTION_TX_STATE:
    case REPLICA_ACTION_SEALED:
    case REPLICA_ACTION_NOT_OWNER:
    case REPLICA_ACTION_RANGE_PROGRESS: stage_ingress_action(s, a); break;
    case REPLICA_ACTION_CAMPAIGN:
    case REPLICA_ACTION_RESIGN:
    case REPLICA_ACTION_RANGE_CHECK:
    case REPLICA_ACTION_RANGE_SEALED:
    case REPLICA_ACTION_NEED_SNAPSHOT: ask_control(s, a); break;
    case REPLICA_ACTION_DROPPED: stage_drop(s, (enum wire_drop)a->outcome); break;
    case REPLICA_ACTION_FAIL_STOP: stage_fail(s, MRN_ERR_MISMATCH, a->reason); break;
    }
}

/* Steps do not nest: what an action causes is an event of its own, after it. */
void stage_step(struct stage *s, struct replica_event *event) {
    event->now_ns = s->now_ns;
    event->wall_us = s->wall_us;
    s->actions->count = 0;
    replica_step(s->replica, event, s->actions);
    for (uint32_t i = 0; i < s->actions->count; i++)
        act(s, &s->actions->items[i]);
    s->work += s->actions->count;
}

/* ---- what the control plane says ---- */

static void take_down(struct stage *s, const struct mailbox_down *down) {
    struct replica_event event = {0};
    switch (down->kind) {
    case MAILBOX_DOWN_LEADER_KEY:
        event.kind = REPLICA_EVENT_LEADER_KEY;
        event.leader_key.revision = down->revision;
        event.leader_key.term = down->term;
        event.leader_key.node = down->node;
        event.leader_key.ours = down->ours;
        break;
    case MAILBOX_DOWN_CAMPAIGN_RESULT:
        event.kind = REPLICA_EVENT_CAMPAIGN_RESULT;
        event.campaign.revision = down->revision;
        event.campaign.term = down->term;
        event.campaign.token = down->token;
        event.campaign.won = down->campaign == MAILBOX_CAMPAIGN_WON;
        break;
    case MAILBOX_DOWN_INCARNATIONS:
        event.kind = REPLICA_EVENT_INCARNATIONS;
        memcpy(event.incarnations.newest, down->incarnations, sizeof event.incarnations.newest);
        break;
    case MAILBOX_DOWN_RANGE_GRANT: stage_ingress_granted(s, down); return;
    case MAILBOX_DOWN_RANGE_CHECKED:
        event.kind = REPLICA_EVENT_RANGE_CHECKED;
        event.range_checked.range = down->range;
        event.range_checked.owner = down->owner;
        event.range_checked.owned = down->checked;
        break;
    case MAILBOX_DOWN_RANGE_EXPIRED:
        event.kind = REPLICA_EVENT_RANGE_EXPIRED;
        event.range_expired.range = down->range;
        event.range_expired.owner = down->owner;
        break;
    case MAILBOX_DOWN_SNAPSHOT_TAKE: stage_execute_snapshot(s, down->text); return;
    case MAILBOX_DOWN_SNAPSHOT_RESTORE: stage_execute_restore(s, down->text); return;
    case MAILBOX_DOWN_HANDOVER: event.kind = REPLICA_EVENT_HANDOVER; break;
    case MAILBOX_DOWN_ETCD_LATENCY:
        event.kind = REPLICA_EVENT_ETCD_LATENCY;
        event.etcd.latency_ns = down->etcd_latency_us * 1000;
        break;
    case MAILBOX_DOWN_STOP: event.kind = REPLICA_EVENT_HANDOVER; break;
    }
    stage_step(s, &event);
}

static uint32_t control_poll(struct stage *s) {
    struct mailbox_down down;
    uint32_t count = 0;
    while (count < 32 && mailbox_receive_down(s->setup.mailbox, &down) == 1) {
        take_down(s, &down);
        count++;
    }
    return count;
}

/* ---- the loop ---- */

static void tick(struct stage *s) {
    struct replica_event event = {.kind = REPLICA_EVENT_TICK};
    stage_step(s, &event);
    struct replica_facts facts;
    replica_facts(s->replica, &facts);
    s->leads = facts.role == REPLICA_ROLE_LEADER;
}

static uint64_t pass(struct stage *s) {
    s->now_ns = stage_clock_ns();
    s->now_us = s->now_ns / 1000;
    s->wall_us = wall_us();
    s->work = 0;
    uint64_t work = stage_ingress_poll(s);
    work += stage_gossip_poll(s, WIRE_STAGE_GOSSIP);
    work += stage_gossip_poll(s, WIRE_STAGE_FETCH);
    work += control_poll(s);
    tick(s);
    work += stage_execute_poll(s);
    for (uint32_t i = 0; i < WIRE_STAGE_COUNT; i++)
        stage_outbox_flush(&s->outboxes[i], s->now_us);
    stage_facts_poll(s);
    return work + s->work;
}

bool stage_poll(struct stage *s) {
    return pass(s) != 0;
}

/* Adaptive: from spinning over yielding to sleeping until a packet or the replica's next timer. */
static void idle(struct stage *s, uint32_t passes) {
    if (s->setup.config->poll == CONFIG_POLL_BUSY || passes < IDLE_PASSES_BEFORE_YIELD)
        return;
    if (passes < IDLE_PASSES_BEFORE_SLEEP) {
        sched_yield();
        return;
    }
    uint64_t at = replica_next_deadline_ns(s->replica);
    uint64_t wait_us = at > s->now_ns ? (at - s->now_ns) / 1000 : 0;
    if (wait_us < 20)
        sched_yield();
    else
        net_wait(s->setup.net, 0, wait_us < SLEEP_MAX_US ? (uint32_t)wait_us : SLEEP_MAX_US, NULL,
                 0);
}

int stage_run(struct stage *s) {
    uint32_t idle_passes = 0;
    uint64_t last_ns = stage_clock_ns();
    while (!atomic_load_explicit(&s->stop, memory_order_relaxed) && !s->failed) {
        uint64_t work = pass(s);
        uint64_t after_ns = stage_clock_ns();
        s->busy_ns += work ? after_ns - s->now_ns : 0;
        idle_passes = work ? 0 : idle_passes + 1;
        if (!work)
            idle(s, idle_passes);
        s->loop_ns += after_ns - last_ns;
        last_ns = after_ns;
    }
    return s->failed ? MRN_ERR_MISMATCH : 0;
}

void stage_stop(struct stage *s) {
    atomic_store_explicit(&s->stop, true, memory_order_relaxed);
}

/* ---- open, close ---- */

static void replica_configure(const struct stage_setup *setup, struct replica_config *c) {
    const struct config *g = setup->config;
    const struct control_identity *identity = setup->identity;
    uint64_t heartbeat_ns = (uint64_t)g->heartbeat_interval_us * 1000;
    *c = (struct replica_config){
        .index = identity->node_index,
        .node_count = identity->node_count,
        .quorum = identity->quorum,
        .durable = false,
        .amnesiac = !identity->in_genesis,
        .incarnation = identity->incarnation,
        .configuration_id = identity->configuration_id,
        .genesis_hash = identity->genesis_hash,
        .epochs_in_flight = g->epochs_in_flight,
        .epoch_cap = g->epoch_cap,
        .window = g->window,
        .ranges_max = g->ranges_max,
        .log_epochs = g->log_epochs,
        .body_slots = g->body_slots,
        .deliver_max = g->deliver_max,
        .heartbeat_interval_ns = heartbeat_ns,
        .slice_floor_ns = g->slice_floor_us ? (uint64_t)g->slice_floor_us * 1000 : 5 * heartbeat_ns,
        .slice_max_ns = (uint64_t)g->slice_max_us * 1000,
        .vector_interval_ns = (uint64_t)g->vector_interval_busy_us * 1000,
        .vector_idle_ns = (uint64_t)g->vector_interval_idle_us * 1000,
        .fetch_delay_ns = (uint64_t)g->fetch_delay_us * 1000,
        .idle_epoch_ns = (uint64_t)g->idle_epoch_ms * 1000000,
        .seal_after_ns = (uint64_t)g->seal_after_ms * 1000000,
    };
    memcpy(c->ring, identity->ring, sizeof c->ring);
}

static int open_runtime(struct stage *s) {
    const struct config *g = s->setup.config;
    struct runtime_config c;
    runtime_config_defaults(&c);
    c.state_bytes = g->state_bytes;
    c.ranges_max = g->ranges_max;
    c.results_kept = g->results_kept;
    c.idempotency_slots = g->idempotency_keys;
    c.idempotency_span_us = g->idempotency_span_s * 1000000;
    c.max_transaction_bytes = g->max_transaction_bytes;
    c.max_result_bytes = g->max_transaction_bytes + 4096;
    c.configuration_id = s->setup.identity->configuration_id;
    c.genesis_hash = s->setup.identity->genesis_hash;
    c.applications = s->setup.applications;
    c.application_count = s->setup.application_count;
    return runtime_open(&c, &s->runtime);
}

/* One table of peers for each endpoint; a node's sessions are random and end with the process. */
static int open_endpoint(struct stage *s, enum wire_stage stage) {
    const struct control_identity *identity = s->setup.identity;
    const struct config *g = s->setup.config;
    uint32_t capacity = stage == WIRE_STAGE_INGRESS ? GATEWAYS_MAX : 16;
    struct net_session_config c = {.role = WIRE_ROLE_NODE,
                                   .index = identity->node_index,
                                   .stage = (uint8_t)stage,
                                   .incarnation = identity->incarnation,
                                   .process_token = identity->process_token,
                                   .configuration_id = identity->configuration_id,
                                   .ranges = {WIRE_RANGE_NONE, WIRE_RANGE_NONE},
                                   .capacity = capacity};
    c.session = randombytes_random() | 1;
    s->endpoints[stage] = net_endpoint(s->setup.net, stage);
    void *memory = aligned_alloc(64, (net_sessions_size(capacity) + 63) & ~(size_t)63);
    if (!memory || !s->endpoints[stage]) {
        free(memory);
        return MRN_ERR_NO_MEMORY;
    }
    s->sessions[stage] = net_sessions_init(memory, &c);
    for (uint8_t i = 0; i < identity->node_count && stage != WIRE_STAGE_INGRESS; i++) {
        struct net_address address = {
            .ipv4 = g->node[i].ipv4,
            .port = (uint16_t)(g->node[i].port + (uint32_t)stage * WIRE_STAGE_PORT_STEP)};
        if (i != identity->node_index && !net_session_add_node(s->sessions[stage], i, address))
            return MRN_ERR_INVALID;
    }
    return stage_outbox_open(&s->outboxes[stage], s->endpoints[stage], s->sessions[stage]);
}

int stage_open(const struct stage_setup *setup, struct stage **ret_stage, char *ret_error) {
    struct replica_config c;
    replica_configure(setup, &c);
    size_t bytes = replica_size(&c);
    if (!bytes) {
        snprintf(ret_error, NET_TEXT_BYTES,
                 "the replica's limits do not fit together: body_slots >= 2 * epoch_cap, "
                 "ranges_max and log_epochs powers of two, log_epochs >= 4 * epochs_in_flight");
        return MRN_ERR_INVALID;
    }
    struct stage *s = calloc(1, sizeof *s);
    if (!s)
        return MRN_ERR_NO_MEMORY;
    s->setup = *setup;
    s->status = mailbox_status(setup->mailbox);
    s->deliver_from = s->deliver_to = 1;
    for (uint32_t i = 0; i < RANGE_CACHE; i++)
        s->range_cache[i].range = WIRE_RANGE_NONE;
    s->result_room = RESULT_AHEAD_BYTES;
    s->result_buffer = malloc(s->result_room);
    s->replica_memory = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    s->actions = malloc(sizeof *s->actions);
    s->exec_bodies = calloc(WIRE_EPOCH_BODIES_MAX, sizeof *s->exec_bodies);
    s->delivered = calloc(WIRE_EPOCH_BODIES_MAX, sizeof *s->delivered);
    int error =
        !s->replica_memory || !s->actions || !s->exec_bodies || !s->delivered || !s->result_buffer
            ? MRN_ERR_NO_MEMORY
            : stage_bodies_open(&s->bodies, c.body_slots + BODIES_IN_FLIGHT);
    for (uint32_t i = 0; !error && i < WIRE_STAGE_COUNT; i++)
        error = open_endpoint(s, (enum wire_stage)i);
    if (!error)
        error = open_runtime(s);
    if (error) {
        snprintf(ret_error, NET_TEXT_BYTES, "the dataplane cannot be made: %s",
                 mrn_error_text(error));
        stage_close(s);
        return error;
    }
    s->replica = replica_init(s->replica_memory, &c, stage_clock_ns());
    *ret_stage = s;
    return 0;
}

void stage_close(struct stage *s) {
    if (!s)
        return;
    for (uint32_t i = 0; i < WIRE_STAGE_COUNT; i++) {
        stage_outbox_close(&s->outboxes[i]);
        free(s->sessions[i]);
    }
    if (s->runtime)
        runtime_close(s->runtime);
    stage_bodies_close(&s->bodies);
    free(s->replica_memory);
    free(s->actions);
    free(s->exec_bodies);
    free(s->delivered);
    free(s->result_buffer);
    free(s);
}
