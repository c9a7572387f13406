/* test_norm.c - op_rmsnorm and op_layernorm against their formulas in double. */
#include <math.h>
#include <stdio.h>

#include "op_test.h"

static const struct norm_case {
    int rows, dim;
    enum mll_dtype dtype;
    size_t offset; /* of the weights, in bytes */
    float eps;
    bool in_place;
} cases[] = {
    {1, 1, MLL_DTYPE_F32, 0, 1e-5f, false},   {2, 8, MLL_DTYPE_BF16, 1, 1e-6f, true},
    {3, 31, MLL_DTYPE_F16, 2, 1e-5f, false},  {7, 80, MLL_DTYPE_BF16, 0, 1e-5f, true},
    {5, 129, MLL_DTYPE_F32, 3, 1e-5f, false}, {2, 4096, MLL_DTYPE_BF16, 0, 1e-5f, false},
    {3, 1283, MLL_DTYPE_F16, 1, 0.5f, true},  {27, 1280, MLL_DTYPE_BF16, 0, 1e-5f, false},
    {9, 128, MLL_DTYPE_BF16, 0, 1e-5f, true}, {1, 8192, MLL_DTYPE_F32, 0, 1e-5f, false},
    {1, 8196, MLL_DTYPE_F16, 0, 1e-5f, true}, {2, 4100, MLL_DTYPE_BF16, 0, 1e-5f, false},
};

static double weight(const struct mat *m, int i)
{
    return (double)weight_at(m->data, m->dtype, (size_t)i);
}

static void rmsnorm_reference(double *y, const float *x, const struct mat *w, int dim, float eps)
{
    double sum = 0;
    for (int i = 0; i < dim; i++)
        sum += (double)x[i] * (double)x[i];
    for (int i = 0; i < dim; i++)
        y[i] = weight(w, i) * (double)x[i] / sqrt(sum / dim + (double)eps);
}

static void layernorm_reference(double *y, const float *x, const struct mat *w, const struct mat *b,
                                int dim, float eps)
{
    double mean = 0, var = 0;
    for (int i = 0; i < dim; i++)
        mean += (double)x[i] / dim;
    for (int i = 0; i < dim; i++)
        var += ((double)x[i] - mean) * ((double)x[i] - mean) / dim;
    for (int i = 0; i < dim; i++)
        y[i] = ((double)x[i] - mean) / sqrt(var + (double)eps) * weight(w, i) + weight(b, i);
}

/* b NULL: rmsnorm. */
static void norm_rows(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                      const struct mat *b, int rows, const struct norm_case *c)
{
    if (b)
        op_layernorm(ex, y, x, w, b, rows, c->dim, c->eps);
    else
        op_rmsnorm(ex, y, x, w, rows, c->dim, c->eps);
}

static void check_norm(const struct norm_case *c, bool layer)
{
    size_t dim = (size_t)c->dim, n = (size_t)c->rows * dim;
    float *x = op_floats(n, 5, 3), *y = op_floats(n, 6, 1), *alone = op_floats(dim, 7, 1);
    double *reference = malloc(n * sizeof *reference);
    float *first = NULL;
    struct mat w = op_mat(1, c->dim, c->dtype, c->offset, 8, 2);
    struct mat b = op_mat(1, c->dim, c->dtype, c->offset, 9, 1);
    char what[64];
    snprintf(what, sizeof what, "%s %dx%d", layer ? "layernorm" : "rmsnorm", c->rows, c->dim);
    for (size_t i = 0; i < n; i++)
        x[i] += 0.5f; /* a mean to take off */
    for (int r = 0; r < c->rows; r++) {
        if (layer)
            layernorm_reference(reference + r * c->dim, x + r * c->dim, &w, &b, c->dim, c->eps);
        else
            rmsnorm_reference(reference + r * c->dim, x + r * c->dim, &w, c->dim, c->eps);
    }
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        exec_set_phase(ex, MLL_DECODE); /* a token's kernels may begin early */
        struct mat dw = op_weight(ex, &w, WEIGHT_VECTOR), db = op_weight(ex, &b, WEIGHT_VECTOR);
        if (c->in_place)
            memcpy(y, x, n * sizeof *y);
        float *dx = op_dev(ex, x, n * sizeof *x), *dy = op_dev(ex, y, n * sizeof *y);
        float *d_alone = op_dev(ex, alone, dim * sizeof *alone);
        norm_rows(ex, dy, c->in_place ? dy : dx, &dw, layer ? &db : NULL, c->rows, c);
        op_back(ex, y, dy, n * sizeof *y);
        op_judge(&first, y, reference, n, 1e-12, 1e-12, ex, what);
        norm_rows(ex, d_alone, dx + n - dim, &dw, layer ? &db : NULL, 1, c);
        op_back(ex, alone, d_alone, dim * sizeof *alone);
        cr_expect_eq(op_first_difference(alone, y + n - dim, dim), dim, "%s: a row alone", what);
    }
    free(first);
    free(reference);
    free(alone);
    free(x);
    free(y);
    op_mat_free(&w, c->offset);
    op_mat_free(&b, c->offset);
}

