/* What the config makes the dataplane take, before it is taken: for --check-config, and for the
 * tool that reserves hugepages. Needs nothing of DPDK at run time. */
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

void stage_memory_plan(const struct config *g, struct stage_memory *ret_memory) {
    struct replica_config replica;
    stage_replica_limits(g, &replica);
    *ret_memory = (struct stage_memory){
        .body_count = g->body_slots + 3 * SLOTS_AHEAD,
        .body_bytes = sizeof(struct body) + sizeof(uint64_t) + sizeof(uint32_t),
        .replica_bytes = replica_size(&replica),
        .deliveries_bytes = (uint64_t)g->deliver_max *
                            (sizeof(struct delivery) + (uint64_t)WIRE_EPOCH_BODIES_MAX *
                                                           sizeof(struct replica_delivered_body)),
        .results_bytes = RESULT_AHEAD_BYTES + (uint64_t)PIECES_COUNT * RESULT_PIECE_BYTES +
                         (uint64_t)WIRE_EPOCH_BODIES_MAX * sizeof(struct runtime_body),
        .state_bytes = g->state_bytes,
    };
    ret_memory->bodies_bytes = (uint64_t)ret_memory->body_count * ret_memory->body_bytes;
    ret_memory->most_bytes = ret_memory->bodies_bytes + ret_memory->replica_bytes +
                             ret_memory->deliveries_bytes + ret_memory->results_bytes +
                             ret_memory->state_bytes;
}
