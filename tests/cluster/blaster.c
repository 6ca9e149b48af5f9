/* cluster-blaster: mutated packets at the three ports of a node, for a bounded time.
 *
 * It says HELLO as a gateway on each port. When the node answers, it knows a session and the
 * configuration id, so mutated frames can come with a right checksum and reach the checks behind
 * it (tests/fuzz/mutate.h says how packets are spoilt).
 *
 * Result: one line of JSON on stdout. */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "tests/fuzz/mutate.h"

#define PAUSE_PACKETS 32 /* after so many a short sleep, so that the node's host lives on */
#define OWNER UINT64_C(0xb1a57e4)

struct endpoint {
    int socket;
    struct mutate_endpoint to;
};

static struct mutator mutator = {1};
static uint64_t sent, failed, answers, sessions;

static uint64_t now_ms(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void emit(const struct endpoint *e, const void *packet, size_t length) {
    if (send(e->socket, packet, length, 0) == (ssize_t)length)
        sent++;
    else
        failed++; /* ICMP of an earlier one, full queue: not the subject here */
}

static void blast_one(struct endpoint *e) {
    uint8_t packet[WIRE_PACKET_MAX_BYTES];
    emit(e, packet, mutate_packet(&mutator, &e->to, true, packet));
}

/* Takes what the node says; remembers the configuration id of its HELLO. */
static void listen_to(struct endpoint *e) {
    uint8_t packet[2048];
    ssize_t got;
    while ((got = recv(e->socket, packet, sizeof packet, MSG_DONTWAIT)) > 0) {
        struct wire_packet_header header;
        struct wire_cursor cursor;
        struct wire_frame frame;
        enum wire_drop drop;
        answers++;
        if (wire_packet_open(packet, (size_t)got, e->to.configuration_id, &header, &cursor) !=
                WIRE_DROP_NONE ||
            header.session != 0)
            continue;
        int more;
        while ((more = wire_frame_next(&cursor, &frame, &drop)) != 0) {
            if (more < 0 || frame.kind != WIRE_HELLO)
                continue;
            const struct wire_hello *hello_frame = (const struct wire_hello *)frame.payload;
            sessions += e->to.configuration_id == 0;
            e->to.configuration_id = hello_frame->configuration_id;
        }
    }
}

static void introduce(struct endpoint *e) {
    uint8_t packet[WIRE_PACKET_MAX_BYTES];
    emit(e, packet, mutate_hello(&e->to, packet));
    for (int i = 0; i < 20 && e->to.configuration_id == 0; i++) {
        usleep(10000);
        listen_to(e);
    }
}

int main(int argc, char *argv[]) {
    static const struct option known[] = {{"address", 1, NULL, 'a'},
                                          {"port", 1, NULL, 'p'},
                                          {"seconds", 1, NULL, 's'},
                                          {"seed", 1, NULL, 'r'},
                                          {NULL, 0, NULL, 0}};
    struct sockaddr_in address = {.sin_family = AF_INET};
    struct endpoint endpoints[WIRE_STAGE_COUNT];
    unsigned long port = 3000, seconds = 10;
    int key;
    while ((key = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (key) {
        case 'a':
            if (inet_pton(AF_INET, optarg, &address.sin_addr) != 1)
                return 2;
            break;
        case 'p': port = strtoul(optarg, NULL, 10); break;
        case 's': seconds = strtoul(optarg, NULL, 10); break;
        case 'r': mutator.random = strtoul(optarg, NULL, 10); break;
        default: return 2;
        }
    }
    if (address.sin_addr.s_addr == 0) {
        fprintf(stderr,
                "usage: cluster-blaster --address A.B.C.D [--port P] [--seconds S] [--seed N]\n");
        return 2;
    }
    for (uint8_t stage = 0; stage < WIRE_STAGE_COUNT; stage++) {
        struct endpoint *e = &endpoints[stage];
        *e = (struct endpoint){.to = {.stage = stage,
                                      .session = (uint32_t)mutate_random(&mutator) | 1,
                                      .owner = OWNER,
                                      .range = WIRE_RANGE_NONE}};
        e->socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        address.sin_port = htons((uint16_t)(port + stage * WIRE_STAGE_PORT_STEP));
        if (e->socket < 0 || connect(e->socket, (struct sockaddr *)&address, sizeof address) != 0) {
            perror("blaster: socket");
            return 2;
        }
        introduce(e);
    }
    uint64_t end = now_ms() + seconds * 1000;
    for (uint64_t round = 0; now_ms() < end; round++) {
        for (uint32_t i = 0; i < PAUSE_PACKETS; i++)
            blast_one(&endpoints[mutate_random(&mutator) % WIRE_STAGE_COUNT]);
        for (uint8_t stage = 0; stage < WIRE_STAGE_COUNT; stage++)
            listen_to(&endpoints[stage]);
        if (round % 256 == 0) /* mutated HELLOs may have taken its place */
            for (uint8_t stage = 0; stage < WIRE_STAGE_COUNT; stage++)
                introduce(&endpoints[stage]);
        usleep(1000);
    }
    for (uint8_t stage = 0; stage < WIRE_STAGE_COUNT; stage++)
        close(endpoints[stage].socket);
    printf("{\"sent\": %" PRIu64 ", \"failed\": %" PRIu64 ", \"answers\": %" PRIu64
           ", \"sessions\": %" PRIu64 "}\n",
           sent, failed, answers, sessions);
    return 0;
}
