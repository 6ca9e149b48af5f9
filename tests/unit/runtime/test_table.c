/* Tables against a plain model; undo and the hash tree against whole copies. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/table.h"

#define KEYS 2000
#define REGION_BYTES (1 << 20)

struct model {
    struct state state;
    struct table table;
    bool packed;
    uint32_t values[KEYS]; /* 0: absent */
    uint32_t count;
};

#define PACKED 0 /* for a length of key: as the runtime's retired ranges are */
#define PACKED_KEY_BITS 34
#define PACKED_BYTES 15

static struct model *model_new(uint32_t key_bytes, uint32_t load_shift, uint32_t entries_max) {
    struct model *model = calloc(1, sizeof *model);
    assert_int_equal(runtime_state_open(&model->state, REGION_BYTES, 1 << 20), 0);
    model->packed = key_bytes == PACKED;
    if (model->packed)
        runtime_table_shape_packed(&model->table, PACKED_KEY_BITS, PACKED_BYTES, load_shift);
    else
        runtime_table_shape(&model->table, key_bytes, 12, load_shift);
    model->table.state = &model->state;
    model->table.seed = 99;
    model->table.head_offset = 64;
    model->table.buckets_offset = 4096;
    model->table.entries_offset = 4096 * 8;
    model->table.entries_max = entries_max;
    return model;
}
static void model_free(struct model *model) {
    runtime_state_close(&model->state);
    free(model);
}

static void key_of(uint32_t i, uint8_t key[64]) {
    memset(key, 0, 64);
    memcpy(key, &i, sizeof i);
    key[4] = i & 3;
    memcpy(key + 16, &i, sizeof i);
}

/* What a value takes: 12 bytes, or in an entry that is packed every bit that is neither of the key
 * nor of the link: 30 above the key, 24 behind them, one below the link. */
static uint32_t value_get(const struct model *model, uint64_t place) {
    const uint8_t *at = runtime_state_at(&model->state, place);
    uint32_t value;
    uint64_t word;
    if (!model->packed) {
        memcpy(&value, at, sizeof value);
        return value;
    }
    memcpy(&word, at, sizeof word);
    value = (uint32_t)(word >> PACKED_KEY_BITS);
    assert_int_equal(at[8] | at[9] << 8 | at[10] << 16, value & 0xffffff);
    assert_int_equal(at[11] & 1, value & 1);
    return value;
}

static void value_set(struct model *model, uint64_t place, uint32_t value) {
    uint8_t *at = runtime_state_write(&model->state, place, 12);
    uint64_t word;
    if (!model->packed) {
        memcpy(at, &value, sizeof value);
        return;
    }
    memcpy(&word, at, sizeof word);
    word = (word & ((UINT64_C(1) << PACKED_KEY_BITS) - 1)) | (uint64_t)value << PACKED_KEY_BITS;
    memcpy(at, &word, sizeof word);
    for (int i = 0; i < 3; i++)
        at[8 + i] = (uint8_t)(value >> 8 * i);
    at[11] = (uint8_t)((at[11] & 0xfe) | (value & 1));
}

static void step(struct model *model) {
    uint32_t i = (uint32_t)rand() % KEYS;
    uint8_t key[64];
    key_of(i, key);
    if (rand() % 5 < 3) {
        uint64_t place = runtime_table_insert(&model->table, key);
        if (model->values[i] == 0 && model->count == model->table.entries_max) {
            assert_int_equal(place, 0);
            return;
        }
        assert_int_not_equal(place, 0);
        assert_int_equal(value_get(model, place), model->values[i]);
        model->count += model->values[i] == 0;
        model->values[i] = (uint32_t)rand() >> 1 | 1;
        if (rand() % 2) /* both values of the bit below the link */
            model->values[i] = (model->values[i] & ~UINT32_C(1)) | 2;
        value_set(model, place, model->values[i]);
    } else {
        assert_int_equal(runtime_table_erase(&model->table, key), model->values[i] != 0);
        model->count -= model->values[i] != 0;
        model->values[i] = 0;
    }
}

static void compare(const struct model *model) {
    const char *broken = runtime_table_check(&model->table, NULL);
    if (broken != NULL)
        fail_msg("%s", broken);
    assert_int_equal(runtime_table_count(&model->table), model->count);
    for (uint32_t i = 0; i < KEYS; i++) {
        uint8_t key[64];
        key_of(i, key);
        uint64_t place = runtime_table_find(&model->table, key);
        assert_int_equal(place != 0, model->values[i] != 0);
        if (place != 0)
            assert_int_equal(value_get(model, place), model->values[i]);
    }
}

