#include "proto/wire.h"

#include <string.h>

#include "proto/retired.h"

/* ---- what each kind's payload must look like ---- */

struct shape {
    uint16_t fixed_bytes;
    uint16_t variable_max_bytes; /* 0: exactly fixed_bytes */
    enum wire_drop (*check)(const struct wire_frame *frame);
};

static enum wire_drop allowed(int ok) {
    return ok ? WIRE_DROP_NONE : WIRE_DROP_FRAME_VALUE;
}

/* Goes into a log line as it is. */
static int is_cluster_name(const char *name) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789-";
    int i = 0;
    while (i < WIRE_CLUSTER_BYTES && name[i] && memchr(letters, name[i], sizeof letters - 1))
        i++;
    while (i < WIRE_CLUSTER_BYTES && !name[i])
        i++;
    return i == WIRE_CLUSTER_BYTES;
}

static enum wire_drop check_hello(const struct wire_frame *frame) {
    const struct wire_hello *h = (const void *)frame->payload;
    int role = h->role == WIRE_ROLE_NODE || h->role == WIRE_ROLE_GATEWAY;
    int ranges = 1;
    for (int i = 0; i < 2; i++)
        ranges &= h->ranges[i] < WIRE_RANGE_COUNT || h->ranges[i] == WIRE_RANGE_NONE;
    return allowed(role && ranges && h->index < WIRE_NODES_MAX && h->stage < WIRE_STAGE_COUNT &&
                   h->session && is_cluster_name(h->cluster));
}

static enum wire_drop check_pong(const struct wire_frame *frame) {
    const struct wire_pong *pong = (const void *)frame->payload;
    return allowed(is_cluster_name(pong->cluster));
}

static enum wire_drop check_tx(const struct wire_frame *frame) {
    return wire_body_check(frame->payload + sizeof(struct wire_tx),
                           frame->length_bytes - sizeof(struct wire_tx));
}

static enum wire_drop check_body(const struct wire_frame *frame) {
    return wire_body_check(frame->payload + sizeof(struct wire_body),
                           frame->length_bytes - sizeof(struct wire_body));
}

static enum wire_drop check_vector(const struct wire_frame *frame) {
    const struct wire_vector *v = (const void *)frame->payload;
    const struct wire_vector_entry *entries = (const void *)(v + 1);
    if (frame->length_bytes != sizeof *v + v->count * sizeof *entries)
        return WIRE_DROP_FRAME_LENGTH;
    int ok = v->is_leader <= 1 && v->window <= WIRE_RANGE_OFFSETS;
    for (uint32_t i = 0; i < v->count; i++)
        ok &= entries[i].range < WIRE_RANGE_COUNT && entries[i].received <= WIRE_RANGE_OFFSETS &&
              entries[i].committed <= WIRE_RANGE_OFFSETS;
    return allowed(ok);
}

static enum wire_drop check_fetch(const struct wire_frame *frame) {
    const struct wire_fetch *f = (const void *)frame->payload;
    return allowed(f->count &&
                   (uint64_t)wire_tx_offset(f->first_id) + f->count <= WIRE_RANGE_OFFSETS);
}

static enum wire_drop check_propose(const struct wire_frame *frame) {
    const struct wire_propose *p = (const void *)frame->payload;
    return wire_epoch_check(p + 1, frame->length_bytes - sizeof *p);
}

static enum wire_drop check_epoch_answer(const struct wire_frame *frame) {
    const struct wire_epoch_answer *p = (const void *)frame->payload;
    return wire_epoch_check(p + 1, frame->length_bytes - sizeof *p);
}

static enum wire_drop check_epoch_fetch(const struct wire_frame *frame) {
    const struct wire_epoch_fetch *f = (const void *)frame->payload;
    return allowed(f->from_seq >= 1 && f->from_seq < f->to_seq);
}

static enum wire_drop check_result(const struct wire_frame *frame) {
    const struct wire_result *p = (const void *)frame->payload;
    uint64_t piece = frame->length_bytes - sizeof *p;
    return allowed((uint64_t)p->offset_bytes + piece <= p->total_bytes &&
                   (piece || !p->total_bytes));
}

static enum wire_drop check_sealed(const struct wire_frame *frame) {
    const struct wire_sealed *s = (const void *)frame->payload;
    return allowed(s->range < WIRE_RANGE_COUNT && s->end <= WIRE_RANGE_OFFSETS &&
                   s->owner_mark <= RETIRED_MARK_MAX);
}

static enum wire_drop check_not_owner(const struct wire_frame *frame) {
    const struct wire_not_owner *n = (const void *)frame->payload;
    return allowed(n->range < WIRE_RANGE_COUNT && n->is_leader <= 1);
}

static enum wire_drop check_tx_query(const struct wire_frame *frame) {
    const struct wire_tx_query *q = (const void *)frame->payload;
    return allowed(q->owner_mark <= RETIRED_MARK_MAX);
}

