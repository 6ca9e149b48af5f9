#include "dataplane/replica/internal.h"

/* ---- actions ---- */

struct replica_action *replica_action_new(struct replica *r, enum replica_action_kind kind) {
    assert(r->actions->count < REPLICA_ACTIONS_MAX);
    struct replica_action *a = &r->actions->items[r->actions->count++];
    memset(a, 0, offsetof(struct replica_action, payload));
    a->kind = kind;
    return a;
}

static uint8_t stage_of(enum wire_kind kind) {
    return kind == WIRE_FETCH || kind == WIRE_GONE || kind == WIRE_NOT_YET ||
                   kind == WIRE_EPOCH_FETCH || kind == WIRE_EPOCH || kind == WIRE_EPOCH_GONE
               ? WIRE_STAGE_FETCH
               : WIRE_STAGE_GOSSIP;
}

void replica_send_frame(struct replica *r, uint8_t peer, enum wire_kind kind, uint8_t flags,
                        const void *payload, size_t length, const void *tail, uint32_t tail_bytes) {
    assert(length <= REPLICA_INLINE_MAX && is_peer(r, peer));
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_SEND);
    a->peer = peer;
    a->stage = stage_of(kind);
    a->frame_kind = (uint8_t)kind;
    a->frame_flags = flags;
    a->inline_bytes = (uint16_t)length;
    memcpy(a->payload, payload, length);
    a->tail = tail;
    a->tail_bytes = tail_bytes;
}

void replica_dropped(struct replica *r, enum wire_drop reason) {
    replica_action_new(r, REPLICA_ACTION_DROPPED)->outcome = (uint32_t)reason;
}

void replica_fail_stop(struct replica *r, const char *reason) {
    if (r->stopped)
        return;
    r->stopped = true;
    r->role = REPLICA_ROLE_STOPPED;
    replica_action_new(r, REPLICA_ACTION_FAIL_STOP)->reason = reason;
}

/* ---- memory ---- */

static bool power_of_two(uint32_t n) {
    return n && !(n & (n - 1));
}

static bool config_allowed(const struct replica_config *c) {
    return c->node_count >= 1 && c->node_count <= WIRE_NODES_MAX && c->index < c->node_count &&
           c->quorum >= 1 && c->quorum <= c->node_count && 2 * c->quorum > c->node_count &&
           c->epochs_in_flight >= 1 && c->epochs_in_flight <= 64 && c->epoch_cap >= 1 &&
           c->epoch_cap <= WIRE_EPOCH_BODIES_MAX && c->window >= 1 &&
           c->window <= WIRE_RANGE_OFFSETS && power_of_two(c->ranges_max) &&
           c->ranges_max <= 1u << 24 && c->retired_max >= c->ranges_max &&
           c->retired_max <= 1u << 30 && power_of_two(c->log_epochs) &&
           c->log_epochs >= 4 * c->epochs_in_flight && c->body_slots >= 2 * c->epoch_cap &&
           c->deliver_max >= 1 && c->heartbeat_interval_ns && c->slice_floor_ns &&
           c->slice_max_ns >= c->slice_floor_ns;
}

static uint32_t chunk_count(const struct replica_config *c) {
    return c->body_slots / (CHUNK_BODIES / 4) + min_u32(c->ranges_max, c->body_slots) + 64;
}

static uint32_t table_size(uint32_t count) { /* at most half full */
    uint32_t size = 16;
    while (size < 2 * count)
        size *= 2;
    return size;
}

/* A follower may have retired less than the leader had when it made room for an OPEN: what was
 * sealed in epochs that no stable record of the follower's journal calls committed yet. */
static uint32_t range_places(const struct replica_config *c) {
    return c->ranges_max + WIRE_EPOCH_CONTROLS_MAX * (c->epochs_in_flight + 2);
}

/* Takes `bytes` of the block at *at, aligned to a cache line; base NULL only adds up. */
static void *take_memory(uint8_t *base, size_t *at, size_t bytes) {
    void *place = base ? base + *at : NULL;
    *at += (bytes + 63) & ~(size_t)63;
    return place;
}

