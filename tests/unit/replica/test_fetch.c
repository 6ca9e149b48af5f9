/* When a follower asks for a body that its leader's epoch names and that is not here yet: node 1 of
 * three, whose leader is node 0. */
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
#define WAIT (200 * US) /* at least so long a body may be on its way */

struct world {
    struct follower node;
    uint64_t seq;
    struct wire_hash previous;
    uint32_t fetches, fetched_count; /* bodies asked for */
};

static void see(void *context, const struct replica_action *action) {
    struct world *w = context;
    struct wire_fetch fetch;
    if (action->kind != REPLICA_ACTION_SEND || action->frame_kind != WIRE_FETCH)
        return;
    memcpy(&fetch, action->payload, sizeof fetch);
    w->fetches++;
    w->fetched_count += fetch.count;
}

/* The next epoch: opens the range, or orders one body of it. */
static void propose(struct world *w, bool open, uint32_t offset) {
    uint8_t bytes[512];
    struct wire_propose propose = {TERM, w->seq};
    struct wire_epoch_head head = {.seq = ++w->seq,
                                   .term = TERM,
                                   .configuration_id = 5,
                                   .logical_time_us = 1000 + w->seq,
                                   .digest_low = open ? 0 : 1000 + offset,
                                   .control_count = open,
                                   .interval_count = !open};
    struct wire_control control = {WIRE_CONTROL_OPEN, RANGE, OWNER};
    struct wire_interval interval = {wire_tx_id(RANGE, offset), 1};
    memcpy(head.previous_hash, w->previous.bytes, sizeof head.previous_hash);
    uint32_t epoch = sizeof propose, at = epoch + (uint32_t)sizeof head;
    memcpy(bytes, &propose, sizeof propose);
    memcpy(bytes + epoch, &head, sizeof head);
    if (open)
        memcpy(bytes + at, &control, sizeof control);
    else
        memcpy(bytes + at, &interval, sizeof interval);
    uint32_t length = wire_epoch_bytes(open, !open);
    w->previous = wire_hash_blake2b(bytes + epoch, length);
    follower_hear(&w->node, 0, WIRE_PROPOSE, 0, bytes, (uint16_t)(epoch + length));
}

static void body(struct world *w, uint32_t offset) {
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    event.body = (struct replica_event_body){.id = wire_tx_id(RANGE, offset),
                                             .digest = {1000 + offset, 0},
                                             .slot = offset,
                                             .owner = OWNER,
                                             .peer = REPLICA_NODE_NONE};
    follower_step(&w->node, &event);
}

static void open_world(struct world *w) {
    const struct replica_config config = follower_config();
    memset(w, 0, sizeof *w);
    w->node = (struct follower){.now_ns = MS, .see = see, .context = w};
    follower_open(&w->node, &config, TERM);
    propose(w, true, 0);
    follower_tick(&w->node, US);
}

static void what_is_on_its_way_is_not_fetched(void **state) {
    (void)state;
    static struct world w;
    open_world(&w);
    for (uint32_t i = 0; i < 200; i++) { /* each body comes half a wait after its epoch */
        propose(&w, false, i);
        follower_tick(&w.node, WAIT / 4);
        follower_tick(&w.node, WAIT / 4);
        body(&w, i);
        follower_tick(&w.node, US);
        struct replica_event executed = {.kind = REPLICA_EVENT_EXECUTED};
        for (uint32_t a = 0; a < w.node.actions.count; a++)
            if (w.node.actions.items[a].kind == REPLICA_ACTION_DELIVER)
                executed.executed.seq = w.node.actions.items[a].seq;
        if (executed.executed.seq)
            follower_step(&w.node, &executed);
        if (i > 0)
            assert_int_equal(0, w.fetches);
    }
    follower_close(&w.node);
}

static void what_is_late_is_fetched_once(void **state) {
    (void)state;
    static struct world w;
    open_world(&w);
    propose(&w, false, 0);
    follower_tick(&w.node, WAIT - US);
    assert_int_equal(0, w.fetches);
    follower_tick(&w.node, 2 * US);
    assert_int_equal(1, w.fetches);
    assert_int_equal(1, w.fetched_count);
    follower_tick(&w.node, 100 * US); /* the answer is on its way */
    assert_int_equal(1, w.fetches);
    follower_close(&w.node);
}

/* Epochs come with their bodies many at once, out of a journal, and that ours is another is not
 * known before its epoch's turn. A right one that is refused then may be in nobody's memory any
 * more. */
static void a_right_body_puts_a_wrong_one_right_at_once(void **state) {
    (void)state;
    static struct world w;
    open_world(&w);
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    event.body = (struct replica_event_body){.id = wire_tx_id(RANGE, 1),
                                             .digest = {7, 0},
                                             .slot = 1,
                                             .owner = OWNER,
                                             .peer = REPLICA_NODE_NONE};
    body(&w, 0);
    follower_step(&w.node, &event);
    propose(&w, false, 0);
    propose(&w, false, 1);
    event.body.digest.low = 1001;
    event.body.slot = 2;
    event.body.peer = 2;
    follower_step(&w.node, &event);
    struct wire_digest digest = {0, 0};
    assert_int_equal(2, replica_body(w.node.replica, wire_tx_id(RANGE, 1), &digest));
    assert_int_equal(1001, digest.low);
    follower_close(&w.node);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_on_its_way_is_not_fetched),
        cmocka_unit_test(what_is_late_is_fetched_once),
        cmocka_unit_test(a_right_body_puts_a_wrong_one_right_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
