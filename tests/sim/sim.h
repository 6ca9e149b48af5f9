/* sim: a cluster in one process and in virtual time, to prove the replica wrong (protocol.md §10).
 *
 *   seed --sim_config_draw--> config --sim_run--> faults and load --heal--> quiet: all answered?
 *
 * Every node is the unchanged dataplane/replica with a small shell around it (sim_node.c): body
 * store, journal, deterministic runtime, control plane. Gateways follow protocol.md §8. Checkers
 * (sim_check.c) look on from outside after every step; the first violation ends the run.
 *
 *   sim.c          event queue, run, fault schedule     sim_arbiter.c  arbiter and control planes
 *   sim_node.c     the shell around a replica           sim_gateway.c  clients
 *   sim_network.c  packets between endpoints            sim_runtime.c  bank and registers
 *   sim_journal.c  stable storage                       sim_check.c    protocol.md §10
 *   sim_config.c   what a seed means                    sim_trace.c    readable lines
 *   sim_replay.c   a journal at start                   sim_stretch.c  a peer's journal
 *   sim_main.c     seeds, jobs, replay, shrinking
 *
 * Determinism: all chance is from `random` streams, all time from `now_ns`; no addresses, clocks or
 * hash orders of the host decide anything. One sim belongs to one thread. */
#ifndef MAROON_SIM_H
#define MAROON_SIM_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "dataplane/replica/mutant.h"
#include "dataplane/replica/replica.h"
#include "gateway/core/gateway_core.h"
#include "proto/wire.h"
#include "tests/sim/sim_map.h"
#include "tests/sim/sim_random.h"

#define SIM_GATEWAYS_MAX 8
#define SIM_ENDPOINTS (WIRE_NODES_MAX + SIM_GATEWAYS_MAX)
#define SIM_RANGES_MAX 128
#define SIM_RESULTS_KEPT 64 /* unanswered offsets a gateway may span */
#define SIM_ACCOUNTS 16
#define SIM_REGISTERS 8
#define SIM_OPENING_BALANCE 1000
#define SIM_BODY_BYTES_MAX WIRE_BODY_MAX_BYTES
#define SIM_MS UINT64_C(1000000)
#define SIM_SECOND UINT64_C(1000000000)
#define SIM_NEVER UINT64_MAX
#define SIM_AGAIN_MAX 4
#define SIM_TERMS 512 /* at least log_epochs */
/* Seeds from these on are of another kind (sim_config.c): rough; gateways die all the time, odd
 * ones are rough too; rough, and memories are lost during take-overs; rough, and leaders are cut
 * off and come back; promises of dead processes; bodies that go with who promised them; slots that
 * epochs in flight fill to the last; one range, three gateways. */
#define SIM_SEED_ROUGH UINT64_C(1000000000)
#define SIM_SEED_CHURN UINT64_C(2000000000)
#define SIM_SEED_AMNESIA UINT64_C(3000000000)
#define SIM_SEED_RETURN UINT64_C(4000000000)
#define SIM_SEED_DEAD UINT64_C(5000000000)
#define SIM_SEED_GONE UINT64_C(6000000000)
#define SIM_SEED_FULL UINT64_C(7000000000)
#define SIM_SEED_CONTEST UINT64_C(8000000000)

enum sim_fault {
#define SIM_FAULT(name, word, sentence) SIM_FAULT_##name,
#include "tests/sim/sim_faults.def"
#undef SIM_FAULT
    SIM_FAULT_COUNT
};
#define SIM_FAULTS_FIRST SIM_FAULT_ROT

enum sim_tally { /* sim_tally.def */
#define SIM_TALLY(name, sentence) SIM_TALLY_##name,
#include "tests/sim/sim_tally.def"
#undef SIM_TALLY
                 SIM_TALLY_COUNT
};
#define SIM_COUNT(sim, name) ((sim)->tally[SIM_TALLY_##name]++)

/* Streams of chance after the fault classes' own. */
enum sim_stream {
    SIM_STREAM_CONFIG = SIM_FAULT_COUNT,
    SIM_STREAM_NETWORK,
    SIM_STREAM_NODE,
    SIM_STREAM_DISK,
    SIM_STREAM_ARBITER,
    SIM_STREAM_GATEWAY,
    SIM_STREAM_COUNT
};

