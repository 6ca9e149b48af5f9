#include "dataplane/replica/internal.h"

/* ---- amnesia (protocol.md §7) ---- */

/* Asks all for their promise and log; answers name our incarnation and this question. */
static void ask(struct replica *r) {
    r->recover_nonce++;
    for (uint32_t i = 0; i < peers_count(r); i++)
        r->peers[i].answer.given = false;
    struct wire_recover recover = {r->config.incarnation, r->recover_nonce};
    for (uint8_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i))
            replica_send_frame(r, i, WIRE_RECOVER, 0, &recover, sizeof recover, NULL, 0);
    r->recover_at_ns =
        r->now_ns + max_u64(r->slice_ns, min_u64(8 * replica_hop_ns(r), r->config.slice_max_ns));
}

void replica_recovery_recover_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_recover *recover = (const void *)frame->payload;
    struct peer *p = &r->peers[frame->peer];
    if (r->amnesiac || r->stopped || recover->incarnation != frame->incarnation) {
        replica_dropped(r, WIRE_DROP_STALE);
        return;
    }
    /* "first records the new incarnation": frames of older ones are dropped from here on, and its
     * old acknowledgements and promise count for nothing */
    assert(p->incarnation >= frame->incarnation || MUTANT(incarnations_ignored));
    struct wire_recovered answer = {
        .asker_incarnation = recover->incarnation,
        .nonce = recover->nonce,
        .promised_term = r->promised_term,
        .promised_token = r->promised_token,
        .promised_index = r->promised_winner,
        .last_term = replica_log_term(r, r->last_seq),
        .last_seq = r->last_seq,
        .commit_seq = r->commit_seq,
    };
    memcpy(answer.last_hash, replica_log_hash(r, r->last_seq)->bytes, sizeof answer.last_hash);
    for (uint32_t i = 0; i < WIRE_NODES_MAX; i++)
        answer.incarnations[i] =
            i == r->config.index ? r->config.incarnation : r->peers[i].incarnation;
    /* A leader's log counts once an epoch of its own term is in it: before, its log is still being
     * adopted. */
    bool leads = r->role == REPLICA_ROLE_LEADER && r->own_first_seq;
    replica_send_frame(r, frame->peer, WIRE_RECOVERED, leads ? WIRE_RECOVERED_LEADS : 0, &answer,
                       sizeof answer, NULL, 0);
}

/* n-k+1 answers, one of them from the leader of the highest promised term among them. */
static void choose(struct replica *r) {
    uint32_t count = 0;
    uint64_t highest = 0;
    for (uint32_t i = 0; i < peers_count(r); i++)
        if (r->peers[i].answer.given) {
            count++;
            highest = max_u64(highest, r->peers[i].answer.promised_term);
        }
    if (count < (uint32_t)(r->config.node_count - r->config.quorum + 1 - MUTANT(recovery_too_few)))
        return;
    for (uint8_t i = 0; i < peers_count(r); i++) {
        const struct answer *a = &r->peers[i].answer;
        if (!a->given || !a->leads ||
            (a->promised_term != highest && !MUTANT(recovery_any_leader)) ||
            a->last_seq < r->commit_seq)
            continue;
        r->recover_chosen = true;
        r->recover_leader = i;
        r->recover_term = highest;
        r->recover_token = a->promised_token;
        r->recover_seq = a->last_seq;
        r->recover_hash = a->last_hash;
        replica_fetch_epochs(r, FETCH_RECOVER, i, a->last_seq + 1);
        return;
    }
}

void replica_recovery_recovered_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_recovered *recovered = (const void *)frame->payload;
    bool stale = recovered->nonce != r->recover_nonce ||
                 recovered->asker_incarnation != r->config.incarnation;
    if (!r->amnesiac || r->recover_chosen || (stale && !MUTANT(recovery_stale_answers))) {
        replica_dropped(r, WIRE_DROP_STALE);
        return;
    }
    struct answer *a = &r->peers[frame->peer].answer;
    a->given = true;
    a->leads = frame->flags & WIRE_RECOVERED_LEADS;
    a->promised_term = recovered->promised_term;
    a->promised_token = recovered->promised_token;
    a->promised_index = recovered->promised_index;
    a->last_term = recovered->last_term;
    a->last_seq = recovered->last_seq;
    a->commit_seq = recovered->commit_seq;
    memcpy(a->last_hash.bytes, recovered->last_hash, sizeof a->last_hash);
    choose(r);
}

