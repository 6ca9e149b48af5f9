/* When a node takes its leader for gone, and whose turn it is: node 1 of three, whose leader is
 * node 0. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "follower.h"

#define TERM 100
#define HEARTBEAT (2 * MS)
#define FLOOR (10 * MS)
#define SLICE_MAX (100 * MS)

struct world {
    struct follower node;
    uint32_t campaigns, resigned;
    bool peer_hears; /* what node 2 answers to a PING */
    bool answers;
    uint64_t pings[64], ping_count; /* to node 2, not yet answered */
};

static void see(void *context, const struct replica_action *a) {
    struct world *w = context;
    struct wire_ping ping;
    if (a->kind == REPLICA_ACTION_CAMPAIGN)
        w->campaigns++;
    if (a->kind == REPLICA_ACTION_RESIGN)
        w->resigned++;
    if (a->kind == REPLICA_ACTION_SEND && a->frame_kind == WIRE_PING && a->peer == 2 &&
        w->ping_count < 64) {
        memcpy(&ping, a->payload, sizeof ping);
        w->pings[w->ping_count++] = ping.sent_ns;
    }
}

static void frame(struct world *w, uint8_t peer, enum wire_kind kind, uint8_t flags,
                  const void *payload, uint16_t bytes) {
    follower_hear(&w->node, peer, kind, flags, payload, bytes);
}

static void heartbeat(struct world *w, uint8_t peer, uint64_t term) {
    struct wire_heartbeat beat = {.term = term};
    frame(w, peer, WIRE_HEARTBEAT, 0, &beat, sizeof beat);
}

static void answer_pings(struct world *w, bool hears) {
    for (; w->ping_count; w->ping_count--) {
        struct wire_pong pong = {.sent_ns = w->pings[w->ping_count - 1], .term = TERM};
        frame(w, 2, WIRE_PONG, hears ? WIRE_PONG_HEARS_LEADER : 0, &pong, sizeof pong);
    }
}

static void tick(struct world *w) {
    follower_tick(&w->node, 0);
}

static void pass(struct world *w) {
    if (w->answers)
        answer_pings(w, w->peer_hears);
    tick(w);
}

/* Our loop goes on, a pass each 0.5 ms. */
static void quiet(struct world *w, uint64_t ns) {
    for (uint64_t end = w->node.now_ns + ns; w->node.now_ns < end;) {
        w->node.now_ns += MS / 2;
        pass(w);
    }
}

/* Heartbeats at their interval. */
static void led(struct world *w, uint32_t beats) {
    for (uint32_t i = 0; i < beats; i++) {
        quiet(w, HEARTBEAT);
        heartbeat(w, 0, TERM);
        pass(w);
    }
}

static struct replica_facts facts(const struct world *w) {
    struct replica_facts f;
    replica_facts(w->node.replica, &f);
    return f;
}

static int setup(void **state) {
    struct replica_config config = follower_config();
    config.heartbeat_interval_ns = HEARTBEAT;
    config.slice_floor_ns = FLOOR;
    config.slice_max_ns = SLICE_MAX;
    config.pass_interval_ns = config.vector_interval_ns = MS;
    struct world *w = calloc(1, sizeof *w);
    w->node = (struct follower){.now_ns = 1000 * MS, .see = see, .context = w};
    w->answers = true;
    follower_open(&w->node, &config, TERM);
    heartbeat(w, 0, TERM);
    tick(w);
    *state = w;
    return 0;
}

static int teardown(void **state) {
    struct world *w = *state;
    follower_close(&w->node);
    free(w);
    return 0;
}

static void a_silence_of_one_slice_is_tried(void **state) {
    struct world *w = *state;
    led(w, 50);
    assert_true(facts(w).slice_ns == FLOOR);
    quiet(w, FLOOR - MS);
    assert_true(facts(w).hears_leader && w->campaigns == 0);
    quiet(w, FLOOR / 2); /* and who else hears nothing is asked meanwhile */
    assert_int_equal(w->campaigns, 1);
}

static void not_when_a_peer_hears_the_leader(void **state) {
    struct world *w = *state;
    led(w, 50);
    w->peer_hears = true;
    quiet(w, 10 * FLOOR);
    assert_int_equal(w->campaigns, 0);
}

