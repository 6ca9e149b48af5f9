#include "controlplane/control.h"

#include <assert.h>
#include <curl/curl.h>
#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "controlplane/admin.h"
#include "controlplane/arbiter.h"
#include "controlplane/dump/dump_manifest.h"
#include "controlplane/dump/dump_turns.h"
#include "controlplane/files.h"
#include "controlplane/log.h"
#include "controlplane/publisher.h"
#include "controlplane/snapshot.h"
#include "controlplane/stretches.h"
#include "maroon/error.h"

#define PUBLISH_TICK_MS 63
#define PASS_MS 1000      /* the longest sleep of the thread */
#define UPS_PER_PASS 256  /* messages of the dataplane taken before others have their turn */
#define PENDING_MAX 16384 /* messages down that wait for room in the ring */
#define PENDING_RETRY_MS 2
#define PROBE_MS 10 /* who asks us while we start is answered within */
#define RESIGN_PATIENCE_NS UINT64_C(2000000000)

struct pending {
    struct pending *next;
    struct mailbox_down message;
};

struct control {
    struct control_config config;
    struct control_identity identity;
    struct loop *loop;
    struct http_client *http;
    struct arbiter *arbiter;
    struct arbiter_sink sink;
    struct snapshot *snapshot;
    struct stretches *stretches; /* NULL: no journal */
    struct dump_turns dumps;     /* dumps.dumper NULL: no store is configured */
    struct admin *admin;
    struct publisher publisher;
    struct mailbox *mailbox;
    int lock_fd, stop_fd;
    bool ready, failed_told;
    int ready_error;

    /* in order: what the ring had no room for */
    struct pending *pending_first, **pending_end;
    uint32_t pending_count;
    struct loop_timer pending_timer;

    pthread_t thread;
    bool thread_runs;
    _Atomic bool announce, stop;
};

/* ---- down to the dataplane ---- */

static void flush_pending(void *context) {
    struct control *control = context;
    while (control->pending_first) {
        struct pending *first = control->pending_first;
        if (mailbox_send_down(control->mailbox, &first->message))
            break;
        control->pending_first = first->next;
        if (!control->pending_first)
            control->pending_end = &control->pending_first;
        control->pending_count--;
        free(first);
    }
    if (control->pending_first)
        loop_timer_set(control->loop, &control->pending_timer, PENDING_RETRY_MS, flush_pending,
                       control);
}

/* Whoever asked for these asks again. The rest must not get lost. */
static bool is_repeated(enum mailbox_down_kind kind) {
    switch (kind) {
    case MAILBOX_DOWN_RANGE_GRANT:
    case MAILBOX_DOWN_RANGE_CHECKED:
    case MAILBOX_DOWN_RANGE_EXPIRED:
    case MAILBOX_DOWN_ETCD_LATENCY: return true;
    case MAILBOX_DOWN_LEADER_KEY:
    case MAILBOX_DOWN_CAMPAIGN_RESULT:
    case MAILBOX_DOWN_INCARNATIONS:
    case MAILBOX_DOWN_EPOCH_WANTED:
    case MAILBOX_DOWN_SNAPSHOT_TAKE:
    case MAILBOX_DOWN_DUMPED:
    case MAILBOX_DOWN_LEARN:
    case MAILBOX_DOWN_SNAPSHOT_RESTORE:
    case MAILBOX_DOWN_HANDOVER:
    case MAILBOX_DOWN_STOP: return false;
    }
    return false;
}

static void send_down(void *context, const struct mailbox_down *message) {
    struct control *control = context;
    if (!control->mailbox)
        return; /* before control_start; the first facts are told there */
    if (!control->pending_first && mailbox_send_down(control->mailbox, message) == 0)
        return;
    struct pending *pending = NULL;
    if (control->pending_count < PENDING_MAX / 2 ||
        (!is_repeated(message->kind) && control->pending_count < PENDING_MAX))
        pending = malloc(sizeof *pending);
    if (!pending) {
        mrn_log_warning("mailbox_full", "kind=%d waiting=%u", (int)message->kind,
                        control->pending_count);
        return;
    }
    pending->message = *message;
    pending->next = NULL;
    *control->pending_end = pending;
    control->pending_end = &pending->next;
    control->pending_count++;
    loop_timer_set(control->loop, &control->pending_timer, PENDING_RETRY_MS, flush_pending,
                   control);
}

