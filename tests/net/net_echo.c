/* net_echo: packets to and fro over one fabric, every byte checked.
 *
 *   net_echo server --fabric F [...]                    sends back what comes, until SIGTERM
 *   net_echo client --fabric F --peer A.B.C.D:PORT ...  sends --count packets of changing length,
 * some under way at once net_echo ring                                       both in one process,
 * over a ring, on one thread
 *
 * The client's first line: "begun", once a packet is back; its last: "echoed=N lost=N wrong=N
 * rtt_p50_ns=N rss_kib=N" and the drops by reason. Lost packets are sent again; a packet with other
 * bytes than were sent is wrong, and ends it with status 1. */
#include <arpa/inet.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "dataplane/net/net.h"
#include <maroon/error.h>

#define UNDER_WAY 8
#define LOST_US 200000
#define SAMPLES 1000000

static volatile sig_atomic_t ended;

struct options {
    struct net_config net;
    struct net_address peer;
    uint32_t count, seconds_max;
    bool adaptive;
};

struct client {
    struct net_endpoint *endpoint;
    struct net_address peer;
    uint64_t sent_ns[UNDER_WAY];
    uint32_t sequence[UNDER_WAY], next; /* 0: place free */
    uint64_t echoed, lost, wrong;
    uint64_t *rtt_ns;
};

static uint64_t clock_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static uint32_t length_of(uint32_t sequence) {
    return 16 + sequence * 97 % (NET_PAYLOAD_MAX_BYTES - 16 + 1);
}

static uint8_t byte_of(uint32_t sequence, uint32_t at) {
    return (uint8_t)(sequence * 31 + at * 7);
}

static void fill(uint8_t *bytes, uint32_t place, uint32_t sequence) {
    uint32_t length = length_of(sequence);
    memcpy(bytes, &place, 4);
    memcpy(bytes + 4, &sequence, 4);
    for (uint32_t i = 8; i < length; i++)
        bytes[i] = byte_of(sequence, i);
}

static bool right(const struct net_packet *p, uint32_t sequence) {
    if (p->length_bytes != length_of(sequence))
        return false;
    for (uint32_t i = 8; i < p->length_bytes; i++)
        if (p->bytes[i] != byte_of(sequence, i))
            return false;
    return true;
}

/* ---- client ---- */

static void send_one(struct client *c, uint32_t place) {
    struct net_packet p;
    if (!net_packet_alloc(c->endpoint, &p))
        return;
    fill(p.bytes, place, c->sequence[place]);
    p.length_bytes = length_of(c->sequence[place]);
    p.address = c->peer;
    c->sent_ns[place] = clock_ns();
    net_tx(c->endpoint, &p, 1);
}

static void take_one(struct client *c, const struct net_packet *p) {
    uint32_t place, sequence;
    if (p->length_bytes < 8) {
        c->wrong++;
        return;
    }
    memcpy(&place, p->bytes, 4);
    memcpy(&sequence, p->bytes + 4, 4);
    if (place >= UNDER_WAY || sequence != c->sequence[place])
        return; /* late: it was sent again */
    c->wrong +=
        !right(p, sequence) || p->address.ipv4 != c->peer.ipv4 || p->address.port != c->peer.port;
    if (!c->echoed) {
        printf("begun\n");
        fflush(stdout);
    }
    c->rtt_ns[c->echoed++ % SAMPLES] = clock_ns() - c->sent_ns[place];
    c->sequence[place] = 0;
}

