#include "dataplane/replica/internal.h"

const struct wire_hash *replica_log_hash(struct replica *r, uint64_t seq) {
    if (seq == r->base_seq)
        return &r->base_hash;
    struct epoch *e = epoch_at(r, seq);
    if (!e->hash_known) {
        e->hash = wire_hash_blake2b(e->bytes, e->length_bytes);
        e->hash_known = true;
    }
    return &e->hash;
}

uint64_t replica_log_term(const struct replica *r, uint64_t seq) {
    return seq == r->base_seq ? r->base_term : epoch_at(r, seq)->term;
}

uint64_t replica_log_time(const struct replica *r, uint64_t seq) {
    return seq == r->base_seq ? r->base_time_us : head_of(epoch_at(r, seq))->logical_time_us;
}

/* ---- append and cut: what the log's tail says of each range ---- */

/* Would this epoch continue its ranges? Everything is checked before anything changes. */
static enum log_outcome continues(struct replica *r, const uint8_t *bytes) {
    const struct wire_epoch_head *head = (const void *)bytes;
    const struct wire_control *controls = wire_epoch_controls(bytes);
    const struct wire_interval *intervals = wire_epoch_intervals(bytes);
    for (uint32_t i = 0; i < head->control_count; i++) {
        struct range *g = replica_range_get_for_log(r, controls[i].range);
        if (!g)
            return LOG_FULL;
        if (controls[i].kind == WIRE_CONTROL_OPEN
                ? g->state == RANGE_OPEN
                : g->state != RANGE_OPEN ||
                      (controls[i].value != g->logged && !MUTANT(seal_at_committed)))
            return LOG_IMPOSSIBLE;
    }
    for (uint32_t i = 0; i < head->control_count; i++)
        if (!replica_range_find(r, controls[i].range)) /* made room for a later one */
            return LOG_FULL;
    for (uint32_t i = 0; i < head->interval_count; i++) {
        struct range *g = replica_range_find(r, wire_tx_range(intervals[i].first_id));
        if (!g || g->logged != wire_tx_offset(intervals[i].first_id))
            return LOG_IMPOSSIBLE;
    }
    return LOG_OK;
}

/* `bytes`: the epoch's, where they were read before: to load again what was just copied waits until
 * all stores before it have left the core. */
static void apply(struct replica *r, struct epoch *e, const uint8_t *bytes) {
    const struct wire_epoch_head *head = (const void *)bytes;
    const struct wire_control *controls = wire_epoch_controls(bytes);
    const struct wire_interval *intervals = wire_epoch_intervals(bytes);
    for (uint32_t i = 0; i < head->control_count; i++) {
        struct range *g = replica_range_find(r, controls[i].range);
        e->before[i] = (struct before){g->owner, g->state};
        if (controls[i].kind == WIRE_CONTROL_OPEN) {
            g->state = RANGE_OPEN;
            g->owner = controls[i].value;
            g->open_waiting = g->sealed_executed = false;
            if (g->hello_owner != g->owner) /* what is above is another's */
                replica_range_purge(r, g);
        } else {
            g->state = RANGE_SEALED;
            g->seal_waiting = false;
        }
        replica_range_mark(r, g);
    }
    e->body_count = 0;
    for (uint32_t i = 0; i < head->interval_count; i++) {
        struct range *g = replica_range_find(r, wire_tx_range(intervals[i].first_id));
        g->logged = wire_tx_offset(intervals[i].first_id) + intervals[i].count;
        g->named = max_u32(g->named, g->logged);
        e->body_count += intervals[i].count;
        if (g->received < g->logged)
            replica_fetch_want(r, g, r->now_ns + replica_fetch_wait_ns(r));
    }
}

void replica_log_apply_above_base(struct replica *r) {
    bool loading = r->loading;
    r->loading = true; /* no purge: the bodies above are what these epochs name */
    for (uint64_t seq = r->base_seq + 1; seq <= r->last_seq; seq++) {
        struct epoch *e = epoch_at(r, seq);
        apply(r, e, e->bytes);
        const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
        for (uint32_t i = 0; seq <= r->commit_seq && i < head_of(e)->interval_count; i++) {
            struct range *g = replica_range_find(r, wire_tx_range(intervals[i].first_id));
            g->committed = wire_tx_offset(intervals[i].first_id) + intervals[i].count;
        }
    }
    r->loading = loading;
}

