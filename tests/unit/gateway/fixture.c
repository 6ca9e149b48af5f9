#include "tests/unit/gateway/fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/retired.h"

static void on_send(void *context, uint8_t node, enum wire_kind kind, const void *payload,
                    uint32_t payload_bytes, const void *tail, uint32_t tail_bytes) {
    struct world *w = context;
    assert_true(w->sent_count < SENT_MAX);
    struct sent *s = &w->sent[w->sent_count++];
    memset(s, 0, sizeof *s);
    s->node = node;
    s->kind = (uint8_t)kind;
    if (kind == WIRE_TX) {
        assert_int_equal(payload_bytes, sizeof(struct wire_tx));
        assert_int_equal(wire_body_check(tail, tail_bytes), WIRE_DROP_NONE);
        memcpy(&s->id, payload, sizeof s->id);
        memcpy(&s->body, tail, sizeof s->body);
        s->first_byte =
            tail_bytes > sizeof s->body ? ((const uint8_t *)tail)[sizeof s->body] : (uint8_t)0;
    } else if (kind == WIRE_TX_QUERY) {
        const struct wire_tx_query *q = payload;
        s->id = q->id;
        s->offset = q->offset_bytes;
        s->owner_mark = q->owner_mark;
        if (s->owner_mark != retired_mark(world_facts(w).owner)) {
            w->other_id = s->id;
            w->other_mark = s->owner_mark;
        }
    } else if (kind == WIRE_RANGE_REQUEST) {
        const struct wire_range_request *q = payload;
        s->range = q->range;
        s->nonce = q->nonce;
        s->owner = q->owner;
    } else if (kind == WIRE_RANGE_RENEW) {
        s->range = ((const struct wire_range_renew *)payload)->range;
        s->owner = ((const struct wire_range_renew *)payload)->owner;
    } else if (kind == WIRE_RANGE_CLOSE) {
        const struct wire_range_close *q = payload;
        s->range = q->range;
        s->end = q->end;
    } else
        fail_msg("a gateway never sends %s", wire_kind_name((uint8_t)kind));
}

static void on_done(void *context, const struct gateway_core_done *done) {
    struct world *w = context;
    assert_true(w->done_count < DONE_MAX);
    struct done *d = &w->done[w->done_count++];
    *d = (struct done){(uintptr_t)done->user, done->id, done->code, done->length_bytes, NULL};
    d->bytes = malloc(done->length_bytes + 1u);
    if (done->bytes)
        memcpy(d->bytes, done->bytes, done->length_bytes);
}

static void on_state(void *context, const struct gateway_core_state *state) {
    struct world *w = context;
    w->state = *state;
    w->state_count++;
    free(w->state_bytes);
    w->state_bytes = malloc(state->length_bytes + 1u);
    if (state->bytes)
        memcpy(w->state_bytes, state->bytes, state->length_bytes);
}

static void on_ranges(void *context, uint64_t owner, const uint64_t ranges[2]) {
    struct world *w = context;
    w->owner = owner;
    memcpy(w->ranges, ranges, 2 * sizeof *ranges);
}

static void on_event(void *context, const struct gateway_core_event *event) {
    struct world *w = context;
    if (w->event_count < EVENTS_MAX)
        w->events[w->event_count] = *event;
    w->event_count++;
}

static void check(const struct world *w) {
    const char *broken = gateway_core_check(w->core);
    if (broken)
        fail_msg("%s", broken);
}

void world_restart(struct world *w, uint64_t pinned_range, uint32_t parts_max) {
    struct gateway_core_config config = {.owner = OWNER,
                                         .pinned_range = pinned_range,
                                         .node_count = 3,
                                         .parts_max = parts_max,
                                         .transaction_max_bytes = 20000,
                                         .result_max_bytes = 300000};
    struct gateway_core_shell shell = {w, on_send, on_done, on_state, on_ranges, on_event};
    free(w->memory);
    size_t bytes = gateway_core_size(&config);
    assert_true(bytes);
    w->memory = aligned_alloc(64, (bytes + 63) & ~(size_t)63);
    assert_non_null(w->memory);
    w->core = gateway_core_init(w->memory, &config, &shell, w->now_us);
}

int world_make(void **state) {
    struct world *w = calloc(1, sizeof *w);
    w->sent = calloc(SENT_MAX, sizeof *w->sent);
    w->now_us = 1000000;
    world_restart(w, WIRE_RANGE_NONE, 64);
    *state = w;
    return 0;
}

int world_free(void **state) {
    struct world *w = *state;
    for (uint32_t i = 0; i < w->done_count; i++)
        free(w->done[i].bytes);
    free(w->state_bytes);
    free(w->sent);
    free(w->memory);
    free(w);
    return 0;
}

