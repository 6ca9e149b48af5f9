#include "controlplane/http_client.h"

#include <assert.h>
#include <curl/curl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "maroon/error.h"

#define CONNECTIONS_KEPT 32
#define BULK_READ_BYTES 262144

struct http_call {
    struct http_client *client;
    struct http_call *next, *previous;
    CURL *easy;
    struct curl_slist *headers;
    char *request_body, *answer_body;
    size_t answer_bytes, answer_capacity, answer_max_bytes;
    bool too_large, cancelled;
    bool (*data)(void *context, const char *bytes, size_t count);
    void (*done)(void *context, const struct http_answer *answer);
    void *context;
    char text[CURL_ERROR_SIZE];
};

struct http_client {
    struct loop *loop;
    CURLM *multi;
    struct http_call *calls;
    struct loop_timer timer;
    struct loop_timer reap_timer;
    int inside; /* > 0 while libcurl is on the stack: its handles must not be removed then */
};

static void collect_finished(struct http_client *client);

static void on_socket_ready(void *context, int fd, uint32_t events) {
    struct http_client *client = context;
    int mask = (events & EPOLLIN ? CURL_CSELECT_IN : 0) |
               (events & EPOLLOUT ? CURL_CSELECT_OUT : 0) |
               (events & (EPOLLERR | EPOLLHUP) ? CURL_CSELECT_ERR : 0);
    int running;
    client->inside++;
    CURLMcode code = curl_multi_socket_action(client->multi, fd, mask, &running);
    client->inside--;
    assert(code == CURLM_OK);
    (void)code;
    collect_finished(client);
}

static void on_timer(void *context) {
    struct http_client *client = context;
    int running;
    client->inside++;
    CURLMcode code = curl_multi_socket_action(client->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    client->inside--;
    assert(code == CURLM_OK);
    (void)code;
    collect_finished(client);
}

static int socket_wanted(CURL *easy, curl_socket_t fd, int what, void *context, void *socket) {
    (void)easy;
    (void)socket;
    struct http_client *client = context;
    if (what == CURL_POLL_REMOVE) {
        loop_fd_clear(client->loop, fd);
        return 0;
    }
    uint32_t events = (what & CURL_POLL_IN ? (uint32_t)EPOLLIN : 0) |
                      (what & CURL_POLL_OUT ? (uint32_t)EPOLLOUT : 0);
    return loop_fd_set(client->loop, fd, events, on_socket_ready, client) ? -1 : 0;
}

static int timer_wanted(CURLM *multi, long timeout_ms, void *context) {
    (void)multi;
    struct http_client *client = context;
    if (timeout_ms < 0)
        loop_timer_clear(client->loop, &client->timer);
    else
        loop_timer_set(client->loop, &client->timer, (uint64_t)timeout_ms, on_timer, client);
    return 0;
}

struct http_client *http_client_create(struct loop *loop) {
    struct http_client *client = calloc(1, sizeof *client);
    if (!client)
        return NULL;
    client->loop = loop;
    client->multi = curl_multi_init();
    if (!client->multi ||
        curl_multi_setopt(client->multi, CURLMOPT_SOCKETFUNCTION, socket_wanted) ||
        curl_multi_setopt(client->multi, CURLMOPT_SOCKETDATA, client) ||
        curl_multi_setopt(client->multi, CURLMOPT_TIMERFUNCTION, timer_wanted) ||
        curl_multi_setopt(client->multi, CURLMOPT_TIMERDATA, client) ||
        curl_multi_setopt(client->multi, CURLMOPT_MAXCONNECTS, (long)CONNECTIONS_KEPT) ||
        curl_multi_setopt(client->multi, CURLMOPT_PIPELINING, CURLPIPE_NOTHING)) {
        http_client_destroy(client);
        return NULL;
    }
    return client;
}

static void call_free(struct http_call *call) {
    if (call->easy) {
        curl_multi_remove_handle(call->client->multi, call->easy);
        curl_easy_cleanup(call->easy);
    }
    curl_slist_free_all(call->headers);
    free(call->request_body);
    free(call->answer_body);
    free(call);
}

static void call_unlink(struct http_call *call) {
    if (call->next)
        call->next->previous = call->previous;
    if (call->previous)
        call->previous->next = call->next;
    else
        call->client->calls = call->next;
}

void http_client_destroy(struct http_client *client) {
    if (!client)
        return;
    assert(client->inside == 0);
    while (client->calls) {
        struct http_call *call = client->calls;
        assert(!call->previous);
        call_unlink(call);
        call_free(call);
    }
    if (client->multi)
        curl_multi_cleanup(client->multi);
    loop_timer_clear(client->loop, &client->timer);
    loop_timer_clear(client->loop, &client->reap_timer);
    free(client);
}

static bool answer_append(struct http_call *call, const char *bytes, size_t count) {
    if (count > call->answer_max_bytes - call->answer_bytes) {
        call->too_large = true;
        return false;
    }
    if (call->answer_bytes + count + 1 > call->answer_capacity) {
        size_t capacity = (call->answer_bytes + count + 1) * 2;
        curl_off_t told = -1; /* by content-length: room for all at once */
        curl_easy_getinfo(call->easy, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &told);
        if (told > 0 && (uint64_t)told <= call->answer_max_bytes &&
            (size_t)told >= call->answer_bytes + count)
            capacity = (size_t)told + 1;
        char *grown = realloc(call->answer_body, capacity);
        if (!grown)
            return false;
        call->answer_body = grown;
        call->answer_capacity = capacity;
    }
    memcpy(call->answer_body + call->answer_bytes, bytes, count);
    call->answer_bytes += count;
    call->answer_body[call->answer_bytes] = '\0';
    return true;
}

static size_t on_body(char *bytes, size_t size, size_t count, void *context) {
    struct http_call *call = context;
    size_t total = size * count;
    if (call->cancelled)
        return total ? 0 : 1;
    long status = 0;
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    bool more = call->data && status == 200 ? call->data(call->context, bytes, total)
                                            : answer_append(call, bytes, total);
    return more ? total : (total ? 0 : 1); /* anything but total ends the transfer */
}

static CURLcode configure_request(struct http_call *call, const struct http_options *options) {
    CURL *easy = call->easy;
    CURLcode bad = CURLE_OK;
    if (options->body) {
        const char *body = options->body;
        if (!options->body_borrowed) {
            call->request_body = malloc(options->body_bytes + 1);
            if (!call->request_body)
                return CURLE_OUT_OF_MEMORY;
            memcpy(call->request_body, options->body, options->body_bytes);
            body = call->request_body;
        }
        bad |= curl_easy_setopt(easy, CURLOPT_POST, 1L);
        bad |= curl_easy_setopt(easy, CURLOPT_POSTFIELDS, body);
        bad |= curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)options->body_bytes);
    }
    if (options->method && strcmp(options->method, "HEAD") == 0)
        bad |= curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);
    else if (options->method)
        bad |= curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, options->method);
    if (options->send_max_bytes_per_s)
        bad |= curl_easy_setopt(easy, CURLOPT_MAX_SEND_SPEED_LARGE,
                                (curl_off_t)options->send_max_bytes_per_s);
    return bad;
}

