/* What a reader of a running node's journal gets, and what its peers get of it: stretches. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "controlplane/dump/dump_journal.h"
#include "controlplane/dump/dump_stretch.h"
#include "controlplane/log.h"
#include "controlplane/stretches.h"
#include "dataplane/journal/journal_follow.h"
#include "dump_fixture.h"
#include "journal_log.h"
#include "maroon/error.h"

static struct dump_fixture here;
static char journal_dir[96];

static int set_up(void **state) {
    char tmp[96];
    (void)state;
    dump_fixture_make(&here);
    snprintf(journal_dir, sizeof journal_dir, "%s/journal", here.dir);
    snprintf(tmp, sizeof tmp, "%s/tmp", here.dir);
    return mkdir(tmp, 0755);
}

static int tear_down(void **state) {
    (void)state;
    dump_fixture_remove(&here);
    return 0;
}

/* ---- the reader ---- */

struct got {
    uint64_t first_seq, last_seq;
    struct wire_hash last_hash;
};

static int get(void *context, uint64_t seq, const struct wire_hash *hash, const void *record,
               size_t count) {
    struct got *got = context;
    (void)record, (void)count;
    got->first_seq = got->first_seq ? got->first_seq : seq;
    got->last_seq = seq;
    got->last_hash = *hash;
    return 0;
}

static struct got read_journal(const char *where, uint64_t after_seq, uint64_t to_seq,
                               const struct wire_hash *to_hash) {
    struct got got = {0};
    char text[DUMP_TEXT_BYTES];
    struct dump_journal journal = {0};
    struct dump_journal_span span = {.after_seq = after_seq,
                                     .to_seq = to_seq,
                                     .to_hash = *to_hash,
                                     .digest_key = journal_log_digest_key};
    snprintf(journal.directory, sizeof journal.directory, "%s", where);
    (void)dump_journal_read(&journal, &span, get, &got, text);
    return got;
}

/* A leader that was cut off wrote epochs 20 to 29, never committed; a snapshot of epoch 24 took it
 * over them, and it goes on after the others' 24. */
static void test_a_branch_that_a_snapshot_replaced_is_not_handed_out(void **state) {
    (void)state;
    static struct journal_log log;
    char where[128];
    struct wire_hash others = {{24}}, others_29 = {{29}};
    snprintf(where, sizeof where, "%s/branches", here.dir);
    journal_log_new(&log, where, 0);
    journal_log_fill(&log, 19);
    assert_int_equal(log.committed, 16);
    struct got got = read_journal(where, 10, 19, &log.hashes[19]);
    assert_int_equal(got.first_seq, 11);
    assert_int_equal(got.last_seq, 19);
    struct wire_hash previous = log.hash;
    for (uint64_t seq = 20; seq < 30; seq++, previous = log.hash) {
        journal_log_epoch(&log, seq, &previous, 52, false);
        journal_log_advance(&log);
    }
    journal_log_settle(&log);
    got = read_journal(where, 10, 24, &others); /* the snapshot has just been restored */
    assert_int_equal(got.last_seq, 16);
    got = read_journal(where, 10, 29, &others_29);
    assert_int_equal(got.last_seq, 16);
    log.committed = 24;
    previous = others;
    for (uint64_t seq = 25; seq < 40; seq++, previous = log.hash) {
        journal_log_epoch(&log, seq, &previous, 53, false);
        journal_log_advance(&log);
        log.committed = seq;
    }
    journal_log_settle(&log);
    got = read_journal(where, 10, 39, &log.hash);
    assert_int_equal(got.last_seq, 16);
    got = read_journal(where, 18, 39, &log.hash); /* nothing, rather than what nobody committed */
    assert_int_equal(got.last_seq, 0);
    got = read_journal(where, 24, 39, &log.hash);
    assert_int_equal(got.first_seq, 25);
    assert_int_equal(got.last_seq, 39);
    assert_memory_equal(&got.last_hash, &log.hash, sizeof log.hash);
    journal_close(log.journal);
}

/* A body that came again after its epoch was handed out is not waited for: the next reading does
 * not begin there. */
