/* Faults that need more than chance: schedules of several steps, each drawn, that lead to states
 * which chance alone does not reach in millions of seeds. */
#include "tests/sim/sim.h"

/* ---- who leads ---- */

static bool leads(const struct sim_node *node) {
    return node->up && node->seen.facts.role == REPLICA_ROLE_LEADER;
}

/* The one of the highest term; of older terms there may be others that do not know it yet. */
static uint8_t newest_leader(const struct sim *sim) {
    uint8_t best = REPLICA_NODE_NONE;
    uint64_t term = 0;
    for (uint8_t i = 0; i < sim_nodes(sim); i++)
        if (leads(&sim->nodes[i]) && sim->nodes[i].seen.facts.promised_term > term) {
            term = sim->nodes[i].seen.facts.promised_term;
            best = i;
        }
    return best;
}

/* ---- the promise of a process that is gone ---- */

static void dead_cut(struct sim *sim, uint8_t a, uint8_t b, uint64_t until_ns) {
    sim->network.cut_until_ns[a][b] = sim->network.cut_until_ns[b][a] = until_ns;
}

/* The winner is heard by one node only, which promises and ends at once. */
static void dead_sent(struct sim *sim, struct sim_node *node, const struct replica_action *a) {
    struct sim_random *random = &sim->random[SIM_FAULT_DEAD];
    struct sim_dead *dead = &sim->dead;
    uint8_t leader = newest_leader(sim);
    if (a->frame_kind == WIRE_PREPARE && dead->step == SIM_DEAD_NONE &&
        leader != REPLICA_NODE_NONE && leader != node->index) {
        dead->step = SIM_DEAD_PREPARES;
        dead->leader = leader;
        dead->winner = node->index;
        do
            dead->giver = (uint8_t)sim_random_below(random, sim_nodes(sim));
        while (dead->giver == leader || dead->giver == node->index);
        do
            dead->late = (uint8_t)sim_random_below(random, sim_nodes(sim));
        while (dead->late == leader || dead->late == node->index || dead->late == dead->giver);
        dead->until_ns = sim->now_ns + sim_random_between(random, 20, 60) * SIM_MS;
        for (uint8_t i = 0; i < sim_nodes(sim); i++)
            if (i != node->index && i != dead->giver)
                dead_cut(sim, node->index, i, dead->until_ns);
        SIM_TRACE(sim, "--", "DEAD leader n%u winner n%u giver n%u late n%u", leader, node->index,
                  dead->giver, dead->late);
    } else if (a->frame_kind == WIRE_PROMISE && !(a->frame_flags & WIRE_PROMISE_REFUSED) &&
               dead->step == SIM_DEAD_PREPARES && node->index == dead->giver &&
               sim_loss_allowed(sim, node)) {
        dead->step = SIM_DEAD_PROMISED;
        dead->life = node->life;
        node->forgets = true;
        sim->network.cut_until_ns[dead->winner][dead->giver] = dead->until_ns;
    }
}

/* Its heir recovers from the old leader, who goes on with it; then one of the others promises, too.
 */
void sim_fault_dead(struct sim *sim, struct sim_random *random) {
    struct sim_dead *dead = &sim->dead;
    const struct sim_node *giver = &sim->nodes[dead->giver];
    if (dead->step == SIM_DEAD_PROMISED && giver->up && giver->life != dead->life) {
        /* the winner hears of the heir from others only, if at all */
        dead_cut(sim, dead->winner, dead->giver, dead->until_ns);
        sim->nodes[dead->winner].control.cut_until_ns = dead->until_ns;
    }
    if (dead->step == SIM_DEAD_PROMISED && giver->up && giver->life != dead->life &&
        giver->recovered && leads(&sim->nodes[dead->leader])) {
        dead->step = SIM_DEAD_SERVES;
        SIM_COUNT(sim, dead_promise);
        SIM_TRACE(sim, "--", "DEAD: n%u serves n%u", dead->giver, dead->leader);
        dead_cut(sim, dead->leader, dead->late, dead->until_ns);
        dead->open_ns = sim->now_ns + sim_random_between(random, 1, 8) * SIM_MS;
    }
    if (dead->step == SIM_DEAD_SERVES && dead->open_ns && sim->now_ns >= dead->open_ns) {
        dead_cut(sim, dead->winner, dead->late, 0);
        dead->open_ns = 0;
    }
    if (dead->step != SIM_DEAD_NONE && sim->now_ns >= dead->until_ns)
        dead->step = SIM_DEAD_NONE;
    sim_at(sim, sim->now_ns + SIM_MS / 4, SIM_EVENT_FAULT, 0, 0, SIM_FAULT_DEAD, NULL);
}

