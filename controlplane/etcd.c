#include "controlplane/etcd.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/etcd_internal.h"
#include "controlplane/etcd_json.h"
#include "maroon/error.h"

#define ANSWER_MAX_BYTES (8u << 20)
#define CALL_TIMEOUT_MS 2000
#define BACKOFF_FIRST_MS 50

/* gRPC codes that etcd uses (google.rpc.Code). */
enum {
    GRPC_INVALID_ARGUMENT = 3,
    GRPC_NOT_FOUND = 5,
    GRPC_ALREADY_EXISTS = 6,
    GRPC_PERMISSION_DENIED = 7,
    GRPC_RESOURCE_EXHAUSTED = 8,
    GRPC_FAILED_PRECONDITION = 9,
    GRPC_OUT_OF_RANGE = 11,
    GRPC_UNAUTHENTICATED = 16
};

struct etcd_call {
    struct etcd *etcd;
    struct etcd_call *next;
    struct http_call *http_call; /* NULL while it waits for a token */
    enum etcd_metric_op op;
    char *body;
    uint32_t timeout_ms, endpoint;
    bool authenticated_again;
    etcd_done done; /* NULL: forgotten */
    void *context;
};

static const char *const paths[ETCD_METRIC_OP_COUNT] = {
    [ETCD_METRIC_RANGE] = "/v3/kv/range",
    [ETCD_METRIC_PUT] = "/v3/kv/put",
    [ETCD_METRIC_TXN] = "/v3/kv/txn",
    [ETCD_METRIC_LEASE_GRANT] = "/v3/lease/grant",
    [ETCD_METRIC_LEASE_KEEP_ALIVE] = "/v3/lease/keepalive",
    [ETCD_METRIC_LEASE_REVOKE] = "/v3/lease/revoke",
    [ETCD_METRIC_COMPACT] = "/v3/kv/compaction",
    [ETCD_METRIC_ALARM] = "/v3/maintenance/alarm",
    [ETCD_METRIC_STATUS] = "/v3/maintenance/status",
    [ETCD_METRIC_AUTHENTICATE] = "/v3/auth/authenticate",
    [ETCD_METRIC_WATCH] = "/v3/watch",
};

const char *etcd_metric_op_name(enum etcd_metric_op op) {
    static const char *const names[ETCD_METRIC_OP_COUNT] = {
        "range", "put",    "txn",          "lease_grant", "lease_keep_alive", "revoke", "compact",
        "alarm", "status", "authenticate", "watch",
    };
    return names[op];
}

const char *etcd_metric_outcome_name(enum etcd_metric_outcome outcome) {
    static const char *const names[ETCD_OUTCOME_COUNT] = {"ok", "refused", "unavailable", "unknown",
                                                          "malformed"};
    return names[outcome];
}

const struct etcd_metrics *etcd_metrics(const struct etcd *etcd) {
    return &etcd->metrics;
}

void etcd_count(struct etcd *etcd, enum etcd_metric_op op, enum etcd_metric_outcome outcome) {
    etcd->metrics.requests[op][outcome]++;
}

static void count_latency(struct etcd *etcd, uint64_t latency_us) {
    uint32_t bucket = latency_us ? 64 - (uint32_t)__builtin_clzll(latency_us) : 0;
    if (bucket >= ETCD_BUCKETS)
        bucket = ETCD_BUCKETS - 1;
    etcd->metrics.latency_buckets[bucket]++;
    etcd->metrics.latency_count++;
    etcd->metrics.latency_sum_us += latency_us;
}

void etcd_prefix_end(const char *prefix, char *ret) {
    size_t length = strlen(prefix);
    assert(length > 0 && length <= ETCD_KEY_MAX && (unsigned char)prefix[length - 1] < 0x7f);
    memcpy(ret, prefix, length + 1);
    ret[length - 1]++;
}

/* ---- making and ending a client ---- */

static char *copy_or_null(const char *text) {
    return text && *text ? strdup(text) : NULL;
}

static bool split_endpoints(struct etcd *etcd, const char *list) {
    while (*list) {
        size_t length = strcspn(list, ",");
        size_t kept = length;
        while (kept > 0 && list[kept - 1] == '/')
            kept--;
        bool known = strncmp(list, "http://", 7) == 0 || strncmp(list, "https://", 8) == 0;
        if (!known || etcd->endpoint_count == ETCD_ENDPOINTS_MAX)
            return false;
        etcd->endpoints[etcd->endpoint_count] = strndup(list, kept);
        if (!etcd->endpoints[etcd->endpoint_count])
            return false;
        etcd->endpoint_count++;
        list += length;
        if (*list == ',')
            list++;
    }
    return etcd->endpoint_count > 0;
}

