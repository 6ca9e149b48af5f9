/* What the simulator holds; see sim.c. One struct, so that a run leaves nothing behind. */
#ifndef MAROON_SIM_H
#define MAROON_SIM_H

#include <assert.h>
#include <string.h>

#include "dataplane/replica/replica.h"

#define SIM_NODES_MAX WIRE_NODES_MAX
#define SIM_GATEWAYS_MAX 4
#define SIM_GATEWAY_BASE 64 /* network address of gateway 0 */
#define SIM_RANGES SIM_GATEWAYS_MAX
#define SIM_OFFSETS 1024
#define SIM_EPOCHS_MAX 65536
#define SIM_TERMS_MAX 65536
#define SIM_SLOTS_SPARE 8

enum sim_packet_kind {
    SIM_FRAME = 1,
    SIM_BODY,
    SIM_TX,
    SIM_HELLO,
    SIM_RESULT,
    SIM_SEALED,
    SIM_PROGRESS
};

struct sim_packet {
    enum sim_packet_kind kind;
    uint8_t from, frame_kind, frame_flags;
    uint16_t length;
    uint64_t incarnation, number, id;
    uint32_t variant, received, committed;
    uint8_t bytes[WIRE_PACKET_MAX_BYTES];
};

enum sim_event_kind {
    SIM_TICK = 1,
    SIM_PACKET,
    SIM_SYNC,
    SIM_EXECUTED,
    SIM_KEY,
    SIM_CAMPAIGN,
    SIM_CAMPAIGN_DONE,
    SIM_CHECKED,
    SIM_SNAPSHOT,
    SIM_RESTART,
    SIM_GATEWAY,
    SIM_FAULT
};

struct sim_event {
    uint64_t at_ns, number, life, value, value2;
    enum sim_event_kind kind;
    uint8_t node;
    struct sim_packet *packet;
};

struct sim_slot {
    uint64_t id;
    uint32_t variant;
    bool used;
};

struct sim_record { /* of a journal */
    enum replica_action_kind kind;
    uint64_t term, token, id;
    uint32_t variant, length;
    uint8_t peer;
    uint8_t bytes[WIRE_EPOCH_MAX_BYTES];
};

struct sim_state { /* deterministic state: a snapshot is a copy of it */
    uint64_t exec_seq, term, logical_time_us;
    struct wire_hash hash, epoch_hash;
    uint64_t owner[SIM_RANGES];
    uint32_t position[SIM_RANGES];
    bool open[SIM_RANGES];
};

struct sim_node {
    struct replica *replica;
    void *memory;
    struct sim_slot *slots;
    uint32_t *slot_free, slot_free_count;
    struct sim_record *journal;
    uint32_t journal_count, journal_room, journal_synced, journal_base, journal_dropped;
    uint64_t journal_next, life, incarnation, packet_number, paused_until_ns, wall_skew_us,
        restored_seq, executed_at_ns;
    uint64_t seen_term, seen_commit;
    bool up, amnesiac, sync_pending;
    struct sim_state state, disk_snapshot;
};

struct sim_gateway {
    uint64_t range, owner, resend_at_ns, hello_at_ns;
    uint32_t wanted, sent, answered, committed;
    bool dead, faulty;
    bool results[SIM_OFFSETS];
};

struct sim {
    uint64_t seed, random, now_ns, steps, event_number, incarnations, results;
    uint8_t node_count;
    uint32_t loss, duplicate, reorder; /* per thousand */
    bool slow_disk, one_node_only, crashes, calm, failed, etcd_away;
    struct replica_config config;
    bool cut[SIM_NODES_MAX][SIM_NODES_MAX];
    uint64_t revision, key_revision, key_life;
    uint8_t key_node;
    struct sim_node nodes[SIM_NODES_MAX];
    struct sim_gateway gateways[SIM_GATEWAYS_MAX];
    /* what the checkers know */
    uint64_t committed_max;
    bool committed_known[SIM_EPOCHS_MAX], state_known[SIM_EPOCHS_MAX];
    struct wire_hash committed[SIM_EPOCHS_MAX], state_hash[SIM_EPOCHS_MAX];
    uint8_t leader_of[SIM_TERMS_MAX];
    bool variant_known[SIM_RANGES][SIM_OFFSETS], result_given[SIM_RANGES][SIM_OFFSETS];
    uint8_t variant[SIM_RANGES][SIM_OFFSETS];
    /* kept between runs */
    struct sim_event *events;
    uint32_t event_count, event_room;
};

void sim_restore(uint8_t index, bool alive);

#endif