static void test_a_body_that_came_again_is_not_waited_for(void **state) {
    (void)state;
    static struct journal_log log;
    char text[DUMP_TEXT_BYTES];
    journal_log_new(&log, journal_dir, 0);
    journal_log_fill(&log, 100);
    journal_log_body(&log, log.next[0] - 30, 51);
    journal_log_fill(&log, 1000);
    struct dump_journal journal = {.place = 0};
    snprintf(journal.directory, sizeof journal.directory, "%s", journal_dir);
    struct dump_journal_span span = {.to_seq = log.seq,
                                     .to_hash = log.hash,
                                     .after_hash = journal_log_genesis,
                                     .digest_key = journal_log_digest_key};
    struct got got = {0};
    assert_int_equal(dump_journal_read(&journal, &span, get, &got, text), 0);
    assert_int_equal(got.last_seq, 1000);
    assert_true(journal.place >> JOURNAL_PLACE_SEGMENT_SHIFT > 20);
    journal_close(log.journal);
}

/* ---- stretches ---- */

static struct loop *loop;

struct answer {
    bool given;
    int error;
    uint64_t first_seq, last_seq, bytes;
};

static void ready(void *context, int error, const char *path, uint64_t seq) {
    struct answer *answer = context;
    *answer = (struct answer){.given = true, .error = error};
    if (error)
        return;
    FILE *in = fopen(path, "r");
    assert_non_null(in);
    struct stat status;
    assert_int_equal(fstat(fileno(in), &status), 0);
    answer->bytes = (uint64_t)status.st_size;
    uint8_t *bytes = malloc(answer->bytes);
    assert_int_equal(fread(bytes, 1, answer->bytes, in), answer->bytes);
    fclose(in);
    struct wire_hash previous = {{0}};
    for (uint64_t at = 0; at < answer->bytes;) {
        struct dump_record record;
        char text[DUMP_TEXT_BYTES];
        int64_t length = dump_record_next(bytes + at, answer->bytes - at, &record);
        assert_true(length > 0);
        if (answer->first_seq)
            assert_int_equal(dump_record_check(&record, answer->last_seq + 1, &previous,
                                               &journal_log_digest_key, text),
                             0);
        answer->first_seq = answer->first_seq ? answer->first_seq : record.seq;
        answer->last_seq = record.seq;
        previous = record.hash;
        at += (uint64_t)length;
    }
    assert_int_equal(answer->last_seq, seq);
    free(bytes);
}

static struct stretches *stretches_of(uint64_t bytes_max) {
    struct stretches_setup setup = {.loop = loop,
                                    .data_dir = here.dir,
                                    .digest_key = journal_log_digest_key,
                                    .bytes_max = bytes_max};
    struct stretches *stretches = stretches_create(&setup);
    assert_non_null(stretches);
    return stretches;
}

static struct answer ask(struct stretches *stretches, const struct journal_log *log,
                         uint64_t after_seq) {
    struct answer answer = {0};
    stretches_want(stretches, after_seq, log->seq, &log->hash, ready, &answer);
    for (int i = 0; i < 6000 && !answer.given; i++)
        loop_run_once(loop, 10);
    assert_true(answer.given);
    return answer;
}

/* Longer than an answer may be: who asks again, from where he is then, gets all of it. */
static void test_a_long_stretch_comes_in_parts(void **state) {
    (void)state;
    static struct journal_log log;
    journal_log_new(&log, journal_dir, 0);
    journal_log_fill(&log, 300);
    struct stretches *stretches = stretches_of(100000);
    uint64_t at = 7, parts = 0;
    for (; at < 300; parts++) {
        struct answer answer = ask(stretches, &log, at);
        assert_int_equal(answer.error, 0);
        assert_int_equal(answer.first_seq, at + 1);
        assert_true(answer.bytes < 100000 + 20000);
        at = answer.last_seq;
    }
    assert_int_equal(at, 300);
    assert_true(parts > 3);
    stretches_destroy(stretches);
    journal_close(log.journal);
}

