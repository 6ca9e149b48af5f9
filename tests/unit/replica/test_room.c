/* Who goes, or waits, when space is short: node 1 of three, which has sixteen body slots, half of
 * which are for what epochs name, and place for four epochs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "follower.h"

#define TERM 100
#define SLOTS 16
#define CAP 8
#define LOG 4
#define NAMED 5   /* range whose bodies the epochs of node 0 name */
#define UNNAMED 6 /* and one that is open only */

struct world {
    struct follower node;
    uint64_t seq;
    struct wire_hash previous;
    bool taken[SLOTS];
    uint32_t refused, dropped_ranges;
    uint32_t own_intervals, own_bodies; /* of the last epoch that this node proposed */
};

static void see(void *context, const struct replica_action *a) {
    struct world *w = context;
    for (uint32_t i = 0; a->kind == REPLICA_ACTION_FREE_SLOTS && i < a->slot_count; i++)
        w->taken[a->slots[i]] = false;
    w->refused += a->kind == REPLICA_ACTION_DROPPED && a->outcome == WIRE_DROP_BODY_POOL;
    w->dropped_ranges += a->kind == REPLICA_ACTION_APPEND_DROP;
    if (a->kind != REPLICA_ACTION_SEND || a->frame_kind != WIRE_PROPOSE)
        return;
    const struct wire_epoch_head *head = (const void *)a->tail;
    if (head->term <= TERM)
        return;
    w->own_intervals = head->interval_count;
    w->own_bodies = 0;
    for (uint32_t i = 0; i < head->interval_count; i++)
        w->own_bodies += wire_epoch_intervals(a->tail)[i].count;
}

static uint64_t digest(uint64_t range, uint32_t offset) {
    return 1000 * range + offset;
}

/* As a shell does: without a free slot nothing is taken. A part of a transaction of `parts` parts.
 */
static bool body(struct world *w, uint64_t range, uint32_t offset, uint16_t parts, uint8_t peer) {
    uint32_t slot = 0;
    while (slot < SLOTS && w->taken[slot])
        slot++;
    if (slot == SLOTS)
        return false;
    w->taken[slot] = true;
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    event.body = (struct replica_event_body){.id = wire_tx_id(range, offset),
                                             .digest = {digest(range, offset), 0},
                                             .slot = slot,
                                             .parts_following = (uint16_t)(parts - 1),
                                             .owner = 70 + range,
                                             .peer = peer};
    follower_step(&w->node, &event);
    return w->taken[slot];
}

static bool here(const struct world *w, uint64_t range, uint32_t offset) {
    struct wire_digest unused;
    return replica_body(w->node.replica, wire_tx_id(range, offset), &unused) != REPLICA_SLOT_NONE;
}

/* The next epoch of node 0: opens both ranges, or orders `count` bodies of one. */
static void propose(struct world *w, uint32_t offset, uint16_t count) {
    struct {
        struct wire_propose propose;
        struct wire_epoch_head head;
        uint8_t rest[2 * sizeof(struct wire_control)];
    } __attribute__((packed)) frame = {.propose = {TERM, count ? 1 : 0}};
    struct wire_control controls[] = {{WIRE_CONTROL_OPEN, NAMED, 70 + NAMED},
                                      {WIRE_CONTROL_OPEN, UNNAMED, 70 + UNNAMED}};
    struct wire_interval interval = {wire_tx_id(NAMED, offset), count};
    frame.head = (struct wire_epoch_head){.seq = ++w->seq,
                                          .term = TERM,
                                          .configuration_id = 5,
                                          .logical_time_us = 1000 + w->seq,
                                          .control_count = count ? 0 : 2,
                                          .interval_count = count != 0};
    for (uint32_t i = 0; i < count; i++)
        frame.head.digest_low += digest(NAMED, offset + i);
    memcpy(frame.head.previous_hash, w->previous.bytes, sizeof frame.head.previous_hash);
    memcpy(frame.rest, count ? (const void *)&interval : controls,
           count ? sizeof interval : sizeof controls);
    uint32_t length = wire_epoch_bytes(frame.head.control_count, frame.head.interval_count);
    w->previous = wire_hash_blake2b(&frame.head, length);
    follower_hear(&w->node, 0, WIRE_PROPOSE, 0, &frame, (uint16_t)(sizeof frame.propose + length));
    follower_run(&w->node, US);
}

static void open_world(struct world *w, bool durable) {
    struct replica_config config = follower_config();
    config.pass_interval_ns = 2 * MS;
    config.epochs_in_flight = 1;
    config.epoch_cap = CAP;
    config.body_slots = SLOTS;
    config.log_epochs = LOG;
    config.durable = durable;
    memset(w, 0, sizeof *w);
    w->node = (struct follower){.now_ns = MS, .see = see, .context = w};
    follower_open(&w->node, &config, TERM);
    propose(w, 0, 0);
}

static void bodies(struct world *w, uint64_t range, uint32_t from, uint32_t to, uint8_t peer) {
    for (uint32_t offset = from; offset < to; offset++)
        assert_true(body(w, range, offset, 1, peer));
}

/* Acknowledged up to `seq` by the other two, in our term. */
static void acknowledge(struct world *w, uint64_t seq) {
    struct wire_ack ack = {TERM + 1, seq, 0};
    follower_hear(&w->node, 0, WIRE_ACK, 0, &ack, sizeof ack);
    follower_hear(&w->node, 2, WIRE_ACK, 0, &ack, sizeof ack);
}

/* Node 1 wins term 101 with the log as it is. */
static void take_over(struct world *w) {
    follower_take_over(&w->node, TERM + 1, w->seq, &w->previous, 0);
}

