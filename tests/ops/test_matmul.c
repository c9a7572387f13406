/* test_matmul.c - op_matmul against the formula in double; the same bits for every form, thread
 * count and number of rows; the BF16 dot and the GPU against the formula on operands rounded as
 * they round them. */
#include <math.h>

#include "op_test.h"

static const struct matmul_case {
    int n, rows, cols;
    enum mll_dtype dtype;
    bool bias;
    size_t offset; /* of the weight bytes from an aligned address */
} cases[] = {
    {1, 1, 1, MLL_DTYPE_F32, false, 0},
    {1, 5, 15, MLL_DTYPE_BF16, true, 1},
    {2, 4, 16, MLL_DTYPE_F16, false, 0},
    {3, 7, 17, MLL_DTYPE_BF16, false, 3},
    {5, 9, 33, MLL_DTYPE_F16, true, 1},
    {6, 8, 64, MLL_DTYPE_F32, true, 2},
    {7, 3, 130, MLL_DTYPE_BF16, true, 0},
    {12, 31, 63, MLL_DTYPE_F16, false, 2},
    {24, 33, 96, MLL_DTYPE_BF16, true, 1},
    {26, 1, 1, MLL_DTYPE_BF16, true, 0},
    {27, 37, 1030, MLL_DTYPE_BF16, true, 2}, /* more than one block of k */
    {31, 66, 31, MLL_DTYPE_F32, true, 1},
    {40, 70, 1100, MLL_DTYPE_F16, false, 0},
    {195, 36, 47, MLL_DTYPE_BF16, true, 0}, /* more than one block of rows */
    {205, 2, 2051, MLL_DTYPE_F32, true, 3},
    {127, 255, 40, MLL_DTYPE_F16, true, 0}, /* the larger tiles of a GPU */
    {255, 63, 130, MLL_DTYPE_BF16, true, 0},
    {520, 3, 20, MLL_DTYPE_F16, true, 1}, /* more tiles than it puts side by side */
};
enum { N_CASES = OP_RACE ? 11 : sizeof cases / sizeof cases[0] };

struct data {
    struct mat w, bias;
    float *x, *y;
    size_t n_x, n_y;
};

