#include "controlplane/dump/dumper.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "controlplane/dump/dump_fetch.h"
#include "controlplane/dump/dump_keep.h"
#include "controlplane/dump/dump_write.h"
#include "controlplane/log.h"
#include "maroon/application.h"
#include "maroon/error.h"

struct dumper {
    struct dump_store store;
    struct dump_writer writer;
    struct dump_key key;
    struct dump_signer signer;
    char tmp_dir[480];
    uint64_t configuration_id;
    struct dump_journal journal;
    pthread_t thread;
    _Atomic bool stop;

    pthread_mutex_t lock; /* of all below */
    pthread_cond_t wake;
    bool peek, announce;
    uint64_t announced_ns, beats;
    int fd; /* to dump; -1: none */
    bool error_of_look;
    char mark[DUMP_MARK_MAX]; /* of a dump under way, when it was last looked for */
    bool fetch;
    uint64_t fetch_above;
    char fetch_pointer[DUMPER_POINTER_MAX];
    struct dumper_status status;
};

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

uint32_t dumper_patience(uint32_t node, uint32_t leader, uint32_t node_count) {
    return 1 + (node + node_count - leader + node_count - 1) % node_count;
}

/* With the lock held; of a look or a dump. A dump's trouble is over when a dump succeeds, here or
 * on another node; a look's with the next look. Says what is new, once. */
static void note_outcome(struct dumper *dumper, bool looked, int error, const char *text) {
    struct dumper_status *status = &dumper->status;
    if (error == MRN_ERR_CLOSED)
        return;
    if (error) {
        bool known = status->error == error && strcmp(status->text, text) == 0;
        status->failures++;
        status->failures_in_a_row++;
        status->failed_ns = now_ns();
        status->error = error;
        dumper->error_of_look = looked;
        snprintf(status->text, sizeof status->text, "%s", text);
        if (!known)
            mrn_log_warning(looked ? "dump_store" : "not_dumped", "error=%s why=%s",
                            mrn_error_name(error), mrn_log_quote(text));
    } else if (status->error && (!looked || dumper->error_of_look)) {
        mrn_log_info("dump_store_again", "after=%s", mrn_error_name(status->error));
        status->error = 0;
        status->failures_in_a_row = 0;
        status->text[0] = '\0';
    }
}

/* With the lock held. */
static void see_latest(struct dumper *dumper, uint64_t seq, const char *pointer) {
    struct dumper_status *status = &dumper->status;
    snprintf(status->pointer, sizeof status->pointer, "%s", pointer);
    if (!status->latest_known || seq != status->latest_seq)
        status->latest_change_ns = status->latest_known || !seq ? now_ns() : 0;
    if (status->latest_known && seq > status->latest_seq)
        note_outcome(dumper, false, 0, "");
    status->latest_known = true;
    status->latest_seq = seq;
}

/* With the lock held. A mark that has not changed since is that of a node that died. */
static void see_mark(struct dumper *dumper, const char *mark, uint32_t node) {
    if (!mark[0] || node == dumper->writer.node)
        dumper->status.other_ns = 0;
    else if (strcmp(mark, dumper->mark) != 0)
        dumper->status.other_ns = now_ns();
    memcpy(dumper->mark, mark, sizeof dumper->mark);
}

static void look(struct dumper *dumper) {
    char path[DUMP_NAME_MAX], text[DUMP_TEXT_BYTES] = "", pointer[DUMPER_POINTER_MAX];
    uint64_t seq = 0;
    char mark[DUMP_MARK_MAX] = "";
    uint32_t node = 0;
    bool lost;
    int error =
        dump_newest(&dumper->store, &dumper->key, pointer, sizeof pointer, path, &seq, &lost, text);
    if (!error || error == MRN_ERR_NOT_FOUND)
        dump_mark_get(&dumper->store, mark, &node);
    pthread_mutex_lock(&dumper->lock);
    dumper->status.looking = false;
    see_mark(dumper, mark, node);
    if (!error || error == MRN_ERR_NOT_FOUND)
        see_latest(dumper, error ? 0 : seq, error ? "" : pointer);
    note_outcome(dumper, true, error == MRN_ERR_NOT_FOUND ? 0 : error, text);
    dumper->status.counters = *object_store_counters(dumper->store.store);
    pthread_mutex_unlock(&dumper->lock);
}

