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
    {CAUSAL, 1, 5, 20, 64, 1, 8},    {CAUSAL, 2, 54, 90, 8, 2, 128},
    {SCATTER, 3, 40, 600, 8, 1, 40}, {DECODE, 2, 2, 900, 16, 2, 128},
    {CAUSAL, 1, 20, 48, 4, 2, 16},
};

/* These also with keys and values from 2^-30 to 2^20, each row its own. */
static const struct attn_case wide_cases[] = {{CAUSAL, 2, 54, 90, 8, 2, 128},
                                              {SCATTER, 2, 50, 190, 4, 2, 20}};

/* On a GPU q, k, p and v are fp16: each is off by 2^-12 of itself, uniformly up to twice that, NMSE
 * 2e-8. That of p and v is the result's; a score, here up to 18, is off by 8e-4 (q, k in [-2, 2],
 * 128 products times 0.3), p by as much of itself: NMSE 7e-7. With int8 p times v's scale is. */
#define CUDA_NMSE 1e-6

/* Whether this exec can: a GPU's heads have a multiple of 8 elements, at most 128. */
static bool can(const struct mll_exec *ex, const struct attn_case *c)
{
    return !op_is_cuda(ex) || c->dim <= 128;
}

/* What int8 memory holds of a row; see ops.h. */
static void round_row(float *x, int dim)
{
    float max = 0;
    for (int d = 0; d < dim; d++)
        max = fabsf(x[d]) > max ? fabsf(x[d]) : max;
    for (int d = 0; d < dim && max > 0; d++)
        x[d] = rintf(x[d] * (127 / max)) * (max / 127);
}

/* Rows of magnitudes that fp16 does not have beside each other; scores stay moderate, for q is
 * small. */
static void widen_range(float *x, size_t rows, int dim, const float factors[4])
{
    for (size_t r = 0; r < rows; r++)
        for (int d = 0; d < dim; d++)
            x[r * (size_t)dim + (size_t)d] *= factors[(r ^ r / 32) % 4];
}

