/* test_matmul_quant.c - op_matmul by 4-bit and 8-bit weights, against the formula in double; the
 * same bits for every form, thread count and number of rows, on a GPU within each phase. */
#include <math.h>
#include <stdio.h>

#include "quant.h"
#include "quant_data.h"

static const struct quant_kind kinds[] = {
    {MLL_DTYPE_Q4, false, false, 64, MLL_DTYPE_F32},
    {MLL_DTYPE_Q4, true, false, 64, MLL_DTYPE_F32},
    {MLL_DTYPE_I8, false, false, 0, MLL_DTYPE_NONE},
    {MLL_DTYPE_Q4, false, true, 64, MLL_DTYPE_F32},
    {MLL_DTYPE_Q4, true, false, 64, MLL_DTYPE_BF16},
    {MLL_DTYPE_Q4, false, false, 64, MLL_DTYPE_BF16},
    {MLL_DTYPE_Q4, false, false, 64, MLL_DTYPE_F16},
    {MLL_DTYPE_Q4, true, true, 128, MLL_DTYPE_F32},
    {MLL_DTYPE_Q4, true, false, 32, MLL_DTYPE_F32},
};
enum { N_KINDS = OP_RACE ? 3 : sizeof kinds / sizeof kinds[0] };

/* Rows of x, shape of w, bytes of the codes from an aligned address. Blocks end inside of rows,
 * at their ends, and hold many rows; rows start in the low half of a byte; more than 256 blocks.
 * More tiles of rows than the two SMs of the shim take at once. */
static const struct quant_case {
    int n, rows, cols;
    bool bias;
    size_t offset;
} cases[] = {
    {1, 1, 1, true, 0},      {1, 5, 15, false, 1},   {2, 7, 17, true, 3},   {3, 70, 2, false, 0},
    {1, 9, 64, false, 0},    {4, 6, 128, true, 1},   {5, 3, 192, false, 2}, {7, 33, 96, true, 0},
    {24, 5, 130, false, 5},  {3, 9, 2112, true, 0},  {6, 11, 320, true, 0}, {26, 37, 1088, true, 0},
    {27, 36, 1030, true, 1}, {195, 34, 64, true, 7}, {7, 229, 64, true, 0}, {1, 225, 192, false, 0},
};
enum { N_CASES = OP_RACE ? 11 : sizeof cases / sizeof cases[0] };

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

/* The formula in double. bf16: as --compute bf16 has it, x and 4-bit weights rounded to bf16. */
static double *reference(const struct run *r, bool bf16)
{
    size_t rows = (size_t)r->c->rows, cols = (size_t)r->c->cols;
    double *y = malloc(r->n_y * sizeof *y);
    for (size_t i = 0; i < r->n_y; i++) {
        y[i] = r->c->bias ? weight_at(r->bias.data, r->bias.dtype, i % rows) : 0;
        for (size_t k = 0; k < cols; k++) {
            double x = r->x[i / rows * cols + k], w = quant_value(r->w, i % rows * cols + k);
            if (bf16)
                x = bf16_to_f32(bf16_from_f32((float)x));
            if (bf16 && r->w->mat.dtype == MLL_DTYPE_Q4)
                w = bf16_to_f32(bf16_from_f32((float)w));
            y[i] += x * w;
        }
    }
    return y;
}

/* A GPU leaves the rounding of the weights out. */
static double *reference_cuda(struct run *r)
{
    enum mll_dtype rounded = r->w->blocks.rounded;
    r->w->blocks.rounded = MLL_DTYPE_F32;
    double *y = reference(r, false);
    r->w->blocks.rounded = rounded;
    return y;
}

/* The run's data where the exec's ops find them. */
struct placed {
    struct mat w, bias;
    float *x, *y;
    size_t mark;
};

static struct placed place(struct mll_exec *ex, const struct run *r)
{
    struct placed p = {.mark = exec_mark(ex)};
    p.w = op_weight(ex, &r->w->mat, WEIGHT_MATRIX);
    p.bias = op_weight(ex, &r->bias, WEIGHT_VECTOR);
    p.x = op_dev(ex, r->x, (size_t)r->c->n * (size_t)r->c->cols * sizeof *p.x);
    p.y = op_dev(ex, r->y, r->n_y * sizeof *p.y);
    return p;
}

