/* Sealed ranges: 16 bytes each, their places used again, and every frame for them still answered.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "dataplane/replica/replica.h"
#include "proto/retired.h"

#define MS UINT64_C(1000000)
#define SEAL_AFTER_NS (10 * MS)
#define GATEWAY 7

/* One node, its runtime executing at once, its arbiter owning everything. */
struct bench {
    struct replica *replica;
    struct replica_actions actions; /* of the last step */
    struct replica_actions seen;    /* what a test may ask for, since `forget` */
    uint64_t now_ns;
    uint32_t next_slot;
    uint64_t arbiter_owner; /* 0: it says yes to everybody, from where the range ended */
    uint32_t arbiter_start;
    bool arbiter_away;      /* it is asked, and `checked` is when it answers */
    uint32_t progress_told; /* how often a gateway was told what is received and committed */
};

static struct replica_config config_of(uint32_t ranges_max, uint32_t retired_max) {
    return (struct replica_config){.node_count = 1,
                                   .quorum = 1,
                                   .incarnation = 1,
                                   .configuration_id = 5,
                                   .epochs_in_flight = 4,
                                   .epoch_cap = 16,
                                   .window = 64,
                                   .ranges_max = ranges_max,
                                   .retired_max = retired_max,
                                   .log_epochs = 64,
                                   .body_slots = 256,
                                   .deliver_max = 8,
                                   .heartbeat_interval_ns = MS,
                                   .slice_floor_ns = 5 * MS,
                                   .slice_max_ns = 50 * MS,
                                   .vector_interval_ns = MS / 10,
                                   .vector_idle_ns = 5 * MS,
                                   .seal_after_ns = SEAL_AFTER_NS};
}

static void step(struct bench *b, struct replica_event *event);

static void react(struct bench *b, const struct replica_action *a) {
    struct replica_event event = {0};
    if (a->kind == REPLICA_ACTION_CAMPAIGN) {
        event.kind = REPLICA_EVENT_CAMPAIGN_RESULT;
        event.campaign.revision = event.campaign.term = a->revision + 10;
        event.campaign.token = 77;
        event.campaign.won = true;
    } else if (a->kind == REPLICA_ACTION_RANGE_CHECK && !b->arbiter_away) {
        event.kind = REPLICA_EVENT_RANGE_CHECKED;
        event.range_checked.range = a->range;
        event.range_checked.owner = a->owner;
        event.range_checked.owned = true;
        (void)replica_range_end(b->replica, a->range, &event.range_checked.start);
        if (b->arbiter_owner) {
            event.range_checked.owned = b->arbiter_owner == a->owner;
            event.range_checked.start = b->arbiter_start;
        }
    } else if (a->kind == REPLICA_ACTION_DELIVER) {
        event.kind = REPLICA_EVENT_EXECUTED;
        event.executed.seq = a->seq;
        event.executed.result_hash.bytes[0] = (uint8_t)a->seq;
    } else {
        b->progress_told += a->kind == REPLICA_ACTION_RANGE_PROGRESS;
        if (a->kind != REPLICA_ACTION_SEND && a->kind != REPLICA_ACTION_FREE_SLOTS &&
            a->kind != REPLICA_ACTION_RANGE_PROGRESS)
            b->seen.items[b->seen.count++] = *a;
        return;
    }
    step(b, &event);
}

static void step(struct bench *b, struct replica_event *event) {
    struct replica_actions *actions = malloc(sizeof *actions);
    assert_non_null(actions);
    actions->count = 0;
    event->now_ns = b->now_ns;
    event->wall_us = 1000000 + b->now_ns / 1000;
    replica_step(b->replica, event, actions);
    for (uint32_t i = 0; i < actions->count; i++)
        react(b, &actions->items[i]);
    free(actions);
    assert_null(replica_check(b->replica));
}

static void pass(struct bench *b, uint64_t ns) {
    for (uint64_t end = b->now_ns + ns; b->now_ns < end;) {
        b->now_ns += MS;
        step(b, &(struct replica_event){.kind = REPLICA_EVENT_TICK});
    }
}

