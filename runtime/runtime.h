/* runtime: executes committed epochs on one deterministic state; keeps results; snapshot and
 * restore.
 *
 *   committed epoch + its bodies in order --runtime_execute_epoch--> a result per transaction
 *
 *   open --execute (seq = exec_seq + 1)--> open      open --restore--> open at another seq
 *   open --error from execute--> stopped: every later execute and snapshot returns CLOSED
 *
 * Vocabulary
 *   region   one mapping that holds the whole state: header, ranges, kept results, idempotency
 * keys, the applications' tables. Reserved at its greatest size, resident as it is used page     4
 * KiB of the region: unit of hashing, copy-on-write and snapshots body     bytes as struct
 * wire_body_header introduces them; a transaction is one or more bodies
 *            ("parts") on consecutive offsets
 *   identity hash over everything that execution depends on: applications with versions, services,
 *            methods, tables, and the sizes below. Must be equal on all nodes; it begins the chain
 * of result hashes, so that a difference shows at epoch 1
 *
 * Purity: no clock, socket, thread, file, log, random source; the allocator only in open, restore
 * and close. Threads: one at a time, no locks. Ownership: pointers that a call takes are read until
 * it returns; bytes in a result callback live until the callback returns. Errors: what clients send
 * can only lead to results with a code. A negative return of runtime_execute_epoch means that the
 * caller broke the order or that replicas differ: fail-stop.
 *
 * Order inside an epoch: controls as given, then bodies as given (the caller linearizes by range
 * rotation, then offset). Bodies of one range follow each other without a gap.
 *
 * Parts: the first part's header says how many follow; each following part says one less, names the
 * same service and method and is not extended. Otherwise, or when fewer bodies of the range follow
 * in the epoch, or when they would reach over the range's end, the transaction is invalid_argument;
 * it then takes the bodies that its first part claims, as far as they are there. The result is
 * under the id of the first part.
 *
 * Kept results: a result is kept until the low-water mark of a later body of its range passes it,
 * the range is retired, `results_kept` newer ones of the range exist, or the shared pool is short
 * (then the oldest go: of the range itself when it holds its fair share, else of the range that
 * holds most). A position below executed without a kept result answers EXPIRED.
 *
 * Idempotency keys: the first transaction under a key is executed and its result kept with the key
 * for idempotency_span_us of logical time; a repeat with the same request hash gets that code and
 * those bytes and executes nothing; with another hash it is failed_precondition. No free slot or
 * bytes: resource_exhausted, no effect, nothing remembered.
 *
 * Timers of applications are designed (include/maroon/application.h) and not built yet: the node
 * will ask runtime_next_timer_us() and propose an epoch when it is due.
 *
 * Invariants (runtime_check): I1 per range low_water, results_from <= executed <= 2^30. I2 every
 * kept result is of an active range, in order of offset. I3 a chunk is in one range's chain or
 * free. I4 every table entry is reachable under its key, exactly once. I5 page hashes of clean
 * pages hold. */
#ifndef MAROON_RUNTIME_H
#define MAROON_RUNTIME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <maroon/application.h>
#include <maroon/error.h>

#include "proto/wire.h"
#include "runtime/crew.h"

#define RUNTIME_PAGE_BYTES 4096

struct runtime_config {
    uint64_t state_bytes;           /* for the applications' tables */
    uint32_t ranges_max;            /* active ranges; at least the replica's */
    uint32_t retired_max;           /* sealed ranges remembered, 15.6 bytes each */
    uint32_t results_kept;          /* newest results kept per range */
    uint64_t result_bytes;          /* pool of kept results, shared by ranges */
    uint32_t idempotency_slots;     /* keys remembered */
    uint64_t idempotency_bytes;     /* their results */
    uint64_t idempotency_span_us;   /* of logical time */
    uint32_t max_transaction_bytes; /* payload of all parts */
    uint32_t max_result_bytes;
    uint32_t undo_bytes; /* what one transaction may overwrite, with 16 bytes for each write */
    uint64_t configuration_id;
    struct wire_hash genesis_hash; /* the hash before the first epoch of this cluster */
    /* Genesis hash of the cluster in which the state began: it seeds tables and identity, and stays
     * when the state is restored into another cluster. All zero: this cluster's. */
    struct wire_hash origin_hash;
    const struct mrn_application *const *applications;
    uint32_t application_count;
};

/* 256 MiB of state, 1,024 ranges, 4,096 results kept, 64 MiB of results, 1,048,576 keys with 64
 * MiB, 24 h, 1 MiB transactions and results, 1 MiB undo, 2^20 retired ranges. Applications,
 * configuration id and genesis hash are left zero. */
void runtime_config_defaults(struct runtime_config *ret_config);

struct runtime;