static void multiply_placed(struct mll_exec *ex, struct run *r, const struct placed *p)
{
    op_matmul(ex, p->y, p->x, &p->w, r->c->bias ? &p->bias : NULL, r->c->n);
    op_back(ex, r->y, p->y, r->n_y * sizeof *p->y);
    exec_release(ex, p->mark);
}

static void multiply(struct mll_exec *ex, struct run *r)
{
    op_fill(r->y, r->n_y, 9, 1);
    struct placed p = place(ex, r);
    multiply_placed(ex, r, &p);
}

static int phases(const struct mll_exec *ex)
{
    return op_is_cuda(ex) ? 2 : 1;
}

static struct mll_exec *open_exec(int threads, enum mll_compute compute, size_t scratch)
{
    struct mll_exec *ex = NULL;
    struct mll_error err;
    if (exec_open_cpu(&ex, threads, MLL_ISA_AUTO, compute, scratch, &err) != MLL_OK)
        cr_skip_test("this CPU has no BF16 dot instruction");
    return ex;
}

static size_t scratch_on(struct mll_exec *ex)
{
    size_t most = 0;
    for (int i = 0; i < N_CASES && ex != NULL; i++) {
        size_t bytes = op_matmul_scratch(ex, cases[i].n, cases[i].cols);
        most = bytes > most ? bytes : most;
    }
    exec_close(ex);
    return most;
}

static size_t scratch_of(enum mll_compute compute)
{
    size_t cpu = scratch_on(open_exec(7, compute, 0)), cuda = scratch_on(op_exec_cuda(0));
    return cpu > cuda ? cpu : cuda;
}

Test(op_matmul_quant, every_form_and_thread_count_gives_the_bits_of_the_c_form)
{
    size_t scratch = scratch_of(MLL_COMPUTE_F32);
    for (int i = 0; i < N_CASES * N_KINDS; i++) {
        struct run r = make(&cases[i / N_KINDS], &kinds[i % N_KINDS]);
        double *expected = reference(&r, false), *unrounded = reference_cuda(&r);
        float *first = NULL;
        char what[64];
        snprintf(what, sizeof what, "case %d, kind %d", i / N_KINDS, i % N_KINDS);
        struct mll_exec *ex = NULL;
        while ((ex = op_each_exec(ex, scratch)) != NULL) {
            for (int phase = 0; phase < phases(ex); phase++) {
                exec_set_phase(ex, (enum mll_phase)phase);
                op_fill(r.y, r.n_y, 9, 1);
                struct placed p = place(ex, &r);
                op_leave(ex, scratch, op_matmul_scratch(ex, r.c->n, r.c->cols));
                multiply_placed(ex, &r, &p);
                /* weights in float32 have up to three roundings, dot products their own; on a GPU
                 * x is in fp16, when prefilling w too: 8e-8, for few outputs with luck's help */
                double cuda = r.n_y < 100 ? 1e-6 : 1.5e-7;
                op_judge(&first, r.y, op_is_cuda(ex) ? unrounded : expected, r.n_y, 1e-12, cuda, ex,
                         what);
            }
        }
        free(first);
        free(expected);
        free(unrounded);
        unmake(&r);
    }
}

static void check_rows_alone(struct mll_exec *ex, struct run *r)
{
    size_t rows = (size_t)r->c->rows, cols = (size_t)r->c->cols;
    int n = op_is_cuda(ex) && r->c->n > 17 ? 17 : r->c->n; /* the shim takes its time */
    float *y = calloc(r->n_y, sizeof *y);
    multiply(ex, r);
    struct placed p = place(ex, r);
    float *out = op_dev(ex, y, r->n_y * sizeof *y);
    for (int few = 1; few <= 28; few += few < 8 ? 1 : 10) {
        for (int at = 0; at + few <= n; at += few) {
            op_matmul(ex, out, p.x + (size_t)at * cols, &p.w, r->c->bias ? &p.bias : NULL, few);
            size_t count = (size_t)few * rows;
            op_back(ex, y, out, count * sizeof *y);
            cr_expect_eq(op_first_difference(y, r->y + (size_t)at * rows, count), count,
                         "%s: row %d of %d among %d", exec_describe(ex), at, r->c->n, few);
        }
    }
    exec_release(ex, p.mark);
    free(y);
}

