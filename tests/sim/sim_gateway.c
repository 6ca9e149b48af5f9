/* A client process after protocol.md §8: one range at a time, ids in order, a window, resends until
 * answered, low-water mark. Follows the rules unless its seed makes it faulty (`conflicting`). */
#include "tests/sim/sim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "proto/retired.h"

#define RESEND_NS (8 * SIM_MS)
#define TICK_NS (300 * UINT64_C(1000))

static uint8_t endpoint(const struct sim_gateway *gateway) {
    return (uint8_t)(WIRE_NODES_MAX + gateway->index);
}

/* ---- sending ---- */

void sim_gateway_send(struct sim *sim, struct sim_gateway *gateway, uint8_t to, enum wire_kind kind,
                      const void *payload, uint32_t length_bytes) {
    struct wire_writer writer;
    uint8_t bytes[WIRE_PACKET_MAX_BYTES];
    wire_writer_begin(&writer, bytes, sizeof bytes, WIRE_STAGE_INGRESS, 1000u + gateway->index);
    void *at = wire_writer_frame(&writer, kind, 0, length_bytes);
    assert(at);
    memcpy(at, payload, length_bytes);
    uint32_t length =
        wire_writer_end(&writer, ++gateway->packet_number, sim->config.replica.configuration_id);
    sim_network_send(sim, endpoint(gateway), to, WIRE_STAGE_INGRESS, gateway->life, gateway->owner,
                     gateway->packet_number, bytes, length);
}

static void send_hello(struct sim *sim, struct sim_gateway *gateway) {
    struct wire_hello hello = {.session = 1000u + gateway->index,
                               .role = WIRE_ROLE_GATEWAY,
                               .incarnation = gateway->owner,
                               .ranges = {gateway->range, WIRE_RANGE_NONE}};
    struct wire_range_renew renew = {gateway->owner, gateway->range};
    for (uint8_t i = 0; i < sim_nodes(sim); i++) {
        sim_gateway_send(sim, gateway, i, WIRE_HELLO, &hello, sizeof hello);
        sim_gateway_send(sim, gateway, i, WIRE_RANGE_RENEW, &renew, sizeof renew);
    }
}

/* The bytes of a part follow from the transaction alone, so that a resend is the same body. A
 * conflicting gateway gives odd nodes another amount. */
static uint32_t part_bytes(struct sim *sim, const struct sim_gateway *gateway,
                           const struct sim_transaction *t, uint32_t part, uint8_t node,
                           uint8_t *bytes) {
    struct wire_body_header header = {.service = 1,
                                      .method = t->kind,
                                      .parts_following = (uint16_t)(t->parts - 1 - part),
                                      .low_water = t->low_water};
    struct sim_payload payload = {.operation = t->operation,
                                  .kind = t->kind,
                                  .from = t->from,
                                  .to = t->to,
                                  .part = (uint8_t)part,
                                  .amount = t->amount};
    if (gateway->conflicting && (node & 1) && t->operation % 3 == 0) {
        SIM_COUNT(sim, conflict);
        payload.amount++;
    }
    memset(bytes, (int)(t->operation & 255), t->length_bytes);
    memcpy(bytes, &header, sizeof header);
    memcpy(bytes + sizeof header, &payload, sizeof payload);
    return t->length_bytes;
}

static void send_transaction(struct sim *sim, struct sim_gateway *gateway,
                             const struct sim_transaction *t, uint8_t node) {
    uint8_t frame[sizeof(struct wire_tx) + SIM_BODY_BYTES_MAX];
    for (uint32_t part = 0; part < t->parts; part++) {
        struct wire_tx tx = {wire_tx_id(t->range, t->offset + part)};
        memcpy(frame, &tx, sizeof tx);
        uint32_t length = part_bytes(sim, gateway, t, part, node, frame + sizeof tx);
        sim_gateway_send(sim, gateway, node, WIRE_TX, frame, (uint32_t)sizeof tx + length);
    }
}

