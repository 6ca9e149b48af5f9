#include "tests/fuzz/mutate.h"

#include <string.h>

uint64_t mutate_random(struct mutator *m) { /* splitmix64 (Steele, Lea, Flood, 2014) */
    uint64_t z = m->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static void fill(struct mutator *m, void *bytes, size_t length) {
    uint8_t *at = bytes;
    for (size_t i = 0; i < length; i += 8) {
        uint64_t eight = mutate_random(m);
        memcpy(at + i, &eight, length - i < 8 ? length - i : 8);
    }
}

uint32_t mutate_hello(struct mutate_endpoint *e, uint8_t *packet) {
    struct wire_writer writer;
    wire_writer_begin(&writer, packet, WIRE_PACKET_MAX_BYTES, e->stage, 0);
    struct wire_hello *frame =
        wire_writer_frame(&writer, WIRE_HELLO, WIRE_HELLO_WANT_REPLY, sizeof *frame);
    *frame = (struct wire_hello){.session = e->session,
                                 .role = WIRE_ROLE_GATEWAY,
                                 .incarnation = e->owner,
                                 .process_token = e->owner,
                                 .configuration_id = e->configuration_id,
                                 .ranges = {e->range, WIRE_RANGE_NONE}};
    return wire_writer_end(&writer, ++e->packet_number, 0);
}

/* Payload lengths of frames without a variable part, and a valid start of those with one. */
static uint32_t payload_bytes(struct mutator *m, enum wire_kind kind) {
    switch (kind) {
    case WIRE_HELLO: return sizeof(struct wire_hello);
    case WIRE_TX:
        return (uint32_t)(sizeof(struct wire_tx) + sizeof(struct wire_body_header) +
                          mutate_random(m) % 1000);
    case WIRE_BODY:
        return (uint32_t)(sizeof(struct wire_body) + sizeof(struct wire_body_header) +
                          mutate_random(m) % 1000);
    case WIRE_VECTOR:
        return (uint32_t)(sizeof(struct wire_vector) +
                          mutate_random(m) % 8 * sizeof(struct wire_vector_entry));
    case WIRE_FETCH: return sizeof(struct wire_fetch);
    case WIRE_GONE: return sizeof(struct wire_gone);
    case WIRE_NOT_YET: return sizeof(struct wire_not_yet);
    case WIRE_PREPARE: return sizeof(struct wire_prepare);
    case WIRE_PROMISE: return sizeof(struct wire_promise);
    case WIRE_PROPOSE:
        return (uint32_t)sizeof(struct wire_propose) +
               wire_epoch_bytes((uint32_t)(mutate_random(m) % 4), (uint32_t)(mutate_random(m) % 8));
    case WIRE_ACK: return sizeof(struct wire_ack);
    case WIRE_HEARTBEAT: return sizeof(struct wire_heartbeat);
    case WIRE_EPOCH_FETCH: return sizeof(struct wire_epoch_fetch);
    case WIRE_EPOCH:
        return (uint32_t)sizeof(struct wire_epoch_answer) +
               wire_epoch_bytes((uint32_t)(mutate_random(m) % 4), (uint32_t)(mutate_random(m) % 8));
    case WIRE_EPOCH_GONE: return sizeof(struct wire_epoch_gone);
    case WIRE_HANDOVER: return sizeof(struct wire_handover);
    case WIRE_RECOVER: return sizeof(struct wire_recover);
    case WIRE_RECOVERED: return sizeof(struct wire_recovered);
    case WIRE_RESULT: return (uint32_t)(sizeof(struct wire_result) + mutate_random(m) % 100);
    case WIRE_SEALED: return sizeof(struct wire_sealed);
    case WIRE_NOT_OWNER: return sizeof(struct wire_not_owner);
    case WIRE_TX_QUERY: return sizeof(struct wire_tx_query);
    case WIRE_TX_STATE: return sizeof(struct wire_tx_state);
    case WIRE_RANGE_REQUEST: return sizeof(struct wire_range_request);
    case WIRE_RANGE_GRANT: return sizeof(struct wire_range_grant);
    case WIRE_RANGE_RENEW: return sizeof(struct wire_range_renew);
    case WIRE_RANGE_CLOSE: return sizeof(struct wire_range_close);
    case WIRE_PING: return sizeof(struct wire_ping);
    case WIRE_PONG: return sizeof(struct wire_pong);
    }
    return 8;
}

static const enum wire_kind kinds[] = {
#define WIRE_FRAME(name, value, sentence) WIRE_##name,
#include "proto/wire_frames.def"
#undef WIRE_FRAME
};

/* Half of the numbers are small: those reach further than random 64-bit ones. */
static void fill_fields(struct mutator *m, uint8_t *payload, uint32_t length) {
    fill(m, payload, length);
    if ((mutate_random(m) & 1) == 0)
        for (uint32_t i = 0; i < length; i++)
            if (i % 8 != 0)
                payload[i] = 0;
}

/* Most bodies are for the range that is ours and come in order, some again, some too early; half
 * are whole calls, the others claim parts that may not follow. */
static void aim(struct mutator *m, struct mutate_endpoint *e, uint8_t *payload) {
    struct wire_tx tx;
    uint64_t dice = mutate_random(m) % 16;
    if (dice == 0)
        return;
    uint32_t offset = dice < 13 ? e->offset++ : e->offset + (uint32_t)dice - 14;
    tx.id = wire_tx_id(e->range, offset % WIRE_RANGE_OFFSETS);
    memcpy(payload, &tx, sizeof tx);
    struct wire_body_header header;
    memcpy(&header, payload + sizeof tx, sizeof header);
    uint64_t form = mutate_random(m);
    header.parts_following = form & 1 ? 0 : (uint16_t)(form >> 8 & 3);
    header.flags = form & 2 ? 0 : header.flags;
    header.low_water = form & 4 ? 0 : header.low_water;
    memcpy(payload + sizeof tx, &header, sizeof header);
}

/* A packet of random frames that are valid in kind and length. Asking for a range is left out of
 * it: a grant would be real work, and this is about refusals. */
static uint32_t frames(struct mutator *m, struct mutate_endpoint *e, uint8_t *packet,
                       uint32_t session) {
    struct wire_writer writer;
    wire_writer_begin(&writer, packet, WIRE_PACKET_MAX_BYTES, e->stage, session);
    uint32_t count = 1 + (uint32_t)(mutate_random(m) % 4);
    for (uint32_t i = 0; i < count; i++) {
        enum wire_kind kind = kinds[mutate_random(m) % (sizeof kinds / sizeof kinds[0])];
        if (e->range != WIRE_RANGE_NONE && mutate_random(m) % 4 == 0)
            kind = WIRE_TX;
        if (kind == WIRE_RANGE_REQUEST || (kind == WIRE_HELLO && session != 0))
            kind = WIRE_TX;
        if (session == 0)
            kind = WIRE_HELLO;
        uint32_t length = payload_bytes(m, kind);
        uint8_t *payload = wire_writer_frame(&writer, kind, (uint8_t)mutate_random(m), length);
        if (payload == NULL)
            break;
        fill_fields(m, payload, length);
        if (kind == WIRE_TX && e->range != WIRE_RANGE_NONE)
            aim(m, e, payload);
    }
    return wire_writer_end(&writer, ++e->packet_number, e->configuration_id);
}

/* One frame whose header is then changed, with a checksum that is right afterwards. */
static uint32_t spoilt_frame(struct mutator *m, struct mutate_endpoint *e, uint8_t *packet,
                             bool kind) {
    struct wire_writer writer;
    wire_writer_begin(&writer, packet, WIRE_PACKET_MAX_BYTES, e->stage, e->session);
    uint8_t *payload = wire_writer_frame(&writer, WIRE_PING, 0, sizeof(struct wire_ping));
    fill(m, payload, sizeof(struct wire_ping));
    struct wire_frame_header *header = (struct wire_frame_header *)(payload - sizeof *header);
    if (kind)
        header->kind = (uint8_t)(100 + mutate_random(m) % 100);
    else
        header->length_bytes = (uint16_t)(mutate_random(m) % 2000);
    return wire_writer_end(&writer, ++e->packet_number, e->configuration_id);
}

uint32_t mutate_packet(struct mutator *m, struct mutate_endpoint *e, bool hellos, uint8_t *packet) {
    enum mutation mutation = (enum mutation)(mutate_random(m) % MUTATION_COUNT);
    uint32_t session = mutate_random(m) % 8 == 0 || e->configuration_id == 0 ? 0 : e->session;
    uint32_t length = 0, offset = e->offset;
    if (!hellos)
        session = e->session;
    switch (mutation) {
    case NOISE:
        length = (uint32_t)(mutate_random(m) % WIRE_PACKET_MAX_BYTES);
        fill(m, packet, length);
        break;
    case FLIP:
        length = frames(m, e, packet, session);
        for (uint64_t flips = 1 + mutate_random(m) % 4; flips > 0; flips--)
            packet[mutate_random(m) % length] ^= (uint8_t)(1u << mutate_random(m) % 8);
        break;
    case CUT: length = (uint32_t)(mutate_random(m) % frames(m, e, packet, session)); break;
    case FIELD: length = frames(m, e, packet, session); break;
    case LENGTH: length = spoilt_frame(m, e, packet, false); break;
    case KIND: length = spoilt_frame(m, e, packet, true); break;
    case SESSION: length = frames(m, e, packet, (uint32_t)mutate_random(m) | 1); break;
    case VERSION:
        length = frames(m, e, packet, session);
        packet[mutate_random(m) % 3] ^= (uint8_t)(1 + mutate_random(m) % 255);
        break;
    case MUTATION_COUNT: break;
    }
    if (mutation != FIELD) /* its bodies never arrive */
        e->offset = offset;
    return length;
}