Test(op_rmsnorm, equals_the_formula_on_every_exec)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_norm(&cases[i], false);
}

Test(op_layernorm, equals_the_formula_on_every_exec)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_norm(&cases[i], true);
}

/* ---- behind a residual ----------------------------------------------------------------------- */

static void check_add_rmsnorm(struct mll_exec *ex, const struct norm_case *c, bool gated)
{
    size_t n = (size_t)(c->rows * c->dim), bytes = n * sizeof(float);
    float *h = op_floats(n, 5, 3), *x = op_floats(n, 6, 2), *fused = op_floats(n, 7, 1);
    float *fused_h = op_floats(n, 5, 3), *row_scale = op_floats((size_t)c->rows, 8, 1);
    float gate_value = 0.7f;
    struct mat w = op_mat(1, c->dim, c->dtype, c->offset, 8, 2);
    struct mat gate = {.data = &gate_value, .dtype = MLL_DTYPE_F32, .rows = 1, .cols = 1};
    struct mat dw = op_weight(ex, &w, WEIGHT_VECTOR), dg = op_weight(ex, &gate, WEIGHT_VECTOR);
    const float *scale = gated ? op_dev(ex, row_scale, (size_t)c->rows * sizeof *row_scale) : NULL;
    float *dh = op_dev(ex, h, bytes), *dx = op_dev(ex, x, bytes), *fh = op_dev(ex, fused_h, bytes);
    float *fy = op_dev(ex, fused, bytes);
    exec_upload(ex, fy, x, bytes);
    op_add_rmsnorm(ex, fy, fh, c->in_place ? fy : dx, gated ? &dg : NULL, scale, &dw, c->rows,
                   c->dim, c->eps);
    op_add_gated(ex, dh, dx, gated ? &dg : NULL, scale, c->rows, c->dim);
    op_rmsnorm(ex, dx, dh, &dw, c->rows, c->dim, c->eps);
    op_back(ex, h, dh, bytes);
    op_back(ex, x, dx, bytes);
    op_back(ex, fused, fy, bytes);
    op_back(ex, fused_h, fh, bytes);
    cr_expect(op_first_difference(fused_h, h, n) == n && op_first_difference(fused, x, n) == n,
              "%s, %dx%d: not the bits of add and norm", exec_describe(ex), c->rows, c->dim);
    free(h);
    free(x);
    free(fused);
    free(fused_h);
    free(row_scale);
    op_mat_free(&w, c->offset);
}

Test(op_add_rmsnorm, has_the_bits_of_add_gated_and_rmsnorm)
{
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL)
        for (size_t i = 0; i < 2 * (sizeof cases / sizeof cases[0]); i++)
            check_add_rmsnorm(ex, &cases[i / 2], i % 2);
}

/* ---- in front of a matmul -------------------------------------------------------------------- */

enum producer { RMSNORM, ADD_RMSNORM, LAYERNORM, SILU_MUL, GELU, PRODUCERS };

static void produce(struct mll_exec *ex, enum producer p, float *y, float *x, const struct mat *w,
                    int rows, int dim)
{
    if (p == RMSNORM)
        op_rmsnorm(ex, y, x, w, rows, dim, 1e-5f);
    else if (p == ADD_RMSNORM)
        op_add_rmsnorm(ex, y, x, y, NULL, NULL, w, rows, dim, 1e-5f);
    else if (p == LAYERNORM)
        op_layernorm(ex, y, x, w, w, rows, dim, 1e-5f);
    else if (p == SILU_MUL)
        op_silu_mul(ex, y, x, y, rows, dim);
    else
        op_gelu(ex, y, x, rows, dim);
}

