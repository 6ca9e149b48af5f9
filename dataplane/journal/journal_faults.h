/* journal_faults: where tests make the disk fail. Not used outside tests.
 *
 * `before` is called ahead of each operation and returns 0, or the errno with which it fails
 * instead. Threads: the operation's own (WRITE: the producer). */
#ifndef MAROON_JOURNAL_FAULTS_H
#define MAROON_JOURNAL_FAULTS_H

#include <stdint.h>

enum journal_op {
    JOURNAL_OP_DIRECT,  /* open a file with O_DIRECT */
    JOURNAL_OP_URING,   /* io_uring_setup */
    JOURNAL_OP_WRITE,   /* one batch */
    JOURNAL_OP_PREPARE, /* preallocate a segment */
    JOURNAL_OP_STORE,   /* write the store file */
    JOURNAL_OP_READ     /* read at recovery; a block at `offset` */
};

struct journal_faults {
    int (*before)(void *context, enum journal_op op, uint64_t segment, uint64_t offset);
    void *context;
};

static inline int journal_fault(const struct journal_faults *faults, enum journal_op op,
                                uint64_t segment, uint64_t offset) {
    return faults ? faults->before(faults->context, op, segment, offset) : 0;
}

#endif