static struct data make(const struct matmul_case *c)
{
    struct data d = {.w = op_mat(c->rows, c->cols, c->dtype, c->offset, 5, 1),
                     .bias = op_mat(1, c->rows, c->dtype, c->offset, 6, 1),
                     .n_x = (size_t)c->n * (size_t)c->cols,
                     .n_y = (size_t)c->n * (size_t)c->rows};
    d.x = op_floats(d.n_x, 7, 1);
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

/* ---- the formula ----------------------------------------------------------------------------- */

/* How operands are rounded before the formula: not at all; x to bf16; both as the GPU does, whose
 * rows are fp16 divided by the power of two that puts the largest element into [2^14, 2^15). */
enum rounding { ROUND_NOT, ROUND_BF16, ROUND_HALF_ROWS };

static void round_half_rows(float *x, size_t rows, size_t cols)
{
    for (size_t r = 0; r < rows; r++, x += cols) {
        float max = 0;
        int exponent = 0;
        for (size_t k = 0; k < cols; k++)
            max = fmaxf(max, fabsf(x[k]));
        if (max > 0)
            frexpf(max, &exponent);
        for (size_t k = 0; k < cols; k++)
            x[k] = ldexpf(f16_to_f32(f16_from_f32(ldexpf(x[k], 15 - exponent))), exponent - 15);
    }
}

static double *reference(const struct data *d, const struct matmul_case *c, enum rounding rounding)
{
    size_t rows = (size_t)c->rows, cols = (size_t)c->cols;
    double *y = malloc(d->n_y * sizeof *y);
    float *x = malloc(d->n_x * sizeof *x), *w = malloc(rows * cols * sizeof *w);
    memcpy(x, d->x, d->n_x * sizeof *x);
    for (size_t i = 0; i < rows * cols; i++)
        w[i] = weight_at(d->w.data, c->dtype, i);
    for (size_t i = 0; i < d->n_x && rounding == ROUND_BF16; i++)
        x[i] = bf16_to_f32(bf16_from_f32(x[i]));
    if (rounding == ROUND_HALF_ROWS) {
        round_half_rows(x, (size_t)c->n, cols);
        round_half_rows(w, rows, cols);
    }
    for (size_t i = 0; i < d->n_y; i++) {
        size_t r = i / rows, o = i % rows;
        y[i] = c->bias ? weight_at(d->bias.data, c->dtype, o) : 0;
        for (size_t k = 0; k < cols; k++)
            y[i] += (double)x[r * cols + k] * w[o * cols + k];
    }
    free(x);
    free(w);
    return y;
}

static void check_reference(const struct mll_exec *ex, const struct data *d,
                            const struct matmul_case *c, enum rounding rounding, double nmse_max)
{
    double *expected = reference(d, c, rounding);
    double nmse = op_nmse(d->y, expected, d->n_y);
    cr_expect(nmse <= nmse_max, "%s, n %d, w %d x %d: nmse %g > %g", exec_describe(ex), c->n,
              c->rows, c->cols, nmse, nmse_max);
    free(expected);
}

/* ---- running --------------------------------------------------------------------------------- */

/* A case's data as an exec's ops want it. */
struct placed {
    struct mat w, bias;
    float *x, *y;
    bool apart; /* y is not the host's */
};

static struct placed place(struct mll_exec *ex, const struct matmul_case *c, const struct data *d)
{
    struct placed p = {.w = op_weight(ex, &d->w, WEIGHT_MATRIX),
                       .x = op_dev(ex, d->x, d->n_x * sizeof *d->x),
                       .y = op_dev(ex, d->y, d->n_y * sizeof *d->y)};
    p.apart = p.y != d->y;
    if (c->bias)
        p.bias = op_weight(ex, &d->bias, WEIGHT_VECTOR);
    return p;
}

/* n rows from row r on to y of the host. */
static void run_rows(struct mll_exec *ex, const struct matmul_case *c, const struct placed *p,
                     float *y, int r, int n)
{
    float *to = p->apart ? p->y : y;
    size_t count = (size_t)n * (size_t)c->rows, mark = exec_mark(ex);
    op_fill(y, count, 9, 1);
    op_matmul(ex, to, p->x + (size_t)r * (size_t)c->cols, &p->w, c->bias ? &p->bias : NULL, n);
    cr_expect_eq(exec_mark(ex), mark);
    op_back(ex, y, to, count * sizeof *y);
}

static void run(struct mll_exec *ex, const struct matmul_case *c, struct data *d)
{
    struct placed p = place(ex, c, d);
    run_rows(ex, c, &p, d->y, 0, c->n);
}

static size_t scratch_on(const struct mll_exec *ex)
{
    size_t bytes = 0;
    for (int i = 0; i < N_CASES && ex != NULL; i++) {
        size_t need = op_matmul_scratch(ex, cases[i].n, cases[i].cols);
        bytes = need > bytes ? need : bytes;
    }
    return bytes;
}

/* Scratch for the widest case, as the stages would ask for it, on a CPU and on a GPU. */
static size_t scratch_of(enum mll_compute compute, int threads)
{
    struct mll_exec *ex = NULL, *cuda = op_exec_cuda(0);
    struct mll_error err;
    if (exec_open_cpu(&ex, threads, MLL_ISA_AUTO, compute, 0, &err) != MLL_OK)
        ex = NULL;
    size_t cpu_bytes = scratch_on(ex), cuda_bytes = scratch_on(cuda);
    exec_close(ex);
    exec_close(cuda);
    return cpu_bytes > cuda_bytes ? cpu_bytes : cuda_bytes;
}

/* ---- tests ----------------------------------------------------------------------------------- */

Test(op_matmul, every_form_and_thread_count_gives_the_bits_of_the_c_form)
{
    size_t scratch = scratch_of(MLL_COMPUTE_F32, 7);
    for (int i = 0; i < N_CASES; i++) {
        const struct matmul_case *c = &cases[i];
        struct data d = make(c);
        float *first = malloc(d.n_y * sizeof *first);
        struct mll_exec *ex = NULL;
        while ((ex = op_each_exec(ex, scratch)) != NULL) {
            if (op_is_cuda(ex))
                continue;
            run(ex, c, &d);
            if (strcmp(exec_describe(ex), "cpu c, 1 thread") == 0) {
                check_reference(ex, &d, c, ROUND_NOT, 1e-12);
                memcpy(first, d.y, d.n_y * sizeof *first);
            }
            size_t at = op_first_difference(d.y, first, d.n_y);
            cr_expect_eq(at, d.n_y, "case %d, %s: bits differ at %zu", i, exec_describe(ex), at);
        }
        free(first);
        unmake(&d, c);
    }
}

/* Float32 sums of the products of fp16 operands: their rounding is all that is left. What the fp16
 * of the operands costs, two roundings of up to 2^-11 a product, is the second bound. */
Test(op_matmul, both_phases_of_a_gpu_are_the_formula_on_half_rows)
{
    size_t scratch = scratch_of(MLL_COMPUTE_F32, 1);
    struct mll_exec *ex = op_exec_cuda(scratch);
    if (ex == NULL)
        cr_skip_test("no CUDA device");
    for (int i = 0; i < N_CASES; i++) {
        struct data d = make(&cases[i]);
        size_t mark = exec_mark(ex);
        struct placed p = place(ex, &cases[i], &d);
        op_leave(ex, scratch, op_matmul_scratch(ex, cases[i].n, cases[i].cols));
        for (int phase = MLL_PREFILL; phase <= MLL_DECODE; phase++) {
            exec_set_phase(ex, phase);
            run_rows(ex, &cases[i], &p, d.y, 0, cases[i].n);
            check_reference(ex, &d, &cases[i], ROUND_HALF_ROWS, 1e-12);
            check_reference(ex, &d, &cases[i], ROUND_NOT, 3e-7);
        }
        exec_release(ex, mark);
        unmake(&d, &cases[i]);
    }
    exec_close(ex);
}

/* cuBLASLt, where it is and there is a device for it: the same operands, sums in an order of its
 * own. */
Test(op_matmul, fast_is_the_formula_on_half_rows_or_says_why_not)
{
    struct exec_cuda_options options = {.fast = true};
    struct mll_exec *ex;
    struct mll_error err;
    if (exec_cuda_devices() <= 0)
        cr_skip_test("no CUDA device");
    enum mll_status status = exec_open_cuda(&ex, &options, (size_t)1 << 24, &err);
    if (status != MLL_OK) {
        cr_expect_eq(status, MLL_ERR_DEVICE);
        cr_expect(strstr(err.message, "fast") != NULL, "%s", err.message);
        return;
    }
    for (int i = 0; i < N_CASES; i++) {
        struct data d = make(&cases[i]);
        size_t mark = exec_mark(ex);
        run(ex, &cases[i], &d);
        check_reference(ex, &d, &cases[i], ROUND_HALF_ROWS, 1e-11);
        exec_release(ex, mark);
        unmake(&d, &cases[i]);
    }
    exec_close(ex);
}

/* Each row again on its own and in the company of a few others. */
static void check_rows_alone(struct mll_exec *ex, const struct matmul_case *c)
{
    struct data d = make(c);
    size_t rows = (size_t)c->rows, mark = exec_mark(ex);
    float *y = malloc(d.n_y * sizeof *y);
    struct placed p = place(ex, c, &d);
    run_rows(ex, c, &p, d.y, 0, c->n);
    for (int few = 1; few <= 28; few += few < 8 ? 1 : 10) {
        for (int r = 0; r + few <= c->n; r += op_is_cuda(ex) ? few * 7 : few) {
            run_rows(ex, c, &p, y, r, few);
            size_t count = (size_t)few * rows;
            cr_expect_eq(op_first_difference(y, d.y + (size_t)r * rows, count), count,
                         "%s: row %d of %d among %d", exec_describe(ex), r, c->n, few);
        }
    }
    exec_release(ex, mark);
    free(y);
    unmake(&d, c);
}

Test(op_matmul, a_row_has_the_same_bits_alone_and_among_others, .disabled = OP_RACE)
{
    size_t scratch = scratch_of(MLL_COMPUTE_F32, 7);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, scratch)) != NULL)
        for (int phase = MLL_PREFILL; phase <= (op_is_cuda(ex) ? MLL_DECODE : MLL_PREFILL); phase++)
            for (int i = 0; i < N_CASES && exec_threads(ex) < 3; i++) {
                exec_set_phase(ex, phase);
                if (strncmp(exec_describe(ex), "cpu c", 5) != 0)
                    check_rows_alone(ex, &cases[i]);
            }
}

