/* config: precedence, refusals and what is derived. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include <maroon/error.h>

#define ARGS_MAX 32

static struct config config;
static char error_text[CONFIG_ERROR_BYTES];
static char path[] = "/tmp/maroon-test-config-XXXXXX";

/* Loads with the words of `line` (split at spaces) and the given environment. */
static int load_with(enum config_program program, const char *line, char *const environment[]) {
    static char words[1024];
    static char *argv[ARGS_MAX]; /* eal_args points into it */
    int argc = 1;
    memset(argv, 0, sizeof argv);
    argv[0] = words;
    snprintf(words, sizeof words, "%s", line);
    for (char *word = strtok(words, " "); word != NULL; word = strtok(NULL, " "))
        argv[argc++] = word;
    return config_load(&config, program, argc, argv, environment, error_text);
}

static int load(enum config_program program, const char *line) {
    return load_with(program, line, NULL);
}

static void write_file(const char *text) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static void assert_mentions(const char *part) {
    if (strstr(error_text, part) == NULL)
        fail_msg("\"%s\" does not mention \"%s\"", error_text, part);
}

/* A refusal is one line that names what it is about. */
static void assert_refused(enum config_program program, const char *line, int code,
                           const char *part) {
    int got = load(program, line);
    if (got != code)
        fail_msg("%s: returned %d", line, got);
    assert_mentions(part);
    assert_null(strchr(error_text, '\n'));
}

static void test_defaults_are_a_single_node(void **state) {
    (void)state;
    assert_int_equal(load(CONFIG_NODE, ""), 0);
    assert_int_equal(config.action, CONFIG_RUN);
    assert_int_equal(config.node_count, 1);
    assert_int_equal(config.quorum, 1);
    assert_int_equal(config.port, 3000);
    assert_int_equal(config.arbiter, CONFIG_ARBITER_EMBEDDED);
    assert_int_equal(config.durability, CONFIG_DURABILITY_MEMORY);
    assert_int_equal(config.fabric, CONFIG_FABRIC_UDP);
    assert_int_equal(config.epochs_in_flight, 8);
    assert_int_equal(config.epoch_cap, 4096);
    assert_int_equal(config.window, 65536);
    assert_int_equal(config.slice_floor_us, 5 * config.heartbeat_interval_us);
    assert_true(config.retain_bytes == UINT64_C(1) << 30);
    assert_string_equal(config.admin, "127.0.0.1:9100");
    assert_string_equal(config.data_dir, "./.maroon");
    assert_int_equal(config.eal_arg_count, 0);
    assert_null(config.eal_args[0]);
}

static void test_a_cluster_keeps_what_it_acknowledges_on_disk(void **state) {
    (void)state;
    const char *cluster = "--nodes /ip4/10.0.0.1/udp/3000,/ip4/10.0.0.2/udp/3000,/ip4/10.0.0.3/udp/"
                          "3000 --etcd-endpoints http://10.0.0.9:2379";
    char line[256];
    assert_int_equal(load(CONFIG_NODE, cluster), 0);
    assert_int_equal(config.durability, CONFIG_DURABILITY_DISK);
    snprintf(line, sizeof line, "%s --durability memory", cluster);
    assert_int_equal(load(CONFIG_NODE, line), 0);
    assert_int_equal(config.durability, CONFIG_DURABILITY_MEMORY);
}

static void test_flag_over_environment_over_file(void **state) {
    (void)state;
    write_file("# a comment\nwindow = 1000   # of offsets\nepoch_cap = 2000\nport=3100\n"
               "epochs-in-flight = 2\n\n");
    char *environment[] = {"MAROON_EPOCH_CAP=3000", "PORT=3200",
                           "MAROON_WINDOW=", "MAROON_EPOCHS_IN_FLIGHT=3", NULL};
    char line[128];
    snprintf(line, sizeof line, "--config %s --epochs-in-flight=4 --poll busy", path);
    assert_int_equal(load_with(CONFIG_NODE, line, environment), 0);
    assert_int_equal(config.window, 1000); /* an empty variable is none */
    assert_int_equal(config.epoch_cap, 3000);
    assert_int_equal(config.port, 3200);
    assert_int_equal(config.epochs_in_flight, 4);
    assert_int_equal(config.poll, CONFIG_POLL_BUSY);
    assert_int_equal(config_source_of(&config, "window"), CONFIG_SOURCE_FILE);
    assert_int_equal(config_source_of(&config, "epoch-cap"), CONFIG_SOURCE_ENVIRONMENT);
    assert_int_equal(config_source_of(&config, "epochs_in_flight"), CONFIG_SOURCE_FLAG);
    assert_int_equal(config_source_of(&config, "retain_bytes"), CONFIG_SOURCE_DEFAULT);
    assert_string_equal(config.config_file, path);
}

