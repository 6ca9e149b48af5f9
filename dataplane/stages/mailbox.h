/* mailbox: all that passes between the dataplane (lcores) and the control plane (one ordinary
 * thread).
 *
 *   dataplane --mailbox_up----> control plane      "do this for us": campaign, resign, grant a
 * range, fetch a snapshot dataplane <--mailbox_down-- control plane      facts: who owns the key,
 * won or lost, ranges granted, incarnations dataplane --status page---> control plane      counters
 * and positions, read any time, never written by it
 *
 * Messages are small values copied through two single-producer single-consumer rings: neither side
 * sees the other's memory. Threads: up is sent by the lcore that runs the gossip stage and received
 * by the control thread; down the other way round. A full ring returns MRN_ERR_FULL; requests are
 * repeated by whoever made them (every one is idempotent). After sending up, the dataplane writes
 * to `wake_fd` (an eventfd the control thread waits on). */
#ifndef MAROON_MAILBOX_H
#define MAROON_MAILBOX_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/wire.h"

#define MAILBOX_NODE_NONE 255
#define MAILBOX_PATH_MAX 256

enum mailbox_up_kind {
    MAILBOX_UP_CAMPAIGN = 1,   /* try to take the leader key if its revision is still `revision` */
    MAILBOX_UP_RESIGN,         /* delete the leader key if `revision` still holds our token */
    MAILBOX_UP_RANGE_REQUEST,  /* a gateway asks; answer with DOWN_RANGE_GRANT. `seq`: lowest range
                                  that may be granted (above every range known here), 0: any; of a
                                  pinned range: 1 + its end in the log, 0: not known, or
                                  MAILBOX_FLOOR_OPEN: it is open there */
    MAILBOX_UP_RANGE_RENEW,    /* a gateway is alive: renew range-leases/<range> */
    MAILBOX_UP_RANGE_CLOSE,    /* a gateway gives a range back at `end` */
    MAILBOX_UP_RANGE_CHECK,    /* the leader asks whether `owner` owns `range`; answer with
                                  DOWN_RANGE_CHECKED */
    MAILBOX_UP_RANGE_SEALED,   /* SEAL(range, end) of `owner` was executed here: record it in the
                                  arbiter */
    MAILBOX_UP_SNAPSHOT_READY, /* answer to DOWN_SNAPSHOT_TAKE: the file at `text` is complete and
                                  holds the state at epoch `seq`, or error < 0 */
    MAILBOX_UP_NEED_SNAPSHOT,  /* peers no longer keep what we lack: get a snapshot newer than `seq`
                                  from a peer */
    MAILBOX_UP_LEARNED,        /* answer to DOWN_LEARN: epochs up to `seq` are committed here */
    MAILBOX_UP_RESTORED,       /* answer to DOWN_SNAPSHOT_RESTORE; error < 0 when refused */
    MAILBOX_UP_DIFFERS,  /* executed differently: `peer`, or, MAILBOX_NODE_NONE, this node from a
                            quorum: it is quarantined from epoch `seq` on */
    MAILBOX_UP_TAKEOVER, /* the first epoch of a term led here is committed: `takeover` */
    MAILBOX_UP_EPOCH,    /* answer to DOWN_EPOCH_WANTED: mailbox_epoch is filled */
    MAILBOX_UP_REFUSED,  /* a HELLO, or a packet of another wire version, was refused: `drop`, from
                            `peer` in the role `end`, configuration ids (versions) `ours` and
                            `theirs`, `text`: where. A reason at most once a minute */
    MAILBOX_UP_FAILED    /* fail-stop: `text` says why; the process ends after logging it */
};

/* How the last take-over led here went, in us. Moments count from the last frame of the leader
 * before (from won, when none was ever heard); heard_at_us is that one's by CLOCK_MONOTONIC. */
struct mailbox_takeover {
    uint64_t term; /* 0: this process has led no term */
    uint64_t heard_at_us;
    uint64_t silent_us, alone_us, campaign_us, won_us, promised_us, established_us, committed_us;
    uint64_t paused_us; /* of them our own loop stood still */
    uint64_t slice_us, floor_us, rtt_us, etcd_us, gap_us,
        longest_gap_us; /* the slice, and what it follows from */
    uint8_t distance;
};

#define MAILBOX_FLOOR_OPEN UINT64_MAX

struct mailbox_up {
    enum mailbox_up_kind kind;
    int error;         /* enum mrn_error, where said */
    uint64_t revision; /* CAMPAIGN: last seen (0: key absent). RESIGN: of our key */
    uint64_t nonce, owner, range;
    uint32_t end; /* position */
    uint64_t seq;
    uint8_t peer;     /* NEED_SNAPSHOT: index of a node that has it, or MAILBOX_NODE_NONE */
    bool immediately; /* CAMPAIGN: hand-over */
    struct mailbox_takeover takeover;
    enum wire_drop drop;         /* REFUSED */
    uint64_t ours, theirs;       /* REFUSED */
    char text[MAILBOX_PATH_MAX]; /* path or reason */
};

