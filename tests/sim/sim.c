/* sim: a cluster of maroon replicas in one process, on one seeded random source and virtual time.
 *
 *   sim --seeds N --seed-base B --seconds S     many seeds, until N are done or S seconds of wall
 * time are over sim --seed K [--trace]                      one seed again, with a line per event
 *
 * The replica is linked unchanged. Around it everything is simulated: network (loss, duplication,
 * delay, reordering, partitions), journal (syncs late, a crash loses what was not synced), arbiter
 * (delay, outage, lost answers), gateways (resend, die), a deterministic runtime with snapshots,
 * crashes, restarts and pauses. Checkers outside the replica look at protocol.md §10 after every
 * step; at the end faults stop and everything that a live gateway sent must be executed everywhere
 * within a bound of virtual time. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "tests/sim/sim.h"

static struct sim *S;
static bool tracing;

static void trace(const char *format, ...) {
    if (!tracing)
        return;
    va_list arguments;
    va_start(arguments, format);
    printf("%12.6f ", (double)S->now_ns / 1e9);
    vprintf(format, arguments);
    putchar('\n');
    va_end(arguments);
}

static void violated(const char *check, ...) {
    va_list arguments;
    va_start(arguments, check);
    printf("VIOLATED at %.6f s: ", (double)S->now_ns / 1e9);
    vprintf(check, arguments);
    printf("\n  seed %" PRIu64 "; again: sim --seed %" PRIu64 " --trace\n", S->seed, S->seed);
    va_end(arguments);
    S->failed = true;
}

/* ---- random (xorshift64*, Vigna 2016) ---- */

static uint64_t rnd(void) {
    S->random ^= S->random >> 12;
    S->random ^= S->random << 25;
    S->random ^= S->random >> 27;
    return S->random * UINT64_C(0x2545f4914f6cdd1d);
}
static uint64_t rnd_below(uint64_t n) {
    return rnd() % n;
}
static bool chance(uint32_t per_thousand) {
    return rnd_below(1000) < per_thousand;
}

/* ---- event queue: a binary heap by (time, number) ---- */

static bool sooner(const struct sim_event *a, const struct sim_event *b) {
    return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->number < b->number);
}

static void push(uint64_t delay_ns, struct sim_event event) {
    if (S->event_count == S->event_room) {
        S->event_room = S->event_room ? 2 * S->event_room : 1024;
        S->events = realloc(S->events, S->event_room * sizeof *S->events);
        if (!S->events)
            abort();
    }
    event.at_ns = S->now_ns + delay_ns;
    event.number = S->event_number++;
    uint32_t at = S->event_count++;
    while (at && sooner(&event, &S->events[(at - 1) / 2])) {
        S->events[at] = S->events[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    S->events[at] = event;
}

static struct sim_event pop(void) {
    struct sim_event top = S->events[0], last = S->events[--S->event_count];
    uint32_t at = 0;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= S->event_count)
            break;
        if (child + 1 < S->event_count && sooner(&S->events[child + 1], &S->events[child]))
            child++;
        if (!sooner(&S->events[child], &last))
            break;
        S->events[at] = S->events[child];
        at = child;
    }
    S->events[at] = last;
    return top;
}

/* ---- network ---- */

static uint64_t network_delay(void) {
    uint64_t delay = 5000 + rnd_below(20000);
    if (chance(S->reorder))
        delay += rnd_below(3000000);
    return delay;
}

static void network_send(uint8_t from, uint8_t to, struct sim_packet *packet) {
    bool cut = from < S->node_count && to < S->node_count && S->cut[from][to];
    uint32_t copies = cut || chance(S->loss) ? 0 : chance(S->duplicate) ? 2 : 1;
    for (uint32_t i = 0; i < copies; i++) {
        struct sim_packet *copy = malloc(sizeof *copy);
        if (!copy)
            abort();
        *copy = *packet;
        push(network_delay(), (struct sim_event){.kind = SIM_PACKET, .node = to, .packet = copy});
    }
}

/* ---- bodies: (id, variant) fully determines the bytes, so only the digest is kept ---- */

static struct wire_digest body_digest(uint64_t id, uint32_t variant) {
    static const struct wire_digest_key key = {{1, 2, 3}};
    return wire_hash_body(&key, id, &variant, sizeof variant);
}

static uint32_t slot_take(struct sim_node *n, uint64_t id, uint32_t variant) {
    if (!n->slot_free_count)
        return REPLICA_SLOT_NONE;
    uint32_t slot = n->slot_free[--n->slot_free_count];
    n->slots[slot] = (struct sim_slot){id, variant, true};
    return slot;
}

/* ---- steps of a node ---- */

static void node_step(uint8_t index, struct replica_event *event);
static void node_restored(uint8_t index);
static void node_act(uint8_t index, const struct replica_action *a);

