/* test_matmul_quant.c - op_matmul by 4-bit and 8-bit weights, against the formula in double; the
 * same bits for every form, thread count and number of rows. */
#include <stdio.h>

#include "quant_data.h"

static const struct quant_kind kinds[] = {
    {MLL_DTYPE_Q4, false, false, 64, MLL_DTYPE_F32},
    {MLL_DTYPE_Q4, true, false, 64, MLL_DTYPE_F32},
    {MLL_DTYPE_Q4, false, true, 64, MLL_DTYPE_F32},
    {MLL_DTYPE_Q4, true, false, 64, MLL_DTYPE_BF16},
    {MLL_DTYPE_Q4, false, false, 64, MLL_DTYPE_F16},
    {MLL_DTYPE_Q4, true, true, 128, MLL_DTYPE_F32},
    {MLL_DTYPE_Q4, true, false, 32, MLL_DTYPE_F32},
    {MLL_DTYPE_I8, false, false, 0, MLL_DTYPE_NONE},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

/* Rows of x, shape of w, bytes of the codes from an aligned address. Blocks end inside of rows,
 * at their ends, and hold many rows; rows start in the low half of a byte; more than 256 blocks. */
static const struct quant_case {
    int n, rows, cols;
    bool bias;
    size_t offset;
} cases[] = {
    {1, 1, 1, true, 0},      {1, 5, 15, false, 1},    {2, 7, 17, true, 3},
    {3, 70, 2, false, 0},    {1, 9, 64, false, 0},    {4, 6, 128, true, 1},
    {5, 3, 192, false, 2},   {7, 33, 96, true, 0},    {24, 5, 130, false, 5},
    {26, 37, 1088, true, 0}, {27, 36, 1030, true, 1}, {195, 34, 64, true, 7},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

struct run {
    const struct quant_case *c;
    struct quant_data *w;
    struct mat bias;
    float *x, *y;
    size_t n_y;
};

static struct run make(const struct quant_case *c, const struct quant_kind *k)
{
    struct run r = {.c = c, .n_y = (size_t)c->n * (size_t)c->rows};
    r.w = quant_make(k, c->rows, c->cols, c->offset, 11);
    r.bias = op_mat(1, c->rows, MLL_DTYPE_BF16, 0, 6, 1);
    r.x = op_floats((size_t)c->n * (size_t)c->cols, 7, 1);
    r.y = op_floats(r.n_y, 8, 1);
    return r;
}

static void unmake(struct run *r)
{
    quant_free(r->w);
    op_mat_free(&r->bias, 0);
    free(r->x);
    free(r->y);
}

static double *reference(const struct run *r)
{
    size_t rows = (size_t)r->c->rows, cols = (size_t)r->c->cols;
    double *y = malloc(r->n_y * sizeof *y);
    for (size_t i = 0; i < r->n_y; i++) {
        y[i] = r->c->bias ? weight_at(r->bias.data, r->bias.dtype, i % rows) : 0;
        for (size_t k = 0; k < cols; k++)
            y[i] += (double)r->x[i / rows * cols + k] * quant_value(r->w, i % rows * cols + k);
    }
    return y;
}

static void multiply(struct mll_exec *ex, struct run *r)
{
    op_fill(r->y, r->n_y, 9, 1);
    op_matmul(ex, r->y, r->x, &r->w->mat, r->c->bias ? &r->bias : NULL, r->c->n);
}

static size_t scratch(void)
{
    struct mll_exec *ex = op_exec(7, MLL_ISA_AUTO, 0);
    size_t most = 0;
    for (int i = 0; i < N_CASES; i++) {
        size_t bytes = op_matmul_scratch(ex, cases[i].n, cases[i].cols);
        most = bytes > most ? bytes : most;
    }
    exec_close(ex);
    return most;
}

Test(op_matmul_quant, every_form_and_thread_count_gives_the_bits_of_the_c_form)
{
    for (int i = 0; i < N_CASES * N_KINDS; i++) {
        struct run r = make(&cases[i / N_KINDS], &kinds[i % N_KINDS]);
        double *expected = reference(&r);
        float *first = NULL;
        char what[64];
        snprintf(what, sizeof what, "case %d, kind %d", i / N_KINDS, i % N_KINDS);
        struct mll_exec *ex = NULL;
        while ((ex = op_each_exec(ex, scratch())) != NULL) {
            multiply(ex, &r);
            /* weights in float32 have up to three roundings, dot products their own */
            op_judge(&first, r.y, expected, r.n_y, 1e-12, 1e-12, ex, what);
        }
        free(first);
        free(expected);
        unmake(&r);
    }
}

static void check_rows_alone(struct mll_exec *ex, struct run *r)
{
    size_t rows = (size_t)r->c->rows, cols = (size_t)r->c->cols;
    float *y = malloc(r->n_y * sizeof *y);
    multiply(ex, r);
    for (int few = 1; few <= 28; few += few < 8 ? 1 : 10) {
        for (int at = 0; at + few <= r->c->n; at += few) {
            op_matmul(ex, y, r->x + (size_t)at * cols, &r->w->mat, r->c->bias ? &r->bias : NULL,
                      few);
            size_t count = (size_t)few * rows;
            cr_expect_eq(op_first_difference(y, r->y + (size_t)at * rows, count), count,
                         "%s: row %d of %d among %d", exec_describe(ex), at, r->c->n, few);
        }
    }
    free(y);
}

Test(op_matmul_quant, a_row_has_the_same_bits_alone_and_among_others)
{
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, scratch())) != NULL) {
        for (int i = 0; i < N_CASES * N_KINDS && exec_threads(ex) == 2; i++) {
            struct run r = make(&cases[i / N_KINDS], &kinds[i % N_KINDS]);
            check_rows_alone(ex, &r);
            unmake(&r);
        }
    }
}
