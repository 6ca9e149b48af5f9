/* One node, no etcd: everything in data_dir/embedded.json, replaced as a whole (and synced) at each
 * change. There is nobody to compete with, so every campaign against the right revision is won.
 *
 * durable:     the file is the cluster; it outlives the process.
 * not durable: a process that ends takes the cluster's state along (n = 1 has no peers to recover
 *              from), so each start makes a new cluster, with a new cluster id; said in the log.
 *
 * A range's liveness is a timer here: its owner renews, or it is told expired. */
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controlplane/arbiter.h"
#include "controlplane/arbiter_values.h"
#include "controlplane/files.h"
#include "controlplane/log.h"
#include "maroon/error.h"

#define STATE_FILE "embedded.json"
#define STATE_MAX_BYTES (4u << 20)
#define RANGES_MAX 8192
#define CHECK_MS 1000

struct embedded_range {
    uint64_t number;
    struct arbiter_range record;
    bool pinned;
    uint64_t alive_until_ns; /* 0: its owner is gone */
};

struct embedded {
    struct arbiter base;
    uint64_t revision; /* of the last campaign won; grows over restarts */
    uint64_t next_range;
    struct embedded_range *ranges; /* RANGES_MAX */
    uint32_t range_count;
    struct loop_timer open_timer, check_timer, leader_timer;
};

static struct embedded *embedded_of(struct arbiter *arbiter) {
    return (struct embedded *)arbiter;
}

/* ---- the file ---- */

