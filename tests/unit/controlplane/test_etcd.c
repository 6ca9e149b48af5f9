/* The facts of etcd's gateway that we rely on, against a real one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controlplane/base64.h"
#include "controlplane/etcd.h"
#include "fixture.h"
#include "maroon/error.h"

static struct fixture_etcd server;
static struct loop *loop;
static struct http_client *http;

struct seen { /* of one call */
    bool done;
    struct etcd_answer answer;
    struct etcd_kv kv; /* first of the first response */
    char value[256];
    uint32_t kv_count;
};

static void on_done(void *context, const struct etcd_answer *answer) {
    struct seen *seen = context;
    seen->done = true;
    seen->answer = *answer;
    seen->answer.responses = NULL;
    if (answer->response_count > 0) {
        seen->kv_count = answer->responses[0].kv_count;
        if (seen->kv_count > 0) {
            seen->kv = answer->responses[0].kvs[0];
            snprintf(seen->value, sizeof seen->value, "%.255s", seen->kv.value);
        }
    }
}

static void run_until(bool *flag, int limit_ms) {
    uint64_t until = fixture_now_ms() + (uint64_t)limit_ms;
    while (!*flag && fixture_now_ms() < until)
        loop_run_once(loop, 20);
}

static void run_for(int ms) {
    bool never = false;
    run_until(&never, ms);
}

static struct etcd *client(const char *endpoints) {
    struct etcd_config config = {
        .endpoints = endpoints, .timeout_ms = 10000, .backoff_max_ms = 200};
    struct etcd *etcd = etcd_create(loop, http, &config);
    assert_non_null(etcd);
    return etcd;
}

static struct seen range(struct etcd *etcd, const char *key) {
    struct seen seen = {0};
    assert_int_equal(etcd_range(etcd, key, NULL, 0, on_done, &seen), 0);
    assert_false(seen.done); /* never before the call returns */
    run_until(&seen.done, PATIENCE_MS);
    assert_true(seen.done);
    return seen;
}

static struct seen put(struct etcd *etcd, const char *key, const char *value, uint64_t lease) {
    struct seen seen = {0};
    assert_int_equal(etcd_put(etcd, key, value, lease, on_done, &seen), 0);
    run_until(&seen.done, PATIENCE_MS);
    assert_true(seen.done);
    return seen;
}

static struct seen txn(struct etcd *etcd, struct etcd_compare compare, const char *key,
                       const char *value) {
    struct seen seen = {0};
    struct etcd_operation write = {.kind = ETCD_OP_PUT, .key = key, .value = value};
    struct etcd_operation read = {.kind = ETCD_OP_RANGE, .key = key};
    struct etcd_txn transaction = {.compares = &compare,
                                   .compare_count = 1,
                                   .success = &write,
                                   .success_count = 1,
                                   .failure = &read,
                                   .failure_count = 1};
    assert_int_equal(etcd_transaction(etcd, &transaction, on_done, &seen), 0);
    run_until(&seen.done, PATIENCE_MS);
    assert_true(seen.done);
    return seen;
}

static void test_put_and_range_with_bytes_that_json_must_escape(void **state) {
    (void)state;
    struct etcd *etcd = client(server.endpoint);
    struct seen absent = range(etcd, "/a");
    assert_int_equal(absent.answer.error, 0);
    assert_int_equal(absent.kv_count, 0);
    struct seen done = put(etcd, "/a", "x \"y\"\n\xff", 0);
    assert_int_equal(done.answer.error, 0);
    struct seen got = range(etcd, "/a");
    assert_string_equal(got.value, "x \"y\"\n\xff");
    assert_int_equal(got.kv.mod_revision, done.answer.revision);
    assert_int_equal(got.kv.version, 1);
    etcd_destroy(etcd);
}

static void test_compares_spell_their_target(void **state) {
    (void)state;
    struct etcd *etcd = client(server.endpoint);
    struct seen first = txn(etcd, (struct etcd_compare){ETCD_CREATE, "/c", 0}, "/c", "1");
    assert_true(first.answer.succeeded);
    struct seen again = txn(etcd, (struct etcd_compare){ETCD_CREATE, "/c", 0}, "/c", "2");
    assert_int_equal(again.answer.error, 0);
    assert_false(again.answer.succeeded); /* "succeeded" is left out of the answer */
    assert_string_equal(again.value, "1");
    /* Were the target left out, VERSION (1) would be compared with the revision. */
    struct seen by_revision =
        txn(etcd, (struct etcd_compare){ETCD_MOD, "/c", first.answer.revision}, "/c", "3");
    assert_true(by_revision.answer.succeeded);
    struct seen by_version = txn(etcd, (struct etcd_compare){ETCD_VERSION, "/c", 2}, "/c", "4");
    assert_true(by_version.answer.succeeded);
    etcd_destroy(etcd);
}

