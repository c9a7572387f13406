/* bench_ops.c - mllama bench ops: single ops at the shapes of the 11B and 90B.
 *
 * A case is first compared with the plain C form, on a GPU with the CPU's, then timed cold (on
 * copies of its weights or keys in turn, 256 MB of them, so that caches do not help) and warm (on
 * one copy). Beside the times: the bytes that must be moved, the operations that must be done, and
 * what share they are of what this machine gives: read_gb_s, a read of 2 GB by the same threads
 * behind the case (on a GPU, an addition of long vectors, which reads two and writes one), and the
 * roofline, the larger of bytes / read rate and operations / peak rate over the time. The peak rate
 * is that of a loop of float32 multiply-adds in registers (on a GPU, what its maker states for
 * fp16). */
#include "bench.h"
#include "bench_tool.h"
#include "op_case.h"
#include "report.h"
#include "tool.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_CASES = 512, GPU_CALLS = 20 };
static const double cold_bytes = 256e6;

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

/* fp16 with float32 accumulation, dense, from the makers' data sheets. */
static const struct {
    const char *name;
    double tflop_s;
} cards[] = {{"V100", 125}, {"T4", 65},    {"A100", 312}, {"A10", 125}, {"L40S", 362},
             {"L4", 121},   {"4090", 165}, {"H100", 989}, {"H200", 989}};

struct run {
    const struct args *args;
    bool gpu;
    struct report report;
    char (*names)[48];   /* (MOST_CASES) */
    double *cold, *warm; /* (repetitions) */
    void *read_memory;   /* NULL on a GPU */
    double read_gb_s, peak_tflop_s;
    char device[128];
    int threads;
};

/* ---- execs ----------------------------------------------------------------------------------- */

static enum mll_status open_exec(const struct run *r, struct mll_exec **ex, struct mll_error *err)
{
    const struct args *a = r->args;
    bool bf16 = a->compute && strcmp(a->compute, "bf16") == 0;
    if (!r->gpu)
        return exec_open_cpu(ex, a->threads, MLL_ISA_AUTO, bf16, 0, err);
    struct exec_cuda_options options = {.threads = a->threads};
    if (a->device && strncmp(a->device, "cuda:", 5) == 0)
        options.device = atoi(a->device + 5);
    return exec_open_cuda(ex, &options, 0, err);
}

/* The plain form of the same arithmetic; for a GPU the CPU's fastest, which has the same bits. */
static enum mll_status open_plain(const struct run *r, struct mll_exec **ex, struct mll_error *err)
{
    if (r->gpu)
        return exec_open_cpu(ex, r->args->threads, MLL_ISA_AUTO, false, 0, err);
    bool bf16 = r->args->compute && strcmp(r->args->compute, "bf16") == 0;
    return exec_open_cpu(ex, 1, bf16 ? MLL_ISA_AUTO : MLL_ISA_C, bf16, 0, err);
}

/* ---- one case -------------------------------------------------------------------------------- */