static void bench_open(struct bench *b, const struct replica_config *config) {
    size_t bytes = (replica_size(config) + 63) & ~(size_t)63;
    assert_true(bytes);
    void *memory = aligned_alloc(64, bytes);
    assert_non_null(memory);
    memset(memory, 0xa5, bytes); /* nothing may depend on what was there */
    b->now_ns = MS;
    b->next_slot = 0;
    b->seen.count = 0;
    b->arbiter_owner = 0;
    b->arbiter_away = false;
    b->replica = replica_init(memory, config, b->now_ns);
}

static void bench_lead(struct bench *b) {
    struct replica_event event = {.kind = REPLICA_EVENT_LEADER_KEY};
    event.leader_key.node = REPLICA_NODE_NONE;
    step(b, &event);
    pass(b, 200 * MS);
    assert_true(replica_leads(b->replica));
    b->seen.count = 0;
}

/* Opened, with 16 places for ranges, and leading. */
static struct bench *bench_of(uint32_t retired_max) {
    static struct bench b;
    struct replica_config config = config_of(16, retired_max);
    bench_open(&b, &config);
    bench_lead(&b);
    return &b;
}

static void hello(struct bench *b, uint64_t range, uint64_t owner) {
    struct replica_event event = {.kind = REPLICA_EVENT_RANGE_HELLO};
    event.range_hello.range = range;
    event.range_hello.owner = owner;
    event.range_hello.gateway = GATEWAY;
    step(b, &event);
}

static void body(struct bench *b, uint64_t range, uint32_t offset, uint64_t owner) {
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    event.body.id = wire_tx_id(range, offset);
    event.body.digest = (struct wire_digest){range * 1000 + offset, owner};
    event.body.slot = b->next_slot++ % 256;
    event.body.gateway = GATEWAY;
    event.body.owner = owner;
    event.body.peer = REPLICA_NODE_NONE;
    step(b, &event);
}

static void expire(struct bench *b, uint64_t range, uint64_t owner) {
    struct replica_event event = {.kind = REPLICA_EVENT_RANGE_EXPIRED};
    event.range_expired.range = range;
    event.range_expired.owner = owner;
    step(b, &event);
}

static void query(struct bench *b, uint64_t range, uint32_t offset, uint64_t owner) {
    struct replica_event event = {.kind = REPLICA_EVENT_QUERY};
    event.query.id = wire_tx_id(range, offset);
    event.query.owner = owner;
    event.query.gateway = GATEWAY;
    step(b, &event);
}

/* A gateway's whole life: a range, some bodies, silence, SEAL. */
static void live_and_die(struct bench *b, uint64_t range, uint64_t owner, uint32_t from,
                         uint32_t bodies) {
    hello(b, range, owner);
    pass(b, 2 * MS);
    for (uint32_t i = 0; i < bodies; i++)
        body(b, range, from + i, owner);
    pass(b, SEAL_AFTER_NS + 2 * MS);
    expire(b, range, owner);
    pass(b, 3 * MS);
}

static const struct replica_action *only(struct bench *b, enum replica_action_kind kind) {
    const struct replica_action *found = NULL;
    for (uint32_t i = 0; i < b->seen.count; i++)
        if (b->seen.items[i].kind == kind) {
            assert_null(found);
            found = &b->seen.items[i];
        }
    return found;
}

static struct replica_facts facts(const struct bench *b) {
    struct replica_facts f;
    replica_facts(b->replica, &f);
    return f;
}

static uint64_t owner_of(uint64_t range) {
    return 0x9000000000000000 + range * 3;
}

/* Frames of (range, owner), whose holding ended at `end`, are answered as §8 wants it. */
static void assert_answers(struct bench *b, uint64_t range, uint64_t owner, uint32_t end) {
    b->seen.count = 0;
    body(b, range, end, owner);
    const struct replica_action *sealed = only(b, REPLICA_ACTION_SEALED);
    assert_non_null(sealed);
    assert_true(sealed->range == range && sealed->end == end && sealed->gateway == GATEWAY);
    assert_true(sealed->owner == owner);
    b->seen.count = 0;
    hello(b, range, owner);
    sealed = only(b, REPLICA_ACTION_SEALED);
    assert_true(sealed && sealed->range == range && sealed->end == end && sealed->owner == owner);
    b->seen.count = 0;
    query(b, range, end + 5, 0);
    const struct replica_action *state = only(b, REPLICA_ACTION_TX_STATE);
    assert_true(state && state->outcome == WIRE_TX_SEALED);
    if (end == 0)
        return;
    b->seen.count = 0;
    query(b, range, end - 1, 0);
    const struct replica_action *wanted = only(b, REPLICA_ACTION_RESULT_WANTED);
    assert_true(wanted && wanted->id == wire_tx_id(range, end - 1));
    b->seen.count = 0;
    body(b, range, 0, owner); /* a resend of what was executed */
    wanted = only(b, REPLICA_ACTION_RESULT_WANTED);
    assert_true(wanted && wanted->id == wire_tx_id(range, 0));
}

