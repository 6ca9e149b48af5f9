/* gateway: submit transactions to a maroon cluster from any program.
 *
 *   mrn_gateway_open --> threads call mrn_gateway_submit; each is answered once, by its callback or
 * through mrn_gateway_poll --> mrn_gateway_stop --> mrn_gateway_close
 *
 * The library holds a key range, gives each transaction its id, sends it to every node, repeats it
 * until its result is there: a transaction that was taken is executed exactly once, whatever fails
 * on the way, unless its answer says otherwise. Threads: open and close: one; mrn_gateway_poll: one
 * at a time; all else: any. Callbacks and the observer run on the library's thread and must not
 * block. Ownership: requests are copied; bytes given to a callback live until it returns. Units:
 * in the names. Errors: enum mrn_error, negative. */
#ifndef MAROON_GATEWAY_H
#define MAROON_GATEWAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MRN_GATEWAY_NODES_MAX 7
#define MRN_GATEWAY_RANGE_NONE UINT64_MAX
#define MRN_GATEWAY_ID_NONE UINT64_MAX
#define MRN_GATEWAY_KEY_MAX_BYTES 64

struct net;
struct mrn_gateway;

enum mrn_gateway_event_kind {
    MRN_GATEWAY_SENT = 1,  /* sent to the nodes under `id` */
    MRN_GATEWAY_COMMITTED, /* its place in the order stands */
    MRN_GATEWAY_EXECUTED,  /* its result is here */
    MRN_GATEWAY_SEALED     /* `id` never executes: its range was sealed before it was ordered */
};

struct mrn_gateway_event {
    enum mrn_gateway_event_kind kind;
    uint64_t id;
    uint64_t epoch_seq, latency_us; /* EXECUTED */
    uint32_t code;                  /* EXECUTED: enum mrn_code */
};

typedef void (*mrn_gateway_observer)(void *user, const struct mrn_gateway_event *event);

struct mrn_gateway_config {
    uint32_t node_count;
    struct {
        uint32_t ipv4; /* host byte order */
        uint16_t port;
    } nodes[MRN_GATEWAY_NODES_MAX];
    uint64_t pinned_range;          /* MRN_GATEWAY_RANGE_NONE: ask for one */
    uint32_t outstanding_max;       /* bodies without a result; power of two */
    uint32_t transaction_max_bytes; /* of a request, and of a result */
    uint64_t request_timeout_us;    /* of requests that name none */
    bool busy;                      /* spin instead of sleeping */
    mrn_gateway_observer observer;  /* told of each transaction on its way; may be NULL */
    void *observer_user;
};

struct mrn_gateway_request {
    const char *service, *method; /* "package.Service", "Method" */
    const void *bytes;            /* its message in protobuf */
    size_t length_bytes;
    const void *key; /* idempotency key, up to MRN_GATEWAY_KEY_MAX_BYTES; NULL: none */
    size_t key_bytes;
    uint64_t timeout_us;   /* 0: the config's */
    bool answer_when_sent; /* answered as soon as it is sent: outcome pending, and an id that
                              mrn_gateway_query tells more about */
};

struct mrn_gateway_answer {
    void *user;          /* of the submission */
    uint64_t id;         /* MRN_GATEWAY_ID_NONE: it has none */
    uint32_t owner_mark; /* under whom the id was given, for mrn_gateway_query */
    uint64_t epoch_seq, logical_time_us, latency_us;
    int error;        /* 0: see code. MRN_ERR_TIMEOUT with an id: sent, no result yet; it goes on,
                         and mrn_gateway_query tells more. Any other, or no id: never sent */
    uint32_t code;    /* enum mrn_code; UINT32_MAX: executed, its result is no longer kept. UNKNOWN
                         with epoch_seq 0: sent, and its range went to another gateway since */
    uint32_t outcome; /* mrn_gateway_query, answer_when_sent: enum wire_tx_outcome */
    uint32_t method_key;  /* mrn_gateway_query: which method the result is of, see
                             mrn_gateway_method_key; 0: no call, its parts contradict each other */
    const uint8_t *bytes; /* response, or message */
    size_t length_bytes;
};

