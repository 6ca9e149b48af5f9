/* snapshot: files of the runtime's whole state, taken for peers, fetched from the store or from
 * peers.
 *
 *   a peer's GET /v1/snapshot --snapshot_want--> (DOWN_SNAPSHOT_TAKE ... UP_SNAPSHOT_READY) -->
 * path UP_NEED_SNAPSHOT --> one source after the other, until something newer is here:
 *       stretch  GET /v1/stretch: the epochs since, out of a peer's journal --> DOWN_LEARN
 *       store    the newest dump --> DOWN_SNAPSHOT_RESTORE
 *       peer     GET /v1/snapshot                 (all into data_dir/tmp)
 *
 * Who needs the same again after a stretch, because the dataplane could not use it, passes that
 * source over. A peer that does not answer is passed over at once.
 *
 * Who has nothing begins with the store, which costs the peers nothing; what came after the dump
 * lies in their journals. After the last source it begins anew, with the next peer, after a while.
 *
 * What a file holds is the dataplane's affair: it writes, checks and loads it.
 * Threads: the loop's. */
#ifndef MAROON_SNAPSHOT_H
#define MAROON_SNAPSHOT_H

#include "controlplane/arbiter.h"
#include "controlplane/dump/dumper.h"
#include "controlplane/fetch_costs.h"
#include "controlplane/http_client.h"
#include "controlplane/loop.h"
#include "dataplane/stages/mailbox.h"

struct snapshot;

/* `path` stays valid for this call only: open it. */
typedef void (*snapshot_ready)(void *context, int error, const char *path, uint64_t seq);

struct snapshot_setup {
    struct loop *loop;
    struct http_client *http;
    const struct control_config *config;
    struct arbiter *arbiter; /* for the peers' admin addresses */
    void (*send_down)(void *context, const struct mailbox_down *message);
    void *context;
};

/* Makes and empties data_dir/tmp. Returns NULL when that fails. */
struct snapshot *snapshot_create(const struct snapshot_setup *setup);
/* Waiting `ready` callbacks are called with MRN_ERR_CLOSED. */
void snapshot_destroy(struct snapshot *snapshot);

/* A snapshot with seq > newer_than that is at most 10 s old, taken now if need be. Calls `ready`
 * once, possibly before it returns. */
void snapshot_want(struct snapshot *snapshot, uint64_t newer_than, snapshot_ready ready,
                   void *context);

/* The dumper's store is a source from now on; NULL: no more. */
void snapshot_use_store(struct snapshot *snapshot, struct dumper *dumper);

/* A bootstrap: the node lacks what its peers no longer keep. */
enum snapshot_stage {
    SNAPSHOT_IDLE = 0,
    SNAPSHOT_WAITING, /* for another try */
    SNAPSHOT_STORE,   /* a dump is being fetched */
    SNAPSHOT_PEER,    /* a peer's snapshot is */
    SNAPSHOT_RESTORING,
    SNAPSHOT_STRETCH, /* epochs of a peer's journal are being fetched */
    SNAPSHOT_LEARNING /* and taken */
};
struct snapshot_bootstrap {
    enum snapshot_stage stage;
    uint64_t needed_seq;             /* newer than this */
    struct dump_progress progress;   /* STORE */
    uint64_t loaded_bytes;           /* PEER, STRETCH */
    uint64_t since_ns;               /* of the need, monotonic; 0: there was none */
    uint64_t from_store, from_peers; /* restored, of this process */
    uint64_t stretches;              /* learned, of this process */
    uint64_t failures;               /* fetches that came to nothing */
    uint64_t last_seq;               /* restored last */
    struct fetch_costs costs[FETCH_SOURCE_COUNT];
};
void snapshot_bootstrap(const struct snapshot *snapshot, struct snapshot_bootstrap *ret_bootstrap);
const char *snapshot_stage_name(enum snapshot_stage stage);

/* Messages of the mailbox. */
void snapshot_taken(struct snapshot *snapshot, const struct mailbox_up *message);
void snapshot_needed(struct snapshot *snapshot, const struct mailbox_up *message);
void snapshot_learned(struct snapshot *snapshot, const struct mailbox_up *message);
void snapshot_restored(struct snapshot *snapshot, const struct mailbox_up *message);

#endif
