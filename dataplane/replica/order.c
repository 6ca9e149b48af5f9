#include "dataplane/replica/internal.h"

/* ---- follower ---- */

static void take_commit(struct replica *r, uint64_t leader_commit) {
    uint64_t seq = min_u64(leader_commit, MUTANT(commit_unmatched) ? r->last_seq : r->matched);
    if (seq > r->commit_seq)
        replica_log_commit(r, seq);
}

static void aside_keep(struct replica *r, const uint8_t *bytes, uint32_t length) {
    const struct wire_epoch_head *head = (const void *)bytes;
    if (head->seq <= r->last_seq || head->seq > r->last_seq + r->config.epochs_in_flight)
        return;
    struct aside *a = &r->asides[head->seq % r->config.epochs_in_flight];
    a->seq = head->seq;
    a->term = r->promised_term;
    a->length_bytes = length;
    memcpy(a->bytes, bytes, length);
}

enum taken { TAKEN = 0, TAKEN_AGAIN, TAKEN_NOT };

/* "Taking part" of protocol.md §4, one epoch of promised_term's leader. */
static enum taken take(struct replica *r, const uint8_t *bytes, uint32_t length) {
    const struct wire_epoch_head *head = (const void *)bytes;
    uint64_t seq = head->seq;
    if (seq <= r->base_seq)
        return TAKEN; /* committed and executed here */
    if (seq <= r->last_seq) {
        const struct epoch *e = epoch_at(r, seq);
        if (e->length_bytes == length && !memcmp(e->bytes, bytes, length)) {
            if (MUTANT(repeat_cuts) && seq >= r->commit_seq)
                replica_log_truncate(r, seq + 1);
            r->matched = max_u64(r->matched, seq);
            return TAKEN;
        }
    }
    /* "it lacks s-1, or its s-1 has another hash: nothing is cut" */
    if ((MUTANT(gap_cuts) && seq > r->last_seq + 1) ||
        (MUTANT(mismatch_cuts) && seq <= r->last_seq + 1 &&
         memcmp(head->previous_hash, replica_log_hash(r, seq - 1)->bytes,
                sizeof head->previous_hash)))
        replica_log_truncate(r, r->commit_seq + 1);
    if (seq > r->last_seq + 1 || (!MUTANT(previous_hash_unchecked) &&
                                  memcmp(head->previous_hash, replica_log_hash(r, seq - 1)->bytes,
                                         sizeof head->previous_hash)))
        return TAKEN_AGAIN;
    if (seq <= r->last_seq) { /* "its own s differs: s and all above are replaced" */
        if (seq <= r->learned_seq)
            return TAKEN_NOT; /* committed by a later term than ours, which we do not know yet */
        if (seq <= r->commit_seq) {
            replica_fail_stop(r, "the leader proposes another epoch where one is committed here");
            return TAKEN_NOT;
        }
        replica_log_truncate(r, seq);
    }
    switch (replica_log_append(r, bytes, length)) {
    case LOG_OK: break;
    case LOG_FULL: return TAKEN_NOT;
    case LOG_IMPOSSIBLE:
        replica_fail_stop(r, "an epoch does not continue its ranges");
        return TAKEN_NOT;
    }
    r->matched = seq;
    return TAKEN;
}

/* A frame of the leader of `term`: false when the term is old, which is answered. */
static bool leader_frame(struct replica *r, uint8_t peer, uint64_t term) {
    if (term < r->promised_term && !MUTANT(accept_old_term)) {
        struct wire_ack ack = {r->promised_term, 0, r->commit_seq};
        replica_send_frame(r, peer, WIRE_ACK, 0, &ack, sizeof ack, NULL, 0);
        replica_dropped(r, WIRE_DROP_STALE);
        return false;
    }
    if (term > r->promised_term && !MUTANT(accept_without_raise))
        replica_lead_raise_promise(r, term, peer, 0);
    if (r->role == REPLICA_ROLE_LEADER || r->role == REPLICA_ROLE_PREPARING) {
        replica_dropped(r, WIRE_DROP_FRAME_VALUE); /* a second winner of our own term cannot be */
        return false;
    }
    replica_lead_heard(r, peer, term);
    return true;
}

