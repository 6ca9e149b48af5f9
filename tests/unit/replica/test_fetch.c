/* When a follower asks for a body that its leader's epoch names and that is not here yet: node 1 of
 * three, whose leader is node 0. */
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
#define WAIT (200 * US) /* at least so long a body may be on its way */

struct world {
    struct replica *replica;
    struct replica_actions actions;
    uint64_t now_ns, seq;
    struct wire_hash previous;
    uint32_t fetches, fetched_count, next_body; /* bodies asked for; the next one's offset */
};

static void step(struct world *w, struct replica_event *event) {
    event->now_ns = w->now_ns;
    event->wall_us = w->now_ns / 1000;
    w->actions.count = 0;
    replica_step(w->replica, event, &w->actions);
    for (uint32_t i = 0; i < w->actions.count; i++) {
        const struct replica_action *a = &w->actions.items[i];
        struct wire_fetch fetch;
        if (a->kind != REPLICA_ACTION_SEND || a->frame_kind != WIRE_FETCH)
            continue;
        memcpy(&fetch, a->payload, sizeof fetch);
        w->fetches++;
        w->fetched_count += fetch.count;
    }
    assert_null(replica_check(w->replica));
}

static void tick(struct world *w, uint64_t later_ns) {
    struct replica_event event = {.kind = REPLICA_EVENT_TICK};
    w->now_ns += later_ns;
    step(w, &event);
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
    struct replica_event event = {.kind = REPLICA_EVENT_FRAME};
    event.frame = (struct replica_event_frame){.peer = 0,
                                               .kind = WIRE_PROPOSE,
                                               .length_bytes = (uint16_t)(epoch + length),
                                               .payload = bytes,
                                               .incarnation = 1,
                                               .stage = WIRE_STAGE_GOSSIP};
    step(w, &event);
}

static void body(struct world *w, uint32_t offset) {
    struct replica_event event = {.kind = REPLICA_EVENT_BODY};
    event.body = (struct replica_event_body){.id = wire_tx_id(RANGE, offset),
                                             .digest = {1000 + offset, 0},
                                             .slot = offset,
                                             .owner = OWNER,
                                             .peer = REPLICA_NODE_NONE};
    step(w, &event);
}

static void open_world(struct world *w) {
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
                               .seal_after_ns = 1000 * MS};
    memset(w, 0, sizeof *w);
    w->now_ns = MS;
    void *memory = aligned_alloc(64, (replica_size(&c) + 63) & ~(size_t)63);
    assert_non_null(memory);
    w->replica = replica_init(memory, &c, w->now_ns);
    struct replica_event key = {.kind = REPLICA_EVENT_LEADER_KEY};
    key.leader_key.revision = key.leader_key.term = TERM;
    key.leader_key.node = 0;
    step(w, &key);
    propose(w, true, 0);
    tick(w, US);
}

static void what_is_on_its_way_is_not_fetched(void **state) {
    (void)state;
    static struct world w;
    open_world(&w);
    for (uint32_t i = 0; i < 200; i++) { /* each body comes half a wait after its epoch */
        propose(&w, false, i);
        tick(&w, WAIT / 4);
        tick(&w, WAIT / 4);
        body(&w, i);
        tick(&w, US);
        struct replica_event executed = {.kind = REPLICA_EVENT_EXECUTED};
        for (uint32_t a = 0; a < w.actions.count; a++)
            if (w.actions.items[a].kind == REPLICA_ACTION_DELIVER)
                executed.executed.seq = w.actions.items[a].seq;
        if (executed.executed.seq)
            step(&w, &executed);
        if (i > 0)
            assert_int_equal(0, w.fetches);
    }
    free(w.replica);
}

static void what_is_late_is_fetched_once(void **state) {
    (void)state;
    static struct world w;
    open_world(&w);
    propose(&w, false, 0);
    tick(&w, WAIT - US);
    assert_int_equal(0, w.fetches);
    tick(&w, 2 * US);
    assert_int_equal(1, w.fetches);
    assert_int_equal(1, w.fetched_count);
    tick(&w, 100 * US); /* the answer is on its way */
    assert_int_equal(1, w.fetches);
    free(w.replica);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_on_its_way_is_not_fetched),
        cmocka_unit_test(what_is_late_is_fetched_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
