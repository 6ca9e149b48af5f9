/* The replica with its peers: events from every side, and what comes of each step. */
#include <stdio.h>

#include "dataplane/stages/internal.h"
#include "dataplane/stages/marks.h"

/* ---- frames to nodes ---- */

static void send_parcel(struct stage *s, const struct replica_action *a, const void *payload,
                        uint32_t bytes, const void *tail, uint32_t tail_bytes) {
    struct parcel parcel;
    assert(bytes + tail_bytes <= sizeof parcel.payload);
    parcel.incarnation = parcel.packet_number = 0;
    parcel.length_bytes = (uint16_t)(bytes + tail_bytes);
    parcel.peer = a->peer;
    parcel.kind = a->kind == REPLICA_ACTION_SEND ? a->frame_kind : WIRE_BODY;
    parcel.flags = a->kind == REPLICA_ACTION_SEND ? a->frame_flags : 0;
    memcpy(parcel.payload, payload, bytes);
    if (tail_bytes)
        memcpy(parcel.payload + bytes, tail, tail_bytes);
    if (link_put(&s->parcels_out, &parcel))
        return;
    if (s->fetch.worker == s->gossip.worker) { /* nobody else empties it */
        stage_fetch_send(s);
        if (link_put(&s->parcels_out, &parcel))
            return;
    }
    stage_port_drop(&s->gossip.port, WIRE_DROP_RING_FULL); /* asked for again */
}

static void send_frame(struct stage *s, const struct replica_action *a, enum wire_kind kind,
                       uint8_t flags, const void *payload, uint32_t bytes, const void *tail,
                       uint32_t tail_bytes) {
    if (a->stage == WIRE_STAGE_FETCH) {
        send_parcel(s, a, payload, bytes, tail, tail_bytes);
        return;
    }
    struct net_peer *peer = net_session_node(s->gossip.port.sessions, a->peer);
    if (peer)
        stage_outbox_frame(&s->gossip.port.outbox, peer, s->gossip.worker->now_us, kind, flags,
                           payload, bytes, tail, tail_bytes);
}

static void send_body(struct stage *s, const struct replica_action *a) {
    const struct body *body = &s->bodies.slots[a->slot];
    assert(body->taken && body->id == a->id);
    struct wire_body head = {a->id, a->owner};
    send_frame(s, a, WIRE_BODY, 0, &head, sizeof head, body->bytes, body->length_bytes);
}

/* ---- to gateways ---- */

static void put_answer(struct stage *s, const struct answer *answer) {
    if (!link_put(&s->answers, answer))
        stage_port_drop(&s->gossip.port, WIRE_DROP_RING_FULL); /* they ask again */
}

static void put_frame(struct stage *s, uint32_t gateway, enum wire_kind kind, const void *payload,
                      uint16_t bytes) {
    struct answer answer = {
        .kind = ANSWER_FRAME, .frame_kind = kind, .length_bytes = bytes, .gateway = gateway};
    assert(bytes <= sizeof answer.payload);
    memcpy(answer.payload, payload, bytes);
    put_answer(s, &answer);
}

static void put_progress(struct stage *s, const struct replica_action *a) {
    const struct replica *r = s->gossip.replica;
    uint64_t commit_seq, exec_seq, acknowledged_seq;
    struct wire_hash result_hash;
    replica_progress(r, &commit_seq, &exec_seq, &acknowledged_seq, &result_hash);
    struct answer answer = {.kind = ANSWER_PROGRESS, .gateway = a->gateway};
    answer.progress.vector = (struct wire_vector){.commit_seq = commit_seq,
                                                  .exec_seq = exec_seq,
                                                  .acknowledged_seq = acknowledged_seq,
                                                  .window = a->window,
                                                  .is_leader = replica_leads(r),
                                                  .count = 1};
    memcpy(answer.progress.vector.result_hash, result_hash.bytes, sizeof result_hash.bytes);
    answer.progress.entry = (struct wire_vector_entry){a->range, a->received, a->committed};
    put_answer(s, &answer);
}

/* ---- to execute ---- */

static void put_order(struct stage *s, const struct order *order) {
    bool taken = link_put(&s->orders, order);
    /* Room for deliver_max epochs and as much again: only results of resends can be too many. */
    assert(taken || order->kind == ORDER_RESULT);
    if (!taken)
        stage_port_drop(&s->gossip.port, WIRE_DROP_RING_FULL);
}

