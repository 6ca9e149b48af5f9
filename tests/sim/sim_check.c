/* Protocol.md §10, watched from outside the replica. Nothing here asks a replica whether it is
 * right: it compares what replicas show (facts, frames, actions) with each other, with what the
 * shell itself holds (slots, journal), and with a reference that executes each committed epoch
 * once. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#define U(x) ((unsigned long long)(x))

static bool hash_equal(const struct wire_hash *a, const struct wire_hash *b) {
    return !memcmp(a->bytes, b->bytes, sizeof a->bytes);
}

void sim_check_init(struct sim *sim) {
    struct sim_check *c = &sim->checks;
    sim_map_init(&c->facts_by_id);
    sim_map_init(&c->body_by_id);
    sim_map_init(&c->operations);
    sim_map_init(&c->leaders);
    sim_map_init(&c->promises);
    sim_map_init(&c->seals);
    c->reference = malloc(sizeof *c->reference);
    if (!c->reference)
        abort();
    sim_runtime_init(c->reference, &sim->config.replica.genesis_hash);
    c->held_from = 1;
}

void sim_check_free(struct sim *sim) {
    struct sim_check *c = &sim->checks;
    sim_map_free(&c->facts_by_id);
    sim_map_free(&c->body_by_id);
    sim_map_free(&c->operations);
    sim_map_free(&c->leaders);
    sim_map_free(&c->promises);
    sim_map_free(&c->seals);
    for (uint64_t i = 1; i <= c->committed; i++)
        free(c->epochs[i].bytes);
    free(c->epochs);
    free(c->facts);
    free(c->reference);
}

static const struct sim_fact *fact_of(struct sim *sim, uint64_t id) {
    const uint64_t *number = sim_map_get(&sim->checks.facts_by_id, id);
    return number && *number ? &sim->checks.facts[*number - 1] : NULL;
}

/* ---- who holds what ---- */

static bool body_in_memory(struct sim *sim, struct sim_node *node, uint64_t id,
                           struct wire_digest *sum) {
    struct wire_digest unused;
    uint32_t slot = replica_body(node->replica, id, &unused);
    if (slot == REPLICA_SLOT_NONE)
        return false;
    if (slot >= sim->config.replica.body_slots || !node->slots[slot].owned ||
        node->slots[slot].id != id)
        sim_fail(sim, "action contract", "n%u says that %llx is in slot %u, which it does not own",
                 node->index, U(id), slot);
    *sum = wire_digest_add(*sum, node->slots[slot].digest);
    return true;
}

/* Are the bodies that the digest of these canonical bytes means here: in memory, or stable? */
static bool bodies_held(struct sim *sim, struct sim_node *node, const uint8_t *epoch) {
    const struct wire_epoch_head *head = (const void *)epoch;
    const struct wire_interval *intervals = wire_epoch_intervals(epoch);
    struct wire_digest sum = {0, 0};
    for (uint32_t i = 0; i < head->interval_count; i++)
        for (uint64_t b = 0; b < intervals[i].count; b++) {
            struct wire_digest digest = {0, 0};
            uint64_t id = intervals[i].first_id + b;
            if (sim->config.replica.durable) {
                if (!sim_journal_body_stable(&node->journal, id, &digest))
                    return false;
                sum = wire_digest_add(sum, digest);
            } else if (!body_in_memory(sim, node, id, &sum)) {
                return false;
            }
        }
    return sum.low == head->digest_low && sum.high == head->digest_high;
}

/* Does this node's storage (memory in memory mode) hold the epoch with its bodies, or a state that
 * covers it? */
static bool holds(struct sim *sim, struct sim_node *node, const struct sim_epoch *epoch,
                  uint64_t seq) {
    if (sim->config.replica.durable) {
        if (node->journal.snapshot && node->journal.snapshot->exec_seq >= seq)
            return true;
        return sim_journal_epoch_stable(&node->journal, seq, &epoch->hash) &&
               bodies_held(sim, node, epoch->bytes);
    }
    if (!node->up)
        return false;
    if (node->runtime->exec_seq >= seq)
        return true;
    struct wire_hash hash;
    uint32_t bytes;
    return replica_epoch(node->replica, seq, &bytes, &hash) && hash_equal(&hash, &epoch->hash) &&
           bodies_held(sim, node, epoch->bytes);
}

/* "Every committed epoch's bodies are held by k replicas, stable as configured"; one that lost its
 * memory counts until its recovery ends. */
static void check_held(struct sim *sim, uint64_t seq, const char *when) {
    const struct sim_epoch *epoch = &sim->checks.epochs[seq];
    uint32_t count = 0, forgetful = 0;
    for (uint32_t i = 0; i < sim_nodes(sim); i++) {
        struct sim_node *node = &sim->nodes[i];
        if (holds(sim, node, epoch, seq))
            count++;
        else if (!node->recovered || node->rotten)
            forgetful++;
    }
    if (count + forgetful < sim->config.replica.quorum || count == 0)
        sim_fail(sim, "10.2 held by k", "%s: epoch %llu and its bodies are held by %u, quorum %u",
                 when, U(seq), count, sim->config.replica.quorum);
}

