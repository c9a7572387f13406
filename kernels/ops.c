/* ops.c - every op_X of ops.h: checks the arguments, once for all backends, then calls the table of
 * the exec's backend.
 *
 * A violated check is the programmer's fault: it prints op, condition and shapes, and aborts. Calls
 * without rows return before the backend sees them; pointers may then be NULL. */
#include "backend.h"
#include "sample.h"

#include <stdarg.h>
#include <stdio.h>

#define X(op, ...) .op = op##_cpu,
const struct op_table op_table_cpu = {
    MLL_OP_LIST(X).matmul_scratch = matmul_scratch_cpu,
    .matmul_add_scratch = matmul_add_scratch_cpu,
    .attn_scratch = attn_scratch_cpu,
    .attn_vision_scratch = attn_vision_scratch_cpu,
    .sample_scratch = sample_scratch_cpu,
    EXEC_ROWS(cpu),
};
#undef X

#ifdef MLL_CUDA
#define X(op, ...) .op = op##_cuda,
const struct op_table op_table_cuda = {
    MLL_OP_LIST(X).matmul_scratch = matmul_scratch_cuda,
    .matmul_add_scratch = matmul_add_scratch_cuda,
    .attn_scratch = attn_scratch_cuda,
    .attn_vision_scratch = attn_vision_scratch_cuda,
    .sample_scratch = sample_scratch_cuda,
    EXEC_ROWS(cuda),
};
#undef X
#else
enum mll_status exec_open_cuda(struct mll_exec **ex, const struct exec_cuda_options *options,
                               size_t scratch_bytes, struct mll_error *err)
{
    *ex = NULL;
    (void)options, (void)scratch_bytes;
    return mll_fail(err, MLL_ERR_DEVICE, "this build has no CUDA");
}

int exec_cuda_devices(void)
{
    return 0;
}

const char *exec_cuda_architectures(void)
{
    return "";
}

enum mll_status exec_cuda_device(struct exec_device *device, int index, struct mll_error *err)
{
    *device = (struct exec_device){0};
    (void)index;
    return mll_fail(err, MLL_ERR_DEVICE, "this build has no CUDA");
}
#endif

/* ---- checks ---------------------------------------------------------------------------------- */

static void check_failed(const char *op, const char *condition, int line, const char *fmt, ...)
    MLL_PRINTF(4, 5);

static void check_failed(const char *op, const char *condition, int line, const char *fmt, ...)
{
    char text[384];
    int at = snprintf(text, sizeof text, "%s: %s; ", op, condition);
    if (at < 0 || (size_t)at >= sizeof text)
        at = 0;
    va_list args;
    va_start(args, fmt);
    vsnprintf(text + at, sizeof text - (size_t)at, fmt, args);
    va_end(args);
    mll_assert_failed(text, __FILE__, line);
}

/* CHECK(condition, format, values...): the values are the shapes of the call. */
#define CHECK(cond, ...) ((cond) ? (void)0 : check_failed(__func__, #cond, __LINE__, __VA_ARGS__))

static bool is_float(enum mll_dtype dtype)
{
    return dtype == MLL_DTYPE_F32 || dtype == MLL_DTYPE_F16 || dtype == MLL_DTYPE_BF16;
}

static bool is_matrix(const struct mat *m)
{
    return m != NULL && m->data != NULL && is_float(m->dtype) && m->rows > 0 && m->cols > 0;
}

/* A 4-bit weight's blocks, of a size that bitsandbytes knows. */
static bool is_blocks(const struct mat_blocks *b)
{
    return b != NULL && b->block >= 32 && b->block <= 4096 && (b->block & (b->block - 1)) == 0 &&
           is_float(b->rounded) &&
           (b->absmax != NULL ||
            (b->codes != NULL && b->nested_absmax != NULL && b->nested_map != NULL));
}

