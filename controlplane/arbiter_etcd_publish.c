#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/arbiter_etcd.h"
#include "controlplane/log.h"
#include "maroon/error.h"

/* Publications: `latest` and history/<seq>, written by the leader, followed by everybody.
 *
 *   publish --> read latest, if its revision is not known --> transaction under compares of the
 *   leader key and of latest --> done: written | another leads | newer than ours is there | failed
 *
 * The compare of the leader key keeps a stale leader out; that of `latest` keeps out a write of
 * ours that was told unknown and is applied late, and makes a repeat harmless.
 *
 * etcd keeps every revision until it is compacted, so whoever publishes also compacts: up to the
 * revision of COMPACT_EVERY publications ago, which leaves slow watchers that much time. */
#define COMPACT_EVERY 512
#define COMPACT_EVERY_BYTES (UINT64_C(4) << 20)
#define ATTEMPTS_MAX 3

static void history_read(void *context);
static void publish_write(struct arbiter_etcd *arbiter);

/* Digits in full, so that keys sort as numbers do. */
static void history_key(const struct arbiter_etcd *arbiter, uint64_t seq, char *ret_key) {
    int length = snprintf(ret_key, ETCD_KEY_MAX + 1, "%shistory/%020" PRIu64, arbiter->prefix, seq);
    assert(length > 0 && length <= ETCD_KEY_MAX);
    (void)length;
}

static void published(struct arbiter_etcd *arbiter, const struct epochs_entry *entry) {
    const struct arbiter_sink *sink = arbiter->base.setup.sink;
    if (epochs_add(&arbiter->base.epochs, entry))
        sink->published(sink->context, entry);
}

/* ---- following ---- */

static void history_seen(struct arbiter_etcd *arbiter, const struct etcd_kv *kv) {
    struct epochs_entry entry;
    if (arbiter_decode_epoch(kv->value, &entry))
        mrn_log_warning("value_unreadable", "key=%s", mrn_log_quote(kv->key));
    else
        published(arbiter, &entry);
}

static void history_later(struct arbiter_etcd *arbiter) {
    loop_timer_set(arbiter->base.setup.loop, &arbiter->history_timer,
                   etcd_retry_delay_ms(arbiter->etcd) + 1, history_read, arbiter);
}

static void history_changed(void *context, const struct etcd_change *change) {
    struct arbiter_etcd *arbiter = context;
    switch (change->kind) {
    case ETCD_CHANGE_CREATED: break;
    case ETCD_CHANGE_COMPACTED: history_later(arbiter); break;
    case ETCD_CHANGE_EVENTS:
        for (uint32_t i = 0; i < change->event_count; i++)
            if (!change->events[i].deleted)
                history_seen(arbiter, &change->events[i].kv);
        break;
    }
}

static void history_was_read(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    char key[ETCD_KEY_MAX + 1], end[ETCD_KEY_MAX + 1];
    if (answer->error) {
        history_later(arbiter);
        return;
    }
    for (uint32_t i = 0; i < answer->responses[0].kv_count; i++)
        history_seen(arbiter, &answer->responses[0].kvs[i]);
    arbiter_etcd_key(arbiter, "history/", key);
    etcd_prefix_end(key, end);
    arbiter->history_watch =
        etcd_watch_start(arbiter->etcd, key, end, answer->revision + 1, history_changed, arbiter);
    if (!arbiter->history_watch)
        history_later(arbiter);
}

static void history_read(void *context) {
    struct arbiter_etcd *arbiter = context;
    char key[ETCD_KEY_MAX + 1], end[ETCD_KEY_MAX + 1];
    etcd_watch_stop(arbiter->history_watch);
    arbiter->history_watch = NULL;
    arbiter_etcd_key(arbiter, "history/", key);
    etcd_prefix_end(key, end);
    if (etcd_range(arbiter->etcd, key, end, 0, history_was_read, arbiter))
        history_later(arbiter);
}

void arbiter_etcd_publish_start(struct arbiter_etcd *arbiter) {
    history_read(arbiter);
}

