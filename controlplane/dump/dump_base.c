#include "controlplane/dump/dump_base.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "controlplane/dump/dump_check.h"
#include "controlplane/dump/dump_keep.h"
#include "maroon/error.h"

#define POINTER_ROOM 4096

static int other_cluster(char *text, const char *cluster, uint64_t configuration_id) {
    snprintf(text, DUMP_TEXT_BYTES,
             "the store holds dumps of another cluster (%.63s, configuration %016" PRIx64
             "): give each cluster a prefix of its own",
             cluster, configuration_id);
    return MRN_ERR_MISMATCH;
}

/* What the pointer alone says of a dump whose manifest cannot be read. */
static int take_pointer(const char *pointer, const char *cluster, struct dump_base *base,
                        char *text) {
    json_t *object = json_loads(pointer, JSON_REJECT_DUPLICATES, NULL);
    const char *hash = json_string_value(json_object_get(object, "epochHash"));
    const char *of = json_string_value(json_object_get(object, "cluster"));
    int error = of && strcmp(of, cluster) != 0 ? other_cluster(text, of, 0) : 0;
    if (!hash || !dump_name_of_text(hash, &base->epoch_hash))
        memset(&base->epoch_hash, 0, sizeof base->epoch_hash);
    json_decref(object);
    return error;
}

static bool is_damage(int error) {
    return error == MRN_ERR_CORRUPT || error == MRN_ERR_NOT_FOUND || error == MRN_ERR_TOO_LARGE;
}

static int take_manifest(const struct dump_manifest *manifest, const struct snapshot_head *head,
                         struct dump_base *base, char *text) {
    if (manifest->head.configuration_id != head->configuration_id)
        return other_cluster(text, manifest->cluster, manifest->head.configuration_id);
    base->epoch_hash = manifest->head.epoch_hash;
    return 0;
}

/* The state of the dump at `path`. A manifest that opened with our key shows that it is the right
 * one: an index that is DENIED is damaged. */
static int load(struct dump_store *store, const struct dump_key *key, const char *path,
                const char *pointer, const char *cluster, const struct snapshot_head *head,
                struct dump_state *state, struct dump_base *base, char *text) {
    struct dump_manifest manifest;
    dump_state_free(state);
    int error = dump_manifest_get(store, key, path, &manifest, text);
    if (error) {
        int mine = is_damage(error) ? take_pointer(pointer, cluster, base, text) : error;
        return mine ? mine : MRN_ERR_CORRUPT;
    }
    error = take_manifest(&manifest, head, base, text);
    dump_manifest_free(&manifest);
    if (error)
        return error;
    error = dump_state_load(store, key, path, state, text);
    return is_damage(error) || error == MRN_ERR_DENIED ? MRN_ERR_CORRUPT : error;
}

int dump_base_load(struct dump_store *store, const struct dump_key *key, const char *cluster,
                   const struct snapshot_head *head, uint32_t *check_next, struct dump_state *state,
                   struct dump_base *ret_base, char *text) {
    char path[DUMP_NAME_MAX], pointer[POINTER_ROOM];
    struct dump_base base = {0};
    uint64_t pages = head->region_bytes / DUMP_PAGE_BYTES;
    bool lost;
    int error = dump_newest(store, key, pointer, sizeof pointer, path, &base.seq, &lost, text);
    if (!error && lost) {
        store->lies++;
        snprintf(store->lie, sizeof store->lie, "the pointer `latest` cannot be read");
    }
    if (error == MRN_ERR_NOT_FOUND ||
        is_damage(error)) { /* nothing that could be read: from the beginning */
        dump_state_free(state);
        *ret_base = base;
        return dump_state_new(pages, state);
    }
    if (error)
        return error;
    base.there = true;
    (void)dump_manifest_path_read(path, &base.seq, &base.manifest);
    error = strcmp(path, state->path) == 0
                ? take_manifest(&state->manifest, head, &base, text)
                : load(store, key, path, pointer, cluster, head, state, &base, text);
    if (error && error != MRN_ERR_CORRUPT)
        return error;
    if (base.seq >= head->seq) {
        snprintf(text, DUMP_TEXT_BYTES, "a dump of this epoch or a later one is there");
        return MRN_ERR_EXISTS;
    }
    if (!error)
        error = dump_check(store, key, &state->manifest, check_next, text);
    if (error == MRN_ERR_CORRUPT) {
        store->lies++;
        memcpy(store->lie, text, sizeof store->lie);
    } else if (error) {
        return error;
    }
    *ret_base = base;
    if (!error && state->page_count == pages)
        return 0;
    dump_state_free(state);
    return dump_state_new(pages, state);
}
