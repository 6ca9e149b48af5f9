#include "perf/probe.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "perf/clock.h"
#include "perf/cluster.h"
#include "perf/fabric.h"
#include "perf/hops.h"
#include "perf/load.h"
#include "perf/stalls.h"
#include <maroon/error.h>
#include <sodium.h>

#define READY_NS UINT64_C(10000000000)

struct run {
    struct perf_cluster *cluster;
    struct perf_load load;
    uint32_t gateway_count, turn, answer_count;
    uint64_t step_ns, window_count, window_at, window_cpu_ns;
    json_t *windows; /* CPU ns of a transaction, one for each part of the run */
    struct {
        uint32_t ticket, code;
        uint64_t at_ns; /* 0: at the end of the pass */
    } answers[8192];
    struct perf_hops hops;
    bool watched; /* an open loop, where a stall makes others late */
    struct perf_stalls stalls;
};

static void on_done(void *context, void *user, const struct gateway_core_done *done) {
    struct run *run = context;
    if (run->answer_count == sizeof run->answers / sizeof run->answers[0])
        probe_die("more answers in a pass than there are tickets");
    bool alone = run->load.config.flight == 1;
    perf_hops_result(&run->hops, (uint32_t)(uintptr_t)user, done->id);
    run->answers[run->answer_count].at_ns = alone ? perf_clock_ns() : 0;
    run->answers[run->answer_count].ticket = (uint32_t)(uintptr_t)user;
    run->answers[run->answer_count++].code = done->code;
}

static void submit(struct run *run, uint64_t now_ns) {
    uint8_t request[PERF_LOAD_REQUEST_MAX + 8];
    uint32_t service, method, length;
    while ((length = perf_load_due(&run->load, now_ns, request, &service, &method)) != 0) {
        struct perf_client *client = perf_cluster_client(run->cluster, run->turn);
        uint32_t ticket = run->load.free[run->load.free_count - 1];
        int error = perf_client_submit(client, now_ns / 1000, service, method, request, length,
                                       (void *)(uintptr_t)ticket);
        run->turn = run->turn + 1 < run->gateway_count ? run->turn + 1 : 0;
        if (error == MRN_ERR_FULL) {
            run->load.refused++;
            return;
        }
        if (error)
            probe_die("submit: %s", mrn_error_text(error));
        perf_load_take(&run->load, now_ns);
        perf_hops_submit(&run->hops, ticket);
    }
}

static void pass(struct run *run) {
    uint64_t now_ns = perf_clock_ns();
    if (run->watched)
        perf_stalls_pass(&run->stalls, now_ns);
    submit(run, now_ns);
    perf_cluster_send(run->cluster, now_ns / 1000);
    perf_cluster_nodes(run->cluster, now_ns / 1000);
    perf_clock_advance(run->step_ns);
    if (!run->answer_count)
        return;
    now_ns = perf_clock_ns();
    for (uint32_t i = 0; i < run->answer_count; i++)
        perf_load_done(&run->load, run->answers[i].ticket,
                       run->answers[i].at_ns ? run->answers[i].at_ns : now_ns,
                       run->answers[i].code);
    run->answer_count = 0;
    if (run->window_count && run->load.latency.count >= run->window_at) {
        uint64_t cpu_ns = perf_clock_cpu_ns();
        json_array_append_new(run->windows, json_real((double)(cpu_ns - run->window_cpu_ns) /
                                                      (double)run->window_count));
        run->window_cpu_ns = cpu_ns;
        run->window_at += run->window_count;
    }
}

/* The part that callgrind collects, by its name. */
void perf_inproc_measured(struct run *run);
__attribute__((noinline)) void perf_inproc_measured(struct run *run) {
    while (!perf_load_over(&run->load))
        pass(run);
}

/* Session numbers come from libsodium; a run that counts instructions draws the same ones. */
static uint32_t fixed_random(void) {
    static uint32_t state = 1;
    state = state * 1664525 + 1013904223;
    return state >> 8 | state << 24;
}
static const char *fixed_name(void) {
    return "fixed";
}
static void fixed_bytes(void *bytes, size_t length) {
    for (size_t i = 0; i < length; i++)
        ((uint8_t *)bytes)[i] = (uint8_t)fixed_random();
}

static void become_deterministic(void) {
    static struct randombytes_implementation fixed = {
        .implementation_name = fixed_name, .random = fixed_random, .buf = fixed_bytes};
    randombytes_set_implementation(&fixed);
    perf_clock_make_virtual();
}

static json_t *counts(const struct perf_cluster_facts *before,
                      const struct perf_cluster_facts *after) {
    json_t *drops = json_object();
    for (uint32_t i = 0; i < WIRE_DROP_COUNT; i++)
        if (after->drops[i] > before->drops[i])
            json_object_set_new(drops, wire_drop_label((enum wire_drop)i),
                                json_integer((json_int_t)(after->drops[i] - before->drops[i])));
    return json_pack("{sI sI sI sI sI so}", "epochs",
                     (json_int_t)(after->epochs_committed - before->epochs_committed), "rx_packets",
                     (json_int_t)(after->rx_packets - before->rx_packets), "tx_packets",
                     (json_int_t)(after->tx_packets - before->tx_packets), "fetches",
                     (json_int_t)(after->fetch_requests - before->fetch_requests), "slots_used",
                     (json_int_t)after->slots_used, "drops", drops);
}

#define CLAIM_FIRST 1000000 /* above what the arbiter grants */
#define CLAIMS_AHEAD 96     /* fewer than OPENs may wait at the leader */

