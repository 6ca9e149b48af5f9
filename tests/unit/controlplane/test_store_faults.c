/* The object store in S3 when the store, the way to it, or the configuration is not as it should
 * be. Faults are the proxy's (tests/store/s3_proxy.py). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fixture.h"
#include "maroon/error.h"
#include "store_fixture.h"

#define PART 65536
#define COUNT ((size_t)60000)
#define LARGE ((size_t)8 * PART)

static struct store_server server;
static struct store_client client;
static uint8_t *bytes;

static void reopen(const struct object_store_config *config) {
    if (client.store)
        store_client_close(&client);
    store_client_open(&client, &server, config);
}

static int set_up(void **state) {
    (void)state;
    struct object_store_config config = {.part_bytes = PART};
    store_fault(&server, "clear");
    reopen(&config);
    store_remove(&client, "x");
    store_remove(&client, "large");
    return 0;
}

static const struct object_store_counters *counters(void) {
    return object_store_counters(client.store);
}

static void expect_stored(const char *name, size_t count) {
    store_fault(&server, "clear");
    struct store_result *got = store_get(&client, name, count);
    assert_int_equal(got->error, 0);
    assert_int_equal(got->size_bytes, count);
    assert_memory_equal(got->bytes, bytes, count);
}

static void expect_one_clear_line(const struct store_result *result, int error, const char *word) {
    assert_int_equal(result->error, error);
    if (!strstr(result->text, word) || strchr(result->text, '\n'))
        fail_msg("\"%s\" has no \"%s\", or more than a line", result->text, word);
    assert_non_null(strstr(result->text, "s3://"));
}

static void test_puts_outlive(void **state) {
    (void)state;
    static const char *const faults[] = {
        "fault status code=503 s3code=ServiceUnavailable count=3",
        "fault status code=500 count=3",
        "fault status code=429 s3code=TooManyRequests count=2",
        "fault cut_up bytes=30000 count=3",
        "fault lose_answer count=2",
        "fault wrong_up count=2",
        "fault status code=400 s3code=RequestTimeout count=2",
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        store_fault(&server, faults[i]);
        uint64_t retries = counters()->retries;
        struct store_result *put = store_put(&client, "x", bytes, COUNT, false);
        if (put->error)
            fail_msg("%s: %s", faults[i], put->text);
        /* libcurl itself repeats a request whose kept connection ended without an answer */
        assert_in_range(counters()->retries - retries, strstr(faults[i], "lose") ? 1 : 2, 3);
        expect_stored("x", COUNT);
        store_remove(&client, "x");
    }
    assert_int_equal(counters()->throttled, 2);
    assert_int_equal(counters()->corrupt, 2);
    assert_int_equal(counters()->failures, 0);
}

static void test_gets_outlive(void **state) {
    (void)state;
    static const char *const faults[] = {
        "fault status code=503 s3code=SlowDown count=3",
        "fault lose_answer count=3",
        "fault wrong_down count=3",
        "fault cut_down bytes=0 count=3",
    };
    store_put(&client, "x", bytes, COUNT, false);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        store_fault(&server, faults[i]);
        uint64_t retries = counters()->retries;
        struct store_result *got = store_get(&client, "x", COUNT);
        assert_int_equal(got->error, 0);
        assert_memory_equal(got->bytes, bytes, COUNT);
        assert_in_range(counters()->retries - retries, strstr(faults[i], "lose") ? 1 : 3, 3);
        store_fault(&server, "clear");
    }
    assert_int_equal(counters()->corrupt, 3);
}

static void test_a_download_goes_on_where_it_broke(void **state) {
    (void)state;
    store_put(&client, "x", bytes, COUNT, false);
    store_fault(&server, "fault cut_down bytes=20000 count=2");
    uint64_t before = counters()->downloaded_bytes;
    struct store_result *got = store_get(&client, "x", COUNT);
    assert_int_equal(got->error, 0);
    assert_memory_equal(got->bytes, bytes, COUNT);
    assert_int_equal(counters()->downloaded_bytes - before, COUNT); /* nothing twice */
    assert_int_equal(counters()->retries, 2);
}

static void test_an_object_replaced_meanwhile_is_not_mixed(void **state) {
    (void)state;
    uint8_t *other = store_bytes(COUNT, 77);
    struct store_result got = {0};
    store_put(&client, "x", bytes, COUNT, false);
    store_fault(&server, "fault cut_down bytes=20000 count=1");
    assert_int_equal(object_store_get(client.store, "x", COUNT, store_take, &got), 0);
    while (store_stat(&server, "faults", "cut_down") < 3) /* two came before */
        loop_run_once(client.loop, 5);
    struct store_client second;
    struct object_store_config config = {.part_bytes = PART};
    store_client_open(&second, &server, &config);
    assert_int_equal(store_put(&second, "x", other, COUNT, false)->error, 0);
    store_client_close(&second);
    store_run(&client, &got.done, PATIENCE_MS);
    assert_int_equal(got.error, 0);
    assert_memory_equal(got.bytes, other, COUNT);
    free(got.bytes);
    free(other);
}

