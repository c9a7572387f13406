/* kv_scale.h - the scale of a row of narrow KV memory, for the CPU and the GPU.  Rule: ops.h,
 * struct kv_pool. max: the largest finite |x| of the row. */
#ifndef MLL_KV_SCALE_H
#define MLL_KV_SCALE_H

#include "half.h"

/* Of a row of fp16: a power of two. */
MLL_HD static inline float kv_half_scale(float max)
{
    if (max == 0 || (max >= 0x1p-8f && max < 0x1p15f))
        return 1;
    int exponent = (int)(f32_to_bits(max) >> 23) - 14; /* biased; max / 2^e in [2^14, 2^15) */
    return f32_from_bits((uint32_t)(exponent < 127 - 64 ? 127 - 64 : exponent) << 23);
}

/* Of a row of int8: what x is multiplied by; the scale is kv_int8_scale of it. */
MLL_HD static inline float kv_int8_inverse(float max, bool finite)
{
    return finite && max >= 0x1p-64f ? 127 / max : 0;
}

MLL_HD static inline float kv_int8_scale(float max, bool finite)
{
    return !finite ? f32_from_bits(0x7fc00000u) : max >= 0x1p-64f ? max / 127 : 0;
}

#endif
