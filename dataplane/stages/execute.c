#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "dataplane/stages/internal.h"
#include "dataplane/stages/marks.h"

/* "The leader answers first; others answer resends." */
static void answer(void *user, const struct runtime_result *result) {
    struct stage *s = user;
    atomic_fetch_add_explicit(&s->status->transactions_executed, 1, memory_order_relaxed);
    if (!s->leads)
        return;
    stage_mark(STAGE_MARK_EXECUTED);
    uint32_t gateway = stage_gateway_of(s, wire_tx_range(result->id));
    uint32_t ahead =
        result->length_bytes < RESULT_AHEAD_BYTES ? result->length_bytes : RESULT_AHEAD_BYTES;
    if (gateway != UINT32_MAX)
        stage_ingress_result(s, gateway, result, result->bytes, 0, ahead);
}

static bool execute(struct stage *s, uint64_t seq) {
    const uint8_t *bytes;
    uint32_t length;
    struct wire_hash hash;
    uint32_t count = replica_delivery(s->replica, seq, &bytes, &length, &hash, s->delivered);
    for (uint32_t i = 0; i < count; i++) {
        const struct body *body = &s->bodies.slots[s->delivered[i].slot];
        assert(body->taken && body->id == s->delivered[i].id);
        s->exec_bodies[i] = (struct runtime_body){body->id, body->bytes, body->length_bytes};
    }
    struct runtime_epoch epoch = runtime_epoch_of(bytes, hash);
    epoch.bodies = s->exec_bodies;
    epoch.body_count = count;
    int error = runtime_execute_epoch(s->runtime, &epoch, answer, s);
    if (error < 0) {
        stage_fail(s, error, "the runtime cannot execute a committed epoch");
        return false;
    }
    struct runtime_facts facts;
    runtime_facts(s->runtime, &facts);
    struct replica_event event = {.kind = REPLICA_EVENT_EXECUTED};
    event.executed.seq = seq;
    event.executed.result_hash = facts.result_hash;
    stage_step(s, &event);
    return true;
}

uint32_t stage_execute_poll(struct stage *s) {
    uint32_t done = 0;
    while (s->deliver_from < s->deliver_to && done < EXECUTE_PER_PASS && !s->failed) {
        uint64_t seq = s->deliver_from++;
        if (!execute(s, seq))
            break;
        done++;
    }
    return done;
}

/* ---- snapshots ---- */

static int write_all(void *user, const void *bytes, size_t length) {
    int fd = *(int *)user;
    const uint8_t *at = bytes;
    while (length) {
        ssize_t n = write(fd, at, length);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return MRN_ERR_IO;
        at += n;
        length -= (size_t)n;
    }
    return 0;
}

static int64_t read_some(void *user, void *bytes, size_t room) {
    ssize_t n;
    do
        n = read(*(int *)user, bytes, room);
    while (n < 0 && errno == EINTR);
    return n < 0 ? MRN_ERR_IO : n;
}

void stage_execute_snapshot(struct stage *s, const char *path) {
    struct mailbox_up up = {.kind = MAILBOX_UP_SNAPSHOT_READY};
    struct runtime_snapshot_info info = {0};
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int error = fd < 0 ? MRN_ERR_IO : runtime_snapshot_write(s->runtime, write_all, &fd, &info);
    if (fd >= 0 && close(fd) && !error)
        error = MRN_ERR_IO;
    up.error = error;
    up.seq = info.seq;
    snprintf(up.text, sizeof up.text, "%s", path);
    mailbox_send_up(s->setup.mailbox, &up);
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

void stage_execute_restore(struct stage *s, const char *path) {
    struct mailbox_up up = {.kind = MAILBOX_UP_RESTORED};
    snprintf(up.text, sizeof up.text, "%s", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct runtime_snapshot_info info;
    int error = fd < 0 ? MRN_ERR_IO : runtime_restore(s->runtime, read_some, &fd, &info);
    if (fd >= 0)
        close(fd);
    up.error = error;
    if (!error) {
        struct replica_facts facts;
        replica_facts(s->replica, &facts);
        if (info.seq <= facts.exec_seq) { /* cannot be: the runtime would have gone back */
            stage_fail(s, MRN_ERR_MISMATCH, "a snapshot older than what is executed was restored");
            return;
        }
        s->deliver_from = s->deliver_to = info.seq + 1;
        runtime_ranges(s->runtime, tell_range, s);
        struct replica_event event = {.kind = REPLICA_EVENT_RESTORED};
        event.restored = (struct replica_event_restored){info.seq, info.term, info.logical_time_us,
                                                         info.epoch_hash, info.result_hash};
        stage_step(s, &event);
        up.seq = info.seq;
    }
    mailbox_send_up(s->setup.mailbox, &up);
}