/* What a runtime may come to use: reserved at once, resident as it is used. */
struct runtime_memory {
    uint64_t state_bytes;       /* tables of the applications */
    uint64_t results_bytes;     /* results kept for gateways that ask again */
    uint64_t idempotency_bytes; /* keys and their results */
    uint64_t ranges_bytes;      /* active and sealed ones */
    uint64_t copies_bytes;      /* all of these once more: pages that change while a snapshot is
                                   written, or the state that a snapshot brings */
    uint64_t other_bytes;       /* hashes and marks of pages, undo log, one transaction */
    uint64_t most_bytes;        /* the sum */
};

/* Pure. INVALID: a bound; NO_MEMORY. */
int runtime_memory_plan(const struct runtime_config *config, struct runtime_memory *ret_memory);

/* Opens an empty state (exec_seq 0). The config is copied; the applications must outlive the
 * runtime. INVALID (a bound, a method without handler, two equal service or method ids), NO_MEMORY.
 */
int runtime_open(const struct runtime_config *config, struct runtime **ret_runtime);

void runtime_close(struct runtime *runtime);

/* Identity of a config: what must be equal on all nodes. */
struct wire_hash runtime_identity(const struct runtime *runtime);

/* Sizes and origin of a runtime that takes the snapshot with this head; configuration id, genesis
 * hash and applications are the caller's. */
struct snapshot_head;
void runtime_config_of_snapshot(const struct snapshot_head *head, struct runtime_config *config);

/* The state begins a new cluster: every active range is retired where it stands (its gateway is not
 * of that cluster), and the next epoch is one of `configuration_id` that follows `genesis_hash`.
 * seq, term, logical time, keys and tables stay. EXISTS: a snapshot is under way. FULL: too many
 * retired ranges. After an error the runtime is stopped. */
int runtime_found(struct runtime *runtime, uint64_t configuration_id,
                  const struct wire_hash *genesis_hash);

/* ---- execution ---- */

struct runtime_body {
    uint64_t id;
    const void *bytes; /* as in the body store, header included; any alignment */
    uint32_t length_bytes;
};

struct runtime_epoch {
    uint64_t seq, term;
    uint64_t logical_time_us;
    struct wire_hash hash;
    const struct wire_control *controls;
    uint32_t control_count;
    const struct runtime_body *bodies; /* in execution order */
    uint32_t body_count;
};

/* Head and controls from an epoch's canonical bytes; bodies are left empty. */
static inline struct runtime_epoch runtime_epoch_of(const void *epoch, struct wire_hash hash) {
    const struct wire_epoch_head *head = (const struct wire_epoch_head *)epoch;
    struct runtime_epoch result = {.seq = head->seq,
                                   .term = head->term,
                                   .logical_time_us = head->logical_time_us,
                                   .hash = hash,
                                   .controls = wire_epoch_controls(epoch),
                                   .control_count = head->control_count};
    return result;
}

struct runtime_result {
    uint64_t id;
    uint64_t epoch_seq;
    uint64_t logical_time_us;
    uint32_t code;         /* enum mrn_code; not OK: the bytes are a message in UTF-8 */
    uint32_t method_key;   /* wire_method_key of the call, so that any gateway can print it */
    uint32_t length_bytes; /* of the whole result */
    const uint8_t *bytes;  /* NULL from runtime_result_find */
    uint64_t owner;        /* of the range when it was executed; 0 from runtime_result_find */
};

typedef void (*runtime_result_callback)(void *user, const struct runtime_result *result);

/* Executes epoch exec_seq + 1: OPEN and SEAL first, then every transaction; calls back once for
 * each, in order (callback may be NULL). O(bytes). MISMATCH: seq, logical time, a body's position,
 * a range that is not open, or a SEAL's end are not what the state says. FULL: more active or
 * retired ranges than configured. INVALID: unknown control. After any of these the runtime is
 * stopped. CLOSED: it was. */
int runtime_execute_epoch(struct runtime *runtime, const struct runtime_epoch *epoch,
                          runtime_result_callback callback, void *user);

/* ---- reading ---- */

enum runtime_outcome {
    RUNTIME_UNKNOWN = 0,  /* not executed here yet, or of a range never opened */
    RUNTIME_EXECUTED = 1, /* *ret_result is set */
    RUNTIME_EXPIRED = 2,  /* executed, its result no longer kept (or the id of a part) */
    RUNTIME_SEALED = 3    /* at or above the end of a retired range: never executed */
};

/* What became of an id. EXECUTED: facts in *ret_result, and up to `room_bytes` of the result from
 * `offset_bytes` in `buffer`, their number in *ret_copied. O(results kept of the range / 25). */
enum runtime_outcome runtime_result_find(const struct runtime *runtime, uint64_t id,
                                         uint32_t offset_bytes, void *buffer, uint32_t room_bytes,
                                         struct runtime_result *ret_result, uint32_t *ret_copied);

