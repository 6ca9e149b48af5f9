#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/arbiter_etcd.h"
#include "controlplane/log.h"
#include "maroon/error.h"

/* Requests of gateways and of the leader, each an operation of its own:
 *
 *   queued --> (lease) --> in a batch: one transaction grants up to 30 --> answered      NEXT
 *   queued --> read record and lease --> decide --> (lease) --> write --> answered       the others
 *                 ^------ compare failed, outcome unknown -------/
 *
 * A record is written only under a compare of what was read, and holds who asked: a request whose
 * answer was lost finds itself there. range-owners/<owner>-<nonce> does the same for NEXT, whose
 * range nobody knows beforehand; it lives as long as the range's lease.
 *
 * A pinned range is held under a token that is drawn with the grant: who asks again after his first
 * holding ended gets another one, so what is said late of that holding never meets this one. */
#define OPS_RUNNING_MAX 64
#define REQUEST_PATIENCE_NS UINT64_C(3000000000) /* then the gateway is told to ask again */

enum op_kind { OP_NEXT = 1, OP_PIN, OP_RENEW, OP_CLOSE, OP_CHECK, OP_SEALED };
enum op_state { OP_QUEUED = 1, OP_BUSY, OP_READY /* NEXT: has its lease, waits for a batch */ };

struct range_op {
    struct range_op *next;
    struct arbiter_etcd *arbiter;
    enum op_kind kind;
    enum op_state state;
    uint64_t owner, nonce, range, floor;
    uint64_t holder; /* PIN: token of the holding that it would get */
    uint32_t end;
    bool renewing;  /* CHECK: a renewal by the same owner was under way at the last read */
    uint64_t lease; /* granted for this operation and not given to a range; 0: none */
    uint64_t deadline_ns;
    struct arbiter_range record; /* as read */
    uint64_t record_revision;    /* 0: absent */
    uint64_t found_lease;        /* of range-leases/<r>; 0: absent */
    uint64_t lease_key_revision;
    struct loop_timer timer;
};

struct batch {
    struct arbiter_etcd *arbiter;
    uint32_t count;
    struct range_op *ops[ARBITER_BATCH_MAX];
    uint64_t candidates[ARBITER_BATCH_MAX];
};

static void pump(struct arbiter_etcd *arbiter);
static void op_read(void *context);
static void op_write(struct range_op *op);
static void batch_run(void *context);

/* ---- operations ---- */

static void op_free(struct range_op *op) {
    struct arbiter_etcd *arbiter = op->arbiter;
    struct range_op **link = &arbiter->ops;
    while (*link != op)
        link = &(*link)->next;
    *link = op->next;
    arbiter->op_count--;
    if (op->state != OP_QUEUED)
        arbiter->op_running--;
    loop_timer_clear(arbiter->base.setup.loop, &op->timer);
    free(op);
}

/* Gives back a lease that no range got; when this fails it ends by itself. */
static void lease_return(struct range_op *op) {
    if (op->lease)
        (void)etcd_lease_revoke(op->arbiter->etcd, op->lease, NULL, NULL);
    op->lease = 0;
}

static void op_end(struct range_op *op) {
    struct arbiter_etcd *arbiter = op->arbiter;
    lease_return(op);
    op_free(op);
    pump(arbiter);
}

static void op_answer(struct range_op *op, uint32_t outcome, uint32_t start, uint64_t held_by) {
    const struct arbiter_sink *sink = op->arbiter->base.setup.sink;
    struct arbiter_grant grant = {
        .nonce = op->nonce,
        .owner = op->owner,
        .range = op->range,
        .held_by = held_by,
        .start = start,
        .outcome = outcome,
    };
    if (outcome == WIRE_RANGE_GRANTED)
        mrn_log_info("range_granted", "range=%" PRIu64 " owner=%" PRIx64 " start=%u", op->range,
                     held_by, start);
    sink->range_granted(sink->context, &grant);
    op_end(op);
}

static bool is_request(const struct range_op *op) {
    return op->kind == OP_NEXT || op->kind == OP_PIN;
}

/* After a failure: again after a while, or an end. A seal is recorded however long it takes; the
 * others are repeated by whoever asked. */
