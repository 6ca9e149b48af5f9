/* restore [--to-epoch N] DATA-DIR...: a new cluster, one directory for each of its nodes, with the
 * state of an exact epoch. Also the way back when all nodes are lost. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controlplane/ctl/ctl.h"
#include "controlplane/ctl/ctl_dump.h"
#include "controlplane/from_config.h"
#include "controlplane/restore/restore_cluster.h"
#include "maroon/error.h"

struct restoring {
    struct dump_command *c;
    struct control_config config; /* of the new cluster */
    struct restore_look look;
    struct restore_state state;
    struct restore_plan plan;
    struct dump_show show;
    const char **dirs;
    uint64_t end; /* the store leads to here */
    uint64_t epochs;
};

static void configure(struct restoring *r) {
    struct control_config *config = &r->config;
    control_cluster_from_config(r->c->config, config);
    config->node_count = (uint8_t)(r->c->word_count - 1);
    config->quorum =
        r->c->quorum == UINT64_MAX ? (uint8_t)(config->node_count / 2 + 1) : (uint8_t)r->c->quorum;
    config->durable = true;
    const struct snapshot_sizes *sizes = &r->state.any->head.sizes;
    config->limits =
        (struct control_limits){.results_kept = sizes->results_kept,
                                .ranges_max = sizes->ranges_max,
                                .ranges_retired_max = sizes->retired_max,
                                .state_bytes = sizes->state_bytes,
                                .idempotency_keys = sizes->idempotency_slots,
                                .idempotency_bytes = sizes->idempotency_bytes,
                                .idempotency_span_s = sizes->idempotency_span_us / 1000000,
                                .max_transaction_bytes = sizes->max_transaction_bytes};
    control_derive_keys(config);
}

static int say(struct restoring *r, int error, const char *what) {
    snprintf(r->c->text, sizeof r->c->text, "%s", what);
    return error;
}

/* All that can be refused is, before anything is written. */
static int check(struct restoring *r) {
    const struct control_config *config = &r->config;
    struct dump_command *c = r->c;
    if (config->node_count > RESTORE_NODES_MAX)
        return say(r, MRN_ERR_INVALID, "at most 7 nodes");
    if (config->quorum > config->node_count || 2 * config->quorum <= config->node_count)
        return say(r, MRN_ERR_INVALID, "--quorum: more than half of the directories, at most all");
    if (config->arbiter == CONTROL_ARBITER_EMBEDDED && config->node_count > 1)
        return say(r, MRN_ERR_INVALID,
                   "several directories are a cluster, which needs --etcd-endpoints");
    for (uint32_t i = 0; i < config->node_count; i++) {
        int error = restore_cluster_directory_check(r->dirs[i], c->text);
        if (error)
            return error;
    }
    int error = restore_cluster_look(config, r->state.any->cluster, &r->look, c->text);
    if (error)
        return error;
    if (r->look.led)
        return say(r, MRN_ERR_EXISTS,
                   "a cluster of this name has a leader: stop its nodes, or choose another "
                   "--cluster");
    if (r->look.there && !c->replace)
        return say(r, MRN_ERR_EXISTS,
                   "etcd knows a cluster of this name: choose another --cluster, or end that one "
                   "for good with --replace");
    if (c->to_epoch == 0)
        return say(r, MRN_ERR_INVALID, "--to-epoch: from 1; epoch 0 is an empty cluster");
    if (c->to_epoch != RESTORE_NEWEST && c->to_epoch > r->end) {
        snprintf(c->text, sizeof c->text,
                 "the store leads to epoch %" PRIu64 " only (from the dump of epoch %" PRIu64 ")",
                 r->end, r->state.base ? r->state.base->head.seq : 0);
        return MRN_ERR_NOT_FOUND;
    }
    return 0;
}

static void count_epoch(void *context, uint64_t seq) {
    struct restoring *r = context;
    (void)seq;
    r->epochs++;
}

static void tell(void *context, const struct dump_progress *done) {
    struct restoring *r = context;
    ctl_tell(&r->show, done);
}

static uint64_t newest_term(const struct restore_state *state) {
    uint64_t term = 0;
    for (uint32_t i = 0; i < state->history.manifest_count; i++)
        if (state->history.manifests[i].head.term > term)
            term = state->history.manifests[i].head.term;
    return term;
}

