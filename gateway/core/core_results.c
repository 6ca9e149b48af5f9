/* Results: whole ones, pieces of long ones, states of ids that were asked for. */
#include "gateway/core/internal.h"

#include <string.h>

/* With which an id of this gateway is asked for. */
static uint32_t mark_of(const struct gateway_core *c, uint64_t id) {
    uint32_t mark = own_mark(c);
    (void)gateway_ranges_gave(c, id, &mark);
    return mark;
}

static void ask(struct gateway_core *c, uint64_t id, uint32_t owner_mark, uint32_t offset_bytes,
                uint32_t turn) {
    struct wire_tx_query query = {id, owner_mark, offset_bytes, PIECES_AHEAD_BYTES};
    uint32_t turns = turn % c->config.node_count;
    uint8_t node = c->leader != 255 && turn % 2 == 0 ? c->leader : (uint8_t)turns;
    c->shell.send(c->shell.context, node, WIRE_TX_QUERY, &query, sizeof query, NULL, 0);
    c->queries++;
}

static void ask_all(struct gateway_core *c, uint64_t id, uint32_t owner_mark) {
    struct wire_tx_query query = {id, owner_mark, 0, PIECES_AHEAD_BYTES};
    for (uint8_t i = 0; i < c->config.node_count; i++)
        c->shell.send(c->shell.context, i, WIRE_TX_QUERY, &query, sizeof query, NULL, 0);
    c->queries++;
}

void gateway_results_ask_leader(struct gateway_core *c, uint64_t id) {
    ask(c, id, mark_of(c, id), 0, 0);
}

void gateway_results_ask_all(struct gateway_core *c, uint64_t id) {
    ask_all(c, id, mark_of(c, id));
}

struct part *gateway_results_part(const struct gateway_core *c, uint64_t id) {
    const struct segment *s = segment_of(c, wire_tx_range(id));
    uint32_t offset = wire_tx_offset(id);
    if (!s || offset < s->first_offset || offset >= s->next_offset)
        return NULL;
    uint64_t number = s->first_number + (offset - s->first_offset);
    struct part *p = part_at(c, number);
    return number >= c->low && number < c->sent && p->first && !p->answered ? p : NULL;
}

static void finish(struct gateway_core *c, uint64_t now_us, struct part *p,
                   const struct wire_result *r, uint32_t code, const uint8_t *bytes) {
    struct gateway_core_done done = {
        .user = p->user,
        .id = p->id,
        .epoch_seq = r->epoch_seq,
        .logical_time_us = r->logical_time_us,
        .latency_us = now_us - p->since_us,
        .code = code,
        .bytes = bytes,
        .length_bytes = r->total_bytes,
    };
    if (done.latency_us < c->quickest_us)
        c->quickest_us = done.latency_us;
    /* An answer after a resend tells how late nodes are at most: it may raise the timer, not lower
     * it. */
    if (p->try_count == 1 || done.latency_us > c->latency_us)
        c->latency_us = (7 * c->latency_us + done.latency_us + 7) / 8;
    /* the transaction's parts are answered together */
    const struct segment *s = segment_of(c, wire_tx_range(p->id));
    uint64_t number = s->first_number + (wire_tx_offset(p->id) - s->first_offset);
    for (uint32_t i = 0; i <= p->parts_following; i++)
        part_at(c, number + i)->answered = true;
    while (c->low < c->sent && part_at(c, c->low)->answered)
        c->low++;
    c->answered++;
    if (c->own.id == p->id)
        c->own.id = NO_ID;
    if (!p->committed)
        event_tell(c, GATEWAY_CORE_COMMITTED, p);
    gateway_ranges_trim(c);
    c->shell.done(c->shell.context, &done);
}

/* The part that an answer under this mark is about, if it is about this gateway's transaction. */
static struct part *own_part(const struct gateway_core *c, uint64_t id, uint32_t owner_mark) {
    return owner_mark == own_mark(c) || owner_mark == mark_of(c, id) ? gateway_results_part(c, id)
                                                                     : NULL;
}