/* The result of a shape on an exec; freed by the caller. */
static enum mll_status result_of(float **y, struct mll_exec *ex, const struct op_shape *shape,
                                 struct mll_error *err)
{
    struct op_case c;
    size_t n = op_case_outputs(shape);
    *y = malloc(n * sizeof **y);
    if (*y == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %s", shape->name);
    MLL_TRY(exec_reserve(ex, op_case_scratch(ex, shape, 1), err));
    enum mll_status status = op_case_open(&c, ex, shape, 1, err);
    if (status == MLL_OK) {
        op_case_call(&c, 0);
        exec_download(ex, *y, c.y, n * sizeof **y);
        status = exec_take_error(ex, err);
    }
    op_case_close(&c);
    return status;
}

/* The largest difference to the plain form, over the largest magnitude. Of prompts only the first
 * row: the plain form is slow. The CPU's forms give the same bits. */
static enum mll_status compare_forms(double *apart, const struct run *r, struct mll_exec *ex,
                                     const struct op_shape *shape, struct mll_error *err)
{
    struct op_shape less = *shape;
    struct mll_exec *plain = NULL;
    float *y = NULL, *expected = NULL;
    double most = 0;
    *apart = 0;
    less.n = shape->kind == CASE_ATTN_VISION ? 400 : 1;
    enum mll_status status = open_plain(r, &plain, err);
    if (status == MLL_OK)
        status = result_of(&y, ex, &less, err);
    if (status == MLL_OK)
        status = result_of(&expected, plain, &less, err);
    for (size_t i = 0; status == MLL_OK && i < op_case_outputs(&less); i++) {
        most = fmax(most, fabs((double)expected[i]));
        *apart = fmax(*apart, fabs((double)y[i] - (double)expected[i]));
    }
    *apart = *apart > 0 ? *apart / most : 0;
    if (status == MLL_OK && *apart > (r->gpu ? 5e-3 : 0))
        status = mll_fail(err, MLL_ERR_INTERNAL, "%s %s differs by %g from the plain form",
                          op_case_name(shape->kind), shape->name, *apart);
    exec_close(plain);
    free(y);
    free(expected);
    return status;
}

/* Seconds a call; many calls in a row on a GPU, so that launching is not what is measured. */
static double time_calls(const struct run *r, const struct op_case *c, int first, bool warm)
{
    struct mll_error err;
    int calls = r->gpu ? GPU_CALLS : 1;
    double start = bench_seconds();
    for (int i = 0; i < calls; i++)
        op_case_call(c, warm ? 0 : (first + i) % c->n_copies);
    exec_take_error(c->ex, &err);
    return (bench_seconds() - start) / calls;
}

static enum mll_status measure(struct run *r, struct mll_exec *ex, const struct op_shape *shape,
                               struct mll_error *err)
{
    struct op_case c;
    bool weights = shape->kind == CASE_MATMUL || shape->kind == CASE_ATTN;
    double copies = 1 + cold_bytes / op_case_bytes(shape);
    int n_copies = !weights ? 1 : copies > OP_COPIES ? OP_COPIES : (int)copies;
    MLL_TRY(exec_reserve(ex, op_case_scratch(ex, shape, n_copies), err));
    enum mll_status status = op_case_open(&c, ex, shape, n_copies, err);
    if (status == MLL_OK)
        time_calls(r, &c, 0, false);
    for (int i = 0; i < r->args->repetitions && status == MLL_OK; i++) {
        r->cold[i] = time_calls(r, &c, i, false);
        time_calls(r, &c, 0, true);
        r->warm[i] = time_calls(r, &c, 0, true);
        status = exec_take_error(ex, err);
    }
    op_case_close(&c);
    return status;
}

static enum mll_status add_row(struct run *r, const struct op_shape *shape, double apart,
                               struct mll_error *err)
{
    size_t n = (size_t)r->args->repetitions;
    struct bench_stats cold = bench_stats(r->cold, n), warm = bench_stats(r->warm, n);
    struct report *p = &r->report;
    char *name = strcpy(r->names[p->n_rows], shape->name);
    double bytes = op_case_bytes(shape) * 1e-9, work = op_case_flops(shape) * 1e-12;
    double least = fmax(bytes / r->read_gb_s, work / r->peak_tflop_s);
    MLL_TRY(report_row(p, err));
    report_text(p, "op", op_case_name(shape->kind));
    report_text(p, "shape", name);
    report_number(p, "seconds", cold.median);
    report_number(p, "p10", cold.p10);
    report_number(p, "p90", cold.p90);
    report_number(p, "warm_seconds", warm.median);
    report_number(p, "gb_s", bytes / cold.median);
    report_number(p, "tflop_s", work / cold.median);
    report_number(p, "read_gb_s", r->read_gb_s);
    report_number(p, "read_share", bytes / cold.median / r->read_gb_s);
    report_number(p, "peak_tflop_s", r->peak_tflop_s);
    report_number(p, "roofline_share", least / cold.median);
    report_number(p, "difference", apart);
    report_text(p, "device", r->device);
    report_number(p, "threads", r->threads);
    return MLL_OK;
}

/* Runs the case if the command line asks for it. */
static enum mll_status run_case(struct run *r, const struct op_shape *shape, struct mll_error *err)
{
    const struct args *a = r->args;
    struct mll_exec *ex = NULL;
    double apart;
    if ((a->op && strcmp(a->op, op_case_name(shape->kind)) != 0) ||
        (a->shape && !strstr(shape->name, a->shape)) || r->report.n_rows == MOST_CASES ||
        signals_exit_code())
        return MLL_OK;
    /* An exec a case: it owns the weights that were loaded. */
    MLL_TRY(open_exec(r, &ex, err));
    enum mll_status status = compare_forms(&apart, r, ex, shape, err);
    exec_close(ex);
    MLL_TRY(status);
    MLL_TRY(open_exec(r, &ex, err));
    status = measure(r, ex, shape, err);
    exec_close(ex);
    if (r->read_memory) /* beside every case: a shared machine's memory is not equally fast for long
                         */
        r->read_gb_s = bench_read_gb_s(r->threads, r->read_memory, BENCH_READ_BYTES, bench_seconds);
    return status == MLL_OK ? add_row(r, shape, apart, err) : status;
}

/* ---- all cases ------------------------------------------------------------------------------- */

/* Whether a matmul is measured where no --shape was given: what a user meets first. */
static bool is_usual(const char *matrix, const char *quant, int n)
{
    if (strncmp(matrix, "vision", 6) == 0)
        return quant == NULL;
    return strncmp(matrix, "90b", 3) != 0 && (n == 1 || n == 8 || n == 512);
}

static enum mll_status run_matmul(struct run *r, size_t m, const char *quant, int n,
                                  struct mll_error *err)
{
    const char *name = matrices[m].name;
    bool vision = strncmp(name, "vision", 6) == 0, head = strcmp(name, "11b.head") == 0;
    if (vision != (n == 6432) || (head && n > 8) || (!r->args->shape && !is_usual(name, quant, n)))
        return MLL_OK;
    struct op_shape s = {.kind = CASE_MATMUL,
                         .n = n,
                         .rows = matrices[m].rows,
                         .cols = matrices[m].cols,
                         .quant = quant,
                         .phase = n <= 8 ? MLL_DECODE : MLL_PREFILL};
    snprintf(s.name, sizeof s.name, "%s %s n=%d", name, quant ? quant : "bf16", n);
    return run_case(r, &s, err);
}

static enum mll_status run_matmuls(struct run *r, struct mll_error *err)
{
    for (size_t m = 0; m < sizeof matrices / sizeof *matrices; m++)
        for (size_t q = 0; q < sizeof quants / sizeof *quants; q++)
            for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; i++)
                MLL_TRY(run_matmul(r, m, quants[q], row_counts[i], err));
    return MLL_OK;
}

