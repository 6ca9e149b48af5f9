/* What reaches the replica from beside the net: the control plane's facts, what execute has done,
 * what the journal made stable. */
#include <stdio.h>

#include "dataplane/stages/internal.h"

/* Who has executed more than this node and was heard last: not one that is away. */
static uint8_t peer_ahead(const struct stage *s) {
    struct replica_facts f;
    replica_facts(s->gossip.replica, &f);
    uint8_t best = REPLICA_NODE_NONE;
    for (uint8_t i = 0; i < s->setup.identity->node_count; i++)
        if (i != s->setup.identity->node_index && f.peer_exec_seq[i] > f.exec_seq &&
            (best == REPLICA_NODE_NONE || f.peer_heard_ns[i] > f.peer_heard_ns[best]))
            best = i;
    return best;
}

void stage_ask_control(struct stage *s, const struct replica_action *a) {
    struct mailbox_up up = {.revision = a->revision,
                            .owner = a->owner,
                            .range = a->range,
                            .end = a->end,
                            .seq = a->seq,
                            .peer = a->peer,
                            .immediately = a->outcome == 1};
    up.kind = a->kind == REPLICA_ACTION_CAMPAIGN       ? MAILBOX_UP_CAMPAIGN
              : a->kind == REPLICA_ACTION_RESIGN       ? MAILBOX_UP_RESIGN
              : a->kind == REPLICA_ACTION_RANGE_CHECK  ? MAILBOX_UP_RANGE_CHECK
              : a->kind == REPLICA_ACTION_RANGE_SEALED ? MAILBOX_UP_RANGE_SEALED
                                                       : MAILBOX_UP_NEED_SNAPSHOT;
    if (up.kind == MAILBOX_UP_NEED_SNAPSHOT && up.peer == REPLICA_NODE_NONE)
        up.peer = peer_ahead(s);
    if (mailbox_send_up(s->setup.mailbox, &up))
        stage_fail(s, MRN_ERR_FULL, "the control plane does not take messages");
}

/* ---- the control plane ---- */

static void answer_grant(struct stage *s, const struct wire_range_grant *grant) {
    struct answer answer = {.kind = ANSWER_GRANT, .gateway = GATEWAY_NONE, .grant = *grant};
    if (!link_put(&s->answers, &answer))
        stage_port_drop(&s->gossip.port, WIRE_DROP_RING_FULL); /* it asks again */
}

static void grant(struct stage *s, const struct mailbox_down *down) {
    struct wire_range_grant grant = {down->nonce, down->owner,   down->range,
                                     down->start, down->outcome, down->held_by};
    answer_grant(s, &grant);
}

void stage_refuse_range(struct stage *s, const struct wire_range_request *request) {
    struct wire_range_grant grant = {.nonce = request->nonce,
                                     .owner = request->owner,
                                     .range = request->range,
                                     .outcome = WIRE_RANGE_EXHAUSTED};
    answer_grant(s, &grant);
}

/* "Stops executing, answering, leading, dumping and serving snapshots" (protocol.md §5). */
static bool quarantined(const struct stage *s) {
    struct replica_facts facts;
    replica_facts(s->gossip.replica, &facts);
    return facts.quarantined_seq != 0;
}

static void order_state(struct stage *s, enum order_kind kind, const char *path) {
    struct order order = {.kind = kind};
    struct path of = {""};
    int error = quarantined(s) ? MRN_ERR_MISMATCH : MRN_ERR_FULL;
    snprintf(of.text, sizeof of.text, "%s", path);
    if (error == MRN_ERR_FULL && link_room(&s->orders) && link_put(&s->order_paths, &of)) {
        bool taken = link_put(&s->orders, &order);
        assert(taken);
        (void)taken;
        return;
    }
    struct mailbox_up up = {.kind = kind == ORDER_SNAPSHOT ? MAILBOX_UP_SNAPSHOT_READY
                                                           : MAILBOX_UP_RESTORED,
                            .error = error};
    memcpy(up.text, of.text, sizeof up.text);
    mailbox_send_up(s->setup.mailbox, &up);
}

