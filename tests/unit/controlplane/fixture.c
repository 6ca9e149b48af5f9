#include "fixture.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

uint64_t fixture_now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int listen_on(int *ret_port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 128) ||
        getsockname(fd, (struct sockaddr *)&address, &length)) {
        perror("fixture: listen");
        exit(1);
    }
    *ret_port = ntohs(address.sin_port);
    return fd;
}

static int connect_to(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof address) == 0)
        return fd;
    close(fd);
    return -1;
}

int fixture_free_port(void) {
    int port, fd = listen_on(&port);
    close(fd);
    return port;
}

static int remove_one(const char *path, const struct stat *facts, int kind, struct FTW *walk) {
    (void)facts;
    (void)kind;
    (void)walk;
    return remove(path);
}

/* Directories made and not removed yet: a failed test does not get to its end. */
static char made[256][64];
static int made_count;

static void remove_made(void) {
    for (int i = 0; i < made_count; i++)
        if (made[i][0])
            nftw(made[i], remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

void fixture_make_dir(char *ret_dir, size_t room) {
    snprintf(ret_dir, room, "/tmp/mrn-control-test-XXXXXX");
    if (made_count == 256 || !mkdtemp(ret_dir)) {
        perror("fixture: mkdtemp");
        exit(1);
    }
    if (made_count == 0)
        atexit(remove_made);
    snprintf(made[made_count++], sizeof made[0], "%.63s", ret_dir);
}

void fixture_remove_dir(const char *dir) {
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    for (int i = 0; i < made_count; i++)
        if (strcmp(made[i], dir) == 0)
            made[i][0] = '\0';
}

/* ---- etcd ---- */

static void run_etcd(const struct fixture_etcd *etcd, const char *scheme, const char *cluster,
                     const char *argument) {
    char client[64], peer[64], log[96], name[16];
    snprintf(name, sizeof name, "p%d", etcd->peer_port);
    snprintf(client, sizeof client, "%s://127.0.0.1:%d", scheme, etcd->port);
    snprintf(peer, sizeof peer, "http://127.0.0.1:%d", etcd->peer_port);
    snprintf(log, sizeof log, "%s/log", etcd->dir);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(fd, 1);
    dup2(fd, 2);
    execlp("etcd", "etcd", "--name", name, "--data-dir", etcd->dir, "--listen-client-urls", client,
           "--advertise-client-urls", client, "--listen-peer-urls", peer,
           "--initial-advertise-peer-urls", peer, "--initial-cluster", cluster, "--unsafe-no-fsync",
           argument, (char *)NULL);
    _exit(127);
}

static bool answers(int port) {
    static const char request[] = "GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    char answer[1024] = "";
    int fd = connect_to(port);
    if (fd < 0)
        return false;
    size_t have = 0;
    if (write(fd, request, sizeof request - 1) == sizeof request - 1)
        for (ssize_t got; have < sizeof answer - 1 &&
                          (got = read(fd, answer + have, sizeof answer - 1 - have)) > 0;)
            have += (size_t)got;
    close(fd);
    return strstr(answer, "\"true\"") != NULL;
}

static bool listens(int port) {
    int fd = connect_to(port);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static bool wait_for(struct fixture_etcd *etcd, bool tls) {
    for (int i = 0; i < 1200; i++) {
        int status;
        if (tls ? listens(etcd->port) : answers(etcd->port))
            return true;
        if (waitpid(etcd->pid, &status, WNOHANG) == etcd->pid) {
            fprintf(stderr, "fixture: etcd ended with status %d\n", status);
            etcd->pid = 0;
            return false;
        }
        usleep(50000);
    }
    return false;
}

static bool start_members(struct fixture_etcd *members, int count, const char *scheme,
                          const char *argument) {
    char cluster[256] = "";
    for (int i = 0; i < count; i++) {
        struct fixture_etcd *etcd = &members[i];
        etcd->paused = false;
        fixture_make_dir(etcd->dir, sizeof etcd->dir);
        etcd->port = fixture_free_port();
        etcd->peer_port = fixture_free_port();
        snprintf(etcd->endpoint, sizeof etcd->endpoint, "%s://127.0.0.1:%d", scheme, etcd->port);
        size_t used = strlen(cluster);
        snprintf(cluster + used, sizeof cluster - used, "%sp%d=http://127.0.0.1:%d", i ? "," : "",
                 etcd->peer_port, etcd->peer_port);
    }
    for (int i = 0; i < count; i++) {
        members[i].pid = fork();
        if (members[i].pid == 0)
            run_etcd(&members[i], scheme, cluster, argument);
    }
    bool good = true;
    for (int i = 0; i < count; i++)
        good = good && wait_for(&members[i], strcmp(scheme, "https") == 0);
    for (int i = 0; i < count && !good; i++)
        fixture_etcd_stop(&members[i]);
    return good;
}

bool fixture_etcd_start_members(struct fixture_etcd *members, int count, const char *argument) {
    return start_members(members, count, "http", argument);
}

bool fixture_etcd_start_tls(struct fixture_etcd *etcd) {
    return start_members(etcd, 1, "https", NULL);
}

bool fixture_etcd_start(struct fixture_etcd *etcd, const char *argument) {
    return fixture_etcd_start_members(etcd, 1, argument);
}

void fixture_etcd_stop(struct fixture_etcd *etcd) {
    if (etcd->pid > 0) {
        kill(etcd->pid, SIGKILL);
        waitpid(etcd->pid, NULL, 0);
    }
    etcd->pid = 0;
    fixture_remove_dir(etcd->dir);
}

void fixture_etcd_pause(struct fixture_etcd *etcd, bool paused) {
    int status;
    if (etcd->paused == paused)
        return;
    etcd->paused = paused;
    kill(etcd->pid, paused ? SIGSTOP : SIGCONT);
    /* The signal takes effect after kill() has returned: what is sent meanwhile would be answered.
     */
    while (waitpid(etcd->pid, &status, paused ? WUNTRACED : WCONTINUED) < 0 && errno == EINTR)
        ;
}

/* ---- proxy ---- */

#define PAIRS_MAX 128

struct fixture_proxy {
    pthread_t thread;
    int listen_fd, port;
    _Atomic int to_port;
    _Atomic bool stop, down;
    _Atomic int cut_percent, delay_ms;
    _Atomic uint64_t cuts;
    struct {
        int client, server;         /* -1: free */
        struct chunk *first, **end; /* on their way, oldest first */
    } pairs[PAIRS_MAX];
    unsigned seed;
};

/* Bytes that were read and are written when they are due. */
struct chunk {
    struct chunk *next;
    uint64_t due_ms;
    int to;
    size_t count;
    char bytes[];
};

static void pair_close(struct fixture_proxy *proxy, int i) {
    close(proxy->pairs[i].client);
    close(proxy->pairs[i].server);
    while (proxy->pairs[i].first) {
        struct chunk *first = proxy->pairs[i].first;
        proxy->pairs[i].first = first->next;
        free(first);
    }
    proxy->pairs[i].client = proxy->pairs[i].server = -1;
}

static void pair_accept(struct fixture_proxy *proxy) {
    int client = accept(proxy->listen_fd, NULL, NULL);
    int i = 0;
    while (i < PAIRS_MAX && proxy->pairs[i].client >= 0)
        i++;
    int server = proxy->down || i == PAIRS_MAX ? -1 : connect_to(proxy->to_port);
    if (server < 0) {
        close(client);
        return;
    }
    proxy->pairs[i].client = client;
    proxy->pairs[i].server = server;
    proxy->pairs[i].end = &proxy->pairs[i].first;
}

/* Returns false when the pair is to be closed. */
static bool take(struct fixture_proxy *proxy, int i, int from, int to, bool is_answer) {
    char bytes[65536];
    ssize_t got = read(from, bytes, sizeof bytes);
    if (got <= 0)
        return false;
    if (is_answer && (int)(rand_r(&proxy->seed) % 100) < proxy->cut_percent) {
        proxy->cuts++;
        return false;
    }
    struct chunk *chunk = malloc(sizeof *chunk + (size_t)got);
    *chunk =
        (struct chunk){NULL, fixture_now_ms() + (uint64_t)proxy->delay_ms / 2, to, (size_t)got};
    memcpy(chunk->bytes, bytes, (size_t)got);
    *proxy->pairs[i].end = chunk;
    proxy->pairs[i].end = &chunk->next;
    return true;
}

/* Writes what is due; false when the pair is to be closed. */
static bool pass_on(struct fixture_proxy *proxy, int i, uint64_t now_ms) {
    while (proxy->pairs[i].first && proxy->pairs[i].first->due_ms <= now_ms) {
        struct chunk *first = proxy->pairs[i].first;
        for (size_t sent = 0; sent < first->count;) {
            ssize_t put = write(first->to, first->bytes + sent, first->count - sent);
            if (put <= 0)
                return false;
            sent += (size_t)put;
        }
        proxy->pairs[i].first = first->next;
        if (!first->next)
            proxy->pairs[i].end = &proxy->pairs[i].first;
        free(first);
    }
    return true;
}

static void *proxy_run(void *context) {
    struct fixture_proxy *proxy = context;
    while (!proxy->stop) {
        struct pollfd polled[1 + 2 * PAIRS_MAX];
        polled[0] = (struct pollfd){proxy->listen_fd, POLLIN, 0};
        for (int i = 0; i < PAIRS_MAX; i++) {
            if (proxy->down && proxy->pairs[i].client >= 0)
                pair_close(proxy, i);
            polled[1 + 2 * i] = (struct pollfd){proxy->pairs[i].client, POLLIN, 0};
            polled[2 + 2 * i] = (struct pollfd){proxy->pairs[i].server, POLLIN, 0};
        }
        poll(polled, 1 + 2 * PAIRS_MAX, proxy->delay_ms ? 1 : 20);
        uint64_t now_ms = fixture_now_ms();
        for (int i = 0; i < PAIRS_MAX; i++) {
            bool good = true;
            if (proxy->pairs[i].client < 0)
                continue;
            if (polled[1 + 2 * i].revents)
                good = take(proxy, i, proxy->pairs[i].client, proxy->pairs[i].server, false);
            if (good && polled[2 + 2 * i].revents)
                good = take(proxy, i, proxy->pairs[i].server, proxy->pairs[i].client, true);
            good = good && pass_on(proxy, i, now_ms + !proxy->delay_ms);
            if (!good)
                pair_close(proxy, i);
        }
        if (polled[0].revents)
            pair_accept(proxy);
    }
    for (int i = 0; i < PAIRS_MAX; i++)
        if (proxy->pairs[i].client >= 0)
            pair_close(proxy, i);
    return NULL;
}

struct fixture_proxy *fixture_proxy_start(int to_port) {
    signal(SIGPIPE, SIG_IGN);
    struct fixture_proxy *proxy = calloc(1, sizeof *proxy);
    for (int i = 0; i < PAIRS_MAX; i++)
        proxy->pairs[i].client = proxy->pairs[i].server = -1;
    proxy->to_port = to_port;
    proxy->seed = 7;
    proxy->listen_fd = listen_on(&proxy->port);
    pthread_create(&proxy->thread, NULL, proxy_run, proxy);
    return proxy;
}

void fixture_proxy_stop(struct fixture_proxy *proxy) {
    proxy->stop = true;
    pthread_join(proxy->thread, NULL);
    close(proxy->listen_fd);
    free(proxy);
}

int fixture_proxy_port(const struct fixture_proxy *proxy) {
    return proxy->port;
}
void fixture_proxy_cut_percent(struct fixture_proxy *proxy, int percent) {
    proxy->cut_percent = percent;
}
void fixture_proxy_delay_ms(struct fixture_proxy *proxy, int delay_ms) {
    proxy->delay_ms = delay_ms;
}
void fixture_proxy_to(struct fixture_proxy *proxy, int port) {
    proxy->to_port = port;
    proxy->down = true;
    usleep(100000); /* several passes of its thread */
    proxy->down = false;
}
void fixture_proxy_down(struct fixture_proxy *proxy, bool down) {
    proxy->down = down;
}
uint64_t fixture_proxy_cuts(const struct fixture_proxy *proxy) {
    return proxy->cuts;
}

/* ---- hostile server ---- */

struct fixture_server {
    pthread_t thread;
    int listen_fd, port;
    char *bytes;
    size_t count;
    _Atomic size_t piece_bytes;
    bool repeat;
    _Atomic bool stop;
};

static void serve(struct fixture_server *server, int fd) {
    char request[65536];
    struct timeval patience = {.tv_usec = 200000};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    size_t piece = server->piece_bytes;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (read(fd, request, sizeof request) > 0)
        do {
            size_t sent = 0;
            while (sent < server->count) {
                size_t left = server->count - sent;
                ssize_t put = write(fd, server->bytes + sent, piece && piece < left ? piece : left);
                if (put <= 0)
                    return;
                sent += (size_t)put;
                if (piece)
                    usleep(300); /* so that it arrives by itself */
            }
        } while (server->repeat && !server->stop);
}

static void *server_run(void *context) {
    struct fixture_server *server = context;
    while (!server->stop) {
        struct pollfd polled = {server->listen_fd, POLLIN, 0};
        if (poll(&polled, 1, 50) <= 0)
            continue;
        int fd = accept(server->listen_fd, NULL, NULL);
        serve(server, fd);
        close(fd);
    }
    return NULL;
}

struct fixture_server *fixture_server_start(const char *bytes, size_t count, bool repeat) {
    signal(SIGPIPE, SIG_IGN);
    struct fixture_server *server = calloc(1, sizeof *server);
    server->bytes = malloc(count + 1);
    memcpy(server->bytes, bytes, count);
    server->count = count;
    server->repeat = repeat;
    server->listen_fd = listen_on(&server->port);
    pthread_create(&server->thread, NULL, server_run, server);
    return server;
}

void fixture_server_piece(struct fixture_server *server, size_t bytes) {
    server->piece_bytes = bytes;
}

void fixture_server_stop(struct fixture_server *server) {
    server->stop = true;
    pthread_join(server->thread, NULL);
    close(server->listen_fd);
    free(server->bytes);
    free(server);
}

int fixture_server_port(const struct fixture_server *server) {
    return server->port;
}
