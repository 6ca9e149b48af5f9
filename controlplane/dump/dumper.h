/* dumper: the thread that dumps, and what the control plane has to do with it.
 *
 *   idle --peek--> looking --> idle              (how new is the newest dump in the store?)
 *   idle --take(snapshot file)--> dumping --> idle
 *   idle --fetch--> fetching --> idle             (the newest dump becomes a snapshot file here)
 *
 * Who dumps: every node looks at the pointer. One that has been standing still for the interval is
 * overdue; a node waits one more interval for each place behind the leader on the way round, so
 * that the leader comes last and dumps only when no other node does. Whose views differ are kept
 * apart by a key in etcd (dump_turns.h), and, also without etcd, a dump that takes longer than that
 * shows that it goes on (dump_mark_put). Two at once do no harm.
 *
 * Threads: dumper_* are the control plane's; they never block but for a mutex held for a copy
 * (start and stop apart). Files, hashes, zstd and the network are the dump thread's. A store in
 * trouble makes a line in the log, counters, and a pause; commits know nothing of it. */
#ifndef MAROON_DUMPER_H
#define MAROON_DUMPER_H

#include <stdbool.h>
#include <stdint.h>

#include "controlplane/dump/dump_read.h"
#include "controlplane/store/object_store.h"

struct dumper;
struct mrn_application;

#define DUMPER_POINTER_MAX 1024

struct dumper_setup {
    const struct object_store_config *store;
    const char *data_dir; /* keeps dump.key, the key that signs; made there */
    const char *key_file; /* seals objects; "": they are not sealed */
    const char *cluster;
    uint64_t cluster_id, configuration_id, incarnation;
    uint32_t node;
    bool durable; /* the node has a journal in data_dir/journal */
    struct wire_digest_key digest_key;
    struct wire_hash genesis_hash;
    uint64_t restored_seq; /* the cluster's first epoch is the one after */
    const struct mrn_application *const *applications;
    uint32_t application_count;
};

/* Of the newest fetch. */
struct dumper_fetch {
    bool under_way;
    int error;    /* when it is over; NOT_FOUND: the store has nothing newer than was wanted */
    uint64_t seq; /* of the dump */
    struct dump_progress progress;
    uint64_t duration_ms;
    char file[512]; /* the snapshot, when error is 0; whose it was becomes the caller's */
    char text[DUMP_TEXT_BYTES];
};

struct dumper_status {
    bool dumping, looking;
    bool latest_known;                     /* the store has been looked into */
    uint64_t latest_seq, latest_change_ns; /* of the newest dump; when it became that (monotonic) */
    char pointer[DUMPER_POINTER_MAX];      /* the store's pointer to it; "" when there is none */
    uint64_t other_ns; /* when another node's dump was last seen to go on (monotonic); 0: none is */
    uint64_t dumps, failures; /* of this process */
    uint64_t overtaken;       /* dumps given up since another node's is as new */
    uint64_t last_seq, last_duration_ms, last_wall_ms, last_sent_bytes, last_skipped_bytes;
    uint64_t last_checked_bytes; /* read back from the store */
    uint64_t lies;               /* objects that the store lost or changed, found in time */
    bool last_lie;               /* the last dump found one; `lie` says which */
    char lie[DUMP_TEXT_BYTES];
    uint64_t last_pages, last_changed_pages, last_epochs;
    bool last_gap; /* the last dump does not have the epochs that lead to it */
    int error;     /* what stands in the way of dumps now; 0: nothing */
    uint32_t failures_in_a_row;
    uint64_t failed_ns; /* the last one, monotonic */
    char text[DUMP_TEXT_BYTES];
    struct object_store_counters counters;
    struct dumper_fetch fetch;
};

/* Starts the thread. 0, or MRN_ERR_INVALID (configuration), _IO, _NO_MEMORY with words in ret_text
 * (DUMP_TEXT_BYTES). */
int dumper_start(const struct dumper_setup *setup, struct dumper **ret_dumper, char *ret_text);
/* Ends what is under way, at once, and joins the thread. NULL is allowed. */
void dumper_stop(struct dumper *dumper);

/* False when it is not idle. */
bool dumper_peek(struct dumper *dumper);
/* A dump is about to be taken: others are told so, once a second at most (dump_mark_put). */
void dumper_announce(struct dumper *dumper);
/* Takes the open file over, also when it is not idle (then it is closed, and the answer false). */
bool dumper_take(struct dumper *dumper, int snapshot_fd);
/* Fetches the newest dump above `newer_than` into data_dir/tmp, taking up what an earlier try or
 * process left of it there. `pointer` (text, may be ""): tried first; then the store's own. False
 * when it is not idle; the status tells the rest. */
bool dumper_fetch(struct dumper *dumper, uint64_t newer_than, const char *pointer);
void dumper_status(struct dumper *dumper, struct dumper_status *ret_status);

/* How long a node waits after the newest dump before it makes one, in intervals. Pure. */
uint32_t dumper_patience(uint32_t node, uint32_t leader, uint32_t node_count);

#endif
