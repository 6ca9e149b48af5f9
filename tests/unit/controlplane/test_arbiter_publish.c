/* Publications on a real etcd: what is kept, who may publish, what stays of etcd's size; and an
 * etcd that goes back in time. MAROON_TICKS sets how many publications the size is watched over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arbiter_node.h"
#include "controlplane/arbiter_etcd.h"
#include "controlplane/log.h"
#include "controlplane/publisher.h"
#include "maroon/error.h"

static struct fixture_etcd server;
static struct fixture_proxy *proxy;
static struct loop *loop;
static struct http_client *http;
static struct etcd *etcd;
static char proxied[64];
static int cluster_number;

static void open_cluster(struct arbiter_node *nodes, uint8_t count, const char *endpoint) {
    cluster_number++;
    for (uint8_t i = 0; i < count; i++) {
        arbiter_node_setup(&nodes[i], endpoint, i, count);
        snprintf(nodes[i].config.cluster, sizeof nodes[i].config.cluster, "p%d", cluster_number);
    }
    arbiter_nodes_open(nodes, count, loop, http);
}

static void lead(struct arbiter_node *node) {
    node->campaigned = false;
    arbiter_campaign(node->arbiter, arbiter_leader(node->arbiter)->revision);
    assert_true(arbiter_run_until(loop, &node->campaigned, PATIENCE_MS));
    assert_true(node->won);
}

static struct arbiter_epoch epoch_of(uint64_t seq) {
    struct arbiter_epoch epoch = {
        .entry = {.seq = seq, .term = 7, .logical_time_us = seq * 1000},
        .range_count = 2,
        .vector = "{\"1\":5,\"2\":6}",
    };
    memset(epoch.entry.hash.bytes, (int)seq, sizeof epoch.entry.hash.bytes);
    return epoch;
}

static int publish(struct arbiter_node *node, uint64_t seq) {
    struct arbiter_epoch epoch = epoch_of(seq);
    node->publish_done = false;
    int error = arbiter_publish(node->arbiter, &epoch);
    if (error)
        return error;
    if (!node->publish_done)
        arbiter_run_until(loop, &node->publish_done, 10000);
    assert_true(node->publish_done);
    return node->publish_error;
}

/* ---- reading etcd past the arbiter ---- */

static struct {
    bool done;
    uint32_t count;
    char first_key[ETCD_KEY_MAX + 1], value[1 << 17];
    uint64_t db_bytes;
} seen;

static void on_read(void *context, const struct etcd_answer *answer) {
    (void)context;
    assert_int_equal(answer->error, 0);
    if (answer->response_count) {
        seen.count = answer->responses[0].kv_count;
        if (seen.count) {
            snprintf(seen.first_key, sizeof seen.first_key, "%s", answer->responses[0].kvs[0].key);
            snprintf(seen.value, sizeof seen.value, "%s", answer->responses[0].kvs[0].value);
        }
    }
    seen.db_bytes = answer->db_bytes;
    seen.done = true;
}

static void read_keys(const char *name, bool prefix) {
    char key[128], end[ETCD_KEY_MAX + 1];
    snprintf(key, sizeof key, "/maroon/p%d/%s", cluster_number, name);
    etcd_prefix_end(key, end);
    memset(&seen, 0, sizeof seen);
    assert_int_equal(etcd_range(etcd, key, prefix ? end : NULL, 0, on_read, NULL), 0);
    assert_true(arbiter_run_until(loop, &seen.done, PATIENCE_MS));
}

static uint64_t db_bytes(void) {
    seen.done = false;
    assert_int_equal(etcd_status(etcd, on_read, NULL), 0);
    assert_true(arbiter_run_until(loop, &seen.done, PATIENCE_MS));
    return seen.db_bytes;
}

/* ---- tests ---- */

