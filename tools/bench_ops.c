/* bench_ops.c - mllama bench ops: single ops at the shapes of the 11B and 90B.
 *
 * bench_case.h says how an op is checked and timed. Beside the times stand the bytes that must be
 * moved, the operations that must be done, and what share they are of what this machine gives,
 * which is measured before and behind every case, for a shared machine is not equally fast for
 * long: a read of 2 GB by the same threads, a copy (both ways counted), multiply-adds in registers.
 * roofline_share is the least time, the larger of bytes by the read rate and operations by the peak
 * rate, over the measured one. On a GPU reading and copying are an addition of long vectors (reads
 * two, writes one), the peak is what its maker states for fp16, nominal_gb_s likewise. */
#include "bench_case.h"
#include "bench.h"
#include "bench_tool.h"
#include "engine.h"
#include "report.h"
#include "tool.h"
#include "version.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { USUAL_REPETITIONS = 10, LEAST_REPETITIONS = 5 };
static const double gpu_tolerance = 5e-3; /* fp16's roundings */
static const double tolerances[] = {
    [MLL_COMPUTE_F32] = 0, [MLL_COMPUTE_BF16] = 1e-2, [MLL_COMPUTE_INT8] = 2e-2};

static const struct report_column columns[] = {
    {.name = "op", .title = "op"},
    {.name = "shape", .title = "shape"},
    {.name = "n"},
    {.name = "seconds", .title = "us", .scale = 1e6},
    {.name = "p10", .title = "p10", .scale = 1e6},
    {.name = "p90", .title = "p90", .scale = 1e6},
    {.name = "warm_seconds", .title = "warm us", .scale = 1e6},
    {.name = "bytes"},
    {.name = "flop"},
    {.name = "gb_s", .title = "GB/s"},
    {.name = "read_gb_s"},
    {.name = "read_share", .title = "% of read", .scale = 100},
    {.name = "copy_gb_s"},
    {.name = "copy_share", .title = "% of copy", .scale = 100},
    {.name = "nominal_gb_s"},
    {.name = "nominal_share", .title = "% nominal", .scale = 100},
    {.name = "tflop_s", .title = "GFLOP/s", .scale = 1000},
    {.name = "peak_tflop_s"},
    {.name = "peak_share", .title = "% of peak", .scale = 100},
    {.name = "roofline_share", .title = "% of roofline", .scale = 100},
    {.name = "clock_ghz", .title = "GHz"},
    {.name = "difference"},
    {.name = "samples"},
    {.name = "kv", .use = REPORT_BELOW},
    {.name = "device", .use = REPORT_BELOW},
    {.name = "threads", .use = REPORT_BELOW},
    {.name = "version", .use = REPORT_BELOW},
    {.name = "build_commit", .use = REPORT_BELOW}};

/* fp16 with float32 accumulation, dense, and memory, from the makers' data sheets; the first name
 * that the device's contains. */
static const struct {
    const char *name;
    double tflop_s, gb_s;
} cards[] = {{"V100S", 130, 1134},
             {"V100", 125, 900},
             {"T4", 65, 320},
             {"A100-SXM4-40GB", 312, 1555},
             {"A100-PCIE-40GB", 312, 1555},
             {"A100", 312, 2039},
             {"A10", 125, 600},
             {"L40S", 362, 864},
             {"L40", 181, 864},
             {"L4", 121, 300},
             {"4090", 165, 1008},
             {"H100 PCIe", 756, 2000},
             {"H100", 989, 3350},
             {"H200", 989, 4800}};

/* What a machine gives at the moment; NaN where unknown. */
struct machine {
    double read_gb_s, copy_gb_s, peak_tflop_s, clock_ghz, nominal_gb_s;
};

struct run {
    const struct args *args;
    struct mll_options options; /* of the device's exec */
    bool gpu;
    struct report *report;
    struct bench_case times;
    void *memory; /* to read and copy; NULL on a GPU */
    struct machine machine;
    char device[128];
    int threads;
};

/* ---- what the machine gives ------------------------------------------------------------------ */

static enum mll_compute compute_of(const struct run *r)
{
    const char *name = r->options.compute ? r->options.compute : "f32";
    return strcmp(name, "int8") == 0   ? MLL_COMPUTE_INT8
           : strcmp(name, "bf16") == 0 ? MLL_COMPUTE_BF16
                                       : MLL_COMPUTE_F32;
}

static struct machine measure_cpu(const struct run *r)
{
    return (struct machine){
        .read_gb_s = bench_read_gb_s(r->threads, r->memory, BENCH_READ_BYTES, bench_seconds),
        .copy_gb_s = bench_copy_gb_s(r->threads, r->memory, BENCH_READ_BYTES),
        .peak_tflop_s = bench_fma_tflop_s(r->threads, compute_of(r)),
        .clock_ghz = bench_clock_ghz(),
        .nominal_gb_s = NAN};
}

