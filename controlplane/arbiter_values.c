#include "controlplane/arbiter_values.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/decimal.h"
#include "maroon/error.h"

/* ---- building blocks ---- */

json_t *arbiter_json_number(uint64_t number) {
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, number);
    return json_string(text);
}

int arbiter_json_u64(const json_t *object, const char *name, uint64_t max, uint64_t *ret_number) {
    const json_t *value = json_object_get(object, name);
    uint64_t number = 0;
    if (json_is_integer(value)) {
        if (json_integer_value(value) < 0)
            return MRN_ERR_MALFORMED;
        number = (uint64_t)json_integer_value(value);
    } else if (json_is_string(value)) {
        if (!decimal_read(json_string_value(value), &number))
            return MRN_ERR_MALFORMED;
    } else if (value) {
        return MRN_ERR_MALFORMED;
    }
    if (number > max)
        return MRN_ERR_MALFORMED;
    *ret_number = number;
    return 0;
}

static json_t *hex_of(const uint8_t *bytes, size_t count) {
    char text[2 * CONTROL_KEY_BYTES + 1];
    for (size_t i = 0; i < count; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    return json_string(text);
}

static int nibble(char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int bytes_of_hex(const json_t *value, uint8_t *ret_bytes, size_t count) {
    if (!json_is_string(value) || json_string_length(value) != 2 * count)
        return MRN_ERR_MALFORMED;
    const char *text = json_string_value(value);
    for (size_t i = 0; i < count; i++) {
        int high = nibble(text[2 * i]), low = nibble(text[2 * i + 1]);
        if (high < 0 || low < 0)
            return MRN_ERR_MALFORMED;
        ret_bytes[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

static int text_of(const json_t *object, const char *name, char *ret_text, size_t room) {
    const json_t *value = json_object_get(object, name);
    if (!value) {
        ret_text[0] = '\0';
        return 0;
    }
    if (!json_is_string(value) || json_string_length(value) >= room ||
        strlen(json_string_value(value)) != json_string_length(value))
        return MRN_ERR_MALFORMED;
    memcpy(ret_text, json_string_value(value), json_string_length(value) + 1);
    return 0;
}

/* Takes `object`, which is NULL when memory ran out (json_pack gives NULL for a NULL part). */
static char *dump(json_t *object) {
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    return text;
}

static json_t *parse(const char *text) {
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    if (root && !json_is_object(root)) {
        json_decref(root);
        return NULL;
    }
    return root;
}

/* ---- limits: what is not there is 0, which no node is started with ---- */

static void put_limits(json_t *root, const struct control_limits *limits) {
#define CONTROL_LIMIT(field, name, key) \
    (void)json_object_set_new(root, name, arbiter_json_number(limits->field));
#include "controlplane/control_limits.def"
#undef CONTROL_LIMIT
}

static int limits_of_json(const json_t *root, struct control_limits *limits) {
#define CONTROL_LIMIT(field, name, key)                           \
    if (arbiter_json_u64(root, name, UINT64_MAX, &limits->field)) \
        return MRN_ERR_MALFORMED;
#include "controlplane/control_limits.def"
#undef CONTROL_LIMIT
    return 0;
}

/* ---- a node's registration ---- */

char *arbiter_encode_member(uint8_t index, const char *cluster, const uint8_t *public_key,
                            const struct arbiter_member *member) {
    static const uint8_t none[CONTROL_KEY_BYTES];
    json_t *root =
        json_pack("{s:i, s:s, s:o, s:s, s:s, s:o, s:o, s:o, s:i, s:i, s:b, s:i}", "node",
                  (int)index, "cluster", cluster, "publicKey",
                  hex_of(public_key, CONTROL_KEY_BYTES), "address", member->address, "admin",
                  member->admin, "incarnation", arbiter_json_number(member->incarnation),
                  "storeToken", arbiter_json_number(member->store_token), "processToken",
                  arbiter_json_number(member->process_token), "nodeCount", (int)member->node_count,
                  "quorum", (int)member->quorum, "durable", (int)member->durable, "protocolVersion",
                  (int)member->protocol_version);
    if (root)
        put_limits(root, &member->limits);
    if (root && memcmp(member->dump_key, none, sizeof none) != 0 &&
        json_object_set_new(root, "dumpKey", hex_of(member->dump_key, sizeof member->dump_key))) {
        json_decref(root);
        return NULL;
    }
    return dump(root);
}

static int member_of_json(const json_t *root, struct arbiter_member *member) {
    uint64_t node_count, quorum, version;
    if (limits_of_json(root, &member->limits) ||
        arbiter_json_u64(root, "incarnation", UINT64_MAX, &member->incarnation) ||
        arbiter_json_u64(root, "storeToken", UINT64_MAX, &member->store_token) ||
        arbiter_json_u64(root, "processToken", UINT64_MAX, &member->process_token) ||
        arbiter_json_u64(root, "nodeCount", UINT8_MAX, &node_count) ||
        arbiter_json_u64(root, "quorum", UINT8_MAX, &quorum) ||
        arbiter_json_u64(root, "protocolVersion", UINT32_MAX, &version) ||
        text_of(root, "address", member->address, sizeof member->address) ||
        text_of(root, "admin", member->admin, sizeof member->admin) || member->incarnation == 0)
        return MRN_ERR_MALFORMED;
    member->node_count = (uint8_t)node_count;
    member->quorum = (uint8_t)quorum;
    member->protocol_version = (uint32_t)version;
    member->durable = json_is_true(json_object_get(root, "durable"));
    const json_t *key = json_object_get(root, "dumpKey");
    return key ? bytes_of_hex(key, member->dump_key, sizeof member->dump_key) : 0;
}

int arbiter_decode_member(const char *text, struct arbiter_member *ret_member) {
    struct arbiter_member member = {0};
    json_t *root = parse(text);
    int error = root ? member_of_json(root, &member) : MRN_ERR_MALFORMED;
    if (!error)
        *ret_member = member;
    json_decref(root);
    return error;
}

/* ---- leader key ---- */

char *arbiter_encode_leader(const struct arbiter_leader_value *leader) {
    return dump(json_pack("{s:i, s:o, s:o}", "node", (int)leader->node, "token",
                          arbiter_json_number(leader->token), "termBase",
                          arbiter_json_number(leader->term_base)));
}

int arbiter_decode_leader(const char *text, struct arbiter_leader_value *ret_leader) {
    uint64_t node = 0;
    struct arbiter_leader_value leader = {0};
    json_t *root = parse(text);
    int error = root ? 0 : MRN_ERR_MALFORMED;
    if (!error &&
        (arbiter_json_u64(root, "node", WIRE_NODES_MAX - 1, &node) ||
         arbiter_json_u64(root, "token", UINT64_MAX, &leader.token) ||
         arbiter_json_u64(root, "termBase", UINT64_MAX, &leader.term_base) || leader.token == 0))
        error = MRN_ERR_MALFORMED;
    leader.node = (uint8_t)node;
    if (!error)
        *ret_leader = leader;
    json_decref(root);
    return error;
}

/* ---- ranges ---- */

json_t *arbiter_json_of_range(const struct arbiter_range *range) {
    json_t *object =
        json_pack("{s:o, s:o, s:I}", "owner", arbiter_json_number(range->owner), "nonce",
                  arbiter_json_number(range->nonce), "start", (json_int_t)range->start);
    if (object && ((range->asker &&
                    json_object_set_new(object, "asker", arbiter_json_number(range->asker))) ||
                   (range->sealed && json_object_set_new(object, "sealedAt",
                                                         json_integer((json_int_t)range->end))))) {
        json_decref(object);
        return NULL;
    }
    return object;
}

int arbiter_range_of_json(const json_t *object, struct arbiter_range *ret_range) {
    struct arbiter_range range = {0};
    uint64_t start, end;
    if (!json_is_object(object) || arbiter_json_u64(object, "owner", UINT64_MAX, &range.owner) ||
        arbiter_json_u64(object, "nonce", UINT64_MAX, &range.nonce) ||
        arbiter_json_u64(object, "asker", UINT64_MAX, &range.asker) ||
        arbiter_json_u64(object, "start", WIRE_RANGE_OFFSETS, &start) ||
        arbiter_json_u64(object, "sealedAt", WIRE_RANGE_OFFSETS, &end))
        return MRN_ERR_MALFORMED;
    range.start = (uint32_t)start;
    range.sealed = json_object_get(object, "sealedAt") != NULL;
    range.end = (uint32_t)end;
    *ret_range = range;
    return 0;
}

char *arbiter_encode_range(const struct arbiter_range *range) {
    return dump(arbiter_json_of_range(range));
}

int arbiter_decode_range(const char *text, struct arbiter_range *ret_range) {
    json_t *root = parse(text);
    int error = root ? arbiter_range_of_json(root, ret_range) : MRN_ERR_MALFORMED;
    json_decref(root);
    return error;
}

char *arbiter_encode_number(const char *name, uint64_t number) {
    return dump(json_pack("{s:o}", name, arbiter_json_number(number)));
}

int arbiter_decode_number(const char *text, const char *name, uint64_t *ret_number) {
    json_t *root = parse(text);
    int error = root && json_object_get(root, name)
                    ? arbiter_json_u64(root, name, UINT64_MAX, ret_number)
                    : MRN_ERR_MALFORMED;
    json_decref(root);
    return error;
}

/* ---- genesis ---- */

static json_t *json_of_restored(const struct arbiter_restored *restored) {
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "seq", arbiter_json_number(restored->seq),
                     "term", arbiter_json_number(restored->term), "clusterId",
                     arbiter_json_number(restored->cluster_id), "epochHash",
                     hex_of(restored->epoch_hash.bytes, sizeof restored->epoch_hash), "stateHash",
                     hex_of(restored->state_hash.bytes, sizeof restored->state_hash), "origin",
                     hex_of(restored->origin.bytes, sizeof restored->origin));
}

static int restored_of_json(const json_t *root, struct arbiter_restored *restored) {
    if (!root)
        return 0;
    if (arbiter_json_u64(root, "seq", UINT64_MAX, &restored->seq) || restored->seq == 0 ||
        arbiter_json_u64(root, "term", UINT64_MAX, &restored->term) ||
        arbiter_json_u64(root, "clusterId", UINT64_MAX, &restored->cluster_id) ||
        bytes_of_hex(json_object_get(root, "epochHash"), restored->epoch_hash.bytes,
                     sizeof restored->epoch_hash) ||
        bytes_of_hex(json_object_get(root, "stateHash"), restored->state_hash.bytes,
                     sizeof restored->state_hash) ||
        bytes_of_hex(json_object_get(root, "origin"), restored->origin.bytes,
                     sizeof restored->origin))
        return MRN_ERR_MALFORMED;
    return 0;
}

char *arbiter_encode_genesis(const struct arbiter_genesis *genesis) {
    json_t *incarnations = json_object();
    for (int i = 0; i < WIRE_NODES_MAX; i++) {
        char name[4];
        snprintf(name, sizeof name, "%d", i);
        if (genesis->incarnations[i] &&
            json_object_set_new(incarnations, name,
                                arbiter_json_number(genesis->incarnations[i]))) {
            json_decref(incarnations);
            return NULL;
        }
    }
    json_t *root =
        json_pack("{s:o, s:o, s:o}", "clusterId", arbiter_json_number(genesis->cluster_id),
                  "digestKey", hex_of(genesis->digest_key.bytes, 16), "incarnations", incarnations);
    if (root && genesis->restored.seq &&
        json_object_set_new(root, "restored", json_of_restored(&genesis->restored))) {
        json_decref(root);
        return NULL;
    }
    return dump(root);
}

char *arbiter_encode_config(const struct arbiter_genesis *genesis) {
    json_t *keys = json_array();
    for (int i = 0; i < genesis->node_count; i++) {
        if (json_array_append_new(keys, hex_of(genesis->member_keys[i], CONTROL_KEY_BYTES))) {
            json_decref(keys);
            return NULL;
        }
    }
    json_t *root =
        json_pack("{s:i, s:i, s:b, s:I, s:o}", "nodeCount", (int)genesis->node_count, "quorum",
                  (int)genesis->quorum, "durable", (int)genesis->durable, "protocolVersion",
                  (json_int_t)genesis->protocol_version, "memberKeys", keys);
    if (root)
        put_limits(root, &genesis->limits);
    return dump(root);
}

static int config_of_json(const json_t *root, struct arbiter_genesis *genesis) {
    uint64_t node_count, quorum, version;
    const json_t *keys = json_object_get(root, "memberKeys");
    if (arbiter_json_u64(root, "nodeCount", WIRE_NODES_MAX, &node_count) ||
        arbiter_json_u64(root, "quorum", WIRE_NODES_MAX, &quorum) ||
        arbiter_json_u64(root, "protocolVersion", UINT32_MAX, &version) ||
        limits_of_json(root, &genesis->limits) || node_count == 0 || !json_is_array(keys) ||
        json_array_size(keys) != node_count)
        return MRN_ERR_MALFORMED;
    genesis->node_count = (uint8_t)node_count;
    genesis->quorum = (uint8_t)quorum;
    genesis->protocol_version = (uint32_t)version;
    genesis->durable = json_is_true(json_object_get(root, "durable"));
    for (size_t i = 0; i < node_count; i++)
        if (bytes_of_hex(json_array_get(keys, i), genesis->member_keys[i], CONTROL_KEY_BYTES))
            return MRN_ERR_MALFORMED;
    return 0;
}

static int genesis_of_json(const json_t *root, struct arbiter_genesis *genesis) {
    const json_t *incarnations = json_object_get(root, "incarnations");
    if (arbiter_json_u64(root, "clusterId", UINT64_MAX, &genesis->cluster_id) ||
        genesis->cluster_id == 0 || !json_is_object(incarnations) ||
        bytes_of_hex(json_object_get(root, "digestKey"), genesis->digest_key.bytes, 16))
        return MRN_ERR_MALFORMED;
    for (int i = 0; i < WIRE_NODES_MAX; i++) {
        char name[4];
        snprintf(name, sizeof name, "%d", i);
        if (arbiter_json_u64(incarnations, name, UINT64_MAX, &genesis->incarnations[i]))
            return MRN_ERR_MALFORMED;
    }
    return restored_of_json(json_object_get(root, "restored"), &genesis->restored);
}

int arbiter_decode_genesis(const char *genesis_text, const char *config_text,
                           struct arbiter_genesis *ret_genesis) {
    struct arbiter_genesis genesis = {0};
    json_t *root = parse(genesis_text), *config = parse(config_text);
    int error = root && config ? genesis_of_json(root, &genesis) : MRN_ERR_MALFORMED;
    if (!error)
        error = config_of_json(config, &genesis);
    if (!error)
        *ret_genesis = genesis;
    json_decref(root);
    json_decref(config);
    return error;
}

/* ---- publications ---- */

json_t *arbiter_json_of_epoch(const struct epochs_entry *entry) {
    return json_pack("{s:o, s:o, s:o, s:o, s:o}", "seq", arbiter_json_number(entry->seq), "term",
                     arbiter_json_number(entry->term), "hash",
                     hex_of(entry->hash.bytes, sizeof entry->hash.bytes), "logicalTimeUs",
                     arbiter_json_number(entry->logical_time_us), "resultHash",
                     hex_of(entry->result_hash.bytes, sizeof entry->result_hash.bytes));
}

char *arbiter_encode_epoch(const struct arbiter_epoch *epoch, bool with_vector) {
    json_t *root = arbiter_json_of_epoch(&epoch->entry);
    if (!root || !with_vector)
        return dump(root);
    int failed = json_object_set_new(root, "rangeCount", json_integer(epoch->range_count));
    if (epoch->vector)
        failed |= json_object_set_new(root, "vector", json_loads(epoch->vector, 0, NULL));
    else if (epoch->vector_hashed)
        failed |= json_object_set_new(
            root, "vectorHash", hex_of(epoch->vector_hash.bytes, sizeof epoch->vector_hash.bytes));
    if (failed) {
        json_decref(root);
        return NULL;
    }
    return dump(root);
}

int arbiter_decode_epoch(const char *text, struct epochs_entry *ret_entry) {
    struct epochs_entry entry;
    json_t *root = parse(text);
    int error = MRN_ERR_MALFORMED;
    if (root && !arbiter_json_u64(root, "seq", UINT64_MAX, &entry.seq) &&
        !arbiter_json_u64(root, "term", UINT64_MAX, &entry.term) &&
        !arbiter_json_u64(root, "logicalTimeUs", UINT64_MAX, &entry.logical_time_us) &&
        !bytes_of_hex(json_object_get(root, "hash"), entry.hash.bytes, sizeof entry.hash.bytes) &&
        !bytes_of_hex(json_object_get(root, "resultHash"), entry.result_hash.bytes,
                      sizeof entry.result_hash.bytes))
        error = 0;
    json_decref(root);
    if (!error)
        *ret_entry = entry;
    return error;
}