static void undo(struct replica *r, const struct epoch *e) {
    const struct wire_control *controls = wire_epoch_controls(e->bytes);
    const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
    for (uint32_t i = 0; i < head_of(e)->interval_count; i++) {
        struct range *g = replica_range_find(r, wire_tx_range(intervals[i].first_id));
        g->logged = wire_tx_offset(intervals[i].first_id);
        g->named = min_u32(g->named, g->logged);
        /* Bodies that peers gave us on its word, whosever they were: no digest tells any more. */
        if (e->seq > r->held_seq)
            replica_range_purge(r, g);
        replica_range_mark(r, g);
    }
    for (uint32_t i = head_of(e)->control_count; i-- > 0;) {
        struct range *g = replica_range_find(r, controls[i].range);
        if (controls[i].kind == WIRE_CONTROL_OPEN && g->hello_owner != g->owner)
            replica_range_purge(r, g);
        g->state = e->before[i].state;
        g->owner = e->before[i].owner;
        g->sealed_executed = g->state == RANGE_SEALED; /* an OPEN follows an executed SEAL only */
        replica_range_mark(r, g);
    }
}

/* The record just appended says what is committed. */
static void noted(struct replica *r) {
    r->noted_newest = r->commit_seq;
    r->noted_newest_position = r->append_position;
    r->noted_ns = r->now_ns;
}

enum log_outcome replica_log_append(struct replica *r, const uint8_t *bytes, uint32_t length) {
    const struct wire_epoch_head *head = (const void *)bytes;
    assert(head->seq == r->last_seq + 1 && length <= WIRE_EPOCH_MAX_BYTES);
    if (r->last_seq - r->base_seq >= r->config.log_epochs)
        return LOG_FULL;
    enum log_outcome outcome = continues(r, bytes);
    if (outcome != LOG_OK)
        return outcome;
    r->last_seq++;
    struct epoch *e = epoch_at(r, r->last_seq);
    e->seq = head->seq;
    e->term = head->term;
    e->length_bytes = length;
    e->hash_known = e->executed = e->repairing = false;
    e->checked = 0;
    e->need_position = UINT64_MAX;
    e->proposed_ns = r->now_ns;
    memcpy(e->bytes, bytes, length);
    apply(r, e, bytes);
    if (r->config.durable) {
        struct replica_action *a = replica_action_new(r, REPLICA_ACTION_APPEND_EPOCH);
        a->seq = r->commit_seq;
        a->position = r->append_position++;
        a->tail = e->bytes;
        a->tail_bytes = length;
        noted(r);
    }
    return LOG_OK;
}

void replica_log_truncate(struct replica *r, uint64_t from_seq) {
    assert(from_seq > r->commit_seq);
    while (r->last_seq >= from_seq) {
        undo(r, epoch_at(r, r->last_seq));
        r->last_seq--;
    }
    r->held_seq = min_u64(r->held_seq, r->last_seq);
    r->acked_seq = min_u64(r->acked_seq, r->last_seq);
    r->matched = min_u64(r->matched, r->last_seq);
}

/* ---- held and acknowledgeable ---- */

/* The digest is wrong: one of our bodies is not the one that was ordered. Fetch the epoch's bodies
 * anew. */
static void repair_want(struct replica *r, struct epoch *e) {
    if (!e->repairing) {
        e->repairing = true;
        r->divergence++;
    }
    if (MUTANT(repair_forgotten))
        return;
    const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
    for (uint32_t i = 0; i < head_of(e)->interval_count; i++) {
        struct range *g = replica_range_find(r, wire_tx_range(intervals[i].first_id));
        if (!g->behind)
            replica_fetch_want(r, g, r->now_ns + replica_hop_ns(r));
    }
}

bool replica_epoch_names(const struct epoch *e, uint64_t id) {
    const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
    for (uint32_t i = 0; i < head_of(e)->interval_count; i++)
        if (id >= intervals[i].first_id && id - intervals[i].first_id < intervals[i].count)
            return true;
    return false;
}

static bool digest_right(struct replica *r, const struct epoch *e) {
    struct wire_digest sum = {0, 0};
    const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
    for (uint32_t i = 0; i < head_of(e)->interval_count; i++)
        if (!replica_interval_digest(r, &intervals[i], &sum))
            return false;
    return sum.low == head_of(e)->digest_low && sum.high == head_of(e)->digest_high;
}

