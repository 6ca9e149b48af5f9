#include "gateway/core/gateway_core.h"

#include <assert.h>
#include <string.h>

#include <maroon/error.h>

#define RESEND_MIN_US 3000
#define RESEND_MAX_US 500000
#define RESENDS_MAX 64       /* at once */
#define RESEND_PAUSE_US 1000 /* after so many: nodes that are late are not helped by more */
#define RANGE_ASK_US 200000
#define RENEW_US 1000000
#define PIECES_AHEAD_BYTES 65536 /* of a long result asked for at once */
#define SEGMENTS_MAX 4
#define NO_ID UINT64_MAX /* 0 is the first id of range 0 */

struct part {
    uint64_t id;
    uint64_t at_us; /* next resend; first send while try_count is 0 */
    uint64_t since_us;
    uint16_t length_bytes, parts_following;
    uint8_t try_count;
    bool first, answered;
    void *user;
    uint8_t bytes[WIRE_BODY_MAX_BYTES];
};

struct segment { /* numbers first_number .. of one range */
    uint64_t range, first_number;
    uint32_t first_offset, next_offset;
    uint32_t committed, limit;
    uint64_t limit_commit_seq;
    uint32_t received[WIRE_NODES_MAX];
    bool live;
};

struct gateway_core {
    struct gateway_core_config config;
    struct gateway_core_shell shell;
    struct part *parts;
    uint8_t *assembly; /* of one long result */
    uint64_t assembly_id;
    uint32_t assembly_have, assembly_total;
    uint64_t assembly_at_us;
    uint64_t low, sent,
        end; /* numbers: unanswered from low, sent below sent, submitted below end */
    struct segment segments[SEGMENTS_MAX];
    uint32_t segment_first, segment_count; /* the last one is handed out from */
    uint64_t next_range;
    uint32_t next_start;
    bool resubmitting;
    uint64_t range_nonce, ask_at_us, renew_at_us, resend_at_us; /* of any part, at the earliest */
    uint8_t ask_node, leader;
    uint64_t heard_us[WIRE_NODES_MAX], latency_us, query_id, query_until_us;
    uint64_t submitted, answered, resent, window_full, sealed, queries, range_held_by;
    uint32_t range_outcome;
};

static struct part *part_at(const struct gateway_core *c, uint64_t number) {
    return &c->parts[number & (c->config.parts_max - 1)];
}

static struct segment *segment_at(const struct gateway_core *c, uint32_t i) {
    return (struct segment *)&c->segments[(c->segment_first + i) % SEGMENTS_MAX];
}

static struct segment *segment_now(const struct gateway_core *c) {
    return c->segment_count ? segment_at(c, c->segment_count - 1) : NULL;
}

static struct segment *segment_of(const struct gateway_core *c, uint64_t range) {
    for (uint32_t i = 0; i < c->segment_count; i++)
        if (segment_at(c, i)->range == range)
            return segment_at(c, i);
    return NULL;
}

size_t gateway_core_size(const struct gateway_core_config *g) {
    bool ok = g->owner && g->node_count && g->node_count <= WIRE_NODES_MAX && g->parts_max >= 16 &&
              !(g->parts_max & (g->parts_max - 1)) && g->parts_max <= 1u << 20 &&
              g->transaction_max_bytes;
    size_t head = (sizeof(struct gateway_core) + 63) & ~(size_t)63;
    return ok ? head + g->parts_max * sizeof(struct part) + g->result_max_bytes : 0;
}

struct gateway_core *gateway_core_init(void *memory, const struct gateway_core_config *config,
                                       const struct gateway_core_shell *shell, uint64_t now_us) {
    struct gateway_core *c = memory;
    memset(c, 0, sizeof *c);
    c->config = *config;
    c->shell = *shell;
    c->parts = (void *)((uint8_t *)memory + ((sizeof *c + 63) & ~(size_t)63));
    c->assembly = (uint8_t *)(c->parts + config->parts_max);
    c->next_range = WIRE_RANGE_NONE;
    c->leader = 255;
    c->latency_us = 1000;
    c->ask_at_us = now_us;
    c->range_nonce = 1;
    c->assembly_id = c->query_id = NO_ID;
    return c;
}