/* What a seed means; sim_config_draw fills it, the command line may override. */
struct sim_config {
    struct replica_config replica; /* index, incarnation and amnesiac are set per node */
    uint32_t faults;               /* mask of enum sim_fault */
    uint32_t gateways;             /* at the start */
    uint32_t listed;               /* nodes in genesis, >= quorum */
    uint64_t fault_ns;             /* length of the phase with faults */
    uint64_t quiet_ns;             /* bound of the phase without */
    uint64_t fault_gap_ns;         /* mean time between faults of one class */
    uint64_t hop_ns, hop_spread_ns;
    uint32_t loss_ppm, duplicate_ppm, late_ppm, corrupt_ppm;
    uint64_t late_ns;
    uint64_t sync_ns, sync_slow_ns;
    uint64_t execute_ns, execute_slow_ns;
    uint64_t arbiter_ns;
    uint64_t lease_ns;       /* of the leader key */
    uint64_t range_lease_ns; /* of a gateway's range */
    bool core; /* gateways run gateway/core; else sim_gateway.c's own, in short times */
    uint64_t term_base;
    uint64_t poll_ns;            /* between an arrival and the pass that sees it, at most */
    uint32_t burst;              /* items per pass */
    uint64_t transaction_gap_ns; /* mean, per gateway */
    uint32_t parts_max, body_bytes_max;
    bool whole;               /* every transaction fills an epoch */
    bool contested;           /* all gateways want one range */
    uint32_t check_every;     /* steps between runs of replica_check */
    uint64_t snapshot_epochs; /* between snapshots of a node; 0: none */
    uint64_t snapshot_ns;     /* to write one */
};

/* ---- events ---- */

enum sim_event_kind {
    SIM_EVENT_PASS = 1, /* a node's loop */
    SIM_EVENT_START,    /* a node's process */
    SIM_EVENT_ARRIVE,   /* a packet */
    SIM_EVENT_SYNC,     /* a write of the journal is stable */
    SIM_EVENT_WRITTEN,  /* a snapshot is complete */
    SIM_EVENT_EXECUTE,
    SIM_EVENT_SNAPSHOT, /* from a peer */
    SIM_EVENT_STRETCH,  /* the same */
    SIM_EVENT_CONTROL,  /* a control plane's timer */
    SIM_EVENT_REQUEST,  /* at the arbiter */
    SIM_EVENT_ANSWER,   /* of the arbiter, or a change it tells */
    SIM_EVENT_LEASES,   /* the arbiter looks after its leases */
    SIM_EVENT_GATEWAY,
    SIM_EVENT_FAULT,
    SIM_EVENT_HEAL
};

struct sim_event {
    uint64_t at_ns, order;
    enum sim_event_kind kind;
    uint32_t life; /* of the target's process; events of an earlier one are dropped */
    uint64_t number;
    void *data; /* malloc'ed, the event's */
    uint8_t target;
};

/* ---- runtime ---- */

enum sim_operation { SIM_TRANSFER = 1, SIM_READ, SIM_WRITE };

struct sim_payload {    /* after the body header; the rest of the body is padding */
    uint64_t operation; /* unique per work of a client; the same again only after SEALED */
    uint8_t kind, from, to, part;
    uint32_t amount;
};

enum sim_code {
    SIM_CODE_OK = 0,
    SIM_CODE_MALFORMED = 3,
    SIM_CODE_REFUSED = 9,
    SIM_CODE_PART = 99 /* not the first part: has no result of its own */
};

struct sim_result {
    uint64_t id, seq, logical_time_us, operation;
    int64_t value;
    uint32_t code;
};

struct sim_runtime_range {
    uint64_t range, owner;
    uint32_t position, low_water;
    uint32_t retired; /* position of the last SEAL: results below it were dropped */
    bool open;
    struct sim_result results[SIM_RESULTS_KEPT];
};

struct sim_runtime {
    uint64_t exec_seq, term, logical_time_us;
    struct wire_hash epoch_hash;
    uint64_t chain[4]; /* over everything executed and its results */
    int64_t balances[SIM_ACCOUNTS];
    uint64_t registers[SIM_REGISTERS];
    uint32_t range_count;
    struct sim_runtime_range
        ranges[SIM_RANGES_MAX]; /* only range_count are in use, also in copies */
};

struct sim_body {
    uint64_t id;
    const uint8_t *bytes;
    uint32_t length_bytes;
};

typedef void sim_runtime_fn(void *context, const struct sim_result *result,
                            const struct sim_body *body);

