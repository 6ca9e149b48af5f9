#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/stages/internal.h"
#include "dataplane/stages/marks.h"
#include <sodium.h>

#define IDLE_PASSES_BEFORE_YIELD 1
#define IDLE_PASSES_BEFORE_SLEEP 256
#define IDLE_PASSES_AT_REST 1
#define REST_PPM 300000 /* a thread that works more than this is not at rest, whatever at */
#define REST_AFTER_BODY_NS UINT64_C(20000000)
#define BODY_NOTE_NS 1000000u
#define WALL_READ_NS 1000000 /* in between the wall clock goes as the monotonic one does */
#define TURN_NS 100000       /* of work, then others on this core have theirs */
#define SLEEP_LEAST_US 20
#define SLEEP_MAX_US (PASS_INTERVAL_NS / 1000)
/* At rest, where a packet or a message wakes it. Timers that it does not name as its next deadline
 * may be late by so much then. */
#define SLEEP_REST_US 4000
/* A sync that takes longer may wait for a worker of the kernel, and that one for us. */
#define SYNC_SPIN_NS UINT64_C(300000)
/* A single node that leads: nobody waits for its timers. Before it leads, so long a sleep would be
 * taken for a loop that stood still, and its wait to campaign would never end. */
#define SLEEP_ALONE_US 5000
#define GATEWAYS_MAX 2048
#define ASKS_COUNT 4096
#define ANSWERS_COUNT 4096
#define PARCELS_COUNT 256
#define PATHS_COUNT 64
#define WARM_BYTES ((size_t)16 << 20) /* of the replica: its log is first, tables follow */
#define WARM_DELIVERIES 16

static uint64_t stage_clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint64_t wall_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static void look_at_clocks(struct worker *w) {
    w->now_ns = stage_clock_ns();
    w->now_us = w->now_ns / 1000;
    if (w->now_ns - w->wall_read_ns >= WALL_READ_NS) {
        w->wall_read_ns = w->now_ns;
        w->wall_ahead_us = wall_us() - w->now_us;
    }
    w->wall_us = w->now_us + w->wall_ahead_us;
}

/* Only gossip's thread speaks to the control plane: it finds `failed` set. */
void stage_fail(struct stage *s, int error, const char *text) {
    static pthread_mutex_t first = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&first);
    if (!atomic_load_explicit(&s->failed, memory_order_relaxed)) {
        s->failed_error = error;
        snprintf(s->failed_text, sizeof s->failed_text, "%s", text);
        atomic_store_explicit(&s->failed, true, memory_order_release);
    }
    pthread_mutex_unlock(&first);
}

static void tell_failed(struct stage *s) {
    if (!atomic_load_explicit(&s->failed, memory_order_acquire))
        return;
    struct mailbox_up up = {.kind = MAILBOX_UP_FAILED, .error = s->failed_error};
    memcpy(up.text, s->failed_text, sizeof up.text);
    mailbox_send_up(s->setup.mailbox, &up);
}

/* Slots come ready from gossip, some at a time; who shares its thread takes them where they lie:
 * the last one given back, which is still in the cache. */
static uint32_t free_slot(struct stage *s, const struct worker *worker, struct link *slots,
                          uint32_t *ready, uint32_t *ready_count) {
    if (worker == s->gossip.worker)
        return s->bodies.free_count ? s->bodies.free[--s->bodies.free_count] : BODIES_SLOT_NONE;
    if (!*ready_count)
        *ready_count = link_take(slots, ready, 32);
    return *ready_count ? ready[--*ready_count] : BODIES_SLOT_NONE;
}

void stage_return_slot(struct stage *s, const struct worker *worker, uint32_t *ready,
                       uint32_t *ready_count, uint32_t slot) {
    if (worker == s->gossip.worker)
        stage_bodies_give(&s->bodies, slot);
    else
        ready[(*ready_count)++] = slot;
}

