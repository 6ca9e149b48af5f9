/* The gateway's core: ids, window, resends, back-off, ranges, results in pieces, and seals. */
#include "tests/unit/gateway/fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <maroon/error.h>

#define R 5
#define ID(offset) wire_tx_id(R, offset)

static void a_range_is_asked_of_every_node_in_turn(void **state) {
    struct world *w = *state;
    assert_int_equal(world_submit(w, 10, 1), MRN_ERR_UNAVAILABLE);
    for (int i = 0; i < 6; i++)
        world_tick(w, 200001);
    uint32_t seen[3] = {0};
    for (uint32_t i = 0; i < w->sent_count; i++)
        seen[w->sent[i].node]++;
    assert_true(seen[0] == 2 && seen[1] == 2 && seen[2] == 2);
    assert_int_equal(world_grant(w, R, 100), WIRE_DROP_NONE);
    assert_true(w->ranges[0] == R && w->ranges[1] == WIRE_RANGE_NONE);
    assert_int_equal(world_submit(w, 10, 1), 0);
    world_tick(w, 1);
    assert_true(world_last(w, WIRE_TX)->id == ID(100)); /* a sealed range goes on at its end */
}

static void ids_are_consecutive_and_go_to_every_node(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 10, 1);
    world_submit(w, 5000, 2); /* four parts */
    world_submit(w, 10, 3);
    world_tick(w, 1);
    assert_int_equal(world_count(w, WIRE_TX), 6 * 3);
    uint32_t offset = 0, following[] = {0, 3, 2, 1, 0, 0};
    for (uint32_t i = 0; i < w->sent_count; i++)
        if (w->sent[i].kind == WIRE_TX && w->sent[i].node == 0) {
            assert_true(w->sent[i].id == ID(offset));
            assert_int_equal(w->sent[i].body.parts_following, following[offset++]);
        }
    assert_int_equal(offset, 6);
}

static void results_end_once_and_in_any_order(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 10, 1);
    world_submit(w, 3000, 2);
    assert_int_equal(world_result(w, ID(0), 0), WIRE_DROP_STALE); /* never sent */
    world_tick(w, 1);
    assert_int_equal(world_result(w, ID(2), 0), WIRE_DROP_STALE); /* no transaction's first part */
    assert_int_equal(world_result(w, ID(1), 9), WIRE_DROP_NONE);
    assert_int_equal(world_result(w, ID(1), 9), WIRE_DROP_STALE);
    assert_int_equal(world_result(w, ID(0), 0), WIRE_DROP_NONE);
    assert_int_equal(world_result(w, ID(0), 0), WIRE_DROP_STALE);
    assert_int_equal(w->done_count, 2);
    assert_true(w->done[0].user == 2 && w->done[0].code == 9 && w->done[1].user == 1);
    assert_int_equal(world_facts(w).outstanding_parts, 0);
}

static void nothing_is_sent_beyond_the_window_whose_limit_never_goes_back(void **state) {
    struct world *w = *state;
    world_restart(w, WIRE_RANGE_NONE, 256);
    world_grant(w, R, 0);
    for (uintptr_t i = 0; i < 200; i++)
        assert_int_equal(world_submit(w, 1, i), 0);
    world_tick(w, 1);
    assert_int_equal(world_count(w, WIRE_TX), 64 * 3); /* before any node said more */
    world_vector(w, 0, 3, R, 0, 10, 90);
    world_vector(w, 1, 2, R, 0, 10, 150); /* an older commit_seq than the newest heard */
    world_tick(w, 1);
    assert_int_equal(world_facts(w).limit, 100);
    assert_int_equal(world_count(w, WIRE_TX), 100 * 3);
    world_vector(w, 0, 4, R, 0, 12, 1);
    assert_int_equal(world_facts(w).limit, 100);
}

static void a_full_core_says_so_and_takes_again(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    for (uintptr_t i = 0; i < 64; i++)
        assert_int_equal(world_submit(w, 1, i), 0);
    assert_int_equal(world_submit(w, 1, 64), MRN_ERR_FULL);
    assert_int_equal(world_facts(w).window_full, 1);
    world_tick(w, 1);
    world_result(w, ID(5), 0); /* room opens at the oldest only */
    assert_int_equal(world_submit(w, 1, 64), MRN_ERR_FULL);
    world_result(w, ID(0), 0);
    assert_int_equal(world_submit(w, 1, 64), 0);
    assert_int_equal(world_submit(w, 20001, 65), MRN_ERR_TOO_LARGE);
}

