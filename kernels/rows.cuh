/* rows.cuh - a row of floats in the registers of a block, VECS float4 a thread, and the half form
 * of a result, as rows_to_half would make it (half_rows.cu, exec_cuda.h).
 *
 * Row blockIdx.x of (rows, dim), dim a multiple of 4, 16-byte aligned; float4 k of a thread is
 * number k * blockDim.x + threadIdx.x of the row, zero beyond its end. */
#ifndef MLL_ROWS_CUH
#define MLL_ROWS_CUH

#include "device.cuh"

#define ROW_THREADS 1024

/* Where the half form goes; rows NULL: nowhere. */
struct half_out {
    __half *rows; /* (rows, stride) */
    float *scale; /* (rows) */
    int stride;
};

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

/* h + s x, rounded twice. */
__device__ __forceinline__ float add_scaled(float h, float s, float x)
{
    return __fadd_rn(h, __fmul_rn(s, x));
}

__device__ __forceinline__ uint32_t half_pair(float a, float b)
{
    return (uint32_t)__half_as_ushort(__float2half_rn(a)) |
           (uint32_t)__half_as_ushort(__float2half_rn(b)) << 16;
}

/* The row in fp16, divided by its power of two, zeros from dim to stride. part: (WARP) of shared
 * memory. Values beyond the row's end are zero. */
template <int VECS>
__device__ __forceinline__ void row_store_half(const half_out &form, const float4 v[VECS], int dim,
                                               float *part)
{
    float max = 0.0f;
    if (form.rows == nullptr)
        return;
#pragma unroll
    for (int k = 0; k < VECS; k++)
        max = fmaxf(fmaxf(fmaxf(max, fabsf(v[k].x)), fmaxf(fabsf(v[k].y), fabsf(v[k].z))),
                    fabsf(v[k].w));
    float s = half_scale(block_max(max, part)), inverse = 1.0f / s;
    __half *row = form.rows + (size_t)blockIdx.x * form.stride;
#pragma unroll
    for (int k = 0; k < VECS; k++)
        if (row_column(k) < dim)
            *(uint2 *)(row + row_column(k)) =
                make_uint2(half_pair(v[k].x * inverse, v[k].y * inverse),
                           half_pair(v[k].z * inverse, v[k].w * inverse));
    for (int i = dim + (int)threadIdx.x; i < form.stride; i += blockDim.x)
        row[i] = __float2half_rn(0.0f);
    if (threadIdx.x == 0)
        form.scale[blockIdx.x] = s;
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

static inline struct operand operand_none(void)
{
    struct operand o = {NULL, 0, 0, 0, NULL, NULL};
    return o;
}

static inline half_out half_out_of(const struct operand *o)
{
    half_out form = {o->rows, o->scale, o->stride};
    return form;
}
#endif

#endif
