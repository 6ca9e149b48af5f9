#include "gateway/transcode/transcode_flat.h"

#include <stdlib.h>
#include <string.h>

#include "gateway/transcode/camel.h"
#include "runtime/flat.h"

#define DIGITS_MAX 18 /* any such number fits */
#define NUMBER_MAX_BYTES 20

/* Room for a message of a flat type. */
union flat {
    ProtobufCMessage base;
    uint8_t bytes[sizeof(ProtobufCMessage) + FLAT_FIELDS_MAX * sizeof(uint64_t)];
};

static bool flat_begin(const ProtobufCMessageDescriptor *type, union flat *message) {
    if (!runtime_flat_descriptor(type) || type->sizeof_message > sizeof *message)
        return false;
    protobuf_c_message_init(type, &message->base);
    return true;
}

/* ---- in ---- */

struct text {
    const char *at, *end;
};

static void skip_space(struct text *t) {
    while (t->at < t->end && (*t->at == ' ' || *t->at == '\n' || *t->at == '\r' || *t->at == '\t'))
        t->at++;
}

/* The next sign, space before it aside. */
static bool take(struct text *t, char sign) {
    skip_space(t);
    if (t->at == t->end || *t->at != sign)
        return false;
    t->at++;
    return true;
}

/* Is the key the field's name, as it stands or in lowerCamelCase? */
static bool names(const char *key, size_t length, const char *name) {
    if (strlen(name) == length && memcmp(key, name, length) == 0)
        return true;
    size_t at = 0;
    for (char wanted; (wanted = camel_next(&name));)
        if (at == length || key[at++] != wanted)
            return false;
    return at == length;
}

/* Number of the field that a quoted key names; n_fields: none, or not plain. */
static unsigned take_key(struct text *t, const ProtobufCMessageDescriptor *type) {
    if (!take(t, '"'))
        return type->n_fields;
    const char *key = t->at, *end = memchr(key, '"', (size_t)(t->end - key));
    if (!end)
        return type->n_fields;
    t->at = end + 1;
    unsigned field = 0;
    while (field < type->n_fields && !names(key, (size_t)(end - key), type->fields[field].name))
        field++;
    return field; /* a key with an escape names none */
}

/* A whole number, quoted or not. */
static bool take_number(struct text *t, uint64_t *ret) {
    skip_space(t);
    bool quoted = t->at < t->end && *t->at == '"';
    t->at += quoted;
    const char *digits = t->at;
    for (*ret = 0; t->at < t->end && *t->at >= '0' && *t->at <= '9'; t->at++)
        *ret = *ret * 10 + (uint64_t)(*t->at - '0');
    size_t count = (size_t)(t->at - digits);
    if (count == 0 || count > DIGITS_MAX || (count > 1 && *digits == '0'))
        return false;
    if (!quoted)
        return true; /* a fraction or an exponent is no comma or brace */
    return t->at < t->end && *t->at++ == '"';
}

static bool take_fields(struct text *t, const ProtobufCMessageDescriptor *type,
                        union flat *message) {
    uint32_t seen = 0;
    if (!take(t, '{'))
        return false;
    if (take(t, '}'))
        return true;
    do {
        uint64_t value;
        unsigned field = take_key(t, type);
        if (field == type->n_fields || (seen & UINT32_C(1) << field) || !take(t, ':') ||
            !take_number(t, &value))
            return false;
        seen |= UINT32_C(1) << field;
        memcpy(message->bytes + type->fields[field].offset, &value, sizeof value);
    } while (take(t, ','));
    return take(t, '}');
}

bool gateway_flat_in(const ProtobufCMessageDescriptor *type, const char *json, size_t json_bytes,
                     uint8_t **ret_bytes, size_t *ret_length_bytes) {
    union flat message;
    struct text t = {json, json + json_bytes};
    if (!json_bytes || !flat_begin(type, &message) || !take_fields(&t, type, &message))
        return false;
    skip_space(&t);
    if (t.at != t.end)
        return false;
    uint8_t *bytes = malloc(type->n_fields * FLAT_FIELD_MAX_BYTES + 1);
    if (!bytes)
        return false;
    *ret_length_bytes = runtime_flat_encode(&message.base, bytes);
    *ret_bytes = bytes;
    return true;
}

/* ---- out ---- */

static char *give_name(char *to, const char *name) {
    for (char c; (c = camel_next(&name));)
        *to++ = c;
    return to;
}

static char *give_number(char *to, uint64_t number) {
    char digits[NUMBER_MAX_BYTES];
    size_t at = sizeof digits;
    do
        digits[--at] = (char)('0' + number % 10);
    while (number /= 10);
    return mempcpy(to, digits + at, sizeof digits - at);
}

bool gateway_flat_out(const ProtobufCMessageDescriptor *type, const uint8_t *bytes,
                      size_t length_bytes, char **ret_json) {
    union flat message;
    if (!flat_begin(type, &message) || !runtime_flat_decode(type, &message, bytes, length_bytes))
        return false;
    size_t room = sizeof "{}";
    for (unsigned i = 0; i < type->n_fields; i++)
        room += strlen(type->fields[i].name) + NUMBER_MAX_BYTES + strlen(",\"\":\"\"");
    char *json = malloc(room), *to = json;
    if (!json)
        return false;
    *to++ = '{';
    for (unsigned i = 0; i < type->n_fields; i++) {
        uint64_t value;
        memcpy(&value, message.bytes + type->fields[i].offset, sizeof value);
        if (i)
            *to++ = ',';
        *to++ = '"';
        to = mempcpy(give_name(to, type->fields[i].name), "\":\"", 3);
        to = give_number(to, value);
        *to++ = '"';
    }
    memcpy(to, "}", 2);
    *ret_json = json;
    return true;
}
