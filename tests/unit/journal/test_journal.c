/* journal: append, stable, reopen, release, policy, faults. Runs with both writers. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/journal/journal_test.h"

static enum journal_writer_kind writer_kind; /* of this round */

struct fault_plan {
    enum journal_op op;
    int number;     /* errno */
    uint32_t after; /* operations that still succeed */
};

static int plan_before(void *context, enum journal_op op, uint64_t segment, uint64_t offset) {
    struct fault_plan *plan = context;
    (void)segment, (void)offset;
    if (op != plan->op)
        return 0;
    if (plan->after > 0) {
        plan->after--;
        return 0;
    }
    return plan->number;
}

static int setup(void **state) {
    struct test_store *store = malloc(sizeof(*store));
    test_store_make(store);
    store->config.writer = writer_kind;
    *state = store;
    return 0;
}

static int teardown(void **state) {
    test_store_remove(*state);
    free(*state);
    return 0;
}

static void reopens_with_every_record(void **state) {
    struct test_store *store = *state;
    assert_int_equal(test_open(store), 0);
    uint64_t incarnation = journal_identity(store->journal)->incarnation;
    assert_true(incarnation != 0);
    test_append_stable(store, 500); /* about 1 MB: many segments */
    test_close(store);
    for (uint32_t round = 1; round <= 3; round++) {
        assert_int_equal(test_open(store), 0);
        assert_int_equal(journal_identity(store->journal)->incarnation, incarnation);
        assert_int_equal(store->replayed, 500 + (round - 1) * 37);
        assert_int_equal(journal_stable(store->journal), store->replayed);
        test_append_stable(store, 37);
        test_close(store);
    }
    struct journal_report report;
    assert_int_equal(journal_verify(store->directory, &report, store->text), 0);
    assert_int_equal(report.next, 611);
    assert_int_equal(report.kind_count[JOURNAL_BODY] + report.kind_count[JOURNAL_EPOCH], 611);
    assert_int_equal(report.torn_bytes, 0);
    assert_non_null(strstr(store->text, "good: 611 records at positions 0 to 611"));
}

static void counts_every_kind(void **state) {
    struct test_store *store = *state;
    struct journal_report report;
    const struct journal_piece pieces[2] = {{"record", 6}, {NULL, 0}};
    uint64_t position = 0;
    assert_int_equal(test_open(store), 0);
    for (uint32_t kind = 0; kind < JOURNAL_KINDS; kind++)
        for (uint32_t i = 0; journal_kind_label(kind) && i <= kind; i++)
            assert_int_equal(journal_append(store->journal, (enum journal_kind)kind, position++,
                                            pieces, 1, test_now_ns()),
                             0);
    assert_int_equal(test_settle(store), 0);
    test_close(store);
    assert_int_equal(journal_verify(store->directory, &report, store->text), 0);
    for (uint32_t kind = 0; kind < JOURNAL_KINDS; kind++)
        assert_int_equal(report.kind_count[kind], journal_kind_label(kind) ? kind + 1 : 0);
    assert_int_equal(report.torn_bytes, 0);
    assert_int_equal(report.next, position);
}

static void locks_its_directory(void **state) {
    struct test_store *store = *state, other;
    struct journal_report report;
    char expected[JOURNAL_TEXT_BYTES];
    assert_int_equal(test_open(store), 0);
    other = *store;
    assert_int_equal(test_open(&other), MRN_ERR_EXISTS);
    snprintf(expected, sizeof(expected),
             "journal %s: in use by another process; stop that one first", store->directory);
    assert_string_equal(other.text, expected);
    assert_int_equal(journal_verify(store->directory, &report, other.text), MRN_ERR_EXISTS);
}

static void knows_whose_it_is(void **state) {
    struct test_store *store = *state;
    store->config.create = 0;
    assert_int_equal(test_open(store), MRN_ERR_NOT_FOUND);
    store->config.create = 1;
    assert_int_equal(test_open(store), 0);
    test_close(store);
    store->config.identity.cluster_id[3] = 1;
    assert_int_equal(test_open(store), MRN_ERR_MISMATCH);
    assert_non_null(strstr(store->text, "belongs to another cluster"));
    store->config.identity.cluster_id[3] = 0;
    store->config.identity.configuration_id = 8;
    assert_int_equal(test_open(store), MRN_ERR_MISMATCH);
}

