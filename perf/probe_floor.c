/* Floors: what the machine can do without maroon. */
#include "perf/probe.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "perf/clock.h"
#include "perf/fabric.h"

/* ---- hops: a packet through the fabric of the in-process cluster, four times ---- */

static void hop(struct net **nets, uint32_t from, uint32_t to, uint8_t *bytes, uint32_t length) {
    struct net_endpoint *e = net_endpoint(nets[from], WIRE_STAGE_INGRESS);
    struct net_packet p;
    if (!net_packet_alloc(e, &p))
        probe_die("no packet buffer");
    memcpy(p.bytes, bytes, length);
    p.length_bytes = length;
    p.address = (struct net_address){.ipv4 = perf_fabric_ipv4(to), .port = PERF_FABRIC_PORT};
    net_tx(e, &p, 1);
    net_flush(e);
    e = net_endpoint(nets[to], WIRE_STAGE_INGRESS);
    uint32_t count = 0;
    for (uint32_t i = 0; !count && i < 1000; i++)
        count = net_rx(e, perf_clock_ns() / 1000, &p, 1);
    if (!count)
        probe_die("the fabric lost a packet");
    memcpy(bytes, p.bytes, p.length_bytes);
    net_packets_free(&p, 1);
}

/* The first packets of a fabric may wait for address resolution. */
static void meet(struct net **nets) {
    uint8_t bytes[64] = {0};
    for (uint32_t i = 0; i < 2000; i++)
        for (uint32_t host = 0; host < 2; host++) {
            struct net_endpoint *e = net_endpoint(nets[host], WIRE_STAGE_INGRESS);
            struct net_packet p;
            if (i < 20 && net_packet_alloc(e, &p)) {
                memcpy(p.bytes, bytes, sizeof bytes);
                p.length_bytes = sizeof bytes;
                p.address = (struct net_address){.ipv4 = perf_fabric_ipv4(1 - host),
                                                 .port = PERF_FABRIC_PORT};
                net_tx(e, &p, 1);
                net_flush(e);
            }
            if (net_rx(e, perf_clock_ns() / 1000, &p, 1))
                net_packets_free(&p, 1);
        }
}

/* The part that callgrind collects, by its name. */
void perf_hops_measured(struct net **nets, uint8_t *bytes, uint32_t size, uint64_t count,
                        struct perf_histogram *latency);
__attribute__((noinline)) void perf_hops_measured(struct net **nets, uint8_t *bytes, uint32_t size,
                                                  uint64_t count, struct perf_histogram *latency) {
    double per_ns = perf_clock_tsc_per_ns();
    for (uint64_t i = 0; i < count; i++) {
        uint64_t tsc_last = perf_clock_tsc();
        for (uint32_t j = 0; j < 4; j++)
            hop(nets, j & 1, 1 - (j & 1), bytes, size);
        perf_histogram_add(latency, (uint64_t)((double)(perf_clock_tsc() - tsc_last) / per_ns));
    }
}

int probe_hops(void) {
    static struct perf_histogram latency;
    struct net *nets[2];
    char error[NET_TEXT_BYTES];
    uint8_t bytes[1472] = {0};
    uint32_t size = (uint32_t)probe_number("size", 64);
    uint64_t count = probe_number("count", 1000000), warm_up = probe_number("warm-up", 1000);
    probe_options_end();
    if (!count || size > sizeof bytes || perf_fabric_open(2, 2, nets, error))
        probe_die("the fabric does not open: %s", error);
    meet(nets);
    (void)perf_clock_tsc_per_ns(); /* takes 20 ms once */
    for (uint64_t i = 0; i < 4 * warm_up; i++)
        hop(nets, i & 1, 1 - (i & 1), bytes, size);
    uint64_t cpu_ns = perf_clock_cpu_ns();
    perf_hops_measured(nets, bytes, size, count, &latency);
    cpu_ns = perf_clock_cpu_ns() - cpu_ns;
    probe_print(json_pack("{ss si sf so}", "fabric", perf_fabric_name(), "size", (int)size,
                          "cpu_ns_per_4_hops", (double)cpu_ns / (double)count, "latency",
                          probe_latency(&latency)));
    perf_fabric_close(nets, 2);
    return 0;
}

