#include "dataplane/stages/learn_take.h"

#include <string.h>

#include "dataplane/replica/mutant.h"
#include "maroon/error.h"

static void take_bodies(const struct learn_shell *shell, const struct dump_record *record) {
    const uint8_t *at = record->bodies;
    for (uint32_t i = 0; i < record->body_count; i++) {
        struct dump_body_head head;
        const uint8_t *bytes = dump_body_next(&at, &head);
        if (head.length_bytes < sizeof(struct wire_body_header))
            continue;
        struct replica_event event = {.kind = REPLICA_EVENT_BODY};
        if (!shell->store(shell->context, head.id, bytes, head.length_bytes, &event.body))
            return; /* fetched later */
        event.body.peer = shell->peer;
        shell->step(shell->context, &event);
    }
}

/* Not while another owner's are being let go of, which an epoch's OPEN may have begun. */
static bool takes_bodies(const struct learn_shell *shell, const struct dump_record *record) {
    const struct wire_epoch_head *head = (const void *)record->epoch;
    const struct wire_interval *v = wire_epoch_intervals(record->epoch);
    for (uint32_t i = 0; i < head->interval_count; i++)
        if (!replica_body_taken(shell->replica, v[i].first_id + v[i].count - 1))
            return false;
    return true;
}

/* Three quarters of the log: epochs are let go of from half of it on. */
static bool has_room(const struct learn_shell *shell, const struct replica_facts *facts,
                     uint32_t bodies) {
    return facts->last_seq - facts->base_seq < shell->log_epochs / 4 * 3 &&
           shell->room(shell->context, bodies);
}

/* In our log already, whether we know it to be committed or not. */
static bool is_known(const struct learn_shell *shell, const struct dump_record *record) {
    uint32_t bytes;
    struct wire_hash hash;
    const uint8_t *epoch = replica_epoch(shell->replica, record->seq, &bytes, &hash);
    return epoch && bytes == record->epoch_bytes && !memcmp(epoch, record->epoch, bytes);
}

int learn_take(const struct learn_shell *shell, const struct dump_record *record) {
    struct replica_facts facts;
    replica_facts(shell->replica, &facts);
    if (record->seq <= facts.commit_seq || facts.role == REPLICA_ROLE_LEADER) {
        /* Known, but a body may be in journals only by now. A leader learns no epoch, but it may
         * have adopted this one. */
        if (record->seq <= facts.exec_seq || !is_known(shell, record) || MUTANT(learn_known_passed))
            return 1;
        if (!takes_bodies(shell, record))
            return 0;
        take_bodies(shell, record);
        return 1;
    }
    if (record->seq != facts.commit_seq + 1)
        return MRN_ERR_MISMATCH;
    if (!has_room(shell, &facts, record->body_count))
        return 0;
    struct replica_event event = {.kind = REPLICA_EVENT_LEARN};
    event.learn.bytes = record->epoch;
    event.learn.length_bytes = record->epoch_bytes;
    shell->step(shell->context, &event);
    replica_facts(shell->replica, &facts);
    if (facts.commit_seq != record->seq)
        return MRN_ERR_MISMATCH;
    if (!takes_bodies(shell, record))
        return 0; /* known when it comes again */
    take_bodies(shell, record);
    return 1;
}
