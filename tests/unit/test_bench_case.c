/* test_bench_case.c - bench ops checks what it times: every op at small shapes, and one that lies.
 */
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

static enum mll_status run(struct bench_case *b, const struct op_shape *shape,
                           const struct op_table *table, struct mll_error *err)
{
    static double times[8];
    struct mll_exec *ex;
    *b = (struct bench_case){.most = 2, .least = 2, .cold = times, .warm = times + 4};
    calls = 0;
    cr_assert_eq(exec_open_cpu(&ex, 2, MLL_ISA_AUTO, false, 0, err), MLL_OK);
    if (table)
        ex->ops = table;
    enum mll_status status = bench_case_run(b, ex, shape, err);
    exec_close(ex);
    return status;
}

static const struct op_shape matmul = {
    .kind = CASE_MATMUL, .n = 5, .rows = 48, .cols = 64, .quant = "bf16", .name = "small"};

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

Test(bench_case, every_op_is_equal_to_its_plain_form)
{
    const struct op_shape shapes[] = {
        matmul,
        {.kind = CASE_MATMUL, .n = 9, .rows = 64, .cols = 128, .quant = "nf4-dq"},
        {.kind = CASE_MATMUL, .n = 1, .rows = 64, .cols = 128, .quant = "int8"},
        {.kind = CASE_ATTN, .n = 3, .rows = 16, .cols = 32, .context = 70},
        {.kind = CASE_ATTN_VISION, .n = 75, .rows = 2, .cols = 20},
        {.kind = CASE_ROPE_KV_APPEND, .n = 4, .rows = 8, .cols = 16, .context = 20},
        {.kind = CASE_GATHER_ROWS, .n = 6, .rows = 100, .cols = 24},
        {.kind = CASE_RMSNORM, .n = 5, .rows = 1, .cols = 33},
        {.kind = CASE_ADD_RMSNORM, .n = 5, .rows = 1, .cols = 33},
        {.kind = CASE_LAYERNORM, .n = 5, .rows = 1, .cols = 33},
        {.kind = CASE_SILU_MUL, .n = 5, .rows = 1, .cols = 33},
        {.kind = CASE_GELU, .n = 5, .rows = 1, .cols = 33},
        {.kind = CASE_ADD, .n = 5, .rows = 1, .cols = 33},
        {.kind = CASE_LOG_PROBS, .n = 3, .rows = 1, .cols = 1000},
        {.kind = CASE_CHOOSE, .n = 3, .rows = 1, .cols = 1000},
        {.kind = CASE_PATCHIFY, .n = 2, .rows = 7, .cols = 28},
        {.kind = CASE_JOIN_STATES, .n = 2, .rows = 3, .cols = 10}};
    unsigned seen = 0;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct mll_error err;
        struct bench_case b;
        cr_assert_eq(run(&b, &shapes[i], NULL, &err), MLL_OK, "%s: %s",
                     op_case_name(shapes[i].kind), err.message);
        cr_assert_eq(b.n_cold, 2);
        seen |= 1u << shapes[i].kind;
    }
    cr_assert_eq(seen, (1u << CASE_COUNT) - 1);
}

Test(bench_case, shapes_are_those_of_the_models)
{
    size_t n, usual = 0;
    struct op_shape *shapes = op_shapes(&n);
    unsigned seen = 0;
    for (size_t i = 0; i < n; i++) {
        seen |= 1u << shapes[i].kind;
        usual += shapes[i].usual;
        for (size_t j = 0; j < i; j++)
            cr_assert(shapes[i].kind != shapes[j].kind || strcmp(shapes[i].name, shapes[j].name),
                      "%s twice", shapes[i].name);
    }
    cr_assert_eq(seen, (1u << CASE_COUNT) - 1);
    cr_assert(usual > 50 && usual < n / 2, "%zu of %zu", usual, n);
    free(shapes);
}
