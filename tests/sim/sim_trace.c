/* Readable lines: virtual time, who, what. */
#include "tests/sim/sim.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

const char *sim_name(uint8_t endpoint) {
    static const char *const names[SIM_ENDPOINTS] = {"n0", "n1", "n2", "n3", "n4", "n5", "n6", "g0",
                                                     "g1", "g2", "g3", "g4", "g5", "g6", "g7"};
    return endpoint < SIM_ENDPOINTS ? names[endpoint] : "-";
}

const char *sim_role_name(enum replica_role role) {
    switch (role) {
    case REPLICA_ROLE_LEARNER: return "learner";
    case REPLICA_ROLE_FOLLOWER: return "follower";
    case REPLICA_ROLE_PREPARING: return "preparing";
    case REPLICA_ROLE_LEADER: return "leader";
    case REPLICA_ROLE_NEEDS_BOOTSTRAP: return "needs-bootstrap";
    case REPLICA_ROLE_QUARANTINED: return "quarantined";
    case REPLICA_ROLE_STOPPED: return "stopped";
    }
    return "?";
}

void sim_trace(struct sim *sim, const char *who, const char *format, ...) {
    if (sim->now_ns < sim->trace_from_ns)
        return;
    printf("%12.6f ms  %-3s ", (double)sim->now_ns / 1e6, who);
    va_list arguments;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

#define U(x) ((unsigned long long)(x))

static const char *id_text(uint64_t id) {
    static char text[4][32];
    static int turn;
    char *t = text[turn++ & 3];
    snprintf(t, sizeof text[0], "r%llu+%u", U(wire_tx_range(id)), wire_tx_offset(id));
    return t;
}

static int epoch_text(char *text, size_t room, const uint8_t *epoch) {
    const struct wire_epoch_head *head = (const void *)epoch;
    const struct wire_control *controls = wire_epoch_controls(epoch);
    const struct wire_interval *intervals = wire_epoch_intervals(epoch);
    struct wire_hash hash =
        wire_hash_blake2b(epoch, wire_epoch_bytes(head->control_count, head->interval_count));
    int at = snprintf(text, room, "seq %llu of term %llu #%02x%02x", U(head->seq), U(head->term),
                      hash.bytes[0], hash.bytes[1]);
    for (uint32_t i = 0; i < head->control_count && at > 0 && (size_t)at < room; i++)
        at += snprintf(text + at, room - (size_t)at, " %s r%llu %llx",
                       controls[i].kind == WIRE_CONTROL_OPEN ? "OPEN" : "SEAL",
                       U(controls[i].range), U(controls[i].value));
    for (uint32_t i = 0; i < head->interval_count && at > 0 && (size_t)at < room; i++)
        at += snprintf(text + at, room - (size_t)at, " %s x%u", id_text(intervals[i].first_id),
                       intervals[i].count);
    return at;
}

static int body_text(char *text, size_t room, const uint8_t *payload, uint32_t length_bytes) {
    const struct wire_tx *tx = (const void *)payload;
    const struct wire_body_header *header = (const void *)(tx + 1);
    int at = snprintf(text, room, "%s", id_text(tx->id));
    if (length_bytes >= sizeof *tx + sizeof *header + sizeof(struct sim_payload)) {
        const struct sim_payload *p = (const void *)(header + 1);
        at += snprintf(text + at, room - (size_t)at, " op %llu part %u following %u amount %u",
                       U(p->operation), p->part, header->parts_following, p->amount);
    }
    return at;
}

static int vector_text(char *text, size_t room, const uint8_t *payload) {
    const struct wire_vector *v = (const void *)payload;
    const struct wire_vector_entry *entries = (const void *)(v + 1);
    int at = snprintf(text, room, "commit %llu exec %llu", U(v->commit_seq), U(v->exec_seq));
    for (uint32_t i = 0; i < v->count && i < 6 && at > 0 && (size_t)at < room; i++)
        at += snprintf(text + at, room - (size_t)at, " r%llu %u/%u", U(entries[i].range),
                       entries[i].received, entries[i].committed);
    return at;
}

static void leadership_text(char *text, size_t room, uint8_t kind, const uint8_t *payload) {
    const struct wire_promise *p = (const void *)payload;
    const struct wire_heartbeat *h = (const void *)payload;
    const struct wire_recovered *r = (const void *)payload;
    const struct wire_recover *q = (const void *)payload;
    const struct wire_pong *pong = (const void *)payload;
    if (kind == WIRE_PROMISE)
        snprintf(text, room, "term %llu promised %llu last (%llu, %llu) commit %llu", U(p->term),
                 U(p->promised_term), U(p->last_term), U(p->last_seq), U(p->commit_seq));
    else if (kind == WIRE_HEARTBEAT)
        snprintf(text, room, "term %llu last %llu commit %llu progress %llu", U(h->term),
                 U(h->last_seq), U(h->commit_seq), U(h->progress));
    else if (kind == WIRE_RECOVERED)
        snprintf(text, room, "to inc %llu promised %llu by n%u last (%llu, %llu) commit %llu",
                 U(r->asker_incarnation), U(r->promised_term), r->promised_index, U(r->last_term),
                 U(r->last_seq), U(r->commit_seq));
    else if (kind == WIRE_RECOVER)
        snprintf(text, room, "inc %llu nonce %llu", U(q->incarnation), U(q->nonce));
    else
        snprintf(text, room, "term %llu last (%llu, %llu)", U(pong->term), U(pong->last_term),
                 U(pong->last_seq));
}

const char *sim_frame_text(char *text, size_t room, uint8_t kind, uint8_t flags,
                           const uint8_t *payload, uint32_t length_bytes) {
    char inside[480] = "";
    size_t size = sizeof inside;
    const uint64_t *words = (const void *)payload;
    uint64_t first = 0, second = 0, third = 0;
    if (length_bytes >= 8)
        memcpy(&first, words, 8);
    if (length_bytes >= 16)
        memcpy(&second, words + 1, 8);
    if (length_bytes >= 24)
        memcpy(&third, words + 2, 8);
    if (kind == WIRE_PROPOSE) {
        int at = snprintf(inside, size, "term %llu commit %llu ", U(first), U(second));
        epoch_text(inside + at, size - (size_t)at, payload + sizeof(struct wire_propose));
    } else if (kind == WIRE_EPOCH) {
        int at = snprintf(inside, size, "commit %llu promised %llu ", U(first), U(second));
        epoch_text(inside + at, size - (size_t)at, payload + sizeof(struct wire_epoch_answer));
    } else if (kind == WIRE_ACK)
        snprintf(inside, size, "term %llu seq %llu commit %llu", U(first), U(second), U(third));
    else if (kind == WIRE_TX || kind == WIRE_BODY)
        body_text(inside, size, payload, length_bytes);
    else if (kind == WIRE_VECTOR)
        vector_text(inside, size, payload);
    else if (kind == WIRE_PROMISE || kind == WIRE_HEARTBEAT || kind == WIRE_RECOVERED ||
             kind == WIRE_RECOVER || kind == WIRE_PONG)
        leadership_text(inside, size, kind, payload);
    else if (kind == WIRE_FETCH) {
        uint32_t count;
        memcpy(&count, payload + 8, 4);
        snprintf(inside, size, "%s x%u", id_text(first), count);
    } else if (kind == WIRE_GONE || kind == WIRE_NOT_YET || kind == WIRE_RESULT ||
               kind == WIRE_TX_QUERY || kind == WIRE_TX_STATE)
        snprintf(inside, size, "%s", id_text(first));
    else if (length_bytes >= 16)
        snprintf(inside, size, "%llx %llu", U(first), U(second));
    else
        snprintf(inside, size, "%llu", U(first));
    snprintf(text, room, "%s%s %s", wire_kind_name(kind), flags ? "*" : "", inside);
    return text;
}

static void dump_node(struct sim_node *node) {
    struct replica_facts f;
    struct replica_range_facts r;
    replica_facts(node->replica, &f);
    printf("n%u %s term %llu leader %u base %llu exec %llu commit %llu matched %llu acknowledged "
           "%llu held %llu "
           "last %llu, slots %u used, promised %llu\n",
           node->index, sim_role_name(f.role), U(f.promised_term), f.leader, U(f.base_seq),
           U(f.exec_seq), U(f.commit_seq), U(f.matched), U(f.acknowledged_seq), U(f.held_seq),
           U(f.last_seq), f.slots_used, U(f.promised_term));
    for (uint32_t place = 0; replica_range_next(node->replica, &place, &r);) {
        uint32_t held = 0, least = UINT32_MAX;
        for (uint32_t slot = 0; slot < node->config.body_slots; slot++)
            if (node->slots[slot].owned && wire_tx_range(node->slots[slot].id) == r.range) {
                uint32_t offset = wire_tx_offset(node->slots[slot].id);
                held++;
                least = offset < least ? offset : least;
            }
        printf("   range %llu owner %llx %s received %u logged %u committed %u executed %u; %u "
               "bodies from %u\n",
               U(r.range), U(r.owner),
               r.sealed ? "sealed"
               : r.open ? "open"
                        : "unopened",
               r.received, r.logged, r.committed, r.executed, held, held ? least : 0);
    }
}

void sim_dump(struct sim *sim) {
    for (uint32_t i = 0; i < sim_nodes(sim); i++)
        if (sim->nodes[i].up)
            dump_node(&sim->nodes[i]);
    for (uint32_t i = 0; i < sim->gateway_count; i++) {
        const struct sim_gateway *g = &sim->gateways[i];
        printf("g%u %s range %llu next %u limit %u low %u, %u open:", i,
               g->alive ? "alive" : "dead", g->has_range ? U(g->range) : 0, g->next, g->limit,
               g->low_water, g->open_count);
        for (uint32_t t = 0; t < g->open_count && t < 10; t++)
            printf(" %s x%u", id_text(wire_tx_id(g->open[t].range, g->open[t].offset)),
                   g->open[t].parts);
        putchar('\n');
    }
    for (uint32_t i = 0; i < sim->arbiter.store.range_count; i++)
        printf("arbiter: range %llu owner %llx %s at %u\n", U(sim->arbiter.store.ranges[i].range),
               U(sim->arbiter.store.ranges[i].owner),
               sim->arbiter.store.ranges[i].sealed ? "sealed" : "granted",
               sim->arbiter.store.ranges[i].end);
}
