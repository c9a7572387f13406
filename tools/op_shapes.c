/* op_shapes.c - the shapes of mllama bench ops: what the 11B and the 90B call.  See op_case.h. */
#include "op_case.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))

enum { MOST = 1024 };

struct list {
    struct op_shape *shapes; /* (MOST) */
    size_t n;
};

static const int row_counts[] = {1, 2, 4, 8, 128, 512, 2048};

static bool is_usual_count(int n)
{
    return n == 1 || n == 8 || n == 512;
}

/* The next shape: a copy of s, named as printf would. */
static void add(struct list *l, struct op_shape s, const char *prefix, const char *dims)
{
    MLL_ASSERT(l->n < MOST);
    snprintf(s.name, sizeof s.name, "%s %s%s%s n=%d", prefix, dims, s.quant ? " " : "",
             s.quant ? s.quant : "", s.n);
    l->shapes[l->n++] = s;
}

static void add_matmuls(struct list *l)
{
    static const struct {
        const char *name;
        int rows, cols; /* out and in features */
    } matrices[] = {
        {"11b.q", 4096, 4096},           {"11b.kv", 1024, 4096},     {"11b.gate", 14336, 4096},
        {"11b.down", 4096, 14336},       {"11b.head", 128256, 4096}, {"90b.q", 8192, 8192},
        {"90b.kv", 1024, 8192},          {"90b.gate", 28672, 8192},  {"90b.down", 8192, 28672},
        {"vision.qkvo", 1280, 1280},     {"vision.fc1", 5120, 1280}, {"vision.fc2", 1280, 5120},
        {"vision.projector", 4096, 7680}};
    static const char *const quants[] = {"bf16", "nf4", "nf4-dq", "int8"};
    char dims[32];
    for (size_t m = 0; m < COUNT(matrices); m++)
        for (size_t q = 0; q < COUNT(quants); q++)
            for (size_t i = 0; i < COUNT(row_counts); i++) {
                bool vision = strncmp(matrices[m].name, "vision", 6) == 0;
                int n = vision ? 6432 : row_counts[i];
                if ((vision && i > 0) || (matrices[m].rows > 100000 && n > 8))
                    continue;
                struct op_shape s = {.kind = CASE_MATMUL,
                                     .n = n,
                                     .rows = matrices[m].rows,
                                     .cols = matrices[m].cols,
                                     .quant = quants[q],
                                     .phase = n <= 8 ? MLL_DECODE : MLL_PREFILL};
                s.usual = vision ? q == 0 : matrices[m].name[0] == '1' && is_usual_count(n);
                snprintf(dims, sizeof dims, "%dx%d", s.rows, s.cols);
                add(l, s, matrices[m].name, dims);
            }
}

static void add_attention(struct list *l, const char *model, int heads)
{
    static const int contexts[] = {512, 4096, 6404, 32768};
    char dims[40];
    for (size_t c = 0; c < COUNT(contexts); c++)
        for (size_t i = 0; i < COUNT(row_counts); i++) {
            struct op_shape s = {.kind = CASE_ATTN,
                                 .n = row_counts[i],
                                 .rows = heads,
                                 .cols = 128,
                                 .context = contexts[c],
                                 .phase = row_counts[i] <= 8 ? MLL_DECODE : MLL_PREFILL};
            s.usual = heads == 32 && (s.n == 1 || s.n == 512) && s.context < 32768;
            snprintf(dims, sizeof dims, "%dx128 keys=%d", heads, s.context);
            if (s.n <= s.context && s.n != 2 && s.n != 4)
                add(l, s, model, dims);
        }
}

static void add_rows(struct list *l, const char *model, int hidden, int intermediate)
{
    const struct {
        enum op_kind kind;
        int rows, cols, context;
    } ops[] = {{CASE_GATHER_ROWS, 16384, hidden, 0},
               {CASE_RMSNORM, 1, hidden, 0},
               {CASE_ADD_RMSNORM, 1, hidden, 0},
               {CASE_ROPE_KV_APPEND, hidden / 128, 128, 4096},
               {CASE_SILU_MUL, 1, intermediate, 0}};
    char dims[32];
    for (size_t k = 0; k < COUNT(ops); k++)
        for (size_t i = 0; i < COUNT(row_counts); i++) {
            struct op_shape s = {.kind = ops[k].kind,
                                 .n = row_counts[i],
                                 .rows = ops[k].rows,
                                 .cols = ops[k].cols,
                                 .context = ops[k].context};
            s.usual = model[0] == '1' && (s.n == 1 || s.n == 512);
            snprintf(dims, sizeof dims, s.context ? "%dx%d" : "%.0d%d", s.context ? s.rows : 0,
                     s.cols);
            add(l, s, model, dims);
        }
}

static void add_logits(struct list *l)
{
    for (int kind = CASE_LOG_PROBS; kind <= CASE_CHOOSE; kind++)
        for (int n = 1; n <= 8; n *= 8)
            add(l,
                (struct op_shape){.kind = kind, .n = n, .rows = 1, .cols = 128256, .usual = true},
                "logits", "128256");
}

static void add_vision(struct list *l)
{
    const struct op_shape shapes[] = {{.kind = CASE_PATCHIFY, .n = 4, .rows = 14, .cols = 560},
                                      {.kind = CASE_LAYERNORM, .n = 6432, .rows = 1, .cols = 1280},
                                      {.kind = CASE_ATTN_VISION, .n = 6432, .rows = 16, .cols = 80},
                                      {.kind = CASE_GELU, .n = 6432, .rows = 1, .cols = 5120},
                                      {.kind = CASE_ADD, .n = 6432, .rows = 1, .cols = 1280},
                                      {.kind = CASE_JOIN_STATES, .n = 4, .rows = 40, .cols = 1280}};
    static const char *const dims[] = {"560", "1280", "16x80", "5120", "1280", "1601x1280"};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        struct op_shape s = shapes[i];
        s.usual = true;
        s.phase = MLL_PREFILL;
        add(l, s, "vision", dims[i]);
    }
}

struct op_shape *op_shapes(size_t *n)
{
    struct list l = {calloc(MOST, sizeof *l.shapes), 0};
    if (l.shapes) {
        add_matmuls(&l);
        add_attention(&l, "11b", 32);
        add_attention(&l, "90b", 64);
        add_rows(&l, "11b", 4096, 14336);
        add_rows(&l, "90b", 8192, 28672);
        add_logits(&l);
        add_vision(&l);
    }
    *n = l.n;
    return l.shapes;
}
