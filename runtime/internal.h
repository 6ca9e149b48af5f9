/* runtime, inside: how the region is laid out and what a runtime holds besides it.
 *
 * Region: header (page 0: struct region_header, then the table heads) | ranges | retired | keys |
 * key ring | key bytes | result chunks | application tables. Offsets follow from the config.
 * Everything in the region is state; everything in struct runtime is derived, scratch or a counter.
 */
#ifndef MAROON_RUNTIME_INTERNAL_H
#define MAROON_RUNTIME_INTERNAL_H

#include "proto/retired.h"
#include "runtime/runtime.h"
#include "runtime/state.h"
#include "runtime/table.h"

#define REGION_TABLES_OFFSET 256 /* of table heads, in page 0 */
#define REGION_TABLES_MAX 128    /* applications' tables together */
#define SNAPSHOT_BUFFER_BYTES (64 * (STATE_PAGE_BYTES + 8))
#define RESULT_CHUNK_BYTES 1024
#define RESULT_CHUNK_ROOM (RESULT_CHUNK_BYTES - sizeof(uint32_t)) /* after the link */

struct region_header {
    uint8_t magic[8];
    uint64_t length_bytes;
    struct wire_hash identity, epoch_hash, result_hash;
    uint64_t configuration_id;
    uint64_t exec_seq, term, logical_time_us;
    uint32_t chunk_free;          /* chunk + 1 of the free list; 0: empty */
    uint32_t chunk_high;          /* chunks at or above were never used */
    uint32_t chunk_used_count;    /* in chains */
    uint32_t results_kept;        /* of all ranges */
    uint64_t key_first, key_next; /* counters: ring of idempotency records */
    uint64_t key_bytes_first, key_bytes_next;
    struct wire_hash origin;
};
static_assert(sizeof(struct region_header) <= REGION_TABLES_OFFSET, "heads follow the header");
static_assert(REGION_TABLES_OFFSET + (REGION_TABLES_MAX + 3) * sizeof(struct table_head) <=
                  STATE_PAGE_BYTES,
              "header and heads share page 0");

/* Value of the table of active ranges. */
struct range_record {
    uint64_t owner;
    uint32_t executed;     /* position */
    uint32_t low_water;    /* position: answered below */
    uint32_t results_from; /* position: no result below is kept */
    uint32_t kept_count;
    uint32_t head_chunk, tail_chunk; /* chunk + 1 */
    uint32_t chunk_count;
    uint16_t head_at, tail_at; /* in the chunk's room */
};

/* A kept result in a chain of chunks: this, then its bytes; either may go on in the next chunk. */
struct result_record {
    uint32_t offset; /* of its id */
    uint32_t code;
    uint64_t epoch_seq;
    uint64_t logical_time_us;
    uint32_t length_bytes;
    uint32_t method_key; /* wire_method_key of the call */
};

/* What is remembered under an idempotency key; slot = counter mod slots. */
struct key_record {
    uint8_t key[16];
    uint8_t request_hash[16];
    uint64_t logical_time_us;
    uint64_t bytes_at; /* counter of the byte ring */
    uint32_t length_bytes;
    uint32_t code;
};

struct runtime_layout {
    uint64_t keys_ring, keys_bytes, chunks; /* offsets */
    uint32_t chunk_count;
    uint64_t length_bytes;
};

struct method_entry {
    uint64_t ids;        /* service id << 32 | method id */
    mrn_handler handler; /* NULL: free place */
    struct table *tables;
    uint32_t table_count;
};

/* One transaction's context; the arena and the response are reused. */
struct mrn_context {
    struct runtime *runtime;
    struct table *tables;
    uint32_t table_count;
    bool exhausted; /* wrote, allocated or answered more than allowed: undo whatever is returned */
    uint64_t id, logical_time_us, random;
    ProtobufCAllocator allocator;
    uint8_t *arena;
    uint64_t arena_used_bytes, arena_bytes;
    uint8_t *response; /* 4 bytes of code, hashed with the bytes, then the bytes */
    uint32_t response_bytes;
};

struct runtime_snapshot {
    bool on, header_written;
    uint32_t next_page;
    struct state_tree tree;
    struct runtime_snapshot_info info;
    uint8_t *buffer; /* SNAPSHOT_BUFFER_BYTES: fewer and longer writes */
    size_t buffered_bytes;
};

