/* Epochs with their bodies out of a peer's journal. Who reads it and who takes them are the
 * programs' own (dump_journal.h, learn_take.h); here are the journal, the way, and the replica. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <maroon/error.h>

#include "controlplane/dump/dump_journal.h"
#include "controlplane/dump/dump_stretch.h"
#include "dataplane/journal/journal_follow.h"
#include "dataplane/stages/learn_take.h"

#define ENOUGH 1 /* what emit returns when the answer is full */
#define STALL_NS (5 * SIM_SECOND)
#define PLACE_SHIFT 5 /* of a record: a mark each 64, of dump_journal's 2,048 */
#define PATIENCE_RECORDS (8 * 64)
#define RECORD_ROOM (sizeof(uint64_t) + WIRE_PACKET_MAX_BYTES)

/* One simulation runs at a time in a thread, one reading at a time in it. */
static _Thread_local const struct sim_journal *reading;

/* ---- what the peer reads ---- */

/* In place of the one that reads files: what was written, stable or not. */
int journal_follow(const char *directory, uint64_t from, journal_follow_fn *each, void *context,
                   char text[JOURNAL_TEXT_BYTES]) {
    static const enum journal_kind kinds[] = {[SIM_RECORD_PROMISE] = JOURNAL_PROMISE,
                                              [SIM_RECORD_EPOCH] = JOURNAL_EPOCH,
                                              [SIM_RECORD_BODY] = JOURNAL_BODY,
                                              [SIM_RECORD_DROP] = JOURNAL_DROP,
                                              [SIM_RECORD_COMMIT] = JOURNAL_COMMIT};
    uint64_t to = reading->writing > reading->stable ? reading->writing : reading->stable;
    (void)directory, (void)text;
    from >>= PLACE_SHIFT;
    for (uint64_t i = from > reading->first ? from : reading->first; i < to; i++) {
        const struct sim_record *record = sim_journal_record(reading, i);
        uint64_t number = record->kind == SIM_RECORD_EPOCH ? record->token : record->id;
        uint8_t bytes[RECORD_ROOM];
        assert(record->length_bytes <= sizeof bytes - sizeof number);
        memcpy(bytes, &number, sizeof number);
        if (record->length_bytes)
            memcpy(bytes + sizeof number, record->bytes, record->length_bytes);
        int error = each(context, kinds[record->kind], i << PLACE_SHIFT, bytes,
                         (uint32_t)sizeof number + record->length_bytes);
        if (error)
            return error;
    }
    return 0;
}

struct answer {
    struct dump_bytes records;
    uint64_t left; /* epochs that fit in */
};

static int answer_add(void *context, uint64_t seq, const struct wire_hash *hash, const void *record,
                      size_t count) {
    struct answer *answer = context;
    (void)seq, (void)hash;
    if (!dump_bytes_add(&answer->records, record, count))
        abort();
    return --answer->left ? 0 : ENOUGH;
}

static void read_from(struct sim *sim, const struct sim_node *from, struct dump_journal *reader,
                      const struct dump_journal_span *span, struct answer *answer) {
    char text[DUMP_TEXT_BYTES];
    reading = &from->journal;
    int error = dump_journal_read(reader, span, answer_add, answer, text);
    if (error == MRN_ERR_CORRUPT || error == MRN_ERR_NO_MEMORY)
        sim_fail(sim, "stretch", "n%u's journal: %s", from->index, text);
}

/* As stretches.c does it: from the last mark that serves. From there comes what would come from the
 * first record, but for bodies that waited for their epoch for very long. */
static void answer_read(struct sim *sim, struct sim_node *from,
                        const struct dump_journal_span *span, struct answer *answer) {
    struct dump_journal whole = {.place = 0};
    struct answer marked = {.left = answer->left};
    if (!from->reader && !(from->reader = calloc(1, sizeof *from->reader)))
        abort();
    from->reader->place = dump_journal_place(from->reader, span->after_seq);
    read_from(sim, from, from->reader, span, &marked);
    read_from(sim, from, &whole, span, answer);
    bool young = from->journal.next - from->journal.first <= PATIENCE_RECORDS;
    size_t both =
        marked.records.count < answer->records.count ? marked.records.count : answer->records.count;
    if ((young && marked.records.count != answer->records.count) ||
        (both && memcmp(marked.records.at, answer->records.at, both) != 0))
        sim_fail(sim, "stretch",
                 "n%u's journal after %llu: %zu bytes from its mark, %zu from the beginning",
                 from->index, (unsigned long long)span->after_seq, marked.records.count,
                 answer->records.count);
    dump_bytes_free(&marked.records);
}