void sim_runtime_init(struct sim_runtime *runtime, const struct wire_hash *genesis);
/* Executes an epoch whose ordered bodies are given; calls `each` for every transaction. */
void sim_runtime_execute(struct sim_runtime *runtime, const uint8_t *epoch,
                         const struct wire_hash *hash, const struct sim_body *bodies,
                         uint32_t count, sim_runtime_fn *each, void *context);
struct sim_runtime_range *sim_runtime_range(struct sim_runtime *runtime, uint64_t range);
/* The kept result of an id, or NULL. */
const struct sim_result *sim_runtime_result(const struct sim_runtime *runtime, uint64_t id);
/* Executes a body of one part a second time: only for a mutant. */
void sim_runtime_again(struct sim_runtime *runtime, const uint8_t *bytes);
struct wire_hash sim_runtime_hash(const struct sim_runtime *runtime);
int64_t sim_runtime_total(const struct sim_runtime *runtime);
struct sim_runtime *sim_runtime_copy(const struct sim_runtime *runtime); /* malloc'ed */
void sim_runtime_restore(struct sim_runtime *runtime, const struct sim_runtime *snapshot);

/* ---- journal ---- */

enum sim_record_kind {
    SIM_RECORD_PROMISE = 1,
    SIM_RECORD_EPOCH,
    SIM_RECORD_BODY,
    SIM_RECORD_DROP,
    SIM_RECORD_COMMIT
};

struct sim_record {
    enum sim_record_kind kind;
    uint8_t winner;
    uint32_t length_bytes;
    uint64_t id;    /* body: id. epoch, commit: seq. promise: term. drop: range */
    uint64_t token; /* of a promise; an epoch's: commit_seq as it was appended. drop: from */
    uint32_t held;  /* slots in use when it was appended */
    struct wire_digest digest; /* of a body, or the first half of an epoch's hash */
    uint8_t *bytes;
};

#define SIM_WRITES_MAX 2
#define SIM_TOKENS 16 /* that a control plane remembers */

struct sim_journal {
    struct sim_record *records; /* numbers first .. next-1 */
    uint64_t first, next, room;
    uint64_t stable;  /* exclusive number */
    uint64_t base;    /* number of the record at position 0 of this process */
    uint64_t writing; /* exclusive number of what is under way */
    uint64_t ends[SIM_WRITES_MAX];
    uint32_t writes;
    struct sim_record promise; /* newest promise below `first` */
    bool promise_kept;
    struct sim_map epochs, bodies;  /* seq or id -> number + 1 of its newest record */
    uint64_t top_seq;               /* of the newest epoch record: it cuts what is above */
    uint64_t promised_stable;       /* highest term of a stable promise */
    struct sim_runtime *snapshot;   /* complete and stable; NULL: none */
    struct sim_runtime *unfinished; /* being written */
    uint64_t unfinished_cut;        /* first record that is needed above it */
};

/* ---- network ---- */

struct sim_packet {
    uint8_t from, to, stage;
    uint32_t life, to_life; /* of the sender, and of the gateway it is for */
    uint64_t incarnation, number, sent_ns;
    uint32_t length_bytes;
    uint8_t bytes[];
};

struct sim_network {
    uint64_t cut_until_ns[SIM_ENDPOINTS][SIM_ENDPOINTS]; /* [from][to] */
    uint64_t slow_until_ns[SIM_ENDPOINTS];
    uint64_t newest_ns[SIM_ENDPOINTS][SIM_ENDPOINTS]; /* sending of the newest that arrived */
    uint64_t sent;
};

/* ---- control plane of a node, and the arbiter ---- */

struct sim_renewal { /* under way, at the latest until then */
    uint64_t range, owner, until_ns;
};

struct sim_control {
    bool campaigning, unknown; /* unknown: the answer did not come, read the key */
    uint64_t token, timeout_ns, campaign_revision;
    uint64_t told_revision, won_revision;
    uint8_t told_node;
    uint64_t known_at; /* revision of the arbiter that showed what was told */
    bool told, told_incarnations;
    uint64_t cut_until_ns; /* from the arbiter */
    uint64_t attempt;
    uint64_t tokens[SIM_TOKENS]; /* of this process's latest attempts; the newest is `token` */
    uint64_t incarnation_max;    /* that the arbiter has shown */
    uint64_t revision;           /* newest that the arbiter has shown */
    uint64_t term_base;
    uint64_t term_floor; /* a term that is led must be above it */
    struct sim_renewal renewals[SIM_GATEWAYS_MAX];
};

