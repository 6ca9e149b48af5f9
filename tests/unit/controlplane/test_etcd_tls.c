/* A real etcd that speaks TLS and asks for a client certificate, and for a user besides: what the
 * client needs, and what it refuses. The certificates are made here, by openssl. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arbiter_node.h"
#include "controlplane/log.h"
#include "maroon/error.h"

static struct fixture_etcd server;
static struct loop *loop;
static struct http_client *http;
static char dir[64];

/* Two authorities; a server and two clients of the first, a client of the second. Only "named" has
 * a CommonName: etcd refuses that on its gateway once there are users. */
static const char certificates[] =
    "set -e; cd %s; key='-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes';"
    "authority() { openssl req -x509 $key -keyout $1-key.pem -out $1.pem -days 2 -subj /CN=$1; };"
    "sign() { openssl req $key -keyout $2-key.pem -out $2.csr -subj $3=$2;"
    "  echo \"subjectAltName=IP:127.0.0.1\" > $2.ext;"
    "  openssl x509 -req -in $2.csr -CA $1.pem -CAkey $1-key.pem -CAcreateserial -days 2"
    "    -extfile $2.ext -out $2.pem; };"
    "{ authority ca; authority other; sign ca server /CN; sign ca client /O;"
    "  sign ca named /CN; sign other stranger /O; }"
    " >/dev/null 2>&1";

static char *file(const char *name) {
    static char paths[8][160];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%.63s/%.63s.pem", dir, name);
    return path;
}

struct seen {
    bool done;
    int error;
    char value[64], message[192];
    uint32_t events;
    char event_value[64];
};

static void on_done(void *context, const struct etcd_answer *answer) {
    struct seen *seen = context;
    seen->done = true;
    seen->error = answer->error;
    snprintf(seen->message, sizeof seen->message, "%s", answer->message);
    if (answer->response_count && answer->responses[0].kv_count)
        snprintf(seen->value, sizeof seen->value, "%.63s", answer->responses[0].kvs[0].value);
}

static void on_change(void *context, const struct etcd_change *change) {
    struct seen *seen = context;
    for (uint32_t i = 0; i < change->event_count; i++) {
        seen->events++;
        snprintf(seen->event_value, sizeof seen->event_value, "%.63s", change->events[i].kv.value);
    }
}

static struct etcd *client(const char *host, const char *ca, const char *own, const char *user,
                           const char *password) {
    char endpoint[64], key[64];
    snprintf(endpoint, sizeof endpoint, "https://%s:%d", host, server.port);
    snprintf(key, sizeof key, "%s-key", own ? own : "");
    struct etcd_config config = {
        .endpoints = endpoint,
        .timeout_ms = 10000,
        .ca_file = ca ? file(ca) : NULL,
        .certificate_file = own ? file(own) : NULL,
        .key_file = own ? file(key) : NULL,
        .user = user,
        .password = password,
    };
    struct etcd *etcd = etcd_create(loop, http, &config);
    assert_non_null(etcd);
    return etcd;
}

static int put(struct etcd *etcd, const char *key, const char *value) {
    struct seen seen = {0};
    assert_int_equal(etcd_put(etcd, key, value, 0, on_done, &seen), 0);
    assert_true(arbiter_run_until(loop, &seen.done, PATIENCE_MS));
    return seen.error;
}

static struct seen range(struct etcd *etcd, const char *key) {
    struct seen seen = {0};
    assert_int_equal(etcd_range(etcd, key, NULL, 0, on_done, &seen), 0);
    assert_true(arbiter_run_until(loop, &seen.done, PATIENCE_MS));
    return seen;
}

static void test_calls_and_watches_with_a_client_certificate(void **state) {
    (void)state;
    struct etcd *etcd = client("127.0.0.1", "ca", "client", NULL, NULL);
    struct seen watched = {0};
    assert_int_equal(put(etcd, "/s", "one"), 0);
    assert_string_equal(range(etcd, "/s").value, "one");
    struct etcd_watch *watch = etcd_watch_start(etcd, "/s", NULL, 1, on_change, &watched);
    assert_true(arbiter_await(loop, watched.events == 1, PATIENCE_MS));
    assert_int_equal(put(etcd, "/s", "two"), 0);
    assert_true(arbiter_await(loop, watched.events == 2, PATIENCE_MS));
    assert_string_equal(watched.event_value, "two");
    etcd_watch_stop(watch);
    etcd_destroy(etcd);
}

/* Each of these is refused, by the one side or the other, and nothing is written. */
static void test_strangers_are_refused_on_both_sides(void **state) {
    (void)state;
    static const struct {
        const char *what, *host, *ca, *own;
    } refused[] = {
        {"no client certificate", "127.0.0.1", "ca", NULL},
        {"client of another authority", "127.0.0.1", "ca", "stranger"},
        {"server of another authority", "127.0.0.1", "other", "client"},
        {"authority not given", "127.0.0.1", NULL, "client"},
        {"name not in the server's certificate", "localhost", "ca", "client"},
    };
    struct etcd *good = client("127.0.0.1", "ca", "client", NULL, NULL);
    assert_int_equal(put(good, "/r", "kept"), 0);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct etcd *etcd = client(refused[i].host, refused[i].ca, refused[i].own, NULL, NULL);
        int read = range(etcd, "/r").error, written = put(etcd, "/r", refused[i].what);
        if (!read || !written)
            print_message("%s was let in\n", refused[i].what);
        assert_int_equal(read, MRN_ERR_UNAVAILABLE);
        assert_true(written == MRN_ERR_UNAVAILABLE || written == MRN_ERR_UNKNOWN_OUTCOME);
        etcd_destroy(etcd);
    }
    assert_string_equal(range(good, "/r").value, "kept");
    etcd_destroy(good);
}