/* Interleaves nodes packet by packet, or sends to one only. */
static void send_everywhere(struct sim *sim, struct sim_gateway *gateway,
                            const struct sim_transaction *t) {
    for (uint8_t i = 0; i < sim_nodes(sim); i++)
        if (gateway->narrow == REPLICA_NODE_NONE || gateway->narrow == i)
            send_transaction(sim, gateway, t, i);
}

/* ---- ids ---- */

static void low_water(struct sim_gateway *gateway) {
    uint32_t low = gateway->next;
    for (uint32_t i = 0; i < gateway->open_count; i++)
        if (gateway->open[i].range == gateway->range && gateway->open[i].offset < low)
            low = gateway->open[i].offset;
    gateway->low_water = low > gateway->low_water ? low : gateway->low_water;
}

/* Gives a transaction its id in the current range; false when the window or the span is full. */
static bool assign(struct sim_gateway *gateway, struct sim_transaction *t) {
    if (!gateway->has_range || gateway->next + (uint64_t)t->parts > gateway->limit ||
        gateway->next + t->parts > gateway->low_water + SIM_RESULTS_KEPT ||
        gateway->next + (uint64_t)t->parts > WIRE_RANGE_OFFSETS)
        return false;
    t->range = gateway->range;
    t->owner = gateway->owner;
    t->offset = gateway->next;
    t->low_water = gateway->low_water;
    gateway->next += t->parts;
    return true;
}

void sim_gateway_fill(struct sim *sim, struct sim_transaction *t) {
    struct sim_random *random = &sim->random[SIM_STREAM_GATEWAY];
    t->operation = ++sim->next_operation;
    t->kind = (uint8_t)sim_random_between(random, SIM_TRANSFER, SIM_WRITE);
    t->from = (uint8_t)sim_random_below(random, SIM_ACCOUNTS);
    t->to = (uint8_t)sim_random_below(random, SIM_ACCOUNTS);
    t->amount = sim_random_u32(random, 1, 400);
    t->parts =
        sim_random_chance(random, 100000) ? sim_random_u32(random, 1, sim->config.parts_max) : 1;
    if (sim->config.whole)
        t->parts = sim->config.parts_max;
    sim->tally[SIM_TALLY_parts] += t->parts > 1;
    uint32_t least = sizeof(struct wire_body_header) + sizeof(struct sim_payload);
    t->length_bytes = sim_random_u32(random, least, sim->config.body_bytes_max);
}

static void submit(struct sim *sim, struct sim_gateway *gateway) {
    if (gateway->open_count == SIM_RESULTS_KEPT)
        return;
    struct sim_transaction *t = &gateway->open[gateway->open_count];
    memset(t, 0, sizeof *t);
    sim_gateway_fill(sim, t);
    if (!assign(gateway, t))
        return; /* the client waits */
    t->floor_order = sim->checks.answered_order;
    t->resend_ns = sim->now_ns + RESEND_NS;
    gateway->open_count++;
    gateway->submitted++;
    send_everywhere(sim, gateway, t);
}

static void resend(struct sim *sim, struct sim_gateway *gateway, struct sim_transaction *t) {
    if (sim->now_ns < t->resend_ns)
        return;
    t->tries++;
    gateway->resent++;
    SIM_COUNT(sim, resent);
    if (MUTANT(gateway_moves_early) && t->tries == 3) {
        t->range = WIRE_RANGE_NONE;
        return;
    }
    uint64_t wait = RESEND_NS << (t->tries < 4 ? t->tries : 4);
    t->resend_ns = sim->now_ns + wait + sim_random_below(&sim->random[SIM_STREAM_GATEWAY], wait);
    /* asks instead of sending it all again; for a range of before, nodes take nothing else */
    if (t->tries % 4 == 3 || t->range != gateway->range) {
        struct wire_tx_query query = {.id = wire_tx_id(t->range, t->offset),
                                      .owner_mark = retired_mark(t->owner)};
        uint8_t node = (uint8_t)sim_random_below(&sim->random[SIM_STREAM_GATEWAY], sim_nodes(sim));
        sim_gateway_send(sim, gateway, node, WIRE_TX_QUERY, &query, sizeof query);
        return;
    }
    send_everywhere(sim, gateway, t);
}

/* ---- ranges ---- */