typedef void (*mrn_gateway_callback)(void *user, const struct mrn_gateway_answer *answer);

/* Starts the library's thread on a started net with one endpoint for stage 0. Returns 0,
 * MRN_ERR_NO_MEMORY or MRN_ERR_INVALID. */
int mrn_gateway_open(const struct mrn_gateway_config *config, struct net *net,
                     struct mrn_gateway **ret_gateway);

/* Takes a request. callback NULL: its answer is given by mrn_gateway_poll. Returns 0 (it will be
 * answered), MRN_ERR_TOO_LARGE, MRN_ERR_FULL (too many wait), MRN_ERR_NO_MEMORY, MRN_ERR_CLOSED.
 *
 * An id that an answer named stays the transaction's: when its range is sealed before it was
 * ordered, it is not sent under another one, and a query says SEALED. */
int mrn_gateway_submit(struct mrn_gateway *gateway, const struct mrn_gateway_request *request,
                       mrn_gateway_callback callback, void *user);

/* Answers of submissions without a callback, in the order in which they came; waits up to
 * timeout_us for the first. Returns how many (at most `max`); their bytes live until the next call
 * or close. */
uint32_t mrn_gateway_poll(struct mrn_gateway *gateway, struct mrn_gateway_answer *ret_answers,
                          uint32_t max, uint64_t timeout_us);

/* How many transactions of one body would be sent at once if they were submitted now; 0: the window
 * is full, more wait in a queue. */
uint32_t mrn_gateway_window(struct mrn_gateway *gateway);

/* The number that stands for a method in answers to queries. */
uint32_t mrn_gateway_method_key(const char *service, const char *method);

/* Asks what became of any id. `owner_mark`: as the answer that told the id named it, so that
 * nothing is told of another's transaction which got the id later (a pinned range that changed
 * hands); 0: not known here, then it is this gateway's, if it gave the id, else whoever's. Calls
 * back once: error TIMEOUT when no node answers. Returns as mrn_gateway_submit. */
int mrn_gateway_query(struct mrn_gateway *gateway, uint64_t id, uint32_t owner_mark,
                      mrn_gateway_callback callback, void *user);

#define MRN_GATEWAY_BUCKETS 40   /* of latency: bucket i counts those of bit length i (us) */
#define MRN_GATEWAY_DROPS_MAX 48 /* more than there are reasons */
struct mrn_gateway_facts {
    uint64_t range, next_range, owner, configuration_id;
    uint32_t offset, committed, limit, outstanding, waiting, nodes_heard, node_count;
    uint8_t leader;         /* 255: none heard */
    bool ready;             /* holds a range and hears a leader */
    uint32_t range_outcome; /* of the last request for a range, enum wire_range_outcome */
    uint64_t range_held_by;
    /* The node that was refused last: it is of another cluster than the one heard first. */
    uint64_t refused_configuration_id; /* 0: none */
    uint32_t refused_ipv4;
    uint16_t refused_port;
    uint64_t submitted, answered, resent, window_full, sealed, queries, rx_packets, tx_packets;
    uint64_t lost, doubt; /* ranges that turned out to be others', transactions that ended so */
    uint64_t rx_dropped[MRN_GATEWAY_DROPS_MAX]; /* by reason, see mrn_gateway_drop_name */
    uint64_t latency_count, latency_sum_us, latency[MRN_GATEWAY_BUCKETS];
};
void mrn_gateway_facts(struct mrn_gateway *gateway, struct mrn_gateway_facts *ret_facts);

/* Name of a reason, from 0; NULL behind the last. */
const char *mrn_gateway_drop_name(uint32_t reason);

/* Ends the gateway's thread; what has no answer yet is answered with MRN_ERR_CLOSED, in the
 * caller's thread, before this returns. Other threads may go on calling: submit and query return
 * MRN_ERR_CLOSED, facts stay as they were, poll gives the answers that are left. By one thread. */
void mrn_gateway_stop(struct mrn_gateway *gateway);

/* Stops, unless that was done, and frees: no other thread may be inside a call, or make one. */
void mrn_gateway_close(struct mrn_gateway *gateway);

#endif