struct etcd *etcd_create(struct loop *loop, struct http_client *http,
                         const struct etcd_config *config) {
    struct etcd *etcd = calloc(1, sizeof *etcd);
    if (!etcd)
        return NULL;
    etcd->loop = loop;
    etcd->http = http;
    etcd->timeout_ms = config->timeout_ms ? config->timeout_ms : CALL_TIMEOUT_MS;
    etcd->backoff_max_ms = config->backoff_max_ms ? config->backoff_max_ms : 1000;
    etcd->jitter = (uint64_t)(uintptr_t)etcd ^ loop_now_ns(loop);
    etcd->ca_file = copy_or_null(config->ca_file);
    etcd->certificate_file = copy_or_null(config->certificate_file);
    etcd->key_file = copy_or_null(config->key_file);
    etcd->user = copy_or_null(config->user);
    etcd->password = copy_or_null(config->password);
    etcd->tls = (struct http_tls){etcd->ca_file, etcd->certificate_file, etcd->key_file};
    if (!split_endpoints(etcd, config->endpoints)) {
        etcd_destroy(etcd);
        return NULL;
    }
    return etcd;
}

static void call_free(struct etcd_call *call) {
    struct etcd_call **link = &call->etcd->calls;
    while (*link != call)
        link = &(*link)->next;
    *link = call->next;
    free(call->body);
    free(call);
}

void etcd_destroy(struct etcd *etcd) {
    if (!etcd)
        return;
    while (etcd->watches)
        etcd_watch_stop(etcd->watches);
    while (etcd->calls) {
        if (etcd->calls->http_call)
            http_client_cancel(etcd->http, etcd->calls->http_call);
        call_free(etcd->calls);
    }
    if (etcd->authenticate_call)
        http_client_cancel(etcd->http, etcd->authenticate_call);
    for (uint32_t i = 0; i < etcd->endpoint_count; i++)
        free(etcd->endpoints[i]);
    free(etcd->ca_file);
    free(etcd->certificate_file);
    free(etcd->key_file);
    free(etcd->user);
    if (etcd->password)
        explicit_bzero(etcd->password, strlen(etcd->password));
    free(etcd->password);
    free(etcd);
}

void etcd_forget(struct etcd *etcd, const void *context) {
    for (struct etcd_call *call = etcd->calls; call; call = call->next)
        if (call->context == context)
            call->done = NULL;
}

/* ---- endpoints and back-off ---- */

void etcd_endpoint_failed(struct etcd *etcd, uint32_t endpoint) {
    etcd->metrics.failures_in_a_row++;
    if (etcd->endpoint == endpoint)
        etcd->endpoint = (endpoint + 1) % etcd->endpoint_count;
}

uint32_t etcd_retry_delay_ms(struct etcd *etcd) {
    uint64_t failures = etcd->metrics.failures_in_a_row;
    if (failures > 0 && failures < etcd->endpoint_count)
        return 0;
    uint64_t rounds = failures / etcd->endpoint_count;
    uint64_t delay = rounds > 10 ? etcd->backoff_max_ms : (uint64_t)BACKOFF_FIRST_MS << rounds;
    if (delay > etcd->backoff_max_ms)
        delay = etcd->backoff_max_ms;
    /* Jitter downwards, so that the configured bound holds. */
    etcd->jitter = etcd->jitter * UINT64_C(6364136223846793005) + 1442695040888963407;
    return (uint32_t)(delay - (etcd->jitter >> 33) % (delay / 2 + 1));
}

/* ---- authentication ---- */

static int call_start(struct etcd_call *call);
static void call_end(struct etcd_call *call, struct etcd_answer *answer);

static void start_waiting(struct etcd *etcd, int error, const char *message) {
    /* A callback may add or end calls: look from the beginning after each. */
    for (;;) {
        struct etcd_call *call = etcd->calls;
        while (call && call->http_call)
            call = call->next;
        if (!call)
            return;
        struct etcd_answer answer = {.error = error};
        snprintf(answer.message, sizeof answer.message, "%s", message);
        if (!error)
            answer.error = call_start(call);
        if (answer.error)
            call_end(call, &answer);
    }
}

