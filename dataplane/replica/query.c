#include "dataplane/replica/internal.h"

/* Ids of a pinned range above a SEAL are its next owner's. So who asks for an id says whose
 * transaction he means, by the mark of the owner under whom it was sent, and is never told what
 * became of another's. */

static const struct retired *retired_find(struct replica *r, const struct range *g, uint64_t id) {
    return g ? NULL : replica_retired_find(r, wire_tx_range(id));
}

static bool executed(const struct range *g, const struct retired *retired, uint32_t offset) {
    return (g && offset < g->executed) || (retired && offset < retired_end(retired));
}

/* Of an executed id: in a holding that is not his, or not known to be. */
static bool executed_for_another(const struct range *g, const struct retired *retired,
                                 uint32_t offset, uint32_t mark) {
    uint32_t last = g ? retired_mark(g->executed_owner) : retired_owner_mark(retired);
    if (!mark || !last || last == mark || MUTANT(result_of_anybody))
        return false;
    return !g || mark != retired_mark(g->previous_owner) || offset >= g->open_at;
}

/* His holding ended below it, and the next one began there: his never executes. */
static bool ended_before(const struct range *g, uint32_t offset, uint32_t mark) {
    return g && mark == retired_mark(g->previous_owner) && offset >= g->open_at;
}

static void want_result(struct replica *r, uint64_t id, uint64_t owner, uint32_t gateway,
                        uint32_t offset_bytes, uint32_t length_bytes) {
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_RESULT_WANTED);
    a->id = id;
    a->owner = owner;
    a->gateway = gateway;
    a->offset_bytes = offset_bytes;
    a->length_bytes = length_bytes;
}

/* He is told where his holding ended, or that the range is not his. */
void replica_query_body(struct replica *r, const struct replica_event_body *b) {
    struct range *g = replica_range_find(r, wire_tx_range(b->id));
    const struct retired *retired = retired_find(r, g, b->id);
    if (!executed_for_another(g, retired, wire_tx_offset(b->id), retired_mark(b->owner))) {
        want_result(r, b->id, b->owner, b->gateway, 0, 0);
    } else if (g) {
        replica_range_tell_not_owner(r, g, g->executed_owner, b->owner, b->gateway);
    } else {
        struct replica_action *a = replica_action_new(r, REPLICA_ACTION_NOT_OWNER);
        a->range = wire_tx_range(b->id);
        a->gateway = b->gateway;
    }
}

static uint32_t outcome_unexecuted(struct replica *r, struct range *g,
                                   const struct retired *retired, uint32_t offset, uint32_t mark) {
    if (retired)
        return !mark || mark == retired_owner_mark(retired) ? WIRE_TX_SEALED : WIRE_TX_UNKNOWN;
    if (!g)
        return WIRE_TX_UNKNOWN;
    bool ended = g->state == RANGE_SEALED && g->sealed_executed && offset >= g->logged;
    if (ended && mark && replica_range_was_of(g, mark))
        return WIRE_TX_SEALED;
    uint64_t holder = ended || g->state == RANGE_UNOPENED ? g->hello_owner : g->owner;
    if (mark && mark != retired_mark(holder))
        return ended_before(g, offset, mark) ? WIRE_TX_SEALED : WIRE_TX_UNKNOWN;
    if (offset < g->committed)
        return WIRE_TX_COMMITTED;
    bool held = offset < g->received || replica_body_slot(r, g, offset, NULL) != REPLICA_SLOT_NONE;
    if (held && (!ended || replica_range_word(g)))
        return WIRE_TX_PENDING;
    return ended && !mark ? WIRE_TX_SEALED : WIRE_TX_UNKNOWN;
}

void replica_query(struct replica *r, uint64_t id, uint64_t owner, uint32_t gateway,
                   uint32_t offset_bytes, uint32_t length_bytes) {
    struct range *g = replica_range_find(r, wire_tx_range(id));
    const struct retired *retired = retired_find(r, g, id);
    uint32_t offset = wire_tx_offset(id), mark = retired_mark(owner), outcome;
    if (replica_quarantined(r))
        return; /* it answers nobody */
    if (!executed(g, retired, offset)) {
        outcome = outcome_unexecuted(r, g, retired, offset, mark);
    } else if (executed_for_another(g, retired, offset, mark)) {
        outcome = ended_before(g, offset, mark) ? WIRE_TX_SEALED : WIRE_TX_UNKNOWN;
    } else {
        want_result(r, id, owner, gateway, offset_bytes, length_bytes);
        return;
    }
    struct replica_action *a = replica_action_new(r, REPLICA_ACTION_TX_STATE);
    a->id = id;
    a->owner = owner;
    a->gateway = gateway;
    a->outcome = outcome;
}