void replica_order_propose_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_propose *propose = (const void *)frame->payload;
    const uint8_t *bytes = frame->payload + sizeof *propose;
    uint32_t length = frame->length_bytes - (uint32_t)sizeof *propose;
    const struct wire_epoch_head *head = (const void *)bytes;
    if (head->configuration_id != r->config.configuration_id || head->term > propose->term) {
        replica_dropped(r, WIRE_DROP_FRAME_VALUE);
        return;
    }
    r->peers[frame->peer].commit_seq =
        max_u64(r->peers[frame->peer].commit_seq, propose->commit_seq);
    if (r->amnesiac) {
        if (propose->term >= r->promised_term)
            replica_lead_heard(r, frame->peer, propose->term);
        return;
    }
    if (!leader_frame(r, frame->peer, propose->term))
        return;
    enum taken taken = take(r, bytes, length);
    if (taken == TAKEN_AGAIN) {
        /* our predecessor differs, and the leader has executed and released its own */
        if (head->seq <= r->last_seq + 1 && head->seq == r->gone_below &&
            r->gone_term == r->promised_term)
            replica_recovery_want_snapshot(r, frame->peer);
        aside_keep(r, bytes, length);
        r->again_due = true;
    }
    while (taken == TAKEN && r->last_seq < r->base_seq + r->config.log_epochs) {
        struct aside *a = &r->asides[(r->last_seq + 1) % r->config.epochs_in_flight];
        if (a->seq != r->last_seq + 1 || a->term != r->promised_term || r->matched != r->last_seq)
            break;
        a->seq = 0;
        if (take(r, a->bytes, a->length_bytes) != TAKEN)
            break;
        r->again_due = false;
    }
    if (r->stopped)
        return;
    take_commit(r, propose->commit_seq);
    r->ack_due = true;
}

void replica_order_heartbeat_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_heartbeat *beat = (const void *)frame->payload;
    r->peers[frame->peer].commit_seq = max_u64(r->peers[frame->peer].commit_seq, beat->commit_seq);
    if (r->amnesiac) {
        if (beat->term >= r->promised_term)
            replica_lead_heard(r, frame->peer, beat->term);
        return;
    }
    bool preparing = frame->flags & WIRE_HEARTBEAT_PREPARING;
    uint64_t heard_before = r->leader_heard_ns;
    if (!leader_frame(r, frame->peer, beat->term))
        return;
    if (preparing) {
        if (beat->progress == r->preparing_progress)
            r->leader_heard_ns = heard_before;
        r->preparing_progress = beat->progress;
        return;
    }
    if (beat->last_seq > r->matched)
        r->again_due = true; /* throttled: proposals under way may still come */
    take_commit(r, beat->commit_seq);
    r->ack_due = true;
}

void replica_order_tick_follower(struct replica *r) {
    if (r->amnesiac || r->leader == REPLICA_NODE_NONE || r->leader == r->config.index)
        return;
    if (r->config.durable && r->promise_position > r->stable_position && !MUTANT(promise_volatile))
        return; /* the promise under which we would acknowledge */
    uint64_t seq = min_u64(MUTANT(ack_unheld) ? r->last_seq : r->acked_seq,
                           MUTANT(ack_unmatched) ? r->last_seq : r->matched);
    bool again = r->again_due && r->now_ns >= r->again_at_ns;
    if (!r->ack_due && !again && seq <= r->ack_sent)
        return;
    if (again) {
        r->again_due = false;
        r->again_at_ns = r->now_ns + max_u64(2 * replica_hop_ns(r), REPEAT_MIN_NS);
    }
    struct wire_ack ack = {r->promised_term, seq, r->commit_seq};
    replica_send_frame(r, r->leader, WIRE_ACK, again ? WIRE_ACK_AGAIN : 0, &ack, sizeof ack, NULL,
                       0);
    r->ack_due = false;
    r->ack_sent = seq;
}

/* ---- leader ---- */

bool replica_control_waiting(struct replica *r, uint8_t kind, uint64_t range, uint64_t value) {
    if (r->control_count == CONTROLS_WAITING_MAX)
        return false;
    r->controls[(r->control_head + r->control_count++) % CONTROLS_WAITING_MAX] =
        (struct wire_control){kind, range, value};
    return true;
}

