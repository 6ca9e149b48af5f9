/* snapshot: files of the runtime's whole state, taken for peers and fetched from them.
 *
 *   a peer's GET /v1/snapshot --snapshot_want--> (DOWN_SNAPSHOT_TAKE ... UP_SNAPSHOT_READY) -->
 * path UP_NEED_SNAPSHOT --> GET from a peer into data_dir/tmp --> DOWN_SNAPSHOT_RESTORE
 *       --> UP_RESTORED: done, or the next peer after a while
 *
 * What a file holds is the dataplane's affair: it writes, checks and loads it.
 * Threads: the loop's. */
#ifndef MAROON_SNAPSHOT_H
#define MAROON_SNAPSHOT_H

#include "controlplane/arbiter.h"
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
    const struct arbiter *arbiter; /* for the peers' admin addresses */
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

/* Messages of the mailbox. */
void snapshot_taken(struct snapshot *snapshot, const struct mailbox_up *message);
void snapshot_needed(struct snapshot *snapshot, const struct mailbox_up *message);
void snapshot_restored(struct snapshot *snapshot, const struct mailbox_up *message);

#endif
