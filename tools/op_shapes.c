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
        int rows, cols;                    /* out and in features */
        int more[MLL_MATMUL_GROUP - 1], n; /* n: the only number of rows; 0: any */
    } matrices[] = {{"11b.q", 4096, 4096, {0}, 0},
                    {"11b.kv", 1024, 4096, {0}, 0},
                    {"11b.gate", 14336, 4096, {0}, 0},
                    {"11b.down", 4096, 14336, {0}, 0},
                    {"11b.head", 128256, 4096, {0}, 0},
                    {"90b.q", 8192, 8192, {0}, 0},
                    {"90b.kv", 1024, 8192, {0}, 0},
                    {"90b.gate", 28672, 8192, {0}, 0},
                    {"90b.down", 8192, 28672, {0}, 0},
                    {"11b.qkv", 4096, 4096, {1024, 1024}, 0},
                    {"11b.gate_up", 14336, 4096, {14336}, 0},
                    {"11b.cross_kv", 1024, 4096, {1024}, 1601},
                    {"90b.qkv", 8192, 8192, {1024, 1024}, 0},
                    {"90b.gate_up", 28672, 8192, {28672}, 0},
                    {"90b.cross_kv", 1024, 8192, {1024}, 1601},
                    {"vision.patches", 1280, 588, {0}, 6400},
                    {"vision.qkvo", 1280, 1280, {0}, 6432},
                    {"vision.qkv", 1280, 1280, {1280, 1280}, 6432},
                    {"vision.fc1", 5120, 1280, {0}, 6432},
                    {"vision.fc2", 1280, 5120, {0}, 6432},
                    {"vision.projector", 4096, 7680, {0}, 6432}};
    static const char *const quants[] = {"bf16", "nf4", "nf4-dq", "int8"};
    char dims[32];
    for (size_t m = 0; m < COUNT(matrices); m++)
        for (size_t q = 0; q < COUNT(quants); q++)
            for (size_t i = 0; i < COUNT(row_counts); i++) {
                bool fixed = matrices[m].n > 0, group = matrices[m].more[0] > 0;
                int n = fixed ? matrices[m].n : row_counts[i];
                bool convolution = matrices[m].cols % 64 != 0; /* stays in 16 bits */
                if ((fixed && i > 0) || (matrices[m].rows > 100000 && n > 8) ||
                    (!fixed && group && !is_usual_count(n)) || (convolution && q > 0))
                    continue;
                struct op_shape s = {.op = group ? "matmul_group" : "matmul",
                                     .n = n,
                                     .rows = matrices[m].rows,
                                     .cols = matrices[m].cols,
                                     .quant = quants[q],
                                     .phase = n <= 8 ? MLL_DECODE : MLL_PREFILL};
                memcpy(s.more, matrices[m].more, sizeof s.more);
                s.usual = matrices[m].name[0] != '9' && (fixed ? q == 0 : is_usual_count(n));
                snprintf(dims, sizeof dims, "%dx%d", s.rows + s.more[0] + s.more[1], s.cols);
                add(l, s, matrices[m].name, dims);
            }
}

