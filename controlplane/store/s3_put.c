/* An upload.
 *
 *   [head: is it there?] --> put --> proven by its ETag
 *   [head] --> seek an unfinished upload --> its parts --+--> parts, several at once --> complete
 *                    \--> begin a new one ---------------+       --> head: proven by size and hash
 *
 * A part found uploaded counts only when its MD5 is that of our bytes; an unfinished upload with
 * another part in it is left alone. The hash of the whole goes with the object as metadata. */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/store/s3_internal.h"
#include "controlplane/store/s3_xml.h"
#include "maroon/error.h"

#define PARTS_AT_ONCE 6
#define PARTS_MAX 10000
#define LIST_BYTES_MAX (4 << 20)

struct part {
    char md5[33];
    bool there;
};

struct found_part { /* the one being read from a list */
    unsigned long number;
    char etag[80];
};

struct put_job {
    struct s3_job job;
    char name[OBJECT_NAME_MAX];
    const uint8_t *bytes;
    size_t count, part_bytes;
    char hash[S3_HASH_HEX];
    bool began_anew;

    char upload_id[S3_VALUE_MAX];
    char open_key[S3_KEY_MAX], open_id[S3_VALUE_MAX]; /* the upload being read from a list */
    struct found_part open_part;
    char marker[24];
    bool truncated, strange; /* a found upload holds a part that is not ours */
    struct part *parts;
    uint32_t part_count, next_part, on_the_way, there_count;
    int error; /* the first of a part; the others are waited for */
    char text[OBJECT_TEXT_MAX];
    char *document; /* the list of parts that completes the upload */
};

static void begin_upload(struct put_job *job);
static void send_parts(struct put_job *job);

static void free_own(struct s3_job *base) {
    struct put_job *job = (struct put_job *)base;
    free(job->parts);
    free(job->document);
}

static void put_end(struct put_job *job, int error, const char *text) {
    struct object_store_answer result = {.error = error, .text = text, .size_bytes = job->count};
    s3_job_end(&job->job, &result);
}

static struct s3_request *new_request(struct put_job *job, const char *method) {
    struct s3_request *request = s3_request_new(&job->job, method, job->name);
    if (!request)
        put_end(job, MRN_ERR_NO_MEMORY, "no memory to upload");
    return request;
}

/* Whether what a HEAD found is our object. */
static bool is_ours(const struct put_job *job, const struct http_answer *answer) {
    const char *length = http_answer_header(answer, "content-length");
    const char *hash = http_answer_header(answer, S3_HASH_HEADER);
    return length && strtoull(length, NULL, 10) == job->count && hash &&
           strcmp(hash, job->hash) == 0;
}

/* --- whole objects --- */

static int check_etag(struct s3_request *request, const struct http_answer *answer,
                      char *ret_text) {
    if (s3_etag_fits(answer, request->body_md5))
        return 0;
    snprintf(ret_text, OBJECT_TEXT_MAX, "s3://%s: %s arrived damaged (its ETag is another)",
             request->s3->bucket, request->key);
    return MRN_ERR_CORRUPT;
}

static void on_put(struct s3_request *request, int error, const char *text,
                   const struct http_answer *answer) {
    (void)answer;
    put_end((struct put_job *)request->job, error, text);
}

static bool put_whole(struct put_job *job) {
    struct s3_request *request = s3_request_new(&job->job, "PUT", job->name);
    if (!request)
        return false;
    s3_request_body(request, job->bytes, job->count);
    s3_request_header(request, S3_HASH_HEADER, job->hash);
    request->check = check_etag;
    request->done = on_put;
    s3_request_start(request);
    return true;
}

/* --- the end of an upload in parts --- */

static void on_proof(struct s3_request *request, int error, const char *text,
                     const struct http_answer *answer) {
    struct put_job *job = (struct put_job *)request->job;
    if (!error && is_ours(job, answer)) {
        put_end(job, 0, "");
        return;
    }
    bool lost = !error || error == MRN_ERR_NOT_FOUND;
    if (lost && !job->began_anew) {
        /* The upload that was taken up was not of these bytes, or was ended by someone else. */
        job->began_anew = true;
        memset(job->parts, 0, job->part_count * sizeof *job->parts);
        begin_upload(job);
        return;
    }
    if (job->error)
        put_end(job, job->error, job->text);
    else if (lost)
        put_end(job, MRN_ERR_CORRUPT,
                "what the store made of the uploaded parts is not the object");
    else
        put_end(job, error, text);
}

static void prove(struct put_job *job) {
    struct s3_request *request = new_request(job, "HEAD");
    if (!request)
        return;
    request->done = on_proof;
    s3_request_start(request);
}