Test(op_matmul_quant, a_row_has_the_same_bits_alone_and_among_others, .disabled = OP_RACE)
{
    size_t scratch = scratch_of(MLL_COMPUTE_F32);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, scratch)) != NULL) {
        for (int i = 0; i < N_CASES * N_KINDS; i++) {
            if (exec_threads(ex) != 2 && !op_is_cuda(ex))
                continue;
            struct run r = make(&cases[i / N_KINDS], &kinds[i % N_KINDS]);
            for (int phase = 0; phase < phases(ex); phase++) {
                exec_set_phase(ex, (enum mll_phase)phase);
                check_rows_alone(ex, &r);
            }
            unmake(&r);
        }
    }
}

/* Kinds that go into one launch, that do not, and one that only the plain form takes. */
Test(op_matmul_quant, a_group_has_the_bits_of_its_members)
{
    enum { N = 5, COLS = 192, MOST = 150, GROUPS = 6 };
    static const int members[GROUPS][MLL_MATMUL_GROUP] = {{0, 0, 0}, {1, 1, 1}, {8, 8, 8},
                                                          {1, 8, 2}, {0, 7, 0}, {1, 6, 6}};
    static const int rows[MLL_MATMUL_GROUP] = {31, MOST, 17};
    float *x = op_floats(N * COLS, 3, 1), *alone = op_floats(N * MOST, 4, 1);
    float *host = op_floats(MLL_MATMUL_GROUP * N * MOST, 5, 1);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
        float *dx = op_dev(ex, x, N * COLS * sizeof *x);
        float *y_alone = op_dev(ex, alone, N * MOST * sizeof *alone);
        float *y_all = op_dev(ex, host, MLL_MATMUL_GROUP * N * MOST * sizeof *host);
        for (int run = 0; run < GROUPS * phases(ex); run++) {
            struct quant_data *data[MLL_MATMUL_GROUP];
            struct mat w[MLL_MATMUL_GROUP];
            const struct mat *list[MLL_MATMUL_GROUP];
            float *y[MLL_MATMUL_GROUP];
            for (int i = 0; i < MLL_MATMUL_GROUP; i++) {
                data[i] = quant_make(&kinds[members[run % GROUPS][i]], rows[i], COLS, 0,
                                     (uint64_t)i + 20);
                w[i] = op_weight(ex, &data[i]->mat, WEIGHT_MATRIX);
                list[i] = &w[i];
                y[i] = y_all + i * N * MOST;
            }
            exec_set_phase(ex, (enum mll_phase)(run / GROUPS));
            op_matmul_group(ex, y, dx, list, MLL_MATMUL_GROUP, N);
            op_back(ex, host, y_all, MLL_MATMUL_GROUP * N * MOST * sizeof *host);
            for (int i = 0; i < MLL_MATMUL_GROUP; i++) {
                size_t n = N * (size_t)rows[i];
                op_matmul(ex, y_alone, dx, list[i], NULL, N);
                op_back(ex, alone, y_alone, n * sizeof *alone);
                cr_expect_eq(op_first_difference(host + i * N * MOST, alone, n), n,
                             "%s: run %d, weight %d", exec_describe(ex), run, i);
                quant_free(data[i]);
            }
        }
    }
    free(x);
    free(alone);
    free(host);
}

/* Shapes that the BF16 form does not know take the plain form. */
static bool has_bf16_form(const struct quant_case *c, const struct quant_kind *k)
{
    return k->dtype == MLL_DTYPE_I8 || (c->cols % 64 == 0 && k->block % 64 == 0);
}

