#include "dataplane/replica/internal.h"

/* ---- chunks: open addressing as in ranges.c ---- */

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
    r->refused_ns = 0;
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

/* What a gateway's body meets before it is looked at: true when it was answered or refused. */
static bool gateway_refused(struct replica *r, struct range *g,
                            const struct replica_event_body *b) {
    uint32_t offset = wire_tx_offset(b->id);
    if (g->state == RANGE_SEALED) {
        if (offset < g->logged)
            return false;
        if (!g->sealed_executed || replica_range_was_of(g, b->owner)) {
            if (g->sealed_executed)
                replica_range_tell_sealed(r, g->range, b->owner, g->logged, b->gateway);
            refuse(r, b, WIRE_DROP_SEALED);
            return true;
        } /* else a pinned range's next owner: on its HELLO's word */
    }
    uint64_t owner = g->state == RANGE_OPEN ? g->owner : g->hello_owner;
    if (owner ? owner != b->owner : replica_range_denied(r, g, b->owner)) {
        replica_range_tell_not_owner(r, g, owner, b->owner, b->gateway);
        refuse(r, b, WIRE_DROP_NOT_OWNER);
        return true;
    }
    return false;
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
            replica_query_body(r, b);
        refuse(r, b, WIRE_DROP_DUPLICATE);
        return true;
    }
    if (r->replaying || retired_owner_mark(retired) != retired_mark(b->owner))
        return false;
    replica_range_tell_sealed(r, range, b->owner, retired_end(retired), b->gateway);
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
    bool known = wrong && wrong->repairing && wrong->wrong_at == r->bodies_changed;
    if (b->peer != REPLICA_NODE_NONE && !r->replaying && !known) {
        /* Perhaps the body before this one has put it right; or that ours is wrong is not known
         * yet, for epochs come with their bodies many at once (stretches). */
        replica_log_advance(r);
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
            replica_query_body(r, b);
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
        if (r->slots_used >= room || replica_room_is_others(r, g)) {
            if (offset == g->received && !r->refused_ns)
                r->refused_ns = r->now_ns;
            refuse(r, b, WIRE_DROP_BODY_POOL);
            return;
        }
    }
    body_store(r, g, b);
}
