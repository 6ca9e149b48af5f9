#include "dataplane/stages/internal.h"

#define FACTS_INTERVAL_NS 10000000u

static void store(_Atomic uint64_t *counter, uint64_t value) {
    atomic_store_explicit(counter, value, memory_order_relaxed);
}

static enum mailbox_node_role role_of(const struct replica_facts *f) {
    if (f->lost) /* "more memories are lost than n-k": nobody can say what was promised */
        return MAILBOX_ROLE_LOST;
    switch (f->role) {
    case REPLICA_ROLE_LEARNER: return MAILBOX_ROLE_LEARNER;
    case REPLICA_ROLE_FOLLOWER:
    case REPLICA_ROLE_PREPARING: return MAILBOX_ROLE_FOLLOWER;
    case REPLICA_ROLE_LEADER: return MAILBOX_ROLE_LEADER;
    case REPLICA_ROLE_NEEDS_BOOTSTRAP: return MAILBOX_ROLE_NEEDS_BOOTSTRAP;
    case REPLICA_ROLE_QUARANTINED: return MAILBOX_ROLE_QUARANTINED;
    case REPLICA_ROLE_STOPPED: return MAILBOX_ROLE_LOST;
    }
    return MAILBOX_ROLE_STARTING;
}

static void counters(struct stage *s, const struct replica_facts *f) {
    store(&s->status->epochs_committed, f->epochs_committed);
    store(&s->status->transactions_committed, f->bodies_committed);
    store(&s->status->takeovers, f->takeovers);
    store(&s->status->divergence, f->divergence);
    store(&s->status->fetch_requests, f->fetch_requests);
    store(&s->status->fetched_bodies, f->fetched_bodies);
    store(&s->status->body_slots_used, f->slots_used);
    store(&s->status->body_slots_total, s->bodies.count);
    const struct port *ports[] = {&s->ingress.port, &s->gossip.port, &s->fetch.port};
    for (uint32_t i = 0; i < WIRE_STAGE_COUNT; i++) {
        struct net_counters c;
        net_endpoint_counters(ports[i]->endpoint, &c);
        store(&s->status->rx_packets[i], c.rx_packets);
        store(&s->status->tx_packets[i], c.tx_packets);
    }
}

static void drops(struct stage *s) {
    uint64_t total[WIRE_DROP_COUNT] = {0};
    stage_port_drops(&s->ingress.port, total);
    stage_port_drops(&s->gossip.port, total);
    stage_port_drops(&s->fetch.port, total);
    for (uint32_t d = 0; d < WIRE_DROP_COUNT; d++)
        store(&s->status->rx_dropped[d], total[d]);
}

/* The journal's buckets are bounds in us, the page's are powers of two in ns. */
static void journal(struct stage *s) {
    struct journal_counters c;
    if (!s->gossip.storage)
        return;
    journal_read_counters(storage_journal(s->gossip.storage), &c);
    struct mailbox_histogram *h = &s->status->log_sync;
    store(&s->status->log_bytes, c.retained_bytes);
    store(&s->status->log_reserved_bytes, c.reserved_bytes);
    store(&s->status->log_cut_seq, storage_cut_seq(s->gossip.storage));
    store(&h->count, c.sync_count);
    store(&h->sum_ns, c.sync_sum_ns);
    uint64_t buckets[MAILBOX_HISTOGRAM_BUCKETS] = {0};
    for (uint32_t i = 0; i < JOURNAL_HISTOGRAM_BUCKETS; i++) {
        uint64_t us = journal_bucket_us(i);
        uint32_t bits = us >= UINT64_MAX / 1000 ? MAILBOX_HISTOGRAM_BUCKETS - 1
                                                : 64u - (uint32_t)__builtin_clzll(us * 1000 | 1);
        buckets[bits] += c.sync_buckets[i];
    }
    for (uint32_t i = 0; i < MAILBOX_HISTOGRAM_BUCKETS; i++)
        store(&h->buckets[i], buckets[i]);
}

static void ranges(struct stage *s, struct mailbox_facts *m, uint32_t count) {
    m->range_count = count;
    struct replica_range_facts g;
    uint32_t place = 0;
    for (uint32_t i = 0;
         i < MAILBOX_FACTS_RANGES_MAX && replica_range_next(s->gossip.replica, &place, &g); i++) {
        m->ranges[i].range = g.range;
        m->ranges[i].owner = g.owner;
        m->ranges[i].received = g.received;
        m->ranges[i].committed = g.committed;
        m->ranges[i].executed = g.executed;
    }
}

