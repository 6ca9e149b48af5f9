#include "dataplane/replica/internal.h"

/* ---- tables: open addressing, linear probing, deletion by shifting back (Knuth 6.4 algorithm R)
 * ---- */

uint64_t replica_mix(uint64_t x) { /* splitmix64's finalizer (Steele, Lea, Flood 2014) */
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* A free place, blank but for the queues that it still stands in. */
static struct range *place_take(struct replica *r) {
    uint32_t place = r->range_free;
    if (place == INDEX_NONE) {
        assert(r->range_count < r->range_places);
        place = r->range_count++;
        memset(&r->ranges[place], 0, sizeof r->ranges[place]);
    } else {
        r->range_free = r->ranges[place].gateway;
    }
    r->ranges_used++;
    return &r->ranges[place];
}

static void place_blank(struct replica *r, struct range *g) {
    struct range blank = {.hot_chunk = INDEX_NONE,
                          .fetch_peer = REPLICA_NODE_NONE,
                          .waiting = g->waiting,
                          .vector_dirty = g->vector_dirty,
                          .progress_dirty = g->progress_dirty};
    *g = blank;
    memset(range_peers(r, g), 0, r->config.node_count * sizeof(uint32_t));
}

static struct range *range_make(struct replica *r, uint64_t range, bool for_log) {
    if (r->ranges_used >= (for_log ? r->range_places : r->config.ranges_max) &&
        !replica_range_make_room(r, for_log))
        return NULL;
    struct range *g = place_take(r);
    place_blank(r, g);
    g->range = range;
    g->in_use = true;
    g->hello_ns = r->now_ns;
    r->range_index[range_probe(r, range)] = range_place(r, g);
    if (range >= r->range_floor)
        r->range_floor = range + 1;
    const struct retired *retired = replica_retired_find(r, range);
    if (retired) { /* a pinned range that may get its next owner */
        uint32_t end = retired_end(retired);
        g->state = RANGE_SEALED;
        g->sealed_executed = true;
        g->owner = g->executed_owner = retired_owner_mark(retired);
        g->received = g->complete = g->tx_end = g->highest = g->named = end;
        g->logged = g->committed = g->executed = g->released = end;
    }
    return g;
}

struct range *replica_range_get(struct replica *r, uint64_t range) {
    struct range *g = replica_range_find(r, range);
    return g ? g : range_make(r, range, false);
}

struct range *replica_range_get_for_log(struct replica *r, uint64_t range) {
    struct range *g = replica_range_find(r, range);
    return g ? g : range_make(r, range, true);
}

void replica_range_drop(struct replica *r, struct range *g) {
    uint32_t hole = range_probe(r, g->range), place = range_place(r, g);
    assert(r->range_index[hole] == place && !g->behind);
    for (uint32_t at = (hole + 1) & r->range_index_mask; r->range_index[at] != INDEX_NONE;
         at = (at + 1) & r->range_index_mask) {
        uint32_t home = range_home(r, r->ranges[r->range_index[at]].range);
        if (((at - home) & r->range_index_mask) >= ((at - hole) & r->range_index_mask)) {
            r->range_index[hole] = r->range_index[at];
            hole = at;
        }
    }
    r->range_index[hole] = INDEX_NONE;
    place_blank(r, g);
    g->gateway = r->range_free;
    r->range_free = place;
    r->ranges_used--;
}

void replica_queue_push(struct queue *q, uint32_t place, bool *flag) {
    if (*flag)
        return;
    *flag = true;
    assert(q->count < q->size);
    uint32_t at = q->head + q->count++;
    q->items[at < q->size ? at : at - q->size] = place;
}

uint32_t replica_queue_pop(struct queue *q) {
    assert(q->count > 0);
    uint32_t place = q->items[q->head];
    q->head = q->head + 1 == q->size ? 0 : q->head + 1;
    q->count--;
    return place;
}

/* ---- chunks of bodies ---- */

static uint32_t chunk_probe(const struct replica *r, uint64_t key) {
    uint32_t at = (uint32_t)replica_mix(key) & r->chunk_index_mask;
    while (r->chunk_index[at] != INDEX_NONE && r->chunks[r->chunk_index[at]].key != key)
        at = (at + 1) & r->chunk_index_mask;
    return at;
}

static struct chunk *chunk_find(struct replica *r, struct range *g, uint32_t offset) {
    uint64_t key = wire_tx_id(g->range, offset) >> CHUNK_SHIFT;
    if (g->hot_chunk != INDEX_NONE && r->chunks[g->hot_chunk].key == key)
        return &r->chunks[g->hot_chunk];
    uint32_t place = r->chunk_index[chunk_probe(r, key)];
    if (place == INDEX_NONE)
        return NULL;
    g->hot_chunk = place;
    return &r->chunks[place];
}

static struct chunk *chunk_get(struct replica *r, struct range *g, uint32_t offset) {
    struct chunk *c = chunk_find(r, g, offset);
    if (c || r->chunk_free == INDEX_NONE)
        return c;
    uint32_t place = r->chunk_free;
    c = &r->chunks[place];
    r->chunk_free = c->next_free;
    c->key = wire_tx_id(g->range, offset) >> CHUNK_SHIFT;
    c->used = 0;
    for (uint32_t i = 0; i < CHUNK_BODIES; i++)
        c->slot[i] = REPLICA_SLOT_NONE;
    r->chunk_index[chunk_probe(r, c->key)] = place;
    g->hot_chunk = place;
    return c;
}

static void chunk_drop(struct replica *r, struct range *g, struct chunk *c) {
    uint32_t hole = chunk_probe(r, c->key);
    uint32_t place = r->chunk_index[hole];
    assert(place == (uint32_t)(c - r->chunks));
    for (uint32_t at = (hole + 1) & r->chunk_index_mask; r->chunk_index[at] != INDEX_NONE;
         at = (at + 1) & r->chunk_index_mask) {
        uint32_t home =
            (uint32_t)replica_mix(r->chunks[r->chunk_index[at]].key) & r->chunk_index_mask;
        if (((at - home) & r->chunk_index_mask) >= ((at - hole) & r->chunk_index_mask)) {
            r->chunk_index[hole] = r->chunk_index[at];
            hole = at;
        }
    }
    r->chunk_index[hole] = INDEX_NONE;
    c->key = UINT64_MAX;
    c->next_free = r->chunk_free;
    r->chunk_free = place;
    if (g->hot_chunk == place)
        g->hot_chunk = INDEX_NONE;
}

uint32_t replica_body_slot(struct replica *r, struct range *g, uint32_t offset,
                           struct wire_digest *ret_digest) {
    struct chunk *c = chunk_find(r, g, offset);
    if (!c)
        return REPLICA_SLOT_NONE;
    uint32_t i = offset & (CHUNK_BODIES - 1);
    if (ret_digest && c->slot[i] != REPLICA_SLOT_NONE)
        *ret_digest = c->digest[i];
    return c->slot[i];
}

bool replica_body_parts(struct replica *r, struct range *g, uint32_t offset, uint16_t *ret_parts) {
    struct chunk *c = chunk_find(r, g, offset);
    uint32_t i = offset & (CHUNK_BODIES - 1);
    if (!c || c->slot[i] == REPLICA_SLOT_NONE)
        return false;
    *ret_parts = c->parts[i];
    return true;
}

/* Many to an action: all bodies of the last pass are freed in one tick. */
static void slot_free(struct replica *r, uint32_t slot) {
    struct replica_actions *all = r->actions;
    struct replica_action *a = all->count ? &all->items[all->count - 1] : NULL;
    if (!a || a->kind != REPLICA_ACTION_FREE_SLOTS || a->slot_count == REPLICA_SLOTS_MAX)
        a = replica_action_new(r, REPLICA_ACTION_FREE_SLOTS);
    a->slots[a->slot_count++] = slot;
}

void replica_body_free(struct replica *r, struct range *g, uint32_t offset) {
    struct chunk *c = chunk_find(r, g, offset);
    uint32_t i = offset & (CHUNK_BODIES - 1);
    if (!c || c->slot[i] == REPLICA_SLOT_NONE)
        return;
    slot_free(r, c->slot[i]);
    c->slot[i] = REPLICA_SLOT_NONE;
    assert(r->slots_used > 0 && c->used > 0);
    r->slots_used--;
    if (--c->used == 0)
        chunk_drop(r, g, c);
}

/* Sum of the digests of an interval that is held; false when a body of it is missing. */
bool replica_interval_digest(struct replica *r, const struct wire_interval *interval,
                             struct wire_digest *sum) {
    struct range *g = replica_range_find(r, wire_tx_range(interval->first_id));
    if (!g)
        return false;
    uint32_t offset = wire_tx_offset(interval->first_id), end = offset + interval->count;
    while (offset < end) {
        struct chunk *c = chunk_find(r, g, offset);
        if (!c)
            return false;
        for (uint32_t i = offset & (CHUNK_BODIES - 1); i < CHUNK_BODIES && offset < end;
             i++, offset++) {
            if (c->slot[i] == REPLICA_SLOT_NONE)
                return false;
            *sum = wire_digest_add(*sum, c->digest[i]);
        }
    }
    return true;
}

/* ---- positions ---- */

void replica_range_mark(struct replica *r, struct range *g) {
    if (!g->in_use)
        return;
    uint32_t place = range_place(r, g);
    replica_queue_push(&r->vector_dirty, place, &g->vector_dirty);
    if (g->hello_owner)
        replica_queue_push(&r->progress_dirty, place, &g->progress_dirty);
    if (g->state == RANGE_OPEN && g->complete > g->logged)
        replica_queue_push(&r->waiting, place, &g->waiting);
}

/* The first part of a transaction says where it ends; one that would reach over its range's end is
 * a transaction of one (malformed) body. Contradicting later parts change nothing here: the runtime
 * refuses them. */
static void advance_over(struct range *g, uint16_t parts_following) {
    if (g->received == g->complete) {
        uint64_t end = (uint64_t)g->received + 1 + parts_following;
        g->tx_end = end > WIRE_RANGE_OFFSETS ? g->received + 1 : (uint32_t)end;
    }
    g->received++;
    if (g->received == g->tx_end)
        g->complete = g->received;
}

void replica_range_advance(struct replica *r, struct range *g) {
    uint32_t before = g->received, end = g->highest;
    if (g->purging) /* what is above is another's and on its way out */
        end = min_u32(end, g->purge_from);
    while (g->received < end) {
        struct chunk *c = chunk_find(r, g, g->received);
        uint32_t i = g->received & (CHUNK_BODIES - 1);
        if (!c || c->slot[i] == REPLICA_SLOT_NONE)
            break;
        advance_over(g, c->parts[i]);
    }
    if (g->received == before)
        return;
    if (g->behind && g->received >= g->fetch_end) {
        g->fetch_tries = 0;
        g->gone_mask = 0;
        /* Far behind: the next part at once. Else bodies come, a little later than to others. */
        bool far = g->named > g->received + FETCH_FAR_BODIES;
        g->fetch_at_ns = far ? r->now_ns : r->now_ns + replica_fetch_wait_ns(r);
    }
    replica_range_mark(r, g);
}

/* ---- a body arrives ---- */

uint32_t replica_slots_room(const struct replica *r) {
    return r->config.body_slots -
           min_u32(r->config.epochs_in_flight * r->config.epoch_cap, r->config.body_slots / 2);
}

static const struct epoch *next_to_hold(const struct replica *r) {
    return r->held_seq < r->last_seq ? epoch_at(r, r->held_seq + 1) : NULL;
}

/* The last slots are for the epoch that is held next: with them it is committed, executed and
 * released, whatever else is here. Others of the log come later. */
static bool far_from_held(const struct replica *r, uint64_t id) {
    const struct epoch *next = next_to_hold(r);
    return r->slots_used >= r->config.body_slots - r->config.epoch_cap &&
           (!next || !replica_epoch_names(next, id));
}

static void refuse(struct replica *r, const struct replica_event_body *b, enum wire_drop reason) {
    slot_free(r, b->slot);
    replica_dropped(r, reason);
}

static void answer_sealed(struct replica *r, uint64_t range, uint32_t end, uint32_t gateway) {
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_SEALED);
    a->range = range;
    a->end = end;
    a->gateway = gateway;
}

