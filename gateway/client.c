#include <pthread.h>
#include <sched.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/stages/outbox.h"
#include "gateway/core/gateway_core.h"
#include <maroon/error.h>
#include <maroon/gateway.h>

#define QUEUE_MAX 65536
#define QUERY_TIMEOUT_US 3000000
#define QUERY_REPEAT_US 100000

struct call {
    struct call *next;
    bool query;
    uint64_t id, since_us, repeat_us;
    uint32_t service, method, length_bytes;
    bool has_key;
    uint8_t key[16], hash[16];
    mrn_gateway_callback callback;
    void *user;
    uint8_t bytes[];
};

struct calls {
    struct call *first, **last;
    uint32_t count;
};

struct mrn_gateway {
    struct mrn_gateway_config config;
    struct net *net;
    struct net_endpoint *endpoint;
    struct net_sessions *sessions;
    struct outbox outbox;
    struct gateway_core *core;
    void *core_memory;
    uint64_t owner, now_us;
    struct net_peer *peers[MRN_GATEWAY_NODES_MAX];
    pthread_t thread;
    pthread_mutex_t mutex; /* guards the next four */
    struct calls incoming;
    uint32_t waiting_count;
    struct mrn_gateway_facts facts;
    bool closing;
    struct calls waiting, queries; /* the thread's own */
    int wake_fd;
    _Atomic bool asleep;
    uint64_t latency_count, latency_sum_us, latency[MRN_GATEWAY_BUCKETS];
};

static uint64_t clock_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void calls_init(struct calls *c) {
    *c = (struct calls){.last = &c->first};
}

static void calls_push(struct calls *c, struct call *call) {
    call->next = NULL;
    *c->last = call;
    c->last = &call->next;
    c->count++;
}

static struct call *calls_pop(struct calls *c) {
    struct call *call = c->first;
    if (!call)
        return NULL;
    c->first = call->next;
    if (!c->first)
        c->last = &c->first;
    c->count--;
    return call;
}

static void call_end(struct call *call, const struct mrn_gateway_answer *answer) {
    call->callback(call->user, answer);
    free(call);
}

/* ---- what the core wants ---- */

static void core_send(void *context, uint8_t node, enum wire_kind kind, const void *payload,
                      uint32_t payload_bytes, const void *tail, uint32_t tail_bytes) {
    struct mrn_gateway *g = context;
    stage_outbox_frame(&g->outbox, g->peers[node], g->now_us, kind, 0, payload, payload_bytes, tail,
                       tail_bytes);
}

static void core_done(void *context, const struct gateway_core_done *done) {
    struct mrn_gateway *g = context;
    struct mrn_gateway_answer answer = {.id = done->id,
                                        .epoch_seq = done->epoch_seq,
                                        .logical_time_us = done->logical_time_us,
                                        .latency_us = done->latency_us,
                                        .code = done->code,
                                        .bytes = done->bytes,
                                        .length_bytes = done->length_bytes};
    uint32_t bucket = done->latency_us ? 64 - (uint32_t)__builtin_clzll(done->latency_us) : 0;
    g->latency[bucket < MRN_GATEWAY_BUCKETS ? bucket : MRN_GATEWAY_BUCKETS - 1]++;
    g->latency_count++;
    g->latency_sum_us += done->latency_us;
    call_end(done->user, &answer);
}

static void core_state(void *context, const struct gateway_core_state *state) {
    struct mrn_gateway *g = context;
    struct call *call = g->queries.first;
    if (!call || call->id != state->id)
        return;
    struct mrn_gateway_answer answer = {.id = state->id,
                                        .epoch_seq = state->epoch_seq,
                                        .outcome = state->outcome,
                                        .code = state->code,
                                        .method_key = state->method_key,
                                        .bytes = state->bytes,
                                        .length_bytes = state->length_bytes};
    call_end(calls_pop(&g->queries), &answer);
}

static void core_ranges(void *context, const uint64_t ranges[2]) {
    struct mrn_gateway *g = context;
    net_session_set_ranges(g->sessions, ranges);
}

/* ---- the thread ---- */