enum sim_request_kind {
    SIM_REQUEST_REGISTER = 1, /* a new incarnation */
    SIM_REQUEST_KEEPALIVE,    /* lease; and reads everything */
    SIM_REQUEST_CAMPAIGN,
    SIM_REQUEST_READ, /* after an unknown outcome */
    SIM_REQUEST_RESIGN,
    SIM_REQUEST_GRANT,
    SIM_REQUEST_RENEW,
    SIM_REQUEST_CHECK,
    SIM_REQUEST_SEALED,
    SIM_REQUEST_WATCH /* not asked: a change of the key */
};

struct sim_arbiter_range {
    uint64_t range, owner, asker, nonce, lease_until_ns;
    uint32_t start, end;
    bool sealed;
};

struct sim_key {
    uint64_t revision, token; /* revision 0: absent */
    uint64_t term_base;       /* as it was when the key was taken */
    uint8_t node;
    uint32_t life;
};

struct sim_request {
    enum sim_request_kind kind;
    uint8_t node, gateway;
    uint64_t attempt, revision, token, range, owner, nonce, held_by;
    enum replica_range_life life; /* GRANT of a pinned range: in the log of the node asked */
    uint64_t sent_at;             /* newest revision that its node had seen */
    uint64_t seen_at, term_base;  /* of the arbiter as it answered */
    uint32_t end, outcome;
    bool won, owned, absent; /* absent: it has no record of the range */
    struct sim_key key;
    uint64_t newest[WIRE_NODES_MAX];
    uint32_t expired_count;
    struct {
        uint64_t range, owner;
    } expired[SIM_RANGES_MAX];
};

struct sim_arbiter_store { /* what a backup holds */
    uint64_t revision, term_base;
    struct sim_key key;
    uint32_t lease_life[WIRE_NODES_MAX];
    uint64_t newest[WIRE_NODES_MAX];
    uint32_t newest_life[WIRE_NODES_MAX]; /* process that asked for it */
    struct sim_arbiter_range ranges[SIM_RANGES_MAX];
    uint32_t range_count;
};

struct sim_arbiter {
    struct sim_arbiter_store store;
    uint64_t lease_until_ns[WIRE_NODES_MAX];
    uint64_t away_until_ns, slow_until_ns, lossy_until_ns;
    struct sim_arbiter_store backup;
    bool backed_up;
    bool went_back;             /* restored, and no operator has raised term_base */
    uint64_t raise_ns;          /* when he will look after it */
    uint64_t granted, holdings; /* ranges, ever; grants of any, ever */
    uint64_t given;             /* greatest incarnation, ever */
};

/* ---- nodes ---- */

struct sim_stretch {   /* records of a peer's journal: dump_stretch.h */
    uint64_t moved_ns; /* when one was taken last */
    size_t at, count;
    uint8_t peer;
    uint8_t bytes[];
};

struct sim_slot {
    uint64_t id, given_step; /* step that gave it to the replica */
    struct wire_digest digest;
    uint64_t record; /* of the journal that holds it */
    uint32_t length_bytes;
    uint16_t parts_following;
    bool owned; /* by the replica */
};

enum sim_item_kind { SIM_ITEM_PACKET = 1, SIM_ITEM_EVENT, SIM_ITEM_SNAPSHOT };
struct sim_item {
    enum sim_item_kind kind;
    void *data; /* packet or snapshot: the item's */
    struct replica_event event;
};

struct sim_seen { /* facts of the step before, and what this process has shown */
    struct replica_facts facts;
    bool valid;
    uint64_t verified_seq, verified_term; /* acknowledged and checked up to here */
    struct wire_hash verified_hash;
};

struct sim_node {
    uint8_t index;
    bool up, starting, amnesiac_start, recovered, wiped;
    bool failed;   /* fail-stop */
    bool rotten;   /* a record of its journal is damaged, which its next start will notice */
    bool diverges; /* its next execution goes wrong */
    uint64_t full_until_ns; /* its disk */
    uint32_t life;
    uint64_t incarnation, listed; /* listed: incarnation in genesis, 0: none */
    uint64_t boot_ns, mono_start_ns;
    uint64_t started_committed; /* what was committed in the cluster when this process began */
    uint64_t terms[SIM_TERMS];  /* of the epochs in its log, by seq */
    uint64_t ppm;               /* speed of the monotonic clock, a million is right */
    int64_t wall_offset_us;
    uint64_t paused_until_ns, slow_until_ns, sync_slow_until_ns;
    bool control_paused;

