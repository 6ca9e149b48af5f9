#include "gateway/server/monitor.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <sha1.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include <wslay/wslay.h>

#include <maroon/code.h>

#define EVENTS_MAX 16384 /* on their way to the thread; power of two */
#define QUEUED_MAX 16384 /* messages that wait for one watcher */
#define MESSAGE_MAX_BYTES 160
#define RECEIVE_MAX_BYTES 4096 /* watchers have nothing to say but ping and close */
#define SOCKET_BYTES 262144    /* in the kernel, for one watcher */
#define PING_S 20
#define SILENT_S 60 /* not even a pong */

struct watcher {
    struct MHD_UpgradeResponseHandle *handle;
    wslay_event_context_ptr context;
    int socket;
    uint8_t *early; /* read with the handshake */
    size_t early_bytes, early_taken;
    uint64_t lost, told_lost; /* lost: also those it was not there for, from monitor.lost */
    time_t heard_s, ping_s;
    bool gone;
};

struct monitor {
    pthread_t thread;
    pthread_mutex_t mutex; /* guards what follows */
    struct mrn_gateway_event events[EVENTS_MAX];
    uint64_t put, taken; /* counters of events */
    uint64_t missed;     /* that found no room */
    struct watcher *arrived[MONITOR_WATCHERS_MAX];
    uint32_t arrived_count;
    bool stopping, woken;
    int wake_fd;
    _Atomic uint32_t watching; /* arrived ones included */
    _Atomic uint64_t lost;
    struct watcher *watchers[MONITOR_WATCHERS_MAX]; /* the thread's */
    uint32_t watcher_count;
};

static time_t now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

/* ---- from other threads ---- */

static void wake(struct monitor *m) { /* mutex held */
    uint64_t one = 1;
    if (!m->woken)
        (void)!write(m->wake_fd, &one, sizeof one);
    m->woken = true;
}

void monitor_event(void *user, const struct mrn_gateway_event *event) {
    struct monitor *m = user;
    if (!atomic_load_explicit(&m->watching, memory_order_relaxed))
        return;
    pthread_mutex_lock(&m->mutex);
    if (m->put - m->taken < EVENTS_MAX)
        m->events[m->put++ & (EVENTS_MAX - 1)] = *event;
    else
        m->missed++;
    wake(m);
    pthread_mutex_unlock(&m->mutex);
}

void monitor_facts(struct monitor *m, struct monitor_facts *ret_facts) {
    ret_facts->watchers = atomic_load(&m->watching);
    ret_facts->lost = atomic_load(&m->lost);
}

static void watcher_free(struct watcher *w) {
    if (w->context)
        wslay_event_context_free(w->context);
    if (w->handle)
        MHD_upgrade_action(w->handle, MHD_UPGRADE_ACTION_CLOSE);
    free(w->early);
    free(w);
}

/* ---- the handshake ---- */

static void on_upgraded(void *user, struct MHD_Connection *connection, void *request,
                        const char *extra, size_t extra_bytes, MHD_socket socket,
                        struct MHD_UpgradeResponseHandle *handle) {
    (void)connection, (void)request;
    struct monitor *m = user;
    struct watcher *w = calloc(1, sizeof *w);
    uint8_t *early = malloc(extra_bytes + 1);
    if (!w || !early) {
        free(w);
        free(early);
        MHD_upgrade_action(handle, MHD_UPGRADE_ACTION_CLOSE);
        return;
    }
    if (extra_bytes)
        memcpy(early, extra, extra_bytes);
    *w = (struct watcher){.handle = handle,
                          .socket = socket,
                          .early = early,
                          .early_bytes = extra_bytes,
                          .heard_s = now_s(),
                          .ping_s = now_s()};
    int bytes = SOCKET_BYTES;
    (void)setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK);
    pthread_mutex_lock(&m->mutex);
    bool taken = !m->stopping && m->arrived_count < MONITOR_WATCHERS_MAX &&
                 atomic_load(&m->watching) < MONITOR_WATCHERS_MAX;
    if (taken) {
        m->arrived[m->arrived_count++] = w;
        atomic_fetch_add(&m->watching, 1);
        wake(m);
    }
    pthread_mutex_unlock(&m->mutex);
    if (!taken)
        watcher_free(w);
}

/* Does a comma-separated header hold this word? */
static bool header_has(struct MHD_Connection *connection, const char *name, const char *word) {
    const char *at = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, name);
    size_t length = strlen(word);
    while (at && *at) {
        at += strspn(at, " \t,");
        size_t here = strcspn(at, " \t,");
        if (here == length && !strncasecmp(at, word, length))
            return true;
        at += here;
    }
    return false;
}

