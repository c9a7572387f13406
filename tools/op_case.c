/* op_case.c - operands of one op, and its call.  See op_case.h. */
#include "op_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "sample.h"
#include "synthetic.h"

enum { KV_HEADS = 8, KEPT = 5, PAD_TO = 8, SEED_KEYS = 100 };

static const struct {
    const char *name;
    int inputs, vectors;
    double flop; /* an element, where there is no formula */
} kinds[CASE_COUNT] = {
    [CASE_MATMUL] = {"matmul", 1, 0, 0},
    [CASE_ATTN] = {"attn", 1, 0, 0},
    [CASE_ATTN_VISION] = {"attn_vision", 3, 0, 0},
    [CASE_ROPE_KV_APPEND] = {"rope_kv_append", 3, 0, 3},
    [CASE_GATHER_ROWS] = {"gather_rows", 0, 0, 0},
    [CASE_RMSNORM] = {"rmsnorm", 1, 1, 4},
    [CASE_ADD_RMSNORM] = {"add_rmsnorm", 2, 1, 5},
    [CASE_LAYERNORM] = {"layernorm", 1, 2, 8},
    [CASE_SILU_MUL] = {"silu_mul", 2, 0, 8},
    [CASE_GELU] = {"gelu", 1, 0, 10},
    [CASE_ADD] = {"add", 2, 0, 1},
    [CASE_LOG_PROBS] = {"log_probs", 1, 0, 4},
    [CASE_CHOOSE] = {"choose", 1, 0, 2},
    [CASE_PATCHIFY] = {"patchify", 1, 0, 0},
    [CASE_JOIN_STATES] = {"join_states", 1, 0, 0},
};

