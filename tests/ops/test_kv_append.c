/* test_kv_append.c - op_kv_append: where keys and values go, and indices out of range; and
 * op_rope_kv_append against the ops it stands for. */
#include <math.h>

#include "op_test.h"

enum { HEADS = 3, DIM = 6, BLOCKS = 7, SEQS = 2, MAX_BLOCKS = 3, ROW = HEADS * DIM };
enum { N_POS = MAX_BLOCKS * MLL_KV_BLOCK };

static const int32_t blocks[SEQS * MAX_BLOCKS] = {4, 0, 6, 2, 5, 1};

/* A pool on the device, zeroed, and what came back of it. */
struct store {
    struct kv_pool pool;
    const int32_t *blocks; /* host; NULL: those above */
    unsigned char *k, *v;
    size_t bytes, mark;
    bool columns; /* keys stand with 16 positions side by side */
    int stride;   /* elements from a position to the next, elsewhere */
};

static struct store new_store(struct mll_exec *ex)
{
    enum mll_dtype dtype = exec_kv_dtype(ex);
    struct store s = {.pool = {NULL, NULL, dtype, BLOCKS, HEADS, DIM},
                      .blocks = blocks,
                      .bytes = BLOCKS * HEADS * kv_block_bytes(dtype, DIM),
                      .mark = exec_mark(ex),
                      .columns = !op_is_cuda(ex),
                      .stride = !op_is_cuda(ex)         ? DIM
                                : dtype == MLL_DTYPE_I8 ? 16
                                                        : 8};
    s.k = calloc(1, s.bytes);
    s.v = calloc(1, s.bytes);
    cr_assert(s.k != NULL && s.v != NULL);
    s.pool.k = op_dev(ex, s.k, s.bytes);
    s.pool.v = op_dev(ex, s.v, s.bytes);
    return s;
}

static void drop_store(struct mll_exec *ex, struct store *s)
{
    exec_release(ex, s->mark);
    free(s->k);
    free(s->v);
}

/* The ops, n rows; the pool comes back to s->k and s->v, q (n, HEADS, DIM) too. */
static void store_rows(struct mll_exec *ex, struct store *s, float *q, const float *k,
                       const float *v, const float *inv_freq, const int32_t *seq,
                       const int32_t *pos, int n)
{
    size_t mark = exec_mark(ex), rows = (size_t)n * ROW * sizeof *k, ints = (size_t)n * sizeof *pos;
    struct kv_table table = {op_dev(ex, s->blocks, sizeof blocks), SEQS, MAX_BLOCKS};
    const int32_t *seq_on = op_dev(ex, seq, ints), *pos_on = op_dev(ex, pos, ints);
    float *copy = malloc(rows), *q_on = NULL;
    memcpy(copy, k, rows);
    float *k_on = op_dev(ex, copy, rows);
    const float *v_on = op_dev(ex, v, rows);
    if (q != NULL) {
        const float *freq = op_dev(ex, inv_freq, DIM / 2 * sizeof *inv_freq);
        q_on = op_dev(ex, q, rows);
        op_rope_kv_append(ex, &s->pool, q_on, k_on, v_on, &table, seq_on, pos_on, freq, n, HEADS);
        op_back(ex, q, q_on, rows);
    } else {
        op_kv_append(ex, &s->pool, k_on, v_on, &table, seq_on, pos_on, n);
    }
    op_back(ex, s->k, s->pool.k, s->bytes);
    op_back(ex, s->v, s->pool.v, s->bytes);
    exec_release(ex, mark);
    free(copy);
}

/* Element i of a head's block, without its scale. */
static float element(const struct store *s, const unsigned char *block, int i)
{
    if (s->pool.dtype == MLL_DTYPE_I8)
        return (float)(int8_t)block[i];
    return weight_at(block, s->pool.dtype, (size_t)i);
}

