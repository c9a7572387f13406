/* half.h - 16-bit floats: bf16 and fp16 to float32 and back, and reading any stored weight.
 *
 * Widening is exact. Narrowing rounds to nearest, ties to even, overflows to infinity, keeps the
 * sign of zero and turns every NaN into a quiet one; the same bits as VCVTPH2PS, VCVTPS2PH and
 * VCVTNEPS2BF16 (but that the last flushes denormals, which these functions keep). */
#ifndef MLL_HALF_H
#define MLL_HALF_H

#ifndef __CUDACC_RTC__
#include <string.h>

#include "base.h"
#endif

MLL_HD static inline float f32_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

MLL_HD static inline uint32_t f32_to_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

MLL_HD static inline float bf16_to_f32(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

MLL_HD static inline uint16_t bf16_from_f32(float x)
{
    uint32_t bits = f32_to_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

MLL_HD static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t rest = h & 0x7fffu;
    if (rest > 0x7c00u)
        return f32_from_bits(sign | 0x7fc00000u | rest << 13);
    if (rest == 0x7c00u)
        return f32_from_bits(sign | 0x7f800000u);
    if (rest >= 0x400u)
        return f32_from_bits(sign | ((rest << 13) + (112u << 23)));
    /* zero and denormals: the integer times 2^-24 is exact */
    return f32_from_bits(sign | f32_to_bits((float)rest * 0x1p-24f));
}

MLL_HD static inline uint16_t f16_from_f32(float x)
{
    uint32_t bits = f32_to_bits(x);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (rest >> 13 & 0x3ffu));
    if (rest >= 0x477ff000u) /* 65520, halfway to the first value out of range */
        return (uint16_t)(sign | 0x7c00u);
    if (rest >= 0x38800000u) /* 2^-14, the smallest normal */
        return (uint16_t)(sign | ((rest + 0xfffu + (rest >> 13 & 1u) - (112u << 23)) >> 13));
    /* below: adding 0.5 puts the unit 2^-24 at the last bit, and rounds there */
    return (uint16_t)(sign | (f32_to_bits(f32_from_bits(rest) + 0.5f) - 0x3f000000u));
}

#ifndef __CUDACC_RTC__
/* Element i of stored weights of dtype F32, F16 or BF16, at any alignment. */
MLL_HD static inline float weight_at(const void *data, enum mll_dtype dtype, size_t i)
{
    const unsigned char *bytes = (const unsigned char *)data;
    uint16_t h;
    float x;
    if (dtype == MLL_DTYPE_F32) {
        memcpy(&x, bytes + 4 * i, sizeof x);
        return x;
    }
    memcpy(&h, bytes + 2 * i, sizeof h);
    return dtype == MLL_DTYPE_BF16 ? bf16_to_f32(h) : f16_to_f32(h);
}
#endif

#endif