static void announce(struct dumper *dumper) {
    dump_mark_put(&dumper->store, dumper->writer.node, dumper->writer.incarnation,
                  UINT64_C(1) << 32 | dumper->beats++);
    int error = dump_store_wait(&dumper->store);
    if (!error)
        return;
    pthread_mutex_lock(&dumper->lock);
    note_outcome(dumper, true, error, dumper->store.text);
    pthread_mutex_unlock(&dumper->lock);
}

static void dump(struct dumper *dumper, int fd) {
    struct dump_report report = {0};
    char text[DUMP_TEXT_BYTES] = "";
    struct timespec wall;
    uint64_t since_ns = now_ns(), lies = dumper->store.lies;
    int error = dump_write(&dumper->writer, fd, &report, text);
    close(fd);
    uint64_t took_ms = (now_ns() - since_ns) / 1000000;
    char *pointer = error ? NULL : dump_pointer_text(&dumper->writer.state.manifest, report.path);
    clock_gettime(CLOCK_REALTIME, &wall);
    pthread_mutex_lock(&dumper->lock);
    struct dumper_status *status = &dumper->status;
    status->dumping = false;
    status->counters = *object_store_counters(dumper->store.store);
    status->last_lie = dumper->store.lies > lies;
    status->lies = dumper->store.lies;
    memcpy(status->lie, dumper->store.lie, sizeof status->lie);
    bool newer = error == MRN_ERR_EXISTS; /* another node was faster: as good */
    if (!error) {
        status->dumps++;
        status->last_seq = report.seq;
        status->last_duration_ms = took_ms;
        status->last_wall_ms = (uint64_t)wall.tv_sec * 1000 + (uint64_t)wall.tv_nsec / 1000000;
        status->last_sent_bytes = report.sent_bytes;
        status->last_skipped_bytes = report.skipped_bytes;
        status->last_checked_bytes = report.checked_bytes;
        status->last_pages = report.pages;
        status->last_changed_pages = report.changed_pages;
        status->last_epochs = report.epochs;
        status->last_gap = report.gap[0] != '\0';
        see_latest(dumper, report.seq, pointer ? pointer : "");
    }
    status->overtaken += newer;
    note_outcome(dumper, false, newer ? 0 : error, text);
    pthread_mutex_unlock(&dumper->lock);
    free(pointer);
    if (dumper->store.lies > lies)
        mrn_log_warning("dump_store_lies", "count=%" PRIu64 " mended=%s what=%s",
                        dumper->store.lies - lies, error ? "no" : "yes",
                        mrn_log_quote(dumper->store.lie));
    if (!error)
        mrn_log_info("dumped",
                     "seq=%" PRIu64 " pages=%" PRIu64 " changed=%" PRIu64 " sent_bytes=%" PRIu64
                     " skipped_bytes=%" PRIu64 " checked_bytes=%" PRIu64 " epochs=%" PRIu64
                     " ms=%" PRIu64 " manifest=%s%s%s",
                     report.seq, report.pages, report.changed_pages, report.sent_bytes,
                     report.skipped_bytes, report.checked_bytes, report.epochs, took_ms,
                     report.path, report.gap[0] ? " gap=" : "",
                     report.gap[0] ? mrn_log_quote(report.gap) : "");
}

static void fetched_some(void *context, uint64_t seq, const struct dump_progress *progress) {
    struct dumper *dumper = context;
    pthread_mutex_lock(&dumper->lock);
    dumper->status.fetch.seq = seq;
    dumper->status.fetch.progress = *progress;
    pthread_mutex_unlock(&dumper->lock);
}

