/* etcd: a client of etcd's HTTP/JSON gateway (/v3), non-blocking, driven by a loop.
 *
 *   etcd_range, etcd_put, etcd_txn, etcd_lease_* --> done(answer), exactly once
 *   etcd_watch --> changes ... --> compacted (the watch is over: read, then watch anew)
 *                      \-- connection lost, member without quorum: resumed by itself elsewhere
 *
 * Vocabulary
 *   unknown outcome   a write that was sent and not answered: it may have been applied, or be
 *                     applied later. Told as MRN_ERR_UNKNOWN_OUTCOME. Besides, a request may reach
 *                     etcd twice (libcurl repeats it on a fresh connection when a kept one died).
 *                     So writers compare, put a token of their own, and read it back in `failure`.
 *   endpoint          one member's client URL. A failed call moves the client on to the next.
 *
 * Threads: the loop's. Ownership: arguments are used before a call returns; answers and changes
 * belong to the client until the callback returns. Callbacks never run before the call returns.
 * Limits: answers up to 8 MiB, a change up to 4 MiB. Whatever does not follow the format is an
 * error (MRN_ERR_MALFORMED for reads, unknown outcome for writes), never a crash. */
#ifndef MAROON_ETCD_H
#define MAROON_ETCD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "controlplane/http_client.h"
#include "controlplane/loop.h"

#define ETCD_ENDPOINTS_MAX 8
#define ETCD_KEY_MAX 255
#define ETCD_BUCKETS 40 /* of latency, bucket i: values of bit length i, in us */

struct etcd;

struct etcd_config {
    const char *endpoints;                             /* "http://a:2379,http://b:2379" */
    const char *ca_file, *certificate_file, *key_file; /* NULL or "" when not used */
    const char *user, *password;
    uint32_t timeout_ms;     /* of one call; 0: 2 s */
    uint32_t backoff_max_ms; /* keep it below a third of the lease; 0: 1 s */
};

struct etcd_kv {
    char key[ETCD_KEY_MAX + 1];
    const char *value; /* NUL-terminated after value_bytes; may hold NULs */
    size_t value_bytes;
    uint64_t create_revision, mod_revision, version, lease;
};

enum etcd_target { ETCD_CREATE = 1, ETCD_MOD, ETCD_VERSION, ETCD_LEASE };

struct etcd_compare { /* key's target == number; an absent key has CREATE, MOD and VERSION 0 */
    enum etcd_target target;
    const char *key;
    uint64_t number;
};

enum etcd_operation_kind { ETCD_OP_RANGE = 1, ETCD_OP_PUT, ETCD_OP_DELETE };

struct etcd_operation {
    enum etcd_operation_kind kind;
    const char *key;
    const char *range_end; /* NULL: this key only. RANGE, DELETE: [key, range_end) */
    const char *value;     /* PUT, NUL-terminated text */
    uint64_t lease;        /* PUT; 0: none */
    uint32_t limit;        /* RANGE; 0: all */
};

#define ETCD_OPERATIONS_MAX 128 /* etcd's limit, for compares and for each branch */

struct etcd_txn {
    const struct etcd_compare *compares;
    const struct etcd_operation *success, *failure;
    uint32_t compare_count, success_count, failure_count;
};

struct etcd_response { /* of one operation */
    enum etcd_operation_kind kind;
    const struct etcd_kv *kvs;
    uint32_t kv_count;
    uint64_t count; /* RANGE: keys in the range. DELETE: keys deleted */
    bool more;
};

struct etcd_answer {
    int error;     /* 0, or MRN_ERR_UNAVAILABLE (not done), _UNKNOWN_OUTCOME, _TIMEOUT, _MALFORMED,
                      _TOO_LARGE (reads), _NOT_FOUND (lease), _EXISTS (lease), _DENIED, _INVALID */
    bool no_space; /* etcd's quota is used up (error is set as well) */
    uint64_t revision;                     /* of the store */
    bool succeeded;                        /* txn: which branch ran */
    const struct etcd_response *responses; /* range: one; txn: of the branch that ran */
    uint32_t response_count;
    uint64_t lease;
    uint64_t ttl_s;    /* lease calls: granted; 0 in keep-alive: the lease is dead */
    uint64_t db_bytes; /* etcd_status */
    uint64_t latency_us;
    char message[192]; /* for people, "" on success */
};

typedef void (*etcd_done)(void *context, const struct etcd_answer *answer);

/* NULL without memory or with a list of endpoints that cannot be read. */
struct etcd *etcd_create(struct loop *loop, struct http_client *http,
                         const struct etcd_config *config);
/* Ends calls and watches; their callbacks will not come. */
void etcd_destroy(struct etcd *etcd);

/* All of these return 0, or MRN_ERR_INVALID (key too long), MRN_ERR_NO_MEMORY; then `done` is not
 * called. timeout_ms 0 takes the config's. */
