#include "dataplane/replica/internal.h"

/* ---- promises ---- */

void replica_lead_step_down(struct replica *r) {
    if (r->role != REPLICA_ROLE_LEADER && r->role != REPLICA_ROLE_PREPARING)
        return;
    r->role = REPLICA_ROLE_FOLLOWER;
    r->own_first_seq = 0;
    r->adopting = false;
    r->control_count = 0;
    for (uint32_t i = 0; i < r->range_count; i++)
        r->ranges[i].open_waiting = r->ranges[i].seal_waiting = false;
    if (r->epoch_fetch.purpose == FETCH_ADOPT)
        r->epoch_fetch.purpose = FETCH_NOTHING;
    r->leader = REPLICA_NODE_NONE;
}

/* Promises `term` to `winner`: nothing of an older term is taken part in from here on. */
void replica_lead_raise_promise(struct replica *r, uint64_t term, uint8_t winner, uint64_t token) {
    assert(term > r->promised_term && !r->amnesiac);
    if (!MUTANT(leads_on))
        replica_lead_step_down(r);
    replica_slice_deposed(r);
    r->leader_heard_ns = r->now_ns; /* whoever it is, it has its turn */
    r->promised_term = term;
    r->promised_winner = winner;
    r->promised_token = token;
    r->promise_due = false;
    if (!MUTANT(matched_kept))
        r->matched = r->commit_seq; /* "commit_seq whenever promised_term changes" */
    r->ack_sent = 0;
    r->leader = REPLICA_NODE_NONE;
    if (r->config.durable && !MUTANT(promise_unjournalled)) {
        struct replica_action *a = replica_action_new(r, REPLICA_ACTION_APPEND_PROMISE);
        a->term = term;
        a->token = token;
        a->peer = winner;
        a->position = r->append_position++;
        r->promise_position = r->append_position;
    }
}

static bool promise_stable(const struct replica *r) {
    return !r->config.durable || MUTANT(promise_volatile) ||
           r->promise_position <= r->stable_position;
}

/* ---- the ring and its delays ---- */

static uint8_t ring_place(const struct replica *r, uint8_t node) {
    for (uint8_t i = 0; i < r->config.node_count; i++)
        if (r->config.ring[i] == node)
            return i;
    return 0;
}

/* Ring distance from the last leader, who has n itself; at the first start from the ring's
 * beginning, plus one. */
uint8_t replica_lead_distance(const struct replica *r) {
    uint8_t n = r->config.node_count, mine = ring_place(r, r->config.index);
    if (r->last_leader == REPLICA_NODE_NONE)
        return (uint8_t)(mine + 1);
    uint8_t last = ring_place(r, r->last_leader);
    uint8_t distance = (uint8_t)((mine + n - last) % n);
    return distance ? distance : n;
}

/* ---- campaign ---- */

static void campaign(struct replica *r, bool at_once) {
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_CAMPAIGN);
    a->revision = r->key_revision;
    a->outcome = at_once;
    replica_slice_takeover(r);
    r->campaigning = true;
}

static void ping_all(struct replica *r) {
    struct wire_ping ping = {r->promised_term, r->now_ns};
    for (uint8_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i))
            replica_send_frame(r, i, WIRE_PING, 0, &ping, sizeof ping, NULL, 0);
}

/* "Only if k nodes (itself counted) told it within the last slice that they hear no leader either."
 */
static bool nobody_hears(struct replica *r, bool *ret_better) {
    uint32_t silent = 1;
    *ret_better = false;
    uint64_t term = replica_log_term(r, r->acked_seq);
    for (uint32_t i = 0; i < peers_count(r); i++) {
        const struct peer *p = &r->peers[i];
        if (!is_peer(r, i) || !p->pong_ns || r->now_ns - p->pong_ns > r->slice_ns)
            continue;
        if (p->ping_ns < r->stood_ns) /* it may have been true then */
            continue;
        silent += !p->pong_hears_leader;
        if (p->pong_last_term > term ||
            (p->pong_last_term == term && p->pong_last_seq > r->acked_seq))
            *ret_better = true;
    }
    return silent >= r->config.quorum;
}

