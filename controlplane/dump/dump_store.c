#include "controlplane/dump/dump_store.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "maroon/error.h"

#define PASS_MS 50
#define FRESH_MS (30 * 60 * 1000)
#define PUTS_MAX 3 /* of one object that the store does not give back */

struct dump_put {
    struct dump_put *next, *previous;
    struct dump_store *store;
    struct dump_bytes bytes;
    unsigned how;
    uint32_t puts; /* so far */
    bool found;    /* it was there */
    char name[OBJECT_NAME_MAX];
};

struct call {
    bool done;
    int error;
    struct dump_store *store;
    struct dump_bytes *bytes;
};

int dump_store_open(struct dump_store *store, const struct object_store_config *config,
                    const _Atomic bool *stop) {
    memset(store, 0, sizeof *store);
    store->stop = stop;
    store->fresh_ms = FRESH_MS;
    store->loop = loop_create();
    store->http = store->loop ? http_client_create(store->loop) : NULL;
    int error = store->http ? object_store_open(store->loop, store->http, config, &store->store,
                                                store->text, sizeof store->text)
                            : MRN_ERR_NO_MEMORY;
    if (error)
        dump_store_close(store);
    return error;
}

static void put_free(struct dump_put *put) {
    if (put->next)
        put->next->previous = put->previous;
    if (put->previous)
        put->previous->next = put->next;
    else
        put->store->puts = put->next;
    dump_bytes_free(&put->bytes);
    free(put);
}

void dump_store_close(struct dump_store *store) {
    object_store_close(store->store);
    http_client_destroy(store->http);
    loop_destroy(store->loop);
    while (store->puts) {
        assert(!store->puts->previous);
        put_free(store->puts);
    }
    store->store = NULL;
    store->http = NULL;
    store->loop = NULL;
}

bool dump_store_stopped(const struct dump_store *store) {
    return store->stop && atomic_load(store->stop);
}

static void note(struct dump_store *store, int error, const char *text) {
    if (store->error)
        return;
    store->error = error;
    snprintf(store->text, sizeof store->text, "%s", text);
}

static bool is_fresh(const struct dump_store *store, uint64_t modified_ms) {
    return modified_ms + store->fresh_ms > (uint64_t)time(NULL) * 1000;
}

static void on_put(void *context, struct object_store_answer *answer);

/* Sends it, whatever is there. */
static void put_again(struct dump_put *put) {
    struct dump_store *store = put->store;
    if (object_store_put(store->store, put->name, put->bytes.at, put->bytes.count, false, on_put,
                         put) == 0) {
        store->open++;
        return;
    }
    note(store, MRN_ERR_NO_MEMORY, "no memory");
    put_free(put);
}

static void put_done(struct dump_put *put) {
    if (put->found)
        put->store->skipped_bytes += put->bytes.count;
    else
        put->store->sent_bytes += put->bytes.count;
    put_free(put);
}

/* What makes a store a liar, and not just one that cannot be had. */
static const char *lie_of(const struct dump_put *put, const struct object_store_answer *answer) {
    if (answer->error == MRN_ERR_NOT_FOUND)
        return "is not there, though the store had taken it";
    bool other = answer->error == MRN_ERR_CORRUPT || answer->error == MRN_ERR_TOO_LARGE;
    if (!answer->error)
        other = answer->size_bytes != put->bytes.count ||
                memcmp(answer->bytes, put->bytes.at, put->bytes.count) != 0;
    return other ? "comes back with other bytes than were put" : NULL;
}

static void on_back(void *context, struct object_store_answer *answer) {
    struct dump_put *put = context;
    struct dump_store *store = put->store;
    const char *lie = lie_of(put, answer);
    store->open--;
    if (!lie && !answer->error) {
        store->checked_bytes += put->bytes.count;
        put_done(put);
        return;
    }
    if (lie) {
        store->lies++;
        snprintf(store->lie, sizeof store->lie, "%.100s %s", put->name, lie);
        if (put->puts < PUTS_MAX && !store->error) {
            put->found = false;
            put_again(put);
            return;
        }
    }
    note(store, lie ? MRN_ERR_CORRUPT : answer->error, lie ? store->lie : answer->text);
    put_free(put);
}

static void on_put(void *context, struct object_store_answer *answer) {
    struct dump_put *put = context;
    struct dump_store *store = put->store;
    store->open--;
    put->found = answer->error == MRN_ERR_EXISTS;
    put->puts++;
    if (put->found && !is_fresh(store, answer->modified_ms)) {
        put->puts--;
        put_again(put);
    } else if (answer->error && !put->found) {
        note(store, answer->error, answer->text);
        put_free(put);
    } else if (!(put->how & DUMP_PUT_CHECK)) {
        put_done(put);
    } else if (object_store_get(store->store, put->name, put->bytes.count, on_back, put) == 0) {
        store->open++;
    } else {
        note(store, MRN_ERR_NO_MEMORY, "no memory");
        put_free(put);
    }
}