/* Owners of what is sealed are known by their marks (proto/retired.h). */
static bool sealed_owner(const struct range *g, uint64_t owner) {
    return retired_mark(g->owner) == retired_mark(owner);
}

/* A range that another holds. Who held it just before is told where his holding ended: that SEAL
 * was executed here, and he never holds it again. */
static void answer_not_owner(struct replica *r, const struct range *g, uint64_t owner,
                             uint64_t asker, uint32_t gateway) {
    if (asker && retired_mark(asker) == retired_mark(g->previous_owner)) {
        answer_sealed(r, g->range, g->open_at, gateway);
        return;
    }
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_NOT_OWNER);
    a->range = g->range;
    a->owner = owner;
    a->gateway = gateway;
}

/* After an arbiter's restore two gateways may hold one range that was never opened. He whom the
 * arbiter does not know lets the other speak. */
static bool denied(const struct replica *r, const struct range *g, uint64_t claimant) {
    return g->denied_mark && g->denied_mark == retired_mark(claimant) && r->now_ns < g->check_at_ns;
}

/* Whose bodies may lie above what the log names; 0: nobody's. Before its OPEN a range belongs to
 * whom its HELLO names. */
uint64_t replica_range_word(const struct range *g) {
    if (g->purging)
        return 0;
    switch ((enum range_state)g->state) {
    case RANGE_OPEN: return g->owner;
    case RANGE_SEALED: return g->sealed_executed ? g->hello_owner : 0;
    case RANGE_UNOPENED: return g->hello_owner;
    }
    return 0;
}

