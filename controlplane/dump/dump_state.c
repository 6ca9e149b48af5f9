#include "controlplane/dump/dump_state.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "maroon/error.h"

#define POINTER_MAX_BYTES 4096
#define NO_CHUNK UINT32_MAX

static int told(const struct dump_store *store, int error, char *text) {
    snprintf(text, DUMP_TEXT_BYTES, "%s", store->text);
    return error;
}

int dump_pointer_get(struct dump_store *store, char *ret_pointer, size_t room,
                     char ret_path[DUMP_NAME_MAX], uint64_t *ret_seq, char *text) {
    struct dump_bytes bytes = {0};
    int error = dump_store_get(store, "latest", POINTER_MAX_BYTES, &bytes);
    if (error)
        (void)told(store, error, text);
    else if (bytes.count >= room || memchr(bytes.at, 0, bytes.count)) {
        snprintf(text, DUMP_TEXT_BYTES, "the pointer `latest` cannot be read");
        error = bytes.count >= room ? MRN_ERR_TOO_LARGE : MRN_ERR_CORRUPT;
    } else
        error = dump_pointer_read((const char *)bytes.at, bytes.count, ret_path, ret_seq, text);
    if (!error) {
        memcpy(ret_pointer, bytes.at, bytes.count);
        ret_pointer[bytes.count] = '\0';
    }
    dump_bytes_free(&bytes);
    return error;
}

int dump_latest(struct dump_store *store, char ret_path[DUMP_NAME_MAX], uint64_t *ret_seq,
                char *text) {
    char pointer[POINTER_MAX_BYTES];
    return dump_pointer_get(store, pointer, sizeof pointer, ret_path, ret_seq, text);
}

void dump_mark_get(struct dump_store *store, char ret_mark[DUMP_MARK_MAX], uint32_t *ret_node) {
    struct dump_bytes bytes = {0};
    char *end;
    ret_mark[0] = '\0';
    if (!dump_store_get(store, DUMP_MARK_NAME, DUMP_MARK_MAX - 1, &bytes) && bytes.count) {
        memcpy(ret_mark, bytes.at, bytes.count);
        ret_mark[bytes.count] = '\0';
        *ret_node = (uint32_t)strtoul(ret_mark, &end, 10);
        if (end == ret_mark)
            ret_mark[0] = '\0';
    }
    dump_bytes_free(&bytes);
}

void dump_mark_put(struct dump_store *store, uint32_t node, uint64_t incarnation, uint64_t beat) {
    struct dump_bytes bytes = {0};
    char text[DUMP_MARK_MAX];
    int length = snprintf(text, sizeof text, "%" PRIu32 " %" PRIu64 " %" PRIu64 "\n", node,
                          incarnation, beat);
    if (dump_bytes_add(&bytes, text, (size_t)length))
        (void)dump_store_put(store, DUMP_MARK_NAME, &bytes,
                             0); /* trouble is told by the next put */
}

int dump_manifest_take(const struct dump_key *key, const char *path,
                       const struct dump_bytes *object, struct dump_manifest *ret_manifest,
                       char *text) {
    struct dump_bytes payload = {0};
    struct wire_hash name;
    uint64_t seq;
    struct dump_manifest manifest;
    if (!dump_manifest_path_read(path, &seq, &name)) {
        snprintf(text, DUMP_TEXT_BYTES, "%.100s is not a manifest's name", path);
        return MRN_ERR_INVALID;
    }
    int error =
        dump_object_open(DUMP_MANIFEST, key, &name, object->at, object->count, &payload, text);
    if (!error)
        error = dump_manifest_decode(&payload, &manifest, text);
    if (!error && manifest.head.seq != seq) {
        snprintf(text, DUMP_TEXT_BYTES, "a manifest under another epoch's name");
        dump_manifest_free(&manifest);
        error = MRN_ERR_CORRUPT;
    }
    if (!error) {
        *ret_manifest = manifest;
        snprintf(ret_manifest->path, sizeof ret_manifest->path, "%s", path);
    }
    dump_bytes_free(&payload);
    return error;
}

int dump_manifest_get(struct dump_store *store, const struct dump_key *key, const char *path,
                      struct dump_manifest *ret_manifest, char *text) {
    struct dump_bytes object = {0};
    int error = dump_store_get(store, path, DUMP_MANIFEST_MAX_BYTES, &object);
    error = error ? told(store, error, text)
                  : dump_manifest_take(key, path, &object, ret_manifest, text);
    dump_bytes_free(&object);
    return error;
}

int dump_state_new(uint64_t page_count, struct dump_state *ret_state) {
    struct dump_page *pages = calloc(page_count, sizeof *pages);
    if (!pages)
        return MRN_ERR_NO_MEMORY;
    *ret_state = (struct dump_state){.page_count = page_count, .pages = pages};
    return 0;
}

