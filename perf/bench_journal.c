/* bench_journal: the journal against its floors, in one run (targets L4, B3).
 *
 *   bench_journal [DIRECTORY] [SECONDS] [--three]      --three: only three journals at once
 *
 * Floors: a plain loop of one O_DIRECT + O_DSYNC block write at a time; sequential O_DIRECT writes
 * of 1 MiB over preallocated files. Prints one line per figure: name, p50, p99 (us) or rate. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/journal/journal.h"

#define SAMPLES_MAX 200000
#define FILE_BYTES (256u << 20)

static uint64_t samples[SAMPLES_MAX];
static double seconds = 2;
static int yields; /* 1: poll = adaptive */
static char directory[256];

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double print_latency(const char *name, uint32_t count) {
    qsort(samples, count, sizeof(samples[0]), compare);
    double p50 = (double)samples[count / 2] / 1e3;
    printf("%-44s p50 %7.1f us  p99 %7.1f us  (%u)\n", name, p50,
           (double)samples[(uint64_t)count * 99 / 100] / 1e3, count);
    return p50;
}

static void die(const char *what) {
    fprintf(stderr, "bench_journal: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void remove_store(void) {
    char path[600];
    DIR *stream = opendir(directory);
    for (struct dirent *entry; stream && (entry = readdir(stream));) {
        snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    if (stream)
        closedir(stream);
}

static int open_zeroed(const char *name, int flags, void *buffer) {
    char path[600];
    snprintf(path, sizeof(path), "%s/%s", directory, name);
    int fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
    if (fd < 0)
        die(path);
    for (uint64_t at = 0; at < FILE_BYTES; at += 1u << 20)
        if (pwrite(fd, buffer, 1u << 20, (off_t)at) != 1 << 20)
            die(path);
    fsync(fd);
    close(fd);
    fd = open(path, O_RDWR | O_DIRECT | flags);
    if (fd < 0)
        die(path);
    return fd;
}

static double floor_block(void *buffer) {
    int fd = open_zeroed("floor", O_DSYNC, buffer);
    uint32_t count = 0;
    uint64_t end_ns = now_ns() + (uint64_t)(seconds * 1e9);
    for (uint64_t at = 0; now_ns() < end_ns && count < SAMPLES_MAX; at += 4096) {
        uint64_t before_ns = now_ns();
        if (pwrite(fd, buffer, 4096, (off_t)(at % FILE_BYTES)) != 4096)
            die("floor");
        samples[count++] = now_ns() - before_ns;
    }
    close(fd);
    remove_store();
    return print_latency("floor: one block, O_DIRECT + O_DSYNC", count);
}

static double floor_sequential(void *buffer) {
    int fd = open_zeroed("floor", 0, buffer);
    uint64_t start_ns = now_ns(), bytes = 0;
    while (now_ns() - start_ns < (uint64_t)(seconds * 1e9)) {
        if (pwrite(fd, buffer, 1u << 20, (off_t)(bytes % FILE_BYTES)) != 1 << 20)
            die("floor");
        bytes += 1u << 20;
    }
    fdatasync(fd);
    double rate = (double)bytes / (double)(now_ns() - start_ns) * 1e3;
    close(fd);
    remove_store();
    printf("%-44s %.0f MB/s\n", "floor: sequential direct write of 1 MiB", rate);
    return rate;
}

static struct journal *open_journal(enum journal_writer_kind writer) {
    char text[JOURNAL_TEXT_BYTES];
    struct journal *journal;
    const struct journal_config config = {.directory = directory, .create = 1, .writer = writer};
    if (journal_open(&config, NULL, NULL, &journal, text)) {
        fprintf(stderr, "%s\n", text);
        exit(1);
    }
    return journal;
}

static void check_ok(const struct journal *journal) {
    const char *why;
    if (journal_failed(journal, &why)) {
        fprintf(stderr, "%s\n", why);
        exit(1);
    }
}

/* bodies: how many 72-byte bodies go with each epoch of 92 bytes. */
static double latency(const char *name, uint32_t bodies, enum journal_writer_kind writer) {
    static const uint8_t bytes[128];
    const struct journal_piece body[2] = {{bytes, 8}, {bytes, 80}};
    const struct journal_piece epoch[2] = {{bytes, 92}, {NULL, 0}};
    struct journal *journal = open_journal(writer);
    uint32_t count = 0;
    uint64_t end_ns = now_ns() + (uint64_t)(seconds * 1e9);
    while (now_ns() < end_ns && count < SAMPLES_MAX) {
        uint64_t before_ns = now_ns();
        for (uint32_t i = 0; i < bodies; i++)
            journal_append(journal, JOURNAL_BODY, journal_next(journal), body, 0, before_ns);
        while (journal_append(journal, JOURNAL_EPOCH, journal_next(journal), epoch, 1, before_ns))
            check_ok(journal), journal_poll(journal, now_ns());
        while (!journal_idle(journal)) {
            check_ok(journal);
            if (!journal_poll(journal, now_ns()) && yields)
                sched_yield(); /* as a poller of policy adaptive does */
        }
        samples[count++] = now_ns() - before_ns;
    }
    struct journal_counters counters;
    journal_read_counters(journal, &counters);
    printf("  submit: mean %.1f us, max %.1f us\n",
           (double)counters.submit_sum_ns / (double)counters.submit_count / 1e3,
           (double)counters.submit_max_ns / 1e3);
    journal_close(journal);
    remove_store();
    return print_latency(name, count);
}

/* Steady state: everything is released as soon as it is stable, so segments are recycled. */
static void bandwidth(const char *name, uint32_t length, double floor_rate,
                      enum journal_writer_kind writer) {
    static const uint8_t bytes[2048];
    const struct journal_piece body[2] = {{bytes, 8}, {bytes, length}};
    struct journal *journal = open_journal(writer);
    uint64_t from_ns = 0, from_position = 0, warm_ns = now_ns() + (uint64_t)(seconds * 1e9);
    uint64_t end_ns = warm_ns + (uint64_t)(seconds * 1e9), time_ns;
    while ((time_ns = now_ns()) < end_ns) {
        if (!from_ns && time_ns > warm_ns) {
            from_ns = time_ns;
            from_position = journal_stable(journal);
        }
        for (uint32_t i = 0; i < 64; i++)
            if (journal_append(journal, JOURNAL_BODY, journal_next(journal), body, 0, time_ns))
                break;
        if (!journal_poll(journal, time_ns) && yields)
            sched_yield();
        journal_release(journal, journal_stable(journal));
        check_ok(journal);
    }
    double took = (double)(now_ns() - from_ns) / 1e9;
    double rate = (double)(journal_stable(journal) - from_position) / took;
    struct journal_counters counters;
    journal_read_counters(journal, &counters);
    printf(
        "%-44s %.0f records/s, %.0f MB/s of them = %.0f %% of the floor; submit mean %.1f us max "
        "%.0f us\n",
        name, rate, rate * (length + 8) / 1e6, rate * (length + 8) / 1e4 / floor_rate,
        (double)counters.submit_sum_ns / (double)counters.submit_count / 1e3,
        (double)counters.submit_max_ns / 1e3);
    journal_close(journal);
    remove_store();
}

/* Three nodes on one device: three journals that one thread feeds and polls by turns. */
static void three(uint32_t length, double floor_rate) {
    static const uint8_t bytes[2048];
    const struct journal_piece body[2] = {{bytes, 8}, {bytes, length}};
    char base[sizeof directory];
    struct journal *journals[3];
    snprintf(base, sizeof base, "%s", directory);
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(directory, sizeof directory, "%.240s/%u", base, i);
        mkdir(directory, 0700);
        journals[i] = open_journal(JOURNAL_WRITER_AUTO);
    }
    uint64_t from_ns = 0, from_position = 0, time_ns;
    uint64_t warm_ns = now_ns() + (uint64_t)(seconds * 1e9),
             end_ns = warm_ns + (warm_ns - now_ns());
    while ((time_ns = now_ns()) < end_ns) {
        if (!from_ns && time_ns > warm_ns) {
            from_ns = time_ns;
            for (uint32_t i = 0; i < 3; i++)
                from_position += journal_stable(journals[i]);
        }
        for (uint32_t i = 0; i < 3; i++) {
            for (uint32_t k = 0; k < 64; k++)
                if (journal_append(journals[i], JOURNAL_BODY, journal_next(journals[i]), body, 0,
                                   time_ns))
                    break;
            journal_poll(journals[i], time_ns);
            journal_release(journals[i], journal_stable(journals[i]));
            check_ok(journals[i]);
        }
    }
    double took = (double)(now_ns() - from_ns) / 1e9, records = 0;
    for (uint32_t i = 0; i < 3; i++)
        records += (double)journal_stable(journals[i]);
    double rate = (records - (double)from_position) / took;
    printf("three journals, %u B bodies: %.0f records/s each, %.0f MB/s together = %.0f %% of the "
           "floor\n",
           length, rate / 3, rate * (length + 8) / 1e6, rate * (length + 8) / 1e4 / floor_rate);
    for (uint32_t i = 0; i < 3; i++) {
        journal_close(journals[i]);
        snprintf(directory, sizeof directory, "%.240s/%u", base, i);
        remove_store();
        rmdir(directory);
    }
    snprintf(directory, sizeof directory, "%s", base);
}

int main(int count, char **arguments) {
    snprintf(directory, sizeof(directory), "%s/maroon-bench-XXXXXX",
             count > 1 ? arguments[1] : "/tmp");
    if (count > 2)
        seconds = atof(arguments[2]);
    if (!mkdtemp(directory))
        die(directory);
    void *buffer = aligned_alloc(4096, 1u << 20);
    memset(buffer, 0, 1u << 20);
    double block = floor_block(buffer), sequential = floor_sequential(buffer);
    if (count > 3 && !strcmp(arguments[3], "--three")) {
        three(1024, sequential);
        three(64, sequential);
        free(buffer);
        rmdir(directory);
        return 0;
    }
    double one = latency("epoch alone -> stable", 0, JOURNAL_WRITER_AUTO);
    double both = latency("body and epoch in one write -> stable", 1, JOURNAL_WRITER_AUTO);
    yields = 1;
    latency("the same, the poller yields when idle", 1, JOURNAL_WRITER_AUTO);
    yields = 0;
    printf("  = %.2f and %.2f times the floor\n", one / block, both / block);
    latency("the same with the thread writer", 1, JOURNAL_WRITER_THREAD);
    bandwidth("1 KiB bodies", 1024, sequential, JOURNAL_WRITER_AUTO);
    bandwidth("64 B bodies", 64, sequential, JOURNAL_WRITER_AUTO);
    bandwidth("1 KiB bodies, thread writer", 1024, sequential, JOURNAL_WRITER_THREAD);
    free(buffer);
    rmdir(directory);
    return 0;
}