enum mailbox_down_kind {
    MAILBOX_DOWN_LEADER_KEY =
        1, /* what the arbiter holds, told at start and at every change seen */
    MAILBOX_DOWN_CAMPAIGN_RESULT, /* outcome of our attempt */
    MAILBOX_DOWN_INCARNATIONS, /* registered per index, and which are in genesis; told at start and
                                  at changes */
    MAILBOX_DOWN_RANGE_GRANT,
    MAILBOX_DOWN_RANGE_CHECKED,
    MAILBOX_DOWN_RANGE_EXPIRED, /* the lease of `owner`'s `range` ended: SEAL when nobody heard it
                                   for seal_after */
    MAILBOX_DOWN_SNAPSHOT_TAKE, /* write a snapshot to `path` */
    MAILBOX_DOWN_DUMPED,        /* the newest complete dump is of epoch `revision` */
    MAILBOX_DOWN_LEARN, /* take the epochs at `path`, records (controlplane/dump/dump_stretch.h)
                          that `node` gave; the file stays the sender's */
    MAILBOX_DOWN_SNAPSHOT_RESTORE, /* load the snapshot at `path` */
    MAILBOX_DOWN_HANDOVER,         /* operator: move leadership away */
    MAILBOX_DOWN_EPOCH_WANTED,     /* fill mailbox_epoch with the newest executed epoch */
    MAILBOX_DOWN_ETCD_LATENCY,     /* smoothed duration of one arbiter transaction */
    MAILBOX_DOWN_STOP              /* graceful end: hand over if leader, then stop */
};

enum mailbox_campaign {
    MAILBOX_CAMPAIGN_WON = 1,
    MAILBOX_CAMPAIGN_LOST = 2,
    MAILBOX_CAMPAIGN_WON_LATE = 3 /* an earlier one, told lost; answers no CAMPAIGN */
};
/* An unknown outcome is never told: the control plane re-reads the key until it is one of the two.
 */

struct mailbox_down {
    enum mailbox_down_kind kind;
    enum mailbox_campaign campaign;
    bool ours;         /* LEADER_KEY: holds the token that this process drew */
    bool checked;      /* RANGE_CHECKED: owner does own range */
    uint8_t node;      /* LEADER_KEY: holder's index, or MAILBOX_NODE_NONE when the key is absent */
    uint64_t revision; /* LEADER_KEY, CAMPAIGN_RESULT: of the key */
    uint64_t term;     /* term_base + revision */
    uint64_t token;    /* CAMPAIGN_RESULT: drawn for the attempt */
    uint64_t nonce, owner, range;
    uint32_t start;                        /* RANGE_GRANT; RANGE_CHECKED: of an owner's holding */
    uint32_t outcome;                      /* RANGE_GRANT: enum wire_range_outcome */
    uint64_t held_by;                      /* RANGE_GRANT: GRANTED and TAKEN, as wire_range_grant */
    uint64_t etcd_latency_us;              /* ETCD_LATENCY */
    uint64_t incarnations[WIRE_NODES_MAX]; /* INCARNATIONS: newest per index, 0: none registered */
    uint64_t genesis[WIRE_NODES_MAX];      /* INCARNATIONS: listed in genesis per index, 0: none */
    char text[MAILBOX_PATH_MAX];
};

/* An epoch to publish, with how far each active range is executed at it. */
#define MAILBOX_EPOCH_RANGES_MAX 16384
struct mailbox_epoch {
    uint64_t seq; /* 0: none is executed yet */
    uint64_t term, logical_time_us;
    struct wire_hash hash, result_hash;
    uint32_t range_count;
    uint32_t listed; /* of them; fewer than range_count: there was no room */
    struct {
        uint64_t range;
        uint32_t executed; /* position */
    } ranges[MAILBOX_EPOCH_RANGES_MAX];
};

struct mailbox; /* two rings, and an eventfd for each side */

/* Takes `depth` messages of room each way (power of two). Returns NULL without memory. */
struct mailbox *mailbox_create(uint32_t depth);
void mailbox_destroy(struct mailbox *mailbox);

/* Dataplane side. Returns 0 or MRN_ERR_FULL. */
int mailbox_send_up(struct mailbox *mailbox, const struct mailbox_up *message);
/* Returns 1 with *ret_message set, or 0 when there is none. */
int mailbox_receive_down(struct mailbox *mailbox, struct mailbox_down *ret_message);
/* Around a sleep of the lcore that receives: in between, a message down makes mailbox_down_fd
 * readable. False from begin: one lies there already, do not sleep. `woken`: some descriptor ended
 * the sleep; then the wake-up is cleared. */
bool mailbox_sleep_begin(struct mailbox *mailbox);
void mailbox_sleep_end(struct mailbox *mailbox, bool woken);
int mailbox_down_fd(const struct mailbox *mailbox);

/* Control side. */
int mailbox_send_down(struct mailbox *mailbox, const struct mailbox_down *message);
int mailbox_receive_up(struct mailbox *mailbox, struct mailbox_up *ret_message);
/* Readable when the dataplane has sent; reading it is the receiver's job (mailbox_receive_up does
 * when empty). */
