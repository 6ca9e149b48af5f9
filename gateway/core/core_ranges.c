/* Ranges: asked for, renewed, filled, sealed, given back. */
#include "gateway/core/internal.h"

#include <assert.h>
#include <string.h>

static void send_all(struct gateway_core *c, enum wire_kind kind, const void *payload,
                     uint32_t bytes) {
    for (uint8_t i = 0; i < c->config.node_count; i++)
        c->shell.send(c->shell.context, i, kind, payload, bytes, NULL, 0);
}

static void tell_ranges(struct gateway_core *c) {
    const struct segment *s = segment_now(c);
    bool used = s && (s->live || c->low < s->first_number + (s->next_offset - s->first_offset));
    uint64_t ranges[2] = {used ? s->range : WIRE_RANGE_NONE, c->next_range};
    c->shell.ranges(c->shell.context, c->config.owner, ranges);
}

static void segment_open(struct gateway_core *c, uint64_t range, uint32_t start) {
    assert(c->segment_count < SEGMENTS_MAX);
    struct segment *s = segment_at(c, c->segment_count++);
    memset(s, 0, sizeof *s);
    s->range = range;
    s->first_number = c->placed;
    s->first_offset = s->next_offset = s->committed = s->head = start;
    s->limit = start < WIRE_RANGE_OFFSETS - 64 ? start + 64
                                               : WIRE_RANGE_OFFSETS; /* until a node says more */
    s->live = true;
    tell_ranges(c);
}

/* Moves to the next range. The old one is renewed until all of it is answered. */
static bool next_segment(struct gateway_core *c) {
    if (c->next_range == WIRE_RANGE_NONE || c->segment_count == SEGMENTS_MAX)
        return false;
    uint64_t range = c->next_range;
    c->next_range = WIRE_RANGE_NONE;
    segment_open(c, range, c->next_start);
    return true;
}

static struct segment *segment_with_room(struct gateway_core *c, uint32_t parts) {
    struct segment *s = segment_now(c);
    while (!s || !s->live || (uint64_t)s->next_offset + parts > WIRE_RANGE_OFFSETS) {
        if (!next_segment(c))
            return NULL;
        s = segment_now(c);
    }
    return s;
}

bool gateway_ranges_room(struct gateway_core *c, uint32_t parts) {
    return segment_with_room(c, parts) != NULL;
}

void gateway_ranges_place(struct gateway_core *c) {
    while (c->placed < c->end) {
        uint32_t parts = part_at(c, c->placed)->parts_following + 1u;
        struct segment *s = segment_with_room(c, parts);
        if (!s)
            return;
        for (uint32_t i = 0; i < parts; i++)
            part_at(c, c->placed++)->id = wire_tx_id(s->range, s->next_offset++);
    }
}

void gateway_ranges_trim(struct gateway_core *c) {
    while (c->segment_count > 1) {
        struct segment *s = segment_at(c, 0);
        if (c->low < s->first_number + (s->next_offset - s->first_offset))
            return;
        struct wire_range_close close = {c->config.owner, s->range, s->next_offset};
        if (s->live)
            send_all(c, WIRE_RANGE_CLOSE, &close, sizeof close);
        c->segment_first = (c->segment_first + 1) % SEGMENTS_MAX;
        c->segment_count--;
    }
}

static void ended_keep(struct gateway_core *c, const struct segment *s, uint32_t end) {
    c->ended[c->ended_count++ % ENDED_MAX] =
        (struct ended){s->range, s->first_offset, s->next_offset, end};
}

bool gateway_ranges_gave(const struct gateway_core *c, uint64_t id, uint32_t *ret_mark) {
    uint64_t range = wire_tx_range(id);
    uint32_t offset = wire_tx_offset(id);
    for (uint32_t i = 0; i < ENDED_MAX && i < c->ended_count; i++) {
        const struct ended *e = &c->ended[i];
        if (e->range != range || offset < e->from || offset >= e->to)
            continue;
        *ret_mark = offset < e->end ? 0 : own_mark(c);
        return true;
    }
    const struct segment *s = segment_of(c, range);
    if (!s || offset < s->first_offset || offset >= s->next_offset)
        return false;
    *ret_mark = own_mark(c);
    return true;
}

