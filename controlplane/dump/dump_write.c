#include "controlplane/dump/dump_write.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "controlplane/dump/dump_base.h"
#include "controlplane/dump/dump_stretch.h"
#include "maroon/error.h"

#define READ_BYTES (1u << 20)
#define BATCH_PAGES 8
#define JOURNAL_TRIES 40 /* the newest epochs may be executed before they are written */
#define JOURNAL_PAUSE_US 50000
#define MARK_MS 1000
#define MARK_PAGES 4096
#define POINTER_TRIES 4 /* the last one only looks */

/* A chunk being filled. */
struct filling {
    uint8_t *pages;
    uint32_t page_count, zero_count, entry_count, entry_room;
    struct dump_index_entry *entries;
};

struct writing {
    struct dump_writer *writer;
    FILE *file;
    struct dump_base base;
    struct wire_hash *leaves;
    struct filling filling;
    struct dump_bytes payload, object;
    uint64_t marks, marked_ms; /* that this is under way: how often, and when last */
    bool *sparse;              /* by chunk of the old state: few of its pages live, they move */
    struct dump_report report;
    char *text;
};

static int wrong(struct writing *w, int error, const char *what) {
    snprintf(w->text, DUMP_TEXT_BYTES, "%s", what);
    return error;
}

static int store_told(struct writing *w, int error) {
    snprintf(w->text, DUMP_TEXT_BYTES, "%s", w->writer->store->text);
    return error;
}

/* Other nodes need not dump as well. */
static void mark(struct writing *w) {
    const struct dump_writer *writer = w->writer;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    if (w->marks && now_ms - w->marked_ms < MARK_MS)
        return;
    w->marked_ms = now_ms;
    dump_mark_put(writer->store, writer->node, writer->incarnation, w->marks++);
}

static int put_object(struct writing *w, enum dump_kind kind, struct wire_hash *ret_name,
                      uint64_t *ret_bytes) {
    char path[DUMP_NAME_MAX];
    if (dump_object_make(kind, w->writer->key, w->payload.at, w->payload.count, &w->object,
                         ret_name))
        return wrong(w, MRN_ERR_NO_MEMORY, "no memory");
    *ret_bytes = w->object.count;
    dump_object_path(kind, ret_name, path);
    mark(w);
    int error = dump_store_put(w->writer->store, path, &w->object, DUMP_PUT_SKIP | DUMP_PUT_CHECK);
    return error ? store_told(w, error) : 0;
}

static int flush(struct writing *w) {
    struct filling *filling = &w->filling;
    struct dump_chunk chunk = {.pages = filling->page_count, .zeros = filling->zero_count};
    if (!filling->entry_count)
        return 0;
    int error = dump_chunk_encode(filling->pages, filling->page_count, &w->payload);
    if (!error)
        error = put_object(w, DUMP_CHUNK, &chunk.name, &chunk.chunk_bytes);
    if (!error)
        error = dump_index_encode(filling->entries, filling->entry_count, &w->payload);
    if (!error)
        error = put_object(w, DUMP_INDEX, &chunk.index, &chunk.index_bytes);
    if (!error)
        error = dump_state_add(&w->writer->state, &chunk, filling->entries);
    if (error == MRN_ERR_NO_MEMORY)
        return wrong(w, error, "no memory");
    filling->page_count = filling->zero_count = filling->entry_count = 0;
    w->report.chunks++;
    return error;
}

static int add_entry(struct writing *w, uint64_t page, const struct dump_page_hash *hash,
                     const uint8_t *bytes) {
    struct filling *filling = &w->filling;
    if (filling->entry_count == filling->entry_room) {
        uint32_t room = filling->entry_room ? 2 * filling->entry_room : DUMP_CHUNK_PAGES;
        struct dump_index_entry *grown = realloc(filling->entries, room * sizeof *grown);
        if (!grown)
            return wrong(w, MRN_ERR_NO_MEMORY, "no memory");
        filling->entries = grown;
        filling->entry_room = room;
    }
    filling->entries[filling->entry_count++] = (struct dump_index_entry){page, *hash};
    w->report.changed_pages++;
    if (!bytes) {
        filling->zero_count++;
        return filling->zero_count == 64 * DUMP_CHUNK_PAGES ? flush(w) : 0;
    }
    memcpy(filling->pages + (size_t)filling->page_count++ * DUMP_PAGE_BYTES, bytes,
           DUMP_PAGE_BYTES);
    return filling->page_count == DUMP_CHUNK_PAGES ? flush(w) : 0;
}

