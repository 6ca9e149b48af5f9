#include "dataplane/stages/internal.h"
#include "dataplane/stages/marks.h"

static void take_body(struct stage *s, uint8_t peer, const struct wire_frame *frame) {
    struct wire_tx tx;
    memcpy(&tx, frame->payload, sizeof tx);
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
        .parts_following = header.parts_following,
        .peer = peer,
    };
    stage_step(s, &event);
}

static void take_packet(struct stage *s, enum wire_stage stage, struct net_received *received) {
    struct wire_frame frame;
    enum wire_drop drop;
    int more;
    while ((more = wire_frame_next(&received->cursor, &frame, &drop)) != 0) {
        const struct net_peer *peer = received->peer;
        if (more < 0)
            stage_drop(s, drop);
        else if (peer->role != WIRE_ROLE_NODE || peer->index >= s->setup.identity->node_count)
            stage_drop(s, WIRE_DROP_FRAME_ROLE);
        else if (frame.kind == WIRE_BODY)
            take_body(s, peer->index, &frame);
        else {
            struct replica_event event = {.kind = REPLICA_EVENT_FRAME};
            event.frame = (struct replica_event_frame){peer->index,
                                                       frame.kind,
                                                       frame.flags,
                                                       frame.length_bytes,
                                                       frame.payload,
                                                       peer->incarnation,
                                                       received->header.packet_number,
                                                       (uint8_t)stage};
            stage_step(s, &event);
        }
    }
}

uint32_t stage_gossip_poll(struct stage *s, enum wire_stage stage) {
    struct net_packet packets[NET_BURST_COUNT];
    uint32_t count = net_rx(s->endpoints[stage], s->now_us, packets, NET_BURST_COUNT);
    for (uint32_t i = 0; i < count; i++) {
        struct net_received received;
        if (net_session_receive(s->sessions[stage], packets[i].bytes, packets[i].length_bytes,
                                packets[i].address, s->now_us, &received) == WIRE_DROP_NONE)
            take_packet(s, stage, &received);
    }
    net_packets_free(packets, count);
    return count;
}

void stage_gossip_send(struct stage *s, const struct replica_action *a) {
    if (a->frame_kind == WIRE_PROPOSE)
        stage_mark(STAGE_MARK_PROPOSED);
    else if (a->frame_kind == WIRE_ACK)
        stage_mark(STAGE_MARK_STABLE);
    struct net_peer *peer = net_session_node(s->sessions[a->stage], a->peer);
    if (peer)
        stage_outbox_frame(&s->outboxes[a->stage], peer, s->now_us, a->frame_kind, a->frame_flags,
                           a->payload, a->inline_bytes, a->tail, a->tail_bytes);
}

void stage_gossip_send_body(struct stage *s, const struct replica_action *a) {
    struct net_peer *peer = net_session_node(s->sessions[a->stage], a->peer);
    const struct body *body = &s->bodies.slots[a->slot];
    assert(body->taken && body->id == a->id);
    struct wire_tx tx = {a->id};
    if (peer)
        stage_outbox_frame(&s->outboxes[a->stage], peer, s->now_us, WIRE_BODY, 0, &tx, sizeof tx,
                           body->bytes, body->length_bytes);
}
