#include "controlplane/etcd_json.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/base64.h"
#include "controlplane/decimal.h"
#include "maroon/error.h"

/* ---- writing ---- */

static json_t *encode_bytes(const char *bytes, size_t count) {
    char *text = malloc(base64_encoded_bytes(count) + 1);
    if (!text)
        return NULL;
    base64_encode(bytes, count, text);
    json_t *value = json_string(text);
    free(text);
    return value;
}

static json_t *encode_number(uint64_t number) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, number);
    return json_string(text);
}

/* Each puts one member; a NULL value makes them fail, and `bad` keeps that. */
static void set_bytes(json_t *object, const char *name, const char *text, bool *bad) {
    if (json_object_set_new(object, name, encode_bytes(text, strlen(text))))
        *bad = true;
}

static void set_number(json_t *object, const char *name, uint64_t number, bool *bad) {
    if (json_object_set_new(object, name, encode_number(number)))
        *bad = true;
}

static void set_keys(json_t *object, const char *key, const char *range_end, bool *bad) {
    if (strlen(key) > ETCD_KEY_MAX || (range_end && strlen(range_end) > ETCD_KEY_MAX))
        *bad = true;
    set_bytes(object, "key", key, bad);
    if (range_end)
        set_bytes(object, "range_end", range_end, bad);
}

/* Takes `object`. */
static char *finish(json_t *object, bool bad) {
    char *text = object && !bad ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    return text;
}

static json_t *range_object(const char *key, const char *range_end, uint32_t limit, bool *bad) {
    json_t *object = json_object();
    set_keys(object, key, range_end, bad);
    if (limit)
        set_number(object, "limit", limit, bad);
    return object;
}

static json_t *put_object(const char *key, const char *value, uint64_t lease, bool *bad) {
    json_t *object = json_object();
    set_keys(object, key, NULL, bad);
    set_bytes(object, "value", value, bad);
    if (lease)
        set_number(object, "lease", lease, bad);
    return object;
}

char *etcd_json_range(const char *key, const char *range_end, uint32_t limit) {
    bool bad = false;
    json_t *object = range_object(key, range_end, limit, &bad);
    return finish(object, bad);
}

char *etcd_json_put(const char *key, const char *value, uint64_t lease) {
    bool bad = false;
    json_t *object = put_object(key, value, lease, &bad);
    return finish(object, bad);
}

static json_t *operation_object(const struct etcd_operation *operation, bool *bad) {
    json_t *inner = NULL;
    const char *name = NULL;
    switch (operation->kind) {
    case ETCD_OP_RANGE:
        name = "request_range";
        inner = range_object(operation->key, operation->range_end, operation->limit, bad);
        break;
    case ETCD_OP_PUT:
        name = "request_put";
        inner = put_object(operation->key, operation->value, operation->lease, bad);
        break;
    case ETCD_OP_DELETE:
        name = "request_delete_range";
        inner = json_object();
        set_keys(inner, operation->key, operation->range_end, bad);
        break;
    }
    json_t *object = json_object();
    if (!name || json_object_set_new(object, name, inner))
        *bad = true;
    return object;
}

static json_t *compare_object(const struct etcd_compare *compare, bool *bad) {
    static const struct {
        const char *target, *field;
    } names[] = {
        [ETCD_CREATE] = {"CREATE", "create_revision"},
        [ETCD_MOD] = {"MOD", "mod_revision"},
        [ETCD_VERSION] = {"VERSION", "version"},
        [ETCD_LEASE] = {"LEASE", "lease"},
    };
    json_t *object = json_object();
    set_keys(object, compare->key, NULL, bad);
    /* The target is always spelled: without it etcd compares VERSION. */
    if (json_object_set_new(object, "target", json_string(names[compare->target].target)) ||
        json_object_set_new(object, "result", json_string("EQUAL")))
        *bad = true;
    set_number(object, names[compare->target].field, compare->number, bad);
    return object;
}

static json_t *operations_array(const struct etcd_operation *operations, uint32_t count,
                                bool *bad) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < count; i++)
        if (json_array_append_new(array, operation_object(&operations[i], bad)))
            *bad = true;
    return array;
}