/* Also after an error: the answer to a completion that did happen may have been lost. */
static void on_completed(struct s3_request *request, int error, const char *text,
                         const struct http_answer *answer) {
    (void)answer;
    struct put_job *job = (struct put_job *)request->job;
    if (error == MRN_ERR_DENIED) {
        put_end(job, error, text);
        return;
    }
    job->error = error;
    snprintf(job->text, sizeof job->text, "%s", text);
    prove(job);
}

static void complete(struct put_job *job) {
    static const char head[] = "<CompleteMultipartUpload>", tail[] = "</CompleteMultipartUpload>";
    size_t room = sizeof head + sizeof tail + (size_t)job->part_count * 128, used;
    free(job->document);
    job->document = malloc(room);
    struct s3_request *request = job->document ? new_request(job, "POST") : NULL;
    if (!job->document)
        put_end(job, MRN_ERR_NO_MEMORY, "no memory to upload");
    if (!request)
        return;
    used = (size_t)snprintf(job->document, room, "%s", head);
    for (uint32_t i = 0; i < job->part_count; i++)
        used += (size_t)snprintf(job->document + used, room - used,
                                 "<Part><PartNumber>%u</PartNumber><ETag>\"%s\"</ETag></Part>",
                                 i + 1, job->parts[i].md5);
    used += (size_t)snprintf(job->document + used, room - used, "%s", tail);
    s3_request_query(request, "uploadId", job->upload_id);
    s3_request_body(request, job->document, used);
    request->done = on_completed;
    s3_request_start(request);
}

/* --- parts --- */

/* Keeps the ETag that the server gave: with KMS it is not our MD5, and completing wants it. */
static int check_part(struct s3_request *request, const struct http_answer *answer,
                      char *ret_text) {
    struct put_job *job = (struct put_job *)request->job;
    int error = check_etag(request, answer, ret_text);
    const char *etag = http_answer_header(answer, "etag");
    if (!error && etag) {
        size_t skip = *etag == '"', digits = strspn(etag + skip, "0123456789abcdefABCDEF");
        if (digits == 32)
            snprintf(job->parts[request->tag].md5, sizeof job->parts->md5, "%.32s", etag + skip);
    }
    return error;
}

static void on_part(struct s3_request *request, int error, const char *text,
                    const struct http_answer *answer) {
    (void)answer;
    struct put_job *job = (struct put_job *)request->job;
    job->on_the_way--;
    if (error && !job->error) {
        job->error = error;
        snprintf(job->text, sizeof job->text, "%s", text);
    }
    if (!error) {
        job->parts[request->tag].there = true;
        job->there_count++;
    }
    send_parts(job);
}

static bool send_part(struct put_job *job, uint32_t index) {
    struct s3_request *request = s3_request_new(&job->job, "PUT", job->name);
    char number[12];
    if (!request) {
        job->error = MRN_ERR_NO_MEMORY;
        snprintf(job->text, sizeof job->text, "no memory to upload");
        return false;
    }
    size_t from = (size_t)index * job->part_bytes;
    size_t left = job->count - from;
    snprintf(number, sizeof number, "%u", index + 1);
    s3_request_query(request, "partNumber", number);
    s3_request_query(request, "uploadId", job->upload_id);
    s3_request_body(request, job->bytes + from, left < job->part_bytes ? left : job->part_bytes);
    memcpy(job->parts[index].md5, request->body_md5, sizeof request->body_md5);
    request->tag = index;
    request->check = check_part;
    request->done = on_part;
    job->on_the_way++;
    s3_request_start(request);
    return true;
}

static void send_parts(struct put_job *job) {
    while (!job->error && job->on_the_way < PARTS_AT_ONCE && job->next_part < job->part_count) {
        uint32_t index = job->next_part++;
        if (!job->parts[index].there && !send_part(job, index))
            break;
    }
    if (job->on_the_way)
        return;
    if (!job->error)
        complete(job);
    else if (job->error == MRN_ERR_NOT_FOUND) /* NoSuchUpload: ended, or completed, by another */
        prove(job);
    else
        put_end(job, job->error, job->text);
}

/* --- a new upload --- */

static void on_begin_element(void *context, const char *parent, const char *name,
                             const char *text) {
    struct put_job *job = context;
    if (strcmp(parent, "InitiateMultipartUploadResult") == 0 && strcmp(name, "UploadId") == 0)
        snprintf(job->upload_id, sizeof job->upload_id, "%s", text);
}