static void add_attention(struct list *l, const char *model, int heads)
{
    static const int contexts[] = {512, 4096, 6404, 32768};
    char dims[40];
    for (size_t c = 0; c < COUNT(contexts); c++)
        for (size_t i = 0; i < COUNT(row_counts); i++) {
            struct op_shape s = {.op = "attn",
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

/* Rows of the decoder; heads are hidden / 128. */
static void add_rows(struct list *l, const char *model, int hidden, int intermediate)
{
    const struct op_shape ops[] = {
        {.op = "gather_rows", .rows = 16384, .cols = hidden},
        {.op = "take_rows", .rows = 1, .cols = hidden},
        {.op = "rmsnorm", .rows = 1, .cols = hidden},
        {.op = "add_gated", .rows = 1, .cols = hidden},
        {.op = "add_rmsnorm", .rows = 1, .cols = hidden},
        {.op = "rope", .rows = hidden / 128, .cols = 128, .context = 4096},
        {.op = "rope_kv_append", .rows = hidden / 128, .cols = 128, .context = 4096},
        {.op = "silu_mul", .rows = 1, .cols = intermediate}};
    char dims[32];
    for (size_t k = 0; k < COUNT(ops); k++)
        for (size_t i = 0; i < COUNT(row_counts); i++) {
            struct op_shape s = ops[k];
            s.n = row_counts[i];
            s.usual = model[0] == '1' && (s.n == 1 || s.n == 512);
            snprintf(dims, sizeof dims, s.context ? "%dx%d" : "%.0d%d", s.context ? s.rows : 0,
                     s.cols);
            add(l, s, model, dims);
        }
}

/* The same keys in both models. */
static void add_appends(struct list *l)
{
    for (size_t i = 0; i < COUNT(row_counts); i++)
        add(l,
            (struct op_shape){
                .op = "kv_append", .n = row_counts[i], .rows = 8, .cols = 128, .context = 4096},
            "text", "8x128");
}

static void add_logits(struct list *l)
{
    static const char *const ops[] = {"hash_rows", "log_probs", "process",
                                      "choose",    "warp",      "draw"};
    for (size_t i = 0; i < COUNT(ops); i++)
        for (int n = 1; n <= 8; n *= 8)
            add(l,
                (struct op_shape){.op = ops[i], .n = n, .rows = 1, .cols = 128256, .usual = true},
                "logits", "128256");
}

/* An image of four tiles in the tower, which both models share, and what a tile leaves to the
 * decoder's cross layers. */
static void add_vision(struct list *l)
{
    static const struct {
        struct op_shape s;
        const char *dims;
    } shapes[] = {
        {{.op = "patchify", .n = 4, .rows = 14, .cols = 560}, "560"},
        {{.op = "add_tile_embedding", .n = 4, .rows = 40, .cols = 1280}, "1608x1280"},
        {{.op = "add_position_embedding", .n = 4, .rows = 40, .cols = 1280}, "1601x1280"},
        {{.op = "class_and_pad", .n = 4, .rows = 40, .cols = 1280}, "1608x1280"},
        {{.op = "layernorm", .n = 6432, .rows = 1, .cols = 1280}, "1280"},
        {{.op = "attn_vision", .n = 6432, .rows = 16, .cols = 80}, "16x80"},
        {{.op = "matmul_gelu", .n = 6432, .rows = 5120, .cols = 1280, .quant = "bf16"},
         "5120x1280"},
        {{.op = "matmul_add", .n = 6432, .rows = 1280, .cols = 1280, .quant = "bf16"}, "1280x1280"},
        {{.op = "matmul_add", .n = 6432, .rows = 1280, .cols = 5120, .quant = "bf16"}, "1280x5120"},
        {{.op = "gelu", .n = 6432, .rows = 1, .cols = 5120}, "5120"},
        {{.op = "add", .n = 6432, .rows = 1, .cols = 1280}, "1280"},
        {{.op = "add_gated", .n = 6432, .rows = 1, .cols = 1280}, "1280"},
        {{.op = "join_states", .n = 4, .rows = 40, .cols = 1280}, "1601x1280"},
        {{.op = "rmsnorm", .n = 1601 * 8, .rows = 1, .cols = 128}, "cross 128"},
        {{.op = "kv_append", .n = 1601, .rows = 8, .cols = 128, .context = 16}, "cross 8x128"}};
    for (size_t i = 0; i < COUNT(shapes); i++) {
        struct op_shape s = shapes[i].s;
        s.usual = true;
        s.phase = MLL_PREFILL;
        add(l, s, "vision", shapes[i].dims);
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
        add_appends(&l);
        add_logits(&l);
        add_vision(&l);
    }
    *n = l.n;
    return l.shapes;
}