static enum mll_status measure_gpu(struct run *r, struct mll_error *err)
{
    struct op_shape add = {.op = "add", .n = 4096, .rows = 1, .cols = 16384, .name = "long"};
    struct mll_exec *ex = NULL;
    MLL_TRY(plan_open_exec(&ex, &r->options, NULL, err));
    double bytes = op_case_bytes(&add, exec_kv_dtype(ex)) * 1e-9;
    enum mll_status status = bench_case_run(&r->times, ex, &add, err);
    exec_close(ex);
    MLL_TRY(status);
    double rate = bytes / bench_stats(r->times.cold, r->times.n_cold).median;
    r->machine = (struct machine){rate, rate, NAN, NAN, NAN};
    for (size_t i = sizeof cards / sizeof *cards; i-- > 0;)
        if (strstr(r->device, cards[i].name)) {
            r->machine.peak_tflop_s = cards[i].tflop_s;
            r->machine.nominal_gb_s = cards[i].gb_s;
        }
    return MLL_OK;
}

/* The mean of before and behind. */
static struct machine between(struct machine a, struct machine b)
{
    return (struct machine){(a.read_gb_s + b.read_gb_s) / 2, (a.copy_gb_s + b.copy_gb_s) / 2,
                            (a.peak_tflop_s + b.peak_tflop_s) / 2, (a.clock_ghz + b.clock_ghz) / 2,
                            a.nominal_gb_s};
}

/* ---- one case -------------------------------------------------------------------------------- */

static enum mll_status add_row(const struct run *r, const struct op_shape *shape, enum mll_dtype kv,
                               const struct machine *m, struct mll_error *err)
{
    static const char *const kinds[] = {
        [MLL_DTYPE_F32] = "f32", [MLL_DTYPE_F16] = "f16", [MLL_DTYPE_I8] = "int8"};
    const struct bench_case *b = &r->times;
    struct report *p = r->report;
    double gbytes = op_case_bytes(shape, kv) * 1e-9, tflop = op_case_flop(shape) * 1e-12;
    MLL_TRY(report_row(p, err));
    report_list(p, "samples", b->cold, b->n_cold);
    struct bench_stats cold = bench_stats(b->cold, b->n_cold),
                       warm = bench_stats(b->warm, b->n_warm);
    double rate = gbytes / cold.median, speed = tflop / cold.median;
    report_text(p, "op", shape->op);
    report_text(p, "shape", shape->name);
    report_number(p, "n", shape->n);
    report_number(p, "seconds", cold.median);
    report_number(p, "p10", cold.p10);
    report_number(p, "p90", cold.p90);
    report_number(p, "warm_seconds", b->n_warm > 0 ? warm.median : NAN);
    report_number(p, "bytes", gbytes * 1e9);
    report_number(p, "flop", tflop * 1e12);
    report_number(p, "gb_s", rate);
    report_number(p, "read_gb_s", m->read_gb_s);
    report_number(p, "read_share", rate / m->read_gb_s);
    report_number(p, "copy_gb_s", m->copy_gb_s);
    report_number(p, "copy_share", rate / m->copy_gb_s);
    report_number(p, "nominal_gb_s", m->nominal_gb_s);
    report_number(p, "nominal_share", rate / m->nominal_gb_s);
    report_number(p, "tflop_s", speed);
    report_number(p, "peak_tflop_s", m->peak_tflop_s);
    report_number(p, "peak_share", speed / m->peak_tflop_s);
    report_number(p, "roofline_share", fmax(rate / m->read_gb_s, speed / m->peak_tflop_s));
    report_number(p, "clock_ghz", m->clock_ghz);
    report_number(p, "difference", b->difference);
    if (op_case_has_keys(shape))
        report_text(p, "kv", kinds[kv]);
    report_text(p, "device", r->device);
    report_number(p, "threads", r->threads);
    report_text(p, "version", MLL_VERSION);
    report_text(p, "build_commit", MLL_COMMIT);
    return MLL_OK;
}

/* Whether text occurs in name and ends where its words do: n=1 is not in n=128. */
static bool has_words(const char *name, const char *text)
{
    size_t n = strlen(text);
    for (const char *at = name; (at = strstr(at, text)) != NULL; at++) {
        bool begins = at == name || !isalnum((unsigned char)at[-1]);
        if (n > 0 && begins && !isalnum((unsigned char)at[n]))
            return true;
    }
    return false;
}

static bool is_wanted(const struct args *a, const struct op_shape *s)
{
    if (a->op && strcmp(a->op, s->op) != 0)
        return false;
    return a->shape ? has_words(s->name, a->shape) : a->all || s->usual;
}

