#include "dataplane/replica/internal.h"

/* Bodies that no epoch names leave memory: those that are not their range's owner's, and when space
 * is short (protocol.md §2). */

/* ---- purges ---- */

/* Bodies from `from` on, over some TICKs. */
static void purge_above(struct replica *r, struct range *g, uint32_t from) {
    g->drop_due |= r->config.durable && (!g->purging || from < g->purge_from);
    g->purge_from = g->purging ? min_u32(g->purge_from, from) : from;
    g->purging = true;
    if (g->received > g->purge_from) /* it begins anew: no transaction stays half */
        g->received = g->complete = g->tx_end = g->purge_from;
    r->purge_place = 0;
}

void replica_range_purge(struct replica *r, struct range *g) {
    if (g->highest > g->logged && !r->loading && /* a replay ends with a purge of its own */
        !MUTANT(seal_keeps_bodies))
        purge_above(r, g, g->logged);
}

/* A replay that took what memory had dropped might need more slots than there are. */
static void drop_note(struct replica *r, const struct range *g) {
    if (MUTANT(drop_unjournalled))
        return;
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

/* ---- space is short ---- */

uint32_t replica_slots_room(const struct replica *r) {
    return r->config.body_slots -
           min_u32(r->config.epochs_in_flight * r->config.epoch_cap, r->config.body_slots / 2);
}

/* Slots that the epoch held next waits for; a repair needs one for the body that it puts in
 * another's place. */
static uint32_t slots_wanted(struct replica *r, const struct epoch *e) {
    const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
    uint32_t wanted = e->repairing;
    for (uint32_t i = 0; i < head_of(e)->interval_count; i++) {
        struct range *g = replica_range_find(r, wire_tx_range(intervals[i].first_id));
        uint32_t offset = wire_tx_offset(intervals[i].first_id), end = offset + intervals[i].count;
        for (offset = max_u32(offset, g->received); offset < end; offset++)
            wanted += replica_body_slot(r, g, offset, NULL) == REPLICA_SLOT_NONE;
    }
    return wanted;
}

/* Leaders that came and went may have left more uncommitted epochs than room is reserved for, and
 * no slot is given back before all of them are held. */
static bool epochs_wait(struct replica *r) {
    return r->held_seq < r->last_seq &&
           r->slots_used > r->config.body_slots - r->config.epoch_cap &&
           r->slots_used + slots_wanted(r, epoch_at(r, r->held_seq + 1)) > r->config.body_slots;
}

/* Everything is executed, and of what is here nothing can be proposed: bodies above gaps, and
 * transactions of which a part lacks that finds no place. */
static bool leader_waits(const struct replica *r) {
    if (r->role != REPLICA_ROLE_LEADER || !r->refused_ns || r->exec_seq < r->last_seq ||
        r->now_ns - r->refused_ns < r->slice_ns)
        return false;
    for (uint32_t i = 0; i < r->range_count; i++) {
        const struct range *g = &r->ranges[i];
        if (g->in_use && g->state == RANGE_OPEN && g->complete > g->logged)
            return false;
    }
    return true;
}

/* The range with the longest transaction begun. */
static struct range *nearest_whole(struct replica *r) {
    struct range *found = NULL;
    for (uint32_t i = 0; i < r->range_count; i++) {
        struct range *g = &r->ranges[i];
        if (g->in_use && g->state == RANGE_OPEN && g->received > g->logged &&
            (!found || g->received - g->logged > found->received - found->logged))
            found = g;
    }
    return found;
}

/* Until its transaction is whole no other range gets a place, or they would fill up together again;
 * but not for ever. NULL: it had its time, or there is none. */
static struct range *favoured(struct replica *r) {
    struct range *g = nearest_whole(r);
    bool before = g && r->favoured_until_ns && r->favoured == range_place(r, g) &&
                  r->favoured_at == g->logged;
    if (before && r->now_ns >= r->favoured_until_ns) {
        r->favoured_until_ns = 0;
        return NULL;
    }
    if (g && !before) {
        r->favoured = range_place(r, g);
        r->favoured_at = g->logged;
        r->favoured_until_ns = r->now_ns + FAVOUR_SLICES * r->config.slice_max_ns;
    }
    return g;
}

bool replica_room_is_others(const struct replica *r, const struct range *g) {
    const struct range *f = &r->ranges[r->favoured];
    return r->now_ns < r->favoured_until_ns && f != g && f->in_use && f->state == RANGE_OPEN &&
           f->logged == r->favoured_at && f->complete == f->logged &&
           r->role == REPLICA_ROLE_LEADER;
}

/* The range that has the most bodies which no epoch names, of those above a gap only, and where
 * these begin; NULL: none has any. */
static struct range *most_unnamed(struct replica *r, const struct range *but, bool above_gap,
                                  uint32_t *ret_from) {
    struct range *found = NULL;
    uint32_t most = 0;
    for (uint32_t i = 0; i < r->range_count; i++) {
        struct range *g = &r->ranges[i];
        uint32_t from = above_gap ? max_u32(g->named, g->received) : g->named;
        if (!g->in_use || g == but || g->highest <= from || g->highest - from <= most)
            continue;
        found = g;
        most = g->highest - from;
        *ret_from = from;
    }
    return found;
}

/* "When space is short, out-of-order bodies go first, then gap-free bodies that no epoch names". */
static void make_room(struct replica *r) {
    if (r->purge_place < r->range_count)
        return;
    bool leader = leader_waits(r);
    if (!leader && !epochs_wait(r))
        return;
    uint32_t from;
    struct range *g = most_unnamed(r, NULL, true, &from);
    if (!g)
        g = most_unnamed(r, leader ? favoured(r) : NULL, false, &from);
    if (g)
        purge_above(r, g, from);
}

void replica_room_tick(struct replica *r) {
    make_room(r);
    purge_tick(r);
}
