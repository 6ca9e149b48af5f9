/* Genesis, incarnations, the leader key and ranges on a real etcd, with answers that get lost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arbiter_node.h"
#include "controlplane/log.h"
#include "maroon/error.h"

static struct fixture_etcd server;
static struct fixture_proxy *proxy;
static struct loop *loop;
static struct http_client *http;
static char proxied[64];
static int cluster_number;

static uint32_t lease_ttl_s, range_ttl_s; /* of the next cluster; 0: arbiter_node_setup's */

/* Each test has a cluster of its own in the same etcd. */
static void open_cluster(struct arbiter_node *nodes, uint8_t count, const char *endpoint) {
    cluster_number++;
    for (uint8_t i = 0; i < count; i++) {
        arbiter_node_setup(&nodes[i], endpoint, i, count);
        snprintf(nodes[i].config.cluster, sizeof nodes[i].config.cluster, "t%d", cluster_number);
        if (lease_ttl_s)
            nodes[i].config.lease_ttl_s = lease_ttl_s;
        if (range_ttl_s)
            nodes[i].config.range_ttl_s = range_ttl_s;
    }
    arbiter_nodes_open(nodes, count, loop, http);
}

static void assert_same_genesis(const struct arbiter_node *a, const struct arbiter_node *b) {
    struct wire_hash one = arbiter_genesis_hash(arbiter_genesis(a->arbiter));
    struct wire_hash two = arbiter_genesis_hash(arbiter_genesis(b->arbiter));
    assert_memory_equal(one.bytes, two.bytes, sizeof one.bytes);
}

static void test_three_nodes_make_one_genesis(void **state) {
    (void)state;
    static struct arbiter_node nodes[3];
    open_cluster(nodes, 3, server.endpoint);
    for (int i = 0; i < 3; i++) {
        assert_same_genesis(&nodes[0], &nodes[i]);
        /* All came in time, so all are listed. */
        assert_int_equal(arbiter_genesis(nodes[0].arbiter)->incarnations[i],
                         arbiter_incarnation(nodes[i].arbiter));
        assert_true(arbiter_incarnation(nodes[i].arbiter) > 0);
    }
    arbiter_nodes_close(nodes, 3);
}

static void test_genesis_needs_k_and_a_late_node_is_not_listed(void **state) {
    (void)state;
    static struct arbiter_node nodes[3];
    cluster_number++;
    for (uint8_t i = 0; i < 3; i++) {
        arbiter_node_setup(&nodes[i], server.endpoint, i, 3);
        snprintf(nodes[i].config.cluster, sizeof nodes[i].config.cluster, "t%d", cluster_number);
    }
    arbiter_node_open(&nodes[0], loop, http);
    arbiter_run_for(loop, 1500);
    assert_false(nodes[0].ready); /* one of three is no quorum */
    arbiter_node_open(&nodes[1], loop, http);
    assert_true(arbiter_run_until(loop, &nodes[0].ready, PATIENCE_MS));
    assert_true(arbiter_run_until(loop, &nodes[1].ready, PATIENCE_MS));
    arbiter_node_open(&nodes[2], loop, http);
    assert_true(arbiter_run_until(loop, &nodes[2].ready, PATIENCE_MS));
    assert_same_genesis(&nodes[0], &nodes[2]);
    assert_int_equal(arbiter_genesis(nodes[2].arbiter)->incarnations[2], 0);
    arbiter_nodes_close(nodes, 3);
}

static void test_genesis_survives_lost_answers(void **state) {
    (void)state;
    static struct arbiter_node nodes[3];
    fixture_proxy_cut_percent(proxy, 40);
    uint64_t cuts = fixture_proxy_cuts(proxy);
    open_cluster(nodes, 3, proxied);
    fixture_proxy_cut_percent(proxy, 0);
    assert_true(fixture_proxy_cuts(proxy) > cuts);
    assert_same_genesis(&nodes[0], &nodes[1]);
    assert_same_genesis(&nodes[0], &nodes[2]);
    arbiter_nodes_close(nodes, 3);
}

static void test_memory_node_comes_back_with_a_greater_incarnation(void **state) {
    (void)state;
    static struct arbiter_node nodes[3];
    open_cluster(nodes, 3, server.endpoint);
    uint64_t before = arbiter_incarnation(nodes[1].arbiter);
    uint32_t members = nodes[0].members;
    arbiter_node_close(&nodes[1]);
    nodes[1].ready = false;
    arbiter_node_open(&nodes[1], loop, http);
    assert_true(arbiter_run_until(loop, &nodes[1].ready, PATIENCE_MS));
    assert_true(arbiter_incarnation(nodes[1].arbiter) > before);
    assert_int_equal(arbiter_genesis(nodes[1].arbiter)->incarnations[1], before);
    /* The others are told. */
    assert_true(arbiter_await(loop,
                              arbiter_members(nodes[0].arbiter)[1].incarnation ==
                                  arbiter_incarnation(nodes[1].arbiter),
                              5000));
    assert_true(nodes[0].members > members);
    arbiter_nodes_close(nodes, 3);
}