static void send_all(struct gateway_core *c, enum wire_kind kind, const void *payload,
                     uint32_t bytes) {
    for (uint8_t i = 0; i < c->config.node_count; i++)
        c->shell.send(c->shell.context, i, kind, payload, bytes, NULL, 0);
}

static void tell_ranges(struct gateway_core *c) {
    uint64_t ranges[2] = {segment_now(c) ? segment_now(c)->range : WIRE_RANGE_NONE, c->next_range};
    c->shell.ranges(c->shell.context, ranges);
}

/* ---- ranges ---- */

static void segment_open(struct gateway_core *c, uint64_t range, uint32_t start) {
    assert(c->segment_count < SEGMENTS_MAX);
    struct segment *s = segment_at(c, c->segment_count++);
    memset(s, 0, sizeof *s);
    s->range = range;
    s->first_number = c->end;
    s->first_offset = s->next_offset = s->committed = start;
    s->limit = start + 64; /* until a node says more */
    s->live = true;
    tell_ranges(c);
}

static void ask_range(struct gateway_core *c, uint64_t now_us) {
    if (now_us < c->ask_at_us)
        return;
    c->ask_at_us = now_us + RANGE_ASK_US;
    struct wire_range_request request = {c->range_nonce, c->config.owner,
                                         c->segment_count || c->sealed ? WIRE_RANGE_NONE
                                                                       : c->config.pinned_range};
    c->ask_node = (uint8_t)((c->ask_node + 1) % c->config.node_count);
    c->shell.send(c->shell.context, c->ask_node, WIRE_RANGE_REQUEST, &request, sizeof request, NULL,
                  0);
}

static bool needs_range(const struct gateway_core *c) {
    const struct segment *s = segment_now(c);
    if (!s || !s->live)
        return c->next_range == WIRE_RANGE_NONE;
    return s->next_offset >= WIRE_RANGE_OFFSETS / 10 * 9 && c->next_range == WIRE_RANGE_NONE;
}

static enum wire_drop granted(struct gateway_core *c, const struct wire_range_grant *grant) {
    if (grant->nonce != c->range_nonce || grant->owner != c->config.owner)
        return WIRE_DROP_STALE;
    c->range_outcome = grant->outcome;
    c->range_held_by = grant->held_by;
    if (grant->outcome != WIRE_RANGE_GRANTED)
        return WIRE_DROP_NONE;
    c->range_nonce++;
    struct segment *s = segment_now(c);
    if (s && s->live) {
        c->next_range = grant->range;
        c->next_start = grant->start;
        tell_ranges(c);
    } else
        segment_open(c, grant->range, grant->start);
    return WIRE_DROP_NONE;
}

/* Moves to the next range; the old one is given back at its end. */
static bool next_segment(struct gateway_core *c) {
    struct segment *s = segment_now(c);
    if (c->next_range == WIRE_RANGE_NONE || c->segment_count == SEGMENTS_MAX)
        return false;
    if (s && s->live) {
        struct wire_range_close close = {c->config.owner, s->range, s->next_offset};
        s->live = false;
        send_all(c, WIRE_RANGE_CLOSE, &close, sizeof close);
    }
    uint64_t range = c->next_range;
    c->next_range = WIRE_RANGE_NONE;
    segment_open(c, range, c->next_start);
    return true;
}

/* ---- submitting ---- */

static void part_fill(struct part *p, uint32_t service, uint32_t method, uint16_t following,
                      const uint8_t *key, const uint8_t *hash, const uint8_t *payload,
                      uint32_t bytes) {
    struct wire_body_header header = {service, method, following, key ? WIRE_BODY_EXTENDED : 0, 0};
    memcpy(p->bytes, &header, sizeof header);
    uint32_t at = sizeof header;
    if (key) {
        memcpy(p->bytes + at, key, 16);
        memcpy(p->bytes + at + 16, hash, 16);
        at += sizeof(struct wire_body_extension);
    }
    memcpy(p->bytes + at, payload, bytes);
    p->length_bytes = (uint16_t)(at + bytes);
    p->parts_following = following;
}

