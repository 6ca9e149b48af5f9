/* Event queue and the run: faults and load, then quiet. */
#include "tests/sim/sim.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- violations ---- */

void sim_fail(struct sim *sim, const char *check, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    snprintf(sim->check, sizeof sim->check, "%s", check);
    vsnprintf(sim->message, sizeof sim->message, format, arguments);
    va_end(arguments);
    sim->failed = true;
    SIM_TRACE(sim, "--", "VIOLATION %s: %s", sim->check, sim->message);
    if (sim->trace)
        sim_dump(sim);
    longjmp(*sim->escape, 1);
}

/* ---- event queue: a binary heap, equal times in the order in which they were added ---- */

static bool before(const struct sim_event *a, const struct sim_event *b) {
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

void sim_at(struct sim *sim, uint64_t at_ns, enum sim_event_kind kind, uint8_t target,
            uint32_t life, uint64_t number, void *data) {
    if (sim->event_count == sim->event_room) {
        sim->event_room = sim->event_room ? 2 * sim->event_room : 1024;
        sim->events = realloc(sim->events, sim->event_room * sizeof *sim->events);
        if (!sim->events)
            abort();
    }
    struct sim_event event = {
        .at_ns = at_ns > sim->now_ns ? at_ns : sim->now_ns,
        .order = sim->orders++,
        .kind = kind,
        .target = target,
        .life = life,
        .number = number,
        .data = data,
    };
    uint64_t at = sim->event_count++;
    while (at > 0 && before(&event, &sim->events[(at - 1) / 2])) {
        sim->events[at] = sim->events[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    sim->events[at] = event;
}

static struct sim_event take(struct sim *sim) {
    struct sim_event first = sim->events[0], last = sim->events[--sim->event_count];
    uint64_t at = 0;
    for (;;) {
        uint64_t child = 2 * at + 1;
        if (child >= sim->event_count)
            break;
        if (child + 1 < sim->event_count && before(&sim->events[child + 1], &sim->events[child]))
            child++;
        if (!before(&sim->events[child], &last))
            break;
        sim->events[at] = sim->events[child];
        at = child;
    }
    if (sim->event_count)
        sim->events[at] = last;
    return first;
}

/* ---- one event ---- */

/* Events of a process that is gone are dropped with their data. */
static bool stale(const struct sim *sim, const struct sim_event *event) {
    switch (event->kind) {
    case SIM_EVENT_PASS:
    case SIM_EVENT_SYNC:
    case SIM_EVENT_WRITTEN:
    case SIM_EVENT_EXECUTE:
    case SIM_EVENT_SNAPSHOT:
    case SIM_EVENT_STRETCH:
    case SIM_EVENT_CONTROL:
        return !sim->nodes[event->target].up || event->life != sim->nodes[event->target].life;
    case SIM_EVENT_ANSWER: /* also to a process that waits for its incarnation */
        return event->life != sim->nodes[event->target].life;
    case SIM_EVENT_START: return event->life != sim->nodes[event->target].life;
    case SIM_EVENT_GATEWAY: return event->life != sim->gateways[event->target].life;
    case SIM_EVENT_ARRIVE:
    case SIM_EVENT_REQUEST:
    case SIM_EVENT_LEASES:
    case SIM_EVENT_FAULT:
    case SIM_EVENT_HEAL: return false;
    }
    return false;
}

/* A process that stands still sees everything at once when it goes on. Returns true when put off.
 */
static bool put_off(struct sim *sim, struct sim_event *event) {
    bool control = event->kind == SIM_EVENT_CONTROL || event->kind == SIM_EVENT_ANSWER;
    bool loop = event->kind == SIM_EVENT_PASS || event->kind == SIM_EVENT_EXECUTE;
    if (!control && !loop)
        return false;
    struct sim_node *node = &sim->nodes[event->target];
    if (node->paused_until_ns <= sim->now_ns || (control && !node->control_paused))
        return false;
    sim_at(sim, node->paused_until_ns, event->kind, event->target, event->life, event->number,
           event->data);
    return true;
}

static void snapshot_arrives(struct sim *sim, struct sim_node *node, struct sim_runtime *snapshot) {
    node->snapshot_asked = false;
    struct replica_event none;
    memset(&none, 0, sizeof none);
    sim_node_push(sim, node, SIM_ITEM_SNAPSHOT, snapshot, &none);
}

static void happen(struct sim *sim, struct sim_event *event) {
    uint8_t at = event->target;
    switch (event->kind) {
    case SIM_EVENT_PASS:
        if (event->number == sim->nodes[at].pass_token)
            sim_node_pass(sim, &sim->nodes[at]);
        break;
    case SIM_EVENT_START: sim_node_start(sim, &sim->nodes[at]); break;
    case SIM_EVENT_ARRIVE: sim_network_arrive(sim, event->data); return;
    case SIM_EVENT_SYNC: sim_journal_synced(sim, &sim->nodes[at], event->number); break;
    case SIM_EVENT_WRITTEN: sim_journal_snapshot_end(&sim->nodes[at].journal); break;
    case SIM_EVENT_EXECUTE: sim_node_execute(sim, &sim->nodes[at]); break;
    case SIM_EVENT_SNAPSHOT:
        if (event->data)
            snapshot_arrives(sim, &sim->nodes[at], event->data);
        else
            sim_node_snapshot(sim, &sim->nodes[at], (uint8_t)(event->number & 255),
                              event->number >> 8);
        return;
    case SIM_EVENT_STRETCH: sim_stretch_arrives(sim, &sim->nodes[at], event->data); return;
    case SIM_EVENT_CONTROL: sim_control_timer(sim, &sim->nodes[at]); break;
    case SIM_EVENT_REQUEST: sim_arbiter_request(sim, event->data, event->life); return;
    case SIM_EVENT_ANSWER: sim_arbiter_answer(sim, &sim->nodes[at], event->data); break;
    case SIM_EVENT_LEASES: sim_arbiter_leases(sim); break;
    case SIM_EVENT_GATEWAY:
        if (event->number)
            sim_gateway_start(sim, at);
        else
            sim_gateway_timer(sim, &sim->gateways[at]);
        break;
    case SIM_EVENT_FAULT: sim_fault_event(sim, (enum sim_fault)event->number); break;
    case SIM_EVENT_HEAL: sim_heal(sim); break;
    }
    free(event->data);
}

/* ---- a run ---- */

struct sim *sim_create(uint64_t seed, const struct sim_config *config) {
    struct sim *sim = calloc(1, sizeof *sim);
    if (!sim)
        abort();
    sim->seed = seed;
    sim->config = *config;
    uint64_t later = SIM_FAULT_COUNT - SIM_FAULTS_FIRST;
    for (uint64_t i = 0; i < SIM_STREAM_COUNT; i++)
        sim_random_seed(&sim->random[i], seed,
                        i < SIM_FAULTS_FIRST   ? i
                        : i >= SIM_FAULT_COUNT ? i - later
                                               : 100 + i);
    sim->actions = malloc(sizeof *sim->actions);
    sim->delivered = malloc(WIRE_EPOCH_BODIES_MAX * sizeof *sim->delivered);
    sim->bodies = malloc(WIRE_EPOCH_BODIES_MAX * sizeof *sim->bodies);
    if (!sim->actions || !sim->delivered || !sim->bodies)
        abort();
    struct sim_random *random = &sim->random[SIM_STREAM_CONFIG];
    sim->start_wall_us = UINT64_C(1700000000000000) + sim_random_below(random, 1u << 30);
    for (uint32_t i = 0; i < sizeof sim->digest_key.bytes; i++)
        sim->digest_key.bytes[i] = (uint8_t)sim_random_next(random);
    return sim;
}

static void count_config(struct sim *sim) {
    const struct replica_config *c = &sim->config.replica;
    sim->tally[SIM_TALLY_nodes_1 + c->node_count - 1]++;
    sim->tally[SIM_TALLY_disk_seeds] += c->durable;
    sim->tally[SIM_TALLY_memory_seeds] += !c->durable;
    sim->tally[SIM_TALLY_more_than_majority] += c->quorum > c->node_count / 2 + 1;
    sim->tally[SIM_TALLY_core] += sim->config.core;
}

static void begin(struct sim *sim) {
    struct sim_random *random = &sim->random[SIM_STREAM_NODE];
    sim_check_init(sim);
    for (uint8_t i = 0; i < sim_nodes(sim); i++) {
        sim->nodes[i].index = i;
        sim_node_create(sim, &sim->nodes[i]);
    }
    sim_arbiter_init(sim);
    for (uint8_t i = 0; i < sim_nodes(sim); i++)
        sim_at(sim, sim_random_below(random, 5 * SIM_MS), SIM_EVENT_START, i, sim->nodes[i].life, 0,
               NULL);
    for (uint8_t i = 0; i < sim->config.gateways; i++)
        sim_at(sim, sim_random_below(random, 20 * SIM_MS), SIM_EVENT_GATEWAY, i, 0, 1, NULL);
    sim->gateway_count = sim->config.gateways;
    count_config(sim);
    sim_faults_start(sim);
    sim_at(sim, sim->config.fault_ns, SIM_EVENT_HEAL, 0, 0, 0, NULL);
}

static void not_quiet(struct sim *sim) {
    char text[400] = "";
    size_t at = 0;
    for (uint8_t i = 0; i < sim_nodes(sim) && at < sizeof text; i++) {
        struct sim_node *node = &sim->nodes[i];
        const struct replica_facts *f = &node->seen.facts;
        at += (size_t)snprintf(
            text + at, sizeof text - at, " n%u %s term %llu last %llu commit %llu exec %llu;", i,
            node->up ? sim_role_name(f->role) : "down", (unsigned long long)f->promised_term,
            (unsigned long long)f->last_seq, (unsigned long long)f->commit_seq,
            (unsigned long long)f->exec_seq);
    }
    uint32_t open = 0;
    for (uint32_t i = 0; i < sim->gateway_count; i++)
        open += sim->gateways[i].alive ? sim->gateways[i].open_count : 0;
    sim_fail(sim, "10.8 bounded progress",
             "%llu ms after the last fault: %u transactions unanswered;%s",
             (unsigned long long)(sim->config.quiet_ns / SIM_MS), open, text);
}

static void loop(struct sim *sim) {
    uint64_t end_ns = sim->config.fault_ns + sim->config.quiet_ns;
    uint64_t look_ns = 0;
    while (sim->event_count) {
        struct sim_event event = take(sim);
        sim->now_ns = event.at_ns;
        if (stale(sim, &event)) {
            free(event.data);
            continue;
        }
        if (put_off(sim, &event))
            continue;
        happen(sim, &event);
        if (sim->now_ns < look_ns)
            continue;
        look_ns = sim->now_ns + 10 * SIM_MS;
        sim_check_held(sim);
        if (sim->healed && sim_check_quiet(sim))
            return;
        if (sim->now_ns > end_ns)
            not_quiet(sim);
    }
}

bool sim_run(struct sim *sim) {
    jmp_buf escape;
    sim->escape = &escape;
    if (setjmp(escape) == 0) {
        begin(sim);
        loop(sim);
        sim_check_end(sim);
    }
    sim->escape = NULL;
    return !sim->failed;
}

static void event_free(struct sim_event *event) {
    free(event->data);
}

void sim_destroy(struct sim *sim) {
    for (uint64_t i = 0; i < sim->event_count; i++)
        event_free(&sim->events[i]);
    free(sim->events);
    for (uint32_t i = 0; i < sim_nodes(sim); i++)
        sim_node_destroy(&sim->nodes[i]);
    for (uint32_t i = 0; i < SIM_GATEWAYS_MAX; i++)
        free(sim->gateways[i].core);
    sim_check_free(sim);
    free(sim->actions);
    free(sim->delivered);
    free(sim->bodies);
    free(sim);
}
