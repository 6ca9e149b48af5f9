/* stage: the dataplane of one node: ingress, gossip, fetch and execute as poll functions around the
 * replica and the runtime.
 *
 *   gateway packets --ingress--> bodies --replica--> frames to peers (gossip, fetch)
 *                                          |--deliver--> execute --> results --ingress--> gateways
 *
 * A pass of the loop reads each endpoint's burst, takes what the control plane sent, steps the
 * replica with TICK, executes what is committed, and sends what came of all that. The clock is read
 * once per pass. Threads: one thread runs stage_run; stage_stop may be called from any, also from a
 * signal handler. Ownership: the net, the mailbox and the applications stay the caller's. Errors: a
 * fail-stop is told to the control plane (MAILBOX_UP_FAILED) and ends the run. */
#ifndef MAROON_STAGE_H
#define MAROON_STAGE_H

#include "config/config.h"
#include "controlplane/control.h"
#include "dataplane/net/net.h"
#include "dataplane/stages/mailbox.h"
#include "runtime/runtime.h"
#include <maroon/application.h>

struct stage;

struct stage_setup {
    const struct config *config;
    const struct control_identity *identity;
    struct net *net;
    struct mailbox *mailbox;
    const struct mrn_application *const *applications;
    uint32_t application_count;
};

/* What stage_open takes beside DPDK's heap: ordinary memory, of which the bodies and the state fill
 * only as they are used. */
struct stage_memory {
    uint32_t body_count, body_bytes; /* slots with those that lie ready; of one, with its places */
    uint64_t bodies_bytes, replica_bytes, deliveries_bytes, results_bytes;
    struct runtime_memory runtime;
    uint64_t most_bytes; /* the sum */
};

/* Adds up a checked node's config. Pure. */
void stage_memory_plan(const struct config *config, struct stage_memory *ret_memory);
/* A line each, behind `begin`: what, MiB, how it comes about; and the sum. */
void stage_memory_print(const struct stage_memory *memory, const char *begin, FILE *out);

/* Takes all memory. Returns 0, MRN_ERR_NO_MEMORY, or MRN_ERR_INVALID with a sentence in ret_error
 * (NET_TEXT_BYTES). */
int stage_open(const struct stage_setup *setup, struct stage **ret_stage, char *ret_error);

/* What the journal says about itself in one line (journal_describe); "journal=none" in memory mode.
 * Before stage_run. */
const char *stage_describe(const struct stage *stage);

/* When the slowest of the threads began its last pass (CLOCK_MONOTONIC); 0 before each has begun
 * one. Any thread: a watchdog's. */
uint64_t stage_pass_ns(const struct stage *stage);

/* One pass of every stage, for who runs several nodes on one thread instead of stage_run. Returns
 * whether there was work. A fail-stop is told to the control plane, and from then on nothing is
 * done. */
bool stage_poll(struct stage *stage);

/* Runs until stage_stop or a fail-stop. Returns 0, or the error of the fail-stop. */
int stage_run(struct stage *stage);
void stage_stop(struct stage *stage);

void stage_close(struct stage *stage);

#endif
