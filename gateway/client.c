/* The library's thread: the core over a port of the net. Calls are in client_calls.c. */
#include "gateway/client_internal.h"

#include <sched.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <maroon/error.h>

#define FACTS_INTERVAL_US 10000
#define TURN_US 100                /* of work, then others on this core have theirs */
#define IDLE_PASSES_BEFORE_YIELD 1 /* the HTTP server may share it, and have what we wait for */
#define IDLE_PASSES_BEFORE_SLEEP 256
#define ALONE_US 5000000 /* without a node: the cluster may be another one by now */

_Static_assert((int)WIRE_DROP_COUNT <= MRN_GATEWAY_DROPS_MAX, "a place for every reason");

uint64_t gateway_clock_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

/* ---- what the core wants ---- */

static void core_send(void *context, uint8_t node, enum wire_kind kind, const void *payload,
                      uint32_t payload_bytes, const void *tail, uint32_t tail_bytes) {
    struct mrn_gateway *g = context;
    stage_outbox_frame(&g->port.outbox, g->peers[node], g->now_us, kind, 0, payload, payload_bytes,
                       tail, tail_bytes);
}

static void core_done(void *context, const struct gateway_core_done *done) {
    gateway_calls_done(context, done);
}

static void core_state(void *context, const struct gateway_core_state *state) {
    gateway_calls_state(context, state);
}

static void core_event(void *context, const struct gateway_core_event *event) {
    gateway_calls_event(context, event);
}

static void core_ranges(void *context, uint64_t owner, const uint64_t ranges[2]) {
    struct mrn_gateway *g = context;
    if (owner != g->owner)
        net_session_set_owner(g->port.sessions, randombytes_random() | 1, owner);
    g->owner = owner;
    net_session_set_ranges(g->port.sessions, ranges);
}

/* ---- the thread ---- */

static void take_frame(void *context, struct net_received *received,
                       const struct wire_frame *frame) {
    struct mrn_gateway *g = context;
    uint8_t node = 0;
    while (node < g->config.node_count && g->peers[node] != received->peer)
        node++;
    enum wire_drop drop = node < g->config.node_count
                              ? gateway_core_frame(g->core, g->now_us, node, frame)
                              : WIRE_DROP_FRAME_ROLE;
    if (drop != WIRE_DROP_NONE)
        stage_port_drop(&g->port, drop);
}

static void publish(struct mrn_gateway *g) {
    struct gateway_core_facts c;
    struct net_counters n;
    gateway_core_facts(g->core, g->now_us, &c);
    net_endpoint_counters(g->port.endpoint, &n);
    struct mrn_gateway_facts f = {.range = c.range,
                                  .next_range = c.next_range,
                                  .owner = g->owner,
                                  .configuration_id = net_session_configuration(g->port.sessions),
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
                                  .lost = c.lost,
                                  .doubt = c.doubt,
                                  .queries = c.queries,
                                  .rx_packets = n.rx_packets,
                                  .tx_packets = n.tx_packets,
                                  .latency_count = g->latency_count,
                                  .latency_sum_us = g->latency_sum_us};
    memcpy(f.latency, g->latency, sizeof f.latency);
    stage_port_drops(&g->port, f.rx_dropped);
    const struct net_session_refusal *refusal = net_session_last_refusal(g->port.sessions);
    if (refusal->drop == WIRE_DROP_CONFIGURATION) {
        f.refused_configuration_id = refusal->hello.configuration_id;
        f.refused_ipv4 = refusal->address.ipv4;
        f.refused_port = refusal->address.port;
    }
    pthread_mutex_lock(&g->mutex);
    g->facts = f;
    g->waiting_count = g->waiting.count;
    pthread_mutex_unlock(&g->mutex);
}

/* What could be sent now. */
static void measure_room(struct mrn_gateway *g, const struct gateway_core_facts *c) {
    uint32_t open = c->limit > c->offset ? c->limit - c->offset : 0;
    uint32_t places = g->config.outstanding_max - c->outstanding_parts;
    uint32_t room = c->range == WIRE_RANGE_NONE ? 0 : open < places ? open : places;
    room = room > g->waiting.count ? room - g->waiting.count : 0;
    atomic_store_explicit(&g->room, room, memory_order_relaxed);
}

