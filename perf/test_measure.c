/* What every figure goes through: percentiles, and from when a latency counts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "perf/histogram.h"
#include "perf/load.h"

#define VALUES 20000u

static int compare_u64(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Never below the exact percentile, never over 1.6 % above it. */
static void test_percentiles_are_at_most_1_6_percent_too_high(void **state) {
    (void)state;
    static struct perf_histogram whole, first, second;
    static uint64_t values[VALUES];
    static const double shares[] = {0.0001, 0.01, 0.5, 0.9, 0.99, 0.999, 1};
    uint64_t random = 5;
    for (uint32_t i = 0; i < VALUES; i++) { /* from ns to minutes */
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
        values[i] = (uint64_t)exp2((double)(random >> 40) / (double)(1 << 24) * 36);
        perf_histogram_add(&whole, values[i]);
        perf_histogram_add(i % 3 ? &first : &second, values[i]);
    }
    perf_histogram_merge(&first, &second);
    qsort(values, VALUES, sizeof values[0], compare_u64);
    assert_int_equal(whole.count, VALUES);
    assert_int_equal(whole.least, values[0]);
    assert_int_equal(whole.greatest, values[VALUES - 1]);
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        uint64_t exact = values[(uint32_t)ceil(shares[i] * VALUES) - 1];
        uint64_t found = perf_histogram_at(&whole, shares[i]);
        assert_in_range(found, exact, exact + exact / 64);
        assert_int_equal(perf_histogram_at(&first, shares[i]), found);
    }
    perf_histogram_reset(&whole);
    assert_int_equal(perf_histogram_at(&whole, 0.5), 0);
    perf_histogram_add(&whole, UINT64_MAX);
    assert_int_equal(perf_histogram_at(&whole, 0.5), UINT64_MAX);
}

/* One transaction each ms; after 100 nobody looks for 50 ms, then all that is due is sent and
 * answered at once: they waited 49, 48, ... 1, 0 ms, though each was answered when it was sent. */
static void test_an_open_loop_does_not_hide_a_stall(void **state) {
    (void)state;
    struct perf_load load;
    const struct perf_load_config config = {.app = PERF_LOAD_ECHO,
                                            .payload_bytes = 64,
                                            .flight = 64,
                                            .rate_per_s = 1000,
                                            .count = 200,
                                            .warm_up = 0};
    uint8_t request[PERF_LOAD_REQUEST_MAX + 8];
    uint32_t service, method, sent = 0;
    assert_int_equal(perf_load_open(&load, &config), 0);
    for (uint64_t ms = 1; !perf_load_over(&load) && ms < 1000; ms++) {
        uint64_t now_ns = ms * 1000000;
        if (ms > 100 && ms < 150)
            continue;
        while (perf_load_due(&load, now_ns, request, &service, &method)) {
            perf_load_done(&load, perf_load_take(&load, now_ns), now_ns, 0);
            sent++;
        }
    }
    assert_int_equal(sent, 200);
    assert_int_equal(load.latency.count, 200);
    assert_int_equal(load.latency.greatest, 49000000);
    assert_int_equal(perf_histogram_at(&load.latency, 0.5), 0);
    assert_in_range(perf_histogram_at(&load.latency, 0.9), 29000000, 30000000);
    assert_int_equal(load.latency.sum, UINT64_C(49) * 50 / 2 * 1000000);
    perf_load_close(&load);
}

/* In a closed loop the next one is due when the last is answered. */
static void test_a_closed_loop_counts_from_the_submission(void **state) {
    (void)state;
    struct perf_load load;
    const struct perf_load_config config = {
        .app = PERF_LOAD_ECHO, .payload_bytes = 64, .flight = 1, .count = 10, .warm_up = 2};
    uint8_t request[PERF_LOAD_REQUEST_MAX + 8];
    uint32_t service, method;
    assert_int_equal(perf_load_open(&load, &config), 0);
    for (uint64_t ms = 1; !perf_load_over(&load) && ms < 1000; ms += 10) {
        assert_true(perf_load_due(&load, ms * 1000000, request, &service, &method) > 0);
        uint32_t ticket = perf_load_take(&load, ms * 1000000);
        assert_int_equal(perf_load_due(&load, ms * 1000000, request, &service, &method), 0);
        perf_load_done(&load, ticket, (ms + 7) * 1000000, 0);
    }
    assert_int_equal(load.latency.count, 10); /* not the warm-up */
    assert_int_equal(load.latency.least, 7000000);
    assert_int_equal(load.latency.greatest, 7000000);
    perf_load_close(&load);
}

/* What docs/performance.md says of its size: 22 bytes, the accounts' numbers being long. */
static void test_a_transfer_has_the_size_that_is_told(void **state) {
    (void)state;
    struct perf_load load;
    const struct perf_load_config config = {.app = PERF_LOAD_BANK, .flight = 1, .count = 100};
    uint8_t request[PERF_LOAD_REQUEST_MAX + 8];
    uint32_t service, method, length = 0;
    assert_int_equal(perf_load_open(&load, &config), 0);
    for (uint64_t at_ns = 1; !perf_load_over(&load); at_ns++) {
        length = perf_load_due(&load, at_ns, request, &service, &method);
        assert_true(load.submitted < PERF_LOAD_ACCOUNTS || length == 22);
        perf_load_done(&load, perf_load_take(&load, at_ns), at_ns, 0);
    }
    assert_int_equal(length, 22);
    assert_int_equal(load.latency.count, 100);
    perf_load_close(&load);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_percentiles_are_at_most_1_6_percent_too_high),
        cmocka_unit_test(test_an_open_loop_does_not_hide_a_stall),
        cmocka_unit_test(test_a_closed_loop_counts_from_the_submission),
        cmocka_unit_test(test_a_transfer_has_the_size_that_is_told),
    };
    return cmocka_run_group_tests_name("perf_measure", tests, NULL, NULL);
}
