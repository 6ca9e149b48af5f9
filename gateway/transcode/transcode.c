#include "gateway/transcode/transcode.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "gateway/transcode/camel.h"
#include "gateway/transcode/transcode_flat.h"
#include <jansson.h>
#include <maroon/error.h>
#include <sodium.h>

#define DEPTH_MAX 32

struct context {
    char *error;
    int depth;
    bool marked; /* the text has big numbers, marked */
};

static int refuse(struct context *c, const char *field, const char *why) {
    snprintf(c->error, TRANSCODE_TEXT_BYTES, "field \"%.80s\": %s", field, why);
    return MRN_ERR_MALFORMED;
}

static void camel(const char *name, char *text, size_t room) {
    size_t at = 0;
    for (char c; at + 1 < room && (c = camel_next(&name));)
        text[at++] = c;
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

/* The parser's integers are signed. An unquoted whole number of 19 digits or more is therefore
 * handed to it as a string that begins with this mark, a character for private use; a text that
 * contains the character itself, in whatever spelling, is left as it is, so that no string of the
 * client can pass for a number. */
#define MARK "\xee\x80\x80"
#define MARK_BYTES 3
#define BIG_DIGITS 19

static const char *big_digits(const struct context *c, const json_t *value) {
    const char *text = json_string_value(value);
    return c->marked && text && !strncmp(text, MARK, MARK_BYTES) ? text + MARK_BYTES : NULL;
}

struct digits {
    const char *at;
    size_t length;
};

/* The next big whole number of the text from `at` on that stands outside of strings. */
static bool big_next(const char *at, const char *end, struct digits *ret) {
    while (at < end) {
        if (*at == '"') { /* over the string */
            for (at++; at < end && *at != '"'; at++)
                at += *at == '\\';
            at++;
            continue;
        }
        const char *first = at;
        while (at < end && *at && strchr("+-.0123456789eE", *at))
            at++;
        size_t length = (size_t)(at - first);
        const char *digits = first + (length && *first == '-');
        size_t count = (size_t)(at - digits);
        if (count >= BIG_DIGITS && *digits != '0' &&
            count == strspn(digits, "0123456789")) { /* what follows them is no digit */
            *ret = (struct digits){first, length};
            return true;
        }
        at += !length;
    }
    return false;
}

static bool has_mark(const char *json, size_t bytes) {
    if (memmem(json, bytes, MARK, MARK_BYTES))
        return true;
    for (const char *at = json, *end = json + bytes;
         (at = memmem(at, (size_t)(end - at), "\\u", 2)); at += 2)
        if (end - at >= 6 && !strncasecmp(at + 2, "e000", 4))
            return true;
    return false;
}

/* Parses a NUL-terminated copy in which big numbers are marked; NULL when there are none. */
static char *mark_big(const char *json, size_t bytes, size_t *ret_bytes) {
    const char *end = json + bytes, *at = json;
    struct digits d;
    if (!big_next(json, end, &d) || has_mark(json, bytes))
        return NULL;
    char *text = malloc(bytes + bytes / BIG_DIGITS * (MARK_BYTES + 2) + MARK_BYTES + 3), *to = text;
    while (text && big_next(at, end, &d)) {
        to = mempcpy(to, at, (size_t)(d.at - at));
        to = mempcpy(to, "\"" MARK, MARK_BYTES + 1);
        to = mempcpy(to, d.at, d.length);
        *to++ = '"';
        at = d.at + d.length;
    }
    if (!text)
        return NULL;
    to = mempcpy(to, at, (size_t)(end - at));
    *to = 0;
    *ret_bytes = (size_t)(to - text);
    return text;
}

static json_t *parse(struct context *c, const char *json, size_t bytes, json_error_t *ret_where) {
    size_t marked_bytes = 0;
    char *marked = mark_big(json, bytes, &marked_bytes);
    c->marked = marked != NULL;
    json_t *value = json_loadb(marked ? marked : json, marked ? marked_bytes : bytes,
                               JSON_REJECT_DUPLICATES, ret_where);
    free(marked);
    return value;
}

/* Digits of a number given as a string, or as a big number; NULL when it is neither. */
static const char *number_text(const struct context *c, const json_t *value) {
    const char *big = big_digits(c, value);
    return big ? big : json_string_value(value);
}

static int take_real(const struct context *c, const json_t *value, double *ret) {
    static const struct {
        const char *name;
        double value;
    } names[] = {{"NaN", (double)NAN}, {"Infinity", HUGE_VAL}, {"-Infinity", -HUGE_VAL}};
    if (json_is_number(value)) {
        *ret = json_number_value(value);
        return 0;
    }
    const char *text = number_text(c, value);
    for (size_t i = 0; text && i < sizeof names / sizeof names[0]; i++)
        if (!strcmp(text, names[i].name)) {
            *ret = names[i].value;
            return 0;
        }
    if (!text || !*text || text[strspn(text, "+-.0123456789eE")])
        return -1;
    char *end;
    *ret = strtod(text, &end);
    return *end || !isfinite(*ret) ? -1 : 0;
}

static int take_unsigned(const struct context *c, const json_t *value, uint64_t max,
                         uint64_t *ret) {
    if (json_is_integer(value)) {
        if (json_integer_value(value) < 0)
            return -1;
        *ret = (uint64_t)json_integer_value(value);
    } else if (json_is_string(value)) {
        const char *text = number_text(c, value);
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

static int take_signed(const struct context *c, const json_t *value, int64_t min, int64_t max,
                       int64_t *ret) {
    if (json_is_integer(value))
        *ret = json_integer_value(value);
    else if (json_is_string(value)) {
        const char *text = number_text(c, value);
        char *end;
        errno = 0;
        *ret = strtoll(text, &end, 10);
        if (end == text || *end || errno || (*text != '-' && (*text < '0' || *text > '9')))
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

static int take_enum(const struct context *c, const ProtobufCEnumDescriptor *type,
                     const json_t *value, int *ret) {
    if (json_is_string(value) && !big_digits(c, value)) {
        const ProtobufCEnumValue *v =
            protobuf_c_enum_descriptor_get_value_by_name(type, json_string_value(value));
        if (!v)
            return -1;
        *ret = v->value;
        return 0;
    }
    int64_t number;
    if (take_signed(c, value, INT32_MIN, INT32_MAX, &number))
        return -1;
    *ret = (int)number;
    return 0;
}

/* One value into `at`, which has the field's size. */
static int take_value(struct context *c, const ProtobufCFieldDescriptor *f, json_t *value,
                      void *at) {
    uint64_t u;
    int64_t i;
    double d;
    switch (f->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_FIXED32:
        if (take_unsigned(c, value, UINT32_MAX, &u))
            return refuse(c, f->name, "must be a whole number from 0 to 4294967295");
        *(uint32_t *)at = (uint32_t)u;
        return 0;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_FIXED64:
        if (take_unsigned(c, value, UINT64_MAX, &u))
            return refuse(
                c, f->name,
                "must be a whole number from 0 to 18446744073709551615, as a string or a number");
        *(uint64_t *)at = u;
        return 0;
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_SINT32:
    case PROTOBUF_C_TYPE_SFIXED32:
        if (take_signed(c, value, INT32_MIN, INT32_MAX, &i))
            return refuse(c, f->name, "must be a whole number of 32 bits");
        *(int32_t *)at = (int32_t)i;
        return 0;
    case PROTOBUF_C_TYPE_INT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_SFIXED64:
        if (take_signed(c, value, INT64_MIN, INT64_MAX, &i))
            return refuse(c, f->name, "must be a whole number of 64 bits, as a string or a number");
        *(int64_t *)at = i;
        return 0;
    case PROTOBUF_C_TYPE_BOOL:
        if (!json_is_boolean(value))
            return refuse(c, f->name, "must be true or false");
        *(protobuf_c_boolean *)at = json_is_true(value);
        return 0;
    case PROTOBUF_C_TYPE_ENUM:
        return take_enum(c, f->descriptor, value, at)
                   ? refuse(c, f->name, "is no value of its enum")
                   : 0;
    case PROTOBUF_C_TYPE_FLOAT:
        if (take_real(c, value, &d))
            return refuse(c, f->name, "must be a number");
        *(float *)at = (float)d;
        return 0;
    case PROTOBUF_C_TYPE_DOUBLE:
        if (take_real(c, value, &d))
            return refuse(c, f->name, "must be a number");
        *(double *)at = d;
        return 0;
    case PROTOBUF_C_TYPE_STRING: {
        if (!json_is_string(value) || big_digits(c, value))
            return refuse(c, f->name, "must be a string");
        char *copy = strdup(json_string_value(value));
        if (!copy)
            return MRN_ERR_NO_MEMORY;
        *(char **)at = copy;
        return 0;
    }
    case PROTOBUF_C_TYPE_BYTES:
        if (!json_is_string(value) || big_digits(c, value) ||
            take_bytes(json_string_value(value), at))
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
    if (gateway_flat_in(type, json, json_bytes, ret_bytes, ret_length_bytes))
        return 0;
    struct context c = {.error = ret_error};
    json_error_t where = {.line = 0};
    json_t *object = json_bytes ? parse(&c, json, json_bytes, &where) : json_object();
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

/* ---- protobuf in ---- */

static bool varint(const uint8_t **at, const uint8_t *end, uint64_t *ret) {
    *ret = 0;
    for (unsigned shift = 0; shift < 70 && *at < end; shift += 7) {
        uint8_t byte = *(*at)++;
        *ret |= (uint64_t)(byte & 127) << (shift < 64 ? shift : 63);
        if (byte < 128)
            return true;
    }
    return false;
}

/* Nested no deeper than DEPTH_MAX? The library's unpack recurses as deep as the bytes say; what is
 * broken otherwise it finds itself. */
static bool depth_allowed(const ProtobufCMessageDescriptor *type, const uint8_t *at,
                          const uint8_t *end, int depth) {
    uint64_t tag, length;
    if (depth > DEPTH_MAX)
        return false;
    while (at < end && varint(&at, end, &tag)) {
        const ProtobufCFieldDescriptor *f =
            tag >> 3 <= UINT32_MAX
                ? protobuf_c_message_descriptor_get_field(type, (unsigned)(tag >> 3))
                : NULL;
        if ((tag & 7) == 0) {
            if (!varint(&at, end, &length))
                return true;
            continue;
        }
        length = (tag & 7) == 1 ? 8 : 4;
        if ((tag & 7) == 2 && !varint(&at, end, &length))
            return true;
        if (((tag & 7) != 1 && (tag & 7) != 2 && (tag & 7) != 5) || length > (uint64_t)(end - at))
            return true;
        if ((tag & 7) == 2 && f && f->type == PROTOBUF_C_TYPE_MESSAGE &&
            !depth_allowed(f->descriptor, at, at + length, depth + 1))
            return false;
        at += length;
    }
    return true;
}

static ProtobufCMessage *unpack(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                                size_t length_bytes) {
    static const uint8_t none[1];
    bytes = length_bytes ? bytes : none;
    return depth_allowed(type, bytes, bytes + length_bytes, 1)
               ? protobuf_c_message_unpack(type, NULL, length_bytes, bytes)
               : NULL;
}

int gateway_transcode_check(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                            size_t length_bytes, uint8_t **ret_bytes, size_t *ret_length_bytes,
                            char *ret_error) {
    ProtobufCMessage *message = unpack(type, bytes, length_bytes);
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

static json_t *give_real(double value) {
    return isnan(value)   ? json_string("NaN")
           : isinf(value) ? json_string(value > 0 ? "Infinity" : "-Infinity")
                          : json_real(value);
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
    case PROTOBUF_C_TYPE_FLOAT: return give_real((double)*(const float *)at);
    case PROTOBUF_C_TYPE_DOUBLE: return give_real(*(const double *)at);
    case PROTOBUF_C_TYPE_STRING:
        return json_string(*(const char *const *)at ? *(const char *const *)at : "");
    case PROTOBUF_C_TYPE_BYTES: return give_bytes(at);
    case PROTOBUF_C_TYPE_MESSAGE: return give_message(*(const ProtobufCMessage *const *)at);
    }
    return NULL;
}

static bool is_absent(const ProtobufCFieldDescriptor *f, const uint8_t *base) {
    if (f->label == PROTOBUF_C_LABEL_REPEATED)
        return false;
    if (f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF &&
        *(const uint32_t *)(base + f->quantifier_offset) != f->id)
        return true;
    return f->type == PROTOBUF_C_TYPE_MESSAGE && !*(const void *const *)(base + f->offset);
}

/* NULL: no memory, or a string that is not UTF-8. */
static json_t *give_field(const ProtobufCFieldDescriptor *f, const uint8_t *base) {
    if (f->label != PROTOBUF_C_LABEL_REPEATED)
        return give_value(f, base + f->offset);
    json_t *array = json_array();
    size_t count = *(const size_t *)(base + f->quantifier_offset), size = value_size(f->type);
    const uint8_t *items = *(const uint8_t *const *)(base + f->offset);
    for (size_t i = 0; array && i < count; i++)
        if (json_array_append_new(array, give_value(f, items + i * size))) {
            json_decref(array);
            return NULL;
        }
    return array;
}

static json_t *give_message(const ProtobufCMessage *message) {
    json_t *object = json_object();
    for (unsigned i = 0; object && i < message->descriptor->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &message->descriptor->fields[i];
        char name[96];
        if (is_absent(f, (const uint8_t *)message))
            continue;
        camel(f->name, name, sizeof name);
        if (json_object_set_new(object, name, give_field(f, (const uint8_t *)message))) {
            json_decref(object);
            return NULL;
        }
    }
    return object;
}

int gateway_transcode_out(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                          size_t length_bytes, char **ret_json) {
    if (gateway_flat_out(type, bytes, length_bytes, ret_json))
        return 0;
    ProtobufCMessage *message = unpack(type, bytes, length_bytes);
    if (!message)
        return MRN_ERR_MALFORMED;
    json_t *object = give_message(message);
    protobuf_c_message_free_unpacked(message, NULL);
    if (!object)
        return MRN_ERR_MALFORMED;
    char *json = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!json)
        return MRN_ERR_NO_MEMORY;
    *ret_json = json;
    return 0;
}
