/* The runtime: committed epochs in, results out. */
#include <stdlib.h>

#include "dataplane/stages/internal.h"
#include "dataplane/stages/marks.h"

#define EPOCHS_PER_PASS 8
#define HASH_INTERVAL_NS 100000000u

/* ---- results ---- */

/* Into a link that ingress empties. An epoch's results are not given up for want of room: ingress
 * makes some, here when it shares our thread. */
static bool wait_for_ingress(struct stage *s) {
    if (s->ingress.worker == s->execute.worker)
        stage_ingress_send(s);
    return !atomic_load_explicit(&s->stop, memory_order_relaxed) &&
           !atomic_load_explicit(&s->failed, memory_order_relaxed);
}

static void put_piece(struct stage *s, struct answer *answer, const uint8_t *bytes,
                      uint32_t length) {
    answer->length_bytes = (uint16_t)length;
    if (length <= RESULT_INLINE_BYTES) {
        if (length)
            memcpy(answer->result.bytes, bytes, length);
    } else {
        while (!link_take(&s->free_pieces, &answer->result.piece, 1))
            if (!wait_for_ingress(s))
                return;
        memcpy(answer->result.piece, bytes, length);
    }
    while (!link_put(&s->results, answer))
        if (!wait_for_ingress(s))
            return;
}

static void put_result(struct stage *s, uint32_t gateway, const struct runtime_result *result,
                       const uint8_t *bytes, uint32_t from, uint32_t length) {
    uint32_t end = from + length;
    struct answer answer = {.kind = ANSWER_RESULT, .gateway = gateway};
    answer.result.owner = result->owner;
    do {
        uint32_t piece = end - from < RESULT_PIECE_BYTES ? end - from : RESULT_PIECE_BYTES;
        answer.result.head =
            (struct wire_result){.id = result->id,
                                 .epoch_seq = result->epoch_seq,
                                 .logical_time_us = result->logical_time_us,
                                 .method_key = result->method_key,
                                 .code = (uint8_t)result->code,
                                 .total_bytes = result->length_bytes,
                                 .offset_bytes = from,
                                 .owner_mark = retired_mark(result->owner) & RETIRED_MARK_MAX};
        put_piece(s, &answer, bytes, piece);
        bytes += piece;
        from += piece;
    } while (from < end);
}

/* "The leader answers first; others answer resends." */
static void answer_first(void *user, const struct runtime_result *result) {
    struct stage *s = user;
    atomic_fetch_add_explicit(&s->status->transactions_executed, 1, memory_order_relaxed);
    if (!atomic_load_explicit(&s->leads, memory_order_relaxed))
        return;
    stage_watch_executed(result->id);
    uint32_t ahead =
        result->length_bytes < RESULT_AHEAD_BYTES ? result->length_bytes : RESULT_AHEAD_BYTES;
    put_result(s, GATEWAY_NONE, result, result->bytes, 0, ahead);
}

static void stage_execute_result(struct stage *s, const struct order *order) {
    struct runtime_result result;
    uint32_t copied = 0, length = order->length_bytes;
    if (!length || length > RESULT_AHEAD_BYTES)
        length = RESULT_AHEAD_BYTES;
    enum runtime_outcome outcome =
        runtime_result_find(s->execute.runtime, order->id, order->offset_bytes,
                            s->execute.result_buffer, length, &result, &copied);
    if (outcome == RUNTIME_EXECUTED) {
        result.owner = order->owner_mark; /* the replica let none ask for another's */
        if (order->offset_bytes <= result.length_bytes && (copied || !result.length_bytes))
            put_result(s, order->gateway, &result, s->execute.result_buffer, order->offset_bytes,
                       copied);
        atomic_fetch_add_explicit(&s->status->results_resent, 1, memory_order_relaxed);
        return;
    }
    struct wire_tx_state state = {order->id, 0,
                                  outcome == RUNTIME_EXPIRED  ? WIRE_TX_EXPIRED
                                  : outcome == RUNTIME_SEALED ? WIRE_TX_SEALED
                                                              : WIRE_TX_COMMITTED,
                                  order->owner_mark & RETIRED_MARK_MAX};
    struct answer answer = {.kind = ANSWER_FRAME,
                            .frame_kind = WIRE_TX_STATE,
                            .length_bytes = sizeof state,
                            .gateway = order->gateway};
    memcpy(answer.payload, &state, sizeof state);
    (void)link_put(&s->results, &answer); /* lost like a packet: asked again */
}

