/* The arbiter (an etcd that may be away, slow, or silent about what it did) and the nodes' control
 * planes that speak to it. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#define CONTROL_TICK_NS (20 * SIM_MS)

/* ---- the way there and back ---- */

static bool reachable(const struct sim *sim, const struct sim_node *node) {
    return sim->arbiter.away_until_ns <= sim->now_ns && node->control.cut_until_ns <= sim->now_ns;
}

static uint64_t one_way(struct sim *sim) {
    struct sim_random *random = &sim->random[SIM_STREAM_ARBITER];
    uint64_t ns = sim->config.arbiter_ns / 2 + sim_random_below(random, sim->config.arbiter_ns + 1);
    if (sim_faulty(sim, SIM_FAULT_ARBITER) && sim->arbiter.slow_until_ns > sim->now_ns) {
        SIM_COUNT(sim, etcd_slow);
        ns += sim_random_exponential(random, 20 * sim->config.arbiter_ns);
    }
    return ns;
}

/* Lost on its way, with or without having been applied? */
static bool swallowed(struct sim *sim) {
    return sim_faulty(sim, SIM_FAULT_ARBITER) && sim->arbiter.lossy_until_ns > sim->now_ns &&
           sim_random_chance(&sim->random[SIM_STREAM_ARBITER], 300000);
}

static struct sim_request *copied(const struct sim_request *request) {
    struct sim_request *copy = malloc(sizeof *copy);
    if (!copy)
        abort();
    *copy = *request;
    return copy;
}

void sim_arbiter_ask(struct sim *sim, struct sim_node *node, struct sim_request *request) {
    request->node = node->index;
    request->sent_at = node->control.revision;
    if (swallowed(sim)) {
        SIM_COUNT(sim, etcd_lost);
        return;
    }
    sim_at(sim, sim->now_ns + one_way(sim), SIM_EVENT_REQUEST, node->index, node->life, 0,
           copied(request));
}

/* Did it change what the arbiter holds? */
static bool changes(const struct sim_request *request) {
    switch (request->kind) {
    case SIM_REQUEST_REGISTER:
    case SIM_REQUEST_RESIGN:
    case SIM_REQUEST_SEALED: return true;
    case SIM_REQUEST_CAMPAIGN: return request->won;
    case SIM_REQUEST_GRANT: return request->outcome == WIRE_RANGE_GRANTED;
    case SIM_REQUEST_KEEPALIVE:
    case SIM_REQUEST_READ:
    case SIM_REQUEST_RENEW:
    case SIM_REQUEST_CHECK:
    case SIM_REQUEST_WATCH: return false;
    }
    return false;
}

static void reply(struct sim *sim, struct sim_request *request, uint32_t life) {
    request->seen_at = sim->arbiter.store.revision;
    request->term_base = sim->arbiter.store.term_base;
    if (!reachable(sim, &sim->nodes[request->node]) || swallowed(sim)) {
        sim->tally[SIM_TALLY_answer_lost] += changes(request);
        sim->tally[SIM_TALLY_won_unheard] += request->kind == SIM_REQUEST_CAMPAIGN && request->won;
        free(request);
        return;
    }
    sim_at(sim, sim->now_ns + one_way(sim), SIM_EVENT_ANSWER, request->node, life, 0, request);
}

static void operator_looks(struct sim *sim); /* restored from a backup */

static uint64_t larger(uint64_t a, uint64_t b) {
    return a > b ? a : b;
}

/* ---- what it holds ---- */

static void key_changed(struct sim *sim) {
    SIM_TRACE(sim, "etc", "key: revision %llu node %s",
              (unsigned long long)sim->arbiter.store.key.revision,
              sim->arbiter.store.key.revision ? sim_name(sim->arbiter.store.key.node) : "none");
    for (uint8_t i = 0; i < sim_nodes(sim); i++) {
        struct sim_request told = {
            .kind = SIM_REQUEST_WATCH, .node = i, .key = sim->arbiter.store.key};
        memcpy(told.newest, sim->arbiter.store.newest, sizeof told.newest);
        reply(sim, copied(&told), sim->nodes[i].life);
    }
}

static void key_delete(struct sim *sim) {
    sim->arbiter.store.revision++;
    memset(&sim->arbiter.store.key, 0, sizeof sim->arbiter.store.key);
    key_changed(sim);
}

