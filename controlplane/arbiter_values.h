/* arbiter_values: the values of etcd's keys and of the files of the embedded arbiter, as JSON that
 * people can read (proto3 JSON: lowerCamelCase, 64-bit numbers as strings). Pure apart from malloc.
 *
 * encode: NUL-terminated text, freed by the caller; NULL without memory.
 * decode: text from outside; returns 0 or MRN_ERR_MALFORMED, *ret untouched then. Unknown members
 * are ignored, absent ones are zero unless a value without them makes no sense. */
#ifndef MAROON_ARBITER_VALUES_H
#define MAROON_ARBITER_VALUES_H

#include <jansson.h>

#include "controlplane/arbiter.h"

struct arbiter_range {
    uint64_t owner;        /* names this holding of the range */
    uint64_t asker, nonce; /* name the request that it was granted to; asker 0: the owner itself */
    uint32_t start;
    bool sealed;
    uint32_t end; /* when sealed */
};

struct arbiter_leader_value {
    uint8_t node;
    uint64_t token, term_base;
};

char *arbiter_encode_member(uint8_t index, const char *cluster, const uint8_t *public_key,
                            const struct arbiter_member *member);
int arbiter_decode_member(const char *text, struct arbiter_member *ret_member);
char *arbiter_encode_leader(const struct arbiter_leader_value *leader);
int arbiter_decode_leader(const char *text, struct arbiter_leader_value *ret_leader);
char *arbiter_encode_range(const struct arbiter_range *range);
int arbiter_decode_range(const char *text, struct arbiter_range *ret_range);
/* Publications: `latest` with the vector, history/<seq> without. Decodes both. */
char *arbiter_encode_epoch(const struct arbiter_epoch *epoch, bool with_vector);
int arbiter_decode_epoch(const char *text, struct epochs_entry *ret_entry);
json_t *arbiter_json_of_epoch(const struct epochs_entry *entry);
/* {"<name>": "<number>"} */
char *arbiter_encode_number(const char *name, uint64_t number);
int arbiter_decode_number(const char *text, const char *name, uint64_t *ret_number);

/* Genesis is two values: who began, and with which configuration. */
char *arbiter_encode_genesis(const struct arbiter_genesis *genesis);
char *arbiter_encode_config(const struct arbiter_genesis *genesis);
int arbiter_decode_genesis(const char *genesis_text, const char *config_text,
                           struct arbiter_genesis *ret_genesis);

/* JSON helpers, for files that hold several of these. */
int arbiter_json_u64(const json_t *object, const char *name, uint64_t max, uint64_t *ret_number);
json_t *arbiter_json_number(uint64_t number);
json_t *arbiter_json_of_range(const struct arbiter_range *range);
int arbiter_range_of_json(const json_t *object, struct arbiter_range *ret_range);

#endif
