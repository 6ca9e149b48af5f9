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

void replica_range_tell_sealed(struct replica *r, uint64_t range, uint64_t owner, uint32_t end,
                               uint32_t gateway) {
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_SEALED);
    a->range = range;
    a->owner = owner;
    a->end = end;
    a->gateway = gateway;
}

/* Owners of what is sealed are known by their marks (proto/retired.h). */
bool replica_range_was_of(const struct range *g, uint64_t owner) {
    return retired_mark(g->owner) == retired_mark(owner);
}

/* A range that another holds. Who held it just before is told where his holding ended: that SEAL
 * was executed here, and he never holds it again. */
void replica_range_tell_not_owner(struct replica *r, const struct range *g, uint64_t owner,
                                  uint64_t asker, uint32_t gateway) {
    if (asker && retired_mark(asker) == retired_mark(g->previous_owner)) {
        replica_range_tell_sealed(r, g->range, asker, g->open_at, gateway);
        return;
    }
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_NOT_OWNER);
    a->range = g->range;
    a->owner = owner;
    a->gateway = gateway;
}

/* After an arbiter's restore two gateways may hold one range that was never opened. He whom the
 * arbiter does not know lets the other speak. */
bool replica_range_denied(const struct replica *r, const struct range *g, uint64_t claimant) {
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

/* ---- who owns what ---- */

static bool may_open(const struct range *g, uint64_t owner) {
    return g->state == RANGE_UNOPENED ||
           (g->state == RANGE_SEALED && g->sealed_executed && !replica_range_was_of(g, owner));
}

/* What is retired stays so as long as only its last owner speaks of it. */
static const struct retired *retired_of(struct replica *r, uint64_t range, uint64_t owner) {
    const struct retired *retired =
        replica_range_find(r, range) ? NULL : replica_retired_find(r, range);
    return retired && retired_owner_mark(retired) == retired_mark(owner) ? retired : NULL;
}

static void ask_arbiter(struct replica *r, uint64_t range, uint64_t owner) {
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_RANGE_CHECK);
    a->range = range;
    a->owner = owner;
}

/* The first word counts until it falls silent, but whose the range is, the arbiter says: after its
 * restores several may hold one range, and the right one must not wait for his turn among them.
 * He is asked for at each of his renewals, which goes to the arbiter besides. */
static void hello_of_another(struct replica *r, const struct range *g, uint64_t owner) {
    if (r->role == REPLICA_ROLE_LEADER && may_open(g, owner) && !g->open_waiting &&
        !MUTANT(claimant_unasked))
        ask_arbiter(r, g->range, owner);
}

void replica_range_hello(struct replica *r, uint64_t range, uint64_t owner, uint32_t gateway) {
    const struct retired *retired = retired_of(r, range, owner);
    if (retired) {
        replica_range_tell_sealed(r, range, owner, retired_end(retired), gateway);
        return;
    }
    struct range *g = replica_range_get(r, range);
    if (!g) {
        replica_dropped(r, WIRE_DROP_RANGES_FULL);
        return;
    }
    if (g->state == RANGE_OPEN && g->owner != owner) {
        replica_range_tell_not_owner(r, g, g->owner, owner, gateway);
        return;
    }
    if (g->state == RANGE_SEALED && replica_range_was_of(g, owner)) {
        if (g->sealed_executed)
            replica_range_tell_sealed(r, g->range, owner, g->logged, gateway);
        return;
    }
    if (replica_range_denied(r, g, owner)) {
        replica_range_tell_not_owner(r, g, 0, owner, gateway);
        return;
    }
    if (g->hello_owner != owner && g->hello_owner && g->state != RANGE_OPEN &&
        r->now_ns < g->hello_ns + r->config.seal_after_ns) {
        hello_of_another(r, g, owner);
        return;
    }
    if (g->hello_owner != owner && g->state != RANGE_OPEN)
        replica_range_purge(r, g);
    g->hello_owner = owner;
    g->hello_ns = r->now_ns;
    g->gateway = gateway;
    replica_range_mark(r, g);
    if (r->role != REPLICA_ROLE_LEADER || !may_open(g, owner) || g->open_waiting ||
        (r->now_ns < g->check_at_ns && !g->denied_mark))
        return;
    g->denied_mark = 0;
    g->check_at_ns = r->now_ns + RECHECK_RANGE_NS;
    ask_arbiter(r, range, owner);
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
    ask_arbiter(r, g->range, g->owner);
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
    replica_range_tell_not_owner(r, g, 0, owner, g->gateway);
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
    ask_arbiter(r, g->range, owner);
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
    if (g->state == RANGE_UNOPENED ||
        (g->state == RANGE_SEALED && !replica_range_was_of(g, owner))) {
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

/* Progress affirms the range to who claims it, and NOT_OWNER is forgotten with it. What came of
 * another's bodies, who holds it or held it last, is not his; and what nobody has opened is not
 * affirmed by who is to open it before the arbiter has said whose it is. */
static bool affirms(const struct replica *r, const struct range *g) {
    if (g->state == RANGE_UNOPENED)
        return r->role != REPLICA_ROLE_LEADER || g->open_waiting;
    return g->hello_owner == g->owner;
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

void replica_ranges_tick(struct replica *r) {
    if (r->progress_dirty.count &&
        r->now_ns - r->progress_ns >= replica_vector_pause_ns(r, r->bodies_at_progress)) {
        for (uint32_t i = 0; i < TICK_PROGRESS_MAX && r->progress_dirty.count; i++) {
            struct range *g = &r->ranges[replica_queue_pop(&r->progress_dirty)];
            g->progress_dirty = false;
            if (g->in_use && g->hello_owner && affirms(r, g))
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
    replica_room_tick(r);
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