/* Above it dumps or peers need the journal (protocol.md §2). */
static void journal_trim(struct stage *s, const struct replica_facts *f) {
    if (!s->gossip.storage)
        return;
    uint64_t floor = s->setup.config->store_url[0] ? s->gossip.dumped_seq : UINT64_MAX;
    for (uint32_t i = 0; i < s->setup.identity->node_count; i++)
        if (i != s->setup.identity->node_index && f->peer_exec_seq[i] < floor)
            floor = f->peer_exec_seq[i];
    store(&s->status->log_floor_seq, floor);
    storage_trim(s->gossip.storage, floor, s->gossip.worker->now_ns);
}

/* One writer. */
static void histogram_add(struct mailbox_histogram *h, uint64_t ns) {
    uint32_t bits = ns ? 64u - (uint32_t)__builtin_clzll(ns) : 0;
    bits = bits < MAILBOX_HISTOGRAM_BUCKETS ? bits : MAILBOX_HISTOGRAM_BUCKETS - 1;
    store(&h->buckets[bits], atomic_load_explicit(&h->buckets[bits], memory_order_relaxed) + 1);
    store(&h->sum_ns, atomic_load_explicit(&h->sum_ns, memory_order_relaxed) + ns);
    store(&h->count, atomic_load_explicit(&h->count, memory_order_relaxed) + 1);
}

static uint64_t us_since(uint64_t start_ns, uint64_t at_ns) {
    return at_ns > start_ns ? (at_ns - start_ns) / 1000 : 0;
}

/* The first epoch of a term led here is committed. */
static void takeover(struct stage *s) {
    struct replica_takeover t;
    replica_takeover(s->gossip.replica, &t);
    uint64_t start_ns = t.heard_ns ? t.heard_ns : t.campaign_ns;
    struct mailbox_up up = {.kind = MAILBOX_UP_TAKEOVER,
                            .takeover = {.term = t.term,
                                         .heard_at_us = start_ns / 1000,
                                         .silent_us = us_since(start_ns, t.silent_ns),
                                         .alone_us = us_since(start_ns, t.alone_ns),
                                         .campaign_us = us_since(start_ns, t.campaign_ns),
                                         .won_us = us_since(start_ns, t.won_ns),
                                         .promised_us = us_since(start_ns, t.promised_ns),
                                         .established_us = us_since(start_ns, t.established_ns),
                                         .committed_us = us_since(start_ns, t.committed_ns),
                                         .paused_us = t.paused_ns / 1000,
                                         .slice_us = t.slice_ns / 1000,
                                         .floor_us = t.floor_ns / 1000,
                                         .rtt_us = t.rtt_ns / 1000,
                                         .etcd_us = t.etcd_ns / 1000,
                                         .gap_us = t.gap_ns / 1000,
                                         .longest_gap_us = t.longest_gap_ns / 1000,
                                         .distance = t.distance}};
    if (t.heard_ns)
        histogram_add(&s->status->takeover_gap, t.committed_ns - t.heard_ns);
    s->gossip.facts.takeover = up.takeover;
    mailbox_send_up(s->setup.mailbox, &up); /* for the log; no matter when it is lost */
}

void stage_facts_pace(struct stage *s) {
    struct gossip *g = &s->gossip;
    uint64_t now_ns = g->worker->now_ns;
    struct replica_pace f;
    replica_pace(g->replica, &f);
    if (!f.leads || !g->pace.led || f.term != g->pace.term)
        g->pace.last_seq = g->pace.commit_seq = f.last_seq; /* what was adopted is not timed */
    for (; g->pace.last_seq < f.last_seq; g->pace.last_seq++)
        g->pace.proposed_ns[(g->pace.last_seq + 1) % 64] = now_ns;
    for (; g->pace.commit_seq < f.commit_seq; g->pace.commit_seq++)
        histogram_add(&s->status->epoch_latency,
                      now_ns - g->pace.proposed_ns[(g->pace.commit_seq + 1) % 64]);
    if (!f.leads && f.frame_ns > g->pace.heard_ns && g->pace.heard_ns && f.term == g->pace.term)
        histogram_add(&s->status->leader_gap, f.frame_ns - g->pace.heard_ns);
    if (f.takeover_ns != g->pace.takeover_ns && f.takeover_ns)
        takeover(s);
    g->pace.takeover_ns = f.takeover_ns;
    g->pace.heard_ns = f.frame_ns;
    g->pace.term = f.term;
    g->pace.led = f.leads;
}

