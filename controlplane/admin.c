#include "controlplane/admin.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "controlplane/decimal.h"
#include "controlplane/log.h"
#include "maroon/error.h"

#define CONNECTIONS_MAX 64
#define SILENCE_S 30
#define REQUEST_BYTES 16384
#define EPOCHS_LIMIT 100
#define EPOCHS_WAIT_MAX_MS 25000
#define WAITING_MS 500
#define HEARTBEAT_MAX_NS UINT64_C(2000000000) /* older: the dataplane does not turn any more */

struct admin {
    struct admin_setup setup;
    struct MHD_Daemon *daemon;
    int epoll_fd;
    struct loop_timer timer, waiting_timer;
    struct request *waiting; /* for an epoch */
    bool stopping;
};

/* One request; waits for a snapshot or an epoch, at most. */
struct request {
    struct admin *admin;
    struct MHD_Connection *connection;
    bool stretch;             /* asks for epochs of the journal */
    bool suspended, answered; /* answered: by the snapshot's callback */
    int error, fd;
    uint64_t seq;
    struct request *next_waiting;
    uint64_t epochs_from, epochs_limit, wait_until_ns;
    bool waits, waited;
};

static void run(struct admin *admin);
static void on_timer(void *context);

static enum MHD_Result reply(struct MHD_Connection *connection, unsigned status, const char *type,
                             char *body) {
    static const char no_memory[] = "out of memory\n";
    struct MHD_Response *response =
        body ? MHD_create_response_from_buffer(strlen(body), body, MHD_RESPMEM_MUST_FREE)
             : MHD_create_response_from_buffer(sizeof no_memory - 1, (void *)(uintptr_t)no_memory,
                                               MHD_RESPMEM_PERSISTENT);
    if (!response) {
        free(body);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    enum MHD_Result result =
        MHD_queue_response(connection, body ? status : MHD_HTTP_INTERNAL_SERVER_ERROR, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result reply_message(struct MHD_Connection *connection, unsigned status,
                                     const char *message) {
    char *body = NULL;
    if (asprintf(&body, "{\"message\":\"%s\"}\n", message) < 0)
        body = NULL;
    return reply(connection, status, "application/json", body);
}

static uint64_t monotonic_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

/* The process token tells a tool which registration (nodes/<index>) this is. */
static enum MHD_Result healthz(const struct admin *admin, struct MHD_Connection *connection) {
    const struct mailbox_status *status = mailbox_status(admin->setup.mailbox);
    uint64_t heartbeat_ns = atomic_load_explicit(&status->heartbeat_ns, memory_order_relaxed);
    bool turns = monotonic_ns() < heartbeat_ns + HEARTBEAT_MAX_NS;
    char *body = NULL;
    if (asprintf(&body,
                 "{\"status\":\"%s\",\"node\":%u,\"incarnation\":\"%" PRIu64
                 "\",\"processToken\":\"%" PRIu64 "\"}\n",
                 turns ? "ok" : "dataplane does not turn", admin->setup.config->node_index,
                 admin->setup.identity->incarnation, admin->setup.identity->process_token) < 0)
        body = NULL;
    return reply(connection, turns ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "application/json",
                 body);
}

static enum MHD_Result readyz(const struct admin *admin, struct MHD_Connection *connection) {
    struct mailbox_facts facts;
    mailbox_facts_read(mailbox_status(admin->setup.mailbox), &facts);
    const char *why = admin_not_ready(&facts);
    return why ? reply_message(connection, MHD_HTTP_SERVICE_UNAVAILABLE, why)
               : reply_message(connection, MHD_HTTP_OK, "ready");
}

static enum MHD_Result handover(const struct admin *admin, struct MHD_Connection *connection) {
    struct mailbox_facts facts;
    mailbox_facts_read(mailbox_status(admin->setup.mailbox), &facts);
    if (facts.role != MAILBOX_ROLE_LEADER)
        return reply_message(connection, MHD_HTTP_CONFLICT, "this node does not lead");
    struct mailbox_down message = {.kind = MAILBOX_DOWN_HANDOVER};
    admin->setup.send_down(admin->setup.context, &message);
    return reply_message(connection, MHD_HTTP_ACCEPTED, "asked to hand over");
}

static enum MHD_Result dump(const struct admin *admin, struct MHD_Connection *connection) {
    if (!admin->setup.dumps)
        return reply_message(connection, MHD_HTTP_CONFLICT, "no store is configured (store-url)");
    dump_turns_ask(admin->setup.dumps);
    return reply_message(connection, MHD_HTTP_ACCEPTED, "asked; see dumps in /v1/status");
}

/* ---- snapshots ---- */

static void snapshot_answered(void *context, int error, const char *path, uint64_t seq) {
    struct request *request = context;
    request->answered = true;
    request->error = error;
    request->seq = seq;
    if (!error) {
        request->fd = open(path, O_RDONLY | O_CLOEXEC);
        if (request->fd < 0)
            request->error = MRN_ERR_IO;
    }
    if (request->suspended) {
        request->suspended = false;
        MHD_resume_connection(request->connection);
        /* Not at once: libmicrohttpd may be on the stack. */
        loop_timer_set(request->admin->setup.loop, &request->admin->timer, 0, on_timer,
                       request->admin);
    }
}

static enum MHD_Result reply_snapshot(struct request *request) {
    struct stat facts;
    char seq[24];
    if (request->error == MRN_ERR_NOT_FOUND && request->stretch)
        return reply_message(request->connection, MHD_HTTP_NOT_FOUND, "the journal begins later");
    if (request->error || fstat(request->fd, &facts) < 0)
        return reply_message(request->connection, MHD_HTTP_SERVICE_UNAVAILABLE,
                             request->error == MRN_ERR_NOT_FOUND ? "nothing newer here"
                                                                 : "no snapshot now");
    struct MHD_Response *response =
        MHD_create_response_from_fd64((uint64_t)facts.st_size, request->fd);
    if (!response)
        return MHD_NO;
    request->fd = -1; /* the response's */
    snprintf(seq, sizeof seq, "%" PRIu64, request->seq);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/octet-stream");
    MHD_add_response_header(response, "Maroon-Epoch", seq);
    enum MHD_Result result = MHD_queue_response(request->connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result get_snapshot(struct admin *admin, struct request *request) {
    uint64_t newer_than = 0;
    const char *text =
        MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, "newer_than");
    if (request->answered)
        return reply_snapshot(request);
    if (text && !decimal_read(text, &newer_than))
        return reply_message(request->connection, MHD_HTTP_BAD_REQUEST,
                             "newer_than is not a number");
    snapshot_want(admin->setup.snapshot, newer_than, snapshot_answered, request);
    if (request->answered)
        return reply_snapshot(request);
    request->suspended = true;
    MHD_suspend_connection(request->connection);
    return MHD_YES; /* called again when resumed */
}

static enum MHD_Result get_stretch(struct admin *admin, struct request *request) {
    uint64_t after = 0;
    const char *text =
        MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, "after");
    struct mailbox_facts facts;
    if (request->answered)
        return reply_snapshot(request);
    if (!text || !decimal_read(text, &after))
        return reply_message(request->connection, MHD_HTTP_BAD_REQUEST, "after is not a number");
    mailbox_facts_read(mailbox_status(admin->setup.mailbox), &facts);
    if (!admin->setup.stretches || facts.exec_seq <= after ||
        facts.role == MAILBOX_ROLE_QUARANTINED)
        return reply_message(request->connection, MHD_HTTP_NOT_FOUND, "no such epochs here");
    request->stretch = true;
    stretches_want(admin->setup.stretches, after, facts.exec_seq, &facts.exec_hash,
                   snapshot_answered, request);
    if (request->answered)
        return reply_snapshot(request);
    request->suspended = true;
    MHD_suspend_connection(request->connection);
    return MHD_YES;
}

/* ---- epochs ---- */

static bool have_epoch(const struct request *request) {
    const struct epochs_entry *newest =
        epochs_newest(arbiter_epochs(request->admin->setup.arbiter));
    return newest && newest->seq >= request->epochs_from;
}

/* Lets those go on for whom there is something by now, or whose time is over. */
static void waiting_look(struct admin *admin, bool all) {
    struct request **link = &admin->waiting;
    uint64_t now_ns = loop_now_ns(admin->setup.loop);
    bool resumed = false;
    while (*link) {
        struct request *request = *link;
        if (!all && !have_epoch(request) && now_ns < request->wait_until_ns) {
            link = &request->next_waiting;
            continue;
        }
        *link = request->next_waiting;
        request->waits = false;
        request->waited = true;
        MHD_resume_connection(request->connection);
        resumed = true;
    }
    if (resumed)
        loop_timer_set(admin->setup.loop, &admin->timer, 0, on_timer, admin);
}

static void on_waiting(void *context) {
    struct admin *admin = context;
    waiting_look(admin, false);
    if (admin->waiting)
        loop_timer_set(admin->setup.loop, &admin->waiting_timer, WAITING_MS, on_waiting, admin);
}

void admin_published(struct admin *admin) {
    waiting_look(admin, false);
}

/* Absent: *number stays. False: it is none, or above `max`. */
static bool argument(struct request *request, const char *name, uint64_t max, uint64_t *number) {
    const char *text =
        MHD_lookup_connection_value(request->connection, MHD_GET_ARGUMENT_KIND, name);
    return !text || (decimal_read(text, number) && *number <= max);
}

static enum MHD_Result get_epochs(struct admin *admin, struct request *request) {
    uint64_t wait_ms = 0;
    request->epochs_limit = EPOCHS_LIMIT;
    if (!argument(request, "from", UINT64_MAX, &request->epochs_from) ||
        !argument(request, "limit", EPOCHS_KEPT, &request->epochs_limit) ||
        !argument(request, "wait_ms", EPOCHS_WAIT_MAX_MS, &wait_ms))
        return reply_message(request->connection, MHD_HTTP_BAD_REQUEST,
                             "from, limit (to 300) and wait_ms (to 25000) are numbers");
    if (wait_ms && !request->waited && !have_epoch(request)) {
        request->waits = true;
        request->wait_until_ns = loop_now_ns(admin->setup.loop) + wait_ms * UINT64_C(1000000);
        request->next_waiting = admin->waiting;
        admin->waiting = request;
        MHD_suspend_connection(request->connection);
        loop_timer_set(admin->setup.loop, &admin->waiting_timer, WAITING_MS, on_waiting, admin);
        return MHD_YES; /* called again when resumed */
    }
    return reply(
        request->connection, MHD_HTTP_OK, "application/json",
        admin_epochs_json(&admin->setup, request->epochs_from, (uint32_t)request->epochs_limit));
}

static enum MHD_Result raise_term_base(struct admin *admin, struct request *request) {
    uint64_t to = 0;
    if (!argument(request, "to", UINT64_MAX / 2, &to) || to == 0)
        return reply_message(request->connection, MHD_HTTP_BAD_REQUEST, "to is not a term");
    mrn_log_warning("term_base_asked", "to=%" PRIu64, to);
    arbiter_raise_term_base(admin->setup.arbiter, to);
    return reply_message(request->connection, MHD_HTTP_ACCEPTED,
                         "asked; see termBase in /v1/status");
}

/* ---- dispatch ---- */

static enum MHD_Result answer_get(struct admin *admin, struct request *request, const char *url) {
    struct MHD_Connection *connection = request->connection;
    if (strcmp(url, "/healthz") == 0)
        return healthz(admin, connection);
    if (strcmp(url, "/readyz") == 0)
        return readyz(admin, connection);
    if (strcmp(url, "/metrics") == 0)
        return reply(connection, MHD_HTTP_OK, "text/plain; version=0.0.4",
                     admin_metrics_text(&admin->setup));
    if (strcmp(url, "/v1/status") == 0)
        return reply(connection, MHD_HTTP_OK, "application/json", admin_status_json(&admin->setup));
    if (strcmp(url, "/v1/snapshot") == 0)
        return get_snapshot(admin, request);
    if (strcmp(url, "/v1/stretch") == 0)
        return get_stretch(admin, request);
    if (strcmp(url, "/v1/epochs") == 0)
        return get_epochs(admin, request);
    return reply_message(connection, MHD_HTTP_NOT_FOUND, "no such page");
}

static enum MHD_Result answer(void *context, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **request_context) {
    struct admin *admin = context;
    struct request *request = *request_context;
    (void)version;
    (void)upload;
    if (!request) {
        request = calloc(1, sizeof *request);
        if (!request)
            return MHD_NO;
        *request = (struct request){.admin = admin, .connection = connection, .fd = -1};
        *request_context = request;
        return MHD_YES;
    }
    if (*upload_bytes > 0) {
        *upload_bytes = 0; /* nothing here takes a body */
        return MHD_YES;
    }
    /* What a page is made of is gone; those that waited for theirs have been told how it ended. */
    if (admin->stopping && !request->answered && !request->waited)
        return reply_message(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "this node stops");
    if (strcmp(method, "GET") == 0)
        return answer_get(admin, request, url);
    if (strcmp(method, "POST") == 0 && strcmp(url, "/v1/handover") == 0)
        return handover(admin, connection);
    if (strcmp(method, "POST") == 0 && strcmp(url, "/v1/dump") == 0)
        return dump(admin, connection);
    if (strcmp(method, "POST") == 0 && strcmp(url, "/v1/term-base") == 0)
        return raise_term_base(admin, request);
    return reply_message(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "method not allowed");
}

static void completed(void *context, struct MHD_Connection *connection, void **request_context,
                      enum MHD_RequestTerminationCode code) {
    struct request *request = *request_context;
    (void)context;
    (void)connection;
    (void)code;
    if (!request)
        return;
    assert(!request->suspended && !request->waits);
    if (request->fd >= 0)
        close(request->fd);
    free(request);
    *request_context = NULL;
}

/* ---- the event loop ---- */

static void on_timer(void *context) {
    run(context);
}

static void on_ready(void *context, int fd, uint32_t events) {
    (void)fd;
    (void)events;
    run(context);
}

static void run(struct admin *admin) {
    MHD_UNSIGNED_LONG_LONG wait_ms;
    MHD_run(admin->daemon);
    if (MHD_get_timeout(admin->daemon, &wait_ms) == MHD_YES)
        loop_timer_set(admin->setup.loop, &admin->timer, (uint64_t)wait_ms, on_timer, admin);
    else
        loop_timer_clear(admin->setup.loop, &admin->timer);
}

static int split_address(const char *address, char *ret_host, char *ret_port) {
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address || strlen(colon + 1) == 0 || strlen(colon + 1) > 5 ||
        strlen(address) >= CONTROL_ADDRESS_MAX)
        return MRN_ERR_INVALID;
    size_t length = (size_t)(colon - address);
    if (address[0] == '[' && address[length - 1] == ']') {
        address++;
        length -= 2;
    }
    memcpy(ret_host, address, length);
    ret_host[length] = '\0';
    strcpy(ret_port, colon + 1);
    return 0;
}

static int bind_listener(const char *address, int *ret_fd) {
    char host[CONTROL_ADDRESS_MAX], port[8];
    int error = split_address(address, host, port);
    struct addrinfo *found = NULL;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV};
    if (error || getaddrinfo(host, port, &hints, &found) != 0) {
        mrn_log_error("admin_address", "listen=%s do=\"write it as 127.0.0.1:9100\"",
                      mrn_log_quote(address));
        return MRN_ERR_INVALID;
    }
    int yes = 1;
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) < 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, 64) < 0) {
        mrn_log_error("admin_address", "listen=%s error=%s", mrn_log_quote(address),
                      mrn_log_quote(strerror(errno)));
        if (fd >= 0)
            close(fd);
        error = MRN_ERR_IO;
    }
    freeaddrinfo(found);
    if (!error)
        *ret_fd = fd;
    return error;
}

