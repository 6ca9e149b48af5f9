/* The object store in a directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fixture.h"
#include "maroon/error.h"
#include "store_fixture.h"

static struct store_client client;
static char dir[64], url[80];

static int set_up(void **state) {
    (void)state;
    fixture_make_dir(dir, sizeof dir);
    snprintf(url, sizeof url, "dir:%s", dir);
    struct object_store_config config = {.url = url};
    store_client_open(&client, NULL, &config);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    store_client_close(&client);
    fixture_remove_dir(dir);
    return 0;
}

static void write_file(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_put_get_head_list_remove(void **state) {
    (void)state;
    uint8_t *bytes = store_bytes(300000, 1);
    assert_int_equal(store_put(&client, "chunks/ab/x", bytes, 300000, true)->error, 0);
    assert_int_equal(store_put(&client, "chunks/ab/x", bytes, 300000, true)->error, MRN_ERR_EXISTS);
    bytes[299999] ^= 1;
    assert_int_equal(store_put(&client, "chunks/ab/x", bytes, 300000, true)->error, 0);
    assert_int_equal(store_put(&client, "latest", "", 0, false)->error, 0);
    struct store_result *got = store_get(&client, "chunks/ab/x", 300000);
    assert_int_equal(got->error, 0);
    assert_int_equal(got->size_bytes, 300000);
    assert_memory_equal(got->bytes, bytes, 300000);
    assert_int_equal(store_get(&client, "latest", 10)->size_bytes, 0);
    struct store_result *facts = store_head(&client, "chunks/ab/x");
    assert_int_equal(facts->size_bytes, 300000);
    assert_true(facts->modified_ms > UINT64_C(1700000000000));
    assert_int_equal(store_list(&client, "")->count, 2);
    struct store_result *list = store_list(&client, "chunks/a");
    assert_int_equal(list->count, 1);
    assert_string_equal(list->names, "chunks/ab/x ");
    assert_int_equal(store_remove(&client, "chunks/ab/x")->error, 0);
    assert_int_equal(store_remove(&client, "chunks/ab/x")->error, 0);
    assert_string_equal(store_list(&client, "")->names, "latest ");
    char path[128];
    snprintf(path, sizeof path, "%s/chunks", dir);
    assert_int_equal(access(path, F_OK), -1); /* empty directories go too */
    free(bytes);
}

static void test_what_is_not_there(void **state) {
    (void)state;
    assert_int_equal(store_get(&client, "none", 10)->error, MRN_ERR_NOT_FOUND);
    assert_int_equal(store_head(&client, "no/ne")->error, MRN_ERR_NOT_FOUND);
    store_put(&client, "a/b", "12345", 5, false);
    assert_int_equal(store_get(&client, "a", 10)->error, MRN_ERR_NOT_FOUND);
    assert_int_equal(store_get(&client, "a/b/c", 10)->error, MRN_ERR_NOT_FOUND);
    assert_int_equal(store_get(&client, "a/b", 4)->error, MRN_ERR_TOO_LARGE);
}

static void test_names(void **state) {
    (void)state;
    static const char *const bad[] = {"", "/a", "a/", "a//b", ".a", "a/../b", "a b", "a\n", "ä"};
    struct store_result none = {0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(object_store_get(client.store, bad[i], 1, store_take, &none),
                         MRN_ERR_INVALID);
    char text[200];
    struct object_store *store;
    static const char *const urls[] = {"",          "dir:relative", "dir:",        "file:/x",
                                       "s3://",     "s3://ab",      "s3://A_b",    "s3://abc/x y",
                                       "s3://a..b", "s3://abc/../", "s3://-abc/x", "s3:///x"};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        struct object_store_config config = {.url = urls[i]};
        assert_int_equal(
            object_store_open(client.loop, client.http, &config, &store, text, sizeof text),
            MRN_ERR_INVALID);
        assert_non_null(strstr(text, "store URL"));
    }
}

static void test_a_killed_writer_leaves_nothing_visible(void **state) {
    (void)state;
    write_file(".put-0123", "half");
    assert_int_equal(store_list(&client, "")->count, 0);
    assert_int_equal(store_clean(&client, 3600)->error, 0);
    char path[128];
    snprintf(path, sizeof path, "%s/.put-0123", dir);
    assert_int_equal(access(path, F_OK), 0);
    assert_int_equal(store_clean(&client, 0)->error, 0);
    assert_int_equal(access(path, F_OK), -1);
    /* Just after a full second, when the kernel's clock of ticks has not heard of it yet. */
    struct timespec now;
    uint64_t until_ms = fixture_now_ms() + 1500;
    do
        clock_gettime(CLOCK_REALTIME, &now);
    while (now.tv_sec <= time(NULL) && fixture_now_ms() < until_ms);
    write_file(".put-0123", "half");
    assert_int_equal(store_clean(&client, 0)->error, 0);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_a_missing_directory_is_not_made(void **state) {
    (void)state;
    rmdir(dir);
    struct store_result *put = store_put(&client, "a", "1", 1, false);
    assert_int_equal(put->error, MRN_ERR_NO_STORE);
    assert_non_null(strstr(put->text, dir));
    assert_int_equal(store_get(&client, "a", 1)->error, MRN_ERR_NO_STORE);
    assert_int_equal(store_list(&client, "")->error, MRN_ERR_NO_STORE);
    assert_int_equal(access(dir, F_OK), -1);
    assert_int_equal(object_store_counters(client.store)->failures, 3);
}

static void test_a_full_disk(void **state) {
    (void)state;
    if (geteuid() != 0 || unshare(CLONE_NEWNS) ||
        mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("tmpfs", dir, "tmpfs", 0, "size=1m"))
        skip();
    uint8_t *bytes = store_bytes(2 << 20, 2);
    struct store_result *put = store_put(&client, "large", bytes, 2 << 20, false);
    assert_int_equal(put->error, MRN_ERR_NO_SPACE);
    assert_non_null(strstr(put->text, "No space left"));
    assert_int_equal(store_list(&client, "")->count, 0);
    assert_int_equal(store_put(&client, "small", bytes, 4096, false)->error, 0);
    umount(dir);
    free(bytes);
}

static void test_the_rate_is_kept(void **state) {
    (void)state;
    store_client_close(&client);
    struct object_store_config config = {.url = url, .upload_bytes_per_s = 1000000};
    store_client_open(&client, NULL, &config);
    uint8_t *bytes = store_bytes(100000, 3);
    uint64_t since_ms = fixture_now_ms();
    for (int i = 0; i < 6; i++)
        assert_int_equal(store_put(&client, "a", bytes, 100000, false)->error, 0);
    uint64_t took_ms = fixture_now_ms() - since_ms;
    assert_in_range(took_ms, 490, PATIENCE_MS); /* the sixth begins when five have had their time */
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_put_get_head_list_remove, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_is_not_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_names, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_killed_writer_leaves_nothing_visible, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_missing_directory_is_not_made, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_the_rate_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_full_disk, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
