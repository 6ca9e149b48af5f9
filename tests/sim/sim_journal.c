/* Stable storage of one node: records with dense positions, syncs that take a while, crashes that
 * lose a suffix of what was not synced (protocol.md §9). In memory mode nothing is appended. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

void sim_journal_init(struct sim_journal *journal) {
    memset(journal, 0, sizeof *journal);
    sim_map_init(&journal->epochs);
    sim_map_init(&journal->bodies);
}

static void forget(struct sim_journal *journal) {
    for (uint64_t i = journal->first; i < journal->next; i++)
        free(sim_journal_record(journal, i)->bytes);
    free(journal->records);
    sim_map_free(&journal->epochs);
    sim_map_free(&journal->bodies);
    free(journal->snapshot);
    free(journal->unfinished);
}

void sim_journal_free(struct sim_journal *journal) {
    forget(journal);
}

void sim_journal_wipe(struct sim_journal *journal) {
    forget(journal);
    sim_journal_init(journal);
}

static struct wire_digest half_hash(const struct wire_hash *hash) {
    struct wire_digest half;
    memcpy(&half.low, hash->bytes, sizeof half.low);
    memcpy(&half.high, hash->bytes + sizeof half.low, sizeof half.high);
    return half;
}

static void index_record(struct sim_journal *journal, uint64_t number) {
    const struct sim_record *record = sim_journal_record(journal, number);
    switch (record->kind) {
    case SIM_RECORD_PROMISE:
    case SIM_RECORD_DROP:
    case SIM_RECORD_COMMIT: break;
    case SIM_RECORD_EPOCH:
        *sim_map_put(&journal->epochs, record->id) = number + 1;
        journal->top_seq = record->id;
        break;
    case SIM_RECORD_BODY: *sim_map_put(&journal->bodies, record->id) = number + 1; break;
    }
}

static void add(struct sim_journal *journal, const struct sim_record *record) {
    if (journal->next - journal->first == journal->room) {
        journal->room = journal->room ? 2 * journal->room : 256;
        journal->records = realloc(journal->records, journal->room * sizeof *journal->records);
        if (!journal->records)
            abort();
    }
    journal->next++;
    *sim_journal_record(journal, journal->next - 1) = *record;
    index_record(journal, journal->next - 1);
}

static uint8_t *copy_bytes(const void *bytes, uint32_t length_bytes) {
    uint8_t *copy = malloc(length_bytes ? length_bytes : 1);
    if (!copy)
        abort();
    memcpy(copy, bytes, length_bytes);
    return copy;
}

void sim_journal_append(struct sim *sim, struct sim_node *node,
                        const struct replica_action *action) {
    struct sim_journal *journal = &node->journal;
    if (!sim->config.replica.durable)
        sim_fail(sim, "action contract", "n%u appends to a journal in memory mode", node->index);
    if (action->position != journal->next - journal->base)
        sim_fail(sim, "action contract", "n%u appends at position %llu, expected %llu", node->index,
                 (unsigned long long)action->position,
                 (unsigned long long)(journal->next - journal->base));
    struct sim_record record = {.kind = SIM_RECORD_PROMISE};
    if (action->kind == REPLICA_ACTION_APPEND_PROMISE) {
        record.id = action->term;
        record.token = action->token;
        record.winner = action->peer;
    } else if (action->kind == REPLICA_ACTION_APPEND_EPOCH) {
        if (wire_epoch_check(action->tail, action->tail_bytes) != WIRE_DROP_NONE)
            sim_fail(sim, "action contract", "n%u appends a malformed epoch", node->index);
        struct wire_hash hash = wire_hash_blake2b(action->tail, action->tail_bytes);
        record.kind = SIM_RECORD_EPOCH;
        record.id = ((const struct wire_epoch_head *)(const void *)action->tail)->seq;
        record.token = action->seq;
        record.digest = half_hash(&hash);
        record.bytes = copy_bytes(action->tail, action->tail_bytes);
        record.length_bytes = action->tail_bytes;
    } else if (action->kind == REPLICA_ACTION_APPEND_DROP) {
        sim->tally[SIM_TALLY_dropped] += action->range != REPLICA_RANGES_ALL;
        record.kind = SIM_RECORD_DROP;
        record.id = action->range;
        record.token = action->end;
    } else if (action->kind == REPLICA_ACTION_APPEND_COMMIT) {
        sim->tally[SIM_TALLY_noted]++;
        record.kind = SIM_RECORD_COMMIT;
        record.id = action->seq;
    } else {
        struct sim_slot *slot = &node->slots[action->slot];
        slot->record = journal->next;
        record.kind = SIM_RECORD_BODY;
        record.id = slot->id;
        record.digest = slot->digest;
        record.bytes = copy_bytes(sim_node_slot_bytes(node, action->slot), slot->length_bytes);
        record.length_bytes = slot->length_bytes;
    }
    record.held = sim->config.replica.body_slots - node->free_count;
    add(journal, &record);
}

static void tell_stable(struct sim *sim, struct sim_node *node, uint64_t number) {
    struct replica_event event = {.kind = REPLICA_EVENT_STABLE};
    event.stable.position = number - node->journal.base;
    sim_node_push(sim, node, SIM_ITEM_EVENT, NULL, &event);
}

void sim_journal_pump(struct sim *sim, struct sim_node *node) {
    struct sim_journal *journal = &node->journal;
    if (journal->writing == journal->next || journal->writes == SIM_WRITES_MAX)
        return;
    if (node->full_until_ns > sim->now_ns) {
        SIM_COUNT(sim, disk_full);
        return;
    }
    struct sim_random *random = &sim->random[SIM_STREAM_DISK];
    uint64_t ns = sim->config.sync_ns / 2 + sim_random_exponential(random, sim->config.sync_ns / 2);
    if (sim_faulty(sim, SIM_FAULT_DISK) && node->sync_slow_until_ns > sim->now_ns) {
        SIM_COUNT(sim, sync_slow);
        ns += sim_random_exponential(random, sim->config.sync_slow_ns);
    }
    if (MUTANT(shell_stable_early))
        tell_stable(sim, node, journal->next);
    journal->writing = journal->next;
    journal->ends[journal->writes++] = journal->next;
    sim_at(sim, sim->now_ns + ns, SIM_EVENT_SYNC, node->index, node->life, journal->next, NULL);
}

static void note_promises(struct sim_journal *journal, uint64_t from) {
    for (uint64_t i = from; i < journal->stable; i++) {
        const struct sim_record *record = sim_journal_record(journal, i);
        if (record->kind == SIM_RECORD_PROMISE && record->id > journal->promised_stable)
            journal->promised_stable = record->id;
    }
}

/* Two writes may be under way and end in either order; what counts is the part without a gap. */
void sim_journal_synced(struct sim *sim, struct sim_node *node, uint64_t number) {
    struct sim_journal *journal = &node->journal;
    uint64_t before = journal->stable;
    if (journal->writes == 2 && journal->ends[1] == number) {
        journal->ends[1] = 0; /* done, but the one before it is not */
        return;
    }
    journal->stable = number;
    if (journal->writes == 2 && journal->ends[1] == 0) {
        journal->stable = journal->writing;
        journal->writes = 0;
    } else {
        journal->ends[0] = journal->ends[1];
        journal->writes--;
    }
    note_promises(journal, before);
    tell_stable(sim, node, journal->stable);
    sim_journal_pump(sim, node);
}