static void take_incoming(struct mrn_gateway *g) {
    struct calls taken;
    pthread_mutex_lock(&g->mutex);
    taken = g->incoming;
    if (!taken.first)
        taken.last = &taken.first;
    calls_init(&g->incoming);
    pthread_mutex_unlock(&g->mutex);
    for (struct call *call = taken.first, *next; call; call = next) {
        next = call->next;
        calls_push(call->query ? &g->queries : &g->waiting, call);
    }
}

static void submit_waiting(struct mrn_gateway *g) {
    while (g->waiting.first) {
        struct call *call = g->waiting.first;
        uint64_t id;
        int error = gateway_core_submit(g->core, g->now_us, call->service, call->method,
                                        call->bytes, call->length_bytes,
                                        call->has_key ? call->key : NULL, call->hash, call, &id);
        bool later = error == MRN_ERR_FULL || error == MRN_ERR_UNAVAILABLE;
        if (later && g->now_us - call->since_us < g->config.request_timeout_us)
            return;
        calls_pop(&g->waiting);
        if (error) {
            struct mrn_gateway_answer answer = {.error = error};
            call_end(call, &answer);
        }
    }
}

static void run_queries(struct mrn_gateway *g) {
    struct call *call = g->queries.first;
    if (!call || g->now_us < call->repeat_us)
        return;
    if (call->repeat_us && g->now_us - call->since_us > QUERY_TIMEOUT_US) {
        struct mrn_gateway_answer answer = {.id = call->id, .error = MRN_ERR_TIMEOUT};
        call_end(calls_pop(&g->queries), &answer);
        return;
    }
    call->repeat_us = g->now_us + QUERY_REPEAT_US;
    gateway_core_query(g->core, g->now_us, call->id);
}

static uint32_t receive(struct mrn_gateway *g) {
    struct net_packet packets[NET_BURST_COUNT];
    uint32_t count = net_rx(g->endpoint, g->now_us, packets, NET_BURST_COUNT);
    for (uint32_t i = 0; i < count; i++) {
        struct net_received received;
        if (net_session_receive(g->sessions, packets[i].bytes, packets[i].length_bytes,
                                packets[i].address, g->now_us, &received) != WIRE_DROP_NONE)
            continue;
        uint8_t node = 0;
        while (node < g->config.node_count && g->peers[node] != received.peer)
            node++;
        struct wire_frame frame;
        enum wire_drop drop;
        int more;
        while ((more = wire_frame_next(&received.cursor, &frame, &drop)) != 0)
            if (more > 0 && node < g->config.node_count && frame.kind != WIRE_HELLO)
                (void)gateway_core_frame(g->core, g->now_us, node, &frame);
    }
    net_packets_free(packets, count);
    return count;
}

static void publish(struct mrn_gateway *g) {
    struct gateway_core_facts c;
    struct net_counters n;
    gateway_core_facts(g->core, g->now_us, &c);
    net_endpoint_counters(g->endpoint, &n);
    struct mrn_gateway_facts f = {.range = c.range,
                                  .next_range = c.next_range,
                                  .owner = g->owner,
                                  .configuration_id = net_session_configuration(g->sessions),
                                  .offset = c.offset,
                                  .committed = c.committed,
                                  .limit = c.limit,
                                  .outstanding = c.outstanding_parts,
                                  .waiting = g->waiting.count,
                                  .nodes_heard = c.nodes_heard,
                                  .node_count = g->config.node_count,
                                  .leader = c.leader,
                                  .ready = c.range != WIRE_RANGE_NONE && c.leader != 255 &&
                                           c.nodes_heard > 0,
                                  .range_outcome = c.range_outcome,
                                  .range_held_by = c.range_held_by,
                                  .submitted = c.submitted,
                                  .answered = c.answered,
                                  .resent = c.resent,
                                  .window_full = c.window_full,
                                  .sealed = c.sealed,
                                  .queries = c.queries,
                                  .rx_packets = n.rx_packets,
                                  .tx_packets = n.tx_packets,
                                  .latency_count = g->latency_count,
                                  .latency_sum_us = g->latency_sum_us};
    memcpy(f.latency, g->latency, sizeof f.latency);
    pthread_mutex_lock(&g->mutex);
    g->facts = f;
    g->waiting_count = g->waiting.count;
    pthread_mutex_unlock(&g->mutex);
}

