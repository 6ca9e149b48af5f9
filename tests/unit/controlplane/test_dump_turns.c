/* Whose turn it is to dump: nodes with an arbiter each on a real etcd, a dumper each on one store,
 * and a dataplane played by the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "arbiter_node.h"
#include "controlplane/dump/dump_turns.h"
#include "controlplane/log.h"
#include "dump_fixture.h"
#include "maroon/error.h"
#include "store_fixture.h"

#define NODES 3
#define PAGES 1500 /* 6 MB: dumps that begin together overlap */

struct node {
    struct arbiter_node arbiter;
    struct snapshot *snapshot;
    struct dump_turns turns;
    struct mailbox_down take; /* asked of the dataplane; kind 0: nothing */
    uint32_t takes;
};

static struct fixture_etcd server;
static struct fixture_proxy *proxy;
static char proxied[64];
static struct loop *loop;
static struct http_client *http;
static struct dump_fixture here;
static uint8_t *region;
static struct node nodes[NODES];
static int cluster_number;
static uint64_t executed_seq;

static uint64_t executed(void *context) {
    (void)context;
    return executed_seq;
}

static void send_down(void *context, const struct mailbox_down *message) {
    struct node *node = context;
    if (message->kind == MAILBOX_DOWN_SNAPSHOT_TAKE) {
        node->take = *message;
        node->takes++;
    }
}

static void open_arbiters(uint8_t count, const char *endpoint) {
    cluster_number++;
    memset(nodes, 0, sizeof nodes);
    for (uint8_t i = 0; i < count; i++) {
        struct control_config *config = &nodes[i].arbiter.config;
        arbiter_node_setup(&nodes[i].arbiter, endpoint, i, count);
        snprintf(config->cluster, sizeof config->cluster, "t%d", cluster_number);
        config->store.url = here.url;
        if (endpoint ==
            server.endpoint) { /* on a slow disk it takes its time, and that is no absence */
            config->etcd.timeout_ms = PATIENCE_MS / 2;
            config->lease_ttl_s = PATIENCE_MS / 1000;
        }
    }
    for (uint8_t i = 0; i < count; i++)
        arbiter_node_open(&nodes[i].arbiter, loop, http);
    for (uint8_t i = 0; i < count; i++)
        assert_true(arbiter_run_until(loop, &nodes[i].arbiter.ready, PATIENCE_MS));
}

static void open_node(struct node *node, uint32_t interval_s) {
    struct control_config *config = &node->arbiter.config;
    char text[DUMP_TEXT_BYTES] = "";
    fixture_make_dir(config->data_dir, sizeof config->data_dir);
    struct snapshot_setup snapshot = {.loop = loop,
                                      .http = http,
                                      .config = config,
                                      .arbiter = node->arbiter.arbiter,
                                      .send_down = send_down,
                                      .context = node};
    node->snapshot = snapshot_create(&snapshot);
    assert_non_null(node->snapshot);
    struct dumper_setup dumper = {.store = &config->store,
                                  .data_dir = config->data_dir,
                                  .key_file = "",
                                  .cluster = config->cluster,
                                  .configuration_id = 1,
                                  .incarnation = 1,
                                  .node = config->node_index};
    node->turns = (struct dump_turns){.loop = loop,
                                      .snapshot = node->snapshot,
                                      .arbiter = node->arbiter.arbiter,
                                      .executed = executed,
                                      .node = config->node_index,
                                      .node_count = NODES,
                                      .interval_s = interval_s};
    assert_int_equal(dumper_start(&dumper, &node->turns.dumper, text), 0);
    dump_turns_start(&node->turns);
}

static void close_nodes(void) {
    for (int i = 0; i < NODES; i++) {
        if (nodes[i].turns.dumper)
            dump_turns_stop(&nodes[i].turns);
        snapshot_destroy(nodes[i].snapshot);
        if (nodes[i].snapshot)
            fixture_remove_dir(nodes[i].arbiter.config.data_dir);
        if (nodes[i].arbiter.arbiter)
            arbiter_node_close(&nodes[i].arbiter);
    }
}