static void op_again(struct range_op *op, loop_timer_handler step) {
    struct arbiter_etcd *arbiter = op->arbiter;
    if (op->kind != OP_SEALED && loop_now_ns(arbiter->base.setup.loop) >= op->deadline_ns) {
        if (is_request(op))
            op_answer(op, WIRE_RANGE_RETRY, 0, 0);
        else
            op_end(op);
        return;
    }
    loop_timer_set(arbiter->base.setup.loop, &op->timer, etcd_retry_delay_ms(arbiter->etcd) + 1,
                   step, op);
}

static void owner_key(const struct range_op *op, char *ret_key) {
    int length = snprintf(ret_key, ETCD_KEY_MAX + 1, "%srange-owners/%016" PRIx64 "-%016" PRIx64,
                          op->arbiter->prefix, op->owner, op->nonce);
    assert(length > 0 && length <= ETCD_KEY_MAX);
    (void)length;
}

/* ---- leases of ranges ---- */

static void lease_step(void *context);

static void lease_granted(void *context, const struct etcd_answer *answer) {
    struct range_op *op = context;
    if (answer->error && answer->error != MRN_ERR_EXISTS) {
        op_again(op, lease_step); /* with the same id: a lost answer does no harm */
        return;
    }
    if (op->kind == OP_NEXT) {
        op->state = OP_READY;
        batch_run(op->arbiter);
    } else {
        op_write(op);
    }
}

static void lease_step(void *context) {
    struct range_op *op = context;
    if (!op->lease)
        op->lease = arbiter_etcd_draw_lease();
    if (etcd_lease_grant(op->arbiter->etcd, op->lease, op->arbiter->range_ttl_s, lease_granted, op))
        op_again(op, lease_step);
}

/* ---- NEXT: batches ---- */

static uint64_t take_ready(struct arbiter_etcd *arbiter, struct batch *batch) {
    uint64_t base = arbiter->next_range;
    for (struct range_op *op = arbiter->ops; op && batch->count < ARBITER_BATCH_MAX; op = op->next)
        if (op->kind == OP_NEXT && op->state == OP_READY) {
            batch->ops[batch->count++] = op;
            if (op->floor > base)
                base = op->floor;
        }
    for (uint32_t i = 0; i < batch->count; i++)
        batch->candidates[i] = base + i;
    return base;
}

static void batch_over(struct batch *batch, uint64_t delay_ms) {
    struct arbiter_etcd *arbiter = batch->arbiter;
    arbiter->batch_running = NULL;
    free(batch);
    loop_timer_set(arbiter->base.setup.loop, &arbiter->batch_timer, delay_ms, batch_run, arbiter);
}

static void batch_granted(struct batch *batch, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = batch->arbiter;
    arbiter->next_range = batch->candidates[batch->count - 1] + 1;
    arbiter->next_revision = answer->revision;
    for (uint32_t i = 0; i < batch->count; i++) {
        batch->ops[i]->range = batch->candidates[i];
        batch->ops[i]->lease = 0; /* the range's now */
        op_answer(batch->ops[i], WIRE_RANGE_GRANTED, 0, batch->ops[i]->owner);
    }
}

static void next_seen(struct arbiter_etcd *arbiter, const struct etcd_response *response) {
    uint64_t next;
    if (response->kv_count == 0) {
        arbiter->next_revision = 0;
        return;
    }
    if (arbiter_decode_number(response->kvs[0].value, "next", &next)) {
        mrn_log_error("value_unreadable", "key=ranges/next");
        return;
    }
    arbiter->next_revision = response->kvs[0].mod_revision;
    if (next > arbiter->next_range)
        arbiter->next_range = next;
}