static void authenticated(void *context, const struct http_answer *http) {
    struct etcd *etcd = context;
    etcd->authenticating = false;
    etcd->authenticate_call = NULL;
    int error = http->error ? MRN_ERR_UNAVAILABLE : 0;
    char message[192] = "";
    if (!error && http->status == 200) {
        error = etcd_json_read_token(http->body, http->body_bytes, etcd->token, sizeof etcd->token);
    } else if (!error) {
        int code;
        etcd_json_read_error(http->body, http->body_bytes, &code, message, sizeof message);
        bool refused = code == GRPC_INVALID_ARGUMENT || code == GRPC_UNAUTHENTICATED ||
                       code == GRPC_PERMISSION_DENIED || (code == 0 && http->status == 400);
        error = refused ? MRN_ERR_DENIED : MRN_ERR_UNAVAILABLE;
    }
    etcd_count(etcd, ETCD_METRIC_AUTHENTICATE,
               !error                    ? ETCD_OUTCOME_OK
               : error == MRN_ERR_DENIED ? ETCD_OUTCOME_REFUSED
                                         : ETCD_OUTCOME_UNAVAILABLE);
    if (error)
        etcd_endpoint_failed(etcd, etcd->endpoint);
    start_waiting(etcd, error, error && !message[0] ? "cannot authenticate at etcd" : message);
}

static int http_post(struct etcd *etcd, const char *path, const char *body, const char *header1,
                     const char *header2, uint32_t timeout_ms, size_t answer_max_bytes,
                     void (*done)(void *, const struct http_answer *), void *context,
                     struct http_call **ret_call) {
    char url[600];
    int length = snprintf(url, sizeof url, "%s%s", etcd->endpoints[etcd->endpoint], path);
    if (length < 0 || (size_t)length >= sizeof url)
        return MRN_ERR_INVALID;
    struct http_options options = {
        .url = url,
        .body = body,
        .body_bytes = strlen(body),
        .headers = {"Content-Type: application/json", header1, header1 ? header2 : NULL},
        .connect_timeout_ms = timeout_ms / 2 + 1,
        .timeout_ms = timeout_ms,
        .answer_max_bytes = answer_max_bytes,
        .tls = &etcd->tls,
        .done = done,
        .context = context,
    };
    return http_client_call(etcd->http, &options, ret_call);
}

bool etcd_token_ready(struct etcd *etcd) {
    if (!etcd->user || etcd->token[0])
        return true;
    if (etcd->authenticating)
        return false;
    char *body = etcd_json_authenticate(etcd->user, etcd->password ? etcd->password : "");
    if (body && !http_post(etcd, paths[ETCD_METRIC_AUTHENTICATE], body, NULL, NULL,
                           etcd->timeout_ms, 65536, authenticated, etcd, &etcd->authenticate_call))
        etcd->authenticating = true;
    free(body);
    return false;
}

const char *etcd_token_header(const struct etcd *etcd, char *room, size_t room_bytes) {
    if (!etcd->token[0])
        return NULL;
    /* The bare token: etcd 3.4 refuses "Bearer ". */
    snprintf(room, room_bytes, "Authorization: %s", etcd->token);
    return room;
}

/* ---- calls ---- */

static bool is_write(enum etcd_metric_op op) {
    return op == ETCD_METRIC_PUT || op == ETCD_METRIC_TXN || op == ETCD_METRIC_LEASE_GRANT ||
           op == ETCD_METRIC_LEASE_REVOKE;
}

/* Of keys alone: leases are renewed for anybody, and compaction, alarms and status are the whole
 * etcd's, so that a user may do without the right to those. */
static void count_denied(struct etcd_call *call, int error) {
    if (call->op != ETCD_METRIC_RANGE && call->op != ETCD_METRIC_PUT && call->op != ETCD_METRIC_TXN)
        return;
    if (error == MRN_ERR_DENIED)
        call->etcd->metrics.denied_in_a_row++;
    else if (error != MRN_ERR_UNAVAILABLE && error != MRN_ERR_UNKNOWN_OUTCOME &&
             error != MRN_ERR_TIMEOUT)
        call->etcd->metrics.denied_in_a_row = 0;
}

static void call_end(struct etcd_call *call, struct etcd_answer *answer) {
    count_denied(call, answer->error);
    etcd_done done = call->done;
    void *context = call->context;
    call_free(call);
    if (done)
        done(context, answer);
}

/* What an answer other than 200 means. Only refusals that etcd makes before it proposes the write
 * are definite; everything else may have been applied. */
