/* Execution: order, parts, ranges, refusals without effect, the context's facts. */
#include "support.h"

#include "runtime/internal.h"

static struct feed *start(void) {
    struct runtime_config config = small_config();
    struct feed *feed = feed_new(&config);
    feed_open(feed, 0, 5);
    feed_run(feed);
    return feed;
}

static uint64_t probe(struct feed *feed, const void *bytes, size_t length_bytes) {
    return feed_call(feed, "probe.Probe", "Do", bytes, length_bytes);
}

/* Runs one probe that must fail with `code`; the tables have as much room after it as before. */
static void fails_without_effect(const void *bytes, size_t length_bytes, uint32_t code) {
    struct feed *feed = start();
    probe(feed, "i1234567", 9);
    feed_run(feed);
    assert_int_equal(feed_code(feed, 0), MRN_CODE_OK);
    uint64_t id = probe(feed, bytes, length_bytes);
    feed_run(feed);
    assert_int_equal(feed_result(feed, id)->code, code);
    /* The failing one filled or changed tables of 8 and 4,000 entries: all still fit. */
    for (uint64_t i = 0; i < 7; i++) {
        uint8_t insert[9] = {'i'};
        memcpy(insert + 1, &i, sizeof i);
        probe(feed, insert, sizeof insert);
    }
    feed_run(feed);
    for (uint32_t i = 0; i < 7; i++) {
        assert_int_equal(feed_code(feed, i), MRN_CODE_OK);
        assert_int_equal(feed->results[i].length_bytes, 2);
    }
    feed_free(feed);
}

static void test_failures_leave_nothing(void **state) {
    (void)state;
    fails_without_effect("f", 1, MRN_CODE_ABORTED);
    fails_without_effect("w", 1, MRN_CODE_RESOURCE_EXHAUSTED);
    fails_without_effect("a", 1, MRN_CODE_RESOURCE_EXHAUSTED);
    fails_without_effect("u", 1, MRN_CODE_INTERNAL);
    uint8_t big[5] = {'b'};
    uint32_t length_bytes = (1 << 20) + 1;
    memcpy(big + 1, &length_bytes, sizeof length_bytes);
    fails_without_effect(big, sizeof big, MRN_CODE_RESOURCE_EXHAUSTED);
}

/* A handler that wrote, erased and refused leaves the state of one that refused at once. */
static void test_undo_is_exact(void **state) {
    (void)state;
    struct wire_hash hashes[2];
    for (int writes = 0; writes < 2; writes++) {
        struct feed *feed = start();
        for (uint64_t i = 0; i < 5; i++)
            feed_deposit(feed, i * 1000003, 10);
        feed_run(feed);
        probe(feed, writes ? "f" : "F", 1);
        feed_run(feed);
        assert_int_equal(feed_code(feed, 0), MRN_CODE_ABORTED);
        hashes[writes] = runtime_state_hash(feed->runtime);
        feed_free(feed);
    }
    assert_same_hash(hashes[0], hashes[1]);
}

static void test_table_full_is_refused(void **state) {
    (void)state;
    struct feed *feed = start();
    for (uint64_t i = 0; i < 10; i++) {
        uint8_t insert[9] = {'i'};
        memcpy(insert + 1, &i, sizeof i);
        probe(feed, insert, sizeof insert);
    }
    feed_run(feed);
    for (uint32_t i = 0; i < 10; i++)
        assert_int_equal(feed_code(feed, i), i < 8 ? MRN_CODE_OK : MRN_CODE_RESOURCE_EXHAUSTED);
    feed_free(feed);
}

static void test_unknown_and_malformed(void **state) {
    (void)state;
    struct feed *feed = start();
    feed_call(feed, "bank.v1.Bank", "Steal", "", 0);
    feed_call(feed, "bank.v2.Bank", "Deposit", "", 0);
    feed_call(feed, "bank.v1.Bank", "Deposit", "\x08", 1);         /* a varint that ends early */
    feed_call(feed, "bank.v1.Bank", "Deposit", "\xff\xff\xff", 3); /* no tag */
    feed_call(feed, "echo.v1.Echo", "Echo",
              "\x0a\x7f"
              "abc",
              5);                                      /* shorter than it says */
    feed_call(feed, "bank.v1.Bank", "Deposit", "", 0); /* all fields 0: allowed */
    feed_run(feed);
    const uint32_t expected[] = {MRN_CODE_UNIMPLEMENTED,    MRN_CODE_UNIMPLEMENTED,
                                 MRN_CODE_INVALID_ARGUMENT, MRN_CODE_INVALID_ARGUMENT,
                                 MRN_CODE_INVALID_ARGUMENT, MRN_CODE_OK};
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(feed_code(feed, i), expected[i]);
    feed_free(feed);
}

