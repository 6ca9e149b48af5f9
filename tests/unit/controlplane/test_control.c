/* The whole control thread, with a dataplane played by the test through the mailbox. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <inttypes.h>
#include <jansson.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "controlplane/control.h"
#include "controlplane/ctl/ctl.h"
#include "controlplane/log.h"
#include "fixture.h"
#include "maroon/error.h"

struct node {
    struct control_config config;
    struct control_identity identity;
    struct control *control;
    struct mailbox *mailbox;
    char dir[64];
    _Atomic int failures;
};

static struct fixture_etcd server;
static bool have_etcd;

static void on_failed(void *context, int error, const char *reason) {
    (void)error;
    (void)reason;
    ((struct node *)context)->failures++;
}

static void setup(struct node *node, uint8_t index, uint8_t count) {
    memset(node, 0, sizeof *node);
    fixture_make_dir(node->dir, sizeof node->dir);
    struct control_config *config = &node->config;
    snprintf(config->cluster, sizeof config->cluster, "c%u", count);
    config->node_index = index;
    config->node_count = count;
    config->quorum = (uint8_t)(count / 2 + 1);
    config->durable = true;
    config->limits.results_kept = 4096;
    config->arbiter = count == 1 ? CONTROL_ARBITER_EMBEDDED : CONTROL_ARBITER_ETCD;
    config->lease_ttl_s = config->range_ttl_s = 2;
    snprintf(config->data_dir, sizeof config->data_dir, "%s", node->dir);
    config->etcd.endpoints = server.endpoint;
    snprintf(config->address, sizeof config->address, "127.0.0.1:%u", 3000u + index);
    snprintf(config->admin_listen, sizeof config->admin_listen, "127.0.0.1:%d",
             fixture_free_port());
    config->failed = on_failed;
    config->failed_context = node;
}

static void start_node(struct node *node) {
    assert_int_equal(control_prepare(&node->config, &node->control, &node->identity), 0);
    node->mailbox = mailbox_create(64);
    assert_int_equal(control_start(node->control, node->mailbox), 0);
}

static void stop_node(struct node *node) {
    control_stop(node->control);
    mailbox_destroy(node->mailbox); /* as main does: what is stopped no longer touches it */
    control_destroy(node->control);
    fixture_remove_dir(node->dir);
}

static struct mailbox_down expect_down(struct node *node, enum mailbox_down_kind kind) {
    struct mailbox_down message;
    uint64_t until = fixture_now_ms() + PATIENCE_MS;
    while (fixture_now_ms() < until) {
        if (mailbox_receive_down(node->mailbox, &message)) {
            if (message.kind == kind)
                return message;
        } else {
            usleep(1000);
        }
    }
    fail_msg("no message of kind %d", (int)kind);
    return message;
}

