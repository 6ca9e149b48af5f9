/* net_sessions: who sends which packet. One table per endpoint.
 *
 * Vocabulary
 *   session    the random number a sender's packets carry, introduced by HELLO (proto/wire.h)
 *   peer       a record of this table: a node (fixed, by configured address) or a gateway (comes
 *              with its HELLO, leaves when silent and its place is needed)
 *
 *   node:     configured --HELLO from it--> known --newer incarnation or process--> known (session
 *             replaced, generation + 1)
 *   gateway:  free --HELLO--> known --silent for gateway_timeout and the table is full--> free
 *   ours:     unknown to the peer --its HELLO names our session--> known --HELLO that does not-->
 * unknown
 *
 *   strangers: a PING of session 0 is answered by a PONG that says our process token and nothing
 *              else, whoever asks: a node that starts finds out so whether another process lives
 *              under its index (probe.h)
 *
 * Use, per received packet:  net_session_receive, then wire_frame_next on ret.cursor.
 * Per packet to send:        net_session_may_send, net_session_packet_begin, wire_writer_frame ...,
 *                            net_session_packet_end, net_tx.
 * Per poll, before net_tx of data: net_session_hello_next until false (or net_sessions_flush).
 *
 * Pure: no clock, malloc, log, DPDK. Threads: the lcore of the endpoint. Ownership: memory is the
 * caller's; a peer pointer stays valid for the life of the table, but when its `generation` changes
 * it is somebody else (or another process of the same node), and `user` and `user_tag` are 0 again.
 * Invariants (net_sessions_check): I1 every known session finds its peer  I2 list of gateways is
 * ordered by heard_us  I3 known + free = capacity. */
#ifndef MAROON_NET_SESSION_H
#define MAROON_NET_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dataplane/net/address.h"
#include "proto/wire.h"

#define NET_SESSIONS_DEFAULT_COUNT 2048
#define NET_INDEX_UNKNOWN 255 /* of a node whose HELLO has not come yet */
#define NET_HELLO_MIN_US 10000
#define NET_HELLO_MAX_US 1000000
#define NET_GATEWAY_TIMEOUT_DEFAULT_US 30000000
#define NET_HELLO_PACKET_BYTES                                              \
    (sizeof(struct wire_packet_header) + sizeof(struct wire_frame_header) + \
     sizeof(struct wire_hello))

struct net_session_config {
    uint32_t session;                 /* own; random, not 0, drawn by the caller at start */
    uint8_t role;                     /* own: enum wire_role */
    uint8_t index;                    /* own, of a node; gateway: 0 */
    uint8_t stage;                    /* of the endpoint: enum wire_stage; gateway: 0 */
    uint64_t incarnation;             /* node: of its store; gateway: its owner token */
    uint64_t process_token;           /* random */
    uint64_t configuration_id;        /* gateway: 0, learned from the first node */
    char cluster[WIRE_CLUSTER_BYTES]; /* node: as wire_hello says */
    uint64_t ranges[2];               /* gateway: held now and next; else WIRE_RANGE_NONE */
    uint32_t capacity;                /* gateways at once; 0: NET_SESSIONS_DEFAULT_COUNT */
    uint64_t gateway_timeout_us;      /* 0: NET_GATEWAY_TIMEOUT_DEFAULT_US */
};

struct net_peer {
    struct net_address address; /* packets to the peer go here */
    uint32_t session;           /* theirs; 0: no HELLO yet */
    uint8_t role;               /* enum wire_role; 0: record is free */
    uint8_t index;              /* node: its index, or NET_INDEX_UNKNOWN */
    uint8_t stage;              /* of the peer's endpoint */
    bool knows_us;              /* its last HELLO named our session */
    uint32_t generation;        /* + 1 whenever the record stands for another process */
    uint64_t incarnation;       /* gateway: its owner token */
    uint64_t process_token;
    uint64_t ranges[2];
    uint64_t heard_us; /* last good packet; 0: never */

    void *user; /* the stage's; 0 whenever generation changes */
    uint64_t user_tag;

    uint64_t hello_at_us; /* private from here */
    uint32_t hello_delay_us;
    uint32_t older, newer; /* gateways by heard_us; free list */
};

struct net_sessions;

/* The last HELLO, or packet of another wire version, that was refused, for the log line. */
struct net_session_refusal {
    enum wire_drop drop; /* WIRE_DROP_NONE: none yet */
    uint64_t count;      /* refusals until now, of all reasons */
    struct net_address address;
    struct wire_hello hello; /* VERSION: only configuration_id, which is the packet's version */
    uint64_t own_configuration_id; /* VERSION: ours */
};