static void deliver(struct stage *s, uint64_t seq) {
    struct gossip *g = &s->gossip;
    uint64_t commit_seq, exec_seq, acknowledged_seq;
    struct wire_hash result_hash;
    replica_progress(g->replica, &commit_seq, &exec_seq, &acknowledged_seq, &result_hash);
    /* Those under way have consecutive places, at most deliver_max. */
    g->delivery = exec_seq + 1 == seq || g->delivery + 1 == s->setup.config->deliver_max
                      ? 0
                      : g->delivery + 1;
    struct delivery *d = &s->deliveries[g->delivery];
    uint32_t length;
    d->count = replica_delivery(s->gossip.replica, seq, &d->epoch, &length, &d->hash, d->bodies);
    struct order order = {.kind = ORDER_EPOCH, .delivery = g->delivery, .seq = seq};
    put_order(s, &order);
}

static void want_result(struct stage *s, const struct replica_action *a) {
    struct order order = {.kind = ORDER_RESULT,
                          .gateway = a->gateway,
                          .id = a->id,
                          .owner_mark = retired_mark(a->owner),
                          .offset_bytes = a->offset_bytes,
                          .length_bytes = a->length_bytes};
    if (link_room(&s->orders) > s->setup.config->deliver_max)
        put_order(s, &order);
    else
        stage_port_drop(&s->gossip.port, WIRE_DROP_RING_FULL);
}

/* ---- steps ---- */

static void act(struct stage *s, const struct replica_action *a) {
    struct wire_tx_state state = {a->id, 0, (uint8_t)a->outcome,
                                  retired_mark(a->owner) & RETIRED_MARK_MAX};
    struct wire_sealed sealed = {a->range, a->end, retired_mark(a->owner)};
    struct wire_not_owner not_owner = {a->range, a->owner, replica_leads(s->gossip.replica)};
    switch (a->kind) {
    case REPLICA_ACTION_SEND:
        if (a->frame_kind == WIRE_PROPOSE)
            stage_watch_proposed(a->tail);
        else if (a->frame_kind == WIRE_ACK)
            stage_watch_stable(((const struct wire_ack *)(const void *)a->payload)->seq);
        send_frame(s, a, (enum wire_kind)a->frame_kind, a->frame_flags, a->payload, a->inline_bytes,
                   a->tail, a->tail_bytes);
        break;
    case REPLICA_ACTION_SEND_BODY: send_body(s, a); break;
    case REPLICA_ACTION_APPEND_PROMISE:
    case REPLICA_ACTION_APPEND_EPOCH:
    case REPLICA_ACTION_APPEND_BODY:
    case REPLICA_ACTION_APPEND_DROP:
    case REPLICA_ACTION_APPEND_COMMIT:
        assert(s->gossip.storage); /* durability = memory appends nothing */
        storage_append(s->gossip.storage, a, s->gossip.worker->now_ns);
        break;
    case REPLICA_ACTION_DELIVER:
        if (replica_leads(s->gossip.replica))
            stage_watch_committed(a->seq);
        deliver(s, a->seq);
        break;
    case REPLICA_ACTION_FREE_SLOTS:
        for (uint32_t i = 0; i < a->slot_count; i++)
            stage_bodies_give(&s->bodies, a->slots[i]);
        break;
    case REPLICA_ACTION_RESULT_WANTED: want_result(s, a); break;
    case REPLICA_ACTION_TX_STATE:
        put_frame(s, a->gateway, WIRE_TX_STATE, &state, sizeof state);
        break;
    case REPLICA_ACTION_SEALED:
        put_frame(s, a->gateway, WIRE_SEALED, &sealed, sizeof sealed);
        break;
    case REPLICA_ACTION_NOT_OWNER:
        put_frame(s, a->gateway, WIRE_NOT_OWNER, &not_owner, sizeof not_owner);
        break;
    case REPLICA_ACTION_RANGE_PROGRESS: put_progress(s, a); break;
    case REPLICA_ACTION_CAMPAIGN:
    case REPLICA_ACTION_RESIGN:
    case REPLICA_ACTION_RANGE_CHECK:
    case REPLICA_ACTION_RANGE_SEALED:
    case REPLICA_ACTION_NEED_SNAPSHOT: stage_ask_control(s, a); break;
    case REPLICA_ACTION_DROPPED:
        stage_port_drop(&s->gossip.port, (enum wire_drop)a->outcome);
        break;
    case REPLICA_ACTION_FAIL_STOP: stage_fail(s, MRN_ERR_MISMATCH, a->reason); break;
    }
}

/* Steps do not nest: what an action causes is an event of its own, after it. */
void stage_step(struct stage *s, struct replica_event *event) {
    struct replica_actions *actions = s->gossip.actions;
    event->now_ns = s->gossip.worker->now_ns;
    event->wall_us = s->gossip.worker->wall_us;
    actions->count = 0;
    replica_step(s->gossip.replica, event, actions);
    for (uint32_t i = 0; i < actions->count; i++)
        act(s, &actions->items[i]);
    s->gossip.worker->work += actions->count;
}

