#include "perf/cluster.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "config/config.h"
#include "dataplane/stages/stage.h"
#include "perf/clock.h"
#include "perf/fabric.h"
#include "runtime/applications/applications.h"
#include <maroon/error.h>

#define KEYS_MAX 24

struct node {
    struct config config;
    struct control_identity identity;
    struct mailbox *mailbox;
    struct stage *stage;
};

struct perf_cluster {
    struct perf_cluster_config config;
    struct net *nets[PERF_FABRIC_HOSTS_MAX];
    struct node nodes[WIRE_NODES_MAX];
    struct perf_client *clients[PERF_CLUSTER_GATEWAYS_MAX];
    uint64_t key_revision, next_range, ranges_checked;
    uint8_t key_node;
    uint32_t quiet_passes;
    uint64_t nodes_ns;
};

/* ---- the arbiter: one key, ranges that are never taken back ---- */

static void tell_key(struct perf_cluster *c) {
    for (uint32_t i = 0; i < c->config.node_count; i++) {
        struct mailbox_down down = {.kind = MAILBOX_DOWN_LEADER_KEY,
                                    .revision = c->key_revision,
                                    .term = c->key_revision,
                                    .node = c->key_revision ? c->key_node : MAILBOX_NODE_NONE,
                                    .ours = c->key_revision && c->key_node == i};
        (void)mailbox_send_down(c->nodes[i].mailbox, &down);
    }
}

static void campaign(struct perf_cluster *c, uint8_t index, const struct mailbox_up *up) {
    bool won = up->revision == c->key_revision;
    struct mailbox_down down = {.kind = MAILBOX_DOWN_CAMPAIGN_RESULT,
                                .campaign = won ? MAILBOX_CAMPAIGN_WON : MAILBOX_CAMPAIGN_LOST};
    if (won) {
        c->key_revision++;
        c->key_node = index;
    }
    down.revision = down.term = c->key_revision;
    down.token = c->key_revision * UINT64_C(0x9e3779b97f4a7c15) | 1;
    (void)mailbox_send_down(c->nodes[index].mailbox, &down);
    tell_key(c);
}

static void arbitrate(struct perf_cluster *c, uint8_t index, const struct mailbox_up *up) {
    struct mailbox *mailbox = c->nodes[index].mailbox;
    struct mailbox_down down = {.owner = up->owner, .range = up->range};
    switch (up->kind) {
    case MAILBOX_UP_CAMPAIGN: campaign(c, index, up); break;
    case MAILBOX_UP_RESIGN:
        if (up->revision == c->key_revision)
            c->key_revision++, tell_key(c);
        break;
    case MAILBOX_UP_RANGE_REQUEST:
        down.kind = MAILBOX_DOWN_RANGE_GRANT;
        down.range = ++c->next_range;
        down.nonce = up->nonce;
        down.held_by = up->owner;
        down.outcome = WIRE_RANGE_GRANTED;
        (void)mailbox_send_down(mailbox, &down);
        break;
    case MAILBOX_UP_RANGE_CHECK:
        c->ranges_checked++;
        down.kind = MAILBOX_DOWN_RANGE_CHECKED;
        down.checked = true;
        (void)mailbox_send_down(mailbox, &down);
        break;
    case MAILBOX_UP_FAILED: fprintf(stderr, "node %u fails: %s\n", index, up->text); exit(1);
    case MAILBOX_UP_RANGE_RENEW:
    case MAILBOX_UP_RANGE_CLOSE:
    case MAILBOX_UP_RANGE_SEALED:
    case MAILBOX_UP_SNAPSHOT_READY:
    case MAILBOX_UP_NEED_SNAPSHOT:
    case MAILBOX_UP_LEARNED:
    case MAILBOX_UP_RESTORED:
    case MAILBOX_UP_DIFFERS:
    case MAILBOX_UP_TAKEOVER:
    case MAILBOX_UP_EPOCH:
    case MAILBOX_UP_REFUSED: break; /* nothing that a measurement waits for */
    }
}

/* ---- open, close ---- */

static void addresses(uint32_t node_count, char *text, size_t room) {
    size_t at = (size_t)snprintf(text, room, "--nodes=");
    for (uint32_t i = 0; i < node_count && at < room; i++)
        at += (size_t)snprintf(text + at, room - at, "%s/ip4/10.0.0.%u/udp/%d", i ? "," : "", i + 1,
                               PERF_FABRIC_PORT);
}