    void *memory;
    size_t memory_bytes;
    struct replica *replica;
    struct replica_config config;
    struct sim_slot *slots;
    uint8_t *slot_bytes;
    uint32_t *free_slots;
    uint32_t free_count;

    struct sim_item *inbox;
    uint32_t inbox_head, inbox_count, inbox_mask;
    uint64_t pass_token, pass_at_ns;
    uint32_t idle_passes;    /* in a row, without news or actions */
    uint32_t crash_in_steps; /* 0: no crash in the middle of a pass */

    struct wire_writer writers[SIM_ENDPOINTS][WIRE_STAGE_COUNT];
    uint8_t writer_bytes[SIM_ENDPOINTS][WIRE_STAGE_COUNT][WIRE_PACKET_MAX_BYTES];
    uint64_t packet_numbers[WIRE_STAGE_COUNT];

    struct sim_runtime *runtime;
    uint64_t delivered_seq;
    bool executing, snapshot_asked, restoring; /* restoring: between RESTORE_RANGE and RESTORED */
    struct sim_stretch *stretch;               /* being taken; NULL: none */
    uint64_t stretched_seq;                    /* executed when the last was asked for */
    struct dump_journal *reader;               /* of its own journal, for peers; NULL: not yet */
    bool forgets;                              /* when what it sends now is under way */
    uint32_t answers; /* bit per node to which what it sends now is a RECOVERED */
    uint64_t gateway_owner[SIM_GATEWAYS_MAX]; /* by HELLO to this process; 0: unknown */
    uint32_t gateway_life[SIM_GATEWAYS_MAX];  /* the gateway's process that sent it */
    uint64_t gateway_range[SIM_GATEWAYS_MAX][2];

    struct sim_journal journal;
    struct sim_control control;
    struct sim_seen seen;
    uint64_t visible_term; /* highest term this incarnation has promised or acknowledged in, on the
                              wire */
};

/* ---- gateways ---- */

struct sim_transaction {
    uint64_t operation, range, owner;
    uint32_t offset, parts, length_bytes, low_water, amount, tries;
    uint8_t kind, from, to;
    bool answered, queried;
    uint64_t floor_order; /* every answer before its first sending has a lower order */
    uint64_t resend_ns;
};

struct sim_gateway {
    uint8_t index;
    bool alive, conflicting, has_range, asking;
    uint8_t narrow; /* node it sends to, or REPLICA_NODE_NONE: all */
    uint32_t life;
    uint64_t owner, range, nonce;
    uint64_t pinned; /* range it wants, or WIRE_RANGE_NONE */
    uint32_t next, limit, low_water;
    uint64_t commit_seq; /* of the newest vector */
    uint64_t hello_ns, ask_ns, next_transaction_ns, paused_until_ns, pass_at_ns;
    uint64_t packet_number;
    struct sim_transaction open[SIM_RESULTS_KEPT];
    uint32_t open_count;
    struct gateway_core *core; /* config.core: the gateway library's */
    uint64_t submitted, answered, expired, resent, moved, doubt;
};

/* ---- how far a schedule of several steps has come ---- */

enum sim_return_step { SIM_RETURN_NONE = 0, SIM_RETURN_APART, SIM_RETURN_BACK };

struct sim_return {
    enum sim_return_step step;
    uint8_t leader;
    uint32_t side; /* bit per node that is cut off, the leader's included */
    uint64_t apart_until_ns, back_until_ns;
};

enum sim_dead_step { SIM_DEAD_NONE = 0, SIM_DEAD_PREPARES, SIM_DEAD_PROMISED, SIM_DEAD_SERVES };

struct sim_dead {
    enum sim_dead_step step;
    uint8_t leader, winner, giver, late;
    uint32_t life; /* of the giver as it promised */
    uint64_t until_ns, open_ns;
};

enum sim_gone_step { SIM_GONE_NONE = 0, SIM_GONE_APART, SIM_GONE_LOST };

struct sim_gone {
    enum sim_gone_step step;
    uint8_t leader, keeper;
    uint64_t until_ns;
};

enum sim_contest_step { SIM_CONTEST_NONE = 0, SIM_CONTEST_GRANTS, SIM_CONTEST_DONE };

struct sim_contest {
    enum sim_contest_step step;
    uint8_t leader;
    uint64_t seen; /* grants of the range to which an answer was given here */
};