static bool is_lost(int error) {
    return error == MRN_ERR_CORRUPT || error == MRN_ERR_NOT_FOUND || error == MRN_ERR_TOO_LARGE ||
           error == MRN_ERR_DENIED; /* a sealed object that is damaged */
}

/* The dump before epoch `base`, from which the store leads to *to; to as far as it does when the
 * newest epoch is wanted. False, with everything as it was, when there is none. */
static bool step_back(struct restoring *r, uint64_t base, uint64_t *to) {
    struct dump_command *c = r->c;
    struct restore_state before;
    uint64_t end;
    char none[DUMP_TEXT_BYTES];
    bool found = base > 0 && !restore_state_open(&before, &c->store, &c->key,
                                                 r->state.any->cluster_id, base - 1, &end, none);
    bool newest = c->to_epoch == RESTORE_NEWEST;
    if (!found || (end < *to && !newest)) {
        if (base > 0)
            restore_state_close(&before);
        return false;
    }
    restore_state_close(&r->state);
    r->state = before;
    *to = end < *to ? end : *to;
    return true;
}

/* Brings the state to *to. What the store has lost is gone round: an earlier dump and more epochs
 * do, or, when the newest epoch is wanted, as many of them as there are; each step is said. */
static int reach(struct restoring *r, uint64_t *to, char file[600]) {
    struct dump_command *c = r->c;
    const struct restore_hooks hooks = {.progress = tell, .executed = count_epoch, .context = r};
    for (;;) {
        uint64_t base = r->state.base ? r->state.base->head.seq : 0;
        /* Beside the directory: a try after kill -9 takes up the pages that are there. */
        snprintf(file, 600, "%.500s.dump-%016" PRIx64, r->dirs[0], base);
        r->epochs = 0;
        int error = restore_state_run(&r->state, *to, file, &hooks, c->text);
        if (!is_lost(error))
            return error;
        char why[DUMP_TEXT_BYTES];
        memcpy(why, c->text, sizeof why);
        uint64_t reached = r->state.seq, id = r->state.any->cluster_id, end;
        if (r->state.runtime && reached >= base && reached && reached < *to) {
            /* The dump is whole; an epoch after it is not. */
            fprintf(stderr, "maroonctl: epoch %" PRIu64 " cannot be had: %s\n", reached + 1, why);
            if (c->to_epoch != RESTORE_NEWEST) {
                snprintf(c->text, sizeof c->text,
                         "%.200s; epoch %" PRIu64 " can be restored (--to-epoch)", why, reached);
                return error;
            }
            *to = reached;
            restore_state_close(&r->state);
            error = restore_state_open(&r->state, &c->store, &c->key, id, base ? base : 1, &end,
                                       c->text);
            if (error)
                return error;
            continue;
        }
        if (!step_back(r, base, to)) {
            memcpy(c->text, why, sizeof why);
            return error;
        }
        (void)unlink(file);
        fprintf(stderr,
                "maroonctl: from the dump of epoch %" PRIu64
                ": %s; taking the one before, to epoch "
                "%" PRIu64 "\n",
                base, why, *to);
    }
}

static int make(struct restoring *r) {
    struct dump_command *c = r->c;
    const struct config *config = c->config;
    char file[600];
    uint64_t to = c->to_epoch == RESTORE_NEWEST ? r->end : c->to_epoch;
    int error = reach(r, &to, file);
    if (error)
        return error;
    if (c->to_epoch == RESTORE_NEWEST)
        r->end = to; /* what lies above was in the store, and is lost */
    restore_cluster_plan(&r->config, &r->look, &r->state, newest_term(&r->state), &r->plan);
    error = runtime_found(r->state.runtime, r->plan.configuration_id, &r->plan.genesis_hash);
    if (error)
        return say(r, error, "the state cannot begin a new cluster");
    uint64_t segment_bytes = config->segment_bytes ? config->segment_bytes : UINT64_C(64) << 20;
    for (uint32_t i = 0; !error && i < r->config.node_count; i++)
        error = restore_cluster_directory(&r->plan, i, r->dirs[i], segment_bytes, r->state.runtime,
                                          r->look.etcd, c->text);
    if (!error)
        error = restore_cluster_found(&r->config, &r->look, &r->plan, c->text);
    for (uint32_t i = 0; !error && i < r->config.node_count; i++)
        error = restore_cluster_directory_done(r->dirs[i], c->text);
    if (!error)
        (void)unlink(file);
    return error;
}