static void follower_tick(struct replica *r) {
    if (r->amnesiac || replica_quarantined(r) || r->role != REPLICA_ROLE_FOLLOWER ||
        r->campaigning || !r->key_known || replica_lead_hears(r))
        return;
    if (!r->silence.silent_ns)
        r->silence.silent_ns = r->now_ns;
    if (r->now_ns - r->leader_heard_ns < replica_slice_delay_ns(r))
        return;
    bool better;
    if (!nobody_hears(r, &better))
        return;
    if (!r->silence.alone_ns)
        r->silence.alone_ns = r->now_ns;
    if (better && !r->extra_waited) {
        r->extra_waited = true;
        r->extra_until_ns = r->now_ns + 2 * r->turn_ns;
    }
    if (r->now_ns >= r->extra_until_ns)
        campaign(r, false);
}

void replica_lead_key(struct replica *r, uint64_t revision, uint64_t term, uint8_t node,
                      bool ours) {
    (void)term;
    r->key_known = true;
    r->key_revision = node == REPLICA_NODE_NONE ? 0 : revision;
    r->key_ours = ours;
    if (node != REPLICA_NODE_NONE && r->last_leader == REPLICA_NODE_NONE &&
        node < r->config.node_count && !ours && r->promised_term == 0)
        r->leader_heard_ns = r->now_ns; /* somebody has just taken it: give it its turn */
}

static void own_promise(struct replica *r) {
    struct promise *p = &r->peers[r->config.index].promise;
    p->given = true;
    p->incarnation = r->config.incarnation;
    p->last_seq = r->acked_seq;
    p->last_term = replica_log_term(r, r->acked_seq);
    p->last_hash = *replica_log_hash(r, r->acked_seq);
    p->commit_seq = r->commit_seq;
    p->wall_us = r->wall_us;
    for (uint32_t i = 0; i < WIRE_NODES_MAX; i++)
        p->incarnations[i] = r->peers[i].incarnation;
}

void replica_lead_campaign_result(struct replica *r, uint64_t revision, uint64_t term,
                                  uint64_t token, bool won, bool late) {
    if (!late)
        r->campaigning = MUTANT(loser_gives_up) && !won;
    if (!won) { /* "a loser resets its timer" */
        r->leader_heard_ns = r->now_ns;
        r->silence.silent_ns = r->silence.alone_ns = 0;
        return;
    }
    r->key_known = true;
    r->key_revision = r->own_revision = revision;
    bool again = MUTANT(term_resumed) && term == r->promised_term;
    if (r->amnesiac || replica_quarantined(r) || (term <= r->promised_term && !again) ||
        r->stopped) { /* won, but promised higher: give it back */
        replica_action_new(r, REPLICA_ACTION_RESIGN)->revision = revision;
        return;
    }
    if (!again)
        replica_lead_raise_promise(r, term, r->config.index, token);
    r->role = REPLICA_ROLE_PREPARING;
    r->leader = r->config.index;
    r->won_ns = r->takeover.won_ns = r->now_ns;
    r->takeover.term = term;
    r->takeover.heard_ns = r->silence.heard_ns; /* also after CAMPAIGN, as in a hand-over */
    r->prepare_ns = REPEAT_MIN_NS;
    r->prepare_at_ns = r->now_ns;
    r->progress = 1;
    r->adopting = false;
    for (uint32_t i = 0; i < peers_count(r); i++)
        r->peers[i].promise.given = false;
}

/* ---- PREPARE, PROMISE ---- */

static void send_promise(struct replica *r, uint8_t peer, uint64_t term, uint64_t token,
                         bool refused) {
    struct wire_promise promise = {
        .term = term,
        .token = token,
        .promised_term = r->promised_term,
        .last_term = replica_log_term(r, r->acked_seq), /* "the last epoch it could acknowledge" */
        .last_seq = r->acked_seq,
        .commit_seq = r->commit_seq,
        .wall_clock_us = r->wall_us,
    };
    memcpy(promise.last_hash, replica_log_hash(r, r->acked_seq)->bytes, sizeof promise.last_hash);
    for (uint32_t i = 0; i < WIRE_NODES_MAX; i++)
        promise.incarnations[i] =
            i == r->config.index ? r->config.incarnation : r->peers[i].incarnation;
    replica_send_frame(r, peer, WIRE_PROMISE, refused ? WIRE_PROMISE_REFUSED : 0, &promise,
                       sizeof promise, NULL, 0);
}