static void test_latest_and_history_are_written_and_heard_by_all(void **state) {
    (void)state;
    static struct arbiter_node nodes[2];
    open_cluster(nodes, 2, server.endpoint);
    assert_int_equal(publish(&nodes[0], 1), MRN_ERR_CLOSED); /* does not lead */
    lead(&nodes[0]);
    for (uint64_t seq = 5; seq <= 45; seq += 10)
        assert_int_equal(publish(&nodes[0], seq), 0);
    arbiter_run_for(loop, 300);
    assert_int_equal(nodes[0].published_count, 5);
    assert_int_equal(nodes[1].published_count, 5);
    const struct epochs *heard = arbiter_epochs(nodes[1].arbiter);
    assert_int_equal(epochs_newest(heard)->seq, 45);
    assert_int_equal(epochs_newest(heard)->hash.bytes[3], 45);
    assert_int_equal(epochs_at(heard, epochs_find(heard, 16))->seq, 25);
    read_keys("latest", false);
    assert_non_null(strstr(seen.value, "\"vector\":{\"1\":5,\"2\":6}"));
    read_keys("history/", true);
    assert_int_equal(seen.count, 5);
    assert_null(strstr(seen.value, "vector"));
    arbiter_nodes_close(nodes, 2);
    /* Who comes later knows them too. */
    nodes[1].ready = false;
    arbiter_node_open(&nodes[1], loop, http);
    assert_true(arbiter_run_until(loop, &nodes[1].ready, PATIENCE_MS));
    arbiter_run_for(loop, 300);
    assert_int_equal(epochs_newest(arbiter_epochs(nodes[1].arbiter))->seq, 45);
    arbiter_node_close(&nodes[1]);
}

/* ---- the publisher: when, and what of the vector ---- */

static uint32_t wanted;

static void on_send_down(void *context, const struct mailbox_down *message) {
    (void)context;
    assert_int_equal(message->kind, MAILBOX_DOWN_EPOCH_WANTED);
    wanted++;
}

static void show(struct mailbox *mailbox, uint64_t exec_seq) {
    struct mailbox_facts facts = {.role = MAILBOX_ROLE_LEADER, .exec_seq = exec_seq};
    mailbox_facts_write(mailbox_status(mailbox), &facts);
}

/* The dataplane's answer: an epoch with so many ranges, of which it had room for `listed`. */
static void answer(struct arbiter_node *node, struct publisher *publisher, uint64_t seq,
                   uint32_t range_count, uint32_t listed) {
    struct mailbox_epoch *epoch = mailbox_epoch(publisher->mailbox);
    epoch->seq = seq;
    epoch->term = 7;
    epoch->range_count = range_count;
    epoch->listed = listed;
    for (uint32_t i = 0; i < listed; i++) { /* in any order */
        epoch->ranges[i].range = 100000 + listed - i;
        epoch->ranges[i].executed = 1000000;
    }
    node->publish_done = false;
    publisher_epoch(publisher);
    assert_true(arbiter_run_until(loop, &node->publish_done, PATIENCE_MS));
    assert_int_equal(node->publish_error, 0);
    publisher_done(publisher, 0);
    read_keys("latest", false);
}

