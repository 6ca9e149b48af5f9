/* The port of missing bodies and epochs: what comes goes to gossip, what the replica sends goes
 * out. Frames are copied between the two, for a slot or an epoch may be freed before they leave. */
#include "dataplane/stages/internal.h"

static void take_body(struct stage *s, const struct net_peer *peer,
                      const struct wire_frame *frame) {
    struct fetch *f = &s->fetch;
    struct ask ask = {ASK_BODY, 0, {{0}}};
    if (!stage_take_body(s, f->worker, &f->port, &s->fetch_slots, f->slots, &f->slot_count, frame,
                         &ask.body))
        return;
    ask.body.peer = peer->index;
    if (link_put(&s->fetched, &ask))
        return;
    stage_port_drop(&f->port, WIRE_DROP_RING_FULL);
    stage_return_slot(s, f->worker, f->slots, &f->slot_count, ask.body.slot);
}

static void take_frame(void *context, struct net_received *received,
                       const struct wire_frame *frame) {
    struct stage *s = context;
    const struct net_peer *peer = received->peer;
    if (peer->role != WIRE_ROLE_NODE || peer->index >= s->setup.identity->node_count) {
        stage_port_drop(&s->fetch.port, WIRE_DROP_FRAME_ROLE);
        return;
    }
    if (frame->kind == WIRE_BODY) {
        take_body(s, peer, frame);
        return;
    }
    struct parcel parcel;
    parcel_address(&parcel, received, frame);
    assert(frame->length_bytes <= sizeof parcel.payload);
    memcpy(parcel.payload, frame->payload, frame->length_bytes);
    if (!link_put(&s->parcels_in, &parcel))
        stage_port_drop(&s->fetch.port, WIRE_DROP_RING_FULL);
}

uint32_t stage_fetch_poll(struct stage *s) {
    uint32_t count = stage_port_receive(&s->fetch.port, s->fetch.worker->now_us, take_frame, s);
    stage_refusals(&s->fetch.port, WIRE_STAGE_FETCH, s->fetch.worker->now_us, &s->fetched);
    return count;
}

uint32_t stage_fetch_send(struct stage *s) {
    struct parcel parcel;
    uint32_t count = 0;
    for (; link_take(&s->parcels_out, &parcel, 1); count++) {
        struct net_peer *peer = net_session_node(s->fetch.port.sessions, parcel.peer);
        if (peer)
            stage_outbox_frame(&s->fetch.port.outbox, peer, s->fetch.worker->now_us,
                               (enum wire_kind)parcel.kind, parcel.flags, parcel.payload,
                               parcel.length_bytes, NULL, 0);
    }
    stage_outbox_flush(&s->fetch.port.outbox, s->fetch.worker->now_us);
    return count;
}
