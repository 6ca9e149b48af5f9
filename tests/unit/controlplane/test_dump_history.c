/* Stretches: a real journal becomes the epochs between two dumps, and a store that lies about them
 * or mixes clusters is found out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controlplane/dump/dump_history.h"
#include "controlplane/dump/dump_write.h"
#include "dataplane/journal/journal.h"
#include "dump_fixture.h"
#include "journal_log.h"
#include "maroon/error.h"

#define PAGES 4
#define BODIES JOURNAL_LOG_BODIES

static struct dump_fixture here;
static char journal_dir[96];
static struct dump_signer signer;
static struct dump_key no_key;

/* ---- dumps ---- */

static void write_snapshot(const struct journal_log *log, uint64_t seq) {
    static uint8_t region[PAGES * DUMP_PAGE_BYTES];
    for (uint64_t i = 0; i < PAGES; i++)
        memset(region + i * DUMP_PAGE_BYTES, (int)(seq + i) | 1, DUMP_PAGE_BYTES);
    dump_fixture_snapshot(
        &here,
        (struct snapshot_head){.configuration_id = 5, .seq = seq, .epoch_hash = log->hashes[seq]},
        region, PAGES);
}

struct dumping {
    struct dump_store store;
    struct dump_writer writer;
    struct dump_journal journal;
};

static void dumping_open(struct dumping *d) {
    struct object_store_config config = {.url = here.url};
    memset(d, 0, sizeof *d);
    assert_int_equal(dump_store_open(&d->store, &config, NULL), 0);
    d->writer = (struct dump_writer){.store = &d->store,
                                     .key = &no_key,
                                     .signer = &signer,
                                     .cluster_id = 12,
                                     .digest_key = journal_log_digest_key,
                                     .genesis_hash = journal_log_genesis,
                                     .journal = &d->journal};
    snprintf(d->journal.directory, sizeof d->journal.directory, "%s", journal_dir);
}

static void dumping_close(struct dumping *d) {
    dump_state_free(&d->writer.state);
    dump_store_close(&d->store);
}

static struct dump_report dump_at(struct dumping *d, const struct journal_log *log, uint64_t seq) {
    struct dump_report report;
    char text[DUMP_TEXT_BYTES];
    write_snapshot(log, seq);
    if (dump_fixture_write(&here, &d->writer, &report, text))
        fail_msg("dump of %lu: %s", seq, text);
    return report;
}

struct seen {
    uint64_t count, bodies, states;
};

static int see(void *context, const struct dump_record *record,
               const struct wire_hash *state_hash) {
    struct seen *seen = context;
    const uint8_t *at = record->bodies;
    for (uint32_t i = 0; i < record->body_count; i++) {
        struct dump_body_head head;
        uint8_t bytes[WIRE_BODY_MAX_BYTES];
        const uint8_t *body = dump_body_next(&at, &head);
        assert_int_equal(head.length_bytes, journal_log_make_body(head.id, 51, bytes));
        assert_memory_equal(bytes, body, head.length_bytes);
    }
    seen->count++;
    seen->bodies += record->body_count;
    seen->states += state_hash != NULL;
    return 0;
}

static int read_back(uint64_t from, const struct wire_hash *hash, uint64_t to, struct seen *seen,
                     uint64_t *ret_seq, char *text) {
    struct dump_store store;
    struct dump_history history;
    struct object_store_config config = {.url = here.url};
    *seen = (struct seen){0};
    assert_int_equal(dump_store_open(&store, &config, NULL), 0);
    int error = dump_history_open(&history, &store, &no_key, 0, from, text);
    if (!error)
        error = dump_history_read(&history, from, hash, to, see, seen, ret_seq, text);
    dump_history_close(&history);
    dump_store_close(&store);
    return error;
}

static int set_up(void **state) {
    (void)state;
    dump_fixture_make(&here);
    snprintf(journal_dir, sizeof journal_dir, "%s/journal", here.dir);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    dump_fixture_remove(&here);
    return 0;
}

/* ---- tests ---- */