Test(op_matmul_quant, bf16_compute_is_the_formula_on_rounded_numbers, .disabled = OP_SHIM)
{
    struct mll_exec *ex = open_exec(1, MLL_COMPUTE_BF16, scratch_of(MLL_COMPUTE_BF16));
    struct mll_exec *other = open_exec(3, MLL_COMPUTE_BF16, scratch_of(MLL_COMPUTE_BF16));
    for (int i = 0; i < N_CASES * N_KINDS; i++) {
        const struct quant_case *c = &cases[i / N_KINDS];
        struct run r = make(c, &kinds[i % N_KINDS]), again = make(c, &kinds[i % N_KINDS]);
        double *expected = reference(&r, has_bf16_form(c, &kinds[i % N_KINDS]));
        multiply(ex, &r);
        multiply(other, &again);
        double nmse = op_nmse(r.y, expected, r.n_y);
        /* the absmax's own roundings may move a weight to the next bf16 number, 2^-8 away */
        cr_expect(nmse <= 1e-8, "case %d, kind %d: nmse %g", i / N_KINDS, i % N_KINDS, nmse);
        cr_expect_eq(op_first_difference(r.y, again.y, r.n_y), r.n_y);
        check_rows_alone(ex, &r);
        free(expected);
        unmake(&r);
        unmake(&again);
    }
    exec_close(ex);
    exec_close(other);
}

/* ---- compute in int8 ------------------------------------------------------------------------- */

static bool has_int8_form(const struct quant_case *c, const struct quant_kind *k)
{
    return has_bf16_form(c, k);
}

/* Of x in a block of 64 columns. */
static double largest(const float *x, size_t from, size_t cols)
{
    double most = 0;
    for (size_t k = from; k < cols && k < from + 64; k++)
        most = fmax(most, fabs((double)x[k]));
    return most;
}

/* Weight i as an integer, and what it is multiplied by; the second is what the row's scale, or the
 * block's absmax, has in it. */
static double int8_weight(double *unit, const struct quant_data *d, size_t i)
{
    const struct mat *m = &d->mat;
    const struct mat_blocks *b = m->blocks;
    if (m->dtype == MLL_DTYPE_I8) {
        *unit = (double)m->scale[i / (size_t)m->cols] / 127;
        return ((const int8_t *)m->data)[i];
    }
    *unit = (double)quant_absmax(b, i / (size_t)b->block) / 127;
    return nearbyint((double)(b->values[quant_code(m->data, i)] * 127));
}

/* Element i of y by the formula of --compute int8, in double; *bound: how far that may be from the
 * formula of the weights as they are. A rounding of x is off by half a step at most, one of a
 * 4-bit weight by half of absmax / 127 and by what `rounded` does to it. */
static double int8_formula(double *bound, const struct run *r, size_t i)
{
    size_t rows = (size_t)r->c->rows, cols = (size_t)r->c->cols;
    const float *x = r->x + i / rows * cols;
    bool q4 = r->w->mat.dtype == MLL_DTYPE_Q4;
    double y = r->c->bias ? weight_at(r->bias.data, r->bias.dtype, i % rows) : 0;
    double most = 0;
    *bound = 1e-6;
    for (size_t k = 0; k < cols; k++) {
        if (k % 64 == 0)
            most = largest(x, k, cols);
        double step = most / 127, unit, w = int8_weight(&unit, r->w, i % rows * cols + k);
        y += nearbyintf(x[k] * (127 / (float)most)) * step * w * unit;
        double off = q4 ? fabs(unit) * 0.5 + 0x1p-8 * fabs(w * unit) : 0;
        *bound += (fabs(w * unit) + off) * step * 0.5001 + off * fabs((double)x[k]);
    }
    return y;
}

static void check_int8(struct mll_exec *ex, struct run *r, float **first, const char *what)
{
    double *formula = malloc(r->n_y * sizeof *formula), *exact = reference(r, false);
    multiply(ex, r);
    for (size_t i = 0; i < r->n_y && *first == NULL; i++) {
        double bound;
        formula[i] = int8_formula(&bound, r, i);
        cr_expect(fabs(r->y[i] - exact[i]) <= bound, "%s: element %zu is %g, not %g +- %g", what, i,
                  (double)r->y[i], exact[i], bound);
    }
    op_judge(first, r->y, formula, r->n_y, 1e-12, 0, ex, what);
    free(formula);
    free(exact);
}

