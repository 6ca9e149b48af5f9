/* stretches: committed epochs with their bodies out of our journal, for a peer that lacks what we
 * no longer keep in memory.
 *
 *   want --queue--> a thread reads the journal into data_dir/tmp/stretch-N --> ready, once
 *
 * Threads: the loop's, and one of its own that reads. An answer holds STRETCHES_BYTES_MAX at most:
 * the asker comes again. Errors of `ready`: NOT_FOUND (the journal begins later, or there is none),
 * CLOSED, IO, NO_SPACE, NO_MEMORY, FULL (too many wait). */
#ifndef MAROON_STRETCHES_H
#define MAROON_STRETCHES_H

#include "controlplane/loop.h"
#include "proto/wire.h"

#define STRETCHES_BYTES_MAX (UINT64_C(256) << 20)

struct stretches;

/* `path` stays valid for this call only: open it. Up to `seq`. */
typedef void (*stretches_ready)(void *context, int error, const char *path, uint64_t seq);

struct stretches_setup {
    struct loop *loop;
    const char *data_dir; /* with journal/ and tmp/ */
    struct wire_digest_key digest_key;
    uint64_t bytes_max; /* of an answer, about; 0: STRETCHES_BYTES_MAX */
};

/* NULL without memory or thread. */
struct stretches *stretches_create(const struct stretches_setup *setup);
/* Who waits is told CLOSED. NULL is allowed. */
void stretches_destroy(struct stretches *stretches);

/* Epochs above `after_seq` up to `to_seq`, which is executed here under `to_hash`. `ready` comes
 * later, never from within the call, unless it is FULL or NO_MEMORY. */
void stretches_want(struct stretches *stretches, uint64_t after_seq, uint64_t to_seq,
                    const struct wire_hash *to_hash, stretches_ready ready, void *context);

struct stretches_counters {
    uint64_t served, failed, bytes;
};
void stretches_counters(const struct stretches *stretches, struct stretches_counters *ret_counters);

#endif