static void test_every_epoch_comes_back(void **state) {
    (void)state;
    static struct journal_log log;
    struct dumping d;
    struct seen seen;
    uint64_t seq, bodies = 0;
    char text[DUMP_TEXT_BYTES];
    journal_log_new(&log, journal_dir, 0);
    dumping_open(&d);
    journal_log_fill(&log, 40); /* the journal goes on beyond what is dumped */
    struct dump_report report = dump_at(&d, &log, 31);
    assert_string_equal(report.gap, "");
    assert_int_equal(report.epochs, 31);
    journal_log_fill(&log, 200);
    report = dump_at(&d, &log, 200);
    assert_int_equal(report.epochs, 169);
    assert_true(d.journal.place > 0); /* what was handed out is not read again */
    journal_log_fill(&log, 201);
    report = dump_at(&d, &log, 201);
    assert_int_equal(report.epochs, 1);
    dumping_close(&d);
    for (uint64_t at = 1; at <= 201; at++)
        bodies += 2 + at % BODIES + (at + 1) % BODIES;
    assert_int_equal(read_back(0, &journal_log_genesis, 201, &seen, &seq, text), 0);
    assert_int_equal(seen.count, 201);
    assert_int_equal(seen.bodies, bodies);
    assert_int_equal(seen.states, 3); /* the dumps on the way */
    /* From a dump to an epoch in the middle. */
    assert_int_equal(read_back(31, &log.hashes[31], 150, &seen, &seq, text), 0);
    assert_int_equal(seen.count, 119);
    /* Beyond the end, and from another history. */
    assert_int_equal(read_back(31, &log.hashes[31], 202, &seen, &seq, text), MRN_ERR_NOT_FOUND);
    assert_int_equal(seq, 201);
    assert_int_equal(read_back(31, &log.hashes[30], 150, &seen, &seq, text), MRN_ERR_MISMATCH);
    assert_int_equal(seen.count, 0);
    journal_close(log.journal);
}

/* Another process, another dumping node, a restart of the node: the chain goes on. */
static void test_who_dumps_next_needs_no_memory(void **state) {
    (void)state;
    static struct journal_log log;
    struct dumping d;
    struct seen seen;
    uint64_t seq;
    char text[DUMP_TEXT_BYTES];
    journal_log_new(&log, journal_dir, 0);
    journal_log_fill(&log, 50);
    for (uint64_t at = 20; at <= 50; at += 10) {
        dumping_open(&d);
        assert_int_equal(dump_at(&d, &log, at).epochs, at == 20 ? 20 : 10);
        dumping_close(&d);
    }
    journal_close(log.journal);
    journal_log_open(&log, journal_dir);
    journal_log_fill(&log, 90);
    dumping_open(&d);
    assert_int_equal(dump_at(&d, &log, 90).epochs, 40);
    dumping_close(&d);
    assert_int_equal(read_back(0, &journal_log_genesis, 90, &seen, &seq, text), 0);
    assert_int_equal(seen.count, 90);
    journal_close(log.journal);
}

/* A dump that failed after it had read the journal: the next one reads the same epochs again. */
static void test_a_failed_dump_loses_no_epoch(void **state) {
    (void)state;
    static struct journal_log log;
    struct dumping d;
    struct dump_report report;
    struct seen seen;
    uint64_t seq;
    char text[DUMP_TEXT_BYTES], command[300];
    journal_log_new(&log, journal_dir, 0);
    journal_log_fill(&log, 60);
    dumping_open(&d);
    assert_int_equal(dump_at(&d, &log, 20).epochs, 20);
    /* The place of manifests is taken: all else has been put by then. */
    snprintf(command, sizeof command, "cd %s/objects && mv manifests away && touch manifests",
             here.dir);
    assert_int_equal(system(command), 0);
    write_snapshot(&log, 50);
    assert_int_not_equal(dump_fixture_write(&here, &d.writer, &report, text), 0);
    snprintf(command, sizeof command, "cd %s/objects && rm manifests && mv away manifests",
             here.dir);
    assert_int_equal(system(command), 0);
    report = dump_at(&d, &log, 40);
    assert_string_equal(report.gap, "");
    assert_int_equal(report.epochs, 20);
    /* The pointer is set back to an older dump: the journal is read from its beginning again. */
    d.journal.place = journal_next(log.journal);
    report = dump_at(&d, &log, 60);
    assert_string_equal(report.gap, "");
    assert_int_equal(report.epochs, 20);
    dumping_close(&d);
    assert_int_equal(read_back(0, &journal_log_genesis, 60, &seen, &seq, text), 0);
    assert_int_equal(seen.count, 60);
    journal_close(log.journal);
}

/* A journal that was cut, and none at all: the dump is made and says what it lacks. */
static void test_a_gap_is_said(void **state) {
    (void)state;
    static struct journal_log log;
    struct dumping d;
    struct seen seen;
    uint64_t seq;
    char text[DUMP_TEXT_BYTES];
    journal_log_new(&log, journal_dir, 0);
    journal_log_fill(&log, 300);
    journal_release(log.journal, journal_next(log.journal) - 400);
    char first[128];
    snprintf(first, sizeof first, "%s/segment-%016x", journal_dir, 0);
    for (int i = 0; i < 60000 && !access(first, F_OK); i++) { /* the keeper takes it away */
        journal_poll(log.journal, dump_fixture_now_ns());
        usleep(1000);
    }
    assert_int_not_equal(access(first, F_OK), 0);
    journal_log_fill(&log, 301);
    dumping_open(&d);
    struct dump_report report = dump_at(&d, &log, 300);
    assert_int_equal(report.stretches, 0);
    assert_non_null(strstr(report.gap, "does not hold epochs 1 to 300"));
    report = dump_at(&d, &log, 301); /* and from there on it is whole again */
    assert_string_equal(report.gap, "");
    assert_int_equal(report.epochs, 1);
    d.writer.journal = NULL;
    journal_log_fill(&log, 302);
    report = dump_at(&d, &log, 302);
    assert_non_null(strstr(report.gap, "memory"));
    dumping_close(&d);
    assert_int_equal(read_back(300, &log.hashes[300], 302, &seen, &seq, text), MRN_ERR_NOT_FOUND);
    assert_int_equal(seq, 301);
    journal_close(log.journal);
}

