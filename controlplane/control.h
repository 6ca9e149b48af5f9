/* control: the control plane of a node, one ordinary thread beside the dataplane.
 *
 *   control_prepare --> identity --(main starts EAL, dataplane, mailbox)--> control_start
 *       --> thread runs: etcd, leader key, ranges, snapshots of peers, admin HTTP
 *   control_announce_stop (any time) --> the dataplane hands over --> control_stop
 *
 * What it does with the dataplane passes through the mailbox (dataplane/stages/mailbox.h) only:
 * messages over two rings, counters from the status page, snapshots as files.
 *
 * Threads: prepare, start, announce_stop, stop and destroy belong to main's thread. The control
 * thread is made by control_start. The admin HTTP server runs on the control thread too (its
 * external event loop), so a slow reader of /metrics delays nobody but other readers.
 * Ownership: the config is copied. The mailbox stays the caller's and must outlive control_stop.
 * Errors: enum mrn_error; what was refused and what to do about it is logged (controlplane/log.h).
 *
 * Invariant: no call of the control thread blocks. control_prepare does, before there is a thread.
 */
#ifndef MAROON_CONTROL_H
#define MAROON_CONTROL_H

#include <stdbool.h>
#include <stdint.h>

#include "controlplane/etcd.h"
#include "controlplane/store/object_store.h"
#include "dataplane/stages/mailbox.h"
#include "proto/wire.h"

#define CONTROL_ADDRESS_MAX 96
#define CONTROL_KEY_BYTES 32
#define CONTROL_NAME_MAX 64

enum control_arbiter { CONTROL_ARBITER_EMBEDDED = 1, CONTROL_ARBITER_ETCD = 2 };

/* How a process that has no sessions yet asks who answers at a dataplane address, and is asked by
 * others (dataplane/net/probe.h). Called on the thread of control_prepare, until that returns. */
struct control_probe {
    /* Sends one question to "A:P". False when nobody else can be there: it is our own address. */
    bool (*ask)(void *context, const char *address, uint64_t nonce);
    /* Takes what came, and tells those who ask us `process_token`. */
    void (*serve)(void *context, uint64_t process_token);
    /* Whether `nonce` was answered; then *ret_token is the process token of whoever did. */
    bool (*answer)(void *context, uint64_t nonce, uint64_t *ret_token);
    /* Whether a node that our configuration calls a peer is of another cluster. serve asks them. */
    bool (*other)(void *context, char ret_cluster[WIRE_CLUSTER_BYTES + 1],
                  char ret_from[CONTROL_ADDRESS_MAX]);
    void *context;
};

struct mrn_application;

/* The same on every node: control_limits.def. */
struct control_limits {
#define CONTROL_LIMIT(field, name, key) uint64_t field;
#include "controlplane/control_limits.def"
#undef CONTROL_LIMIT
};

/* All strings are NUL-terminated; "" means not set. */

struct control_config {
    char cluster[CONTROL_NAME_MAX]; /* [a-z0-9-], part of the etcd prefix /maroon/<cluster>/ */
    uint8_t node_index, node_count, quorum; /* node_index < node_count <= WIRE_NODES_MAX, 2q > n */
    bool durable;                    /* durability = disk: the incarnation is kept in data_dir */
    struct control_limits limits;    /* go into the configuration id */
    char data_dir[MAILBOX_PATH_MAX]; /* exists, writable; holds control.lock, incarnation,
                                        embedded.json, tmp/ */
    /* Public key of each member, by index. All zero: derived from (cluster, index), which is enough
     * as long as packets are not sealed. The same on every node. */
    uint8_t member_keys[WIRE_NODES_MAX][CONTROL_KEY_BYTES];

    enum control_arbiter arbiter;
    struct etcd_config etcd;  /* its strings stay the caller's, as those of `store`; endpoints NULL
                                 or "": not set */
    uint32_t lease_ttl_s;     /* of the leader key; 2..3600, default 5 when 0 */
    uint32_t range_ttl_s;     /* of range-leases; default 10 when 0 */
    uint32_t publish_tick_us; /* least time between two publications; default 62,500 when 0 */

