/* op_kind.c - the ops' rows, calls and sizes.  See op_kind.h. */
#include "op_kind.h"
#include "sample.h"

#include <math.h>
#include <string.h>

enum { PAD_TO = 8 };
static const float eps = 1e-5f;

/* ---- sizes ----------------------------------------------------------------------------------- */

int op_matrices(const struct op_shape *s)
{
    int n = 1;
    while (n < MLL_MATMUL_GROUP && s->more[n - 1] > 0)
        n++;
    return n;
}

static int tile_rows(const struct op_shape *s)
{
    return (s->rows * s->rows + 1 + PAD_TO - 1) / PAD_TO * PAD_TO;
}

size_t op_size_of(const struct op_shape *s, enum op_size size)
{
    size_t n = (size_t)s->n, rows = (size_t)s->rows, cols = (size_t)s->cols;
    size_t patches = rows * rows, grid = cols / rows, tile = (size_t)tile_rows(s) * cols;
    switch (size) {
    case SIZE_NONE:
        return 0;
    case SIZE_ONE:
        return 1;
    case SIZE_N:
        return n;
    case SIZE_RATIOS:
        return OP_RATIOS;
    case SIZE_COLS:
        return cols;
    case SIZE_ROWS:
        return rows;
    case SIZE_ALL_ROWS:
        return rows + (size_t)s->more[0] + (size_t)s->more[1];
    case SIZE_HEADS:
        return rows * cols;
    case SIZE_KV:
        return OP_KV_HEADS * cols;
    case SIZE_PIXELS:
        return 3 * cols * cols;
    case SIZE_CUT:
        return grid * grid * 3 * patches;
    case SIZE_PATCHES:
        return patches * cols;
    case SIZE_TOKEN_COUNT:
        return patches + 1;
    case SIZE_TOKENS:
        return (patches + 1) * cols;
    case SIZE_TILE:
        return tile;
    case SIZE_STATES:
        return (1 + OP_KEPT) * tile;
    case SIZE_JOINED:
        return (1 + OP_KEPT) * (patches + 1) * cols;
    case SIZE_RATIO_COLS:
        return n * cols;
    case SIZE_RATIO_POSITIONS:
        return n * (patches + 1) * cols;
    }
    return 0;
}

/* ---- calls ----------------------------------------------------------------------------------- */

static float attn_scale(const struct op_case *c)
{
    return 1.0f / sqrtf((float)c->shape.cols);
}

static void call_gather_rows(const struct op_case *c)
{
    op_gather_rows(c->ex, c->y, c->w, c->ids, c->n);
}

static void call_take_rows(const struct op_case *c)
{
    op_take_rows(c->ex, c->y, c->x[0], c->ids, c->n, c->n, c->shape.cols);
}

static void call_rmsnorm(const struct op_case *c)
{
    op_rmsnorm(c->ex, c->y, c->x[0], c->w, c->n, c->shape.cols, eps);
}

static void call_layernorm(const struct op_case *c)
{
    op_layernorm(c->ex, c->y, c->x[0], c->w, c->w + 1, c->n, c->shape.cols, eps);
}

static void call_add(const struct op_case *c)
{
    op_add(c->ex, c->y, c->x[0], c->x[1], (size_t)c->n * (size_t)c->shape.cols);
}

static void call_add_gated(const struct op_case *c)
{
    op_add_gated(c->ex, c->x[0], c->x[1], c->w, c->x[2], c->n, c->shape.cols);
}

static void call_add_rmsnorm(const struct op_case *c)
{
    op_add_rmsnorm(c->ex, c->y, c->x[1], c->x[0], NULL, NULL, c->w, c->n, c->shape.cols, eps);
}

static void call_silu_mul(const struct op_case *c)
{
    op_silu_mul(c->ex, c->y, c->x[0], c->x[1], c->n, c->shape.cols);
}

static void call_gelu(const struct op_case *c)
{
    op_gelu(c->ex, c->y, c->x[0], c->n, c->shape.cols);
}

static void call_matmul(const struct op_case *c)
{
    op_matmul(c->ex, c->y, c->x[0], &c->w[c->copy], NULL, c->n);
}

static void call_matmul_gelu(const struct op_case *c)
{
    op_matmul_gelu(c->ex, c->y, c->x[0], &c->w[c->copy], NULL, c->n);
}

static void call_matmul_add(const struct op_case *c)
{
    op_matmul_add(c->ex, c->y, c->x[1], c->x[0], &c->w[c->copy], NULL, NULL, c->n);
}

static void call_matmul_group(const struct op_case *c)
{
    float *y[MLL_MATMUL_GROUP], *next = c->y;
    const struct mat *w[MLL_MATMUL_GROUP];
    int count = op_matrices(&c->shape);
    for (int i = 0; i < count; i++) {
        w[i] = &c->w[c->copy * count + i];
        y[i] = next;
        next += (size_t)c->n * (size_t)w[i]->rows;
    }
    op_matmul_group(c->ex, y, c->x[0], w, count, c->n);
}

