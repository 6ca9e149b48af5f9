#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "arbiter_node.h"
#include "controlplane/files.h"
#include "controlplane/log.h"
#include "maroon/error.h"

static struct loop *loop;
static char dir[64];

static void open_node(struct arbiter_node *node, bool durable) {
    arbiter_node_setup(node, NULL, 0, 1);
    node->config.durable = durable;
    snprintf(node->config.data_dir, sizeof node->config.data_dir, "%s", dir);
    arbiter_node_open(node, loop, NULL);
    assert_true(arbiter_run_until(loop, &node->ready, PATIENCE_MS));
}

static void test_disk_cluster_outlives_the_process(void **state) {
    (void)state;
    static struct arbiter_node node;
    uint64_t cluster_id = 0, revision = 0;
    for (int i = 0; i < 3; i++) {
        open_node(&node, true);
        assert_int_equal(node.error, 0);
        assert_int_equal(node.leader.revision, 0);
        if (i > 0)
            assert_int_equal(arbiter_genesis(node.arbiter)->cluster_id, cluster_id);
        cluster_id = arbiter_genesis(node.arbiter)->cluster_id;
        assert_int_equal(arbiter_genesis(node.arbiter)->incarnations[0],
                         arbiter_incarnation(node.arbiter));
        arbiter_campaign(node.arbiter, 99);
        assert_false(node.won);
        arbiter_campaign(node.arbiter, 0);
        assert_true(node.won);
        assert_true(node.campaign.term > revision); /* terms never go back */
        revision = node.campaign.term;
        arbiter_range_request(node.arbiter, 7, 1, WIRE_RANGE_NONE, 0);
        assert_int_equal(node.grants[0].range, 1); /* asked again after a restart: the same */
        arbiter_node_close(&node);
    }
}

static void test_memory_cluster_is_a_new_one_each_time(void **state) {
    (void)state;
    static struct arbiter_node node;
    open_node(&node, false);
    uint64_t cluster_id = arbiter_genesis(node.arbiter)->cluster_id;
    arbiter_node_close(&node);
    open_node(&node, false);
    assert_true(arbiter_genesis(node.arbiter)->cluster_id != cluster_id);
    arbiter_node_close(&node);
}

static void test_damaged_file_is_refused(void **state) {
    (void)state;
    static struct arbiter_node node;
    open_node(&node, true);
    arbiter_node_close(&node);
    char *good;
    assert_int_equal(files_read(dir, "embedded.json", 1 << 20, &good), 0);
    size_t length = strlen(good);
    for (size_t cut = 0; cut < length - 1; cut += 13) {
        assert_int_equal(files_replace(dir, "embedded.json", good, cut), 0);
        open_node(&node, true);
        assert_int_equal(node.error, MRN_ERR_CORRUPT);
        arbiter_node_close(&node);
    }
    free(good);
}

/* What opening `node` once more, with so many idempotency keys, says on stderr. */
static void refused_words(struct arbiter_node *node, uint64_t keys, char *ret_text, size_t room) {
    char path[96];
    snprintf(path, sizeof path, "%s/words", dir);
    int kept = dup(2), words = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(kept >= 0 && words >= 0);
    dup2(words, 2);
    mrn_log_set_level(MRN_LOG_ERROR);
    arbiter_node_setup(node, NULL, 0, 1);
    node->config.durable = true;
    node->config.limits.idempotency_keys = keys;
    snprintf(node->config.data_dir, sizeof node->config.data_dir, "%s", dir);
    arbiter_node_open(node, loop, NULL);
    arbiter_run_until(loop, &node->ready, 1000);
    mrn_log_set_level(MRN_LOG_ERROR + 1);
    dup2(kept, 2);
    ssize_t length = pread(words, ret_text, room - 1, 0);
    assert_true(length >= 0);
    ret_text[length] = '\0';
    close(words);
    close(kept);
}

/* A limit that is part of the state cannot be given another value: what differs is said, with both
 * values, and what helps; also when the cluster is older than the record of that limit. */
