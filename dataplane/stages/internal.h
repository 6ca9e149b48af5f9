/* The dataplane's inside, shared by the files of this room:
 *   stage.c    open, the loop, close        ingress.c  gateways: bodies in, results out
 *   gossip.c   other nodes: frames in and out (gossip and fetch endpoints), what the replica wants
 * done execute.c  the runtime: epochs, results        state.c  its snapshots, written and restored;
 * the start from disk        facts.c  the status page */
#ifndef MAROON_STAGE_INTERNAL_H
#define MAROON_STAGE_INTERNAL_H

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "dataplane/replica/replica.h"
#include "dataplane/stages/bodies.h"
#include "dataplane/stages/outbox.h"
#include "dataplane/stages/snapshots.h"
#include "dataplane/stages/stage.h"
#include "dataplane/stages/storage.h"
#include "runtime/runtime.h"
#include <maroon/error.h>

#define EXECUTE_PER_PASS 8
#define BODIES_IN_FLIGHT 1024 /* slots between arrival and the replica's word on them */
#define RESULT_PIECE_BYTES 1344
#define RESULT_AHEAD_BYTES 65536 /* of a long result sent unasked */
#define RANGE_CACHE 4096         /* range -> gateway, direct mapped */

struct stage {
    struct stage_setup setup;
    struct net_endpoint *endpoints[WIRE_STAGE_COUNT];
    struct net_sessions *sessions[WIRE_STAGE_COUNT];
    struct outbox outboxes[WIRE_STAGE_COUNT];
    struct bodies bodies;
    struct replica *replica;
    void *replica_memory;
    struct replica_actions *actions;
    struct runtime *runtime;
    struct runtime_body *exec_bodies;
    struct replica_delivered_body *delivered;
    uint64_t deliver_from, deliver_to; /* epochs delivered and not executed: [from, to) */
    struct {
        uint64_t range;
        uint32_t gateway;
    } range_cache[RANGE_CACHE];
    struct mailbox_status *status;
    uint8_t *result_buffer;
    uint32_t result_room;
    uint64_t now_ns, now_us, wall_us, facts_at_ns, hash_at_ns, busy_ns, loop_ns, work;
    uint64_t dropped[WIRE_DROP_COUNT];
    struct mailbox_facts facts;
    bool leads, failed;
    struct storage *storage; /* NULL in memory mode */
    struct snapshots *snapshots;
    uint64_t snapshot_mark;        /* of the one being written: what the journal keeps */
    bool snapshot_on;              /* the runtime is being copied */
    struct mailbox_down wanted;    /* a snapshot for peers that waits for its turn; kind 0: none */
    struct mailbox_down restoring; /* what the runtime holds already and the replica not yet */
    struct runtime_snapshot_info restored;
    _Atomic bool stop;
    char stop_text[MAILBOX_PATH_MAX];
};

void stage_step(struct stage *s, struct replica_event *event); /* and does what comes of it */
void stage_fail(struct stage *s, int error, const char *text);
void stage_drop(struct stage *s, enum wire_drop reason);
uint64_t stage_clock_ns(void);
/* Copies a body into a slot; BODIES_SLOT_NONE, counted, when there is no room in memory or too much
 * waits for the disk. */
uint32_t stage_body_slot(struct stage *s, uint64_t id, const void *bytes, uint32_t length_bytes);

uint32_t stage_ingress_poll(struct stage *s);
void stage_ingress_result(struct stage *s, uint32_t gateway, const struct runtime_result *result,
                          const uint8_t *bytes, uint32_t from, uint32_t length);
void stage_ingress_wanted(struct stage *s, uint32_t gateway, uint64_t id, uint32_t offset,
                          uint32_t length);
void stage_ingress_action(struct stage *s, const struct replica_action *a);
void stage_ingress_granted(struct stage *s, const struct mailbox_down *down);
struct net_peer *stage_gateway(struct stage *s, uint32_t number);
uint32_t stage_gateway_of(const struct stage *s, uint64_t range); /* UINT32_MAX: not heard */

uint32_t stage_gossip_poll(struct stage *s, enum wire_stage stage);
void stage_gossip_send(struct stage *s, const struct replica_action *a);
void stage_gossip_send_body(struct stage *s, const struct replica_action *a);

uint32_t stage_execute_poll(struct stage *s);

int stage_state_start(struct stage *s, const struct replica_config *config, char *ret_error);
uint32_t stage_state_poll(struct stage *s);
void stage_state_snapshot(struct stage *s, const struct mailbox_down *down);
void stage_state_restore(struct stage *s, const struct mailbox_down *down);

void stage_facts_poll(struct stage *s);

#endif