static enum mll_status run_others(struct run *r, struct mll_error *err)
{
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; i++)
        for (int n = 1; n <= 512; n *= 512) {
            struct op_shape s = {.kind = CASE_ATTN,
                                 .n = n,
                                 .rows = 32,
                                 .cols = 128,
                                 .context = contexts[i],
                                 .phase = n == 1 ? MLL_DECODE : MLL_PREFILL};
            snprintf(s.name, sizeof s.name, "11b keys=%d n=%d", contexts[i], n);
            MLL_TRY(run_case(r, &s, err));
        }
    struct op_shape vision = {
        .kind = CASE_ATTN_VISION, .n = 6432, .rows = 16, .cols = 80, .name = "vision rows=6432"};
    MLL_TRY(run_case(r, &vision, err));
    for (int n = 1; n <= 512; n *= 512) {
        struct op_shape norm = {.kind = CASE_RMSNORM, .n = n, .rows = 1, .cols = 4096};
        struct op_shape silu = {.kind = CASE_SILU_MUL, .n = n, .rows = 1, .cols = 14336};
        snprintf(norm.name, sizeof norm.name, "11b n=%d", n);
        snprintf(silu.name, sizeof silu.name, "11b n=%d", n);
        MLL_TRY(run_case(r, &norm, err));
        MLL_TRY(run_case(r, &silu, err));
    }
    return MLL_OK;
}

/* ---- what the machine gives ------------------------------------------------------------------ */

static enum mll_status measure_cpu(struct run *r, struct mll_error *err)
{
    r->peak_tflop_s = bench_fma_tflop_s(r->threads);
    r->read_memory = bench_weights(BENCH_READ_BYTES, 1);
    return r->read_memory ? MLL_OK : mll_fail(err, MLL_ERR_NO_MEMORY, "no memory to read");
}

static enum mll_status measure_gpu(struct run *r, struct mll_error *err)
{
    struct op_shape add = {.kind = CASE_ADD, .n = 4096, .rows = 1, .cols = 16384, .name = "add"};
    struct mll_exec *ex = NULL;
    MLL_TRY(open_exec(r, &ex, err));
    enum mll_status status = measure(r, ex, &add, err);
    exec_close(ex);
    MLL_TRY(status);
    double seconds = bench_stats(r->cold, (size_t)r->args->repetitions).median;
    r->read_gb_s = op_case_bytes(&add) * 1e-9 / seconds;
    r->peak_tflop_s = NAN;
    for (size_t i = sizeof cards / sizeof *cards; i-- > 0;)
        if (strstr(r->device, cards[i].name))
            r->peak_tflop_s = cards[i].tflop_s;
    return MLL_OK;
}

static enum mll_status open_run(struct run *r, struct mll_error *err)
{
    const char *device = r->args->device ? r->args->device : "auto";
    size_t n = (size_t)r->args->repetitions;
    struct mll_exec *ex = NULL;
    r->gpu =
        strncmp(device, "cuda", 4) == 0 || (strcmp(device, "auto") == 0 && exec_cuda_devices() > 0);
    MLL_TRY(open_exec(r, &ex, err));
    snprintf(r->device, sizeof r->device, "%s", exec_describe(ex));
    r->threads = exec_threads(ex);
    exec_close(ex);
    r->names = calloc(MOST_CASES, sizeof *r->names);
    r->cold = calloc(2 * n, sizeof *r->cold);
    if (!r->names || !r->cold)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for the benchmark");
    r->warm = r->cold + n;
    return r->gpu ? measure_gpu(r, err) : measure_cpu(r, err);
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
        status = run_others(&r, &err);
    if (status == MLL_OK && r.report.n_rows == 0)
        status = mll_fail(&err, MLL_ERR_USAGE, "no case has op %s and shape %s",
                          args->op ? args->op : "*", args->shape ? args->shape : "*");
    if (r.report.n_rows > 0)
        report_print(&r.report, all.json ? "json" : all.format ? all.format : "md");
    int code = status == MLL_OK ? 0 : tool_fail(&err);
    report_free(&r.report);
    free(r.read_memory);
    free(r.names);
    free(r.cold);
    return signals_exit_code() ? signals_exit_code() : code;
}
