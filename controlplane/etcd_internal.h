/* What etcd.c and etcd_watch.c share. */
#ifndef MAROON_ETCD_INTERNAL_H
#define MAROON_ETCD_INTERNAL_H

#include "controlplane/etcd.h"

#define ETCD_TOKEN_MAX 512

struct etcd_call;

struct etcd {
    struct loop *loop;
    struct http_client *http;
    char *endpoints[ETCD_ENDPOINTS_MAX];
    uint32_t endpoint_count, endpoint; /* the one in use */
    struct http_tls tls;
    char *ca_file, *certificate_file, *key_file, *user, *password;
    uint32_t timeout_ms, backoff_max_ms;
    char token[ETCD_TOKEN_MAX]; /* "": none yet, or refused */
    bool authenticating;
    struct http_call *authenticate_call;
    struct etcd_call *calls; /* running, or waiting for the token */
    struct etcd_watch *watches;
    uint64_t jitter;
    struct etcd_metrics metrics;
};

/* The connection or the member at `endpoint` failed: use the next one, unless somebody moved on. */
void etcd_endpoint_failed(struct etcd *etcd, uint32_t endpoint);
/* True when a call may start now; otherwise authentication is started if it is not yet under way.
 */
bool etcd_token_ready(struct etcd *etcd);
/* Header with the token, or NULL. Uses `room`. */
const char *etcd_token_header(const struct etcd *etcd, char *room, size_t room_bytes);
void etcd_count(struct etcd *etcd, enum etcd_metric_op op, enum etcd_metric_outcome outcome);

#endif
