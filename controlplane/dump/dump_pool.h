/* dump_pool: some threads for what costs processor time, beside a loop that carries the bytes.
 *
 *   dump_pool_put --> run, on a worker --> done, on the loop's thread, in any order
 *
 * Threads: the loop's; `run` is a worker's: what it touches is the job's, or nobody else's
 * meanwhile. Ownership: a job is its maker's, and must stay until `done`, or until
 * dump_pool_stop has returned.
 * Errors: NO_MEMORY (no thread to be had). */
#ifndef MAROON_DUMP_POOL_H
#define MAROON_DUMP_POOL_H

#include "controlplane/dump/dump_object.h"
#include "controlplane/loop.h"

/* A worker's own memory, reused from job to job. */
struct dump_rooms {
    struct dump_bytes first, second;
};

struct dump_job {
    void (*run)(struct dump_job *job, struct dump_rooms *rooms);
    void (*done)(struct dump_job *job);
    struct dump_job *next; /* the pool's */
};

struct dump_pool;

/* One worker more than this thread may use processors, 5 at most. */
int dump_pool_start(struct loop *loop, struct dump_pool **ret_pool);
void dump_pool_put(struct dump_pool *pool, struct dump_job *job);
/* Ends what runs; of that and of what has not begun, `done` is not called. NULL is allowed. */
void dump_pool_stop(struct dump_pool *pool);

#endif
