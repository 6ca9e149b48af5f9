/* The gateway library, inside: shared by client.c (its thread, open, close) and client_calls.c
 * (what programs asked for, and their answers).
 *
 * A call's way:   incoming --thread--> waiting --core takes it--> outstanding --result--> freed
 *                 incoming --thread--> queries --answered or timed out--> freed
 * It may be answered before (at its deadline, or when it is sent) and stays until its result.
 * Threads: incoming, facts, closing and the answers to poll are guarded by mutex; the rest is the
 * library's thread's. Ownership: a call belongs to the list it is in. */
#ifndef MAROON_GATEWAY_CLIENT_INTERNAL_H
#define MAROON_GATEWAY_CLIENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "dataplane/stages/port.h"
#include "gateway/core/gateway_core.h"
#include <maroon/gateway.h>

struct call {
    struct call *next, *previous;
    bool query, answer_when_sent, answered, has_key;
    uint64_t id;         /* MRN_GATEWAY_ID_NONE: not sent, or sealed off */
    uint32_t owner_mark; /* of a query */
    uint64_t since_us, timeout_us, repeat_us;
    uint32_t service, method, length_bytes;
    uint8_t key[16], hash[16];
    mrn_gateway_callback callback;
    void *user;
    uint8_t bytes[];
};

struct calls {
    struct call *first, *last;
    uint32_t count;
};

struct ready { /* an answer for mrn_gateway_poll */
    struct ready *next;
    struct mrn_gateway_answer answer;
    uint8_t bytes[];
};

struct mrn_gateway {
    struct mrn_gateway_config config;
    struct net *net;
    struct port port;
    struct gateway_core *core;
    void *core_memory;
    uint64_t owner, now_us, heard_us; /* heard_us: a node was heard lately */
    struct net_peer *peers[MRN_GATEWAY_NODES_MAX];
    pthread_t thread;

    pthread_mutex_t mutex;
    struct calls incoming;
    uint32_t waiting_count;
    struct mrn_gateway_facts facts;
    bool closing;
    pthread_cond_t ready_cond;
    struct ready *ready_first, **ready_last;

    struct ready *given; /* by the last mrn_gateway_poll */
    struct calls waiting, outstanding, queries;
    int waiting_error; /* why the first one waits */
    int wake_fd;
    _Atomic bool asleep;
    _Atomic uint32_t room; /* bodies that could be sent now, less those that wait */
    uint64_t latency_count, latency_sum_us, latency[MRN_GATEWAY_BUCKETS];
};

uint64_t gateway_clock_us(void);

void gateway_calls_open(struct mrn_gateway *g);

/* Calls of programs into the thread's lists. */
void gateway_calls_take(struct mrn_gateway *g);
/* Gives the core what it takes, asks for what is queried. */
void gateway_calls_run(struct mrn_gateway *g);
/* Answers those whose time is over. */
void gateway_calls_expire(struct mrn_gateway *g);
/* What the core says of them. */
void gateway_calls_done(struct mrn_gateway *g, const struct gateway_core_done *done);
void gateway_calls_state(struct mrn_gateway *g, const struct gateway_core_state *state);
void gateway_calls_event(struct mrn_gateway *g, const struct gateway_core_event *event);
/* Answers all that are left: the thread has ended, and `closing` is set. */
void gateway_calls_end(struct mrn_gateway *g);
/* Frees what no poll took. */
void gateway_calls_close(struct mrn_gateway *g);

#endif