/* ---- tests ---- */

static void test_record_holds_the_extremes(void **state) {
    (void)state;
    const uint64_t ranges[] = {0, 1, UINT32_MAX, UINT64_C(1) << 32, WIRE_RANGE_COUNT - 1};
    const uint32_t ends[] = {0, 1, WIRE_RANGE_OFFSETS - 1, WIRE_RANGE_OFFSETS, RETIRED_END_NONE};
    const uint32_t marks[] = {0, 1, RETIRED_MARK_MAX};
    for (int r = 0; r < 5; r++)
        for (int e = 0; e < 5; e++)
            for (int m = 0; m < 3; m++) {
                struct retired record = retired_pack(ranges[r], ends[e], marks[m]);
                assert_true(retired_range(&record) == ranges[r]);
                assert_int_equal(retired_end(&record), ends[e]);
                assert_int_equal(retired_owner_mark(&record), marks[m]);
            }
    assert_int_equal(retired_mark(0), 0);
    assert_int_not_equal(retired_mark(UINT64_C(5) << 31), 0);
}

static void test_record_costs_16_bytes(void **state) {
    (void)state;
    struct replica_config few = config_of(16, 1 << 16), many = config_of(16, 1 << 17);
    assert_true(replica_size(&many) - replica_size(&few) <= 16 << 16);
}

static void test_many_more_gateways_than_places(void **state) {
    (void)state;
    struct bench *b = bench_of(512);
    for (uint64_t range = 1; range <= 300; range++) {
        live_and_die(b, range, owner_of(range), 0, (uint32_t)(range % 4));
        assert_true(facts(b).range_count <= 16);
    }
    pass(b, 50 * MS);
    assert_int_equal(facts(b).ranges_retired, 300);
    assert_int_equal(facts(b).range_count, 0);
    assert_int_equal(facts(b).slots_used, 0);
    assert_true(facts(b).range_floor == 301);
    for (uint64_t range = 1; range <= 300; range++)
        assert_answers(b, range, owner_of(range), (uint32_t)(range % 4));
    assert_int_equal(facts(b).range_count, 0); /* answers take no place */
    free(b->replica);
}

/* A pinned range goes on at its end, under its next owner, and the one before is still told. */
static void test_pinned_range_goes_on(void **state) {
    (void)state;
    struct bench *b = bench_of(64);
    uint32_t end = 0;
    for (uint64_t holding = 1; holding <= 40; holding++) {
        live_and_die(b, 9, owner_of(holding), end, 3);
        end += 3;
        pass(b, 30 * MS);
        uint32_t retired_at = 0;
        assert_true(replica_range_retired(b->replica, 9, &retired_at));
        assert_int_equal(retired_at, end);
        assert_answers(b, 9, owner_of(holding), end);
    }
    assert_int_equal(facts(b).ranges_retired, 1);
    free(b->replica);
}

/* What is said of the id, or EXECUTED: its result is wanted. */
static uint32_t outcome_of(struct bench *b, uint64_t range, uint32_t offset, uint64_t owner) {
    b->seen.count = 0;
    query(b, range, offset, owner);
    assert_int_equal(b->seen.count, 1);
    const struct replica_action *a = &b->seen.items[0];
    assert_true(a->owner == owner && a->gateway == GATEWAY && a->id == wire_tx_id(range, offset));
    if (a->kind == REPLICA_ACTION_RESULT_WANTED)
        return WIRE_TX_EXECUTED;
    assert_int_equal(a->kind, REPLICA_ACTION_TX_STATE);
    return a->outcome;
}

/* The same id meant one transaction to an owner who was sealed off, and is another's now: who asks
 * for his is told nothing of that, neither while the next one holds the range nor later. */
