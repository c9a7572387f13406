/* test_matmul_ends.c - op_matmul_add: the bits of op_matmul and op_add_gated, for every kind of
 * weight, exec and phase. */
#include <stdio.h>

#include "quant_data.h"

/* Kinds of weight: stored floats, then quantised ones, the last for the plain form alone. */
static const enum mll_dtype floats[] = {MLL_DTYPE_F32, MLL_DTYPE_F16, MLL_DTYPE_BF16};
static const struct quant_kind coded[] = {
    {MLL_DTYPE_I8, false, false, 0, MLL_DTYPE_NONE},
    {MLL_DTYPE_Q4, false, false, 64, MLL_DTYPE_F32},
    {MLL_DTYPE_Q4, true, true, 64, MLL_DTYPE_BF16},
    {MLL_DTYPE_Q4, true, false, 32, MLL_DTYPE_F32},
};
enum { FLOATS = 3, KINDS = FLOATS + 4 };

/* Shapes for every tile of a GPU, with rows and columns left over, rows that are not whole. */
static const struct shape {
    int n, rows, cols;
    bool bias;
    enum mll_dtype gate; /* NONE: no gate */
    bool in_place;       /* y is base */
} shapes[] = {
    {1, 1, 1, true, MLL_DTYPE_NONE, false},     {2, 7, 17, false, MLL_DTYPE_BF16, true},
    {5, 9, 64, true, MLL_DTYPE_F32, true},      {7, 33, 192, false, MLL_DTYPE_NONE, true},
    {27, 36, 1088, true, MLL_DTYPE_F16, false}, {67, 70, 128, true, MLL_DTYPE_NONE, false},
    {195, 34, 64, true, MLL_DTYPE_F32, true},   {127, 255, 64, false, MLL_DTYPE_BF16, false},
};
enum { SHAPES = OP_RACE ? 6 : sizeof shapes / sizeof shapes[0] };

struct weight {
    struct mat mat;
    struct quant_data *data; /* NULL: floats */
};

static struct weight make_weight(int kind, int rows, int cols)
{
    struct weight w = {.data = NULL};
    if (kind < FLOATS) {
        w.mat = op_mat(rows, cols, floats[kind], 0, 5, 1);
    } else {
        w.data = quant_make(&coded[kind - FLOATS], rows, cols, 0, 5);
        w.mat = w.data->mat;
    }
    return w;
}

static void free_weight(struct weight *w)
{
    if (w->data != NULL)
        quant_free(w->data);
    else
        op_mat_free(&w->mat, 0);
}

static void check_add(struct mll_exec *ex, const struct shape *s, int kind)
{
    size_t n_y = (size_t)s->n * (size_t)s->rows, n_x = (size_t)s->n * (size_t)s->cols;
    size_t mark = exec_mark(ex), bytes = n_y * sizeof(float);
    float *x = op_floats(n_x, 7, 1), *base = op_floats(n_y, 8, 4);
    float *product = op_floats(n_y, 9, 1), *y = op_floats(n_y, 10, 1);
    float *expected = op_floats(n_y, 8, 4);
    struct weight host = make_weight(kind, s->rows, s->cols);
    struct mat host_bias = op_mat(1, s->rows, MLL_DTYPE_BF16, 0, 6, 1);
    struct mat host_gate =
        op_mat(1, 1, s->gate == MLL_DTYPE_NONE ? MLL_DTYPE_F32 : s->gate, 0, 3, 2);
    struct mat w = op_weight(ex, &host.mat, WEIGHT_MATRIX);
    struct mat bias = op_weight(ex, &host_bias, WEIGHT_VECTOR);
    struct mat gate = op_weight(ex, &host_gate, WEIGHT_VECTOR);
    const struct mat *b = s->bias ? &bias : NULL, *g = s->gate != MLL_DTYPE_NONE ? &gate : NULL;
    float *dx = op_dev(ex, x, n_x * sizeof *x), *d_base = op_dev(ex, base, bytes);
    float *d_product = op_dev(ex, product, bytes), *d_expected = op_dev(ex, expected, bytes);
    float *dy = s->in_place ? d_base : op_dev(ex, y, bytes);

    op_matmul(ex, d_product, dx, &w, b, s->n);
    op_add_gated(ex, d_expected, d_product, g, NULL, s->n, s->rows);
    size_t before = exec_mark(ex);
    op_matmul_add(ex, dy, d_base, dx, &w, b, g, s->n);
    cr_expect_eq(exec_mark(ex), before);
    op_back(ex, expected, d_expected, bytes);
    op_back(ex, s->in_place ? base : y, dy, bytes);
    size_t at = op_first_difference(s->in_place ? base : y, expected, n_y);
    cr_expect_eq(at, n_y, "%s, n %d, w %d x %d, kind %d: bits differ at %zu", exec_describe(ex),
                 s->n, s->rows, s->cols, kind, at);

    exec_release(ex, mark);
    free_weight(&host);
    op_mat_free(&host_bias, 0);
    op_mat_free(&host_gate, 0);
    free(x);
    free(base);
    free(product);
    free(y);
    free(expected);
}

