/* quant.h - one element of a weight of any dtype, widened to float32: the reference of every fast
 * form.  Formulas: struct mat and struct mat_blocks in ops.h.  Bits: those of bitsandbytes' generic
 * dequantize_4bit and int8_vectorwise_dequant (backends/default/ops.py), given a compiler that does
 * not contract a product and a sum. */
#ifndef MLL_QUANT_H
#define MLL_QUANT_H

#include "half.h"
#include "ops.h"

MLL_HD static inline bool quant_is_coded(enum mll_dtype dtype)
{
    return dtype == MLL_DTYPE_Q4 || dtype == MLL_DTYPE_I8;
}

/* Element i of a Q4 weight's codes, 0 to 15. */
MLL_HD static inline int quant_code(const void *data, size_t i)
{
    uint8_t pair = ((const uint8_t *)data)[i / 2];
    return i % 2 == 0 ? pair >> 4 : pair & 15;
}

/* x rounded to dtype F16 or BF16 and widened again; any other leaves it as it is. */
MLL_HD static inline float quant_round(float x, enum mll_dtype dtype)
{
    if (dtype == MLL_DTYPE_BF16)
        return bf16_to_f32(bf16_from_f32(x));
    return dtype == MLL_DTYPE_F16 ? f16_to_f32(f16_from_f32(x)) : x;
}

/* The absmax of block i. */
MLL_HD static inline float quant_absmax(const struct mat_blocks *b, size_t i)
{
    if (b->absmax != NULL)
        return b->absmax[i];
    float scaled = b->nested_map[b->codes[i]] * b->nested_absmax[i / MLL_NESTED_BLOCK];
    return scaled + b->nested_offset;
}

/* Element i of m in row-major order as a dot product takes it: before the row's scale. */
MLL_HD static inline float quant_unscaled(const struct mat *m, size_t i)
{
    if (m->dtype == MLL_DTYPE_I8)
        return (float)((const int8_t *)m->data)[i];
    if (m->dtype == MLL_DTYPE_Q4)
        return quant_round(m->blocks->values[quant_code(m->data, i)] *
                               quant_absmax(m->blocks, i / (size_t)m->blocks->block),
                           m->blocks->rounded);
    return weight_at(m->data, m->dtype, i);
}

/* x, a dot product with row `row` of m or an element of it, times the row's scale. */
MLL_HD static inline float quant_scale(const struct mat *m, size_t row, float x)
{
    if (m->scale == NULL)
        return x;
    x *= m->scale[row];
    return m->dtype == MLL_DTYPE_I8 ? x * MLL_INT8_STEP : x;
}

/* Element i of m in row-major order. */
MLL_HD static inline float quant_at(const struct mat *m, size_t i)
{
    return quant_scale(m, i / (size_t)m->cols, quant_unscaled(m, i));
}

#endif