static void fetch(struct dumper *dumper, uint64_t newer_than, const char *pointer) {
    struct dump_fetch job = {.store = &dumper->store,
                             .key = &dumper->key,
                             .configuration_id = dumper->configuration_id,
                             .directory = dumper->tmp_dir,
                             .newer_than = newer_than,
                             .pointer = pointer,
                             .tell = fetched_some,
                             .context = dumper};
    struct dumper_fetch outcome = {0};
    uint64_t since_ns = now_ns();
    outcome.error = dump_fetch(&job, outcome.file, &outcome.seq, outcome.text);
    outcome.duration_ms = (now_ns() - since_ns) / 1000000;
    pthread_mutex_lock(&dumper->lock);
    outcome.progress = dumper->status.fetch.progress;
    dumper->status.fetch = outcome;
    dumper->status.counters = *object_store_counters(dumper->store.store);
    pthread_mutex_unlock(&dumper->lock);
}

static void *run(void *context) {
    struct dumper *dumper = context;
    while (!atomic_load(&dumper->stop)) {
        pthread_mutex_lock(&dumper->lock);
        while (!atomic_load(&dumper->stop) && !dumper->peek && !dumper->announce &&
               !dumper->fetch && dumper->fd < 0)
            pthread_cond_wait(&dumper->wake, &dumper->lock);
        int fd = dumper->fd;
        bool peek = dumper->peek, wants = dumper->fetch, announces = dumper->announce;
        uint64_t above = dumper->fetch_above;
        dumper->fd = -1;
        dumper->peek = dumper->fetch = dumper->announce = false;
        pthread_mutex_unlock(&dumper->lock);
        if (atomic_load(&dumper->stop)) {
            if (fd >= 0)
                close(fd);
            break;
        }
        if (announces)
            announce(dumper);
        if (peek)
            look(dumper);
        if (wants)
            fetch(dumper, above, dumper->fetch_pointer); /* not touched while it is under way */
        if (fd >= 0)
            dump(dumper, fd);
    }
    return NULL;
}

static int prepare(struct dumper *dumper, const struct dumper_setup *setup, char *text) {
    char path[512];
    text[0] = '\0';
    if (setup->key_file && *setup->key_file && dump_key_load(setup->key_file, &dumper->key) != 0) {
        snprintf(text, DUMP_TEXT_BYTES, "dump-key-file %.200s does not hold 64 hex digits",
                 setup->key_file);
        return MRN_ERR_INVALID;
    }
    snprintf(dumper->tmp_dir, sizeof dumper->tmp_dir, "%.470s/tmp", setup->data_dir);
    dumper->configuration_id = setup->configuration_id;
    snprintf(path, sizeof path, "%.480s/dump.key", setup->data_dir);
    int error = dump_signer_load(path, &dumper->signer);
    if (error) {
        snprintf(text, DUMP_TEXT_BYTES, "%.250s cannot be read or made", path);
        return error;
    }
    error = dump_store_open(&dumper->store, setup->store, &dumper->stop);
    if (error)
        snprintf(text, DUMP_TEXT_BYTES, "%s", dumper->store.text);
    return error;
}

