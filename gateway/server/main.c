/* maroon-gateway: HTTP in front of the gateway library: the Connect protocol's unary calls,
 * transactions by id, health, metrics.
 *
 * Threads: libmicrohttpd's one thread parses requests and sends answers; the library's thread runs
 * the protocol. A request in flight is a suspended connection: the library's callback stores the
 * answer and resumes it. */
#include <inttypes.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config/config.h"
#include "controlplane/log.h"
#include "dataplane/net/from_config.h"
#include "gateway/transcode/transcode.h"
#include "proto/wire.h"
#include "runtime/applications/applications.h"
#include <maroon/application.h>
#include <maroon/error.h>
#include <maroon/gateway.h>

#define ENVELOPE_BYTES \
    4096 /* what JSON may add to the largest transaction, besides base64's third */

static const struct mrn_application *const applications[] = {&bank_application, &echo_application};

struct server {
    struct config config;
    struct mrn_gateway *gateway;
    size_t body_max;
    _Atomic uint64_t requests, errors;
};

struct request {
    struct server *server;
    struct MHD_Connection *connection;
    char *body;
    size_t body_bytes, body_room;
    bool too_large, json, submitted, query;
    const ProtobufCMessageDescriptor *output;
    _Atomic bool done;
    struct mrn_gateway_answer answer; /* bytes: malloc'ed copy */
    struct MHD_Response *response;
    unsigned status;
};

static struct server server;
static int wake_pipe[2];

/* ---- answers ---- */

static const struct {
    const char *text;
    unsigned status;
} codes[] = {
#define MRN_CODE(name, value, text, status) [value] = {text, status},
#include <maroon/code.def>
#undef MRN_CODE
};

static void set_response(struct request *r, unsigned status, const char *type, void *bytes,
                         size_t length) {
    r->response = MHD_create_response_from_buffer(length, bytes, MHD_RESPMEM_MUST_FREE);
    r->status = status;
    if (r->response)
        MHD_add_response_header(r->response, "Content-Type", type);
    else
        free(bytes);
}

/* Connect's error object; quotes and controls of the message are escaped. */
static void set_error(struct request *r, uint32_t code, unsigned status, const char *message,
                      size_t length) {
    char *text = malloc(6 * length + 128);
    if (!text)
        return;
    bool known = code && code < sizeof codes / sizeof codes[0];
    size_t at = (size_t)snprintf(text, 64, "{\"code\":\"%s\",\"message\":\"",
                                 known ? codes[code].text : "unknown");
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)message[i];
        if (c == '"' || c == '\\') {
            text[at++] = '\\';
            text[at++] = (char)c;
        } else if (c < 32)
            at += (size_t)snprintf(text + at, 8, "\\u%04x", c);
        else
            text[at++] = (char)c;
    }
    memcpy(text + at, "\"}", 2);
    atomic_fetch_add(&r->server->errors, 1);
    set_response(r, status, "application/json", text, at + 2);
}

static void refuse(struct request *r, enum mrn_code code, unsigned status, const char *message) {
    set_error(r, code, status ? status : codes[code].status, message, strlen(message));
    if (r->response && (r->status == 503 || r->status == 429))
        MHD_add_response_header(r->response, "Retry-After", "1");
}

/* ---- the library calls back ---- */

static void on_answer(void *user, const struct mrn_gateway_answer *answer) {
    struct request *r = user;
    r->answer = *answer;
    uint8_t *copy = malloc(answer->length_bytes ? answer->length_bytes : 1);
    if (copy && answer->length_bytes)
        memcpy(copy, answer->bytes, answer->length_bytes);
    r->answer.bytes = copy;
    struct MHD_Connection *connection = r->connection;
    atomic_store(&r->done, true); /* after this the request may end at any time */
    MHD_resume_connection(connection);
}

static void add_id(struct request *r) {
    char text[32];
    if (!r->response)
        return;
    snprintf(text, sizeof text, "%" PRIu64, r->answer.id);
    MHD_add_response_header(r->response, "Maroon-Tx-Id", text);
    snprintf(text, sizeof text, "%" PRIu64, r->answer.epoch_seq);
    MHD_add_response_header(r->response, "Maroon-Epoch", text);
}

