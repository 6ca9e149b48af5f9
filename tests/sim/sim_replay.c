/* What a process does with its journal before the first TICK (replica.h says how). */
#include "tests/sim/sim.h"

#include <string.h>

static void replay_record(struct sim *sim, struct sim_node *node, const struct sim_record *record) {
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
        break;
    case SIM_RECORD_BODY:
        event.kind = REPLICA_EVENT_REPLAY_BODY;
        if (!sim_node_store(sim, node, record->id, record->bytes, record->length_bytes,
                            &event.replay_body))
            sim_fail(sim, "body slots", "n%u has no slot for body %llx of its journal", node->index,
                     (unsigned long long)record->id);
        break;
    }
    SIM_TRACE(sim, sim_name(node->index), "replay kind %d id %llx", record->kind,
              (unsigned long long)record->id);
    sim->replays++;
    sim_node_step(sim, node, &event);
}

/* Is this a body that no epoch of the journal names, while slots are short? It was never
 * acknowledged, and may be one of many that this process had dropped. A later record under an id
 * that was given is given as well: it replaced the earlier one. */
static bool skipped(const struct sim *sim, const struct sim_node *node, const struct sim_map *named,
                    struct sim_map *given, const struct sim_record *record) {
    if (record->kind != SIM_RECORD_BODY)
        return false;
    const uint64_t *end = sim_map_get(named, wire_tx_range(record->id));
    if ((!end || wire_tx_offset(record->id) >= *end) && !sim_map_get(given, record->id) &&
        node->free_count < sim->config.replica.body_slots / 2)
        return true;
    sim_map_put(given, record->id);
    return false;
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

void sim_replay(struct sim *sim, struct sim_node *node) {
    struct sim_journal *journal = &node->journal;
    struct sim_map named, given;
    sim_map_init(&named);
    sim_map_init(&given);
    names(journal, journal->next, &named);
    uint64_t end = journal->next; /* restoring may append */
    if (journal->snapshot)
        sim_node_restore(sim, node, journal->snapshot);
    if (journal->promise_kept)
        replay_record(sim, node, &journal->promise);
    for (uint64_t i = journal->first; i < end; i++)
        if (!skipped(sim, node, &named, &given, sim_journal_record(journal, i)))
            replay_record(sim, node, sim_journal_record(journal, i));
    sim_map_free(&named);
    sim_map_free(&given);
    struct replica_event event = {.kind = REPLICA_EVENT_REPLAY_END};
    sim_node_step(sim, node, &event);
    journal->base = journal->next - node->seen.facts.append_position;
}
