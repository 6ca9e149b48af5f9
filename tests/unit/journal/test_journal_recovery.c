/* journal recovery: torn tails are cut, damage before them is refused with file and offset, and
 * nothing that was reported stable is ever lost, also after kill -9. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/wire_hash.h"
#include "tests/unit/journal/journal_test.h"

#define CRASHES 50
#define REBUILD "; rebuild this node from its peers in an empty directory"

struct pair {
    struct test_store live, copy; /* copy: the files as a crash would leave them */
};

static int setup(void **state) {
    struct pair *pair = malloc(sizeof(*pair));
    test_store_make(&pair->live);
    test_store_make(&pair->copy);
    pair->live.config.mark_delay_ns = UINT64_MAX; /* no marks: the last batch stays unconfirmed */
    *state = pair;
    return 0;
}

static int teardown(void **state) {
    struct pair *pair = *state;
    test_store_remove(&pair->live);
    test_store_remove(&pair->copy);
    free(pair);
    return 0;
}

/* One write of `count` records. Returns its offset and length in segment 0. */
static uint64_t one_batch(struct test_store *store, uint32_t count, uint32_t *ret_length_bytes) {
    struct journal_counters before, after;
    journal_read_counters(store->journal, &before);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(test_append(store, i + 1 == count), 0);
    assert_int_equal(test_settle(store), 0);
    journal_read_counters(store->journal, &after);
    assert_int_equal(after.writes, before.writes + 1);
    *ret_length_bytes = (uint32_t)(after.written_bytes - before.written_bytes);
    return JOURNAL_BLOCK_BYTES + before.written_bytes;
}

static void cuts_a_tail_torn_at_any_byte(void **state) {
    struct pair *pair = *state;
    struct journal_report report;
    static uint8_t whole[64 << 10], torn[64 << 10];
    uint32_t length;
    assert_int_equal(test_open(&pair->live), 0);
    for (uint32_t i = 0; i < 4; i++)
        one_batch(&pair->live, 3, &length);
    uint64_t offset = one_batch(&pair->live, 3, &length);
    assert_true(length >= 2 * JOURNAL_BLOCK_BYTES && length <= sizeof(whole));
    test_copy(&pair->live, &pair->copy);
    test_peek(&pair->copy, "segment-0000000000000000", offset, whole, length);
    for (uint32_t at = 0; at < length; at++) {
        memcpy(torn, whole, length);
        memset(torn + at, 0, length - at);
        test_poke(&pair->copy, "segment-0000000000000000", offset, torn, length);
        assert_int_equal(journal_verify(pair->copy.directory, &report, pair->copy.text), 0);
        int intact = !memcmp(torn, whole, length);
        assert_int_equal(report.next == 15, intact);
        assert_true(report.next >= 12);
        if (at % 1021 && at + 1 < length)
            continue;
        test_copy(&pair->live, &pair->copy);
        test_poke(&pair->copy, "segment-0000000000000000", offset, torn, length);
        assert_int_equal(test_open(&pair->copy), 0);
        assert_int_equal(pair->copy.replayed, report.next);
        test_append_stable(&pair->copy, 20); /* and it goes on behind the cut */
        test_close(&pair->copy);
        assert_int_equal(test_open(&pair->copy), 0);
        assert_int_equal(pair->copy.replayed, report.next + 20);
        test_close(&pair->copy);
        test_copy(&pair->live, &pair->copy);
    }
}

