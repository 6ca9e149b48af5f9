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
#define TURN_RETRY_NS SECOND_NS
#define TURN_MAX_NS (600 * SECOND_NS)
#define TURN_ASKED_NS (60 * SECOND_NS)
#define TURN_POINTER_NS (5 * SECOND_NS) /* for etcd to name what was dumped */

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
    if (turns->others_ns && now_ns - turns->others_ns < TURN_RETRY_NS)
        return false;
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

static void begin(struct dump_turns *turns) {
    struct dumper_status status;
    dumper_status(turns->dumper, &status);
    turns->tried_ns = loop_now_ns(turns->loop);
    turns->waiting = true;
    dumper_announce(turns->dumper);
    snapshot_want(turns->snapshot, status.latest_seq, on_snapshot, turns);
}

static void give_back(struct dump_turns *turns) {
    turns->ours = false;
    arbiter_turn_end(turns->arbiter);
}

/* Ours just when another has given it back: is its dump what we were to make? Once for each, since
 * a store may have lost what etcd names. */
static bool look_first(struct dump_turns *turns) {
    struct dumper_status status;
    uint64_t named_seq = arbiter_dump(turns->arbiter)->seq;
    dumper_status(turns->dumper, &status);
    if (named_seq <= status.latest_seq || named_seq == turns->deferred_seq)
        return false;
    turns->deferred_seq = named_seq;
    give_back(turns);
    (void)dumper_peek(turns->dumper);
    return true;
}

static void on_turn(void *context, enum arbiter_turn turn) {
    struct dump_turns *turns = context;
    uint64_t now_ns = loop_now_ns(turns->loop);
    turns->taking = false;
    switch (turn) {
    case ARBITER_TURN_OURS:
        turns->ours = true;
        turns->ours_ns = turns->idle_ns = now_ns;
        if (!look_first(turns))
            begin(turns);
        return;
    case ARBITER_TURN_OTHERS:
        turns->others++;
        turns->others_ns = now_ns;
        if (!turns->asked || now_ns - turns->asked_ns < TURN_ASKED_NS)
            return;
        break;
    case ARBITER_TURN_UNKNOWN: break;
    }
    turns->unfenced++;
    begin(turns);
}

/* Kept while there is a snapshot or a dump to wait for, and until etcd names what came of it. */
static void keep_turn(struct dump_turns *turns, const struct dumper_status *status,
                      uint64_t now_ns) {
    if (turns->waiting || status->dumping) {
        turns->idle_ns = now_ns;
        if (now_ns - turns->ours_ns < TURN_MAX_NS)
            arbiter_turn_keep(turns->arbiter);
    } else if (arbiter_dump(turns->arbiter)->seq >= status->latest_seq ||
               now_ns - turns->idle_ns >= TURN_POINTER_NS) {
        give_back(turns);
    }
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
    if (turns->ours)
        keep_turn(turns, &status, now_ns);
    if (turns->taking || turns->waiting || status.dumping || status.looking ||
        status.fetch.under_way || is_pausing(&status, now_ns))
        return;
    if (is_due(turns, &status, now_ns)) {
        if (turns->ours)
            give_back(turns);
        turns->taking = true;
        arbiter_turn_take(turns->arbiter, on_turn, turns);
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
    arbiter_turn_end(turns->arbiter);
    dumper_stop(turns->dumper);
    turns->dumper = NULL;
}

void dump_turns_ask(struct dump_turns *turns) {
    if (!turns->asked)
        turns->asked_ns = loop_now_ns(turns->loop);
    turns->asked = true;
    turns->tried_ns = 0;
}
