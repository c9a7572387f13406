/* rows.cuh - a row of floats in the registers of a block, VECS float4 a thread, and where a result
 * goes: to floats, or into the form of operand.cuh.
 *
 * Row blockIdx.x of (rows, dim), dim a multiple of 4, 16-byte aligned; float4 k of a thread is
 * number k * blockDim.x + threadIdx.x of the row, zero beyond its end. */
#ifndef MLL_ROWS_CUH
#define MLL_ROWS_CUH

#include "operand.cuh"

#define ROW_THREADS 1024

__device__ __forceinline__ int row_column(int k)
{
    return 4 * (k * (int)blockDim.x + (int)threadIdx.x);
}

/* Float4 k of one row that all blocks read, such as a weight. */
__device__ __forceinline__ float4 row_vector(const float *x, int k, int dim)
{
    int i = row_column(k);
    return i < dim ? *(const float4 *)(x + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
}

template <int VECS>
__device__ __forceinline__ void row_load(float4 v[VECS], const float *x, int dim)
{
#pragma unroll
    for (int k = 0; k < VECS; k++)
        v[k] = row_vector(x + (size_t)blockIdx.x * dim, k, dim);
}

template <int VECS>
__device__ __forceinline__ void row_store(float *y, const float4 v[VECS], int dim)
{
#pragma unroll
    for (int k = 0; k < VECS; k++)
        if (row_column(k) < dim)
            *(float4 *)(y + (size_t)blockIdx.x * dim + row_column(k)) = v[k];
}

/* The row in fp16, divided by its power of two. part: (WARP) of shared memory. Values beyond the
 * row's end are zero. The halves may lie where v was read: all have read before the first writes.
 */
template <int VECS>
__device__ __forceinline__ void row_store_half(const struct operand &form, const float4 v[VECS],
                                               int dim, float *part)
{
    float max = 0.0f;
#pragma unroll
    for (int k = 0; k < VECS; k++)
        max = fmaxf(fmaxf(fmaxf(max, fabsf(v[k].x)), fmaxf(fabsf(v[k].y), fabsf(v[k].z))),
                    fabsf(v[k].w));
    float s = half_scale(block_max(max, part)), inverse = 1.0f / s;
    __half *row = half_row(form, blockIdx.x);
#pragma unroll
    for (int k = 0; k < VECS; k++)
        if (row_column(k) < dim)
            *(uint2 *)(row + row_column(k)) =
                make_uint2(half_pair(v[k].x * inverse, v[k].y * inverse),
                           half_pair(v[k].z * inverse, v[k].w * inverse));
    half_row_end(form, blockIdx.x, s, threadIdx.x, blockDim.x);
}

/* The row to its operand, or where there is none to y. */
template <int VECS>
__device__ __forceinline__ void row_put(float *y, const struct operand &form, const float4 v[VECS],
                                        int dim, float *part)
{
    if (form.rows == nullptr)
        row_store<VECS>(y, v, dim);
    else
        row_store_half<VECS>(form, v, dim, part);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

/* Float4s a thread, and threads, for rows of dim floats. */
static inline int row_vectors(int dim)
{
    return (dim + 4 * ROW_THREADS - 1) / (4 * ROW_THREADS);
}

static inline unsigned row_threads(int dim)
{
    int vectors = row_vectors(dim);
    return blocks_for((size_t)dim, (size_t)(4 * vectors * WARP)) * WARP;
}
#endif

#endif
