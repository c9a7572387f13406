/* bench_ops.c - mllama bench ops: single ops at the shapes of the 11B and 90B.
 *
 * A case is first checked against the plain C form, then timed cold (on copies of its weights in
 * turn, 256 MB of them, so that caches do not help) and warm (on one copy). Beside the times: the
 * bytes that must be moved, the operations that must be done, and their shares of what this machine
 * gives in the same run: the memory read, and the roofline, the larger of bytes / read rate and
 * operations / peak rate over the time. The peak is a loop of fused multiply-adds in registers. */
#include "bench.h"
#include "bench_tool.h"
#include "ops.h"
#include "report.h"
#include "synthetic.h"
#include "tool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COPIES = 16, MOST_CASES = 512 };
static const size_t cold_bytes = (size_t)256 << 20;

static const char *const columns[] = {
    "op",           "shape",          "seconds",    "p10",       "p90",
    "warm_seconds", "gb_s",           "tflop_s",    "read_gb_s", "read_share",
    "peak_tflop_s", "roofline_share", "difference", "device",    "threads"};

static const struct {
    const char *name;
    int rows, cols; /* out and in features */
} matrices[] = {
    {"11b.q", 4096, 4096},      {"11b.kv", 1024, 4096},     {"11b.gate", 14336, 4096},
    {"11b.down", 4096, 14336},  {"11b.head", 128256, 4096}, {"vision.qkvo", 1280, 1280},
    {"vision.fc1", 5120, 1280}, {"vision.fc2", 1280, 5120}, {"90b.q", 8192, 8192},
    {"90b.gate", 28672, 8192},  {"90b.down", 8192, 28672},
};
static const char *const quants[] = {NULL, "nf4", "nf4-dq", "int8"};
static const int row_counts[] = {1, 2, 4, 8, 128, 512, 2048, 6432};
static const int contexts[] = {512, 4096, 6404};

struct run {
    const struct args *args;
    struct mll_exec *ex, *plain; /* plain: the C form, one thread */
    struct report report;
    char (*names)[48];   /* (MOST_CASES) */
    double *cold, *warm; /* (repetitions) */
    double read_gb_s, peak_tflop_s;
};

/* One op at one shape; x and y serve all copies of the weights. */
struct op_case {
    const char *op;
    char name[48];
    double bytes, flops;
    size_t n_x, n_y;
    int n, rows, cols; /* matmul: (n, cols) by (rows, cols); attention: rows, heads, head_dim */
    int context;       /* keys a row sees */
    const char *quant;
    void (*call)(struct mll_exec *ex, const struct op_case *c, float *y, int n, int copy);
    int n_copies;
    struct mat w[MOST_COPIES];
    void *memory[MOST_COPIES];
    float *x, *y, *expected;
    int32_t *ints; /* attention: blocks, then seq, begin and end of the rows */
    struct kv_pool pool;
};

/* ---- the ops --------------------------------------------------------------------------------- */

static void call_matmul(struct mll_exec *ex, const struct op_case *c, float *y, int n, int copy)
{
    op_matmul(ex, y, c->x, &c->w[copy], NULL, n);
}

static void call_rmsnorm(struct mll_exec *ex, const struct op_case *c, float *y, int n, int copy)
{
    op_rmsnorm(ex, y, c->x, &c->w[copy], n, c->cols, 1e-5f);
}

static void call_silu_mul(struct mll_exec *ex, const struct op_case *c, float *y, int n, int copy)
{
    (void)copy;
    op_silu_mul(ex, y, c->x, c->x + (size_t)c->n * (size_t)c->cols, (size_t)n * (size_t)c->cols);
}

static void call_attn(struct mll_exec *ex, const struct op_case *c, float *y, int n, int copy)
{
    int blocks = (c->context + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK;
    struct kv_table table = {c->ints + copy * blocks, 1, blocks};
    const int32_t *rows = c->ints + c->n_copies * blocks;
    op_attn(ex, y, c->x, &c->pool, &table, rows, rows, rows + c->n, n, c->rows,
            1.0f / sqrtf((float)c->cols));
}

static void call_attn_vision(struct mll_exec *ex, const struct op_case *c, float *y, int n,
                             int copy)
{
    size_t one = (size_t)c->n * (size_t)(c->rows * c->cols);
    (void)n, (void)copy; /* every row sees every other: no fewer rows than all */
    op_attn_vision(ex, y, c->x, c->x + one, c->x + 2 * one, (const uint8_t *)c->ints, c->n, c->rows,
                   c->cols, 1.0f / sqrtf((float)c->cols));
}

/* ---- one case -------------------------------------------------------------------------------- */

static void fill(float *x, size_t n)
{
    uint64_t state = 7;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)(state >> 40) * 0x1p-23f - 1.0f;
    }
}