/* Some compare failed. Answers: ranges/next, then per operation the candidate and its owner key. */
static void batch_compared(struct batch *batch, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = batch->arbiter;
    next_seen(arbiter, &answer->responses[0]);
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct etcd_response *taken = &answer->responses[1 + 2 * i];
        const struct etcd_response *owned = &answer->responses[2 + 2 * i];
        uint64_t range;
        if (taken->kv_count && batch->candidates[i] >= arbiter->next_range)
            arbiter->next_range = batch->candidates[i] + 1; /* pinned by somebody */
        if (!owned->kv_count || arbiter_decode_number(owned->kvs[0].value, "range", &range))
            continue;
        /* Granted before, the answer got lost; by this very lease or by an earlier one. */
        batch->ops[i]->range = range;
        if (owned->kvs[0].lease == batch->ops[i]->lease)
            batch->ops[i]->lease = 0;
        op_answer(batch->ops[i], WIRE_RANGE_GRANTED, 0, batch->ops[i]->owner);
    }
}

static void batch_done(void *context, const struct etcd_answer *answer) {
    struct batch *batch = context;
    struct arbiter_etcd *arbiter = batch->arbiter;
    uint64_t delay_ms = 0;
    if (!answer->error && answer->succeeded) {
        batch_granted(batch, answer);
    } else if (!answer->error && answer->response_count == 1 + 2 * batch->count) {
        batch_compared(batch, answer);
    } else {
        /* Unknown is the same as failed: the same compares and owner keys sort it out. */
        delay_ms = etcd_retry_delay_ms(arbiter->etcd) + 1;
        uint64_t now_ns = loop_now_ns(arbiter->base.setup.loop);
        for (uint32_t i = 0; i < batch->count; i++) {
            struct range_op *op = batch->ops[i];
            if (now_ns >= op->deadline_ns) {
                op->lease = 0; /* maybe a range's by now: not ours to revoke */
                op_answer(op, WIRE_RANGE_RETRY, 0, 0);
            } else if (answer->error == MRN_ERR_NOT_FOUND) {
                op->lease = 0; /* one of the leases is dead: take all anew */
                op->state = OP_BUSY;
                lease_step(op);
            }
        }
    }
    batch_over(batch, delay_ms);
}

struct batch_text {
    char next_key[ETCD_KEY_MAX + 1];
    struct {
        char range[ETCD_KEY_MAX + 1], lease[ETCD_KEY_MAX + 1], owner[ETCD_KEY_MAX + 1];
        char *record, *owner_value, *range_value;
    } of[ARBITER_BATCH_MAX];
    struct etcd_compare compares[1 + 2 * ARBITER_BATCH_MAX];
    struct etcd_operation puts[1 + 3 * ARBITER_BATCH_MAX], reads[1 + 2 * ARBITER_BATCH_MAX];
};

static int batch_send(struct batch *batch, struct batch_text *text, char *next_value) {
    const struct arbiter_etcd *arbiter = batch->arbiter;
    uint32_t compares = 0, puts = 0, reads = 0;
    bool memory = next_value != NULL;
    arbiter_etcd_key(arbiter, "ranges/next", text->next_key);
    text->compares[compares++] =
        (struct etcd_compare){ETCD_MOD, text->next_key, arbiter->next_revision};
    text->puts[puts++] =
        (struct etcd_operation){.kind = ETCD_OP_PUT, .key = text->next_key, .value = next_value};
    text->reads[reads++] = (struct etcd_operation){.kind = ETCD_OP_RANGE, .key = text->next_key};
    for (uint32_t i = 0; i < batch->count; i++) {
        const struct range_op *op = batch->ops[i];
        struct arbiter_range record = {.owner = op->owner, .nonce = op->nonce};
        arbiter_etcd_key_number(arbiter, "ranges/", batch->candidates[i], text->of[i].range);
        arbiter_etcd_key_number(arbiter, "range-leases/", batch->candidates[i], text->of[i].lease);
        owner_key(op, text->of[i].owner);
        text->of[i].record = arbiter_encode_range(&record);
        text->of[i].owner_value = arbiter_encode_number("owner", op->owner);
        text->of[i].range_value = arbiter_encode_number("range", batch->candidates[i]);
        memory = memory && text->of[i].record && text->of[i].owner_value && text->of[i].range_value;
        text->compares[compares++] = (struct etcd_compare){ETCD_CREATE, text->of[i].range, 0};
        text->compares[compares++] = (struct etcd_compare){ETCD_CREATE, text->of[i].owner, 0};
        text->puts[puts++] = (struct etcd_operation){.kind = ETCD_OP_PUT,
                                                     .key = text->of[i].lease,
                                                     .value = text->of[i].owner_value,
                                                     .lease = op->lease};
        text->puts[puts++] = (struct etcd_operation){
            .kind = ETCD_OP_PUT, .key = text->of[i].range, .value = text->of[i].record};
        text->puts[puts++] = (struct etcd_operation){.kind = ETCD_OP_PUT,
                                                     .key = text->of[i].owner,
                                                     .value = text->of[i].range_value,
                                                     .lease = op->lease};
        text->reads[reads++] =
            (struct etcd_operation){.kind = ETCD_OP_RANGE, .key = text->of[i].range};
        text->reads[reads++] =
            (struct etcd_operation){.kind = ETCD_OP_RANGE, .key = text->of[i].owner};
    }
    struct etcd_txn txn = {.compares = text->compares,
                           .compare_count = compares,
                           .success = text->puts,
                           .success_count = puts,
                           .failure = text->reads,
                           .failure_count = reads};
    return memory ? etcd_transaction(arbiter->etcd, &txn, batch_done, batch) : MRN_ERR_NO_MEMORY;
}