static void waits_for_company_unless_urgent(void **state) {
    struct test_store *store = *state;
    struct journal_counters counters;
    store->config.body_sync_delay_ns = 1000000000; /* virtual time below */
    assert_int_equal(test_open(store), 0);
    uint8_t bytes[1000] = {0};
    const struct journal_piece pieces[2] = {{bytes, 8}, {bytes, 992}};
    assert_int_equal(journal_append(store->journal, JOURNAL_BODY, 0, pieces, 0, 1000), 0);
    assert_int_equal(journal_poll(store->journal, 1000), 0); /* alone: waits */
    assert_int_equal(journal_poll(store->journal, 999999999), 0);
    assert_int_equal(journal_waiting_ns(store->journal, 999999999), 0); /* nothing is under way */
    assert_int_equal(journal_append(store->journal, JOURNAL_BODY, 1, pieces, 1, 2000), 0);
    assert_true(journal_poll(store->journal, 2000) > 0); /* urgent: at once, with the body */
    assert_int_equal(journal_waiting_ns(store->journal, 302000), 300000);
    assert_int_equal(test_settle(store), 0);
    assert_int_equal(journal_waiting_ns(store->journal, UINT64_MAX), 0);
    journal_read_counters(store->journal, &counters);
    assert_int_equal(counters.writes, 1);
    assert_int_equal(counters.sync_count, 1);
    assert_int_equal(journal_append(store->journal, JOURNAL_BODY, 2, pieces, 0, 5000), 0);
    assert_int_equal(journal_poll(store->journal, 1000004999), 0);
    assert_true(journal_poll(store->journal, 1000005000) > 0); /* the delay is over */
    assert_int_equal(test_settle(store), 0);
    for (uint64_t i = 3; i < 3 + 66; i++) { /* 64 KiB wait: at most 66 records, two batches */
        assert_int_equal(journal_append(store->journal, JOURNAL_BODY, i, pieces, 0, 6000), 0);
        journal_poll(store->journal, 6000);
    }
    journal_read_counters(store->journal, &counters);
    assert_true(counters.submit_count > 2);
    /* The records above are not those of test_append: nobody replays them. */
}

static void pushes_back_when_full(void **state) {
    struct test_store *store = *state;
    assert_int_equal(test_open(store), 0);
    uint32_t taken = 0;
    while (test_append(store, 0) == 0) {
        taken++;
        journal_check(store->journal);
        assert_true(taken < 100000);
    }
    struct journal_counters counters;
    journal_read_counters(store->journal, &counters);
    assert_int_equal(counters.full, 1);
    assert_int_equal(journal_stable(store->journal), 0);
    for (uint32_t i = 0; i < 600000 && journal_next(store->journal) == taken; i++) {
        journal_poll(store->journal, test_now_ns());
        test_append(store, 0);
        usleep(100);
    }
    assert_true(journal_next(store->journal) > taken);
    assert_int_equal(test_settle(store), 0);
    uint64_t next = journal_next(store->journal);
    test_close(store);
    assert_int_equal(test_open(store), 0);
    assert_int_equal(store->replayed, next);
}

static uint32_t count_files(const struct test_store *store, const char *prefix) {
    uint32_t count = 0;
    char path[512], name[64];
    for (uint64_t i = 0; i < 400; i++) {
        snprintf(name, sizeof(name), "%s-%016llx", prefix, (unsigned long long)i);
        test_path(store, name, path);
        count += access(path, F_OK) == 0;
    }
    return count;
}

static void recycles_what_is_released(void **state) {
    struct test_store *store = *state;
    struct journal_counters counters;
    assert_int_equal(test_open(store), 0);
    for (uint32_t i = 0; i < 12; i++) {
        test_append_stable(store, 150);
        journal_release(store->journal, journal_next(store->journal) - 50);
        journal_check(store->journal);
    }
    uint64_t first = journal_first(store->journal), next = journal_next(store->journal);
    assert_true(first <= next - 50 && first > next - 400);
    test_close(store);
    assert_true(count_files(store, "segment") <= 10);
    assert_int_equal(test_open(store), 0);
    assert_int_equal(store->replay_from, first);
    assert_int_equal(store->replayed, next - first);
    journal_read_counters(store->journal, &counters);
    assert_true(counters.retained_bytes <= 6 * store->config.segment_bytes);
    test_append_stable(store, 150);
    for (uint32_t i = 0; i < 6000 && counters.segments_recycled == 0; i++) { /* by the keeper */
        usleep(10000);
        journal_read_counters(store->journal, &counters);
    }
    assert_true(counters.segments_recycled > 0);
    test_close(store);
    struct journal_report report;
    assert_int_equal(journal_verify(store->directory, &report, store->text), 0);
    assert_int_equal(report.next, next + 150);
    /* What a file used again holds behind the end is no torn write. */
    assert_non_null(strstr(store->text, "torn tail: none"));
}