void sim_check_held(struct sim *sim) {
    struct sim_check *c = &sim->checks;
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < sim_nodes(sim); i++) {
        const struct sim_node *node = &sim->nodes[i];
        uint64_t safe = node->up ? node->runtime->exec_seq : 0;
        if (sim->config.replica.durable)
            safe = node->journal.snapshot ? node->journal.snapshot->exec_seq : 0;
        least = safe < least ? safe : least;
    }
    while (c->held_from <= c->committed && c->held_from <= least)
        c->held_from++;
    for (uint64_t seq = c->held_from; seq <= c->committed; seq++)
        check_held(sim, seq, "later");
}

/* ---- 10.1, 10.6: what becomes committed ---- */

static void committed_new(struct sim *sim, struct sim_node *node, uint64_t seq, uint64_t term) {
    struct sim_check *c = &sim->checks;
    struct wire_hash hash;
    uint32_t length;
    const uint8_t *bytes = replica_epoch(node->replica, seq, &length, &hash);
    if (!bytes)
        sim_fail(sim, "10.1 agreement", "n%u committed epoch %llu but does not keep it",
                 node->index, U(seq));
    if (wire_epoch_check(bytes, length) != WIRE_DROP_NONE)
        sim_fail(sim, "10.1 agreement", "n%u committed a malformed epoch %llu", node->index,
                 U(seq));
    if (seq + 1 > c->room) {
        c->room = c->room ? 2 * c->room : 256;
        c->epochs = realloc(c->epochs, (c->room + 1) * sizeof *c->epochs);
        if (!c->epochs)
            abort();
    }
    struct sim_epoch *epoch = &c->epochs[seq];
    *epoch = (struct sim_epoch){.hash = wire_hash_blake2b(bytes, length),
                                .term = term,
                                .length_bytes = length,
                                .first = node->index};
    epoch->bytes = malloc(length);
    if (!epoch->bytes)
        abort();
    memcpy(epoch->bytes, bytes, length);
    c->committed = seq;
    const struct wire_epoch_head *head = (const void *)bytes;
    const struct wire_hash *previous =
        seq == 1 ? &sim->config.replica.genesis_hash : &c->epochs[seq - 1].hash;
    if (head->seq != seq || memcmp(head->previous_hash, previous->bytes, sizeof previous->bytes))
        sim_fail(sim, "10.1 agreement", "epoch %llu does not continue the chain", U(seq));
    if (!hash_equal(&hash, &epoch->hash))
        sim_fail(sim, "10.1 agreement", "n%u has a wrong hash for epoch %llu", node->index, U(seq));
    SIM_TRACE(sim, sim_name(node->index), "  first to commit %llu, in term %llu", U(seq), U(term));
    check_held(sim, seq, "at its commit");
}

/* Logical time goes forward, and never far beyond what the honest clocks say. */
static void check_time(struct sim *sim, uint64_t seq) {
    struct sim_check *c = &sim->checks;
    const struct wire_epoch_head *head = (const void *)c->epochs[seq].bytes;
    uint64_t elapsed_us = sim->now_ns / 1000;
    uint64_t bound = sim->start_wall_us + elapsed_us + elapsed_us / 250 + 300000 + seq;
    if (head->logical_time_us <= c->last_time_us)
        sim_fail(sim, "10.6 logical time", "epoch %llu: %llu us after %llu us", U(seq),
                 U(head->logical_time_us), U(c->last_time_us));
    if (sim->config.replica.quorum >= 2 && head->logical_time_us > bound)
        sim_fail(sim, "10.6 logical time", "epoch %llu is %llu us ahead of every honest clock",
                 U(seq), U(head->logical_time_us - bound));
    if (seq > 1 &&
        head->term < ((const struct wire_epoch_head *)(const void *)c->epochs[seq - 1].bytes)->term)
        sim_fail(sim, "10.6 terms", "epoch %llu has term %llu after a greater one", U(seq),
                 U(head->term));
    c->last_time_us = head->logical_time_us;
}

static void check_commits(struct sim *sim, struct sim_node *node, const struct replica_facts *f,
                          uint64_t from) {
    struct sim_check *c = &sim->checks;
    for (uint64_t seq = from + 1; seq <= f->commit_seq; seq++) {
        if (seq > c->committed) {
            committed_new(sim, node, seq, f->promised_term);
            check_time(sim, seq);
            continue;
        }
        struct wire_hash hash;
        uint32_t length;
        if (replica_epoch(node->replica, seq, &length, &hash) &&
            !hash_equal(&hash, &c->epochs[seq].hash))
            sim_fail(sim, "10.1 agreement", "n%u committed another epoch %llu than n%u did",
                     node->index, U(seq), c->epochs[seq].first);
    }
    if (f->commit_seq && !hash_equal(&f->commit_hash, &c->epochs[f->commit_seq].hash))
        sim_fail(sim, "10.1 agreement", "n%u: commit_hash at %llu is not that of the order",
                 node->index, U(f->commit_seq));
}

/* "Epochs of older terms are never committed by counting": a leader's commit_seq comes to stand at
 * an epoch of its own term. */
static void check_counted(struct sim *sim, struct sim_node *node, const struct replica_facts *f) {
    const struct replica_facts *before = &node->seen.facts;
    if (f->role != REPLICA_ROLE_LEADER || before->role != f->role ||
        before->promised_term != f->promised_term || f->commit_seq == before->commit_seq ||
        f->commit_seq == f->base_seq) /* a snapshot */
        return;
    const uint8_t *bytes = sim->checks.epochs[f->commit_seq].bytes;
    const struct wire_epoch_head *head = (const void *)bytes;
    if (head->term != f->promised_term)
        sim_fail(sim, "commit by counting",
                 "n%u, leader of term %llu, commits epoch %llu of term %llu", node->index,
                 U(f->promised_term), U(f->commit_seq), U(head->term));
}

