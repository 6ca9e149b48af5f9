/* Gateways: their frames become asks for gossip; answers and results become frames. */
#include "dataplane/stages/internal.h"
#include "dataplane/stages/marks.h"

static void send(struct stage *s, struct net_peer *peer, enum wire_kind kind, const void *payload,
                 uint32_t bytes, const void *tail, uint32_t tail_bytes) {
    stage_outbox_frame(&s->ingress.port.outbox, peer, s->ingress.worker->now_us, kind, 0, payload,
                       bytes, tail, tail_bytes);
}

/* ---- in ---- */

/* What lies in the port's queue when the replica steps looks lost to it, and is asked for from
 * others. */
#define BURSTS_PER_PASS 4
#define ASKS_PER_BURST (NET_BURST_COUNT * 30) /* bodies of 20 bytes and more */

static bool holds(const struct net_peer *peer, uint64_t range) {
    return peer->ranges[0] == range || peer->ranges[1] == range;
}

static void remember_gateway(struct ingress *in, uint64_t range, uint32_t gateway) {
    in->range_cache[range % RANGE_CACHE].range = range;
    in->range_cache[range % RANGE_CACHE].gateway = gateway;
}

/* What does not fit is lost like a packet: gateways repeat all they ask. */
static void put(struct stage *s, const struct ask *ask) {
    if (link_put(&s->asks, ask))
        return;
    stage_port_drop(&s->ingress.port, WIRE_DROP_RING_FULL);
    if (ask->kind == ASK_BODY) /* the slot was not given away */
        stage_return_slot(s, s->ingress.worker, s->ingress.slots, &s->ingress.slot_count,
                          ask->body.slot);
}

static void take_tx(struct stage *s, struct net_peer *peer, uint32_t number,
                    const struct wire_frame *frame) {
    struct ingress *in = &s->ingress;
    struct wire_tx tx;
    memcpy(&tx, frame->payload, sizeof tx);
    stage_watch_received(tx.id);
    uint64_t range = wire_tx_range(tx.id);
    if (!holds(peer, range)) { /* before memory is taken */
        struct wire_not_owner answer = {range, 0, 0};
        send(s, peer, WIRE_NOT_OWNER, &answer, sizeof answer, NULL, 0);
        stage_port_drop(&in->port, WIRE_DROP_RANGE_UNKNOWN);
        return;
    }
    remember_gateway(in, range, number);
    struct ask ask = {ASK_BODY, number, {{0}}};
    if (!stage_take_body(s, in->worker, &in->port, &s->ingress_slots, in->slots, &in->slot_count,
                         frame, &ask.body))
        return;
    ask.body.gateway = number;
    ask.body.owner = peer->incarnation;
    ask.body.peer = REPLICA_NODE_NONE;
    put(s, &ask);
}

static void take_renew(struct stage *s, const struct net_peer *peer, uint32_t number,
                       const struct wire_frame *frame) {
    struct ask ask = {ASK_RENEW, number, {{0}}};
    memcpy(&ask.renew, frame->payload, sizeof ask.renew);
    if (ask.renew.owner != peer->incarnation) {
        stage_port_drop(&s->ingress.port, WIRE_DROP_FRAME_VALUE);
        return;
    }
    remember_gateway(&s->ingress, ask.renew.range, number);
    put(s, &ask);
}

static void take_frame(void *context, struct net_received *received,
                       const struct wire_frame *frame) {
    struct stage *s = context;
    struct net_peer *peer = received->peer;
    uint32_t number = net_session_number(s->ingress.port.sessions, peer);
    struct ask ask = {0, number, {{0}}};
    if (peer->role != WIRE_ROLE_GATEWAY)
        stage_port_drop(&s->ingress.port, WIRE_DROP_FRAME_ROLE);
    else if (frame->kind == WIRE_TX)
        take_tx(s, peer, number, frame);
    else if (frame->kind == WIRE_RANGE_RENEW)
        take_renew(s, peer, number, frame);
    else if (frame->kind == WIRE_RANGE_REQUEST) {
        ask.kind = ASK_RANGE_REQUEST;
        memcpy(&ask.request, frame->payload, sizeof ask.request);
        put(s, &ask);
    } else if (frame->kind == WIRE_RANGE_CLOSE) {
        ask.kind = ASK_RANGE_CLOSE;
        memcpy(&ask.close, frame->payload, sizeof ask.close);
        put(s, &ask);
    } else if (frame->kind == WIRE_TX_QUERY) {
        ask.kind = ASK_QUERY;
        memcpy(&ask.query, frame->payload, sizeof ask.query);
        put(s, &ask);
    } else
        stage_port_drop(&s->ingress.port, WIRE_DROP_FRAME_ROLE);
}

