/* dump_journal: committed epochs with their bodies, in order, out of the journal of the node that
 * goes on running.
 *
 *   journal records --> epochs (a later one replaces it and all above), bodies by id
 *      --next in order, known committed, all its bodies here under its digest--> record
 *
 * Committed is what a later record notes, while the chain from it to there is whole: a node that a
 * snapshot took over epochs that were never committed leaves those in its journal, and does not
 * continue them.
 *
 * Memory: what lies between an epoch's first body and the epoch, not the journal's size.
 * Threads: one. Errors, with words: NOT_FOUND when the journal begins too late for what is asked
 * for; UNAVAILABLE when something of it is not written yet, or is gone; what `emit` returned; IO,
 * CORRUPT, NO_MEMORY. */
#ifndef MAROON_DUMP_JOURNAL_H
#define MAROON_DUMP_JOURNAL_H

#include "controlplane/dump/dump_object.h"
#include "proto/wire.h"

/* Epochs above `seq` lie at `place` (journal_follow.h) or later, with their bodies, unless one
 * waited for 64 MiB: what is read from here on lacks that one (UNAVAILABLE, NOT_FOUND). */
struct dump_journal_mark {
    uint64_t seq, place;
};

#define DUMP_JOURNAL_MARKS_MAX 128

struct dump_journal {
    char directory[512];
    uint64_t place; /* reading begins here: what lies before was handed out */
    struct dump_journal_mark marks[DUMP_JOURNAL_MARKS_MAX]; /* by seq; made while it is read */
    uint32_t mark_count;
};

/* What follows which epoch, up to which. */
struct dump_journal_span {
    uint64_t after_seq, to_seq;  /* to_seq: executed here */
    struct wire_hash to_hash;    /* of epoch to_seq */
    struct wire_hash after_hash; /* all zero: not known, the receiver checks */
    struct wire_digest_key digest_key;
};

/* A whole record (dump_stretch.h) of epoch `seq`; not 0 ends the reading with it. */
typedef int dump_journal_emit(void *context, uint64_t seq, const struct wire_hash *hash,
                              const void *record, size_t count);

/* Where reading may begin for what follows `after_seq`: at the last mark that serves, or at 0. */
uint64_t dump_journal_place(const struct dump_journal *journal, uint64_t after_seq);

int dump_journal_read(struct dump_journal *journal, const struct dump_journal_span *span,
                      dump_journal_emit *emit, void *context, char *text);

#endif
