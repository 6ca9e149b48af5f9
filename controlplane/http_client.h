/* http_client: HTTP calls over libcurl's multi interface, driven by a loop; never blocks.
 *
 *   http_client_call --> (data, as it comes) --> done, exactly once --> the call is gone
 *
 * HTTP/1.1 only, connections kept alive and reused, no proxy, no redirect. Note that libcurl sends
 * a request again by itself when a reused connection turns out to be dead: whoever writes must
 * bear to be applied twice.
 * Threads: the loop's. Ownership: everything in the options is copied or used before the call
 * returns; the answer belongs to the client and ends with the done callback. */
#ifndef MAROON_HTTP_CLIENT_H
#define MAROON_HTTP_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "controlplane/loop.h"

#define HTTP_HEADERS_MAX 16

struct http_client;
struct http_call;

struct http_tls { /* paths, "" or NULL: not set */
    const char *ca_file, *certificate_file, *key_file;
};

struct http_answer {
    int error; /* 0: an answer came, look at status. MRN_ERR_UNAVAILABLE: nothing was sent.
                  _UNKNOWN_OUTCOME: it may have been received. _TOO_LARGE, _TIMEOUT: also unknown */
    long status;
    const char *body; /* NUL-terminated */
    size_t body_bytes;
    uint64_t latency_us;
    const char *text;       /* libcurl's words for a failure, "" otherwise */
    struct http_call *call; /* for the functions below */
};

struct http_options {
    const char *url;
    const char *method; /* NULL: GET without a body, otherwise POST */
    const char *body;
    size_t body_bytes;
    bool body_borrowed; /* not copied: stays the caller's until `done`, or until the client ends */
    uint64_t send_max_bytes_per_s;         /* 0: no limit */
    const char *headers[HTTP_HEADERS_MAX]; /* "Name: value"; NULL ends */
    uint32_t connect_timeout_ms;           /* 0: 1 s */
    uint32_t timeout_ms;                   /* 0: none */
    uint32_t stall_timeout_s;              /* 0: none; ends a transfer without progress this long */
    size_t answer_max_bytes;               /* of the kept body; without `data` */
    bool bulk;                             /* megabytes are to come: larger reads */
    const struct http_tls *tls;
    /* Takes the body of a 200 answer as it comes; returns false to end the call. May call
     * http_client_cancel. */
    bool (*data)(void *context, const char *bytes, size_t count);
    void (*done)(void *context, const struct http_answer *answer);
    void *context;
};

struct http_client *http_client_create(struct loop *loop);
/* Ends all calls without calling `done`. */
void http_client_destroy(struct http_client *client);

/* Returns 0 with *ret_call (may be NULL), or MRN_ERR_NO_MEMORY, MRN_ERR_INVALID. `done` is never
 * called before this returns. */
int http_client_call(struct http_client *client, const struct http_options *options,
                     struct http_call **ret_call);

/* Inside `done`: a header of the answer, NULL when there is none; valid until `done` returns. After
 * a failure the headers are those that came, as is the part of the body. */
const char *http_answer_header(const struct http_answer *answer, const char *name);
/* Inside `done`: hands over the kept body, malloc'ed, NULL when it is empty. */
char *http_answer_take_body(const struct http_answer *answer);

/* Ends a call; `done` will not be called. */
void http_client_cancel(struct http_client *client, struct http_call *call);

#endif
