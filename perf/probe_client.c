/* A gateway against running nodes: open or closed loop, yielding when idle. */
#include "perf/probe.h"

#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "perf/client.h"
#include "perf/clock.h"
#include "perf/hops.h"
#include "perf/load.h"
#include "perf/probe_net.h"
#include "perf/stalls.h"
#include <maroon/error.h>
#include <sodium.h>

#define READY_NS UINT64_C(20000000000)
#define GAP_NS UINT64_C(2000000) /* without any answer: worth telling */
#define GAPS_MAX 20000
#define TURN_NS 100000 /* as a node's threads: others' turn, also under load */

struct run {
    struct perf_client *client;
    struct perf_load load;
    uint64_t now_ns, last_ns, turn_ns, epoch_last, epochs;
    bool worked;
    json_t *gaps;
    struct perf_hops hops;
    struct perf_stalls stalls;
};

static void on_done(void *context, void *user, const struct gateway_core_done *done) {
    struct run *run = context;
    perf_hops_result(&run->hops, (uint32_t)(uintptr_t)user, done->id);
    uint64_t now_ns = perf_clock_ns();
    perf_load_done(&run->load, (uint32_t)(uintptr_t)user, now_ns, done->code);
    if (run->last_ns && now_ns - run->last_ns > GAP_NS && json_array_size(run->gaps) < GAPS_MAX)
        json_array_append_new(run->gaps, json_pack("[II]", (json_int_t)run->last_ns,
                                                   (json_int_t)(now_ns - run->last_ns)));
    run->last_ns = now_ns;
    run->epochs += done->epoch_seq != run->epoch_last;
    run->epoch_last = done->epoch_seq;
    run->worked = true;
}

static void submit(struct run *run) {
    uint8_t request[PERF_LOAD_REQUEST_MAX + 8];
    uint32_t service, method, length;
    while ((length = perf_load_due(&run->load, run->now_ns, request, &service, &method)) != 0) {
        uint32_t ticket = run->load.free[run->load.free_count - 1];
        int error = perf_client_submit(run->client, run->now_ns / 1000, service, method, request,
                                       length, (void *)(uintptr_t)ticket);
        if (error) {
            run->load.refused++;
            return;
        }
        perf_load_take(&run->load, run->now_ns);
        perf_hops_submit(&run->hops, ticket);
        run->worked = true;
    }
}

static volatile sig_atomic_t ended; /* SIGINT: no more load, tell what was measured */

static void on_signal(int number) {
    (void)number;
    ended = 1;
}

static void pass(struct run *run, bool offer) {
    run->now_ns = perf_clock_ns();
    if (run->load.config.rate_per_s > 0)
        perf_stalls_pass(&run->stalls, run->now_ns);
    run->worked = perf_client_poll(run->client, run->now_ns / 1000) != 0;
    if (offer)
        submit(run);
    perf_client_flush(run->client, run->now_ns / 1000);
    if (run->worked && run->now_ns - run->turn_ns < TURN_NS)
        return;
    sched_yield();
    run->turn_ns = run->now_ns;
}

int probe_client(void) {
    static struct run run;
    struct net_address nodes[WIRE_NODES_MAX];
    bool echo = !strcmp(probe_text("app", "bank"), "echo");
    struct perf_load_config load = {.app = echo ? PERF_LOAD_ECHO : PERF_LOAD_BANK,
                                    .payload_bytes = (uint32_t)probe_number("size", 64),
                                    .flight = (uint32_t)probe_number("flight", 1),
                                    .rate_per_s = probe_real("rate", 0),
                                    .count = probe_number("count", UINT64_MAX / 2),
                                    .warm_up = probe_number("warm-up", 2000)};
    uint64_t limit_ns = probe_number("seconds", 10) * 1000000000;
    uint32_t node_count = probe_net_addresses("nodes", nodes, WIRE_NODES_MAX);
    struct net *net = probe_net_open((uint16_t)probe_number("port", 4000));
    probe_options_end();
    struct perf_client_config config = {.net = net,
                                        .node_count = node_count,
                                        .nodes = nodes,
                                        .parts_max = 8192,
                                        .transaction_max_bytes = 65536,
                                        .done = on_done,
                                        .context = &run};
    randombytes_buf(&config.owner, sizeof config.owner);
    config.owner |= 1;
    run.gaps = json_array();
    if (!node_count || !load.flight || load.flight > 4096 ||
        load.payload_bytes > PERF_LOAD_REQUEST_MAX || perf_load_open(&run.load, &load))
        probe_die("nodes, flight or size is out of range");
    run.client = perf_client_open(&config);
    if (!run.client)
        probe_die("no memory");
    uint64_t until_ns = perf_clock_ns() + READY_NS;
    while (!perf_client_ready(run.client, perf_clock_ns() / 1000)) {
        pass(&run, false);
        if (perf_clock_ns() > until_ns)
            probe_die("no range or no leader within 20 s");
    }
    while (run.load.answered < run.load.config.warm_up && perf_clock_ns() < until_ns)
        pass(&run, true);
    uint64_t start_ns = perf_clock_ns(), cpu_ns = perf_clock_cpu_ns();
    run.epochs = 0;
    perf_stalls_begin(&run.stalls, start_ns);
    json_array_clear(run.gaps);
    signal(SIGINT, on_signal);
    while (!ended && !perf_load_over(&run.load) && run.now_ns < start_ns + limit_ns)
        pass(&run, true);
    double took_ns = (double)(perf_clock_ns() - start_ns);
    struct gateway_core_facts facts;
    perf_client_facts(run.client, run.now_ns / 1000, &facts);
    struct net_counters counters;
    net_endpoint_counters(net_endpoint(net, WIRE_STAGE_INGRESS), &counters);
    double count = (double)run.load.latency.count;
    probe_print(json_pack(
        "{ss si sf sf sf sI sI sI sI so so so so}", "app", echo ? "echo" : "bank", "flight",
        (int)load.flight, "offered_per_s", load.rate_per_s, "per_s", count * 1e9 / took_ns,
        "cpu_ns_per_tx", (double)(perf_clock_cpu_ns() - cpu_ns) / (count > 0 ? count : 1), "resent",
        (json_int_t)facts.resent, "port_full", (json_int_t)counters.drops[WIRE_DROP_PORT_FULL],
        "refused", (json_int_t)run.load.refused, "epochs", (json_int_t)run.epochs, "gaps", run.gaps,
        "latency", probe_latency(&run.load.latency), "hops", perf_hops_table(&run.hops), "stalls",
        perf_stalls_json(&run.stalls)));
    probe_net_close(net);
    return 0;
}
