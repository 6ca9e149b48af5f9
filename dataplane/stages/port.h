/* port: an endpoint of the net with its sessions, its outbox and what it dropped. One stage's.
 *
 * Threads: the stage's; port_drops any (counters may be a little old). Ownership: the endpoint
 * stays the net's. */
#ifndef MAROON_PORT_H
#define MAROON_PORT_H

#include <stdatomic.h>

#include "dataplane/net/net.h"
#include "dataplane/net/session.h"
#include "dataplane/stages/outbox.h"

struct port {
    struct net_endpoint *endpoint;
    struct net_sessions *sessions;
    struct outbox outbox;
    _Atomic uint64_t dropped[WIRE_DROP_COUNT]; /* what the stage itself refused */
    uint64_t refusals_seen, refusal_told_us[WIRE_DROP_COUNT];
};

/* Sessions as config says. Returns 0, MRN_ERR_NO_MEMORY, or MRN_ERR_INVALID (no such endpoint). */
int stage_port_open(struct port *port, struct net *net, const struct net_session_config *config);
void stage_port_close(struct port *port);

void stage_port_drop(struct port *port, enum wire_drop reason);

/* Adds what this port, its sessions and its endpoint dropped, by reason. */
void stage_port_drops(const struct port *port, uint64_t total[WIRE_DROP_COUNT]);

/* The last HELLO that was refused, when it should be said (again): a reason once a minute. */
bool stage_port_refusal(struct port *port, uint64_t now_us,
                        struct net_session_refusal *ret_refusal);

/* Calls `take` for each frame of the packets that came; `drop` is counted. Returns how many packets
 * came. */
typedef void (*stage_port_take)(void *context, struct net_received *received,
                                const struct wire_frame *frame);
uint32_t stage_port_receive(struct port *port, uint64_t now_us, stage_port_take take,
                            void *context);

#endif