/* ---- asking ---- */

static bool needs_range(const struct gateway_core *c) {
    const struct segment *s = segment_now(c);
    if (c->next_range != WIRE_RANGE_NONE)
        return false;
    return !s || !s->live || s->next_offset >= WIRE_RANGE_OFFSETS / 10 * 9;
}

static void ask_range(struct gateway_core *c, uint64_t now_us) {
    if (now_us < c->ask_at_us)
        return;
    c->ask_at_us = now_us + RANGE_ASK_US;
    struct wire_range_request request = {c->range_nonce, c->config.owner,
                                         c->had_range ? WIRE_RANGE_NONE : c->config.pinned_range};
    c->ask_node = (uint8_t)((c->ask_node + 1) % c->config.node_count);
    c->shell.send(c->shell.context, c->ask_node, WIRE_RANGE_REQUEST, &request, sizeof request, NULL,
                  0);
}

/* One owner token never holds the same range twice (docs/protocol.md): an answer meant for the
 * first hold could be taken for the second's. So the pinned range is held under a token that its
 * grant names, and no other grant; it is asked for until the first grant only, and a grant of what
 * is held, or of the pinned range once more, is refused and asked for anew. */
enum wire_drop gateway_ranges_granted(struct gateway_core *c,
                                      const struct wire_range_grant *grant) {
    if (grant->nonce != c->range_nonce || grant->owner != c->config.owner)
        return WIRE_DROP_STALE;
    c->range_outcome = grant->outcome;
    c->range_held_by = grant->held_by;
    if (grant->outcome != WIRE_RANGE_GRANTED)
        return WIRE_DROP_NONE;
    c->range_nonce++;
    bool again = segment_of(c, grant->range) || grant->range == c->next_range ||
                 (c->had_range && grant->range == c->config.pinned_range);
    bool names_owner = !c->had_range && grant->range == c->config.pinned_range;
    c->had_range = true;
    if (again || grant->start >= WIRE_RANGE_OFFSETS ||
        (grant->held_by != c->config.owner && !names_owner))
        return WIRE_DROP_FRAME_VALUE;
    c->config.owner = grant->held_by;
    c->next_range = grant->range;
    c->next_start = grant->start;
    c->next_denial = (struct denial){0};
    struct segment *s = segment_now(c);
    if ((s && s->live) || !next_segment(c))
        tell_ranges(c);
    gateway_ranges_place(c);
    return WIRE_DROP_NONE;
}

void gateway_ranges_tick(struct gateway_core *c, uint64_t now_us) {
    struct segment *s = segment_now(c);
    if ((!s || !s->live) && next_segment(c))
        gateway_ranges_place(c);
    if (needs_range(c))
        ask_range(c, now_us);
    if (!c->segment_count || now_us < c->renew_at_us)
        return;
    c->renew_at_us = now_us + RENEW_US;
    for (uint32_t i = 0; i < c->segment_count; i++) {
        struct wire_range_renew renew = {c->config.owner, segment_at(c, i)->range};
        if (segment_at(c, i)->live)
            send_all(c, WIRE_RANGE_RENEW, &renew, sizeof renew);
    }
    struct wire_range_renew renew = {c->config.owner, c->next_range};
    if (c->next_range != WIRE_RANGE_NONE)
        send_all(c, WIRE_RANGE_RENEW, &renew, sizeof renew);
}

/* ---- sealed ---- */

static void parts_swap(struct part *a, struct part *b) {
    struct part kept = *a;
    *a = *b;
    *b = kept;
}

static void parts_reverse(struct gateway_core *c, uint64_t from, uint64_t to) {
    while (from + 1 < to)
        parts_swap(part_at(c, from++), part_at(c, --to));
}

/* A part whose id was told to somebody, and is sealed off: with it the transaction ends. */
static void part_end(struct gateway_core *c, const struct part *p) {
    struct gateway_core_done done = {.user = p->user, .id = p->id, .code = 10 /* aborted */};
    if (!p->first)
        return;
    c->answered++;
    c->shell.done(c->shell.context, &done);
}