void dump_store_drain(struct dump_store *store, uint32_t below) {
    while (store->open >= below && store->open && !dump_store_stopped(store))
        loop_run_once(store->loop, PASS_MS);
    if (dump_store_stopped(store))
        note(store, MRN_ERR_CLOSED, "stopped");
}

int dump_store_put(struct dump_store *store, const char *name, struct dump_bytes *bytes,
                   unsigned how) {
    dump_store_drain(store, DUMP_TRANSFERS);
    struct dump_put *put = store->error ? NULL : calloc(1, sizeof *put);
    if (!put) {
        note(store, MRN_ERR_NO_MEMORY, "no memory");
        dump_bytes_free(bytes);
        return store->error;
    }
    put->store = store;
    put->how = how;
    put->bytes = *bytes;
    *bytes = (struct dump_bytes){0};
    snprintf(put->name, sizeof put->name, "%s", name);
    put->next = store->puts;
    if (put->next)
        put->next->previous = put;
    store->puts = put;
    int error = object_store_put(store->store, name, put->bytes.at, put->bytes.count,
                                 (how & DUMP_PUT_SKIP) != 0, on_put, put);
    if (error) {
        note(store, error, mrn_error_text(error));
        put_free(put);
    } else {
        store->open++;
    }
    return store->error;
}

int dump_store_wait(struct dump_store *store) {
    dump_store_drain(store, 1);
    int error = store->error;
    store->error = 0;
    return error;
}

static int finish(struct dump_store *store, struct call *call, int error) {
    while (!error && !call->done && !dump_store_stopped(store))
        loop_run_once(store->loop, PASS_MS);
    if (error)
        snprintf(store->text, sizeof store->text, "%s", mrn_error_text(error));
    else if (!call->done) {
        error = MRN_ERR_CLOSED; /* the store is closed next, and forgets the call */
        snprintf(store->text, sizeof store->text, "stopped");
    } else {
        error = call->error;
    }
    return error;
}

static void on_done(void *context, struct object_store_answer *answer) {
    struct call *call = context;
    call->done = true;
    call->error = answer->error;
    if (answer->error)
        snprintf(call->store->text, sizeof call->store->text, "%s", answer->text);
    if (call->bytes && !answer->error) {
        dump_bytes_free(call->bytes);
        *call->bytes = (struct dump_bytes){answer->bytes, answer->size_bytes, answer->size_bytes};
        answer->bytes = NULL;
    }
}

int dump_store_get(struct dump_store *store, const char *name, uint64_t max_bytes,
                   struct dump_bytes *ret_bytes) {
    struct call call = {.store = store, .bytes = ret_bytes};
    return finish(store, &call, object_store_get(store->store, name, max_bytes, on_done, &call));
}

static void on_got(void *context, struct object_store_answer *answer) {
    struct dump_got *got = context;
    struct dump_store *store = got->store;
    store->open--;
    got->error = answer->error;
    if (answer->error) {
        note(store, answer->error, answer->text);
        return;
    }
    got->bytes = (struct dump_bytes){answer->bytes, answer->size_bytes, answer->size_bytes};
    answer->bytes = NULL;
}

int dump_store_get_many(struct dump_store *store, const char *const *names,
                        const uint64_t *max_bytes, uint32_t count, struct dump_got *got) {
    for (uint32_t i = 0; i < count; i++) {
        bool usual = store->error == 0 || store->error == MRN_ERR_NOT_FOUND ||
                     store->error == MRN_ERR_CORRUPT;
        got[i] = (struct dump_got){.store = store, .error = MRN_ERR_UNAVAILABLE};
        if (!usual)
            continue;
        dump_store_drain(store, DUMP_TRANSFERS);
        int error = object_store_get(store->store, names[i], max_bytes[i], on_got, &got[i]);
        if (error)
            note(store, error, mrn_error_text(error));
        else
            store->open++;
    }
    return dump_store_wait(store);
}

struct list_call {
    struct call call; /* first: on_done takes it */
    void (*each)(void *context, const struct object_store_entry *entry);
    void *context;
};

static void on_entry(void *context, const struct object_store_entry *entry) {
    struct list_call *list = context;
    list->each(list->context, entry);
}

int dump_store_list(struct dump_store *store, const char *prefix,
                    void (*each)(void *context, const struct object_store_entry *entry),
                    void *context) {
    struct list_call list = {.call.store = store, .each = each, .context = context};
    return finish(store, &list.call,
                  object_store_list(store->store, prefix, on_entry, on_done, &list));
}

int dump_store_remove(struct dump_store *store, const char *name) {
    struct call call = {.store = store};
    return finish(store, &call, object_store_remove(store->store, name, on_done, &call));
}

int dump_store_clean(struct dump_store *store, uint64_t older_s) {
    struct call call = {.store = store};
    return finish(store, &call, object_store_clean(store->store, older_s, on_done, &call));
}