/* A leader's log must hold everything that was committed before its term. */
static void check_established(struct sim *sim, struct sim_node *node,
                              const struct replica_facts *f) {
    struct sim_check *c = &sim->checks;
    uint64_t who = (uint64_t)node->index << 32 | node->life;
    uint64_t *leader = sim_map_put(&c->leaders, f->promised_term);
    if (*leader && *leader != who + 1)
        sim_fail(sim, "10.6 one leader", "n%u and n%llu (process %llu) both lead term %llu",
                 node->index, U((*leader - 1) >> 32), U((*leader - 1) & UINT32_MAX),
                 U(f->promised_term));
    *leader = who + 1;
    SIM_COUNT(sim, takeover);
    SIM_TRACE(sim, sim_name(node->index), "  LEADS term %llu with last %llu", U(f->promised_term),
              U(f->last_seq));
    for (uint64_t seq = f->base_seq + 1; seq <= c->committed; seq++) {
        if (c->epochs[seq].term >= f->promised_term)
            break;
        struct wire_hash hash;
        uint32_t length;
        if (seq > f->last_seq || !replica_epoch(node->replica, seq, &length, &hash) ||
            !hash_equal(&hash, &c->epochs[seq].hash))
            sim_fail(sim, "10.3 leader completeness",
                     "n%u leads term %llu without epoch %llu, committed in term %llu", node->index,
                     U(f->promised_term), U(seq), U(c->epochs[seq].term));
    }
}

/* ---- after every step ---- */

static void check_monotone(struct sim *sim, struct sim_node *node, const struct replica_facts *f) {
    const struct replica_facts *before = &node->seen.facts;
    uint32_t used = sim->config.replica.body_slots - node->free_count;
    if (f->commit_seq < before->commit_seq)
        sim_fail(sim, "10.1 committed prefix cut", "n%u: commit_seq %llu after %llu", node->index,
                 U(f->commit_seq), U(before->commit_seq));
    if (f->promised_term < before->promised_term)
        sim_fail(sim, "10.6 promises", "n%u: promised_term %llu after %llu", node->index,
                 U(f->promised_term), U(before->promised_term));
    if (f->exec_seq < before->exec_seq)
        sim_fail(sim, "10.3 execution", "n%u: exec_seq %llu after %llu", node->index,
                 U(f->exec_seq), U(before->exec_seq));
    if (f->exec_seq > f->delivered_seq || f->delivered_seq > f->commit_seq ||
        f->commit_seq > f->last_seq || f->base_seq > f->exec_seq ||
        f->acknowledged_seq > f->held_seq || f->held_seq > f->last_seq)
        sim_fail(sim, "I1 order of positions",
                 "n%u: base %llu exec %llu delivered %llu commit %llu acknowledged %llu held %llu "
                 "last %llu",
                 node->index, U(f->base_seq), U(f->exec_seq), U(f->delivered_seq), U(f->commit_seq),
                 U(f->acknowledged_seq), U(f->held_seq), U(f->last_seq));
    if (node->recovered && f->promised_term < f->last_term)
        sim_fail(sim, "10.6 promises", "n%u: promised %llu below its last epoch's term %llu",
                 node->index, U(f->promised_term), U(f->last_term));
    if (f->slots_used != used)
        sim_fail(sim, "body slots", "n%u uses %u slots, but was given %u", node->index,
                 f->slots_used, used);
    if (sim->config.replica.durable &&
        f->append_position != node->journal.next - node->journal.base)
        sim_fail(sim, "action contract", "n%u: append_position %llu, journal has %llu", node->index,
                 U(f->append_position), U(node->journal.next - node->journal.base));
}

void sim_check_started(struct sim *sim, struct sim_node *node) {
    replica_facts(node->replica, &node->seen.facts);
    node->seen.valid = false; /* until its journal is replayed */
    (void)sim;
}

void sim_check_replayed(struct sim_node *node) {
    node->seen.valid = true;
}

/* "Nothing is cut": a log gets shorter only when another epoch takes the place of one of its own,
 * or by a winner that has adopted. One epoch per seq and term, so terms tell them apart. */
static void check_cut(struct sim *sim, struct sim_node *node, const struct replica_facts *f) {
    const struct replica_facts *before = &node->seen.facts;
    uint64_t *terms = node->terms;
    bool restored = f->last_seq == f->base_seq && f->base_seq != before->base_seq;
    bool shorter = f->last_seq < before->last_seq && !restored;
    bool adopted = f->role == REPLICA_ROLE_LEADER && before->role != f->role;
    if (shorter && node->seen.valid && node->recovered && !adopted &&
        terms[f->last_seq % SIM_TERMS] == f->last_term)
        sim_fail(sim, "10.1 tail cut", "n%u: the log ends at %llu after %llu, nothing replaced it",
                 node->index, U(f->last_seq), U(before->last_seq));
    if (shorter || (f->last_seq > f->base_seq && f->last_seq == before->last_seq &&
                    node->seen.valid && terms[f->last_seq % SIM_TERMS] != f->last_term))
        SIM_COUNT(sim, cut_log);
    if (f->last_seq == before->last_seq && f->last_term == before->last_term && node->seen.valid)
        return;
    /* all that is not committed: several of the tail may have been replaced at once */
    uint64_t from = before->last_seq < f->last_seq ? before->last_seq + 1 : f->last_seq;
    from = before->commit_seq < from ? before->commit_seq + 1 : from;
    for (uint64_t seq = from > f->base_seq ? from : f->base_seq + 1; seq <= f->last_seq; seq++) {
        struct wire_hash hash;
        uint32_t length;
        const uint8_t *bytes = replica_epoch(node->replica, seq, &length, &hash);
        terms[seq % SIM_TERMS] = ((const struct wire_epoch_head *)(const void *)bytes)->term;
    }
}