/* One filled problem. Memory that no row may read holds NaN, blocks that none may touch are -1. */
struct problem {
    struct kv_pool pool; /* the device's */
    int n_seqs, max_blocks;
    float *q, *k, *v; /* k, v (n_seqs, ctx, kv_heads, dim): what the pool holds */
    int32_t *blocks, *seq, *begin, *end;
    void *nan_k, *nan_v; /* the pool on the CPU */
    size_t mark;
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

/* Stores n keys and values of k and v (n, kv_heads, dim) at pos of seq. */
static void append(struct mll_exec *ex, struct problem *p, const float *k, const float *v,
                   const int32_t *seq, const int32_t *pos, int n)
{
    size_t mark = exec_mark(ex), ints = (size_t)n * sizeof *seq;
    size_t bytes = (size_t)(n * p->pool.n_kv_heads * p->pool.head_dim) * sizeof *k;
    struct kv_table table = {
        op_dev(ex, p->blocks, (size_t)(p->n_seqs * p->max_blocks) * sizeof *p->blocks), p->n_seqs,
        p->max_blocks};
    op_kv_append(ex, &p->pool, op_dev(ex, k, bytes), op_dev(ex, v, bytes), &table,
                 op_dev(ex, seq, ints), op_dev(ex, pos, ints), n);
    cr_assert_eq(exec_take_fault(ex).op, OP_NONE);
    exec_release(ex, mark);
}

static struct problem make_rows(struct mll_exec *ex, const struct attn_case *c, bool wide)
{
    size_t row = (size_t)c->kv_heads * (size_t)c->dim, keys = (size_t)(c->n_seqs * c->ctx);
    int used = (c->ctx + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK;
    int max_blocks =
        c->ctx % MLL_KV_BLOCK == 0 ? used : used + 3; /* whole ones end with the table */
    struct problem p = {.pool = {.dtype = exec_kv_dtype(ex),
                                 .n_blocks = c->n_seqs * used + 2,
                                 .n_kv_heads = c->kv_heads,
                                 .head_dim = c->dim},
                        .n_seqs = c->n_seqs,
                        .max_blocks = max_blocks,
                        .mark = exec_mark(ex)};
    size_t pool = (size_t)(p.pool.n_blocks * c->kv_heads) * kv_block_bytes(p.pool.dtype, c->dim);
    p.nan_k = malloc(pool);
    p.nan_v = malloc(pool);
    memset(p.nan_k, 0xff, pool); /* NaN, as float32 and as fp16 */
    memset(p.nan_v, 0xff, pool);
    p.pool.k = op_dev(ex, p.nan_k, pool);
    p.pool.v = op_dev(ex, p.nan_v, pool);
    p.blocks = malloc((size_t)(c->n_seqs * max_blocks) * sizeof(int32_t));
    for (int i = 0; i < c->n_seqs * max_blocks; i++) {
        int s = i / max_blocks, b = i % max_blocks;
        p.blocks[i] = b < used ? b * c->n_seqs + (s + b) % c->n_seqs + 1 : -1;
    }
    p.q = op_floats((size_t)c->n * (size_t)c->heads * (size_t)c->dim, 2, 2);
    p.k = op_floats(keys * row, 3, 2);
    p.v = op_floats(keys * row, 4, 2);
    if (wide) {
        widen_range(p.q, (size_t)(c->n * c->heads), c->dim, (float[]){0x1p-20f, 0x1p-20f, 0, 1});
        widen_range(p.k, keys * (size_t)c->kv_heads, c->dim, (float[]){1, 0x1p20f, 0x1p-30f, 9});
        widen_range(p.v, keys * (size_t)c->kv_heads, c->dim, (float[]){0x1p20f, 0x1p-30f, 1, 0});
    }
    p.seq = malloc((keys + (size_t)c->n) * sizeof(int32_t));
    p.begin = malloc((keys + (size_t)c->n) * sizeof(int32_t));
    p.end = malloc((size_t)c->n * sizeof(int32_t));
    for (size_t i = 0; i < keys; i++) {
        p.seq[i] = (int32_t)(i / (size_t)c->ctx);
        p.begin[i] = (int32_t)(i % (size_t)c->ctx);
    }
    append(ex, &p, p.k, p.v, p.seq, p.begin, (int)keys);
    for (size_t i = 0; exec_kv_dtype(ex) == MLL_DTYPE_I8 && i < keys * (size_t)c->kv_heads; i++) {
        round_row(p.k + i * (size_t)c->dim, c->dim);
        round_row(p.v + i * (size_t)c->dim, c->dim);
    }
    lay_out_rows(&p, c);
    return p;
}

static struct problem make(struct mll_exec *ex, const struct attn_case *c)
{
    return make_rows(ex, c, false);
}

static void drop(struct mll_exec *ex, struct problem *p)
{
    exec_release(ex, p->mark);
    free(p->nan_k);
    free(p->nan_v);
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
    size_t mark = exec_mark(ex), row = (size_t)c->heads * (size_t)c->dim;
    size_t bytes = (size_t)n * row * sizeof *y, ints = (size_t)n * sizeof *p->seq;
    float *y_on = op_dev(ex, y + (size_t)first * row, bytes);
    const float *q_on = op_dev(ex, p->q + (size_t)first * row, bytes);
    const int32_t *seq = op_dev(ex, p->seq + first, ints);
    const int32_t *begin = op_dev(ex, p->begin + first, ints);
    const int32_t *end = op_dev(ex, p->end + first, ints);
    struct kv_table table = {
        op_dev(ex, p->blocks, (size_t)(p->n_seqs * p->max_blocks) * sizeof *p->blocks), p->n_seqs,
        p->max_blocks};
    size_t peak = exec_peak(ex), scratch = op_attn_scratch(ex, n, c->heads, c->dim);
    size_t most = exec_mark(ex) + scratch;
    op_attn(ex, y_on, q_on, &p->pool, &table, seq, begin, end, n, c->heads, 0.3f);
    cr_expect(exec_peak(ex) <= (peak > most ? peak : most), "%s: more than %zu bytes of scratch",
              exec_describe(ex), scratch);
    op_back(ex, y + (size_t)first * row, y_on, bytes);
    exec_release(ex, mark);
}

/* Prompt rows and single tokens are different kernels on a GPU; the CPU has one of them. */
static bool next_phase(struct mll_exec *ex, int *phase)
{
    *phase += 1;
    if (*phase > (op_is_cuda(ex) ? MLL_DECODE : MLL_PREFILL))
        return false;
    exec_set_phase(ex, (enum mll_phase) * phase);
    return true;
}

/* All rows at once are judged; each alone, and split in two, give the same bits. */
static void check_rows(struct mll_exec *ex, float **first, const double *expected,
                       const struct problem *p, const struct attn_case *c, const char *what)
{
    size_t count = (size_t)c->n * (size_t)c->heads * (size_t)c->dim;
    float *whole = op_floats(count, 8, 1), *y = op_floats(count, 9, 1);
    attend(ex, whole, p, c, 0, c->n);
    cr_expect_eq(exec_take_fault(ex).op, OP_NONE);
    op_judge(first, whole, expected, count, 1e-11, CUDA_NMSE, ex, what);
    for (int r = 0; r < c->n; r++)
        attend(ex, y, p, c, r, 1);
    cr_expect_eq(op_first_difference(y, whole, count), count, "%s, %s: rows alone", what,
                 exec_describe(ex));
    for (int cut = 1; cut < c->n; cut += c->n / 3 + 1) {
        op_fill(y, count, 9, 1);
        attend(ex, y, p, c, 0, cut);
        attend(ex, y, p, c, cut, c->n - cut);
        cr_expect_eq(op_first_difference(y, whole, count), count, "%s, %s: split at %d", what,
                     exec_describe(ex), cut);
    }
    free(whole);
    free(y);
}

/* An exec of the CPU has float32 (test_attn_narrow.c: the others), a GPU fp16, then int8. */
static bool next_dtype(struct mll_exec *ex, int *round)
{
    struct mll_error err;
    enum mll_dtype dtype = !op_is_cuda(ex) ? MLL_DTYPE_F32 : *round ? MLL_DTYPE_I8 : MLL_DTYPE_F16;
    cr_assert_eq(exec_set_kv_dtype(ex, dtype, &err), MLL_OK, "%s", err.message);
    return ++*round <= (op_is_cuda(ex) && !OP_RACE ? 2 : 1);
}

static void check_case(const struct attn_case *c, bool wide)
{
    size_t count = (size_t)c->n * (size_t)c->heads * (size_t)c->dim;
    float *first = NULL;
    double *expected = malloc(count * sizeof *expected);
    bool have_expected = false;
    struct mll_exec *ex = op_exec(7, MLL_ISA_C, 0);
    size_t scratch = op_attn_scratch(ex, c->n, c->heads, c->dim) + ((size_t)1 << 24);
    char what[96];
    snprintf(what, sizeof what, "layout %d seqs %d n %d ctx %d heads %d/%d dim %d", c->layout,
             c->n_seqs, c->n, c->ctx, c->heads, c->kv_heads, c->dim);
    exec_close(ex);
    ex = NULL;
    while ((ex = op_each_exec(ex, scratch)) != NULL) {
        for (int round = 0; can(ex, c) && next_dtype(ex, &round);) {
            struct problem p = make_rows(ex, c, wide);
            bool as_before = have_expected && exec_kv_dtype(ex) != MLL_DTYPE_I8;
            for (int i = 0; !as_before && i < c->n * c->heads; i++)
                reference(expected + i * c->dim, &p, c, i / c->heads, i % c->heads, (double)0.3f);
            have_expected = true;
            for (int phase = -1; next_phase(ex, &phase);)
                check_rows(ex, &first, expected, &p, c, what);
            drop(ex, &p);
        }
    }
    free(first);
    free(expected);
}

Test(op_attn, equals_softmax_and_rows_do_not_touch_each_other)
{
    for (size_t i = 0; i < (OP_RACE ? 9 : sizeof cases / sizeof cases[0]); i++)
        check_case(&cases[i], false);
}

Test(op_attn, rows_far_apart_in_magnitude_do_not_overflow)
{
    for (size_t i = 0; i < sizeof wide_cases / sizeof *wide_cases; i++)
        check_case(&wide_cases[i], true);
}

/* More keys than blocks share at once on a GPU: each gets several pieces of them. */
Test(op_attn, more_keys_than_one_round_of_blocks)
{
    static const struct attn_case c = {DECODE, 1, 1, 17000, 2, 1, 8};
    check_case(&c, false);
}

/* A poisoned key, or value, that only some rows see must stay out of the others: those that end in
 * front of it, and where `begins` every fourth of the others, which begins behind it. */
static void check_poisoned(bool key, bool value, bool begins)
{
    static const struct attn_case c = {CAUSAL, 1, 100, 100, 4, 2, 16};
    size_t row = 4 * 16;
    float *y = op_floats(100 * row, 9, 1), *clean = op_floats(100 * row, 9, 1);
    float *nan = op_floats(2 * 16, 1, 1);
    struct mll_exec *ex = NULL;
    for (int i = 0; i < 2 * 16; i++)
        nan[i] = NAN;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL)
        for (int round = 0; next_dtype(ex, &round);)
            for (int phase = -1; next_phase(ex, &phase);) {
                struct problem p = make(ex, &c);
                int32_t seq = 0, pos = 70;
                for (int r = 71; begins && r < 100; r += 4)
                    p.begin[r] = 71;
                attend(ex, clean, &p, &c, 0, 100);
                append(ex, &p, key ? nan : p.k, value ? nan : p.v, &seq, &pos, 1);
                attend(ex, y, &p, &c, 0, 100);
                for (size_t r = 0; r < 100; r++) {
                    size_t wrong = 0;
                    for (size_t i = r * row; i < (r + 1) * row && p.begin[r] <= 70; i++)
                        wrong += r >= 70 && !isnan(y[i]);
                    if (r < 70 || p.begin[r] > 70)
                        wrong = op_first_difference(y + r * row, clean + r * row, row) != row;
                    cr_expect_eq(wrong, 0, "%s: row %zu", exec_describe(ex), r);
                }
                drop(ex, &p);
            }
    free(nan);
    free(y);
    free(clean);
}

Test(op_attn, a_nan_reaches_only_the_rows_that_see_it)
{
    for (int begins = 0; begins < 2; begins++) {
        check_poisoned(true, false, begins);
        check_poisoned(false, true, begins);
    }
}

/* Blocks that no row sees may be anything, here places that would crash: around a range, and
 * between the ranges of rows side by side, of which some are empty. */
static void check_unseen_blocks(struct mll_exec *ex, const int32_t ranges[2][2],
                                const int unseen[4], int32_t value)
{
    static const struct attn_case c = {CAUSAL, 1, 6, 70, 4, 2, 16};
    float *y = op_floats(6 * 4 * 16, 9, 1), *expected = op_floats(6 * 4 * 16, 9, 1);
    struct problem p = make(ex, &c);
    for (int r = 0; r < 6; r++) {
        p.begin[r] = ranges[r % 2][0];
        p.end[r] = ranges[r % 2][1];
    }
    attend(ex, expected, &p, &c, 0, 6);
    for (int i = 0; i < 4; i++)
        p.blocks[unseen[i]] = value;
    for (int n = 1; n <= 6; n += 5) {
        attend(ex, y, &p, &c, 0, n);
        cr_expect_eq(exec_take_fault(ex).op, OP_NONE);
        cr_expect_eq(op_first_difference(y, expected, (size_t)(n * 64)), (size_t)(n * 64));
    }
    drop(ex, &p);
    free(y);
    free(expected);
}

Test(op_attn, only_the_blocks_of_the_range_are_read)
{
    static const struct {
        int32_t ranges[2][2];
        int unseen[4];
    } layouts[] = {
        {{{35, 47}, {36, 47}}, {0, 1, 3, 4}},   {{{0, 16}, {64, 70}}, {1, 2, 3, 5}},
        {{{16, 32}, {48, 64}}, {0, 2, 4, 5}},   {{{0, 16}, {50, 50}}, {1, 2, 3, 4}},
        {{{0, 16}, {900, -900}}, {1, 2, 3, 4}},
    };
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL)
        for (int phase = -1; next_phase(ex, &phase);)
            for (size_t i = 0; i < 2 * sizeof layouts / sizeof *layouts; i++)
                check_unseen_blocks(ex, layouts[i / 2].ranges, layouts[i / 2].unseen,
                                    i % 2 ? INT32_MAX : INT32_MIN / 2);
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

static void check_faults(struct mll_exec *ex)
{
    static const struct attn_case c = {CAUSAL, 2, 8, 40, 4, 2, 16};
    struct problem p = make(ex, &c);
    float *good = op_floats(8 * 4 * 16, 1, 1);
    int n_pos = p.max_blocks * MLL_KV_BLOCK;
    attend(ex, good, &p, &c, 0, 8);
    p.seq[2] = 2;
    expect_fault(ex, &p, &c, good, 2, 2, 2, 2);
    p.seq[2] = -1;
    expect_fault(ex, &p, &c, good, 2, 2, -1, 2);
    p.seq[2] = 0;
    p.begin[4] = -3;
    expect_fault(ex, &p, &c, good, 4, 4, -3, n_pos);
    p.begin[4] = 0;
    /* One beyond the table's row, whose entries are all good: behind it lies another sequence's. */
    int32_t end = p.end[0], spare[3];
    for (int i = 0; i < 3; i++) {
        spare[i] = p.blocks[3 + i];
        p.blocks[3 + i] = p.blocks[0];
    }
    p.end[0] = n_pos + 1;
    expect_fault(ex, &p, &c, good, 0, 0, n_pos + 1, n_pos);
    memcpy(&p.blocks[3], spare, sizeof spare);
    p.end[0] = 49; /* one beyond the blocks that sequence 0 owns: entry 3 is -1 */
    expect_fault(ex, &p, &c, good, 0, 3, -1, p.pool.n_blocks);
    p.blocks[3] = p.blocks[0];
    p.end[0] = 65; /* entry 4 too: on a GPU a warp has two entries, and this one is its first */
    expect_fault(ex, &p, &c, good, 0, 4, -1, p.pool.n_blocks);
    p.blocks[3] = spare[0];
    p.end[0] = end;
    free(good);
    drop(ex, &p);
}

Test(op_attn, an_index_out_of_range_is_recorded_and_gives_a_zero_row)
{
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL)
        for (int phase = -1; next_phase(ex, &phase);)
            check_faults(ex);
}