char *etcd_json_txn(const struct etcd_txn *txn) {
    if (txn->compare_count > ETCD_OPERATIONS_MAX || txn->success_count > ETCD_OPERATIONS_MAX ||
        txn->failure_count > ETCD_OPERATIONS_MAX)
        return NULL;
    bool bad = false;
    json_t *compares = json_array();
    for (uint32_t i = 0; i < txn->compare_count; i++)
        if (json_array_append_new(compares, compare_object(&txn->compares[i], &bad)))
            bad = true;
    json_t *object = json_object();
    json_t *success = operations_array(txn->success, txn->success_count, &bad);
    json_t *failure = operations_array(txn->failure, txn->failure_count, &bad);
    if (json_object_set_new(object, "compare", compares) |
        json_object_set_new(object, "success", success) |
        json_object_set_new(object, "failure", failure))
        bad = true;
    return finish(object, bad);
}

char *etcd_json_lease(uint64_t lease, uint64_t ttl_s) {
    bool bad = false;
    json_t *object = json_object();
    set_number(object, "ID", lease, &bad);
    if (ttl_s)
        set_number(object, "TTL", ttl_s, &bad);
    return finish(object, bad);
}

char *etcd_json_compact(uint64_t revision) {
    bool bad = false;
    json_t *object = json_object();
    set_number(object, "revision", revision, &bad);
    return finish(object, bad);
}

char *etcd_json_authenticate(const char *user, const char *password) {
    json_t *object = json_object();
    bool bad = json_object_set_new(object, "name", json_string(user)) |
               json_object_set_new(object, "password", json_string(password));
    return finish(object, bad);
}

char *etcd_json_watch(const char *key, const char *range_end, uint64_t revision) {
    bool bad = false;
    json_t *create = json_object();
    set_keys(create, key, range_end, &bad);
    set_number(create, "start_revision", revision, &bad);
    json_t *object = json_object();
    if (json_object_set_new(object, "create_request", create))
        bad = true;
    return finish(object, bad);
}

/* ---- reading ---- */

struct etcd_memory {
    struct etcd_memory *next;
    _Alignas(16) unsigned char bytes[];
};

void etcd_memory_free(struct etcd_memory *memory) {
    while (memory) {
        struct etcd_memory *next = memory->next;
        free(memory);
        memory = next;
    }
}

static void *memory_take(struct etcd_memory **memory, size_t count, size_t size) {
    struct etcd_memory *block = calloc(1, sizeof *block + count * size);
    if (!block)
        return NULL;
    block->next = *memory;
    *memory = block;
    return block->bytes;
}

/* An absent or null member is 0. */
static int read_number(const json_t *object, const char *name, uint64_t *ret_number) {
    const json_t *value = json_object_get(object, name);
    if (!value || json_is_null(value)) {
        *ret_number = 0;
        return 0;
    }
    if (json_is_integer(value)) {
        if (json_integer_value(value) < 0)
            return MRN_ERR_MALFORMED;
        *ret_number = (uint64_t)json_integer_value(value);
        return 0;
    }
    if (!json_is_string(value))
        return MRN_ERR_MALFORMED;
    return decimal_read(json_string_value(value), ret_number) ? 0 : MRN_ERR_MALFORMED;
}

static int read_bool(const json_t *object, const char *name, bool *ret_value) {
    const json_t *value = json_object_get(object, name);
    if (value && !json_is_boolean(value) && !json_is_null(value))
        return MRN_ERR_MALFORMED;
    *ret_value = json_is_true(value);
    return 0;
}

/* Member that must be an object; NULL in *ret when absent. */
static int read_object(const json_t *object, const char *name, const json_t **ret) {
    const json_t *value = json_object_get(object, name);
    if (value && !json_is_object(value))
        return MRN_ERR_MALFORMED;
    *ret = value;
    return 0;
}

