/* The journal: stable storage of a node for bodies, epochs, promises and the like (protocol.md §9).
 *
 * Vocabulary
 *   record    a kind, up to JOURNAL_RECORD_MAX_BYTES of bytes, and a position
 *   position  number of the record, from 0, dense; given by the caller. "stable p" (exclusive): all
 *             records below p are on stable storage
 *   batch     the records of one write; one sync makes all of them stable
 *   segment   one preallocated file of the data directory; batches fill it block by block, and no
 *             block is ever written twice in one run
 *   store     the file `store`: who this data directory is, and which segments it must have
 *
 *   journal_open --replays every record--> appending --journal_append, journal_poll--> ...
 *        |                                    |                                          |
 *        '-- error + text (corrupt, locked)   '-- write error, disk full --> failed      '-- close
 *
 * A failed journal stays failed: stable never advances again, appends return the error, and
 * journal_failed says why. The node must stop acknowledging.
 *
 * Threads: one producer (the gossip stage's lcore) calls everything below except where "any thread"
 * is said. append, poll, stable and release never block: they copy, submit to io_uring and peek at
 * its completion ring. A thread of the journal prepares segments ahead, deletes released ones and
 * keeps the store file; a second one writes where io_uring can't be had. journal_open,
 * journal_close and journal_verify block.
 * Ownership: the journal copies what it is given and keeps no pointer of the caller.
 * Limits: journals per process are not limited; one per data directory (it is locked).
 * Invariants (journal_check):
 *   I1 stable <= submitted <= next     I2 stable never goes back, nor advances after a failure
 *   I3 a record of a batch is stable only if all earlier batches are
 *   I4 the newest record of each sticky kind is in a segment that is kept
 *
 * Format on disk: docs/journal-format.md; its pure codec and recovery: journal_format.h,
 * journal_scan.h. */
#ifndef MAROON_JOURNAL_H
#define MAROON_JOURNAL_H

#include <stddef.h>
#include <stdint.h>

#include <maroon/error.h>

#define JOURNAL_RECORD_MAX_BYTES 16384
#define JOURNAL_TEXT_BYTES 512 /* of every message below, with its final 0 */
#define JOURNAL_HISTOGRAM_BUCKETS 16

enum journal_kind {
#define JOURNAL_KIND(name, value, label, sticky, sentence) JOURNAL_##name = (value),
#include "dataplane/journal/journal_kinds.def"
#undef JOURNAL_KIND
};
#define JOURNAL_KINDS 10 /* above all values */

/* Who a data directory is. Written once, when the directory is made; a directory with another
 * cluster or configuration is refused at open. */
struct journal_identity {
    uint64_t incarnation;      /* drawn at random for every new store, never 0 */
    uint8_t cluster_id[16];    /* from genesis */
    uint64_t configuration_id; /* from genesis */
};

enum journal_writer_kind {
    JOURNAL_WRITER_AUTO = 0,  /* io_uring where it can be had, else a thread */
    JOURNAL_WRITER_URING = 1, /* in a config: refuse to start without */
    JOURNAL_WRITER_THREAD = 2
};

struct journal_faults; /* journal_faults.h: tests only */

/* 0 in a field means its default. */
struct journal_config {
    const char *directory;            /* made (mode 0700) with its parent present; needed */
    struct journal_identity identity; /* used when the store is new; see create */
    int create;                       /* 1: make the store if the directory holds none */
    uint64_t segment_bytes;      /* default 64 MiB; 64 KiB .. 1 GiB, multiple of 4096; fixed in a
                                    store: an existing one keeps its own */
    uint32_t batch_bytes;        /* room of one batch buffer: default 1 MiB, multiple of 4096 */
    uint32_t batch_count;        /* batch buffers: default 8, 3 .. 64 */
    uint32_t writes_max;         /* batches in flight: default 4, 1 .. batch_count - 1 */
    uint64_t body_sync_delay_ns; /* default 100 us */
    uint32_t body_sync_bytes;    /* default 64 KiB */
    uint64_t mark_delay_ns;      /* idle time after which the stable position is written down:
                                    default 50 ms */
    int busy_never_yields; /* 1: journal_poll never calls sched_yield while a sync takes long; only
                              where the kernel's workers have other CPUs, else a sync takes a tick
                            */
    enum journal_writer_kind writer;
    const struct journal_faults *faults; /* NULL outside tests */
};

struct journal;

/* One record at recovery; `bytes` are valid during the call. Return 0, or an error that ends
 * journal_open with it. */
typedef int journal_replay_fn(void *context, enum journal_kind kind, uint64_t position,
                              const uint8_t *bytes, uint32_t length_bytes);

/* Opens (or creates) the store in config->directory, hands every record in order to `replay`, cuts
 * a torn tail, makes what was read stable, and is ready to append at journal_next. On failure
 * returns an error, leaves *ret_journal alone, and `text` says what, where and what to do:
 *   NOT_FOUND   no store and create is 0        EXISTS     locked by another process
 *   CORRUPT     a bad block below a stable position, a bad header, a missing segment (file, offset)
 *   MISMATCH    another cluster or configuration, or another format version
 *   INVALID     config      NO_MEMORY, IO, DENIED, UNSUPPORTED     or what `replay` returned
 * Blocking: reads the whole journal. */
int journal_open(const struct journal_config *config, journal_replay_fn *replay, void *context,
                 struct journal **ret_journal, char text[JOURNAL_TEXT_BYTES]);

