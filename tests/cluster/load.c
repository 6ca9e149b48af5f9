/* cluster-load: bank transfers over HTTP keep-alive connections, each answer checked.
 *
 *   connection: connect -> deposits into its own accounts -> transfers between them -> done
 *
 * Each connection owns its accounts and has one request under way, so every balance and every
 * refusal is known beforehand: a transaction lost, executed twice or out of order shows at once as
 * a wrong answer. A connection whose request had no clear outcome (broken connection, 504) counts
 * an error and stops checking amounts, for its accounts are uncertain from then on.
 * A 429 or 503 says "not taken": it is sent again and counted as pushed back.
 *
 * Result: one line of JSON on stdout. Exit status 0 when all requests were answered in time. */
#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1024
#define ACCOUNTS_MAX 16 /* per connection */
#define BUFFER_BYTES 4096
#define RETRY_NS UINT64_C(5000000)
#define RECONNECT_NS UINT64_C(100000000)

enum phase { PHASE_DEPOSIT, PHASE_TRANSFER, PHASE_DONE };

struct connection {
    int socket; /* -1: not connected */
    enum phase phase;
    uint32_t step;      /* deposits made */
    uint32_t from, to;  /* of the transfer under way */
    uint64_t amount;    /* of the request under way */
    uint64_t sent_ns;   /* when the request was first meant to go */
    uint64_t resume_ns; /* 0, or when to send (again) */
    bool uncertain;     /* amounts are not checked any more */
    bool waiting;       /* a request is under way */
    uint64_t balance[ACCOUNTS_MAX];
    size_t request_bytes, request_at;
    size_t answer_bytes;
    char request[512];
    char answer[BUFFER_BYTES + 1];
};

struct options {
    struct sockaddr_in address;
    char host[64];
    uint64_t count; /* transfers in all; 0: until `seconds` are over */
    uint64_t seconds, timeout_s;
    uint32_t connections, accounts;
    uint64_t first_account, deposit, seed, progress;
    uint64_t gaps_us; /* times without an answer of at least this are listed; 0: none are */
};

#define GAPS_MAX 65536
static struct {
    uint64_t at_ns, length_ns; /* CLOCK_MONOTONIC of the answer before it: other processes' too */
} gaps[GAPS_MAX];
static uint32_t gap_count;

static struct options options = {.count = 1000,
                                 .timeout_s = 300,
                                 .connections = 64,
                                 .accounts = 4,
                                 .first_account = 1000,
                                 .deposit = 1000,
                                 .seed = 1};
static struct connection connections[CONNECTIONS_MAX];
static int poll_fd;
static volatile sig_atomic_t
    interrupted; /* SIGINT: no new requests, the last answers are waited for */
static uint64_t random_state;

static uint64_t sent, ok, refused, wrong, errors, pushed_back,
    reconnects; /* of transfers, mostly */
static uint64_t deposited;
static uint64_t last_answer_ns, longest_gap_ns, longest_gap_at_ns, started_ns;
static uint64_t *latency_ns;
static uint64_t latency_count, latency_room;

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
}

