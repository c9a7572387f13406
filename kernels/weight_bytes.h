/* weight_bytes.h - what a weight takes of a GPU's memory: for the loader (load_weights.cu), and for
 * plans made where there is no GPU.
 *
 * A matrix lies as (rows, half_stride(cols)) fp16 and (rows) scales, behind them the largest sum of
 * the magnitudes of a row; everything else as it was, vectors in float32, behind them their largest
 * magnitude: what matmul.cuh bounds products by. Every part begins at a multiple of WEIGHT_ALIGN
 * bytes. Internal to kernels/.
 */
#ifndef MLL_WEIGHT_BYTES_H
#define MLL_WEIGHT_BYTES_H

#include "ops.h"

enum { WEIGHT_ALIGN = 256 };

/* Elements between two half rows: whole 128-byte lines, so that no kernel checks columns. */
static inline int half_stride(int cols)
{
    return (cols + 63) / 64 * 64;
}

static inline size_t weight_aligned(size_t bytes)
{
    return (bytes + WEIGHT_ALIGN - 1) / WEIGHT_ALIGN * WEIGHT_ALIGN;
}

static inline size_t weight_count(const struct mat *m)
{
    return (size_t)m->rows * (size_t)m->cols;
}

static inline size_t weight_element_bytes(enum mll_dtype dtype)
{
    return dtype == MLL_DTYPE_F32 ? 4 : 2;
}

static inline size_t weight_blocks(const struct mat *m)
{
    size_t block = (size_t)m->blocks->block;
    return (weight_count(m) + block - 1) / block;
}

static inline size_t weight_nested_blocks(size_t n)
{
    return (n + MLL_NESTED_BLOCK - 1) / MLL_NESTED_BLOCK;
}

static inline size_t weight_q4_bytes(const struct mat *m)
{
    size_t n = weight_blocks(m), codes = weight_aligned((weight_count(m) + 1) / 2);
    if (m->blocks->absmax != NULL)
        return codes + weight_aligned(n * sizeof(float));
    return codes + weight_aligned(n) + weight_aligned(weight_nested_blocks(n) * sizeof(float)) +
           weight_aligned(256 * sizeof(float));
}

static inline size_t weight_gpu_bytes(const struct mat *m, enum weight_use use)
{
    if (m->dtype == MLL_DTYPE_Q4)
        return weight_q4_bytes(m);
    if (m->dtype == MLL_DTYPE_I8)
        return weight_aligned(weight_count(m)) + weight_aligned((size_t)m->rows * sizeof(float));
    if (use == WEIGHT_VECTOR)
        return weight_aligned((weight_count(m) + 1) * sizeof(float));
    if (use == WEIGHT_TABLE)
        return weight_aligned(weight_count(m) * weight_element_bytes(m->dtype));
    return weight_aligned((size_t)m->rows * (size_t)half_stride(m->cols) * 2) +
           weight_aligned(((size_t)m->rows + 1) * sizeof(float));
}

#endif
