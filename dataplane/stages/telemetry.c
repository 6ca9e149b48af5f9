#include "dataplane/stages/telemetry.h"

#include <inttypes.h>
#include <stdio.h>

#include "dataplane/net/telemetry.h"

static uint64_t read_counter(const _Atomic uint64_t *counter) {
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static int counters(const void *shown, struct rte_tel_data *out) {
    const struct mailbox_status *page = shown;
    const struct {
        const char *name;
        const _Atomic uint64_t *counter;
    } all[] = {
        {"epochs_committed_total", &page->epochs_committed},
        {"transactions_committed_total", &page->transactions_committed},
        {"transactions_executed_total", &page->transactions_executed},
        {"takeovers_total", &page->takeovers},
        {"divergence_total", &page->divergence},
        {"fetch_requests_total", &page->fetch_requests},
        {"fetched_bodies_total", &page->fetched_bodies},
        {"window_full_total", &page->window_full},
        {"results_sent_total", &page->results_sent},
        {"results_resent_total", &page->results_resent},
        {"log_bytes", &page->log_bytes},
        {"body_slots_used", &page->body_slots_used},
        {"body_slots", &page->body_slots_total},
    };
    static const char *const stages[WIRE_STAGE_COUNT] = {"ingress", "gossip", "fetch"};
    int failed = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        failed |= rte_tel_data_add_dict_u64(out, all[i].name, read_counter(all[i].counter));
    for (int i = 0; i < WIRE_STAGE_COUNT; i++) {
        char name[48];
        snprintf(name, sizeof name, "rx_packets_total/%s", stages[i]);
        failed |= rte_tel_data_add_dict_u64(out, name, read_counter(&page->rx_packets[i]));
        snprintf(name, sizeof name, "tx_packets_total/%s", stages[i]);
        failed |= rte_tel_data_add_dict_u64(out, name, read_counter(&page->tx_packets[i]));
    }
    for (int i = 0; i < MAILBOX_LCORES_MAX; i++) {
        char name[48];
        snprintf(name, sizeof name, "lcore_busy_ppm/%d", i);
        failed |= rte_tel_data_add_dict_u64(out, name, read_counter(&page->lcore_busy_ppm[i]));
    }
    return failed;
}

static const char *const drop_labels[] = {
#define WIRE_DROP(name, label, sentence) label,
#include "proto/wire_drops.def"
#undef WIRE_DROP
};

static int drops(const void *shown, struct rte_tel_data *out) {
    const struct mailbox_status *page = shown;
    int failed = 0;
    for (int i = 0; i < WIRE_DROP_COUNT; i++)
        failed |=
            rte_tel_data_add_dict_u64(out, drop_labels[i], read_counter(&page->rx_dropped[i]));
    return failed;
}

static int latency(const void *shown, struct rte_tel_data *out) {
    const struct mailbox_status *page = shown;
    const struct {
        const char *name;
        const struct mailbox_histogram *histogram;
    } all[] = {{"epoch_latency", &page->epoch_latency},
               {"leader_gap", &page->leader_gap},
               {"takeover_gap", &page->takeover_gap},
               {"log_sync", &page->log_sync}};
    int failed = 0;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        char name[48];
        snprintf(name, sizeof name, "%s/count", all[i].name);
        failed |= rte_tel_data_add_dict_u64(out, name, read_counter(&all[i].histogram->count));
        snprintf(name, sizeof name, "%s/sum_ns", all[i].name);
        failed |= rte_tel_data_add_dict_u64(out, name, read_counter(&all[i].histogram->sum_ns));
    }
    return failed;
}

static int status(const void *shown, struct rte_tel_data *out) {
    const struct mailbox_status *page = shown;
    struct mailbox_facts facts;
    mailbox_facts_read(page, &facts);
    return rte_tel_data_add_dict_u64(out, "node", facts.node_index) |
           rte_tel_data_add_dict_u64(out, "role", facts.role) |
           rte_tel_data_add_dict_u64(out, "is_leader", facts.role == MAILBOX_ROLE_LEADER) |
           rte_tel_data_add_dict_u64(out, "term", facts.term) |
           rte_tel_data_add_dict_u64(out, "leader", facts.leader) |
           rte_tel_data_add_dict_u64(out, "incarnation", facts.incarnation) |
           rte_tel_data_add_dict_u64(out, "commit_seq", facts.commit_seq) |
           rte_tel_data_add_dict_u64(out, "exec_seq", facts.exec_seq) |
           rte_tel_data_add_dict_u64(out, "last_seq", facts.last_seq) |
           rte_tel_data_add_dict_u64(out, "ranges_active", facts.range_count) |
           rte_tel_data_add_dict_u64(out, "ranges_retired", facts.ranges_retired) |
           rte_tel_data_add_dict_u64(out, "slice_us", facts.slice_us) |
           rte_tel_data_add_dict_u64(out, "takeover_delay_us", facts.takeover_delay_us);
}

static int ranges(const void *shown, struct rte_tel_data *out) {
    const struct mailbox_status *page = shown;
    struct mailbox_facts facts;
    mailbox_facts_read(page, &facts);
    int failed = 0;
    for (uint32_t i = 0; i < facts.range_count && i < MAILBOX_FACTS_RANGES_MAX; i++) {
        char name[48];
        snprintf(name, sizeof name, "%" PRIu64 "/committed", facts.ranges[i].range);
        failed |= rte_tel_data_add_dict_u64(out, name, facts.ranges[i].committed);
        snprintf(name, sizeof name, "%" PRIu64 "/executed", facts.ranges[i].range);
        failed |= rte_tel_data_add_dict_u64(out, name, facts.ranges[i].executed);
    }
    return failed;
}

static const struct net_telemetry_command commands[] = {
    {"/maroon/status", "role, term, positions", status},
    {"/maroon/counters", "counters, as in /metrics", counters},
    {"/maroon/drops", "packets, frames and bodies dropped, by reason", drops},
    {"/maroon/latency", "how many and how long: epochs, gaps of the leader, syncs", latency},
    {"/maroon/ranges", "the first 64 ranges", ranges},
};

int telemetry_start(struct mailbox *mailbox) {
    return net_telemetry_start(commands, sizeof commands / sizeof commands[0],
                               mailbox_status(mailbox));
}