int gateway_core_submit(struct gateway_core *c, uint64_t now_us, uint32_t service, uint32_t method,
                        const void *payload, uint32_t length_bytes, const uint8_t *key,
                        const uint8_t *request_hash, void *user, uint64_t *ret_id) {
    if (length_bytes > c->config.transaction_max_bytes)
        return MRN_ERR_TOO_LARGE;
    uint32_t room = WIRE_BODY_MAX_BYTES - (uint32_t)sizeof(struct wire_body_header);
    uint32_t first = room - (key ? (uint32_t)sizeof(struct wire_body_extension) : 0);
    uint32_t parts = length_bytes <= first ? 1 : 1 + (length_bytes - first + room - 1) / room;
    if (parts > c->config.parts_max)
        return MRN_ERR_TOO_LARGE;
    struct segment *s = segment_now(c);
    if (!s || !s->live || (uint64_t)s->next_offset + parts > WIRE_RANGE_OFFSETS) {
        if (!next_segment(c))
            return s && s->live ? MRN_ERR_FULL : MRN_ERR_UNAVAILABLE;
        s = segment_now(c);
    }
    if (c->end - c->low + parts > c->config.parts_max) {
        c->window_full++;
        return MRN_ERR_FULL;
    }
    const uint8_t *at = payload;
    uint64_t id = wire_tx_id(s->range, s->next_offset);
    for (uint32_t i = 0; i < parts; i++) {
        struct part *p = part_at(c, c->end++);
        uint32_t bytes = i ? room : first;
        bytes = bytes < length_bytes ? bytes : length_bytes;
        part_fill(p, service, method, (uint16_t)(parts - 1 - i), i ? NULL : key, request_hash, at,
                  bytes);
        at += bytes;
        length_bytes -= bytes;
        p->id = wire_tx_id(s->range, s->next_offset++);
        p->first = i == 0;
        p->answered = false;
        p->try_count = 0;
        p->since_us = now_us;
        p->user = i ? NULL : user;
    }
    c->submitted++;
    *ret_id = id;
    return 0;
}

/* ---- sending ---- */

/* Everything below is answered, and long enough ago that nobody is expected to ask for it by its
 * id. */
static uint32_t low_water(const struct gateway_core *c, const struct segment *s) {
    uint64_t low = c->low > GATEWAY_CORE_RESULTS_LAG ? c->low - GATEWAY_CORE_RESULTS_LAG : 0;
    return low <= s->first_number ? s->first_offset
                                  : s->first_offset + (uint32_t)(low - s->first_number);
}

static void part_send(struct gateway_core *c, struct part *p, const struct segment *s, bool again) {
    struct wire_tx tx = {p->id};
    uint32_t low = low_water(c, s);
    if (!again) /* a resend must be the same bytes */
        memcpy(p->bytes + offsetof(struct wire_body_header, low_water), &low, sizeof low);
    for (uint8_t i = 0; i < c->config.node_count; i++)
        if (!again || s->received[i] <= wire_tx_offset(p->id))
            c->shell.send(c->shell.context, i, WIRE_TX, &tx, sizeof tx, p->bytes, p->length_bytes);
}

static void send_new(struct gateway_core *c, uint64_t now_us) {
    while (c->sent < c->end) {
        struct part *p = part_at(c, c->sent);
        struct segment *s = segment_of(c, wire_tx_range(p->id));
        if (!s || wire_tx_offset(p->id) >= s->limit)
            return;
        part_send(c, p, s, false);
        p->try_count = 1;
        p->at_us = now_us + (4 * c->latency_us > RESEND_MIN_US ? 4 * c->latency_us : RESEND_MIN_US);
        c->resend_at_us = p->at_us < c->resend_at_us ? p->at_us : c->resend_at_us;
        c->sent++;
    }
}

static void ask_state(struct gateway_core *c, uint64_t id, uint32_t offset, uint32_t length,
                      uint32_t turn) {
    struct wire_tx_query query = {id, offset, length};
    uint32_t turns = turn % c->config.node_count;
    uint8_t node = c->leader != 255 && turn % 2 == 0 ? c->leader : (uint8_t)turns;
    c->shell.send(c->shell.context, node, WIRE_TX_QUERY, &query, sizeof query, NULL, 0);
    c->queries++;
}

