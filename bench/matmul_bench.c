/* matmul_bench.c - times op_matmul on request, so that a peer can be measured in turn with it.
 *
 *     matmul_bench THREADS [--cpu-time]
 *
 * One request a line on stdin, one line of answer:
 *     matmul f32|bf16|int8 N ROWS COLS   seconds of y = x W^T, W bf16, in that arithmetic
 *     read                          GB/s of reading the memory that `decode` uses (>= 2 GB)
 *     decode f32|bf16|int8 N             seconds and weight bytes of all matrices of one step of N
 *                                   rows through a 1B-like decoder: 16 layers, bf16, 2.5 GB
 *     coded nf4|nf4-dq|int8 f32|bf16|int8 N ROWS COLS COUNT
 *                                   seconds and weight bytes of COUNT different matrices in turn
 * bench/peers/torch_matmul.py and q4_matmul.py drive it. --cpu-time counts CPU time of the one
 * thread. */
#include "bench.h"
#include "ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 16, MATRICES = 7, MAX_N = 8, FLOATS = 1 << 24 };

/* (out, in) features of a layer of hidden 2048, mlp 8192, 32 heads, 8 KV heads; then the head. */
static const int layer_shapes[MATRICES][2] = {{2048, 2048}, {512, 2048},  {512, 2048}, {2048, 2048},
                                              {8192, 2048}, {8192, 2048}, {2048, 8192}};
static const int head_shape[2] = {128256, 2048};

struct bench {
    struct mll_exec *execs[3]; /* by enum mll_compute; NULL where the CPU has no dot instruction */
    double (*clock)(void);
    int threads;
    int n, rows, cols; /* of the matrices below */
    void *w;
    float *x, *y;
    float *floats; /* (FLOATS) absmax and scales */
    void *decoder; /* every matrix of the decoder, one behind the other */
    size_t decoder_bytes;
};

static float *numbers(size_t n)
{
    float *x = malloc(n * sizeof *x);
    for (size_t i = 0; x != NULL && i < n; i++)
        x[i] = (float)(int)(i * 2654435761u % 2001) * 1e-3f - 1.0f;
    return x;
}

static bool prepare(struct bench *b, int n, int rows, int cols)
{
    if (b->n == n && b->rows == rows && b->cols == cols)
        return true;
    free(b->w);
    free(b->x);
    free(b->y);
    b->n = n, b->rows = rows, b->cols = cols;
    b->w = bench_weights((size_t)rows * (size_t)cols * 2, 1);
    b->x = numbers((size_t)n * (size_t)cols);
    b->y = numbers((size_t)n * (size_t)rows);
    return b->w != NULL && b->x != NULL && b->y != NULL;
}

static double time_matmul(struct bench *b, struct mll_exec *ex)
{
    struct mat w = {.data = b->w, .dtype = MLL_DTYPE_BF16, .rows = b->rows, .cols = b->cols};
    double start = b->clock();
    op_matmul(ex, b->y, b->x, &w, NULL, b->n);
    return b->clock() - start;
}

static size_t shape_bytes(const int shape[2])
{
    return (size_t)shape[0] * (size_t)shape[1] * 2;
}

static bool prepare_decoder(struct bench *b)
{
    if (b->decoder != NULL)
        return true;
    b->decoder_bytes = shape_bytes(head_shape);
    for (int i = 0; i < MATRICES; i++)
        b->decoder_bytes += LAYERS * shape_bytes(layer_shapes[i]);
    b->decoder = bench_weights(b->decoder_bytes, 2);
    return b->decoder != NULL && prepare(b, MAX_N, head_shape[0], 8192);
}

static double time_decode(struct bench *b, struct mll_exec *ex, int n)
{
    const unsigned char *data = b->decoder;
    double start = b->clock();
    for (int i = 0; i <= LAYERS * MATRICES; i++) {
        const int *shape = i < LAYERS * MATRICES ? layer_shapes[i % MATRICES] : head_shape;
        struct mat w = {.data = data, .dtype = MLL_DTYPE_BF16, .rows = shape[0], .cols = shape[1]};
        op_matmul(ex, b->y, b->x, &w, NULL, n);
        data += shape_bytes(shape);
    }
    return b->clock() - start;
}

/* What a matrix of rows x cols takes with its absmax or scales. */
static size_t coded_bytes(const char *type, size_t rows, size_t cols)
{
    size_t n = rows * cols, blocks = n / 64;
    if (strcmp(type, "int8") == 0)
        return n + rows * sizeof(float);
    return n / 2 + (strcmp(type, "nf4") == 0 ? blocks * sizeof(float)
                                             : blocks + blocks / MLL_NESTED_BLOCK * sizeof(float));
}

/* The codes of the decoder's memory, one matrix behind the other; absmax and scales likewise, small
 * numbers in memory of their own. */
