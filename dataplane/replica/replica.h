/* replica: order, durability, leadership and recovery (protocol.md §2-§8) as one pure state
 * machine.
 *
 *   event (now, one fact) --replica_step--> actions (what the shell must do), in order
 *
 * Roles:
 *   learner --RECOVERED by n-k+1 answers--> follower --CAMPAIGN won--> preparing --k promises, log
 * adopted--> leader any --higher term--> follower          learner or follower --EPOCH_GONE, bodies
 * GONE--> needs bootstrap --RESTORED--> as before
 *
 * Vocabulary
 *   slot          number of a body's place in the shell's store; the replica never sees the bytes,
 * only the digest and the header's facts position      exclusive counter held          epoch whose
 * bodies are all here and satisfy its digest acknowledgeable  held, and it and all its bodies are
 * stable, as is everything before it matched       highest seq up to which our log is known equal
 * to that of promised_term's leader
 *
 * Purity: no clock, socket, thread, malloc, log, random source; memory comes from the caller; no
 * globals, many replicas live in one process. Undefined symbols are memcpy, memset, memmove,
 * memcmp, the assert failure and wire_* only. Threads: one replica belongs to one thread at a time.
 * Ownership: pointers in an event need to live until the step returns; pointers in actions live
 * until the next step. A body slot belongs to the replica from its BODY event until a FREE_SLOTS
 * action names it. Errors: none from replica_step. A protocol impossibility (a different epoch at
 * or below commit_seq) is a FAIL_STOP action.
 *
 * Hot path: BODY and FRAME events only record; TICK, once per loop pass, proposes, acknowledges,
 * delivers and drains bounded work.
 *
 * Stable storage (durable; the shell's part)
 *   While running: every APPEND_* goes to the journal in order, with its position; the record of an
 *   APPEND_EPOCH also holds the action's `seq`, the commit_seq known when it was appended. STABLE
 *   says up to where the journal is stable without a gap. Epochs and bodies leave the replica's
 *   memory when they are executed and a stable record notes them as committed, which does not wait
 *   for snapshots: they are in the journal until a complete snapshot covers them. A snapshot begins
 *   at an executed seq; when it is complete, the journal may drop what lies below the oldest record
 *   that at its *beginning* was one of: a body in a slot of the replica, an epoch above its seq,
 * not yet stable; and must go on knowing the newest promise below that. A snapshot from a peer is
 * complete and stable here before RESTORE_RANGE and RESTORED are stepped. At start, before the
 * first TICK:
 *     1. read the journal once: per range, up to which offset do its epochs name bodies, and which
 *        were dropped from memory later? Is there a promise? (no promise, and not in genesis:
 * `amnesiac`)
 *     2. replica_init; the newest complete snapshot by RESTORE_RANGE and RESTORED, if there is one;
 *     3. step the records in their order: REPLAY_PROMISE; REPLAY_COMMIT; REPLAY_EPOCH with the
 *        commit_seq that it holds; REPLAY_BODY of bodies below what their range's epochs name, each
 *        in a slot of its own as in a BODY event, but for those that a later DROP record says to
 *        have left memory (dataplane/stages/replay_plan.h): with them a replay may need more slots
 *        than there are. After each, DELIVER is executed at once, in order, and EXECUTED stepped,
 *        whose actions may DELIVER again, before the next record; FREE_SLOTS as always. So a replay
 *        needs no more epochs and slots than there were when the records were written. Results are
 *        kept, nobody is answered;
 *     4. REPLAY_END. What was appended since 2. has the first positions.
 *
 * Divergence (protocol.md §5): the chain of result hashes of EXECUTED travels in vectors. A replica
 * whose result differs from those of k others at one seq is quarantined until its process ends: it
 * delivers nothing more, neither leads nor campaigns, and asks for no RESULT_WANTED or TX_STATE; it
 * goes on storing and acknowledging while its log has room. The shell sees REPLICA_ROLE_QUARANTINED
 * in the facts, and from then on answers nobody, dumps nothing, serves no snapshot and takes none.
 *
 * Invariants (replica_check): I1 exec_seq <= delivered_seq <= commit_seq <= last_seq; commit_seq <=
 * matched for a follower. I2 base_seq <= exec_seq; epochs base_seq+1..last_seq form one hash chain.
 * I3 per range released <= executed <= committed <= logged, executed <= received. I4
 * acknowledged_seq <= held_seq <= last_seq. I5 promised_term >= term of the last epoch. I6 the
 * digest sums of held epochs match. I7 an OPEN of the log found its range not open, a SEAL open. I8
 * every range in use is found, once, and none ends below where it was retired. */
