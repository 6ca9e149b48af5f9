/* retired: all that is kept of a sealed range, in 12 bytes: its number, the position at which it
 * ended, and a mark of whose holding ended there. A table of these is at most three quarters full,
 * so that one costs 16 bytes (targets.md M2).
 *
 * The mark is 24 bits of the owner's random token, never 0; 0 stands for "not known". Owners of a
 * sealed range are only ever compared by marks, by every node: a new owner with the mark of the
 * last one would be told SEALED by all and asks for another range.
 *
 * Pure, inline, no errors. Units: positions, exclusive. */
#ifndef MAROON_PROTO_RETIRED_H
#define MAROON_PROTO_RETIRED_H

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "proto/wire.h"

struct retired { /* range's low 32 bits, then range >> 32 (2), end (31), mark (24); the rest is 0 */
    uint32_t words[3];
};

#define RETIRED_RANGE_BITS 34 /* the first of them, so a range is the key in its first 8 bytes */
#define RETIRED_BITS 89       /* of 96 */
static_assert(WIRE_RANGE_COUNT == UINT64_C(1) << RETIRED_RANGE_BITS, "a range fits");

#define RETIRED_MARK_MAX UINT32_C(0xffffff)
#define RETIRED_END_NONE UINT32_C(0x7fffffff) /* no range ends there: a free place */

/* A mark is its own mark. */
static inline uint32_t retired_mark(uint64_t owner) {
    uint32_t mark = (uint32_t)owner & RETIRED_MARK_MAX;
    return owner && !mark ? 1 : mark;
}

/* `end` <= WIRE_RANGE_OFFSETS or RETIRED_END_NONE. */
static inline struct retired retired_pack(uint64_t range, uint32_t end, uint32_t mark) {
    assert(range < WIRE_RANGE_COUNT && end <= RETIRED_END_NONE && mark <= RETIRED_MARK_MAX);
    uint64_t rest = range >> 32 | (uint64_t)end << 2 | (uint64_t)mark << 33;
    return (struct retired){{(uint32_t)range, (uint32_t)rest, (uint32_t)(rest >> 32)}};
}
static inline uint64_t retired_range(const struct retired *r) {
    return (uint64_t)(r->words[1] & 3) << 32 | r->words[0];
}
static inline uint32_t retired_end(const struct retired *r) {
    return r->words[1] >> 2 | (r->words[2] & 1) << 30;
}
static inline uint32_t retired_owner_mark(const struct retired *r) {
    return r->words[2] >> 1;
}

/* Places of a table for `count` records. */
static inline uint32_t retired_places(uint32_t count) {
    return count + count / 3 + 1;
}

#endif