static void test_one_publication_a_tick_with_the_vector_or_its_hash(void **state) {
    (void)state;
    static struct arbiter_node node;
    open_cluster(&node, 1, server.endpoint);
    lead(&node);
    struct mailbox *mailbox = mailbox_create(64);
    struct publisher publisher = {.loop = loop,
                                  .arbiter = node.arbiter,
                                  .mailbox = mailbox,
                                  .send_down = on_send_down,
                                  .tick_ms = 63};
    show(mailbox, 10);
    wanted = 0;
    publisher_start(&publisher);
    assert_int_equal(wanted, 1);
    answer(&node, &publisher, 10, 2, 2);
    assert_non_null(strstr(seen.value, "\"vector\":{\"100001\":1000000,\"100002\":1000000}"));
    arbiter_run_for(loop, 300);
    assert_int_equal(wanted, 1); /* nothing new */

    show(mailbox, 11);
    assert_true(arbiter_await(loop, wanted == 2, PATIENCE_MS));
    answer(&node, &publisher, 11, 3500, 3500); /* 17 bytes each: just under 64 KiB */
    assert_non_null(strstr(seen.value, "\"vector\":{"));
    assert_null(strstr(seen.value, "vectorHash"));

    show(mailbox, 12);
    assert_true(arbiter_await(loop, wanted == 3, PATIENCE_MS));
    answer(&node, &publisher, 12, 4000, 4000);
    assert_null(strstr(seen.value, "\"vector\":"));
    /* The hash is that of the sorted pairs. */
    static uint8_t pairs[4000][12];
    for (uint32_t i = 0; i < 4000; i++) {
        uint64_t range = 100001 + i;
        uint32_t executed = 1000000;
        memcpy(pairs[i], &range, sizeof range);
        memcpy(pairs[i] + 8, &executed, sizeof executed);
    }
    struct wire_hash hash = wire_hash_blake2b(pairs, sizeof pairs);
    char text[96] = "\"vectorHash\":\"";
    for (int i = 0; i < 32; i++)
        snprintf(text + strlen(text), 3, "%02x", hash.bytes[i]);
    assert_non_null(strstr(seen.value, text));

    show(mailbox, 13); /* more than the dataplane can list: only how many there are */
    assert_true(arbiter_await(loop, wanted == 4, PATIENCE_MS));
    answer(&node, &publisher, 13, 20000, MAILBOX_EPOCH_RANGES_MAX);
    assert_null(strstr(seen.value, "vector"));
    assert_non_null(strstr(seen.value, "\"rangeCount\":20000"));

    /* News all the time: one a tick. */
    uint64_t seq = 14, began_ms = fixture_now_ms();
    for (wanted = 0; fixture_now_ms() < began_ms + 1000; seq++) {
        uint32_t before = wanted;
        show(mailbox, seq);
        if (arbiter_await(loop, wanted > before, 500))
            answer(&node, &publisher, seq, 2, 2);
    }
    /* One more than whole ticks fit in: the first may come at once. */
    assert_in_range(wanted, 2, (fixture_now_ms() - began_ms) * 16 / 1000 + 1);
    publisher_stop(&publisher);
    mailbox_destroy(mailbox);
    arbiter_nodes_close(&node, 1);
}

static void test_a_stale_leader_cannot_publish_and_seq_does_not_go_back(void **state) {
    (void)state;
    static struct arbiter_node nodes[2];
    open_cluster(nodes, 2, server.endpoint);
    lead(&nodes[0]);
    assert_int_equal(publish(&nodes[0], 10), 0);
    /* The other takes the key; the first is kept from hearing of it. */
    struct arbiter_leader old = *arbiter_leader(nodes[0].arbiter);
    arbiter_run_for(loop, 200);
    lead(&nodes[1]);
    nodes[0].arbiter->leader = old;
    assert_int_equal(publish(&nodes[0], 11), MRN_ERR_CLOSED);
    assert_int_equal(publish(&nodes[1], 12), 0);
    assert_int_equal(publish(&nodes[1], 9), MRN_ERR_EXISTS);
    read_keys("latest", false);
    assert_non_null(strstr(seen.value, "\"seq\":\"12\""));
    read_keys("history/", true);
    assert_int_equal(seen.count, 2);
    arbiter_nodes_close(nodes, 2);
}

static void test_lost_answers_lose_and_double_nothing(void **state) {
    (void)state;
    static struct arbiter_node node[1];
    open_cluster(node, 1, proxied);
    lead(&node[0]);
    fixture_proxy_cut_percent(proxy, 40);
    for (uint64_t seq = 1; seq <= 30; seq++) {
        int tries = 0;
        while (publish(&node[0], seq) != 0)
            assert_true(++tries < 50);
    }
    fixture_proxy_cut_percent(proxy, 0);
    read_keys("history/", true);
    assert_int_equal(seen.count, 30);
    arbiter_nodes_close(node, 1);
}