static void test_full_name_goes_over_the_short_one(void **state) {
    (void)state;
    char *environment[] = {"PORT=3200", "MAROON_PORT=3300", "GATEWAY_PORT=1", NULL};
    assert_int_equal(load_with(CONFIG_NODE, "", environment), 0);
    assert_int_equal(config.port, 3300);
}

static void test_short_names_of_the_gateway(void **state) {
    (void)state;
    char *environment[] = {"KEY_RANGE=7", "NODE_URLS=/ip4/10.0.0.1/tcp/3000,/dns4/n2/udp/3001",
                           "GATEWAY_PORT=5001", "PORT=9", NULL};
    assert_int_equal(load_with(CONFIG_GATEWAY, "", environment), 0);
    assert_true(config.key_range == 7);
    assert_int_equal(config.http_port, 5001);
    assert_int_equal(config.node_count, 2);
    assert_int_equal(config.node[0].ipv4, 0x0a000001);
    assert_int_equal(config.node[0].port, 3000);
    assert_int_equal(config.node[1].ipv4, 0);
    assert_string_equal(config.node[1].host, "n2");
    assert_int_equal(load(CONFIG_GATEWAY, ""), 0);
    assert_true(config.key_range == CONFIG_RANGE_NONE);
    assert_int_equal(load(CONFIG_GATEWAY, "--key-range none"), 0);
    assert_true(config.key_range == CONFIG_RANGE_NONE);
}

static void test_refusals_name_source_key_and_allowed(void **state) {
    (void)state;
    assert_refused(CONFIG_NODE, "--epoch-cap 0", MRN_ERR_INVALID,
                   "flag: epoch-cap = \"0\" is not allowed; allowed: 1 to 4096 bodies");
    assert_refused(CONFIG_NODE, "--epoch-cap 4097", MRN_ERR_INVALID, "1 to 4096");
    assert_refused(CONFIG_NODE, "--epoch-cap 12x", MRN_ERR_INVALID, "12x");
    assert_refused(CONFIG_NODE, "--epoch-cap -1", MRN_ERR_INVALID, "-1");
    assert_refused(CONFIG_NODE, "--retain-bytes 99999999999999999999999", MRN_ERR_INVALID,
                   "retain-bytes");
    assert_refused(CONFIG_NODE, "--fabric ethernet", MRN_ERR_INVALID, "udp|af_packet|");
    assert_refused(CONFIG_NODE, "--cluster A/b", MRN_ERR_INVALID, "letters a-z");
    assert_refused(CONFIG_NODE, "--epoch-cop 5", MRN_ERR_NOT_FOUND, "unknown key \"--epoch-cop\"");
    assert_refused(CONFIG_NODE, "--http-port 5", MRN_ERR_NOT_FOUND, "another program's key");
    assert_refused(CONFIG_NODE, "--port", MRN_ERR_INVALID, "needs a value");
    assert_refused(CONFIG_NODE, "status", MRN_ERR_INVALID, "--key value");
    assert_refused(CONFIG_NODE, "--config /nonexistent/file", MRN_ERR_IO, "/nonexistent/file");
    char *typo[] = {"MAROON_EPOCH_COP=5", NULL};
    assert_int_equal(load_with(CONFIG_NODE, "", typo), MRN_ERR_NOT_FOUND);
    assert_mentions("MAROON_EPOCH_COP");
    char *bad[] = {"PORT=http", NULL};
    assert_int_equal(load_with(CONFIG_NODE, "", bad), MRN_ERR_INVALID);
    assert_mentions("environment: PORT = \"http\"");
    char secret[] = "--etcd-password 0123456789012345678901234567890123456789012345678901234567890"
                    "1234567890123456789012345678901234567890123456789012345678901234567890";
    assert_int_equal(load(CONFIG_NODE, secret), MRN_ERR_INVALID);
    assert_null(strstr(error_text, "0123456789"));
}

