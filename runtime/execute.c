/* Executes an epoch: controls, then each transaction to its end. */
#include <string.h>

#include "runtime/internal.h"

/* An epoch on its way through. */
struct execution {
    struct runtime *runtime;
    const struct runtime_epoch *epoch;
    runtime_result_callback callback;
    void *user;
    uint64_t seed; /* of mrn_random */
    struct wire_digest digest;
    uint64_t transaction_count;
};

/* One transaction's bodies put together. */
struct request {
    struct wire_body_header header;
    struct wire_body_extension extension;
    bool keyed;
    const uint8_t *bytes;
    uint32_t length_bytes;
    uint32_t part_count;   /* bodies it takes */
    const char *malformed; /* why it is, or NULL */
    bool too_large;
};

static enum mrn_code refuse(struct runtime *runtime, enum mrn_code code, const char *message) {
    return mrn_fail(&runtime->context, code, message);
}

/* ---- bodies to a request ---- */

/* Reads header and extension; *ret_at is where the payload begins. */
static const char *request_head(const struct runtime_body *body, struct request *request,
                                uint32_t *ret_at) {
    uint32_t at = sizeof request->header;
    if (body->length_bytes < at) {
        memset(&request->header, 0, sizeof request->header);
        return "a body is shorter than its header";
    }
    memcpy(&request->header, body->bytes, sizeof request->header);
    if (request->header.flags & WIRE_BODY_EXTENDED) {
        static const uint8_t none[16];
        if (body->length_bytes < at + sizeof request->extension)
            return "a body is shorter than its extension";
        memcpy(&request->extension, (const uint8_t *)body->bytes + at, sizeof request->extension);
        request->keyed = memcmp(request->extension.idempotency_key, none, sizeof none) != 0;
        at += (uint32_t)sizeof request->extension;
    }
    if (request->header.flags & ~WIRE_BODY_EXTENDED)
        return "a body has unknown flags";
    if (request->header.low_water > wire_tx_offset(body->id))
        return "the low-water mark is above the body's own offset";
    *ret_at = at;
    return NULL;
}

static const char *part_wrong(const struct request *request, const struct runtime_body *part,
                              uint32_t number) {
    struct wire_body_header header;
    if (part->length_bytes < sizeof header)
        return "a part is shorter than its header";
    memcpy(&header, part->bytes, sizeof header);
    if (header.parts_following + number != request->header.parts_following)
        return "parts contradict each other: parts_following";
    if (header.service != request->header.service || header.method != request->header.method)
        return "parts contradict each other: service or method";
    return header.flags != 0 ? "a part that is not the first is extended" : NULL;
}

/* Puts the parts behind the first one's payload, in the runtime's buffer. */
static const char *request_join(struct runtime *runtime, const struct runtime_body *bodies,
                                uint32_t first_at, struct request *request) {
    uint64_t length_bytes = bodies[0].length_bytes - first_at;
    if (length_bytes <= runtime->config.max_transaction_bytes)
        memcpy(runtime->parts, (const uint8_t *)bodies[0].bytes + first_at, length_bytes);
    for (uint32_t i = 1; i < request->part_count; i++) {
        const char *wrong = part_wrong(request, &bodies[i], i);
        if (wrong != NULL)
            return wrong;
        uint32_t piece = bodies[i].length_bytes - (uint32_t)sizeof request->header;
        if (length_bytes + piece <= runtime->config.max_transaction_bytes)
            memcpy(runtime->parts + length_bytes,
                   (const uint8_t *)bodies[i].bytes + sizeof request->header, piece);
        length_bytes += piece;
    }
    request->too_large = length_bytes > runtime->config.max_transaction_bytes;
    request->bytes = runtime->parts;
    request->length_bytes = request->too_large ? 0 : (uint32_t)length_bytes;
    return NULL;
}

/* Makes a request of the transaction that begins at bodies[0]; `count`: bodies left in the epoch.
 */
static void request_make(struct runtime *runtime, const struct runtime_body *bodies, uint32_t count,
                         struct request *request) {
    uint32_t at = 0;
    request->keyed = request->too_large = false;
    request->bytes = NULL;
    request->length_bytes = 0;
    request->part_count = 1;
    request->malformed = request_head(bodies, request, &at);
    uint32_t claimed = 1 + (uint32_t)request->header.parts_following;
    while (request->part_count < claimed && request->part_count < count &&
           bodies[request->part_count].id == bodies[0].id + request->part_count &&
           wire_tx_range(bodies[request->part_count].id) == wire_tx_range(bodies[0].id))
        request->part_count++;
    if (request->malformed != NULL)
        return;
    if (request->part_count < claimed) {
        request->malformed = wire_tx_offset(bodies[0].id) + (uint64_t)claimed > WIRE_RANGE_OFFSETS
                                 ? "parts reach over the end of their range"
                                 : "the epoch ends before the parts do";
        return;
    }
    if (claimed > 1) {
        request->malformed = request_join(runtime, bodies, at, request);
        return;
    }
    request->bytes = (const uint8_t *)bodies[0].bytes + at;
    request->length_bytes = bodies[0].length_bytes - at;
    request->too_large = request->length_bytes > runtime->config.max_transaction_bytes;
}