static bool accept_key(struct MHD_Connection *connection, char text[32]) {
    const char *key = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Sec-WebSocket-Key");
    uint8_t nonce[16], hash[SHA1_DIGEST_LENGTH];
    size_t length;
    if (!key ||
        sodium_base642bin(nonce, sizeof nonce, key, strlen(key), NULL, &length, NULL,
                          sodium_base64_VARIANT_ORIGINAL) ||
        length != sizeof nonce)
        return false;
    SHA1_CTX sha;
    SHA1Init(&sha);
    SHA1Update(&sha, (const uint8_t *)key, strlen(key));
    SHA1Update(&sha, (const uint8_t *)"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 36);
    SHA1Final(hash, &sha);
    sodium_bin2base64(text, 32, hash, sizeof hash, sodium_base64_VARIANT_ORIGINAL);
    return true;
}

const char *monitor_upgrade(struct monitor *m, struct MHD_Connection *connection,
                            struct MHD_Response **ret_response) {
    char accept[32];
    if (!header_has(connection, "Upgrade", "websocket") ||
        !header_has(connection, "Connection", "upgrade"))
        return "this is a WebSocket: ask with Upgrade: websocket";
    if (!header_has(connection, "Sec-WebSocket-Version", "13"))
        return "Sec-WebSocket-Version must be 13";
    if (!accept_key(connection, accept))
        return "Sec-WebSocket-Key must be 16 bytes in base64";
    if (atomic_load(&m->watching) >= MONITOR_WATCHERS_MAX)
        return "too many watch already";
    struct MHD_Response *response = MHD_create_response_for_upgrade(on_upgraded, m);
    if (!response)
        return "no memory";
    MHD_add_response_header(response, "Upgrade", "websocket");
    MHD_add_response_header(response, "Sec-WebSocket-Accept", accept);
    *ret_response = response;
    return NULL;
}

/* ---- the thread ---- */

static ssize_t on_receive(wslay_event_context_ptr context, uint8_t *bytes, size_t room, int flags,
                          void *user) {
    (void)flags;
    struct watcher *w = user;
    size_t early = w->early_bytes - w->early_taken;
    if (early) {
        early = early < room ? early : room;
        memcpy(bytes, w->early + w->early_taken, early);
        w->early_taken += early;
        return (ssize_t)early;
    }
    ssize_t n;
    do
        n = recv(w->socket, bytes, room, 0);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        w->heard_s = now_s();
        return n;
    }
    bool later = n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    wslay_event_set_error(context, later ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

static ssize_t on_send(wslay_event_context_ptr context, const uint8_t *bytes, size_t length,
                       int flags, void *user) {
    (void)flags;
    struct watcher *w = user;
    ssize_t n;
    do
        n = send(w->socket, bytes, length, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n >= 0)
        return n;
    bool later = errno == EAGAIN || errno == EWOULDBLOCK;
    wslay_event_set_error(context, later ? WSLAY_ERR_WOULDBLOCK : WSLAY_ERR_CALLBACK_FAILURE);
    return -1;
}

static void queue(struct watcher *w, uint8_t opcode, const char *text, int length) {
    struct wslay_event_msg message = {opcode, (const uint8_t *)text, (size_t)length};
    int error = wslay_event_queue_msg(w->context, &message);
    if (error == WSLAY_ERR_NOMEM)
        w->gone = true; /* NO_MORE_MSG: it is being closed */
}

static void tell(struct monitor *m, struct watcher *w, const char *text, int length) {
    char lost[64];
    if (wslay_event_get_queued_msg_count(w->context) >= QUEUED_MAX) {
        w->lost++;
        atomic_fetch_add(&m->lost, 1);
        return;
    }
    if (w->lost != w->told_lost) {
        int n = snprintf(lost, sizeof lost, "{\"event\":\"lost\",\"count\":%" PRIu64 "}",
                         w->lost - w->told_lost);
        w->told_lost = w->lost;
        queue(w, WSLAY_TEXT_FRAME, lost, n);
    }
    queue(w, WSLAY_TEXT_FRAME, text, length);
}

static int print(const struct mrn_gateway_event *event, char text[MESSAGE_MAX_BYTES]) {
    static const char *const names[] = {"", "sent", "committed", "executed", "sealed"};
    int at = snprintf(text, MESSAGE_MAX_BYTES, "{\"event\":\"%s\",\"id\":\"%" PRIu64 "\"",
                      names[event->kind], event->id);
    if (event->kind == MRN_GATEWAY_EXECUTED)
        at += snprintf(text + at, MESSAGE_MAX_BYTES - (size_t)at,
                       ",\"epoch\":\"%" PRIu64 "\",\"latencyUs\":\"%" PRIu64 "\",\"code\":\"%s\"",
                       event->epoch_seq, event->latency_us,
                       event->code == UINT32_MAX ? "data_loss" : mrn_code_text(event->code));
    at += snprintf(text + at, MESSAGE_MAX_BYTES - (size_t)at, "}");
    return at;
}

static void add_watcher(struct monitor *m, struct watcher *w) {
    static const struct wslay_event_callbacks callbacks = {.recv_callback = on_receive,
                                                           .send_callback = on_send};
    if (wslay_event_context_server_init(&w->context, &callbacks, w)) {
        w->context = NULL;
        watcher_free(w);
        atomic_fetch_sub(&m->watching, 1);
        return;
    }
    wslay_event_config_set_max_recv_msg_length(w->context, RECEIVE_MAX_BYTES);
    m->watchers[m->watcher_count++] = w;
}

/* New watchers and events from the other threads. Returns false when it is time to end. */
static bool take(struct monitor *m) {
    static struct mrn_gateway_event events[EVENTS_MAX]; /* one monitor in a process */
    struct watcher *arrived[MONITOR_WATCHERS_MAX];
    char text[MESSAGE_MAX_BYTES];
    uint32_t count = 0;
    pthread_mutex_lock(&m->mutex);
    bool stopping = m->stopping;
    uint32_t arrived_count = m->arrived_count;
    memcpy(arrived, m->arrived, sizeof arrived);
    m->arrived_count = 0;
    while (m->taken < m->put)
        events[count++] = m->events[m->taken++ & (EVENTS_MAX - 1)];
    uint64_t missed = m->missed;
    m->missed = 0;
    m->woken = false;
    pthread_mutex_unlock(&m->mutex);
    for (uint32_t i = 0; i < m->watcher_count; i++)
        m->watchers[i]->lost += missed;
    atomic_fetch_add(&m->lost, missed * m->watcher_count);
    for (uint32_t e = 0; e < count; e++) {
        int length = print(&events[e], text);
        for (uint32_t i = 0; i < m->watcher_count; i++)
            tell(m, m->watchers[i], text, length);
    }
    for (uint32_t i = 0; i < arrived_count; i++)
        add_watcher(m, arrived[i]); /* sees what comes from now on */
    return !stopping;
}

static void serve(struct watcher *w, short revents) {
    time_t now = now_s();
    if (now - w->ping_s >= PING_S) {
        w->ping_s = now;
        queue(w, WSLAY_PING, "", 0);
    }
    bool wants = w->early_taken < w->early_bytes || revents & (POLLIN | POLLHUP | POLLERR);
    if (wants && wslay_event_want_read(w->context) && wslay_event_recv(w->context))
        w->gone = true;
    if (!w->gone && wslay_event_want_write(w->context) && wslay_event_send(w->context))
        w->gone = true;
    if (now - w->heard_s >= SILENT_S || revents & (POLLERR | POLLNVAL) ||
        (!wslay_event_want_read(w->context) && !wslay_event_want_write(w->context)))
        w->gone = true;
}

static void remove_gone(struct monitor *m) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < m->watcher_count; i++) {
        struct watcher *w = m->watchers[i];
        if (!w->gone) {
            m->watchers[kept++] = w;
            continue;
        }
        watcher_free(w);
        atomic_fetch_sub(&m->watching, 1);
    }
    m->watcher_count = kept;
}