static void test_file_refusals_name_the_line(void **state) {
    (void)state;
    char line[128];
    snprintf(line, sizeof line, "--config=%s", path);
    write_file("window = 100\n\nnonsense\n");
    assert_int_equal(load(CONFIG_NODE, line), MRN_ERR_INVALID);
    assert_mentions(":3: \"nonsense\"");
    write_file("windom = 100\n");
    assert_int_equal(load(CONFIG_NODE, line), MRN_ERR_NOT_FOUND);
    assert_mentions(":1: unknown key \"windom\"");
    write_file("window = 5\n"); /* wrong, even where a flag would go over it */
    char with_flag[160];
    snprintf(with_flag, sizeof with_flag, "%s --window 100", line);
    assert_int_equal(load(CONFIG_NODE, with_flag), MRN_ERR_INVALID);
    write_file("http-port = 5001\nwindow = 100"); /* other programs' keys; no newline at the end */
    assert_int_equal(load(CONFIG_NODE, line), 0);
    assert_int_equal(config.window, 100);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    for (int i = 0; i < 40000; i++)
        fputc('#', file);
    fclose(file);
    assert_int_equal(load(CONFIG_NODE, line), MRN_ERR_INVALID);
    assert_mentions("longer than");
}

#define THREE "--nodes /ip4/10.0.0.1/udp/3000,/ip4/10.0.0.2/udp/3000,/ip4/10.0.0.3/tcp/3005 "
#define ETCD "--etcd-endpoints http://127.0.0.1:2379 "

static void test_cluster_rules(void **state) {
    (void)state;
    assert_int_equal(load(CONFIG_NODE, THREE ETCD "--index 2"), 0);
    assert_int_equal(config.node_count, 3);
    assert_int_equal(config.quorum, 2);
    assert_int_equal(config.port, 3005); /* of its URL */
    assert_int_equal(config.own_ipv4, 0x0a000003);
    assert_int_equal(config.arbiter, CONFIG_ARBITER_ETCD);
    assert_string_equal(config.admin, "127.0.0.1:9102");
    assert_int_equal(load(CONFIG_NODE, THREE ETCD "--index 2 --port 4000 --address 10.9.0.1/16"),
                     0);
    assert_int_equal(config.port, 4000);
    assert_int_equal(config.own_ipv4, 0x0a090001);
    assert_int_equal(config.prefix_bits, 16);
    assert_int_equal(load(CONFIG_NODE, THREE ETCD "--consensus-nodes 3"), 0);
    assert_int_equal(config.quorum, 3);
    assert_refused(CONFIG_NODE, THREE ETCD "--consensus-nodes 1", MRN_ERR_INVALID,
                   "allowed are 2 to 3");
    assert_refused(CONFIG_NODE, THREE ETCD "--consensus-nodes 4", MRN_ERR_INVALID,
                   "allowed are 2 to 3");
    assert_refused(CONFIG_NODE,
                   "--nodes /ip4/10.0.0.1/udp/1,/ip4/10.0.0.2/udp/1 --consensus-nodes 1 " ETCD,
                   MRN_ERR_INVALID, "allowed are 2 to 2"); /* 2k = n */
    assert_refused(CONFIG_NODE, THREE ETCD "--index 3", MRN_ERR_INVALID, "greatest index is 2");
    assert_refused(CONFIG_NODE, THREE, MRN_ERR_INVALID, "need etcd");
    assert_refused(CONFIG_NODE, THREE ETCD "--arbiter embedded", MRN_ERR_INVALID, "need etcd");
    assert_refused(CONFIG_NODE, "--arbiter etcd", MRN_ERR_INVALID, "etcd-endpoints");
    assert_refused(CONFIG_NODE, "--nodes /ip4/10.0.0.1/udp/1,/ip4/10.0.0.1/udp/1 " ETCD,
                   MRN_ERR_INVALID, "same URL");
    assert_refused(CONFIG_NODE, "--nodes /ip4/10.0.0.1/udp/50000", MRN_ERR_INVALID, "45535");
}

