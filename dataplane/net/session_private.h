/* Inside of net_sessions, shared by session.c (the table) and session_receive.c (packets). */
#ifndef MAROON_NET_SESSION_PRIVATE_H
#define MAROON_NET_SESSION_PRIVATE_H

#include "dataplane/net/session.h"

#define NONE UINT32_MAX
#define ANSWERS_MAX \
    64 /* HELLOs and PONGs asked for by packets, not sent yet; more are dropped: they ask again */
#define LIMITS_COUNT 256 /* recently answered unknown addresses, direct-mapped */

struct answer {
    struct net_address address;
    uint32_t your_session;
    uint8_t stage;
    uint8_t flags;
    bool pong; /* to a PING of session 0, which is `ping` */
    struct wire_ping ping;
};

struct net_sessions {
    struct net_session_config own;
    uint64_t packet_number;
    struct net_peer *peers; /* nodes first: WIRE_NODES_MAX, then gateways */
    uint32_t *slots;        /* number + 1 of a peer; 0: empty */
    uint32_t peer_max, slot_mask;
    uint32_t node_count, gateway_count;
    uint32_t oldest, newest, free;
    uint32_t answer_first, answer_count;
    uint64_t quiet_until_us; /* no node wants an unasked HELLO before; 0: not known */
    struct answer answers[ANSWERS_MAX];
    struct {
        struct net_address address;
        uint64_t at_us;
    } limits[LIMITS_COUNT];
    struct net_session_refusal refusal;
    uint64_t drops[WIRE_DROP_COUNT];
};

struct net_peer *session_find(struct net_sessions *sessions, uint32_t session);
/* Gives the peer another session (0: none) in the index too. */
void session_set(struct net_sessions *sessions, struct net_peer *peer, uint32_t session);
void session_heard(struct net_sessions *sessions, struct net_peer *peer, uint64_t now_us);
/* A record for a gateway; NULL when all are live. */
struct net_peer *session_gateway_new(struct net_sessions *sessions, uint64_t now_us);
struct net_peer *session_node_at(struct net_sessions *sessions, struct net_address address);
/* The record stands for another process from now on. */
void session_renew(struct net_sessions *sessions, struct net_peer *peer);

#endif
