#include "controlplane/dump/dump_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "controlplane/dump/dump_pool.h"
#include "maroon/error.h"

#define RECORD_BYTES (sizeof(uint64_t) + DUMP_PAGE_BYTES)
#define CHUNK_OBJECT_MAX_BYTES ((uint64_t)2 * DUMP_CHUNK_PAGES * DUMP_PAGE_BYTES)
#define RUN_RECORDS 256 /* written or read by one call */
#define PASS_MS 50

/* Where a page with content goes. */
struct wanted {
    uint64_t page;
    uint64_t record; /* its place among the records of the file */
    uint32_t place;  /* in the chunk */
};

/* A chunk under way. */
struct slot {
    struct dump_job job; /* first: the pool's callbacks get it */
    struct reading *reading;
    bool busy, again; /* again: it was wrong and is got once more */
    uint32_t chunk;
    uint8_t *object;
    size_t object_bytes;
    uint64_t get_since_us, work_us;
    bool there; /* all that is wanted of it is in the file */
    int error;
    char text[DUMP_TEXT_BYTES];
};

struct reading {
    struct dump_store *store;
    const struct dump_key *key;
    struct dump_state state;
    struct wire_hash *leaves;
    struct wanted *wanted; /* by chunk */
    uint64_t *first;       /* by chunk: where its wanted begin; one more at the end */
    int fd;
    bool old_file; /* an earlier try left it */
    struct dump_pool *pool;
    struct slot slots[DUMP_READ_CHUNKS];
    uint32_t busy_count;
    uint64_t chunks_since_us;
    struct dump_progress progress;
    void (*tell)(void *context, const struct dump_progress *progress);
    void *context;
    int error;
    char *text;
};

static uint64_t now_us(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}

static int wrong(struct reading *r, int error, const char *what) {
    if (!r->error) {
        r->error = error;
        snprintf(r->text, DUMP_TEXT_BYTES, "%s", what);
    }
    return error;
}

static uint64_t record_at(uint64_t record) {
    return sizeof(struct snapshot_head) + record * RECORD_BYTES;
}

static int file_error(ssize_t written) {
    return written >= 0 || errno == ENOSPC ? MRN_ERR_NO_SPACE : MRN_ERR_IO;
}

/* ---- the workers' part: files, hashes, zstd ---- */

static void slot_wrong(struct slot *slot, int error, const char *what) {
    slot->error = error;
    snprintf(slot->text, sizeof slot->text, "%s", what);
}

/* How many of the wanted from i on lie one behind the other in the file. */
static uint32_t run_length(const struct reading *r, uint64_t i, uint64_t end) {
    uint32_t count = 1;
    while (count < RUN_RECORDS && i + count < end &&
           r->wanted[i + count].record == r->wanted[i].record + count)
        count++;
    return count;
}

/* Pages of `count` wanted from i on; a worker writes leaves of its chunk's pages only. */
static bool pages_fit(struct reading *r, uint64_t i, uint32_t count, const void *const *pages) {
    struct wire_hash hashes[RUN_RECORDS];
    wire_hash_blake2b_many(pages, DUMP_PAGE_BYTES, count, hashes);
    for (uint32_t k = 0; k < count; k++) {
        uint64_t page = r->wanted[i + k].page;
        const struct dump_page_hash *expected = &r->state.pages[page].hash;
        if (memcmp(hashes[k].bytes, expected->bytes, sizeof expected->bytes) != 0)
            return false;
        r->leaves[page] = hashes[k];
    }
    return true;
}

static void look_into_file(struct slot *slot, struct dump_rooms *rooms) {
    struct reading *r = slot->reading;
    const void *pages[RUN_RECORDS];
    slot->there = false;
    rooms->first.count = 0;
    if (!dump_bytes_reserve(&rooms->first, RUN_RECORDS * RECORD_BYTES))
        return;
    for (uint64_t i = r->first[slot->chunk], end = r->first[slot->chunk + 1], count; i < end;
         i += count) {
        count = run_length(r, i, end);
        size_t bytes = count * RECORD_BYTES;
        if (pread(r->fd, rooms->first.at, bytes, (off_t)record_at(r->wanted[i].record)) !=
            (ssize_t)bytes)
            return;
        for (uint32_t k = 0; k < count; k++) {
            const uint8_t *record = rooms->first.at + k * RECORD_BYTES;
            if (memcmp(record, &r->wanted[i + k].page, sizeof(uint64_t)) != 0)
                return;
            pages[k] = record + sizeof(uint64_t);
        }
        if (!pages_fit(r, i, (uint32_t)count, pages))
            return;
    }
    slot->there = true;
}

