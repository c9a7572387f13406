/* half_rows.cu - matrices in the form of operand.cuh, and where activations have it.
 *
 * Nothing can overflow: the largest element of a row lies in [2^14, 2^15). What the scale costs is
 * only at the other end, where elements 2^39 below the largest become zero; those are counted.
 * Weights come here once, when they are loaded, activations before each matmul whose x was not
 * declared an operand. A block a row, read twice; in its own place read once, into registers. */
#include "operand.cuh"
#include "rows.cuh"

#define HALF_THREADS 512

template <typename T>
__global__ void __launch_bounds__(HALF_THREADS)
    half_rows_kernel(__half *out, float *scale, float *norm, unsigned long long *underflows,
                     const T *x, int cols, int stride)
{
    SHARED(float, part, [WARP]);
    const T *row = x + (size_t)blockIdx.x * cols;
    out += (size_t)blockIdx.x * stride;
    float max = 0.0f;
    wait_for_previous();
#pragma unroll 4
    for (int i = threadIdx.x; i < cols; i += HALF_THREADS)
        max = fmaxf(max, fabsf(widen(row[i])));
    float s = half_scale(block_max(max, part)), inverse = 1.0f / s;
    unsigned long long lost = 0;
    float sum = 0.0f;
#pragma unroll 4
    for (int i = threadIdx.x; i < stride; i += HALF_THREADS) {
        float v = i < cols ? widen(row[i]) : 0.0f;
        __half h = __float2half_rn(v * inverse);
        out[i] = h;
        lost += v != 0.0f && __half2float(h) == 0.0f;
        sum += fabsf(v);
    }
    if (threadIdx.x == 0)
        scale[blockIdx.x] = s;
    if (norm == nullptr) /* activations */
        return;
    sum = block_sum(sum, part);
    if (threadIdx.x == 0) /* the bits of floats that are not negative are in their order */
        atomicMax((unsigned *)norm, __float_as_uint(sum));
    if (lost > 0)
        atomicAdd(underflows, lost);
}

template <int VECS>
__global__ void __launch_bounds__(ROW_THREADS)
    operand_kernel(struct operand form, const float *x, int dim)
{
    SHARED(float, part, [WARP]);
    float4 v[VECS];
    row_load<VECS>(v, x, dim);
    row_store_half<VECS>(form, v, dim, part);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

template <typename T>
static void half_rows(struct mll_exec *ex, __half *out, float *scale, float *norm,
                      unsigned long long *underflows, const T *x, int rows, int cols)
{
    LAUNCH_EARLY(begins_early(ex), half_rows_kernel<T>, dim3((unsigned)rows), dim3(HALF_THREADS), 0,
                 stream_of(ex), out, scale, norm, underflows, x, cols, half_stride(cols));
}

void weights_to_half(struct mll_exec *ex, __half *rows, float *scale, float *norm,
                     unsigned long long *underflows, const void *data, enum mll_dtype dtype, int n,
                     int cols)
{
    if (dtype == MLL_DTYPE_F32)
        half_rows<float>(ex, rows, scale, norm, underflows, (const float *)data, n, cols);
    else if (dtype == MLL_DTYPE_F16)
        half_rows<__half>(ex, rows, scale, norm, underflows, (const __half *)data, n, cols);
    else
        half_rows<bf16>(ex, rows, scale, norm, underflows, (const bf16 *)data, n, cols);
    launched(ex, "weights_to_half");
}

/* Whole lines in front of the rows, which so end where the operand does. */
static size_t scale_bytes(int n)
{
    return ((size_t)n * sizeof(float) + 127) / 128 * 128;
}

size_t operand_bytes(int n, int cols)
{
    return scale_bytes(n) + (size_t)n * (size_t)half_stride(cols) * sizeof(__half);
}

struct operand operand_at(const struct mll_exec *ex, const float *x, int n, int cols)
{
    struct operand o = {NULL, NULL, n, cols, half_stride(cols), 2 * cols, cols};
    MLL_ASSERT((size_t)n * (size_t)cols <= INT32_MAX);
    if (cols % 4 == 0 && cols >= OPERAND_LEAST && cols <= OPERAND_MOST &&
        exec_is_operand(ex, x, n, cols)) {
        o.rows = (__half *)(uintptr_t)x;
        o.scale = (float *)(uintptr_t)x + cols - 1;
    }
    return o;
}

void operand_from(struct mll_exec *ex, const struct operand *o, const float *x)
{
    dim3 grid((unsigned)o->n), block(row_threads(o->cols));
    if (row_vectors(o->cols) <= 4)
        LAUNCH(operand_kernel<4>, grid, block, 0, stream_of(ex), *o, x, o->cols);
    else
        LAUNCH(operand_kernel<8>, grid, block, 0, stream_of(ex), *o, x, o->cols);
    launched(ex, "operand");
}

struct operand operand_of(struct mll_exec *ex, const float *x, int n, int cols)
{
    struct operand o = operand_at(ex, x, n, cols);
    if (o.rows != NULL)
        return o;
    size_t mark = exec_mark(ex);
    o.scale = (float *)exec_alloc(ex, operand_bytes(n, cols));
    o.rows = (__half *)((char *)o.scale + scale_bytes(n));
    o.step = o.stride;
    o.scale_step = 1;
    exec_release(ex, mark);
    half_rows<float>(ex, o.rows, o.scale, NULL, NULL, x, n, cols);
    launched(ex, "half_rows");
    return o;
}
#endif