/* Three weights of different rows, in both phases, and the last two of them. */
Test(op_matmul, a_group_has_the_bits_of_its_members)
{
    enum { N = 5, COLS = 77, MOST = 150 };
    static const int rows[MLL_MATMUL_GROUP] = {31, MOST, 17};
    float *host[4], *x = op_floats(N * COLS, 3, 1);
    struct mll_exec *ex = NULL;
    for (int i = 0; i < 4; i++)
        host[i] = op_floats(N * MOST, 4, 1);
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
        float *dx = op_dev(ex, x, N * COLS * sizeof(float)), *y[4];
        struct mat stored[MLL_MATMUL_GROUP], w[MLL_MATMUL_GROUP];
        const struct mat *list[MLL_MATMUL_GROUP];
        for (int i = 0; i < 4; i++)
            y[i] = op_dev(ex, host[i], N * MOST * sizeof(float));
        for (int i = 0; i < MLL_MATMUL_GROUP; i++) {
            stored[i] = op_mat(rows[i], COLS, MLL_DTYPE_BF16, 0, (uint64_t)i + 20, 1);
            w[i] = op_weight(ex, &stored[i], WEIGHT_MATRIX);
            list[i] = &w[i];
        }
        for (int run = 0; run < 4; run++) {
            int first = run % 2, count = MLL_MATMUL_GROUP - first;
            exec_set_phase(ex, run / 2 == 0 ? MLL_PREFILL : MLL_DECODE);
            op_matmul_group(ex, y + first, dx, list + first, count, N);
            for (int i = first; i < MLL_MATMUL_GROUP; i++) {
                size_t n = N * (size_t)rows[i];
                op_matmul(ex, y[3], dx, list[i], NULL, N);
                op_back(ex, host[3], y[3], n * sizeof(float));
                op_back(ex, host[i], y[i], n * sizeof(float));
                cr_expect_eq(op_first_difference(host[i], host[3], n), n, "%s: run %d, weight %d",
                             exec_describe(ex), run, i);
            }
        }
        for (int i = 0; i < MLL_MATMUL_GROUP; i++)
            op_mat_free(&stored[i], 0);
    }
    for (int i = 0; i < 4; i++)
        free(host[i]);
    free(x);
}

