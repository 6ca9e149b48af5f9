#include "controlplane/snapshot.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "controlplane/dump/dump_show.h"
#include "controlplane/log.h"
#include "maroon/error.h"

#define FRESH_NS UINT64_C(10000000000)
#define TAKE_TIMEOUT_MS 60000
#define STALL_TIMEOUT_S 10 /* of a download */
#define READ_TIMEOUT_S 5   /* of a peer's journal, before the download */
#define BACKOFF_FIRST_MS 200
#define BACKOFF_MAX_MS 10000
#define PATH_BYTES (MAILBOX_PATH_MAX + 64)
#define STORE_LOOK_MS 100
#define LOOK_PATIENCE_NS UINT64_C(2000000000) /* then the store alone must say */
#define STORE_BUSY_NS UINT64_C(5000000000)    /* how long a dump under way is waited for */

struct waiter {
    struct waiter *next;
    uint64_t newer_than;
    snapshot_ready ready;
    void *context;
};

struct snapshot {
    struct snapshot_setup setup;
    char dir[MAILBOX_PATH_MAX + 8];
    uint64_t number; /* of the next file */

    /* for peers */
    struct waiter *waiters;
    bool taking;
    char path[PATH_BYTES]; /* newest complete one, "" none */
    uint64_t seq, taken_ns;
    struct loop_timer take_timer;

    /* from the store and from peers */
    struct snapshot_bootstrap bootstrap;
    struct dumper *dumper;                   /* NULL: no store */
    bool tried[FETCH_SOURCE_COUNT];          /* for this need */
    uint64_t stretched_seq;                  /* needed_seq that the last stretch was for */
    bool store_begun;                        /* the dumper has the order */
    enum fetch_source source;                /* that is being tried, or whose file is being taken */
    uint64_t source_since_ns, take_since_ns; /* when that began */
    uint64_t store_reads;                    /* of the key, before */
    struct dump_show show;
    uint8_t peer;
    bool peer_chosen; /* for this round of the sources */
    uint32_t attempts;
    int fd;
    char fetch_path[PATH_BYTES];
    struct http_call *call;
    struct loop_timer fetch_timer;
};

static int empty_directory(const char *path) {
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return MRN_ERR_IO;
    DIR *dir = opendir(path);
    if (!dir)
        return MRN_ERR_IO;
    for (struct dirent *entry; (entry = readdir(dir));)
        if (strncmp(entry->d_name, "snapshot-", 9) == 0 ||
            strncmp(entry->d_name, "restore-", 8) == 0 ||
            strncmp(entry->d_name, "stretch-", 8) == 0)
            (void)unlinkat(dirfd(dir), entry->d_name, 0);
    closedir(dir);
    return 0;
}

struct snapshot *snapshot_create(const struct snapshot_setup *setup) {
    struct snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (!snapshot)
        return NULL;
    snapshot->setup = *setup;
    snapshot->fd = -1;
    snprintf(snapshot->dir, sizeof snapshot->dir, "%s/tmp", setup->config->data_dir);
    if (empty_directory(snapshot->dir)) {
        free(snapshot);
        return NULL;
    }
    return snapshot;
}

/* ---- for peers ---- */

/* Answers those that this outcome concerns: all on error, otherwise the ones it is new enough for.
 */
static void answer_waiters(struct snapshot *snapshot, int error) {
    struct waiter *waiting = snapshot->waiters;
    snapshot->waiters = NULL;
    while (waiting) {
        struct waiter *waiter = waiting;
        waiting = waiter->next;
        int outcome = error ? error : snapshot->seq > waiter->newer_than ? 0 : MRN_ERR_NOT_FOUND;
        waiter->ready(waiter->context, outcome, outcome ? NULL : snapshot->path, snapshot->seq);
        free(waiter);
    }
}

static void take_timed_out(void *context) {
    struct snapshot *snapshot = context;
    snapshot->taking = false;
    mrn_log_warning("snapshot_not_taken", "error=timeout");
    answer_waiters(snapshot, MRN_ERR_TIMEOUT);
}