static int read_array(const json_t *object, const char *name, const json_t **ret) {
    const json_t *value = json_object_get(object, name);
    if (value && json_is_null(value))
        value = NULL;
    if (value && !json_is_array(value))
        return MRN_ERR_MALFORMED;
    *ret = value;
    return 0;
}

static int read_revision(const json_t *object, uint64_t *ret_revision) {
    const json_t *header;
    int error = read_object(object, "header", &header);
    if (error)
        return error;
    return header ? read_number(header, "revision", ret_revision) : MRN_ERR_MALFORMED;
}

static json_t *parse_object(const char *text, size_t bytes) {
    json_error_t where;
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &where);
    if (root && !json_is_object(root)) {
        json_decref(root);
        root = NULL;
    }
    return root;
}

static int read_kv(const json_t *object, struct etcd_memory **memory, struct etcd_kv *kv) {
    if (!json_is_object(object))
        return MRN_ERR_MALFORMED;
    const json_t *key = json_object_get(object, "key");
    const json_t *value = json_object_get(object, "value");
    unsigned char decoded[(ETCD_KEY_MAX + 3) / 3 * 3 + 3];
    size_t count;
    if (!json_is_string(key) || json_string_length(key) > base64_encoded_bytes(ETCD_KEY_MAX) ||
        base64_decode(json_string_value(key), json_string_length(key), decoded, &count) ||
        count > ETCD_KEY_MAX || memchr(decoded, 0, count))
        return MRN_ERR_MALFORMED;
    memcpy(kv->key, decoded, count);
    kv->key[count] = '\0';
    kv->value = "";
    if (value) {
        if (!json_is_string(value))
            return MRN_ERR_MALFORMED;
        size_t length = json_string_length(value);
        unsigned char *bytes = memory_take(memory, length / 4 * 3 + 1, 1);
        if (!bytes)
            return MRN_ERR_NO_MEMORY;
        if (base64_decode(json_string_value(value), length, bytes, &kv->value_bytes))
            return MRN_ERR_MALFORMED;
        bytes[kv->value_bytes] = '\0';
        kv->value = (const char *)bytes;
    }
    if (read_number(object, "create_revision", &kv->create_revision) ||
        read_number(object, "mod_revision", &kv->mod_revision) ||
        read_number(object, "version", &kv->version) || read_number(object, "lease", &kv->lease))
        return MRN_ERR_MALFORMED;
    return 0;
}

static int read_range_response(const json_t *object, struct etcd_memory **memory,
                               struct etcd_response *response) {
    response->kind = ETCD_OP_RANGE;
    const json_t *array;
    if (read_array(object, "kvs", &array) || read_number(object, "count", &response->count) ||
        read_bool(object, "more", &response->more))
        return MRN_ERR_MALFORMED;
    size_t count = json_array_size(array);
    struct etcd_kv *kvs = memory_take(memory, count + 1, sizeof *kvs);
    if (!kvs)
        return MRN_ERR_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        int error = read_kv(json_array_get(array, i), memory, &kvs[i]);
        if (error)
            return error;
    }
    response->kvs = kvs;
    response->kv_count = (uint32_t)count;
    return 0;
}

int etcd_json_read_range(const char *text, size_t bytes, struct etcd_memory **memory,
                         struct etcd_answer *answer) {
    json_t *root = parse_object(text, bytes);
    struct etcd_response *response = memory_take(memory, 1, sizeof *response);
    int error = !root ? MRN_ERR_MALFORMED : !response ? MRN_ERR_NO_MEMORY : 0;
    if (!error)
        error = read_revision(root, &answer->revision);
    if (!error)
        error = read_range_response(root, memory, response);
    if (!error) {
        answer->responses = response;
        answer->response_count = 1;
    }
    json_decref(root);
    return error;
}

static int read_response(const json_t *object, struct etcd_memory **memory,
                         struct etcd_response *response) {
    const json_t *range, *put, *removed;
    if (!json_is_object(object) || read_object(object, "response_range", &range) ||
        read_object(object, "response_put", &put) ||
        read_object(object, "response_delete_range", &removed))
        return MRN_ERR_MALFORMED;
    if (range)
        return read_range_response(range, memory, response);
    if (removed) {
        response->kind = ETCD_OP_DELETE;
        return read_number(removed, "deleted", &response->count);
    }
    response->kind = ETCD_OP_PUT;
    return put ? 0 : MRN_ERR_MALFORMED;
}

