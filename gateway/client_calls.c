/* What programs asked the library for, from submission to answer. */
#include "gateway/client_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/retired.h"
#include <maroon/error.h>

#define QUEUE_MAX 65536
#define QUERY_TIMEOUT_US 3000000
#define QUERY_REPEAT_US 100000

/* ---- lists ---- */

static void list_push(struct calls *c, struct call *call) {
    call->next = NULL;
    call->previous = c->last;
    *(c->last ? &c->last->next : &c->first) = call;
    c->last = call;
    c->count++;
}

static struct call *list_remove(struct calls *c, struct call *call) {
    *(call->previous ? &call->previous->next : &c->first) = call->next;
    *(call->next ? &call->next->previous : &c->last) = call->previous;
    c->count--;
    return call;
}

/* ---- answers ---- */

static void put_ready(struct mrn_gateway *g, const struct mrn_gateway_answer *answer) {
    struct ready *ready = malloc(sizeof *ready + answer->length_bytes);
    if (!ready)
        abort(); /* an answer may not be lost, and there is no memory to say so */
    ready->next = NULL;
    ready->answer = *answer;
    ready->answer.bytes = ready->bytes;
    if (answer->length_bytes)
        memcpy(ready->bytes, answer->bytes, answer->length_bytes);
    pthread_mutex_lock(&g->mutex);
    *g->ready_last = ready;
    g->ready_last = &ready->next;
    pthread_cond_signal(&g->ready_cond);
    pthread_mutex_unlock(&g->mutex);
}

/* Once for each call; its id is then known outside. */
static void call_answer(struct mrn_gateway *g, struct call *call,
                        const struct mrn_gateway_answer *answer) {
    if (call->answered)
        return;
    call->answered = true;
    struct mrn_gateway_answer told = *answer;
    told.user = call->user;
    told.owner_mark = call->query ? call->owner_mark : retired_mark(g->owner);
    if (call->callback)
        call->callback(call->user, &told);
    else
        put_ready(g, &told);
}

static void call_fail(struct mrn_gateway *g, struct call *call, int error) {
    struct mrn_gateway_answer answer = {.id = call->id, .error = error};
    call_answer(g, call, &answer);
}

uint32_t mrn_gateway_poll(struct mrn_gateway *g, struct mrn_gateway_answer *ret_answers,
                          uint32_t max, uint64_t timeout_us) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)(timeout_us / 1000000);
    until.tv_nsec += (long)(timeout_us % 1000000 * 1000);
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    while (g->given) {
        struct ready *next = g->given->next;
        free(g->given);
        g->given = next;
    }
    uint32_t count = 0;
    struct ready **last = &g->given;
    pthread_mutex_lock(&g->mutex);
    while (!g->ready_first && timeout_us && !g->closing)
        if (pthread_cond_timedwait(&g->ready_cond, &g->mutex, &until) == ETIMEDOUT)
            break;
    while (count < max && g->ready_first) {
        struct ready *ready = g->ready_first;
        g->ready_first = ready->next;
        if (!g->ready_first)
            g->ready_last = &g->ready_first;
        ret_answers[count++] = ready->answer;
        ready->next = NULL;
        *last = ready;
        last = &ready->next;
    }
    pthread_mutex_unlock(&g->mutex);
    return count;
}

/* ---- from programs ---- */

static int enqueue(struct mrn_gateway *g, struct call *call) {
    pthread_mutex_lock(&g->mutex);
    int error = g->closing                                          ? MRN_ERR_CLOSED
                : g->incoming.count + g->waiting_count >= QUEUE_MAX ? MRN_ERR_FULL
                                                                    : 0;
    if (!error)
        list_push(&g->incoming, call);
    pthread_mutex_unlock(&g->mutex);
    if (error) {
        free(call);
        return error;
    }
    uint64_t one = 1;
    if (atomic_load(&g->asleep))
        (void)!write(g->wake_fd, &one, sizeof one);
    return 0;
}

static void set_key(struct call *call, const struct mrn_gateway_request *request) {
    uint32_t names[2] = {call->service, call->method};
    struct wire_hash hash = wire_hash_blake2b(request->key, request->key_bytes);
    call->has_key = true;
    memcpy(call->key, hash.bytes, sizeof call->key);
    hash = wire_hash_blake2b_pair(names, sizeof names, request->bytes, request->length_bytes);
    memcpy(call->hash, hash.bytes, sizeof call->hash);
}