static void answer_error(struct request *r) {
    int error = r->answer.error;
    if (error == MRN_ERR_FULL)
        refuse(r, MRN_CODE_RESOURCE_EXHAUSTED, 429,
               "too many transactions are in flight; try again");
    else if (error == MRN_ERR_TOO_LARGE)
        refuse(r, MRN_CODE_RESOURCE_EXHAUSTED, 0,
               "the request is larger than a transaction may be");
    else if (error == MRN_ERR_TIMEOUT)
        refuse(r, MRN_CODE_UNAVAILABLE, 0, "no node answers");
    else
        refuse(r, MRN_CODE_UNAVAILABLE, 0, "no node can be reached, or none grants a key range");
}

static void answer_call(struct request *r) {
    const struct mrn_gateway_answer *a = &r->answer;
    if (a->error) {
        answer_error(r);
        return;
    }
    if (a->code == UINT32_MAX)
        refuse(r, MRN_CODE_DATA_LOSS, 0, "executed, but its result is no longer kept");
    else if (a->code)
        set_error(r, a->code,
                  a->code < sizeof codes / sizeof codes[0] ? codes[a->code].status : 500,
                  (const char *)a->bytes, a->length_bytes);
    else if (r->json) {
        char *json;
        if (gateway_transcode_out(r->output, a->bytes, a->length_bytes, &json))
            refuse(r, MRN_CODE_INTERNAL, 0, "the result cannot be shown as JSON");
        else
            set_response(r, 200, "application/json", json, strlen(json));
    } else {
        set_response(r, 200, "application/proto", (void *)(uintptr_t)a->bytes, a->length_bytes);
        r->answer.bytes = NULL;
    }
    add_id(r);
}

/* The response type of a method key; NULL when no application here has it. */
static const ProtobufCMessageDescriptor *output_of(uint32_t method_key) {
    for (uint32_t a = 0; a < sizeof applications / sizeof applications[0]; a++)
        for (uint32_t i = 0; i < applications[a]->service_count; i++) {
            const ProtobufCServiceDescriptor *s = applications[a]->services[i].descriptor;
            for (uint32_t m = 0; m < s->n_methods; m++)
                if (mrn_gateway_method_key(s->name, s->methods[m].name) == method_key)
                    return s->methods[m].output;
        }
    return NULL;
}

static char *result_json(const struct mrn_gateway_answer *a) {
    const ProtobufCMessageDescriptor *output = output_of(a->method_key);
    char *json = NULL;
    if (output && !gateway_transcode_out(output, a->bytes, a->length_bytes, &json))
        return json;
    return strdup(
        "null"); /* longer than one packet, or of an application this gateway does not know */
}

static void answer_query(struct request *r) {
    static const char *const states[] = {"unknown",  "pending", "committed", "executed",
                                         "rejected", "sealed",  "expired"};
    const struct mrn_gateway_answer *a = &r->answer;
    if (a->error) {
        answer_error(r);
        return;
    }
    bool executed = a->outcome == WIRE_TX_EXECUTED;
    char *result = executed && !a->code ? result_json(a) : NULL;
    size_t room = 512 + (result ? strlen(result) : 0) + 6 * a->length_bytes;
    char *text = malloc(room);
    if (text) {
        int at = snprintf(text, room,
                          "{\"id\":\"%" PRIu64 "\",\"state\":\"%s\",\"epoch\":\"%" PRIu64 "\"",
                          a->id, states[a->outcome % 7], a->epoch_seq);
        if (result)
            at += snprintf(text + at, room - (size_t)at, ",\"result\":%s", result);
        else if (executed)
            at +=
                snprintf(text + at, room - (size_t)at, ",\"code\":\"%s\",\"message\":\"%.*s\"",
                         a->code < sizeof codes / sizeof codes[0] ? codes[a->code].text : "unknown",
                         (int)a->length_bytes, (const char *)a->bytes);
        at += snprintf(text + at, room - (size_t)at, "}");
        set_response(r, 200, "application/json", text, (size_t)at);
    }
    free(result);
    add_id(r);
}

/* ---- routes ---- */

static void plain(struct request *r, unsigned status, const char *type, const char *text) {
    char *copy = strdup(text);
    if (copy)
        set_response(r, status, type, copy, strlen(copy));
}

