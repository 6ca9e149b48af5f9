/* struct journal, shared by the files of the room. Private. Its contract: journal.h. */
#ifndef MAROON_JOURNAL_STATE_H
#define MAROON_JOURNAL_STATE_H

#include "dataplane/journal/journal_format.h"
#include "dataplane/journal/journal_keeper.h"
#include "dataplane/journal/journal_recover.h"
#include "dataplane/journal/journal_writer.h"

#define JOURNAL_POSITION_NONE UINT64_MAX

/* One write. Batches are numbered; number modulo batch_count gives the buffer.
 *   done <= submitted <= filling: [done, submitted) are in flight or wait for an earlier one,
 *   [submitted, filling) are full and wait to be written, `filling` takes records. */
struct journal_batch {
    struct journal_packer packer;
    struct journal_block *blocks;
    uint64_t oldest_ns;    /* when its first record came */
    uint64_t submitted_ns; /* the caller's clock */
    uint32_t length_bytes; /* once sealed */
    int begun;             /* has a place in a segment, and records unless it is a mark */
    int urgent;
    int finished; /* its write is over */
};

struct journal {
    struct journal_config config; /* with defaults filled in */
    struct journal_writer writer;
    struct journal_keeper keeper;
    struct journal_batch batches[JOURNAL_WRITES_MAX];
    uint8_t *memory;                   /* of all batches */
    uint64_t done, submitted, filling; /* batch numbers */
    uint32_t in_flight;                /* writes not yet reaped */

    uint64_t next, stable; /* positions */
    uint64_t marked;       /* greatest stable position written down */
    uint64_t yielded_ns;
    uint64_t active_ns;               /* when a record was last appended or became stable */
    uint64_t segment, segment_begin;  /* in use; oldest kept */
    uint64_t block_next, block_count; /* in the segment in use */
    uint32_t generation;
    uint64_t newest[JOURNAL_KINDS]; /* per sticky kind: the newest appended */
    uint64_t kept[JOURNAL_KINDS];   /* … and the newest of those known stable */

    int error;
    char text[JOURNAL_TEXT_BYTES];
    char torn[JOURNAL_TORN_BYTES]; /* where the tail was cut at open; empty: nowhere */
    char description[JOURNAL_TEXT_BYTES];
    struct journal_counters counters; /* each field stored relaxed by the producer */
};

static inline void journal_count(uint64_t *counter, uint64_t more) {
    __atomic_store_n(counter, *counter + more, __ATOMIC_RELAXED);
}

int journal_kind_sticky(uint32_t kind);

/* Seals what fills and submits all that waits, as far as writes_max allows. */
void journal_flush(struct journal *journal, uint64_t now_ns);

#endif
