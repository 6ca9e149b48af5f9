/* object_store: immutable objects under names, in S3 (s3://bucket/prefix) or a directory
 * (dir:/path).
 *
 *   open --> { put, get, head, list, remove, clean }* --> close
 *
 * An object is whole or absent: a reader never sees a part of one, as far as the store keeps that
 * promise (S3 does). What a get of s3 hands over has been compared with the hash taken when it was
 * put, which travels as the object's metadata; dir trusts its disk. Broken connections, 5xx answers
 * and "slow down" are tried again with a growing, random pause; what is left then is an error with
 * a sentence that says what is wrong and, where it can be known, what to do. One failed call says
 * nothing about the next: a store that was away is simply asked again.
 *
 * Names: relative to the URL's prefix; [A-Za-z0-9._-] in parts joined by single '/', no part begins
 * with '.', at most OBJECT_NAME_MAX - 1 bytes.
 * Threads: everything happens on the loop's thread. `dir` reads and writes files there, blocking,
 * so the loop must be one that may wait (the dump thread's; never the control thread's). `s3` never
 * blocks, apart from reading the credentials file. Any number of calls may be open at once; at most
 * `transfers_max` requests are on the way, the others wait their turn.
 * Calls: `done` is called exactly once and never before the call that started it has returned; a
 * call that returns an error calls nothing. `done` may start other calls, not close the store.
 * Errors (of `done`, besides those named at the calls):
 *   UNAVAILABLE  cannot be reached, broken connections or 5xx after all retries
 *   TIMEOUT      a transfer made no progress, after all retries
 *   THROTTLED    asks to slow down, after all retries
 *   DENIED       wrong, missing or expired credentials, or no right to do this
 *   NO_STORE     the bucket or directory does not exist
 *   NO_SPACE     the bucket's quota or the disk is full
 *   CORRUPT      the bytes that came do not fit their hash, after all retries
 *   MALFORMED    an answer that no S3 gives
 *   IO, NO_MEMORY */
#ifndef MAROON_OBJECT_STORE_H
#define MAROON_OBJECT_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "controlplane/http_client.h"
#include "controlplane/loop.h"

#define OBJECT_NAME_MAX 512

struct object_store;

/* All zero, with a url, is a sensible config. Strings may be NULL or "" (not set); all are copied.
 */
struct object_store_config {
    const char *url;              /* s3://BUCKET[/PREFIX] or dir:/PATH */
    const char *endpoint;         /* http(s)://HOST[:PORT]; "": AWS in `region` */
    const char *region;           /* "": AWS_REGION, AWS_DEFAULT_REGION, else us-east-1 */
    bool path_style;              /* http://HOST/BUCKET/KEY, not http://BUCKET.HOST/KEY; always so
                                     when the endpoint is an IP address or "localhost" */
    const char *credentials_file; /* INI as the AWS tools write it; "": AWS_ACCESS_KEY_ID and
                                     AWS_SECRET_ACCESS_KEY (AWS_SESSION_TOKEN) of the environment,
                                     then `metadata_url`, then ~/.aws/credentials */
    const char *profile;          /* section of that file; "": AWS_PROFILE, else "default" */
    const char *metadata_url;    /* http://HOST[:PORT] of the instance metadata service; "": none */
    const char *ca_file;         /* "": the system's */
    uint64_t upload_bytes_per_s; /* over all uploads together; 0: no limit */
    uint32_t transfers_max;      /* 0: 16 */
    uint32_t part_bytes;         /* larger objects go up in parts of this size, which S3 wants to be
                                    at least 5 MiB; 0: 8 MiB */
    uint32_t tries_max;          /* of one request; 0: 6 */
    uint32_t retry_first_ms;     /* pause after the first failure, doubled with each; 0: 200 */
    uint32_t retry_max_ms;       /* longest pause; 0: 10000 */
    uint32_t stall_timeout_s;    /* a transfer without progress this long is broken; 0: 15 */
};

