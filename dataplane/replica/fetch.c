#include "dataplane/replica/internal.h"

/* One way over the fabric, as measured to the nearest half of the peers' round trips. */
uint64_t replica_hop_ns(const struct replica *r) {
    uint64_t best = 0;
    for (uint32_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i) && r->peers[i].rtt_ns && (!best || r->peers[i].rtt_ns < best))
            best = r->peers[i].rtt_ns;
    return (best ? best : RTT_INITIAL_NS) / 2;
}

/* How long a body that another node has may still be on its way here: its gateway sends to one node
 * after the other, and a packet that waits behind a busy thread is not lost. */
uint64_t replica_fetch_wait_ns(const struct replica *r) {
    return r->config.fetch_delay_ns ? r->config.fetch_delay_ns
                                    : max_u64(2 * replica_hop_ns(r), FETCH_WAIT_MIN_NS);
}

/* ---- vectors ---- */

uint64_t replica_vector_pause_ns(const struct replica *r, uint64_t bodies_then) {
    bool busy = r->bodies_stored - bodies_then >= min_u32(BUSY_BODIES, r->config.window / 2) ||
                r->slots_used > replica_slots_room(r) / 4 ||
                r->last_seq - r->base_seq > r->config.log_epochs / 4;
    return busy ? r->config.vector_interval_ns
                : max_u64(r->config.vector_idle_ns, r->config.vector_interval_ns);
}

void replica_fetch_vector_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_vector *v = (const void *)frame->payload;
    const struct wire_vector_entry *entries = (const void *)(v + 1);
    struct peer *p = &r->peers[frame->peer];
    /* Its process may have begun anew, and its packet numbers with it: silence tells. */
    if (frame->packet_number < p->vector_packet &&
        r->now_ns - p->vector_ns < 2 * VECTOR_FORCED_NS) {
        replica_dropped(r, WIRE_DROP_STALE);
        return;
    }
    p->vector_packet = frame->packet_number;
    p->vector_ns = r->now_ns;
    p->commit_seq = v->commit_seq;
    p->exec_seq = v->exec_seq;
    p->acknowledged_seq = v->acknowledged_seq;
    struct wire_hash result;
    memcpy(result.bytes, v->result_hash, sizeof result.bytes);
    replica_divergence_vector(r, frame->peer, v->exec_seq, &result);
    for (uint32_t i = 0; i < v->count; i++) {
        const struct retired *retired = replica_retired_find(r, entries[i].range);
        struct range *g = retired && entries[i].received <= retired_end(retired)
                              ? replica_range_find(r, entries[i].range)
                              : replica_range_get(r, entries[i].range);
        if (!g)
            continue;
        range_peers(r, g)[frame->peer] = entries[i].received;
        if (entries[i].received > g->received && !g->behind &&
            !(g->state == RANGE_SEALED && g->received >= g->logged))
            replica_fetch_want(r, g, r->now_ns + replica_fetch_wait_ns(r));
    }
}

static void vector_send(struct replica *r) {
    struct wire_vector v = {
        .commit_seq = r->commit_seq,
        .exec_seq = r->exec_seq,
        .acknowledged_seq = r->acked_seq,
        .is_leader = r->role == REPLICA_ROLE_LEADER,
    };
    struct wire_hash result =
        r->exec_seq == r->base_seq ? r->base_result_hash : epoch_at(r, r->exec_seq)->result_hash;
    memcpy(v.result_hash, result.bytes, sizeof v.result_hash);
    uint16_t count = 0;
    while (r->vector_dirty.count && count < VECTOR_ENTRIES_MAX) {
        struct range *g = &r->ranges[replica_queue_pop(&r->vector_dirty)];
        g->vector_dirty = false;
        if (g->in_use)
            r->vector_entries[count++] =
                (struct wire_vector_entry){g->range, g->received, g->committed};
    }
    v.count = count;
    for (uint8_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i))
            replica_send_frame(r, i, WIRE_VECTOR, 0, &v, sizeof v, r->vector_entries,
                               (uint32_t)(count * sizeof r->vector_entries[0]));
    r->vector_news = false;
    r->forced_vector_ns = r->now_ns + VECTOR_FORCED_NS;
}

/* ---- bodies ---- */

