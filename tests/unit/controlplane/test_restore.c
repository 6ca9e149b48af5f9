/* restore_state: a runtime that executed, its journal, its dumps; and the same state out of the
 * store. Dumps that are whole and signed, and do not say the truth. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bank/v1/bank.pb-c.h"
#include "controlplane/dump/dump_write.h"
#include "controlplane/restore/restore_state.h"
#include "dataplane/journal/journal.h"
#include "dump_fixture.h"
#include "maroon/error.h"
#include "runtime/applications/applications.h"

#define RANGE UINT64_C(3)

static struct dump_fixture here;
static char base_file[96];
static struct dump_signer signer;
static struct dump_key no_key;
static const struct wire_digest_key digest_key = {{1, 2, 3}};
static const struct wire_hash genesis = {{9}};

/* A node in small: journal, runtime, dumps. */
struct node {
    struct journal *journal;
    struct runtime *runtime;
    uint64_t seq;
    uint32_t offset;
    struct wire_hash hash, state_hash[64];
    struct dump_store store;
    struct dump_writer writer;
    struct dump_journal from;
};

static void append(struct node *node, enum journal_kind kind, const void *a, uint32_t a_bytes,
                   const void *b, uint32_t b_bytes) {
    const struct journal_piece pieces[2] = {{a, a_bytes}, {b, b_bytes}};
    assert_int_equal(journal_append(node->journal, kind, journal_next(node->journal), pieces, 1,
                                    dump_fixture_now_ns()),
                     0);
    while (journal_stable(node->journal) < journal_next(node->journal)) {
        journal_poll(node->journal, dump_fixture_now_ns());
        usleep(50);
    }
}

static void node_open(struct node *node, const struct mrn_application *const *applications,
                      uint32_t application_count) {
    char text[JOURNAL_TEXT_BYTES];
    struct runtime_config config;
    memset(node, 0, sizeof *node);
    snprintf(node->from.directory, sizeof node->from.directory, "%s/journal", here.dir);
    struct journal_config journal = {.directory = node->from.directory,
                                     .identity = {.incarnation = 5, .configuration_id = 77},
                                     .create = 1,
                                     .segment_bytes = 1 << 20,
                                     .writer = JOURNAL_WRITER_THREAD};
    assert_int_equal(journal_open(&journal, NULL, NULL, &node->journal, text), 0);
    runtime_config_defaults(&config);
    config.state_bytes = 4 << 20;
    config.ranges_max = 16;
    config.retired_max = 100;
    config.configuration_id = 77;
    config.genesis_hash = genesis;
    config.applications = applications;
    config.application_count = application_count;
    assert_int_equal(runtime_open(&config, &node->runtime), 0);
    struct object_store_config store = {.url = here.url};
    assert_int_equal(dump_store_open(&node->store, &store, NULL), 0);
    node->writer = (struct dump_writer){.store = &node->store,
                                        .key = &no_key,
                                        .signer = &signer,
                                        .cluster = "test",
                                        .cluster_id = 12,
                                        .digest_key = digest_key,
                                        .genesis_hash = genesis,
                                        .journal = &node->from,
                                        .applications = {{"bank", 1}},
                                        .application_count = 1};
    node->hash = genesis;
}

static void node_close(struct node *node) {
    journal_close(node->journal);
    runtime_close(node->runtime);
    dump_state_free(&node->writer.state);
    dump_store_close(&node->store);
}

/* One epoch with one deposit; the first opens the range. `told`: the runtime executes this amount,
 * whatever is in the journal. */
static void execute(struct node *node, uint64_t amount, uint64_t told) {
    uint8_t body[2][256];
    uint32_t length = 0;
    for (int i = 0; i < 2; i++) {
        Bank__V1__DepositRequest request = BANK__V1__DEPOSIT_REQUEST__INIT;
        struct wire_body_header header = {.service = wire_name_id("bank.v1.Bank", 12),
                                          .method = wire_name_id("Deposit", 7)};
        request.account = node->seq % 7;
        request.amount = i ? told : amount;
        memcpy(body[i], &header, sizeof header);
        length = (uint32_t)(sizeof header +
                            bank__v1__deposit_request__pack(&request, body[i] + sizeof header));
    }
    struct {
        uint64_t committed;
        struct wire_epoch_head head;
        struct wire_control control;
        struct wire_interval interval;
    } __attribute__((packed)) open = {0};
    uint8_t *record = (uint8_t *)&open;
    uint32_t head_bytes = sizeof open.head + sizeof open.control;
    uint64_t id = wire_tx_id(RANGE, node->offset++);
    bool first = node->seq == 0;
    struct wire_digest digest = wire_hash_body(&digest_key, id, body[0], length);
    open.head = (struct wire_epoch_head){.seq = ++node->seq,
                                         .term = 4,
                                         .configuration_id = 77,
                                         .logical_time_us = node->seq * 1000,
                                         .digest_low = digest.low,
                                         .digest_high = digest.high,
                                         .control_count = first,
                                         .interval_count = 1};
    memcpy(open.head.previous_hash, &node->hash, sizeof node->hash);
    open.control = (struct wire_control){WIRE_CONTROL_OPEN, RANGE, 8};
    open.interval = (struct wire_interval){id, 1};
    if (!first) {
        memmove(&open.control, &open.interval, sizeof open.interval);
        head_bytes -= (uint32_t)sizeof open.control;
    }
    uint32_t bytes = head_bytes + (uint32_t)sizeof open.interval;
    append(node, JOURNAL_BODY, &id, sizeof id, body[0], length);
    append(node, JOURNAL_EPOCH, record, 8, record + 8, bytes);
    node->hash = wire_hash_blake2b(record + 8, bytes);
    struct runtime_epoch epoch = runtime_epoch_of(record + 8, node->hash);
    struct runtime_body one = {id, body[1], length};
    epoch.bodies = &one;
    epoch.body_count = 1;
    assert_int_equal(runtime_execute_epoch(node->runtime, &epoch, NULL, NULL), 0);
    node->state_hash[node->seq] = runtime_state_hash(node->runtime);
}

