/* notify: tells the service manager (systemd) that the process is ready, lives and ends.
 *
 *   notify_open --> notify_beat, again and again: READY=1 once the dataplane runs, WATCHDOG=1 as
 *   long as it gets on, STATUS=... when that changes --> notify_stopping
 *
 * The protocol is a datagram to $NOTIFY_SOCKET (sd_notify(3)); these few bytes are not worth
 * libsystemd in every image. A watchdog that is fed by a timer proves nothing: it is fed only while
 * the slowest thread of the dataplane has begun a pass within half of the watchdog's time. Else it
 * is withheld, the manager kills the process, and that is a fail-stop like any other.
 *
 * Threads: one. Errors: none; without a manager everything is a no-op, a lost datagram comes again.
 */
#ifndef MAROON_NOTIFY_H
#define MAROON_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#define NOTIFY_STATUS_BYTES 160
#define NOTIFY_NEVER UINT32_MAX

struct notify {
    int fd; /* -1: nobody wants to know */
    struct sockaddr_un to;
    socklen_t to_bytes;
    uint64_t watchdog_us; /* 0: none */
    bool ready, withheld;
    char status[NOTIFY_STATUS_BYTES];
};

/* Reads $NOTIFY_SOCKET, $WATCHDOG_USEC, $WATCHDOG_PID. */
void notify_open(struct notify *ret_notify);

/* `pass_ns`: when the slowest thread of the dataplane began its last pass, 0: it has not begun one;
 * of the same clock as `now_ns`. `status`: a line for people. Returns ms until it wants to be
 * called again, or NOTIFY_NEVER. */
uint32_t notify_beat(struct notify *notify, uint64_t now_ns, uint64_t pass_ns, const char *status);

void notify_stopping(struct notify *notify);
void notify_close(struct notify *notify);

#endif