static int find_promise(void *context, enum journal_kind kind, uint64_t position,
                        const uint8_t *bytes, uint32_t length_bytes) {
    uint64_t *found = context;
    (void)bytes;
    if (kind == JOURNAL_PROMISE && length_bytes == 24)
        *found = position;
    return 0;
}

static void never_releases_the_promise(void **state) {
    struct test_store *store = *state;
    uint8_t bytes[1024] = {1};
    const struct journal_piece promise[2] = {{bytes, 24}, {NULL, 0}};
    const struct journal_piece body[2] = {{bytes, 8}, {bytes, 1000}};
    uint64_t at = 0, found = UINT64_MAX;
    assert_int_equal(test_open(store), 0);
    for (uint32_t round = 0; round < 2; round++) {
        uint64_t here = at;
        while (journal_append(store->journal, JOURNAL_PROMISE, at, promise, 1, 0))
            usleep(100), journal_poll(store->journal, test_now_ns());
        at++;
        for (uint32_t i = 0; i < 600; i++, at++) {
            while (journal_append(store->journal, JOURNAL_BODY, at, body, 1, 0))
                usleep(100), journal_poll(store->journal, test_now_ns());
            journal_poll(store->journal, test_now_ns());
        }
        assert_int_equal(test_settle(store), 0);
        journal_release(store->journal, at);
        assert_true(journal_first(store->journal) <= here);
        assert_true(round == 0 || journal_first(store->journal) > 0);
    }
    test_close(store);
    assert_int_equal(
        journal_open(&store->config, find_promise, &found, &store->journal, store->text), 0);
    assert_int_equal(found, 601);
}

static void fails_for_good_on_a_write_error(void **state) {
    struct test_store *store = *state;
    static struct fault_plan plan;
    plan = (struct fault_plan){JOURNAL_OP_WRITE, EIO, 3};
    static const struct journal_faults faults = {plan_before, &plan};
    const char *why = NULL;
    char expected[JOURNAL_TEXT_BYTES];
    store->config.faults = &faults;
    assert_int_equal(test_open(store), 0);
    for (uint32_t i = 0; i < 3; i++)
        test_append_stable(store, 1);
    for (uint32_t i = 0; i < 4; i++) {
        int error = test_append(store, 1);
        assert_true(error == 0 || error == MRN_ERR_IO);
        journal_poll(store->journal, test_now_ns());
        plan.after = i == 0 ? 100 : plan.after; /* the first fails, the later ones don't */
    }
    assert_int_equal(test_settle(store), MRN_ERR_IO);
    while (store->journal && journal_poll(store->journal, test_now_ns()))
        ;
    assert_int_equal(journal_stable(store->journal), 3);
    assert_int_equal(journal_failed(store->journal, &why), MRN_ERR_IO);
    snprintf(expected, sizeof(expected),
             "journal %s: can't write 4096 bytes to segment-0000000000000000 at offset 16384: "
             "Input/output error; nothing more is acknowledged; look after the disk, then restart "
             "the node",
             store->directory);
    assert_string_equal(why, expected);
    assert_int_equal(test_append(store, 1), MRN_ERR_IO);
    assert_int_equal(journal_close(store->journal), MRN_ERR_IO);
    store->journal = NULL;
    store->config.faults = NULL;
    assert_int_equal(test_open(store), 0);
    assert_int_equal(store->replayed, 3); /* what lay behind the hole is cut, not replayed */
    test_append_stable(store, 40);
    test_close(store);
    assert_int_equal(test_open(store), 0);
    assert_int_equal(store->replayed, 43);
}

static void says_when_the_disk_is_full(void **state) {
    struct test_store *store = *state;
    char parent[] = "/tmp/maroon-journal-full-XXXXXX", expected[JOURNAL_TEXT_BYTES];
    const char *why = NULL;
    if (geteuid() != 0)
        skip(); /* needs root: mounts a small tmpfs */
    assert_non_null(mkdtemp(parent));
    if (mount("none", parent, "tmpfs", 0, "size=640k")) {
        rmdir(parent);
        skip();
    }
    struct test_store small;
    test_store_make_in(&small, parent);
    small.config.writer = store->config.writer;
    int opened = test_open(&small);
    uint64_t count = 0, failed = 0;
    while (!opened && !failed && count < 10000) {
        int error = test_append(&small, 1);
        count += !error;
        journal_poll(small.journal, test_now_ns());
        if (error == MRN_ERR_FULL)
            usleep(1000);
        failed = journal_failed(small.journal, &why) != 0;
    }
    uint64_t stable = failed ? journal_stable(small.journal) : 0;
    char said[JOURNAL_TEXT_BYTES];
    snprintf(said, sizeof(said), "%s", failed ? why : "");
    uint64_t replayed = 0;
    if (!opened) {
        journal_close(small.journal);
        small.journal = NULL;
        struct journal_report report = {0};
        journal_verify(small.directory, &report, small.text);
        replayed = report.next;
        snprintf(expected, sizeof(expected),
                 "journal %s: disk full: no room for segment-%016llx (131072 bytes); free space on "
                 "this volume, then restart the node",
                 small.directory, (unsigned long long)report.segment_count);
    }
    test_store_remove(&small);
    umount(parent);
    rmdir(parent);
    assert_int_equal(opened, 0);
    assert_int_equal(failed, 1);
    assert_string_equal(said, expected);
    assert_true(stable > 0 && replayed >= stable);
}

