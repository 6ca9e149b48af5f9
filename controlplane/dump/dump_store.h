/* dump_store: an object store for a thread that may wait: calls block, many transfers at once.
 *
 *   put --stored, or found there--> read back --the same bytes--> done
 *                                      '--other bytes, or none--> put again, at most twice
 *
 * A store that answers 200 has promised nothing yet: what a dump consists of is read back while its
 * bytes are still here, and compared with them.
 *
 * Threads: one, the opener's; *stop may be set by any and stays set: nothing runs any more then,
 * only dump_store_close is left. Errors: those of the object store, with its words in `text`;
 * CLOSED when stopped. After an error of a put nothing more is put until dump_store_wait has told
 * it. */
#ifndef MAROON_DUMP_STORE_H
#define MAROON_DUMP_STORE_H

#include <stdatomic.h>

#include "controlplane/dump/dump_object.h"
#include "controlplane/store/object_store.h"

#define DUMP_TRANSFERS 8

struct dump_put;

struct dump_store {
    struct loop *loop;
    struct http_client *http;
    struct object_store *store;
    const _Atomic bool *stop; /* NULL: never */
    struct dump_put *puts;
    uint32_t open;          /* puts and gets under way */
    uint64_t fresh_ms;      /* objects found there count when put within this time */
    uint64_t skipped_bytes; /* found there and not sent */
    uint64_t sent_bytes;
    uint64_t checked_bytes; /* read back and found the same */
    uint64_t lies;          /* read back and found missing or different; of `lie` the newest */
    int error;
    char text[DUMP_TEXT_BYTES], lie[DUMP_TEXT_BYTES];
};

/* 0, or INVALID, NO_MEMORY with words in store->text. */
int dump_store_open(struct dump_store *store, const struct object_store_config *config,
                    const _Atomic bool *stop);
void dump_store_close(struct dump_store *store);

enum dump_put_how {
    /* An object with the same bytes that was put lately is left as it is. One that is older is put
     * again, so that a prune, which spares young objects only, cannot take it away from a dump that
     * is not complete yet. */
    DUMP_PUT_SKIP = 1,
    /* Read back, also when it was skipped. CORRUPT when the store does not give it back. */
    DUMP_PUT_CHECK = 2,
};

/* Takes `bytes` over (freed, emptied) and starts to put it; blocks while DUMP_TRANSFERS are under
 * way. `how`: of enum dump_put_how. Returns the first error so far. */
int dump_store_put(struct dump_store *store, const char *name, struct dump_bytes *bytes,
                   unsigned how);
bool dump_store_stopped(const struct dump_store *store);
/* Until nothing is under way. Returns and forgets the first error; text stays. */
int dump_store_wait(struct dump_store *store);
/* Until fewer than `below` are under way, or stopped. */
void dump_store_drain(struct dump_store *store, uint32_t below);

/* Blocks. ret_bytes is emptied before. NOT_FOUND, TOO_LARGE, ... with words in store->text. */
int dump_store_get(struct dump_store *store, const char *name, uint64_t max_bytes,
                   struct dump_bytes *ret_bytes);
/* Many at once: names[i], of at most max_bytes[i], into got[i] (all zero at first; bytes are the
 * caller's then). Returns the first error, with words in store->text; the others come all the same
 * unless the store is not to be had. */
struct dump_got {
    struct dump_store *store;
    struct dump_bytes bytes;
    int error;
};
int dump_store_get_many(struct dump_store *store, const char *const *names,
                        const uint64_t *max_bytes, uint32_t count, struct dump_got *got);
int dump_store_list(struct dump_store *store, const char *prefix,
                    void (*each)(void *context, const struct object_store_entry *entry),
                    void *context);
int dump_store_remove(struct dump_store *store, const char *name);
int dump_store_clean(struct dump_store *store, uint64_t older_s);

#endif
