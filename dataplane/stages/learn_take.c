#include "dataplane/stages/learn_take.h"

#include <string.h>

#include "dataplane/replica/mutant.h"
#include "maroon/error.h"

/* Are they all held now? Those of an epoch that waits for others are refused when space is short,
 * or when a wrong one is in their place, until it is the next to be held. */
static bool take_bodies(const struct learn_shell *shell, const struct dump_record *record) {
    const uint8_t *at = record->bodies;
    bool all = true;
    for (uint32_t i = 0; i < record->body_count; i++) {
        struct dump_body_head head;
        struct wire_digest held;
        const uint8_t *bytes = dump_body_next(&at, &head);
        if (head.length_bytes < sizeof(struct wire_body_header))
            continue;
        struct replica_event event = {.kind = REPLICA_EVENT_BODY};
        if (!shell->store(shell->context, head.id, bytes, head.length_bytes, &event.body))
            return false;
        struct wire_digest digest = event.body.digest;
        event.body.peer = shell->peer;
        shell->step(shell->context, &event);
        all &= replica_body(shell->replica, head.id, &held) != REPLICA_SLOT_NONE &&
               wire_digest_equal(held, digest);
    }
    return all;
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

/* The epoch that is held next has room kept for it; one further on waits, or what it takes would
 * come in vain, and with another stretch only. */
static bool may_come(const struct learn_shell *shell, const struct replica_facts *facts,
                     const struct dump_record *record) {
    const uint8_t *at = record->bodies;
    uint32_t lacking = 0;
    if (record->seq <= facts->held_seq + 1)
        return true;
    for (uint32_t i = 0; i < record->body_count; i++) {
        struct dump_body_head head;
        struct wire_digest digest;
        (void)dump_body_next(&at, &head);
        lacking += replica_body(shell->replica, head.id, &digest) == REPLICA_SLOT_NONE;
    }
    return !lacking || shell->room(shell->context, lacking);
}

static int take_known(const struct learn_shell *shell, const struct dump_record *record) {
    struct replica_facts facts;
    replica_facts(shell->replica, &facts);
    if (!takes_bodies(shell, record) || !may_come(shell, &facts, record))
        return 0;
    if (take_bodies(shell, record))
        return 1;
    replica_facts(shell->replica, &facts);
    return record->seq <= facts.exec_seq;
}

int learn_take(const struct learn_shell *shell, const struct dump_record *record) {
    struct replica_facts facts;
    replica_facts(shell->replica, &facts);
    if (record->seq <= facts.commit_seq || facts.role == REPLICA_ROLE_LEADER) {
        /* Known, but a body may be in journals only by now. A leader learns no epoch, but it may
         * have adopted this one. */
        if (record->seq <= facts.exec_seq || !is_known(shell, record) || MUTANT(learn_known_passed))
            return 1;
        return take_known(shell, record);
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
    return take_known(shell, record); /* known when it comes again */
}
