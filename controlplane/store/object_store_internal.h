/* object_store_internal: what the kinds of object stores share. */
#ifndef MAROON_OBJECT_STORE_INTERNAL_H
#define MAROON_OBJECT_STORE_INTERNAL_H

#include "controlplane/store/object_store.h"

#define OBJECT_TEXT_MAX 2048

struct object_store_kind {
    void (*close)(struct object_store *store);
    int (*put)(struct object_store *store, const char *name, const void *bytes, size_t count,
               bool skip_if_same, object_store_done done, void *context);
    int (*get)(struct object_store *store, const char *name, uint64_t max_bytes, bool checked,
               object_store_done done, void *context);
    int (*head)(struct object_store *store, const char *name, object_store_done done,
                void *context);
    int (*list)(struct object_store *store, const char *prefix,
                void (*each)(void *context, const struct object_store_entry *entry),
                object_store_done done, void *context);
    int (*remove)(struct object_store *store, const char *name, object_store_done done,
                  void *context);
    int (*clean)(struct object_store *store, uint64_t older_s, object_store_done done,
                 void *context);
};

/* The head of every kind's own struct. */
struct object_store {
    const struct object_store_kind *kind;
    struct loop *loop;
    char *url;
    struct object_store_counters counters;
    uint64_t upload_bytes_per_s;
    uint64_t upload_free_ns; /* of the loop's clock: when the next upload may begin */
};

/* Each makes its store, or returns MRN_ERR_INVALID (with a sentence) or MRN_ERR_NO_MEMORY. */
int object_store_dir_open(const struct object_store_config *config, struct object_store **ret_store,
                          char *ret_text, size_t text_room);
int s3_store_open(struct loop *loop, struct http_client *http,
                  const struct object_store_config *config, struct object_store **ret_store,
                  char *ret_text, size_t text_room);

/* Whether a name, or with `partial` the beginning of one ("" too), is allowed. */
bool object_store_name_valid(const char *name, bool partial);

/* When an upload of count bytes may begin at the set rate; it takes its share of the time. */
uint64_t object_store_upload_delay_ms(struct object_store *store, uint64_t count);

/* The end of a call: counts failures. */
void object_store_finish(struct object_store *store, object_store_done done, void *context,
                         struct object_store_answer *answer);

#endif
