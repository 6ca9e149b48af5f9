/* What goes wrong and when: each class draws from its own stream. */
#include "tests/sim/sim.h"

#include <string.h>

/* ---- limits ---- */

/* Recovery has ended on a disk when the promise that ends it is stable. */
static bool forgetful(const struct sim *sim, const struct sim_node *node) {
    if (node->diverges || sim_node_differs(sim, node)) /* its memory is of no use to others */
        return true;
    if (!sim->config.replica.durable)
        return !node->recovered || !node->up;
    return !node->recovered || node->rotten ||
           (node->incarnation != node->listed && !node->journal.promised_stable);
}

bool sim_loss_allowed(const struct sim *sim, const struct sim_node *node) {
    uint32_t n = sim_nodes(sim), k = sim->config.replica.quorum, count = 0;
    uint32_t limit = n - k < k - 1 ? n - k : k - 1;
    if (forgetful(sim, node))
        return true; /* it has nothing to lose */
    for (uint32_t i = 0; i < n; i++)
        count += forgetful(sim, &sim->nodes[i]);
    return count < limit;
}

static struct sim_node *some_node(struct sim *sim, struct sim_random *random) {
    return &sim->nodes[sim_random_below(random, sim_nodes(sim))];
}

static uint64_t lasting(struct sim_random *random, uint64_t mean_ns) {
    uint64_t ns = sim_random_exponential(random, mean_ns);
    return ns < 6 * mean_ns ? ns : 6 * mean_ns;
}

/* ---- one fault of a class ---- */

static void crash_fault(struct sim *sim, struct sim_random *random) {
    bool all = sim->config.replica.durable && sim_random_chance(random, 100000);
    sim->tally[SIM_TALLY_crash_all] += all;
    for (uint8_t i = 0; all && i < sim_nodes(sim); i++) /* power loss */
        if (sim->nodes[i].up)
            sim_node_crash(sim, &sim->nodes[i], false);
    struct sim_node *node = some_node(sim, random);
    bool later = sim_random_chance(random, 300000);
    uint32_t steps = sim_random_u32(random, 1, 8);
    if (!node->up || (!sim->config.replica.durable && !sim_loss_allowed(sim, node)))
        return;
    if (later)
        node->crash_in_steps = steps;
    else
        sim_node_crash(sim, node, false);
}

static void partition_fault(struct sim *sim, struct sim_random *random) {
    uint64_t until = sim->now_ns + lasting(random, 60 * SIM_MS);
    uint64_t kind = sim_random_below(random, sim_rough(sim->seed) ? 7 : 5);
    uint32_t side = (uint32_t)sim_random_next(random); /* a bit per endpoint */
    uint8_t victim = (uint8_t)sim_random_below(random, sim_nodes(sim));
    uint8_t other =
        (uint8_t)((victim + 1 + (side >> 20) % (sim_nodes(sim) - (sim_nodes(sim) > 1))) %
                  sim_nodes(sim));
    if (kind == 4) {
        victim = (uint8_t)(WIRE_NODES_MAX + sim_random_below(random, SIM_GATEWAYS_MAX));
        kind = sim_random_below(random, 3);
    }
    SIM_TRACE(sim, "--", "PARTITION kind %llu victim %s side %x until %.3f ms",
              (unsigned long long)kind, sim_name(victim), side & 0x7fff, (double)until / 1e6);
    for (uint32_t a = 0; a < SIM_ENDPOINTS; a++)
        for (uint32_t b = 0; b < SIM_ENDPOINTS; b++) {
            bool cut = false;
            if (kind == 0) /* both ways */
                cut = a == victim || b == victim;
            else if (kind == 1) /* it is not heard */
                cut = a == victim;
            else if (kind == 2) /* it hears nothing */
                cut = b == victim;
            else if (kind == 5) /* one link: who sees whom is no partition any more */
                cut = (a == victim && b == other) || (a == other && b == victim);
            else if (kind == 6)
                cut = a == victim && b == other;
            else
                cut = (side >> a & 1) != (side >> b & 1);
            if (cut)
                sim->network.cut_until_ns[a][b] = until;
        }
}

static void arbiter_fault(struct sim *sim, struct sim_random *random) {
    uint64_t kind = sim_random_below(random, 4);
    uint64_t until = sim->now_ns + lasting(random, 120 * SIM_MS);
    SIM_TRACE(sim, "etc", "FAULT kind %llu until %.3f ms", (unsigned long long)kind,
              (double)until / 1e6);
    if (kind == 0)
        sim->arbiter.away_until_ns = until;
    else if (kind == 1)
        sim->arbiter.slow_until_ns = until;
    else if (kind == 2)
        sim->arbiter.lossy_until_ns = until;
    else
        some_node(sim, random)->control.cut_until_ns = until;
}