static void test_leases(void **state) {
    (void)state;
    struct etcd *etcd = client(server.endpoint);
    struct seen seen = {0};
    uint64_t lease = UINT64_C(0x7fffffffffffff17); /* above 2^53 */
    etcd_lease_grant(etcd, lease, 1, on_done, &seen);
    run_until(&seen.done, PATIENCE_MS);
    assert_int_equal(seen.answer.error, 0);
    assert_int_equal(seen.answer.lease, lease);
    assert_int_equal(seen.answer.ttl_s, 2); /* TTL 1 becomes 2 */
    seen = (struct seen){0};
    etcd_lease_grant(etcd, lease, 2, on_done, &seen);
    run_until(&seen.done, PATIENCE_MS);
    assert_int_equal(seen.answer.error, MRN_ERR_EXISTS); /* a repeat of a lost answer */
    assert_int_equal(put(etcd, "/l", "v", lease).answer.error, 0);
    for (int i = 0; i < 12; i++) { /* 3.6 s: kept alive by short POSTs */
        seen = (struct seen){0};
        etcd_lease_keep_alive(etcd, lease, 0, on_done, &seen);
        run_until(&seen.done, PATIENCE_MS);
        assert_int_equal(seen.answer.error, 0);
        assert_int_equal(seen.answer.ttl_s, 2);
        run_for(300);
    }
    assert_int_equal(range(etcd, "/l").kv_count, 1);
    uint64_t until = fixture_now_ms() + PATIENCE_MS;
    while (range(etcd, "/l").kv_count && fixture_now_ms() < until)
        run_for(100);
    assert_int_equal(range(etcd, "/l").kv_count, 0);
    seen = (struct seen){0};
    etcd_lease_keep_alive(etcd, lease, 0, on_done, &seen);
    run_until(&seen.done, PATIENCE_MS);
    assert_int_equal(seen.answer.error, 0);
    assert_int_equal(seen.answer.ttl_s, 0); /* dead: HTTP 200 without TTL */
    assert_int_equal(put(etcd, "/l", "v", lease).answer.error, MRN_ERR_NOT_FOUND);
    etcd_destroy(etcd);
}

struct watched {
    uint64_t revisions[64], compacted;
    uint32_t events, created, deleted;
    bool enough;
    uint32_t wanted;
    struct etcd_watch *watch;
    bool stop_in_callback;
};

static void on_change(void *context, const struct etcd_change *change) {
    struct watched *watched = context;
    switch (change->kind) {
    case ETCD_CHANGE_CREATED: watched->created++; break;
    case ETCD_CHANGE_COMPACTED:
        watched->compacted = change->revision;
        watched->enough = true;
        break;
    case ETCD_CHANGE_EVENTS:
        for (uint32_t i = 0; i < change->event_count; i++) {
            watched->deleted += change->events[i].deleted;
            watched->revisions[watched->events++ % 64] = change->events[i].kv.mod_revision;
        }
        watched->enough = watched->events >= watched->wanted;
        if (watched->stop_in_callback)
            etcd_watch_stop(watched->watch);
        break;
    }
}

static void test_watch_resumes_without_gap_or_repeat(void **state) {
    (void)state;
    struct fixture_proxy *proxy = fixture_proxy_start(server.port);
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", fixture_proxy_port(proxy));
    struct etcd *writer = client(server.endpoint), *etcd = client(endpoint);
    struct watched watched = {.wanted = 40};
    uint64_t first = put(writer, "/w/0", "0", 0).answer.revision;
    watched.watch = etcd_watch_start(etcd, "/w/", "/w0", first + 1, on_change, &watched);
    uint64_t until_ms = fixture_now_ms() + PATIENCE_MS;
    while (!watched.created && fixture_now_ms() < until_ms) /* else nothing is there to be cut */
        loop_run_once(loop, 20);
    for (int i = 0; i < 40; i++) {
        put(writer, "/w/1", "x", 0);
        if (i % 10 == 5) {
            fixture_proxy_down(proxy, true); /* cuts it in the middle */
            run_for(100);
            fixture_proxy_down(proxy, false);
        }
    }
    run_until(&watched.enough, PATIENCE_MS);
    run_for(200);
    assert_int_equal(watched.events, 40);
    for (uint32_t i = 0; i < 40; i++)
        assert_int_equal(watched.revisions[i], first + 1 + i);
    assert_true(watched.created > 1);
    etcd_watch_stop(watched.watch);
    etcd_destroy(etcd);
    etcd_destroy(writer);
    fixture_proxy_stop(proxy);
}