static void test_size_and_time_rules(void **state) {
    (void)state;
    assert_refused(CONFIG_NODE, "--ranges-max 1000", MRN_ERR_INVALID, "power of two");
    assert_refused(CONFIG_NODE, "--epochs-in-flight 64 --epoch-cap 16 --log-epochs 128",
                   MRN_ERR_INVALID, "log-epochs");
    assert_refused(CONFIG_NODE, "--body-slots 2048", MRN_ERR_INVALID, "body-slots");
    assert_refused(CONFIG_NODE, "--epoch-cap 100", MRN_ERR_INVALID, "parts"); /* of 1 MiB */
    assert_int_equal(load(CONFIG_NODE, "--epoch-cap 100 --max-transaction-bytes 64K"), 0);
    assert_int_equal(config.max_transaction_bytes, 65536);
    assert_int_equal(load(CONFIG_NODE, "--state-bytes 2GiB"), 0);
    assert_true(config.state_bytes == UINT64_C(2) << 30);
    assert_refused(CONFIG_NODE, "--lease-ttl-s 1K", MRN_ERR_INVALID, "lease-ttl-s"); /* not bytes */
    assert_refused(CONFIG_NODE, "--slice-max-us 1000", MRN_ERR_INVALID, "slice-max-us");
    assert_refused(CONFIG_NODE, "--slice-floor-us 100", MRN_ERR_INVALID, "slice-floor-us");
    assert_refused(CONFIG_NODE, "--vector-interval-idle-us 50", MRN_ERR_INVALID,
                   "vector-interval-idle-us");
}

static void test_fabric_rules(void **state) {
    (void)state;
    assert_refused(CONFIG_NODE, "--fabric af_packet", MRN_ERR_INVALID, "needs interface");
    assert_refused(CONFIG_NODE, "--fabric memif --address 10.0.0.1", MRN_ERR_INVALID,
                   "needs links");
    assert_refused(CONFIG_NODE, "--fabric pci --interface 0000:00:05.0", MRN_ERR_INVALID,
                   "address");
    assert_refused(CONFIG_GATEWAY, "--fabric memif --links 10.0.0.1=/run/a.sock", MRN_ERR_INVALID,
                   "address");
    assert_int_equal(load(CONFIG_GATEWAY, "--fabric memif --address 10.0.0.9 --links "
                                          "10.0.0.1=/run/a.sock,10.0.0.2=/run/b.sock:server"),
                     0);
    assert_int_equal(config.link_count, 2);
    assert_int_equal(config.link[1].peer_ipv4, 0x0a000002);
    assert_true(config.link[1].server);
    assert_false(config.link[0].server);
    assert_string_equal(config.link[1].device, "/run/b.sock");
    assert_true(config.udp_port != 0);
    assert_refused(CONFIG_GATEWAY, "--links 10.0.0.1", MRN_ERR_INVALID, "SOCKET");
    assert_refused(CONFIG_NODE, "--cpus 0,1,2,3,4", MRN_ERR_INVALID, "CPU");
    assert_int_equal(load(CONFIG_NODE, "--cpus 0,1"), 0);
    assert_int_equal(config.cpu_count, 2);
    assert_int_equal(config.cpu[1], 1);
}