/* ---- amnesia during a take-over ---- */

static void cut_link(struct sim *sim, uint8_t a, uint8_t b, uint64_t until_ns) {
    SIM_TRACE(sim, "--", "CUT n%u n%u until %.3f ms", a, b, (double)until_ns / 1e6);
    sim->network.cut_until_ns[a][b] = sim->network.cut_until_ns[b][a] = until_ns;
}

/* ---- bodies that go with who promised them ---- */

/* The gateways and one follower stay with the leader: what these two hold nobody else does. */
static void gone_apart(struct sim *sim, struct sim_random *random, uint8_t leader) {
    struct sim_gone *gone = &sim->gone;
    for (uint32_t i = 0; i < sim_nodes(sim); i++)
        if (!sim->nodes[i].up || !sim->nodes[i].recovered)
            return;
    gone->leader = leader;
    do
        gone->keeper = (uint8_t)sim_random_below(random, sim_nodes(sim));
    while (gone->keeper == leader);
    gone->until_ns = sim->now_ns + 20 * sim->config.replica.slice_max_ns;
    SIM_TRACE(sim, "--", "GONE: leader n%u keeper n%u", leader, gone->keeper);
    for (uint8_t a = 0; a < SIM_ENDPOINTS; a++)
        for (uint8_t b = 0; b < sim_nodes(sim); b++)
            if ((a >= WIRE_NODES_MAX || a == leader || a == gone->keeper) && b != leader &&
                b != gone->keeper)
                dead_cut(sim, a, b, gone->until_ns);
    sim->nodes[gone->keeper].control.cut_until_ns = gone->until_ns; /* it would win, and commit */
    gone->step = SIM_GONE_APART;
}

/* The leader's memory goes, and the gateways, which would send it all again. */
static void gone_leader(struct sim *sim) {
    struct sim_gone *gone = &sim->gone;
    for (uint32_t i = 0; i < sim->gateway_count; i++)
        if (sim->gateways[i].alive) {
            sim_gateway_die(sim, &sim->gateways[i]);
            sim_at(sim, gone->until_ns, SIM_EVENT_GATEWAY, (uint8_t)i, sim->gateways[i].life, 1,
                   NULL);
        }
    sim_node_crash(sim, &sim->nodes[gone->leader], false);
    gone->step = SIM_GONE_LOST;
}

/* A winner hears the one that keeps them, adopts its epochs, and hears no more of it. */
static void gone_sent(struct sim *sim, struct sim_node *node, const struct replica_action *a) {
    struct sim_gone *gone = &sim->gone;
    if (gone->step != SIM_GONE_LOST)
        return;
    if (a->frame_kind == WIRE_PREPARE && a->peer == gone->keeper)
        dead_cut(sim, node->index, gone->keeper, 0);
    if (a->frame_kind != WIRE_EPOCH || node->index != gone->keeper ||
        sim->nodes[a->peer].seen.facts.role != REPLICA_ROLE_PREPARING ||
        !sim_loss_allowed(sim, node))
        return;
    SIM_COUNT(sim, gone);
    node->forgets = true;
    gone->step = SIM_GONE_NONE;
}

void sim_fault_gone(struct sim *sim, struct sim_random *random) {
    struct sim_gone *gone = &sim->gone;
    uint64_t next_ns = sim->now_ns + SIM_MS / 4;
    const struct replica_facts *keeper = &sim->nodes[gone->keeper].seen.facts;
    switch (gone->step) {
    case SIM_GONE_NONE: {
        uint8_t leader = newest_leader(sim);
        if (sim->now_ns >= gone->until_ns && leader != REPLICA_NODE_NONE)
            gone_apart(sim, random, leader);
        if (gone->step == SIM_GONE_NONE)
            next_ns = sim->now_ns + sim_random_exponential(random, sim->config.fault_gap_ns);
        break;
    }
    case SIM_GONE_APART:
        if (keeper->acknowledged_seq > sim->checks.committed && sim_random_chance(random, 200000) &&
            sim_loss_allowed(sim, &sim->nodes[gone->leader]))
            gone_leader(sim);
        break;
    case SIM_GONE_LOST: break;
    }
    if (gone->step != SIM_GONE_NONE && sim->now_ns >= gone->until_ns)
        gone->step = SIM_GONE_NONE;
    sim_at(sim, next_ns, SIM_EVENT_FAULT, 0, 0, SIM_FAULT_GONE, NULL);
}

/* ---- one range, three gateways ---- */

#define CONTESTANTS 3