/* ---- what the arbiter says ---- */

static void on_ready(void *context, int error) {
    struct control *control = context;
    control->ready = true;
    control->ready_error = error;
}

static void on_leader(void *context, const struct arbiter_leader *leader) {
    struct mailbox_down message = {
        .kind = MAILBOX_DOWN_LEADER_KEY,
        .ours = leader->ours,
        .node = leader->node,
        .revision = leader->revision,
        .term = leader->term,
        .token = leader->token,
    };
    send_down(context, &message);
}

static void on_campaign(void *context, enum mailbox_campaign result,
                        const struct arbiter_leader *leader) {
    struct mailbox_down message = {
        .kind = MAILBOX_DOWN_CAMPAIGN_RESULT,
        .campaign = result,
        .ours = result != MAILBOX_CAMPAIGN_LOST,
        .node = leader->node,
        .revision = leader->revision,
        .term = leader->term,
        .token = leader->token,
    };
    send_down(context, &message);
}

static void on_members(void *context) {
    struct control *control = context;
    const struct arbiter_member *members = arbiter_members(control->arbiter);
    struct mailbox_down message = {.kind = MAILBOX_DOWN_INCARNATIONS};
    for (int i = 0; i < WIRE_NODES_MAX; i++) {
        message.incarnations[i] = members[i].incarnation;
        message.genesis[i] = arbiter_genesis(control->arbiter)->incarnations[i];
    }
    send_down(control, &message);
}

static void on_range_granted(void *context, const struct arbiter_grant *grant) {
    struct mailbox_down message = {
        .kind = MAILBOX_DOWN_RANGE_GRANT,
        .nonce = grant->nonce,
        .owner = grant->owner,
        .range = grant->range,
        .start = grant->start,
        .outcome = grant->outcome,
        .held_by = grant->held_by,
    };
    send_down(context, &message);
}

static void on_range_checked(void *context, uint64_t range, uint64_t owner, bool owned,
                             uint32_t start) {
    struct mailbox_down message = {.kind = MAILBOX_DOWN_RANGE_CHECKED,
                                   .range = range,
                                   .owner = owner,
                                   .checked = owned,
                                   .start = start};
    send_down(context, &message);
}

static void on_range_expired(void *context, uint64_t range, uint64_t owner) {
    struct mailbox_down message = {
        .kind = MAILBOX_DOWN_RANGE_EXPIRED, .range = range, .owner = owner};
    send_down(context, &message);
}

static void on_latency(void *context, uint64_t smoothed_us) {
    struct mailbox_down message = {.kind = MAILBOX_DOWN_ETCD_LATENCY,
                                   .etcd_latency_us = smoothed_us};
    send_down(context, &message);
}

static void fail(struct control *control, int error, const char *reason) {
    mrn_log_error("failed", "error=%s reason=%s", mrn_error_name(error), mrn_log_quote(reason));
    if (!control->failed_told && control->config.failed)
        control->config.failed(control->config.failed_context, error, reason);
    control->failed_told = true;
}

static void on_published(void *context, const struct epochs_entry *entry) {
    struct control *control = context;
    (void)entry;
    if (control->admin)
        admin_published(control->admin);
}

static void on_publish_done(void *context, int error) {
    struct control *control = context;
    publisher_done(&control->publisher, error);
}

static void on_index_lost(void *context, const struct arbiter_member *other) {
    char reason[256];
    snprintf(reason, sizeof reason,
             "another store took this node's index: incarnation %" PRIu64 " at %s",
             other->incarnation, other->address);
    fail(context, MRN_ERR_EXISTS, reason);
}

