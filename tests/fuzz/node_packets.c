/* Millions of mutated packets at a node: three real nodes (stages, replica, runtime) and a gateway
 * in this process, and a guest that blasts one of them. It holds a range of its own, so what it
 * sends is also ordered and executed.
 *
 * Shown: the node lives; each packet and frame that must be dropped is counted under its reason,
 * once (told beforehand by opening it here); afterwards the gateway's transactions are executed and
 * the nodes agree.
 *
 *   node_packets [packets, default 10,000,000] [seed] */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dataplane/net/net.h"
#include "perf/clock.h"
#include "perf/cluster.h"
#include "perf/fabric.h"
#include "tests/fuzz/mutate.h"

#define NODES 3
#define GUEST (NODES + 1)
#define OWNER UINT64_C(0xb1a57e4)
#define RANGE 999
#define CALLS 2000
#define CONFIGURATION 0x6d61726f6f6e /* as perf/cluster.c has it */
#define SETTLE_NS 100000000

/* Nothing else in this process makes these. */
static const enum wire_drop exact[] = {
    WIRE_DROP_SHORT,        WIRE_DROP_MAGIC,      WIRE_DROP_VERSION,    WIRE_DROP_CHECKSUM,
    WIRE_DROP_FRAME_LENGTH, WIRE_DROP_FRAME_KIND, WIRE_DROP_FRAME_ROLE, WIRE_DROP_SESSION_UNKNOWN};

static struct perf_cluster *cluster;
static struct net_endpoint *guest;
static struct mutator mutator;
static struct mutate_endpoint targets[WIRE_STAGE_COUNT];
static uint64_t expected[WIRE_DROP_COUNT], sent, frames_good, calls_done;

static void fail(const char *text) {
    fprintf(stderr, "node_packets: %s\n", text);
    exit(1);
}

static void on_done(void *context, void *user, const struct gateway_core_done *done) {
    (void)context, (void)user;
    calls_done += done->code == 0;
}

/* ---- sending ---- */

static void emit(uint32_t node, uint8_t stage, const uint8_t *bytes, uint32_t length) {
    struct net_packet packet;
    if (!net_packet_alloc(guest, &packet))
        fail("no packet to send");
    memcpy(packet.bytes, bytes, length);
    packet.length_bytes = length;
    packet.address =
        (struct net_address){.ipv4 = perf_fabric_ipv4(node),
                             .port = (uint16_t)(PERF_FABRIC_PORT + stage * WIRE_STAGE_PORT_STEP)};
    net_tx(guest, &packet, 1);
}

/* What the node says it holds of our range: the next body goes there. */
static void listen_to(const struct net_packet *p) {
    struct wire_packet_header header;
    struct wire_cursor cursor;
    struct wire_frame frame;
    enum wire_drop drop;
    struct wire_vector vector;
    struct wire_vector_entry entry;
    if (p->address.ipv4 != perf_fabric_ipv4(0) ||
        wire_packet_open(p->bytes, p->length_bytes, CONFIGURATION, &header, &cursor) !=
            WIRE_DROP_NONE)
        return;
    while (wire_frame_next(&cursor, &frame, &drop) > 0) {
        if (frame.kind != WIRE_VECTOR)
            continue;
        memcpy(&vector, frame.payload, sizeof vector);
        memcpy(&entry, frame.payload + sizeof vector, sizeof entry);
        if (vector.count && entry.range == RANGE)
            targets[0].offset = entry.received;
    }
}

static void pass(void) {
    struct net_packet packets[NET_BURST_COUNT];
    uint32_t count;
    net_flush(guest);
    uint64_t now_us = perf_clock_ns() / 1000;
    perf_cluster_nodes(cluster, now_us);
    perf_cluster_send(cluster, now_us);
    while ((count = net_rx(guest, now_us, packets, NET_BURST_COUNT)) != 0) {
        for (uint32_t i = 0; i < count; i++)
            listen_to(&packets[i]);
        net_packets_free(packets, count);
    }
}