void replica_lead_prepare_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_prepare *prepare = (const void *)frame->payload;
    if (r->amnesiac || r->stopped)
        return;
    uint64_t term = prepare->term, token = prepare->token;
    if (term > r->promised_term)
        replica_lead_raise_promise(r, term, frame->peer, token);
    else if (term < r->promised_term || r->promised_winner != frame->peer ||
             r->promised_token != token) {
        send_promise(r, frame->peer, term, token, true);
        return;
    }
    r->leader_heard_ns = r->now_ns;
    r->promise_due = true;
}

static bool outdated(const struct replica *r, uint8_t sender) {
    if (MUTANT(incarnations_ignored))
        return false;
    uint64_t incarnation = r->peers[sender].promise.incarnation;
    for (uint32_t i = 0; i < peers_count(r); i++)
        if (r->peers[i].promise.given && r->peers[i].promise.incarnations[sender] > incarnation &&
            !MUTANT(incarnations_local))
            return true;
    return sender != r->config.index && r->peers[sender].incarnation > incarnation;
}

/* Logical time starts at the greater of the log's and the lower median of the wall clocks in the k
 * promises: of those that adoption began with, since one may be forgotten before it ends. */
static uint64_t wall_median(const struct replica *r) {
    uint64_t walls[WIRE_NODES_MAX];
    uint32_t count = 0;
    for (uint32_t i = 0; i < peers_count(r); i++) {
        if (!r->peers[i].promise.given)
            continue;
        uint32_t at = count++;
        for (; at > 0 && walls[at - 1] > r->peers[i].promise.wall_us; at--)
            walls[at] = walls[at - 1];
        walls[at] = r->peers[i].promise.wall_us;
    }
    assert(count > 0);
    return walls[MUTANT(clock_greatest) ? count - 1 : (count - 1) / 2];
}

static void clock_start(struct replica *r) {
    r->leader_time_us = max_u64(replica_log_time(r, r->last_seq), r->adopt_wall_us);
    r->leader_time_ns = r->now_ns;
}

static void established(struct replica *r) {
    if (r->last_seq > r->adopt_seq)
        replica_log_truncate(r, r->adopt_seq + 1); /* "cuts what lies above" */
    r->adopting = false;
    r->role = REPLICA_ROLE_LEADER;
    r->takeover.established_ns = r->now_ns;
    r->leader = r->last_leader = r->config.index;
    r->own_first_seq = 0;
    r->matched = r->last_seq;
    r->takeovers++;
    r->control_count = 0;
    r->next_heartbeat_ns = r->now_ns;
    r->able_seq = r->held_seq;
    r->able_ns = r->now_ns;
    clock_start(r);
    for (uint32_t i = 0; i < peers_count(r); i++) {
        struct peer *p = &r->peers[i];
        p->acked = MUTANT(old_acks_kept) ? p->acked : 0;
        p->sent = r->commit_seq;
        p->repeat_ns = max_u64(4 * p->rtt_ns, REPEAT_MIN_NS);
        p->repeat_at_ns = r->now_ns + p->repeat_ns;
        p->answered_ns = r->now_ns;
    }
    for (uint32_t i = 0; i < r->range_count; i++)
        replica_range_mark(r, &r->ranges[i]); /* who waits is known again */
}

static void adopt_or_establish(struct replica *r) {
    uint8_t best = REPLICA_NODE_NONE;
    uint32_t count = 0;
    for (uint8_t i = 0; i < peers_count(r); i++) {
        const struct promise *p = &r->peers[i].promise;
        if (!p->given || outdated(r, i))
            continue;
        count++;
        const struct promise *b = best == REPLICA_NODE_NONE ? NULL : &r->peers[best].promise;
        bool greater =
            !b || (p->last_term > b->last_term && !MUTANT(longest_log)) ||
            ((p->last_term == b->last_term || MUTANT(longest_log)) && p->last_seq > b->last_seq);
        if (greater ||
            (p->last_term == b->last_term && p->last_seq == b->last_seq && i == r->config.index))
            best = i;
    }
    if (count + MUTANT(promises_too_few) < r->config.quorum ||
        !r->peers[r->config.index].promise.given)
        return;
    if (MUTANT(adoption_skipped))
        best = r->config.index;
    const struct promise *b = &r->peers[best].promise;
    r->adopt_source = best;
    r->adopt_seq = b->last_seq;
    r->adopt_hash = b->last_hash;
    r->adopt_from = 0;
    r->adopt_wall_us = wall_median(r);
    r->adopting = true;
    r->progress++;
    r->takeover.promised_ns = r->now_ns;
    bool have = b->last_seq >= r->base_seq && b->last_seq <= r->last_seq &&
                !memcmp(replica_log_hash(r, b->last_seq), &b->last_hash, sizeof b->last_hash);
    if (have)
        established(r);
    else if (b->last_seq < r->commit_seq)
        replica_fail_stop(r, "a quorum's best log ends below what is committed here");
    else {
        if (MUTANT(adoption_cuts_first))
            replica_log_truncate(r, r->commit_seq + 1);
        replica_fetch_epochs(r, FETCH_ADOPT, best, b->last_seq + 1);
    }
}

