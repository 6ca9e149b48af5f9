/* perf_cluster: nodes and gateways of one cluster on one thread, by turns: real stages, replicas
 * and runtimes over a perf_fabric, and a small arbiter in place of etcd (as the control plane, it
 * only speaks through the nodes' mailboxes).
 *
 *   open --pass until ready--> ready --pass ...--> close
 *
 * Threads: one. Errors: a fail-stop of a node ends the process with its reason: a measurement of a
 * broken cluster is worth nothing. */
#ifndef MAROON_PERF_CLUSTER_H
#define MAROON_PERF_CLUSTER_H

#include "perf/client.h"

#define PERF_CLUSTER_GATEWAYS_MAX 64

struct perf_cluster;

struct perf_cluster_config {
    uint32_t node_count, gateway_count;
    uint32_t guest_count;           /* hosts behind them with nothing on them: perf_cluster_net */
    uint32_t parts_max;             /* of each gateway; power of two */
    uint32_t transaction_max_bytes; /* of each gateway */
    const char *const *keys;        /* flags for the nodes' config, e.g. "--epoch-cap=256" */
    uint32_t key_count;
    bool unhurried;       /* few transactions are under way: nodes have a turn more in each pass */
    bool timed;           /* perf_cluster_nodes_ns counts; of CPU; takes two system calls a turn */
    const char *data_dir; /* of all nodes, each in a directory there; NULL: durability = memory */
    perf_client_done done;
    void *context;
};

/* Returns NULL with a sentence in ret_error (NET_TEXT_BYTES). */
struct perf_cluster *perf_cluster_open(const struct perf_cluster_config *config, char *ret_error);
void perf_cluster_close(struct perf_cluster *cluster);

/* A pass of every node, with the gateways receiving after each, and of the arbiter now and then.
 * Returns whether a node had work. */
bool perf_cluster_nodes(struct perf_cluster *cluster, uint64_t now_us);
/* What the turns of all nodes took of the CPU so far, gateways not included. */
uint64_t perf_cluster_nodes_ns(const struct perf_cluster *cluster);
/* Receives at every gateway. */
void perf_cluster_receive(struct perf_cluster *cluster, uint64_t now_us);
/* Sends what was submitted, and what must go again. */
void perf_cluster_send(struct perf_cluster *cluster, uint64_t now_us);

/* Host `number` of the fabric: nodes, gateways, guests. */
struct net *perf_cluster_net(struct perf_cluster *cluster, uint32_t number);
struct perf_client *perf_cluster_client(struct perf_cluster *cluster, uint32_t number);

/* Every gateway holds a range and has heard a leader. */
bool perf_cluster_ready(const struct perf_cluster *cluster, uint64_t now_us);

/* Sums and positions of node `index`, for the report. */
struct perf_cluster_facts {
    uint64_t epochs_committed, transactions_executed, rx_packets, tx_packets, fetch_requests,
        dropped, slots_used;
    uint64_t ranges_opened;          /* the arbiter agreed */
    uint64_t drops[WIRE_DROP_COUNT]; /* by enum wire_drop */
    uint64_t commit_seq, exec_seq, last_seq;
    struct wire_hash result_hash;
};
/* Packets that the fabric lost, over all hosts: no room to send, no buffer, other reasons. */
uint64_t perf_cluster_lost(const struct perf_cluster *cluster, uint64_t *ret_tx_full,
                           uint64_t *ret_no_buffer);

void perf_cluster_facts(const struct perf_cluster *cluster, uint32_t index,
                        struct perf_cluster_facts *ret_facts);

#endif
