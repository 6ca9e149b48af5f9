#include <jansson.h>

#include "controlplane/admin.h"
#include "controlplane/arbiter_values.h"

char *admin_epochs_json(const struct admin_setup *setup, uint64_t from, uint32_t limit) {
    const struct epochs *epochs = arbiter_epochs(setup->arbiter);
    uint32_t place = epochs_find(epochs, from);
    json_t *root = json_object(), *array = json_array();
    /* Without `from` the newest are what is wanted. */
    if (from == 0 && epochs->count > limit)
        place = epochs->count - limit;
    for (; place < epochs->count && json_array_size(array) < limit; place++)
        (void)json_array_append_new(array, arbiter_json_of_epoch(epochs_at(epochs, place)));
    (void)json_object_set_new(root, "epochs", array);
    const struct epochs_entry *newest = epochs_newest(epochs);
    (void)json_object_set_new(root, "newest", arbiter_json_number(newest ? newest->seq : 0));
    char *text = json_dumps(root, JSON_COMPACT);
    json_decref(root);
    return text;
}

static void add(json_t *array, const char *text) {
    (void)json_array_append_new(array, json_string(text));
}

json_t *admin_alarms(const struct admin_setup *setup, const struct mailbox_facts *facts) {
    const struct arbiter_health *health = arbiter_health(setup->arbiter);
    const struct etcd_metrics *etcd = arbiter_etcd_metrics(setup->arbiter);
    json_t *array = json_array();
    if (health->no_space)
        add(array, "etcd is full: compact and defragment its members, then etcdctl alarm disarm");
    if (health->went_back)
        add(array, "etcd was restored from an older snapshot: maroonctl term-base --raise");
    if (health->refused_term)
        add(array, "a term that goes back was refused: maroonctl term-base --raise");
    if (etcd && etcd->failures_in_a_row >= ADMIN_ETCD_AWAY_FAILURES)
        add(array, "etcd does not answer: commits go on, no take-over, range or publication");
    char dumps[ADMIN_ALARM_BYTES];
    if (admin_dumps_alarm(setup, dumps))
        add(array, dumps);
    const struct mailbox_status *status = mailbox_status(setup->mailbox);
    if (atomic_load(&status->idempotency_keys) * 10 >=
            atomic_load(&status->idempotency_keys_max) * 9 &&
        atomic_load(&status->idempotency_keys_max))
        add(array, "nearly all idempotency keys are taken; then new ones get 429 until the oldest "
                   "is idempotency-span-s old: send fewer requests with one");
    if (facts->role == MAILBOX_ROLE_QUARANTINED)
        add(array, "this node's results differ from those of k others");
    if (facts->role == MAILBOX_ROLE_LOST)
        add(array, "more memories are lost than a quorum can do without, or this node has stopped: "
                   "its log says which; maroonctl restore begins anew from a dump");
    return array;
}
