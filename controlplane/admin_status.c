#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/admin.h"
#include "controlplane/arbiter_values.h"

#define READY_LAG_EPOCHS 64 /* behind what peers have committed, or in execution */

static const char *admin_role_name(enum mailbox_node_role role) {
    switch (role) {
    case MAILBOX_ROLE_STARTING: return "starting";
    case MAILBOX_ROLE_LEADER: return "leader";
    case MAILBOX_ROLE_FOLLOWER: return "follower";
    case MAILBOX_ROLE_LEARNER: return "learner";
    case MAILBOX_ROLE_RECOVERING: return "recovering";
    case MAILBOX_ROLE_NEEDS_BOOTSTRAP: return "needs-bootstrap";
    case MAILBOX_ROLE_QUARANTINED: return "quarantined";
    case MAILBOX_ROLE_LOST: return "lost";
    }
    return "unknown"; /* a number that is no role: the page was damaged */
}

const char *admin_not_ready(const struct mailbox_facts *facts) {
    if (facts->role != MAILBOX_ROLE_LEADER && facts->role != MAILBOX_ROLE_FOLLOWER)
        return "not a voting member";
    if (facts->leader == MAILBOX_NODE_NONE)
        return "no leader known";
    if (facts->commit_seq > facts->exec_seq + READY_LAG_EPOCHS)
        return "execution is behind";
    for (int i = 0; i < facts->node_count && i < WIRE_NODES_MAX; i++)
        if (facts->peer_commit_seq[i] > facts->commit_seq + READY_LAG_EPOCHS)
            return "behind its peers";
    return NULL;
}

static json_t *hex(const struct wire_hash *hash) {
    char text[2 * sizeof hash->bytes + 1];
    for (size_t i = 0; i < sizeof hash->bytes; i++)
        snprintf(text + 2 * i, 3, "%02x", hash->bytes[i]);
    return json_string(text);
}

static void set(json_t *object, const char *name, json_t *value) {
    (void)json_object_set_new(object, name, value); /* a lost member is a lost member */
}

void admin_number(json_t *object, const char *name, uint64_t number) {
    set(object, name, arbiter_json_number(number));
}

static json_t *node_or_null(uint8_t node) {
    return node == MAILBOX_NODE_NONE ? json_null() : json_integer(node);
}

static json_t *peers_json(const struct admin_setup *setup, const struct mailbox_facts *facts) {
    const struct arbiter_member *members = arbiter_members(setup->arbiter);
    json_t *array = json_array();
    for (int i = 0; i < setup->config->node_count; i++) {
        json_t *peer = json_object();
        set(peer, "node", json_integer(i));
        set(peer, "address", json_string(members[i].address));
        set(peer, "admin", json_string(members[i].admin));
        admin_number(peer, "incarnation",
                     members[i].incarnation > facts->peer_incarnation[i]
                         ? members[i].incarnation
                         : facts->peer_incarnation[i]); /* etcd may have been restored */
        admin_number(peer, "genesis", arbiter_genesis(setup->arbiter)->incarnations[i]);
        if (i != setup->config->node_index) {
            set(peer, "differs", json_boolean(facts->differing >> i & 1));
            admin_number(peer, "commitSeq", facts->peer_commit_seq[i]);
            admin_number(peer, "delayNs", facts->peer_rtt_ns[i]);
            set(peer, "silenceUs",
                facts->peer_silence_us[i] == UINT64_MAX
                    ? json_null()
                    : arbiter_json_number(facts->peer_silence_us[i]));
        }
        (void)json_array_append_new(array, peer);
    }
    return array;
}

static json_t *ranges_json(const struct mailbox_facts *facts) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < facts->range_count && i < MAILBOX_FACTS_RANGES_MAX; i++) {
        json_t *range = json_object();
        admin_number(range, "range", facts->ranges[i].range);
        admin_number(range, "owner", facts->ranges[i].owner);
        set(range, "received", json_integer(facts->ranges[i].received));
        set(range, "committed", json_integer(facts->ranges[i].committed));
        set(range, "executed", json_integer(facts->ranges[i].executed));
        (void)json_array_append_new(array, range);
    }
    return array;
}