static void take_down(struct stage *s, const struct mailbox_down *down) {
    struct replica_event event = {0};
    switch (down->kind) {
    case MAILBOX_DOWN_LEADER_KEY:
        event.kind = REPLICA_EVENT_LEADER_KEY;
        event.leader_key.revision = down->revision;
        event.leader_key.term = down->term;
        event.leader_key.node = down->node;
        event.leader_key.ours = down->ours;
        break;
    case MAILBOX_DOWN_CAMPAIGN_RESULT:
        event.kind = REPLICA_EVENT_CAMPAIGN_RESULT;
        event.campaign.revision = down->revision;
        event.campaign.term = down->term;
        event.campaign.token = down->token;
        event.campaign.won = down->campaign != MAILBOX_CAMPAIGN_LOST;
        event.campaign.late = down->campaign == MAILBOX_CAMPAIGN_WON_LATE;
        break;
    case MAILBOX_DOWN_INCARNATIONS:
        event.kind = REPLICA_EVENT_INCARNATIONS;
        memcpy(event.incarnations.newest, down->incarnations, sizeof event.incarnations.newest);
        break;
    case MAILBOX_DOWN_RANGE_GRANT: grant(s, down); return;
    case MAILBOX_DOWN_RANGE_CHECKED:
        event.kind = REPLICA_EVENT_RANGE_CHECKED;
        event.range_checked.range = down->range;
        event.range_checked.owner = down->owner;
        event.range_checked.owned = down->checked;
        event.range_checked.start = down->start;
        break;
    case MAILBOX_DOWN_RANGE_EXPIRED:
        event.kind = REPLICA_EVENT_RANGE_EXPIRED;
        event.range_expired.range = down->range;
        event.range_expired.owner = down->owner;
        break;
    case MAILBOX_DOWN_SNAPSHOT_TAKE: order_state(s, ORDER_SNAPSHOT, down->text); return;
    case MAILBOX_DOWN_SNAPSHOT_RESTORE: order_state(s, ORDER_RESTORE, down->text); return;
    case MAILBOX_DOWN_DUMPED: s->gossip.dumped_seq = down->revision; return;
    case MAILBOX_DOWN_LEARN: stage_learn_begin(s, down->node, down->text); return;
    case MAILBOX_DOWN_EPOCH_WANTED:
        stage_facts_epoch(s);
        s->gossip.epoch_filled = true;
        return;
    case MAILBOX_DOWN_HANDOVER: event.kind = REPLICA_EVENT_HANDOVER; break;
    case MAILBOX_DOWN_ETCD_LATENCY:
        event.kind = REPLICA_EVENT_ETCD_LATENCY;
        event.etcd.latency_ns = down->etcd_latency_us * 1000;
        break;
    case MAILBOX_DOWN_STOP: event.kind = REPLICA_EVENT_HANDOVER; break;
    }
    stage_step(s, &event);
}

uint32_t stage_control_poll(struct stage *s) {
    struct mailbox_down down;
    uint32_t count = 0;
    while (count < 32 && mailbox_receive_down(s->setup.mailbox, &down) == 1) {
        take_down(s, &down);
        count++;
    }
    if (s->gossip.epoch_filled) {
        struct mailbox_up up = {.kind = MAILBOX_UP_EPOCH};
        if (mailbox_send_up(s->setup.mailbox, &up) == 0)
            s->gossip.epoch_filled = false; /* otherwise at the next pass */
    }
    return count;
}

/* ---- execute ---- */

static void tell_control(struct stage *s, enum mailbox_up_kind kind, const struct done *done,
                         const struct path *path) {
    struct mailbox_up up = {.kind = kind, .error = done->error, .seq = done->seq};
    memcpy(up.text, path->text, sizeof up.text);
    mailbox_send_up(s->setup.mailbox, &up);
}

static void take_done(struct stage *s, const struct done *done) {
    struct gossip *g = &s->gossip;
    struct replica_event event = {.kind = REPLICA_EVENT_EXECUTED};
    struct replica_facts facts;
    struct order go_on = {.kind = ORDER_CONTINUE};
    struct path path;
    if (done->kind == DONE_SNAPSHOT || done->kind == DONE_RESTORE) {
        uint32_t taken = link_take(&s->done_paths, &path, 1);
        assert(taken);
        (void)taken;
    }
    switch ((enum done_kind)done->kind) {
    case DONE_EPOCH:
        event.executed.seq = done->seq;
        event.executed.result_hash = done->hash;
        stage_step(s, &event);
        break;
    case DONE_SNAPSHOT_BEGUN: /* said before the next epoch is: all above seq is still here */
        replica_facts(g->replica, &facts);
        assert(facts.exec_seq == done->seq);
        g->snapshot_mark = storage_mark(g->storage, done->seq, facts.last_seq);
        break;
    case DONE_SNAPSHOT:
        if (!done->local)
            tell_control(s, MAILBOX_UP_SNAPSHOT_READY, done, &path);
        else if (done->error)
            stage_fail(s, done->error, "a local snapshot cannot be written");
        else
            storage_cut(g->storage, done->seq, g->snapshot_mark);
        g->snapshot_asked &= !done->local;
        break;
    case DONE_RESTORE:
        if (done->local) { /* the runtime is ours until execute may go on */
            stage_tell_restored(s);
            bool taken = link_put(&s->orders, &go_on);
            assert(taken || atomic_load(&s->failed)); /* execute took nothing but had room */
            (void)taken;
        }
        tell_control(s, MAILBOX_UP_RESTORED, done, &path);
        break;
    case DONE_HASH:
        g->facts.state_hash = done->hash;
        g->facts.state_hash_seq = done->seq;
        break;
    }
}

uint32_t stage_done_poll(struct stage *s) {
    struct done done;
    uint32_t count = 0;
    for (; link_take(&s->dones, &done, 1); count++)
        take_done(s, &done);
    return count;
}

/* ---- the journal ---- */

uint32_t stage_storage_poll(struct stage *s) {
    struct gossip *g = &s->gossip;
    if (!g->storage)
        return 0;
    struct replica_event event = {.kind = REPLICA_EVENT_STABLE};
    const char *text;
    int news = storage_poll(g->storage, g->worker->now_ns, &event.stable.position, &text);
    if (news > 0)
        stage_step(s, &event);
    else if (news < 0)
        stage_fail(s, news, text);
    atomic_store_explicit(&s->pressed, storage_pressed(g->storage), memory_order_relaxed);
    if (!g->snapshot_asked && storage_grown_bytes(g->storage) >= s->setup.config->snapshot_bytes &&
        !quarantined(s)) {
        struct order order = {.kind = ORDER_SNAPSHOT};
        struct path local = {""};
        g->snapshot_asked = link_room(&s->orders) && link_put(&s->order_paths, &local) &&
                            link_put(&s->orders, &order);
    }
    return news > 0;
}