#ifndef MAROON_REPLICA_H
#define MAROON_REPLICA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/wire.h"

#define REPLICA_ACTIONS_MAX 2048 /* room every call of replica_step needs */
#define REPLICA_NODE_NONE 255
#define REPLICA_SLOT_NONE UINT32_MAX
#define REPLICA_RANGES_ALL UINT64_MAX /* APPEND_DROP: in all ranges, what no epoch so far names */

struct replica_config {
    uint8_t index, node_count, quorum; /* 2 * quorum > node_count */
    uint8_t ring[WIRE_NODES_MAX];      /* node index at each place of the ring (order of public key
                                          hashes) */
    bool durable;  /* durability = disk: acknowledge only what the journal made stable */
    bool amnesiac; /* incarnation not in genesis and no journal of it: learner until recovered */
    uint64_t incarnation; /* ours */
    uint64_t configuration_id;
    struct wire_hash genesis_hash; /* previous hash of epoch 1 */
    uint32_t epochs_in_flight;     /* W, 1..64 */
    uint32_t epoch_cap;            /* bodies per epoch, 1..WIRE_EPOCH_BODIES_MAX */
    uint32_t window;               /* offsets above committed that a gateway may send */
    uint32_t ranges_max;           /* ranges in use: open, or sealed and not yet retired; power of
                                      two */
    uint32_t retired_max; /* sealed ranges remembered, 16 bytes each; at least ranges_max */
    uint32_t log_epochs;  /* epochs kept in memory; power of two, >= 4 * epochs_in_flight */
    uint32_t body_slots;  /* slots of the shell's store */
    uint32_t deliver_max; /* epochs delivered and not yet executed */
    uint64_t heartbeat_interval_ns;
    uint64_t slice_floor_ns, slice_max_ns;
    uint64_t pass_interval_ns; /* the longest time between TICKs, but for replica_sleeps, unless the
                                  loop stands still; 0: they come at replica_next_deadline_ns */
    uint64_t vector_interval_ns, vector_idle_ns;
    uint64_t fetch_delay_ns; /* 0: two measured hops */
    uint64_t idle_epoch_ns;  /* an epoch at least this often; 0: never for its own sake */
    uint64_t seal_after_ns;
};

/* ---- events ---- */

enum replica_event_kind {
    REPLICA_EVENT_TICK = 1,        /* once per loop pass, after its other events */
    REPLICA_EVENT_BODY,            /* a body was stored in a slot */
    REPLICA_EVENT_FRAME,           /* a frame from another node, checked by wire_frame_next */
    REPLICA_EVENT_QUERY,           /* a gateway asks what became of an id */
    REPLICA_EVENT_STABLE,          /* everything appended below `position` is on stable storage */
    REPLICA_EVENT_EXECUTED,        /* the runtime has executed epoch `seq` */
    REPLICA_EVENT_LEADER_KEY,      /* what the arbiter holds; in the order of its changes, but a
                                      revision may be lower than one before: it was restored */
    REPLICA_EVENT_CAMPAIGN_RESULT, /* our attempt was won or lost */
    REPLICA_EVENT_INCARNATIONS,    /* newest registered incarnation per index */
    REPLICA_EVENT_ETCD_LATENCY,
    REPLICA_EVENT_RANGE_HELLO,   /* a gateway showed (range, owner); again at every renewal */
    REPLICA_EVENT_RANGE_CHECKED, /* the arbiter confirmed or denied (range, owner) */
    REPLICA_EVENT_RANGE_EXPIRED, /* the lease of (range, owner) ended in the arbiter, or it was
                                    closed at `end` */
    REPLICA_EVENT_HANDOVER,      /* operator: move leadership away */
    REPLICA_EVENT_RESTORE_RANGE, /* one range of a snapshot; before RESTORED */
    REPLICA_EVENT_RESTORED,      /* the runtime holds the snapshot of epoch `seq` */
    REPLICA_EVENT_LEARN, /* an epoch that a peer has executed, out of its journal; its bodies follow
                            as BODY. Taken (facts: commit_seq) when it is the next one and fits */
    REPLICA_EVENT_REPLAY_PROMISE, /* from the journal, in its order, before the first TICK */
    REPLICA_EVENT_REPLAY_EPOCH,
    REPLICA_EVENT_REPLAY_BODY,
    REPLICA_EVENT_REPLAY_COMMIT,
    REPLICA_EVENT_REPLAY_END
};

