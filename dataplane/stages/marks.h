/* stage_mark: time stamps of the one transaction that is under way, for the breakdown of its
 * latency by hop. Off by default (meson option perf_marks): then it is nothing at all.
 *
 * A mark is taken only when the one before it was, so that heartbeats and later copies of the same
 * event do not count. SUBMIT begins anew. Threads: one process with one lcore for everything; or
 * several processes of one machine, whose time stamp counters agree, when the environment's
 * PERF_MARKS_FILE names a file of at least a page that all of them map. */
#ifndef MAROON_STAGE_MARKS_H
#define MAROON_STAGE_MARKS_H

#include <stdbool.h>
#include <stdint.h>

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

#ifdef MAROON_PERF_MARKS
#    include <x86intrin.h>
extern uint64_t *stage_marks;

static inline void stage_mark(enum stage_mark mark) {
    volatile uint64_t *marks = stage_marks; /* perhaps another process's, too */
    if (mark == STAGE_MARK_SUBMIT) {
        for (uint32_t i = 1; i < STAGE_MARK_COUNT; i++)
            marks[i] = 0;
        marks[mark] = __rdtsc();
    } else if (!marks[mark] && marks[mark - 1])
        marks[mark] = __rdtsc();
}

/* False when a mark is missing. */
static inline bool stage_marks_read(uint64_t *ret_marks) {
    for (uint32_t i = 0; i < STAGE_MARK_COUNT; i++) {
        if (!stage_marks[i])
            return false;
        ret_marks[i] = stage_marks[i];
    }
    return true;
}
#else
static inline void stage_mark(enum stage_mark mark) {
    (void)mark;
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