/* Pools of keys and values for n_copies contexts, filled with numbers. */
static bool make_pool(struct op_case *c)
{
    int blocks = (c->context + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK, all = blocks * c->n_copies;
    size_t n = (size_t)all * 8 * MLL_KV_BLOCK * (size_t)c->cols;
    c->pool = (struct kv_pool){malloc(n * 4), malloc(n * 4), MLL_DTYPE_F32, all, 8, c->cols};
    c->ints = malloc(((size_t)all + 2 * (size_t)c->n) * sizeof *c->ints);
    if (!c->pool.k || !c->pool.v || !c->ints)
        return false;
    fill(c->pool.k, n);
    fill(c->pool.v, n);
    for (int i = 0; i < all; i++)
        c->ints[i] = i;
    for (int r = 0; r < c->n; r++) {
        c->ints[all + r] = 0; /* sequence 0, keys from 0 */
        c->ints[all + c->n + r] = c->context - c->n + r + 1;
    }
    return true;
}

static enum mll_status make_case(struct op_case *c, struct mll_error *err)
{
    bool matmul = c->call == call_matmul;
    double weights = c->call == call_attn ? c->context * 8.0 * c->cols * 8
                     : matmul             ? c->bytes - 4.0 * (double)(c->n_x + c->n_y)
                                          : (double)cold_bytes;
    c->n_copies = 1 + (int)((double)cold_bytes / weights);
    if (c->n_copies > MOST_COPIES)
        c->n_copies = MOST_COPIES;
    c->x = malloc(c->n_x * sizeof *c->x);
    c->y = malloc(c->n_y * sizeof *c->y);
    c->expected = malloc(c->n_y * sizeof *c->expected);
    bool ok = c->x && c->y && c->expected;
    if (ok)
        fill(c->x, c->n_x);
    if (ok && c->call == call_attn)
        ok = make_pool(c);
    if (ok && c->call == call_attn_vision)
        ok = (c->ints = calloc((size_t)c->n, sizeof *c->ints)) != NULL;
    if (!ok)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %s %s", c->op, c->name);
    int rows = matmul ? c->rows : 1;
    for (int i = 0; i < c->n_copies && (matmul || c->call == call_rmsnorm); i++)
        MLL_TRY(synthetic_matrix(&c->w[i], &c->memory[i], rows, c->cols, c->quant, err));
    return MLL_OK;
}

static void free_case(struct op_case *c)
{
    for (int i = 0; i < MOST_COPIES; i++)
        free(c->memory[i]);
    free(c->pool.k);
    free(c->pool.v);
    free(c->ints);
    free(c->x);
    free(c->y);
    free(c->expected);
}

/* The largest difference to the plain form in the first row, over the largest magnitude there. */
static double difference(struct run *r, const struct op_case *c)
{
    bool whole = c->call == call_attn_vision;
    size_t n = whole ? c->n_y : c->n_y / (size_t)c->n;
    double most = 0, apart = 0;
    c->call(r->ex, c, c->y, c->n, 0);
    c->call(r->plain, c, c->expected, whole ? c->n : 1, 0);
    for (size_t i = 0; i < n; i++) {
        most = fmax(most, fabs((double)c->expected[i]));
        apart = fmax(apart, fabs((double)c->y[i] - (double)c->expected[i]));
    }
    return apart == 0 ? 0 : apart / most;
}

static void measure(struct run *r, const struct op_case *c)
{
    for (int i = 0; i < 2 * r->args->repetitions; i++) {
        bool warm = i % 2 == 1;
        int copy = warm ? 0 : i / 2 % c->n_copies;
        if (warm) /* into the caches */
            c->call(r->ex, c, c->y, c->n, copy);
        double start = bench_seconds();
        c->call(r->ex, c, c->y, c->n, copy);
        (warm ? r->warm : r->cold)[i / 2] = bench_seconds() - start;
    }
}

static enum mll_status add_row(struct run *r, const struct op_case *c, double apart,
                               struct mll_error *err)
{
    size_t n = (size_t)r->args->repetitions;
    struct bench_stats cold = bench_stats(r->cold, n), warm = bench_stats(r->warm, n);
    struct report *p = &r->report;
    char *name = strcpy(r->names[p->n_rows], c->name);
    double gb_s = c->bytes * 1e-9 / cold.median, tflop_s = c->flops * 1e-12 / cold.median;
    double least = fmax(c->bytes * 1e-9 / r->read_gb_s, c->flops * 1e-12 / r->peak_tflop_s);
    MLL_TRY(report_row(p, err));
    report_text(p, "op", c->op);
    report_text(p, "shape", name);
    report_number(p, "seconds", cold.median);
    report_number(p, "p10", cold.p10);
    report_number(p, "p90", cold.p90);
    report_number(p, "warm_seconds", warm.median);
    report_number(p, "gb_s", gb_s);
    report_number(p, "tflop_s", tflop_s);
    report_number(p, "read_gb_s", r->read_gb_s);
    report_number(p, "read_share", gb_s / r->read_gb_s);
    report_number(p, "peak_tflop_s", r->peak_tflop_s);
    report_number(p, "roofline_share", least / cold.median);
    report_number(p, "difference", apart);
    report_text(p, "device", exec_describe(r->ex));
    report_number(p, "threads", exec_threads(r->ex));
    return MLL_OK;
}

/* Runs the case if the command line asks for it. */
static enum mll_status run_case(struct run *r, struct op_case *c, struct mll_error *err)
{
    const struct args *a = r->args;
    if ((a->op && strcmp(a->op, c->op) != 0) || (a->shape && !strstr(c->name, a->shape)) ||
        r->report.n_rows == MOST_CASES || signals_exit_code())
        return MLL_OK;
    enum mll_status status = make_case(c, err);
    if (status == MLL_OK) {
        double apart = difference(r, c);
        if (apart > 0)
            status = mll_fail(err, MLL_ERR_INTERNAL, "%s %s: differs by %g from the plain form",
                              c->op, c->name, apart);
        measure(r, c);
        if (status == MLL_OK)
            status = add_row(r, c, apart, err);
    }
    free_case(c);
    return status;
}

/* ---- all cases ------------------------------------------------------------------------------- */

/* The bytes of a matrix as stored, scales included. */
static double matrix_bytes(int rows, int cols, const char *quant)
{
    double n = (double)rows * cols;
    if (quant == NULL)
        return 2 * n;
    if (strcmp(quant, "int8") == 0)
        return n + 4.0 * rows;
    return n / 2 +
           (strcmp(quant, "nf4") == 0 ? n / 64 * 4 : n / 64 + n / 64 / MLL_NESTED_BLOCK * 4);
}

static enum mll_status run_matmuls(struct run *r, struct mll_error *err)
{
    const struct args *a = r->args;
    for (size_t m = 0; m < sizeof matrices / sizeof *matrices; m++)
        for (size_t q = 0; q < sizeof quants / sizeof *quants; q++)
            for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; i++) {
                int n = row_counts[i], rows = matrices[m].rows, cols = matrices[m].cols;
                bool vision = strncmp(matrices[m].name, "vision", 6) == 0;
                /* without --shape: what a user meets first */
                bool usual = vision ? q == 0 && n == 6432 : n == 1 || n == 8 || n == 512;
                if (vision != (n == 6432) || (n > 8 && rows > 100000) ||
                    (!a->shape && (!usual || strncmp(matrices[m].name, "90b", 3) == 0)))
                    continue;
                if (quants[q] && a->quant && strcmp(quants[q], a->quant) != 0)
                    continue;
                struct op_case c = {.op = "matmul",
                                    .n = n,
                                    .rows = rows,
                                    .cols = cols,
                                    .quant = quants[q],
                                    .n_x = (size_t)n * (size_t)cols,
                                    .n_y = (size_t)n * (size_t)rows,
                                    .flops = 2.0 * n * rows * cols,
                                    .call = call_matmul};
                c.bytes = matrix_bytes(rows, cols, c.quant) + 4.0 * (double)(c.n_x + c.n_y);
                snprintf(c.name, sizeof c.name, "%s %s n=%d", matrices[m].name,
                         c.quant ? c.quant : "bf16", n);
                MLL_TRY(run_case(r, &c, err));
            }
    return MLL_OK;
}

