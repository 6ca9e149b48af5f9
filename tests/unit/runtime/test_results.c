/* Kept results and idempotency keys: what is kept how long, and what goes first. */
#include "support.h"

static struct feed *start(struct runtime_config config) {
    struct feed *feed = feed_new(&config);
    feed_open(feed, 0, 5);
    feed_run(feed);
    return feed;
}

static enum runtime_outcome find(struct feed *feed, uint64_t id, struct runtime_result *result) {
    uint8_t buffer[64];
    uint32_t copied;
    return runtime_result_find(feed->runtime, id, 0, buffer, sizeof buffer, result, &copied);
}
static enum runtime_outcome outcome(struct feed *feed, uint64_t id) {
    struct runtime_result result;
    return find(feed, id, &result);
}

static void test_results_are_found_again(void **state) {
    (void)state;
    struct feed *feed = start(small_config());
    for (uint32_t i = 0; i < 300; i++)
        feed_deposit(feed, 1, UINT64_C(1) << (i % 50));
    feed_withdraw(feed, 2, 1);
    feed_run(feed);
    for (uint32_t i = 0; i < 301; i++) {
        uint8_t buffer[64];
        uint32_t copied;
        struct runtime_result found;
        assert_int_equal(
            runtime_result_find(feed->runtime, i, 0, buffer, sizeof buffer, &found, &copied),
            RUNTIME_EXECUTED);
        const struct kept *kept = feed_result(feed, i);
        assert_int_equal(found.code, kept->code);
        assert_int_equal(found.epoch_seq, feed->seq);
        assert_int_equal(found.logical_time_us, feed->time_us);
        assert_int_equal(copied, kept->length_bytes);
        assert_memory_equal(buffer, kept->bytes, copied);
    }
    assert_int_equal(outcome(feed, 301), RUNTIME_UNKNOWN);
    feed_free(feed);
}

static void test_low_water_drops(void **state) {
    (void)state;
    struct feed *feed = start(small_config());
    for (uint32_t i = 0; i < 100; i++)
        feed_deposit(feed, 1, 1);
    feed_run(feed);
    feed->low_water = 60;
    feed_deposit(feed, 1, 1);
    feed->low_water = 10; /* never goes back */
    feed_deposit(feed, 1, 1);
    feed_run(feed);
    assert_int_equal(outcome(feed, 59), RUNTIME_EXPIRED);
    assert_int_equal(outcome(feed, 60), RUNTIME_EXECUTED);
    struct runtime_facts facts;
    runtime_facts(feed->runtime, &facts);
    assert_int_equal(facts.results_kept, 42);
    feed->low_water = 102; /* all answered: only its own is kept */
    feed_deposit(feed, 1, 1);
    feed_run(feed);
    runtime_facts(feed->runtime, &facts);
    assert_int_equal(facts.results_kept, 1);
    assert_int_equal(facts.result_chunks_used, 1);
    feed_free(feed);
}

static void test_results_kept_is_a_bound(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    config.results_kept = 10;
    struct feed *feed = start(config);
    for (uint32_t i = 0; i < 25; i++)
        feed_deposit(feed, 1, 1);
    feed_run(feed);
    assert_int_equal(outcome(feed, 14), RUNTIME_EXPIRED);
    assert_int_equal(outcome(feed, 15), RUNTIME_EXECUTED);
    feed_free(feed);
}

static uint64_t big(struct feed *feed, uint32_t length_bytes) {
    uint8_t request[5] = {'b'};
    memcpy(request + 1, &length_bytes, sizeof length_bytes);
    return feed_call(feed, "probe.Probe", "Do", request, sizeof request);
}

