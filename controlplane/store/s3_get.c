/* A download. What a broken transfer brought is kept, and the next try asks for the rest, provided
 * that the object is still the same (its ETag). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/store/s3_internal.h"
#include "maroon/error.h"

#define ERROR_BYTES_MAX 16384

struct get_job {
    struct s3_job job;
    uint64_t max_bytes;
    bool checked;
    uint8_t *bytes; /* the first `have` bytes of the object whose ETag is `etag` */
    size_t have;
    char etag[100];
};

static void forget(struct get_job *job) {
    free(job->bytes);
    job->bytes = NULL;
    job->have = 0;
    job->etag[0] = '\0';
}

static void free_own(struct s3_job *job) {
    forget((struct get_job *)job);
}

static void ask_for_the_rest(struct s3_request *request) {
    struct get_job *job = (struct get_job *)request->job;
    char range[40];
    request->header_count = 0;
    uint64_t left = job->max_bytes - job->have;
    request->answer_max_bytes = left > ERROR_BYTES_MAX ? left : ERROR_BYTES_MAX;
    if (!job->have)
        return;
    snprintf(range, sizeof range, "bytes=%zu-", job->have);
    s3_request_header(request, "range", range);
    s3_request_header(request, "if-match", job->etag);
}

/* Takes the body of a 200 or 206 over. Returns false when it does not fit what there is. */
static bool take_body(struct get_job *job, const struct http_answer *answer) {
    const char *range = http_answer_header(answer, "content-range");
    size_t count = answer->body_bytes;
    if (answer->status == 206 && job->have) {
        if (!range || strncmp(range, "bytes ", 6) != 0 ||
            strtoull(range + 6, NULL, 10) != job->have)
            return false;
        uint8_t *grown = realloc(job->bytes, job->have + count + 1);
        if (!grown)
            return false;
        memcpy(grown + job->have, answer->body, count);
        job->bytes = grown;
        job->have += count;
        return true;
    }
    if (answer->status != 200)
        return false;
    forget(job);
    job->bytes = (uint8_t *)http_answer_take_body(answer);
    job->have = count;
    return true;
}

static void keep_the_part(struct s3_request *request, const struct http_answer *answer) {
    struct get_job *job = (struct get_job *)request->job;
    const char *etag = http_answer_header(answer, "etag");
    struct object_store_counters *counters = &request->s3->store.counters;
    counters->downloaded_bytes += answer->status < 300 ? answer->body_bytes : 0;
    if (answer->status >= 300 || !etag || strlen(etag) >= sizeof job->etag ||
        !take_body(job, answer) || job->have > job->max_bytes) {
        forget(job);
        return;
    }
    snprintf(job->etag, sizeof job->etag, "%s", etag);
}

static int check_whole(struct s3_request *request, const struct http_answer *answer,
                       char *ret_text) {
    struct get_job *job = (struct get_job *)request->job;
    const char *hash = http_answer_header(answer, S3_HASH_HEADER);
    char hex[S3_HASH_HEX];
    request->s3->store.counters.downloaded_bytes += answer->body_bytes;
    bool fits = take_body(job, answer);
    if (fits && job->have > job->max_bytes) {
        snprintf(ret_text, OBJECT_TEXT_MAX, "s3://%s: %s is larger than %llu bytes",
                 request->s3->bucket, request->key, (unsigned long long)job->max_bytes);
        return MRN_ERR_TOO_LARGE;
    }
    if (fits && job->checked && hash) {
        s3_hash_hex(job->bytes, job->have, hex);
        fits = strcmp(hash, hex) == 0;
    } else if (fits && job->checked) { /* put there by another program */
        s3_md5_hex(job->bytes, job->have, hex);
        fits = s3_etag_fits(answer, hex);
    }
    if (fits)
        return 0;
    forget(job);
    snprintf(ret_text, OBJECT_TEXT_MAX, "s3://%s: the bytes of %s do not fit their hash",
             request->s3->bucket, request->key);
    return MRN_ERR_CORRUPT;
}

static void on_got(struct s3_request *request, int error, const char *text,
                   const struct http_answer *answer) {
    (void)answer;
    struct get_job *job = (struct get_job *)request->job;
    struct object_store_answer result = {.error = error, .text = text};
    if (!error) {
        result.bytes = job->bytes ? job->bytes : calloc(1, 1);
        result.size_bytes = job->have;
        job->bytes = NULL;
        if (!result.bytes)
            result.error = MRN_ERR_NO_MEMORY;
    }
    s3_job_end(&job->job, &result);
}

int s3_get(struct object_store *store, const char *name, uint64_t max_bytes, bool checked,
           object_store_done done, void *context) {
    struct get_job *job = s3_job_new(store, sizeof *job, done, context);
    struct s3_request *request = job ? s3_request_new(&job->job, "GET", name) : NULL;
    if (!request) {
        if (job)
            s3_job_free(&job->job);
        return MRN_ERR_NO_MEMORY;
    }
    job->job.free_own = free_own;
    job->max_bytes = max_bytes;
    job->checked = checked;
    request->prepare = ask_for_the_rest;
    request->check = check_whole;
    request->broken = keep_the_part;
    request->done = on_got;
    s3_request_start(request);
    return 0;
}