static void test_another_limit_is_refused_in_words(void **state) {
    (void)state;
    static struct arbiter_node node;
    char text[1024], *stored;
    open_node(&node, true);
    assert_int_equal(node.error, 0);
    arbiter_node_close(&node);
    refused_words(&node, 2000, text, sizeof text);
    assert_int_equal(node.error, MRN_ERR_MISMATCH);
    arbiter_node_close(&node);
    assert_non_null(strstr(text, "what=idempotency-keys ours=2000 cluster=1000"));
    assert_non_null(strstr(text, "start with --idempotency-keys 1000"));
    assert_int_equal(files_read(dir, "embedded.json", 1 << 20, &stored), 0);
    char *name = strstr(stored, "idempotencyKeys");
    assert_non_null(name);
    memcpy(name, "unknownToItThen", strlen("idempotencyKeys"));
    assert_int_equal(files_replace(dir, "embedded.json", stored, strlen(stored)), 0);
    free(stored);
    refused_words(&node, 1000, text, sizeof text);
    assert_int_equal(node.error, MRN_ERR_MISMATCH);
    arbiter_node_close(&node);
    assert_non_null(strstr(text, "what=idempotency-keys ours=1000 cluster=not_recorded"));
    assert_non_null(strstr(text, "an earlier version"));
}

static void test_ranges(void **state) {
    (void)state;
    static struct arbiter_node node;
    open_node(&node, true);
    arbiter_range_request(node.arbiter, 11, 1, 1, 0);               /* pinned */
    arbiter_range_request(node.arbiter, 12, 1, 1, 0);               /* taken */
    arbiter_range_request(node.arbiter, 13, 1, WIRE_RANGE_NONE, 0); /* not the pinned one */
    assert_int_equal(node.grants[0].outcome, WIRE_RANGE_GRANTED);
    assert_int_equal(node.grants[1].outcome, WIRE_RANGE_TAKEN);
    uint64_t first = node.grants[0].held_by;
    assert_true(first && first != 11);
    assert_true(node.grants[1].held_by == first);
    assert_int_equal(node.grants[2].range, 2);
    assert_int_equal(node.grants[2].held_by, 13);
    for (int i = 0; i < 6; i++) {
        arbiter_run_for(loop, 500);
        arbiter_range_renew(node.arbiter, 13, 2);
    }
    assert_int_equal(node.expired_range, 1); /* not renewed */
    arbiter_range_request(node.arbiter, 12, 1, 1, 0);
    assert_int_equal(node.grants[3].outcome, WIRE_RANGE_SEALING);
    arbiter_range_sealed(node.arbiter, 12, 1, 50); /* not its owner */
    arbiter_range_request(node.arbiter, 12, 1, 1, 0);
    assert_int_equal(node.grants[4].outcome, WIRE_RANGE_SEALING);
    arbiter_range_sealed(node.arbiter, first, 1, 50);
    arbiter_range_request(node.arbiter, 12, 1, 1, 0);
    assert_int_equal(node.grants[5].outcome, WIRE_RANGE_GRANTED);
    assert_int_equal(node.grants[5].start, 50);
    arbiter_range_check(node.arbiter, first, 1);
    assert_false(node.checked_owned);
    arbiter_range_check(node.arbiter, node.grants[5].held_by, 1);
    assert_true(node.checked_owned);
    /* One that ended in the cluster whose state this one began with goes on at its end. */
    arbiter_range_request(node.arbiter, 14, 1, 78, 4712);
    assert_int_equal(node.grants[6].outcome, WIRE_RANGE_GRANTED);
    assert_int_equal(node.grants[6].start, 4711);
    arbiter_range_request(node.arbiter, 14, 1, 78, 0);
    assert_int_equal(node.grants[7].start, 4711);
    arbiter_range_request(node.arbiter, 15, 1, 79, WIRE_RANGE_OFFSETS + UINT64_C(1)); /* full */
    assert_int_equal(node.grants[8].outcome, WIRE_RANGE_EXHAUSTED);
    arbiter_node_close(&node);
}

/* Its first grant never arrived, and another held the range in between: it is granted again, as
 * another holding. What is said late of the first one does not end that. */