static void send_up(struct node *node, struct mailbox_up message) {
    assert_int_equal(mailbox_send_up(node->mailbox, &message), 0);
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static void show_ranges(struct node *node, enum mailbox_node_role role, uint8_t leader,
                        uint32_t range_count) {
    struct mailbox_facts facts = {.role = role,
                                  .node_index = node->config.node_index,
                                  .node_count = node->config.node_count,
                                  .leader = leader,
                                  .term = 42,
                                  .commit_seq = 1000,
                                  .exec_seq = 990,
                                  .range_count = range_count};
    facts.ranges[0].range = UINT64_C(1) << 33;
    facts.ranges[0].committed = 17;
    mailbox_facts_write(mailbox_status(node->mailbox), &facts);
    atomic_store(&mailbox_status(node->mailbox)->heartbeat_ns, now_ns());
}

static void show(struct node *node, enum mailbox_node_role role, uint8_t leader) {
    show_ranges(node, role, leader, 1);
}

/* What maroonctl says on stdout. */
static void expect_ctl(const struct node *node, const char *words, const char *contains,
                       const char *lacks) {
    char command[512], said[32768];
    const char *program = getenv("MAROONCTL");
    assert_non_null(program);
    snprintf(command, sizeof command, "%s %s --admin %s", program, words,
             node->config.admin_listen);
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    size_t length = fread(said, 1, sizeof said - 1, pipe);
    said[length] = '\0';
    assert_int_equal(pclose(pipe), 0);
    if (!strstr(said, contains) || (lacks && strstr(said, lacks)))
        fail_msg("maroonctl %s said, and \"%s\" was wanted: %s", words, contains, said);
}

static void expect_page(const struct node *node, const char *path, long status,
                        const char *contains) {
    char *body = NULL;
    assert_int_equal(ctl_http(node->config.admin_listen, "GET", path, &body), status);
    if (contains && !strstr(body, contains))
        fail_msg("%s lacks \"%s\": %s", path, contains, body);
    free(body);
}

static void test_single_node_leads_grants_and_shows(void **state) {
    (void)state;
    static struct node node;
    setup(&node, 0, 1);
    start_node(&node);
    assert_true(node.identity.in_genesis);
    struct mailbox_down known = expect_down(&node, MAILBOX_DOWN_INCARNATIONS);
    assert_int_equal(known.incarnations[0], node.identity.incarnation);
    assert_int_equal(known.genesis[0], node.identity.incarnation);
    assert_int_equal(expect_down(&node, MAILBOX_DOWN_LEADER_KEY).node, MAILBOX_NODE_NONE);
    send_up(&node, (struct mailbox_up){.kind = MAILBOX_UP_CAMPAIGN});
    struct mailbox_down result = expect_down(&node, MAILBOX_DOWN_CAMPAIGN_RESULT);
    assert_int_equal(result.campaign, MAILBOX_CAMPAIGN_WON);
    assert_true(result.token != 0 && result.term > 0);
    assert_true(expect_down(&node, MAILBOX_DOWN_LEADER_KEY).ours);
    send_up(&node, (struct mailbox_up){.kind = MAILBOX_UP_RANGE_REQUEST,
                                       .owner = 5,
                                       .nonce = 6,
                                       .range = WIRE_RANGE_NONE});
    struct mailbox_down grant = expect_down(&node, MAILBOX_DOWN_RANGE_GRANT);
    assert_int_equal(grant.outcome, WIRE_RANGE_GRANTED);
    assert_int_equal(grant.nonce, 6);

    expect_page(&node, "/healthz", 503, "does not turn");
    expect_page(&node, "/readyz", 503, "voting");
    show(&node, MAILBOX_ROLE_LEADER, 0);
    atomic_fetch_add(&mailbox_status(node.mailbox)->rx_dropped[WIRE_DROP_MAGIC], 3);
    struct mailbox_histogram *histogram = &mailbox_status(node.mailbox)->epoch_latency;
    atomic_fetch_add(&histogram->buckets[17], 2); /* below 2^17 ns */
    atomic_fetch_add(&histogram->buckets[40], 1);
    expect_page(&node, "/healthz", 200, "processToken");
    expect_page(&node, "/readyz", 200, NULL);
    expect_page(&node, "/v1/status", 200, "\"role\":\"leader\"");
    expect_page(&node, "/v1/status", 200, "\"range\":\"8589934592\"");
    expect_page(&node, "/metrics", 200, "maroon_rx_dropped_total{reason=\"magic\"} 3\n");
    expect_page(&node, "/metrics", 200, "maroon_is_leader 1\n");
    expect_page(&node, "/metrics", 200,
                "maroon_epoch_latency_seconds_bucket{le=\"6.5536e-05\"} 0\n");
    expect_page(&node, "/metrics", 200,
                "maroon_epoch_latency_seconds_bucket{le=\"0.000131072\"} 2\n");
    expect_page(&node, "/metrics", 200, "maroon_epoch_latency_seconds_bucket{le=\"+Inf\"} 3\n");
    expect_page(&node, "/nothing", 404, NULL);
    expect_ctl(&node, "ranges", "8589934592", "shown");
    show_ranges(&node, MAILBOX_ROLE_LEADER, 0, 1000); /* more than the page of facts has room for */
    expect_ctl(&node, "ranges", "node 0: 64 of 1000 ranges shown\n", NULL);
    show(&node, MAILBOX_ROLE_LOST, MAILBOX_NODE_NONE);
    expect_ctl(&node, "status", "ALARM node 0: more memories are lost", NULL);
    show(&node, MAILBOX_ROLE_LEADER, 0);
    expect_page(&node, "/v1/snapshot?newer_than=x", 400, NULL);
    char *body;
    assert_int_equal(ctl_http(node.config.admin_listen, "POST", "/v1/handover", &body), 202);
    free(body);
    expect_down(&node, MAILBOX_DOWN_HANDOVER);
    control_announce_stop(node.control);
    expect_down(&node, MAILBOX_DOWN_STOP);
    stop_node(&node);
}

static int admin_connect(const struct node *node) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    address.sin_port =
        htons((uint16_t)strtoul(strchr(node->config.admin_listen, ':') + 1, NULL, 10));
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    return fd;
}