static bool lease_lives(const struct sim *sim, uint8_t node, uint32_t life) {
    return sim->arbiter.store.lease_life[node] == life &&
           sim->arbiter.lease_until_ns[node] > sim->now_ns;
}

void sim_arbiter_leases(struct sim *sim) {
    struct sim_arbiter *arbiter = &sim->arbiter;
    sim_at(sim, sim->now_ns + sim->config.lease_ns / 4, SIM_EVENT_LEASES, 0, 0, 0, NULL);
    if (arbiter->went_back && arbiter->away_until_ns <= sim->now_ns &&
        arbiter->raise_ns <= sim->now_ns)
        operator_looks(sim);
    if (arbiter->away_until_ns > sim->now_ns) { /* leases get their full time after an outage */
        uint64_t until = arbiter->away_until_ns + sim->config.lease_ns;
        for (uint32_t i = 0; i < WIRE_NODES_MAX; i++)
            if (arbiter->lease_until_ns[i] > sim->now_ns)
                arbiter->lease_until_ns[i] = until;
        for (uint32_t i = 0; i < arbiter->store.range_count; i++)
            if (arbiter->store.ranges[i].lease_until_ns > sim->now_ns)
                arbiter->store.ranges[i].lease_until_ns =
                    arbiter->away_until_ns + sim->config.range_lease_ns;
        return;
    }
    if (arbiter->store.key.revision &&
        !lease_lives(sim, arbiter->store.key.node, arbiter->store.key.life)) {
        SIM_COUNT(sim, lease_expired);
        key_delete(sim);
    }
}

void sim_arbiter_init(struct sim *sim) {
    struct sim_arbiter *arbiter = &sim->arbiter;
    arbiter->store.revision = sim_random_between(&sim->random[SIM_STREAM_ARBITER], 1, 50);
    arbiter->store.term_base = sim->config.term_base;
    for (uint8_t i = 0; i < sim_nodes(sim); i++) {
        arbiter->store.newest[i] = sim->config.term_base + ++arbiter->store.revision;
        sim->nodes[i].incarnation = arbiter->store.newest[i];
        if (i < sim->config.listed)
            sim->nodes[i].listed = arbiter->store.newest[i];
    }
    sim_at(sim, sim->config.lease_ns, SIM_EVENT_LEASES, 0, 0, 0, NULL);
}

/* ---- restored from a backup ---- */

/* `maroonctl term-base --raise`: above every term and incarnation that a node has seen. It asks
 * all, also those that are down and will come back with their disk. */
static void operator_looks(struct sim *sim) {
    struct sim_arbiter *arbiter = &sim->arbiter;
    uint64_t floor = arbiter->given; /* packets of a lost process may still be under way */
    for (uint32_t i = 0; i < sim_nodes(sim); i++) {
        const struct sim_node *node = &sim->nodes[i];
        if (!node->up && node->incarnation) {
            arbiter->raise_ns = sim->now_ns + 10 * SIM_MS;
            return;
        }
        if (!node->up) /* waits for its first number: knows nothing */
            continue;
        floor = larger(floor, larger(node->incarnation, node->seen.facts.promised_term));
        floor = larger(floor, larger(node->control.term_floor, node->control.incarnation_max));
        floor = larger(floor, node->control.term_base + node->control.revision);
        struct replica_facts facts;
        replica_facts(node->replica, &facts);
        for (uint32_t p = 0; p < sim_nodes(sim); p++)
            floor = larger(floor, facts.peer_incarnation[p]);
    }
    arbiter->went_back = false;
    arbiter->store.term_base = larger(arbiter->store.term_base, floor + 1);
    arbiter->store.revision++;
    SIM_TRACE(sim, "etc", "term_base raised to %llu", (unsigned long long)arbiter->store.term_base);
}