static int error_of_refusal(struct etcd_call *call, long status, int code,
                            struct etcd_answer *answer) {
    answer->no_space = code == GRPC_RESOURCE_EXHAUSTED && strstr(answer->message, "space");
    switch (code) {
    case GRPC_INVALID_ARGUMENT: /* without a user, where one is wanted: also this code */
        return strstr(answer->message, "user name is empty") ? MRN_ERR_DENIED : MRN_ERR_INVALID;
    case GRPC_OUT_OF_RANGE: return MRN_ERR_INVALID;
    case GRPC_NOT_FOUND: return MRN_ERR_NOT_FOUND;
    case GRPC_ALREADY_EXISTS: return MRN_ERR_EXISTS;
    case GRPC_FAILED_PRECONDITION:
        return call->op == ETCD_METRIC_LEASE_GRANT ? MRN_ERR_EXISTS : MRN_ERR_INVALID;
    case GRPC_PERMISSION_DENIED:
    case GRPC_UNAUTHENTICATED: return MRN_ERR_DENIED;
    }
    /* 400 without a code is the gateway's own: a client certificate with a CommonName, together
     * with a user (a fact of etcd: it would be ignored). */
    if (status == 401 || status == 403 || (status == 400 && code == 0))
        return MRN_ERR_DENIED;
    if (answer->no_space)
        call->etcd->metrics.no_space++;
    return is_write(call->op) ? MRN_ERR_UNKNOWN_OUTCOME
           : status == 504    ? MRN_ERR_TIMEOUT
                              : MRN_ERR_UNAVAILABLE;
}

static int decode(enum etcd_metric_op op, const struct http_answer *http,
                  struct etcd_memory **memory, struct etcd_answer *answer) {
    switch (op) {
    case ETCD_METRIC_RANGE:
        return etcd_json_read_range(http->body, http->body_bytes, memory, answer);
    case ETCD_METRIC_TXN: return etcd_json_read_txn(http->body, http->body_bytes, memory, answer);
    case ETCD_METRIC_LEASE_GRANT:
        return etcd_json_read_lease_grant(http->body, http->body_bytes, answer);
    case ETCD_METRIC_LEASE_KEEP_ALIVE:
        return etcd_json_read_keep_alive(http->body, http->body_bytes, answer);
    case ETCD_METRIC_ALARM: return etcd_json_read_alarms(http->body, http->body_bytes, answer);
    case ETCD_METRIC_STATUS: return etcd_json_read_status(http->body, http->body_bytes, answer);
    case ETCD_METRIC_PUT:
    case ETCD_METRIC_LEASE_REVOKE:
    case ETCD_METRIC_COMPACT: return etcd_json_read_header(http->body, http->body_bytes, answer);
    case ETCD_METRIC_AUTHENTICATE:
    case ETCD_METRIC_WATCH:
    case ETCD_METRIC_OP_COUNT: break;
    }
    assert(!"a call of this kind has no decoder");
    return MRN_ERR_INVALID;
}

static int error_of_transport(const struct etcd_call *call, const struct http_answer *http) {
    if (http->error == MRN_ERR_UNAVAILABLE)
        return MRN_ERR_UNAVAILABLE;
    if (is_write(call->op))
        return MRN_ERR_UNKNOWN_OUTCOME;
    return http->error == MRN_ERR_UNKNOWN_OUTCOME ? MRN_ERR_UNAVAILABLE : http->error;
}

static enum etcd_metric_outcome outcome_of(int error, long status) {
    if (!error)
        return ETCD_OUTCOME_OK;
    if (error == MRN_ERR_UNKNOWN_OUTCOME)
        return ETCD_OUTCOME_UNKNOWN;
    if (error == MRN_ERR_MALFORMED || error == MRN_ERR_TOO_LARGE)
        return ETCD_OUTCOME_MALFORMED;
    return status >= 400 && status < 500 ? ETCD_OUTCOME_REFUSED : ETCD_OUTCOME_UNAVAILABLE;
}

/* True when the call goes on with a fresh token. */
static bool authenticate_again(struct etcd_call *call, int error) {
    struct etcd *etcd = call->etcd;
    if (error != MRN_ERR_DENIED || !etcd->user || call->authenticated_again)
        return false;
    call->authenticated_again = true;
    call->http_call = NULL;
    etcd->token[0] = '\0';
    etcd_token_ready(etcd);
    return etcd->authenticating;
}