static void resends_back_off_go_where_it_lacks_and_repeat_the_same_bytes(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 10, 1);
    world_tick(w, 1);
    uint32_t before = world_count(w, WIRE_TX);
    for (int i = 0; i < 1000; i++)
        world_tick(w, 1000);
    uint32_t first = world_count(w, WIRE_TX) - before;
    for (int i = 0; i < 1000; i++)
        world_tick(w, 1000);
    uint32_t second = world_count(w, WIRE_TX) - before - first;
    assert_true(first >= 6 * 3 && first <= 12 * 3);
    assert_true(second >= 3 && second <= 3 * 3);     /* at most twice a second and node */
    assert_true(world_count(w, WIRE_TX_QUERY) >= 6); /* an executed one may lack its result only */
    world_vector(w, 0, 1, R, 1, 0, 1000);
    world_vector(w, 1, 1, R, 1, 0, 1000);
    w->sent_count = 0;
    for (int i = 0; i < 1000; i++)
        world_tick(w, 1000);
    for (uint32_t i = 0; i < w->sent_count; i++)
        if (w->sent[i].kind == WIRE_TX)
            assert_int_equal(w->sent[i].node, 2);
    assert_true(world_count(w, WIRE_TX) >= 1);
}

/* With answers that come late the timers are long; what all wait for does not wait for them. */
static void a_body_that_no_node_holds_goes_again_soon(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    for (uint32_t i = 0; i < 200; i++) { /* each takes a second */
        world_submit(w, 1, i);
        world_tick(w, 1);
        world_vector(w, 0, i + 1, R, i + 1, i, 64);
        world_tick(w, 1000000);
        world_result(w, ID(i), 0);
        w->sent_count = 0;
    }
    for (uint32_t i = 0; i < 10; i++)
        world_submit(w, 1, 1000 + i);
    world_tick(w, 1);
    world_vector(w, 0, 300, R, 203, 200, 64); /* 203 was lost on its way */
    w->sent_count = 0;
    uint32_t seen_ms = 0;
    for (uint32_t ms = 1; ms <= 150; ms++) {
        world_tick(w, 1000);
        for (uint32_t i = 0; i < w->sent_count; i++)
            assert_true(w->sent[i].kind != WIRE_TX || w->sent[i].id == ID(203));
        if (!seen_ms && world_count(w, WIRE_TX))
            seen_ms = ms;
    }
    assert_in_range(seen_ms, 1, 8);
    assert_in_range(world_count(w, WIRE_TX), 3 * 3, 4 * 3); /* it backs off */
    w->sent_count = 0;
    world_vector(w, 1, 300, R, 207, 200, 64); /* and 207, long ago: at once */
    world_tick(w, 1);
    assert_true(world_last(w, WIRE_TX)->id == ID(207));
    world_tick(w, 300000);
    assert_true(world_count(w, WIRE_TX) > 9); /* the timers of the others are not without end */
}

static void the_low_water_mark_stays_behind(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    for (uint32_t i = 0; i < 2000; i++) {
        assert_int_equal(world_submit(w, 1, i), 0);
        world_vector(w, 0, i + 1, R, i, i, 64);
        world_tick(w, 1);
        const struct sent *tx = world_last(w, WIRE_TX);
        assert_true(tx->id == ID(i));
        assert_int_equal(tx->body.low_water,
                         i > GATEWAY_CORE_RESULTS_LAG ? i - GATEWAY_CORE_RESULTS_LAG : 0);
        world_result(w, ID(i), 0);
        w->sent_count = 0;
    }
}

static uint32_t pieces(struct world *w, uint64_t id, uint32_t total, uint32_t from, uint32_t to) {
    uint32_t taken = 0;
    for (uint32_t at = from; at < to; at += 1400)
        taken +=
            world_piece(w, id, total, at, total - at < 1400 ? total - at : 1400) == WIRE_DROP_NONE;
    return taken;
}

static void check_bytes(const uint8_t *bytes, uint32_t length) {
    for (uint32_t i = 0; i < length; i++)
        assert_int_equal(bytes[i], (uint8_t)(i * 7 >> 3));
}

