#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/arbiter_etcd.h"
#include "controlplane/log.h"
#include "maroon/error.h"

#define CAMPAIGN_ATTEMPTS_MAX 4
#define REFUSED_AGAIN_MS 1000

/* ---- our lease: granted at start, kept alive for as long as the process lives ---- */

static void lease_step(void *context);
static void campaign_write(struct arbiter_etcd *arbiter);
static void campaign_end(struct arbiter_etcd *arbiter, bool won);
static void campaign_lose_later(struct arbiter_etcd *arbiter, uint64_t delay_ms);
static void resign_begin(struct arbiter_etcd *arbiter);

static void lease_later(struct arbiter_etcd *arbiter, uint64_t delay_ms) {
    loop_timer_set(arbiter->base.setup.loop, &arbiter->lease_timer, delay_ms, lease_step, arbiter);
}

static uint64_t renewal_ms(const struct arbiter_etcd *arbiter) {
    return (uint64_t)arbiter->lease_ttl_s * 1000 / 3;
}

static void lease_granted(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    /* EXISTS: an earlier, unanswered request with this id was applied. */
    if (!answer->error || answer->error == MRN_ERR_EXISTS) {
        if (!answer->error && answer->ttl_s != arbiter->lease_ttl_s)
            mrn_log_info("lease_ttl", "asked_s=%u granted_s=%" PRIu64, arbiter->lease_ttl_s,
                         answer->ttl_s);
        arbiter->lease_state = LEASE_ALIVE;
        lease_later(arbiter, renewal_ms(arbiter));
        if (arbiter->campaign_running)
            campaign_write(arbiter);
        return;
    }
    arbiter->lease_state = LEASE_NONE;
    mrn_log_warning("lease_not_granted", "error=%s message=%s", mrn_error_name(answer->error),
                    mrn_log_quote(answer->message));
    lease_later(arbiter, etcd_retry_delay_ms(arbiter->etcd));
    if (arbiter->campaign_running)
        campaign_lose_later(arbiter, etcd_retry_delay_ms(arbiter->etcd) + 1); /* not written */
}

static void lease_kept(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (answer->error && answer->error != MRN_ERR_NOT_FOUND) {
        lease_later(arbiter, etcd_retry_delay_ms(arbiter->etcd));
        return;
    }
    if (answer->error || answer->ttl_s == 0) {
        /* Dead. If it held the leader key, the watch tells. */
        mrn_log_warning("lease_lost", "lease=%" PRIx64, arbiter->lease);
        arbiter->lease_state = LEASE_NONE;
        arbiter->lease = 0;
        lease_later(arbiter, 0);
        return;
    }
    lease_later(arbiter, renewal_ms(arbiter));
}

static void lease_step(void *context) {
    struct arbiter_etcd *arbiter = context;
    int error = 0;
    if (arbiter->lease_state == LEASE_ALIVE) {
        error = etcd_lease_keep_alive(arbiter->etcd, arbiter->lease,
                                      arbiter->lease_ttl_s * 1000 / 5, lease_kept, arbiter);
    } else if (arbiter->lease_state == LEASE_NONE) {
        if (!arbiter->lease)
            arbiter->lease = arbiter_etcd_draw_lease();
        error = etcd_lease_grant(arbiter->etcd, arbiter->lease, arbiter->lease_ttl_s, lease_granted,
                                 arbiter);
        if (!error)
            arbiter->lease_state = LEASE_GRANTING;
    }
    if (error)
        lease_later(arbiter, renewal_ms(arbiter));
}

void arbiter_etcd_leader_start(struct arbiter_etcd *arbiter) {
    lease_step(arbiter);
}

void arbiter_etcd_leader_stop(struct arbiter_etcd *arbiter) {
    struct loop *loop = arbiter->base.setup.loop;
    loop_timer_clear(loop, &arbiter->lease_timer);
    loop_timer_clear(loop, &arbiter->campaign_timer);
    loop_timer_clear(loop, &arbiter->resign_timer);
}

/* ---- campaign ----
 *
 *   idle --request--> lease? --> transaction --succeeded, or our token in the key--> won
 *                                     |  \------ another token ---------------------> lost
 *                                     \-- unknown --> read until answered: our token? won : lost
 *
 * A transaction that was told lost after an unknown outcome may still be applied later: then the
 * watch shows our token, and the campaign is told won after all (arbiter_etcd_leader_seen). */