static bool votes(enum replica_role role) {
    return role == REPLICA_ROLE_FOLLOWER || role == REPLICA_ROLE_LEADER ||
           role == REPLICA_ROLE_PREPARING || role == REPLICA_ROLE_QUARANTINED;
}

/* What its earlier incarnation may have acknowledged, and what was committed with it, is held again
 * when it votes. */
static void check_recovered(struct sim *sim, struct sim_node *node) {
    for (uint64_t seq = sim->checks.held_from; seq <= node->started_committed; seq++)
        if (!holds(sim, node, &sim->checks.epochs[seq], seq))
            sim_fail(sim, "10.2 recovery",
                     "n%u ends its recovery without epoch %llu, committed before it began",
                     node->index, U(seq));
}

static void check_role(struct sim *sim, struct sim_node *node, const struct replica_facts *f) {
    const struct replica_facts *before = &node->seen.facts;
    if (f->role != before->role)
        SIM_TRACE(sim, sim_name(node->index), "  %s -> %s, term %llu", sim_role_name(before->role),
                  sim_role_name(f->role), U(f->promised_term));
    if (!node->recovered && votes(f->role)) {
        node->recovered = true;
        SIM_COUNT(sim, recovered);
        check_recovered(sim, node);
        SIM_TRACE(sim, sim_name(node->index), "  recovered at last %llu", U(f->last_seq));
    }
    if (f->role == REPLICA_ROLE_QUARANTINED && before->role != f->role &&
        !sim_node_differs(sim, node))
        sim_fail(sim, "quarantine", "n%u is quarantined though its state is right", node->index);
    if (f->role == REPLICA_ROLE_QUARANTINED && before->role != f->role)
        SIM_COUNT(sim, quarantined);
    if (before->role == REPLICA_ROLE_QUARANTINED && f->role != before->role)
        sim_fail(sim, "quarantine", "n%u leaves its quarantine", node->index);
    if (f->role == REPLICA_ROLE_LEADER &&
        (before->role != REPLICA_ROLE_LEADER || before->promised_term != f->promised_term))
        check_established(sim, node, f);
}

void sim_check_step(struct sim *sim, struct sim_node *node) {
    struct replica_facts f;
    replica_facts(node->replica, &f);
    bool replaying = sim->config.replica.durable && node->journal.base == node->journal.next &&
                     !node->seen.valid;
    if (!replaying || f.append_position == 0)
        check_monotone(sim, node, &f);
    check_commits(sim, node, &f, node->seen.facts.commit_seq);
    check_cut(sim, node, &f);
    check_counted(sim, node, &f);
    check_role(sim, node, &f);
    if (node->seen.valid)
        sim->tally[SIM_TALLY_replaced] += f.bodies_replaced - node->seen.facts.bodies_replaced;
    node->seen.facts = f;
    if (sim->steps % sim->config.check_every == 0 && !node->restoring) {
        const char *broken = replica_check(node->replica);
        if (broken)
            sim_fail(sim, "replica_check", "n%u: %s", node->index, broken);
    }
}

/* ---- what goes out on the wire ---- */

/* "acknowledges s only if ... all epochs up to s are stable, every body they name is held (digest)
 * and stable". Epochs checked before under the same hash are not looked at again. */
static void check_acknowledgeable(struct sim *sim, struct sim_node *node, uint64_t seq,
                                  const char *what) {
    struct sim_seen *seen = &node->seen;
    struct wire_hash hash;
    uint32_t length;
    uint64_t from = sim->config.replica.durable
                        ? (node->journal.snapshot ? node->journal.snapshot->exec_seq : 0)
                        : node->runtime->exec_seq;
    if (seen->verified_seq > from && seen->verified_seq <= seq &&
        replica_epoch(node->replica, seen->verified_seq, &length, &hash) &&
        hash_equal(&hash, &seen->verified_hash))
        from = seen->verified_seq;
    for (uint64_t s = from + 1; s <= seq; s++) {
        const uint8_t *bytes = replica_epoch(node->replica, s, &length, &hash);
        if (!bytes && s <= node->runtime->exec_seq)
            continue; /* released; it was checked when it was acknowledged or is executed */
        if (!bytes)
            sim_fail(sim, "acknowledged before held", "n%u sends %s for %llu without epoch %llu",
                     node->index, what, U(seq), U(s));
        if (sim->config.replica.durable && !sim_journal_epoch_stable(&node->journal, s, &hash))
            sim_fail(sim, "acknowledged before stable",
                     "n%u sends %s for %llu: epoch %llu is not stable", node->index, what, U(seq),
                     U(s));
        if (!bodies_held(sim, node, bytes))
            sim_fail(sim, "acknowledged before stable",
                     "n%u sends %s for %llu: the bodies of epoch %llu are not held%s", node->index,
                     what, U(seq), U(s), sim->config.replica.durable ? " and stable" : "");
        seen->verified_hash = hash;
        seen->verified_seq = s;
    }
}