static void check_after(struct sim_node *n, uint8_t index) {
    struct replica_facts f;
    replica_facts(n->replica, &f);
    if (f.promised_term < n->seen_term)
        violated("promises go back on node %u", index);
    n->seen_term = f.promised_term;
    if (f.commit_seq < n->seen_commit)
        violated("commit_seq goes back on node %u", index);
    for (uint64_t seq = n->seen_commit > f.base_seq ? n->seen_commit + 1 : f.base_seq + 1;
         seq <= f.commit_seq; seq++) {
        uint32_t bytes;
        struct wire_hash hash;
        if (seq >= SIM_EPOCHS_MAX || !replica_epoch(n->replica, seq, &bytes, &hash))
            continue;
        if (!S->committed_known[seq]) {
            S->committed_known[seq] = true;
            S->committed[seq] = hash;
            if (seq > S->committed_max)
                S->committed_max = seq;
        } else if (memcmp(&S->committed[seq], &hash, sizeof hash))
            violated("two nodes committed different epochs at seq %" PRIu64 " (node %u)", seq,
                     index);
    }
    n->seen_commit = f.commit_seq;
    if (f.role == REPLICA_ROLE_LEADER && f.promised_term < SIM_TERMS_MAX) {
        if (S->leader_of[f.promised_term] && S->leader_of[f.promised_term] != index + 1)
            violated("two leaders of term %" PRIu64, f.promised_term);
        S->leader_of[f.promised_term] = (uint8_t)(index + 1);
    }
    if (S->steps++ % 64 == 0) {
        const char *broken = replica_check(n->replica);
        if (broken)
            violated("replica %u: %s", index, broken);
    }
}

static void node_step(uint8_t index, struct replica_event *event) {
    struct sim_node *n = &S->nodes[index];
    static struct replica_actions actions[4];
    static uint32_t depth;
    assert(depth < 4);
    struct replica_actions *mine = &actions[depth++];
    mine->count = 0;
    event->now_ns = S->now_ns;
    event->wall_us = 1000000 + S->now_ns / 1000 + n->wall_skew_us;
    replica_step(n->replica, event, mine);
    for (uint32_t i = 0; i < mine->count && !S->failed; i++)
        node_act(index, &mine->items[i]);
    depth--;
    if (!S->failed)
        check_after(n, index);
}

static void journal_append(struct sim_node *n, struct sim_record record) {
    if (n->journal_count == n->journal_room) {
        n->journal_room = n->journal_room ? 2 * n->journal_room : 256;
        n->journal = realloc(n->journal, n->journal_room * sizeof *n->journal);
        if (!n->journal)
            abort();
    }
    n->journal[n->journal_count++] = record;
}

/* ---- the runtime: a hash over what was executed, and how often each id was ---- */

static void execute(uint8_t index, uint64_t seq) {
    struct sim_node *n = &S->nodes[index];
    static struct replica_delivered_body bodies[WIRE_EPOCH_BODIES_MAX];
    const uint8_t *epoch;
    uint32_t epoch_bytes;
    struct wire_hash hash;
    if (seq != n->state.exec_seq + 1) {
        violated("node %u executes %" PRIu64 " after %" PRIu64, index, seq, n->state.exec_seq);
        return;
    }
    uint32_t count = replica_delivery(n->replica, seq, &epoch, &epoch_bytes, &hash, bodies);
    const struct wire_epoch_head *head = (const void *)epoch;
    struct sim_state *state = &n->state;
    const struct wire_control *controls = wire_epoch_controls(epoch);
    for (uint32_t i = 0; i < head->control_count; i++) {
        uint64_t range = controls[i].range;
        if (controls[i].kind == WIRE_CONTROL_OPEN)
            state->owner[range] = controls[i].value, state->open[range] = true;
        else {
            if (state->position[range] != controls[i].value)
                violated("SEAL of range %" PRIu64 " at %" PRIu64 " but executed up to %u", range,
                         controls[i].value, state->position[range]);
            state->open[range] = false;
        }
    }
    for (uint32_t i = 0; i < count && !S->failed; i++) {
        const struct sim_slot *slot = &n->slots[bodies[i].slot];
        uint64_t id = bodies[i].id, range = wire_tx_range(id);
        uint32_t offset = wire_tx_offset(id);
        if (!slot->used || slot->id != id)
            violated("node %u executes %" PRIx64 " from a slot of another body", index, id);
        if (!state->open[range] || state->position[range] != offset)
            violated("node %u executes %" PRIx64 " out of turn (position %u)", index, id,
                     state->position[range]);
        if (!S->variant_known[range][offset]) {
            S->variant_known[range][offset] = true;
            S->variant[range][offset] = (uint8_t)slot->variant;
        } else if (S->variant[range][offset] != slot->variant)
            violated("two bodies were executed under id %" PRIx64, id);
        state->position[range] = offset + 1;
        uint64_t pair[2] = {id, slot->variant};
        state->hash = wire_hash_blake2b_pair(&state->hash, sizeof state->hash, pair, sizeof pair);
        struct sim_gateway *g = &S->gateways[range % SIM_GATEWAYS_MAX];
        if (g->range == range) { /* the result goes to the gateway, lossy */
            struct sim_packet packet = {.kind = SIM_RESULT, .from = index, .id = id};
            network_send(index, (uint8_t)(SIM_GATEWAY_BASE + range % SIM_GATEWAYS_MAX), &packet);
        }
    }
    state->hash = wire_hash_blake2b_pair(&state->hash, sizeof state->hash, &hash, sizeof hash);
    state->exec_seq = seq;
    state->term = head->term;
    state->logical_time_us = head->logical_time_us;
    state->epoch_hash = hash;
    if (seq < SIM_EPOCHS_MAX) {
        if (!S->state_known[seq]) {
            S->state_known[seq] = true;
            S->state_hash[seq] = state->hash;
        } else if (memcmp(&S->state_hash[seq], &state->hash, sizeof state->hash))
            violated("state hashes differ at exec_seq %" PRIu64, seq);
    }
    uint64_t ends = S->now_ns + 1000 + rnd_below(20000);
    n->executed_at_ns = ends > n->executed_at_ns ? ends : n->executed_at_ns + 1;
    push(n->executed_at_ns - S->now_ns,
         (struct sim_event){.kind = SIM_EXECUTED, .node = index, .life = n->life, .value = seq});
}