static void batch_run(void *context) {
    struct arbiter_etcd *arbiter = context;
    if (arbiter->batch_running)
        return;
    struct batch *batch = calloc(1, sizeof *batch);
    struct batch_text *text = calloc(1, sizeof *text);
    int error = batch && text ? 0 : MRN_ERR_NO_MEMORY;
    if (batch)
        batch->arbiter = arbiter;
    if (!error) {
        uint64_t base = take_ready(arbiter, batch);
        if (batch->count == 0) {
            free(batch);
            free(text);
            return;
        }
        if (base > WIRE_RANGE_COUNT - batch->count) {
            for (uint32_t i = 0; i < batch->count; i++)
                op_answer(batch->ops[i], WIRE_RANGE_EXHAUSTED, 0, 0);
            free(batch);
            free(text);
            return;
        }
        arbiter->batch_running = batch;
        char *next_value = arbiter_encode_number("next", base + batch->count);
        error = batch_send(batch, text, next_value);
        free(next_value);
        for (uint32_t i = 0; i < batch->count; i++) {
            free(text->of[i].record);
            free(text->of[i].owner_value);
            free(text->of[i].range_value);
        }
    }
    free(text);
    if (error && batch)
        batch_over(batch, 100);
    else if (error)
        loop_timer_set(arbiter->base.setup.loop, &arbiter->batch_timer, 100, batch_run, arbiter);
}

/* ---- the others: read, decide, write ---- */

static bool owned(const struct range_op *op) {
    return op->record_revision && !op->record.sealed && op->record.owner == op->owner;
}

/* PIN: the range is held by what this gateway asked for. */
static bool asked_before(const struct range_op *op) {
    return op->record_revision && !op->record.sealed && op->record.asker == op->owner;
}

static void op_written(void *context, const struct etcd_answer *answer) {
    struct range_op *op = context;
    if (answer->error == MRN_ERR_NOT_FOUND) {
        op->lease = 0; /* died while we waited */
        op_again(op, op_read);
        return;
    }
    if (answer->error) {
        if (answer->error == MRN_ERR_UNKNOWN_OUTCOME)
            op->lease = 0; /* maybe in use now */
        op_again(op, op_read);
        return;
    }
    if (!answer->succeeded) {
        op_read(op);
        return;
    }
    if (op->kind != OP_PIN) {
        if (op->kind == OP_RENEW)
            op->lease = 0; /* the range's now */
        op_end(op);
        return;
    }
    op->lease = 0;
    if (asked_before(op))
        op_answer(op, WIRE_RANGE_GRANTED, op->record.start, op->record.owner);
    else
        op_answer(op, WIRE_RANGE_GRANTED, op->record.sealed ? op->record.end : 0, op->holder);
}