static void test_nobody_is_told_of_anothers_transaction(void **state) {
    (void)state;
    struct bench *b = bench_of(64);
    live_and_die(b, 9, 501, 0, 3);
    assert_int_equal(outcome_of(b, 9, 4, 501), WIRE_TX_SEALED);
    assert_int_equal(outcome_of(b, 9, 4, 0), WIRE_TX_SEALED);
    assert_int_equal(outcome_of(b, 9, 4, 502), WIRE_TX_UNKNOWN);
    hello(b, 9, 502);
    for (uint32_t i = 3; i < 6; i++)
        body(b, 9, i, 502); /* on his word: not opened yet */
    assert_int_equal(outcome_of(b, 9, 4, 502), WIRE_TX_PENDING);
    assert_int_equal(outcome_of(b, 9, 4, 0), WIRE_TX_PENDING);
    assert_int_equal(outcome_of(b, 9, 4, 501), WIRE_TX_SEALED);
    assert_int_equal(outcome_of(b, 9, 4, 500), WIRE_TX_UNKNOWN);
    pass(b, 5 * MS);
    body(b, 9, 7, 502);
    assert_int_equal(outcome_of(b, 9, 7, 502), WIRE_TX_PENDING);
    assert_int_equal(outcome_of(b, 9, 7, 0), WIRE_TX_PENDING);
    assert_int_equal(outcome_of(b, 9, 7, 501), WIRE_TX_SEALED);
    assert_int_equal(outcome_of(b, 9, 7, 500), WIRE_TX_UNKNOWN);
    assert_int_equal(outcome_of(b, 9, 4, 502), WIRE_TX_EXECUTED);
    assert_int_equal(outcome_of(b, 9, 4, retired_mark(502)), WIRE_TX_EXECUTED);
    assert_int_equal(outcome_of(b, 9, 4, 0), WIRE_TX_EXECUTED);   /* whoever's */
    assert_int_equal(outcome_of(b, 9, 2, 501), WIRE_TX_EXECUTED); /* his own */
    assert_int_equal(outcome_of(b, 9, 4, 501), WIRE_TX_SEALED);
    assert_int_equal(outcome_of(b, 9, 1, 500), WIRE_TX_UNKNOWN); /* of a time before */
    pass(b, SEAL_AFTER_NS + 2 * MS);
    expire(b, 9, 502);
    pass(b, 30 * MS);
    uint32_t end;
    assert_true(replica_range_retired(b->replica, 9, &end) && end == 6);
    assert_int_equal(outcome_of(b, 9, 4, 501), WIRE_TX_UNKNOWN);
    assert_int_equal(outcome_of(b, 9, 7, 501), WIRE_TX_UNKNOWN);
    assert_int_equal(outcome_of(b, 9, 7, 502), WIRE_TX_SEALED);
    assert_int_equal(outcome_of(b, 9, 7, 0), WIRE_TX_SEALED);
    b->seen.count = 0;
    body(b, 9, 4, 501); /* a resend of his */
    for (uint32_t i = 0; i < b->seen.count; i++)
        assert_int_not_equal(b->seen.items[i].kind, REPLICA_ACTION_RESULT_WANTED);
    assert_int_equal(outcome_of(b, 9, 4, 502), WIRE_TX_EXECUTED);
    free(b->replica);
}

static bool seen(const struct bench *b, enum replica_action_kind kind, uint32_t end) {
    for (uint32_t i = 0; i < b->seen.count; i++)
        if (b->seen.items[i].kind == kind && b->seen.items[i].end == end)
            return true;
    return false;
}

/* An arbiter that was restored granted it from a position that others used: it is not opened there,
 * and the arbiter is told where the range ended. */
static void test_holding_that_begins_elsewhere_is_not_opened(void **state) {
    (void)state;
    struct bench *b = bench_of(64);
    live_and_die(b, 9, 501, 0, 3);
    b->arbiter_owner = 502;
    b->arbiter_start = 1;
    b->seen.count = 0;
    hello(b, 9, 502);
    assert_true(seen(b, REPLICA_ACTION_NOT_OWNER, 0));
    assert_true(seen(b, REPLICA_ACTION_RANGE_SEALED, 3));
    b->seen.count = 0;
    body(b, 9, 1, 502);
    for (uint32_t i = 0; i < b->seen.count; i++)
        assert_int_not_equal(b->seen.items[i].kind, REPLICA_ACTION_RESULT_WANTED);
    pass(b, 5 * MS);
    uint32_t end;
    assert_int_equal(replica_range_end(b->replica, 9, &end), REPLICA_RANGE_ENDED);
    assert_int_equal(end, 3);
    free(b->replica);
}

