/* Listing objects, and ending unfinished uploads: both read lists in pages. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "controlplane/store/s3_internal.h"
#include "controlplane/store/s3_xml.h"
#include "maroon/error.h"

#define PAGE_BYTES_MAX (4 << 20) /* a page has at most 1000 entries */
#define TOKEN_MAX S3_VALUE_MAX

struct entry {
    char name[S3_KEY_MAX];
    char upload_id[S3_VALUE_MAX]; /* of an upload; objects leave it empty */
    uint64_t size_bytes;
    int64_t time_s;
};

struct page {
    struct entry *entries;
    size_t count, capacity;
    struct entry open; /* the one being read */
    bool truncated, failed;
    char token[TOKEN_MAX], second_token[TOKEN_MAX];
};

struct list_job {
    struct s3_job job;
    char prefix[OBJECT_NAME_MAX];
    void (*each)(void *context, const struct object_store_entry *entry);
    struct page page;
    char token[TOKEN_MAX], second_token[TOKEN_MAX]; /* where the page began */
    /* clean alone: */
    int64_t before_s;
    size_t next; /* of the page's entries */
};

static int ask_page(struct list_job *job);

static void keep(char *room, size_t room_bytes, const char *text, bool *failed) {
    if ((size_t)snprintf(room, room_bytes, "%s", text) >= room_bytes)
        *failed = true;
}

static void page_add(struct page *page) {
    if (page->count == page->capacity) {
        size_t capacity = page->capacity ? 2 * page->capacity : 64;
        struct entry *grown = realloc(page->entries, capacity * sizeof *grown);
        if (!grown) {
            page->failed = true;
            return;
        }
        page->entries = grown;
        page->capacity = capacity;
    }
    page->entries[page->count++] = page->open;
    memset(&page->open, 0, sizeof page->open);
}

static void on_entry_field(struct page *page, const char *name, const char *text) {
    struct entry *open = &page->open;
    if (strcmp(name, "Key") == 0)
        keep(open->name, sizeof open->name, text, &page->failed);
    else if (strcmp(name, "UploadId") == 0)
        keep(open->upload_id, sizeof open->upload_id, text, &page->failed);
    else if (strcmp(name, "Size") == 0)
        open->size_bytes = strtoull(text, NULL, 10);
    else if (strcmp(name, "LastModified") == 0 || strcmp(name, "Initiated") == 0)
        open->time_s = s3_time_read(text);
}

static void on_element(void *context, const char *parent, const char *name, const char *text) {
    struct page *page = context;
    bool top = strcmp(parent, "ListBucketResult") == 0 ||
               strcmp(parent, "ListMultipartUploadsResult") == 0;
    if (strcmp(parent, "Contents") == 0 || strcmp(parent, "Upload") == 0)
        on_entry_field(page, name, text);
    else if (top && (strcmp(name, "Contents") == 0 || strcmp(name, "Upload") == 0))
        page_add(page);
    else if (top && strcmp(name, "IsTruncated") == 0)
        page->truncated = strcmp(text, "true") == 0;
    else if (top &&
             (strcmp(name, "NextContinuationToken") == 0 || strcmp(name, "NextKeyMarker") == 0))
        keep(page->token, sizeof page->token, text, &page->failed);
    else if (top && strcmp(name, "NextUploadIdMarker") == 0)
        keep(page->second_token, sizeof page->second_token, text, &page->failed);
}

static int check_page(struct s3_request *request, const struct http_answer *answer,
                      char *ret_text) {
    struct list_job *job = (struct list_job *)request->job;
    struct page *page = &job->page;
    page->count = 0;
    page->truncated = page->failed = false;
    page->token[0] = page->second_token[0] = '\0';
    memset(&page->open, 0, sizeof page->open);
    int error = s3_xml_walk(answer->body, answer->body_bytes, on_element, page);
    bool stuck = page->truncated && strcmp(page->token, job->token) == 0 &&
                 strcmp(page->second_token, job->second_token) == 0;
    if (!error && !page->failed && !stuck)
        return 0;
    snprintf(ret_text, OBJECT_TEXT_MAX, "s3://%s: the list it gave cannot be read",
             request->s3->bucket);
    return MRN_ERR_MALFORMED;
}

static void list_end(struct list_job *job, int error, const char *text) {
    struct object_store_answer result = {.error = error, .text = text};
    s3_job_end(&job->job, &result);
}

