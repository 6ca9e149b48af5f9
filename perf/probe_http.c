/* HTTP with keep-alive: the floor's server, which answers a constant as fast as the library can,
 * and a client that keeps `flight` connections busy with one request each. */
#include "perf/probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "perf/clock.h"
#include <microhttpd.h>

#define CONNECTIONS_MAX 256
#define ANSWER_MAX 4096

/* ---- server ---- */

static enum MHD_Result answer(void *context, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **state) {
    static char began;
    (void)url, (void)method, (void)version, (void)upload;
    if (!*state) {
        *state = &began;
        return MHD_YES;
    }
    if (*upload_bytes) { /* read and dropped */
        *upload_bytes = 0;
        return MHD_YES;
    }
    return MHD_queue_response(connection, MHD_HTTP_OK, context);
}

int probe_http_floor(void) {
    static char text[] = "{\"balance\":\"100\"}";
    uint16_t port = (uint16_t)probe_number("port", 5900);
    uint64_t seconds = probe_number("seconds", 60);
    probe_options_end();
    struct MHD_Response *response =
        MHD_create_response_from_buffer(sizeof text - 1, text, MHD_RESPMEM_PERSISTENT);
    struct MHD_Daemon *daemon =
        MHD_start_daemon(MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL, port, NULL, NULL, answer,
                         response, MHD_OPTION_END);
    if (!daemon || !response)
        probe_die("port %u cannot be bound", port);
    MHD_add_response_header(response, "content-type", "application/json");
    sleep((unsigned)seconds);
    MHD_stop_daemon(daemon);
    MHD_destroy_response(response);
    return 0;
}

/* ---- client ---- */

struct connection {
    uint64_t sent_ns;
    uint32_t got;
    char bytes[ANSWER_MAX + 1];
};

static struct run {
    struct pollfd fds[CONNECTIONS_MAX];
    struct connection connections[CONNECTIONS_MAX];
    struct perf_histogram latency;
    char request[512];
    uint32_t request_bytes;
    uint64_t answered, refused, warm_up;
} run;

static void ask(uint32_t i) {
    run.connections[i].got = 0;
    run.connections[i].sent_ns = perf_clock_ns();
    if (send(run.fds[i].fd, run.request, run.request_bytes, MSG_NOSIGNAL) !=
        (ssize_t)run.request_bytes)
        probe_die("send: %s", strerror(errno));
}

/* Bytes of the whole answer, 0 while its head is not complete. */
static uint32_t answer_bytes(const struct connection *c) {
    const char *end = strstr(c->bytes, "\r\n\r\n"),
               *length = strcasestr(c->bytes, "content-length:");
    if (!end || !length || length > end)
        return 0;
    return (uint32_t)(end + 4 - c->bytes) + (uint32_t)strtoul(length + 15, NULL, 10);
}

static void take(uint32_t i) {
    struct connection *c = &run.connections[i];
    ssize_t got = recv(run.fds[i].fd, c->bytes + c->got, ANSWER_MAX - c->got, 0);
    if (got <= 0)
        probe_die("an answer ended early");
    c->got += (uint32_t)got;
    c->bytes[c->got] = 0;
    uint32_t wanted = answer_bytes(c);
    if (!wanted || c->got < wanted)
        return;
    if (strncmp(c->bytes, "HTTP/1.1 200", 12))
        run.refused++;
    else if (run.answered >= run.warm_up)
        perf_histogram_add(&run.latency, perf_clock_ns() - c->sent_ns);
    run.answered++;
    ask(i);
}

static int dial(struct sockaddr_in to) {
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one))
        probe_die("connect: %s", strerror(errno));
    return fd;
}

int probe_http(void) {
    struct sockaddr_in to = {.sin_family = AF_INET};
    const char *path = probe_text("path", "/"), *body = probe_text("body", "{}");
    uint32_t flight = (uint32_t)probe_number("flight", 32);
    uint64_t seconds = probe_number("seconds", 4);
    to.sin_port = htons((uint16_t)probe_number("port", 5900));
    if (inet_pton(AF_INET, probe_text("address", "127.0.0.1"), &to.sin_addr) != 1)
        probe_die("--address=A.B.C.D is wanted");
    run.warm_up = probe_number("warm-up", 1000);
    probe_options_end();
    if (!flight || flight > CONNECTIONS_MAX)
        probe_die("flight is out of range");
    run.request_bytes = (uint32_t)snprintf(
        run.request, sizeof run.request,
        "POST %s HTTP/1.1\r\nhost: perf\r\ncontent-type: application/json\r\ncontent-length: %zu"
        "\r\n\r\n%s",
        path, strlen(body), body);
    if (run.request_bytes >= sizeof run.request)
        probe_die("path and body are too long");
    for (uint32_t i = 0; i < flight; i++) {
        run.fds[i] = (struct pollfd){.fd = dial(to), .events = POLLIN};
        ask(i);
    }
    uint64_t start_ns = 0, end_ns = UINT64_MAX, now_ns = 0;
    for (; now_ns < end_ns; now_ns = perf_clock_ns()) {
        if (!start_ns && run.answered >= run.warm_up) {
            start_ns = perf_clock_ns();
            end_ns = start_ns + seconds * 1000000000;
        }
        if (poll(run.fds, flight, 5000) <= 0)
            probe_die("no answer in 5 s");
        for (uint32_t i = 0; i < flight; i++)
            if (run.fds[i].revents)
                take(i);
    }
    probe_print(json_pack("{si sf sI so}", "flight", (int)flight, "per_s",
                          (double)run.latency.count * 1e9 / (double)(now_ns - start_ns), "refused",
                          (json_int_t)run.refused, "latency", probe_latency(&run.latency)));
    for (uint32_t i = 0; i < flight; i++)
        close(run.fds[i].fd);
    return 0;
}