static void test_ticks_leave_etcd_flat_and_300_are_kept(void **state) {
    (void)state;
    static struct arbiter_node node[1];
    const char *text = getenv("MAROON_TICKS");
    uint64_t ticks = text ? strtoull(text, NULL, 10) : 4000;
    open_cluster(node, 1, server.endpoint);
    lead(&node[0]);
    uint64_t early = 0, greatest = 0;
    for (uint64_t seq = 1; seq <= ticks; seq++) {
        assert_int_equal(publish(&node[0], seq), 0);
        if (seq == 2000)
            early = db_bytes();
        else if (seq > 2000 && seq % 1000 == 0 && db_bytes() > greatest)
            greatest = seen.db_bytes;
    }
    arbiter_run_for(loop, 200);
    read_keys("history/", true);
    assert_int_equal(seen.count, 300);
    char oldest[64];
    snprintf(oldest, sizeof oldest, "/%020" PRIu64, ticks - 299);
    assert_non_null(strstr(seen.first_key, oldest));
    printf("etcd after 2000 ticks %" PRIu64 " bytes, at most %" PRIu64 " up to %" PRIu64 " ticks\n",
           early, greatest, ticks);
    assert_true(greatest <= early + (512u << 10));
    arbiter_nodes_close(node, 1);
}

/* ---- dump/latest ---- */

static void tell_dump(struct arbiter_node *node, uint64_t seq) {
    char text[128];
    snprintf(text, sizeof text, "{\"manifest\":\"manifests/%" PRIu64 "\",\"seq\":\"%" PRIu64 "\"}",
             seq, seq);
    arbiter_dump_tell(node->arbiter, seq, text);
}

static bool dump_is(const struct arbiter_node *node, uint64_t seq) {
    return arbiter_dump(node->arbiter)->seq == seq;
}

static void test_the_pointer_to_dumps_goes_forward_only(void **state) {
    (void)state;
    static struct arbiter_node nodes[2];
    open_cluster(nodes, 2, server.endpoint);
    tell_dump(&nodes[0], 10); /* leads or not */
    assert_true(arbiter_await(loop, dump_is(&nodes[0], 10), PATIENCE_MS));
    /* The other has not read it yet, and has an older one to tell. */
    memset(&nodes[1].arbiter->dump, 0, sizeof nodes[1].arbiter->dump);
    tell_dump(&nodes[1], 9);
    assert_true(arbiter_await(loop, dump_is(&nodes[1], 10), PATIENCE_MS));
    tell_dump(&nodes[1], 11);
    assert_true(arbiter_await(loop, dump_is(&nodes[1], 11), PATIENCE_MS));
    assert_true(dump_is(&nodes[0], 10)); /* until it reads again */
    tell_dump(&nodes[0], 12);
    assert_true(arbiter_await(loop, dump_is(&nodes[0], 12), PATIENCE_MS));
    read_keys("dump/latest", false);
    assert_non_null(strstr(seen.value, "\"seq\":\"12\""));
    arbiter_nodes_close(nodes, 2);
}

static void test_who_lost_its_index_moves_no_pointer(void **state) {
    (void)state;
    static struct arbiter_node node[1];
    open_cluster(node, 1, server.endpoint);
    tell_dump(&node[0], 5);
    assert_true(arbiter_await(loop, dump_is(&node[0], 5), PATIENCE_MS));
    /* Its first reading ends after that, perhaps, and would tell it the right revision again. */
    const struct arbiter_etcd *etcd_side = (const void *)node[0].arbiter;
    assert_true(arbiter_await(loop, etcd_side->watch && !etcd_side->syncing, PATIENCE_MS));
    node[0].arbiter->members[0].mod_revision--; /* registered anew by another, not heard of yet */
    tell_dump(&node[0], 6);
    arbiter_run_for(loop, 500);
    read_keys("dump/latest", false);
    assert_non_null(strstr(seen.value, "\"seq\":\"5\""));
    arbiter_nodes_close(node, 1);
}

