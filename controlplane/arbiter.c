#include "controlplane/arbiter.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "controlplane/files.h"
#include "controlplane/log.h"
#include "maroon/error.h"

uint64_t arbiter_random(void) {
    uint64_t number = 0;
    while (number == 0) {
        ssize_t got = getrandom(&number, sizeof number, 0);
        assert(got == sizeof number || errno == EINTR);
        if (got != sizeof number)
            number = 0;
    }
    return number;
}

uint64_t arbiter_draw_token(struct arbiter *arbiter) {
    uint64_t token = arbiter_random();
    arbiter->tokens[arbiter->token_next++ % ARBITER_TOKENS] = token;
    return token;
}

bool arbiter_token_is_ours(const struct arbiter *arbiter, uint64_t token) {
    for (int i = 0; i < ARBITER_TOKENS; i++)
        if (token != 0 && arbiter->tokens[i] == token)
            return true;
    return false;
}

void arbiter_make_genesis(const struct arbiter_setup *setup, struct arbiter_genesis *ret_genesis) {
    const struct control_config *config = setup->config;
    *ret_genesis = (struct arbiter_genesis){
        .cluster_id = arbiter_random(),
        .node_count = config->node_count,
        .quorum = config->quorum,
        .durable = config->durable,
        .protocol_version = WIRE_VERSION,
        .limits = config->limits,
    };
    memcpy(ret_genesis->member_keys, config->member_keys, sizeof ret_genesis->member_keys);
    uint64_t key[2] = {arbiter_random(), arbiter_random()};
    memcpy(ret_genesis->digest_key.bytes, key, sizeof key);
}

void arbiter_own_member(const struct arbiter *arbiter, struct arbiter_member *ret_member) {
    const struct control_config *config = arbiter->setup.config;
    struct arbiter_member member = {
        .incarnation = arbiter->incarnation,
        .store_token = arbiter->store_token,
        .process_token = arbiter->setup.process_token,
        .node_count = config->node_count,
        .quorum = config->quorum,
        .durable = config->durable,
        .protocol_version = WIRE_VERSION,
        .limits = config->limits,
    };
    memcpy(member.dump_key, config->dump_key, sizeof member.dump_key);
    snprintf(member.address, sizeof member.address, "%s", config->address);
    snprintf(member.admin, sizeof member.admin, "%s",
             config->admin_advertise[0] ? config->admin_advertise : config->admin_listen);
    *ret_member = member;
}

struct canonical {
    uint8_t bytes[1024];
    size_t count;
};

static void put_bytes(struct canonical *canonical, const void *bytes, size_t count) {
    assert(count <= sizeof canonical->bytes - canonical->count);
    memcpy(canonical->bytes + canonical->count, bytes, count);
    canonical->count += count;
}

static void put_u64(struct canonical *canonical, uint64_t number) {
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(number >> (8 * i)); /* little-endian, as all of ours */
    put_bytes(canonical, bytes, sizeof bytes);
}

static struct wire_hash hash_of(const struct canonical *canonical) {
    return wire_hash_blake2b(canonical->bytes, canonical->count);
}

static uint64_t first_u64(const struct wire_hash *hash) {
    uint64_t number = 0;
    for (int i = 7; i >= 0; i--)
        number = number << 8 | hash->bytes[i];
    return number;
}

static uint64_t digest_key_id(const struct wire_digest_key *key) {
    struct canonical canonical = {0};
    put_bytes(&canonical, "maroon digest key", 17);
    put_bytes(&canonical, key->bytes, sizeof key->bytes);
    struct wire_hash hash = hash_of(&canonical);
    return first_u64(&hash);
}

uint64_t control_configuration_id(uint64_t cluster_id, uint8_t node_count, uint8_t quorum,
                                  bool durable, const struct control_limits *limits,
                                  const uint8_t member_keys[][CONTROL_KEY_BYTES],
                                  const struct wire_digest_key *digest_key) {
    struct canonical canonical = {0};
    put_bytes(&canonical, "maroon configuration", 20);
    put_u64(&canonical, cluster_id);
    put_u64(&canonical, node_count);
    put_u64(&canonical, quorum);
    put_u64(&canonical, durable);
    put_u64(&canonical, WIRE_VERSION);
#define CONTROL_LIMIT(field, name, key) put_u64(&canonical, limits->field);
#include "controlplane/control_limits.def"
#undef CONTROL_LIMIT
    put_u64(&canonical, digest_key_id(digest_key));
    for (int i = 0; i < node_count; i++)
        put_bytes(&canonical, member_keys[i], CONTROL_KEY_BYTES);
    struct wire_hash hash = hash_of(&canonical);
    return first_u64(&hash);
}