void sim_arbiter_backup(struct sim *sim, uint64_t raise_after_ns) {
    struct sim_arbiter *arbiter = &sim->arbiter;
    if (!arbiter->backed_up) {
        arbiter->backup = arbiter->store;
        arbiter->backed_up = true;
        SIM_TRACE(sim, "etc", "BACKUP at revision %llu",
                  (unsigned long long)arbiter->store.revision);
        return;
    }
    if (arbiter->went_back)
        return;
    for (uint32_t i = 0; i < sim_nodes(sim); i++) /* "do not restart nodes": docs/operations.md */
        if (!sim->nodes[i].up && !sim->nodes[i].incarnation)
            return;
    SIM_TRACE(sim, "etc", "RESTORE of revision %llu, was %llu",
              (unsigned long long)arbiter->backup.revision,
              (unsigned long long)arbiter->store.revision);
    arbiter->store = arbiter->backup;
    arbiter->backed_up = false;
    arbiter->went_back = true;
    SIM_COUNT(sim, etcd_restored);
    arbiter->raise_ns = sim->now_ns + raise_after_ns;
    for (uint32_t i = 0; i < WIRE_NODES_MAX; i++) /* leases begin anew */
        arbiter->lease_until_ns[i] = sim->now_ns + sim->config.lease_ns;
    for (uint32_t i = 0; i < arbiter->store.range_count; i++)
        arbiter->store.ranges[i].lease_until_ns = sim->now_ns + sim->config.range_lease_ns;
}

/* ---- requests ---- */

static void campaign(struct sim *sim, struct sim_request *request, uint32_t life) {
    struct sim_arbiter *arbiter = &sim->arbiter;
    if (arbiter->store.key.revision != request->revision ||
        !lease_lives(sim, request->node, life)) {
        request->key = arbiter->store.key;
        return;
    }
    arbiter->store.key = (struct sim_key){.revision = ++arbiter->store.revision,
                                          .token = request->token,
                                          .term_base = arbiter->store.term_base,
                                          .node = request->node,
                                          .life = life};
    request->won = true;
    request->key = arbiter->store.key;
    key_changed(sim);
}

static struct sim_arbiter_range *range_of(struct sim *sim, uint64_t range) {
    for (uint32_t i = 0; i < sim->arbiter.store.range_count; i++)
        if (sim->arbiter.store.ranges[i].range == range)
            return &sim->arbiter.store.ranges[i];
    return NULL;
}

/* The order counts above a store that was restored, and asked through a node that lagged. What is
 * open there is of whom it was opened for. Where it ended there, its last owner is told SEALED: it
 * is his as long as nobody else may have it. Another's holding is opened from that end only, and no
 * earlier owner is told anything but NOT_OWNER. */
uint64_t sim_arbiter_owner(struct sim *sim, uint64_t range) {
    const struct sim_runtime_range *ordered = sim_runtime_range(sim->checks.reference, range);
    const struct sim_arbiter_range *r = range_of(sim, range);
    if (ordered && ordered->open)
        return ordered->owner;
    if (!r || (ordered && r->owner == ordered->owner))
        return r ? r->owner : 0;
    bool to_open = !r->sealed && (!ordered || r->start == ordered->position);
    return to_open ? r->owner : 0;
}

/* No range: a new one, above all that were granted; a control plane keeps that number in memory. */
static struct sim_arbiter_range *range_new(struct sim *sim, uint64_t range) {
    struct sim_arbiter *arbiter = &sim->arbiter;
    if (arbiter->store.range_count == SIM_RANGES_MAX)
        return NULL;
    struct sim_arbiter_range *r = &arbiter->store.ranges[arbiter->store.range_count++];
    memset(r, 0, sizeof *r);
    arbiter->granted++;
    r->range = range == WIRE_RANGE_NONE ? 1000 + arbiter->granted : range;
    r->sealed = true;
    return r;
}

/* What the log knows of a pinned range counts above a store that was restored. */
static bool behind_log(struct sim_arbiter_range *r, const struct sim_request *request) {
    if (request->life == REPLICA_RANGE_ENDED && r->end < request->end)
        r->end = request->end;
    return request->life == REPLICA_RANGE_OPEN;
}

