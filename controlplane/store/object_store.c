#include "controlplane/store/object_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/store/object_store_internal.h"
#include "maroon/error.h"

bool object_store_name_valid(const char *name, bool partial) {
    if (strlen(name) >= OBJECT_NAME_MAX)
        return false;
    bool part_begins = true;
    for (; *name; name++) {
        bool plain = (*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
                     (*name >= '0' && *name <= '9') || *name == '_' || *name == '-' ||
                     (*name == '.' && !part_begins) || (*name == '/' && !part_begins);
        if (!plain)
            return false;
        part_begins = *name == '/';
    }
    return partial || !part_begins;
}

uint64_t object_store_upload_delay_ms(struct object_store *store, uint64_t count) {
    if (!store->upload_bytes_per_s)
        return 0;
    uint64_t now_ns = loop_now_ns(store->loop);
    uint64_t begin_ns = store->upload_free_ns > now_ns ? store->upload_free_ns : now_ns;
    double seconds = (double)count / (double)store->upload_bytes_per_s;
    store->upload_free_ns = begin_ns + (uint64_t)(seconds * 1e9);
    return (begin_ns - now_ns) / 1000000;
}

void object_store_finish(struct object_store *store, object_store_done done, void *context,
                         struct object_store_answer *answer) {
    if (answer->error && answer->error != MRN_ERR_NOT_FOUND && answer->error != MRN_ERR_EXISTS)
        store->counters.failures++;
    if (!answer->text)
        answer->text = "";
    done(context, answer);
}

int object_store_open(struct loop *loop, struct http_client *http,
                      const struct object_store_config *config, struct object_store **ret_store,
                      char *ret_text, size_t text_room) {
    const char *url = config->url ? config->url : "";
    struct object_store *store = NULL;
    int error;
    if (strncmp(url, "dir:", 4) == 0) {
        error = object_store_dir_open(config, &store, ret_text, text_room);
    } else if (strncmp(url, "s3://", 5) == 0) {
        error = s3_store_open(loop, http, config, &store, ret_text, text_room);
    } else {
        snprintf(ret_text, text_room,
                 "store URL \"%.200s\" is neither s3://BUCKET/PREFIX nor dir:/PATH", url);
        return MRN_ERR_INVALID;
    }
    if (!error)
        store->loop = loop;
    if (!error && !(store->url = strdup(url))) {
        object_store_close(store);
        error = MRN_ERR_NO_MEMORY;
    }
    if (error) {
        if (error == MRN_ERR_NO_MEMORY)
            snprintf(ret_text, text_room, "no memory for the object store");
        return error;
    }
    store->upload_bytes_per_s = config->upload_bytes_per_s;
    *ret_store = store;
    return 0;
}

void object_store_close(struct object_store *store) {
    if (!store)
        return;
    free(store->url);
    store->kind->close(store);
}

int object_store_put(struct object_store *store, const char *name, const void *bytes, size_t count,
                     bool skip_if_same, object_store_done done, void *context) {
    if (!object_store_name_valid(name, false))
        return MRN_ERR_INVALID;
    return store->kind->put(store, name, bytes, count, skip_if_same, done, context);
}

int object_store_get(struct object_store *store, const char *name, uint64_t max_bytes,
                     object_store_done done, void *context) {
    if (!object_store_name_valid(name, false))
        return MRN_ERR_INVALID;
    return store->kind->get(store, name, max_bytes, true, done, context);
}

int object_store_get_unchecked(struct object_store *store, const char *name, uint64_t max_bytes,
                               object_store_done done, void *context) {
    if (!object_store_name_valid(name, false))
        return MRN_ERR_INVALID;
    return store->kind->get(store, name, max_bytes, false, done, context);
}

int object_store_head(struct object_store *store, const char *name, object_store_done done,
                      void *context) {
    if (!object_store_name_valid(name, false))
        return MRN_ERR_INVALID;
    return store->kind->head(store, name, done, context);
}

int object_store_list(struct object_store *store, const char *prefix,
                      void (*each)(void *context, const struct object_store_entry *entry),
                      object_store_done done, void *context) {
    if (!object_store_name_valid(prefix, true))
        return MRN_ERR_INVALID;
    return store->kind->list(store, prefix, each, done, context);
}

int object_store_remove(struct object_store *store, const char *name, object_store_done done,
                        void *context) {
    if (!object_store_name_valid(name, false))
        return MRN_ERR_INVALID;
    return store->kind->remove(store, name, done, context);
}

int object_store_clean(struct object_store *store, uint64_t older_s, object_store_done done,
                       void *context) {
    return store->kind->clean(store, older_s, done, context);
}

const struct object_store_counters *object_store_counters(const struct object_store *store) {
    return &store->counters;
}
