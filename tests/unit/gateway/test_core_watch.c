/* What others see of a transaction: events on its way, its state by its id, ids that are kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/retired.h"
#include "tests/unit/gateway/fixture.h"

#define R UINT64_C(5)
#define ID(offset) wire_tx_id(R, offset)

static void check_event(const struct world *w, uint32_t at, enum gateway_core_event_kind kind,
                        uint64_t id, uintptr_t user) {
    assert_true(at < w->event_count);
    assert_int_equal(w->events[at].kind, kind);
    assert_true(w->events[at].id == id && (uintptr_t)w->events[at].user == user);
}

static void each_transaction_is_sent_then_committed_once(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 3000, 1); /* 0, 1, 2 */
    world_submit(w, 10, 2);   /* 3 */
    assert_int_equal(w->event_count, 0);
    world_tick(w, 1);
    assert_int_equal(w->event_count, 2); /* one for all parts */
    check_event(w, 0, GATEWAY_CORE_SENT, ID(0), 1);
    check_event(w, 1, GATEWAY_CORE_SENT, ID(3), 2);
    world_tick(w, 500000);
    assert_int_equal(w->event_count, 2); /* a resend is none */

    world_vector(w, 0, 1, R, 4, 3, 64);
    check_event(w, 2, GATEWAY_CORE_COMMITTED, ID(0), 1);
    world_vector(w, 1, 1, R, 4, 3, 64);
    assert_int_equal(w->event_count, 3);
    world_result(w, ID(0), 0);
    assert_int_equal(w->event_count, 3);
    world_result(w, ID(3), 0); /* before any vector said so */
    check_event(w, 3, GATEWAY_CORE_COMMITTED, ID(3), 2);
    world_vector(w, 0, 2, R, 4, 4, 64);
    assert_int_equal(w->event_count, 4);
    assert_int_equal(w->done_count, 2);
}

static void a_kept_id_that_is_sealed_off_ends(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 10, 1);
    world_submit(w, 3000, 2);                           /* 1, 2, 3 */
    world_submit(w, 10, 3);                             /* 4 */
    assert_false(gateway_core_keep_id(w->core, ID(1))); /* nobody was told: it is not sent */
    world_tick(w, 1);
    assert_true(gateway_core_keep_id(w->core, ID(1)));
    assert_false(gateway_core_keep_id(w->core, ID(2))); /* no transaction begins there */
    assert_false(gateway_core_keep_id(w->core, ID(77)));
    w->event_count = 0;
    /* the end of who held it before us */
    struct wire_sealed earlier = {R, 1, retired_mark(world_facts(w).owner) ^ 1};
    assert_int_equal(world_frame(w, 1, WIRE_SEALED, &earlier, sizeof earlier), WIRE_DROP_STALE);
    assert_true(w->event_count == 0 && w->done_count == 0);
    world_sealed(w, R, 1);
    assert_int_equal(w->event_count, 2);
    check_event(w, 0, GATEWAY_CORE_SEALED, ID(1), 2);
    check_event(w, 1, GATEWAY_CORE_SEALED, ID(4), 3);
    assert_int_equal(w->done_count, 1);
    assert_true(w->done[0].user == 2 && w->done[0].id == ID(1) && w->done[0].code == 10);
    world_grant(w, 8, 0);
    w->sent_count = 0;
    world_tick(w, 1);
    uint32_t bodies = 0;
    for (uint32_t i = 0; i < w->sent_count; i++)
        bodies += w->sent[i].kind == WIRE_TX && wire_tx_range(w->sent[i].id) == 8;
    assert_int_equal(bodies, 3); /* only the third goes again, once to each node */
    world_result(w, wire_tx_id(8, 0), 0);
    world_result(w, ID(0), 0);
    assert_int_equal(w->done_count, 3);
    assert_int_equal(world_facts(w).outstanding_parts, 0);
}

