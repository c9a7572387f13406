/* test_attn_vision.c - op_attn_vision against masked softmax in double. */
#include <math.h>
#include <stdio.h>

#include "op_test.h"

/* On a GPU q, k, p and v are fp16: each is off by 2^-12 of itself, uniformly up to twice that, NMSE
 * 2e-8. That of p and v is the result's; a score, here up to 13, is off by 6e-4 (q, k in [-2, 2],
 * 80 products times 0.4), p by as much of itself: NMSE 4e-7. */
#define CUDA_NMSE 6e-7

static const struct vision_case {
    int rows, heads, dim, first_pad,
        pad_every; /* row r is a pad row if r % pad_every >= first_pad */
} cases[] = {
    {1, 1, 1, 1, 1},       {5, 2, 4, 4, 5},       {64, 1, 16, 60, 64},   {65, 3, 20, 60, 65},
    {130, 2, 80, 30, 33},  {257, 1, 31, 10, 300}, {96, 2, 33, 96, 96},   {50, 1, 8, 0, 1},
    {200, 3, 17, 70, 200}, {150, 1, 128, 33, 50}, {300, 2, 80, 90, 100}, {161, 1, 72, 1, 161},
};

static void reference(double *y, const float *q, const float *k, const float *v, const uint8_t *pad,
                      const struct vision_case *c, int r, int h, bool alike)
{
    int row = c->heads * c->dim;
    double *s = malloc((size_t)c->rows * sizeof *s), max = -INFINITY, sum = 0;
    for (int j = 0; j < c->rows; j++) {
        s[j] = 0;
        for (int d = 0; d < c->dim && !alike; d++)
            s[j] += (double)q[r * row + h * c->dim + d] * (double)k[j * row + h * c->dim + d];
        s[j] = pad[r] && pad[j] && !alike ? -INFINITY : s[j] * (double)0.4f;
        max = s[j] > max ? s[j] : max;
    }
    for (int j = 0; j < c->rows; j++)
        sum += exp(s[j] - max);
    for (int d = 0; d < c->dim; d++) {
        y[d] = 0;
        for (int j = 0; j < c->rows; j++)
            y[d] += exp(s[j] - max) / sum * (double)v[j * row + h * c->dim + d];
    }
    free(s);
}

/* The op on whatever device; what it takes from the arena is at most what it states. */
static void attend(struct mll_exec *ex, float *y, const float *q, const float *k, const float *v,
                   const uint8_t *pad, int rows, int heads, int dim, float scale)
{
    size_t mark = exec_mark(ex), bytes = (size_t)(rows * heads * dim) * sizeof *y;
    float *on_device = op_dev(ex, y, bytes);
    const float *q_on = op_dev(ex, q, bytes), *k_on = op_dev(ex, k, bytes);
    const float *v_on = op_dev(ex, v, bytes);
    const uint8_t *pad_on = op_dev(ex, pad, (size_t)rows);
    size_t before = exec_mark(ex), scratch = op_attn_vision_scratch(ex, rows, heads, dim);
    op_attn_vision(ex, on_device, q_on, k_on, v_on, pad_on, rows, heads, dim, scale);
    cr_expect(exec_peak(ex) <= before + scratch, "%s: scratch %zu of %zu", exec_describe(ex),
              exec_peak(ex) - before, scratch);
    op_back(ex, y, on_device, bytes);
    exec_release(ex, mark);
}

static void check_case(const struct vision_case *c)
{
    size_t row = (size_t)(c->heads * c->dim), n = (size_t)c->rows * row;
    float *q = op_floats(n, 1, 2), *k = op_floats(n, 2, 2), *v = op_floats(n, 3, 2);
    float *y = op_floats(n, 4, 1), *first = NULL;
    uint8_t *pad = malloc((size_t)c->rows);
    double *expected = malloc(n * sizeof *expected);
    bool alike = true;
    char what[64];
    snprintf(what, sizeof what, "rows %d heads %d dim %d", c->rows, c->heads, c->dim);
    for (int r = 0; r < c->rows; r++) {
        pad[r] = r % c->pad_every >= c->first_pad;
        alike = alike && pad[r];
    }
    for (int i = 0; i < c->rows * c->heads; i++)
        reference(expected + i * c->dim, q, k, v, pad, c, i / c->heads, i % c->heads, alike);
    struct mll_exec *ex = op_exec(7, MLL_ISA_C, 0);
    size_t scratch = op_attn_vision_scratch(ex, c->rows, c->heads, c->dim);
    exec_close(ex);
    ex = NULL;
    while ((ex = op_each_exec(ex, scratch)) != NULL) {
        attend(ex, y, q, k, v, pad, c->rows, c->heads, c->dim, 0.4f);
        op_judge(&first, y, expected, n, 1e-11, CUDA_NMSE, ex, what);
    }
    free(q);
    free(k);
    free(v);
    free(y);
    free(pad);
    free(expected);
    free(first);
}

