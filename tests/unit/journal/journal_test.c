#include "tests/unit/journal/journal_test.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void test_store_make_in(struct test_store *store, const char *parent) {
    memset(store, 0, sizeof(*store));
    snprintf(store->directory, sizeof(store->directory), "%s/maroon-journal-XXXXXX", parent);
    assert_non_null(mkdtemp(store->directory));
    store->config = (struct journal_config){.directory = store->directory,
                                            .identity = {.configuration_id = 7},
                                            .create = 1,
                                            .segment_bytes = 128 << 10,
                                            .batch_bytes = 32 << 10};
}

void test_store_make(struct test_store *store) {
    const char *parent = getenv("TMPDIR");
    test_store_make_in(store, parent ? parent : "/tmp");
}

static void remove_files(const char *directory) {
    char path[512];
    DIR *stream = opendir(directory);
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
        unlink(path);
    }
    if (stream)
        closedir(stream);
}

void test_store_remove(struct test_store *store) {
    if (store->journal)
        journal_close(store->journal);
    store->journal = NULL;
    remove_files(store->directory);
    rmdir(store->directory);
}

uint32_t test_length(uint64_t position) {
    static const uint32_t lengths[] = {64, 1032, 0, 17, 4056, 1408, 9000, 1, 250, 4064};
    return lengths[position % 10];
}

void test_fill(uint8_t *bytes, uint64_t position) {
    uint32_t length = test_length(position);
    for (uint32_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)((position * 131 + i * 7 + (i >> 8)) ^ 0x5a);
}

static int replay(void *context, enum journal_kind kind, uint64_t position, const uint8_t *bytes,
                  uint32_t length_bytes) {
    struct test_store *store = context;
    uint8_t expected[JOURNAL_RECORD_MAX_BYTES];
    if (store->replayed == 0)
        store->replay_from = position;
    assert_int_equal(position, store->replay_from + store->replayed);
    assert_int_equal(kind, position % 16 == 3 ? JOURNAL_EPOCH : JOURNAL_BODY);
    assert_int_equal(length_bytes, test_length(position));
    test_fill(expected, position);
    assert_memory_equal(bytes, expected, length_bytes);
    store->replayed++;
    return 0;
}

int test_open(struct test_store *store) {
    store->replayed = 0;
    return journal_open(&store->config, replay, store, &store->journal, store->text);
}

void test_close(struct test_store *store) {
    journal_check(store->journal);
    assert_int_equal(journal_close(store->journal), 0);
    store->journal = NULL;
}

uint64_t test_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

int test_append(struct test_store *store, int urgent) {
    uint8_t bytes[JOURNAL_RECORD_MAX_BYTES];
    uint64_t position = journal_next(store->journal);
    uint32_t length = test_length(position), head = length < 8 ? length : 8;
    test_fill(bytes, position);
    const struct journal_piece pieces[2] = {{bytes, head}, {bytes + head, length - head}};
    return journal_append(store->journal, position % 16 == 3 ? JOURNAL_EPOCH : JOURNAL_BODY,
                          position, pieces, urgent, test_now_ns());
}

int test_settle(struct test_store *store) {
    struct journal *journal = store->journal;
    uint64_t give_up_ns = test_now_ns() + 20ull * 1000 * 1000 * 1000;
    while (!journal_idle(journal) && !journal_failed(journal, NULL)) {
        uint64_t before = journal_stable(journal);
        journal_poll(journal, test_now_ns());
        journal_check(journal);
        assert_true(journal_stable(journal) >= before);
        assert_true(test_now_ns() < give_up_ns);
    }
    return journal_failed(journal, NULL);
}

void test_append_stable(struct test_store *store, uint32_t count) {
    for (uint32_t i = 0; i < count;) {
        int error = test_append(store, i + 1 == count);
        assert_true(error == 0 || error == MRN_ERR_FULL);
        i += !error;
        journal_poll(store->journal, test_now_ns());
        if (error)
            usleep(100);
    }
    assert_int_equal(test_settle(store), 0);
}

void test_path(const struct test_store *store, const char *name, char path[512]) {
    snprintf(path, 512, "%s/%s", store->directory, name);
}

static int open_file(const struct test_store *store, const char *name, int flags) {
    char path[512];
    test_path(store, name, path);
    int fd = open(path, flags, 0600);
    assert_true(fd >= 0);
    return fd;
}

void test_poke(const struct test_store *store, const char *name, uint64_t offset, const void *bytes,
               uint32_t length_bytes) {
    int fd = open_file(store, name, O_RDWR);
    assert_int_equal(pwrite(fd, bytes, length_bytes, (off_t)offset), length_bytes);
    close(fd);
}

void test_peek(const struct test_store *store, const char *name, uint64_t offset, void *bytes,
               uint32_t length_bytes) {
    int fd = open_file(store, name, O_RDONLY);
    assert_int_equal(pread(fd, bytes, length_bytes, (off_t)offset), length_bytes);
    close(fd);
}

void test_copy(const struct test_store *from, const struct test_store *to) {
    static char buffer[1 << 20];
    remove_files(to->directory);
    DIR *stream = opendir(from->directory);
    assert_non_null(stream);
    for (struct dirent *entry; (entry = readdir(stream));) {
        if (entry->d_name[0] == '.')
            continue;
        int in = open_file(from, entry->d_name, O_RDONLY);
        int out = open_file(to, entry->d_name, O_RDWR | O_CREAT | O_TRUNC);
        for (ssize_t length; (length = read(in, buffer, sizeof(buffer))) > 0;)
            assert_int_equal(write(out, buffer, (size_t)length), length);
        close(in);
        close(out);
    }
    closedir(stream);
}
