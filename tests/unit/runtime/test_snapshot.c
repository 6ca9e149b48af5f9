/* Snapshots: the same future, any damage refused, and execution between the steps. Determinism: the
 * state is a function of the epochs. */
#include "support.h"

#include <pthread.h>
#include <stdio.h>

#include "runtime/internal.h"
#include "runtime/snapshot_format.h"

struct file {
    uint8_t *bytes;
    size_t length_bytes, room_bytes;
    size_t fail_at; /* write fails there; 0: never */
    size_t most;    /* read gives at most so many at once; 0: all */
};

static int file_write(void *user, const void *bytes, size_t length_bytes) {
    struct file *file = user;
    if (file->fail_at != 0 && file->length_bytes + length_bytes > file->fail_at)
        return MRN_ERR_IO;
    while (file->length_bytes + length_bytes > file->room_bytes) {
        file->room_bytes = file->room_bytes * 2 + (1 << 16);
        file->bytes = realloc(file->bytes, file->room_bytes);
        assert_non_null(file->bytes);
    }
    memcpy(file->bytes + file->length_bytes, bytes, length_bytes);
    file->length_bytes += length_bytes;
    return 0;
}

static int64_t file_read(void *user, uint64_t at_bytes, void *bytes, size_t room_bytes) {
    const struct file *file = user;
    size_t left = at_bytes < file->length_bytes ? file->length_bytes - at_bytes : 0;
    size_t count = left < room_bytes ? left : room_bytes;
    if (file->most != 0 && count > file->most)
        count = file->most;
    memcpy(bytes, file->bytes + (left == 0 ? 0 : at_bytes), count);
    return (int64_t)count;
}

static int restore(struct runtime *runtime, struct file *file, struct runtime_snapshot_info *info) {
    struct runtime_source source = {file_read, file, file->length_bytes};
    return runtime_restore(runtime, &source, NULL, info);
}

struct crew_errand {
    void (*work)(void *context);
    void *context;
};

static void *crew_go(void *argument) {
    const struct crew_errand *errand = argument;
    errand->work(errand->context);
    return NULL;
}

/* Three threads at once, and a fourth after them that finds nothing to do. */
static void crew_run(void *user, void (*work)(void *context), void *context) {
    struct crew_errand errand = {work, context};
    pthread_t threads[3];
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, crew_go, &errand), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    work(context);
    ++*(uint32_t *)user;
}

/* Adds a mixed bag of transactions, a function of the number only. */
static void mixed(struct feed *feed, uint32_t number) {
    srand(number);
    if (number == 0) {
        feed_open(feed, 0, 5);
        feed_open(feed, 7, 6);
    }
    if (number == 20)
        feed_seal(feed, 7, 0);
    for (uint32_t i = 0; i < 40; i++) {
        uint64_t a = (uint64_t)rand() % 5000, b = (uint64_t)rand() % 5000;
        switch (rand() % 6) {
        case 0: feed_withdraw(feed, a, (uint64_t)rand() % 100); break;
        case 1: feed_transfer(feed, a, b, (uint64_t)rand() % 100); break;
        case 2:
            memset(feed->key, (int)(a % 200) + 1, 16);
            memset(feed->request_hash, (int)(a % 3), 16);
            feed_deposit(feed, b, 9);
            break;
        case 3: feed_call(feed, "probe.Probe", "Do", rand() % 2 ? "f" : "r", 1); break;
        default: feed_deposit(feed, a, 50); break;
        }
    }
    feed->low_water = wire_tx_offset(feed->next_id) > 150 ? wire_tx_offset(feed->next_id) - 150 : 0;
}

