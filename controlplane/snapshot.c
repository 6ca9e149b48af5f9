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

#include "controlplane/log.h"
#include "maroon/error.h"

#define FRESH_NS UINT64_C(10000000000)
#define TAKE_TIMEOUT_MS 60000
#define STALL_TIMEOUT_S 10 /* of a download */
#define BACKOFF_FIRST_MS 200
#define BACKOFF_MAX_MS 10000
#define PATH_BYTES (MAILBOX_PATH_MAX + 64)

struct waiter {
    struct waiter *next;
    uint64_t newer_than;
    snapshot_ready ready;
    void *context;
};

enum fetch_state { FETCH_IDLE = 0, FETCH_WAITING, FETCH_LOADING, FETCH_RESTORING };

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

    /* from peers */
    enum fetch_state fetch;
    uint64_t needed_seq;
    uint8_t peer;
    uint32_t attempts;
    int fd;
    uint64_t loaded_bytes;
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
            strncmp(entry->d_name, "restore-", 8) == 0)
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
    uint32_t shift = snapshot->attempts < 8 ? snapshot->attempts : 8;
    uint64_t delay_ms = (uint64_t)BACKOFF_FIRST_MS << shift;
    snapshot->attempts++;
    snapshot->fetch = FETCH_WAITING;
    loop_timer_set(snapshot->setup.loop, &snapshot->fetch_timer,
                   delay_ms < BACKOFF_MAX_MS ? delay_ms : BACKOFF_MAX_MS, fetch_begin, snapshot);
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
        snapshot->loaded_bytes += (uint64_t)put;
    }
    return true;
}

static void fetch_done(void *context, const struct http_answer *answer) {
    struct snapshot *snapshot = context;
    snapshot->call = NULL;
    if (answer->error || answer->status != 200 || snapshot->loaded_bytes == 0) {
        mrn_log_warning("snapshot_not_fetched", "peer=%u status=%ld error=%s message=%s",
                        snapshot->peer, answer->status, mrn_error_name(answer->error),
                        mrn_log_quote(answer->text));
        fetch_again(snapshot);
        return;
    }
    close(snapshot->fd);
    snapshot->fd = -1;
    snapshot->fetch = FETCH_RESTORING;
    struct mailbox_down message = {.kind = MAILBOX_DOWN_SNAPSHOT_RESTORE, .node = snapshot->peer};
    snprintf(message.text, sizeof message.text, "%.255s", snapshot->fetch_path);
    mrn_log_info("snapshot_fetched", "peer=%u bytes=%" PRIu64, snapshot->peer,
                 snapshot->loaded_bytes);
    snapshot->setup.send_down(snapshot->setup.context, &message);
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

static void fetch_begin(void *context) {
    struct snapshot *snapshot = context;
    const struct arbiter_member *members = arbiter_members(snapshot->setup.arbiter);
    char url[CONTROL_ADDRESS_MAX + 96];
    if (!next_peer(snapshot)) {
        mrn_log_warning("snapshot_no_peer", "needed_seq=%" PRIu64, snapshot->needed_seq);
        fetch_again(snapshot);
        return;
    }
    snprintf(url, sizeof url, "http://%s/v1/snapshot?newer_than=%" PRIu64,
             members[snapshot->peer].admin, snapshot->needed_seq);
    snprintf(snapshot->fetch_path, sizeof snapshot->fetch_path, "%s/restore-%" PRIu64,
             snapshot->dir, snapshot->number++);
    snapshot->loaded_bytes = 0;
    snapshot->fd = open(snapshot->fetch_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    struct http_options options = {.url = url,
                                   .stall_timeout_s = TAKE_TIMEOUT_MS / 1000 + STALL_TIMEOUT_S,
                                   .data = fetch_data,
                                   .done = fetch_done,
                                   .context = snapshot};
    if (snapshot->fd < 0 || strlen(snapshot->fetch_path) >= MAILBOX_PATH_MAX ||
        http_client_call(snapshot->setup.http, &options, &snapshot->call)) {
        mrn_log_warning("snapshot_not_fetched", "peer=%u path=%s", snapshot->peer,
                        mrn_log_quote(snapshot->fetch_path));
        fetch_again(snapshot);
        return;
    }
    snapshot->fetch = FETCH_LOADING;
}

void snapshot_needed(struct snapshot *snapshot, const struct mailbox_up *message) {
    const struct control_config *config = snapshot->setup.config;
    snapshot->needed_seq = message->seq;
    if (snapshot->fetch != FETCH_IDLE)
        return; /* asked again while we are at it */
    snapshot->attempts = 0;
    /* next_peer goes one further, so start one before the peer that was named. */
    uint8_t first = message->peer < config->node_count ? message->peer : 0;
    snapshot->peer = (uint8_t)((first + config->node_count - 1) % config->node_count);
    mrn_log_info("snapshot_needed", "newer_than=%" PRIu64 " peer=%d", message->seq,
                 message->peer < config->node_count ? (int)message->peer : -1);
    fetch_begin(snapshot);
}

void snapshot_restored(struct snapshot *snapshot, const struct mailbox_up *message) {
    if (snapshot->fetch != FETCH_RESTORING)
        return;
    if (message->error < 0) {
        mrn_log_warning("snapshot_refused", "peer=%u error=%s", snapshot->peer,
                        mrn_error_name(message->error));
        fetch_again(snapshot);
        return;
    }
    mrn_log_info("snapshot_restored", "peer=%u seq=%" PRIu64, snapshot->peer, message->seq);
    fetch_file_drop(snapshot);
    snapshot->fetch = FETCH_IDLE;
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