/* What a gateway's body meets before it is looked at: true when it was answered or refused. */
static bool gateway_refused(struct replica *r, struct range *g,
                            const struct replica_event_body *b) {
    uint32_t offset = wire_tx_offset(b->id);
    if (g->state == RANGE_SEALED) {
        if (offset < g->logged)
            return false;
        if (!g->sealed_executed || sealed_owner(g, b->owner)) {
            if (g->sealed_executed)
                answer_sealed(r, g->range, g->logged, b->gateway);
            refuse(r, b, WIRE_DROP_SEALED);
            return true;
        } /* else a pinned range's next owner: on its HELLO's word */
    }
    uint64_t owner = g->state == RANGE_OPEN ? g->owner : g->hello_owner;
    if (owner ? owner != b->owner : denied(r, g, b->owner)) {
        answer_not_owner(r, g, owner, b->owner, b->gateway);
        refuse(r, b, WIRE_DROP_NOT_OWNER);
        return true;
    }
    return false;
}

/* Ids of a pinned range above a SEAL are its next owner's. An owner who asks for an executed id of
 * his is never given what another did under it: he is told where his holding ended, or that the
 * range is not his. */
bool replica_range_others_result(struct replica *r, uint64_t id, uint64_t asker, uint32_t gateway) {
    uint64_t range = wire_tx_range(id);
    struct range *g = replica_range_find(r, range);
    const struct retired *retired = g ? NULL : replica_retired_find(r, range);
    uint32_t mark = retired_mark(asker);
    uint32_t last = g ? retired_mark(g->executed_owner) : retired ? retired_owner_mark(retired) : 0;
    if (!last || last == mark || MUTANT(result_of_anybody))
        return false;
    if (g && mark == retired_mark(g->previous_owner) && wire_tx_offset(id) < g->open_at)
        return false;
    if (g) {
        answer_not_owner(r, g, g->executed_owner, asker, gateway);
        return true;
    }
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_NOT_OWNER);
    a->range = range;
    a->gateway = gateway;
    return true;
}

