#include "runtime/state.h"

#include <assert.h>
#include <string.h>
#include <sys/mman.h>

#include <maroon/error.h>

#define STATE_HASH_PAGES 8 /* at once: as many as the hash has lanes */

void *runtime_state_reserve(uint64_t length_bytes) {
    void *memory = mmap(NULL, length_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

void runtime_state_release(void *memory, uint64_t length_bytes) {
    if (memory != NULL) {
        int failed = munmap(memory, length_bytes);
        assert(!failed); /* only for arguments that are not a mapping */
        (void)failed;
    }
}

/* ---- tree ---- */

static uint64_t tree_shape(struct state_tree *tree, uint64_t page_count) {
    uint64_t count = page_count, total = 0;
    uint32_t level = 0;
    for (;; level++) {
        assert(level < STATE_TREE_LEVELS_MAX);
        tree->level_at[level] = total;
        tree->level_nodes[level] = count;
        total += count;
        if (count == 1 && level > 0)
            break;
        count = (count + STATE_TREE_FANOUT - 1) / STATE_TREE_FANOUT;
    }
    tree->level_count = level + 1;
    tree->node_count = total;
    return total;
}

int runtime_state_tree_open(struct state_tree *tree, uint64_t page_count) {
    uint64_t total = tree_shape(tree, page_count);
    tree->nodes = runtime_state_reserve(total * sizeof tree->nodes[0]);
    tree->marks = runtime_state_reserve(total);
    if (tree->nodes != NULL && tree->marks != NULL)
        return 0;
    runtime_state_tree_close(tree);
    return MRN_ERR_NO_MEMORY;
}

void runtime_state_tree_close(struct state_tree *tree) {
    runtime_state_release(tree->nodes, tree->node_count * sizeof tree->nodes[0]);
    runtime_state_release(tree->marks, tree->node_count);
    tree->nodes = NULL;
    tree->marks = NULL;
}

static bool all_zero(const void *bytes, size_t length_bytes) {
    const uint8_t *at = bytes;
    uint64_t first;
    memcpy(&first, at, sizeof first);
    return first == 0 && memcmp(at, at + 8, length_bytes - 8) == 0;
}

struct wire_hash runtime_state_page_hash(const void *page) {
    if (all_zero(page, STATE_PAGE_BYTES))
        return (struct wire_hash){{0}};
    return wire_hash_blake2b(page, STATE_PAGE_BYTES);
}

/* Of `count` pages that are to be hashed anew. */
static void leaves_fill(struct state *state, const uint32_t *pages, uint32_t count) {
    const void *inputs[STATE_HASH_PAGES] = {NULL};
    struct wire_hash hashes[STATE_HASH_PAGES];
    uint32_t numbers[STATE_HASH_PAGES], filled = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t page = pages[i];
        const uint8_t *bytes = state->base + ((uint64_t)page << STATE_PAGE_SHIFT);
        state->flags[page] &= (uint8_t)~STATE_PAGE_DIRTY;
        if (all_zero(bytes, STATE_PAGE_BYTES)) {
            state->tree.nodes[page] = (struct wire_hash){{0}};
            continue;
        }
        inputs[filled] = bytes;
        numbers[filled++] = page;
    }
    wire_hash_blake2b_many(inputs, STATE_PAGE_BYTES, filled, hashes);
    for (uint32_t i = 0; i < filled; i++)
        state->tree.nodes[numbers[i]] = hashes[i];
}

static void tree_fold_level(struct state_tree *tree, uint32_t level, uint64_t i) {
    uint64_t first = i * STATE_TREE_FANOUT;
    uint64_t count = tree->level_nodes[level - 1] - first;
    if (count > STATE_TREE_FANOUT)
        count = STATE_TREE_FANOUT;
    const struct wire_hash *children = &tree->nodes[tree->level_at[level - 1] + first];
    struct wire_hash *node = &tree->nodes[tree->level_at[level] + i];
    size_t length_bytes = count * sizeof children[0];
    *node = all_zero(children, length_bytes) ? (struct wire_hash){{0}}
                                             : wire_hash_blake2b(children, length_bytes);
}

void runtime_state_tree_fold(struct state_tree *tree, uint64_t i) {
    tree_fold_level(tree, 1, i);
}

/* The root, bound to the region's size. */
static struct wire_hash tree_root(const struct state_tree *tree) {
    uint64_t pages = tree->level_nodes[0];
    const struct wire_hash *root = &tree->nodes[tree->node_count - 1];
    return wire_hash_blake2b_pair(root, sizeof *root, &pages, sizeof pages);
}

struct wire_hash runtime_state_tree_finish(struct state_tree *tree) {
    for (uint32_t level = 2; level < tree->level_count; level++)
        for (uint64_t i = 0; i < tree->level_nodes[level]; i++)
            tree_fold_level(tree, level, i);
    return tree_root(tree);
}

/* ---- state ---- */

uint64_t runtime_state_reserved_bytes(uint64_t length_bytes, uint64_t undo_bytes) {
    struct state_tree shape;
    uint64_t pages = length_bytes / STATE_PAGE_BYTES;
    uint64_t nodes = tree_shape(&shape, pages);
    return 2 * length_bytes + pages * 5 + 2 * nodes * (sizeof(struct wire_hash) + 1) + undo_bytes +
           STATE_UNDO_SLACK_BYTES;
}

int runtime_state_open(struct state *state, uint64_t length_bytes, uint64_t undo_bytes) {
    assert(length_bytes % STATE_PAGE_BYTES == 0 && length_bytes / STATE_PAGE_BYTES < UINT32_MAX);
    memset(state, 0, sizeof *state);
    state->length_bytes = length_bytes;
    state->page_count = (uint32_t)(length_bytes / STATE_PAGE_BYTES);
    state->undo_limit_bytes = undo_bytes;
    state->base = runtime_state_reserve(length_bytes);
    state->flags = runtime_state_reserve(state->page_count);
    state->dirty = runtime_state_reserve(state->page_count * sizeof state->dirty[0]);
    state->undo = runtime_state_reserve(undo_bytes + STATE_UNDO_SLACK_BYTES);
    if (state->base == NULL || state->flags == NULL || state->dirty == NULL ||
        state->undo == NULL || runtime_state_tree_open(&state->tree, state->page_count) != 0) {
        runtime_state_close(state);
        return MRN_ERR_NO_MEMORY;
    }
    return 0;
}

void runtime_state_close(struct state *state) {
    runtime_state_release(state->base, state->length_bytes);
    runtime_state_release(state->flags, state->page_count);
    runtime_state_release(state->dirty, state->page_count * sizeof state->dirty[0]);
    runtime_state_release(state->undo, state->undo_limit_bytes + STATE_UNDO_SLACK_BYTES);
    runtime_state_release(state->shadow, state->length_bytes);
    runtime_state_tree_close(&state->tree);
    memset(state, 0, sizeof *state);
}

void runtime_state_touch_page(struct state *state, uint64_t page) {
    assert(page < state->page_count);
    uint8_t flags = state->flags[page];
    if (flags & STATE_PAGE_PENDING) {
        uint64_t at = page << STATE_PAGE_SHIFT;
        memcpy(state->shadow + at, state->base + at, STATE_PAGE_BYTES);
        flags = (uint8_t)((flags & ~STATE_PAGE_PENDING) | STATE_PAGE_SAVED);
    }
    if (!(flags & STATE_PAGE_TOUCHED))
        state->touched_count++;
    if (!(flags & STATE_PAGE_DIRTY))
        state->dirty[state->dirty_count++] = (uint32_t)page;
    state->flags[page] = flags | STATE_PAGE_TOUCHED | STATE_PAGE_DIRTY;
}

uint64_t runtime_state_ready(struct state *state, uint64_t page, uint64_t count) {
    uint64_t left = state->page_count - page;
    if (count > left)
        count = left;
#ifdef MADV_POPULATE_WRITE /* an older kernel refuses: then they become so one by one */
    (void)madvise(state->base + (page << STATE_PAGE_SHIFT), count << STATE_PAGE_SHIFT,
                  MADV_POPULATE_WRITE);
#endif
    return page + count;
}

/* An undo record: the old bytes, padded to 8, then this. Read from the end. */
struct undo_record {
    uint64_t offset;
    uint64_t length_bytes;
};

void *runtime_state_write(struct state *state, uint64_t offset, uint32_t length_bytes) {
    assert(length_bytes > 0 && offset + length_bytes <= state->length_bytes);
    runtime_state_touch(state, offset, length_bytes);
    uint8_t *place = state->base + offset;
    if (!state->undo_on)
        return place;
    uint64_t padded_bytes = ((uint64_t)length_bytes + 7) & ~UINT64_C(7);
    uint64_t end = state->undo_used_bytes + padded_bytes + sizeof(struct undo_record);
    assert(end <= state->undo_limit_bytes + STATE_UNDO_SLACK_BYTES);
    uint8_t *at = state->undo + state->undo_used_bytes;
    struct undo_record record = {offset, length_bytes};
    memcpy(at, place, length_bytes);
    memcpy(at + padded_bytes, &record, sizeof record);
    state->undo_used_bytes = end;
    return place;
}

void runtime_state_undo(struct state *state) {
    assert(state->undo_on);
    uint64_t used_bytes = state->undo_used_bytes;
    while (used_bytes > 0) {
        struct undo_record record;
        used_bytes -= sizeof record;
        memcpy(&record, state->undo + used_bytes, sizeof record);
        used_bytes -= (record.length_bytes + 7) & ~UINT64_C(7);
        memcpy(state->base + record.offset, state->undo + used_bytes, record.length_bytes);
    }
    state->undo_used_bytes = 0;
    state->undo_on = false;
}

/* Above the leaves of the dirty pages, which are as they should be. */
static struct wire_hash fold_dirty(struct state *state) {
    struct state_tree *tree = &state->tree;
    uint32_t *list = state->dirty;
    uint64_t count = state->dirty_count;
    for (uint32_t level = 1; level < tree->level_count; level++) {
        uint64_t parents = 0; /* written over the list: never more than were read */
        for (uint64_t i = 0; i < count; i++) {
            uint32_t parent = list[i] / STATE_TREE_FANOUT;
            uint8_t *mark = &tree->marks[tree->level_at[level] + parent];
            if (!*mark) {
                *mark = 1;
                list[parents++] = parent;
            }
        }
        count = parents;
        for (uint64_t i = 0; i < count; i++) {
            tree->marks[tree->level_at[level] + list[i]] = 0;
            tree_fold_level(tree, level, list[i]);
        }
    }
    state->dirty_count = 0;
    return tree_root(tree);
}

struct wire_hash runtime_state_root(struct state *state) {
    uint32_t count = state->dirty_count;
    for (uint32_t i = 0; i < count; i += STATE_HASH_PAGES)
        leaves_fill(state, &state->dirty[i],
                    count - i < STATE_HASH_PAGES ? count - i : STATE_HASH_PAGES);
    return fold_dirty(state);
}

/* ---- filling ---- */

void runtime_state_fill(struct state *state, uint32_t nth, const uint32_t *pages,
                        const void *const *bytes, uint32_t count) {
    for (uint32_t done = 0, some; done < count; done += some) {
        some = count - done < STATE_HASH_PAGES ? count - done : STATE_HASH_PAGES;
        for (uint32_t i = done; i < done + some; i++) {
            assert(pages[i] < state->page_count);
            memcpy(state->base + ((uint64_t)pages[i] << STATE_PAGE_SHIFT), bytes[i],
                   STATE_PAGE_BYTES);
            state->flags[pages[i]] = STATE_PAGE_TOUCHED;
            state->dirty[nth + i] = pages[i];
        }
        leaves_fill(state, &pages[done], some);
    }
}

struct wire_hash runtime_state_filled(struct state *state, uint32_t count) {
    state->touched_count = state->dirty_count = count;
    return fold_dirty(state);
}