/* Opens so many ranges that then rest. */
static void open_ranges(struct run *run, uint64_t count) {
    struct perf_cluster_facts facts = {0};
    uint64_t next = 0, passes = 0;
    while (facts.ranges_opened < count) {
        uint64_t now_us = perf_clock_ns() / 1000;
        for (; next < count && next < facts.ranges_opened + CLAIMS_AHEAD; next++)
            perf_client_claim(perf_cluster_client(run->cluster, 0), now_us, CLAIM_FIRST + next);
        perf_cluster_send(run->cluster, now_us);
        perf_cluster_nodes(run->cluster, now_us);
        perf_clock_advance(run->step_ns);
        perf_cluster_facts(run->cluster, 0, &facts);
        if (++passes > 100000000)
            probe_die("%llu of %llu ranges open", (unsigned long long)facts.ranges_opened,
                      (unsigned long long)count);
    }
}

int probe_inproc(void) {
    static struct run run;
    static char keys[16][64];
    const char *key_list[16];
    char error[NET_TEXT_BYTES] = "";
    bool echo = !strcmp(probe_text("app", "bank"), "echo");
    struct perf_load_config load = {.app = echo ? PERF_LOAD_ECHO : PERF_LOAD_BANK,
                                    .payload_bytes = (uint32_t)probe_number("size", 64),
                                    .flight = (uint32_t)probe_number("flight", 1),
                                    .rate_per_s = probe_real("rate", 0),
                                    .count = probe_number("count", 100000),
                                    .warm_up = probe_number("warm-up", 5000)};
    struct perf_cluster_config config = {.node_count = (uint32_t)probe_number("nodes", 3),
                                         .gateway_count = (uint32_t)probe_number("gateways", 1),
                                         .parts_max = (uint32_t)probe_number("parts", 4096),
                                         .transaction_max_bytes = 65536,
                                         .done = on_done,
                                         .context = &run,
                                         .keys = key_list,
                                         .data_dir = probe_text("data-dir", NULL)};
    for (; config.key_count < 16; config.key_count++) { /* --key0=--epoch-cap=256 ... */
        char name[16];
        snprintf(name, sizeof name, "key%u", config.key_count);
        const char *value = probe_text(name, NULL);
        if (!value)
            break;
        snprintf(keys[config.key_count], sizeof keys[0], "%s", value);
        key_list[config.key_count] = keys[config.key_count];
    }
    config.timed = load.flight >= 64;
    config.unhurried = load.flight < 64;
    run.step_ns = probe_number("virtual-step-ns", 0);
    uint64_t windows = probe_number("windows", 0), ranges = probe_number("ranges", 0);
    run.window_count = run.window_at = windows ? load.count / windows : 0;
    run.windows = json_array();
    probe_options_end();
    if (load.payload_bytes > PERF_LOAD_REQUEST_MAX || !load.flight || load.flight > 8192 ||
        !config.gateway_count || config.gateway_count > PERF_CLUSTER_GATEWAYS_MAX ||
        !config.node_count || config.node_count > WIRE_NODES_MAX)
        probe_die("size, flight, gateways or nodes is out of range");
    if (run.step_ns)
        become_deterministic();
    run.gateway_count = config.gateway_count;
    run.cluster = perf_cluster_open(&config, error);
    if (!run.cluster)
        probe_die("%s", error);
    uint64_t until_ns = perf_clock_ns() + READY_NS;
    while (!perf_cluster_ready(run.cluster, perf_clock_ns() / 1000)) {
        if (perf_clock_ns() > until_ns)
            probe_die("the cluster does not become ready");
        uint64_t now_us = perf_clock_ns() / 1000;
        perf_cluster_send(run.cluster, now_us);
        perf_cluster_nodes(run.cluster, now_us);
        perf_clock_advance(run.step_ns < 5000 ? 5000 : run.step_ns);
    }
    open_ranges(&run, ranges);
    if (perf_load_open(&run.load, &load))
        probe_die("no memory");
    while (run.load.answered < run.load.config.warm_up)
        pass(&run);
    struct perf_cluster_facts before, after;
    perf_cluster_facts(run.cluster, 0, &before);
    uint64_t cpu_ns = run.window_cpu_ns = perf_clock_cpu_ns();
    uint64_t nodes_ns = perf_cluster_nodes_ns(run.cluster);
    run.watched = load.rate_per_s > 0 && !run.step_ns;
    perf_stalls_begin(&run.stalls, perf_clock_ns());
    perf_inproc_measured(&run);
    cpu_ns = perf_clock_cpu_ns() - cpu_ns;
    nodes_ns = perf_cluster_nodes_ns(run.cluster) - nodes_ns;
    perf_cluster_facts(run.cluster, 0, &after);
    uint64_t tx_full, no_buffer, other = perf_cluster_lost(run.cluster, &tx_full, &no_buffer);
    double took_ns = (double)(run.load.end_ns - run.load.first_ns);
    double count = (double)run.load.latency.count;
    probe_print(json_pack(
        "{ss ss si si si sf sf sf sf sI sI sI sI so so so so so}", "fabric", perf_fabric_name(),
        "app", echo ? "echo" : "bank", "nodes", (int)config.node_count, "gateways",
        (int)config.gateway_count, "flight", (int)load.flight, "offered_per_s", load.rate_per_s,
        "per_s", count * 1e9 / took_ns, "cpu_ns_per_tx", (double)cpu_ns / count, "nodes_ns_per_tx",
        (double)nodes_ns / count, "refused", (json_int_t)run.load.refused, "lost_tx_full",
        (json_int_t)tx_full, "lost_no_buffer", (json_int_t)no_buffer, "lost_other",
        (json_int_t)other, "latency", probe_latency(&run.load.latency), "node0",
        counts(&before, &after), "windows", run.windows, "hops", perf_hops_table(&run.hops),
        "stalls", perf_stalls_json(&run.stalls)));
    perf_cluster_close(run.cluster);
    perf_load_close(&run.load);
    return 0;
}
