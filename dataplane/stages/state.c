/* The state on disk and from peers: snapshots written while epochs execute, snapshots restored, and
 * the start of a node from its own disk. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "dataplane/stages/internal.h"
#include "runtime/snapshot_format.h"

#define PAGES_PER_PASS 16
#define PIECE_BYTES (RUNTIME_PAGE_BYTES + 512) /* a page with what may stand around it */

/* ---- writing ---- */

/* A snapshot begins when the last one is done: of what the journal has grown by, or for a peer. */
static void begin(struct stage *s) {
    bool local = s->storage && storage_grown_bytes(s->storage) >= s->setup.config->snapshot_bytes;
    if (s->snapshot_on || s->restoring.kind || !snapshots_idle(s->snapshots) ||
        (!local && !s->wanted.kind) || runtime_snapshot_begin(s->runtime))
        return;
    struct replica_facts facts;
    replica_facts(s->replica, &facts);
    if (s->wanted.kind)
        local = false;
    int error = snapshots_begin(s->snapshots, local ? NULL : s->wanted.text);
    if (error) {
        runtime_snapshot_abandon(s->runtime);
        if (local) {
            stage_fail(s, error, "no local snapshot can be made in the data directory");
            return;
        }
        struct mailbox_up up = {.kind = MAILBOX_UP_SNAPSHOT_READY, .error = error};
        memcpy(up.text, s->wanted.text, sizeof up.text);
        mailbox_send_up(s->setup.mailbox, &up);
    }
    s->wanted.kind = 0;
    if (error)
        return;
    s->snapshot_on = true;
    if (local)
        s->snapshot_mark = storage_mark(s->storage, facts.exec_seq, facts.last_seq);
}

static uint32_t write_some(struct stage *s) {
    size_t room = snapshots_room_bytes(s->snapshots) / PIECE_BYTES;
    uint32_t pages = room < PAGES_PER_PASS + 1 ? (uint32_t)room : PAGES_PER_PASS + 1;
    if (pages < 2) /* head or tail may come with the last page */
        return 0;
    struct runtime_snapshot_info info;
    int more = runtime_snapshot_step(s->runtime, pages - 1, snapshots_write, s->snapshots, &info);
    if (more > 0)
        return pages;
    s->snapshot_on = false;
    if (more < 0)
        snapshots_abandon(s->snapshots); /* its error comes by snapshots_poll */
    else
        snapshots_end(s->snapshots, info.seq);
    return 1;
}

static void finish_restore(struct stage *s);

static void done(struct stage *s, const struct snapshots_done *d) {
    if (d->adopted) {
        if (d->error)
            stage_fail(s, d->error, "a restored snapshot cannot be kept on disk");
        else
            finish_restore(s);
    } else if (d->local) {
        if (d->error)
            stage_fail(s, d->error, "a local snapshot cannot be written");
        else
            storage_cut(s->storage, s->snapshot_mark, s->now_ns);
    } else {
        struct mailbox_up up = {
            .kind = MAILBOX_UP_SNAPSHOT_READY, .error = d->error, .seq = d->seq};
        snprintf(up.text, sizeof up.text, "%.255s", d->path);
        mailbox_send_up(s->setup.mailbox, &up);
    }
}

uint32_t stage_state_poll(struct stage *s) {
    uint32_t work = 0;
    struct snapshots_done d;
    if (snapshots_poll(s->snapshots, &d)) {
        done(s, &d);
        work++;
    }
    begin(s);
    if (s->snapshot_on)
        work += write_some(s);
    if (!s->storage)
        return work;
    struct replica_event event = {.kind = REPLICA_EVENT_STABLE};
    const char *text;
    int news = storage_poll(s->storage, s->now_ns, &event.stable.position, &text);
    if (news > 0)
        stage_step(s, &event);
    else if (news < 0)
        stage_fail(s, news, text);
    return work + (news > 0);
}

void stage_state_snapshot(struct stage *s, const struct mailbox_down *down) {
    s->wanted = *down; /* the control plane asks for one at a time */
}

/* ---- restoring ---- */

static int64_t read_some(void *user, void *bytes, size_t room) {
    ssize_t n;
    do
        n = read(*(int *)user, bytes, room);
    while (n < 0 && errno == EINTR);
    return n < 0 ? MRN_ERR_IO : n;
}

static void tell_range(void *user, const struct runtime_range_facts *range) {
    struct stage *s = user;
    struct replica_event event = {.kind = REPLICA_EVENT_RESTORE_RANGE};
    event.restore_range.range = range->range;
    event.restore_range.owner = range->owner;
    event.restore_range.position = range->executed;
    event.restore_range.open = !range->retired;
    stage_step(s, &event);
}