struct replica_event_body {
    uint64_t id;
    struct wire_digest digest;
    uint32_t slot;    /* the replica's from now on */
    uint32_t gateway; /* shell's handle of the gateway's session, given back in answers; unused when
                         from_peer */
    uint64_t owner;   /* of the gateway's session, or as the peer's BODY frame names it */
    uint16_t parts_following;
    uint8_t peer; /* node that sent it in answer to FETCH, or REPLICA_NODE_NONE: from its gateway */
};

struct replica_event_frame {
    uint8_t peer; /* index of the sending node */
    uint8_t kind, flags;
    uint16_t length_bytes;
    const uint8_t *payload;
    uint64_t incarnation; /* of the sender, by its session */
    uint64_t packet_number;
    uint8_t stage; /* endpoint it came in by */
};

struct replica_event_restored {
    uint64_t seq, term, logical_time_us;
    struct wire_hash hash, result_hash;
};

struct replica_event {
    enum replica_event_kind kind;
    uint64_t now_ns;  /* monotonic */
    uint64_t wall_us; /* since 1970; read by TICK and PREPARE only, may jump */
    union {
        struct replica_event_body body;
        struct replica_event_frame frame;
        struct {
            uint64_t id;
            uint64_t owner; /* whose transaction is meant, or his mark; 0: whoever's it is */
            uint32_t gateway, offset_bytes, length_bytes;
        } query;
        struct {
            uint64_t position;
        } stable;
        struct {
            uint64_t seq;
            struct wire_hash result_hash;
        } executed;
        struct {
            uint64_t revision, term;
            uint8_t node;
            bool ours;
        } leader_key; /* node: REPLICA_NODE_NONE when absent */
        struct {
            uint64_t revision, term, token;
            bool won;
            bool late; /* won: an attempt that was told lost. It answers no CAMPAIGN */
        } campaign;
        struct {
            uint64_t newest[WIRE_NODES_MAX];
        } incarnations;
        struct {
            uint64_t latency_ns;
        } etcd;
        struct {
            uint64_t range, owner;
            uint32_t gateway;
        } range_hello;
        struct {
            uint64_t range, owner;
            bool owned;
            uint32_t start; /* position at which the owner's holding begins in the arbiter */
        } range_checked;
        struct {
            uint64_t range, owner;
        } range_expired;
        struct {
            uint64_t range, owner;
            uint32_t position;
            bool open;
        } restore_range; /* open: false when sealed at position; `owner` may be its mark then */
        struct replica_event_restored restored;
        struct {
            const uint8_t *bytes; /* canonical, checked by wire_epoch_check */
            uint32_t length_bytes;
        } learn;
        struct {
            uint64_t term, token;
            uint8_t winner;
        } replay_promise;
        struct {
            const uint8_t *bytes;
            uint32_t length_bytes;
            uint64_t commit_seq; /* the record's, APPEND_EPOCH's `seq` */
        } replay_epoch;
        struct replica_event_body replay_body;
        struct {
            uint64_t commit_seq;
        } replay_commit;
    };
};