static void sleep_until_news(struct mrn_gateway *g, uint32_t passes, bool outstanding) {
    if (g->config.busy || passes < IDLE_PASSES_BEFORE_YIELD)
        return;
    if (passes < IDLE_PASSES_BEFORE_SLEEP && outstanding) {
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

/* Nobody answers any more: who comes next at these addresses may be a cluster that was restored,
 * which refuses the old configuration id. A node of either is taken then, as at the start; of the
 * range that we held a new cluster says NOT_OWNER. */
static void look_for_any_cluster(struct mrn_gateway *g, const struct gateway_core_facts *c) {
    if (c->nodes_heard)
        g->heard_us = g->now_us;
    if (g->now_us - g->heard_us < ALONE_US || !net_session_configuration(g->port.sessions))
        return;
    g->heard_us = g->now_us;
    net_session_set_configuration(g->port.sessions, 0);
}

static void *run(void *argument) {
    struct mrn_gateway *g = argument;
    uint32_t idle = 0;
    uint64_t published_us = 0, turn_us = 0;
    bool closing = false;
    (void)net_thread_enter();
    while (!closing) {
        g->now_us = gateway_clock_us();
        uint32_t work = stage_port_receive(&g->port, g->now_us, take_frame, g);
        gateway_calls_take(g);
        uint32_t waited = g->waiting.count;
        gateway_calls_run(g);
        gateway_core_tick(g->core, g->now_us);
        stage_outbox_flush(&g->port.outbox, g->now_us);
        if (g->now_us - published_us > FACTS_INTERVAL_US) {
            gateway_calls_expire(g);
            publish(g);
            published_us = g->now_us;
        }
        struct gateway_core_facts c;
        gateway_core_facts(g->core, g->now_us, &c);
        measure_room(g, &c);
        look_for_any_cluster(g, &c);
        idle = work || g->waiting.count != waited ? 0 : idle + 1;
        if (!idle && !g->config.busy && g->now_us - turn_us >= TURN_US) {
            sched_yield(); /* the nodes may share this core */
            turn_us = g->now_us;
        }
        sleep_until_news(g, idle, c.outstanding_parts || g->waiting.count || g->queries.count);
        pthread_mutex_lock(&g->mutex);
        closing = g->closing;
        pthread_mutex_unlock(&g->mutex);
    }
    net_thread_leave();
    return NULL;
}

/* ---- the interface ---- */

void mrn_gateway_facts(struct mrn_gateway *g, struct mrn_gateway_facts *ret_facts) {
    pthread_mutex_lock(&g->mutex);
    *ret_facts = g->facts;
    pthread_mutex_unlock(&g->mutex);
}

const char *mrn_gateway_drop_name(uint32_t reason) {
    return reason < WIRE_DROP_COUNT ? wire_drop_label((enum wire_drop)reason) : NULL;
}

static int open_port(struct mrn_gateway *g) {
    struct net_session_config c = {.role = WIRE_ROLE_GATEWAY,
                                   .stage = WIRE_STAGE_INGRESS,
                                   .incarnation = g->owner,
                                   .capacity = 16,
                                   .ranges = {WIRE_RANGE_NONE, WIRE_RANGE_NONE}};
    c.session = randombytes_random() | 1;
    randombytes_buf(&c.process_token, sizeof c.process_token);
    int error = stage_port_open(&g->port, g->net, &c);
    for (uint32_t i = 0; !error && i < g->config.node_count; i++) {
        struct net_address address = {.ipv4 = g->config.nodes[i].ipv4,
                                      .port = g->config.nodes[i].port};
        g->peers[i] = net_session_add_node(g->port.sessions, NET_INDEX_UNKNOWN, address);
        error = g->peers[i] ? 0 : MRN_ERR_INVALID;
    }
    return error;
}

static void free_all(struct mrn_gateway *g) {
    stage_port_close(&g->port);
    gateway_calls_close(g);
    free(g->core_memory);
    if (g->wake_fd >= 0)
        close(g->wake_fd);
    free(g);
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
    randombytes_buf(&g->owner, sizeof g->owner);
    g->owner |= 1;
    gateway_calls_open(g);
    struct gateway_core_config c = {.owner = g->owner,
                                    .pinned_range = config->pinned_range,
                                    .node_count = (uint8_t)config->node_count,
                                    .parts_max = config->outstanding_max,
                                    .transaction_max_bytes = config->transaction_max_bytes,
                                    .result_max_bytes = config->transaction_max_bytes + 4096};
    struct gateway_core_shell shell = {g,          core_send,   core_done,
                                       core_state, core_ranges, core_event};
    size_t bytes = gateway_core_size(&c);
    g->core_memory = bytes ? aligned_alloc(64, (bytes + 63) & ~(size_t)63) : NULL;
    int error = !bytes                              ? MRN_ERR_INVALID
                : !g->core_memory || g->wake_fd < 0 ? MRN_ERR_NO_MEMORY
                                                    : open_port(g);
    if (!error) {
        g->core = gateway_core_init(g->core_memory, &c, &shell, gateway_clock_us());
        error = pthread_create(&g->thread, NULL, run, g) ? MRN_ERR_NO_MEMORY : 0;
    }
    if (error) {
        free_all(g);
        return error;
    }
    *ret_gateway = g;
    return 0;
}

void mrn_gateway_stop(struct mrn_gateway *g) {
    uint64_t one = 1;
    pthread_mutex_lock(&g->mutex);
    bool stopped = g->closing;
    g->closing = true;
    pthread_cond_broadcast(&g->ready_cond);
    pthread_mutex_unlock(&g->mutex);
    if (stopped)
        return;
    (void)!write(g->wake_fd, &one, sizeof one);
    pthread_join(g->thread, NULL);
    gateway_calls_end(g);
}

void mrn_gateway_close(struct mrn_gateway *g) {
    mrn_gateway_stop(g);
    free_all(g);
}