/* The leader cannot ask whose the range is, so nobody opens it, and its renewals do not make the
 * record anew that a restore has taken away: the next gateway gets the range, too. */
void sim_fault_contest(struct sim *sim, struct sim_random *random) {
    struct sim_contest *contest = &sim->contest;
    struct sim_arbiter *arbiter = &sim->arbiter;
    uint8_t leader = newest_leader(sim);
    switch (contest->step) {
    case SIM_CONTEST_NONE:
        if (leader == REPLICA_NODE_NONE)
            break;
        contest->leader = leader;
        sim->nodes[leader].control.cut_until_ns = SIM_NEVER;
        sim_arbiter_backup(sim, 0);
        for (; sim->gateway_count < CONTESTANTS; sim->gateway_count++)
            sim_at(sim, sim->now_ns + sim_random_below(random, 50 * SIM_MS), SIM_EVENT_GATEWAY,
                   (uint8_t)sim->gateway_count, 0, 1, NULL);
        contest->step = SIM_CONTEST_GRANTS;
        break;
    case SIM_CONTEST_GRANTS:
        if (arbiter->went_back || arbiter->holdings == contest->seen)
            break;
        contest->seen++;
        if (contest->seen < CONTESTANTS) {
            sim_arbiter_backup(sim, 0); /* restored */
            sim_arbiter_backup(sim, 0); /* and kept as it was */
            break;
        }
        SIM_COUNT(sim, contest);
        SIM_TRACE(sim, "--", "CONTEST: n%u may ask again", contest->leader);
        sim->nodes[contest->leader].control.cut_until_ns = 0;
        contest->step = SIM_CONTEST_DONE;
        break;
    case SIM_CONTEST_DONE: return;
    }
    sim_at(sim, sim->now_ns + SIM_MS, SIM_EVENT_FAULT, 0, 0, SIM_FAULT_CONTEST, NULL);
}

/* The winner's PREPARE does not reach the leader before it. Who promises does so and forgets it,
 * and comes back while both say that they lead. */
void sim_fault_sent(struct sim *sim, struct sim_node *node, const struct replica_action *a) {
    if (sim_faulty(sim, SIM_FAULT_DEAD))
        dead_sent(sim, node, a);
    if (sim_faulty(sim, SIM_FAULT_GONE))
        gone_sent(sim, node, a);
    if (!sim_faulty(sim, SIM_FAULT_AMNESIA))
        return;
    struct sim_random *random = &sim->random[SIM_FAULT_AMNESIA];
    if (a->frame_kind == WIRE_PREPARE) {
        const struct sim_node *peer = &sim->nodes[a->peer];
        bool leads = peer->up && peer->seen.facts.role == REPLICA_ROLE_LEADER;
        uint64_t slices = sim_random_between(random, 2, 8);
        if (leads && sim->network.cut_until_ns[node->index][a->peer] <= sim->now_ns &&
            sim_random_chance(random, 700000))
            cut_link(sim, node->index, a->peer,
                     sim->now_ns + slices * sim->config.replica.slice_floor_ns);
    } else if (a->frame_kind == WIRE_PROMISE && !(a->frame_flags & WIRE_PROMISE_REFUSED)) {
        node->forgets |= sim_random_chance(random, 500000);
    } else if (a->frame_kind == WIRE_RECOVERED) {
        node->answers |= 1u << a->peer;
    }
}

void sim_fault_flushed(struct sim *sim, struct sim_node *node) {
    if (!node->forgets)
        return;
    node->forgets = false;
    if (!sim_loss_allowed(sim, node))
        return;
    SIM_COUNT(sim, amnesia);
    sim_node_crash(sim, node, sim->config.replica.durable);
}

/* ---- a leader that comes back over a log shorter than its own ---- */

/* Some followers stay with the leader, too few for a quorum; with them stay the gateways. What they
 * acknowledge there is never committed, and the others' next log is shorter. */
static void return_apart(struct sim *sim, struct sim_random *random, uint8_t leader) {
    struct sim_return *way = &sim->way;
    uint32_t with = sim_nodes(sim) - sim->config.replica.quorum - 1;
    way->leader = leader;
    way->side = 1u << leader;
    while (with > 0) {
        uint32_t bit = 1u << sim_random_below(random, sim_nodes(sim));
        with -= !(way->side & bit);
        way->side |= bit;
    }
    way->apart_until_ns = sim->now_ns +
                          sim_random_between(random, 1, 6) * sim->config.replica.slice_floor_ns +
                          2 * sim->nodes[leader].seen.facts.slice_ns;
    SIM_TRACE(sim, "--", "APART leader n%u, side %x until %.3f ms", leader, way->side,
              (double)way->apart_until_ns / 1e6);
    for (uint8_t a = 0; a < SIM_ENDPOINTS; a++)
        for (uint8_t b = 0; b < sim_nodes(sim); b++) {
            bool here = a >= WIRE_NODES_MAX || (way->side >> a & 1);
            if (here && !(way->side >> b & 1))
                sim->network.cut_until_ns[a][b] = sim->network.cut_until_ns[b][a] =
                    way->apart_until_ns;
        }
    way->step = SIM_RETURN_APART;
}