/* ---- epochs ---- */

/* What of an executed epoch nobody waits for: the chain of result hashes, and that gossip lets go
 * of it. Its results are on their way when this is done, at the next pass or before the next epoch.
 */
static void finish_epoch(struct stage *s) {
    struct execute *x = &s->execute;
    if (!x->unfinished_seq)
        return;
    struct done done = {
        .kind = DONE_EPOCH, .seq = x->unfinished_seq, .hash = runtime_result_hash(x->runtime)};
    x->unfinished_seq = 0;
    stage_done(s, &done);
}

/* An epoch that a restored snapshot covers was ordered before it came, and is passed over. */
static void execute_epoch(struct stage *s, uint64_t seq, uint32_t delivery) {
    struct execute *x = &s->execute;
    if (seq <= runtime_exec_seq(x->runtime))
        return;
    const struct delivery *d = &s->deliveries[delivery];
    for (uint32_t i = 0; i < d->count; i++) {
        const struct body *body = &s->bodies.slots[d->bodies[i].slot];
        assert(body->taken && body->id == d->bodies[i].id);
        x->bodies[i] = (struct runtime_body){body->id, body->bytes, body->length_bytes};
    }
    struct runtime_epoch epoch = runtime_epoch_of(d->epoch, d->hash);
    epoch.bodies = x->bodies;
    epoch.body_count = d->count;
    int error = runtime_execute_epoch(x->runtime, &epoch, answer_first, s);
    if (error < 0) {
        stage_fail(s, error, "the runtime cannot execute a committed epoch");
        return;
    }
    x->unfinished_seq = seq;
}

/* The hash costs what changed since the last one: now and then, when there is nothing to do. */
static void hash_state(struct stage *s) {
    struct execute *x = &s->execute;
    uint64_t exec_seq = runtime_exec_seq(x->runtime);
    if (x->worker->now_ns < x->hash_at_ns || exec_seq == x->hash_seq)
        return;
    x->hash_at_ns = x->worker->now_ns + HASH_INTERVAL_NS;
    x->hash_seq = exec_seq;
    uint64_t at = stage_part_begin();
    struct done done = {.kind = DONE_HASH, .seq = exec_seq, .hash = runtime_state_hash(x->runtime)};
    (void)stage_part_end(STAGE_PART_HASH, at);
    stage_done(s, &done);
}

void stage_execute_snapshot(struct stage *s) {
    struct execute *x = &s->execute;
    x->snapshot.ordered = link_take(&s->order_paths, &x->snapshot.path, 1) == 1;
}

bool stage_execute_waits(const struct stage *s) {
    return s->execute.unfinished_seq || link_count(&s->orders);
}

uint32_t stage_execute_poll(struct stage *s) {
    struct execute *x = &s->execute;
    uint32_t epochs = 0, work = x->unfinished_seq != 0;
    struct order order;
    finish_epoch(s);
    while (!x->handed_over && epochs < EPOCHS_PER_PASS &&
           !atomic_load_explicit(&s->failed, memory_order_relaxed) &&
           link_take(&s->orders, &order, 1)) {
        work++;
        switch ((enum order_kind)order.kind) {
        case ORDER_EPOCH:
            finish_epoch(s);
            execute_epoch(s, order.seq, order.delivery);
            epochs++;
            break;
        case ORDER_RESULT: stage_execute_result(s, &order); break;
        case ORDER_SNAPSHOT: stage_execute_snapshot(s); break;
        case ORDER_RESTORE:
            x->restore.ordered = link_take(&s->order_paths, &x->restore.path, 1) == 1;
            x->handed_over = true;
            break;
        case ORDER_CONTINUE: break;
        }
    }
    if (epochs)
        atomic_store_explicit(&s->status->idempotency_keys, runtime_idempotency_keys(x->runtime),
                              memory_order_relaxed);
    if (!atomic_load_explicit(&s->leads, memory_order_relaxed) || /* it sent no results */
        x->snapshot.ordered || x->handed_over) /* who looks at the state as a whole */
        finish_epoch(s);
    work += stage_state_poll(s);
    if (!work)
        hash_state(s);
    return work;
}
