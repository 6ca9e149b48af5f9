/* Opening, closing and checking a journal: the calls that block. */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "dataplane/journal/journal_recover.h"
#include "dataplane/journal/journal_state.h"

#define SYNC_SEGMENTS JOURNAL_WRITES_MAX /* as many as could have writes under way at a crash */

static void set_defaults(struct journal_config *config) {
    if (!config->segment_bytes)
        config->segment_bytes = 64u << 20;
    if (!config->batch_bytes)
        config->batch_bytes = 1u << 20;
    if (!config->batch_count)
        config->batch_count = 8;
    if (!config->writes_max)
        config->writes_max = 4;
    if (!config->body_sync_delay_ns)
        config->body_sync_delay_ns = 100 * 1000;
    if (!config->body_sync_bytes)
        config->body_sync_bytes = 64u << 10;
    if (!config->mark_delay_ns)
        config->mark_delay_ns = 50 * 1000 * 1000;
}

static int check_config(const struct journal_config *config, char *text) {
    const char *path = config->directory;
    if (config->segment_bytes < 64u << 10 || config->segment_bytes > 1u << 30 ||
        config->segment_bytes % JOURNAL_BLOCK_BYTES)
        return journal_say(text, MRN_ERR_INVALID, path,
                           "segment_bytes %" PRIu64
                           " must be a multiple of 4096 from 64 KiB to 1 GiB",
                           config->segment_bytes);
    if (config->batch_bytes < 32u << 10 || config->batch_bytes > 64u << 20 ||
        config->batch_bytes % JOURNAL_BLOCK_BYTES)
        return journal_say(text, MRN_ERR_INVALID, path,
                           "batch_bytes %u must be a multiple of 4096 from 32 KiB to 64 MiB",
                           config->batch_bytes);
    if (config->batch_count < 3 || config->batch_count > JOURNAL_WRITES_MAX)
        return journal_say(text, MRN_ERR_INVALID, path, "batch_count %u must be 3 to %d",
                           config->batch_count, JOURNAL_WRITES_MAX);
    if (config->writes_max >= config->batch_count)
        return journal_say(text, MRN_ERR_INVALID, path,
                           "writes_max %u must be below batch_count %u", config->writes_max,
                           config->batch_count);
    return 0;
}

/* Reads the store, or makes it. */
static int open_store(struct journal *journal, char *text) {
    const struct journal_config *config = &journal->config;
    struct journal_dir *dir = &journal->keeper.dir;
    int error = journal_dir_open(dir, config->directory, 1, config->create, config->faults, text);
    if (error)
        return error;
    error = journal_dir_load(dir, text);
    if (error == MRN_ERR_NOT_FOUND && config->create) {
        struct journal_identity identity = config->identity;
        while (identity.incarnation == 0)
            if (getrandom(&identity.incarnation, sizeof(identity.incarnation), 0) < 0)
                return journal_say(text, MRN_ERR_IO, dir->path, "no random numbers: %s",
                                   strerror(errno));
        error = journal_dir_create(dir, &identity, config->segment_bytes, text);
    }
    const struct journal_identity *mine = &dir->store.identity;
    if (!error && memcmp(mine->cluster_id, config->identity.cluster_id, 16))
        error = journal_say(text, MRN_ERR_MISMATCH, dir->path,
                            "belongs to another cluster; use another directory");
    if (!error && mine->configuration_id != config->identity.configuration_id)
        error = journal_say(text, MRN_ERR_MISMATCH, dir->path,
                            "was written under configuration %016" PRIx64
                            ", this node runs under %016" PRIx64,
                            mine->configuration_id, config->identity.configuration_id);
    return error ? error : journal_dir_clean(dir, text);
}

static void enter_segment(void *context, uint64_t segment, uint64_t first_position) {
    struct journal *journal = context;
    journal->keeper.first_positions[segment % JOURNAL_SEGMENTS_MAX] = first_position;
}

