/* Frames of protocol.md §11: the bytes that nodes and gateways exchange over UDP.
 *
 * Vocabulary
 *   packet    one UDP payload: a 24-byte header, then frames up to its end
 *   frame     a 4-byte header (kind, flags, payload length) and a payload: one of the packed
 * structs below, some followed by bytes or by entries of variable number session   a 32-bit number
 * its sender drew; introduced by HELLO in a packet of session 0. It stands for the sender's role,
 * index and incarnation, so every frame carries these by its packet's session tx id     range << 30
 * | offset position  exclusive counter; intervals are half-open
 *
 * All integers are little-endian; the structs are the wire layout (asserted below), so reading is a
 * checked cast.
 *
 *   received bytes --wire_packet_open--> header --wire_frame_next, until 0--> frames whose length
 * fits their kind wire_writer_begin --wire_writer_frame ...--> wire_writer_end --> bytes to send
 *
 * Purity: no I/O, no state, no malloc. Threads: any. Ownership: a frame points into the caller's
 * packet. */
#ifndef MAROON_WIRE_H
#define MAROON_WIRE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/wire_hash.h"

#define WIRE_MAGIC 0x726d /* "mr" */
/* All that nodes of one cluster must have in common, also what is no frame. 2: the arbiter draws
 * the token of a pinned range. 3: the state is laid out as format version 3 (runtime/SNAPSHOT.md).
 */
#define WIRE_VERSION 3
#define WIRE_SEAL_BYTES 16 /* kept free in every packet for an AEAD tag */
#define WIRE_PACKET_MAX_BYTES (1472 - WIRE_SEAL_BYTES) /* IPv4 + UDP in an MTU of 1500 */
#define WIRE_BODY_MAX_BYTES 1408                       /* header and payload of one body */
#define WIRE_NODES_MAX 7
#define WIRE_CLUSTER_BYTES 16
#define WIRE_RANGE_SHIFT 30
#define WIRE_RANGE_OFFSETS \
    (UINT32_C(1) << WIRE_RANGE_SHIFT) /* offsets in a range; also its greatest position */
#define WIRE_RANGE_COUNT (UINT64_C(1) << 34)
#define WIRE_RANGE_NONE UINT64_MAX
#define WIRE_EPOCH_INTERVALS_MAX 64
#define WIRE_EPOCH_CONTROLS_MAX 16
#define WIRE_EPOCH_BODIES_MAX 4096 /* upper bound of the key epoch_cap */
#define WIRE_EPOCH_MAX_BYTES 1044

enum wire_kind {
#define WIRE_FRAME(name, value, sentence) WIRE_##name = (value),
#include "proto/wire_frames.def"
#undef WIRE_FRAME
};

enum wire_drop {
#define WIRE_DROP(name, label, sentence) WIRE_DROP_##name,
#include "proto/wire_drops.def"
#undef WIRE_DROP
    WIRE_DROP_COUNT,
    WIRE_DROP_NONE = -1
};

enum wire_role { WIRE_ROLE_NODE = 1, WIRE_ROLE_GATEWAY = 2 };

/* Each stage of a node has its own port, session and packet numbers. A gateway speaks to INGRESS
 * only. */
enum wire_stage {
    WIRE_STAGE_INGRESS = 0,
    WIRE_STAGE_GOSSIP = 1,
    WIRE_STAGE_FETCH = 2,
    WIRE_STAGE_COUNT = 3
};
#define WIRE_STAGE_PORT_STEP 10000 /* UDP port = P + stage * step */

static inline uint64_t wire_tx_id(uint64_t range, uint32_t offset) {
    return range << WIRE_RANGE_SHIFT | offset;
}
static inline uint64_t wire_tx_range(uint64_t id) {
    return id >> WIRE_RANGE_SHIFT;
}
static inline uint32_t wire_tx_offset(uint64_t id) {
    return (uint32_t)(id & (WIRE_RANGE_OFFSETS - 1));
}

#pragma pack(push, 1)

struct wire_packet_header {
    uint16_t magic;
    uint8_t version;
    uint8_t stage;    /* enum wire_stage of the receiver, so that a mis-steered packet is seen */
    uint32_t session; /* 0: HELLO; PING and PONG of strangers */
    uint64_t packet_number; /* per sending endpoint, from 1, never repeated in a session */
    uint64_t
        checksum; /* over the packet with this field 0; seed: configuration id, 0 for session 0 */
};