static void metrics(struct request *r) {
    struct mrn_gateway_facts f;
    mrn_gateway_facts(r->server->gateway, &f);
    size_t room = 8192, at = 0;
    char *t = malloc(room);
    if (!t)
        return;
#define PUT(...) at += (size_t)snprintf(t + at, room - at, __VA_ARGS__)
    PUT("maroon_transactions_submitted_total %" PRIu64
        "\nmaroon_transactions_answered_total %" PRIu64 "\n",
        f.submitted, f.answered);
    PUT("maroon_window_full_total %" PRIu64 "\nmaroon_resends_total %" PRIu64 "\n", f.window_full,
        f.resent);
    PUT("maroon_http_requests_total %" PRIu64 "\nmaroon_http_errors_total %" PRIu64 "\n",
        atomic_load(&r->server->requests), atomic_load(&r->server->errors));
    PUT("maroon_rx_packets_total %" PRIu64 "\nmaroon_tx_packets_total %" PRIu64 "\n", f.rx_packets,
        f.tx_packets);
    PUT("# TYPE maroon_transaction_latency_seconds histogram\n");
    uint64_t sum = 0;
    for (uint32_t i = 0; i < 24; i++) {
        sum += f.latency[i];
        PUT("maroon_transaction_latency_seconds_bucket{le=\"%.6f\"} %" PRIu64 "\n",
            (double)((UINT64_C(1) << i) - 1) / 1e6, sum);
    }
    PUT("maroon_transaction_latency_seconds_bucket{le=\"+Inf\"} %" PRIu64 "\n", f.latency_count);
    PUT("maroon_transaction_latency_seconds_sum %.6f\nmaroon_transaction_latency_seconds_count "
        "%" PRIu64 "\n",
        (double)f.latency_sum_us / 1e6, f.latency_count);
#undef PUT
    set_response(r, 200, "text/plain; version=0.0.4", t, at);
}

static void status(struct request *r) {
    struct mrn_gateway_facts f;
    mrn_gateway_facts(r->server->gateway, &f);
    char *t = malloc(1024), range[24] = "null";
    if (!t)
        return;
    if (f.range != MRN_GATEWAY_RANGE_NONE)
        snprintf(range, sizeof range, "\"%" PRIu64 "\"", f.range);
    int at = snprintf(
        t, 1024,
        "{\"ready\":%s,\"range\":%s,\"owner\":\"%" PRIu64
        "\",\"offset\":%u,\"committed\":%u,\"limit\":%u,\"outstanding\":%u,"
        "\"waiting\":%u,\"leader\":%d,\"nodesHeard\":%u,\"nodes\":%u,\"rangeTaken\":%s,"
        "\"rangeHeldBy\":\"%" PRIu64 "\",\"configurationId\":\"%" PRIu64
        "\",\"submitted\":\"%" PRIu64 "\",\"answered\":\"%" PRIu64 "\",\"resent\":\"%" PRIu64
        "\",\"windowFull\":\"%" PRIu64 "\"}",
        f.ready ? "true" : "false", range, f.owner, f.offset, f.committed, f.limit, f.outstanding,
        f.waiting, f.leader == 255 ? -1 : f.leader, f.nodes_heard, f.node_count,
        f.range_outcome == WIRE_RANGE_TAKEN && f.range == MRN_GATEWAY_RANGE_NONE ? "true" : "false",
        f.range_held_by, f.configuration_id, f.submitted, f.answered, f.resent, f.window_full);
    set_response(r, 200, "application/json", t, (size_t)at);
}

static void ready(struct request *r) {
    struct mrn_gateway_facts f;
    mrn_gateway_facts(r->server->gateway, &f);
    const char *why = f.range == MRN_GATEWAY_RANGE_NONE && f.range_outcome == WIRE_RANGE_TAKEN
                          ? "the pinned key range is held by another gateway"
                      : f.range == MRN_GATEWAY_RANGE_NONE ? "no key range yet"
                                                          : "no leader heard";
    plain(r, f.ready ? 200 : 503, "text/plain", f.ready ? "ready\n" : why);
}