/* A promise binds only when it can't be forgotten. */
static void check_promise_stable(struct sim *sim, struct sim_node *node, uint64_t term,
                                 const char *what) {
    /* a snapshot binds to its term as well: the promise is never below the last epoch's term */
    uint64_t stable = node->journal.promised_stable;
    if (node->journal.snapshot && node->journal.snapshot->term > stable)
        stable = node->journal.snapshot->term;
    if (sim->config.replica.durable && stable < term)
        sim_fail(sim, "promise not stable", "n%u sends %s in term %llu, stable is %llu",
                 node->index, what, U(term), U(stable));
    if (node->visible_term < term)
        node->visible_term = term;
}

static void check_votes(struct sim *sim, struct sim_node *node, const char *what) {
    struct replica_facts f;
    replica_facts(node->replica, &f); /* the step that ends recovery may vote */
    if (!node->recovered && !votes(f.role))
        sim_fail(sim, "amnesiac votes", "n%u sends %s though it has not recovered", node->index,
                 what);
}

static void sent_ack(struct sim *sim, struct sim_node *node, const struct wire_ack *ack) {
    if (ack->seq == 0)
        return; /* names a term or a wish only */
    check_votes(sim, node, "ACK");
    if (ack->term < node->visible_term)
        sim_fail(sim, "10.6 promises", "n%u acknowledges in term %llu after promising %llu",
                 node->index, U(ack->term), U(node->visible_term));
    check_promise_stable(sim, node, ack->term, "ACK");
    check_acknowledgeable(sim, node, ack->seq, "ACK");
}

static void sent_promise(struct sim *sim, struct sim_node *node, const struct wire_promise *p) {
    check_votes(sim, node, "PROMISE");
    if (p->term < node->visible_term)
        sim_fail(sim, "10.6 promises", "n%u promises term %llu after %llu", node->index, U(p->term),
                 U(node->visible_term));
    check_promise_stable(sim, node, p->term, "PROMISE");
    uint64_t *token = sim_map_put(&sim->checks.promises,
                                  sim_random_mix(node->incarnation * 8 + node->index) ^ p->term);
    if (*token && *token != p->token)
        sim_fail(sim, "10.6 promises", "n%u promises term %llu to two winners", node->index,
                 U(p->term));
    *token = p->token;
    check_acknowledgeable(sim, node, p->last_seq, "PROMISE");
}

void sim_check_sent(struct sim *sim, struct sim_node *node, const struct replica_action *action) {
    uint8_t bytes[sizeof(struct wire_promise)];
    size_t length = action->inline_bytes < sizeof bytes ? action->inline_bytes : sizeof bytes;
    memcpy(bytes, action->payload, length);
    if (action->frame_kind == WIRE_ACK)
        sent_ack(sim, node, (const void *)bytes);
    else if (action->frame_kind == WIRE_PROMISE && !(action->frame_flags & WIRE_PROMISE_REFUSED))
        sent_promise(sim, node, (const void *)bytes);
    else if (action->frame_kind == WIRE_RECOVERED)
        check_votes(sim, node, "RECOVERED");
}

/* Is its epoch `seq` the committed one? */
static bool has_committed(struct sim *sim, struct sim_node *node, uint64_t seq) {
    struct wire_hash hash;
    uint32_t length;
    return replica_epoch(node->replica, seq, &length, &hash) &&
           hash_equal(&hash, &sim->checks.epochs[seq].hash);
}

/* A body of an epoch that was held here, so may have been acknowledged, may go only when this node
 * has executed it; one that was just refused may. */
void sim_check_freed(struct sim *sim, struct sim_node *node, const struct sim_slot *slot) {
    const uint64_t *body = sim_map_get(&sim->checks.body_by_id, slot->id);
    const struct sim_fact *fact = fact_of(sim, slot->id);
    if (slot->given_step == sim->steps)
        return;
    SIM_TRACE(sim, sim_name(node->index), "  free %llx", U(slot->id));
    if (body && fact && *body == (slot->digest.low ^ slot->digest.high) && node->recovered &&
        fact->result.seq > node->runtime->exec_seq &&
        fact->result.seq <= node->seen.facts.held_seq && has_committed(sim, node, fact->result.seq))
        sim_fail(sim, "10.2 body dropped", "n%u frees body %llx of epoch %llu, not executed here",
                 node->index, U(slot->id), U(fact->result.seq));
}

/* ---- the reference executes each epoch once ---- */

static void order_expected(struct sim *sim, struct sim_node *node, const uint8_t *epoch,
                           uint32_t count) {
    const struct wire_epoch_head *head = (const void *)epoch;
    const struct wire_interval *intervals = wire_epoch_intervals(epoch);
    uint32_t at = 0, n = head->interval_count;
    for (uint32_t turn = 0; turn < n; turn++) {
        const struct wire_interval *v = &intervals[(head->seq + turn) % n];
        for (uint32_t b = 0; b < v->count; b++, at++)
            if (at >= count || sim->delivered[at].id != v->first_id + b)
                sim_fail(sim, "linearization", "n%u delivers epoch %llu in a wrong order at %u",
                         node->index, U(head->seq), at);
    }
    if (at != count)
        sim_fail(sim, "linearization", "n%u delivers %u bodies of epoch %llu, not %u", node->index,
                 count, U(head->seq), at);
}