static uint64_t random_next(void) { /* splitmix64 (Steele, Lea, Flood, 2014) */
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static void complain(const struct connection *c, const char *what) {
    static int lines;
    if (lines++ < 10)
        fprintf(stderr, "load: %s: %.*s -> %.300s\n", what, (int)c->request_bytes, c->request,
                c->answer);
}

static uint64_t account_of(const struct connection *c, uint32_t index) {
    return options.first_account + (uint64_t)(c - connections) * options.accounts + index;
}

static void write_request(struct connection *c, const char *method, const char *json) {
    int length = snprintf(c->request, sizeof c->request,
                          "POST /bank.v1.Bank/%s HTTP/1.1\r\nHost: %s\r\n"
                          "Content-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
                          method, options.host, strlen(json), json);
    assert(length > 0 && (size_t)length < sizeof c->request);
    c->request_bytes = (size_t)length;
}

/* Writes the next request of the connection; false when it has none. */
static bool next_request(struct connection *c, uint64_t now) {
    char json[160];
    if (c->phase == PHASE_DEPOSIT && c->step == options.accounts)
        c->phase = PHASE_TRANSFER;
    if (c->phase == PHASE_DEPOSIT) {
        c->to = c->step;
        c->amount = options.deposit;
        snprintf(json, sizeof json, "{\"account\":\"%" PRIu64 "\",\"amount\":\"%" PRIu64 "\"}",
                 account_of(c, c->to), c->amount);
        write_request(c, "Deposit", json);
    } else {
        bool over = interrupted || (options.seconds != 0 &&
                                    now - started_ns >= options.seconds * UINT64_C(1000000000));
        if (over || (options.count != 0 && sent >= options.count)) {
            c->phase = PHASE_DONE;
            return false;
        }
        sent++;
        c->from = (uint32_t)(random_next() % options.accounts);
        c->to =
            (c->from + 1 + (uint32_t)(random_next() % (options.accounts - 1))) % options.accounts;
        c->amount = 1 + random_next() % options.deposit; /* some are more than there is */
        snprintf(json, sizeof json,
                 "{\"from\":\"%" PRIu64 "\",\"to\":\"%" PRIu64 "\",\"amount\":\"%" PRIu64 "\"}",
                 account_of(c, c->from), account_of(c, c->to), c->amount);
        write_request(c, "Transfer", json);
    }
    c->sent_ns = now;
    return true;
}

static void watch(struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poll_fd, operation, c->socket, &event) != 0) {
        perror("load: epoll_ctl");
        exit(2);
    }
}

static void disconnect(struct connection *c) {
    if (c->socket >= 0)
        close(c->socket);
    c->socket = -1;
    c->answer_bytes = 0;
}

static void connect_to_gateway(struct connection *c, uint64_t now) {
    int one = 1;
    c->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (c->socket < 0) {
        perror("load: socket");
        exit(2);
    }
    setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(c->socket, (const struct sockaddr *)&options.address, sizeof options.address) !=
            0 &&
        errno != EINPROGRESS) {
        disconnect(c);
        c->resume_ns = now + RECONNECT_NS;
        return;
    }
    watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
}

/* The request under way has no clear outcome. */
static void give_up_request(struct connection *c, uint64_t now) {
    if (c->waiting) {
        errors++;
        c->uncertain = true;
        complain(c, "no clear outcome");
    }
    c->waiting = false;
    disconnect(c);
    reconnects++;
    if (c->phase == PHASE_DEPOSIT && c->step < options.accounts)
        c->step++; /* uncertain; the sums are no longer exact */
    c->resume_ns = now + RECONNECT_NS;
}

static void send_more(struct connection *c, uint64_t now) {
    while (c->request_at < c->request_bytes) {
        ssize_t done = send(c->socket, c->request + c->request_at, c->request_bytes - c->request_at,
                            MSG_NOSIGNAL);
        if (done < 0 && (errno == EAGAIN || errno == EINTR)) {
            watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
            return;
        }
        if (done < 0) {
            give_up_request(c, now);
            return;
        }
        c->request_at += (size_t)done;
    }
}

static void begin(struct connection *c, uint64_t now, bool again) {
    if (!again && !next_request(c, now)) {
        disconnect(c);
        return;
    }
    c->request_at = 0;
    c->waiting = true;
    c->resume_ns = 0;
    if (c->socket < 0)
        connect_to_gateway(c, now);
    else
        send_more(c, now);
}

/* Value of a field of a flat JSON object: "name":"123" or "name":123. */
static bool json_number(const char *body, const char *name, uint64_t *ret_number) {
    char quoted[40];
    snprintf(quoted, sizeof quoted, "\"%s\"", name);
    const char *at = strstr(body, quoted);
    if (at == NULL)
        return false;
    at += strlen(quoted);
    at += strspn(at, " \t\r\n:\"");
    char *end;
    errno = 0;
    *ret_number = strtoull(at, &end, 10);
    return errno == 0 && end != at && *at != '-';
}