static void the_slice_follows_gaps_that_come_again_and_again(void **state) {
    struct world *w = *state;
    for (uint32_t i = 0; i < 4; i++) { /* some in a minute do not count */
        w->peer_hears = true;
        led(w, 20);
        quiet(w, 30 * MS);
    }
    led(w, 2);
    assert_true(facts(w).slice_ns == FLOOR);
    for (uint32_t i = 0; i < 6; i++) {
        led(w, 20);
        quiet(w, 30 * MS);
    }
    led(w, 2);
    assert_in_range(facts(w).slice_ns, 45 * MS, 50 * MS);
    for (uint32_t i = 0; i < 16; i++) {
        led(w, 20);
        quiet(w, 90 * MS);
    }
    led(w, 2);
    assert_true(facts(w).slice_ns == SLICE_MAX);
    for (uint32_t i = 0; i < 3; i++) /* a minute later they are forgotten */
        led(w, 16000);
    assert_true(facts(w).slice_ns == FLOOR);
}

static void our_own_pauses_are_no_gaps_of_the_leader(void **state) {
    struct world *w = *state;
    for (uint32_t i = 0; i < 20; i++) {
        led(w, 20);
        w->node.now_ns += 40 * MS; /* we stand still */
        heartbeat(w, 0, TERM);     /* this was here all the time */
        pass(w);
    }
    assert_true(facts(w).slice_ns == FLOOR);
    w->node.now_ns += 40 * MS; /* nothing of the leader is here when we go on: it gets its slice */
    pass(w);
    assert_true(facts(w).hears_leader);
    quiet(w, FLOOR / 2);
    assert_int_equal(w->campaigns, 0);
}

/* Nor is a sleep that was announced a pause: that time is the leader's silence. */
static void the_leader_is_silent_while_we_sleep(void **state) {
    struct world *w = *state;
    led(w, 50);
    w->node.now_ns += MS / 2;
    tick(w);
    for (uint32_t i = 0; i < 5; i++) {
        replica_sleeps(w->node.replica, w->node.now_ns + 4 * MS);
        w->node.now_ns += 4 * MS;
        pass(w);
    }
    assert_false(facts(w).hears_leader);
    assert_int_equal(w->campaigns, 1);
}

/* Not only beyond a bound: what was said before a pause may have been true then. */
static void answers_from_before_our_pause_do_not_count(void **state) {
    struct world *w = *state;
    w->peer_hears = true;
    led(w, 50);
    w->answers = false;
    quiet(w, 3 * FLOOR); /* asks, and is not answered */
    assert_true(w->ping_count > 0 && w->campaigns == 0);
    w->node.now_ns += 40 * MS;
    answer_pings(w, false);
    tick(w);
    assert_int_equal(w->campaigns, 0);
    assert_true(facts(w).slice_ns == FLOOR); /* nor was the round trip so long */
    w->answers = true;
    w->peer_hears = true;
    quiet(w, 3 * FLOOR);
    assert_int_equal(w->campaigns, 0);
}

static void campaign_ends(struct world *w, bool won, bool late) {
    struct replica_event event = {.kind = REPLICA_EVENT_CAMPAIGN_RESULT};
    event.campaign.revision = event.campaign.term = TERM + 10;
    event.campaign.token = 7;
    event.campaign.won = won;
    event.campaign.late = late;
    follower_step(&w->node, &event);
}

static void lead(struct world *w) {
    campaign_ends(w, true, false);
    tick(w);
    struct wire_promise promise = {
        .term = TERM + 10, .token = 7, .promised_term = TERM + 10, .incarnations = {1, 1, 1}};
    frame(w, 2, WIRE_PROMISE, 0, &promise, sizeof promise);
    tick(w);
    assert_int_equal(facts(w).role, REPLICA_ROLE_LEADER);
}

/* A leader that stood still finds that it was replaced, and that, long ago, nobody heard it:
 * whoever replaced it has its turn. */
static void a_leader_that_hears_of_a_higher_term_waits_for_its_leader(void **state) {
    struct world *w = *state;
    led(w, 50);
    quiet(w, 2 * FLOOR);
    lead(w);
    w->answers = false;
    w->campaigns = 0;
    struct wire_ack ack = {.term = TERM + 20};
    quiet(w, FLOOR);
    answer_pings(w, false);
    frame(w, 2, WIRE_ACK, 0, &ack, sizeof ack);
    tick(w);
    assert_int_equal(facts(w).role, REPLICA_ROLE_FOLLOWER);
    w->answers = true;
    quiet(w, FLOOR);
    assert_int_equal(w->campaigns, 0);
}