/* Asks for the range's missing bodies at `at_ns`, unless they come by themselves before. */
void replica_fetch_want(struct replica *r, struct range *g, uint64_t at_ns) {
    if (peers_count(r) == 1)
        return; /* nobody to ask: the gateway sends again */
    if (g->behind) {
        g->fetch_at_ns = min_u64(g->fetch_at_ns, max_u64(at_ns, r->now_ns));
    } else {
        g->fetch_at_ns = at_ns;
        g->fetch_tries = 0;
        g->fetch_end = g->received;
        replica_queue_push(&r->behind, range_place(r, g), &g->behind);
    }
    r->next_fetch_ns = min_u64(r->next_fetch_ns, g->fetch_at_ns);
}

/* The interval of this range in an epoch whose digest is wrong here: its bodies are fetched anew.
 */
static const struct wire_interval *repair_interval(const struct replica *r, const struct range *g) {
    if (r->held_seq >= r->last_seq)
        return NULL;
    const struct epoch *e = epoch_at(r, r->held_seq + 1);
    const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
    uint32_t count = e->repairing ? head_of(e)->interval_count : 0;
    for (uint32_t i = 0; i < count; i++)
        if (wire_tx_range(intervals[i].first_id) == g->range)
            return &intervals[i];
    return NULL;
}

/* Position up to which the range's bodies are known to exist somewhere. */
static uint32_t fetch_target(const struct replica *r, const struct range *g) {
    uint32_t target = max_u32(g->named, g->highest);
    if (g->state != RANGE_SEALED)
        for (uint32_t i = 0; i < peers_count(r); i++)
            if (is_peer(r, i))
                target = max_u32(target, range_peers(r, g)[i]);
    uint64_t limit = (uint64_t)g->logged + r->config.window;
    return (uint32_t)min_u64(target, max_u64(g->named, limit));
}

/* The next peer by turns among those that claim the body; whoever when none does but an epoch names
 * it. */
static uint8_t fetch_from(struct replica *r, const struct range *g, uint32_t offset) {
    uint32_t first = g->fetch_peer + (g->fetch_tries ? 1u : 0u);
    if (g->fetch_peer == REPLICA_NODE_NONE)
        first = r->leader == REPLICA_NODE_NONE ? 0 : r->leader;
    for (uint32_t pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < peers_count(r); i++) {
            uint8_t peer = (uint8_t)((first + i) % peers_count(r));
            if (is_peer(r, peer) && !(g->gone_mask >> peer & 1) &&
                (pass || range_peers(r, g)[peer] > offset))
                return peer;
        }
    return REPLICA_NODE_NONE;
}

static void fetch_send(struct replica *r, struct range *g, uint8_t peer, uint32_t from,
                       uint32_t count) {
    struct wire_fetch fetch = {wire_tx_id(g->range, from), count};
    replica_send_frame(r, peer, WIRE_FETCH, 0, &fetch, sizeof fetch, NULL, 0);
    g->fetch_peer = peer;
    g->fetch_first = from;
    g->fetch_end = from + count;
    uint64_t timeout =
        max_u64(4 * max_u64(r->peers[peer].rtt_ns, RTT_INITIAL_NS / 2), 400000) + count * 1000;
    g->fetch_at_ns =
        r->now_ns + min_u64(timeout << min_u32(g->fetch_tries, 10), max_u64(r->slice_ns, timeout));
    if (g->fetch_tries < 200)
        g->fetch_tries++;
    r->fetch_requests++;
}

/* Returns true while the range stays behind. */
static bool fetch_range(struct replica *r, struct range *g) {
    uint32_t from = g->received, target = fetch_target(r, g);
    const struct wire_interval *repair = repair_interval(r, g);
    if (repair) {
        from = wire_tx_offset(repair->first_id);
        target = from + repair->count;
    } else if (from >= target)
        return false;
    if (r->now_ns < g->fetch_at_ns)
        return true;
    if (g->purging) { /* nothing is taken yet */
        g->fetch_at_ns = r->now_ns + replica_hop_ns(r);
        return true;
    }
    uint32_t end = from + 1; /* the gap ends at the first body that is held above it */
    uint32_t limit = min_u32(target, from + SERVE_BODIES_MAX);
    if (repair)
        end = limit;
    else
        while (end < limit && replica_body_slot(r, g, end, NULL) == REPLICA_SLOT_NONE)
            end++;
    uint8_t peer = fetch_from(r, g, from);
    bool gone = g->gone_mask && g->fetch_tries > 2 * peers_count(r);
    if (peer == REPLICA_NODE_NONE ||
        gone) { /* who executed it keeps it no more, and nobody else has it */
        g->gone_mask = 0;
        g->fetch_tries = 0;
        g->fetch_at_ns = r->now_ns + r->slice_ns;
        if (from < g->named)
            replica_recovery_want_snapshot(r, REPLICA_NODE_NONE);
        return true;
    }
    fetch_send(r, g, peer, from, end - from);
    if (repair && target - from > SERVE_BODIES_MAX) /* the rest of a long interval */
        for (uint32_t at = end; at < target; at += SERVE_BODIES_MAX)
            fetch_send(r, g, peer, at, min_u32(SERVE_BODIES_MAX, target - at));
    return true;
}