static void test_watch_below_compaction_is_told(void **state) {
    (void)state;
    struct etcd *etcd = client(server.endpoint);
    uint64_t first = put(etcd, "/k", "1", 0).answer.revision;
    uint64_t last = put(etcd, "/k", "2", 0).answer.revision;
    struct seen seen = {0};
    etcd_compact(etcd, last, on_done, &seen);
    run_until(&seen.done, PATIENCE_MS);
    assert_int_equal(seen.answer.error, 0);
    struct watched watched = {.wanted = 1};
    watched.watch = etcd_watch_start(etcd, "/k", NULL, first, on_change, &watched);
    run_until(&watched.enough, PATIENCE_MS);
    assert_int_equal(watched.compacted, last);
    run_for(100);
    etcd_watch_stop(watched.watch);
    etcd_destroy(etcd);
}

static void test_watch_may_be_stopped_from_its_callback(void **state) {
    (void)state;
    struct etcd *etcd = client(server.endpoint);
    struct watched watched = {.wanted = 1, .stop_in_callback = true};
    uint64_t now = put(etcd, "/s", "1", 0).answer.revision;
    watched.watch = etcd_watch_start(etcd, "/s", NULL, now, on_change, &watched);
    run_until(&watched.enough, PATIENCE_MS);
    assert_int_equal(watched.events, 1);
    put(etcd, "/s", "2", 0);
    run_for(200);
    assert_int_equal(watched.events, 1);
    etcd_destroy(etcd);
}

static void test_lost_answer_of_a_write_is_unknown_and_was_applied(void **state) {
    (void)state;
    struct fixture_proxy *proxy = fixture_proxy_start(server.port);
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", fixture_proxy_port(proxy));
    struct etcd *etcd = client(endpoint), *direct = client(server.endpoint);
    fixture_proxy_cut_percent(proxy, 100);
    struct seen seen = put(etcd, "/u", "token-1", 0);
    assert_int_equal(seen.answer.error, MRN_ERR_UNKNOWN_OUTCOME);
    assert_string_equal(range(direct, "/u").value, "token-1");
    /* A read without an answer is just that. */
    assert_int_equal(range(etcd, "/u").answer.error, MRN_ERR_UNAVAILABLE);
    etcd_destroy(etcd);
    etcd_destroy(direct);
    fixture_proxy_stop(proxy);
}

/* 128 operations and 1.5 MiB a request, not more; both refused before anything is proposed. */
static void test_limits_of_a_request(void **state) {
    (void)state;
    struct etcd *etcd = client(server.endpoint);
    static char keys[ETCD_OPERATIONS_MAX + 1][16];
    struct etcd_operation puts[ETCD_OPERATIONS_MAX];
    for (int i = 0; i < ETCD_OPERATIONS_MAX; i++) {
        snprintf(keys[i], sizeof keys[i], "/many/%03d", i);
        puts[i] = (struct etcd_operation){.kind = ETCD_OP_PUT, .key = keys[i], .value = "v"};
    }
    struct etcd_txn most = {.success = puts, .success_count = ETCD_OPERATIONS_MAX};
    struct seen seen = {0};
    assert_int_equal(etcd_transaction(etcd, &most, on_done, &seen), 0);
    run_until(&seen.done, PATIENCE_MS);
    assert_int_equal(seen.answer.error, 0);
    assert_true(seen.answer.succeeded);
    assert_int_equal(range(etcd, "/many/127").kv_count, 1);
    size_t size = 1700000;
    char *value = malloc(size + 1);
    memset(value, 'x', size);
    value[size] = '\0';
    struct seen big = put(etcd, "/big", value, 0);
    free(value);
    assert_true(big.answer.error != 0);
    assert_int_equal(range(etcd, "/big").kv_count, 0);
    /* It ends on this call alone: the client goes on. */
    assert_int_equal(put(etcd, "/big", "small", 0).answer.error, 0);
    etcd_destroy(etcd);
}

