/* test_attn.c - op_attn against softmax in double: causal, cross and ragged batches, and that a
 * row's bits depend on nothing but its own query, range and keys. */
#include <math.h>
#include <stdio.h>

#include "op_test.h"

enum layout {
    CAUSAL,  /* rows in order, one sequence after the other, each sees itself and what is before */
    DECODE,  /* one row a sequence, which sees all of it */
    SCATTER, /* rows of mixed sequences and any ranges, empty ones too */
};

static const struct attn_case {
    enum layout layout;
    int n_seqs, n, ctx; /* rows in all; keys a sequence */
    int heads, kv_heads, dim;
} cases[] = {
    {CAUSAL, 1, 1, 1, 1, 1, 1},      {CAUSAL, 1, 7, 7, 2, 1, 8},
    {CAUSAL, 2, 70, 35, 4, 2, 20},   {CAUSAL, 1, 130, 130, 4, 1, 16},
    {CAUSAL, 1, 40, 200, 8, 2, 64},  {DECODE, 3, 3, 65, 6, 2, 31},
    {DECODE, 1, 1, 300, 8, 1, 128},  {DECODE, 2, 2, 64, 5, 1, 80},
    {SCATTER, 3, 29, 150, 4, 4, 24}, {SCATTER, 2, 50, 190, 4, 2, 33},
    {SCATTER, 1, 60, 129, 3, 1, 7},  {DECODE, 1, 1, 70, 51, 1, 9},
    {CAUSAL, 1, 5, 20, 64, 1, 8},
};

/* One filled problem. Memory that no row may read holds NaN, blocks that none may touch are -1. */
struct problem {
    struct kv_pool pool;
    struct kv_table table;
    float *q, *k, *v; /* k, v (n_seqs, ctx, kv_heads, dim): what the pool holds */
    int32_t *blocks, *seq, *begin, *end;
};

static void lay_out_rows(struct problem *p, const struct attn_case *c)
{
    for (int r = 0; r < c->n; r++) {
        int per_seq = c->n / c->n_seqs;
        p->seq[r] = r / per_seq < c->n_seqs ? r / per_seq : c->n_seqs - 1;
        p->begin[r] = 0;
        p->end[r] = c->ctx;
        if (c->layout == CAUSAL)
            p->end[r] = c->ctx - (p->seq[r] + 1) * per_seq + r + 1;
        if (c->layout == SCATTER) {
            p->seq[r] = r / 5 % c->n_seqs;
            p->begin[r] = r * 37 % c->ctx;
            p->end[r] = p->begin[r] + r * 53 % (c->ctx + 1 - p->begin[r]);
        }
    }
}

static struct problem make(struct mll_exec *ex, const struct attn_case *c)
{
    size_t row = (size_t)c->kv_heads * (size_t)c->dim, keys = (size_t)(c->n_seqs * c->ctx);
    int used = (c->ctx + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK, max_blocks = used + 3;
    struct problem p = {
        .pool = {NULL, NULL, MLL_DTYPE_F32, c->n_seqs * used + 2, c->kv_heads, c->dim},
        .table = {NULL, c->n_seqs, max_blocks}};
    size_t pool = (size_t)p.pool.n_blocks * MLL_KV_BLOCK * row;
    float *nan = op_floats(pool, 1, 1), *nan2 = op_floats(pool, 1, 1);
    for (size_t i = 0; i < pool; i++)
        nan[i] = nan2[i] = NAN;
    p.pool.k = nan;
    p.pool.v = nan2;
    p.blocks = malloc((size_t)(c->n_seqs * max_blocks) * sizeof(int32_t));
    for (int i = 0; i < c->n_seqs * max_blocks; i++) {
        int s = i / max_blocks, b = i % max_blocks;
        p.blocks[i] = b < used ? b * c->n_seqs + (s + b) % c->n_seqs + 1 : -1;
    }
    p.table.blocks = p.blocks;
    p.q = op_floats((size_t)c->n * (size_t)c->heads * (size_t)c->dim, 2, 2);
    p.k = op_floats(keys * row, 3, 2);
    p.v = op_floats(keys * row, 4, 2);
    p.seq = malloc((keys + (size_t)c->n) * sizeof(int32_t));
    p.begin = malloc((keys + (size_t)c->n) * sizeof(int32_t));
    p.end = malloc((size_t)c->n * sizeof(int32_t));
    for (size_t i = 0; i < keys; i++) {
        p.seq[i] = (int32_t)(i / (size_t)c->ctx);
        p.begin[i] = (int32_t)(i % (size_t)c->ctx);
    }
    op_kv_append(ex, &p.pool, p.k, p.v, &p.table, p.seq, p.begin, (int)keys);
    cr_assert_eq(exec_take_fault(ex).op, OP_NONE);
    lay_out_rows(&p, c);
    return p;
}

static void drop(struct problem *p)
{
    free(p->pool.k);
    free(p->pool.v);
    free(p->blocks);
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->seq);
    free(p->begin);
    free(p->end);
}

