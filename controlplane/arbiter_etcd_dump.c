#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/arbiter_etcd.h"
#include "controlplane/log.h"
#include "maroon/error.h"

/* dump/latest: the newest complete dump, after the store says so too.
 *
 *   tell --> transaction under compares of the key as read and of our own registration
 *        --> written | that one or a newer one is there | another store has our index: given up
 *
 * The first compare makes the key go forward only, whoever writes when; the second keeps out a
 * process that stood still while its index was given away. Whoever dumps need not lead, so the
 * leader key is no fence for it. Everybody reads the key now and then. */
#define READ_MS 5000
#define ATTEMPTS_MAX 4

static void dump_read(void *context);
static void dump_write(struct arbiter_etcd *arbiter);

static void read_later(struct arbiter_etcd *arbiter, uint32_t delay_ms) {
    loop_timer_set(arbiter->base.setup.loop, &arbiter->dump_timer, delay_ms, dump_read, arbiter);
}

/* Takes what the key holds. What cannot be read counts as nothing, and is replaced. */
void arbiter_etcd_dump_seen(struct arbiter_etcd *arbiter, const struct etcd_response *response) {
    const struct etcd_kv *kv = response->kv_count ? &response->kvs[0] : NULL;
    struct arbiter_dump *dump = &arbiter->base.dump;
    arbiter->dump_revision = kv ? kv->mod_revision : 0;
    json_t *root = kv ? json_loadb(kv->value, kv->value_bytes, JSON_REJECT_DUPLICATES, NULL) : NULL;
    uint64_t seq = 0;
    if (root && kv->value_bytes < sizeof dump->text &&
        !arbiter_json_u64(root, "seq", UINT64_MAX, &seq) && seq) {
        dump->seq = seq;
        snprintf(dump->text, sizeof dump->text, "%s", kv->value);
    } else {
        if (kv)
            mrn_log_warning("value_unreadable", "key=dump/latest");
        dump->seq = 0;
        dump->text[0] = '\0';
    }
    dump->reads++;
    json_decref(root);
}

static void dump_end(struct arbiter_etcd *arbiter, int error) {
    if (error)
        mrn_log_warning("dump_pointer", "seq=%" PRIu64 " error=%s", arbiter->dump_wanted.seq,
                        mrn_error_name(error));
    arbiter->dump_wanted.seq = 0; /* who still sees the store ahead tells again */
    arbiter->dump_running = false;
    read_later(arbiter, READ_MS);
}

/* After a read of the key: is there something to write? */
static void dump_go_on(struct arbiter_etcd *arbiter) {
    const struct arbiter_member *own =
        &arbiter->base.members[arbiter->base.setup.config->node_index];
    if (!arbiter->dump_wanted.seq || arbiter->dump_wanted.seq <= arbiter->base.dump.seq)
        dump_end(arbiter, 0);
    else if (own->incarnation != arbiter->base.incarnation)
        dump_end(arbiter, MRN_ERR_CLOSED);
    else if (arbiter->dump_attempts++ == ATTEMPTS_MAX)
        dump_end(arbiter, MRN_ERR_TIMEOUT);
    else
        dump_write(arbiter);
}

static void dump_written(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (answer->error) {
        if (answer->no_space)
            arbiter_etcd_no_space(arbiter, true);
        dump_end(arbiter, answer->error);
    } else if (answer->succeeded) {
        arbiter->dump_wanted.reads = arbiter->base.dump.reads + 1;
        arbiter->base.dump = arbiter->dump_wanted;
        arbiter->dump_revision = answer->revision;
        arbiter->compact_bytes += strlen(arbiter->dump_wanted.text) + 256;
        mrn_log_info("dump_pointer", "seq=%" PRIu64, arbiter->dump_wanted.seq);
        dump_end(arbiter, 0);
    } else {
        arbiter_etcd_dump_seen(arbiter, &answer->responses[0]);
        dump_go_on(arbiter);
    }
}

static void dump_write(struct arbiter_etcd *arbiter) {
    uint8_t index = arbiter->base.setup.config->node_index;
    char key[ETCD_KEY_MAX + 1], own[ETCD_KEY_MAX + 1];
    arbiter_etcd_key(arbiter, "dump/latest", key);
    arbiter_etcd_key_number(arbiter, "nodes/", index, own);
    struct etcd_compare compares[] = {
        {ETCD_MOD, key, arbiter->dump_revision},
        {ETCD_MOD, own, arbiter->base.members[index].mod_revision},
    };
    struct etcd_operation put = {
        .kind = ETCD_OP_PUT, .key = key, .value = arbiter->dump_wanted.text};
    struct etcd_operation read = {.kind = ETCD_OP_RANGE, .key = key};
    struct etcd_txn txn = {.compares = compares,
                           .compare_count = 2,
                           .success = &put,
                           .success_count = 1,
                           .failure = &read,
                           .failure_count = 1};
    int error = etcd_transaction(arbiter->etcd, &txn, dump_written, arbiter);
    if (error)
        dump_end(arbiter, error);
}

static void dump_was_read(void *context, const struct etcd_answer *answer) {
    struct arbiter_etcd *arbiter = context;
    if (answer->error) {
        arbiter->dump_wanted.seq = 0;
        dump_end(arbiter, 0); /* etcd's absence is said elsewhere */
        return;
    }
    arbiter_etcd_dump_seen(arbiter, &answer->responses[0]);
    dump_go_on(arbiter);
}

static void dump_read(void *context) {
    struct arbiter_etcd *arbiter = context;
    char key[ETCD_KEY_MAX + 1];
    if (arbiter->dump_running)
        return;
    arbiter->dump_running = true;
    arbiter->dump_attempts = 0;
    arbiter_etcd_key(arbiter, "dump/latest", key);
    if (etcd_range(arbiter->etcd, key, NULL, 0, dump_was_read, arbiter))
        dump_end(arbiter, MRN_ERR_NO_MEMORY);
}

void arbiter_etcd_dump_start(struct arbiter_etcd *arbiter) {
    const char *url = arbiter->base.setup.config->store.url;
    if (url && *url)
        dump_read(arbiter);
}

void arbiter_etcd_dump_anew(struct arbiter_etcd *arbiter) {
    arbiter->base.dump.seq = 0;
    arbiter->base.dump.text[0] = '\0';
    arbiter_etcd_dump_start(arbiter);
}

void arbiter_etcd_dump_stop(struct arbiter_etcd *arbiter) {
    loop_timer_clear(arbiter->base.setup.loop, &arbiter->dump_timer);
}

void arbiter_etcd_dump_tell(struct arbiter *base, uint64_t seq, const char *text) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    if (!arbiter->ready || arbiter->dump_wanted.seq)
        return;
    arbiter->dump_wanted.seq = seq;
    snprintf(arbiter->dump_wanted.text, sizeof arbiter->dump_wanted.text, "%s", text);
    dump_read(arbiter); /* one that runs goes on to write it */
}

void arbiter_etcd_dump_look(struct arbiter *base) {
    struct arbiter_etcd *arbiter = etcd_arbiter(base);
    if (arbiter->ready)
        dump_read(arbiter);
}