struct wire_hash arbiter_genesis_hash(const struct arbiter_genesis *genesis) {
    struct canonical canonical = {0};
    put_bytes(&canonical, "maroon genesis", 14);
    put_u64(&canonical,
            control_configuration_id(genesis->cluster_id, genesis->node_count, genesis->quorum,
                                     genesis->durable, &genesis->limits, genesis->member_keys,
                                     &genesis->digest_key));
    put_u64(&canonical, genesis->cluster_id);
    put_bytes(&canonical, genesis->digest_key.bytes, sizeof genesis->digest_key.bytes);
    for (int i = 0; i < genesis->node_count; i++)
        put_u64(&canonical, genesis->incarnations[i]);
    const struct arbiter_restored *restored = &genesis->restored;
    if (restored->seq) {
        put_bytes(&canonical, "restored", 8);
        put_u64(&canonical, restored->seq);
        put_u64(&canonical, restored->term);
        put_u64(&canonical, restored->cluster_id);
        put_bytes(&canonical, &restored->epoch_hash, sizeof restored->epoch_hash);
        put_bytes(&canonical, &restored->state_hash, sizeof restored->state_hash);
        put_bytes(&canonical, &restored->origin, sizeof restored->origin);
    }
    return hash_of(&canonical);
}

static bool differs(const char *what, uint64_t ours, uint64_t theirs) {
    if (ours == theirs)
        return false;
    mrn_log_error("configuration_mismatch",
                  "what=%s ours=%" PRIu64 " cluster=%" PRIu64
                  " do=\"give this node the cluster's value, or make a new cluster name\"",
                  what, ours, theirs);
    return true;
}

/* Kept in genesis from the first version on that knew it; `key` as it is configured. */
static bool limit_differs(const char *key, uint64_t ours, uint64_t theirs) {
    if (ours == theirs)
        return false;
    if (theirs)
        mrn_log_error("configuration_mismatch",
                      "what=%s ours=%" PRIu64 " cluster=%" PRIu64 " do=\"start with --%s %" PRIu64
                      ": a cluster keeps the value it was made with; or make a new cluster name\"",
                      key, ours, theirs, key, theirs);
    else
        mrn_log_error("configuration_mismatch",
                      "what=%s ours=%" PRIu64 " cluster=not_recorded do=\"an earlier version made "
                      "this cluster and did not record its %s: run that version, or make a new "
                      "cluster name\"",
                      key, ours, key);
    return true;
}

static void hex(const uint8_t key[CONTROL_KEY_BYTES], char ret[2 * CONTROL_KEY_BYTES + 1]) {
    for (int i = 0; i < CONTROL_KEY_BYTES; i++)
        snprintf(ret + 2 * i, 3, "%02x", key[i]);
}

int arbiter_check_genesis(const struct arbiter_setup *setup,
                          const struct arbiter_genesis *genesis) {
    const struct control_config *config = setup->config;
    if (differs("node_count", config->node_count, genesis->node_count) ||
        differs("quorum", config->quorum, genesis->quorum) ||
        differs("durable", config->durable, genesis->durable))
        return MRN_ERR_MISMATCH;
    if (genesis->protocol_version != WIRE_VERSION) {
        mrn_log_error("configuration_mismatch",
                      "what=protocol_version ours=%d cluster=%" PRIu32
                      " do=\"start the program of the cluster's version, or make a new cluster "
                      "name\"",
                      WIRE_VERSION, genesis->protocol_version);
        return MRN_ERR_MISMATCH;
    }
#define CONTROL_LIMIT(field, name, key)                                  \
    if (limit_differs(key, config->limits.field, genesis->limits.field)) \
        return MRN_ERR_MISMATCH;
#include "controlplane/control_limits.def"
#undef CONTROL_LIMIT
    for (int i = 0; i < genesis->node_count; i++) {
        if (memcmp(config->member_keys[i], genesis->member_keys[i], CONTROL_KEY_BYTES) != 0) {
            char ours[2 * CONTROL_KEY_BYTES + 1], theirs[2 * CONTROL_KEY_BYTES + 1];
            hex(config->member_keys[i], ours);
            hex(genesis->member_keys[i], theirs);
            mrn_log_error("configuration_mismatch",
                          "what=member_key index=%d ours=%s cluster=%s "
                          "do=\"give all nodes the same keys\"",
                          i, ours, theirs);
            return MRN_ERR_MISMATCH;
        }
    }
    return 0;
}

/* ---- the store's number ---- */