static void test_lost_answers_lose_no_pointer(void **state) {
    (void)state;
    static struct arbiter_node node[1];
    open_cluster(node, 1, proxied);
    fixture_proxy_cut_percent(proxy, 40);
    for (uint64_t seq = 1; seq <= 20; seq++) {
        int tries = 0;
        while (!dump_is(&node[0], seq) &&
               ++tries < 200) { /* as whoever looks into the store does */
            tell_dump(&node[0], seq);
            arbiter_run_for(loop, 30);
        }
        assert_true(dump_is(&node[0], seq));
    }
    fixture_proxy_cut_percent(proxy, 0);
    arbiter_nodes_close(node, 1);
}

/* The same endpoint shows a younger etcd, as after the restore of a snapshot. */
static void test_etcd_that_went_back_is_refused_until_term_base_is_raised(void **state) {
    (void)state;
    static struct arbiter_node node[1];
    struct fixture_etcd younger;
    assert_true(fixture_etcd_start(&younger, NULL));
    open_cluster(node, 1, proxied); /* its server is hundreds of revisions old by now */
    lead(&node[0]);
    uint64_t before = node[0].campaign.term;
    arbiter_term_floor(node[0].arbiter, before);
    assert_false(arbiter_health(node[0].arbiter)->went_back);
    assert_int_equal(publish(&node[0], 50), 0);
    fixture_proxy_to(proxy, younger.port);
    uint64_t until = fixture_now_ms() + PATIENCE_MS;
    while (!arbiter_health(node[0].arbiter)->went_back && fixture_now_ms() < until)
        loop_run_once(loop, 50);
    assert_true(arbiter_health(node[0].arbiter)->went_back);
    assert_int_equal(node[0].leader.node, MAILBOX_NODE_NONE); /* the key is not there */
    /* What it wins is below what it promised: given back. */
    uint32_t wins = node[0].wins;
    for (int i = 0; i < 20 && !arbiter_health(node[0].arbiter)->refused_term; i++) {
        node[0].campaigned = false;
        arbiter_campaign(node[0].arbiter, node[0].leader.revision);
        assert_true(arbiter_run_until(loop, &node[0].campaigned, PATIENCE_MS));
        assert_false(node[0].won);
        arbiter_run_for(loop, 100);
    }
    assert_int_equal(node[0].wins, wins);
    assert_true(arbiter_health(node[0].arbiter)->refused_term > 0);
    /* The way forward. */
    arbiter_raise_term_base(node[0].arbiter, before + 1000);
    arbiter_run_for(loop, 3000);
    assert_false(arbiter_health(node[0].arbiter)->went_back);
    lead(&node[0]);
    assert_true(node[0].campaign.term > before + 1000);
    assert_int_equal(arbiter_health(node[0].arbiter)->refused_term, 0);
    assert_int_equal(publish(&node[0], 51), 0);
    /* It is registered again. */
    struct etcd_config config = {.endpoints = younger.endpoint};
    struct etcd *direct = etcd_create(loop, http, &config), *other = etcd;
    etcd = direct;
    read_keys("nodes/0", false);
    assert_int_equal(seen.count, 1);
    etcd_destroy(direct);
    etcd = other;
    arbiter_nodes_close(node, 1);
    fixture_proxy_to(proxy, server.port);
    fixture_etcd_stop(&younger);
}

static void on_put(void *context, const struct etcd_answer *answer) {
    assert_int_equal(answer->error, 0);
    *(uint64_t *)context = answer->revision;
}

/* Puts until the store has seen `revision`. */
static void age_to(const struct fixture_etcd *to, uint64_t revision) {
    struct etcd_config config = {.endpoints = to->endpoint};
    struct etcd *client = etcd_create(loop, http, &config);
    for (uint64_t at = 0, before; at < revision; assert_true(at <= revision)) {
        before = at;
        assert_int_equal(etcd_put(client, "other", "", 0, on_put, &at), 0);
        assert_true(arbiter_await(loop, at != before, PATIENCE_MS));
    }
    etcd_destroy(client);
}

