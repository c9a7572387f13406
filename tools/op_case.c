/* op_case.c - operands of one op, and its call.  See op_case.h. */
#include "op_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "synthetic.h"

enum { KV_HEADS = 8 };

static const char *const names[] = {"matmul", "attn", "attn_vision", "rmsnorm", "silu_mul", "add"};

const char *op_case_name(enum op_kind kind)
{
    return names[kind];
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static double matrix_bytes(const struct op_shape *s)
{
    double n = (double)s->rows * s->cols, blocks = n / 64;
    if (s->quant == NULL)
        return 2 * n;
    if (strcmp(s->quant, "int8") == 0)
        return n + 4.0 * s->rows;
    return n / 2 +
           (strcmp(s->quant, "nf4") == 0 ? 4 * blocks : blocks + 4 * blocks / MLL_NESTED_BLOCK);
}

/* Elements of x: attention in the tower has q, k and v there, silu_mul gate and up. */
static size_t inputs(const struct op_shape *s)
{
    size_t n = (size_t)s->n;
    switch (s->kind) {
    case CASE_ATTN:
        return n * (size_t)s->rows * (size_t)s->cols;
    case CASE_ATTN_VISION:
        return 3 * n * (size_t)s->rows * (size_t)s->cols;
    case CASE_SILU_MUL:
    case CASE_ADD:
        return 2 * n * (size_t)s->cols;
    case CASE_MATMUL:
    case CASE_RMSNORM:
        break;
    }
    return n * (size_t)s->cols;
}

size_t op_case_outputs(const struct op_shape *s)
{
    size_t n = (size_t)s->n;
    if (s->kind == CASE_MATMUL)
        return n * (size_t)s->rows;
    if (s->kind == CASE_ATTN || s->kind == CASE_ATTN_VISION)
        return n * (size_t)s->rows * (size_t)s->cols;
    return n * (size_t)s->cols;
}

double op_case_bytes(const struct op_shape *s)
{
    double bytes = 4.0 * (double)(inputs(s) + op_case_outputs(s));
    if (s->kind == CASE_MATMUL)
        bytes += matrix_bytes(s);
    if (s->kind == CASE_ATTN)
        bytes += 2.0 * 4 * s->context * KV_HEADS * s->cols;
    return bytes;
}

double op_case_flops(const struct op_shape *s)
{
    double n = s->n, width = (double)s->rows * s->cols;
    switch (s->kind) {
    case CASE_MATMUL:
        return 2 * n * width;
    case CASE_ATTN:
        return 4 * n * width * (s->context - (n - 1) / 2);
    case CASE_ATTN_VISION:
        return 4 * n * n * width;
    case CASE_RMSNORM:
        return 4 * n * s->cols;
    case CASE_SILU_MUL:
        return 8 * n * s->cols;
    case CASE_ADD:
        return n * s->cols;
    }
    return 0;
}

static size_t kv_blocks(const struct op_shape *s)
{
    return ((size_t)s->context + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK;
}

static size_t pool_bytes(const struct mll_exec *ex, const struct op_shape *s, int n_copies)
{
    return kv_blocks(s) * (size_t)n_copies * KV_HEADS * kv_block_bytes(exec_kv_dtype(ex), s->cols);
}

size_t op_case_scratch(const struct mll_exec *ex, const struct op_shape *s, int n_copies)
{
    size_t n = (size_t)s->n, room = 1 << 16;
    size_t bytes = 4 * (inputs(s) + op_case_outputs(s)) + room;
    if (s->kind == CASE_MATMUL)
        return bytes + op_matmul_scratch(ex, s->n, s->cols);
    if (s->kind == CASE_ATTN_VISION)
        return bytes + n + op_attn_vision_scratch(ex, s->n, s->rows, s->cols);
    if (s->kind != CASE_ATTN)
        return bytes;
    size_t keys = 4 * MLL_KV_BLOCK * KV_HEADS * (size_t)s->cols * 2; /* while the pool is filled */
    return bytes + 2 * pool_bytes(ex, s, n_copies) + 4 * (kv_blocks(s) * (size_t)n_copies + 3 * n) +
           keys + op_attn_scratch(ex, s->n, s->rows, s->cols);
}

/* ---- operands -------------------------------------------------------------------------------- */

static void fill(float *x, size_t n, uint64_t seed)
{
    uint64_t state = seed;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)(state >> 40) * 0x1p-23f - 1.0f;
    }
}

/* Random numbers in the exec's memory; NULL where the host has none. */
static float *numbers(struct mll_exec *ex, size_t n, uint64_t seed)
{
    float *host = malloc(n * sizeof *host), *x = exec_alloc(ex, n * sizeof *x);
    if (host == NULL)
        return NULL;
    fill(host, n, seed);
    exec_upload(ex, x, host, n * sizeof *x);
    free(host);
    return x;
}