static void grant(struct sim *sim, struct sim_request *request) {
    struct sim_arbiter_range *r = NULL;
    for (uint32_t i = 0; i < sim->arbiter.store.range_count; i++) /* asked twice, granted once */
        if (sim->arbiter.store.ranges[i].asker == request->owner &&
            sim->arbiter.store.ranges[i].nonce == request->nonce &&
            !sim->arbiter.store.ranges[i].sealed)
            r = &sim->arbiter.store.ranges[i];
    if (!r) {
        r = request->range == WIRE_RANGE_NONE ? NULL : range_of(sim, request->range);
        if (!r)
            r = range_new(sim, request->range);
        if (!r) {
            request->outcome = WIRE_RANGE_EXHAUSTED;
            return;
        }
        if (!r->sealed) {
            request->outcome =
                r->lease_until_ns > sim->now_ns ? WIRE_RANGE_TAKEN : WIRE_RANGE_SEALING;
            return;
        }
        if (request->range != WIRE_RANGE_NONE && behind_log(r, request)) {
            request->outcome = WIRE_RANGE_SEALING;
            return;
        }
        r->sealed = false;
        r->start = r->end;
        r->asker = request->owner;
        r->nonce = request->nonce;
        r->owner = request->owner;
        sim->arbiter.holdings++;
        if (request->range != WIRE_RANGE_NONE && !MUTANT(owner_granted_again))
            r->owner = sim_random_mix(request->owner + sim->arbiter.holdings) | 1;
        r->lease_until_ns = sim->now_ns + sim->config.range_lease_ns;
        sim->arbiter.store.revision++;
        SIM_TRACE(sim, "etc", "range %llu granted to g%u at %u", (unsigned long long)r->range,
                  request->gateway, r->end);
    }
    request->range = r->range;
    request->held_by = r->owner;
    request->end = r->end;
    request->outcome = WIRE_RANGE_GRANTED;
}

static void read_all(struct sim *sim, struct sim_request *request) {
    struct sim_arbiter *arbiter = &sim->arbiter;
    request->key = arbiter->store.key;
    memcpy(request->newest, arbiter->store.newest, sizeof request->newest);
    request->expired_count = 0;
    for (uint32_t i = 0; i < arbiter->store.range_count; i++) {
        const struct sim_arbiter_range *r = &arbiter->store.ranges[i];
        if (r->sealed || r->lease_until_ns > sim->now_ns)
            continue;
        request->expired[request->expired_count].range = r->range;
        request->expired[request->expired_count++].owner = r->owner;
    }
}

static void sealed(struct sim *sim, const struct sim_request *request) {
    struct sim_arbiter_range *r = range_of(sim, request->range);
    if (r && r->sealed && r->end < request->end) /* restored: it knows an earlier holding */
        r->end = request->end;
    if (!r || r->owner != request->owner || r->sealed)
        return;
    r->sealed = true;
    r->end = request->end;
    SIM_COUNT(sim, sealed);
    sim->tally[SIM_TALLY_range_expired] += r->lease_until_ns <= sim->now_ns;
    SIM_TRACE(sim, "etc", "range %llu sealed at %u", (unsigned long long)r->range, r->end);
}

void sim_arbiter_request(struct sim *sim, struct sim_request *request, uint32_t life) {
    struct sim_arbiter *arbiter = &sim->arbiter;
    struct sim_arbiter_range *r;
    if (!reachable(sim, &sim->nodes[request->node])) {
        sim->tally[arbiter->away_until_ns > sim->now_ns ? SIM_TALLY_etcd_away
                                                        : SIM_TALLY_etcd_cut]++;
        free(request);
        return;
    }
    switch (request->kind) {
    case SIM_REQUEST_REGISTER:
        if (life != sim->nodes[request->node].life || sim->nodes[request->node].up)
            break;                /* asked before, and answered */
        if (arbiter->went_back) { /* no new incarnations before term_base is raised */
            free(request);
            return;
        }
        if (arbiter->store.newest_life[request->node] != life) /* asked twice, one number */
            arbiter->store.newest[request->node] =
                arbiter->store.term_base + ++arbiter->store.revision;
        arbiter->store.newest_life[request->node] = life;
        request->revision = arbiter->store.newest[request->node];
        arbiter->given = larger(arbiter->given, request->revision);
        break;
    case SIM_REQUEST_KEEPALIVE:
        if (arbiter->store.newest[request->node] <
            request->revision) /* it registers itself again */
            arbiter->store.newest[request->node] = request->revision;
        if (life >= arbiter->store.lease_life[request->node]) {
            arbiter->store.lease_life[request->node] = life;
            arbiter->lease_until_ns[request->node] = sim->now_ns + sim->config.lease_ns;
        }
        read_all(sim, request);
        break;
    case SIM_REQUEST_CAMPAIGN: campaign(sim, request, life); break;
    case SIM_REQUEST_READ: read_all(sim, request); break;
    case SIM_REQUEST_RESIGN:
        if (arbiter->store.key.revision == request->revision &&
            arbiter->store.key.node == request->node && arbiter->store.key.life == life)
            key_delete(sim);
        break;
    case SIM_REQUEST_GRANT: grant(sim, request); break;
    case SIM_REQUEST_RENEW:
        r = range_of(sim, request->range);
        if (!r && (r = range_new(sim, request->range)) != NULL) { /* granted after a backup */
            r->owner = r->asker = request->owner;
            r->sealed = false;
        }
        if (r && r->owner == request->owner && !r->sealed)
            r->lease_until_ns = sim->now_ns + sim->config.range_lease_ns;
        break;
    case SIM_REQUEST_CHECK:
        r = range_of(sim, request->range);
        request->owned = r && r->owner == request->owner && !r->sealed;
        request->absent = !r;
        request->end = r ? r->start : 0;
        break;
    case SIM_REQUEST_SEALED: sealed(sim, request); break;
    case SIM_REQUEST_WATCH: break;
    }
    reply(sim, request, life);
}