/* Moments in us from the last frame of the leader before. */
static json_t *takeover_json(const struct mailbox_takeover *t) {
    if (!t->term)
        return json_null();
    json_t *object = json_object();
    admin_number(object, "term", t->term);
    admin_number(object, "heardAtUs", t->heard_at_us);
    set(object, "distance", json_integer(t->distance));
    admin_number(object, "silentUs", t->silent_us);
    admin_number(object, "aloneUs", t->alone_us);
    admin_number(object, "campaignUs", t->campaign_us);
    admin_number(object, "wonUs", t->won_us);
    admin_number(object, "promisedUs", t->promised_us);
    admin_number(object, "establishedUs", t->established_us);
    admin_number(object, "committedUs", t->committed_us);
    admin_number(object, "pausedUs", t->paused_us);
    admin_number(object, "sliceUs", t->slice_us);
    admin_number(object, "sliceFloorUs", t->floor_us);
    admin_number(object, "sliceRttUs", t->rtt_us);
    admin_number(object, "sliceEtcdUs", t->etcd_us);
    admin_number(object, "sliceGapUs", t->gap_us);
    admin_number(object, "longestGapUs", t->longest_gap_us);
    return object;
}

static json_t *etcd_json(const struct admin_setup *setup) {
    const struct etcd_metrics *metrics = arbiter_etcd_metrics(setup->arbiter);
    if (!metrics)
        return json_null();
    json_t *object = json_object();
    admin_number(object, "failuresInARow", metrics->failures_in_a_row);
    admin_number(object, "deniedInARow", metrics->denied_in_a_row);
    admin_number(object, "noSpace", metrics->no_space);
    set(object, "full", json_boolean(arbiter_health(setup->arbiter)->no_space));
    set(object, "wentBack", json_boolean(arbiter_health(setup->arbiter)->went_back));
    admin_number(object, "latencyUs", arbiter_health(setup->arbiter)->latency_us);
    admin_number(object, "dbBytes", arbiter_health(setup->arbiter)->db_bytes);
    return object;
}