static void test_parts_outlive(void **state) {
    (void)state;
    static const char *const faults[] = {
        "fault cut_up bytes=30000 count=5",
        "fault status code=503 s3code=SlowDown count=5",
        "fault wrong_up count=3",
        "fault lose_answer match=partNumber count=3",
        "fault lose_answer method=POST match=uploadId count=1",   /* of the completion */
        "fault status code=501 method=GET match=uploads count=1", /* no lists */
        "fault status code=503 match=uploads count=2",
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        store_fault(&server, faults[i]);
        struct store_result *put = store_put(&client, "large", bytes, LARGE, true);
        if (put->error)
            fail_msg("%s: %s", faults[i], put->text);
        expect_stored("large", LARGE);
        store_remove(&client, "large");
    }
}

static void test_a_store_that_lies_is_found_out(void **state) {
    (void)state;
    store_put(&client, "x", bytes, COUNT, false);
    store_fault(&server, "fault wrong_down");
    expect_one_clear_line(store_get(&client, "x", COUNT), MRN_ERR_CORRUPT, "do not fit their hash");
    store_fault(&server, "clear");
    store_fault(&server, "fault wrong_up method=PUT");
    expect_one_clear_line(store_put(&client, "y", bytes, COUNT, false), MRN_ERR_CORRUPT, "damaged");
    store_fault(&server, "clear");
    assert_int_equal(store_head(&client, "y")->error, MRN_ERR_NOT_FOUND);
    char path[160]; /* on its disk, behind its back */
    snprintf(path, sizeof path, "%s/dumps/a/prefix/x._S3rver_object", server.dir);
    FILE *file = fopen(path, "r+");
    assert_non_null(file);
    fputc(bytes[0] ^ 1, file);
    fclose(file);
    expect_one_clear_line(store_get(&client, "x", COUNT), MRN_ERR_CORRUPT, "do not fit their hash");
}

/* s3rver writes in place: what it got of a broken upload is there. */
static void test_half_an_object_is_replaced(void **state) {
    (void)state;
    char path[160];
    store_put(&client, "x", bytes, COUNT, false);
    snprintf(path, sizeof path, "%s/dumps/a/prefix/x._S3rver_object", server.dir);
    assert_int_equal(truncate(path, 1000), 0);
    assert_int_equal(store_get(&client, "x", COUNT)->error, MRN_ERR_CORRUPT);
    assert_int_equal(store_put(&client, "x", bytes, COUNT, true)->error, 0);
    expect_stored("x", COUNT);
    assert_int_equal(store_put(&client, "x", bytes, COUNT, true)->error, MRN_ERR_EXISTS);
}

static void test_away_and_back(void **state) {
    (void)state;
    store_put(&client, "x", bytes, COUNT, false);
    store_fault(&server, "fault away");
    expect_one_clear_line(store_put(&client, "x", bytes, COUNT, false), MRN_ERR_UNAVAILABLE,
                          "gave up after 6 tries");
    expect_one_clear_line(store_list(&client, ""), MRN_ERR_UNAVAILABLE, "gave up");
    assert_int_equal(counters()->failures, 2);
    struct store_result put = {0};
    assert_int_equal(object_store_put(client.store, "y", bytes, COUNT, false, store_take, &put), 0);
    for (int i = 0; i < 3; i++)
        loop_run_once(client.loop, 20);
    store_fault(&server, "clear");
    store_run(&client, &put.done, PATIENCE_MS); /* within its retries */
    assert_int_equal(put.error, 0);
    expect_stored("y", COUNT);
    store_remove(&client, "y");
}

static void test_slow_is_waited_for_and_still_is_not(void **state) {
    (void)state;
    struct object_store_config config = {.stall_timeout_s = 1, .tries_max = 2};
    reopen(&config);
    store_fault(&server, "fault slow bytes_per_s=40000");
    assert_int_equal(store_put(&client, "x", bytes, COUNT, false)->error, 0);
    assert_int_equal(store_get(&client, "x", COUNT)->error, 0);
    assert_int_equal(counters()->retries, 0);
    store_fault(&server, "clear");
    store_fault(&server, "fault delay ms=4000");
    expect_one_clear_line(store_get(&client, "x", COUNT), MRN_ERR_TIMEOUT, "gave up after 2");
}