void replica_lead_promise_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_promise *promise = (const void *)frame->payload;
    if (promise->promised_term > r->promised_term && !r->amnesiac) {
        bool held = r->role == REPLICA_ROLE_PREPARING || r->role == REPLICA_ROLE_LEADER;
        replica_lead_raise_promise(r, promise->promised_term, REPLICA_NODE_NONE, 0);
        if (held)
            replica_action_new(r, REPLICA_ACTION_RESIGN)->revision = r->own_revision;
        return;
    }
    if (r->role != REPLICA_ROLE_PREPARING || promise->term != r->promised_term ||
        promise->token != r->promised_token || (frame->flags & WIRE_PROMISE_REFUSED)) {
        replica_dropped(r, WIRE_DROP_STALE);
        return;
    }
    struct promise *p = &r->peers[frame->peer].promise;
    bool news = !p->given || p->incarnation != frame->incarnation;
    p->given = true;
    p->incarnation = frame->incarnation;
    p->last_term = promise->last_term;
    p->last_seq = promise->last_seq;
    memcpy(p->last_hash.bytes, promise->last_hash, sizeof p->last_hash);
    p->commit_seq = promise->commit_seq;
    p->wall_us = promise->wall_clock_us;
    memcpy(p->incarnations, promise->incarnations, sizeof p->incarnations);
    r->peers[frame->peer].answered_ns = r->now_ns;
    if (news && !r->adopting)
        adopt_or_establish(r);
}

/* The next epoch of the log that is adopted, in order, starting at our commit_seq + 1. */
void replica_lead_adopted_epoch(struct replica *r, const uint8_t *bytes, uint32_t length) {
    const struct wire_epoch_head *head = (const void *)bytes;
    uint64_t seq = head->seq;
    if (r->role != REPLICA_ROLE_PREPARING || !r->adopting ||
        seq != max_u64(r->matched + 1, r->adopt_from) || seq > r->adopt_seq)
        return;
    if (memcmp(head->previous_hash, replica_log_hash(r, seq - 1)->bytes,
               sizeof head->previous_hash))
        return;
    bool same = false;
    if (seq <= r->last_seq) {
        const struct epoch *e = epoch_at(r, seq);
        same = e->length_bytes == length && !memcmp(e->bytes, bytes, length);
    }
    if (!same) {
        if (seq <= r->last_seq)
            replica_log_truncate(r, seq);
        enum log_outcome outcome = replica_log_append(r, bytes, length);
        if (outcome == LOG_IMPOSSIBLE)
            replica_fail_stop(r, "an adopted epoch does not continue its ranges");
        if (outcome != LOG_OK)
            return;
    }
    r->matched = seq;
    r->progress++;
    if (seq != r->adopt_seq)
        return;
    if (memcmp(replica_log_hash(r, seq), &r->adopt_hash, sizeof r->adopt_hash))
        replica_fail_stop(r, "the adopted log does not end as it was promised");
    else
        established(r);
}

/* "If what it needs is gone at its peers ... it hands over": to the one whose log it was. */
void replica_lead_adoption_failed(struct replica *r) {
    if (r->adopting && is_peer(r, r->adopt_source)) {
        struct wire_handover handover = {r->promised_term};
        replica_send_frame(r, r->adopt_source, WIRE_HANDOVER, 0, &handover, sizeof handover, NULL,
                           0);
    } else {
        replica_action_new(r, REPLICA_ACTION_RESIGN)->revision = r->own_revision;
    }
    replica_lead_step_down(r);
    r->leader_heard_ns = r->now_ns;
}

