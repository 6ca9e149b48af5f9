/* Answers that no etcd gives: broken, partial, huge, wrong in a field. Every one must end as an
 * error of the call, in bounded time and memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/etcd.h"
#include "controlplane/etcd_json.h"
#include "fixture.h"
#include "maroon/error.h"

static struct loop *loop;
static struct http_client *http;

struct outcome {
    bool done;
    int error;
    uint32_t changes;
};

static void on_done(void *context, const struct etcd_answer *answer) {
    struct outcome *outcome = context;
    outcome->done = true;
    outcome->error = answer->error;
}

static void on_change(void *context, const struct etcd_change *change) {
    struct outcome *outcome = context;
    if (change->kind == ETCD_CHANGE_EVENTS)
        outcome->changes += change->event_count;
}

static void run_until(bool *flag, int limit_ms) {
    uint64_t until = fixture_now_ms() + (uint64_t)limit_ms;
    while (!*flag && fixture_now_ms() < until)
        loop_run_once(loop, 20);
}

static struct etcd *client(int port) {
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "http://127.0.0.1:%d", port);
    struct etcd_config config = {.endpoints = endpoint, .timeout_ms = 1000};
    struct etcd *etcd = etcd_create(loop, http, &config);
    assert_non_null(etcd);
    return etcd;
}

static char *page(int status, const char *body) {
    char *text;
    assert_true(asprintf(&text, "HTTP/1.1 %d X\r\nContent-Length: %zu\r\n\r\n%s", status,
                         strlen(body), body) > 0);
    return text;
}

/* One range and one write against the same bytes. */
static void expect(const char *bytes, size_t count, bool repeat, int read_error, int write_error) {
    struct fixture_server *server = fixture_server_start(bytes, count, repeat);
    struct etcd *etcd = client(fixture_server_port(server));
    struct outcome read = {0}, write = {0};
    struct etcd_txn txn = {0};
    etcd_range(etcd, "/k", NULL, 0, on_done, &read);
    run_until(&read.done, PATIENCE_MS);
    etcd_transaction(etcd, &txn, on_done, &write);
    run_until(&write.done, PATIENCE_MS);
    assert_true(read.done && write.done);
    if (read.error != read_error || write.error != write_error)
        print_error("answer was: %.200s\n", bytes);
    assert_int_equal(read.error, read_error);
    assert_int_equal(write.error, write_error);
    etcd_destroy(etcd);
    fixture_server_stop(server);
}

static void test_broken_json_is_an_error(void **state) {
    (void)state;
    static const char *const bodies[] = {
        "",
        "null",
        "[]",
        "{",
        "{}",
        "{\"header\":{\"revision\":\"5\"},\"kvs\":7,\"responses\":7}",
        "{\"header\":{\"revision\":\"-5\"}}",
        "{\"header\":{\"revision\":\"18446744073709551616\"}}",
        "{\"header\":{\"revision\":\"5x\"}}",
        "{\"header\":{\"revision\":\"\"}}",
        "{\"header\":{\"revision\":5.5}}",
        "{\"header\":[],\"kvs\":[]}",
        "{\"header\":{\"revision\":\"5\"},\"succeeded\":\"yes\",\"more\":\"yes\"}",
        "{\"header\":{\"revision\":\"5\"},\"kvs\":[7],\"responses\":[7]}",
        "{\"header\":{\"revision\":\"5\"},\"kvs\":[{}],\"responses\":[{}]}",
        "{\"header\":{\"revision\":\"5\"},\"kvs\":[{\"key\":\"a\"}],"
        "\"responses\":[{\"response_range\":{\"kvs\":[{\"key\":\"a\"}]}}]}",
        "{\"header\":{\"revision\":\"5\"},\"kvs\":[{\"key\":\"AAAA\"}],"
        "\"responses\":[{\"response_range\":[]}]}",
        "{\"header\":{\"revision\":\"5\"},\"kvs\":[{\"key\":\"L2s=\",\"value\":7}],"
        "\"responses\":[{\"response_delete_range\":{\"deleted\":\"x\"}}]}",
        "{\"header\":{\"revision\":\"5\"}}trailing",
        "\xff\xfe\xfd",
    };
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        char *text = page(200, bodies[i]);
        expect(text, strlen(text), false, MRN_ERR_MALFORMED, MRN_ERR_UNKNOWN_OUTCOME);
        free(text);
    }
}