static int read_txn_object(const json_t *root, struct etcd_memory **memory,
                           struct etcd_answer *answer) {
    const json_t *array;
    if (read_revision(root, &answer->revision) ||
        read_bool(root, "succeeded", &answer->succeeded) || read_array(root, "responses", &array))
        return MRN_ERR_MALFORMED;
    size_t count = json_array_size(array);
    if (count > ETCD_OPERATIONS_MAX)
        return MRN_ERR_MALFORMED;
    struct etcd_response *responses = memory_take(memory, count + 1, sizeof *responses);
    if (!responses)
        return MRN_ERR_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        int error = read_response(json_array_get(array, i), memory, &responses[i]);
        if (error)
            return error;
    }
    answer->responses = responses;
    answer->response_count = (uint32_t)count;
    return 0;
}

int etcd_json_read_txn(const char *text, size_t bytes, struct etcd_memory **memory,
                       struct etcd_answer *answer) {
    json_t *root = parse_object(text, bytes);
    int error = root ? read_txn_object(root, memory, answer) : MRN_ERR_MALFORMED;
    json_decref(root);
    return error;
}

int etcd_json_read_header(const char *text, size_t bytes, struct etcd_answer *answer) {
    json_t *root = parse_object(text, bytes);
    int error = root ? read_revision(root, &answer->revision) : MRN_ERR_MALFORMED;
    json_decref(root);
    return error;
}

int etcd_json_read_alarms(const char *text, size_t bytes, struct etcd_answer *answer) {
    json_t *root = parse_object(text, bytes);
    int error = root ? 0 : MRN_ERR_MALFORMED; /* it comes without a header */
    const json_t *alarms = root ? json_object_get(root, "alarms") : NULL; /* absent: none */
    if (!error && alarms && !json_is_array(alarms))
        error = MRN_ERR_MALFORMED;
    size_t place;
    const json_t *alarm;
    json_array_foreach(alarms, place, alarm) {
        const char *kind = json_string_value(json_object_get(alarm, "alarm"));
        if (kind && strcmp(kind, "NOSPACE") == 0)
            answer->no_space = true;
    }
    json_decref(root);
    return error;
}

int etcd_json_read_status(const char *text, size_t bytes, struct etcd_answer *answer) {
    json_t *root = parse_object(text, bytes);
    int error = root ? read_revision(root, &answer->revision) : MRN_ERR_MALFORMED;
    if (!error)
        error = read_number(root, "dbSize", &answer->db_bytes);
    json_decref(root);
    return error;
}

int etcd_json_read_lease_grant(const char *text, size_t bytes, struct etcd_answer *answer) {
    json_t *root = parse_object(text, bytes);
    int error = root ? read_revision(root, &answer->revision) : MRN_ERR_MALFORMED;
    if (!error && (read_number(root, "ID", &answer->lease) ||
                   read_number(root, "TTL", &answer->ttl_s) || answer->lease == 0))
        error = MRN_ERR_MALFORMED;
    json_decref(root);
    return error;
}

int etcd_json_read_keep_alive(const char *text, size_t bytes, struct etcd_answer *answer) {
    json_t *root = parse_object(text, bytes);
    const json_t *result = NULL;
    int error = root ? read_object(root, "result", &result) : MRN_ERR_MALFORMED;
    if (!error &&
        (!result || read_revision(result, &answer->revision) ||
         read_number(result, "ID", &answer->lease) || read_number(result, "TTL", &answer->ttl_s)))
        error = MRN_ERR_MALFORMED;
    json_decref(root);
    return error;
}

int etcd_json_read_token(const char *text, size_t bytes, char *ret_token, size_t room) {
    json_t *root = parse_object(text, bytes);
    const char *token = root ? json_string_value(json_object_get(root, "token")) : NULL;
    int error = token && strlen(token) < room && !strpbrk(token, "\r\n") ? 0 : MRN_ERR_MALFORMED;
    if (!error)
        memcpy(ret_token, token, strlen(token) + 1);
    json_decref(root);
    return error;
}

