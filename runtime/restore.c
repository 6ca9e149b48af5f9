/* Reading a snapshot: into a region of its own, checked, then exchanged for the runtime's. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "runtime/internal.h"
#include "runtime/snapshot_format.h"

#define BUFFER_BYTES 131072 /* stays in the cache */
#define AHEAD_PAGES 128     /* of the region, made resident at once, at most */

struct reader {
    runtime_read_callback read;
    void *user;
    uint8_t *buffer;
    size_t from, to; /* what is left in it */
};

/* Some more into the buffer, which is empty. 0 at the end. */
static int64_t reader_fill(struct reader *reader) {
    int64_t count = reader->read(reader->user, reader->buffer, BUFFER_BYTES);
    if (count > BUFFER_BYTES)
        return MRN_ERR_CORRUPT;
    reader->from = 0;
    reader->to = count > 0 ? (size_t)count : 0;
    return count;
}

static int read_exactly(struct reader *reader, void *bytes, size_t length_bytes) {
    uint8_t *to = bytes;
    while (length_bytes > 0) {
        if (reader->from == reader->to) {
            int64_t count = reader_fill(reader);
            if (count <= 0)
                return count < 0 ? (int)count : MRN_ERR_CORRUPT;
        }
        size_t here = reader->to - reader->from;
        if (here > length_bytes)
            here = length_bytes;
        memcpy(to, reader->buffer + reader->from, here);
        reader->from += here;
        to += here;
        length_bytes -= here;
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

static int pages_read(struct reader *reader, struct state *state, uint64_t *ret_count) {
    uint64_t next = 0, count = 0, run = 0, ready = 0;
    for (;;) {
        uint64_t page;
        int error = read_exactly(reader, &page, sizeof page);
        if (error != 0)
            return error;
        if (page == SNAPSHOT_PAGE_END)
            break;
        if (page < next || page >= state->page_count)
            return MRN_ERR_CORRUPT;
        if (page != next)
            run = page;
        if (page >= ready && page > run) /* as many again as came in a row: not a fault for each */
            ready = runtime_state_ready(state, page,
                                        page - run < AHEAD_PAGES ? page - run : AHEAD_PAGES);
        void *place = runtime_state_change(state, page << STATE_PAGE_SHIFT, STATE_PAGE_BYTES);
        error = read_exactly(reader, place, STATE_PAGE_BYTES);
        if (error != 0)
            return error;
        next = page + 1;
        count++;
    }
    *ret_count = count;
    return 0;
}

static int tail_check(struct reader *reader, const struct snapshot_head *head, struct state *state,
                      uint64_t page_count) {
    struct snapshot_tail tail;
    int error = read_exactly(reader, &tail, sizeof tail);
    if (error != 0)
        return error;
    struct wire_hash sum =
        wire_hash_blake2b_pair(head, sizeof *head, &tail, offsetof(struct snapshot_tail, checksum));
    struct wire_hash hash = runtime_state_root(state);
    if (memcmp(tail.magic, SNAPSHOT_TAIL_MAGIC, sizeof tail.magic) != 0 ||
        tail.page_count != page_count || !hash_equal(&sum, &tail.checksum) ||
        !hash_equal(&hash, &tail.state_hash))
        return MRN_ERR_CORRUPT;
    int64_t extra = reader->from < reader->to ? 1 : reader_fill(reader);
    if (extra < 0)
        return (int)extra;
    return extra == 0 ? 0 : MRN_ERR_CORRUPT;
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

static int restore_into(struct runtime *runtime, struct reader *reader, struct state *state,
                        struct runtime_snapshot_info *ret_info) {
    struct snapshot_head head;
    uint64_t page_count;
    int error = read_exactly(reader, &head, sizeof head);
    if (error == 0)
        error = head_check(runtime, &head);
    if (error == 0)
        error = pages_read(reader, state, &page_count);
    if (error == 0)
        error = tail_check(reader, &head, state, page_count);
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
                                               .state_hash = runtime_state_root(state),
                                               .identity = head.identity,
                                               .page_count = page_count};
    return 0;
}

int runtime_restore(struct runtime *runtime, runtime_read_callback read, void *user,
                    struct runtime_snapshot_info *ret_info) {
    if (runtime->snapshot.on)
        return MRN_ERR_EXISTS;
    runtime_chain(runtime); /* it belongs to the state that goes */
    struct reader reader = {.read = read, .user = user};
    struct runtime_snapshot_info info;
    struct state fresh;
    reader.buffer = runtime_state_reserve(BUFFER_BYTES);
    if (reader.buffer == NULL)
        return MRN_ERR_NO_MEMORY;
    int error =
        runtime_state_open(&fresh, runtime->layout.length_bytes, runtime->config.undo_bytes);
    if (error == 0) {
        error = restore_into(runtime, &reader, &fresh, &info);
        if (error != 0)
            runtime_state_close(&fresh);
    }
    runtime_state_release(reader.buffer, BUFFER_BYTES);
    if (error != 0)
        return error;
    /* The hash proves the bytes, not that they were well made. */
    struct state old = runtime->state;
    runtime->state = fresh;
    if (runtime_check(runtime) != NULL) {
        runtime->state = old;
        error = MRN_ERR_CORRUPT;
    } else {
        fresh = old;
    }
    runtime_state_close(&fresh);
    if (error != 0)
        return error;
    runtime->stopped = false;
    *ret_info = info;
    return 0;
}