/* A range that fills the pool loses its own oldest; a modest range keeps all of its own. */
static void test_pool_is_shared_fairly(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    config.result_bytes = 4 << 20;
    struct feed *feed = start(config);
    feed_open(feed, 1, 6);
    feed->next_id = wire_tx_id(1, 0);
    for (uint32_t i = 0; i < 50; i++)
        feed_deposit(feed, 1, 1);
    feed_run(feed);
    feed->next_id = 0;
    for (uint32_t i = 0; i < 12; i++) {
        big(feed, 1000000);
        feed_run(feed);
    }
    assert_int_equal(outcome(feed, 11), RUNTIME_EXECUTED);
    assert_int_equal(outcome(feed, 0), RUNTIME_EXPIRED);
    for (uint32_t i = 0; i < 50; i++)
        assert_int_equal(outcome(feed, wire_tx_id(1, i)), RUNTIME_EXECUTED);
    /* The modest one grows: now the greatest holder pays. */
    feed->next_id = wire_tx_id(1, 50);
    big(feed, 1000000);
    feed_run(feed);
    for (uint32_t i = 0; i < 51; i++)
        assert_int_equal(outcome(feed, wire_tx_id(1, i)), RUNTIME_EXECUTED);
    struct runtime_facts facts;
    runtime_facts(feed->runtime, &facts);
    assert_true(facts.results_evicted > 0);
    feed_seal(feed, 0, 12);
    feed_seal(feed, 1, 51);
    feed_run(feed);
    runtime_facts(feed->runtime, &facts);
    assert_int_equal(facts.result_chunks_used, 0);
    feed_free(feed);
}

/* Many sizes and low-water marks at random against a plain model. */
static void test_random_against_model(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    config.results_kept = 40;
    struct feed *feed = start(config);
    uint32_t sizes[4000], count = 0, low = 0;
    srand(3);
    for (uint32_t epoch = 0; epoch < 200; epoch++) {
        for (int i = 0; i < 20; i++) {
            if (rand() % 4 == 0 && count > 0)
                low += (uint32_t)rand() % (count - low + 1);
            feed->low_water = low;
            sizes[count++] = (uint32_t)(rand() % 3 ? rand() % 100 : rand() % 5000);
            big(feed, sizes[count - 1]);
        }
        feed_run(feed);
        for (uint32_t i = 0; i < count; i++) {
            struct runtime_result result;
            bool kept = i >= low && i + config.results_kept >= count;
            assert_int_equal(find(feed, i, &result), kept ? RUNTIME_EXECUTED : RUNTIME_EXPIRED);
            if (kept)
                assert_int_equal(result.length_bytes, sizes[i]);
        }
    }
    feed_free(feed);
}

/* ---- idempotency keys ---- */

static uint64_t keyed_deposit(struct feed *feed, uint8_t key, uint8_t request, uint64_t amount) {
    memset(feed->key, key, 16);
    memset(feed->request_hash, request, 16);
    return feed_deposit(feed, 1, amount);
}

static void test_key_repeats_the_first_result(void **state) {
    (void)state;
    struct feed *feed = start(small_config());
    feed_open(feed, 1, 6);
    feed_run(feed);
    uint64_t first = keyed_deposit(feed, 1, 9, 10);
    feed_run(feed);
    uint8_t bytes[16];
    uint32_t length_bytes = feed_result(feed, first)->length_bytes;
    memcpy(bytes, feed_result(feed, first)->bytes, length_bytes);
    feed_deposit(feed, 1, 5);
    feed_run(feed);
    feed->next_id = wire_tx_id(1, 0); /* another gateway */
    uint64_t again = keyed_deposit(feed, 1, 9, 10);
    uint64_t other = keyed_deposit(feed, 1, 8, 10);
    feed_run(feed);
    assert_int_equal(feed_result(feed, again)->code, MRN_CODE_OK);
    assert_int_equal(feed_result(feed, again)->length_bytes, length_bytes);
    assert_memory_equal(feed_result(feed, again)->bytes, bytes, length_bytes);
    assert_int_equal(feed_result(feed, other)->code, MRN_CODE_FAILED_PRECONDITION);
    assert_int_equal(feed_ask_balance(feed, 1), 15);
    feed_free(feed);
}

static void test_refusals_are_repeated(void **state) {
    (void)state;
    struct feed *feed = start(small_config());
    memset(feed->key, 3, 16);
    feed_withdraw(feed, 1, 10);
    feed_deposit(feed, 1, 100);
    memset(feed->key, 3, 16);
    uint64_t again = feed_withdraw(feed, 1, 10);
    feed_run(feed);
    assert_int_equal(feed_result(feed, again)->code, MRN_CODE_FAILED_PRECONDITION);
    assert_int_equal(feed_ask_balance(feed, 1), 100);
    feed_free(feed);
}