struct runtime_facts {
    uint64_t exec_seq, term, logical_time_us, configuration_id;
    struct wire_hash epoch_hash, result_hash;
    uint32_t ranges_active, ranges_retired, idempotency_keys;
    uint64_t results_kept, result_chunks_used, result_chunks;
    uint64_t pages_touched;
    bool stopped;
    /* since open, not state: */
    uint64_t transactions, transactions_failed, malformed, results_evicted, idempotent_repeats,
        controls_ignored;
    uint64_t by_code[MRN_CODE_COUNT];
};
/* O(1). */
void runtime_facts(struct runtime *runtime, struct runtime_facts *ret_facts);

/* Of the facts, those that are asked for around every epoch: exec_seq and the result hash there,
 * which is computed when it is asked for, or by the next epoch: its results need not wait for it.
 */
uint64_t runtime_exec_seq(const struct runtime *runtime);
struct wire_hash runtime_result_hash(struct runtime *runtime);

/* Idempotency keys remembered now; config.idempotency_slots is the most. O(1). */
uint32_t runtime_idempotency_keys(const struct runtime *runtime);

struct runtime_range_facts {
    uint64_t range, owner; /* when retired: the last owner's mark (proto/retired.h), 0: unknown */
    uint32_t executed;     /* position; the end when retired */
    uint32_t low_water;
    bool retired;
    uint32_t results_kept;
};

/* Calls back for every range, the active first. */
typedef void (*runtime_range_callback)(void *user, const struct runtime_range_facts *range);
void runtime_ranges(const struct runtime *runtime, runtime_range_callback callback, void *user);

/* One range; false when it was never opened. */
bool runtime_range_find(const struct runtime *runtime, uint64_t range,
                        struct runtime_range_facts *ret_range);

/* Calls back for every entry of the applications' tables, table by table. */
typedef void (*runtime_entry_callback)(void *user, const struct mrn_application *application,
                                       const struct mrn_table_spec *table, const void *key,
                                       const void *value);
void runtime_entries(const struct runtime *runtime, runtime_entry_callback callback, void *user);

/* Hash of the whole state at exec_seq: a tree of BLAKE2b over the pages. Depends on the content
 * only, never on when it was asked before. Costs about 5 us for each page written since the last
 * call. */
struct wire_hash runtime_state_hash(struct runtime *runtime);

/* Invariants, O(state). NULL, or the name of the one that is broken. For tests and restore. */
const char *runtime_check(const struct runtime *runtime);

/* ---- snapshots (bytes: runtime/SNAPSHOT.md) ---- */

struct runtime_snapshot_info {
    uint64_t configuration_id, seq, term, logical_time_us;
    struct wire_hash epoch_hash, result_hash, state_hash, identity;
    uint64_t page_count; /* pages in it */
};

/* Takes the next bytes of a snapshot; returns 0, or a negative error that ends the snapshot. */
typedef int (*runtime_write_callback)(void *user, const void *bytes, size_t length_bytes);

/* begin --step ... step--> done. Between steps epochs may be executed: the snapshot is of the state
 * at begin, a page that changes is copied first. begin costs one pass over the list of pages in use
 * (microseconds), not their copy. EXISTS: one is under way. CLOSED. */
int runtime_snapshot_begin(struct runtime *runtime);

/* Writes up to `pages_max` pages. 1: more to do; 0: done, *ret_info is set. A negative error of the
 * callback (the snapshot is then abandoned) or NOT_FOUND: none under way. */
int runtime_snapshot_step(struct runtime *runtime, uint32_t pages_max, runtime_write_callback write,
                          void *user, struct runtime_snapshot_info *ret_info);

void runtime_snapshot_abandon(struct runtime *runtime);

/* begin and all steps at once. */
int runtime_snapshot_write(struct runtime *runtime, runtime_write_callback write, void *user,
                           struct runtime_snapshot_info *ret_info);

#define RUNTIME_TEXT_BYTES 256

/* Whether this runtime cannot take the snapshot of this head, which is of another format version,
 * or whose checksum is right. Then `ret_text` says in what the two differ, with both values, and
 * what to do. */
bool runtime_snapshot_differs(const struct runtime *runtime, const struct snapshot_head *head,
                              char ret_text[RUNTIME_TEXT_BYTES]);

/* Where a snapshot's bytes are. */
struct runtime_source {
    /* Fills up to `room_bytes` from position `at_bytes` on; returns the count, 0 at the end, or a
     * negative error. A crew's threads call it at once. */
    int64_t (*read)(void *user, uint64_t at_bytes, void *bytes, size_t room_bytes);
    void *user;
    uint64_t length_bytes;
};

/* Replaces the state by a snapshot's, all or nothing: it is read into a region of its own and
 * checked first, by the crew (NULL: by the caller). Also leaves the stopped state. UNSUPPORTED:
 * another format version; MISMATCH: another runtime: runtime_snapshot_differs says more. CORRUPT: a
 * checksum or hash differs, or it ends early or late. NO_MEMORY; an error of the source; EXISTS: a
 * snapshot is under way. */
int runtime_restore(struct runtime *runtime, const struct runtime_source *source,
                    const struct runtime_crew *crew, struct runtime_snapshot_info *ret_info);

#endif
