/* Writing a snapshot page by page while execution goes on. */
#include "runtime/internal.h"

#include <string.h>
#include <sys/mman.h>

#include "runtime/snapshot_format.h"

int runtime_snapshot_begin(struct runtime *runtime) {
    struct runtime_snapshot *snapshot = &runtime->snapshot;
    struct state *state = &runtime->state;
    const struct region_header *header = region(runtime);
    if (runtime->stopped)
        return MRN_ERR_CLOSED;
    if (snapshot->on)
        return MRN_ERR_EXISTS;
    runtime_chain(runtime);
    memset(snapshot, 0, sizeof *snapshot);
    state->shadow = runtime_state_reserve(state->length_bytes);
    if (state->shadow == NULL)
        return MRN_ERR_NO_MEMORY;
    snapshot->buffer = runtime_state_reserve(SNAPSHOT_BUFFER_BYTES);
    if (snapshot->buffer == NULL ||
        runtime_state_tree_open(&snapshot->tree, state->page_count) != 0) {
        runtime_state_release(state->shadow, state->length_bytes);
        runtime_state_release(snapshot->buffer, SNAPSHOT_BUFFER_BYTES);
        state->shadow = snapshot->buffer = NULL;
        return MRN_ERR_NO_MEMORY;
    }
    snapshot->info = (struct runtime_snapshot_info){.configuration_id = header->configuration_id,
                                                    .seq = header->exec_seq,
                                                    .term = header->term,
                                                    .logical_time_us = header->logical_time_us,
                                                    .epoch_hash = header->epoch_hash,
                                                    .result_hash = header->result_hash,
                                                    .identity = header->identity};
    for (uint32_t page = 0; page < state->page_count; page++) /* vectorized: no branch */
        state->flags[page] |=
            (uint8_t)((state->flags[page] & STATE_PAGE_TOUCHED) * STATE_PAGE_PENDING);
    snapshot->on = true;
    return 0;
}

void runtime_snapshot_abandon(struct runtime *runtime) {
    struct runtime_snapshot *snapshot = &runtime->snapshot;
    struct state *state = &runtime->state;
    if (!snapshot->on)
        return;
    for (uint32_t page = snapshot->next_page; page < state->page_count; page++)
        state->flags[page] &= (uint8_t) ~(STATE_PAGE_PENDING | STATE_PAGE_SAVED);
    runtime_state_release(state->shadow, state->length_bytes);
    runtime_state_release(snapshot->buffer, SNAPSHOT_BUFFER_BYTES);
    state->shadow = snapshot->buffer = NULL;
    runtime_state_tree_close(&snapshot->tree);
    snapshot->on = false;
}

/* Where the writer's bytes go on their way to the caller. */
struct writer {
    struct runtime_snapshot *snapshot;
    runtime_write_callback write;
    void *user;
};

static int writer_flush(struct writer *writer) {
    struct runtime_snapshot *snapshot = writer->snapshot;
    size_t length_bytes = snapshot->buffered_bytes;
    snapshot->buffered_bytes = 0;
    return length_bytes == 0 ? 0 : writer->write(writer->user, snapshot->buffer, length_bytes);
}

static int writer_put(struct writer *writer, const void *bytes, size_t length_bytes) {
    struct runtime_snapshot *snapshot = writer->snapshot;
    if (snapshot->buffered_bytes + length_bytes > SNAPSHOT_BUFFER_BYTES) {
        int error = writer_flush(writer);
        if (error != 0)
            return error;
    }
    memcpy(snapshot->buffer + snapshot->buffered_bytes, bytes, length_bytes);
    snapshot->buffered_bytes += length_bytes;
    return 0;
}

static struct snapshot_sizes sizes_of(const struct runtime_config *config) {
    return (struct snapshot_sizes){.state_bytes = config->state_bytes,
                                   .result_bytes = config->result_bytes,
                                   .idempotency_bytes = config->idempotency_bytes,
                                   .idempotency_span_us = config->idempotency_span_us,
                                   .ranges_max = config->ranges_max,
                                   .retired_max = config->retired_max,
                                   .results_kept = config->results_kept,
                                   .idempotency_slots = config->idempotency_slots,
                                   .max_transaction_bytes = config->max_transaction_bytes,
                                   .max_result_bytes = config->max_result_bytes,
                                   .undo_bytes = config->undo_bytes};
}

void runtime_config_of_snapshot(const struct snapshot_head *head, struct runtime_config *config) {
    const struct snapshot_sizes *sizes = &head->sizes;
    config->state_bytes = sizes->state_bytes;
    config->result_bytes = sizes->result_bytes;
    config->idempotency_bytes = sizes->idempotency_bytes;
    config->idempotency_span_us = sizes->idempotency_span_us;
    config->ranges_max = sizes->ranges_max;
    config->retired_max = sizes->retired_max;
    config->results_kept = sizes->results_kept;
    config->idempotency_slots = sizes->idempotency_slots;
    config->max_transaction_bytes = sizes->max_transaction_bytes;
    config->max_result_bytes = sizes->max_result_bytes;
    config->undo_bytes = sizes->undo_bytes;
    config->origin_hash = head->origin;
}

