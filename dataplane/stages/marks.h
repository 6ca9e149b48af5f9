/* stage_watch: time stamps of one transaction at a time, for the breakdown of its latency by hop.
 * Off by default (meson option perf_marks): then it is nothing at all.
 *
 *   idle --arm--> armed --a node's next body--> watched (its id) --its epoch--> (its seq)
 * --result-->
 *
 * The gateway arms; the first body that any node receives from then on is the one, so under load,
 * too, marks are of one transaction. A mark is taken only when the one before it was. The gateway
 * knows when it submitted the body, once it sees the result. Threads: one process with one lcore
 * for everything; or several processes of one machine, whose time stamp counters agree, when the
 * environment's PERF_MARKS_FILE names a file of at least a page that all of them map. */
#ifndef MAROON_STAGE_MARKS_H
#define MAROON_STAGE_MARKS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/wire.h"

enum stage_mark {
    STAGE_MARK_SUBMIT = 0, /* the gateway has the request */
    STAGE_MARK_RECEIVED,   /* the first node has the body */
    STAGE_MARK_PROPOSED,   /* the leader sends the epoch */
    STAGE_MARK_STABLE,     /* the first follower acknowledges it */
    STAGE_MARK_COMMITTED,  /* the leader has k acknowledgements */
    STAGE_MARK_EXECUTED,   /* its result is there */
    STAGE_MARK_RESULT,     /* and at the gateway */
    STAGE_MARK_COUNT
};

#define STAGE_MARK_NAMES                                                                          \
    "submit", "gateway send, node receive", "leader propose", "follower stable", "leader commit", \
        "executed", "result at gateway"

struct stage_watch {
    uint64_t at[STAGE_MARK_COUNT]; /* 0: not yet */
    uint64_t id;                   /* of the transaction; 0: none yet */
    uint64_t seq;                  /* of its epoch; 0: none yet */
    uint64_t above;                /* only a greater id */
    uint32_t armed;
};

#ifdef MAROON_PERF_MARKS
#    include <x86intrin.h>
extern volatile struct stage_watch *stage_watch; /* perhaps another process's, too */

static inline void stage_watch_mark(enum stage_mark mark) {
    if (!stage_watch->at[mark] && (mark <= STAGE_MARK_RECEIVED || stage_watch->at[mark - 1]))
        stage_watch->at[mark] = __rdtsc();
}

/* The gateway: the next body above this id is the one. What is answered comes to a slow node later.
 */
static inline void stage_watch_arm(uint64_t above) {
    stage_watch->armed = 0;
    stage_watch->id = stage_watch->seq = 0;
    stage_watch->above = above;
    for (uint32_t i = 0; i < STAGE_MARK_COUNT; i++)
        stage_watch->at[i] = 0;
    __atomic_store_n(&stage_watch->armed, 1, __ATOMIC_RELEASE); /* pairs with received */
}

static inline void stage_watch_received(uint64_t id) {
    uint64_t none = 0;
    if (!__atomic_load_n(&stage_watch->armed, __ATOMIC_ACQUIRE) || stage_watch->id ||
        id <= stage_watch->above)
        return;
    if (__atomic_compare_exchange_n(&stage_watch->id, &none, id, 0, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED))
        stage_watch_mark(STAGE_MARK_RECEIVED);
}

/* The epoch's canonical bytes, as the leader proposes it. */
static inline void stage_watch_proposed(const uint8_t *epoch) {
    const struct wire_epoch_head *head = (const void *)epoch;
    const struct wire_interval *v = wire_epoch_intervals(epoch);
    if (!stage_watch->id || stage_watch->seq)
        return;
    for (uint32_t i = 0; i < head->interval_count; i++)
        if (stage_watch->id - v[i].first_id < v[i].count) {
            stage_watch_mark(STAGE_MARK_PROPOSED);
            stage_watch->seq = head->seq;
        }
}

/* A follower acknowledges up to `seq`. */
static inline void stage_watch_stable(uint64_t seq) {
    if (stage_watch->seq && seq >= stage_watch->seq)
        stage_watch_mark(STAGE_MARK_STABLE);
}

static inline void stage_watch_committed(uint64_t seq) {
    if (stage_watch->seq == seq)
        stage_watch_mark(STAGE_MARK_COMMITTED);
}

static inline void stage_watch_executed(uint64_t id) {
    if (stage_watch->id == id)
        stage_watch_mark(STAGE_MARK_EXECUTED);
}
#else
static inline void stage_watch_received(uint64_t id) {
    (void)id;
}
static inline void stage_watch_proposed(const uint8_t *epoch) {
    (void)epoch;
}
static inline void stage_watch_stable(uint64_t seq) {
    (void)seq;
}
static inline void stage_watch_committed(uint64_t seq) {
    (void)seq;
}
static inline void stage_watch_executed(uint64_t id) {
    (void)id;
}
#endif

/* Where a pass spends its time, by part: count, sum, longest, and how often over 100 us. In a build
 * with marks the process says it on stderr when it ends, if the environment has PERF_PARTS. One
 * thread: parts of several would mix. */
enum stage_part {
    STAGE_PART_INGRESS = 0,
    STAGE_PART_FETCH,
    STAGE_PART_GOSSIP,
    STAGE_PART_EXECUTE,
    STAGE_PART_HASH, /* of the state; within EXECUTE */
    STAGE_PART_SEND,
    STAGE_PART_IDLE, /* yielding and sleeping */
    STAGE_PART_PASS, /* from one pass's begin to the next */
    STAGE_PART_COUNT
};

#define STAGE_PART_NAMES \
    "ingress", "fetch", "gossip", "execute", "state hash", "send", "idle", "pass"

#ifdef MAROON_PERF_MARKS
void stage_part_add(enum stage_part part, uint64_t tsc);
static inline uint64_t stage_part_begin(void) {
    return __rdtsc();
}
static inline uint64_t stage_part_end(enum stage_part part, uint64_t begun) {
    uint64_t now = __rdtsc();
    stage_part_add(part, now - begun);
    return now;
}
#else
static inline uint64_t stage_part_begin(void) {
    return 0;
}
static inline uint64_t stage_part_end(enum stage_part part, uint64_t begun) {
    (void)part;
    return begun;
}
#endif

#endif