/* ---- a node's control plane ---- */

void sim_control_start(struct sim *sim, struct sim_node *node) {
    uint64_t cut = node->control.cut_until_ns, attempt = node->control.attempt;
    memset(&node->control, 0, sizeof node->control);
    node->control.cut_until_ns = cut;
    node->control.attempt = attempt;
    sim_at(sim, sim->now_ns, SIM_EVENT_CONTROL, node->index, node->life, 0, NULL);
}

static void send_campaign(struct sim *sim, struct sim_node *node) {
    struct sim_request request = {.kind = SIM_REQUEST_CAMPAIGN,
                                  .attempt = node->control.attempt,
                                  .revision = node->control.campaign_revision,
                                  .token = node->control.token};
    sim_arbiter_ask(sim, node, &request);
}

void sim_control_campaign(struct sim *sim, struct sim_node *node, uint64_t revision) {
    struct sim_control *control = &node->control;
    SIM_TRACE(sim, sim_name(node->index), "  CAMPAIGN against revision %llu",
              (unsigned long long)revision);
    if (node->seen.facts.role == REPLICA_ROLE_LEARNER && !node->recovered)
        sim_fail(sim, "action contract", "n%u campaigns though amnesiac", node->index);
    if (control->campaigning)
        sim_fail(sim, "action contract", "n%u campaigns twice at once", node->index);
    control->campaigning = true;
    control->unknown = false;
    control->attempt++;
    control->token = sim_random_next(&sim->random[SIM_STREAM_ARBITER]) | 1;
    control->tokens[control->attempt % SIM_TOKENS] = control->token;
    control->campaign_revision = revision;
    control->timeout_ns = sim->now_ns + 10 * sim->config.arbiter_ns;
    send_campaign(sim, node);
}

static void tell_result(struct sim *sim, struct sim_node *node, const struct sim_key *key,
                        bool won) {
    struct sim_control *control = &node->control;
    struct replica_event event = {.kind = REPLICA_EVENT_CAMPAIGN_RESULT};
    uint64_t term = key->term_base + key->revision;
    if (won && control->won_revision == key->revision)
        return;
    if (won && term <= control->term_floor &&
        !MUTANT(term_resumed)) { /* of a past that was restored: given back */
        struct sim_request resign = {.kind = SIM_REQUEST_RESIGN, .revision = key->revision};
        sim_arbiter_ask(sim, node, &resign);
        if (!control->campaigning)
            return;
        won = false;
    }
    bool late = won && !(control->campaigning && key->token == control->token);
    if (!late)
        control->campaigning = control->unknown = false;
    event.campaign.won = won;
    event.campaign.late = late;
    if (won) {
        control->won_revision = key->revision;
        event.campaign.revision = key->revision;
        event.campaign.term = term;
        event.campaign.token = key->token;
    }
    SIM_TRACE(sim, sim_name(node->index), "campaign %s, revision %llu",
              late  ? "won after all"
              : won ? "won"
                    : "lost",
              (unsigned long long)key->revision);
    sim_node_push(sim, node, SIM_ITEM_EVENT, NULL, &event);
}

