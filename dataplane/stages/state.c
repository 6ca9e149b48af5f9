/* The state on disk and from peers: snapshots written while epochs execute, snapshots restored, and
 * the start of a node from its own disk. */
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "dataplane/stages/internal.h"
#include "runtime/restore_file.h"
#include "runtime/snapshot_format.h"

#define PAGES_PER_PASS 16
#define PIECE_BYTES (RUNTIME_PAGE_BYTES + 512) /* a page with what may stand around it */

/* ---- writing ---- */

void stage_done(struct stage *s, const struct done *done) {
    bool taken = link_put(&s->dones, done);
    assert(taken); /* room for every epoch on its way and what goes with them */
    (void)taken;
}

static void done_with_path(struct stage *s, const struct done *done, const struct path *path) {
    bool taken = link_put(&s->done_paths, path);
    assert(taken); /* room for one of each kind */
    (void)taken;
    stage_done(s, done);
}

static void snapshot_done(struct stage *s, int error, bool local, uint64_t seq, const char *path) {
    struct done done = {.kind = DONE_SNAPSHOT, .error = error, .local = local, .seq = seq};
    struct path of;
    snprintf(of.text, sizeof of.text, "%.255s", path);
    done_with_path(s, &done, &of);
}

/* A snapshot begins when the last one is done. */
static void begin(struct stage *s) {
    struct execute *x = &s->execute;
    if (!x->snapshot.ordered || x->snapshot_on || x->handed_over || !snapshots_idle(x->snapshots) ||
        runtime_snapshot_begin(x->runtime))
        return;
    const char *path = x->snapshot.path.text;
    bool local = !path[0];
    int error = snapshots_begin(x->snapshots, local ? NULL : path);
    x->snapshot.ordered = false;
    if (error) {
        runtime_snapshot_abandon(x->runtime);
        snapshot_done(s, error, local, 0, path);
        return;
    }
    x->snapshot_on = true;
    if (local) { /* gossip notes, before it hears of the next epoch, what a replay needs */
        struct runtime_facts facts;
        runtime_facts(x->runtime, &facts);
        struct done done = {.kind = DONE_SNAPSHOT_BEGUN, .seq = facts.exec_seq};
        stage_done(s, &done);
    }
}

static uint32_t write_some(struct stage *s) {
    struct execute *x = &s->execute;
    size_t room = snapshots_room_bytes(x->snapshots) / PIECE_BYTES;
    uint32_t pages = room < PAGES_PER_PASS + 1 ? (uint32_t)room : PAGES_PER_PASS + 1;
    if (pages < 2) /* head or tail may come with the last page */
        return 0;
    struct runtime_snapshot_info info;
    int more = runtime_snapshot_step(x->runtime, pages - 1, snapshots_write, x->snapshots, &info);
    if (more > 0)
        return pages;
    x->snapshot_on = false;
    if (more < 0)
        snapshots_abandon(x->snapshots, more); /* told when it is done */
    else
        snapshots_end(x->snapshots, info.seq);
    return 1;
}

/* ---- restoring ---- */

static void tell_range(void *user, const struct runtime_range_facts *range) {
    struct stage *s = user;
    struct replica_event event = {.kind = REPLICA_EVENT_RESTORE_RANGE};
    event.restore_range.range = range->range;
    event.restore_range.owner = range->owner;
    event.restore_range.position = range->executed;
    event.restore_range.open = !range->retired;
    stage_step(s, &event);
}

void stage_tell_restored(struct stage *s) {
    const struct runtime_snapshot_info *info = &s->execute.restored;
    runtime_ranges(s->execute.runtime, tell_range, s);
    struct replica_event event = {.kind = REPLICA_EVENT_RESTORED};
    event.restored = (struct replica_event_restored){info->seq, info->term, info->logical_time_us,
                                                     info->epoch_hash, info->result_hash};
    stage_step(s, &event);
}

/* The state is whole, and this node is not what made it. */
static bool of_another_program(int error) {
    return error == MRN_ERR_MISMATCH || error == MRN_ERR_UNSUPPORTED;
}

/* `ret_why` (RUNTIME_TEXT_BYTES): what is wrong with it, and what to do. */
static int load(struct stage *s, const char *path, char *ret_why) {
    struct runtime_facts facts;
    runtime_facts(s->execute.runtime, &facts);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    snprintf(ret_why, RUNTIME_TEXT_BYTES, "%s", mrn_error_text(MRN_ERR_IO));
    if (fd < 0)
        return MRN_ERR_IO;
    struct snapshot_head head;
    ssize_t n = pread(fd, &head, sizeof head, 0);
    int error = n != sizeof head ? MRN_ERR_CORRUPT
                : head.seq <= facts.exec_seq
                    ? MRN_ERR_EXISTS /* we went further while it came */
                    : runtime_restore_file(s->execute.runtime, fd, &s->execute.restored);
    close(fd);
    if (!of_another_program(error) || !runtime_snapshot_differs(s->execute.runtime, &head, ret_why))
        snprintf(ret_why, RUNTIME_TEXT_BYTES, "%s", mrn_error_text(error));
    return error;
}

/* `restored`: the runtime holds it and waits until gossip has told the replica. */
static void restore_done(struct stage *s, int error, bool restored, uint64_t seq) {
    struct execute *x = &s->execute;
    struct done done = {.kind = DONE_RESTORE, .error = error, .local = restored, .seq = seq};
    x->restore.ordered = false;
    if (!restored)
        x->handed_over = false;
    done_with_path(s, &done, &x->restore.path);
}

