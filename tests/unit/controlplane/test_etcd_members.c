/* Three members of etcd: one lost, two lost, the quota used up, and a client that needs a token. */
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
#include "controlplane/etcd.h"
#include "controlplane/log.h"
#include "maroon/error.h"

static struct fixture_etcd members[3];
static struct loop *loop;
static struct http_client *http;

struct seen {
    bool done, no_space;
    int error;
    uint64_t revision;
    uint32_t events, created;
};

static void on_done(void *context, const struct etcd_answer *answer) {
    struct seen *seen = context;
    seen->done = true;
    seen->error = answer->error;
    seen->no_space = answer->no_space;
    seen->revision = answer->revision;
}

static void on_change(void *context, const struct etcd_change *change) {
    struct seen *seen = context;
    seen->events += change->event_count;
    seen->created += change->kind == ETCD_CHANGE_CREATED;
}

static struct etcd *client(const char *endpoints, const char *user, const char *password) {
    struct etcd_config config = {
        .endpoints = endpoints, .timeout_ms = 4000, .user = user, .password = password};
    struct etcd *etcd = etcd_create(loop, http, &config);
    assert_non_null(etcd);
    return etcd;
}

static struct seen put(struct etcd *etcd, const char *key, const char *value) {
    struct seen seen = {0};
    assert_int_equal(etcd_put(etcd, key, value, 0, on_done, &seen), 0);
    assert_true(arbiter_run_until(loop, &seen.done, PATIENCE_MS));
    return seen;
}

/* A member that is cut off ends the watch (hasleader) instead of staying silent for ever, and the
 * watch misses nothing. */
static void test_watch_on_a_member_without_quorum_ends_and_resumes(void **state) {
    (void)state;
    struct etcd *etcd = client(members[0].endpoint, NULL, NULL);
    struct seen watched = {0};
    uint64_t revision = put(etcd, "/q", "1").revision;
    struct etcd_watch *watch =
        etcd_watch_start(etcd, "/q", NULL, revision + 1, on_change, &watched);
    assert_true(arbiter_await(loop, watched.created == 1, PATIENCE_MS));
    fixture_etcd_pause(&members[1], true);
    fixture_etcd_pause(&members[2], true);
    const uint64_t *lost =
        &etcd_metrics(etcd)->requests[ETCD_METRIC_WATCH][ETCD_OUTCOME_UNAVAILABLE];
    uint64_t until = fixture_now_ms() + PATIENCE_MS;
    while (*lost == 0 && fixture_now_ms() < until)
        loop_run_once(loop, 50);
    bool ended = *lost > 0;
    int while_away = put(etcd, "/q", "2").error;
    fixture_etcd_pause(&members[1], false);
    fixture_etcd_pause(&members[2], false);
    assert_true(ended);
    assert_int_equal(while_away, MRN_ERR_UNKNOWN_OUTCOME);
    int written = -1;
    for (int i = 0; i < 20 && written != 0; i++)
        written = put(etcd, "/q", "3").error;
    assert_int_equal(written, 0);
    /* "3", and "2" if it was applied after all. */
    assert_true(arbiter_await(loop, watched.events > 0, PATIENCE_MS));
    assert_in_range(watched.events, 1, 2 + 20);
    etcd_watch_stop(watch);
    etcd_destroy(etcd);
}

static void test_one_member_lost_goes_unnoticed(void **state) {
    (void)state;
    static struct arbiter_node nodes[3];
    char endpoints[200];
    snprintf(endpoints, sizeof endpoints, "%s,%s,%s", members[0].endpoint, members[1].endpoint,
             members[2].endpoint);
    for (uint8_t i = 0; i < 3; i++) {
        arbiter_node_setup(&nodes[i], endpoints, i, 3);
        nodes[i].config.lease_ttl_s = 5;
        arbiter_node_open(&nodes[i], loop, http);
    }
    for (int i = 0; i < 3; i++) {
        assert_true(arbiter_run_until(loop, &nodes[i].ready, PATIENCE_MS));
        assert_int_equal(nodes[i].error, 0);
    }
    arbiter_campaign(nodes[0].arbiter, 0);
    assert_true(arbiter_run_until(loop, &nodes[0].campaigned, PATIENCE_MS));
    assert_true(nodes[0].won);
    fixture_etcd_pause(&members[0], true); /* the endpoint in use hangs; maybe it led, too */
    arbiter_run_for(loop, 6500);           /* longer than the lease */
    uint64_t revision = nodes[1].leader.revision;
    uint8_t node = nodes[1].leader.node;
    arbiter_range_request(nodes[1].arbiter, 3, 4, WIRE_RANGE_NONE, 0);
    bool granted = arbiter_run_grants(loop, &nodes[1], 1, 8000);
    fixture_etcd_pause(&members[0], false);
    assert_true(granted);
    assert_int_equal(node, 0); /* its lease was kept through another member */
    assert_int_equal(revision, nodes[0].campaign.revision);
    for (int i = 0; i < 3; i++)
        arbiter_node_close(&nodes[i]);
}

