#include "dataplane/replica/internal.h"

/* ---- the table: open addressing, linear probing, nothing is ever taken out ---- */

static uint32_t retired_slots(const struct replica *r) {
    return retired_places(r->config.retired_max);
}

static uint32_t retired_probe(const struct replica *r, uint64_t range) {
    uint32_t slots = retired_slots(r);
    uint32_t at = (uint32_t)((replica_mix(range) >> 32) * slots >> 32);
    while (retired_end(&r->retired[at]) != RETIRED_END_NONE &&
           retired_range(&r->retired[at]) != range)
        at = at + 1 == slots ? 0 : at + 1;
    return at;
}

void replica_retired_reset(struct replica *r) {
    for (uint32_t i = 0; i < retired_slots(r); i++)
        r->retired[i] = retired_pack(0, RETIRED_END_NONE, 0);
    r->retired_count = 0;
}

const struct retired *replica_retired_find(const struct replica *r, uint64_t range) {
    const struct retired *record = &r->retired[retired_probe(r, range)];
    return retired_end(record) == RETIRED_END_NONE ? NULL : record;
}

/* Remembers it, or that it ended again further on. */
bool replica_retired_put(struct replica *r, uint64_t range, uint32_t end, uint32_t mark) {
    struct retired *record = &r->retired[retired_probe(r, range)];
    if (retired_end(record) == RETIRED_END_NONE) {
        if (r->retired_count == r->config.retired_max)
            return false;
        r->retired_count++;
    } else if (end < retired_end(record)) {
        return true; /* of an older snapshot */
    } else if (end == retired_end(record) && !mark) {
        mark = retired_owner_mark(record);
    }
    *record = retired_pack(range, end, mark);
    if (range >= r->range_floor)
        r->range_floor = range + 1;
    return true;
}

/* ---- giving back places of ranges that are over ---- */

static bool waits_for_control(const struct replica *r, uint64_t range) {
    for (uint64_t seq = r->exec_seq + 1; seq <= r->last_seq; seq++) {
        const struct epoch *e = epoch_at(r, seq);
        const struct wire_control *controls = wire_epoch_controls(e->bytes);
        for (uint32_t i = 0; i < head_of(e)->control_count; i++)
            if (controls[i].range == range)
                return true;
    }
    return false;
}

/* Nothing is held, awaited or on its way out. */
static bool range_rests(const struct replica *r, const struct range *g) {
    return !g->behind && !g->purging && !g->open_waiting && !g->seal_waiting && !g->restored &&
           g->below_from == g->below_to && g->highest <= g->logged && g->named <= g->logged &&
           g->executed == g->logged && g->released == g->logged && !waits_for_control(r, g->range);
}

static bool range_silent(const struct replica *r, const struct range *g) {
    return !g->hello_ns || r->now_ns - g->hello_ns >= r->config.seal_after_ns;
}

/* A sealed range that rests becomes a record of 12 bytes, one that was never opened and is not
 * spoken of any more is forgotten. Returns whether its place is free now. */
bool replica_range_retire(struct replica *r, struct range *g) {
    bool denies = g->denied_mark && r->now_ns < g->check_at_ns;
    switch ((enum range_state)g->state) {
    case RANGE_OPEN: return false;
    case RANGE_SEALED:
        if (g->sealed_executed && g->released < g->logged)
            r->sealed_kept = r->sealed_kept_now = true;
        if (denies || !g->sealed_executed || (g->hello_owner && !range_silent(r, g)) ||
            !range_rests(r, g) ||
            !replica_retired_put(r, g->range, g->logged, retired_mark(g->owner)))
            return false;
        break;
    case RANGE_UNOPENED:
        if (denies || g->logged || g->received || !range_silent(r, g) || !range_rests(r, g))
            return false;
        break;
    }
    replica_range_drop(r, g);
    return true;
}

/* When all places are taken: gives back one of those that may go. A few are looked at, all when an
 * epoch of the log needs it. */
bool replica_range_make_room(struct replica *r, bool for_log) {
    uint32_t looks = for_log ? r->range_count : min_u32(r->range_count, ROTATE_RANGES);
    for (uint32_t i = 0; i < looks; i++) {
        if (r->retire_place >= r->range_count)
            r->retire_place = 0;
        struct range *g = &r->ranges[r->retire_place++];
        if (g->in_use && replica_range_retire(r, g))
            return true;
    }
    if (!for_log)
        return false;
    /* What was opened goes before what was only announced: those bodies come again. */
    for (uint32_t i = 0; i < r->range_count; i++) {
        struct range *g = &r->ranges[i];
        if (g->state != RANGE_UNOPENED || g->logged || g->named || g->open_waiting)
            continue;
        replica_range_purge(r, g);
        g->hello_owner = g->hello_ns = 0;
        return replica_range_retire(r, g); /* else when its bodies are gone */
    }
    return false;
}

bool replica_ranges_short(const struct replica *r) {
    return r->ranges_used > r->config.ranges_max / 4 * 3 && (r->loading || r->sealed_kept);
}

/* Each range that was ever opened ends as a record. Counted with some room to spare: unopened
 * ranges and those retired before are counted too. */
bool replica_ranges_exhausted(const struct replica *r) {
    return r->retired_count + r->ranges_used >= r->config.retired_max;
}

/* May the leader open it? What is opened has a place everywhere, and a record when it ends. */
bool replica_range_openable(const struct replica *r, const struct range *g) {
    if (g->state != RANGE_UNOPENED || replica_retired_find(r, g->range))
        return true;
    if (r->retired_count + r->ranges_used > r->config.retired_max)
        return false;
    if (r->ranges_used <= r->config.ranges_max)
        return true;
    uint32_t opened = 0;
    for (uint32_t i = 0; i < r->range_count; i++)
        opened += r->ranges[i].state != RANGE_UNOPENED;
    return opened < r->config.ranges_max;
}
