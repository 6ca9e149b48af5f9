#include "dataplane/replica/internal.h"

/* How long a silence means that no leader is there, and how long each node in the ring has its turn
 * (protocol.md §6). Both decide only when somebody tries: who leads is decided by etcd and
 * promises. */

/* ---- our own loop ---- */

/* A pass begins. So much later than was asked for we stood still: that silence is ours, not the
 * leader's, and not our followers'. */
void replica_slice_pass(struct replica *r) {
    uint64_t late = r->due_ns && r->now_ns > r->due_ns ? r->now_ns - r->due_ns : 0;
    r->due_ns = 0;
    if (late < r->config.heartbeat_interval_ns / LATE_LEAST)
        return;
    r->leader_heard_ns = min_u64(r->now_ns, r->leader_heard_ns + late);
    r->able_ns = min_u64(r->now_ns, r->able_ns + late);
    r->silence.paused_ns += late;
    r->late_ns += late;
    r->late_at_ns = r->now_ns;
    if (late >= r->slice_ns / 2)
        r->stood_ns = r->now_ns;
    for (uint32_t i = 0; i < peers_count(r); i++)
        r->peers[i].answered_ns = min_u64(r->now_ns, r->peers[i].answered_ns + late);
}

/* It ends: until when the next one was promised. */
void replica_slice_pass_end(struct replica *r) {
    r->due_ns = r->config.pass_interval_ns ? r->now_ns + r->config.pass_interval_ns
                                           : replica_next_deadline_ns(r);
}

void replica_sleeps(struct replica *r, uint64_t until_ns) {
    r->due_ns = max_u64(r->due_ns, until_ns);
}

/* ---- the leader's gaps ---- */

static void gaps_add(struct gaps *gaps, uint64_t gap_ns) {
    uint32_t at = GAPS_KEPT - 1;
    if (gap_ns <= gaps->longest_ns[at])
        return;
    for (; at > 0 && gaps->longest_ns[at - 1] < gap_ns; at--)
        gaps->longest_ns[at] = gaps->longest_ns[at - 1];
    gaps->longest_ns[at] = gap_ns;
}

/* The gap that all but GAPS_KEPT - 1 of the two windows keep to. */
static uint64_t gap_usual(const struct replica *r) {
    struct gaps all = r->gaps_now;
    for (uint32_t i = 0; i < GAPS_KEPT; i++)
        gaps_add(&all, r->gaps_before.longest_ns[i]);
    return all.longest_ns[GAPS_KEPT - 1];
}

static void gap_note(struct replica *r, uint64_t term) {
    if (r->now_ns - r->gap_window_ns > GAP_WINDOW_NS) {
        r->gaps_before = r->gaps_now;
        memset(&r->gaps_now, 0, sizeof r->gaps_now);
        r->gap_window_ns = r->now_ns;
    }
    uint64_t own_ns = r->now_ns - r->late_ns; /* does not go on while our loop stands still */
    if (term == r->last_frame_term && r->last_frame_ns)
        gaps_add(&r->gaps_now, own_ns - r->last_frame_ns);
    r->last_frame_term = term;
    r->last_frame_ns = own_ns;
}

/* The leader of the term that ends now has been silent for so long. If it is heard of again it was
 * there, and this was a gap as well. */
void replica_slice_deposed(struct replica *r) {
    r->deposed = r->last_frame_ns ? r->last_leader : REPLICA_NODE_NONE;
    r->deposed_gap_ns = r->now_ns - r->late_ns - r->last_frame_ns;
    r->last_frame_ns = 0;
}

void replica_slice_lives(struct replica *r, uint8_t peer) {
    if (peer != r->deposed)
        return;
    gaps_add(&r->gaps_now, r->deposed_gap_ns);
    r->deposed = REPLICA_NODE_NONE;
}

void replica_lead_heard(struct replica *r, uint8_t peer, uint64_t term) {
    gap_note(r, term);
    r->leader_heard_ns = r->silence.heard_ns = r->now_ns;
    r->silence.silent_ns = r->silence.alone_ns = r->silence.paused_ns = 0;
    r->leader = r->last_leader = peer;
    r->extra_waited = false;
}

/* ---- the slice ---- */

static uint64_t slowest_rtt_ns(const struct replica *r) {
    uint64_t rtt = 0;
    for (uint32_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i) && r->peers[i].heard_ns &&
            r->now_ns - r->peers[i].heard_ns < PEER_RECENT_NS)
            rtt = max_u64(rtt, r->peers[i].rtt_ns);
    return rtt;
}

void replica_slice_update(struct replica *r) {
    uint64_t slice = max_u64(r->config.slice_floor_ns, 2 * slowest_rtt_ns(r));
    slice = max_u64(slice, gap_usual(r) * 3 / 2);
    r->slice_ns = min_u64(slice, r->config.slice_max_ns);
    r->turn_ns = max_u64(r->slice_ns, 2 * r->etcd_latency_ns);
}

uint64_t replica_slice_delay_ns(const struct replica *r) {
    return r->slice_ns + (replica_lead_distance(r) - 1u) * r->turn_ns;
}

bool replica_lead_hears(const struct replica *r) {
    return r->role == REPLICA_ROLE_LEADER || r->now_ns - r->leader_heard_ns < r->slice_ns;
}

/* What the delay is made of, for the record of a take-over that begins. */
void replica_slice_takeover(struct replica *r) {
    struct replica_takeover *t = &r->takeover;
    memset(t, 0, sizeof *t);
    t->silent_ns = r->silence.silent_ns;
    t->alone_ns = r->silence.alone_ns;
    t->paused_ns = r->silence.paused_ns;
    t->campaign_ns = r->now_ns;
    t->slice_ns = r->slice_ns;
    t->floor_ns = r->config.slice_floor_ns;
    t->rtt_ns = slowest_rtt_ns(r);
    t->etcd_ns = r->etcd_latency_ns;
    t->gap_ns = gap_usual(r);
    t->longest_gap_ns = max_u64(r->gaps_now.longest_ns[0], r->gaps_before.longest_ns[0]);
    t->distance = replica_lead_distance(r);
}
