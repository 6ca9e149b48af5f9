/* What keys of the configuration become in the control plane. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/from_config.h"

static struct config config;
static struct control_config control;

static void load(enum config_program program, const char *arguments) {
    char text[512], error[CONFIG_ERROR_BYTES], *argv[32] = {"program"};
    int argc = 1;
    snprintf(text, sizeof text, "%s", arguments);
    for (char *word = strtok(text, " "); word; word = strtok(NULL, " "))
        argv[argc++] = word;
    char *none[] = {NULL};
    if (config_load(&config, program, argc, argv, none, error))
        fail_msg("%s", error);
}

static void test_a_single_node(void **state) {
    (void)state;
    load(CONFIG_NODE, "--port 3456 --idempotency-keys 77");
    memset(&control, 0xa5, sizeof control);
    control_from_config(&config, &control);
    assert_int_equal(control.arbiter, CONTROL_ARBITER_EMBEDDED);
    assert_null(control.etcd.endpoints);
    assert_string_equal(control.address, "127.0.0.1:3456");
    assert_string_equal(control.admin_listen, "127.0.0.1:9100");
    assert_int_equal(control.limits.idempotency_keys, 77);
    assert_int_equal(control.node_count, 1);
    assert_int_equal(control.quorum, 1);
    assert_false(control.durable);
    assert_null(control.store.url);
    assert_null(control.failed);
}

static void test_a_member(void **state) {
    (void)state;
    load(CONFIG_NODE, "--nodes /ip4/10.0.0.1/udp/3000,/ip4/10.0.0.2/udp/3001,/ip4/10.0.0.3/udp/3002"
                      " --index 1 --etcd-endpoints http://e:2379 --etcd-user u --etcd-password p"
                      " --etcd-ca-file ca --etcd-certificate-file c --etcd-key-file k"
                      " --store-url dir:/tmp --cluster blue");
    control_from_config(&config, &control);
    assert_int_equal(control.arbiter, CONTROL_ARBITER_ETCD);
    assert_string_equal(control.cluster, "blue");
    assert_string_equal(control.etcd.endpoints, "http://e:2379");
    assert_string_equal(control.etcd.user, "u");
    assert_string_equal(control.etcd.password, "p");
    assert_string_equal(control.etcd.ca_file, "ca");
    assert_string_equal(control.etcd.certificate_file, "c");
    assert_string_equal(control.etcd.key_file, "k");
    assert_string_equal(control.address, "10.0.0.2:3001");
    assert_string_equal(control.admin_listen, "127.0.0.1:9101");
    assert_int_equal(control.node_index, 1);
    assert_true(control.durable);
    assert_string_equal(control.store.url, "dir:/tmp");
}

static void test_admin_off_is_off(void **state) {
    (void)state;
    load(CONFIG_NODE, "--admin off");
    control_from_config(&config, &control);
    assert_string_equal(control.admin_listen, "");
}

static void test_maroonctl_follows_the_same_rule_for_etcd(void **state) {
    (void)state;
    load(CONFIG_CTL, "--etcd-endpoints http://e:2379 --cluster blue");
    control_cluster_from_config(&config, &control);
    assert_int_equal(control.arbiter, CONTROL_ARBITER_ETCD);
    assert_string_equal(control.etcd.endpoints, "http://e:2379");
    assert_string_equal(control.cluster, "blue");
    load(CONFIG_CTL, "--etcd-endpoints http://e:2379 --arbiter embedded");
    control_cluster_from_config(&config, &control);
    assert_int_equal(control.arbiter, CONTROL_ARBITER_EMBEDDED);
    load(CONFIG_CTL, "");
    control_cluster_from_config(&config, &control);
    assert_int_equal(control.arbiter, CONTROL_ARBITER_EMBEDDED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_single_node),
        cmocka_unit_test(test_a_member),
        cmocka_unit_test(test_admin_off_is_off),
        cmocka_unit_test(test_maroonctl_follows_the_same_rule_for_etcd),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