static void want_result(struct replica *r, uint64_t id, uint64_t owner, uint32_t gateway) {
    if (replica_range_others_result(r, id, owner, gateway))
        return;
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_RESULT_WANTED);
    a->id = id;
    a->gateway = gateway;
}

/* A body of a retired range: executed, or of its last owner. Another may be its next one. */
static bool retired_refused(struct replica *r, const struct replica_event_body *b) {
    uint64_t range = wire_tx_range(b->id);
    const struct retired *retired =
        replica_range_find(r, range) ? NULL : replica_retired_find(r, range);
    if (!retired)
        return false;
    if (wire_tx_offset(b->id) < retired_end(retired)) {
        if (!r->replaying && !replica_quarantined(r))
            want_result(r, b->id, b->owner, b->gateway);
        refuse(r, b, WIRE_DROP_DUPLICATE);
        return true;
    }
    if (r->replaying || retired_owner_mark(retired) != retired_mark(b->owner))
        return false;
    answer_sealed(r, range, retired_end(retired), b->gateway);
    refuse(r, b, WIRE_DROP_SEALED);
    return true;
}

/* Do the held epochs name it? Then it is the one under their digests. */
static bool held_names(const struct replica *r, uint64_t id) {
    for (uint64_t seq = r->held_seq; seq > r->base_seq; seq--)
        if (replica_epoch_names(epoch_at(r, seq), id))
            return true;
    return false;
}

/* A body whose id is held: the same bytes are a duplicate; others are put right only by a repair
 * (log.c). */