/* ---- actions ---- */

enum replica_action_kind {
    REPLICA_ACTION_SEND = 1,       /* a frame to a node */
    REPLICA_ACTION_SEND_BODY,      /* BODY frame to a node: id, owner, bytes from a slot */
    REPLICA_ACTION_APPEND_PROMISE, /* to the journal; only when durable */
    REPLICA_ACTION_APPEND_EPOCH,
    REPLICA_ACTION_APPEND_BODY,
    REPLICA_ACTION_APPEND_DROP,   /* the bodies of `range` from offset `end` on leave memory */
    REPLICA_ACTION_APPEND_COMMIT, /* everything up to `seq` is committed */
    REPLICA_ACTION_DELIVER, /* epoch `seq` is committed and held: execute it (replica_delivery lists
                               it) */
    REPLICA_ACTION_FREE_SLOTS,    /* slots[0 .. slot_count) are the caller's again */
    REPLICA_ACTION_RESULT_WANTED, /* the id is executed: send its result to the gateway */
    REPLICA_ACTION_TX_STATE,      /* answer to a QUERY */
    REPLICA_ACTION_SEALED,        /* answer to a body of a sealed range */
    REPLICA_ACTION_NOT_OWNER,
    REPLICA_ACTION_RANGE_PROGRESS, /* tell the range's gateway what is received and committed, and
                                      its window */
    REPLICA_ACTION_CAMPAIGN,      /* try to take the leader key; none before the last is answered */
    REPLICA_ACTION_RESIGN,        /* delete the leader key, if ours */
    REPLICA_ACTION_RANGE_CHECK,   /* ask the arbiter whether owner owns range */
    REPLICA_ACTION_RANGE_SEALED,  /* SEAL was executed: tell the arbiter */
    REPLICA_ACTION_NEED_SNAPSHOT, /* get a snapshot newer than `seq` from `peer` */
    REPLICA_ACTION_DROPPED, /* a body or frame was refused for this reason (its slot is freed by
                               FREE_SLOTS) */
    REPLICA_ACTION_FAIL_STOP
};

#define REPLICA_INLINE_MAX 160
#define REPLICA_SLOTS_MAX (REPLICA_INLINE_MAX / sizeof(uint32_t))

struct replica_action {
    enum replica_action_kind kind;
    uint8_t peer;  /* SEND, SEND_BODY, NEED_SNAPSHOT */
    uint8_t stage; /* SEND, SEND_BODY: endpoint, enum wire_stage */
    uint8_t frame_kind, frame_flags;
    uint32_t slot;             /* SEND_BODY, APPEND_BODY */
    uint32_t slot_count;       /* FREE_SLOTS */
    uint32_t gateway;          /* RESULT_WANTED, TX_STATE, SEALED, NOT_OWNER */
    uint64_t id;               /* body or transaction */
    uint64_t position;         /* APPEND_*: dense counter of journal records, from 0 */
    uint64_t seq, term, token; /* DELIVER: seq. APPEND_PROMISE: term, token, peer = winner.
                                  APPEND_EPOCH: seq = commit_seq, to be kept in the record;
                                  APPEND_COMMIT: seq */
    uint64_t revision;         /* CAMPAIGN, RESIGN */
    uint64_t range, owner;     /* RESULT_WANTED, TX_STATE: as the QUERY named him. SEALED: whose
                                  holding ended */
    uint32_t end;              /* SEALED, RANGE_SEALED: position. APPEND_DROP: offset */
    uint32_t received, committed, window; /* RANGE_PROGRESS */
    uint32_t offset_bytes, length_bytes;  /* RESULT_WANTED: of a QUERY */
    uint32_t outcome; /* TX_STATE: enum wire_tx_outcome. DROPPED: enum wire_drop. CAMPAIGN: 1 = at
                         once */
    uint16_t inline_bytes; /* SEND: length of `payload`, which `tail` follows */
    uint32_t tail_bytes;
    const uint8_t
        *tail;          /* SEND: rest of the frame; APPEND_EPOCH: the epoch. The replica's memory */
    const char *reason; /* FAIL_STOP */
    union {
        uint8_t payload[REPLICA_INLINE_MAX]; /* SEND: before `tail` */
        uint32_t slots[REPLICA_SLOTS_MAX];   /* FREE_SLOTS */
    };
};

