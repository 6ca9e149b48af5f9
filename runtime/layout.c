#include <stdlib.h>
#include <string.h>

#include "runtime/internal.h"

static const uint8_t REGION_MAGIC[8] = {'m', 'r', 'n', 's', 't', 'a', 't', '3'};

void runtime_config_defaults(struct runtime_config *ret_config) {
    *ret_config = (struct runtime_config){
        .state_bytes = UINT64_C(256) << 20,
        .ranges_max = 1024,
        .retired_max = 1 << 20,
        .results_kept = 4096,
        .result_bytes = UINT64_C(64) << 20,
        .idempotency_slots = 1048576,
        .idempotency_bytes = UINT64_C(64) << 20,
        .idempotency_span_us = UINT64_C(24) * 3600 * 1000000,
        .max_transaction_bytes = 1 << 20,
        .max_result_bytes = 1 << 20,
        .undo_bytes = 1 << 20,
    };
}

static bool bounds_hold(const struct runtime_config *config) {
    const uint64_t terabyte = UINT64_C(1) << 40;
    if (config->ranges_max == 0 || config->ranges_max > 1 << 20 || config->retired_max == 0 ||
        config->retired_max > 1 << 30 || config->results_kept == 0 ||
        config->results_kept > 1 << 24)
        return false;
    if (config->max_transaction_bytes == 0 || config->max_transaction_bytes > 1 << 28 ||
        config->max_result_bytes < 1024 || config->max_result_bytes > 1 << 28 ||
        config->undo_bytes < 4096)
        return false;
    if (config->idempotency_slots > 1 << 28 || config->idempotency_bytes > terabyte)
        return false;
    /* The greatest result must fit the pool, whatever else is in it. */
    return config->result_bytes <= terabyte && config->state_bytes <= terabyte &&
           config->result_bytes >= UINT64_C(2) * config->max_result_bytes + 4 * RESULT_CHUNK_BYTES;
}

/* ---- identity: canonical bytes of everything that execution depends on ---- */

struct text {
    uint8_t *bytes;
    size_t length_bytes, room_bytes;
    bool failed;
};

static void text_add(struct text *text, const void *bytes, size_t length_bytes) {
    if (text->length_bytes + length_bytes > text->room_bytes) {
        size_t room_bytes = 2 * (text->room_bytes + length_bytes);
        uint8_t *grown = realloc(text->bytes, room_bytes);
        if (grown == NULL) {
            text->failed = true;
            return;
        }
        text->bytes = grown;
        text->room_bytes = room_bytes;
    }
    memcpy(text->bytes + text->length_bytes, bytes, length_bytes);
    text->length_bytes += length_bytes;
}
static void text_number(struct text *text, uint64_t number) {
    text_add(text, &number, sizeof number);
}
static void text_name(struct text *text, const char *name) {
    text_add(text, name, strlen(name) + 1);
}

static void identity_of_application(struct text *text, const struct mrn_application *application) {
    text_name(text, application->name);
    text_number(text, application->version);
    text_number(text, application->service_count);
    for (uint32_t i = 0; i < application->service_count; i++) {
        const struct mrn_service *service = &application->services[i];
        text_name(text, service->descriptor->name);
        text_number(text, service->method_count);
        for (uint32_t m = 0; m < service->method_count; m++)
            text_name(text, service->methods[m].name);
    }
    text_number(text, application->table_count);
    for (uint32_t i = 0; i < application->table_count; i++) {
        const struct mrn_table_spec *table = &application->tables[i];
        text_name(text, table->name);
        text_number(text, table->key_bytes);
        text_number(text, table->value_bytes);
        text_number(text, table->entries_max);
        text_number(text, table->share);
    }
}

static int identity_make(struct runtime *runtime) {
    const struct runtime_config *config = &runtime->config;
    struct text text = {0};
    text_add(&text, REGION_MAGIC, sizeof REGION_MAGIC);
    const uint64_t sizes[] = {
        config->state_bytes,       config->ranges_max,          config->retired_max,
        config->results_kept,      config->result_bytes,        config->idempotency_slots,
        config->idempotency_bytes, config->idempotency_span_us, config->max_transaction_bytes,
        config->max_result_bytes,  config->undo_bytes};
    text_add(&text, sizes, sizeof sizes);
    text_add(&text, &config->origin_hash, sizeof config->origin_hash);
    text_number(&text, config->application_count);
    for (uint32_t i = 0; i < config->application_count; i++)
        identity_of_application(&text, config->applications[i]);
    if (!text.failed) {
        runtime->identity = wire_hash_blake2b(text.bytes, text.length_bytes);
        memcpy(runtime->digest_key.bytes, runtime->identity.bytes, 16);
    }
    free(text.bytes);
    return text.failed ? MRN_ERR_NO_MEMORY : 0;
}

