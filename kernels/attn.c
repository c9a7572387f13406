/* attn.c - grouped-query attention over paged KV memory on the CPU.  Contract: kernels/ops.h.
 * A unit of work is one tile: neighbouring rows of one sequence, times the query heads that share a
 * KV head. How rows fall into tiles changes no bit (attn.h).   HF: eager_attention_forward */
#include "attn.h"
#include "backend.h"
#include "kv.h"
#include "par.h"

struct attn_args {
    float *y;
    const float *q;
    const struct kv_pool *pool;
    const struct kv_table *table;
    const int32_t *seq, *begin, *end;
    int heads, group; /* group: query heads of one KV head in a tile */
    float scale;
    attn_tile_fn *form, *few;
    attn_widen_fn *widen;
    int n_tiles;
    int *tile_row; /* (n_tiles + 1), the first row of each tile */
    bool *ok;      /* (n), false after an index fault */
    unsigned char *memory;
};

/* A tile, and the place of a chunk of narrow keys and values. */
static size_t thread_bytes(enum mll_dtype dtype, int head_dim)
{
    size_t wide = 2 * MLL_ATTN_CHUNK * (size_t)head_dim * sizeof(float);
    return attn_tile_bytes(head_dim) + (dtype == MLL_DTYPE_F32 ? 0 : wide);
}

size_t attn_scratch_cpu(const struct mll_exec *ex, int n, int heads, int head_dim)
{
    (void)heads;
    return (size_t)ex->threads * thread_bytes(ex->kv_dtype, head_dim) +
           ((size_t)n + 1) * sizeof(int) + (size_t)n * sizeof(bool) + 3 * 64;
}

/* True where every index that row r needs is in range; else records the first that is not. */
static bool row_ok(struct mll_exec *ex, const struct attn_args *a, int r)
{
    const struct kv_table *table = a->table;
    int64_t n_keys = (int64_t)table->max_blocks * MLL_KV_BLOCK;
    if (a->seq[r] < 0 || a->seq[r] >= table->n_seqs) {
        exec_fault(ex, OP_ATTN, r, a->seq[r], table->n_seqs);
        return false;
    }
    if (a->begin[r] >= a->end[r])
        return true;
    if (a->begin[r] < 0 || a->end[r] > n_keys) {
        exec_fault(ex, OP_ATTN, r, a->begin[r] < 0 ? a->begin[r] : a->end[r], n_keys);
        return false;
    }
    for (int b = a->begin[r] / MLL_KV_BLOCK; b <= (a->end[r] - 1) / MLL_KV_BLOCK; b++) {
        int64_t entry = kv_entry(table, a->seq[r], b);
        if (table->blocks[entry] < 0 || table->blocks[entry] >= a->pool->n_blocks) {
            exec_fault(ex, OP_ATTN, entry, table->blocks[entry], a->pool->n_blocks);
            return false;
        }
    }
    return true;
}

/* Whether row r sees no key; its range may then be anything. */
static bool is_empty(const struct attn_args *a, int r)
{
    return !a->ok[r] || a->begin[r] >= a->end[r];
}

/* Cuts the rows into tiles: rows of one sequence, no more than fit the lanes, without a block of
 * keys between their ranges that none of them sees: the table may name anything there. */
static void cut_tiles(struct attn_args *a, int n)
{
    int rows_max = ATTN_LANES / a->group, first = 0, lo = 0, hi = 0; /* the tile's blocks so far */
    a->n_tiles = 0;
    for (int r = 0; r < n; r++) {
        int from = is_empty(a, r) ? lo : a->begin[r] / MLL_KV_BLOCK;
        int to = is_empty(a, r) ? hi : (a->end[r] - 1) / MLL_KV_BLOCK + 1;
        bool apart = lo < hi && (from > hi || to < lo);
        if (r == 0 || a->seq[r] != a->seq[first] || r - first == rows_max || apart) {
            a->tile_row[a->n_tiles++] = first = r;
            lo = hi = 0;
        }
        if (!is_empty(a, r)) {
            lo = lo == hi || from < lo ? from : lo;
            hi = to > hi ? to : hi;
        }
    }
    a->tile_row[a->n_tiles] = n;
}

