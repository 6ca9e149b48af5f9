#include "controlplane/dump/dump_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "maroon/error.h"

#define RECORD_BYTES (sizeof(uint64_t) + DUMP_PAGE_BYTES)
#define CHUNK_OBJECT_MAX_BYTES ((uint64_t)2 * DUMP_CHUNK_PAGES * DUMP_PAGE_BYTES)

/* Where a page with content goes. */
struct wanted {
    uint64_t page;
    uint64_t record; /* its place among the records of the file */
    uint32_t place;  /* in the chunk */
};

struct reading {
    struct dump_store *store;
    const struct dump_key *key;
    struct dump_state state;
    struct wire_hash *leaves;
    struct wanted *wanted; /* by chunk */
    uint64_t *first;       /* by chunk: where its wanted begin; one more at the end */
    int fd;
    struct dump_progress progress;
    void (*tell)(void *context, const struct dump_progress *progress);
    void *context;
    int error;
    char *text;
};

struct arriving {
    struct reading *reading;
    uint32_t chunk;
};

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

static bool put(struct reading *r, const void *bytes, size_t count, uint64_t at) {
    if (r->fd < 0)
        return true;
    ssize_t written = pwrite(r->fd, bytes, count, (off_t)at);
    if (written == (ssize_t)count)
        return true;
    (void)wrong(r, written >= 0 || errno == ENOSPC ? MRN_ERR_NO_SPACE : MRN_ERR_IO,
                "the snapshot file cannot be written");
    return false;
}

static bool page_fits(const struct reading *r, uint64_t page, const uint8_t *bytes,
                      struct wire_hash *ret_leaf) {
    *ret_leaf = wire_hash_blake2b(bytes, DUMP_PAGE_BYTES);
    return memcmp(ret_leaf->bytes, r->state.pages[page].hash.bytes,
                  sizeof r->state.pages[page].hash) == 0;
}

static void take_chunk(struct reading *r, uint32_t number, const uint8_t *pages) {
    for (uint64_t i = r->first[number]; i < r->first[number + 1]; i++) {
        const struct wanted *wanted = &r->wanted[i];
        uint8_t record[RECORD_BYTES];
        const uint8_t *bytes = pages + (size_t)wanted->place * DUMP_PAGE_BYTES;
        if (!page_fits(r, wanted->page, bytes, &r->leaves[wanted->page])) {
            (void)wrong(r, MRN_ERR_CORRUPT, "a page of a chunk is not what the index says");
            return;
        }
        memcpy(record, &wanted->page, sizeof wanted->page);
        memcpy(record + sizeof wanted->page, bytes, DUMP_PAGE_BYTES);
        if (!put(r, record, sizeof record, record_at(wanted->record)))
            return;
    }
    r->progress.pages_done += r->first[number + 1] - r->first[number];
    if (r->tell)
        r->tell(r->context, &r->progress);
}

static void on_chunk(void *context, struct object_store_answer *answer) {
    struct arriving *arriving = context;
    struct reading *r = arriving->reading;
    const struct dump_chunk *chunk = &r->state.manifest.chunks[arriving->chunk];
    struct dump_bytes payload = {0}, pages = {0};
    char text[DUMP_TEXT_BYTES] = "";
    r->store->open--;
    if (answer->error) {
        (void)wrong(r, answer->error, answer->text);
    } else if (!r->error) {
        r->progress.fetched_bytes += answer->size_bytes;
        int error = dump_object_open(DUMP_CHUNK, r->key, &chunk->name, answer->bytes,
                                     answer->size_bytes, &payload, text);
        if (!error)
            error = dump_chunk_decode(&payload, chunk->pages, &pages, text);
        if (error)
            (void)wrong(r, error, text);
        else
            take_chunk(r, arriving->chunk, pages.at);
    }
    dump_bytes_free(&payload);
    dump_bytes_free(&pages);
    free(arriving);
}

/* Whether all that is wanted of the chunk lies in the file already. */
static bool is_there(struct reading *r, uint32_t number) {
    uint8_t record[RECORD_BYTES];
    if (r->fd < 0)
        return false;
    for (uint64_t i = r->first[number]; i < r->first[number + 1]; i++) {
        const struct wanted *wanted = &r->wanted[i];
        if (pread(r->fd, record, sizeof record, (off_t)record_at(wanted->record)) !=
                (ssize_t)sizeof record ||
            memcmp(record, &wanted->page, sizeof wanted->page) != 0 ||
            !page_fits(r, wanted->page, record + sizeof wanted->page, &r->leaves[wanted->page]))
            return false;
    }
    r->progress.pages_done += r->first[number + 1] - r->first[number];
    return true;
}

static void fetch_chunks(struct reading *r) {
    for (uint32_t i = 0; i < r->state.manifest.chunk_count && !r->error; i++) {
        char path[DUMP_NAME_MAX];
        if (r->first[i] == r->first[i + 1] || is_there(r, i))
            continue;
        dump_store_drain(r->store, DUMP_TRANSFERS);
        if (r->store->error || r->error)
            break;
        struct arriving *arriving = malloc(sizeof *arriving);
        if (!arriving) {
            (void)wrong(r, MRN_ERR_NO_MEMORY, "no memory");
            break;
        }
        *arriving = (struct arriving){r, i};
        dump_object_path(DUMP_CHUNK, &r->state.manifest.chunks[i].name, path);
        if (object_store_get(r->store->store, path, CHUNK_OBJECT_MAX_BYTES, on_chunk, arriving)) {
            free(arriving);
            (void)wrong(r, MRN_ERR_NO_MEMORY, "no memory");
            break;
        }
        r->store->open++;
    }
    int error = dump_store_wait(r->store);
    if (error)
        (void)wrong(r, error, r->store->text);
}

/* Sorts the pages with content by chunk; says where each goes. */
static int plan(struct reading *r) {
    struct dump_state *state = &r->state;
    uint32_t chunks = state->manifest.chunk_count;
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

static void finish(struct reading *r) {
    const struct dump_manifest *manifest = &r->state.manifest;
    const uint64_t end = SNAPSHOT_PAGE_END;
    struct wire_hash state_hash = dump_state_hash(r->leaves, r->state.page_count);
    if (memcmp(&state_hash, &manifest->tail.state_hash, sizeof state_hash) != 0) {
        (void)wrong(r, MRN_ERR_CORRUPT, "the pages do not have the state hash of the snapshot");
        return;
    }
    uint64_t at = record_at(r->progress.pages);
    if (!put(r, &manifest->head, sizeof manifest->head, 0) || !put(r, &end, sizeof end, at) ||
        !put(r, &manifest->tail, sizeof manifest->tail, at + sizeof end))
        return;
    if (r->fd >= 0 &&
        (ftruncate(r->fd, (off_t)(at + sizeof end + sizeof manifest->tail)) || fsync(r->fd)))
        (void)wrong(r, MRN_ERR_IO, "the snapshot file cannot be written");
}

int dump_read(struct dump_store *store, const struct dump_key *key, const char *path,
              const char *file, void (*tell)(void *context, const struct dump_progress *progress),
              void *context, struct dump_manifest *ret_manifest, char *text) {
    struct reading r = {
        .store = store, .key = key, .fd = -1, .tell = tell, .context = context, .text = text};
    int error = dump_state_load(store, key, path, &r.state, text);
    if (error)
        return error;
    if (*file && (r.fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600)) < 0)
        (void)wrong(&r, MRN_ERR_IO, "the snapshot file cannot be made");
    if (!r.error)
        (void)plan(&r);
    if (!r.error)
        fetch_chunks(&r);
    if (!r.error)
        finish(&r);
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