/* Not more bursts than gossip's link has room for: in the port's queue bodies wait, in a full link
 * they are lost. */
uint32_t stage_ingress_poll(struct stage *s) {
    uint32_t total = 0;
    for (uint32_t i = 0; i < BURSTS_PER_PASS && link_room(&s->asks) >= ASKS_PER_BURST; i++) {
        uint32_t count =
            stage_port_receive(&s->ingress.port, s->ingress.worker->now_us, take_frame, s);
        total += count;
        if (count < NET_BURST_COUNT)
            break;
    }
    stage_refusals(&s->ingress.port, WIRE_STAGE_INGRESS, s->ingress.worker->now_us, &s->asks);
    return total;
}

/* ---- out ---- */

/* The arbiter's answer goes to the gateway whose owner token it names. */
static void send_grant(struct stage *s, const struct wire_range_grant *grant) {
    struct net_sessions *sessions = s->ingress.port.sessions;
    for (uint32_t i = 0; i < net_session_peer_max(sessions); i++) {
        struct net_peer *peer = net_session_peer(sessions, i);
        if (peer->role == WIRE_ROLE_GATEWAY && peer->incarnation == grant->owner)
            send(s, peer, WIRE_RANGE_GRANT, grant, sizeof *grant, NULL, 0);
    }
}

/* Who has the range and the owner of what was executed; NULL: not heard here. A gateway that lost
 * its pinned range may still send under it, and is in the cache then. */
static struct net_peer *result_peer(struct stage *s, uint64_t range, uint64_t owner) {
    struct net_sessions *sessions = s->ingress.port.sessions;
    uint32_t at = (uint32_t)range % RANGE_CACHE;
    if (s->ingress.range_cache[at].range != range)
        return NULL;
    struct net_peer *peer = stage_gateway(s, s->ingress.range_cache[at].gateway);
    if (!peer || peer->incarnation == owner)
        return peer;
    for (uint32_t i = 0; i < net_session_peer_max(sessions); i++) {
        peer = net_session_peer(sessions, i);
        if (peer->role == WIRE_ROLE_GATEWAY && peer->incarnation == owner)
            return peer;
    }
    return NULL;
}

static void send_result(struct stage *s, const struct answer *a) {
    struct net_peer *peer = a->gateway != GATEWAY_NONE
                                ? stage_gateway(s, a->gateway)
                                : result_peer(s, wire_tx_range(a->result.head.id), a->result.owner);
    bool long_piece = a->length_bytes > RESULT_INLINE_BYTES;
    if (peer) {
        send(s, peer, WIRE_RESULT, &a->result.head, sizeof a->result.head,
             long_piece ? a->result.piece : a->result.bytes, a->length_bytes);
        atomic_fetch_add_explicit(&s->status->results_sent, 1, memory_order_relaxed);
    }
    if (long_piece) {
        bool given = link_put(&s->free_pieces, &a->result.piece);
        assert(given); /* room for all there are */
        (void)given;
    }
}

static void send_answer(struct stage *s, const struct answer *a) {
    struct net_peer *peer = stage_gateway(s, a->gateway);
    switch ((enum answer_kind)a->kind) {
    case ANSWER_FRAME:
        if (peer)
            send(s, peer, (enum wire_kind)a->frame_kind, a->payload, a->length_bytes, NULL, 0);
        break;
    case ANSWER_PROGRESS:
        if (peer && holds(peer, a->progress.entry.range))
            send(s, peer, WIRE_VECTOR, &a->progress.vector, sizeof a->progress.vector,
                 &a->progress.entry, sizeof a->progress.entry);
        break;
    case ANSWER_GRANT: send_grant(s, &a->grant); break;
    case ANSWER_RESULT: send_result(s, a); break;
    }
}

static uint32_t drain(struct stage *s, struct link *link) {
    struct answer answers[32];
    uint32_t count, total = 0;
    while ((count = link_take(link, answers, 32)) != 0) {
        for (uint32_t i = 0; i < count; i++)
            send_answer(s, &answers[i]);
        total += count;
    }
    return total;
}

uint32_t stage_ingress_send(struct stage *s) {
    uint32_t count = drain(s, &s->answers) + drain(s, &s->results);
    stage_outbox_flush(&s->ingress.port.outbox, s->ingress.worker->now_us);
    return count;
}
