#include "controlplane/arbiter_etcd.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/log.h"
#include "maroon/error.h"

/* Opening, each step begun anew from `read` when its outcome is not clear:
 *
 *   read genesis, registrations --> is our index held by a live node? --> write our registration
 *     --> read --> genesis there? ready
 *                  k registered, and some patience for the others? --> write genesis --> read
 *                  else wait --> read                                                            */
#define POLL_MS 200
#define GENESIS_PATIENCE_NS                                           \
    UINT64_C(1500000000) /* for nodes beyond k: who is in genesis has \
                            nothing to recover */
#define PROBE_STEP_MS 50 /* a question is repeated: packets get lost, addresses are resolved */
#define PROBE_NS UINT64_C(1000000000) /* so long nobody answers: nobody is there */

static void enter_read(void *context);

void arbiter_etcd_key(const struct arbiter_etcd *arbiter, const char *name, char *ret_key) {
    int length = snprintf(ret_key, ETCD_KEY_MAX + 1, "%s%s", arbiter->prefix, name);
    assert(length > 0 && length <= ETCD_KEY_MAX);
    (void)length;
}

void arbiter_etcd_key_number(const struct arbiter_etcd *arbiter, const char *name, uint64_t number,
                             char *ret_key) {
    int length = snprintf(ret_key, ETCD_KEY_MAX + 1, "%s%s%" PRIu64, arbiter->prefix, name, number);
    assert(length > 0 && length <= ETCD_KEY_MAX);
    (void)length;
}

static void enter_again(struct arbiter_etcd *arbiter, uint64_t delay_ms) {
    loop_timer_set(arbiter->base.setup.loop, &arbiter->enter_timer, delay_ms, enter_read, arbiter);
}

static void enter_end(struct arbiter_etcd *arbiter, int error) {
    const struct arbiter_sink *sink = arbiter->base.setup.sink;
    arbiter->ready = error == 0;
    if (!error) {
        arbiter_etcd_leader_start(arbiter);
        arbiter_etcd_follow_start(arbiter);
        arbiter_etcd_publish_start(arbiter);
        arbiter_etcd_dump_start(arbiter);
        arbiter_etcd_watchful_start(arbiter);
    }
    sink->ready(sink->context, error);
}

static void enter_failed(struct arbiter_etcd *arbiter, const char *what,
                         const struct etcd_answer *answer) {
    mrn_log_warning("etcd_unavailable", "doing=%s error=%s message=%s", what,
                    mrn_error_name(answer->error), mrn_log_quote(answer->message));
    uint32_t delay_ms = etcd_retry_delay_ms(arbiter->etcd);
    enter_again(arbiter, delay_ms > POLL_MS ? delay_ms : POLL_MS);
}

/* ---- genesis ---- */

static void genesis_written(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (!answer->error && answer->succeeded)
        mrn_log_info("genesis_written", "nodes=%u revision=%" PRIu64, arbiter->registered_count,
                     answer->revision);
    /* Ours, another's or unknown: what is there now decides. */
    if (answer->error)
        enter_failed(arbiter, "write_genesis", answer);
    else
        enter_read(arbiter);
}

