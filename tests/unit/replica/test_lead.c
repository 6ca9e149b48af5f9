/* A leader that took over without bodies that its followers hold, and that it cannot get: node 1 of
 * three, after node 0 fell. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dataplane/replica/replica.h"

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)
#define TERM 100
#define RANGE 5
#define OWNER 77
#define HELD 3  /* bodies of so many epochs are here */
#define NAMED 9 /* of so many that the log has */

struct world {
    struct replica *replica;
    struct replica_actions actions;
    uint64_t now_ns, seq, executed_seq;
    struct wire_hash previous;
    uint32_t handovers;
    uint8_t successor;
};

static void step(struct world *w, struct replica_event *event) {
    event->now_ns = w->now_ns;
    event->wall_us = w->now_ns / 1000;
    w->actions.count = 0;
    replica_step(w->replica, event, &w->actions);
    for (uint32_t i = 0; i < w->actions.count; i++) {
        const struct replica_action *a = &w->actions.items[i];
        if (a->kind != REPLICA_ACTION_SEND || a->frame_kind != WIRE_HANDOVER)
            continue;
        w->handovers++;
        w->successor = a->peer;
    }
    assert_null(replica_check(w->replica));
}

static void tick(struct world *w, uint64_t later_ns) {
    struct replica_event event = {.kind = REPLICA_EVENT_TICK};
    w->now_ns += later_ns;
    step(w, &event);
    uint64_t last = 0;
    for (uint32_t i = 0; i < w->actions.count; i++)
        if (w->actions.items[i].kind == REPLICA_ACTION_DELIVER)
            last = w->actions.items[i].seq;
    while (w->executed_seq < last) {
        struct replica_event executed = {.kind = REPLICA_EVENT_EXECUTED};
        executed.executed.seq = ++w->executed_seq;
        step(w, &executed);
    }
}

static void frame(struct world *w, uint8_t peer, enum wire_kind kind, const void *payload,
                  size_t length) {
    struct replica_event event = {.kind = REPLICA_EVENT_FRAME};
    event.frame = (struct replica_event_frame){.peer = peer,
                                               .kind = kind,
                                               .length_bytes = (uint16_t)length,
                                               .payload = payload,
                                               .incarnation = 1,
                                               .stage = WIRE_STAGE_GOSSIP};
    step(w, &event);
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
    frame(w, 0, WIRE_PROPOSE, bytes, epoch + length);
}

/* Of epoch `seq`, out of a peer's memory. */
static void body(struct world *w, uint64_t seq) {
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    event.body = (struct replica_event_body){.id = wire_tx_id(RANGE, (uint32_t)seq - 2),
                                             .digest = {1000 + seq, 0},
                                             .slot = (uint32_t)seq,
                                             .peer = 2};
    step(w, &event);
}

static void acknowledge(struct world *w, uint64_t seq) {
    struct wire_ack ack = {TERM + 1, seq, seq};
    frame(w, 0, WIRE_ACK, &ack, sizeof ack);
    frame(w, 2, WIRE_ACK, &ack, sizeof ack);
}

static uint64_t committed(const struct world *w) {
    struct replica_facts facts;
    replica_facts(w->replica, &facts);
    return facts.commit_seq;
}

/* Node 1 leads term 101 with all NAMED epochs, HELD of their bodies, and one epoch of its own,
 * which both others have acknowledged. */
static void take_over(struct world *w) {
    struct replica_config c = {.index = 1,
                               .node_count = 3,
                               .quorum = 2,
                               .ring = {0, 1, 2},
                               .incarnation = 1,
                               .configuration_id = 5,
                               .epochs_in_flight = 8,
                               .epoch_cap = 64,
                               .window = 1024,
                               .ranges_max = 16,
                               .retired_max = 16,
                               .log_epochs = 64,
                               .body_slots = 2048,
                               .deliver_max = 16,
                               .heartbeat_interval_ns = 2 * MS,
                               .slice_floor_ns = 10 * MS,
                               .slice_max_ns = 100 * MS,
                               .vector_interval_ns = MS / 10,
                               .vector_idle_ns = 5 * MS,
                               .pass_interval_ns = 2 * MS,
                               .seal_after_ns = 1000 * MS};
    memset(w, 0, sizeof *w);
    w->now_ns = MS;
    void *memory = aligned_alloc(64, (replica_size(&c) + 63) & ~(size_t)63);
    assert_non_null(memory);
    w->replica = replica_init(memory, &c, w->now_ns);
    struct replica_event key = {.kind = REPLICA_EVENT_LEADER_KEY};
    key.leader_key.revision = key.leader_key.term = TERM;
    step(w, &key);
    while (w->seq < NAMED)
        propose(w);
    for (uint64_t seq = 2; seq <= HELD; seq++)
        body(w, seq);
    tick(w, US);
    struct replica_event won = {.kind = REPLICA_EVENT_CAMPAIGN_RESULT};
    won.campaign.revision = won.campaign.term = TERM + 1;
    won.campaign.token = 9;
    won.campaign.won = true;
    step(w, &won);
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
    frame(w, 2, WIRE_PROMISE, &promise, sizeof promise);
    assert_true(replica_leads(w->replica));
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
    assert_true(replica_leads(w.replica)); /* until another has prepared */
    free(w.replica);
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
    free(w.replica);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_cannot_get_what_others_have_hands_over),
        cmocka_unit_test(who_gets_them_one_by_one_leads_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