static void test_disk_node_keeps_its_incarnation_and_an_old_disk_is_refused(void **state) {
    (void)state;
    static struct arbiter_node nodes[1];
    char first[64], second[64];
    fixture_make_dir(first, sizeof first);
    fixture_make_dir(second, sizeof second);
    cluster_number++;
    uint64_t incarnations[3];
    const char *dirs[4] = {first, first, second, first};
    for (int i = 0; i < 4; i++) {
        arbiter_node_setup(&nodes[0], server.endpoint, 0, 1);
        snprintf(nodes[0].config.cluster, sizeof nodes[0].config.cluster, "t%d", cluster_number);
        snprintf(nodes[0].config.data_dir, sizeof nodes[0].config.data_dir, "%s", dirs[i]);
        nodes[0].config.durable = true;
        arbiter_node_open(&nodes[0], loop, http);
        assert_true(arbiter_run_until(loop, &nodes[0].ready, PATIENCE_MS));
        if (i < 3) {
            assert_int_equal(nodes[0].error, 0);
            incarnations[i] = arbiter_incarnation(nodes[0].arbiter);
        } else {
            assert_int_equal(nodes[0].error, MRN_ERR_EXISTS);
        }
        arbiter_node_close(&nodes[0]);
    }
    assert_int_equal(incarnations[1], incarnations[0]);
    assert_true(incarnations[2] > incarnations[0]);
    fixture_remove_dir(first);
    fixture_remove_dir(second);
}

/* What goes to stderr between these two. */
static FILE *listen_to_stderr(int *ret_kept) {
    FILE *said = tmpfile();
    assert_non_null(said);
    fflush(stderr);
    *ret_kept = dup(STDERR_FILENO);
    assert_true(dup2(fileno(said), STDERR_FILENO) >= 0);
    return said;
}

static void expect_said(FILE *said, int kept, const char *words) {
    char text[8192];
    fflush(stderr);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    rewind(said);
    size_t length = fread(text, 1, sizeof text - 1, said);
    text[length] = '\0';
    fclose(said);
    if (!strstr(text, words))
        fail_msg("\"%s\" was wanted, and said was: %s", words, text);
}

/* Each is refused with the two values. */
static void test_other_configuration_is_refused(void **state) {
    (void)state;
    static struct arbiter_node nodes[3], other;
    static const char *const said[] = {
        "what=quorum ours=3 cluster=2 ",           "what=node_count ours=5 cluster=3 ",
        "what=results-kept ours=17 cluster=4096 ", "what=idempotency-keys ours=1001 cluster=",
        "what=durable ours=1 cluster=0 ",          "what=member_key index=1 ours=",
    };
    open_cluster(nodes, 3, server.endpoint);
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        arbiter_node_setup(&other, server.endpoint, 2, 3);
        snprintf(other.config.cluster, sizeof other.config.cluster, "t%d", cluster_number);
        switch (i) {
        case 0: other.config.quorum = 3; break;
        case 1: other.config.node_count = 5, other.config.quorum = 3; break;
        case 2: other.config.limits.results_kept = 17; break;
        case 3: other.config.limits.idempotency_keys = 1001; break;
        case 4: other.config.durable = !other.config.durable; break;
        case 5: other.config.member_keys[1][5] = 1; break;
        }
        int kept;
        FILE *heard = listen_to_stderr(&kept);
        arbiter_node_open(&other, loop, http);
        bool ready = arbiter_run_until(loop, &other.ready, PATIENCE_MS);
        expect_said(heard, kept, said[i]);
        assert_true(ready);
        assert_int_equal(other.error, MRN_ERR_MISMATCH);
        arbiter_node_close(&other);
    }
    /* Of another program. */
    const struct arbiter_setup *setup = &((struct arbiter *)nodes[0].arbiter)->setup;
    struct arbiter_genesis genesis = *arbiter_genesis(nodes[0].arbiter);
    char wanted[80];
    int kept;
    assert_int_equal(arbiter_check_genesis(setup, &genesis), 0);
    genesis.protocol_version++;
    snprintf(wanted, sizeof wanted, "what=protocol_version ours=%d cluster=%d ", WIRE_VERSION,
             WIRE_VERSION + 1);
    FILE *heard = listen_to_stderr(&kept);
    int error = arbiter_check_genesis(setup, &genesis);
    expect_said(heard, kept, wanted);
    assert_int_equal(error, MRN_ERR_MISMATCH);
    arbiter_nodes_close(nodes, 3);
}

/* The fabric as a starting node sees it: who answers there, if anybody. The real one is asked in
 * tests/cluster/ctl.py and tests/unit/net/test_probe.c. */
struct fabric {
    struct control_probe probe;
    bool alive, own; /* somebody answers there; the address is the asker's */
    uint64_t token, nonce;
    uint32_t asks;
};

static bool fabric_ask(void *context, const char *address, uint64_t nonce) {
    struct fabric *fabric = context;
    assert_string_equal(address, "10.0.0.1:3000");
    fabric->asks++;
    fabric->nonce = fabric->alive ? nonce : 0;
    return !fabric->own;
}

static void fabric_serve(void *context, uint64_t token) {
    (void)context;
    (void)token;
}

static bool fabric_answer(void *context, uint64_t nonce, uint64_t *ret_token) {
    const struct fabric *fabric = context;
    if (fabric->nonce != nonce)
        return false;
    *ret_token = fabric->token;
    return true;
}