static void assert_open_for(const struct bench *b, uint64_t range, uint64_t owner) {
    struct replica_range_facts facts;
    uint32_t found = 0;
    for (uint32_t place = 0; replica_range_next(b->replica, &place, &facts);)
        if (facts.range == range) {
            found++;
            assert_true(facts.open && facts.owner == owner);
        }
    assert_int_equal(found, 1);
}

/* Two hold it after a restore, and nothing is opened yet. The one that the arbiter does not know
 * speaks first, again and again. */
static void test_a_claimant_that_was_denied_lets_the_other_speak(void **state) {
    (void)state;
    struct bench *b = bench_of(64);
    b->arbiter_owner = 602;
    b->arbiter_start = 0;
    uint32_t end;
    for (int i = 0; i < 3; i++) {
        hello(b, 12, 601);
        body(b, 12, 0, 601);
        hello(b, 12, 602);
        pass(b, 20 * MS);
    }
    assert_int_equal(replica_range_end(b->replica, 12, &end), REPLICA_RANGE_OPEN);
    assert_open_for(b, 12, 602);
    free(b->replica);
}

static void lead_with_slow_seals(struct bench *b) {
    struct replica_config config = config_of(16, 64);
    config.seal_after_ns = 2000 * MS;
    bench_open(b, &config);
    bench_lead(b);
}

/* Three hold it after two restores. Of the two that the arbiter does not know one always speaks
 * before the third, whose range it is: he waits for his own renewal, not for theirs. */
static void test_claimants_do_not_keep_the_owner_out(void **state) {
    (void)state;
    static struct bench b;
    lead_with_slow_seals(&b);
    b.arbiter_owner = 603;
    b.arbiter_start = 0;
    for (int i = 0; i < 2; i++) {
        hello(&b, 12, 601);
        body(&b, 12, 0, 602);
        hello(&b, 12, 603);
        pass(&b, 500 * MS);
        hello(&b, 12, 602);
        body(&b, 12, 0, 601);
        hello(&b, 12, 603);
        pass(&b, 500 * MS);
    }
    assert_open_for(&b, 12, 603);
    b.progress_told = 0;
    body(&b, 12, 0, 603);
    pass(&b, 20 * MS);
    assert_int_not_equal(b.progress_told, 0);
    free(b.replica);
}

/* What another's bodies have come to is no progress of who claimed the range before it was opened:
 * he would take it for his own. */
static void test_progress_is_told_to_the_owner_alone(void **state) {
    (void)state;
    static struct bench b;
    lead_with_slow_seals(&b);
    b.arbiter_owner = 603;
    b.arbiter_start = 0;
    expire(&b, 12, 602); /* asked about him, the leader asks about nobody for half a second */
    hello(&b, 12, 601);
    pass(&b, 510 * MS);
    b.arbiter_owner = 602;
    expire(&b, 12, 602);
    pass(&b, 20 * MS);
    uint32_t end;
    assert_int_equal(replica_range_end(b.replica, 12, &end), REPLICA_RANGE_OPEN);
    b.progress_told = 0;
    body(&b, 12, 0, 602);
    pass(&b, 20 * MS);
    assert_int_equal(b.progress_told, 0);
    hello(&b, 12, 602);
    body(&b, 12, 1, 602);
    pass(&b, 20 * MS);
    assert_int_not_equal(b.progress_told, 0);
    free(b.replica);
}

static void checked(struct bench *b, uint64_t range, uint64_t owner, bool owned) {
    struct replica_event event = {.kind = REPLICA_EVENT_RANGE_CHECKED};
    event.range_checked.range = range;
    event.range_checked.owner = owner;
    event.range_checked.owned = owned;
    step(b, &event);
}

/* A gateway that is told progress, and a while later NOT_OWNER, again and again, never learns that
 * it lost the range: progress affirms it. */
