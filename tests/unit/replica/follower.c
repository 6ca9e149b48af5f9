#include "follower.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct replica_config follower_config(void) {
    return (struct replica_config){.index = 1,
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
}

void follower_open(struct follower *follower, const struct replica_config *config, uint64_t term) {
    void *memory = aligned_alloc(64, (replica_size(config) + 63) & ~(size_t)63);
    assert_non_null(memory);
    follower->replica = replica_init(memory, config, follower->now_ns);
    struct replica_event key = {.kind = REPLICA_EVENT_LEADER_KEY};
    key.leader_key.revision = key.leader_key.term = term;
    key.leader_key.node = 0;
    follower_step(follower, &key);
}

void follower_close(struct follower *follower) {
    free(follower->replica);
    follower->replica = NULL;
}

void follower_step(struct follower *follower, struct replica_event *event) {
    event->now_ns = follower->now_ns;
    event->wall_us = follower->now_ns / 1000;
    follower->actions.count = 0;
    replica_step(follower->replica, event, &follower->actions);
    for (uint32_t i = 0; i < follower->actions.count; i++)
        follower->see(follower->context, &follower->actions.items[i]);
    assert_null(replica_check(follower->replica));
}

void follower_tick(struct follower *follower, uint64_t later_ns) {
    struct replica_event event = {.kind = REPLICA_EVENT_TICK};
    follower->now_ns += later_ns;
    follower_step(follower, &event);
}

void follower_run(struct follower *follower, uint64_t later_ns) {
    uint64_t last = 0;
    follower_tick(follower, later_ns);
    for (uint32_t i = 0; i < follower->actions.count; i++)
        if (follower->actions.items[i].kind == REPLICA_ACTION_DELIVER)
            last = follower->actions.items[i].seq;
    while (follower->executed_seq < last) {
        struct replica_event executed = {.kind = REPLICA_EVENT_EXECUTED};
        executed.executed.seq = ++follower->executed_seq;
        follower_step(follower, &executed);
    }
}

void follower_hear(struct follower *follower, uint8_t peer, enum wire_kind kind, uint8_t flags,
                   const void *payload, uint16_t bytes) {
    struct replica_event event = {.kind = REPLICA_EVENT_FRAME};
    event.frame = (struct replica_event_frame){.peer = peer,
                                               .kind = (uint8_t)kind,
                                               .flags = flags,
                                               .length_bytes = bytes,
                                               .payload = payload,
                                               .incarnation = 1,
                                               .stage = WIRE_STAGE_GOSSIP};
    follower_step(follower, &event);
}

void follower_take_over(struct follower *follower, uint64_t term, uint64_t last_seq,
                        const struct wire_hash *last_hash, uint64_t commit_seq) {
    struct replica_event won = {.kind = REPLICA_EVENT_CAMPAIGN_RESULT};
    won.campaign.revision = won.campaign.term = term;
    won.campaign.token = 9;
    won.campaign.won = true;
    follower_step(follower, &won);
    follower_run(follower, US);
    struct wire_promise promise = {.term = term,
                                   .token = won.campaign.token,
                                   .promised_term = term,
                                   .last_term = term - 1,
                                   .last_seq = last_seq,
                                   .commit_seq = commit_seq,
                                   .wall_clock_us = 1000,
                                   .incarnations = {1, 1, 1}};
    memcpy(promise.last_hash, last_hash->bytes, sizeof promise.last_hash);
    follower_hear(follower, 2, WIRE_PROMISE, 0, &promise, sizeof promise);
    assert_true(replica_leads(follower->replica));
    follower_run(follower, US);
}