static void reference(double *y, const struct problem *p, const struct attn_case *c, int r, int h,
                      double scale)
{
    int dim = c->dim, kv = h / (c->heads / c->kv_heads), n = p->end[r] - p->begin[r];
    const float *q = p->q + (r * c->heads + h) * dim;
    size_t first = (size_t)((p->seq[r] * c->ctx + p->begin[r]) * c->kv_heads + kv);
    double *s = malloc((size_t)(n + 1) * sizeof *s), max = -INFINITY, sum = 0;
    for (int j = 0; j < n; j++) {
        const float *k = p->k + (first + (size_t)(j * c->kv_heads)) * (size_t)dim;
        s[j] = 0;
        for (int d = 0; d < dim; d++)
            s[j] += (double)q[d] * (double)k[d] * scale;
        max = s[j] > max ? s[j] : max;
    }
    for (int d = 0; d < dim; d++)
        y[d] = 0;
    for (int j = 0; j < n; j++)
        sum += exp(s[j] - max);
    for (int j = 0; j < n; j++)
        for (int d = 0; d < dim; d++)
            y[d] += exp(s[j] - max) / sum *
                    (double)p->v[(first + (size_t)(j * c->kv_heads)) * (size_t)dim + (size_t)d];
    free(s);
}

static void attend(struct mll_exec *ex, float *y, const struct problem *p,
                   const struct attn_case *c, int first, int n)
{
    size_t at = (size_t)first * (size_t)c->heads * (size_t)c->dim;
    op_attn(ex, y + at, p->q + at, &p->pool, &p->table, p->seq + first, p->begin + first,
            p->end + first, n, c->heads, 0.3f);
}

static void check_case(const struct attn_case *c)
{
    size_t row = (size_t)c->heads * (size_t)c->dim, count = (size_t)c->n * row;
    float *y = op_floats(count, 9, 1), *first = NULL;
    double *expected = malloc(count * sizeof *expected);
    struct mll_exec *ex = op_exec(7, MLL_ISA_C, 0);
    size_t scratch = op_attn_scratch(ex, c->n, c->heads, c->dim);
    struct problem p = make(ex, c);
    char what[96];
    snprintf(what, sizeof what, "layout %d seqs %d n %d ctx %d heads %d/%d dim %d", c->layout,
             c->n_seqs, c->n, c->ctx, c->heads, c->kv_heads, c->dim);
    exec_close(ex);
    for (int i = 0; i < c->n * c->heads; i++)
        reference(expected + i * c->dim, &p, c, i / c->heads, i % c->heads, (double)0.3f);
    ex = NULL;
    while ((ex = op_each_exec(ex, scratch)) != NULL) {
        attend(ex, y, &p, c, 0, c->n);
        cr_expect_eq(exec_take_fault(ex).op, OP_NONE);
        op_judge(&first, y, expected, count, 1e-11, 1e-6, ex, what);
        for (int r = 0; r < c->n; r++)
            attend(ex, y, &p, c, r, 1);
        op_judge(&first, y, expected, count, 1e-11, 1e-6, ex, "each row alone");
        for (int cut = 1; cut < c->n; cut += c->n / 3 + 1) {
            attend(ex, y, &p, c, 0, cut);
            attend(ex, y, &p, c, cut, c->n - cut);
            op_judge(&first, y, expected, count, 1e-11, 1e-6, ex, "split in two");
        }
    }
    drop(&p);
    free(first);
    free(expected);
    free(y);
}

Test(op_attn, equals_softmax_and_rows_do_not_touch_each_other)
{
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        check_case(&cases[i]);
}