/* ---- checkers ---- */

struct sim_epoch { /* one committed seq */
    struct wire_hash hash, result_hash;
    uint64_t term;  /* in which it was committed */
    uint64_t order; /* of its first transaction */
    uint8_t *bytes;
    uint32_t length_bytes;
    bool executed;
    uint8_t first;
};

struct sim_fact { /* of an executed transaction */
    struct sim_result result;
    uint64_t order;
};

struct sim_check {
    struct sim_epoch *epochs; /* 1 .. committed */
    uint64_t committed, room;
    uint64_t held_from; /* below: executed everywhere, not looked at any more */
    struct sim_runtime *reference;
    struct sim_map facts_by_id, body_by_id, operations, leaders, promises, seals;
    struct sim_fact *facts;
    uint64_t fact_count, fact_room;
    uint64_t answered_order; /* greatest order of an answer given */
    uint64_t last_time_us;
};

struct sim {
    uint64_t seed, now_ns, steps, passes, orders;
    struct sim_config config;
    struct sim_random random[SIM_STREAM_COUNT];
    bool healed, quiet, failed, trace;
    uint64_t trace_from_ns, quiet_seq;
    char check[96], message[512];
    jmp_buf *escape; /* where sim_fail goes */

    struct sim_event *events;
    uint64_t event_count, event_room;

    struct sim_network network;
    struct sim_arbiter arbiter;
    struct sim_node nodes[WIRE_NODES_MAX];
    struct sim_gateway gateways[SIM_GATEWAYS_MAX];
    uint32_t gateway_count;
    uint64_t next_operation, start_wall_us, diverged_ns;
    struct sim_return way;
    struct sim_dead dead;
    struct sim_gone gone;
    struct sim_contest contest;
    struct wire_digest_key digest_key;
    struct sim_check checks;
    struct replica_actions *actions;
    struct replica_delivered_body *delivered; /* scratch, WIRE_EPOCH_BODIES_MAX */
    struct sim_body *bodies;                  /* scratch, the same */
    uint64_t drops[WIRE_DROP_COUNT];
    uint64_t tally[SIM_TALLY_COUNT];
};

