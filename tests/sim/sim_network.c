/* Packets between endpoints: lost, late, twice, out of order, damaged, cut off. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

bool sim_network_open(struct sim *sim, uint8_t from, uint8_t to) {
    return sim->network.cut_until_ns[from][to] <= sim->now_ns;
}

static bool met_cut(struct sim *sim, uint8_t from, uint8_t to) {
    if (sim_network_open(sim, from, to))
        return false;
    SIM_COUNT(sim, cut);
    sim->tally[SIM_TALLY_cut_one_way] += sim_network_open(sim, to, from);
    return true;
}

static uint32_t first_difference(const uint8_t *bytes, const struct sim_packet *packet) {
    uint32_t at = 0;
    while (at < packet->length_bytes && bytes[at] == packet->bytes[at])
        at++;
    return at;
}

/* A wrong packet must be found out by its checksum, so damage is loss: this asserts the first half
 * and lets the second happen. */
static void damage(struct sim *sim, const struct sim_packet *packet) {
    struct sim_random *random = &sim->random[SIM_FAULT_CORRUPT];
    uint8_t bytes[WIRE_PACKET_MAX_BYTES];
    memcpy(bytes, packet->bytes, packet->length_bytes);
    uint64_t flips = sim_random_between(random, 1, 8);
    for (uint64_t i = 0; i < flips; i++)
        bytes[sim_random_below(random, packet->length_bytes)] ^=
            (uint8_t)(1u << sim_random_below(random, 8));
    if (!memcmp(bytes, packet->bytes, packet->length_bytes))
        return;
    struct wire_packet_header header;
    struct wire_cursor cursor;
    if (wire_packet_open(bytes, packet->length_bytes, sim->config.replica.configuration_id, &header,
                         &cursor) == WIRE_DROP_NONE)
        sim_fail(sim, "packet checksum",
                 "a damaged packet from %s was accepted: %llu flips, first %u of %u",
                 sim_name(packet->from), (unsigned long long)flips, first_difference(bytes, packet),
                 packet->length_bytes);
    SIM_COUNT(sim, damaged);
}

static uint64_t delay(struct sim *sim, uint8_t from, uint8_t to) {
    struct sim_random *random = &sim->random[SIM_STREAM_NETWORK];
    uint64_t ns = sim->config.hop_ns + sim_random_below(random, sim->config.hop_spread_ns + 1);
    if (sim_faulty(sim, SIM_FAULT_DELAY)) {
        uint64_t usual_ns = ns;
        if (sim_random_chance(random, sim->config.late_ppm))
            ns += sim_random_exponential(random, sim->config.late_ns);
        if (sim->network.slow_until_ns[from] > sim->now_ns ||
            sim->network.slow_until_ns[to] > sim->now_ns)
            ns += sim_random_exponential(random, 4 * sim->config.late_ns);
        sim->tally[SIM_TALLY_late] += ns != usual_ns;
    }
    return ns;
}

static void deliver_later(struct sim *sim, const struct sim_packet *packet, uint64_t late_ns) {
    size_t size = offsetof(struct sim_packet, bytes) + packet->length_bytes;
    struct sim_packet *copy = malloc(size);
    if (!copy)
        abort();
    memcpy(copy, packet, size);
    sim_at(sim, sim->now_ns + delay(sim, packet->from, packet->to) + late_ns, SIM_EVENT_ARRIVE,
           packet->to, 0, 0, copy);
}

void sim_network_send(struct sim *sim, uint8_t from, uint8_t to, uint8_t stage, uint32_t life,
                      uint64_t incarnation, uint64_t number, const void *bytes,
                      uint32_t length_bytes) {
    struct sim_random *random = &sim->random[SIM_STREAM_NETWORK];
    union {
        struct sim_packet packet;
        uint8_t room[sizeof(struct sim_packet) + WIRE_PACKET_MAX_BYTES];
    } u;
    u.packet = (struct sim_packet){
        .from = from,
        .to = to,
        .stage = stage,
        .life = life,
        .to_life = to < WIRE_NODES_MAX ? 0 : sim->gateways[to - WIRE_NODES_MAX].life,
        .incarnation = incarnation,
        .number = number,
        .sent_ns = sim->now_ns,
        .length_bytes = length_bytes};
    memcpy(u.room + offsetof(struct sim_packet, bytes), bytes, length_bytes);
    sim->network.sent++;
    bool lost = met_cut(sim, from, to), by_chance = false;
    if (sim_faulty(sim, SIM_FAULT_LOSS))
        by_chance = sim_random_chance(random, sim->config.loss_ppm);
    else if (sim->healed && sim->config.faults >> SIM_FAULT_LOSS & 1)
        by_chance = sim_random_chance(random, 2000);
    sim->tally[SIM_TALLY_lost] += by_chance;
    lost |= by_chance;
    if (sim_faulty(sim, SIM_FAULT_CORRUPT) &&
        sim_random_chance(&sim->random[SIM_FAULT_CORRUPT], sim->config.corrupt_ppm)) {
        damage(sim, &u.packet);
        lost = true;
    }
    if (lost)
        return;
    deliver_later(sim, &u.packet, 0);
    if (sim_faulty(sim, SIM_FAULT_DUPLICATE) &&
        sim_random_chance(random, sim->config.duplicate_ppm)) {
        SIM_COUNT(sim, twice);
        deliver_later(sim, &u.packet, 0);
    }
    uint64_t late_ns[SIM_AGAIN_MAX];
    uint32_t again = sim_fault_again(sim, from, to, late_ns);
    for (uint32_t i = 0; i < again; i++)
        deliver_later(sim, &u.packet, late_ns[i]);
}

void sim_network_arrive(struct sim *sim, struct sim_packet *packet) {
    if (met_cut(sim, packet->from, packet->to)) {
        free(packet);
        return;
    }
    uint64_t *newest_ns = &sim->network.newest_ns[packet->from][packet->to];
    sim->tally[SIM_TALLY_overtaken] += packet->sent_ns < *newest_ns;
    *newest_ns = packet->sent_ns > *newest_ns ? packet->sent_ns : *newest_ns;
    if (packet->to >= WIRE_NODES_MAX) {
        struct sim_gateway *gateway = &sim->gateways[packet->to - WIRE_NODES_MAX];
        if (gateway->alive && gateway->life == packet->to_life &&
            gateway->paused_until_ns <= sim->now_ns)
            sim_gateway_packet(sim, gateway, packet);
        free(packet);
        return;
    }
    struct sim_node *node = &sim->nodes[packet->to];
    if (!node->up) {
        free(packet);
        return;
    }
    struct replica_event none;
    memset(&none, 0, sizeof none);
    sim_node_push(sim, node, SIM_ITEM_PACKET, packet, &none);
}