static void test_key_expires(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct runtime_facts facts;
    config.idempotency_span_us = 1000;
    struct feed *feed = start(config);
    keyed_deposit(feed, 1, 9, 10);
    feed_run(feed);
    feed->time_us += 998; /* + 1: span - 1 later */
    keyed_deposit(feed, 1, 9, 10);
    feed_run(feed);
    runtime_facts(feed->runtime, &facts);
    assert_int_equal(facts.idempotent_repeats, 1);
    keyed_deposit(feed, 1, 9, 10); /* the span is over */
    feed_run(feed);
    assert_int_equal(feed_ask_balance(feed, 1), 20);
    runtime_facts(feed->runtime, &facts);
    assert_int_equal(facts.idempotency_keys, 1);
    feed_free(feed);
}

static void test_key_table_full(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    config.idempotency_slots = 3;
    config.idempotency_span_us = 1000;
    struct feed *feed = start(config);
    for (uint8_t key = 1; key <= 4; key++)
        keyed_deposit(feed, key, 9, 10);
    keyed_deposit(feed, 1, 9, 10); /* a repeat needs no room */
    feed_deposit(feed, 1, 1);      /* nor does one without a key */
    feed_run(feed);
    const uint32_t expected[] = {0, 0, 0, MRN_CODE_RESOURCE_EXHAUSTED, 0, 0};
    for (uint32_t i = 0; i < 6; i++)
        assert_int_equal(feed_code(feed, i), expected[i]);
    assert_int_equal(feed_ask_balance(feed, 1), 31);
    feed->time_us += 2000;
    keyed_deposit(feed, 4, 9, 10);
    feed_run(feed);
    assert_int_equal(feed_code(feed, 0), MRN_CODE_OK);
    feed_free(feed);
}

/* The ring of bytes: too small for two, and wrapping for hundreds. */
static void test_key_bytes_are_bounded(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    config.idempotency_bytes = 1000;
    config.idempotency_span_us = 5;
    struct feed *feed = start(config);
    memset(feed->key, 1, 16);
    uint64_t a = big(feed, 600);
    memset(feed->key, 2, 16);
    uint64_t b = big(feed, 600);
    feed_run(feed);
    assert_int_equal(feed_result(feed, a)->code, MRN_CODE_OK);
    assert_int_equal(feed_result(feed, b)->code, MRN_CODE_RESOURCE_EXHAUSTED);
    for (uint32_t i = 0; i < 300; i++) {
        feed->time_us += 10;
        uint8_t request[600];
        memset(request, 'x', sizeof request);
        request[0] = 0x0a;
        request[1] = 0xd5; /* length 597 */
        request[2] = 0x04;
        request[3] = (uint8_t)i;
        memset(feed->key, 1, 16);
        uint64_t first = feed_call(feed, "echo.v1.Echo", "Echo", request, sizeof request);
        memset(feed->key, 1, 16);
        uint64_t again = feed_call(feed, "echo.v1.Echo", "Echo", request, sizeof request);
        feed_run(feed);
        assert_int_equal(feed_result(feed, again)->code, MRN_CODE_OK);
        assert_int_equal(feed_result(feed, again)->length_bytes, 600);
        assert_memory_equal(feed_result(feed, first)->bytes, feed_result(feed, again)->bytes, 600);
        assert_memory_equal(feed_result(feed, again)->bytes, request, 600);
    }
    feed_free(feed);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_results_are_found_again),
                                       cmocka_unit_test(test_low_water_drops),
                                       cmocka_unit_test(test_results_kept_is_a_bound),
                                       cmocka_unit_test(test_pool_is_shared_fairly),
                                       cmocka_unit_test(test_random_against_model),
                                       cmocka_unit_test(test_key_repeats_the_first_result),
                                       cmocka_unit_test(test_refusals_are_repeated),
                                       cmocka_unit_test(test_key_expires),
                                       cmocka_unit_test(test_key_table_full),
                                       cmocka_unit_test(test_key_bytes_are_bounded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
