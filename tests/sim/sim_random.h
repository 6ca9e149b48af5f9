/* sim_random: the simulator's only source of chance, seeded by (seed, stream). Streams keep the
 * classes of faults apart: leaving one out does not move the draws of another.
 *
 * xoshiro256** (Blackman, Vigna 2018), seeded by splitmix64 (Steele, Lea, Flood 2014). Integers
 * only, so a seed means the same run on every machine. */
#ifndef MAROON_SIM_RANDOM_H
#define MAROON_SIM_RANDOM_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

struct sim_random {
    uint64_t state[4];
};

static inline uint64_t sim_random_mix(uint64_t x) {
    x ^= x >> 30;
    x *= UINT64_C(0xbf58476d1ce4e5b9);
    x ^= x >> 27;
    x *= UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

static inline void sim_random_seed(struct sim_random *random, uint64_t seed, uint64_t stream) {
    uint64_t x = sim_random_mix(seed + UINT64_C(0x9e3779b97f4a7c15)) ^ sim_random_mix(~stream);
    for (int i = 0; i < 4; i++) {
        x += UINT64_C(0x9e3779b97f4a7c15);
        random->state[i] = sim_random_mix(x);
    }
}

static inline uint64_t sim_random_next(struct sim_random *random) {
    uint64_t *s = random->state;
    uint64_t m = s[1] * 5, result = (m << 7 | m >> 57) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = s[3] << 45 | s[3] >> 19;
    return result;
}

/* 0 .. bound-1. */
static inline uint64_t sim_random_below(struct sim_random *random, uint64_t bound) {
    assert(bound > 0);
    return (uint64_t)((unsigned __int128)sim_random_next(random) * bound >> 64);
}

/* low .. high, both included. */
static inline uint64_t sim_random_between(struct sim_random *random, uint64_t low, uint64_t high) {
    return low + sim_random_below(random, high - low + 1);
}

static inline uint32_t sim_random_u32(struct sim_random *random, uint32_t low, uint32_t high) {
    return (uint32_t)sim_random_between(random, low, high);
}

static inline bool sim_random_chance(struct sim_random *random, uint32_t per_million) {
    return sim_random_below(random, 1000000) < per_million;
}

/* Near to exponential with this mean: the bits before the first 1 count the halvings, the rest
 * interpolates. At least 1, at most about 40 times the mean. */
static inline uint64_t sim_random_exponential(struct sim_random *random, uint64_t mean) {
    uint64_t x = sim_random_next(random) | 1;
    uint64_t halvings = (uint64_t)__builtin_clzll(x);
    uint64_t rest = 1023 - (x << halvings >> 53 & 1023); /* of 1024 */
    uint64_t thousandths = (halvings * 1024 + rest) * 693 / 1024;
    return mean * thousandths / 1000 + 1;
}

#endif
