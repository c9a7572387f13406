/* bench_case.c - one op: right first, then fast.  See bench_case.h. */
#include "bench_case.h"
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHECKED = 3, GPU_CALLS = 20 };
static const double cold_bytes = 256e6, cached_bytes = 64e6; /* more than caches hold; less */
static const double enough_seconds = 3, short_call = 50e-6;

static bool on_gpu(const struct mll_exec *ex)
{
    return exec_memory(ex) > 0;
}

/* ---- right ----------------------------------------------------------------------------------- */

static int choose_rows(int rows[CHECKED], int n)
{
    const int wanted[CHECKED] = {0, n / 2, n - 1};
    int count = 0;
    for (int i = 0; i < CHECKED; i++)
        if (count == 0 || wanted[i] > rows[count - 1])
            rows[count++] = wanted[i];
    return count;
}

/* What the plain form says of the rows (for a GPU the CPU's fastest, which has the same bits); the
 * caller frees *y. */
static enum mll_status expect(float **y, const struct mll_exec *ex, const struct op_shape *shape,
                              const int *rows, int n, struct mll_error *err)
{
    struct mll_exec *plain = NULL;
    struct op_case c;
    *y = malloc((size_t)n * op_case_width(shape) * sizeof **y);
    if (*y == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %s", shape->name);
    enum mll_isa isa = on_gpu(ex) ? MLL_ISA_AUTO : MLL_ISA_C;
    MLL_TRY(exec_open_cpu(&plain, exec_threads(ex), isa, MLL_COMPUTE_F32, 0, err));
    enum mll_status status = exec_set_kv_dtype(plain, exec_kv_dtype(ex), err);
    if (status == MLL_OK)
        status = exec_reserve(plain, op_case_scratch(plain, shape, 1), err);
    if (status == MLL_OK) {
        status = op_case_open(&c, plain, shape, 1, rows, n, err);
        if (status == MLL_OK) {
            op_case_call(&c, 0);
            op_case_result(&c, *y);
        }
        op_case_close(&c);
    }
    exec_close(plain);
    return status;
}

/* The largest difference of the rows of y (n, width), by the largest magnitude; infinite for what
 * is no number. */
static double difference(const float *y, const float *expected, size_t width, const int *rows,
                         size_t n)
{
    double apart = 0, most = 0;
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < width; i++) {
            double e = expected[r * width + i], got = y[(rows ? (size_t)rows[r] : r) * width + i];
            most = isfinite(e) ? fmax(most, fabs(e)) : most;
            if (got != e) /* infinities may be equal */
                apart = isnan(got - e) ? INFINITY : fmax(apart, fabs(got - e));
        }
    return apart > 0 ? apart / most : 0;
}

static enum mll_status check(struct bench_case *b, struct op_case *c, struct mll_error *err)
{
    const struct op_shape *shape = &c->shape;
    int chosen[CHECKED], n = shape->n, *rows = NULL;
    size_t width = op_case_width(shape);
    if (op_case_separable(shape)) {
        rows = chosen;
        n = choose_rows(chosen, shape->n);
    }
    float *expected = NULL, *y = malloc((size_t)shape->n * width * sizeof *y);
    enum mll_status status = y ? expect(&expected, c->ex, shape, rows, n, err)
                               : mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %s", shape->name);
    if (status == MLL_OK) {
        op_case_call(c, 0);
        op_case_result(c, y);
        status = exec_take_error(c->ex, err);
    }
    if (status == MLL_OK) {
        b->difference = difference(y, expected, width, rows, (size_t)n);
        if (!(b->difference <= (op_case_exact(shape) ? 0 : b->tolerance)))
            status = mll_fail(err, MLL_ERR_INTERNAL, "%s %s differs by %g from the plain form",
                              shape->op, shape->name, b->difference);
    }
    free(y);
    free(expected);
    return status;
}

/* ---- fast ------------------------------------------------------------------------------------ */

/* Seconds a call of so many in a row, each on the next copy, or all on the first. */
static double time_calls(struct op_case *c, int calls, int first, bool warm)
{
    struct mll_error err;
    double start = bench_seconds();
    for (int i = 0; i < calls; i++)
        op_case_call(c, warm ? 0 : (first + i) % c->n_copies);
    exec_take_error(c->ex, &err);
    return (bench_seconds() - start) / calls;
}

static enum mll_status time_case(struct bench_case *b, struct op_case *c, struct mll_error *err)
{
    bool gpu = on_gpu(c->ex), rotates = c->n_copies > 1;
    double bytes = op_case_bytes(&c->shape, exec_kv_dtype(c->ex)), start = bench_seconds();
    double once = time_calls(c, 1, 0, false);
    /* many on a GPU, so that launching is not what is measured; of short ones, so that the clock is
     * not */
    int calls = gpu ? GPU_CALLS : 1, warm_calls = once < short_call ? (int)(short_call / once) : 1;
    for (int i = 0; i < b->most; i++) {
        if (b->flush && !rotates && bytes < cold_bytes)
            bench_read_gb_s(exec_threads(c->ex), b->flush, (size_t)cold_bytes, bench_seconds);
        b->cold[b->n_cold++] = time_calls(c, calls, i, false);
        if (bytes < cached_bytes) {
            time_calls(c, 1, 0, true);
            b->warm[b->n_warm++] = time_calls(c, gpu ? calls : warm_calls, 0, true);
        }
        MLL_TRY(exec_take_error(c->ex, err));
        if (i + 1 >= b->least && bench_seconds() - start > enough_seconds)
            break;
    }
    return MLL_OK;
}

static int copies_of(const struct op_shape *shape, enum mll_dtype kv)
{
    return (int)fmax(1,
                     fmin(ceil(cold_bytes / op_case_bytes(shape, kv)), op_case_most_copies(shape)));
}

enum mll_status bench_case_run(struct bench_case *b, struct mll_exec *ex,
                               const struct op_shape *shape, struct mll_error *err)
{
    struct op_case c;
    int copies = copies_of(shape, exec_kv_dtype(ex));
    b->n_cold = b->n_warm = 0;
    MLL_TRY(exec_reserve(ex, op_case_scratch(ex, shape, copies), err));
    enum mll_status status = op_case_open(&c, ex, shape, copies, NULL, 0, err);
    if (status == MLL_OK)
        status = check(b, &c, err);
    if (status == MLL_OK)
        status = time_case(b, &c, err);
    op_case_close(&c);
    return status;
}