static void client_poll(struct client *c, uint32_t count) {
    struct net_packet packets[NET_BURST_COUNT];
    uint64_t now_ns = clock_ns();
    uint32_t got = net_rx(c->endpoint, now_ns / 1000, packets, NET_BURST_COUNT);
    for (uint32_t i = 0; i < got; i++)
        take_one(c, &packets[i]);
    net_packets_free(packets, got);
    for (uint32_t place = 0; place < UNDER_WAY; place++) {
        bool late = c->sequence[place] && now_ns > c->sent_ns[place] + LOST_US * 1000ull;
        c->lost += late;
        if (!c->sequence[place] && c->next < count)
            c->sequence[place] = ++c->next;
        else if (!late)
            continue;
        send_one(c, place);
    }
    net_flush(c->endpoint);
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void report(struct client *c) {
    struct rusage usage;
    struct net_counters counters;
    uint64_t samples = c->echoed < SAMPLES ? c->echoed : SAMPLES;
    getrusage(RUSAGE_SELF, &usage);
    net_endpoint_counters(c->endpoint, &counters);
    qsort(c->rtt_ns, samples, sizeof *c->rtt_ns, compare);
    printf("echoed=%" PRIu64 " lost=%" PRIu64 " wrong=%" PRIu64 " rtt_p50_ns=%" PRIu64
           " rss_kib=%ld tx_full=%" PRIu64,
           c->echoed, c->lost, c->wrong, samples ? c->rtt_ns[samples / 2] : 0, usage.ru_maxrss,
           counters.tx_full);
    for (uint32_t d = 0; d < WIRE_DROP_COUNT; d++)
        if (counters.drops[d])
            printf(" drop_%s=%" PRIu64, wire_drop_label((enum wire_drop)d), counters.drops[d]);
    printf("\n");
    fflush(stdout);
}

static bool client_init(struct client *c, struct net *net, struct net_address peer) {
    *c = (struct client){.endpoint = net_endpoint(net, WIRE_STAGE_INGRESS), .peer = peer};
    c->rtt_ns = malloc(SAMPLES * sizeof *c->rtt_ns);
    return c->rtt_ns;
}

static int finish(struct client *c, uint32_t count) {
    report(c);
    free(c->rtt_ns);
    return c->echoed == count && !c->wrong ? 0 : 1;
}

static int client(struct net *net, const struct options *o) {
    struct client c;
    if (!client_init(&c, net, o->peer))
        return 2;
    uint64_t end_ns = clock_ns() + o->seconds_max * 1000000000ull;
    while (c.echoed < o->count && !c.wrong && clock_ns() < end_ns && !ended)
        client_poll(&c, o->count);
    return finish(&c, o->count);
}

/* ---- server ---- */

static uint32_t server_poll(struct net_endpoint *e) {
    struct net_packet packets[NET_BURST_COUNT];
    uint32_t got = net_rx(e, clock_ns() / 1000, packets, NET_BURST_COUNT);
    for (uint32_t i = 0; i < got; i++) {
        struct net_packet back;
        if (!net_packet_alloc(e, &back))
            continue;
        memcpy(back.bytes, packets[i].bytes, packets[i].length_bytes);
        back.length_bytes = packets[i].length_bytes;
        back.address = packets[i].address;
        net_tx(e, &back, 1);
    }
    net_packets_free(packets, got);
    net_flush(e);
    return got;
}

static int server(struct net *net, const struct options *o) {
    struct net_endpoint *e = net_endpoint(net, WIRE_STAGE_INGRESS);
    uint32_t idle = 0;
    printf("ready\n");
    fflush(stdout);
    while (!ended) {
        idle = server_poll(e) ? 0 : idle + 1;
        if (o->adaptive && idle > 256)
            (void)net_wait(net, 0, 10000, NULL, 0);
    }
    struct net_counters c;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    net_endpoint_counters(e, &c);
    printf("rx=%" PRIu64 " tx=%" PRIu64 " waits=%" PRIu64 " wakes=%" PRIu64 " cpu_ms=%ld",
           c.rx_packets, c.tx_packets, c.waits, c.wakes,
           (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000 +
               (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1000);
    for (uint32_t d = 0; d < WIRE_DROP_COUNT; d++)
        if (c.drops[d])
            printf(" drop_%s=%" PRIu64, wire_drop_label((enum wire_drop)d), c.drops[d]);
    printf("\n");
    return 0;
}

/* ---- both, over a ring ---- */

static int ring(uint32_t count) {
    char text[NET_TEXT_BYTES];
    struct net *nets[2] = {NULL, NULL};
    struct client c;
    for (uint32_t i = 0; i < 2; i++) {
        struct net_config config = {.fabric = NET_FABRIC_RING,
                                    .ipv4 = 0x0a000001 + i,
                                    .port_count = 1,
                                    .endpoint_count = 1,
                                    .eal.memory_mb = 128};
        config.ports[0].peer_ipv4 = 0x0a000002 - i;
        config.ports[0].server = i == 0;
        snprintf(config.ports[0].device, sizeof config.ports[0].device, "link");
        config.endpoints[0] = (struct net_endpoint_config){WIRE_STAGE_INGRESS, 0, 3000};
        if (net_start(&config, &nets[i], text)) {
            fprintf(stderr, "net_echo: %s\n", text);
            return 2;
        }
    }
    struct net_address peer = {.ipv4 = 0x0a000001, .port = 3000};
    if (!client_init(&c, nets[1], peer))
        return 2;
    while (c.echoed < count && !c.wrong) {
        client_poll(&c, count);
        (void)server_poll(net_endpoint(nets[0], WIRE_STAGE_INGRESS));
    }
    int status = finish(&c, count);
    uint32_t held = net_stop(nets[1]) + net_stop(nets[0]);
    printf("held=%u\n", held);
    net_eal_stop();
    return status || held;
}

/* ---- main ---- */

static void on_signal(int number) {
    (void)number;
    ended = 1;
}

static struct net_address address(const char *text) {
    char host[32] = "";
    unsigned port = 0;
    struct in_addr a = {0};
    if (sscanf(text, "%31[0-9.]:%u", host, &port) < 1 || inet_pton(AF_INET, host, &a) != 1) {
        fprintf(stderr, "net_echo: \"%s\" is no address\n", text);
        exit(2);
    }
    return (struct net_address){.ipv4 = ntohl(a.s_addr), .port = (uint16_t)port};
}

static void read_options(int argc, char **argv, struct options *o) {
    static const struct option known[] = {
        {"fabric", 1, NULL, 'f'},  {"device", 1, NULL, 'd'},   {"own", 1, NULL, 'o'},
        {"peer", 1, NULL, 'p'},    {"server", 0, NULL, 's'},   {"count", 1, NULL, 'n'},
        {"prefix", 1, NULL, 'b'},  {"next-hop", 1, NULL, 'g'}, {"port", 1, NULL, 'u'},
        {"seconds", 1, NULL, 't'}, {"adaptive", 0, NULL, 'a'}, {NULL, 0, NULL, 0}};
    struct net_config *c = &o->net;
    int key;
    while ((key = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (key) {
        case 'f':
            if (net_fabric_parse(optarg, &c->fabric))
                exit(2);
            break;
        case 'd':
            c->port_count = 1;
            snprintf(c->ports[0].device, sizeof c->ports[0].device, "%s", optarg);
            break;
        case 'o': c->ipv4 = address(optarg).ipv4; break;
        case 'p': o->peer = address(optarg); break;
        case 's': c->ports[0].server = true; break;
        case 'n': o->count = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'b': c->prefix_bits = (uint8_t)strtoul(optarg, NULL, 10); break;
        case 'g': c->gateway_ipv4 = address(optarg).ipv4; break;
        case 'u': c->endpoints[0].udp_port = (uint16_t)strtoul(optarg, NULL, 10); break;
        case 't': o->seconds_max = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'a': o->adaptive = true; break;
        default: exit(2);
        }
    }
    if (c->fabric != NET_FABRIC_UDP && c->fabric != NET_FABRIC_AF_PACKET)
        c->ports[0].peer_ipv4 = o->peer.ipv4;
}

int main(int argc, char **argv) {
    struct options o = {.count = 1000, .seconds_max = 20};
    char text[NET_TEXT_BYTES];
    struct net *net;
    net_config_default(&o.net, 3000);
    if (argc < 2)
        return 2;
    read_options(argc - 1, argv + 1, &o);
    if (!strcmp(argv[1], "ring"))
        return ring(o.count);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    if (net_start(&o.net, &net, text)) {
        fprintf(stderr, "net_echo: %s\n", text);
        return 2;
    }
    int status = !strcmp(argv[1], "server") ? server(net, &o) : client(net, &o);
    (void)net_stop(net);
    net_eal_stop();
    return status;
}
