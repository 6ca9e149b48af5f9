#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/arbiter_etcd.h"
#include "controlplane/decimal.h"
#include "controlplane/log.h"
#include "maroon/error.h"

/* What others do comes by one watch over [leader, rangf): leader, nodes/, range-leases/,
 * range-owners/, ranges/ (but not latest and history). It starts behind a read of everything; when
 * the watch is compacted away, or a read on a timer shows what the watch should have told, all is
 * read anew.
 *
 *   sync: leader, nodes --> range-leases/ by pages --> ranges/ by pages --> watch from the first
 *         read's revision + 1                                                                  */
#define PAGE_KEYS 500
#define POLL_MS 1000     /* a watch may be silent: look at the leader key ourselves */
#define EXPIRED_MS 3000  /* an expired range is told again until it is sealed */
#define LATENCY_WEIGHT 8 /* of the past in the smoothed latency */

static void sync_begin(void *context);
static void sync_page(struct arbiter_etcd *arbiter);

void arbiter_etcd_latency(struct arbiter_etcd *arbiter, const struct etcd_answer *answer) {
    uint64_t *smoothed = &arbiter->base.health.latency_us;
    if (!answer->error)
        *smoothed = *smoothed
                        ? (*smoothed * (LATENCY_WEIGHT - 1) + answer->latency_us) / LATENCY_WEIGHT
                        : answer->latency_us;
}

/* ---- ranges ---- */

struct range_entry *arbiter_etcd_range_find(struct arbiter_etcd *arbiter, uint64_t range) {
    struct range_entry *entry = arbiter->ranges[range % ARBITER_RANGE_BUCKETS];
    while (entry && entry->range != range)
        entry = entry->next;
    return entry;
}

static struct range_entry *range_make(struct arbiter_etcd *arbiter, uint64_t range) {
    struct range_entry *entry = arbiter_etcd_range_find(arbiter, range);
    if (entry)
        return entry;
    if (arbiter->range_count == ARBITER_RANGE_ENTRIES_MAX) {
        mrn_log_warning("ranges_full", "range=%" PRIu64 " max=%d", range,
                        ARBITER_RANGE_ENTRIES_MAX);
        return NULL;
    }
    entry = calloc(1, sizeof *entry);
    if (!entry)
        return NULL;
    entry->range = range;
    entry->next = arbiter->ranges[range % ARBITER_RANGE_BUCKETS];
    arbiter->ranges[range % ARBITER_RANGE_BUCKETS] = entry;
    arbiter->range_count++;
    return entry;
}

static void range_remove(struct arbiter_etcd *arbiter, uint64_t range) {
    struct range_entry **link = &arbiter->ranges[range % ARBITER_RANGE_BUCKETS];
    while (*link && (*link)->range != range)
        link = &(*link)->next;
    struct range_entry *entry = *link;
    if (!entry)
        return;
    *link = entry->next;
    arbiter->range_count--;
    free(entry);
}

/* Number behind prefix + name, or false. */
static bool number_after(const struct arbiter_etcd *arbiter, const char *key, const char *name,
                         uint64_t *ret_number) {
    size_t prefix = strlen(arbiter->prefix), length = strlen(name);
    if (strncmp(key + prefix, name, length) != 0)
        return false;
    return decimal_read(key + prefix + length, ret_number);
}

static void record_seen(struct arbiter_etcd *arbiter, uint64_t range, const struct etcd_kv *kv) {
    struct arbiter_range record;
    if (arbiter_decode_range(kv->value, &record)) {
        mrn_log_warning("value_unreadable", "key=%s", mrn_log_quote(kv->key));
        return;
    }
    if (record.sealed) {
        range_remove(arbiter, range);
        return;
    }
    struct range_entry *entry = range_make(arbiter, range);
    if (!entry || kv->mod_revision < entry->record_revision)
        return;
    entry->record_revision = kv->mod_revision;
    entry->owner = record.owner;
}