bool stage_take_body(struct stage *s, const struct worker *worker, struct port *port,
                     struct link *slots, uint32_t *ready, uint32_t *ready_count,
                     const struct wire_frame *frame, struct replica_event_body *ret_body) {
    struct wire_body head = {0}; /* of BODY; TX has no owner, its session has */
    struct wire_body_header header;
    size_t head_bytes = frame->kind == WIRE_BODY ? sizeof head : sizeof(struct wire_tx);
    memcpy(&head, frame->payload, head_bytes);
    const uint8_t *bytes = frame->payload + head_bytes;
    uint32_t length = frame->length_bytes - (uint32_t)head_bytes;
    uint32_t slot = atomic_load_explicit(&s->pressed, memory_order_relaxed)
                        ? BODIES_SLOT_NONE
                        : free_slot(s, worker, slots, ready, ready_count);
    if (slot == BODIES_SLOT_NONE) {
        stage_port_drop(port, WIRE_DROP_BODY_POOL);
        return false;
    }
    stage_bodies_fill(&s->bodies, slot, head.id, bytes, length);
    if (worker->now_ns - atomic_load_explicit(&s->body_ns, memory_order_relaxed) > BODY_NOTE_NS)
        atomic_store_explicit(&s->body_ns, worker->now_ns, memory_order_relaxed);
    memcpy(&header, bytes, sizeof header);
    *ret_body = (struct replica_event_body){
        .id = head.id,
        .digest = wire_hash_body(&s->setup.identity->digest_key, head.id, bytes, length),
        .slot = slot,
        .owner = head.owner,
        .parts_following = header.parts_following,
        .peer = REPLICA_NODE_NONE};
    return true;
}

void stage_refusals(struct port *port, enum wire_stage stage, uint64_t now_us, struct link *link) {
    struct net_session_refusal refusal;
    if (!stage_port_refusal(port, now_us, &refusal))
        return;
    struct ask ask = {.kind = ASK_REFUSED};
    ask.refused = (struct refused){.address = refusal.address,
                                   .theirs = refusal.hello.configuration_id,
                                   .ours = refusal.own_configuration_id,
                                   .drop = (uint8_t)refusal.drop,
                                   .role = refusal.hello.role,
                                   .index = refusal.hello.index,
                                   .stage = (uint8_t)stage};
    memcpy(ask.refused.cluster, refusal.hello.cluster, sizeof ask.refused.cluster);
    (void)link_put(link, &ask);
}

/* ---- the pass of a thread ---- */

static bool runs(const struct worker *w, uint32_t stage) {
    return w->stages & 1u << stage;
}

/* A node that does not lead is waited for with what it acknowledges, not with what it executes:
 * that comes in a pass without packets, or in the one after. Not when it lags behind: bodies are
 * held until all have executed them. */
static bool put_off_executing(const struct worker *w, uint64_t work) {
    struct stage *s = w->stage;
    struct execute *x = &s->execute;
    x->put_off = work && !x->put_off && runs(w, WIRE_STAGE_GOSSIP) && link_count(&s->orders) <= 1 &&
                 !atomic_load_explicit(&s->leads, memory_order_relaxed);
    return x->put_off;
}

static uint64_t pass(struct worker *w) {
    struct stage *s = w->stage;
    uint64_t work = 0;
    look_at_clocks(w);
    atomic_store_explicit(&w->pass_ns, w->now_ns, memory_order_relaxed);
    w->work = 0;
    uint64_t at = stage_part_begin();
    if (runs(w, WIRE_STAGE_INGRESS))
        work += stage_ingress_poll(s);
    at = stage_part_end(STAGE_PART_INGRESS, at);
    if (runs(w, WIRE_STAGE_FETCH))
        work += stage_fetch_poll(s);
    at = stage_part_end(STAGE_PART_FETCH, at);
    if (runs(w, WIRE_STAGE_GOSSIP))
        work += stage_gossip_poll(s);
    at = stage_part_end(STAGE_PART_GOSSIP, at);
    if (runs(w, STAGE_EXECUTE) && !put_off_executing(w, work))
        work += stage_execute_poll(s);
    at = stage_part_end(STAGE_PART_EXECUTE, at);
    if (runs(w, WIRE_STAGE_FETCH))
        work += stage_fetch_send(s);
    if (runs(w, WIRE_STAGE_INGRESS))
        work += stage_ingress_send(s);
    (void)stage_part_end(STAGE_PART_SEND, at);
    return work + w->work;
}

/* Does something lie in a link to this thread? */
static bool waited_for(const struct worker *w) {
    const struct stage *s = w->stage;
    const struct execute *x = &s->execute;
    return (runs(w, WIRE_STAGE_INGRESS) && (link_count(&s->answers) || link_count(&s->results))) ||
           (runs(w, WIRE_STAGE_FETCH) && link_count(&s->parcels_out)) ||
           (runs(w, WIRE_STAGE_GOSSIP) && (link_count(&s->asks) || link_count(&s->fetched) ||
                                           link_count(&s->parcels_in) || link_count(&s->dones))) ||
           (runs(w, STAGE_EXECUTE) &&
            (stage_execute_waits(s) || x->snapshot_on || x->handed_over || x->snapshot.ordered));
}

