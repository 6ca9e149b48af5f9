/* The replica's inside: one struct, shared by the files of this room and nobody else.
 *
 *   ranges.c      ranges and their owners, progress to gateways
 *   query.c       what became of an id, for who asks
 *   bodies.c      bodies: where each is, which one is taken; how far a range is held
 *   room.c        dropping bodies that no epoch names
 *   retired.c     what is kept of ranges that are over, and giving back their places
 *   log.c         the epoch log: append, replace, held, acknowledgeable, deliver, release
 *   order.c       propose, take part, acknowledge, commit
 *   slice.c       how long a silence means no leader, whose turn it is then
 *   leadership.c  ring, campaign, prepare, promise, adoption, stepping down
 *   fetch.c       vectors, fetching and serving bodies and epochs
 *   recovery.c    amnesia, snapshots, replay of the journal
 *   divergence.c  results compared with peers', quarantine
 *   replica.c     size, init, step, reading
 *   check.c       the invariants */
#ifndef MAROON_REPLICA_INTERNAL_H
#define MAROON_REPLICA_INTERNAL_H

#include <assert.h>
#include <string.h>

#include "dataplane/replica/mutant.h"
#include "dataplane/replica/replica.h"
#include "proto/retired.h"

#define CHUNK_SHIFT 5
#define CHUNK_BODIES (1u << CHUNK_SHIFT)
#define INDEX_NONE UINT32_MAX

/* Work bounds of one TICK, so that its actions fit REPLICA_ACTIONS_MAX (asserted where they are
 * added). */
#define TICK_PROPOSALS_MAX 8   /* new epochs proposed */
#define TICK_REPEATS_MAX 8     /* proposals sent again, per peer */
#define TICK_RELEASES_MAX 256  /* body slots freed for another reason than their execution */
#define TICK_EXECUTED_MAX 8192 /* slots of executed bodies freed: more than a tick can bring */
#define TICK_PROGRESS_MAX 64   /* ranges told to their gateways */
#define TICK_FETCHES_MAX 32    /* FETCH frames */
#define SERVE_BODIES_MAX 256   /* bodies in answer to one FETCH */
#define SERVE_EPOCHS_MAX 32    /* epochs in answer to one EPOCH_FETCH */
#define VECTOR_ENTRIES_MAX 80
#define CONTROLS_WAITING_MAX 256

/* Timers that follow from measurements have these floors and ceilings. */
#define REPEAT_MIN_NS 50000u
#define RTT_INITIAL_NS 200000u
#define FETCH_WAIT_MIN_NS 200000u
#define FETCH_FAR_BODIES 4096u
#define VECTOR_FORCED_NS 50000000u /* a vector at least this often */
#define BUSY_BODIES 64u            /* new since the last vector: busy, not idle (protocol.md §3) */
#define ROTATE_NS 5000000u         /* the next ranges of the full vector */
#define ROTATE_RANGES 32
#define ROTATE_CALM 8u /* rounds without a new body, then every VECTOR_FORCED_NS does */
#define PING_CALM_NS 500000000u
#define GAP_WINDOW_NS 30000000000u
#define GAPS_KEPT 8  /* of a window, the longest: so many less one do not count */
#define LATE_LEAST 4 /* of a heartbeat interval: less is no pause of our own */
#define PEER_RECENT_NS 1000000000u
#define RECHECK_RANGE_NS 500000000u
#define DENIED_NS 1500000000u /* longer than a gateway waits between two renewals */
#define FAVOUR_SLICES 8u      /* greatest ones: so long all room is one range's */
#define FORSAKEN_SEALS 8      /* times seal_after: an open range is silent for so long */
#define NOTE_WAIT_NS 1000000u /* an epoch would have come by then, and noted the same */

