/* What a replica tells its journal so that a replay needs no more room than there was, and what a
 * replay leaves: node 1 of three on disk, few slots, one epoch in flight; its leader is node 0. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "follower.h"

#define TERM 100
#define RANGE 5
#define OWNER 77
#define CAP 4
#define SLOTS 16
#define ROOM (SLOTS - CAP) /* for what no epoch names */
#define SEAL_AFTER (50 * MS)

struct world {
    struct follower node;
    uint64_t seq, delivered, executed, position;
    struct wire_hash previous;
    uint32_t free_slots[SLOTS + 1], free_count;
    uint64_t ids[SLOTS + 1]; /* under which a slot was given last */
    /* of the steps since `forget` */
    uint32_t drops, commits, freed, pool_full, conflicts;
    struct replica_action drop, commit;
};

static void forget(struct world *w) {
    w->drops = w->commits = w->freed = w->pool_full = w->conflicts = 0;
}

static void see(void *context, const struct replica_action *a) {
    struct world *w = context;
    assert_int_not_equal(a->kind, REPLICA_ACTION_FAIL_STOP);
    if (a->kind == REPLICA_ACTION_APPEND_BODY || a->kind == REPLICA_ACTION_APPEND_EPOCH ||
        a->kind == REPLICA_ACTION_APPEND_PROMISE || a->kind == REPLICA_ACTION_APPEND_DROP ||
        a->kind == REPLICA_ACTION_APPEND_COMMIT)
        assert_int_equal(w->position++, a->position);
    if (a->kind == REPLICA_ACTION_APPEND_DROP) {
        for (uint32_t k = 0; k < w->free_count; k++) { /* told before any of it is used again */
            uint64_t id = w->ids[w->free_slots[k]];
            assert_true(wire_tx_range(id) != a->range || wire_tx_offset(id) < a->end);
        }
        w->drops++;
        w->drop = *a;
    } else if (a->kind == REPLICA_ACTION_APPEND_COMMIT) {
        w->commits++;
        w->commit = *a;
    } else if (a->kind == REPLICA_ACTION_FREE_SLOTS) {
        w->freed += a->slot_count;
        for (uint32_t k = 0; k < a->slot_count; k++)
            w->free_slots[w->free_count++] = a->slots[k];
    } else if (a->kind == REPLICA_ACTION_DROPPED) {
        w->pool_full += a->outcome == WIRE_DROP_BODY_POOL;
        w->conflicts += a->outcome == WIRE_DROP_CONFLICT;
    } else if (a->kind == REPLICA_ACTION_DELIVER) {
        w->delivered = a->seq;
    }
}

static void step(struct world *w, struct replica_event *event) {
    follower_step(&w->node, event);
}

/* Everything is stable and executed at once. */
static void pass(struct world *w, uint64_t ns) {
    for (uint64_t end = w->node.now_ns + ns; w->node.now_ns < end;) {
        struct replica_event event = {.kind = REPLICA_EVENT_STABLE};
        event.stable.position = w->position;
        step(w, &event);
        follower_tick(&w->node, MS / 4);
        while (w->executed < w->delivered) {
            event = (struct replica_event){.kind = REPLICA_EVENT_EXECUTED};
            event.executed.seq = ++w->executed;
            step(w, &event);
        }
    }
}

static uint64_t digest_of(uint32_t offset) {
    return 1000 + offset;
}

/* Canonical bytes of an epoch that opens the range (count 0) or orders some of its bodies. */
static uint32_t epoch_bytes(uint8_t *bytes, uint64_t seq, uint64_t term,
                            const struct wire_hash *previous, uint32_t first, uint32_t count) {
    struct wire_epoch_head head = {.seq = seq,
                                   .term = term,
                                   .configuration_id = 5,
                                   .logical_time_us = 1000 + seq,
                                   .control_count = !count,
                                   .interval_count = count > 0};
    struct wire_control control = {WIRE_CONTROL_OPEN, RANGE, OWNER};
    struct wire_interval interval = {wire_tx_id(RANGE, first), (uint16_t)count};
    for (uint32_t i = 0; i < count; i++)
        head.digest_low += digest_of(first + i);
    memcpy(head.previous_hash, previous->bytes, sizeof head.previous_hash);
    memcpy(bytes, &head, sizeof head);
    if (count)
        memcpy(bytes + sizeof head, &interval, sizeof interval);
    else
        memcpy(bytes + sizeof head, &control, sizeof control);
    return wire_epoch_bytes(!count, count > 0);
}

