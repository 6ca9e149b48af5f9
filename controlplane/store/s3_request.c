#include <assert.h>
#include <md5.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/store/s3_internal.h"
#include "maroon/error.h"
#include "proto/wire_hash.h"

#define RETRY_AFTER_MAX_S 60

static void pump(struct s3_store *s3);

void s3_md5_hex(const void *bytes, size_t count, char ret_hex[33]) {
    MD5_CTX md5;
    unsigned char hash[MD5_DIGEST_LENGTH];
    MD5Init(&md5);
    MD5Update(&md5, bytes, count);
    MD5Final(hash, &md5);
    sodium_bin2hex(ret_hex, 33, hash, sizeof hash);
}

void s3_hash_hex(const void *bytes, size_t count, char ret_hex[S3_HASH_HEX]) {
    struct wire_hash hash = wire_hash_blake2b(bytes, count);
    sodium_bin2hex(ret_hex, S3_HASH_HEX, hash.bytes, sizeof hash.bytes);
}

void *s3_job_new(struct object_store *store, size_t bytes, object_store_done done, void *context) {
    struct s3_store *s3 = (struct s3_store *)store;
    struct s3_job *job = calloc(1, bytes);
    if (!job)
        return NULL;
    job->s3 = s3;
    job->done = done;
    job->context = context;
    job->next = s3->jobs;
    if (job->next)
        job->next->previous = job;
    s3->jobs = job;
    return job;
}

void s3_job_free(struct s3_job *job) {
    if (job->next)
        job->next->previous = job->previous;
    if (job->previous)
        job->previous->next = job->next;
    else
        job->s3->jobs = job->next;
    if (job->free_own)
        job->free_own(job);
    free(job);
}

void s3_job_end(struct s3_job *job, struct object_store_answer *answer) {
    object_store_finish(&job->s3->store, job->done, job->context, answer);
    free(answer->bytes);
    s3_job_free(job);
}

struct s3_request *s3_request_new(struct s3_job *job, const char *method, const char *name) {
    struct s3_request *request = calloc(1, sizeof *request);
    if (!request)
        return NULL;
    request->s3 = job->s3;
    request->job = job;
    request->method = method;
    if (name)
        snprintf(request->key, sizeof request->key, "%s%s", job->s3->prefix, name);
    s3_sha256_hex("", 0, request->body_sha256);
    request->answer_max_bytes = 16384;
    return request;
}

void s3_request_query(struct s3_request *request, const char *name, const char *value) {
    assert(request->query_count < S3_QUERY_MAX);
    request->query[request->query_count].name = name;
    snprintf(request->query[request->query_count++].value, S3_VALUE_MAX, "%s", value);
}

void s3_request_header(struct s3_request *request, const char *name, const char *value) {
    assert(request->header_count < S3_HEADERS_MAX);
    request->headers[request->header_count].name = name;
    snprintf(request->headers[request->header_count++].value, sizeof request->headers[0].value,
             "%s", value);
}

void s3_request_body(struct s3_request *request, const void *bytes, size_t count) {
    request->body = bytes ? bytes : "";
    request->body_bytes = count;
    s3_sha256_hex(request->body, count, request->body_sha256);
    s3_md5_hex(request->body, count, request->body_md5);
}

static void request_free(struct s3_request *request) {
    struct s3_store *s3 = request->s3;
    loop_timer_clear(s3->store.loop, &request->timer);
    if (request->next)
        request->next->previous = request->previous;
    else
        s3->last = request->previous;
    if (request->previous)
        request->previous->next = request->next;
    else
        s3->first = request->next;
    free(request);
}

static void on_pump_timer(void *context) {
    pump(context);
}

static void pump_soon(struct s3_store *s3) {
    loop_timer_set(s3->store.loop, &s3->pump_timer, 0, on_pump_timer, s3);
}

void s3_request_start(struct s3_request *request) {
    struct s3_store *s3 = request->s3;
    request->previous = s3->last;
    if (s3->last)
        s3->last->next = request;
    else
        s3->first = request;
    s3->last = request;
    s3->store.counters.waiting++;
    pump_soon(s3);
}

void s3_requests_close(struct s3_store *s3) {
    while (s3->first) {
        if (s3->first->call)
            http_client_cancel(s3->http, s3->first->call);
        request_free(s3->first);
    }
}

static void request_end(struct s3_request *request, int error, const char *text,
                        const struct http_answer *answer) {
    struct s3_store *s3 = request->s3;
    request->done(request, error, text, answer);
    request_free(request);
    pump_soon(s3);
}

static void on_pause_over(void *context) {
    struct s3_request *request = context;
    request->state = S3_WAITING;
    pump(request->s3);
}

static void pause_request(struct s3_request *request, uint64_t pause_ms) {
    request->state = S3_PAUSED;
    loop_timer_set(request->s3->store.loop, &request->timer, pause_ms, on_pause_over, request);
}

/* Doubled with each failure; a random half of it, so that many nodes do not come back at once. */
static uint64_t back_off_ms(const struct s3_request *request, const struct http_answer *answer) {
    const struct s3_store *s3 = request->s3;
    uint32_t doublings = request->tries - 1 < 16 ? request->tries - 1 : 16;
    uint64_t pause_ms = (uint64_t)s3->retry_first_ms << doublings;
    if (pause_ms > s3->retry_max_ms)
        pause_ms = s3->retry_max_ms;
    pause_ms = pause_ms / 2 + randombytes_uniform((uint32_t)(pause_ms / 2) + 1);
    const char *wish = answer->error ? NULL : http_answer_header(answer, "retry-after");
    unsigned long wish_s = wish ? strtoul(wish, NULL, 10) : 0;
    if (wish_s > RETRY_AFTER_MAX_S)
        wish_s = RETRY_AFTER_MAX_S;
    return pause_ms > wish_s * 1000 ? pause_ms : wish_s * 1000;
}