static int check_begin(struct s3_request *request, const struct http_answer *answer,
                       char *ret_text) {
    struct put_job *job = (struct put_job *)request->job;
    job->upload_id[0] = '\0';
    if (s3_xml_walk(answer->body, answer->body_bytes, on_begin_element, job) == 0 &&
        job->upload_id[0])
        return 0;
    snprintf(ret_text, OBJECT_TEXT_MAX, "s3://%s: no upload id in the answer", request->s3->bucket);
    return MRN_ERR_MALFORMED;
}

static void on_begun(struct s3_request *request, int error, const char *text,
                     const struct http_answer *answer) {
    (void)answer;
    struct put_job *job = (struct put_job *)request->job;
    if (error)
        put_end(job, error, text);
    else
        send_parts(job);
}

static void begin_upload(struct put_job *job) {
    struct s3_request *request = new_request(job, "POST");
    if (!request)
        return;
    job->next_part = job->there_count = 0;
    job->error = 0;
    s3_request_query(request, "uploads", "");
    s3_request_header(request, S3_HASH_HEADER, job->hash);
    request->check = check_begin;
    request->done = on_begun;
    s3_request_start(request);
}

/* --- the parts of an unfinished upload --- */

static void take_found_part(struct put_job *job) {
    const char *etag = job->open_part.etag;
    char md5[33];
    unsigned long number = job->open_part.number;
    if (number < 1 || number > job->part_count) {
        job->strange = true;
        return;
    }
    size_t from = (number - 1) * job->part_bytes, left = job->count - from;
    s3_md5_hex(job->bytes + from, left < job->part_bytes ? left : job->part_bytes, md5);
    if (*etag == '"')
        etag++;
    if (strncmp(etag, md5, 32) != 0 || (etag[32] && etag[32] != '"')) {
        job->strange = true;
        return;
    }
    struct part *part = &job->parts[number - 1];
    job->there_count += !part->there;
    part->there = true;
    memcpy(part->md5, md5, sizeof md5);
}

static void on_parts_element(void *context, const char *parent, const char *name,
                             const char *text) {
    struct put_job *job = context;
    if (strcmp(parent, "Part") == 0 && strcmp(name, "PartNumber") == 0)
        job->open_part.number = strtoul(text, NULL, 10);
    else if (strcmp(parent, "Part") == 0 && strcmp(name, "ETag") == 0)
        snprintf(job->open_part.etag, sizeof job->open_part.etag, "%s", text);
    else if (strcmp(parent, "ListPartsResult") == 0 && strcmp(name, "Part") == 0) {
        take_found_part(job);
        memset(&job->open_part, 0, sizeof job->open_part);
    } else if (strcmp(parent, "ListPartsResult") == 0 && strcmp(name, "IsTruncated") == 0)
        job->truncated = strcmp(text, "true") == 0;
    else if (strcmp(parent, "ListPartsResult") == 0 && strcmp(name, "NextPartNumberMarker") == 0)
        snprintf(job->marker, sizeof job->marker, "%s", text);
}

static int check_parts(struct s3_request *request, const struct http_answer *answer,
                       char *ret_text) {
    struct put_job *job = (struct put_job *)request->job;
    job->truncated = false;
    if (s3_xml_walk(answer->body, answer->body_bytes, on_parts_element, job) == 0)
        return 0;
    snprintf(ret_text, OBJECT_TEXT_MAX, "s3://%s: the list of parts cannot be read",
             request->s3->bucket);
    return MRN_ERR_MALFORMED;
}

static void seek_parts(struct put_job *job);

static void on_parts(struct s3_request *request, int error, const char *text,
                     const struct http_answer *answer) {
    (void)answer;
    (void)text;
    struct put_job *job = (struct put_job *)request->job;
    if (!error && !job->strange && job->truncated && job->there_count < job->part_count) {
        seek_parts(job);
    } else if (error || job->strange || !job->there_count) {
        memset(job->parts, 0, job->part_count * sizeof *job->parts);
        begin_upload(job);
    } else {
        job->job.s3->store.counters.parts_resumed += job->there_count;
        send_parts(job);
    }
}

static void seek_parts(struct put_job *job) {
    struct s3_request *request = new_request(job, "GET");
    if (!request)
        return;
    s3_request_query(request, "uploadId", job->upload_id);
    if (job->marker[0])
        s3_request_query(request, "part-number-marker", job->marker);
    request->answer_max_bytes = LIST_BYTES_MAX;
    request->check = check_parts;
    request->done = on_parts;
    s3_request_start(request);
}

/* --- an unfinished upload of this name --- */