struct chunk {    /* CHUNK_BODIES consecutive offsets of one range */
    uint64_t key; /* id >> CHUNK_SHIFT */
    uint32_t next_free;
    uint32_t used;
    uint32_t slot[CHUNK_BODIES];
    uint16_t parts[CHUNK_BODIES];
    struct wire_digest digest[CHUNK_BODIES];
};

enum range_state { RANGE_UNOPENED = 0, RANGE_OPEN, RANGE_SEALED }; /* as the log's tail has it */

struct range {
    uint64_t range;
    uint64_t executed_owner; /* by the last OPEN that was executed */
    uint64_t
        previous_owner;   /* whose holding ended at `open_at`, where that one began; 0: unknown */
    uint64_t owner;       /* by the log's last OPEN; 0 before */
    uint64_t hello_owner; /* who showed it to us; 0: nobody */
    uint64_t hello_ns;
    uint64_t fetch_at_ns, check_at_ns;
    uint64_t held_from; /* restoring: owner of the bodies above `logged`, as it was before */
    uint32_t gateway;   /* handle of hello_owner's session */
    uint32_t received;  /* position: bodies held without a gap */
    uint32_t complete;  /* position: end of the last whole transaction in them */
    uint32_t tx_end;    /* position: end of the transaction that holds `received` */
    uint32_t logged, committed, executed, released;
    uint32_t open_at;    /* position: end of previous_owner's holding */
    uint32_t highest;    /* position: above the highest body held */
    uint32_t named;      /* position: bodies below it are named by an epoch */
    uint32_t purge_from; /* purging: bodies from here on are of an owner that was sealed */
    uint32_t below_from, below_to; /* bodies below a restored snapshot, still to be freed */
    uint32_t fetch_first;          /* start of the fetch under way */
    uint32_t fetch_end;            /* position: end of the fetch under way */
    uint32_t hot_chunk;            /* chunk of the last access */
    bool waiting, vector_dirty, progress_dirty, behind; /* stands in the queue of this name */
    uint8_t gone_mask; /* peers that no longer keep what we fetch */
    uint8_t fetch_peer, fetch_tries;
    uint8_t state; /* enum range_state */
    bool in_use : 1;
    bool sealed_executed : 1; /* the SEAL was executed: final */
    bool open_waiting : 1, seal_waiting : 1;
    bool restored : 1;         /* named by the snapshot that is being restored */
    bool purging : 1;          /* until they are gone no body of the range is taken */
    bool drop_due : 1;         /* purging: the journal is to be told first */
    uint32_t denied_mark : 24; /* claims the range, and the arbiter said no: counts for nothing
                                  until check_at_ns. 0: nobody */
};
static_assert(sizeof(struct range) == 152, "one of many: docs/performance.md, row M2");

struct queue { /* of range places, each at most once (the place's flag says so) */
    uint32_t *items;
    uint32_t head, count, size;
};

struct before { /* of a control's range, for undoing it */
    uint64_t owner;
    uint8_t state;
};

struct epoch {
    uint64_t seq, term;
    uint64_t
        need_position; /* journal position that makes it and its bodies stable; set when held */
    uint64_t proposed_ns;
    struct wire_hash hash, result_hash;
    uint32_t length_bytes, body_count;
    uint32_t checked;  /* intervals known to be held */
    uint64_t wrong_at; /* repairing: bodies_changed when its digest was last found wrong */
    bool hash_known, executed, repairing;
    struct before before[WIRE_EPOCH_CONTROLS_MAX];
    uint8_t bytes[WIRE_EPOCH_MAX_BYTES];
};

struct aside { /* a proposal that came before its predecessor */
    uint64_t seq, term;
    uint32_t length_bytes;
    uint8_t bytes[WIRE_EPOCH_MAX_BYTES];
};

struct promise {
    bool given;
    uint64_t incarnation, last_term, last_seq, commit_seq, wall_us;
    struct wire_hash last_hash;
    uint64_t incarnations[WIRE_NODES_MAX];
};