void snapshot_want(struct snapshot *snapshot, uint64_t newer_than, snapshot_ready ready,
                   void *context) {
    uint64_t now_ns = loop_now_ns(snapshot->setup.loop);
    if (snapshot->path[0] && snapshot->seq > newer_than && now_ns - snapshot->taken_ns < FRESH_NS) {
        ready(context, 0, snapshot->path, snapshot->seq);
        return;
    }
    struct waiter *waiter = malloc(sizeof *waiter);
    if (!waiter) {
        ready(context, MRN_ERR_NO_MEMORY, NULL, 0);
        return;
    }
    *waiter = (struct waiter){snapshot->waiters, newer_than, ready, context};
    snapshot->waiters = waiter;
    if (snapshot->taking)
        return;
    struct mailbox_down message = {.kind = MAILBOX_DOWN_SNAPSHOT_TAKE};
    int length = snprintf(message.text, sizeof message.text, "%s/snapshot-%" PRIu64, snapshot->dir,
                          snapshot->number++);
    if (length < 0 || (size_t)length >= sizeof message.text) {
        answer_waiters(snapshot, MRN_ERR_TOO_LARGE);
        return;
    }
    snapshot->taking = true;
    loop_timer_set(snapshot->setup.loop, &snapshot->take_timer, TAKE_TIMEOUT_MS, take_timed_out,
                   snapshot);
    snapshot->setup.send_down(snapshot->setup.context, &message);
}

void snapshot_taken(struct snapshot *snapshot, const struct mailbox_up *message) {
    if (!snapshot->taking) {
        if (message->error >= 0 && message->text[0])
            (void)unlink(message->text); /* too late for anybody */
        return;
    }
    snapshot->taking = false;
    loop_timer_clear(snapshot->setup.loop, &snapshot->take_timer);
    if (message->error < 0) {
        mrn_log_warning("snapshot_not_taken", "error=%s", mrn_error_name(message->error));
        answer_waiters(snapshot, message->error);
        return;
    }
    if (snapshot->path[0])
        (void)unlink(snapshot->path); /* whoever reads it has it open */
    snprintf(snapshot->path, sizeof snapshot->path, "%s", message->text);
    snapshot->seq = message->seq;
    snapshot->taken_ns = loop_now_ns(snapshot->setup.loop);
    mrn_log_info("snapshot_taken", "seq=%" PRIu64, snapshot->seq);
    answer_waiters(snapshot, 0);
}

/* ---- from peers ---- */

static void fetch_begin(void *context);

/* The record of the fetch under way, of which something came. */
static struct fetch_costs *costs(struct snapshot *snapshot) {
    struct fetch_costs *of = &snapshot->bootstrap.costs[snapshot->source];
    fetch_costs_come(of, snapshot->source_since_ns, loop_now_ns(snapshot->setup.loop));
    return of;
}

/* Nothing is recorded of one that brought nothing. */
static void costs_failed(struct snapshot *snapshot, int error) {
    struct fetch_costs *of = &snapshot->bootstrap.costs[snapshot->source];
    if (of->there && of->since_ns == snapshot->source_since_ns)
        fetch_costs_end(of, error ? error : MRN_ERR_UNAVAILABLE, 0,
                        loop_now_ns(snapshot->setup.loop));
}

/* The dataplane is given the file. */
static void take_begins(struct snapshot *snapshot) {
    struct stat info;
    struct fetch_costs *of = costs(snapshot);
    snapshot->take_since_ns = loop_now_ns(snapshot->setup.loop);
    of->phases[FETCH_RUNTIME].bytes =
        stat(snapshot->fetch_path, &info) == 0 ? (uint64_t)info.st_size : 0;
}

static void take_ended(struct snapshot *snapshot, int error, uint64_t seq) {
    uint64_t now_ns = loop_now_ns(snapshot->setup.loop);
    struct fetch_costs *of = costs(snapshot);
    of->phases[FETCH_RUNTIME].us = (now_ns - snapshot->take_since_ns) / 1000;
    fetch_costs_end(of, error, seq, now_ns);
}

static void fetch_file_drop(struct snapshot *snapshot) {
    if (snapshot->fd >= 0)
        close(snapshot->fd);
    snapshot->fd = -1;
    if (snapshot->fetch_path[0])
        (void)unlink(snapshot->fetch_path);
    snapshot->fetch_path[0] = '\0';
}

static void fetch_again(struct snapshot *snapshot) {
    fetch_file_drop(snapshot);
    memset(snapshot->tried, 0, sizeof snapshot->tried);
    snapshot->peer_chosen = false;
    uint32_t shift = snapshot->attempts < 8 ? snapshot->attempts : 8;
    uint64_t delay_ms = (uint64_t)BACKOFF_FIRST_MS << shift;
    snapshot->attempts++;
    snapshot->bootstrap.stage = SNAPSHOT_WAITING;
    loop_timer_set(snapshot->setup.loop, &snapshot->fetch_timer,
                   delay_ms < BACKOFF_MAX_MS ? delay_ms : BACKOFF_MAX_MS, fetch_begin, snapshot);
}