int mrn_gateway_submit(struct mrn_gateway *g, const struct mrn_gateway_request *request,
                       mrn_gateway_callback callback, void *user) {
    if (request->length_bytes > g->config.transaction_max_bytes ||
        request->key_bytes > MRN_GATEWAY_KEY_MAX_BYTES)
        return MRN_ERR_TOO_LARGE;
    struct call *call = calloc(1, sizeof *call + request->length_bytes);
    if (!call)
        return MRN_ERR_NO_MEMORY;
    call->id = MRN_GATEWAY_ID_NONE;
    call->service = wire_name_id(request->service, strlen(request->service));
    call->method = wire_name_id(request->method, strlen(request->method));
    call->callback = callback;
    call->user = user;
    call->since_us = gateway_clock_us();
    call->timeout_us = request->timeout_us ? request->timeout_us : g->config.request_timeout_us;
    call->answer_when_sent = request->answer_when_sent;
    call->length_bytes = (uint32_t)request->length_bytes;
    if (request->length_bytes)
        memcpy(call->bytes, request->bytes, request->length_bytes);
    if (request->key)
        set_key(call, request);
    return enqueue(g, call);
}

uint32_t mrn_gateway_method_key(const char *service, const char *method) {
    return wire_method_key(wire_name_id(service, strlen(service)),
                           wire_name_id(method, strlen(method)));
}

int mrn_gateway_query(struct mrn_gateway *g, uint64_t id, uint32_t owner_mark,
                      mrn_gateway_callback callback, void *user) {
    struct call *call = calloc(1, sizeof *call);
    if (!call)
        return MRN_ERR_NO_MEMORY;
    call->query = true;
    call->id = id;
    call->owner_mark = owner_mark;
    call->callback = callback;
    call->user = user;
    call->since_us = gateway_clock_us();
    return enqueue(g, call);
}

uint32_t mrn_gateway_window(struct mrn_gateway *g) {
    uint32_t room = atomic_load_explicit(&g->room, memory_order_relaxed);
    pthread_mutex_lock(&g->mutex);
    uint32_t ahead = g->incoming.count;
    pthread_mutex_unlock(&g->mutex);
    return room > ahead ? room - ahead : 0;
}

/* ---- the thread ---- */

void gateway_calls_take(struct mrn_gateway *g) {
    pthread_mutex_lock(&g->mutex);
    struct call *call = g->incoming.first;
    g->incoming = (struct calls){0};
    pthread_mutex_unlock(&g->mutex);
    for (struct call *next; call; call = next) {
        next = call->next;
        list_push(call->query ? &g->queries : &g->waiting, call);
    }
}

static void submit_waiting(struct mrn_gateway *g) {
    while (g->waiting.first) {
        struct call *call = g->waiting.first;
        int error = gateway_core_submit(
            g->core, g->now_us, call->service, call->method, call->bytes, call->length_bytes,
            call->has_key ? call->key : NULL, call->hash, call, &call->id);
        g->waiting_error = error;
        if (error == MRN_ERR_FULL || error == MRN_ERR_UNAVAILABLE)
            return;
        list_remove(&g->waiting, call);
        if (!error) {
            call->id = MRN_GATEWAY_ID_NONE; /* until it is sent */
            list_push(&g->outstanding, call);
            continue;
        }
        call_fail(g, call, error);
        free(call);
    }
}

static void run_queries(struct mrn_gateway *g) {
    struct call *call = g->queries.first;
    if (!call || g->now_us < call->repeat_us)
        return;
    if (!call->repeat_us)
        call->since_us = g->now_us; /* one at a time: its turn begins */
    if (g->now_us - call->since_us > QUERY_TIMEOUT_US) {
        call_fail(g, list_remove(&g->queries, call), MRN_ERR_TIMEOUT);
        free(call);
        return;
    }
    call->repeat_us = g->now_us + QUERY_REPEAT_US;
    gateway_core_query(g->core, g->now_us, call->id, call->owner_mark);
}

void gateway_calls_run(struct mrn_gateway *g) {
    submit_waiting(g);
    run_queries(g);
}

void gateway_calls_expire(struct mrn_gateway *g) {
    struct call *next;
    for (struct call *call = g->waiting.first; call; call = next) {
        next = call->next;
        if (g->now_us < call->since_us + call->timeout_us)
            continue;
        call_fail(g, list_remove(&g->waiting, call), g->waiting_error);
        free(call);
    }
    for (struct call *call = g->outstanding.first; call; call = call->next) {
        if (call->answered || g->now_us < call->since_us + call->timeout_us)
            continue;
        if (call->id != MRN_GATEWAY_ID_NONE)
            gateway_core_keep_id(g->core, call->id);
        call_fail(g, call, MRN_ERR_TIMEOUT); /* it stays until its result comes */
    }
}