enum taken { TAKEN_NOT, TAKEN_PIECE, TAKEN_ALL };

/* Adds a piece to a long result; pieces come in order, what is missing is asked for again. */
static enum taken assembly_take(struct gateway_core *c, struct assembly *a, uint64_t now_us,
                                const struct wire_result *r, const uint8_t *piece, uint32_t bytes) {
    if (a->id != r->id || a->owner_mark != r->owner_mark) {
        if (a->id != NO_ID || r->offset_bytes)
            return TAKEN_NOT; /* one at a time; the others are asked for later */
        a->id = r->id;
        a->owner_mark = r->owner_mark;
        a->have = a->turn = 0;
        a->total = r->total_bytes;
    }
    if (r->offset_bytes != a->have || r->total_bytes != a->total)
        return TAKEN_NOT;
    memcpy(a->bytes + a->have, piece, bytes);
    uint32_t before = a->have;
    a->have += bytes;
    a->at_us = now_us + RESEND_MIN_US;
    a->turn = 0;
    if (a->have == a->total)
        return TAKEN_ALL;
    if (a->have / PIECES_AHEAD_BYTES != before / PIECES_AHEAD_BYTES)
        ask(c, a->id, a->owner_mark, a->have, 0);
    return TAKEN_PIECE;
}

static void assembly_tick(struct gateway_core *c, struct assembly *a, uint64_t now_us) {
    if (a->id == NO_ID || now_us < a->at_us)
        return;
    a->at_us = now_us + RESEND_MIN_US;
    ask(c, a->id, a->owner_mark, a->have, a->turn++);
}

static enum wire_drop asked_result(struct gateway_core *c, uint64_t now_us,
                                   const struct wire_result *r, const uint8_t *piece,
                                   uint32_t bytes) {
    if (r->id != c->query.id || r->owner_mark != c->query.owner_mark || now_us >= c->query.until_us)
        return WIRE_DROP_STALE;
    bool whole = bytes == r->total_bytes;
    if (!whole) {
        enum taken taken = assembly_take(c, &c->asked, now_us, r, piece, bytes);
        if (taken != TAKEN_ALL)
            return taken == TAKEN_NOT ? WIRE_DROP_STALE : WIRE_DROP_NONE;
    }
    c->query.id = c->asked.id = NO_ID;
    struct gateway_core_state state = {.id = r->id,
                                       .epoch_seq = r->epoch_seq,
                                       .outcome = WIRE_TX_EXECUTED,
                                       .code = r->code,
                                       .method_key = r->method_key,
                                       .bytes = whole ? piece : c->asked.bytes,
                                       .length_bytes = r->total_bytes};
    c->shell.state(c->shell.context, &state);
    return WIRE_DROP_NONE;
}

enum wire_drop gateway_results_frame(struct gateway_core *c, uint64_t now_us,
                                     const struct wire_frame *frame) {
    struct wire_result r;
    memcpy(&r, frame->payload, sizeof r);
    const uint8_t *piece = frame->payload + sizeof r;
    uint32_t bytes = frame->length_bytes - (uint32_t)sizeof r;
    if (r.total_bytes > c->config.result_max_bytes)
        return WIRE_DROP_FRAME_VALUE;
    struct part *p = own_part(c, r.id, r.owner_mark);
    if (!p)
        return asked_result(c, now_us, &r, piece, bytes);
    if (bytes == r.total_bytes) {
        finish(c, now_us, p, &r, r.code, piece);
        return WIRE_DROP_NONE;
    }
    enum taken taken = assembly_take(c, &c->own, now_us, &r, piece, bytes);
    if (taken == TAKEN_ALL)
        finish(c, now_us, p, &r, r.code, c->own.bytes);
    return taken == TAKEN_NOT ? WIRE_DROP_STALE : WIRE_DROP_NONE;
}