static void a_query_takes_the_best_of_all_nodes(void **state) {
    struct world *w = *state;
    uint64_t other = wire_tx_id(900, 3);
    world_grant(w, R, 0);
    gateway_core_query(w->core, w->now_us, other, 0);
    assert_int_equal(world_count(w, WIRE_TX_QUERY), 3);
    world_state(w, 0, other + 1, WIRE_TX_COMMITTED); /* not asked for */
    world_state(w, 0, other, WIRE_TX_UNKNOWN);
    world_state(w, 1, other, WIRE_TX_COMMITTED);
    assert_int_equal(w->state_count, 0);
    world_state(w, 2, other, WIRE_TX_PENDING);
    assert_int_equal(w->state_count, 1);
    assert_int_equal(w->state.outcome, WIRE_TX_COMMITTED);

    gateway_core_query(w->core, w->now_us, other,
                       0); /* one that is behind, one that has the result */
    world_state(w, 0, other, WIRE_TX_UNKNOWN);
    world_result(w, other, 0);
    assert_int_equal(w->state_count, 2);
    assert_int_equal(w->state.outcome, WIRE_TX_EXECUTED);

    gateway_core_query(w->core, w->now_us, other, 0); /* sealed counts when nobody knows better */
    world_state(w, 0, other, WIRE_TX_UNKNOWN);
    world_state(w, 2, other, WIRE_TX_SEALED);
    assert_int_equal(w->state_count, 2);
    world_state(w, 1, other, WIRE_TX_UNKNOWN);
    assert_int_equal(w->state_count, 3);
    assert_int_equal(w->state.outcome, WIRE_TX_SEALED);
}

/* One that is behind knows the end of a holding, and not that the range went on. */
static void whoevers_id_is_not_sealed_on_the_word_of_one(void **state) {
    struct world *w = *state;
    uint64_t other = wire_tx_id(900, 3);
    world_grant(w, R, 0);
    gateway_core_query(w->core, w->now_us, other, 0);
    world_state(w, 2, other, WIRE_TX_SEALED);
    assert_int_equal(w->state_count, 0);
    world_result(w, other, 0);
    assert_int_equal(w->state_count, 1);
    assert_int_equal(w->state.outcome, WIRE_TX_EXECUTED);

    gateway_core_query(w->core, w->now_us, other, 0);
    world_state(w, 2, other, WIRE_TX_SEALED);
    world_state(w, 1, other, WIRE_TX_COMMITTED);
    world_state(w, 0, other, WIRE_TX_UNKNOWN);
    assert_int_equal(w->state_count, 2);
    assert_int_equal(w->state.outcome, WIRE_TX_COMMITTED);
}

static void a_query_does_not_wait_for_a_node_that_is_down(void **state) {
    struct world *w = *state;
    uint64_t other = wire_tx_id(900, 3);
    world_grant(w, R, 0);
    gateway_core_query(w->core, w->now_us, other, 0);
    world_state(w, 0, other, WIRE_TX_PENDING);
    world_tick(w, 40000);
    assert_int_equal(w->state_count, 0);
    world_tick(w, 20000);
    assert_int_equal(w->state_count, 1);
    assert_int_equal(w->state.outcome, WIRE_TX_PENDING);

    gateway_core_query(w->core, w->now_us, other,
                       0); /* one node that knows nothing is not enough */
    world_state(w, 0, other, WIRE_TX_UNKNOWN);
    world_tick(w, 400000);
    assert_int_equal(w->state_count, 1);
    world_state(w, 1, other, WIRE_TX_UNKNOWN);
    world_tick(w, 1);
    assert_int_equal(w->state_count, 2);
    assert_int_equal(w->state.outcome, WIRE_TX_UNKNOWN);

    gateway_core_query(w->core, w->now_us, other, 0);
    world_tick(w, 2000001);
    world_state(w, 0, other, WIRE_TX_SEALED);
    assert_int_equal(w->state_count, 2); /* too late */
}

static void what_this_gateway_has_sent_is_not_unknown(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 10, 1);
    world_tick(w, 1);
    gateway_core_query(w->core, w->now_us, ID(0), 0);
    for (uint8_t node = 0; node < 3; node++)
        world_state(w, node, ID(0), WIRE_TX_UNKNOWN);
    assert_int_equal(w->state_count, 1);
    assert_int_equal(w->state.outcome, WIRE_TX_PENDING);
}

/* An id of a pinned range that was sealed, or lost, may be its next owner's now: who asks for it
 * here means what this gateway did under it. */
