#include "dataplane/stages/internal.h"

/* "The leader answers first; others answer resends." */
static void answer(void *user, const struct runtime_result *result) {
    struct stage *s = user;
    atomic_fetch_add_explicit(&s->status->transactions_executed, 1, memory_order_relaxed);
    if (!s->leads)
        return;
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
    if (s->restoring.kind) /* the runtime is ahead until the replica knows */
        return 0;
    while (s->deliver_from < s->deliver_to && done < EXECUTE_PER_PASS && !s->failed) {
        uint64_t seq = s->deliver_from++;
        if (!execute(s, seq))
            break;
        done++;
    }
    return done;
}