static void test_nesting_and_key_length_are_bounded(void **state) {
    (void)state;
    size_t depth = 100000;
    char *deep = malloc(depth + 1);
    memset(deep, '[', depth);
    deep[depth] = '\0';
    char *text = page(200, deep);
    expect(text, strlen(text), false, MRN_ERR_MALFORMED, MRN_ERR_UNKNOWN_OUTCOME);
    free(text);
    char key[1201], *body;
    memset(key, 'A', 1200);
    key[1200] = '\0';
    assert_true(
        asprintf(&body, "{\"header\":{\"revision\":\"5\"},\"kvs\":[{\"key\":\"%s\"}]}", key) > 0);
    text = page(200, body);
    struct etcd_memory *memory = NULL;
    struct etcd_answer answer = {0};
    assert_int_equal(etcd_json_read_range(body, strlen(body), &memory, &answer), MRN_ERR_MALFORMED);
    etcd_memory_free(memory);
    free(body);
    free(text);
    free(deep);
}

static void test_refusals_without_the_usual_fields(void **state) {
    (void)state;
    static const char *const bodies[] = {"", "no json", "{\"error\":7}", "{\"code\":\"14\"}",
                                         "{\"code\":-1,\"message\":7}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        char *text = page(503, bodies[i]);
        expect(text, strlen(text), false, MRN_ERR_UNAVAILABLE, MRN_ERR_UNKNOWN_OUTCOME);
        free(text);
    }
    char *text = page(400, "{\"message\":\"etcdserver: key is not provided\",\"code\":3}");
    expect(text, strlen(text), false, MRN_ERR_INVALID, MRN_ERR_INVALID);
    free(text);
    /* "A NoSpace error may still have applied." */
    text = page(429, "{\"message\":\"etcdserver: mvcc: database space exceeded\",\"code\":8}");
    expect(text, strlen(text), false, MRN_ERR_UNAVAILABLE, MRN_ERR_UNKNOWN_OUTCOME);
    free(text);
}

static void test_answers_that_are_no_http_or_end_early(void **state) {
    (void)state;
    static const char no_http[] = "hello\r\n\r\n";
    static const char partial[] = "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"header\":";
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Le";
    expect(no_http, sizeof no_http - 1, false, MRN_ERR_UNAVAILABLE, MRN_ERR_UNKNOWN_OUTCOME);
    expect(partial, sizeof partial - 1, false, MRN_ERR_UNAVAILABLE, MRN_ERR_UNKNOWN_OUTCOME);
    /* libcurl takes a head that ends early for a whole one with an empty body. */
    expect(head, sizeof head - 1, false, MRN_ERR_MALFORMED, MRN_ERR_UNKNOWN_OUTCOME);
    expect("", 0, false, MRN_ERR_UNAVAILABLE, MRN_ERR_UNKNOWN_OUTCOME);
}

static void test_endless_answer_is_cut(void **state) {
    (void)state;
    size_t size = 1 << 20;
    char *bytes = malloc(size);
    memset(bytes, ' ', size);
    static const char head[] = "HTTP/1.1 200 OK\r\n\r\n";
    memcpy(bytes, head, sizeof head - 1);
    expect(bytes, size, true, MRN_ERR_TOO_LARGE, MRN_ERR_UNKNOWN_OUTCOME);
    free(bytes);
}

static void test_watch_lines(void **state) {
    (void)state;
    static const char *const refused[] = {
        "{}",
        "{\"result\":7}",
        "{\"result\":{}}",
        "{\"result\":{\"header\":{\"revision\":\"1\"},\"events\":[{}]}}",
        "{\"result\":{\"header\":{\"revision\":\"1\"},\"events\":[{\"type\":7,\"kv\":{}}]}}",
        "{\"result\":{\"header\":{\"revision\":\"1\"},\"events\":{}}}",
        "{\"result\":{\"header\":{\"revision\":\"1\"},\"compact_revision\":\"x\"}}",
    };
    struct etcd_json_watch watch;
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct etcd_memory *memory = NULL;
        assert_int_equal(etcd_json_read_watch(refused[i], strlen(refused[i]), &memory, &watch),
                         MRN_ERR_MALFORMED);
        etcd_memory_free(memory);
    }
    struct etcd_memory *memory = NULL;
    static const char error[] = "{\"error\":{\"grpc_code\":14,\"message\":\"no leader\"}}";
    assert_int_equal(etcd_json_read_watch(error, sizeof error - 1, &memory, &watch), 0);
    assert_true(watch.canceled);
    assert_string_equal(watch.reason, "no leader");
    etcd_memory_free(memory);
}

