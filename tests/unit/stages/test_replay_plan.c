#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/replica/replica.h"
#include "dataplane/stages/replay_plan.h"
#include "proto/wire.h"

static void names(struct replay_plan *plan, uint64_t range, uint32_t first, uint16_t count) {
    uint8_t bytes[256];
    struct wire_epoch_head head = {.interval_count = 1};
    struct wire_interval interval = {wire_tx_id(range, first), count};
    memcpy(bytes, &head, sizeof head);
    memcpy(bytes + sizeof head, &interval, sizeof interval);
    assert_int_equal(0, replay_plan_epoch(plan, bytes));
}

static void bodies(struct replay_plan *plan, uint64_t range, uint32_t first, uint32_t count) {
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(0, replay_plan_body(plan, wire_tx_id(range, first + i)));
}

static void drops(struct replay_plan *plan, uint64_t position, uint64_t range, uint32_t from) {
    assert_int_equal(0, replay_plan_dropped(plan, position, range, from));
}

static bool takes(const struct replay_plan *plan, uint64_t position, uint64_t range,
                  uint32_t offset) {
    return replay_plan_takes(plan, position, wire_tx_id(range, offset));
}

static void only_what_an_epoch_names(void **state) {
    (void)state;
    struct replay_plan *plan = replay_plan_new();
    bodies(plan, 7, 0, 10);
    names(plan, 7, 0, 6); /* also of a body before it */
    assert_true(takes(plan, 0, 7, 0) && takes(plan, 5, 7, 5));
    assert_false(takes(plan, 6, 7, 6) || takes(plan, 6, 8, 0));
    assert_int_equal(0, replay_plan_covered(plan, 7, 2));
    assert_true(!takes(plan, 1, 7, 1) && takes(plan, 2, 7, 2));
    replay_plan_free(plan);
}

static void not_what_was_dropped_later(void **state) {
    (void)state;
    struct replay_plan *plan = replay_plan_new();
    bodies(plan, 7, 0, 10); /* 0..9 */
    drops(plan, 10, 7, 4);
    bodies(plan, 7, 4, 2); /* 11, 12: again */
    drops(plan, 13, 7, 5);
    bodies(plan, 7, 5, 5); /* 14.. */
    names(plan, 7, 0, 10);
    assert_true(takes(plan, 3, 7, 3) && !takes(plan, 4, 7, 4) && !takes(plan, 9, 7, 9));
    assert_true(takes(plan, 11, 7, 4) && !takes(plan, 12, 7, 5) && takes(plan, 14, 7, 5));
    drops(plan, 30, 7, 2); /* reaches further down */
    assert_true(takes(plan, 1, 7, 1) && !takes(plan, 3, 7, 3) && !takes(plan, 14, 7, 5));
    assert_true(takes(plan, 31, 7, 9));
    replay_plan_free(plan);
}

/* A start took nothing that no epoch named; one that comes later names it in vain. */
static void not_what_an_earlier_start_left_out(void **state) {
    (void)state;
    struct replay_plan *plan = replay_plan_new();
    bodies(plan, 7, 0, 10);
    bodies(plan, 8, 0, 2); /* 10, 11 */
    names(plan, 7, 0, 5);
    drops(plan, 13, REPLICA_RANGES_ALL, 0);
    names(plan, 7, 5, 5);
    names(plan, 8, 0, 2);
    bodies(plan, 7, 5, 1); /* 16: fetched */
    assert_true(takes(plan, 4, 7, 4) && !takes(plan, 5, 7, 5) && takes(plan, 16, 7, 5));
    assert_false(takes(plan, 10, 8, 0));
    replay_plan_free(plan);
}

static void many_ranges(void **state) {
    (void)state;
    struct replay_plan *plan = replay_plan_new();
    for (uint64_t range = 0; range < 5000; range++) {
        bodies(plan, range, 0, 2);
        names(plan, range, 0, (uint16_t)(1 + range % 2));
    }
    drops(plan, 20000, REPLICA_RANGES_ALL, 0);
    for (uint64_t range = 0; range < 5000; range++)
        names(plan, range, 1, 1);
    for (uint64_t range = 0; range < 5000; range++) {
        assert_true(takes(plan, 2, range, 0));
        assert_int_equal(takes(plan, 3, range, 1), range % 2);
    }
    replay_plan_free(plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_what_an_epoch_names),
        cmocka_unit_test(not_what_was_dropped_later),
        cmocka_unit_test(not_what_an_earlier_start_left_out),
        cmocka_unit_test(many_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
