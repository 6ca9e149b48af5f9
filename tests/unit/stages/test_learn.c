/* A peer's journal is taken by a node that has the epochs already and lacks their bodies, which no
 * peer keeps in memory: node 1 of three, as a follower and as the leader that took over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config/config.h"
#include "controlplane/dump/dump_stretch.h"
#include "dataplane/stages/internal.h"
#include "maroon/error.h"
#include "tests/unit/replica/follower.h"

#define TERM 100
#define RANGE 5
#define OWNER 77
#define NAMED 9 /* epochs: an OPEN, then each a body */
#define BODY_BYTES (sizeof(struct wire_body_header) + 8)

struct epoch_bytes {
    uint8_t bytes[512];
    uint32_t length;
};

static struct stage stage;
static struct config config;
static struct control_identity identity;
static struct worker worker;
static struct replica_actions actions;
static uint64_t delivered_seq, executed_seq;
static struct epoch_bytes epochs[NAMED + 1];
static struct wire_hash last_hash;
static char path[] = "/tmp/maroon-learn-XXXXXX";

/* The stage's own, less what a NIC and a runtime would do. */
void stage_step(struct stage *s, struct replica_event *event) {
    event->now_ns = worker.now_ns;
    event->wall_us = worker.now_ns / 1000;
    actions.count = 0;
    replica_step(s->gossip.replica, event, &actions);
    for (uint32_t i = 0; i < actions.count; i++) {
        const struct replica_action *a = &actions.items[i];
        assert_int_not_equal(a->kind, REPLICA_ACTION_FAIL_STOP);
        if (a->kind == REPLICA_ACTION_DELIVER)
            delivered_seq = a->seq;
        for (uint32_t n = 0; a->kind == REPLICA_ACTION_FREE_SLOTS && n < a->slot_count; n++)
            stage_bodies_give(&s->bodies, a->slots[n]);
    }
    assert_null(replica_check(s->gossip.replica));
}

static void tick(void) {
    struct replica_event event = {.kind = REPLICA_EVENT_TICK};
    worker.now_ns += US;
    stage_step(&stage, &event);
    while (executed_seq < delivered_seq) {
        struct replica_event executed = {.kind = REPLICA_EVENT_EXECUTED};
        executed.executed.seq = ++executed_seq;
        stage_step(&stage, &executed);
    }
}

static void frame(uint8_t peer, enum wire_kind kind, const void *payload, size_t length) {
    struct replica_event event = {.kind = REPLICA_EVENT_FRAME};
    event.frame = (struct replica_event_frame){.peer = peer,
                                               .kind = kind,
                                               .length_bytes = (uint16_t)length,
                                               .payload = payload,
                                               .incarnation = 1,
                                               .stage = WIRE_STAGE_GOSSIP};
    stage_step(&stage, &event);
}

static struct replica_facts facts(void) {
    struct replica_facts facts;
    replica_facts(stage.gossip.replica, &facts);
    return facts;
}

/* ---- the order, and a journal's records of it ---- */

static uint64_t body_id(uint64_t seq) {
    return wire_tx_id(RANGE, (uint32_t)seq - 2);
}

static void body_bytes(uint64_t seq, uint8_t bytes[BODY_BYTES]) {
    memset(bytes, 0, BODY_BYTES);
    memcpy(bytes + sizeof(struct wire_body_header), &seq, sizeof seq);
}

static void order_all(uint32_t branch) {
    struct wire_hash previous = {{0}};
    for (uint64_t seq = 1; seq <= NAMED; seq++) {
        bool open = seq == 1;
        struct wire_epoch_head head = {.seq = seq,
                                       .term = TERM,
                                       .configuration_id = 5,
                                       .logical_time_us = 1000 + seq + branch,
                                       .control_count = open,
                                       .interval_count = !open};
        struct wire_control control = {WIRE_CONTROL_OPEN, RANGE, OWNER};
        struct wire_interval interval = {body_id(seq), 1};
        uint8_t body[BODY_BYTES];
        body_bytes(seq, body);
        struct wire_digest digest =
            wire_hash_body(&identity.digest_key, body_id(seq), body, sizeof body);
        head.digest_low = open ? 0 : digest.low;
        head.digest_high = open ? 0 : digest.high;
        memcpy(head.previous_hash, previous.bytes, sizeof head.previous_hash);
        struct epoch_bytes *e = &epochs[seq];
        memcpy(e->bytes, &head, sizeof head);
        if (open)
            memcpy(e->bytes + sizeof head, &control, sizeof control);
        else
            memcpy(e->bytes + sizeof head, &interval, sizeof interval);
        e->length = wire_epoch_bytes(open, !open);
        previous = wire_hash_blake2b(e->bytes, e->length);
    }
    last_hash = previous;
}