static void test_watch_outlives_a_server_that_talks_nonsense(void **state) {
    (void)state;
    size_t size = 1 << 20;
    char *bytes = malloc(size);
    memset(bytes, 'x', size); /* one endless line */
    static const char head[] =
        "HTTP/1.1 200 OK\r\n\r\n{\"result\":{\"header\":{\"revision\":\"1\"},\"created\":true}}\n";
    memcpy(bytes, head, sizeof head - 1);
    struct fixture_server *server = fixture_server_start(bytes, size, true);
    struct etcd *etcd = client(fixture_server_port(server));
    struct outcome outcome = {0};
    struct etcd_watch *watch = etcd_watch_start(etcd, "/k", NULL, 1, on_change, &outcome);
    const uint64_t *ended =
        &etcd_metrics(etcd)->requests[ETCD_METRIC_WATCH][ETCD_OUTCOME_UNAVAILABLE];
    uint64_t until = fixture_now_ms() + PATIENCE_MS;
    while (*ended < 2 && fixture_now_ms() < until)
        loop_run_once(loop, 20);
    assert_int_equal(outcome.changes, 0);
    assert_true(*ended >= 2);
    etcd_watch_stop(watch);
    etcd_destroy(etcd);
    fixture_server_stop(server);
    free(bytes);
}

struct heard { /* of a watch */
    char text[256];
    uint32_t created, events;
    bool enough;
};

static void on_heard(void *context, const struct etcd_change *change) {
    struct heard *heard = context;
    heard->created += change->kind == ETCD_CHANGE_CREATED;
    for (uint32_t i = 0; change->kind == ETCD_CHANGE_EVENTS && i < change->event_count; i++) {
        const struct etcd_event *event = &change->events[i];
        size_t at = strlen(heard->text);
        snprintf(heard->text + at, sizeof heard->text - at, "%s=%s@%llu ", event->kv.key,
                 event->deleted ? "-" : event->kv.value,
                 (unsigned long long)event->kv.mod_revision);
        heard->events++;
    }
    heard->enough = heard->events >= 4;
}

/* A frame in many reads, several frames in one, an event a frame and several: the same is heard. */
static void test_watch_frames_come_in_any_pieces(void **state) {
    (void)state;
    static const char bytes[] =
        "HTTP/1.1 200 OK\r\n\r\n"
        "{\"result\":{\"header\":{\"revision\":\"4\"},\"created\":true}}\n"
        "{\"result\":{\"header\":{\"revision\":\"5\"},\"events\":[{\"kv\":{\"key\":\"L2E=\","
        "\"mod_revision\":\"5\",\"value\":\"b25l\"}}]}}\n"
        "{\"result\":{\"header\":{\"revision\":\"6\"},\"events\":[{\"kv\":{\"key\":\"L2E=\","
        "\"mod_revision\":\"6\",\"value\":\"dHdv\"}},{\"type\":\"DELETE\",\"kv\":{\"key\":\"L2I=\","
        "\"mod_revision\":\"6\"}}]}}\n"
        "{\"result\":{\"header\":{\"revision\":\"7\"},\"events\":[{\"kv\":{\"key\":\"L2M=\","
        "\"mod_revision\":\"7\",\"value\":\"dGhyZWU=\"}}]}}\n";
    static const size_t pieces[] = {0, 1, 7, 100};
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        struct fixture_server *server = fixture_server_start(bytes, sizeof bytes - 1, false);
        fixture_server_piece(server, pieces[i]);
        struct etcd *etcd = client(fixture_server_port(server));
        struct heard heard = {0};
        struct etcd_watch *watch = etcd_watch_start(etcd, "/", "0", 5, on_heard, &heard);
        run_until(&heard.enough, PATIENCE_MS);
        etcd_watch_stop(watch);
        assert_string_equal(heard.text, "/a=one@5 /a=two@6 /b=-@6 /c=three@7 ");
        assert_int_equal(heard.created, 1);
        etcd_destroy(etcd);
        fixture_server_stop(server);
    }
}

static int start(void **state) {
    (void)state;
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
        cmocka_unit_test(test_broken_json_is_an_error),
        cmocka_unit_test(test_nesting_and_key_length_are_bounded),
        cmocka_unit_test(test_refusals_without_the_usual_fields),
        cmocka_unit_test(test_answers_that_are_no_http_or_end_early),
        cmocka_unit_test(test_endless_answer_is_cut),
        cmocka_unit_test(test_watch_lines),
        cmocka_unit_test(test_watch_frames_come_in_any_pieces),
        cmocka_unit_test(test_watch_outlives_a_server_that_talks_nonsense),
    };
    return cmocka_run_group_tests_name("etcd_hostile", tests, start, stop);
}