void replica_order_ack_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_ack *ack = (const void *)frame->payload;
    struct peer *p = &r->peers[frame->peer];
    if (ack->term > r->promised_term) {
        if (!r->amnesiac)
            replica_lead_raise_promise(r, ack->term, REPLICA_NODE_NONE, 0);
        return;
    }
    if (r->role != REPLICA_ROLE_LEADER ||
        (ack->term != r->promised_term && !MUTANT(old_acks_counted))) {
        replica_dropped(r, WIRE_DROP_STALE);
        return;
    }
    p->answered_ns = r->now_ns;
    uint64_t seq = min_u64(ack->seq, r->last_seq);
    if (seq > p->acked) {
        p->acked = seq;
        p->repeat_ns = max_u64(4 * p->rtt_ns, REPEAT_MIN_NS);
        p->repeat_at_ns = r->now_ns + p->repeat_ns;
    }
    if (frame->flags & WIRE_ACK_AGAIN) {
        /* also what it once acknowledged: after a restart it does not know that to be ours */
        p->sent = min_u64(p->sent, max_u64(ack->commit_seq, ack->seq));
        p->again = true;
    }
}

/* What k replicas, ourselves included, acknowledged in our term. */
static uint64_t quorum_acked(const struct replica *r) {
    uint64_t acked[WIRE_NODES_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < peers_count(r); i++) {
        uint64_t seq = i == r->config.index ? r->acked_seq : r->peers[i].acked;
        if (MUTANT(old_acks_kept))
            seq = min_u64(seq, r->last_seq);
        uint32_t at = count++;
        for (; at > 0 && acked[at - 1] < seq; at--)
            acked[at] = acked[at - 1];
        acked[at] = seq;
    }
    return acked[(r->config.quorum - 1) / (MUTANT(quorum_wrong) ? 2 : 1)];
}

/* Commits the highest epoch of our own term that k replicas acknowledged, and with it everything
 * before it. */
void replica_order_quorum(struct replica *r) {
    if (!r->own_first_seq && !MUTANT(old_term_counted))
        return;
    uint64_t seq = quorum_acked(r);
    if ((seq >= r->own_first_seq || MUTANT(old_term_counted)) && seq > r->commit_seq) {
        replica_log_commit(r, seq);
        if (!r->takeover.committed_ns)
            r->takeover.committed_ns = r->now_ns;
        r->next_heartbeat_ns =
            min_u64(r->next_heartbeat_ns, r->now_ns + r->config.vector_interval_ns);
    }
}

/* Leader time follows the monotonic clock and is slewed toward wall time by at most 1/1000
 * (protocol.md §4). */
static uint64_t logical_time(struct replica *r) {
    uint64_t elapsed_us = (r->now_ns - r->leader_time_ns) / 1000;
    if (MUTANT(clock_followed))
        r->leader_time_us = r->wall_us;
    if (MUTANT(time_of_log_ignored))
        return r->leader_time_us;
    if (elapsed_us) {
        r->leader_time_ns += elapsed_us * 1000;
        r->leader_time_us += elapsed_us;
        uint64_t slew = elapsed_us / 1000;
        if (r->wall_us > r->leader_time_us)
            r->leader_time_us += min_u64(slew, r->wall_us - r->leader_time_us);
        else
            r->leader_time_us -= min_u64(slew, r->leader_time_us - r->wall_us);
    }
    return max_u64(replica_log_time(r, r->last_seq) + 1, r->leader_time_us);
}

/* Moves waiting controls into the epoch; a SEAL's end is what the log itself names (protocol.md
 * §8). */
static uint32_t cut_controls(struct replica *r, struct wire_control *controls) {
    uint32_t count = 0;
    while (r->control_count && count < WIRE_EPOCH_CONTROLS_MAX) {
        struct wire_control c = r->controls[r->control_head];
        struct range *g = replica_range_find(r, c.range);
        bool twice = false; /* one control per range and epoch */
        for (uint32_t i = 0; i < count; i++)
            twice |= controls[i].range == c.range;
        if (twice)
            break;
        r->control_head = (r->control_head + 1) % CONTROLS_WAITING_MAX;
        r->control_count--;
        if (!g)
            continue;
        if (c.kind == WIRE_CONTROL_OPEN) {
            g->open_waiting = false;
            if (g->state == RANGE_OPEN || (g->state == RANGE_SEALED && !g->sealed_executed) ||
                !replica_range_openable(r, g))
                continue;
        } else {
            g->seal_waiting = false;
            if (g->state != RANGE_OPEN)
                continue;
            c.value = MUTANT(seal_at_committed) ? g->committed : g->logged;
        }
        controls[count++] = c;
    }
    return count;
}

static bool has_control(const struct wire_control *controls, uint32_t count, uint64_t range) {
    for (uint32_t i = 0; i < count; i++)
        if (controls[i].range == range)
            return true;
    return false;
}