static void test_random_bytes_never_crash(void **state) {
    (void)state;
    struct feed *feed = start();
    const char *methods[] = {"Deposit", "Withdraw", "Transfer", "Balance", "Total", "Echo"};
    srand(7);
    for (uint32_t epoch = 0; epoch < 60; epoch++) {
        for (uint32_t i = 0; i < 500; i++) {
            uint8_t bytes[40];
            size_t length_bytes = (size_t)rand() % sizeof bytes;
            for (size_t b = 0; b < length_bytes; b++)
                bytes[b] = (uint8_t)(rand() % 3 ? rand() : rand() % 32);
            uint32_t m = (uint32_t)rand() % 6;
            feed_call(feed, m == 5 ? "echo.v1.Echo" : "bank.v1.Bank", methods[m], bytes,
                      length_bytes);
        }
        feed->low_water = wire_tx_offset(feed->next_id) - 3;
        feed_run(feed);
        assert_int_equal(feed->result_count, 500);
    }
    feed_free(feed);
}

static void test_short_bodies(void **state) {
    (void)state;
    struct feed *feed = start();
    for (uint32_t i = 0; i < 16; i++)
        feed->bodies[feed->body_count++] = (struct runtime_body){feed->next_id++, calloc(1, 16), i};
    uint8_t *flagged = calloc(1, 20); /* says it is extended, and is not */
    flagged[10] = WIRE_BODY_EXTENDED;
    feed->bodies[feed->body_count++] = (struct runtime_body){feed->next_id++, flagged, 20};
    flagged = calloc(1, 20);
    flagged[11] = 0x80; /* an unknown flag */
    feed->bodies[feed->body_count++] = (struct runtime_body){feed->next_id++, flagged, 20};
    feed->low_water = 100; /* above its own offset */
    feed_deposit(feed, 1, 1);
    feed->low_water = 0;
    feed_run(feed);
    assert_int_equal(feed->result_count, 19);
    for (uint32_t i = 0; i < 19; i++)
        assert_int_equal(feed_code(feed, i), MRN_CODE_INVALID_ARGUMENT);
    feed_free(feed);
}

static void test_parts(void **state) {
    (void)state;
    struct feed *feed = start();
    Echo__V1__EchoRequest request = ECHO__V1__ECHO_REQUEST__INIT;
    uint8_t payload[9000];
    memset(payload, 'x', sizeof payload);
    request.payload.data = payload;
    request.payload.len = sizeof payload;
    uint64_t id = feed_message(feed, "echo.v1.Echo", "Echo", &request.base);
    uint64_t after = feed_deposit(feed, 1, 1);
    assert_int_equal(after - id, 7);
    feed_run(feed);
    assert_int_equal(feed->result_count, 2);
    assert_int_equal(feed_result(feed, id)->code, MRN_CODE_OK);
    assert_int_equal(feed_result(feed, id)->length_bytes, 9003);
    struct runtime_result found;
    uint32_t copied;
    uint8_t buffer[8];
    assert_int_equal(runtime_result_find(feed->runtime, id, 9000, buffer, 8, &found, &copied),
                     RUNTIME_EXECUTED);
    assert_int_equal(copied, 3);
    assert_int_equal(runtime_result_find(feed->runtime, id + 3, 0, buffer, 8, &found, &copied),
                     RUNTIME_EXPIRED);
    feed_free(feed);
}