/* What op_matmul multiplies by: a matrix, or a quantised one with all that belongs to it. */
static bool is_weight(const struct mat *m)
{
    if (is_matrix(m))
        return true;
    return m != NULL && m->data != NULL && m->rows > 0 && m->cols > 0 &&
           (m->dtype == MLL_DTYPE_I8 ? m->scale != NULL
                                     : m->dtype == MLL_DTYPE_Q4 && is_blocks(m->blocks));
}

static bool is_vector(const struct mat *m, int cols)
{
    return is_matrix(m) && m->rows == 1 && m->cols == cols;
}

/* A scalar: one element, whatever its shape. */
static bool is_scalar(const struct mat *m)
{
    return is_vector(m, 1);
}

static bool is_pool(const struct kv_pool *pool)
{
    return pool != NULL && pool->k != NULL && pool->v != NULL && pool->n_blocks > 0 &&
           pool->n_kv_heads > 0 && pool->head_dim > 0;
}

static bool is_table(const struct kv_table *table)
{
    return table != NULL && table->blocks != NULL && table->n_seqs > 0 && table->max_blocks > 0;
}

/* ---- rows and elementwise -------------------------------------------------------------------- */

void op_gather_rows(struct mll_exec *ex, float *y, const struct mat *table, const int32_t *ids,
                    int n)
{
    CHECK(n >= 0 && is_matrix(table), "n %d", n);
    if (n == 0)
        return;
    CHECK(y != NULL && ids != NULL, "n %d", n);
    ex->ops->gather_rows(ex, y, table, ids, n);
}

void op_take_rows(struct mll_exec *ex, float *y, const float *x, const int32_t *ids, int n, int n_x,
                  int dim)
{
    CHECK(n >= 0 && n_x >= 0 && dim > 0, "n %d, n_x %d, dim %d", n, n_x, dim);
    if (n == 0)
        return;
    CHECK(y != NULL && ids != NULL && (x != NULL || n_x == 0), "n %d, n_x %d, dim %d", n, n_x, dim);
    ex->ops->take_rows(ex, y, x, ids, n, n_x, dim);
}

void op_rmsnorm(struct mll_exec *ex, float *y, const float *x, const struct mat *w, int rows,
                int dim, float eps)
{
    CHECK(rows >= 0 && dim > 0 && is_vector(w, dim), "rows %d, dim %d", rows, dim);
    if (rows == 0)
        return;
    CHECK(y != NULL && x != NULL, "rows %d, dim %d", rows, dim);
    ex->ops->rmsnorm(ex, y, x, w, rows, dim, eps);
}

void op_layernorm(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                  const struct mat *b, int rows, int dim, float eps)
{
    CHECK(rows >= 0 && dim > 0 && is_vector(w, dim) && is_vector(b, dim), "rows %d, dim %d", rows,
          dim);
    if (rows == 0)
        return;
    CHECK(y != NULL && x != NULL, "rows %d, dim %d", rows, dim);
    ex->ops->layernorm(ex, y, x, w, b, rows, dim, eps);
}

void op_add(struct mll_exec *ex, float *y, const float *x, const float *z, size_t n)
{
    if (n == 0)
        return;
    CHECK(y != NULL && x != NULL && z != NULL, "n %zu", n);
    ex->ops->add(ex, y, x, z, n);
}

void op_add_gated(struct mll_exec *ex, float *y, const float *x, const struct mat *gate,
                  const float *row_scale, int rows, int dim)
{
    CHECK(rows >= 0 && dim > 0 && (gate == NULL || is_scalar(gate)), "rows %d, dim %d", rows, dim);
    if (rows == 0)
        return;
    CHECK(y != NULL && x != NULL, "rows %d, dim %d", rows, dim);
    ex->ops->add_gated(ex, y, x, gate, row_scale, rows, dim);
}