/* What the pool holds for element d of a head at pos of seq: layouts of ops.h. */
static float stored(const struct store *s, const unsigned char *pool, bool column, int seq, int pos,
                    int head, int d)
{
    size_t one = kv_block_bytes(s->pool.dtype, DIM);
    const unsigned char *block =
        pool + (size_t)(blocks[seq * MAX_BLOCKS + pos / 16] * HEADS + head) * one;
    float scale = 1, x = element(s, block, column ? d * 16 + pos % 16 : pos % 16 * s->stride + d);
    if (s->pool.dtype != MLL_DTYPE_F32)
        memcpy(&scale, block + one - (size_t)(16 - pos % 16) * sizeof scale, sizeof scale);
    return x * scale;
}

static float key_at(const struct store *s, int seq, int pos, int head, int d)
{
    return stored(s, s->k, s->columns, seq, pos, head, d);
}

static float value_at(const struct store *s, int seq, int pos, int head, int d)
{
    return stored(s, s->v, false, seq, pos, head, d);
}

/* x as the pool keeps it, of a row that needs no scale. */
static float kept(const struct store *s, float x)
{
    return s->pool.dtype == MLL_DTYPE_F32 ? x : f16_to_f32(f16_from_f32(x));
}

static size_t not_zero(const struct store *s, const unsigned char *pool)
{
    size_t n = 0, one = kv_block_bytes(s->pool.dtype, DIM);
    for (int b = 0; b < BLOCKS * HEADS; b++)
        for (int i = 0; i < 16 * s->stride; i++)
            n += element(s, pool + (size_t)b * one, i) != 0;
    return n;
}

Test(op_kv_append, rows_land_in_their_blocks)
{
    static const int32_t seq[] = {0, 1, 0, 0, 1}, pos[] = {0, 15, 16, 47, 32};
    float *k = op_floats(5 * ROW, 1, 1), *v = op_floats(5 * ROW, 2, 1);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        struct store s = new_store(ex);
        store_rows(ex, &s, NULL, k, v, NULL, seq, pos, 5);
        cr_expect_eq(exec_take_fault(ex).op, OP_NONE);
        for (int r = 0; r < 5; r++)
            for (int i = 0; i < ROW; i++) {
                cr_expect_eq(key_at(&s, seq[r], pos[r], i / DIM, i % DIM),
                             kept(&s, k[r * ROW + i]));
                cr_expect_eq(value_at(&s, seq[r], pos[r], i / DIM, i % DIM),
                             kept(&s, v[r * ROW + i]));
            }
        cr_expect_eq(not_zero(&s, s.k) + not_zero(&s, s.v), 2 * 5 * ROW, "nothing else is written");
        drop_store(ex, &s);
    }
    free(k);
    free(v);
}

/* Rows that fp16 cannot hold, or cannot hold well: each within a unit of its largest element, and
 * the same on every exec. */