static void a_long_result_is_put_together_from_pieces(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 10, 1);
    world_submit(w, 10, 2);
    world_tick(w, 1);
    assert_int_equal(world_piece(w, ID(0), 300001, 0, 1400), WIRE_DROP_FRAME_VALUE);
    assert_int_equal(world_piece(w, ID(0), 200000, 1400, 1400), WIRE_DROP_STALE); /* no first one */
    assert_int_equal(pieces(w, ID(0), 200000, 0, 14000), 10);
    assert_int_equal(world_piece(w, ID(0), 200000, 0, 1400), WIRE_DROP_STALE);     /* twice */
    assert_int_equal(world_piece(w, ID(0), 200000, 28000, 1400), WIRE_DROP_STALE); /* a gap */
    assert_int_equal(world_piece(w, ID(0), 200001, 14000, 1400), WIRE_DROP_STALE);
    assert_int_equal(world_piece(w, ID(1), 5000, 0, 1400), WIRE_DROP_STALE); /* one at a time */
    w->sent_count = 0;
    world_tick(w, 3001);
    bool asked = false;
    for (uint32_t i = 0; i < w->sent_count; i++)
        asked |= w->sent[i].kind == WIRE_TX_QUERY && w->sent[i].offset == 14000;
    assert_true(asked); /* for what comes next */
    pieces(w, ID(0), 200000, 14000, 200000);
    assert_int_equal(w->done_count, 1);
    assert_int_equal(w->done[0].length_bytes, 200000);
    check_bytes(w->done[0].bytes, 200000);
    assert_int_equal(pieces(w, ID(1), 5000, 0, 5000), 4);
    assert_int_equal(w->done_count, 2);
}

static void a_query_returns_the_whole_of_a_long_result(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    uint64_t other = wire_tx_id(900, 3);
    gateway_core_query(w->core, w->now_us, other, 0);
    assert_int_equal(pieces(w, other, 100000, 0, 50400), 36);
    gateway_core_query(w->core, w->now_us, other, 0); /* asking again loses nothing */
    assert_int_equal(world_last(w, WIRE_TX_QUERY)->offset, 50400);
    assert_int_equal(w->state_count, 0);
    pieces(w, other, 100000, 50400, 100000);
    assert_int_equal(w->state_count, 1);
    assert_int_equal(w->state.outcome, WIRE_TX_EXECUTED);
    assert_int_equal(w->state.length_bytes, 100000);
    check_bytes(w->state_bytes, 100000);
    assert_int_equal(world_result(w, other, 0), WIRE_DROP_STALE); /* nobody asks any more */
}

static void an_expired_result_ends_its_transaction(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 10, 1);
    world_tick(w, 1);
    world_state(w, 1, ID(0), WIRE_TX_COMMITTED);
    assert_int_equal(w->done_count, 0);
    world_state(w, 1, ID(0), WIRE_TX_EXPIRED);
    assert_int_equal(w->done_count, 1);
    assert_true(w->done[0].code == GATEWAY_CORE_EXPIRED);
}

static void what_a_seal_cuts_off_goes_again_under_new_ids(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 10, 1);   /* 0 */
    world_submit(w, 3000, 2); /* 1, 2, 3 */
    world_submit(w, 3000, 3); /* 4, 5, 6 */
    world_submit(w, 10, 4);   /* 7 */
    world_tick(w, 1);
    world_submit(w, 10, 5);                                         /* 8: not sent yet */
    assert_int_equal(world_sealed(w, R, 5), WIRE_DROP_FRAME_VALUE); /* no transaction ends there */
    assert_int_equal(world_sealed(w, R + 1, 0), WIRE_DROP_STALE);
    assert_int_equal(world_sealed(w, R, 4), WIRE_DROP_NONE);
    assert_int_equal(world_sealed(w, R, 4), WIRE_DROP_STALE);
    assert_int_equal(w->done_count, 0);
    assert_int_equal(world_submit(w, 10, 6), MRN_ERR_UNAVAILABLE); /* behind those that wait */
    w->sent_count = 0;
    world_tick(w, 500001);
    for (uint32_t i = 0; i < w->sent_count; i++)
        if (w->sent[i].kind == WIRE_TX)
            assert_true(w->sent[i].id < ID(4)); /* below the end they are asked for till answered */
    assert_true(world_last(w, WIRE_RANGE_REQUEST)->range == WIRE_RANGE_NONE);
    world_grant(w, 8, 20);
    assert_int_equal(world_submit(w, 10, 6), 0);
    w->sent_count = 0;
    world_tick(w, 1);
    uint32_t offset = 20;
    static const uint8_t users[] = {3, 3, 3, 4, 5, 6};
    for (uint32_t i = 0; i < w->sent_count; i++)
        if (w->sent[i].kind == WIRE_TX && w->sent[i].node == 0 &&
            wire_tx_range(w->sent[i].id) == 8) {
            assert_true(wire_tx_offset(w->sent[i].id) == offset);
            assert_int_equal(w->sent[i].first_byte, users[offset - 20]);
            assert_true(w->sent[i].body.low_water == 20); /* of the new range */
            offset++;
        }
    assert_int_equal(offset, 26);
    assert_int_equal(world_result(w, ID(4), 0), WIRE_DROP_STALE);
    assert_int_equal(world_result(w, ID(8), 0), WIRE_DROP_STALE);
    const uint64_t ids[] = {wire_tx_id(8, 25), wire_tx_id(8, 23), ID(1),
                            wire_tx_id(8, 20), wire_tx_id(8, 24), ID(0)};
    static const uintptr_t order[] = {6, 4, 2, 3, 5, 1};
    for (uint32_t i = 0; i < 6; i++) {
        assert_int_equal(world_result(w, ids[i], 0), WIRE_DROP_NONE);
        assert_true(w->done[i].user == order[i] && w->done[i].id == ids[i]);
    }
    assert_int_equal(world_facts(w).outstanding_parts, 0);
    assert_int_equal(world_facts(w).resubmitted, 3);
}

