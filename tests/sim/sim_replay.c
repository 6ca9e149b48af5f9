/* What a process does with its journal before the first TICK (replica.h says how). */
#include "tests/sim/sim.h"

#include <string.h>

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
    }
    SIM_TRACE(sim, sim_name(node->index), "replay kind %d id %llx", record->kind,
              (unsigned long long)record->id);
    SIM_COUNT(sim, replayed);
    sim_node_step(sim, node, &event);
}

/* Position up to which epochs of the journal name bodies, per range. */
static void names(const struct sim_journal *journal, uint64_t end, struct sim_map *named) {
    for (uint64_t i = journal->first; i < end; i++) {
        const struct sim_record *record = sim_journal_record(journal, i);
        if (record->kind != SIM_RECORD_EPOCH)
            continue;
        const struct wire_epoch_head *head = (const void *)record->bytes;
        const struct wire_interval *v = wire_epoch_intervals(record->bytes);
        for (uint32_t k = 0; k < head->interval_count; k++) {
            uint64_t *at = sim_map_put(named, wire_tx_range(v[k].first_id));
            uint64_t to = (uint64_t)wire_tx_offset(v[k].first_id) + v[k].count;
            *at = to > *at ? to : *at;
        }
    }
}

/* Is this a body that no epoch of the journal names, so never acknowledged, or one with a newer
 * record? This process may have dropped many of both: they would need more slots than it had. */
static bool skipped(const struct sim_journal *journal, const struct sim_map *named,
                    uint64_t number) {
    const struct sim_record *record = sim_journal_record(journal, number);
    if (record->kind != SIM_RECORD_BODY)
        return false;
    const uint64_t *end = sim_map_get(named, wire_tx_range(record->id));
    return !end || wire_tx_offset(record->id) >= *end ||
           *sim_map_get(&journal->bodies, record->id) != number + 1;
}

static void execute(struct sim *sim, struct sim_node *node) {
    while (node->delivered_seq > node->runtime->exec_seq) {
        struct replica_event event = {.kind = REPLICA_EVENT_EXECUTED};
        event.executed.seq = sim_node_execute_one(sim, node, NULL, NULL);
        event.executed.result_hash = sim_runtime_hash(node->runtime);
        sim_node_step(sim, node, &event);
    }
}

void sim_replay(struct sim *sim, struct sim_node *node) {
    struct sim_journal *journal = &node->journal;
    struct sim_map named;
    sim_map_init(&named);
    names(journal, journal->next, &named);
    uint64_t end = journal->next; /* restoring may append */
    if (journal->snapshot)
        sim_node_restore(sim, node, journal->snapshot);
    if (journal->promise_kept)
        replay_record(sim, node, &journal->promise, 0);
    for (uint64_t i = journal->first; i < end; i++)
        if (!skipped(journal, &named, i)) {
            replay_record(sim, node, sim_journal_record(journal, i), i);
            execute(sim, node);
        }
    sim_map_free(&named);
    struct replica_event event = {.kind = REPLICA_EVENT_REPLAY_END};
    sim_node_step(sim, node, &event);
    journal->base = journal->next - node->seen.facts.append_position;
}

/* Committed epochs out of the peer's journal, some of them or all; their bodies are fetched. */
void sim_node_learn(struct sim *sim, struct sim_node *node, const struct sim_node *from) {
    struct sim_random *random = &sim->random[SIM_STREAM_NODE];
    uint64_t first = node->seen.facts.commit_seq + 1;
    uint64_t last = first + sim_random_below(random, sim_random_chance(random, 500000) ? 4 : 200);
    last = last < from->runtime->exec_seq ? last : from->runtime->exec_seq;
    for (uint64_t seq = first; seq <= last && node->up; seq++) {
        const struct sim_epoch *epoch = &sim->checks.epochs[seq];
        struct replica_event event = {.kind = REPLICA_EVENT_LEARN};
        event.learn.bytes = epoch->bytes;
        event.learn.length_bytes = epoch->length_bytes;
        SIM_TRACE(sim, sim_name(node->index), "LEARN %llu", (unsigned long long)seq);
        sim_node_step(sim, node, &event);
    }
    SIM_COUNT(sim, learned);
}
