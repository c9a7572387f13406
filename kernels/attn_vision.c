/* attn_vision.c - attention of all rows of an image over all of them, on the CPU.  Contract: ops.h.
 * The keys and values of a head are first packed like blocks of KV memory; then a unit of work is
 * a tile of ATTN_LANES rows (attn.h).   HF: MllamaVisionAttention */
#include <string.h>

#include "attn.h"
#include "backend.h"
#include "par.h"

struct attn_vision_args {
    float *y;
    const float *q, *k, *v;
    const uint8_t *pad;
    int rows, heads, dim;
    float scale;
    bool alike; /* all pairs are blocked: every row attends to all keys alike */
    attn_tile_fn *form;
    unsigned char *memory; /* for each thread: a tile, packed keys, packed values */
};

static size_t packed_bytes(int rows, int head_dim)
{
    size_t blocks = ((size_t)rows + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK;
    return blocks * MLL_KV_BLOCK * (size_t)head_dim * sizeof(float);
}

static size_t thread_bytes(int rows, int head_dim)
{
    return attn_tile_bytes(head_dim) + 2 * packed_bytes(rows, head_dim);
}

size_t attn_vision_scratch_cpu(const struct mll_exec *ex, int rows, int heads, int head_dim)
{
    (void)heads;
    return (size_t)ex->threads * thread_bytes(rows, head_dim) + 64;
}

/* One head's keys to (block, head_dim, 16), values to (block, 16, head_dim); zeros behind. */
static void pack_head(const struct attn_vision_args *a, float *k, float *v, int head)
{
    size_t dim = (size_t)a->dim, row = (size_t)a->heads * dim;
    memset(k, 0, packed_bytes(a->rows, a->dim));
    memset(v, 0, packed_bytes(a->rows, a->dim));
    for (size_t r = 0; r < (size_t)a->rows; r++) {
        const float *from = a->k + r * row + (size_t)head * dim;
        float *to = k + r / MLL_KV_BLOCK * MLL_KV_BLOCK * dim + r % MLL_KV_BLOCK;
        for (size_t d = 0; d < dim; d++)
            to[d * MLL_KV_BLOCK] = from[d];
        memcpy(v + r * dim, a->v + r * row + (size_t)head * dim, dim * sizeof(float));
    }
}

static void vision_tile(const struct attn_vision_args *a, struct attn_tile *t,
                        const struct attn_keys *keys, int first, int head)
{
    size_t row = (size_t)a->heads * (size_t)a->dim, at = (size_t)head * (size_t)a->dim;
    int last = first + ATTN_LANES < a->rows ? first + ATTN_LANES : a->rows;
    t->lanes = 0;
    for (int r = first; r < last; r++) {
        attn_tile_add(t, a->q + (size_t)r * row + at, a->dim, 0, a->rows);
        t->is_pad[r - first] = a->pad[r] != 0;
    }
    if (a->alike)
        memset(t->q, 0, (size_t)a->dim * ATTN_LANES * sizeof(float));
    a->form(t, keys, a->scale);
    for (int r = first; r < last; r++)
        attn_tile_result(t, a->y + (size_t)r * row + at, r - first, a->dim);
}

/* Units are head-major, so that a thread packs few heads. */
static void vision_units(void *arg, size_t begin, size_t end, int thread)
{
    const struct attn_vision_args *a = arg;
    size_t tiles = ((size_t)a->rows + ATTN_LANES - 1) / ATTN_LANES;
    unsigned char *memory = a->memory + (size_t)thread * thread_bytes(a->rows, a->dim);
    struct attn_tile *t = attn_tile_new(memory, a->dim);
    float *k = (float *)(memory + attn_tile_bytes(a->dim));
    float *v = k + packed_bytes(a->rows, a->dim) / sizeof(float);
    struct attn_keys keys = {.k = k,
                             .v = v,
                             .stride = (size_t)a->dim * MLL_KV_BLOCK,
                             .pad = a->alike ? NULL : a->pad,
                             .dim = a->dim};
    for (size_t i = begin; i < end; i++) {
        if (i == begin || i % tiles == 0)
            pack_head(a, k, v, (int)(i / tiles));
        vision_tile(a, t, &keys, (int)(i % tiles) * ATTN_LANES, (int)(i / tiles));
    }
}

void attn_vision_cpu(struct mll_exec *ex, float *y, const float *q, const float *k, const float *v,
                     const uint8_t *pad, int rows, int heads, int head_dim, float scale)
{
    size_t mark = exec_mark(ex);
    size_t tiles = ((size_t)rows + ATTN_LANES - 1) / ATTN_LANES;
    struct attn_vision_args a = {y,
                                 q,
                                 k,
                                 v,
                                 pad,
                                 rows,
                                 heads,
                                 head_dim,
                                 scale,
                                 memchr(pad, 0, (size_t)rows) == NULL,
                                 attn_tile_form(ex),
                                 NULL};
    a.memory = exec_alloc(ex, (size_t)ex->threads * thread_bytes(rows, head_dim));
    par_for(ex->par, ex->threads, (size_t)heads * tiles, vision_units, &a);
    exec_release(ex, mark);
}