/* The dataplane writes the snapshot that it was asked for. */
static void take_snapshots(void) {
    for (int i = 0; i < NODES; i++) {
        if (!nodes[i].take.kind)
            continue;
        struct mailbox_up taken = {.kind = MAILBOX_UP_SNAPSHOT_READY, .seq = executed_seq};
        for (uint64_t page = executed_seq % 7; page < PAGES; page += 3)
            memcpy(region + page * DUMP_PAGE_BYTES, &executed_seq, sizeof executed_seq);
        dump_fixture_snapshot(&here,
                              (struct snapshot_head){.configuration_id = 1, .seq = executed_seq},
                              region, PAGES);
        assert_int_equal(rename(here.snapshot, nodes[i].take.text), 0);
        memcpy(taken.text, nodes[i].take.text, sizeof taken.text);
        nodes[i].take.kind = 0;
        snapshot_taken(nodes[i].snapshot, &taken);
    }
}

#define AWAIT(condition, limit_ms)                             \
    ({                                                         \
        uint64_t until_ms_ = fixture_now_ms() + (limit_ms);    \
        while (!(condition) && fixture_now_ms() < until_ms_) { \
            loop_run_once(loop, 10);                           \
            take_snapshots();                                  \
        }                                                      \
        (condition);                                           \
    })

static struct dumper_status status_of(const struct node *node) {
    struct dumper_status status;
    dumper_status(node->turns.dumper, &status);
    return status;
}

static bool at_rest(const struct node *node) {
    return !node->turns.asked && !node->turns.waiting && !node->turns.taking && !node->turns.ours &&
           !status_of(node).dumping;
}

/* Manifests in the store, and of how many epochs. */
static void count_dumps(uint32_t *ret_manifests, uint32_t *ret_epochs) {
    char command[200];
    snprintf(command, sizeof command,
             "l=$(ls %s/objects/manifests) && echo \"$l\" | wc -l && "
             "echo \"$l\" | cut -d- -f1 | sort -u | wc -l",
             here.dir);
    FILE *out = popen(command, "r");
    assert_non_null(out);
    assert_int_equal(fscanf(out, "%" SCNu32 " %" SCNu32, ret_manifests, ret_epochs), 2);
    assert_int_equal(pclose(out), 0);
}

static int set_up(void **state) {
    (void)state;
    dump_fixture_make(&here);
    executed_seq = 10;
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    close_nodes();
    dump_fixture_remove(&here);
    return 0;
}

static void test_two_asked_at_once_make_one_dump(void **state) {
    (void)state;
    uint32_t manifests, epochs;
    open_arbiters(NODES, server.endpoint);
    for (int i = 0; i < 2; i++) {
        open_node(&nodes[i], 0);
        dump_turns_ask(&nodes[i].turns);
    }
    assert_true(AWAIT(at_rest(&nodes[0]) && at_rest(&nodes[1]), PATIENCE_MS));
    struct dumper_status a = status_of(&nodes[0]), b = status_of(&nodes[1]);
    count_dumps(&manifests, &epochs);
    assert_int_equal(manifests, 1);
    assert_int_equal(a.dumps + b.dumps, 1);
    assert_int_equal(a.overtaken + b.overtaken, 0);
    assert_int_equal(nodes[0].turns.unfenced + nodes[1].turns.unfenced, 0);
    assert_true(nodes[0].turns.others + nodes[1].turns.others > 0);
    /* Who asks again when there is news gets it, from either. */
    executed_seq = 20;
    dump_turns_ask(&nodes[a.dumps ? 1 : 0].turns);
    assert_true(AWAIT(at_rest(&nodes[0]) && at_rest(&nodes[1]), PATIENCE_MS));
    count_dumps(&manifests, &epochs);
    assert_int_equal(manifests, 2);
    assert_int_equal(status_of(&nodes[a.dumps ? 1 : 0]).latest_seq, 20);
}

/* Two that each take themselves for the first behind the leader, as while views of the leader
 * differ. */