static void resend(struct gateway_core *c, uint64_t now_us) {
    uint32_t budget = RESENDS_MAX;
    uint64_t next_us = UINT64_MAX;
    if (now_us < c->resend_at_us)
        return;
    for (uint64_t n = c->low; n < c->sent; n++) {
        struct part *p = part_at(c, n);
        struct segment *s = segment_of(c, wire_tx_range(p->id));
        if (p->answered || !s)
            continue;
        if (now_us < p->at_us || !budget) {
            next_us = p->at_us < next_us ? p->at_us : next_us;
            continue;
        }
        part_send(c, p, s, true);
        if (p->first && p->id != c->assembly_id)
            ask_state(c, p->id, 0, PIECES_AHEAD_BYTES, p->try_count);
        uint64_t wait = RESEND_MIN_US << (p->try_count < 8 ? p->try_count : 8);
        p->at_us = now_us + (wait < RESEND_MAX_US ? wait : RESEND_MAX_US);
        next_us = p->at_us < next_us ? p->at_us : next_us;
        if (p->try_count < 250)
            p->try_count++;
        c->resent++;
        budget--;
    }
    uint64_t pause_us = now_us + (budget ? 0 : RESEND_PAUSE_US);
    c->resend_at_us = next_us > pause_us ? next_us : pause_us;
}

/* ---- results ---- */

static struct part *part_find(const struct gateway_core *c, uint64_t id) {
    for (uint32_t i = 0; i < c->segment_count; i++) {
        const struct segment *s = segment_at(c, i);
        uint32_t offset = wire_tx_offset(id);
        if (s->range != wire_tx_range(id) || offset < s->first_offset || offset >= s->next_offset)
            continue;
        uint64_t number = s->first_number + (offset - s->first_offset);
        return number >= c->low && number < c->sent ? part_at(c, number) : NULL;
    }
    return NULL;
}

static void segments_trim(struct gateway_core *c) {
    while (c->segment_count > 1) {
        const struct segment *s = segment_at(c, 0);
        if (c->low < s->first_number + (s->next_offset - s->first_offset))
            return;
        c->segment_first = (c->segment_first + 1) % SEGMENTS_MAX;
        c->segment_count--;
    }
}

static void finish(struct gateway_core *c, uint64_t now_us, struct part *p,
                   const struct wire_result *r, const uint8_t *bytes) {
    struct gateway_core_done done = {
        .user = p->user,
        .id = p->id,
        .epoch_seq = r->epoch_seq,
        .logical_time_us = r->logical_time_us,
        .latency_us = now_us - p->since_us,
        .code = r->code,
        .bytes = bytes,
        .length_bytes = r->total_bytes,
    };
    /* An answer after a resend tells how late nodes are at most: it may raise the timer, not lower
     * it. */
    if (p->try_count == 1 || done.latency_us > c->latency_us)
        c->latency_us = (7 * c->latency_us + done.latency_us + 7) / 8;
    uint64_t number = c->low; /* the transaction's parts are answered together */
    struct segment *s = segment_of(c, wire_tx_range(p->id));
    number = s->first_number + (wire_tx_offset(p->id) - s->first_offset);
    for (uint32_t i = 0; i <= p->parts_following; i++)
        part_at(c, number + i)->answered = true;
    while (c->low < c->sent && part_at(c, c->low)->answered)
        c->low++;
    c->answered++;
    if (c->assembly_id == p->id)
        c->assembly_id = NO_ID;
    segments_trim(c);
    c->shell.done(c->shell.context, &done);
}