/* ---- the arbiter: one leader key with revisions ---- */

static void arbiter_tell(uint64_t delay) {
    for (uint8_t i = 0; i < S->node_count; i++)
        push(delay + rnd_below(500000),
             (struct sim_event){
                 .kind = SIM_KEY, .node = i, .value = S->key_revision, .value2 = S->key_node});
}

static void arbiter_campaign(uint8_t index, uint64_t life, uint64_t revision) {
    struct sim_node *n = &S->nodes[index];
    if (S->etcd_away) {
        push(5000000, (struct sim_event){
                          .kind = SIM_CAMPAIGN, .node = index, .life = life, .value = revision});
        return;
    }
    bool won = (S->key_node == REPLICA_NODE_NONE ? 0 : S->key_revision) == revision;
    if (won) {
        S->revision++;
        S->key_revision = S->revision;
        S->key_node = index;
        S->key_life = n->life;
    }
    push(200000 + rnd_below(800000), (struct sim_event){.kind = SIM_CAMPAIGN_DONE,
                                                        .node = index,
                                                        .life = life,
                                                        .value = S->key_revision,
                                                        .value2 = won});
    arbiter_tell(100000);
}

static void node_act(uint8_t index, const struct replica_action *a) {
    struct sim_node *n = &S->nodes[index];
    struct sim_packet packet = {.from = index, .incarnation = n->incarnation};
    switch (a->kind) {
    case REPLICA_ACTION_SEND:
        packet.kind = SIM_FRAME;
        packet.number = ++n->packet_number;
        packet.frame_kind = a->frame_kind;
        packet.frame_flags = a->frame_flags;
        packet.length = (uint16_t)(a->inline_bytes + a->tail_bytes);
        memcpy(packet.bytes, a->payload, a->inline_bytes);
        if (a->tail_bytes)
            memcpy(packet.bytes + a->inline_bytes, a->tail, a->tail_bytes);
        trace("n%u -> n%u %s", index, a->peer, wire_kind_name(a->frame_kind));
        network_send(index, a->peer, &packet);
        break;
    case REPLICA_ACTION_SEND_BODY:
        if (!n->slots[a->slot].used || n->slots[a->slot].id != a->id)
            violated("node %u serves %" PRIx64 " from a wrong slot", index, a->id);
        packet.kind = SIM_BODY;
        packet.id = a->id;
        packet.variant = n->slots[a->slot].variant;
        network_send(index, a->peer, &packet);
        break;
    case REPLICA_ACTION_APPEND_PROMISE:
    case REPLICA_ACTION_APPEND_EPOCH:
    case REPLICA_ACTION_APPEND_BODY: {
        if (a->position != n->journal_next++)
            violated("journal positions are not dense on node %u", index);
        struct sim_record record = {
            .kind = a->kind, .term = a->term, .token = a->token, .peer = a->peer, .id = a->id};
        if (a->kind == REPLICA_ACTION_APPEND_EPOCH) {
            record.length = a->tail_bytes;
            memcpy(record.bytes, a->tail, a->tail_bytes);
        } else if (a->kind == REPLICA_ACTION_APPEND_BODY)
            record.variant = n->slots[a->slot].variant;
        journal_append(n, record);
        if (!n->sync_pending) {
            n->sync_pending = true;
            push(80000 + rnd_below(S->slow_disk ? 5000000 : 150000),
                 (struct sim_event){.kind = SIM_SYNC, .node = index, .life = n->life});
        }
        break;
    }
    case REPLICA_ACTION_DELIVER: execute(index, a->seq); break;
    case REPLICA_ACTION_FREE_SLOT:
        if (!n->slots[a->slot].used) {
            violated("node %u frees slot %u twice", index, a->slot);
            break;
        }
        n->slots[a->slot].used = false;
        n->slot_free[n->slot_free_count++] = a->slot;
        break;
    case REPLICA_ACTION_RESULT_WANTED:
        packet.kind = SIM_RESULT;
        packet.id = a->id;
        if (wire_tx_offset(a->id) < n->state.position[wire_tx_range(a->id)])
            network_send(index, (uint8_t)(SIM_GATEWAY_BASE + a->gateway), &packet);
        break;
    case REPLICA_ACTION_SEALED:
        packet.kind = SIM_SEALED;
        packet.id = wire_tx_id(a->range, 0);
        network_send(index, (uint8_t)(SIM_GATEWAY_BASE + a->gateway), &packet);
        break;
    case REPLICA_ACTION_RANGE_PROGRESS:
        packet.kind = SIM_PROGRESS;
        packet.id = wire_tx_id(a->range, 0);
        packet.received = a->received;
        packet.committed = a->committed;
        network_send(index, (uint8_t)(SIM_GATEWAY_BASE + a->gateway), &packet);
        break;
    case REPLICA_ACTION_CAMPAIGN:
        trace("n%u campaigns against revision %" PRIu64, index, a->revision);
        push(300000 + rnd_below(1000000),
             (struct sim_event){
                 .kind = SIM_CAMPAIGN, .node = index, .life = n->life, .value = a->revision});
        break;
    case REPLICA_ACTION_RESIGN:
        if (S->key_node == index && S->key_revision == a->revision && !S->etcd_away) {
            S->key_node = REPLICA_NODE_NONE;
            S->revision++;
            arbiter_tell(200000);
        }
        break;
    case REPLICA_ACTION_RANGE_CHECK:
        push(500000, (struct sim_event){.kind = SIM_CHECKED,
                                        .node = index,
                                        .life = n->life,
                                        .value = a->range,
                                        .value2 = a->owner});
        break;
    case REPLICA_ACTION_NEED_SNAPSHOT:
        push(3000000, (struct sim_event){.kind = SIM_SNAPSHOT, .node = index, .life = n->life});
        break;
    case REPLICA_ACTION_FAIL_STOP: violated("node %u stops: %s", index, a->reason); break;
    case REPLICA_ACTION_TX_STATE:
    case REPLICA_ACTION_NOT_OWNER:
    case REPLICA_ACTION_RANGE_SEALED:
    case REPLICA_ACTION_DROPPED: break;
    }
}

