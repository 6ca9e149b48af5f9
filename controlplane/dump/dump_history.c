#include "controlplane/dump/dump_history.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "maroon/error.h"

struct walk {
    const struct wire_digest_key *digest_key;
    uint64_t seq; /* last one passed */
    struct wire_hash hash;
    uint64_t to;
    dump_history_each *each; /* NULL: only checked */
    void *context;
    const struct dump_history *history; /* NULL: no dumps to compare with */
    char *text;
};

/* ---- which manifests ---- */

/* The manifests of the list that are whole, to `to`. */
static int load(struct dump_history *history, const struct dump_listed *list, uint32_t count,
                struct dump_manifest *to, uint32_t *ret_count, char *text) {
    struct dump_got *got = calloc(count + 1, sizeof *got);
    const char **names = calloc(count + 1, sizeof *names);
    uint64_t *most = calloc(count + 1, sizeof *most);
    uint32_t taken = 0;
    int error = got && names && most ? 0 : MRN_ERR_NO_MEMORY;
    for (uint32_t i = 0; !error && i < count; i++) {
        names[i] = list[i].path;
        most[i] = DUMP_MANIFEST_MAX_BYTES;
    }
    if (!error)
        error = dump_store_get_many(history->store, names, most, count, got);
    if (error && error != MRN_ERR_NOT_FOUND && error != MRN_ERR_CORRUPT)
        snprintf(text, DUMP_TEXT_BYTES, "%s", history->store->text);
    else
        error = 0;
    for (uint32_t i = 0; got && i < count; i++) {
        int failed = got[i].error;
        if (!error && failed)
            snprintf(text, DUMP_TEXT_BYTES, "%.100s cannot be had", list[i].path);
        else if (!error)
            failed =
                dump_manifest_take(history->key, list[i].path, &got[i].bytes, &to[taken], text);
        if (!error && failed) {
            history->damaged++;
            history->error = failed;
            memcpy(history->damage, text, sizeof history->damage);
        }
        taken += !error && !failed;
        dump_bytes_free(&got[i].bytes);
    }
    *ret_count = taken;
    free(got);
    free(names);
    free(most);
    return error;
}

static void keep_cluster(struct dump_history *history, uint64_t cluster_id) {
    uint32_t kept = 0;
    if (!cluster_id && history->manifest_count)
        cluster_id = history->manifests[history->manifest_count - 1].cluster_id;
    for (uint32_t i = 0; i < history->manifest_count; i++)
        if (history->manifests[i].cluster_id == cluster_id)
            history->manifests[kept++] = history->manifests[i];
        else
            dump_manifest_free(&history->manifests[i]);
    history->manifest_count = kept;
}

int dump_history_open(struct dump_history *history, struct dump_store *store,
                      const struct dump_key *key, uint64_t cluster_id, uint64_t seq, char *text) {
    struct dump_listed *list = NULL;
    uint32_t count = 0, first = 0;
    *history = (struct dump_history){.store = store, .key = key};
    int error = dump_list(store, &list, &count, text);
    for (uint32_t i = 0; !error && i < count; i++)
        first = list[i].seq <= seq ? i : first;
    if (!error && !(history->manifests = calloc(count + 1, sizeof *history->manifests)))
        error = MRN_ERR_NO_MEMORY;
    if (!error)
        error = load(history, list + first, count - first, history->manifests,
                     &history->manifest_count, text);
    if (!error)
        keep_cluster(history, cluster_id);
    /* The last one before may be damaged, or another cluster's: one further back, then. */
    while (!error && first > 0 && !dump_history_base(history, seq)) {
        struct dump_manifest before;
        uint32_t got = 0;
        error = load(history, list + --first, 1, &before, &got, text);
        if (error || !got)
            continue;
        uint64_t id = history->manifest_count ? history->manifests[0].cluster_id : cluster_id;
        if (id && before.cluster_id != id) {
            dump_manifest_free(&before);
            continue;
        }
        memmove(history->manifests + 1, history->manifests,
                history->manifest_count++ * sizeof before);
        history->manifests[0] = before;
    }
    free(list);
    if (!error && !history->manifest_count && history->damaged) {
        memcpy(text, history->damage, sizeof history->damage);
        error = history->error;
    }
    return error;
}

void dump_history_close(struct dump_history *history) {
    for (uint32_t i = 0; i < history->manifest_count; i++)
        dump_manifest_free(&history->manifests[i]);
    free(history->manifests);
    *history = (struct dump_history){0};
}

const struct dump_manifest *dump_history_base(const struct dump_history *history, uint64_t seq) {
    const struct dump_manifest *base = NULL;
    for (uint32_t i = 0; i < history->manifest_count; i++)
        if (history->manifests[i].head.seq <= seq)
            base = &history->manifests[i];
    return base;
}

/* The stretch that holds epoch `seq`, and its manifest. */
static const struct dump_stretch *find(const struct dump_history *history, uint64_t seq,
                                       const struct dump_manifest **ret_manifest) {
    for (uint32_t i = 0; i < history->manifest_count; i++) {
        const struct dump_manifest *m = &history->manifests[i];
        for (uint32_t n = 0; n < m->stretch_count; n++)
            if (m->stretches[n].first_seq <= seq && seq <= m->stretches[n].last_seq) {
                *ret_manifest = m;
                return &m->stretches[n];
            }
    }
    return NULL;
}

