#include "controlplane/dump/dump_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "maroon/error.h"

struct part { /* of the dump, by name */
    struct wire_hash name;
    enum dump_kind kind;
    uint64_t size_bytes;
    bool found;
};

struct parts {
    struct part *parts;
    size_t count;
};

static int compare(const void *left, const void *right) {
    const struct part *a = left, *b = right;
    int by_name = memcmp(&a->name, &b->name, sizeof a->name);
    return by_name ? by_name : (int)a->kind - (int)b->kind;
}

static int collect(const struct dump_manifest *manifest, struct parts *parts) {
    parts->parts = calloc(2 * (size_t)manifest->chunk_count + 1, sizeof *parts->parts);
    if (!parts->parts)
        return MRN_ERR_NO_MEMORY;
    for (uint32_t i = 0; i < manifest->chunk_count; i++) {
        const struct dump_chunk *chunk = &manifest->chunks[i];
        parts->parts[parts->count++] =
            (struct part){chunk->name, DUMP_CHUNK, chunk->chunk_bytes, false};
        parts->parts[parts->count++] =
            (struct part){chunk->index, DUMP_INDEX, chunk->index_bytes, false};
    }
    if (parts->count)
        qsort(parts->parts, parts->count, sizeof *parts->parts, compare);
    return 0;
}

/* "chunks/ab/<64 hex digits>": what follows the last '/' names the object. */
static void on_listed(void *context, const struct object_store_entry *entry) {
    struct parts *parts = context;
    const char *last = strrchr(entry->name, '/');
    struct part wanted = {0};
    if (!last || !dump_name_of_text(last + 1, &wanted.name))
        return;
    for (wanted.kind = DUMP_CHUNK; wanted.kind <= DUMP_INDEX; wanted.kind++) {
        const char *folder = dump_kind_folder(wanted.kind);
        struct part *part = NULL;
        if (strncmp(entry->name, folder, strlen(folder)) == 0 && parts->count)
            part = bsearch(&wanted, parts->parts, parts->count, sizeof *parts->parts, compare);
        if (!part)
            continue;
        /* Two chunks of one content are one object, and neighbours here. */
        while (part > parts->parts && compare(part - 1, &wanted) == 0)
            part--;
        for (; part < parts->parts + parts->count && compare(part, &wanted) == 0; part++)
            part->found = part->size_bytes == entry->size_bytes;
    }
}

static int check_lists(struct dump_store *store, const struct dump_manifest *manifest, char *text) {
    struct parts parts = {0};
    int error = collect(manifest, &parts);
    for (enum dump_kind kind = DUMP_CHUNK; !error && kind <= DUMP_INDEX; kind++) {
        char prefix[DUMP_NAME_MAX];
        snprintf(prefix, sizeof prefix, "%s/", dump_kind_folder(kind));
        error = dump_store_list(store, prefix, on_listed, &parts);
        if (error)
            snprintf(text, DUMP_TEXT_BYTES, "%s", store->text);
    }
    for (size_t i = 0; !error && i < parts.count; i++)
        if (!parts.parts[i].found) {
            char path[DUMP_NAME_MAX];
            dump_object_path(parts.parts[i].kind, &parts.parts[i].name, path);
            snprintf(text, DUMP_TEXT_BYTES, "%.100s, of the newest dump, is gone or cut short",
                     path);
            error = MRN_ERR_CORRUPT;
        }
    free(parts.parts);
    return error;
}

static int check_chunk(struct dump_store *store, const struct dump_key *key,
                       const struct dump_chunk *chunk, char *text) {
    struct dump_bytes object = {0}, payload = {0};
    char path[DUMP_NAME_MAX], why[DUMP_TEXT_BYTES] = "";
    dump_object_path(DUMP_CHUNK, &chunk->name, path);
    int error = dump_store_get(store, path, chunk->chunk_bytes, &object);
    if (error)
        snprintf(why, sizeof why, "%s", store->text);
    else
        error =
            dump_object_open(DUMP_CHUNK, key, &chunk->name, object.at, object.count, &payload, why);
    bool had = object.count > 0;
    bool damaged = error == MRN_ERR_CORRUPT || error == MRN_ERR_NOT_FOUND ||
                   error == MRN_ERR_TOO_LARGE || (had && error == MRN_ERR_DENIED);
    if (!error)
        store->checked_bytes += object.count;
    else if (damaged)
        snprintf(text, DUMP_TEXT_BYTES, "%.100s, of the newest dump: %.150s", path, why);
    else
        snprintf(text, DUMP_TEXT_BYTES, "%s", why);
    dump_bytes_free(&object);
    dump_bytes_free(&payload);
    return damaged ? MRN_ERR_CORRUPT : error;
}

int dump_check(struct dump_store *store, const struct dump_key *key,
               const struct dump_manifest *manifest, uint32_t *next, char *text) {
    int error = check_lists(store, manifest, text);
    for (uint32_t i = 0; !error && i < DUMP_CHECK_CHUNKS && i < manifest->chunk_count; i++) {
        if (*next >= manifest->chunk_count)
            *next = 0;
        error = check_chunk(store, key, &manifest->chunks[(*next)++], text);
    }
    return error;
}
