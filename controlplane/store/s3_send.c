/* From a request to the bytes that libcurl sends: URL, signature, headers. */
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "controlplane/store/s3_internal.h"
#include "maroon/error.h"

#define CONNECT_TIMEOUT_MS 5000
#define BULK_BYTES 262144 /* answers that may be larger */
#define SIGNED_MAX (S3_HEADERS_MAX + 6)

/* Content-MD5 is Base64 of the hash whose hex we have. */
static void content_md5(const char *hex, char ret_text[32]) {
    unsigned char hash[16];
    size_t count = 0;
    sodium_hex2bin(hash, sizeof hash, hex, 32, NULL, &count, NULL);
    sodium_bin2base64(ret_text, 32, hash, count, sodium_base64_VARIANT_ORIGINAL);
}

struct prepared {
    char path[3 * S3_KEY_MAX + 128], query[3 * S3_VALUE_MAX * 2], url[16384];
    char time[S3_TIME_TEXT], md5[32];
    struct s3_field signed_headers[SIGNED_MAX];
    size_t signed_count;
    char authorization[1024];
    char lines[SIGNED_MAX + 1][S3_TOKEN_MAX + 64];
};

static void add(struct prepared *prepared, const char *name, const char *value) {
    prepared->signed_headers[prepared->signed_count++] = (struct s3_field){name, value};
}

static int sign(struct s3_request *request, const struct s3_keys *keys, struct prepared *prepared) {
    const struct s3_store *s3 = request->s3;
    struct s3_field query[S3_QUERY_MAX];
    for (size_t i = 0; i < request->query_count; i++)
        query[i] = (struct s3_field){request->query[i].name, request->query[i].value};
    char whole[S3_KEY_MAX + 128];
    if (s3->path_style)
        snprintf(whole, sizeof whole, "/%s%s%s", s3->bucket, request->key[0] ? "/" : "",
                 request->key);
    else
        snprintf(whole, sizeof whole, "/%s", request->key);
    if (s3_encode(whole, 1, prepared->path, sizeof prepared->path) < 0)
        return MRN_ERR_FULL;
    s3_time_text((int64_t)time(NULL), prepared->time);
    add(prepared, "host", s3->host);
    add(prepared, "x-amz-date", prepared->time);
    add(prepared, "x-amz-content-sha256", request->body_sha256);
    if (keys->token[0])
        add(prepared, "x-amz-security-token", keys->token);
    if (request->body_md5[0]) {
        content_md5(request->body_md5, prepared->md5);
        add(prepared, "content-md5", prepared->md5);
    }
    for (size_t i = 0; i < request->header_count; i++)
        add(prepared, request->headers[i].name, request->headers[i].value);
    struct s3_signed_request to_sign = {
        .method = request->method,
        .path = prepared->path,
        .query = query,
        .query_count = request->query_count,
        .headers = prepared->signed_headers,
        .header_count = prepared->signed_count,
        .payload_sha256 = request->body_sha256,
        .access_key = keys->access_key,
        .secret_key = keys->secret_key,
        .region = s3->region,
        .service = "s3",
        .time = prepared->time,
    };
    int error = s3_sign(&to_sign, prepared->authorization, sizeof prepared->authorization);
    if (error)
        return error;
    int count =
        s3_encode_query(query, request->query_count, prepared->query, sizeof prepared->query);
    if (count < 0)
        return count;
    count =
        snprintf(prepared->url, sizeof prepared->url, "%s://%s%s%s%s", s3->https ? "https" : "http",
                 s3->host, prepared->path, count ? "?" : "", prepared->query);
    return (size_t)count < sizeof prepared->url ? 0 : MRN_ERR_FULL;
}

int s3_request_send(struct s3_request *request, const struct s3_keys *keys,
                    void (*done)(void *context, const struct http_answer *answer)) {
    struct s3_store *s3 = request->s3;
    struct prepared prepared = {0};
    int error = sign(request, keys, &prepared);
    if (error)
        return error;
    struct http_tls tls = {.ca_file = s3->ca_file};
    bool body = request->body || strcmp(request->method, "POST") == 0;
    struct http_options options = {
        .url = prepared.url,
        .method = request->method,
        .body = body ? (request->body ? request->body : "") : NULL,
        .body_bytes = request->body_bytes,
        .body_borrowed = true,
        .send_max_bytes_per_s = s3->store.upload_bytes_per_s,
        .connect_timeout_ms = CONNECT_TIMEOUT_MS,
        .stall_timeout_s = s3->stall_timeout_s,
        .answer_max_bytes = request->answer_max_bytes,
        .bulk = request->answer_max_bytes > BULK_BYTES,
        .tls = &tls,
        .done = done,
        .context = request,
    };
    size_t at = 0;
    for (size_t i = 0; i < prepared.signed_count; i++) {
        if (strcmp(prepared.signed_headers[i].name, "host") == 0)
            continue; /* libcurl's own */
        snprintf(prepared.lines[at], sizeof prepared.lines[at], "%s: %s",
                 prepared.signed_headers[i].name, prepared.signed_headers[i].value);
        options.headers[at] = prepared.lines[at];
        at++;
    }
    snprintf(prepared.lines[at], sizeof prepared.lines[at], "authorization: %s",
             prepared.authorization);
    options.headers[at] = prepared.lines[at];
    options.headers[at + 1] = "content-type: application/octet-stream";
    return http_client_call(s3->http, &options, &request->call);
}
