/* test_embed.c - op_add_tile_embedding and op_add_position_embedding against double. */
#include <math.h>

#include "op_test.h"

static const struct embed_case {
    int tiles, tiles_max, rows, dim, id;
    enum mll_dtype dtype;
} cases[] = {
    {1, 1, 1, 1, 0, MLL_DTYPE_F32},
    {3, 4, 5, 17, 2, MLL_DTYPE_BF16},
    {4, 4, 10, 33, 4, MLL_DTYPE_F16},
};

enum { IDS = 5 };

struct problem {
    float *x, *y;
    struct mat tile, position, tile_position, gate;
    size_t n;
};

static struct problem make(const struct embed_case *c)
{
    struct problem p = {.n = (size_t)(c->tiles * c->rows * c->dim)};
    p.x = op_floats(p.n, 1, 1);
    p.y = op_floats(p.n, 2, 1);
    p.tile = op_mat(IDS, c->tiles_max * c->dim, c->dtype, 1, 3, 1);
    p.position = op_mat(c->rows, c->dim, c->dtype, 0, 4, 1);
    p.tile_position = op_mat(IDS, c->tiles_max * c->rows * c->dim, c->dtype, 0, 5, 1);
    p.gate = op_mat(1, 1, c->dtype, 0, 6, 2);
    return p;
}

static void drop(struct problem *p)
{
    free(p->x);
    free(p->y);
    op_mat_free(&p->tile, 1);
    op_mat_free(&p->position, 0);
    op_mat_free(&p->tile_position, 0);
    op_mat_free(&p->gate, 0);
}

static double element(const struct mat *m, int row, int col)
{
    return (double)weight_at(m->data, m->dtype, (size_t)row * (size_t)m->cols + (size_t)col);
}

/* What the table of `id` adds counts as zero where id is out of range. */
static void references(double *tile, double *position, const struct problem *p,
                       const struct embed_case *c, int id)
{
    double g = tanh(element(&p->gate, 0, 0));
    bool known = id >= 0 && id < IDS;
    for (int i = 0; i < (int)p->n; i++) {
        int d = i % c->dim, r = i / c->dim % c->rows, t = i / c->dim / c->rows;
        tile[i] = (double)p->x[i] + (known ? g * element(&p->tile, id, t * c->dim + d) : 0);
        position[i] = (double)p->x[i] + (1 - g) * element(&p->position, r, d) +
                      (known ? g * element(&p->tile_position, id, i) : 0);
    }
}

static void check_case(const struct embed_case *c, int32_t id)
{
    struct problem p = make(c);
    double *tile = malloc(p.n * sizeof *tile), *position = malloc(p.n * sizeof *position);
    float *first_tile = NULL, *first_position = NULL;
    bool known = id >= 0 && id < IDS;
    references(tile, position, &p, c, id);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        size_t bytes = p.n * sizeof *p.y;
        struct mat tiles = op_weight(ex, &p.tile, WEIGHT_TABLE);
        struct mat positions = op_weight(ex, &p.position, WEIGHT_TABLE);
        struct mat tile_positions = op_weight(ex, &p.tile_position, WEIGHT_TABLE);
        struct mat gate = op_weight(ex, &p.gate, WEIGHT_VECTOR);
        int32_t *d_id = op_dev(ex, &id, sizeof id);
        memcpy(p.y, p.x, bytes);
        float *y = op_dev(ex, p.y, bytes);
        op_add_tile_embedding(ex, y, &tiles, &gate, d_id, c->tiles, c->rows, c->dim);
        op_back(ex, p.y, y, bytes);
        op_judge(&first_tile, p.y, tile, p.n, 1e-12, 0, ex, "tile embedding");
        struct mll_fault f = exec_take_fault(ex);
        cr_expect(known ? f.op == OP_NONE
                        : f.op == OP_ADD_TILE_EMBEDDING && f.position == 0 && f.index == id &&
                              f.bound == IDS);
        memcpy(p.y, p.x, bytes);
        y = op_dev(ex, p.y, bytes);
        op_add_position_embedding(ex, y, &positions, &tile_positions, &gate, d_id, c->tiles,
                                  c->rows, c->dim);
        op_back(ex, p.y, y, bytes);
        op_judge(&first_position, p.y, position, p.n, 1e-12, 0, ex, "position embedding");
        f = exec_take_fault(ex);
        cr_expect(known ? f.op == OP_NONE
                        : f.op == OP_ADD_POSITION_EMBEDDING && f.position == 0 && f.index == id &&
                              f.bound == IDS);
    }
    drop(&p);
    free(tile);
    free(position);
    free(first_tile);
    free(first_position);
}

Test(op_add_embedding, equals_the_formula_on_every_exec)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_case(&cases[i], cases[i].id);
}

Test(op_add_embedding, an_aspect_ratio_out_of_range_is_recorded_and_adds_nothing)
{
    static const int32_t bad[] = {IDS, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        check_case(&cases[1], bad[i]);
}