static void check_transfer(struct connection *c, int status, const char *body) {
    bool enough = c->balance[c->from] >= c->amount;
    if (status == 200) {
        uint64_t from, to;
        ok++;
        if (c->uncertain)
            return;
        if (!enough || !json_number(body, "fromBalance", &from) ||
            !json_number(body, "toBalance", &to) || from != c->balance[c->from] - c->amount ||
            to != c->balance[c->to] + c->amount) {
            wrong++;
            complain(c, "wrong answer");
            c->uncertain = true;
            return;
        }
        c->balance[c->from] = from;
        c->balance[c->to] = to;
    } else if (strstr(body, "failed_precondition") != NULL) {
        refused++;
        if (enough && !c->uncertain) {
            wrong++;
            complain(c, "refused, though there is enough");
            c->uncertain = true;
        }
    } else {
        errors++;
        c->uncertain = true;
        complain(c, "unexpected status");
    }
}

static void check_deposit(struct connection *c, int status, const char *body) {
    uint64_t balance;
    if (status != 200 || !json_number(body, "balance", &balance)) {
        errors++;
        c->uncertain = true;
        complain(c, "deposit failed");
    } else {
        deposited += c->amount;
        c->balance[c->step] = balance; /* the account may be older than this run */
    }
    c->step++;
}

static void record_latency(uint64_t now, uint64_t since) {
    if (latency_count == latency_room) {
        latency_room = latency_room == 0 ? 1 << 16 : latency_room * 2;
        latency_ns = realloc(latency_ns, latency_room * sizeof *latency_ns);
        if (latency_ns == NULL) {
            perror("load: realloc");
            exit(2);
        }
    }
    latency_ns[latency_count++] = now - since;
    if (options.gaps_us != 0 && last_answer_ns != 0 && gap_count < GAPS_MAX &&
        now - last_answer_ns >= options.gaps_us * 1000) {
        gaps[gap_count].at_ns = last_answer_ns;
        gaps[gap_count++].length_ns = now - last_answer_ns;
    }
    if (last_answer_ns != 0 && now - last_answer_ns > longest_gap_ns) {
        longest_gap_ns = now - last_answer_ns;
        longest_gap_at_ns = last_answer_ns;
    }
    last_answer_ns = now;
    if (options.progress != 0 && latency_count % options.progress == 0)
        fprintf(stderr, "load: %" PRIu64 " answers\n", latency_count);
}

static void answered(struct connection *c, int status, const char *body, uint64_t now) {
    if (status == 429 || status == 503) {
        pushed_back++;
        c->resume_ns = now + RETRY_NS;
        return;
    }
    c->waiting = false;
    if (status == 504) { /* the transaction goes on */
        errors++;
        c->uncertain = true;
        complain(c, "timed out");
    } else if (c->phase == PHASE_DEPOSIT) {
        check_deposit(c, status, body);
    } else {
        record_latency(now, c->sent_ns);
        check_transfer(c, status, body);
    }
    begin(c, now, false);
}

/* Finds a whole answer in the buffer: 1 with its status and body, 0 when bytes are missing, -1 when
 * it is not HTTP. */
static int parse_answer(struct connection *c, int *ret_status, const char **ret_body) {
    c->answer[c->answer_bytes] = '\0';
    char *end = strstr(c->answer, "\r\n\r\n");
    if (end == NULL)
        return c->answer_bytes == BUFFER_BYTES ? -1 : 0;
    if (sscanf(c->answer, "HTTP/1.1 %d", ret_status) != 1)
        return -1;
    size_t length = SIZE_MAX;
    for (char *line = strstr(c->answer, "\r\n"); line != NULL && line < end;
         line = strstr(line + 2, "\r\n"))
        if (strncasecmp(line + 2, "content-length:", 15) == 0)
            length = strtoul(line + 17, NULL, 10);
    size_t head = (size_t)(end + 4 - c->answer);
    if (length > BUFFER_BYTES - head)
        return -1; /* also without a length: no answer of ours is without */
    if (c->answer_bytes < head + length)
        return 0;
    *ret_body = end + 4;
    return c->answer_bytes == head + length ? 1 : -1;
}