/* Moves the numbers [from, to) behind all others and takes their ids away; those of younger
 * segments move down. */
static void parts_uproot(struct gateway_core *c, uint32_t segment, uint64_t from, uint64_t to) {
    uint64_t count = to - from, kept = c->end - count;
    if (to < c->end) {
        parts_reverse(c, from, to);
        parts_reverse(c, to, c->end);
        parts_reverse(c, from, c->end);
    }
    for (uint32_t i = segment + 1; i < c->segment_count; i++)
        segment_at(c, i)->first_number -= count;
    c->sent = c->sent >= to ? c->sent - count : c->sent > from ? from : c->sent;
    c->placed -= count;
    uint64_t end = c->end;
    c->end = kept;
    for (uint64_t n = kept; n < end; n++) {
        struct part *p = part_at(c, n);
        if (p->answered) /* by a node that lies: what is sealed off was never executed */
            continue;
        if (p->first)
            event_tell(c, GATEWAY_CORE_SEALED, p);
        if (p->kept) {
            part_end(c, p);
            continue;
        }
        p->id = NO_ID;
        p->committed = false;
        p->try_count = 0;
        c->resubmitted += p->first;
        if (c->end != n)
            parts_swap(part_at(c, c->end), p); /* with its bytes */
        c->end++;
    }
}

/* "Any frame for an id at or above the end is answered SEALED(range, end): not executed and never
 * will be; only then may a gateway send that work under another id."
 *
 * Why exactly once holds: the end is the `to` of the range's last interval in the log when SEAL was
 * ordered, and a node says SEALED after it executed SEAL, so it is committed. An id at or above the
 * end is in no interval before SEAL (the end would be greater) and in none after it (those are
 * invalid on every replica): it commits never, and its body under a new id is the only one that
 * can. An id below the end is in a committed interval: it keeps its id and is asked for until
 * answered, never sent again under another. An end inside a transaction cannot come from the log
 * (intervals end where transactions do) and is refused. The owner never holds the range again, so a
 * late frame cannot be about a second life of these ids. */
enum wire_drop gateway_ranges_sealed(struct gateway_core *c, const struct wire_sealed *seal) {
    if (seal->owner_mark != own_mark(c))
        return WIRE_DROP_STALE; /* of who held the range before us, asked from our address */
    if (seal->range == c->next_range && c->next_range != WIRE_RANGE_NONE) {
        c->next_range = WIRE_RANGE_NONE;
        c->sealed++;
        tell_ranges(c);
        return WIRE_DROP_NONE;
    }
    uint32_t index = 0;
    while (index < c->segment_count && segment_at(c, index)->range != seal->range)
        index++;
    if (index == c->segment_count || !segment_at(c, index)->live)
        return WIRE_DROP_STALE;
    struct segment *s = segment_at(c, index);
    uint64_t to = s->first_number + (s->next_offset - s->first_offset), from = to;
    if (seal->end < s->next_offset)
        from = seal->end <= s->first_offset ? s->first_number
                                            : s->first_number + (seal->end - s->first_offset);
    from = from < c->low ? c->low : from;
    if (from < to && !part_at(c, from)->first)
        return WIRE_DROP_FRAME_VALUE;
    s->live = false;
    c->sealed++;
    ended_keep(c, s, seal->end);
    if (from < to) {
        if (c->own.id != NO_ID && wire_tx_range(c->own.id) == s->range &&
            wire_tx_offset(c->own.id) >= seal->end)
            c->own.id = NO_ID;
        s->next_offset = s->first_offset + (uint32_t)(from - s->first_number);
        parts_uproot(c, index, from, to);
    }
    gateway_ranges_trim(c);
    gateway_ranges_place(c);
    return WIRE_DROP_NONE;
}

/* ---- lost ---- */

/* What was sent of it may be executed or not: who held the range since then may have used its ids,
 * so no answer about them would be one about us. Returns the first number that was not sent. */
