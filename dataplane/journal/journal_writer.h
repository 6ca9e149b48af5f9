/* journal_writer: writes batches and makes them stable. Private to the journal.
 *
 * io_uring: one O_DIRECT write with RWF_DSYNC per batch, submitted and reaped by the caller's
 * thread without waiting. Thread: one thread takes all that is queued, writes it, syncs once.
 *
 * Threads: the producer calls everything; start and reap never wait. Ownership: `bytes` belong to
 * the writer from start until reap returns the slot. */
#ifndef MAROON_JOURNAL_WRITER_H
#define MAROON_JOURNAL_WRITER_H

#include <liburing.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>

#include "dataplane/journal/journal_faults.h"

#define JOURNAL_WRITES_MAX 64 /* slots; a power of two */

struct journal_write {
    const void *bytes;
    uint64_t segment, offset;
    uint32_t length_bytes;
    int fd;
    int result; /* bytes written, or -errno */
};

/* A queue between two threads, at most JOURNAL_WRITES_MAX slots. */
struct journal_slots {
    uint32_t head; /* taken, by the consumer */
    uint32_t tail; /* put, by the producer (release: the slot's write is complete) */
    uint8_t slots[JOURNAL_WRITES_MAX];
};

struct journal_writer {
    const struct journal_faults *faults;
    int uses_thread;
    int uring_errno; /* why there is no io_uring */
    struct io_uring ring;
    struct journal_write writes[JOURNAL_WRITES_MAX];
    struct journal_slots queued, done; /* done also takes writes that a test made fail */
    pthread_t thread;
    sem_t wake, reapable;
    int stop; /* atomic */
};

/* mode: enum journal_writer_kind. Returns 0 or UNSUPPORTED, NO_MEMORY. */
int journal_writer_init(struct journal_writer *writer, int mode,
                        const struct journal_faults *faults);

/* Ends the thread or the ring. Nothing is in flight. */
void journal_writer_end(struct journal_writer *writer);

/* Starts the write of a free slot. */
void journal_writer_start(struct journal_writer *writer, uint32_t slot,
                          const struct journal_write *write);

/* Takes a finished write. Returns 1 with *ret_slot set (its result in writes[slot]), or 0. */
int journal_writer_reap(struct journal_writer *writer, uint32_t *ret_slot);

/* Waits until something may be reaped, at most about a millisecond. */
void journal_writer_wait(struct journal_writer *writer);

#endif