/* Tells what the key is; a key with our own token is a campaign won, whatever was heard before. */
static void tell_key(struct sim *sim, struct sim_node *node, const struct sim_key *key) {
    struct sim_control *control = &node->control;
    bool mine = false; /* of any attempt of this process */
    for (uint32_t i = 0; i < SIM_TOKENS; i++)
        mine |= key->token && key->token == control->tokens[i];
    bool ours = key->revision && (mine || MUTANT(term_resumed)) && key->node == node->index;
    if (ours && !MUTANT(term_resumed) &&
        key->term_base + key->revision < node->seen.facts.promised_term) { /* ended long ago */
        struct sim_request resign = {.kind = SIM_REQUEST_RESIGN, .revision = key->revision};
        sim_arbiter_ask(sim, node, &resign);
    } else if (ours) {
        tell_result(sim, node, key, true);
    }
    if (control->told && control->told_revision == key->revision)
        return;
    control->told = true;
    control->told_revision = key->revision;
    struct replica_event event = {.kind = REPLICA_EVENT_LEADER_KEY};
    event.leader_key.revision = key->revision;
    event.leader_key.term = key->revision ? key->term_base + key->revision : 0;
    event.leader_key.node = key->revision ? key->node : REPLICA_NODE_NONE;
    event.leader_key.ours = ours;
    sim_node_push(sim, node, SIM_ITEM_EVENT, NULL, &event);
}

static void tell_rest(struct sim *sim, struct sim_node *node, const struct sim_request *request) {
    struct replica_event event = {.kind = REPLICA_EVENT_INCARNATIONS};
    /* Its number was asked for twice and answered late, across a restore: it ends and begins anew.
     */
    if (request->newest[node->index] > node->incarnation && !node->recovered) {
        sim_node_crash(sim, node, sim->config.replica.durable);
        return;
    }
    memcpy(event.incarnations.newest, request->newest, sizeof event.incarnations.newest);
    sim_node_push(sim, node, SIM_ITEM_EVENT, NULL, &event);
    event = (struct replica_event){.kind = REPLICA_EVENT_ETCD_LATENCY};
    event.etcd.latency_ns = 2 * sim->config.arbiter_ns;
    sim_node_push(sim, node, SIM_ITEM_EVENT, NULL, &event);
    for (uint32_t i = 0; i < request->expired_count; i++) {
        event = (struct replica_event){.kind = REPLICA_EVENT_RANGE_EXPIRED};
        event.range_expired.range = request->expired[i].range;
        event.range_expired.owner = request->expired[i].owner;
        sim_node_push(sim, node, SIM_ITEM_EVENT, NULL, &event);
    }
}

/* Told before by a younger arbiter. */
static bool old_news(const struct sim_control *control, const struct sim_request *request) {
    return control->told && request->seen_at < control->known_at;
}

static struct sim_renewal *renewal_of(struct sim *sim, struct sim_node *node, uint64_t range,
                                      uint64_t owner) {
    struct sim_renewal *renewals = node->control.renewals;
    for (uint32_t i = 0; i < SIM_GATEWAYS_MAX; i++)
        if (renewals[i].range == range && renewals[i].owner == owner &&
            renewals[i].until_ns > sim->now_ns)
            return &renewals[i];
    return NULL;
}

void sim_control_renew(struct sim *sim, struct sim_node *node, uint64_t range, uint64_t owner) {
    struct sim_request request = {.kind = SIM_REQUEST_RENEW, .owner = owner, .range = range};
    struct sim_renewal *place = renewal_of(sim, node, range, owner);
    for (uint32_t i = 0; i < SIM_GATEWAYS_MAX && !place; i++)
        if (node->control.renewals[i].until_ns <= sim->now_ns)
            place = &node->control.renewals[i];
    if (place)
        *place = (struct sim_renewal){range, owner, sim->now_ns + 10 * sim->config.arbiter_ns};
    sim_arbiter_ask(sim, node, &request);
}

/* A restored arbiter has no record: the renewal that is under way makes it anew. */
static void tell_checked(struct sim *sim, struct sim_node *node, const struct sim_request *r) {
    if (r->absent && renewal_of(sim, node, r->range, r->owner)) {
        struct sim_request again = {
            .kind = SIM_REQUEST_CHECK, .range = r->range, .owner = r->owner};
        sim_arbiter_ask(sim, node, &again);
        return;
    }
    struct replica_event event = {.kind = REPLICA_EVENT_RANGE_CHECKED};
    event.range_checked.range = r->range;
    event.range_checked.owner = r->owner;
    event.range_checked.owned = r->owned;
    event.range_checked.start = r->end;
    sim_node_push(sim, node, SIM_ITEM_EVENT, NULL, &event);
}

