/* mutate: packets that are valid at first (built by proto/wire.h) and then spoilt in one of these
 * ways:
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
 * Pure, and the same for the same seed. Threads: one for each struct mutator. */
#ifndef MAROON_TESTS_MUTATE_H
#define MAROON_TESTS_MUTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/wire.h"

enum mutation { NOISE, FLIP, CUT, FIELD, LENGTH, KIND, SESSION, VERSION, MUTATION_COUNT };

struct mutator {
    uint64_t random; /* the seed at first */
};

struct mutate_endpoint { /* of the node that is aimed at */
    uint8_t stage;
    uint32_t session;          /* ours */
    uint64_t owner;            /* ours as a gateway */
    uint64_t range;            /* that we hold, or WIRE_RANGE_NONE */
    uint32_t offset;           /* in it, of the next body */
    uint64_t packet_number;    /* last used */
    uint64_t configuration_id; /* the node's; 0: not known, then only HELLO makes sense */
};

uint64_t mutate_random(struct mutator *mutator);

/* A HELLO as a gateway. Each writes a packet (room: WIRE_PACKET_MAX_BYTES) and returns its length.
 */
uint32_t mutate_hello(struct mutate_endpoint *endpoint, uint8_t *packet);

/* A mutated one. `hellos`: also HELLOs whose fields are random, which may take our session's place.
 */
uint32_t mutate_packet(struct mutator *mutator, struct mutate_endpoint *endpoint, bool hellos,
                       uint8_t *packet);

#endif
