/* Reading a snapshot: into a region of its own, checked, then exchanged for the runtime's. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "runtime/internal.h"
#include "runtime/snapshot_format.h"

#define RECORD_BYTES (sizeof(uint64_t) + STATE_PAGE_BYTES) /* a page behind its number */
#define PART_RECORDS 512 /* taken by one thread at a time: 2 MiB */
#define READ_RECORDS 32  /* at once: they stay in the cache until they are hashed */

/* [at, at + length) or an error. */
static int read_exactly(const struct runtime_source *source, uint64_t at_bytes, void *bytes,
                        size_t length_bytes) {
    uint8_t *to = bytes;
    while (length_bytes > 0) {
        int64_t count = source->read(source->user, at_bytes, to, length_bytes);
        if (count <= 0 || (uint64_t)count > length_bytes)
            return count < 0 ? (int)count : MRN_ERR_CORRUPT;
        to += count;
        at_bytes += (uint64_t)count;
        length_bytes -= (size_t)count;
    }
    return 0;
}

static bool hash_equal(const struct wire_hash *a, const struct wire_hash *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

static bool value_differs(const char *key, uint64_t ours, uint64_t theirs, char *text) {
    if (ours != theirs)
        snprintf(text, RUNTIME_TEXT_BYTES,
                 "%s is %" PRIu64 " here and %" PRIu64
                 " in the snapshot; a state keeps the value it "
                 "was made with: start with %s = %" PRIu64,
                 key, ours, theirs, key, theirs);
    return ours != theirs;
}

bool runtime_snapshot_differs(const struct runtime *runtime, const struct snapshot_head *head,
                              char ret_text[RUNTIME_TEXT_BYTES]) {
    const struct runtime_config *c = &runtime->config;
    const struct snapshot_sizes *s = &head->sizes;
    if (head->format_version != SNAPSHOT_FORMAT_VERSION) {
        snprintf(ret_text, RUNTIME_TEXT_BYTES,
                 "the snapshot is of format version %" PRIu32
                 ", this program reads %d: start the program that wrote it",
                 head->format_version, SNAPSHOT_FORMAT_VERSION);
        return true;
    }
    if (value_differs("state-bytes", c->state_bytes, s->state_bytes, ret_text) ||
        value_differs("ranges-max", c->ranges_max, s->ranges_max, ret_text) ||
        value_differs("ranges-retired-max", c->retired_max, s->retired_max, ret_text) ||
        value_differs("results-kept", c->results_kept, s->results_kept, ret_text) ||
        value_differs("idempotency-keys", c->idempotency_slots, s->idempotency_slots, ret_text) ||
        value_differs("idempotency-bytes", c->idempotency_bytes, s->idempotency_bytes, ret_text) ||
        value_differs("idempotency-span-s", c->idempotency_span_us / 1000000,
                      s->idempotency_span_us / 1000000, ret_text) ||
        value_differs("max-transaction-bytes", c->max_transaction_bytes, s->max_transaction_bytes,
                      ret_text))
        return true;
    if (!hash_equal(&head->origin, &c->origin_hash))
        snprintf(ret_text, RUNTIME_TEXT_BYTES,
                 "the snapshot is of a cluster that began with another state");
    else if (!hash_equal(&head->identity, &runtime->identity))
        snprintf(ret_text, RUNTIME_TEXT_BYTES,
                 "its applications, or their tables, are others: start the program that wrote it");
    else if (head->configuration_id != c->configuration_id)
        snprintf(ret_text, RUNTIME_TEXT_BYTES,
                 "the snapshot is of configuration %016" PRIx64 ", this node of %016" PRIx64
                 ": of another cluster, or of other nodes",
                 head->configuration_id, c->configuration_id);
    else if (head->region_bytes != runtime->layout.length_bytes ||
             head->page_bytes != STATE_PAGE_BYTES)
        snprintf(ret_text, RUNTIME_TEXT_BYTES,
                 "this program lays the state out otherwise: start the program that wrote it");
    else
        return false;
    return true;
}

/* Magic and version come first: a newer head may have another length and checksum. */
static int head_check(const struct runtime *runtime, const struct snapshot_head *head) {
    if (memcmp(head->magic, SNAPSHOT_MAGIC, sizeof head->magic) != 0)
        return MRN_ERR_CORRUPT;
    if (head->format_version != SNAPSHOT_FORMAT_VERSION)
        return MRN_ERR_UNSUPPORTED;
    struct wire_hash sum = wire_hash_blake2b(head, offsetof(struct snapshot_head, checksum));
    if (head->head_bytes != sizeof *head || !hash_equal(&sum, &head->checksum) ||
        head->reserved != 0)
        return MRN_ERR_CORRUPT;
    char text[RUNTIME_TEXT_BYTES];
    return runtime_snapshot_differs(runtime, head, text) ? MRN_ERR_MISMATCH : 0;
}

/* ---- pages ---- */

struct filling {
    const struct runtime_source *source;
    struct state *state;
    uint64_t record_count;
    uint32_t part_count;
    uint64_t *bounds; /* number of the first page of each part; behind them the region's end */
    _Atomic uint32_t next_part;
    _Atomic int error;
};

static uint64_t record_at(uint64_t record) {
    return sizeof(struct snapshot_head) + record * RECORD_BYTES;
}

/* How many records lie between head and tail; CORRUPT when they do not come out even. */
static int records_count(const struct runtime_source *source, const struct state *state,
                         uint64_t *ret_count) {
    const uint64_t around = record_at(0) + sizeof(uint64_t) + sizeof(struct snapshot_tail);
    uint64_t count = source->length_bytes < around ? 0 : source->length_bytes - around;
    if (source->length_bytes < around || count % RECORD_BYTES != 0 ||
        count / RECORD_BYTES > state->page_count)
        return MRN_ERR_CORRUPT;
    *ret_count = count / RECORD_BYTES;
    return 0;
}

/* Where each part begins: what lies between two bounds is one thread's. */
static int bounds_read(struct filling *f) {
    for (uint32_t i = 0; i < f->part_count; i++) {
        uint64_t at = record_at((uint64_t)i * PART_RECORDS), *page = &f->bounds[i];
        int error = read_exactly(f->source, at, page, sizeof *page);
        if (error != 0)
            return error;
        if (*page >= f->state->page_count || (i > 0 && *page <= page[-1]))
            return MRN_ERR_CORRUPT;
    }
    f->bounds[f->part_count] = f->state->page_count;
    return 0;
}

/* Records [first, first + count) of a part whose pages are in [*next, bound). */
static int records_take(struct filling *f, uint64_t first, uint32_t count, const uint8_t *records,
                        uint64_t *next, uint64_t bound) {
    uint32_t pages[READ_RECORDS];
    const void *bytes[READ_RECORDS];
    for (uint32_t i = 0; i < count; i++) {
        uint64_t page;
        memcpy(&page, records + i * RECORD_BYTES, sizeof page);
        if (page < *next || page >= bound)
            return MRN_ERR_CORRUPT;
        *next = page + 1;
        pages[i] = (uint32_t)page;
        bytes[i] = records + i * RECORD_BYTES + sizeof page;
    }
    if (pages[count - 1] - pages[0] == count - 1) /* not a fault for each */
        (void)runtime_state_ready(f->state, pages[0], count);
    runtime_state_fill(f->state, (uint32_t)first, pages, bytes, count);
    return 0;
}

static int part_fill(struct filling *f, uint32_t part, uint8_t *buffer) {
    uint64_t first = (uint64_t)part * PART_RECORDS, next = f->bounds[part];
    uint64_t end = first + PART_RECORDS < f->record_count ? first + PART_RECORDS : f->record_count;
    for (uint32_t count; first < end; first += count) {
        count = end - first < READ_RECORDS ? (uint32_t)(end - first) : READ_RECORDS;
        int error = read_exactly(f->source, record_at(first), buffer, count * RECORD_BYTES);
        if (error == 0)
            error = records_take(f, first, count, buffer, &next, f->bounds[part + 1]);
        if (error != 0)
            return error;
    }
    return 0;
}

static void parts_fill(void *context) {
    struct filling *f = context;
    uint8_t *buffer = runtime_state_reserve(READ_RECORDS * RECORD_BYTES);
    int error = buffer == NULL ? MRN_ERR_NO_MEMORY : 0;
    for (uint32_t part; error == 0 && atomic_load(&f->error) == 0 &&
                        (part = atomic_fetch_add(&f->next_part, 1)) < f->part_count;)
        error = part_fill(f, part, buffer);
    if (error != 0)
        atomic_store(&f->error, error);
    runtime_state_release(buffer, READ_RECORDS * RECORD_BYTES);
}

static int pages_read(const struct runtime_source *source, const struct runtime_crew *crew,
                      struct state *state, uint64_t record_count, struct wire_hash *ret_hash) {
    struct filling f = {.source = source, .state = state, .record_count = record_count};
    f.part_count = (uint32_t)((record_count + PART_RECORDS - 1) / PART_RECORDS);
    f.bounds = runtime_state_reserve((f.part_count + 1) * sizeof f.bounds[0]);
    if (f.bounds == NULL)
        return MRN_ERR_NO_MEMORY;
    int error = bounds_read(&f);
    if (error == 0)
        runtime_crew_run(f.part_count < 2 ? NULL : crew, parts_fill, &f);
    runtime_state_release(f.bounds, (f.part_count + 1) * sizeof f.bounds[0]);
    if (error == 0)
        error = f.error;
    if (error == 0)
        *ret_hash = runtime_state_filled(state, (uint32_t)record_count);
    return error;
}

/* ---- around them ---- */

static int tail_check(const struct runtime_source *source, const struct snapshot_head *head,
                      uint64_t record_count, struct snapshot_tail *ret_tail) {
    uint64_t mark;
    int error = read_exactly(source, record_at(record_count), &mark, sizeof mark);
    if (error == 0)
        error =
            read_exactly(source, record_at(record_count) + sizeof mark, ret_tail, sizeof *ret_tail);
    if (error != 0)
        return error;
    struct wire_hash sum = wire_hash_blake2b_pair(head, sizeof *head, ret_tail,
                                                  offsetof(struct snapshot_tail, checksum));
    bool whole = mark == SNAPSHOT_PAGE_END && ret_tail->page_count == record_count &&
                 memcmp(ret_tail->magic, SNAPSHOT_TAIL_MAGIC, sizeof ret_tail->magic) == 0 &&
                 hash_equal(&sum, &ret_tail->checksum);
    return whole ? 0 : MRN_ERR_CORRUPT;
}

/* The region's own header must say what the snapshot's head says. */
static int header_check(const struct snapshot_head *head, const struct region_header *header) {
    bool same = header->exec_seq == head->seq && header->term == head->term &&
                header->logical_time_us == head->logical_time_us &&
                hash_equal(&header->epoch_hash, &head->epoch_hash) &&
                hash_equal(&header->result_hash, &head->result_hash) &&
                hash_equal(&header->origin, &head->origin);
    return same ? 0 : MRN_ERR_CORRUPT;
}

static int restore_into(struct runtime *runtime, const struct runtime_source *source,
                        const struct runtime_crew *crew, struct state *state,
                        struct runtime_snapshot_info *ret_info) {
    struct snapshot_head head;
    struct snapshot_tail tail;
    struct wire_hash state_hash;
    uint64_t record_count;
    int error = read_exactly(source, 0, &head, sizeof head);
    if (error == 0)
        error = head_check(runtime, &head);
    if (error == 0)
        error = records_count(source, state, &record_count);
    if (error == 0)
        error = tail_check(source, &head, record_count, &tail);
    if (error == 0)
        error = pages_read(source, crew, state, record_count, &state_hash);
    if (error == 0 && !hash_equal(&state_hash, &tail.state_hash))
        error = MRN_ERR_CORRUPT;
    if (error == 0)
        error = header_check(&head, runtime_state_at(state, 0));
    if (error != 0)
        return error;
    *ret_info = (struct runtime_snapshot_info){.configuration_id = head.configuration_id,
                                               .seq = head.seq,
                                               .term = head.term,
                                               .logical_time_us = head.logical_time_us,
                                               .epoch_hash = head.epoch_hash,
                                               .result_hash = head.result_hash,
                                               .state_hash = state_hash,
                                               .identity = head.identity,
                                               .page_count = record_count};
    return 0;
}

int runtime_restore(struct runtime *runtime, const struct runtime_source *source,
                    const struct runtime_crew *crew, struct runtime_snapshot_info *ret_info) {
    if (runtime->snapshot.on)
        return MRN_ERR_EXISTS;
    runtime_chain(runtime); /* it belongs to the state that goes */
    struct runtime_snapshot_info info;
    struct state fresh;
    int error =
        runtime_state_open(&fresh, runtime->layout.length_bytes, runtime->config.undo_bytes);
    if (error != 0)
        return error;
    error = restore_into(runtime, source, crew, &fresh, &info);
    /* The hash proves the bytes, not that they were well made. */
    struct state old = runtime->state;
    if (error == 0) {
        runtime->state = fresh;
        if (runtime_check_by(runtime, crew) != NULL) {
            runtime->state = old;
            error = MRN_ERR_CORRUPT;
        }
    }
    runtime_state_close(error == 0 ? &old : &fresh);
    if (error != 0)
        return error;
    runtime->stopped = false;
    *ret_info = info;
    return 0;
}