static void test_determinism(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct feed *a = feed_new(&config), *b = feed_new(&config);
    for (uint32_t i = 0; i < 60; i++) {
        mixed(a, i);
        mixed(b, i);
        feed_run(a);
        feed_run(b);
        if (i % 7 == 0)
            (void)runtime_state_hash(a->runtime);
        if (i == 31) {
            struct file file = {0};
            struct runtime_snapshot_info info;
            assert_int_equal(runtime_snapshot_write(b->runtime, file_write, &file, &info), 0);
            free(file.bytes);
        }
    }
    assert_same_hash(result_hash_of(a->runtime), result_hash_of(b->runtime));
    assert_same_hash(runtime_state_hash(a->runtime), runtime_state_hash(b->runtime));
    mixed(a, 61);
    mixed(b, 62);
    feed_run(a);
    feed_run(b);
    struct wire_hash x = runtime_state_hash(a->runtime), y = runtime_state_hash(b->runtime);
    assert_memory_not_equal(&x, &y, sizeof x);
    x = result_hash_of(a->runtime);
    y = result_hash_of(b->runtime);
    assert_memory_not_equal(&x, &y, sizeof x);
    feed_free(a);
    feed_free(b);
}

/* Ids, codes and lengths are equal; only a balance in a result differs. */
static void test_result_hash_covers_the_bytes(void **state) {
    (void)state;
    struct wire_hash hashes[2];
    for (uint64_t amount = 1; amount <= 2; amount++) {
        struct runtime_config config = small_config();
        struct feed *feed = feed_new(&config);
        feed_open(feed, 0, 5);
        feed_deposit(feed, 1, amount);
        feed_run(feed);
        hashes[amount - 1] = result_hash_of(feed->runtime);
        feed_free(feed);
    }
    assert_memory_not_equal(&hashes[0], &hashes[1], sizeof hashes[0]);
}

/* The same transactions in epochs of other sizes: the same balances and results. */
static void test_batching_does_not_matter(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct feed *a = feed_new(&config), *b = feed_new(&config);
    for (uint32_t i = 0; i < 20; i++) {
        mixed(a, i + 1); /* no controls */
        if (i == 0)
            feed_open(a, 0, 5);
        feed_run(a);
    }
    feed_open(b, 0, 5);
    for (uint32_t i = 0; i < 20; i++)
        mixed(b, i + 1);
    b->control_count = 1; /* without the SEAL of 20 */
    assert_int_equal(b->body_count, 800);
    feed_run(b);
    for (uint64_t account = 0; account < 5000; account += 37)
        assert_int_equal(feed_ask_balance(a, account), feed_ask_balance(b, account));
    assert_int_equal(feed_ask_total(a), feed_ask_total(b));
    feed_free(a);
    feed_free(b);
}

static void test_restore_gives_the_same_future(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct feed *a = feed_new(&config), *b = feed_new(&config);
    struct file file = {.most = 1000};
    struct runtime_snapshot_info written, read;
    for (uint32_t i = 0; i < 25; i++) {
        mixed(a, i);
        feed_run(a);
    }
    assert_int_equal(runtime_snapshot_write(a->runtime, file_write, &file, &written), 0);
    assert_same_hash(written.state_hash, runtime_state_hash(a->runtime));
    assert_int_equal(written.seq, 25);
    feed_open(b, 3, 3); /* whatever it did before is gone */
    feed_run(b);
    assert_int_equal(restore(b->runtime, &file, &read), 0);
    assert_memory_equal(&written, &read, sizeof read);
    assert_null(runtime_check(b->runtime));
    assert_same_hash(runtime_state_hash(a->runtime), runtime_state_hash(b->runtime));
    b->seq = a->seq;
    b->time_us = a->time_us;
    b->next_id = a->next_id;
    b->low_water = a->low_water;
    for (uint32_t i = 25; i < 50; i++) {
        mixed(a, i);
        mixed(b, i);
        feed_run(a);
        feed_run(b);
        assert_same_hash(result_hash_of(a->runtime), result_hash_of(b->runtime));
    }
    assert_same_hash(runtime_state_hash(a->runtime), runtime_state_hash(b->runtime));
    /* and a snapshot of the restored one is the same file */
    struct file one = {0}, other = {0};
    assert_int_equal(runtime_snapshot_write(a->runtime, file_write, &one, &written), 0);
    assert_int_equal(runtime_snapshot_write(b->runtime, file_write, &other, &written), 0);
    assert_int_equal(one.length_bytes, other.length_bytes);
    assert_memory_equal(one.bytes, other.bytes, one.length_bytes);
    free(one.bytes);
    free(other.bytes);
    free(file.bytes);
    feed_free(a);
    feed_free(b);
}

