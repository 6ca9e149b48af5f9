/* etcd_json: requests to and answers of etcd's JSON gateway as bytes. Pure apart from malloc.
 * int64 are strings, read as uint64; absent fields are zero (proto3 JSON). Internal to etcd. */
#ifndef MAROON_ETCD_JSON_H
#define MAROON_ETCD_JSON_H

#include "controlplane/etcd.h"

/* Requests: NUL-terminated text, freed by the caller; NULL without memory or for a key too long. */
char *etcd_json_range(const char *key, const char *range_end, uint32_t limit);
char *etcd_json_put(const char *key, const char *value, uint64_t lease);
char *etcd_json_txn(const struct etcd_txn *txn);
char *etcd_json_lease(uint64_t lease, uint64_t ttl_s); /* ttl_s 0: left out */
char *etcd_json_compact(uint64_t revision);
char *etcd_json_authenticate(const char *user, const char *password);
char *etcd_json_watch(const char *key, const char *range_end, uint64_t revision);

struct etcd_memory; /* blocks that decoded values live in */
void etcd_memory_free(struct etcd_memory *memory);

/* Decode a 200 answer of one kind of call into *answer (its other fields stay). Return 0 or
 * MRN_ERR_MALFORMED, MRN_ERR_NO_MEMORY. *memory starts NULL and is freed by the caller always. */
int etcd_json_read_range(const char *text, size_t bytes, struct etcd_memory **memory,
                         struct etcd_answer *answer);
int etcd_json_read_txn(const char *text, size_t bytes, struct etcd_memory **memory,
                       struct etcd_answer *answer);
/* put, revoke, compact: the header only. */
int etcd_json_read_header(const char *text, size_t bytes, struct etcd_answer *answer);
int etcd_json_read_alarms(const char *text, size_t bytes, struct etcd_answer *answer);
int etcd_json_read_status(const char *text, size_t bytes, struct etcd_answer *answer);
int etcd_json_read_lease_grant(const char *text, size_t bytes, struct etcd_answer *answer);
int etcd_json_read_keep_alive(const char *text, size_t bytes, struct etcd_answer *answer);
int etcd_json_read_token(const char *text, size_t bytes, char *ret_token, size_t room);

/* An error body: gRPC code (0 when there is none) and message. Never fails. */
void etcd_json_read_error(const char *text, size_t bytes, int *ret_code, char *ret_message,
                          size_t room);

struct etcd_json_watch {
    bool created, canceled;
    uint64_t revision, compact_revision;
    const struct etcd_event *events;
    uint32_t event_count;
    char reason[192]; /* canceled, or an error in place of a result: why; "" otherwise */
};
/* One line of a watch. */
int etcd_json_read_watch(const char *text, size_t bytes, struct etcd_memory **memory,
                         struct etcd_json_watch *ret_watch);

#endif