/* Deposed though it was there: silences as long as this one are usual here. */
static void a_take_over_for_no_reason_is_learnt_from(void **state) {
    struct world *w = *state;
    uint64_t term = TERM;
    for (uint32_t i = 0; i < 10; i++) {
        for (uint32_t beat = 0; beat < 10; beat++) {
            quiet(w, HEARTBEAT);
            heartbeat(w, 0, term);
        }
        w->peer_hears = true;
        quiet(w, 12 * MS);
        struct wire_prepare prepare = {++term, 5};
        frame(w, 2, WIRE_PREPARE, 0, &prepare, sizeof prepare);
        struct wire_ping ping = {.sent_ns = 1};
        frame(w, 0, WIRE_PING, 0, &ping, sizeof ping); /* it lives */
        struct wire_pong pong = {.sent_ns = w->node.now_ns, .term = term};
        frame(w, 0, WIRE_PONG, WIRE_PONG_HEARS_LEADER, &pong, sizeof pong);
        term++;
    }
    assert_in_range(facts(w).slice_ns, 15 * MS, 25 * MS);
}

/* Who comes first in the ring does not wait for etcd: that is for those behind it. */
static void a_slow_etcd_delays_only_those_behind_the_first(void **state) {
    struct world *w = *state;
    struct replica_event event = {.kind = REPLICA_EVENT_ETCD_LATENCY};
    event.etcd.latency_ns = 50 * MS;
    follower_step(&w->node, &event);
    led(w, 50);
    assert_true(facts(w).ring_distance == 1 && facts(w).takeover_delay_ns == FLOOR);
    heartbeat(w, 2, TERM + 1);
    tick(w);
    assert_true(facts(w).ring_distance == 2 && facts(w).takeover_delay_ns == FLOOR + 100 * MS);
}

static void the_steps_of_a_take_over_are_noted(void **state) {
    struct world *w = *state;
    struct replica_takeover t;
    led(w, 50);
    uint64_t heard_ns = w->node.now_ns;
    quiet(w, 2 * FLOOR);
    replica_takeover(w->node.replica, &t);
    assert_true(t.committed_ns == 0 && t.won_ns == 0);
    assert_in_range(t.silent_ns, heard_ns + FLOOR, heard_ns + FLOOR + MS);
    assert_in_range(t.alone_ns, t.silent_ns, t.campaign_ns);
    assert_in_range(t.campaign_ns, t.alone_ns, heard_ns + 2 * FLOOR);
    lead(w);
    struct wire_ack ack = {.term = TERM + 10, .seq = 1};
    w->node.now_ns += MS / 2;
    frame(w, 2, WIRE_ACK, 0, &ack, sizeof ack);
    tick(w);
    replica_takeover(w->node.replica, &t);
    assert_true(t.term == TERM + 10 && t.heard_ns == heard_ns && t.won_ns &&
                t.promised_ns >= t.won_ns && t.established_ns >= t.promised_ns &&
                t.committed_ns == w->node.now_ns);
    assert_true(t.distance == 1 && t.slice_ns == FLOOR && t.floor_ns == FLOOR);
}

/* Told lost, won after all, while the next attempt is under way: that one's answer still comes. */
static void a_late_win_answers_no_other_campaign(void **state) {
    struct world *w = *state;
    led(w, 50);
    quiet(w, 2 * FLOOR);
    campaign_ends(w, false, false);
    quiet(w, 2 * FLOOR);
    assert_int_equal(w->campaigns, 2);
    campaign_ends(w, true, true);
    assert_int_equal(facts(w).role, REPLICA_ROLE_PREPARING);
    struct wire_ack ack = {.term = TERM + 20};
    frame(w, 2, WIRE_ACK, 0, &ack, sizeof ack);
    quiet(w, 10 * FLOOR);
    assert_int_equal(facts(w).role, REPLICA_ROLE_FOLLOWER);
    assert_int_equal(w->campaigns, 2);
    campaign_ends(w, false, false);
    quiet(w, 10 * FLOOR);
    assert_int_equal(w->campaigns, 3);
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_silence_of_one_slice_is_tried),
        TEST(not_when_a_peer_hears_the_leader),
        TEST(the_slice_follows_gaps_that_come_again_and_again),
        TEST(our_own_pauses_are_no_gaps_of_the_leader),
        TEST(the_leader_is_silent_while_we_sleep),
        TEST(answers_from_before_our_pause_do_not_count),
        TEST(a_leader_that_hears_of_a_higher_term_waits_for_its_leader),
        TEST(a_take_over_for_no_reason_is_learnt_from),
        TEST(a_slow_etcd_delays_only_those_behind_the_first),
        TEST(the_steps_of_a_take_over_are_noted),
        TEST(a_late_win_answers_no_other_campaign),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
