/* net_sessions: packets in, HELLOs in and out (session.h). */
#include "dataplane/net/session_private.h"

#include <string.h>

static enum wire_drop drop(struct net_sessions *s, enum wire_drop reason) {
    s->drops[reason]++;
    return reason;
}

static enum wire_drop refuse(struct net_sessions *s, enum wire_drop reason,
                             struct net_address source, const struct wire_hello *hello) {
    s->refusal = (struct net_session_refusal){.drop = reason,
                                              .count = s->refusal.count + 1,
                                              .address = source,
                                              .hello = *hello,
                                              .own_configuration_id = s->own.configuration_id};
    return drop(s, reason);
}

static enum wire_drop refuse_version(struct net_sessions *s, struct net_address source,
                                     const void *packet) {
    struct wire_packet_header header;
    memcpy(&header, packet, sizeof header); /* long enough: its version was looked at */
    (void)refuse(s, WIRE_DROP_VERSION, source,
                 &(struct wire_hello){.configuration_id = header.version});
    s->refusal.own_configuration_id = WIRE_VERSION;
    return WIRE_DROP_VERSION;
}

static void answer_later(struct net_sessions *s, const struct answer *answer) {
    if (s->answer_count == ANSWERS_MAX)
        return; /* the peer asks again */
    s->answers[(s->answer_first + s->answer_count++) % ANSWERS_MAX] = *answer;
}

static void answer(struct net_sessions *s, struct net_address address, uint8_t stage,
                   uint32_t your_session, uint8_t flags) {
    answer_later(
        s, &(struct answer){
               .address = address, .your_session = your_session, .stage = stage, .flags = flags});
}

/* Strangers get an answer to one packet of an address every NET_HELLO_MIN_US. */
static bool may_answer(struct net_sessions *s, struct net_address source, uint64_t now_us) {
    uint32_t hash = (source.ipv4 ^ (uint32_t)source.port * 40503u) * UINT32_C(2654435769);
    uint32_t slot = hash >> 24;
    if (net_address_equal(s->limits[slot].address, source) &&
        now_us - s->limits[slot].at_us < NET_HELLO_MIN_US)
        return false;
    s->limits[slot].address = source;
    s->limits[slot].at_us = now_us;
    return true;
}

/* Asks an unknown sender for its HELLO. */
static void ask(struct net_sessions *s, struct net_address source, uint64_t now_us) {
    uint8_t stage = s->own.role == WIRE_ROLE_GATEWAY ? WIRE_STAGE_INGRESS : s->own.stage;
    if (may_answer(s, source, now_us))
        answer(s, source, stage, 0, WIRE_HELLO_WANT_REPLY);
}

static enum wire_drop stranger_ping(struct net_sessions *s, const struct wire_frame *frame,
                                    struct net_address source, uint64_t now_us) {
    if (s->own.role != WIRE_ROLE_NODE)
        return drop(s, WIRE_DROP_FRAME_ROLE);
    struct answer pong = {.address = source, .stage = s->own.stage, .pong = true};
    memcpy(&pong.ping, frame->payload, sizeof pong.ping);
    if (may_answer(s, source, now_us))
        answer_later(s, &pong);
    return WIRE_DROP_NONE;
}

static enum wire_drop node_hello(struct net_sessions *s, const struct wire_hello *hello,
                                 struct net_address source, struct net_peer **ret_peer) {
    struct net_peer *peer = session_node_at(s, source);
    if (!peer || (peer->index != NET_INDEX_UNKNOWN && peer->index != hello->index))
        return WIRE_DROP_SESSION_ADDRESS;
    if (peer->session && hello->incarnation < peer->incarnation)
        return WIRE_DROP_INCARNATION_OLD;
    struct net_peer *holder = session_find(s, hello->session);
    if (holder && holder != peer) /* two drew one number; the later must draw again */
        return WIRE_DROP_SESSION_ADDRESS;
    if (peer->session != hello->session || peer->process_token != hello->process_token ||
        peer->incarnation != hello->incarnation) {
        session_renew(s, peer);
        session_set(s, peer, hello->session);
    }
    peer->index = hello->index;
    *ret_peer = peer;
    return WIRE_DROP_NONE;
}

static enum wire_drop gateway_hello(struct net_sessions *s, const struct wire_hello *hello,
                                    struct net_address source, uint64_t now_us,
                                    struct net_peer **ret_peer) {
    struct net_peer *peer = session_find(s, hello->session);
    if (peer && (peer->role != WIRE_ROLE_GATEWAY || peer->process_token != hello->process_token))
        return WIRE_DROP_SESSION_ADDRESS;
    if (!peer) {
        peer = session_gateway_new(s, now_us);
        if (!peer)
            return WIRE_DROP_SESSION_TABLE_FULL;
        session_renew(s, peer);
        session_set(s, peer, hello->session);
        peer->index = 0;
    }
    peer->address = source;
    *ret_peer = peer;
    return WIRE_DROP_NONE;
}

