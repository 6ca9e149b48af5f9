/* perf_client: a gateway inside the measuring thread: the gateway's core and the sessions and
 * outbox that the library uses, polled by the caller instead of a thread of its own.
 *
 * Threads: the caller's. Ownership: the net stays the caller's; requests are copied. */
#ifndef MAROON_PERF_CLIENT_H
#define MAROON_PERF_CLIENT_H

#include "dataplane/net/net.h"
#include "gateway/core/gateway_core.h"

struct perf_client;

/* Called for each result, inside perf_client_poll. */
typedef void (*perf_client_done)(void *context, void *user, const struct gateway_core_done *done);

struct perf_client_config {
    struct net *net;
    uint32_t node_count;
    const struct net_address *nodes;
    uint64_t owner; /* random, not 0 */
    uint32_t parts_max;
    uint32_t transaction_max_bytes;
    perf_client_done done;
    void *context;
};

/* Returns NULL without memory. */
struct perf_client *perf_client_open(const struct perf_client_config *config);
void perf_client_close(struct perf_client *client);

/* Takes what came. Returns the packets received. */
uint32_t perf_client_poll(struct perf_client *client, uint64_t now_us);

/* As gateway_core_submit. Nothing leaves before the next flush. */
int perf_client_submit(struct perf_client *client, uint64_t now_us, uint32_t service,
                       uint32_t method, const void *payload, uint32_t length_bytes, void *user);

/* Sends what was submitted and what must go again. Once per pass, after the poll. */
void perf_client_flush(struct perf_client *client, uint64_t now_us);

/* Says to every node that this gateway holds `range`, which opens it once the arbiter agrees. */
void perf_client_claim(struct perf_client *client, uint64_t now_us, uint64_t range);

/* Holds a range and has heard a leader. */
bool perf_client_ready(const struct perf_client *client, uint64_t now_us);
void perf_client_facts(const struct perf_client *client, uint64_t now_us,
                       struct gateway_core_facts *ret_facts);

#endif