static json_t *ranges_json(const struct embedded *embedded) {
    json_t *array = json_array();
    for (uint32_t i = 0; i < embedded->range_count; i++) {
        json_t *range = arbiter_json_of_range(&embedded->ranges[i].record);
        if (!range ||
            json_object_set_new(range, "range", arbiter_json_number(embedded->ranges[i].number)) ||
            json_object_set_new(range, "pinned", json_boolean(embedded->ranges[i].pinned)) ||
            json_array_append_new(array, range)) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

static int save(const struct embedded *embedded) {
    char *genesis = arbiter_encode_genesis(&embedded->base.genesis);
    char *config = arbiter_encode_config(&embedded->base.genesis);
    json_t *root =
        json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "format", "maroon embedded 1", "revision",
                  arbiter_json_number(embedded->revision), "nextRange",
                  arbiter_json_number(embedded->next_range), "storeToken",
                  arbiter_json_number(embedded->base.store_token), "genesis",
                  genesis ? json_loads(genesis, 0, NULL) : NULL, "config",
                  config ? json_loads(config, 0, NULL) : NULL, "ranges", ranges_json(embedded));
    char *text = root ? json_dumps(root, JSON_INDENT(1)) : NULL;
    int error =
        text ? files_replace(embedded->base.setup.config->data_dir, STATE_FILE, text, strlen(text))
             : MRN_ERR_NO_MEMORY;
    free(text);
    free(genesis);
    free(config);
    json_decref(root);
    if (error)
        mrn_log_error("arbiter_not_saved", "file=%s/%s error=%s",
                      embedded->base.setup.config->data_dir, STATE_FILE, mrn_error_name(error));
    return error;
}

int arbiter_embedded_found(const char *data_dir, const struct arbiter_genesis *genesis,
                           uint64_t revision) {
    struct control_config config = {0};
    struct embedded embedded = {.revision = revision, .next_range = 1};
    snprintf(config.data_dir, sizeof config.data_dir, "%s", data_dir);
    embedded.base.setup.config = &config;
    embedded.base.genesis = *genesis;
    embedded.base.store_token = arbiter_random();
    return save(&embedded);
}

static int load_ranges(struct embedded *embedded, const json_t *array) {
    if (!json_is_array(array) || json_array_size(array) > RANGES_MAX)
        return MRN_ERR_CORRUPT;
    for (size_t i = 0; i < json_array_size(array); i++) {
        struct embedded_range *range = &embedded->ranges[i];
        const json_t *object = json_array_get(array, i);
        if (arbiter_range_of_json(object, &range->record) ||
            arbiter_json_u64(object, "range", WIRE_RANGE_COUNT - 1, &range->number))
            return MRN_ERR_CORRUPT;
        range->pinned = json_is_true(json_object_get(object, "pinned"));
        embedded->range_count++;
    }
    return 0;
}

static int load_root(struct embedded *embedded, const json_t *root) {
    const char *format = json_string_value(json_object_get(root, "format"));
    char *genesis = json_dumps(json_object_get(root, "genesis"), JSON_COMPACT);
    char *config = json_dumps(json_object_get(root, "config"), JSON_COMPACT);
    int error = format && strcmp(format, "maroon embedded 1") == 0 && genesis && config
                    ? 0
                    : MRN_ERR_CORRUPT;
    if (!error && (arbiter_decode_genesis(genesis, config, &embedded->base.genesis) ||
                   arbiter_json_u64(root, "revision", UINT64_MAX, &embedded->revision) ||
                   arbiter_json_u64(root, "nextRange", UINT64_MAX, &embedded->next_range) ||
                   arbiter_json_u64(root, "storeToken", UINT64_MAX, &embedded->base.store_token)))
        error = MRN_ERR_CORRUPT;
    if (!error)
        error = load_ranges(embedded, json_object_get(root, "ranges"));
    free(genesis);
    free(config);
    return error;
}

static int load(struct embedded *embedded) {
    char *text;
    int error =
        files_read(embedded->base.setup.config->data_dir, STATE_FILE, STATE_MAX_BYTES, &text);
    if (error)
        return error;
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    error = json_is_object(root) ? load_root(embedded, root) : MRN_ERR_CORRUPT;
    json_decref(root);
    free(text);
    return error;
}

/* ---- opening ---- */

static int begin_cluster(struct embedded *embedded) {
    struct arbiter *base = &embedded->base;
    arbiter_make_genesis(&base->setup, &base->genesis);
    base->incarnation = 1;
    base->store_token = arbiter_random();
    base->genesis.incarnations[0] = 1;
    embedded->revision = 0;
    embedded->next_range = 1;
    embedded->range_count = 0;
    return save(embedded);
}

static int enter(struct embedded *embedded) {
    struct arbiter *base = &embedded->base;
    const struct control_config *config = base->setup.config;
    int error = config->durable ? load(embedded) : MRN_ERR_NOT_FOUND;
    if (error == MRN_ERR_NOT_FOUND) {
        error = begin_cluster(embedded);
        if (!error)
            mrn_log_info("genesis_written", "arbiter=embedded durable=%d cluster_id=%" PRIx64,
                         config->durable, base->genesis.cluster_id);
    } else if (!error) {
        error = arbiter_check_genesis(&base->setup, &base->genesis);
    }
    if (error) {
        mrn_log_error("embedded_arbiter", "file=%s/%s error=%s", config->data_dir, STATE_FILE,
                      mrn_error_name(error));
        return error;
    }
    base->incarnation = base->genesis.incarnations[0];
    arbiter_own_member(base, &base->members[0]);
    return 0;
}

static void tell_leader(void *context) {
    struct embedded *embedded = context;
    const struct arbiter_sink *sink = embedded->base.setup.sink;
    sink->leader(sink->context, &embedded->base.leader);
}

static uint64_t ttl_ns(const struct embedded *embedded) {
    uint32_t ttl_s = embedded->base.setup.config->range_ttl_s;
    return (uint64_t)(ttl_s ? ttl_s : 10) * UINT64_C(1000000000);
}

static void check_ranges(void *context) {
    struct embedded *embedded = context;
    const struct arbiter_sink *sink = embedded->base.setup.sink;
    uint64_t now_ns = loop_now_ns(embedded->base.setup.loop);
    for (uint32_t i = 0; i < embedded->range_count; i++) {
        struct embedded_range *range = &embedded->ranges[i];
        if (range->record.sealed || range->alive_until_ns > now_ns)
            continue;
        range->alive_until_ns = 0;
        sink->range_expired(sink->context, range->number, range->record.owner);
    }
    sink->latency(sink->context, 1);
    loop_timer_set(embedded->base.setup.loop, &embedded->check_timer, CHECK_MS, check_ranges,
                   embedded);
}

static void open_now(void *context) {
    struct embedded *embedded = context;
    const struct arbiter_sink *sink = embedded->base.setup.sink;
    int error = enter(embedded);
    if (!error) {
        uint64_t until_ns = loop_now_ns(embedded->base.setup.loop) + ttl_ns(embedded);
        for (uint32_t i = 0; i < embedded->range_count; i++)
            embedded->ranges[i].alive_until_ns = until_ns; /* their owners may live on */
        loop_timer_set(embedded->base.setup.loop, &embedded->check_timer, CHECK_MS, check_ranges,
                       embedded);
    }
    sink->ready(sink->context, error);
    if (!error) {
        sink->members(sink->context);
        loop_timer_set(embedded->base.setup.loop, &embedded->leader_timer, 0, tell_leader,
                       embedded);
    }
}

/* ---- leader ---- */

static void campaign(struct arbiter *base, uint64_t revision) {
    struct embedded *embedded = embedded_of(base);
    const struct arbiter_sink *sink = base->setup.sink;
    struct arbiter_leader lost = base->leader;
    if (revision != base->leader.revision) {
        sink->campaign(sink->context, MAILBOX_CAMPAIGN_LOST, &lost);
        return;
    }
    embedded->revision++;
    if (save(embedded)) {
        sink->campaign(sink->context, MAILBOX_CAMPAIGN_LOST, &lost);
        return;
    }
    base->leader = (struct arbiter_leader){
        .revision = embedded->revision,
        .term = embedded->revision,
        .token = arbiter_draw_token(base),
        .node = 0,
        .ours = true,
    };
    mrn_log_info("campaign_won", "revision=%" PRIu64, embedded->revision);
    sink->campaign(sink->context, MAILBOX_CAMPAIGN_WON, &base->leader);
    sink->leader(sink->context, &base->leader);
}

static bool campaigns(const struct arbiter *base) {
    (void)base;
    return false; /* its outcome is told from within */
}

static void resign(struct arbiter *base, uint64_t revision) {
    const struct arbiter_sink *sink = base->setup.sink;
    if (revision == 0 || revision != base->leader.revision)
        return;
    base->leader = (struct arbiter_leader){.node = MAILBOX_NODE_NONE};
    sink->leader(sink->context, &base->leader);
}

/* ---- ranges ---- */

static struct embedded_range *find(struct embedded *embedded, uint64_t number) {
    for (uint32_t i = 0; i < embedded->range_count; i++)
        if (embedded->ranges[i].number == number)
            return &embedded->ranges[i];
    return NULL;
}

/* A sealed range that was not pinned is never asked for again: its number is below next_range. */
static void drop_sealed(struct embedded *embedded) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < embedded->range_count; i++)
        if (!embedded->ranges[i].record.sealed || embedded->ranges[i].pinned)
            embedded->ranges[kept++] = embedded->ranges[i];
    embedded->range_count = kept;
}