static void a_query_names_whose_transaction_is_meant(void **state) {
    struct world *w = *state;
    uint32_t mark = retired_mark(OWNER);
    world_grant(w, R, 10);
    for (uintptr_t i = 0; i < 4; i++)
        world_submit(w, 10, i);
    world_tick(w, 1);
    gateway_core_query(w->core, w->now_us, ID(12), 0);
    assert_int_equal(world_last(w, WIRE_TX_QUERY)->owner_mark, mark);
    gateway_core_query(w->core, w->now_us, ID(9), 0); /* of an owner before */
    assert_int_equal(world_last(w, WIRE_TX_QUERY)->owner_mark, 0);
    gateway_core_query(w->core, w->now_us, wire_tx_id(8, 12), 0);
    assert_int_equal(world_last(w, WIRE_TX_QUERY)->owner_mark, 0);
    gateway_core_query(w->core, w->now_us, ID(12), 0x123); /* the asker knows better */
    assert_int_equal(world_last(w, WIRE_TX_QUERY)->owner_mark, 0x123);
    assert_true(gateway_core_keep_id(w->core, ID(12)));
    world_sealed(w, R, 11);
    gateway_core_query(w->core, w->now_us, ID(12), 0);
    assert_int_equal(world_last(w, WIRE_TX_QUERY)->owner_mark, mark);
    gateway_core_query(w->core, w->now_us, ID(10), mark); /* below the end: nobody else's */
    assert_int_equal(world_last(w, WIRE_TX_QUERY)->owner_mark, 0);
    struct wire_result r = {.id = ID(10), .epoch_seq = 9};
    assert_int_equal(world_frame(w, 0, WIRE_RESULT, &r, sizeof r), WIRE_DROP_NONE);
    assert_int_equal(w->done[w->done_count - 1].id, ID(10));
    gateway_core_query(w->core, w->now_us, ID(9), mark); /* as it was told: perhaps long ago */
    assert_int_equal(world_last(w, WIRE_TX_QUERY)->owner_mark, mark);
    gateway_core_query(w->core, w->now_us, ID(14), 0); /* never given */
    assert_int_equal(world_last(w, WIRE_TX_QUERY)->owner_mark, 0);
    world_restart(w, WIRE_RANGE_NONE, 64);
    gateway_core_query(w->core, w->now_us, ID(12), 0); /* another process: it cannot know */
    assert_int_equal(world_last(w, WIRE_TX_QUERY)->owner_mark, 0);
}

/* Answers to one question are not taken for answers to another one about the same id. */
static void an_answer_about_anothers_transaction_is_refused(void **state) {
    struct world *w = *state;
    struct wire_result r = {.id = ID(0), .epoch_seq = 9, .owner_mark = 0x456};
    struct wire_tx_state s = {ID(0), 9, WIRE_TX_EXPIRED, 0x456};
    world_grant(w, R, 0);
    world_submit(w, 10, 1);
    world_tick(w, 1);
    assert_int_equal(world_frame(w, 0, WIRE_RESULT, &r, sizeof r), WIRE_DROP_STALE);
    world_frame(w, 0, WIRE_TX_STATE, &s, sizeof s);
    assert_int_equal(w->done_count, 0);
    gateway_core_query(w->core, w->now_us, ID(0), 0x123);
    assert_int_equal(world_frame(w, 0, WIRE_RESULT, &r, sizeof r), WIRE_DROP_STALE);
    world_frame(w, 0, WIRE_TX_STATE, &s, sizeof s);
    assert_int_equal(w->state_count, 0);
    r.owner_mark = s.owner_mark = 0;
    assert_int_equal(world_frame(w, 0, WIRE_RESULT, &r, sizeof r), WIRE_DROP_STALE);
    r.owner_mark = 0x123;
    assert_int_equal(world_frame(w, 0, WIRE_RESULT, &r, sizeof r), WIRE_DROP_NONE);
    assert_int_equal(w->state_count, 1);
    assert_int_equal(w->state.outcome, WIRE_TX_EXECUTED);
    assert_int_equal(w->done_count, 0); /* ours has the same id, and is another */
    for (uint8_t node = 0; node < 3; node++) {
        gateway_core_query(w->core, w->now_us, ID(0), 0x123);
        s = (struct wire_tx_state){ID(0), 0, WIRE_TX_UNKNOWN, 0x123};
        world_frame(w, node, WIRE_TX_STATE, &s, sizeof s);
    }
    assert_int_equal(w->state_count, 2);
    assert_int_equal(w->state.outcome, WIRE_TX_UNKNOWN);
    r.owner_mark = OWNER;
    assert_int_equal(world_frame(w, 0, WIRE_RESULT, &r, sizeof r), WIRE_DROP_NONE);
    assert_int_equal(w->done_count, 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_make, world_free)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(each_transaction_is_sent_then_committed_once),
        TEST(a_kept_id_that_is_sealed_off_ends),
        TEST(a_query_takes_the_best_of_all_nodes),
        TEST(a_query_does_not_wait_for_a_node_that_is_down),
        TEST(whoevers_id_is_not_sealed_on_the_word_of_one),
        TEST(what_this_gateway_has_sent_is_not_unknown),
        TEST(a_query_names_whose_transaction_is_meant),
        TEST(an_answer_about_anothers_transaction_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
