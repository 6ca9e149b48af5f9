/* The object store in S3, against s3rver behind the proxy that checks signatures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fixture.h"
#include "maroon/error.h"
#include "store_fixture.h"

#define PART 65536

static struct store_server server;
static struct store_client client;

static void reopen(const struct object_store_config *config) {
    if (client.store)
        store_client_close(&client);
    store_client_open(&client, &server, config);
}

static int set_up(void **state) {
    (void)state;
    struct object_store_config config = {.part_bytes = PART};
    reopen(&config);
    return 0;
}

static void test_put_get_head_list_remove(void **state) {
    (void)state;
    uint8_t *bytes = store_bytes(50000, 1);
    assert_int_equal(store_put(&client, "chunks/ab/x", bytes, 50000, true)->error, 0);
    assert_int_equal(store_put(&client, "chunks/ab/x", bytes, 50000, true)->error, MRN_ERR_EXISTS);
    bytes[49999] ^= 1;
    assert_int_equal(store_put(&client, "chunks/ab/x", bytes, 50000, true)->error, 0);
    assert_int_equal(store_put(&client, "latest", "", 0, false)->error, 0);
    struct store_result *got = store_get(&client, "chunks/ab/x", 50000);
    assert_int_equal(got->error, 0);
    assert_int_equal(got->size_bytes, 50000);
    assert_memory_equal(got->bytes, bytes, 50000);
    assert_int_equal(store_get(&client, "chunks/ab/x", 49999)->error, MRN_ERR_TOO_LARGE);
    assert_int_equal(store_get(&client, "latest", 10)->size_bytes, 0);
    assert_int_equal(store_get(&client, "latest", 10)->error, 0);
    struct store_result *facts = store_head(&client, "chunks/ab/x");
    assert_int_equal(facts->size_bytes, 50000);
    assert_true(facts->modified_ms > UINT64_C(1700000000000));
    assert_int_equal(store_list(&client, "")->count, 2);
    assert_string_equal(store_list(&client, "chunks/a")->names, "chunks/ab/x ");
    assert_int_equal(store_remove(&client, "chunks/ab/x")->error, 0);
    assert_int_equal(store_remove(&client, "chunks/ab/x")->error, 0);
    assert_string_equal(store_list(&client, "")->names, "latest ");
    assert_int_equal(store_get(&client, "chunks/ab/x", 50000)->error, MRN_ERR_NOT_FOUND);
    assert_int_equal(store_head(&client, "chunks/ab/x")->error, MRN_ERR_NOT_FOUND);
    store_remove(&client, "latest");
    assert_int_equal(object_store_counters(client.store)->failures, 1); /* TOO_LARGE */
    assert_int_equal(object_store_counters(client.store)->waiting, 0);
    free(bytes);
}

static void test_lists_have_pages(void **state) {
    (void)state;
    char path[160];
    snprintf(path, sizeof path, "%s/" STORE_BUCKET "/a", server.dir);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/" STORE_BUCKET "/a/prefix", server.dir);
    mkdir(path, 0755);
    for (int i = 0; i < 1203; i++) { /* as s3rver keeps them */
        snprintf(path, sizeof path, "%s/" STORE_BUCKET "/a/prefix/n%04d._S3rver_object", server.dir,
                 i);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fclose(file);
    }
    struct store_result *list = store_list(&client, "n");
    assert_int_equal(list->error, 0);
    assert_int_equal(list->count, 1203);
    assert_int_equal(store_list(&client, "n12")->count, 3);
    snprintf(path, sizeof path, "%s/" STORE_BUCKET "/a", server.dir);
    fixture_remove_dir(path);
}

static void test_a_large_object_goes_up_in_parts(void **state) {
    (void)state;
    size_t count = 9 * PART + 17;
    uint8_t *bytes = store_bytes(count, 2);
    assert_int_equal(store_put(&client, "large", bytes, count, true)->error, 0);
    struct store_result *got = store_get(&client, "large", count);
    assert_int_equal(got->error, 0);
    assert_int_equal(got->size_bytes, count);
    assert_memory_equal(got->bytes, bytes, count);
    assert_int_equal(store_put(&client, "large", bytes, count, true)->error, MRN_ERR_EXISTS);
    store_remove(&client, "large");
    free(bytes);
}