static void test_contradicting_parts(void **state) {
    (void)state;
    struct feed *feed = start();
    /* Each would be a whole message if its parts were put together unchecked. */
    /* 2, 0: the second should say 1 */
    feed_body(feed, "echo.v1.Echo", "Echo", 2, "\x0a", 1);
    feed_body(feed, "echo.v1.Echo", "Echo", 0, "\x01", 1);
    feed_body(feed, "echo.v1.Echo", "Echo", 0, "x", 1);
    uint64_t next = feed_deposit(feed, 1, 1);
    /* another method in the middle */
    feed_body(feed, "echo.v1.Echo", "Echo", 1, "\x0a\x01", 2);
    feed_body(feed, "bank.v1.Bank", "Deposit", 0, "x", 1);
    /* an extended second part: 32 bytes of extension and 1 of payload */
    feed_body(feed, "echo.v1.Echo", "Echo", 1, "\x0a\x21", 2);
    memset(feed->key, 1, 16);
    feed_body(feed, "echo.v1.Echo", "Echo", 0, "x", 1);
    /* an incomplete tail */
    feed_body(feed, "echo.v1.Echo", "Echo", 3, "\x0a", 1);
    feed_body(feed, "echo.v1.Echo", "Echo", 2, "\x00", 1);
    feed_run(feed);
    assert_int_equal(feed->result_count, 5);
    assert_int_equal(feed_result(feed, next)->code, MRN_CODE_OK);
    for (uint32_t i = 0; i < 5; i++)
        if (i != 1)
            assert_int_equal(feed_code(feed, i), MRN_CODE_INVALID_ARGUMENT);
    assert_int_equal(feed_ask_balance(feed, 1), 1); /* the next epoch goes on behind the tail */
    feed_free(feed);
}

static void test_too_many_bytes(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    config.max_transaction_bytes = 4000;
    struct feed *feed = feed_new(&config);
    uint8_t bytes[5000] = {0};
    feed_open(feed, 0, 5);
    uint64_t over = feed_call(feed, "echo.v1.Echo", "Echo", bytes, 4001);
    uint64_t at = feed_call(feed, "echo.v1.Echo", "Echo", bytes, 4000);
    feed_run(feed);
    assert_int_equal(feed_result(feed, over)->code, MRN_CODE_RESOURCE_EXHAUSTED);
    assert_int_equal(feed_result(feed, at)->code,
                     MRN_CODE_INVALID_ARGUMENT); /* decoded: no field 0 */
    feed_free(feed);
}

static void test_context_facts(void **state) {
    (void)state;
    struct feed *feeds[2] = {start(), start()};
    uint64_t facts[2][2][4];
    for (int f = 0; f < 2; f++) {
        uint64_t a = probe(feeds[f], "r", 1);
        uint64_t b = probe(feeds[f], "r", 1);
        feed_run(feeds[f]);
        memcpy(facts[f][0], feed_result(feeds[f], a)->bytes, sizeof facts[f][0]);
        memcpy(facts[f][1], feed_result(feeds[f], b)->bytes, sizeof facts[f][1]);
        assert_int_equal(facts[f][0][0], a);
        assert_int_equal(facts[f][0][1], feeds[f]->time_us);
    }
    assert_memory_equal(facts[0], facts[1], sizeof facts[0]);
    assert_true(facts[0][0][2] != facts[0][0][3] && facts[0][0][2] != facts[0][1][2]);
    feed_free(feeds[0]);
    feed_free(feeds[1]);
}

static void stops_with(struct feed *feed, int error) {
    assert_int_equal(feed_try(feed), error);
    feed->seq--;
    assert_int_equal(feed_try(feed), MRN_ERR_CLOSED);
    feed_free(feed);
}

static void test_broken_order_stops(void **state) {
    (void)state;
    struct feed *feed = start();
    feed->seq++; /* an epoch is skipped */
    stops_with(feed, MRN_ERR_MISMATCH);
    feed = start();
    feed->time_us--; /* time stands */
    stops_with(feed, MRN_ERR_MISMATCH);
    feed = start();
    feed->next_id++; /* a body is skipped */
    feed_deposit(feed, 1, 1);
    stops_with(feed, MRN_ERR_MISMATCH);
    feed = start();
    feed->next_id = wire_tx_id(3, 0); /* not open */
    feed_deposit(feed, 1, 1);
    stops_with(feed, MRN_ERR_MISMATCH);
    feed = start();
    feed_seal(feed, 0, 1); /* beyond what was executed */
    stops_with(feed, MRN_ERR_MISMATCH);
    feed = start();
    for (uint64_t range = 1; range < 16; range++)
        feed_open(feed, range, 1);
    feed_run(feed);
    feed_open(feed, 16, 1);
    stops_with(feed, MRN_ERR_FULL);
}