static enum wire_drop result(struct gateway_core *c, uint64_t now_us,
                             const struct wire_frame *frame) {
    struct wire_result r;
    memcpy(&r, frame->payload, sizeof r);
    const uint8_t *piece = frame->payload + sizeof r;
    uint32_t bytes = frame->length_bytes - (uint32_t)sizeof r;
    struct part *p = part_find(c, r.id);
    if (!p || p->answered || !p->first) {
        if (r.id == c->query_id && now_us < c->query_until_us && r.offset_bytes == 0) {
            c->query_id = NO_ID;
            struct gateway_core_state state = {
                r.id, r.epoch_seq, WIRE_TX_EXECUTED, r.code, r.method_key, piece, bytes};
            c->shell.state(c->shell.context, &state);
            return WIRE_DROP_NONE;
        }
        return WIRE_DROP_STALE;
    }
    if (r.total_bytes > c->config.result_max_bytes)
        return WIRE_DROP_FRAME_VALUE;
    if (bytes == r.total_bytes) {
        finish(c, now_us, p, &r, piece);
        return WIRE_DROP_NONE;
    }
    if (c->assembly_id != r.id) { /* one long result at a time; the others are asked for later */
        if (c->assembly_id != NO_ID || r.offset_bytes)
            return WIRE_DROP_STALE;
        c->assembly_id = r.id;
        c->assembly_have = 0;
        c->assembly_total = r.total_bytes;
    }
    if (r.offset_bytes != c->assembly_have || r.total_bytes != c->assembly_total)
        return WIRE_DROP_STALE;
    memcpy(c->assembly + c->assembly_have, piece, bytes);
    c->assembly_have += bytes;
    c->assembly_at_us = now_us + RESEND_MIN_US;
    if (c->assembly_have == c->assembly_total)
        finish(c, now_us, p, &r, c->assembly);
    else if (c->assembly_have / PIECES_AHEAD_BYTES !=
             (c->assembly_have - bytes) / PIECES_AHEAD_BYTES)
        ask_state(c, r.id, c->assembly_have, PIECES_AHEAD_BYTES, 0);
    return WIRE_DROP_NONE;
}

static void vector(struct gateway_core *c, uint8_t node, const struct wire_frame *frame) {
    struct wire_vector v;
    memcpy(&v, frame->payload, sizeof v);
    const struct wire_vector_entry *entries = (const void *)(frame->payload + sizeof v);
    if (v.is_leader)
        c->leader = node;
    for (uint32_t i = 0; i < v.count; i++) {
        struct segment *s = segment_of(c, entries[i].range);
        if (!s)
            continue;
        s->received[node] = entries[i].received;
        if (v.commit_seq < s->limit_commit_seq)
            continue;
        s->limit_commit_seq = v.commit_seq;
        uint64_t limit = (uint64_t)entries[i].committed + v.window;
        limit = limit < WIRE_RANGE_OFFSETS ? limit : WIRE_RANGE_OFFSETS;
        if (entries[i].committed > s->committed)
            s->committed = entries[i].committed;
        if (limit > s->limit) /* "the limit never goes back" */
            s->limit = (uint32_t)limit;
    }
}

static enum wire_drop tx_state(struct gateway_core *c, uint64_t now_us,
                               const struct wire_frame *frame) {
    struct wire_tx_state t;
    memcpy(&t, frame->payload, sizeof t);
    struct part *p = part_find(c, t.id);
    if (t.outcome == WIRE_TX_EXPIRED && p && p->first && !p->answered) {
        struct wire_result r = {.id = t.id, .epoch_seq = t.epoch_seq, .code = GATEWAY_CORE_EXPIRED};
        finish(c, now_us, p, &r, NULL);
        return WIRE_DROP_NONE;
    }
    if (t.id == c->query_id && now_us < c->query_until_us) {
        c->query_id = NO_ID;
        struct gateway_core_state state = {
            .id = t.id, .epoch_seq = t.epoch_seq, .outcome = t.outcome};
        c->shell.state(c->shell.context, &state);
    }
    return WIRE_DROP_NONE;
}

/* The range is over at `end`: what is at or above it never executes, so it goes again under new
 * ids. */
static enum wire_drop sealed(struct gateway_core *c, const struct wire_sealed *seal) {
    struct segment *s = segment_of(c, seal->range);
    if (!s || !s->live)
        return WIRE_DROP_STALE;
    s->live = false;
    c->sealed++;
    /* Answers for what lies above are impossible: report it as unavailable, the caller submits
     * anew. */
    for (uint64_t n = c->low; n < c->end; n++) {
        struct part *p = part_at(c, n);
        if (wire_tx_range(p->id) != seal->range || wire_tx_offset(p->id) < seal->end || p->answered)
            continue;
        p->answered = true;
        if (!p->first)
            continue;
        struct gateway_core_done done = {
            .user = p->user, .id = p->id, .code = 14 /* unavailable */};
        c->shell.done(c->shell.context, &done);
    }
    while (c->low < c->end && part_at(c, c->low)->answered)
        c->low++;
    c->sent = c->sent > c->low ? c->sent : c->low;
    return WIRE_DROP_NONE;
}