/* ---- life of a node ---- */

static void node_config(uint8_t index, struct replica_config *c) {
    *c = S->config;
    c->index = index;
    c->incarnation = S->nodes[index].incarnation;
    c->amnesiac = S->nodes[index].amnesiac;
}

static void node_replay(uint8_t index) {
    struct sim_node *n = &S->nodes[index];
    n->journal_next = 0;
    for (uint32_t i = 0; i < n->journal_count && !S->failed; i++) {
        const struct sim_record *record = &n->journal[i];
        struct replica_event event = {0};
        if (record->kind == REPLICA_ACTION_APPEND_PROMISE) {
            event.kind = REPLICA_EVENT_REPLAY_PROMISE;
            event.replay_promise.term = record->term;
            event.replay_promise.token = record->token;
            event.replay_promise.winner = record->peer;
        } else if (record->kind == REPLICA_ACTION_APPEND_EPOCH) {
            event.kind = REPLICA_EVENT_REPLAY_EPOCH;
            event.replay_epoch.bytes = record->bytes;
            event.replay_epoch.length_bytes = record->length;
        } else {
            uint32_t slot = slot_take(n, record->id, record->variant);
            if (slot == REPLICA_SLOT_NONE)
                abort();
            event.kind = REPLICA_EVENT_REPLAY_BODY;
            event.replay_body =
                (struct replica_event_body){.id = record->id,
                                            .slot = slot,
                                            .peer = REPLICA_NODE_NONE,
                                            .digest = body_digest(record->id, record->variant)};
        }
        node_step(index, &event);
    }
    struct replica_event end = {.kind = REPLICA_EVENT_REPLAY_END};
    node_step(index, &end);
    n->journal_count = 0; /* positions start anew: what was replayed stays below */
}

static void node_start(uint8_t index) {
    struct sim_node *n = &S->nodes[index];
    struct replica_config c;
    n->up = true;
    n->life++;
    n->sync_pending = false;
    n->packet_number = 0;
    n->journal_next = n->executed_at_ns = n->restored_seq = 0;
    memset(&n->state, 0, sizeof n->state);
    n->slot_free_count = 0;
    for (uint32_t i = 0; i < S->config.body_slots + SIM_SLOTS_SPARE; i++) {
        n->slots[i].used = false;
        n->slot_free[n->slot_free_count++] = i;
    }
    node_config(index, &c);
    n->replica = replica_init(n->memory, &c, S->now_ns);
    n->seen_term = n->seen_commit = 0;
    if (S->config.durable) {
        struct sim_record *old = n->journal;
        uint32_t count = n->journal_count;
        if (n->disk_snapshot.exec_seq) {
            n->state = n->disk_snapshot;
            node_restored(index);
        }
        node_replay(index);
        n->journal = old;
        n->journal_count = n->journal_synced = count;
        n->journal_base = count;
        n->journal_dropped = 0;
    }
    trace("n%u starts, incarnation %" PRIu64, index, n->incarnation);
    push(rnd_below(10000), (struct sim_event){.kind = SIM_TICK, .node = index, .life = n->life});
    if (!S->etcd_away)
        push(rnd_below(2000000),
             (struct sim_event){
                 .kind = SIM_KEY, .node = index, .value = S->key_revision, .value2 = S->key_node});
}

static void node_crash(uint8_t index) {
    struct sim_node *n = &S->nodes[index];
    trace("n%u crashes", index);
    n->up = false;
    n->life++;
    n->journal_count = n->journal_synced; /* what was not synced is gone */
    if (!S->config.durable) {
        n->incarnation = ++S->incarnations;
        n->amnesiac = true;
    }
}

/* ---- gateways ---- */