static void refuses_a_flipped_bit_below_stable(void **state) {
    struct pair *pair = *state;
    struct journal_report report;
    char expected[JOURNAL_TEXT_BYTES];
    uint32_t length;
    uint64_t offsets[6];
    assert_int_equal(test_open(&pair->live), 0);
    for (uint32_t i = 0; i < 6; i++)
        offsets[i] = one_batch(&pair->live, 1, &length);
    for (uint32_t i = 0; i < 6; i++) {
        for (uint32_t bit = 0; bit < 64; bit++) { /* all over the used part of the block */
            uint8_t byte;
            uint64_t at = offsets[i] + (bit * 61) % 40;
            test_copy(&pair->live, &pair->copy);
            test_peek(&pair->copy, "segment-0000000000000000", at, &byte, 1);
            byte ^= (uint8_t)(1u << (bit % 8));
            test_poke(&pair->copy, "segment-0000000000000000", at, &byte, 1);
            int error = journal_verify(pair->copy.directory, &report, pair->copy.text);
            if (i == 5) { /* nobody knew the last one stable */
                assert_int_equal(error, 0);
                assert_int_equal(report.next, 5);
                assert_int_equal(report.torn_bytes, JOURNAL_BLOCK_BYTES);
                snprintf(
                    expected, sizeof(expected),
                    "journal %s: good: 5 records at positions 0 to 5 (exclusive), %u segments, "
                    "stable below 4; torn tail: file segment-0000000000000000, offset %u, cut "
                    "at the next start",
                    pair->copy.directory, (uint32_t)report.segment_count, (uint32_t)offsets[i]);
                assert_string_equal(pair->copy.text, expected);
                continue;
            }
            assert_int_equal(error, MRN_ERR_CORRUPT);
            snprintf(expected, sizeof(expected),
                     "journal %s: file segment-0000000000000000, offset %u: bad block (checksum or "
                     "order), but positions below %u were stable and the log is readable only "
                     "below %u" REBUILD,
                     pair->copy.directory, (uint32_t)offsets[i], i == 4 ? 5 : 5, i);
            assert_string_equal(pair->copy.text, expected);
        }
    }
    /* After a clean close the store knows that the last one was stable too. */
    test_close(&pair->live);
    uint8_t byte;
    test_peek(&pair->live, "segment-0000000000000000", offsets[5], &byte, 1);
    byte ^= 0xff; /* of a checksum: any value may stand there */
    test_poke(&pair->live, "segment-0000000000000000", offsets[5], &byte, 1);
    assert_int_equal(test_open(&pair->live), MRN_ERR_CORRUPT);
    assert_non_null(strstr(pair->live.text, "positions below 6 were stable"));
}

static void refuses_a_missing_segment(void **state) {
    struct pair *pair = *state;
    char expected[JOURNAL_TEXT_BYTES], path[512], name[32];
    assert_int_equal(test_open(&pair->live), 0);
    test_append_stable(&pair->live, 300);
    test_close(&pair->live);
    struct journal_report report;
    assert_int_equal(journal_verify(pair->live.directory, &report, pair->live.text), 0);
    assert_true(report.segment_count >= 5);
    for (uint64_t i = 0; i < report.segment_count; i++) {
        test_copy(&pair->live, &pair->copy);
        snprintf(name, sizeof(name), "segment-%016llx", (unsigned long long)i);
        test_path(&pair->copy, name, path);
        assert_int_equal(unlink(path), 0);
        assert_int_equal(test_open(&pair->copy), MRN_ERR_CORRUPT);
        snprintf(expected, sizeof(expected),
                 "journal %s: file %s is missing (segments 0 to %llx must be there); put it back, "
                 "or rebuild this node from its peers in an empty directory",
                 pair->copy.directory, name, (unsigned long long)report.segment_count - 1);
        assert_string_equal(pair->copy.text, expected);
    }
    test_copy(&pair->live, &pair->copy);
    test_path(&pair->copy, "segment-0000000000000001", path);
    assert_int_equal(truncate(path, 8192), 0);
    assert_int_equal(test_open(&pair->copy), MRN_ERR_CORRUPT);
    snprintf(expected, sizeof(expected),
             "journal %s: file segment-0000000000000001 has 8192 bytes instead of 131072" REBUILD,
             pair->copy.directory);
    assert_string_equal(pair->copy.text, expected);
    test_copy(&pair->live, &pair->copy);
    test_path(&pair->copy, "store", path);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(test_open(&pair->copy), MRN_ERR_CORRUPT);
    assert_non_null(strstr(pair->copy.text, "file store is missing, but there are segments"));
}

static void survives_one_bad_copy_of_the_store(void **state) {
    struct pair *pair = *state;
    uint8_t byte = 0xff;
    assert_int_equal(test_open(&pair->live), 0);
    test_append_stable(&pair->live, 200);
    test_close(&pair->live);
    for (uint32_t bad = 0; bad < 2; bad++) {
        test_copy(&pair->live, &pair->copy);
        test_poke(&pair->copy, "store", bad * 4096 + 50, &byte, 1);
        assert_int_equal(test_open(&pair->copy), 0);
        assert_int_equal(pair->copy.replayed, 200);
        test_close(&pair->copy);
    }
    test_copy(&pair->live, &pair->copy);
    test_poke(&pair->copy, "store", 50, &byte, 1);
    test_poke(&pair->copy, "store", 4096 + 50, &byte, 1);
    assert_int_equal(test_open(&pair->copy), MRN_ERR_CORRUPT);
    assert_non_null(strstr(pair->copy.text, "file store, offset 0 and 4096: both copies fail"));
    test_copy(&pair->live, &pair->copy);
    test_poke(&pair->copy, "segment-0000000000000001", 20, &byte, 1);
    assert_int_equal(test_open(&pair->copy), MRN_ERR_CORRUPT);
    assert_non_null(strstr(pair->copy.text, "file segment-0000000000000001, offset 0: the header"));
}