static size_t layout(struct replica *r, uint8_t *base, const struct replica_config *c) {
    struct replica scratch;
    if (!r)
        r = &scratch;
    size_t at = 0;
    take_memory(base, &at, sizeof *r);
    uint32_t chunks = chunk_count(c);
    r->chunk_count = chunks;
    r->range_places = range_places(c);
    r->range_index_mask = table_size(r->range_places - r->range_places / 3) - 1;
    r->range_index_shift = (uint32_t)__builtin_clzll(r->range_index_mask);
    r->chunk_index_mask = table_size(chunks) - 1;
    r->epochs = take_memory(base, &at, c->log_epochs * sizeof *r->epochs);
    r->asides = take_memory(base, &at, c->epochs_in_flight * sizeof *r->asides);
    r->ranges = take_memory(base, &at, r->range_places * sizeof *r->ranges);
    r->peers_received =
        take_memory(base, &at, (size_t)r->range_places * c->node_count * sizeof(uint32_t));
    r->retired =
        take_memory(base, &at, (size_t)retired_places(c->retired_max) * sizeof *r->retired);
    r->range_index = take_memory(base, &at, (r->range_index_mask + 1) * sizeof *r->range_index);
    r->chunks = take_memory(base, &at, chunks * sizeof *r->chunks);
    r->chunk_index = take_memory(base, &at, (r->chunk_index_mask + 1) * sizeof *r->chunk_index);
    struct queue *queues[] = {&r->waiting, &r->vector_dirty, &r->progress_dirty, &r->behind};
    for (uint32_t i = 0; i < 4; i++) {
        queues[i]->items = take_memory(base, &at, r->range_places * sizeof(uint32_t));
        queues[i]->size = r->range_places;
        queues[i]->head = queues[i]->count = 0;
    }
    return at;
}

size_t replica_size(const struct replica_config *config) {
    return config_allowed(config) ? layout(NULL, NULL, config) : 0;
}

struct replica *replica_init(void *memory, const struct replica_config *config, uint64_t now_ns) {
    assert(config_allowed(config) && ((uintptr_t)memory & 63) == 0);
    struct replica *r = memory;
    memset(r, 0, sizeof *r);
    r->config = *config;
    layout(r, memory, config);
    for (uint32_t i = 0; i < config->epochs_in_flight; i++)
        r->asides[i].seq = 0;
    replica_ranges_reset(r);
    r->now_ns = r->started_ns = r->leader_heard_ns = r->gap_window_ns = now_ns;
    r->loading = config->durable;
    r->amnesiac = config->amnesiac && config->node_count > 1 && !MUTANT(amnesiac_votes);
    r->role = r->amnesiac ? REPLICA_ROLE_LEARNER : REPLICA_ROLE_FOLLOWER;
    r->base_hash = config->genesis_hash;
    r->promised_winner = r->leader = r->last_leader = r->deposed = REPLICA_NODE_NONE;
    r->slice_ns = r->turn_ns = config->slice_floor_ns;
    r->recover_at_ns = r->next_ping_ns = now_ns;
    r->next_fetch_ns = UINT64_MAX;
    r->peers[config->index].incarnation = config->incarnation;
    return r;
}

/* ---- step ---- */