static void gateway_fault(struct sim *sim, struct sim_random *random) {
    if (!sim->gateway_count)
        return;
    struct sim_gateway *gateway = &sim->gateways[sim_random_below(random, sim->gateway_count)];
    bool churn = sim->seed >= SIM_SEED_CHURN && sim->seed < SIM_SEED_AMNESIA;
    bool dies = sim_random_chance(random, churn ? 900000 : 400000);
    uint64_t pause_ns = lasting(random, sim->config.lease_ns);
    uint64_t heir_ns = lasting(random, 50 * SIM_MS);
    if (!gateway->alive || sim->arbiter.granted > SIM_RANGES_MAX - 32)
        return;
    if (!dies) {
        SIM_TRACE(sim, sim_name((uint8_t)(WIRE_NODES_MAX + gateway->index)), "PAUSE %.3f ms",
                  (double)pause_ns / 1e6);
        SIM_COUNT(sim, gateway_pause);
        gateway->paused_until_ns = sim->now_ns + pause_ns;
        return;
    }
    sim_gateway_die(sim, gateway);
    if (churn && sim->gateway_count > 3) /* another process at its address */
        sim_at(sim, sim->now_ns + heir_ns / 4, SIM_EVENT_GATEWAY, gateway->index, gateway->life, 1,
               NULL);
    else if (sim->gateway_count < SIM_GATEWAYS_MAX)
        sim_at(sim, sim->now_ns + heir_ns, SIM_EVENT_GATEWAY, (uint8_t)sim->gateway_count++, 0, 1,
               NULL);
}

/* One node's wall clock, always the same: k promises of which at most one is wrong (§4). */
static void clock_fault(struct sim *sim, struct sim_random *random) {
    int64_t hour_us = INT64_C(3600000000), jump = (int64_t)sim_random_below(random, 2000000);
    uint64_t kind = sim_random_below(random, 4);
    if (kind == 1)
        jump = -jump;
    else if (kind == 2)
        jump = hour_us;
    else if (kind == 3)
        jump = 24 * 365 * 10 * hour_us;
    if (sim->config.replica.quorum < 2)
        return;
    struct sim_node *node = &sim->nodes[sim->seed % sim_nodes(sim)];
    SIM_TRACE(sim, sim_name(node->index), "CLOCK jumps by %lld us", (long long)jump);
    sim->tally[kind == 3 ? SIM_TALLY_clock_years : SIM_TALLY_clock_step]++;
    node->wall_offset_us += jump;
}

static void pause_fault(struct sim *sim, struct sim_random *random) {
    struct sim_node *node = some_node(sim, random);
    uint64_t ns =
        lasting(random, sim_random_chance(random, 300000) ? sim->config.lease_ns : 30 * SIM_MS);
    SIM_TRACE(sim, sim_name(node->index), "PAUSE %.3f ms", (double)ns / 1e6);
    sim_node_pause(sim, node, sim->now_ns + ns, sim_random_chance(random, 500000));
}

static void handover_fault(struct sim *sim, struct sim_random *random) {
    struct sim_node *node = some_node(sim, random);
    struct replica_event event = {.kind = REPLICA_EVENT_HANDOVER};
    if (!node->up)
        return;
    sim->tally[SIM_TALLY_handover] += node->seen.facts.role == REPLICA_ROLE_LEADER;
    sim_node_push(sim, node, SIM_ITEM_EVENT, NULL, &event);
}

static void wipe_fault(struct sim *sim, struct sim_random *random) {
    struct sim_node *node = some_node(sim, random);
    if (sim->config.replica.durable && node->up && sim_loss_allowed(sim, node))
        sim_node_crash(sim, node, true);
}

/* A record that was stable; what is not yet may be torn anyway. */
static void rot_fault(struct sim *sim, struct sim_random *random) {
    struct sim_node *node = some_node(sim, random);
    if (!sim->config.replica.durable || !node->up || forgetful(sim, node) ||
        !sim_loss_allowed(sim, node) || node->journal.stable == node->journal.first)
        return;
    SIM_TRACE(sim, sim_name(node->index), "ROT on its disk");
    node->rotten = true;
}