static void campaign_read(void *context);

/* A loss that would come again at once (etcd away, a term that goes back) is told later: the
 * replica tries again when it is told. */
static void campaign_end_late(void *context) {
    campaign_end(context, false);
}

static void campaign_lose_later(struct arbiter_etcd *arbiter, uint64_t delay_ms) {
    loop_timer_set(arbiter->base.setup.loop, &arbiter->campaign_timer, delay_ms, campaign_end_late,
                   arbiter);
}

static void campaign_end(struct arbiter_etcd *arbiter, bool won) {
    const struct arbiter_sink *sink = arbiter->base.setup.sink;
    if (!arbiter->campaign_running)
        return;
    arbiter->campaign_running = false;
    loop_timer_clear(arbiter->base.setup.loop, &arbiter->campaign_timer);
    if (won)
        return; /* told by arbiter_etcd_campaign_won */
    struct arbiter_leader leader = arbiter->base.leader;
    leader.token = arbiter->campaign_token;
    mrn_log_info("campaign_lost", "seen=%" PRIu64 " key=%" PRIu64 " leader=%d",
                 arbiter->campaign_revision, leader.revision,
                 leader.node == MAILBOX_NODE_NONE ? -1 : (int)leader.node);
    sink->campaign(sink->context, MAILBOX_CAMPAIGN_LOST, &leader);
}

/* "has won that term, unless it has promised a higher one; then it deletes the key by compare". A
 * restored etcd may also show a holding of ours that ended long ago. */
static bool must_not_lead(const struct arbiter_etcd *arbiter, uint64_t token) {
    uint64_t term = arbiter->base.leader.term;
    return term < arbiter->base.health.promised_term ||
           (token != arbiter->won_token && term <= arbiter->base.health.term_floor);
}

/* The key of a term that must not be led was asked to be deleted. If somebody had taken it by then,
 * the greater term that we promised is his, and ours was just told late. If it was still ours, the
 * greater term comes from an etcd that is no more: trying again at once would end the same. */
static void refusal_judged(struct arbiter_etcd *arbiter, bool was_ours) {
    arbiter->refused_revision = 0;
    if (was_ours)
        arbiter_etcd_term_refused(arbiter, arbiter->refused_term);
    if (!arbiter->campaign_refused || !arbiter->campaign_running)
        return;
    if (was_ours)
        campaign_lose_later(arbiter, REFUSED_AGAIN_MS);
    else
        campaign_end(arbiter, false);
}

void arbiter_etcd_campaign_won(struct arbiter_etcd *arbiter, uint64_t token) {
    const struct arbiter_sink *sink = arbiter->base.setup.sink;
    if (must_not_lead(arbiter, token)) {
        arbiter->refused_revision = arbiter->base.leader.revision;
        arbiter->refused_term = arbiter->base.leader.term;
        if (arbiter->campaign_running && arbiter->campaign_token == token)
            arbiter->campaign_refused = true;
        resign_begin(arbiter);
        return; /* what comes of it: refusal_judged */
    }
    if (arbiter->won_token == token)
        return;
    arbiter->won_token = token;
    arbiter->base.health.refused_term = 0;
    bool answers = arbiter->campaign_running && arbiter->campaign_token == token;
    if (answers)
        campaign_end(arbiter, true);
    mrn_log_info("campaign_won", "revision=%" PRIu64 " term=%" PRIu64,
                 arbiter->base.leader.revision, arbiter->base.leader.term);
    sink->campaign(sink->context, answers ? MAILBOX_CAMPAIGN_WON : MAILBOX_CAMPAIGN_WON_LATE,
                   &arbiter->base.leader);
}

static void campaign_was_read(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = *(struct arbiter_etcd **)context;
    if (!arbiter->campaign_running || arbiter->campaign_refused)
        return;
    if (answer->error) {
        loop_timer_set(arbiter->base.setup.loop, &arbiter->campaign_timer,
                       etcd_retry_delay_ms(arbiter->etcd) + 1, campaign_read, arbiter);
        return;
    }
    const struct etcd_response *found = &answer->responses[0];
    /* Tells "won" when the key holds our token. */
    arbiter_etcd_leader_seen(arbiter, found->kv_count ? &found->kvs[0] : NULL, answer->revision);
    if (!arbiter->campaign_refused) /* else refusal_judged ends it */
        campaign_end(arbiter, false);
}

