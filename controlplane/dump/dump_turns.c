#include "controlplane/dump/dump_turns.h"

#include <fcntl.h>
#include <unistd.h>

#include "controlplane/log.h"
#include "maroon/error.h"

#define TICK_MS 500
#define SECOND_NS UINT64_C(1000000000)
#define PAUSE_NS (15 * SECOND_NS)
#define ASKED_RETRY_NS (2 * SECOND_NS)
#define MARK_OLD_NS (4 * SECOND_NS) /* besides the time between two looks */

static void on_snapshot(void *context, int error, const char *path, uint64_t seq) {
    struct dump_turns *turns = context;
    (void)seq;
    turns->waiting = false;
    if (error || !turns->dumper) {
        if (error == MRN_ERR_NOT_FOUND)
            turns->asked = false; /* nothing has happened since the newest dump */
        return;
    }
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        mrn_log_warning("not_dumped", "why=\"the snapshot cannot be opened\"");
    else if (dumper_take(turns->dumper, fd))
        turns->asked = false;
}

/* A store in trouble is left alone for 1, 2, 4, ... s. */
static bool is_pausing(const struct dumper_status *status, uint64_t now_ns) {
    uint32_t shift = status->failures_in_a_row < 6 ? status->failures_in_a_row : 6;
    uint64_t pause_ns = (SECOND_NS << shift) / 2;
    return shift && now_ns - status->failed_ns < (pause_ns < PAUSE_NS ? pause_ns : PAUSE_NS);
}

static uint64_t look_ns(const struct dump_turns *turns) {
    return turns->interval_s > 4 ? turns->interval_s * SECOND_NS / 4 : SECOND_NS;
}

static bool is_due(const struct dump_turns *turns, const struct dumper_status *status,
                   uint64_t now_ns) {
    uint64_t interval_ns = turns->interval_s * SECOND_NS;
    if (turns->asked)
        return now_ns - turns->tried_ns > ASKED_RETRY_NS;
    if (!turns->fresh_ns || !interval_ns || !status->latest_known ||
        now_ns - turns->tried_ns < interval_ns)
        return false;
    if (status->other_ns && now_ns - status->other_ns < look_ns(turns) + MARK_OLD_NS)
        return false; /* another node is at it */
    uint32_t leader = arbiter_leader(turns->arbiter)->node;
    if (leader >= turns->node_count)
        return false;
    uint32_t patience = dumper_patience(turns->node, leader, turns->node_count);
    /* After a rest all have waited long: it is the first transaction since that counts. */
    uint64_t since_ns =
        status->latest_change_ns > turns->fresh_ns ? status->latest_change_ns : turns->fresh_ns;
    return now_ns - since_ns >= patience * interval_ns;
}

static void on_tick(void *context) {
    struct dump_turns *turns = context;
    struct dumper_status status;
    uint64_t now_ns = loop_now_ns(turns->loop);
    loop_timer_set(turns->loop, &turns->timer, TICK_MS, on_tick, turns);
    dumper_status(turns->dumper, &status);
    if (turns->executed(turns->context) <= status.latest_seq)
        turns->fresh_ns = 0;
    else if (!turns->fresh_ns)
        turns->fresh_ns = now_ns;
    /* Last of all the key in etcd; whoever sees the store ahead of it puts that right. */
    if (status.pointer[0])
        arbiter_dump_tell(turns->arbiter, status.latest_seq, status.pointer);
    /* Journals are cut by what the key says: who begins with the dump that it names finds the rest.
     */
    uint64_t named_seq = arbiter_dump(turns->arbiter)->seq;
    if (named_seq != turns->told_seq && turns->dumped)
        turns->dumped(turns->context, turns->told_seq = named_seq);
    if (turns->waiting)
        dumper_announce(turns->dumper);
    if (turns->waiting || status.dumping || status.looking || status.fetch.under_way ||
        is_pausing(&status, now_ns))
        return;
    if (is_due(turns, &status, now_ns)) {
        turns->tried_ns = now_ns;
        turns->waiting = true;
        dumper_announce(turns->dumper);
        snapshot_want(turns->snapshot, status.latest_seq, on_snapshot, turns);
    } else if (turns->interval_s && now_ns - turns->looked_ns >= look_ns(turns)) {
        turns->looked_ns = now_ns;
        (void)dumper_peek(turns->dumper);
    }
}

void dump_turns_start(struct dump_turns *turns) {
    loop_timer_set(turns->loop, &turns->timer, TICK_MS, on_tick, turns);
}

void dump_turns_stop(struct dump_turns *turns) {
    if (!turns->dumper)
        return;
    loop_timer_clear(turns->loop, &turns->timer);
    dumper_stop(turns->dumper);
    turns->dumper = NULL;
}

void dump_turns_ask(struct dump_turns *turns) {
    turns->asked = true;
    turns->tried_ns = 0;
}