int etcd_range(struct etcd *etcd, const char *key, const char *range_end, uint32_t limit,
               etcd_done done, void *context);
int etcd_put(struct etcd *etcd, const char *key, const char *value, uint64_t lease, etcd_done done,
             void *context);
int etcd_transaction(struct etcd *etcd, const struct etcd_txn *txn, etcd_done done, void *context);
/* `lease`: an id drawn by the caller (so a lost answer can be repeated: then MRN_ERR_EXISTS), not
 * 0, below 2^63. */
int etcd_lease_grant(struct etcd *etcd, uint64_t lease, uint32_t ttl_s, etcd_done done,
                     void *context);
/* Answer with ttl_s == 0: the lease is dead. */
int etcd_lease_keep_alive(struct etcd *etcd, uint64_t lease, uint32_t timeout_ms, etcd_done done,
                          void *context);
int etcd_lease_revoke(struct etcd *etcd, uint64_t lease, etcd_done done, void *context);
/* Answer with no_space: the alarm is raised. */
int etcd_alarms(struct etcd *etcd, etcd_done done, void *context);
/* Of the member that is asked: db_bytes. */
int etcd_status(struct etcd *etcd, etcd_done done, void *context);
int etcd_compact(struct etcd *etcd, uint64_t revision, etcd_done done, void *context);

/* How long a caller should wait before it repeats: 0 while an endpoint is untried, then doubling
 * with jitter up to backoff_max_ms. */
uint32_t etcd_retry_delay_ms(struct etcd *etcd);

/* Counted callbacks of this client are dropped from now on for `context`: for owners that go away
 * before their answers. */
void etcd_forget(struct etcd *etcd, const void *context);

enum etcd_change_kind {
    ETCD_CHANGE_EVENTS = 1, /* puts and deletes of one store revision or more */
    ETCD_CHANGE_CREATED,    /* the watch runs on a member that has a leader; also after a resume */
    ETCD_CHANGE_COMPACTED   /* what was asked for is gone; the watch is over */
};

struct etcd_event {
    bool deleted; /* then kv has key and mod_revision only */
    struct etcd_kv kv;
};

struct etcd_change {
    enum etcd_change_kind kind;
    uint64_t revision; /* of the store when sent; COMPACTED: the compact revision */
    const struct etcd_event *events;
    uint32_t event_count;
};

struct etcd_watch;
typedef void (*etcd_changed)(void *context, const struct etcd_change *change);

/* Watches [key, range_end) from `revision` on (NULL: one key). NULL without memory. */
struct etcd_watch *etcd_watch_start(struct etcd *etcd, const char *key, const char *range_end,
                                    uint64_t revision, etcd_changed changed, void *context);
/* May be called from its own callback. NULL is allowed. */
void etcd_watch_stop(struct etcd_watch *watch);

/* ---- counters, for /metrics ---- */
enum etcd_metric_op {
    ETCD_METRIC_RANGE = 0,
    ETCD_METRIC_PUT,
    ETCD_METRIC_TXN,
    ETCD_METRIC_LEASE_GRANT,
    ETCD_METRIC_LEASE_KEEP_ALIVE,
    ETCD_METRIC_LEASE_REVOKE,
    ETCD_METRIC_COMPACT,
    ETCD_METRIC_ALARM,
    ETCD_METRIC_STATUS,
    ETCD_METRIC_AUTHENTICATE,
    ETCD_METRIC_WATCH,
    ETCD_METRIC_OP_COUNT
};
enum etcd_metric_outcome {
    ETCD_OUTCOME_OK = 0,
    ETCD_OUTCOME_REFUSED, /* etcd answered and said no */
    ETCD_OUTCOME_UNAVAILABLE,
    ETCD_OUTCOME_UNKNOWN,
    ETCD_OUTCOME_MALFORMED,
    ETCD_OUTCOME_COUNT
};
struct etcd_metrics {
    uint64_t requests[ETCD_METRIC_OP_COUNT][ETCD_OUTCOME_COUNT];
    uint64_t latency_buckets[ETCD_BUCKETS], latency_count, latency_sum_us;
    uint64_t no_space;          /* answers that said the quota is used up */
    uint64_t failures_in_a_row; /* no answer, or one that says that etcd cannot serve */
    uint64_t denied_in_a_row;   /* of calls on keys: user, password or role */
};
const struct etcd_metrics *etcd_metrics(const struct etcd *etcd);
const char *etcd_metric_op_name(enum etcd_metric_op op);
const char *etcd_metric_outcome_name(enum etcd_metric_outcome outcome);

/* The key after all keys that begin with `prefix`, for range_end. `ret` has room for
 * ETCD_KEY_MAX + 1. */
void etcd_prefix_end(const char *prefix, char *ret);

#endif
