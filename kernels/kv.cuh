/* kv.cuh - addresses in paged KV memory on the GPU, with their bounds.  Layout: ops.h. */
#ifndef MLL_KV_CUH
#define MLL_KV_CUH

#include "device.cuh"

#define KV_BLOCK 16 /* MLL_KV_BLOCK */

/* A pool and a block table as a kernel takes them. */
struct kv_view {
    __half *k, *v;
    const int32_t *blocks;
    int n_kv_heads, head_dim, max_blocks;
    int stride; /* elements from a position to the next: whole 16 bytes, zeros behind head_dim */
    bounds seq, position, block;
};

/* Where the KV_BLOCK keys of one head lie in a block, in elements. */
__device__ __forceinline__ int64_t kv_block_at(const kv_view &kv, int block, int head)
{
    return ((int64_t)block * kv.n_kv_heads + head) * KV_BLOCK * kv.stride;
}

/* Where position pos of sequence seq lies for one head, in elements; -1 after recording a fault.
 * row: what a fault of seq or pos names. */
__device__ __forceinline__ int64_t kv_place(const kv_view &kv, int row, int seq, int pos, int head)
{
    if (!in_bounds(kv.seq, row, seq) || !in_bounds(kv.position, row, pos))
        return -1;
    int64_t entry = (int64_t)seq * kv.max_blocks + pos / KV_BLOCK;
    int block = kv.blocks[entry];
    if (!in_bounds(kv.block, entry, block))
        return -1;
    return kv_block_at(kv, block, head) + pos % KV_BLOCK * kv.stride;
}

/* Zeros behind the head_dim elements at `to` of k and v, which attention reads too. A thread an
 * element. */
__device__ __forceinline__ void kv_pad(const kv_view &kv, int64_t to)
{
    int d = kv.head_dim + (int)threadIdx.x;
    if (to >= 0 && d < kv.stride)
        kv.k[to + d] = kv.v[to + d] = __float2half_rn(0.0f);
}

/* Whether the sequence and the range of keys of a row are within the table; records which is not.
 */
__device__ __forceinline__ bool kv_range(const kv_view &kv, int row, int seq, int begin, int end)
{
    if (!in_bounds(kv.seq, row, seq))
        return false;
    return begin >= end || ((begin >= 0 || in_bounds(kv.position, row, begin)) &&
                            (end <= kv.position.n || in_bounds(kv.position, row, end)));
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

static inline struct kv_view kv_view_of(struct mll_exec *ex, const struct kv_pool *pool,
                                        const struct kv_table *table, enum mll_op op)
{
    struct kv_view kv = {(__half *)pool->k,
                         (__half *)pool->v,
                         table->blocks,
                         pool->n_kv_heads,
                         pool->head_dim,
                         table->max_blocks,
                         (int)(kv_block_bytes(MLL_DTYPE_F16, pool->head_dim) / MLL_KV_BLOCK / 2),
                         bounds_of(ex, op, table->n_seqs),
                         bounds_of(ex, op, (int64_t)table->max_blocks * MLL_KV_BLOCK),
                         bounds_of(ex, op, pool->n_blocks)};
    return kv;
}
#endif
#endif