static void body_again(struct replica *r, const struct replica_event_body *b, struct chunk *c) {
    uint32_t i = wire_tx_offset(b->id) & (CHUNK_BODIES - 1);
    if (wire_digest_equal(c->digest[i], b->digest)) {
        refuse(r, b, WIRE_DROP_DUPLICATE);
        return;
    }
    const struct epoch *wrong = next_to_hold(r);
    if (!r->replaying && wrong && wrong->repairing && wrong->wrong_at != r->bodies_changed) {
        replica_log_advance(r); /* perhaps the body before this one has put it right */
        wrong = next_to_hold(r);
    }
    bool repairing = b->peer != REPLICA_NODE_NONE && wrong && wrong->repairing &&
                     replica_epoch_names(wrong, b->id);
    if (r->replaying) /* the later record replaced the earlier, unless this one is right */
        repairing = !held_names(r, b->id);
    if (!repairing && !(MUTANT(fetch_trusted) && b->peer != REPLICA_NODE_NONE)) {
        refuse(r, b, WIRE_DROP_CONFLICT);
        return;
    }
    slot_free(r, c->slot[i]);
    c->slot[i] = b->slot;
    c->digest[i] = b->digest;
    c->parts[i] = b->parts_following;
    r->bodies_replaced++;
    r->bodies_changed++;
    if (r->config.durable) {
        struct replica_action *a = replica_action_new(r, REPLICA_ACTION_APPEND_BODY);
        a->id = b->id;
        a->slot = b->slot;
        a->position = r->append_position++;
    }
}

static void body_store(struct replica *r, struct range *g, const struct replica_event_body *b) {
    uint32_t offset = wire_tx_offset(b->id), i = offset & (CHUNK_BODIES - 1);
    struct chunk *c = chunk_get(r, g, offset);
    if (!c) {
        refuse(r, b, WIRE_DROP_BODY_POOL);
        return;
    }
    c->slot[i] = b->slot;
    c->digest[i] = b->digest;
    c->parts[i] = b->parts_following;
    c->used++;
    r->slots_used++;
    r->bodies_stored++;
    r->bodies_changed += offset < g->named;
    g->highest = max_u32(g->highest, offset + 1);
    if (r->config.durable) {
        struct replica_action *a = replica_action_new(r, REPLICA_ACTION_APPEND_BODY);
        a->id = b->id;
        a->slot = b->slot;
        a->position = r->append_position++;
    }
    if (b->peer != REPLICA_NODE_NONE && !r->replaying)
        r->fetched_bodies++;
    if (offset == g->received)
        replica_range_advance(r, g);
    else if (offset > g->received && !g->behind) /* a gap: what is below may be lost */
        replica_fetch_want(r, g, r->now_ns + replica_fetch_wait_ns(r));
}

void replica_body_event(struct replica *r, const struct replica_event_body *b) {
    bool from_gateway = b->peer == REPLICA_NODE_NONE && !r->replaying;
    uint32_t offset = wire_tx_offset(b->id);
    if (b->parts_following >= r->config.epoch_cap) { /* could never be cut into an epoch */
        refuse(r, b, WIRE_DROP_FRAME_VALUE);
        return;
    }
    if ((from_gateway || r->replaying) && retired_refused(r, b))
        return;
    struct range *g = from_gateway   ? replica_range_get(r, wire_tx_range(b->id))
                      : r->replaying ? replica_range_get_for_log(r, wire_tx_range(b->id))
                                     : replica_range_find(r, wire_tx_range(b->id));
    if (!g) {
        refuse(r, b, from_gateway ? WIRE_DROP_RANGES_FULL : WIRE_DROP_RANGE_UNKNOWN);
        if (r->replaying)
            replica_fail_stop(r, "the journal names more ranges than ranges_max allows");
        return;
    }
    if (from_gateway) {
        if (gateway_refused(r, g, b))
            return;
        if (!g->hello_owner)
            g->hello_owner = b->owner;
        if (g->hello_owner == b->owner)
            g->hello_ns = r->now_ns; /* it speaks */
        g->gateway = b->gateway;
    } else if (!r->replaying && offset >= g->named &&
               (!b->owner || b->owner != replica_range_word(g)) && !MUTANT(peer_owner_ignored)) {
        /* no digest would tell: perhaps of a sealed owner; and two that know nobody do not agree */
        refuse(r, b, WIRE_DROP_NOT_OWNER);
        return;
    }
    if (offset < g->executed) {
        if (from_gateway && !replica_quarantined(r))
            want_result(r, b->id, b->owner, b->gateway);
        refuse(r, b, WIRE_DROP_DUPLICATE);
        return;
    }
    if (g->purging && offset >= g->purge_from) {
        refuse(r, b, WIRE_DROP_STALE); /* sent again later */
        return;
    }
    struct chunk *c = chunk_find(r, g, offset);
    if (c && c->slot[offset & (CHUNK_BODIES - 1)] != REPLICA_SLOT_NONE) {
        if (offset == g->received) /* the range was being dropped for its silence */
            replica_range_advance(r, g);
        body_again(r, b, c);
        return;
    }
    if (offset <
        g->received) { /* held once, dropped since: only what an epoch names is taken again */
        refuse(r, b, WIRE_DROP_STALE);
        return;
    }
    if (offset < g->named && !r->replaying && far_from_held(r, b->id)) {
        refuse(r, b, WIRE_DROP_BODY_POOL);
        return;
    }
    if (offset >= g->named && !r->replaying) {
        if (offset >= (uint64_t)g->logged + r->config.window) {
            refuse(r, b, WIRE_DROP_WINDOW);
            return;
        }
        uint32_t room = replica_slots_room(r);
        if (offset > g->received)
            room -= room / 4;
        if (r->slots_used >= room) {
            refuse(r, b, WIRE_DROP_BODY_POOL);
            return;
        }
    }
    body_store(r, g, b);
}

