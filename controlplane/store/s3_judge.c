/* What an answer of S3 means, in words. The codes are those of the S3 API reference, "Error
 * responses", and of Ceph and MinIO where they differ. */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "controlplane/store/s3_internal.h"
#include "controlplane/store/s3_xml.h"
#include "maroon/error.h"

struct refusal {
    char code[64], message[200];
};

static void keep_printable(char *room, size_t room_bytes, const char *text) {
    size_t at = 0;
    for (; *text && at + 1 < room_bytes; text++)
        room[at++] = isprint((unsigned char)*text) ? *text : ' ';
    room[at] = '\0';
}

static void on_element(void *context, const char *parent, const char *name, const char *text) {
    struct refusal *refusal = context;
    if (strcmp(parent, "Error") != 0)
        return;
    if (strcmp(name, "Code") == 0)
        keep_printable(refusal->code, sizeof refusal->code, text);
    else if (strcmp(name, "Message") == 0)
        keep_printable(refusal->message, sizeof refusal->message, text);
}

__attribute__((format(printf, 2, 3))) static void say(char ret_text[OBJECT_TEXT_MAX],
                                                      const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(ret_text, OBJECT_TEXT_MAX, format, arguments);
    va_end(arguments);
}

static bool code_is(const struct refusal *refusal, const char *code) {
    return strcmp(refusal->code, code) == 0;
}

static bool is_full(const struct refusal *refusal, long status) {
    return status == 507 || strstr(refusal->code, "QuotaExceeded") ||
           strstr(refusal->code, "StorageFull") || code_is(refusal, "InsufficientCapacity");
}

static bool is_throttled(const struct refusal *refusal, long status) {
    return status == 429 || code_is(refusal, "SlowDown") || strstr(refusal->code, "Throttl") ||
           code_is(refusal, "RequestLimitExceeded") || code_is(refusal, "TooManyRequests");
}

static bool is_damaged(const struct refusal *refusal) {
    return code_is(refusal, "BadDigest") || code_is(refusal, "XAmzContentSHA256Mismatch") ||
           code_is(refusal, "IncompleteBody") || code_is(refusal, "InvalidDigest");
}

static int judge_denied(struct s3_request *request, const struct refusal *refusal, long status,
                        char *ret_text) {
    const struct s3_store *s3 = request->s3;
    const struct s3_keys *keys = s3_credentials_keys(s3->credentials);
    const char *key = keys ? keys->access_key : "?";
    request->denied =
        !code_is(refusal, "AccessDenied") && !code_is(refusal, "RequestTimeTooSkewed");
    if (code_is(refusal, "SignatureDoesNotMatch"))
        say(ret_text, "s3://%s: wrong credentials: the secret key does not fit access key %s (%s)",
            s3->bucket, key, refusal->code);
    else if (code_is(refusal, "InvalidAccessKeyId"))
        say(ret_text, "s3://%s: wrong credentials: access key %s is not known there (%s)",
            s3->bucket, key, refusal->code);
    else if (code_is(refusal, "RequestTimeTooSkewed"))
        say(ret_text, "s3://%s: this machine's clock is too far from the store's (%s)", s3->bucket,
            refusal->code);
    else if (code_is(refusal, "ExpiredToken") || code_is(refusal, "InvalidToken"))
        say(ret_text, "s3://%s: the session token has expired or is not valid (%s)", s3->bucket,
            refusal->code);
    else
        say(ret_text, "s3://%s: access key %s may not %s %s (HTTP %ld %s)", s3->bucket, key,
            request->method, request->key[0] ? request->key : "the bucket", status, refusal->code);
    return MRN_ERR_DENIED;
}

