/* cluster-blaster: mutated packets at the three ports of a node, for a bounded time.
 *
 * It says HELLO as a gateway on each port. When the node answers, it knows a session and the
 * configuration id, so mutated frames can come with a right checksum and reach the checks behind
 * it. Each packet is valid at first (built by proto/wire.h) and then spoilt in one of these ways:
 *
 *   NOISE      random bytes of random length
 *   FLIP       some bits flipped, checksum as before
 *   CUT        shortened
 *   FIELD      frames with random payload of the right length, checksum right
 *   LENGTH     a frame header that lies about its length, checksum right
 *   KIND       an unknown frame kind, checksum right
 *   SESSION    an unknown session, checksum right
 *   VERSION    another version or magic
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

#include "proto/wire.h"

#define PAUSE_PACKETS 32 /* after so many a short sleep, so that the node's host lives on */
#define OWNER UINT64_C(0xb1a57e4)

enum mutation { NOISE, FLIP, CUT, FIELD, LENGTH, KIND, SESSION, VERSION, MUTATION_COUNT };

struct endpoint {
    int socket;
    uint8_t stage;
    uint32_t session;          /* ours */
    uint64_t packet_number;    /* last used */
    uint64_t configuration_id; /* of the node's HELLO; 0: not heard */
};

static uint64_t random_state = 1;
static uint64_t sent, failed, answers, sessions;