int dumper_start(const struct dumper_setup *setup, struct dumper **ret_dumper, char *ret_text) {
    struct dumper *dumper = calloc(1, sizeof *dumper);
    if (!dumper)
        return MRN_ERR_NO_MEMORY;
    dumper->fd = -1;
    int error = prepare(dumper, setup, ret_text);
    if (error) {
        free(dumper);
        return error;
    }
    struct dump_writer *writer = &dumper->writer;
    writer->store = &dumper->store;
    writer->key = &dumper->key;
    writer->signer = &dumper->signer;
    snprintf(writer->cluster, sizeof writer->cluster, "%s", setup->cluster);
    writer->cluster_id = setup->cluster_id;
    writer->node = setup->node;
    writer->incarnation = setup->incarnation;
    writer->digest_key = setup->digest_key;
    writer->genesis_hash = setup->genesis_hash;
    writer->begin_seq = setup->restored_seq;
    for (uint32_t i = 0; i < setup->application_count && i < DUMP_APPLICATIONS_MAX; i++) {
        struct dump_application *to = &writer->applications[writer->application_count++];
        snprintf(to->name, sizeof to->name, "%s", setup->applications[i]->name);
        to->version = setup->applications[i]->version;
    }
    snprintf(dumper->journal.directory, sizeof dumper->journal.directory, "%.480s/journal",
             setup->data_dir);
    writer->journal = setup->durable ? &dumper->journal : NULL;
    pthread_mutex_init(&dumper->lock, NULL);
    pthread_cond_init(&dumper->wake, NULL);
    if (pthread_create(&dumper->thread, NULL, run, dumper)) {
        dump_store_close(&dumper->store);
        free(dumper);
        return MRN_ERR_NO_MEMORY;
    }
    pthread_setname_np(dumper->thread, "dump");
    *ret_dumper = dumper;
    return 0;
}

void dumper_stop(struct dumper *dumper) {
    if (!dumper)
        return;
    pthread_mutex_lock(&dumper->lock);
    atomic_store(&dumper->stop, true);
    pthread_cond_signal(&dumper->wake);
    pthread_mutex_unlock(&dumper->lock);
    pthread_join(dumper->thread, NULL);
    if (dumper->fd >= 0)
        close(dumper->fd);
    dump_store_close(&dumper->store);
    dump_state_free(&dumper->writer.state);
    pthread_cond_destroy(&dumper->wake);
    pthread_mutex_destroy(&dumper->lock);
    sodium_memzero(&dumper->signer, sizeof dumper->signer);
    free(dumper);
}

/* With the lock held. */
static bool idle(const struct dumper *dumper) {
    const struct dumper_status *status = &dumper->status;
    return !status->dumping && !status->looking && !status->fetch.under_way;
}

bool dumper_peek(struct dumper *dumper) {
    pthread_mutex_lock(&dumper->lock);
    bool taken = idle(dumper);
    if (taken) {
        dumper->peek = dumper->status.looking = true;
        pthread_cond_signal(&dumper->wake);
    }
    pthread_mutex_unlock(&dumper->lock);
    return taken;
}

void dumper_announce(struct dumper *dumper) {
    uint64_t now = now_ns();
    pthread_mutex_lock(&dumper->lock);
    if (now - dumper->announced_ns >= UINT64_C(1000000000) && !dumper->status.dumping) {
        dumper->announced_ns = now;
        dumper->announce = true;
        pthread_cond_signal(&dumper->wake);
    }
    pthread_mutex_unlock(&dumper->lock);
}

bool dumper_take(struct dumper *dumper, int snapshot_fd) {
    pthread_mutex_lock(&dumper->lock);
    bool taken = idle(dumper);
    if (taken) {
        dumper->fd = snapshot_fd;
        dumper->status.dumping = true;
        pthread_cond_signal(&dumper->wake);
    }
    pthread_mutex_unlock(&dumper->lock);
    if (!taken)
        close(snapshot_fd);
    return taken;
}

void dumper_status(struct dumper *dumper, struct dumper_status *ret_status) {
    pthread_mutex_lock(&dumper->lock);
    *ret_status = dumper->status;
    pthread_mutex_unlock(&dumper->lock);
}

bool dumper_fetch(struct dumper *dumper, uint64_t newer_than, const char *pointer) {
    pthread_mutex_lock(&dumper->lock);
    bool taken = idle(dumper);
    if (taken) {
        dumper->fetch = true;
        dumper->fetch_above = newer_than;
        snprintf(dumper->fetch_pointer, sizeof dumper->fetch_pointer, "%s", pointer);
        memset(&dumper->status.fetch, 0, sizeof dumper->status.fetch);
        dumper->status.fetch.under_way = true;
        pthread_cond_signal(&dumper->wake);
    }
    pthread_mutex_unlock(&dumper->lock);
    return taken;
}