/* ---- tables ---- */

static bool table_spec_allowed(const struct mrn_table_spec *spec) {
    return spec->name != NULL && spec->key_bytes >= 1 && spec->value_bytes >= 1 &&
           spec->key_bytes <= MRN_TABLE_KEY_MAX_BYTES &&
           spec->value_bytes <= MRN_TABLE_VALUE_MAX_BYTES &&
           (spec->entries_max > 0 || spec->share > 0) && spec->entries_max <= UINT32_MAX - 8;
}

/* Bytes of the fixed tables and the sum of the shares of the others; false: a spec is not allowed.
 */
static bool tables_survey(const struct runtime_config *config, uint64_t *ret_fixed_bytes,
                          uint64_t *ret_shares, uint32_t *ret_count) {
    uint64_t fixed_bytes = 0, shares = 0;
    uint32_t count = 0;
    for (uint32_t a = 0; a < config->application_count; a++) {
        const struct mrn_application *application = config->applications[a];
        for (uint32_t i = 0; i < application->table_count; i++, count++) {
            const struct mrn_table_spec *spec = &application->tables[i];
            struct table table;
            if (!table_spec_allowed(spec))
                return false;
            runtime_table_shape(&table, spec->key_bytes, spec->value_bytes, 0);
            if (spec->entries_max == 0)
                shares += spec->share;
            else
                fixed_bytes += runtime_table_buckets_bytes(&table, spec->entries_max) +
                               runtime_table_entries_bytes(&table, spec->entries_max);
        }
    }
    *ret_fixed_bytes = fixed_bytes;
    *ret_shares = shares;
    *ret_count = count;
    return count <= REGION_TABLES_MAX && fixed_bytes <= config->state_bytes;
}

static uint64_t page_align(uint64_t offset) {
    return (offset + STATE_PAGE_BYTES - 1) & ~(uint64_t)(STATE_PAGE_BYTES - 1);
}

/* Puts a table at *offset, page-aligned, and moves *offset behind it. */
static void table_place(struct runtime *runtime, struct table *table, uint32_t number,
                        uint32_t entries_max, uint64_t *offset) {
    table->state = &runtime->state;
    memcpy(&table->seed, runtime->config.origin_hash.bytes, sizeof table->seed);
    table->seed = (table->seed ^ UINT64_C(0xa0761d6478bd642f)) + number;
    table->head_offset = REGION_TABLES_OFFSET + number * sizeof(struct table_head);
    table->entries_max = entries_max;
    table->buckets_offset = *offset;
    *offset = page_align(*offset + runtime_table_buckets_bytes(table, entries_max));
    table->entries_offset = *offset;
    *offset = page_align(*offset + runtime_table_entries_bytes(table, entries_max));
}

static int application_tables_place(struct runtime *runtime, uint64_t *offset) {
    const struct runtime_config *config = &runtime->config;
    uint64_t fixed_bytes, shares;
    uint32_t count;
    if (!tables_survey(config, &fixed_bytes, &shares, &count))
        return MRN_ERR_INVALID;
    runtime->tables = calloc(count + 1, sizeof runtime->tables[0]);
    if (runtime->tables == NULL)
        return MRN_ERR_NO_MEMORY;
    for (uint32_t a = 0; a < config->application_count; a++) {
        const struct mrn_application *application = config->applications[a];
        for (uint32_t i = 0; i < application->table_count; i++) {
            const struct mrn_table_spec *spec = &application->tables[i];
            struct table *table = &runtime->tables[runtime->table_count];
            runtime_table_shape(table, spec->key_bytes, spec->value_bytes, 0);
            uint64_t entries = spec->entries_max;
            if (entries == 0)
                entries = (config->state_bytes - fixed_bytes) / shares * spec->share /
                          (table->entry_bytes + sizeof(uint32_t));
            if (entries == 0 || entries > UINT32_MAX - 8)
                entries = entries == 0 ? 1 : UINT32_MAX - 8;
            table_place(runtime, table, 3 + runtime->table_count++, (uint32_t)entries, offset);
        }
    }
    return 0;
}

/* ---- methods ---- */