static void deny(struct world *w, uint8_t node, uint64_t range, uint64_t owner, uint64_t us) {
    struct wire_not_owner answer = {range, owner, 0};
    world_tick(w, us);
    world_frame(w, node, WIRE_NOT_OWNER, &answer, sizeof answer);
}

/* The range went through another holding that we heard nothing of. What was sent ends, in doubt;
 * what was not goes under an id of the next range; nothing that was sent is sent again. */
static void a_lost_range_ends_what_was_sent_and_moves_the_rest(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_vector(w, 0, 1, R, 0, 0, 5); /* room for 0 .. 4; node 0 leads */
    world_submit(w, 10, 1);            /* 0 */
    world_submit(w, 10, 2);            /* 1 */
    world_submit(w, 3000, 3);          /* 2, 3, 4 */
    world_tick(w, 1);
    world_result(w, ID(1), 0);
    deny(w, 0, R, 99, 1000);
    deny(w, 0, R, 99, GATEWAY_CORE_LOST_US - 1);
    assert_true(world_facts(w).range == R && w->done_count == 1);
    for (uintptr_t i = 4; i < 6; i++)
        world_submit(w, 10, i); /* 64 positions are open from the start: sent at the next tick */
    w->sent_count = 0;
    struct wire_not_owner answer = {R, 99, 0};
    w->now_us += 2;
    world_frame(w, 0, WIRE_NOT_OWNER, &answer, sizeof answer);
    assert_int_equal(w->done_count, 3);
    for (uint32_t i = 1; i < 3; i++) {
        assert_true(w->done[i].code == GATEWAY_CORE_DOUBT && w->done[i].length_bytes > 20);
        assert_true(w->done[i].user == (i == 1 ? 1 : 3));
    }
    struct gateway_core_facts facts = world_facts(w);
    assert_true(facts.range == WIRE_RANGE_NONE && w->ranges[0] == WIRE_RANGE_NONE);
    assert_true(facts.lost == 1 && facts.doubt == 2 && facts.answered == 3);
    world_tick(w, 1000001);
    assert_int_equal(world_count(w, WIRE_RANGE_RENEW), 0);
    assert_int_equal(world_count(w, WIRE_TX), 0);
    assert_true(world_last(w, WIRE_RANGE_REQUEST)->range == WIRE_RANGE_NONE);
    assert_int_equal(world_frame(w, 0, WIRE_NOT_OWNER, &answer, sizeof answer), WIRE_DROP_STALE);
    world_grant(w, 8, 0);
    world_tick(w, 1);
    assert_true(world_last(w, WIRE_TX)->id == wire_tx_id(8, 1));
    assert_int_equal(world_result(w, ID(0), 0), WIRE_DROP_STALE); /* maybe another's */
    assert_int_equal(world_result(w, wire_tx_id(8, 0), 0), WIRE_DROP_NONE);
    assert_int_equal(world_result(w, wire_tx_id(8, 1), 0), WIRE_DROP_NONE);
    assert_int_equal(world_facts(w).outstanding_parts, 0);
}

/* Of a range that is opened for nobody the leader sends no VECTOR: its denial says that it leads.
 * What it said before it led counts for no more than any node's. */