/* GONE names an id, of which a full range has none above its last: that one then means all. */
static void gone_send(struct replica *r, uint8_t peer, uint64_t range, uint32_t position) {
    struct wire_gone gone = {wire_tx_id(range, min_u32(position, WIRE_RANGE_OFFSETS - 1))};
    replica_send_frame(r, peer, WIRE_GONE, 0, &gone, sizeof gone, NULL, 0);
}

void replica_fetch_bodies_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_fetch *fetch = (const void *)frame->payload;
    struct range *g = replica_range_find(r, wire_tx_range(fetch->first_id));
    uint32_t offset = wire_tx_offset(fetch->first_id);
    uint32_t end = (uint32_t)min_u64((uint64_t)offset + min_u32(fetch->count, SERVE_BODIES_MAX),
                                     WIRE_RANGE_OFFSETS);
    const struct retired *retired =
        g ? NULL : replica_retired_find(r, wire_tx_range(fetch->first_id));
    if (retired && offset < retired_end(retired)) {
        gone_send(r, frame->peer, wire_tx_range(fetch->first_id), retired_end(retired));
        return;
    }
    if (!g || offset >= max_u32(g->highest, g->received)) {
        struct wire_not_yet not_yet = {fetch->first_id};
        replica_send_frame(r, frame->peer, WIRE_NOT_YET, 0, &not_yet, sizeof not_yet, NULL, 0);
        return;
    }
    bool gap = false;
    for (; offset < end; offset++) {
        uint32_t slot = g->purging && offset >= g->purge_from
                            ? REPLICA_SLOT_NONE
                            : replica_body_slot(r, g, offset, NULL);
        if (slot == REPLICA_SLOT_NONE) {
            gap = true;
            continue;
        }
        struct replica_action *a = replica_action_new(r, REPLICA_ACTION_SEND_BODY);
        a->peer = frame->peer;
        a->stage = WIRE_STAGE_FETCH;
        a->id = wire_tx_id(g->range, offset);
        a->slot = slot;
        a->owner = offset >= g->logged ? replica_range_word(g) : 0; /* below, the digest tells */
    }
    offset = wire_tx_offset(fetch->first_id);
    if (gap && offset < g->released) {
        gone_send(r, frame->peer, g->range, g->released);
    } else if (gap) {
        struct wire_not_yet not_yet = {wire_tx_id(g->range, max_u32(g->received, offset))};
        replica_send_frame(r, frame->peer, WIRE_NOT_YET, 0, &not_yet, sizeof not_yet, NULL, 0);
    }
}

void replica_fetch_gone_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_gone *gone = (const void *)frame->payload;
    struct range *g = replica_range_find(r, wire_tx_range(gone->below_id));
    uint32_t below = wire_tx_offset(gone->below_id);
    if (!g || !g->behind || frame->peer != g->fetch_peer ||
        (below <= g->fetch_first && below != WIRE_RANGE_OFFSETS - 1)) {
        replica_dropped(r, WIRE_DROP_STALE);
        return;
    }
    g->gone_mask |= (uint8_t)(1u << frame->peer);
    g->fetch_at_ns = r->now_ns; /* another peer, now */
    r->next_fetch_ns = r->now_ns;
}

void replica_fetch_not_yet_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_not_yet *not_yet = (const void *)frame->payload;
    struct range *g = replica_range_find(r, wire_tx_range(not_yet->above_id));
    if (!g || !g->behind || frame->peer != g->fetch_peer) {
        replica_dropped(r, WIRE_DROP_STALE);
        return;
    }
    uint32_t *theirs = &range_peers(r, g)[frame->peer];
    *theirs = min_u32(*theirs, wire_tx_offset(not_yet->above_id));
    g->fetch_at_ns = min_u64(g->fetch_at_ns, r->now_ns + replica_hop_ns(r));
    r->next_fetch_ns = min_u64(r->next_fetch_ns, g->fetch_at_ns);
}

