#include "dataplane/replica/internal.h"

/* Peers say it again with every vector: what is older may be of a process that has ended. */
#define EVIDENCE_NS (4 * (uint64_t)VECTOR_FORCED_NS)

/* "A replica that differs from k others" (protocol.md §5). */
static void judge(struct replica *r, uint64_t seq) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < peers_count(r); i++)
        count += (r->differing >> i & 1) && r->now_ns - r->peers[i].differs_ns < EVIDENCE_NS;
    if (count < r->config.quorum || replica_quarantined(r))
        return;
    r->quarantined_seq = seq;
    if (r->role == REPLICA_ROLE_LEADER || r->role == REPLICA_ROLE_PREPARING) {
        replica_action_new(r, REPLICA_ACTION_RESIGN)->revision = r->own_revision;
        replica_lead_step_down(r);
    }
}

/* What executed here has no hash any more below base_seq; what is above is compared later. */
static void compare(struct replica *r, uint8_t peer) {
    struct peer *p = &r->peers[peer];
    uint64_t seq = p->result_seq;
    if (!seq || seq > r->exec_seq)
        return;
    p->result_seq = 0;
    if (seq < r->base_seq || r->now_ns - p->result_ns >= EVIDENCE_NS)
        return;
    const struct wire_hash *ours =
        seq == r->base_seq ? &r->base_result_hash : &epoch_at(r, seq)->result_hash;
    if (!memcmp(ours, &p->result_hash, sizeof *ours)) {
        r->differing &= (uint8_t) ~(1u << peer);
        return;
    }
    if (!(r->differing >> peer & 1))
        r->divergence++;
    r->differing |= (uint8_t)(1u << peer);
    p->differs_seq = seq;
    p->differs_ns = p->result_ns;
    p->differs_hash = p->result_hash;
    judge(r, seq);
}

void replica_divergence_vector(struct replica *r, uint8_t peer, uint64_t seq,
                               const struct wire_hash *result) {
    struct peer *p = &r->peers[peer];
    bool again = seq == p->differs_seq && !memcmp(result, &p->differs_hash, sizeof *result);
    if (again) /* ours may be forgotten by now */
        p->differs_ns = r->now_ns;
    else if (seq <= p->differs_seq) /* it began anew, with another state */
        r->differing &= (uint8_t) ~(1u << peer);
    if (p->result_seq && p->result_seq < seq && p->result_seq > r->exec_seq &&
        r->now_ns - p->result_ns < EVIDENCE_NS)
        return; /* the one that waits will be had sooner */
    p->result_seq = seq;
    p->result_ns = r->now_ns;
    p->result_hash = *result;
    compare(r, peer);
}

void replica_divergence_executed(struct replica *r) {
    for (uint8_t i = 0; i < peers_count(r); i++)
        if (is_peer(r, i))
            compare(r, i);
}
