/* test_bench_case.c - bench ops has every op, and checks what it times: each op at small shapes,
 * each in a form that does nothing, and some that lie. */
#include "backend.h"
#include "bench_case.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static int calls;

/* Wrong in one element of the last row, by a little. */
static void wrong_matmul(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                         const struct mat *bias, int n)
{
    calls++;
    matmul_cpu(ex, y, x, w, bias, n);
    y[(size_t)n * (size_t)w->rows - 1] *= 1.0f + 0x1p-20f;
}

static void not_a_number(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                         const struct mat *bias, int n)
{
    calls++;
    matmul_cpu(ex, y, x, w, bias, n);
    y[0] = NAN;
}

/* On the CPU with that table, or on the device that the test was built for. */
static enum mll_status run(struct bench_case *b, const struct op_shape *shape,
                           const struct op_table *table, struct mll_error *err)
{
    static double times[8];
    struct mll_exec *ex;
    *b = (struct bench_case){.most = 2, .least = 2, .cold = times, .warm = times + 4};
    calls = 0;
#ifdef MLL_SHIM
    if (table == NULL) {
        const struct exec_cuda_options options = {.threads = 2};
        b->tolerance = 5e-3;
        b->most = b->least = 1;
        cr_assert_eq(exec_open_cuda(&ex, &options, 0, err), MLL_OK, "%s", err->message);
    } else
#endif
        cr_assert_eq(exec_open_cpu(&ex, 2, MLL_ISA_AUTO, MLL_COMPUTE_F32, 0, err), MLL_OK);
    if (table)
        ex->ops = table;
    enum mll_status status = bench_case_run(b, ex, shape, err);
    exec_close(ex);
    return status;
}

static const struct op_shape matmul = {
    .op = "matmul", .n = 5, .rows = 48, .cols = 64, .quant = "bf16", .name = "small"};

static void expect_caught(void (*op)(struct mll_exec *, float *, const float *, const struct mat *,
                                     const struct mat *, int))
{
    struct mll_error err;
    struct bench_case b;
    struct op_table table = op_table_cpu;
    table.matmul = op;
    cr_assert_eq(run(&b, &matmul, &table, &err), MLL_ERR_INTERNAL);
    cr_assert(strstr(err.message, "matmul small differs"), "%s", err.message);
    cr_assert_eq(calls, 1, "%d calls", calls);
    cr_assert_eq(b.n_cold, 0);
}

Test(bench_case, a_wrong_result_is_caught_before_timing)
{
    expect_caught(wrong_matmul);
}

Test(bench_case, nan_is_caught)
{
    expect_caught(not_a_number);
}

static const struct op_shape small[] = {
    {.op = "matmul", .n = 5, .rows = 48, .cols = 64, .quant = "bf16"},
    {.op = "matmul", .n = 9, .rows = 64, .cols = 128, .quant = "nf4-dq"},
    {.op = "matmul", .n = 1, .rows = 64, .cols = 128, .quant = "int8"},
    {.op = "matmul_gelu", .n = 5, .rows = 48, .cols = 64, .quant = "bf16"},
    {.op = "matmul_add", .n = 5, .rows = 48, .cols = 64, .quant = "bf16"},
    {.op = "matmul_group", .n = 5, .rows = 48, .cols = 64, .more = {16}, .quant = "nf4"},
    {.op = "matmul_group", .n = 9, .rows = 16, .cols = 64, .more = {32, 48}, .quant = "bf16"},
    {.op = "attn", .n = 3, .rows = 16, .cols = 32, .context = 70},
    {.op = "attn_vision", .n = 75, .rows = 2, .cols = 20},
    {.op = "rope", .n = 4, .rows = 8, .cols = 16, .context = 20},
    {.op = "kv_append", .n = 5, .rows = 8, .cols = 16, .context = 20},
    {.op = "rope_kv_append", .n = 4, .rows = 8, .cols = 16, .context = 20},
    {.op = "gather_rows", .n = 6, .rows = 100, .cols = 24},
    {.op = "take_rows", .n = 6, .rows = 1, .cols = 24},
    {.op = "rmsnorm", .n = 5, .rows = 1, .cols = 33},
    {.op = "add_rmsnorm", .n = 5, .rows = 1, .cols = 33},
    {.op = "add_gated", .n = 5, .rows = 1, .cols = 33},
    {.op = "layernorm", .n = 5, .rows = 1, .cols = 33},
    {.op = "silu_mul", .n = 5, .rows = 1, .cols = 33},
    {.op = "gelu", .n = 5, .rows = 1, .cols = 33},
    {.op = "add", .n = 5, .rows = 1, .cols = 33},
    {.op = "patchify", .n = 2, .rows = 7, .cols = 28},
    {.op = "add_tile_embedding", .n = 2, .rows = 3, .cols = 10},
    {.op = "add_position_embedding", .n = 2, .rows = 3, .cols = 10},
    {.op = "class_and_pad", .n = 2, .rows = 3, .cols = 10},
    {.op = "join_states", .n = 2, .rows = 3, .cols = 10},
    {.op = "hash_rows", .n = 3, .rows = 1, .cols = 1000},
    {.op = "log_probs", .n = 3, .rows = 1, .cols = 1000},
    {.op = "process", .n = 3, .rows = 1, .cols = 1000},
    {.op = "choose", .n = 3, .rows = 1, .cols = 1000},
    {.op = "warp", .n = 3, .rows = 1, .cols = 1000},
    {.op = "draw", .n = 5, .rows = 1, .cols = 1000}};