static bool hello_fits_role(const struct net_sessions *s, const struct wire_hello *hello) {
    if (hello->role == WIRE_ROLE_GATEWAY)
        return s->own.role == WIRE_ROLE_NODE && s->own.stage == WIRE_STAGE_INGRESS;
    if (s->own.role == WIRE_ROLE_GATEWAY)
        return hello->stage == WIRE_STAGE_INGRESS;
    return hello->stage == s->own.stage && hello->index != s->own.index;
}

static enum wire_drop take_hello(struct net_sessions *s, const struct wire_hello *hello,
                                 uint8_t flags, struct net_address source, uint64_t now_us,
                                 struct net_peer **ret_peer) {
    struct net_peer *peer = NULL;
    if (hello->session == 0 || hello->session == s->own.session ||
        (hello->role != WIRE_ROLE_NODE && hello->role != WIRE_ROLE_GATEWAY) ||
        (hello->role == WIRE_ROLE_NODE && hello->index >= WIRE_NODES_MAX))
        return refuse(s, WIRE_DROP_FRAME_VALUE, source, hello);
    if (!hello_fits_role(s, hello))
        return refuse(s, WIRE_DROP_FRAME_ROLE, source, hello);
    uint64_t id = s->own.configuration_id;
    bool may_be_unknown = hello->role == WIRE_ROLE_GATEWAY && hello->configuration_id == 0;
    if (id ? hello->configuration_id != id && !may_be_unknown : hello->configuration_id == 0) {
        /* Nodes introduce themselves to nodes; to a gateway only this says why it is not served. */
        if (hello->role == WIRE_ROLE_GATEWAY && may_answer(s, source, now_us))
            answer(s, source, hello->stage, hello->session, 0);
        return refuse(s, WIRE_DROP_CONFIGURATION, source, hello);
    }
    enum wire_drop reason = hello->role == WIRE_ROLE_NODE
                                ? node_hello(s, hello, source, &peer)
                                : gateway_hello(s, hello, source, now_us, &peer);
    if (reason != WIRE_DROP_NONE)
        return refuse(s, reason, source, hello);
    if (id == 0) /* we are a gateway and this is the first node heard */
        s->own.configuration_id = hello->configuration_id;
    peer->stage = hello->stage;
    peer->incarnation = hello->incarnation;
    peer->process_token = hello->process_token;
    memcpy(peer->ranges, hello->ranges, sizeof(peer->ranges));
    peer->knows_us = hello->your_session == s->own.session;
    s->quiet_until_us = 0;
    session_heard(s, peer, now_us);
    if (flags & WIRE_HELLO_WANT_REPLY)
        answer(s, source, peer->stage, peer->session, peer->knows_us ? 0 : WIRE_HELLO_WANT_REPLY);
    *ret_peer = peer;
    return WIRE_DROP_NONE;
}

/* A packet of session 0: HELLOs, and PINGs of strangers; every other frame is counted. */
static enum wire_drop receive_hello(struct net_sessions *s, struct net_address source,
                                    uint64_t now_us, struct net_received *received) {
    struct wire_frame frame;
    enum wire_drop reason = WIRE_DROP_NONE;
    bool any = false;
    int step;
    while ((step = wire_frame_next(&received->cursor, &frame, &reason)) != 0) {
        if (step < 0) {
            drop(s, reason);
            continue;
        }
        if (frame.kind == WIRE_HELLO)
            reason = take_hello(s, (const struct wire_hello *)frame.payload, frame.flags, source,
                                now_us, &received->peer);
        else if (frame.kind == WIRE_PING)
            reason = stranger_ping(s, &frame, source, now_us);
        else
            reason = drop(s, WIRE_DROP_HELLO_ONLY);
        any |= reason == WIRE_DROP_NONE;
    }
    if (any)
        return WIRE_DROP_NONE;
    return reason != WIRE_DROP_NONE ? reason : drop(s, WIRE_DROP_HELLO_ONLY);
}

enum wire_drop net_session_receive(struct net_sessions *s, const void *packet, size_t length_bytes,
                                   struct net_address source, uint64_t now_us,
                                   struct net_received *ret_received) {
    struct net_received received = {0};
    enum wire_drop reason = wire_packet_open(packet, length_bytes, s->own.configuration_id,
                                             &received.header, &received.cursor);
    if (reason == WIRE_DROP_VERSION)
        return refuse_version(s, source, packet);
    if (reason != WIRE_DROP_NONE)
        return drop(s, reason);
    if (received.header.stage != s->own.stage)
        return drop(s, WIRE_DROP_FRAME_ROLE);
    if (received.header.session == 0) {
        received.hello = true;
        reason = receive_hello(s, source, now_us, &received);
        if (reason == WIRE_DROP_NONE)
            *ret_received = received;
        return reason;
    }
    struct net_peer *peer = session_find(s, received.header.session);
    if (!peer) {
        ask(s, source, now_us);
        return drop(s, WIRE_DROP_SESSION_UNKNOWN);
    }
    if (!net_address_equal(peer->address, source))
        return drop(s, WIRE_DROP_SESSION_ADDRESS);
    session_heard(s, peer, now_us);
    received.peer = peer;
    *ret_received = received;
    return WIRE_DROP_NONE;
}