static void gateway_send(uint8_t index, uint32_t offset) {
    struct sim_gateway *g = &S->gateways[index];
    uint64_t id = wire_tx_id(g->range, offset);
    struct sim_packet packet = {
        .kind = SIM_TX, .from = (uint8_t)(SIM_GATEWAY_BASE + index), .id = id};
    for (uint8_t i = 0; i < S->node_count; i++) {
        packet.variant = g->faulty && chance(500) ? 1 : 0;
        if (!S->one_node_only || i == index % S->node_count)
            network_send(packet.from, i, &packet);
    }
}

static void gateway_tick(uint8_t index) {
    struct sim_gateway *g = &S->gateways[index];
    if (g->dead)
        return;
    while (g->sent < g->wanted && g->sent < g->committed + S->config.window)
        gateway_send(index, g->sent++);
    if (S->now_ns >= g->resend_at_ns) {
        g->resend_at_ns = S->now_ns + 20000000;
        uint32_t resent = 0;
        for (uint32_t i = g->answered; i < g->sent && resent < 16; i++)
            if (!g->results[i]) {
                gateway_send(index, i);
                resent++;
            }
    }
    struct sim_packet hello = {.kind = SIM_HELLO,
                               .from = (uint8_t)(SIM_GATEWAY_BASE + index),
                               .id = g->range,
                               .incarnation = g->owner};
    if (S->now_ns >= g->hello_at_ns) {
        g->hello_at_ns = S->now_ns + 50000000;
        for (uint8_t i = 0; i < S->node_count; i++)
            network_send(hello.from, i, &hello);
    }
    push(500000, (struct sim_event){.kind = SIM_GATEWAY, .node = index});
}

static void gateway_packet(uint8_t index, const struct sim_packet *p) {
    struct sim_gateway *g = &S->gateways[index];
    if (wire_tx_range(p->id) != g->range)
        return;
    if (p->kind == SIM_RESULT) {
        uint32_t offset = wire_tx_offset(p->id);
        if (offset >= g->sent)
            violated("a result for an id that was never sent");
        if (!S->result_given[g->range][offset]) {
            S->result_given[g->range][offset] = true;
            S->results++;
        }
        g->results[offset] = true;
        while (g->answered < g->sent && g->results[g->answered])
            g->answered++;
    } else if (p->kind == SIM_PROGRESS && p->committed > g->committed)
        g->committed = p->committed;
}

/* ---- a packet reaches a node ---- */

static void node_body(uint8_t index, const struct sim_packet *p) {
    struct sim_node *n = &S->nodes[index];
    uint32_t slot = slot_take(n, p->id, p->variant);
    if (slot == REPLICA_SLOT_NONE)
        return;
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    event.body = (struct replica_event_body){
        .id = p->id, .digest = body_digest(p->id, p->variant), .slot = slot};
    if (p->kind == SIM_TX) {
        event.body.peer = REPLICA_NODE_NONE;
        event.body.gateway = p->from - SIM_GATEWAY_BASE;
        event.body.owner = S->gateways[event.body.gateway].owner;
    } else
        event.body.peer = p->from;
    node_step(index, &event);
}

static void node_packet(uint8_t index, struct sim_packet *p) {
    struct replica_event event = {0};
    switch (p->kind) {
    case SIM_FRAME: {
        struct wire_frame_header header = {p->frame_kind, p->frame_flags, p->length};
        uint8_t bytes[sizeof header + sizeof p->bytes];
        memcpy(bytes, &header, sizeof header);
        memcpy(bytes + sizeof header, p->bytes, p->length);
        struct wire_cursor cursor = {bytes, bytes + sizeof header + p->length};
        struct wire_frame frame;
        enum wire_drop drop;
        if (wire_frame_next(&cursor, &frame, &drop) != 1) {
            violated("node %u sent a frame %s that its receiver refuses (%s)", p->from,
                     wire_kind_name(p->frame_kind), wire_drop_label(drop));
            return;
        }
        event.kind = REPLICA_EVENT_FRAME;
        event.frame = (struct replica_event_frame){
            p->from,       frame.kind,     frame.flags, frame.length_bytes,
            frame.payload, p->incarnation, p->number,   WIRE_STAGE_GOSSIP};
        node_step(index, &event);
        break;
    }
    case SIM_BODY:
    case SIM_TX: node_body(index, p); break;
    case SIM_HELLO:
        event.kind = REPLICA_EVENT_RANGE_HELLO;
        event.range_hello.range = p->id;
        event.range_hello.owner = p->incarnation;
        event.range_hello.gateway = p->from - SIM_GATEWAY_BASE;
        node_step(index, &event);
        break;
    case SIM_RESULT:
    case SIM_SEALED:
    case SIM_PROGRESS: break;
    }
}

/* ---- faults ---- */

static uint32_t nodes_away(void) {
    uint32_t away = 0;
    for (uint8_t i = 0; i < S->node_count; i++) {
        struct replica_facts f;
        if (S->nodes[i].up)
            replica_facts(S->nodes[i].replica, &f);
        away += !S->nodes[i].up || f.role == REPLICA_ROLE_LEARNER ||
                f.role == REPLICA_ROLE_NEEDS_BOOTSTRAP;
    }
    return away;
}