static void count_answer(struct s3_request *request, int error) {
    struct object_store_counters *counters = &request->s3->store.counters;
    if (error == MRN_ERR_THROTTLED)
        counters->throttled++;
    if (error == MRN_ERR_CORRUPT)
        counters->corrupt++;
}

static void try_again(struct s3_request *request, int error, const struct http_answer *answer) {
    struct s3_store *s3 = request->s3;
    uint64_t pause_ms = back_off_ms(request, answer);
    s3->store.counters.retries++;
    s3->store.counters.waiting++;
    request->paced = false;
    if (error == MRN_ERR_THROTTLED) { /* the whole store goes slower, not this request alone */
        uint64_t until_ns = loop_now_ns(s3->store.loop) + pause_ms * 1000000;
        if (until_ns > s3->calm_ns)
            s3->calm_ns = until_ns;
    }
    pause_request(request, pause_ms);
}

static void on_answer(void *context, const struct http_answer *answer) {
    struct s3_request *request = context;
    struct s3_store *s3 = request->s3;
    char text[OBJECT_TEXT_MAX];
    request->call = NULL;
    s3->sent_count--;
    bool came = answer->status >= 200 && answer->status < 300;
    if (request->broken &&
        ((answer->error && came) || answer->status == 412 || answer->status == 416))
        request->broken(request, answer);
    int error = s3_judge(request, answer, text);
    count_answer(request, error);
    /* Keys that were replaced in their file, or ended early, are read again, once. */
    if (error == MRN_ERR_DENIED && request->denied && !request->keys_read_again) {
        request->keys_read_again = true;
        s3_credentials_expire(s3->credentials);
        s3->store.counters.retries++;
        s3->store.counters.waiting++;
        pause_request(request, s3->retry_first_ms);
    } else if (s3_worth_another_try(error) && request->tries < s3->tries_max) {
        try_again(request, error, answer);
    } else {
        if (s3_worth_another_try(error) && request->tries > 1) {
            size_t used = strlen(text);
            snprintf(text + used, sizeof text - used, "; gave up after %u tries", request->tries);
        }
        request_end(request, error, text, answer);
        return;
    }
    pump_soon(s3);
}

/* NULL when none may be sent now. */
static struct s3_request *next_to_send(struct s3_store *s3) {
    for (struct s3_request *request = s3->first; request; request = request->next)
        if (request->state == S3_WAITING)
            return request;
    return NULL;
}

static struct s3_request *first_keyless(struct s3_store *s3) {
    for (struct s3_request *request = s3->first; request; request = request->next)
        if (request->keyless)
            return request;
    return NULL;
}

static void on_keys(void *context, int error, const char *text) {
    struct s3_store *s3 = context;
    if (!error) {
        pump(s3);
        return;
    }
    /* All that wait for keys now fail with the reason, after retries when the reason may pass. */
    for (struct s3_request *request = s3->first; request; request = request->next)
        request->keyless = request->state == S3_WAITING;
    char sentence[OBJECT_TEXT_MAX];
    snprintf(sentence, sizeof sentence, "s3://%s: %s", s3->bucket, text);
    struct s3_request *request;
    while ((request = first_keyless(s3))) {
        request->keyless = false;
        request->tries++;
        s3->store.counters.waiting--;
        if (error == MRN_ERR_UNAVAILABLE && request->tries < s3->tries_max) {
            struct http_answer none = {.error = error};
            try_again(request, error, &none);
        } else {
            request_end(request, error, sentence, NULL);
        }
    }
}

/* Sends what may be sent. */
static void pump(struct s3_store *s3) {
    uint64_t now_ns = loop_now_ns(s3->store.loop);
    for (;;) {
        struct s3_request *request = next_to_send(s3);
        if (!request || s3->sent_count >= s3->transfers_max)
            return;
        if (s3->calm_ns > now_ns) {
            loop_timer_set(s3->store.loop, &s3->pump_timer, (s3->calm_ns - now_ns) / 1000000 + 1,
                           on_pump_timer, s3);
            return;
        }
        const struct s3_keys *keys = s3_credentials_keys(s3->credentials);
        if (!keys) {
            (void)s3_credentials_want(s3->credentials, on_keys, s3);
            return;
        }
        if (request->body_bytes && !request->paced) {
            request->paced = true;
            uint64_t wait_ms = object_store_upload_delay_ms(&s3->store, request->body_bytes);
            if (wait_ms) {
                pause_request(request, wait_ms);
                continue;
            }
        }
        if (request->prepare)
            request->prepare(request);
        s3->store.counters.waiting--;
        request->tries++;
        int error = s3_request_send(request, keys, on_answer);
        request->state = S3_SENT;
        if (error) {
            request_end(request, error, mrn_error_text(error), NULL);
            return; /* request_end pumps again */
        }
        s3->sent_count++;
        s3->store.counters.requests++;
        s3->store.counters.uploaded_bytes += request->body_bytes;
    }
}