struct wire_frame_header {
    uint8_t kind;
    uint8_t flags;
    uint16_t length_bytes; /* of what follows this header */
};

/* "My packets to you carry `session`." Answered in kind when flags has WANT_REPLY. */
#define WIRE_HELLO_WANT_REPLY 1
struct wire_hello {
    uint32_t session;
    uint32_t your_session; /* the session of yours that I know; 0: none, introduce yourself */
    uint8_t role;          /* enum wire_role */
    uint8_t index;         /* node: its index; gateway: 0 */
    uint8_t stage;         /* enum wire_stage of the sender's endpoint; gateway: 0 */
    uint8_t reserved;
    uint64_t incarnation;      /* node: of its store; gateway: its owner token */
    uint64_t process_token;    /* random, drawn at the start of the process */
    uint64_t configuration_id; /* gateway: 0 when it does not know yet */
    uint64_t ranges[2];        /* gateway: held now and next; WIRE_RANGE_NONE where not. node:
                                  WIRE_RANGE_NONE */
    char cluster[WIRE_CLUSTER_BYTES]; /* node: its cluster's name as far as it fits, [a-z0-9-], then
                                         0; for people, ids decide. gateway: 0 */
};

/* A body as it is stored, hashed and executed: this header, then the extension if flagged, then the
 * payload. */
#define WIRE_BODY_EXTENDED \
    1 /* struct wire_body_extension follows; only in a transaction's first part */
struct wire_body_header {
    uint32_t service; /* wire_name_id of "bank.v1.Bank" */
    uint32_t method;  /* wire_name_id of "Transfer" */
    uint16_t parts_following;
    uint16_t flags;
    uint32_t
        low_water; /* offset of the body's range: everything below it is answered at the gateway */
};

struct wire_body_extension {
    uint8_t idempotency_key[16];
    uint8_t request_hash[16]; /* of (service, method, canonical protobuf bytes) */
};

struct wire_tx { /* then the body's bytes */
    uint64_t id;
};

struct wire_body { /* then the body's bytes */
    uint64_t id;
    uint64_t owner; /* of the range, under which the sender holds it; 0: it does not know */
};

struct wire_vector { /* then `count` entries */
    uint64_t commit_seq;
    uint64_t exec_seq;
    uint64_t acknowledged_seq; /* epochs up to here are held and stable at the sender */
    uint8_t result_hash[32];   /* chain up to exec_seq */
    uint32_t window;           /* offsets a gateway may send above committed */
    uint8_t is_leader;
    uint8_t reserved;
    uint16_t count;
};

struct wire_vector_entry {
    uint64_t range;
    uint32_t received;  /* position: bodies held without a gap */
    uint32_t committed; /* position: offsets in committed epochs */
};

struct wire_fetch {
    uint64_t first_id;
    uint32_t count;
};

struct wire_gone {
    uint64_t below_id;
};

struct wire_not_yet {
    uint64_t above_id; /* nothing held at or above it */
};

struct wire_prepare {
    uint64_t term;
    uint64_t token; /* drawn by the winner for this attempt */
};

#define WIRE_PROMISE_REFUSED \
    1 /* promised_term names the higher or taken term; nothing else counts */
struct wire_promise {
    uint64_t term; /* of the PREPARE answered */
    uint64_t token;
    uint64_t promised_term;
    uint64_t last_term, last_seq; /* last epoch the sender could acknowledge */
    uint8_t last_hash[32];
    uint64_t commit_seq;
    uint64_t wall_clock_us;                /* since 1970 */
    uint64_t incarnations[WIRE_NODES_MAX]; /* newest known per index; 0: none known */
};

struct wire_propose { /* then the epoch's canonical bytes */
    uint64_t term;    /* of the leader; the epoch holds its term of creation */
    uint64_t commit_seq;
};

#define WIRE_ACK_AGAIN 1 /* propose again from commit_seq + 1 */
struct wire_ack {
    uint64_t term; /* the sender's promised term */
    uint64_t seq;  /* acknowledged up to here, inclusive count: epochs 1..seq */
    uint64_t commit_seq;
};

#define WIRE_HEARTBEAT_PREPARING 1
struct wire_heartbeat {
    uint64_t term;
    uint64_t last_seq;
    uint64_t commit_seq;
    uint64_t progress; /* while preparing: grows as adoption advances */
};

struct wire_epoch_fetch {
    uint64_t from_seq, to_seq; /* half-open */
};