struct replay_through {
    struct journal *journal;
    journal_replay_fn *replay;
    void *context;
};

static int replay_through(void *context, enum journal_kind kind, uint64_t position,
                          const uint8_t *bytes, uint32_t length_bytes) {
    struct replay_through *through = context;
    if (journal_kind_sticky(kind))
        through->journal->newest[kind] = through->journal->kept[kind] = position;
    return through->replay ? through->replay(through->context, kind, position, bytes, length_bytes)
                           : 0;
}

/* What was read may not be stable yet: its writer died before it knew. */
static int sync_segments(struct journal *journal, const struct journal_end *end, char *text) {
    struct journal_dir *dir = &journal->keeper.dir;
    uint64_t first = dir->store.segment_begin;
    if (end->segment > first + SYNC_SEGMENTS)
        first = end->segment - SYNC_SEGMENTS;
    for (uint64_t segment = first; segment < dir->store.segment_end; segment++) {
        int fd;
        int error = journal_dir_segment(dir, segment, &fd, text);
        if (error)
            return error;
        if (segment <= end->segment && fdatasync(fd)) {
            error = journal_say(text, MRN_ERR_IO, dir->path,
                                "can't sync segment %016" PRIx64 ": %s", segment, strerror(errno));
            close(fd);
            return error;
        }
        if (segment < end->segment)
            close(fd);
        else
            journal->keeper.fds[segment % JOURNAL_FDS] = fd;
    }
    return 0;
}

/* Where the torn tail begins that is (to be) cut; empty when there is none. */
static void torn_text(char text[JOURNAL_TORN_BYTES], const struct journal_scan *scan,
                      const struct journal_end *end) {
    char name[32];
    journal_segment_name(name, end->segment);
    if (scan->record_length || scan->cut_blocks)
        snprintf(text, JOURNAL_TORN_BYTES, "file %s, offset %" PRIu64, name,
                 end->block * JOURNAL_BLOCK_BYTES);
    else
        text[0] = 0;
}

/* Sets the counters of the log's end; notes the opening in the store. */
static int go_on(struct journal *journal, const struct journal_scan *scan,
                 const struct journal_end *end, char *text) {
    struct journal_keeper *keeper = &journal->keeper;
    struct journal_store_slot *store = &keeper->dir.store;
    journal->generation = scan->generation_max + 1;
    journal->next = journal->stable = journal->marked = scan->next;
    journal->segment_begin = store->segment_begin;
    journal->segment = end->segment;
    journal->block_next = end->block;
    journal->block_count = store->segment_bytes / JOURNAL_BLOCK_BYTES;
    keeper->in_use = keeper->written = keeper->closed = end->segment;
    keeper->released = store->segment_begin;
    keeper->prepared = store->segment_end;
    keeper->stable = scan->next;
    journal->counters.recovered_records = scan->record_count;
    journal->counters.recovered_bytes = scan->record_bytes;
    journal->counters.cut_bytes = scan->cut_blocks * JOURNAL_BLOCK_BYTES;
    torn_text(journal->torn, scan, end);
    journal->counters.retained_bytes =
        ((end->segment - store->segment_begin) * journal->block_count + end->block) *
        JOURNAL_BLOCK_BYTES;
    store->generation = journal->generation;
    store->stable_below = scan->next;
    int error = journal_dir_save(&keeper->dir, text);
    /* The first segment must be there before the first record. */
    if (!error) {
        journal_keeper_round(keeper);
        if (keeper->prepared <= journal->segment) {
            error = keeper->error;
            memcpy(text, keeper->text, JOURNAL_TEXT_BYTES);
        }
    }
    return error;
}