static void propose(uint64_t seq, uint64_t commit_seq) {
    uint8_t bytes[600];
    struct wire_propose propose = {TERM, commit_seq};
    memcpy(bytes, &propose, sizeof propose);
    memcpy(bytes + sizeof propose, epochs[seq].bytes, epochs[seq].length);
    frame(0, WIRE_PROPOSE, bytes, sizeof propose + epochs[seq].length);
}

/* Records of epochs from..to as /v1/stretch gives them, `less` bytes of the last one missing. */
static void write_stretch(uint64_t from, uint64_t to, size_t less) {
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    for (uint64_t seq = from; seq <= to; seq++) {
        struct dump_body_head body_head = {body_id(seq), BODY_BYTES};
        uint8_t body[BODY_BYTES];
        struct dump_record_head head = {.epoch_bytes = (uint16_t)epochs[seq].length,
                                        .body_count = seq > 1};
        head.record_bytes = (uint32_t)sizeof head + head.epoch_bytes;
        if (head.body_count)
            head.record_bytes += (uint32_t)(sizeof body_head + sizeof body);
        body_bytes(seq, body);
        fwrite(&head, sizeof head, 1, out);
        fwrite(epochs[seq].bytes, epochs[seq].length, 1, out);
        if (head.body_count) {
            fwrite(&body_head, sizeof body_head, 1, out);
            fwrite(body, sizeof body, 1, out);
        }
    }
    long length = ftell(out);
    fclose(out);
    assert_int_equal(truncate(path, length - (long)less), 0);
}

/* Takes it all; what the control plane is told. */
static struct mailbox_up learn(uint64_t from, uint64_t to, size_t less) {
    struct mailbox_up up;
    write_stretch(from, to, less);
    stage_learn_begin(&stage, 2, path);
    while (stage.gossip.learn.bytes) {
        (void)stage_learn_poll(&stage);
        tick();
    }
    assert_int_equal(mailbox_receive_up(stage.setup.mailbox, &up), 1);
    assert_int_equal(up.kind, MAILBOX_UP_LEARNED);
    return up;
}

/* ---- the node ---- */

static int open_with(struct replica_config c) {
    c.pass_interval_ns = 2 * MS;
    memset(&stage, 0, sizeof stage);
    config.log_epochs = c.log_epochs;
    worker = (struct worker){.now_ns = MS};
    delivered_seq = executed_seq = 0;
    stage.setup.config = &config;
    stage.setup.identity = &identity;
    stage.setup.mailbox = mailbox_create(16);
    stage.gossip.worker = &worker;
    void *memory = aligned_alloc(64, (replica_size(&c) + 63) & ~(size_t)63);
    assert_non_null(memory);
    stage.gossip.replica = replica_init(memory, &c, worker.now_ns);
    assert_int_equal(stage_bodies_open(&stage.bodies, c.body_slots), 0);
    struct replica_event key = {.kind = REPLICA_EVENT_LEADER_KEY};
    key.leader_key.revision = key.leader_key.term = TERM;
    stage_step(&stage, &key);
    order_all(0);
    return 0;
}

static int open_node(void **state) {
    (void)state;
    return open_with(follower_config());
}

static int open_small_node(void **state) {
    (void)state;
    struct replica_config c = follower_config();
    c.epoch_cap = 2;
    c.body_slots = 4;
    return open_with(c);
}

static int close_node(void **state) {
    (void)state;
    stage_learn_close(&stage);
    stage_bodies_close(&stage.bodies);
    free(stage.gossip.replica);
    mailbox_destroy(stage.setup.mailbox);
    unlink(path);
    return 0;
}

static void follow(uint64_t commit_seq) {
    for (uint64_t seq = 1; seq <= NAMED; seq++)
        propose(seq, commit_seq < seq ? commit_seq : seq);
    propose(NAMED, commit_seq);
    tick();
    assert_int_equal(facts().commit_seq, commit_seq);
    assert_int_equal(facts().exec_seq, commit_seq ? 1 : 0); /* what follows the OPEN has no body */
}

static void a_follower_knows_all_as_committed(void **state) {
    (void)state;
    follow(NAMED);
    struct mailbox_up up = learn(2, NAMED, 0);
    assert_int_equal(up.error, 0);
    assert_int_equal(facts().exec_seq, NAMED);
}

static void a_follower_knows_more_than_is_committed(void **state) {
    (void)state;
    follow(3);
    struct mailbox_up up = learn(2, NAMED - 1, 0);
    assert_int_equal(up.error, 0);
    assert_int_equal(up.seq, NAMED - 1);
    assert_int_equal(facts().exec_seq, NAMED - 1);
    assert_int_equal(facts().last_seq, NAMED);
}