static void test_an_arbiter_leads_over_tls(void **state) {
    (void)state;
    static struct arbiter_node node;
    char endpoint[48];
    snprintf(endpoint, sizeof endpoint, "https://127.0.0.1:%d/", server.port);
    arbiter_node_setup(&node, endpoint, 0, 1);
    node.config.etcd.ca_file = file("ca");
    node.config.etcd.certificate_file = file("client");
    node.config.etcd.key_file = file("client-key");
    arbiter_node_open(&node, loop, http);
    assert_non_null(node.arbiter);
    assert_true(arbiter_run_until(loop, &node.ready, PATIENCE_MS));
    assert_int_equal(node.error, 0);
    arbiter_campaign(node.arbiter, 0);
    assert_true(arbiter_run_until(loop, &node.campaigned, PATIENCE_MS));
    assert_true(node.won);
    arbiter_node_close(&node);
}

static int etcdctl(const char *user, const char *words) {
    char command[900];
    snprintf(
        command, sizeof command,
        "ETCDCTL_API=3 etcdctl --endpoints https://127.0.0.1:%d --cacert %s --cert %s --key %s "
        "%s %s >/dev/null 2>&1",
        server.port, file("ca"), file("client"), file("client-key"), user, words);
    return system(command);
}

/* The token is fetched, ends (2 s here) and is renewed, for calls as for a watch; a wrong password
 * is refused; a certificate alone is not a user. */
static void test_user_and_token_over_tls(void **state) {
    (void)state;
    if (system("command -v etcdctl >/dev/null") != 0)
        skip(); /* Debian: etcd-client */
    assert_int_equal(etcdctl("", "user add root:pw"), 0);
    assert_int_equal(etcdctl("", "user grant-role root root"), 0);
    assert_int_equal(etcdctl("", "auth enable"), 0);
    struct etcd *bare = client("127.0.0.1", "ca", "client", NULL, NULL),
                *good = client("127.0.0.1", "ca", "client", "root", "pw"),
                *wrong = client("127.0.0.1", "ca", "client", "root", "no"),
                *named = client("127.0.0.1", "ca", "named", "root", "pw");
    struct seen watched = {0};
    int without = put(bare, "/a", "0"), denied = put(wrong, "/a", "0"),
        with_name = put(named, "/a", "0"), first = put(good, "/a", "1");
    struct etcd_watch *watch = etcd_watch_start(good, "/a", NULL, 1, on_change, &watched);
    bool told = arbiter_await(loop, watched.events == 1, PATIENCE_MS);
    arbiter_run_for(loop, 3500);
    int later = put(good, "/a", "2");
    bool told_again = arbiter_await(loop, watched.events == 2, PATIENCE_MS);
    uint64_t tokens = etcd_metrics(good)->requests[ETCD_METRIC_AUTHENTICATE][ETCD_OUTCOME_OK];
    etcd_watch_stop(watch);
    etcd_destroy(bare);
    etcd_destroy(good);
    etcd_destroy(wrong);
    etcd_destroy(named);
    assert_int_equal(etcdctl("--user root:pw", "auth disable"), 0);
    assert_true(without != 0);
    assert_int_equal(denied, MRN_ERR_DENIED);
    assert_int_equal(with_name, MRN_ERR_DENIED);
    assert_int_equal(first, 0);
    assert_true(told);
    assert_int_equal(later, 0);
    assert_true(told_again);
    assert_true(tokens >= 2); /* so it did end */
}

static int start(void **state) {
    (void)state;
    char command[1600];
    mrn_log_set_level(MRN_LOG_ERROR + 1);
    fixture_make_dir(dir, sizeof dir);
    snprintf(command, sizeof command, certificates, dir);
    if (system("openssl version >/dev/null 2>&1") != 0) {
        printf("openssl (Debian: openssl) is needed for this test\n");
        exit(77);
    }
    if (system(command) != 0)
        return -1;
    setenv("ETCD_AUTH_TOKEN_TTL", "2", 1);
    setenv("ETCD_CERT_FILE", file("server"), 1);
    setenv("ETCD_KEY_FILE", file("server-key"), 1);
    setenv("ETCD_TRUSTED_CA_FILE", file("ca"), 1);
    setenv("ETCD_CLIENT_CERT_AUTH", "true", 1);
    if (!fixture_etcd_start_tls(&server)) {
        printf("etcd (Debian: etcd-server) is needed for this test\n");
        exit(77);
    }
    loop = loop_create();
    http = http_client_create(loop);
    struct etcd *etcd = client("127.0.0.1", "ca", "client", NULL, NULL);
    for (int i = 0; i < 100 && range(etcd, "/").error; i++)
        arbiter_run_for(loop, 100); /* it listens before it serves */
    etcd_destroy(etcd);
    return loop && http ? 0 : -1;
}

static int stop(void **state) {
    (void)state;
    http_client_destroy(http);
    loop_destroy(loop);
    fixture_etcd_stop(&server);
    fixture_remove_dir(dir);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calls_and_watches_with_a_client_certificate),
        cmocka_unit_test(test_strangers_are_refused_on_both_sides),
        cmocka_unit_test(test_an_arbiter_leads_over_tls),
        cmocka_unit_test(test_user_and_token_over_tls),
    };
    return cmocka_run_group_tests_name("etcd_tls", tests, start, stop);
}
