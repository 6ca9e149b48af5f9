/* What a process does with its journal before the first TICK (replica.h says how), and with
 * snapshots. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#include <maroon/error.h>

#include "dataplane/stages/replay_plan.h"
#include "proto/retired.h"

static void replay_record(struct sim *sim, struct sim_node *node, const struct sim_record *record,
                          uint64_t number) {
    struct replica_event event;
    memset(&event, 0, sizeof event);
    switch (record->kind) {
    case SIM_RECORD_PROMISE:
        event.kind = REPLICA_EVENT_REPLAY_PROMISE;
        event.replay_promise.term = record->id;
        event.replay_promise.token = record->token;
        event.replay_promise.winner = record->winner;
        break;
    case SIM_RECORD_EPOCH:
        event.kind = REPLICA_EVENT_REPLAY_EPOCH;
        event.replay_epoch.bytes = record->bytes;
        event.replay_epoch.length_bytes = record->length_bytes;
        event.replay_epoch.commit_seq = record->token;
        break;
    case SIM_RECORD_BODY:
        event.kind = REPLICA_EVENT_REPLAY_BODY;
        if (!sim_node_store(sim, node, record->id, record->bytes, record->length_bytes,
                            &event.replay_body))
            sim_fail(sim, "body slots", "n%u has no slot for body %llx of its journal", node->index,
                     (unsigned long long)record->id);
        node->slots[event.replay_body.slot].record = number;
        break;
    case SIM_RECORD_COMMIT:
        event.kind = REPLICA_EVENT_REPLAY_COMMIT;
        event.replay_commit.commit_seq = record->id;
        break;
    case SIM_RECORD_DROP: return;
    }
    SIM_TRACE(sim, sim_name(node->index), "replay kind %d id %llx", record->kind,
              (unsigned long long)record->id);
    SIM_COUNT(sim, replayed);
    sim_node_step(sim, node, &event);
}

/* Which bodies it takes: as storage does it. */
static struct replay_plan *plan_of(const struct sim_journal *journal) {
    struct replay_plan *plan = replay_plan_new();
    int error = plan ? 0 : MRN_ERR_NO_MEMORY;
    for (uint64_t i = journal->first; i < journal->next && !error; i++) {
        const struct sim_record *record = sim_journal_record(journal, i);
        switch (record->kind) {
        case SIM_RECORD_PROMISE:
        case SIM_RECORD_COMMIT: break;
        case SIM_RECORD_EPOCH: error = replay_plan_epoch(plan, record->bytes); break;
        case SIM_RECORD_BODY: error = replay_plan_body(plan, record->id); break;
        case SIM_RECORD_DROP:
            if (!MUTANT(shell_drop_ignored))
                error = replay_plan_dropped(plan, MUTANT(shell_drop_of_all) ? UINT64_MAX : i,
                                            record->id, (uint32_t)record->token);
            break;
        }
    }
    if (error)
        abort();
    return plan;
}

/* Is this a record that a replay does not step? */
static bool skipped(const struct replay_plan *plan, const struct sim_record *record,
                    uint64_t number) {
    return record->kind == SIM_RECORD_DROP ||
           (record->kind == SIM_RECORD_COMMIT && MUTANT(shell_commit_ignored)) ||
           (record->kind == SIM_RECORD_BODY && !replay_plan_takes(plan, number, record->id));
}

static void execute(struct sim *sim, struct sim_node *node) {
    while (node->delivered_seq > node->runtime->exec_seq) {
        struct replica_event event = {.kind = REPLICA_EVENT_EXECUTED};
        event.executed.seq = sim_node_execute_one(sim, node, NULL, NULL);
        event.executed.result_hash = sim_runtime_hash(node->runtime);
        sim_node_step(sim, node, &event);
    }
}

/* "It holds at no record more than the process held that wrote it" (replay_plan.h), but for what
 * was executed: that goes when it is in the way. */
static void check_held(struct sim *sim, struct sim_node *node, uint64_t number) {
    uint32_t most = sim_journal_record(&node->journal, number)->held, held = 0;
    if (sim->config.replica.body_slots - node->free_count <= most)
        return;
    for (uint32_t i = 0; i < sim->config.replica.body_slots; i++) {
        const struct sim_slot *slot = &node->slots[i];
        const struct sim_runtime_range *range =
            slot->owned ? sim_runtime_range(node->runtime, wire_tx_range(slot->id)) : NULL;
        held += slot->owned && (!range || wire_tx_offset(slot->id) >= range->position);
    }
    if (held > most)
        sim_fail(sim, "body slots",
                 "n%u holds %u bodies at record %llu of its journal, as it was written %u",
                 node->index, held, (unsigned long long)number, most);
}

void sim_replay(struct sim *sim, struct sim_node *node) {
    struct sim_journal *journal = &node->journal;
    struct replay_plan *plan = plan_of(journal);
    uint64_t end = journal->next; /* restoring may append */
    if (journal->snapshot)
        sim_node_restore(sim, node, journal->snapshot);
    if (journal->promise_kept)
        replay_record(sim, node, &journal->promise, 0);
    for (uint64_t i = journal->first; i < end; i++)
        if (!skipped(plan, sim_journal_record(journal, i), i)) {
            replay_record(sim, node, sim_journal_record(journal, i), i);
            execute(sim, node);
            check_held(sim, node, i);
        } else {
            sim->tally[SIM_TALLY_left_out]++;
        }
    replay_plan_free(plan);
    struct replica_event event = {.kind = REPLICA_EVENT_REPLAY_END};
    sim_node_step(sim, node, &event);
    for (uint64_t i = end; i < journal->next; i++) /* written while the process was half loaded */
        sim_journal_record(journal, i)->held = UINT32_MAX;
    journal->base = journal->next - node->seen.facts.append_position;
}