/* What each kind writes, under compares of what was read. */
static void op_write(struct range_op *op) {
    char range_key[ETCD_KEY_MAX + 1], lease_key[ETCD_KEY_MAX + 1];
    struct arbiter_range record = op->record;
    bool fresh = op->kind == OP_PIN && !asked_before(op);
    if (op->kind == OP_SEALED) {
        record.sealed = true;
        record.end = op->end;
    } else if (op->kind == OP_RENEW && !owned(op)) {
        record = (struct arbiter_range){.owner = op->owner};
    } else if (fresh) {
        record = (struct arbiter_range){.owner = op->holder,
                                        .asker = op->owner,
                                        .nonce = op->nonce,
                                        .start = op->record.sealed ? op->record.end : 0};
    }
    arbiter_etcd_key_number(op->arbiter, "ranges/", op->range, range_key);
    arbiter_etcd_key_number(op->arbiter, "range-leases/", op->range, lease_key);
    char *record_text = arbiter_encode_range(&record);
    char *owner_text = arbiter_encode_number("owner", record.owner);
    struct etcd_compare compares[] = {
        {ETCD_MOD, range_key, op->record_revision},
        {ETCD_MOD, lease_key, op->lease_key_revision},
    };
    struct etcd_operation put_record = {
        .kind = ETCD_OP_PUT, .key = range_key, .value = record_text};
    struct etcd_operation put_lease = {
        .kind = ETCD_OP_PUT, .key = lease_key, .value = owner_text, .lease = op->lease};
    struct etcd_operation remove_lease = {.kind = ETCD_OP_DELETE, .key = lease_key};
    struct etcd_operation writes[2];
    uint32_t count = 0;
    switch (op->kind) {
    case OP_PIN:
        writes[count++] = put_lease;
        if (fresh)
            writes[count++] = put_record;
        break;
    case OP_RENEW:
        writes[count++] = put_lease;
        if (!op->record_revision) /* etcd was restored from a time before the grant */
            writes[count++] = put_record;
        break;
    case OP_CLOSE: writes[count++] = remove_lease; break;
    case OP_SEALED:
        writes[count++] = put_record;
        writes[count++] = remove_lease;
        break;
    case OP_NEXT:
    case OP_CHECK: assert(!"these write nothing here");
    }
    struct etcd_txn txn = {
        .compares = compares, .compare_count = 2, .success = writes, .success_count = count};
    if (!record_text || !owner_text || etcd_transaction(op->arbiter->etcd, &txn, op_written, op))
        op_again(op, op_read);
    free(record_text);
    free(owner_text);
}

static void decide_pin(struct range_op *op) {
    const struct arbiter_sink *sink = op->arbiter->base.setup.sink;
    const struct arbiter_range *record = &op->record;
    bool absent = op->record_revision == 0;
    if (asked_before(op)) {
        if (op->found_lease)
            op_answer(op, WIRE_RANGE_GRANTED, record->start, record->owner);
        else
            lease_step(op);
    } else if (!absent && !record->sealed && op->found_lease) {
        op_answer(op, WIRE_RANGE_TAKEN, 0, record->owner);
    } else if (!absent && !record->sealed) {
        sink->range_expired(sink->context, op->range, record->owner);
        op_answer(op, WIRE_RANGE_SEALING, 0, record->owner);
    } else if (op->floor == ARBITER_FLOOR_OPEN) { /* restored from before that grant, or we lag */
        op_answer(op, WIRE_RANGE_SEALING, 0, 0);
    } else if (record->sealed && record->end == WIRE_RANGE_OFFSETS) {
        op_answer(op, WIRE_RANGE_EXHAUSTED, 0, 0);
    } else {
        lease_step(op); /* nobody's, or sealed: ours from the seal on */
    }
}

static void renewed(void *context, const struct etcd_answer *answer) {
    struct range_op *op = context;
    if (!answer->error && answer->ttl_s > 0) {
        op_end(op);
    } else if (!answer->error || answer->error == MRN_ERR_NOT_FOUND) {
        lease_step(op); /* dead; the key goes with it, so compare what we read and write anew */
    } else {
        op_again(op, op_read);
    }
}

/* The leader asks about whom it hears by a renewal, which goes to etcd as well. In one that was
 * restored it makes the record anew, and the answer must not come before it. */
