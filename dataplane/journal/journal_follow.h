/* journal_follow: reads what a journal holds while its node goes on writing it.
 *
 * No lock is taken and nothing is judged: the end may be torn because it is being written, segments
 * may go while they are read. What is handed out is intact and in order; whether it is enough, the
 * caller must tell from what it says.
 *
 * Threads: any, one at a time per call. May block. Ownership: `bytes` are valid during the call. */
#ifndef MAROON_JOURNAL_FOLLOW_H
#define MAROON_JOURNAL_FOLLOW_H

#include "dataplane/journal/journal.h"

/* Where a write begins: segment << 32 | block. Greater is later; 0: the first there is. */
#define JOURNAL_PLACE_SEGMENT_SHIFT 32

/* One record, and the place of the write that holds it: reading may begin there again. Not 0 ends
 * the reading with it. */
typedef int journal_follow_fn(void *context, enum journal_kind kind, uint64_t place,
                              const uint8_t *bytes, uint32_t length_bytes);

/* Hands every record from the place `from` on (or from the first there is) to `each`, in order. 0
 * at the end of what is there; NOT_FOUND (no journal), IO, CORRUPT, NO_MEMORY with words in text;
 * or what `each` returned. */
int journal_follow(const char *directory, uint64_t from, journal_follow_fn *each, void *context,
                   char text[JOURNAL_TEXT_BYTES]);

#endif