static void ask_range(struct sim *sim, struct sim_gateway *gateway) {
    if (sim->now_ns < gateway->ask_ns)
        return;
    gateway->ask_ns = sim->now_ns + 20 * SIM_MS;
    if (!gateway
             ->asking) { /* a new token for every range: the end of the old one must not hit it */
        gateway->nonce = sim_random_next(&sim->random[SIM_STREAM_GATEWAY]);
        gateway->owner = sim_random_next(&sim->random[SIM_STREAM_GATEWAY]) | 1;
    }
    gateway->asking = true;
    struct wire_range_request request = {gateway->nonce, gateway->owner, gateway->pinned};
    uint8_t node = (uint8_t)sim_random_below(&sim->random[SIM_STREAM_GATEWAY], sim_nodes(sim));
    sim_gateway_send(sim, gateway, node, WIRE_RANGE_REQUEST, &request, sizeof request);
}

static void granted(struct sim *sim, struct sim_gateway *gateway,
                    const struct wire_range_grant *g) {
    if (!gateway->asking || g->nonce != gateway->nonce || g->owner != gateway->owner)
        return;
    if (g->outcome == WIRE_RANGE_TAKEN && sim->healed)
        gateway->pinned = WIRE_RANGE_NONE;
    if (g->outcome != WIRE_RANGE_GRANTED)
        return;
    gateway->asking = false;
    gateway->has_range = true;
    gateway->owner = g->held_by; /* of a pinned range: this holding's */
    gateway->range = g->range;
    gateway->next = gateway->limit = gateway->low_water = g->start;
    gateway->limit = g->start + 8; /* a first step, until a vector tells the window */
    if (gateway->limit > WIRE_RANGE_OFFSETS)
        gateway->limit = WIRE_RANGE_OFFSETS;
    gateway->hello_ns = 0;
    SIM_TRACE(sim, sim_name(endpoint(gateway)), "has range %llu from %u",
              (unsigned long long)g->range, g->start);
}

/* "Any frame for an id at or above the end is answered SEALED: only then may a gateway send that
 * work under another id." */
static void sealed(struct sim *sim, struct sim_gateway *gateway, const struct wire_sealed *s) {
    if (gateway->has_range && gateway->range == s->range &&
        retired_mark(gateway->owner) == s->owner_mark) {
        gateway->has_range = false;
        gateway->pinned = WIRE_RANGE_NONE; /* one owner token never holds a range twice */
        gateway->ask_ns = 0;
        SIM_TRACE(sim, sim_name(endpoint(gateway)), "range %llu is sealed at %u",
                  (unsigned long long)s->range, s->end);
    }
    for (uint32_t i = 0; i < gateway->open_count; i++) {
        struct sim_transaction *t = &gateway->open[i];
        if (t->range != s->range || retired_mark(t->owner) != s->owner_mark)
            continue;
        if (t->offset >= s->end) {
            t->range = WIRE_RANGE_NONE; /* gets another id when there is a range */
            gateway->moved++;
        } else {
            t->owner = 0; /* ordered in this holding: the id is nobody else's */
        }
    }
}

static void place_moved(struct sim *sim, struct sim_gateway *gateway) {
    for (uint32_t i = 0; i < gateway->open_count; i++) {
        struct sim_transaction *t = &gateway->open[i];
        if (t->range != WIRE_RANGE_NONE || !assign(gateway, t))
            continue;
        t->tries = 0;
        SIM_COUNT(sim, moved);
        t->resend_ns = sim->now_ns + RESEND_NS;
        send_everywhere(sim, gateway, t);
    }
}

/* ---- answers ---- */

static struct sim_transaction *find(struct sim_gateway *gateway, uint64_t id) {
    for (uint32_t i = 0; i < gateway->open_count; i++)
        if (gateway->open[i].range != WIRE_RANGE_NONE &&
            wire_tx_id(gateway->open[i].range, gateway->open[i].offset) == id)
            return &gateway->open[i];
    return NULL;
}

static void close_transaction(struct sim_gateway *gateway, struct sim_transaction *t) {
    *t = gateway->open[--gateway->open_count];
    low_water(gateway);
}