static enum mll_status run_attentions(struct run *r, struct mll_error *err)
{
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++)
        for (int n = 1; n <= 512; n *= 512) {
            struct op_case c = {.op = "attn",
                                .n = n,
                                .rows = 32,
                                .cols = 128,
                                .context = contexts[i],
                                .call = call_attn};
            c.n_x = c.n_y = (size_t)n * 32 * 128;
            c.bytes = contexts[i] * 8.0 * 128 * 8 + 8.0 * (double)c.n_x;
            c.flops = 4.0 * n * 32 * 128 * (contexts[i] - (n - 1) / 2.0);
            snprintf(c.name, sizeof c.name, "11b keys=%d n=%d", contexts[i], n);
            MLL_TRY(run_case(r, &c, err));
        }
    struct op_case c = {.op = "attn_vision",
                        .name = "vision rows=6432",
                        .n = 6432,
                        .rows = 16,
                        .cols = 80,
                        .call = call_attn_vision};
    c.n_y = (size_t)6432 * 1280;
    c.n_x = 3 * c.n_y;
    c.bytes = 4.0 * (double)(c.n_x + c.n_y);
    c.flops = 4.0 * 6432 * 6432 * 1280;
    return run_case(r, &c, err);
}

static enum mll_status run_rows(struct run *r, struct mll_error *err)
{
    for (int n = 1; n <= 512; n *= 512) {
        struct op_case norm = {
            .op = "rmsnorm", .n = n, .rows = 1, .cols = 4096, .call = call_rmsnorm};
        norm.n_x = norm.n_y = (size_t)n * 4096;
        norm.bytes = 8.0 * (double)norm.n_x + 2 * 4096;
        norm.flops = 4.0 * (double)norm.n_x;
        snprintf(norm.name, sizeof norm.name, "11b n=%d", n);
        MLL_TRY(run_case(r, &norm, err));
        struct op_case silu = {
            .op = "silu_mul", .n = n, .rows = 1, .cols = 14336, .call = call_silu_mul};
        silu.n_y = (size_t)n * 14336;
        silu.n_x = 2 * silu.n_y;
        silu.bytes = 12.0 * (double)silu.n_y;
        silu.flops = 8.0 * (double)silu.n_y;
        snprintf(silu.name, sizeof silu.name, "11b n=%d", n);
        MLL_TRY(run_case(r, &silu, err));
    }
    return MLL_OK;
}

