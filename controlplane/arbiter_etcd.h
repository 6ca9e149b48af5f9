/* What the files of arbiter_etcd share; nobody else includes this.
 *
 *   arbiter_etcd.c         opening: registration, genesis
 *   arbiter_etcd_follow.c  what others do: leader key, registrations, ranges, by watch
 *   arbiter_etcd_leader.c  our lease, campaign, resignation
 *   arbiter_etcd_ranges.c  requests of gateways
 *   arbiter_etcd_publish.c publications: latest, history/, compaction
 *   arbiter_etcd_dump.c    dump/latest
 *   arbiter_etcd_turn.c    dump/turn
 *   arbiter_etcd_watchful.c what goes wrong with etcd itself: full, restored from the past */
#ifndef MAROON_ARBITER_ETCD_H
#define MAROON_ARBITER_ETCD_H

#include "controlplane/arbiter.h"
#include "controlplane/arbiter_values.h"

#define ARBITER_RANGE_BUCKETS 1024
#define ARBITER_RANGE_ENTRIES_MAX 65536
#define ARBITER_BATCH_MAX 30 /* ranges granted by one transaction; 3 puts each, etcd takes 128 */
#define ARBITER_RANGE_OPS_MAX 8192

/* A range that is granted and not sealed, as the watch shows it. */
struct range_entry {
    struct range_entry *next;
    uint64_t range, owner;
    uint64_t record_revision; /* of the newest fact about ranges/<r> */
    uint64_t lease_revision;  /* of the newest fact about range-leases/<r> */
    uint64_t lease;
    uint64_t renewed_ns;
    uint32_t seen; /* sync that saw its lease */
    bool leased, renewing;
};

struct range_op;
struct batch;

enum turn_what { TURN_TAKE = 0, TURN_KEEP, TURN_END };
enum lease_state { LEASE_NONE = 0, LEASE_GRANTING, LEASE_ALIVE };

struct arbiter_etcd {
    struct arbiter base;
    struct etcd *etcd;
    char prefix[ETCD_KEY_MAX / 2];
    uint32_t lease_ttl_s, range_ttl_s;

    /* opening */
    bool ready;
    bool store_known, store_loaded; /* loaded: from data_dir, not drawn by this process */
    bool genesis_known;
    uint64_t enough_since_ns; /* since when k nodes are registered; 0: not yet */
    uint64_t read_revision, own_mod_revision, checked_process;
    uint32_t registered_count, waiting_logged;
    uint64_t probe_nonce, probe_until_ns;
    struct loop_timer enter_timer, probe_timer;

    /* leader */
    enum lease_state lease_state;
    uint64_t lease;
    struct loop_timer lease_timer, campaign_timer, resign_timer;
    uint64_t term_base, term_base_revision;
    uint64_t leader_known_at; /* store revision that base.leader is true for */
    bool campaign_running, resign_running;
    bool campaign_refused; /* won, but its term must not be led: ends when the key is given back */
    uint32_t campaign_attempts;
    struct arbiter_etcd
        *campaign_self; /* context of a campaign's requests, so they are forgotten */
    uint64_t campaign_revision, campaign_token, won_token;
    uint64_t resign_revision;                /* asked for; 0: none */
    uint64_t refused_revision, refused_term; /* of a term that must not be led; revision 0: none */
    uint64_t resign_written;                 /* what the running write compares */

    /* follow */
    struct etcd_watch *watch;
    struct loop_timer sync_timer, poll_timer, expired_timer;
    uint64_t sync_revision;
    uint32_t sync_number;
    bool syncing;
    char sync_from[ETCD_KEY_MAX + 1];
    struct range_entry *ranges[ARBITER_RANGE_BUCKETS];
    uint32_t range_count;

    /* publish */
    struct etcd_watch *history_watch;
    struct loop_timer history_timer;
    struct epochs_entry publishing;
    char *publish_latest, *publish_history; /* texts */
    bool publish_running, latest_known;
    uint32_t publish_attempts, compact_count;
    uint64_t publish_key_revision, latest_revision, latest_seq;
    uint64_t compact_mark, compact_bytes; /* revision; bytes written since */

    /* dump */
    struct loop_timer dump_timer;
    struct arbiter_dump dump_wanted; /* to be written; seq 0: nothing */
    uint64_t dump_revision;          /* of the key as last seen; 0: absent */
    uint32_t dump_attempts;
    bool dump_running;

    /* turn */
    struct {
        arbiter_turn_done done; /* somebody waits for it */
        void *context;
        bool running, ours, ending;
        enum turn_what what; /* is running, or ran last */
        uint32_t attempts;
        uint64_t revision, seen_ns; /* of the key as seen last (0: absent); since when it is that */
        uint64_t kept_ns;           /* when we wrote it last */
    } turn;

    /* watchful */
    struct loop_timer alarm_timer, raise_timer;
    uint64_t newest_revision; /* of the store, as answered */
    uint64_t poll_sent_at;    /* newest_revision when the running poll was sent */
    uint64_t raise_to;        /* term_base wanted by an operator; 0: none */
    bool raise_running;

    /* ranges */
    struct range_op *ops;
    uint32_t op_count, op_running;
    bool pumping;
    struct batch *batch_running;
    uint64_t next_range, next_revision; /* of ranges/next as last seen */
    struct loop_timer batch_timer;
};

static inline struct arbiter_etcd *etcd_arbiter(struct arbiter *arbiter) {
    return (struct arbiter_etcd *)arbiter; /* base is its first member */
}

