#include "controlplane/restore/restore_state.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "maroon/error.h"
#include "runtime/applications/applications.h"
#include "runtime/restore_file.h"

static int wrong(char *text, int error, const char *what) {
    snprintf(text, DUMP_TEXT_BYTES, "%s", what);
    return error;
}

static bool same(const struct wire_hash *a, const struct wire_hash *b) {
    return memcmp(a, b, sizeof *a) == 0;
}

/* The cluster's first epoch is in the store, and nothing went before it. */
static bool begins_empty(const struct dump_history *history) {
    for (uint32_t i = 0; i < history->manifest_count; i++) {
        const struct dump_manifest *m = &history->manifests[i];
        if (m->stretch_count && m->stretches[0].first_seq == 1 &&
            same(&m->stretches[0].previous_hash, &m->head.origin))
            return true;
    }
    return false;
}

int restore_state_open(struct restore_state *state, struct dump_store *store,
                       const struct dump_key *key, uint64_t cluster_id, uint64_t seq,
                       uint64_t *ret_end, char *text) {
    memset(state, 0, sizeof *state);
    int error = dump_history_open(&state->history, store, key, cluster_id, seq, text);
    if (error)
        return error;
    const struct dump_history *history = &state->history;
    if (!history->manifest_count)
        return wrong(text, MRN_ERR_NOT_FOUND, "the store holds no dump of this cluster");
    state->any = &history->manifests[history->manifest_count - 1];
    state->base = dump_history_base(history, seq);
    if (!state->base && !begins_empty(history)) {
        snprintf(text, DUMP_TEXT_BYTES,
                 "no dump is at or before epoch %" PRIu64
                 ", and the cluster's first epochs are not in the store; the oldest dump is of "
                 "epoch %" PRIu64,
                 seq, history->manifests[0].head.seq);
        return MRN_ERR_NOT_FOUND;
    }
    *ret_end = dump_history_end(history, state->base ? state->base->head.seq : 0);
    return 0;
}

void restore_state_close(struct restore_state *state) {
    runtime_close(state->runtime);
    free(state->bodies);
    dump_history_close(&state->history);
    memset(state, 0, sizeof *state);
}

/* ---- the dump ---- */

/* "bank.v1 1, echo.v1 1" */
static void name_applications(const struct dump_manifest *m, char *text, size_t room) {
    size_t at = 0;
    text[0] = '\0';
    for (uint32_t i = 0; i < m->application_count && at < room; i++)
        at += (size_t)snprintf(text + at, room - at, "%s%s %u", i ? ", " : "",
                               m->applications[i].name, m->applications[i].version);
}

static int open_runtime(struct restore_state *state, char *text) {
    const struct snapshot_head *head = &state->any->head;
    struct runtime_config config;
    char names[160];
    runtime_config_defaults(&config);
    runtime_config_of_snapshot(head, &config);
    config.configuration_id = head->configuration_id;
    config.genesis_hash = head->origin;
    config.applications = applications_list(&config.application_count);
    int error = runtime_open(&config, &state->runtime);
    if (error)
        return wrong(text, error, "no memory for the state");
    struct wire_hash identity = runtime_identity(state->runtime);
    if (same(&identity, &head->identity))
        return 0;
    name_applications(state->any, names, sizeof names);
    snprintf(text, DUMP_TEXT_BYTES,
             "the dump is of other applications than this program serves, or of another version "
             "of it (%s): use the program that wrote it",
             names);
    return MRN_ERR_UNSUPPORTED;
}

static int load_base(struct restore_state *state, const char *file, char *text) {
    struct runtime_snapshot_info info;
    int error = dump_read(state->history.store, state->history.key, state->base->path, file,
                          state->hooks->progress, state->hooks->context, NULL, text);
    if (error)
        return error;
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return wrong(text, MRN_ERR_IO, "the snapshot file cannot be read");
    error = runtime_restore_file(state->runtime, fd, &info);
    close(fd);
    if (error)
        return wrong(text, error, "the runtime does not take the dump's state");
    state->seq = info.seq;
    state->term = info.term;
    state->epoch_hash = info.epoch_hash;
    return 0;
}

/* ---- the epochs ---- */

static void give_result(void *user, const struct runtime_result *result) {
    struct restore_state *state = user;
    if (state->hooks->result)
        state->hooks->result(state->hooks->context, result);
}

static int compare_state(struct restore_state *state, const struct wire_hash *expected) {
    struct wire_hash hash = runtime_state_hash(state->runtime);
    if (same(&hash, expected))
        return 0;
    snprintf(state->text, DUMP_TEXT_BYTES,
             "epoch %" PRIu64
             ": executing the epochs gives another state than the dump of it holds",
             state->seq);
    return MRN_ERR_MISMATCH;
}

static int execute(void *context, const struct dump_record *record,
                   const struct wire_hash *state_hash) {
    struct restore_state *state = context;
    const struct wire_epoch_head *head = (const void *)record->epoch;
    struct runtime_epoch epoch = runtime_epoch_of(record->epoch, record->hash);
    const uint8_t *at = record->bodies;
    if (head->configuration_id != state->any->head.configuration_id) {
        snprintf(state->text, DUMP_TEXT_BYTES, "epoch %" PRIu64 ": of another configuration",
                 record->seq);
        return MRN_ERR_MISMATCH;
    }
    for (uint32_t i = 0; i < record->body_count; i++) {
        struct dump_body_head body;
        const uint8_t *bytes = dump_body_next(&at, &body);
        state->bodies[i] = (struct runtime_body){body.id, bytes, body.length_bytes};
    }
    epoch.bodies = state->bodies;
    epoch.body_count = record->body_count;
    if (state->hooks->epoch)
        state->hooks->epoch(state->hooks->context, record);
    int error = runtime_execute_epoch(state->runtime, &epoch, give_result, state);
    if (error) {
        snprintf(state->text, DUMP_TEXT_BYTES, "epoch %" PRIu64 " cannot be executed: %s",
                 record->seq, mrn_error_text(error));
        return error;
    }
    state->seq = record->seq;
    state->term = head->term;
    state->epoch_hash = record->hash;
    if (state->hooks->executed)
        state->hooks->executed(state->hooks->context, record->seq);
    return state_hash ? compare_state(state, state_hash) : 0;
}

int restore_state_run(struct restore_state *state, uint64_t to, const char *file,
                      const struct restore_hooks *hooks, char *text) {
    uint64_t reached;
    state->hooks = hooks;
    state->text = text;
    state->bodies = calloc(WIRE_EPOCH_BODIES_MAX, sizeof *state->bodies);
    if (!state->bodies)
        return wrong(text, MRN_ERR_NO_MEMORY, "no memory");
    int error = open_runtime(state, text);
    if (error)
        return error;
    state->epoch_hash = state->any->head.origin;
    if (state->base && (error = load_base(state, file, text)))
        return error;
    error = dump_history_read(&state->history, state->seq, &state->epoch_hash, to, execute, state,
                              &reached, text);
    if (!error)
        state->state_hash = runtime_state_hash(state->runtime);
    return error;
}