static void receive(struct connection *c, uint64_t now) {
    for (;;) {
        ssize_t got =
            recv(c->socket, c->answer + c->answer_bytes, BUFFER_BYTES - c->answer_bytes, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0) {
            give_up_request(c, now);
            return;
        }
        c->answer_bytes += (size_t)got;
        int status;
        const char *body;
        int whole = parse_answer(c, &status, &body);
        if (whole < 0 || (whole == 1 && !c->waiting)) {
            give_up_request(c, now);
            return;
        }
        if (whole == 1) {
            c->answer_bytes = 0;
            answered(c, status, body, now);
            return;
        }
    }
}

static void on_event(struct connection *c, uint32_t events, uint64_t now) {
    if (c->socket < 0)
        return;
    bool broken = (events & (EPOLLERR | EPOLLHUP)) != 0;
    if (broken && c->waiting && c->request_at == 0) {
        /* Nothing of it was sent: the gateway is not there yet. No unclear outcome. */
        disconnect(c);
        reconnects++;
        c->resume_ns = now + RECONNECT_NS;
    } else if ((events & EPOLLIN) != 0) {
        receive(c, now);
    } else if (broken) {
        give_up_request(c, now);
    } else if ((events & EPOLLOUT) != 0) {
        watch(c, EPOLL_CTL_MOD, EPOLLIN);
        if (c->waiting)
            send_more(c, now);
    }
}