static void genesis_write(struct arbiter_etcd *arbiter) {
    struct arbiter_genesis genesis;
    char keys[3][ETCD_KEY_MAX + 1], node_keys[WIRE_NODES_MAX][ETCD_KEY_MAX + 1];
    struct etcd_compare compares[2 + WIRE_NODES_MAX];
    uint32_t count = 0;
    arbiter_make_genesis(&arbiter->base.setup, &genesis);
    arbiter_etcd_key(arbiter, "genesis", keys[0]);
    arbiter_etcd_key(arbiter, "config", keys[1]);
    arbiter_etcd_key(arbiter, "term_base", keys[2]);
    compares[count++] = (struct etcd_compare){ETCD_CREATE, keys[0], 0};
    compares[count++] = (struct etcd_compare){ETCD_MOD, keys[2], arbiter->term_base_revision};
    for (uint8_t i = 0; i < genesis.node_count; i++) {
        const struct arbiter_member *member = &arbiter->base.members[i];
        if (!member->incarnation)
            continue;
        genesis.incarnations[i] = member->incarnation;
        arbiter_etcd_key_number(arbiter, "nodes/", i, node_keys[i]);
        compares[count++] = (struct etcd_compare){ETCD_MOD, node_keys[i], member->mod_revision};
    }
    char *texts[3] = {arbiter_encode_genesis(&genesis), arbiter_encode_config(&genesis),
                      arbiter_encode_number("termBase", arbiter->term_base)};
    struct etcd_operation puts[3];
    for (int i = 0; i < 3; i++)
        puts[i] = (struct etcd_operation){.kind = ETCD_OP_PUT, .key = keys[i], .value = texts[i]};
    struct etcd_txn txn = {.compares = compares,
                           .compare_count = count,
                           .success = puts,
                           .success_count = arbiter->term_base_revision ? 2 : 3};
    if (!texts[0] || !texts[1] || !texts[2] ||
        etcd_transaction(arbiter->etcd, &txn, genesis_written, arbiter))
        enter_again(arbiter, POLL_MS);
    for (int i = 0; i < 3; i++)
        free(texts[i]);
}

static void genesis_wait(struct arbiter_etcd *arbiter) {
    const struct control_config *config = arbiter->base.setup.config;
    uint64_t now_ns = loop_now_ns(arbiter->base.setup.loop);
    if (arbiter->registered_count < config->quorum) {
        arbiter->enough_since_ns = 0;
        if (arbiter->waiting_logged++ % 50 == 0)
            mrn_log_info("waiting_for_nodes", "registered=%u needed=%u cluster=%s",
                         arbiter->registered_count, config->quorum, config->cluster);
        enter_again(arbiter, POLL_MS);
        return;
    }
    if (!arbiter->enough_since_ns)
        arbiter->enough_since_ns = now_ns;
    if (arbiter->registered_count < config->node_count &&
        now_ns - arbiter->enough_since_ns < GENESIS_PATIENCE_NS) {
        enter_again(arbiter, POLL_MS);
        return;
    }
    genesis_write(arbiter);
}

/* ---- registration ---- */

static void registered(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (answer->error)
        enter_failed(arbiter, "register", answer);
    else
        enter_read(arbiter);
}

int arbiter_etcd_register(struct arbiter_etcd *arbiter, uint64_t mod_revision, etcd_done done) {
    const struct control_config *config = arbiter->base.setup.config;
    struct arbiter_member own;
    char key[ETCD_KEY_MAX + 1];
    arbiter_own_member(&arbiter->base, &own);
    arbiter_etcd_key_number(arbiter, "nodes/", config->node_index, key);
    char *value = arbiter_encode_member(config->node_index, config->cluster,
                                        config->member_keys[config->node_index], &own);
    struct etcd_compare compare = {ETCD_MOD, key, mod_revision};
    struct etcd_operation put = {.kind = ETCD_OP_PUT, .key = key, .value = value};
    struct etcd_txn txn = {
        .compares = &compare, .compare_count = 1, .success = &put, .success_count = 1};
    int error = value ? etcd_transaction(arbiter->etcd, &txn, done, arbiter) : MRN_ERR_NO_MEMORY;
    free(value);
    return error;
}

static void register_write(struct arbiter_etcd *arbiter) {
    if (arbiter_etcd_register(arbiter, arbiter->own_mod_revision, registered))
        enter_again(arbiter, POLL_MS);
}

/* A number greater than every earlier one of this index: term_base + revision never goes back (an
 * operator who restores an older etcd raises term_base), and every registration is at or below it.
 */