static uint64_t random_next(void) { /* splitmix64 (Steele, Lea, Flood, 2014) */
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static void fill(void *bytes, size_t length) {
    uint8_t *at = bytes;
    for (size_t i = 0; i < length; i++)
        at[i] = (uint8_t)random_next();
}

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

static uint32_t hello(struct endpoint *e, uint8_t *packet) {
    struct wire_writer writer;
    wire_writer_begin(&writer, packet, WIRE_PACKET_MAX_BYTES, e->stage, 0);
    struct wire_hello *frame =
        wire_writer_frame(&writer, WIRE_HELLO, WIRE_HELLO_WANT_REPLY, sizeof *frame);
    *frame = (struct wire_hello){.session = e->session,
                                 .role = WIRE_ROLE_GATEWAY,
                                 .incarnation = OWNER,
                                 .process_token = OWNER,
                                 .configuration_id = e->configuration_id,
                                 .ranges = {WIRE_RANGE_NONE, WIRE_RANGE_NONE}};
    return wire_writer_end(&writer, ++e->packet_number, 0);
}

/* Payload lengths of frames without a variable part, and a valid start of those with one. */
static uint32_t payload_bytes(enum wire_kind kind) {
    switch (kind) {
    case WIRE_HELLO: return sizeof(struct wire_hello);
    case WIRE_TX:
        return (uint32_t)(sizeof(struct wire_tx) + sizeof(struct wire_body_header) +
                          random_next() % 1000);
    case WIRE_BODY:
        return (uint32_t)(sizeof(struct wire_body) + sizeof(struct wire_body_header) +
                          random_next() % 1000);
    case WIRE_VECTOR:
        return (uint32_t)(sizeof(struct wire_vector) +
                          random_next() % 8 * sizeof(struct wire_vector_entry));
    case WIRE_FETCH: return sizeof(struct wire_fetch);
    case WIRE_GONE: return sizeof(struct wire_gone);
    case WIRE_NOT_YET: return sizeof(struct wire_not_yet);
    case WIRE_PREPARE: return sizeof(struct wire_prepare);
    case WIRE_PROMISE: return sizeof(struct wire_promise);
    case WIRE_PROPOSE:
        return (uint32_t)sizeof(struct wire_propose) +
               wire_epoch_bytes((uint32_t)(random_next() % 4), (uint32_t)(random_next() % 8));
    case WIRE_ACK: return sizeof(struct wire_ack);
    case WIRE_HEARTBEAT: return sizeof(struct wire_heartbeat);
    case WIRE_EPOCH_FETCH: return sizeof(struct wire_epoch_fetch);
    case WIRE_EPOCH:
        return (uint32_t)sizeof(struct wire_epoch_answer) +
               wire_epoch_bytes((uint32_t)(random_next() % 4), (uint32_t)(random_next() % 8));
    case WIRE_EPOCH_GONE: return sizeof(struct wire_epoch_gone);
    case WIRE_HANDOVER: return sizeof(struct wire_handover);
    case WIRE_RECOVER: return sizeof(struct wire_recover);
    case WIRE_RECOVERED: return sizeof(struct wire_recovered);
    case WIRE_RESULT: return (uint32_t)(sizeof(struct wire_result) + random_next() % 100);
    case WIRE_SEALED: return sizeof(struct wire_sealed);
    case WIRE_NOT_OWNER: return sizeof(struct wire_not_owner);
    case WIRE_TX_QUERY: return sizeof(struct wire_tx_query);
    case WIRE_TX_STATE: return sizeof(struct wire_tx_state);
    case WIRE_RANGE_REQUEST: return sizeof(struct wire_range_request);
    case WIRE_RANGE_GRANT: return sizeof(struct wire_range_grant);
    case WIRE_RANGE_RENEW: return sizeof(struct wire_range_renew);
    case WIRE_RANGE_CLOSE: return sizeof(struct wire_range_close);
    case WIRE_PING: return sizeof(struct wire_ping);
    case WIRE_PONG: return sizeof(struct wire_pong);
    }
    return 8;
}

static const enum wire_kind kinds[] = {
#define WIRE_FRAME(name, value, sentence) WIRE_##name,
#include "proto/wire_frames.def"
#undef WIRE_FRAME
};

/* Half of the numbers are small: those reach further than random 64-bit ones. */
static void fill_fields(uint8_t *payload, uint32_t length) {
    fill(payload, length);
    if ((random_next() & 1) == 0)
        for (uint32_t i = 0; i < length; i++)
            if (i % 8 != 0)
                payload[i] = 0;
}

/* A packet of random frames that are valid in kind and length. Asking for a range is left out of
 * it: a grant would be real work, and this is about refusals. */
static uint32_t frames(struct endpoint *e, uint8_t *packet, uint32_t session) {
    struct wire_writer writer;
    wire_writer_begin(&writer, packet, WIRE_PACKET_MAX_BYTES, e->stage, session);
    uint32_t count = 1 + (uint32_t)(random_next() % 4);
    for (uint32_t i = 0; i < count; i++) {
        enum wire_kind kind = kinds[random_next() % (sizeof kinds / sizeof kinds[0])];
        if (kind == WIRE_RANGE_REQUEST || (kind == WIRE_HELLO && session != 0))
            kind = WIRE_TX;
        if (session == 0)
            kind = WIRE_HELLO;
        uint32_t length = payload_bytes(kind);
        uint8_t *payload = wire_writer_frame(&writer, kind, (uint8_t)random_next(), length);
        if (payload == NULL)
            break;
        fill_fields(payload, length);
    }
    return wire_writer_end(&writer, ++e->packet_number, e->configuration_id);
}

/* One frame whose header is then changed, with a checksum that is right afterwards. */
static uint32_t spoilt_frame(struct endpoint *e, uint8_t *packet, bool kind) {
    struct wire_writer writer;
    wire_writer_begin(&writer, packet, WIRE_PACKET_MAX_BYTES, e->stage, e->session);
    uint8_t *payload = wire_writer_frame(&writer, WIRE_PING, 0, sizeof(struct wire_ping));
    fill(payload, sizeof(struct wire_ping));
    struct wire_frame_header *header = (struct wire_frame_header *)(payload - sizeof *header);
    if (kind)
        header->kind = (uint8_t)(100 + random_next() % 100);
    else
        header->length_bytes = (uint16_t)(random_next() % 2000);
    return wire_writer_end(&writer, ++e->packet_number, e->configuration_id);
}

static void blast_one(struct endpoint *e) {
    uint8_t packet[WIRE_PACKET_MAX_BYTES];
    enum mutation mutation = (enum mutation)(random_next() % MUTATION_COUNT);
    uint32_t session = random_next() % 8 == 0 || e->configuration_id == 0 ? 0 : e->session;
    uint32_t length = 0;
    switch (mutation) {
    case NOISE:
        length = (uint32_t)(random_next() % WIRE_PACKET_MAX_BYTES);
        fill(packet, length);
        break;
    case FLIP:
        length = frames(e, packet, session);
        for (uint64_t flips = 1 + random_next() % 4; flips > 0; flips--)
            packet[random_next() % length] ^= (uint8_t)(1u << random_next() % 8);
        break;
    case CUT: length = (uint32_t)(random_next() % frames(e, packet, session)); break;
    case FIELD: length = frames(e, packet, session); break;
    case LENGTH: length = spoilt_frame(e, packet, false); break;
    case KIND: length = spoilt_frame(e, packet, true); break;
    case SESSION: length = frames(e, packet, (uint32_t)random_next() | 1); break;
    case VERSION:
        length = frames(e, packet, session);
        packet[random_next() % 3] ^= (uint8_t)(1 + random_next() % 255);
        break;
    case MUTATION_COUNT: break;
    }
    emit(e, packet, length);
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
        if (wire_packet_open(packet, (size_t)got, e->configuration_id, &header, &cursor) !=
                WIRE_DROP_NONE ||
            header.session != 0)
            continue;
        int more;
        while ((more = wire_frame_next(&cursor, &frame, &drop)) != 0) {
            if (more < 0 || frame.kind != WIRE_HELLO)
                continue;
            const struct wire_hello *hello_frame = (const struct wire_hello *)frame.payload;
            sessions += e->configuration_id == 0;
            e->configuration_id = hello_frame->configuration_id;
        }
    }
}

static void introduce(struct endpoint *e) {
    uint8_t packet[WIRE_PACKET_MAX_BYTES];
    emit(e, packet, hello(e, packet));
    for (int i = 0; i < 20 && e->configuration_id == 0; i++) {
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
        case 'r': random_state = strtoul(optarg, NULL, 10); break;
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
        *e = (struct endpoint){.stage = stage, .session = (uint32_t)random_next() | 1};
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
            blast_one(&endpoints[random_next() % WIRE_STAGE_COUNT]);
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
