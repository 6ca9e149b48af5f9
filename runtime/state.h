/* state: one contiguous region of 4 KiB pages that knows what changed.
 *
 *   page:  untouched --touch--> dirty --hashed--> clean --touch--> dirty
 *   while a snapshot is under way:  pending --touch--> saved (copied first) ; either --step--> done
 *
 * Every write goes through runtime_state_touch (the runtime's own, between transactions) or
 * runtime_state_write (in a transaction: the overwritten bytes are kept, and runtime_state_undo
 * puts them back).
 *
 * Purity: memory only. Threads: one at a time. Ownership: the mappings are the state's. Errors:
 * NO_MEMORY from runtime_state_open; runtime_state_write never fails, runtime_state_undo_full says
 * when to stop. */
#ifndef MAROON_RUNTIME_STATE_H
#define MAROON_RUNTIME_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/wire_hash.h"

#define STATE_PAGE_SHIFT 12
#define STATE_PAGE_BYTES (UINT32_C(1) << STATE_PAGE_SHIFT)
#define STATE_TREE_FANOUT 64
#define STATE_TREE_LEVELS_MAX 8
/* Beyond undo_bytes: room for the one table operation that was begun below the limit. */
#define STATE_UNDO_SLACK_BYTES (UINT64_C(64) << 20)

enum state_page_flag {
    STATE_PAGE_TOUCHED = 1, /* may hold other bytes than zeros */
    STATE_PAGE_DIRTY = 2,   /* its hash in the tree is old; it is in the dirty list */
    STATE_PAGE_PENDING = 4, /* the snapshot under way still needs it as it is */
    STATE_PAGE_SAVED = 8    /* its bytes for the snapshot are in the shadow */
};

/* Hashes of pages and above them of 64 nodes each, up to one. All zeros hash to zeros. */
struct state_tree {
    struct wire_hash *nodes;
    uint8_t *marks; /* per node: listed for recomputation */
    uint32_t level_count;
    uint64_t level_at[STATE_TREE_LEVELS_MAX], level_nodes[STATE_TREE_LEVELS_MAX];
    uint64_t node_count;
};

struct state {
    uint8_t *base;
    uint64_t length_bytes; /* multiple of a page */
    uint32_t page_count;
    uint32_t dirty_count;
    uint8_t *flags;  /* per page */
    uint32_t *dirty; /* pages with STATE_PAGE_DIRTY; also scratch of runtime_state_root */
    struct state_tree tree;
    uint64_t touched_count;
    uint8_t *undo;
    uint64_t undo_used_bytes, undo_limit_bytes;
    bool undo_on;
    uint8_t *shadow; /* while a snapshot is under way: saved pages, at their places */
};

int runtime_state_open(struct state *state, uint64_t length_bytes, uint64_t undo_bytes);
void runtime_state_close(struct state *state);

/* Bytes that runtime_state_open reserves for a region of this size, the shadow included. */
uint64_t runtime_state_reserved_bytes(uint64_t length_bytes, uint64_t undo_bytes);

void runtime_state_touch_page(struct state *state, uint64_t page);

/* Up to `count` pages from `page` on are made resident by one call instead of a fault each; nothing
 * else changes. Returns the page behind them. */
uint64_t runtime_state_ready(struct state *state, uint64_t page, uint64_t count);

/* Says that [offset, offset + length) is about to change. O(pages). */
static inline void runtime_state_touch(struct state *state, uint64_t offset,
                                       uint64_t length_bytes) {
    uint64_t page = offset >> STATE_PAGE_SHIFT;
    uint64_t last = (offset + length_bytes - 1) >> STATE_PAGE_SHIFT;
    for (; page <= last; page++)
        if (state->flags[page] != (STATE_PAGE_TOUCHED | STATE_PAGE_DIRTY))
            runtime_state_touch_page(state, page);
}

static inline const void *runtime_state_at(const struct state *state, uint64_t offset) {
    return state->base + offset;
}

/* runtime_state_touch, and the place to write to. Not for transactions. */
static inline void *runtime_state_change(struct state *state, uint64_t offset,
                                         uint64_t length_bytes) {
    runtime_state_touch(state, offset, length_bytes);
    return state->base + offset;
}

/* As runtime_state_change; in a transaction the old bytes are kept for runtime_state_undo. */
void *runtime_state_write(struct state *state, uint64_t offset, uint32_t length_bytes);

static inline void runtime_state_transaction_begin(struct state *state) {
    state->undo_used_bytes = 0;
    state->undo_on = true;
}
static inline void runtime_state_transaction_end(struct state *state) {
    state->undo_on = false;
}

/* True when the transaction may not write more. */
static inline bool runtime_state_undo_full(const struct state *state) {
    return state->undo_used_bytes >= state->undo_limit_bytes;
}

/* Puts back every byte written since state_transaction_begin, and ends the transaction. */
void runtime_state_undo(struct state *state);

/* Hash of the region; see runtime_state_hash. */
struct wire_hash runtime_state_root(struct state *state);

/* ---- filling a state that was just opened: several threads at once, each its own pages ---- */

/* `count` pages get their bytes and hashes. `nth`: how many others have lower numbers. */
void runtime_state_fill(struct state *state, uint32_t nth, const uint32_t *pages,
                        const void *const *bytes, uint32_t count);

/* After all `count` pages, by one thread: as runtime_state_root. */
struct wire_hash runtime_state_filled(struct state *state, uint32_t count);

/* ---- the tree alone, for snapshots ---- */

int runtime_state_tree_open(struct state_tree *tree, uint64_t page_count);
void runtime_state_tree_close(struct state_tree *tree);
struct wire_hash runtime_state_page_hash(const void *page);
/* Recomputes the node above leaves [64 i, 64 i + 64). */
void runtime_state_tree_fold(struct state_tree *tree, uint64_t i);
/* Recomputes everything above level 1, and gives the hash of the whole. */
struct wire_hash runtime_state_tree_finish(struct state_tree *tree);

/* An anonymous mapping that becomes resident by use; NULL when refused. */
void *runtime_state_reserve(uint64_t length_bytes);
void runtime_state_release(void *memory, uint64_t length_bytes);

#endif