static int bad_sector(void *context, enum journal_op op, uint64_t segment, uint64_t offset) {
    (void)context;
    return op == JOURNAL_OP_READ && segment == 1 && offset == 8192 ? EIO : 0;
}

static int bad_chunk(void *context, enum journal_op op, uint64_t segment, uint64_t offset) {
    /* A read that touches the sector fails as a whole, as a disk does. */
    if (op == JOURNAL_OP_READ && segment == 1 && offset == 4096)
        return EIO;
    return bad_sector(context, op, segment, offset);
}

static void refuses_an_unreadable_sector(void **state) {
    struct pair *pair = *state;
    static const struct journal_faults faults = {bad_chunk, NULL};
    assert_int_equal(test_open(&pair->live), 0);
    test_append_stable(&pair->live, 300);
    test_close(&pair->live);
    pair->live.config.faults = &faults;
    assert_int_equal(test_open(&pair->live), MRN_ERR_CORRUPT);
    assert_non_null(strstr(pair->live.text, "file segment-0000000000000001, offset 4096: bad block "
                                            "(Input/output error), but positions below 300 were "
                                            "stable"));
}

/* Two writes were in flight at a crash: the first is lost, the second arrived. Later the gap is
 * filled exactly. */
static void never_takes_a_block_of_an_earlier_opening(void **state) {
    struct pair *pair = *state;
    struct test_store *live = &pair->live;
    struct journal_report report;
    struct journal_packer packer;
    static struct journal_block stray;
    uint8_t bytes[64] = {0};
    const struct journal_piece pieces[2] = {{bytes, 64}, {NULL, 0}};
    assert_int_equal(journal_open(&live->config, NULL, NULL, &live->journal, live->text), 0);
    for (uint64_t i = 0; i < 2; i++) { /* blocks 1 and 2 */
        assert_int_equal(journal_append(live->journal, JOURNAL_BODY, i, pieces, 1, 0), 0);
        assert_int_equal(test_settle(live), 0);
    }
    journal_packer_begin(&packer, &stray, 1, journal_identity(live->journal)->incarnation, 0, 4, 1,
                         3);
    journal_packer_add(&packer, JOURNAL_BODY, pieces, 2);
    journal_packer_end(&packer, 2);
    test_close(live);
    test_poke(live, "segment-0000000000000000", 4 * JOURNAL_BLOCK_BYTES, &stray, sizeof(stray));
    assert_int_equal(journal_verify(live->directory, &report, live->text), 0);
    assert_int_equal(report.next, 2);
    assert_int_equal(report.torn_bytes, JOURNAL_BLOCK_BYTES); /* it is there, and cut */
    assert_int_equal(journal_open(&live->config, NULL, NULL, &live->journal, live->text), 0);
    assert_int_equal(journal_append(live->journal, JOURNAL_BODY, 2, pieces, 1, 0), 0);
    assert_int_equal(test_settle(live), 0);
    test_copy(live, &pair->copy);
    assert_int_equal(journal_verify(pair->copy.directory, &report, live->text), 0);
    assert_int_equal(report.next, 3); /* not 4: block 4 is of the opening before */
    test_close(live);
}

/* Makes both copies of the store and its one segment say that they are of `version`, with the
 * checksums that docs/journal-format.md describes. */
static void say_version(const struct test_store *store, uint32_t version) {
    static struct journal_store_slot slot;
    static struct journal_segment_header header;
    const uint32_t sum_bytes = JOURNAL_BLOCK_BYTES - sizeof(uint64_t);
    for (uint64_t i = 0; i < JOURNAL_STORE_SLOTS; i++) {
        test_peek(store, "store", i * sizeof(slot), &slot, sizeof(slot));
        slot.version = version;
        slot.checksum =
            wire_hash_packet(UINT64_C(0x6d61726f6f6e7374), (const uint8_t *)&slot + 8, sum_bytes);
        test_poke(store, "store", i * sizeof(slot), &slot, sizeof(slot));
    }
    test_peek(store, "segment-0000000000000000", 0, &header, sizeof(header));
    header.version = version;
    header.checksum = wire_hash_packet(slot.identity.incarnation ^ UINT64_C(0x9e3779b97f4a7c15),
                                       (const uint8_t *)&header + 8, sum_bytes);
    test_poke(store, "segment-0000000000000000", 0, &header, sizeof(header));
}