static void run_model(uint32_t key_bytes, uint32_t load_shift, uint32_t entries_max) {
    struct model *model = model_new(key_bytes, load_shift, entries_max);
    srand(5);
    for (uint32_t round = 0; round < 100; round++) {
        for (uint32_t i = 0; i < 300; i++)
            step(model);
        compare(model);
    }
    model_free(model);
}

static void test_table_is_a_map(void **state) {
    (void)state;
    run_model(8, 0, KEYS);
    run_model(21, 0, KEYS);
    run_model(8, 2, KEYS);
    run_model(4, 0, 700); /* often full */
    run_model(PACKED, 3, KEYS);
    run_model(PACKED, 0, 700);
}

static uint32_t link_of(const struct model *model, uint32_t place) {
    uint32_t link;
    memcpy(&link, runtime_table_at(&model->table, place) + model->table.link_at, sizeof link);
    return link >> model->table.coding.link_shift;
}

static void link_set(struct model *model, uint32_t place, uint32_t link) {
    uint8_t *at = (uint8_t *)(uintptr_t)runtime_table_at(&model->table, place);
    link <<= model->table.coding.link_shift;
    memcpy(at + model->table.link_at, &link, sizeof link);
}

static void expect_broken(const struct model *model, const char *word) {
    const char *broken = runtime_table_check(&model->table, NULL);
    assert_non_null(broken);
    if (strstr(broken, word) == NULL)
        fail_msg("%s, where it should be %s", broken, word);
}

/* What a region from outside may hold: each damage by itself, mended after it. */
static void find_damage(uint32_t key_bytes) {
    struct model *model = model_new(key_bytes, 2, KEYS);
    uint32_t *buckets = (uint32_t *)runtime_state_change(&model->state, 4096, 4096 * 7);
    for (uint32_t i = 0; i < 500; i++) {
        uint8_t key[64];
        key_of(i, key);
        assert_int_not_equal(runtime_table_insert(&model->table, key), 0);
    }
    const struct table_head *head = runtime_state_at(&model->state, model->table.head_offset);
    for (uint32_t place = 0; place < 500; place += 7) {
        uint32_t was = link_of(model, place);
        link_set(model, place, place + 1); /* a circle of one */
        expect_broken(model, was ? "" : "circle");
        link_set(model, place, 501);
        expect_broken(model, "leaves the entries");
        link_set(model, place, TABLE_PACKED_ENTRIES_MAX);
        expect_broken(model, "leaves the entries");
        if (was) {
            link_set(model, place, 0); /* what hung on it is lost */
            expect_broken(model, "no bucket");
        }
        link_set(model, place, was);
        assert_null(runtime_table_check(&model->table, NULL));
    }
    for (uint32_t bucket = 0; bucket < head->bucket_count; bucket += 5) {
        uint32_t was = buckets[bucket], other = buckets[(bucket + 1) % head->bucket_count];
        if (!was || !other)
            continue;
        buckets[bucket] = other;
        expect_broken(model, "foreign");
        buckets[bucket] = was;
    }
    uint8_t *key = (uint8_t *)(uintptr_t)runtime_table_at(&model->table, 3);
    key[0] ^= 0x55;
    expect_broken(model, "foreign");
    key[0] ^= 0x55;
    assert_null(runtime_table_check(&model->table, NULL));
    model_free(model);
}

static void test_damage_is_found(void **state) {
    (void)state;
    find_damage(8);
    find_damage(PACKED);
}

/* The greatest entry, so the greatest link, from a bucket and from an entry; one more is refused.
 * 32 GiB of addresses, of which a few pages are touched: the entries below are only said to be
 * there. */
