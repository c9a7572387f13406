/* kv.c - storing keys and values in paged KV memory on the CPU.  Contract: kernels/ops.h.
 * A key goes into its block as a column, (head_dim, MLL_KV_BLOCK), a value as a row. */
#include <string.h>

#include "backend.h"
#include "kv.h"

static void kv_store(struct kv_pool *pool, const float *k, const float *v, int64_t block, int slot)
{
    size_t dim = (size_t)pool->head_dim, heads = (size_t)pool->n_kv_heads;
    for (size_t h = 0; h < heads; h++) {
        float *to_k = kv_block(pool->k, pool, block, (int)h) + slot;
        float *to_v = kv_block(pool->v, pool, block, (int)h) + (size_t)slot * dim;
        for (size_t d = 0; d < dim; d++)
            to_k[d * MLL_KV_BLOCK] = k[h * dim + d];
        memcpy(to_v, v + h * dim, dim * sizeof(float));
    }
}

/* In row order: two rows for one position leave the later one, whatever the number of threads. */
void kv_append_cpu(struct mll_exec *ex, struct kv_pool *pool, const float *k, const float *v,
                   const struct kv_table *table, const int32_t *seq, const int32_t *pos, int n)
{
    size_t row = (size_t)pool->n_kv_heads * (size_t)pool->head_dim;
    int64_t n_pos = (int64_t)table->max_blocks * MLL_KV_BLOCK;
    for (int r = 0; r < n; r++) {
        if (seq[r] < 0 || seq[r] >= table->n_seqs) {
            exec_fault(ex, OP_KV_APPEND, r, seq[r], table->n_seqs);
            continue;
        }
        if (pos[r] < 0 || pos[r] >= n_pos) {
            exec_fault(ex, OP_KV_APPEND, r, pos[r], n_pos);
            continue;
        }
        int64_t entry = kv_entry(table, seq[r], pos[r] / MLL_KV_BLOCK);
        int32_t block = table->blocks[entry];
        if (block < 0 || block >= pool->n_blocks)
            exec_fault(ex, OP_KV_APPEND, entry, block, pool->n_blocks);
        else
            kv_store(pool, k + (size_t)r * row, v + (size_t)r * row, block, pos[r] % MLL_KV_BLOCK);
    }
}