static void on_uploads_element(void *context, const char *parent, const char *name,
                               const char *text) {
    struct put_job *job = context;
    if (strcmp(parent, "Upload") == 0 && strcmp(name, "Key") == 0) {
        snprintf(job->open_key, sizeof job->open_key, "%s", text);
    } else if (strcmp(parent, "Upload") == 0 && strcmp(name, "UploadId") == 0) {
        snprintf(job->open_id, sizeof job->open_id, "%s", text);
    } else if (strcmp(name, "Upload") == 0) {
        const char *prefix = job->job.s3->prefix; /* the newest comes last */
        if (strncmp(job->open_key, prefix, strlen(prefix)) == 0 &&
            strcmp(job->open_key + strlen(prefix), job->name) == 0)
            memcpy(job->upload_id, job->open_id, sizeof job->upload_id);
        job->open_key[0] = job->open_id[0] = '\0';
    }
}

static int check_uploads(struct s3_request *request, const struct http_answer *answer,
                         char *ret_text) {
    struct put_job *job = (struct put_job *)request->job;
    job->upload_id[0] = '\0';
    if (s3_xml_walk(answer->body, answer->body_bytes, on_uploads_element, job) == 0)
        return 0;
    snprintf(ret_text, OBJECT_TEXT_MAX, "s3://%s: the list of uploads cannot be read",
             request->s3->bucket);
    return MRN_ERR_MALFORMED;
}

/* A store without such a list (501), or one that may not be read, gives nothing to resume. */
static void on_uploads(struct s3_request *request, int error, const char *text,
                       const struct http_answer *answer) {
    (void)answer;
    struct put_job *job = (struct put_job *)request->job;
    if (!error && job->upload_id[0])
        seek_parts(job);
    else if (!error || error == MRN_ERR_UNSUPPORTED || error == MRN_ERR_DENIED ||
             error == MRN_ERR_INVALID || error == MRN_ERR_MALFORMED)
        begin_upload(job);
    else
        put_end(job, error, text);
}

static bool seek_upload(struct put_job *job) {
    struct s3_request *request = s3_request_new(&job->job, "GET", NULL);
    char key[S3_KEY_MAX];
    if (!request)
        return false;
    snprintf(key, sizeof key, "%s%s", job->job.s3->prefix, job->name);
    s3_request_query(request, "uploads", "");
    s3_request_query(request, "prefix", key);
    request->answer_max_bytes = LIST_BYTES_MAX;
    request->check = check_uploads;
    request->done = on_uploads;
    s3_request_start(request);
    return true;
}

/* --- the beginning --- */

/* False without memory; then nothing was started. */
static bool start_upload(struct put_job *job) {
    if (job->count <= job->part_bytes)
        return put_whole(job);
    job->part_count = (uint32_t)((job->count + job->part_bytes - 1) / job->part_bytes);
    job->parts = calloc(job->part_count, sizeof *job->parts);
    return job->parts && seek_upload(job);
}

static void upload(struct put_job *job) {
    if (!start_upload(job))
        put_end(job, MRN_ERR_NO_MEMORY, "no memory to upload");
}

static void on_looked(struct s3_request *request, int error, const char *text,
                      const struct http_answer *answer) {
    struct put_job *job = (struct put_job *)request->job;
    if (!error && is_ours(job, answer)) {
        const char *modified = http_answer_header(answer, "last-modified");
        time_t modified_s = modified ? curl_getdate(modified, NULL) : -1;
        struct object_store_answer result = {
            .error = MRN_ERR_EXISTS,
            .size_bytes = job->count,
            .modified_ms = modified_s > 0 ? (uint64_t)modified_s * 1000 : 0,
        };
        s3_job_end(&job->job, &result);
    } else if (!error || error == MRN_ERR_NOT_FOUND)
        upload(job);
    else
        put_end(job, error, text);
}

int s3_put(struct object_store *store, const char *name, const void *bytes, size_t count,
           bool skip_if_same, object_store_done done, void *context) {
    struct put_job *job = s3_job_new(store, sizeof *job, done, context);
    if (!job)
        return MRN_ERR_NO_MEMORY;
    job->job.free_own = free_own;
    snprintf(job->name, sizeof job->name, "%s", name);
    job->bytes = bytes;
    job->count = count;
    job->part_bytes = job->job.s3->part_bytes;
    if (count / PARTS_MAX >= job->part_bytes)
        job->part_bytes = count / PARTS_MAX + 1;
    s3_hash_hex(bytes, count, job->hash);
    struct s3_request *look = skip_if_same ? s3_request_new(&job->job, "HEAD", name) : NULL;
    if (look) {
        look->done = on_looked;
        s3_request_start(look);
        return 0;
    }
    if (!skip_if_same && start_upload(job))
        return 0;
    s3_job_free(&job->job);
    return MRN_ERR_NO_MEMORY;
}