static void lease_seen(struct arbiter_etcd *arbiter, uint64_t range, const struct etcd_kv *kv,
                       bool deleted) {
    struct range_entry *entry =
        deleted ? arbiter_etcd_range_find(arbiter, range) : range_make(arbiter, range);
    if (!entry || kv->mod_revision < entry->lease_revision)
        return;
    entry->lease_revision = kv->mod_revision;
    entry->leased = !deleted;
    entry->lease = deleted ? 0 : kv->lease;
    entry->seen = arbiter->sync_number;
    uint64_t owner;
    if (!deleted && !arbiter_decode_number(kv->value, "owner", &owner))
        entry->owner = owner;
}

static void tell_expired(struct arbiter_etcd *arbiter, const struct range_entry *entry) {
    const struct arbiter_sink *sink = arbiter->base.setup.sink;
    sink->range_expired(sink->context, entry->range, entry->owner);
}

static void tell_all_expired(void *context) {
    struct arbiter_etcd *arbiter = context;
    for (uint32_t i = 0; i < ARBITER_RANGE_BUCKETS && !arbiter->syncing; i++)
        for (struct range_entry *entry = arbiter->ranges[i]; entry; entry = entry->next)
            if (!entry->leased && entry->record_revision)
                tell_expired(arbiter, entry);
    loop_timer_set(arbiter->base.setup.loop, &arbiter->expired_timer, EXPIRED_MS, tell_all_expired,
                   arbiter);
}

/* ---- leader key, term base, registrations ---- */

void arbiter_etcd_term_base_seen(struct arbiter_etcd *arbiter, const struct etcd_kv *kv) {
    uint64_t base = 0;
    if (kv && arbiter_decode_number(kv->value, "termBase", &base)) {
        mrn_log_error("value_unreadable", "key=term_base");
        return;
    }
    arbiter->term_base = arbiter->base.health.term_base = base;
    arbiter->term_base_revision = kv ? kv->mod_revision : 0;
}

void arbiter_etcd_leader_seen(struct arbiter_etcd *arbiter, const struct etcd_kv *kv,
                              uint64_t known_at) {
    struct arbiter *base = &arbiter->base;
    const struct arbiter_sink *sink = base->setup.sink;
    struct arbiter_leader leader = {.node = MAILBOX_NODE_NONE};
    struct arbiter_leader_value value;
    if (known_at < arbiter->leader_known_at)
        return;
    if (kv && arbiter_decode_leader(kv->value, &value)) {
        mrn_log_error("value_unreadable", "key=leader do=\"delete the key, or restore it\"");
        return;
    }
    if (kv) {
        leader = (struct arbiter_leader){
            .revision = kv->mod_revision,
            .term = value.term_base + kv->mod_revision,
            .token = value.token,
            .node = value.node,
            .ours = arbiter_token_is_ours(base, value.token),
        };
    }
    bool first = arbiter->leader_known_at == 0;
    arbiter->leader_known_at = known_at;
    if (known_at >
        arbiter->newest_revision) /* a read sent from here on that answers less: restored */
        arbiter->newest_revision = known_at;
    if (!first && leader.revision == base->leader.revision)
        return;
    base->leader = leader;
    mrn_log_info("leader_key", "node=%d revision=%" PRIu64 " term=%" PRIu64 " ours=%d",
                 leader.node == MAILBOX_NODE_NONE ? -1 : (int)leader.node, leader.revision,
                 leader.term, leader.ours);
    if (leader.ours)
        arbiter_etcd_campaign_won(arbiter, leader.token);
    sink->leader(sink->context, &leader);
}

void arbiter_etcd_member_seen(struct arbiter_etcd *arbiter, const struct etcd_kv *kv) {
    uint64_t index;
    struct arbiter_member member;
    if (!number_after(arbiter, kv->key, "nodes/", &index) || index >= WIRE_NODES_MAX ||
        arbiter_decode_member(kv->value, &member)) {
        mrn_log_warning("value_unreadable", "key=%s", mrn_log_quote(kv->key));
        return;
    }
    member.mod_revision = kv->mod_revision;
    arbiter->base.members[index] = member;
}