static void answer(struct embedded *embedded, uint64_t owner, uint64_t nonce, uint64_t range,
                   uint32_t outcome, uint32_t start, uint64_t held_by) {
    const struct arbiter_sink *sink = embedded->base.setup.sink;
    struct arbiter_grant grant = {nonce, owner, range, held_by, start, outcome};
    if (outcome == WIRE_RANGE_GRANTED)
        mrn_log_info("range_granted", "range=%" PRIu64 " owner=%" PRIx64 " start=%u", range,
                     held_by, start);
    sink->range_granted(sink->context, &grant);
}

/* Writes `record` as the range's and answers: granted once it is stable. A pinned one is held under
 * a token of its own: what is told late of another holding does not meet it. */
static void grant(struct embedded *embedded, uint64_t number, struct arbiter_range record,
                  bool pinned) {
    struct embedded_range *range = find(embedded, number);
    uint64_t asker = record.owner;
    if (pinned) {
        record.asker = asker;
        record.owner = arbiter_random();
    }
    bool fresh = !range;
    if (fresh && embedded->range_count == RANGES_MAX)
        drop_sealed(embedded);
    if (fresh && embedded->range_count == RANGES_MAX) {
        answer(embedded, asker, record.nonce, number, WIRE_RANGE_RETRY, 0, 0);
        return;
    }
    if (fresh)
        range = &embedded->ranges[embedded->range_count++];
    struct embedded_range before = *range;
    *range = (struct embedded_range){
        .number = number,
        .record = record,
        .pinned = pinned,
        .alive_until_ns = loop_now_ns(embedded->base.setup.loop) + ttl_ns(embedded),
    };
    if (save(embedded) == 0) {
        answer(embedded, asker, record.nonce, number, WIRE_RANGE_GRANTED, record.start,
               record.owner);
        return;
    }
    if (fresh)
        embedded->range_count--;
    else
        *range = before;
    answer(embedded, asker, record.nonce, number, WIRE_RANGE_RETRY, 0, 0);
}

