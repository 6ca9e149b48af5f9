/* gateway: submit transactions to a maroon cluster from any program.
 *
 *   mrn_gateway_open --> threads call mrn_gateway_submit; the library's own thread calls back once
 * for each --> mrn_gateway_close
 *
 * The library holds a key range, gives each transaction its id, sends it to every node, repeats it
 * until its result is there: a transaction that was taken is executed exactly once, whatever fails
 * on the way, unless the call back says otherwise. Threads: open and close: one; all else: any.
 * Callbacks run on the library's thread and must not block. Ownership: requests are copied; bytes
 * given to a callback live until it returns. */
#ifndef MAROON_GATEWAY_H
#define MAROON_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MRN_GATEWAY_NODES_MAX 7
#define MRN_GATEWAY_RANGE_NONE UINT64_MAX
#define MRN_GATEWAY_TEXT_BYTES 512

struct net;
struct mrn_gateway;

struct mrn_gateway_config {
    uint32_t node_count;
    struct {
        uint32_t ipv4; /* host byte order */
        uint16_t port;
    } nodes[MRN_GATEWAY_NODES_MAX];
    uint64_t pinned_range;          /* MRN_GATEWAY_RANGE_NONE: ask for one */
    uint32_t outstanding_max;       /* bodies without a result; power of two */
    uint32_t transaction_max_bytes; /* of a request, and of a result */
    uint64_t request_timeout_us; /* a submission that could not even be sent by then is called back
                                    as unavailable */
    bool busy;                   /* spin instead of sleeping */
};

struct mrn_gateway_answer {
    uint64_t id, epoch_seq, logical_time_us, latency_us;
    int error;            /* < 0: enum mrn_error, it was never sent; 0: see code */
    uint32_t code;        /* enum mrn_code; UINT32_MAX: executed, its result is no longer kept */
    uint32_t outcome;     /* mrn_gateway_query: enum wire_tx_outcome */
    uint32_t method_key;  /* mrn_gateway_query: which method the result is of, see
                             mrn_gateway_method_key */
    const uint8_t *bytes; /* response, or message */
    size_t length_bytes;
};

typedef void (*mrn_gateway_callback)(void *user, const struct mrn_gateway_answer *answer);

/* Starts the library's thread on a started net with one endpoint for stage 0. Returns 0,
 * MRN_ERR_NO_MEMORY or MRN_ERR_INVALID. */
int mrn_gateway_open(const struct mrn_gateway_config *config, struct net *net,
                     struct mrn_gateway **ret_gateway);

/* Takes a request for "package.Service" / "Method". `key`: up to 64 bytes of idempotency key or
 * NULL. Returns 0 (the callback will come), MRN_ERR_TOO_LARGE, MRN_ERR_FULL (too many wait),
 * MRN_ERR_NO_MEMORY, MRN_ERR_CLOSED. */
int mrn_gateway_submit(struct mrn_gateway *gateway, const char *service, const char *method,
                       const void *request, size_t request_bytes, const void *key, size_t key_bytes,
                       mrn_gateway_callback callback, void *user);

/* The number that stands for a method in answers to queries. */
uint32_t mrn_gateway_method_key(const char *service, const char *method);

/* Asks what became of any id. Calls back once: error TIMEOUT when no node answers. Same returns. */
int mrn_gateway_query(struct mrn_gateway *gateway, uint64_t id, mrn_gateway_callback callback,
                      void *user);

#define MRN_GATEWAY_BUCKETS 40 /* of latency: bucket i counts those of bit length i (us) */
struct mrn_gateway_facts {
    uint64_t range, next_range, owner, configuration_id;
    uint32_t offset, committed, limit, outstanding, waiting, nodes_heard, node_count;
    uint8_t leader;         /* 255: none heard */
    bool ready;             /* holds a range and hears a leader */
    uint32_t range_outcome; /* of the last request for a range, enum wire_range_outcome */
    uint64_t range_held_by;
    uint64_t submitted, answered, resent, window_full, sealed, queries, rx_packets, tx_packets;
    uint64_t latency_count, latency_sum_us, latency[MRN_GATEWAY_BUCKETS];
};
void mrn_gateway_facts(struct mrn_gateway *gateway, struct mrn_gateway_facts *ret_facts);

/* Ends the thread; what has no result yet is called back with MRN_ERR_CLOSED. */
void mrn_gateway_close(struct mrn_gateway *gateway);

#endif
