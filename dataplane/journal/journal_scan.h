/* journal_scan: reads the blocks of a journal in order and decides where the log ends. Pure.
 *
 *   reading --block that follows--> reading
 *      |
 *      '--any other block; the next segment's first block does not follow either--> ended: survey
 *          the rest, then judge
 *
 * A block follows when it is intact, of no older generation, and begins where the log stands. A
 * record that a crash cut short is dropped only for a block of a later generation that begins at
 * that record's position: a later opening of the store has cut it.
 * The verdict (protocol.md §9): an end below the greatest stable position that was written down
 * anywhere is corruption, any other end is a torn tail.
 *
 * Threads: any. Ownership: `blocks` are looked at during the call only. */
#ifndef MAROON_JOURNAL_SCAN_H
#define MAROON_JOURNAL_SCAN_H

#include "dataplane/journal/journal_format.h"

struct journal_scan {
    uint64_t incarnation;
    uint64_t next;           /* position of the record that begins next, or of the unfinished one */
    uint64_t stable_floor;   /* greatest stable position seen */
    uint32_t generation;     /* greatest of the blocks taken */
    uint32_t generation_max; /* greatest seen, also in the survey */
    uint32_t record_have, record_length; /* of an unfinished record; record_length 0: none */
    uint8_t record_kind;
    uint64_t record_count, record_bytes, kind_count[JOURNAL_KINDS];
    uint64_t cut_blocks; /* written behind the end: intact ones, and a broken one at the end */
    int replay_error;    /* what `replay` returned */
    uint8_t record[sizeof(struct journal_record) + JOURNAL_RECORD_MAX_BYTES];
};

void journal_scan_begin(struct journal_scan *scan, const struct journal_store_slot *store);

/* 1 when the block (at its place) goes on where the log stands. jump: it is the first of a segment
 * although the one before has blocks left. Changes nothing. */
int journal_scan_follows(const struct journal_scan *scan, const struct journal_block *block,
                         uint64_t segment, uint64_t index, int jump);

/* Takes a block that follows; hands each record that it ends to `replay` (may be NULL). Returns 0,
 * CORRUPT (intact, but not written by our rules), or what `replay` returned. */
int journal_scan_take(struct journal_scan *scan, const struct journal_block *block,
                      journal_replay_fn *replay, void *context);

/* The block at the end: neither empty, nor what this file held as an earlier segment (they are used
 * again), nor intact: a torn write. */
void journal_scan_end(struct journal_scan *scan, const struct journal_block *block,
                      uint64_t segment, uint64_t index);

/* After the end: notes what a block of the rest knows. */
void journal_scan_survey(struct journal_scan *scan, const struct journal_block *block,
                         uint64_t segment, uint64_t index);

/* 1: torn tail; 0: corruption. */
static inline int journal_scan_torn(const struct journal_scan *scan) {
    return scan->stable_floor <= scan->next;
}

#endif
