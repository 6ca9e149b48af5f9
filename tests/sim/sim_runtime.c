/* A deterministic application: a bank and some registers, with the results that protocol.md §8 says
 * are state. */
#include "tests/sim/sim.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void chain_add(struct sim_runtime *runtime, uint64_t word) {
    uint64_t *c = runtime->chain;
    uint64_t mixed = sim_random_mix(c[0] ^ word);
    c[0] = c[1] + mixed;
    c[1] = c[2] ^ (mixed << 23 | mixed >> 41);
    c[2] = c[3] + word;
    c[3] = mixed;
}

void sim_runtime_init(struct sim_runtime *runtime, const struct wire_hash *genesis) {
    memset(runtime, 0, offsetof(struct sim_runtime, ranges));
    runtime->epoch_hash = *genesis;
    for (int i = 0; i < SIM_ACCOUNTS; i++)
        runtime->balances[i] = SIM_OPENING_BALANCE;
}

struct sim_runtime_range *sim_runtime_range(struct sim_runtime *runtime, uint64_t range) {
    for (uint32_t i = 0; i < runtime->range_count; i++)
        if (runtime->ranges[i].range == range)
            return &runtime->ranges[i];
    return NULL;
}

const struct sim_result *sim_runtime_result(const struct sim_runtime *runtime, uint64_t id) {
    struct sim_runtime_range *range =
        sim_runtime_range((struct sim_runtime *)runtime, wire_tx_range(id));
    uint32_t offset = wire_tx_offset(id);
    if (!range || !range->open || offset >= range->position || offset < range->low_water)
        return NULL;
    const struct sim_result *result = &range->results[offset % SIM_RESULTS_KEPT];
    return result->id == id ? result : NULL;
}

static void control(struct sim_runtime *runtime, const struct wire_control *c) {
    struct sim_runtime_range *range = sim_runtime_range(runtime, c->range);
    if (!range) {
        assert(runtime->range_count < SIM_RANGES_MAX);
        range = &runtime->ranges[runtime->range_count++];
        memset(range, 0, sizeof *range);
        range->range = c->range;
    }
    range->open = c->kind == WIRE_CONTROL_OPEN;
    if (range->open)
        range->owner = c->value;
    for (int i = 0; i < SIM_RESULTS_KEPT; i++)
        range->results[i].id = UINT64_MAX; /* those of a retired range are dropped */
    range->low_water = range->retired = range->position;
    chain_add(runtime, c->kind ^ c->range << 8);
    chain_add(runtime, c->value);
}

static void transfer(struct sim_runtime *runtime, const struct sim_payload *p,
                     struct sim_result *result) {
    int64_t *from = &runtime->balances[p->from % SIM_ACCOUNTS];
    if (*from < p->amount) {
        result->code = SIM_CODE_REFUSED;
        result->value = *from;
        return;
    }
    *from -= p->amount;
    runtime->balances[p->to % SIM_ACCOUNTS] += p->amount;
    result->value = *from;
}

static void apply(struct sim_runtime *runtime, const struct sim_payload *p,
                  struct sim_result *result) {
    uint64_t *cell = &runtime->registers[p->to % SIM_REGISTERS];
    result->operation = p->operation;
    result->code = SIM_CODE_OK;
    result->value = 0;
    if (p->kind == SIM_TRANSFER) {
        transfer(runtime, p, result);
    } else if (p->kind == SIM_READ || p->kind == SIM_WRITE) {
        result->value = (int64_t)*cell;
        if (p->kind == SIM_WRITE)
            *cell = p->operation;
    } else {
        result->code = SIM_CODE_MALFORMED;
    }
}

/* The first part's payload when bodies at[0..parts) are one whole transaction. */
static const struct sim_payload *whole(const struct sim_body *at, uint32_t parts) {
    for (uint32_t i = 0; i < parts; i++) {
        const struct wire_body_header *header = (const void *)at[i].bytes;
        if (at[i].length_bytes < sizeof *header + (i ? 0 : sizeof(struct sim_payload)) ||
            header->parts_following != parts - 1 - i)
            return NULL;
    }
    return (const void *)(at[0].bytes + sizeof(struct wire_body_header));
}

static void keep(struct sim_runtime_range *range, const struct sim_result *result) {
    range->results[wire_tx_offset(result->id) % SIM_RESULTS_KEPT] = *result;
    range->position = wire_tx_offset(result->id) + 1;
}