static void count_ranges(void *user, const struct runtime_range_facts *range) {
    uint32_t *counts = user;
    counts[range->retired]++;
    counts[2] += range->executed;
}

static void test_ranges_open_and_seal(void **state) {
    (void)state;
    struct feed *feed = start();
    struct runtime_range_facts facts;
    struct runtime_result found;
    uint32_t copied;
    feed_deposit(feed, 1, 1);
    feed_deposit(feed, 1, 1);
    feed_open(feed, 4, 44);
    feed_open(feed, 4, 45); /* already open: ignored */
    feed_run(feed);
    assert_true(runtime_range_find(feed->runtime, 4, &facts));
    assert_int_equal(facts.owner, 44);
    feed_seal(feed, 0, 2);
    feed_seal(feed, 9, 0); /* never opened */
    feed_run(feed);
    assert_true(runtime_range_find(feed->runtime, 0, &facts));
    assert_true(facts.retired && facts.executed == 2);
    assert_int_equal(runtime_result_find(feed->runtime, 1, 0, NULL, 0, &found, &copied),
                     RUNTIME_EXPIRED);
    assert_int_equal(runtime_result_find(feed->runtime, 2, 0, NULL, 0, &found, &copied),
                     RUNTIME_SEALED);
    assert_int_equal(
        runtime_result_find(feed->runtime, wire_tx_id(9, 0), 0, NULL, 0, &found, &copied),
        RUNTIME_SEALED);
    assert_int_equal(
        runtime_result_find(feed->runtime, wire_tx_id(10, 0), 0, NULL, 0, &found, &copied),
        RUNTIME_UNKNOWN);
    uint32_t counts[3] = {0};
    runtime_ranges(feed->runtime, count_ranges, counts);
    assert_int_equal(counts[0], 1);
    assert_int_equal(counts[1], 2);
    assert_int_equal(counts[2], 2);
    feed_open(feed, 0, 50); /* a pinned range goes on at its end */
    feed->next_id = 2;
    uint64_t id = feed_deposit(feed, 1, 1);
    feed_run(feed);
    assert_int_equal(feed_result(feed, id)->code, MRN_CODE_OK);
    assert_true(runtime_range_find(feed->runtime, 0, &facts));
    assert_true(!facts.retired && facts.owner == 50 && facts.executed == 3);
    feed_free(feed);
}

/* What is kept of a sealed range: number, end, and whose it was. */
static void test_retired_ranges_are_told_apart(void **state) {
    (void)state;
    struct feed *feed = start();
    const uint64_t ranges[] = {WIRE_RANGE_COUNT - 1, UINT32_MAX, UINT64_C(1) << 32, 256, 65536};
    for (uint64_t i = 0; i < 5; i++) {
        feed_open(feed, ranges[i], 0xabcdef0000000100 + i);
        feed_run(feed);
        feed->next_id = wire_tx_id(ranges[i], 0);
        for (uint64_t bodies = 0; bodies < i; bodies++)
            feed_deposit(feed, 1, 1);
        feed_run(feed);
        feed_seal(feed, ranges[i], (uint32_t)i);
        feed_run(feed);
    }
    for (uint64_t i = 0; i < 5; i++) {
        struct runtime_range_facts facts;
        assert_true(runtime_range_find(feed->runtime, ranges[i], &facts));
        assert_true(facts.retired && facts.range == ranges[i] && facts.executed == i);
        assert_int_equal(facts.owner, 0x100 + i);
    }
    uint32_t counts[3] = {0};
    runtime_ranges(feed->runtime, count_ranges, counts);
    assert_int_equal(counts[1], 5);
    assert_int_equal(counts[2], 0 + 1 + 2 + 3 + 4);
    feed_open(feed, UINT32_MAX, 7); /* its record goes, the others stay */
    feed_run(feed);
    struct runtime_range_facts facts;
    assert_true(runtime_range_find(feed->runtime, UINT32_MAX, &facts));
    assert_true(!facts.retired && facts.executed == 1 && facts.owner == 7);
    assert_true(runtime_range_find(feed->runtime, 65536, &facts));
    assert_true(facts.retired && facts.executed == 4 && facts.owner == 0x104);
    feed_free(feed);
}