static void sleep_until_news(struct mrn_gateway *g, uint32_t passes, bool outstanding) {
    if (g->config.busy || passes < 64)
        return;
    if (passes < 256 && outstanding) {
        sched_yield();
        return;
    }
    atomic_store(&g->asleep,
                 true); /* pairs with the load in enqueue: either it sees us or we see its call */
    pthread_mutex_lock(&g->mutex);
    bool news = g->incoming.first || g->closing;
    pthread_mutex_unlock(&g->mutex);
    if (!news)
        net_wait(g->net, 0, outstanding ? 1000 : 10000, &g->wake_fd, 1);
    atomic_store(&g->asleep, false);
    uint64_t drained;
    (void)!read(g->wake_fd, &drained, sizeof drained);
}

static void *run(void *argument) {
    struct mrn_gateway *g = argument;
    uint32_t idle = 0;
    uint64_t published_us = 0;
    bool closing = false;
    (void)net_thread_enter();
    while (!closing) {
        g->now_us = clock_us();
        uint32_t work = receive(g);
        take_incoming(g);
        uint32_t waited = g->waiting.count;
        submit_waiting(g);
        run_queries(g);
        gateway_core_tick(g->core, g->now_us);
        stage_outbox_flush(&g->outbox, g->now_us);
        if (g->now_us - published_us > 10000) {
            publish(g);
            published_us = g->now_us;
        }
        struct gateway_core_facts c;
        gateway_core_facts(g->core, g->now_us, &c);
        idle = work || g->waiting.count != waited ? 0 : idle + 1;
        sleep_until_news(g, idle, c.outstanding_parts || g->waiting.count || g->queries.count);
        pthread_mutex_lock(&g->mutex);
        closing = g->closing;
        pthread_mutex_unlock(&g->mutex);
    }
    net_thread_leave();
    return NULL;
}

/* ---- the interface ---- */