/* prefix + name, or prefix + name + number. `ret_key` has room for ETCD_KEY_MAX + 1. */
void arbiter_etcd_key(const struct arbiter_etcd *arbiter, const char *name, char *ret_key);
void arbiter_etcd_key_number(const struct arbiter_etcd *arbiter, const char *name, uint64_t number,
                             char *ret_key);

/* Writes our registration over the one of that revision (0: none); `done` gets the arbiter. When it
 * returns an error nothing was sent. */
int arbiter_etcd_register(struct arbiter_etcd *arbiter, uint64_t mod_revision, etcd_done done);

/* follow */
void arbiter_etcd_follow_start(struct arbiter_etcd *arbiter);
/* Forgets all that was read and reads it anew: etcd went back. */
void arbiter_etcd_follow_anew(struct arbiter_etcd *arbiter);
void arbiter_etcd_follow_stop(struct arbiter_etcd *arbiter);
/* The leader key as it was at store revision `known_at`; kv NULL: absent. Tells the sink what is
 * new. */
void arbiter_etcd_leader_seen(struct arbiter_etcd *arbiter, const struct etcd_kv *kv,
                              uint64_t known_at);
void arbiter_etcd_term_base_seen(struct arbiter_etcd *arbiter, const struct etcd_kv *kv);
/* Decodes a registration into base.members; tells nobody. */
void arbiter_etcd_member_seen(struct arbiter_etcd *arbiter, const struct etcd_kv *kv);
struct range_entry *arbiter_etcd_range_find(struct arbiter_etcd *arbiter, uint64_t range);
/* Takes the duration of a transaction or read into the smoothed latency. */
void arbiter_etcd_latency(struct arbiter_etcd *arbiter, const struct etcd_answer *answer);

/* leader */
void arbiter_etcd_leader_start(struct arbiter_etcd *arbiter);
void arbiter_etcd_leader_stop(struct arbiter_etcd *arbiter);
void arbiter_etcd_campaign(struct arbiter *arbiter, uint64_t revision);
void arbiter_etcd_resign(struct arbiter *arbiter, uint64_t revision);
/* Our token was read in the key. */
void arbiter_etcd_campaign_won(struct arbiter_etcd *arbiter, uint64_t token);

/* publish */
void arbiter_etcd_publish_start(struct arbiter_etcd *arbiter);
void arbiter_etcd_publish_stop(struct arbiter_etcd *arbiter);
void arbiter_etcd_publish_anew(struct arbiter_etcd *arbiter); /* etcd went back */
int arbiter_etcd_publish(struct arbiter *arbiter, const struct arbiter_epoch *epoch);

/* dump */
void arbiter_etcd_dump_start(struct arbiter_etcd *arbiter);
void arbiter_etcd_dump_anew(struct arbiter_etcd *arbiter); /* etcd went back */
void arbiter_etcd_dump_stop(struct arbiter_etcd *arbiter);
void arbiter_etcd_dump_look(struct arbiter *arbiter);
void arbiter_etcd_dump_tell(struct arbiter *arbiter, uint64_t seq, const char *text);
/* The key as somebody read it. */
void arbiter_etcd_dump_seen(struct arbiter_etcd *arbiter, const struct etcd_response *response);

/* turn */
void arbiter_etcd_turn_take(struct arbiter *arbiter, arbiter_turn_done done, void *context);
void arbiter_etcd_turn_keep(struct arbiter *arbiter);
void arbiter_etcd_turn_end(struct arbiter *arbiter);

/* watchful */
void arbiter_etcd_watchful_start(struct arbiter_etcd *arbiter);
void arbiter_etcd_watchful_stop(struct arbiter_etcd *arbiter);
void arbiter_etcd_no_space(struct arbiter_etcd *arbiter, bool no_space);
/* An answer to a read that was sent when the store was at `sent_at` as far as known. Returns true
 * when the store has gone back: then all that was known of it is forgotten. */
bool arbiter_etcd_store_seen(struct arbiter_etcd *arbiter, uint64_t sent_at, uint64_t revision);
/* While we run: our registration is gone, or an older one. The watch shows whether it helped. */
void arbiter_etcd_register_again(struct arbiter_etcd *arbiter, uint64_t mod_revision);
/* Says that a term was won and given back because a greater one was promised. */
void arbiter_etcd_term_refused(struct arbiter_etcd *arbiter, uint64_t term);
void arbiter_etcd_raise_term_base(struct arbiter *arbiter, uint64_t to);

/* ranges */
void arbiter_etcd_ranges_stop(struct arbiter_etcd *arbiter);
void arbiter_etcd_range_request(struct arbiter *arbiter, uint64_t owner, uint64_t nonce,
                                uint64_t range, uint64_t floor);
void arbiter_etcd_range_renew(struct arbiter *arbiter, uint64_t owner, uint64_t range);
void arbiter_etcd_range_close(struct arbiter *arbiter, uint64_t owner, uint64_t range);
void arbiter_etcd_range_check(struct arbiter *arbiter, uint64_t owner, uint64_t range);
void arbiter_etcd_range_sealed(struct arbiter *arbiter, uint64_t owner, uint64_t range,
                               uint32_t end);

/* A lease id as etcd takes it: below 2^63, not 0. */
static inline uint64_t arbiter_etcd_draw_lease(void) {
    uint64_t id = 0;
    while (id == 0)
        id = arbiter_random() >> 1;
    return id;
}

#endif