static void test_one_that_throttles_is_spared(void **state) {
    (void)state;
    struct object_store_config config = {.retry_first_ms = 200, .retry_max_ms = 400};
    reopen(&config);
    store_put(&client, "x", bytes, COUNT, false);
    struct store_result results[30] = {0};
    store_fault(&server, "fault status code=503 s3code=SlowDown count=1");
    uint64_t requests = counters()->requests;
    for (int i = 0; i < 30; i++)
        object_store_get(client.store, "x", COUNT, store_take, &results[i]);
    for (int i = 0; i < 30; i++) {
        store_run(&client, &results[i].done, PATIENCE_MS);
        assert_int_equal(results[i].error, 0);
        free(results[i].bytes);
    }
    assert_int_equal(counters()->throttled, 1);
    assert_int_equal(counters()->requests - requests, 31);
    store_fault(&server, "clear");
    store_fault(&server, "fault status code=503 s3code=SlowDown");
    expect_one_clear_line(store_head(&client, "x"), MRN_ERR_UNAVAILABLE, "503"); /* HEAD: no body */
    expect_one_clear_line(store_get(&client, "x", COUNT), MRN_ERR_THROTTLED, "slow down");
}

static void test_wrong_credentials(void **state) {
    (void)state;
    struct object_store_config config = {.part_bytes = PART};
    setenv("AWS_SECRET_ACCESS_KEY", "another", 1);
    reopen(&config);
    expect_one_clear_line(store_put(&client, "x", bytes, COUNT, false), MRN_ERR_DENIED,
                          "the secret key does not fit access key " STORE_ACCESS_KEY);
    assert_true(counters()->requests <= 2); /* no storm */
    setenv("AWS_ACCESS_KEY_ID", "NOBODY", 1);
    reopen(&config);
    expect_one_clear_line(store_list(&client, ""), MRN_ERR_DENIED, "access key NOBODY");
    expect_one_clear_line(store_head(&client, "x"), MRN_ERR_DENIED, "403");
    setenv("AWS_ACCESS_KEY_ID", STORE_ACCESS_KEY, 1);
    setenv("AWS_SECRET_ACCESS_KEY", STORE_SECRET_KEY, 1);
}

static void test_missing_bucket(void **state) {
    (void)state;
    struct object_store_config config = {.url = "s3://no-such-bucket/p", .part_bytes = PART};
    reopen(&config);
    expect_one_clear_line(store_put(&client, "x", bytes, COUNT, true), MRN_ERR_NO_STORE,
                          "the bucket does not exist");
    expect_one_clear_line(store_put(&client, "x", bytes, LARGE, true), MRN_ERR_NO_STORE,
                          "the bucket does not exist");
    expect_one_clear_line(store_get(&client, "x", COUNT), MRN_ERR_NO_STORE, "does not exist");
    expect_one_clear_line(store_list(&client, ""), MRN_ERR_NO_STORE, "does not exist");
    assert_int_equal(counters()->retries, 0);
}

static void test_full_bucket(void **state) {
    (void)state;
    static const char *const faults[] = {
        "fault status code=403 s3code=QuotaExceeded method=PUT",
        "fault status code=507 s3code=XMinioStorageFull method=PUT",
    };
    for (size_t i = 0; i < 2; i++) {
        store_fault(&server, faults[i]);
        expect_one_clear_line(store_put(&client, "x", bytes, COUNT, false), MRN_ERR_NO_SPACE,
                              "the bucket is full");
        expect_one_clear_line(store_put(&client, "large", bytes, LARGE, false), MRN_ERR_NO_SPACE,
                              "the bucket is full");
        store_fault(&server, "clear");
    }
    assert_int_equal(store_put(&client, "x", bytes, COUNT, false)->error, 0);
    store_clean(&client, 0);
}

int main(void) {
    setenv("AWS_ACCESS_KEY_ID", STORE_ACCESS_KEY, 1);
    setenv("AWS_SECRET_ACCESS_KEY", STORE_SECRET_KEY, 1);
    if (!store_server_start(&server, NULL))
        return 77;
    bytes = store_bytes(LARGE, 9);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_puts_outlive, set_up),
        cmocka_unit_test_setup(test_gets_outlive, set_up),
        cmocka_unit_test_setup(test_a_download_goes_on_where_it_broke, set_up),
        cmocka_unit_test_setup(test_an_object_replaced_meanwhile_is_not_mixed, set_up),
        cmocka_unit_test_setup(test_parts_outlive, set_up),
        cmocka_unit_test_setup(test_a_store_that_lies_is_found_out, set_up),
        cmocka_unit_test_setup(test_half_an_object_is_replaced, set_up),
        cmocka_unit_test_setup(test_away_and_back, set_up),
        cmocka_unit_test_setup(test_slow_is_waited_for_and_still_is_not, set_up),
        cmocka_unit_test_setup(test_one_that_throttles_is_spared, set_up),
        cmocka_unit_test_setup(test_wrong_credentials, set_up),
        cmocka_unit_test_setup(test_missing_bucket, set_up),
        cmocka_unit_test_setup(test_full_bucket, set_up),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    store_client_close(&client);
    store_server_stop(&server);
    free(bytes);
    return failed;
}
