/* test_elementwise.c - op_add, op_add_gated, op_silu_mul and op_gelu against double. */
#include <math.h>
#include <stdio.h>

#include "op_test.h"

/* 70001 is beyond the size from which threads are used; rows of whole float4s are a block's on a
 * GPU, with 1, 2, 4 or 8 of them a thread. */
static const struct size {
    int rows, dim;
} sizes[] = {{1, 1},     {1, 7},    {4, 4},    {3, 11},    {5, 100},  {1, 1283},
             {1, 70001}, {2, 1284}, {1, 8192}, {2, 14336}, {1, 20484}};
enum { SIZES = sizeof sizes / sizeof sizes[0] };

enum kind { ADD, SILU_MUL, GELU };

static const char *const names[] = {"add", "silu_mul", "gelu"};

static double reference_of(enum kind kind, double x, double z)
{
    if (kind == ADD)
        return x + z;
    if (kind == SILU_MUL)
        return x / (1 + exp(-x)) * z;
    return x * 0.5 * erfc(-x / sqrt(2));
}

static void run(enum kind kind, struct mll_exec *ex, float *y, const float *x, const float *z,
                struct size s)
{
    if (kind == ADD)
        op_add(ex, y, x, z, (size_t)(s.rows * s.dim));
    else if (kind == SILU_MUL)
        op_silu_mul(ex, y, x, z, s.rows, s.dim);
    else
        op_gelu(ex, y, x, s.rows, s.dim);
}

/* aliased: 0 none, 1 y is x, 2 y is z */
static void check(enum kind kind, struct size s, int aliased)
{
    size_t n = (size_t)(s.rows * s.dim);
    float *x = op_floats(n, 21, 8), *z = op_floats(n, 22, 2), *y = op_floats(n, 23, 1);
    double *reference = malloc(n * sizeof *reference);
    float *first = NULL;
    char what[64];
    snprintf(what, sizeof what, "%s n=%zu alias=%d", names[kind], n, aliased);
    for (size_t i = 0; i < n; i++)
        reference[i] = reference_of(kind, (double)x[i], (double)z[i]);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        exec_set_phase(ex, MLL_DECODE); /* a token's kernels may begin early */
        if (aliased)
            memcpy(y, aliased == 1 ? x : z, n * sizeof *y);
        float *dx = op_dev(ex, x, n * sizeof *x), *dz = op_dev(ex, z, n * sizeof *z);
        float *dy = op_dev(ex, y, n * sizeof *y);
        run(kind, ex, dy, aliased == 1 ? dy : dx, aliased == 2 ? dy : dz, s);
        op_back(ex, y, dy, n * sizeof *y);
        /* 1 + erf cancels for negative x, as it does in the formula */
        double bound = kind == GELU ? 1e-9 : 1e-12;
        op_judge(&first, y, reference, n, bound, 0, ex, what);
    }
    free(first);
    free(reference);
    free(x);
    free(y);
    free(z);
}

Test(op_add, equals_the_formula_on_every_exec)
{
    for (size_t i = 0; i < SIZES; i++)
        check(ADD, sizes[i], (int)(i % 2));
}

Test(op_silu_mul, equals_the_formula_on_every_exec)
{
    for (size_t i = 0; i < SIZES; i++)
        check(SILU_MUL, sizes[i], (int)(i % 3));
}

Test(op_gelu, equals_the_formula_on_every_exec)
{
    for (size_t i = 0; i < SIZES; i++)
        check(GELU, sizes[i], (int)(i % 2));
}