static void campaign_read(void *context) {
    struct arbiter_etcd *arbiter = context;
    char key[ETCD_KEY_MAX + 1];
    arbiter_etcd_key(arbiter, "leader", key);
    if (etcd_range(arbiter->etcd, key, NULL, 0, campaign_was_read, &arbiter->campaign_self))
        loop_timer_set(arbiter->base.setup.loop, &arbiter->campaign_timer, 100, campaign_read,
                       arbiter);
}

static void campaign_compared(struct arbiter_etcd *arbiter, const struct etcd_answer *answer) {
    const struct etcd_response *leader = &answer->responses[0], *base = &answer->responses[1];
    uint64_t base_before = arbiter->term_base_revision;
    uint64_t found = leader->kv_count ? leader->kvs[0].mod_revision : 0;
    arbiter_etcd_term_base_seen(arbiter, base->kv_count ? &base->kvs[0] : NULL);
    arbiter_etcd_leader_seen(arbiter, leader->kv_count ? &leader->kvs[0] : NULL, answer->revision);
    if (!arbiter->campaign_running)
        return;
    /* The key is as the replica saw it, only term_base was raised meanwhile. */
    if (found == arbiter->campaign_revision && base_before != arbiter->term_base_revision &&
        arbiter->campaign_attempts < CAMPAIGN_ATTEMPTS_MAX)
        campaign_write(arbiter);
    else
        campaign_end(arbiter, false);
}

static void campaign_succeeded(struct arbiter_etcd *arbiter, const struct etcd_answer *answer) {
    struct arbiter_leader_value value = {
        .node = arbiter->base.setup.config->node_index,
        .token = arbiter->campaign_token,
        .term_base = arbiter->term_base,
    };
    char *text = arbiter_encode_leader(&value);
    struct etcd_kv kv = {.value = text ? text : "", .mod_revision = answer->revision};
    if (text)
        arbiter_etcd_leader_seen(arbiter, &kv, answer->revision);
    else
        campaign_read(arbiter);
    free(text);
    /* A newer holder may have been seen by the watch already. */
    if (text && !arbiter->campaign_refused) /* else refusal_judged ends it */
        campaign_end(arbiter, false);
}

static void campaign_written(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = *(struct arbiter_etcd **)context;
    if (!arbiter->campaign_running || arbiter->campaign_refused)
        return; /* the watch was faster */
    arbiter_etcd_latency(arbiter, answer);
    if (!answer->error && answer->succeeded) {
        campaign_succeeded(arbiter, answer);
    } else if (!answer->error && answer->response_count == 2) {
        campaign_compared(arbiter, answer);
    } else if (answer->error == MRN_ERR_NOT_FOUND &&
               arbiter->campaign_attempts < CAMPAIGN_ATTEMPTS_MAX) {
        arbiter->lease_state = LEASE_NONE; /* our lease is dead: a new one, then again */
        arbiter->lease = 0;
        lease_step(arbiter);
    } else if (answer->error == MRN_ERR_UNAVAILABLE || answer->error == MRN_ERR_DENIED ||
               answer->error == MRN_ERR_INVALID) {
        mrn_log_warning("campaign_not_written", "error=%s message=%s",
                        mrn_error_name(answer->error), mrn_log_quote(answer->message));
        campaign_lose_later(arbiter, etcd_retry_delay_ms(arbiter->etcd) + 1);
    } else {
        campaign_read(arbiter);
    }
}