static const uint64_t edge_ranges[] = {0, 1, UINT32_MAX, UINT64_C(1) << 32, WIRE_RANGE_COUNT - 1};
static const uint32_t edge_ends[] = {0, 1, WIRE_RANGE_OFFSETS - 1, WIRE_RANGE_OFFSETS};
static const uint32_t edge_marks[] = {0, 1, RETIRED_MARK_MAX};

static void expect_retired(const struct feed *feed, uint64_t range, uint32_t end, uint32_t mark) {
    struct runtime_range_facts facts;
    assert_true(runtime_range_find(feed->runtime, range, &facts));
    assert_true(facts.retired && facts.range == range);
    assert_int_equal(facts.executed, end);
    assert_int_equal(facts.owner, mark);
}

/* Each field at its least and greatest, beside all others: 60 records in chains of several. */
static void test_retired_records_hold_the_extremes(void **state) {
    (void)state;
    for (uint32_t shift = 0; shift < 12; shift++) {
        struct feed *feed = start();
        for (uint32_t i = 0; i < 60; i++) { /* the five, and 55 more so that buckets are split */
            uint64_t range = i < 5 ? edge_ranges[i] : 1000 + i;
            struct retired record =
                retired_pack(range, edge_ends[(i + shift) % 4], edge_marks[(i + shift / 4) % 3]);
            if (i > 0) /* range 0 is open here */
                assert_true(runtime_retired_insert(feed->runtime, &record));
        }
        assert_null(runtime_check(feed->runtime));
        for (uint32_t i = 1; i < 60; i++)
            expect_retired(feed, i < 5 ? edge_ranges[i] : 1000 + i, edge_ends[(i + shift) % 4],
                           edge_marks[(i + shift / 4) % 3]);
        for (uint32_t i = 5; i < 60; i += 9) /* others move to their places */
            feed_open(feed, 1000 + i, 7);
        feed_run(feed);
        for (uint32_t i = 1; i < 60; i++) {
            struct runtime_range_facts facts;
            if (i < 5 || (i - 5) % 9 != 0) {
                expect_retired(feed, i < 5 ? edge_ranges[i] : 1000 + i, edge_ends[(i + shift) % 4],
                               edge_marks[(i + shift / 4) % 3]);
                continue;
            }
            assert_true(runtime_range_find(feed->runtime, 1000 + i, &facts));
            assert_true(!facts.retired && facts.executed == edge_ends[(i + shift) % 4]);
        }
        feed_free(feed);
    }
}

static void test_beyond_the_extremes_is_refused(void **state) {
    (void)state;
    struct runtime_range_facts facts;
    struct feed *feed = start();
    feed_seal(feed, 0, 0);
    feed_run(feed);
    assert_true(runtime_range_find(feed->runtime, 0, &facts));
    assert_false(runtime_range_find(feed->runtime, WIRE_RANGE_COUNT, &facts));
    assert_false(runtime_range_find(feed->runtime, UINT64_C(1) << 63, &facts));
    feed_seal(feed, WIRE_RANGE_COUNT, 0);
    stops_with(feed, MRN_ERR_INVALID);
    feed = start();
    feed_seal(feed, 1, WIRE_RANGE_OFFSETS + 1);
    stops_with(feed, MRN_ERR_MISMATCH);
    feed = start(); /* a region from outside may hold it */
    struct retired record = retired_pack(8, WIRE_RANGE_OFFSETS + 1, 3);
    assert_true(runtime_retired_insert(feed->runtime, &record));
    const char *broken = runtime_check(feed->runtime);
    assert_true(broken != NULL && strstr(broken, "beyond its range") != NULL);
    feed_free(feed);
}

