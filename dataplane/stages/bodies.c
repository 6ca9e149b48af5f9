#include "dataplane/stages/bodies.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <maroon/error.h>

#define PAGE_BYTES 4096
#define WARM_COUNT 24576 /* what lies here some ms after a stall at full load */

/* A page touched for the first time costs 2 to 14 us on a virtual machine, sometimes milliseconds.
 * A kernel that does not know the call does as it always did. */
void stage_warm(void *memory, size_t bytes) {
    uintptr_t from = ((uintptr_t)memory + PAGE_BYTES - 1) & ~(uintptr_t)(PAGE_BYTES - 1);
    uintptr_t to = ((uintptr_t)memory + bytes) & ~(uintptr_t)(PAGE_BYTES - 1);
    if (from < to)
        (void)madvise((void *)from, to - from, MADV_POPULATE_WRITE);
}

int stage_bodies_open(struct bodies *b, uint32_t count) {
    memset(b, 0, sizeof *b);
    void *slots = mmap(NULL, count * sizeof *b->slots, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    uint32_t *stack = malloc(count * sizeof *stack);
    uint64_t *positions = malloc(count * sizeof *positions);
    if (slots == MAP_FAILED || !stack || !positions) {
        free(stack);
        free(positions);
        if (slots != MAP_FAILED)
            munmap(slots, count * sizeof *b->slots);
        return MRN_ERR_NO_MEMORY;
    }
    stage_warm(slots, (count < WARM_COUNT ? count : WARM_COUNT) * sizeof *b->slots);
    b->slots = slots;
    b->free = stack;
    b->positions = positions;
    b->count = b->free_count = count;
    for (uint32_t i = 0; i < count; i++) {
        stack[i] = count - 1 - i;
        positions[i] = BODIES_NO_POSITION;
    }
    return 0;
}

void stage_bodies_close(struct bodies *b) {
    if (b->slots)
        munmap(b->slots, b->count * sizeof *b->slots);
    free(b->free);
    free(b->positions);
    memset(b, 0, sizeof *b);
}

void stage_bodies_fill(struct bodies *b, uint32_t slot, uint64_t id, const void *bytes,
                       uint32_t length_bytes) {
    struct body *body = &b->slots[slot];
    assert(length_bytes <= WIRE_BODY_MAX_BYTES);
    body->id = id;
    body->length_bytes = length_bytes;
    body->taken = 1;
    memcpy(body->bytes, bytes, length_bytes);
}

uint32_t stage_bodies_take(struct bodies *b, uint64_t id, const void *bytes,
                           uint32_t length_bytes) {
    if (!b->free_count)
        return BODIES_SLOT_NONE;
    uint32_t slot = b->free[--b->free_count];
    stage_bodies_fill(b, slot, id, bytes, length_bytes);
    return slot;
}

void stage_bodies_give(struct bodies *b, uint32_t slot) {
    assert(slot < b->count && b->slots[slot].taken);
    b->slots[slot].taken = 0;
    b->positions[slot] = BODIES_NO_POSITION;
    b->free[b->free_count++] = slot;
}