static int method_add(struct runtime *runtime, uint64_t ids, const struct method_entry *entry) {
    uint32_t at = (uint32_t)(ids ^ ids >> 32) & runtime->method_mask;
    for (; runtime->methods[at].handler != NULL; at = (at + 1) & runtime->method_mask)
        if (runtime->methods[at].ids == ids)
            return MRN_ERR_INVALID;
    runtime->methods[at] = *entry;
    runtime->methods[at].ids = ids;
    return 0;
}

static int service_add(struct runtime *runtime, const struct mrn_service *service,
                       struct table *tables, uint32_t table_count) {
    const ProtobufCServiceDescriptor *descriptor = service->descriptor;
    if (descriptor->n_methods != service->method_count)
        return MRN_ERR_INVALID;
    uint64_t service_id = wire_name_id(descriptor->name, strlen(descriptor->name));
    for (uint32_t i = 0; i < service->method_count; i++) {
        const struct mrn_method *method = &service->methods[i];
        if (method->handler == NULL ||
            protobuf_c_service_descriptor_get_method_by_name(descriptor, method->name) == NULL)
            return MRN_ERR_INVALID;
        struct method_entry entry = {
            .handler = method->handler, .tables = tables, .table_count = table_count};
        uint64_t ids = service_id << 32 | wire_name_id(method->name, strlen(method->name));
        int error = method_add(runtime, ids, &entry);
        if (error != 0)
            return error;
    }
    return 0;
}

static int methods_make(struct runtime *runtime) {
    const struct runtime_config *config = &runtime->config;
    uint32_t count = 0, size = 8;
    for (uint32_t a = 0; a < config->application_count; a++)
        for (uint32_t i = 0; i < config->applications[a]->service_count; i++)
            count += config->applications[a]->services[i].method_count;
    while (size < 2 * count)
        size *= 2;
    runtime->methods = calloc(size, sizeof runtime->methods[0]);
    if (runtime->methods == NULL)
        return MRN_ERR_NO_MEMORY;
    runtime->method_mask = size - 1;
    struct table *tables = runtime->tables;
    for (uint32_t a = 0; a < config->application_count; a++) {
        const struct mrn_application *application = config->applications[a];
        for (uint32_t i = 0; i < application->service_count; i++) {
            int error =
                service_add(runtime, &application->services[i], tables, application->table_count);
            if (error != 0)
                return error;
        }
        tables += application->table_count;
    }
    return 0;
}

/* ---- all of it ---- */

int runtime_layout_make(struct runtime *runtime) {
    const struct runtime_config *config = &runtime->config;
    if (!bounds_hold(config))
        return MRN_ERR_INVALID;
    int error = identity_make(runtime);
    if (error != 0)
        return error;
    struct runtime_layout *layout = &runtime->layout;
    uint64_t offset = STATE_PAGE_BYTES;
    runtime_table_shape(&runtime->ranges, sizeof(uint64_t), sizeof(struct range_record), 0);
    static_assert((1 << 30) <= TABLE_PACKED_ENTRIES_MAX, "bounds_hold allows no more");
    runtime_table_shape_packed(&runtime->retired, RETIRED_RANGE_BITS, RETIRED_ENTRY_BYTES, 3);
    runtime_table_shape(&runtime->keys, 16, sizeof(uint64_t), 0);
    table_place(runtime, &runtime->ranges, 0, config->ranges_max, &offset);
    table_place(runtime, &runtime->retired, 1, config->retired_max, &offset);
    table_place(runtime, &runtime->keys, 2, config->idempotency_slots, &offset);
    layout->keys_ring = offset;
    offset = page_align(offset + config->idempotency_slots * sizeof(struct key_record));
    layout->keys_bytes = offset;
    offset = page_align(offset + config->idempotency_bytes);
    layout->chunks = offset;
    layout->chunk_count = (uint32_t)(config->result_bytes / RESULT_CHUNK_BYTES);
    offset = page_align(offset + config->result_bytes);
    error = application_tables_place(runtime, &offset);
    if (error != 0)
        return error;
    layout->length_bytes = offset;
    return methods_make(runtime);
}

void runtime_region_format(struct runtime *runtime) {
    struct region_header *header = region_change(runtime);
    memcpy(header->magic, REGION_MAGIC, sizeof header->magic);
    header->length_bytes = runtime->layout.length_bytes;
    header->identity = runtime->identity;
    header->result_hash = runtime->identity;
    header->epoch_hash = runtime->config.genesis_hash;
    header->origin = runtime->config.origin_hash;
    header->configuration_id = runtime->config.configuration_id;
}