void stage_facts_epoch(struct stage *s) {
    struct mailbox_epoch *epoch = mailbox_epoch(s->setup.mailbox);
    struct replica_facts f;
    struct replica_range_facts range;
    replica_facts(s->gossip.replica, &f);
    epoch->seq = f.exec_seq;
    epoch->term = f.exec_term;
    epoch->logical_time_us = f.logical_time_us;
    epoch->hash = f.exec_hash;
    epoch->result_hash = f.result_hash;
    epoch->range_count = epoch->listed = 0;
    for (uint32_t place = 0; replica_range_next(s->gossip.replica, &place, &range);) {
        if (!range.open)
            continue;
        epoch->range_count++;
        if (epoch->listed == MAILBOX_EPOCH_RANGES_MAX)
            continue;
        epoch->ranges[epoch->listed].range = range.range;
        epoch->ranges[epoch->listed].executed = range.executed;
        epoch->listed++;
    }
}

/* Said loudly, once. */
static void differences(struct stage *s, const struct replica_facts *f) {
    struct mailbox_facts *m = &s->gossip.facts;
    struct mailbox_up up = {.kind = MAILBOX_UP_DIFFERS, .seq = f->exec_seq};
    for (uint8_t i = 0; i < WIRE_NODES_MAX; i++) {
        up.peer = i;
        if (f->differing & ~m->differing & 1u << i)
            mailbox_send_up(s->setup.mailbox, &up);
    }
    if (f->quarantined_seq && !m->quarantined_seq) {
        up.peer = MAILBOX_NODE_NONE;
        up.seq = f->quarantined_seq;
        mailbox_send_up(s->setup.mailbox, &up);
    }
    m->differing = f->differing;
    m->quarantined_seq = f->quarantined_seq;
}

void stage_facts_poll(struct stage *s) {
    struct gossip *g = &s->gossip;
    uint64_t now_ns = g->worker->now_ns;
    store(&s->status->heartbeat_ns, now_ns);
    if (now_ns < g->facts_at_ns)
        return;
    g->facts_at_ns = now_ns + FACTS_INTERVAL_NS;
    struct replica_facts f;
    replica_facts(s->gossip.replica, &f);
    counters(s, &f);
    drops(s);
    journal(s);
    journal_trim(s, &f);
    struct mailbox_facts *m = &g->facts;
    const struct control_identity *identity = s->setup.identity;
    differences(s, &f);
    m->role = role_of(&f);
    m->node_index = identity->node_index;
    m->node_count = identity->node_count;
    m->quorum = identity->quorum;
    m->leader = f.leader;
    for (uint8_t i = 0; i < identity->node_count; i++)
        if (identity->ring[i] == identity->node_index)
            m->ring_position = i;
    m->incarnation = identity->incarnation;
    m->term = f.promised_term;
    m->commit_seq = f.commit_seq;
    m->exec_seq = f.exec_seq;
    m->last_seq = f.last_seq;
    m->acknowledged_seq = f.acknowledged_seq;
    m->leader_revision = f.leader_revision;
    m->logical_time_us = f.logical_time_us;
    m->commit_hash = f.commit_hash;
    m->exec_hash = f.exec_hash;
    m->result_hash = f.result_hash;
    m->takeover_delay_us = f.takeover_delay_ns / 1000;
    m->slice_us = f.slice_ns / 1000;
    for (uint32_t i = 0; i < WIRE_NODES_MAX; i++) {
        m->peer_incarnation[i] = f.peer_incarnation[i];
        m->peer_rtt_ns[i] = f.peer_rtt_ns[i];
        m->peer_commit_seq[i] = f.peer_commit_seq[i];
        m->peer_silence_us[i] =
            f.peer_heard_ns[i] ? (now_ns - f.peer_heard_ns[i]) / 1000 : UINT64_MAX;
    }
    ranges(s, m, f.range_count);
    m->ranges_retired = f.ranges_retired;
    g->range_floor = f.range_floor;
    g->ranges_full = f.ranges_full;
    mailbox_facts_write(s->status, m);
}
