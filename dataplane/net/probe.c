#include "dataplane/net/probe.h"

#include <string.h>

#define PACKET_BYTES 128 /* a PING or a PONG with its headers */

void net_probe_open(struct net_probe *probe, struct net *net) {
    *probe = (struct net_probe){.endpoint = net_endpoint(net, WIRE_STAGE_INGRESS)};
    assert(probe->endpoint);
}

static void send(struct net_probe *probe, struct net_address to, enum wire_kind kind,
                 const void *payload, uint32_t bytes) {
    struct net_packet packet;
    struct wire_writer writer;
    if (!net_packet_alloc(probe->endpoint, &packet))
        return;
    wire_writer_begin(&writer, packet.bytes, PACKET_BYTES, WIRE_STAGE_INGRESS, 0);
    void *at = wire_writer_frame(&writer, kind, 0, bytes);
    assert(at);
    memcpy(at, payload, bytes);
    packet.length_bytes = wire_writer_end(&writer, ++probe->packet_number, 0);
    packet.address = to;
    net_tx(probe->endpoint, &packet, 1);
}

void net_probe_ask(struct net_probe *probe, struct net_address to, uint64_t nonce,
                   uint64_t now_us) {
    struct wire_ping ping = {.nonce = nonce, .sent_ns = now_us * 1000};
    send(probe, to, WIRE_PING, &ping, sizeof ping);
    net_flush(probe->endpoint);
}

static void take(struct net_probe *probe, const struct net_packet *packet, uint64_t own_token,
                 const char own_cluster[WIRE_CLUSTER_BYTES]) {
    struct wire_packet_header header;
    struct wire_cursor cursor;
    struct wire_frame frame;
    enum wire_drop drop;
    int step;
    if (wire_packet_open(packet->bytes, packet->length_bytes, 0, &header, &cursor) !=
            WIRE_DROP_NONE ||
        header.session != 0 || header.stage != WIRE_STAGE_INGRESS)
        return;
    while ((step = wire_frame_next(&cursor, &frame, &drop)) != 0) {
        if (step > 0 && frame.kind == WIRE_PING) {
            struct wire_ping ping;
            memcpy(&ping, frame.payload, sizeof ping);
            struct wire_pong pong = {
                .nonce = ping.nonce, .sent_ns = ping.sent_ns, .process_token = own_token};
            memcpy(pong.cluster, own_cluster, sizeof pong.cluster);
            send(probe, packet->address, WIRE_PONG, &pong, sizeof pong);
            return; /* one answer to a packet */
        }
        if (step > 0 && frame.kind == WIRE_PONG) {
            struct wire_pong pong;
            memcpy(&pong, frame.payload, sizeof pong);
            probe->nonce = pong.nonce;
            probe->token = pong.process_token;
            if (pong.cluster[0] && memcmp(pong.cluster, own_cluster, sizeof pong.cluster) != 0) {
                memcpy(probe->other, pong.cluster, sizeof probe->other);
                probe->other_from = packet->address;
            }
        }
    }
}

void net_probe_serve(struct net_probe *probe, uint64_t own_token,
                     const char own_cluster[WIRE_CLUSTER_BYTES], uint64_t now_us) {
    struct net_packet packets[NET_BURST_COUNT];
    uint32_t count = net_rx(probe->endpoint, now_us, packets, NET_BURST_COUNT);
    for (uint32_t i = 0; i < count; i++)
        take(probe, &packets[i], own_token, own_cluster);
    net_packets_free(packets, count);
    net_flush(probe->endpoint);
}

bool net_probe_other(const struct net_probe *probe, char ret_cluster[WIRE_CLUSTER_BYTES + 1],
                     struct net_address *ret_from) {
    if (!probe->other[0])
        return false;
    memcpy(ret_cluster, probe->other, WIRE_CLUSTER_BYTES);
    ret_cluster[WIRE_CLUSTER_BYTES] = '\0';
    *ret_from = probe->other_from;
    return true;
}

bool net_probe_answer(const struct net_probe *probe, uint64_t nonce, uint64_t *ret_token) {
    if (nonce == 0 || probe->nonce != nonce)
        return false;
    *ret_token = probe->token;
    return true;
}

bool net_probe_is_own(const struct net_probe *probe, struct net_address to) {
    return net_address_equal(net_endpoint_address(probe->endpoint), to);
}
