/* The dataplane's inside, shared by the files of this room.
 *
 *   gateways --> ingress --asks--> gossip (replica, journal) --orders--> execute (runtime)
 *      ^           ^  ^                |  ^      ^                          |   |
 *      |           |  '---answers------'  |      '-------done---------------'   |
 *      |           '----------------------+-----------results-------------------'
 *      '-- frames                         '--bodies, frames--> fetch --> nodes (gossip: its own
 * port)
 *
 *   stage.c    open, threads, the pass of a thread, close      link.c     messages between stages
 *   ingress.c  gateways: bodies in, answers and results out    fetch.c    nodes: missing bodies in
 * and out gossip.c   nodes: frames in and out; what comes of the replica's steps control.c  what
 * the control plane and the journal say to the replica execute.c  the runtime: epochs and results
 * state.c    its snapshots, and the start from disk port.c     an endpoint with its sessions
 * facts.c    the status page                            memory.c   what all of it takes
 *
 * Every stage is run by one thread and owns what its struct holds. Shared are: bodies' bytes (a
 * slot is written by the stage that took it, before it tells gossip, and read until gossip frees
 * it), the epochs' bytes that an order points to (the replica keeps them until they are executed),
 * and the atomics of struct stage. */
#ifndef MAROON_STAGE_INTERNAL_H
#define MAROON_STAGE_INTERNAL_H

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "dataplane/replica/replica.h"
#include "dataplane/stages/bodies.h"
#include "dataplane/stages/link.h"
#include "dataplane/stages/port.h"
#include "dataplane/stages/snapshots.h"
#include "dataplane/stages/stage.h"
#include "dataplane/stages/storage.h"
#include "proto/retired.h"
#include "runtime/runtime.h"
#include <maroon/error.h>

#define STAGE_THREADS_MAX 4
#define PASS_INTERVAL_NS 1000000u /* of the thread of gossip, unless it stands still */
#define STAGE_EXECUTE 3           /* after enum wire_stage's three: its bit in worker.stages */
#define SLOTS_AHEAD                                                               \
    1024 /* free slots that lie ready for a stage that takes bodies; power of two \
          */
#define RESULT_PIECE_BYTES 1344
#define PIECES_COUNT 256
#define RESULT_AHEAD_BYTES 65536 /* of a long result sent unasked */
#define RESULT_INLINE_BYTES 72
#define RANGE_CACHE 4096 /* range -> gateway, direct mapped */
#define GATEWAY_NONE UINT32_MAX

/* ---- messages ---- */

/* To gossip, of gateways and of bodies that came by fetch. */
enum ask_kind {
    ASK_BODY = 1,
    ASK_QUERY,
    ASK_RENEW,
    ASK_RANGE_REQUEST,
    ASK_RANGE_CLOSE,
    ASK_REFUSED /* the control plane should say it */
};

struct refused { /* a HELLO */
    struct net_address address;
    uint64_t theirs, ours; /* configuration ids */
    uint8_t drop, role, index, stage;
    char cluster[WIRE_CLUSTER_BYTES];
};

struct ask {
    uint32_t kind, gateway;
    union {
        struct replica_event_body body;
        struct wire_tx_query query;
        struct wire_range_renew renew;
        struct wire_range_request request;
        struct wire_range_close close;
        struct refused refused;
    };
};

/* A frame of the fetch port, either way. */
struct parcel {
    uint64_t incarnation, packet_number; /* received */
    uint16_t length_bytes;
    uint8_t peer, kind, flags;
    uint8_t payload[WIRE_PACKET_MAX_BYTES];
};

/* All but the payload. */
static inline void parcel_address(struct parcel *parcel, const struct net_received *received,
                                  const struct wire_frame *frame) {
    parcel->incarnation = received->peer->incarnation;
    parcel->packet_number = received->header.packet_number;
    parcel->length_bytes = frame->length_bytes;
    parcel->peer = received->peer->index;
    parcel->kind = frame->kind;
    parcel->flags = frame->flags;
}

/* To ingress, for a gateway. */
enum answer_kind { ANSWER_FRAME = 1, ANSWER_PROGRESS, ANSWER_GRANT, ANSWER_RESULT };
struct answer {
    uint8_t kind, frame_kind; /* FRAME: enum wire_kind */
    uint16_t length_bytes;    /* FRAME: of the payload. RESULT: of the piece */
    uint32_t gateway;         /* GATEWAY_NONE: whoever has the range (RESULT), the owner (GRANT) */
    union {
        uint8_t payload[40];
        struct wire_range_grant grant;
        struct {
            struct wire_vector vector;
            struct wire_vector_entry entry;
        } progress;
        struct {
            struct wire_result head;
            uint64_t owner; /* gateway is GATEWAY_NONE: whose it is */
            union {
                uint8_t bytes[RESULT_INLINE_BYTES];
                uint8_t *piece; /* of more: one of execute's, given back */
            };
        } result;
    };
};