/* Pages from..to of the file are zeros: those that were not are new. */
static int take_zeros(struct writing *w, uint64_t from, uint64_t to) {
    static const struct dump_page_hash zero;
    int error = 0;
    for (uint64_t page = from; !error && page < to; page++)
        if (!dump_page_hash_zero(&w->writer->state.pages[page].hash))
            error = add_entry(w, page, &zero, NULL);
    return error;
}

/* Pages of the file, read and not yet taken: as many as are hashed at once. */
struct batch {
    uint32_t count;
    uint64_t numbers[BATCH_PAGES];
    uint8_t pages[BATCH_PAGES][DUMP_PAGE_BYTES];
};

static int take_page(struct writing *w, uint64_t number, const uint8_t *bytes) {
    const struct dump_page *old = &w->writer->state.pages[number];
    struct dump_page_hash hash;
    memcpy(hash.bytes, w->leaves[number].bytes, sizeof hash.bytes);
    bool same = memcmp(&hash, &old->hash, sizeof hash) == 0;
    if (same && !w->sparse[old->chunk])
        return 0;
    return add_entry(w, number, &hash, bytes);
}

/* *next: the page behind the last one taken. */
static int take_batch(struct writing *w, struct batch *batch, uint64_t *next) {
    const void *inputs[BATCH_PAGES];
    struct wire_hash hashes[BATCH_PAGES];
    int error = 0;
    for (uint32_t i = 0; i < batch->count; i++)
        inputs[i] = batch->pages[i];
    wire_hash_blake2b_many(inputs, DUMP_PAGE_BYTES, batch->count, hashes);
    for (uint32_t i = 0; !error && i < batch->count; i++) {
        uint64_t number = batch->numbers[i];
        w->leaves[number] = hashes[i];
        error = take_zeros(w, *next, number);
        if (!error)
            error = take_page(w, number, batch->pages[i]);
        *next = number + 1;
    }
    batch->count = 0;
    return error;
}

static int take_pages(struct writing *w, const struct snapshot_head *head) {
    uint64_t pages = head->region_bytes / DUMP_PAGE_BYTES, least = 0, next = 0, number;
    struct batch batch = {.count = 0};
    int error = 0;
    while (!error) {
        if (fread(&number, sizeof number, 1, w->file) != 1)
            return wrong(w, MRN_ERR_CORRUPT, "the snapshot is cut short");
        if (number == SNAPSHOT_PAGE_END)
            break;
        if (number < least || number >= pages ||
            fread(batch.pages[batch.count], DUMP_PAGE_BYTES, 1, w->file) != 1)
            return wrong(w, MRN_ERR_CORRUPT, "the snapshot is damaged or cut short");
        batch.numbers[batch.count++] = number;
        least = number + 1;
        if (batch.count == BATCH_PAGES)
            error = take_batch(w, &batch, &next);
        if (++w->report.pages % MARK_PAGES == 0)
            mark(w);
    }
    if (!error)
        error = take_batch(w, &batch, &next);
    if (!error)
        error = take_zeros(w, next, pages);
    return error ? error : flush(w);
}

/* Chunks of which little lives are emptied when the dead are more than the living. */
static int choose_sparse(struct writing *w) {
    const struct dump_state *state = &w->writer->state;
    uint64_t stored = 0, live = 0;
    w->sparse = calloc(state->manifest.chunk_count + 1, sizeof *w->sparse);
    if (!w->sparse)
        return wrong(w, MRN_ERR_NO_MEMORY, "no memory");
    for (uint32_t i = 0; i < state->manifest.chunk_count; i++) {
        stored += state->manifest.chunks[i].pages;
        live += state->live[i];
    }
    bool many = state->manifest.chunk_count > 64 + 8 * (stored / DUMP_CHUNK_PAGES);
    if (stored > 2 * live + DUMP_CHUNK_PAGES || many)
        for (uint32_t i = 0; i < state->manifest.chunk_count; i++)
            w->sparse[i] = 2 * state->live[i] < DUMP_CHUNK_PAGES;
    return 0;
}