static void ask(int fd, const char *method_and_path) {
    char request[128];
    int count =
        snprintf(request, sizeof request, "%s HTTP/1.1\r\nHost: node\r\n\r\n", method_and_path);
    assert_int_equal(write(fd, request, (size_t)count), count);
}

static void write_file(const char *path, const char *bytes, size_t count) {
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, count, out), count);
    fclose(out);
}

/* Peers and tools ask until the end; the mailbox is gone by then. */
static void test_who_asks_a_stopped_node_is_refused(void **state) {
    (void)state;
    static const char *const asked[] = {"GET /v1/status",
                                        "GET /readyz",
                                        "GET /healthz",
                                        "GET /metrics",
                                        "GET /v1/snapshot",
                                        "GET /v1/stretch?after=0",
                                        "GET /v1/epochs?from=9999999&wait_ms=25000",
                                        "POST /v1/handover"};
    enum { ASKED = sizeof asked / sizeof *asked };
    static struct node node;
    int fd[ASKED];
    char answer[4096];
    setup(&node, 0, 1);
    start_node(&node);
    for (size_t i = 0; i < ASKED; i++) {
        fd[i] = admin_connect(&node);
        ask(fd[i], "GET /nothing");
        assert_true(read(fd[i], answer, sizeof answer) > 0); /* it is accepted */
    }
    control_stop(node.control);
    mailbox_destroy(node.mailbox);
    for (size_t i = 0; i < ASKED; i++)
        ask(fd[i], asked[i]);
    control_destroy(node.control);
    for (size_t i = 0; i < ASKED; i++) {
        ssize_t count = read(fd[i], answer, sizeof answer - 1);
        answer[count > 0 ? count : 0] = '\0';
        if (!strstr(answer, " 503 "))
            fail_msg("%s: %s", asked[i], answer);
        close(fd[i]);
    }
    fixture_remove_dir(node.dir);
}

/* The dataplane ends right after it said why; by then there may be much before it in the ring. */
static void test_why_the_dataplane_failed_is_told_before_the_end(void **state) {
    (void)state;
    static struct node node;
    setup(&node, 0, 1);
    assert_int_equal(control_prepare(&node.config, &node.control, &node.identity), 0);
    node.mailbox = mailbox_create(1024);
    assert_int_equal(control_start(node.control, node.mailbox), 0);
    for (uint64_t i = 1; i <= 600; i++) /* each writes a file, so that a pass takes its time */
        send_up(&node, (struct mailbox_up){.kind = MAILBOX_UP_RANGE_REQUEST,
                                           .owner = i,
                                           .nonce = i,
                                           .range = WIRE_RANGE_NONE});
    send_up(&node, (struct mailbox_up){
                       .kind = MAILBOX_UP_FAILED, .error = MRN_ERR_IO, .text = "the disk is gone"});
    control_stop(node.control);
    assert_int_equal(node.failures, 1);
    stop_node(&node);
}