static void campaign_write(struct arbiter_etcd *arbiter) {
    char leader_key[ETCD_KEY_MAX + 1], base_key[ETCD_KEY_MAX + 1];
    arbiter_etcd_key(arbiter, "leader", leader_key);
    arbiter_etcd_key(arbiter, "term_base", base_key);
    arbiter->campaign_attempts++;
    struct arbiter_leader_value value = {
        .node = arbiter->base.setup.config->node_index,
        .token = arbiter->campaign_token,
        .term_base = arbiter->term_base,
    };
    char *text = arbiter_encode_leader(&value);
    /* "compares the revision last seen (an absent key: create_revision = 0)" */
    struct etcd_compare compares[] = {
        {arbiter->campaign_revision ? ETCD_MOD : ETCD_CREATE, leader_key,
         arbiter->campaign_revision},
        {ETCD_MOD, base_key, arbiter->term_base_revision},
    };
    struct etcd_operation put = {
        .kind = ETCD_OP_PUT, .key = leader_key, .value = text, .lease = arbiter->lease};
    struct etcd_operation reads[] = {
        {.kind = ETCD_OP_RANGE, .key = leader_key},
        {.kind = ETCD_OP_RANGE, .key = base_key},
    };
    struct etcd_txn txn = {.compares = compares,
                           .compare_count = 2,
                           .success = &put,
                           .success_count = 1,
                           .failure = reads,
                           .failure_count = 2};
    if (!text || etcd_transaction(arbiter->etcd, &txn, campaign_written, &arbiter->campaign_self))
        campaign_end(arbiter, false);
    free(text);
}

void arbiter_etcd_campaign(struct arbiter *base, uint64_t revision) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    if (arbiter->campaign_running || !arbiter->ready)
        return;
    /* Answers to the attempt before come too late: what it did is told by the watch. */
    arbiter->campaign_self = arbiter;
    etcd_forget(arbiter->etcd, &arbiter->campaign_self);
    arbiter->campaign_running = true;
    arbiter->campaign_refused = false;
    arbiter->campaign_attempts = 0;
    arbiter->campaign_revision = revision;
    arbiter->campaign_token = arbiter_draw_token(base);
    mrn_log_info("campaign", "seen=%" PRIu64, revision);
    if (arbiter->lease_state == LEASE_ALIVE)
        campaign_write(arbiter);
    else
        lease_step(arbiter); /* goes on in lease_granted */
}

/* ---- resignation: repeated until answered; the compare makes repeats harmless ---- */

static void resign_write(void *context);

static void resign_begin(struct arbiter_etcd *arbiter) {
    if (arbiter->resign_running || (!arbiter->refused_revision && !arbiter->resign_revision))
        return;
    arbiter->resign_running = true;
    resign_write(arbiter);
}

static void resigned(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (answer->error) {
        loop_timer_set(arbiter->base.setup.loop, &arbiter->resign_timer,
                       etcd_retry_delay_ms(arbiter->etcd) + 1, resign_write, arbiter);
        return;
    }
    uint64_t revision = arbiter->resign_written;
    arbiter->resign_running = false;
    mrn_log_info("resigned", "revision=%" PRIu64 " was_ours=%d", revision, answer->succeeded);
    if (arbiter->resign_revision == revision)
        arbiter->resign_revision = 0;
    if (answer->succeeded)
        arbiter_etcd_leader_seen(arbiter, NULL, answer->revision);
    if (arbiter->refused_revision == revision)
        refusal_judged(arbiter, answer->succeeded);
    resign_begin(arbiter); /* another may have been asked for meanwhile */
}

static void resign_write(void *context) {
    struct arbiter_etcd *arbiter = context;
    char key[ETCD_KEY_MAX + 1];
    arbiter_etcd_key(arbiter, "leader", key);
    arbiter->resign_written =
        arbiter->refused_revision ? arbiter->refused_revision : arbiter->resign_revision;
    struct etcd_compare compare = {ETCD_MOD, key, arbiter->resign_written};
    struct etcd_operation removal = {.kind = ETCD_OP_DELETE, .key = key};
    struct etcd_txn txn = {
        .compares = &compare, .compare_count = 1, .success = &removal, .success_count = 1};
    if (etcd_transaction(arbiter->etcd, &txn, resigned, arbiter))
        loop_timer_set(arbiter->base.setup.loop, &arbiter->resign_timer, 100, resign_write,
                       arbiter);
}

void arbiter_etcd_resign(struct arbiter *base, uint64_t revision) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    if (!arbiter->ready || revision == 0)
        return;
    arbiter->resign_revision = revision;
    resign_begin(arbiter);
}
