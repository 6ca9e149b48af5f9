/* outbox: frames to the peers of one endpoint, gathered into packets. "Senders fill packets to the
 * MTU but never wait for more" (protocol.md §11): everything is sent at the end of the poll that
 * made it.
 *
 * Threads: the lcore of the endpoint. Ownership: frames are copied at once. Errors: when no packet
 * buffer is free the frame is lost and counted by net; every frame of the protocol is repeated by
 * who needs it. */
#ifndef MAROON_OUTBOX_H
#define MAROON_OUTBOX_H

#include "dataplane/net/net.h"
#include "dataplane/net/session.h"

struct outbox_packet {
    struct net_packet packet;
    struct wire_writer writer;
    bool open;
};

struct outbox {
    struct net_endpoint *endpoint;
    struct net_sessions *sessions;
    struct outbox_packet *packets; /* by peer number */
    uint32_t *open;                /* peer numbers with an open packet */
    uint32_t open_count, peer_max;
    uint64_t sent_packets;
};

/* Returns 0 or MRN_ERR_NO_MEMORY. The sessions table is the caller's. */
int stage_outbox_open(struct outbox *outbox, struct net_endpoint *endpoint,
                      struct net_sessions *sessions);
void stage_outbox_close(struct outbox *outbox);

/* Adds a frame (payload, then tail) to the peer's packet. */
void stage_outbox_frame(struct outbox *outbox, struct net_peer *peer, uint64_t now_us,
                        enum wire_kind kind, uint8_t flags, const void *payload,
                        uint32_t payload_bytes, const void *tail, uint32_t tail_bytes);

/* Sends all open packets and the HELLOs that are due. Once per poll. */
void stage_outbox_flush(struct outbox *outbox, uint64_t now_us);

#endif
