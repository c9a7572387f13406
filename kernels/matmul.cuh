/* matmul.cuh - what the dense matmul kernels of a GPU are given: fp16 rows of activations, and up
 * to MLL_MATMUL_GROUP weights of fp16 rows that multiply the same activations in one launch.
 *
 *   p[r][o] = dot(x[r], w[o]) * w_scale[o] * x_scale[r] + bias[o]
 *   y[r][o] = p[r][o], or base[r][o] + tanh(gate) * p[r][o]
 *
 * Weights are rows as operand.cuh has them, x.stride elements apart.
 *
 * gelu(p) goes to an operand at once, although no block sees the largest element of a row: since
 *   |gelu(p[r][o])| <= |p[r][o]| <= 2^15 x_scale[r] max_o sum_k|w[o][k]| + max|bias| = B
 * the row is divided by the power of two that brings B into [2^14, 2^15). Nothing can overflow:
 * what fp16 operands and float32 sums are rounded by is far less than the factor of two that is
 * left up to fp16's largest number. Where a row's largest element is 2^L below B, elements have
 * their 11 bits down to 2^(L-28) of it, and below that are off by at most 2^(L-39) of it. (A scale
 * that is measured has L at most 1.) As fp16 costs 2^-12 of an element anyway, L up to 26 does no
 * harm. A larger one takes rows of w that x is orthogonal to, far above those it is not; the 2^-39
 * B that are lost then are still below the 2^-25 B to which float32 sums of such terms are rounded.
 */
#ifndef MLL_MATMUL_CUH
#define MLL_MATMUL_CUH

#include "device.cuh"
#include "fmath.h"
#include "operand.cuh"

#ifdef __CUDACC_RTC__
#define MLL_MATMUL_GROUP 3
#else
#include "ops.h"
#endif

struct matmul_part {
    float *y;            /* (n, rows) */
    const __half *w;     /* (rows, x.stride) */
    const float *scale;  /* (rows); fp16 rows: and the largest sum of magnitudes of one */
    int rows, tile_from; /* the first of the launch's row tiles that is its own */
};

/* What becomes of the product of the only part. base may be its y. */
struct matmul_end {
    const float *bias; /* (rows) or NULL */
    const float *base; /* (n, rows) or NULL */
    const float *gate; /* one, or NULL for a factor of 1 */
    /* Where gelu of it goes, dense prompt rows only; rows NULL: it goes to y as it is. */
    struct operand gelu;
};

struct matmul_args {
    struct operand x;
    struct matmul_end end;
    int n_parts;
    struct matmul_part parts[MLL_MATMUL_GROUP];
};

/* The weight that row tile `tile` of the launch belongs to. */
__device__ __forceinline__ struct matmul_part matmul_part_of(const struct matmul_args &a, int tile)
{
    struct matmul_part part = a.parts[0];
#pragma unroll
    for (int i = 1; i < MLL_MATMUL_GROUP; i++)
        if (i < a.n_parts && tile >= a.parts[i].tile_from)
            part = a.parts[i];
    return part;
}

/* The epilogue of one element. */
__device__ __forceinline__ float matmul_finish(float sum, float w_scale, float x_scale, float bias)
{
    return fmaf(sum * w_scale, x_scale, bias);
}

__device__ __forceinline__ float matmul_factor(const struct matmul_end &end)
{
    return end.gate == nullptr ? 1.0f : fm_tanh(end.gate[0]);
}

/* The scale of row r of end.gelu. */
__device__ __forceinline__ float matmul_gelu_scale(const struct matmul_args &a,
                                                   const struct matmul_part &part, int r)
{
    float bias = a.end.bias == nullptr ? 0.0f : a.end.bias[part.rows];
    float bound = fmaf(32768.0f * part.scale[part.rows], half_row_scale(a.x, r), bias);
    return half_scale(fminf(bound, FLOAT_MAX)); /* what is not finite has the largest scale */
}

/* ---- launchers: gemm.cu, gemv.cu ------------------------------------------------------------- */

#ifndef __CUDACC_RTC__
/* Which of gemm.cu's shapes is done first when every SM works on the same number of tiles or one
 * fewer, and the grid that walks its tiles: activation rows by x and z, weight rows by y. */
int gemm_choose(const struct mll_exec *ex, struct matmul_args *a);
dim3 gemm_grid(struct matmul_args *a, int shape);

/* Prompt rows, single tokens. */
void gemm(struct mll_exec *ex, struct matmul_args *a);
void gemv(struct mll_exec *ex, struct matmul_args *a);
/* Prompt rows by one part's weight, by cuBLASLt; false: not done, and nothing enqueued. Only where
 * the exec was opened with options.fast. */
bool matmul_fast(struct mll_exec *ex, const struct matmul_args *a, const struct matmul_part *part);

/* Gives every part its tiles of `size` weight rows; returns their number. */
static inline unsigned matmul_tiles(struct matmul_args *a, int size)
{
    int tiles = 0;
    for (int i = 0; i < a->n_parts; i++) {
        a->parts[i].tile_from = tiles;
        tiles += (a->parts[i].rows + size - 1) / size;
    }
    return (unsigned)tiles;
}
#endif

#endif