/* 10.5: "Intervals of one range in the order are adjacent, never overlap, start at its OPEN and end
 * at its SEAL." */
static void check_ranges(struct sim *sim, const uint8_t *epoch) {
    struct sim_runtime *reference = sim->checks.reference;
    const struct wire_epoch_head *head = (const void *)epoch;
    const struct wire_control *controls = wire_epoch_controls(epoch);
    const struct wire_interval *intervals = wire_epoch_intervals(epoch);
    for (uint32_t i = 0; i < head->control_count; i++) {
        const struct sim_runtime_range *r = sim_runtime_range(reference, controls[i].range);
        if (controls[i].kind == WIRE_CONTROL_OPEN && r && r->open)
            sim_fail(sim, "10.5 ranges", "epoch %llu opens range %llu, which is open", U(head->seq),
                     U(controls[i].range));
        if (controls[i].kind == WIRE_CONTROL_OPEN && !sim->tally[SIM_TALLY_etcd_restored] &&
            sim_map_get(&sim->checks.seals, sim_random_mix(controls[i].value) ^ controls[i].range))
            sim_fail(sim, "10.5 ranges", "epoch %llu opens range %llu for %llx, who held it before",
                     U(head->seq), U(controls[i].range), U(controls[i].value));
        if (controls[i].kind == WIRE_CONTROL_SEAL &&
            (!r || !r->open || r->position != controls[i].value))
            sim_fail(sim, "10.5 ranges", "epoch %llu seals range %llu at %llu, its end is %u",
                     U(head->seq), U(controls[i].range), U(controls[i].value), r ? r->position : 0);
        if (controls[i].kind == WIRE_CONTROL_SEAL)
            *sim_map_put(&sim->checks.seals, sim_random_mix(r->owner) ^ r->range) =
                r->position + UINT64_C(1);
    }
    for (uint32_t i = 0; i < head->interval_count; i++) {
        uint64_t range = wire_tx_range(intervals[i].first_id);
        const struct sim_runtime_range *r = sim_runtime_range(reference, range);
        bool open = r && r->open;
        for (uint32_t c = 0; c < head->control_count; c++)
            if (controls[c].range == range)
                open = controls[c].kind == WIRE_CONTROL_OPEN;
        uint32_t position = r ? r->position : 0;
        if (!open || wire_tx_offset(intervals[i].first_id) != position)
            sim_fail(sim, "10.5 ranges", "epoch %llu: range %llu at %u, %s with position %u",
                     U(head->seq), U(range), wire_tx_offset(intervals[i].first_id),
                     open ? "open" : "not open", position);
    }
}

static void executed_once(void *context, const struct sim_result *result,
                          const struct sim_body *body) {
    (void)body;
    struct sim *sim = context;
    struct sim_check *c = &sim->checks;
    if (c->fact_count == c->fact_room) {
        c->fact_room = c->fact_room ? 2 * c->fact_room : 512;
        c->facts = realloc(c->facts, c->fact_room * sizeof *c->facts);
        if (!c->facts)
            abort();
    }
    uint64_t *known = sim_map_put(&c->facts_by_id, result->id);
    if (*known)
        sim_fail(sim, "10.3 exactly once", "id %llx is executed twice", U(result->id));
    *known = c->fact_count + 1;
    if (result->code != SIM_CODE_MALFORMED) {
        uint64_t *id = sim_map_put(&c->operations, result->operation);
        if (*id)
            sim_fail(sim, "10.3 exactly once", "work %llu took effect under %llx and under %llx",
                     U(result->operation), U(*id), U(result->id));
        *id = result->id;
    }
    c->facts[c->fact_count++] = (struct sim_fact){*result, c->fact_count + 1};
}

static void reference_execute(struct sim *sim, const uint8_t *epoch, uint64_t seq, uint32_t count) {
    struct sim_check *c = &sim->checks;
    check_ranges(sim, epoch);
    for (uint32_t i = 0; i < count; i++) {
        struct wire_digest d = wire_hash_body(&sim->digest_key, sim->bodies[i].id,
                                              sim->bodies[i].bytes, sim->bodies[i].length_bytes);
        *sim_map_put(&c->body_by_id, sim->bodies[i].id) = d.low ^ d.high;
    }
    c->epochs[seq].order = c->fact_count + 1;
    sim_runtime_execute(c->reference, epoch, &c->epochs[seq].hash, sim->bodies, count,
                        executed_once, sim);
    c->epochs[seq].executed = true;
    c->epochs[seq].result_hash = sim_runtime_hash(c->reference);
    if (sim_runtime_total(c->reference) != SIM_ACCOUNTS * SIM_OPENING_BALANCE)
        sim_fail(sim, "bank total", "the sum of all balances changed in epoch %llu", U(seq));
}

