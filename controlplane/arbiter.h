/* arbiter: who a cluster is (genesis), who leads, who owns which range.
 *
 *   opening --registered, genesis known--> ready --> destroyed
 *
 * Two implementations behind one interface: arbiter_etcd (a cluster) and arbiter_embedded (one
 * node, a file). Requests return at once; outcomes come through the sink, of the embedded one
 * possibly before the request returns.
 *
 * Vocabulary
 *   revision   of the leader key: names one holding of it; 0: the key is absent
 *   token      random, drawn for one campaign, kept in memory only: whoever reads its own token in
 *              the key has won, also when the answer was lost
 *   store      what an incarnation numbers: a data directory, or in memory mode this process
 *
 * Safety: nothing here is decided by clocks or leases (protocol.md §6); leases only say when others
 * may try. Every request may be repeated, to any node.
 * Threads: the loop's. Ownership: the sink and the config outlive the arbiter. */
#ifndef MAROON_ARBITER_H
#define MAROON_ARBITER_H

#include <stdbool.h>
#include <stdint.h>

#include "controlplane/control.h"
#include "controlplane/epochs.h"
#include "controlplane/etcd.h"
#include "controlplane/http_client.h"
#include "controlplane/loop.h"

#define ARBITER_TOKENS 16 /* campaigns whose token is remembered */

struct arbiter;

struct arbiter_member {
    uint64_t incarnation, process_token; /* incarnation 0: not registered */
    uint64_t store_token; /* random, drawn with the incarnation: two stores never share both */
    char address[CONTROL_ADDRESS_MAX], admin[CONTROL_ADDRESS_MAX];
    uint64_t mod_revision; /* of the registration */
    /* what it was started with */
    uint8_t node_count, quorum;
    bool durable;
    uint32_t protocol_version;
    struct control_limits limits;
    uint8_t dump_key[CONTROL_KEY_BYTES]; /* public, that signs its dumps; zeros: makes none */
};

/* Of a cluster that begins with the state of another one (maroonctl restore). */
struct arbiter_restored {
    uint64_t seq; /* its last epoch there; ours begin above. 0: the cluster began empty */
    uint64_t term, cluster_id;
    struct wire_hash epoch_hash, state_hash; /* there, at seq */
    struct wire_hash origin;                 /* runtime_config.origin_hash */
};

struct arbiter_genesis {
    uint64_t cluster_id;
    struct wire_digest_key digest_key;
    uint8_t node_count, quorum;
    bool durable;
    uint32_t protocol_version;
    struct control_limits limits;
    uint8_t member_keys[WIRE_NODES_MAX][CONTROL_KEY_BYTES];
    uint64_t incarnations[WIRE_NODES_MAX]; /* 0: not listed */
    struct arbiter_restored restored;
};

struct arbiter_leader {
    uint64_t revision, term, token;
    uint8_t node; /* MAILBOX_NODE_NONE: the key is absent */
    bool ours;
};

struct arbiter_grant {
    uint64_t nonce, owner, range, held_by; /* as wire_range_grant */
    uint32_t start, outcome;               /* enum wire_range_outcome */
};

/* What a publication says. */
struct arbiter_epoch {
    struct epochs_entry entry;
    uint32_t range_count;
    const char *vector;           /* JSON object: range to position executed; NULL: too long */
    struct wire_hash vector_hash; /* when vector is NULL and vector_hashed */
    bool vector_hashed;
};

/* The key dump/latest: the pointer's text (docs/dump-format.md), and the epoch it names. */
#define ARBITER_DUMP_TEXT_MAX 1024
struct arbiter_dump {
    uint64_t seq;   /* 0: none is known */
    uint64_t reads; /* how often the key was read */
    char text[ARBITER_DUMP_TEXT_MAX];
};

/* Whose turn it is to dump. */
enum arbiter_turn {
    ARBITER_TURN_OURS = 0,
    ARBITER_TURN_OTHERS, /* another node is at it */
    ARBITER_TURN_UNKNOWN /* etcd does not say */
};
typedef void (*arbiter_turn_done)(void *context, enum arbiter_turn turn);

/* What operators should see; also in /v1/status and /metrics. */
struct arbiter_health {
    bool no_space;               /* etcd's quota is used up: no leader, range, publication */
    bool went_back;              /* etcd was restored from an older snapshot */
    uint64_t went_from, went_to; /* its revisions */
    uint64_t refused_term;       /* a term that was won and goes back; 0: none */
    uint64_t promised_term;      /* by our replica */
    uint64_t term_floor;         /* a term that is led must be above it */
    uint64_t term_base;
    uint64_t db_bytes; /* of etcd's member that we ask; 0: not known */
    uint64_t publications;
    uint64_t latency_us; /* of a transaction with etcd, smoothed; 0: none yet */
};