static void request_next(struct embedded *embedded, uint64_t owner, uint64_t nonce,
                         uint64_t floor) {
    for (uint32_t i = 0; i < embedded->range_count; i++) {
        const struct embedded_range *range = &embedded->ranges[i];
        if (range->record.owner == owner && range->record.nonce == nonce && !range->pinned) {
            answer(embedded, owner, nonce, range->number, WIRE_RANGE_GRANTED, range->record.start,
                   owner); /* asked again */
            return;
        }
    }
    if (embedded->next_range < floor)
        embedded->next_range = floor;
    while (find(embedded, embedded->next_range))
        embedded->next_range++; /* pinned by somebody */
    if (embedded->next_range >= WIRE_RANGE_COUNT) {
        answer(embedded, owner, nonce, WIRE_RANGE_NONE, WIRE_RANGE_EXHAUSTED, 0, 0);
        return;
    }
    struct arbiter_range record = {.owner = owner, .nonce = nonce};
    grant(embedded, embedded->next_range++, record, false);
}

static void request_pinned(struct embedded *embedded, uint64_t owner, uint64_t nonce,
                           uint64_t number, uint64_t floor) {
    const struct arbiter_sink *sink = embedded->base.setup.sink;
    struct embedded_range *range = find(embedded, number);
    uint64_t now_ns = loop_now_ns(embedded->base.setup.loop);
    struct arbiter_range record = {.owner = owner, .nonce = nonce};
    if ((!range || range->record.sealed) && floor == ARBITER_FLOOR_OPEN) {
        answer(embedded, owner, nonce, number, WIRE_RANGE_SEALING, 0, 0);
    } else if (!range && floor > WIRE_RANGE_OFFSETS) {
        answer(embedded, owner, nonce, number, WIRE_RANGE_EXHAUSTED, 0, 0);
    } else if (!range && floor) { /* it ended in the cluster before: it goes on there */
        record.start = (uint32_t)(floor - 1);
        grant(embedded, number, record, true);
    } else if (!range && number < embedded->next_range && number != 0) {
        /* Not remembered: granted without a pin and retired. Its end is not known any more. */
        answer(embedded, owner, nonce, number, WIRE_RANGE_EXHAUSTED, 0, 0);
    } else if (!range) {
        grant(embedded, number, record, true);
    } else if (range->record.sealed && range->record.end == WIRE_RANGE_OFFSETS) {
        answer(embedded, owner, nonce, number, WIRE_RANGE_EXHAUSTED, 0, 0);
    } else if (range->record.sealed) {
        record.start = range->record.end;
        grant(embedded, number, record, true);
    } else if (range->record.asker == owner) {
        range->alive_until_ns = now_ns + ttl_ns(embedded);
        answer(embedded, owner, nonce, number, WIRE_RANGE_GRANTED, range->record.start,
               range->record.owner);
    } else if (range->alive_until_ns > now_ns) {
        answer(embedded, owner, nonce, number, WIRE_RANGE_TAKEN, 0, range->record.owner);
    } else {
        sink->range_expired(sink->context, number, range->record.owner);
        answer(embedded, owner, nonce, number, WIRE_RANGE_SEALING, 0, range->record.owner);
    }
}

static void range_request(struct arbiter *base, uint64_t owner, uint64_t nonce, uint64_t range,
                          uint64_t floor) {
    if (range == WIRE_RANGE_NONE)
        request_next(embedded_of(base), owner, nonce, floor);
    else
        request_pinned(embedded_of(base), owner, nonce, range, floor);
}

static bool owns(const struct embedded_range *range, uint64_t owner) {
    return range && !range->record.sealed && range->record.owner == owner;
}