static void *run(void *argument) {
    struct monitor *m = argument;
    struct pollfd fds[1 + MONITOR_WATCHERS_MAX];
    while (take(m)) {
        uint32_t polled = m->watcher_count;
        fds[0] = (struct pollfd){.fd = m->wake_fd, .events = POLLIN};
        bool early = false;
        for (uint32_t i = 0; i < polled; i++) {
            struct watcher *w = m->watchers[i];
            early |= w->early_taken < w->early_bytes;
            fds[1 + i] = (struct pollfd){
                .fd = w->socket,
                .events = (short)(POLLIN | (wslay_event_want_write(w->context) ? POLLOUT : 0))};
        }
        poll(fds, 1 + polled, early ? 0 : m->watcher_count ? 1000 : -1);
        uint64_t drained;
        if (fds[0].revents)
            (void)!read(m->wake_fd, &drained, sizeof drained);
        for (uint32_t i = 0; i < polled; i++)
            serve(m->watchers[i], fds[1 + i].revents);
        remove_gone(m);
    }
    for (uint32_t i = 0; i < m->watcher_count; i++) {
        struct watcher *w = m->watchers[i];
        if (!wslay_event_queue_close(w->context, WSLAY_CODE_GOING_AWAY, NULL, 0))
            (void)wslay_event_send(w->context);
        w->gone = true;
    }
    remove_gone(m);
    return NULL;
}

struct monitor *monitor_start(void) {
    struct monitor *m = calloc(1, sizeof *m);
    if (!m)
        return NULL;
    pthread_mutex_init(&m->mutex, NULL);
    m->wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (m->wake_fd >= 0 && pthread_create(&m->thread, NULL, run, m) == 0)
        return m;
    if (m->wake_fd >= 0)
        close(m->wake_fd);
    free(m);
    return NULL;
}

void monitor_stop(struct monitor *m) {
    pthread_mutex_lock(&m->mutex);
    m->stopping = true;
    wake(m);
    pthread_mutex_unlock(&m->mutex);
    pthread_join(m->thread, NULL);
}

void monitor_free(struct monitor *m) {
    for (uint32_t i = 0; i < m->arrived_count; i++)
        watcher_free(m->arrived[i]);
    pthread_mutex_destroy(&m->mutex);
    close(m->wake_fd);
    free(m);
}