bool sim_stretch_ask(struct sim *sim, struct sim_node *node, struct sim_node *from,
                     uint64_t after_seq) {
    struct sim_random *random = &sim->random[SIM_STREAM_NODE];
    uint64_t most = sim_random_chance(random, 500000) ? 4 : 200;
    struct answer answer = {.left = 1 + sim_random_below(random, most)};
    struct dump_journal_span span = {.after_seq = after_seq,
                                     .to_seq = from->runtime->exec_seq,
                                     .to_hash = from->runtime->epoch_hash,
                                     .digest_key = sim->digest_key};
    if (span.to_seq <= after_seq)
        return false;
    answer_read(sim, from, &span, &answer);
    if (!answer.records.count) {
        dump_bytes_free(&answer.records);
        return false;
    }
    struct sim_stretch *stretch = malloc(sizeof *stretch + answer.records.count);
    if (!stretch)
        abort();
    *stretch = (struct sim_stretch){.count = answer.records.count, .peer = from->index};
    memcpy(stretch->bytes, answer.records.at, answer.records.count);
    dump_bytes_free(&answer.records);
    node->stretched_seq = after_seq;
    sim_at(sim, sim->now_ns + sim_random_exponential(random, 5 * SIM_MS), SIM_EVENT_STRETCH,
           node->index, node->life, 0, stretch);
    return true;
}

/* ---- what is taken of it ---- */

struct taking {
    struct sim *sim;
    struct sim_node *node;
};

static void take_step(void *context, struct replica_event *event) {
    const struct taking *taking = context;
    sim_node_step(taking->sim, taking->node, event);
}

static bool take_store(void *context, uint64_t id, const uint8_t *bytes, uint32_t length_bytes,
                       struct replica_event_body *ret_body) {
    const struct taking *taking = context;
    return sim_node_store(taking->sim, taking->node, id, bytes, length_bytes, ret_body);
}

static bool take_room(void *context, uint32_t bodies) {
    const struct taking *taking = context;
    return taking->node->free_count > bodies + taking->sim->config.replica.body_slots / 4;
}

/* What was taken and is not executed yet is held. */
static void check_taken(const struct taking *taking, const struct dump_record *record) {
    struct replica_facts facts;
    replica_facts(taking->node->replica, &facts);
    uint32_t bytes;
    struct wire_hash hash;
    const uint8_t *epoch = replica_epoch(taking->node->replica, record->seq, &bytes, &hash);
    bool same = epoch && bytes == record->epoch_bytes && !memcmp(epoch, record->epoch, bytes);
    if (record->seq <= facts.exec_seq || !same)
        return;
    const uint8_t *at = record->bodies;
    for (uint32_t i = 0; i < record->body_count; i++) {
        struct dump_body_head head;
        struct wire_digest digest;
        (void)dump_body_next(&at, &head);
        if (replica_body(taking->node->replica, head.id, &digest) == REPLICA_SLOT_NONE)
            sim_fail(taking->sim, "stretch", "n%u took epoch %llu and lacks its body %llx",
                     taking->node->index, (unsigned long long)record->seq,
                     (unsigned long long)head.id);
    }
}

void sim_stretch_arrives(struct sim *sim, struct sim_node *node, struct sim_stretch *stretch) {
    free(node->stretch);
    node->stretch = stretch;
    stretch->moved_ns = sim->now_ns;
    struct replica_event tick = {.kind = REPLICA_EVENT_TICK};
    sim_node_push(sim, node, SIM_ITEM_EVENT, NULL, &tick);
}

static void stretch_end(struct sim *sim, struct sim_node *node, int error) {
    SIM_TRACE(sim, sim_name(node->index), "LEARNED to %llu: %s",
              (unsigned long long)node->seen.facts.commit_seq,
              error ? mrn_error_name(error) : "all of it");
    free(node->stretch);
    node->stretch = NULL;
    node->snapshot_asked = false;
    SIM_COUNT(sim, learned);
}

void sim_stretch_poll(struct sim *sim, struct sim_node *node) {
    struct taking taking = {sim, node};
    while (node->stretch) {
        struct sim_stretch *s = node->stretch;
        const struct learn_shell shell = {.context = &taking,
                                          .replica = node->replica,
                                          .log_epochs = sim->config.replica.log_epochs,
                                          .peer = s->peer,
                                          .step = take_step,
                                          .store = take_store,
                                          .room = take_room};
        struct dump_record record;
        if (s->at == s->count) {
            stretch_end(sim, node, 0);
            return;
        }
        int64_t length = dump_record_next(s->bytes + s->at, s->count - s->at, &record);
        int taken = length > 0 ? learn_take(&shell, &record) : (int)length;
        if (taken == 0 && sim->now_ns - s->moved_ns <= STALL_NS)
            return;
        if (taken <= 0) {
            stretch_end(sim, node, taken ? taken : MRN_ERR_TIMEOUT);
            return;
        }
        SIM_TRACE(sim, sim_name(node->index), "LEARN %llu", (unsigned long long)record.seq);
        check_taken(&taking, &record);
        s->moved_ns = sim->now_ns;
        s->at += (size_t)length;
    }
}