void sim_check_deliver(struct sim *sim, struct sim_node *node, uint64_t seq) {
    struct sim_check *c = &sim->checks;
    const uint8_t *epoch;
    uint32_t length;
    struct wire_hash hash;
    uint32_t count = replica_delivery(node->replica, seq, &epoch, &length, &hash, sim->delivered);
    /* The step that commits may deliver too: then the table does not know the epoch yet. */
    struct replica_facts f;
    replica_facts(node->replica, &f);
    if (seq > f.commit_seq)
        sim_fail(sim, "delivered before commit", "n%u delivers %llu, committed is %llu",
                 node->index, U(seq), U(f.commit_seq));
    check_commits(sim, node, &f, node->seen.facts.commit_seq);
    node->seen.facts.commit_seq = f.commit_seq;
    if (!hash_equal(&hash, &c->epochs[seq].hash))
        sim_fail(sim, "10.1 agreement", "n%u delivers another epoch %llu", node->index, U(seq));
    order_expected(sim, node, epoch, count);
    struct wire_digest sum = {0, 0};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t slot = sim->delivered[i].slot;
        if (slot >= sim->config.replica.body_slots || !node->slots[slot].owned ||
            node->slots[slot].id != sim->delivered[i].id)
            sim_fail(sim, "action contract", "n%u delivers %llx from slot %u", node->index,
                     U(sim->delivered[i].id), slot);
        sum = wire_digest_add(sum, node->slots[slot].digest);
        sim->bodies[i] = (struct sim_body){sim->delivered[i].id, sim_node_slot_bytes(node, slot),
                                           node->slots[slot].length_bytes};
    }
    const struct wire_epoch_head *head = (const void *)epoch;
    if (sum.low != head->digest_low || sum.high != head->digest_high)
        sim_fail(sim, "10.4 one body per id", "n%u delivers other bodies than epoch %llu names",
                 node->index, U(seq));
    if (seq == c->reference->exec_seq + 1)
        reference_execute(sim, epoch, seq, count);
    else if (seq > c->reference->exec_seq)
        sim_fail(sim, "10.3 execution", "n%u delivers %llu, nobody has executed %llu", node->index,
                 U(seq), U(c->reference->exec_seq + 1));
}

bool sim_node_differs(const struct sim *sim, const struct sim_node *node) {
    if (!(sim->config.faults >> SIM_FAULT_DIVERGE & 1))
        return false;
    const struct sim_runtime *states[] = {node->up ? node->runtime : NULL, node->journal.snapshot,
                                          node->journal.unfinished};
    for (uint32_t i = 0; i < 3; i++) {
        if (!states[i] || !states[i]->exec_seq)
            continue;
        struct wire_hash hash = sim_runtime_hash(states[i]);
        if (!hash_equal(&hash, &sim->checks.epochs[states[i]->exec_seq].result_hash))
            return true;
    }
    return false;
}

/* 10.7: "Equal exec_seq means equal state hash." */
void sim_check_executed(struct sim *sim, struct sim_node *node) {
    struct wire_hash hash = sim_runtime_hash(node->runtime);
    uint64_t seq = node->runtime->exec_seq;
    if (seq && !hash_equal(&hash, &sim->checks.epochs[seq].result_hash) &&
        !(sim->config.faults >> SIM_FAULT_DIVERGE & 1))
        sim_fail(sim, "10.7 state", "n%u has another state at %llu", node->index, U(seq));
}

/* ---- what gateways were told ---- */

static bool result_equal(const struct sim_result *a, const struct sim_result *b) {
    return a->id == b->id && a->seq == b->seq && a->logical_time_us == b->logical_time_us &&
           a->operation == b->operation && a->value == b->value && a->code == b->code;
}

void sim_check_result(struct sim *sim, struct sim_gateway *gateway,
                      const struct sim_transaction *transaction, const struct wire_result *result) {
    SIM_COUNT(sim, read);
    struct wire_result head;
    struct sim_result body;
    memcpy(&head, result, sizeof head);
    memcpy(&body, (const uint8_t *)result + sizeof head, sizeof body);
    const struct sim_fact *fact = fact_of(sim, head.id);
    if (!fact)
        sim_fail(sim, "10.3 results", "g%u got a result of %llx, which is not in the order",
                 gateway->index, U(head.id));
    if (!result_equal(&fact->result, &body) || head.epoch_seq != body.seq ||
        head.logical_time_us != body.logical_time_us)
        sim_fail(sim, "10.3 results", "g%u got another result of %llx than its execution gave",
                 gateway->index, U(head.id));
    if (!gateway->conflicting && body.operation != transaction->operation)
        sim_fail(sim, "10.3 results", "g%u: the result of %llx is of work %llu, not %llu",
                 gateway->index, U(head.id), U(body.operation), U(transaction->operation));
    /* "after another's result it must come later in the order" */
    if (fact->order <= transaction->floor_order)
        sim_fail(sim, "linearizability", "%llx is ordered at %llu, before %llu, answered earlier",
                 U(head.id), U(fact->order), U(transaction->floor_order));
    if (fact->order > sim->checks.answered_order)
        sim->checks.answered_order = fact->order;
}

void sim_check_expired(struct sim *sim, struct sim_gateway *gateway,
                       const struct sim_transaction *transaction) {
    uint64_t id = wire_tx_id(transaction->range, transaction->offset);
    if (!fact_of(sim, id))
        sim_fail(sim, "10.3 results", "g%u is told that %llx was executed", gateway->index, U(id));
    const struct sim_runtime_range *range =
        sim_runtime_range(sim->checks.reference, transaction->range);
    if (range && range->open && transaction->offset >= range->retired && !gateway->conflicting)
        sim_fail(sim, "10.3 results", "g%u: the result of %llx, unanswered, is no longer kept",
                 gateway->index, U(id));
}