static uint64_t may_sleep_us(const struct worker *w) {
    const struct stage *s = w->stage;
    if (!runs(w, WIRE_STAGE_GOSSIP))
        return SLEEP_MAX_US;
    if (s->gossip.storage && !storage_idle(s->gossip.storage))
        return 0;
    if (s->setup.identity->node_count == 1 && replica_leads(s->gossip.replica))
        return SLEEP_ALONE_US;
    uint64_t at = replica_next_deadline_ns(s->gossip.replica);
    uint64_t wait_us = at > w->now_ns ? (at - w->now_ns) / 1000 : 0;
    uint64_t max_us = w->rests ? s->rest_us : SLEEP_MAX_US;
    return wait_us < max_us ? wait_us : max_us;
}

/* How long to sleep for a sync that takes long: a part of what it took so far, so that its end is
 * noticed by so much later at most. 0 when none does. */
static uint64_t sync_sleep_us(const struct worker *w) {
    const struct storage *storage = runs(w, WIRE_STAGE_GOSSIP) ? w->stage->gossip.storage : NULL;
    if (!storage)
        return 0;
    uint64_t waiting_ns = storage_waiting_ns(storage, w->now_ns);
    if (waiting_ns < SYNC_SPIN_NS)
        return 0;
    uint64_t sleep_us = waiting_ns / 4000;
    return sleep_us < SLEEP_MAX_US ? sleep_us : SLEEP_MAX_US;
}

static void sleep_us(struct worker *w, uint64_t wait_us) {
    struct stage *s = w->stage;
    bool alone = s->worker_count == 1, hears = runs(w, WIRE_STAGE_GOSSIP);
    bool news = false, woken = false;
    int fds[2], count = 0;
    if (!alone) {
        link_sleep_begin(&w->link);
        fds[count++] = w->link.wake_fd;
    }
    if (hears) {
        replica_sleeps(s->gossip.replica, w->now_ns + wait_us * 1000);
        news = !mailbox_sleep_begin(s->setup.mailbox);
        fds[count++] = mailbox_down_fd(s->setup.mailbox);
    }
    if (!news && !waited_for(w))
        woken = net_wait(s->setup.net, w->number, (uint32_t)wait_us, fds, (uint32_t)count);
    if (hears)
        mailbox_sleep_end(s->setup.mailbox, woken);
    if (!alone)
        link_sleep_end(&w->link);
}

/* Adaptive: from spinning over yielding to sleeping until a packet, a message or a timer. Who has
 * had no body of late sleeps at once: spinning after each heartbeat costs a tenth of a core. While
 * transactions come, even few, their next hop is near. */
static void idle(struct worker *w) {
    struct stage *s = w->stage;
    if (s->setup.config->poll == CONFIG_POLL_BUSY ||
        (!w->rests && w->idle_passes < IDLE_PASSES_BEFORE_YIELD))
        return;
    uint32_t passes = w->rests ? IDLE_PASSES_AT_REST : IDLE_PASSES_BEFORE_SLEEP;
    uint64_t wait_us = sync_sleep_us(w);
    if (!wait_us && w->idle_passes >= passes)
        wait_us = may_sleep_us(w);
    if (w->rests && wait_us) /* a timer may be late by as much as waking up takes */
        wait_us += SLEEP_LEAST_US;
    if (wait_us < SLEEP_LEAST_US) {
        sched_yield();
        return;
    }
    sleep_us(w, wait_us);
}

/* The kernel looks at whose turn it is only once a tick, which is up to 4 ms; until then a thread
 * under load would keep those waiting whose packets it waits for. */
static void end_turn(struct worker *w, uint64_t now_ns) {
    if (w->stage->setup.config->poll == CONFIG_POLL_BUSY || now_ns - w->turn_ns < TURN_NS)
        return;
    sched_yield();
    w->turn_ns = now_ns;
}