static void settle(void) {
    uint64_t end_ns = perf_clock_ns() + SETTLE_NS;
    while (perf_clock_ns() < end_ns)
        pass();
}

/* At every port of the node, and that the range is ours at all nodes. */
static void introduce(void) {
    uint8_t packet[WIRE_PACKET_MAX_BYTES];
    for (uint8_t stage = 0; stage < WIRE_STAGE_COUNT; stage++)
        emit(0, stage, packet, mutate_hello(&targets[stage], packet));
    for (uint32_t node = 0; node < NODES; node++) {
        struct wire_writer writer;
        struct wire_range_renew renew = {OWNER, RANGE};
        emit(node, 0, packet, mutate_hello(&targets[0], packet));
        wire_writer_begin(&writer, packet, sizeof packet, 0, targets[0].session);
        memcpy(wire_writer_frame(&writer, WIRE_RANGE_RENEW, 0, sizeof renew), &renew, sizeof renew);
        emit(node, 0, packet, wire_writer_end(&writer, ++targets[0].packet_number, CONFIGURATION));
    }
}

/* ---- what must be counted ---- */

static bool role_may(uint8_t stage, uint8_t kind) {
    return stage == WIRE_STAGE_INGRESS &&
           (kind == WIRE_TX || kind == WIRE_RANGE_RENEW || kind == WIRE_RANGE_REQUEST ||
            kind == WIRE_RANGE_CLOSE || kind == WIRE_TX_QUERY);
}

static void expect(const struct mutate_endpoint *to, const uint8_t *packet, uint32_t length) {
    struct wire_packet_header header;
    struct wire_cursor cursor;
    struct wire_frame frame;
    enum wire_drop drop = wire_packet_open(packet, length, CONFIGURATION, &header, &cursor);
    if (drop != WIRE_DROP_NONE) {
        expected[drop]++;
        return;
    }
    if (header.session != to->session || to->stage != WIRE_STAGE_INGRESS) { /* no gateway's place */
        expected[WIRE_DROP_SESSION_UNKNOWN]++;
        return;
    }
    int more;
    while ((more = wire_frame_next(&cursor, &frame, &drop)) != 0) {
        if (more < 0)
            expected[drop]++;
        else if (!role_may(to->stage, frame.kind))
            expected[WIRE_DROP_FRAME_ROLE]++;
        else if (frame.kind == WIRE_RANGE_RENEW) /* its owner is random */
            expected[WIRE_DROP_FRAME_VALUE]++;
        else
            frames_good++;
    }
}

static void blast(uint64_t count, bool hellos) {
    uint8_t packet[WIRE_PACKET_MAX_BYTES];
    for (uint64_t i = 0; i < count; i++) {
        struct mutate_endpoint *to = &targets[i % 4 < WIRE_STAGE_COUNT ? i % 4 : 0];
        uint32_t length = mutate_packet(&mutator, to, hellos, packet);
        if (!hellos)
            expect(to, packet, length);
        emit(0, to->stage, packet, length);
        sent++;
        if (i % (2 * NET_BURST_COUNT) == 2 * NET_BURST_COUNT - 1)
            pass();
        if (hellos && i % 65536 == 65535)
            introduce(); /* others may have taken its place */
    }
    settle();
}

static void check_counted(const struct perf_cluster_facts *before) {
    struct perf_cluster_facts after;
    bool wrong = false;
    perf_cluster_facts(cluster, 0, &after);
    for (uint32_t d = 0; d < WIRE_DROP_COUNT; d++) {
        uint64_t counted = after.drops[d] - before->drops[d];
        bool must = false;
        for (uint32_t i = 0; i < sizeof exact / sizeof exact[0]; i++)
            must |= exact[i] == (enum wire_drop)d;
        bool too_few = counted < expected[d]; /* FRAME_VALUE: bodies are refused for theirs, too */
        if (too_few || (must && (counted != expected[d] || !counted))) {
            wrong = true;
            fprintf(stderr, "%s: expected %" PRIu64 ", counted %" PRIu64 "\n",
                    wire_drop_label((enum wire_drop)d), expected[d], counted);
        } else if (counted)
            printf("%-20s %9" PRIu64 "%s\n", wire_drop_label((enum wire_drop)d), counted,
                   must ? "  as expected" : "");
    }
    if (wrong)
        fail("drops are not counted as they should be");
    if (after.rx_packets - before->rx_packets < sent)
        fail("packets did not arrive: the run is worth nothing");
}