static void propose(struct world *w, uint64_t commit_seq, uint32_t first, uint32_t count) {
    uint8_t bytes[512];
    struct wire_propose propose = {TERM, commit_seq};
    uint8_t *epoch = bytes + sizeof propose;
    memcpy(bytes, &propose, sizeof propose);
    uint32_t length = epoch_bytes(epoch, ++w->seq, TERM, &w->previous, first, count);
    w->previous = wire_hash_blake2b(epoch, length);
    follower_hear(&w->node, 0, WIRE_PROPOSE, 0, bytes, (uint16_t)(sizeof propose + length));
}

static void heartbeat(struct world *w) {
    struct wire_heartbeat beat = {.term = TERM, .last_seq = w->seq, .commit_seq = w->seq};
    follower_hear(&w->node, 0, WIRE_HEARTBEAT, 0, &beat, sizeof beat);
}

static void body_of(struct world *w, uint64_t range, uint32_t offset, uint64_t digest,
                    uint8_t peer) {
    assert_true(w->free_count > 0);
    w->ids[w->free_slots[w->free_count - 1]] = wire_tx_id(range, offset);
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    event.body = (struct replica_event_body){.id = wire_tx_id(range, offset),
                                             .digest = {digest, 0},
                                             .slot = w->free_slots[--w->free_count],
                                             .owner = OWNER,
                                             .peer = peer};
    step(w, &event);
}

static void body(struct world *w, uint64_t range, uint32_t offset) {
    body_of(w, range, offset, digest_of(offset), REPLICA_NODE_NONE);
}

static struct replica_facts facts(const struct world *w) {
    struct replica_facts f;
    replica_facts(w->node.replica, &f);
    return f;
}

static void start(struct world *w, bool amnesiac) {
    struct replica_config c = follower_config();
    c.durable = true;
    c.amnesiac = amnesiac;
    c.epochs_in_flight = 1;
    c.epoch_cap = CAP;
    c.log_epochs = 16;
    c.body_slots = SLOTS;
    c.slice_floor_ns = c.slice_max_ns = 1000 * MS;
    c.seal_after_ns = SEAL_AFTER;
    memset(w, 0, sizeof *w);
    w->node = (struct follower){.now_ns = MS, .see = see, .context = w};
    for (uint32_t i = 0; i < SLOTS; i++)
        w->free_slots[w->free_count++] = i;
    follower_open(&w->node, &c, TERM);
}

static void end_replay(struct world *w) {
    struct replica_event event = {.kind = REPLICA_EVENT_REPLAY_END};
    step(w, &event);
}

static int setup(void **state) {
    struct world *w = *state = malloc(sizeof *w);
    start(w, false);
    end_replay(w);
    propose(w, 0, 0, 0);
    heartbeat(w);
    pass(w, MS);
    assert_int_equal(facts(w).exec_seq, 1);
    forget(w);
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    follower_close(&w->node);
    free(w);
    return 0;
}

/* A range that was never opened falls silent. */
static void what_leaves_memory_unexecuted_is_told_first(void **state) {
    struct world *w = *state;
    for (uint32_t i = 0; i < 3; i++)
        body(w, RANGE + 1, i);
    pass(w, SEAL_AFTER / 2);
    assert_int_equal(facts(w).slots_used, 3);
    assert_int_equal(w->drops, 0);
    pass(w, 2 * SEAL_AFTER);
    assert_int_equal(facts(w).slots_used, 0);
    assert_int_equal(w->drops, 1);
    assert_true(w->drop.range == RANGE + 1 && w->drop.end == 0);
}

static void a_start_leaves_out_what_no_epoch_names(void **state) {
    struct world *w = *state;
    follower_close(&w->node);
    start(w, false);
    end_replay(w);
    assert_int_equal(w->drops, 1);
    assert_true(w->drop.range == REPLICA_RANGES_ALL);
}