/* first, first + step, ... */
static int32_t *ramp(struct mll_exec *ex, size_t n, int32_t first, int32_t step)
{
    int32_t *host = malloc(n * sizeof *host), *p = exec_alloc(ex, n * sizeof *p);
    if (host == NULL)
        return NULL;
    for (size_t i = 0; i < n; i++)
        host[i] = first + (int32_t)i * step;
    exec_upload(ex, p, host, n * sizeof *p);
    free(host);
    return p;
}

/* Keys and values of n_copies contexts, one block behind the other, stored as the engine would. */
static bool open_pool(struct op_case *c)
{
    const struct op_shape *s = &c->shape;
    size_t all = kv_blocks(s) * (size_t)c->n_copies, bytes = pool_bytes(c->ex, s, c->n_copies);
    c->pool = (struct kv_pool){exec_alloc(c->ex, bytes),
                               exec_alloc(c->ex, bytes),
                               exec_kv_dtype(c->ex),
                               (int)all,
                               KV_HEADS,
                               s->cols};
    c->blocks = ramp(c->ex, all, 0, 1);
    c->seq = ramp(c->ex, (size_t)s->n, 0, 0);
    c->begin = ramp(c->ex, (size_t)s->n, 0, 0);
    c->end = ramp(c->ex, (size_t)s->n, s->context - s->n + 1, 1);
    size_t mark = exec_mark(c->ex), row = (size_t)KV_HEADS * (size_t)s->cols;
    float *kv = numbers(c->ex, MLL_KV_BLOCK * row, 3);
    if (!c->blocks || !c->seq || !c->begin || !c->end || !kv)
        return false;
    struct kv_table table = {c->blocks, 1, (int)all};
    for (size_t b = 0; b < all; b++) {
        size_t inner = exec_mark(c->ex);
        int32_t *pos = ramp(c->ex, MLL_KV_BLOCK, (int32_t)b * MLL_KV_BLOCK, 1);
        int32_t *seq = ramp(c->ex, MLL_KV_BLOCK, 0, 0);
        if (!pos || !seq)
            return false;
        op_kv_append(c->ex, &c->pool, kv, kv, &table, seq, pos, MLL_KV_BLOCK);
        exec_release(c->ex, inner);
    }
    exec_release(c->ex, mark);
    return true;
}

enum mll_status op_case_open(struct op_case *c, struct mll_exec *ex, const struct op_shape *shape,
                             int n_copies, struct mll_error *err)
{
    *c = (struct op_case){.shape = *shape, .ex = ex, .n_copies = n_copies};
    c->x = numbers(ex, inputs(shape), 7);
    c->y = exec_alloc(ex, op_case_outputs(shape) * sizeof *c->y);
    bool ok = c->x != NULL;
    if (ok && shape->kind == CASE_ATTN)
        ok = open_pool(c);
    if (ok && shape->kind == CASE_ATTN_VISION)
        ok = (c->pad = (uint8_t *)ramp(ex, ((size_t)shape->n + 3) / 4, 0, 0)) != NULL;
    if (!ok)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %s", shape->name);
    bool matrix = shape->kind == CASE_MATMUL;
    for (int i = 0; i < n_copies && (matrix || shape->kind == CASE_RMSNORM); i++) {
        MLL_TRY(synthetic_matrix(&c->w[i], &c->memory[i], matrix ? shape->rows : 1, shape->cols,
                                 shape->quant, err));
        MLL_TRY(exec_load_weight(ex, &c->w[i], matrix ? WEIGHT_MATRIX : WEIGHT_VECTOR, err));
    }
    exec_set_phase(ex, shape->phase);
    return exec_take_error(ex, err);
}

void op_case_close(struct op_case *c)
{
    for (int i = 0; i < OP_COPIES; i++)
        free(c->memory[i]);
    *c = (struct op_case){.ex = NULL};
}

void op_case_call(const struct op_case *c, int copy)
{
    const struct op_shape *s = &c->shape;
    size_t one = op_case_outputs(s);
    float scale = 1.0f / sqrtf((float)s->cols);
    struct kv_table table = {NULL, 1, (int)kv_blocks(s)};
    switch (s->kind) {
    case CASE_MATMUL:
        op_matmul(c->ex, c->y, c->x, &c->w[copy], NULL, s->n);
        break;
    case CASE_ATTN:
        table.blocks = c->blocks + (size_t)copy * kv_blocks(s);
        op_attn(c->ex, c->y, c->x, &c->pool, &table, c->seq, c->begin, c->end, s->n, s->rows,
                scale);
        break;
    case CASE_ATTN_VISION:
        op_attn_vision(c->ex, c->y, c->x, c->x + one, c->x + 2 * one, c->pad, s->n, s->rows,
                       s->cols, scale);
        break;
    case CASE_RMSNORM:
        op_rmsnorm(c->ex, c->y, c->x, &c->w[copy], s->n, s->cols, 1e-5f);
        break;
    case CASE_SILU_MUL:
        op_silu_mul(c->ex, c->y, c->x, c->x + one, s->n, s->cols);
        break;
    case CASE_ADD:
        op_add(c->ex, c->y, c->x, c->x + one, one);
        break;
    }
}