void op_add_rmsnorm(struct mll_exec *ex, float *y, float *h, const float *x, const struct mat *gate,
                    const float *row_scale, const struct mat *w, int rows, int dim, float eps)
{
    CHECK(rows >= 0 && dim > 0 && is_vector(w, dim) && (gate == NULL || is_scalar(gate)),
          "rows %d, dim %d", rows, dim);
    if (rows == 0)
        return;
    CHECK(y != NULL && h != NULL && x != NULL, "rows %d, dim %d", rows, dim);
    ex->ops->add_rmsnorm(ex, y, h, x, gate, row_scale, w, rows, dim, eps);
}

void op_silu_mul(struct mll_exec *ex, float *y, const float *gate, const float *up, int rows,
                 int dim)
{
    CHECK(rows >= 0 && dim > 0, "rows %d, dim %d", rows, dim);
    if (rows == 0)
        return;
    CHECK(y != NULL && gate != NULL && up != NULL, "rows %d, dim %d", rows, dim);
    ex->ops->silu_mul(ex, y, gate, up, rows, dim);
}

void op_gelu(struct mll_exec *ex, float *y, const float *x, int rows, int dim)
{
    CHECK(rows >= 0 && dim > 0, "rows %d, dim %d", rows, dim);
    if (rows == 0)
        return;
    CHECK(y != NULL && x != NULL, "rows %d, dim %d", rows, dim);
    ex->ops->gelu(ex, y, x, rows, dim);
}

/* ---- matmul ---------------------------------------------------------------------------------- */

/* Of x w^T + bias, in the name of the op that it stands in. */
#define CHECK_PRODUCT(w, bias, n)                                                                \
    do {                                                                                         \
        CHECK(n >= 0 && is_weight(w), "n %d", n);                                                \
        CHECK(bias == NULL || is_vector(bias, w->rows), "n %d, w %d x %d", n, w->rows, w->cols); \
    } while (0)

void op_matmul(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
               const struct mat *bias, int n)
{
    CHECK_PRODUCT(w, bias, n);
    if (n == 0)
        return;
    CHECK(y != NULL && x != NULL, "n %d, w %d x %d", n, w->rows, w->cols);
    ex->ops->matmul(ex, y, x, w, bias, n);
}

void op_matmul_gelu(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                    const struct mat *bias, int n)
{
    CHECK_PRODUCT(w, bias, n);
    if (n == 0)
        return;
    CHECK(y != NULL && x != NULL, "n %d, w %d x %d", n, w->rows, w->cols);
    ex->ops->matmul_gelu(ex, y, x, w, bias, n);
}

void op_matmul_add(struct mll_exec *ex, float *y, const float *base, const float *x,
                   const struct mat *w, const struct mat *bias, const struct mat *gate, int n)
{
    CHECK_PRODUCT(w, bias, n);
    CHECK(gate == NULL || is_scalar(gate), "n %d, w %d x %d", n, w->rows, w->cols);
    if (n == 0)
        return;
    CHECK(y != NULL && base != NULL && x != NULL, "n %d, w %d x %d", n, w->rows, w->cols);
    ex->ops->matmul_add(ex, y, base, x, w, bias, gate, n);
}

void op_matmul_group(struct mll_exec *ex, float *const y[], const float *x,
                     const struct mat *const w[], int count, int n)
{
    CHECK(n >= 0 && count >= 1 && count <= MLL_MATMUL_GROUP, "n %d, count %d", n, count);
    for (int i = 0; i < count; i++)
        CHECK(is_weight(w[i]) && w[i]->cols == w[0]->cols, "n %d, weight %d", n, i);
    if (n == 0)
        return;
    for (int i = 0; i < count; i++)
        CHECK(y[i] != NULL && x != NULL, "n %d, weight %d", n, i);
    ex->ops->matmul_group(ex, y, x, w, count, n);
}

size_t op_matmul_scratch(const struct mll_exec *ex, int n, int cols)
{
    CHECK(n >= 0 && cols > 0, "n %d, cols %d", n, cols);
    return ex->ops->matmul_scratch(ex, n, cols);
}