/* A backup from between what reads had answered and what the watch told after them. Such an etcd
 * goes not back for who remembers the reads only, and what it says is older than what he knows: it
 * would be old news for ever. */
static void test_etcd_that_went_back_to_what_only_the_watch_had_passed_is_noticed(void **state) {
    (void)state;
    static struct arbiter_node nodes[2];
    struct fixture_etcd store, backup;
    assert_true(fixture_etcd_start(&store, NULL) && fixture_etcd_start(&backup, NULL));
    fixture_proxy_to(proxy, store.port);
    cluster_number++;
    for (uint8_t i = 0; i < 2; i++) { /* one that looks on, one that writes */
        arbiter_node_setup(&nodes[i], i ? store.endpoint : proxied, i, 2);
        snprintf(nodes[i].config.cluster, sizeof nodes[i].config.cluster, "p%d", cluster_number);
        arbiter_node_open(&nodes[i], loop, http);
    }
    for (uint8_t i = 0; i < 2; i++)
        assert_true(arbiter_run_until(loop, &nodes[i].ready, PATIENCE_MS) && !nodes[i].error);
    uint64_t told;
    uint32_t polls;
    do { /* until no read comes between the news and the restore */
        polls = nodes[0].polls;
        assert_true(arbiter_await(loop, nodes[0].polls > polls, PATIENCE_MS));
        polls = nodes[0].polls;
        lead(&nodes[1]);
        told = nodes[1].campaign.revision;
        assert_true(arbiter_await(loop, nodes[0].leader.revision == told, PATIENCE_MS));
        age_to(&backup, told - 1);
    } while (nodes[0].polls != polls);
    fixture_proxy_to(proxy, backup.port);
    assert_true(
        arbiter_await(loop, arbiter_health(nodes[0].arbiter)->went_from == told, PATIENCE_MS));
    assert_int_equal(arbiter_health(nodes[0].arbiter)->went_to, told - 1);
    assert_int_equal(nodes[0].leader.node, MAILBOX_NODE_NONE);
    arbiter_nodes_close(nodes, 2);
    fixture_proxy_to(proxy, server.port);
    fixture_etcd_stop(&backup);
    fixture_etcd_stop(&store);
}

static int start(void **state) {
    (void)state;
    mrn_log_set_level(getenv("V") ? MRN_LOG_DEBUG : MRN_LOG_ERROR);
    if (!fixture_etcd_start(&server, NULL)) {
        printf("etcd (Debian: etcd-server) is needed for this test\n");
        exit(77);
    }
    proxy = fixture_proxy_start(server.port);
    snprintf(proxied, sizeof proxied, "http://127.0.0.1:%d", fixture_proxy_port(proxy));
    loop = loop_create();
    http = http_client_create(loop);
    struct etcd_config config = {.endpoints = server.endpoint};
    etcd = etcd_create(loop, http, &config);
    return loop && http && etcd ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    etcd_destroy(etcd);
    http_client_destroy(http);
    loop_destroy(loop);
    fixture_proxy_stop(proxy);
    fixture_etcd_stop(&server);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_latest_and_history_are_written_and_heard_by_all),
        cmocka_unit_test(test_one_publication_a_tick_with_the_vector_or_its_hash),
        cmocka_unit_test(test_a_stale_leader_cannot_publish_and_seq_does_not_go_back),
        cmocka_unit_test(test_lost_answers_lose_and_double_nothing),
        cmocka_unit_test(test_the_pointer_to_dumps_goes_forward_only),
        cmocka_unit_test(test_who_lost_its_index_moves_no_pointer),
        cmocka_unit_test(test_lost_answers_lose_no_pointer),
        cmocka_unit_test(test_ticks_leave_etcd_flat_and_300_are_kept),
        cmocka_unit_test(test_etcd_that_went_back_is_refused_until_term_base_is_raised),
        cmocka_unit_test(test_etcd_that_went_back_to_what_only_the_watch_had_passed_is_noticed),
    };
    return cmocka_run_group_tests_name("arbiter_publish", tests, start, stop);
}
