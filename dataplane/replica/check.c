#include "dataplane/replica/internal.h"

static const char *check_positions(const struct replica *r) {
    if (r->exec_seq > r->delivered_seq || r->delivered_seq > r->commit_seq ||
        r->commit_seq > r->last_seq)
        return "I1 exec <= delivered <= commit <= last";
    if (r->role == REPLICA_ROLE_FOLLOWER && r->commit_seq > r->matched)
        return "I1 commit <= matched";
    if (r->base_seq > r->exec_seq || r->base_seq > r->acked_seq)
        return "I2 base <= exec, acknowledgeable";
    if (r->acked_seq > r->held_seq || r->held_seq > r->last_seq)
        return "I4 acknowledgeable <= held <= last";
    if (!r->amnesiac && r->promised_term < replica_log_term(r, r->last_seq))
        return "I5 promised term >= term of the last epoch";
    return NULL;
}

static bool controls_follow(const struct epoch *e) {
    const struct wire_epoch_head *head = head_of(e);
    const struct wire_control *controls = wire_epoch_controls(e->bytes);
    for (uint32_t i = 0; i < head->control_count; i++)
        if ((controls[i].kind == WIRE_CONTROL_OPEN) == (e->before[i].state == RANGE_OPEN))
            return false;
    return true;
}

static const char *check_log(struct replica *r) {
    struct wire_hash previous = r->base_hash;
    for (uint64_t seq = r->base_seq + 1; seq <= r->last_seq; seq++) {
        const struct epoch *e = epoch_at(r, seq);
        const struct wire_epoch_head *head = head_of(e);
        if (e->seq != seq || head->seq != seq ||
            memcmp(head->previous_hash, previous.bytes, sizeof previous))
            return "I2 one hash chain";
        if (head->logical_time_us <= replica_log_time(r, seq - 1))
            return "logical time grows";
        if (!controls_follow(e))
            return "I7 OPEN of what is not open, SEAL of what is";
        previous = wire_hash_blake2b(e->bytes, e->length_bytes);
        if (seq > r->held_seq || seq <= max_u64(r->exec_seq, r->base_seq + 1))
            continue;
        struct wire_digest sum = {0, 0};
        const struct wire_interval *intervals = wire_epoch_intervals(e->bytes);
        for (uint32_t i = 0; i < head->interval_count; i++)
            if (!replica_interval_digest(r, &intervals[i], &sum))
                return "I6 held epochs have their bodies";
        if (sum.low != head->digest_low || sum.high != head->digest_high)
            return "I6 digests of held epochs";
    }
    return NULL;
}

static const char *check_ranges(const struct replica *r) {
    uint32_t used_places = 0;
    for (uint32_t i = 0; i < r->range_count; i++) {
        const struct range *g = &r->ranges[i];
        const struct retired *retired = replica_retired_find(r, g->range);
        used_places += g->in_use;
        if (g->in_use && replica_range_find(r, g->range) != g)
            return "I8 ranges in use are found";
        if (g->in_use && retired && g->logged < retired_end(retired))
            return "I8 no range ends below where it was retired";
        if (g->released > g->executed || g->executed > g->committed || g->committed > g->logged)
            return "I3 released <= executed <= committed <= logged";
        if (g->executed > g->received)
            return "I3 executed <= received";
        if (g->complete > g->received || g->received > max_u32(g->highest, g->logged))
            return "I3 complete <= received";
    }
    if (used_places != r->ranges_used)
        return "I8 ranges in use are counted";
    uint32_t used = 0;
    for (uint32_t i = 0; i < r->chunk_count; i++)
        if (r->chunks[i].key != UINT64_MAX)
            used += r->chunks[i].used;
    return used == r->slots_used ? NULL : "slots counted";
}

const char *replica_check(const struct replica *replica) {
    struct replica *r = (struct replica *)(uintptr_t)replica;
    const char *broken = check_positions(r);
    if (!broken)
        broken = check_ranges(r);
    return broken ? broken : check_log(r);
}
