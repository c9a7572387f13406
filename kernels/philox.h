/* philox.h - Philox4x32-10, a counter-based random function (Salmon et al., "Parallel random
 * numbers: as easy as 1, 2, 3", 2011): ten rounds that scramble a 128-bit counter under a 64-bit
 * key. There is no state, so that draw number n of a seed is the same in any order, batch or
 * process. */
#ifndef MLL_PHILOX_H
#define MLL_PHILOX_H

#ifndef __CUDACC_RTC__
#include "base.h"
#endif

struct philox_block {
    uint32_t word[4];
};

MLL_HD static inline struct philox_block philox_round(struct philox_block c, uint32_t k0,
                                                      uint32_t k1)
{
    uint64_t a = (uint64_t)0xd2511f53u * c.word[0], b = (uint64_t)0xcd9e8d57u * c.word[2];
    struct philox_block out = {{(uint32_t)(b >> 32) ^ c.word[1] ^ k0, (uint32_t)b,
                                (uint32_t)(a >> 32) ^ c.word[3] ^ k1, (uint32_t)a}};
    return out;
}

MLL_HD static inline struct philox_block philox4x32(struct philox_block counter, uint64_t key)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        counter = philox_round(counter, k0, k1);
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return counter;
}

/* 53 uniform bits: of the block at counter (position low, position high, 0, 0) under the seed, the
 * upper bits of word 0 and then of word 1. */
MLL_HD static inline uint64_t philox_bits(uint64_t seed, uint64_t position)
{
    struct philox_block c = {{(uint32_t)position, (uint32_t)(position >> 32), 0, 0}};
    c = philox4x32(c, seed);
    return ((uint64_t)c.word[0] << 32 | c.word[1]) >> 11;
}

#endif
