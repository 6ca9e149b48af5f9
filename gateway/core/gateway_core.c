/* Submitting, sending, resending; the rest is in core_ranges.c and core_results.c. */
#include "gateway/core/internal.h"

#include <assert.h>
#include <string.h>

#include <maroon/error.h>

size_t gateway_core_size(const struct gateway_core_config *g) {
    bool ok = g->owner && g->node_count && g->node_count <= WIRE_NODES_MAX && g->parts_max >= 16 &&
              !(g->parts_max & (g->parts_max - 1)) && g->parts_max <= 1u << 20 &&
              g->transaction_max_bytes;
    size_t head = (sizeof(struct gateway_core) + 63) & ~(size_t)63;
    size_t parts = g->parts_max * (sizeof(struct part) + WIRE_BODY_MAX_BYTES);
    return ok ? head + parts + 2 * (size_t)g->result_max_bytes : 0;
}

struct gateway_core *gateway_core_init(void *memory, const struct gateway_core_config *config,
                                       const struct gateway_core_shell *shell, uint64_t now_us) {
    struct gateway_core *c = memory;
    memset(c, 0, sizeof *c);
    c->config = *config;
    if (!c->config.lost_after_us)
        c->config.lost_after_us = GATEWAY_CORE_LOST_US;
    c->shell = *shell;
    c->parts = (void *)((uint8_t *)memory + ((sizeof *c + 63) & ~(size_t)63));
    uint8_t *bytes = (uint8_t *)(c->parts + config->parts_max);
    for (uint32_t i = 0; i < config->parts_max; i++, bytes += WIRE_BODY_MAX_BYTES)
        c->parts[i].bytes = bytes;
    c->own.bytes = bytes;
    c->asked.bytes = c->own.bytes + config->result_max_bytes;
    c->next_range = WIRE_RANGE_NONE;
    c->leader = 255;
    c->latency_us = 1000;
    c->quickest_us = RESEND_MIN_US;
    c->ask_at_us = now_us;
    c->range_nonce = 1;
    c->own.id = c->asked.id = c->query.id = NO_ID;
    return c;
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

static void part_new(struct part *p, uint64_t now_us, void *user, bool first) {
    p->id = NO_ID;
    p->first = first;
    p->answered = p->committed = p->kept = false;
    p->try_count = 0;
    p->since_us = now_us;
    p->user = user;
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
    if (c->end - c->low + parts > c->config.parts_max) {
        c->window_full++;
        return MRN_ERR_FULL;
    }
    if (c->placed < c->end || !gateway_ranges_room(c, parts))
        return segment_now(c) && segment_now(c)->live ? MRN_ERR_FULL : MRN_ERR_UNAVAILABLE;
    const uint8_t *at = payload;
    uint64_t number = c->end;
    for (uint32_t i = 0; i < parts; i++) {
        struct part *p = part_at(c, c->end++);
        uint32_t bytes = i ? room : first;
        bytes = bytes < length_bytes ? bytes : length_bytes;
        part_fill(p, service, method, (uint16_t)(parts - 1 - i), i ? NULL : key, request_hash, at,
                  bytes);
        part_new(p, now_us, i ? NULL : user, i == 0);
        at += bytes;
        length_bytes -= bytes;
    }
    gateway_ranges_place(c);
    assert(c->placed == c->end);
    c->submitted++;
    *ret_id = part_at(c, number)->id;
    return 0;
}

bool gateway_core_keep_id(struct gateway_core *c, uint64_t id) {
    const struct segment *s = segment_of(c, wire_tx_range(id));
    struct part *p = gateway_results_part(c, id);
    if (!p)
        return false;
    uint64_t number = s->first_number + (wire_tx_offset(id) - s->first_offset);
    for (uint32_t i = 0; i <= p->parts_following; i++)
        part_at(c, number + i)->kept = true;
    return true;
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
    uint8_t node = c->leader < c->config.node_count ? c->leader : 0; /* everybody waits for it */
    for (uint8_t i = 0; i < c->config.node_count; i++) {
        if (!again || s->received[node] <= wire_tx_offset(p->id))
            c->shell.send(c->shell.context, node, WIRE_TX, &tx, sizeof tx, p->bytes,
                          p->length_bytes);
        node = (uint8_t)(node + 1u) < c->config.node_count ? (uint8_t)(node + 1u) : 0;
    }
}

static uint64_t first_wait_us(const struct gateway_core *c) {
    uint64_t wait_us = 4 * c->latency_us;
    return wait_us < RESEND_MIN_US         ? RESEND_MIN_US
           : wait_us > RESEND_FIRST_MAX_US ? RESEND_FIRST_MAX_US
                                           : wait_us;
}

/* The body that a range's head waits for, if it was sent. */
static struct part *head_part(const struct gateway_core *c, const struct segment *s) {
    if (s->head < s->first_offset || s->head >= s->next_offset)
        return NULL;
    uint64_t number = s->first_number + (s->head - s->first_offset);
    struct part *p = part_at(c, number);
    return number >= c->low && number < c->sent && !p->answered ? p : NULL;
}

static void head_wait(struct gateway_core *c, struct segment *s) {
    const struct part *p = head_part(c, s);
    uint64_t wait_us = 2 * c->quickest_us > RESEND_MIN_US ? 2 * c->quickest_us : RESEND_MIN_US;
    s->head_tries = 0;
    s->head_at_us = p ? p->sent_us + wait_us : UINT64_MAX;
}

/* A body that no node holds keeps all behind it waiting, whose answers then come so late that the
 * timers of the others rise. It does not wait for those. */
static void resend_heads(struct gateway_core *c, uint64_t now_us) {
    for (uint32_t i = 0; i < c->segment_count; i++) {
        struct segment *s = segment_at(c, i);
        struct part *p = now_us < s->head_at_us ? NULL : head_part(c, s);
        if (!p || now_us < p->sent_us + RESEND_MIN_US || s->head_tries == HEAD_TRIES_MAX)
            continue;
        part_send(c, p, s, true);
        p->sent_us = now_us;
        c->resent++;
        s->head_at_us = now_us + (RESEND_MIN_US << s->head_tries++);
    }
}

static void send_new(struct gateway_core *c, uint64_t now_us) {
    while (c->sent < c->placed) {
        struct part *p = part_at(c, c->sent);
        struct segment *s = segment_of(c, wire_tx_range(p->id));
        if (!s || wire_tx_offset(p->id) >= s->limit)
            return;
        part_send(c, p, s, false);
        p->try_count = 1;
        p->sent_us = now_us;
        p->at_us = now_us + first_wait_us(c);
        c->resend_at_us = p->at_us < c->resend_at_us ? p->at_us : c->resend_at_us;
        c->sent++;
        if (wire_tx_offset(p->id) == s->head)
            head_wait(c, s);
        if (p->first)
            event_tell(c, GATEWAY_CORE_SENT, p);
    }
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
        p->sent_us = now_us;
        if (p->first && p->id != c->own.id) /* the leader may not be reached, nor reach us */
            p->try_count < 2 ? gateway_results_ask_leader(c, p->id)
                             : gateway_results_ask_all(c, p->id);
        uint64_t wait = RESEND_MIN_US << (p->try_count < 8 ? p->try_count : 8);
        p->at_us = now_us + (wait < RESEND_MAX_US ? wait : RESEND_MAX_US);
        next_us = p->at_us < next_us ? p->at_us : next_us;
        if (p->try_count < 250)
            p->try_count++;
        c->resent++;
        budget--;
    }
    uint64_t pause_us = now_us + (budget ? RESEND_LOOK_US : RESEND_PAUSE_US);
    c->resend_at_us = next_us > pause_us ? next_us : pause_us;
}