/* ---- what the dataplane asks ---- */

static void log_takeover(const struct mailbox_takeover *t) {
    mrn_log_info("takeover",
                 "term=%" PRIu64 " heard_at_us=%" PRIu64 " distance=%u silent_us=%" PRIu64
                 " alone_us=%" PRIu64 " campaign_us=%" PRIu64 " won_us=%" PRIu64
                 " promised_us=%" PRIu64 " established_us=%" PRIu64 " committed_us=%" PRIu64
                 " paused_us=%" PRIu64 " slice_us=%" PRIu64 " floor_us=%" PRIu64 " rtt_us=%" PRIu64
                 " etcd_us=%" PRIu64 " gap_us=%" PRIu64 " longest_gap_us=%" PRIu64,
                 t->term, t->heard_at_us, t->distance, t->silent_us, t->alone_us, t->campaign_us,
                 t->won_us, t->promised_us, t->established_us, t->committed_us, t->paused_us,
                 t->slice_us, t->floor_us, t->rtt_us, t->etcd_us, t->gap_us, t->longest_gap_us);
}

static void log_difference(const struct mailbox_up *message) {
    if (message->peer == MAILBOX_NODE_NONE)
        mrn_log_error("quarantined",
                      "epoch=%" PRIu64 " why=\"the results of this node differ from those of a "
                      "quorum\" do=\"keep a copy of its data directory, then restart it\"",
                      message->seq);
    else
        mrn_log_error("results_differ", "node=%u executed=%" PRIu64, message->peer, message->seq);
}

static const char *refusal_advice(const struct control *control, const struct mailbox_up *message) {
    if (message->drop == WIRE_DROP_CONFIGURATION)
        return "it is of another cluster, or was started with another cluster, nodes, quorum, "
               "durability or results-kept: compare the two configurations";
    if (message->drop == WIRE_DROP_VERSION)
        return "it speaks another version of the wire format: upgrade the older one";
    if (message->drop == WIRE_DROP_FRAME_ROLE && message->end == WIRE_ROLE_NODE &&
        message->peer == control->config.node_index)
        return "another process says it is this node: stop it, or give it another index";
    return "docs/drops.md says what this reason means";
}

static void on_refused(const struct control *control, const struct mailbox_up *message) {
    char peer[24] = "unknown";
    if (message->end == WIRE_ROLE_GATEWAY)
        snprintf(peer, sizeof peer, "gateway");
    else if (message->end == WIRE_ROLE_NODE)
        snprintf(peer, sizeof peer, "node-%u", message->peer);
    mrn_log_warning("hello_refused",
                    "reason=%s %s peer=%s theirs=%016" PRIx64 " ours=%016" PRIx64
                    " ours_cluster=%s do=\"%s\"",
                    wire_drop_label(message->drop), message->text, peer, message->theirs,
                    message->ours, control->config.cluster, refusal_advice(control, message));
}

static void handle_up(struct control *control, const struct mailbox_up *message) {
    struct arbiter *arbiter = control->arbiter;
    switch (message->kind) {
    case MAILBOX_UP_CAMPAIGN: arbiter_campaign(arbiter, message->revision); return;
    case MAILBOX_UP_RESIGN: arbiter_resign(arbiter, message->revision); return;
    case MAILBOX_UP_RANGE_REQUEST:
        arbiter_range_request(arbiter, message->owner, message->nonce, message->range,
                              message->seq);
        return;
    case MAILBOX_UP_RANGE_RENEW:
        arbiter_range_renew(arbiter, message->owner, message->range);
        return;
    case MAILBOX_UP_RANGE_CLOSE:
        arbiter_range_close(arbiter, message->owner, message->range);
        return;
    case MAILBOX_UP_RANGE_CHECK:
        arbiter_range_check(arbiter, message->owner, message->range);
        return;
    case MAILBOX_UP_RANGE_SEALED:
        arbiter_range_sealed(arbiter, message->owner, message->range, message->end);
        return;
    case MAILBOX_UP_SNAPSHOT_READY: snapshot_taken(control->snapshot, message); return;
    case MAILBOX_UP_NEED_SNAPSHOT: snapshot_needed(control->snapshot, message); return;
    case MAILBOX_UP_LEARNED: snapshot_learned(control->snapshot, message); return;
    case MAILBOX_UP_RESTORED: snapshot_restored(control->snapshot, message); return;
    case MAILBOX_UP_DIFFERS: log_difference(message); return;
    case MAILBOX_UP_TAKEOVER: log_takeover(&message->takeover); return;
    case MAILBOX_UP_EPOCH: publisher_epoch(&control->publisher); return;
    case MAILBOX_UP_REFUSED: on_refused(control, message); return;
    case MAILBOX_UP_FAILED: fail(control, message->error, message->text); return;
    }
    assert(!"a kind of message that does not exist");
}