/* Where a step puts its actions; the caller sets count = 0 before. */
struct replica_actions {
    uint32_t count;
    struct replica_action items[REPLICA_ACTIONS_MAX];
};

struct replica;

/* Bytes of memory that a replica of this config needs, or 0 when the config breaks a bound above.
 */
size_t replica_size(const struct replica_config *config);

/* Makes a replica in `memory` (replica_size bytes, aligned to 64). The config is copied. The memory
 * is the replica's until abandoned. */
struct replica *replica_init(void *memory, const struct replica_config *config, uint64_t now_ns);

/* Takes one event, appends at most REPLICA_ACTIONS_MAX actions. */
void replica_step(struct replica *replica, const struct replica_event *event,
                  struct replica_actions *actions);

/* ---- reading, between steps, from the replica's thread ---- */

struct replica_delivered_body {
    uint64_t id;
    uint32_t slot;
};

/* The epoch of a DELIVER action in execution order: *ret_epoch gets its canonical bytes (the
 * replica's memory, until it is released after EXECUTED), `bodies` (room for WIRE_EPOCH_BODIES_MAX)
 * the ordered bodies. Returns their number. */
uint32_t replica_delivery(const struct replica *replica, uint64_t seq, const uint8_t **ret_epoch,
                          uint32_t *ret_epoch_bytes, struct wire_hash *ret_hash,
                          struct replica_delivered_body *bodies);

enum replica_role {
    REPLICA_ROLE_LEARNER = 1,
    REPLICA_ROLE_FOLLOWER,
    REPLICA_ROLE_PREPARING,
    REPLICA_ROLE_LEADER,
    REPLICA_ROLE_NEEDS_BOOTSTRAP,
    REPLICA_ROLE_QUARANTINED,
    REPLICA_ROLE_STOPPED
};

struct replica_facts {
    enum replica_role role;
    uint8_t leader;        /* node that leads promised_term as far as known, or REPLICA_NODE_NONE */
    uint8_t ring_distance; /* from the last leader */
    bool hears_leader;
    uint64_t promised_term, leader_revision;
    uint64_t base_seq, last_seq, held_seq, acknowledged_seq, matched, commit_seq, delivered_seq,
        exec_seq;
    uint64_t last_term, logical_time_us;
    uint64_t exec_term;         /* term of creation of epoch exec_seq */
    struct wire_hash exec_hash; /* its hash; result_hash and logical_time_us belong to it too */
    struct wire_hash commit_hash, result_hash;
    uint64_t append_position, stable_position;
    uint64_t slice_ns, takeover_delay_ns;
    uint64_t peer_rtt_ns[WIRE_NODES_MAX], peer_heard_ns[WIRE_NODES_MAX]; /* 0: never */
    uint64_t peer_incarnation[WIRE_NODES_MAX]; /* newest that was heard of, by whomever */
    uint64_t peer_commit_seq[WIRE_NODES_MAX], peer_exec_seq[WIRE_NODES_MAX];
    uint32_t range_count, slots_used; /* ranges in use */
    uint32_t ranges_retired;
    bool ranges_full;     /* no further range can be opened: none should be granted */
    uint64_t range_floor; /* above every range known here, also retired ones */
    uint64_t epochs_committed, bodies_committed, takeovers, divergence, fetch_requests,
        fetched_bodies;
    uint64_t bodies_replaced; /* conflicting bodies put right by an epoch's digest */
    uint64_t
        quarantined_seq; /* an executed seq at which our result differs from k others'; 0: none */
    uint8_t differing;   /* bit per node: its result differed from ours */
    bool lost; /* so many memories are gone that no recovery can gather its answers (§7) */
};
void replica_facts(const struct replica *replica, struct replica_facts *ret_facts);