static void test_data_dir_is_locked_and_bad_configs_are_refused(void **state) {
    (void)state;
    static struct node node, other;
    setup(&node, 0, 1);
    start_node(&node);
    setup(&other, 0, 1);
    struct control_config good = other.config;
    snprintf(other.config.data_dir, sizeof other.config.data_dir, "%s", node.dir);
    assert_int_equal(control_prepare(&other.config, &other.control, &other.identity),
                     MRN_ERR_EXISTS);
    /* A store without a journal is a new one, but not while somebody else makes that. */
    char number[96];
    snprintf(number, sizeof number, "%s/incarnation", node.dir);
    write_file(number, "incarnation 5 token 6\n", 22);
    assert_int_equal(control_prepare(&other.config, &other.control, &other.identity),
                     MRN_ERR_EXISTS);
    assert_int_equal(access(number, F_OK), 0);
    other.config = good;
    snprintf(number, sizeof number, "%s/incarnation", other.dir);
    write_file(number, "incarnation 5 token 6\n", 22);
    assert_int_equal(control_prepare(&other.config, &other.control, &other.identity), 0);
    assert_int_not_equal(access(number, F_OK), 0);
    control_destroy(other.control);
    other.config = good;
    snprintf(other.config.cluster, sizeof other.config.cluster, "../x");
    assert_int_equal(control_prepare(&other.config, &other.control, &other.identity),
                     MRN_ERR_INVALID);
    other.config = good;
    other.config.node_count = 3;
    other.config.quorum = 1;
    assert_int_equal(control_prepare(&other.config, &other.control, &other.identity),
                     MRN_ERR_INVALID);
    /* An admin address in use is an error with a word, not a node without one. */
    other.config = good;
    memcpy(other.config.admin_listen, node.config.admin_listen, sizeof good.admin_listen);
    assert_int_equal(control_prepare(&other.config, &other.control, &other.identity), 0);
    struct mailbox *mailbox = mailbox_create(8);
    assert_int_equal(control_start(other.control, mailbox), MRN_ERR_IO);
    control_destroy(other.control);
    mailbox_destroy(mailbox);
    fixture_remove_dir(other.dir);
    stop_node(&node);
}

static void test_full_mailbox_loses_no_fact(void **state) {
    (void)state;
    static struct node node;
    setup(&node, 0, 1);
    start_node(&node); /* the ring holds 64 */
    for (uint64_t i = 0; i < 300; i++) {
        struct mailbox_up message = {.kind = MAILBOX_UP_RANGE_CHECK, .range = i, .owner = 1};
        while (mailbox_send_up(node.mailbox, &message))
            usleep(100);
    }
    usleep(100000);
    send_up(&node, (struct mailbox_up){.kind = MAILBOX_UP_CAMPAIGN});
    usleep(50000);
    for (uint64_t i = 0; i < 300; i++)
        assert_int_equal(expect_down(&node, MAILBOX_DOWN_RANGE_CHECKED).range, i);
    assert_int_equal(expect_down(&node, MAILBOX_DOWN_CAMPAIGN_RESULT).campaign,
                     MAILBOX_CAMPAIGN_WON);
    stop_node(&node);
}

static void *prepare_thread(void *context) {
    struct node *node = context;
    int error = control_prepare(&node->config, &node->control, &node->identity);
    return (void *)(intptr_t)error;
}

static void need_etcd(void) {
    if (!have_etcd)
        skip();
}

/* On the fabric the first process of node 1 answers. */
static uint64_t live_token;
static uint32_t served;

static bool probe_ask(void *context, const char *address, uint64_t nonce) {
    (void)address;
    *(uint64_t *)context = nonce;
    return true;
}

static void probe_serve(void *context, uint64_t token) {
    (void)context;
    assert_true(token != 0 && token != live_token);
    served++;
}

static bool probe_answer(void *context, uint64_t nonce, uint64_t *ret_token) {
    if (*(uint64_t *)context != nonce)
        return false;
    *ret_token = live_token;
    return true;
}

/* "Nodes stand in a ring by the hash of their public keys": these keys give another order than the
 * indexes do. */
static void set_keys(struct control_config *config) {
    for (uint8_t i = 0; i < 3; i++)
        memset(config->member_keys[i], 11 * (3 - i), CONTROL_KEY_BYTES);
}

static void check_ring(const struct control_config *config, const struct control_identity *id) {
    struct wire_hash hashes[3];
    bool same_as_indexes = true;
    for (uint8_t i = 0; i < 3; i++)
        hashes[i] = wire_hash_blake2b(config->member_keys[i], CONTROL_KEY_BYTES);
    for (uint8_t place = 0; place < 3; place++)
        same_as_indexes &= id->ring[place] == place;
    for (uint8_t place = 1; place < 3; place++)
        assert_true(memcmp(hashes[id->ring[place - 1]].bytes, hashes[id->ring[place]].bytes,
                           sizeof hashes[0].bytes) < 0);
    assert_false(same_as_indexes);
}

