/* test_matmul.c - op_matmul against the formula in double; the same bits for every form, thread
 * count and number of rows; the BF16 dot against its own bounds. */
#include <math.h>

#include "op_test.h"

static const struct matmul_case {
    int n, rows, cols;
    enum mll_dtype dtype;
    bool bias;
    size_t offset; /* of the weight bytes from an aligned address */
} cases[] = {
    {1, 1, 1, MLL_DTYPE_F32, false, 0},      {1, 5, 15, MLL_DTYPE_BF16, true, 1},
    {2, 4, 16, MLL_DTYPE_F16, false, 0},     {3, 7, 17, MLL_DTYPE_BF16, false, 3},
    {5, 9, 33, MLL_DTYPE_F16, true, 1},      {6, 8, 64, MLL_DTYPE_F32, true, 2},
    {7, 3, 130, MLL_DTYPE_BF16, true, 0},    {12, 31, 63, MLL_DTYPE_F16, false, 2},
    {24, 33, 96, MLL_DTYPE_BF16, true, 1},   {26, 1, 1, MLL_DTYPE_BF16, true, 0},
    {27, 37, 1030, MLL_DTYPE_BF16, true, 2}, /* more than one block of k */
    {31, 66, 31, MLL_DTYPE_F32, true, 1},    {40, 70, 1100, MLL_DTYPE_F16, false, 0},
    {195, 36, 47, MLL_DTYPE_BF16, true, 0}, /* more than one block of rows */
    {205, 2, 2051, MLL_DTYPE_F32, true, 3},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

struct data {
    struct mat w, bias;
    float *x, *y;
    size_t n_y;
};

static struct data make(const struct matmul_case *c)
{
    struct data d = {.w = op_mat(c->rows, c->cols, c->dtype, c->offset, 5, 1),
                     .bias = op_mat(1, c->rows, c->dtype, c->offset, 6, 1),
                     .x = op_floats((size_t)c->n * (size_t)c->cols, 7, 1),
                     .n_y = (size_t)c->n * (size_t)c->rows};
    d.y = op_floats(d.n_y, 8, 1);
    return d;
}

static void unmake(struct data *d, const struct matmul_case *c)
{
    op_mat_free(&d->w, c->offset);
    op_mat_free(&d->bias, c->offset);
    free(d->x);
    free(d->y);
}

/* The formula in double; x rounded to bf16 first where `rounded`. */
static double *reference(const struct data *d, const struct matmul_case *c, bool rounded)
{
    double *y = malloc(d->n_y * sizeof *y);
    size_t rows = (size_t)c->rows, cols = (size_t)c->cols;
    for (size_t i = 0; i < d->n_y; i++) {
        size_t r = i / rows, o = i % rows;
        y[i] = c->bias ? weight_at(d->bias.data, c->dtype, o) : 0;
        for (size_t k = 0; k < cols; k++) {
            float x = d->x[r * cols + k];
            x = rounded ? bf16_to_f32(bf16_from_f32(x)) : x;
            y[i] += (double)x * weight_at(d->w.data, c->dtype, o * cols + k);
        }
    }
    return y;
}

static void run(struct mll_exec *ex, const struct matmul_case *c, struct data *d)
{
    op_fill(d->y, d->n_y, 9, 1);
    op_matmul(ex, d->y, d->x, &d->w, c->bias ? &d->bias : NULL, c->n);
}

/* Scratch for the widest case, as the stages would ask for it. */
static size_t scratch_of(bool bf16, int threads)
{
    struct mll_exec *ex = NULL;
    struct mll_error err;
    size_t bytes = 0;
    if (exec_open_cpu(&ex, threads, MLL_ISA_AUTO, bf16, 0, &err) != MLL_OK)
        return 0;
    for (int i = 0; i < N_CASES; i++) {
        size_t need = op_matmul_scratch(ex, cases[i].n, cases[i].cols);
        bytes = need > bytes ? need : bytes;
    }
    exec_close(ex);
    return bytes;
}

Test(op_matmul, every_form_and_thread_count_gives_the_bits_of_the_c_form)
{
    size_t scratch = scratch_of(false, 7);
    for (int i = 0; i < N_CASES; i++) {
        const struct matmul_case *c = &cases[i];
        struct data d = make(c);
        float *first = malloc(d.n_y * sizeof *first);
        struct mll_exec *ex = NULL;
        while ((ex = op_each_exec(ex, scratch)) != NULL) {
            run(ex, c, &d);
            cr_expect_eq(exec_mark(ex), 0);
            if (strcmp(exec_describe(ex), "cpu c, 1 thread") == 0) {
                double *expected = reference(&d, c, false);
                double nmse = op_nmse(d.y, expected, d.n_y);
                cr_expect(nmse <= 1e-12, "case %d: nmse %g", i, nmse);
                memcpy(first, d.y, d.n_y * sizeof *first);
                free(expected);
            }
            size_t at = op_first_difference(d.y, first, d.n_y);
            cr_expect_eq(at, d.n_y, "case %d, %s: bits differ at %zu", i, exec_describe(ex), at);
        }
        free(first);
        unmake(&d, c);
    }
}

/* Each row again on its own and in the company of a few others. */
static void check_rows_alone(struct mll_exec *ex, const struct matmul_case *c)
{
    struct data d = make(c);
    size_t rows = (size_t)c->rows, cols = (size_t)c->cols;
    float *y = malloc(d.n_y * sizeof *y);
    run(ex, c, &d);
    for (int few = 1; few <= 28; few += few < 8 ? 1 : 10) {
        for (int r = 0; r + few <= c->n; r += few) {
            op_matmul(ex, y, d.x + (size_t)r * cols, &d.w, c->bias ? &d.bias : NULL, few);
            size_t count = (size_t)few * rows;
            cr_expect_eq(op_first_difference(y, d.y + (size_t)r * rows, count), count,
                         "%s: row %d of %d among %d", exec_describe(ex), r, c->n, few);
        }
    }
    free(y);
    unmake(&d, c);
}

Test(op_matmul, a_row_has_the_same_bits_alone_and_among_others)
{
    size_t scratch = scratch_of(false, 7);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, scratch)) != NULL)
        for (int i = 0; i < N_CASES && exec_threads(ex) < 3; i++)
            if (strncmp(exec_describe(ex), "cpu c", 5) != 0)
                check_rows_alone(ex, &cases[i]);
}