/* ---- from nodes ---- */

static void step_frame(struct stage *s, enum wire_stage stage, const struct parcel *p,
                       const uint8_t *payload) {
    struct replica_event event = {.kind = REPLICA_EVENT_FRAME};
    event.frame =
        (struct replica_event_frame){p->peer, p->kind,        p->flags,         p->length_bytes,
                                     payload, p->incarnation, p->packet_number, (uint8_t)stage};
    stage_step(s, &event);
}

static void take_body(struct stage *s, uint8_t peer, const struct wire_frame *frame) {
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    if (!stage_take_body(s, s->gossip.worker, &s->gossip.port, NULL, NULL, NULL, frame,
                         &event.body))
        return;
    event.body.peer = peer;
    stage_step(s, &event);
}

static void take_frame(void *context, struct net_received *received,
                       const struct wire_frame *frame) {
    struct stage *s = context;
    const struct net_peer *peer = received->peer;
    if (peer->role != WIRE_ROLE_NODE || peer->index >= s->setup.identity->node_count)
        stage_port_drop(&s->gossip.port, WIRE_DROP_FRAME_ROLE);
    else if (frame->kind == WIRE_BODY)
        take_body(s, peer->index, frame);
    else {
        struct parcel p;
        parcel_address(&p, received, frame);
        step_frame(s, WIRE_STAGE_GOSSIP, &p, frame->payload);
    }
}

/* ---- from the other stages ---- */

#define ASKS_PER_PASS 4096 /* all that ingress can have put: bodies must not wait behind frames */

/* A cluster that began with a state: who does not have that yet does not know which ranges are
 * used. */
static bool knows_beginning(const struct stage *s) {
    uint64_t commit_seq, exec_seq, acknowledged_seq;
    struct wire_hash result;
    replica_progress(s->gossip.replica, &commit_seq, &exec_seq, &acknowledged_seq, &result);
    return exec_seq >= s->setup.identity->restored_seq;
}

/* What the log says of a pinned range, as MAILBOX_UP_RANGE_REQUEST wants it. */
static uint64_t pinned_floor(const struct stage *s, uint64_t range) {
    uint32_t end;
    switch (replica_range_end(s->gossip.replica, range, &end)) {
    case REPLICA_RANGE_UNKNOWN: return 0;
    case REPLICA_RANGE_OPEN: return MAILBOX_FLOOR_OPEN;
    case REPLICA_RANGE_ENDED: break;
    }
    return end + UINT64_C(1);
}

static void ask_range(struct stage *s, const struct ask *a) {
    struct mailbox_up message = {0};
    if (a->kind == ASK_RANGE_REQUEST && a->request.range == WIRE_RANGE_NONE &&
        s->gossip.ranges_full) {
        stage_refuse_range(s, &a->request);
        return;
    }
    if (a->kind == ASK_RANGE_REQUEST && !knows_beginning(s))
        return; /* another node answers */
    if (a->kind == ASK_RANGE_REQUEST) {
        message.kind = MAILBOX_UP_RANGE_REQUEST;
        message.nonce = a->request.nonce;
        message.owner = a->request.owner;
        message.range = a->request.range;
        message.seq = s->gossip.range_floor;
        if (message.range != WIRE_RANGE_NONE)
            message.seq = pinned_floor(s, message.range);
    } else if (a->kind == ASK_RANGE_CLOSE) {
        message.kind = MAILBOX_UP_RANGE_CLOSE;
        message.owner = a->close.owner;
        message.range = a->close.range;
        message.end = a->close.end;
    } else {
        message.kind = MAILBOX_UP_RANGE_RENEW;
        message.owner = a->renew.owner;
        message.range = a->renew.range;
    }
    if (mailbox_send_up(s->setup.mailbox, &message))
        stage_port_drop(&s->gossip.port, WIRE_DROP_RING_FULL); /* the gateway asks again */
}

/* The leader renews the lease of a gateway that it hears whenever it is asked to. It may not hear
 * one that the others do, so they renew it too, now and then, each at its own time. */
static bool renews_lease(const struct stage *s, uint64_t range) {
    if (atomic_load_explicit(&s->leads, memory_order_relaxed) || s->setup.identity->node_count == 1)
        return true;
    uint64_t period_s = s->setup.config->range_ttl_s / 2;
    uint64_t now_s = s->gossip.worker->now_us / 1000000;
    return (now_s + range + 2 * s->setup.identity->node_index) % period_s < 2;
}