Test(bench_case, every_op_agrees_with_its_plain_form)
{
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        struct mll_error err;
        struct bench_case b;
        cr_assert_eq(run(&b, &small[i], NULL, &err), MLL_OK, "%s: %s", small[i].op, err.message);
        cr_assert_eq(b.n_cold, (size_t)b.most);
    }
}

#ifndef MLL_SHIM /* on the CPU alone */
/* Keys where values belong; these are right. */
static void append_values(struct mll_exec *ex, struct kv_pool *pool, const float *k, const float *v,
                          const struct kv_table *table, const int32_t *seq, const int32_t *pos,
                          int n)
{
    (void)k;
    kv_append_cpu(ex, pool, v, v, table, seq, pos, n);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#define X(op, ...)                                        \
    static void no_##op(struct mll_exec *ex, __VA_ARGS__) \
    {                                                     \
    }
MLL_OP_LIST(X)
#undef X
#pragma GCC diagnostic pop

/* The CPU's ops but one, which does nothing. */
static struct op_table table_without(const char *name)
{
    struct op_table table = op_table_cpu;
#define X(op, ...)              \
    if (strcmp(name, #op) == 0) \
        table.op = no_##op;
    MLL_OP_LIST(X)
#undef X
    return table;
}

Test(bench_case, an_op_that_does_nothing_is_caught)
{
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        struct mll_error err;
        struct bench_case b;
        struct op_table table = table_without(small[i].op);
        cr_expect_eq(run(&b, &small[i], &table, &err), MLL_ERR_INTERNAL, "%s", small[i].op);
    }
}

Test(bench_case, stored_keys_are_looked_at)
{
    struct mll_error err;
    struct bench_case b;
    struct op_table table = op_table_cpu;
    table.kv_append = append_values;
    for (size_t i = 0; i < sizeof small / sizeof *small; i++)
        if (strcmp(small[i].op, "kv_append") == 0)
            cr_expect_eq(run(&b, &small[i], &table, &err), MLL_ERR_INTERNAL);
}

#endif

/* How many of the shapes are of that op. */
static size_t count(const struct op_shape *shapes, size_t n, const char *op)
{
    size_t found = 0;
    for (size_t i = 0; i < n; i++)
        found += strcmp(shapes[i].op, op) == 0;
    return found;
}

Test(bench_case, every_op_of_the_contract_has_shapes)
{
    static const char *const ops[] = {
#define X(op, ...) #op,
        MLL_OP_LIST(X)
#undef X
    };
    size_t n, n_ops = sizeof ops / sizeof *ops;
    struct op_shape *shapes = op_shapes(&n);
    for (size_t i = 0; i < n_ops; i++) {
        cr_expect(count(shapes, n, ops[i]) > 0, "bench ops has no row for op_%s", ops[i]);
        cr_expect(count(small, sizeof small / sizeof *small, ops[i]) > 0, "%s is not tested",
                  ops[i]);
    }
    cr_assert_null(op_case_name(n_ops), "a row that is no op: %s", op_case_name(n_ops));
    free(shapes);
}

Test(bench_case, shapes_are_those_of_the_models)
{
    size_t n, usual = 0;
    struct op_shape *shapes = op_shapes(&n);
    for (size_t i = 0; i < n; i++) {
        usual += shapes[i].usual;
        for (size_t j = 0; j < i; j++)
            cr_assert(strcmp(shapes[i].op, shapes[j].op) || strcmp(shapes[i].name, shapes[j].name),
                      "%s %s twice", shapes[i].op, shapes[i].name);
    }
    cr_assert(usual > 50 && usual < n / 2, "%zu of %zu", usual, n);
    free(shapes);
}