size_t op_matmul_add_scratch(const struct mll_exec *ex, int n, int rows, int cols)
{
    CHECK(n >= 0 && rows > 0 && cols > 0, "n %d, w %d x %d", n, rows, cols);
    return ex->ops->matmul_add_scratch(ex, n, rows, cols);
}

/* ---- attention ------------------------------------------------------------------------------- */

void op_rope(struct mll_exec *ex, float *x, const int32_t *pos, const float *inv_freq, int n,
             int heads, int head_dim)
{
    CHECK(n >= 0 && heads > 0 && head_dim > 0 && head_dim % 2 == 0, "n %d, heads %d, head_dim %d",
          n, heads, head_dim);
    if (n == 0)
        return;
    CHECK(x != NULL && pos != NULL && inv_freq != NULL, "n %d, heads %d, head_dim %d", n, heads,
          head_dim);
    ex->ops->rope(ex, x, pos, inv_freq, n, heads, head_dim);
}

void op_kv_append(struct mll_exec *ex, struct kv_pool *pool, const float *k, const float *v,
                  const struct kv_table *table, const int32_t *seq, const int32_t *pos, int n)
{
    CHECK(n >= 0 && is_pool(pool) && is_table(table), "n %d", n);
    CHECK(ex->memory == 0 || pool->head_dim <= MLL_ATTN_DIM_MAX, "head_dim %d", pool->head_dim);
    if (n == 0)
        return;
    CHECK(k != NULL && v != NULL && seq != NULL && pos != NULL, "n %d", n);
    ex->ops->kv_append(ex, pool, k, v, table, seq, pos, n);
}

void op_rope_kv_append(struct mll_exec *ex, struct kv_pool *pool, float *q, float *k,
                       const float *v, const struct kv_table *table, const int32_t *seq,
                       const int32_t *pos, const float *inv_freq, int n, int heads)
{
    CHECK(n >= 0 && heads > 0 && is_pool(pool) && is_table(table), "n %d, heads %d", n, heads);
    CHECK(pool->head_dim % 2 == 0 && (ex->memory == 0 || pool->head_dim <= MLL_ATTN_DIM_MAX),
          "head_dim %d", pool->head_dim);
    if (n == 0)
        return;
    CHECK(q != NULL && k != NULL && v != NULL && seq != NULL && pos != NULL && inv_freq != NULL,
          "n %d, heads %d", n, heads);
    ex->ops->rope_kv_append(ex, pool, q, k, v, table, seq, pos, inv_freq, n, heads);
}

void op_attn(struct mll_exec *ex, float *y, const float *q, const struct kv_pool *pool,
             const struct kv_table *table, const int32_t *seq, const int32_t *begin,
             const int32_t *end, int n, int heads, float scale)
{
    CHECK(n >= 0 && heads > 0 && is_pool(pool) && is_table(table), "n %d, heads %d", n, heads);
    CHECK(heads % pool->n_kv_heads == 0, "n %d, heads %d, kv heads %d", n, heads, pool->n_kv_heads);
    CHECK(ex->memory == 0 || pool->head_dim <= MLL_ATTN_DIM_MAX, "head_dim %d", pool->head_dim);
    if (n == 0)
        return;
    CHECK(y != NULL && q != NULL && seq != NULL && begin != NULL && end != NULL, "n %d, heads %d",
          n, heads);
    ex->ops->attn(ex, y, q, pool, table, seq, begin, end, n, heads, scale);
}

void op_attn_vision(struct mll_exec *ex, float *y, const float *q, const float *k, const float *v,
                    const uint8_t *pad, int rows, int heads, int head_dim, float scale)
{
    CHECK(rows >= 0 && heads > 0 && head_dim > 0, "rows %d, heads %d, head_dim %d", rows, heads,
          head_dim);
    CHECK(ex->memory == 0 || head_dim <= MLL_ATTN_DIM_MAX, "head_dim %d", head_dim);
    if (rows == 0)
        return;
    CHECK(y != NULL && q != NULL && k != NULL && v != NULL && pad != NULL,
          "rows %d, heads %d, head_dim %d", rows, heads, head_dim);
    ex->ops->attn_vision(ex, y, q, k, v, pad, rows, heads, head_dim, scale);
}

