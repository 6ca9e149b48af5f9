#include "controlplane/dump/dump_keep.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "maroon/error.h"

struct found { /* objects, in the order of the listing */
    struct object {
        struct wire_hash name;
        enum dump_kind kind;
        uint64_t size_bytes, modified_ms;
    } * objects;
    size_t count, room;
    struct dump_listed *listed;
    uint32_t listed_count, listed_room;
    bool no_memory;
};

static void on_manifest(void *context, const struct object_store_entry *entry) {
    struct found *found = context;
    struct dump_listed listed = {.modified_ms = entry->modified_ms};
    struct wire_hash name;
    if (!dump_manifest_path_read(entry->name, &listed.seq, &name))
        return;
    snprintf(listed.path, sizeof listed.path, "%.127s", entry->name);
    if (found->listed_count == found->listed_room) {
        uint32_t room = found->listed_room ? 2 * found->listed_room : 64;
        struct dump_listed *grown = realloc(found->listed, room * sizeof *grown);
        if (!grown) {
            found->no_memory = true;
            return;
        }
        found->listed = grown;
        found->listed_room = room;
    }
    found->listed[found->listed_count++] = listed;
}

static int compare_listed(const void *left, const void *right) {
    const struct dump_listed *a = left, *b = right;
    if (a->seq != b->seq)
        return a->seq < b->seq ? -1 : 1;
    return strcmp(a->path, b->path);
}

int dump_list(struct dump_store *store, struct dump_listed **ret_list, uint32_t *ret_count,
              char *text) {
    struct found found = {0};
    char prefix[DUMP_NAME_MAX];
    snprintf(prefix, sizeof prefix, "%s/", dump_kind_folder(DUMP_MANIFEST));
    int error = dump_store_list(store, prefix, on_manifest, &found);
    if (!error && found.no_memory)
        error = MRN_ERR_NO_MEMORY;
    if (error) {
        snprintf(text, DUMP_TEXT_BYTES, "%s", store->text);
        free(found.listed);
        return error;
    }
    if (found.listed_count)
        qsort(found.listed, found.listed_count, sizeof *found.listed, compare_listed);
    *ret_list = found.listed;
    *ret_count = found.listed_count;
    return 0;
}

int dump_newest(struct dump_store *store, const struct dump_key *key, char *ret_pointer,
                size_t room, char ret_path[DUMP_NAME_MAX], uint64_t *ret_seq, bool *ret_lost,
                char *text) {
    struct dump_listed *list = NULL;
    struct dump_manifest manifest;
    uint32_t count = 0;
    char none[DUMP_TEXT_BYTES];
    int error = dump_pointer_get(store, ret_pointer, room, ret_path, ret_seq, text);
    *ret_lost = false;
    if (error != MRN_ERR_NOT_FOUND && error != MRN_ERR_CORRUPT && error != MRN_ERR_TOO_LARGE)
        return error;
    bool unreadable = error != MRN_ERR_NOT_FOUND;
    int listed = dump_list(store, &list, &count, text);
    if (listed)
        return listed;
    error = count ? error : MRN_ERR_NOT_FOUND;
    while (count--) {
        if (dump_manifest_get(store, key, list[count].path, &manifest, none))
            continue;
        char *pointer = dump_pointer_text(&manifest, list[count].path);
        bool fits = pointer && strlen(pointer) < room;
        if (fits) {
            memcpy(ret_pointer, pointer, strlen(pointer) + 1);
            snprintf(ret_path, DUMP_NAME_MAX, "%s", list[count].path);
            *ret_seq = manifest.head.seq;
        }
        error = fits ? 0 : MRN_ERR_NO_MEMORY;
        *ret_lost = unreadable;
        free(pointer);
        dump_manifest_free(&manifest);
        break;
    }
    free(list);
    return error;
}

/* ---- pruning ---- */

struct names {
    struct wire_hash *names;
    size_t count, room;
};

static int compare_names(const void *left, const void *right) {
    return memcmp(left, right, sizeof(struct wire_hash));
}

static bool names_add(struct names *names, const struct wire_hash *name) {
    if (names->count == names->room) {
        size_t room = names->room ? 2 * names->room : 1024;
        struct wire_hash *grown = realloc(names->names, room * sizeof *grown);
        if (!grown)
            return false;
        names->names = grown;
        names->room = room;
    }
    names->names[names->count++] = *name;
    return true;
}

static int use_manifest(struct dump_store *store, const struct dump_key *key, const char *path,
                        struct names *used, char *text) {
    struct dump_manifest manifest;
    int error = dump_manifest_get(store, key, path, &manifest, text);
    if (error)
        return error;
    bool kept = true;
    for (uint32_t i = 0; kept && i < manifest.chunk_count; i++)
        kept =
            names_add(used, &manifest.chunks[i].name) && names_add(used, &manifest.chunks[i].index);
    for (uint32_t i = 0; kept && i < manifest.stretch_count; i++)
        kept = names_add(used, &manifest.stretches[i].name);
    dump_manifest_free(&manifest);
    return kept ? 0 : MRN_ERR_NO_MEMORY;
}

