#include "controlplane/publisher.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "maroon/error.h"

#define VECTOR_MAX_BYTES 65536
#define MANY_RANGES 1024 /* beyond it the dataplane is asked for them once a second only */
#define MANY_MS 1000
#define FAILED_WAIT_NS UINT64_C(500000000)
#define ENTRY_BYTES 12

static int by_range(const void *a, const void *b) {
    uint64_t x, y; /* the first member of an entry */
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    return x < y ? -1 : x > y;
}

/* {"1":7,"2":19}: NULL when it is longer than VECTOR_MAX_BYTES, or without memory. */
static char *vector_text(const struct mailbox_epoch *epoch) {
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return NULL;
    fputc('{', out);
    for (uint32_t i = 0; i < epoch->listed; i++)
        fprintf(out, "%s\"%" PRIu64 "\":%u", i ? "," : "", epoch->ranges[i].range,
                epoch->ranges[i].executed);
    fputc('}', out);
    if (fclose(out) != 0 || length > VECTOR_MAX_BYTES) {
        free(text);
        return NULL;
    }
    return text;
}

/* BLAKE2b-256 over (range u64, position u32), little-endian, ascending by range. */
static bool vector_hash(const struct mailbox_epoch *epoch, struct wire_hash *ret_hash) {
    uint8_t *bytes = malloc((size_t)epoch->listed * ENTRY_BYTES + 1);
    if (!bytes)
        return false;
    for (uint32_t i = 0; i < epoch->listed; i++) {
        memcpy(bytes + (size_t)i * ENTRY_BYTES, &epoch->ranges[i].range, 8);
        memcpy(bytes + (size_t)i * ENTRY_BYTES + 8, &epoch->ranges[i].executed, 4);
    }
    *ret_hash = wire_hash_blake2b(bytes, (size_t)epoch->listed * ENTRY_BYTES);
    free(bytes);
    return true;
}

void publisher_epoch(struct publisher *publisher) {
    struct mailbox_epoch *from = mailbox_epoch(publisher->mailbox);
    publisher->asked = false;
    if (from->seq <= publisher->done_seq || publisher->running)
        return;
    qsort(from->ranges, from->listed, sizeof from->ranges[0], by_range);
    bool whole = from->listed == from->range_count;
    char *text = whole ? vector_text(from) : NULL;
    struct arbiter_epoch epoch = {
        .entry = {from->seq, from->term, from->logical_time_us, from->hash, from->result_hash},
        .range_count = from->range_count,
        .vector = text,
    };
    epoch.vector_hashed = whole && !text && vector_hash(from, &epoch.vector_hash);
    publisher->running = true;
    publisher->running_seq = from->seq;
    if (arbiter_publish(publisher->arbiter, &epoch))
        publisher->running = false; /* no longer the leader */
    free(text);
}

void publisher_done(struct publisher *publisher, int error) {
    assert(publisher->running);
    publisher->running = false;
    if (!error || error == MRN_ERR_EXISTS) /* a newer one is published already */
        publisher->done_seq = publisher->running_seq;
    else
        publisher->wait_until_ns = loop_now_ns(publisher->loop) + FAILED_WAIT_NS;
}

static void tick(void *context) {
    struct publisher *publisher = context;
    struct mailbox_facts facts;
    mailbox_facts_read(mailbox_status(publisher->mailbox), &facts);
    arbiter_term_floor(publisher->arbiter, facts.term);
    bool leads = facts.role == MAILBOX_ROLE_LEADER && arbiter_leader(publisher->arbiter)->ours;
    if (leads && facts.exec_seq > publisher->done_seq && !publisher->asked && !publisher->running &&
        loop_now_ns(publisher->loop) >= publisher->wait_until_ns) {
        struct mailbox_down message = {.kind = MAILBOX_DOWN_EPOCH_WANTED};
        publisher->asked = true;
        publisher->send_down(publisher->context, &message);
    }
    uint64_t delay_ms = facts.range_count > MANY_RANGES && publisher->tick_ms < MANY_MS
                            ? MANY_MS
                            : publisher->tick_ms;
    loop_timer_set(publisher->loop, &publisher->timer, delay_ms, tick, publisher);
}

void publisher_start(struct publisher *publisher) {
    tick(publisher);
}

void publisher_stop(struct publisher *publisher) {
    loop_timer_clear(publisher->loop, &publisher->timer);
}