static enum mll_status run_case(struct run *r, const struct op_shape *shape, struct mll_error *err)
{
    struct mll_exec *ex = NULL;
    struct machine m = r->machine;
    MLL_TRY(plan_open_exec(&ex, &r->options, NULL, err));
    enum mll_dtype kv = exec_kv_dtype(ex);
    enum mll_status status = bench_case_run(&r->times, ex, shape, err);
    exec_close(ex);
    MLL_TRY(status);
    if (!r->gpu) {
        r->machine = measure_cpu(r);
        m = between(m, r->machine);
    }
    return add_row(r, shape, kv, &m, err);
}

/* ---- devices --------------------------------------------------------------------------------- */

static enum mll_status open_device(struct run *r, struct mll_error *err)
{
    struct mll_exec *ex = NULL;
    MLL_TRY(plan_open_exec(&ex, &r->options, NULL, err));
    snprintf(r->device, sizeof r->device, "%s", exec_describe(ex));
    r->threads = exec_threads(ex);
    r->gpu = exec_memory(ex) > 0;
    exec_close(ex);
    struct bench_case *b = &r->times;
    bool asked = r->args->repetitions > 0;
    b->most = asked ? r->args->repetitions : USUAL_REPETITIONS;
    b->least = asked ? b->most : LEAST_REPETITIONS;
    b->tolerance = r->gpu ? gpu_tolerance : tolerances[compute_of(r)];
    b->cold = calloc(2 * (size_t)b->most, sizeof *b->cold);
    b->warm = b->cold ? b->cold + b->most : NULL;
    if (!r->gpu)
        b->flush = r->memory = bench_weights(BENCH_READ_BYTES, 1);
    if (b->cold == NULL || (!r->gpu && r->memory == NULL))
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for the benchmark");
    if (r->gpu)
        return measure_gpu(r, err);
    r->machine = measure_cpu(r);
    return MLL_OK;
}

static enum mll_status run_device(struct report *report, const struct args *args,
                                  const char *device, int threads, const struct op_shape *shapes,
                                  size_t n, struct mll_error *err)
{
    struct run r = {.args = args, .report = report};
    struct progress progress;
    model_options(&r.options, args, &(struct tool_model){0});
    r.options.device = device;
    r.options.threads = threads;
    enum mll_status status = open_device(&r, err);
    progress_start(&progress, "cases");
    for (size_t i = 0; i < n && status == MLL_OK && !signals_exit_code(); i++) {
        progress_show(&progress, i, n, 0, shapes[i].name);
        status = run_case(&r, &shapes[i], err);
    }
    progress_clear(&progress);
    free(r.memory);
    free(r.times.cold);
    return status;
}

/* ---- all ------------------------------------------------------------------------------------- */

/* Keeps the shapes that the command line asks for. */
static enum mll_status select_shapes(struct op_shape *shapes, size_t *n, const struct args *args,
                                     struct mll_error *err)
{
    size_t kept = 0;
    char names[512] = "";
    for (size_t i = 0; op_case_name(i); i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", op_case_name(i));
    }
    for (size_t i = 0; i < *n; i++)
        if (is_wanted(args, &shapes[i]))
            shapes[kept++] = shapes[i];
    *n = kept;
    if (kept > 0)
        return MLL_OK;
    return mll_fail(err, MLL_ERR_USAGE,
                    "no case has op %s and shape %s; ops: %s; shapes look like '11b.q 4096x4096 "
                    "nf4 n=1'",
                    args->op ? args->op : "*", args->shape ? args->shape : "*", names);
}

/* Every device with every number of threads. */
static enum mll_status run_lists(struct report *report, const struct args *args,
                                 const struct op_shape *shapes, size_t n, struct mll_error *err)
{
    int *threads;
    size_t n_threads;
    MLL_TRY(bench_threads(&threads, &n_threads, args, err));
    char *devices = strdup(args->device ? args->device : "auto"), *rest = devices, *device;
    enum mll_status status = devices ? MLL_OK : mll_fail(err, MLL_ERR_NO_MEMORY, "no memory");
    while (status == MLL_OK && (device = strsep(&rest, ",")) != NULL)
        for (size_t i = 0; i < n_threads && status == MLL_OK && !signals_exit_code(); i++)
            status = run_device(report, args, device, threads[i], shapes, n, err);
    free(devices);
    free(threads);
    return status;
}

int bench_ops(const struct args *args)
{
    struct mll_error err;
    struct report report = {
        .name = "bench_ops", .columns = columns, .n_columns = sizeof columns / sizeof *columns};
    size_t n;
    struct op_shape *shapes = op_shapes(&n);
    enum mll_status status = shapes ? select_shapes(shapes, &n, args, &err)
                                    : mll_fail(&err, MLL_ERR_NO_MEMORY, "no memory for the shapes");
    if (status == MLL_OK)
        status = run_lists(&report, args, shapes, n, &err);
    if (report.n_rows > 0)
        report_print(&report, args->json ? "json" : args->format ? args->format : "md");
    int code = status == MLL_OK ? 0 : tool_fail(&err);
    report_free(&report);
    free(shapes);
    return signals_exit_code() ? signals_exit_code() : code;
}