/* A put that ends with its process, in the middle of its parts. */
static void leave_half(const uint8_t *bytes, size_t count, int parts) {
    char line[80];
    struct store_result none = {0};
    snprintf(line, sizeof line, "fault delay ms=60000 match=partNumber skip=%d", parts);
    store_fault(&server, line);
    uint64_t before = store_stat(&server, "faults", "delay");
    assert_int_equal(object_store_put(client.store, "large", bytes, count, true, store_take, &none),
                     0);
    for (int i = 0; i < 6000 && store_stat(&server, "faults", "delay") < before + 4; i++)
        loop_run_once(client.loop, 10);
    uint64_t until_ms = fixture_now_ms() + 1000; /* those that pass arrive */
    while (fixture_now_ms() < until_ms)
        loop_run_once(client.loop, 10);
    assert_false(none.done);
    store_fault(&server, "clear");
    struct object_store_config config = {.part_bytes = PART};
    reopen(&config); /* a new process */
}

static void test_an_upload_is_resumed_after_a_restart(void **state) {
    (void)state;
    size_t count = 12 * PART + 1;
    uint8_t *bytes = store_bytes(count, 3);
    leave_half(bytes, count, 5);
    uint64_t up = store_stat(&server, "", "up_bytes");
    assert_int_equal(store_put(&client, "large", bytes, count, true)->error, 0);
    uint64_t resumed = object_store_counters(client.store)->parts_resumed;
    assert_in_range(resumed, 4, 6); /* the list has pages of three */
    assert_true(store_stat(&server, "", "up_bytes") - up < count - 4 * PART + 4096);
    struct store_result *got = store_get(&client, "large", count);
    assert_int_equal(got->error, 0);
    assert_memory_equal(got->bytes, bytes, count);
    store_remove(&client, "large");
    free(bytes);
}

static void test_an_upload_of_other_bytes_is_not_taken_up(void **state) {
    (void)state;
    size_t count = 12 * PART;
    uint8_t *bytes = store_bytes(count, 4);
    leave_half(bytes, count, 5);
    memset(bytes, 7, count);
    assert_int_equal(store_put(&client, "large", bytes, count, true)->error, 0);
    assert_int_equal(object_store_counters(client.store)->parts_resumed, 0);
    struct store_result *got = store_get(&client, "large", count);
    assert_memory_equal(got->bytes, bytes, count);
    /* The orphan stays until it is old enough. */
    char path[128];
    snprintf(path, sizeof path, "find %s/dumps/._S3rver_uploads -name key | grep -q .", server.dir);
    assert_int_equal(store_clean(&client, 3600)->error, 0);
    assert_int_equal(system(path), 0);
    assert_int_equal(store_clean(&client, 0)->error, 0);
    assert_int_not_equal(system(path), 0);
    store_remove(&client, "large");
    free(bytes);
}

static void test_many_transfers_at_once(void **state) {
    (void)state;
    struct store_result results[40] = {0};
    uint8_t *bytes = store_bytes(20000, 5);
    store_put(&client, "one", bytes, 20000, false);
    store_fault(&server, "fault delay ms=100");
    uint64_t since_ms = fixture_now_ms();
    for (int i = 0; i < 40; i++)
        assert_int_equal(object_store_get(client.store, "one", 20000, store_take, &results[i]), 0);
    for (int i = 0; i < 40; i++) {
        store_run(&client, &results[i].done, PATIENCE_MS);
        assert_int_equal(results[i].error, 0);
        assert_memory_equal(results[i].bytes, bytes, 20000);
        free(results[i].bytes);
    }
    uint64_t took_ms = fixture_now_ms() - since_ms;
    assert_in_range(took_ms, 250, 3900); /* 40 / 16 rounds of 100 ms, not 40 */
    store_fault(&server, "clear");
    free(bytes);
}

static void test_closing_ends_what_is_open(void **state) {
    (void)state;
    struct store_result results[20] = {0};
    uint8_t *bytes = store_bytes(9 * PART, 6);
    store_fault(&server, "fault delay ms=50");
    for (int i = 0; i < 20; i++)
        assert_int_equal(object_store_put(client.store, i % 2 ? "x" : "y", bytes,
                                          i % 4 ? 100 : 9 * PART, i % 3, store_take, &results[i]),
                         0);
    for (int i = 0; i < 12; i++)
        loop_run_once(client.loop, 20);
    store_client_close(&client);
    store_fault(&server, "clear");
    free(bytes);
    set_up(NULL);
    store_clean(&client, 0);
}