/* Of the facts, those that are asked for in every pass and at every answer. */
bool replica_leads(const struct replica *replica);
void replica_progress(const struct replica *replica, uint64_t *ret_commit_seq,
                      uint64_t *ret_exec_seq, uint64_t *ret_acknowledged_seq,
                      struct wire_hash *ret_result_hash);

/* The last take-over that led here, step by step, by the clock of the events; a step not taken is
 * 0. It is whole when committed_ns is set. */
struct replica_takeover {
    uint64_t term;
    uint64_t heard_ns;       /* last frame of the leader before; 0: none was ever heard */
    uint64_t silent_ns;      /* it had been silent for a slice; 0: not waited for (hand-over) */
    uint64_t alone_ns;       /* k nodes heard no leader, by their PONGs */
    uint64_t campaign_ns;    /* CAMPAIGN */
    uint64_t won_ns;         /* CAMPAIGN_RESULT */
    uint64_t promised_ns;    /* promises of k nodes */
    uint64_t established_ns; /* their best log is ours */
    uint64_t committed_ns;   /* first commit under the new term */
    uint64_t paused_ns;      /* of the time since heard_ns our own loop stood still */
    uint64_t slice_ns;       /* at CAMPAIGN; the greatest of these, within its bounds: */
    uint64_t floor_ns, rtt_ns, etcd_ns, gap_ns, longest_gap_ns;
    uint8_t distance; /* in the ring, from the leader before */
};
void replica_takeover(const struct replica *replica, struct replica_takeover *ret_takeover);

/* A few of the facts, cheap enough for every pass. */
struct replica_pace {
    uint64_t term, last_seq, commit_seq;
    uint64_t frame_ns; /* last frame of promised_term's leader, by a clock that stands still while
                          our own loop does; 0: none */
    uint64_t takeover_ns; /* committed_ns of the last take-over */
    bool leads;
};
void replica_pace(const struct replica *replica, struct replica_pace *ret_pace);

struct replica_range_facts {
    uint64_t range, owner;
    bool open, sealed;
    uint32_t received, logged, committed, executed;
};
/* The first range in use at or above *place, which is set behind it; start with 0. Returns false
 * when there is none. Order is arbitrary. */
bool replica_range_next(const struct replica *replica, uint32_t *place,
                        struct replica_range_facts *ret_range);

/* Was the range sealed for good, so that only its end is remembered? */
bool replica_range_retired(const struct replica *replica, uint64_t range, uint32_t *ret_end);

/* What the log says of a range: never opened as far as is known; open, or not ended for good; ended
 * at *ret_end, its SEAL executed. */
enum replica_range_life { REPLICA_RANGE_UNKNOWN, REPLICA_RANGE_OPEN, REPLICA_RANGE_ENDED };
enum replica_range_life replica_range_end(const struct replica *replica, uint64_t range,
                                          uint32_t *ret_end);

/* Canonical bytes of epoch `seq`, or NULL when it is not kept. */
const uint8_t *replica_epoch(const struct replica *replica, uint64_t seq, uint32_t *ret_bytes,
                             struct wire_hash *ret_hash);

/* Is a body under `id` taken now? Not while those of another owner are on their way out, in some
 * TICKs. */
bool replica_body_taken(const struct replica *replica, uint64_t id);

/* Slot and digest of the body under `id`; REPLICA_SLOT_NONE when it is not held. */
uint32_t replica_body(const struct replica *replica, uint64_t id, struct wire_digest *ret_digest);

/* When the next timer is due (monotonic ns): the shell may sleep until then when nothing arrives.
 */
uint64_t replica_next_deadline_ns(const struct replica *replica);

/* The shell is going to sleep until then, unless something comes: only what is later is a pause of
 * the loop. */
void replica_sleeps(struct replica *replica, uint64_t until_ns);

/* Checks the invariants above, O(state). Returns NULL, or the name of the one that is broken. For
 * tests and the simulator. */
const char *replica_check(const struct replica *replica);

#endif