/* ---- a request to a code; the bytes are in context.response ---- */

static const struct method_entry *method_find(const struct runtime *runtime,
                                              const struct wire_body_header *header) {
    uint64_t ids = (uint64_t)header->service << 32 | header->method;
    uint32_t at = (uint32_t)(ids ^ ids >> 32) & runtime->method_mask;
    for (; runtime->methods[at].handler != NULL; at = (at + 1) & runtime->method_mask)
        if (runtime->methods[at].ids == ids)
            return &runtime->methods[at];
    return NULL;
}

/* Runs the handler; on return the transaction is still open, so that it can be undone. */
static enum mrn_code handle(struct execution *execution, const struct method_entry *method,
                            uint64_t id, const struct request *request) {
    struct runtime *runtime = execution->runtime;
    struct mrn_context *context = &runtime->context;
    runtime_context_begin(context, method, id, execution->epoch->logical_time_us, execution->seed);
    enum mrn_code code = method->handler(context, request->bytes, request->length_bytes);
    if (context->exhausted && code != MRN_CODE_RESOURCE_EXHAUSTED)
        code = refuse(runtime, MRN_CODE_RESOURCE_EXHAUSTED,
                      "the transaction writes or allocates too much, or a table is full");
    if ((uint32_t)code >= MRN_CODE_COUNT)
        code = refuse(runtime, MRN_CODE_INTERNAL, "the handler returned no known code");
    return code;
}

/* The first result under this key again, or why not. */
static enum mrn_code repeat(struct runtime *runtime, const struct key_record *record,
                            const struct request *request) {
    if (memcmp(record->request_hash, request->extension.request_hash,
               sizeof record->request_hash) != 0)
        return refuse(runtime, MRN_CODE_FAILED_PRECONDITION,
                      "the idempotency key was used with another request");
    runtime_keys_copy(runtime, record, runtime->context.response + sizeof(uint32_t));
    runtime->context.response_bytes = record->length_bytes;
    runtime->counters.idempotent_repeats++;
    return (enum mrn_code)record->code;
}

static enum mrn_code execute_checked(struct execution *execution, uint64_t id,
                                     const struct request *request) {
    struct runtime *runtime = execution->runtime;
    if (request->keyed) {
        const struct key_record *record =
            runtime_keys_find(runtime, request->extension.idempotency_key);
        if (record != NULL)
            return repeat(runtime, record, request);
        if (!runtime_keys_have_slot(runtime))
            return refuse(
                runtime, MRN_CODE_RESOURCE_EXHAUSTED,
                "idempotency-keys of them are remembered, and no more fit until the oldest is "
                "idempotency-span-s old");
    }
    const struct method_entry *method = method_find(runtime, &request->header);
    if (method == NULL)
        return refuse(runtime, MRN_CODE_UNIMPLEMENTED, "no such service or method");
    runtime_state_transaction_begin(&runtime->state);
    enum mrn_code code = handle(execution, method, id, request);
    bool unremembered =
        request->keyed && !runtime_keys_have_bytes(runtime, runtime->context.response_bytes);
    if (unremembered)
        code = refuse(runtime, MRN_CODE_RESOURCE_EXHAUSTED,
                      "the results remembered under idempotency keys fill idempotency-bytes");
    if (code != MRN_CODE_OK)
        runtime_state_undo(&runtime->state);
    runtime_state_transaction_end(&runtime->state);
    if (request->keyed && !unremembered)
        runtime_keys_remember(runtime, &request->extension, execution->epoch->logical_time_us,
                              (uint32_t)code, runtime->context.response + sizeof(uint32_t),
                              runtime->context.response_bytes);
    return code;
}

static enum mrn_code execute_request(struct execution *execution, uint64_t id,
                                     const struct request *request) {
    struct runtime *runtime = execution->runtime;
    runtime->context.response_bytes = 0;
    if (request->malformed != NULL) {
        runtime->counters.malformed++;
        return refuse(runtime, MRN_CODE_INVALID_ARGUMENT, request->malformed);
    }
    if (request->too_large)
        return refuse(runtime, MRN_CODE_RESOURCE_EXHAUSTED, "the transaction is too large");
    return execute_checked(execution, id, request);
}

/* ---- a code to a result ---- */

