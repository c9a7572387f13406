/* embed.c - the gated embeddings of the vision tower on the CPU.  Contract: kernels/ops.h.
 *   tile      x += tanh(g) * table[id][tile]
 *   position  x += (1 - tanh(g)) * position[row];  x += tanh(g) * tile_position[id][tile][row]
 * An aspect ratio id out of range is recorded, and its table row counts as zeros. */
#include "backend.h"
#include "fmath.h"
#include "par.h"

/* Row i of x belongs to tile i / rows. A mat that is NULL adds nothing. */
struct embed_args {
    float *x;
    const struct mat *tile, *position, *tile_position;
    float gate;
    size_t id, rows, dim;
};

static void add_scaled(float *x, float scale, const struct mat *m, size_t first, size_t dim)
{
    for (size_t d = 0; d < dim; d++)
        x[d] += scale * weight_at(m->data, m->dtype, first + d);
}

static void embed_rows(void *arg, size_t begin, size_t end, int thread)
{
    const struct embed_args *a = arg;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        float *x = a->x + i * a->dim;
        if (a->position)
            add_scaled(x, 1.0f - a->gate, a->position, i % a->rows * a->dim, a->dim);
        if (a->tile_position)
            add_scaled(x, a->gate, a->tile_position,
                       a->id * (size_t)a->tile_position->cols + i * a->dim, a->dim);
        if (a->tile)
            add_scaled(x, a->gate, a->tile, a->id * (size_t)a->tile->cols + i / a->rows * a->dim,
                       a->dim);
    }
}

/* The table, or NULL after recording a fault. */
static const struct mat *table_with(struct mll_exec *ex, const struct mat *table, enum mll_op op,
                                    int32_t id)
{
    if (id >= 0 && id < table->rows)
        return table;
    exec_fault(ex, op, 0, id, table->rows);
    return NULL;
}

void add_tile_embedding_cpu(struct mll_exec *ex, float *x, const struct mat *table,
                            const struct mat *gate, const int32_t *id, int tiles, int rows, int dim)
{
    struct embed_args a = {.x = x,
                           .tile = table_with(ex, table, OP_ADD_TILE_EMBEDDING, *id),
                           .gate = fm_tanh(weight_at(gate->data, gate->dtype, 0)),
                           .id = (size_t)*id,
                           .rows = (size_t)rows,
                           .dim = (size_t)dim};
    par_for(ex->par, ex->threads, (size_t)tiles * a.rows, embed_rows, &a);
}

void add_position_embedding_cpu(struct mll_exec *ex, float *x, const struct mat *position,
                                const struct mat *tile_position, const struct mat *gate,
                                const int32_t *id, int tiles, int rows, int dim)
{
    struct embed_args a = {.x = x,
                           .position = position,
                           .tile_position =
                               table_with(ex, tile_position, OP_ADD_POSITION_EMBEDDING, *id),
                           .gate = fm_tanh(weight_at(gate->data, gate->dtype, 0)),
                           .id = (size_t)*id,
                           .rows = (size_t)rows,
                           .dim = (size_t)dim};
    par_for(ex->par, ex->threads, (size_t)tiles * a.rows, embed_rows, &a);
}