static void fault(void) {
    uint8_t index = (uint8_t)rnd_below(S->node_count), other = (uint8_t)rnd_below(S->node_count);
    struct sim_node *n = &S->nodes[index];
    uint32_t away_max = S->config.durable ? S->node_count : S->node_count - S->config.quorum;
    if (!S->config.durable && away_max > (uint32_t)S->config.quorum - 1)
        away_max = S->config.quorum - 1u;
    switch (rnd_below(8)) {
    case 0:
    case 1:
        if (n->up && nodes_away() < away_max && S->crashes) {
            node_crash(index);
            push(rnd_below(400000000), (struct sim_event){.kind = SIM_RESTART, .node = index});
        }
        break;
    case 2:
        if (n->up)
            n->paused_until_ns = S->now_ns + rnd_below(500000000);
        break;
    case 3: S->cut[index][other] = true; break;
    case 4: S->cut[index][other] = S->cut[other][index] = true; break;
    case 5: memset(S->cut, 0, sizeof S->cut); break;
    case 6:
        S->etcd_away = !S->etcd_away;
        if (!S->etcd_away)
            arbiter_tell(1000000);
        break;
    case 7: n->wall_skew_us = rnd_below(1000000000000); break;
    }
    push(rnd_below(300000000), (struct sim_event){.kind = SIM_FAULT});
}

static void faults_stop(void) {
    S->calm = true;
    S->loss = S->duplicate = S->reorder = 0;
    S->etcd_away = S->one_node_only = false;
    memset(S->cut, 0, sizeof S->cut);
    for (uint8_t i = 0; i < S->node_count; i++) {
        S->nodes[i].paused_until_ns = 0;
        if (!S->nodes[i].up)
            node_start(i);
    }
    for (uint8_t i = 0; i < SIM_GATEWAYS_MAX; i++)
        S->gateways[i].faulty = false;
    arbiter_tell(1000000);
}

/* ---- the loop ---- */

static void dispatch(struct sim_event *e) {
    struct sim_node *n = e->node < SIM_NODES_MAX ? &S->nodes[e->node] : NULL;
    struct replica_event event = {0};
    bool alive = n && n->up && (!e->life || e->life == n->life);
    if (alive && n->paused_until_ns > S->now_ns &&
        e->kind != SIM_RESTART) { /* its process stands still */
        push(n->paused_until_ns - S->now_ns + rnd_below(1000), *e);
        return;
    }
    switch (e->kind) {
    case SIM_TICK:
        if (!alive)
            return;
        event.kind = REPLICA_EVENT_TICK;
        node_step(e->node, &event);
        push(20000 + rnd_below(30000),
             (struct sim_event){.kind = SIM_TICK, .node = e->node, .life = n->life});
        break;
    case SIM_PACKET:
        if (e->node >= SIM_GATEWAY_BASE)
            gateway_packet((uint8_t)(e->node - SIM_GATEWAY_BASE), e->packet);
        else if (alive)
            node_packet(e->node, e->packet);
        free(e->packet);
        break;
    case SIM_SYNC:
        if (!alive)
            return;
        n->sync_pending = false;
        n->journal_synced = n->journal_count;
        event.kind = REPLICA_EVENT_STABLE;
        event.stable.position = n->journal_count - n->journal_base + n->journal_dropped;
        node_step(e->node, &event);
        break;
    case SIM_EXECUTED:
        if (!alive || e->value <= n->restored_seq)
            return;
        event.kind = REPLICA_EVENT_EXECUTED;
        event.executed.seq = e->value;
        event.executed.result_hash = S->state_hash[e->value];
        node_step(e->node, &event);
        break;
    case SIM_KEY:
        if (!alive || S->etcd_away)
            return;
        event.kind = REPLICA_EVENT_LEADER_KEY;
        event.leader_key.revision = event.leader_key.term = e->value;
        event.leader_key.node = (uint8_t)e->value2;
        event.leader_key.ours = e->value2 == e->node && S->key_life == n->life;
        node_step(e->node, &event);
        break;
    case SIM_CAMPAIGN:
        if (alive)
            arbiter_campaign(e->node, e->life, e->value);
        break;
    case SIM_CAMPAIGN_DONE:
        if (!alive)
            return;
        event.kind = REPLICA_EVENT_CAMPAIGN_RESULT;
        event.campaign.revision = event.campaign.term = e->value;
        event.campaign.token = e->value * 1000 + e->node;
        event.campaign.won = e->value2;
        trace("n%u %s term %" PRIu64, e->node, e->value2 ? "wins" : "loses against", e->value);
        node_step(e->node, &event);
        break;
    case SIM_CHECKED:
        if (!alive)
            return;
        event.kind = REPLICA_EVENT_RANGE_CHECKED;
        event.range_checked.range = e->value;
        event.range_checked.owner = e->value2;
        event.range_checked.owned = S->gateways[e->value % SIM_GATEWAYS_MAX].owner == e->value2;
        node_step(e->node, &event);
        break;
    case SIM_SNAPSHOT: sim_restore(e->node, alive); break;
    case SIM_RESTART:
        if (!n->up)
            node_start(e->node);
        break;
    case SIM_GATEWAY: gateway_tick(e->node); break;
    case SIM_FAULT:
        if (!S->calm)
            fault();
        break;
    }
}