static void test_virtual_host_style(void **state) {
    (void)state;
    char endpoint[64];
    snprintf(endpoint, sizeof endpoint, "http://s3.localhost:%d", server.port);
    struct object_store_config config = {.endpoint = endpoint, .url = "s3://" STORE_BUCKET};
    reopen(&config);
    assert_int_equal(store_put(&client, "by-host", "abc", 3, false)->error, 0);
    assert_int_equal(store_get(&client, "by-host", 3)->size_bytes, 3);
    assert_string_equal(store_list(&client, "by-")->names, "by-host ");
    config.path_style = true;
    reopen(&config);
    assert_int_equal(store_get(&client, "by-host", 3)->error, 0);
    store_remove(&client, "by-host");
}

static void test_the_upload_rate_is_kept(void **state) {
    (void)state;
    struct store_result results[8] = {0};
    struct object_store_config config = {.upload_bytes_per_s = 1000000};
    reopen(&config);
    uint8_t *bytes = store_bytes(200000, 7);
    const char *names[] = {"r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7"};
    uint64_t since_ms = fixture_now_ms();
    for (int i = 0; i < 8; i++)
        assert_int_equal(
            object_store_put(client.store, names[i], bytes, 200000, false, store_take, &results[i]),
            0);
    for (int i = 0; i < 8; i++) {
        store_run(&client, &results[i].done, PATIENCE_MS);
        assert_int_equal(results[i].error, 0);
        store_remove(&client, names[i]);
    }
    uint64_t took_ms = fixture_now_ms() - since_ms;
    assert_in_range(took_ms, 1350, PATIENCE_MS); /* 1.6 MB at 1 MB/s; the last may burst */
    free(bytes);
}

static void test_tls(void **state) {
    (void)state;
    char dir[64], command[400], endpoint[64], authority[80];
    struct store_server secure;
    fixture_make_dir(dir, sizeof dir);
    snprintf(command, sizeof command,
             "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
             "-addext subjectAltName=DNS:localhost -keyout %s/key.pem -out %s/cert.pem 2>/dev/null",
             dir, dir);
    assert_int_equal(system(command), 0);
    assert_true(store_server_start(&secure, dir));
    snprintf(endpoint, sizeof endpoint, "https://localhost:%d", secure.server_port);
    snprintf(authority, sizeof authority, "%s/cert.pem", dir);
    struct object_store_config config = {.endpoint = endpoint, .ca_file = authority};
    reopen(&config);
    assert_int_equal(store_put(&client, "secret", "abc", 3, false)->error, 0);
    assert_int_equal(store_get(&client, "secret", 3)->error, 0);
    config.ca_file = NULL;
    config.tries_max = 2;
    reopen(&config);
    struct store_result *got = store_get(&client, "secret", 3);
    assert_int_equal(got->error, MRN_ERR_UNAVAILABLE);
    assert_non_null(strstr(got->text, "certificate"));
    store_server_stop(&secure);
    fixture_remove_dir(dir);
}

int main(void) {
    setenv("AWS_ACCESS_KEY_ID", STORE_ACCESS_KEY, 1);
    setenv("AWS_SECRET_ACCESS_KEY", STORE_SECRET_KEY, 1);
    if (!store_server_start(&server, NULL))
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_put_get_head_list_remove, set_up),
        cmocka_unit_test_setup(test_lists_have_pages, set_up),
        cmocka_unit_test_setup(test_a_large_object_goes_up_in_parts, set_up),
        cmocka_unit_test_setup(test_an_upload_is_resumed_after_a_restart, set_up),
        cmocka_unit_test_setup(test_an_upload_of_other_bytes_is_not_taken_up, set_up),
        cmocka_unit_test_setup(test_many_transfers_at_once, set_up),
        cmocka_unit_test_setup(test_closing_ends_what_is_open, set_up),
        cmocka_unit_test_setup(test_virtual_host_style, set_up),
        cmocka_unit_test_setup(test_the_upload_rate_is_kept, set_up),
        cmocka_unit_test_setup(test_tls, set_up),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    store_client_close(&client);
    store_server_stop(&server);
    return failed;
}