/* Writes and syncs what was appended, notes the stable position, joins the threads, frees. A failed
 * journal is only freed. Call it from the producer's thread, or while that one still lives: the
 * kernel cancels the writes of a thread that ended. Returns 0 or the error that made it fail; NULL
 * is allowed. Blocking. */
int journal_close(struct journal *journal);

/* One line for the log: writer and why, O_DIRECT or why not, segments, positions, what was cut and
 * where (file, offset). */
const char *journal_describe(const struct journal *journal);

const struct journal_identity *journal_identity(const struct journal *journal);

/* The oldest position kept, and the position the next append must name. */
uint64_t journal_first(const struct journal *journal);
uint64_t journal_next(const struct journal *journal);

struct journal_piece {
    const void *bytes;
    uint32_t length_bytes; /* may be 0 */
};

/* Copies the record (pieces[0] then pieces[1]) into the batch that fills; nothing is written before
 * journal_poll. `position` == journal_next. urgent: its batch is to be written at once (epochs,
 * promises); otherwise it may wait for body_sync_delay. `now_ns`: any monotonic clock, the same
 * for all calls. Returns 0; FULL when no buffer or no prepared segment has room (poll, try again
 * later); or the error of a failed journal. O(length). */
int journal_append(struct journal *journal, enum journal_kind kind, uint64_t position,
                   const struct journal_piece pieces[2], int urgent, uint64_t now_ns);

/* Reaps finished writes and starts a write if the policy asks for it: something urgent waits,
 * body_sync_bytes wait, or the oldest record has waited for body_sync_delay, and fewer than
 * writes_max are in flight. Call it once per pass of the loop, after its appends. Returns how many
 * writes were reaped or started. Never blocks; while a sync is under way for over 20 us it yields
 * the CPU now and then (see busy_never_yields). */
uint32_t journal_poll(struct journal *journal, uint64_t now_ns);

/* All records below this position are stable. As of the last journal_poll. */
uint64_t journal_stable(const struct journal *journal);

/* Every record appended is stable (protocol.md §4: propose then). */
int journal_idle(const struct journal *journal);

/* How long the oldest write under way has been so, as of `now_ns`; 0 when none is. A caller that
 * shares its CPU sleeps now and then once this is long: what ends a write is a worker of the kernel
 * on some CPU, and callers that only yield to one another can keep it away for 100 ms and more
 * (seen with every process in a scheduling group of its own, as containers are). */
uint64_t journal_waiting_ns(const struct journal *journal, uint64_t now_ns);

/* 0, or the error that made the journal fail; then *ret_text (if not NULL) says why: static in the
 * journal, valid until close. */
int journal_failed(const struct journal *journal, const char **ret_text);

/* Records below `below` are not needed any more: segments that hold nothing else are recycled or
 * deleted by the thread, in order. The newest record of each sticky kind (journal_kinds.def) is
 * kept with its segment: append it again to let go of an old one. `below` <= journal_stable. */
void journal_release(struct journal *journal, uint64_t below);

/* Counters for metrics and status; all cumulative unless said. */
struct journal_counters {
    uint64_t records, record_bytes; /* appended */
    uint64_t writes, written_bytes; /* completed, with headers and padding */
    uint64_t full;                  /* appends that returned FULL */
    uint64_t segments_prepared, segments_recycled;
    uint64_t retained_bytes; /* now: of kept segments, as used (log_bytes) */
    uint64_t reserved_bytes; /* now: of all segment files */
    uint64_t recovered_records, recovered_bytes, cut_bytes; /* at open */
    /* log_sync_seconds: submit -> known stable. Bucket i counts syncs of at most
     * journal_bucket_us(i); the last one counts the rest. Not cumulative over buckets. */
    uint64_t sync_count, sync_sum_ns;
    uint64_t sync_buckets[JOURNAL_HISTOGRAM_BUCKETS];
    uint64_t submit_count, submit_sum_ns, submit_max_ns; /* time the caller spent submitting */
};

/* Upper bound of bucket i in microseconds; UINT64_MAX for the last. */
uint64_t journal_bucket_us(uint32_t index);

/* A copy of the counters. Any thread (each counter is exact, the set is not taken at one instant).
 */
void journal_read_counters(const struct journal *journal, struct journal_counters *ret_counters);

/* Asserts I1..I4. Tests call it after every step. */
void journal_check(const struct journal *journal);

/* ---- offline: maroonctl verify DIR ---- */

struct journal_report {
    struct journal_identity identity;
    uint64_t segment_bytes, segment_count;
    uint64_t first, next;               /* positions */
    uint64_t stable_floor;              /* greatest stable position written down anywhere */
    uint64_t kind_count[JOURNAL_KINDS]; /* by enum journal_kind */
    uint64_t used_bytes, torn_bytes;
    int generation; /* how often it was opened for writing */
};

/* Reads the whole store in `directory`, changes nothing. Returns 0 with *ret_report set and `text`
 * a summary (a torn tail is said there and is no error), or an error as journal_open does. */
int journal_verify(const char *directory, struct journal_report *ret_report,
                   char text[JOURNAL_TEXT_BYTES]);

/* The same, and hands every record in order to `replay` (NULL: none), as journal_open does; what
 * replay returned ends it. For a first look at a journal before it is opened, and for tools. */
int journal_read(const char *directory, journal_replay_fn *replay, void *context,
                 struct journal_report *ret_report, char text[JOURNAL_TEXT_BYTES]);

/* Label of a kind ("body"), NULL for a value this build does not know. */
const char *journal_kind_label(uint32_t kind);

#endif
