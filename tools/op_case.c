/* op_case.c - operands of one op, and its call.  See op_case.h. */
#include "op_kind.h"
#include "sample.h"
#include "synthetic.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SEED_KEYS = 100, TEXT = 512, BANNED = 16, OUT_WORDS = sizeof(struct sample_out) / 2 };
enum { FIRST_ID = 5, ID_STEP = 7919 };

static const struct op_kind *kind_of(const struct op_shape *s)
{
    const struct op_kind *kind = op_kind_find(s->op);
    MLL_ASSERT(kind != NULL);
    return kind;
}

const char *op_case_name(size_t i)
{
    const struct op_kind *kind = op_kind_at(i);
    return kind ? kind->name : NULL;
}

/* ---- sizes ----------------------------------------------------------------------------------- */

static double matrix_bytes(const struct op_shape *s)
{
    double rows = (double)op_size_of(s, SIZE_ALL_ROWS), n = rows * s->cols, blocks = n / 64;
    if (strcmp(s->quant, "bf16") == 0)
        return 2 * n;
    if (strcmp(s->quant, "int8") == 0)
        return n + 4 * rows;
    return n / 2 +
           (strcmp(s->quant, "nf4") == 0 ? 4 * blocks : blocks + 4 * blocks / MLL_NESTED_BLOCK);
}

/* Those of vectors and tables, bf16, that a call reads. */
static double weight_bytes(const struct op_shape *s)
{
    double bytes = 0;
    for (int i = 0; i < OP_INPUTS; i++) {
        const struct op_weight *w = &kind_of(s)->w[i];
        bytes +=
            2 * (double)op_size_of(s, w->cols) * (double)op_size_of(s, w->read ? w->read : w->rows);
    }
    return bytes;
}

static size_t inputs_width(const struct op_shape *s)
{
    size_t width = 0;
    for (int i = 0; i < OP_INPUTS; i++)
        width += op_size_of(s, kind_of(s)->in[i]);
    return width;
}

/* Of a row of y. */
static size_t out_width(const struct op_shape *s)
{
    const struct op_kind *kind = kind_of(s);
    return op_size_of(s, kind->prepared ? kind->prepared : kind->out);
}

/* Elements of a row that a call writes, pools left out. */
static size_t written_width(const struct op_shape *s)
{
    const struct op_kind *kind = kind_of(s);
    size_t width = op_size_of(s, kind->out);
    for (int i = 0; i < OP_INPUTS; i++)
        width += kind->in_place[i] ? op_size_of(s, kind->in[i]) : 0;
    return width;
}

size_t op_case_width(const struct op_shape *s)
{
    const struct op_kind *kind = kind_of(s);
    return written_width(s) + (kind->chosen ? OUT_WORDS : 0) +
           (kind->pool == POOL_WRITTEN ? op_size_of(s, kind->in[0]) : 0);
}

bool op_case_separable(const struct op_shape *s)
{
    return !kind_of(s)->whole;
}

bool op_case_exact(const struct op_shape *s)
{
    return kind_of(s)->exact;
}

bool op_case_has_keys(const struct op_shape *s)
{
    return kind_of(s)->pool == POOL_READ || kind_of(s)->pool == POOL_WRITTEN;
}

static double keys_bytes(enum mll_dtype kv, int keys, int dim)
{
    return 2.0 * OP_KV_HEADS * keys / MLL_KV_BLOCK * (double)kv_block_bytes(kv, dim);
}

double op_case_bytes(const struct op_shape *s, enum mll_dtype kv)
{
    const struct op_kind *kind = kind_of(s);
    double bytes = 4 * (double)s->n * (double)(inputs_width(s) + written_width(s));
    bytes += weight_bytes(s) + (kind->matrix ? matrix_bytes(s) : 0);
    if (op_case_has_keys(s))
        bytes += keys_bytes(kv, kind->pool == POOL_READ ? s->context : s->n, s->cols);
    return bytes;
}

double op_case_flop(const struct op_shape *s)
{
    const struct op_kind *kind = kind_of(s);
    double n = s->n, heads = (double)op_size_of(s, SIZE_HEADS);
    if (kind->matrix)
        return 2 * n * (double)op_size_of(s, SIZE_ALL_ROWS) * s->cols;
    if (kind->pool == POOL_READ)
        return 4 * n * heads * (s->context - (n - 1) / 2);
    if (kind->pool == POOL_CHECKED)
        return 4 * n * n * heads;
    return kind->flop * n * (double)op_size_of(s, kind->in[0]);
}