static bool renewal_under_way(const struct range_op *check) {
    for (const struct range_op *op = check->arbiter->ops; op; op = op->next)
        if (op->kind == OP_RENEW && op->range == check->range && op->owner == check->owner)
            return true;
    return false;
}

static void op_decide(struct range_op *op) {
    const struct arbiter_sink *sink = op->arbiter->base.setup.sink;
    bool renewing;
    switch (op->kind) {
    case OP_PIN: decide_pin(op); return;
    case OP_CHECK:
        renewing = renewal_under_way(op);
        if (!op->record_revision && (renewing || op->renewing)) { /* or its end came first */
            op->renewing = renewing;
            op_again(op, op_read);
            return;
        }
        sink->range_checked(sink->context, op->range, op->owner, owned(op), op->record.start);
        op_end(op);
        return;
    case OP_CLOSE:
        if (owned(op) && op->lease_key_revision)
            op_write(op);
        else
            op_end(op);
        return;
    case OP_SEALED:
        /* Else told late: it has another owner by now. An end that etcd lacks (it was restored from
         * before that holding) is raised: ends only grow. */
        if (owned(op) || (op->record.sealed && op->record.end < op->end))
            op_write(op);
        else
            op_end(op);
        return;
    case OP_RENEW:
        if (!owned(op) && op->record_revision)
            op_end(op);
        else if (!op->found_lease)
            lease_step(op);
        else if (etcd_lease_keep_alive(op->arbiter->etcd, op->found_lease, 0, renewed, op))
            op_again(op, op_read);
        return;
    case OP_NEXT: assert(!"decided in batches");
    }
}

static void op_was_read(void *context, const struct etcd_answer *answer) {
    struct range_op *op = context;
    if (answer->error || answer->response_count != 2) {
        op_again(op, op_read);
        return;
    }
    arbiter_etcd_latency(op->arbiter, answer);
    const struct etcd_response *record = &answer->responses[0], *lease = &answer->responses[1];
    op->record = (struct arbiter_range){0};
    op->record_revision = record->kv_count ? record->kvs[0].mod_revision : 0;
    op->found_lease = lease->kv_count ? lease->kvs[0].lease : 0;
    op->lease_key_revision = lease->kv_count ? lease->kvs[0].mod_revision : 0;
    if (record->kv_count && arbiter_decode_range(record->kvs[0].value, &op->record)) {
        mrn_log_error("value_unreadable", "key=%s", mrn_log_quote(record->kvs[0].key));
        op_end(op);
        return;
    }
    /* It ended in the cluster before, or in a holding that a restored etcd does not know. */
    if (op->kind == OP_PIN && op->floor && op->floor != ARBITER_FLOOR_OPEN &&
        (!record->kv_count || (op->record.sealed && op->record.end < op->floor - 1)))
        op->record = (struct arbiter_range){.sealed = true, .end = (uint32_t)(op->floor - 1)};
    op_decide(op);
}

static void op_read(void *context) {
    struct range_op *op = context;
    char range_key[ETCD_KEY_MAX + 1], lease_key[ETCD_KEY_MAX + 1];
    arbiter_etcd_key_number(op->arbiter, "ranges/", op->range, range_key);
    arbiter_etcd_key_number(op->arbiter, "range-leases/", op->range, lease_key);
    struct etcd_operation reads[] = {
        {.kind = ETCD_OP_RANGE, .key = range_key},
        {.kind = ETCD_OP_RANGE, .key = lease_key},
    };
    struct etcd_txn txn = {.success = reads, .success_count = 2};
    if (etcd_transaction(op->arbiter->etcd, &txn, op_was_read, op))
        op_again(op, op_read);
}

/* ---- taking requests ---- */

static void pump(struct arbiter_etcd *arbiter) {
    if (arbiter->pumping)
        return;
    arbiter->pumping = true; /* starting one may end it, which comes back here */
    while (arbiter->op_running < OPS_RUNNING_MAX) {
        struct range_op *oldest = NULL;
        for (struct range_op *op = arbiter->ops; op; op = op->next)
            if (op->state == OP_QUEUED)
                oldest = op; /* new ones are put in front */
        if (!oldest)
            break;
        oldest->state = OP_BUSY;
        arbiter->op_running++;
        if (oldest->kind == OP_NEXT)
            lease_step(oldest);
        else
            op_read(oldest);
    }
    arbiter->pumping = false;
}