/* The runtime holds what s->restored says: now the replica may know. */
static void tell_restored(struct stage *s) {
    const struct runtime_snapshot_info *info = &s->restored;
    s->deliver_from = s->deliver_to = info->seq + 1;
    runtime_ranges(s->runtime, tell_range, s);
    struct replica_event event = {.kind = REPLICA_EVENT_RESTORED};
    event.restored = (struct replica_event_restored){info->seq, info->term, info->logical_time_us,
                                                     info->epoch_hash, info->result_hash};
    stage_step(s, &event);
}

static void finish_restore(struct stage *s) {
    struct mailbox_up up = {.kind = MAILBOX_UP_RESTORED, .seq = s->restored.seq};
    memcpy(up.text, s->restoring.text, sizeof up.text);
    s->restoring.kind = 0;
    tell_restored(s);
    mailbox_send_up(s->setup.mailbox, &up);
}

static int load(struct stage *s, const char *path, uint64_t above) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return MRN_ERR_IO;
    struct snapshot_head head;
    ssize_t n = pread(fd, &head, sizeof head, 0);
    int error = n != sizeof head    ? MRN_ERR_CORRUPT
                : head.seq <= above ? MRN_ERR_EXISTS /* we went further while it came */
                                    : runtime_restore(s->runtime, read_some, &fd, &s->restored);
    close(fd);
    return error;
}

void stage_state_restore(struct stage *s, const struct mailbox_down *down) {
    struct replica_facts facts;
    replica_facts(s->replica, &facts);
    if (s->snapshot_on) {
        runtime_snapshot_abandon(s->runtime);
        snapshots_abandon(s->snapshots);
        s->snapshot_on = false;
    }
    int error = s->storage && !snapshots_idle(s->snapshots) ? MRN_ERR_FULL
                                                            : load(s, down->text, facts.exec_seq);
    if (error) { /* not needed any more, or another one is tried */
        struct mailbox_up up = {.kind = MAILBOX_UP_RESTORED,
                                .error = error == MRN_ERR_EXISTS ? 0 : error,
                                .seq = facts.exec_seq};
        memcpy(up.text, down->text, sizeof up.text);
        mailbox_send_up(s->setup.mailbox, &up);
        return;
    }
    /* A node that starts again must find on its disk what the replica builds on from here. */
    s->restoring = *down;
    if (s->storage)
        snapshots_adopt(s->snapshots, down->text, s->restored.seq);
    else
        finish_restore(s);
}

/* ---- the start ---- */

static int replay_step(void *context, struct replica_event *event) {
    struct stage *s = context;
    stage_step(s, event);
    while (!s->failed && s->deliver_from < s->deliver_to)
        stage_execute_poll(s);
    return s->failed ? MRN_ERR_CORRUPT : 0;
}

static bool replay_holds(void *context, uint64_t id) {
    struct stage *s = context;
    struct wire_digest digest;
    return replica_body(s->replica, id, &digest) != REPLICA_SLOT_NONE;
}

static int start_from_snapshot(struct stage *s, char *ret_error) {
    char path[SNAPSHOTS_PATH_MAX];
    uint64_t seq;
    if (!snapshots_newest(s->snapshots, path, &seq))
        return 0;
    int error = load(s, path, 0);
    if (error) {
        snprintf(ret_error, NET_TEXT_BYTES,
                 "%.300s: %s; the journal is cut below it: start in an empty directory to get the "
                 "state from peers",
                 path, mrn_error_text(error));
        return error;
    }
    tell_restored(s);
    return s->failed ? MRN_ERR_CORRUPT : 0;
}

int stage_state_start(struct stage *s, const struct replica_config *config, char *ret_error) {
    char text[JOURNAL_TEXT_BYTES];
    s->now_ns = stage_clock_ns();
    s->replica = replica_init(s->replica_memory, config, s->now_ns);
    if (!s->storage)
        return 0;
    int error = start_from_snapshot(s, ret_error);
    if (error) {
        if (s->failed)
            snprintf(ret_error, NET_TEXT_BYTES, "%s", s->stop_text);
        return error;
    }
    struct storage_replay replay = {replay_step, replay_holds, &s->setup.identity->digest_key, s};
    error = storage_replay(s->storage, &replay, text);
    if (!error) {
        struct replica_event event = {.kind = REPLICA_EVENT_REPLAY_END};
        error = replay_step(s, &event);
        snprintf(text, sizeof text, "the journal's end");
    }
    if (error)
        snprintf(ret_error, NET_TEXT_BYTES, "%.*s%s%.150s", NET_TEXT_BYTES - 160, text,
                 s->failed ? ": " : "", s->failed ? s->stop_text : "");
    return error;
}