static enum mll_status open_run(struct run *r, struct mll_error *err)
{
    const struct args *a = r->args;
    size_t n = (size_t)a->repetitions;
    if (a->device && strcmp(a->device, "auto") != 0 && strcmp(a->device, "cpu") != 0)
        return mll_fail(err, MLL_ERR_DEVICE, "bench ops runs on the CPU, not on %s", a->device);
    bool bf16 = a->compute && strcmp(a->compute, "bf16") == 0;
    MLL_TRY(exec_open_cpu(&r->ex, a->threads, MLL_ISA_AUTO, bf16, (size_t)1 << 30, err));
    MLL_TRY(
        exec_open_cpu(&r->plain, 1, bf16 ? MLL_ISA_AUTO : MLL_ISA_C, bf16, (size_t)1 << 30, err));
    r->names = calloc(MOST_CASES, sizeof *r->names);
    r->cold = calloc(2 * n, sizeof *r->cold);
    void *memory = bench_weights(BENCH_READ_BYTES, 1);
    if (!r->names || !r->cold || !memory) {
        free(memory);
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for the benchmark");
    }
    r->warm = r->cold + n;
    double read[5];
    for (int i = 0; i < 5; i++)
        read[i] = bench_read_gb_s(exec_threads(r->ex), memory, BENCH_READ_BYTES, bench_seconds);
    free(memory);
    r->read_gb_s = bench_stats(read, 5).median;
    r->peak_tflop_s = bench_fma_tflop_s(exec_threads(r->ex));
    return MLL_OK;
}

int bench_ops(const struct args *args)
{
    struct mll_error err;
    struct args all = *args;
    if (all.repetitions == 0)
        all.repetitions = 5;
    struct run r = {.args = &all,
                    .report = {.name = "bench_ops",
                               .columns = columns,
                               .n_columns = sizeof columns / sizeof *columns}};
    enum mll_status status = open_run(&r, &err);
    if (status == MLL_OK)
        status = run_matmuls(&r, &err);
    if (status == MLL_OK)
        status = run_attentions(&r, &err);
    if (status == MLL_OK)
        status = run_rows(&r, &err);
    if (status == MLL_OK && r.report.n_rows == 0)
        status = mll_fail(&err, MLL_ERR_USAGE, "no case has op %s and shape %s",
                          args->op ? args->op : "*", args->shape ? args->shape : "*");
    if (r.report.n_rows > 0)
        report_print(&r.report, all.json ? "json" : all.format ? all.format : "md");
    int code = status == MLL_OK ? 0 : tool_fail(&err);
    exec_close(r.ex);
    exec_close(r.plain);
    report_free(&r.report);
    free(r.names);
    free(r.cold);
    return signals_exit_code() ? signals_exit_code() : code;
}
