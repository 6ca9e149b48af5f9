/* maroon-gateway: HTTP in front of the gateway library: the Connect protocol's unary calls,
 * transactions by id, a WebSocket of events, health, metrics.
 *
 *   routes.c   a request's way: which path, which call, its body     answers.c  what it is answered
 *   facts.c    /v1/status, /metrics, /readyz                         monitor.c  /v1/monitor
 *   telemetry.c  the same for dpdk-telemetry.py: /maroon/status counters drops latency
 *   main.c     start and end
 *
 * Threads: libmicrohttpd's one thread parses requests and sends answers; the library's thread runs
 * the protocol; the monitor's thread serves its watchers. A request in flight is a suspended
 * connection: the library's callback stores the answer and resumes it. Ownership: a request is its
 * connection's until on_completed. Errors: answered in Connect's form, with its codes. */
#ifndef MAROON_GATEWAY_SERVER_H
#define MAROON_GATEWAY_SERVER_H

#include <microhttpd.h>
#include <stdatomic.h>

#include "config/config.h"
#include "gateway/server/monitor.h"
#include <maroon/application.h>
#include <maroon/code.h>
#include <maroon/gateway.h>
#include <protobuf-c/protobuf-c.h>

struct server {
    struct config config;
    struct mrn_gateway *gateway;
    struct monitor *monitor;
    size_t body_max;
    _Atomic uint64_t requests, errors;
};

struct request {
    struct server *server;
    struct MHD_Connection *connection;
    char *body;
    size_t body_bytes, body_room;
    bool too_large, json, submitted, query, respond_async;
    const ProtobufCMessageDescriptor *output;
    _Atomic bool done;
    struct mrn_gateway_answer answer; /* bytes: malloc'ed copy */
    struct MHD_Response *response;
    unsigned status;
};

#define SERVER_APPLICATIONS 2
extern const struct mrn_application *const server_applications[SERVER_APPLICATIONS];

/* ---- routes.c: libmicrohttpd's callbacks; `user` is the server ---- */

enum MHD_Result server_on_request(void *user, struct MHD_Connection *connection, const char *url,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_bytes, void **context);
void server_on_completed(void *user, struct MHD_Connection *connection, void **context,
                         enum MHD_RequestTerminationCode code);

/* ---- answers.c: each makes r->response, or leaves it NULL when there is no memory ---- */

/* `bytes` is malloc'ed and given away. */
void server_respond(struct request *r, unsigned status, const char *type, void *bytes,
                    size_t length);
void server_respond_text(struct request *r, unsigned status, const char *type, const char *text);
/* Connect's error object. status 0: the code's own. */
void server_refuse(struct request *r, enum mrn_code code, unsigned status, const char *message);
void server_header(struct request *r, const char *name, const char *value);
void server_answer(struct request *r); /* of what r->answer says */

/* ---- facts.c ---- */

void server_status(struct request *r);
void server_metrics(struct request *r);
void server_ready(struct request *r);

/* ---- telemetry.c: once per process; main's thread ---- */

/* Shows this server until net_telemetry_stop, which comes before the gateway is closed. Errors of
 * net_telemetry_start. */
int server_telemetry_start(const struct server *server);

#endif