    char address[CONTROL_ADDRESS_MAX];         /* registered for peers: "A:P", UDP, ingress port */
    const struct control_probe *probe;         /* NULL: nobody is asked (unit tests) */
    char admin_listen[CONTROL_ADDRESS_MAX];    /* "127.0.0.1:9100"; "": no admin HTTP */
    char admin_advertise[CONTROL_ADDRESS_MAX]; /* where peers reach it; "" = admin_listen */

    /* Dumps; its strings stay the caller's and must outlive control_destroy. url "" or NULL: none
     */
    struct object_store_config store;
    const char *dump_key_file;                         /* NULL or "": objects are not sealed */
    uint32_t dump_interval_s;                          /* 0: only when asked */
    const struct mrn_application *const *applications; /* of the node, to be named in dumps */
    uint32_t application_count;
    uint8_t dump_key[CONTROL_KEY_BYTES]; /* public; control_prepare fills it */

    /* Why the process should end (fail-stop of the dataplane, loss of our index to another node).
     * Called once, on the control thread; must only set a flag or write to an fd. */
    void (*failed)(void *context, int error, const char *reason);
    void *failed_context;
    /* control_prepare gives up when this turns true (set by a signal handler). May be NULL. */
    const volatile bool *interrupted;
};

struct control_member {
    uint64_t incarnation;              /* newest registered; 0: not registered yet */
    uint64_t genesis;                  /* listed in genesis; 0: not listed */
    char address[CONTROL_ADDRESS_MAX]; /* "" while not registered */
    char admin[CONTROL_ADDRESS_MAX];
};

/* What the dataplane needs to know before it starts. */
struct control_identity {
    uint64_t cluster_id;
    uint64_t configuration_id;
    struct wire_digest_key digest_key;
    struct wire_hash genesis_hash; /* previous hash of the first epoch */
    struct wire_hash origin_hash;  /* runtime_config.origin_hash */
    uint64_t restored_seq;         /* the cluster began with the state of this epoch; 0: empty */
    uint64_t incarnation;          /* of our store */
    uint64_t process_token;        /* drawn for this process */
    bool in_genesis;               /* our incarnation is listed: nothing to forget */
    uint8_t node_index, node_count, quorum;
    uint8_t ring[WIRE_NODES_MAX]; /* node index at each place of the ring */
    struct control_member members[WIRE_NODES_MAX];
};

struct control;

/* Checks the config, locks data_dir, registers this node, makes or waits for genesis. Blocks until
 * the arbiter answers and k nodes have registered, logging what it waits for. Returns 0 with
 * *ret_control and *ret_identity set, or MRN_ERR_INVALID (config), _EXISTS (data_dir locked, or a
 * live node holds our index), _MISMATCH (cluster made with another configuration), _IO, _CORRUPT
 * (files in data_dir), _CLOSED (interrupted). */
int control_prepare(const struct control_config *config, struct control **ret_control,
                    struct control_identity *ret_identity);

/* Starts the thread and the admin server. Returns 0, MRN_ERR_IO (no thread, or the admin address
 * cannot be bound). */
int control_start(struct control *control, struct mailbox *mailbox);

/* The node is about to end: tells the dataplane (MAILBOX_DOWN_STOP) so that it hands over. */
void control_announce_stop(struct control *control);

/* Resigns if the leader key is ours, or is about to be (bounded by 2 s), ends and joins the thread.
 * What the dataplane failed of is told before. */
void control_stop(struct control *control);

/* After control_stop, or instead of control_start. NULL is allowed. */
void control_destroy(struct control *control);

/* Fills the member keys that are all zero, from the cluster's name and the index. Pure. */
void control_derive_keys(struct control_config *config);

/* Configuration id of protocol.md §1: the first 8 bytes (little-endian) of BLAKE2b-256 over cluster
 * id, members, k, durability, protocol version, limits and digest key id. Pure. */
uint64_t control_configuration_id(uint64_t cluster_id, uint8_t node_count, uint8_t quorum,
                                  bool durable, const struct control_limits *limits,
                                  const uint8_t member_keys[][CONTROL_KEY_BYTES],
                                  const struct wire_digest_key *digest_key);

#endif