struct answer { /* RECOVERED */
    bool given, leads;
    uint64_t promised_term, promised_token, last_term, last_seq, commit_seq;
    uint8_t promised_index;
    struct wire_hash last_hash;
};

struct peer {
    uint64_t incarnation; /* newest known; 0: none */
    uint64_t heard_ns, rtt_ns;
    uint64_t vector_packet, vector_ns, commit_seq, exec_seq, acknowledged_seq;
    /* leader's view */
    uint64_t acked, sent, repeat_at_ns, repeat_ns, answered_ns;
    bool again; /* it asked for the proposals above `sent`, acknowledged or not */
    /* candidate's view */
    uint64_t pong_ns, ping_ns, pong_term, pong_last_term, pong_last_seq;
    bool pong_hears_leader, pong_amnesiac;
    uint64_t result_seq;  /* to be compared when it is executed here; 0: none */
    uint64_t result_ns;   /* when it was heard */
    uint64_t differs_seq; /* it differed there */
    uint64_t differs_ns;  /* when it said so last */
    struct wire_hash differs_hash;
    struct wire_hash result_hash;
    struct promise promise;
    struct answer answer;
};

struct gaps {
    uint64_t longest_ns[GAPS_KEPT]; /* the longest first */
};

enum epoch_fetch_purpose { FETCH_NOTHING = 0, FETCH_LEARN, FETCH_ADOPT, FETCH_RECOVER };

struct epoch_fetch {
    enum epoch_fetch_purpose purpose;
    uint8_t peer;
    uint64_t to_seq; /* exclusive */
    uint64_t retry_at_ns;
    uint32_t tries;
};

struct replica {
    struct replica_config config;
    struct replica_actions *actions; /* of the step under way */
    uint64_t now_ns, wall_us;
    uint64_t due_ns; /* when the next pass is due; 0: within one */

    enum replica_role role;
    bool amnesiac, stopped;
    bool replaying; /* a record of the journal is being taken */
    bool loading;   /* durable: until REPLAY_END */

    /* promise */
    uint64_t promised_term, promised_token, promise_position;
    uint8_t promised_winner;
    bool promise_due; /* the winner waits for our PROMISE until it is stable */

    /* log */
    struct epoch *epochs;
    uint64_t base_seq, base_term, base_time_us;
    struct wire_hash base_hash, base_result_hash;
    uint64_t last_seq, held_seq, acked_seq, matched, commit_seq, delivered_seq, exec_seq;
    uint64_t learned_seq; /* of what was committed here not on its leader's word, the newest */
    uint64_t append_position, stable_position;
    /* commit_seq as epoch records note it: in a stable one, in the one that is waited for, in the
     * newest */
    uint64_t noted_stable, noted_waited, noted_waited_position, noted_newest, noted_newest_position;
    uint64_t noted_ns;                         /* when the newest was appended */
    uint32_t release_interval, release_offset; /* cursor in epoch base_seq + 1 */
    struct aside *asides;

    /* ranges and bodies */
    struct range *ranges;
    uint32_t *peers_received; /* of a range, node_count in a row: range_peers */
    uint32_t *range_index;
    uint32_t range_index_mask;
    uint32_t range_index_shift; /* of a 64-bit hash, so that the index is left */
    uint32_t range_places;      /* more than ranges_max by what the log may be ahead of retiring */
    uint32_t range_count;       /* places that were ever taken */
    uint32_t ranges_used, range_free; /* of them in use; first free one, INDEX_NONE: none */
    uint32_t retire_place;
    bool sealed_kept, sealed_kept_now; /* a sealed range waits for the release of its bodies */
    uint64_t range_floor;              /* above every range known here */
    struct retired *retired;
    uint32_t retired_count;
    struct queue waiting, vector_dirty, progress_dirty, behind;
    uint32_t rotate_place;
    struct chunk *chunks;
    uint32_t *chunk_index;
    uint32_t chunk_index_mask, chunk_count, chunk_free;
    uint32_t slots_used;
    uint64_t
        refused_ns; /* no place was left for a range's next body; 0: one was given back since */
    uint32_t favoured, favoured_at; /* range whose transaction, from there on, is to get whole */
    uint64_t favoured_until_ns;
    uint32_t purge_place; /* next range to look at for bodies to purge */