Test(op_matmul_quant, int8_compute_is_its_formula_with_the_same_bits_in_all_forms,
     .disabled = OP_SHIM)
{
    static const struct {
        enum mll_isa isa;
        int threads;
    } forms[] = {{MLL_ISA_C, 1}, {MLL_ISA_C, 3}, {MLL_ISA_AVX512, 1}, {MLL_ISA_AVX512, 2}};
    size_t scratch = scratch_of(MLL_COMPUTE_INT8);
    for (int i = 0; i < N_CASES * N_KINDS; i++) {
        const struct quant_case *c = &cases[i / N_KINDS];
        float *first = NULL;
        char what[64];
        if (!has_int8_form(c, &kinds[i % N_KINDS]))
            continue;
        struct run r = make(c, &kinds[i % N_KINDS]);
        snprintf(what, sizeof what, "case %d, kind %d", i / N_KINDS, i % N_KINDS);
        for (int form = 0; form < 4; form++) {
            struct mll_exec *ex;
            struct mll_error err;
            if (!exec_isa_supported(forms[form].isa))
                continue;
            cr_assert_eq(exec_open_cpu(&ex, forms[form].threads, forms[form].isa, MLL_COMPUTE_INT8,
                                       scratch, &err),
                         MLL_OK, "%s", err.message);
            check_int8(ex, &r, &first, what);
            if (form % 2 == 0)
                check_rows_alone(ex, &r);
            exec_close(ex);
        }
        free(first);
        unmake(&r);
    }
}

Test(op_matmul_quant, weights_that_int8_compute_does_not_know_are_as_without_it,
     .disabled = OP_SHIM)
{
    size_t scratch = scratch_of(MLL_COMPUTE_INT8);
    struct mll_exec *ex = open_exec(2, MLL_COMPUTE_INT8, scratch);
    struct mll_exec *exact = open_exec(2, MLL_COMPUTE_F32, scratch);
    for (int i = 0; i < N_CASES * N_KINDS; i++) {
        const struct quant_case *c = &cases[i / N_KINDS];
        struct run r = make(c, &kinds[i % N_KINDS]), other = make(c, &kinds[i % N_KINDS]);
        multiply(ex, &r);
        multiply(exact, &other);
        bool same = op_first_difference(r.y, other.y, r.n_y) == r.n_y;
        cr_expect(same || has_int8_form(c, &kinds[i % N_KINDS]), "case %d, kind %d", i / N_KINDS,
                  i % N_KINDS);
        unmake(&r);
        unmake(&other);
    }
    exec_close(ex);
    exec_close(exact);
}

/* Rows of x with an infinity, a NaN, nothing but numbers too small, and large numbers:
 * each keeps to itself, in both forms, for few rows and many. */
Test(op_matmul_quant, int8_compute_of_extreme_rows, .disabled = OP_SHIM)
{
    enum { N = 5, COLS = 192, ROWS = 20 };
    static const enum mll_isa isas[] = {MLL_ISA_C, MLL_ISA_AUTO};
    for (int run = 0; run < 8; run++) {
        const struct quant_case c = {run / 4 ? N : 1, ROWS, COLS, false, 0};
        int kind = run % 4 / 2 * 2, n = c.n;
        struct mll_exec *ex;
        struct mll_error err;
        cr_assert_eq(exec_open_cpu(&ex, 1, isas[run % 2], MLL_COMPUTE_INT8, (size_t)1 << 20, &err),
                     MLL_OK);
        for (int at = 0; at < (n == 1 ? N : 1); at++) {
            struct run r = make(&c, &kinds[kind]);
            float *x = op_floats(N * COLS, 5, 1);
            x[COLS + 70] = INFINITY;
            x[2 * COLS + 191] = NAN;
            op_fill(x + 3 * COLS, COLS, 3, 0x1p-101f);
            op_fill(x + 4 * COLS, COLS, 4, 1e30f);
            memcpy(r.x, x + at * COLS, (size_t)n * COLS * sizeof *x);
            for (int b = 0; kind == 0 && b < ROWS * COLS / 64; b++)
                r.w->floats[b] = 0x1p-10f;
            for (int o = 0; kind == 2 && o < ROWS; o++)
                r.w->floats[o] = 0x1p-10f;
            multiply(ex, &r);
            for (int i = 0; i < n * ROWS; i++) {
                int row = at + i / ROWS;
                bool right = row == 1 || row == 2 ? isnan(r.y[i]) : isfinite(r.y[i]);
                cr_expect(right && (row != 3 || r.y[i] == 0) && (row != 4 || fabsf(r.y[i]) > 1e24f),
                          "run %d, row %d: %g", run, row, (double)r.y[i]);
            }
            free(x);
            unmake(&r);
        }
        exec_close(ex);
    }
}