static void call_done(void *context, const struct http_answer *http) {
    struct etcd_call *call = context;
    struct etcd *etcd = call->etcd;
    struct etcd_memory *memory = NULL;
    struct etcd_answer answer = {.latency_us = http->latency_us};
    if (http->error) {
        answer.error = error_of_transport(call, http);
        snprintf(answer.message, sizeof answer.message, "%.180s", http->text);
    } else if (http->status != 200) {
        int code;
        etcd_json_read_error(http->body, http->body_bytes, &code, answer.message,
                             sizeof answer.message);
        answer.error = error_of_refusal(call, http->status, code, &answer);
    } else {
        answer.error = decode(call->op, http, &memory, &answer);
        if (answer.error) {
            snprintf(answer.message, sizeof answer.message, "answer cannot be read");
            if (is_write(call->op))
                answer.error = MRN_ERR_UNKNOWN_OUTCOME;
        }
    }
    etcd_count(etcd, call->op, outcome_of(answer.error, http->error ? 0 : http->status));
    bool answered = !http->error && (!answer.error || (http->status >= 400 && http->status < 500));
    if (answered) {
        etcd->metrics.failures_in_a_row = 0;
        count_latency(etcd, http->latency_us);
    } else {
        etcd_endpoint_failed(etcd, call->endpoint);
    }
    if (!authenticate_again(call, answer.error))
        call_end(call, &answer);
    etcd_memory_free(memory);
}

static int call_start(struct etcd_call *call) {
    struct etcd *etcd = call->etcd;
    char token[ETCD_TOKEN_MAX + 32], deadline[48];
    /* etcd's own deadline a little before ours, so that its answer comes rather than none. */
    snprintf(deadline, sizeof deadline, "Grpc-Timeout: %um", call->timeout_ms * 9 / 10);
    call->endpoint = etcd->endpoint;
    return http_post(etcd, paths[call->op], call->body, deadline,
                     etcd_token_header(etcd, token, sizeof token), call->timeout_ms,
                     ANSWER_MAX_BYTES, call_done, call, &call->http_call);
}

/* Takes `body`. */
static int call_make(struct etcd *etcd, enum etcd_metric_op op, char *body, uint32_t timeout_ms,
                     etcd_done done, void *context) {
    struct etcd_call *call = body ? calloc(1, sizeof *call) : NULL;
    if (!call) {
        free(body);
        return body ? MRN_ERR_NO_MEMORY : MRN_ERR_INVALID;
    }
    *call = (struct etcd_call){
        .etcd = etcd,
        .op = op,
        .body = body,
        .timeout_ms = timeout_ms ? timeout_ms : etcd->timeout_ms,
        .done = done,
        .context = context,
        .next = etcd->calls,
    };
    etcd->calls = call;
    if (!etcd_token_ready(etcd)) {
        if (etcd->authenticating)
            return 0;
        call_free(call);
        return MRN_ERR_NO_MEMORY;
    }
    int error = call_start(call);
    if (error)
        call_free(call);
    return error;
}

int etcd_range(struct etcd *etcd, const char *key, const char *range_end, uint32_t limit,
               etcd_done done, void *context) {
    return call_make(etcd, ETCD_METRIC_RANGE, etcd_json_range(key, range_end, limit), 0, done,
                     context);
}

int etcd_put(struct etcd *etcd, const char *key, const char *value, uint64_t lease, etcd_done done,
             void *context) {
    return call_make(etcd, ETCD_METRIC_PUT, etcd_json_put(key, value, lease), 0, done, context);
}

int etcd_transaction(struct etcd *etcd, const struct etcd_txn *txn, etcd_done done, void *context) {
    return call_make(etcd, ETCD_METRIC_TXN, etcd_json_txn(txn), 0, done, context);
}

int etcd_lease_grant(struct etcd *etcd, uint64_t lease, uint32_t ttl_s, etcd_done done,
                     void *context) {
    assert(lease != 0 && lease >> 63 == 0);
    return call_make(etcd, ETCD_METRIC_LEASE_GRANT, etcd_json_lease(lease, ttl_s), 0, done,
                     context);
}

int etcd_lease_keep_alive(struct etcd *etcd, uint64_t lease, uint32_t timeout_ms, etcd_done done,
                          void *context) {
    return call_make(etcd, ETCD_METRIC_LEASE_KEEP_ALIVE, etcd_json_lease(lease, 0), timeout_ms,
                     done, context);
}

int etcd_lease_revoke(struct etcd *etcd, uint64_t lease, etcd_done done, void *context) {
    return call_make(etcd, ETCD_METRIC_LEASE_REVOKE, etcd_json_lease(lease, 0), 0, done, context);
}

int etcd_compact(struct etcd *etcd, uint64_t revision, etcd_done done, void *context) {
    return call_make(etcd, ETCD_METRIC_COMPACT, etcd_json_compact(revision), 0, done, context);
}

int etcd_alarms(struct etcd *etcd, etcd_done done, void *context) {
    return call_make(etcd, ETCD_METRIC_ALARM, strdup("{\"action\":\"GET\"}"), 0, done, context);
}

int etcd_status(struct etcd *etcd, etcd_done done, void *context) {
    return call_make(etcd, ETCD_METRIC_STATUS, strdup("{}"), 0, done, context);
}
