/* A leader that took over without bodies that its followers hold, and that it cannot get: node 1 of
 * three, after node 0 fell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "follower.h"

#define TERM 100
#define RANGE 5
#define OWNER 77
#define HELD 3  /* bodies of so many epochs are here */
#define NAMED 9 /* of so many that the log has */

struct world {
    struct follower node;
    uint64_t seq, executed_seq;
    struct wire_hash previous;
    uint32_t handovers;
    uint8_t successor;
};

static void see(void *context, const struct replica_action *a) {
    struct world *w = context;
    if (a->kind != REPLICA_ACTION_SEND || a->frame_kind != WIRE_HANDOVER)
        return;
    w->handovers++;
    w->successor = a->peer;
}

static void tick(struct world *w, uint64_t later_ns) {
    follower_tick(&w->node, later_ns);
    uint64_t last = 0;
    for (uint32_t i = 0; i < w->node.actions.count; i++)
        if (w->node.actions.items[i].kind == REPLICA_ACTION_DELIVER)
            last = w->node.actions.items[i].seq;
    while (w->executed_seq < last) {
        struct replica_event executed = {.kind = REPLICA_EVENT_EXECUTED};
        executed.executed.seq = ++w->executed_seq;
        follower_step(&w->node, &executed);
    }
}

/* The next epoch of node 0: opens the range, or orders the next body of it. */
static void propose(struct world *w) {
    uint8_t bytes[512];
    bool open = w->seq == 0;
    struct wire_propose propose = {TERM, w->seq};
    struct wire_epoch_head head = {.seq = ++w->seq,
                                   .term = TERM,
                                   .configuration_id = 5,
                                   .logical_time_us = 1000 + w->seq,
                                   .digest_low = open ? 0 : 1000 + w->seq,
                                   .control_count = open,
                                   .interval_count = !open};
    struct wire_control control = {WIRE_CONTROL_OPEN, RANGE, OWNER};
    struct wire_interval interval = {wire_tx_id(RANGE, (uint32_t)w->seq - 2), 1};
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

/* Of epoch `seq`, out of a peer's memory. */
static void body(struct world *w, uint64_t seq) {
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    event.body = (struct replica_event_body){.id = wire_tx_id(RANGE, (uint32_t)seq - 2),
                                             .digest = {1000 + seq, 0},
                                             .slot = (uint32_t)seq,
                                             .peer = 2};
    follower_step(&w->node, &event);
}

static void acknowledge(struct world *w, uint64_t seq) {
    struct wire_ack ack = {TERM + 1, seq, seq};
    follower_hear(&w->node, 0, WIRE_ACK, 0, &ack, sizeof ack);
    follower_hear(&w->node, 2, WIRE_ACK, 0, &ack, sizeof ack);
}

static uint64_t committed(const struct world *w) {
    struct replica_facts facts;
    replica_facts(w->node.replica, &facts);
    return facts.commit_seq;
}

/* Node 1 leads term 101 with all NAMED epochs, HELD of their bodies, and one epoch of its own,
 * which both others have acknowledged. */
static void take_over(struct world *w) {
    struct replica_config config = follower_config();
    config.pass_interval_ns = 2 * MS;
    memset(w, 0, sizeof *w);
    w->node = (struct follower){.now_ns = MS, .see = see, .context = w};
    follower_open(&w->node, &config, TERM);
    while (w->seq < NAMED)
        propose(w);
    for (uint64_t seq = 2; seq <= HELD; seq++)
        body(w, seq);
    tick(w, US);
    struct replica_event won = {.kind = REPLICA_EVENT_CAMPAIGN_RESULT};
    won.campaign.revision = won.campaign.term = TERM + 1;
    won.campaign.token = 9;
    won.campaign.won = true;
    follower_step(&w->node, &won);
    tick(w, US);
    struct wire_promise promise = {.term = TERM + 1,
                                   .token = 9,
                                   .promised_term = TERM + 1,
                                   .last_term = TERM,
                                   .last_seq = NAMED,
                                   .commit_seq = NAMED,
                                   .wall_clock_us = 1000,
                                   .incarnations = {1, 1, 1}};
    memcpy(promise.last_hash, w->previous.bytes, sizeof promise.last_hash);
    follower_hear(&w->node, 2, WIRE_PROMISE, 0, &promise, sizeof promise);
    assert_true(replica_leads(w->node.replica));
    tick(w, US); /* its own epoch */
    acknowledge(w, NAMED + 1);
    tick(w, US);
    assert_int_equal(committed(w), NAMED + 1);
    assert_int_equal(w->handovers, 0);
}

static void who_cannot_get_what_others_have_hands_over(void **state) {
    (void)state;
    static struct world w;
    take_over(&w);
    for (int i = 0; i < 35; i++) { /* less than four slices of 10 ms */
        acknowledge(&w, NAMED + 1);
        tick(&w, MS);
    }
    assert_int_equal(w.handovers, 0);
    for (int i = 0; i < 10; i++) {
        acknowledge(&w, NAMED + 1);
        tick(&w, MS);
    }
    assert_int_equal(w.handovers, 1);
    assert_int_not_equal(w.successor, 1);
    assert_true(replica_leads(w.node.replica)); /* until another has prepared */
    follower_close(&w.node);
}

static void who_gets_them_one_by_one_leads_on(void **state) {
    (void)state;
    static struct world w;
    take_over(&w);
    for (uint64_t seq = HELD + 1; seq <= NAMED; seq++) {
        for (int i = 0; i < 30; i++) {
            acknowledge(&w, NAMED + 1);
            tick(&w, MS);
        }
        body(&w, seq);
    }
    for (int i = 0; i < 60; i++) {
        acknowledge(&w, NAMED + 1);
        tick(&w, MS);
    }
    assert_int_equal(w.handovers, 0);
    follower_close(&w.node);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_cannot_get_what_others_have_hands_over),
        cmocka_unit_test(who_gets_them_one_by_one_leads_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