static enum wire_drop check_tx_state(const struct wire_frame *frame) {
    const struct wire_tx_state *s = (const void *)frame->payload;
    return allowed(s->outcome <= WIRE_TX_EXPIRED);
}

static enum wire_drop check_range_request(const struct wire_frame *frame) {
    const struct wire_range_request *q = (const void *)frame->payload;
    return allowed(q->owner && (q->range < WIRE_RANGE_COUNT || q->range == WIRE_RANGE_NONE));
}

static enum wire_drop check_range_grant(const struct wire_frame *frame) {
    const struct wire_range_grant *g = (const void *)frame->payload;
    int range = g->range < WIRE_RANGE_COUNT ||
                (g->range == WIRE_RANGE_NONE && g->outcome != WIRE_RANGE_GRANTED);
    int held = g->held_by || g->outcome != WIRE_RANGE_GRANTED;
    return allowed(range && held && g->start <= WIRE_RANGE_OFFSETS &&
                   g->outcome <= WIRE_RANGE_SEALING);
}

static enum wire_drop check_range_renew(const struct wire_frame *frame) {
    const struct wire_range_renew *g = (const void *)frame->payload;
    return allowed(g->owner && g->range < WIRE_RANGE_COUNT);
}

static enum wire_drop check_range_close(const struct wire_frame *frame) {
    const struct wire_range_close *g = (const void *)frame->payload;
    return allowed(g->owner && g->range < WIRE_RANGE_COUNT && g->end <= WIRE_RANGE_OFFSETS);
}

static enum wire_drop check_recovered(const struct wire_frame *frame) {
    const struct wire_recovered *g = (const void *)frame->payload;
    return allowed(g->promised_index < WIRE_NODES_MAX || g->promised_index == 255);
}

#define EXACT(type) sizeof(struct type), 0
static const struct shape shapes[] = {
    [WIRE_HELLO] = {EXACT(wire_hello), check_hello},
    [WIRE_TX] = {sizeof(struct wire_tx), WIRE_BODY_MAX_BYTES, check_tx},
    [WIRE_VECTOR] = {sizeof(struct wire_vector), WIRE_PACKET_MAX_BYTES, check_vector},
    [WIRE_FETCH] = {EXACT(wire_fetch), check_fetch},
    [WIRE_BODY] = {sizeof(struct wire_body), WIRE_BODY_MAX_BYTES, check_body},
    [WIRE_GONE] = {EXACT(wire_gone), NULL},
    [WIRE_NOT_YET] = {EXACT(wire_not_yet), NULL},
    [WIRE_PREPARE] = {EXACT(wire_prepare), NULL},
    [WIRE_PROMISE] = {EXACT(wire_promise), NULL},
    [WIRE_PROPOSE] = {sizeof(struct wire_propose), WIRE_EPOCH_MAX_BYTES, check_propose},
    [WIRE_ACK] = {EXACT(wire_ack), NULL},
    [WIRE_HEARTBEAT] = {EXACT(wire_heartbeat), NULL},
    [WIRE_EPOCH_FETCH] = {EXACT(wire_epoch_fetch), check_epoch_fetch},
    [WIRE_EPOCH] = {sizeof(struct wire_epoch_answer), WIRE_EPOCH_MAX_BYTES, check_epoch_answer},
    [WIRE_EPOCH_GONE] = {EXACT(wire_epoch_gone), NULL},
    [WIRE_HANDOVER] = {EXACT(wire_handover), NULL},
    [WIRE_RECOVER] = {EXACT(wire_recover), NULL},
    [WIRE_RECOVERED] = {EXACT(wire_recovered), check_recovered},
    [WIRE_RESULT] = {sizeof(struct wire_result), WIRE_PACKET_MAX_BYTES, check_result},
    [WIRE_SEALED] = {EXACT(wire_sealed), check_sealed},
    [WIRE_NOT_OWNER] = {EXACT(wire_not_owner), check_not_owner},
    [WIRE_TX_QUERY] = {EXACT(wire_tx_query), check_tx_query},
    [WIRE_TX_STATE] = {EXACT(wire_tx_state), check_tx_state},
    [WIRE_RANGE_REQUEST] = {EXACT(wire_range_request), check_range_request},
    [WIRE_RANGE_GRANT] = {EXACT(wire_range_grant), check_range_grant},
    [WIRE_RANGE_RENEW] = {EXACT(wire_range_renew), check_range_renew},
    [WIRE_RANGE_CLOSE] = {EXACT(wire_range_close), check_range_close},
    [WIRE_PING] = {EXACT(wire_ping), NULL},
    [WIRE_PONG] = {EXACT(wire_pong), check_pong},
};
#define SHAPE_COUNT (sizeof shapes / sizeof shapes[0])

static enum wire_drop frame_check(const struct wire_frame *frame) {
    if (frame->kind >= SHAPE_COUNT || !shapes[frame->kind].fixed_bytes)
        return WIRE_DROP_FRAME_KIND;
    const struct shape *shape = &shapes[frame->kind];
    if (frame->length_bytes < shape->fixed_bytes ||
        frame->length_bytes - shape->fixed_bytes > shape->variable_max_bytes)
        return WIRE_DROP_FRAME_LENGTH;
    return shape->check ? shape->check(frame) : WIRE_DROP_NONE;
}

