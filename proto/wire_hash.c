#include "proto/wire_hash.h"

#include <string.h>
#if defined(__SSE4_2__)
#    include <nmmintrin.h>
#endif

/* ---- SipHash-2-4 with 128-bit result, streaming (Aumasson and Bernstein 2012, and its 128-bit
 * variant) ---- */

struct sip {
    uint64_t v0, v1, v2, v3;
};

static inline uint64_t rotate(uint64_t x, unsigned bits) {
    return x << bits | x >> (64 - bits);
}

static inline void sip_round(struct sip *s) {
    s->v0 += s->v1;
    s->v1 = rotate(s->v1, 13) ^ s->v0;
    s->v0 = rotate(s->v0, 32);
    s->v2 += s->v3;
    s->v3 = rotate(s->v3, 16) ^ s->v2;
    s->v0 += s->v3;
    s->v3 = rotate(s->v3, 21) ^ s->v0;
    s->v2 += s->v1;
    s->v1 = rotate(s->v1, 17) ^ s->v2;
    s->v2 = rotate(s->v2, 32);
}

static inline void sip_word(struct sip *s, uint64_t word) {
    s->v3 ^= word;
    sip_round(s);
    sip_round(s);
    s->v0 ^= word;
}

static inline uint64_t load64(const void *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

struct wire_digest wire_hash_body(const struct wire_digest_key *key, uint64_t id, const void *bytes,
                                  size_t length_bytes) {
    uint64_t k0 = load64(key->bytes), k1 = load64(key->bytes + 8);
    struct sip s = {UINT64_C(0x736f6d6570736575) ^ k0, (UINT64_C(0x646f72616e646f6d) ^ k1) ^ 0xee,
                    UINT64_C(0x6c7967656e657261) ^ k0, UINT64_C(0x7465646279746573) ^ k1};
    sip_word(&s, id);
    sip_word(&s, length_bytes);
    const uint8_t *at = bytes;
    size_t left = length_bytes;
    for (; left >= 8; left -= 8, at += 8)
        sip_word(&s, load64(at));
    uint64_t last = (uint64_t)(length_bytes + 16) << 56;
    for (size_t i = 0; i < left; i++)
        last |= (uint64_t)at[i] << (8 * i);
    sip_word(&s, last);
    struct wire_digest digest;
    s.v2 ^= 0xee;
    for (int i = 0; i < 4; i++)
        sip_round(&s);
    digest.low = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    s.v1 ^= 0xdd;
    for (int i = 0; i < 4; i++)
        sip_round(&s);
    digest.high = s.v0 ^ s.v1 ^ s.v2 ^ s.v3;
    return digest;
}

/* ---- packet sum: CRC32C (polynomial 0x1edc6f41, reflected), even 8-byte words in one lane, odd
 * ones in the other ---- */

#if defined(__SSE4_2__)
static inline uint32_t crc_word(uint32_t crc, uint64_t word) {
    return (uint32_t)_mm_crc32_u64(crc, word);
}
#else
static inline uint32_t crc_word(uint32_t crc,
                                uint64_t word) { /* bit by bit: only where no instruction exists */
    for (int i = 0; i < 8; i++) {
        crc ^= (uint32_t)(word >> (8 * i)) & 0xff;
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0x82f63b78u & (0u - (crc & 1)));
    }
    return crc;
}
#endif

uint64_t wire_hash_packet(uint64_t seed, const void *bytes, size_t length_bytes) {
    uint32_t even = crc_word(UINT32_MAX, seed),
             odd = crc_word(UINT32_MAX, ~(seed << 32 | seed >> 32));
    const uint8_t *at = bytes;
    size_t left = length_bytes;
    for (; left >= 16; left -= 16, at += 16) {
        even = crc_word(even, load64(at));
        odd = crc_word(odd, load64(at + 8));
    }
    uint8_t tail[16] = {0};
    if (left)
        memcpy(tail, at, left);
    even = crc_word(crc_word(even, load64(tail)), length_bytes);
    odd = crc_word(crc_word(odd, load64(tail + 8)), length_bytes);
    return (uint64_t)odd << 32 | even;
}