/* A snapshot of the peer that has executed most. */
void sim_restore(uint8_t index, bool alive) {
    struct sim_node *n = &S->nodes[index];
    uint8_t best = REPLICA_NODE_NONE;
    for (uint8_t i = 0; i < S->node_count; i++)
        if (i != index && S->nodes[i].up &&
            S->nodes[i].state.exec_seq >
                (best == REPLICA_NODE_NONE ? 0 : S->nodes[best].state.exec_seq))
            best = i;
    if (!alive || best == REPLICA_NODE_NONE || S->nodes[best].state.exec_seq <= n->state.exec_seq)
        return;
    n->state = S->nodes[best].state;
    n->disk_snapshot =
        n->state; /* written before it is used; the journal's epochs are void with it */
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n->journal_count; i++)
        if (n->journal[i].kind != REPLICA_ACTION_APPEND_EPOCH)
            n->journal[kept++] = n->journal[i];
        else if (i >= n->journal_base)
            n->journal_dropped++;
        else
            n->journal_base--;
    n->journal_count = n->journal_synced = kept;
    trace("n%u restores the snapshot of n%u at %" PRIu64, index, best, n->state.exec_seq);
    node_restored(index);
}

static void node_restored(uint8_t index) {
    struct sim_node *n = &S->nodes[index];
    n->restored_seq = n->state.exec_seq;
    for (uint32_t range = 0; range < SIM_RANGES; range++) {
        if (!n->state.owner[range])
            continue;
        struct replica_event event = {.kind = REPLICA_EVENT_RESTORE_RANGE};
        event.restore_range.range = range;
        event.restore_range.owner = n->state.owner[range];
        event.restore_range.position = n->state.position[range];
        event.restore_range.open = n->state.open[range];
        node_step(index, &event);
    }
    struct replica_event event = {.kind = REPLICA_EVENT_RESTORED};
    event.restored =
        (struct replica_event_restored){n->state.exec_seq, n->state.term, n->state.logical_time_us,
                                        n->state.epoch_hash, n->state.hash};
    node_step(index, &event);
}

static void setup(uint64_t seed) {
    memset(S, 0, offsetof(struct sim, events));
    S->event_count = 0;
    S->seed = seed;
    S->random = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
    for (int i = 0; i < 8; i++)
        rnd();
    static const uint8_t sizes[] = {3, 3, 3, 5, 1, 2, 4, 7};
    S->node_count = sizes[rnd_below(sizeof sizes)];
    S->loss = chance(300) ? 0 : (uint32_t)rnd_below(150);
    S->duplicate = (uint32_t)rnd_below(50);
    S->reorder = (uint32_t)rnd_below(100);
    S->slow_disk = chance(200);
    S->one_node_only = chance(200);
    S->crashes = chance(800);
    S->key_node = REPLICA_NODE_NONE;
    struct replica_config *c = &S->config;
    *c = (struct replica_config){.node_count = S->node_count,
                                 .quorum = (uint8_t)(S->node_count / 2 + 1),
                                 .durable = chance(500),
                                 .configuration_id = 77,
                                 .epochs_in_flight = 1 + (uint32_t)rnd_below(8),
                                 .epoch_cap = 1u << rnd_below(7),
                                 .window = 64 + (uint32_t)rnd_below(512),
                                 .ranges_max = 16,
                                 .log_epochs = 64u << rnd_below(4),
                                 .body_slots = 8192,
                                 .deliver_max = 1 + (uint32_t)rnd_below(8),
                                 .heartbeat_interval_ns = 2000000,
                                 .slice_floor_ns = 10000000,
                                 .slice_max_ns = 100000000,
                                 .vector_interval_ns = 100000,
                                 .vector_idle_ns = 5000000,
                                 .idle_epoch_ns = 1000000000,
                                 .seal_after_ns = UINT64_C(10000000000)};
    if (c->durable)
        c->log_epochs = 1u << 14; /* until journals are cut, a restart replays all of it */
    for (uint8_t i = 0; i < S->node_count; i++)
        c->ring[i] = (uint8_t)((i * 3 + seed) % S->node_count);
    for (uint8_t i = 0; i < S->node_count; i++) /* 3 and node_count may share a factor */
        c->ring[i] = i;
    for (uint8_t i = 0; i < S->node_count; i++) {
        struct sim_node *n = &S->nodes[i];
        n->incarnation = ++S->incarnations;
        n->memory = aligned_alloc(64, (replica_size(c) + 63) & ~(size_t)63);
        n->slots = calloc(c->body_slots + SIM_SLOTS_SPARE, sizeof *n->slots);
        n->slot_free = calloc(c->body_slots + SIM_SLOTS_SPARE, sizeof *n->slot_free);
        if (!n->memory || !n->slots || !n->slot_free)
            abort();
        node_start(i);
    }
    uint32_t gateways = 1 + (uint32_t)rnd_below(SIM_GATEWAYS_MAX);
    for (uint8_t i = 0; i < gateways; i++) {
        struct sim_gateway *g = &S->gateways[i];
        g->range = i;
        g->owner = 1000u + i;
        g->wanted = 50 + (uint32_t)rnd_below(400);
        g->faulty = chance(100);
        push(rnd_below(50000000), (struct sim_event){.kind = SIM_GATEWAY, .node = i});
    }
    for (uint8_t i = (uint8_t)gateways; i < SIM_GATEWAYS_MAX; i++)
        S->gateways[i].dead = true;
    push(rnd_below(200000000), (struct sim_event){.kind = SIM_FAULT});
}

