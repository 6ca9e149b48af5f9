/* journal_keeper: the journal's thread. Prepares segments ahead of use, deletes or recycles
 * released ones, keeps the store file. Private to the journal.
 *
 * Threads: the producer writes the fields of the first group, the keeper those of the second; each
 * is published by a release store and read by an acquire load. journal_keeper_kick may be called by
 * the producer and does not wait. Ownership: owns the directory from start to stop, and every
 * segment's descriptor. */
#ifndef MAROON_JOURNAL_KEEPER_H
#define MAROON_JOURNAL_KEEPER_H

#include <pthread.h>
#include <semaphore.h>

#include "dataplane/journal/journal_dir.h"

#define JOURNAL_AHEAD 2 /* segments prepared beyond the one in use */
#define JOURNAL_FDS 128 /* descriptors: segments with writes under way, and those ahead */
#define JOURNAL_SEGMENTS_MAX 16384

enum journal_keeper_state {
    JOURNAL_KEEPER_FINE = 0,
    JOURNAL_KEEPER_SHORT = 1, /* no segment could be prepared; tried again */
    JOURNAL_KEEPER_FAILED = 2,
    JOURNAL_KEEPER_SEEN = 3 /* the producer has taken the error: nothing changes any more */
};

struct journal_keeper {
    /* the producer's */
    uint64_t in_use;                                /* segment that takes records */
    uint64_t released;                              /* segments below it are not needed */
    uint64_t written;                               /* no write is under way in segments below it */
    uint64_t stable;                                /* position */
    uint64_t first_positions[JOURNAL_SEGMENTS_MAX]; /* by segment modulo; of segments <= in_use */
    int stop;
    /* the keeper's */
    uint64_t prepared;    /* segments below it may be used */
    int fds[JOURNAL_FDS]; /* by segment modulo; -1: closed */
    int state;            /* enum journal_keeper_state */
    uint64_t prepared_count, recycled_count;
    char text[JOURNAL_TEXT_BYTES]; /* set before state is */
    int error;
    uint64_t closed; /* descriptors below it are closed */
    struct journal_dir dir;
    pthread_t thread;
    sem_t wake;
};

/* Starts the thread; all fields but the last two are set. */
int journal_keeper_start(struct journal_keeper *keeper);

/* Tells the keeper that something changed. */
void journal_keeper_kick(struct journal_keeper *keeper);

/* Ends the thread, writes the store a last time (unless `failed`), closes everything. */
int journal_keeper_stop(struct journal_keeper *keeper, int failed, char text[JOURNAL_TEXT_BYTES]);

/* One round: release, prepare, look after the segment in use. Used at open, before the thread. */
void journal_keeper_round(struct journal_keeper *keeper);

#endif