struct arbiter_sink {
    /* Once. error: MRN_ERR_MISMATCH (another configuration), _EXISTS (a live node has our index),
     * _IO, _CORRUPT, _NO_MEMORY. */
    void (*ready)(void *context, int error);
    void (*leader)(void *context, const struct arbiter_leader *leader);
    void (*campaign)(void *context, enum mailbox_campaign result,
                     const struct arbiter_leader *leader);
    void (*members)(void *context); /* arbiter_members has changed */
    void (*range_granted)(void *context, const struct arbiter_grant *grant);
    /* start: where the owner's holding begins. */
    void (*range_checked)(void *context, uint64_t range, uint64_t owner, bool owned,
                          uint32_t start);
    /* Again every few seconds until the range is sealed or renewed. */
    void (*range_expired)(void *context, uint64_t range, uint64_t owner);
    void (*latency)(void *context, uint64_t smoothed_us);
    void (*published)(void *context, const struct epochs_entry *entry); /* by any node */
    void (*publish_done)(void *context, int error);                     /* of arbiter_publish */
    void (*index_lost)(void *context, const struct arbiter_member *other);
    void *context;
};

struct arbiter_setup {
    const struct control_config *config; /* checked; member_keys filled */
    uint64_t process_token;
    struct loop *loop;
    struct http_client *http;
    const struct arbiter_sink *sink;
};

/* Open and begin towards ready. NULL without memory or with unusable endpoints. */
struct arbiter *arbiter_etcd_open(const struct arbiter_setup *setup);
struct arbiter *arbiter_embedded_open(const struct arbiter_setup *setup);
void arbiter_destroy(struct arbiter *arbiter);

/* Valid from ready on. */
const struct arbiter_genesis *arbiter_genesis(const struct arbiter *arbiter);
const struct arbiter_member *arbiter_members(const struct arbiter *arbiter); /* WIRE_NODES_MAX */
uint64_t arbiter_incarnation(const struct arbiter *arbiter);
const struct arbiter_leader *arbiter_leader(const struct arbiter *arbiter);
const struct etcd_metrics *arbiter_etcd_metrics(const struct arbiter *arbiter); /* NULL: no etcd */

const struct epochs *arbiter_epochs(const struct arbiter *arbiter);
const struct arbiter_health *arbiter_health(const struct arbiter *arbiter);

/* dump/latest as read lately; followed where a store is configured. An embedded arbiter knows what
 * it was told. */
const struct arbiter_dump *arbiter_dump(const struct arbiter *arbiter);
/* Reads it now: dump.reads grows when that is done. */
void arbiter_dump_look(struct arbiter *arbiter);
/* A complete dump is in the store: the key moves there unless it names that one or a newer one. A
 * process whose index another store has taken moves it no more. Whoever sees the store ahead of the
 * key says so again: nothing is lost when the one that dumped dies in between. */
void arbiter_dump_tell(struct arbiter *arbiter, uint64_t seq, const char *text);

/* A node dumps when it has the turn, or nobody can say who has: it spares work, and nothing depends
 * on it. `done` comes once, possibly before this returns, and with OURS dump/latest has been read;
 * it does not come any more after arbiter_turn_end. One at a time. */
void arbiter_turn_take(struct arbiter *arbiter, arbiter_turn_done done, void *context);
/* Call it at least every 2 s while at it: a turn that was not kept for 6 s is another's who wants
 * it (arbiter.dump_turn_losses). */
void arbiter_turn_keep(struct arbiter *arbiter);
/* Gives it back, if it is ours; forgets `done`. */
void arbiter_turn_end(struct arbiter *arbiter);

/* Publishes; the sink is told the outcome. Returns MRN_ERR_CLOSED when the leader key is not ours
 * or one publication is under way; then the sink is told nothing. */
int arbiter_publish(struct arbiter *arbiter, const struct arbiter_epoch *epoch);
/* The greatest term that this node's replica has promised; told again and again. A term that is won
 * later and is not above it is refused and said. */
void arbiter_term_floor(struct arbiter *arbiter, uint64_t term);
/* Operators only: sets term_base to `to`, unless it is above that already. */
void arbiter_raise_term_base(struct arbiter *arbiter, uint64_t to);
/* Tries to take the leader key if its revision is still `revision`. One at a time; a request while
 * one runs is dropped (its outcome will come). */
