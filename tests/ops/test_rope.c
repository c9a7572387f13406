/* test_rope.c - op_rope against the rotation in double, at the float32 angles of the contract. */
#include <math.h>
#include <stdio.h>

#include "op_test.h"

static const struct rope_case {
    int n, heads, head_dim, first_pos;
} cases[] = {
    {1, 1, 2, 0},         {5, 3, 8, 0},  {3, 2, 130, 77}, {9, 4, 64, 4000},
    {2, 32, 128, 131000}, {70, 1, 6, 1}, {70, 8, 64, 9},
};

static void reference(double *y, const float *x, int pos, const float *inv_freq, int head_dim)
{
    int half = head_dim / 2;
    for (int i = 0; i < half; i++) {
        float angle = (float)pos * inv_freq[i];
        double c = cos((double)angle), s = sin((double)angle);
        y[i] = (double)x[i] * c - (double)x[i + half] * s;
        y[i + half] = (double)x[i + half] * c + (double)x[i] * s;
    }
}

/* Rotates n rows of x from row `first` on. */
static void rotate(struct mll_exec *ex, float *x, const int32_t *pos, const float *inv_freq,
                   const struct rope_case *c, int first, int n)
{
    size_t mark = exec_mark(ex), row = (size_t)(c->heads * c->head_dim);
    float *from = x + (size_t)first * row, *y = op_dev(ex, from, (size_t)n * row * sizeof *x);
    op_rope(ex, y, op_dev(ex, pos + first, (size_t)n * sizeof *pos),
            op_dev(ex, inv_freq, (size_t)c->head_dim / 2 * sizeof *inv_freq), n, c->heads,
            c->head_dim);
    op_back(ex, from, y, (size_t)n * row * sizeof *x);
    exec_release(ex, mark);
}

static void check_case(const struct rope_case *c)
{
    size_t row = (size_t)(c->heads * c->head_dim), n = (size_t)c->n * row;
    float *x = op_floats(n, 1, 3), *y = op_floats(n, 2, 1), *first = NULL;
    float *inv_freq = op_floats((size_t)c->head_dim / 2, 3, 1);
    double *expected = malloc(n * sizeof *expected);
    int32_t *pos = malloc((size_t)c->n * sizeof *pos);
    char what[64];
    snprintf(what, sizeof what, "rope %dx%dx%d from %d", c->n, c->heads, c->head_dim, c->first_pos);
    for (int i = 0; i < c->head_dim / 2; i++)
        inv_freq[i] = powf(500000.0f, -2.0f * (float)i / (float)c->head_dim);
    for (int r = 0; r < c->n; r++)
        pos[r] = c->first_pos + r;
    for (int i = 0; i < c->n * c->heads; i++)
        reference(expected + i * c->head_dim, x + i * c->head_dim, pos[i / c->heads], inv_freq,
                  c->head_dim);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        memcpy(y, x, n * sizeof *y);
        rotate(ex, y, pos, inv_freq, c, 0, c->n);
        op_judge(&first, y, expected, n, 1e-12, 1e-12, ex, what);
        memcpy(y + n - row, x + n - row, row * sizeof *y);
        rotate(ex, y, pos, inv_freq, c, c->n - 1, 1);
        op_judge(&first, y, expected, n, 1e-12, 1e-12, ex, "the last row alone");
    }
    free(first);
    free(expected);
    free(inv_freq);
    free(pos);
    free(x);
    free(y);
}

Test(op_rope, rotates_pairs_half_a_head_apart)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_case(&cases[i]);
}

Test(op_rope, position_zero_changes_nothing)
{
    float x[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, inv_freq[3] = {1, 0.5f, 0.1f};
    int32_t pos = 0;
    struct mll_exec *ex = op_exec(1, MLL_ISA_AUTO, 0);
    op_rope(ex, x, &pos, inv_freq, 1, 2, 6);
    for (int i = 0; i < 12; i++)
        cr_expect_eq(x[i], (float)(i + 1));
    exec_close(ex);
}
