/* A gateway core with a scripted cluster around it: frames that it sends are kept, frames of nodes
 * are made by the test, time is virtual. Threads: one. After each call the core's invariants are
 * checked. */
#ifndef MAROON_TEST_GATEWAY_FIXTURE_H
#define MAROON_TEST_GATEWAY_FIXTURE_H

#include "gateway/core/gateway_core.h"

#define SENT_MAX 65536
#define DONE_MAX 8192
#define EVENTS_MAX 256
#define OWNER 77

struct sent {
    uint8_t node, kind;
    uint64_t id;           /* TX, TX_QUERY */
    uint64_t range;        /* RANGE_* */
    uint32_t offset, end;  /* TX_QUERY: from which byte; RANGE_CLOSE */
    uint32_t owner_mark;   /* TX_QUERY */
    uint64_t nonce, owner; /* RANGE_REQUEST; RANGE_RENEW */
    struct wire_body_header body;
    uint8_t first_byte; /* TX: of the payload */
};

struct done {
    uintptr_t user;
    uint64_t id;
    uint32_t code, length_bytes;
    uint8_t *bytes;
};

struct world {
    struct gateway_core *core;
    void *memory;
    uint64_t now_us;
    struct sent *sent;
    uint32_t sent_count, done_count, state_count;
    struct done done[DONE_MAX];
    struct gateway_core_state state;
    struct gateway_core_event events[EVENTS_MAX]; /* what is beyond is counted only */
    uint32_t event_count;
    uint8_t *state_bytes;
    uint64_t ranges[2], owner;
    uint64_t other_id; /* the last one asked for under another mark than the owner's */
    uint32_t other_mark;
};

/* cmocka's set-up and tear-down: *state is a struct world with three nodes, 64 parts, no range. */
int world_make(void **state);
int world_free(void **state);
void world_restart(struct world *w, uint64_t pinned_range, uint32_t parts_max);

void world_tick(struct world *w, uint64_t us);
int world_submit(struct world *w, uint32_t bytes, uintptr_t user);
uint32_t world_count(const struct world *w, enum wire_kind kind);
const struct sent *world_last(const struct world *w, enum wire_kind kind);

/* Frames of a node. Each returns what the core said of it. RESULT and TX_STATE name the mark with
 * which their id was asked for, the owner's if it was not. */
enum wire_drop world_frame(struct world *w, uint8_t node, enum wire_kind kind, const void *bytes,
                           uint32_t length);
enum wire_drop world_grant(struct world *w, uint64_t range, uint32_t start);
enum wire_drop world_vector(struct world *w, uint8_t node, uint64_t commit_seq, uint64_t range,
                            uint32_t received, uint32_t committed, uint32_t window);
enum wire_drop world_result(struct world *w, uint64_t id, uint32_t code);
enum wire_drop world_piece(struct world *w, uint64_t id, uint32_t total, uint32_t offset,
                           uint32_t bytes);
enum wire_drop world_sealed(struct world *w, uint64_t range, uint32_t end);
enum wire_drop world_state(struct world *w, uint8_t node, uint64_t id,
                           enum wire_tx_outcome outcome);

struct gateway_core_facts world_facts(const struct world *w);

#endif