static void frame_event(struct replica *r, const struct replica_event_frame *frame) {
    if (!is_peer(r, frame->peer)) {
        replica_dropped(r, WIRE_DROP_FRAME_VALUE);
        return;
    }
    struct peer *p = &r->peers[frame->peer];
    if (frame->incarnation < p->incarnation && !MUTANT(incarnations_ignored)) {
        replica_dropped(r, WIRE_DROP_INCARNATION_OLD);
        return;
    }
    if (frame->incarnation > p->incarnation &&
        !MUTANT(incarnations_ignored)) { /* it forgot: what its predecessor said counts no more */
        p->incarnation = frame->incarnation;
        p->acked = p->commit_seq = p->exec_seq = p->acknowledged_seq = p->vector_packet =
            p->pong_ns = p->answered_ns = 0;
        p->result_seq = 0;
        p->pong_amnesiac = false;
        r->deposed = r->deposed == frame->peer ? REPLICA_NODE_NONE : r->deposed;
        r->differing &= (uint8_t) ~(1u << frame->peer);
        p->promise.given = p->answer.given = false;
        p->sent = r->commit_seq;
        for (uint32_t i = 0; i < r->range_count; i++)
            range_peers(r, &r->ranges[i])[frame->peer] = 0;
    }
    p->heard_ns = r->now_ns;
    switch ((enum wire_kind)frame->kind) {
    case WIRE_VECTOR: replica_fetch_vector_frame(r, frame); break;
    case WIRE_FETCH: replica_fetch_bodies_frame(r, frame); break;
    case WIRE_GONE: replica_fetch_gone_frame(r, frame); break;
    case WIRE_NOT_YET: replica_fetch_not_yet_frame(r, frame); break;
    case WIRE_PREPARE: replica_lead_prepare_frame(r, frame); break;
    case WIRE_PROMISE: replica_lead_promise_frame(r, frame); break;
    case WIRE_PROPOSE: replica_order_propose_frame(r, frame); break;
    case WIRE_ACK: replica_order_ack_frame(r, frame); break;
    case WIRE_HEARTBEAT: replica_order_heartbeat_frame(r, frame); break;
    case WIRE_EPOCH_FETCH: replica_fetch_epochs_frame(r, frame); break;
    case WIRE_EPOCH: replica_fetch_epoch_frame(r, frame); break;
    case WIRE_EPOCH_GONE: replica_fetch_epoch_gone_frame(r, frame); break;
    case WIRE_HANDOVER: replica_lead_handover_frame(r, frame); break;
    case WIRE_RECOVER: replica_recovery_recover_frame(r, frame); break;
    case WIRE_RECOVERED: replica_recovery_recovered_frame(r, frame); break;
    case WIRE_PING: replica_lead_ping_frame(r, frame); break;
    case WIRE_PONG: replica_lead_pong_frame(r, frame); break;
    case WIRE_HELLO:
    case WIRE_TX:
    case WIRE_BODY:
    case WIRE_RESULT:
    case WIRE_SEALED:
    case WIRE_NOT_OWNER:
    case WIRE_TX_QUERY:
    case WIRE_TX_STATE:
    case WIRE_RANGE_REQUEST:
    case WIRE_RANGE_GRANT:
    case WIRE_RANGE_RENEW:
    case WIRE_RANGE_CLOSE: replica_dropped(r, WIRE_DROP_FRAME_ROLE); break;
    }
}

static void incarnations_event(struct replica *r, const uint64_t *newest) {
    for (uint32_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i) && newest[i] > r->peers[i].incarnation && !MUTANT(incarnations_ignored)) {
            r->peers[i].incarnation = newest[i];
            r->peers[i].acked = r->peers[i].exec_seq = r->peers[i].vector_packet = 0;
            r->peers[i].promise.given = r->peers[i].answer.given = false;
        }
}

static void tick_event(struct replica *r) {
    if (r->stopped)
        return;
    r->loading = false;
    replica_log_advance(r);
    replica_lead_tick(r);
    replica_recovery_tick(r);
    if (r->stopped)
        return;
    if (r->role == REPLICA_ROLE_LEADER)
        replica_order_tick_leader(r);
    else if (r->role == REPLICA_ROLE_FOLLOWER)
        replica_order_tick_follower(r);
    replica_log_tick(r);
    replica_fetch_tick(r);
    replica_ranges_tick(r);
    replica_slice_pass_end(r);
}

/* A record of the journal is in the journal: nothing is appended, and nothing is refused for want
 * of room. */
static void replay(struct replica *r, const struct replica_event *event) {
    bool durable = r->config.durable;
    r->config.durable = false;
    r->replaying = true;
    if (event->kind == REPLICA_EVENT_REPLAY_BODY)
        replica_body_event(r, &event->replay_body);
    else if (event->kind == REPLICA_EVENT_REPLAY_COMMIT)
        replica_log_replay_commit(r, event->replay_commit.commit_seq);
    else
        replica_recovery_replay_epoch(r, event->replay_epoch.bytes,
                                      event->replay_epoch.length_bytes,
                                      event->replay_epoch.commit_seq);
    r->replaying = false;
    r->config.durable = durable;
    if (!r->stopped)
        replica_log_load(r);
}