static void copy_text(char *to, size_t room, const char *from) {
    size_t i = 0;
    for (; from[i] && i + 1 < room; i++)
        to[i] = (unsigned char)from[i] < ' ' ? ' ' : from[i];
    to[i] = '\0';
}

void etcd_json_read_error(const char *text, size_t bytes, int *ret_code, char *ret_message,
                          size_t room) {
    json_t *root = parse_object(text, bytes);
    const json_t *body = root;
    size_t printable = 0;
    while (printable < bytes && printable < room && text[printable] >= ' ' &&
           text[printable] <= '~')
        printable++;
    /* On a stream the same object is the member "error". */
    if (json_is_object(json_object_get(root, "error")))
        body = json_object_get(root, "error");
    const json_t *code = json_object_get(body, "code");
    const json_t *message = json_object_get(body, "message");
    if (!code)
        code = json_object_get(body, "grpc_code");
    *ret_code =
        json_is_integer(code) && json_integer_value(code) >= 0 && json_integer_value(code) <= 99
            ? (int)json_integer_value(code)
            : 0;
    if (json_is_string(message))
        copy_text(ret_message, room, json_string_value(message));
    else if (!root && printable > 0) /* etcd's gateway itself answers with a plain line */
        snprintf(ret_message, room, "%.*s", (int)printable, text);
    else
        snprintf(ret_message, room, "answer without a message");
    json_decref(root);
}

static int read_event(const json_t *object, struct etcd_memory **memory, struct etcd_event *event) {
    if (!json_is_object(object))
        return MRN_ERR_MALFORMED;
    const json_t *type = json_object_get(object, "type");
    if (type && !json_is_string(type))
        return MRN_ERR_MALFORMED;
    event->deleted = type && strcmp(json_string_value(type), "DELETE") == 0;
    const json_t *kv = json_object_get(object, "kv");
    return kv ? read_kv(kv, memory, &event->kv) : MRN_ERR_MALFORMED;
}

static int read_watch_result(const json_t *result, struct etcd_memory **memory,
                             struct etcd_json_watch *watch) {
    const json_t *array;
    const json_t *reason = json_object_get(result, "cancel_reason");
    if (read_revision(result, &watch->revision) || read_bool(result, "created", &watch->created) ||
        read_bool(result, "canceled", &watch->canceled) ||
        read_number(result, "compact_revision", &watch->compact_revision) ||
        read_array(result, "events", &array))
        return MRN_ERR_MALFORMED;
    if (watch->canceled)
        copy_text(watch->reason, sizeof watch->reason,
                  json_is_string(reason) ? json_string_value(reason) : "canceled");
    size_t count = json_array_size(array);
    struct etcd_event *events = memory_take(memory, count + 1, sizeof *events);
    if (!events)
        return MRN_ERR_NO_MEMORY;
    for (size_t i = 0; i < count; i++) {
        int error = read_event(json_array_get(array, i), memory, &events[i]);
        if (error)
            return error;
    }
    watch->events = events;
    watch->event_count = (uint32_t)count;
    return 0;
}

int etcd_json_read_watch(const char *text, size_t bytes, struct etcd_memory **memory,
                         struct etcd_json_watch *ret_watch) {
    json_t *root = parse_object(text, bytes);
    if (!root)
        return MRN_ERR_MALFORMED;
    struct etcd_json_watch watch = {0};
    int error = 0;
    const json_t *result = json_object_get(root, "result");
    if (json_is_object(result)) {
        error = read_watch_result(result, memory, &watch);
    } else if (json_object_get(root, "error")) {
        int code;
        watch.canceled = true;
        etcd_json_read_error(text, bytes, &code, watch.reason, sizeof watch.reason);
    } else {
        error = MRN_ERR_MALFORMED;
    }
    if (!error)
        *ret_watch = watch;
    json_decref(root);
    return error;
}