static void result(struct sim *sim, struct sim_gateway *gateway, const struct wire_frame *frame) {
    struct wire_result r;
    memcpy(&r, frame->payload, sizeof r);
    struct sim_transaction *t = find(gateway, r.id);
    if (!t || r.owner_mark != retired_mark(t->owner))
        return;
    sim_check_result(sim, gateway, t, (const struct wire_result *)(const void *)frame->payload);
    gateway->answered++;
    close_transaction(gateway, t);
}

static void state(struct sim *sim, struct sim_gateway *gateway, const struct wire_tx_state *s) {
    struct sim_transaction *t = find(gateway, s->id);
    if (!t || s->owner_mark != retired_mark(t->owner))
        return;
    /* Of whoever's: one that is behind does not know that the range went on. */
    if (s->outcome == WIRE_TX_SEALED && s->owner_mark) {
        sim_check_sealed_off(sim, t);
        t->range = WIRE_RANGE_NONE;
        gateway->moved++;
    }
    if (s->outcome != WIRE_TX_EXPIRED)
        return;
    sim_check_expired(sim, gateway, t);
    gateway->expired++;
    close_transaction(gateway, t);
}

/* Committed + window of the newest vector; the limit never goes back. */
static void vector(struct sim_gateway *gateway, const struct wire_frame *frame) {
    struct wire_vector v;
    struct wire_vector_entry e;
    memcpy(&v, frame->payload, sizeof v);
    if (v.count == 0 || v.commit_seq < gateway->commit_seq)
        return;
    gateway->commit_seq = v.commit_seq;
    for (uint32_t i = 0; i < v.count; i++) {
        memcpy(&e, frame->payload + sizeof v + i * sizeof e, sizeof e);
        uint64_t limit = (uint64_t)e.committed + v.window;
        if (limit > WIRE_RANGE_OFFSETS)
            limit = WIRE_RANGE_OFFSETS;
        if (gateway->has_range && e.range == gateway->range && limit > gateway->limit)
            gateway->limit = (uint32_t)limit;
    }
}

/* A lagging node may say so of a range that is ours: shows it again. Looks whose it is, and when it
 * is another's, what became of the open transactions stays in doubt. */
static void not_owner(struct sim *sim, struct sim_gateway *gateway) {
    gateway->hello_ns = 0;
    if (!gateway->has_range || sim_arbiter_owner(sim, gateway->range) == gateway->owner)
        return;
    gateway->has_range = false;
    gateway->pinned = WIRE_RANGE_NONE;
    gateway->ask_ns = 0;
    for (uint32_t i = gateway->open_count; i-- > 0;)
        if (gateway->open[i].range == gateway->range) {
            gateway->doubt++;
            gateway->open[i] = gateway->open[--gateway->open_count];
        }
}

void sim_gateway_packet(struct sim *sim, struct sim_gateway *gateway,
                        const struct sim_packet *packet) {
    struct wire_packet_header header;
    struct wire_cursor cursor;
    struct wire_frame frame;
    enum wire_drop drop = wire_packet_open(packet->bytes, packet->length_bytes,
                                           sim->config.replica.configuration_id, &header, &cursor);
    if (drop != WIRE_DROP_NONE)
        sim_fail(sim, "packet", "an undamaged packet from %s was dropped: %s",
                 sim_name(packet->from), wire_drop_label(drop));
    while (wire_frame_next(&cursor, &frame, &drop) > 0) {
        if (frame.kind == WIRE_HELLO) {
            gateway->hello_ns = 0;
            continue;
        }
        if (gateway->core) {
            sim_gateway_core_frame(sim, gateway, packet->from, &frame);
            continue;
        }
        struct wire_range_grant grant;
        struct wire_sealed seal;
        struct wire_tx_state tx_state;
        if (frame.kind == WIRE_RESULT) {
            result(sim, gateway, &frame);
        } else if (frame.kind == WIRE_VECTOR) {
            vector(gateway, &frame);
        } else if (frame.kind == WIRE_TX_STATE) {
            memcpy(&tx_state, frame.payload, sizeof tx_state);
            state(sim, gateway, &tx_state);
        } else if (frame.kind == WIRE_RANGE_GRANT) {
            memcpy(&grant, frame.payload, sizeof grant);
            granted(sim, gateway, &grant);
        } else if (frame.kind == WIRE_SEALED) {
            memcpy(&seal, frame.payload, sizeof seal);
            sealed(sim, gateway, &seal);
        } else if (frame.kind == WIRE_NOT_OWNER) {
            not_owner(sim, gateway);
        }
    }
}

