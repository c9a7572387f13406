/* test_matmul_ends.c - op_matmul_add: the bits of op_matmul and op_add_gated, for every kind of
 * weight, exec and phase. op_matmul_gelu: those of op_matmul and op_gelu, and what becomes of them
 * in a GPU's operand. */
#include <math.h>

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
enum { SHAPES = OP_RACE ? 4 : sizeof shapes / sizeof shapes[0] };

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

/* ---- gelu ------------------------------------------------------------------------------------ */

/* Two matmuls with a gelu between, by the ops alone and by op_matmul_gelu, with y an operand. */
struct two_layers {
    int n, rows, cols;
    float *x, *bias, *w, *back; /* back (rows, rows), the second weight */
    float *left, *made;         /* (n, rows) results: alone, fused */
};

enum { INNER = 68 }; /* zeros behind a row */

static void run_layers(struct mll_exec *ex, const struct two_layers *t, int kind)
{
    size_t mark = exec_mark(ex), n_y = (size_t)t->n * (size_t)t->rows, bytes = n_y * sizeof(float);
    struct mat w = {.data = t->w, .dtype = MLL_DTYPE_F32, .rows = t->rows, .cols = t->cols};
    struct mat bias = {.data = t->bias, .dtype = MLL_DTYPE_F32, .rows = 1, .cols = t->rows};
    struct mat back = {.data = t->back, .dtype = MLL_DTYPE_F32, .rows = t->rows, .cols = t->rows};
    struct weight stored =
        kind >= FLOATS ? make_weight(kind, t->rows, t->cols) : (struct weight){0};
    w = op_weight(ex, kind >= FLOATS ? &stored.mat : &w, WEIGHT_MATRIX);
    bias = op_weight(ex, &bias, WEIGHT_VECTOR);
    back = op_weight(ex, &back, WEIGHT_MATRIX);
    const struct mat *b = t->bias != NULL ? &bias : NULL;
    float *dx = op_dev(ex, t->x, (size_t)t->n * (size_t)t->cols * sizeof *dx);
    float *d_left = op_dev(ex, t->left, bytes), *d_made = op_dev(ex, t->made, bytes);
    float *host = op_floats(2 * n_y, 9, 1);
    float *y = op_dev(ex, host, bytes), *operand = op_dev(ex, host + n_y, bytes);
    op_matmul(ex, y, dx, &w, b, t->n);
    op_gelu(ex, y, y, t->n, t->rows);
    op_matmul(ex, d_left, y, &back, NULL, t->n);
    exec_alloc(ex, 1);
    exec_operand(ex, operand, t->n, t->rows);
    op_matmul_gelu(ex, operand, dx, &w, b, t->n);
    op_matmul(ex, d_made, operand, &back, NULL, t->n);
    op_back(ex, t->left, d_left, bytes);
    op_back(ex, t->made, d_made, bytes);
    exec_release(ex, mark);
    if (kind >= FLOATS)
        free_weight(&stored);
    free(host);
}

static struct two_layers make_layers(int n, int rows, int cols, bool bias, float scale)
{
    struct two_layers t = {.n = n, .rows = rows, .cols = cols};
    t.x = op_floats((size_t)n * (size_t)cols, 3, scale);
    t.w = op_floats((size_t)rows * (size_t)cols, 4, 1);
    t.bias = bias ? op_floats((size_t)rows, 5, 1) : NULL;
    t.back = op_floats((size_t)rows * (size_t)rows, 6, 1);
    t.left = op_floats((size_t)n * (size_t)rows, 7, 1);
    t.made = op_floats((size_t)n * (size_t)rows, 8, 1);
    return t;
}

static void free_layers(struct two_layers *t)
{
    free(t->x);
    free(t->w);
    free(t->bias);
    free(t->back);
    free(t->left);
    free(t->made);
}