struct runtime {
    struct runtime_config config;
    struct runtime_layout layout;
    struct state state;
    struct table ranges, retired, keys;
    struct table *tables; /* of all applications, in order */
    uint32_t table_count;
    struct method_entry *methods;
    uint32_t method_mask;
    struct wire_hash identity;
    struct wire_digest_key digest_key;
    struct mrn_context context;
    uint8_t *parts; /* reassembly, max_transaction_bytes */
    bool stopped;
    struct { /* of the last epoch: what its result hash is made from, until somebody asks for it */
        bool due;
        struct wire_digest digest;
        uint64_t count;
    } chain;
    struct runtime_facts counters; /* only the fields "since open" */
    struct runtime_snapshot snapshot;
};

static inline const struct region_header *region(const struct runtime *runtime) {
    return runtime_state_at(&runtime->state, 0);
}
static inline struct region_header *region_change(struct runtime *runtime) {
    return runtime_state_change(&runtime->state, 0, sizeof(struct region_header));
}

static inline bool runtime_hash_none(const struct wire_hash *hash) {
    static const struct wire_hash none;
    return __builtin_memcmp(hash, &none, sizeof none) == 0;
}

/* ---- execute.c ---- */
/* Makes the result hash in the region that of exec_seq. Whoever reads it, or the region as a whole,
 * calls this first. */
void runtime_chain(struct runtime *runtime);

/* ---- runtime.c ---- */
const char *runtime_check_by(const struct runtime *runtime, const struct runtime_crew *crew);

/* ---- layout.c ---- */
int runtime_layout_make(struct runtime *runtime);
void runtime_region_format(struct runtime *runtime);

/* ---- ranges.c ---- */
/* Offset of the record of an active range, 0 when there is none. */
uint64_t runtime_range_place(const struct runtime *runtime, uint64_t range);
/* An entry of `retired`: the bits of struct retired (proto/retired.h), and above them the link. */
#define RETIRED_ENTRY_BYTES 15
static_assert(8 * RETIRED_ENTRY_BYTES == RETIRED_BITS + TABLE_PACKED_LINK_BITS, "no bit is spare");
/* Adds a record that is not there yet; false: there is no room. */
bool runtime_retired_insert(struct runtime *runtime, const struct retired *record);
/* Whether every record ends within its range. */
const char *runtime_retired_check(const struct runtime *runtime);
int runtime_range_control(struct runtime *runtime, const struct wire_control *control);

/* ---- results.c ---- */
/* Keeps a result under the offset; `range_offset`: of the range's record. Evicts as needed. */
void runtime_results_keep(struct runtime *runtime, uint64_t range_offset,
                          const struct result_record *record, const void *bytes);
/* Raises the low-water mark and drops what is below it. */
void runtime_results_low_water(struct runtime *runtime, uint64_t range_offset, uint32_t low_water);
void runtime_results_drop_all(struct runtime *runtime, uint64_t range_offset);
/* 1 and *ret_record and bytes, 0 when not kept. */
int runtime_results_find(const struct runtime *runtime, const struct range_record *range,
                         uint32_t offset, uint32_t offset_bytes, void *buffer, uint32_t room_bytes,
                         struct result_record *ret_record, uint32_t *ret_copied);
const char *runtime_results_check(const struct runtime *runtime);

/* ---- keys.c ---- */
void runtime_keys_expire(struct runtime *runtime, uint64_t logical_time_us);
/* The record under the key, or NULL. */
const struct key_record *runtime_keys_find(const struct runtime *runtime, const uint8_t key[16]);
void runtime_keys_copy(const struct runtime *runtime, const struct key_record *record,
                       void *buffer);
bool runtime_keys_have_slot(const struct runtime *runtime);
bool runtime_keys_have_bytes(const struct runtime *runtime, uint32_t length_bytes);
void runtime_keys_remember(struct runtime *runtime, const struct wire_body_extension *extension,
                           uint64_t logical_time_us, uint32_t code, const void *bytes,
                           uint32_t length_bytes);
const char *runtime_keys_check(const struct runtime *runtime);

/* ---- context.c ---- */
int runtime_context_open(struct runtime *runtime);
void runtime_context_close(struct runtime *runtime);
void runtime_context_begin(struct mrn_context *context, const struct method_entry *method,
                           uint64_t id, uint64_t logical_time_us, uint64_t seed);

#endif