static void share_of_work(struct worker *w) {
    if (w->now_ns < w->shared_ns)
        return;
    w->shared_ns = w->now_ns + 10000000;
    uint64_t ppm = w->loop_ns ? w->busy_ns * 1000000 / w->loop_ns : 0;
    atomic_store_explicit(&w->stage->status->lcore_busy_ppm[w->number], ppm, memory_order_relaxed);
    w->rests = ppm < REST_PPM &&
               w->now_ns > REST_AFTER_BODY_NS +
                               atomic_load_explicit(&w->stage->body_ns, memory_order_relaxed);
    w->busy_ns = w->loop_ns = 0;
}

static void *run(void *argument) {
    struct worker *w = argument;
    struct stage *s = w->stage;
    uint64_t last_ns = stage_clock_ns();
    while (!atomic_load_explicit(&s->stop, memory_order_relaxed) &&
           !atomic_load_explicit(&s->failed, memory_order_relaxed)) {
        uint64_t begun = stage_part_begin();
        uint64_t work = pass(w);
        uint64_t after_ns = stage_clock_ns();
        w->busy_ns += work ? after_ns - w->now_ns : 0;
        w->idle_passes = work ? 0 : w->idle_passes + 1;
        share_of_work(w);
        if (!work) {
            uint64_t at = stage_part_begin();
            idle(w);
            w->turn_ns = after_ns;
            (void)stage_part_end(STAGE_PART_IDLE, at);
        } else
            end_turn(w, after_ns);
        (void)stage_part_end(STAGE_PART_PASS, begun);
        w->loop_ns += after_ns - last_ns;
        last_ns = after_ns;
    }
    if (runs(w, WIRE_STAGE_GOSSIP)) {
        tell_failed(s);
        storage_close(s->gossip.storage); /* by the thread whose writes it waits for */
        s->gossip.storage = NULL;
    }
    return NULL;
}

/* ---- threads ---- */