static void diverge_fault(struct sim *sim, struct sim_random *random) {
    struct sim_node *node = some_node(sim, random);
    if (sim->diverged_ns && sim->now_ns < sim->diverged_ns + 300 * SIM_MS)
        return; /* peers know of the last one's return by its vectors */
    if (sim_nodes(sim) <= sim->config.replica.quorum || !node->up || forgetful(sim, node) ||
        !sim_loss_allowed(sim, node))
        return;
    for (uint32_t i = 0; i < sim_nodes(sim); i++)
        if (sim->nodes[i].diverges || sim_node_differs(sim, &sim->nodes[i]))
            return; /* one at a time */
    sim->diverged_ns = sim->now_ns;
    SIM_TRACE(sim, sim_name(node->index), "DIVERGES at its next epoch");
    node->diverges = true;
}

void sim_fault_event(struct sim *sim, enum sim_fault fault) {
    struct sim_random *random = &sim->random[fault];
    if (!sim_faulty(sim, fault))
        return;
    switch (fault) {
    case SIM_FAULT_CRASH: crash_fault(sim, random); break;
    case SIM_FAULT_WIPE: wipe_fault(sim, random); break;
    case SIM_FAULT_PAUSE: pause_fault(sim, random); break;
    case SIM_FAULT_CLOCK: clock_fault(sim, random); break;
    case SIM_FAULT_DELAY:
        sim->network.slow_until_ns[sim_random_below(random, SIM_ENDPOINTS)] =
            sim->now_ns + lasting(random, 50 * SIM_MS);
        break;
    case SIM_FAULT_PARTITION: partition_fault(sim, random); break;
    case SIM_FAULT_ARBITER: arbiter_fault(sim, random); break;
    case SIM_FAULT_DISK:
        some_node(sim, random)->sync_slow_until_ns = sim->now_ns + lasting(random, 100 * SIM_MS);
        break;
    case SIM_FAULT_GATEWAY: gateway_fault(sim, random); break;
    case SIM_FAULT_HANDOVER: handover_fault(sim, random); break;
    case SIM_FAULT_SLOW:
        some_node(sim, random)->slow_until_ns = sim->now_ns + lasting(random, 100 * SIM_MS);
        break;
    case SIM_FAULT_ROT: rot_fault(sim, random); break;
    case SIM_FAULT_FULL:
        some_node(sim, random)->full_until_ns = sim->now_ns + lasting(random, 100 * SIM_MS);
        break;
    case SIM_FAULT_DIVERGE: diverge_fault(sim, random); break;
    case SIM_FAULT_BACKUP: sim_arbiter_backup(sim, lasting(random, 100 * SIM_MS)); break;
    case SIM_FAULT_DEAD: sim_fault_dead(sim, random); return;
    case SIM_FAULT_GONE: sim_fault_gone(sim, random); return;
    case SIM_FAULT_CONTEST: sim_fault_contest(sim, random); return;
    case SIM_FAULT_RETURN: sim_fault_return(sim, random); return; /* it has its own steps */
    case SIM_FAULT_LOSS:
    case SIM_FAULT_DUPLICATE:
    case SIM_FAULT_CORRUPT:
    case SIM_FAULT_CONFLICT:
    case SIM_FAULT_NARROW:
    case SIM_FAULT_AMNESIA:
    case SIM_FAULT_COUNT: return; /* not at a moment */
    }
    sim_at(sim, sim->now_ns + sim_random_exponential(random, sim->config.fault_gap_ns),
           SIM_EVENT_FAULT, 0, 0, fault, NULL);
}

void sim_faults_start(struct sim *sim) {
    for (uint32_t fault = 0; fault < SIM_FAULT_COUNT; fault++)
        if (sim->config.faults >> fault & 1)
            sim_at(sim, sim_random_exponential(&sim->random[fault], sim->config.fault_gap_ns),
                   SIM_EVENT_FAULT, 0, 0, fault, NULL);
}

void sim_heal(struct sim *sim) {
    SIM_TRACE(sim, "--", "HEAL: no more faults");
    sim->healed = true;
    memset(sim->network.cut_until_ns, 0, sizeof sim->network.cut_until_ns);
    sim->arbiter.away_until_ns = 0;
    for (uint32_t i = 0; i < sim_nodes(sim); i++) {
        sim->nodes[i].control.cut_until_ns = 0;
        sim->nodes[i].crash_in_steps = 0;
        sim->nodes[i].full_until_ns = 0;
        sim->nodes[i].diverges = false;
    }
    for (uint32_t i = 0; i < SIM_GATEWAYS_MAX; i++)
        sim->gateways[i].narrow = REPLICA_NODE_NONE;
}
