#include "runtime/table.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

/* Of most tables. What is inlined knows it, and has no other cases. */
static const struct table_coding WORDS = {sizeof(uint64_t), 0, UINT64_MAX};

#define FOR_EACH_CODING static inline __attribute__((always_inline))

void runtime_table_shape(struct table *table, uint32_t key_bytes, uint32_t value_bytes,
                         uint32_t load_shift) {
    table->coding = key_bytes == WORDS.key_bytes ? WORDS : (struct table_coding){key_bytes, 0, 0};
    table->value_bytes = value_bytes;
    table->value_at = (key_bytes + 7) & ~UINT32_C(7);
    table->link_at = table->value_at + ((value_bytes + 3) & ~UINT32_C(3));
    table->entry_bytes = (table->link_at + 4 + 7) & ~UINT32_C(7);
    table->load_shift = load_shift;
}

void runtime_table_shape_packed(struct table *table, uint32_t key_bits, uint32_t entry_bytes,
                                uint32_t load_shift) {
    assert(key_bits < 64 && entry_bytes >= sizeof(uint64_t) + sizeof(uint32_t));
    table->coding = (struct table_coding){.key_bytes = sizeof(uint64_t),
                                          .link_shift = 32 - TABLE_PACKED_LINK_BITS,
                                          .key_mask = (UINT64_C(1) << key_bits) - 1};
    table->value_bytes = entry_bytes;
    table->value_at = 0;
    table->link_at = entry_bytes - (uint32_t)sizeof(uint32_t);
    table->entry_bytes = entry_bytes;
    table->load_shift = load_shift;
}

uint64_t runtime_table_buckets_bytes(const struct table *table, uint64_t entries_max) {
    return ((entries_max >> table->load_shift) + 2) * sizeof(uint32_t);
}

uint64_t runtime_table_entries_bytes(const struct table *table, uint64_t entries_max) {
    return entries_max * table->entry_bytes;
}

__extension__ typedef unsigned __int128 wide;

