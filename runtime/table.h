/* table: keys of one size -> values of one size, in the state, by linear hashing.
 *
 * Entries lie dense in order of insertion; an erase moves the last entry into the hole. Buckets
 * hold the first entry of a chain; one bucket is split per insert or so, so growth has no pauses,
 * and the pages in use grow with the entries. Place and contents follow from the sequence of
 * operations and the seed only.
 *
 * Threads: as the state. Ownership: values are the state's, valid until the next erase here.
 * Errors: NULL when absent or full. All writes go through runtime_state_write: in a transaction
 * they can be undone. */
#ifndef MAROON_RUNTIME_TABLE_H
#define MAROON_RUNTIME_TABLE_H

#include "runtime/crew.h"
#include "runtime/state.h"

struct table_head { /* in the state */
    uint32_t count;
    uint32_t bucket_count;
};

/* How keys and links are read. A link is entry + 1, 0: none. */
struct table_coding {
    uint32_t key_bytes;
    uint32_t link_shift; /* a link is the upper bits of 4 bytes, these below it are the value's */
    uint64_t key_mask;   /* a key of 8 bytes is these bits of them; 0: of another length */
};

/* Where a table lies; follows from the config, not state itself. */
struct table {
    struct state *state;
    uint64_t head_offset, buckets_offset, entries_offset;
    uint64_t seed;
    struct table_coding coding;
    uint32_t value_bytes;
    uint32_t value_at, link_at, entry_bytes; /* in an entry: key, value, link to the next */
    uint32_t entries_max;
    uint32_t load_shift; /* 2^load_shift entries per bucket on average */
};

/* Sets sizes from key_bytes, value_bytes; the rest is the caller's. */
void runtime_table_shape(struct table *table, uint32_t key_bytes, uint32_t value_bytes,
                         uint32_t load_shift);

#define TABLE_PACKED_LINK_BITS 31
#define TABLE_PACKED_ENTRIES_MAX ((UINT32_C(1) << TABLE_PACKED_LINK_BITS) - 1)

/* The same for entries without a bit to spare: the low `key_bits` of the first 8 bytes are the key,
 * the upper 31 bits of the last 4 the link, all others the value's, which begins where the entry
 * does: who writes there leaves the other two as they are. Keys are given as 8 bytes, what is above
 * key_bits 0. At most TABLE_PACKED_ENTRIES_MAX entries. */
void runtime_table_shape_packed(struct table *table, uint32_t key_bits, uint32_t entry_bytes,
                                uint32_t load_shift);

/* Bytes of buckets and of entries that `entries_max` need. */
uint64_t runtime_table_buckets_bytes(const struct table *table, uint64_t entries_max);
uint64_t runtime_table_entries_bytes(const struct table *table, uint64_t entries_max);

static inline uint32_t runtime_table_count(const struct table *table) {
    return ((const struct table_head *)runtime_state_at(table->state, table->head_offset))->count;
}

/* Offset of the value under the key, or 0 (no value lies there). */
uint64_t runtime_table_find(const struct table *table, const void *key);
/* Offset of the value, made of zeros when there was none; 0 when full. */
uint64_t runtime_table_insert(struct table *table, const void *key);
/* 1: removed, 0: there was none. */
int runtime_table_erase(struct table *table, const void *key);

/* Entry number `place` < count: its key; its value is value_at further. */
static inline const uint8_t *runtime_table_at(const struct table *table, uint32_t place) {
    return (const uint8_t *)runtime_state_at(
        table->state, table->entries_offset + (uint64_t)place * table->entry_bytes);
}

/* NULL, or what is broken. O(entries). Safe on any bytes. `crew`: may be NULL. */
const char *runtime_table_check(const struct table *table, const struct runtime_crew *crew);

#endif
