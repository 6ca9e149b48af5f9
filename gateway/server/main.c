/* maroon-gateway: start and end. What it serves: server.h. */
#include "gateway/server/server.h"

#include <fcntl.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "controlplane/log.h"
#include "dataplane/net/from_config.h"
#include "dataplane/net/telemetry.h"
#include "proto/wire.h"
#include <maroon/error.h>

/* What JSON may add to the largest transaction, besides base64's third. */
#define ENVELOPE_BYTES 4096

/* Of the library for each connection, headers included; half of it is set to zero for each request.
 */
#define CONNECTION_BYTES 16384

static struct server server;
static int wake_pipe[2];

static void on_signal(int number) {
    (void)number;
    (void)!write(wake_pipe[1], "s", 1);
}

static void net_configure(const struct config *g, struct net_config *c) {
    net_from_config(g, c);
    c->eal.telemetry = true;
    c->endpoint_count = 1;
    c->endpoints[0] = (struct net_endpoint_config){.stage = WIRE_STAGE_INGRESS,
                                                   .udp_port = (uint16_t)g->udp_port};
    if (c->fabric != NET_FABRIC_UDP && !g->udp_port)
        c->endpoints[0].udp_port = 30000;
}

/* A node of another cluster among those that we were told to use: said once for each. While none of
 * ours is heard it may be ours, restored: then the gateway comes over. */
static void tell_refused(const struct mrn_gateway_facts *f) {
    static uint64_t told[WIRE_NODES_MAX];
    char address[NET_ADDRESS_TEXT_BYTES];
    uint32_t i = 0;
    if (!f->nodes_heard || f->refused_configuration_id == f->configuration_id)
        return;
    while (i < WIRE_NODES_MAX && told[i] && told[i] != f->refused_configuration_id)
        i++;
    if (!f->refused_configuration_id || i == WIRE_NODES_MAX || told[i])
        return;
    told[i] = f->refused_configuration_id;
    mrn_log_warning(
        "node_refused",
        "reason=configuration from=%s theirs=%016" PRIx64 " ours=%016" PRIx64
        " do=\"node-urls names nodes of two clusters: leave the others out\"",
        net_address_format((struct net_address){.ipv4 = f->refused_ipv4, .port = f->refused_port},
                           address),
        f->refused_configuration_id, f->configuration_id);
}

/* A range that turned out to be another gateway's: said once for each. */
static void tell_lost(const struct mrn_gateway_facts *f) {
    static uint64_t told;
    if (f->lost == told)
        return;
    told = f->lost;
    mrn_log_warning("range_lost",
                    "lost=%" PRIu64 " in_doubt=%" PRIu64
                    " do=\"this gateway was not heard for longer than range-ttl-s, or etcd was "
                    "restored; it goes on with another range\"",
                    f->lost, f->doubt);
}

/* Until a signal, or until the pinned range turns out to be another live gateway's: then true. */
static bool wait_for_end(void) {
    for (;;) {
        struct pollfd fd = {.fd = wake_pipe[0], .events = POLLIN};
        struct mrn_gateway_facts f;
        if (poll(&fd, 1, 200) > 0)
            return false;
        mrn_gateway_facts(server.gateway, &f);
        tell_refused(&f);
        tell_lost(&f);
        if (f.range != MRN_GATEWAY_RANGE_NONE || f.range_outcome != WIRE_RANGE_TAKEN)
            continue;
        mrn_log_error("range_taken",
                      "range=%" PRIu64 " held_by=%016" PRIx64
                      " do=\"give another key_range, or stop the gateway that holds it\"",
                      server.config.key_range, f.range_held_by);
        return true;
    }
}

/* `results_kept` bounds transactions; a body is at least as many. */
static uint32_t outstanding_max(const struct config *g) {
    uint32_t power = 1u << 20;
    while (power > g->results_kept)
        power /= 2;
    return power;
}

static int serve(struct net *net) {
    const struct config *g = &server.config;
    struct mrn_gateway_config c = {.node_count = g->node_count,
                                   .pinned_range = g->key_range,
                                   .outstanding_max = outstanding_max(g),
                                   .transaction_max_bytes = g->max_transaction_bytes,
                                   .request_timeout_us = (uint64_t)g->request_timeout_ms * 1000,
                                   .busy = g->poll == CONFIG_POLL_BUSY};
    for (uint32_t i = 0; i < g->node_count; i++) {
        c.nodes[i].ipv4 = g->node[i].ipv4;
        c.nodes[i].port = g->node[i].port;
    }
    server.body_max = g->max_transaction_bytes / 3 * 4 + ENVELOPE_BYTES;
    server.monitor = monitor_start();
    c.observer = monitor_event;
    c.observer_user = server.monitor;
    int error = server.monitor ? mrn_gateway_open(&c, net, &server.gateway) : MRN_ERR_NO_MEMORY;
    if (error) {
        mrn_log_error("gateway_refused", "error=%s why=%s", mrn_error_name(error),
                      mrn_log_quote(mrn_error_text(error)));
        return 1;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)g->http_port)};
    address.sin_addr.s_addr = htonl(g->http_ipv4);
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_ALLOW_SUSPEND_RESUME |
            MHD_ALLOW_UPGRADE,
        (uint16_t)g->http_port, NULL, NULL, server_on_request, &server, MHD_OPTION_SOCK_ADDR,
        &address, MHD_OPTION_NOTIFY_COMPLETED, server_on_completed, NULL,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)g->http_connections_max,
        MHD_OPTION_CONNECTION_TIMEOUT, 120u, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)CONNECTION_BYTES, MHD_OPTION_LISTENING_ADDRESS_REUSE, 1u, MHD_OPTION_END);
    if (!daemon) {
        mrn_log_error("http_refused", "address=%s port=%u why=\"the address cannot be bound\"",
                      g->http_address, g->http_port);
        mrn_gateway_close(server.gateway);
        monitor_stop(server.monitor);
        monitor_free(server.monitor);
        return 1;
    }
    char text[NET_TEXT_BYTES];
    net_describe(net, text, sizeof text);
    mrn_log_info("started", "version=0.1.0 http=%s:%u nodes=%u %s", g->http_address, g->http_port,
                 g->node_count, text);
    error = server_telemetry_start(&server);
    if (error) /* a gateway without it is a gateway */
        mrn_log_warning("telemetry", "error=%s", mrn_error_name(error));
    bool taken = wait_for_end();
    MHD_quiesce_daemon(daemon);
    net_telemetry_stop();
    mrn_gateway_stop(server.gateway); /* calls every waiting request back */
    monitor_stop(server.monitor);
    MHD_stop_daemon(daemon);
    mrn_gateway_close(server.gateway); /* asked until here */
    monitor_free(server.monitor);
    mrn_log_info("stopped", "why=%s", taken ? "range_taken" : "signal");
    return taken ? 1 : 0;
}

int main(int argc, char **argv) {
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
    if (pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK))
        return 1;
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN);
    struct net *net = NULL;
    if (net_start(&n, &net, text)) {
        mrn_log_error("network_refused", "why=%s", mrn_log_quote(text));
        net_eal_stop();
        return 1;
    }
    int status_code = serve(net);
    net_stop(net);
    net_eal_stop();
    return status_code;
}