static void check_adds(struct mll_exec *ex)
{
    for (int phase = MLL_PREFILL; phase <= (op_is_cuda(ex) ? MLL_DECODE : MLL_PREFILL); phase++)
        for (int i = 0; i < SHAPES * KINDS; i++) {
            if (i / KINDS > 5 && op_is_cuda(ex) && i % KINDS % 2 == 0)
                continue; /* the shim takes its time */
            exec_set_phase(ex, (enum mll_phase)phase);
            check_add(ex, &shapes[i / KINDS], i % KINDS);
        }
}

/* What the ops take at the largest shape; closes ex. */
static size_t scratch_on(struct mll_exec *ex)
{
    size_t most = 0;
    for (int i = 0; i < SHAPES && ex != NULL; i++) {
        const struct shape *s = &shapes[i];
        size_t bytes = op_matmul_add_scratch(ex, s->n, s->rows, s->cols);
        most = bytes > most ? bytes : most;
    }
    exec_close(ex);
    return most;
}

static size_t scratch_of(void)
{
    size_t cpu = scratch_on(op_exec(7, MLL_ISA_AUTO, 0)), cuda = scratch_on(op_exec_cuda(0));
    return cpu > cuda ? cpu : cuda;
}

Test(op_matmul_add, has_the_bits_of_a_product_and_a_sum)
{
    size_t scratch = scratch_of();
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, scratch)) != NULL)
        if (exec_threads(ex) < 3)
            check_adds(ex);
}

Test(op_matmul_add, has_them_in_other_arithmetics, .disabled = OP_SHIM)
{
    static const enum mll_compute others[] = {MLL_COMPUTE_BF16, MLL_COMPUTE_INT8};
    for (int i = 0; i < 2; i++) {
        struct mll_exec *ex = NULL;
        struct mll_error err;
        if (exec_open_cpu(&ex, 2, MLL_ISA_AUTO, others[i], 1 << 22, &err) != MLL_OK)
            continue; /* this CPU has no BF16 dot instruction */
        check_adds(ex);
        exec_close(ex);
    }
}

Test(op_matmul_add, has_them_of_a_fast_product)
{
    struct exec_cuda_options options = {.fast = true};
    struct mll_exec *ex = NULL;
    struct mll_error err;
    if (exec_cuda_devices() <= 0)
        cr_skip_test("no CUDA device");
    if (exec_open_cuda(&ex, &options, (size_t)1 << 24, &err) != MLL_OK)
        cr_skip_test("no cuBLASLt: see op_matmul/fast_is_the_formula_on_half_rows_or_says_why_not");
    check_adds(ex);
    exec_close(ex);
}