static void query_end(struct gateway_core *c, uint32_t outcome) {
    struct gateway_core_state state = {.id = c->query.id, .outcome = outcome};
    if (outcome == WIRE_TX_UNKNOWN && own_part(c, state.id, c->query.owner_mark))
        state.outcome = WIRE_TX_PENDING; /* here */
    else if (outcome == WIRE_TX_UNKNOWN && c->query.sealed)
        state.outcome = WIRE_TX_SEALED;
    c->query.id = c->asked.id = NO_ID;
    c->shell.state(c->shell.context, &state);
}

enum wire_drop gateway_results_state(struct gateway_core *c, uint64_t now_us, uint8_t node,
                                     const struct wire_frame *frame) {
    struct wire_tx_state t;
    memcpy(&t, frame->payload, sizeof t);
    struct part *p = own_part(c, t.id, t.owner_mark);
    if (p && t.outcome == WIRE_TX_EXPIRED) {
        struct wire_result r = {.id = t.id, .epoch_seq = t.epoch_seq};
        finish(c, now_us, p, &r, GATEWAY_CORE_EXPIRED, NULL);
        return WIRE_DROP_NONE;
    }
    if (p && t.outcome == WIRE_TX_SEALED) /* the body goes again to all: answered with the end */
        memset(segment_of(c, wire_tx_range(t.id))->received, 0, sizeof segment_of(c, 0)->received);
    if (p && t.outcome == WIRE_TX_UNKNOWN) { /* to this node: it lost it, or says whose it is */
        uint32_t *received = &segment_of(c, wire_tx_range(t.id))->received[node];
        *received = *received < wire_tx_offset(t.id) ? *received : wire_tx_offset(t.id);
    }
    if (t.id != c->query.id || t.owner_mark != c->query.owner_mark || now_us >= c->query.until_us)
        return WIRE_DROP_NONE;
    /* Whoever's: one that is behind does not know that the range went on. */
    if (t.outcome == WIRE_TX_EXPIRED || (t.outcome == WIRE_TX_SEALED && t.owner_mark)) {
        query_end(c, t.outcome);
        return WIRE_DROP_NONE;
    }
    c->query.sealed |= t.outcome == WIRE_TX_SEALED;
    c->query.answered |= 1u << node;
    if (t.outcome > c->query.outcome && t.outcome <= WIRE_TX_COMMITTED)
        c->query.outcome = t.outcome;
    if (c->query.answered == (1u << c->config.node_count) - 1)
        query_end(c, c->query.outcome);
    return WIRE_DROP_NONE;
}

/* Each node is asked: one that is behind does not know what others have executed. */
void gateway_core_query(struct gateway_core *c, uint64_t now_us, uint64_t id, uint32_t owner_mark) {
    if (!owner_mark || owner_mark == own_mark(c))
        (void)gateway_ranges_gave(c, id, &owner_mark);
    if (c->query.id != id || c->query.owner_mark != owner_mark) {
        c->asked.id = NO_ID;
        memset(&c->query, 0, sizeof c->query);
        c->query.id = id;
        c->query.owner_mark = owner_mark;
        c->query.since_us = now_us;
    }
    c->query.until_us = now_us + QUERY_KEEP_US;
    if (c->asked.id == id) {
        ask(c, id, owner_mark, c->asked.have, (uint32_t)c->queries);
        return;
    }
    ask_all(c, id, owner_mark);
}

static void query_tick(struct gateway_core *c, uint64_t now_us) {
    if (c->query.id == NO_ID)
        return;
    if (now_us >= c->query.until_us) {
        c->query.id = c->asked.id = NO_ID;
        return;
    }
    uint64_t waited_us = now_us - c->query.since_us;
    bool known = c->query.outcome != WIRE_TX_UNKNOWN;
    bool most = 2 * (uint32_t)__builtin_popcount(c->query.answered) > c->config.node_count;
    if (c->asked.id == NO_ID &&
        ((known && waited_us >= QUERY_WAIT_US) || (most && waited_us >= QUERY_DOUBT_US)))
        query_end(c, c->query.outcome);
}

void gateway_results_tick(struct gateway_core *c, uint64_t now_us) {
    assembly_tick(c, &c->own, now_us);
    query_tick(c, now_us);
    assembly_tick(c, &c->asked, now_us);
}