/* Ends at the last whole transaction within `limit` bodies; 0 when the first one is longer. */
static uint32_t whole_transactions(struct replica *r, struct range *g, uint32_t limit) {
    uint32_t available = g->complete - g->logged;
    if (available <= limit || MUTANT(transaction_split))
        return min_u32(available, limit);
    uint32_t offset = g->logged, end = g->logged;
    while (offset < g->logged + limit) { /* walk transactions by their first parts */
        uint16_t parts;
        if (!replica_body_parts(r, g, offset, &parts))
            break;
        uint64_t next = (uint64_t)offset + 1 + parts;
        if (next > WIRE_RANGE_OFFSETS)
            next = (uint64_t)offset + 1;
        if (next > g->logged + (uint64_t)limit)
            break;
        offset = end = (uint32_t)next;
    }
    return end - g->logged;
}

/* Of how many bodies the next epoch may be. A new leader's first stands above epochs that are not
 * committed: whoever is to acknowledge it must have place for the bodies of all of them at once. */
static uint32_t bodies_room(const struct replica *r) {
    uint32_t named = 0, room = replica_slots_room(r);
    for (uint64_t seq = r->commit_seq + 1; !r->own_first_seq && seq <= r->last_seq; seq++)
        named += epoch_at(r, seq)->body_count;
    return min_u32(r->config.epoch_cap, room - min_u32(room, named));
}

static uint32_t cut_intervals(struct replica *r, const struct wire_control *controls,
                              uint32_t control_count, struct wire_interval *intervals,
                              struct wire_digest *digest) {
    uint32_t count = 0, room = bodies_room(r);
    uint32_t turns = room ? min_u32(r->waiting.count, WIRE_EPOCH_INTERVALS_MAX) : 0;
    uint32_t share = turns ? max_u32(1, room / turns) : 0;
    for (uint32_t turn = 0; turn < turns; turn++) {
        struct range *g = &r->ranges[replica_queue_pop(&r->waiting)];
        g->waiting = false;
        if (g->state != RANGE_OPEN || g->complete <= g->logged)
            continue;
        uint32_t limit = min_u32(room, turn + 1 == turns ? room : max_u32(share, 1));
        uint32_t bodies =
            has_control(controls, control_count, g->range) ? 0 : whole_transactions(r, g, limit);
        if (!bodies && limit < room) /* a long transaction may take more than its share */
            bodies =
                has_control(controls, control_count, g->range) ? 0 : whole_transactions(r, g, room);
        if (bodies) {
            struct wire_interval v = {wire_tx_id(g->range, g->logged), (uint16_t)bodies};
            uint32_t at = count++;
            for (; at > 0 && intervals[at - 1].first_id > v.first_id; at--)
                intervals[at] = intervals[at - 1];
            intervals[at] = v;
            bool held = replica_interval_digest(r, &v, digest);
            assert(held);
            room -= bodies;
        }
        if (g->complete > g->logged + bodies)
            replica_queue_push(&r->waiting, range_place(r, g), &g->waiting);
        if (!room)
            break;
    }
    return count;
}

static void propose(struct replica *r) {
    struct wire_control controls[WIRE_EPOCH_CONTROLS_MAX];
    struct wire_interval intervals[WIRE_EPOCH_INTERVALS_MAX];
    uint8_t bytes[WIRE_EPOCH_MAX_BYTES];
    struct wire_digest digest = {0, 0};
    uint32_t control_count = cut_controls(r, controls);
    uint32_t interval_count = cut_intervals(r, controls, control_count, intervals, &digest);
    struct wire_epoch_head head = {
        .seq = r->last_seq + 1,
        .term = r->promised_term,
        .configuration_id = r->config.configuration_id,
        .logical_time_us = logical_time(r),
        .digest_low = digest.low,
        .digest_high = digest.high,
        .control_count = (uint8_t)control_count,
        .interval_count = (uint8_t)interval_count,
    };
    memcpy(head.previous_hash, replica_log_hash(r, r->last_seq)->bytes, sizeof head.previous_hash);
    uint32_t length = wire_epoch_bytes(control_count, interval_count);
    memcpy(bytes, &head, sizeof head);
    memcpy(bytes + sizeof head, controls, control_count * sizeof controls[0]);
    memcpy(bytes + sizeof head + control_count * sizeof controls[0], intervals,
           interval_count * sizeof intervals[0]);
    enum log_outcome outcome = replica_log_append(r, bytes, length);
    assert(outcome == LOG_OK); /* room was checked, and it follows from our own ranges */
    r->last_proposed_ns = r->now_ns;
    if (!r->own_first_seq)
        r->own_first_seq = r->last_seq;
    r->matched = r->last_seq;
}

