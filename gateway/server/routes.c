/* A request's way from its headers to the library. */
#include "gateway/server/server.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "gateway/transcode/transcode.h"
#include "runtime/applications/applications.h"
#include <maroon/error.h>

#define TIMEOUT_DIGITS_MAX 10 /* of Connect-Timeout-Ms */

const struct mrn_application *const server_applications[SERVER_APPLICATIONS] = {&bank_application,
                                                                                &echo_application};

/* ---- the library calls back ---- */

static void on_answer(void *user, const struct mrn_gateway_answer *answer) {
    struct request *r = user;
    r->answer = *answer;
    uint8_t *copy = malloc(answer->length_bytes ? answer->length_bytes : 1);
    if (copy && answer->length_bytes)
        memcpy(copy, answer->bytes, answer->length_bytes);
    if (!copy) { /* it is executed, but cannot be shown */
        r->answer.code = UINT32_MAX;
        r->answer.length_bytes = 0;
    }
    r->answer.bytes = copy;
    struct MHD_Connection *connection = r->connection;
    atomic_store(&r->done, true); /* after this the request may end at any time */
    MHD_resume_connection(connection);
}

/* The library refused at once. */
static void answer_now(struct request *r, int error) {
    r->answer = (struct mrn_gateway_answer){.id = MRN_GATEWAY_ID_NONE, .error = error};
    atomic_store(&r->done, true);
    MHD_resume_connection(r->connection);
}

/* ---- calls ---- */

static const char *header(const struct request *r, const char *name) {
    return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

/* Is the media type this one, parameters aside? */
static bool type_is(const char *type, const char *wanted) {
    size_t length = strlen(wanted);
    return !strncasecmp(type, wanted, length) && strchr("; \t", type[length]);
}

/* "Prefer: respond-async, wait=10" (RFC 7240). */
static bool prefers_async(const struct request *r) {
    const char *at = header(r, "Prefer");
    while (at && *at) {
        at += strspn(at, " \t,");
        size_t length = strcspn(at, ",; \t");
        if (length == strlen("respond-async") && !strncasecmp(at, "respond-async", length))
            return true;
        at += strcspn(at, ",");
    }
    return false;
}

/* Returns false, with the answer made, when a header asks for what is not done here. */
static bool check_headers(struct request *r, struct mrn_gateway_request *call) {
    const char *type = header(r, "Content-Type"), *coding = header(r, "Content-Encoding");
    const char *timeout = header(r, "Connect-Timeout-Ms"), *key = header(r, "Idempotency-Key");
    const char *version = header(r, "Connect-Protocol-Version");
    r->json = !type || type_is(type, "application/json");
    if (!r->json && !type_is(type, "application/proto")) {
        server_refuse(r, MRN_CODE_INVALID_ARGUMENT, 415,
                      "Content-Type must be application/json or application/proto");
        server_header(r, "Accept-Post", "application/json, application/proto");
    } else if (coding && strcasecmp(coding, "identity"))
        server_refuse(r, MRN_CODE_UNIMPLEMENTED, 0, "Content-Encoding must be identity");
    else if (version && strcmp(version, "1"))
        server_refuse(r, MRN_CODE_INVALID_ARGUMENT, 0, "Connect-Protocol-Version must be 1");
    else if (timeout && (!*timeout || strlen(timeout) > TIMEOUT_DIGITS_MAX ||
                         strspn(timeout, "0123456789") != strlen(timeout)))
        server_refuse(r, MRN_CODE_INVALID_ARGUMENT, 0,
                      "Connect-Timeout-Ms must be a number of at most ten digits");
    else if (key && (!*key || strlen(key) > MRN_GATEWAY_KEY_MAX_BYTES))
        server_refuse(r, MRN_CODE_INVALID_ARGUMENT, 0, "Idempotency-Key must have 1 to 64 bytes");
    if (r->response)
        return false;
    call->timeout_us = timeout ? strtoull(timeout, NULL, 10) * 1000 + 1 : 0;
    call->key = key;
    call->key_bytes = key ? strlen(key) : 0;
    call->answer_when_sent = r->respond_async = prefers_async(r);
    return true;
}

static const ProtobufCMethodDescriptor *find_method(struct request *r, const char *url,
                                                    char *service, size_t room) {
    const char *slash = strrchr(url + 1, '/');
    if (!slash || (size_t)(slash - url - 1) >= room) {
        server_refuse(r, MRN_CODE_UNIMPLEMENTED, 404,
                      "no such path; calls go to /package.Service/Method");
        return NULL;
    }
    memcpy(service, url + 1, (size_t)(slash - url - 1));
    service[slash - url - 1] = 0;
    const struct mrn_service *s =
        mrn_service_find(server_applications, SERVER_APPLICATIONS, service);
    const ProtobufCMethodDescriptor *m =
        s ? protobuf_c_service_descriptor_get_method_by_name(s->descriptor, slash + 1) : NULL;
    if (!m)
        server_refuse(r, MRN_CODE_UNIMPLEMENTED, 404,
                      s ? "the service has no such method" : "no such service");
    return m;
}

/* Starts a call; true when the connection is suspended. */
static bool start_call(struct request *r, const char *url) {
    char service[128], text[TRANSCODE_TEXT_BYTES] = "";
    struct mrn_gateway_request call = {.service = service};
    const ProtobufCMethodDescriptor *m = find_method(r, url, service, sizeof service);
    if (!m || !check_headers(r, &call))
        return false;
    if (r->too_large) {
        server_refuse(r, MRN_CODE_RESOURCE_EXHAUSTED, 0,
                      "the request is larger than a transaction may be");
        return false;
    }
    uint8_t *bytes = NULL;
    int error = r->json ? gateway_transcode_in(m->input, r->body, r->body_bytes, &bytes,
                                               &call.length_bytes, text)
                        : gateway_transcode_check(m->input, (const uint8_t *)r->body, r->body_bytes,
                                                  &bytes, &call.length_bytes, text);
    if (error) {
        server_refuse(
            r, error == MRN_ERR_MALFORMED ? MRN_CODE_INVALID_ARGUMENT : MRN_CODE_RESOURCE_EXHAUSTED,
            0, text);
        return false;
    }
    call.method = m->name;
    call.bytes = bytes;
    r->output = m->output;
    MHD_suspend_connection(r->connection);
    error = mrn_gateway_submit(r->server->gateway, &call, on_answer, r);
    free(bytes);
    if (error)
        answer_now(r, error);
    return true;
}

/* ---- everything else ---- */

/* ?owner=, as Location says it; 0 when there is none. */
static bool owner_named(struct request *r, uint32_t *ret_mark) {
    const char *text = MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, "owner");
    size_t digits = text ? strspn(text, "0123456789abcdefABCDEF") : 0;
    *ret_mark = text ? (uint32_t)strtoul(text, NULL, 16) : 0;
    return !text || (digits && digits <= 6 && !text[digits] && *ret_mark);
}