static void observe(struct mrn_gateway *g, const struct mrn_gateway_event *event) {
    if (g->config.observer)
        g->config.observer(g->config.observer_user, event);
}

void gateway_calls_done(struct mrn_gateway *g, const struct gateway_core_done *done) {
    struct mrn_gateway_answer answer = {.id = done->id,
                                        .epoch_seq = done->epoch_seq,
                                        .logical_time_us = done->logical_time_us,
                                        .latency_us = done->latency_us,
                                        .code = done->code,
                                        .outcome = WIRE_TX_EXECUTED,
                                        .bytes = done->bytes,
                                        .length_bytes = done->length_bytes};
    if (done->epoch_seq || done->code == GATEWAY_CORE_EXPIRED) {
        struct mrn_gateway_event event = {MRN_GATEWAY_EXECUTED, done->id, done->epoch_seq,
                                          done->latency_us, done->code};
        uint32_t bucket = done->latency_us ? 64 - (uint32_t)__builtin_clzll(done->latency_us) : 0;
        g->latency[bucket < MRN_GATEWAY_BUCKETS ? bucket : MRN_GATEWAY_BUCKETS - 1]++;
        g->latency_count++;
        g->latency_sum_us += done->latency_us;
        observe(g, &event);
    }
    struct call *call = done->user;
    call_answer(g, list_remove(&g->outstanding, call), &answer);
    free(call);
}

void gateway_calls_state(struct mrn_gateway *g, const struct gateway_core_state *state) {
    struct call *call = g->queries.first;
    if (!call || call->id != state->id || !call->repeat_us) /* of one before it, given up */
        return;
    struct mrn_gateway_answer answer = {.id = state->id,
                                        .epoch_seq = state->epoch_seq,
                                        .outcome = state->outcome,
                                        .code = state->code,
                                        .method_key = state->method_key,
                                        .bytes = state->bytes,
                                        .length_bytes = state->length_bytes};
    call_answer(g, list_remove(&g->queries, call), &answer);
    free(call);
}

void gateway_calls_event(struct mrn_gateway *g, const struct gateway_core_event *event) {
    struct mrn_gateway_event told = {.id = event->id};
    struct call *call = event->user;
    switch (event->kind) {
    case GATEWAY_CORE_SENT:
        told.kind = MRN_GATEWAY_SENT;
        call->id = event->id;
        break;
    case GATEWAY_CORE_COMMITTED: told.kind = MRN_GATEWAY_COMMITTED; break;
    case GATEWAY_CORE_SEALED:
        told.kind = MRN_GATEWAY_SEALED;
        call->id = MRN_GATEWAY_ID_NONE;
        break;
    }
    observe(g, &told);
    if (told.kind == MRN_GATEWAY_SENT && call->answer_when_sent && !call->answered) {
        struct mrn_gateway_answer answer = {.id = call->id, .outcome = WIRE_TX_PENDING};
        gateway_core_keep_id(g->core, call->id);
        call_answer(g, call, &answer);
    }
}

/* ---- open and close ---- */

void gateway_calls_open(struct mrn_gateway *g) {
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_mutex_init(&g->mutex, NULL);
    pthread_cond_init(&g->ready_cond, &attributes);
    pthread_condattr_destroy(&attributes);
    g->ready_last = &g->ready_first;
    g->waiting_error = MRN_ERR_UNAVAILABLE;
}

static void end_all(struct mrn_gateway *g, struct calls *calls) {
    while (calls->first) {
        struct call *call = list_remove(calls, calls->first);
        call_fail(g, call, MRN_ERR_CLOSED);
        free(call);
    }
}

static void free_ready(struct ready *ready) {
    for (struct ready *next; ready; ready = next) {
        next = ready->next;
        free(ready);
    }
}

void gateway_calls_end(struct mrn_gateway *g) {
    gateway_calls_take(g); /* no more come in */
    end_all(g, &g->outstanding);
    end_all(g, &g->waiting);
    end_all(g, &g->queries);
}

void gateway_calls_close(struct mrn_gateway *g) {
    free_ready(g->given);
    free_ready(g->ready_first);
    pthread_cond_destroy(&g->ready_cond);
    pthread_mutex_destroy(&g->mutex);
}