static bool becomes_held(struct replica *r, struct epoch *e) {
    const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
    for (; e->checked < head_of(e)->interval_count; e->checked++) {
        const struct wire_interval *v = &intervals[e->checked];
        struct range *g = replica_range_find(r, wire_tx_range(v->first_id));
        if (g->received < wire_tx_offset(v->first_id) + v->count)
            return false;
    }
    if (e->repairing && e->wrong_at == r->bodies_changed)
        return false;
    if (!digest_right(r, e) && !MUTANT(digest_unchecked) &&
        !(MUTANT(digest_unchecked_adopting) && e->term != r->promised_term)) {
        repair_want(r, e);
        e->wrong_at = r->bodies_changed;
        return false;
    }
    e->repairing = false;
    e->need_position =
        r->append_position; /* its record and its last body were appended before now */
    return true;
}

void replica_log_advance(struct replica *r) {
    while (r->held_seq < r->last_seq && becomes_held(r, epoch_at(r, r->held_seq + 1)))
        r->held_seq++;
    while (r->acked_seq < r->held_seq &&
           (!r->config.durable || MUTANT(ack_unstable) ||
            epoch_at(r, r->acked_seq + 1)->need_position <= r->stable_position))
        r->acked_seq++;
}

/* ---- commit, deliver, release ---- */

void replica_log_commit(struct replica *r, uint64_t seq) {
    assert(seq <= r->last_seq);
    while (r->commit_seq < seq) {
        struct epoch *e = epoch_at(r, ++r->commit_seq);
        const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
        for (uint32_t i = 0; i < head_of(e)->interval_count; i++) {
            struct range *g = replica_range_find(r, wire_tx_range(intervals[i].first_id));
            g->committed = wire_tx_offset(intervals[i].first_id) + intervals[i].count;
            replica_range_mark(r, g);
        }
        r->epochs_committed++;
        r->bodies_committed += e->body_count;
        r->vector_news = true;
    }
    r->matched = max_u64(r->matched, r->commit_seq);
}

/* What is committed as far as a stable record says: a replay knows no more, and must not need more
 * room than there was here. */
static void noted_advance(struct replica *r) {
    if (r->noted_waited_position <= r->stable_position) {
        r->noted_stable = max_u64(r->noted_stable, r->noted_waited);
        r->noted_waited = r->noted_newest;
        r->noted_waited_position = r->noted_newest_position;
    }
    if (r->noted_waited_position <= r->stable_position)
        r->noted_stable = max_u64(r->noted_stable, r->noted_waited);
}

void replica_log_executed(struct replica *r, uint64_t seq, const struct wire_hash *result) {
    assert(seq == r->exec_seq + 1 && seq <= r->delivered_seq);
    struct epoch *e = epoch_at(r, seq);
    e->executed = true;
    e->result_hash = *result;
    r->exec_seq = seq;
    r->vector_news = true;
    const struct wire_control *controls = wire_epoch_controls(e->bytes);
    for (uint32_t i = 0; i < head_of(e)->control_count; i++) {
        struct range *g = replica_range_find(r, controls[i].range);
        if (controls[i].kind == WIRE_CONTROL_OPEN) {
            g->previous_owner = g->executed_owner;
            g->open_at = g->executed;
            g->executed_owner = controls[i].value;
            continue;
        }
        if (g->state == RANGE_SEALED && g->owner == g->executed_owner) { /* not a later holding's */
            g->sealed_executed = true;
            if (g->hello_owner == g->owner)
                g->hello_owner = 0;
            replica_range_purge(r, g);
        }
        struct replica_action *a = replica_action_new(r, REPLICA_ACTION_RANGE_SEALED);
        a->range = g->range;
        a->owner = g->executed_owner;
        a->end = (uint32_t)controls[i].value;
    }
    const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
    for (uint32_t i = 0; i < head_of(e)->interval_count; i++) {
        struct range *g = replica_range_find(r, wire_tx_range(intervals[i].first_id));
        g->executed = wire_tx_offset(intervals[i].first_id) + intervals[i].count;
    }
    replica_divergence_executed(r);
}

static bool log_short(const struct replica *r) {
    return r->last_seq - r->base_seq > r->config.log_epochs / 2 ||
           r->slots_used > replica_slots_room(r) / 4 * 3 || replica_ranges_short(r);
}

/* Bodies that keep others out wait for a record that notes them as committed, and no epoch comes:
 * perhaps for want of those others. */
