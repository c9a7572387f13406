/* attn_bench.c - times attention on request, so that a peer can be measured in turn with it.
 *
 *     attn_bench THREADS [--cpu-time]
 *
 * One request a line on stdin, one line of answer:
 *     vision ROWS HEADS DIM            seconds of op_attn_vision, 7 rows in 1608 being pad rows
 *     prefill N HEADS KV_HEADS DIM     seconds of op_attn over N causal rows of one sequence
 *     decode CTX HEADS KV_HEADS DIM    seconds of op_attn for one row in each of 8 sequences of CTX
 *                                      keys, bytes of K and V, GB/s of reading them beside it
 * bench/peers/torch_attn.py drives it. --cpu-time counts CPU time of the one thread. */
#include "bench.h"
#include "ops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DECODE_SEQS = 8, TILE_ROWS = 1608, TILE_USED = 1601 };

/* The parameters of a request. */
struct shape {
    char kind[16];
    int n, heads, kv_heads, dim; /* n: rows, or keys a sequence */
};

struct bench {
    struct mll_exec *ex;
    int threads;
    double (*clock)(void);
    struct shape shape; /* of what is prepared */
    float *q, *k, *v, *y;
    uint8_t *pad;
    int32_t *index; /* blocks, then seq, begin and end of the rows */
    size_t kv_bytes;
};

static float *numbers(size_t n)
{
    float *x = bench_weights(n * sizeof *x, 3);
    for (size_t i = 0; x != NULL && i < n; i++)
        x[i] = (float)(int)(i * 2654435761u % 2001) * 1e-3f - 1.0f;
    return x;
}

static void drop(struct bench *b)
{
    free(b->q);
    free(b->k);
    free(b->v);
    free(b->y);
    free(b->pad);
    free(b->index);
    b->q = b->k = b->v = b->y = NULL;
    b->pad = NULL;
    b->index = NULL;
}

static bool prepare(struct bench *b, const struct shape *s)
{
    bool vision = strcmp(s->kind, "vision") == 0, decode = strcmp(s->kind, "decode") == 0;
    size_t rows = decode ? DECODE_SEQS : (size_t)s->n, seqs = decode ? DECODE_SEQS : 1;
    size_t blocks = ((size_t)s->n + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK;
    size_t q = rows * (size_t)s->heads * (size_t)s->dim;
    size_t kv = seqs * blocks * MLL_KV_BLOCK * (size_t)s->kv_heads * (size_t)s->dim;
    if (memcmp(&b->shape, s, sizeof *s) == 0)
        return true;
    drop(b);
    b->shape = *s;
    b->kv_bytes = 2 * kv * sizeof(float);
    b->q = numbers(q);
    b->y = numbers(q);
    b->k = numbers(vision ? q : 2 * kv); /* one piece, so that one read covers K and V */
    b->v = vision ? numbers(q) : NULL;
    b->pad = malloc(rows);
    b->index = malloc((seqs * blocks + 3 * rows) * sizeof *b->index);
    if (!b->q || !b->y || !b->k || (vision && !b->v) || !b->pad || !b->index)
        return false;
    for (size_t r = 0; r < rows; r++) {
        int32_t *row = b->index + seqs * blocks + r;
        b->pad[r] = r % TILE_ROWS >= TILE_USED;
        row[0] = decode ? (int32_t)r : 0;
        row[rows] = 0;
        row[2 * rows] = decode ? s->n : (int32_t)r + 1;
    }
    for (size_t i = 0; i < seqs * blocks; i++)
        b->index[i] = (int32_t)i;
    return true;
}

static double time_vision(struct bench *b)
{
    const struct shape *s = &b->shape;
    double start = b->clock();
    op_attn_vision(b->ex, b->y, b->q, b->k, b->v, b->pad, s->n, s->heads, s->dim, 0.1f);
    return b->clock() - start;
}

static double time_paged(struct bench *b, int rows, int seqs)
{
    const struct shape *s = &b->shape;
    int blocks = (s->n + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK;
    struct kv_pool pool = {
        b->k, (char *)b->k + b->kv_bytes / 2, MLL_DTYPE_F32, seqs * blocks, s->kv_heads, s->dim};
    struct kv_table table = {b->index, seqs, blocks};
    const int32_t *seq = b->index + seqs * blocks;
    double start = b->clock();
    op_attn(b->ex, b->y, b->q, &pool, &table, seq, seq + rows, seq + 2 * rows, rows, s->heads,
            0.1f);
    return b->clock() - start;
}

static bool parse(struct shape *s, const char *line)
{
    *s = (struct shape){.kind = ""};
    if (sscanf(line, "vision %d %d %d", &s->n, &s->heads, &s->dim) == 3) {
        strcpy(s->kind, "vision");
        s->kv_heads = s->heads;
    } else if (sscanf(line, "%15s %d %d %d %d", s->kind, &s->n, &s->heads, &s->kv_heads, &s->dim) !=
               5) {
        return false;
    }
    bool known =
        !strcmp(s->kind, "vision") || !strcmp(s->kind, "prefill") || !strcmp(s->kind, "decode");
    return known && s->n > 0 && s->n <= 1 << 16 && s->heads > 0 && s->heads <= 256 && s->dim > 0 &&
           s->dim <= 1024 && s->kv_heads > 0 && s->heads % s->kv_heads == 0;
}

/* Answers one line; false where memory ran out. */
static bool answer(struct bench *b, const char *line)
{
    struct shape s;
    if (!parse(&s, line)) {
        puts("unknown request");
        return fflush(stdout) == 0;
    }
    if (!prepare(b, &s))
        return false;
    if (strcmp(s.kind, "vision") == 0) {
        printf("%.9g\n", time_vision(b));
    } else if (strcmp(s.kind, "prefill") == 0) {
        printf("%.9g\n", time_paged(b, s.n, 1));
    } else {
        double read = bench_read_gb_s(b->threads, b->k, b->kv_bytes, bench_seconds);
        printf("%.9g %zu %.9g\n", time_paged(b, DECODE_SEQS, DECODE_SEQS), b->kv_bytes, read);
    }
    return fflush(stdout) == 0;
}

int main(int argc, char **argv)
{
    bool cpu_time = argc == 3 && strcmp(argv[2], "--cpu-time") == 0;
    struct bench b = {.threads = argc > 1 ? atoi(argv[1]) : 0,
                      .clock = cpu_time ? bench_thread_seconds : bench_seconds};
    struct mll_error err;
    char line[128];
    if (argc != 2 + cpu_time || b.threads < 1 || (cpu_time && b.threads != 1)) {
        fputs("usage: attn_bench THREADS | 1 --cpu-time\n", stderr);
        return 64;
    }
    if (exec_open_cpu(&b.ex, b.threads, MLL_ISA_AUTO, MLL_COMPUTE_F32, (size_t)1 << 28, &err) !=
        MLL_OK) {
        fprintf(stderr, "%s\n", err.message);
        return mll_status_exit_code(err.code);
    }
    bool ok = true;
    while (ok && fgets(line, sizeof line, stdin) != NULL)
        ok = answer(&b, line);
    exec_close(b.ex);
    drop(&b);
    return ok ? 0 : 70;
}