Test(op_kv_append, narrow_rows_have_a_scale)
{
    static const float sizes[] = {1, 1e6f, 1e30f, 1e-6f, 3e-3f, 4e4f, 0, 1e-18f};
    enum { ROWS = 8 };
    int32_t seq[ROWS] = {0}, pos[ROWS];
    float *k = op_floats(ROWS * ROW, 1, 1), *v = op_floats(ROWS * ROW, 2, 1), *first = NULL;
    for (int i = 0; i < ROWS * ROW; i++) {
        pos[i / ROW] = i / ROW * 6;
        k[i] *= sizes[i / ROW];
        v[i] *= sizes[ROWS - 1 - i / ROW];
    }
    for (int narrow = 0; narrow < 2; narrow++) {
        enum mll_dtype dtype = narrow ? MLL_DTYPE_I8 : MLL_DTYPE_F16;
        struct mll_exec *ex = NULL;
        struct mll_error err;
        while ((ex = op_each_exec(ex, 0)) != NULL) {
            cr_assert_eq(exec_set_kv_dtype(ex, dtype, &err), MLL_OK, "%s", err.message);
            struct store s = new_store(ex);
            float *got = op_floats(2 * ROWS * ROW, 5, 1), unit = narrow ? 0.5f / 127 : 0x1p-11f;
            store_rows(ex, &s, NULL, k, v, NULL, seq, pos, ROWS);
            for (int i = 0; i < ROWS * ROW; i++) {
                float *both = got + 2 * i, most = 0, most_v = 0;
                both[0] = key_at(&s, 0, pos[i / ROW], i % ROW / DIM, i % DIM);
                both[1] = value_at(&s, 0, pos[i / ROW], i % ROW / DIM, i % DIM);
                for (int d = 0; d < DIM; d++) {
                    most = fmaxf(most, fabsf(k[i / DIM * DIM + d]));
                    most_v = fmaxf(most_v, fabsf(v[i / DIM * DIM + d]));
                }
                cr_expect(fabsf(both[0] - k[i]) <= 1.001f * unit * most, "%s: %g, not %g",
                          exec_describe(ex), (double)both[0], (double)k[i]);
                cr_expect(fabsf(both[1] - v[i]) <= 1.001f * unit * most_v, "%s: %g, not %g",
                          exec_describe(ex), (double)both[1], (double)v[i]);
            }
            if (first == NULL)
                first = got;
            cr_expect_eq(op_first_difference(got, first, 2 * ROWS * ROW), 2 * ROWS * ROW, "%s",
                         exec_describe(ex));
            if (got != first)
                free(got);
            drop_store(ex, &s);
        }
        free(first);
        first = NULL;
    }
    free(k);
    free(v);
}

Test(op_kv_append, of_two_rows_for_one_position_the_later_stays)
{
    static const int32_t seq[] = {1, 1}, pos[] = {3, 3};
    float *k = op_floats(2 * ROW, 1, 1);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        if (op_is_cuda(ex)) /* a race, says ops.h */
            continue;
        struct store s = new_store(ex);
        store_rows(ex, &s, NULL, k, k, NULL, seq, pos, 2);
        cr_expect_eq(value_at(&s, 1, 3, 0, 0), kept(&s, k[ROW]));
        drop_store(ex, &s);
    }
    free(k);
}

/* q is rotated in place, and what the pool then holds is what the three ops leave. */
Test(op_rope_kv_append, is_rope_twice_and_kv_append)
{
    static const int32_t seq[] = {0, 1, 2, 0, 1}, pos[] = {0, 31, 1, 47, 17};
    float *q = op_floats(5 * ROW, 3, 1), *k = op_floats(5 * ROW, 1, 1),
          *v = op_floats(5 * ROW, 2, 1);
    float inv_freq[DIM / 2] = {1, 0.3f, 0.01f}, *q_out = op_floats(5 * ROW, 4, 1);
    struct mll_exec *ex = NULL, *cpu = op_exec(1, MLL_ISA_C, 0);
    float *q_rotated = op_floats(5 * ROW, 3, 1), *k_rotated = op_floats(5 * ROW, 1, 1);
    op_rope(cpu, q_rotated, pos, inv_freq, 5, HEADS, DIM);
    op_rope(cpu, k_rotated, pos, inv_freq, 5, HEADS, DIM);
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        exec_set_phase(ex, MLL_DECODE); /* a token's kernels may begin early */
        struct store s = new_store(ex);
        /* On a GPU cos and sin may differ by two units in the last place, and tip fp16. */
        float q_off = op_is_cuda(ex) ? 5e-7f : 0, k_off = op_is_cuda(ex) ? 1e-3f : 0;
        memcpy(q_out, q, 5 * ROW * sizeof *q);
        store_rows(ex, &s, q_out, k, v, inv_freq, seq, pos, 5);
        struct mll_fault f = exec_take_fault(ex);
        cr_expect(f.op == OP_KV_APPEND && f.position == 2 && f.index == 2 && f.bound == SEQS);
        for (int i = 0; i < 5 * ROW; i++) {
            int r = i / ROW, head = i % ROW / DIM, d = i % DIM;
            cr_expect(fabsf(q_out[i] - q_rotated[i]) <= q_off, "q %d", i);
            if (seq[r] == SEQS)
                continue;
            cr_expect(fabsf(key_at(&s, seq[r], pos[r], head, d) - kept(&s, k_rotated[i])) <= k_off);
            cr_expect_eq(value_at(&s, seq[r], pos[r], head, d), kept(&s, v[i]));
        }
        cr_expect_eq(not_zero(&s, s.v), 4 * ROW);
        drop_store(ex, &s);
    }
    exec_close(cpu);
    free(q);
    free(k);
    free(v);
    free(q_out);
    free(q_rotated);
    free(k_rotated);
}