void arbiter_etcd_publish_anew(struct arbiter_etcd *arbiter) {
    epochs_clear(&arbiter->base.epochs);
    arbiter->latest_known = false;
    arbiter->compact_mark = 0;
    history_read(arbiter);
}

void arbiter_etcd_publish_stop(struct arbiter_etcd *arbiter) {
    loop_timer_clear(arbiter->base.setup.loop, &arbiter->history_timer);
    etcd_watch_stop(arbiter->history_watch);
    arbiter->history_watch = NULL;
    free(arbiter->publish_latest);
    free(arbiter->publish_history);
    arbiter->publish_latest = arbiter->publish_history = NULL;
}

/* ---- publishing ---- */

static void publish_end(struct arbiter_etcd *arbiter, int error) {
    const struct arbiter_sink *sink = arbiter->base.setup.sink;
    free(arbiter->publish_latest);
    free(arbiter->publish_history);
    arbiter->publish_latest = arbiter->publish_history = NULL;
    arbiter->publish_running = false;
    sink->publish_done(sink->context, error);
}

static void latest_seen(struct arbiter_etcd *arbiter, const struct etcd_response *response) {
    struct epochs_entry entry;
    arbiter->latest_known = true;
    arbiter->latest_revision = response->kv_count ? response->kvs[0].mod_revision : 0;
    arbiter->latest_seq = 0;
    if (!response->kv_count)
        return;
    if (arbiter_decode_epoch(response->kvs[0].value, &entry))
        mrn_log_warning("value_unreadable", "key=latest"); /* and is replaced */
    else
        arbiter->latest_seq = entry.seq;
}

static void compacted(void *context, const struct etcd_answer *answer) {
    (void)context;
    if (answer->error &&
        answer->error != MRN_ERR_INVALID) /* INVALID: compacted beyond it already */
        mrn_log_warning("compaction", "error=%s message=%s", mrn_error_name(answer->error),
                        mrn_log_quote(answer->message));
}

static void compact_sometimes(struct arbiter_etcd *arbiter, uint64_t revision) {
    arbiter->compact_count++;
    if (arbiter->compact_count < COMPACT_EVERY && arbiter->compact_bytes < COMPACT_EVERY_BYTES)
        return;
    if (arbiter->compact_mark)
        (void)etcd_compact(arbiter->etcd, arbiter->compact_mark, compacted, NULL); /* or later */
    arbiter->compact_mark = revision;
    arbiter->compact_count = 0;
    arbiter->compact_bytes = 0;
}

static void publish_succeeded(struct arbiter_etcd *arbiter, uint64_t revision) {
    arbiter->latest_revision = revision;
    arbiter->latest_seq = arbiter->publishing.seq;
    arbiter->compact_bytes +=
        strlen(arbiter->publish_latest) + strlen(arbiter->publish_history) + 256;
    arbiter->base.health.publications++;
    arbiter->base.health.no_space = false;
    published(arbiter, &arbiter->publishing);
    compact_sometimes(arbiter, revision);
    publish_end(arbiter, 0);
}

/* A compare failed. Answers: latest, the leader key. */
static void publish_compared(struct arbiter_etcd *arbiter, const struct etcd_answer *answer) {
    const struct etcd_response *leader = &answer->responses[1];
    uint64_t holder = leader->kv_count ? leader->kvs[0].mod_revision : 0;
    latest_seen(arbiter, &answer->responses[0]);
    if (arbiter->latest_seq == arbiter->publishing.seq)
        publish_succeeded(arbiter, arbiter->latest_revision); /* by an attempt told unknown */
    else if (holder != arbiter->publish_key_revision)
        publish_end(arbiter, MRN_ERR_CLOSED); /* another leads by now */
    else if (arbiter->latest_seq > arbiter->publishing.seq)
        publish_end(arbiter, MRN_ERR_EXISTS);
    else if (++arbiter->publish_attempts < ATTEMPTS_MAX)
        publish_write(arbiter);
    else
        publish_end(arbiter, MRN_ERR_TIMEOUT);
}