static int configure(struct perf_cluster *c, uint32_t index, char *ret_error) {
    char nodes[512], own[32], directory[512], error[CONFIG_ERROR_BYTES];
    const char *arguments[KEYS_MAX + 8] = {
        "perf", nodes, own,
        "--etcd-endpoints=http://127.0.0.1:1"}; /* never asked: the arbiter is here */
    int count = 4;
    addresses(c->config.node_count, nodes, sizeof nodes);
    snprintf(own, sizeof own, "--index=%u", index);
    if (c->config.data_dir) {
        snprintf(directory, sizeof directory, "--data-dir=%.400s/n%u", c->config.data_dir, index);
        arguments[count++] = "--durability=disk";
        arguments[count++] = directory;
        (void)mkdir(directory + strlen("--data-dir="), 0700); /* the node says why it cannot */
    } else {
        arguments[count++] = "--durability=memory";
    }
    for (uint32_t i = 0; i < c->config.key_count && count < KEYS_MAX; i++)
        arguments[count++] = c->config.keys[i];
    int result = config_load(&c->nodes[index].config, CONFIG_NODE, count,
                             (char *const *)(uintptr_t)arguments, NULL, error);
    if (result)
        snprintf(ret_error, NET_TEXT_BYTES, "%.500s", error);
    return result;
}

static int open_node(struct perf_cluster *c, uint32_t index, char *ret_error) {
    struct node *n = &c->nodes[index];
    int error = configure(c, index, ret_error);
    if (error)
        return error;
    n->identity = (struct control_identity){.configuration_id = 0x6d61726f6f6e,
                                            .incarnation = 1 + index,
                                            .process_token = 1000 + index,
                                            .in_genesis = true,
                                            .node_index = (uint8_t)index,
                                            .node_count = (uint8_t)c->config.node_count,
                                            .quorum = (uint8_t)n->config.quorum};
    for (uint8_t i = 0; i < c->config.node_count; i++)
        n->identity.ring[i] = i;
    memset(n->identity.digest_key.bytes, 7, sizeof n->identity.digest_key.bytes);
    n->identity.genesis_hash = wire_hash_blake2b("perf", 4);
    n->mailbox = mailbox_create(1024);
    struct stage_setup setup = {.config = &n->config,
                                .identity = &n->identity,
                                .net = c->nets[index],
                                .mailbox = n->mailbox};
    setup.applications = applications_list(&setup.application_count);
    if (!n->mailbox) {
        snprintf(ret_error, NET_TEXT_BYTES, "no memory for a mailbox");
        return MRN_ERR_NO_MEMORY;
    }
    return stage_open(&setup, &n->stage, ret_error);
}

static int open_client(struct perf_cluster *c, uint32_t number) {
    struct net_address nodes[WIRE_NODES_MAX];
    for (uint32_t i = 0; i < c->config.node_count; i++)
        nodes[i] = (struct net_address){.ipv4 = perf_fabric_ipv4(i), .port = PERF_FABRIC_PORT};
    struct perf_client_config g = {.net = c->nets[c->config.node_count + number],
                                   .node_count = c->config.node_count,
                                   .nodes = nodes,
                                   .owner = 77000 + number,
                                   .parts_max = c->config.parts_max,
                                   .transaction_max_bytes = c->config.transaction_max_bytes,
                                   .done = c->config.done,
                                   .context = c->config.context};
    c->clients[number] = perf_client_open(&g);
    return c->clients[number] ? 0 : MRN_ERR_NO_MEMORY;
}

struct perf_cluster *perf_cluster_open(const struct perf_cluster_config *config, char *ret_error) {
    struct perf_cluster *c = calloc(1, sizeof *c);
    uint32_t hosts = config->node_count + config->gateway_count + config->guest_count;
    snprintf(ret_error, NET_TEXT_BYTES, "no memory");
    if (!c)
        return NULL;
    c->config = *config;
    int error = perf_fabric_open(hosts, config->node_count, c->nets, ret_error);
    if (error) {
        free(c);
        return NULL;
    }
    for (uint32_t i = 0; !error && i < config->node_count; i++)
        error = open_node(c, i, ret_error);
    for (uint32_t i = 0; !error && i < config->gateway_count; i++)
        error = open_client(c, i);
    if (!error) {
        tell_key(c);
        return c;
    }
    perf_cluster_close(c);
    return NULL;
}

void perf_cluster_close(struct perf_cluster *c) {
    for (uint32_t i = 0; i < c->config.gateway_count; i++)
        perf_client_close(c->clients[i]);
    for (uint32_t i = 0; i < c->config.node_count; i++) {
        stage_close(c->nodes[i].stage);
        mailbox_destroy(c->nodes[i].mailbox);
    }
    perf_fabric_close(c->nets,
                      c->config.node_count + c->config.gateway_count + c->config.guest_count);
    free(c);
}

/* ---- passes ---- */