int mailbox_wake_fd(const struct mailbox *mailbox);

/* The dataplane's from DOWN_EPOCH_WANTED to UP_EPOCH, the control plane's otherwise (which asks for
 * one at a time): the rings order the accesses. */
struct mailbox_epoch *mailbox_epoch(struct mailbox *mailbox);

/* ---- the status page: written by the dataplane only, read by the control plane ----
 * Plain counters are relaxed atomics, each right by itself. Facts that belong together (`facts`)
 * are read by mailbox_facts_read, which retries while the writer is at work (sequence lock: Lameter
 * 2005, "Effective synchronization on Linux/NUMA systems"; release on the writer's second increment
 * pairs with the reader's acquire). */
enum mailbox_node_role {
    MAILBOX_ROLE_STARTING = 0,
    MAILBOX_ROLE_LEADER,
    MAILBOX_ROLE_FOLLOWER,
    MAILBOX_ROLE_LEARNER,
    MAILBOX_ROLE_RECOVERING,
    MAILBOX_ROLE_NEEDS_BOOTSTRAP,
    MAILBOX_ROLE_QUARANTINED,
    MAILBOX_ROLE_LOST
};

#define MAILBOX_FACTS_RANGES_MAX 64 /* ranges shown in /v1/status; the rest is counted */

struct mailbox_facts {
    enum mailbox_node_role role;
    uint8_t node_index, node_count, quorum, leader; /* leader: index or MAILBOX_NODE_NONE */
    uint8_t ring_position;
    uint64_t incarnation, term, commit_seq, exec_seq, last_seq, acknowledged_seq;
    uint64_t leader_revision;
    uint64_t logical_time_us;
    struct wire_hash commit_hash; /* hash of epoch commit_seq */
    struct wire_hash exec_hash;   /* of epoch exec_seq */
    struct wire_hash result_hash; /* chain at exec_seq */
    uint64_t state_hash_seq;      /* exec_seq that state_hash belongs to */
    struct wire_hash state_hash;
    uint64_t takeover_delay_us; /* what this node would wait before it tries */
    uint64_t slice_us;
    struct mailbox_takeover takeover;
    uint64_t quarantined_seq;                  /* 0: this node is not */
    uint8_t differing;                         /* bit per node whose results differ from ours */
    uint64_t peer_incarnation[WIRE_NODES_MAX]; /* newest that the replica has heard of */
    uint64_t peer_rtt_ns[WIRE_NODES_MAX];
    uint64_t peer_commit_seq[WIRE_NODES_MAX];
    uint64_t peer_silence_us[WIRE_NODES_MAX]; /* since its last frame; UINT64_MAX: never heard */
    uint32_t range_count, ranges_retired;
    struct {
        uint64_t range, owner;
        uint32_t received, committed, executed;
    } ranges[MAILBOX_FACTS_RANGES_MAX];
};

#define MAILBOX_HISTOGRAM_BUCKETS \
    64 /* bucket i counts values whose bit length is i (ns): upper bound 2^i - 1 */
struct mailbox_histogram {
    _Atomic uint64_t count, sum_ns;
    _Atomic uint64_t buckets[MAILBOX_HISTOGRAM_BUCKETS];
};

#define MAILBOX_LCORES_MAX 8
struct mailbox_status {
    _Atomic uint64_t epochs_committed, transactions_committed, transactions_executed, takeovers,
        divergence;
    _Atomic uint64_t fetch_requests, fetched_bodies, window_full, results_sent, results_resent;
    _Atomic uint64_t rx_packets[WIRE_STAGE_COUNT], tx_packets[WIRE_STAGE_COUNT];
    _Atomic uint64_t rx_dropped[WIRE_DROP_COUNT];
    /* log_bytes: used by what is kept; reserved: of all its files. floor_seq: up to there nobody
     * needs it; cut_seq: up to there it was cut since the start */
    _Atomic uint64_t log_reserved_bytes, log_floor_seq, log_cut_seq;
    _Atomic uint64_t log_bytes, log_epochs, body_slots_used, body_slots_total;
    _Atomic uint64_t idempotency_keys, idempotency_keys_max;
    _Atomic uint64_t
        lcore_busy_ppm[MAILBOX_LCORES_MAX]; /* share of the last second with work, in millionths */
    _Atomic uint64_t heartbeat_ns;          /* clock of the dataplane's last loop pass */
    struct mailbox_histogram epoch_latency, leader_gap, takeover_gap, log_sync;
    _Atomic uint32_t facts_sequence; /* odd while facts are written */
    struct mailbox_facts facts;
};

/* The page of this mailbox. */
struct mailbox_status *mailbox_status(struct mailbox *mailbox);
/* Dataplane, one thread: publishes new facts. */
void mailbox_facts_write(struct mailbox_status *status, const struct mailbox_facts *facts);
/* Control plane: a consistent copy. */
void mailbox_facts_read(const struct mailbox_status *status, struct mailbox_facts *ret_facts);

#endif