static void preparing_tick(struct replica *r) {
    if (!promise_stable(r))
        return;
    if (!r->peers[r->config.index].promise.given) {
        replica_log_advance(r);
        own_promise(r);
        adopt_or_establish(r);
        if (r->role != REPLICA_ROLE_PREPARING)
            return;
    }
    if (r->now_ns >= r->prepare_at_ns) {
        struct wire_prepare prepare = {r->promised_term, r->promised_token};
        for (uint8_t i = 0; i < peers_count(r); i++)
            if (is_peer(r, i) && !r->peers[i].promise.given)
                replica_send_frame(r, i, WIRE_PREPARE, 0, &prepare, sizeof prepare, NULL, 0);
        r->prepare_at_ns = r->now_ns + r->prepare_ns;
        r->prepare_ns = min_u64(r->prepare_ns * 2, r->slice_ns);
    }
    if (r->now_ns >= r->next_heartbeat_ns) {
        struct wire_heartbeat beat = {r->promised_term, r->last_seq, r->commit_seq, r->progress};
        for (uint8_t i = 0; i < peers_count(r); i++)
            if (is_peer(r, i) && r->peers[i].promise.given)
                replica_send_frame(r, i, WIRE_HEARTBEAT, WIRE_HEARTBEAT_PREPARING, &beat,
                                   sizeof beat, NULL, 0);
        r->next_heartbeat_ns = r->now_ns + r->config.heartbeat_interval_ns;
    }
    /* No quorum for long, or the log cannot be had: let another try. */
    if (r->now_ns - r->won_ns > 20 * r->turn_ns + r->config.slice_max_ns * 10)
        replica_lead_adoption_failed(r);
}

/* ---- PING, PONG ---- */

void replica_lead_ping_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_ping *ping = (const void *)frame->payload;
    struct wire_pong pong = {
        .nonce = ping->nonce,
        .sent_ns = ping->sent_ns,
        .term = r->promised_term,
        .last_term = r->amnesiac ? 0 : replica_log_term(r, r->acked_seq),
        .last_seq = r->amnesiac ? 0 : r->acked_seq,
    };
    uint8_t flags = (uint8_t)((replica_lead_hears(r) ? WIRE_PONG_HEARS_LEADER : 0) |
                              (r->amnesiac ? WIRE_PONG_AMNESIAC : 0));
    replica_send_frame(r, frame->peer, WIRE_PONG, flags, &pong, sizeof pong, NULL, 0);
}

void replica_lead_pong_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_pong *pong = (const void *)frame->payload;
    struct peer *p = &r->peers[frame->peer];
    uint64_t rtt = r->now_ns - pong->sent_ns;
    if (pong->sent_ns < r->started_ns ||
        pong->sent_ns > r->now_ns) { /* to a PING of an earlier process */
        replica_dropped(r, WIRE_DROP_STALE);
        return;
    }
    rtt = min_u64(rtt, r->config.slice_max_ns); /* time-outs follow from it */
    if (pong->sent_ns >= r->late_at_ns) /* else it lay here while our own loop stood still */
        p->rtt_ns = p->rtt_ns ? (7 * p->rtt_ns + rtt) / 8 : rtt;
    replica_slice_lives(r, frame->peer);
    p->pong_ns = r->now_ns;
    p->ping_ns = pong->sent_ns;
    p->pong_hears_leader = frame->flags & WIRE_PONG_HEARS_LEADER;
    p->pong_amnesiac = frame->flags & WIRE_PONG_AMNESIAC;
    p->pong_term = pong->term;
    p->pong_last_term = pong->last_term;
    p->pong_last_seq = pong->last_seq;
    if (pong->term == r->promised_term)
        p->answered_ns = r->now_ns;
}

/* ---- hand-over ---- */

void replica_lead_handover(struct replica *r) {
    if (r->role != REPLICA_ROLE_LEADER)
        return;
    uint8_t best = REPLICA_NODE_NONE;
    for (uint8_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i) && r->peers[i].acked &&
            (best == REPLICA_NODE_NONE || r->peers[i].acked > r->peers[best].acked))
            best = i;
    if (best == REPLICA_NODE_NONE)
        return;
    struct wire_handover handover = {r->promised_term};
    replica_send_frame(r, best, WIRE_HANDOVER, 0, &handover, sizeof handover, NULL, 0);
}