static int draw_incarnation(struct arbiter_etcd *arbiter) {
    const struct control_config *config = arbiter->base.setup.config;
    uint64_t newest = arbiter->base.members[config->node_index].incarnation;
    uint64_t next = arbiter->term_base + arbiter->read_revision;
    if (next < newest)
        next = newest;
    arbiter->base.incarnation = next + 1;
    arbiter->base.store_token = arbiter_random();
    arbiter->store_known = true;
    arbiter->store_loaded = false;
    if (!config->durable)
        return 0;
    int error =
        arbiter_store_save(config->data_dir, arbiter->base.incarnation, arbiter->base.store_token);
    if (error)
        mrn_log_error("incarnation_not_saved", "dir=%s error=%s", mrn_log_quote(config->data_dir),
                      mrn_error_name(error));
    return error;
}

static void claim_index(struct arbiter_etcd *arbiter) {
    int error = arbiter->store_known ? 0 : draw_incarnation(arbiter);
    if (error)
        enter_end(arbiter, error);
    else
        register_write(arbiter);
}

/* A PING to the registered address, answered with another process token than ours: that of the
 * registration. (Another token is that of a node which has the address now, under its own index.)
 */
static void probe_step(void *context) {
    struct arbiter_etcd *arbiter = context;
    const struct control_config *config = arbiter->base.setup.config;
    const struct arbiter_member *other = &arbiter->base.members[config->node_index];
    uint64_t token, now_ns = loop_now_ns(arbiter->base.setup.loop);
    bool answered = config->probe->answer(config->probe->context, arbiter->probe_nonce, &token);
    if (answered && token == other->process_token && token != arbiter->base.setup.process_token) {
        mrn_log_error("index_taken",
                      "node=%u held_by=%s process=%016" PRIx64 " ours=%016" PRIx64
                      " do=\"stop that node, or give this one another index\"",
                      config->node_index, other->address, token, arbiter->base.setup.process_token);
        enter_end(arbiter, MRN_ERR_EXISTS);
        return;
    }
    if (answered || now_ns >= arbiter->probe_until_ns ||
        !config->probe->ask(config->probe->context, other->address, arbiter->probe_nonce)) {
        arbiter->checked_process = other->process_token;
        claim_index(arbiter);
        return;
    }
    loop_timer_set(arbiter->base.setup.loop, &arbiter->probe_timer, PROBE_STEP_MS, probe_step,
                   arbiter);
}

/* Another process is registered under our index. Is it alive? */
static void ask_other(struct arbiter_etcd *arbiter) {
    const struct control_config *config = arbiter->base.setup.config;
    const struct arbiter_member *other = &arbiter->base.members[config->node_index];
    if (!config->probe || !other->address[0] || other->process_token == arbiter->checked_process) {
        claim_index(arbiter);
        return;
    }
    arbiter->probe_nonce = arbiter_random();
    arbiter->probe_until_ns = loop_now_ns(arbiter->base.setup.loop) + PROBE_NS;
    probe_step(arbiter);
}

/* Returns true when our registration stands. */
static bool enter_register(struct arbiter_etcd *arbiter) {
    struct arbiter *base = &arbiter->base;
    const struct control_config *config = base->setup.config;
    const struct arbiter_member *found = &base->members[config->node_index];
    if (!arbiter->store_known && config->durable) {
        int error = arbiter_store_load(config->data_dir, &base->incarnation, &base->store_token);
        arbiter->store_known = arbiter->store_loaded = error == 0;
        if (error && error != MRN_ERR_NOT_FOUND) {
            mrn_log_error("incarnation_unreadable", "dir=%s error=%s",
                          mrn_log_quote(config->data_dir), mrn_error_name(error));
            enter_end(arbiter, error);
            return false;
        }
    }
    bool same_store = arbiter->store_known && found->incarnation == base->incarnation &&
                      found->store_token == base->store_token;
    if (same_store && found->process_token == base->setup.process_token)
        return true;
    if (same_store) {
        register_write(arbiter); /* an earlier process of this directory, which is locked by us */
        return false;
    }
    if (arbiter->store_loaded && found->incarnation >= base->incarnation) {
        mrn_log_error("store_replaced",
                      "dir=%s incarnation=%" PRIu64 " registered=%" PRIu64
                      " do=\"a newer store was registered for this index; remove this directory\"",
                      mrn_log_quote(config->data_dir), base->incarnation, found->incarnation);
        enter_end(arbiter, MRN_ERR_EXISTS);
        return false;
    }
    if (found->incarnation >= base->incarnation && arbiter->store_known)
        arbiter->store_known = false; /* somebody was faster: draw a greater number */
    if (found->incarnation)
        ask_other(arbiter);
    else
        claim_index(arbiter);
    return false;
}