static void range_renew(struct arbiter *base, uint64_t owner, uint64_t number) {
    struct embedded *embedded = embedded_of(base);
    struct embedded_range *range = find(embedded, number);
    if (owns(range, owner))
        range->alive_until_ns = loop_now_ns(base->setup.loop) + ttl_ns(embedded);
}

static void range_close(struct arbiter *base, uint64_t owner, uint64_t number) {
    const struct arbiter_sink *sink = base->setup.sink;
    struct embedded_range *range = find(embedded_of(base), number);
    if (!owns(range, owner))
        return;
    range->alive_until_ns = 0;
    sink->range_expired(sink->context, number, owner);
}

static void range_check(struct arbiter *base, uint64_t owner, uint64_t number) {
    const struct arbiter_sink *sink = base->setup.sink;
    const struct embedded_range *range = find(embedded_of(base), number);
    sink->range_checked(sink->context, number, owner, owns(range, owner),
                        range ? range->record.start : 0);
}

static void range_sealed(struct arbiter *base, uint64_t owner, uint64_t number, uint32_t end) {
    struct embedded *embedded = embedded_of(base);
    struct embedded_range *range = find(embedded, number);
    if (!owns(range, owner)) /* told late: it has another owner by now */
        return;
    range->record.sealed = true;
    range->record.end = end;
    if (save(embedded))
        range->record.sealed = false; /* asked for again at the next restart at the latest */
}

static int publish(struct arbiter *base, const struct arbiter_epoch *epoch) {
    const struct arbiter_sink *sink = base->setup.sink;
    base->health.publications++;
    if (epochs_add(&base->epochs, &epoch->entry))
        sink->published(sink->context, &epoch->entry);
    sink->publish_done(sink->context, 0);
    return 0;
}

static void raise_term_base(struct arbiter *base, uint64_t to) {
    (void)base; /* its revisions are its own and never go back */
    mrn_log_warning("term_base", "to=%" PRIu64 " refused=\"a single node needs none\"", to);
}

static void dump_look(struct arbiter *base) {
    base->dump.reads++;
}

static void dump_tell(struct arbiter *base, uint64_t seq, const char *text) {
    base->dump.seq = seq;
    snprintf(base->dump.text, sizeof base->dump.text, "%s", text);
}

/* There is nobody else. */
static void turn_take(struct arbiter *base, arbiter_turn_done done, void *context) {
    (void)base;
    done(context, ARBITER_TURN_OURS);
}

static void turn_kept(struct arbiter *base) {
    (void)base;
}

static const struct etcd_metrics *no_metrics(const struct arbiter *base) {
    (void)base;
    return NULL;
}

static void destroy(struct arbiter *base) {
    struct embedded *embedded = embedded_of(base);
    loop_timer_clear(base->setup.loop, &embedded->open_timer);
    loop_timer_clear(base->setup.loop, &embedded->check_timer);
    loop_timer_clear(base->setup.loop, &embedded->leader_timer);
    free(embedded->ranges);
    free(embedded);
}

static const struct arbiter_operations operations = {
    .publish = publish,
    .raise_term_base = raise_term_base,
    .campaign = campaign,
    .campaigns = campaigns,
    .resign = resign,
    .range_request = range_request,
    .range_renew = range_renew,
    .range_close = range_close,
    .range_check = range_check,
    .range_sealed = range_sealed,
    .dump_look = dump_look,
    .dump_tell = dump_tell,
    .turn_take = turn_take,
    .turn_keep = turn_kept,
    .turn_end = turn_kept,
    .etcd_metrics = no_metrics,
    .destroy = destroy,
};

struct arbiter *arbiter_embedded_open(const struct arbiter_setup *setup) {
    struct embedded *embedded = calloc(1, sizeof *embedded);
    if (!embedded)
        return NULL;
    embedded->ranges = calloc(RANGES_MAX, sizeof *embedded->ranges);
    if (!embedded->ranges) {
        free(embedded);
        return NULL;
    }
    embedded->base.operations = &operations;
    embedded->base.setup = *setup;
    embedded->base.leader.node = MAILBOX_NODE_NONE;
    loop_timer_set(setup->loop, &embedded->open_timer, 0, open_now, embedded);
    return &embedded->base;
}