Test(op_attn_vision, equals_masked_softmax_on_every_exec)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_case(&cases[i]);
}

/* The mask blocks pairs of pad rows only: what pad keys hold reaches rows that are not pads. */
Test(op_attn_vision, pad_rows_do_not_see_each_other)
{
    enum { ROWS = 100, DIM = 16, PADS = 30 };
    float *q = op_floats(ROWS * DIM, 1, 1), *k = op_floats(ROWS * DIM, 2, 1);
    float *v = op_floats(ROWS * DIM, 3, 1), *y = op_floats(ROWS * DIM, 4, 1);
    float *changed = op_floats(ROWS * DIM, 5, 1);
    uint8_t pad[ROWS];
    for (int r = 0; r < ROWS; r++)
        pad[r] = r >= ROWS - PADS;
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
        op_fill(v, ROWS * DIM, 3, 1);
        attend(ex, y, q, k, v, pad, ROWS, 1, DIM, 1.0f);
        for (int i = (ROWS - PADS) * DIM; i < ROWS * DIM; i++)
            v[i] = NAN;
        attend(ex, changed, q, k, v, pad, ROWS, 1, DIM, 1.0f);
        for (int i = 0; i < ROWS * DIM; i++)
            cr_assert(pad[i / DIM] ? memcmp(&changed[i], &y[i], sizeof y[i]) == 0
                                   : isnan(changed[i]),
                      "%s: row %d", exec_describe(ex), i / DIM);
    }
    free(q);
    free(k);
    free(v);
    free(y);
    free(changed);
}

/* As an operand it gives a matmul what the floats give it: the same halves over another power of
 * two. */
Test(op_attn_vision, leaves_an_operand)
{
    static const struct vision_case shapes[] = {
        {70, 2, 80, 30, 33}, {40, 3, 32, 40, 41}, {33, 1, 100, 20, 30}, {9, 1, 64, 0, 1}};
    enum { OUT = 3 };
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 22)) != NULL)
        for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
            const struct vision_case *c = &shapes[i];
            int cols = c->heads * c->dim;
            size_t mark = exec_mark(ex), n = (size_t)(c->rows * cols), bytes = n * sizeof(float);
            size_t bytes_out = (size_t)c->rows * OUT * sizeof(float);
            float *x = op_floats(n, 1, 2), *left = op_floats((size_t)c->rows * OUT, 1, 1);
            float *made = op_floats((size_t)c->rows * OUT, 2, 1);
            uint8_t *pad = malloc((size_t)c->rows);
            for (int r = 0; r < c->rows; r++)
                pad[r] = r % c->pad_every >= c->first_pad;
            struct mat weight = op_mat(OUT, cols, MLL_DTYPE_BF16, 0, 6, 1);
            struct mat w = op_weight(ex, &weight, WEIGHT_MATRIX);
            const float *q = op_dev(ex, x, bytes);
            const uint8_t *p = op_dev(ex, pad, (size_t)c->rows);
            float *floats = op_is_cuda(ex) ? op_dev(ex, x, bytes) : op_floats(n, 2, 1);
            float *d_left = op_dev(ex, left, bytes_out), *d_made = op_dev(ex, made, bytes_out);
            op_attn_vision(ex, floats, q, q, q, p, c->rows, c->heads, c->dim, 0.2f);
            op_matmul(ex, d_made, floats, &w, NULL, c->rows);
            exec_alloc(ex, 1);
            exec_operand(ex, floats, c->rows, cols);
            op_attn_vision(ex, floats, q, q, q, p, c->rows, c->heads, c->dim, 0.2f);
            op_matmul(ex, d_left, floats, &w, NULL, c->rows);
            op_back(ex, left, d_left, bytes_out);
            op_back(ex, made, d_made, bytes_out);
            size_t at = op_first_difference(left, made, (size_t)c->rows * OUT);
            cr_expect_eq(at, (size_t)c->rows * OUT, "%s: %d rows, element %zu", exec_describe(ex),
                         c->rows, at);
            exec_release(ex, mark);
            if (!op_is_cuda(ex))
                free(floats);
            free(x), free(left), free(made), free(pad);
            op_mat_free(&weight, 0);
        }
}