static void finish(struct execution *execution, uint64_t id, uint64_t range_offset,
                   const struct request *request, enum mrn_code code) {
    struct runtime *runtime = execution->runtime;
    struct mrn_context *context = &runtime->context;
    uint32_t value = (uint32_t)code;
    memcpy(context->response, &value, sizeof value);
    execution->digest = wire_digest_add(execution->digest,
                                        wire_hash_body(&runtime->digest_key, id, context->response,
                                                       sizeof value + context->response_bytes));
    struct result_record record = {
        .offset = wire_tx_offset(id),
        .code = value,
        .epoch_seq = execution->epoch->seq,
        .logical_time_us = execution->epoch->logical_time_us,
        .length_bytes = context->response_bytes,
        .method_key = request->malformed
                          ? 0 /* no call: "rejected" where states are named */
                          : wire_method_key(request->header.service, request->header.method)};
    const uint8_t *bytes = context->response + sizeof value;
    runtime_results_keep(runtime, range_offset, &record, bytes);
    execution->transaction_count++;
    runtime->counters.by_code[value]++;
    if (execution->callback != NULL) {
        const struct range_record *range = runtime_state_at(&runtime->state, range_offset);
        struct runtime_result result = {.id = id,
                                        .owner = range->owner,
                                        .epoch_seq = record.epoch_seq,
                                        .logical_time_us = record.logical_time_us,
                                        .code = value,
                                        .method_key = record.method_key,
                                        .length_bytes = record.length_bytes,
                                        .bytes = bytes};
        execution->callback(execution->user, &result);
    }
}

/* Executes the bodies of one range from bodies[0] on. Returns their number, or MISMATCH. */
static int64_t execute_interval(struct execution *execution, const struct runtime_body *bodies,
                                uint32_t count) {
    struct runtime *runtime = execution->runtime;
    uint64_t range = wire_tx_range(bodies[0].id);
    uint64_t range_offset = runtime_range_place(runtime, range);
    if (range_offset == 0)
        return MRN_ERR_MISMATCH;
    struct range_record *record =
        runtime_state_change(&runtime->state, range_offset, sizeof *record);
    uint32_t done = 0;
    while (done < count && wire_tx_range(bodies[done].id) == range) {
        uint64_t id = bodies[done].id;
        struct request request;
        if (wire_tx_offset(id) != record->executed)
            return MRN_ERR_MISMATCH;
        request_make(runtime, &bodies[done], count - done, &request);
        if (request.malformed == NULL && request.header.low_water > record->low_water)
            runtime_results_low_water(runtime, range_offset, request.header.low_water);
        enum mrn_code code = execute_request(execution, id, &request);
        finish(execution, id, range_offset, &request, code);
        record->executed += request.part_count;
        done += request.part_count;
    }
    return done;
}

static int execute_bodies(struct execution *execution) {
    const struct runtime_epoch *epoch = execution->epoch;
    for (uint32_t i = 0; i < epoch->control_count; i++) {
        struct wire_control control;
        memcpy(&control, &epoch->controls[i], sizeof control);
        int error = runtime_range_control(execution->runtime, &control);
        if (error != 0)
            return error;
    }
    uint32_t done = 0;
    while (done < epoch->body_count) {
        int64_t took = execute_interval(execution, &epoch->bodies[done], epoch->body_count - done);
        if (took < 0)
            return (int)took;
        done += (uint32_t)took;
    }
    return 0;
}

/* result_hash = BLAKE2b(previous, epoch hash, sum of the results' digests, their number). */
void runtime_chain(struct runtime *runtime) {
    if (!runtime->chain.due)
        return;
    struct region_header *header = region_change(runtime);
    struct {
        struct wire_hash previous, epoch;
        uint64_t digest_low, digest_high, count;
    } link = {header->result_hash, header->epoch_hash, runtime->chain.digest.low,
              runtime->chain.digest.high, runtime->chain.count};
    header->result_hash = wire_hash_blake2b(&link, sizeof link);
    runtime->chain.due = false;
}

static void executed(const struct execution *execution) {
    struct runtime *runtime = execution->runtime;
    struct region_header *header = region_change(runtime);
    header->epoch_hash = execution->epoch->hash;
    header->exec_seq = execution->epoch->seq;
    header->term = execution->epoch->term;
    runtime->chain.digest = execution->digest;
    runtime->chain.count = execution->transaction_count;
    runtime->chain.due = true;
    runtime->counters.transactions += execution->transaction_count;
}

int runtime_execute_epoch(struct runtime *runtime, const struct runtime_epoch *epoch,
                          runtime_result_callback callback, void *user) {
    const struct region_header *header = region(runtime);
    if (runtime->stopped)
        return MRN_ERR_CLOSED;
    if (epoch->seq != header->exec_seq + 1 || epoch->term < header->term ||
        epoch->logical_time_us <= header->logical_time_us) {
        runtime->stopped = true;
        return MRN_ERR_MISMATCH;
    }
    struct execution execution = {
        .runtime = runtime, .epoch = epoch, .callback = callback, .user = user};
    runtime_chain(runtime);
    memcpy(&execution.seed, epoch->hash.bytes, sizeof execution.seed);
    region_change(runtime)->logical_time_us = epoch->logical_time_us;
    runtime_keys_expire(runtime, epoch->logical_time_us);
    int error = execute_bodies(&execution);
    if (error != 0) {
        runtime->stopped = true;
        return error;
    }
    executed(&execution);
    return 0;
}