/* ---- memcpy of bodies, as often as a transaction of three nodes copies one ---- */

#define MEMCPY_ROOM (16u << 20) /* beyond the caches of a core, as slots and packets are */

/* The part that callgrind collects, by its name. */
void perf_memcpy_measured(uint8_t *to, const uint8_t *from, uint32_t size, uint64_t count);
__attribute__((noinline)) void perf_memcpy_measured(uint8_t *to, const uint8_t *from, uint32_t size,
                                                    uint64_t count) {
    uint32_t at = 0;
    for (uint64_t i = 0; i < count; i++) {
        memcpy(to + at, from + at, size);
        __asm__ volatile("" : : "r"(to + at) : "memory");
        at = at + size + 64 > MEMCPY_ROOM - size ? 0 : at + size + 64;
    }
}

int probe_memcpy(void) {
    uint32_t size = (uint32_t)probe_number("size", 64);
    uint64_t count = probe_number("count", 2000000);
    uint32_t copies = (uint32_t)probe_number("copies", 8);
    probe_options_end();
    if (!size || size > 65536)
        probe_die("size is out of range");
    uint8_t *from = malloc(MEMCPY_ROOM), *to = malloc(MEMCPY_ROOM);
    if (!from || !to)
        probe_die("no memory");
    memset(from, 1, MEMCPY_ROOM);
    memset(to, 2, MEMCPY_ROOM);
    uint64_t cpu_ns = perf_clock_cpu_ns();
    perf_memcpy_measured(to, from, size, count * copies);
    cpu_ns = perf_clock_cpu_ns() - cpu_ns;
    probe_print(json_pack("{si si sf sf}", "size", (int)size, "copies", (int)copies,
                          "cpu_ns_per_tx", (double)cpu_ns / (double)count, "gb_per_s",
                          (double)(count * copies * size) / (double)cpu_ns));
    free(from);
    free(to);
    return 0;
}

/* ---- sync: one block, O_DIRECT into a preallocated file; io_uring: as the journal does ---- */

static bool write_and_sync(int fd, const void *block, off_t at) {
    return pwrite(fd, block, 4096, at) == 4096 && !fdatasync(fd);
}

static bool write_by_uring(struct io_uring *ring, int fd, const void *block, off_t at) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
    struct io_uring_cqe *cqe;
    io_uring_prep_write(sqe, fd, block, 4096, (uint64_t)at);
    sqe->rw_flags = RWF_DSYNC;
    int error = io_uring_submit_and_wait(ring, 1);
    errno = error < 0 ? -error : 0;
    if (error < 0 || io_uring_peek_cqe(ring, &cqe))
        return false;
    int written = cqe->res;
    errno = written < 0 ? -written : 0;
    io_uring_cqe_seen(ring, cqe);
    return written == 4096;
}

int probe_sync(void) {
    static struct perf_histogram latency;
    char path[512];
    const char *directory = probe_text("directory", ".");
    uint64_t count = probe_number("count", 2000), blocks = 4096;
    bool uring = probe_number("uring", 0) != 0;
    struct io_uring ring;
    probe_options_end();
    if (uring && (errno = -io_uring_queue_init(1, &ring, 0)) != 0)
        probe_die("io_uring: %s", strerror(errno));
    snprintf(path, sizeof path, "%s/maroon-perf-XXXXXX", directory);
    int fd = mkstemp(path);
    void *block = aligned_alloc(4096, 4096);
    if (fd < 0 || !block)
        probe_die("%s: %s", path, strerror(errno));
    unlink(path); /* gone with the process, whatever ends it */
    memset(block, 0, 4096);
    for (uint64_t i = 0; i < blocks; i++)
        if (pwrite(fd, block, 4096, (off_t)(i * 4096)) != 4096)
            probe_die("write: %s", strerror(errno));
    fsync(fd);
    bool direct = fcntl(fd, F_SETFL, O_DIRECT) == 0;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t before_ns = perf_clock_ns();
        off_t at = (off_t)(i % blocks * 4096);
        if (uring ? !write_by_uring(&ring, fd, block, at) : !write_and_sync(fd, block, at))
            probe_die("write: %s", strerror(errno));
        if (i >= count / 10)
            perf_histogram_add(&latency, perf_clock_ns() - before_ns);
    }
    probe_print(json_pack("{sb sb so}", "direct", direct, "uring", uring, "latency",
                          probe_latency(&latency)));
    if (uring)
        io_uring_queue_exit(&ring);
    free(block);
    close(fd);
    return 0;
}