static int judge_refusal(struct s3_request *request, long status, const struct refusal *refusal,
                         char *ret_text) {
    const struct s3_store *s3 = request->s3;
    const char *what = request->key[0] ? request->key : "the bucket";
    if (is_full(refusal, status)) {
        say(ret_text, "s3://%s: the bucket is full: HTTP %ld %s %s", s3->bucket, status,
            refusal->code, refusal->message);
        return MRN_ERR_NO_SPACE;
    }
    if (code_is(refusal, "NoSuchBucket")) {
        say(ret_text, "s3://%s: the bucket does not exist at %s; make it, or correct store-url",
            s3->bucket, s3->host);
        return MRN_ERR_NO_STORE;
    }
    if (is_throttled(refusal, status)) {
        say(ret_text, "s3://%s: asks to slow down (HTTP %ld %s)", s3->bucket, status,
            refusal->code);
        return MRN_ERR_THROTTLED;
    }
    if (is_damaged(refusal)) {
        say(ret_text, "s3://%s: %s was damaged on the way there (%s)", s3->bucket, what,
            refusal->code);
        return MRN_ERR_CORRUPT;
    }
    if (status == 401 || status == 403 || code_is(refusal, "ExpiredToken") ||
        code_is(refusal, "InvalidToken"))
        return judge_denied(request, refusal, status, ret_text);
    if (status == 404) {
        say(ret_text, "s3://%s: no %s", s3->bucket, what);
        return MRN_ERR_NOT_FOUND;
    }
    if ((status >= 300 && status < 400) || code_is(refusal, "AuthorizationHeaderMalformed")) {
        say(ret_text, "s3://%s: belongs to another region or endpoint than %s, %s: %s", s3->bucket,
            s3->region, s3->host, refusal->message);
        return MRN_ERR_INVALID;
    }
    if (status == 405 || status == 501) {
        say(ret_text, "s3://%s: %s cannot do this (HTTP %ld %s)", s3->bucket, s3->host, status,
            refusal->code);
        return MRN_ERR_UNSUPPORTED;
    }
    if (status == 412 || status == 416) {
        say(ret_text, "s3://%s: %s has changed meanwhile", s3->bucket, what);
        return MRN_ERR_MISMATCH;
    }
    say(ret_text, "s3://%s: %s %s: HTTP %ld %s %s", s3->bucket, request->method, what, status,
        refusal->code, refusal->message);
    if (status >= 500 || status == 408 || code_is(refusal, "RequestTimeout"))
        return MRN_ERR_UNAVAILABLE;
    return status >= 400 ? MRN_ERR_INVALID : MRN_ERR_MALFORMED;
}

static int judge_failure(struct s3_request *request, const struct http_answer *answer,
                         char *ret_text) {
    const struct s3_store *s3 = request->s3;
    const char *what = request->key[0] ? request->key : "the bucket";
    if (answer->error == MRN_ERR_TOO_LARGE) {
        say(ret_text, "s3://%s: %s is larger than allowed", s3->bucket, what);
        return MRN_ERR_TOO_LARGE;
    }
    say(ret_text, "s3://%s: %s %s at %s: %s", s3->bucket, request->method, what, s3->host,
        answer->text);
    return answer->error == MRN_ERR_TIMEOUT ? MRN_ERR_TIMEOUT : MRN_ERR_UNAVAILABLE;
}

int s3_judge(struct s3_request *request, const struct http_answer *answer,
             char ret_text[OBJECT_TEXT_MAX]) {
    ret_text[0] = '\0';
    if (answer->error)
        return judge_failure(request, answer, ret_text);
    struct refusal refusal = {0};
    bool good = answer->status >= 200 && answer->status < 300;
    /* "A 200 OK can contain an error": a copy or the completion of parts that failed late. */
    if (answer->body_bytes && (!good || strcmp(request->method, "POST") == 0))
        (void)s3_xml_walk(answer->body, answer->body_bytes, on_element, &refusal);
    if (good && refusal.code[0])
        return judge_refusal(request, 500, &refusal, ret_text);
    if (!good)
        return judge_refusal(request, answer->status, &refusal, ret_text);
    return request->check ? request->check(request, answer, ret_text) : 0;
}

bool s3_worth_another_try(int error) {
    return error == MRN_ERR_UNAVAILABLE || error == MRN_ERR_TIMEOUT || error == MRN_ERR_THROTTLED ||
           error == MRN_ERR_CORRUPT || error == MRN_ERR_MALFORMED || error == MRN_ERR_MISMATCH;
}

bool s3_etag_fits(const struct http_answer *answer, const char *md5_hex) {
    const char *etag = http_answer_header(answer, "etag");
    const char *encryption = http_answer_header(answer, "x-amz-server-side-encryption");
    /* "Objects encrypted by SSE-C or SSE-KMS have ETags that are not an MD5 digest." */
    if (!etag || (encryption && strncmp(encryption, "aws:kms", 7) == 0) ||
        http_answer_header(answer, "x-amz-server-side-encryption-customer-algorithm"))
        return true;
    if (*etag == '"')
        etag++;
    size_t digits = strspn(etag, "0123456789abcdefABCDEF");
    if (digits != 32 || (etag[32] && etag[32] != '"'))
        return true;
    return strncasecmp(etag, md5_hex, 32) == 0;
}

int64_t s3_time_read(const char *text) {
    struct tm utc = {0};
    return strptime(text, "%Y-%m-%dT%H:%M:%S", &utc) ? (int64_t)timegm(&utc) : 0;
}
