#include "dump_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fixture.h"

void dump_fixture_make(struct dump_fixture *fixture) {
    char objects[80];
    fixture_make_dir(fixture->dir, sizeof fixture->dir);
    snprintf(objects, sizeof objects, "%s/objects", fixture->dir);
    assert_int_equal(mkdir(objects, 0755), 0);
    snprintf(fixture->url, sizeof fixture->url, "dir:%s", objects);
    snprintf(fixture->snapshot, sizeof fixture->snapshot, "%s/snapshot", fixture->dir);
}

void dump_fixture_remove(const struct dump_fixture *fixture) {
    fixture_remove_dir(fixture->dir);
}

void dump_fixture_snapshot(const struct dump_fixture *fixture, struct snapshot_head head,
                           const uint8_t *region, uint64_t pages) {
    static const uint8_t zeros[DUMP_PAGE_BYTES];
    struct snapshot_tail tail = {0};
    struct wire_hash *leaves = calloc(pages, sizeof *leaves);
    memcpy(head.magic, SNAPSHOT_MAGIC, 8);
    memcpy(tail.magic, SNAPSHOT_TAIL_MAGIC, 8);
    head.format_version = SNAPSHOT_FORMAT_VERSION;
    head.head_bytes = sizeof head;
    head.region_bytes = pages * DUMP_PAGE_BYTES;
    head.page_bytes = DUMP_PAGE_BYTES;
    head.checksum = wire_hash_blake2b(&head, offsetof(struct snapshot_head, checksum));
    FILE *out = fopen(fixture->snapshot, "w");
    assert_non_null(leaves);
    assert_non_null(out);
    fwrite(&head, sizeof head, 1, out);
    for (uint64_t page = 0; page < pages; page++) {
        const uint8_t *bytes = region + page * DUMP_PAGE_BYTES;
        if (memcmp(bytes, zeros, sizeof zeros) == 0)
            continue;
        leaves[page] = wire_hash_blake2b(bytes, DUMP_PAGE_BYTES);
        fwrite(&page, sizeof page, 1, out);
        fwrite(bytes, DUMP_PAGE_BYTES, 1, out);
        tail.page_count++;
    }
    uint64_t end = SNAPSHOT_PAGE_END;
    fwrite(&end, sizeof end, 1, out);
    tail.state_hash = dump_state_hash(leaves, pages);
    tail.checksum =
        wire_hash_blake2b_pair(&head, sizeof head, &tail, offsetof(struct snapshot_tail, checksum));
    fwrite(&tail, sizeof tail, 1, out);
    assert_int_equal(fclose(out), 0);
    free(leaves);
}

int dump_fixture_write(const struct dump_fixture *fixture, struct dump_writer *writer,
                       struct dump_report *ret_report, char *ret_text) {
    int fd = open(fixture->snapshot, O_RDONLY);
    assert_true(fd >= 0);
    int error = dump_write(writer, fd, ret_report, ret_text);
    close(fd);
    return error;
}

uint64_t dump_fixture_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}