void replica_step(struct replica *r, const struct replica_event *event,
                  struct replica_actions *actions) {
    r->actions = actions;
    assert(event->now_ns >= r->now_ns);
    r->now_ns = event->now_ns;
    if (r->due_ns)
        replica_slice_pass(r);
    if (event->wall_us)
        r->wall_us = event->wall_us;
    switch (event->kind) {
    case REPLICA_EVENT_TICK: tick_event(r); break;
    case REPLICA_EVENT_BODY: replica_body_event(r, &event->body); break;
    case REPLICA_EVENT_FRAME:
        if (!r->stopped)
            frame_event(r, &event->frame);
        break;
    case REPLICA_EVENT_QUERY:
        replica_query(r, event->query.id, event->query.owner, event->query.gateway,
                      event->query.offset_bytes, event->query.length_bytes);
        break;
    case REPLICA_EVENT_STABLE:
        r->stable_position = max_u64(r->stable_position, event->stable.position);
        break;
    case REPLICA_EVENT_EXECUTED:
        replica_log_executed(r, event->executed.seq, &event->executed.result_hash);
        if (r->loading)
            replica_log_load(r);
        break;
    case REPLICA_EVENT_LEADER_KEY:
        replica_lead_key(r, event->leader_key.revision, event->leader_key.term,
                         event->leader_key.node, event->leader_key.ours);
        break;
    case REPLICA_EVENT_CAMPAIGN_RESULT:
        replica_lead_campaign_result(r, event->campaign.revision, event->campaign.term,
                                     event->campaign.token, event->campaign.won,
                                     event->campaign.late);
        break;
    case REPLICA_EVENT_INCARNATIONS: incarnations_event(r, event->incarnations.newest); break;
    case REPLICA_EVENT_ETCD_LATENCY: r->etcd_latency_ns = event->etcd.latency_ns; break;
    case REPLICA_EVENT_RANGE_HELLO:
        replica_range_hello(r, event->range_hello.range, event->range_hello.owner,
                            event->range_hello.gateway);
        break;
    case REPLICA_EVENT_RANGE_CHECKED:
        replica_range_checked(r, event->range_checked.range, event->range_checked.owner,
                              event->range_checked.owned, event->range_checked.start);
        break;
    case REPLICA_EVENT_RANGE_EXPIRED:
        replica_range_expired(r, event->range_expired.range, event->range_expired.owner);
        break;
    case REPLICA_EVENT_HANDOVER: replica_lead_handover(r); break;
    case REPLICA_EVENT_RESTORE_RANGE:
        replica_recovery_restore_range(r, event->restore_range.range, event->restore_range.owner,
                                       event->restore_range.position, event->restore_range.open);
        break;
    case REPLICA_EVENT_RESTORED: replica_recovery_restored(r, &event->restored); break;
    case REPLICA_EVENT_LEARN:
        if (!r->stopped)
            replica_recovery_learn(r, event->learn.bytes, event->learn.length_bytes);
        break;
    case REPLICA_EVENT_REPLAY_PROMISE:
        if (event->replay_promise.term >= r->promised_term) {
            r->promised_term = event->replay_promise.term;
            r->promised_winner = event->replay_promise.winner;
            r->promised_token = event->replay_promise.token;
        }
        break;
    case REPLICA_EVENT_REPLAY_EPOCH:
    case REPLICA_EVENT_REPLAY_COMMIT:
    case REPLICA_EVENT_REPLAY_BODY: replay(r, event); break;
    case REPLICA_EVENT_REPLAY_END: replica_recovery_replay_end(r); break;
    }
    r->actions = NULL;
}

/* ---- reading ---- */

