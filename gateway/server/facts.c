/* What the gateway says about itself. */
#include "gateway/server/server.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"

#define LATENCY_BUCKETS 24 /* up to 8 s */

static void counter(FILE *out, const char *name, const char *help, uint64_t value) {
    fprintf(out, "# HELP maroon_%s %s\n# TYPE maroon_%s counter\nmaroon_%s %" PRIu64 "\n", name,
            help, name, name, value);
}

static void gauge(FILE *out, const char *name, const char *help, uint64_t value) {
    fprintf(out, "# HELP maroon_%s %s\n# TYPE maroon_%s gauge\nmaroon_%s %" PRIu64 "\n", name, help,
            name, name, value);
}

static void latency(FILE *out, const struct mrn_gateway_facts *f) {
    uint64_t sum = 0;
    fprintf(out, "# HELP maroon_transaction_latency_seconds sent to result\n"
                 "# TYPE maroon_transaction_latency_seconds histogram\n");
    for (uint32_t i = 0; i < LATENCY_BUCKETS; i++) {
        sum += f->latency[i];
        fprintf(out, "maroon_transaction_latency_seconds_bucket{le=\"%.6f\"} %" PRIu64 "\n",
                (double)((UINT64_C(1) << i) - 1) / 1e6, sum);
    }
    fprintf(out,
            "maroon_transaction_latency_seconds_bucket{le=\"+Inf\"} %" PRIu64
            "\nmaroon_transaction_latency_seconds_sum %.6f\n"
            "maroon_transaction_latency_seconds_count %" PRIu64 "\n",
            f->latency_count, (double)f->latency_sum_us / 1e6, f->latency_count);
}

static void drops(FILE *out, const struct mrn_gateway_facts *f) {
    const char *name;
    fprintf(out, "# HELP maroon_rx_dropped_total packets and frames dropped, by reason\n"
                 "# TYPE maroon_rx_dropped_total counter\n");
    for (uint32_t i = 0; (name = mrn_gateway_drop_name(i)) != NULL; i++)
        fprintf(out, "maroon_rx_dropped_total{reason=\"%s\"} %" PRIu64 "\n", name,
                f->rx_dropped[i]);
}

void server_metrics(struct request *r) {
    struct mrn_gateway_facts f;
    struct monitor_facts m;
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return;
    mrn_gateway_facts(r->server->gateway, &f);
    monitor_facts(r->server->monitor, &m);
    counter(out, "transactions_submitted_total", "taken", f.submitted);
    counter(out, "transactions_answered_total", "with their result", f.answered);
    counter(out, "window_full_total", "times that a full window made requests wait", f.window_full);
    counter(out, "resends_total", "bodies sent again", f.resent);
    counter(out, "ranges_sealed_total", "ranges of ours that were sealed", f.sealed);
    counter(out, "ranges_lost_total", "ranges of ours that turned out to be others'", f.lost);
    counter(out, "transactions_in_doubt_total", "transactions that a lost range ended", f.doubt);
    counter(out, "http_requests_total", "HTTP requests", atomic_load(&r->server->requests));
    counter(out, "http_errors_total", "of them answered with an error",
            atomic_load(&r->server->errors));
    counter(out, "rx_packets_total", "packets received", f.rx_packets);
    counter(out, "tx_packets_total", "packets sent", f.tx_packets);
    drops(out, &f);
    gauge(out, "outstanding_bodies", "sent or about to be, without a result", f.outstanding);
    gauge(out, "waiting_requests", "that the window has no room for", f.waiting);
    gauge(out, "monitor_watchers", "WebSockets of /v1/monitor", m.watchers);
    counter(out, "monitor_events_lost_total", "events that slow watchers did not get", m.lost);
    gauge(out, "ready", "1 when /readyz says so", f.ready);
    latency(out, &f);
    if (fclose(out) == 0)
        server_respond(r, 200, "text/plain; version=0.0.4", text, length);
    else
        free(text);
}

void server_status(struct request *r) {
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
        "\"waiting\":%u,\"window\":%u,\"leader\":%d,\"nodesHeard\":%u,\"nodes\":%u,"
        "\"rangeTaken\":%s,"
        "\"rangeHeldBy\":\"%" PRIu64 "\",\"configurationId\":\"%" PRIu64
        "\",\"submitted\":\"%" PRIu64 "\",\"answered\":\"%" PRIu64 "\",\"resent\":\"%" PRIu64
        "\",\"windowFull\":\"%" PRIu64 "\",\"rangesSealed\":\"%" PRIu64
        "\",\"rangesLost\":\"%" PRIu64 "\",\"inDoubt\":\"%" PRIu64 "\"}",
        f.ready ? "true" : "false", range, f.owner, f.offset, f.committed, f.limit, f.outstanding,
        f.waiting, mrn_gateway_window(r->server->gateway), f.leader == 255 ? -1 : f.leader,
        f.nodes_heard, f.node_count,
        f.range_outcome == WIRE_RANGE_TAKEN && f.range == MRN_GATEWAY_RANGE_NONE ? "true" : "false",
        f.range_held_by, f.configuration_id, f.submitted, f.answered, f.resent, f.window_full,
        f.sealed, f.lost, f.doubt);
    server_respond(r, 200, "application/json", t, (size_t)at);
}

void server_ready(struct request *r) {
    struct mrn_gateway_facts f;
    mrn_gateway_facts(r->server->gateway, &f);
    const char *why = f.range == MRN_GATEWAY_RANGE_NONE && f.range_outcome == WIRE_RANGE_TAKEN
                          ? "the pinned key range is held by another gateway\n"
                      : f.range == MRN_GATEWAY_RANGE_NONE ? "no key range yet\n"
                                                          : "no leader heard\n";
    server_respond_text(r, f.ready ? 200 : 503, "text/plain", f.ready ? "ready\n" : why);
}
