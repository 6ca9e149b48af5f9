/* Hashes of maroon, pure and behind one name: nobody else includes a hash library.
 *
 *   body digest   h = SipHash-2-4-128(digest key, id, length, bytes); digests are summed modulo
 * 2^128, so the digest of an interval is one subtraction (protocol.md §3; SipHash: Aumasson and
 * Bernstein, 2012) epoch hash    BLAKE2b-256 (RFC 7693) of the epoch's canonical bytes packet sum
 * two CRC32C lanes (RFC 3720 appendix B.4), seeded
 *
 * Any thread may call; nothing is kept; no call fails. */
#ifndef MAROON_WIRE_HASH_H
#define MAROON_WIRE_HASH_H

#include <stddef.h>
#include <stdint.h>

struct wire_digest {
    uint64_t low, high; /* a number modulo 2^128 */
};

struct wire_digest_key {
    uint8_t bytes[16];
};

struct wire_hash {
    uint8_t bytes[32];
};

/* SipHash-2-4 with 128-bit result over (id, length, bytes). */
struct wire_digest wire_hash_body(const struct wire_digest_key *key, uint64_t id, const void *bytes,
                                  size_t length_bytes);

/* BLAKE2b-256 without key. */
struct wire_hash wire_hash_blake2b(const void *bytes, size_t length_bytes);

/* BLAKE2b-256 of `first` followed by `second`; either may be empty. */
struct wire_hash wire_hash_blake2b_pair(const void *first, size_t first_bytes, const void *second,
                                        size_t second_bytes);

/* BLAKE2b-256 of each of `count` inputs of one length: faster than one by one where the length is a
 * multiple of 128. */
void wire_hash_blake2b_many(const void *const *inputs, size_t length_bytes, uint32_t count,
                            struct wire_hash *ret_hashes);

/* Packet checksum: two CRC32C lanes over the 16-byte halves of the stream, seeded by `seed`. */
uint64_t wire_hash_packet(uint64_t seed, const void *bytes, size_t length_bytes);

static inline struct wire_digest wire_digest_add(struct wire_digest a, struct wire_digest b) {
    struct wire_digest sum = {a.low + b.low, a.high + b.high};
    sum.high += sum.low < a.low;
    return sum;
}

static inline struct wire_digest wire_digest_subtract(struct wire_digest a, struct wire_digest b) {
    struct wire_digest difference = {a.low - b.low, a.high - b.high};
    difference.high -= a.low < b.low;
    return difference;
}

static inline int wire_digest_equal(struct wire_digest a, struct wire_digest b) {
    return a.low == b.low && a.high == b.high;
}

#endif