/* ---- who owns what ---- */

static bool may_open(const struct range *g, uint64_t owner) {
    return g->state == RANGE_UNOPENED ||
           (g->state == RANGE_SEALED && g->sealed_executed && !sealed_owner(g, owner));
}

/* What is retired stays so as long as only its last owner speaks of it. */
static const struct retired *retired_of(struct replica *r, uint64_t range, uint64_t owner) {
    const struct retired *retired =
        replica_range_find(r, range) ? NULL : replica_retired_find(r, range);
    return retired && retired_owner_mark(retired) == retired_mark(owner) ? retired : NULL;
}

void replica_range_hello(struct replica *r, uint64_t range, uint64_t owner, uint32_t gateway) {
    const struct retired *retired = retired_of(r, range, owner);
    if (retired) {
        answer_sealed(r, range, retired_end(retired), gateway);
        return;
    }
    struct range *g = replica_range_get(r, range);
    if (!g) {
        replica_dropped(r, WIRE_DROP_RANGES_FULL);
        return;
    }
    if (g->state == RANGE_OPEN && g->owner != owner) {
        answer_not_owner(r, g, g->owner, owner, gateway);
        if (r->now_ns < g->check_at_ns || r->role != REPLICA_ROLE_LEADER)
            return; /* else the arbiter may know of a change of owner */
    } else if (g->state == RANGE_SEALED && sealed_owner(g, owner)) {
        if (g->sealed_executed)
            answer_sealed(r, g->range, g->logged, gateway);
        return;
    } else if (denied(r, g, owner)) {
        answer_not_owner(r, g, 0, owner, gateway);
        return;
    } else {
        if (g->hello_owner != owner && g->hello_owner && g->state != RANGE_OPEN &&
            r->now_ns < g->hello_ns + r->config.seal_after_ns)
            return; /* the first word counts until it falls silent */
        if (g->hello_owner != owner && g->state != RANGE_OPEN)
            replica_range_purge(r, g);
        g->hello_owner = owner;
        g->hello_ns = r->now_ns;
        g->gateway = gateway;
        replica_range_mark(r, g);
    }
    bool to_open = may_open(g, owner);
    if (r->role != REPLICA_ROLE_LEADER || !to_open || g->open_waiting ||
        (r->now_ns < g->check_at_ns && !g->denied_mark))
        return;
    g->denied_mark = 0;
    g->check_at_ns = r->now_ns + RECHECK_RANGE_NS;
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_RANGE_CHECK);
    a->range = range;
    a->owner = owner;
}

/* Open, and long silent: its expiry should have been told. */
static bool range_forsaken(const struct replica *r, const struct range *g) {
    return g->state == RANGE_OPEN && !g->seal_waiting &&
           r->now_ns - g->hello_ns >= FORSAKEN_SEALS * r->config.seal_after_ns;
}

/* An arbiter restored from a backup may have forgotten a range whose gateway is gone: nobody else
 * would ever end it. */
static void check_forsaken(struct replica *r, struct range *g) {
    if (r->role != REPLICA_ROLE_LEADER || !range_forsaken(r, g) || r->now_ns < g->check_at_ns)
        return;
    g->check_at_ns = r->now_ns + FORSAKEN_SEALS * r->config.seal_after_ns;
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_RANGE_CHECK);
    a->range = g->range;
    a->owner = g->owner;
}

static void tell_arbiter_sealed(struct replica *r, uint64_t range, uint64_t owner, uint32_t end) {
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_RANGE_SEALED);
    a->range = range;
    a->owner = owner;
    a->end = end;
}

static void deny(struct replica *r, struct range *g, uint64_t owner) {
    if (g->hello_owner != owner)
        return;
    answer_not_owner(r, g, 0, owner, g->gateway);
    if (g->state == RANGE_OPEN)
        return;
    g->hello_owner = 0;
    g->denied_mark = retired_mark(owner) & RETIRED_MARK_MAX;
    g->check_at_ns = r->now_ns + DENIED_NS;
    replica_range_purge(r, g);
}