static void test_nobody_listens_is_a_definite_failure(void **state) {
    (void)state;
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", fixture_free_port());
    struct etcd *etcd = client(endpoint);
    assert_int_equal(put(etcd, "/n", "1", 0).answer.error, MRN_ERR_UNAVAILABLE);
    etcd_destroy(etcd);
}

static void test_next_endpoint_is_used_after_a_failure(void **state) {
    (void)state;
    char endpoints[160];
    snprintf(endpoints, sizeof endpoints, "http://127.0.0.1:%d,%s", fixture_free_port(),
             server.endpoint);
    struct etcd *etcd = client(endpoints);
    assert_int_equal(range(etcd, "/e").answer.error, MRN_ERR_UNAVAILABLE);
    assert_int_equal(etcd_retry_delay_ms(etcd), 0); /* another one is untried */
    assert_int_equal(range(etcd, "/e").answer.error, 0);
    etcd_destroy(etcd);
}

static void test_back_off_is_bounded(void **state) {
    (void)state;
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", fixture_free_port());
    struct etcd *etcd = client(endpoint);
    for (int i = 0; i < 10; i++)
        range(etcd, "/b");
    for (int i = 0; i < 100; i++) {
        assert_in_range(etcd_retry_delay_ms(etcd), 100, 200);
    }
    etcd_destroy(etcd);
}

static void test_member_that_hangs_times_out(void **state) {
    (void)state;
    struct etcd_config config = {.endpoints = server.endpoint, .timeout_ms = 300};
    struct etcd *etcd = etcd_create(loop, http, &config);
    range(etcd, "/t");
    fixture_etcd_pause(&server, true);
    uint64_t before = fixture_now_ms();
    struct seen written = put(etcd, "/t", "1", 0);
    struct seen read = range(etcd, "/t");
    uint64_t after = fixture_now_ms();
    fixture_etcd_pause(&server, false);
    assert_int_equal(written.answer.error, MRN_ERR_UNKNOWN_OUTCOME);
    assert_int_equal(read.answer.error, MRN_ERR_TIMEOUT);
    assert_in_range(after - before, 500, 1500);
    run_for(500);
    etcd_destroy(etcd);
}

static void test_base64_is_strict(void **state) {
    (void)state;
    static const char *const refused[] = {"A",        "AA",   "AAA",  "A===", "AA=A", "=AAA",
                                          "AA==AAAA", "AB==", "AAB=", "A-A=", "AA A", "AAA\n"};
    unsigned char bytes[16];
    size_t count;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        assert_int_equal(base64_decode(refused[i], strlen(refused[i]), bytes, &count),
                         MRN_ERR_MALFORMED);
    for (size_t length = 0; length < 10; length++) {
        char text[32];
        base64_encode("\x00\xff\x7f\x80hello", length, text);
        assert_int_equal(base64_decode(text, strlen(text), bytes, &count), 0);
        assert_int_equal(count, length);
        assert_memory_equal(bytes, "\x00\xff\x7f\x80hello", length);
    }
}

static int start(void **state) {
    (void)state;
    if (!fixture_etcd_start(&server, NULL)) {
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
    fixture_etcd_stop(&server);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base64_is_strict),
        cmocka_unit_test(test_put_and_range_with_bytes_that_json_must_escape),
        cmocka_unit_test(test_compares_spell_their_target),
        cmocka_unit_test(test_leases),
        cmocka_unit_test(test_watch_resumes_without_gap_or_repeat),
        cmocka_unit_test(test_watch_below_compaction_is_told),
        cmocka_unit_test(test_watch_may_be_stopped_from_its_callback),
        cmocka_unit_test(test_lost_answer_of_a_write_is_unknown_and_was_applied),
        cmocka_unit_test(test_limits_of_a_request),
        cmocka_unit_test(test_nobody_listens_is_a_definite_failure),
        cmocka_unit_test(test_next_endpoint_is_used_after_a_failure),
        cmocka_unit_test(test_back_off_is_bounded),
        cmocka_unit_test(test_member_that_hangs_times_out),
    };
    return cmocka_run_group_tests_name("etcd", tests, start, stop);
}