int op_case_most_copies(const struct op_shape *s)
{
    const struct op_kind *kind = kind_of(s);
    return kind->matrix ? OP_COPIES / op_matrices(s) : kind->pool == POOL_READ ? OP_COPIES : 1;
}

/* Positions of a copy's pool. */
static int pool_positions(const struct op_shape *s)
{
    const struct op_kind *kind = kind_of(s);
    return kind->pool == POOL_CHECKED   ? s->n
           : kind->pool == POOL_WRITTEN ? s->context + s->n
                                        : s->context;
}

static size_t pool_blocks(const struct op_shape *s)
{
    return ((size_t)pool_positions(s) + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK;
}

static int pool_heads(const struct op_shape *s)
{
    return kind_of(s)->pool == POOL_CHECKED ? s->rows : OP_KV_HEADS;
}

static size_t pool_bytes(const struct mll_exec *ex, const struct op_shape *s, int n_copies)
{
    return pool_blocks(s) * (size_t)n_copies * (size_t)pool_heads(s) *
           kv_block_bytes(exec_kv_dtype(ex), s->cols);
}

size_t op_case_scratch(const struct mll_exec *ex, const struct op_shape *s, int n_copies)
{
    const struct op_kind *kind = kind_of(s);
    size_t n = (size_t)s->n, room = 1 << 20, bytes = room;
    bytes += 4 * n * (inputs_width(s) + out_width(s) + op_case_width(s) + 16);
    if (kind->pool != POOL_NONE) /* and its rows while it is filled */
        bytes += 2 * pool_bytes(ex, s, n_copies) +
                 4 * pool_blocks(s) * ((size_t)n_copies + 2 * MLL_KV_BLOCK) +
                 2 * 4 * pool_blocks(s) * MLL_KV_BLOCK * (size_t)pool_heads(s) * (size_t)s->cols +
                 op_attn_scratch(ex, s->n, s->rows, s->cols);
    if (kind->pool == POOL_CHECKED)
        bytes += op_attn_vision_scratch(ex, s->n, s->rows, s->cols);
    if (kind->matrix)
        bytes += op_matmul_add_scratch(ex, s->n, s->rows, s->cols);
    if (kind->logits)
        bytes += n * (sizeof(struct sample_row) + sizeof(struct sample_out)) +
                 op_sample_scratch(ex, s->n, s->cols);
    return bytes;
}

/* ---- operands -------------------------------------------------------------------------------- */

/* Which rows of n a case has: those of `only`, or all where it is NULL. */
struct choice {
    const int *only; /* (n) */
    int n;
};

static struct choice all_of(int n)
{
    return (struct choice){NULL, n};
}

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
static bool fill_pool(struct op_case *c, int copy)
{
    const struct op_shape *s = &c->shape;
    int n = pool_positions(s);
    size_t width = (size_t)pool_heads(s) * (size_t)s->cols, mark = exec_mark(c->ex);
    /* where rows are checked, the same keys as where all of them are computed */
    uint64_t seed = c->kind->pool == POOL_CHECKED ? 1 : (uint64_t)(SEED_KEYS + 2 * copy);
    float *k = numbers(c->ex, n, width, seed, all_of(n)),
          *v = numbers(c->ex, n, width, seed + 1, all_of(n));
    int32_t *pos = ramp(c->ex, n, 0, 1, INT32_MAX, all_of(n)),
            *seq = ramp(c->ex, n, copy, 0, OP_COPIES, all_of(n));
    bool ok = k && v && pos && seq;
    if (ok)
        op_kv_append(c->ex, &c->pool, k, v, &c->table, seq, pos, n);
    exec_release(c->ex, mark);
    return ok;
}

static bool open_pool(struct op_case *c, struct choice choice)
{
    const struct op_shape *s = &c->shape;
    struct mll_exec *ex = c->ex;
    size_t bytes = pool_bytes(ex, s, c->n_copies);
    int per_copy = (int)pool_blocks(s), all = per_copy * c->n_copies;
    bool read = c->kind->pool == POOL_READ;
    c->pool = (struct kv_pool){exec_alloc(ex, bytes), exec_alloc(ex, bytes),
                               exec_kv_dtype(ex),     all,
                               pool_heads(s),         s->cols};
    exec_zero(ex, c->pool.k, bytes);
    exec_zero(ex, c->pool.v, bytes);
    c->table =
        (struct kv_table){ramp(ex, all, 0, 1, INT32_MAX, all_of(all)), c->n_copies, per_copy};
    c->seq = ramp(ex, s->n, 0, 0, 1, choice);
    bool ok = c->table.blocks && c->seq;
    if (!ok || c->kind->pool == POOL_WRITTEN)
        return ok;
    c->begin = ramp(ex, s->n, 0, 0, 1, choice);
    c->end = ramp(ex, s->n, read ? s->context - s->n + 1 : s->n, read, INT32_MAX, choice);
    ok = c->begin && c->end;
    for (int i = 0; i < c->n_copies && ok; i++)
        ok = fill_pool(c, i);
    return ok;
}

/* Weights on the exec; each copy of a matrix has the same numbers elsewhere. */
static enum mll_status open_weights(struct op_case *c, struct mll_error *err)
{
    const struct op_shape *s = &c->shape;
    int matrices = op_matrices(s), n = c->kind->matrix ? matrices * c->n_copies : 0;
    for (int i = 0; i < n; i++) {
        int other = i % matrices;
        MLL_TRY(synthetic_matrix(&c->w[i], &c->memory[i], other ? s->more[other - 1] : s->rows,
                                 s->cols, strcmp(s->quant, "bf16") != 0 ? s->quant : NULL, err));
        MLL_TRY(exec_load_weight(c->ex, &c->w[i], WEIGHT_MATRIX, err));
    }
    for (int i = 0; i < OP_INPUTS && c->kind->w[i].rows; i++) {
        const struct op_weight *w = &c->kind->w[i];
        MLL_TRY(synthetic_matrix(&c->w[i], &c->memory[i], (int)op_size_of(s, w->rows),
                                 (int)op_size_of(s, w->cols), NULL, err));
        MLL_TRY(exec_load_weight(c->ex, &c->w[i],
                                 w->rows == SIZE_ONE ? WEIGHT_VECTOR : WEIGHT_TABLE, err));
    }
    return MLL_OK;
}

/* What the ops behind logits take: all rules at once, the same lists for every row. */
static bool open_sampling(struct op_case *c, struct choice choice)
{
    int n = choice.n, dim = c->shape.cols;
    struct sample_row row = {.text = ramp(c->ex, TEXT, FIRST_ID, ID_STEP, dim, all_of(TEXT)),
                             .bias_ids = ramp(c->ex, BANNED, 1, 1, dim, all_of(BANNED)),
                             .bias = numbers(c->ex, BANNED, 1, 0, all_of(BANNED)),
                             .banned = ramp(c->ex, BANNED, BANNED, 3, dim, all_of(BANNED)),
                             .n_text = TEXT,
                             .n_bias = BANNED,
                             .n_banned = BANNED,
                             .top_k = 50,
                             .penalty = 1.1f,
                             .temperature = 0.6f,
                             .top_p = 0.9f,
                             .min_p = 0.05f,
                             .seed = 1};
    c->rows = exec_alloc(c->ex, (size_t)n * sizeof row);
    c->out = exec_alloc(c->ex, (size_t)n * sizeof *c->out);
    exec_zero(c->ex, c->out, (size_t)n * sizeof *c->out);
    for (int i = 0; i < n; i++) {
        row.position = (uint64_t)(choice.only ? choice.only[i] : i);
        exec_upload(c->ex, c->rows + i, &row, sizeof row);
    }
    return row.text && row.bias_ids && row.bias && row.banned;
}

static bool open_positions(struct op_case *c, struct choice choice)
{
    float inv_freq[MLL_ATTN_DIM_MAX / 2];
    for (int i = 0; i < MLL_ATTN_DIM_MAX / 2; i++)
        inv_freq[i] = powf(500000.0f, -(float)i / (MLL_ATTN_DIM_MAX / 2));
    c->inv_freq = exec_alloc(c->ex, sizeof inv_freq);
    exec_upload(c->ex, c->inv_freq, inv_freq, sizeof inv_freq);
    c->begin = ramp(c->ex, c->shape.n, c->shape.context, 1, INT32_MAX, choice);
    c->front = ramp(c->ex, c->shape.n, c->shape.context - 1, 1, INT32_MAX, choice);
    c->end = ramp(c->ex, c->shape.n, c->shape.context + 1, 1, INT32_MAX, choice);
    return c->begin && c->front && c->end;
}

static bool open_inputs(struct op_case *c, struct choice choice)
{
    const struct op_shape *s = &c->shape;
    const struct op_kind *kind = c->kind;
    bool ok = true, in_pool = kind->pool == POOL_CHECKED && choice.only;
    for (int i = 0; i < OP_INPUTS && kind->in[i] && ok; i++)
        if (i == 0 || !in_pool)
            ok = (c->x[i] = numbers(c->ex, s->n, op_size_of(s, kind->in[i]), (uint64_t)i, choice));
    size_t result = (size_t)choice.n * out_width(s) * sizeof *c->y;
    c->y = exec_alloc(c->ex, result);
    exec_zero(c->ex, c->y, result);
    if (kind->ids && ok)
        ok = (c->ids =
                  ramp(c->ex, s->n, FIRST_ID, ID_STEP, (int64_t)op_size_of(s, kind->ids), choice));
    if (kind->pool == POOL_CHECKED && !in_pool && ok)
        ok = (c->pad = (uint8_t *)ramp(c->ex, (s->n + 3) / 4, 0, 0, 1, all_of((s->n + 3) / 4)));
    if (kind->logits && ok)
        ok = open_sampling(c, choice);
    if (kind->positions && ok)
        ok = open_positions(c, choice);
    if ((op_case_has_keys(s) || in_pool) && ok)
        ok = open_pool(c, choice);
    return ok;
}

enum mll_status op_case_open(struct op_case *c, struct mll_exec *ex, const struct op_shape *shape,
                             int n_copies, const int *only, int n_only, struct mll_error *err)
{
    struct choice choice = {only, only ? n_only : shape->n};
    *c = (struct op_case){
        .shape = *shape, .kind = kind_of(shape), .ex = ex, .n = choice.n, .n_copies = n_copies};
    if (!open_inputs(c, choice))
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %s", shape->name);
    MLL_TRY(open_weights(c, err));
    exec_set_phase(ex, shape->phase);
    if (c->kind->before)
        c->kind->before(c);
    return exec_take_error(ex, err);
}

void op_case_close(struct op_case *c)
{
    for (int i = 0; i < OP_COPIES; i++)
        free(c->memory[i]);
    *c = (struct op_case){.ex = NULL};
}

void op_case_call(struct op_case *c, int copy)
{
    c->copy = copy;
    c->kind->call(c);
}

/* ---- the result ------------------------------------------------------------------------------ */

/* Puts rows of width at a column of y, whose rows are op_case_width wide; returns the next one. */
static size_t put(const struct op_case *c, float *y, size_t column, const float *from, size_t width)
{
    size_t whole = op_case_width(&c->shape), n = (size_t)c->n;
    if (width == whole)
        exec_download(c->ex, y, from, n * width * sizeof *y);
    for (size_t r = 0; r < n && width < whole; r++)
        exec_download(c->ex, y + r * whole + column, from + r * width, width * sizeof *y);
    return column + width;
}

/* The bits of sample_out, 16 a number. */
static size_t put_choice(const struct op_case *c, float *y, size_t column)
{
    for (size_t r = 0; r < (size_t)c->n; r++) {
        uint16_t words[OUT_WORDS];
        exec_download(c->ex, words, c->out + r, sizeof words);
        for (size_t i = 0; i < OUT_WORDS; i++)
            y[r * op_case_width(&c->shape) + column + i] = words[i];
    }
    return column + OUT_WORDS;
}

/* x[0] attends to the key of its position and to the one in front of it, which for the first is
 * zeros. */
static void put_stored(const struct op_case *c, float *y, size_t column)
{
    const struct op_shape *s = &c->shape;
    size_t mark = exec_mark(c->ex), width = op_size_of(s, c->kind->in[0]);
    float *seen = exec_alloc(c->ex, (size_t)c->n * width * sizeof *seen);
    op_attn(c->ex, seen, c->x[0], &c->pool, &c->table, c->seq, c->front, c->end, c->n,
            (int)width / s->cols, 1.0f / sqrtf((float)s->cols));
    put(c, y, column, seen, width);
    exec_release(c->ex, mark);
}

void op_case_result(const struct op_case *c, float *y)
{
    const struct op_shape *s = &c->shape;
    const struct op_kind *kind = c->kind;
    const float *from = c->y;
    size_t column = 0;
    for (int i = 0; kind->matrix && i < op_matrices(s); i++) {
        size_t width = (size_t)(i ? s->more[i - 1] : s->rows);
        column = put(c, y, column, from, width);
        from += (size_t)c->n * width;
    }
    if (!kind->matrix && kind->out)
        column = put(c, y, column, c->y, op_size_of(s, kind->out));
    for (int i = 0; i < OP_INPUTS; i++)
        if (kind->in_place[i])
            column = put(c, y, column, c->x[i], op_size_of(s, kind->in[i]));
    if (kind->chosen)
        column = put_choice(c, y, column);
    if (kind->pool == POOL_WRITTEN)
        put_stored(c, y, column);
}
