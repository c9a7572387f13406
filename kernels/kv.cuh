/* kv.cuh - addresses in paged KV memory on the GPU, with their bounds.  Layout: ops.h. T is the
 * type of its elements, __half or int8_t; places are counted in elements. */
#ifndef MLL_KV_CUH
#define MLL_KV_CUH

#include "device.cuh"
#include "kv_scale.h"

#define KV_BLOCK 16 /* MLL_KV_BLOCK */

/* A pool and a block table as a kernel takes them. */
struct kv_view {
    void *k, *v;
    const int32_t *blocks;
    int n_kv_heads, head_dim, max_blocks;
    int stride; /* elements from a position to the next: whole 16 bytes, zeros behind head_dim */
    bounds seq, position, block;
};

/* Where the KV_BLOCK keys of one head lie in a block. */
template <class T>
__device__ __forceinline__ int64_t kv_block_at(const kv_view &kv, int block, int head)
{
    int one = KV_BLOCK * (kv.stride + (int)(sizeof(float) / sizeof(T)));
    return ((int64_t)block * kv.n_kv_heads + head) * one;
}

/* The scale of position i of the block of one head at `block`. */
template <class T> __device__ __forceinline__ float *kv_scale_at(T *block, int stride, int i)
{
    return (float *)(block + KV_BLOCK * stride) + i;
}

/* The block that holds position pos of sequence seq; -1 after recording a fault. row: what a fault
 * of seq or pos names. */
__device__ __forceinline__ int kv_block_of(const kv_view &kv, int row, int seq, int pos)
{
    if (!in_bounds(kv.seq, row, seq) || !in_bounds(kv.position, row, pos))
        return -1;
    int64_t entry = (int64_t)seq * kv.max_blocks + pos / KV_BLOCK;
    int block = kv.blocks[entry];
    return in_bounds(kv.block, entry, block) ? block : -1;
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
    int whole = pool->dtype == MLL_DTYPE_I8 ? 16 : 8; /* elements of 16 bytes */
    struct kv_view kv = {pool->k,
                         pool->v,
                         table->blocks,
                         pool->n_kv_heads,
                         pool->head_dim,
                         table->max_blocks,
                         (pool->head_dim + whole - 1) / whole * whole,
                         bounds_of(ex, op, table->n_seqs),
                         bounds_of(ex, op, (int64_t)table->max_blocks * MLL_KV_BLOCK),
                         bounds_of(ex, op, pool->n_blocks)};
    return kv;
}
#endif
#endif