static const char *other_cluster = "";

static bool probe_other(void *context, char ret_cluster[WIRE_CLUSTER_BYTES + 1],
                        char ret_from[CONTROL_ADDRESS_MAX]) {
    (void)context;
    snprintf(ret_cluster, WIRE_CLUSTER_BYTES + 1, "%s", other_cluster);
    snprintf(ret_from, CONTROL_ADDRESS_MAX, "10.0.0.9:3000");
    return other_cluster[0] != '\0';
}

static uint64_t number_of(const json_t *object, const char *name) {
    const char *text = json_string_value(json_object_get(object, name));
    assert_non_null(text);
    return strtoull(text, NULL, 10);
}

/* What the node's fetch of `bytes` from a peer cost, in status and metrics; it was begun since_ns
 * ago, and the runtime was given runtime_us at least. Nothing came from elsewhere. */
static void expect_costs(struct node *node, uint64_t bytes, uint64_t seq, uint64_t took_us,
                         uint64_t runtime_us) {
    char *text = NULL, *metrics = NULL, line[160];
    assert_int_equal(ctl_http(node->config.admin_listen, "GET", "/v1/status", &text), 200);
    json_t *status = json_loads(text, 0, NULL);
    const json_t *fetches = json_object_get(json_object_get(status, "bootstrap"), "fetches");
    const json_t *peer = json_object_get(fetches, "peer"),
                 *phases = json_object_get(peer, "phases");
    assert_true(json_is_null(json_object_get(fetches, "store")));
    assert_true(json_is_null(json_object_get(fetches, "stretch")));
    assert_int_equal(json_object_size(phases), 2);
    const json_t *transfer = json_object_get(phases, "transfer");
    const json_t *runtime = json_object_get(phases, "runtime");
    assert_true(json_is_true(json_object_get(peer, "ended")));
    assert_true(json_is_null(json_object_get(peer, "error")));
    assert_int_equal(number_of(peer, "seq"), seq);
    assert_int_equal(number_of(transfer, "bytes"), bytes);
    assert_int_equal(number_of(runtime, "bytes"), bytes);
    assert_true(number_of(transfer, "us") > 0);
    assert_true(number_of(runtime, "us") >= runtime_us);
    assert_true(number_of(transfer, "us") + number_of(runtime, "us") <= number_of(peer, "us"));
    assert_true(number_of(peer, "us") <= took_us);
    assert_int_equal(ctl_http(node->config.admin_listen, "GET", "/metrics", &metrics), 200);
    snprintf(line, sizeof line,
             "maroon_bootstrap_phase_bytes{source=\"peer\",phase=\"runtime\"} %" PRIu64 "\n",
             bytes);
    assert_non_null(strstr(metrics, line));
    snprintf(line, sizeof line,
             "maroon_bootstrap_phase_seconds{source=\"peer\",phase=\"runtime\"} %.6f\n",
             (double)number_of(runtime, "us") * 1e-6);
    assert_non_null(strstr(metrics, line));
    assert_non_null(strstr(
        metrics, "\nmaroon_bootstrap_phase_seconds{source=\"store\",phase=\"gets\"} 0.000000\n"));
    assert_null(strstr(metrics, "source=\"store\",phase=\"transfer\""));
    json_decref(status);
    free(text);
    free(metrics);
}