static void call_rope(const struct op_case *c)
{
    op_rope(c->ex, c->x[0], c->begin, c->inv_freq, c->n, c->shape.rows, c->shape.cols);
}

static void call_kv_append(const struct op_case *c)
{
    struct kv_pool pool = c->pool;
    op_kv_append(c->ex, &pool, c->x[0], c->x[1], &c->table, c->seq, c->begin, c->n);
}

static void call_rope_kv_append(const struct op_case *c)
{
    struct kv_pool pool = c->pool;
    op_rope_kv_append(c->ex, &pool, c->x[0], c->x[1], c->x[2], &c->table, c->seq, c->begin,
                      c->inv_freq, c->n, c->shape.rows);
}

static void call_attn(const struct op_case *c)
{
    struct kv_table table = c->table;
    table.blocks += (size_t)c->copy * (size_t)table.max_blocks;
    table.n_seqs = 1;
    op_attn(c->ex, c->y, c->x[0], &c->pool, &table, c->seq, c->begin, c->end, c->n, c->shape.rows,
            attn_scale(c));
}

static void call_attn_vision(const struct op_case *c)
{
    if (c->pool.k != NULL)
        call_attn(c);
    else
        op_attn_vision(c->ex, c->y, c->x[0], c->x[1], c->x[2], c->pad, c->n, c->shape.rows,
                       c->shape.cols, attn_scale(c));
}

static void call_patchify(const struct op_case *c)
{
    op_patchify(c->ex, c->y, c->x[0], c->n, c->shape.cols, c->shape.rows);
}

static void call_add_tile_embedding(const struct op_case *c)
{
    op_add_tile_embedding(c->ex, c->x[0], c->w, c->w + 1, c->ids, c->n, tile_rows(&c->shape),
                          c->shape.cols);
}

static void call_add_position_embedding(const struct op_case *c)
{
    op_add_position_embedding(c->ex, c->x[0], c->w, c->w + 1, c->w + 2, c->ids, c->n, c->w[0].rows,
                              c->shape.cols);
}

static void call_class_and_pad(const struct op_case *c)
{
    const struct op_shape *s = &c->shape;
    op_class_and_pad(c->ex, c->y, c->x[0], c->w, c->n, s->rows * s->rows, tile_rows(s), s->cols);
}

static void call_join_states(const struct op_case *c)
{
    const struct op_shape *s = &c->shape;
    const float *kept[OP_KEPT];
    for (size_t i = 0; i < OP_KEPT; i++)
        kept[i] = c->x[0] + (i + 1) * (size_t)c->n * op_size_of(s, SIZE_TILE);
    op_join_states(c->ex, c->y, c->x[0], kept, OP_KEPT, c->n, s->rows * s->rows, tile_rows(s),
                   s->cols);
}

static void call_hash_rows(const struct op_case *c)
{
    op_hash_rows(c->ex, c->out, c->x[0], c->n, c->shape.cols);
}

static void call_log_probs(const struct op_case *c)
{
    op_log_probs(c->ex, c->y, c->x[0], c->n, c->shape.cols);
}

static void call_process(const struct op_case *c)
{
    op_process(c->ex, c->y, c->out, c->x[0], c->rows, c->n, c->shape.cols);
}

static void call_choose(const struct op_case *c)
{
    op_choose(c->ex, c->out, c->x[0], c->n, c->shape.cols);
}

static void call_warp(const struct op_case *c)
{
    op_warp(c->ex, c->y, c->x[0], c->rows, c->out, c->n, c->shape.cols);
}

static void choose_and_warp(const struct op_case *c)
{
    call_choose(c);
    call_warp(c);
}

static void call_draw(const struct op_case *c)
{
    op_draw(c->ex, c->out, c->y, c->x[0], c->rows, c->n, c->shape.cols);
}

/* ---- rows ------------------------------------------------------------------------------------ */

#define VECTOR                         \
    {                                  \
        SIZE_ONE, SIZE_COLS, SIZE_NONE \
    }
#define SCALAR                        \
    {                                 \
        SIZE_ONE, SIZE_ONE, SIZE_NONE \
    }
#define TABLE                        \
    {                                \
        SIZE_ROWS, SIZE_COLS, SIZE_N \
    }
#define POSITIONS                              \
    {                                          \
        SIZE_TOKEN_COUNT, SIZE_COLS, SIZE_NONE \
    }
#define RATIO(of_tiles)                 \
    {                                   \
        SIZE_RATIOS, of_tiles, SIZE_ONE \
    }

