#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "controlplane/arbiter_etcd.h"
#include "controlplane/log.h"
#include "maroon/error.h"

/* dump/turn: who is at a dump.
 *
 *   free --take: the key is absent, or stood still for HOLD--> ours --keep, every KEEP--> ours
 *                                                               '--end: deleted--> free
 *
 * The key spares work; no dump, pointer or journal depends on it. It has no lease: whoever wants it
 * sees for itself, by its own clock, that the holder has stopped writing it. So it is free again
 * HOLD after a holder died, also when that one's lease would live on, and a holder whose lease is
 * lost goes on undisturbed. Every write compares the revision that was seen last; an answer that
 * was lost is recognized by our process token in the key. What an earlier process of our index held
 * is ours to take at once. One write at a time. */
#define HOLD_NS UINT64_C(6000000000)
#define KEEP_NS UINT64_C(2000000000)
#define ATTEMPTS_MAX 3

static void turn_go(struct arbiter_etcd *arbiter);

static void turn_tell(struct arbiter_etcd *arbiter, enum arbiter_turn turn) {
    arbiter_turn_done done = arbiter->turn.done;
    arbiter->turn.done = NULL;
    if (done)
        done(arbiter->turn.context, turn);
}

enum holder { HOLDER_OTHER = 0, HOLDER_OUR_INDEX, HOLDER_US };

/* Who the key says; what cannot be read is another's. */
static enum holder turn_seen(struct arbiter_etcd *arbiter, const struct etcd_response *response) {
    const struct etcd_kv *kv = response->kv_count ? &response->kvs[0] : NULL;
    uint64_t revision = kv ? kv->mod_revision : 0, token = 0, node = UINT64_MAX;
    json_t *root = kv ? json_loadb(kv->value, kv->value_bytes, JSON_REJECT_DUPLICATES, NULL) : NULL;
    if (root && (arbiter_json_u64(root, "process", UINT64_MAX, &token) ||
                 arbiter_json_u64(root, "node", UINT64_MAX, &node)))
        token = 0;
    json_decref(root);
    if (revision != arbiter->turn.revision) {
        arbiter->turn.revision = revision;
        arbiter->turn.seen_ns = loop_now_ns(arbiter->base.setup.loop);
    }
    return token == arbiter->base.setup.process_token       ? HOLDER_US
           : node == arbiter->base.setup.config->node_index ? HOLDER_OUR_INDEX
                                                            : HOLDER_OTHER;
}

static void turn_failed(struct arbiter_etcd *arbiter, const struct etcd_answer *answer) {
    if (answer->no_space)
        arbiter_etcd_no_space(arbiter, true);
    if (arbiter->turn.what == TURN_TAKE)
        turn_tell(arbiter, ARBITER_TURN_UNKNOWN);
}

static void turn_refused(struct arbiter_etcd *arbiter, const struct etcd_answer *answer) {
    enum holder holder = turn_seen(arbiter, &answer->responses[0]);
    bool ours = holder == HOLDER_US;
    bool again = arbiter->turn.attempts++ < ATTEMPTS_MAX;
    switch (arbiter->turn.what) {
    case TURN_TAKE:
        if (!again || (arbiter->turn.revision && holder == HOLDER_OTHER))
            turn_tell(arbiter, ARBITER_TURN_OTHERS);
        else
            arbiter->turn.seen_ns = 0; /* given back, or ours: taken at once */
        return;
    case TURN_KEEP:
        arbiter->turn.ours = ours; /* else its answer was lost */
        if (!ours) {
            arbiter->base.dump_turn_losses++;
            mrn_log_info("dump_turn_lost", "do=\"none: another node may dump at the same time\"");
        }
        return;
    case TURN_END: arbiter->turn.ours = arbiter->turn.ending = ours && again; return;
    }
}