/* ---- life ---- */

void sim_gateway_start(struct sim *sim, uint8_t index) {
    struct sim_gateway *gateway = &sim->gateways[index];
    struct sim_random *random = &sim->random[SIM_STREAM_GATEWAY];
    uint32_t life = gateway->life;
    sim->tally[SIM_TALLY_gateway_heir] += life > 0;
    free(gateway->core);
    memset(gateway, 0, sizeof *gateway);
    gateway->index = index;
    gateway->life = life;
    gateway->alive = true;
    gateway->owner = sim_random_next(random) | 1;
    gateway->pinned = sim_random_chance(random, sim_rough(sim->seed) ? 800000 : 300000)
                          ? sim_random_below(random, 3)
                          : WIRE_RANGE_NONE;
    if (sim->config.contested)
        gateway->pinned = 0;
    gateway->narrow = REPLICA_NODE_NONE;
    if (sim_faulty(sim, SIM_FAULT_NARROW) && sim_random_chance(random, 500000))
        gateway->narrow = (uint8_t)sim_random_below(random, sim_nodes(sim));
    sim->tally[SIM_TALLY_narrow] += gateway->narrow != REPLICA_NODE_NONE;
    gateway->conflicting = sim_faulty(sim, SIM_FAULT_CONFLICT) && sim_random_chance(random, 500000);
    gateway->next_transaction_ns = sim->now_ns;
    SIM_TRACE(sim, sim_name(endpoint(gateway)), "START owner %llx%s narrow %s",
              (unsigned long long)gateway->owner, gateway->conflicting ? " conflicting" : "",
              sim_name(gateway->narrow));
    if (sim->config.core)
        sim_gateway_core_start(sim, gateway);
    sim_at(sim, sim->now_ns, SIM_EVENT_GATEWAY, index, gateway->life, 0, NULL);
}

void sim_gateway_die(struct sim *sim, struct sim_gateway *gateway) {
    SIM_TRACE(sim, sim_name(endpoint(gateway)), "DIES");
    SIM_COUNT(sim, gateway_dead);
    gateway->alive = false;
    gateway->life++;
}

bool sim_gateway_idle(const struct sim_gateway *gateway) {
    return !gateway->alive || gateway->open_count == 0;
}

void sim_gateway_timer(struct sim *sim, struct sim_gateway *gateway) {
    uint64_t next = sim->now_ns + TICK_NS;
    if (gateway->core && gateway->paused_until_ns <= sim->now_ns) {
        sim_gateway_core_timer(sim, gateway);
        sim_at(sim, next, SIM_EVENT_GATEWAY, gateway->index, gateway->life, 0, NULL);
        return;
    }
    if (gateway->paused_until_ns > sim->now_ns) {
        next = gateway->paused_until_ns;
    } else if (!gateway->has_range) {
        ask_range(sim, gateway);
    } else {
        if (sim->now_ns >= gateway->hello_ns) {
            send_hello(sim, gateway);
            gateway->hello_ns = sim->now_ns + sim->config.lease_ns / 3;
        }
        place_moved(sim, gateway);
        while (!sim->healed && sim->now_ns >= gateway->next_transaction_ns) {
            submit(sim, gateway);
            gateway->next_transaction_ns += sim_random_exponential(&sim->random[SIM_STREAM_GATEWAY],
                                                                   sim->config.transaction_gap_ns);
        }
    }
    if (gateway->paused_until_ns <= sim->now_ns)
        for (uint32_t i = 0; i < gateway->open_count; i++)
            if (gateway->open[i].range != WIRE_RANGE_NONE)
                resend(sim, gateway, &gateway->open[i]);
    sim_at(sim, next, SIM_EVENT_GATEWAY, gateway->index, gateway->life, 0, NULL);
}