enum wire_drop gateway_core_frame(struct gateway_core *c, uint64_t now_us, uint8_t node,
                                  const struct wire_frame *frame) {
    assert(node < c->config.node_count);
    c->heard_us[node] = now_us;
    if (frame->kind == WIRE_VECTOR) {
        vector(c, node, frame);
        return WIRE_DROP_NONE;
    }
    if (frame->kind == WIRE_RESULT)
        return result(c, now_us, frame);
    if (frame->kind == WIRE_RANGE_GRANT)
        return granted(c, (const void *)frame->payload);
    if (frame->kind == WIRE_TX_STATE)
        return tx_state(c, now_us, frame);
    if (frame->kind == WIRE_SEALED)
        return sealed(c, (const void *)frame->payload);
    if (frame->kind == WIRE_NOT_OWNER)
        return WIRE_DROP_NONE; /* the renewals ask again; a change of owner ends in SEALED */
    return WIRE_DROP_FRAME_ROLE;
}

void gateway_core_abandon(struct gateway_core *c) {
    for (; c->low < c->end; c->low++) {
        struct part *p = part_at(c, c->low);
        struct gateway_core_done done = {
            .user = p->user, .id = p->id, .code = 14 /* unavailable */};
        if (p->first && !p->answered)
            c->shell.done(c->shell.context, &done);
    }
    c->sent = c->end;
}

void gateway_core_query(struct gateway_core *c, uint64_t now_us, uint64_t id) {
    c->query_id = id;
    c->query_until_us = now_us + 2000000;
    ask_state(c, id, 0, PIECES_AHEAD_BYTES, (uint32_t)c->queries);
}

void gateway_core_tick(struct gateway_core *c, uint64_t now_us) {
    if (needs_range(c))
        ask_range(c, now_us);
    const struct segment *s = segment_now(c);
    if (s && now_us >= c->renew_at_us) {
        c->renew_at_us = now_us + RENEW_US;
        for (uint32_t i = 0; i < c->segment_count; i++) {
            struct wire_range_renew renew = {c->config.owner, segment_at(c, i)->range};
            if (segment_at(c, i)->live)
                send_all(c, WIRE_RANGE_RENEW, &renew, sizeof renew);
        }
    }
    send_new(c, now_us);
    resend(c, now_us);
    if (c->assembly_id != NO_ID && now_us >= c->assembly_at_us) {
        c->assembly_at_us = now_us + RESEND_MIN_US;
        ask_state(c, c->assembly_id, c->assembly_have, PIECES_AHEAD_BYTES, 0);
    }
}

void gateway_core_facts(const struct gateway_core *c, uint64_t now_us,
                        struct gateway_core_facts *f) {
    const struct segment *s = segment_now(c);
    memset(f, 0, sizeof *f);
    f->range = s && s->live ? s->range : WIRE_RANGE_NONE;
    f->next_range = c->next_range;
    f->offset = s ? s->next_offset : 0;
    f->committed = s ? s->committed : 0;
    f->limit = s ? s->limit : 0;
    f->outstanding_parts = (uint32_t)(c->end - c->low);
    f->leader = c->leader;
    for (uint32_t i = 0; i < c->config.node_count; i++)
        f->nodes_heard += c->heard_us[i] && now_us - c->heard_us[i] < 1000000;
    f->submitted = c->submitted;
    f->answered = c->answered;
    f->resent = c->resent;
    f->window_full = c->window_full;
    f->sealed = c->sealed;
    f->queries = c->queries;
    f->range_outcome = c->range_outcome;
    f->range_held_by = c->range_held_by;
}

const char *gateway_core_check(const struct gateway_core *c) {
    if (c->low > c->sent || c->sent > c->end || c->end - c->low > c->config.parts_max)
        return "I1 low <= sent <= end, bounded";
    for (uint64_t n = c->low; n < c->sent; n++) {
        const struct part *p = part_at(c, n);
        const struct segment *s = segment_of(c, wire_tx_range(p->id));
        if (!s || s->first_number + (wire_tx_offset(p->id) - s->first_offset) != n)
            return "I2 ids follow numbers";
        if (wire_tx_offset(p->id) >= s->limit)
            return "I3 nothing beyond the limit";
    }
    return NULL;
}