static void a_range_is_lost_on_the_word_of_a_leader_that_sent_no_vector(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 10, 1);
    world_tick(w, 1);
    deny(w, 2, R, 99, 1000);
    deny(w, 2, R, 99, GATEWAY_CORE_LOST_US + 1);
    assert_true(world_facts(w).range == R && w->done_count == 0); /* one of three */
    struct wire_not_owner answer = {R, 99, 1};
    world_frame(w, 2, WIRE_NOT_OWNER, &answer, sizeof answer);
    w->now_us += GATEWAY_CORE_LOST_US - 1;
    world_frame(w, 2, WIRE_NOT_OWNER, &answer, sizeof answer);
    assert_true(world_facts(w).range == R && w->done_count == 0);
    w->now_us += 2;
    world_frame(w, 2, WIRE_NOT_OWNER, &answer, sizeof answer);
    assert_int_equal(world_facts(w).leader, 2);
    assert_true(w->done_count == 1 && w->done[0].code == GATEWAY_CORE_DOUBT);
    assert_int_equal(world_facts(w).lost, 1);
}

static void a_range_is_not_lost_on_the_word_of_few_or_of_those_who_know_less(void **state) {
    struct world *w = *state;
    world_grant(w, R, WIRE_RANGE_OFFSETS / 10 * 9);
    world_vector(w, 0, 1, R, WIRE_RANGE_OFFSETS / 10 * 9, WIRE_RANGE_OFFSETS / 10 * 9, 64);
    for (uint32_t i = 0; i < 10; i++) /* one that lags; the leader speaks of it as ours */
        deny(w, 1, R, 99, 1000000);
    assert_true(world_facts(w).range == R);
    deny(w, 2, R, 99, 1000); /* most, but not for long */
    deny(w, 2, R, 99, GATEWAY_CORE_LOST_US - 2000);
    world_vector(w, 1, 1, R, WIRE_RANGE_OFFSETS / 10 * 9, WIRE_RANGE_OFFSETS / 10 * 9, 64);
    deny(w, 2, R, 99, GATEWAY_CORE_LOST_US);
    assert_true(world_facts(w).range == R);
    world_grant(w, 6, 0); /* the next one: it may be lost before it is begun */
    assert_true(world_facts(w).next_range == 6);
    deny(w, 0, 6, 0, 1000);
    deny(w, 0, 6, 0, GATEWAY_CORE_LOST_US);
    assert_true(world_facts(w).next_range == WIRE_RANGE_NONE && world_facts(w).lost == 1);
    assert_true(w->ranges[0] == R && w->ranges[1] == WIRE_RANGE_NONE);
    /* HELLO does not name the range before the last two: who says "no owner" knows no better. */
    world_submit(w, 10, 1);
    world_tick(w, 1);
    world_sealed(w, R, WIRE_RANGE_OFFSETS / 10 * 9 + 1);
    world_grant(w, 7, 0);
    for (uint32_t i = 0; i < 10; i++)
        deny(w, 0, R, 0, 1000000);
    assert_int_equal(w->done_count, 0);
    assert_true(world_facts(w).range == 7);
}

static void seals_at_either_edge(void **state) {
    struct world *w = *state;
    world_grant(w, R, 50);
    for (uintptr_t i = 0; i < 64; i++) /* the ring is full: moving needs no room */
        world_submit(w, 1, i);
    world_tick(w, 1);
    world_sealed(w, R, 10); /* below our start: nothing of ours was ever in the log */
    world_grant(w, 6, 0);
    world_tick(w, 1);
    for (uint32_t i = 0; i < 30; i++)
        assert_int_equal(world_result(w, wire_tx_id(6, i), 0), WIRE_DROP_NONE);
    world_sealed(w, 6, 1000); /* above all we sent: all may have been executed */
    assert_int_equal(world_facts(w).resubmitted, 64);
    world_grant(w, 7, 0);
    for (uint32_t i = 30; i < 64; i++)
        assert_int_equal(world_result(w, wire_tx_id(6, i), 0), WIRE_DROP_NONE);
    assert_int_equal(w->done_count, 64);
    for (uintptr_t i = 0; i < 64; i++)
        assert_true(w->done[i].user == i);
}