static int put(void *user, const void *bytes, size_t count) {
    return fwrite(bytes, 1, count, user) == count ? 0 : MRN_ERR_IO;
}

static void dump(struct node *node) {
    struct runtime_snapshot_info info;
    struct dump_report report;
    char text[DUMP_TEXT_BYTES];
    FILE *out = fopen(here.snapshot, "w");
    assert_int_equal(runtime_snapshot_write(node->runtime, put, out, &info), 0);
    fclose(out);
    if (dump_fixture_write(&here, &node->writer, &report, text))
        fail_msg("dump: %s", text);
    assert_string_equal(report.gap, "");
}

static int restore(uint64_t from, uint64_t to, struct wire_hash *ret_hash, char *text) {
    struct dump_store store;
    struct restore_state state;
    struct object_store_config config = {.url = here.url};
    const struct restore_hooks hooks = {0};
    uint64_t end;
    assert_int_equal(dump_store_open(&store, &config, NULL), 0);
    int error = restore_state_open(&state, &store, &no_key, 0, from, &end, text);
    if (!error)
        error = restore_state_run(&state, to == RESTORE_NEWEST ? end : to, base_file, &hooks, text);
    if (!error) {
        assert_null(runtime_check(state.runtime));
        *ret_hash = state.state_hash;
    }
    restore_state_close(&state);
    dump_store_close(&store);
    unlink(base_file);
    return error;
}

static int set_up(void **state) {
    (void)state;
    dump_fixture_make(&here);
    snprintf(base_file, sizeof base_file, "%s/base", here.dir);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    dump_fixture_remove(&here);
    return 0;
}

static void expect(uint64_t from, uint64_t to, const struct wire_hash *expected) {
    char text[DUMP_TEXT_BYTES] = "";
    struct wire_hash hash;
    int error = restore(from, to, &hash, text);
    if (error)
        fail_msg("to %lu: %d %s", to, error, text);
    assert_memory_equal(&hash, expected, sizeof hash);
}

static void test_every_epoch_can_be_gone_back_to(void **state) {
    (void)state;
    static struct node node;
    uint32_t count;
    const struct mrn_application *const *applications = applications_list(&count);
    node_open(&node, applications, count);
    for (int i = 1; i <= 30; i++) {
        execute(&node, (uint64_t)i, (uint64_t)i);
        if (i == 12 || i == 25)
            dump(&node);
    }
    dump(&node);
    for (uint64_t seq = 1; seq <= 30; seq++)
        expect(seq, seq, &node.state_hash[seq]); /* from the dump before */
    expect(1, 30, &node.state_hash[30]);         /* past all dumps, from the first epoch */
    expect(RESTORE_NEWEST, RESTORE_NEWEST, &node.state_hash[30]);
    char text[DUMP_TEXT_BYTES];
    struct wire_hash hash;
    assert_int_equal(restore(30, 31, &hash, text), MRN_ERR_NOT_FOUND);
    node_close(&node);
}

/* The node computed something else than what it logged: its dump is whole, signed and wrong. */
static void test_a_dump_that_is_not_what_the_epochs_give(void **state) {
    (void)state;
    static struct node node;
    uint32_t count;
    char text[DUMP_TEXT_BYTES];
    struct wire_hash hash;
    const struct mrn_application *const *applications = applications_list(&count);
    node_open(&node, applications, count);
    for (int i = 1; i <= 10; i++)
        execute(&node, 5, 5);
    dump(&node);
    execute(&node, 5, 6);
    execute(&node, 5, 5);
    dump(&node);
    node_close(&node);
    assert_int_equal(restore(11, 12, &hash, text), MRN_ERR_MISMATCH);
    assert_non_null(strstr(text, "another state than the dump"));
    assert_int_equal(restore(11, 11, &hash, text), 0); /* where no dump lies it cannot be seen */
}

static void test_other_applications_are_refused(void **state) {
    (void)state;
    static struct node node;
    char text[DUMP_TEXT_BYTES];
    struct wire_hash hash;
    static const struct mrn_application *const only[] = {&bank_application};
    node_open(&node, only, 1);
    execute(&node, 1, 1);
    dump(&node);
    node_close(&node);
    assert_int_equal(restore(RESTORE_NEWEST, 1, &hash, text), MRN_ERR_UNSUPPORTED);
    assert_non_null(strstr(text, "bank 1"));
}

int main(void) {
    if (sodium_init() < 0)
        return 1;
    crypto_sign_keypair(signer.public_key, signer.secret_key);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_every_epoch_can_be_gone_back_to, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_dump_that_is_not_what_the_epochs_give, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_other_applications_are_refused, set_up, tear_down)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