/* Segments go while stretches are read: what is handed out is whole, or nothing. */
static void test_a_journal_that_is_cut_meanwhile(void **state) {
    (void)state;
    static struct journal_log log;
    uint64_t at = 0, places[1001] = {0};
    journal_log_new(&log, journal_dir, 0);
    struct stretches *stretches = stretches_of(0);
    uint32_t whole = 0, gone = 0;
    for (uint64_t seq = 40; seq <= 1000; seq += 40) {
        places[seq] = journal_next(log.journal);
        journal_log_fill(&log, seq);
        struct answer answer = {0};
        bool before = seq % 80 == 0; /* it is cut before, or while it is read */
        at = seq > 160 ? seq - 160 + seq % 3 * 60 : 0;
        if (seq > 160 && before) {
            journal_release(log.journal, places[seq - 80]);
            usleep(50000);
        }
        stretches_want(stretches, at, log.seq, &log.hash, ready, &answer);
        if (seq > 160 && !before)
            journal_release(log.journal, places[seq - 80]);
        for (int i = 0; i < 60000 && !answer.given; i++)
            loop_run_once(loop, 1);
        assert_true(answer.given);
        if (answer.error) {
            assert_int_equal(answer.error, MRN_ERR_NOT_FOUND);
            gone++;
        } else {
            assert_int_equal(answer.first_seq, at + 1);
            whole += answer.last_seq == seq;
        }
    }
    assert_true(whole > 4 && gone > 0);
    assert_int_equal(ask(stretches, &log, 10).error, MRN_ERR_NOT_FOUND);
    stretches_destroy(stretches);
    journal_close(log.journal);
}

/* The journal is cut at one moment of a reading: before the reader's `reads`-th read of a file. */
static struct {
    struct journal *journal;
    uint64_t below;
    uint32_t reads; /* 0: done */
    bool gone;      /* and its segments went */
} cut;

static uint64_t oldest_segment(void) {
    uint64_t oldest = UINT64_MAX, number;
    DIR *dir = opendir(journal_dir);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (sscanf(entry->d_name, "segment-%16" SCNx64, &number) == 1 && number < oldest)
            oldest = number;
    if (dir)
        closedir(dir);
    return oldest;
}

static uint64_t retained_bytes(void) {
    struct journal_counters counters;
    journal_read_counters(cut.journal, &counters);
    return counters.retained_bytes;
}

/* The test's thread waits for the answer meanwhile. */
static void cut_now(void) {
    uint64_t before = retained_bytes(), oldest = oldest_segment();
    journal_release(cut.journal, cut.below);
    uint64_t gone = (before - retained_bytes()) / JOURNAL_LOG_SEGMENT_BYTES;
    for (int i = 0; i < 20000 && oldest_segment() < oldest + gone; i++)
        usleep(1000);
    cut.gone = gone > 1 && oldest_segment() == oldest + gone;
}

static _Atomic uint32_t read_count; /* of files, by the reader */

ssize_t __real_pread64(int fd, void *bytes, size_t count, off_t at);
ssize_t __wrap_pread64(int fd, void *bytes, size_t count, off_t at);
ssize_t __wrap_pread64(int fd, void *bytes, size_t count, off_t at) {
    char name[16] = "";
    (void)pthread_getname_np(pthread_self(), name, sizeof name);
    if (strcmp(name, "stretches") == 0) {
        read_count++;
        if (cut.reads && --cut.reads == 0)
            cut_now();
    }
    return __real_pread64(fd, bytes, count, at);
}

/* Asks for what follows `back` epochs before the end, while all up to `cut_back` before it goes at
 * the `reads`-th read. Returns false when the reading was over before. */
static bool ask_while_cut(struct journal_log *log, uint64_t *places, uint32_t reads, uint64_t back,
                          uint64_t cut_back, struct answer *ret_answer) {
    for (uint64_t to = log->seq + 60; log->seq < to;) {
        places[log->seq / 10] = journal_next(log->journal);
        journal_log_fill(log, log->seq + 10);
    }
    struct stretches *stretches = stretches_of(0);
    cut.journal = log->journal;
    cut.below = places[(log->seq - cut_back) / 10];
    cut.reads = reads;
    cut.gone = false;
    *ret_answer = ask(stretches, log, log->seq - back);
    bool was_cut = cut.reads == 0;
    cut.reads = 0;
    assert_int_equal(cut.gone, was_cut);
    stretches_destroy(stretches);
    return was_cut;
}

/* What goes is not what was asked for: all of that is handed out, wherever the reader was. */
static void test_what_is_still_there_comes_whole_whenever_the_journal_is_cut(void **state) {
    (void)state;
    static struct journal_log log;
    static uint64_t places[400];
    struct answer answer;
    journal_log_new(&log, journal_dir, 0);
    journal_log_fill(&log, 100);
    uint32_t reads = 1;
    for (; ask_while_cut(&log, places, reads, 30, 50, &answer); reads++) {
        assert_int_equal(answer.error, 0);
        assert_int_equal(answer.first_seq, log.seq - 29);
        assert_int_equal(answer.last_seq, log.seq);
    }
    assert_true(reads > 8);
    journal_close(log.journal);
}