/* Small numbers: none of gelu's results is so far below the bound that fp16 would round it more. */
Test(op_matmul_gelu, gives_a_matmul_the_bits_of_the_two_ops)
{
    static const struct shape wide[] = {{.n = 1, .rows = 64, .cols = 9, .bias = true},
                                        {.n = 5, .rows = 68, .cols = 64},
                                        {.n = 37, .rows = 70, .cols = 128, .bias = true},
                                        {.n = 67, .rows = 260, .cols = 192, .bias = true},
                                        {.n = 130, .rows = 128, .cols = 65}};
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 23)) != NULL)
        for (int run = 0; run < 5 * 6 && exec_threads(ex) < 3; run++) {
            const struct shape *s = &wide[run % 5];
            int kind = run / 5 % 3 == 0 ? 0 : FLOATS + run / 5 % 3;
            if ((run >= 15 && !op_is_cuda(ex)) || (OP_RACE && (kind > 0 || s->n > 37)))
                continue;
            struct two_layers t = make_layers(s->n, s->rows, s->cols, s->bias, 0.03f);
            size_t count = (size_t)s->n * (size_t)s->rows;
            exec_set_phase(ex, run < 15 ? MLL_PREFILL : MLL_DECODE);
            run_layers(ex, &t, kind);
            size_t at = op_first_difference(t.left, t.made, count);
            cr_expect_eq(at, count, "%s, kind %d, n %d, %d x %d, phase %d: bits differ at %zu",
                         exec_describe(ex), kind, s->n, s->rows, s->cols, run >= 15, at);
            free_layers(&t);
        }
}

/* B of ops.h. */
static double bound_of(const struct two_layers *t, int r)
{
    double x = 0, w = 0, bias = 0;
    for (int k = 0; k < t->cols; k++)
        x = fmax(x, fabs((double)t->x[r * t->cols + k]));
    if (x == 0)
        x = 0x1p14;
    for (int o = 0; o < t->rows; o++) {
        double sum = 0;
        for (int k = 0; k < t->cols; k++)
            sum += fabs((double)t->w[o * t->cols + k]);
        w = fmax(w, sum);
        bias = fmax(bias, fabs((double)t->bias[o]));
    }
    return x * w + bias;
}

/* Row r of x and, where far is set, its orthogonal rows of w, bias: from zeros to what float32
 * hardly holds. The second matmul shows the operand itself. */
Test(op_matmul_gelu, keeps_rows_of_any_magnitude)
{
    static const int powers[][3] = {{0, 0, 0},     {-3, 6, -20},  {60, -40, -90}, {-90, 70, -30},
                                    {-60, -60, 0}, {20, -30, 90}, {-30, 0, -100}, {63, 50, 0}};
    struct mll_exec *ex = op_exec_cuda(1 << 22);
    if (ex == NULL)
        cr_skip_test("no CUDA device");
    for (size_t p = 0; p < (OP_RACE ? 2 : sizeof powers / sizeof *powers); p++) {
        struct two_layers t = make_layers(9, INNER, 70, true, 1);
        memset(t.back, 0, INNER * INNER * sizeof *t.back);
        for (int o = 0; o < INNER; o++) {
            t.back[o * INNER + o] = 1;
            t.bias[o] = ldexpf(t.bias[o], powers[p][2]);
            for (int k = 0; k < t.cols; k++) /* the last row: of columns where x is zero */
                t.w[o * t.cols + k] = o < INNER - 1 ? ldexpf(t.w[o * t.cols + k], powers[p][1])
                                      : k == 0      ? ldexpf(1, powers[p][1] + 20)
                                                    : 0;
        }
        for (int i = 0; i < t.n * t.cols; i++)
            t.x[i] = i % t.cols == 0 ? 0 : ldexpf(t.x[i], powers[p][0] - i / t.cols);
        memset(t.x + t.cols, 0, (size_t)t.cols * sizeof *t.x);
        run_layers(ex, &t, 0);
        for (int i = 0; i < t.n * INNER; i++) {
            double off = fabs((double)t.made[i] - (double)t.left[i]);
            double most = ldexp(bound_of(&t, i / INNER), -38) + ldexp(fabs((double)t.left[i]), -10);
            cr_expect(off <= most, "powers %zu, element %d: %g, not %g; %g allowed", p, i,
                      (double)t.made[i], (double)t.left[i], most);
        }
        free_layers(&t);
    }
    exec_close(ex);
}