static void reads_the_version_before_and_no_other(void **state) {
    struct test_store *store = &((struct pair *)*state)->live;
    static struct journal_store_slot slot;
    assert_int_equal(test_open(store), 0);
    test_append_stable(store, 5);
    test_close(store);
    say_version(store, 1);
    assert_int_equal(test_open(store), 0);
    assert_int_equal(store->replayed, 5);
    test_append_stable(store, 1);
    test_close(store);
    for (uint64_t i = 0; i < JOURNAL_STORE_SLOTS; i++) { /* a program of then refuses it now */
        test_peek(store, "store", i * sizeof(slot), &slot, sizeof(slot));
        assert_int_equal(slot.version, JOURNAL_VERSION);
    }
    say_version(store, JOURNAL_VERSION + 1);
    assert_int_equal(test_open(store), MRN_ERR_MISMATCH);
    assert_non_null(strstr(store->text, "store has another format version than this program (2)"));
}

/* Appends without end and reports stable positions; is killed. */
static void run_until_killed(struct test_store *store, int report_fd) {
    uint64_t reported = 0;
    if (test_open(store))
        _exit(1);
    uint64_t random = store->replayed * 2654435761u + 12345;
    for (;;) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        if ((random >> 33) % 4)
            test_append(store, (random >> 40) % 3 == 0);
        journal_poll(store->journal, test_now_ns());
        if (journal_failed(store->journal, NULL))
            _exit(2);
        uint64_t stable = journal_stable(store->journal);
        if (stable != reported && write(report_fd, &stable, sizeof(stable)) != sizeof(stable))
            _exit(3);
        if (stable > reported + 400)
            journal_release(store->journal, stable - 300);
        reported = stable;
    }
}

static void loses_nothing_stable_when_killed(void **state) {
    struct pair *pair = *state;
    struct test_store *store = &pair->live;
    uint64_t reported = 0, total = 0;
    srand(20260801);
    uint32_t round = 0;
    /* A slow machine comes less far in that time: then it is given more rounds, and longer ones. */
    for (; round < CRASHES || (reported <= 500 && round < 20 * CRASHES); round++) {
        int ends[2];
        store->config.writer = round % 5 == 4 ? JOURNAL_WRITER_THREAD : JOURNAL_WRITER_AUTO;
        assert_int_equal(pipe(ends), 0);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            close(ends[0]);
            run_until_killed(store, ends[1]);
        }
        close(ends[1]);
        usleep((useconds_t)(3000 + rand() % 60000) * (1 + round / CRASHES));
        kill(child, SIGKILL);
        for (uint64_t position; read(ends[0], &position, sizeof(position)) == sizeof(position);)
            reported = position;
        close(ends[0]);
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        int error = test_open(store);
        if (error)
            fail_msg("round %u: %s", round, store->text);
        assert_true(journal_next(store->journal) >= reported);
        assert_true(store->replay_from + store->replayed == journal_next(store->journal));
        total += store->replayed;
        test_close(store);
    }
    assert_true(reported > 500);
    print_message("%u crashes, %llu positions stable, %llu records replayed\n", round,
                  (unsigned long long)reported, (unsigned long long)total);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(cuts_a_tail_torn_at_any_byte, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_a_flipped_bit_below_stable, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_a_missing_segment, setup, teardown),
        cmocka_unit_test_setup_teardown(survives_one_bad_copy_of_the_store, setup, teardown),
        cmocka_unit_test_setup_teardown(refuses_an_unreadable_sector, setup, teardown),
        cmocka_unit_test_setup_teardown(never_takes_a_block_of_an_earlier_opening, setup, teardown),
        cmocka_unit_test_setup_teardown(reads_the_version_before_and_no_other, setup, teardown),
        cmocka_unit_test_setup_teardown(loses_nothing_stable_when_killed, setup, teardown),
    };
    return cmocka_run_group_tests_name("journal recovery", tests, NULL, NULL);
}