static void an_older_range_sealed_leaves_the_younger_alone(void **state) {
    struct world *w = *state;
    world_grant(w, R, WIRE_RANGE_OFFSETS - 4); /* nearly used: the next is asked for at once */
    assert_int_equal(world_grant(w, 6, 0), WIRE_DROP_NONE);
    assert_true(w->ranges[1] == 6);
    for (uintptr_t i = 0; i < 10; i++)
        assert_int_equal(world_submit(w, 1, i), 0);
    world_tick(w, 1);
    assert_true(world_last(w, WIRE_TX)->id == wire_tx_id(6, 5));
    assert_int_equal(world_count(w, WIRE_RANGE_CLOSE), 0); /* not while something is unanswered */
    world_sealed(w, R, WIRE_RANGE_OFFSETS - 3);
    world_tick(w, 1);
    for (uint32_t i = 0; i < 9; i++) /* three of the old one follow the six of the young one */
        assert_int_equal(world_result(w, wire_tx_id(6, i), 0), WIRE_DROP_NONE);
    assert_int_equal(world_result(w, ID(WIRE_RANGE_OFFSETS - 4), 0), WIRE_DROP_NONE);
    static const uintptr_t order[] = {4, 5, 6, 7, 8, 9, 1, 2, 3, 0};
    for (uint32_t i = 0; i < 10; i++)
        assert_true(w->done[i].user == order[i]);
}

static void a_used_up_range_is_given_back_when_all_is_answered(void **state) {
    struct world *w = *state;
    world_grant(w, R, WIRE_RANGE_OFFSETS - 2);
    world_grant(w, 6, 0);
    for (uintptr_t i = 0; i < 3; i++)
        world_submit(w, 1, i);
    world_tick(w, 1);
    assert_true(w->ranges[0] == 6);
    world_result(w, wire_tx_id(6, 0), 0);
    world_result(w, ID(WIRE_RANGE_OFFSETS - 2), 0);
    assert_int_equal(world_count(w, WIRE_RANGE_CLOSE), 0);
    world_result(w, ID(WIRE_RANGE_OFFSETS - 1), 0);
    assert_int_equal(world_count(w, WIRE_RANGE_CLOSE), 3);
    assert_true(world_last(w, WIRE_RANGE_CLOSE)->range == R);
    assert_int_equal(world_last(w, WIRE_RANGE_CLOSE)->end, WIRE_RANGE_OFFSETS);
}

/* At 90 % use, not before; repeated until it is granted, while the range held goes on. */
static void the_next_range_is_asked_for_at_nine_tenths(void **state) {
    struct world *w = *state;
    uint32_t mark = WIRE_RANGE_OFFSETS / 10 * 9;
    world_grant(w, R, mark - 2);
    uint32_t before = world_count(w, WIRE_RANGE_REQUEST);
    assert_int_equal(world_submit(w, 1, 1), 0);
    world_tick(w, 1000000);
    assert_int_equal(world_count(w, WIRE_RANGE_REQUEST), before);
    assert_int_equal(world_submit(w, 1, 2), 0); /* the last one below */
    world_tick(w, 1000000);
    assert_int_equal(world_count(w, WIRE_RANGE_REQUEST), before + 1);
    world_tick(w, 1000000);
    assert_int_equal(world_count(w, WIRE_RANGE_REQUEST), before + 2);
    assert_true(world_last(w, WIRE_RANGE_REQUEST)->range == WIRE_RANGE_NONE);
    assert_int_equal(world_submit(w, 1, 3), 0);
    world_tick(w, 1);
    assert_true(world_last(w, WIRE_TX)->id == ID(mark));
    world_grant(w, 6, 0);
    assert_true(world_facts(w).range == R && world_facts(w).next_range == 6);
    assert_true(w->ranges[0] == R && w->ranges[1] == 6); /* HELLO shows both */
    uint32_t asked = world_count(w, WIRE_RANGE_REQUEST);
    world_tick(w, 1000000);
    assert_int_equal(world_count(w, WIRE_RANGE_REQUEST), asked);
}

static void a_transaction_never_crosses_the_end_of_a_range(void **state) {
    struct world *w = *state;
    world_grant(w, R, WIRE_RANGE_OFFSETS - 2);
    assert_int_equal(world_submit(w, 3000, 1), MRN_ERR_FULL); /* three parts; the next is awaited */
    world_grant(w, 6, 0);
    assert_int_equal(world_submit(w, 3000, 1), 0);
    world_tick(w, 1);
    assert_true(world_last(w, WIRE_TX)->id == wire_tx_id(6, 2));
}