/* Steps of a few pages, epochs between them: the file is that of the beginning. */
static void test_copy_on_write(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct feed *feed = feed_new(&config);
    struct file whole = {0}, stepped = {0};
    struct runtime_snapshot_info info, info_stepped;
    for (uint32_t i = 0; i < 25; i++) {
        mixed(feed, i);
        feed_run(feed);
    }
    assert_int_equal(runtime_snapshot_write(feed->runtime, file_write, &whole, &info), 0);
    assert_int_equal(runtime_snapshot_begin(feed->runtime), 0);
    assert_int_equal(runtime_snapshot_begin(feed->runtime), MRN_ERR_EXISTS);
    int more = 1;
    uint32_t steps = 0;
    for (uint32_t i = 25; more > 0; i++, steps++) {
        mixed(feed, i);
        feed_run(feed);
        if (i % 3 == 0)
            (void)runtime_state_hash(feed->runtime);
        more = runtime_snapshot_step(feed->runtime, 2, file_write, &stepped, &info_stepped);
    }
    assert_int_equal(more, 0);
    assert_true(steps > 5);
    assert_int_equal(whole.length_bytes, stepped.length_bytes);
    assert_memory_equal(whole.bytes, stepped.bytes, whole.length_bytes);
    assert_memory_equal(&info, &info_stepped, sizeof info);
    assert_int_equal(runtime_snapshot_step(feed->runtime, 5, file_write, &stepped, &info),
                     MRN_ERR_NOT_FOUND);
    struct wire_hash live = runtime_state_hash(feed->runtime);
    assert_memory_not_equal(&live, &info.state_hash, sizeof live);
    free(whole.bytes);
    free(stepped.bytes);
    feed_free(feed);
}

static void test_failed_write_abandons(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct feed *feed = feed_new(&config);
    struct runtime_snapshot_info info;
    mixed(feed, 0);
    feed_run(feed);
    struct file file = {.fail_at = 20000};
    assert_int_equal(runtime_snapshot_write(feed->runtime, file_write, &file, &info), MRN_ERR_IO);
    mixed(feed, 1);
    feed_run(feed);
    file.fail_at = file.length_bytes = 0;
    assert_int_equal(runtime_snapshot_write(feed->runtime, file_write, &file, &info), 0);
    assert_same_hash(info.state_hash, runtime_state_hash(feed->runtime));
    assert_int_equal(restore(feed->runtime, &file, &info), 0);
    free(file.bytes);
    feed_free(feed);
}