/* Granted from a position that is not the range's end: by an arbiter that was restored, through a
 * node that lagged. Nothing was executed under it, or ever is: it ends where the range did. */
static void granted_elsewhere(struct replica *r, struct range *g, uint64_t owner) {
    deny(r, g, owner);
    if (g->state == RANGE_SEALED && g->sealed_executed)
        tell_arbiter_sealed(r, g->range, owner, g->logged);
}

void replica_range_checked(struct replica *r, uint64_t range, uint64_t owner, bool owned,
                           uint32_t start) {
    if (r->role != REPLICA_ROLE_LEADER)
        return;
    struct range *g = owned ? replica_range_get(r, range) : replica_range_find(r, range);
    if (!g)
        return;
    if (!owned && g->state == RANGE_OPEN && g->owner == owner) {
        if (range_forsaken(r, g) && replica_control_waiting(r, WIRE_CONTROL_SEAL, range, 0))
            g->seal_waiting = true;
        return;
    }
    if (!owned) {
        deny(r, g, owner);
        return;
    }
    bool to_open = may_open(g, owner);
    if (to_open && start != g->logged) {
        granted_elsewhere(r, g, owner);
        return;
    }
    if (to_open && !g->open_waiting && replica_control_waiting(r, WIRE_CONTROL_OPEN, range, owner))
        g->open_waiting = true;
}

/* Granted, and its gateway ended before anything was opened. The arbiter must hear of an end, and
 * the end must be in the order, or another leader's OPEN might contradict it: the range is opened
 * for its owner, and sealed when its expiry is told again. */
static void expired_unopened(struct replica *r, struct range *g, uint64_t owner) {
    bool heard =
        g->hello_owner == owner && g->hello_ns && r->now_ns < g->hello_ns + r->config.seal_after_ns;
    if (heard || g->open_waiting || (g->state == RANGE_SEALED && !g->sealed_executed) ||
        r->now_ns < g->check_at_ns)
        return;
    g->check_at_ns = r->now_ns + RECHECK_RANGE_NS;
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_RANGE_CHECK);
    a->range = g->range;
    a->owner = owner;
}

void replica_range_expired(struct replica *r, uint64_t range, uint64_t owner) {
    if (r->role != REPLICA_ROLE_LEADER)
        return;
    const struct retired *retired = retired_of(r, range, owner);
    if (retired) { /* the arbiter forgot: restored */
        tell_arbiter_sealed(r, range, owner, retired_end(retired));
        return;
    }
    struct range *g = replica_range_get(r, range);
    if (!g)
        return;
    if (g->state == RANGE_UNOPENED || (g->state == RANGE_SEALED && !sealed_owner(g, owner))) {
        expired_unopened(r, g, owner);
        return;
    }
    if (g->sealed_executed && r->now_ns >= g->check_at_ns) { /* the same */
        g->check_at_ns = r->now_ns + RECHECK_RANGE_NS;
        tell_arbiter_sealed(r, range, owner, g->logged);
    }
    if (g->state != RANGE_OPEN || g->owner != owner || g->seal_waiting)
        return;
    if (g->hello_owner == owner && g->hello_ns && r->now_ns < g->hello_ns + r->config.seal_after_ns)
        return; /* we hear it: its lease is late, not its process gone */
    if (replica_control_waiting(r, WIRE_CONTROL_SEAL, range, 0))
        g->seal_waiting = true;
}

/* ---- telling gateways ---- */

static uint32_t window_now(const struct replica *r) {
    uint32_t room = replica_slots_room(r);
    uint32_t free = r->slots_used >= room ? 0 : room - r->slots_used;
    uint32_t share = free / max_u32(1, min_u32(r->ranges_used, 64));
    return min_u32(r->config.window, max_u32(share, 64));
}

static void progress_tell(struct replica *r, struct range *g) {
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_RANGE_PROGRESS);
    a->range = g->range;
    a->owner = g->hello_owner;
    a->gateway = g->gateway;
    a->received = g->received;
    a->committed = g->committed;
    a->window = window_now(r);
}

/* Bodies of a range that was never opened and whose gateway has fallen silent hold their slots for
 * nobody. */
static void drop_silent(struct replica *r, struct range *g) {
    if (g->state == RANGE_OPEN || g->highest <= g->logged || g->named > g->logged ||
        r->now_ns - g->hello_ns < r->config.seal_after_ns)
        return;
    replica_range_purge(r, g);
    g->hello_owner = 0;
}