static void one_owner_never_holds_a_range_twice(void **state) {
    struct world *w = *state;
    world_restart(w, 3, 64);
    world_tick(w, 1);
    assert_true(world_last(w, WIRE_RANGE_REQUEST)->range == 3); /* pinned */
    struct wire_range_grant g = {.nonce = world_last(w, WIRE_RANGE_REQUEST)->nonce,
                                 .owner = OWNER,
                                 .range = 3,
                                 .outcome = WIRE_RANGE_TAKEN,
                                 .held_by = 99};
    world_frame(w, 0, WIRE_RANGE_GRANT, &g, sizeof g);
    assert_true(world_facts(w).range == WIRE_RANGE_NONE && world_facts(w).range_held_by == 99);
    g.outcome = WIRE_RANGE_GRANTED;
    g.owner = OWNER + 1;
    assert_int_equal(world_frame(w, 0, WIRE_RANGE_GRANT, &g, sizeof g), WIRE_DROP_STALE);
    /* The grant names the token under which it is held; all that follows is said under that. */
    g.owner = OWNER;
    g.held_by = OWNER + 7;
    assert_int_equal(world_frame(w, 0, WIRE_RANGE_GRANT, &g, sizeof g), WIRE_DROP_NONE);
    assert_true(w->owner == OWNER + 7 && world_facts(w).owner == OWNER + 7);
    world_tick(w, 1000001);
    assert_true(world_last(w, WIRE_RANGE_RENEW)->owner == OWNER + 7);
    assert_int_equal(world_frame(w, 0, WIRE_RANGE_GRANT, &g, sizeof g), WIRE_DROP_STALE); /* late */
    world_sealed(w, 3, 0);
    assert_int_equal(world_grant(w, 3, 0), WIRE_DROP_FRAME_VALUE);
    assert_true(world_last(w, WIRE_RANGE_REQUEST)->range == WIRE_RANGE_NONE);
    assert_true(world_last(w, WIRE_RANGE_REQUEST)->owner == OWNER + 7);
    g.nonce = world_last(w, WIRE_RANGE_REQUEST)->nonce + 1; /* of a further range: no new token */
    g.owner = OWNER + 7;
    g.held_by = OWNER + 8;
    g.range = 4;
    assert_int_equal(world_frame(w, 0, WIRE_RANGE_GRANT, &g, sizeof g), WIRE_DROP_FRAME_VALUE);
    assert_int_equal(world_grant(w, 4, 0), WIRE_DROP_NONE);
    assert_true(world_facts(w).range == 4);
}

static void ranges_held_are_renewed_sealed_ones_not(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_tick(w, 1000001);
    assert_int_equal(world_count(w, WIRE_RANGE_RENEW), 3);
    world_sealed(w, R, 0);
    w->sent_count = 0;
    world_tick(w, 1000001);
    assert_int_equal(world_count(w, WIRE_RANGE_RENEW), 0);
}

static void a_state_of_sealed_makes_the_body_go_to_all_again(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 1, 1);
    world_tick(w, 1);
    for (uint8_t i = 0; i < 3; i++)
        world_vector(w, i, 1, R, 1, 0, 64);
    w->sent_count = 0;
    world_tick(w, 500001);
    assert_int_equal(world_count(w, WIRE_TX), 0); /* all have it */
    world_state(w, 1, ID(0), WIRE_TX_SEALED);
    assert_int_equal(w->done_count, 0); /* no end named: not certain yet */
    world_tick(w, 500001);
    assert_int_equal(world_count(w, WIRE_TX), 3);
}

/* One that had it and says it does not know it: it lost its memory, or the id is another's, which
 * it says of bodies only. */
static void a_state_of_unknown_makes_the_body_go_to_that_node_again(void **state) {
    struct world *w = *state;
    world_grant(w, R, 0);
    world_submit(w, 1, 1);
    world_tick(w, 1);
    for (uint8_t i = 0; i < 3; i++)
        world_vector(w, i, 1, R, 1, 0, 64);
    world_tick(w, 500001);
    w->sent_count = 0;
    world_state(w, 1, ID(0), WIRE_TX_PENDING);
    world_tick(w, 500001);
    assert_int_equal(world_count(w, WIRE_TX), 0);
    world_state(w, 1, ID(0), WIRE_TX_UNKNOWN);
    world_tick(w, 500001);
    assert_int_equal(world_count(w, WIRE_TX), 1);
    assert_int_equal(world_last(w, WIRE_TX)->node, 1);
}

/* Frames of every kind with random values, as a node that lies would send them: each transaction is
 * done at most once, the invariants hold. The codec has checked lengths and values before. */
