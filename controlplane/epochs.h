/* epochs: the newest published epochs, as this node has heard of them; ascending by seq.
 *
 * Pure: no clock, malloc, log. Threads: the loop's. Ownership: keeps no pointer.
 * Invariant: seq grows from place to place; at most EPOCHS_KEPT are held, the oldest go first. */
#ifndef MAROON_EPOCHS_H
#define MAROON_EPOCHS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/wire.h"

#define EPOCHS_KEPT 300

struct epochs_entry {
    uint64_t seq, term, logical_time_us;
    struct wire_hash hash, result_hash;
};

struct epochs {                             /* all zero is empty */
    struct epochs_entry items[EPOCHS_KEPT]; /* a ring */
    uint32_t first, count;
};

void epochs_clear(struct epochs *epochs);
/* Returns false when it is not newer than the newest. */
bool epochs_add(struct epochs *epochs, const struct epochs_entry *entry);
/* place 0 is the oldest; NULL beyond the newest. */
const struct epochs_entry *epochs_at(const struct epochs *epochs, uint32_t place);
const struct epochs_entry *epochs_newest(const struct epochs *epochs); /* NULL when empty */
/* Place of the first one with seq >= `from`; epochs->count when there is none. */
uint32_t epochs_find(const struct epochs *epochs, uint64_t from);

#endif