/* targets.md M2, with all that a page of the state costs: its hash and marks. */
static void test_retired_record_costs_16_bytes(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct runtime_memory few, many;
    config.retired_max = 1 << 20;
    assert_int_equal(runtime_memory_plan(&config, &few), 0);
    config.retired_max = 1 << 21;
    assert_int_equal(runtime_memory_plan(&config, &many), 0);
    uint64_t copies_bytes = many.copies_bytes - few.copies_bytes;
    assert_true(many.most_bytes - few.most_bytes - copies_bytes <= UINT64_C(16) << 20);
    config.retired_max = (1 << 30) + 1;
    assert_int_equal(runtime_memory_plan(&config, &many), MRN_ERR_INVALID);
}

/* The last offset of a range, reached by way of a retired record. */
static void test_end_of_a_range(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct feed *feed = feed_new(&config);
    feed_open(feed, 1, 5);
    feed->next_id = wire_tx_id(1, 0);
    /* 16-bit parts are too slow a way to 2^30: check the arithmetic at a part that would reach
     * over. */
    feed_body(feed, "echo.v1.Echo", "Echo", 65535, "a", 1);
    feed_run(feed);
    assert_int_equal(feed_code(feed, 0), MRN_CODE_INVALID_ARGUMENT);
    assert_int_equal(feed->results[0].length_bytes, strlen("the epoch ends before the parts do"));
    feed_free(feed);
}

static void test_config_is_checked(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    const struct mrn_application *const twice[] = {&bank_application, &bank_application};
    struct runtime *runtime = NULL;
    struct runtime_memory memory, more;
    assert_int_equal(runtime_memory_plan(&config, &memory), 0);
    assert_true(memory.state_bytes == config.state_bytes);
    assert_true(memory.results_bytes == config.result_bytes);
    assert_true(memory.most_bytes == memory.state_bytes + memory.results_bytes +
                                         memory.idempotency_bytes + memory.ranges_bytes +
                                         memory.copies_bytes + memory.other_bytes);
    config.idempotency_bytes += 1 << 20;
    assert_int_equal(runtime_memory_plan(&config, &more), 0);
    assert_int_equal(more.idempotency_bytes - memory.idempotency_bytes, 1 << 20);
    config.idempotency_slots += 100000; /* a record and its places in the table: about 100 bytes */
    assert_int_equal(runtime_memory_plan(&config, &memory), 0);
    assert_in_range(memory.idempotency_bytes - more.idempotency_bytes, 8000000, 14000000);
    config.applications = twice;
    config.application_count = 2;
    assert_int_equal(runtime_open(&config, &runtime), MRN_ERR_INVALID);
    assert_null(runtime);
    config = small_config();
    config.result_bytes = config.max_result_bytes; /* a result might not fit */
    assert_int_equal(runtime_memory_plan(&config, &memory), MRN_ERR_INVALID);
    assert_int_equal(runtime_open(&config, &runtime), MRN_ERR_INVALID);
    struct mrn_service service = *bank_application.services;
    struct mrn_method methods[5];
    memcpy(methods, service.methods, sizeof methods);
    methods[2].name = "Transfers";
    service.methods = methods;
    struct mrn_application wrong = bank_application;
    wrong.services = &service;
    const struct mrn_application *const list[] = {&wrong};
    config = small_config();
    config.applications = list;
    config.application_count = 1;
    assert_int_equal(runtime_open(&config, &runtime), MRN_ERR_INVALID);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_failures_leave_nothing),
                                       cmocka_unit_test(test_undo_is_exact),
                                       cmocka_unit_test(test_table_full_is_refused),
                                       cmocka_unit_test(test_unknown_and_malformed),
                                       cmocka_unit_test(test_random_bytes_never_crash),
                                       cmocka_unit_test(test_short_bodies),
                                       cmocka_unit_test(test_parts),
                                       cmocka_unit_test(test_contradicting_parts),
                                       cmocka_unit_test(test_too_many_bytes),
                                       cmocka_unit_test(test_context_facts),
                                       cmocka_unit_test(test_broken_order_stops),
                                       cmocka_unit_test(test_ranges_open_and_seal),
                                       cmocka_unit_test(test_retired_ranges_are_told_apart),
                                       cmocka_unit_test(test_retired_records_hold_the_extremes),
                                       cmocka_unit_test(test_beyond_the_extremes_is_refused),
                                       cmocka_unit_test(test_retired_record_costs_16_bytes),
                                       cmocka_unit_test(test_end_of_a_range),
                                       cmocka_unit_test(test_config_is_checked)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