static void restore_fetched(struct snapshot *snapshot) {
    struct mailbox_down message = {.kind = MAILBOX_DOWN_SNAPSHOT_RESTORE, .node = snapshot->peer};
    snprintf(message.text, sizeof message.text, "%.255s", snapshot->fetch_path);
    take_begins(snapshot);
    snapshot->bootstrap.stage = SNAPSHOT_RESTORING;
    snapshot->setup.send_down(snapshot->setup.context, &message);
}

static bool fetch_data(void *context, const char *bytes, size_t count) {
    struct snapshot *snapshot = context;
    while (count > 0) {
        ssize_t put = write(snapshot->fd, bytes, count);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            return false; /* the disk is full: ends the call with an error */
        bytes += put;
        count -= (size_t)put;
        snapshot->bootstrap.loaded_bytes += (uint64_t)put;
    }
    struct fetch_costs *of = costs(snapshot);
    of->phases[FETCH_TRANSFER] =
        (struct fetch_cost){of->total_us, snapshot->bootstrap.loaded_bytes};
    return true;
}

static void fetch_done(void *context, const struct http_answer *answer) {
    struct snapshot *snapshot = context;
    snapshot->call = NULL;
    if (answer->error || answer->status != 200 || snapshot->bootstrap.loaded_bytes == 0) {
        snapshot->bootstrap.failures++;
        costs_failed(snapshot, answer->error);
        mrn_log_warning("snapshot_not_fetched", "peer=%u status=%ld error=%s message=%s",
                        snapshot->peer, answer->status, mrn_error_name(answer->error),
                        mrn_log_quote(answer->text));
        fetch_again(snapshot);
        return;
    }
    close(snapshot->fd);
    snapshot->fd = -1;
    mrn_log_info("snapshot_fetched", "peer=%u bytes=%" PRIu64, snapshot->peer,
                 snapshot->bootstrap.loaded_bytes);
    restore_fetched(snapshot);
}

/* Moves on to the next peer that has an admin address; false when there is none. */
static bool next_peer(struct snapshot *snapshot) {
    const struct control_config *config = snapshot->setup.config;
    const struct arbiter_member *members = arbiter_members(snapshot->setup.arbiter);
    for (uint8_t i = 1; i <= config->node_count; i++) {
        uint8_t peer = (uint8_t)((snapshot->peer + i) % config->node_count);
        if (peer != config->node_index && members[peer].admin[0]) {
            snapshot->peer = peer;
            return true;
        }
    }
    return false;
}

/* ---- from the store ---- */

static void store_look(void *context);

static void store_failed(struct snapshot *snapshot, int error, const char *why) {
    costs_failed(snapshot, error);
    if (error != MRN_ERR_NOT_FOUND) {
        snapshot->bootstrap.failures++;
        mrn_log_warning("dump_not_fetched", "error=%s why=%s do=\"asking peers\"",
                        mrn_error_name(error), mrn_log_quote(why));
    }
    fetch_begin(snapshot);
}

static void store_show(struct snapshot *snapshot, const struct dump_progress *progress) {
    char text[DUMP_SHOW_BYTES];
    if (!progress->pages ||
        !dump_show(&snapshot->show, loop_now_ns(snapshot->setup.loop), progress, text))
        return;
    if (snapshot->show.terminal)
        fprintf(stderr, "%s%s", text, progress->pages_done < progress->pages ? "" : "\n");
    else
        mrn_log_info("bootstrap", "%s", text);
}

static void store_fetched(struct snapshot *snapshot, const struct dumper_fetch *fetch) {
    if (strlen(fetch->file) >= MAILBOX_PATH_MAX) {
        store_failed(snapshot, MRN_ERR_TOO_LARGE, "the path is too long");
        return;
    }
    snprintf(snapshot->fetch_path, sizeof snapshot->fetch_path, "%.255s", fetch->file);
    mrn_log_info("dump_fetched",
                 "seq=%" PRIu64 " pages=%" PRIu64 " bytes=%" PRIu64 " indexes_ms=%" PRIu64
                 " chunks_ms=%" PRIu64 " gets_ms=%" PRIu64 " unpack_ms=%" PRIu64 " end_ms=%" PRIu64
                 " ms=%" PRIu64,
                 fetch->seq, fetch->progress.pages, fetch->progress.fetched_bytes,
                 fetch->progress.indexes_us / 1000, fetch->progress.chunks_us / 1000,
                 fetch->progress.gets_us / 1000, fetch->progress.unpack_us / 1000,
                 fetch->progress.end_us / 1000, fetch->duration_ms);
    restore_fetched(snapshot);
}