/* ---- snapshots ---- */

void sim_node_restore(struct sim *sim, struct sim_node *node, const struct sim_runtime *snapshot) {
    sim_runtime_restore(node->runtime, snapshot);
    node->delivered_seq = snapshot->exec_seq;
    struct replica_event event = {.kind = REPLICA_EVENT_RESTORE_RANGE};
    node->restoring = true;
    for (uint32_t i = 0; i < snapshot->range_count; i++) {
        event.restore_range.range = snapshot->ranges[i].range;
        uint64_t owner = snapshot->ranges[i].owner; /* as a runtime keeps it */
        event.restore_range.owner = snapshot->ranges[i].open ? owner : retired_mark(owner);
        event.restore_range.position = snapshot->ranges[i].position;
        event.restore_range.open = snapshot->ranges[i].open;
        sim_node_step(sim, node, &event);
    }
    node->restoring = false;
    event.kind = REPLICA_EVENT_RESTORED;
    event.restored = (struct replica_event_restored){.seq = snapshot->exec_seq,
                                                     .term = snapshot->term,
                                                     .logical_time_us = snapshot->logical_time_us,
                                                     .hash = snapshot->epoch_hash,
                                                     .result_hash = sim_runtime_hash(snapshot)};
    SIM_TRACE(sim, sim_name(node->index), "RESTORED at %llu",
              (unsigned long long)snapshot->exec_seq);
    sim_node_step(sim, node, &event);
}

void sim_node_take_snapshot(struct sim *sim, struct sim_node *node,
                            const struct sim_runtime *snapshot) {
    if (snapshot->exec_seq <= node->runtime->exec_seq ||
        node->seen.facts.role == REPLICA_ROLE_QUARANTINED)
        return;
    SIM_COUNT(sim, snapshot);
    if (sim->config.replica.durable)
        sim_journal_snapshot(&node->journal, snapshot);
    sim_node_restore(sim, node, snapshot);
}

/* The peer that was named, or another. A snapshot of a state that differs is taken from nobody: no
 * checker could tell it from a fault of the replica's. */
static struct sim_node *source(struct sim *sim, const struct sim_node *node, uint8_t peer,
                               bool stretch) {
    uint32_t nodes = sim_nodes(sim);
    if (peer == REPLICA_NODE_NONE)
        peer = (uint8_t)sim_random_below(&sim->random[SIM_STREAM_NODE], nodes);
    for (uint32_t i = 0; i < nodes; i++) {
        struct sim_node *from = &sim->nodes[(peer + i) % nodes];
        if (from != node && (stretch || !sim_node_differs(sim, from)))
            return from;
    }
    return NULL;
}

/* Instead of one whose state differs, who is asked on and on when it leads: who has what is wanted.
 */
static struct sim_node *right_source(struct sim *sim, const struct sim_node *node,
                                     uint64_t after_seq) {
    for (uint8_t i = 0; i < sim_nodes(sim); i++) {
        struct sim_node *from = &sim->nodes[i];
        if (from != node && from->up && from->runtime->exec_seq > after_seq &&
            !sim_node_differs(sim, from) && sim_network_open(sim, i, node->index) &&
            sim_network_open(sim, node->index, i))
            return from;
    }
    return NULL;
}

/* As a control plane does it: epochs of a peer's journal, or its newest snapshot when it has not
 * got those, when a store has a dump, or when the last stretch was of no use. */
void sim_node_snapshot(struct sim *sim, struct sim_node *node, uint8_t peer, uint64_t after_seq) {
    struct sim_random *random = &sim->random[SIM_STREAM_NODE];
    bool stretch = sim_random_chance(random, 800000) && sim->config.replica.durable &&
                   node->stretched_seq != after_seq;
    struct sim_node *from = source(sim, node, peer, stretch);
    node->snapshot_asked = false;
    if (!from || !from->up || !sim_network_open(sim, from->index, node->index) ||
        !sim_network_open(sim, node->index, from->index))
        return;
    if (stretch && sim_stretch_ask(sim, node, from, after_seq)) {
        node->snapshot_asked = true;
        return;
    }
    if (sim_node_differs(sim, from) && !(from = right_source(sim, node, after_seq)))
        return;
    const struct sim_runtime *best = from->runtime;
    if (from->journal.snapshot && from->journal.snapshot->exec_seq > after_seq &&
        sim_random_chance(random, 500000))
        best = from->journal.snapshot;
    if (best->exec_seq <= after_seq)
        return;
    node->snapshot_asked = true;
    sim_at(sim, sim->now_ns + sim_random_exponential(random, 5 * SIM_MS), SIM_EVENT_SNAPSHOT,
           node->index, node->life, 0, sim_runtime_copy(best));
}