static inline uint64_t mix(uint64_t a, uint64_t b) {
    wide product = (wide)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t load_word(const void *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

FOR_EACH_CODING uint64_t hash_coded(uint64_t seed, struct table_coding coding, const void *key) {
    const uint8_t *at = key;
    uint64_t hash = seed, word;
    uint32_t left = coding.key_bytes;
    if (coding.key_mask != 0) {
        hash = mix(hash ^ (load_word(at) & coding.key_mask), UINT64_C(0x9e3779b97f4a7c15));
        left = 0;
    }
    for (; left >= 8; left -= 8, at += 8)
        hash = mix(hash ^ load_word(at), UINT64_C(0x9e3779b97f4a7c15));
    if (left > 0) {
        word = 0;
        memcpy(&word, at, left);
        hash = mix(hash ^ word, UINT64_C(0x9e3779b97f4a7c15));
    }
    return mix(hash ^ UINT64_C(0xd6e8feb86659fd93), seed | 1);
}

static uint64_t table_hash(const struct table *table, const void *key) {
    return hash_coded(table->seed, table->coding, key);
}

FOR_EACH_CODING bool key_equal(struct table_coding coding, const void *a, const void *b) {
    if (coding.key_mask != 0)
        return ((load_word(a) ^ load_word(b)) & coding.key_mask) == 0;
    return memcmp(a, b, coding.key_bytes) == 0;
}

/* Greatest power of two <= count. */
static inline uint32_t power_below(uint32_t count) {
    return UINT32_C(1) << (31 - __builtin_clz(count));
}

static inline uint32_t bucket_of(uint32_t bucket_count, uint64_t hash) {
    uint32_t low = power_below(bucket_count);
    uint32_t bucket = (uint32_t)hash & (low * 2 - 1);
    return bucket < bucket_count ? bucket : bucket & (low - 1);
}

static inline uint64_t bucket_offset(const struct table *table, uint32_t bucket) {
    return table->buckets_offset + (uint64_t)bucket * sizeof(uint32_t);
}
static inline uint64_t entry_offset(const struct table *table, uint32_t entry) {
    return table->entries_offset + (uint64_t)entry * table->entry_bytes;
}
/* The 4 bytes of a link, which may lie across words. */
static inline uint32_t load_packed(const void *at) {
    uint32_t packed;
    memcpy(&packed, at, sizeof packed);
    return packed;
}
FOR_EACH_CODING uint32_t link_coded(const struct table *table, struct table_coding coding,
                                    uint64_t offset) {
    return load_packed(runtime_state_at(table->state, offset)) >> coding.link_shift;
}
static inline uint32_t load_link(const struct table *table, uint64_t offset) {
    return link_coded(table, table->coding, offset);
}
static inline void store_link(struct table *table, uint64_t offset, uint32_t link) {
    uint32_t shift = table->coding.link_shift;
    uint32_t was = load_packed(runtime_state_at(table->state, offset));
    uint32_t packed = link << shift | (was & ((UINT32_C(1) << shift) - 1));
    if (packed != was)
        memcpy(runtime_state_write(table->state, offset, sizeof packed), &packed, sizeof packed);
}

static inline const struct table_head *table_head(const struct table *table) {
    return runtime_state_at(table->state, table->head_offset);
}

FOR_EACH_CODING uint64_t find_coded(const struct table *table, struct table_coding coding,
                                    const void *key) {
    const struct table_head *head = table_head(table);
    if (head->count == 0)
        return 0;
    uint64_t hash = hash_coded(table->seed, coding, key);
    uint64_t link = bucket_offset(table, bucket_of(head->bucket_count, hash));
    uint32_t next = link_coded(table, coding, link);
    while (next != 0) {
        uint64_t entry = entry_offset(table, next - 1);
        if (key_equal(coding, runtime_state_at(table->state, entry), key))
            return link;
        link = entry + table->link_at;
        next = link_coded(table, coding, link);
    }
    return 0;
}

/* Offset of the link that leads to the key's entry, 0 when there is none. */
static uint64_t find_link(const struct table *table, const void *key) {
    if (table->coding.key_mask == WORDS.key_mask)
        return find_coded(table, WORDS, key);
    return find_coded(table, table->coding, key);
}

uint64_t runtime_table_find(const struct table *table, const void *key) {
    uint64_t link = find_link(table, key);
    if (link == 0)
        return 0;
    return entry_offset(table, load_link(table, link) - 1) + table->value_at;
}

/* Makes bucket `bucket_count` out of the one it was folded into. Both keep their order. */
static void split(struct table *table) {
    struct table_head *head =
        runtime_state_write(table->state, table->head_offset, sizeof(struct table_head));
    uint32_t new_bucket = head->bucket_count++;
    uint64_t keep = bucket_offset(table, new_bucket - power_below(new_bucket));
    uint64_t move = bucket_offset(table, new_bucket);
    uint32_t next = load_link(table, keep);
    while (next != 0) {
        uint64_t entry = entry_offset(table, next - 1);
        uint32_t after = load_link(table, entry + table->link_at);
        uint64_t hash = table_hash(table, runtime_state_at(table->state, entry));
        uint64_t *last = bucket_of(head->bucket_count, hash) == new_bucket ? &move : &keep;
        store_link(table, *last, next);
        *last = entry + table->link_at;
        next = after;
    }
    store_link(table, keep, 0);
    store_link(table, move, 0);
}

uint64_t runtime_table_insert(struct table *table, const void *key) {
    uint64_t link = find_link(table, key);
    if (link != 0)
        return entry_offset(table, load_link(table, link) - 1) + table->value_at;
    if (table_head(table)->count >= table->entries_max)
        return 0;
    struct table_head *head =
        runtime_state_write(table->state, table->head_offset, sizeof(struct table_head));
    if (head->bucket_count == 0)
        head->bucket_count = 1;
    uint64_t mask = table->coding.key_mask;
    assert(mask == 0 || (load_word(key) & ~mask) == 0);
    uint32_t place = head->count++;
    uint64_t entry = entry_offset(table, place);
    uint64_t first = bucket_offset(table, bucket_of(head->bucket_count, table_hash(table, key)));
    uint8_t *bytes = runtime_state_write(table->state, entry, table->entry_bytes);
    uint32_t next = load_link(table, first);
    memset(bytes, 0, table->entry_bytes);
    memcpy(bytes, key, table->coding.key_bytes);
    next <<= table->coding.link_shift;
    memcpy(bytes + table->link_at, &next, sizeof next);
    store_link(table, first, place + 1);
    if (head->count >> table->load_shift > head->bucket_count)
        split(table);
    return entry + table->value_at;
}

int runtime_table_erase(struct table *table, const void *key) {
    uint64_t link = find_link(table, key);
    if (link == 0)
        return 0;
    uint32_t hole = load_link(table, link) - 1;
    store_link(table, link, load_link(table, entry_offset(table, hole) + table->link_at));
    uint32_t last = table_head(table)->count - 1;
    uint64_t from = entry_offset(table, last);
    if (hole != last) {
        uint64_t moved = find_link(table, runtime_state_at(table->state, from));
        assert(moved != 0 && load_link(table, moved) == last + 1);
        store_link(table, moved, hole + 1);
        uint8_t *to =
            runtime_state_write(table->state, entry_offset(table, hole), table->entry_bytes);
        memcpy(to, runtime_state_at(table->state, from), table->entry_bytes);
    }
    memset(runtime_state_write(table->state, from, table->entry_bytes), 0, table->entry_bytes);
    struct table_head *head =
        runtime_state_write(table->state, table->head_offset, sizeof(struct table_head));
    head->count--;
    return 1;
}

/* ---- the check ---- */

/* A chain being walked. Entries of a chain lie anywhere, so several chains are walked by turns:
 * each waits for its next entry while the others go on. */
struct walk {
    uint32_t bucket;
    uint32_t next; /* entry + 1; 0: the next chain may begin */
};

#define WALKS 16

static void walk_fetch(const struct table *table, const struct walk *walk, uint32_t count) {
    if (walk->next != 0 && walk->next <= count)
        __builtin_prefetch(runtime_state_at(table->state, entry_offset(table, walk->next - 1)));
}

/* One entry further. */
static const char *walk_step(const struct table *table, const struct table_head *head,
                             struct walk *walk) {
    if (walk->next > head->count)
        return "table: chain leaves the entries or is a circle";
    uint64_t entry = entry_offset(table, walk->next - 1);
    uint64_t hash = table_hash(table, runtime_state_at(table->state, entry));
    if (bucket_of(head->bucket_count, hash) != walk->bucket)
        return "table: entry in a foreign bucket";
    walk->next = load_link(table, entry + table->link_at);
    walk_fetch(table, walk, head->count);
    return NULL;
}

/* Every entry met once: in its bucket's chain, none of them twice as there are no more steps than
 * entries. */
static const char *walk_all(const struct table *table) {
    const struct table_head *head = table_head(table);
    struct walk walks[WALKS] = {{0}};
    uint64_t seen = 0;
    for (uint32_t begun = 0, under_way = 1; under_way > 0;) {
        under_way = 0;
        for (uint32_t i = 0; i < WALKS; i++) {
            struct walk *walk = &walks[i];
            while (walk->next == 0 && begun < head->bucket_count) {
                walk->bucket = begun++;
                walk->next = load_link(table, bucket_offset(table, walk->bucket));
                walk_fetch(table, walk, head->count);
            }
            if (walk->next == 0)
                continue;
            if (seen++ >= head->count)
                return "table: chain leaves the entries or is a circle";
            const char *broken = walk_step(table, head, walk);
            if (broken != NULL)
                return broken;
            under_way++;
        }
    }
    return seen == head->count ? NULL : "table: entry in no bucket";
}

/* The same without walking, in the order in which the bytes lie: each entry owes one link that
 * leads to it, from its bucket or from another entry of that bucket. Links owed and links there are
 * summed as hashes of (entry, bucket): sums that are equal mean the same links (or one in 2^64).
 * Links that all lead to lower entries make no circle, so then each chain ends, and has all of its
 * bucket's. An erase can leave a link that rises: then, or when a sum is wrong, walk_all decides.
 */
struct table_sums {
    uint64_t owed, there;
    bool walk; /* a link rises or leaves the entries */
};

struct table_summing {
    const struct table *table;
    uint32_t count, bucket_count;
    _Atomic uint32_t next_part;
    _Atomic uint64_t difference;
    _Atomic bool walk;
};

#define SUM_PARTS 256
#define SUM_ALONE 100000 /* entries below which a crew is not worth its start */

/* 0 for no link; without a branch, which would be guessed wrong for every other entry. */
static inline uint64_t link_hash(uint64_t seed, uint32_t link, uint32_t bucket) {
    return mix(link * UINT64_C(0x9e3779b97f4a7c15) ^ seed,
               bucket * UINT64_C(0xd6e8feb86659fd93) ^ UINT64_C(0x2545f4914f6cdd1d)) &
           -(uint64_t)(link != 0);
}

FOR_EACH_CODING void sum_entries(const struct table *table, struct table_coding coding,
                                 uint32_t bucket_count, uint64_t first, uint64_t end,
                                 struct table_sums *sums) {
    const uint8_t *at = runtime_table_at(table, (uint32_t)first);
    uint64_t owed = 0, there = 0;
    bool walk = false;
    for (uint64_t i = first; i < end; i++, at += table->entry_bytes) {
        uint32_t bucket = bucket_of(bucket_count, hash_coded(table->seed, coding, at));
        uint32_t next = load_packed(at + table->link_at) >> coding.link_shift;
        owed += link_hash(table->seed, (uint32_t)i + 1, bucket);
        there += link_hash(table->seed, next, bucket);
        walk |= next > i;
    }
    sums->owed += owed;
    sums->there += there;
    sums->walk |= walk;
}

static void sum_part(const struct table_summing *s, uint64_t part, struct table_sums *sums) {
    const struct table *table = s->table;
    uint64_t first = s->count * part / SUM_PARTS, end = s->count * (part + 1) / SUM_PARTS;
    if (table->coding.key_mask == WORDS.key_mask)
        sum_entries(table, WORDS, s->bucket_count, first, end, sums);
    else
        sum_entries(table, table->coding, s->bucket_count, first, end, sums);
    first = s->bucket_count * part / SUM_PARTS;
    end = s->bucket_count * (part + 1) / SUM_PARTS;
    for (uint64_t i = first; i < end; i++) {
        uint32_t next = load_link(table, bucket_offset(table, (uint32_t)i));
        sums->there += link_hash(table->seed, next, (uint32_t)i);
        sums->walk |= next > s->count;
    }
}

static void sum_parts(void *context) {
    struct table_summing *s = context;
    struct table_sums sums = {0};
    for (uint32_t part; (part = atomic_fetch_add(&s->next_part, 1)) < SUM_PARTS;)
        sum_part(s, part, &sums);
    atomic_fetch_add(&s->difference, sums.owed - sums.there);
    if (sums.walk)
        atomic_store(&s->walk, true);
}

const char *runtime_table_check(const struct table *table, const struct runtime_crew *crew) {
    const struct table_head *head = table_head(table);
    if (head->count > table->entries_max)
        return "table: more entries than fit";
    if (head->bucket_count > (table->entries_max >> table->load_shift) + 1 ||
        (head->count > 0 && head->bucket_count == 0))
        return "table: impossible number of buckets";
    struct table_summing s = {
        .table = table, .count = head->count, .bucket_count = head->bucket_count};
    runtime_crew_run(head->count < SUM_ALONE ? NULL : crew, sum_parts, &s);
    return s.walk || s.difference != 0 ? walk_all(table) : NULL;
}