int admin_start(const struct admin_setup *setup, struct admin **ret_admin) {
    int fd;
    int error = bind_listener(setup->config->admin_listen, &fd);
    if (error)
        return error;
    struct admin *admin = calloc(1, sizeof *admin);
    if (!admin) {
        close(fd);
        return MRN_ERR_NO_MEMORY;
    }
    admin->setup = *setup;
    admin->daemon = MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, answer, admin,
        MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, (unsigned)CONNECTIONS_MAX,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)SILENCE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
        (size_t)REQUEST_BYTES, MHD_OPTION_NOTIFY_COMPLETED, completed, admin, MHD_OPTION_END);
    if (!admin->daemon) {
        close(fd);
        free(admin);
        return MRN_ERR_IO;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(admin->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    admin->epoll_fd = info ? info->epoll_fd : -1;
    if (admin->epoll_fd < 0 ||
        loop_fd_set(setup->loop, admin->epoll_fd, EPOLLIN, on_ready, admin)) {
        MHD_stop_daemon(admin->daemon);
        free(admin);
        return MRN_ERR_IO;
    }
    run(admin);
    *ret_admin = admin;
    return 0;
}

void admin_stop(struct admin *admin) {
    if (!admin)
        return;
    admin->stopping = true;
    waiting_look(admin, true);
    run(admin); /* lets requests that were resumed just now be answered */
    loop_fd_clear(admin->setup.loop, admin->epoll_fd);
    loop_timer_clear(admin->setup.loop, &admin->timer);
    loop_timer_clear(admin->setup.loop, &admin->waiting_timer);
    MHD_stop_daemon(admin->daemon);
    free(admin);
}