static int call_configure(struct http_call *call, const struct http_options *options) {
    CURL *easy = call->easy;
    for (int i = 0; i < HTTP_HEADERS_MAX && options->headers[i]; i++) {
        struct curl_slist *longer = curl_slist_append(call->headers, options->headers[i]);
        if (!longer)
            return MRN_ERR_NO_MEMORY;
        call->headers = longer;
    }
    struct curl_slist *longer = curl_slist_append(call->headers, "Expect:");
    if (!longer)
        return MRN_ERR_NO_MEMORY;
    call->headers = longer;
    long connect_ms = options->connect_timeout_ms ? (long)options->connect_timeout_ms : 1000;
    CURLcode bad = curl_easy_setopt(easy, CURLOPT_URL, options->url);
    bad |= curl_easy_setopt(easy, CURLOPT_HTTPHEADER, call->headers);
    bad |= curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    bad |= curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    bad |= curl_easy_setopt(easy, CURLOPT_PROXY, ""); /* no proxy from the environment */
    bad |= curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    bad |= curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms);
    bad |= curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, (long)options->timeout_ms);
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
    bad |= curl_easy_setopt(easy, CURLOPT_WRITEDATA, call);
    bad |= curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, call->text);
    bad |= curl_easy_setopt(easy, CURLOPT_PRIVATE, call);
    if (options->bulk)
        bad |= curl_easy_setopt(easy, CURLOPT_BUFFERSIZE, (long)BULK_READ_BYTES);
    if (options->stall_timeout_s) {
        bad |= curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
        bad |= curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, (long)options->stall_timeout_s);
    }
    bad |= curl_easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    CURLcode refused = configure_request(call, options);
    if (refused == CURLE_OUT_OF_MEMORY)
        return MRN_ERR_NO_MEMORY;
    bad |= refused;
    const struct http_tls *tls = options->tls;
    if (tls && tls->ca_file && *tls->ca_file)
        bad |= curl_easy_setopt(easy, CURLOPT_CAINFO, tls->ca_file);
    if (tls && tls->certificate_file && *tls->certificate_file)
        bad |= curl_easy_setopt(easy, CURLOPT_SSLCERT, tls->certificate_file);
    if (tls && tls->key_file && *tls->key_file)
        bad |= curl_easy_setopt(easy, CURLOPT_SSLKEY, tls->key_file);
    return bad ? MRN_ERR_INVALID : 0;
}