uint32_t replica_delivery(const struct replica *replica, uint64_t seq, const uint8_t **ret_epoch,
                          uint32_t *ret_epoch_bytes, struct wire_hash *ret_hash,
                          struct replica_delivered_body *bodies) {
    struct replica *r =
        (struct replica *)(uintptr_t)replica; /* caches of looking up are not state */
    struct epoch *e = epoch_at(r, seq);
    const struct wire_epoch_head *head = head_of(e);
    const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
    uint32_t count = 0;
    for (uint32_t i = 0; i < head->interval_count; i++) { /* number seq mod count comes first */
        const struct wire_interval *v =
            &intervals[(MUTANT(order_unrotated) ? i : seq + i) % head->interval_count];
        struct range *g = replica_range_find(r, wire_tx_range(v->first_id));
        for (uint32_t j = 0; j < v->count; j++) {
            uint32_t slot = replica_body_slot(r, g, wire_tx_offset(v->first_id) + j, NULL);
            assert(slot != REPLICA_SLOT_NONE);
            bodies[count++] = (struct replica_delivered_body){v->first_id + j, slot};
        }
    }
    *ret_epoch = e->bytes;
    *ret_epoch_bytes = e->length_bytes;
    *ret_hash = *replica_log_hash(r, seq);
    return count;
}

void replica_facts(const struct replica *r, struct replica_facts *f) {
    memset(f, 0, sizeof *f);
    f->role = r->snapshot_wanted && r->amnesiac ? REPLICA_ROLE_NEEDS_BOOTSTRAP : r->role;
    if (replica_quarantined(r) && !r->stopped)
        f->role = REPLICA_ROLE_QUARANTINED;
    f->quarantined_seq = r->quarantined_seq;
    f->differing = r->differing;
    f->lost = replica_recovery_lost(r);
    f->leader = r->leader;
    f->ring_distance = replica_lead_distance(r);
    f->hears_leader = replica_lead_hears(r);
    f->promised_term = r->promised_term;
    f->leader_revision = r->key_revision;
    f->base_seq = r->base_seq;
    f->last_seq = r->last_seq;
    f->held_seq = r->held_seq;
    f->acknowledged_seq = r->acked_seq;
    f->matched = r->matched;
    f->commit_seq = r->commit_seq;
    f->delivered_seq = r->delivered_seq;
    f->exec_seq = r->exec_seq;
    f->last_term = replica_log_term(r, r->last_seq);
    f->logical_time_us = replica_log_time(r, r->exec_seq);
    f->commit_hash = *replica_log_hash((struct replica *)(uintptr_t)r, r->commit_seq);
    f->exec_term = replica_log_term(r, r->exec_seq);
    f->exec_hash = *replica_log_hash((struct replica *)(uintptr_t)r, r->exec_seq);
    f->result_hash =
        r->exec_seq == r->base_seq ? r->base_result_hash : epoch_at(r, r->exec_seq)->result_hash;
    f->append_position = r->append_position;
    f->stable_position = r->config.durable ? r->stable_position : r->append_position;
    f->slice_ns = r->slice_ns;
    f->takeover_delay_ns = replica_slice_delay_ns(r);
    for (uint32_t i = 0; i < peers_count(r); i++) {
        f->peer_incarnation[i] = r->peers[i].incarnation;
        f->peer_rtt_ns[i] = r->peers[i].rtt_ns;
        f->peer_heard_ns[i] = r->peers[i].heard_ns;
        f->peer_commit_seq[i] = r->peers[i].commit_seq;
        f->peer_exec_seq[i] = r->peers[i].exec_seq;
    }
    f->range_count = r->ranges_used;
    f->ranges_retired = r->retired_count;
    f->ranges_full = r->ranges_used >= r->config.ranges_max || replica_ranges_exhausted(r);
    f->range_floor = r->range_floor;
    f->slots_used = r->slots_used;
    f->epochs_committed = r->epochs_committed;
    f->bodies_committed = r->bodies_committed;
    f->takeovers = r->takeovers;
    f->divergence = r->divergence;
    f->fetch_requests = r->fetch_requests;
    f->fetched_bodies = r->fetched_bodies;
    f->bodies_replaced = r->bodies_replaced;
}

bool replica_leads(const struct replica *r) {
    return r->role == REPLICA_ROLE_LEADER;
}

void replica_progress(const struct replica *r, uint64_t *ret_commit_seq, uint64_t *ret_exec_seq,
                      uint64_t *ret_acknowledged_seq, struct wire_hash *ret_result_hash) {
    *ret_commit_seq = r->commit_seq;
    *ret_exec_seq = r->exec_seq;
    *ret_acknowledged_seq = r->acked_seq;
    *ret_result_hash =
        r->exec_seq == r->base_seq ? r->base_result_hash : epoch_at(r, r->exec_seq)->result_hash;
}