void replica_lead_handover_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_handover *handover = (const void *)frame->payload;
    if (r->amnesiac || replica_quarantined(r) || r->role != REPLICA_ROLE_FOLLOWER ||
        r->campaigning || !r->key_known || handover->term != r->promised_term) {
        replica_dropped(r, WIRE_DROP_STALE);
        return;
    }
    campaign(r, true); /* "takes the key at once without the PONG check" */
}

/* ---- TICK ---- */

/* "A leader without ACK or PONG of its term from k nodes for 4 slices stops." */
static void leader_contact(struct replica *r) {
    uint32_t answering = 1;
    for (uint32_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i) && r->now_ns - r->peers[i].answered_ns < 4 * r->turn_ns)
            answering++;
    if (answering >= r->config.quorum)
        return;
    replica_action_new(r, REPLICA_ACTION_RESIGN)->revision = r->own_revision;
    replica_lead_step_down(r);
    r->leader_heard_ns = r->now_ns;
}

/* Who answers and has acknowledged more than we hold; REPLICA_NODE_NONE: nobody. */
static uint8_t abler_peer(const struct replica *r) {
    uint8_t best = REPLICA_NODE_NONE;
    uint64_t most = r->held_seq;
    for (uint8_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i) && r->peers[i].acked > most &&
            r->now_ns - r->peers[i].answered_ns < 4 * r->turn_ns) {
            best = i;
            most = r->peers[i].acked;
        }
    return best;
}

/* Bodies that adopted epochs name do not come here. "A follower could acknowledge all of it and it
 * can't": it hands over. When nobody who answers could, they are gone with the memory of him who
 * promised them, and never were committed: another term, whose promises leave those epochs out. It
 * begins when the key is gone; who leads meanwhile leads on. */
static void leader_able(struct replica *r) {
    uint64_t came = r->bodies_changed - r->bodies_replaced; /* of those that epochs name */
    if (r->held_seq > r->able_seq || r->held_seq == r->last_seq || came != r->able_bodies) {
        r->able_seq = r->held_seq;
        r->able_bodies = came;
        r->able_ns = r->now_ns;
        return;
    }
    if (r->now_ns - r->able_ns <= 4 * r->turn_ns)
        return;
    r->able_ns = r->now_ns; /* again, should it get lost */
    uint8_t abler = abler_peer(r);
    if (abler != REPLICA_NODE_NONE) {
        struct wire_handover handover = {r->promised_term};
        replica_send_frame(r, abler, WIRE_HANDOVER, 0, &handover, sizeof handover, NULL, 0);
    } else if (r->held_seq >= r->commit_seq && r->key_revision == r->own_revision &&
               !MUTANT(bodies_gone_waited_for)) {
        replica_action_new(r, REPLICA_ACTION_RESIGN)->revision = r->own_revision;
    }
}

void replica_lead_tick(struct replica *r) {
    replica_slice_update(r);
    if (r->promise_due && promise_stable(r)) {
        r->promise_due = false;
        if (r->promised_winner != r->config.index && r->promised_winner != REPLICA_NODE_NONE) {
            replica_log_advance(r);
            send_promise(r, r->promised_winner, r->promised_term, r->promised_token, false);
        }
    }
    if (r->now_ns >= r->next_ping_ns) {
        ping_all(r);
        bool calm =
            r->role == REPLICA_ROLE_LEADER || r->now_ns - r->leader_heard_ns < r->slice_ns / 2;
        r->next_ping_ns = r->now_ns + (calm ? min_u64(PING_CALM_NS, 2 * r->slice_ns)
                                            : max_u64(r->slice_ns / 4, REPEAT_MIN_NS));
    } else if (r->role == REPLICA_ROLE_FOLLOWER && r->now_ns - r->leader_heard_ns > r->slice_ns / 2)
        r->next_ping_ns = min_u64(r->next_ping_ns, r->now_ns + r->slice_ns / 4);
    if (r->role == REPLICA_ROLE_PREPARING)
        preparing_tick(r);
    else if (r->role == REPLICA_ROLE_LEADER) {
        if (peers_count(r) > 1) {
            leader_able(r);
            leader_contact(r);
        }
        if (r->role == REPLICA_ROLE_LEADER && r->key_known && r->key_revision == 0 &&
            !r->campaigning)
            campaign(r, true); /* the key is gone: take it again, as a new term */
    } else
        follower_tick(r);
}