static int recover(struct journal *journal, journal_replay_fn *replay, void *context, char *text) {
    struct journal_dir *dir = &journal->keeper.dir;
    struct journal_scan *scan = malloc(sizeof(*scan));
    struct replay_through through = {journal, replay, context};
    struct journal_end end;
    if (!scan)
        return journal_say(text, MRN_ERR_NO_MEMORY, dir->path, "no memory");
    if (dir->store.segment_end - dir->store.segment_begin >= JOURNAL_SEGMENTS_MAX) {
        free(scan);
        return journal_say(text, MRN_ERR_CORRUPT, dir->path, "store lists too many segments");
    }
    enter_segment(journal, dir->store.segment_begin, dir->store.first_position);
    int error =
        journal_recover(dir, scan, replay_through, &through, enter_segment, journal, &end, text);
    if (error == MRN_ERR_NOT_FOUND)
        error = MRN_ERR_CORRUPT; /* a segment that must be there */
    if (!error)
        error = sync_segments(journal, &end, text);
    if (!error)
        error = go_on(journal, scan, &end, text);
    free(scan);
    return error;
}

static int take_memory(struct journal *journal, char *text) {
    const struct journal_config *config = &journal->config;
    size_t all_bytes = (size_t)config->batch_bytes * config->batch_count;
    journal->memory = aligned_alloc(JOURNAL_BLOCK_BYTES, all_bytes);
    if (!journal->memory)
        return journal_say(text, MRN_ERR_NO_MEMORY, config->directory,
                           "no memory for %zu bytes of batches", all_bytes);
    memset(journal->memory, 0, all_bytes);
    for (uint32_t i = 0; i < config->batch_count; i++)
        journal->batches[i].blocks =
            (struct journal_block *)(journal->memory + (size_t)i * config->batch_bytes);
    return 0;
}

static int start(struct journal *journal, char *text) {
    const char *path = journal->config.directory;
    int error =
        journal_writer_init(&journal->writer, (int)journal->config.writer, journal->config.faults);
    if (error)
        return journal_say(text, error, path, "no writer: io_uring: %s",
                           strerror(journal->writer.uring_errno));
    error = journal_keeper_start(&journal->keeper);
    if (error) {
        journal_writer_end(&journal->writer);
        return journal_say(text, error, path, "no thread");
    }
    const struct journal_dir *dir = &journal->keeper.dir;
    journal_say(journal->description, 0, path,
                "writer=%s%s%s direct=%s%s%s segments=%" PRIu64 " segment_bytes=%" PRIu64
                " first=%" PRIu64 " next=%" PRIu64 " generation=%u cut_bytes=%" PRIu64 "%s%s",
                journal->writer.uses_thread ? "thread" : "io_uring",
                journal->writer.uring_errno ? " io_uring=" : "",
                journal->writer.uring_errno ? strerror(journal->writer.uring_errno) : "",
                dir->buffered_errno ? "no (" : "yes",
                dir->buffered_errno ? strerror(dir->buffered_errno) : "",
                dir->buffered_errno ? ")" : "", dir->store.segment_end - dir->store.segment_begin,
                dir->store.segment_bytes, journal_first(journal), journal->next,
                journal->generation, journal->counters.cut_bytes,
                *journal->torn ? "; torn tail cut: " : "", journal->torn);
    return 0;
}

static void discard(struct journal *journal) {
    for (uint32_t i = 0; i < JOURNAL_FDS; i++)
        if (journal->keeper.fds[i] >= 0)
            close(journal->keeper.fds[i]);
    journal_dir_close(&journal->keeper.dir);
    free(journal->memory);
    free(journal);
}

int journal_open(const struct journal_config *config, journal_replay_fn *replay, void *context,
                 struct journal **ret_journal, char text[JOURNAL_TEXT_BYTES]) {
    struct journal *journal = calloc(1, sizeof(*journal));
    if (!journal)
        return journal_say(text, MRN_ERR_NO_MEMORY, config->directory, "no memory");
    journal->config = *config;
    journal->keeper.dir.fd = -1;
    for (uint32_t i = 0; i < JOURNAL_FDS; i++)
        journal->keeper.fds[i] = -1;
    for (uint32_t i = 0; i < JOURNAL_KINDS; i++)
        journal->newest[i] = journal->kept[i] = JOURNAL_POSITION_NONE;
    set_defaults(&journal->config);
    int error = check_config(&journal->config, text);
    if (!error)
        error = take_memory(journal, text);
    if (!error)
        error = open_store(journal, text);
    if (!error)
        error = recover(journal, replay, context, text);
    if (!error)
        error = start(journal, text);
    if (error)
        discard(journal);
    else
        *ret_journal = journal;
    return error;
}