void replica_pace(const struct replica *r, struct replica_pace *ret_pace) {
    *ret_pace = (struct replica_pace){
        .term = r->promised_term,
        .last_seq = r->last_seq,
        .commit_seq = r->commit_seq,
        .frame_ns = r->last_frame_ns,
        .takeover_ns = r->takeover.committed_ns,
        .leads = r->role == REPLICA_ROLE_LEADER,
    };
}

void replica_takeover(const struct replica *r, struct replica_takeover *ret_takeover) {
    *ret_takeover = r->takeover;
}

bool replica_range_next(const struct replica *r, uint32_t *place,
                        struct replica_range_facts *ret_range) {
    while (*place < r->range_count && !r->ranges[*place].in_use)
        ++*place;
    if (*place >= r->range_count)
        return false;
    const struct range *g = &r->ranges[(*place)++];
    *ret_range = (struct replica_range_facts){
        g->range,    g->owner,  g->state == RANGE_OPEN, g->state == RANGE_SEALED,
        g->received, g->logged, g->committed,           g->executed};
    return true;
}

bool replica_range_retired(const struct replica *replica, uint64_t range, uint32_t *ret_end) {
    const struct retired *retired = replica_retired_find(replica, range);
    if (!retired || replica_range_find(replica, range))
        return false;
    *ret_end = retired_end(retired);
    return true;
}

bool replica_body_taken(const struct replica *replica, uint64_t id) {
    const struct range *g =
        replica_range_find((struct replica *)(uintptr_t)replica, wire_tx_range(id));
    return !g || !g->purging || wire_tx_offset(id) < g->purge_from;
}

enum replica_range_life replica_range_end(const struct replica *replica, uint64_t range,
                                          uint32_t *ret_end) {
    const struct range *g = replica_range_find((struct replica *)(uintptr_t)replica, range);
    if (!g)
        return replica_range_retired(replica, range, ret_end) ? REPLICA_RANGE_ENDED
                                                              : REPLICA_RANGE_UNKNOWN;
    if (g->state == RANGE_UNOPENED)
        return REPLICA_RANGE_UNKNOWN;
    if (g->state == RANGE_OPEN || !g->sealed_executed)
        return REPLICA_RANGE_OPEN;
    *ret_end = g->logged;
    return REPLICA_RANGE_ENDED;
}

const uint8_t *replica_epoch(const struct replica *r, uint64_t seq, uint32_t *ret_bytes,
                             struct wire_hash *ret_hash) {
    if (seq <= r->base_seq || seq > r->last_seq)
        return NULL;
    const struct epoch *e = epoch_at(r, seq);
    *ret_bytes = e->length_bytes;
    *ret_hash = *replica_log_hash((struct replica *)(uintptr_t)r, seq);
    return e->bytes;
}

uint32_t replica_body(const struct replica *replica, uint64_t id, struct wire_digest *ret_digest) {
    struct replica *r = (struct replica *)(uintptr_t)replica;
    struct range *g = replica_range_find(r, wire_tx_range(id));
    return g ? replica_body_slot(r, g, wire_tx_offset(id), ret_digest) : REPLICA_SLOT_NONE;
}

uint64_t replica_next_deadline_ns(const struct replica *r) {
    if (r->purge_place < r->range_count)
        return r->now_ns;
    uint64_t at = r->next_ping_ns;
    if (peers_count(r) > 1)
        at = min_u64(at, min_u64(r->forced_vector_ns, r->next_fetch_ns));
    if (r->range_count)
        at = min_u64(at, r->next_rotate_ns);
    at = min_u64(at, replica_log_note_ns(r));
    if (r->role == REPLICA_ROLE_LEADER || r->role == REPLICA_ROLE_PREPARING)
        at = min_u64(at, r->next_heartbeat_ns);
    if (r->epoch_fetch.purpose != FETCH_NOTHING)
        at = min_u64(at, r->epoch_fetch.retry_at_ns);
    if (r->role == REPLICA_ROLE_FOLLOWER && r->key_known)
        at = min_u64(at, max_u64(r->now_ns + r->slice_ns / 8,
                                 r->leader_heard_ns + replica_slice_delay_ns(r)));
    return at;
}