/* Starts another process of node 0; what became of it, and how long that took. */
static int start_another(struct arbiter_node *node, const struct arbiter_node *like,
                         struct fabric *fabric, uint64_t *ret_ms) {
    *node = *like;
    node->ready = false;
    fabric->probe = (struct control_probe){
        .ask = fabric_ask, .serve = fabric_serve, .answer = fabric_answer, .context = fabric};
    node->config.probe = &fabric->probe;
    uint64_t began_ms = fixture_now_ms();
    arbiter_node_open(node, loop, http);
    assert_true(arbiter_run_until(loop, &node->ready, PATIENCE_MS));
    *ret_ms = fixture_now_ms() - began_ms;
    return node->error;
}

static void test_index_of_a_live_node_is_refused(void **state) {
    (void)state;
    static struct arbiter_node first, nodes[4];
    uint64_t ms;
    cluster_number++;
    arbiter_node_setup(&first, server.endpoint, 0, 1);
    snprintf(first.config.cluster, sizeof first.config.cluster, "t%d", cluster_number);
    snprintf(first.config.address, sizeof first.config.address, "10.0.0.1:3000");
    arbiter_node_open(&first, loop, http);
    assert_true(arbiter_run_until(loop, &first.ready, PATIENCE_MS));

    /* The registered process answers there: it lives. */
    struct fabric fabric = {.alive = true, .token = first.arbiter->setup.process_token};
    assert_int_equal(start_another(&nodes[0], &first, &fabric, &ms), MRN_ERR_EXISTS);
    assert_in_range(fabric.asks, 1, 2);
    arbiter_run_for(loop, 300);
    assert_int_equal(first.index_losses, 0); /* nothing was registered */

    /* Nobody answers, to several questions: it is dead, its index may be taken. */
    fabric = (struct fabric){0};
    assert_int_equal(start_another(&nodes[1], &first, &fabric, &ms), 0);
    assert_true(fabric.asks > 5 && ms >= 1000);
    arbiter_run_for(loop, 300);
    assert_true(first.index_losses > 0); /* should it live after all, it is told */

    /* Another process answers: the address has been given to another node since. */
    fabric = (struct fabric){.alive = true, .token = 4711};
    assert_int_equal(start_another(&nodes[2], &first, &fabric, &ms), 0);
    assert_true(ms < 1000);

    /* The address is our own: the process before us is dead, and there is nobody to ask. */
    fabric = (struct fabric){.own = true};
    assert_int_equal(start_another(&nodes[3], &first, &fabric, &ms), 0);
    assert_true(fabric.asks == 1 && ms < 1000);
    arbiter_node_close(&first);
    for (int i = 0; i < 4; i++)
        arbiter_node_close(&nodes[i]);
}

/* ---- leader key ---- */

static void run_campaigns(struct arbiter_node *nodes, int count) {
    for (int i = 0; i < count; i++)
        assert_true(arbiter_run_until(loop, &nodes[i].campaigned, PATIENCE_MS));
}

static void test_duel_has_one_winner_and_the_loser_knows(void **state) {
    (void)state;
    static struct arbiter_node nodes[3];
    open_cluster(nodes, 3, server.endpoint);
    uint64_t revision = 0, last_term = 0;
    for (int round = 0; round < 10; round++) {
        int winners = 0, winner = -1;
        for (int i = 0; i < 3; i++) {
            nodes[i].campaigned = false;
            arbiter_campaign(nodes[i].arbiter, revision);
        }
        run_campaigns(nodes, 3);
        for (int i = 0; i < 3; i++)
            if (nodes[i].won) {
                winners++;
                winner = i;
            }
        assert_int_equal(winners, 1);
        assert_true(nodes[winner].campaign.term > last_term);
        for (int i = 0; i < 3; i++) { /* all see the same key; only the winner as its own */
            assert_true(arbiter_await(
                loop, nodes[i].leader.revision == nodes[winner].campaign.revision, PATIENCE_MS));
            assert_int_equal(nodes[i].leader.node, winner);
            assert_int_equal(nodes[i].leader.ours, i == winner);
        }
        revision = nodes[winner].campaign.revision;
        last_term = nodes[winner].campaign.term;
    }
    /* A campaign against an older revision loses. */
    nodes[0].campaigned = false;
    arbiter_campaign(nodes[0].arbiter, revision - 1);
    run_campaigns(nodes, 1);
    assert_false(nodes[0].won);
    arbiter_nodes_close(nodes, 3);
}

/* Both know the same key, and whoever's token is in it was told so. */
static bool duel_is_settled(const struct arbiter_node *nodes) {
    return nodes[0].leader.revision != 0 && nodes[0].leader.revision == nodes[1].leader.revision &&
           (!nodes[0].leader.ours || nodes[0].won) && (!nodes[1].leader.ours || nodes[1].won);
}