/* All that was appended becomes stable, or the journal fails; nothing stays in flight. */
static void drain(struct journal *journal) {
    while (journal->in_flight > 0 || (!journal->error && !journal_idle(journal))) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
        journal_flush(journal, now_ns);
        if (!journal_poll(journal, now_ns))
            journal_writer_wait(&journal->writer);
    }
}

int journal_close(struct journal *journal) {
    char text[JOURNAL_TEXT_BYTES];
    if (!journal)
        return 0;
    drain(journal);
    int error = journal->error;
    int late = journal_keeper_stop(&journal->keeper, error != 0, text);
    journal_writer_end(&journal->writer);
    free(journal->memory);
    free(journal);
    return error ? error : late;
}

static void enter_nothing(void *context, uint64_t segment, uint64_t first_position) {
    (void)context, (void)segment, (void)first_position;
}

static void fill_report(const struct journal_scan *scan, const struct journal_store_slot *store,
                        const struct journal_end *end, struct journal_report *report) {
    uint64_t block_count = store->segment_bytes / JOURNAL_BLOCK_BYTES;
    *report = (struct journal_report){
        .identity = store->identity,
        .segment_bytes = store->segment_bytes,
        .segment_count = store->segment_end - store->segment_begin,
        .first = store->first_position,
        .next = scan->next,
        .stable_floor = scan->stable_floor,
        .used_bytes = ((end->segment - store->segment_begin) * block_count + end->block) *
                      JOURNAL_BLOCK_BYTES,
        .torn_bytes = scan->cut_blocks * JOURNAL_BLOCK_BYTES,
        .generation = (int)store->generation};
    memcpy(report->kind_count, scan->kind_count, sizeof(report->kind_count));
}

int journal_read(const char *directory, journal_replay_fn *replay, void *context,
                 struct journal_report *ret_report, char text[JOURNAL_TEXT_BYTES]) {
    struct journal_dir dir;
    struct journal_end end;
    struct journal_scan *scan = malloc(sizeof(*scan));
    if (!scan)
        return journal_say(text, MRN_ERR_NO_MEMORY, directory, "no memory");
    int error = journal_dir_open(&dir, directory, 0, 0, NULL, text);
    if (!error) {
        error = journal_dir_load(&dir, text);
        if (!error) {
            error = journal_recover(&dir, scan, replay, context, enter_nothing, NULL, &end, text);
            if (error == MRN_ERR_NOT_FOUND)
                error = MRN_ERR_CORRUPT;
        }
        journal_dir_close(&dir);
    }
    if (!error) {
        fill_report(scan, &dir.store, &end, ret_report);
        char tail[JOURNAL_TORN_BYTES];
        torn_text(tail, scan, &end);
        journal_say(text, 0, directory,
                    "good: %" PRIu64 " records at positions %" PRIu64 " to %" PRIu64
                    " (exclusive), %" PRIu64 " segments, stable below %" PRIu64 "; torn tail: %s%s",
                    scan->record_count, ret_report->first, ret_report->next,
                    ret_report->segment_count, ret_report->stable_floor, *tail ? tail : "none",
                    *tail ? ", cut at the next start" : "");
    }
    free(scan);
    return error;
}

int journal_verify(const char *directory, struct journal_report *ret_report,
                   char text[JOURNAL_TEXT_BYTES]) {
    return journal_read(directory, NULL, NULL, ret_report, text);
}