static void pin(const struct worker *w) {
    cpu_set_t set;
    if (w->cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET((unsigned)w->cpu, &set);
    (void)pthread_setaffinity_np(pthread_self(), sizeof set, &set); /* the start line says where */
}

static void *run_thread(void *argument) {
    struct worker *w = argument;
    pin(w);
    int error = net_thread_enter();
    if (error)
        stage_fail(w->stage, error, "a thread cannot be made known to DPDK");
    run(w);
    if (!error)
        net_thread_leave();
    return NULL;
}

int stage_run(struct stage *s) {
    uint32_t started = 1;
    for (; started < s->worker_count; started++) {
        struct worker *w = &s->workers[started];
        char name[16];
        if (pthread_create(&w->thread, NULL, run_thread, w)) {
            stage_fail(s, MRN_ERR_NO_MEMORY, "no thread for a stage");
            break;
        }
        snprintf(name, sizeof name, "stage-%u", w->number);
        pthread_setname_np(w->thread, name);
    }
    pthread_setname_np(pthread_self(), "stage-0");
    run_thread(&s->workers[0]);
    for (uint32_t i = 1; i < started; i++)
        pthread_join(s->workers[i].thread, NULL);
    return atomic_load(&s->failed) ? s->failed_error : 0;
}

bool stage_poll(struct stage *s) {
    uint64_t work = 0;
    if (atomic_load_explicit(&s->failed, memory_order_relaxed)) {
        if (!atomic_exchange(&s->failed_told, true))
            tell_failed(s);
        return false;
    }
    for (uint32_t i = 0; i < s->worker_count; i++)
        work += pass(&s->workers[i]);
    return work != 0;
}

void stage_stop(struct stage *s) {
    atomic_store_explicit(&s->stop, true, memory_order_relaxed);
}

uint64_t stage_pass_ns(const struct stage *s) {
    uint64_t oldest = UINT64_MAX;
    for (uint32_t i = 0; i < s->worker_count; i++) {
        uint64_t at = atomic_load_explicit(&s->workers[i].pass_ns, memory_order_relaxed);
        oldest = at < oldest ? at : oldest;
    }
    return oldest;
}

const char *stage_describe(const struct stage *s) {
    return s->gossip.storage ? journal_describe(storage_journal(s->gossip.storage))
                             : "journal=none";
}

/* ---- open, close ---- */

static void replica_configure(const struct stage_setup *setup, struct replica_config *c) {
    const struct control_identity *identity = setup->identity;
    stage_replica_limits(setup->config, c);
    c->index = identity->node_index;
    c->node_count = identity->node_count;
    c->quorum = identity->quorum;
    c->amnesiac = !identity->in_genesis;
    c->incarnation = identity->incarnation;
    c->configuration_id = identity->configuration_id;
    c->genesis_hash = identity->genesis_hash;
    memcpy(c->ring, identity->ring, sizeof c->ring);
}

static int open_runtime(struct stage *s) {
    const struct config *g = s->setup.config;
    struct runtime_config c;
    stage_runtime_limits(g, &c);
    atomic_store_explicit(&s->status->idempotency_keys_max, g->idempotency_keys,
                          memory_order_relaxed);
    c.configuration_id = s->setup.identity->configuration_id;
    c.genesis_hash = s->setup.identity->genesis_hash;
    c.origin_hash = s->setup.identity->origin_hash;
    c.applications = s->setup.applications;
    c.application_count = s->setup.application_count;
    return runtime_open(&c, &s->execute.runtime);
}

/* A node's sessions are random and end with the process. */
static int open_port(struct stage *s, enum wire_stage stage, struct port *port) {
    const struct control_identity *identity = s->setup.identity;
    const struct config *g = s->setup.config;
    struct net_session_config c = {.role = WIRE_ROLE_NODE,
                                   .index = identity->node_index,
                                   .stage = (uint8_t)stage,
                                   .incarnation = identity->incarnation,
                                   .process_token = identity->process_token,
                                   .configuration_id = identity->configuration_id,
                                   .ranges = {WIRE_RANGE_NONE, WIRE_RANGE_NONE},
                                   .capacity = stage == WIRE_STAGE_INGRESS ? GATEWAYS_MAX : 16};
    memcpy(c.cluster, g->cluster, strnlen(g->cluster, sizeof c.cluster));
    c.session = randombytes_random() | 1;
    int error = stage_port_open(port, s->setup.net, &c);
    for (uint8_t i = 0; !error && i < identity->node_count && stage != WIRE_STAGE_INGRESS; i++) {
        struct net_address address = {
            .ipv4 = g->node[i].ipv4,
            .port = (uint16_t)(g->node[i].port + (uint32_t)stage * WIRE_STAGE_PORT_STEP)};
        if (i != identity->node_index && !net_session_add_node(port->sessions, i, address))
            error = MRN_ERR_INVALID;
    }
    return error;
}

/* The stages of equal thread numbers share a thread, in the order of the numbers. */
static int open_workers(struct stage *s) {
    const struct config *g = s->setup.config;
    const uint32_t thread_of[] = {[WIRE_STAGE_INGRESS] = g->lcore_ingress,
                                  [WIRE_STAGE_GOSSIP] = g->lcore_gossip,
                                  [WIRE_STAGE_FETCH] = g->lcore_fetch,
                                  [STAGE_EXECUTE] = g->lcore_execute};
    struct worker **of[] = {[WIRE_STAGE_INGRESS] = &s->ingress.worker,
                            [WIRE_STAGE_GOSSIP] = &s->gossip.worker,
                            [WIRE_STAGE_FETCH] = &s->fetch.worker,
                            [STAGE_EXECUTE] = &s->execute.worker};
    for (uint32_t number = 0; number < STAGE_THREADS_MAX; number++) {
        struct worker *w = &s->workers[s->worker_count];
        *w = (struct worker){.stage = s, .number = number, .cpu = -1, .link.wake_fd = -1};
        for (uint32_t i = 0; i <= STAGE_EXECUTE; i++)
            if (thread_of[i] == number) {
                w->stages |= 1u << i;
                *of[i] = w;
            }
        if (!w->stages)
            continue;
        if (s->worker_count < g->cpu_count)
            w->cpu = (int)g->cpu[s->worker_count];
        s->worker_count++;
        w->link.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (w->link.wake_fd < 0)
            return MRN_ERR_IO;
        look_at_clocks(w);
    }
    return 0;
}

static int open_links(struct stage *s, uint32_t deliver_max) {
    uint32_t orders = 64;
    while (orders < 2 * deliver_max + 64)
        orders *= 2;
    struct {
        struct link *link;
        const char *name;
        size_t count, message_bytes;
        struct worker *from, *to;
    } all[] = {
        {&s->asks, "asks", ASKS_COUNT, sizeof(struct ask), s->ingress.worker, s->gossip.worker},
        {&s->fetched, "fetched", ASKS_COUNT, sizeof(struct ask), s->fetch.worker, s->gossip.worker},
        {&s->parcels_in, "parcels_in", PARCELS_COUNT, sizeof(struct parcel), s->fetch.worker,
         s->gossip.worker},
        {&s->parcels_out, "parcels_out", PARCELS_COUNT, sizeof(struct parcel), s->gossip.worker,
         s->fetch.worker},
        {&s->answers, "answers", ANSWERS_COUNT, sizeof(struct answer), s->gossip.worker,
         s->ingress.worker},
        {&s->results, "results", ANSWERS_COUNT, sizeof(struct answer), s->execute.worker,
         s->ingress.worker},
        {&s->orders, "orders", orders, sizeof(struct order), s->gossip.worker, s->execute.worker},
        {&s->dones, "dones", orders, sizeof(struct done), s->execute.worker, s->gossip.worker},
        {&s->order_paths, "order_paths", PATHS_COUNT, sizeof(struct path), NULL, NULL},
        {&s->done_paths, "done_paths", 2 * PATHS_COUNT, sizeof(struct path), NULL, NULL},
        {&s->ingress_slots, "ingress_slots", SLOTS_AHEAD, sizeof(uint32_t), NULL, NULL},
        {&s->fetch_slots, "fetch_slots", SLOTS_AHEAD, sizeof(uint32_t), NULL, NULL},
        {&s->free_pieces, "free_pieces", PIECES_COUNT, sizeof(uint8_t *), NULL, NULL},
    };
    int error = 0;
    for (uint32_t i = 0; !error && i < sizeof all / sizeof all[0]; i++) {
        error = link_open(all[i].link, all[i].name, (uint32_t)all[i].count,
                          (uint32_t)all[i].message_bytes);
        all[i].link->to = all[i].from == all[i].to ? NULL : &all[i].to->link;
    }
    for (uint32_t i = 0; !error && i < PIECES_COUNT - 1; i++) {
        uint8_t *piece = s->execute.pieces + (size_t)i * RESULT_PIECE_BYTES;
        if (!link_put(&s->free_pieces, &piece))
            error = MRN_ERR_NO_MEMORY;
    }
    return error;
}

static int open_memory(struct stage *s, const struct replica_config *c, size_t replica_bytes) {
    struct gossip *g = &s->gossip;
    struct execute *x = &s->execute;
    g->replica_memory = aligned_alloc(64, (replica_bytes + 63) & ~(size_t)63);
    g->actions = malloc(sizeof *g->actions);
    x->bodies = calloc(WIRE_EPOCH_BODIES_MAX, sizeof *x->bodies);
    x->result_buffer = malloc(RESULT_AHEAD_BYTES);
    x->pieces = malloc((size_t)PIECES_COUNT * RESULT_PIECE_BYTES);
    s->deliveries = calloc(c->deliver_max, sizeof *s->deliveries);
    if (!g->replica_memory || !g->actions || !x->bodies || !x->result_buffer || !x->pieces ||
        !s->deliveries)
        return MRN_ERR_NO_MEMORY;
    stage_warm(g->replica_memory, replica_bytes < WARM_BYTES ? replica_bytes : WARM_BYTES);
    stage_warm(g->actions, sizeof *g->actions);
    for (uint32_t i = 0; i < c->deliver_max; i++) {
        s->deliveries[i].bodies =
            malloc(WIRE_EPOCH_BODIES_MAX * sizeof(struct replica_delivered_body));
        if (!s->deliveries[i].bodies)
            return MRN_ERR_NO_MEMORY;
        if (i < WARM_DELIVERIES)
            stage_warm(s->deliveries[i].bodies,
                       WIRE_EPOCH_BODIES_MAX * sizeof(struct replica_delivered_body));
    }
    return stage_bodies_open(&s->bodies, c->body_slots + 3 * SLOTS_AHEAD);
}

/* The first look at the journal also says whether this store's memory is whole. */
static int open_storage(struct stage *s, struct replica_config *c, char *ret_error) {
    const struct config *g = s->setup.config;
    const struct control_identity *identity = s->setup.identity;
    char directory[512], text[JOURNAL_TEXT_BYTES];
    snprintf(directory, sizeof directory, "%s/snapshots", g->data_dir);
    int error = snapshots_open(c->durable ? directory : NULL, &s->execute.snapshots);
    if (error || !c->durable) {
        snprintf(ret_error, NET_TEXT_BYTES, "%.400s: %s", directory, mrn_error_text(error));
        return error;
    }
    struct storage_config config = {
        .retain_bytes = s->setup.config->retain_bytes,
        .data_dir = g->data_dir,
        .identity = {.incarnation = (uint64_t)randombytes_random() << 32 | randombytes_random() | 1,
                     .configuration_id = identity->configuration_id},
        .segment_bytes = g->segment_bytes,
        .body_sync_delay_ns = (uint64_t)g->body_sync_delay_us * 1000,
        .log_epochs = c->log_epochs,
        .bodies = &s->bodies};
    memcpy(config.identity.cluster_id, &identity->cluster_id, sizeof identity->cluster_id);
    error = storage_open(&config, &s->gossip.storage, text);
    if (error)
        snprintf(ret_error, NET_TEXT_BYTES, "%s", text);
    else
        c->amnesiac &= !storage_promised(s->gossip.storage);
    return error;
}

static int open_all(struct stage *s, struct replica_config *c, size_t replica_bytes,
                    char *ret_error) {
    int error = open_workers(s);
    if (!error)
        error = open_memory(s, c, replica_bytes);
    if (!error)
        error = open_links(s, c->deliver_max);
    if (!error)
        error = open_port(s, WIRE_STAGE_INGRESS, &s->ingress.port);
    if (!error)
        error = open_port(s, WIRE_STAGE_GOSSIP, &s->gossip.port);
    if (!error)
        error = open_port(s, WIRE_STAGE_FETCH, &s->fetch.port);
    if (!error)
        error = open_runtime(s);
    if (error) {
        snprintf(ret_error, NET_TEXT_BYTES, "the dataplane cannot be made: %s",
                 mrn_error_text(error));
        return error;
    }
    error = open_storage(s, c, ret_error);
    return error ? error : stage_state_start(s, c, ret_error);
}

int stage_open(const struct stage_setup *setup, struct stage **ret_stage, char *ret_error) {
    struct replica_config c;
    replica_configure(setup, &c);
    size_t bytes = replica_size(&c);
    if (!bytes) {
        snprintf(ret_error, NET_TEXT_BYTES,
                 "the replica's limits do not fit together: body_slots >= 2 * epoch_cap, "
                 "ranges_max and log_epochs powers of two, log_epochs >= 4 * epochs_in_flight");
        return MRN_ERR_INVALID;
    }
    struct stage *s = calloc(1, sizeof *s);
    if (!s)
        return MRN_ERR_NO_MEMORY;
    s->setup = *setup;
    s->status = mailbox_status(setup->mailbox);
    s->rest_us = c.slice_floor_ns / 4000 < SLEEP_REST_US ? c.slice_floor_ns / 4000 : SLEEP_REST_US;
    s->rest_us = s->rest_us > SLEEP_MAX_US ? s->rest_us : SLEEP_MAX_US;
    for (uint32_t i = 0; i < RANGE_CACHE; i++)
        s->ingress.range_cache[i].range = WIRE_RANGE_NONE;
    int error = open_all(s, &c, bytes, ret_error);
    if (error)
        stage_close(s);
    else
        *ret_stage = s;
    return error;
}

void stage_close(struct stage *s) {
    if (!s)
        return;
    struct link *links[] = {&s->asks,          &s->fetched,     &s->parcels_in,  &s->parcels_out,
                            &s->answers,       &s->results,     &s->orders,      &s->dones,
                            &s->ingress_slots, &s->fetch_slots, &s->free_pieces, &s->order_paths,
                            &s->done_paths};
    storage_close(s->gossip.storage);
    stage_learn_close(s);
    snapshots_close(s->execute.snapshots);
    if (s->execute.runtime)
        runtime_close(s->execute.runtime);
    stage_port_close(&s->ingress.port);
    stage_port_close(&s->gossip.port);
    stage_port_close(&s->fetch.port);
    for (uint32_t i = 0; i < sizeof links / sizeof links[0]; i++)
        link_close(links[i]);
    for (uint32_t i = 0; s->deliveries && i < s->setup.config->deliver_max; i++)
        free(s->deliveries[i].bodies);
    for (uint32_t i = 0; i < s->worker_count; i++)
        if (s->workers[i].link.wake_fd >= 0)
            close(s->workers[i].link.wake_fd);
    stage_bodies_close(&s->bodies);
    free(s->deliveries);
    free(s->gossip.replica_memory);
    free(s->gossip.actions);
    free(s->execute.bodies);
    free(s->execute.result_buffer);
    free(s->execute.pieces);
    free(s);
}