/* The next epoch waits for bodies that find no place, and notes what would give them one. */
static void what_is_committed_is_noted_when_bodies_keep_others_out(void **state) {
    struct world *w = *state;
    for (uint32_t i = 0; i < CAP; i++)
        body(w, RANGE, i);
    propose(w, 1, 0, CAP);
    for (uint32_t i = 0; w->pool_full == 0; i++)
        body(w, RANGE + 1, i);
    assert_int_equal(facts(w).slots_used, ROOM);
    heartbeat(w);
    pass(w, MS / 2);
    assert_int_equal(facts(w).exec_seq, 2);
    assert_int_equal(w->commits, 0); /* an epoch may come */
    propose(w, 2, CAP, CAP);
    assert_int_equal(facts(w).base_seq, 1);
    pass(w, MS / 4);
    assert_int_equal(facts(w).base_seq, 2); /* it came, and its record does */
    for (uint32_t i = CAP; i < 2 * CAP; i++)
        body(w, RANGE, i);
    forget(w);
    for (uint32_t i = 20; w->pool_full == 0; i++)
        body(w, RANGE + 1, i);
    heartbeat(w);
    pass(w, MS / 2);
    assert_true(facts(w).exec_seq == 3 && facts(w).base_seq == 2);
    assert_true(replica_next_deadline_ns(w->node.replica) <= w->node.now_ns + MS);
    pass(w, 2 * MS);
    assert_int_equal(w->commits, 1);
    assert_int_equal(w->commit.seq, 3);
    assert_int_equal(facts(w).base_seq, 3);
    assert_int_equal(facts(w).slots_used, ROOM - CAP);
    forget(w);
    pass(w, 10 * MS);
    assert_int_equal(w->commits, 0);
}

/* Those of an epoch further up would sit there until the next one is executed, which needs them. */
static void the_last_slots_are_for_the_next_epoch(void **state) {
    struct world *w = *state;
    for (uint32_t i = 20; w->pool_full == 0; i++)
        body(w, RANGE, i);
    assert_int_equal(facts(w).slots_used, ROOM / 4 * 3); /* out of order */
    for (uint32_t i = 0; i < ROOM / 4; i++)
        body(w, RANGE + 1, i);
    propose(w, 1, 0, CAP);
    propose(w, 1, CAP, CAP);
    assert_int_equal(facts(w).last_seq, 3);
    forget(w);
    body_of(w, RANGE, CAP, digest_of(CAP), 0);
    assert_int_equal(w->pool_full, 1);
    for (uint32_t i = 0; i < CAP; i++)
        body_of(w, RANGE, i, digest_of(i), 0);
    assert_int_equal(w->pool_full, 1);
    heartbeat(w);
    pass(w, 4 * MS);
    assert_int_equal(facts(w).exec_seq, 2);
    assert_int_equal(w->drops, 1); /* what was out of order made room for the one behind it */
    for (uint32_t i = CAP; i < 2 * CAP; i++)
        body_of(w, RANGE, i, digest_of(i), 0);
    pass(w, 4 * MS);
    assert_int_equal(facts(w).exec_seq, 3);
}

/* The first of them puts it right: another that differs, too, is not the one that was ordered. */
static void a_repair_ends_with_the_body_that_was_wrong(void **state) {
    struct world *w = *state;
    body_of(w, RANGE, 0, 1, REPLICA_NODE_NONE);
    body(w, RANGE, 1);
    propose(w, 1, 0, 2);
    pass(w, MS);
    assert_int_equal(facts(w).held_seq, 1);
    body_of(w, RANGE, 0, digest_of(0), 0);
    body_of(w, RANGE, 1, 2, 0);
    assert_int_equal(w->conflicts, 1);
    assert_int_equal(facts(w).held_seq, 2);
    assert_int_equal(facts(w).bodies_replaced, 1);
}

/* From a leader that was gone before the recovery's promise was stable. */
static void an_amnesiac_forgets_what_is_not_committed(void **state) {
    struct world *w = *state;
    uint8_t bytes[512];
    struct wire_hash previous = {{0}};
    for (int amnesiac = 0; amnesiac < 2; amnesiac++) {
        follower_close(&w->node);
        start(w, amnesiac);
        struct replica_event event = {.kind = REPLICA_EVENT_REPLAY_EPOCH};
        event.replay_epoch.bytes = bytes;
        event.replay_epoch.length_bytes = epoch_bytes(bytes, 1, TERM, &previous, 0, 0);
        struct wire_hash first = wire_hash_blake2b(bytes, event.replay_epoch.length_bytes);
        step(w, &event);
        event.replay_epoch.length_bytes = epoch_bytes(bytes, 2, TERM, &first, 0, 1);
        step(w, &event);
        event = (struct replica_event){.kind = REPLICA_EVENT_REPLAY_COMMIT};
        event.replay_commit.commit_seq = 1;
        step(w, &event);
        end_replay(w);
        assert_int_equal(facts(w).commit_seq, 1);
        assert_int_equal(facts(w).last_seq, amnesiac ? 1 : 2);
    }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_leaves_memory_unexecuted_is_told_first),
        TEST(a_start_leaves_out_what_no_epoch_names),
        TEST(what_is_committed_is_noted_when_bodies_keep_others_out),
        TEST(the_last_slots_are_for_the_next_epoch),
        TEST(a_repair_ends_with_the_body_that_was_wrong),
        TEST(an_amnesiac_forgets_what_is_not_committed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