/* The dumper has a thread of its own: looks now and then how far it is. */
static void store_look(void *context) {
    struct snapshot *snapshot = context;
    struct dumper_status status;
    uint64_t now_ns = loop_now_ns(snapshot->setup.loop);
    if (!snapshot->dumper) {
        store_failed(snapshot, MRN_ERR_NOT_FOUND, "");
        return;
    }
    if (!snapshot->store_begun &&
        arbiter_dump(snapshot->setup.arbiter)->reads == snapshot->store_reads &&
        now_ns - snapshot->source_since_ns < LOOK_PATIENCE_NS) {
        /* What peers have cut their journals by was in the key before: wait for what it says now.
         */
        loop_timer_set(snapshot->setup.loop, &snapshot->fetch_timer, STORE_LOOK_MS / 10, store_look,
                       snapshot);
        return;
    }
    if (!snapshot->store_begun) {
        snapshot->store_begun = dumper_fetch(snapshot->dumper, snapshot->bootstrap.needed_seq,
                                             arbiter_dump(snapshot->setup.arbiter)->text);
        if (!snapshot->store_begun && now_ns - snapshot->source_since_ns > STORE_BUSY_NS) {
            store_failed(snapshot, MRN_ERR_TIMEOUT, "a dump is under way");
            return;
        }
    } else {
        dumper_status(snapshot->dumper, &status);
        snapshot->bootstrap.progress = status.fetch.progress;
        if (status.fetch.progress.pages)
            fetch_costs_read(costs(snapshot), &status.fetch.progress);
        store_show(snapshot, &status.fetch.progress);
        if (!status.fetch.under_way) {
            if (status.fetch.error)
                store_failed(snapshot, status.fetch.error, status.fetch.text);
            else
                store_fetched(snapshot, &status.fetch);
            return;
        }
    }
    loop_timer_set(snapshot->setup.loop, &snapshot->fetch_timer, STORE_LOOK_MS, store_look,
                   snapshot);
}

static void store_begin(struct snapshot *snapshot) {
    uint64_t now_ns = loop_now_ns(snapshot->setup.loop);
    snapshot->bootstrap.stage = SNAPSHOT_STORE;
    memset(&snapshot->bootstrap.progress, 0, sizeof snapshot->bootstrap.progress);
    snapshot->store_begun = false;
    snapshot->store_reads = arbiter_dump(snapshot->setup.arbiter)->reads;
    arbiter_dump_look(snapshot->setup.arbiter);
    snapshot->source = FETCH_STORE;
    snapshot->source_since_ns = now_ns;
    snapshot->show = (struct dump_show){.terminal = isatty(STDERR_FILENO), .since_ns = now_ns};
    store_look(snapshot);
}

void snapshot_use_store(struct snapshot *snapshot, struct dumper *dumper) {
    snapshot->dumper = dumper;
}

/* ---- out of a peer's journal ---- */

static void stretch_done(void *context, const struct http_answer *answer) {
    struct snapshot *snapshot = context;
    snapshot->call = NULL;
    close(snapshot->fd);
    snapshot->fd = -1;
    if (answer->error || answer->status != 200 || snapshot->bootstrap.loaded_bytes == 0) {
        costs_failed(snapshot, answer->error);
        if (answer->status != 404) {
            snapshot->bootstrap.failures++;
            mrn_log_warning("stretch_not_fetched", "peer=%u status=%ld error=%s", snapshot->peer,
                            answer->status, mrn_error_name(answer->error));
        }
        if (answer->error)
            fetch_again(snapshot); /* from another peer */
        else
            fetch_begin(snapshot); /* the next source */
        return;
    }
    snapshot->bootstrap.stage = SNAPSHOT_LEARNING;
    take_begins(snapshot);
    struct mailbox_down message = {.kind = MAILBOX_DOWN_LEARN, .node = snapshot->peer};
    snprintf(message.text, sizeof message.text, "%.255s", snapshot->fetch_path);
    snapshot->setup.send_down(snapshot->setup.context, &message);
}