Test(op_matmul, lanes_without_an_element_keep_the_sign_of_zero)
{
    /* -2^-149 * 2^-1 rounds to -0: adding +0 to it would turn it to +0 */
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
        for (int n = 1; n <= 26; n += 25) {
            float w[17], x[26 * 17], y[26];
            for (int i = 0; i < 17; i++)
                w[i] = -0x1p-149f;
            for (int i = 0; i < 26 * 17; i++)
                x[i] = 0.5f;
            struct mat m = {.data = w, .dtype = MLL_DTYPE_F32, .rows = 1, .cols = 17};
            op_matmul(ex, y, x, &m, NULL, n);
            cr_expect(y[n - 1] == 0 && signbit(y[n - 1]), "%s", exec_describe(ex));
        }
    }
}

/* ---- compute in bf16 ------------------------------------------------------------------------- */

static struct mll_exec *open_bf16(int threads)
{
    struct mll_exec *ex = NULL;
    struct mll_error err;
    if (exec_open_cpu(&ex, threads, MLL_ISA_AUTO, true, scratch_of(true, threads), &err) != MLL_OK)
        cr_skip_test("this CPU has no BF16 dot instruction");
    return ex;
}

Test(op_matmul, bf16_compute_is_the_formula_on_rounded_activations)
{
    struct mll_exec *ex = open_bf16(1);
    for (int i = 0; i < N_CASES; i++) {
        const struct matmul_case *c = &cases[i];
        struct data d = make(c);
        run(ex, c, &d);
        double *expected = reference(&d, c, c->dtype == MLL_DTYPE_BF16);
        double nmse = op_nmse(d.y, expected, d.n_y);
        cr_expect(nmse <= 1e-12, "case %d: nmse %g", i, nmse);
        free(expected);
        unmake(&d, c);
    }
    exec_close(ex);
}

Test(op_matmul, bf16_compute_gives_the_same_bits_for_any_threads_and_rows)
{
    struct mll_exec *one = open_bf16(1);
    for (int i = 0; i < N_CASES; i++)
        check_rows_alone(one, &cases[i]);
    for (int threads = 2; threads <= 7; threads += threads == 3 ? 4 : 1) {
        struct mll_exec *ex = open_bf16(threads);
        for (int i = 0; i < N_CASES; i++) {
            struct data a = make(&cases[i]), b = make(&cases[i]);
            run(one, &cases[i], &a);
            run(ex, &cases[i], &b);
            cr_expect_eq(op_first_difference(a.y, b.y, a.n_y), a.n_y, "case %d, %d threads", i,
                         threads);
            unmake(&a, &cases[i]);
            unmake(&b, &cases[i]);
        }
        exec_close(ex);
    }
    exec_close(one);
}