/* The next epoch of the leader's log that we take; its tail may be uncommitted. */
void replica_recovery_epoch(struct replica *r, const uint8_t *bytes, uint32_t length) {
    const struct wire_epoch_head *head = (const void *)bytes;
    if (!r->recover_chosen || head->seq != r->last_seq + 1 || head->seq > r->recover_seq)
        return;
    if (memcmp(head->previous_hash, replica_log_hash(r, r->last_seq)->bytes,
               sizeof head->previous_hash)) {
        replica_fail_stop(r, "the leader's log does not continue what is committed here");
        return;
    }
    if (replica_log_append(r, bytes, length) == LOG_IMPOSSIBLE)
        replica_fail_stop(r, "an epoch of the leader's log does not continue its ranges");
}

void replica_recovery_failed(struct replica *r) {
    r->recover_chosen = false;
    if (r->last_seq > r->commit_seq)
        replica_log_truncate(
            r, r->commit_seq +
                   1); /* an uncommitted tail of a leader that is gone; nobody counted on it */
    r->recover_at_ns = r->now_ns;
}

static void recovered(struct replica *r) {
    r->amnesiac = false;
    r->recover_chosen = false;
    if (r->epoch_fetch.purpose == FETCH_RECOVER)
        r->epoch_fetch.purpose = FETCH_NOTHING;
    r->role = REPLICA_ROLE_FOLLOWER;
    replica_lead_raise_promise(
        r, max_u64(MUTANT(recovery_without_promise) ? 0 : r->recover_term, r->promised_term + 1),
        r->recover_leader, r->recover_token);
    r->leader = r->last_leader = r->recover_leader;
    r->leader_heard_ns = r->now_ns;
    /* Up to there it is that leader's log; what is committed is every later leader's. */
    r->matched = max_u64(r->recover_seq, r->commit_seq);
}

/* The answers were given before a newer term began: what was learned since does not fit them. */
static bool answers_stale(struct replica *r) {
    if (replica_log_term(r, r->last_seq) > r->recover_term || r->last_frame_term > r->recover_term)
        return true; /* also: a later leader speaks, who may not have that log's tail */
    return r->last_seq >= r->recover_seq && r->recover_seq >= r->base_seq &&
           memcmp(replica_log_hash(r, r->recover_seq), &r->recover_hash, sizeof r->recover_hash);
}

void replica_recovery_tick(struct replica *r) {
    if (!r->amnesiac || r->stopped || peers_count(r) == 1)
        return;
    if (r->recover_chosen) {
        if (answers_stale(r)) {
            replica_recovery_failed(r);
            return;
        }
        /* "recovered when it holds every body, and the snapshot, that this log needs" */
        if (r->last_seq >= r->recover_seq &&
            (r->acked_seq >= r->recover_seq || MUTANT(recovery_without_bodies)))
            recovered(r);
        else if (r->now_ns - r->leader_heard_ns > 4 * r->slice_ns &&
                 r->epoch_fetch.purpose != FETCH_RECOVER)
            replica_recovery_failed(r);
        return;
    }
    if (r->now_ns >= r->recover_at_ns)
        ask(r);
}

/* "If more memories are lost than n-k": who could answer is too few, for good. */
bool replica_recovery_lost(const struct replica *r) {
    uint32_t gone = r->amnesiac;
    for (uint32_t i = 0; i < peers_count(r); i++)
        gone += is_peer(r, i) && r->peers[i].pong_ns && r->peers[i].pong_amnesiac;
    return gone > (uint32_t)(r->config.node_count - r->config.quorum) && gone >= r->config.quorum;
}

/* ---- snapshots ---- */

void replica_recovery_want_snapshot(struct replica *r, uint8_t peer) {
    if (replica_quarantined(r) || (r->now_ns < r->snapshot_at_ns && r->snapshot_wanted))
        return;
    r->snapshot_wanted = true;
    r->snapshot_at_ns = r->now_ns + 10 * r->config.slice_max_ns;
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_NEED_SNAPSHOT);
    a->seq = r->exec_seq;
    a->peer = peer;
}

/* What a peer executed is committed, whoever leads now: a learner takes it as it takes committed
 * epochs from anybody's memory, a voter as from a snapshot. What is here at its place and differs
 * was never committed. */
