/* restore_state: the state at an exact epoch, out of a store: a dump, then the epochs after it.
 *
 *   opened --fetch the dump before--> loaded --execute each epoch--> at seq --close
 *
 * Nothing is believed: every page and every body is checked (dump_read, dump_history), and where
 * another dump lies on the way its state hash must come out.
 *
 * Threads: one that may wait. Errors, with words in `text` (DUMP_TEXT_BYTES): NOT_FOUND (the store
 * does not lead there), UNSUPPORTED (of other applications, or another version), CORRUPT, MISMATCH,
 * IO, NO_MEMORY, those of the store. */
#ifndef MAROON_RESTORE_STATE_H
#define MAROON_RESTORE_STATE_H

#include "controlplane/dump/dump_history.h"
#include "controlplane/dump/dump_read.h"
#include "runtime/runtime.h"

struct restore_hooks { /* each may be NULL */
    void (*progress)(void *context, const struct dump_progress *progress);
    /* Before the epoch is executed; its results follow. */
    void (*epoch)(void *context, const struct dump_record *record);
    void (*result)(void *context, const struct runtime_result *result);
    void (*executed)(void *context, uint64_t seq);
    void *context;
};

struct restore_state {
    struct dump_history history;
    const struct dump_manifest *base; /* NULL: from the cluster's first epoch on */
    const struct dump_manifest *any; /* a manifest of the cluster: its names, sizes, applications */
    struct runtime *runtime;
    uint64_t seq, term; /* reached */
    struct wire_hash epoch_hash, state_hash;
    /* inside */
    const struct restore_hooks *hooks;
    struct runtime_body *bodies;
    char *text;
};

#define RESTORE_NEWEST UINT64_MAX

/* Which epochs the store leads to without a gap, from what is at or before `seq` (RESTORE_NEWEST:
 * from the newest dump). Opens; nothing is fetched but manifests. `cluster_id` 0: that of the
 * newest dump. restore_state_close in any case. */
int restore_state_open(struct restore_state *state, struct dump_store *store,
                       const struct dump_key *key, uint64_t cluster_id, uint64_t seq,
                       uint64_t *ret_end, char *text);

/* Brings the state to epoch `to`, at most *ret_end. The dump's file goes to `file`, is taken up
 * when an earlier try left it there, and stays. */
int restore_state_run(struct restore_state *state, uint64_t to, const char *file,
                      const struct restore_hooks *hooks, char *text);

void restore_state_close(struct restore_state *state);

#endif
