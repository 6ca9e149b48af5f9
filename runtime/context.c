/* What a handler sees: the functions of include/maroon/application.h. */
#include <assert.h>
#include <string.h>

#include "runtime/flat.h"
#include "runtime/internal.h"

#define MESSAGE_MAX_BYTES 1024
#define ARENA_ALIGN 16

static void *arena_alloc(void *user, size_t length_bytes) {
    struct mrn_context *context = user;
    uint64_t room = context->arena_bytes - context->arena_used_bytes;
    if (length_bytes > room ||
        ((length_bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1)) > room) {
        context->exhausted = true;
        return NULL;
    }
    void *place = context->arena + context->arena_used_bytes;
    context->arena_used_bytes += (length_bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    return place;
}

static void arena_free(void *user, void *pointer) {
    (void)user;
    (void)pointer; /* all at once, when the next transaction begins */
}

int runtime_context_open(struct runtime *runtime) {
    struct mrn_context *context = &runtime->context;
    context->runtime = runtime;
    context->allocator =
        (ProtobufCAllocator){.alloc = arena_alloc, .free = arena_free, .allocator_data = context};
    /* A message of many tiny parts grows when it is decoded. */
    context->arena_bytes = UINT64_C(8) * runtime->config.max_transaction_bytes + (1 << 16);
    context->arena = runtime_state_reserve(context->arena_bytes);
    context->response =
        runtime_state_reserve(sizeof(uint32_t) + (uint64_t)runtime->config.max_result_bytes);
    runtime->parts = runtime_state_reserve(runtime->config.max_transaction_bytes);
    if (context->arena != NULL && context->response != NULL && runtime->parts != NULL)
        return 0;
    return MRN_ERR_NO_MEMORY;
}

void runtime_context_close(struct runtime *runtime) {
    struct mrn_context *context = &runtime->context;
    runtime_state_release(context->arena, context->arena_bytes);
    runtime_state_release(context->response,
                          sizeof(uint32_t) + (uint64_t)runtime->config.max_result_bytes);
    runtime_state_release(runtime->parts, runtime->config.max_transaction_bytes);
}

void runtime_context_begin(struct mrn_context *context, const struct method_entry *method,
                           uint64_t id, uint64_t logical_time_us, uint64_t seed) {
    context->tables = method->tables;
    context->table_count = method->table_count;
    context->exhausted = false;
    context->id = id;
    context->logical_time_us = logical_time_us;
    context->random = seed + id * UINT64_C(0x9e3779b97f4a7c15);
    context->arena_used_bytes = 0;
    context->response_bytes = 0;
}

uint64_t mrn_transaction_id(const struct mrn_context *context) {
    return context->id;
}

uint64_t mrn_logical_time_us(const struct mrn_context *context) {
    return context->logical_time_us;
}

/* splitmix64 (Steele, Lea and Flood, 2014) */
uint64_t mrn_random(struct mrn_context *context) {
    uint64_t z = context->random += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

void *mrn_alloc(struct mrn_context *context, size_t length_bytes) {
    return arena_alloc(context, length_bytes);
}

void *mrn_decode(struct mrn_context *context, const ProtobufCMessageDescriptor *descriptor,
                 const void *bytes, size_t length_bytes) {
    if (runtime_flat_descriptor(descriptor)) {
        void *message = arena_alloc(context, descriptor->sizeof_message);
        if (message == NULL)
            return NULL;
        descriptor->message_init(message);
        if (runtime_flat_decode(descriptor, message, bytes, length_bytes))
            return message;
    }
    return protobuf_c_message_unpack(descriptor, &context->allocator, length_bytes, bytes);
}

enum mrn_code mrn_fail(struct mrn_context *context, enum mrn_code code, const char *message) {
    assert(code != MRN_CODE_OK);
    size_t length_bytes = strnlen(message, MESSAGE_MAX_BYTES);
    memcpy(context->response + sizeof(uint32_t), message, length_bytes);
    context->response_bytes = (uint32_t)length_bytes;
    return code;
}

enum mrn_code mrn_fail_decode(struct mrn_context *context) {
    if (context->exhausted)
        return mrn_fail(context, MRN_CODE_RESOURCE_EXHAUSTED,
                        "the request takes too much memory when decoded");
    return mrn_fail(context, MRN_CODE_INVALID_ARGUMENT,
                    "the request is not a message of the method's type");
}

static enum mrn_code response_too_large(struct mrn_context *context) {
    context->exhausted = true;
    return mrn_fail(context, MRN_CODE_RESOURCE_EXHAUSTED, "the response is too large");
}

enum mrn_code mrn_respond(struct mrn_context *context, const ProtobufCMessage *message) {
    const ProtobufCMessageDescriptor *descriptor = message->descriptor;
    if (runtime_flat_descriptor(descriptor) &&
        message->n_unknown_fields == 0) { /* at most 165 bytes */
        context->response_bytes =
            (uint32_t)runtime_flat_encode(message, context->response + sizeof(uint32_t));
        return MRN_CODE_OK;
    }
    size_t length_bytes = protobuf_c_message_get_packed_size(message);
    if (length_bytes > context->runtime->config.max_result_bytes)
        return response_too_large(context);
    protobuf_c_message_pack(message, context->response + sizeof(uint32_t));
    context->response_bytes = (uint32_t)length_bytes;
    return MRN_CODE_OK;
}

enum mrn_code mrn_respond_bytes(struct mrn_context *context, const void *bytes,
                                size_t length_bytes) {
    if (length_bytes > context->runtime->config.max_result_bytes)
        return response_too_large(context);
    if (length_bytes > 0)
        memcpy(context->response + sizeof(uint32_t), bytes, length_bytes);
    context->response_bytes = (uint32_t)length_bytes;
    return MRN_CODE_OK;
}

/* ---- tables ---- */

static struct table *table_of(struct mrn_context *context, uint32_t table) {
    assert(table < context->table_count);
    return &context->tables[table];
}

/* True, and the transaction is lost, when it may not write more. */
static bool writes_exhausted(struct mrn_context *context) {
    if (runtime_state_undo_full(&context->runtime->state))
        context->exhausted = true;
    return context->exhausted;
}

const void *mrn_table_find(struct mrn_context *context, uint32_t table, const void *key) {
    uint64_t place = runtime_table_find(table_of(context, table), key);
    return place == 0 ? NULL : runtime_state_at(&context->runtime->state, place);
}

void *mrn_table_write(struct mrn_context *context, uint32_t table, const void *key) {
    struct table *t = table_of(context, table);
    uint64_t place = runtime_table_find(t, key);
    if (place == 0 || writes_exhausted(context))
        return NULL;
    return runtime_state_write(&context->runtime->state, place, t->value_bytes);
}

void *mrn_table_insert(struct mrn_context *context, uint32_t table, const void *key) {
    struct table *t = table_of(context, table);
    if (writes_exhausted(context))
        return NULL;
    uint64_t place = runtime_table_insert(t, key);
    if (place == 0) {
        context->exhausted = true;
        return NULL;
    }
    return runtime_state_write(&context->runtime->state, place, t->value_bytes);
}

int mrn_table_erase(struct mrn_context *context, uint32_t table, const void *key) {
    struct table *t = table_of(context, table);
    if (writes_exhausted(context))
        return 0;
    return runtime_table_erase(t, key);
}

uint32_t mrn_table_count(struct mrn_context *context, uint32_t table) {
    return runtime_table_count(table_of(context, table));
}

const void *mrn_table_at(struct mrn_context *context, uint32_t table, uint32_t place,
                         const void **ret_key) {
    struct table *t = table_of(context, table);
    if (place >= runtime_table_count(t))
        return NULL;
    const uint8_t *entry = runtime_table_at(t, place);
    *ret_key = entry;
    return entry + t->value_at;
}

const struct mrn_service *mrn_service_find(const struct mrn_application *const *applications,
                                           uint32_t application_count, const char *name) {
    for (uint32_t a = 0; a < application_count; a++)
        for (uint32_t i = 0; i < applications[a]->service_count; i++)
            if (strcmp(applications[a]->services[i].descriptor->name, name) == 0)
                return &applications[a]->services[i];
    return NULL;
}