    /* leader */
    uint64_t own_first_seq; /* first epoch of our own term; 0: none yet */
    uint64_t next_heartbeat_ns, last_proposed_ns;
    uint64_t leader_time_us, leader_time_ns; /* logical clock, and when it was read */
    struct wire_control controls[CONTROLS_WAITING_MAX];
    uint32_t control_head, control_count;
    uint64_t progress; /* of adoption, for preparing heartbeats */
    /* leading: held_seq, named bodies that ever came, when either last grew or nothing lacked */
    uint64_t able_seq, able_bodies, able_ns;

    /* leadership */
    uint8_t leader;      /* who leads promised_term; REPLICA_NODE_NONE: not known */
    uint8_t last_leader; /* for ring distance */
    bool key_known, campaigning, key_ours, extra_waited;
    uint64_t key_revision, own_revision;
    uint64_t leader_heard_ns, preparing_progress;
    uint64_t last_frame_term, gap_window_ns;
    uint64_t deposed_gap_ns; /* silence of `deposed` when another term was promised */
    uint8_t deposed;         /* leader before, of whom nothing was heard since */
    uint64_t last_frame_ns;  /* less all that our own loop stood still until then: late_ns */
    uint64_t late_ns;
    struct gaps gaps_now, gaps_before; /* of this window and the last */
    uint64_t etcd_latency_ns, slice_ns, turn_ns;
    struct replica_takeover takeover;
    struct {
        uint64_t heard_ns, silent_ns, alone_ns, paused_ns;
    } silence;           /* of the leader, for the record of a take-over */
    uint64_t late_at_ns; /* when our own loop last went on after it had stood still */
    uint64_t stood_ns;   /* until then our own loop stood still for half a slice or more */
    uint64_t prepare_at_ns, prepare_ns, next_ping_ns, started_ns, won_ns, extra_until_ns;
    uint8_t adopt_source;
    uint64_t adopt_seq, adopt_wall_us;
    uint64_t adopt_from; /* the source keeps no epoch below; 0: not known */
    struct wire_hash adopt_hash;
    bool adopting;

    /* follower */
    bool ack_due, again_due;
    uint64_t gone_below, gone_term; /* the leader of that term keeps no epoch below */
    uint64_t ack_sent, again_at_ns;

    /* dissemination */
    uint64_t vector_ns, progress_ns, next_rotate_ns, forced_vector_ns, next_fetch_ns;
    uint64_t bodies_stored, bodies_at_vector, bodies_at_progress, bodies_at_rotate;
    uint32_t rotate_calm; /* rounds since a body came */
    bool vector_news;
    struct wire_vector_entry vector_entries[VECTOR_ENTRIES_MAX];
    struct epoch_fetch epoch_fetch;
    bool snapshot_wanted;
    uint64_t snapshot_at_ns;

    /* recovery */
    uint64_t recover_nonce, recover_at_ns, recover_seq;
    struct wire_hash recover_hash;
    uint64_t recover_term, recover_token;
    uint8_t recover_leader;
    bool recover_chosen;

    /* divergence */
    uint8_t differing;        /* bit per node */
    uint64_t quarantined_seq; /* 0: not quarantined */

    struct peer peers[WIRE_NODES_MAX];
    uint64_t epochs_committed, bodies_committed, takeovers, divergence, fetch_requests,
        fetched_bodies, bodies_replaced, bodies_changed;
};

