/* learn_take: what of a peer's journal is taken, record by record (dump_stretch.h): each committed
 * epoch, then its bodies, as fast as the log and the bodies' space have room.
 *
 * Pure but for its callers' functions, so that the simulator takes stretches by the same code.
 * Threads: the replica's. Ownership: nothing is kept. */
#ifndef MAROON_LEARN_TAKE_H
#define MAROON_LEARN_TAKE_H

#include "controlplane/dump/dump_stretch.h"
#include "dataplane/replica/replica.h"

struct learn_shell {
    void *context;
    const struct replica *replica;
    uint32_t log_epochs;
    uint8_t peer; /* whose journal it is */
    void (*step)(void *context, struct replica_event *event);
    /* Puts a body into a slot; false when there is none. */
    bool (*store)(void *context, uint64_t id, const uint8_t *bytes, uint32_t length_bytes,
                  struct replica_event_body *ret_body);
    /* Room for so many bodies, and for others besides? */
    bool (*room)(void *context, uint32_t bodies);
};

/* 1: taken with all its bodies, or passed over; 0: no room now, again after a TICK; MISMATCH when
 * it does not continue what is committed here. */
int learn_take(const struct learn_shell *shell, const struct dump_record *record);

#endif