/* The next page, or the end. */
static void go_on(struct list_job *job) {
    if (!job->page.truncated) {
        list_end(job, 0, "");
        return;
    }
    memcpy(job->token, job->page.token, sizeof job->token);
    memcpy(job->second_token, job->page.second_token, sizeof job->second_token);
    int error = ask_page(job);
    if (error)
        list_end(job, error, "no memory to list");
}

static void remove_next_upload(struct list_job *job);

static void on_upload_ended(struct s3_request *request, int error, const char *text,
                            const struct http_answer *answer) {
    (void)answer;
    struct list_job *job = (struct list_job *)request->job;
    if (error && error != MRN_ERR_NOT_FOUND)
        list_end(job, error, text);
    else
        remove_next_upload(job);
}

static void remove_next_upload(struct list_job *job) {
    size_t prefix_bytes = strlen(job->job.s3->prefix);
    while (job->next < job->page.count) {
        const struct entry *entry = &job->page.entries[job->next++];
        if (entry->time_s > job->before_s || strlen(entry->name) < prefix_bytes)
            continue;
        struct s3_request *request =
            s3_request_new(&job->job, "DELETE", entry->name + prefix_bytes);
        if (!request) {
            list_end(job, MRN_ERR_NO_MEMORY, "no memory to end an unfinished upload");
            return;
        }
        s3_request_query(request, "uploadId", entry->upload_id);
        request->done = on_upload_ended;
        s3_request_start(request);
        return;
    }
    go_on(job);
}

static void on_page(struct s3_request *request, int error, const char *text,
                    const struct http_answer *answer) {
    (void)answer;
    struct list_job *job = (struct list_job *)request->job;
    if (error) {
        list_end(job, error, text);
        return;
    }
    if (!job->each) {
        job->next = 0;
        remove_next_upload(job);
        return;
    }
    size_t prefix_bytes = strlen(job->job.s3->prefix);
    for (size_t i = 0; i < job->page.count; i++) {
        const struct entry *at = &job->page.entries[i];
        if (strncmp(at->name, job->job.s3->prefix, prefix_bytes) != 0)
            continue;
        struct object_store_entry entry = {at->name + prefix_bytes, at->size_bytes,
                                           (uint64_t)at->time_s * 1000};
        if (object_store_name_valid(entry.name, false))
            job->each(job->job.context, &entry);
    }
    go_on(job);
}

static int ask_page(struct list_job *job) {
    struct s3_request *request = s3_request_new(&job->job, "GET", NULL);
    char prefix[S3_KEY_MAX];
    if (!request)
        return MRN_ERR_NO_MEMORY;
    snprintf(prefix, sizeof prefix, "%s%s", job->job.s3->prefix, job->prefix);
    s3_request_query(request, "prefix", prefix);
    if (job->each) {
        s3_request_query(request, "list-type", "2");
        if (job->token[0])
            s3_request_query(request, "continuation-token", job->token);
    } else {
        s3_request_query(request, "uploads", "");
        if (job->token[0])
            s3_request_query(request, "key-marker", job->token);
        if (job->second_token[0])
            s3_request_query(request, "upload-id-marker", job->second_token);
    }
    request->answer_max_bytes = PAGE_BYTES_MAX;
    request->check = check_page;
    request->done = on_page;
    s3_request_start(request);
    return 0;
}

static void free_own(struct s3_job *job) {
    free(((struct list_job *)job)->page.entries);
}

static int start(struct list_job *job) {
    if (!job)
        return MRN_ERR_NO_MEMORY;
    job->job.free_own = free_own;
    int error = ask_page(job);
    if (error)
        s3_job_free(&job->job);
    return error;
}

int s3_list(struct object_store *store, const char *prefix,
            void (*each)(void *context, const struct object_store_entry *entry),
            object_store_done done, void *context) {
    struct list_job *job = s3_job_new(store, sizeof *job, done, context);
    if (job) {
        snprintf(job->prefix, sizeof job->prefix, "%s", prefix);
        job->each = each;
    }
    return start(job);
}

int s3_clean(struct object_store *store, uint64_t older_s, object_store_done done, void *context) {
    struct list_job *job = s3_job_new(store, sizeof *job, done, context);
    if (job)
        job->before_s = (int64_t)time(NULL) - (int64_t)older_s;
    return start(job);
}