/* Starts a call; true when the connection is suspended. */
static bool start_call(struct request *r, const char *url) {
    char service[128];
    const char *slash = strrchr(url + 1, '/');
    const char *type = MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Content-Type");
    r->json = !type || !strncmp(type, "application/json", 16);
    if (!slash || (size_t)(slash - url - 1) >= sizeof service) {
        refuse(r, MRN_CODE_UNIMPLEMENTED, 404, "no such path; calls go to /package.Service/Method");
        return false;
    }
    snprintf(service, sizeof service, "%.*s", (int)(slash - url - 1), url + 1);
    const struct mrn_service *s = mrn_service_find(applications, 2, service);
    const ProtobufCMethodDescriptor *m =
        s ? protobuf_c_service_descriptor_get_method_by_name(s->descriptor, slash + 1) : NULL;
    if (!m) {
        refuse(r, MRN_CODE_UNIMPLEMENTED, 404,
               s ? "the service has no such method" : "no such service");
        return false;
    }
    if (!r->json && (!type || strncmp(type, "application/proto", 17))) {
        refuse(r, MRN_CODE_INVALID_ARGUMENT, 415,
               "Content-Type must be application/json or application/proto");
        return false;
    }
    if (r->too_large) {
        refuse(r, MRN_CODE_RESOURCE_EXHAUSTED, 0,
               "the request is larger than a transaction may be");
        return false;
    }
    char text[TRANSCODE_TEXT_BYTES] = "";
    uint8_t *bytes = NULL;
    size_t length = 0;
    int error = r->json
                    ? gateway_transcode_in(m->input, r->body, r->body_bytes, &bytes, &length, text)
                    : gateway_transcode_check(m->input, (const uint8_t *)r->body, r->body_bytes,
                                              &bytes, &length, text);
    if (error) {
        refuse(r,
               error == MRN_ERR_MALFORMED ? MRN_CODE_INVALID_ARGUMENT : MRN_CODE_RESOURCE_EXHAUSTED,
               0, text);
        return false;
    }
    const char *key =
        MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, "Idempotency-Key");
    if (key && (strlen(key) > 64 || !*key)) {
        free(bytes);
        refuse(r, MRN_CODE_INVALID_ARGUMENT, 0, "Idempotency-Key must have 1 to 64 bytes");
        return false;
    }
    r->output = m->output;
    MHD_suspend_connection(r->connection);
    error = mrn_gateway_submit(r->server->gateway, service, slash + 1, bytes, length, key,
                               key ? strlen(key) : 0, on_answer, r);
    free(bytes);
    if (!error)
        return true;
    r->answer.error = error;
    atomic_store(&r->done, true);
    MHD_resume_connection(r->connection);
    return true;
}

static bool start_query(struct request *r, const char *text) {
    char *end;
    uint64_t id = strtoull(text, &end, 10);
    if (end == text || *end) {
        refuse(r, MRN_CODE_INVALID_ARGUMENT, 0, "a transaction id is a number");
        return false;
    }
    r->query = true;
    MHD_suspend_connection(r->connection);
    r->answer.error = mrn_gateway_query(r->server->gateway, id, on_answer, r);
    if (r->answer.error) {
        atomic_store(&r->done, true);
        MHD_resume_connection(r->connection);
    }
    return true;
}

