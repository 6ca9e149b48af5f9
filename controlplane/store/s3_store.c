/* The object store in S3: opening it, and the calls of a single request. */
#include <arpa/inet.h>
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/store/s3_internal.h"
#include "maroon/error.h"

struct head_job {
    struct s3_job job;
    struct object_store_answer answer;
};

static int check_head(struct s3_request *request, const struct http_answer *answer,
                      char *ret_text) {
    struct head_job *job = (struct head_job *)request->job;
    const char *length = http_answer_header(answer, "content-length");
    const char *modified = http_answer_header(answer, "last-modified");
    char *end = NULL;
    if (length)
        job->answer.size_bytes = strtoull(length, &end, 10);
    if (!length || end == length || *end) {
        snprintf(ret_text, OBJECT_TEXT_MAX, "s3://%s: no size of %s in the answer",
                 request->s3->bucket, request->key);
        return MRN_ERR_MALFORMED;
    }
    time_t modified_s = modified ? curl_getdate(modified, NULL) : -1;
    job->answer.modified_ms = modified_s > 0 ? (uint64_t)modified_s * 1000 : 0;
    return 0;
}

static void on_head(struct s3_request *request, int error, const char *text,
                    const struct http_answer *answer) {
    (void)answer;
    struct head_job *job = (struct head_job *)request->job;
    if (error)
        job->answer = (struct object_store_answer){.error = error, .text = text};
    s3_job_end(&job->job, &job->answer);
}

static int s3_head(struct object_store *store, const char *name, object_store_done done,
                   void *context) {
    struct head_job *job = s3_job_new(store, sizeof *job, done, context);
    struct s3_request *request = job ? s3_request_new(&job->job, "HEAD", name) : NULL;
    if (!request) {
        if (job)
            s3_job_free(&job->job);
        return MRN_ERR_NO_MEMORY;
    }
    request->check = check_head;
    request->done = on_head;
    s3_request_start(request);
    return 0;
}

static void on_removed(struct s3_request *request, int error, const char *text,
                       const struct http_answer *answer) {
    (void)answer;
    bool gone = error == MRN_ERR_NOT_FOUND;
    struct object_store_answer result = {.error = gone ? 0 : error, .text = gone ? "" : text};
    s3_job_end(request->job, &result);
}

static int s3_remove(struct object_store *store, const char *name, object_store_done done,
                     void *context) {
    struct s3_job *job = s3_job_new(store, sizeof *job, done, context);
    struct s3_request *request = job ? s3_request_new(job, "DELETE", name) : NULL;
    if (!request) {
        if (job)
            s3_job_free(job);
        return MRN_ERR_NO_MEMORY;
    }
    request->done = on_removed;
    s3_request_start(request);
    return 0;
}

static void s3_close(struct object_store *store) {
    struct s3_store *s3 = (struct s3_store *)store;
    if (s3->store.loop) {
        loop_timer_clear(s3->store.loop, &s3->pump_timer);
        s3_requests_close(s3);
    }
    while (s3->jobs)
        s3_job_free(s3->jobs);
    s3_credentials_destroy(s3->credentials);
    free(s3->ca_file);
    free(s3);
}

static bool bucket_valid(const char *bucket) {
    size_t count = strspn(bucket, "abcdefghijklmnopqrstuvwxyz0123456789.-");
    return count >= 3 && count <= 63 && !bucket[count] && bucket[0] != '-' && bucket[0] != '.' &&
           bucket[count - 1] != '-' && !strstr(bucket, "..");
}

/* s3://BUCKET[/PREFIX]; the prefix is kept with a '/' at its end. */
static bool take_url(struct s3_store *s3, const char *url) {
    url += strlen("s3://");
    size_t bucket_bytes = strcspn(url, "/");
    if (bucket_bytes >= sizeof s3->bucket)
        return false;
    memcpy(s3->bucket, url, bucket_bytes);
    const char *prefix = url + bucket_bytes;
    while (*prefix == '/')
        prefix++;
    size_t prefix_bytes = strlen(prefix);
    while (prefix_bytes && prefix[prefix_bytes - 1] == '/')
        prefix_bytes--;
    if (prefix_bytes + 2 > sizeof s3->prefix)
        return false;
    if (prefix_bytes) {
        memcpy(s3->prefix, prefix, prefix_bytes);
        if (!object_store_name_valid(s3->prefix, false))
            return false;
        s3->prefix[prefix_bytes] = '/';
    }
    return bucket_valid(s3->bucket);
}

