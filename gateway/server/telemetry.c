/* The gateway's facts as commands of DPDK's telemetry socket (server.h). */
#include <errno.h>
#include <pthread.h>
#include <rte_telemetry.h>
#include <stdio.h>
#include <string.h>

#include "gateway/server/server.h"
#include <maroon/error.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct server *shown; /* under `lock`; NULL: nothing to show */

static int status(const struct mrn_gateway_facts *f, struct rte_tel_data *out) {
    return rte_tel_data_add_dict_u64(out, "ready", f->ready) |
           rte_tel_data_add_dict_u64(out, "range", f->range) |
           rte_tel_data_add_dict_u64(out, "offset", f->offset) |
           rte_tel_data_add_dict_u64(out, "committed", f->committed) |
           rte_tel_data_add_dict_u64(out, "limit", f->limit) |
           rte_tel_data_add_dict_u64(out, "outstanding_bodies", f->outstanding) |
           rte_tel_data_add_dict_u64(out, "waiting_requests", f->waiting) |
           rte_tel_data_add_dict_u64(out, "leader", f->leader) |
           rte_tel_data_add_dict_u64(out, "nodes_heard", f->nodes_heard);
}

static int counters(const struct mrn_gateway_facts *f, struct rte_tel_data *out) {
    return rte_tel_data_add_dict_u64(out, "transactions_submitted_total", f->submitted) |
           rte_tel_data_add_dict_u64(out, "transactions_answered_total", f->answered) |
           rte_tel_data_add_dict_u64(out, "window_full_total", f->window_full) |
           rte_tel_data_add_dict_u64(out, "resends_total", f->resent) |
           rte_tel_data_add_dict_u64(out, "ranges_sealed_total", f->sealed) |
           rte_tel_data_add_dict_u64(out, "ranges_lost_total", f->lost) |
           rte_tel_data_add_dict_u64(out, "transactions_in_doubt_total", f->doubt) |
           rte_tel_data_add_dict_u64(out, "rx_packets_total", f->rx_packets) |
           rte_tel_data_add_dict_u64(out, "tx_packets_total", f->tx_packets);
}

static int drops(const struct mrn_gateway_facts *f, struct rte_tel_data *out) {
    const char *name;
    int failed = 0;
    for (uint32_t i = 0; (name = mrn_gateway_drop_name(i)) != NULL; i++)
        failed |= rte_tel_data_add_dict_u64(out, name, f->rx_dropped[i]);
    return failed;
}

static int latency(const struct mrn_gateway_facts *f, struct rte_tel_data *out) {
    return rte_tel_data_add_dict_u64(out, "transaction_latency/count", f->latency_count) |
           rte_tel_data_add_dict_u64(out, "transaction_latency/sum_us", f->latency_sum_us);
}

static const struct {
    const char *command, *help;
    int (*fill)(const struct mrn_gateway_facts *facts, struct rte_tel_data *out);
} commands[] = {
    {"/maroon/status", "the range, its positions, the leader", status},
    {"/maroon/counters", "counters, as in /metrics", counters},
    {"/maroon/drops", "packets and frames dropped, by reason", drops},
    {"/maroon/latency", "how many and how long: sent to result", latency},
};
enum { COMMAND_COUNT = sizeof commands / sizeof commands[0] };

static int on_command(const char *command, const char *parameters, struct rte_tel_data *out) {
    (void)parameters;
    int result = -1;
    if (rte_tel_data_start_dict(out))
        return -1;
    pthread_mutex_lock(&lock);
    for (int i = 0; shown && i < COMMAND_COUNT; i++)
        if (strcmp(command, commands[i].command) == 0) {
            struct mrn_gateway_facts facts;
            mrn_gateway_facts(shown->gateway, &facts);
            result = commands[i].fill(&facts, out) ? -1 : 0;
        }
    pthread_mutex_unlock(&lock);
    return result;
}

int server_telemetry_start(struct server *server) {
    pthread_mutex_lock(&lock);
    shown = server;
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < COMMAND_COUNT; i++) {
        int error = rte_telemetry_register_cmd(commands[i].command, on_command, commands[i].help);
        if (error)
            return error == -ENOMEM ? MRN_ERR_NO_MEMORY : MRN_ERR_INVALID;
    }
    return 0;
}

void server_telemetry_stop(void) {
    pthread_mutex_lock(&lock);
    shown = NULL;
    pthread_mutex_unlock(&lock);
}