/* Records that lie one behind the other; the disk begins with them at once. */
static void write_run(struct slot *slot, uint64_t i, uint32_t count, const void *const *pages) {
    struct reading *r = slot->reading;
    struct iovec pieces[2 * RUN_RECORDS];
    off_t at = (off_t)record_at(r->wanted[i].record);
    ssize_t bytes = (ssize_t)(count * RECORD_BYTES);
    for (uint32_t k = 0; k < count; k++) {
        pieces[2 * k] = (struct iovec){&r->wanted[i + k].page, sizeof(uint64_t)};
        pieces[2 * k + 1] = (struct iovec){(void *)(uintptr_t)pages[k], DUMP_PAGE_BYTES};
    }
    ssize_t written = pwritev(r->fd, pieces, (int)(2 * count), at);
    if (written != bytes)
        slot_wrong(slot, file_error(written), "the snapshot file cannot be written");
    else
        (void)sync_file_range(r->fd, at, bytes, SYNC_FILE_RANGE_WRITE);
}

static void take_pages(struct slot *slot, const uint8_t *chunk) {
    struct reading *r = slot->reading;
    const void *pages[RUN_RECORDS];
    for (uint64_t i = r->first[slot->chunk], end = r->first[slot->chunk + 1], count;
         i < end && !slot->error; i += count) {
        count = run_length(r, i, end);
        for (uint32_t k = 0; k < count; k++)
            pages[k] = chunk + (size_t)r->wanted[i + k].place * DUMP_PAGE_BYTES;
        if (!pages_fit(r, i, (uint32_t)count, pages))
            slot_wrong(slot, MRN_ERR_CORRUPT, "a page of a chunk is not what the index says");
        else if (r->fd >= 0)
            write_run(slot, i, (uint32_t)count, pages);
    }
}

static void take_chunk(struct slot *slot, struct dump_rooms *rooms) {
    struct reading *r = slot->reading;
    const struct dump_chunk *chunk = &r->state.manifest.chunks[slot->chunk];
    /* What goes into the file is compared page by page with the index, whose name was. */
    const struct wire_hash *name = r->fd < 0 || slot->again ? &chunk->name : NULL;
    struct dump_bytes view;
    slot->error = dump_object_view(DUMP_CHUNK, r->key, name, slot->object, slot->object_bytes,
                                   &rooms->first, &view, slot->text);
    if (!slot->error)
        slot->error = dump_chunk_decode(&view, chunk->pages, &rooms->second, slot->text);
    if (!slot->error)
        take_pages(slot, rooms->second.at);
}

/* A chunk that was fetched is taken; one that was not is looked for in the file. */
static void slot_work(struct dump_job *job, struct dump_rooms *rooms) {
    struct slot *slot = (struct slot *)job;
    uint64_t since_us = now_us();
    if (slot->object)
        take_chunk(slot, rooms);
    else
        look_into_file(slot, rooms);
    slot->work_us = now_us() - since_us;
}

/* ---- the caller's thread: from the store to the workers ---- */

static void slot_get(struct slot *slot);

static void slot_end(struct slot *slot) {
    struct reading *r = slot->reading;
    free(slot->object);
    slot->object = NULL;
    slot->busy = false;
    r->busy_count--;
    if (slot->error) {
        (void)wrong(r, slot->error, slot->text);
        return;
    }
    r->progress.pages_done += r->first[slot->chunk + 1] - r->first[slot->chunk];
    r->progress.chunks_us = now_us() - r->chunks_since_us;
    if (r->tell)
        r->tell(r->context, &r->progress);
}