/* To execute. The path of a SNAPSHOT ("": local) or RESTORE is the next one in `order_paths`: it
 * would make every epoch's message five cache lines longer. */
enum order_kind { ORDER_EPOCH = 1, ORDER_RESULT, ORDER_SNAPSHOT, ORDER_RESTORE, ORDER_CONTINUE };
struct order {
    uint32_t kind;
    union {
        uint32_t gateway;  /* RESULT */
        uint32_t delivery; /* EPOCH */
    };
    uint64_t seq; /* EPOCH: the rest is in stage.deliveries[delivery] */
    uint64_t id;  /* RESULT */
    uint32_t owner_mark, offset_bytes, length_bytes;
};

/* From execute. The path of a SNAPSHOT or RESTORE is the next one in `done_paths`. */
enum done_kind { DONE_EPOCH = 1, DONE_SNAPSHOT_BEGUN, DONE_SNAPSHOT, DONE_RESTORE, DONE_HASH };
struct done {
    uint32_t kind;
    int error;
    bool local;            /* SNAPSHOT */
    uint64_t seq;          /* of the epoch, the snapshot, the state */
    struct wire_hash hash; /* EPOCH: result hash. HASH: of the state */
};

struct path {
    char text[MAILBOX_PATH_MAX];
};

/* ---- stages ---- */

struct worker { /* a thread */
    struct stage *stage;
    struct link_thread link;
    pthread_t thread;
    uint32_t number, stages; /* bits of enum wire_stage and STAGE_EXECUTE */
    int cpu;                 /* -1: not pinned */
    uint64_t now_ns, now_us, wall_us, work;
    uint64_t wall_read_ns, wall_ahead_us; /* of the monotonic clock, modulo 2^64 */
    _Atomic uint64_t pass_ns;             /* now_ns, for other threads; 0: no pass yet */
    uint64_t busy_ns, loop_ns, shared_ns;
    uint64_t turn_ns; /* when it last let others have the core */
    uint32_t idle_passes;
    bool rests; /* had little work of late */
};

struct ingress {
    struct worker *worker;
    struct port port;
    uint32_t slots[64], slot_count;
    struct {
        uint64_t range;
        uint32_t gateway;
    } range_cache[RANGE_CACHE];
};

struct fetch {
    struct worker *worker;
    struct port port;
    uint32_t slots[64], slot_count;
};

/* Epochs of a peer's journal that are being taken, out of a mapped file. */
struct learn {
    const uint8_t *bytes; /* NULL: none */
    size_t count, at;
    uint64_t moved_ns; /* when something was taken last */
    uint8_t peer;
};

struct gossip {
    struct worker *worker;
    struct port port;
    struct replica *replica;
    void *replica_memory;
    struct replica_actions *actions;
    struct storage *storage; /* NULL in memory mode */
    uint64_t dumped_seq;     /* of the newest dump in the store; 0: none */
    uint64_t snapshot_mark;  /* what the journal keeps of the one being written */
    bool snapshot_asked;     /* a local one is under way */
    bool epoch_filled;       /* mailbox_epoch, and the control plane does not know it yet */
    uint64_t range_floor;    /* above every range known here */
    bool ranges_full;        /* none should be granted */
    uint32_t delivery;       /* last one given out */
    uint64_t facts_at_ns;
    struct {                      /* for the histograms, as of the last pass */
        uint64_t proposed_ns[64]; /* by seq modulo 64: W is at most that */
        uint64_t last_seq, commit_seq, term, heard_ns, takeover_ns;
        bool led;
    } pace;
    struct mailbox_facts facts;
    struct learn learn;
};

struct execute {
    struct worker *worker;
    struct runtime *runtime;
    struct runtime_body *bodies;
    struct snapshots *snapshots;
    bool snapshot_on, handed_over; /* the runtime is being copied; is gossip's until CONTINUE */
    struct {
        bool ordered; /* waits or is under way */
        struct path path;
    } snapshot, restore;
    uint64_t unfinished_seq; /* executed, and gossip does not know it yet; 0: none */
    bool put_off;            /* in the last pass, for what others wait for */
    struct runtime_snapshot_info restored;
    uint64_t hash_at_ns, hash_seq;
    uint8_t *result_buffer;
    uint8_t *pieces;
};