/* What nothing lives in any more, neither page nor zero, is not named again. Zeros matter only
 * where an earlier chunk has the page. */
static void drop_dead_chunks(struct dump_state *state) {
    struct dump_manifest *manifest = &state->manifest;
    uint32_t *renamed = calloc(manifest->chunk_count + 1, sizeof *renamed), kept = 0;
    if (!renamed)
        return; /* they stay: that is allowed */
    for (uint32_t i = 0; i < manifest->chunk_count; i++) {
        bool earlier_lives = kept > 0;
        renamed[i] = kept;
        if (!state->live[i] && !(manifest->chunks[i].zeros && earlier_lives))
            continue;
        manifest->chunks[kept] = manifest->chunks[i];
        state->live[kept++] = state->live[i];
    }
    manifest->chunk_count = kept;
    for (uint64_t page = 0; page < state->page_count; page++)
        if (!dump_page_hash_zero(&state->pages[page].hash))
            state->pages[page].chunk = renamed[state->pages[page].chunk];
    free(renamed);
}

/* ---- stretches ---- */

struct stretching {
    struct writing *w;
    struct dump_bytes records;
    struct dump_stretch current; /* first_seq 0: empty */
    struct wire_hash last_hash;
};

static int stretch_end(struct stretching *s) {
    struct writing *w = s->w;
    if (!s->current.first_seq)
        return 0;
    if (dump_stretch_encode(s->records.at, s->records.count, &w->payload))
        return wrong(w, MRN_ERR_NO_MEMORY, "no memory");
    int error = put_object(w, DUMP_STRETCH, &s->current.name, &s->current.stretch_bytes);
    if (!error && !dump_stretch_add(&w->writer->state.manifest, &s->current))
        error = wrong(w, MRN_ERR_NO_MEMORY, "no memory");
    s->current.first_seq = 0;
    s->records.count = 0;
    return error;
}

static int stretch_take(void *context, uint64_t seq, const struct wire_hash *hash,
                        const void *record, size_t count) {
    struct stretching *s = context;
    if (!s->current.first_seq) {
        s->current.first_seq = seq;
        s->current.previous_hash = s->last_hash;
    }
    if (!dump_bytes_add(&s->records, record, count))
        return wrong(s->w, MRN_ERR_NO_MEMORY, "no memory");
    s->current.last_seq = seq;
    s->current.last_hash = s->last_hash = *hash;
    s->w->report.epochs++;
    return s->records.count >= DUMP_STRETCH_BYTES ? stretch_end(s) : 0;
}

static int stretches_try(struct writing *w, const struct dump_journal_span *span) {
    struct stretching s = {.w = w, .last_hash = span->after_hash};
    w->writer->state.manifest.stretch_count = 0;
    w->report.epochs = 0;
    int error = dump_journal_read(w->writer->journal, span, stretch_take, &s, w->text);
    if (!error)
        error = stretch_end(&s);
    dump_bytes_free(&s.records);
    return error;
}