/* ---- packets ---- */

enum wire_drop wire_packet_open(const void *packet, size_t length_bytes, uint64_t seed,
                                struct wire_packet_header *ret_header,
                                struct wire_cursor *ret_cursor) {
    struct wire_packet_header header;
    if (length_bytes < sizeof header)
        return WIRE_DROP_SHORT;
    memcpy(&header, packet, sizeof header);
    if (header.magic != WIRE_MAGIC)
        return WIRE_DROP_MAGIC;
    if (header.version != WIRE_VERSION)
        return WIRE_DROP_VERSION;
    uint64_t start = wire_hash_packet(header.session ? seed : 0, &header,
                                      offsetof(struct wire_packet_header, checksum));
    const uint8_t *frames = (const uint8_t *)packet + sizeof header;
    if (wire_hash_packet(start, frames, length_bytes - sizeof header) != header.checksum)
        return WIRE_DROP_CHECKSUM;
    *ret_header = header;
    *ret_cursor = (struct wire_cursor){frames, (const uint8_t *)packet + length_bytes};
    return WIRE_DROP_NONE;
}

int wire_frame_next(struct wire_cursor *cursor, struct wire_frame *ret_frame,
                    enum wire_drop *ret_drop) {
    size_t left = (size_t)(cursor->end - cursor->at);
    if (!left)
        return 0;
    struct wire_frame_header header;
    if (left < sizeof header)
        goto unusable;
    memcpy(&header, cursor->at, sizeof header);
    if (header.length_bytes > left - sizeof header)
        goto unusable;
    struct wire_frame frame = {header.kind, header.flags, header.length_bytes,
                               cursor->at + sizeof header};
    cursor->at += sizeof header + header.length_bytes;
    enum wire_drop drop = frame_check(&frame);
    if (drop != WIRE_DROP_NONE) {
        *ret_drop = drop;
        return -1;
    }
    *ret_frame = frame;
    return 1;
unusable:
    cursor->at = cursor->end;
    *ret_drop = WIRE_DROP_FRAME_LENGTH;
    return -1;
}

void wire_writer_begin(struct wire_writer *writer, void *bytes, uint32_t room_bytes, uint8_t stage,
                       uint32_t session) {
    struct wire_packet_header *header = bytes; /* packed */
    assert(room_bytes >= 64);
    *header = (struct wire_packet_header){
        .magic = WIRE_MAGIC, .version = WIRE_VERSION, .stage = stage, .session = session};
    *writer = (struct wire_writer){bytes, sizeof *header, room_bytes};
}

void *wire_writer_frame(struct wire_writer *writer, enum wire_kind kind, uint8_t flags,
                        uint32_t length_bytes) {
    struct wire_frame_header header = {(uint8_t)kind, flags, (uint16_t)length_bytes};
    if (length_bytes > UINT16_MAX ||
        sizeof header + length_bytes > writer->room_bytes - writer->length_bytes)
        return NULL;
    uint8_t *at = writer->bytes + writer->length_bytes;
    memcpy(at, &header, sizeof header);
    writer->length_bytes += (uint32_t)sizeof header + length_bytes;
    return at + sizeof header;
}

uint32_t wire_writer_end(struct wire_writer *writer, uint64_t packet_number, uint64_t seed) {
    struct wire_packet_header header;
    memcpy(&header, writer->bytes, sizeof header);
    header.packet_number = packet_number;
    uint64_t start = wire_hash_packet(header.session ? seed : 0, &header,
                                      offsetof(struct wire_packet_header, checksum));
    header.checksum = wire_hash_packet(start, writer->bytes + sizeof header,
                                       writer->length_bytes - sizeof header);
    memcpy(writer->bytes, &header, sizeof header);
    return writer->length_bytes;
}

/* ---- names ---- */

uint32_t wire_name_id(const char *name, size_t length_bytes) { /* FNV-1a (Fowler, Noll, Vo) */
    uint32_t id = 2166136261u;
    for (size_t i = 0; i < length_bytes; i++)
        id = (id ^ (uint8_t)name[i]) * 16777619u;
    return id;
}

const char *wire_kind_name(uint8_t kind) {
    switch (kind) {
#define WIRE_FRAME(name, value, sentence) \
    case value:                           \
        return #name;
#include "proto/wire_frames.def"
#undef WIRE_FRAME
    }
    return "?";
}

static const char *const drops[WIRE_DROP_COUNT] = {
#define WIRE_DROP(name, label, sentence) [WIRE_DROP_##name] = label,
#include "proto/wire_drops.def"
#undef WIRE_DROP
};

const char *wire_drop_label(enum wire_drop drop) {
    return drop >= 0 && drop < WIRE_DROP_COUNT ? drops[drop] : "none";
}