static void test_duel_with_lost_answers(void **state) {
    (void)state;
    static struct arbiter_node nodes[2];
    open_cluster(nodes, 2, proxied);
    uint64_t revision = 0;
    uint64_t cuts = fixture_proxy_cuts(proxy);
    for (int round = 0; round < 12; round++) {
        fixture_proxy_cut_percent(proxy, 50);
        for (int i = 0; i < 2; i++) {
            nodes[i].campaigned = false;
            arbiter_campaign(nodes[i].arbiter, revision);
        }
        run_campaigns(nodes, 2);
        fixture_proxy_cut_percent(proxy, 0);
        assert_true(arbiter_await(loop, duel_is_settled(nodes), PATIENCE_MS));
        assert_false(nodes[0].won && nodes[1].won); /* one process at most may lead */
        for (int i = 0; i < 2; i++) {
            if (nodes[i].won)
                assert_int_equal(nodes[i].leader.node, i);
        }
        revision = nodes[0].leader.revision;
    }
    assert_true(fixture_proxy_cuts(proxy) > cuts + 5);
    assert_true(nodes[0].wins + nodes[1].wins > 3);
    arbiter_nodes_close(nodes, 2);
}

static void test_key_outlives_its_ttl_while_the_node_lives_and_ends_with_it(void **state) {
    (void)state;
    static struct arbiter_node nodes[2];
    open_cluster(nodes, 2, server.endpoint);
    arbiter_campaign(nodes[0].arbiter, 0);
    run_campaigns(nodes, 1);
    assert_true(nodes[0].won);
    arbiter_run_for(loop, 4000); /* twice the lease */
    assert_int_equal(nodes[1].leader.node, 0);
    assert_int_equal(nodes[1].leader.revision, nodes[0].campaign.revision);
    arbiter_node_close(&nodes[0]);
    uint64_t until = fixture_now_ms() + PATIENCE_MS;
    while (nodes[1].leader.node == 0 && fixture_now_ms() < until)
        loop_run_once(loop, 50);
    assert_int_equal(nodes[1].leader.node, MAILBOX_NODE_NONE);
    assert_int_equal(nodes[1].leader.revision, 0);
    arbiter_node_close(&nodes[1]);
}

static void test_resign_deletes_only_its_own_key(void **state) {
    (void)state;
    static struct arbiter_node nodes[2];
    open_cluster(nodes, 2, server.endpoint);
    arbiter_campaign(nodes[0].arbiter, 0);
    run_campaigns(nodes, 1);
    uint64_t first = nodes[0].campaign.revision;
    arbiter_campaign(nodes[1].arbiter, first);
    assert_true(arbiter_run_until(loop, &nodes[1].campaigned, PATIENCE_MS));
    assert_true(nodes[1].won);
    arbiter_resign(nodes[0].arbiter, first); /* late: the key is another's by now */
    arbiter_run_for(loop, 300);
    assert_true(arbiter_await(loop, nodes[0].leader.node == 1, PATIENCE_MS));
    arbiter_resign(nodes[1].arbiter, nodes[1].campaign.revision);
    assert_true(arbiter_await(loop, nodes[0].leader.node == MAILBOX_NODE_NONE, PATIENCE_MS));
    assert_true(arbiter_await(loop, nodes[1].leader.node == MAILBOX_NODE_NONE, PATIENCE_MS));
    arbiter_nodes_close(nodes, 2);
}

/* Who is told of its win when another has the key already, and its replica has promised that one's
 * term, gives up without an alarm: etcd did not go back. */
static void test_a_win_that_is_told_late_is_a_loss_and_no_alarm(void **state) {
    (void)state;
    static struct arbiter_node late, quick;
    lease_ttl_s = 20;
    open_cluster(&late, 1, proxied);
    cluster_number--;
    open_cluster(&quick, 1, server.endpoint); /* another process of the same node: it has a key */
    fixture_proxy_delay_ms(proxy, 1000);
    arbiter_campaign(late.arbiter, 0);
    uint64_t until = fixture_now_ms() + PATIENCE_MS;
    while (quick.leader.revision == 0 && fixture_now_ms() < until)
        loop_run_once(loop, 10);
    uint64_t taken = quick.leader.revision;
    arbiter_campaign(quick.arbiter, taken);
    assert_true(arbiter_run_until(loop, &quick.campaigned, PATIENCE_MS));
    assert_false(late.campaigned);
    arbiter_term_floor(late.arbiter, quick.campaign.term);
    assert_true(arbiter_run_until(loop, &late.campaigned, PATIENCE_MS));
    fixture_proxy_delay_ms(proxy, 0);
    assert_true(taken > 0 && quick.won);
    assert_false(late.won);
    assert_int_equal(late.wins, 0);
    arbiter_run_for(loop, 1500); /* both ask for the key by themselves every second */
    assert_int_equal(arbiter_health(late.arbiter)->refused_term, 0);
    assert_int_equal(late.leader.revision, quick.campaign.revision);
    assert_int_equal(quick.leader.revision, quick.campaign.revision);
    arbiter_node_close(&late);
    arbiter_node_close(&quick);
}

/* The key of a term below the promise, and nobody took it since: given back, with an alarm. */
static void test_a_win_below_the_promise_is_given_back_with_an_alarm(void **state) {
    (void)state;
    static struct arbiter_node nodes[1];
    open_cluster(nodes, 1, server.endpoint);
    arbiter_term_floor(nodes[0].arbiter, 1u << 30);
    arbiter_campaign(nodes[0].arbiter, 0);
    run_campaigns(nodes, 1);
    assert_false(nodes[0].won);
    assert_int_equal(nodes[0].wins, 0);
    assert_true(arbiter_health(nodes[0].arbiter)->refused_term > 0);
    assert_int_equal(nodes[0].leader.node, MAILBOX_NODE_NONE);
    arbiter_nodes_close(nodes, 1);
}

