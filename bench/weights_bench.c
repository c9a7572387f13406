/* weights_bench.c - how fast weights come onto a GPU: from ordinary memory through pinned buffers,
 * turned into fp16 on the way, beside a plain copy of pinned memory.
 *
 *     weights_bench [GIB] [REPEATS]
 *
 * Prints one JSON list of rows {test, gb_s (median), p10, p90, share}: "pinned" copies pinned
 * memory, "bf16" and "f32" load matrices of 4096 columns of that type, share is their rate over the
 * pinned one's, in bytes of the host. Exit code 69 where there is no GPU. */
#include "bench.h"
#include "ops.h"

#include <stdio.h>
#include <stdlib.h>

enum { COLS = 4096, MATRIX_ROWS = 14336, MAX_REPEATS = 50 };
#define PINNED_BYTES ((size_t)256 << 20)

struct bench {
    struct mll_exec *ex;
    size_t bytes;
    int repeats;
    void *source, *pinned, *device; /* source (bytes), the others (PINNED_BYTES) */
    double rates[MAX_REPEATS];
};

static enum mll_status copy_pinned(struct bench *b, struct mll_error *err)
{
    for (size_t at = 0; at < b->bytes; at += PINNED_BYTES)
        exec_send(b->ex, b->device, b->pinned, PINNED_BYTES);
    return exec_take_error(b->ex, err);
}

/* The source as matrices of the type, one after the other. */
static enum mll_status load(struct bench *b, enum mll_dtype dtype, struct mll_error *err)
{
    size_t row = (size_t)COLS * (dtype == MLL_DTYPE_F32 ? 4 : 2);
    size_t matrix = row * MATRIX_ROWS, n = b->bytes / matrix;
    struct mat m = {.dtype = dtype, .rows = MATRIX_ROWS, .cols = COLS};
    m.data = b->source;
    MLL_TRY(exec_begin_weights(b->ex, n * exec_weight_bytes(b->ex, &m, WEIGHT_MATRIX), err));
    for (size_t i = 0; i < n; i++) {
        struct mat part = m;
        part.data = (const char *)b->source + i * matrix;
        MLL_TRY(exec_load_weight(b->ex, &part, WEIGHT_MATRIX, err));
    }
    return exec_end_weights(b->ex, NULL, err);
}

/* One row; dtype NONE: the pinned copy. Weights stay until the exec is closed: a fresh one each
 * time. */
static enum mll_status measure(struct bench *b, const char *name, enum mll_dtype dtype,
                               double *pinned, struct mll_error *err)
{
    struct exec_cuda_options options = {.device = 0};
    for (int i = 0; i < b->repeats; i++) {
        MLL_TRY(exec_open_cuda(&b->ex, &options, PINNED_BYTES, err));
        b->device = exec_alloc(b->ex, PINNED_BYTES);
        b->pinned = dtype == MLL_DTYPE_NONE ? exec_alloc_host(b->ex, PINNED_BYTES) : NULL;
        if (dtype == MLL_DTYPE_NONE && b->pinned == NULL)
            return mll_fail(err, MLL_ERR_NO_MEMORY, "no pinned memory");
        double start = bench_seconds();
        MLL_TRY(dtype == MLL_DTYPE_NONE ? copy_pinned(b, err) : load(b, dtype, err));
        b->rates[i] = (double)b->bytes * 1e-9 / (bench_seconds() - start);
        exec_close(b->ex);
        b->ex = NULL;
    }
    struct bench_stats s = bench_stats(b->rates, (size_t)b->repeats);
    if (dtype == MLL_DTYPE_NONE)
        *pinned = s.median;
    printf("%c{\"test\": \"%s\", \"gb_s\": %.4g, \"p10\": %.4g, \"p90\": %.4g, \"share\": "
           "%.3f}%s\n",
           dtype == MLL_DTYPE_NONE ? '[' : ' ', name, s.median, s.p10, s.p90, s.median / *pinned,
           dtype == MLL_DTYPE_F32 ? "]" : ",");
    return MLL_OK;
}

int main(int argc, char **argv)
{
    struct bench b = {.repeats = argc > 2 ? atoi(argv[2]) : 5};
    size_t unit = (size_t)COLS * 4 * MATRIX_ROWS; /* whole matrices of either type */
    struct mll_error err = {.code = MLL_OK};
    double gib = argc > 1 ? atof(argv[1]) : 2.0, pinned = 1.0;
    if (!(gib > 0) || b.repeats < 1 || b.repeats > MAX_REPEATS) {
        fputs("usage: weights_bench [GIB] [REPEATS]\n", stderr);
        return 64;
    }
    b.bytes = ((size_t)(gib * 0x1p30) / unit + 1) * unit;
    b.source = bench_weights(b.bytes, 1);
    enum mll_status status =
        b.source ? MLL_OK : mll_fail(&err, MLL_ERR_NO_MEMORY, "no memory for %zu bytes", b.bytes);
    if (status == MLL_OK)
        status = measure(&b, "pinned", MLL_DTYPE_NONE, &pinned, &err);
    if (status == MLL_OK)
        status = measure(&b, "bf16", MLL_DTYPE_BF16, &pinned, &err);
    if (status == MLL_OK)
        status = measure(&b, "f32", MLL_DTYPE_F32, &pinned, &err);
    if (status != MLL_OK)
        fprintf(stderr, "weights_bench: %s\n", err.message);
    exec_close(b.ex);
    free(b.source);
    return mll_status_exit_code(status);
}