/* ---- actions ---- */
struct replica_action *replica_action_new(struct replica *r, enum replica_action_kind kind);
/* A frame to node `peer`: `length` bytes of payload, then `tail` (the replica's memory). */
void replica_send_frame(struct replica *r, uint8_t peer, enum wire_kind kind, uint8_t flags,
                        const void *payload, size_t length, const void *tail, uint32_t tail_bytes);
void replica_dropped(struct replica *r, enum wire_drop reason);
void replica_fail_stop(struct replica *r, const char *reason);

/* ---- ranges.c ---- */
/* Where it stands in range_index, or would. Many times for each interval: Fibonacci hashing (Knuth
 * 6.4), since ranges are handed out one after the other. */
static inline uint32_t range_home(const struct replica *r, uint64_t range) {
    return (uint32_t)(range * UINT64_C(0x9e3779b97f4a7c15) >> r->range_index_shift);
}
static inline uint32_t range_probe(const struct replica *r, uint64_t range) {
    uint32_t at = range_home(r, range);
    while (r->range_index[at] != INDEX_NONE && r->ranges[r->range_index[at]].range != range)
        at = (at + 1) & r->range_index_mask;
    return at;
}
static inline struct range *replica_range_find(const struct replica *r, uint64_t range) {
    uint32_t place = r->range_index[range_probe(r, range)];
    return place == INDEX_NONE ? NULL : &r->ranges[place];
}
struct range *replica_range_get(struct replica *r,
                                uint64_t range); /* makes it; NULL when the table is full */
static inline uint32_t range_place(const struct replica *r, const struct range *g) {
    return (uint32_t)(g - r->ranges);
}
/* Positions that the peers say they hold up to, by index. */
static inline uint32_t *range_peers(const struct replica *r, const struct range *g) {
    return r->peers_received + (size_t)range_place(r, g) * r->config.node_count;
}
/* The same for an epoch of the log, which may take any place that is not the log's. */
struct range *replica_range_get_for_log(struct replica *r, uint64_t range);
void replica_range_drop(struct replica *r, struct range *g); /* its place is free from then on */
uint64_t replica_mix(uint64_t x);
static inline void replica_queue_push(struct queue *q, uint32_t place, bool *flag) {
    if (*flag)
        return;
    *flag = true;
    assert(q->count < q->size);
    uint32_t at = q->head + q->count++;
    q->items[at < q->size ? at : at - q->size] = place;
}
static inline uint32_t replica_queue_pop(struct queue *q) {
    assert(q->count > 0);
    uint32_t place = q->items[q->head];
    q->head = q->head + 1 == q->size ? 0 : q->head + 1;
    q->count--;
    return place;
}
uint64_t replica_range_word(const struct range *g);
/* Was `owner` the last one of this sealed range? */
bool replica_range_was_of(const struct range *g, uint64_t owner);
/* The arbiter said lately that it is not this one's. */
bool replica_range_denied(const struct replica *r, const struct range *g, uint64_t claimant);
/* To `owner`, whose holding ended at `end`. */
void replica_range_tell_sealed(struct replica *r, uint64_t range, uint64_t owner, uint32_t end,
                               uint32_t gateway);
void replica_range_tell_not_owner(struct replica *r, const struct range *g, uint64_t owner,
                                  uint64_t asker, uint32_t gateway);
void replica_range_hello(struct replica *r, uint64_t range, uint64_t owner, uint32_t gateway);
void replica_range_checked(struct replica *r, uint64_t range, uint64_t owner, bool owned,
                           uint32_t start);
void replica_range_expired(struct replica *r, uint64_t range, uint64_t owner);
void replica_ranges_tick(struct replica *r);
void replica_ranges_reset(struct replica *r);

/* ---- bodies.c ---- */
uint32_t replica_body_slot(struct replica *r, struct range *g, uint32_t offset,
                           struct wire_digest *ret_digest);