/* Every bit of head and tail, sampled bytes of the rest, every way to end early. */
static void test_damage_is_refused(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    config.state_bytes = 6 << 20;
    config.ranges_max = 4;
    struct feed *feed = feed_new(&config);
    struct file file = {0};
    struct runtime_snapshot_info info;
    mixed(feed, 0);
    feed_run(feed);
    assert_int_equal(runtime_snapshot_write(feed->runtime, file_write, &file, &info), 0);
    mixed(feed, 1);
    feed_run(feed);
    struct wire_hash before = runtime_state_hash(feed->runtime);
    size_t length_bytes = file.length_bytes, checked = 0;
    for (size_t at = 0; at < length_bytes; at += at < 300 || at + 100 > length_bytes ? 1 : 131) {
        uint8_t bit = (uint8_t)(1 << (at % 8));
        file.bytes[at] ^= bit;
        assert_true(restore(feed->runtime, &file, &info) < 0);
        file.bytes[at] ^= bit;
        checked++;
    }
    assert_true(checked > 400);
    const size_t ends[] = {0,
                           1,
                           8,
                           191,
                           192,
                           195,
                           200,
                           300,
                           4296,
                           length_bytes - 81,
                           length_bytes - 80,
                           length_bytes - 1};
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        file.length_bytes = ends[i];
        assert_int_equal(restore(feed->runtime, &file, &info), MRN_ERR_CORRUPT);
    }
    file.length_bytes = length_bytes;
    file.bytes[8]++; /* the version, and what it says of itself is not looked at */
    assert_int_equal(restore(feed->runtime, &file, &info), MRN_ERR_UNSUPPORTED);
    file.bytes[8]--;
    assert_int_equal(file_write(&file, "x", 1), 0); /* a byte too many */
    assert_int_equal(restore(feed->runtime, &file, &info), MRN_ERR_CORRUPT);
    file.length_bytes = length_bytes;
    assert_same_hash(runtime_state_hash(feed->runtime), before); /* nothing of it was taken */
    mixed(feed, 2);
    feed_run(feed);
    assert_int_equal(restore(feed->runtime, &file, &info), 0);
    free(file.bytes);
    feed_free(feed);
}

/* More pages and entries than one thread takes at once: the same state as by one thread, and the
 * same damage refused, wherever it is. */
static void test_a_crew_restores(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    config.state_bytes = 64 << 20;
    struct feed *a = feed_new(&config), *b = feed_new(&config);
    struct file file = {.most = 100000};
    struct runtime_snapshot_info written, read;
    uint32_t runs = 0;
    struct runtime_crew crew = {crew_run, &runs};
    feed_open(a, 0, 5);
    for (uint32_t i = 0; i < 112000; i++) {
        feed_deposit(a, i, i + 1);
        if (i % 4000 == 3999)
            feed_run(a);
    }
    assert_int_equal(runtime_snapshot_write(a->runtime, file_write, &file, &written), 0);
    struct runtime_source source = {file_read, &file, file.length_bytes};
    assert_int_equal(runtime_restore(b->runtime, &source, &crew, &read), 0);
    assert_int_equal(runs, 2); /* the pages, and the table of accounts */
    assert_memory_equal(&written, &read, sizeof read);
    assert_same_hash(runtime_state_hash(a->runtime), runtime_state_hash(b->runtime));
    struct runtime_facts facts, facts_read;
    runtime_facts(a->runtime, &facts);
    runtime_facts(b->runtime, &facts_read);
    assert_true(facts_read.pages_touched <= facts.pages_touched);

    uint64_t *number = NULL;
    struct wire_hash before = runtime_state_hash(b->runtime);
    for (uint64_t record = 0; record < written.page_count; record += 97) {
        number = (uint64_t *)(uintptr_t)(file.bytes + sizeof(struct snapshot_head) + record * 4104);
        const uint64_t was = *number, wrong[] = {0, was + 1, was - 1, UINT64_MAX, UINT64_MAX - 1};
        for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
            *number = wrong[i];
            if (wrong[i] != was)
                assert_int_equal(runtime_restore(b->runtime, &source, &crew, &read),
                                 MRN_ERR_CORRUPT);
        }
        *number = was;
        ((uint8_t *)number)[8 + record % 4096] ^= 4;
        assert_int_equal(runtime_restore(b->runtime, &source, &crew, &read), MRN_ERR_CORRUPT);
        ((uint8_t *)number)[8 + record % 4096] ^= 4;
    }
    assert_same_hash(runtime_state_hash(b->runtime), before);
    assert_int_equal(runtime_restore(b->runtime, &source, &crew, &read), 0);
    free(file.bytes);
    feed_free(a);
    feed_free(b);
}

