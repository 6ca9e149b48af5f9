#include "arbiter_node.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static void on_ready(void *context, int error) {
    struct arbiter_node *node = context;
    node->ready = true;
    node->error = error;
}
static void on_leader(void *context, const struct arbiter_leader *leader) {
    struct arbiter_node *node = context;
    node->leader = *leader;
    node->leaders++;
}
static void on_campaign(void *context, enum mailbox_campaign result,
                        const struct arbiter_leader *leader) {
    struct arbiter_node *node = context;
    node->campaigned = true;
    node->won = result != MAILBOX_CAMPAIGN_LOST;
    node->wins += node->won;
    node->campaign = *leader;
}
static void on_members(void *context) {
    ((struct arbiter_node *)context)->members++;
}
static void on_grant(void *context, const struct arbiter_grant *grant) {
    struct arbiter_node *node = context;
    assert(node->grant_count < NODE_GRANTS_MAX);
    node->grants[node->grant_count++] = *grant;
}
static void on_checked(void *context, uint64_t range, uint64_t owner, bool owned, uint32_t start) {
    (void)start;
    struct arbiter_node *node = context;
    (void)range;
    (void)owner;
    node->checked_count++;
    node->checked_owned = owned;
}
static void on_expired(void *context, uint64_t range, uint64_t owner) {
    struct arbiter_node *node = context;
    node->expired_range = range;
    node->expired_owner = owner;
    node->expired_count++;
}
static void on_latency(void *context, uint64_t us) {
    (void)us;
    ((struct arbiter_node *)context)->polls++;
}
static void on_index_lost(void *context, const struct arbiter_member *other) {
    (void)other;
    ((struct arbiter_node *)context)->index_losses++;
}

static void on_published(void *context, const struct epochs_entry *entry) {
    (void)entry;
    ((struct arbiter_node *)context)->published_count++;
}
static void on_publish_done(void *context, int error) {
    struct arbiter_node *node = context;
    node->publish_done = true;
    node->publish_error = error;
}

void arbiter_node_setup(struct arbiter_node *node, const char *endpoints, uint8_t index,
                        uint8_t count) {
    memset(node, 0, sizeof *node);
    struct control_config *config = &node->config;
    snprintf(config->cluster, sizeof config->cluster, "test");
    config->node_index = index;
    config->node_count = count;
    config->quorum = (uint8_t)(count / 2 + 1);
    config->limits.results_kept = 4096;
    config->limits.idempotency_keys = 1000;
    config->arbiter = endpoints ? CONTROL_ARBITER_ETCD : CONTROL_ARBITER_EMBEDDED;
    config->lease_ttl_s = 2;
    config->range_ttl_s = 2;
    config->etcd.endpoints = endpoints;
    snprintf(config->address, sizeof config->address, "127.0.0.1:%d", 3000 + index);
    for (int i = 0; i < count; i++)
        config->member_keys[i][0] = (uint8_t)(i + 1);
}

void arbiter_node_open(struct arbiter_node *node, struct loop *loop, struct http_client *http) {
    node->sink = (struct arbiter_sink){on_ready,     on_leader,       on_campaign,   on_members,
                                       on_grant,     on_checked,      on_expired,    on_latency,
                                       on_published, on_publish_done, on_index_lost, node};
    struct arbiter_setup setup = {.config = &node->config,
                                  .process_token = arbiter_random(),
                                  .loop = loop,
                                  .http = http,
                                  .sink = &node->sink};
    node->arbiter = node->config.arbiter == CONTROL_ARBITER_ETCD ? arbiter_etcd_open(&setup)
                                                                 : arbiter_embedded_open(&setup);
}

void arbiter_node_close(struct arbiter_node *node) {
    arbiter_destroy(node->arbiter);
    node->arbiter = NULL;
}

void arbiter_nodes_open(struct arbiter_node *nodes, uint8_t count, struct loop *loop,
                        struct http_client *http) {
    for (uint8_t i = 0; i < count; i++) {
        arbiter_node_open(&nodes[i], loop, http);
        assert(nodes[i].arbiter);
    }
    for (uint8_t i = 0; i < count; i++) {
        bool up = arbiter_run_until(loop, &nodes[i].ready, PATIENCE_MS);
        assert(up && !nodes[i].error);
        (void)up;
    }
}

void arbiter_nodes_close(struct arbiter_node *nodes, uint8_t count) {
    for (uint8_t i = 0; i < count; i++)
        arbiter_node_close(&nodes[i]);
}

bool arbiter_run_until(struct loop *loop, const bool *flag, int limit_ms) {
    uint64_t until = fixture_now_ms() + (uint64_t)limit_ms;
    while (!*flag && fixture_now_ms() < until)
        loop_run_once(loop, 20);
    return *flag;
}

void arbiter_run_for(struct loop *loop, int ms) {
    bool never = false;
    arbiter_run_until(loop, &never, ms);
}

bool arbiter_run_grants(struct loop *loop, const struct arbiter_node *node, uint32_t count,
                        int limit_ms) {
    uint64_t until = fixture_now_ms() + (uint64_t)limit_ms;
    while (node->grant_count < count && fixture_now_ms() < until)
        loop_run_once(loop, 20);
    return node->grant_count >= count;
}