static int enqueue(struct mrn_gateway *g, struct call *call) {
    pthread_mutex_lock(&g->mutex);
    int error = g->closing                                          ? MRN_ERR_CLOSED
                : g->incoming.count + g->waiting_count >= QUEUE_MAX ? MRN_ERR_FULL
                                                                    : 0;
    if (!error)
        calls_push(&g->incoming, call);
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

int mrn_gateway_submit(struct mrn_gateway *g, const char *service, const char *method,
                       const void *request, size_t request_bytes, const void *key, size_t key_bytes,
                       mrn_gateway_callback callback, void *user) {
    if (request_bytes > g->config.transaction_max_bytes || key_bytes > 64)
        return MRN_ERR_TOO_LARGE;
    struct call *call = calloc(1, sizeof *call + request_bytes);
    if (!call)
        return MRN_ERR_NO_MEMORY;
    call->service = wire_name_id(service, strlen(service));
    call->method = wire_name_id(method, strlen(method));
    call->callback = callback;
    call->user = user;
    call->since_us = clock_us();
    call->length_bytes = (uint32_t)request_bytes;
    memcpy(call->bytes, request, request_bytes);
    if (key_bytes) {
        uint32_t names[2] = {call->service, call->method};
        struct wire_hash hash = wire_hash_blake2b(key, key_bytes);
        call->has_key = true;
        memcpy(call->key, hash.bytes, sizeof call->key);
        hash = wire_hash_blake2b_pair(names, sizeof names, request, request_bytes);
        memcpy(call->hash, hash.bytes, sizeof call->hash);
    }
    return enqueue(g, call);
}

uint32_t mrn_gateway_method_key(const char *service, const char *method) {
    return wire_method_key(wire_name_id(service, strlen(service)),
                           wire_name_id(method, strlen(method)));
}

int mrn_gateway_query(struct mrn_gateway *g, uint64_t id, mrn_gateway_callback callback,
                      void *user) {
    struct call *call = calloc(1, sizeof *call);
    if (!call)
        return MRN_ERR_NO_MEMORY;
    call->query = true;
    call->id = id;
    call->callback = callback;
    call->user = user;
    call->since_us = clock_us();
    return enqueue(g, call);
}

void mrn_gateway_facts(struct mrn_gateway *g, struct mrn_gateway_facts *ret_facts) {
    pthread_mutex_lock(&g->mutex);
    *ret_facts = g->facts;
    pthread_mutex_unlock(&g->mutex);
}

static int open_sessions(struct mrn_gateway *g) {
    struct net_session_config c = {.role = WIRE_ROLE_GATEWAY,
                                   .incarnation = g->owner,
                                   .capacity = 16,
                                   .ranges = {WIRE_RANGE_NONE, WIRE_RANGE_NONE}};
    c.session = randombytes_random() | 1;
    randombytes_buf(&c.process_token, sizeof c.process_token);
    void *memory = aligned_alloc(64, (net_sessions_size(16) + 63) & ~(size_t)63);
    if (!memory)
        return MRN_ERR_NO_MEMORY;
    g->sessions = net_sessions_init(memory, &c);
    for (uint32_t i = 0; i < g->config.node_count; i++) {
        struct net_address address = {.ipv4 = g->config.nodes[i].ipv4,
                                      .port = g->config.nodes[i].port};
        g->peers[i] = net_session_add_node(g->sessions, NET_INDEX_UNKNOWN, address);
        if (!g->peers[i])
            return MRN_ERR_INVALID;
    }
    return stage_outbox_open(&g->outbox, g->endpoint, g->sessions);
}

int mrn_gateway_open(const struct mrn_gateway_config *config, struct net *net,
                     struct mrn_gateway **ret_gateway) {
    struct mrn_gateway *g = calloc(1, sizeof *g);
    if (!g || sodium_init() < 0) {
        free(g);
        return MRN_ERR_NO_MEMORY;
    }
    g->config = *config;
    g->net = net;
    g->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    g->endpoint = net_endpoint(net, WIRE_STAGE_INGRESS);
    randombytes_buf(&g->owner, sizeof g->owner);
    g->owner |= 1;
    pthread_mutex_init(&g->mutex, NULL);
    calls_init(&g->incoming);
    calls_init(&g->waiting);
    calls_init(&g->queries);
    struct gateway_core_config c = {.owner = g->owner,
                                    .pinned_range = config->pinned_range,
                                    .node_count = (uint8_t)config->node_count,
                                    .parts_max = config->outstanding_max,
                                    .transaction_max_bytes = config->transaction_max_bytes,
                                    .result_max_bytes = config->transaction_max_bytes + 4096};
    struct gateway_core_shell shell = {g, core_send, core_done, core_state, core_ranges};
    size_t bytes = gateway_core_size(&c);
    g->core_memory = bytes ? aligned_alloc(64, (bytes + 63) & ~(size_t)63) : NULL;
    int error = !bytes || !g->endpoint              ? MRN_ERR_INVALID
                : !g->core_memory || g->wake_fd < 0 ? MRN_ERR_NO_MEMORY
                                                    : open_sessions(g);
    if (!error) {
        g->core = gateway_core_init(g->core_memory, &c, &shell, clock_us());
        error = pthread_create(&g->thread, NULL, run, g) ? MRN_ERR_NO_MEMORY : 0;
    }
    if (error) {
        stage_outbox_close(&g->outbox);
        free(g->sessions);
        free(g->core_memory);
        if (g->wake_fd >= 0)
            close(g->wake_fd);
        free(g);
        return error;
    }
    *ret_gateway = g;
    return 0;
}

static void end_all(struct calls *calls) {
    struct mrn_gateway_answer answer = {.error = MRN_ERR_CLOSED};
    for (struct call *call; (call = calls_pop(calls)) != NULL;)
        call_end(call, &answer);
}

void mrn_gateway_close(struct mrn_gateway *g) {
    uint64_t one = 1;
    pthread_mutex_lock(&g->mutex);
    g->closing = true;
    pthread_mutex_unlock(&g->mutex);
    (void)!write(g->wake_fd, &one, sizeof one);
    pthread_join(g->thread, NULL);
    gateway_core_abandon(g->core);
    end_all(&g->incoming);
    end_all(&g->waiting);
    end_all(&g->queries);
    stage_outbox_close(&g->outbox);
    free(g->sessions);
    free(g->core_memory);
    close(g->wake_fd);
    pthread_mutex_destroy(&g->mutex);
    free(g);
}