static uint64_t parts_doubt(struct gateway_core *c, uint64_t from, uint64_t to) {
    static const char why[] = "another holds this gateway's key range now: whether the transaction "
                              "was executed is not known";
    uint64_t unsent = c->sent < from ? from : c->sent;
    while (unsent < to && !part_at(c, unsent)->first)
        unsent++; /* it went out in part */
    to = unsent < to ? unsent : to;
    for (uint64_t n = from; n < to; n++) {
        struct part *p = part_at(c, n);
        if (p->answered)
            continue;
        p->answered = true;
        if (!p->first)
            continue;
        struct gateway_core_done done = {.user = p->user,
                                         .id = p->id,
                                         .code = GATEWAY_CORE_DOUBT,
                                         .bytes = (const uint8_t *)why,
                                         .length_bytes = sizeof why - 1};
        c->answered++;
        c->doubt++;
        c->shell.done(c->shell.context, &done);
    }
    c->sent = c->sent < to ? to : c->sent;
    while (c->low < c->sent && part_at(c, c->low)->answered)
        c->low++;
    return to;
}

static void segment_lost(struct gateway_core *c, uint32_t index) {
    struct segment *s = segment_at(c, index);
    uint64_t to = s->first_number + (s->next_offset - s->first_offset);
    uint64_t from = s->first_number < c->low ? c->low : s->first_number;
    s->live = false;
    ended_keep(c, s, 0);
    if (c->own.id != NO_ID && wire_tx_range(c->own.id) == s->range)
        c->own.id = NO_ID;
    from = from < to ? parts_doubt(c, from, to) : to;
    if (from < to) { /* never sent: under another id */
        s->next_offset = s->first_offset + (uint32_t)(from - s->first_number);
        parts_uproot(c, index, from, to);
    }
    tell_ranges(c);
    gateway_ranges_trim(c);
    gateway_ranges_place(c);
}

static struct denial *denial_of(struct gateway_core *c, uint64_t range) {
    struct segment *s = segment_of(c, range);
    return s && s->live ? &s->denial : range == c->next_range ? &c->next_denial : NULL;
}

static bool denied(const struct gateway_core *c, const struct denial *d) {
    uint32_t count = (uint32_t)__builtin_popcount(d->nodes);
    return (c->leader < c->config.node_count && d->nodes >> c->leader & 1) ||
           2 * count > c->config.node_count;
}

void gateway_ranges_affirmed(struct gateway_core *c, uint8_t node, uint64_t range) {
    struct denial *d = denial_of(c, range);
    if (!d)
        return;
    d->nodes &= ~(1u << node);
    if (!denied(c, d))
        d->since_us = 0;
}

/* A node that lags says so of a range that was just granted; it is forgotten with the first VECTOR
 * that names the range. Who says so on and on is right: the range was ours and went through another
 * holding that we heard nothing of (else SEALED tells), or it never was. To give up a range that is
 * ours after all costs time and certainty, no more: nothing is sent again that was sent. */
enum wire_drop gateway_ranges_denied(struct gateway_core *c, uint64_t now_us, uint8_t node,
                                     const struct wire_not_owner *answer) {
    struct segment *now = segment_now(c);
    if (answer->is_leader)
        c->leader = node;
    struct denial *d = denial_of(c, answer->range);
    if (!d)
        return WIRE_DROP_STALE;
    bool told = answer->range == c->next_range || (now && now->range == answer->range);
    if (!answer->owner && !told)
        return WIRE_DROP_NONE; /* HELLO names the last two ranges only: it knows no better */
    if (!denied(c, d))
        d->since_us = 0; /* who leads now had not said so */
    d->nodes |= 1u << node;
    if (!denied(c, d))
        return WIRE_DROP_NONE;
    if (!d->since_us) /* or he had before he led: his word counts from now on */
        d->since_us = now_us;
    if (now_us - d->since_us < c->config.lost_after_us)
        return WIRE_DROP_NONE;
    c->lost++;
    if (d == &c->next_denial) {
        c->next_range = WIRE_RANGE_NONE;
        tell_ranges(c);
        return WIRE_DROP_NONE;
    }
    uint32_t index = 0;
    while (&segment_at(c, index)->denial != d)
        index++;
    segment_lost(c, index);
    return WIRE_DROP_NONE;
}