static void index_again(struct sim_journal *journal) {
    sim_map_free(&journal->epochs);
    sim_map_free(&journal->bodies);
    sim_map_init(&journal->epochs);
    sim_map_init(&journal->bodies);
    journal->top_seq = 0;
    for (uint64_t i = journal->first; i < journal->next; i++)
        index_record(journal, i);
}

/* Some prefix of what was not synced survives; recovery makes it stable by reading it. */
void sim_journal_crash(struct sim *sim, struct sim_node *node) {
    struct sim_journal *journal = &node->journal;
    uint64_t loose = journal->next - journal->stable;
    uint64_t kept = sim_random_below(&sim->random[SIM_STREAM_DISK], loose + 1);
    if (sim_random_chance(&sim->random[SIM_STREAM_DISK], 500000))
        kept = 0;
    uint64_t end = journal->stable + kept;
    sim->tally[SIM_TALLY_unsynced_lost] += kept < loose;
    sim->tally[SIM_TALLY_unsynced_kept] += kept > 0;
    sim->tally[SIM_TALLY_snapshot_torn] += journal->unfinished != NULL;
    for (uint64_t i = end; i < journal->next; i++)
        free(sim_journal_record(journal, i)->bytes);
    uint64_t before = journal->stable;
    free(journal->unfinished);
    journal->unfinished = NULL;
    journal->next = journal->stable = journal->writing = end;
    journal->writes = 0;
    note_promises(journal, before);
    index_again(journal);
}

