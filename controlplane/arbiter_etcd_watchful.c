#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/arbiter_etcd.h"
#include "controlplane/log.h"
#include "maroon/error.h"

/* What goes wrong with etcd itself.
 *
 * Full: every node asks for etcd's alarms now and then, so that each of them can say it.
 *
 * Restored from an older snapshot: its revisions go back, and terms and incarnations, which are
 * made of them, would too. A linearizable read that was sent after we had seen revision R and
 * answers with less shows it. Then everything is read anew, and no term is led that is not above
 * all that was promised or registered before, until an operator has raised term_base. */
#define ALARM_MS 5000
#define RAISE_AGAIN_MS 200

/* ---- full ---- */

void arbiter_etcd_no_space(struct arbiter_etcd *arbiter, bool no_space) {
    struct arbiter_health *health = &arbiter->base.health;
    if (no_space && !health->no_space)
        mrn_log_error(
            "etcd_full",
            "db_bytes=%" PRIu64 " do=\"compact and defragment every member, then "
            "etcdctl alarm disarm; commits go on, but no take-over, range or publication\"",
            health->db_bytes);
    else if (!no_space && health->no_space)
        mrn_log_info("etcd_has_room", "db_bytes=%" PRIu64, health->db_bytes);
    health->no_space = no_space;
}

static void ask_alarms(void *context);

static void status_told(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (!answer->error)
        arbiter->base.health.db_bytes = answer->db_bytes;
}

static void alarms_told(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    loop_timer_set(arbiter->base.setup.loop, &arbiter->alarm_timer, ALARM_MS, ask_alarms, arbiter);
    if (!answer->error)
        arbiter_etcd_no_space(arbiter, answer->no_space);
}

static void ask_alarms(void *context) {
    struct arbiter_etcd *arbiter = context;
    (void)etcd_status(arbiter->etcd, status_told, arbiter);
    if (etcd_alarms(arbiter->etcd, alarms_told, arbiter))
        loop_timer_set(arbiter->base.setup.loop, &arbiter->alarm_timer, ALARM_MS, ask_alarms,
                       arbiter);
}

void arbiter_etcd_watchful_start(struct arbiter_etcd *arbiter) {
    ask_alarms(arbiter);
}

void arbiter_etcd_watchful_stop(struct arbiter_etcd *arbiter) {
    loop_timer_clear(arbiter->base.setup.loop, &arbiter->alarm_timer);
    loop_timer_clear(arbiter->base.setup.loop, &arbiter->raise_timer);
}

/* ---- restored from the past ---- */

static void caught_up(struct arbiter_etcd *arbiter) {
    struct arbiter_health *health = &arbiter->base.health;
    if (!health->went_back || arbiter->term_base + arbiter->newest_revision <= health->term_floor)
        return;
    mrn_log_info("etcd_caught_up",
                 "term_base=%" PRIu64 " revision=%" PRIu64 " terms_above=%" PRIu64,
                 arbiter->term_base, arbiter->newest_revision, health->term_floor);
    health->went_back = false;
    health->refused_term = 0; /* also of a node that refused one and never wins again */
}

bool arbiter_etcd_store_seen(struct arbiter_etcd *arbiter, uint64_t sent_at, uint64_t revision) {
    struct arbiter_health *health = &arbiter->base.health;
    if (revision >= sent_at) {
        if (revision > arbiter->newest_revision)
            arbiter->newest_revision = revision;
        caught_up(arbiter);
        return false;
    }
    if (arbiter->term_base + sent_at > health->term_floor) /* a term may have come of any of them */
        health->term_floor = arbiter->term_base + sent_at;
    for (int i = 0; i < WIRE_NODES_MAX; i++)
        if (arbiter->base.members[i].incarnation > health->term_floor)
            health->term_floor = arbiter->base.members[i].incarnation;
    health->went_back = true;
    health->went_from = sent_at;
    health->went_to = revision;
    mrn_log_error("etcd_went_back",
                  "from_revision=%" PRIu64 " to=%" PRIu64 " terms_must_exceed=%" PRIu64
                  " do=\"etcd was restored from an older snapshot: maroonctl term-base --raise\"",
                  sent_at, revision, health->term_floor);
    arbiter->newest_revision = revision;
    arbiter->next_revision = 0;
    arbiter_etcd_follow_anew(arbiter);
    arbiter_etcd_publish_anew(arbiter);
    arbiter_etcd_dump_anew(arbiter);
    return true;
}