static void turn_written(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    arbiter->turn.running = false;
    if (answer->error) {
        turn_failed(arbiter, answer);
    } else if (!answer->succeeded) {
        turn_refused(arbiter, answer);
    } else if (arbiter->turn.what == TURN_END) {
        arbiter->turn.revision = 0;
    } else {
        arbiter->turn.ours = true;
        arbiter->turn.revision = answer->revision;
        arbiter->turn.kept_ns = loop_now_ns(arbiter->base.setup.loop);
        arbiter->compact_bytes += 256;
        if (arbiter->turn.what == TURN_TAKE) {
            arbiter_etcd_dump_seen(arbiter, &answer->responses[1]);
            turn_tell(arbiter, ARBITER_TURN_OURS);
        }
    }
    turn_go(arbiter);
}

/* Revision of the key that a write may go over. */
static uint64_t turn_over(const struct arbiter_etcd *arbiter) {
    uint64_t stood_ns = loop_now_ns(arbiter->base.setup.loop) - arbiter->turn.seen_ns;
    return arbiter->turn.what != TURN_TAKE || stood_ns >= HOLD_NS ? arbiter->turn.revision : 0;
}

static void turn_write(struct arbiter_etcd *arbiter, enum turn_what what) {
    char key[ETCD_KEY_MAX + 1], latest[ETCD_KEY_MAX + 1], value[96];
    arbiter_etcd_key(arbiter, "dump/turn", key);
    arbiter_etcd_key(arbiter, "dump/latest", latest);
    snprintf(value, sizeof value, "{\"node\":%u,\"process\":\"%" PRIu64 "\"}",
             arbiter->base.setup.config->node_index, arbiter->base.setup.process_token);
    arbiter->turn.what = what;
    struct etcd_compare compare = {ETCD_MOD, key, turn_over(arbiter)};
    struct etcd_operation writes[] = {
        {.kind = what == TURN_END ? ETCD_OP_DELETE : ETCD_OP_PUT, .key = key, .value = value},
        {.kind = ETCD_OP_RANGE, .key = latest}};
    struct etcd_operation read = {.kind = ETCD_OP_RANGE, .key = key};
    struct etcd_txn txn = {.compares = &compare,
                           .compare_count = 1,
                           .success = writes,
                           .success_count = what == TURN_TAKE ? 2 : 1,
                           .failure = &read,
                           .failure_count = 1};
    arbiter->turn.running = true;
    if (etcd_transaction(arbiter->etcd, &txn, turn_written, arbiter)) {
        arbiter->turn.running = false;
        if (what == TURN_TAKE)
            turn_tell(arbiter, ARBITER_TURN_UNKNOWN);
    }
}

/* What is wanted next. */
static void turn_go(struct arbiter_etcd *arbiter) {
    if (arbiter->turn.running)
        return;
    if (arbiter->turn.ending && arbiter->turn.ours) {
        arbiter->turn.ours = false;
        turn_write(arbiter, TURN_END);
    } else if (arbiter->turn.done) {
        turn_write(arbiter, TURN_TAKE);
    }
    arbiter->turn.ending = false;
}

void arbiter_etcd_turn_take(struct arbiter *base, arbiter_turn_done done, void *context) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    if (!arbiter->ready) {
        done(context, ARBITER_TURN_UNKNOWN);
        return;
    }
    arbiter->turn.done = done;
    arbiter->turn.context = context;
    arbiter->turn.attempts = 0;
    turn_go(arbiter);
}

void arbiter_etcd_turn_keep(struct arbiter *base) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    uint64_t now_ns = loop_now_ns(base->setup.loop);
    if (!arbiter->turn.ours || arbiter->turn.running || now_ns - arbiter->turn.kept_ns < KEEP_NS)
        return;
    arbiter->turn.kept_ns = now_ns; /* also when it fails: again after a while */
    turn_write(arbiter, TURN_KEEP);
}

void arbiter_etcd_turn_end(struct arbiter *base) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    arbiter->turn.done = NULL;
    arbiter->turn.attempts = 0;
    arbiter->turn.ending = arbiter->turn.ours || arbiter->turn.running;
    turn_go(arbiter);
}