/* Is this record of no use once the snapshot is there? */
static bool covered(const struct sim_record *record, struct sim_runtime *snapshot) {
    switch (record->kind) {
    case SIM_RECORD_PROMISE: /* the newest is kept apart */
    case SIM_RECORD_DROP:    /* of what is before it */
    case SIM_RECORD_COMMIT: return true;
    case SIM_RECORD_EPOCH: return record->id <= snapshot->exec_seq;
    case SIM_RECORD_BODY: {
        const struct sim_runtime_range *range =
            sim_runtime_range(snapshot, wire_tx_range(record->id));
        return range && wire_tx_offset(record->id) < range->position;
    }
    }
    return false;
}

static void drop_below(struct sim_journal *journal, uint64_t cut) {
    for (uint64_t i = journal->first; i < cut; i++) {
        struct sim_record *record = sim_journal_record(journal, i);
        if (record->kind == SIM_RECORD_PROMISE) {
            journal->promise = *record;
            journal->promise_kept = true;
        }
        free(record->bytes);
        record->bytes = NULL;
    }
    memmove(journal->records, sim_journal_record(journal, cut),
            (journal->next - cut) * sizeof *journal->records);
    journal->first = cut;
}

void sim_journal_snapshot(struct sim_journal *journal, const struct sim_runtime *runtime) {
    free(journal->snapshot);
    journal->snapshot = sim_runtime_copy(runtime);
    uint64_t cut = journal->first;
    while (cut < journal->stable && covered(sim_journal_record(journal, cut), journal->snapshot))
        cut++;
    drop_below(journal, cut);
}

/* The oldest record that a replay above this state needs: of a body in a slot, of an epoch above
 * it, or not yet stable. */
void sim_journal_snapshot_begin(struct sim *sim, struct sim_node *node) {
    struct sim_journal *journal = &node->journal;
    if (journal->unfinished)
        return;
    journal->unfinished = sim_runtime_copy(node->runtime);
    uint64_t cut = journal->stable;
    for (uint32_t i = 0; i < sim->config.replica.body_slots; i++)
        if (node->slots[i].owned && node->slots[i].record < cut)
            cut = node->slots[i].record;
    for (uint64_t i = journal->first; i < cut; i++) {
        const struct sim_record *record = sim_journal_record(journal, i);
        if (record->kind == SIM_RECORD_EPOCH && record->id > node->runtime->exec_seq)
            cut = i;
    }
    journal->unfinished_cut = cut;
    uint64_t ns = sim_random_exponential(&sim->random[SIM_STREAM_DISK], sim->config.snapshot_ns);
    sim_at(sim, sim->now_ns + ns, SIM_EVENT_WRITTEN, node->index, node->life, 0, NULL);
}

void sim_journal_snapshot_end(struct sim_journal *journal) {
    if (!journal->snapshot || journal->snapshot->exec_seq < journal->unfinished->exec_seq) {
        free(journal->snapshot);
        journal->snapshot = journal->unfinished;
        if (journal->unfinished_cut > journal->first)
            drop_below(journal, journal->unfinished_cut);
    } else {
        free(journal->unfinished);
    }
    journal->unfinished = NULL;
}

bool sim_journal_epoch_stable(const struct sim_journal *journal, uint64_t seq,
                              const struct wire_hash *hash) {
    if (journal->snapshot && journal->snapshot->exec_seq >= seq)
        return true;
    const uint64_t *number = sim_map_get(&journal->epochs, seq);
    if (!number || seq > journal->top_seq || *number > journal->stable || *number <= journal->first)
        return false;
    return wire_digest_equal(sim_journal_record(journal, *number - 1)->digest, half_hash(hash));
}

bool sim_journal_body_stable(const struct sim_journal *journal, uint64_t id,
                             struct wire_digest *ret_digest) {
    const uint64_t *number = sim_map_get(&journal->bodies, id);
    if (!number || *number > journal->stable || *number <= journal->first)
        return false;
    *ret_digest = sim_journal_record(journal, *number - 1)->digest;
    return true;
}