/* Every form must also agree where the polynomials of fmath.h change or end. */
Test(op_gelu, and_silu_agree_on_edges_and_non_finite_values)
{
    static const float edges[] = {0.0f,     -0.0f,    1e-40f,    -1e-40f,   1.41421f,  1.41422f,
                                  -1.4143f, 5.65f,    5.66f,     -5.66f,    -87.33f,   -88.5f,
                                  88.0f,    88.73f,   -88.73f,   103.9f,    -104.1f,   3e38f,
                                  -3e38f,   INFINITY, -INFINITY, 0.693147f, -0.34657f, NAN};
    enum { N = sizeof edges / sizeof edges[0] };
    float ones[N], first[2][N], y[N] = {0};
    bool have_first = false;
    for (int i = 0; i < N; i++)
        ones[i] = 1;
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        float *dy = op_dev(ex, y, sizeof y), *d_edges = op_dev(ex, edges, sizeof edges);
        for (int kind = 0; kind < 2; kind++) {
            run(kind ? GELU : SILU_MUL, ex, dy, d_edges, op_dev(ex, ones, sizeof ones),
                (struct size){1, N});
            op_back(ex, y, dy, sizeof y);
            if (!have_first)
                memcpy(first[kind], y, sizeof y);
            for (int i = 0; i < N; i++)
                cr_expect(isnan(y[i]) ? isnan(first[kind][i])
                                      : memcmp(&y[i], &first[kind][i], sizeof y[i]) == 0,
                          "%s: %s(%a) = %a, not %a", exec_describe(ex), kind ? "gelu" : "silu",
                          (double)edges[i], (double)y[i], (double)first[kind][i]);
            cr_expect(isnan(y[N - 1]) && y[19] == INFINITY && y[17] == 3e38f);
        }
        have_first = true;
    }
}

static const struct gated_case {
    int rows, dim;
    enum mll_dtype dtype; /* of the gate; NONE: no gate */
    bool scaled;
} gated_cases[] = {
    {1, 1, MLL_DTYPE_NONE, false}, {3, 17, MLL_DTYPE_BF16, false}, {5, 64, MLL_DTYPE_NONE, true},
    {4, 31, MLL_DTYPE_F32, true},  {90, 400, MLL_DTYPE_F16, true},
};

static void check_gated(const struct gated_case *c)
{
    size_t dim = (size_t)c->dim, n = (size_t)c->rows * dim;
    float *x = op_floats(n, 31, 2), *y0 = op_floats(n, 32, 2), *y = op_floats(n, 33, 1);
    float *scale = op_floats((size_t)c->rows, 34, 1), *first = NULL;
    double *reference = malloc(n * sizeof *reference);
    enum mll_dtype dtype = c->dtype == MLL_DTYPE_NONE ? MLL_DTYPE_F32 : c->dtype;
    struct mat gate = op_mat(1, 1, dtype, 1, 35, 1);
    const struct mat *g = c->dtype == MLL_DTYPE_NONE ? NULL : &gate;
    double s = g ? tanh((double)weight_at(gate.data, dtype, 0)) : 1;
    scale[0] = 0; /* a row that is masked out */
    for (size_t i = 0; i < n; i++)
        reference[i] = (double)y0[i] + s * (c->scaled ? (double)scale[i / dim] : 1) * (double)x[i];
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        struct mat loaded = op_weight(ex, &gate, WEIGHT_VECTOR);
        float *d_scale = op_dev(ex, scale, (size_t)c->rows * sizeof *scale);
        memcpy(y, y0, n * sizeof *y);
        float *dy = op_dev(ex, y, n * sizeof *y), *dx = op_dev(ex, x, n * sizeof *x);
        op_add_gated(ex, dy, dx, g ? &loaded : NULL, c->scaled ? d_scale : NULL, c->rows, c->dim);
        op_back(ex, y, dy, n * sizeof *y);
        op_judge(&first, y, reference, n, 1e-12, 0, ex, "add_gated");
        if (c->scaled)
            cr_expect_eq(op_first_difference(y, y0, dim), dim, "a row of scale 0 stays");
    }
    free(first);
    free(reference);
    free(scale);
    free(x);
    free(y);
    free(y0);
    op_mat_free(&gate, 1);
}

Test(op_add_gated, equals_the_formula_on_every_exec)
{
    for (size_t i = 0; i < sizeof gated_cases / sizeof gated_cases[0]; i++)
        check_gated(&gated_cases[i]);
}
