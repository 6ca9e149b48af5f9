/* The fabric alone: empty packets to a peer that sends them back, both yielding when idle. */
#include "perf/probe.h"

#include <sched.h>
#include <string.h>

#include "perf/clock.h"
#include "perf/probe_net.h"

#define LOST_NS UINT64_C(20000000)

static int serve(struct net_endpoint *e, uint64_t seconds) {
    uint64_t end_ns = perf_clock_ns() + seconds * 1000000000;
    for (uint64_t now_ns; (now_ns = perf_clock_ns()) < end_ns;) {
        struct net_packet packets[NET_BURST_COUNT];
        uint32_t count = net_rx(e, now_ns / 1000, packets, NET_BURST_COUNT);
        for (uint32_t i = 0; i < count; i++) { /* into a new packet, as an answer is */
            struct net_packet answer;
            if (!net_packet_alloc(e, &answer))
                continue;
            memcpy(answer.bytes, packets[i].bytes, packets[i].length_bytes);
            answer.length_bytes = packets[i].length_bytes;
            answer.address = packets[i].address;
            net_tx(e, &answer, 1);
        }
        net_packets_free(packets, count);
        net_flush(e);
        if (!count)
            sched_yield();
    }
    return 0;
}

static bool round_trip(struct net_endpoint *e, struct net_address to, uint32_t size) {
    struct net_packet p;
    uint64_t start_ns = perf_clock_ns(), now_ns = start_ns;
    if (!net_packet_alloc(e, &p))
        probe_die("no packet buffer");
    memset(p.bytes, 0, size);
    p.length_bytes = size;
    p.address = to;
    net_tx(e, &p, 1);
    net_flush(e);
    while (now_ns - start_ns < LOST_NS) {
        if (net_rx(e, now_ns / 1000, &p, 1)) {
            net_packets_free(&p, 1);
            return true;
        }
        sched_yield();
        now_ns = perf_clock_ns();
    }
    return false; /* lost, or the address was being asked for */
}

int probe_echo(void) {
    static struct perf_histogram latency;
    struct net_address to;
    bool server = probe_number("server", 0) != 0;
    uint32_t size = (uint32_t)probe_number("size", 64), lost = 0;
    uint64_t count = probe_number("count", 20000), seconds = probe_number("seconds", 30);
    uint16_t port = (uint16_t)probe_number("port", 4000);
    uint32_t known = probe_net_addresses("to", &to, 1);
    struct net *net = probe_net_open(port);
    struct net_endpoint *e = net_endpoint(net, WIRE_STAGE_INGRESS);
    probe_options_end();
    if (server)
        return serve(e, seconds);
    if (!known || size < 1 || size > 1400)
        probe_die("--to=ADDRESS:PORT and a size up to 1400 are wanted");
    for (uint64_t i = 0; i < count + count / 10 && lost < 500; i++) {
        uint64_t before_ns = perf_clock_ns();
        if (!round_trip(e, to, size))
            lost++;
        else if (i >= count / 10)
            perf_histogram_add(&latency, perf_clock_ns() - before_ns);
    }
    probe_print(json_pack("{si si so}", "size", (int)size, "lost", (int)lost, "latency",
                          probe_latency(&latency)));
    probe_net_close(net);
    return 0;
}