void replica_range_purge(struct replica *r, struct range *g) {
    if (g->highest <= g->logged || r->loading ||
        MUTANT(seal_keeps_bodies)) /* a replay ends with a purge of its own */
        return;
    g->drop_due |= r->config.durable && (!g->purging || g->logged < g->purge_from);
    g->purge_from = g->purging ? min_u32(g->purge_from, g->logged) : g->logged;
    g->purging = true;
    if (g->received > g->purge_from) /* it begins anew: no transaction stays half */
        g->received = g->complete = g->tx_end = g->purge_from;
    r->purge_place = 0;
}

/* A replay that took what memory had dropped might need more slots than there are. */
static void drop_note(struct replica *r, const struct range *g) {
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_APPEND_DROP);
    a->range = g->range;
    a->end = g->purge_from;
    a->position = r->append_position++;
}

static void purge_tick(struct replica *r) {
    uint32_t budget = TICK_RELEASES_MAX;
    for (uint32_t i = 0; i < TICK_RELEASES_MAX && r->purge_place < r->range_count; i++) {
        struct range *g = &r->ranges[r->purge_place];
        while (g->below_from < g->below_to) {
            if (budget-- == 0)
                return;
            replica_body_free(r, g, g->below_from++);
        }
        if (g->drop_due) {
            g->drop_due = false;
            drop_note(r, g);
        }
        while (g->purging && g->highest > g->purge_from) {
            if (budget-- == 0)
                return;
            replica_body_free(r, g, --g->highest);
        }
        if (g->purging) {
            g->purging = false;
            replica_range_mark(r, g);
            if (g->received < g->named)
                replica_fetch_want(r, g, r->now_ns);
        }
        r->purge_place++;
    }
}

void replica_ranges_tick(struct replica *r) {
    if (r->progress_dirty.count &&
        r->now_ns - r->progress_ns >= replica_vector_pause_ns(r, r->bodies_at_progress)) {
        for (uint32_t i = 0; i < TICK_PROGRESS_MAX && r->progress_dirty.count; i++) {
            struct range *g = &r->ranges[replica_queue_pop(&r->progress_dirty)];
            g->progress_dirty = false;
            if (g->in_use && g->hello_owner)
                progress_tell(r, g);
        }
        r->progress_ns = r->now_ns;
        r->bodies_at_progress = r->bodies_stored;
    }
    if (r->bodies_stored != r->bodies_at_rotate)
        r->next_rotate_ns = min_u64(r->next_rotate_ns, r->now_ns + ROTATE_NS);
    if (r->range_count && r->now_ns >= r->next_rotate_ns) {
        bool few = r->range_count <= ROTATE_RANGES; /* each turn is a full round */
        r->rotate_calm = r->bodies_stored != r->bodies_at_rotate ? 0 : r->rotate_calm + 1;
        r->bodies_at_rotate = r->bodies_stored;
        r->next_rotate_ns =
            r->now_ns + (few && r->rotate_calm > ROTATE_CALM ? VECTOR_FORCED_NS : ROTATE_NS);
        for (uint32_t i = 0; i < min_u32(ROTATE_RANGES, r->range_count); i++) {
            if (r->rotate_place >= r->range_count) {
                r->rotate_place = 0;
                r->sealed_kept = r->sealed_kept_now;
                r->sealed_kept_now = false;
            }
            struct range *g = &r->ranges[r->rotate_place++];
            if (!g->in_use || replica_range_retire(r, g))
                continue;
            drop_silent(r, g);
            check_forsaken(r, g);
            replica_range_mark(r, g);
        }
    }
    purge_tick(r);
}

void replica_ranges_reset(struct replica *r) {
    for (uint32_t i = 0; i <= r->range_index_mask; i++)
        r->range_index[i] = INDEX_NONE;
    for (uint32_t i = 0; i <= r->chunk_index_mask; i++)
        r->chunk_index[i] = INDEX_NONE;
    for (uint32_t i = 0; i < r->chunk_count; i++) {
        r->chunks[i].key = UINT64_MAX;
        r->chunks[i].next_free = i + 1 < r->chunk_count ? i + 1 : INDEX_NONE;
    }
    r->chunk_free = r->chunk_count ? 0 : INDEX_NONE;
    r->range_count = r->ranges_used = r->rotate_place = r->retire_place = r->slots_used = 0;
    r->range_free = INDEX_NONE;
    r->range_floor = 0;
    replica_retired_reset(r);
    r->purge_place = UINT32_MAX;
    r->waiting.count = r->vector_dirty.count = r->progress_dirty.count = r->behind.count = 0;
}
