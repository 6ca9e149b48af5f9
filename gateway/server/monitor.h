/* monitor: GET /v1/monitor, a WebSocket (RFC 6455) on which each transaction's way is told: one
 * text message of JSON per event: {"event":"sent|committed|executed|sealed","id":"..."}; executed
 * also has "epoch", "latencyUs", "code".
 *
 * A watcher that does not read fast enough loses events and is told how many
 * ({"event":"lost","count":N}); nothing waits for it. Threads: one of its own; monitor_event: the
 * gateway library's; monitor_upgrade: libmicrohttpd's; facts: any. Ownership: sockets are
 * libmicrohttpd's and are given back by its thread-safe close. Errors: a bad handshake is answered
 * by the caller, with the reason monitor_upgrade returns. */
#ifndef MAROON_GATEWAY_MONITOR_H
#define MAROON_GATEWAY_MONITOR_H

#include <microhttpd.h>
#include <stdint.h>

#include <maroon/gateway.h>

#define MONITOR_WATCHERS_MAX 64

struct monitor;

struct monitor_facts {
    uint32_t watchers;
    uint64_t lost; /* events, summed over watchers */
};

/* Returns NULL when there is no memory or thread for it. */
struct monitor *monitor_start(void);

/* Ends all WebSockets and the thread; before MHD_stop_daemon. After it upgrades are closed at once.
 */
void monitor_stop(struct monitor *monitor);
void monitor_free(struct monitor *monitor); /* after MHD_stop_daemon */

/* The gateway's observer; `user` is the monitor. Cheap while nobody watches. */
void monitor_event(void *user, const struct mrn_gateway_event *event);

/* Answers a handshake: *ret_response to be queued with status 101. Returns NULL, or a sentence why
 * it is refused. */
const char *monitor_upgrade(struct monitor *monitor, struct MHD_Connection *connection,
                            struct MHD_Response **ret_response);

void monitor_facts(struct monitor *monitor, struct monitor_facts *ret_facts);

#endif