#define ARBITER_EVERY 64 /* passes; reading a mailbox is a system call */

void perf_cluster_receive(struct perf_cluster *c, uint64_t now_us) {
    for (uint32_t i = 0; i < c->config.gateway_count; i++)
        perf_client_poll(c->clients[i], now_us);
}

static bool turn_of(struct perf_cluster *c, uint32_t node, uint64_t now_us) {
    uint64_t begun_ns = c->config.timed ? perf_clock_cpu_ns() : 0;
    bool work = stage_poll(c->nodes[node].stage);
    c->nodes_ns += c->config.timed ? perf_clock_cpu_ns() - begun_ns : 0;
    perf_cluster_receive(c, now_us);
    return work;
}

/* The leader first, and once more when as many have had their turn as it needs to commit: who comes
 * after them is not waited for, as on cores of their own. With few under way all have a turn more,
 * for what they put off: on cores of their own they had the time until the next comes. */
bool perf_cluster_nodes(struct perf_cluster *c, uint64_t now_us) {
    bool work = false;
    uint32_t count = c->config.node_count;
    for (uint32_t i = 0; i < (count > 2 && c->config.unhurried ? 2 * count : count); i++) {
        work |= turn_of(c, (c->key_node + i) % count, now_us);
        if (i == count / 2 && count > 2)
            work |= turn_of(c, c->key_node, now_us);
    }
    if (++c->quiet_passes < ARBITER_EVERY)
        return work;
    c->quiet_passes = 0;
    for (uint8_t i = 0; i < c->config.node_count; i++) {
        struct mailbox_up up;
        while (mailbox_receive_up(c->nodes[i].mailbox, &up) == 1)
            arbitrate(c, i, &up);
    }
    return work;
}

void perf_cluster_send(struct perf_cluster *c, uint64_t now_us) {
    for (uint32_t i = 0; i < c->config.gateway_count; i++)
        perf_client_flush(c->clients[i], now_us);
}

uint64_t perf_cluster_nodes_ns(const struct perf_cluster *c) {
    return c->nodes_ns;
}

struct net *perf_cluster_net(struct perf_cluster *c, uint32_t number) {
    return c->nets[number];
}

struct perf_client *perf_cluster_client(struct perf_cluster *c, uint32_t number) {
    return c->clients[number];
}

bool perf_cluster_ready(const struct perf_cluster *c, uint64_t now_us) {
    for (uint32_t i = 0; i < c->config.gateway_count; i++)
        if (!perf_client_ready(c->clients[i], now_us))
            return false;
    return true;
}

void perf_cluster_facts(const struct perf_cluster *c, uint32_t index,
                        struct perf_cluster_facts *ret_facts) {
    const struct mailbox_status *s = mailbox_status(c->nodes[index].mailbox);
    *ret_facts = (struct perf_cluster_facts){.epochs_committed = s->epochs_committed,
                                             .transactions_executed = s->transactions_executed,
                                             .fetch_requests = s->fetch_requests};
    struct mailbox_facts facts;
    mailbox_facts_read(s, &facts);
    ret_facts->commit_seq = facts.commit_seq;
    ret_facts->exec_seq = facts.exec_seq;
    ret_facts->last_seq = facts.last_seq;
    ret_facts->result_hash = facts.result_hash;
    for (uint32_t i = 0; i < WIRE_STAGE_COUNT; i++) {
        ret_facts->rx_packets += s->rx_packets[i];
        ret_facts->tx_packets += s->tx_packets[i];
    }
    ret_facts->slots_used = s->body_slots_used;
    ret_facts->ranges_opened = c->ranges_checked;
    for (uint32_t i = 0; i < WIRE_DROP_COUNT; i++)
        ret_facts->dropped += ret_facts->drops[i] = s->rx_dropped[i];
}

uint64_t perf_cluster_lost(const struct perf_cluster *c, uint64_t *ret_tx_full,
                           uint64_t *ret_no_buffer) {
    uint64_t other = 0;
    *ret_tx_full = *ret_no_buffer = 0;
    for (uint32_t i = 0; i < c->config.node_count + c->config.gateway_count; i++)
        for (uint32_t stage = 0; stage < WIRE_STAGE_COUNT; stage++) {
            struct net_endpoint *e = net_endpoint(c->nets[i], (enum wire_stage)stage);
            struct net_counters n;
            if (!e)
                continue;
            net_endpoint_counters(e, &n);
            *ret_tx_full += n.tx_full;
            *ret_no_buffer += n.no_buffer;
            for (uint32_t d = 0; d < WIRE_DROP_COUNT; d++)
                other += n.drops[d];
        }
    return other;
}
