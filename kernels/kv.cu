/* kv.cu - storing keys and values in paged KV memory on the GPU, alone or with the rotation of q
 * and k.  Contract: ops.h. A block a row and head: one warp stores k, the other v. */
#include "kv.cuh"
#include "rope.cuh"

#define KV_THREADS (2 * WARP)
#define KV_PARTS   4 /* elements a lane: head_dim is at most 128 */

/* A lane's part of a head's row: x[i] is element at[i], which is head_dim where there is none. */
struct row_part {
    float x[KV_PARTS];
    int at[KV_PARTS];
};

/* Store a lane's part; the scale of the row. */
__device__ __forceinline__ float store_elements(__half *row, const row_part &p, int dim, float max,
                                                bool finite)
{
    float scale = kv_half_scale(max), inverse = 1.0f / scale;
    (void)finite;
#pragma unroll
    for (int i = 0; i < KV_PARTS; i++)
        if (p.at[i] < dim)
            row[p.at[i]] = __float2half_rn(p.x[i] * inverse);
    return scale;
}

__device__ __forceinline__ float store_elements(int8_t *row, const row_part &p, int dim, float max,
                                                bool finite)
{
    float inverse = kv_int8_inverse(max, finite);
#pragma unroll
    for (int i = 0; i < KV_PARTS; i++)
        if (p.at[i] < dim)
            row[p.at[i]] = (int8_t)(finite ? __float2int_rn(p.x[i] * inverse) : 0);
    return kv_int8_scale(max, finite);
}

/* Stores a row at position i of the block of one head, and zeros behind it, which attention reads
 * too. All lanes of a warp call it. */
template <class T>
__device__ __forceinline__ void store_row(T *block, const kv_view &kv, int i, const row_part &p)
{
    float max = 0.0f;
    bool finite = true;
#pragma unroll
    for (int e = 0; e < KV_PARTS; e++) {
        max = fmaxf(max, finite_abs(p.x[e]));
        finite = finite && fabsf(p.x[e]) <= FLOAT_MAX;
    }
    T *row = block + i * kv.stride;
    int lane = (int)threadIdx.x % WARP, behind = kv.head_dim + lane;
    float scale = store_elements(row, p, kv.head_dim, warp_max(max), __all_sync(ALL_LANES, finite));
    if (lane == 0)
        *kv_scale_at(block, kv.stride, i) = scale;
    if (behind < kv.stride)
        row[behind] = T();
}

/* The part of a row of x that is stored as it is. */
__device__ __forceinline__ row_part part_of(const float *x, int dim)
{
    row_part p;
#pragma unroll
    for (int i = 0; i < KV_PARTS; i++) {
        int d = (int)threadIdx.x % WARP + i * WARP;
        p.at[i] = d < dim ? d : dim;
        p.x[i] = d < dim ? x[d] : 0.0f;
    }
    return p;
}

/* The same, rotated. */
__device__ __forceinline__ row_part rotated_part(const float *x, const float *inv_freq, int dim,
                                                 int pos)
{
    row_part p;
#pragma unroll
    for (int i = 0; i < KV_PARTS; i += 2) {
        int d = (int)threadIdx.x % WARP + i / 2 * WARP, half = dim / 2;
        bool there = d < half;
        p.at[i] = there ? d : dim;
        p.at[i + 1] = there ? d + half : dim;
        p.x[i] = there ? x[d] : 0.0f;
        p.x[i + 1] = there ? x[d + half] : 0.0f;
        if (there)
            rope_pair(&p.x[i], &p.x[i + 1], pos, inv_freq[d]);
    }
    return p;
}

template <class T>
__global__ void __launch_bounds__(KV_THREADS)
    kv_append_kernel(kv_view kv, const float *k, const float *v, const int32_t *seq,
                     const int32_t *pos)
{
    int row = blockIdx.x, head = blockIdx.y, dim = kv.head_dim;
    int block = kv_block_of(kv, row, seq[row], pos[row]);
    size_t from = ((size_t)row * kv.n_kv_heads + head) * dim;
    bool is_key = threadIdx.x < WARP;
    if (block < 0)
        return;
    T *to = (T *)(is_key ? kv.k : kv.v) + kv_block_at<T>(kv, block, head);
    store_row(to, kv, pos[row] % KV_BLOCK, part_of((is_key ? k : v) + from, dim));
}

/* Heads of q first, then those of k, each with its v. */
template <class T>
__global__ void __launch_bounds__(KV_THREADS)
    rope_kv_append_kernel(kv_view kv, float *q, const float *k, const float *v,
                          const float *inv_freq, const int32_t *seq, const int32_t *pos, int heads)
{
    int row = blockIdx.x, head = (int)blockIdx.y - heads, dim = kv.head_dim;
    wait_for_previous();
    if (head < 0) {
        float *x = q + ((size_t)row * heads + blockIdx.y) * dim;
        for (int d = threadIdx.x; d < dim / 2; d += KV_THREADS)
            rope_pair(&x[d], &x[d + dim / 2], pos[row], inv_freq[d]);
        return;
    }
    int block = kv_block_of(kv, row, seq[row], pos[row]), i = pos[row] % KV_BLOCK;
    size_t from = ((size_t)row * kv.n_kv_heads + head) * dim;
    if (block < 0)
        return;
    int64_t to = kv_block_at<T>(kv, block, head);
    if (threadIdx.x < WARP)
        store_row((T *)kv.k + to, kv, i, rotated_part(k + from, inv_freq, dim, pos[row]));
    else
        store_row((T *)kv.v + to, kv, i, part_of(v + from, dim));
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

void kv_append_cuda(struct mll_exec *ex, struct kv_pool *pool, const float *k, const float *v,
                    const struct kv_table *table, const int32_t *seq, const int32_t *pos, int n)
{
    kv_view kv = kv_view_of(ex, pool, table, OP_KV_APPEND);
    dim3 grid((unsigned)n, (unsigned)pool->n_kv_heads), block(KV_THREADS);
    if (pool->dtype == MLL_DTYPE_I8)
        LAUNCH((kv_append_kernel<int8_t>), grid, block, 0, stream_of(ex), kv, k, v, seq, pos);
    else
        LAUNCH((kv_append_kernel<__half>), grid, block, 0, stream_of(ex), kv, k, v, seq, pos);
    launched(ex, "kv_append");
}

void rope_kv_append_cuda(struct mll_exec *ex, struct kv_pool *pool, float *q, float *k,
                         const float *v, const struct kv_table *table, const int32_t *seq,
                         const int32_t *pos, const float *inv_freq, int n, int heads)
{
    kv_view kv = kv_view_of(ex, pool, table, OP_KV_APPEND);
    dim3 grid((unsigned)n, (unsigned)(heads + pool->n_kv_heads)), block(KV_THREADS);
    bool early = begins_early(ex);
    if (pool->dtype == MLL_DTYPE_I8)
        LAUNCH_EARLY(early, (rope_kv_append_kernel<int8_t>), grid, block, 0, stream_of(ex), kv, q,
                     k, v, inv_freq, seq, pos, heads);
    else
        LAUNCH_EARLY(early, (rope_kv_append_kernel<__half>), grid, block, 0, stream_of(ex), kv, q,
                     k, v, inv_freq, seq, pos, heads);
    launched(ex, "rope_kv_append");
}
#endif
