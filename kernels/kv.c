/* kv.c - storing keys and values in paged KV memory on the CPU.  Contract: kernels/ops.h.
 * A key goes into its block as a column, (head_dim, MLL_KV_BLOCK), a value as a row. A unit of work
 * is a head of all rows, in their order: of two rows for one position the later one stays. */
#include <math.h>
#include <string.h>

#include "backend.h"
#include "kv.h"
#include "kv_scale.h"
#include "par.h"

struct kv_append_args {
    struct mll_exec *ex;
    struct kv_pool *pool;
    const float *k, *v;
    const struct kv_table *table;
    const int32_t *seq, *pos;
    size_t n;
};

/* The block of row r, or -1 after recording why there is none. */
static int64_t block_of(const struct kv_append_args *a, size_t r)
{
    const struct kv_table *table = a->table;
    int64_t n_pos = (int64_t)table->max_blocks * MLL_KV_BLOCK;
    if (a->seq[r] < 0 || a->seq[r] >= table->n_seqs) {
        exec_fault(a->ex, OP_KV_APPEND, (int64_t)r, a->seq[r], table->n_seqs);
        return -1;
    }
    if (a->pos[r] < 0 || a->pos[r] >= n_pos) {
        exec_fault(a->ex, OP_KV_APPEND, (int64_t)r, a->pos[r], n_pos);
        return -1;
    }
    int64_t entry = kv_entry(table, a->seq[r], a->pos[r] / MLL_KV_BLOCK);
    if (table->blocks[entry] < 0 || table->blocks[entry] >= a->pool->n_blocks) {
        exec_fault(a->ex, OP_KV_APPEND, entry, table->blocks[entry], a->pool->n_blocks);
        return -1;
    }
    return table->blocks[entry];
}

/* One head's row into its block, elements `step` apart: a key's lie in a column, a value's in a
 * row. */
static void store_row(unsigned char *block, const float *x, enum mll_dtype dtype, size_t dim,
                      size_t slot, bool is_key)
{
    size_t first = is_key ? slot : slot * dim, step = is_key ? MLL_KV_BLOCK : 1;
    float max = 0;
    bool finite = true;
    for (size_t d = 0; d < dim; d++) {
        finite = finite && isfinite(x[d]);
        max = isfinite(x[d]) && fabsf(x[d]) > max ? fabsf(x[d]) : max;
    }
    float *scale = kv_scales(block, dtype, (int)dim) + slot;
    if (dtype == MLL_DTYPE_F16) {
        *scale = kv_half_scale(max);
        for (size_t d = 0; d < dim; d++) {
            uint16_t h = f16_from_f32(x[d] / *scale);
            memcpy(block + 2 * (first + d * step), &h, sizeof h);
        }
        return;
    }
    float inverse = kv_int8_inverse(max, finite);
    *scale = kv_int8_scale(max, finite);
    for (size_t d = 0; d < dim; d++)
        block[first + d * step] = (unsigned char)(int8_t)(finite ? rintf(x[d] * inverse) : 0);
}

static void append_narrow(const struct kv_append_args *a, size_t r, int64_t block, int head)
{
    const struct kv_pool *pool = a->pool;
    size_t dim = (size_t)pool->head_dim, slot = (size_t)(a->pos[r] % MLL_KV_BLOCK);
    size_t row = (r * (size_t)pool->n_kv_heads + (size_t)head) * dim;
    store_row(kv_bytes(pool->k, pool, block, head), a->k + row, pool->dtype, dim, slot, true);
    store_row(kv_bytes(pool->v, pool, block, head), a->v + row, pool->dtype, dim, slot, false);
}

static void append_heads(void *arg, size_t begin, size_t end, int thread)
{
    const struct kv_append_args *a = arg;
    size_t dim = (size_t)a->pool->head_dim, heads = (size_t)a->pool->n_kv_heads;
    (void)thread;
    for (size_t r = 0; r < a->n; r++) {
        int64_t block = block_of(a, r);
        size_t slot = (size_t)(a->pos[r] % MLL_KV_BLOCK);
        for (size_t h = begin; block >= 0 && h < end; h++) {
            if (a->pool->dtype != MLL_DTYPE_F32) {
                append_narrow(a, r, block, (int)h);
                continue;
            }
            const float *k = a->k + (r * heads + h) * dim;
            float *to = kv_block(a->pool->k, a->pool, block, (int)h) + slot;
            for (size_t d = 0; d < dim; d++)
                to[d * MLL_KV_BLOCK] = k[d];
            memcpy(kv_block(a->pool->v, a->pool, block, (int)h) + slot * dim,
                   a->v + (r * heads + h) * dim, dim * sizeof(float));
        }
    }
}

void kv_append_cpu(struct mll_exec *ex, struct kv_pool *pool, const float *k, const float *v,
                   const struct kv_table *table, const int32_t *seq, const int32_t *pos, int n)
{
    struct kv_append_args a = {ex, pool, k, v, table, seq, pos, (size_t)n};
    size_t heads = (size_t)pool->n_kv_heads;
    par_for(ex->par, exec_threads_for(ex, a.n * heads * (size_t)pool->head_dim), heads,
            append_heads, &a);
}

void rope_kv_append_cpu(struct mll_exec *ex, struct kv_pool *pool, float *q, float *k,
                        const float *v, const struct kv_table *table, const int32_t *seq,
                        const int32_t *pos, const float *inv_freq, int n, int heads)
{
    rope_cpu(ex, q, pos, inv_freq, n, heads, pool->head_dim);
    rope_cpu(ex, k, pos, inv_freq, n, pool->n_kv_heads, pool->head_dim);
    kv_append_cpu(ex, pool, k, v, table, seq, pos, n);
}