/* ---- frames ---- */

static void tell_committed(struct gateway_core *c, const struct segment *s, uint32_t from,
                           uint32_t to) {
    for (uint64_t offset = from > s->first_offset ? from : s->first_offset;
         offset < to && offset < s->next_offset; offset++) {
        uint64_t number = s->first_number + (offset - s->first_offset);
        struct part *p = part_at(c, number);
        if (number < c->low || number >= c->sent || !p->first || p->answered || p->committed)
            continue;
        p->committed = true;
        event_tell(c, GATEWAY_CORE_COMMITTED, p);
    }
}

static void vector(struct gateway_core *c, uint8_t node, const struct wire_frame *frame) {
    struct wire_vector v;
    memcpy(&v, frame->payload, sizeof v);
    const struct wire_vector_entry *entries = (const void *)(frame->payload + sizeof v);
    if (v.is_leader)
        c->leader = node;
    for (uint32_t i = 0; i < v.count; i++) {
        gateway_ranges_affirmed(c, node, entries[i].range);
        struct segment *s = segment_of(c, entries[i].range);
        if (!s)
            continue;
        s->received[node] = entries[i].received;
        if (entries[i].received > s->head) {
            s->head = entries[i].received;
            head_wait(c, s);
        }
        if (v.commit_seq < s->limit_commit_seq)
            continue;
        s->limit_commit_seq = v.commit_seq;
        uint64_t limit = (uint64_t)entries[i].committed + v.window;
        limit = limit < WIRE_RANGE_OFFSETS ? limit : WIRE_RANGE_OFFSETS;
        if (entries[i].committed > s->committed) {
            if (c->shell.event)
                tell_committed(c, s, s->committed, entries[i].committed);
            s->committed = entries[i].committed;
        }
        if (limit > s->limit) /* "the limit never goes back" */
            s->limit = (uint32_t)limit;
    }
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
        return gateway_results_frame(c, now_us, frame);
    if (frame->kind == WIRE_RANGE_GRANT)
        return gateway_ranges_granted(c, (const void *)frame->payload);
    if (frame->kind == WIRE_TX_STATE)
        return gateway_results_state(c, now_us, node, frame);
    if (frame->kind == WIRE_SEALED)
        return gateway_ranges_sealed(c, (const void *)frame->payload);
    if (frame->kind == WIRE_NOT_OWNER)
        return gateway_ranges_denied(c, now_us, node, (const void *)frame->payload);
    return WIRE_DROP_FRAME_ROLE;
}