static bool route(struct request *r, const char *method, const char *url) {
    bool get = !strcmp(method, "GET");
    if (!strcmp(method, "POST"))
        return start_call(r, url);
    if (get && !strncmp(url, "/v1/tx/", 7))
        return start_query(r, url + 7);
    if (get && !strcmp(url, "/healthz"))
        plain(r, 200, "text/plain", "ok\n");
    else if (get && !strcmp(url, "/readyz"))
        ready(r);
    else if (get && !strcmp(url, "/metrics"))
        metrics(r);
    else if (get && !strcmp(url, "/v1/status"))
        status(r);
    else
        refuse(r, MRN_CODE_UNIMPLEMENTED, get ? 404 : 405, get ? "no such path" : "calls are POST");
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

static enum MHD_Result on_request(void *user, struct MHD_Connection *connection, const char *url,
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
        r->query ? answer_query(r) : answer_call(r);
    if (!r->response)
        return MHD_NO;
    return MHD_queue_response(connection, r->status, r->response);
}

static void on_completed(void *user, struct MHD_Connection *connection, void **context,
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

/* ---- start ---- */

static void on_signal(int number) {
    (void)number;
    (void)!write(wake_pipe[1], "s", 1);
}

static void net_configure(const struct config *g, struct net_config *c) {
    net_from_config(g, c);
    c->endpoint_count = 1;
    c->endpoints[0] = (struct net_endpoint_config){.stage = WIRE_STAGE_INGRESS,
                                                   .udp_port = (uint16_t)g->udp_port};
    if (c->fabric != NET_FABRIC_UDP && !g->udp_port)
        c->endpoints[0].udp_port = 30000;
}

/* Until a signal, or until the pinned range turns out to be another live gateway's: then true. */
static bool wait_for_end(void) {
    for (;;) {
        struct pollfd fd = {.fd = wake_pipe[0], .events = POLLIN};
        struct mrn_gateway_facts f;
        if (poll(&fd, 1, 200) > 0)
            return false;
        mrn_gateway_facts(server.gateway, &f);
        if (f.range != MRN_GATEWAY_RANGE_NONE || f.range_outcome != WIRE_RANGE_TAKEN)
            continue;
        mrn_log_error("range_taken",
                      "range=%" PRIu64 " held_by=%016" PRIx64
                      " do=\"give another key_range, or stop the gateway that holds it\"",
                      server.config.key_range, f.range_held_by);
        return true;
    }
}

static int serve(struct net *net) {
    const struct config *g = &server.config;
    struct mrn_gateway_config c = {.node_count = g->node_count,
                                   .pinned_range = g->key_range,
                                   .outstanding_max = 4096,
                                   .transaction_max_bytes = g->max_transaction_bytes,
                                   .request_timeout_us = (uint64_t)g->request_timeout_ms * 1000,
                                   .busy = g->poll == CONFIG_POLL_BUSY};
    for (uint32_t i = 0; i < g->node_count; i++) {
        c.nodes[i].ipv4 = g->node[i].ipv4;
        c.nodes[i].port = g->node[i].port;
    }
    server.body_max = g->max_transaction_bytes / 3 * 4 + ENVELOPE_BYTES;
    int error = mrn_gateway_open(&c, net, &server.gateway);
    if (error) {
        mrn_log_error("gateway_refused", "error=%s why=%s", mrn_error_name(error),
                      mrn_log_quote(mrn_error_text(error)));
        return 1;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)g->http_port)};
    address.sin_addr.s_addr = htonl(g->http_ipv4);
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_ALLOW_SUSPEND_RESUME,
        (uint16_t)g->http_port, NULL, NULL, on_request, &server, MHD_OPTION_SOCK_ADDR, &address,
        MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)g->http_connections_max, MHD_OPTION_CONNECTION_TIMEOUT, 120u,
        MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
    if (!daemon) {
        mrn_log_error("http_refused", "address=%s port=%u why=\"the address cannot be bound\"",
                      g->http_address, g->http_port);
        mrn_gateway_close(server.gateway);
        return 1;
    }
    char text[NET_TEXT_BYTES];
    net_describe(net, text, sizeof text);
    mrn_log_info("started", "version=0.1.0 http=%s:%u nodes=%u %s", g->http_address, g->http_port,
                 g->node_count, text);
    bool taken = wait_for_end();
    MHD_quiesce_daemon(daemon);
    mrn_gateway_close(server.gateway); /* calls every waiting request back */
    MHD_stop_daemon(daemon);
    mrn_log_info("stopped", "why=%s", taken ? "range_taken" : "signal");
    return taken ? 1 : 0;
}

int main(int argc, char **argv) {
    extern char **environ;
    char text[NET_TEXT_BYTES > CONFIG_ERROR_BYTES ? NET_TEXT_BYTES : CONFIG_ERROR_BYTES];
    struct config *g = &server.config;
    if (config_load(g, CONFIG_GATEWAY, argc, argv, environ, text)) {
        fprintf(stderr, "maroon-gateway: %s\n", text);
        return 2;
    }
    if (g->action == CONFIG_HELP || g->action == CONFIG_VERSION) {
        g->action == CONFIG_HELP ? config_print_help(CONFIG_GATEWAY, stdout)
                                 : config_print_version(CONFIG_GATEWAY, stdout);
        return 0;
    }
    for (uint32_t i = 0; i < g->node_count; i++)
        if (!g->node[i].ipv4 && config_url_resolve(&g->node[i])) {
            fprintf(stderr, "maroon-gateway: the name %s is not known\n", g->node[i].host);
            return 2;
        }
    struct net_config n;
    net_configure(g, &n);
    if (net_config_check(&n, text)) {
        fprintf(stderr, "maroon-gateway: %s\n", text);
        return 2;
    }
    if (g->action == CONFIG_CHECK) {
        config_print(g, stdout);
        return 0;
    }
    mrn_log_set_level((enum mrn_log_level)(MRN_LOG_ERROR - (int)g->log_level));
    if (pipe(wake_pipe))
        return 1;
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    struct net *net = NULL;
    if (net_start(&n, &net, text)) {
        mrn_log_error("network_refused", "why=%s", mrn_log_quote(text));
        return 1;
    }
    int status_code = serve(net);
    net_stop(net);
    net_eal_stop();
    return status_code;
}