struct wire_epoch_answer { /* EPOCH; then the epoch's canonical bytes */
    uint64_t commit_seq;   /* of the sender */
    uint64_t promised_term;
};

struct wire_epoch_gone {
    uint64_t below_seq;
};

struct wire_handover {
    uint64_t term; /* of the leader that hands over */
};

struct wire_recover {
    uint64_t incarnation; /* of the asker */
    uint64_t nonce;
};

#define WIRE_RECOVERED_LEADS 1
struct wire_recovered {
    uint64_t asker_incarnation;
    uint64_t nonce;
    uint64_t promised_term;
    uint64_t promised_token;
    uint8_t promised_index; /* the winner the promise was given to; 255: none */
    uint8_t reserved[7];
    uint64_t last_term, last_seq;
    uint8_t last_hash[32];
    uint64_t commit_seq;
    uint64_t incarnations[WIRE_NODES_MAX];
};

struct wire_result { /* then a piece of the result's bytes, from offset_bytes */
    uint64_t id;
    uint64_t epoch_seq;
    uint64_t logical_time_us;
    uint32_t method_key; /* wire_method_key of the call */
    uint32_t code : 8;   /* enum mrn_code: 0 ok, else a Connect code; the bytes are then the message
                            in UTF-8 */
    uint32_t owner_mark : 24; /* of who sent the transaction, or as its TX_QUERY named him */
    uint32_t total_bytes;
    uint32_t offset_bytes;
};

struct wire_sealed {
    uint64_t range;
    uint32_t end;        /* position */
    uint32_t owner_mark; /* whose holding ended there: who holds the range next is not told so */
};

struct wire_not_owner {
    uint64_t range;
    uint64_t owner;     /* 0: unknown here */
    uint32_t is_leader; /* the sender leads: who never had a VECTOR of it learns that here */
};

/* Also asks for the missing piece of a long result. Ids of a pinned range above a SEAL are used
 * again: whose transaction is meant is told by its owner's mark (proto/retired.h). */
struct wire_tx_query {
    uint64_t id;
    uint32_t owner_mark; /* 0: whoever's it is */
    uint32_t offset_bytes;
    uint32_t length_bytes; /* of result wanted; 0: all from offset_bytes */
};

enum wire_tx_outcome {
    WIRE_TX_UNKNOWN = 0,
    WIRE_TX_PENDING = 1,
    WIRE_TX_COMMITTED = 2,
    WIRE_TX_EXECUTED = 3, /* a RESULT follows in the same direction */
    WIRE_TX_REJECTED = 4,
    WIRE_TX_SEALED = 5,
    WIRE_TX_EXPIRED = 6 /* executed, its result no longer kept */
};

struct wire_tx_state {
    uint64_t id;
    uint64_t epoch_seq;       /* 0: not in an epoch known here */
    uint32_t outcome : 8;     /* enum wire_tx_outcome */
    uint32_t owner_mark : 24; /* as the TX_QUERY named him */
};

struct wire_range_request {
    uint64_t nonce; /* echoed by the answer */
    uint64_t owner; /* random token of the gateway's process, or as an earlier grant named it */
    uint64_t range; /* pinned range, or WIRE_RANGE_NONE: the next free one */
};

enum wire_range_outcome {
    WIRE_RANGE_GRANTED = 0,
    WIRE_RANGE_TAKEN = 1, /* pinned, and held by another owner */
    WIRE_RANGE_RETRY = 2, /* the arbiter does not answer now */
    WIRE_RANGE_EXHAUSTED = 3,
    WIRE_RANGE_SEALING = 4 /* pinned; its last owner is being sealed off, ask again */
};

struct wire_range_grant {
    uint64_t nonce;
    uint64_t owner; /* of the request */
    uint64_t range;
    uint32_t start;   /* position to begin at: > 0 when a sealed pinned range goes on */
    uint32_t outcome; /* enum wire_range_outcome */
    /* The owner in the arbiter. GRANTED: the gateway's token from now on, drawn by the arbiter for
     * a pinned range, else that of the request. TAKEN: another's. */
    uint64_t held_by;
};

struct wire_range_renew {
    uint64_t owner;
    uint64_t range;
};

struct wire_range_close {
    uint64_t owner;
    uint64_t range;
    uint32_t end; /* position: nothing at or above it was ever sent */
};

struct wire_ping {
    uint64_t nonce;
    uint64_t sent_ns; /* sender's clock, echoed */
};