bool replica_body_parts(struct replica *r, struct range *g, uint32_t offset, uint16_t *ret_parts);
void replica_body_free(struct replica *r, struct range *g, uint32_t offset);
void replica_body_event(struct replica *r, const struct replica_event_body *body);
void replica_range_advance(struct replica *r, struct range *g);
void replica_range_mark(struct replica *r, struct range *g); /* its positions changed */
bool replica_interval_digest(struct replica *r, const struct wire_interval *interval,
                             struct wire_digest *sum);

/* ---- query.c ---- */

/* `owner` may be a mark, 0: whoever's it is. */
void replica_query(struct replica *r, uint64_t id, uint64_t owner, uint32_t gateway,
                   uint32_t offset_bytes, uint32_t length_bytes);
/* A gateway sent again what is executed: it wants the result, or holds the range no more. */
void replica_query_body(struct replica *r, const struct replica_event_body *body);

/* ---- room.c ---- */
/* Bodies above what the log names are not of the range's owner: drops them, over some TICKs. */
void replica_range_purge(struct replica *r, struct range *g);
uint32_t replica_slots_room(const struct replica *r); /* for bodies that no epoch names */
/* What is free is for another range for now. */
bool replica_room_is_others(const struct replica *r, const struct range *g);
void replica_room_tick(struct replica *r);

/* ---- retired.c ---- */
void replica_retired_reset(struct replica *r);
const struct retired *replica_retired_find(const struct replica *r, uint64_t range);
bool replica_retired_put(struct replica *r, uint64_t range, uint32_t end, uint32_t mark);
bool replica_range_retire(struct replica *r, struct range *g);
bool replica_range_make_room(struct replica *r, bool for_log);
bool replica_ranges_short(const struct replica *r);
bool replica_ranges_exhausted(const struct replica *r);
bool replica_range_openable(const struct replica *r, const struct range *g);

/* ---- log.c ---- */
bool replica_epoch_names(const struct epoch *e, uint64_t id);
static inline const struct wire_epoch_head *head_of(const struct epoch *e) {
    return (const struct wire_epoch_head *)e->bytes;
}
static inline struct epoch *epoch_at(const struct replica *r, uint64_t seq) {
    assert(seq > r->base_seq && seq <= r->last_seq);
    return &r->epochs[seq & (r->config.log_epochs - 1)];
}
const struct wire_hash *replica_log_hash(struct replica *r, uint64_t seq); /* base_seq..last_seq */
uint64_t replica_log_term(const struct replica *r, uint64_t seq);
uint64_t replica_log_time(const struct replica *r, uint64_t seq);
enum log_outcome { LOG_OK = 0, LOG_FULL, LOG_IMPOSSIBLE };
enum log_outcome replica_log_append(struct replica *r, const uint8_t *bytes, uint32_t length);
void replica_log_truncate(struct replica *r, uint64_t from_seq);
void replica_log_apply_above_base(
    struct replica *r);                      /* ranges, from the epochs kept above a snapshot */
void replica_log_advance(struct replica *r); /* held and acknowledgeable */
void replica_log_commit(struct replica *r, uint64_t seq);
void replica_log_executed(struct replica *r, uint64_t seq, const struct wire_hash *result);
void replica_log_tick(struct replica *r); /* deliver, release */
void replica_log_load(struct replica *r); /* the same, between records of the journal */
/* When the journal is to be told what is committed, for its own sake; UINT64_MAX: not at all. */
uint64_t replica_log_note_ns(const struct replica *r);
void replica_log_replay_commit(struct replica *r, uint64_t commit_seq);

/* ---- order.c ---- */
void replica_order_propose_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_order_heartbeat_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_order_ack_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_order_tick_leader(struct replica *r);
void replica_order_tick_follower(struct replica *r);
void replica_order_quorum(struct replica *r); /* commits what k replicas acknowledged */
bool replica_control_waiting(struct replica *r, uint8_t kind, uint64_t range, uint64_t value);