static void on_wake(void *context, int fd, uint32_t events) {
    struct control *control = context;
    (void)fd;
    (void)events;
    struct mailbox_up message;
    for (int i = 0; i < UPS_PER_PASS && mailbox_receive_up(control->mailbox, &message); i++) {
        message.text[sizeof message.text - 1] = '\0';
        handle_up(control, &message);
    }
    /* What is left keeps the eventfd readable: it is cleared only when the ring is empty. */
}

/* ---- preparing ---- */

static int refuse(const char *what) {
    mrn_log_error("configuration_invalid", "what=%s", mrn_log_quote(what));
    return MRN_ERR_INVALID;
}

static bool cluster_name_allowed(const char *name) {
    size_t length = strlen(name);
    return length > 0 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == length;
}

static int check_config(const struct control_config *config) {
    if (!cluster_name_allowed(config->cluster))
        return refuse("cluster: a-z, 0-9 and - only, not empty");
    if (config->node_count == 0 || config->node_count > WIRE_NODES_MAX)
        return refuse("node_count: 1 to 7");
    if (config->node_index >= config->node_count)
        return refuse("node_index: below node_count");
    if (config->quorum > config->node_count || 2 * config->quorum <= config->node_count)
        return refuse("quorum: more than half of node_count, at most all");
    if (!config->data_dir[0])
        return refuse("data_dir: not set");
    if (config->arbiter == CONTROL_ARBITER_EMBEDDED && config->node_count != 1)
        return refuse("arbiter: embedded is for one node; a cluster needs etcd");
    if (config->arbiter == CONTROL_ARBITER_ETCD &&
        (!config->etcd.endpoints || !config->etcd.endpoints[0]))
        return refuse("etcd_endpoints: not set");
    if (config->arbiter != CONTROL_ARBITER_EMBEDDED && config->arbiter != CONTROL_ARBITER_ETCD)
        return refuse("arbiter: embedded or etcd");
    if (config->lease_ttl_s && (config->lease_ttl_s < 2 || config->lease_ttl_s > 3600))
        return refuse("lease_ttl_s: 2 to 3600");
    if (config->range_ttl_s && (config->range_ttl_s < 2 || config->range_ttl_s > 86400))
        return refuse("range_ttl_s: 2 to 86400");
    return 0;
}

/* Members without a key of their own get one from the cluster's name and their index: it tells
 * them apart and places them on the ring; it seals nothing. */
void control_derive_keys(struct control_config *config) {
    static const uint8_t none[CONTROL_KEY_BYTES];
    for (int i = 0; i < config->node_count; i++) {
        char text[CONTROL_NAME_MAX + 32];
        if (memcmp(config->member_keys[i], none, sizeof none) != 0)
            continue;
        int length = snprintf(text, sizeof text, "maroon member %s %d", config->cluster, i);
        struct wire_hash hash = wire_hash_blake2b(text, (size_t)length);
        memcpy(config->member_keys[i], hash.bytes, CONTROL_KEY_BYTES);
    }
}

