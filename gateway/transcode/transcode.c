#include "gateway/transcode/transcode.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>
#include <maroon/error.h>
#include <sodium.h>

#define DEPTH_MAX 32

struct context {
    char *error;
    int depth;
};

static int refuse(struct context *c, const char *field, const char *why) {
    snprintf(c->error, TRANSCODE_TEXT_BYTES, "field \"%.80s\": %s", field, why);
    return MRN_ERR_MALFORMED;
}

static void camel(const char *name, char *text, size_t room) {
    size_t at = 0;
    for (bool up = false; *name && at + 1 < room; name++) {
        if (*name == '_') {
            up = true;
            continue;
        }
        text[at++] = up && *name >= 'a' && *name <= 'z' ? (char)(*name - 32) : *name;
        up = false;
    }
    text[at] = 0;
}

static const ProtobufCFieldDescriptor *field_find(const ProtobufCMessageDescriptor *type,
                                                  const char *key) {
    for (unsigned i = 0; i < type->n_fields; i++) {
        char name[96];
        camel(type->fields[i].name, name, sizeof name);
        if (!strcmp(key, name) || !strcmp(key, type->fields[i].name))
            return &type->fields[i];
    }
    return NULL;
}

/* ---- in ---- */

static int take_unsigned(const json_t *value, uint64_t max, uint64_t *ret) {
    if (json_is_integer(value)) {
        if (json_integer_value(value) < 0)
            return -1;
        *ret = (uint64_t)json_integer_value(value);
    } else if (json_is_string(value)) {
        const char *text = json_string_value(value);
        char *end;
        if (*text < '0' || *text > '9')
            return -1;
        errno = 0;
        *ret = strtoull(text, &end, 10);
        if (*end || errno)
            return -1;
    } else
        return -1;
    return *ret > max ? -1 : 0;
}

static int take_signed(const json_t *value, int64_t min, int64_t max, int64_t *ret) {
    if (json_is_integer(value))
        *ret = json_integer_value(value);
    else if (json_is_string(value)) {
        const char *text = json_string_value(value);
        char *end;
        errno = 0;
        *ret = strtoll(text, &end, 10);
        if (end == text || *end || errno || *text == ' ' || *text == '+')
            return -1;
    } else
        return -1;
    return *ret < min || *ret > max ? -1 : 0;
}

static int take_bytes(const char *text, ProtobufCBinaryData *ret) {
    size_t length = strlen(text), used;
    const char *end;
    uint8_t *bytes = malloc(length + 1);
    if (!bytes)
        return -1;
    bool url = strpbrk(text, "-_") != NULL, padded = strchr(text, '=') != NULL;
    int variant =
        url ? (padded ? sodium_base64_VARIANT_URLSAFE : sodium_base64_VARIANT_URLSAFE_NO_PADDING)
            : (padded ? sodium_base64_VARIANT_ORIGINAL : sodium_base64_VARIANT_ORIGINAL_NO_PADDING);
    if (sodium_base642bin(bytes, length + 1, text, length, NULL, &used, &end, variant) || *end) {
        free(bytes);
        return -1;
    }
    *ret = (ProtobufCBinaryData){used, bytes};
    return 0;
}

static int take_message(struct context *c, const ProtobufCMessageDescriptor *type, json_t *object,
                        ProtobufCMessage **ret);

static int take_enum(const ProtobufCEnumDescriptor *type, const json_t *value, int *ret) {
    if (json_is_string(value)) {
        const ProtobufCEnumValue *v =
            protobuf_c_enum_descriptor_get_value_by_name(type, json_string_value(value));
        if (!v)
            return -1;
        *ret = v->value;
        return 0;
    }
    int64_t number;
    if (take_signed(value, INT32_MIN, INT32_MAX, &number))
        return -1;
    *ret = (int)number;
    return 0;
}