static void test_urls(void **state) {
    (void)state;
    struct config_url url;
    const char *bad[] = {"",
                         "/ip4/1.2.3.4/udp/",
                         "/ip4/1.2.3.4/udp/0",
                         "/ip4/1.2.3.4/udp/65536",
                         "/ip4/1.2.3.4/quic/3000",
                         "/ip4/1.2.3/udp/3000",
                         "/ip4/0.0.0.0/udp/3000",
                         "/ip4//udp/3000",
                         "/dns4/-x/udp/3000",
                         "/dns4/a b/udp/3000",
                         "/ip6/::1/udp/3000",
                         "http://a:1",
                         "/ip4/1.2.3.4/udp/3000/x",
                         "/ip4/1.2.3.4"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (config_url_parse(bad[i], &url) != MRN_ERR_INVALID)
            fail_msg("\"%s\" was taken", bad[i]);
    assert_int_equal(config_url_parse("/dns4/localhost/tcp/3000", &url), 0);
    assert_int_equal(config_url_resolve(&url), 0);
    assert_int_equal(url.ipv4, 0x7f000001);
    assert_refused(CONFIG_GATEWAY, "--node-urls /ip4/1.2.3.4/udp/3000,", MRN_ERR_INVALID,
                   "node-urls");
}

static void test_help_version_and_check(void **state) {
    (void)state;
    assert_int_equal(load(CONFIG_NODE, "--nonsense --help"), 0);
    assert_int_equal(config.action, CONFIG_HELP);
    assert_int_equal(load(CONFIG_NODE, "--version"), 0);
    assert_int_equal(config.action, CONFIG_VERSION);
    assert_int_equal(load(CONFIG_NODE, "--check-config --port 3001"), 0);
    assert_int_equal(config.action, CONFIG_CHECK);
    assert_int_equal(config.port, 3001);
    assert_refused(CONFIG_NODE, "--check-config --port 0", MRN_ERR_INVALID, "port");
}

static void test_eal_arguments_follow(void **state) {
    (void)state;
    assert_int_equal(load(CONFIG_NODE, "--port 3001 -- --help --log-level=8"), 0);
    assert_int_equal(config.action, CONFIG_RUN);
    assert_int_equal(config.eal_arg_count, 2);
    assert_string_equal(config.eal_args[1], "--log-level=8");
    assert_int_equal(config.log_level, CONFIG_LOG_INFO);
}

static void test_words_of_maroonctl(void **state) {
    (void)state;
    assert_int_equal(load(CONFIG_CTL, "--json --admin 10.0.0.1:9100,10.0.0.2:9100 leader "
                                      "--handover --cluster x"),
                     0);
    assert_int_equal(config.json, CONFIG_ON);
    assert_int_equal(config.argument_count, 2);
    assert_string_equal(config.arguments[0], "leader");
    assert_string_equal(config.arguments[1], "--handover");
    assert_string_equal(config.cluster, "x");
    assert_refused(CONFIG_CTL, "--handover leader", MRN_ERR_NOT_FOUND, "--handover");
}

static void test_store(void **state) {
    (void)state;
    assert_int_equal(load(CONFIG_NODE, "--store-url s3://b/p --store-endpoint https://h:1"), 0);
    assert_int_equal(load(CONFIG_NODE, "--store-url dir:/var/dumps"), 0);
    assert_refused(CONFIG_NODE, "--store-url dir:dumps", MRN_ERR_INVALID, "store-url");
    assert_refused(CONFIG_CTL, "--store-url http://b", MRN_ERR_INVALID, "store-url");
    assert_refused(CONFIG_NODE, "--store-endpoint http://a,http://b", MRN_ERR_INVALID, "one URL");
}

/* What --check-config prints is a config file that gives the same config. */
static void test_print_reads_back(void **state) {
    (void)state;
    char line[160];
    assert_int_equal(load(CONFIG_NODE, THREE ETCD "--index 1 --window 777 --etcd-password pass"),
                     0);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    config_print(&config, file);
    fclose(file);
    char text[16384] = {0};
    file = fopen(path, "r");
    assert_non_null(file);
    assert_true(fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    assert_non_null(strstr(text, "window = 777  # offsets  # flag\n"));
    assert_non_null(strstr(text, "etcd-password = (set)"));
    assert_null(strstr(text, "= pass"));
    uint64_t digest = config.digest;
    snprintf(line, sizeof line, "--config %s", path);
    assert_int_equal(load(CONFIG_NODE, line), 0);
    assert_int_equal(config.window, 777);
    assert_true(config.digest == digest);
    snprintf(line, sizeof line, "--config %s --window 778", path);
    assert_int_equal(load(CONFIG_NODE, line), 0);
    assert_true(config.digest != digest);
}

static int make_file(void **state) {
    (void)state;
    int file = mkstemp(path);
    return file < 0 ? -1 : close(file);
}

static int remove_file(void **state) {
    (void)state;
    return unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults_are_a_single_node),
        cmocka_unit_test(test_a_cluster_keeps_what_it_acknowledges_on_disk),
        cmocka_unit_test(test_flag_over_environment_over_file),
        cmocka_unit_test(test_full_name_goes_over_the_short_one),
        cmocka_unit_test(test_short_names_of_the_gateway),
        cmocka_unit_test(test_refusals_name_source_key_and_allowed),
        cmocka_unit_test(test_file_refusals_name_the_line),
        cmocka_unit_test(test_cluster_rules),
        cmocka_unit_test(test_size_and_time_rules),
        cmocka_unit_test(test_fabric_rules),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_help_version_and_check),
        cmocka_unit_test(test_eal_arguments_follow),
        cmocka_unit_test(test_words_of_maroonctl),
        cmocka_unit_test(test_store),
        cmocka_unit_test(test_print_reads_back),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
