/* What a follower takes and what it refuses, where chance seldom leads: node 1 of three, whose
 * leader is node 0. */
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

struct world {
    struct follower node;
    const char *stopped;
    uint32_t drops[WIRE_DROP_COUNT];
};

static void see(void *context, const struct replica_action *action) {
    struct world *w = context;
    if (action->kind == REPLICA_ACTION_FAIL_STOP)
        w->stopped = action->reason;
    if (action->kind == REPLICA_ACTION_DROPPED)
        w->drops[action->outcome]++;
}

static void open_world(struct world *w) {
    const struct replica_config config = follower_config();
    memset(w, 0, sizeof *w);
    w->node = (struct follower){.now_ns = MS, .see = see, .context = w};
    follower_open(&w->node, &config, TERM);
}

/* Epoch 1, empty; another logical time makes it another epoch. */
static struct wire_epoch_head first(uint64_t term, uint64_t logical_time_us) {
    return (struct wire_epoch_head){
        .seq = 1, .term = term, .configuration_id = 5, .logical_time_us = logical_time_us};
}

static void propose(struct world *w, const struct wire_epoch_head *head, uint64_t commit_seq) {
    struct {
        struct wire_propose propose;
        struct wire_epoch_head head;
    } __attribute__((packed)) frame = {{TERM, commit_seq}, *head};
    follower_hear(&w->node, 0, WIRE_PROPOSE, 0, &frame, sizeof frame);
    follower_tick(&w->node, US);
}

static uint64_t committed(const struct world *w, struct wire_hash *ret_hash) {
    struct replica_facts facts;
    replica_facts(w->node.replica, &facts);
    *ret_hash = facts.commit_hash;
    return facts.commit_seq;
}

/* A later term committed epoch 1, and a peer's journal told so. The leader of our term was deposed
 * before that, and still proposes what it would have liked there. */
static void a_learned_epoch_outlives_an_older_leader(void **state) {
    (void)state;
    static struct world w;
    open_world(&w);
    const struct wire_epoch_head here = first(TERM - 10, 1000), late = first(TERM, 2000);
    struct wire_hash expected = wire_hash_blake2b(&here, sizeof here), hash;
    struct wire_heartbeat beat = {.term = TERM};
    follower_hear(&w.node, 0, WIRE_HEARTBEAT, 0, &beat, sizeof beat);
    struct replica_event learn = {.kind = REPLICA_EVENT_LEARN};
    learn.learn.bytes = (const uint8_t *)&here;
    learn.learn.length_bytes = sizeof here;
    follower_step(&w.node, &learn);
    assert_int_equal(1, committed(&w, &hash));
    propose(&w, &late, 0);
    assert_null(w.stopped);
    assert_int_equal(1, committed(&w, &hash));
    assert_memory_equal(&expected, &hash, sizeof hash);
    follower_close(&w.node);
}

/* The promise is never below the term of the last epoch held, on whose word it may have come. */
static void a_learned_epoch_raises_the_promise(void **state) {
    (void)state;
    static struct world w;
    open_world(&w);
    const struct wire_epoch_head here = first(TERM + 7, 1000);
    struct wire_heartbeat beat = {.term = TERM};
    follower_hear(&w.node, 0, WIRE_HEARTBEAT, 0, &beat, sizeof beat);
    struct replica_event learn = {.kind = REPLICA_EVENT_LEARN};
    learn.learn.bytes = (const uint8_t *)&here;
    learn.learn.length_bytes = sizeof here;
    follower_step(&w.node, &learn);
    struct replica_facts facts;
    replica_facts(w.node.replica, &facts);
    assert_int_equal(1, facts.commit_seq);
    assert_int_equal(TERM + 7, facts.promised_term);
    follower_close(&w.node);
}

/* On its own leader's word it cannot be. */
static void another_epoch_where_one_is_committed_stops(void **state) {
    (void)state;
    static struct world w;
    open_world(&w);
    const struct wire_epoch_head one = first(TERM, 1000), other = first(TERM, 2000);
    struct wire_hash hash;
    propose(&w, &one, 1);
    assert_int_equal(1, committed(&w, &hash));
    assert_null(w.stopped);
    propose(&w, &other, 1);
    assert_string_equal("the leader proposes another epoch where one is committed here", w.stopped);
    follower_close(&w.node);
}