/* SEALED is told only once the SEAL was executed, and says the end of that owner's range. */
void sim_check_sealed(struct sim *sim, uint64_t range, uint64_t owner, uint32_t end) {
    const uint64_t *sealed = sim_map_get(&sim->checks.seals, sim_random_mix(owner) ^ range);
    if (!sealed || *sealed != end + UINT64_C(1))
        sim_fail(sim, "10.5 ranges",
                 "range %llu of %llx is said to be sealed at %u; the order: %lld", U(range),
                 U(owner), end, sealed ? (long long)*sealed - 1 : -1LL);
}

void sim_check_sealed_off(struct sim *sim, const struct sim_transaction *t) {
    const uint64_t *sealed = sim_map_get(&sim->checks.seals, sim_random_mix(t->owner) ^ t->range);
    if (!sealed || *sealed - 1 > t->offset)
        sim_fail(sim, "10.5 ranges", "%llx of %llx is said to be sealed off; the order: %lld",
                 U(wire_tx_id(t->range, t->offset)), U(t->owner),
                 sealed ? (long long)*sealed - 1 : -1LL);
}

/* The arbiter is told the end of that owner's holding; one that was restored, and holds an earlier
 * or a misplaced one, is told where the range ended. */
void sim_check_told(struct sim *sim, uint64_t range, uint64_t owner, uint32_t end) {
    const struct sim_runtime_range *r = sim_runtime_range(sim->checks.reference, range);
    const uint64_t *sealed = sim_map_get(&sim->checks.seals, sim_random_mix(owner) ^ range);
    if (sealed && *sealed == end + UINT64_C(1))
        return;
    if (!sim->tally[SIM_TALLY_etcd_restored] || !r || r->position < end)
        sim_check_sealed(sim, range, owner, end);
}

/* ---- 10.8 and the end ---- */

static bool gateways_idle(struct sim *sim) {
    for (uint32_t i = 0; i < sim->gateway_count; i++)
        if (!sim_gateway_idle(&sim->gateways[i]))
            return false;
    return true;
}

bool sim_check_quiet(struct sim *sim) {
    bool leader = false;
    if (!gateways_idle(sim))
        return false;
    if (!sim->quiet) {
        sim->quiet = true;
        sim->quiet_seq = sim->checks.committed;
        SIM_TRACE(sim, "--", "QUIET: everything is answered at %llu", U(sim->quiet_seq));
    }
    for (uint32_t i = 0; i < sim_nodes(sim); i++) {
        struct sim_node *node = &sim->nodes[i];
        const struct replica_facts *f = &node->seen.facts;
        bool member = f->role == REPLICA_ROLE_FOLLOWER || f->role == REPLICA_ROLE_LEADER;
        if (node->up && sim_node_differs(sim, node)) {
            if (f->role != REPLICA_ROLE_QUARANTINED)
                return false;
            continue;
        }
        if (!node->up || !member || f->exec_seq < sim->quiet_seq)
            return false;
        leader |= f->role == REPLICA_ROLE_LEADER;
    }
    return leader;
}

/* What a node remembers of a retired range is what its runtime executed. */
static void retired_end(struct sim *sim, struct sim_node *node) {
    if (node->seen.facts.exec_seq != node->runtime->exec_seq)
        return;
    for (uint32_t i = 0; i < node->runtime->range_count; i++) {
        const struct sim_runtime_range *state = &node->runtime->ranges[i];
        uint32_t end;
        if (!replica_range_retired(node->replica, state->range, &end))
            continue;
        SIM_COUNT(sim, retired);
        if (state->open || state->position != end)
            sim_fail(sim, "10.5 ranges", "n%u: range %llu retired at %u, its runtime %s at %u",
                     node->index, U(state->range), end, state->open ? "open" : "sealed",
                     state->position);
    }
}

void sim_check_end(struct sim *sim) {
    struct sim_check *c = &sim->checks;
    for (uint32_t i = 0; i < sim_nodes(sim); i++) {
        struct sim_node *node = &sim->nodes[i];
        const char *broken = replica_check(node->replica);
        if (broken)
            sim_fail(sim, "replica_check", "n%u: %s", node->index, broken);
        sim_check_executed(sim, node);
        struct replica_range_facts r;
        for (uint32_t place = 0; replica_range_next(node->replica, &place, &r);) {
            const struct sim_runtime_range *state = sim_runtime_range(node->runtime, r.range);
            if (r.executed != (state ? state->position : 0) && r.executed <= r.committed &&
                node->seen.facts.exec_seq == node->runtime->exec_seq)
                sim_fail(sim, "10.5 ranges", "n%u: range %llu executed %u, its runtime %u", i,
                         U(r.range), r.executed, state ? state->position : 0);
        }
    }
    for (uint32_t i = 0; i < sim_nodes(sim); i++)
        retired_end(sim, &sim->nodes[i]);
    if (c->committed != c->reference->exec_seq && c->committed > c->reference->exec_seq + 64)
        sim_fail(sim, "10.3 execution", "committed %llu, executed %llu", U(c->committed),
                 U(c->reference->exec_seq));
}