static void member_changed(struct arbiter_etcd *arbiter, const struct etcd_kv *kv) {
    struct arbiter *base = &arbiter->base;
    const struct arbiter_sink *sink = base->setup.sink;
    arbiter_etcd_member_seen(arbiter, kv);
    const struct arbiter_member *own = &base->members[base->setup.config->node_index];
    if (own->incarnation > base->incarnation)
        sink->index_lost(sink->context, own);
    sink->members(sink->context);
}

/* ---- the watch ---- */

static void event_seen(struct arbiter_etcd *arbiter, const struct etcd_event *event) {
    const struct etcd_kv *kv = &event->kv;
    const char *name = kv->key + strlen(arbiter->prefix);
    uint64_t number;
    if (strncmp(kv->key, arbiter->prefix, strlen(arbiter->prefix)) != 0)
        return;
    if (strcmp(name, "leader") == 0) {
        arbiter_etcd_leader_seen(arbiter, event->deleted ? NULL : kv, kv->mod_revision);
    } else if (strncmp(name, "nodes/", 6) == 0) {
        if (!event->deleted)
            member_changed(arbiter, kv);
    } else if (number_after(arbiter, kv->key, "ranges/", &number)) {
        if (!event->deleted)
            record_seen(arbiter, number, kv);
    } else if (number_after(arbiter, kv->key, "range-leases/", &number)) {
        lease_seen(arbiter, number, kv, event->deleted);
    }
}

static void changed(void *context, const struct etcd_change *change) {
    struct arbiter_etcd *arbiter = context;
    switch (change->kind) {
    case ETCD_CHANGE_CREATED: break;
    case ETCD_CHANGE_COMPACTED:
        mrn_log_info("watch_compacted", "revision=%" PRIu64, change->revision);
        loop_timer_set(arbiter->base.setup.loop, &arbiter->sync_timer, 0, sync_begin, arbiter);
        break;
    case ETCD_CHANGE_EVENTS:
        for (uint32_t i = 0; i < change->event_count; i++)
            event_seen(arbiter, &change->events[i]);
        /* Only now: a lease and its range's seal go in one revision, in either order. */
        for (uint32_t i = 0; i < change->event_count; i++) {
            uint64_t range;
            const struct etcd_event *event = &change->events[i];
            if (event->deleted && number_after(arbiter, event->kv.key, "range-leases/", &range)) {
                struct range_entry *entry = arbiter_etcd_range_find(arbiter, range);
                if (entry && !entry->leased)
                    tell_expired(arbiter, entry);
            }
        }
        break;
    }
}

/* ---- reading everything ---- */

static void sync_failed(struct arbiter_etcd *arbiter, const char *message) {
    mrn_log_warning("etcd_unavailable", "doing=read_all message=%s", mrn_log_quote(message));
    loop_timer_set(arbiter->base.setup.loop, &arbiter->sync_timer,
                   etcd_retry_delay_ms(arbiter->etcd) + 1, sync_begin, arbiter);
}

static void sync_end(struct arbiter_etcd *arbiter) {
    char from[ETCD_KEY_MAX + 1], end[ETCD_KEY_MAX + 1];
    for (uint32_t i = 0; i < ARBITER_RANGE_BUCKETS; i++) {
        for (struct range_entry *entry = arbiter->ranges[i]; entry; entry = entry->next) {
            if (entry->leased && entry->seen != arbiter->sync_number) {
                entry->leased = false; /* it ended while we did not look */
                entry->lease_revision = arbiter->sync_revision;
            }
        }
    }
    arbiter->syncing = false;
    arbiter_etcd_key(arbiter, "leader", from);
    arbiter_etcd_key(arbiter, "rangf", end);
    arbiter->watch =
        etcd_watch_start(arbiter->etcd, from, end, arbiter->sync_revision + 1, changed, arbiter);
    if (!arbiter->watch)
        sync_failed(arbiter, "no memory");
    tell_all_expired(arbiter);
}