/* ---- epochs ---- */

void replica_fetch_epochs(struct replica *r, enum epoch_fetch_purpose purpose, uint8_t peer,
                          uint64_t to_seq) {
    r->epoch_fetch = (struct epoch_fetch){
        .purpose = purpose, .peer = peer, .to_seq = to_seq, .retry_at_ns = r->now_ns};
}

static uint64_t epochs_from(const struct replica *r) {
    return r->epoch_fetch.purpose == FETCH_ADOPT ? max_u64(r->matched + 1, r->adopt_from)
                                                 : r->last_seq + 1;
}

static void epochs_ask(struct replica *r) {
    struct epoch_fetch *f = &r->epoch_fetch;
    uint64_t from = epochs_from(r);
    struct wire_epoch_fetch ask = {from, min_u64(f->to_seq, from + SERVE_EPOCHS_MAX)};
    replica_send_frame(r, f->peer, WIRE_EPOCH_FETCH, 0, &ask, sizeof ask, NULL, 0);
    uint64_t timeout = max_u64(4 * max_u64(r->peers[f->peer].rtt_ns, RTT_INITIAL_NS / 2), 1000000);
    f->retry_at_ns =
        r->now_ns + min_u64(timeout << min_u32(f->tries, 8), max_u64(r->slice_ns, timeout));
    f->tries++;
}

static void epochs_tick(struct replica *r) {
    struct epoch_fetch *f = &r->epoch_fetch;
    if (f->purpose == FETCH_NOTHING || r->now_ns < f->retry_at_ns)
        return;
    if (epochs_from(r) >= f->to_seq) {
        f->purpose = FETCH_NOTHING;
        return;
    }
    if (f->tries > 12) {
        enum epoch_fetch_purpose purpose = f->purpose;
        f->purpose = FETCH_NOTHING;
        if (purpose == FETCH_ADOPT)
            replica_lead_adoption_failed(r);
        else if (purpose == FETCH_RECOVER)
            replica_recovery_failed(r);
        return;
    }
    epochs_ask(r);
}

void replica_fetch_epochs_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_epoch_fetch *ask = (const void *)frame->payload;
    if (ask->from_seq <= r->base_seq) {
        struct wire_epoch_gone gone = {r->base_seq + 1};
        replica_send_frame(r, frame->peer, WIRE_EPOCH_GONE, 0, &gone, sizeof gone, NULL, 0);
        return;
    }
    struct wire_epoch_answer answer = {r->commit_seq, r->promised_term};
    uint64_t to = min_u64(min_u64(ask->to_seq, r->last_seq + 1), ask->from_seq + SERVE_EPOCHS_MAX);
    for (uint64_t seq = ask->from_seq; seq < to; seq++) {
        struct epoch *e = epoch_at(r, seq);
        replica_send_frame(r, frame->peer, WIRE_EPOCH, 0, &answer, sizeof answer, e->bytes,
                           e->length_bytes);
    }
}

/* A learner takes committed epochs from anybody: the chain ties them to what it holds. */
static void learn_epoch(struct replica *r, uint64_t peer_commit, const uint8_t *bytes,
                        uint32_t length) {
    const struct wire_epoch_head *head = (const void *)bytes;
    if (head->seq != r->last_seq + 1 || head->seq > peer_commit)
        return;
    if (memcmp(head->previous_hash, replica_log_hash(r, r->last_seq)->bytes,
               sizeof head->previous_hash)) {
        replica_fail_stop(r,
                          "a committed epoch of a peer does not continue what is committed here");
        return;
    }
    switch (replica_log_append(r, bytes, length)) {
    case LOG_OK:
        replica_log_commit(r, r->last_seq);
        r->learned_seq = r->last_seq;
        break;
    case LOG_FULL: break;
    case LOG_IMPOSSIBLE:
        replica_fail_stop(r, "a committed epoch does not continue its ranges");
        break;
    }
}