/* A dump without the way that leads to it is still a dump: only what the store says is an error. */
static int write_stretches(struct writing *w, const struct snapshot_head *head,
                           const struct dump_journal_span *from) {
    struct dump_writer *writer = w->writer;
    struct dump_manifest *manifest = &writer->state.manifest;
    struct dump_journal_span span = *from;
    int error = MRN_ERR_UNAVAILABLE;
    manifest->stretch_count = 0;
    if (!writer->journal) {
        snprintf(w->report.gap, sizeof w->report.gap, "durability is memory: no journal");
        return 0;
    }
    span.to_seq = head->seq;
    span.to_hash = head->epoch_hash;
    for (int i = 0; i < JOURNAL_TRIES && error == MRN_ERR_UNAVAILABLE; i++) {
        if (i)
            usleep(JOURNAL_PAUSE_US);
        error = dump_store_stopped(writer->store) ? MRN_ERR_CLOSED : stretches_try(w, &span);
        if (error == MRN_ERR_NOT_FOUND &&
            writer->journal->place) { /* what was handed out is wanted again */
            writer->journal->place = 0;
            error = MRN_ERR_UNAVAILABLE;
        }
    }
    if (!error && memcmp(&manifest->stretches[manifest->stretch_count - 1].last_hash,
                         &head->epoch_hash, sizeof head->epoch_hash) != 0)
        error = wrong(w, MRN_ERR_CORRUPT, "the journal does not lead to the snapshot");
    if (error && !writer->store->error) {
        snprintf(w->report.gap, sizeof w->report.gap, "%s", w->text);
        manifest->stretch_count = 0;
        w->report.epochs = 0;
        return 0;
    }
    w->report.stretches = manifest->stretch_count;
    return error;
}

/* What the stretches follow: the dump before, or the cluster's beginning. */
static struct dump_journal_span span_begin(const struct writing *w) {
    const struct dump_writer *writer = w->writer;
    bool first = !w->base.there;
    return (struct dump_journal_span){.digest_key = writer->digest_key,
                                      .after_seq = first ? writer->begin_seq : w->base.seq,
                                      .after_hash =
                                          first ? writer->genesis_hash : w->base.epoch_hash};
}

/* Forward only, as far as can be seen: another node may have come further meanwhile, and its
 * pointer may be written over by ours at the same time, or ours by an older one. Then it is written
 * again. */
static int point(struct writing *w, uint64_t own_seq) {
    struct dump_writer *writer = w->writer;
    char path[DUMP_NAME_MAX];
    for (int i = 0; i < POINTER_TRIES; i++) {
        uint64_t seq = 0;
        int error = dump_latest(writer->store, path, &seq, w->text);
        if (error && error != MRN_ERR_NOT_FOUND && error != MRN_ERR_CORRUPT &&
            error != MRN_ERR_TOO_LARGE) /* what cannot be read is written over */
            return error;
        if (!error && strcmp(path, writer->state.path) == 0)
            return 0;
        if (!error && seq >= own_seq)
            return i ? 0 : wrong(w, MRN_ERR_EXISTS, "another node's dump is newer");
        char *text = dump_pointer_text(&writer->state.manifest, writer->state.path);
        struct dump_bytes pointer = {(uint8_t *)text, text ? strlen(text) : 0, 0};
        if (!text)
            return wrong(w, MRN_ERR_NO_MEMORY, "no memory");
        (void)dump_store_put(writer->store, "latest", &pointer, 0);
        error = dump_store_wait(writer->store);
        if (error)
            return store_told(w, error);
    }
    (void)wrong(w, MRN_ERR_CORRUPT, "the store does not keep the pointer `latest`");
    writer->store->lies++;
    memcpy(writer->store->lie, w->text, sizeof writer->store->lie);
    return MRN_ERR_CORRUPT;
}