int http_client_call(struct http_client *client, const struct http_options *options,
                     struct http_call **ret_call) {
    struct http_call *call = calloc(1, sizeof *call);
    if (!call)
        return MRN_ERR_NO_MEMORY;
    call->client = client;
    call->data = options->data;
    call->done = options->done;
    call->context = options->context;
    call->answer_max_bytes = options->answer_max_bytes ? options->answer_max_bytes : 65536;
    call->easy = curl_easy_init();
    int error = call->easy ? call_configure(call, options) : MRN_ERR_NO_MEMORY;
    if (!error && curl_multi_add_handle(client->multi, call->easy) != CURLM_OK)
        error = MRN_ERR_NO_MEMORY;
    if (error) {
        call_free(call);
        return error;
    }
    call->next = client->calls;
    if (call->next)
        call->next->previous = call;
    client->calls = call;
    if (ret_call)
        *ret_call = call;
    return 0;
}

static void reap_cancelled(void *context) {
    struct http_client *client = context;
    for (struct http_call *call = client->calls, *next; call; call = next) {
        next = call->next;
        if (call->cancelled) {
            call_unlink(call);
            call_free(call);
        }
    }
}

void http_client_cancel(struct http_client *client, struct http_call *call) {
    call->cancelled = true;
    call->done = NULL;
    if (client->inside)
        loop_timer_set(client->loop, &client->reap_timer, 0, reap_cancelled, client);
    else
        reap_cancelled(client);
}

/* Whether libcurl failed before any byte of the request could leave. The count covers its own
 * repeats: a request that went out on a kept connection that died, and then found nobody listening,
 * was sent. */
static bool never_sent(CURL *easy) {
    long request_bytes = 0;
    curl_easy_getinfo(easy, CURLINFO_REQUEST_SIZE, &request_bytes);
    return request_bytes == 0;
}

static int call_error(const struct http_call *call, CURLcode code) {
    if (code == CURLE_OK)
        return 0;
    if (call->too_large)
        return MRN_ERR_TOO_LARGE;
    if (never_sent(call->easy))
        return MRN_ERR_UNAVAILABLE;
    return code == CURLE_OPERATION_TIMEDOUT ? MRN_ERR_TIMEOUT : MRN_ERR_UNKNOWN_OUTCOME;
}

static void call_finish(struct http_call *call, CURLcode code) {
    curl_off_t total_us = 0;
    long status = 0;
    curl_easy_getinfo(call->easy, CURLINFO_TOTAL_TIME_T, &total_us);
    curl_easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &status);
    struct http_answer answer = {
        .error = call_error(call, code),
        .status = status,
        .body = call->answer_body ? call->answer_body : "",
        .body_bytes = call->answer_bytes,
        .latency_us = (uint64_t)total_us,
        .text = code == CURLE_OK ? "" : (call->text[0] ? call->text : curl_easy_strerror(code)),
        .call = call,
    };
    call_unlink(call);
    if (call->done)
        call->done(call->context, &answer);
    call_free(call);
}

const char *http_answer_header(const struct http_answer *answer, const char *name) {
    struct curl_header *header = NULL;
    if (curl_easy_header(answer->call->easy, name, 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
        return NULL;
    return header->value;
}

char *http_answer_take_body(const struct http_answer *answer) {
    char *body = answer->call->answer_body;
    answer->call->answer_body = NULL;
    return body;
}

static void collect_finished(struct http_client *client) {
    int left;
    CURLMsg *message;
    while ((message = curl_multi_info_read(client->multi, &left))) {
        if (message->msg != CURLMSG_DONE)
            continue;
        struct http_call *call = NULL;
        CURLcode code = message->data.result;
        curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, (char **)&call);
        call_finish(call, code);
    }
}
