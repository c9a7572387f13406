/* kv.h - addresses in paged KV memory, shared by kv_append and attention.  Layout: ops.h. */
#ifndef MLL_KV_H
#define MLL_KV_H

#include "half.h"
#include "ops.h"

/* A block of one head: head_dim * MLL_KV_BLOCK elements; of narrow types behind them the scales. */
static inline unsigned char *kv_bytes(void *base, const struct kv_pool *pool, int64_t block,
                                      int head)
{
    size_t one = kv_block_bytes(pool->dtype, pool->head_dim);
    return (unsigned char *)base + ((size_t)block * (size_t)pool->n_kv_heads + (size_t)head) * one;
}

/* The scales of a block of one head of a narrow type. */
static inline float *kv_scales(const unsigned char *block, enum mll_dtype dtype, int head_dim)
{
    size_t end = kv_block_bytes(dtype, head_dim);
    return (float *)(uintptr_t)(block + end - MLL_KV_BLOCK * sizeof(float));
}

/* Element i of such a block, without its scale. */
static inline float narrow_at(const unsigned char *block, enum mll_dtype dtype, int i)
{
    return dtype == MLL_DTYPE_I8 ? (float)(int8_t)block[i] : weight_at(block, dtype, (size_t)i);
}

/* The (head_dim, MLL_KV_BLOCK) keys or (MLL_KV_BLOCK, head_dim) values of one head of a block. */
static inline float *kv_block(void *base, const struct kv_pool *pool, int64_t block, int head)
{
    size_t one = (size_t)pool->head_dim * MLL_KV_BLOCK;
    return (float *)base + ((size_t)block * (size_t)pool->n_kv_heads + (size_t)head) * one;
}

/* Which element of table->blocks holds block number b of sequence seq. */
static inline int64_t kv_entry(const struct kv_table *table, int seq, int b)
{
    return (int64_t)seq * table->max_blocks + b;
}

#endif