#define WIRE_PONG_HEARS_LEADER 1
#define WIRE_PONG_AMNESIAC 2 /* its memory is lost and not yet recovered */
struct wire_pong {
    uint64_t nonce;
    uint64_t sent_ns;
    uint64_t process_token;           /* session 0: this, the cluster and what is echoed */
    uint64_t term;                    /* promised */
    uint64_t last_term, last_seq;     /* last epoch the sender could acknowledge */
    char cluster[WIRE_CLUSTER_BYTES]; /* session 0: as in HELLO */
};

/* An epoch's canonical bytes: this head, then `control_count` controls, then `interval_count`
 * intervals sorted by id. */
struct wire_epoch_head {
    uint64_t seq;  /* from 1 */
    uint64_t term; /* of creation */
    uint8_t previous_hash[32];
    uint64_t configuration_id;
    uint64_t logical_time_us;
    uint64_t digest_low, digest_high; /* sum of the bodies' digests of all intervals */
    uint8_t control_count;
    uint8_t interval_count;
};

enum wire_control_kind { WIRE_CONTROL_OPEN = 1, WIRE_CONTROL_SEAL = 2 };

struct wire_control {
    uint8_t kind;
    uint64_t range;
    uint64_t value; /* OPEN: owner token. SEAL: end position */
};

struct wire_interval {
    uint64_t first_id;
    uint16_t count; /* 1 .. epoch_cap */
};

#pragma pack(pop)