void gateway_core_tick(struct gateway_core *c, uint64_t now_us) {
    gateway_ranges_tick(c, now_us);
    send_new(c, now_us);
    resend_heads(c, now_us);
    resend(c, now_us);
    gateway_results_tick(c, now_us);
}

void gateway_core_facts(const struct gateway_core *c, uint64_t now_us,
                        struct gateway_core_facts *f) {
    const struct segment *s = segment_now(c);
    memset(f, 0, sizeof *f);
    f->owner = c->config.owner;
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
    f->resubmitted = c->resubmitted;
    f->window_full = c->window_full;
    f->sealed = c->sealed;
    f->lost = c->lost;
    f->doubt = c->doubt;
    f->queries = c->queries;
    f->range_outcome = c->range_outcome;
    f->range_held_by = c->range_held_by;
}

const char *gateway_core_check(const struct gateway_core *c) {
    if (c->low > c->sent || c->sent > c->placed || c->placed > c->end ||
        c->end - c->low > c->config.parts_max)
        return "I1 low <= sent <= placed <= end, bounded";
    for (uint64_t n = c->low; n < c->placed; n++) {
        const struct part *p = part_at(c, n);
        const struct segment *s = segment_of(c, wire_tx_range(p->id));
        if (!s || s->first_number + (wire_tx_offset(p->id) - s->first_offset) != n)
            return "I2 ids follow numbers";
        if (n < c->sent && wire_tx_offset(p->id) >= s->limit)
            return "I3 nothing beyond the limit";
    }
    return NULL;
}