static double time_coded(struct bench *b, struct mll_exec *ex, const char *type, int count)
{
    size_t n = (size_t)b->rows * (size_t)b->cols, blocks = n / 64;
    const unsigned char *data = b->decoder;
    const float *floats = b->floats;
    double start = b->clock();
    for (int i = 0; i < count; i++) {
        struct mat_blocks q = {.block = 64, .rounded = MLL_DTYPE_F32};
        struct mat w = {.data = data, .dtype = MLL_DTYPE_Q4, .rows = b->rows, .cols = b->cols};
        for (int v = 0; v < 16; v++)
            q.values[v] = (float)(v - 8) / 8;
        if (strcmp(type, "int8") == 0) {
            w.dtype = MLL_DTYPE_I8;
            w.scale = floats;
        } else if (strcmp(type, "nf4") == 0) {
            q.absmax = floats;
        } else {
            q.codes = data + n / 2;
            q.nested_map = b->floats;
            q.nested_absmax = floats;
        }
        w.blocks = &q;
        op_matmul(ex, b->y, b->x, &w, NULL, b->n);
        data += w.dtype == MLL_DTYPE_I8 ? n : n / 2 + (q.absmax ? 0 : blocks);
        floats += w.dtype == MLL_DTYPE_I8 ? (size_t)b->rows : q.absmax ? blocks : blocks / 256;
    }
    return b->clock() - start;
}

static struct mll_exec *exec_for(const struct bench *b, const char *kind)
{
    return b->execs[strcmp(kind, "int8") == 0   ? MLL_COMPUTE_INT8
                    : strcmp(kind, "bf16") == 0 ? MLL_COMPUTE_BF16
                                                : MLL_COMPUTE_F32];
}

static bool prepare_coded(struct bench *b, int n, int rows, int cols)
{
    if (b->floats == NULL)
        b->floats = numbers(FLOATS);
    return b->floats != NULL && prepare_decoder(b) && prepare(b, n, rows, cols);
}

/* Answers one line; false where memory ran out. */
static bool answer(struct bench *b, const char *line)
{
    char kind[8], type[8];
    int n, rows, cols, count;
    if (strncmp(line, "read", 4) == 0) {
        if (!prepare_decoder(b))
            return false;
        printf("%.9g\n", bench_read_gb_s(b->threads, b->decoder, b->decoder_bytes, b->clock));
    } else if (sscanf(line, "matmul %7s %d %d %d", kind, &n, &rows, &cols) == 4 && n > 0 &&
               n <= 1 << 16 && rows > 0 && rows <= 1 << 18 && cols > 0 && cols <= 1 << 15) {
        struct mll_exec *ex = exec_for(b, kind);
        if (!prepare(b, n, rows, cols))
            return false;
        printf("%.9g\n", ex != NULL ? time_matmul(b, ex) : 0.0);
    } else if (sscanf(line, "decode %7s %d", kind, &n) == 2 && n > 0 && n <= MAX_N) {
        struct mll_exec *ex = exec_for(b, kind);
        if (!prepare_decoder(b))
            return false;
        printf("%.9g %zu\n", ex != NULL ? time_decode(b, ex, n) : 0.0, b->decoder_bytes);
    } else if (sscanf(line, "coded %7s %7s %d %d %d %d", type, kind, &n, &rows, &cols, &count) ==
                   6 &&
               n > 0 && n <= 4096 && rows > 0 && cols > 0 && cols % 64 == 0 && count > 0 &&
               (size_t)rows * (size_t)cols / 64 * (size_t)count <= FLOATS) {
        struct mll_exec *ex = exec_for(b, kind);
        if (!prepare_coded(b, n, rows, cols))
            return false;
        printf("%.9g %zu\n", ex != NULL ? time_coded(b, ex, type, count) : 0.0,
               coded_bytes(type, (size_t)rows, (size_t)cols) * (size_t)count);
    } else {
        puts("unknown request");
    }
    return fflush(stdout) == 0;
}

int main(int argc, char **argv)
{
    bool cpu_time = argc == 3 && strcmp(argv[2], "--cpu-time") == 0;
    struct bench b = {.threads = argc > 1 ? atoi(argv[1]) : 0,
                      .clock = cpu_time ? bench_thread_seconds : bench_seconds};
    struct mll_error err;
    const size_t scratch = (size_t)1 << 28;
    char line[128];
    if (argc != 2 + cpu_time || b.threads < 1 || (cpu_time && b.threads != 1)) {
        fputs("usage: matmul_bench THREADS | 1 --cpu-time\n", stderr);
        return 64;
    }
    for (int i = 0; i < 3; i++)
        if (exec_open_cpu(&b.execs[i], b.threads, MLL_ISA_AUTO, (enum mll_compute)i, scratch,
                          &err) != MLL_OK)
            fprintf(stderr, "%s\n", err.message);
    if (b.execs[MLL_COMPUTE_F32] == NULL)
        return mll_status_exit_code(err.code);
    bool ok = true;
    while (ok && fgets(line, sizeof line, stdin) != NULL)
        ok = answer(&b, line);
    for (int i = 0; i < 3; i++)
        exec_close(b.execs[i]);
    free(b.w);
    free(b.x);
    free(b.y);
    free(b.floats);
    free(b.decoder);
    return ok ? 0 : 70;
}