/* ---- reading what is there ---- */

static const struct etcd_kv *only_kv(const struct etcd_response *response) {
    return response->kv_count == 1 ? &response->kvs[0] : NULL;
}

static int check_members(struct arbiter_etcd *arbiter) {
    const struct control_config *config = arbiter->base.setup.config;
    for (uint8_t i = 0; i < WIRE_NODES_MAX; i++) {
        const struct arbiter_member *member = &arbiter->base.members[i];
        if (!member->incarnation || i == config->node_index)
            continue;
        struct arbiter_genesis theirs = {
            .node_count = member->node_count,
            .quorum = member->quorum,
            .durable = member->durable,
            .protocol_version = member->protocol_version,
            .limits = member->limits,
        };
        memcpy(theirs.member_keys, config->member_keys, sizeof theirs.member_keys);
        if (theirs.node_count > WIRE_NODES_MAX ||
            arbiter_check_genesis(&arbiter->base.setup, &theirs)) {
            mrn_log_error("node_differs", "node=%u address=%s", i, mrn_log_quote(member->address));
            return MRN_ERR_MISMATCH;
        }
    }
    return 0;
}

static int take_genesis(struct arbiter_etcd *arbiter, const struct etcd_answer *answer) {
    const struct etcd_kv *genesis = only_kv(&answer->responses[0]);
    const struct etcd_kv *config = only_kv(&answer->responses[1]);
    arbiter->genesis_known = false;
    if (!genesis)
        return check_members(arbiter);
    int error = config
                    ? arbiter_decode_genesis(genesis->value, config->value, &arbiter->base.genesis)
                    : MRN_ERR_CORRUPT;
    if (error) {
        mrn_log_error("genesis_unreadable", "prefix=%s error=%s", arbiter->prefix,
                      mrn_error_name(error));
        return MRN_ERR_CORRUPT;
    }
    arbiter->genesis_known = true;
    return arbiter_check_genesis(&arbiter->base.setup, &arbiter->base.genesis);
}

static void entered_read(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    const struct control_config *config = arbiter->base.setup.config;
    if (answer->error || answer->response_count != 4) {
        enter_failed(arbiter, "read_cluster", answer);
        return;
    }
    arbiter->read_revision = answer->revision;
    arbiter_etcd_term_base_seen(arbiter, only_kv(&answer->responses[3]));
    memset(arbiter->base.members, 0, sizeof arbiter->base.members);
    for (uint32_t i = 0; i < answer->responses[2].kv_count; i++)
        arbiter_etcd_member_seen(arbiter, &answer->responses[2].kvs[i]);
    arbiter->registered_count = 0;
    for (uint8_t i = 0; i < config->node_count; i++)
        arbiter->registered_count += arbiter->base.members[i].incarnation != 0;
    arbiter->own_mod_revision = arbiter->base.members[config->node_index].mod_revision;
    int error = take_genesis(arbiter, answer);
    if (error) {
        enter_end(arbiter, error);
        return;
    }
    if (!enter_register(arbiter))
        return;
    if (arbiter->genesis_known)
        enter_end(arbiter, 0);
    else
        genesis_wait(arbiter);
}