/* Bytes and checksum are right, and what they hold is laid out otherwise: said by its number. */
static void test_another_format_is_refused(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct feed *feed = feed_new(&config);
    struct file file = {0};
    struct runtime_snapshot_info info;
    char text[RUNTIME_TEXT_BYTES] = "", expected[80];
    mixed(feed, 0);
    feed_run(feed);
    assert_int_equal(runtime_snapshot_write(feed->runtime, file_write, &file, &info), 0);
    struct snapshot_head *head = (void *)file.bytes;
    assert_false(runtime_snapshot_differs(feed->runtime, head, text));
    for (int by = -1; by <= 1; by += 2) {
        head->format_version = (uint32_t)(SNAPSHOT_FORMAT_VERSION + by);
        head->checksum = wire_hash_blake2b(head, offsetof(struct snapshot_head, checksum));
        assert_int_equal(restore(feed->runtime, &file, &info), MRN_ERR_UNSUPPORTED);
        assert_true(runtime_snapshot_differs(feed->runtime, head, text));
        snprintf(expected, sizeof expected, "format version %d, this program reads %d",
                 SNAPSHOT_FORMAT_VERSION + by, SNAPSHOT_FORMAT_VERSION);
        if (!strstr(text, expected))
            fail_msg("\"%s\" does not say \"%s\"", text, expected);
    }
    free(file.bytes);
    feed_free(feed);
}

/* The identity of a state is also over its layout: as long as this stands here, so does format
 * version 3. Who changes the one changes both, and WIRE_VERSION, so that builds are not mixed. */
static void test_layout_is_of_the_format_version(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct feed *feed = feed_new(&config);
    const struct table *retired = &feed->runtime->retired, *ranges = &feed->runtime->ranges;
    assert_memory_equal(region(feed->runtime)->magic, "mrnstat3", 8);
    assert_int_equal(SNAPSHOT_FORMAT_VERSION, 3);
    assert_int_equal(retired->entry_bytes, 15);
    assert_int_equal(retired->load_shift, 3);
    assert_int_equal(ranges->entry_bytes, 56);
    assert_int_equal(sizeof(struct key_record), 56);
    feed_free(feed);
}

static void test_another_configuration_is_refused(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct feed *feed = feed_new(&config);
    struct file file = {0};
    struct runtime_snapshot_info info;
    mixed(feed, 0);
    feed_run(feed);
    assert_int_equal(runtime_snapshot_write(feed->runtime, file_write, &file, &info), 0);
    feed_free(feed);
    const struct snapshot_head *head = (const void *)file.bytes;
    static const char *const why[] = {
        "",
        "is of configuration",
        "results-kept is 4095 here and 4096 in the snapshot",
        "applications",
        "idempotency-keys is 1048577 here and 1048576 in the snapshot; a state keeps the value it "
        "was made with: start with idempotency-keys = 1048576",
        "idempotency-span-s is 7 here and 86400 in the snapshot"};
    for (int which = 0; which < 6; which++) {
        struct runtime_config other = small_config();
        struct mrn_application bank = bank_application;
        const struct mrn_application *list[] = {&bank, &echo_application, &probe_application};
        other.applications = list;
        if (which == 1)
            other.configuration_id++;
        if (which == 2)
            other.results_kept--;
        if (which == 3)
            bank.version++;
        if (which == 4)
            other.idempotency_slots++;
        if (which == 5)
            other.idempotency_span_us = 7000000;
        feed = feed_new(&other);
        char text[RUNTIME_TEXT_BYTES] = "";
        assert_int_equal(runtime_snapshot_differs(feed->runtime, head, text), which != 0);
        if (!strstr(text, why[which]))
            fail_msg("\"%s\" does not say \"%s\"", text, why[which]);
        assert_int_equal(restore(feed->runtime, &file, &info), which == 0 ? 0 : MRN_ERR_MISMATCH);
        feed_free(feed);
    }
    free(file.bytes);
}

/* The chain of result hashes is made when somebody looks: whoever does, and when, makes no
 * difference. */