const char *op_case_name(enum op_kind kind)
{
    return kinds[kind].name;
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static double matrix_bytes(const struct op_shape *s)
{
    double n = (double)s->rows * s->cols, blocks = n / 64;
    if (strcmp(s->quant, "bf16") == 0)
        return 2 * n;
    if (strcmp(s->quant, "int8") == 0)
        return n + 4.0 * s->rows;
    return n / 2 +
           (strcmp(s->quant, "nf4") == 0 ? 4 * blocks : blocks + 4 * blocks / MLL_NESTED_BLOCK);
}

static size_t heads_width(const struct op_shape *s)
{
    return (size_t)s->rows * (size_t)s->cols;
}

/* Rows of a tile in the tower, and of what leaves it. */
static int tile_rows(const struct op_shape *s)
{
    return (s->rows * s->rows + 1 + PAD_TO - 1) / PAD_TO * PAD_TO;
}

/* Elements of a row of input i. */
static size_t input_width(const struct op_shape *s, int i)
{
    switch (s->kind) {
    case CASE_ATTN:
    case CASE_ATTN_VISION:
        return heads_width(s);
    case CASE_ROPE_KV_APPEND:
        return i == 0 ? heads_width(s) : (size_t)KV_HEADS * (size_t)s->cols;
    case CASE_PATCHIFY:
        return 3 * (size_t)s->cols * (size_t)s->cols;
    case CASE_JOIN_STATES:
        return (1 + KEPT) * (size_t)tile_rows(s) * (size_t)s->cols;
    default:
        return (size_t)s->cols;
    }
}

size_t op_case_width(const struct op_shape *s)
{
    size_t grid = (size_t)(s->cols / s->rows), patch = (size_t)s->rows;
    switch (s->kind) {
    case CASE_MATMUL:
        return patch;
    case CASE_CHOOSE:
        return 1;
    case CASE_PATCHIFY:
        return grid * grid * 3 * patch * patch;
    case CASE_JOIN_STATES:
        return ((size_t)s->rows * (size_t)s->rows + 1) * (size_t)s->cols * (1 + KEPT);
    case CASE_GATHER_ROWS:
        return (size_t)s->cols;
    default:
        return input_width(s, 0);
    }
}

bool op_case_separable(const struct op_shape *s)
{
    return s->kind != CASE_PATCHIFY && s->kind != CASE_JOIN_STATES;
}

static size_t inputs_width(const struct op_shape *s)
{
    size_t width = 0;
    for (int i = 0; i < kinds[s->kind].inputs; i++)
        width += input_width(s, i);
    return width;
}

static double keys_bytes(enum mll_dtype kv, int keys, int dim)
{
    return 2.0 * KV_HEADS * keys / MLL_KV_BLOCK * (double)kv_block_bytes(kv, dim);
}

double op_case_bytes(const struct op_shape *s, enum mll_dtype kv)
{
    double n = s->n, bytes = 4 * n * (double)(inputs_width(s) + op_case_width(s));
    switch (s->kind) {
    case CASE_MATMUL:
        return bytes + matrix_bytes(s);
    case CASE_ATTN:
        return bytes + keys_bytes(kv, s->context, s->cols);
    case CASE_ROPE_KV_APPEND:
        return bytes + keys_bytes(kv, s->n, s->cols);
    case CASE_GATHER_ROWS:
        return bytes + 2 * n * s->cols;
    case CASE_ADD_RMSNORM:
        return bytes + 4 * n * s->cols; /* the sum is stored, too */
    default:
        return bytes;
    }
}

double op_case_flop(const struct op_shape *s)
{
    double n = s->n, width = (double)s->rows * s->cols;
    switch (s->kind) {
    case CASE_MATMUL:
        return 2 * n * width;
    case CASE_ATTN:
        return 4 * n * width * (s->context - (n - 1) / 2);
    case CASE_ATTN_VISION:
        return 4 * n * n * width;
    default:
        return kinds[s->kind].flop * n * (double)input_width(s, 0);
    }
}

static size_t kv_blocks(const struct op_shape *s)
{
    int positions = s->kind == CASE_ATTN_VISION      ? s->n
                    : s->kind == CASE_ROPE_KV_APPEND ? s->context + s->n
                                                     : s->context;
    return ((size_t)positions + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK;
}

static int kv_heads(const struct op_shape *s)
{
    return s->kind == CASE_ATTN_VISION ? s->rows : KV_HEADS;
}

static size_t pool_bytes(const struct mll_exec *ex, const struct op_shape *s, int n_copies)
{
    return kv_blocks(s) * (size_t)n_copies * (size_t)kv_heads(s) *
           kv_block_bytes(exec_kv_dtype(ex), s->cols);
}

static bool has_pool(const struct op_shape *s, bool chosen)
{
    return s->kind == CASE_ATTN || s->kind == CASE_ROPE_KV_APPEND ||
           (s->kind == CASE_ATTN_VISION && chosen);
}

size_t op_case_scratch(const struct mll_exec *ex, const struct op_shape *s, int n_copies)
{
    size_t n = (size_t)s->n, room = 1 << 20, bytes = room;
    bytes += 4 * n * (inputs_width(s) + op_case_width(s) + 8);
    if (has_pool(s, true)) /* and its rows while it is filled */
        bytes += 2 * pool_bytes(ex, s, n_copies) +
                 4 * kv_blocks(s) * ((size_t)n_copies + 2 * MLL_KV_BLOCK) +
                 2 * 4 * kv_blocks(s) * MLL_KV_BLOCK * (size_t)kv_heads(s) * (size_t)s->cols;
    switch (s->kind) {
    case CASE_MATMUL:
        return bytes + op_matmul_scratch(ex, s->n, s->cols);
    case CASE_ATTN:
        return bytes + op_attn_scratch(ex, s->n, s->rows, s->cols);
    case CASE_ATTN_VISION:
        return bytes + op_attn_vision_scratch(ex, s->n, s->rows, s->cols) +
               op_attn_scratch(ex, s->n, s->rows, s->cols);
    case CASE_LOG_PROBS:
    case CASE_CHOOSE:
        return bytes + n * sizeof(struct sample_out) + op_sample_scratch(ex, s->n, s->cols);
    default:
        return bytes;
    }
}

/* ---- operands -------------------------------------------------------------------------------- */

/* Which rows of n a case has: those of `only`, or all where it is NULL. */
struct choice {
    const int *only; /* (n) */
    int n;
};

/* Copies the rows that were chosen of host data (elements of 4 bytes) to the exec; frees host. */
static void *place(struct mll_exec *ex, uint32_t *host, size_t width, struct choice choice)
{
    size_t n = (size_t)choice.n;
    void *x = exec_alloc(ex, n * width * sizeof *host);
    for (size_t i = 0; host && choice.only && i < n; i++) /* ascending, so that none is lost */
        memmove(host + i * width, host + (size_t)choice.only[i] * width, width * sizeof *host);
    if (host)
        exec_upload(ex, x, host, n * width * sizeof *host);
    free(host);
    return host ? x : NULL;
}

/* Random numbers in [-1, 1), of n rows those that were chosen; NULL where there is no memory. */
static float *numbers(struct mll_exec *ex, int n, size_t width, uint64_t seed, struct choice choice)
{
    float *host = malloc((size_t)n * width * sizeof *host);
    uint64_t state = seed;
    for (size_t i = 0; host && i < (size_t)n * width; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        host[i] = (float)(state >> 40) * 0x1p-23f - 1.0f;
    }
    return place(ex, (uint32_t *)host, width, choice);
}

/* first, first + step, ... modulo bound */
static int32_t *ramp(struct mll_exec *ex, int n, int64_t first, int64_t step, int64_t bound,
                     struct choice choice)
{
    int32_t *host = malloc((size_t)n * sizeof *host);
    for (int i = 0; host && i < n; i++)
        host[i] = (int32_t)((first + i * step) % bound);
    return place(ex, (uint32_t *)host, 1, choice);
}

/* Keys and values of a copy's context, stored as the engine would. */
static bool fill_pool(struct op_case *c, int copy, const struct kv_table *table)
{
    const struct op_shape *s = &c->shape;
    int n = s->kind == CASE_ATTN_VISION ? s->n : s->context;
    struct choice all = {NULL, n};
    size_t width = (size_t)kv_heads(s) * (size_t)s->cols, mark = exec_mark(c->ex);
    bool vision = s->kind == CASE_ATTN_VISION; /* the same keys as where all rows are computed */
    uint64_t seed = vision ? 1 : (uint64_t)(SEED_KEYS + 2 * copy);
    float *k = numbers(c->ex, n, width, seed, all), *v = numbers(c->ex, n, width, seed + 1, all);
    int32_t *pos = ramp(c->ex, n, 0, 1, INT32_MAX, all),
            *seq = ramp(c->ex, n, copy, 0, OP_COPIES, all);
    bool ok = k && v && pos && seq;
    if (ok)
        op_kv_append(c->ex, &c->pool, k, v, table, seq, pos, n);
    exec_release(c->ex, mark);
    return ok;
}

static bool open_pool(struct op_case *c, struct choice choice)
{
    const struct op_shape *s = &c->shape;
    struct mll_exec *ex = c->ex;
    size_t bytes = pool_bytes(ex, s, c->n_copies);
    int per_copy = (int)kv_blocks(s), all = per_copy * c->n_copies;
    bool append = s->kind == CASE_ROPE_KV_APPEND, vision = s->kind == CASE_ATTN_VISION;
    c->pool = (struct kv_pool){
        exec_alloc(ex, bytes), exec_alloc(ex, bytes), exec_kv_dtype(ex), all, kv_heads(s), s->cols};
    exec_zero(ex, c->pool.k, bytes);
    exec_zero(ex, c->pool.v, bytes);
    c->blocks = ramp(ex, all, 0, 1, INT32_MAX, (struct choice){NULL, all});
    c->seq = ramp(ex, s->n, 0, 0, 1, choice);
    c->begin = ramp(ex, s->n, append ? s->context : 0, append, INT32_MAX, choice);
    c->end = ramp(ex, s->n, vision ? s->n : s->context - s->n + 1, !vision, INT32_MAX, choice);
    if (!c->blocks || !c->seq || !c->begin || !c->end)
        return false;
    struct kv_table table = {c->blocks, c->n_copies, per_copy};
    for (int i = 0; i < c->n_copies && !append; i++)
        if (!fill_pool(c, i, &table))
            return false;
    return true;
}

/* Weights on the exec; each copy of a matrix has the same numbers elsewhere. */
static enum mll_status open_weights(struct op_case *c, struct mll_error *err)
{
    const struct op_shape *s = &c->shape;
    bool matrix = s->kind == CASE_MATMUL, table = s->kind == CASE_GATHER_ROWS;
    int n = matrix ? c->n_copies : table ? 1 : kinds[s->kind].vectors;
    const char *quant = matrix && strcmp(s->quant, "bf16") != 0 ? s->quant : NULL;
    enum weight_use use = matrix ? WEIGHT_MATRIX : table ? WEIGHT_TABLE : WEIGHT_VECTOR;
    for (int i = 0; i < n; i++) {
        MLL_TRY(synthetic_matrix(&c->w[i], &c->memory[i], matrix || table ? s->rows : 1, s->cols,
                                 quant, err));
        MLL_TRY(exec_load_weight(c->ex, &c->w[i], use, err));
    }
    return MLL_OK;
}

static bool open_rest(struct op_case *c, struct choice choice)
{
    const struct op_shape *s = &c->shape;
    float inv_freq[64];
    for (int i = 0; i < 64; i++)
        inv_freq[i] = powf(500000.0f, -(float)i / 64.0f);
    if (s->kind == CASE_GATHER_ROWS)
        return (c->ids = ramp(c->ex, s->n, 5, 7919, s->rows, choice)) != NULL;
    if (s->kind == CASE_ATTN_VISION && !choice.only)
        return (c->pad = (uint8_t *)ramp(c->ex, (s->n + 3) / 4, 0, 0, 1,
                                         (struct choice){NULL, (s->n + 3) / 4})) != NULL;
    if (s->kind == CASE_ROPE_KV_APPEND) {
        c->inv_freq = exec_alloc(c->ex, sizeof inv_freq);
        exec_upload(c->ex, c->inv_freq, inv_freq, sizeof inv_freq);
    }
    return true;
}

enum mll_status op_case_open(struct op_case *c, struct mll_exec *ex, const struct op_shape *shape,
                             int n_copies, const int *only, int n_only, struct mll_error *err)
{
    struct choice choice = {only, only ? n_only : shape->n};
    *c = (struct op_case){.shape = *shape, .ex = ex, .n = choice.n, .n_copies = n_copies};
    bool ok = true;
    for (int i = 0; i < kinds[shape->kind].inputs && ok; i++) {
        bool in_pool = shape->kind == CASE_ATTN_VISION && only && i > 0;
        if (!in_pool)
            ok = (c->x[i] = numbers(ex, shape->n, input_width(shape, i), (uint64_t)i, choice));
    }
    size_t result = (size_t)choice.n * op_case_width(shape) * sizeof *c->y;
    if (shape->kind == CASE_CHOOSE)
        result = (size_t)choice.n * sizeof(struct sample_out);
    c->y = exec_alloc(ex, result);
    exec_zero(ex, c->y, result);
    ok = ok && (!has_pool(shape, only != NULL) || open_pool(c, choice)) && open_rest(c, choice);
    if (!ok)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %s", shape->name);
    MLL_TRY(open_weights(c, err));
    exec_set_phase(ex, shape->phase);
    return exec_take_error(ex, err);
}

void op_case_close(struct op_case *c)
{
    for (int i = 0; i < OP_COPIES; i++)
        free(c->memory[i]);
    *c = (struct op_case){.ex = NULL};
}

/* ---- the call -------------------------------------------------------------------------------- */

static void call_attention(const struct op_case *c, int copy)
{
    const struct op_shape *s = &c->shape;
    float scale = 1.0f / sqrtf((float)s->cols);
    size_t per_copy = kv_blocks(s);
    struct kv_table table = {c->blocks + (size_t)copy * per_copy, 1, (int)per_copy};
    if (c->pad)
        op_attn_vision(c->ex, c->y, c->x[0], c->x[1], c->x[2], c->pad, c->n, s->rows, s->cols,
                       scale);
    else
        op_attn(c->ex, c->y, c->x[0], &c->pool, &table, c->seq, c->begin, c->end, c->n, s->rows,
                scale);
}

static void call_join(const struct op_case *c)
{
    const struct op_shape *s = &c->shape;
    const float *kept[KEPT];
    size_t one = (size_t)c->n * (size_t)tile_rows(s) * (size_t)s->cols;
    for (size_t i = 0; i < KEPT; i++)
        kept[i] = c->x[0] + (i + 1) * one;
    op_join_states(c->ex, c->y, c->x[0], kept, KEPT, c->n, s->rows * s->rows, tile_rows(s),
                   s->cols);
}

void op_case_call(const struct op_case *c, int copy)
{
    const struct op_shape *s = &c->shape;
    struct mll_exec *ex = c->ex;
    struct kv_pool pool = c->pool;
    struct kv_table table = {c->blocks, 1, (int)kv_blocks(s)};
    switch (s->kind) {
    case CASE_MATMUL:
        op_matmul(ex, c->y, c->x[0], &c->w[copy], NULL, c->n);
        break;
    case CASE_ATTN:
    case CASE_ATTN_VISION:
        call_attention(c, copy);
        break;
    case CASE_ROPE_KV_APPEND:
        op_rope_kv_append(ex, &pool, c->x[0], c->x[1], c->x[2], &table, c->seq, c->begin,
                          c->inv_freq, c->n, s->rows);
        break;
    case CASE_GATHER_ROWS:
        op_gather_rows(ex, c->y, &c->w[0], c->ids, c->n);
        break;
    case CASE_RMSNORM:
        op_rmsnorm(ex, c->y, c->x[0], &c->w[0], c->n, s->cols, 1e-5f);
        break;
    case CASE_ADD_RMSNORM:
        op_add_rmsnorm(ex, c->y, c->x[1], c->x[0], NULL, NULL, &c->w[0], c->n, s->cols, 1e-5f);
        break;
    case CASE_LAYERNORM:
        op_layernorm(ex, c->y, c->x[0], &c->w[0], &c->w[1], c->n, s->cols, 1e-5f);
        break;
    case CASE_SILU_MUL:
        op_silu_mul(ex, c->y, c->x[0], c->x[1], c->n, s->cols);
        break;
    case CASE_GELU:
        op_gelu(ex, c->y, c->x[0], c->n, s->cols);
        break;
    case CASE_ADD:
        op_add(ex, c->y, c->x[0], c->x[1], (size_t)c->n * (size_t)s->cols);
        break;
    case CASE_LOG_PROBS:
        op_log_probs(ex, c->y, c->x[0], c->n, s->cols);
        break;
    case CASE_CHOOSE:
        op_choose(ex, (struct sample_out *)c->y, c->x[0], c->n, s->cols);
        break;
    case CASE_PATCHIFY:
        op_patchify(ex, c->y, c->x[0], c->n, s->cols, s->rows);
        break;
    case CASE_JOIN_STATES:
        call_join(c);
        break;
    case CASE_COUNT:
        break;
    }
}

void op_case_result(const struct op_case *c, float *y)
{
    size_t n = (size_t)c->n;
    if (c->shape.kind == CASE_CHOOSE) {
        for (size_t i = 0; i < n; i++) {
            struct sample_out out;
            exec_download(c->ex, &out, (const struct sample_out *)c->y + i, sizeof out);
            y[i] = (float)out.id;
        }
        return;
    }
    bool in_place = c->shape.kind == CASE_ROPE_KV_APPEND;
    exec_download(c->ex, y, in_place ? c->x[0] : c->y, n * op_case_width(&c->shape) * sizeof *y);
}