/* ---- what was done, and what is lost ---- */

static void print_json(const struct restoring *r, const char *state_hash) {
    const struct restore_state *s = &r->state;
    char numbers[6][24];
    const uint64_t values[] = {s->seq, s->term, r->plan.term_base, r->epochs, s->seq + 1, r->end};
    for (int i = 0; i < 6; i++)
        snprintf(numbers[i], sizeof numbers[i], "%" PRIu64, values[i]);
    json_t *object =
        json_pack("{s:s, s:s, s:s, s:s, s:s}", "epoch", numbers[0], "term", numbers[1], "termBase",
                  numbers[2], "epochsExecuted", numbers[3], "stateHash", state_hash);
    char id[20];
    snprintf(id, sizeof id, "%" PRIx64, r->plan.genesis.cluster_id);
    json_object_set_new(object, "clusterId", json_string(id));
    if (r->end > s->seq)
        json_object_set_new(object, "leftOut",
                            json_pack("{s:s, s:s}", "first", numbers[4], "last", numbers[5]));
    if (r->look.latest_known && r->look.latest_seq > r->end) {
        char first[24], last[24];
        snprintf(first, sizeof first, "%" PRIu64, r->end + 1);
        snprintf(last, sizeof last, "%" PRIu64, r->look.latest_seq);
        json_object_set_new(object, "lost", json_pack("{s:s, s:s}", "first", first, "last", last));
    }
    json_object_set_new(object, "lostKnown", json_boolean(r->look.latest_known));
    json_dumpf(object, stdout, JSON_INDENT(2));
    printf("\n");
    json_decref(object);
}

static void print(const struct restoring *r) {
    const struct restore_state *s = &r->state;
    char state_hash[65];
    dump_name_text(&s->state_hash, state_hash);
    if (r->c->config->json == CONFIG_ON) {
        print_json(r, state_hash);
        return;
    }
    printf("epoch %" PRIu64 ", term %" PRIu64 ", state hash %s\n", s->seq, s->term, state_hash);
    printf("from cluster %s, id %" PRIx64 ": %s of epoch %" PRIu64 ", and %" PRIu64
           " epochs executed after it\n",
           s->any->cluster, s->any->cluster_id, s->base ? "the dump" : "the beginning",
           s->base ? s->base->head.seq : 0, r->epochs);
    printf("new cluster %s, id %" PRIx64 ", %u nodes, quorum %u, terms above %" PRIu64 "\n",
           r->config.cluster, r->plan.genesis.cluster_id, r->config.node_count, r->config.quorum,
           r->plan.term_base);
    for (uint32_t i = 0; i < r->config.node_count; i++)
        printf("node %u: %s\n", i, r->dirs[i]);
    if (r->end > s->seq)
        printf("left out, as asked: epochs %" PRIu64 " to %" PRIu64 " of the store\n", s->seq + 1,
               r->end);
    if (!r->look.latest_known)
        printf("lost: every epoch after %" PRIu64 "; how many is not known, etcd does not say what "
               "cluster %s published last\n",
               r->end, s->any->cluster);
    else if (r->look.latest_seq > r->end)
        printf("lost: epochs %" PRIu64 " to %" PRIu64
               " at least were committed and are in no dump\n",
               r->end + 1, r->look.latest_seq);
    else
        printf("lost: nothing that was published (epoch %" PRIu64 " was the last)\n",
               r->look.latest_seq);
    printf("start the nodes with these directories; give them a store of their own: their dumps do "
           "not go on where these end\n");
}

int ctl_restore(struct dump_command *c) {
    static struct restoring r;
    r.c = c;
    r.dirs = c->words + 1;
    r.show = (struct dump_show){.terminal = isatty(STDERR_FILENO), .since_ns = ctl_now_ns()};
    int error = restore_state_open(&r.state, &c->store, &c->key,
                                   c->cluster_id == UINT64_MAX ? 0 : c->cluster_id, c->to_epoch,
                                   &r.end, c->text);
    if (!error && r.state.history.damaged)
        fprintf(stderr, "maroonctl: left out: %u manifests that cannot be read: %s\n",
                r.state.history.damaged, r.state.history.damage);
    if (!error) {
        configure(&r);
        error = check(&r);
    }
    if (!error)
        error = make(&r);
    if (!error)
        print(&r);
    restore_state_close(&r.state);
    return error ? ctl_dump_failed(c, "restore", error) : 0;
}