static void test_etcd_that_hangs_does_not_end_the_campaign_wrongly(void **state) {
    (void)state;
    static struct arbiter_node nodes[1];
    lease_ttl_s = 20; /* it must not end meanwhile */
    open_cluster(nodes, 1, server.endpoint);
    arbiter_run_for(loop, 200);
    fixture_etcd_pause(&server, true);
    arbiter_campaign(nodes[0].arbiter, 0);
    arbiter_run_for(loop, 2500);       /* past the first request's time */
    assert_false(nodes[0].campaigned); /* unknown is not told */
    fixture_etcd_pause(&server, false);
    run_campaigns(nodes, 1);
    arbiter_run_for(loop, 1000);
    assert_int_equal(nodes[0].leader.ours, nodes[0].won);
    arbiter_nodes_close(nodes, 1);
}

/* ---- ranges ---- */

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

#define REQUESTS 100u

/* The range that owner `i` was granted by any of the nodes; asserts that all its grants agree. */
static uint64_t granted_to(struct arbiter_node *nodes, int count, uint64_t owner) {
    uint64_t range = WIRE_RANGE_NONE;
    for (int n = 0; n < count; n++)
        for (uint32_t i = 0; i < nodes[n].grant_count; i++) {
            const struct arbiter_grant *grant = &nodes[n].grants[i];
            if (grant->owner != owner || grant->outcome != WIRE_RANGE_GRANTED)
                continue;
            if (range != WIRE_RANGE_NONE)
                assert_int_equal(range, grant->range);
            range = grant->range;
        }
    return range;
}

static void test_100_requests_with_lost_answers_get_100_ranges(void **state) {
    (void)state;
    static struct arbiter_node nodes[3];
    /* A request finds its range again as long as the range's lease lives: that must outlast a pause
     * of this machine. */
    range_ttl_s = 600;
    open_cluster(nodes, 3, proxied);
    fixture_proxy_cut_percent(proxy, 25);
    uint64_t ranges[REQUESTS], until_ms = fixture_now_ms() + 60000;
    int missing = REQUESTS;
    /* As gateways do: ask any node, again and again until there is an answer. */
    for (uint32_t round = 0; missing > 0 && fixture_now_ms() < until_ms; round++) {
        for (uint64_t i = 0; i < REQUESTS; i++)
            if (granted_to(nodes, 3, 1000 + i) == WIRE_RANGE_NONE)
                arbiter_range_request(nodes[(i + round) % 3].arbiter, 1000 + i, 7, WIRE_RANGE_NONE,
                                      0);
        arbiter_run_for(loop, 200);
        missing = 0;
        for (uint64_t i = 0; i < REQUESTS; i++)
            missing += granted_to(nodes, 3, 1000 + i) == WIRE_RANGE_NONE;
    }
    fixture_proxy_cut_percent(proxy, 0);
    assert_int_equal(missing, 0);
    arbiter_run_for(loop, 500);
    for (uint64_t i = 0; i < REQUESTS; i++)
        ranges[i] = granted_to(nodes, 3, 1000 + i);
    qsort(ranges, REQUESTS, sizeof *ranges, compare_u64);
    for (uint32_t i = 1; i < REQUESTS; i++)
        assert_true(ranges[i] != ranges[i - 1]);
    arbiter_nodes_close(nodes, 3);
}

static void test_same_request_gets_the_same_range_another_nonce_a_new_one(void **state) {
    (void)state;
    static struct arbiter_node nodes[2];
    open_cluster(nodes, 2, server.endpoint);
    arbiter_range_request(nodes[0].arbiter, 5, 1, WIRE_RANGE_NONE, 0);
    assert_true(arbiter_run_grants(loop, &nodes[0], 1, 5000));
    arbiter_range_request(nodes[1].arbiter, 5, 1, WIRE_RANGE_NONE, 0);
    assert_true(arbiter_run_grants(loop, &nodes[1], 1, 5000));
    arbiter_range_request(nodes[1].arbiter, 5, 2, WIRE_RANGE_NONE, 0);
    assert_true(arbiter_run_grants(loop, &nodes[1], 2, 5000));
    arbiter_range_request(nodes[0].arbiter, 6, 1, WIRE_RANGE_NONE, 500);
    assert_true(arbiter_run_grants(loop, &nodes[0], 2, 5000));
    assert_int_equal(nodes[1].grants[0].range, nodes[0].grants[0].range);
    assert_true(nodes[1].grants[1].range > nodes[0].grants[0].range);
    assert_int_equal(nodes[0].grants[1].range, 500); /* not below what replicas know */
    arbiter_range_request(nodes[0].arbiter, 6, 1, WIRE_RANGE_NONE, 0);
    assert_true(arbiter_run_grants(loop, &nodes[0], 3, 5000));
    assert_int_equal(nodes[0].grants[2].range, 500);
    arbiter_range_check(nodes[1].arbiter, 5, nodes[0].grants[0].range);
    assert_true(arbiter_await(loop, nodes[1].checked_count == 1, PATIENCE_MS));
    assert_true(nodes[1].checked_owned);
    arbiter_range_check(nodes[1].arbiter, 6, nodes[0].grants[0].range);
    assert_true(arbiter_await(loop, nodes[1].checked_count == 2, PATIENCE_MS));
    assert_false(nodes[1].checked_owned);
    arbiter_nodes_close(nodes, 2);
}

