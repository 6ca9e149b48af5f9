#include "dataplane/stages/outbox.h"

#include <stdlib.h>
#include <string.h>

#include <maroon/error.h>

int stage_outbox_open(struct outbox *o, struct net_endpoint *endpoint,
                      struct net_sessions *sessions) {
    memset(o, 0, sizeof *o);
    o->endpoint = endpoint;
    o->sessions = sessions;
    o->peer_max = net_session_peer_max(sessions);
    o->packets = calloc(o->peer_max, sizeof *o->packets);
    o->open = calloc(o->peer_max, sizeof *o->open);
    if (o->packets && o->open)
        return 0;
    stage_outbox_close(o);
    return MRN_ERR_NO_MEMORY;
}

void stage_outbox_close(struct outbox *o) {
    free(o->packets);
    free(o->open);
    memset(o, 0, sizeof *o);
}

static void send_packet(struct outbox *o, struct outbox_packet *p) {
    p->packet.length_bytes = net_session_packet_end(o->sessions, &p->writer);
    net_tx(o->endpoint, &p->packet, 1);
    p->open = false;
    o->sent_packets++;
}

static bool open_packet(struct outbox *o, struct outbox_packet *p, const struct net_peer *peer) {
    if (!net_packet_alloc(o->endpoint, &p->packet))
        return false;
    p->packet.address = peer->address;
    net_session_packet_begin(o->sessions, peer, &p->writer, p->packet.bytes, WIRE_PACKET_MAX_BYTES);
    p->open = true;
    return true;
}

void stage_outbox_frame(struct outbox *o, struct net_peer *peer, uint64_t now_us,
                        enum wire_kind kind, uint8_t flags, const void *payload,
                        uint32_t payload_bytes, const void *tail, uint32_t tail_bytes) {
    if (!net_session_may_send(o->sessions, peer, now_us))
        return;
    uint32_t number = net_session_number(o->sessions, peer);
    struct outbox_packet *p = &o->packets[number];
    bool was_open = p->open;
    if (!p->open && !open_packet(o, p, peer))
        return;
    uint8_t *at = wire_writer_frame(&p->writer, kind, flags, payload_bytes + tail_bytes);
    if (!at) { /* full: the next packet */
        send_packet(o, p);
        if (!open_packet(o, p, peer))
            return;
        at = wire_writer_frame(&p->writer, kind, flags, payload_bytes + tail_bytes);
    }
    if (!was_open)
        o->open[o->open_count++] = number;
    if (!at)
        return; /* longer than a packet: none of ours is */
    memcpy(at, payload, payload_bytes);
    if (tail_bytes)
        memcpy(at + payload_bytes, tail, tail_bytes);
}

static void send_hellos(struct outbox *o, uint64_t now_us) {
    uint8_t bytes[NET_HELLO_PACKET_BYTES];
    uint32_t length;
    struct net_address address;
    while (net_session_hello_next(o->sessions, now_us, bytes, &length, &address)) {
        struct net_packet packet;
        if (!net_packet_alloc(o->endpoint, &packet))
            return;
        memcpy(packet.bytes, bytes, length);
        packet.length_bytes = length;
        packet.address = address;
        net_tx(o->endpoint, &packet, 1);
        o->sent_packets++;
    }
}

void stage_outbox_flush(struct outbox *o, uint64_t now_us) {
    send_hellos(o, now_us); /* before the data that they introduce */
    for (uint32_t i = 0; i < o->open_count; i++) {
        struct outbox_packet *p = &o->packets[o->open[i]];
        if (p->open && wire_writer_empty(&p->writer)) {
            net_packets_free(&p->packet, 1);
            p->open = false;
        } else if (p->open)
            send_packet(o, p);
    }
    o->open_count = 0;
    net_flush(o->endpoint);
}