struct delivery {
    const uint8_t *epoch;
    struct wire_hash hash;
    uint32_t count;
    struct replica_delivered_body *bodies;
};

struct stage {
    struct stage_setup setup;
    struct worker workers[STAGE_THREADS_MAX];
    uint32_t worker_count;
    struct bodies bodies; /* slots: see above. The free list is gossip's */
    struct ingress ingress;
    struct gossip gossip;
    struct fetch fetch;
    struct execute execute;
    struct link asks, fetched, parcels_in, parcels_out, answers, results, orders, dones;
    struct link order_paths, done_paths;
    struct link ingress_slots, fetch_slots, free_pieces;
    struct delivery
        *deliveries; /* deliver_max, from the first again when none is under way: warm */
    struct mailbox_status *status;
    uint64_t rest_us; /* longest sleep at rest */
    _Atomic bool stop, failed, failed_told, leads, pressed;
    _Atomic uint64_t body_ns; /* when the last body came, to a millisecond */
    int failed_error;
    char failed_text[MAILBOX_PATH_MAX];
};

/* What of a replica's config is said by the keys; the rest is the identity's. memory.c */
void stage_replica_limits(const struct config *g, struct replica_config *ret_config);
void stage_runtime_limits(const struct config *g, struct runtime_config *ret_config);

/* Any stage: the node ends, and says why. The first one counts. */
void stage_fail(struct stage *s, int error, const char *text);

/* A body of the net into a slot: *ret_body is filled but for gateway and owner. False, counted at
 * `port`, when no slot is free or too much waits for the disk. `worker`: the caller's; the slot is
 * one of its `ready` ones, filled up from `slots`, unless gossip shares its thread. */
bool stage_take_body(struct stage *s, const struct worker *worker, struct port *port,
                     struct link *slots, uint32_t *ready, uint32_t *ready_count,
                     const struct wire_frame *frame, struct replica_event_body *ret_body);

/* Puts a HELLO that was refused at `port` and should be said into `link`, to gossip. */
void stage_refusals(struct port *port, enum wire_stage stage, uint64_t now_us, struct link *link);

/* The slot could not be given on: back to where it was taken. */
void stage_return_slot(struct stage *s, const struct worker *worker, uint32_t *ready,
                       uint32_t *ready_count, uint32_t slot);

uint32_t stage_ingress_poll(struct stage *s);
uint32_t stage_ingress_send(struct stage *s); /* answers and results; flushes */

uint32_t stage_fetch_poll(struct stage *s);
uint32_t stage_fetch_send(struct stage *s);

uint32_t stage_gossip_poll(struct stage *s);
void stage_step(struct stage *s, struct replica_event *event); /* and does what comes of it */
uint32_t stage_control_poll(struct stage *s);
void stage_refuse_range(struct stage *s, const struct wire_range_request *request); /* EXHAUSTED */
uint32_t stage_done_poll(struct stage *s);    /* what execute has done */
uint32_t stage_storage_poll(struct stage *s); /* what is stable; a snapshot when it is time */
void stage_ask_control(struct stage *s, const struct replica_action *a);
void stage_facts_poll(struct stage *s);
/* Each pass: how long epochs take from proposal to commit, and how long a leader is silent. */
void stage_facts_pace(struct stage *s);
void stage_facts_epoch(struct stage *s); /* fills mailbox_epoch */

uint32_t stage_execute_poll(struct stage *s);
void stage_execute_snapshot(struct stage *s); /* one was ordered: it waits, in place of another */
bool stage_execute_waits(const struct stage *s); /* something is left to do */
uint32_t stage_state_poll(struct stage *s);
void stage_done(struct stage *s, const struct done *done);
void stage_learn_begin(struct stage *s, uint8_t peer, const char *path);
uint32_t stage_learn_poll(struct stage *s);
void stage_learn_close(struct stage *s);
int stage_state_start(struct stage *s, const struct replica_config *config, char *ret_error);
void stage_tell_restored(struct stage *s); /* gossip, while the runtime is handed over */

static inline struct net_peer *stage_gateway(struct stage *s, uint32_t number) {
    struct net_sessions *sessions = s->ingress.port.sessions;
    if (number >= net_session_peer_max(sessions))
        return NULL;
    struct net_peer *peer = net_session_peer(sessions, number);
    return peer->role == WIRE_ROLE_GATEWAY ? peer : NULL;
}

#endif
