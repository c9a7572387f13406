/* hash64.h - the hash that golden tables store: h = h * P + byte + 1, modulo 2^64. Not for secrets;
 * chosen because Python can compute it fast and exactly too (tests/golden/make_images.py). */
#ifndef MLL_TESTS_HASH64_H
#define MLL_TESTS_HASH64_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t hash64(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    uint64_t h = 0;
    for (size_t i = 0; i < size; i++)
        h = h * 0x100000001b3u + bytes[i] + 1;
    return h;
}

#endif