void arbiter_campaign(struct arbiter *arbiter, uint64_t revision);
/* Has the outcome of one not come yet? */
bool arbiter_campaigns(const struct arbiter *arbiter);
/* Deletes the key if its revision is `revision` and it holds a token of ours. */
void arbiter_resign(struct arbiter *arbiter, uint64_t revision);
#define ARBITER_FLOOR_OPEN MAILBOX_FLOOR_OPEN
/* `range` pinned, or WIRE_RANGE_NONE: the next free one, not below `floor`. `floor` of a pinned
 * one: 1 + the position at which the state says that it ended; 0: the state knows no end; _OPEN:
 * it is open there, and granted to nobody before it has ended. It counts when the arbiter knows
 * less (a cluster that begins with the state of another, an etcd that was restored).
 * (owner, nonce) names the request: repeated, it gets the same range. A pinned one is held under
 * grant.held_by, which no other holding of it ever had or has. */
void arbiter_range_request(struct arbiter *arbiter, uint64_t owner, uint64_t nonce, uint64_t range,
                           uint64_t floor);
void arbiter_range_renew(struct arbiter *arbiter, uint64_t owner, uint64_t range);
void arbiter_range_close(struct arbiter *arbiter, uint64_t owner, uint64_t range);
void arbiter_range_check(struct arbiter *arbiter, uint64_t owner, uint64_t range);
void arbiter_range_sealed(struct arbiter *arbiter, uint64_t owner, uint64_t range, uint32_t end);

/* ---- for implementations ---- */

struct arbiter_operations {
    int (*publish)(struct arbiter *arbiter, const struct arbiter_epoch *epoch);
    void (*raise_term_base)(struct arbiter *arbiter, uint64_t to);
    void (*campaign)(struct arbiter *arbiter, uint64_t revision);
    bool (*campaigns)(const struct arbiter *arbiter);
    void (*resign)(struct arbiter *arbiter, uint64_t revision);
    void (*range_request)(struct arbiter *arbiter, uint64_t owner, uint64_t nonce, uint64_t range,
                          uint64_t floor);
    void (*range_renew)(struct arbiter *arbiter, uint64_t owner, uint64_t range);
    void (*range_close)(struct arbiter *arbiter, uint64_t owner, uint64_t range);
    void (*range_check)(struct arbiter *arbiter, uint64_t owner, uint64_t range);
    void (*range_sealed)(struct arbiter *arbiter, uint64_t owner, uint64_t range, uint32_t end);
    void (*dump_look)(struct arbiter *arbiter);
    void (*dump_tell)(struct arbiter *arbiter, uint64_t seq, const char *text);
    void (*turn_take)(struct arbiter *arbiter, arbiter_turn_done done, void *context);
    void (*turn_keep)(struct arbiter *arbiter);
    void (*turn_end)(struct arbiter *arbiter);
    const struct etcd_metrics *(*etcd_metrics)(const struct arbiter *arbiter);
    void (*destroy)(struct arbiter *arbiter);
};

struct arbiter { /* first member of an implementation's struct */
    const struct arbiter_operations *operations;
    struct arbiter_setup setup;
    struct arbiter_genesis genesis;
    struct arbiter_member members[WIRE_NODES_MAX];
    struct arbiter_leader leader;
    struct epochs epochs; /* published */
    struct arbiter_dump dump;
    uint64_t dump_turn_losses; /* turns of ours that another took over */
    struct arbiter_health health;
    uint64_t incarnation, store_token;
    uint64_t tokens[ARBITER_TOKENS]; /* drawn lately, a ring */
    uint32_t token_next;
};

/* Draws a token and remembers it. */
uint64_t arbiter_draw_token(struct arbiter *arbiter);
bool arbiter_token_is_ours(const struct arbiter *arbiter, uint64_t token);
/* Random, never 0. */
uint64_t arbiter_random(void);
/* Fills a genesis of a new cluster from the config: everything but the incarnations. */
void arbiter_make_genesis(const struct arbiter_setup *setup, struct arbiter_genesis *ret_genesis);
/* What this node would register. */
void arbiter_own_member(const struct arbiter *arbiter, struct arbiter_member *ret_member);
/* Canonical hash: the previous hash of epoch 1. */
struct wire_hash arbiter_genesis_hash(const struct arbiter_genesis *genesis);
/* Compares a genesis with our config; logs the first difference with both values.
 * Returns 0 or MRN_ERR_MISMATCH. */
int arbiter_check_genesis(const struct arbiter_setup *setup, const struct arbiter_genesis *genesis);

/* The file of a new single-node cluster: terms begin above `revision`. */
int arbiter_embedded_found(const char *data_dir, const struct arbiter_genesis *genesis,
                           uint64_t revision);

/* The store's number in data_dir, with its token. Returns 0, MRN_ERR_NOT_FOUND, _IO, _CORRUPT. */
int arbiter_store_load(const char *data_dir, uint64_t *ret_incarnation, uint64_t *ret_store_token);
int arbiter_store_save(const char *data_dir, uint64_t incarnation, uint64_t store_token);

#endif