/* Another claimed the range before: his bodies go first, and nothing is taken until they are gone.
 */
static void a_range_that_is_being_cleared_is_waited_for(void **state) {
    (void)state;
    struct replica_event hello = {.kind = REPLICA_EVENT_RANGE_HELLO};
    hello.range_hello.range = RANGE;
    hello.range_hello.owner = OWNER + 1;
    stage_step(&stage, &hello);
    for (uint64_t seq = 2; seq < 5; seq++) {
        uint8_t bytes[BODY_BYTES] = {0};
        uint32_t slot = stage_bodies_take(&stage.bodies, body_id(seq), bytes, sizeof bytes);
        struct replica_event body = {.kind = REPLICA_EVENT_BODY};
        body.body = (struct replica_event_body){
            .id = body_id(seq), .owner = OWNER + 1, .slot = slot, .peer = REPLICA_NODE_NONE};
        stage_step(&stage, &body);
    }
    struct mailbox_up up = learn(1, NAMED, 0);
    assert_int_equal(up.error, 0);
    assert_int_equal(facts().commit_seq, NAMED);
    assert_int_equal(facts().exec_seq, NAMED);
}

/* Without that, what was refused came with another stretch, an epoch or two each second. */
static void bodies_that_have_no_room_yet_are_waited_for(void **state) {
    (void)state;
    follow(NAMED);
    assert_true(stage.bodies.count < NAMED - 1);
    struct mailbox_up up = learn(2, NAMED, 0);
    assert_int_equal(up.error, 0);
    assert_int_equal(facts().exec_seq, NAMED);
}

static void what_is_whole_of_a_torn_one_counts(void **state) {
    (void)state;
    follow(NAMED);
    struct mailbox_up up = learn(2, NAMED, 3);
    assert_int_equal(up.error, MRN_ERR_CORRUPT);
    assert_int_equal(facts().exec_seq, NAMED - 1);
}

static void another_branch_is_not_taken(void **state) {
    (void)state;
    follow(NAMED);
    order_all(1);
    (void)learn(2, NAMED, 0);
    assert_int_equal(facts().exec_seq, 1);
    assert_int_equal(stage.bodies.free_count, stage.bodies.count);
}

/* Node 0 fell; node 2 has executed all of it, and says so in its promise only. */
static void a_leader_gets_what_it_adopted(void **state) {
    (void)state;
    follow(0);
    struct replica_event won = {.kind = REPLICA_EVENT_CAMPAIGN_RESULT};
    won.campaign.revision = won.campaign.term = TERM + 1;
    won.campaign.token = 9;
    won.campaign.won = true;
    stage_step(&stage, &won);
    tick();
    struct wire_promise promise = {.term = TERM + 1,
                                   .token = 9,
                                   .promised_term = TERM + 1,
                                   .last_term = TERM,
                                   .last_seq = NAMED,
                                   .commit_seq = NAMED,
                                   .wall_clock_us = 1000,
                                   .incarnations = {1, 1, 1}};
    memcpy(promise.last_hash, last_hash.bytes, sizeof promise.last_hash);
    frame(2, WIRE_PROMISE, &promise, sizeof promise);
    assert_true(replica_leads(stage.gossip.replica));
    tick(); /* its own epoch */
    struct wire_ack ack = {TERM + 1, NAMED + 1, NAMED};
    frame(2, WIRE_ACK, &ack, sizeof ack);
    tick();
    assert_int_equal(facts().commit_seq, 0); /* k = 2, and it cannot acknowledge itself */
    struct mailbox_up up = learn(1, NAMED, 0);
    assert_int_equal(up.error, 0);
    assert_int_equal(facts().commit_seq, NAMED + 1);
    assert_int_equal(facts().exec_seq, NAMED + 1);
}

int main(void) {
    int fd = mkstemp(path);
    if (fd < 0)
        return 1;
    close(fd);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_follower_knows_all_as_committed, open_node, close_node),
        cmocka_unit_test_setup_teardown(a_follower_knows_more_than_is_committed, open_node,
                                        close_node),
        cmocka_unit_test_setup_teardown(a_range_that_is_being_cleared_is_waited_for, open_node,
                                        close_node),
        cmocka_unit_test_setup_teardown(bodies_that_have_no_room_yet_are_waited_for,
                                        open_small_node, close_node),
        cmocka_unit_test_setup_teardown(what_is_whole_of_a_torn_one_counts, open_node, close_node),
        cmocka_unit_test_setup_teardown(another_branch_is_not_taken, open_node, close_node),
        cmocka_unit_test_setup_teardown(a_leader_gets_what_it_adopted, open_node, close_node),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