#define WIRE_SIZE(type, bytes) \
    static_assert(sizeof(struct type) == (bytes), #type " is " #bytes " bytes on the wire")
WIRE_SIZE(wire_packet_header, 24);
WIRE_SIZE(wire_frame_header, 4);
WIRE_SIZE(wire_hello, 68);
WIRE_SIZE(wire_body_header, 16);
WIRE_SIZE(wire_body_extension, 32);
WIRE_SIZE(wire_tx, 8);
WIRE_SIZE(wire_body, 16);
WIRE_SIZE(wire_vector, 64);
WIRE_SIZE(wire_vector_entry, 16);
WIRE_SIZE(wire_fetch, 12);
WIRE_SIZE(wire_gone, 8);
WIRE_SIZE(wire_not_yet, 8);
WIRE_SIZE(wire_prepare, 16);
WIRE_SIZE(wire_promise, 144);
WIRE_SIZE(wire_propose, 16);
WIRE_SIZE(wire_ack, 24);
WIRE_SIZE(wire_heartbeat, 32);
WIRE_SIZE(wire_epoch_fetch, 16);
WIRE_SIZE(wire_epoch_answer, 16);
WIRE_SIZE(wire_epoch_gone, 8);
WIRE_SIZE(wire_handover, 8);
WIRE_SIZE(wire_recover, 16);
WIRE_SIZE(wire_recovered, 152);
WIRE_SIZE(wire_result, 40);
WIRE_SIZE(wire_sealed, 16);
WIRE_SIZE(wire_not_owner, 20);
WIRE_SIZE(wire_tx_query, 20);
WIRE_SIZE(wire_tx_state, 20);
WIRE_SIZE(wire_range_request, 24);
WIRE_SIZE(wire_range_grant, 40);
WIRE_SIZE(wire_range_renew, 16);
WIRE_SIZE(wire_range_close, 20);
WIRE_SIZE(wire_ping, 16);
WIRE_SIZE(wire_pong, 64);
WIRE_SIZE(wire_epoch_head, 82);
WIRE_SIZE(wire_control, 17);
WIRE_SIZE(wire_interval, 10);
static_assert(sizeof(struct wire_epoch_head) +
                      WIRE_EPOCH_CONTROLS_MAX * sizeof(struct wire_control) +
                      WIRE_EPOCH_INTERVALS_MAX * sizeof(struct wire_interval) <=
                  WIRE_EPOCH_MAX_BYTES,
              "an epoch fits WIRE_EPOCH_MAX_BYTES");
static_assert(sizeof(struct wire_packet_header) + sizeof(struct wire_frame_header) +
                      sizeof(struct wire_propose) + WIRE_EPOCH_MAX_BYTES <=
                  WIRE_PACKET_MAX_BYTES,
              "a proposal fits one packet");
static_assert(sizeof(struct wire_packet_header) + sizeof(struct wire_frame_header) +
                      sizeof(struct wire_body) + WIRE_BODY_MAX_BYTES <=
                  WIRE_PACKET_MAX_BYTES,
              "a body fits one packet");
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the wire structs are read in place");

/* ---- packets ---- */

struct wire_frame {
    uint8_t kind; /* enum wire_kind, or a value this build does not know */
    uint8_t flags;
    uint16_t length_bytes;
    const uint8_t *payload; /* into the packet; unaligned: read it through the packed structs */
};

struct wire_cursor {
    const uint8_t *at, *end;
};

/* Checks the header and the checksum of `length_bytes` of packet. `seed`: configuration id, used
 * unless the packet's session is 0. Returns WIRE_DROP_NONE and sets *ret_header and *ret_cursor (at
 * the first frame), or SHORT, MAGIC, VERSION, CHECKSUM. */
enum wire_drop wire_packet_open(const void *packet, size_t length_bytes, uint64_t seed,
                                struct wire_packet_header *ret_header,
                                struct wire_cursor *ret_cursor);

/* Steps to the next frame. Returns 1 with *ret_frame set and its length allowed for its kind; 0 at
 * the end; and, with *ret_drop set, -1 when a frame must be skipped (FRAME_KIND, FRAME_LENGTH,
 * FRAME_VALUE: call again for the next) or when the rest of the packet is unusable (FRAME_LENGTH:
 * the next call returns 0). Values that do not depend on state (enums, positions, epochs by
 * wire_epoch_check, bodies by wire_body_check) are checked here. */
int wire_frame_next(struct wire_cursor *cursor, struct wire_frame *ret_frame,
                    enum wire_drop *ret_drop);

/* Checks a body's bytes: header, extension, total length. Returns WIRE_DROP_NONE, FRAME_LENGTH or
 * FRAME_VALUE. */
enum wire_drop wire_body_check(const void *body, size_t length_bytes);

/* Checks canonical epoch bytes: exact length, counts, known controls, intervals sorted by id, at
 * most one per range, none empty or over its range's end, at most WIRE_EPOCH_BODIES_MAX bodies, seq
 * >= 1. Same returns. */
enum wire_drop wire_epoch_check(const void *epoch, size_t length_bytes);

/* Length in bytes of an epoch that has these counts. */
static inline uint32_t wire_epoch_bytes(uint32_t control_count, uint32_t interval_count) {
    return (uint32_t)(sizeof(struct wire_epoch_head) + control_count * sizeof(struct wire_control) +
                      interval_count * sizeof(struct wire_interval));
}

/* The controls and the intervals of checked epoch bytes. */
static inline const struct wire_control *wire_epoch_controls(const void *epoch) {
    return (const struct wire_control *)((const uint8_t *)epoch + sizeof(struct wire_epoch_head));
}
static inline const struct wire_interval *wire_epoch_intervals(const void *epoch) {
    const struct wire_epoch_head *head = epoch;
    return (const struct wire_interval *)(wire_epoch_controls(epoch) + head->control_count);
}

struct wire_writer {
    uint8_t *bytes;
    uint32_t length_bytes, room_bytes;
};

/* Begins a packet in `bytes` (room_bytes >= 64, normally WIRE_PACKET_MAX_BYTES; the caller's until
 * the send). */
void wire_writer_begin(struct wire_writer *writer, void *bytes, uint32_t room_bytes, uint8_t stage,
                       uint32_t session);

/* Adds a frame with `length_bytes` of payload and returns where to write it (every byte of it), or
 * NULL when the packet has no room for it (then nothing changed: end this packet, begin another).
 */
void *wire_writer_frame(struct wire_writer *writer, enum wire_kind kind, uint8_t flags,
                        uint32_t length_bytes);

/* 1 when the packet holds no frame. */
static inline int wire_writer_empty(const struct wire_writer *writer) {
    return writer->length_bytes == sizeof(struct wire_packet_header);
}

/* Numbers and sums the packet; returns its length. `seed` is ignored for session 0. */
uint32_t wire_writer_end(struct wire_writer *writer, uint64_t packet_number, uint64_t seed);

/* ---- names ---- */

/* 32-bit id of a service or method name: FNV-1a. Two services of one deployment with equal ids are
 * refused at start. */
uint32_t wire_name_id(const char *name, size_t length_bytes);

/* One number for a service and a method: what a kept result was the answer to. */
static inline uint32_t wire_method_key(uint32_t service, uint32_t method) {
    return service * UINT32_C(16777619) ^ method;
}

/* "TX", ...; "?" for a kind this build does not know. */
const char *wire_kind_name(uint8_t kind);

/* Label of a drop reason. */
const char *wire_drop_label(enum wire_drop drop);

#endif