/* Rows of an operand, the last one by a call of its own, give a matmul what floats give it. */
static void check_operand(struct mll_exec *ex, enum producer p, int rows, int dim)
{
    enum { OUT = 5 };
    size_t n = (size_t)(rows * dim), n_out = (size_t)(rows * OUT), first = (size_t)(rows - 1);
    size_t mark = exec_mark(ex), bytes = n * sizeof(float), bytes_out = n_out * sizeof(float);
    float *x = op_floats(n, 3, 2), *y = op_floats(n, 4, 2);
    float *left = op_floats(n_out, 1, 1), *made = op_floats(n_out, 2, 1);
    struct mat norm = op_mat(1, dim, MLL_DTYPE_F32, 0, 5, 1);
    struct mat weight = op_mat(OUT, dim, MLL_DTYPE_BF16, 0, 6, 1);
    struct mat dn = op_weight(ex, &norm, WEIGHT_VECTOR);
    struct mat dw = op_weight(ex, &weight, WEIGHT_MATRIX);
    float *dx = op_dev(ex, x, bytes), *dy = op_dev(ex, y, bytes), *operand = op_dev(ex, y, bytes);
    float *d_left = op_dev(ex, left, bytes_out), *d_made = op_dev(ex, made, bytes_out);
    produce(ex, p, dy, dx, &dn, rows, dim);
    op_matmul(ex, d_made, dy, &dw, NULL, rows);
    op_back(ex, y, dy, bytes);
    op_fill(x, n, 3, 2);
    exec_upload(ex, dx, x, bytes);
    op_fill(y, n, 4, 2);
    exec_upload(ex, operand, y, bytes);
    exec_alloc(ex, 1);
    exec_operand(ex, operand, rows, dim);
    produce(ex, p, operand, dx, &dn, rows - 1, dim);
    produce(ex, p, operand + first * (size_t)dim, dx + first * (size_t)dim, &dn, 1, dim);
    op_matmul(ex, d_left, operand, &dw, NULL, rows - 1);
    op_matmul(ex, d_left + first * OUT, operand + first * (size_t)dim, &dw, NULL, 1);
    op_back(ex, left, d_left, bytes_out);
    op_back(ex, made, d_made, bytes_out);
    cr_expect(op_first_difference(left, made, n_out) == n_out, "%s, producer %d, %dx%d",
              exec_describe(ex), (int)p, rows, dim);
#ifdef MLL_SHIM
    op_back(ex, y, operand, bytes);
    bool poison = false;
    for (size_t i = 0; i < n; i++)
        poison = poison || y[i] != y[i];
    cr_expect_eq(poison, op_is_cuda(ex) && dim % 4 == 0 && dim >= 64, "%d columns as floats", dim);
#endif
    exec_release(ex, mark);
    free(x);
    free(y);
    free(left);
    free(made);
    op_mat_free(&norm, 0);
    op_mat_free(&weight, 0);
}

Test(exec_operand, gives_a_matmul_what_floats_give_it)
{
    static const int dims[] = {20, 64, 68, 101, 128, 4160, 8196};
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL)
        for (int p = 0; p < PRODUCERS; p++)
            for (int d = 0; d < 7; d++)
                check_operand(ex, (enum producer)p, 1 + d % 3, dims[d]);
}

/* Released with the arena's memory: the same place then holds floats again. */
Test(exec_operand, ends_with_what_was_allocated)
{
    float x[64], y[64];
    op_fill(x, 64, 1, 1);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 12)) != NULL) {
        size_t mark = exec_mark(ex);
        const float *from = op_dev(ex, x, sizeof x);
        exec_operand(ex, exec_alloc(ex, sizeof y), 1, 64);
        exec_release(ex, mark);
        float *again = op_is_cuda(ex) ? exec_alloc(ex, sizeof y) : y;
        op_gelu(ex, again, from, 1, 64);
        op_back(ex, y, again, sizeof y);
        cr_expect_float_eq(y[0], x[0] * 0.5 * (1 + erf((double)x[0] / sqrt(2))), 1e-6);
        exec_release(ex, mark);
    }
}

Test(op_rmsnorm, a_zero_row_stays_zero)
{
    float x[20] = {0}, y[20] = {1};
    struct mat w = op_mat(1, 20, MLL_DTYPE_F32, 0, 1, 1);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        struct mat dw = op_weight(ex, &w, WEIGHT_VECTOR);
        float *dy = op_dev(ex, y, sizeof y);
        op_rmsnorm(ex, dy, op_dev(ex, x, sizeof x), &dw, 1, 20, 1e-5f);
        op_back(ex, y, dy, sizeof y);
        for (int i = 0; i < 20; i++)
            cr_expect_eq(y[i], 0.0f);
    }
    op_mat_free(&w, 0);
}