void replica_recovery_learn(struct replica *r, const uint8_t *bytes, uint32_t length) {
    const struct wire_epoch_head *head = (const void *)bytes;
    uint64_t seq = head->seq;
    if (replica_quarantined(r) || r->role == REPLICA_ROLE_LEADER ||
        r->role == REPLICA_ROLE_PREPARING || head->configuration_id != r->config.configuration_id ||
        seq != r->commit_seq + 1)
        return;
    if (memcmp(head->previous_hash, replica_log_hash(r, seq - 1)->bytes,
               sizeof head->previous_hash))
        return; /* of another history: the shell sees that it was not taken */
    if (r->promised_term < head->term && !r->amnesiac)
        replica_lead_raise_promise(r, head->term, REPLICA_NODE_NONE, 0);
    bool here = seq <= r->last_seq && epoch_at(r, seq)->length_bytes == length &&
                !memcmp(epoch_at(r, seq)->bytes, bytes, length);
    if (!here) {
        if (seq <= r->last_seq)
            replica_log_truncate(r, seq);
        switch (replica_log_append(r, bytes, length)) {
        case LOG_OK: break;
        case LOG_FULL: return;
        case LOG_IMPOSSIBLE:
            replica_fail_stop(r, "a committed epoch does not continue its ranges");
            return;
        }
    }
    replica_log_commit(r, seq);
    r->learned_seq = seq;
    r->snapshot_wanted = false;
    if (r->epoch_fetch.purpose == FETCH_LEARN)
        r->epoch_fetch.purpose = FETCH_NOTHING; /* begins anew from here */
}

/* Whose bodies lie above what the log names. */
static uint64_t bodies_owner(const struct range *g) {
    return g->state == RANGE_OPEN || (g->state == RANGE_SEALED && !g->sealed_executed)
               ? g->owner
               : g->hello_owner;
}

/* A range that changed hands between what was here and the snapshot: what is above is not the new
 * owner's. */
static void purge_other_owners(struct replica *r) {
    for (uint32_t i = 0; i < r->range_count; i++) {
        struct range *g = &r->ranges[i];
        if (g->held_from != bodies_owner(g))
            replica_range_purge(r, g);
    }
}

void replica_recovery_restore_range(struct replica *r, uint64_t range, uint64_t owner,
                                    uint32_t position, bool open) {
    if (!open && !replica_range_find(r, range)) {
        if (!replica_retired_put(r, range, position, retired_mark(owner)))
            replica_fail_stop(r, "a snapshot holds more sealed ranges than this node may remember");
        return;
    }
    struct range *g = replica_range_get_for_log(r, range);
    if (!g) {
        replica_fail_stop(r, "a snapshot holds more ranges than ranges_max allows");
        return;
    }
    if (position < g->executed)
        return; /* we have gone further; RESTORED will say the same */
    g->held_from = bodies_owner(g);
    /* What is held below the snapshot is of no more use; what is above stays. */
    if (g->below_from == g->below_to)
        g->below_from = g->released;
    g->below_to = max_u32(g->below_from, min_u32(position, g->highest));
    r->purge_place = 0;
    g->restored = true;
    g->owner = g->executed_owner = owner;
    g->previous_owner = 0;
    g->state = open ? RANGE_OPEN : RANGE_SEALED;
    g->sealed_executed = !open;
    g->logged = g->committed = g->executed = g->released = position;
    g->named = max_u32(g->named, position);
    if (g->received < position)
        g->received = g->complete = g->tx_end = position;
    g->highest = max_u32(g->highest, g->received);
    replica_range_advance(r, g);
    replica_range_mark(r, g);
}

/* Ranges that the snapshot does not know were opened above it. */
static void forget_other_ranges(struct replica *r) {
    for (uint32_t i = 0; i < r->range_count; i++) {
        struct range *g = &r->ranges[i];
        if (!g->restored) {
            g->held_from = bodies_owner(g);
            g->state = RANGE_UNOPENED;
            g->owner = g->executed_owner = g->previous_owner = 0;
            g->sealed_executed = false;
            g->logged = g->committed = g->executed = g->released = g->named = 0;
        }
    }
}