static void attn_one_tile(const struct attn_args *a, struct attn_tile *t, int tile, int head)
{
    const struct kv_pool *pool = a->pool;
    int dim = pool->head_dim, kv_head = head / (a->heads / pool->n_kv_heads);
    int first = a->tile_row[tile], last = a->tile_row[tile + 1];
    size_t row = (size_t)a->heads * (size_t)dim;
    bool seq_ok = a->seq[first] >= 0 && a->seq[first] < a->table->n_seqs;
    int some = first; /* a row that sees keys; an empty range stands where its begins */
    while (some < last && is_empty(a, some))
        some++;
    int none = some < last ? a->begin[some] : 0;
    t->lanes = 0;
    for (int r = first; r < last; r++)
        for (int h = head; h < head + a->group; h++)
            attn_tile_add(t, a->q + (size_t)r * row + (size_t)h * (size_t)dim, dim,
                          is_empty(a, r) ? none : a->begin[r], is_empty(a, r) ? none : a->end[r]);
    bool narrow = pool->dtype != MLL_DTYPE_F32;
    float *wide = (float *)((unsigned char *)t + attn_tile_bytes(dim));
    struct attn_keys keys = {
        .k = narrow ? wide : kv_block(pool->k, pool, 0, kv_head),
        .v = narrow ? wide + MLL_ATTN_CHUNK * dim : kv_block(pool->v, pool, 0, kv_head),
        .widen = narrow ? a->widen : NULL,
        .dtype = pool->dtype,
        .narrow_k = kv_bytes(pool->k, pool, 0, kv_head),
        .narrow_v = kv_bytes(pool->v, pool, 0, kv_head),
        .narrow_stride = (size_t)pool->n_kv_heads * kv_block_bytes(pool->dtype, dim),
        .blocks = a->table->blocks + (seq_ok ? kv_entry(a->table, a->seq[first], 0) : 0),
        .stride = (size_t)pool->n_kv_heads * (size_t)dim * MLL_KV_BLOCK,
        .dim = dim};
    (last - first == 1 ? a->few : a->form)(t, &keys, a->scale);
    for (int lane = 0; lane < t->lanes; lane++) {
        int r = first + lane / a->group, h = head + lane % a->group;
        attn_tile_result(t, a->y + (size_t)r * row + (size_t)h * (size_t)dim, lane, dim);
    }
}

/* Units are head-major: causal tiles grow longer with their number. */
static void attn_units(void *arg, size_t begin, size_t end, int thread)
{
    const struct attn_args *a = arg;
    int dim = a->pool->head_dim;
    struct attn_tile *t =
        attn_tile_new(a->memory + (size_t)thread * thread_bytes(a->pool->dtype, dim), dim);
    for (size_t i = begin; i < end; i++)
        attn_one_tile(a, t, (int)(i % (size_t)a->n_tiles),
                      (int)(i / (size_t)a->n_tiles) * a->group);
}

/* The largest divisor of the group size that fits the lanes. */
static int heads_in_tile(int group)
{
    int n = group;
    while (n > ATTN_LANES || group % n != 0)
        n--;
    return n;
}

void attn_cpu(struct mll_exec *ex, float *y, const float *q, const struct kv_pool *pool,
              const struct kv_table *table, const int32_t *seq, const int32_t *begin,
              const int32_t *end, int n, int heads, float scale)
{
    size_t mark = exec_mark(ex);
    struct attn_args a = {.y = y,
                          .q = q,
                          .pool = pool,
                          .table = table,
                          .seq = seq,
                          .begin = begin,
                          .end = end,
                          .heads = heads,
                          .group = heads_in_tile(heads / pool->n_kv_heads),
                          .scale = scale,
                          .form = attn_tile_form(ex),
                          .few = attn_few_form(ex),
                          .widen = SIMD_FORM(ex, attn_widen)};
    a.memory = exec_alloc(ex, (size_t)ex->threads * thread_bytes(pool->dtype, pool->head_dim));
    a.tile_row = exec_alloc(ex, ((size_t)n + 1) * sizeof(int));
    a.ok = exec_alloc(ex, (size_t)n * sizeof(bool));
    for (int r = 0; r < n; r++)
        a.ok[r] = row_ok(ex, &a, r);
    cut_tiles(&a, n);
    /* the most that the tables can name: how far the rows really look is data */
    size_t work = (size_t)n * (size_t)heads * (size_t)pool->head_dim * (size_t)table->max_blocks;
    par_for(ex->par, exec_threads_for(ex, work), (size_t)(heads / a.group) * (size_t)a.n_tiles,
            attn_units, &a);
    exec_release(ex, mark);
}