enum { SCALED_N = 3, SCALED_ROWS = 20, SCALED_COLS = 70, SCALED_Y = SCALED_N * SCALED_ROWS };

/* y = (2^px x) (2^pw w)^T / 2^(px + pw) of seeded x and w. */
static void scaled_product(struct mll_exec *ex, float *y, int px, int pw)
{
    size_t mark = exec_mark(ex), n_x = SCALED_N * SCALED_COLS, n_w = SCALED_ROWS * SCALED_COLS;
    float *x = op_floats(n_x, 3, ldexpf(1, px)), *w = op_floats(n_w, 5, ldexpf(1, pw));
    struct mat m = {.data = w, .dtype = MLL_DTYPE_F32, .rows = SCALED_ROWS, .cols = SCALED_COLS};
    m = op_weight(ex, &m, WEIGHT_MATRIX);
    float *dx = op_dev(ex, x, n_x * sizeof *x), *dy = op_dev(ex, y, SCALED_Y * sizeof *y);
    op_matmul(ex, dy, dx, &m, NULL, SCALED_N);
    op_back(ex, y, dy, SCALED_Y * sizeof *y);
    for (int i = 0; i < SCALED_Y; i++)
        y[i] = ldexpf(y[i], -px - pw);
    exec_release(ex, mark);
    free(x);
    free(w);
}

Test(op_matmul, rows_of_any_magnitude_keep_their_bits_on_a_gpu)
{
    static const int powers[][2] = {{70, -35}, {-70, 20}, {90, -90}, {-20, 100}};
    struct mll_exec *ex = op_exec_cuda(1 << 20);
    if (ex == NULL)
        cr_skip_test("no CUDA device");
    for (int phase = MLL_PREFILL; phase <= MLL_DECODE; phase++) {
        float first[SCALED_Y] = {0}, y[SCALED_Y] = {0};
        exec_set_phase(ex, phase);
        scaled_product(ex, first, 0, 0);
        for (size_t i = 0; i < sizeof powers / sizeof powers[0]; i++) {
            scaled_product(ex, y, powers[i][0], powers[i][1]);
            cr_expect_eq(op_first_difference(y, first, SCALED_Y), SCALED_Y, "phase %d, 2^%d 2^%d",
                         phase, powers[i][0], powers[i][1]);
        }
    }
    exec_close(ex);
}

Test(op_matmul, lanes_without_an_element_keep_the_sign_of_zero)
{
    /* -2^-149 * 2^-1 rounds to -0: adding +0 to it would turn it to +0 */
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
        for (int n = 1; n <= 26 && !op_is_cuda(ex); n += 25) {
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
    if (exec_open_cpu(&ex, threads, MLL_ISA_AUTO, MLL_COMPUTE_BF16,
                      scratch_of(MLL_COMPUTE_BF16, threads), &err) != MLL_OK)
        cr_skip_test("this CPU has no BF16 dot instruction");
    return ex;
}

Test(op_matmul, bf16_compute_is_the_formula_on_rounded_activations, .disabled = OP_SHIM)
{
    struct mll_exec *ex = open_bf16(1);
    for (int i = 0; i < N_CASES; i++) {
        const struct matmul_case *c = &cases[i];
        struct data d = make(c);
        run(ex, c, &d);
        check_reference(ex, &d, c, c->dtype == MLL_DTYPE_BF16 ? ROUND_BF16 : ROUND_NOT, 1e-12);
        unmake(&d, c);
    }
    exec_close(ex);
}

Test(op_matmul, bf16_compute_gives_the_same_bits_for_any_threads_and_rows, .disabled = OP_SHIM)
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