static void page_read(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (answer->error) {
        sync_failed(arbiter, answer->message);
        return;
    }
    const struct etcd_response *page = &answer->responses[0];
    for (uint32_t i = 0; i < page->kv_count; i++) {
        uint64_t range;
        if (number_after(arbiter, page->kvs[i].key, "range-leases/", &range))
            lease_seen(arbiter, range, &page->kvs[i], false);
        else if (number_after(arbiter, page->kvs[i].key, "ranges/", &range))
            record_seen(arbiter, range, &page->kvs[i]);
    }
    if (!page->more || page->kv_count == 0) {
        sync_end(arbiter);
        return;
    }
    /* The page behind this key: no key of ours goes on with a blank or less. */
    const char *last = page->kvs[page->kv_count - 1].key;
    if (strlen(last) + 1 > ETCD_KEY_MAX) {
        sync_end(arbiter);
        return;
    }
    snprintf(arbiter->sync_from, sizeof arbiter->sync_from, "%.254s ", last);
    sync_page(arbiter);
}

static void sync_page(struct arbiter_etcd *arbiter) {
    char end[ETCD_KEY_MAX + 1];
    arbiter_etcd_key(arbiter, "rangf", end); /* behind range-leases/, range-owners/, ranges/ */
    if (etcd_range(arbiter->etcd, arbiter->sync_from, end, PAGE_KEYS, page_read, arbiter))
        sync_failed(arbiter, "no memory");
}

static void cluster_read(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (answer->error || answer->response_count != 3) {
        sync_failed(arbiter, answer->message);
        return;
    }
    const struct etcd_response *leader = &answer->responses[0], *nodes = &answer->responses[1],
                               *base = &answer->responses[2];
    arbiter->sync_revision = answer->revision;
    if (answer->revision > arbiter->newest_revision)
        arbiter->newest_revision = answer->revision;
    arbiter_etcd_term_base_seen(arbiter, base->kv_count ? &base->kvs[0] : NULL);
    arbiter_etcd_leader_seen(arbiter, leader->kv_count ? &leader->kvs[0] : NULL, answer->revision);
    uint64_t own_revision = 0;
    bool own_stands = false;
    for (uint32_t i = 0; i < nodes->kv_count; i++) {
        uint64_t index;
        member_changed(arbiter, &nodes->kvs[i]);
        if (number_after(arbiter, nodes->kvs[i].key, "nodes/", &index) &&
            index == arbiter->base.setup.config->node_index) {
            own_revision = nodes->kvs[i].mod_revision;
            own_stands = arbiter->base.members[index].incarnation >= arbiter->base.incarnation;
        }
    }
    if (!own_stands) /* etcd was restored from before we registered */
        arbiter_etcd_register_again(arbiter, own_revision);
    arbiter_etcd_key(arbiter, "range-leases/", arbiter->sync_from);
    sync_page(arbiter);
}

static void sync_begin(void *context) {
    struct arbiter_etcd *arbiter = context;
    char keys[3][ETCD_KEY_MAX + 1], nodes_end[ETCD_KEY_MAX + 1];
    etcd_watch_stop(arbiter->watch);
    arbiter->watch = NULL;
    arbiter->syncing = true;
    arbiter->sync_number++;
    arbiter_etcd_key(arbiter, "leader", keys[0]);
    arbiter_etcd_key(arbiter, "nodes/", keys[1]);
    arbiter_etcd_key(arbiter, "term_base", keys[2]);
    etcd_prefix_end(keys[1], nodes_end);
    struct etcd_operation reads[] = {
        {.kind = ETCD_OP_RANGE, .key = keys[0]},
        {.kind = ETCD_OP_RANGE, .key = keys[1], .range_end = nodes_end, .limit = 64},
        {.kind = ETCD_OP_RANGE, .key = keys[2]},
    };
    struct etcd_txn txn = {.success = reads, .success_count = 3};
    if (etcd_transaction(arbiter->etcd, &txn, cluster_read, arbiter))
        sync_failed(arbiter, "no memory");
}