static void test_result_hash_whenever_it_is_asked(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    enum { ASKED, NOT_ASKED, WRITTEN, FOUNDED, WAYS };
    struct wire_hash hashes[WAYS], result[WAYS];
    for (int way = 0; way < WAYS; way++) {
        struct feed *feed = feed_new(&config);
        struct file file = {0};
        struct runtime_snapshot_info info;
        for (uint32_t i = 0; i < 5; i++) {
            mixed(feed, i);
            feed_run(feed);
            if (way == ASKED)
                (void)runtime_result_hash(feed->runtime);
        }
        if (way == WRITTEN) {
            assert_int_equal(runtime_snapshot_write(feed->runtime, file_write, &file, &info), 0);
            assert_same_hash(info.result_hash, result[ASKED]);
        }
        if (way == FOUNDED)
            assert_int_equal(runtime_found(feed->runtime, 88, &config.origin_hash), 0);
        else
            hashes[way] = runtime_state_hash(feed->runtime);
        result[way] = runtime_result_hash(feed->runtime);
        assert_same_hash(result[way], result[ASKED]);
        if (way != FOUNDED)
            assert_same_hash(hashes[way], hashes[ASKED]);
        free(file.bytes);
        feed_free(feed);
    }
}

/* Protocol.md §7: a new genesis. Balances and keys are there, the old ranges are retired, and a
 * node of the old cluster does not take the state for its own. */
static void test_a_new_cluster_begins_with_it(void **state) {
    (void)state;
    struct runtime_config config = small_config(), other = small_config();
    struct feed *old = feed_new(&config);
    struct file file = {0}, founded = {0};
    struct runtime_snapshot_info info, again;
    struct runtime_range_facts range;
    for (uint32_t i = 0; i < 30; i++) {
        mixed(old, i);
        feed_run(old);
    }
    uint64_t total = feed_ask_total(old), seventh = feed_ask_balance(old, 7);
    assert_int_equal(runtime_snapshot_write(old->runtime, file_write, &file, &info), 0);
    assert_true(runtime_range_find(old->runtime, 0, &range) && !range.retired);
    uint32_t end = range.executed;
    memset(other.genesis_hash.bytes, 8, sizeof other.genesis_hash.bytes);
    other.configuration_id = 88;
    other.origin_hash = config.genesis_hash;
    assert_int_equal(runtime_found(old->runtime, 88, &other.genesis_hash), 0);
    assert_null(runtime_check(old->runtime));
    assert_int_equal(runtime_snapshot_write(old->runtime, file_write, &founded, &again), 0);
    assert_int_equal(again.seq, info.seq);
    assert_same_hash(again.epoch_hash, other.genesis_hash);

    struct feed *new = feed_new(&other), *odd = feed_new(&config);
    assert_int_equal(restore(new->runtime, &file, &info), MRN_ERR_MISMATCH);
    assert_int_equal(restore(odd->runtime, &founded, &info), MRN_ERR_MISMATCH);
    assert_int_equal(restore(new->runtime, &founded, &info), 0);
    assert_true(runtime_range_find(new->runtime, 0, &range) && range.retired);
    assert_int_equal(range.executed, end);
    struct runtime_facts facts;
    runtime_facts(new->runtime, &facts);
    assert_int_equal(facts.ranges_active, 0);
    struct feed *both[] = {old, new};
    for (int i = 0; i < 2; i++) {
        both[i]->seq = info.seq;
        both[i]->time_us = info.logical_time_us;
        both[i]->next_id = UINT64_C(9) << 30;
        both[i]->low_water = 0;
        feed_open(both[i], 9, 4);
        assert_int_equal(feed_ask_total(both[i]), total);
        assert_int_equal(feed_ask_balance(both[i], 7), seventh);
        mixed(both[i], 31);
        feed_run(both[i]);
    }
    assert_same_hash(runtime_state_hash(old->runtime), runtime_state_hash(new->runtime));
    other.origin_hash = other.genesis_hash; /* as it was before there was an origin */
    struct feed *wrong = feed_new(&other);
    assert_int_equal(restore(wrong->runtime, &founded, &info), MRN_ERR_MISMATCH);
    free(file.bytes);
    free(founded.bytes);
    feed_free(old);
    feed_free(new);
    feed_free(odd);
    feed_free(wrong);
}