void dump_state_free(struct dump_state *state) {
    dump_manifest_free(&state->manifest);
    free(state->pages);
    free(state->live);
    memset(state, 0, sizeof *state);
}

int dump_state_add(struct dump_state *state, const struct dump_chunk *chunk,
                   const struct dump_index_entry *entries) {
    uint32_t number = state->manifest.chunk_count, place = 0;
    uint32_t *live = realloc(state->live, (number + 1) * sizeof *live);
    if (!live)
        return MRN_ERR_NO_MEMORY;
    state->live = live;
    if (!dump_chunk_add(&state->manifest, chunk))
        return MRN_ERR_NO_MEMORY;
    live[number] = chunk->pages;
    for (uint64_t i = 0; i < (uint64_t)chunk->pages + chunk->zeros; i++) {
        struct dump_page *page = &state->pages[entries[i].page];
        if (!dump_page_hash_zero(&page->hash))
            live[page->chunk]--;
        bool zero = dump_page_hash_zero(&entries[i].hash);
        page->hash = entries[i].hash;
        page->chunk = zero ? NO_CHUNK : number;
        page->place = zero ? 0 : place++;
    }
    return 0;
}

/* ---- indexes, several at once ---- */

static int fetch_indexes(struct dump_store *store, const struct dump_manifest *manifest,
                         struct dump_got *fetched) {
    char(*paths)[DUMP_NAME_MAX] = calloc(manifest->chunk_count + 1, sizeof *paths);
    const char **names = calloc(manifest->chunk_count + 1, sizeof *names);
    uint64_t *most = calloc(manifest->chunk_count + 1, sizeof *most);
    int error = paths && names && most ? 0 : MRN_ERR_NO_MEMORY;
    for (uint32_t i = 0; !error && i < manifest->chunk_count; i++) {
        dump_object_path(DUMP_INDEX, &manifest->chunks[i].index, paths[i]);
        names[i] = paths[i];
        most[i] = manifest->chunks[i].index_bytes;
    }
    if (error)
        snprintf(store->text, sizeof store->text, "no memory");
    else
        error = dump_store_get_many(store, names, most, manifest->chunk_count, fetched);
    free(paths);
    free(names);
    free(most);
    return error;
}

static int take_indexes(const struct dump_key *key, const struct dump_manifest *manifest,
                        struct dump_got *fetched, struct dump_state *state, char *text) {
    struct dump_bytes payload = {0};
    int error = 0;
    for (uint32_t i = 0; !error && i < manifest->chunk_count; i++) {
        const struct dump_chunk *chunk = &manifest->chunks[i];
        const struct dump_index_entry *entries;
        error = dump_object_open(DUMP_INDEX, key, &chunk->index, fetched[i].bytes.at,
                                 fetched[i].bytes.count, &payload, text);
        if (!error)
            error = dump_index_decode(&payload, chunk->pages, chunk->zeros, state->page_count,
                                      &entries, text);
        if (!error)
            error = dump_state_add(state, chunk, entries);
    }
    dump_bytes_free(&payload);
    return error;
}

int dump_state_load(struct dump_store *store, const struct dump_key *key, const char *path,
                    struct dump_state *ret_state, char *text) {
    struct dump_manifest manifest;
    struct dump_state state = {0};
    int error = dump_manifest_get(store, key, path, &manifest, text);
    if (error)
        return error;
    struct dump_got *fetched = calloc(manifest.chunk_count + 1, sizeof *fetched);
    error = fetched ? dump_state_new(manifest.head.region_bytes / DUMP_PAGE_BYTES, &state)
                    : MRN_ERR_NO_MEMORY;
    if (!error && (error = fetch_indexes(store, &manifest, fetched)) != 0)
        (void)told(store, error, text);
    if (!error)
        error = take_indexes(key, &manifest, fetched, &state, text);
    for (uint32_t i = 0; fetched && i < manifest.chunk_count; i++)
        dump_bytes_free(&fetched[i].bytes);
    free(fetched);
    if (!error) {
        struct dump_chunk *chunks = state.manifest.chunks;
        uint32_t count = state.manifest.chunk_count, room = state.manifest.chunk_room;
        free(manifest.chunks);
        state.manifest = manifest;
        state.manifest.chunks = chunks;
        state.manifest.chunk_count = count;
        state.manifest.chunk_room = room;
        snprintf(state.path, sizeof state.path, "%s", path);
        *ret_state = state;
    } else {
        dump_manifest_free(&manifest);
        dump_state_free(&state);
    }
    return error;
}