static bool may_propose(const struct replica *r) {
    if (r->last_seq - r->base_seq >= r->config.log_epochs)
        return false;
    /* The last quarter is for the first epochs of new terms. Leaders that come and go each leave
     * one there, so none begins one before a quorum is seen to be with it. */
    bool quarter = r->last_seq - r->base_seq >= r->config.log_epochs / 4 * 3;
    if (!r->own_first_seq) /* one epoch of the own term at once */
        return !quarter || quorum_acked(r) >= r->last_seq;
    if (quarter)
        return false;
    if (r->commit_seq < r->own_first_seq)
        return false; /* no second until that one is committed */
    if (r->last_seq - r->commit_seq >= r->config.epochs_in_flight)
        return false;
    if (r->waiting.count || r->control_count)
        return true;
    return r->config.idle_epoch_ns && r->now_ns - r->last_proposed_ns >= r->config.idle_epoch_ns;
}

static void send_proposal(struct replica *r, uint8_t peer, uint64_t seq) {
    struct epoch *e = epoch_at(r, seq);
    struct wire_propose propose = {r->promised_term, r->commit_seq};
    replica_send_frame(r, peer, WIRE_PROPOSE, 0, &propose, sizeof propose, e->bytes,
                       e->length_bytes);
}

/* New epochs go to everybody as they are made; to whom they are missing again after repeat_ns,
 * doubling up to a slice. */
static void send_proposals(struct replica *r, uint8_t peer) {
    struct peer *p = &r->peers[peer];
    bool due = r->now_ns >= p->repeat_at_ns;
    if (p->acked >= r->last_seq && !p->again)
        return;
    if (p->again)
        due = false;
    else if (p->sent >= r->last_seq && !due)
        return;
    if (due) {
        p->sent = min_u64(p->sent, max_u64(p->acked, r->base_seq));
        p->repeat_ns = min_u64(p->repeat_ns * 2, r->slice_ns);
        p->repeat_at_ns = r->now_ns + max_u64(p->repeat_ns, REPEAT_MIN_NS);
    }
    if (p->sent < r->base_seq) {
        struct wire_epoch_gone gone = {r->base_seq + 1};
        replica_send_frame(r, peer, WIRE_EPOCH_GONE, 0, &gone, sizeof gone, NULL, 0);
        p->sent = r->base_seq;
    }
    /* A peer that does not answer gets the newest only as often as the rest is repeated. */
    uint64_t limit = max_u64(p->acked, r->base_seq) + 4 * r->config.epochs_in_flight;
    for (uint32_t i = 0; i < TICK_REPEATS_MAX && p->sent < r->last_seq && p->sent < limit; i++)
        send_proposal(r, peer, ++p->sent);
    if (p->sent >= limit)
        p->sent = r->last_seq;
    p->again &= p->sent < r->last_seq;
}

static void send_heartbeat(struct replica *r) {
    struct wire_heartbeat beat = {r->promised_term, r->last_seq, r->commit_seq, 0};
    for (uint8_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i))
            replica_send_frame(r, i, WIRE_HEARTBEAT, 0, &beat, sizeof beat, NULL, 0);
    r->next_heartbeat_ns = r->now_ns + r->config.heartbeat_interval_ns;
}

/* A proposal says all that a heartbeat does; but who does not answer gets few of them. */
static void told_with_proposals(struct replica *r, uint64_t before) {
    for (uint8_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i) &&
            (r->peers[i].sent != before || r->peers[i].acked + r->config.epochs_in_flight < before))
            return;
    r->next_heartbeat_ns = r->now_ns + r->config.heartbeat_interval_ns;
}

void replica_order_tick_leader(struct replica *r) {
    replica_order_quorum(r);
    uint64_t before = r->last_seq;
    for (uint32_t i = 0; i < TICK_PROPOSALS_MAX && may_propose(r); i++)
        propose(r);
    if (r->last_seq != before) {
        replica_log_advance(r);
        replica_order_quorum(r); /* k = 1 */
        for (uint8_t i = 0; i < peers_count(r); i++)
            if (is_peer(r, i) && r->peers[i].acked >= before)
                r->peers[i].repeat_at_ns =
                    r->now_ns + max_u64(r->peers[i].repeat_ns, REPEAT_MIN_NS);
        told_with_proposals(r, before);
    }
    for (uint8_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i))
            send_proposals(r, i);
    if (r->now_ns >= r->next_heartbeat_ns)
        send_heartbeat(r);
}