/* ---- the read on a timer ---- */

static void poll_leader(void *context);

static void polled(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    const struct arbiter_sink *sink = arbiter->base.setup.sink;
    loop_timer_set(arbiter->base.setup.loop, &arbiter->poll_timer, POLL_MS, poll_leader, arbiter);
    if (answer->error || answer->response_count != 2)
        return;
    arbiter_etcd_latency(arbiter, answer);
    sink->latency(sink->context, arbiter->base.health.latency_us);
    const struct etcd_response *found = &answer->responses[0], *base = &answer->responses[1];
    uint64_t revision = found->kv_count ? found->kvs[0].mod_revision : 0;
    if (arbiter_etcd_store_seen(arbiter, arbiter->poll_sent_at, answer->revision))
        return;
    arbiter_etcd_term_base_seen(arbiter, base->kv_count ? &base->kvs[0] : NULL);
    if (revision == arbiter->base.leader.revision || arbiter->syncing ||
        answer->revision < arbiter->leader_known_at)
        return;
    /* The watch is late by a moment, or dead. Reading all is cheap and right in both cases. */
    arbiter_etcd_leader_seen(arbiter, found->kv_count ? &found->kvs[0] : NULL, answer->revision);
    sync_begin(arbiter);
}

static void poll_leader(void *context) {
    struct arbiter_etcd *arbiter = context;
    char keys[2][ETCD_KEY_MAX + 1];
    arbiter_etcd_key(arbiter, "leader", keys[0]);
    arbiter_etcd_key(arbiter, "term_base", keys[1]);
    struct etcd_operation reads[] = {{.kind = ETCD_OP_RANGE, .key = keys[0]},
                                     {.kind = ETCD_OP_RANGE, .key = keys[1]}};
    struct etcd_txn txn = {.success = reads, .success_count = 2};
    arbiter->poll_sent_at = arbiter->newest_revision;
    if (etcd_transaction(arbiter->etcd, &txn, polled, arbiter))
        loop_timer_set(arbiter->base.setup.loop, &arbiter->poll_timer, POLL_MS, poll_leader,
                       arbiter);
}

void arbiter_etcd_follow_start(struct arbiter_etcd *arbiter) {
    sync_begin(arbiter);
    poll_leader(arbiter);
}

static void ranges_forget(struct arbiter_etcd *arbiter) {
    for (uint32_t i = 0; i < ARBITER_RANGE_BUCKETS; i++)
        while (arbiter->ranges[i])
            range_remove(arbiter, arbiter->ranges[i]->range);
}

void arbiter_etcd_follow_anew(struct arbiter_etcd *arbiter) {
    const struct arbiter_sink *sink = arbiter->base.setup.sink;
    ranges_forget(arbiter);
    arbiter->leader_known_at = 0;
    /* Absent first: a key of a lower revision would look like news told out of order. */
    arbiter->base.leader = (struct arbiter_leader){.node = MAILBOX_NODE_NONE};
    sink->leader(sink->context, &arbiter->base.leader);
    sync_begin(arbiter);
}

void arbiter_etcd_follow_stop(struct arbiter_etcd *arbiter) {
    struct loop *loop = arbiter->base.setup.loop;
    etcd_watch_stop(arbiter->watch);
    arbiter->watch = NULL;
    loop_timer_clear(loop, &arbiter->sync_timer);
    loop_timer_clear(loop, &arbiter->poll_timer);
    loop_timer_clear(loop, &arbiter->expired_timer);
    ranges_forget(arbiter);
}