static void on_object(void *context, const struct object_store_entry *entry) {
    struct found *found = context;
    static const enum dump_kind kinds[] = {DUMP_CHUNK, DUMP_INDEX, DUMP_STRETCH};
    struct object object = {.size_bytes = entry->size_bytes, .modified_ms = entry->modified_ms};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const char *folder = dump_kind_folder(kinds[i]);
        size_t skip = strlen(folder);
        if (strncmp(entry->name, folder, skip) == 0 && strlen(entry->name) == skip + 68 &&
            dump_name_of_text(entry->name + skip + 4, &object.name))
            object.kind = kinds[i];
    }
    if (!object.kind)
        return;
    if (found->count == found->room) {
        size_t room = found->room ? 2 * found->room : 1024;
        struct object *grown = realloc(found->objects, room * sizeof *grown);
        if (!grown) {
            found->no_memory = true;
            return;
        }
        found->objects = grown;
        found->room = room;
    }
    found->objects[found->count++] = object;
}

static int list_objects(struct dump_store *store, struct found *found) {
    static const enum dump_kind kinds[] = {DUMP_CHUNK, DUMP_INDEX, DUMP_STRETCH};
    int error = 0;
    for (size_t i = 0; !error && i < sizeof kinds / sizeof kinds[0]; i++) {
        char prefix[DUMP_NAME_MAX];
        snprintf(prefix, sizeof prefix, "%s/", dump_kind_folder(kinds[i]));
        error = dump_store_list(store, prefix, on_object, found);
    }
    return !error && found->no_memory ? MRN_ERR_NO_MEMORY : error;
}

static int remove_unused(struct dump_store *store, const struct found *found,
                         const struct names *used, uint64_t grace_s, struct dump_pruned *pruned) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t now_ms = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    for (size_t i = 0; i < found->count; i++) {
        const struct object *object = &found->objects[i];
        char path[DUMP_NAME_MAX];
        if (used->count &&
            bsearch(&object->name, used->names, used->count, sizeof *used->names, compare_names))
            continue;
        if (object->modified_ms + grace_s * 1000 > now_ms) {
            pruned->young++;
            continue;
        }
        dump_object_path(object->kind, &object->name, path);
        int error = dump_store_remove(store, path);
        if (error)
            return error;
        pruned->objects++;
        pruned->bytes += object->size_bytes;
    }
    int error =
        dump_store_remove(store, DUMP_MARK_NAME); /* a dump that is under way makes it again */
    if (!error)
        error = dump_store_clean(store, grace_s);
    return error == MRN_ERR_UNSUPPORTED ? 0 : error; /* a store without such a list has none */
}

int dump_prune(struct dump_store *store, const struct dump_key *key, uint32_t keep,
               uint64_t grace_s, const char *named, struct dump_pruned *ret_pruned, char *text) {
    struct dump_listed *list = NULL;
    struct found found = {0};
    struct names used = {0};
    struct dump_pruned pruned = {0};
    uint32_t count = 0;
    char latest[DUMP_NAME_MAX] = "";
    uint64_t seq;
    bool words = true;
    int error = dump_latest(store, latest, &seq, text);
    if (!error || error == MRN_ERR_NOT_FOUND)
        error = dump_list(store, &list, &count, text);
    /* Of two dumps of one epoch the one that is pointed to is the newer. */
    for (uint32_t i = 0; !error && i + 1 < count; i++)
        if (strcmp(list[i].path, latest) == 0 && list[i + 1].seq == list[i].seq) {
            struct dump_listed swapped = list[i];
            list[i] = list[i + 1];
            list[i + 1] = swapped;
        }
    uint32_t old = count > keep ? count - keep : 0;
    for (uint32_t i = 0; !error && i < count; i++)
        if (i >= old || strcmp(list[i].path, latest) == 0 || strcmp(list[i].path, named) == 0)
            error = use_manifest(store, key, list[i].path, &used, text);
    if (!error) {
        if (used.count)
            qsort(used.names, used.count, sizeof *used.names, compare_names);
        words = false;
        error = list_objects(store, &found);
    }
    for (uint32_t i = 0; !error && i < old; i++)
        if (strcmp(list[i].path, latest) != 0 && strcmp(list[i].path, named) != 0) {
            error = dump_store_remove(store, list[i].path);
            pruned.manifests += !error;
        }
    if (!error)
        error = remove_unused(store, &found, &used, grace_s, &pruned);
    if (error && !words)
        snprintf(text, DUMP_TEXT_BYTES, "%s", store->text);
    if (!error)
        *ret_pruned = pruned;
    free(list);
    free(found.objects);
    free(used.names);
    return error;
}
