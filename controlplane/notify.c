#include "controlplane/notify.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "controlplane/log.h"

#define NOT_READY_MS 10
#define STATUS_MS 1000

void notify_open(struct notify *n) {
    const char *path = getenv("NOTIFY_SOCKET"), *us = getenv("WATCHDOG_USEC"),
               *pid = getenv("WATCHDOG_PID");
    memset(n, 0, sizeof *n);
    n->fd = -1;
    size_t length = path ? strlen(path) : 0;
    if (length < 2 || (path[0] != '/' && path[0] != '@') || length >= sizeof n->to.sun_path)
        return;
    n->to.sun_family = AF_UNIX;
    memcpy(n->to.sun_path, path, length);
    if (path[0] == '@') /* Linux's abstract names */
        n->to.sun_path[0] = '\0';
    n->to_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (us && (!pid || strtol(pid, NULL, 10) == (long)getpid()))
        n->watchdog_us = strtoull(us, NULL, 10);
}

static void tell(const struct notify *n, const char *text) {
    (void)sendto(n->fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&n->to,
                 n->to_bytes);
}

static void feed(struct notify *n, uint64_t now_ns, uint64_t pass_ns) {
    bool gets_on = now_ns < pass_ns + n->watchdog_us * 500;
    if (gets_on)
        tell(n, "WATCHDOG=1");
    if (!gets_on && !n->withheld)
        mrn_log_error("watchdog_withheld", "dataplane_silent_ms=%" PRIu64 " watchdog_ms=%" PRIu64,
                      (now_ns - pass_ns) / 1000000, n->watchdog_us / 1000);
    n->withheld = !gets_on;
}

uint32_t notify_beat(struct notify *n, uint64_t now_ns, uint64_t pass_ns, const char *status) {
    if (n->fd < 0)
        return NOTIFY_NEVER;
    if (!n->ready && !pass_ns)
        return NOT_READY_MS;
    if (!n->ready)
        tell(n, "READY=1");
    n->ready = true;
    if (n->watchdog_us)
        feed(n, now_ns, pass_ns);
    if (strcmp(status, n->status) != 0) {
        char text[NOTIFY_STATUS_BYTES + 16];
        snprintf(n->status, sizeof n->status, "%s", status);
        snprintf(text, sizeof text, "STATUS=%s", n->status);
        tell(n, text);
    }
    uint64_t quarter_ms = n->watchdog_us / 4000;
    if (!n->watchdog_us || quarter_ms > STATUS_MS)
        return STATUS_MS;
    return quarter_ms ? (uint32_t)quarter_ms : 1;
}

void notify_stopping(struct notify *n) {
    if (n->fd >= 0)
        tell(n, "STOPPING=1");
}

void notify_close(struct notify *n) {
    if (n->fd >= 0)
        close(n->fd);
    n->fd = -1;
}
