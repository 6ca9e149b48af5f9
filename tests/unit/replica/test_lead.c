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
    uint64_t seq, commit_max;
    struct wire_hash previous;
    uint32_t handovers, resignations, campaigns;
    uint8_t successor;
};

static void see(void *context, const struct replica_action *a) {
    struct world *w = context;
    w->resignations += a->kind == REPLICA_ACTION_RESIGN;
    w->campaigns += a->kind == REPLICA_ACTION_CAMPAIGN;
    if (a->kind != REPLICA_ACTION_SEND || a->frame_kind != WIRE_HANDOVER)
        return;
    w->handovers++;
    w->successor = a->peer;
}

/* The next epoch of node 0: opens the range, or orders the next body of it. */
static void propose(struct world *w) {
    uint8_t bytes[512];
    bool open = w->seq == 0;
    struct wire_propose propose = {TERM, w->seq < w->commit_max ? w->seq : w->commit_max};
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

/* Node 1 leads term 101 with all NAMED epochs, of which so many are committed, HELD of their
 * bodies, and one epoch of its own. */
static void lead(struct world *w, uint64_t commit_seq) {
    struct replica_config config = follower_config();
    config.pass_interval_ns = 2 * MS;
    memset(w, 0, sizeof *w);
    w->node = (struct follower){.now_ns = MS, .see = see, .context = w};
    w->commit_max = commit_seq;
    follower_open(&w->node, &config, TERM);
    while (w->seq < NAMED)
        propose(w);
    for (uint64_t seq = 2; seq <= HELD; seq++)
        body(w, seq);
    follower_run(&w->node, US);
    follower_take_over(&w->node, TERM + 1, NAMED, &w->previous, commit_seq);
}

/* And both others have acknowledged that. */
static void take_over(struct world *w) {
    lead(w, NAMED);
    acknowledge(w, NAMED + 1);
    follower_run(&w->node, US);
    assert_int_equal(committed(w), NAMED + 1);
    assert_int_equal(w->handovers, 0);
}

static void who_cannot_get_what_others_have_hands_over(void **state) {
    (void)state;
    static struct world w;
    take_over(&w);
    for (int i = 0; i < 35; i++) { /* less than four slices of 10 ms */
        acknowledge(&w, NAMED + 1);
        follower_run(&w.node, MS);
    }
    assert_int_equal(w.handovers, 0);
    for (int i = 0; i < 10; i++) {
        acknowledge(&w, NAMED + 1);
        follower_run(&w.node, MS);
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
            follower_run(&w.node, MS);
        }
        body(&w, seq);
    }
    for (int i = 0; i < 60; i++) {
        acknowledge(&w, NAMED + 1);
        follower_run(&w.node, MS);
    }
    assert_int_equal(w.handovers, 0);
    follower_close(&w.node);
}

/* Leads and hears the others acknowledge HELD epochs for `ms`. */
static void lead_on(struct world *w, int ms) {
    for (int i = 0; i < ms; i++) {
        acknowledge(w, HELD);
        follower_run(&w->node, MS);
    }
}

/* The others had promised more, and forgot it with their memory: bodies that nobody has any more,
 * of epochs that were not committed. A term of its own again leaves them out. */
static void what_nobody_could_acknowledge_goes_with_another_term(void **state) {
    (void)state;
    static struct world w;
    lead(&w, HELD);
    lead_on(&w, 35);
    assert_int_equal(w.resignations, 0);
    lead_on(&w, 10);
    assert_int_equal(w.resignations, 1);
    assert_int_equal(w.handovers, 0);
    assert_int_equal(w.campaigns, 0);
    assert_true(replica_leads(w.node.replica)); /* etcd may be away */
    struct replica_event gone = {.kind = REPLICA_EVENT_LEADER_KEY};
    gone.leader_key.node = REPLICA_NODE_NONE;
    follower_step(&w.node, &gone);
    follower_run(&w.node, US);
    assert_int_equal(w.campaigns, 1);
    follower_close(&w.node);
}

/* One of them has all, but they are too few: its term would be the better one. */
static void who_could_acknowledge_more_is_handed_over_to(void **state) {
    (void)state;
    static struct world w;
    lead(&w, HELD);
    for (int i = 0; i < 45; i++) {
        struct wire_ack ack = {TERM + 1, HELD + 1, HELD};
        acknowledge(&w, HELD);
        follower_hear(&w.node, 2, WIRE_ACK, 0, &ack, sizeof ack);
        follower_run(&w.node, MS);
    }
    assert_int_equal(w.handovers, 1);
    assert_int_equal(w.successor, 2);
    assert_int_equal(w.resignations, 0);
    follower_close(&w.node);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_cannot_get_what_others_have_hands_over),
        cmocka_unit_test(who_gets_them_one_by_one_leads_on),
        cmocka_unit_test(what_nobody_could_acknowledge_goes_with_another_term),
        cmocka_unit_test(who_could_acknowledge_more_is_handed_over_to),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