size_t op_attn_vision_scratch(const struct mll_exec *ex, int rows, int heads, int head_dim)
{
    CHECK(rows >= 0 && heads > 0 && head_dim > 0, "rows %d, heads %d, head_dim %d", rows, heads,
          head_dim);
    return ex->ops->attn_vision_scratch(ex, rows, heads, head_dim);
}

size_t op_attn_scratch(const struct mll_exec *ex, int n, int heads, int head_dim)
{
    CHECK(n >= 0 && heads > 0 && head_dim > 0, "n %d, heads %d, head_dim %d", n, heads, head_dim);
    return ex->ops->attn_scratch(ex, n, heads, head_dim);
}

/* ---- vision ---------------------------------------------------------------------------------- */

void op_patchify(struct mll_exec *ex, float *y, const float *x, int tiles, int size, int patch)
{
    CHECK(tiles >= 0 && patch > 0 && size >= patch, "tiles %d, size %d, patch %d", tiles, size,
          patch);
    if (tiles == 0)
        return;
    CHECK(y != NULL && x != NULL, "tiles %d, size %d, patch %d", tiles, size, patch);
    ex->ops->patchify(ex, y, x, tiles, size, patch);
}

/* Whether a table row holds whole tiles of rows * dim elements, and at least `tiles` of them. */
static bool is_tile_table(const struct mat *table, int tiles, int rows, int dim)
{
    size_t tile = (size_t)rows * (size_t)dim;
    return is_matrix(table) && (size_t)table->cols % tile == 0 &&
           (size_t)table->cols / tile >= (size_t)tiles;
}

void op_add_tile_embedding(struct mll_exec *ex, float *x, const struct mat *table,
                           const struct mat *gate, const int32_t *id, int tiles, int rows, int dim)
{
    CHECK(tiles >= 0 && rows > 0 && dim > 0, "tiles %d, rows %d, dim %d", tiles, rows, dim);
    CHECK(is_tile_table(table, tiles, 1, dim) && is_scalar(gate), "tiles %d, rows %d, dim %d",
          tiles, rows, dim);
    if (tiles == 0)
        return;
    CHECK(x != NULL && id != NULL, "tiles %d, rows %d, dim %d", tiles, rows, dim);
    ex->ops->add_tile_embedding(ex, x, table, gate, id, tiles, rows, dim);
}

void op_add_position_embedding(struct mll_exec *ex, float *x, const struct mat *position,
                               const struct mat *tile_position, const struct mat *gate,
                               const int32_t *id, int tiles, int rows, int dim)
{
    CHECK(tiles >= 0 && rows > 0 && dim > 0, "tiles %d, rows %d, dim %d", tiles, rows, dim);
    CHECK(is_matrix(position) && position->rows == rows && position->cols == dim,
          "tiles %d, rows %d, dim %d", tiles, rows, dim);
    CHECK(is_tile_table(tile_position, tiles, rows, dim) && is_scalar(gate),
          "tiles %d, rows %d, dim %d", tiles, rows, dim);
    if (tiles == 0)
        return;
    CHECK(x != NULL && id != NULL, "tiles %d, rows %d, dim %d", tiles, rows, dim);
    ex->ops->add_position_embedding(ex, x, position, tile_position, gate, id, tiles, rows, dim);
}

void op_class_and_pad(struct mll_exec *ex, float *y, const float *x, const struct mat *cls,
                      int tiles, int patches, int rows, int dim)
{
    CHECK(tiles >= 0 && patches >= 0 && rows > patches && dim > 0 && is_vector(cls, dim),
          "tiles %d, patches %d, rows %d, dim %d", tiles, patches, rows, dim);
    if (tiles == 0)
        return;
    CHECK(y != NULL && x != NULL, "tiles %d, patches %d, rows %d, dim %d", tiles, patches, rows,
          dim);
    ex->ops->class_and_pad(ex, y, x, cls, tiles, patches, rows, dim);
}

