/* Open, close, and what others read. */
#include <stdlib.h>
#include <string.h>

#include "runtime/internal.h"

static int open_parts(struct runtime *runtime) {
    int error = runtime_layout_make(runtime);
    if (error == 0)
        error = runtime_state_open(&runtime->state, runtime->layout.length_bytes,
                                   runtime->config.undo_bytes);
    if (error == 0)
        error = runtime_context_open(runtime);
    if (error == 0)
        runtime_region_format(runtime);
    return error;
}

int runtime_open(const struct runtime_config *config, struct runtime **ret_runtime) {
    struct runtime *runtime = calloc(1, sizeof *runtime);
    if (runtime == NULL)
        return MRN_ERR_NO_MEMORY;
    runtime->config = *config;
    if (runtime_hash_none(&config->origin_hash))
        runtime->config.origin_hash = config->genesis_hash;
    int error = open_parts(runtime);
    if (error != 0) {
        runtime_close(runtime);
        return error;
    }
    *ret_runtime = runtime;
    return 0;
}

void runtime_close(struct runtime *runtime) {
    if (runtime == NULL)
        return;
    runtime_snapshot_abandon(runtime);
    runtime_context_close(runtime);
    runtime_state_close(&runtime->state);
    free(runtime->tables);
    free(runtime->methods);
    free(runtime);
}

/* Where the parts begin is the layout's; the applications' tables are as large as they may be,
 * whichever they are. */
int runtime_memory_plan(const struct runtime_config *config, struct runtime_memory *ret_memory) {
    struct runtime *runtime = calloc(1, sizeof *runtime);
    if (runtime == NULL)
        return MRN_ERR_NO_MEMORY;
    runtime->config = *config;
    runtime->config.application_count = 0;
    int error = runtime_layout_make(runtime);
    if (error == 0) {
        const struct runtime_layout *layout = &runtime->layout;
        uint64_t region_bytes = layout->length_bytes + config->state_bytes;
        struct runtime_memory m = {
            .state_bytes = config->state_bytes,
            .results_bytes = layout->length_bytes - layout->chunks,
            .idempotency_bytes = layout->chunks - runtime->keys.buckets_offset,
            .ranges_bytes = runtime->keys.buckets_offset,
            .copies_bytes = region_bytes,
        };
        m.most_bytes = runtime_state_reserved_bytes(region_bytes, config->undo_bytes) +
                       UINT64_C(9) * config->max_transaction_bytes + config->max_result_bytes +
                       (1 << 16);
        m.other_bytes = m.most_bytes - 2 * region_bytes;
        *ret_memory = m;
    }
    runtime_close(runtime);
    return error;
}

struct wire_hash runtime_identity(const struct runtime *runtime) {
    return runtime->identity;
}

struct wire_hash runtime_state_hash(struct runtime *runtime) {
    runtime_chain(runtime);
    return runtime_state_root(&runtime->state);
}

void runtime_facts(struct runtime *runtime, struct runtime_facts *ret_facts) {
    runtime_chain(runtime);
    const struct region_header *header = region(runtime);
    struct runtime_facts facts = runtime->counters;
    facts.exec_seq = header->exec_seq;
    facts.term = header->term;
    facts.logical_time_us = header->logical_time_us;
    facts.configuration_id = header->configuration_id;
    facts.epoch_hash = header->epoch_hash;
    facts.result_hash = header->result_hash;
    facts.ranges_active = runtime_table_count(&runtime->ranges);
    facts.ranges_retired = runtime_table_count(&runtime->retired);
    facts.idempotency_keys = runtime_table_count(&runtime->keys);
    facts.result_chunks_used = header->chunk_used_count;
    facts.result_chunks = runtime->layout.chunk_count;
    facts.results_kept = header->results_kept;
    facts.pages_touched = runtime->state.touched_count;
    facts.stopped = runtime->stopped;
    facts.transactions_failed = 0;
    for (uint32_t i = 1; i < MRN_CODE_COUNT; i++)
        facts.transactions_failed += facts.by_code[i];
    *ret_facts = facts;
}