/* ---- sim.c ---- */
struct sim *sim_create(uint64_t seed, const struct sim_config *config);
/* Runs to the end; returns false on a violation, which `check` and `message` then name. */
bool sim_run(struct sim *sim);
void sim_destroy(struct sim *sim);
/* Records a violation and leaves the run. */
_Noreturn void sim_fail(struct sim *sim, const char *check, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void sim_at(struct sim *sim, uint64_t at_ns, enum sim_event_kind kind, uint8_t target,
            uint32_t life, uint64_t number, void *data);
static inline uint32_t sim_nodes(const struct sim *sim) {
    return sim->config.replica.node_count;
}
static inline bool sim_faulty(const struct sim *sim, enum sim_fault fault) {
    return !sim->healed && (sim->config.faults >> fault & 1);
}

/* ---- sim_faults.c ---- */
void sim_faults_start(struct sim *sim);
void sim_fault_event(struct sim *sim, enum sim_fault fault);
void sim_heal(struct sim *sim);
/* ---- sim_directed.c ---- */
void sim_fault_return(struct sim *sim, struct sim_random *random);
void sim_fault_dead(struct sim *sim, struct sim_random *random);
void sim_fault_gone(struct sim *sim, struct sim_random *random);
void sim_fault_contest(struct sim *sim, struct sim_random *random);
/* How often a packet arrives again, and how much later. */
uint32_t sim_fault_again(struct sim *sim, uint8_t from, uint8_t to,
                         uint64_t ret_late_ns[SIM_AGAIN_MAX]);
void sim_fault_sent(struct sim *sim, struct sim_node *node, const struct replica_action *a);
void sim_fault_flushed(struct sim *sim, struct sim_node *node);
/* May this node lose its memory (or disk) now? protocol.md §10.2. */
bool sim_loss_allowed(const struct sim *sim, const struct sim_node *node);
/* Does its state differ from what the order gives? Known to the simulator only. */
bool sim_node_differs(const struct sim *sim, const struct sim_node *node);

/* ---- sim_config.c ---- */
void sim_config_draw(struct sim_config *config, uint64_t seed);
bool sim_rough(uint64_t seed);
/* "nodes=3,quorum=2,durable=1,..."; returns 0 or a negative mrn_error. */
int sim_config_override(struct sim_config *config, const char *text);
void sim_config_print(const struct sim_config *config, FILE *out);
const char *sim_fault_word(enum sim_fault fault);

/* ---- sim_node.c ---- */
void sim_node_create(struct sim *sim, struct sim_node *node);
void sim_node_destroy(struct sim_node *node);
void sim_node_start(struct sim *sim, struct sim_node *node);
void sim_node_crash(struct sim *sim, struct sim_node *node, bool wipe);
void sim_node_pass(struct sim *sim, struct sim_node *node);
void sim_node_pause(struct sim *sim, struct sim_node *node, uint64_t until_ns, bool control);
void sim_node_push(struct sim *sim, struct sim_node *node, enum sim_item_kind kind, void *data,
                   const struct replica_event *event);
void sim_node_execute(struct sim *sim, struct sim_node *node);
/* Executes the next delivered epoch; returns its seq. */
uint64_t sim_node_execute_one(struct sim *sim, struct sim_node *node, sim_runtime_fn *each,
                              void *context);
void sim_node_snapshot(struct sim *sim, struct sim_node *node, uint8_t peer, uint64_t after_seq);
void sim_node_to_gateway(struct sim *sim, struct sim_node *node, uint8_t gateway,
                         enum wire_kind kind, const void *payload, uint32_t length_bytes);
void sim_node_flush(struct sim *sim, struct sim_node *node);
uint64_t sim_node_mono_ns(const struct sim *sim, const struct sim_node *node);
uint64_t sim_node_wall_us(const struct sim *sim, const struct sim_node *node);
uint8_t *sim_node_slot_bytes(struct sim_node *node, uint32_t slot);
void sim_node_step(struct sim *sim, struct sim_node *node, struct replica_event *event);
/* Stores a body in a slot; false when there is none. */
bool sim_node_store(struct sim *sim, struct sim_node *node, uint64_t id, const uint8_t *bytes,
                    uint32_t length_bytes, struct replica_event_body *ret_body);

/* ---- sim_replay.c ---- */
void sim_replay(struct sim *sim, struct sim_node *node);
void sim_node_restore(struct sim *sim, struct sim_node *node, const struct sim_runtime *snapshot);
void sim_node_take_snapshot(struct sim *sim, struct sim_node *node,
                            const struct sim_runtime *snapshot); /* of a peer */

/* ---- sim_stretch.c ---- */
/* Asks the peer for epochs above after_seq, with their bodies. False when its journal has none. */
bool sim_stretch_ask(struct sim *sim, struct sim_node *node, struct sim_node *from,
                     uint64_t after_seq);
void sim_stretch_arrives(struct sim *sim, struct sim_node *node, struct sim_stretch *stretch);
/* Takes what there is room for. */
void sim_stretch_poll(struct sim *sim, struct sim_node *node);

/* ---- sim_network.c ---- */
/* Takes the finished packet of a writer and decides its fate. */
void sim_network_send(struct sim *sim, uint8_t from, uint8_t to, uint8_t stage, uint32_t life,
                      uint64_t incarnation, uint64_t number, const void *bytes,
                      uint32_t length_bytes);
void sim_network_arrive(struct sim *sim, struct sim_packet *packet);
bool sim_network_open(struct sim *sim, uint8_t from, uint8_t to);

/* ---- sim_journal.c ---- */
void sim_journal_init(struct sim_journal *journal);
void sim_journal_free(struct sim_journal *journal);
void sim_journal_append(struct sim *sim, struct sim_node *node,
                        const struct replica_action *action);
void sim_journal_pump(struct sim *sim,
                      struct sim_node *node); /* starts a write when there is work */
void sim_journal_synced(struct sim *sim, struct sim_node *node, uint64_t number);
void sim_journal_crash(struct sim *sim, struct sim_node *node);
void sim_journal_wipe(struct sim_journal *journal);
/* A snapshot of a peer, complete at once. */
void sim_journal_snapshot(struct sim_journal *journal, const struct sim_runtime *runtime);
/* One of our own: takes a while, in which a crash loses it. */
void sim_journal_snapshot_begin(struct sim *sim, struct sim_node *node);
void sim_journal_snapshot_end(struct sim_journal *journal);
bool sim_journal_epoch_stable(const struct sim_journal *journal, uint64_t seq,
                              const struct wire_hash *hash);
bool sim_journal_body_stable(const struct sim_journal *journal, uint64_t id,
                             struct wire_digest *ret_digest);
static inline struct sim_record *sim_journal_record(const struct sim_journal *j, uint64_t number) {
    return &j->records[number - j->first];
}

/* ---- sim_arbiter.c ---- */
void sim_arbiter_init(struct sim *sim);
void sim_arbiter_ask(struct sim *sim, struct sim_node *node, struct sim_request *request);
void sim_arbiter_request(struct sim *sim, struct sim_request *request, uint32_t life);
void sim_arbiter_answer(struct sim *sim, struct sim_node *node, struct sim_request *request);
void sim_arbiter_leases(struct sim *sim);
/* Whose the range is, in the order or else in the arbiter; 0: nobody's. */
uint64_t sim_arbiter_owner(struct sim *sim, uint64_t range);
/* Takes a backup, or restores the one that was taken; later an operator raises term_base. */
void sim_arbiter_backup(struct sim *sim, uint64_t raise_after_ns);
void sim_control_start(struct sim *sim, struct sim_node *node);
void sim_control_timer(struct sim *sim, struct sim_node *node);
void sim_control_campaign(struct sim *sim, struct sim_node *node, uint64_t revision);
void sim_control_renew(struct sim *sim, struct sim_node *node, uint64_t range, uint64_t owner);

/* ---- sim_gateway.c ---- */
void sim_gateway_start(struct sim *sim, uint8_t index);
void sim_gateway_timer(struct sim *sim, struct sim_gateway *gateway);
void sim_gateway_packet(struct sim *sim, struct sim_gateway *gateway,
                        const struct sim_packet *packet);
void sim_gateway_die(struct sim *sim, struct sim_gateway *gateway);
bool sim_gateway_idle(const struct sim_gateway *gateway);
void sim_gateway_send(struct sim *sim, struct sim_gateway *gateway, uint8_t to, enum wire_kind kind,
                      const void *payload, uint32_t length_bytes);
void sim_gateway_fill(struct sim *sim, struct sim_transaction *t);

/* ---- sim_gateway_core.c: a gateway whose brain is gateway/core ---- */
void sim_gateway_core_start(struct sim *sim, struct sim_gateway *gateway);
void sim_gateway_core_timer(struct sim *sim, struct sim_gateway *gateway);
void sim_gateway_core_frame(struct sim *sim, struct sim_gateway *gateway, uint8_t node,
                            const struct wire_frame *frame);

/* ---- sim_check.c ---- */
void sim_check_init(struct sim *sim);
void sim_check_free(struct sim *sim);
void sim_check_started(struct sim *sim, struct sim_node *node);
void sim_check_replayed(struct sim_node *node);
void sim_check_step(struct sim *sim, struct sim_node *node);
void sim_check_sent(struct sim *sim, struct sim_node *node, const struct replica_action *action);
void sim_check_deliver(struct sim *sim, struct sim_node *node, uint64_t seq);
void sim_check_executed(struct sim *sim, struct sim_node *node);
void sim_check_freed(struct sim *sim, struct sim_node *node, const struct sim_slot *slot);
void sim_check_result(struct sim *sim, struct sim_gateway *gateway,
                      const struct sim_transaction *transaction, const struct wire_result *result);
void sim_check_expired(struct sim *sim, struct sim_gateway *gateway,
                       const struct sim_transaction *transaction);
void sim_check_sealed(struct sim *sim, uint64_t range, uint64_t owner, uint32_t end);
void sim_check_sealed_off(struct sim *sim, const struct sim_transaction *transaction);
void sim_check_told(struct sim *sim, uint64_t range, uint64_t owner, uint32_t end);
void sim_check_held(struct sim *sim);
void sim_check_end(struct sim *sim);
/* Everything is answered and everybody has executed it. */
bool sim_check_quiet(struct sim *sim);

/* ---- sim_trace.c ---- */
void sim_trace(struct sim *sim, const char *who, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
#define SIM_TRACE(sim, ...)              \
    do {                                 \
        if ((sim)->trace)                \
            sim_trace(sim, __VA_ARGS__); \
    } while (0)
/* What everybody holds, for the end of a trace. */
void sim_dump(struct sim *sim);
/* "n0", "g1"; static storage. */
const char *sim_name(uint8_t endpoint);
/* One frame in words, into `text`. */
const char *sim_frame_text(char *text, size_t room, uint8_t kind, uint8_t flags,
                           const uint8_t *payload, uint32_t length_bytes);
const char *sim_role_name(enum replica_role role);

#endif
