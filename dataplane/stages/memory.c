/* What the config makes the dataplane take, before it is taken: for --check-config, and for the
 * tool that reserves hugepages. Needs nothing of DPDK at run time. */
#include <inttypes.h>
#include <stdio.h>

#include "dataplane/stages/internal.h"

void stage_replica_limits(const struct config *g, struct replica_config *ret_config) {
    uint64_t heartbeat_ns = (uint64_t)g->heartbeat_interval_us * 1000;
    *ret_config = (struct replica_config){
        .index = (uint8_t)g->index,
        .node_count = (uint8_t)g->node_count,
        .quorum = (uint8_t)g->quorum,
        .durable = g->durability == CONFIG_DURABILITY_DISK,
        .epochs_in_flight = g->epochs_in_flight,
        .epoch_cap = g->epoch_cap,
        .window = g->window,
        .ranges_max = g->ranges_max,
        .retired_max = g->ranges_retired_max,
        .log_epochs = g->log_epochs,
        .body_slots = g->body_slots,
        .deliver_max = g->deliver_max,
        .heartbeat_interval_ns = heartbeat_ns,
        .slice_floor_ns = g->slice_floor_us ? (uint64_t)g->slice_floor_us * 1000 : 5 * heartbeat_ns,
        .slice_max_ns = (uint64_t)g->slice_max_us * 1000,
        .pass_interval_ns = PASS_INTERVAL_NS,
        .vector_interval_ns = (uint64_t)g->vector_interval_busy_us * 1000,
        .vector_idle_ns = (uint64_t)g->vector_interval_idle_us * 1000,
        .fetch_delay_ns = (uint64_t)g->fetch_delay_us * 1000,
        .idle_epoch_ns = (uint64_t)g->idle_epoch_ms * 1000000,
        .seal_after_ns = (uint64_t)g->seal_after_ms * 1000000,
    };
}

void stage_runtime_limits(const struct config *g, struct runtime_config *ret_config) {
    runtime_config_defaults(ret_config);
    ret_config->state_bytes = g->state_bytes;
    ret_config->ranges_max = g->ranges_max;
    ret_config->retired_max = g->ranges_retired_max;
    ret_config->results_kept = g->results_kept;
    ret_config->idempotency_slots = g->idempotency_keys;
    ret_config->idempotency_bytes = g->idempotency_bytes;
    ret_config->idempotency_span_us = g->idempotency_span_s * 1000000;
    ret_config->max_transaction_bytes = g->max_transaction_bytes;
    ret_config->max_result_bytes = g->max_transaction_bytes + 4096;
}

void stage_memory_plan(const struct config *g, struct stage_memory *ret_memory) {
    struct replica_config replica;
    struct runtime_config runtime;
    stage_replica_limits(g, &replica);
    stage_runtime_limits(g, &runtime);
    *ret_memory = (struct stage_memory){
        .body_count = g->body_slots + 3 * SLOTS_AHEAD,
        .body_bytes = sizeof(struct body) + sizeof(uint64_t) + sizeof(uint32_t),
        .replica_bytes = replica_size(&replica),
        .deliveries_bytes = (uint64_t)g->deliver_max *
                            (sizeof(struct delivery) + (uint64_t)WIRE_EPOCH_BODIES_MAX *
                                                           sizeof(struct replica_delivered_body)),
        .results_bytes = RESULT_AHEAD_BYTES + (uint64_t)PIECES_COUNT * RESULT_PIECE_BYTES +
                         (uint64_t)WIRE_EPOCH_BODIES_MAX * sizeof(struct runtime_body),
    };
    if (runtime_memory_plan(&runtime, &ret_memory->runtime)) /* runtime_open will say so */
        ret_memory->runtime = (struct runtime_memory){0};
    ret_memory->bodies_bytes = (uint64_t)ret_memory->body_count * ret_memory->body_bytes;
    ret_memory->most_bytes = ret_memory->bodies_bytes + ret_memory->replica_bytes +
                             ret_memory->deliveries_bytes + ret_memory->results_bytes +
                             ret_memory->runtime.most_bytes;
}

struct lines {
    FILE *out;
    const char *begin;
};

static void line(const struct lines *to, const char *what, uint64_t bytes, const char *how) {
    fprintf(to->out, "%s%-22s %9.1f MiB   %s\n", to->begin, what, (double)bytes / (1 << 20), how);
}

void stage_memory_print(const struct stage_memory *m, const char *begin, FILE *out) {
    const struct lines to = {out, begin};
    char how[160];
    const struct runtime_memory *r = &m->runtime;
    snprintf(how, sizeof how,
             "%" PRIu32 " slots of %" PRIu32 " bytes; taken as they are used (body-slots)",
             m->body_count, m->body_bytes);
    line(&to, "bodies", m->bodies_bytes, how);
    line(&to, "state", r->state_bytes, "taken as it is used (state-bytes)");
    line(&to, "kept results", r->results_bytes, "taken as they are used");
    line(&to, "idempotency keys", r->idempotency_bytes,
         "and their results, taken as they are used (idempotency-keys, idempotency-bytes)");
    line(&to, "ranges", r->ranges_bytes, "taken as they are used (ranges-max, ranges-retired-max)");
    line(&to, "copies", r->copies_bytes,
         "of pages of these four, while a snapshot is written or taken");
    line(&to, "pages, undo log", r->other_bytes, "taken as the state is used");
    line(&to, "replica", m->replica_bytes, "log-epochs, ranges-max, body-slots");
    line(&to, "deliveries", m->deliveries_bytes, "deliver-max epochs of 4096 bodies");
    line(&to, "results", m->results_bytes, "on the way to gateways");
    line(&to, "sum", m->most_bytes, "and about 25 MiB of program and libraries");
}