/* Neither knows whose range it is: that is no agreement. */
static void nobodys_body_is_refused(void **state) {
    (void)state;
    static struct world w;
    open_world(&w);
    struct wire_epoch_head head = first(TERM, 1000);
    struct {
        struct wire_propose propose;
        struct wire_epoch_head head;
        struct wire_control controls[1];
    } __attribute__((packed)) frame = {{TERM, 0}, head, {{WIRE_CONTROL_OPEN, RANGE, OWNER}}};
    frame.head.control_count = 1;
    follower_hear(&w.node, 0, WIRE_PROPOSE, 0, &frame, sizeof frame);
    struct wire_epoch_head seal = first(TERM, 2000);
    seal.seq = 2;
    seal.control_count = 1;
    struct wire_hash previous =
        wire_hash_blake2b(&frame.head, sizeof frame.head + sizeof frame.controls);
    memcpy(seal.previous_hash, previous.bytes, sizeof seal.previous_hash);
    frame.head = seal;
    frame.controls[0] = (struct wire_control){WIRE_CONTROL_SEAL, RANGE, 0};
    follower_hear(&w.node, 0, WIRE_PROPOSE, 0, &frame, sizeof frame);
    for (uint32_t i = 0; i < 2; i++) { /* of its owner, then of nobody; the SEAL is not executed */
        struct replica_event body = {.kind = REPLICA_EVENT_BODY};
        body.body = (struct replica_event_body){.id = wire_tx_id(RANGE, 0),
                                                .digest = {1000, 0},
                                                .slot = i,
                                                .owner = i ? 0 : OWNER,
                                                .peer = 2};
        follower_step(&w.node, &body);
        assert_int_equal(i + 1, w.drops[WIRE_DROP_NOT_OWNER]);
    }
    follower_close(&w.node);
}

static void restored(struct world *w, uint64_t seq) {
    struct replica_event event = {.kind = REPLICA_EVENT_RESTORED};
    event.restored = (struct replica_event_restored){.seq = seq, .term = TERM};
    follower_step(&w->node, &event);
}

static void vector(struct world *w, uint8_t peer, uint64_t exec_seq, uint8_t result) {
    struct wire_vector v = {.commit_seq = exec_seq, .exec_seq = exec_seq, .result_hash = {result}};
    follower_hear(&w->node, peer, WIRE_VECTOR, 0, &v, sizeof v);
}

static struct replica_facts facts(const struct world *w) {
    struct replica_facts f;
    replica_facts(w->node.replica, &f);
    return f;
}

/* Node 2 differed, ended, and began anew from an older state; what it executed then lies below all
 * that is remembered here. Node 0 goes wrong much later: that is one, not k. */
static void a_difference_of_before_is_no_evidence(void **state) {
    (void)state;
    struct world w;
    open_world(&w);
    restored(&w, 10);
    vector(&w, 2, 10, 1);
    assert_int_equal(facts(&w).differing, 1 << 2);
    restored(&w, 20);
    follower_tick(&w.node, 1000 * MS);
    vector(&w, 2, 15, 1);
    vector(&w, 0, 20, 1);
    assert_int_not_equal(facts(&w).role, REPLICA_ROLE_QUARANTINED);
    vector(&w, 2, 20, 1);
    assert_int_equal(facts(&w).role, REPLICA_ROLE_QUARANTINED);
    follower_close(&w.node);
}

/* It stands still with its difference, and says so on and on. */
static void a_difference_that_is_repeated_is(void **state) {
    (void)state;
    struct world w;
    open_world(&w);
    restored(&w, 10);
    vector(&w, 2, 10, 1);
    restored(&w, 20);
    follower_tick(&w.node, 1000 * MS);
    vector(&w, 2, 10, 1);
    vector(&w, 0, 20, 1);
    assert_int_equal(facts(&w).role, REPLICA_ROLE_QUARANTINED);
    follower_close(&w.node);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_learned_epoch_outlives_an_older_leader),
        cmocka_unit_test(a_learned_epoch_raises_the_promise),
        cmocka_unit_test(another_epoch_where_one_is_committed_stops),
        cmocka_unit_test(nobodys_body_is_refused),
        cmocka_unit_test(a_difference_of_before_is_no_evidence),
        cmocka_unit_test(a_difference_that_is_repeated_is),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