/* A poisoned key, or value, that only some rows see must stay out of the others. */
static void check_poisoned(bool key, bool value)
{
    static const struct attn_case c = {CAUSAL, 1, 100, 100, 4, 2, 16};
    size_t row = 4 * 16, count = 100 * row;
    float *y = op_floats(count, 9, 1), *clean = op_floats(count, 9, 1);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
        struct problem p = make(ex, &c);
        int32_t seq = 0, pos = 70;
        attend(ex, clean, &p, &c, 0, 100);
        float *nan = op_floats(2 * 16, 1, 1);
        for (int i = 0; i < 2 * 16; i++)
            nan[i] = NAN;
        op_kv_append(ex, &p.pool, key ? nan : p.k, value ? nan : p.v, &p.table, &seq, &pos, 1);
        attend(ex, y, &p, &c, 0, 100);
        cr_expect_eq(op_first_difference(y, clean, 70 * row), 70 * row, "%s", exec_describe(ex));
        for (size_t i = 70 * row; i < count; i++)
            cr_assert(isnan(y[i]), "%s: element %zu is %g", exec_describe(ex), i, (double)y[i]);
        free(nan);
        drop(&p);
    }
    free(y);
    free(clean);
}

Test(op_attn, a_nan_reaches_only_the_rows_that_see_it)
{
    check_poisoned(true, false);
    check_poisoned(false, true);
}

/* Blocks outside [begin, end) may be anything: here, places that would crash. */
Test(op_attn, only_the_blocks_of_the_range_are_read)
{
    static const struct attn_case c = {CAUSAL, 1, 6, 70, 4, 2, 16};
    float *y = op_floats(6 * 4 * 16, 9, 1), *expected = op_floats(6 * 4 * 16, 9, 1);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
        struct problem p = make(ex, &c);
        for (int r = 0; r < 6; r++) {
            p.begin[r] = 35 + r % 2;
            p.end[r] = 47;
        }
        attend(ex, expected, &p, &c, 0, 6);
        p.blocks[0] = p.blocks[1] = p.blocks[3] = p.blocks[4] = INT32_MAX;
        for (int n = 1; n <= 6; n += 5) {
            attend(ex, y, &p, &c, 0, n);
            cr_expect_eq(exec_take_fault(ex).op, OP_NONE);
            cr_expect_eq(op_first_difference(y, expected, (size_t)(n * 64)), (size_t)(n * 64));
        }
        drop(&p);
    }
    free(y);
    free(expected);
}

static void expect_fault(struct mll_exec *ex, const struct problem *p, const struct attn_case *c,
                         const float *good, int bad_row, int64_t position, int64_t index,
                         int64_t bound)
{
    size_t row = (size_t)c->heads * (size_t)c->dim;
    float *y = op_floats((size_t)c->n * row, 9, 1);
    attend(ex, y, p, c, 0, c->n);
    struct mll_fault fault = exec_take_fault(ex);
    cr_expect(fault.op == OP_ATTN && fault.position == position && fault.index == index &&
                  fault.bound == bound,
              "%s: op %d at %lld: %lld of %lld", exec_describe(ex), (int)fault.op,
              (long long)fault.position, (long long)fault.index, (long long)fault.bound);
    for (int r = 0; r < c->n; r++)
        for (size_t i = (size_t)r * row; i < (size_t)(r + 1) * row; i++)
            cr_assert(r == bad_row ? y[i] == 0 : memcmp(&y[i], &good[i], sizeof y[i]) == 0,
                      "%s: row %d", exec_describe(ex), r);
    free(y);
}

Test(op_attn, an_index_out_of_range_is_recorded_and_gives_a_zero_row)
{
    static const struct attn_case c = {CAUSAL, 2, 8, 40, 4, 2, 12};
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
        struct problem p = make(ex, &c);
        float *good = op_floats(8 * 4 * 12, 1, 1);
        int n_pos = p.table.max_blocks * MLL_KV_BLOCK;
        attend(ex, good, &p, &c, 0, 8);
        p.seq[2] = 2;
        expect_fault(ex, &p, &c, good, 2, 2, 2, 2);
        p.seq[2] = -1;
        expect_fault(ex, &p, &c, good, 2, 2, -1, 2);
        p.seq[2] = 0;
        p.begin[4] = -3;
        expect_fault(ex, &p, &c, good, 4, 4, -3, n_pos);
        p.begin[4] = 0;
        int32_t end = p.end[0];
        p.end[0] = n_pos + 1;
        expect_fault(ex, &p, &c, good, 0, 0, n_pos + 1, n_pos);
        p.end[0] = 49; /* one beyond the blocks that sequence 0 owns: entry 3 is -1 */
        expect_fault(ex, &p, &c, good, 0, 3, -1, p.pool.n_blocks);
        p.end[0] = end;
        free(good);
        drop(&p);
    }
}