static bool start_query(struct request *r, const char *text) {
    char *end;
    uint32_t owner_mark;
    errno = 0;
    uint64_t id = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno) {
        server_refuse(r, MRN_CODE_INVALID_ARGUMENT, 0, "a transaction id is a number");
        return false;
    }
    if (!owner_named(r, &owner_mark)) {
        server_refuse(r, MRN_CODE_INVALID_ARGUMENT, 0,
                      "owner is one to six hexadecimal digits, as Location names them");
        return false;
    }
    r->query = true;
    MHD_suspend_connection(r->connection);
    int error = mrn_gateway_query(r->server->gateway, id, owner_mark, on_answer, r);
    if (error)
        answer_now(r, error);
    return true;
}

static void start_monitor(struct request *r) {
    const char *why = monitor_upgrade(r->server->monitor, r->connection, &r->response);
    r->status = MHD_HTTP_SWITCHING_PROTOCOLS;
    if (!why)
        return;
    server_refuse(r, MRN_CODE_INVALID_ARGUMENT, MHD_HTTP_UPGRADE_REQUIRED, why);
    server_header(r, "Upgrade", "websocket");
    server_header(r, "Sec-WebSocket-Version", "13");
}

static bool get(struct request *r, const char *url) {
    if (!strncmp(url, "/v1/tx/", 7))
        return start_query(r, url + 7);
    if (!strcmp(url, "/v1/monitor"))
        start_monitor(r);
    else if (!strcmp(url, "/healthz"))
        server_respond_text(r, 200, "text/plain", "ok\n");
    else if (!strcmp(url, "/readyz"))
        server_ready(r);
    else if (!strcmp(url, "/metrics"))
        server_metrics(r);
    else if (!strcmp(url, "/v1/status"))
        server_status(r);
    else if (strrchr(url, '/') != url) { /* looks like a call */
        server_refuse(r, MRN_CODE_UNIMPLEMENTED, 405, "calls are POST");
        server_header(r, "Allow", "POST");
    } else
        server_refuse(r, MRN_CODE_UNIMPLEMENTED, 404, "no such path");
    return false;
}

static bool route(struct request *r, const char *method, const char *url) {
    if (!strcmp(method, "POST"))
        return start_call(r, url);
    if (!strcmp(method, "GET") || !strcmp(method, "HEAD"))
        return get(r, url);
    server_refuse(r, MRN_CODE_UNIMPLEMENTED, 405, "GET and POST are known");
    server_header(r, "Allow", "GET, POST");
    return false;
}

static void take_body(struct request *r, const char *bytes, size_t length) {
    if (r->too_large || r->body_bytes + length > r->server->body_max) {
        r->too_large = true;
        return;
    }
    if (r->body_bytes + length > r->body_room) {
        size_t room = r->body_room ? r->body_room : 1024;
        while (room < r->body_bytes + length)
            room *= 2;
        char *grown = realloc(r->body, room);
        if (!grown) {
            r->too_large = true;
            return;
        }
        r->body = grown;
        r->body_room = room;
    }
    memcpy(r->body + r->body_bytes, bytes, length);
    r->body_bytes += length;
}

enum MHD_Result server_on_request(void *user, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_bytes, void **context) {
    (void)version;
    struct request *r = *context;
    if (!r) {
        r = calloc(1, sizeof *r);
        if (!r)
            return MHD_NO;
        r->server = user;
        r->connection = connection;
        r->answer.id = MRN_GATEWAY_ID_NONE;
        *context = r;
        return MHD_YES;
    }
    if (*data_bytes) {
        take_body(r, data, *data_bytes);
        *data_bytes = 0;
        return MHD_YES;
    }
    if (!r->submitted) {
        r->submitted = true;
        atomic_fetch_add(&r->server->requests, 1);
        if (route(r, method, url))
            return MHD_YES; /* suspended */
    } else if (!atomic_load(&r->done))
        return MHD_YES;
    else if (!r->response)
        server_answer(r);
    if (!r->response)
        return MHD_NO;
    return MHD_queue_response(connection, r->status, r->response);
}

void server_on_completed(void *user, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code) {
    (void)user;
    (void)connection;
    (void)code;
    struct request *r = *context;
    if (!r)
        return;
    if (r->response)
        MHD_destroy_response(r->response);
    free((void *)(uintptr_t)r->answer.bytes);
    free(r->body);
    free(r);
    *context = NULL;
}
