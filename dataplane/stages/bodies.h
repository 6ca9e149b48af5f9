/* bodies: the store of body bytes; the replica knows slots, this room knows what lies in them.
 *
 * All slots have room for the greatest body. The first ones' pages are taken at the start, others
 * when they are used, and free slots are handed out last in, first out, so that what is used stays
 * small and warm. Threads:
 * gossip's; other stages fill slots that gossip handed out to them. Ownership: a slot is its
 * taker's until it is given back. Errors: none but "no slot". */
#ifndef MAROON_BODIES_H
#define MAROON_BODIES_H

#include <stddef.h>
#include <stdint.h>

#include "proto/wire.h"

#define BODIES_SLOT_NONE UINT32_MAX
#define BODIES_NO_POSITION UINT64_MAX

struct body {
    uint64_t id;
    uint32_t length_bytes;
    uint32_t taken;
    uint8_t bytes[WIRE_BODY_MAX_BYTES];
};

struct bodies {
    struct body *slots;
    uint64_t *positions; /* of each taken slot's journal record; BODIES_NO_POSITION: none */
    uint32_t *free;
    uint32_t count, free_count;
};

/* Takes the pages of this memory now, so that no first touch stalls a pass later. Its content stays
 * as it is. */
void stage_warm(void *memory, size_t bytes);

/* Reserves `count` slots. Returns 0 or MRN_ERR_NO_MEMORY. */
int stage_bodies_open(struct bodies *bodies, uint32_t count);
void stage_bodies_close(struct bodies *bodies);

/* Copies a body into a slot that is the caller's already. */
void stage_bodies_fill(struct bodies *bodies, uint32_t slot, uint64_t id, const void *bytes,
                       uint32_t length_bytes);

/* Copies a body into a free slot; BODIES_SLOT_NONE when there is none. */
uint32_t stage_bodies_take(struct bodies *bodies, uint64_t id, const void *bytes,
                           uint32_t length_bytes);
/* Asserts that the slot was taken. */
void stage_bodies_give(struct bodies *bodies, uint32_t slot);

#endif