static void test_lost_grant_is_granted_again_under_another_token(void **state) {
    (void)state;
    static struct arbiter_node node;
    open_node(&node, true);
    arbiter_range_request(node.arbiter, 11, 1, 1, 0);
    arbiter_range_request(node.arbiter, 11, 1, 1, 0); /* repeated: the same holding */
    uint64_t lost = node.grants[0].held_by;
    assert_true(node.grants[1].held_by == lost);
    arbiter_range_sealed(node.arbiter, lost, 1, 0);
    arbiter_range_request(node.arbiter, 12, 1, 1, 0);
    uint64_t between = node.grants[2].held_by;
    arbiter_range_sealed(node.arbiter, between, 1, 60);
    arbiter_range_request(node.arbiter, 11, 1, 1, 0);
    uint64_t again = node.grants[3].held_by;
    assert_int_equal(node.grants[3].outcome, WIRE_RANGE_GRANTED);
    assert_int_equal(node.grants[3].start, 60);
    assert_true(again != lost && again != between && again != 11);
    arbiter_range_sealed(node.arbiter, lost, 1, 0); /* by a node that lags */
    arbiter_range_check(node.arbiter, again, 1);
    assert_true(node.checked_owned);
    arbiter_range_renew(node.arbiter, lost, 1);
    arbiter_range_close(node.arbiter, lost, 1);
    assert_int_equal(node.expired_range, 0);
    arbiter_node_close(&node);
    /* The file knows whose request it was. */
    open_node(&node, true);
    arbiter_range_request(node.arbiter, 11, 1, 1, 0);
    assert_true(node.grants[0].held_by == again);
    /* A replica whose log has the range open lets nobody take it. */
    arbiter_range_sealed(node.arbiter, again, 1, 90);
    arbiter_range_request(node.arbiter, 12, 2, 1, ARBITER_FLOOR_OPEN);
    assert_int_equal(node.grants[1].outcome, WIRE_RANGE_SEALING);
    arbiter_range_request(node.arbiter, 12, 2, 1, 91);
    assert_int_equal(node.grants[2].start, 90);
    arbiter_node_close(&node);
}

/* A process killed at any moment: what it was told is granted stays granted. */
static void test_killed_process_loses_no_grant(void **state) {
    (void)state;
    for (int round = 0; round < 15; round++) {
        int told[2];
        assert_int_equal(pipe(told), 0);
        pid_t pid = fork();
        if (pid == 0) {
            static struct arbiter_node child;
            open_node(&child, true);
            for (uint64_t i = 1;; i++) {
                child.grant_count = 0;
                arbiter_range_request(child.arbiter, 1000, (uint64_t)round << 32 | i,
                                      WIRE_RANGE_NONE, 0);
                if (child.grants[0].outcome == WIRE_RANGE_GRANTED &&
                    write(told[1], &child.grants[0], sizeof child.grants[0]) < 0)
                    _exit(1);
            }
        }
        close(told[1]);
        usleep(10000 + 3000 * (useconds_t)round);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        static struct arbiter_node node;
        open_node(&node, true);
        assert_int_equal(node.error, 0);
        struct arbiter_grant grant;
        while (read(told[0], &grant, sizeof grant) == sizeof grant) {
            node.checked_owned = false;
            arbiter_range_check(node.arbiter, grant.owner, grant.range);
            assert_true(node.checked_owned);
            node.grant_count = 0;
            arbiter_range_request(node.arbiter, grant.owner, grant.nonce, WIRE_RANGE_NONE, 0);
            assert_int_equal(node.grants[0].range, grant.range);
        }
        close(told[0]);
        arbiter_node_close(&node);
    }
}

static int start(void **state) {
    (void)state;
    mrn_log_set_level(MRN_LOG_ERROR + 1);
    loop = loop_create();
    fixture_make_dir(dir, sizeof dir);
    return 0;
}

static int stop(void **state) {
    (void)state;
    loop_destroy(loop);
    fixture_remove_dir(dir);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_disk_cluster_outlives_the_process, start, stop),
        cmocka_unit_test_setup_teardown(test_memory_cluster_is_a_new_one_each_time, start, stop),
        cmocka_unit_test_setup_teardown(test_damaged_file_is_refused, start, stop),
        cmocka_unit_test_setup_teardown(test_another_limit_is_refused_in_words, start, stop),
        cmocka_unit_test_setup_teardown(test_ranges, start, stop),
        cmocka_unit_test_setup_teardown(test_lost_grant_is_granted_again_under_another_token, start,
                                        stop),
        cmocka_unit_test_setup_teardown(test_killed_process_loses_no_grant, start, stop),
    };
    return cmocka_run_group_tests_name("arbiter_embedded", tests, NULL, NULL);
}