static void test_progress_waits_for_the_arbiters_word(void **state) {
    (void)state;
    static struct bench b;
    lead_with_slow_seals(&b);
    b.arbiter_away = true;
    b.progress_told = 0;
    for (int i = 0; i < 3; i++) {
        hello(&b, 12, 601);
        body(&b, 12, 0, 601);
        assert_non_null(only(&b, REPLICA_ACTION_RANGE_CHECK));
        pass(&b, 20 * MS);
        b.seen.count = 0;
        checked(&b, 12, 601, false);
        assert_non_null(only(&b, REPLICA_ACTION_NOT_OWNER));
        pass(&b, 1600 * MS);
        b.seen.count = 0;
    }
    assert_int_equal(b.progress_told, 0);
    hello(&b, 12, 602);
    checked(&b, 12, 602, true);
    body(&b, 12, 0, 602);
    pass(&b, 20 * MS);
    assert_int_not_equal(b.progress_told, 0);
    free(b.replica);
}

/* A sealed range rests soon; who was denied it is heard no sooner for that. */
static void test_a_denial_outlives_the_rest_of_a_range(void **state) {
    (void)state;
    static struct bench b;
    struct replica_config config = config_of(16, 64);
    bench_open(&b, &config);
    bench_lead(&b);
    live_and_die(&b, 9, 501, 0, 3);
    b.arbiter_owner = 503;
    b.arbiter_start = 3;
    hello(&b, 9, 502);
    pass(&b, 500 * MS);
    b.arbiter_away = true;
    b.seen.count = 0;
    hello(&b, 9, 502);
    assert_non_null(only(&b, REPLICA_ACTION_NOT_OWNER)); /* and the arbiter was not asked */
    assert_int_equal(b.seen.count, 1);
    pass(&b, 1500 * MS);
    uint32_t end;
    assert_true(replica_range_retired(b.replica, 9, &end) && end == 3);
    free(b.replica);
}

/* Nor is it his before the range is opened for him: nodes that do not ask the arbiter would tell
 * him of it for ever, and he would not see that another got it. */
static void test_no_progress_of_a_sealed_range(void **state) {
    (void)state;
    struct bench *b = bench_of(64);
    live_and_die(b, 9, 501, 0, 3);
    b->arbiter_owner = 500;
    expire(b, 9, 502); /* asked about him, the leader asks about nobody for half a second */
    b->progress_told = 0;
    hello(b, 9, 502);
    pass(b, 20 * MS);
    assert_int_equal(b->progress_told, 0);
    b->arbiter_owner = 0;
    pass(b, 2000 * MS);
    hello(b, 9, 503);
    pass(b, 20 * MS);
    assert_int_not_equal(b->progress_told, 0);
    free(b->replica);
}

/* At the limit no new range is opened, which is known before one is granted; old ones go on. */
static void test_refuses_when_no_more_can_be_remembered(void **state) {
    (void)state;
    struct bench *b = bench_of(16);
    for (uint64_t range = 1; range <= 16; range++) {
        assert_false(facts(b).ranges_full);
        live_and_die(b, range, owner_of(range), 0, 1);
        pass(b, 30 * MS);
    }
    assert_true(facts(b).ranges_full);
    hello(b, 99, 5);
    body(b, 99, 0, 5);
    pass(b, 5 * MS);
    struct replica_range_facts range;
    for (uint32_t place = 0; replica_range_next(b->replica, &place, &range);)
        assert_false(range.open);
    pass(b, 100 * MS);
    assert_int_equal(facts(b).range_count, 0); /* forgotten when silent */
    live_and_die(b, 7, 12345, 1, 2);           /* a pinned one may go on */
    pass(b, 30 * MS);
    assert_answers(b, 7, 12345, 3);
    free(b->replica);
}

/* Announced ranges fill the table: refused with a reason, and their places come free again. */
static void test_places_of_the_silent_come_free(void **state) {
    (void)state;
    static struct bench b;
    struct replica_config config = config_of(16, 64);
    bench_open(&b, &config); /* does not lead: nothing is opened */
    for (uint64_t range = 1; range <= 16; range++)
        hello(&b, range, range);
    b.seen.count = 0;
    hello(&b, 17, 17);
    const struct replica_action *dropped = only(&b, REPLICA_ACTION_DROPPED);
    assert_true(dropped && dropped->outcome == WIRE_DROP_RANGES_FULL);
    assert_true(facts(&b).ranges_full);
    pass(&b, SEAL_AFTER_NS + 20 * MS);
    assert_int_equal(facts(&b).range_count, 0);
    free(b.replica);
}