static void enter_read(void *context) {
    struct arbiter_etcd *arbiter = context;
    char keys[4][ETCD_KEY_MAX + 1], nodes_end[ETCD_KEY_MAX + 1];
    arbiter_etcd_key(arbiter, "genesis", keys[0]);
    arbiter_etcd_key(arbiter, "config", keys[1]);
    arbiter_etcd_key(arbiter, "nodes/", keys[2]);
    arbiter_etcd_key(arbiter, "term_base", keys[3]);
    etcd_prefix_end(keys[2], nodes_end);
    struct etcd_operation reads[4];
    for (int i = 0; i < 4; i++)
        reads[i] = (struct etcd_operation){.kind = ETCD_OP_RANGE, .key = keys[i]};
    reads[2].range_end = nodes_end;
    reads[2].limit = 64;
    struct etcd_txn txn = {.success = reads, .success_count = 4};
    if (etcd_transaction(arbiter->etcd, &txn, entered_read, arbiter))
        enter_again(arbiter, POLL_MS);
}

/* ---- the implementation's table ---- */

static const struct etcd_metrics *metrics(const struct arbiter *arbiter) {
    return etcd_metrics(((const struct arbiter_etcd *)arbiter)->etcd);
}

static bool campaigns(const struct arbiter *arbiter) {
    return ((const struct arbiter_etcd *)arbiter)->campaign_running;
}

static void destroy(struct arbiter *base) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    loop_timer_clear(base->setup.loop, &arbiter->enter_timer);
    loop_timer_clear(base->setup.loop, &arbiter->probe_timer);
    arbiter_etcd_follow_stop(arbiter);
    arbiter_etcd_leader_stop(arbiter);
    arbiter_etcd_ranges_stop(arbiter);
    arbiter_etcd_publish_stop(arbiter);
    arbiter_etcd_dump_stop(arbiter);
    arbiter_etcd_watchful_stop(arbiter);
    etcd_destroy(arbiter->etcd);
    free(arbiter);
}

static const struct arbiter_operations operations = {
    .publish = arbiter_etcd_publish,
    .raise_term_base = arbiter_etcd_raise_term_base,
    .campaign = arbiter_etcd_campaign,
    .campaigns = campaigns,
    .resign = arbiter_etcd_resign,
    .range_request = arbiter_etcd_range_request,
    .range_renew = arbiter_etcd_range_renew,
    .range_close = arbiter_etcd_range_close,
    .range_check = arbiter_etcd_range_check,
    .range_sealed = arbiter_etcd_range_sealed,
    .dump_look = arbiter_etcd_dump_look,
    .dump_tell = arbiter_etcd_dump_tell,
    .turn_take = arbiter_etcd_turn_take,
    .turn_keep = arbiter_etcd_turn_keep,
    .turn_end = arbiter_etcd_turn_end,
    .etcd_metrics = metrics,
    .destroy = destroy,
};

struct arbiter *arbiter_etcd_open(const struct arbiter_setup *setup) {
    const struct control_config *config = setup->config;
    struct arbiter_etcd *arbiter = calloc(1, sizeof *arbiter);
    if (!arbiter)
        return NULL;
    arbiter->base.operations = &operations;
    arbiter->base.setup = *setup;
    arbiter->base.leader.node = MAILBOX_NODE_NONE;
    arbiter->lease_ttl_s = config->lease_ttl_s ? config->lease_ttl_s : 5;
    arbiter->range_ttl_s = config->range_ttl_s ? config->range_ttl_s : 10;
    arbiter->next_range = 1;
    snprintf(arbiter->prefix, sizeof arbiter->prefix, "/maroon/%s/", config->cluster);
    struct etcd_config etcd_config = config->etcd;
    /* Below a third of the lease, and low enough that a cluster that lost its leader while etcd was
     * away has one within 2 s of its return. */
    etcd_config.backoff_max_ms = arbiter->lease_ttl_s < 2 ? arbiter->lease_ttl_s * 250 : 500;
    arbiter->etcd = etcd_create(setup->loop, setup->http, &etcd_config);
    if (!arbiter->etcd) {
        free(arbiter);
        return NULL;
    }
    enter_again(arbiter, 0);
    return &arbiter->base;
}