static void test_pinned_range_taken_sealing_and_on_at_its_end(void **state) {
    (void)state;
    static struct arbiter_node nodes[2];
    open_cluster(nodes, 2, server.endpoint);
    struct arbiter_node *a = &nodes[0];
    arbiter_range_request(a->arbiter, 11, 1, 1, 0);
    assert_true(arbiter_run_grants(loop, a, 1, 5000));
    assert_int_equal(a->grants[0].outcome, WIRE_RANGE_GRANTED);
    assert_int_equal(a->grants[0].start, 0);
    uint64_t first = a->grants[0].held_by;
    assert_true(first && first != 11);
    arbiter_range_request(a->arbiter, 12, 1, 1, 0); /* a second gateway with the same pin */
    assert_true(arbiter_run_grants(loop, a, 2, 5000));
    assert_int_equal(a->grants[1].outcome, WIRE_RANGE_TAKEN);
    assert_true(a->grants[1].held_by == first);
    arbiter_range_request(a->arbiter, 13, 1, WIRE_RANGE_NONE, 0); /* not the pinned one */
    assert_true(arbiter_run_grants(loop, a, 3, 5000));
    assert_int_equal(a->grants[2].outcome, WIRE_RANGE_GRANTED);
    assert_int_equal(a->grants[2].range, 2);
    /* Renewed through the other node it lives on ... */
    for (int i = 0; i < 9; i++) { /* for twice its lease */
        arbiter_range_renew(nodes[1].arbiter, first, 1);
        arbiter_run_for(loop, 450);
    }
    arbiter_range_request(a->arbiter, 12, 1, 1, 0);
    assert_true(arbiter_run_grants(loop, a, 4, 5000));
    assert_int_equal(a->grants[3].outcome, WIRE_RANGE_TAKEN);
    /* ... and without renewal it ends; both nodes are told. */
    nodes[0].expired_range = nodes[1].expired_range = 0; /* 13's range has ended long ago */
    assert_true(arbiter_await(loop, nodes[0].expired_range == 1 && nodes[1].expired_range == 1,
                              PATIENCE_MS));
    arbiter_range_request(a->arbiter, 12, 1, 1, 0);
    assert_true(arbiter_run_grants(loop, a, 5, 5000));
    assert_int_equal(a->grants[4].outcome, WIRE_RANGE_SEALING);
    /* Every node executes the SEAL and records it. */
    arbiter_range_sealed(nodes[0].arbiter, first, 1, 4711);
    arbiter_range_sealed(nodes[1].arbiter, first, 1, 4711);
    arbiter_run_for(loop, 300);
    uint32_t checked = a->checked_count;
    arbiter_range_check(a->arbiter, first, 1);
    assert_true(arbiter_await(loop, a->checked_count > checked, PATIENCE_MS));
    assert_false(a->checked_owned);
    arbiter_range_request(nodes[1].arbiter, 12, 1, 1, 0);
    assert_true(arbiter_run_grants(loop, &nodes[1], 1, 5000));
    assert_int_equal(nodes[1].grants[0].outcome, WIRE_RANGE_GRANTED);
    assert_int_equal(nodes[1].grants[0].start, 4711);
    arbiter_range_request(a->arbiter, 12, 1, 1, 0); /* again, through another node */
    assert_true(arbiter_run_grants(loop, a, 6, 5000));
    assert_int_equal(a->grants[5].start, 4711);
    /* A node that lags executes the old SEAL now: the new owner's holding goes on. */
    uint64_t second = a->grants[5].held_by;
    assert_true(second == nodes[1].grants[0].held_by && second != first);
    arbiter_range_sealed(nodes[1].arbiter, first, 1, 4711);
    arbiter_run_for(loop, 300);
    arbiter_range_check(a->arbiter, second, 1);
    arbiter_run_for(loop, 200);
    assert_true(a->checked_owned);
    /* A range that etcd does not know (it was restored) is its gateway's again by a renewal. */
    arbiter_range_renew(a->arbiter, 14, 77);
    arbiter_run_for(loop, 300);
    arbiter_range_check(a->arbiter, 14, 77);
    arbiter_run_for(loop, 200);
    assert_true(a->checked_owned);
    checked = a->checked_count; /* also to who asks at once, as a leader does */
    arbiter_range_renew(a->arbiter, 14, 80);
    arbiter_range_check(a->arbiter, 14, 80);
    assert_true(arbiter_await(loop, a->checked_count > checked, PATIENCE_MS));
    assert_true(a->checked_owned);
    arbiter_range_renew(a->arbiter, 15, 77); /* and nobody else's */
    arbiter_run_for(loop, 300);
    arbiter_range_check(a->arbiter, 15, 77);
    arbiter_run_for(loop, 200);
    assert_false(a->checked_owned);
    /* One that ended in the cluster whose state this one began with goes on at its end. */
    arbiter_range_request(a->arbiter, 16, 1, 78, 4712);
    assert_true(arbiter_run_grants(loop, a, 7, 5000));
    assert_int_equal(a->grants[6].outcome, WIRE_RANGE_GRANTED);
    assert_int_equal(a->grants[6].start, 4711);
    arbiter_range_request(nodes[1].arbiter, 16, 1, 78, 0); /* again, through a node that lags */
    assert_true(arbiter_run_grants(loop, &nodes[1], 2, 5000));
    assert_int_equal(nodes[1].grants[1].start, 4711);
    arbiter_range_request(a->arbiter, 17, 1, 79, WIRE_RANGE_OFFSETS + UINT64_C(1)); /* full */
    assert_true(arbiter_run_grants(loop, a, 8, 5000));
    assert_int_equal(a->grants[7].outcome, WIRE_RANGE_EXHAUSTED);
    arbiter_nodes_close(nodes, 2);
}