static void hostile_frames(void **state) {
    struct world *w = *state;
    uint64_t x = 88172645463325252ull;
    world_grant(w, R, 0);
    uint8_t done[4096] = {0};
    uintptr_t user = 0;
    for (uint32_t round = 0; round < 60000; round++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        uint32_t a = (uint32_t)(x >> 8 & 127), b = (uint32_t)(x >> 16 & 127);
        uint64_t range = world_facts(w).range;
        range = range == WIRE_RANGE_NONE || x >> 60 == 0 ? R + (x >> 40 & 3) : range;
        uint32_t base = world_facts(w).offset > 64 ? world_facts(w).offset - 64 : 0;
        switch (x & 15) {
        case 0:
        case 1:
        case 2:
        case 3:
            if (user < 4096 && !world_submit(w, b < 8 ? 4000 : b, user))
                user++;
            break;
        case 4:
        case 5: world_result(w, wire_tx_id(range, base + a), 0); break;
        case 6: world_piece(w, wire_tx_id(range, base + a), 3000 + b, b, 1400); break;
        case 7: world_vector(w, (uint8_t)(b % 3), x >> 50, range, base + a, base + b, a); break;
        case 8:
            if ((x >> 24 & 63) == 0)
                world_sealed(w, range, base + a);
            break;
        case 9:
            world_state(w, 1, wire_tx_id(range, base + a), (enum wire_tx_outcome)(b % 7));
            break;
        case 10:
            if (world_count(w, WIRE_RANGE_REQUEST))
                world_grant(w, 10 + (x >> 30 & 255), (uint32_t)(x >> 34) % WIRE_RANGE_OFFSETS);
            break;
        case 11: gateway_core_query(w->core, w->now_us, wire_tx_id(range, a), 0); break;
        default: /* time */ world_tick(w, b * 100); break;
        }
        if (w->sent_count > SENT_MAX / 2) {
            struct sent last = {0};
            for (uint32_t i = 0; i < w->sent_count; i++)
                if (w->sent[i].kind == WIRE_RANGE_REQUEST)
                    last = w->sent[i];
            w->sent_count = last.kind ? 1 : 0;
            w->sent[0] = last;
        }
    }
    for (uint32_t i = 0; i < w->done_count; i++)
        assert_int_equal(done[w->done[i].user]++, 0);
    assert_true(w->done_count > 0 && world_facts(w).answered == w->done_count);
    assert_int_equal(world_facts(w).submitted, user);
}

static void configs_that_are_not_allowed(void **state) {
    (void)state;
    struct gateway_core_config good = {.owner = 1,
                                       .pinned_range = WIRE_RANGE_NONE,
                                       .node_count = 3,
                                       .parts_max = 64,
                                       .transaction_max_bytes = 1,
                                       .result_max_bytes = 1},
                               bad = good;
    assert_true(gateway_core_size(&good) > 0);
    bad.owner = 0;
    assert_int_equal(gateway_core_size(&bad), 0);
    bad = good;
    bad.parts_max = 65;
    assert_int_equal(gateway_core_size(&bad), 0);
    bad = good;
    bad.node_count = WIRE_NODES_MAX + 1;
    assert_int_equal(gateway_core_size(&bad), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, world_make, world_free)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(a_range_is_asked_of_every_node_in_turn),
        TEST(ids_are_consecutive_and_go_to_every_node),
        TEST(results_end_once_and_in_any_order),
        TEST(nothing_is_sent_beyond_the_window_whose_limit_never_goes_back),
        TEST(a_full_core_says_so_and_takes_again),
        TEST(resends_back_off_go_where_it_lacks_and_repeat_the_same_bytes),
        TEST(a_body_that_no_node_holds_goes_again_soon),
        TEST(the_low_water_mark_stays_behind),
        TEST(a_long_result_is_put_together_from_pieces),
        TEST(a_query_returns_the_whole_of_a_long_result),
        TEST(an_expired_result_ends_its_transaction),
        TEST(what_a_seal_cuts_off_goes_again_under_new_ids),
        TEST(a_lost_range_ends_what_was_sent_and_moves_the_rest),
        TEST(a_range_is_lost_on_the_word_of_a_leader_that_sent_no_vector),
        TEST(a_range_is_not_lost_on_the_word_of_few_or_of_those_who_know_less),
        TEST(seals_at_either_edge),
        TEST(an_older_range_sealed_leaves_the_younger_alone),
        TEST(a_used_up_range_is_given_back_when_all_is_answered),
        TEST(the_next_range_is_asked_for_at_nine_tenths),
        TEST(a_transaction_never_crosses_the_end_of_a_range),
        TEST(one_owner_never_holds_a_range_twice),
        TEST(ranges_held_are_renewed_sealed_ones_not),
        TEST(a_state_of_sealed_makes_the_body_go_to_all_again),
        TEST(a_state_of_unknown_makes_the_body_go_to_that_node_again),
        TEST(hostile_frames),
        TEST(configs_that_are_not_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