static void test_cluster_agrees_hands_on_leadership_and_passes_a_snapshot(void **state) {
    (void)state;
    need_etcd();
    static struct node nodes[3];
    pthread_t threads[3];
    for (uint8_t i = 0; i < 3; i++) {
        setup(&nodes[i], i, 3);
        set_keys(&nodes[i].config);
        pthread_create(&threads[i], NULL, prepare_thread, &nodes[i]);
    }
    for (uint8_t i = 0; i < 3; i++) {
        void *error;
        pthread_join(threads[i], &error);
        assert_int_equal((intptr_t)error, 0);
        assert_int_equal(nodes[i].identity.configuration_id, nodes[0].identity.configuration_id);
        check_ring(&nodes[i].config, &nodes[i].identity);
        assert_true(nodes[i].identity.in_genesis);
        nodes[i].mailbox = mailbox_create(64);
        assert_int_equal(control_start(nodes[i].control, nodes[i].mailbox), 0);
    }
    assert_string_equal(nodes[2].identity.members[0].admin, nodes[0].config.admin_listen);
    send_up(&nodes[0], (struct mailbox_up){.kind = MAILBOX_UP_CAMPAIGN});
    struct mailbox_down won = expect_down(&nodes[0], MAILBOX_DOWN_CAMPAIGN_RESULT);
    assert_int_equal(won.campaign, MAILBOX_CAMPAIGN_WON);
    struct mailbox_down key;
    do
        key = expect_down(&nodes[1], MAILBOX_DOWN_LEADER_KEY);
    while (key.node == MAILBOX_NODE_NONE);
    assert_int_equal(key.node, 0);
    assert_int_equal(key.term, won.term);
    assert_false(key.ours);
    expect_page(&nodes[1], "/metrics", 200,
                "maroon_etcd_requests_total{op=\"txn\",outcome=\"ok\"}");

    /* Node 2 lacks what its peers dropped; node 1 has a snapshot, after node 0 had none. */
    size_t size = 3000000;
    char *bytes = malloc(size);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)(i * 7919 >> 3);
    uint64_t needed_ns = now_ns();
    send_up(&nodes[2], (struct mailbox_up){.kind = MAILBOX_UP_NEED_SNAPSHOT, .seq = 10, .peer = 0});
    expect_down(&nodes[0], MAILBOX_DOWN_SNAPSHOT_TAKE);
    send_up(&nodes[0],
            (struct mailbox_up){.kind = MAILBOX_UP_SNAPSHOT_READY, .error = MRN_ERR_UNAVAILABLE});
    struct mailbox_down take = expect_down(&nodes[1], MAILBOX_DOWN_SNAPSHOT_TAKE);
    write_file(take.text, bytes, size);
    struct mailbox_up taken = {.kind = MAILBOX_UP_SNAPSHOT_READY, .seq = 20};
    memcpy(taken.text, take.text, sizeof taken.text);
    send_up(&nodes[1], taken);
    struct mailbox_down restore = expect_down(&nodes[2], MAILBOX_DOWN_SNAPSHOT_RESTORE);
    FILE *in = fopen(restore.text, "r");
    char *got = malloc(size + 1);
    assert_int_equal(fread(got, 1, size + 1, in), size);
    fclose(in);
    assert_memory_equal(got, bytes, size);
    /* Refused (say, its hash is wrong): another peer is asked, and so on until one is taken. */
    send_up(&nodes[2], (struct mailbox_up){.kind = MAILBOX_UP_RESTORED, .error = MRN_ERR_CORRUPT});
    expect_down(&nodes[0], MAILBOX_DOWN_SNAPSHOT_TAKE);
    send_up(&nodes[0],
            (struct mailbox_up){.kind = MAILBOX_UP_SNAPSHOT_READY, .error = MRN_ERR_UNAVAILABLE});
    restore = expect_down(&nodes[2], MAILBOX_DOWN_SNAPSHOT_RESTORE);
    usleep(30000);
    send_up(&nodes[2], (struct mailbox_up){.kind = MAILBOX_UP_RESTORED, .seq = 20});
    for (uint64_t until = fixture_now_ms() + PATIENCE_MS;
         access(restore.text, F_OK) == 0 && fixture_now_ms() < until;)
        usleep(1000);
    assert_int_not_equal(access(restore.text, F_OK), 0); /* cleaned up */
    expect_costs(&nodes[2], size, 20, (now_ns() - needed_ns) / 1000, 25000);
    free(bytes);
    free(got);

    /* A second process under index 1: refused, the first one lives. */
    static struct node twin;
    uint64_t asked = 0;
    struct control_probe probe = {probe_ask, probe_serve, probe_answer, probe_other, &asked};
    setup(&twin, 1, 3);
    set_keys(&twin.config);
    twin.config.probe = &probe;
    live_token = nodes[1].identity.process_token;
    assert_int_equal(control_prepare(&twin.config, &twin.control, &twin.identity), MRN_ERR_EXISTS);
    assert_true(served > 0);   /* it answers others while it starts */
    other_cluster = "another"; /* and its peers must be of its cluster */
    assert_int_equal(control_prepare(&twin.config, &twin.control, &twin.identity),
                     MRN_ERR_MISMATCH);
    fixture_remove_dir(twin.dir);

    /* A leader that stops gives the key back at once. */
    stop_node(&nodes[0]);
    uint64_t before = fixture_now_ms();
    do
        key = expect_down(&nodes[1], MAILBOX_DOWN_LEADER_KEY);
    while (key.node != MAILBOX_NODE_NONE);
    assert_true(fixture_now_ms() - before < 1900); /* its lease has 2 s */
    assert_int_equal(nodes[1].failures, 0);
    stop_node(&nodes[1]);
    stop_node(&nodes[2]);
}