uint64_t runtime_exec_seq(const struct runtime *runtime) {
    return region(runtime)->exec_seq;
}

uint32_t runtime_idempotency_keys(const struct runtime *runtime) {
    return runtime_table_count(&runtime->keys);
}

struct wire_hash runtime_result_hash(struct runtime *runtime) {
    runtime_chain(runtime);
    return region(runtime)->result_hash;
}

enum runtime_outcome runtime_result_find(const struct runtime *runtime, uint64_t id,
                                         uint32_t offset_bytes, void *buffer, uint32_t room_bytes,
                                         struct runtime_result *ret_result, uint32_t *ret_copied) {
    uint64_t range = wire_tx_range(id);
    uint32_t offset = wire_tx_offset(id);
    uint64_t place = runtime_range_place(runtime, range);
    if (place == 0) {
        struct runtime_range_facts facts;
        if (!runtime_range_find(runtime, range, &facts))
            return RUNTIME_UNKNOWN;
        return offset >= facts.executed ? RUNTIME_SEALED : RUNTIME_EXPIRED;
    }
    const struct range_record *record = runtime_state_at(&runtime->state, place);
    if (offset >= record->executed)
        return RUNTIME_UNKNOWN;
    struct result_record found;
    if (offset < record->results_from ||
        !runtime_results_find(runtime, record, offset, offset_bytes, buffer, room_bytes, &found,
                              ret_copied))
        return RUNTIME_EXPIRED;
    *ret_result = (struct runtime_result){.id = id,
                                          .epoch_seq = found.epoch_seq,
                                          .logical_time_us = found.logical_time_us,
                                          .code = found.code,
                                          .method_key = found.method_key,
                                          .length_bytes = found.length_bytes};
    return RUNTIME_EXECUTED;
}

void runtime_entries(const struct runtime *runtime, runtime_entry_callback callback, void *user) {
    const struct table *table = runtime->tables;
    for (uint32_t a = 0; a < runtime->config.application_count; a++) {
        const struct mrn_application *application = runtime->config.applications[a];
        for (uint32_t t = 0; t < application->table_count; t++, table++)
            for (uint32_t i = 0; i < runtime_table_count(table); i++) {
                const uint8_t *entry = runtime_table_at(table, i);
                callback(user, application, &application->tables[t], entry,
                         entry + table->value_at);
            }
    }
}

/* Checks what a walk relies on before it walks: also called on regions that came from outside. */
const char *runtime_check_by(const struct runtime *runtime, const struct runtime_crew *crew) {
    const struct region_header *header = region(runtime);
    if (header->length_bytes != runtime->layout.length_bytes ||
        memcmp(&header->identity, &runtime->identity, sizeof header->identity) != 0 ||
        memcmp(&header->origin, &runtime->config.origin_hash, sizeof header->origin) != 0 ||
        header->configuration_id != runtime->config.configuration_id)
        return "header: of another layout, identity or configuration";
    const struct table *fixed[] = {&runtime->ranges, &runtime->retired, &runtime->keys};
    for (uint32_t i = 0; i < 3; i++) {
        const char *broken = runtime_table_check(fixed[i], crew);
        if (broken != NULL)
            return broken;
    }
    for (uint32_t i = 0; i < runtime->table_count; i++) {
        const char *broken = runtime_table_check(&runtime->tables[i], crew);
        if (broken != NULL)
            return broken;
    }
    const char *broken = runtime_retired_check(runtime);
    if (broken == NULL)
        broken = runtime_results_check(runtime);
    return broken != NULL ? broken : runtime_keys_check(runtime);
}

const char *runtime_check(const struct runtime *runtime) {
    return runtime_check_by(runtime, NULL);
}