char *admin_status_json(const struct admin_setup *setup) {
    struct mailbox_facts facts;
    mailbox_facts_read(mailbox_status(setup->mailbox), &facts);
    const struct arbiter_leader *key = arbiter_leader(setup->arbiter);
    const char *not_ready = admin_not_ready(&facts);
    json_t *root = json_object();
    set(root, "node", json_integer(setup->config->node_index));
    set(root, "cluster", json_string(setup->config->cluster));
    admin_number(root, "clusterId", setup->identity->cluster_id);
    admin_number(root, "configurationId", setup->identity->configuration_id);
    admin_number(root, "incarnation", setup->identity->incarnation);
    admin_number(root, "processToken", setup->identity->process_token);
    set(root, "role", json_string(admin_role_name(facts.role)));
    set(root, "ready", json_boolean(!not_ready));
    set(root, "notReady", not_ready ? json_string(not_ready) : json_null());
    set(root, "nodeCount", json_integer(setup->config->node_count));
    set(root, "quorum", json_integer(setup->config->quorum));
    set(root, "durable", json_boolean(setup->config->durable));
    admin_number(root, "term", facts.term);
    set(root, "leader", node_or_null(facts.leader));
    admin_number(root, "commitSeq", facts.commit_seq);
    admin_number(root, "execSeq", facts.exec_seq);
    admin_number(root, "lastSeq", facts.last_seq);
    admin_number(root, "acknowledgedSeq", facts.acknowledged_seq);
    set(root, "quarantinedSeq",
        facts.quarantined_seq ? arbiter_json_number(facts.quarantined_seq) : json_null());
    admin_number(root, "logicalTimeUs", facts.logical_time_us);
    set(root, "commitHash", hex(&facts.commit_hash));
    set(root, "resultHash", hex(&facts.result_hash));
    admin_number(root, "stateHashSeq", facts.state_hash_seq);
    set(root, "stateHash", hex(&facts.state_hash));
    set(root, "ringPosition", json_integer(facts.ring_position));
    admin_number(root, "takeoverDelayUs", facts.takeover_delay_us);
    admin_number(root, "sliceUs", facts.slice_us);
    set(root, "takeover", takeover_json(&facts.takeover));
    const struct mailbox_status *page = mailbox_status(setup->mailbox);
    admin_number(root, "epochsCommitted", atomic_load(&page->epochs_committed));
    admin_number(root, "transactionsCommitted", atomic_load(&page->transactions_committed));
    json_t *journal = json_object();
    admin_number(journal, "bytes", atomic_load(&page->log_bytes));
    admin_number(journal, "reservedBytes", atomic_load(&page->log_reserved_bytes));
    admin_number(journal, "floorSeq", atomic_load(&page->log_floor_seq));
    admin_number(journal, "cutSeq", atomic_load(&page->log_cut_seq));
    set(root, "journal", journal);
    admin_number(root, "termBase", arbiter_health(setup->arbiter)->term_base);
    admin_number(root, "termFloor", arbiter_health(setup->arbiter)->term_floor);
    admin_number(root, "publications", arbiter_health(setup->arbiter)->publications);
    const struct epochs_entry *newest = epochs_newest(arbiter_epochs(setup->arbiter));
    admin_number(root, "publishedSeq", newest ? newest->seq : 0);
    json_t *leader_key = json_object();
    set(leader_key, "node", node_or_null(key->node));
    admin_number(leader_key, "revision", key->revision);
    admin_number(leader_key, "term", key->term);
    set(leader_key, "ours", json_boolean(key->ours));
    set(root, "leaderKey", leader_key);
    set(root, "rangeCount", json_integer(facts.range_count));
    set(root, "rangesRetired", json_integer(facts.ranges_retired));
    set(root, "ranges", ranges_json(&facts));
    set(root, "peers", peers_json(setup, &facts));
    set(root, "etcd", etcd_json(setup));
    set(root, "dumps", admin_dumps_json(setup));
    set(root, "bootstrap", admin_bootstrap_json(setup));
    set(root, "alarms", admin_alarms(setup, &facts));
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

/* ---- Prometheus ---- */

static void head(FILE *out, const char *name, const char *type, const char *help) {
    fprintf(out, "# HELP maroon_%s %s\n# TYPE maroon_%s %s\n", name, help, name, type);
}

static void counter(FILE *out, const char *name, const char *help, const _Atomic uint64_t *value) {
    head(out, name, "counter", help);
    fprintf(out, "maroon_%s %" PRIu64 "\n", name,
            atomic_load_explicit(value, memory_order_relaxed));
}

void admin_rows(FILE *out, const struct admin_row *rows, size_t count) {
    for (size_t i = 0; i < count; i++) {
        head(out, rows[i].name, rows[i].type, rows[i].help);
        fprintf(out, "maroon_%s %" PRIu64 "\n", rows[i].name, rows[i].value);
    }
}

static void gauge(FILE *out, const char *name, const char *help, uint64_t value) {
    head(out, name, "gauge", help);
    fprintf(out, "maroon_%s %" PRIu64 "\n", name, value);
}

/* Bounds from 1 us to 34 s; what is outside counts in the first and in +Inf. */
#define BUCKET_FIRST 10
#define BUCKET_LAST 35

static void histogram(FILE *out, const char *name, const char *help,
                      const struct mailbox_histogram *histogram) {
    head(out, name, "histogram", help);
    uint64_t below = 0, total = 0;
    for (int i = 0; i < MAILBOX_HISTOGRAM_BUCKETS; i++) {
        total += atomic_load_explicit(&histogram->buckets[i], memory_order_relaxed);
        if (i <= BUCKET_LAST)
            below = total;
        if (i >= BUCKET_FIRST && i <= BUCKET_LAST)
            fprintf(out, "maroon_%s_bucket{le=\"%.9g\"} %" PRIu64 "\n", name,
                    (double)(UINT64_C(1) << i) * 1e-9, below);
    }
    /* The total of the buckets just read, so that the series agree with each other. */
    fprintf(out, "maroon_%s_bucket{le=\"+Inf\"} %" PRIu64 "\n", name, total);
    fprintf(out, "maroon_%s_sum %.9f\nmaroon_%s_count %" PRIu64 "\n", name,
            (double)atomic_load_explicit(&histogram->sum_ns, memory_order_relaxed) * 1e-9, name,
            total);
}

static void by_stage(FILE *out, const char *name, const char *help,
                     const _Atomic uint64_t values[WIRE_STAGE_COUNT]) {
    static const char *const stages[WIRE_STAGE_COUNT] = {"ingress", "gossip", "fetch"};
    head(out, name, "counter", help);
    for (int i = 0; i < WIRE_STAGE_COUNT; i++)
        fprintf(out, "maroon_%s{stage=\"%s\"} %" PRIu64 "\n", name, stages[i],
                atomic_load_explicit(&values[i], memory_order_relaxed));
}

static const char *const drop_labels[] = {
#define WIRE_DROP(name, label, sentence) label,
#include "proto/wire_drops.def"
#undef WIRE_DROP
};

static void packets(FILE *out, const struct mailbox_status *status) {
    by_stage(out, "rx_packets_total", "packets received", status->rx_packets);
    by_stage(out, "tx_packets_total", "packets sent", status->tx_packets);
    head(out, "rx_dropped_total", "counter", "packets, frames and bodies dropped, by reason");
    for (int i = 0; i < WIRE_DROP_COUNT; i++)
        fprintf(out, "maroon_rx_dropped_total{reason=\"%s\"} %" PRIu64 "\n", drop_labels[i],
                atomic_load_explicit(&status->rx_dropped[i], memory_order_relaxed));
    head(out, "lcore_busy_ratio", "gauge", "share of the last second with work");
    for (int i = 0; i < MAILBOX_LCORES_MAX; i++)
        fprintf(out, "maroon_lcore_busy_ratio{lcore=\"%d\"} %.6f\n", i,
                (double)atomic_load_explicit(&status->lcore_busy_ppm[i], memory_order_relaxed) *
                    1e-6);
}

static void etcd(FILE *out, const struct etcd_metrics *metrics) {
    head(out, "etcd_requests_total", "counter", "requests to etcd by kind and outcome");
    for (int op = 0; op < ETCD_METRIC_OP_COUNT; op++)
        for (int i = 0; i < ETCD_OUTCOME_COUNT; i++)
            fprintf(out, "maroon_etcd_requests_total{op=\"%s\",outcome=\"%s\"} %" PRIu64 "\n",
                    etcd_metric_op_name((enum etcd_metric_op)op),
                    etcd_metric_outcome_name((enum etcd_metric_outcome)i),
                    metrics->requests[op][i]);
    head(out, "etcd_request_seconds", "histogram", "duration of answered requests to etcd");
    uint64_t below = 0;
    for (int i = 0; i < ETCD_BUCKETS; i++) {
        below += metrics->latency_buckets[i];
        if (i >= 6 && i <= 25)
            fprintf(out, "maroon_etcd_request_seconds_bucket{le=\"%.9g\"} %" PRIu64 "\n",
                    (double)(UINT64_C(1) << i) * 1e-6, below);
    }
    fprintf(out,
            "maroon_etcd_request_seconds_bucket{le=\"+Inf\"} %" PRIu64
            "\nmaroon_etcd_request_seconds_sum %.6f\nmaroon_etcd_request_seconds_count %" PRIu64
            "\n",
            metrics->latency_count, (double)metrics->latency_sum_us * 1e-6, metrics->latency_count);
    gauge(out, "etcd_failures_in_a_row", "requests failed since the last answer",
          metrics->failures_in_a_row);
    gauge(out, "etcd_denied_in_a_row", "calls refused to our user since one was taken",
          metrics->denied_in_a_row);
    head(out, "etcd_no_space_total", "counter", "answers saying that etcd's quota is used up");
    fprintf(out, "maroon_etcd_no_space_total %" PRIu64 "\n", metrics->no_space);
}

static void dataplane(FILE *out, const struct mailbox_status *status) {
    counter(out, "epochs_committed_total", "epochs committed here", &status->epochs_committed);
    counter(out, "transactions_committed_total", "transactions in committed epochs",
            &status->transactions_committed);
    counter(out, "transactions_executed_total", "transactions executed here",
            &status->transactions_executed);
    counter(out, "takeovers_total", "terms this process has led", &status->takeovers);
    counter(out, "divergence_total", "results that differed from k others", &status->divergence);
    counter(out, "fetch_requests_total", "requests for missing bodies", &status->fetch_requests);
    counter(out, "fetched_bodies_total", "bodies that came from peers", &status->fetched_bodies);
    counter(out, "window_full_total", "bodies refused beyond a window", &status->window_full);
    counter(out, "results_sent_total", "results sent to gateways", &status->results_sent);
    counter(out, "results_resent_total", "results sent again", &status->results_resent);
    gauge(out, "log_bytes", "bytes of the journal", atomic_load(&status->log_bytes));
    gauge(out, "log_reserved_bytes", "files of the journal",
          atomic_load(&status->log_reserved_bytes));
    gauge(out, "log_floor_seq", "epochs up to here are in a dump and executed by all nodes",
          atomic_load(&status->log_floor_seq));
    gauge(out, "log_cut_seq", "epochs up to here were cut from the journal since the start",
          atomic_load(&status->log_cut_seq));
    gauge(out, "log_epochs", "epochs kept", atomic_load(&status->log_epochs));
    gauge(out, "idempotency_keys", "idempotency keys remembered",
          atomic_load(&status->idempotency_keys));
    gauge(out, "idempotency_keys_max", "keys from which on new ones are refused",
          atomic_load(&status->idempotency_keys_max));
    gauge(out, "body_slots_used", "bodies held", atomic_load(&status->body_slots_used));
    gauge(out, "body_slots", "bodies that can be held", atomic_load(&status->body_slots_total));
    histogram(out, "epoch_latency_seconds", "leader proposes to committed", &status->epoch_latency);
    histogram(out, "leader_gap_seconds", "between frames of one term", &status->leader_gap);
    histogram(
        out, "takeover_gap_seconds",
        "from the last frame of the leader before to the first epoch committed here as leader",
        &status->takeover_gap);
    histogram(out, "log_sync_seconds", "one sync of the journal", &status->log_sync);
}

char *admin_metrics_text(const struct admin_setup *setup) {
    const struct mailbox_status *status = mailbox_status(setup->mailbox);
    struct mailbox_facts facts;
    mailbox_facts_read(status, &facts);
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        return NULL;
    dataplane(out, status);
    packets(out, status);
    gauge(out, "term", "promised term", facts.term);
    gauge(out, "is_leader", "1 when this node leads", facts.role == MAILBOX_ROLE_LEADER);
    gauge(out, "commit_seq", "epochs committed", facts.commit_seq);
    gauge(out, "exec_seq", "epochs executed", facts.exec_seq);
    gauge(out, "ranges_active", "ranges in use", facts.range_count);
    gauge(out, "ranges_retired", "sealed ranges remembered", facts.ranges_retired);
    gauge(out, "ready", "1 when /readyz says so", admin_not_ready(&facts) == NULL);
    const struct arbiter_health *health = arbiter_health(setup->arbiter);
    head(out, "publications_total", "counter", "epochs published by this node");
    fprintf(out, "maroon_publications_total %" PRIu64 "\n", health->publications);
    const struct epochs_entry *newest = epochs_newest(arbiter_epochs(setup->arbiter));
    gauge(out, "published_seq", "newest published epoch known here", newest ? newest->seq : 0);
    static const struct etcd_metrics none; /* without etcd all of these are 0 */
    const struct etcd_metrics *metrics = arbiter_etcd_metrics(setup->arbiter);
    etcd(out, metrics ? metrics : &none);
    gauge(out, "etcd_full", "1 when etcd's quota is used up", health->no_space);
    gauge(out, "etcd_went_back", "1 after a restore, until term_base is raised", health->went_back);
    gauge(out, "refused_term", "a term that was won and goes back; 0: none", health->refused_term);
    gauge(out, "etcd_db_bytes", "database of the member asked last", health->db_bytes);
    gauge(out, "term_base", "added to etcd's revision to make a term", health->term_base);
    admin_bootstrap_metrics(setup, out);
    admin_dumps_metrics(setup, out);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}
