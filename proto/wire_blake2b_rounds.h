/* wire_blake2b_rounds: what RFC 7693 says of BLAKE2b's compression, for words of any type that
 * adds, shifts and xors: uint64_t (wire_blake2b.c), or a vector of as many inputs
 * (wire_blake2b_many.c). The macros work on locals v0 .. v15 and m[16]. Private to the two.
 */
#ifndef MAROON_WIRE_BLAKE2B_ROUNDS_H
#define MAROON_WIRE_BLAKE2B_ROUNDS_H

#include <stdint.h>

#define BLOCK_BYTES 128
#define HASH_BYTES 32
#define PARAMETERS UINT64_C(0x01010020) /* HASH_BYTES, no key, fan-out and depth 1 */

static const uint64_t start[8] = {UINT64_C(0x6a09e667f3bcc908), UINT64_C(0xbb67ae8584caa73b),
                                  UINT64_C(0x3c6ef372fe94f82b), UINT64_C(0xa54ff53a5f1d36f1),
                                  UINT64_C(0x510e527fade682d1), UINT64_C(0x9b05688c2b3e6c1f),
                                  UINT64_C(0x1f83d9abfb41bd6b), UINT64_C(0x5be0cd19137e2179)};

#define RIGHT(x, bits) ((x) >> (bits) | (x) << (64 - (bits)))

/* The RFC's G on a column or diagonal of v. */
#define MIX(a, b, c, d, x, y)          \
    do {                               \
        v##a += v##b + m[x];           \
        v##d = RIGHT(v##d ^ v##a, 32); \
        v##c += v##d;                  \
        v##b = RIGHT(v##b ^ v##c, 24); \
        v##a += v##b + m[y];           \
        v##d = RIGHT(v##d ^ v##a, 16); \
        v##c += v##d;                  \
        v##b = RIGHT(v##b ^ v##c, 63); \
    } while (0)

/* A round with its row of the RFC's SIGMA. */
#define ROUND(s0, s1, s2, s3, s4, s5, s6, s7, s8, s9, s10, s11, s12, s13, s14, s15) \
    do {                                                                            \
        MIX(0, 4, 8, 12, s0, s1);                                                   \
        MIX(1, 5, 9, 13, s2, s3);                                                   \
        MIX(2, 6, 10, 14, s4, s5);                                                  \
        MIX(3, 7, 11, 15, s6, s7);                                                  \
        MIX(0, 5, 10, 15, s8, s9);                                                  \
        MIX(1, 6, 11, 12, s10, s11);                                                \
        MIX(2, 7, 8, 13, s12, s13);                                                 \
        MIX(3, 4, 9, 14, s14, s15);                                                 \
    } while (0)

/* The twelve rounds on v0 .. v15 with the message m. */
#define ROUNDS()                                                     \
    do {                                                             \
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); \
        ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3); \
        ROUND(11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4); \
        ROUND(7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8); \
        ROUND(9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13); \
        ROUND(2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9); \
        ROUND(12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11); \
        ROUND(13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10); \
        ROUND(6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5); \
        ROUND(10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0); \
        ROUND(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); \
        ROUND(14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3); \
    } while (0)

#endif