static bool owned_now(struct arbiter_node *node, uint64_t owner, uint64_t range) {
    uint32_t checked = node->checked_count;
    arbiter_range_check(node->arbiter, owner, range);
    assert_true(arbiter_await(loop, node->checked_count > checked, PATIENCE_MS));
    return node->checked_owned;
}

/* Its first grant never arrived, and another held the range in between: it is granted again, as
 * another holding. What is said late of the first one does not end that. */
static void test_lost_grant_is_granted_again_under_another_token(void **state) {
    (void)state;
    static struct arbiter_node nodes[2];
    open_cluster(nodes, 2, server.endpoint);
    struct arbiter_node *a = &nodes[0], *b = &nodes[1];
    arbiter_range_request(a->arbiter, 11, 1, 501, 0);
    assert_true(arbiter_run_grants(loop, a, 1, 5000));
    arbiter_range_request(b->arbiter, 11, 1, 501, 0); /* repeated: the same holding */
    assert_true(arbiter_run_grants(loop, b, 1, 5000));
    uint64_t lost = a->grants[0].held_by;
    assert_true(b->grants[0].held_by == lost);
    arbiter_range_sealed(a->arbiter, lost, 501, 0);
    arbiter_run_for(loop, 300);
    arbiter_range_request(a->arbiter, 12, 1, 501, 0);
    assert_true(arbiter_run_grants(loop, a, 2, 5000));
    uint64_t between = a->grants[1].held_by;
    arbiter_range_sealed(a->arbiter, between, 501, 60);
    arbiter_run_for(loop, 300);
    arbiter_range_request(b->arbiter, 11, 1, 501, 0);
    assert_true(arbiter_run_grants(loop, b, 2, 5000));
    uint64_t again = b->grants[1].held_by;
    assert_int_equal(b->grants[1].outcome, WIRE_RANGE_GRANTED);
    assert_int_equal(b->grants[1].start, 60);
    assert_true(again != lost && again != between && again != 11);
    arbiter_range_sealed(a->arbiter, lost, 501, 0); /* by a node that lags */
    arbiter_range_sealed(a->arbiter, between, 501, 60);
    arbiter_range_close(a->arbiter, lost, 501);
    arbiter_run_for(loop, 300);
    assert_true(owned_now(a, again, 501));
    assert_false(owned_now(a, lost, 501));
    arbiter_nodes_close(nodes, 2);
}

/* An etcd that was restored knows an earlier holding: what replicas know counts. */
static void test_restored_etcd_grants_no_position_again(void **state) {
    (void)state;
    static struct arbiter_node nodes[1];
    open_cluster(nodes, 1, server.endpoint);
    struct arbiter_node *a = &nodes[0];
    arbiter_range_request(a->arbiter, 11, 1, 502, 0);
    assert_true(arbiter_run_grants(loop, a, 1, 5000));
    arbiter_range_sealed(a->arbiter, a->grants[0].held_by, 502, 10);
    arbiter_run_for(loop, 300);
    /* Of the holding that began at 10 it knows nothing. While that is open nobody gets the range;
     * its end, said by whoever executes the SEAL, counts; so does what the asked node knows. */
    arbiter_range_request(a->arbiter, 12, 1, 502, ARBITER_FLOOR_OPEN);
    assert_true(arbiter_run_grants(loop, a, 2, 5000));
    assert_int_equal(a->grants[1].outcome, WIRE_RANGE_SEALING);
    arbiter_range_sealed(a->arbiter, 4242, 502, 70);
    arbiter_run_for(loop, 300);
    arbiter_range_sealed(a->arbiter, 4241, 502, 30); /* older, and late */
    arbiter_run_for(loop, 300);
    arbiter_range_request(a->arbiter, 12, 2, 502, 0);
    assert_true(arbiter_run_grants(loop, a, 3, 5000));
    assert_int_equal(a->grants[2].start, 70);
    arbiter_range_sealed(a->arbiter, a->grants[2].held_by, 502, 70);
    arbiter_run_for(loop, 300);
    arbiter_range_request(a->arbiter, 13, 1, 502, 91); /* 1 + an end */
    assert_true(arbiter_run_grants(loop, a, 4, 5000));
    assert_int_equal(a->grants[3].start, 90);
    arbiter_nodes_close(nodes, 1);
}