static void publish_written(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (!answer->error && answer->succeeded) {
        publish_succeeded(arbiter, answer->revision);
    } else if (!answer->error && answer->response_count == 2) {
        publish_compared(arbiter, answer);
    } else {
        mrn_log_warning("publication", "seq=%" PRIu64 " error=%s message=%s",
                        arbiter->publishing.seq, mrn_error_name(answer->error),
                        mrn_log_quote(answer->message));
        if (answer->no_space)
            arbiter_etcd_no_space(arbiter, true);
        arbiter->latest_known = false;
        publish_end(arbiter, answer->error ? answer->error : MRN_ERR_MALFORMED);
    }
}

static void publish_write(struct arbiter_etcd *arbiter) {
    char leader[ETCD_KEY_MAX + 1], latest[ETCD_KEY_MAX + 1], key[ETCD_KEY_MAX + 1];
    char oldest[ETCD_KEY_MAX + 1], kept[ETCD_KEY_MAX + 1];
    const struct epochs *epochs = &arbiter->base.epochs;
    arbiter_etcd_key(arbiter, "leader", leader);
    arbiter_etcd_key(arbiter, "latest", latest);
    arbiter_etcd_key(arbiter, "history/", oldest);
    history_key(arbiter, arbiter->publishing.seq, key);
    struct etcd_compare compares[] = {
        {ETCD_MOD, leader, arbiter->publish_key_revision},
        {ETCD_MOD, latest, arbiter->latest_revision},
    };
    struct etcd_operation writes[3] = {
        {.kind = ETCD_OP_PUT, .key = latest, .value = arbiter->publish_latest},
        {.kind = ETCD_OP_PUT, .key = key, .value = arbiter->publish_history},
    };
    uint32_t count = 2;
    if (epochs->count == EPOCHS_KEPT && epochs_newest(epochs)->seq < arbiter->publishing.seq) {
        history_key(arbiter, epochs_at(epochs, 1)->seq, kept); /* the oldest one that stays */
        writes[count++] =
            (struct etcd_operation){.kind = ETCD_OP_DELETE, .key = oldest, .range_end = kept};
    }
    struct etcd_operation reads[] = {
        {.kind = ETCD_OP_RANGE, .key = latest},
        {.kind = ETCD_OP_RANGE, .key = leader},
    };
    struct etcd_txn txn = {.compares = compares,
                           .compare_count = 2,
                           .success = writes,
                           .success_count = count,
                           .failure = reads,
                           .failure_count = 2};
    int error = etcd_transaction(arbiter->etcd, &txn, publish_written, arbiter);
    if (error)
        publish_end(arbiter, error);
}

static void publish_newer(struct arbiter_etcd *arbiter) {
    if (arbiter->latest_seq > arbiter->publishing.seq)
        publish_end(arbiter, MRN_ERR_EXISTS);
    else if (arbiter->latest_seq == arbiter->publishing.seq)
        publish_end(arbiter, 0);
    else
        publish_write(arbiter);
}

static void latest_was_read(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (answer->error) {
        publish_end(arbiter, answer->error);
        return;
    }
    latest_seen(arbiter, &answer->responses[0]);
    publish_newer(arbiter);
}

int arbiter_etcd_publish(struct arbiter *base, const struct arbiter_epoch *epoch) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    char key[ETCD_KEY_MAX + 1];
    if (arbiter->publish_running || !arbiter->ready || !base->leader.ours)
        return MRN_ERR_CLOSED;
    arbiter->publishing = epoch->entry;
    arbiter->publish_key_revision = base->leader.revision;
    arbiter->publish_attempts = 0;
    arbiter->publish_latest = arbiter_encode_epoch(epoch, true);
    arbiter->publish_history = arbiter_encode_epoch(epoch, false);
    arbiter->publish_running = true;
    arbiter_etcd_key(arbiter, "latest", key);
    if (!arbiter->publish_latest || !arbiter->publish_history)
        publish_end(arbiter, MRN_ERR_NO_MEMORY);
    else if (arbiter->latest_known)
        publish_newer(arbiter);
    else if (etcd_range(arbiter->etcd, key, NULL, 0, latest_was_read, arbiter))
        publish_end(arbiter, MRN_ERR_NO_MEMORY);
    return 0;
}