static void goes_on_when_space_comes_back(void **state) {
    struct test_store *store = *state;
    static struct fault_plan plan;
    plan = (struct fault_plan){JOURNAL_OP_PREPARE, ENOSPC, 3};
    static const struct journal_faults faults = {plan_before, &plan};
    store->config.faults = &faults;
    assert_int_equal(test_open(store), 0);
    test_append_stable(store, 70); /* in the second segment: the fourth can't be made */
    usleep(20000);
    assert_int_equal(journal_failed(store->journal, NULL), 0);
    plan.after = 1000;
    usleep(1200 * 1000); /* the keeper tries again each second */
    test_append_stable(store, 300);
    assert_int_equal(journal_failed(store->journal, NULL), 0);
}

static void says_why_it_does_not_use_uring_or_direct(void **state) {
    struct test_store *store = *state;
    static struct fault_plan plan;
    plan = (struct fault_plan){JOURNAL_OP_URING, EPERM, 0};
    static const struct journal_faults faults = {plan_before, &plan};
    store->config.faults = &faults;
    store->config.writer = JOURNAL_WRITER_AUTO;
    assert_int_equal(test_open(store), 0);
    assert_non_null(strstr(journal_describe(store->journal),
                           "writer=thread io_uring=Operation not permitted direct=yes"));
    test_append_stable(store, 50);
    test_close(store);
    store->config.writer = JOURNAL_WRITER_URING;
    assert_int_equal(test_open(store), MRN_ERR_UNSUPPORTED);
    plan = (struct fault_plan){JOURNAL_OP_DIRECT, EINVAL, 0};
    store->config.writer = writer_kind;
    assert_int_equal(test_open(store), 0);
    assert_int_equal(store->replayed, 50);
    assert_non_null(strstr(journal_describe(store->journal), "direct=no (Invalid argument)"));
    test_append_stable(store, 50);
    test_close(store);
}

static void notices_a_removed_segment(void **state) {
    struct test_store *store = *state;
    char path[512];
    const char *why = NULL;
    assert_int_equal(test_open(store), 0);
    test_append_stable(store, 3);
    test_path(store, "segment-0000000000000000", path);
    assert_int_equal(unlink(path), 0);
    for (uint32_t i = 0; i < 6000 && !journal_failed(store->journal, &why); i++) {
        usleep(10000);
        journal_poll(store->journal, test_now_ns());
    }
    assert_int_equal(journal_failed(store->journal, &why), MRN_ERR_IO);
    assert_non_null(strstr(why, "file segment-0000000000000000 was removed while in use"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(reopens_with_every_record, setup, teardown),
        cmocka_unit_test_setup_teardown(counts_every_kind, setup, teardown),
        cmocka_unit_test_setup_teardown(locks_its_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(knows_whose_it_is, setup, teardown),
        cmocka_unit_test_setup_teardown(waits_for_company_unless_urgent, setup, teardown),
        cmocka_unit_test_setup_teardown(pushes_back_when_full, setup, teardown),
        cmocka_unit_test_setup_teardown(recycles_what_is_released, setup, teardown),
        cmocka_unit_test_setup_teardown(never_releases_the_promise, setup, teardown),
        cmocka_unit_test_setup_teardown(fails_for_good_on_a_write_error, setup, teardown),
        cmocka_unit_test_setup_teardown(says_when_the_disk_is_full, setup, teardown),
        cmocka_unit_test_setup_teardown(goes_on_when_space_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(says_why_it_does_not_use_uring_or_direct, setup, teardown),
        cmocka_unit_test_setup_teardown(notices_a_removed_segment, setup, teardown),
    };
    writer_kind = JOURNAL_WRITER_AUTO;
    int failed = cmocka_run_group_tests_name("journal, io_uring if there is", tests, NULL, NULL);
    writer_kind = JOURNAL_WRITER_THREAD;
    return failed + cmocka_run_group_tests_name("journal, thread", tests, NULL, NULL);
}