/* Some of what was asked for goes: all, the first of it, or nothing. */
static void test_what_goes_while_it_is_read_leaves_no_hole(void **state) {
    (void)state;
    static struct journal_log log;
    static uint64_t places[400];
    struct answer answer;
    uint32_t whole = 0, part = 0, gone = 0;
    journal_log_new(&log, journal_dir, 0);
    journal_log_fill(&log, 100);
    for (uint32_t reads = 1; ask_while_cut(&log, places, reads, 70, 20, &answer); reads++) {
        gone += answer.error == MRN_ERR_NOT_FOUND;
        whole += !answer.error && answer.last_seq == log.seq;
        part += !answer.error && answer.last_seq < log.seq;
        if (!answer.error)
            assert_int_equal(answer.first_seq, log.seq - 69);
        else
            assert_int_equal(answer.error, MRN_ERR_NOT_FOUND);
    }
    assert_true(whole > 0 && part > 0 && gone > 0);
    journal_close(log.journal);
}

/* Who catches up asks again and again, each time for a little of what it has been given already:
 * it has not executed that yet. The journal is not read from its beginning each time. */
static void test_reading_begins_near_what_is_asked_for(void **state) {
    (void)state;
    static struct journal_log log;
    journal_log_new(&log, journal_dir, 0);
    journal_log_fill(&log, 20);
    uint64_t executed = log.next[0] - 1;
    journal_log_body(&log, wire_tx_id(40, 0), 51); /* nobody ever names it */
    journal_log_fill(&log, 400);
    journal_log_body(&log, executed, 51); /* came again */
    journal_log_fill(&log, 1000);
    struct stretches *stretches = stretches_of(0);
    read_count = 0;
    assert_int_equal(ask(stretches, &log, 10).last_seq, 1000);
    uint32_t whole = read_count;
    for (uint64_t seq = 1040; seq <= 1400; seq += 40) {
        journal_log_body(&log, executed, 51);
        journal_log_fill(&log, seq);
        read_count = 0;
        struct answer answer = ask(stretches, &log, seq - 60);
        assert_int_equal(answer.first_seq, seq - 59);
        assert_int_equal(answer.last_seq, seq);
        assert_true(read_count < whole / 5);
    }
    read_count = 0;
    assert_int_equal(ask(stretches, &log, 500).first_seq, 501); /* another, further behind */
    assert_true(read_count < whole * 6 / 5);                    /* not from 1 to 1400 */
    stretches_destroy(stretches);
    journal_close(log.journal);
}

static void test_who_waits_when_it_ends_is_told(void **state) {
    (void)state;
    static struct journal_log log;
    journal_log_new(&log, journal_dir, 0);
    journal_log_fill(&log, 300);
    struct stretches *stretches = stretches_of(0);
    struct answer answers[9] = {{0}};
    for (int i = 0; i < 9; i++)
        stretches_want(stretches, 0, log.seq, &log.hash, ready, &answers[i]);
    assert_true(answers[8].given);
    assert_int_equal(answers[8].error, MRN_ERR_FULL);
    stretches_destroy(stretches);
    for (int i = 0; i < 8; i++) {
        assert_true(answers[i].given);
        assert_true(answers[i].error == MRN_ERR_CLOSED || answers[i].last_seq > 0);
    }
    assert_int_equal(answers[7].error, MRN_ERR_CLOSED);
    journal_close(log.journal);
}

int main(void) {
    mrn_log_set_level(MRN_LOG_ERROR + 1);
    loop = loop_create();
    if (!loop)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_branch_that_a_snapshot_replaced_is_not_handed_out,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_body_that_came_again_is_not_waited_for, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_long_stretch_comes_in_parts, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_journal_that_is_cut_meanwhile, set_up, tear_down),
        cmocka_unit_test_setup_teardown(
            test_what_is_still_there_comes_whole_whenever_the_journal_is_cut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_goes_while_it_is_read_leaves_no_hole, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_reading_begins_near_what_is_asked_for, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_who_waits_when_it_ends_is_told, set_up, tear_down),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    loop_destroy(loop);
    return failed;
}