static bool is_address(const char *host, size_t count) {
    char text[64];
    struct in_addr address;
    if (host[0] == '[')
        return true;
    if (count >= sizeof text)
        return false;
    memcpy(text, host, count);
    text[count] = '\0';
    return strcmp(text, "localhost") == 0 || inet_pton(AF_INET, text, &address) == 1;
}

static bool take_endpoint(struct s3_store *s3, const char *endpoint) {
    char aws[128];
    if (!endpoint || !*endpoint) {
        snprintf(aws, sizeof aws, "https://s3.%s.amazonaws.com", s3->region);
        endpoint = aws;
    }
    s3->https = strncmp(endpoint, "https://", 8) == 0;
    if (!s3->https && strncmp(endpoint, "http://", 7) != 0)
        return false;
    const char *host = endpoint + (s3->https ? 8 : 7);
    size_t count = strlen(host);
    if (count && host[count - 1] == '/')
        count--;
    size_t allowed = strspn(host, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                  ".-:[]");
    if (!count || allowed < count)
        return false;
    size_t name_bytes = strcspn(host, ":/");
    if (is_address(host, name_bytes) || (s3->https && strchr(s3->bucket, '.')))
        s3->path_style = true; /* a certificate for *.HOST does not cover a bucket with a dot */
    const char *port = host[0] == '[' ? strstr(host, "]:") : strchr(host, ':');
    const char *usual = s3->https ? ":443" : ":80"; /* libcurl leaves it out of Host */
    if (port && *port == ']')
        port++;
    if (port && (size_t)(host + count - port) == strlen(usual) &&
        memcmp(port, usual, strlen(usual)) == 0)
        count = (size_t)(port - host);
    int written = snprintf(s3->host, sizeof s3->host, "%s%s%.*s", s3->path_style ? "" : s3->bucket,
                           s3->path_style ? "" : ".", (int)count, host);
    return written > 0 && (size_t)written < sizeof s3->host;
}

static bool take_region(struct s3_store *s3, const char *region) {
    if (!region || !*region)
        region = getenv("AWS_REGION");
    if (!region || !*region)
        region = getenv("AWS_DEFAULT_REGION");
    if (!region || !*region)
        region = "us-east-1";
    snprintf(s3->region, sizeof s3->region, "%s", region);
    return strlen(region) < sizeof s3->region &&
           strspn(region, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(region);
}

static uint32_t or_default(uint32_t value, uint32_t usual) {
    return value ? value : usual;
}

int s3_store_open(struct loop *loop, struct http_client *http,
                  const struct object_store_config *config, struct object_store **ret_store,
                  char *ret_text, size_t text_room) {
    static const struct object_store_kind kind = {
        s3_close, s3_put, s3_get, s3_head, s3_list, s3_remove, s3_clean,
    };
    struct s3_store *s3 = calloc(1, sizeof *s3);
    if (!s3)
        return MRN_ERR_NO_MEMORY;
    s3->store.kind = &kind;
    s3->store.loop = loop;
    s3->http = http;
    s3->path_style = config->path_style;
    s3->transfers_max = or_default(config->transfers_max, 16);
    s3->part_bytes = or_default(config->part_bytes, 8 << 20);
    s3->tries_max = or_default(config->tries_max, 6);
    s3->retry_first_ms = or_default(config->retry_first_ms, 200);
    s3->retry_max_ms = or_default(config->retry_max_ms, 10000);
    s3->stall_timeout_s = or_default(config->stall_timeout_s, 15);
    const char *wrong = NULL;
    if (!http)
        wrong = "s3:// needs an HTTP client";
    else if (!take_url(s3, config->url))
        wrong = "the bucket's or the prefix's name is not allowed";
    else if (!take_region(s3, config->region))
        wrong = "store-region is not a region's name";
    else if (!take_endpoint(s3, config->endpoint))
        wrong = "store-endpoint is not http(s)://HOST[:PORT]";
    if (wrong) {
        snprintf(ret_text, text_room, "store URL \"%.200s\": %s", config->url, wrong);
        s3_close(&s3->store);
        return MRN_ERR_INVALID;
    }
    s3->credentials = s3_credentials_create(loop, http, config->credentials_file, config->profile,
                                            config->metadata_url);
    s3->ca_file = strdup(config->ca_file ? config->ca_file : "");
    if (!s3->credentials || !s3->ca_file) {
        s3_close(&s3->store);
        return MRN_ERR_NO_MEMORY;
    }
    *ret_store = &s3->store;
    return 0;
}