static const struct op_kind kinds[] = {
    {"gather_rows", call_gather_rows, .out = SIZE_COLS, .w = {TABLE}, .ids = SIZE_ROWS,
     .exact = true},
    {"take_rows", call_take_rows, .in = {SIZE_COLS}, .out = SIZE_COLS, .ids = SIZE_N, .whole = true,
     .exact = true},
    {"rmsnorm", call_rmsnorm, .in = {SIZE_COLS}, .out = SIZE_COLS, .w = {VECTOR}, .flop = 4},
    {"layernorm", call_layernorm, .in = {SIZE_COLS}, .out = SIZE_COLS, .w = {VECTOR, VECTOR},
     .flop = 8},
    {"add", call_add, .in = {SIZE_COLS, SIZE_COLS}, .out = SIZE_COLS, .flop = 1},
    {"add_gated", call_add_gated, .in = {SIZE_COLS, SIZE_COLS, SIZE_ONE}, .in_place = {true},
     .w = {SCALAR}, .flop = 2},
    {"add_rmsnorm", call_add_rmsnorm, .in = {SIZE_COLS, SIZE_COLS}, .in_place = {false, true},
     .out = SIZE_COLS, .w = {VECTOR}, .flop = 5},
    {"silu_mul", call_silu_mul, .in = {SIZE_COLS, SIZE_COLS}, .out = SIZE_COLS, .flop = 8},
    {"gelu", call_gelu, .in = {SIZE_COLS}, .out = SIZE_COLS, .flop = 10},
    {"matmul", call_matmul, .in = {SIZE_COLS}, .out = SIZE_ROWS, .matrix = true},
    {"matmul_gelu", call_matmul_gelu, .in = {SIZE_COLS}, .out = SIZE_ROWS, .matrix = true},
    {"matmul_add", call_matmul_add, .in = {SIZE_COLS, SIZE_ROWS}, .out = SIZE_ROWS, .matrix = true},
    {"matmul_group", call_matmul_group, .in = {SIZE_COLS}, .out = SIZE_ALL_ROWS, .matrix = true},
    {"rope", call_rope, .in = {SIZE_HEADS}, .in_place = {true}, .positions = true, .flop = 3},
    {"kv_append", call_kv_append, .in = {SIZE_KV, SIZE_KV}, .pool = POOL_WRITTEN, .positions = true,
     .whole = true},
    {"rope_kv_append", call_rope_kv_append, .in = {SIZE_HEADS, SIZE_KV, SIZE_KV},
     .in_place = {true}, .pool = POOL_WRITTEN, .positions = true, .flop = 3, .whole = true},
    {"attn", call_attn, .in = {SIZE_HEADS}, .out = SIZE_HEADS, .pool = POOL_READ},
    {"attn_vision", call_attn_vision, .in = {SIZE_HEADS, SIZE_HEADS, SIZE_HEADS}, .out = SIZE_HEADS,
     .pool = POOL_CHECKED},
    {"patchify", call_patchify, .in = {SIZE_PIXELS}, .out = SIZE_CUT, .whole = true, .exact = true},
    {"add_tile_embedding", call_add_tile_embedding, .in = {SIZE_TILE}, .in_place = {true},
     .w = {RATIO(SIZE_RATIO_COLS), SCALAR}, .ids = SIZE_RATIOS, .flop = 2, .whole = true},
    {"add_position_embedding", call_add_position_embedding, .in = {SIZE_TOKENS}, .in_place = {true},
     .w = {POSITIONS, RATIO(SIZE_RATIO_POSITIONS), SCALAR}, .ids = SIZE_RATIOS, .flop = 4,
     .whole = true},
    {"class_and_pad", call_class_and_pad, .in = {SIZE_PATCHES}, .out = SIZE_TILE, .w = {VECTOR},
     .whole = true, .exact = true},
    {"join_states", call_join_states, .in = {SIZE_STATES}, .out = SIZE_JOINED, .whole = true,
     .exact = true},
    {"hash_rows", call_hash_rows, .in = {SIZE_COLS}, .logits = true, .chosen = true, .flop = 8,
     .exact = true},
    {"log_probs", call_log_probs, .in = {SIZE_COLS}, .out = SIZE_COLS, .logits = true, .flop = 4},
    {"process", call_process, .in = {SIZE_COLS}, .out = SIZE_COLS, .logits = true, .chosen = true,
     .exact = true},
    {"choose", call_choose, .in = {SIZE_COLS}, .logits = true, .chosen = true, .flop = 2,
     .exact = true},
    {"warp", call_warp, .before = call_choose, .in = {SIZE_COLS}, .out = SIZE_COLS, .logits = true,
     .flop = 8, .exact = true},
    {"draw", call_draw, .before = choose_and_warp, .in = {SIZE_COLS}, .prepared = SIZE_COLS,
     .logits = true, .chosen = true, .flop = 4, .exact = true},
};

const struct op_kind *op_kind_at(size_t i)
{
    return i < sizeof kinds / sizeof *kinds ? &kinds[i] : NULL;
}

const struct op_kind *op_kind_find(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    return NULL;
}