static void test_closed_range_is_told_expired(void **state) {
    (void)state;
    static struct arbiter_node nodes[2];
    open_cluster(nodes, 2, server.endpoint);
    arbiter_range_request(nodes[0].arbiter, 21, 1, WIRE_RANGE_NONE, 0);
    assert_true(arbiter_run_grants(loop, &nodes[0], 1, 5000));
    arbiter_run_for(loop, 100);
    arbiter_range_close(nodes[1].arbiter, 22, nodes[0].grants[0].range); /* not the owner */
    arbiter_run_for(loop, 300);
    assert_int_equal(nodes[0].expired_count, 0);
    arbiter_range_close(nodes[1].arbiter, 21, nodes[0].grants[0].range);
    assert_true(
        arbiter_await(loop, nodes[0].expired_count > 0 && nodes[1].expired_count > 0, PATIENCE_MS));
    assert_int_equal(nodes[0].expired_range, nodes[0].grants[0].range);
    assert_int_equal(nodes[0].expired_owner, 21);
    arbiter_nodes_close(nodes, 2);
}

static void test_requests_are_answered_retry_while_etcd_is_away(void **state) {
    (void)state;
    static struct arbiter_node nodes[1];
    open_cluster(nodes, 1, proxied);
    fixture_proxy_down(proxy, true);
    arbiter_range_request(nodes[0].arbiter, 31, 1, WIRE_RANGE_NONE, 0);
    arbiter_range_request(nodes[0].arbiter, 32, 1, 7, 0);
    assert_true(arbiter_run_grants(loop, &nodes[0], 2, 10000));
    assert_int_equal(nodes[0].grants[0].outcome, WIRE_RANGE_RETRY);
    assert_int_equal(nodes[0].grants[1].outcome, WIRE_RANGE_RETRY);
    fixture_proxy_down(proxy, false);
    arbiter_range_request(nodes[0].arbiter, 31, 1, WIRE_RANGE_NONE, 0);
    assert_true(arbiter_run_grants(loop, &nodes[0], 3, 10000));
    assert_int_equal(nodes[0].grants[2].outcome, WIRE_RANGE_GRANTED);
    arbiter_nodes_close(nodes, 1);
}

static int start(void **state) {
    (void)state;
    mrn_log_set_level(MRN_LOG_ERROR);
    if (!fixture_etcd_start(&server, NULL)) {
        printf("etcd (Debian: etcd-server) is needed for this test\n");
        exit(77);
    }
    proxy = fixture_proxy_start(server.port);
    snprintf(proxied, sizeof proxied, "http://127.0.0.1:%d", fixture_proxy_port(proxy));
    loop = loop_create();
    http = http_client_create(loop);
    return loop && http ? 0 : -1;
}

/* Whatever the test before has left. */
static int calm(void **state) {
    (void)state;
    lease_ttl_s = range_ttl_s = 0;
    fixture_etcd_pause(&server, false);
    fixture_proxy_cut_percent(proxy, 0);
    fixture_proxy_delay_ms(proxy, 0);
    fixture_proxy_down(proxy, false);
    return 0;
}

static int stop(void **state) {
    (void)state;
    http_client_destroy(http);
    loop_destroy(loop);
    fixture_proxy_stop(proxy);
    fixture_etcd_stop(&server);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_three_nodes_make_one_genesis, calm),
        cmocka_unit_test_setup(test_genesis_needs_k_and_a_late_node_is_not_listed, calm),
        cmocka_unit_test_setup(test_genesis_survives_lost_answers, calm),
        cmocka_unit_test_setup(test_memory_node_comes_back_with_a_greater_incarnation, calm),
        cmocka_unit_test_setup(test_disk_node_keeps_its_incarnation_and_an_old_disk_is_refused,
                               calm),
        cmocka_unit_test_setup(test_other_configuration_is_refused, calm),
        cmocka_unit_test_setup(test_index_of_a_live_node_is_refused, calm),
        cmocka_unit_test_setup(test_duel_has_one_winner_and_the_loser_knows, calm),
        cmocka_unit_test_setup(test_duel_with_lost_answers, calm),
        cmocka_unit_test_setup(test_key_outlives_its_ttl_while_the_node_lives_and_ends_with_it,
                               calm),
        cmocka_unit_test_setup(test_resign_deletes_only_its_own_key, calm),
        cmocka_unit_test_setup(test_a_win_that_is_told_late_is_a_loss_and_no_alarm, calm),
        cmocka_unit_test_setup(test_a_win_below_the_promise_is_given_back_with_an_alarm, calm),
        cmocka_unit_test_setup(test_etcd_that_hangs_does_not_end_the_campaign_wrongly, calm),
        cmocka_unit_test_setup(test_100_requests_with_lost_answers_get_100_ranges, calm),
        cmocka_unit_test_setup(test_same_request_gets_the_same_range_another_nonce_a_new_one, calm),
        cmocka_unit_test_setup(test_pinned_range_taken_sealing_and_on_at_its_end, calm),
        cmocka_unit_test_setup(test_lost_grant_is_granted_again_under_another_token, calm),
        cmocka_unit_test_setup(test_restored_etcd_grants_no_position_again, calm),
        cmocka_unit_test_setup(test_closed_range_is_told_expired, calm),
        cmocka_unit_test_setup(test_requests_are_answered_retry_while_etcd_is_away, calm),
    };
    return cmocka_run_group_tests_name("arbiter_etcd", tests, start, stop);
}