static void test_greatest_link(void **state) {
    (void)state;
    const uint64_t entries_max = TABLE_PACKED_ENTRIES_MAX;
    struct state region;
    struct table table = {.state = &region,
                          .seed = 99,
                          .head_offset = 64,
                          .buckets_offset = 4096,
                          .entries_offset = 8192,
                          .entries_max = TABLE_PACKED_ENTRIES_MAX};
    runtime_table_shape_packed(&table, PACKED_KEY_BITS, PACKED_BYTES, 31); /* one bucket */
    uint64_t pages = (table.entries_offset + entries_max * PACKED_BYTES) / STATE_PAGE_BYTES + 1;
    assert_int_equal(runtime_state_open(&region, pages * STATE_PAGE_BYTES, 1 << 20), 0);
    struct table_head *head = runtime_state_change(&region, table.head_offset, sizeof *head);
    const uint64_t keys[] = {(UINT64_C(1) << PACKED_KEY_BITS) - 1, 0, UINT64_C(1) << 33};
    *head = (struct table_head){.count = TABLE_PACKED_ENTRIES_MAX - 1, .bucket_count = 1};

    uint64_t last = runtime_table_insert(&table, &keys[0]);
    assert_int_equal(last, table.entries_offset + (entries_max - 1) * PACKED_BYTES);
    assert_int_equal(runtime_table_insert(&table, &keys[1]), 0); /* full */
    assert_int_equal(runtime_table_find(&table, &keys[0]), last);
    assert_int_equal(runtime_table_find(&table, &keys[1]), 0);

    head->count = 0;
    uint64_t first = runtime_table_insert(&table, &keys[1]); /* leads to the last one */
    assert_int_equal(first, table.entries_offset);
    uint8_t *bytes = runtime_state_change(&region, first, PACKED_BYTES);
    uint32_t link;
    memcpy(&link, bytes + PACKED_BYTES - sizeof link, sizeof link);
    assert_int_equal(link, TABLE_PACKED_ENTRIES_MAX << 1);
    bytes[4] |= 0xfc; /* every bit that is the value's */
    memset(bytes + 5, 0xff, 6);
    bytes[11] |= 1;
    assert_int_equal(runtime_table_find(&table, &keys[1]), first);
    assert_int_equal(runtime_table_find(&table, &keys[0]), last);
    assert_int_equal(runtime_table_find(&table, &keys[2]), 0);
    head->count = TABLE_PACKED_ENTRIES_MAX;
    assert_int_equal(runtime_table_erase(&table, &keys[1]), 1); /* the last moves to its place */
    assert_int_equal(runtime_table_find(&table, &keys[0]), first);
    assert_int_equal(runtime_table_find(&table, &keys[1]), 0);
    runtime_state_close(&region);
}

static void undo(uint32_t key_bytes) {
    struct model *model = model_new(key_bytes, 0, KEYS);
    uint8_t *copy = malloc(REGION_BYTES);
    srand(6);
    for (uint32_t round = 0; round < 200; round++) {
        struct model before = *model;
        memcpy(copy, model->state.base, REGION_BYTES);
        runtime_state_transaction_begin(&model->state);
        for (uint32_t i = 0; i < 100; i++)
            step(model);
        if (round % 2) {
            runtime_state_undo(&model->state);
            assert_memory_equal(copy, model->state.base, REGION_BYTES);
            memcpy(model->values, before.values, sizeof before.values);
            model->count = before.count;
        }
        runtime_state_transaction_end(&model->state);
        compare(model);
    }
    free(copy);
    model_free(model);
}

static void test_undo_puts_every_byte_back(void **state) {
    (void)state;
    undo(8);
    undo(PACKED);
}

/* The hash depends on the bytes, not on when it was asked for or which pages were touched. */
static void test_hash_is_of_content(void **state) {
    (void)state;
    struct state often, once;
    uint64_t bytes = UINT64_C(4096) * 5000; /* three levels, the last of each not full */
    assert_int_equal(runtime_state_open(&often, bytes, 4096), 0);
    assert_int_equal(runtime_state_open(&once, bytes, 4096), 0);
    struct wire_hash empty = runtime_state_root(&often), previous = empty;
    srand(8);
    for (uint32_t i = 0; i < 2000; i++) {
        uint64_t at = ((uint64_t)rand() * 4096 + (uint64_t)rand()) % (bytes - 8);
        uint64_t value = (uint64_t)rand() | 1;
        memcpy(runtime_state_change(&often, at, 8), &value, 8);
        memcpy(runtime_state_change(&once, at, 8), &value, 8);
        if (i % 7 == 0) {
            struct wire_hash now = runtime_state_root(&often);
            assert_memory_not_equal(&now, &previous, sizeof now);
            previous = now;
        }
    }
    struct wire_hash a = runtime_state_root(&often), b = runtime_state_root(&once);
    assert_memory_equal(&a, &b, sizeof a);
    memset(runtime_state_change(&once, 0, bytes), 0, bytes); /* touched, and empty again */
    b = runtime_state_root(&once);
    assert_memory_equal(&empty, &b, sizeof b);
    runtime_state_close(&often);
    runtime_state_close(&once);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table_is_a_map), cmocka_unit_test(test_damage_is_found),
        cmocka_unit_test(test_greatest_link), cmocka_unit_test(test_undo_puts_every_byte_back),
        cmocka_unit_test(test_hash_is_of_content)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