static void tell_refused(struct stage *s, const struct refused *refused) {
    static const char *const stages[WIRE_STAGE_COUNT] = {"ingress", "gossip", "fetch"};
    struct mailbox_up up = {.kind = MAILBOX_UP_REFUSED,
                            .drop = (enum wire_drop)refused->drop,
                            .peer = refused->index,
                            .end = refused->role,
                            .ours = refused->ours,
                            .theirs = refused->theirs};
    char address[NET_ADDRESS_TEXT_BYTES];
    snprintf(up.text, sizeof up.text, "from=%s at=%s theirs_cluster=%.*s",
             net_address_format(refused->address, address), stages[refused->stage],
             WIRE_CLUSTER_BYTES, refused->cluster[0] ? refused->cluster : "-");
    (void)mailbox_send_up(s->setup.mailbox, &up); /* it is counted, too */
}

static void take_ask(struct stage *s, const struct ask *a) {
    struct replica_event event = {0};
    switch ((enum ask_kind)a->kind) {
    case ASK_BODY:
        event.kind = REPLICA_EVENT_BODY;
        event.body = a->body;
        break;
    case ASK_QUERY:
        event.kind = REPLICA_EVENT_QUERY;
        event.query.id = a->query.id;
        event.query.owner = a->query.owner_mark;
        event.query.gateway = a->gateway;
        event.query.offset_bytes = a->query.offset_bytes;
        event.query.length_bytes = a->query.length_bytes;
        break;
    case ASK_RENEW:
        event.kind = REPLICA_EVENT_RANGE_HELLO;
        event.range_hello.range = a->renew.range;
        event.range_hello.owner = a->renew.owner;
        event.range_hello.gateway = a->gateway;
        if (renews_lease(s, a->renew.range))
            ask_range(s, a);
        break;
    case ASK_RANGE_REQUEST:
    case ASK_RANGE_CLOSE: ask_range(s, a); return;
    case ASK_REFUSED: tell_refused(s, &a->refused); return;
    }
    stage_step(s, &event);
}

static uint32_t drain_asks(struct stage *s, struct link *link) {
    struct ask asks[32];
    uint32_t count, total = 0;
    while (total < ASKS_PER_PASS && (count = link_take(link, asks, 32)) != 0) {
        for (uint32_t i = 0; i < count; i++)
            take_ask(s, &asks[i]);
        total += count;
    }
    return total;
}

static uint32_t drain_parcels(struct stage *s) {
    struct parcel parcel;
    uint32_t count = 0;
    for (; count < 64 && link_take(&s->parcels_in, &parcel, 1); count++)
        step_frame(s, WIRE_STAGE_FETCH, &parcel, parcel.payload);
    return count;
}

/* Free slots lie ready for the stages that take bodies on other threads; what was asked for (fetch)
 * comes first. */
static void hand_out_slots(struct stage *s) {
    struct bodies *b = &s->bodies;
    uint32_t fetch = s->fetch.worker == s->gossip.worker ? 0 : link_room(&s->fetch_slots);
    uint32_t ingress = s->ingress.worker == s->gossip.worker ? 0 : link_room(&s->ingress_slots);
    for (; fetch && b->free_count; fetch--)
        (void)link_put(&s->fetch_slots, &b->free[--b->free_count]);
    for (; ingress && b->free_count; ingress--)
        (void)link_put(&s->ingress_slots, &b->free[--b->free_count]);
}

/* ---- the stage ---- */

uint32_t stage_gossip_poll(struct stage *s) {
    uint32_t work = drain_asks(s, &s->asks) + drain_asks(s, &s->fetched) + drain_parcels(s);
    work += stage_port_receive(&s->gossip.port, s->gossip.worker->now_us, take_frame, s);
    stage_refusals(&s->gossip.port, WIRE_STAGE_GOSSIP, s->gossip.worker->now_us, &s->fetched);
    work += stage_control_poll(s);
    work += stage_done_poll(s);
    work += stage_learn_poll(s);
    struct replica_event event = {.kind = REPLICA_EVENT_TICK};
    stage_step(s, &event);
    if (s->gossip.storage) /* proposals go before our own write: starting one is a long call */
        stage_outbox_flush(&s->gossip.port.outbox, s->gossip.worker->now_us);
    work += stage_storage_poll(s);
    stage_outbox_flush(&s->gossip.port.outbox, s->gossip.worker->now_us); /* peers wait for it */
    atomic_store_explicit(&s->leads, replica_leads(s->gossip.replica), memory_order_relaxed);
    hand_out_slots(s);
    stage_facts_pace(s);
    stage_facts_poll(s);
    return work;
}