static int compare(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static double latency_ms(double share) {
    if (latency_count == 0)
        return 0;
    uint64_t index = (uint64_t)(share * (double)(latency_count - 1));
    return (double)latency_ns[index] / 1e6;
}

/* Runs until all is answered. Returns false when time is up. */
static bool loop(void) {
    struct epoll_event events[256];
    uint64_t deadline = started_ns + options.timeout_s * UINT64_C(1000000000);
    for (;;) {
        int count = epoll_wait(poll_fd, events, 256, 5);
        uint64_t now = now_ns();
        for (int i = 0; i < count; i++)
            on_event(events[i].data.ptr, events[i].events, now);
        bool open = false;
        for (uint32_t i = 0; i < options.connections; i++) {
            struct connection *c = &connections[i];
            if (c->resume_ns != 0 && now >= c->resume_ns)
                begin(c, now, c->waiting);
            open |= c->phase != PHASE_DONE;
        }
        if (!open)
            return true;
        if (now >= deadline)
            return false;
    }
}

static uint64_t number(const char *text, uint64_t least, uint64_t greatest) {
    char *end;
    errno = 0;
    uint64_t value = strtoull(text, &end, 10);
    if (errno != 0 || *text < '0' || *text > '9' || *end != '\0' || value < least ||
        value > greatest) {
        fprintf(stderr, "load: \"%s\" is not a number from %" PRIu64 " to %" PRIu64 "\n", text,
                least, greatest);
        exit(2);
    }
    return value;
}

static void set_address(const char *text) {
    const char *colon = strrchr(text, ':');
    char host[64];
    if (colon == NULL || (size_t)(colon - text) >= sizeof host) {
        fprintf(stderr, "load: --address A.B.C.D:PORT\n");
        exit(2);
    }
    memcpy(host, text, (size_t)(colon - text));
    host[colon - text] = '\0';
    snprintf(options.host, sizeof options.host, "%.63s", text);
    options.address.sin_family = AF_INET;
    options.address.sin_port = htons((uint16_t)number(colon + 1, 1, 65535));
    if (inet_pton(AF_INET, host, &options.address.sin_addr) != 1) {
        fprintf(stderr, "load: \"%s\" is not an IPv4 address\n", host);
        exit(2);
    }
}

static void read_options(int argc, char *argv[]) {
    static const struct option known[] = {
        {"address", 1, NULL, 'a'},  {"count", 1, NULL, 'n'},         {"seconds", 1, NULL, 's'},
        {"timeout", 1, NULL, 't'},  {"connections", 1, NULL, 'c'},   {"accounts", 1, NULL, 'k'},
        {"deposit", 1, NULL, 'd'},  {"first-account", 1, NULL, 'f'}, {"seed", 1, NULL, 'r'},
        {"progress", 1, NULL, 'p'}, {"gaps-us", 1, NULL, 'g'},       {NULL, 0, NULL, 0}};
    int key;
    while ((key = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (key) {
        case 'a': set_address(optarg); break;
        case 'n': options.count = number(optarg, 0, UINT64_MAX); break;
        case 's':
            options.seconds = number(optarg, 1, 86400);
            options.count = 0;
            break;
        case 't': options.timeout_s = number(optarg, 1, 86400); break;
        case 'c': options.connections = (uint32_t)number(optarg, 1, CONNECTIONS_MAX); break;
        case 'k': options.accounts = (uint32_t)number(optarg, 2, ACCOUNTS_MAX); break;
        case 'd': options.deposit = number(optarg, 1, UINT64_C(1) << 40); break;
        case 'f': options.first_account = number(optarg, 0, UINT64_MAX / 2); break;
        case 'r': options.seed = number(optarg, 0, UINT64_MAX); break;
        case 'g': options.gaps_us = number(optarg, 1, UINT64_MAX / 1000); break;
        case 'p': options.progress = number(optarg, 0, UINT64_MAX); break;
        default: exit(2);
        }
    }
    if (optind != argc || options.address.sin_port == 0) {
        fprintf(stderr,
                "usage: cluster-load --address A.B.C.D:PORT [--count N | --seconds S] ...\n");
        exit(2);
    }
}

static void on_interrupt(int number) {
    (void)number;
    interrupted = 1;
}

int main(int argc, char *argv[]) {
    read_options(argc, argv);
    random_state = options.seed;
    signal(SIGINT, on_interrupt);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (poll_fd < 0) {
        perror("load: epoll_create1");
        return 2;
    }
    started_ns = now_ns();
    for (uint32_t i = 0; i < options.connections; i++) {
        connections[i].socket = -1;
        begin(&connections[i], started_ns, false);
    }
    bool whole = loop();
    double seconds = (double)(now_ns() - started_ns) / 1e9;
    uint64_t unanswered = 0, uncertain = 0;
    for (uint32_t i = 0; i < options.connections; i++) {
        unanswered += connections[i].phase != PHASE_DONE;
        uncertain += connections[i].uncertain;
    }
    if (latency_count != 0)
        qsort(latency_ns, latency_count, sizeof *latency_ns, compare);
    printf("{\"sent\": %" PRIu64 ", \"ok\": %" PRIu64 ", \"refused\": %" PRIu64
           ", \"wrong\": %" PRIu64 ", \"errors\": %" PRIu64 ", \"pushed_back\": %" PRIu64
           ", \"reconnects\": %" PRIu64 ", \"unanswered\": %" PRIu64 ", \"uncertain\": %" PRIu64
           ", \"deposited\": %" PRIu64 ", \"seconds\": %.3f, \"per_second\": %.0f, \"p50_ms\": "
           "%.3f, \"p99_ms\": %.3f, \"max_ms\": "
           "%.3f, \"longest_gap_ms\": %.3f, \"longest_gap_at_s\": %.3f, \"gaps\": [",
           sent, ok, refused, wrong, errors, pushed_back, reconnects, unanswered, uncertain,
           deposited, seconds, (double)latency_count / seconds, latency_ms(0.5), latency_ms(0.99),
           latency_ms(1), (double)longest_gap_ns / 1e6,
           longest_gap_at_ns == 0 ? 0 : (double)(longest_gap_at_ns - started_ns) / 1e9);
    for (uint32_t i = 0; i < gap_count; i++) /* [at, milliseconds] */
        printf("%s[%.6f, %.3f]", i != 0 ? ", " : "", (double)gaps[i].at_ns / 1e9,
               (double)gaps[i].length_ns / 1e6);
    printf("], \"balances\": {"); /* as the last answers have them, where they are known */
    const char *separator = "";
    for (uint32_t i = 0; i < options.connections; i++)
        for (uint32_t n = 0; n < options.accounts && !connections[i].uncertain; n++) {
            printf("%s\"%" PRIu64 "\": %" PRIu64, separator, account_of(&connections[i], n),
                   connections[i].balance[n]);
            separator = ", ";
        }
    printf("}}\n");
    free(latency_ns);
    close(poll_fd);
    return whole && unanswered == 0 ? 0 : 1;
}