static int compare_ring(const struct wire_hash hashes[WIRE_NODES_MAX], uint8_t a, uint8_t b) {
    int order = memcmp(hashes[a].bytes, hashes[b].bytes, sizeof hashes[a].bytes);
    return order ? order : (int)a - (int)b;
}

/* Nodes by the hash of their public keys. */
static void make_ring(const struct control_config *config, uint8_t ret_ring[WIRE_NODES_MAX]) {
    struct wire_hash hashes[WIRE_NODES_MAX];
    for (uint8_t i = 0; i < config->node_count; i++) {
        hashes[i] = wire_hash_blake2b(config->member_keys[i], CONTROL_KEY_BYTES);
        uint8_t place = i;
        while (place > 0 && compare_ring(hashes, ret_ring[place - 1], i) > 0) {
            ret_ring[place] = ret_ring[place - 1];
            place--;
        }
        ret_ring[place] = i;
    }
}

static void make_identity(struct control *control) {
    const struct control_config *config = &control->config;
    const struct arbiter_genesis *genesis = arbiter_genesis(control->arbiter);
    const struct arbiter_member *members = arbiter_members(control->arbiter);
    struct control_identity *identity = &control->identity;
    identity->cluster_id = genesis->cluster_id;
    identity->configuration_id = control_configuration_id(
        genesis->cluster_id, genesis->node_count, genesis->quorum, genesis->durable,
        &genesis->limits, genesis->member_keys, &genesis->digest_key);
    identity->digest_key = genesis->digest_key;
    identity->genesis_hash = arbiter_genesis_hash(genesis);
    identity->restored_seq = genesis->restored.seq;
    identity->origin_hash =
        genesis->restored.seq ? genesis->restored.origin : identity->genesis_hash;
    identity->incarnation = arbiter_incarnation(control->arbiter);
    identity->in_genesis = genesis->incarnations[config->node_index] == identity->incarnation;
    identity->node_index = config->node_index;
    identity->node_count = config->node_count;
    identity->quorum = config->quorum;
    make_ring(config, identity->ring);
    for (int i = 0; i < WIRE_NODES_MAX; i++) {
        struct control_member *member = &identity->members[i];
        member->incarnation = members[i].incarnation;
        member->genesis = genesis->incarnations[i];
        memcpy(member->address, members[i].address, sizeof member->address);
        memcpy(member->admin, members[i].admin, sizeof member->admin);
    }
}

/* "config mismatch between nodes (... cluster name ...) is refused with the two values". */
static bool peers_are_others(const struct control *control) {
    const struct control_probe *probe = control->config.probe;
    char theirs[WIRE_CLUSTER_BYTES + 1], from[CONTROL_ADDRESS_MAX];
    if (!probe->other(probe->context, theirs, from))
        return false;
    mrn_log_error("configuration_mismatch",
                  "what=cluster ours=%s cluster=%s from=%s do=\"give this node the other's cluster "
                  "name, or other nodes\"",
                  control->config.cluster, theirs, from);
    return true;
}

static int open_arbiter(struct control *control) {
    control->sink = (struct arbiter_sink){
        .ready = on_ready,
        .leader = on_leader,
        .campaign = on_campaign,
        .members = on_members,
        .range_granted = on_range_granted,
        .range_checked = on_range_checked,
        .range_expired = on_range_expired,
        .latency = on_latency,
        .published = on_published,
        .publish_done = on_publish_done,
        .index_lost = on_index_lost,
        .context = control,
    };
    struct arbiter_setup setup = {
        .config = &control->config,
        .process_token = control->identity.process_token,
        .loop = control->loop,
        .http = control->http,
        .sink = &control->sink,
    };
    switch (control->config.arbiter) {
    case CONTROL_ARBITER_EMBEDDED: control->arbiter = arbiter_embedded_open(&setup); break;
    case CONTROL_ARBITER_ETCD: control->arbiter = arbiter_etcd_open(&setup); break;
    }
    if (!control->arbiter)
        return refuse("etcd_endpoints: http://host:port, several with commas");
    const struct control_probe *probe = control->config.probe;
    while (!control->ready) {
        loop_run_once(control->loop, probe ? PROBE_MS : 200);
        if (probe)
            probe->serve(probe->context, control->identity.process_token);
        if (probe && peers_are_others(control))
            return MRN_ERR_MISMATCH;
        if (control->config.interrupted && *control->config.interrupted)
            return MRN_ERR_CLOSED;
    }
    return control->ready_error;
}