/* Nothing is executed from the order on. */
static void restore(struct stage *s) {
    struct execute *x = &s->execute;
    if (x->snapshot_on) {
        runtime_snapshot_abandon(x->runtime);
        snapshots_abandon(x->snapshots, MRN_ERR_CLOSED);
        x->snapshot_on = false;
    }
    if (!snapshots_idle(x->snapshots))
        return; /* at the next poll */
    char why[RUNTIME_TEXT_BYTES];
    int error = load(s, x->restore.path.text, why);
    if (error) {
        struct runtime_facts facts;
        runtime_facts(x->runtime, &facts);
        restore_done(s, error == MRN_ERR_EXISTS ? 0 : error, false, facts.exec_seq);
    } else if (s->setup.config->durability == CONFIG_DURABILITY_DISK) {
        /* A node that starts again must find on its disk what the replica builds on from here. (The
         * storage is gossip's: at the end it may be closed by now.) */
        snapshots_adopt(x->snapshots, x->restore.path.text, x->restored.seq);
        x->restore.ordered = false;
    } else
        restore_done(s, 0, true, x->restored.seq);
}

static void finished(struct stage *s, const struct snapshots_done *d) {
    if (!d->adopted)
        snapshot_done(s, d->error, d->local, d->seq, d->path);
    else if (d->error)
        stage_fail(s, d->error, "a restored snapshot cannot be kept on disk");
    else
        restore_done(s, 0, true, d->seq);
}

uint32_t stage_state_poll(struct stage *s) {
    struct execute *x = &s->execute;
    uint32_t work = 0;
    struct snapshots_done d;
    struct order order;
    struct path unused;
    if (x->handed_over && !x->restore.ordered && link_take(&s->orders, &order, 1)) {
        /* What was ordered before the replica knew is covered by the snapshot, or comes again. */
        x->handed_over = order.kind != ORDER_CONTINUE;
        if (order.kind == ORDER_SNAPSHOT)
            stage_execute_snapshot(s);
        else if (order.kind == ORDER_RESTORE)
            (void)link_take(&s->order_paths, &unused, 1);
        work++;
    }
    if (snapshots_poll(x->snapshots, &d)) {
        finished(s, &d);
        work++;
    }
    if (x->restore.ordered) {
        restore(s);
        work++;
    }
    begin(s);
    if (x->snapshot_on)
        work += write_some(s);
    return work;
}

/* ---- the start ---- */

static int replay_step(void *context, struct replica_event *event) {
    struct stage *s = context;
    stage_step(s, event);
    while (!atomic_load(&s->failed) && stage_execute_waits(s)) {
        stage_execute_poll(s);
        stage_done_poll(s);
    }
    return atomic_load(&s->failed) ? MRN_ERR_MISMATCH : 0;
}

static int start_from_snapshot(struct stage *s, char *ret_error) {
    char path[SNAPSHOTS_PATH_MAX];
    uint64_t seq;
    if (!snapshots_newest(s->execute.snapshots, path, &seq))
        return 0;
    char why[RUNTIME_TEXT_BYTES];
    int error = load(s, path, why);
    if (of_another_program(error))
        snprintf(ret_error, NET_TEXT_BYTES, "%.160s: %s", path, why);
    else if (error)
        snprintf(ret_error, NET_TEXT_BYTES,
                 "%.160s: %s; the journal is cut below it: start in an empty directory to get the "
                 "state from peers",
                 path, why);
    if (error)
        return error;
    stage_tell_restored(s);
    return atomic_load(&s->failed) ? MRN_ERR_MISMATCH : 0;
}

struct covering {
    struct storage *storage;
    int error;
};

static void cover_range(void *user, const struct runtime_range_facts *range) {
    struct covering *c = user;
    if (!c->error)
        c->error = storage_covered(c->storage, range->range, range->executed);
}

int stage_state_start(struct stage *s, const struct replica_config *config, char *ret_error) {
    char text[JOURNAL_TEXT_BYTES];
    struct gossip *g = &s->gossip;
    g->replica = replica_init(g->replica_memory, config, g->worker->now_ns);
    if (!g->storage)
        return 0;
    int error = start_from_snapshot(s, ret_error);
    /* Who remembers nothing learns it from peers; who says to remember all must have this. */
    if (!error && !config->amnesiac &&
        runtime_exec_seq(s->execute.runtime) < s->setup.identity->restored_seq) {
        snprintf(ret_error, NET_TEXT_BYTES,
                 "this cluster begins with the state of epoch %llu, and %.300s/snapshots does not "
                 "hold it: restore the directory anew, or start in an empty one to get it from "
                 "peers",
                 (unsigned long long)s->setup.identity->restored_seq, s->setup.config->data_dir);
        return MRN_ERR_NOT_FOUND;
    }
    if (error) {
        if (atomic_load(&s->failed))
            snprintf(ret_error, NET_TEXT_BYTES, "%s", s->failed_text);
        return error;
    }
    struct runtime_facts facts;
    struct covering covering = {.storage = g->storage};
    runtime_facts(s->execute.runtime, &facts);
    runtime_ranges(s->execute.runtime, cover_range, &covering);
    if (covering.error)
        return covering.error;
    struct storage_replay replay = {.step = replay_step,
                                    .digest_key = &s->setup.identity->digest_key,
                                    .context = s,
                                    .snapshot_seq = facts.exec_seq};
    error = storage_replay(g->storage, &replay, text);
    if (!error) {
        struct replica_event event = {.kind = REPLICA_EVENT_REPLAY_END};
        error = replay_step(s, &event);
        snprintf(text, sizeof text, "the journal's end");
    }
    if (error)
        snprintf(ret_error, NET_TEXT_BYTES, "%.*s%s%.150s", NET_TEXT_BYTES - 160, text,
                 atomic_load(&s->failed) ? ": " : "",
                 atomic_load(&s->failed) ? s->failed_text : "");
    return error;
}