static void teardown(void) {
    while (S->event_count) {
        struct sim_event e = pop();
        if (e.kind == SIM_PACKET)
            free(e.packet);
    }
    for (uint8_t i = 0; i < S->node_count; i++) {
        free(S->nodes[i].memory);
        free(S->nodes[i].slots);
        free(S->nodes[i].slot_free);
        free(S->nodes[i].journal);
    }
}

static bool all_done(void) {
    uint64_t seq = 0;
    for (uint8_t i = 0; i < SIM_GATEWAYS_MAX; i++)
        if (!S->gateways[i].dead && S->gateways[i].answered < S->gateways[i].wanted)
            return false;
    for (uint8_t i = 0; i < S->node_count; i++) {
        if (!S->nodes[i].up)
            return false;
        seq = S->nodes[i].state.exec_seq > seq ? S->nodes[i].state.exec_seq : seq;
    }
    for (uint8_t i = 0; i < S->node_count; i++)
        for (uint8_t j = 0; j < SIM_GATEWAYS_MAX; j++)
            if (!S->gateways[j].dead && S->nodes[i].state.position[j] < S->gateways[j].wanted)
                return false;
    return true;
}

static void stuck(void) {
    for (uint8_t i = 0; i < S->node_count; i++) {
        struct replica_facts f;
        replica_facts(S->nodes[i].replica, &f);
        printf("  n%u role %d leader %u term %" PRIu64 " base %" PRIu64 " last %" PRIu64
               " held %" PRIu64 " acked %" PRIu64 " matched %" PRIu64 " commit %" PRIu64
               " exec %" PRIu64 " slots %u append %" PRIu64 " stable %" PRIu64 " slice %" PRIu64
               "us\n",
               i, f.role, f.leader, f.promised_term, f.base_seq, f.last_seq, f.held_seq,
               f.acknowledged_seq, f.matched, f.commit_seq, f.exec_seq, f.slots_used,
               f.append_position, f.stable_position, f.slice_ns / 1000);
        struct replica_range_facts g;
        for (uint32_t p = 0; replica_range(S->nodes[i].replica, p, &g); p++)
            printf("     range %" PRIu64
                   " open %d received %u logged %u committed %u executed %u\n",
                   g.range, g.open, g.received, g.logged, g.committed, g.executed);
    }
    for (uint8_t i = 0; i < SIM_GATEWAYS_MAX; i++)
        if (!S->gateways[i].dead)
            printf("  g%u wanted %u sent %u answered %u committed %u\n", i, S->gateways[i].wanted,
                   S->gateways[i].sent, S->gateways[i].answered, S->gateways[i].committed);
}

static bool run(uint64_t seed) {
    setup(seed);
    uint64_t faults_end = 1000000000 + rnd_below(3000000000),
             bound = faults_end + UINT64_C(20000000000);
    while (S->event_count && !S->failed) {
        struct sim_event e = pop();
        S->now_ns = e.at_ns;
        if (!S->calm && S->now_ns >= faults_end)
            faults_stop();
        dispatch(&e);
        if (S->calm && S->steps % 256 == 0 && all_done())
            break;
        if (S->now_ns > bound) {
            violated("not done %.1f s after the last fault",
                     (double)(S->now_ns - faults_end) / 1e9);
            stuck();
        }
    }
    bool failed = S->failed;
    teardown();
    return !failed;
}

int main(int argc, char **argv) {
    uint64_t seeds = 100, base = 1, one = 0;
    double seconds = 1e9;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "0";
        if (!strcmp(argv[i], "--seeds"))
            seeds = strtoull(value, NULL, 10), i++;
        else if (!strcmp(argv[i], "--seed-base"))
            base = strtoull(value, NULL, 10), i++;
        else if (!strcmp(argv[i], "--seconds"))
            seconds = strtod(value, NULL), i++;
        else if (!strcmp(argv[i], "--seed"))
            one = strtoull(value, NULL, 10), i++;
        else if (!strcmp(argv[i], "--trace"))
            tracing = true;
        else {
            fprintf(stderr,
                    "usage: sim [--seeds N] [--seed-base B] [--seconds S] | --seed K [--trace]\n");
            return 2;
        }
    }
    S = calloc(1, sizeof *S);
    if (!S)
        return 1;
    if (one)
        return run(one) ? (puts("seed passed"), 0) : 1;
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    uint64_t done = 0, failed = 0;
    double wall = 0, virtual_s = 0;
    for (; done < seeds && wall < seconds && failed < 5; done++) {
        failed += !run(base + done);
        virtual_s += (double)S->now_ns / 1e9;
        clock_gettime(CLOCK_MONOTONIC, &now);
        wall = (double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9;
    }
    printf("sim: %" PRIu64 " seeds, %" PRIu64
           " failed, %.2f virtual hours in %.1f s (%.1f virtual hours per hour)\n",
           done, failed, virtual_s / 3600, wall, virtual_s / wall);
    free(S->events);
    free(S);
    return failed ? 1 : 0;
}