uint64_t dump_history_end(const struct dump_history *history, uint64_t seq) {
    const struct dump_manifest *m;
    const struct dump_stretch *stretch;
    while ((stretch = find(history, seq + 1, &m)))
        seq = stretch->last_seq;
    return seq;
}

/* ---- reading ---- */

static const struct dump_manifest *dump_at(const struct dump_history *history, uint64_t seq) {
    for (uint32_t i = 0; history && i < history->manifest_count; i++)
        if (history->manifests[i].head.seq == seq)
            return &history->manifests[i];
    return NULL;
}

static int pass(struct walk *walk, const struct dump_record *record) {
    int error = dump_record_check(record, walk->seq + 1, &walk->hash, walk->digest_key, walk->text);
    if (error)
        return error;
    const struct dump_manifest *dump = dump_at(walk->history, record->seq);
    if (dump && memcmp(&dump->head.epoch_hash, &record->hash, sizeof record->hash) != 0) {
        snprintf(walk->text, DUMP_TEXT_BYTES,
                 "epoch %" PRIu64 ": the dump of it is of another history than the stretches",
                 record->seq);
        return MRN_ERR_MISMATCH;
    }
    if (walk->each)
        error = walk->each(walk->context, record, dump ? &dump->tail.state_hash : NULL);
    if (error)
        return error;
    walk->seq = record->seq;
    walk->hash = record->hash;
    return 0;
}

/* Records at or before walk->seq are passed over: two dumps of one span may overlap. */
static int read_records(struct walk *walk, const struct dump_stretch *stretch,
                        const struct dump_bytes *records) {
    struct dump_record record;
    uint64_t expected = stretch->first_seq;
    for (size_t at = 0; at < records->count && walk->seq < walk->to; expected++) {
        int64_t length = dump_record_next(records->at + at, records->count - at, &record);
        if (length < 0 || record.seq != expected) {
            snprintf(walk->text, DUMP_TEXT_BYTES, "a stretch with a record that cannot be");
            return MRN_ERR_CORRUPT;
        }
        at += (size_t)length;
        int error = record.seq <= walk->seq ? 0 : pass(walk, &record);
        if (error)
            return error;
    }
    bool whole = walk->seq == stretch->last_seq;
    if ((walk->seq < walk->to && !whole) ||
        (whole && memcmp(&walk->hash, &stretch->last_hash, sizeof walk->hash) != 0)) {
        snprintf(walk->text, DUMP_TEXT_BYTES,
                 "a stretch that does not end with the epoch its manifest says");
        return MRN_ERR_CORRUPT;
    }
    return 0;
}

static int read_stretch(struct walk *walk, struct dump_store *store, const struct dump_key *key,
                        const struct dump_stretch *stretch) {
    struct dump_bytes object = {0}, payload = {0}, records = {0};
    char path[DUMP_NAME_MAX];
    dump_object_path(DUMP_STRETCH, &stretch->name, path);
    int error = dump_store_get(store, path, stretch->stretch_bytes, &object);
    if (error)
        snprintf(walk->text, DUMP_TEXT_BYTES, "%s", store->text);
    else
        error = dump_object_open(DUMP_STRETCH, key, &stretch->name, object.at, object.count,
                                 &payload, walk->text);
    if (!error)
        error = dump_stretch_decode(&payload, &records, walk->text);
    if (!error)
        error = read_records(walk, stretch, &records);
    dump_bytes_free(&object);
    dump_bytes_free(&payload);
    dump_bytes_free(&records);
    return error;
}

int dump_history_read(const struct dump_history *history, uint64_t seq,
                      const struct wire_hash *hash, uint64_t to, dump_history_each *each,
                      void *context, uint64_t *ret_seq, char *text) {
    struct walk walk = {.seq = seq,
                        .hash = *hash,
                        .to = to,
                        .each = each,
                        .context = context,
                        .history = history,
                        .text = text};
    int error = 0;
    while (!error && walk.seq < to) {
        const struct dump_manifest *manifest;
        const struct dump_stretch *stretch = find(history, walk.seq + 1, &manifest);
        if (!stretch) {
            snprintf(text, DUMP_TEXT_BYTES, "no stretch of the store holds epoch %" PRIu64,
                     walk.seq + 1);
            error = MRN_ERR_NOT_FOUND;
            break;
        }
        walk.digest_key = &manifest->digest_key;
        error = read_stretch(&walk, history->store, history->key, stretch);
    }
    *ret_seq = walk.seq;
    return error;
}

int dump_history_verify(struct dump_store *store, const struct dump_key *key,
                        const struct dump_manifest *manifest, char *text) {
    struct walk walk = {.digest_key = &manifest->digest_key, .text = text};
    int error = 0;
    for (uint32_t i = 0; !error && i < manifest->stretch_count; i++) {
        const struct dump_stretch *stretch = &manifest->stretches[i];
        if (i == 0) {
            walk.seq = stretch->first_seq - 1;
            walk.hash = stretch->previous_hash;
        } else if (memcmp(&walk.hash, &stretch->previous_hash, sizeof walk.hash) != 0) {
            snprintf(text, DUMP_TEXT_BYTES, "stretches that do not continue each other");
            return MRN_ERR_MISMATCH;
        }
        walk.to = stretch->last_seq;
        error = read_stretch(&walk, store, key, stretch);
    }
    return error;
}