static void test_token_is_fetched_and_renewed(void **state) {
    (void)state;
    char command[700];
    const char *at = members[0].endpoint;
    if (system("command -v etcdctl >/dev/null") != 0)
        skip(); /* Debian: etcd-client */
    snprintf(command, sizeof command,
             "export ETCDCTL_API=3; e() { for i in 1 2 3 4 5 6 7 8 9; do"
             " etcdctl --endpoints %s \"$@\" >/dev/null 2>&1 && return; sleep 1; done; false; };"
             "e user add root:pw; e user grant-role root root; e auth enable",
             at);
    assert_int_equal(system(command), 0);
    struct etcd *bare = client(at, NULL, NULL), *good = client(at, "root", "pw"),
                *wrong = client(at, "root", "no");
    int errors[4] = {put(bare, "/auth", "1").error, put(wrong, "/auth", "1").error,
                     put(good, "/auth", "1").error, 0};
    struct seen watched = {0};
    struct etcd_watch *watch = etcd_watch_start(good, "/auth", NULL, 1, on_change, &watched);
    arbiter_run_for(loop, 4000); /* --auth-token-ttl is 2 s here: the token expires unused */
    errors[3] = put(good, "/auth", "2").error;
    arbiter_await(loop, watched.events == 2, PATIENCE_MS);
    uint64_t tokens = etcd_metrics(good)->requests[ETCD_METRIC_AUTHENTICATE][ETCD_OUTCOME_OK];
    uint64_t denied[3] = {etcd_metrics(bare)->denied_in_a_row, etcd_metrics(wrong)->denied_in_a_row,
                          etcd_metrics(good)->denied_in_a_row};
    etcd_watch_stop(watch);
    etcd_destroy(bare);
    etcd_destroy(good);
    etcd_destroy(wrong);
    snprintf(command, sizeof command,
             "ETCDCTL_API=3 etcdctl --endpoints %s --user root:pw auth disable >/dev/null 2>&1",
             at);
    assert_int_equal(system(command), 0);
    assert_int_equal(errors[0], MRN_ERR_DENIED);
    assert_int_equal(errors[1], MRN_ERR_DENIED);
    assert_int_equal(errors[2], 0);
    assert_int_equal(errors[3], 0);
    assert_int_equal(watched.events, 2);
    assert_true(tokens >= 2); /* so it did end */
    assert_true(denied[0] == 1 && denied[1] == 1 && denied[2] == 0);
}

/* Last: it leaves the quota used up. */
static void test_full_database_is_said_and_reads_go_on(void **state) {
    (void)state;
    struct etcd *etcd = client(members[0].endpoint, NULL, NULL);
    size_t size = 600000;
    char *value = malloc(size);
    memset(value, 'x', size - 1);
    value[size - 1] = '\0';
    struct seen seen = {0};
    for (int i = 0; i < 60 && !seen.no_space; i++)
        seen = put(etcd, "/full", value);
    free(value);
    assert_true(seen.no_space);
    assert_int_equal(seen.error, MRN_ERR_UNKNOWN_OUTCOME);
    assert_true(etcd_metrics(etcd)->no_space > 0);
    struct seen read = {0};
    etcd_range(etcd, "/q", NULL, 0, on_done, &read);
    assert_true(arbiter_run_until(loop, &read.done, PATIENCE_MS));
    assert_int_equal(read.error, 0);
    etcd_destroy(etcd);
}

static int start(void **state) {
    (void)state;
    mrn_log_set_level(MRN_LOG_ERROR + 1);
    setenv("ETCD_AUTH_TOKEN_TTL", "2", 1);
    if (!fixture_etcd_start_members(members, 3, "--quota-backend-bytes=16777216")) {
        printf("etcd (Debian: etcd-server) is needed for this test\n");
        exit(77);
    }
    loop = loop_create();
    http = http_client_create(loop);
    return loop && http ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    http_client_destroy(http);
    loop_destroy(loop);
    for (int i = 0; i < 3; i++)
        fixture_etcd_stop(&members[i]);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_watch_on_a_member_without_quorum_ends_and_resumes),
        cmocka_unit_test(test_one_member_lost_goes_unnoticed),
        cmocka_unit_test(test_token_is_fetched_and_renewed),
        cmocka_unit_test(test_full_database_is_said_and_reads_go_on),
    };
    return cmocka_run_group_tests_name("etcd_members", tests, start, stop);
}