uint64_t replica_log_note_ns(const struct replica *r) {
    bool due = r->config.durable && r->base_seq < r->exec_seq && r->noted_newest < r->exec_seq &&
               log_short(r) && !r->stopped;
    return due ? r->noted_ns + NOTE_WAIT_NS : UINT64_MAX;
}

static void note_commit(struct replica *r) {
    if (r->now_ns < replica_log_note_ns(r) || MUTANT(commit_unnoted))
        return;
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_APPEND_COMMIT);
    a->seq = r->commit_seq;
    a->position = r->append_position++;
    noted(r);
}

void replica_log_replay_commit(struct replica *r, uint64_t commit_seq) {
    uint64_t seq = min_u64(commit_seq, r->last_seq);
    if (seq > r->commit_seq && !MUTANT(replay_commits_nothing))
        replica_log_commit(r, seq);
}

/* Kept until executed here, and executed by all n or space is short (protocol.md §2: retain). */
static bool releasable(const struct replica *r, uint64_t seq) {
    if (seq > r->exec_seq || (seq > r->acked_seq && !MUTANT(released_early)))
        return false;
    if (r->config.durable && !r->loading && seq > r->noted_stable && !MUTANT(released_unnoted))
        return false;
    if (log_short(r) || MUTANT(released_early))
        return true;
    if (r->loading)
        return false;
    for (uint32_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i) && (r->peers[i].exec_seq < seq || r->peers[i].acknowledged_seq < seq))
            return false;
    return true;
}

static void release(struct replica *r, uint32_t budget) {
    while (r->base_seq < r->exec_seq && releasable(r, r->base_seq + 1)) {
        struct epoch *e = epoch_at(r, r->base_seq + 1);
        const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
        while (r->release_interval < head_of(e)->interval_count) {
            const struct wire_interval *v = &intervals[r->release_interval];
            struct range *g = replica_range_find(r, wire_tx_range(v->first_id));
            while (r->release_offset < v->count) {
                if (budget-- == 0)
                    return;
                replica_body_free(r, g, wire_tx_offset(v->first_id) + r->release_offset++);
            }
            g->released = wire_tx_offset(v->first_id) + v->count;
            r->release_interval++;
            r->release_offset = 0;
        }
        const struct wire_hash *hash = replica_log_hash(r, r->base_seq + 1);
        r->base_hash = *hash;
        r->base_term = e->term;
        r->base_time_us = head_of(e)->logical_time_us;
        r->base_result_hash = e->result_hash;
        r->base_seq++;
        r->release_interval = 0;
    }
}

static void deliver(struct replica *r) {
    replica_log_advance(r);
    /* A single node has no peer to hold what it executes: only what is stable here. */
    uint64_t limit = min_u64(MUTANT(uncommitted_executed) ? r->last_seq : r->commit_seq,
                             r->config.quorum == 1 ? r->acked_seq : r->held_seq);
    if (replica_quarantined(r))
        return;
    while (r->delivered_seq < limit && r->delivered_seq - r->exec_seq < r->config.deliver_max)
        replica_action_new(r, REPLICA_ACTION_DELIVER)->seq = ++r->delivered_seq;
}

/* Nothing is sent while the journal is replayed: the room for actions is for what is freed. */
void replica_log_load(struct replica *r) {
    bool durable = r->config.durable;
    r->config.durable = false; /* every record that comes from the journal is stable */
    deliver(r);
    r->config.durable = durable;
    release(r, REPLICA_ACTIONS_MAX - r->actions->count);
}

/* The place of the next epoch was last written a whole log ago: it has left the caches. Its head,
 * and of its bytes what an epoch of one interval has. */
static void prefetch_next(const struct replica *r) {
    const struct epoch *e = &r->epochs[(r->last_seq + 1) & (r->config.log_epochs - 1)];
    for (size_t at = 0; at < offsetof(struct epoch, before); at += 64)
        __builtin_prefetch((const uint8_t *)e + at, 1);
    for (size_t at = 0; at < 128; at += 64)
        __builtin_prefetch(e->bytes + at, 1);
}

void replica_log_tick(struct replica *r) {
    deliver(r);
    noted_advance(r);
    release(r, TICK_EXECUTED_MAX);
    note_commit(r);
    prefetch_next(r);
    if (r->last_seq > r->base_seq && !epoch_at(r, r->last_seq)->hash_known && !r->actions->count)
        replica_log_hash(r, r->last_seq); /* nothing else to do: the next epoch needs it */
}