int arbiter_store_load(const char *data_dir, uint64_t *ret_incarnation, uint64_t *ret_store_token) {
    char *text;
    int error = files_read(data_dir, "incarnation", 4096, &text);
    if (error)
        return error;
    uint64_t incarnation, token;
    char end;
    int fields =
        sscanf(text, "incarnation %" SCNu64 " token %" SCNu64 "%c", &incarnation, &token, &end);
    free(text);
    if (fields != 3 || end != '\n' || incarnation == 0 || token == 0)
        return MRN_ERR_CORRUPT;
    *ret_incarnation = incarnation;
    *ret_store_token = token;
    return 0;
}

int arbiter_store_save(const char *data_dir, uint64_t incarnation, uint64_t store_token) {
    char text[96];
    int length = snprintf(text, sizeof text, "incarnation %" PRIu64 " token %" PRIu64 "\n",
                          incarnation, store_token);
    return files_replace(data_dir, "incarnation", text, (size_t)length);
}

/* ---- the interface ---- */

void arbiter_destroy(struct arbiter *arbiter) {
    if (arbiter)
        arbiter->operations->destroy(arbiter);
}

const struct arbiter_genesis *arbiter_genesis(const struct arbiter *arbiter) {
    return &arbiter->genesis;
}

const struct arbiter_member *arbiter_members(const struct arbiter *arbiter) {
    return arbiter->members;
}

uint64_t arbiter_incarnation(const struct arbiter *arbiter) {
    return arbiter->incarnation;
}

const struct arbiter_leader *arbiter_leader(const struct arbiter *arbiter) {
    return &arbiter->leader;
}

const struct etcd_metrics *arbiter_etcd_metrics(const struct arbiter *arbiter) {
    return arbiter->operations->etcd_metrics(arbiter);
}

const struct epochs *arbiter_epochs(const struct arbiter *arbiter) {
    return &arbiter->epochs;
}

const struct arbiter_health *arbiter_health(const struct arbiter *arbiter) {
    return &arbiter->health;
}

const struct arbiter_dump *arbiter_dump(const struct arbiter *arbiter) {
    return &arbiter->dump;
}

void arbiter_dump_look(struct arbiter *arbiter) {
    arbiter->operations->dump_look(arbiter);
}

void arbiter_dump_tell(struct arbiter *arbiter, uint64_t seq, const char *text) {
    if (seq > arbiter->dump.seq && strlen(text) < ARBITER_DUMP_TEXT_MAX)
        arbiter->operations->dump_tell(arbiter, seq, text);
}

void arbiter_turn_take(struct arbiter *arbiter, arbiter_turn_done done, void *context) {
    arbiter->operations->turn_take(arbiter, done, context);
}

void arbiter_turn_keep(struct arbiter *arbiter) {
    arbiter->operations->turn_keep(arbiter);
}

void arbiter_turn_end(struct arbiter *arbiter) {
    arbiter->operations->turn_end(arbiter);
}

int arbiter_publish(struct arbiter *arbiter, const struct arbiter_epoch *epoch) {
    return arbiter->operations->publish(arbiter, epoch);
}

void arbiter_term_floor(struct arbiter *arbiter, uint64_t term) {
    arbiter->health.promised_term = term;
    if (term > arbiter->health.term_floor)
        arbiter->health.term_floor = term;
}

void arbiter_raise_term_base(struct arbiter *arbiter, uint64_t to) {
    arbiter->operations->raise_term_base(arbiter, to);
}

void arbiter_campaign(struct arbiter *arbiter, uint64_t revision) {
    arbiter->operations->campaign(arbiter, revision);
}

bool arbiter_campaigns(const struct arbiter *arbiter) {
    return arbiter->operations->campaigns(arbiter);
}

void arbiter_resign(struct arbiter *arbiter, uint64_t revision) {
    arbiter->operations->resign(arbiter, revision);
}

void arbiter_range_request(struct arbiter *arbiter, uint64_t owner, uint64_t nonce, uint64_t range,
                           uint64_t floor) {
    arbiter->operations->range_request(arbiter, owner, nonce, range, floor);
}

void arbiter_range_renew(struct arbiter *arbiter, uint64_t owner, uint64_t range) {
    arbiter->operations->range_renew(arbiter, owner, range);
}

void arbiter_range_close(struct arbiter *arbiter, uint64_t owner, uint64_t range) {
    arbiter->operations->range_close(arbiter, owner, range);
}

void arbiter_range_check(struct arbiter *arbiter, uint64_t owner, uint64_t range) {
    arbiter->operations->range_check(arbiter, owner, range);
}

void arbiter_range_sealed(struct arbiter *arbiter, uint64_t owner, uint64_t range, uint32_t end) {
    arbiter->operations->range_sealed(arbiter, owner, range, end);
}