static void head_make(const struct runtime *runtime, struct snapshot_head *head) {
    const struct runtime_snapshot_info *info = &runtime->snapshot.info;
    *head = (struct snapshot_head){.format_version = SNAPSHOT_FORMAT_VERSION,
                                   .head_bytes = sizeof *head,
                                   .configuration_id = info->configuration_id,
                                   .seq = info->seq,
                                   .term = info->term,
                                   .logical_time_us = info->logical_time_us,
                                   .epoch_hash = info->epoch_hash,
                                   .result_hash = info->result_hash,
                                   .identity = info->identity,
                                   .origin = runtime->config.origin_hash,
                                   .sizes = sizes_of(&runtime->config),
                                   .region_bytes = runtime->state.length_bytes,
                                   .page_bytes = STATE_PAGE_BYTES};
    memcpy(head->magic, SNAPSHOT_MAGIC, sizeof head->magic);
    head->checksum = wire_hash_blake2b(head, offsetof(struct snapshot_head, checksum));
}

/* Writes the page as it was at begin, unless it is all zeros. Returns 1 when written, 0, or an
 * error. */
static int page_write(struct runtime *runtime, uint32_t page, struct writer *writer) {
    struct runtime_snapshot *snapshot = &runtime->snapshot;
    struct state *state = &runtime->state;
    uint64_t at = (uint64_t)page << STATE_PAGE_SHIFT;
    uint8_t flags = state->flags[page];
    if (!(flags & (STATE_PAGE_PENDING | STATE_PAGE_SAVED)))
        return 0;
    const uint8_t *bytes = (flags & STATE_PAGE_SAVED ? state->shadow : state->base) + at;
    bool hashed = !(flags & (STATE_PAGE_SAVED | STATE_PAGE_DIRTY));
    struct wire_hash hash = hashed ? state->tree.nodes[page] : runtime_state_page_hash(bytes);
    static const struct wire_hash zero;
    int written = 0;
    if (memcmp(&hash, &zero, sizeof hash) != 0) {
        uint64_t number = page;
        int error = writer_put(writer, &number, sizeof number);
        if (error == 0)
            error = writer_put(writer, bytes, STATE_PAGE_BYTES);
        if (error != 0)
            return error;
        written = 1;
        snapshot->info.page_count++;
    }
    snapshot->tree.nodes[page] = hash;
    state->flags[page] &= (uint8_t) ~(STATE_PAGE_PENDING | STATE_PAGE_SAVED);
    return written;
}

static int tail_write(struct runtime *runtime, struct writer *writer) {
    struct runtime_snapshot *snapshot = &runtime->snapshot;
    const uint64_t end = SNAPSHOT_PAGE_END;
    struct snapshot_head head;
    struct snapshot_tail tail = {.page_count = snapshot->info.page_count,
                                 .state_hash = snapshot->info.state_hash};
    memcpy(tail.magic, SNAPSHOT_TAIL_MAGIC, sizeof tail.magic);
    head_make(runtime, &head);
    tail.checksum =
        wire_hash_blake2b_pair(&head, sizeof head, &tail, offsetof(struct snapshot_tail, checksum));
    int error = writer_put(writer, &end, sizeof end);
    return error != 0 ? error : writer_put(writer, &tail, sizeof tail);
}

/* One step; an error leaves the snapshot to be abandoned. */
static int step(struct runtime *runtime, uint32_t pages_max, struct writer *writer) {
    struct runtime_snapshot *snapshot = &runtime->snapshot;
    if (!snapshot->header_written) {
        struct snapshot_head head;
        head_make(runtime, &head);
        int error = writer_put(writer, &head, sizeof head);
        if (error != 0)
            return error;
        snapshot->header_written = true;
    }
    uint32_t written = 0;
    while (snapshot->next_page < runtime->state.page_count) {
        if (written >= pages_max)
            return 1;
        uint32_t page = snapshot->next_page;
        int result = page_write(runtime, page, writer);
        if (result < 0)
            return result;
        written += (uint32_t)result;
        snapshot->next_page++;
        if (snapshot->next_page % STATE_TREE_FANOUT == 0 ||
            snapshot->next_page == runtime->state.page_count)
            runtime_state_tree_fold(&snapshot->tree, page / STATE_TREE_FANOUT);
    }
    snapshot->info.state_hash = runtime_state_tree_finish(&snapshot->tree);
    return tail_write(runtime, writer);
}

int runtime_snapshot_step(struct runtime *runtime, uint32_t pages_max, runtime_write_callback write,
                          void *user, struct runtime_snapshot_info *ret_info) {
    if (!runtime->snapshot.on)
        return MRN_ERR_NOT_FOUND;
    struct writer writer = {&runtime->snapshot, write, user};
    int result = runtime->stopped ? MRN_ERR_CLOSED : step(runtime, pages_max, &writer);
    if (result >= 0) {
        int error = writer_flush(&writer);
        result = error != 0 ? error : result;
    }
    if (result == 0)
        *ret_info = runtime->snapshot.info;
    if (result <= 0)
        runtime_snapshot_abandon(runtime);
    return result;
}

int runtime_snapshot_write(struct runtime *runtime, runtime_write_callback write, void *user,
                           struct runtime_snapshot_info *ret_info) {
    int result = runtime_snapshot_begin(runtime);
    if (result != 0)
        return result;
    do
        result = runtime_snapshot_step(runtime, UINT32_MAX, write, user, ret_info);
    while (result > 0);
    return result;
}