static void wait_for_page(const struct node *node, const char *path, const char *contains) {
    for (uint64_t until = fixture_now_ms() + PATIENCE_MS; fixture_now_ms() < until; usleep(5000)) {
        char *body = NULL;
        bool there = ctl_http(node->config.admin_listen, "GET", path, &body) == 200 &&
                     strstr(body, contains);
        free(body);
        if (there)
            return;
    }
    fail_msg("%s never holds \"%s\"", path, contains);
}

static void *resume_later(void *context) {
    usleep(300000);
    fixture_etcd_pause(context, false);
    return NULL;
}

/* Who stops while its campaign is on the way would win it when it is gone, and nobody could lead
 * until its lease ends. */
static void test_campaign_on_the_way_at_the_end_is_given_back(void **state) {
    (void)state;
    need_etcd();
    static struct node node, next;
    pthread_t thread;
    setup(&node, 0, 1);
    node.config.arbiter = CONTROL_ARBITER_ETCD;
    snprintf(node.config.cluster, sizeof node.config.cluster, "late");
    node.config.lease_ttl_s = 60;
    start_node(&node);
    wait_for_page(&node, "/metrics",
                  "maroon_etcd_requests_total{op=\"lease_grant\",outcome=\"ok\"}");
    fixture_etcd_pause(&server, true);
    send_up(&node, (struct mailbox_up){.kind = MAILBOX_UP_CAMPAIGN});
    usleep(100000); /* it is sent */
    pthread_create(&thread, NULL, resume_later, &server);
    control_stop(node.control);
    pthread_join(thread, NULL);
    mailbox_destroy(node.mailbox);
    control_destroy(node.control);
    usleep(300000); /* etcd has done what it was asked for */
    next.config = node.config;
    start_node(&next);
    send_up(&next, (struct mailbox_up){.kind = MAILBOX_UP_CAMPAIGN}); /* of a key that is absent */
    assert_int_equal(expect_down(&next, MAILBOX_DOWN_CAMPAIGN_RESULT).campaign,
                     MAILBOX_CAMPAIGN_WON);
    control_stop(next.control);
    mailbox_destroy(next.mailbox);
    control_destroy(next.control);
    fixture_remove_dir(node.dir);
}

static int start(void **state) {
    (void)state;
    mrn_log_set_level(MRN_LOG_ERROR + 1);
    have_etcd = fixture_etcd_start(&server, NULL);
    return 0;
}

static int stop(void **state) {
    (void)state;
    if (have_etcd)
        fixture_etcd_stop(&server);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_node_leads_grants_and_shows),
        cmocka_unit_test(test_who_asks_a_stopped_node_is_refused),
        cmocka_unit_test(test_why_the_dataplane_failed_is_told_before_the_end),
        cmocka_unit_test(test_data_dir_is_locked_and_bad_configs_are_refused),
        cmocka_unit_test(test_full_mailbox_loses_no_fact),
        cmocka_unit_test(test_cluster_agrees_hands_on_leadership_and_passes_a_snapshot),
        cmocka_unit_test(test_campaign_on_the_way_at_the_end_is_given_back),
    };
    return cmocka_run_group_tests_name("control", tests, start, stop);
}