void world_tick(struct world *w, uint64_t us) {
    w->now_us += us;
    gateway_core_tick(w->core, w->now_us);
    check(w);
}

int world_submit(struct world *w, uint32_t bytes, uintptr_t user) {
    uint8_t *payload = malloc(bytes + 1);
    uint64_t id;
    memset(payload, (int)(user & 255), bytes + 1);
    int error = gateway_core_submit(w->core, w->now_us, 1, 2, payload, bytes, NULL, NULL,
                                    (void *)user, &id);
    free(payload);
    check(w);
    return error;
}

uint32_t world_count(const struct world *w, enum wire_kind kind) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < w->sent_count; i++)
        count += w->sent[i].kind == kind;
    return count;
}

const struct sent *world_last(const struct world *w, enum wire_kind kind) {
    for (uint32_t i = w->sent_count; i-- > 0;)
        if (w->sent[i].kind == kind)
            return &w->sent[i];
    fail_msg("no %s was sent", wire_kind_name((uint8_t)kind));
    return NULL;
}

enum wire_drop world_frame(struct world *w, uint8_t node, enum wire_kind kind, const void *bytes,
                           uint32_t length) {
    struct wire_frame frame = {(uint8_t)kind, 0, (uint16_t)length, bytes};
    enum wire_drop drop = gateway_core_frame(w->core, w->now_us, node, &frame);
    check(w);
    return drop;
}

enum wire_drop world_grant(struct world *w, uint64_t range, uint32_t start) {
    world_tick(w, 200001);
    struct wire_range_grant grant = {.nonce = world_last(w, WIRE_RANGE_REQUEST)->nonce,
                                     .owner = world_facts(w).owner,
                                     .range = range,
                                     .start = start,
                                     .outcome = WIRE_RANGE_GRANTED,
                                     .held_by = world_facts(w).owner};
    return world_frame(w, 0, WIRE_RANGE_GRANT, &grant, sizeof grant);
}

enum wire_drop world_vector(struct world *w, uint8_t node, uint64_t commit_seq, uint64_t range,
                            uint32_t received, uint32_t committed, uint32_t window) {
    uint8_t bytes[sizeof(struct wire_vector) + sizeof(struct wire_vector_entry)];
    struct wire_vector v = {
        .commit_seq = commit_seq, .window = window, .is_leader = node == 0, .count = 1};
    struct wire_vector_entry entry = {range, received, committed};
    memcpy(bytes, &v, sizeof v);
    memcpy(bytes + sizeof v, &entry, sizeof entry);
    return world_frame(w, node, WIRE_VECTOR, bytes, sizeof bytes);
}

static uint32_t mark_of(const struct world *w, uint64_t id) {
    return id == w->other_id ? w->other_mark : retired_mark(world_facts(w).owner);
}

enum wire_drop world_piece(struct world *w, uint64_t id, uint32_t total, uint32_t offset,
                           uint32_t count) {
    uint8_t bytes[sizeof(struct wire_result) + 1400];
    struct wire_result r = {.id = id,
                            .epoch_seq = 9,
                            .total_bytes = total,
                            .offset_bytes = offset,
                            .owner_mark = mark_of(w, id) & RETIRED_MARK_MAX};
    assert_true(count <= 1400);
    memcpy(bytes, &r, sizeof r);
    for (uint32_t i = 0; i < count; i++)
        bytes[sizeof r + i] = (uint8_t)((offset + i) * 7 >> 3);
    return world_frame(w, 0, WIRE_RESULT, bytes, (uint32_t)sizeof r + count);
}

enum wire_drop world_result(struct world *w, uint64_t id, uint32_t code) {
    struct wire_result r = {.id = id,
                            .epoch_seq = 9,
                            .code = (uint8_t)code,
                            .owner_mark = mark_of(w, id) & RETIRED_MARK_MAX};
    return world_frame(w, 0, WIRE_RESULT, &r, sizeof r);
}

enum wire_drop world_sealed(struct world *w, uint64_t range, uint32_t end) {
    struct wire_sealed s = {range, end, retired_mark(world_facts(w).owner)};
    return world_frame(w, 1, WIRE_SEALED, &s, sizeof s);
}

enum wire_drop world_state(struct world *w, uint8_t node, uint64_t id,
                           enum wire_tx_outcome outcome) {
    struct wire_tx_state s = {id, 9, (uint8_t)outcome, mark_of(w, id) & RETIRED_MARK_MAX};
    return world_frame(w, node, WIRE_TX_STATE, &s, sizeof s);
}

struct gateway_core_facts world_facts(const struct world *w) {
    struct gateway_core_facts facts;
    gateway_core_facts(w->core, w->now_us, &facts);
    return facts;
}
