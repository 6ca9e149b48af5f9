/* follower: a replica in a test's hands, node 1 of three whose leader is node 0; time and frames
 * are the test's. replica_check is asserted after each step. */
#ifndef MAROON_TEST_FOLLOWER_H
#define MAROON_TEST_FOLLOWER_H

#include "dataplane/replica/replica.h"

#define US UINT64_C(1000)
#define MS UINT64_C(1000000)

struct follower {
    struct replica *replica;
    struct replica_actions actions; /* of the last step */
    uint64_t now_ns, executed_seq;
    /* Called for each action of each step, in order. */
    void (*see)(void *context, const struct replica_action *action);
    void *context;
};

/* Heartbeats each 2 ms, slices of 10 to 100 ms; the rest as the tests like it. */
struct replica_config follower_config(void);

/* Makes the replica at time now_ns and tells it that node 0 holds the leader key as `term`. `see`
 * and `context` are set before. */
void follower_open(struct follower *follower, const struct replica_config *config, uint64_t term);
void follower_close(struct follower *follower);

void follower_step(struct follower *follower, struct replica_event *event);
void follower_tick(struct follower *follower, uint64_t later_ns);
/* A tick, and what it delivers is executed at once. */
void follower_run(struct follower *follower, uint64_t later_ns);
/* Wins the key as `term` and leads it, with an epoch of its own: node 2 promises, with a log as
 * ours, which ends with this epoch of the term before. */
void follower_take_over(struct follower *follower, uint64_t term, uint64_t last_seq,
                        const struct wire_hash *last_hash, uint64_t commit_seq);
/* A frame of the gossip stage. */
void follower_hear(struct follower *follower, uint8_t peer, enum wire_kind kind, uint8_t flags,
                   const void *payload, uint16_t bytes);

#endif