static void test_two_with_the_same_patience_never_dump_one_epoch(void **state) {
    (void)state;
    uint32_t manifests, epochs;
    open_arbiters(NODES, server.endpoint);
    arbiter_campaign(nodes[2].arbiter.arbiter, 0);
    for (int i = 0; i < 2; i++) {
        assert_true(
            arbiter_await(loop, arbiter_leader(nodes[i].arbiter.arbiter)->node == 2, PATIENCE_MS));
        open_node(&nodes[i], 1);
        nodes[i].turns.node = 0;
    }
    uint64_t until_ms = fixture_now_ms() + PATIENCE_MS;
    for (manifests = epochs = 0; manifests < 5 && fixture_now_ms() < until_ms;) {
        executed_seq++;
        (void)AWAIT(false, 100);
        if (status_of(&nodes[0]).dumps + status_of(&nodes[1]).dumps)
            count_dumps(&manifests, &epochs);
        assert_int_equal(manifests, epochs);
    }
    assert_true(manifests >= 5);
    assert_int_equal(status_of(&nodes[0]).overtaken + status_of(&nodes[1]).overtaken, 0);
    assert_int_equal(nodes[0].turns.unfenced + nodes[1].turns.unfenced, 0);
}

static void test_without_etcd_dumps_go_on(void **state) {
    (void)state;
    open_arbiters(1, proxied);
    open_node(&nodes[0], 0);
    fixture_proxy_down(proxy, true);
    dump_turns_ask(&nodes[0].turns);
    assert_true(AWAIT(status_of(&nodes[0]).dumps == 1, PATIENCE_MS));
    assert_int_equal(nodes[0].turns.unfenced, 1);
    assert_true(AWAIT(at_rest(&nodes[0]), PATIENCE_MS));
    fixture_proxy_down(proxy, false);
    executed_seq = 20;
    dump_turns_ask(&nodes[0].turns);
    assert_true(AWAIT(status_of(&nodes[0]).dumps == 2, PATIENCE_MS));
    assert_true(AWAIT(at_rest(&nodes[0]), PATIENCE_MS));
}

/* What etcd names is not in the store: looked for once, not waited for. */
static void test_a_pointer_to_what_the_store_lost_stops_no_dump(void **state) {
    (void)state;
    open_arbiters(1, server.endpoint);
    arbiter_dump_tell(nodes[0].arbiter.arbiter, 1000, "{\"seq\":\"1000\"}");
    assert_true(
        arbiter_await(loop, arbiter_dump(nodes[0].arbiter.arbiter)->seq == 1000, PATIENCE_MS));
    open_node(&nodes[0], 0);
    dump_turns_ask(&nodes[0].turns);
    assert_true(AWAIT(status_of(&nodes[0]).dumps == 1, PATIENCE_MS));
    assert_int_equal(nodes[0].turns.deferred_seq, 1000);
}

/* ---- the key alone ---- */

struct asked {
    bool told;
    enum arbiter_turn turn;
};

static void on_turn(void *context, enum arbiter_turn turn) {
    *(struct asked *)context = (struct asked){true, turn};
}

static enum arbiter_turn take(int node) {
    struct asked asked = {0};
    arbiter_turn_take(nodes[node].arbiter.arbiter, on_turn, &asked);
    assert_true(arbiter_await(loop, asked.told, PATIENCE_MS));
    return asked.turn;
}