static void on_taken(struct dump_job *job) {
    struct slot *slot = (struct slot *)job;
    slot->reading->progress.unpack_us += slot->work_us;
    bool damaged = slot->error == MRN_ERR_CORRUPT || slot->error == MRN_ERR_DENIED;
    if (!damaged || slot->again || slot->reading->error) {
        slot_end(slot);
        return;
    }
    free(slot->object);
    slot->object = NULL;
    slot->again = true;
    slot_get(slot);
}

static void on_chunk(void *context, struct object_store_answer *answer) {
    struct slot *slot = context;
    struct reading *r = slot->reading;
    r->progress.gets_us += now_us() - slot->get_since_us;
    if (answer->error) {
        slot_wrong(slot, answer->error, answer->text);
        slot_end(slot);
        return;
    }
    r->progress.fetched_bytes += answer->size_bytes;
    slot->object = answer->bytes;
    slot->object_bytes = answer->size_bytes;
    answer->bytes = NULL;
    slot->job.run = slot_work;
    slot->job.done = on_taken;
    dump_pool_put(r->pool, &slot->job);
}

/* What a chunk holds is checked here in any case: the store compares its hash, and tries again as
 * it thinks fit, when that has failed. */
static void slot_get(struct slot *slot) {
    struct reading *r = slot->reading;
    char path[DUMP_NAME_MAX];
    slot->error = 0;
    slot->get_since_us = now_us();
    dump_object_path(DUMP_CHUNK, &r->state.manifest.chunks[slot->chunk].name, path);
    int error = (slot->again ? object_store_get : object_store_get_unchecked)(
        r->store->store, path, CHUNK_OBJECT_MAX_BYTES, on_chunk, slot);
    if (error) {
        slot_wrong(slot, error, "no memory");
        slot_end(slot);
    }
}

static void on_looked(struct dump_job *job) {
    struct slot *slot = (struct slot *)job;
    slot->reading->progress.unpack_us += slot->work_us;
    if (slot->there || slot->reading->error)
        slot_end(slot);
    else
        slot_get(slot);
}

static void slot_begin(struct slot *slot, uint32_t chunk) {
    struct reading *r = slot->reading;
    slot->busy = true;
    slot->again = false;
    slot->chunk = chunk;
    slot->error = 0;
    r->busy_count++;
    if (!r->old_file) {
        slot_get(slot);
        return;
    }
    slot->job.run = slot_work;
    slot->job.done = on_looked;
    dump_pool_put(r->pool, &slot->job);
}

static struct slot *free_slot(struct reading *r) {
    for (uint32_t i = 0; i < DUMP_READ_CHUNKS; i++)
        if (!r->slots[i].busy)
            return &r->slots[i];
    return NULL;
}

static void fetch_chunks(struct reading *r) {
    uint32_t next = 0, count = r->state.manifest.chunk_count;
    struct slot *slot;
    if (dump_pool_start(r->store->loop, &r->pool)) {
        (void)wrong(r, MRN_ERR_NO_MEMORY, "no thread for the dump");
        return;
    }
    for (uint32_t i = 0; i < DUMP_READ_CHUNKS; i++)
        r->slots[i].reading = r;
    while (!dump_store_stopped(r->store)) {
        while (!r->error && next < count && (slot = free_slot(r))) {
            if (r->first[next] < r->first[next + 1])
                slot_begin(slot, next);
            next++;
        }
        if (!r->busy_count && (r->error || next == count))
            break;
        loop_run_once(r->store->loop, PASS_MS);
    }
    if (dump_store_stopped(r->store))
        (void)wrong(r, MRN_ERR_CLOSED, "stopped");
    dump_pool_stop(r->pool);
    for (uint32_t i = 0; i < DUMP_READ_CHUNKS; i++)
        free(r->slots[i].object);
}