static void on_dumped(void *context, uint64_t seq) {
    struct mailbox_down message = {.kind = MAILBOX_DOWN_DUMPED, .revision = seq};
    send_down(context, &message);
}

static uint64_t executed(void *context) {
    const struct control *control = context;
    struct mailbox_facts facts;
    mailbox_facts_read(mailbox_status(control->mailbox), &facts);
    return facts.exec_seq;
}

static int open_dumps(struct control *control) {
    struct control_config *config = &control->config;
    char text[DUMP_TEXT_BYTES] = "";
    struct dumper_setup setup = {
        .store = &config->store,
        .data_dir = config->data_dir,
        .key_file = config->dump_key_file,
        .cluster = config->cluster,
        .cluster_id = control->identity.cluster_id,
        .configuration_id = control->identity.configuration_id,
        .incarnation = control->identity.incarnation,
        .node = config->node_index,
        .durable = config->durable,
        .digest_key = control->identity.digest_key,
        .genesis_hash = control->identity.genesis_hash,
        .restored_seq = control->identity.restored_seq,
        .applications = config->applications,
        .application_count = config->application_count,
    };
    if (!config->store.url || !config->store.url[0])
        return 0;
    control->dumps = (struct dump_turns){
        .loop = control->loop,
        .snapshot = control->snapshot,
        .arbiter = control->arbiter,
        .dumped = on_dumped,
        .executed = executed,
        .context = control,
        .node = config->node_index,
        .node_count = config->node_count,
        .interval_s = config->dump_interval_s,
    };
    int error = dumper_start(&setup, &control->dumps.dumper, text);
    if (error)
        mrn_log_error("dumps_refused", "error=%s why=%s", mrn_error_name(error),
                      mrn_log_quote(text));
    else
        snapshot_use_store(control->snapshot, control->dumps.dumper);
    return error;
}

/* A store is its number and its journal. One that lost its journal forgot what it promised: it is a
 * new one, with a new number, and must recover from peers (protocol.md §7). The directory is
 * locked: another process may have drawn the number and be about to make the journal. */
static void forget_store_without_journal(const struct control_config *config) {
    char number[MAILBOX_PATH_MAX + 32], journal[MAILBOX_PATH_MAX + 32];
    snprintf(number, sizeof number, "%s/incarnation", config->data_dir);
    snprintf(journal, sizeof journal, "%s/journal/store", config->data_dir);
    if (config->durable && !access(number, F_OK) && access(journal, F_OK)) {
        mrn_log_warning("journal_missing", "dir=%s do=\"this store is taken for a new one\"",
                        mrn_log_quote(config->data_dir));
        (void)unlink(number);
    }
}

/* Registered with the node, so that whoever reads a dump can tell that a node of ours wrote it. */
static int read_dump_key(struct control *control) {
    struct control_config *config = &control->config;
    struct dump_signer signer;
    char path[MAILBOX_PATH_MAX + 16];
    if (!config->store.url || !config->store.url[0])
        return 0;
    snprintf(path, sizeof path, "%s/dump.key", config->data_dir);
    int error = dump_signer_load(path, &signer);
    if (error)
        mrn_log_error("dump_key",
                      "file=%s error=%s do=\"let this user read and make it, or remove it "
                      "and get a new one\"",
                      mrn_log_quote(path), mrn_error_name(error));
    else
        memcpy(config->dump_key, signer.public_key, sizeof config->dump_key);
    sodium_memzero(&signer, sizeof signer);
    return error;
}

