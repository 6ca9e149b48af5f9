/* Where a node gets what its peers no longer keep: which source, of whom, and what comes after one
 * that did not help. The peers are two servers with an answer each, the dataplane is the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "controlplane/log.h"
#include "controlplane/snapshot.h"
#include "fixture.h"
#include "maroon/error.h"

static const char *const ANSWERS[] = {
    NULL,
    "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nof node 1",
    "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nof node 2",
};
static struct loop *loop;
static struct http_client *http;
static struct control_config config;
static struct arbiter arbiter;
static struct fixture_server *servers[3];
static struct snapshot *snapshot;
static struct mailbox_down told; /* kind 0: nothing since the last look */
static uint32_t told_count;

static void send_down(void *context, const struct mailbox_down *message) {
    (void)context;
    told = *message;
    told_count++;
}

/* Node 0 of three, on a disk; `gone`: a peer whose process has ended, or 0. */
static void open_node(uint8_t gone) {
    memset(&config, 0, sizeof config);
    memset(&arbiter, 0, sizeof arbiter);
    config.node_count = 3;
    config.durable = true;
    fixture_make_dir(config.data_dir, sizeof config.data_dir);
    for (uint8_t i = 1; i < 3; i++) {
        servers[i] = fixture_server_start(ANSWERS[i], strlen(ANSWERS[i]), false);
        snprintf(arbiter.members[i].admin, sizeof arbiter.members[i].admin, "127.0.0.1:%d",
                 fixture_server_port(servers[i]));
        if (i == gone) {
            fixture_server_stop(servers[i]);
            servers[i] = NULL;
        }
    }
    struct snapshot_setup setup = {
        .loop = loop, .http = http, .config = &config, .arbiter = &arbiter, .send_down = send_down};
    snapshot = snapshot_create(&setup);
    assert_non_null(snapshot);
    memset(&told, 0, sizeof told);
    told_count = 0;
}

static int close_node(void **state) {
    (void)state;
    snapshot_destroy(snapshot);
    snapshot = NULL;
    for (uint8_t i = 1; i < 3; i++) {
        if (servers[i])
            fixture_server_stop(servers[i]);
        servers[i] = NULL;
    }
    fixture_remove_dir(config.data_dir);
    return 0;
}

static void need(uint64_t seq, uint8_t peer) {
    struct mailbox_up message = {.kind = MAILBOX_UP_NEED_SNAPSHOT, .seq = seq, .peer = peer};
    snapshot_needed(snapshot, &message);
}

/* The dataplane is given a file next, of that kind and from that peer. */
static void expect(enum mailbox_down_kind kind, uint8_t peer) {
    char wanted[16], got[16] = "";
    uint64_t until_ms = fixture_now_ms() + PATIENCE_MS;
    while (!told.kind && fixture_now_ms() < until_ms)
        loop_run_once(loop, 20);
    assert_int_equal(told.kind, kind);
    assert_int_equal(told.node, peer);
    FILE *in = fopen(told.text, "r");
    assert_non_null(in);
    assert_int_equal(fread(got, 1, sizeof got - 1, in), 9);
    fclose(in);
    snprintf(wanted, sizeof wanted, "of node %u", peer);
    assert_string_equal(got, wanted);
    told.kind = 0;
}

static void learned(int error, uint64_t seq) {
    struct mailbox_up message = {.kind = MAILBOX_UP_LEARNED, .error = error, .seq = seq};
    snapshot_learned(snapshot, &message);
}

static void restored(int error, uint64_t seq) {
    struct mailbox_up message = {.kind = MAILBOX_UP_RESTORED, .error = error, .seq = seq};
    snapshot_restored(snapshot, &message);
}

static enum snapshot_stage stage(void) {
    struct snapshot_bootstrap bootstrap;
    snapshot_bootstrap(snapshot, &bootstrap);
    return bootstrap.stage;
}

static void test_a_stretch_that_did_not_help_is_not_taken_twice(void **state) {
    (void)state;
    open_node(0);
    need(10, 1);
    expect(MAILBOX_DOWN_LEARN, 1);
    need(10, 1); /* asked again while we are at it */
    learned(0, 30);
    assert_int_equal(stage(), SNAPSHOT_IDLE);
    assert_int_equal(told_count, 1);
    /* All its epochs are known, and 11 still lacks a body: the state itself, then. */
    need(10, 1);
    expect(MAILBOX_DOWN_SNAPSHOT_RESTORE, 1);
    restored(0, 30);
    assert_int_equal(stage(), SNAPSHOT_IDLE);
    /* Later, something else is lacking. */
    need(40, 2);
    expect(MAILBOX_DOWN_LEARN, 2);
    learned(0, 45);
    need(45, 2);
    expect(MAILBOX_DOWN_LEARN, 2); /* the one before helped */
    learned(0, 50);
    assert_int_equal(stage(), SNAPSHOT_IDLE);
    assert_int_equal(told_count, 4);
}

static void test_a_stretch_that_cannot_be_taken_is_followed_by_the_next_source(void **state) {
    (void)state;
    open_node(0);
    need(10, 2);
    expect(MAILBOX_DOWN_LEARN, 2);
    learned(MRN_ERR_MISMATCH, 10);
    expect(MAILBOX_DOWN_SNAPSHOT_RESTORE, 2); /* without being asked again */
    restored(MRN_ERR_CORRUPT, 0);
    expect(MAILBOX_DOWN_LEARN, 1); /* another peer, all its sources */
    learned(MRN_ERR_CORRUPT, 15);  /* torn, but some of it was good */
    assert_int_equal(stage(), SNAPSHOT_IDLE);
    need(15, 2);
    expect(MAILBOX_DOWN_LEARN, 2);
    learned(0, 20);
    assert_int_equal(stage(), SNAPSHOT_IDLE);
}

static void test_a_peer_that_does_not_answer_is_passed_over(void **state) {
    (void)state;
    open_node(1);
    need(10, 1);
    expect(MAILBOX_DOWN_LEARN, 2);
    learned(0, 11);
    assert_int_equal(stage(), SNAPSHOT_IDLE);
    assert_int_equal(told_count, 1);
}

static void test_without_disks_there_are_no_journals_to_read(void **state) {
    (void)state;
    open_node(0);
    config.durable = false;
    need(10, 1);
    expect(MAILBOX_DOWN_SNAPSHOT_RESTORE, 1);
    restored(0, 11);
    assert_int_equal(stage(), SNAPSHOT_IDLE);
}

static int start(void **state) {
    (void)state;
    mrn_log_set_level(MRN_LOG_ERROR + 1);
    loop = loop_create();
    http = http_client_create(loop);
    return loop && http ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    http_client_destroy(http);
    loop_destroy(loop);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_a_stretch_that_did_not_help_is_not_taken_twice, close_node),
        cmocka_unit_test_teardown(
            test_a_stretch_that_cannot_be_taken_is_followed_by_the_next_source, close_node),
        cmocka_unit_test_teardown(test_a_peer_that_does_not_answer_is_passed_over, close_node),
        cmocka_unit_test_teardown(test_without_disks_there_are_no_journals_to_read, close_node),
    };
    return cmocka_run_group_tests_name("snapshot", tests, start, stop);
}