static void
test_a_holder_that_goes_on_is_left_alone_and_one_that_stands_still_is_not(void **state) {
    (void)state;
    open_arbiters(2, server.endpoint);
    struct arbiter *holder = nodes[0].arbiter.arbiter;
    assert_int_equal(take(0), ARBITER_TURN_OURS);
    for (uint64_t until_ms = fixture_now_ms() + 7000; fixture_now_ms() < until_ms;) {
        arbiter_turn_keep(holder);
        arbiter_run_for(loop, 200);
        assert_int_equal(take(1), ARBITER_TURN_OTHERS);
    }
    /* Given back: free at once. */
    arbiter_turn_end(holder);
    arbiter_run_for(loop, 200);
    assert_int_equal(take(1), ARBITER_TURN_OURS);
    arbiter_turn_end(nodes[1].arbiter.arbiter);
    assert_int_equal(take(1), ARBITER_TURN_OURS); /* the end comes first */
    /* Node 1 stands still from now on; its lease lives. */
    uint64_t since_ms = fixture_now_ms();
    enum arbiter_turn turn = ARBITER_TURN_OTHERS;
    while (turn != ARBITER_TURN_OURS && fixture_now_ms() < since_ms + PATIENCE_MS) {
        turn = take(0);
        arbiter_run_for(loop, 100);
    }
    assert_int_equal(turn, ARBITER_TURN_OURS);
    assert_true(fixture_now_ms() - since_ms >= 5900);
    /* It goes on: the turn is lost, and giving it back takes nothing from the other. */
    arbiter_turn_keep(nodes[1].arbiter.arbiter);
    assert_true(arbiter_await(loop, nodes[1].arbiter.arbiter->dump_turn_losses == 1, PATIENCE_MS));
    arbiter_turn_end(nodes[1].arbiter.arbiter);
    arbiter_run_for(loop, 200);
    assert_int_equal(take(1), ARBITER_TURN_OTHERS);
    /* A process that dies with it leaves it to the next one of its index. */
    arbiter_node_close(&nodes[0].arbiter);
    nodes[0].arbiter.ready = false;
    arbiter_node_open(&nodes[0].arbiter, loop, http);
    assert_true(arbiter_run_until(loop, &nodes[0].arbiter.ready, PATIENCE_MS));
    assert_int_equal(take(0), ARBITER_TURN_OURS);
}

static void test_lost_answers_lose_no_turn(void **state) {
    (void)state;
    uint32_t ours = 0;
    open_arbiters(1, proxied);
    struct arbiter *arbiter = nodes[0].arbiter.arbiter;
    fixture_proxy_cut_percent(proxy, 40);
    for (int round = 0; round < 40; round++) {
        enum arbiter_turn turn = take(0);
        assert_int_not_equal(turn, ARBITER_TURN_OTHERS); /* there is nobody else */
        ours += turn == ARBITER_TURN_OURS;
        if (round % 3)
            arbiter_turn_end(arbiter);
    }
    fixture_proxy_cut_percent(proxy, 0);
    assert_true(ours > 5);
    assert_int_equal(take(0), ARBITER_TURN_OURS);
    assert_int_equal(arbiter->dump_turn_losses, 0);
}

static int start(void **state) {
    (void)state;
    mrn_log_set_level(MRN_LOG_ERROR + 1);
    region = calloc(PAGES, DUMP_PAGE_BYTES);
    for (uint64_t page = 0; page < PAGES; page++) {
        uint8_t *bytes = store_bytes(DUMP_PAGE_BYTES, (uint32_t)page);
        memcpy(region + page * DUMP_PAGE_BYTES, bytes, DUMP_PAGE_BYTES);
        free(bytes);
    }
    proxy = fixture_proxy_start(server.port);
    snprintf(proxied, sizeof proxied, "http://127.0.0.1:%d", fixture_proxy_port(proxy));
    loop = loop_create();
    http = http_client_create(loop);
    return loop && http ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    http_client_destroy(http);
    loop_destroy(loop);
    fixture_proxy_stop(proxy);
    free(region);
    return 0;
}

int main(void) {
    if (!fixture_etcd_start(&server, NULL))
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_two_asked_at_once_make_one_dump, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_two_with_the_same_patience_never_dump_one_epoch,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_without_etcd_dumps_go_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_pointer_to_what_the_store_lost_stops_no_dump, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            test_a_holder_that_goes_on_is_left_alone_and_one_that_stands_still_is_not, set_up,
            tear_down),
        cmocka_unit_test_setup_teardown(test_lost_answers_lose_no_turn, set_up, tear_down),
    };
    int failed = cmocka_run_group_tests_name("dump_turns", tests, start, stop);
    fixture_etcd_stop(&server);
    return failed;
}
