/* operand.cuh - activations as the tensor cores take them: fp16 rows, each divided by a power of
 * two of its own (half_scale), zeros behind them up to whole 128-byte lines, so that no kernel
 * looks at columns.
 *
 * They lie either in scratch, made from floats just before a matmul (half_rows.cu), or in the place
 * of the floats themselves, where exec_operand said so (ops.h): row r of (n, cols) floats then
 * begins with its halves and ends with its scale, and what lies between is nobody's. */
#ifndef MLL_OPERAND_CUH
#define MLL_OPERAND_CUH

#include "device.cuh"

/* Rows that fit into their own place, at 16-byte addresses: multiples of 4 from OPERAND_LEAST on.
 */
#define OPERAND_LEAST 64
#define OPERAND_MOST  32768

struct operand {
    __half *rows; /* (n, stride), row r at r * step; NULL: there is none */
    float *scale; /* (n), that of row r at r * scale_step */
    int n, cols;
    int stride; /* columns with the zeros, a multiple of 64 */
    int step, scale_step;
};

__device__ __forceinline__ __half *half_row(const struct operand &o, int r)
{
    return o.rows + (size_t)r * o.step;
}
__device__ __forceinline__ float &half_row_scale(const struct operand &o, int r)
{
    return o.scale[r * o.scale_step]; /* n * cols is an int */
}

/* What is left to write where the halves of row r are: its scale, the zeros. By `threads` threads,
 * of which this is number `thread`. */
__device__ __forceinline__ void half_row_end(const struct operand &o, int r, float scale,
                                             int thread, int threads)
{
    __half *row = half_row(o, r);
    for (int i = o.cols + thread; i < o.stride; i += threads)
        row[i] = __float2half_rn(0.0f);
#if defined(MLL_SHIM) /* NaN, for who takes the row for floats */
    for (int i = o.stride + thread; i < o.step - 2; i += threads)
        row[i] = __ushort_as_half(0x7fff);
#endif
    if (thread == 0)
        half_row_scale(o, r) = scale;
}

#endif