void op_join_states(struct mll_exec *ex, float *y, const float *last, const float *const *kept,
                    int n_kept, int tiles, int patches, int rows, int dim)
{
    CHECK(tiles >= 0 && patches >= 0 && rows > patches && dim > 0 && n_kept >= 0,
          "tiles %d, patches %d, rows %d, dim %d, kept %d", tiles, patches, rows, dim, n_kept);
    if (tiles == 0)
        return;
    CHECK(y != NULL && last != NULL && (kept != NULL || n_kept == 0),
          "tiles %d, patches %d, rows %d, dim %d, kept %d", tiles, patches, rows, dim, n_kept);
    ex->ops->join_states(ex, y, last, kept, n_kept, tiles, patches, rows, dim);
}

/* ---- logits ---------------------------------------------------------------------------------- */

static bool is_logits(int n, int dim)
{
    return n >= 0 && dim > 0 && dim <= SAMPLE_DIM_MAX;
}

void op_hash_rows(struct mll_exec *ex, struct sample_out *out, const float *x, int n, int dim)
{
    CHECK(is_logits(n, dim), "n %d, dim %d", n, dim);
    if (n == 0)
        return;
    CHECK(out != NULL && x != NULL, "n %d, dim %d", n, dim);
    ex->ops->hash_rows(ex, out, x, n, dim);
}

void op_log_probs(struct mll_exec *ex, float *y, const float *x, int n, int dim)
{
    CHECK(is_logits(n, dim), "n %d, dim %d", n, dim);
    if (n == 0)
        return;
    CHECK(y != NULL && x != NULL, "n %d, dim %d", n, dim);
    ex->ops->log_probs(ex, y, x, n, dim);
}

void op_process(struct mll_exec *ex, float *y, struct sample_out *out, const float *x,
                const struct sample_row *rows, int n, int dim)
{
    CHECK(is_logits(n, dim), "n %d, dim %d", n, dim);
    if (n == 0)
        return;
    CHECK(y != NULL && out != NULL && x != NULL && rows != NULL, "n %d, dim %d", n, dim);
    ex->ops->process(ex, y, out, x, rows, n, dim);
}

void op_choose(struct mll_exec *ex, struct sample_out *out, const float *scores, int n, int dim)
{
    CHECK(is_logits(n, dim), "n %d, dim %d", n, dim);
    if (n == 0)
        return;
    CHECK(out != NULL && scores != NULL, "n %d, dim %d", n, dim);
    ex->ops->choose(ex, out, scores, n, dim);
}

void op_warp(struct mll_exec *ex, float *y, const float *scores, const struct sample_row *rows,
             const struct sample_out *out, int n, int dim)
{
    CHECK(is_logits(n, dim), "n %d, dim %d", n, dim);
    if (n == 0)
        return;
    CHECK(y != NULL && scores != NULL && rows != NULL && out != NULL, "n %d, dim %d", n, dim);
    ex->ops->warp(ex, y, scores, rows, out, n, dim);
}

void op_draw(struct mll_exec *ex, struct sample_out *out, const float *y, const float *scores,
             const struct sample_row *rows, int n, int dim)
{
    CHECK(is_logits(n, dim), "n %d, dim %d", n, dim);
    if (n == 0)
        return;
    CHECK(out != NULL && y != NULL && scores != NULL && rows != NULL, "n %d, dim %d", n, dim);
    ex->ops->draw(ex, out, y, scores, rows, n, dim);
}

size_t op_sample_scratch(const struct mll_exec *ex, int n, int dim)
{
    CHECK(is_logits(n, dim), "n %d, dim %d", n, dim);
    return ex->ops->sample_scratch(ex, n, dim);
}