static void answered(struct sim *sim, struct sim_node *node, const struct sim_request *request) {
    struct sim_control *control = &node->control;
    bool current = control->campaigning && request->attempt == control->attempt;
    if (request->kind == SIM_REQUEST_CAMPAIGN && current) {
        if (request->won)
            tell_key(sim, node, &request->key);
        else if (control->unknown) /* an earlier copy of this request may have won */
            control->timeout_ns = sim->now_ns;
        else
            tell_result(sim, node, &request->key, false);
    } else if (request->kind == SIM_REQUEST_READ && current) {
        bool ours = request->key.revision && request->key.token == control->token;
        if (ours)
            tell_key(sim, node, &request->key);
        else
            tell_result(sim, node, &request->key, false);
    }
}

/* "A read that was sent after revision R was seen, and answers with less": the arbiter was
 * restored. What it says is read anew, but no term is led that is not above all that were seen. */
static void store_seen(struct sim *sim, struct sim_node *node, const struct sim_request *request) {
    struct sim_control *control = &node->control;
    if (request->kind == SIM_REQUEST_WATCH) { /* what it told, later reads must know */
        control->revision = larger(control->revision, request->seen_at);
        return;
    }
    control->term_floor = larger(control->term_floor, node->seen.facts.promised_term);
    if (request->seen_at >= request->sent_at) {
        control->revision = larger(control->revision, request->seen_at);
    } else {
        SIM_TRACE(sim, sim_name(node->index), "the arbiter went back to revision %llu",
                  (unsigned long long)request->seen_at);
        control->term_floor = larger(control->term_floor, control->term_base + control->revision);
        control->term_floor = larger(control->term_floor, control->incarnation_max);
        control->revision = request->seen_at;
        control->told = false;
        control->known_at = 0;
        control->won_revision = 0;
    }
    control->term_base = request->term_base;
    for (uint32_t i = 0; i < sim_nodes(sim); i++)
        control->incarnation_max = larger(control->incarnation_max, request->newest[i]);
}

void sim_arbiter_answer(struct sim *sim, struct sim_node *node, struct sim_request *request) {
    if (request->kind == SIM_REQUEST_REGISTER) {
        if (!node->starting)
            return;
        node->incarnation = request->revision;
        sim_node_start(sim, node);
        return;
    }
    if (!node->up)
        return;
    store_seen(sim, node, request);
    switch (request->kind) {
    case SIM_REQUEST_KEEPALIVE:
    case SIM_REQUEST_WATCH:
        if (!old_news(&node->control, request)) {
            node->control.known_at = request->seen_at;
            tell_key(sim, node, &request->key);
        }
        if (request->kind == SIM_REQUEST_KEEPALIVE)
            tell_rest(sim, node, request);
        break;
    case SIM_REQUEST_CAMPAIGN:
    case SIM_REQUEST_READ: answered(sim, node, request); break;
    case SIM_REQUEST_GRANT: {
        struct wire_range_grant g = {.nonce = request->nonce,
                                     .owner = request->owner,
                                     .range = request->range,
                                     .start = request->end,
                                     .outcome = request->outcome,
                                     .held_by = request->held_by};
        sim_node_to_gateway(sim, node, request->gateway, WIRE_RANGE_GRANT, &g, sizeof g);
        sim_node_flush(sim, node);
        break;
    }
    case SIM_REQUEST_CHECK: tell_checked(sim, node, request); break;
    case SIM_REQUEST_REGISTER:
    case SIM_REQUEST_RESIGN:
    case SIM_REQUEST_RENEW:
    case SIM_REQUEST_SEALED: break;
    }
}

void sim_control_timer(struct sim *sim, struct sim_node *node) {
    struct sim_control *control = &node->control;
    struct sim_request keepalive = {.kind = SIM_REQUEST_KEEPALIVE, .revision = node->incarnation};
    sim_arbiter_ask(sim, node, &keepalive);
    if (control->campaigning && sim->now_ns >= control->timeout_ns) {
        control->unknown = true;
        control->timeout_ns = sim->now_ns + 10 * sim->config.arbiter_ns;
        struct sim_request read = {.kind = SIM_REQUEST_READ, .attempt = control->attempt};
        sim_arbiter_ask(sim, node, &read);
    }
    uint64_t tick =
        sim->config.lease_ns / 5 < CONTROL_TICK_NS ? sim->config.lease_ns / 5 : CONTROL_TICK_NS;
    sim_at(sim, sim->now_ns + tick, SIM_EVENT_CONTROL, node->index, node->life, 0, NULL);
}
