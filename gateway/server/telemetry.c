/* The gateway's facts as commands of DPDK's telemetry socket (server.h). */
#include "dataplane/net/telemetry.h"
#include "gateway/server/server.h"

static struct mrn_gateway_facts facts_of(const void *shown) {
    const struct server *server = shown;
    struct mrn_gateway_facts facts;
    mrn_gateway_facts(server->gateway, &facts);
    return facts;
}

static int status(const void *shown, struct rte_tel_data *out) {
    const struct mrn_gateway_facts f = facts_of(shown);
    return rte_tel_data_add_dict_u64(out, "ready", f.ready) |
           rte_tel_data_add_dict_u64(out, "range", f.range) |
           rte_tel_data_add_dict_u64(out, "offset", f.offset) |
           rte_tel_data_add_dict_u64(out, "committed", f.committed) |
           rte_tel_data_add_dict_u64(out, "limit", f.limit) |
           rte_tel_data_add_dict_u64(out, "outstanding_bodies", f.outstanding) |
           rte_tel_data_add_dict_u64(out, "waiting_requests", f.waiting) |
           rte_tel_data_add_dict_u64(out, "leader", f.leader) |
           rte_tel_data_add_dict_u64(out, "nodes_heard", f.nodes_heard);
}

static int counters(const void *shown, struct rte_tel_data *out) {
    const struct mrn_gateway_facts f = facts_of(shown);
    return rte_tel_data_add_dict_u64(out, "transactions_submitted_total", f.submitted) |
           rte_tel_data_add_dict_u64(out, "transactions_answered_total", f.answered) |
           rte_tel_data_add_dict_u64(out, "window_full_total", f.window_full) |
           rte_tel_data_add_dict_u64(out, "resends_total", f.resent) |
           rte_tel_data_add_dict_u64(out, "ranges_sealed_total", f.sealed) |
           rte_tel_data_add_dict_u64(out, "ranges_lost_total", f.lost) |
           rte_tel_data_add_dict_u64(out, "transactions_in_doubt_total", f.doubt) |
           rte_tel_data_add_dict_u64(out, "rx_packets_total", f.rx_packets) |
           rte_tel_data_add_dict_u64(out, "tx_packets_total", f.tx_packets);
}

static int drops(const void *shown, struct rte_tel_data *out) {
    const struct mrn_gateway_facts f = facts_of(shown);
    const char *name;
    int failed = 0;
    for (uint32_t i = 0; (name = mrn_gateway_drop_name(i)) != NULL; i++)
        failed |= rte_tel_data_add_dict_u64(out, name, f.rx_dropped[i]);
    return failed;
}

static int latency(const void *shown, struct rte_tel_data *out) {
    const struct mrn_gateway_facts f = facts_of(shown);
    return rte_tel_data_add_dict_u64(out, "transaction_latency/count", f.latency_count) |
           rte_tel_data_add_dict_u64(out, "transaction_latency/sum_us", f.latency_sum_us);
}

static const struct net_telemetry_command commands[] = {
    {"/maroon/status", "the range, its positions, the leader", status},
    {"/maroon/counters", "counters, as in /metrics", counters},
    {"/maroon/drops", "packets and frames dropped, by reason", drops},
    {"/maroon/latency", "how many and how long: sent to result", latency},
};

int server_telemetry_start(const struct server *server) {
    return net_telemetry_start(commands, sizeof commands / sizeof commands[0], server);
}