/* Its successor is heard of no more and nobody else reaches the arbiter: the first leader's turn.
 * Who stayed with it hears nothing of it now: what it acknowledged in the old term is the last of
 * it. */
static void return_back(struct sim *sim, struct sim_random *random, uint8_t successor) {
    struct sim_return *way = &sim->way;
    const struct replica_facts *f = &sim->nodes[way->leader].seen.facts;
    way->back_until_ns = sim->now_ns + 2 * f->takeover_delay_ns +
                         sim_random_between(random, 2, 10) * sim->config.replica.slice_floor_ns +
                         10 * sim->config.arbiter_ns;
    SIM_TRACE(sim, "--", "RETURN of n%u after n%u, until %.3f ms", way->leader, successor,
              (double)way->back_until_ns / 1e6);
    for (uint8_t i = 0; i < sim_nodes(sim); i++) {
        if (i != way->leader)
            sim->nodes[i].control.cut_until_ns = way->back_until_ns;
        sim->network.cut_until_ns[successor][i] = sim->network.cut_until_ns[i][successor] =
            way->back_until_ns;
        if (i != way->leader && (way->side >> i & 1))
            sim->network.cut_until_ns[way->leader][i] = way->back_until_ns;
    }
    way->step = SIM_RETURN_BACK;
    SIM_COUNT(sim, returned);
}

void sim_fault_return(struct sim *sim, struct sim_random *random) {
    struct sim_return *way = &sim->way;
    uint8_t leader = newest_leader(sim);
    uint64_t next_ns = sim->now_ns + SIM_MS / 2;
    switch (way->step) {
    case SIM_RETURN_NONE:
        if (leader != REPLICA_NODE_NONE)
            return_apart(sim, random, leader);
        break;
    case SIM_RETURN_APART: {
        const struct sim_node *first = &sim->nodes[way->leader];
        bool follows =
            leader != REPLICA_NODE_NONE && first->up && !leads(first) &&
            first->seen.facts.promised_term == sim->nodes[leader].seen.facts.promised_term;
        if (follows && !(way->side >> leader & 1))
            return_back(sim, random, leader);
        else if (sim->now_ns > way->apart_until_ns + 20 * sim->config.replica.slice_max_ns)
            way->step = SIM_RETURN_NONE; /* it did not come to that */
        break;
    }
    case SIM_RETURN_BACK:
        if (sim->now_ns < way->back_until_ns)
            break;
        way->step = SIM_RETURN_NONE;
        next_ns = sim->now_ns + sim_random_exponential(random, sim->config.fault_gap_ns);
        break;
    }
    sim_at(sim, next_ns, SIM_EVENT_FAULT, 0, 0, SIM_FAULT_RETURN, NULL);
}

/* ---- what is heard again when it is no longer true ---- */

/* What was said to the first leader in its old term is heard in its next one; an answer to who
 * forgot, when it has recovered, voted, and forgotten again. */
uint32_t sim_fault_again(struct sim *sim, uint8_t from, uint8_t to,
                         uint64_t ret_late_ns[SIM_AGAIN_MAX]) {
    const struct sim_return *way = &sim->way;
    struct sim_random *random = &sim->random[SIM_FAULT_RETURN];
    if (from >= WIRE_NODES_MAX || to >= WIRE_NODES_MAX)
        return 0;
    if (sim_faulty(sim, SIM_FAULT_RETURN) && way->step == SIM_RETURN_APART && to == way->leader &&
        (way->side >> from & 1) && sim_random_chance(random, 200000)) {
        ret_late_ns[0] = sim_random_between(random, 2, 8) * sim->nodes[to].seen.facts.slice_ns;
        return 1;
    }
    if (sim_faulty(sim, SIM_FAULT_AMNESIA) && (sim->nodes[from].answers >> to & 1)) {
        sim->nodes[from].answers &= ~(1u << to);
        for (uint32_t i = 0; i < SIM_AGAIN_MAX; i++)
            ret_late_ns[i] = sim_random_between(random, 1, 40) * SIM_MS;
        return SIM_AGAIN_MAX;
    }
    return 0;
}