/* Sorts the pages with content by chunk; says where each goes. */
static int plan(struct reading *r) {
    struct dump_state *state = &r->state;
    uint32_t chunks = state->manifest.chunk_count;
    for (uint32_t i = 0; i < chunks; i++)
        r->progress.indexes_bytes += state->manifest.chunks[i].index_bytes;
    uint64_t *fill = calloc(chunks + 1, sizeof *fill);
    r->first = calloc((size_t)chunks + 2, sizeof *r->first);
    r->leaves = calloc(state->page_count, sizeof *r->leaves);
    for (uint64_t page = 0; r->first && page < state->page_count; page++)
        if (!dump_page_hash_zero(&state->pages[page].hash)) {
            r->first[state->pages[page].chunk + 1]++;
            r->progress.pages++;
        }
    r->wanted = calloc(r->progress.pages + 1, sizeof *r->wanted);
    if (!fill || !r->first || !r->leaves || !r->wanted) {
        free(fill);
        return wrong(r, MRN_ERR_NO_MEMORY, "no memory");
    }
    for (uint32_t i = 0; i < chunks; i++) {
        r->first[i + 1] += r->first[i];
        fill[i] = r->first[i];
    }
    uint64_t record = 0;
    for (uint64_t page = 0; page < state->page_count; page++)
        if (!dump_page_hash_zero(&state->pages[page].hash))
            r->wanted[fill[state->pages[page].chunk]++] =
                (struct wanted){page, record++, state->pages[page].place};
    free(fill);
    if (r->progress.pages != state->manifest.tail.page_count)
        return wrong(r, MRN_ERR_CORRUPT, "the indexes do not add up to the snapshot");
    return 0;
}

static void put(struct reading *r, const void *bytes, size_t count, uint64_t at) {
    if (r->fd < 0 || r->error)
        return;
    ssize_t written = pwrite(r->fd, bytes, count, (off_t)at);
    if (written != (ssize_t)count)
        (void)wrong(r, file_error(written), "the snapshot file cannot be written");
}

static void finish(struct reading *r) {
    const struct dump_manifest *manifest = &r->state.manifest;
    const uint64_t end = SNAPSHOT_PAGE_END;
    struct wire_hash state_hash = dump_state_hash(r->leaves, r->state.page_count);
    if (memcmp(&state_hash, &manifest->tail.state_hash, sizeof state_hash) != 0) {
        (void)wrong(r, MRN_ERR_CORRUPT, "the pages do not have the state hash of the snapshot");
        return;
    }
    uint64_t at = record_at(r->progress.pages);
    put(r, &manifest->head, sizeof manifest->head, 0);
    put(r, &end, sizeof end, at);
    put(r, &manifest->tail, sizeof manifest->tail, at + sizeof end);
    if (r->fd >= 0 && !r->error &&
        (ftruncate(r->fd, (off_t)(at + sizeof end + sizeof manifest->tail)) || fsync(r->fd)))
        (void)wrong(r, MRN_ERR_IO, "the snapshot file cannot be written");
}

static void read_all(struct reading *r, const char *file, uint64_t since_us) {
    struct stat info = {0};
    if (*file &&
        ((r->fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0 || fstat(r->fd, &info) < 0)) {
        (void)wrong(r, MRN_ERR_IO, "the snapshot file cannot be made");
        return;
    }
    r->old_file = r->fd >= 0 && info.st_size;
    if (plan(r))
        return;
    r->chunks_since_us = now_us();
    r->progress.indexes_us = r->chunks_since_us - since_us;
    fetch_chunks(r);
    uint64_t fetched_us = now_us();
    r->progress.chunks_us = fetched_us - r->chunks_since_us;
    if (r->error)
        return;
    finish(r);
    r->progress.end_us = now_us() - fetched_us;
    if (r->tell && !r->error)
        r->tell(r->context, &r->progress);
}

int dump_read(struct dump_store *store, const struct dump_key *key, const char *path,
              const char *file, void (*tell)(void *context, const struct dump_progress *progress),
              void *context, struct dump_manifest *ret_manifest, char *text) {
    struct reading r = {
        .store = store, .key = key, .fd = -1, .tell = tell, .context = context, .text = text};
    uint64_t since_us = now_us();
    int error = dump_state_load(store, key, path, &r.state, text);
    if (error)
        return error;
    read_all(&r, file, since_us);
    if (r.fd >= 0)
        close(r.fd);
    if (!r.error && ret_manifest) {
        *ret_manifest = r.state.manifest;
        memset(&r.state.manifest, 0, sizeof r.state.manifest);
    }
    dump_state_free(&r.state);
    free(r.leaves);
    free(r.wanted);
    free(r.first);
    return r.error;
}