struct object_store_counters {
    uint64_t requests; /* sent, retries included; dir: operations */
    uint64_t retries;
    uint64_t failures;  /* calls that ended with an error other than NOT_FOUND and EXISTS */
    uint64_t throttled; /* answers that asked to slow down */
    uint64_t corrupt;   /* transfers whose bytes did not fit their hash */
    uint64_t uploaded_bytes, downloaded_bytes; /* of objects; each try counts */
    uint64_t parts_resumed;                    /* parts found uploaded by an earlier, broken put */
    uint32_t waiting; /* requests not yet sent, or pausing before a retry */
};

struct object_store_answer {
    int error;        /* 0 or MRN_ERR_... */
    const char *text; /* a sentence about the error; "" when there is none */
    /* get: the object, `size_bytes` long, malloc'ed. Who wants to keep it sets it to NULL here and
     * calls free() later. */
    uint8_t *bytes;
    uint64_t size_bytes;  /* put, get, head: of the object */
    uint64_t modified_ms; /* head, and put with EXISTS: Unix time; 0: not told */
};

typedef void (*object_store_done)(void *context, struct object_store_answer *answer);

struct object_store_entry {
    const char *name;
    uint64_t size_bytes;
    uint64_t modified_ms; /* Unix time */
};

/* Opens; nothing is sent and no directory is touched yet. Returns 0 with *ret_store, or
 * MRN_ERR_INVALID, MRN_ERR_NO_MEMORY with a sentence in ret_text. `http` may be NULL for dir. */
int object_store_open(struct loop *loop, struct http_client *http,
                      const struct object_store_config *config, struct object_store **ret_store,
                      char *ret_text, size_t text_room);
/* Ends open calls without `done`. An upload in parts stays unfinished on the server, to be resumed
 * by the next put of the same name and bytes, or ended by `clean`. */
void object_store_close(struct object_store *store);

/* Stores count bytes, which stay the caller's and must not change before `done`; a mapped file
 * does. Replaces what was there. With `skip_if_same` nothing is sent when an object of this size
 * and hash is there already: EXISTS. What is there and differs (the half object of a store that is
 * not atomic) is replaced. An object larger than part_bytes goes up in parts; parts of an earlier
 * unfinished put with the same bytes are not sent again.
 * Returns 0, MRN_ERR_INVALID (name), MRN_ERR_NO_MEMORY; so do the others. */
int object_store_put(struct object_store *store, const char *name, const void *bytes, size_t count,
                     bool skip_if_same, object_store_done done, void *context);

/* The whole object. Errors: NOT_FOUND; TOO_LARGE above max_bytes. A download that breaks goes on
 * where it broke. */
int object_store_get(struct object_store *store, const char *name, uint64_t max_bytes,
                     object_store_done done, void *context);

/* The same, but s3 does not compare what came with its hash: for who checks it in any case. When
 * that finds it wrong, object_store_get tries as often as is worth it. */
int object_store_get_unchecked(struct object_store *store, const char *name, uint64_t max_bytes,
                               object_store_done done, void *context);

/* Size and time alone. NOT_FOUND also when an S3 bucket is missing: its answer does not tell. */
int object_store_head(struct object_store *store, const char *name, object_store_done done,
                      void *context);

/* Calls `each` for every object whose name begins with `prefix` ("" for all), before `done`, in
 * no particular order. */
int object_store_list(struct object_store *store, const char *prefix,
                      void (*each)(void *context, const struct object_store_entry *entry),
                      object_store_done done, void *context);

/* No error when there is none. */
int object_store_remove(struct object_store *store, const char *name, object_store_done done,
                        void *context);

/* Ends unfinished uploads (s3) and removes temporary files (dir) below the prefix of the URL that
 * began more than older_s ago: what killed writers left. */
int object_store_clean(struct object_store *store, uint64_t older_s, object_store_done done,
                       void *context);

const struct object_store_counters *object_store_counters(const struct object_store *store);
#endif