static int publish(struct writing *w, const struct snapshot_head *head,
                   const struct snapshot_tail *tail) {
    struct dump_writer *writer = w->writer;
    struct dump_manifest *manifest = &writer->state.manifest;
    struct timespec now;
    struct wire_hash name;
    clock_gettime(CLOCK_REALTIME, &now);
    manifest->previous = w->base.manifest;
    manifest->previous_seq = w->base.seq;
    snprintf(manifest->cluster, sizeof manifest->cluster, "%s", writer->cluster);
    manifest->cluster_id = writer->cluster_id;
    manifest->head = *head;
    manifest->tail = *tail;
    manifest->digest_key = writer->digest_key;
    memcpy(manifest->applications, writer->applications, sizeof manifest->applications);
    manifest->application_count = writer->application_count;
    manifest->node = writer->node;
    manifest->incarnation = writer->incarnation;
    manifest->wall_us = (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
    drop_dead_chunks(&writer->state);
    if (dump_manifest_encode(manifest, writer->signer, &w->payload) ||
        dump_object_make(DUMP_MANIFEST, writer->key, w->payload.at, w->payload.count, &w->object,
                         &name))
        return wrong(w, MRN_ERR_NO_MEMORY, "no memory");
    dump_manifest_path(head->seq, &name, writer->state.path);
    (void)dump_store_put(writer->store, writer->state.path, &w->object, DUMP_PUT_CHECK);
    int error = dump_store_wait(writer->store);
    if (error)
        return store_told(w, error);
    return point(w, head->seq);
}

static int write_all(struct writing *w) {
    struct snapshot_head head;
    struct snapshot_tail tail;
    if (fread(&head, sizeof head, 1, w->file) != 1)
        return wrong(w, MRN_ERR_CORRUPT, "the snapshot is cut short");
    int error = dump_snapshot_head_check(&head, w->text);
    if (!error)
        error = dump_base_load(w->writer->store, w->writer->key, w->writer->cluster, &head,
                               &w->writer->check_next, &w->writer->state, &w->base, w->text);
    if (!error)
        error = choose_sparse(w);
    if (error)
        return error;
    mark(w);
    const struct dump_journal_span span = span_begin(w);
    uint64_t pages = head.region_bytes / DUMP_PAGE_BYTES;
    w->leaves = calloc(pages, sizeof *w->leaves);
    w->filling.pages = malloc((size_t)DUMP_CHUNK_PAGES * DUMP_PAGE_BYTES);
    if (!w->leaves || !w->filling.pages)
        return wrong(w, MRN_ERR_NO_MEMORY, "no memory");
    error = take_pages(w, &head);
    if (error)
        return error;
    if (fread(&tail, sizeof tail, 1, w->file) != 1 || fgetc(w->file) != EOF)
        return wrong(w, MRN_ERR_CORRUPT, "the snapshot is cut short, or goes on behind its end");
    error = dump_snapshot_tail_check(&head, &tail, w->text);
    if (error)
        return error;
    struct wire_hash state_hash = dump_state_hash(w->leaves, pages);
    if (tail.page_count != w->report.pages ||
        memcmp(&state_hash, &tail.state_hash, sizeof state_hash) != 0)
        return wrong(w, MRN_ERR_CORRUPT, "the snapshot's pages do not have its state hash");
    error = write_stretches(w, &head, &span);
    if (error)
        return error;
    error = dump_store_wait(w->writer->store);
    if (error)
        return store_told(w, error);
    w->report.seq = head.seq;
    return publish(w, &head, &tail);
}

int dump_write(struct dump_writer *writer, int snapshot_fd, struct dump_report *ret_report,
               char *text) {
    struct writing w = {.writer = writer, .text = text};
    struct dump_store *store = writer->store;
    uint64_t sent = store->sent_bytes, skipped = store->skipped_bytes;
    uint64_t checked = store->checked_bytes;
    uint64_t place = writer->journal ? writer->journal->place : 0;
    int fd = dup(snapshot_fd);
    text[0] = '\0';
    w.file = fd >= 0 ? fdopen(fd, "re") : NULL;
    if (!w.file) {
        if (fd >= 0)
            close(fd);
        return wrong(&w, MRN_ERR_IO, "the snapshot cannot be read");
    }
    (void)setvbuf(w.file, NULL, _IOFBF, READ_BYTES);
    int error = write_all(&w);
    (void)fclose(w.file);
    if (!error) /* else it grows old by itself, in a while */
        (void)dump_store_remove(store, DUMP_MARK_NAME);
    if (error) {
        (void)dump_store_wait(store); /* what was started ends before its memory does */
        dump_state_free(&writer->state);
        if (writer->journal)
            writer->journal->place = place; /* its epochs are in no dump yet */
    } else {
        w.report.sent_bytes = store->sent_bytes - sent;
        w.report.skipped_bytes = store->skipped_bytes - skipped;
        w.report.checked_bytes = store->checked_bytes - checked;
        snprintf(w.report.path, sizeof w.report.path, "%s", writer->state.path);
        *ret_report = w.report;
    }
    free(w.leaves);
    free(w.sparse);
    free(w.filling.pages);
    free(w.filling.entries);
    dump_bytes_free(&w.payload);
    dump_bytes_free(&w.object);
    return error;
}
