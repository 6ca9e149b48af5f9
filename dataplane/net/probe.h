/* net_probe: who answers at an address? Asked, and answered to others, by a process that has no
 * sessions yet.
 *
 *   ask --PING, session 0--> whoever listens there --PONG: its process token--> serve --> answer
 *
 * Used by a node that starts: another process may live under its index (protocol.md, "PING of a
 * stranger"), or its peers may be of another cluster. Two that start at the same time find each
 * other, since serve answers as a running node's sessions do (session.h). Threads: one, until the
 * endpoint's stage takes over. Ownership: the net stays the caller's. Errors: what is lost is asked
 * again by the caller; what is no PING or PONG of session 0 is dropped. */
#ifndef MAROON_NET_PROBE_H
#define MAROON_NET_PROBE_H

#include "dataplane/net/net.h"

struct net_probe {
    struct net_endpoint *endpoint;
    uint64_t packet_number;
    uint64_t nonce, token;          /* of the last PONG; nonce 0: none */
    char other[WIRE_CLUSTER_BYTES]; /* another cluster that a PONG named; "": none */
    struct net_address other_from;
};

/* Uses the endpoint of INGRESS. */
void net_probe_open(struct net_probe *probe, struct net *net);

/* Sends one PING. The first to a host of a segment is lost while its address is resolved. `nonce`:
 * random, not 0. */
void net_probe_ask(struct net_probe *probe, struct net_address to, uint64_t nonce, uint64_t now_us);

/* Takes what came; answers PINGs with our token and cluster. Every few milliseconds. */
void net_probe_serve(struct net_probe *probe, uint64_t own_token,
                     const char own_cluster[WIRE_CLUSTER_BYTES], uint64_t now_us);

/* Whether the last PONG answered `nonce`; then *ret_token is its sender's process token. */
bool net_probe_answer(const struct net_probe *probe, uint64_t nonce, uint64_t *ret_token);

/* Whether somebody who was asked is of another cluster than ours; then its name and address. */
bool net_probe_other(const struct net_probe *probe, char ret_cluster[WIRE_CLUSTER_BYTES + 1],
                     struct net_address *ret_from);

/* True when a datagram to `to` would only come back to this process. */
bool net_probe_is_own(const struct net_probe *probe, struct net_address to);

#endif
