#include "dataplane/stages/internal.h"
#include "dataplane/stages/marks.h"

struct net_peer *stage_gateway(struct stage *s, uint32_t number) {
    struct net_sessions *sessions = s->sessions[WIRE_STAGE_INGRESS];
    if (number >= net_session_peer_max(sessions))
        return NULL;
    struct net_peer *peer = net_session_peer(sessions, number);
    return peer->role == WIRE_ROLE_GATEWAY ? peer : NULL;
}

uint32_t stage_gateway_of(const struct stage *s, uint64_t range) {
    uint32_t at = (uint32_t)range % RANGE_CACHE;
    return s->range_cache[at].range == range ? s->range_cache[at].gateway : UINT32_MAX;
}

static void send(struct stage *s, struct net_peer *peer, enum wire_kind kind, const void *payload,
                 uint32_t bytes, const void *tail, uint32_t tail_bytes) {
    stage_outbox_frame(&s->outboxes[WIRE_STAGE_INGRESS], peer, s->now_us, kind, 0, payload, bytes,
                       tail, tail_bytes);
}

/* ---- in ---- */

static bool holds(const struct net_peer *peer, uint64_t range) {
    return peer->ranges[0] == range || peer->ranges[1] == range;
}

static void take_tx(struct stage *s, struct net_peer *peer, const struct wire_frame *frame) {
    struct wire_tx tx;
    stage_mark(STAGE_MARK_RECEIVED);
    memcpy(&tx, frame->payload, sizeof tx);
    uint64_t range = wire_tx_range(tx.id);
    uint32_t number = net_session_number(s->sessions[WIRE_STAGE_INGRESS], peer);
    if (!holds(peer, range)) { /* before memory is taken */
        struct wire_not_owner answer = {range, 0};
        send(s, peer, WIRE_NOT_OWNER, &answer, sizeof answer, NULL, 0);
        stage_drop(s, WIRE_DROP_RANGE_UNKNOWN);
        return;
    }
    s->range_cache[range % RANGE_CACHE].range = range;
    s->range_cache[range % RANGE_CACHE].gateway = number;
    const uint8_t *bytes = frame->payload + sizeof tx;
    uint32_t length = frame->length_bytes - (uint32_t)sizeof tx;
    uint32_t slot = stage_bodies_take(&s->bodies, tx.id, bytes, length);
    if (slot == BODIES_SLOT_NONE) {
        stage_drop(s, WIRE_DROP_BODY_POOL);
        return;
    }
    struct wire_body_header header;
    memcpy(&header, bytes, sizeof header);
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    event.body = (struct replica_event_body){
        .id = tx.id,
        .digest = wire_hash_body(&s->setup.identity->digest_key, tx.id, bytes, length),
        .slot = slot,
        .gateway = number,
        .owner = peer->incarnation,
        .parts_following = header.parts_following,
        .peer = REPLICA_NODE_NONE,
    };
    stage_step(s, &event);
}

static void up(struct stage *s, const struct mailbox_up *message) {
    if (mailbox_send_up(s->setup.mailbox, message))
        stage_drop(s, WIRE_DROP_RING_FULL); /* the gateway asks again */
}

static void take_renew(struct stage *s, struct net_peer *peer, const struct wire_frame *frame) {
    struct wire_range_renew renew;
    memcpy(&renew, frame->payload, sizeof renew);
    if (renew.owner != peer->incarnation) {
        stage_drop(s, WIRE_DROP_FRAME_VALUE);
        return;
    }
    struct replica_event event = {.kind = REPLICA_EVENT_RANGE_HELLO};
    event.range_hello.range = renew.range;
    event.range_hello.owner = renew.owner;
    event.range_hello.gateway = net_session_number(s->sessions[WIRE_STAGE_INGRESS], peer);
    s->range_cache[renew.range % RANGE_CACHE].range = renew.range;
    s->range_cache[renew.range % RANGE_CACHE].gateway = event.range_hello.gateway;
    stage_step(s, &event);
    if (s->leads || s->setup.identity->node_count == 1) { /* one renewal in the arbiter is enough */
        struct mailbox_up message = {
            .kind = MAILBOX_UP_RANGE_RENEW, .owner = renew.owner, .range = renew.range};
        up(s, &message);
    }
}

static void take_frame(struct stage *s, struct net_peer *peer, const struct wire_frame *frame) {
    struct mailbox_up message = {0};
    if (peer->role != WIRE_ROLE_GATEWAY) {
        stage_drop(s, WIRE_DROP_FRAME_ROLE);
        return;
    }
    if (frame->kind == WIRE_TX)
        take_tx(s, peer, frame);
    else if (frame->kind == WIRE_RANGE_RENEW)
        take_renew(s, peer, frame);
    else if (frame->kind == WIRE_RANGE_REQUEST) {
        struct wire_range_request request;
        memcpy(&request, frame->payload, sizeof request);
        message.kind = MAILBOX_UP_RANGE_REQUEST;
        message.nonce = request.nonce;
        message.owner = request.owner;
        message.range = request.range;
        up(s, &message);
    } else if (frame->kind == WIRE_RANGE_CLOSE) {
        struct wire_range_close close;
        memcpy(&close, frame->payload, sizeof close);
        message.kind = MAILBOX_UP_RANGE_CLOSE;
        message.owner = close.owner;
        message.range = close.range;
        message.end = close.end;
        up(s, &message);
    } else if (frame->kind == WIRE_TX_QUERY) {
        struct wire_tx_query query;
        memcpy(&query, frame->payload, sizeof query);
        struct replica_event event = {.kind = REPLICA_EVENT_QUERY};
        event.query.id = query.id;
        event.query.gateway = net_session_number(s->sessions[WIRE_STAGE_INGRESS], peer);
        event.query.offset_bytes = query.offset_bytes;
        event.query.length_bytes = query.length_bytes;
        stage_step(s, &event);
    } else
        stage_drop(s, WIRE_DROP_FRAME_ROLE);
}