/* ---- leadership.c ---- */
void replica_lead_raise_promise(struct replica *r, uint64_t term, uint8_t winner, uint64_t token);
void replica_lead_step_down(struct replica *r);
void replica_lead_heard(struct replica *r, uint8_t peer, uint64_t term);
void replica_lead_prepare_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_lead_promise_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_lead_ping_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_lead_pong_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_lead_handover_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_lead_key(struct replica *r, uint64_t revision, uint64_t term, uint8_t node, bool ours);
void replica_lead_campaign_result(struct replica *r, uint64_t revision, uint64_t term,
                                  uint64_t token, bool won, bool late);
void replica_lead_handover(struct replica *r);
void replica_lead_tick(struct replica *r);
void replica_lead_adopted_epoch(struct replica *r, const uint8_t *bytes, uint32_t length);
void replica_lead_adoption_failed(struct replica *r);
uint8_t replica_lead_distance(const struct replica *r);
bool replica_lead_hears(const struct replica *r);

/* ---- slice.c ---- */
void replica_slice_pass(struct replica *r);
void replica_slice_pass_end(struct replica *r);
void replica_slice_update(struct replica *r);
void replica_slice_takeover(struct replica *r);
void replica_slice_deposed(struct replica *r);
void replica_slice_lives(struct replica *r, uint8_t peer);
/* So long after the leader's last frame this node tries. */
uint64_t replica_slice_delay_ns(const struct replica *r);

/* ---- fetch.c ---- */
void replica_fetch_vector_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_fetch_bodies_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_fetch_gone_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_fetch_not_yet_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_fetch_epochs_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_fetch_epoch_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_fetch_epoch_gone_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_fetch_want(struct replica *r, struct range *g, uint64_t at_ns);
void replica_fetch_epochs(struct replica *r, enum epoch_fetch_purpose purpose, uint8_t peer,
                          uint64_t to_seq);
void replica_fetch_tick(struct replica *r);
uint64_t replica_hop_ns(const struct replica *r);
uint64_t replica_fetch_wait_ns(const struct replica *r);
/* How long after the last one positions are told again, by the bodies that came since. */
uint64_t replica_vector_pause_ns(const struct replica *r, uint64_t bodies_then);

/* ---- divergence.c ---- */
void replica_divergence_vector(struct replica *r, uint8_t peer, uint64_t seq,
                               const struct wire_hash *result);
void replica_divergence_executed(struct replica *r);
static inline bool replica_quarantined(const struct replica *r) {
    return r->quarantined_seq != 0;
}

/* ---- recovery.c ---- */
void replica_recovery_recover_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_recovery_recovered_frame(struct replica *r, const struct replica_event_frame *frame);
void replica_recovery_epoch(struct replica *r, const uint8_t *bytes, uint32_t length);
void replica_recovery_failed(struct replica *r);
void replica_recovery_tick(struct replica *r);
void replica_recovery_want_snapshot(struct replica *r, uint8_t peer);
void replica_recovery_restore_range(struct replica *r, uint64_t range, uint64_t owner,
                                    uint32_t position, bool open);
bool replica_recovery_lost(const struct replica *r);
void replica_recovery_learn(struct replica *r, const uint8_t *bytes, uint32_t length);
void replica_recovery_restored(struct replica *r, const struct replica_event_restored *restored);
void replica_recovery_replay_epoch(struct replica *r, const uint8_t *bytes, uint32_t length,
                                   uint64_t commit_seq);
void replica_recovery_replay_end(struct replica *r);

static inline uint32_t peers_count(const struct replica *r) {
    return r->config.node_count;
}
static inline bool is_peer(const struct replica *r, uint32_t i) {
    return i < r->config.node_count && i != r->config.index;
}
static inline uint64_t min_u64(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}
static inline uint64_t max_u64(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}
static inline uint32_t min_u32(uint32_t a, uint32_t b) {
    return a < b ? a : b;
}
static inline uint32_t max_u32(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

#endif