void snapshot_learned(struct snapshot *snapshot, const struct mailbox_up *message) {
    if (snapshot->bootstrap.stage != SNAPSHOT_LEARNING)
        return;
    uint64_t needed_seq = snapshot->bootstrap.needed_seq;
    mrn_log_info("stretch_learned",
                 "peer=%u after=%" PRIu64 " seq=%" PRIu64 " bytes=%" PRIu64 " ms=%" PRIu64
                 " error=%s",
                 snapshot->peer, needed_seq, message->seq, snapshot->bootstrap.loaded_bytes,
                 (loop_now_ns(snapshot->setup.loop) - snapshot->bootstrap.since_ns) / 1000000,
                 message->error < 0 ? mrn_error_name(message->error) : "none");
    take_ended(snapshot, message->error < 0 && message->seq <= needed_seq ? message->error : 0,
               message->seq);
    if (message->error < 0 && message->seq <= needed_seq) {
        snapshot->bootstrap.failures++;
        fetch_begin(snapshot);
        return;
    }
    snapshot->bootstrap.stretches++;
    snapshot->stretched_seq = needed_seq;
    snapshot->bootstrap.last_seq = message->seq;
    fetch_file_drop(snapshot);
    snapshot->bootstrap.stage = SNAPSHOT_IDLE;
}

/* ---- which source ---- */