static uint64_t held(const struct world *w) {
    struct replica_facts facts;
    replica_facts(w->node.replica, &facts);
    return facts.held_seq;
}

/* Two leaders' epochs wait for each other: all must be held before a slot is given back. */
static void what_epochs_name_displaces_what_none_names(void **state) {
    (void)state;
    static struct world w;
    open_world(&w, true);
    bodies(&w, UNNAMED, 5, 7, REPLICA_NODE_NONE); /* above a gap */
    bodies(&w, UNNAMED, 0, 4, REPLICA_NODE_NONE);
    propose(&w, 0, 8);
    bodies(&w, NAMED, 0, 8, 0);
    follower_run(&w.node, US);
    assert_int_equal(held(&w), 2);
    propose(&w, 8, 4); /* of the sixteen slots two are free */
    follower_run(&w.node, US);
    follower_run(&w.node, US);
    assert_int_equal(w.dropped_ranges, 1); /* the journal was told */
    assert_false(here(&w, UNNAMED, 5) || here(&w, UNNAMED, 6));
    for (uint32_t offset = 0; offset < 4; offset++) /* out-of-order bodies went first */
        assert_true(here(&w, UNNAMED, offset));
    bodies(&w, NAMED, 8, 12, 0);
    follower_run(&w.node, US);
    assert_int_equal(held(&w), 3);
    propose(&w, 12, 2);
    follower_run(&w.node, US);
    follower_run(&w.node, US);
    assert_int_equal(w.dropped_ranges, 2);
    for (uint32_t offset = 0; offset < 4; offset++)
        assert_false(here(&w, UNNAMED, offset));
    bodies(&w, NAMED, 12, 14, 0);
    follower_run(&w.node, US);
    assert_int_equal(held(&w), 4);
    follower_close(&w.node);
}

/* The others may lack them all: with the epochs that are not committed they would need more slots
 * than they have. */
static void a_first_epoch_names_no_more_than_all_have_place_for(void **state) {
    (void)state;
    static struct world w;
    open_world(&w, false);
    bodies(&w, UNNAMED, 0, 8, REPLICA_NODE_NONE);
    propose(&w, 0, 6);
    bodies(&w, NAMED, 0, 6, 0);
    follower_run(&w.node, US);
    take_over(&w);
    assert_int_equal(w.own_bodies, 2);
    acknowledge(&w, 3);
    follower_run(&w.node, US);
    follower_run(&w.node, US);
    assert_int_equal(w.own_bodies, 6); /* what was before is committed */
    follower_close(&w.node);
}

static void with_no_place_at_all_it_is_empty(void **state) {
    (void)state;
    static struct world w;
    open_world(&w, false);
    bodies(&w, UNNAMED, 0, 8, REPLICA_NODE_NONE);
    propose(&w, 0, 8);
    bodies(&w, NAMED, 0, 8, 0);
    follower_run(&w.node, US);
    w.own_intervals = UINT32_MAX;
    take_over(&w);
    assert_int_equal(w.own_intervals, 0);
    follower_close(&w.node);
}

/* Epochs have a room of their own. Leaders that come and go leave one each, and none of them can go
 * before one of a later term is committed. */
static void in_the_logs_last_quarter_a_first_epoch_waits_for_a_quorum(void **state) {
    (void)state;
    static struct world w;
    open_world(&w, false);
    for (uint32_t offset = 0; offset < 3; offset++) {
        propose(&w, offset, 1);
        bodies(&w, NAMED, offset, offset + 1, 0);
        follower_run(&w.node, US);
    }
    assert_int_equal(held(&w), 4);
    w.own_intervals = UINT32_MAX;
    take_over(&w);
    acknowledge(&w, 3);
    follower_run(&w.node, US);
    follower_run(&w.node, US);
    assert_int_equal(w.own_intervals, UINT32_MAX); /* nothing was proposed */
    acknowledge(&w, 4);
    follower_run(&w.node, US);
    assert_int_equal(w.own_intervals, 0);
    follower_close(&w.node);
}

/* Two transactions of seven parts in a room for eight bodies: each would wait for the other. */
static void one_of_two_that_wait_for_each_other_gets_whole(void **state) {
    (void)state;
    static struct world w;
    open_world(&w, false);
    take_over(&w);
    acknowledge(&w, 2);
    follower_run(&w.node, US);
    for (uint32_t offset = 0; offset < 4; offset++) {
        assert_true(body(&w, NAMED, offset, (uint16_t)(7 - offset), REPLICA_NODE_NONE));
        assert_true(body(&w, UNNAMED, offset, (uint16_t)(7 - offset), REPLICA_NODE_NONE));
    }
    uint64_t begun_ns = w.node.now_ns;
    while (!w.own_bodies && w.node.now_ns < begun_ns + 100 * MS) { /* both send again and again */
        for (uint32_t offset = 0; offset < 7; offset++) {
            (void)body(&w, UNNAMED, offset, (uint16_t)(7 - offset), REPLICA_NODE_NONE);
            (void)body(&w, NAMED, offset, (uint16_t)(7 - offset), REPLICA_NODE_NONE);
        }
        acknowledge(&w, 2);
        follower_run(&w.node, MS);
    }
    assert_true(w.refused > 0);
    assert_int_equal(w.own_bodies, 7);
    assert_true(w.node.now_ns > begun_ns + 5 * MS); /* not at the first refusal */
    follower_close(&w.node);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_epochs_name_displaces_what_none_names),
        cmocka_unit_test(a_first_epoch_names_no_more_than_all_have_place_for),
        cmocka_unit_test(with_no_place_at_all_it_is_empty),
        cmocka_unit_test(in_the_logs_last_quarter_a_first_epoch_waits_for_a_quorum),
        cmocka_unit_test(one_of_two_that_wait_for_each_other_gets_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
