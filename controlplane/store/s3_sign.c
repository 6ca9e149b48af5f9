#include "controlplane/store/s3_sign.h"

#include <assert.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "maroon/error.h"

#define CANONICAL_BYTES_MAX 16384
#define SCOPE_BYTES_MAX 128

struct text {
    char *at;
    size_t used, room;
    bool full;
};

__attribute__((format(printf, 2, 3))) static void text_add(struct text *text, const char *format,
                                                           ...) {
    va_list arguments;
    va_start(arguments, format);
    int count = vsnprintf(text->at + text->used, text->room - text->used, format, arguments);
    va_end(arguments);
    if (count < 0 || (size_t)count >= text->room - text->used)
        text->full = true;
    else
        text->used += (size_t)count;
}

static void to_hex(const unsigned char *bytes, size_t count, char *ret_hex) {
    sodium_bin2hex(ret_hex, count * 2 + 1, bytes, count);
}

void s3_sha256_hex(const void *bytes, size_t count, char ret_hex[S3_SHA256_HEX]) {
    unsigned char hash[crypto_hash_sha256_BYTES];
    crypto_hash_sha256(hash, bytes, count);
    to_hex(hash, sizeof hash, ret_hex);
}

void s3_time_text(int64_t unix_s, char ret_time[S3_TIME_TEXT]) {
    time_t seconds = (time_t)unix_s;
    struct tm utc;
    gmtime_r(&seconds, &utc);
    size_t count = strftime(ret_time, S3_TIME_TEXT, "%Y%m%dT%H%M%SZ", &utc);
    assert(count == S3_TIME_TEXT - 1);
    (void)count;
}

static bool is_unreserved(char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '.' || c == '_' || c == '~';
}

int s3_encode(const char *text, int keep_slash, char *ret_text, size_t room) {
    struct text out = {.at = ret_text, .room = room};
    if (room)
        ret_text[0] = '\0';
    for (; *text; text++) {
        if (is_unreserved(*text) || (*text == '/' && keep_slash))
            text_add(&out, "%c", *text);
        else
            text_add(&out, "%%%02X", (unsigned)(unsigned char)*text);
    }
    return out.full ? MRN_ERR_FULL : (int)out.used;
}

static int compare_fields(const void *left, const void *right) {
    const struct s3_field *a = left, *b = right;
    int order = strcmp(a->name, b->name);
    return order ? order : strcmp(a->value, b->value);
}

int s3_encode_query(struct s3_field *query, size_t count, char *ret_text, size_t room) {
    struct text out = {.at = ret_text, .room = room};
    char name[256], value[4096];
    ret_text[0] = '\0';
    if (count)
        qsort(query, count, sizeof *query, compare_fields);
    for (size_t i = 0; i < count; i++) {
        if (s3_encode(query[i].name, 0, name, sizeof name) < 0 ||
            s3_encode(query[i].value, 0, value, sizeof value) < 0)
            return MRN_ERR_FULL;
        text_add(&out, "%s%s=%s", i ? "&" : "", name, value);
    }
    return out.full ? MRN_ERR_FULL : (int)out.used;
}

/* "Convert sequential spaces to a single space", none at the ends. */
static void add_header_value(struct text *out, const char *value) {
    while (*value == ' ')
        value++;
    for (; *value; value++) {
        if (*value == ' ' && (value[1] == ' ' || !value[1]))
            continue;
        text_add(out, "%c", *value);
    }
}

static void add_signed_names(struct text *out, const struct s3_signed_request *request) {
    for (size_t i = 0; i < request->header_count; i++)
        text_add(out, "%s%s", i ? ";" : "", request->headers[i].name);
}

static int s3_sign_canonical(struct s3_signed_request *request, char *ret_text, size_t room) {
    char query[8192];
    int error = s3_encode_query(request->query, request->query_count, query, sizeof query);
    if (error < 0)
        return error;
    if (request->header_count)
        qsort(request->headers, request->header_count, sizeof *request->headers, compare_fields);
    struct text out = {.at = ret_text, .room = room};
    text_add(&out, "%s\n%s\n%s\n", request->method, request->path, query);
    for (size_t i = 0; i < request->header_count; i++) {
        text_add(&out, "%s:", request->headers[i].name);
        add_header_value(&out, request->headers[i].value);
        text_add(&out, "\n");
    }
    text_add(&out, "\n");
    add_signed_names(&out, request);
    text_add(&out, "\n%s", request->payload_sha256);
    return out.full ? MRN_ERR_FULL : 0;
}

static void scope_of(const struct s3_signed_request *request, char ret_scope[SCOPE_BYTES_MAX]) {
    snprintf(ret_scope, SCOPE_BYTES_MAX, "%.8s/%s/%s/aws4_request", request->time, request->region,
             request->service);
}

static int s3_sign_string_to_sign(const struct s3_signed_request *request, const char *canonical,
                                  char *ret_text, size_t room) {
    char scope[SCOPE_BYTES_MAX], hash[S3_SHA256_HEX];
    scope_of(request, scope);
    s3_sha256_hex(canonical, strlen(canonical), hash);
    struct text out = {.at = ret_text, .room = room};
    text_add(&out, "AWS4-HMAC-SHA256\n%s\n%s\n%s", request->time, scope, hash);
    return out.full ? MRN_ERR_FULL : 0;
}

/* In place: `key` may be the result. */
static void hmac(const void *key, size_t key_bytes, const char *text, size_t text_bytes,
                 unsigned char ret_mac[crypto_auth_hmacsha256_BYTES]) {
    crypto_auth_hmacsha256_state state;
    crypto_auth_hmacsha256_init(&state, key, key_bytes);
    crypto_auth_hmacsha256_update(&state, (const unsigned char *)text, text_bytes);
    crypto_auth_hmacsha256_final(&state, ret_mac);
}

static void signature_of(const struct s3_signed_request *request, const char *to_sign,
                         char ret_hex[S3_SHA256_HEX]) {
    char first[256];
    unsigned char key[crypto_auth_hmacsha256_BYTES];
    int count = snprintf(first, sizeof first, "AWS4%s", request->secret_key);
    assert(count > 0 && (size_t)count < sizeof first);
    hmac(first, (size_t)count, request->time, 8, key);
    hmac(key, sizeof key, request->region, strlen(request->region), key);
    hmac(key, sizeof key, request->service, strlen(request->service), key);
    hmac(key, sizeof key, "aws4_request", strlen("aws4_request"), key);
    hmac(key, sizeof key, to_sign, strlen(to_sign), key);
    to_hex(key, sizeof key, ret_hex);
    sodium_memzero(first, sizeof first);
    sodium_memzero(key, sizeof key);
}

int s3_sign(struct s3_signed_request *request, char *ret_authorization, size_t room) {
    char canonical[CANONICAL_BYTES_MAX], to_sign[512], scope[SCOPE_BYTES_MAX];
    char signature[S3_SHA256_HEX];
    int error = s3_sign_canonical(request, canonical, sizeof canonical);
    if (!error)
        error = s3_sign_string_to_sign(request, canonical, to_sign, sizeof to_sign);
    if (error)
        return error;
    scope_of(request, scope);
    signature_of(request, to_sign, signature);
    struct text out = {.at = ret_authorization, .room = room};
    text_add(&out, "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=", request->access_key, scope);
    add_signed_names(&out, request);
    text_add(&out, ", Signature=%s", signature);
    return out.full ? MRN_ERR_FULL : 0;
}