/* Bytes of memory for the table; 64-byte alignment asked. */
size_t net_sessions_size(uint32_t capacity);

/* Makes the table in `memory`. Asserts on a config that the caller must have checked: session and
 * role not 0, a node's index < WIRE_NODES_MAX, configuration_id of a node not 0. */
struct net_sessions *net_sessions_init(void *memory, const struct net_session_config *config);

/* A node to speak to, at its endpoint of the stage this table speaks with. `index`: known to nodes;
 * a gateway may say NET_INDEX_UNKNOWN. Returns its record (never evicted), or NULL when
 * WIRE_NODES_MAX are there or the address is there already. HELLOs go to it until it knows us. */
struct net_peer *net_session_add_node(struct net_sessions *sessions, uint8_t index,
                                      struct net_address address);

/* Own facts that change while running: a gateway's owner token (with it the session, random and not
 * 0: an older HELLO that comes late does not bring the old token back) and its ranges, told to all
 * nodes at once; and the configuration id (all sessions are forgotten and introduced again). */
void net_session_set_owner(struct net_sessions *sessions, uint32_t session, uint64_t owner);
void net_session_set_ranges(struct net_sessions *sessions, const uint64_t ranges[2]);
void net_session_set_configuration(struct net_sessions *sessions, uint64_t configuration_id);

struct net_received {
    struct net_peer *peer; /* NULL: a PING of session 0 only, no frame follows */
    struct wire_packet_header header;
    struct wire_cursor cursor; /* at the first frame; at the end in session 0 */
    bool hello;                /* the packet was of session 0: *peer may be new or changed */
};

/* Opens a packet, finds its sender, handles HELLO and the PING of strangers. Returns WIRE_DROP_NONE
 * and fills *ret_received; or a reason (counted here: SHORT, MAGIC, VERSION, CHECKSUM, SESSION_*,
 * HELLO_ONLY, CONFIGURATION, INCARNATION_OLD, FRAME_*). An unknown session is answered by HELLO, so
 * is a gateway refused for CONFIGURATION (it learns our id), and a PING of session 0 by PONG: one
 * address at most every NET_HELLO_MIN_US. O(1). */
enum wire_drop net_session_receive(struct net_sessions *sessions, const void *packet,
                                   size_t length_bytes, struct net_address source, uint64_t now_us,
                                   struct net_received *ret_received);

/* Whether data may go to the peer: the configuration id is known. When the peer does not know our
 * session yet, a HELLO is queued for it (10 ms .. 1 s apart) and data behind it is worth sending.
 */
bool net_session_may_send(struct net_sessions *sessions, struct net_peer *peer, uint64_t now_us);

/* A packet to the peer: begin as wire_writer_begin, end as wire_writer_end with the next packet
 * number (returns the length in bytes). */
void net_session_packet_begin(struct net_sessions *sessions, const struct net_peer *peer,
                              struct wire_writer *writer, void *bytes, uint32_t room_bytes);
uint32_t net_session_packet_end(struct net_sessions *sessions, struct wire_writer *writer);

/* The next HELLO (or PONG of session 0) that is due: writes the packet (room:
 * NET_HELLO_PACKET_BYTES) and its address, returns true; false when none is due. Bounded: at most
 * 64 answers and the nodes. */
bool net_session_hello_next(struct net_sessions *sessions, uint64_t now_us, void *bytes,
                            uint32_t *ret_length_bytes, struct net_address *ret_address);

/* Lookups. The node's record by index (NULL: none with that index); the n-th added node; records by
 * number 0 .. net_session_peer_max-1, free ones included (role 0), e.g. to keep an array beside the
 * table. */
struct net_peer *net_session_node(struct net_sessions *sessions, uint8_t index);
uint32_t net_session_peer_max(const struct net_sessions *sessions);
struct net_peer *net_session_peer(struct net_sessions *sessions, uint32_t number);
uint32_t net_session_number(const struct net_sessions *sessions, const struct net_peer *peer);
uint64_t net_session_configuration(const struct net_sessions *sessions); /* 0: not known yet */

/* Counters by enum wire_drop (WIRE_DROP_COUNT of them), and the last refusal. */
const uint64_t *net_session_drops(const struct net_sessions *sessions);
const struct net_session_refusal *net_session_last_refusal(const struct net_sessions *sessions);

/* Asserts the invariants. O(capacity): tests only. */
void net_sessions_check(const struct net_sessions *sessions);

#endif
