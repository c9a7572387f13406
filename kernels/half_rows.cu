/* half_rows.cu - matrices as the tensor cores take them: fp16 rows, each divided by a power of two
 * of its own (half_scale), zeros behind them up to half_stride(cols).
 *
 * Nothing can overflow: the largest element of a row lies in [2^14, 2^15). What the scale costs is
 * only at the other end, where elements 2^39 below the largest become zero; those are counted.
 * Weights come here once, when they are loaded, activations before each matmul that no producer
 * left a half form for. A block a row, read twice. */
#include "device.cuh"

#define HALF_THREADS 512

template <typename T>
__global__ void __launch_bounds__(HALF_THREADS)
    half_rows_kernel(__half *out, float *scale, unsigned long long *underflows, const T *x,
                     int cols, int stride)
{
    SHARED(float, part, [WARP]);
    const T *row = x + (size_t)blockIdx.x * cols;
    out += (size_t)blockIdx.x * stride;
    float max = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x; i < cols; i += HALF_THREADS)
        max = fmaxf(max, fabsf(widen(row[i])));
    float s = half_scale(block_max(max, part)), inverse = 1.0f / s;
    unsigned long long lost = 0;
#pragma unroll 4
    for (int i = threadIdx.x; i < stride; i += HALF_THREADS) {
        float v = i < cols ? widen(row[i]) : 0.0f;
        __half h = __float2half_rn(v * inverse);
        out[i] = h;
        lost += v != 0.0f && __half2float(h) == 0.0f;
    }
    if (threadIdx.x == 0)
        scale[blockIdx.x] = s;
    if (underflows != nullptr && lost > 0)
        atomicAdd(underflows, lost);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

template <typename T>
static void half_rows(struct mll_exec *ex, __half *out, float *scale,
                      unsigned long long *underflows, const T *x, int rows, int cols)
{
    LAUNCH(half_rows_kernel<T>, dim3((unsigned)rows), dim3(HALF_THREADS), 0, stream_of(ex), out,
           scale, underflows, x, cols, half_stride(cols));
}

void weights_to_half(struct mll_exec *ex, __half *rows, float *scale,
                     unsigned long long *underflows, const void *data, enum mll_dtype dtype, int n,
                     int cols)
{
    if (dtype == MLL_DTYPE_F32)
        half_rows<float>(ex, rows, scale, underflows, (const float *)data, n, cols);
    else if (dtype == MLL_DTYPE_F16)
        half_rows<__half>(ex, rows, scale, underflows, (const __half *)data, n, cols);
    else
        half_rows<bf16>(ex, rows, scale, underflows, (const bf16 *)data, n, cols);
    launched(ex, "weights_to_half");
}

size_t operand_bytes(int n, int cols)
{
    size_t rows = (size_t)n * (size_t)half_stride(cols) * sizeof(__half);
    return rows + ((size_t)n * sizeof(float) + 63) / 64 * 64;
}

struct operand operand_place(struct mll_exec *ex, const float *x, int n, int cols)
{
    struct operand o = {NULL, n, cols, half_stride(cols), NULL, NULL};
    size_t mark = exec_mark(ex), bytes = operand_bytes(n, cols);
    if (bytes > ex->arena_size - mark)
        return o;
    o.rows = (__half *)exec_alloc(ex, bytes);
    o.scale = (float *)(o.rows + (size_t)n * (size_t)o.stride);
    o.x = x;
    exec_release(ex, mark);
    return o;
}

struct operand operand_of(struct mll_exec *ex, const float *x, int n, int cols)
{
    struct operand o = operand_place(ex, x, n, cols), *kept = &exec_cuda(ex)->operand;
    MLL_ASSERT(o.rows != NULL);
    if (kept->x == x && kept->rows == o.rows && kept->n == n && kept->cols == cols)
        return *kept;
    half_rows<float>(ex, o.rows, o.scale, NULL, x, n, cols);
    launched(ex, "half_rows");
    return o;
}

void operand_keep(struct mll_exec *ex, const struct operand *o)
{
    exec_cuda(ex)->operand = *o;
}
#endif