/* The head says what a runtime must be made of. */
static void test_config_of_a_snapshot(void **state) {
    (void)state;
    struct runtime_config config = small_config(), made;
    struct feed *feed = feed_new(&config), *reader;
    struct file file = {0};
    struct runtime_snapshot_info info;
    mixed(feed, 0);
    feed_run(feed);
    assert_int_equal(runtime_snapshot_write(feed->runtime, file_write, &file, &info), 0);
    runtime_config_defaults(&made);
    runtime_config_of_snapshot((const struct snapshot_head *)file.bytes, &made);
    made.configuration_id = config.configuration_id;
    made.applications = config.applications;
    made.application_count = config.application_count;
    reader = feed_new(&made);
    assert_int_equal(restore(reader->runtime, &file, &info), 0);
    free(file.bytes);
    feed_free(feed);
    feed_free(reader);
}

/* runtime_check walks regions whose bytes may be anything: it must come back. */
static void test_check_survives_any_bytes(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct feed *feed = feed_new(&config);
    for (uint32_t i = 0; i < 5; i++) {
        mixed(feed, i);
        feed_run(feed);
    }
    struct state *region = &feed->runtime->state;
    uint32_t found = 0;
    for (uint32_t page = 0; page < region->page_count; page++) {
        if (!(region->flags[page] & STATE_PAGE_TOUCHED))
            continue;
        uint8_t *bytes = region->base + (uint64_t)page * STATE_PAGE_BYTES;
        for (uint32_t at = 0; at < STATE_PAGE_BYTES; at += page == 0 ? 1 : 13) {
            uint8_t old = bytes[at];
            bytes[at] = (uint8_t)(old ^ (1 << rand() % 8));
            found += runtime_check(feed->runtime) != NULL;
            bytes[at] = 0xff;
            found += runtime_check(feed->runtime) != NULL;
            bytes[at] = old;
        }
    }
    assert_true(found > 500);
    assert_null(runtime_check(feed->runtime));
    feed_free(feed);
}

/* A stopped runtime lives again from a snapshot. */
static void test_restore_ends_the_stop(void **state) {
    (void)state;
    struct runtime_config config = small_config();
    struct feed *feed = feed_new(&config);
    struct file file = {0};
    struct runtime_snapshot_info info;
    mixed(feed, 0);
    feed_run(feed);
    assert_int_equal(runtime_snapshot_write(feed->runtime, file_write, &file, &info), 0);
    feed->seq += 5;
    assert_int_equal(feed_try(feed), MRN_ERR_MISMATCH);
    assert_int_equal(runtime_snapshot_begin(feed->runtime), MRN_ERR_CLOSED);
    assert_int_equal(restore(feed->runtime, &file, &info), 0);
    feed->seq = info.seq;
    mixed(feed, 1);
    feed_run(feed);
    free(file.bytes);
    feed_free(feed);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_determinism),
                                       cmocka_unit_test(test_result_hash_covers_the_bytes),
                                       cmocka_unit_test(test_batching_does_not_matter),
                                       cmocka_unit_test(test_restore_gives_the_same_future),
                                       cmocka_unit_test(test_copy_on_write),
                                       cmocka_unit_test(test_failed_write_abandons),
                                       cmocka_unit_test(test_damage_is_refused),
                                       cmocka_unit_test(test_a_crew_restores),
                                       cmocka_unit_test(test_another_format_is_refused),
                                       cmocka_unit_test(test_layout_is_of_the_format_version),
                                       cmocka_unit_test(test_another_configuration_is_refused),
                                       cmocka_unit_test(test_a_new_cluster_begins_with_it),
                                       cmocka_unit_test(test_config_of_a_snapshot),
                                       cmocka_unit_test(test_result_hash_whenever_it_is_asked),
                                       cmocka_unit_test(test_check_survives_any_bytes),
                                       cmocka_unit_test(test_restore_ends_the_stop)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