static void one_transaction(struct sim_runtime *runtime, struct sim_runtime_range *range,
                            const struct sim_body *at, uint32_t parts, sim_runtime_fn *each,
                            void *context) {
    const struct wire_body_header *header = (const void *)at[0].bytes;
    const struct sim_payload *payload = whole(at, parts);
    struct sim_result result = {.id = at[0].id,
                                .seq = runtime->exec_seq,
                                .logical_time_us = runtime->logical_time_us,
                                .code = SIM_CODE_MALFORMED};
    if (payload)
        apply(runtime, payload, &result);
    uint32_t low_water =
        MUTANT(shell_result_dropped) ? wire_tx_offset(at[0].id) : header->low_water;
    if (low_water > range->low_water && low_water <= wire_tx_offset(at[0].id))
        range->low_water = low_water;
    keep(range, &result);
    chain_add(runtime, result.id);
    chain_add(runtime, result.operation ^ (uint64_t)result.value << 7 ^ result.code);
    for (uint32_t i = 1; i < parts; i++) {
        struct sim_result part = result;
        part.id = at[i].id;
        part.code = SIM_CODE_PART;
        keep(range, &part);
    }
    for (uint32_t i = 0; i < parts; i++) /* the state hash must see every byte that was ordered */
        for (uint32_t b = 0; b + 8 <= at[i].length_bytes; b += 8) {
            uint64_t word;
            memcpy(&word, at[i].bytes + b, sizeof word);
            chain_add(runtime, word);
        }
    if (each)
        each(context, &result, at);
}

void sim_runtime_again(struct sim_runtime *runtime, const uint8_t *bytes) {
    struct sim_result result;
    apply(runtime, (const void *)(bytes + sizeof(struct wire_body_header)), &result);
    chain_add(runtime, result.operation ^ (uint64_t)result.value << 7 ^ result.code);
}

static void interval(struct sim_runtime *runtime, const struct wire_interval *v,
                     const struct sim_body *bodies, sim_runtime_fn *each, void *context) {
    struct sim_runtime_range *range = sim_runtime_range(runtime, wire_tx_range(v->first_id));
    assert(range); /* the caller has checked the epoch */
    for (uint32_t i = 0; i < v->count;) {
        const struct wire_body_header *header = (const void *)bodies[i].bytes;
        uint32_t parts = 1u + header->parts_following;
        if (parts > v->count - i)
            parts = 1; /* reaches over its range's end: malformed */
        one_transaction(runtime, range, bodies + i, parts, each, context);
        i += parts;
    }
}

void sim_runtime_execute(struct sim_runtime *runtime, const uint8_t *epoch,
                         const struct wire_hash *hash, const struct sim_body *bodies,
                         uint32_t count, sim_runtime_fn *each, void *context) {
    const struct wire_epoch_head *head = (const void *)epoch;
    const struct wire_control *controls = wire_epoch_controls(epoch);
    const struct wire_interval *intervals = wire_epoch_intervals(epoch);
    assert(head->seq == runtime->exec_seq + 1);
    runtime->exec_seq = head->seq;
    runtime->term = head->term;
    runtime->logical_time_us = head->logical_time_us;
    runtime->epoch_hash = *hash;
    for (int i = 0; i < 4; i++) {
        uint64_t word;
        memcpy(&word, hash->bytes + 8 * i, sizeof word);
        chain_add(runtime, word);
    }
    for (uint32_t i = 0; i < head->control_count; i++)
        control(runtime, &controls[i]);
    uint32_t at = 0, n = head->interval_count;
    for (uint32_t turn = 0; turn < n; turn++) {
        const struct wire_interval *v = &intervals[(head->seq + turn) % n];
        interval(runtime, v, bodies + at, each, context);
        at += v->count;
    }
    assert(at == count);
}

struct wire_hash sim_runtime_hash(const struct sim_runtime *runtime) {
    struct wire_hash hash;
    memcpy(hash.bytes, runtime->chain, sizeof hash.bytes);
    return hash;
}

int64_t sim_runtime_total(const struct sim_runtime *runtime) {
    int64_t total = 0;
    for (int i = 0; i < SIM_ACCOUNTS; i++)
        total += runtime->balances[i];
    return total;
}

static size_t used_bytes(const struct sim_runtime *runtime) {
    return offsetof(struct sim_runtime, ranges) + runtime->range_count * sizeof runtime->ranges[0];
}

struct sim_runtime *sim_runtime_copy(const struct sim_runtime *runtime) {
    struct sim_runtime *copy = malloc(sizeof *copy);
    if (!copy)
        abort();
    memcpy(copy, runtime, used_bytes(runtime));
    return copy;
}

void sim_runtime_restore(struct sim_runtime *runtime, const struct sim_runtime *snapshot) {
    memcpy(runtime, snapshot, used_bytes(snapshot));
}