static void op_add(struct arbiter *base, const struct range_op *wanted) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    if (!arbiter->ready)
        return;
    for (const struct range_op *op = arbiter->ops; op; op = op->next)
        if (op->kind == wanted->kind && op->owner == wanted->owner && op->nonce == wanted->nonce &&
            (op->range == wanted->range || wanted->kind == OP_NEXT))
            return; /* a repeat: the first one will answer */
    struct range_op *op = NULL;
    if (arbiter->op_count < ARBITER_RANGE_OPS_MAX)
        op = malloc(sizeof *op);
    if (!op) {
        mrn_log_warning("range_requests_full", "max=%d", ARBITER_RANGE_OPS_MAX);
        return;
    }
    *op = *wanted;
    op->arbiter = arbiter;
    op->state = OP_QUEUED;
    op->deadline_ns = loop_now_ns(base->setup.loop) + REQUEST_PATIENCE_NS;
    op->next = arbiter->ops;
    arbiter->ops = op;
    arbiter->op_count++;
    pump(arbiter);
}

void arbiter_etcd_range_request(struct arbiter *base, uint64_t owner, uint64_t nonce,
                                uint64_t range, uint64_t floor) {
    struct range_op op = {
        .kind = range == WIRE_RANGE_NONE ? OP_NEXT : OP_PIN,
        .owner = owner,
        .nonce = nonce,
        .range = range,
        .floor = floor,
        .holder = arbiter_random(),
    };
    op_add(base, &op);
}

static void entry_renewed(void *context, const struct etcd_answer *answer) {
    /* The entry may be gone by now, so it is found again by its lease. A dead lease is noticed by
     * the watch as well, and the next renewal goes the long way. */
    (void)context;
    (void)answer;
}

void arbiter_etcd_range_renew(struct arbiter *base, uint64_t owner, uint64_t range) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    struct range_entry *entry = arbiter_etcd_range_find(arbiter, range);
    uint64_t now_ns = loop_now_ns(base->setup.loop);
    uint64_t interval_ns = (uint64_t)arbiter->range_ttl_s * UINT64_C(1000000000) / 4;
    if (entry && entry->leased && entry->owner == owner && entry->lease) {
        if (entry->renewed_ns && now_ns - entry->renewed_ns < interval_ns)
            return;
        entry->renewed_ns = now_ns;
        if (!etcd_lease_keep_alive(arbiter->etcd, entry->lease, 0, entry_renewed, NULL))
            return;
    }
    struct range_op op = {.kind = OP_RENEW, .owner = owner, .range = range};
    op_add(base, &op);
}

void arbiter_etcd_range_close(struct arbiter *base, uint64_t owner, uint64_t range) {
    struct range_op op = {.kind = OP_CLOSE, .owner = owner, .range = range};
    op_add(base, &op);
}

void arbiter_etcd_range_check(struct arbiter *base, uint64_t owner, uint64_t range) {
    struct range_op op = {.kind = OP_CHECK, .owner = owner, .range = range};
    op_add(base, &op);
}

void arbiter_etcd_range_sealed(struct arbiter *base, uint64_t owner, uint64_t range, uint32_t end) {
    struct range_op op = {.kind = OP_SEALED, .owner = owner, .range = range, .end = end};
    op_add(base, &op);
}

void arbiter_etcd_ranges_stop(struct arbiter_etcd *arbiter) {
    loop_timer_clear(arbiter->base.setup.loop, &arbiter->batch_timer);
    while (arbiter->ops) {
        struct range_op *op = arbiter->ops;
        arbiter->ops = op->next;
        loop_timer_clear(arbiter->base.setup.loop, &op->timer);
        free(op);
    }
    free(arbiter->batch_running); /* etcd_destroy, next, ends its call without an answer */
    arbiter->batch_running = NULL;
}