/* One value into `at`, which has the field's size. */
static int take_value(struct context *c, const ProtobufCFieldDescriptor *f, json_t *value,
                      void *at) {
    uint64_t u;
    int64_t i;
    switch (f->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        if (take_unsigned(value, UINT32_MAX, &u))
            return refuse(c, f->name, "must be a whole number from 0 to 4294967295");
        *(uint32_t *)at = (uint32_t)u;
        return 0;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        if (take_unsigned(value, UINT64_MAX, &u))
            return refuse(
                c, f->name,
                "must be a whole number from 0 to 18446744073709551615, as a string or a number");
        *(uint64_t *)at = u;
        return 0;
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        if (take_signed(value, INT32_MIN, INT32_MAX, &i))
            return refuse(c, f->name, "must be a whole number of 32 bits");
        *(int32_t *)at = (int32_t)i;
        return 0;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        if (take_signed(value, INT64_MIN, INT64_MAX, &i))
            return refuse(c, f->name, "must be a whole number of 64 bits, as a string or a number");
        *(int64_t *)at = i;
        return 0;
    case PROTOBUF_C_TYPE_BOOL:
        if (!json_is_boolean(value))
            return refuse(c, f->name, "must be true or false");
        *(protobuf_c_boolean *)at = json_is_true(value);
        return 0;
    case PROTOBUF_C_TYPE_ENUM:
        return take_enum(f->descriptor, value, at) ? refuse(c, f->name, "is no value of its enum")
                                                   : 0;
    case PROTOBUF_C_TYPE_FLOAT:
        if (!json_is_number(value))
            return refuse(c, f->name, "must be a number");
        *(float *)at = (float)json_number_value(value);
        return 0;
    case PROTOBUF_C_TYPE_DOUBLE:
        if (!json_is_number(value))
            return refuse(c, f->name, "must be a number");
        *(double *)at = json_number_value(value);
        return 0;
    case PROTOBUF_C_TYPE_STRING: {
        if (!json_is_string(value))
            return refuse(c, f->name, "must be a string");
        char *copy = strdup(json_string_value(value));
        if (!copy)
            return MRN_ERR_NO_MEMORY;
        *(char **)at = copy;
        return 0;
    }
    case PROTOBUF_C_TYPE_BYTES:
        if (!json_is_string(value) || take_bytes(json_string_value(value), at))
            return refuse(c, f->name, "must be a string in base64");
        return 0;
    case PROTOBUF_C_TYPE_MESSAGE: return take_message(c, f->descriptor, value, at);
    }
    return refuse(c, f->name, "has a type this gateway does not know");
}

static size_t value_size(ProtobufCType type) {
    switch (type) {
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
    case PROTOBUF_C_TYPE_ENUM: return 4;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE: return 8;
    case PROTOBUF_C_TYPE_BOOL: return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_MESSAGE: return sizeof(void *);
    case PROTOBUF_C_TYPE_BYTES: return sizeof(ProtobufCBinaryData);
    }
    return 0;
}

static int take_repeated(struct context *c, const ProtobufCFieldDescriptor *f, json_t *array,
                         ProtobufCMessage *message) {
    size_t size = value_size(f->type), count = json_array_size(array);
    if (!json_is_array(array))
        return refuse(c, f->name, "must be an array");
    uint8_t *items = calloc(count ? count : 1, size);
    if (!items)
        return MRN_ERR_NO_MEMORY;
    *(void **)((uint8_t *)message + f->offset) = items;
    size_t *counter = (size_t *)((uint8_t *)message + f->quantifier_offset);
    for (size_t i = 0; i < count; i++) {
        int error = take_value(c, f, json_array_get(array, i), items + i * size);
        if (error)
            return error;
        *counter = i + 1; /* what is counted is freed with the message */
    }
    return 0;
}

static int take_field(struct context *c, const ProtobufCFieldDescriptor *f, json_t *value,
                      ProtobufCMessage *message) {
    if (json_is_null(value))
        return 0;
    if (f->label == PROTOBUF_C_LABEL_REPEATED)
        return take_repeated(c, f, value, message);
    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) {
        uint32_t *which = (uint32_t *)((uint8_t *)message + f->quantifier_offset);
        if (*which)
            return refuse(c, f->name, "another field of its oneof is given too");
        int error = take_value(c, f, value, (uint8_t *)message + f->offset);
        if (!error)
            *which = f->id;
        return error;
    }
    return take_value(c, f, value, (uint8_t *)message + f->offset);
}

static int take_message(struct context *c, const ProtobufCMessageDescriptor *type, json_t *object,
                        ProtobufCMessage **ret) {
    if (!json_is_object(object) || c->depth >= DEPTH_MAX)
        return refuse(c, type->short_name,
                      json_is_object(object) ? "is nested too deep" : "must be an object");
    ProtobufCMessage *message = malloc(type->sizeof_message);
    if (!message)
        return MRN_ERR_NO_MEMORY;
    protobuf_c_message_init(type, message);
    c->depth++;
    int error = 0;
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value) {
        const ProtobufCFieldDescriptor *f = field_find(type, key);
        error = f ? take_field(c, f, value, message) : refuse(c, key, "is unknown");
        if (error)
            break;
    }
    c->depth--;
    if (error)
        protobuf_c_message_free_unpacked(message, NULL);
    else
        *ret = message;
    return error;
}

static int pack(const ProtobufCMessage *message, uint8_t **ret_bytes, size_t *ret_length) {
    size_t length = protobuf_c_message_get_packed_size(message);
    uint8_t *bytes = malloc(length ? length : 1);
    if (!bytes)
        return MRN_ERR_NO_MEMORY;
    *ret_length = protobuf_c_message_pack(message, bytes);
    *ret_bytes = bytes;
    return 0;
}