/* Enough rows for all threads; rows 0 to 39 are overwritten again and again, on the CPU. */
Test(op_kv_append, many_rows_leave_the_same_for_any_number_of_threads)
{
    enum { ROWS = 2400 };
    float *k = op_floats(ROWS * ROW, 1, 1), *v = op_floats(ROWS * ROW, 2, 1);
    int32_t *seq = calloc(ROWS, sizeof *seq), *pos = calloc(ROWS, sizeof *pos);
    unsigned char *first = NULL;
    for (int r = 0; r < ROWS; r++) {
        seq[r] = r == 1000 ? SEQS : r / 40 % SEQS;
        pos[r] = r % 40;
    }
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        struct store s = new_store(ex);
        store_rows(ex, &s, NULL, k, v, NULL, seq, pos, ROWS);
        cr_expect_eq(exec_take_fault(ex).position, 1000);
        if (!op_is_cuda(ex)) {
            cr_expect_eq(value_at(&s, 1, 3, 0, 0), v[(ROWS - 37) * ROW]);
            if (first == NULL) {
                first = malloc(2 * s.bytes);
                memcpy(first, s.k, s.bytes);
                memcpy(first + s.bytes, s.v, s.bytes);
            }
            cr_expect(memcmp(s.k, first, s.bytes) == 0, "%s", exec_describe(ex));
            cr_expect(memcmp(s.v, first + s.bytes, s.bytes) == 0, "%s", exec_describe(ex));
        }
        drop_store(ex, &s);
    }
    free(first);
    free(k);
    free(v);
    free(seq);
    free(pos);
}

static const struct fault_case {
    int32_t seq, pos, block; /* block: what the table says for the row's block */
    int64_t position, index, bound;
} faults[] = {
    {-1, 0, 4, 1, -1, SEQS},
    {2, 0, 4, 1, 2, SEQS},
    {0, -1, 4, 1, -1, N_POS},
    {1, N_POS, 4, 1, N_POS, N_POS},
    {1, 20, -1, 4, -1, BLOCKS},
    {1, 20, BLOCKS, 4, BLOCKS, BLOCKS},
    {0, INT32_MAX, 4, 1, INT32_MAX, N_POS},
};

Test(op_kv_append, an_index_out_of_range_is_recorded_and_nothing_is_stored)
{
    float *k = op_floats(3 * ROW, 1, 1);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++) {
            const struct fault_case *c = &faults[i];
            struct store s = new_store(ex);
            int32_t changed[SEQS * MAX_BLOCKS];
            int32_t seq[] = {0, c->seq, 0}, pos[] = {1, c->pos, 2};
            memcpy(changed, blocks, sizeof changed);
            changed[4] = c->block;
            s.blocks = changed;
            store_rows(ex, &s, NULL, k, k, NULL, seq, pos, 3);
            struct mll_fault f = exec_take_fault(ex);
            cr_expect(f.op == OP_KV_APPEND && f.position == c->position && f.index == c->index &&
                          f.bound == c->bound,
                      "case %zu: op %d at %lld: %lld of %lld", i, (int)f.op, (long long)f.position,
                      (long long)f.index, (long long)f.bound);
            cr_expect_eq(not_zero(&s, s.v), 2 * ROW, "the rows beside it are stored");
            drop_store(ex, &s);
        }
    }
    free(k);
}