void replica_fetch_epoch_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_epoch_answer *answer = (const void *)frame->payload;
    const uint8_t *bytes = frame->payload + sizeof *answer;
    uint32_t length = frame->length_bytes - (uint32_t)sizeof *answer;
    const struct wire_epoch_head *head = (const void *)bytes;
    struct epoch_fetch *f = &r->epoch_fetch;
    if (f->purpose == FETCH_NOTHING || frame->peer != f->peer ||
        head->configuration_id != r->config.configuration_id || head->seq != epochs_from(r)) {
        replica_dropped(r, WIRE_DROP_STALE);
        return;
    }
    uint64_t asked_to = head->seq;
    switch (f->purpose) {
    case FETCH_NOTHING: break;
    case FETCH_LEARN: learn_epoch(r, answer->commit_seq, bytes, length); break;
    case FETCH_ADOPT: replica_lead_adopted_epoch(r, bytes, length); break;
    case FETCH_RECOVER: replica_recovery_epoch(r, bytes, length); break;
    }
    f->tries = 0;
    if (f->purpose != FETCH_NOTHING &&
        (asked_to % SERVE_EPOCHS_MAX == 0 || epochs_from(r) >= f->to_seq))
        f->retry_at_ns = r->now_ns; /* ask for the next batch before the time-out */
}

void replica_fetch_epoch_gone_frame(struct replica *r, const struct replica_event_frame *frame) {
    const struct wire_epoch_gone *gone = (const void *)frame->payload;
    if (frame->peer == r->leader) {
        r->gone_below = gone->below_seq;
        r->gone_term = r->promised_term;
    }
    if (r->epoch_fetch.purpose == FETCH_ADOPT && frame->peer == r->epoch_fetch.peer &&
        gone->below_seq <= r->last_seq + 1 && gone->below_seq > r->adopt_from) {
        r->adopt_from = gone->below_seq; /* its predecessor's hash tells whether ours is the same */
        r->epoch_fetch.retry_at_ns = r->now_ns;
        return;
    }
    if (gone->below_seq <= r->last_seq + 1) {
        replica_dropped(r, WIRE_DROP_STALE);
        return;
    }
    if (r->epoch_fetch.purpose == FETCH_ADOPT) {
        r->epoch_fetch.purpose = FETCH_NOTHING;
        replica_lead_adoption_failed(r);
    }
    replica_recovery_want_snapshot(r, frame->peer);
}

/* Who only learns follows the greatest commit_seq it has heard of. */
static void learner_tick(struct replica *r) {
    if (!r->amnesiac || r->epoch_fetch.purpose != FETCH_NOTHING || r->recover_chosen)
        return;
    uint8_t best = REPLICA_NODE_NONE;
    for (uint8_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i) && r->peers[i].commit_seq > r->last_seq &&
            (best == REPLICA_NODE_NONE || r->peers[i].commit_seq > r->peers[best].commit_seq))
            best = i;
    if (best != REPLICA_NODE_NONE && r->last_seq - r->base_seq < r->config.log_epochs)
        replica_fetch_epochs(r, FETCH_LEARN, best, r->peers[best].commit_seq + 1);
}

/* ---- TICK ---- */

void replica_fetch_tick(struct replica *r) {
    if (peers_count(r) == 1) {
        while (r->vector_dirty.count)
            r->ranges[replica_queue_pop(&r->vector_dirty)].vector_dirty = false;
        return;
    }
    bool news = r->vector_dirty.count || r->vector_news;
    if ((news && r->now_ns - r->vector_ns >= replica_vector_pause_ns(r, r->bodies_at_vector)) ||
        r->now_ns >= r->forced_vector_ns) {
        vector_send(r);
        r->vector_ns = r->now_ns;
        r->bodies_at_vector = r->bodies_stored;
    }
    if (r->behind.count && r->now_ns >= r->next_fetch_ns) {
        r->next_fetch_ns = UINT64_MAX;
        uint32_t turns = r->behind.count, sent = 0;
        while (turns-- && sent < TICK_FETCHES_MAX) {
            struct range *g = &r->ranges[replica_queue_pop(&r->behind)];
            uint64_t before = r->fetch_requests;
            g->behind = false;
            if (fetch_range(r, g)) {
                replica_queue_push(&r->behind, range_place(r, g), &g->behind);
                r->next_fetch_ns = min_u64(r->next_fetch_ns, g->fetch_at_ns);
            }
            sent += r->fetch_requests != before;
        }
        if (sent == TICK_FETCHES_MAX)
            r->next_fetch_ns = r->now_ns;
    }
    learner_tick(r);
    epochs_tick(r);
}