static int prepare(struct control *control) {
    struct control_config *config = &control->config;
    int error = check_config(config);
    if (error)
        return error;
    control_derive_keys(config);
    error = files_lock(config->data_dir, "control.lock", &control->lock_fd);
    if (error) {
        mrn_log_error("data_dir", "dir=%s error=%s do=\"%s\"", mrn_log_quote(config->data_dir),
                      mrn_error_name(error),
                      error == MRN_ERR_EXISTS ? "another process uses it: stop that one"
                                              : "make it, and let this user write to it");
        return error;
    }
    forget_store_without_journal(config);
    if (curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        return MRN_ERR_NO_MEMORY;
    control->loop = loop_create();
    control->http = control->loop ? http_client_create(control->loop) : NULL;
    control->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (!control->http || control->stop_fd < 0)
        return MRN_ERR_NO_MEMORY;
    control->identity.process_token = arbiter_random();
    error = read_dump_key(control);
    if (!error)
        error = open_arbiter(control);
    if (error)
        return error;
    struct snapshot_setup snapshot = {
        .loop = control->loop,
        .http = control->http,
        .config = config,
        .arbiter = control->arbiter,
        .send_down = send_down,
        .context = control,
    };
    control->snapshot = snapshot_create(&snapshot);
    if (!control->snapshot) {
        mrn_log_error("data_dir", "dir=%s/tmp do=\"let this user make and empty it\"",
                      mrn_log_quote(config->data_dir));
        return MRN_ERR_IO;
    }
    make_identity(control);
    struct stretches_setup stretches = {.loop = control->loop,
                                        .data_dir = control->config.data_dir,
                                        .digest_key = control->identity.digest_key};
    if (config->durable && !(control->stretches = stretches_create(&stretches)))
        return MRN_ERR_NO_MEMORY;
    return open_dumps(control);
}

int control_prepare(const struct control_config *config, struct control **ret_control,
                    struct control_identity *ret_identity) {
    struct control *control = calloc(1, sizeof *control);
    if (!control)
        return MRN_ERR_NO_MEMORY;
    control->config = *config;
    control->lock_fd = control->stop_fd = -1;
    control->pending_end = &control->pending_first;
    int error = prepare(control);
    if (error) {
        control_destroy(control);
        return error;
    }
    const struct control_identity *identity = &control->identity;
    mrn_log_info("joined",
                 "cluster=%s cluster_id=%" PRIx64 " configuration_id=%" PRIx64
                 " node=%u incarnation=%" PRIu64 " in_genesis=%d",
                 control->config.cluster, identity->cluster_id, identity->configuration_id,
                 identity->node_index, identity->incarnation, identity->in_genesis);
    *ret_control = control;
    *ret_identity = *identity;
    return 0;
}

/* ---- running ---- */

static void on_stop(void *context, int fd, uint32_t events) {
    (void)context;
    (void)events;
    uint64_t count;
    ssize_t got = read(fd, &count, sizeof count);
    (void)got; /* the flags say what is wanted */
}

/* Also of what a campaign that is on its way still wins: nobody else could lead before its lease
 * ends. */
static void resign_and_wait(struct control *control) {
    const struct arbiter_leader *leader = arbiter_leader(control->arbiter);
    uint64_t until_ns = loop_now_ns(control->loop) + RESIGN_PATIENCE_NS;
    for (uint64_t resigned = 0; leader->ours || arbiter_campaigns(control->arbiter);) {
        if (leader->ours && leader->revision != resigned)
            arbiter_resign(control->arbiter, resigned = leader->revision);
        if (loop_now_ns(control->loop) >= until_ns)
            return;
        loop_run_once(control->loop, 50);
    }
}

/* A dataplane that fails says why and ends, and then we are stopped: perhaps before its turn came.
 * All else that it still asked for is asked again, or no longer of use. */
static void take_last_words(struct control *control) {
    struct mailbox_up message;
    while (mailbox_receive_up(control->mailbox, &message)) {
        message.text[sizeof message.text - 1] = '\0';
        if (message.kind == MAILBOX_UP_FAILED)
            handle_up(control, &message);
    }
}

static void *run(void *context) {
    struct control *control = context;
    while (!atomic_load(&control->stop)) {
        loop_run_once(control->loop, PASS_MS);
        if (atomic_exchange(&control->announce, false)) {
            struct mailbox_down message = {.kind = MAILBOX_DOWN_STOP};
            send_down(control, &message);
        }
    }
    loop_fd_clear(control->loop, mailbox_wake_fd(control->mailbox)); /* no more campaigns */
    resign_and_wait(control);
    take_last_words(control);
    return NULL;
}

int control_start(struct control *control, struct mailbox *mailbox) {
    assert(!control->thread_runs && !control->mailbox);
    control->mailbox = mailbox;
    /* Facts that the arbiter told before there was a mailbox. */
    on_members(control);
    on_leader(control, arbiter_leader(control->arbiter));
    struct admin_setup admin = {
        .loop = control->loop,
        .config = &control->config,
        .arbiter = control->arbiter,
        .identity = &control->identity,
        .mailbox = mailbox,
        .snapshot = control->snapshot,
        .stretches = control->stretches,
        .dumps = control->dumps.dumper ? &control->dumps : NULL,
        .send_down = send_down,
        .context = control,
    };
    if (control->dumps.dumper)
        dump_turns_start(&control->dumps);
    control->publisher = (struct publisher){
        .loop = control->loop,
        .arbiter = control->arbiter,
        .mailbox = mailbox,
        .send_down = send_down,
        .context = control,
        .tick_ms = control->config.publish_tick_us ? (control->config.publish_tick_us + 999) / 1000
                                                   : PUBLISH_TICK_MS,
    };
    publisher_start(&control->publisher);
    int error = control->config.admin_listen[0] ? admin_start(&admin, &control->admin) : 0;
    if (!error)
        error = loop_fd_set(control->loop, mailbox_wake_fd(mailbox), EPOLLIN, on_wake, control);
    if (!error)
        error = loop_fd_set(control->loop, control->stop_fd, EPOLLIN, on_stop, control);
    if (!error && pthread_create(&control->thread, NULL, run, control) != 0)
        error = MRN_ERR_IO;
    if (error)
        return error;
    control->thread_runs = true;
    pthread_setname_np(control->thread, "control");
    return 0;
}

static void wake(struct control *control) {
    uint64_t one = 1;
    ssize_t put = write(control->stop_fd, &one, sizeof one);
    (void)put;
}

void control_announce_stop(struct control *control) {
    atomic_store(&control->announce, true);
    wake(control);
}

void control_stop(struct control *control) {
    if (control->thread_runs) {
        atomic_store(&control->stop, true);
        wake(control);
        pthread_join(control->thread, NULL);
        control->thread_runs = false;
    }
    if (!control->mailbox)
        return;
    publisher_stop(&control->publisher);
    loop_fd_clear(control->loop, mailbox_wake_fd(control->mailbox));
    control->mailbox = NULL; /* its owner may destroy it from now on */
}

void control_destroy(struct control *control) {
    if (!control)
        return;
    assert(!control->thread_runs);
    control_stop(control);
    if (control->snapshot)
        snapshot_use_store(control->snapshot, NULL);
    dump_turns_stop(&control->dumps);
    snapshot_destroy(control->snapshot);
    stretches_destroy(control->stretches);
    admin_stop(control->admin);
    arbiter_destroy(control->arbiter);
    while (control->pending_first) {
        struct pending *first = control->pending_first;
        control->pending_first = first->next;
        free(first);
    }
    http_client_destroy(control->http);
    loop_destroy(control->loop);
    if (control->stop_fd >= 0)
        close(control->stop_fd);
    if (control->lock_fd >= 0)
        close(control->lock_fd); /* and with it the lock */
    free(control);
}