int gateway_transcode_in(const ProtobufCMessageDescriptor *type, const char *json,
                         size_t json_bytes, uint8_t **ret_bytes, size_t *ret_length_bytes,
                         char *ret_error) {
    struct context c = {.error = ret_error};
    json_error_t where;
    json_t *object =
        json_bytes ? json_loadb(json, json_bytes, JSON_REJECT_DUPLICATES, &where) : json_object();
    if (!object) {
        snprintf(ret_error, TRANSCODE_TEXT_BYTES, "not JSON: %.160s (line %d, column %d)",
                 where.text, where.line, where.column);
        return MRN_ERR_MALFORMED;
    }
    ProtobufCMessage *message = NULL;
    int error = take_message(&c, type, object, &message);
    json_decref(object);
    if (error)
        return error;
    error = pack(message, ret_bytes, ret_length_bytes);
    protobuf_c_message_free_unpacked(message, NULL);
    return error;
}

int gateway_transcode_check(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                            size_t length_bytes, uint8_t **ret_bytes, size_t *ret_length_bytes,
                            char *ret_error) {
    ProtobufCMessage *message = protobuf_c_message_unpack(type, NULL, length_bytes, bytes);
    if (!message) {
        snprintf(ret_error, TRANSCODE_TEXT_BYTES, "the body is not a %s", type->name);
        return MRN_ERR_MALFORMED;
    }
    int error = pack(message, ret_bytes, ret_length_bytes);
    protobuf_c_message_free_unpacked(message, NULL);
    return error;
}

/* ---- out ---- */

static json_t *give_message(const ProtobufCMessage *message);

static json_t *give_number(const char *format, uint64_t u, int64_t i) {
    char text[32];
    if (*format == 'u')
        snprintf(text, sizeof text, "%llu", (unsigned long long)u);
    else
        snprintf(text, sizeof text, "%lld", (long long)i);
    return json_string(text);
}

static json_t *give_bytes(const ProtobufCBinaryData *data) {
    size_t room = sodium_base64_encoded_len(data->len, sodium_base64_VARIANT_ORIGINAL);
    char *text = malloc(room);
    if (!text)
        return NULL;
    sodium_bin2base64(text, room, data->data, data->len, sodium_base64_VARIANT_ORIGINAL);
    json_t *value = json_string(text);
    free(text);
    return value;
}

static json_t *give_value(const ProtobufCFieldDescriptor *f, const void *at) {
    switch (f->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32: return json_integer(*(const uint32_t *)at);
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64: return give_number("u", *(const uint64_t *)at, 0);
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32: return json_integer(*(const int32_t *)at);
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64: return give_number("i", 0, *(const int64_t *)at);
    case PROTOBUF_C_TYPE_BOOL: return json_boolean(*(const protobuf_c_boolean *)at);
    case PROTOBUF_C_TYPE_ENUM: {
        const ProtobufCEnumValue *v =
            protobuf_c_enum_descriptor_get_value(f->descriptor, *(const int *)at);
        return v ? json_string(v->name) : json_integer(*(const int *)at);
    }
    case PROTOBUF_C_TYPE_FLOAT: return json_real((double)*(const float *)at);
    case PROTOBUF_C_TYPE_DOUBLE: return json_real(*(const double *)at);
    case PROTOBUF_C_TYPE_STRING:
        return json_string(*(const char *const *)at ? *(const char *const *)at : "");
    case PROTOBUF_C_TYPE_BYTES: return give_bytes(at);
    case PROTOBUF_C_TYPE_MESSAGE: return give_message(*(const ProtobufCMessage *const *)at);
    }
    return NULL;
}

static json_t *give_field(const ProtobufCFieldDescriptor *f, const ProtobufCMessage *message) {
    const uint8_t *base = (const uint8_t *)message;
    if (f->label == PROTOBUF_C_LABEL_REPEATED) {
        json_t *array = json_array();
        size_t count = *(const size_t *)(base + f->quantifier_offset), size = value_size(f->type);
        const uint8_t *items = *(const uint8_t *const *)(base + f->offset);
        for (size_t i = 0; i < count; i++)
            json_array_append_new(array, give_value(f, items + i * size));
        return array;
    }
    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF &&
        *(const uint32_t *)(base + f->quantifier_offset) != f->id)
        return NULL;
    if (f->type == PROTOBUF_C_TYPE_MESSAGE && !*(const void *const *)(base + f->offset))
        return NULL;
    return give_value(f, base + f->offset);
}

static json_t *give_message(const ProtobufCMessage *message) {
    json_t *object = json_object();
    for (unsigned i = 0; object && i < message->descriptor->n_fields; i++) {
        char name[96];
        camel(message->descriptor->fields[i].name, name, sizeof name);
        json_t *value = give_field(&message->descriptor->fields[i], message);
        if (value)
            json_object_set_new(object, name, value);
    }
    return object;
}

int gateway_transcode_out(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                          size_t length_bytes, char **ret_json) {
    ProtobufCMessage *message = protobuf_c_message_unpack(type, NULL, length_bytes, bytes);
    if (!message)
        return MRN_ERR_MALFORMED;
    json_t *object = give_message(message);
    protobuf_c_message_free_unpacked(message, NULL);
    char *json = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!json)
        return MRN_ERR_NO_MEMORY;
    *ret_json = json;
    return 0;
}
