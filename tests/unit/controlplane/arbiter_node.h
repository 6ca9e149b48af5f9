/* arbiter_node: an arbiter with a sink that writes down what it is told. Several share one loop. */
#ifndef MAROON_TEST_ARBITER_NODE_H
#define MAROON_TEST_ARBITER_NODE_H

#include "controlplane/arbiter.h"
#include "fixture.h"

#define NODE_GRANTS_MAX 4096

struct arbiter_node {
    struct control_config config;
    struct arbiter_sink sink;
    struct arbiter *arbiter;
    bool ready, campaigned, won;
    int error;
    struct arbiter_leader leader, campaign;
    uint32_t leaders, wins, members, index_losses;
    uint32_t polls; /* reads on the timer that were answered */
    struct arbiter_grant grants[NODE_GRANTS_MAX];
    uint32_t grant_count;
    uint32_t checked_count;
    bool checked_owned;
    uint64_t expired_range, expired_owner;
    uint32_t expired_count;
    uint32_t published_count;
    bool publish_done;
    int publish_error;
};

/* Fills the config of node `index` of `count`; opens with arbiter_node_open. */
void arbiter_node_setup(struct arbiter_node *node, const char *endpoints, uint8_t index,
                        uint8_t count);
void arbiter_node_open(struct arbiter_node *node, struct loop *loop, struct http_client *http);
void arbiter_node_close(struct arbiter_node *node);
/* A whole cluster of nodes that are set up: each must come up without an error. */
void arbiter_nodes_open(struct arbiter_node *nodes, uint8_t count, struct loop *loop,
                        struct http_client *http);
void arbiter_nodes_close(struct arbiter_node *nodes, uint8_t count);

/* Runs the loop until `condition` holds, for `limit_ms` at most; true when it holds. */
#define arbiter_await(loop, condition, limit_ms)             \
    ({                                                       \
        uint64_t until_ms_ = fixture_now_ms() + (limit_ms);  \
        while (!(condition) && fixture_now_ms() < until_ms_) \
            loop_run_once(loop, 20);                         \
        (condition);                                         \
    })
/* Runs the loop until *flag or the limit; returns *flag. */
bool arbiter_run_until(struct loop *loop, const bool *flag, int limit_ms);
void arbiter_run_for(struct loop *loop, int ms);
/* Runs until node has `count` grants. */
bool arbiter_run_grants(struct loop *loop, const struct arbiter_node *node, uint32_t count,
                        int limit_ms);

#endif