static void check_alive(void) {
    uint8_t transfer[] = {0x08, 1, 0x10, 2, 0x18, 0}; /* of nothing, so it is never refused */
    uint32_t service = wire_name_id("bank.v1.Bank", 12), method = wire_name_id("Transfer", 8);
    uint64_t end_ns = perf_clock_ns() + UINT64_C(20000000000);
    for (uint32_t i = 0; i < CALLS;) {
        i += !perf_client_submit(perf_cluster_client(cluster, 0), perf_clock_ns() / 1000, service,
                                 method, transfer, sizeof transfer, NULL);
        pass();
        if (perf_clock_ns() > end_ns)
            fail("the gateway's transactions are not taken any more");
    }
    while (calls_done < CALLS && perf_clock_ns() < end_ns)
        pass();
    if (calls_done != CALLS)
        fail("the gateway's transactions have no results");
    struct perf_cluster_facts f[NODES];
    for (;;) {
        settle();
        for (uint32_t i = 0; i < NODES; i++)
            perf_cluster_facts(cluster, i, &f[i]);
        if (f[0].exec_seq == f[1].exec_seq && f[0].exec_seq == f[2].exec_seq)
            break;
        if (perf_clock_ns() > end_ns)
            fail("the nodes do not reach the same epoch");
    }
    for (uint32_t i = 1; i < NODES; i++)
        if (memcmp(&f[i].result_hash, &f[0].result_hash, sizeof f[i].result_hash) ||
            f[i].transactions_executed != f[0].transactions_executed)
            fail("the nodes do not agree");
    if (f[0].transactions_executed < CALLS + sent / 1000)
        fail("nothing that the guest sent was executed: the run reached less than it should");
    printf("executed %" PRIu64 " transactions in %" PRIu64 " epochs, the same on all nodes\n",
           f[0].transactions_executed, f[0].exec_seq);
}

int main(int argc, char **argv) {
    uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 10000000;
    mutator.random = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    char error[NET_TEXT_BYTES];
    struct perf_cluster_config config = {.node_count = NODES,
                                         .gateway_count = 1,
                                         .guest_count = 1,
                                         .parts_max = 1024,
                                         .transaction_max_bytes = 4096,
                                         .done = on_done};
    cluster = perf_cluster_open(&config, error);
    if (!cluster)
        fail(error);
    guest = net_endpoint(perf_cluster_net(cluster, GUEST), WIRE_STAGE_INGRESS);
    uint64_t end_ns = perf_clock_ns() + UINT64_C(10000000000);
    while (!perf_cluster_ready(cluster, perf_clock_ns() / 1000)) {
        pass();
        if (perf_clock_ns() > end_ns)
            fail("no leader");
    }
    for (uint8_t stage = 0; stage < WIRE_STAGE_COUNT; stage++)
        targets[stage] = (struct mutate_endpoint){.stage = stage,
                                                  .session = 1000003u + stage,
                                                  .owner = OWNER,
                                                  .range = RANGE,
                                                  .configuration_id = CONFIGURATION};
    introduce();
    settle();
    struct perf_cluster_facts before;
    perf_cluster_facts(cluster, 0, &before);
    uint64_t began_ns = perf_clock_ns();
    blast(count / 10 * 9, false);
    check_counted(&before);
    check_alive();
    blast(count - count / 10 * 9, true);
    calls_done = 0;
    check_alive();
    printf("%" PRIu64 " packets, %" PRIu64 " good frames in them, %.1f s\n", sent, frames_good,
           (double)(perf_clock_ns() - began_ns) / 1e9);
    perf_cluster_close(cluster);
    return 0;
}