/* ---- udp: echo through the kernel on loopback, two threads ---- */

struct echo {
    int fd;
    bool spin;
    _Atomic bool end;
};

static int udp_socket(struct sockaddr_in *ret_address) {
    struct sockaddr_in a = {.sin_family = AF_INET};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof a;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) ||
        getsockname(fd, (struct sockaddr *)ret_address, &length))
        probe_die("UDP socket: %s", strerror(errno));
    struct timeval timeout = {.tv_usec = 100000};
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    return fd;
}

static ssize_t take(int fd, bool spin, void *bytes, size_t room, struct sockaddr_in *ret_from) {
    socklen_t length = sizeof *ret_from;
    ssize_t got;
    do {
        got = recvfrom(fd, bytes, room, spin ? MSG_DONTWAIT : 0, (struct sockaddr *)ret_from,
                       &length);
        if (got < 0 && spin)
            sched_yield();
    } while (got < 0 && spin && errno == EAGAIN && length);
    return got;
}

static void *echo_thread(void *argument) {
    struct echo *e = argument;
    uint8_t bytes[2048];
    struct sockaddr_in from;
    while (!atomic_load(&e->end)) {
        ssize_t got = take(e->fd, e->spin, bytes, sizeof bytes, &from);
        if (got > 0)
            (void)sendto(e->fd, bytes, (size_t)got, 0, (struct sockaddr *)&from, sizeof from);
        if (got == 1)
            break; /* the end */
    }
    return NULL;
}

int probe_udp(void) {
    static struct perf_histogram latency;
    struct sockaddr_in server, own;
    uint8_t bytes[2048] = {0};
    pthread_t thread;
    struct echo echo = {.spin = probe_number("spin", 0) != 0};
    uint32_t size = (uint32_t)probe_number("size", 64);
    uint64_t count = probe_number("count", 20000);
    probe_options_end();
    if (size < 2 || size > sizeof bytes)
        probe_die("size is out of range");
    echo.fd = udp_socket(&server);
    int fd = udp_socket(&own);
    if (pthread_create(&thread, NULL, echo_thread, &echo))
        probe_die("no thread");
    for (uint64_t i = 0; i < count; i++) {
        uint64_t before_ns = perf_clock_ns();
        struct sockaddr_in from;
        if (sendto(fd, bytes, size, 0, (struct sockaddr *)&server, sizeof server) < 0 ||
            take(fd, echo.spin, bytes, sizeof bytes, &from) < 0)
            probe_die("echo: %s", strerror(errno));
        if (i >= count / 10)
            perf_histogram_add(&latency, perf_clock_ns() - before_ns);
    }
    atomic_store(&echo.end, true);
    (void)sendto(fd, bytes, 1, 0, (struct sockaddr *)&server, sizeof server);
    pthread_join(thread, NULL);
    close(fd);
    close(echo.fd);
    probe_print(json_pack("{sb so}", "spin", (int)echo.spin, "latency", probe_latency(&latency)));
    return 0;
}

/* ---- the machine: a loop that only looks at the clock, and how long it was kept from it ---- */

#define HICCUP_NS 50000

int probe_hiccups(void) {
    uint64_t length_ns = (uint64_t)(probe_real("seconds", 2) * 1e9), count = 0, lost_ns = 0,
             longest = 0;
    probe_options_end();
    uint64_t start_ns = perf_clock_ns(), last_ns = start_ns;
    while (last_ns - start_ns < length_ns) {
        uint64_t now_ns = perf_clock_ns(), away_ns = now_ns - last_ns;
        last_ns = now_ns;
        if (away_ns < HICCUP_NS)
            continue;
        count++;
        lost_ns += away_ns;
        longest = away_ns > longest ? away_ns : longest;
    }
    probe_print(json_pack("{sI sf sI}", "over_50_us", (json_int_t)count, "lost_percent",
                          (double)lost_ns * 100 / (double)(last_ns - start_ns), "longest_ns",
                          (json_int_t)longest));
    return 0;
}