static void restore(struct bench *b, uint64_t range, uint64_t owner, uint32_t position, bool open) {
    struct replica_event event = {.kind = REPLICA_EVENT_RESTORE_RANGE};
    event.restore_range.range = range;
    event.restore_range.owner = owner;
    event.restore_range.position = position;
    event.restore_range.open = open;
    step(b, &event);
}

/* A snapshot with many more sealed ranges than places. */
static void test_snapshot_restores_them(void **state) {
    (void)state;
    static struct bench b;
    struct replica_config config = config_of(16, 512);
    bench_open(&b, &config);
    for (uint64_t range = 1; range <= 10; range++)
        restore(&b, range, owner_of(range), 5, true);
    for (uint64_t range = 100; range < 400; range++)
        restore(&b, range, owner_of(range), (uint32_t)(range % 7), false);
    struct replica_event event = {.kind = REPLICA_EVENT_RESTORED};
    event.restored.seq = 1000;
    event.restored.term = 4;
    step(&b, &event);
    assert_int_equal(facts(&b).range_count, 10);
    assert_int_equal(facts(&b).ranges_retired, 300);
    assert_true(facts(&b).range_floor == 400);
    for (uint64_t range = 100; range < 400; range++)
        assert_answers(&b, range, owner_of(range), (uint32_t)(range % 7));
    restore(&b, 100, owner_of(100), 1, false); /* of an older snapshot: nothing goes back */
    assert_answers(&b, 100, owner_of(100), 100 % 7);
    free(b.replica);
}

/* A peer that lags asks for bodies of a range that is retired here: they are gone. */
static void test_bodies_of_retired_ranges_are_gone(void **state) {
    (void)state;
    static struct bench b;
    struct replica_config config = config_of(16, 64);
    config.node_count = 3;
    config.quorum = 2;
    for (uint8_t i = 0; i < 3; i++)
        config.ring[i] = i;
    bench_open(&b, &config);
    restore(&b, 3, 8, 10, false);
    restore(&b, 4, 8, WIRE_RANGE_OFFSETS, false);
    struct replica_event event = {.kind = REPLICA_EVENT_RESTORED};
    event.restored.seq = 10;
    step(&b, &event);
    for (int i = 0; i < 2; i++) {
        struct wire_fetch fetch = {i ? wire_tx_id(4, WIRE_RANGE_OFFSETS - 1) : wire_tx_id(3, 9), 1};
        event = (struct replica_event){.kind = REPLICA_EVENT_FRAME};
        event.frame.peer = 1;
        event.frame.incarnation = 1;
        event.frame.kind = WIRE_FETCH;
        event.frame.payload = (const uint8_t *)&fetch;
        event.frame.length_bytes = sizeof fetch;
        event.now_ns = b.now_ns;
        b.actions.count = 0;
        replica_step(b.replica, &event, &b.actions);
        assert_int_equal(b.actions.count, 1);
        assert_int_equal(b.actions.items[0].frame_kind, WIRE_GONE);
        struct wire_gone gone;
        memcpy(&gone, b.actions.items[0].payload, sizeof gone);
        assert_true(gone.below_id ==
                    (i ? wire_tx_id(4, WIRE_RANGE_OFFSETS - 1) : wire_tx_id(3, 10)));
    }
    free(b.replica);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record_holds_the_extremes),
        cmocka_unit_test(test_record_costs_16_bytes),
        cmocka_unit_test(test_many_more_gateways_than_places),
        cmocka_unit_test(test_pinned_range_goes_on),
        cmocka_unit_test(test_holding_that_begins_elsewhere_is_not_opened),
        cmocka_unit_test(test_a_claimant_that_was_denied_lets_the_other_speak),
        cmocka_unit_test(test_claimants_do_not_keep_the_owner_out),
        cmocka_unit_test(test_progress_is_told_to_the_owner_alone),
        cmocka_unit_test(test_progress_waits_for_the_arbiters_word),
        cmocka_unit_test(test_a_denial_outlives_the_rest_of_a_range),
        cmocka_unit_test(test_no_progress_of_a_sealed_range),
        cmocka_unit_test(test_nobody_is_told_of_anothers_transaction),
        cmocka_unit_test(test_refuses_when_no_more_can_be_remembered),
        cmocka_unit_test(test_places_of_the_silent_come_free),
        cmocka_unit_test(test_snapshot_restores_them),
        cmocka_unit_test(test_bodies_of_retired_ranges_are_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
