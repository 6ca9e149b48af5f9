/* journal_log: a real journal as a node leaves it, with epochs of two ranges, for tests that need
 * no node. Failures end the test. */
#ifndef MAROON_TEST_JOURNAL_LOG_H
#define MAROON_TEST_JOURNAL_LOG_H

#include "dataplane/journal/journal.h"
#include "proto/wire.h"

#define JOURNAL_LOG_BODIES 7                 /* of an epoch, about */
#define JOURNAL_LOG_SEGMENT_BYTES (64 << 10) /* many segments */

extern const struct wire_digest_key journal_log_digest_key;
extern const struct wire_hash journal_log_genesis; /* the hash before the first epoch */

struct journal_log {
    struct journal *journal;
    uint64_t seq, committed;
    struct wire_hash hash; /* of epoch seq */
    uint64_t next[2];      /* ids of two ranges */
    struct wire_hash hashes[4096];
    struct journal_identity identity;
};

/* A new one in a directory of its own, after epoch `begin_seq`. */
void journal_log_new(struct journal_log *log, const char *where, uint64_t begin_seq);
/* Opens what is there again. */
void journal_log_open(struct journal_log *log, const char *where);
/* Epochs up to `to`: some are proposed by a leader that falls, and replaced; what is committed is
 * known a few epochs later. All is stable then. */
void journal_log_fill(struct journal_log *log, uint64_t to);
void journal_log_settle(struct journal_log *log);

/* Epoch `seq` after `previous`; `late`: its bodies come after it, one of them twice. */
void journal_log_epoch(struct journal_log *log, uint64_t seq, const struct wire_hash *previous,
                       uint64_t term, bool late);
void journal_log_advance(struct journal_log *log); /* the next one's intervals come after it */

struct wire_digest journal_log_body(struct journal_log *log, uint64_t id, uint32_t seed);
/* The bytes of a body: their length. */
uint32_t journal_log_make_body(uint64_t id, uint32_t seed, uint8_t *bytes);

#endif