void replica_recovery_restored(struct replica *r, const struct replica_event_restored *restored) {
    uint64_t seq = restored->seq;
    r->snapshot_wanted = false;
    if (seq <= r->exec_seq) {
        for (uint32_t i = 0; i < r->range_count; i++)
            r->ranges[i].restored = false;
        return; /* we have gone further by ourselves */
    }
    /* What was acknowledged or committed above the snapshot is never forgotten. */
    bool keep = seq >= r->base_seq && seq <= r->last_seq &&
                !memcmp(replica_log_hash(r, seq), &restored->hash, sizeof restored->hash);
    if (!keep && seq < r->commit_seq) {
        replica_fail_stop(r, "a snapshot differs from what is committed here");
        return;
    }
    if (!keep || !MUTANT(restore_keeps_opened))
        forget_other_ranges(r); /* what is kept above opens them again */
    if (!keep) {
        r->last_seq = r->held_seq = r->acked_seq = r->commit_seq = seq;
        r->matched = seq;
    }
    r->base_seq = r->delivered_seq = r->exec_seq = seq;
    r->noted_stable = max_u64(r->noted_stable, seq); /* the snapshot is stable */
    r->commit_seq = max_u64(r->commit_seq, seq);
    r->held_seq = max_u64(r->held_seq, seq);
    r->acked_seq = max_u64(r->acked_seq, seq);
    r->matched = max_u64(r->matched, seq);
    r->base_term = restored->term;
    r->base_time_us = restored->logical_time_us;
    r->base_hash = restored->hash;
    r->base_result_hash = restored->result_hash;
    r->release_interval = r->release_offset = 0;
    if (keep)
        replica_log_apply_above_base(r);
    purge_other_owners(r);
    for (uint32_t i = 0; i < r->range_count; i++)
        r->ranges[i].restored = false;
    for (uint32_t i = 0; !keep && i < r->range_count; i++)
        r->ranges[i].named = r->ranges[i].logged;
    if (!keep) {
        r->recover_chosen = false;
        r->epoch_fetch.purpose = FETCH_NOTHING;
    }
    if (r->promised_term < restored->term && !r->amnesiac && !MUTANT(promise_below_log))
        replica_lead_raise_promise(r, restored->term, REPLICA_NODE_NONE, 0);
    if (r->role == REPLICA_ROLE_NEEDS_BOOTSTRAP)
        r->role = r->amnesiac ? REPLICA_ROLE_LEARNER : REPLICA_ROLE_FOLLOWER;
    r->vector_news = true;
}

/* ---- the journal's records, in its order, before the first TICK ---- */

void replica_recovery_replay_epoch(struct replica *r, const uint8_t *bytes, uint32_t length,
                                   uint64_t commit_seq) {
    const struct wire_epoch_head *head = (const void *)bytes;
    if (head->seq <= r->base_seq)
        return; /* covered by the snapshot, or executed */
    replica_log_replay_commit(r, commit_seq);
    if (head->seq <= r->commit_seq) {
        replica_fail_stop(r, "the journal replaces an epoch that it calls committed");
        return;
    }
    if (head->seq <= r->last_seq)
        replica_log_truncate(r, head->seq); /* "its journal record is itself the cut" */
    bool follows = head->seq == r->last_seq + 1 &&
                   !memcmp(head->previous_hash, replica_log_hash(r, r->last_seq)->bytes,
                           sizeof head->previous_hash);
    if (!follows) {
        if (r->last_seq != r->base_seq) /* else: of a branch that the snapshot's epochs replaced */
            replica_fail_stop(r, "the journal's epochs are not one chain");
        return;
    }
    if (replica_log_append(r, bytes, length) != LOG_OK)
        replica_fail_stop(r, "an epoch of the journal does not continue its ranges");
    if (r->promised_term < head->term)
        r->promised_term = head->term; /* "never below the term of the last epoch held" */
}

void replica_recovery_replay_end(struct replica *r) {
    r->loading = false;
    if (MUTANT(tail_executed))
        replica_log_commit(r, r->last_seq);
    /* An amnesiac took it from a leader that may be gone; it acknowledged nothing of it. */
    if (r->amnesiac && r->last_seq > r->commit_seq)
        replica_log_truncate(r, r->commit_seq + 1);
    for (uint32_t i = 0; i < r->range_count;
         i++) /* whose bodies these are, nobody knows any more */
        replica_range_purge(r, &r->ranges[i]);
    r->noted_stable = max_u64(r->noted_stable, r->commit_seq);
    r->learned_seq = r->commit_seq; /* on whose word is not written down */
    /* What was left out of this replay is left out of the next, too. */
    if (r->config.durable && !MUTANT(drop_of_start_unjournalled)) {
        struct replica_action *a = replica_action_new(r, REPLICA_ACTION_APPEND_DROP);
        a->range = REPLICA_RANGES_ALL;
        a->position = r->append_position++;
    }
    replica_log_advance(r);
}
