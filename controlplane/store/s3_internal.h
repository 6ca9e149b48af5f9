/* s3_internal: one request to S3 and its retries; jobs, which are made of requests.
 *
 *   waiting --a slot, keys, its share of the upload rate--> sent --+--> done
 *      ^                                                            |
 *      +------- paused (back-off, random) <---- worth another try --+
 *
 * Threads: the loop's. Ownership: a job owns itself until it has called its caller's `done`; a
 * request ends with its `done`; closing the store frees all of both. */
#ifndef MAROON_S3_INTERNAL_H
#define MAROON_S3_INTERNAL_H

#include "controlplane/store/object_store_internal.h"
#include "controlplane/store/s3_credentials.h"
#include "controlplane/store/s3_sign.h"

#define S3_KEY_MAX (2 * OBJECT_NAME_MAX)
#define S3_VALUE_MAX 1100 /* upload ids and list tokens are opaque, up to 1 KiB */
#define S3_QUERY_MAX 5
#define S3_HEADERS_MAX 3
#define S3_HASH_HEADER "x-amz-meta-maroon-blake2b"
#define S3_HASH_HEX 65

struct s3_store;
struct s3_request;

/* The head of every job's own struct. */
struct s3_job {
    struct s3_store *s3;
    struct s3_job *next, *previous;
    void (*free_own)(struct s3_job *job); /* what it holds besides itself; may be NULL */
    object_store_done done;
    void *context;
};

struct s3_request {
    struct s3_store *s3;
    struct s3_job *job;
    struct s3_request *next, *previous;
    enum { S3_WAITING, S3_SENT, S3_PAUSED } state;

    const char *method;
    char key[S3_KEY_MAX]; /* "": the bucket itself */
    struct {
        const char *name;
        char value[S3_VALUE_MAX];
    } query[S3_QUERY_MAX];
    size_t query_count;
    struct {
        const char *name; /* in small letters */
        char value[128];
    } headers[S3_HEADERS_MAX];
    size_t header_count;
    const void *body; /* borrowed */
    size_t body_bytes;
    char body_md5[33]; /* hex; "": none is sent or compared */
    char body_sha256[S3_SHA256_HEX];
    size_t answer_max_bytes;
    uint32_t tag; /* the job's */

    /* Before each try; may change query and headers. May be NULL. */
    void (*prepare)(struct s3_request *request);
    /* A 2xx answer: 0, or an error that is worth a retry (CORRUPT, MALFORMED) or not, with a
     * sentence in ret_text, OBJECT_TEXT_MAX long. May be NULL. */
    int (*check)(struct s3_request *request, const struct http_answer *answer, char *ret_text);
    /* A 2xx answer that broke off, or 412 or 416: what came of it. May be NULL. */
    void (*broken)(struct s3_request *request, const struct http_answer *answer);
    /* The end, once. `answer` is NULL when nothing was sent. */
    void (*done)(struct s3_request *request, int error, const char *text,
                 const struct http_answer *answer);

    uint32_t tries;
    bool paced, denied, keys_read_again, keyless;
    struct http_call *call;
    struct loop_timer timer;
};

struct s3_store {
    struct object_store store;
    struct http_client *http;
    struct s3_credentials *credentials;
    bool https, path_style;
    char host[300]; /* as in the Host header, the bucket in front unless path_style */
    char bucket[64], prefix[OBJECT_NAME_MAX], region[40];
    char *ca_file;
    uint32_t transfers_max, part_bytes, tries_max, retry_first_ms, retry_max_ms, stall_timeout_s;

    struct s3_job *jobs;
    struct s3_request *first, *last; /* open requests, in the order of their start */
    uint32_t sent_count;
    uint64_t calm_ns; /* of the loop's clock: told to slow down, nothing is sent before */
    struct loop_timer pump_timer;
};

/* Of `bytes` bytes, zeroed but for the head; NULL without memory. */
void *s3_job_new(struct object_store *store, size_t bytes, object_store_done done, void *context);
/* Calls the caller's done, then frees the job. answer->bytes is freed unless it was taken. */
void s3_job_end(struct s3_job *job, struct object_store_answer *answer);
void s3_job_free(struct s3_job *job);

/* A request on a key (of the store's prefix and `name`), or on the bucket when name is NULL. NULL
 * without memory. */
struct s3_request *s3_request_new(struct s3_job *job, const char *method, const char *name);
void s3_request_query(struct s3_request *request, const char *name, const char *value);
void s3_request_header(struct s3_request *request, const char *name, const char *value);
void s3_request_body(struct s3_request *request, const void *bytes, size_t count);
void s3_request_start(struct s3_request *request);
void s3_requests_close(struct s3_store *s3);
/* Signs; writes the URL (path-style or not) and the headers "name: value". Returns 0 or
 * MRN_ERR_FULL. In s3_send.c, which hands the request to libcurl as well. */
int s3_request_send(struct s3_request *request, const struct s3_keys *keys,
                    void (*done)(void *context, const struct http_answer *answer));

/* What an answer means: 0, or the error with its sentence. In s3_judge.c. */
int s3_judge(struct s3_request *request, const struct http_answer *answer,
             char ret_text[OBJECT_TEXT_MAX]);
bool s3_worth_another_try(int error);
/* Whether an ETag, with or without quotes, is these 32 hex digits, or is no MD5 at all. */
bool s3_etag_fits(const struct http_answer *answer, const char *md5_hex);
/* Unix time of "2026-01-31T23:59:59.000Z"; 0 when it is none. */
int64_t s3_time_read(const char *text);

void s3_md5_hex(const void *bytes, size_t count, char ret_hex[33]);
void s3_hash_hex(const void *bytes, size_t count, char ret_hex[S3_HASH_HEX]);

int s3_put(struct object_store *store, const char *name, const void *bytes, size_t count,
           bool skip_if_same, object_store_done done, void *context);
int s3_get(struct object_store *store, const char *name, uint64_t max_bytes, bool checked,
           object_store_done done, void *context);
int s3_list(struct object_store *store, const char *prefix,
            void (*each)(void *context, const struct object_store_entry *entry),
            object_store_done done, void *context);
int s3_clean(struct object_store *store, uint64_t older_s, object_store_done done, void *context);

#endif