uint32_t stage_ingress_poll(struct stage *s) {
    struct net_packet packets[NET_BURST_COUNT];
    uint32_t count = net_rx(s->endpoints[WIRE_STAGE_INGRESS], s->now_us, packets, NET_BURST_COUNT);
    for (uint32_t i = 0; i < count; i++) {
        struct net_received received;
        if (net_session_receive(s->sessions[WIRE_STAGE_INGRESS], packets[i].bytes,
                                packets[i].length_bytes, packets[i].address, s->now_us,
                                &received) != WIRE_DROP_NONE)
            continue;
        struct wire_frame frame;
        enum wire_drop drop;
        int more;
        while ((more = wire_frame_next(&received.cursor, &frame, &drop)) != 0)
            if (more > 0)
                take_frame(s, received.peer, &frame);
            else
                stage_drop(s, drop);
    }
    net_packets_free(packets, count);
    return count;
}

/* ---- out ---- */

void stage_ingress_result(struct stage *s, uint32_t gateway, const struct runtime_result *result,
                          const uint8_t *bytes, uint32_t from, uint32_t length) {
    struct net_peer *peer = stage_gateway(s, gateway);
    if (!peer)
        return;
    uint32_t end = from + length;
    do {
        uint32_t piece = end - from < RESULT_PIECE_BYTES ? end - from : RESULT_PIECE_BYTES;
        struct wire_result frame = {.id = result->id,
                                    .epoch_seq = result->epoch_seq,
                                    .logical_time_us = result->logical_time_us,
                                    .method_key = result->method_key,
                                    .code = result->code,
                                    .total_bytes = result->length_bytes,
                                    .offset_bytes = from};
        send(s, peer, WIRE_RESULT, &frame, sizeof frame, bytes, piece);
        bytes += piece;
        from += piece;
    } while (from < end);
    atomic_fetch_add_explicit(&s->status->results_sent, 1, memory_order_relaxed);
}

void stage_ingress_wanted(struct stage *s, uint32_t gateway, uint64_t id, uint32_t offset,
                          uint32_t length) {
    struct runtime_result result;
    uint32_t copied = 0;
    if (!length || length > s->result_room)
        length = RESULT_AHEAD_BYTES;
    struct net_peer *peer = stage_gateway(s, gateway);
    if (!peer)
        return;
    enum runtime_outcome outcome =
        runtime_result_find(s->runtime, id, offset, s->result_buffer, length, &result, &copied);
    if (outcome == RUNTIME_EXECUTED) {
        if (offset <= result.length_bytes && (copied || !result.length_bytes))
            stage_ingress_result(s, gateway, &result, s->result_buffer, offset, copied);
        atomic_fetch_add_explicit(&s->status->results_resent, 1, memory_order_relaxed);
        return;
    }
    struct wire_tx_state state = {id, 0,
                                  outcome == RUNTIME_EXPIRED  ? WIRE_TX_EXPIRED
                                  : outcome == RUNTIME_SEALED ? WIRE_TX_SEALED
                                                              : WIRE_TX_COMMITTED};
    send(s, peer, WIRE_TX_STATE, &state, sizeof state, NULL, 0);
}

/* What the replica says to gateways. */
void stage_ingress_action(struct stage *s, const struct replica_action *a) {
    struct net_peer *peer = stage_gateway(s, a->gateway);
    if (!peer)
        return;
    if (a->kind == REPLICA_ACTION_TX_STATE) {
        struct wire_tx_state state = {a->id, 0, a->outcome};
        send(s, peer, WIRE_TX_STATE, &state, sizeof state, NULL, 0);
    } else if (a->kind == REPLICA_ACTION_SEALED) {
        struct wire_sealed sealed = {a->range, a->end};
        send(s, peer, WIRE_SEALED, &sealed, sizeof sealed, NULL, 0);
    } else if (a->kind == REPLICA_ACTION_NOT_OWNER) {
        struct wire_not_owner answer = {a->range, a->owner};
        send(s, peer, WIRE_NOT_OWNER, &answer, sizeof answer, NULL, 0);
    } else if (a->kind == REPLICA_ACTION_RANGE_PROGRESS && holds(peer, a->range)) {
        struct replica_facts facts;
        replica_facts(s->replica, &facts);
        struct wire_vector v = {.commit_seq = facts.commit_seq,
                                .exec_seq = facts.exec_seq,
                                .acknowledged_seq = facts.acknowledged_seq,
                                .window = a->window,
                                .is_leader = facts.role == REPLICA_ROLE_LEADER,
                                .count = 1};
        struct wire_vector_entry entry = {a->range, a->received, a->committed};
        memcpy(v.result_hash, facts.result_hash.bytes, sizeof v.result_hash);
        send(s, peer, WIRE_VECTOR, &v, sizeof v, &entry, sizeof entry);
    }
}

/* The arbiter's answer goes to the gateway whose owner token it names. */
void stage_ingress_granted(struct stage *s, const struct mailbox_down *down) {
    struct net_sessions *sessions = s->sessions[WIRE_STAGE_INGRESS];
    struct wire_range_grant grant = {down->nonce, down->owner,   down->range,
                                     down->start, down->outcome, down->held_by};
    for (uint32_t i = 0; i < net_session_peer_max(sessions); i++) {
        struct net_peer *peer = net_session_peer(sessions, i);
        if (peer->role == WIRE_ROLE_GATEWAY && peer->incarnation == down->owner)
            send(s, peer, WIRE_RANGE_GRANT, &grant, sizeof grant, NULL, 0);
    }
}