/* GET from the next peer, into a file. */
static void peer_begin(struct snapshot *snapshot, enum fetch_source source) {
    const struct arbiter_member *members = arbiter_members(snapshot->setup.arbiter);
    char url[CONTROL_ADDRESS_MAX + 96];
    bool stretch = source == FETCH_STRETCH;
    if (!snapshot->peer_chosen && !(snapshot->peer_chosen = next_peer(snapshot))) {
        mrn_log_warning("snapshot_no_peer", "needed_seq=%" PRIu64, snapshot->bootstrap.needed_seq);
        fetch_again(snapshot);
        return;
    }
    snprintf(url, sizeof url, "http://%s/v1/%s=%" PRIu64, members[snapshot->peer].admin,
             stretch ? "stretch?after" : "snapshot?newer_than", snapshot->bootstrap.needed_seq);
    snprintf(snapshot->fetch_path, sizeof snapshot->fetch_path, "%s/restore-%" PRIu64,
             snapshot->dir, snapshot->number++);
    snapshot->bootstrap.loaded_bytes = 0;
    snapshot->source = source;
    snapshot->source_since_ns = loop_now_ns(snapshot->setup.loop);
    snapshot->fd = open(snapshot->fetch_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct http_options options = {
        .url = url,
        .stall_timeout_s = STALL_TIMEOUT_S + (stretch ? READ_TIMEOUT_S : TAKE_TIMEOUT_MS / 1000),
        .data = fetch_data,
        .done = stretch ? stretch_done : fetch_done,
        .context = snapshot};
    if (snapshot->fd < 0 || strlen(snapshot->fetch_path) >= MAILBOX_PATH_MAX ||
        http_client_call(snapshot->setup.http, &options, &snapshot->call)) {
        mrn_log_warning("snapshot_not_fetched", "peer=%u path=%s", snapshot->peer,
                        mrn_log_quote(snapshot->fetch_path));
        fetch_again(snapshot);
        return;
    }
    snapshot->bootstrap.stage = stretch ? SNAPSHOT_STRETCH : SNAPSHOT_PEER;
}

static bool may_try(const struct snapshot *snapshot, enum fetch_source source) {
    switch (source) {
    case FETCH_STRETCH: return snapshot->setup.config->durable; /* and so are its peers */
    case FETCH_STORE: return snapshot->dumper != NULL;
    case FETCH_PEER: return true;
    case FETCH_SOURCE_COUNT: break;
    }
    return false;
}

static void fetch_begin(void *context) {
    static const enum fetch_source with_state[] = {FETCH_STRETCH, FETCH_STORE, FETCH_PEER};
    static const enum fetch_source without[] = {FETCH_STORE, FETCH_STRETCH, FETCH_PEER};
    struct snapshot *snapshot = context;
    const enum fetch_source *order = snapshot->bootstrap.needed_seq ? with_state : without;
    fetch_file_drop(snapshot);
    for (uint32_t i = 0; i < FETCH_SOURCE_COUNT; i++)
        if (!snapshot->tried[order[i]] && may_try(snapshot, order[i])) {
            snapshot->tried[order[i]] = true;
            if (order[i] == FETCH_STORE)
                store_begin(snapshot);
            else
                peer_begin(snapshot, order[i]);
            return;
        }
    fetch_again(snapshot);
}

void snapshot_needed(struct snapshot *snapshot, const struct mailbox_up *message) {
    const struct control_config *config = snapshot->setup.config;
    if (snapshot->bootstrap.stage == SNAPSHOT_IDLE || snapshot->bootstrap.stage == SNAPSHOT_WAITING)
        snapshot->bootstrap.needed_seq = message->seq;
    if (snapshot->bootstrap.stage != SNAPSHOT_IDLE)
        return; /* asked again while we are at it */
    snapshot->attempts = 0;
    memset(snapshot->tried, 0, sizeof snapshot->tried);
    /* A stretch was taken and nothing of it executed: no more of the same. */
    if (snapshot->bootstrap.stretches && snapshot->stretched_seq == message->seq)
        snapshot->tried[FETCH_STRETCH] = true;
    snapshot->peer_chosen = false;
    snapshot->bootstrap.since_ns = loop_now_ns(snapshot->setup.loop);
    /* next_peer goes one further, so start one before the peer that was named. */
    uint8_t first = message->peer < config->node_count ? message->peer : 0;
    snapshot->peer = (uint8_t)((first + config->node_count - 1) % config->node_count);
    mrn_log_info("snapshot_needed", "newer_than=%" PRIu64 " peer=%d", message->seq,
                 message->peer < config->node_count ? (int)message->peer : -1);
    fetch_begin(snapshot);
}

void snapshot_restored(struct snapshot *snapshot, const struct mailbox_up *message) {
    if (snapshot->bootstrap.stage != SNAPSHOT_RESTORING)
        return;
    take_ended(snapshot, message->error < 0 ? message->error : 0, message->seq);
    bool of_store = snapshot->source == FETCH_STORE;
    if (message->error < 0) {
        char from[16] = "store";
        if (!of_store)
            snprintf(from, sizeof from, "peer %u", snapshot->peer);
        mrn_log_warning("snapshot_refused", "from=%s error=%s", mrn_log_quote(from),
                        mrn_error_name(message->error));
        snapshot->bootstrap.failures++;
        fetch_again(snapshot);
        return;
    }
    if (of_store)
        snapshot->bootstrap.from_store++;
    else
        snapshot->bootstrap.from_peers++;
    snapshot->bootstrap.last_seq = message->seq;
    mrn_log_info("snapshot_restored",
                 "from=%s peer=%u seq=%" PRIu64 " restore_ms=%" PRIu64 " ms=%" PRIu64,
                 of_store ? "store" : "peer", snapshot->peer, message->seq,
                 snapshot->bootstrap.costs[snapshot->source].phases[FETCH_RUNTIME].us / 1000,
                 (loop_now_ns(snapshot->setup.loop) - snapshot->bootstrap.since_ns) / 1000000);
    fetch_file_drop(snapshot);
    snapshot->bootstrap.stage = SNAPSHOT_IDLE;
}

void snapshot_destroy(struct snapshot *snapshot) {
    if (!snapshot)
        return;
    answer_waiters(snapshot, MRN_ERR_CLOSED);
    loop_timer_clear(snapshot->setup.loop, &snapshot->take_timer);
    loop_timer_clear(snapshot->setup.loop, &snapshot->fetch_timer);
    if (snapshot->call)
        http_client_cancel(snapshot->setup.http, snapshot->call);
    fetch_file_drop(snapshot);
    if (snapshot->path[0])
        (void)unlink(snapshot->path);
    free(snapshot);
}

void snapshot_bootstrap(const struct snapshot *snapshot, struct snapshot_bootstrap *ret_bootstrap) {
    *ret_bootstrap = snapshot->bootstrap;
}

const char *snapshot_stage_name(enum snapshot_stage stage) {
    switch (stage) {
    case SNAPSHOT_IDLE: return "idle";
    case SNAPSHOT_WAITING: return "waiting";
    case SNAPSHOT_STORE: return "store";
    case SNAPSHOT_PEER: return "peer";
    case SNAPSHOT_RESTORING: return "restoring";
    case SNAPSHOT_STRETCH: return "stretch";
    case SNAPSHOT_LEARNING: return "learning";
    }
    return "unknown";
}