static void flip(const char *path, long at, int bit) {
    FILE *object = fopen(path, "r+");
    assert_non_null(object);
    fseek(object, at, SEEK_SET);
    int byte = fgetc(object);
    fseek(object, at, SEEK_SET);
    fputc(byte ^ bit, object);
    fclose(object);
}

/* The store lies: bytes changed, an object gone, and a whole stretch of another history under a
 * right name and a right signature. */
static void test_a_store_that_lies(void **state) {
    (void)state;
    static struct journal_log log;
    struct dumping d;
    struct dump_manifest manifest;
    char text[DUMP_TEXT_BYTES], path[300], moved[320], name[DUMP_NAME_MAX];
    journal_log_new(&log, journal_dir, 0);
    journal_log_fill(&log, 60);
    dumping_open(&d);
    dump_at(&d, &log, 30);
    struct dump_report report = dump_at(&d, &log, 60);
    assert_int_equal(dump_manifest_get(&d.store, &no_key, report.path, &manifest, text), 0);
    assert_int_equal(dump_history_verify(&d.store, &no_key, &manifest, text), 0);
    dump_object_path(DUMP_STRETCH, &manifest.stretches[0].name, name);
    snprintf(path, sizeof path, "%s/objects/%s", here.dir, name);
    for (long at = 0; at < 120; at += 7) {
        flip(path, at, 8);
        assert_true(dump_history_verify(&d.store, &no_key, &manifest, text) < 0);
        assert_true(text[0]);
        flip(path, at, 8);
    }
    snprintf(moved, sizeof moved, "%s.away", path);
    rename(path, moved);
    assert_int_equal(dump_history_verify(&d.store, &no_key, &manifest, text), MRN_ERR_NOT_FOUND);
    rename(moved, path);
    assert_int_equal(dump_history_verify(&d.store, &no_key, &manifest, text), 0);

    /* A signer who is wrong about what came before. */
    manifest.stretches[0].previous_hash.bytes[0] ^= 1;
    assert_int_equal(dump_history_verify(&d.store, &no_key, &manifest, text), MRN_ERR_MISMATCH);
    manifest.stretches[0].previous_hash.bytes[0] ^= 1;
    manifest.digest_key.bytes[0] ^= 1;
    assert_int_equal(dump_history_verify(&d.store, &no_key, &manifest, text), MRN_ERR_CORRUPT);
    assert_non_null(strstr(text, "digest"));
    manifest.digest_key.bytes[0] ^= 1;
    /* A manifest whose stretches end elsewhere is not one. */
    struct dump_bytes payload = {0};
    struct dump_manifest again;
    manifest.stretches[0].last_hash.bytes[0] ^= 1;
    assert_int_equal(dump_manifest_encode(&manifest, &signer, &payload), 0);
    assert_int_equal(dump_manifest_decode(&payload, &again, text), MRN_ERR_CORRUPT);
    dump_bytes_free(&payload);
    dump_manifest_free(&manifest);
    dumping_close(&d);
    journal_close(log.journal);
}

/* Two clusters in one store, each dump whole in itself: what does not continue is found. */
static void test_clusters_are_not_mixed(void **state) {
    (void)state;
    static struct journal_log log, other;
    struct dumping d;
    struct seen seen;
    uint64_t seq;
    char text[DUMP_TEXT_BYTES], there[96];
    snprintf(there, sizeof there, "%s/other", here.dir);
    journal_log_new(&log, journal_dir, 0);
    journal_log_fill(&log, 30);
    journal_log_new(&other, there, 0);
    other.next[0] = UINT64_C(3) << 30;
    journal_log_fill(&other, 60);
    dumping_open(&d);
    dump_at(&d, &log, 30);
    /* The same configuration, as a restored disk would have it. */
    snprintf(d.journal.directory, sizeof d.journal.directory, "%s", there);
    d.journal.place = 0;
    struct dump_report report = dump_at(&d, &other, 60);
    assert_int_equal(report.stretches, 0); /* its journal does not continue that dump */
    assert_true(report.gap[0]);
    assert_int_equal(read_back(30, &log.hashes[30], 60, &seen, &seq, text), MRN_ERR_NOT_FOUND);
    dumping_close(&d);
    journal_close(log.journal);
    journal_close(other.journal);
}

int main(void) {
    if (sodium_init() < 0)
        return 1;
    crypto_sign_keypair(signer.public_key, signer.secret_key);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_epoch_comes_back, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_who_dumps_next_needs_no_memory, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_failed_dump_loses_no_epoch, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_gap_is_said, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_store_that_lies, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_clusters_are_not_mixed, set_up, tear_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