static void registered_again(void *context, const struct etcd_answer *answer) {
    (void)context;
    if (answer->error || !answer->succeeded) /* the next read of everything tries again */
        mrn_log_warning("registration", "error=%s message=%s", mrn_error_name(answer->error),
                        mrn_log_quote(answer->message));
}

void arbiter_etcd_register_again(struct arbiter_etcd *arbiter, uint64_t mod_revision) {
    mrn_log_warning("registration_gone", "node=%u incarnation=%" PRIu64,
                    arbiter->base.setup.config->node_index, arbiter->base.incarnation);
    (void)arbiter_etcd_register(arbiter, mod_revision, registered_again);
}

void arbiter_etcd_term_refused(struct arbiter_etcd *arbiter, uint64_t term) {
    struct arbiter_health *health = &arbiter->base.health;
    health->refused_term = term;
    mrn_log_error("term_goes_back",
                  "won=%" PRIu64 " promised=%" PRIu64
                  " do=\"etcd was restored from an older snapshot: maroonctl term-base --raise\"",
                  term, health->term_floor);
}

/* ---- raising term_base ---- */

static void raise_read(void *context);

static void raise_again(struct arbiter_etcd *arbiter) {
    loop_timer_set(arbiter->base.setup.loop, &arbiter->raise_timer,
                   RAISE_AGAIN_MS + etcd_retry_delay_ms(arbiter->etcd), raise_read, arbiter);
}

static void raise_written(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (answer->error || !answer->succeeded)
        raise_again(arbiter);
    else
        raise_read(arbiter);
}

static void raise_was_read(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    char key[ETCD_KEY_MAX + 1];
    if (answer->error) {
        raise_again(arbiter);
        return;
    }
    const struct etcd_response *found = &answer->responses[0];
    arbiter_etcd_term_base_seen(arbiter, found->kv_count ? &found->kvs[0] : NULL);
    if (arbiter->term_base >= arbiter->raise_to) {
        mrn_log_warning("term_base", "is=%" PRIu64 " wanted=%" PRIu64, arbiter->term_base,
                        arbiter->raise_to);
        arbiter->raise_running = false;
        caught_up(arbiter);
        return;
    }
    arbiter_etcd_key(arbiter, "term_base", key);
    char *value = arbiter_encode_number("termBase", arbiter->raise_to);
    struct etcd_compare compare = {ETCD_MOD, key, arbiter->term_base_revision};
    struct etcd_operation put = {.kind = ETCD_OP_PUT, .key = key, .value = value};
    struct etcd_txn txn = {
        .compares = &compare, .compare_count = 1, .success = &put, .success_count = 1};
    if (!value || etcd_transaction(arbiter->etcd, &txn, raise_written, arbiter))
        raise_again(arbiter);
    free(value);
}

static void raise_read(void *context) {
    struct arbiter_etcd *arbiter = context;
    char key[ETCD_KEY_MAX + 1];
    arbiter_etcd_key(arbiter, "term_base", key);
    if (etcd_range(arbiter->etcd, key, NULL, 0, raise_was_read, arbiter))
        raise_again(arbiter);
}

void arbiter_etcd_raise_term_base(struct arbiter *base, uint64_t to) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    if (!arbiter->ready || to <= arbiter->raise_to)
        return;
    arbiter->raise_to = to;
    if (arbiter->raise_running)
        return;
    arbiter->raise_running = true;
    raise_read(arbiter);
}
