/* Where keys come from: environment, file, metadata service. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controlplane/store/from_config.h"
#include "controlplane/store/s3_credentials.h"
#include "fixture.h"
#include "maroon/error.h"
#include "store_fixture.h"

static struct store_server server;
static struct store_client client;
static char dir[64], path[96];

static void open_with(const struct object_store_config *config) {
    if (client.store)
        store_client_close(&client);
    store_client_open(&client, &server, config);
}

static void write_keys(const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_ini(void **state) {
    (void)state;
    struct s3_keys keys;
    const char *text = "# a comment\r\n[default]\naws_access_key_id = A1\n"
                       "aws_secret_access_key=s/+=1\n\n[ other ]\naws_access_key_id=A2\n"
                       "  aws_secret_access_key =  s2  \naws_session_token = t2\nregion = x\n"
                       "[profile third]\naws_access_key_id=A3\naws_secret_access_key=s3\n"
                       "[half]\naws_access_key_id=A4\n";
    assert_int_equal(s3_credentials_read_ini(text, "default", &keys), 0);
    assert_string_equal(keys.access_key, "A1");
    assert_string_equal(keys.secret_key, "s/+=1");
    assert_string_equal(keys.token, "");
    assert_int_equal(s3_credentials_read_ini(text, "other", &keys), 0);
    assert_string_equal(keys.secret_key, "s2");
    assert_string_equal(keys.token, "t2");
    assert_int_equal(s3_credentials_read_ini(text, "third", &keys), 0);
    assert_int_equal(s3_credentials_read_ini(text, "half", &keys), MRN_ERR_MALFORMED);
    assert_int_equal(s3_credentials_read_ini(text, "none", &keys), MRN_ERR_NOT_FOUND);
    assert_int_equal(s3_credentials_read_ini("", "default", &keys), MRN_ERR_NOT_FOUND);
    char large[400];
    snprintf(large, sizeof large, "[default]\naws_access_key_id=%0*d\n", 300, 1);
    assert_int_equal(s3_credentials_read_ini(large, "default", &keys), MRN_ERR_MALFORMED);
}

static void test_json(void **state) {
    (void)state;
    struct s3_keys keys;
    assert_int_equal(s3_credentials_read_json("{\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"s\","
                                              "\"Token\":\"t\",\"Expiration\":"
                                              "\"2013-05-24T00:00:00Z\"}",
                                              &keys),
                     0);
    assert_int_equal(keys.expires_s, 1369353600);
    assert_string_equal(keys.token, "t");
    static const char *const bad[] = {
        "",
        "{}",
        "[]",
        "{\"AccessKeyId\":7,\"SecretAccessKey\":\"s\"}",
        "{\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"s\",\"Expiration\":\"soon\"}",
        "{\"AccessKeyId\":\"A\\nB\",\"SecretAccessKey\":\"s\"}",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(s3_credentials_read_json(bad[i], &keys), MRN_ERR_MALFORMED);
}

static void test_file_and_its_replacement(void **state) {
    (void)state;
    struct object_store_config config = {.credentials_file = path};
    unlink(path);
    open_with(&config);
    struct store_result *list = store_list(&client, "");
    assert_int_equal(list->error, MRN_ERR_DENIED);
    assert_non_null(strstr(list->text, path));
    assert_null(strstr(list->text, STORE_SECRET_KEY));
    write_keys("[default]\naws_access_key_id=" STORE_ACCESS_KEY "\naws_secret_access_key=old\n");
    assert_int_equal(store_list(&client, "")->error, MRN_ERR_DENIED);
    /* New keys are taken without a restart. */
    write_keys("[default]\naws_access_key_id=" STORE_ACCESS_KEY
               "\naws_secret_access_key=" STORE_SECRET_KEY "\n");
    assert_int_equal(store_list(&client, "")->error, 0);
    config.profile = "third";
    open_with(&config);
    list = store_list(&client, "");
    assert_int_equal(list->error, MRN_ERR_DENIED);
    assert_non_null(strstr(list->text, "[third]"));
}

static void test_none(void **state) {
    (void)state;
    struct object_store_config config = {.url = "s3://" STORE_BUCKET};
    open_with(&config);
    struct store_result *list = store_list(&client, "");
    assert_int_equal(list->error, MRN_ERR_DENIED);
    assert_non_null(strstr(list->text, "no credentials: set store-credentials-file"));
    assert_int_equal(object_store_counters(client.store)->requests, 0);
}

/* Runs the service in `mode` and lists through it. */
static struct store_result *list_with(const char *mode) {
    char command[700], line[64] = "", url[64];
    const char *source = getenv("MAROON_SOURCE");
    snprintf(command, sizeof command,
             "ACCESS=" STORE_ACCESS_KEY " SECRET=" STORE_SECRET_KEY
             " python3 %s/tests/store/metadata.py %s 2>/dev/null",
             source, mode);
    int in[2];
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    fflush(NULL);
    int kept = dup(0);
    dup2(in[0], 0); /* it ends when our end of its standard input is closed */
    FILE *service = popen(command, "r");
    dup2(kept, 0);
    close(kept);
    close(in[0]);
    assert_non_null(service);
    assert_non_null(fgets(line, sizeof line, service));
    snprintf(url, sizeof url, "http://127.0.0.1:%ld", strtol(line + 5, NULL, 10));
    struct object_store_config config = {.metadata_url = url, .tries_max = 2};
    open_with(&config);
    struct store_result *list = store_list(&client, "");
    close(in[1]);
    pclose(service);
    return list;
}

static void test_metadata_service(void **state) {
    (void)state;
    assert_int_equal(list_with("v2")->error, 0);
    assert_int_equal(list_with("v1")->error, 0);
    struct store_result *list = list_with("none");
    assert_int_equal(list->error, MRN_ERR_DENIED);
    assert_non_null(strstr(list->text, "has no role"));
    list = list_with("broken");
    assert_int_equal(list->error, MRN_ERR_DENIED);
    assert_non_null(strstr(list->text, "no valid keys"));
    struct object_store_config config = {.metadata_url = "http://127.0.0.1:9", .tries_max = 2};
    open_with(&config);
    list = store_list(&client, "");
    assert_int_equal(list->error, MRN_ERR_UNAVAILABLE);
    assert_non_null(strstr(list->text, "does not answer"));
    assert_int_equal(object_store_counters(client.store)->retries, 1);
}

static void test_from_config(void **state) {
    (void)state;
    struct config config = {.store_url = "", .store_path_style = CONFIG_ON};
    struct object_store_config store;
    assert_false(store_from_config(&config, &store));
    strcpy(config.store_url, "s3://b");
    config.store_tries = 3;
    assert_true(store_from_config(&config, &store));
    assert_string_equal(store.url, "s3://b");
    assert_true(store.path_style);
    assert_int_equal(store.tries_max, 3);
}

int main(void) {
    unsetenv("AWS_ACCESS_KEY_ID");
    unsetenv("AWS_SECRET_ACCESS_KEY");
    fixture_make_dir(dir, sizeof dir);
    setenv("HOME", dir, 1);
    snprintf(path, sizeof path, "%s/credentials", dir);
    if (!store_server_start(&server, NULL))
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ini),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_file_and_its_replacement),
        cmocka_unit_test(test_none),
        cmocka_unit_test(test_metadata_service),
        cmocka_unit_test(test_from_config),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    store_client_close(&client);
    store_server_stop(&server);
    fixture_remove_dir(dir);
    return failed;
}