/* ---- sending ---- */

static void hello_paced(struct net_peer *peer, uint64_t now_us) {
    peer->hello_at_us = now_us + peer->hello_delay_us;
    peer->hello_delay_us =
        peer->hello_delay_us * 2 < NET_HELLO_MAX_US ? peer->hello_delay_us * 2 : NET_HELLO_MAX_US;
}

bool net_session_may_send(struct net_sessions *s, struct net_peer *peer, uint64_t now_us) {
    assert(peer->role != 0);
    if (!peer->knows_us && peer->role == WIRE_ROLE_GATEWAY && now_us >= peer->hello_at_us) {
        answer(s, peer->address, peer->stage, peer->session, WIRE_HELLO_WANT_REPLY);
        hello_paced(peer, now_us);
    }
    return s->own.configuration_id != 0;
}

void net_session_packet_begin(struct net_sessions *s, const struct net_peer *peer,
                              struct wire_writer *writer, void *bytes, uint32_t room_bytes) {
    wire_writer_begin(writer, bytes, room_bytes, peer->stage, s->own.session);
}

uint32_t net_session_packet_end(struct net_sessions *s, struct wire_writer *writer) {
    return wire_writer_end(writer, ++s->packet_number, s->own.configuration_id);
}

static uint32_t write_hello(struct net_sessions *s, void *bytes, uint8_t stage,
                            uint32_t your_session, uint8_t flags) {
    struct wire_writer writer;
    wire_writer_begin(&writer, bytes, NET_HELLO_PACKET_BYTES, stage, 0);
    struct wire_hello *hello =
        wire_writer_frame(&writer, WIRE_HELLO, flags, sizeof(struct wire_hello));
    assert(hello);
    *hello = (struct wire_hello){.session = s->own.session,
                                 .your_session = your_session,
                                 .role = s->own.role,
                                 .index = s->own.index,
                                 .stage = s->own.stage,
                                 .incarnation = s->own.incarnation,
                                 .process_token = s->own.process_token,
                                 .configuration_id = s->own.configuration_id,
                                 .ranges = {s->own.ranges[0], s->own.ranges[1]}};
    memcpy(hello->cluster, s->own.cluster, sizeof hello->cluster);
    return wire_writer_end(&writer, ++s->packet_number, 0);
}

static uint32_t write_pong(struct net_sessions *s, void *bytes, const struct answer *a) {
    struct wire_writer writer;
    wire_writer_begin(&writer, bytes, NET_HELLO_PACKET_BYTES, a->stage, 0);
    struct wire_pong *pong = wire_writer_frame(&writer, WIRE_PONG, 0, sizeof(struct wire_pong));
    assert(pong);
    *pong = (struct wire_pong){
        .nonce = a->ping.nonce, .sent_ns = a->ping.sent_ns, .process_token = s->own.process_token};
    memcpy(pong->cluster, s->own.cluster, sizeof pong->cluster);
    return wire_writer_end(&writer, ++s->packet_number, 0);
}

bool net_session_hello_next(struct net_sessions *s, uint64_t now_us, void *bytes,
                            uint32_t *ret_length_bytes, struct net_address *ret_address) {
    if (s->answer_count) {
        const struct answer *a = &s->answers[s->answer_first];
        s->answer_first = (s->answer_first + 1) % ANSWERS_MAX;
        s->answer_count--;
        *ret_address = a->address;
        *ret_length_bytes = a->pong ? write_pong(s, bytes, a)
                                    : write_hello(s, bytes, a->stage, a->your_session, a->flags);
        return true;
    }
    if (now_us < s->quiet_until_us)
        return false;
    uint64_t next_us = UINT64_MAX;
    for (uint32_t i = 0; i < s->node_count; i++) {
        struct net_peer *peer = &s->peers[i];
        if (peer->knows_us)
            continue;
        if (now_us < peer->hello_at_us) {
            next_us = peer->hello_at_us < next_us ? peer->hello_at_us : next_us;
            continue;
        }
        hello_paced(peer, now_us);
        *ret_address = peer->address;
        *ret_length_bytes =
            write_hello(s, bytes, peer->stage, peer->session, WIRE_HELLO_WANT_REPLY);
        return true;
    }
    s->quiet_until_us = next_us;
    return false;
}
