/* test_attn_narrow.c - KV pools of fp16 and int8 on the CPU: attention over them is attention over
 * float32 pools of the rounded values, bit by bit. */
#include <math.h>

#include "op_test.h"

enum { KEYS = 150, HEADS = 6, KV_HEADS = 2, ROWS = 7, BLOCKS = (KEYS + MLL_KV_BLOCK - 1) / 16 };

struct fixture {
    int32_t blocks[BLOCKS], seq[KEYS], pos[KEYS], begin[ROWS], end[ROWS];
    float *k, *v, *q;
    int dim;
};

static void open_fixture(struct fixture *f, int dim)
{
    size_t n = (size_t)KEYS * KV_HEADS * (size_t)dim;
    *f = (struct fixture){.k = op_floats(n, 1, 3), .v = op_floats(n, 2, 5), .dim = dim};
    f->q = op_floats((size_t)ROWS * HEADS * (size_t)dim, 3, 1);
    for (int i = 0; i < BLOCKS; i++)
        f->blocks[i] = (i * 7 + 3) % BLOCKS; /* out of order: BLOCKS is no multiple of 7 */
    for (int i = 0; i < KEYS; i++)
        f->pos[i] = i;
    for (int r = 0; r < ROWS; r++) {
        f->begin[r] = r * 9;
        f->end[r] = KEYS - 5 * r;
    }
}

static void close_fixture(struct fixture *f)
{
    free(f->k);
    free(f->v);
    free(f->q);
}

/* What a pool of that type holds of one head's row: ops.h. */
static void round_row(float *x, int dim, enum mll_dtype dtype)
{
    float max = 0, scale = 1;
    int exponent;
    for (int d = 0; d < dim; d++)
        max = fabsf(x[d]) > max ? fabsf(x[d]) : max;
    frexpf(max, &exponent);
    if (max >= 0x1p15f || max < 0x1p-8f)
        scale = max == 0 ? 1 : ldexpf(1, exponent - 15);
    for (int d = 0; d < dim; d++)
        x[d] = dtype == MLL_DTYPE_F16 ? f16_to_f32(f16_from_f32(x[d] / scale)) * scale
               : max > 0              ? rintf(x[d] * (127 / max)) * (max / 127)
                                      : 0;
}

static float *attend(struct mll_exec *ex, const struct fixture *f, enum mll_dtype dtype,
                     const float *k, const float *v, int rows)
{
    size_t bytes = BLOCKS * KV_HEADS * kv_block_bytes(dtype, f->dim);
    struct kv_pool pool = {calloc(1, bytes), calloc(1, bytes), dtype, BLOCKS, KV_HEADS, f->dim};
    struct kv_table table = {f->blocks, 1, BLOCKS};
    float *y = op_floats((size_t)ROWS * HEADS * (size_t)f->dim, 4, 1);
    op_kv_append(ex, &pool, k, v, &table, f->seq, f->pos, KEYS);
    op_attn(ex, y, f->q, &pool, &table, f->seq, f->begin, f->end, rows, HEADS, 0.3f);
    cr_expect_eq(exec_take_fault(ex).op, OP_NONE);
    free(pool.k);
    free(pool.v);
    return y;
}

static void check(struct mll_exec *ex, int dim, enum mll_dtype dtype, int rows)
{
    struct fixture f, rounded;
    struct mll_error err;
    size_t n = (size_t)rows * HEADS * (size_t)dim;
    open_fixture(&f, dim);
    open_fixture(&rounded, dim);
    memset(f.k, 0, (size_t)dim * sizeof *f.k); /* a row of zeros has no scale */
    memset(rounded.k, 0, (size_t)dim * sizeof *f.k);
    for (int d = 0; d < dim; d++) { /* nor would these fit fp16 */
        f.v[9 * dim + d] *= 1e6f;
        rounded.v[9 * dim + d] *= 1e6f;
        f.k[7 * dim + d] *= 1e-5f;
        rounded.k[7 * dim + d] *= 1e-5f;
    }
    for (int i = 0; i < KEYS * KV_HEADS; i++) {
        round_row(rounded.k + i * dim, dim, dtype);
        round_row(rounded.v + i * dim, dim, dtype);
    }
    cr_assert_eq(exec_set_kv_dtype(ex, dtype, &err), MLL_OK, "%s", err.message);
    float *y = attend(ex, &f, dtype, f.k, f.v, rows);
    float *expected = attend(ex, &f, MLL_DTYPE_F32, rounded.k, rounded.v, rows);
    size_t at = op_first_difference(y, expected, n);
    cr_expect_eq(at, n, "%s, dim %d, %s: element %zu is %a, not %a", exec_describe(ex), dim,
                 dtype == MLL_DTYPE_F16 ? "fp16" : "int8", at, (double)y[at], (double)expected[at]);
    free(y);
    free(expected);
    close_fixture(&f);
    close_fixture(&rounded);
}

Test(op_attn, narrow_pools_are_pools_of_rounded_values)
{
    static const int dims[] = {4, 20, 64, 128};
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 22)) != NULL)
        for (int i = 0; i < 4 && strncmp(exec_describe(ex), "cpu", 3) == 0; i++) {
            check(ex, dims[i], MLL_DTYPE_F16, ROWS);
            check(ex, dims[i], MLL_DTYPE_I8, ROWS);
            check(ex, dims[i], MLL_DTYPE_F16, 1);
            check(ex, dims[i], MLL_DTYPE_I8, 1);
        }
}

Test(exec_set_kv_dtype, refuses_what_there_is_not)
{
    struct mll_error err;
    struct mll_exec *ex = op_exec(1, MLL_ISA_C, 0);
    cr_expect_eq(exec_set_kv_dtype(ex, MLL_DTYPE_BF16, &err), MLL_ERR_BAD_OPTION);
    cr_expect_eq(exec_kv_dtype(ex), MLL_DTYPE_F32);
    exec_close(ex);
}
