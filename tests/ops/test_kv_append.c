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
    int elements, stride; /* of k or v; elements from a position to the next in v */
};

static struct store new_store(struct mll_exec *ex)
{
    enum mll_dtype dtype = exec_kv_dtype(ex);
    struct store s = {.pool = {NULL, NULL, dtype, BLOCKS, HEADS, DIM},
                      .blocks = blocks,
                      .bytes = BLOCKS * HEADS * kv_block_bytes(dtype, DIM),
                      .mark = exec_mark(ex)};
    s.elements = (int)(s.bytes / op_dtype_bytes(dtype));
    s.stride = s.elements / (BLOCKS * HEADS * MLL_KV_BLOCK);
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

static float element(const struct store *s, const unsigned char *pool, size_t i)
{
    return weight_at(pool, s->pool.dtype, i);
}

/* What the pool holds for element d of a head at pos of seq: layouts of ops.h. */
static float key_at(const struct store *s, int seq, int pos, int head, int d)
{
    int first = (blocks[seq * MAX_BLOCKS + pos / 16] * HEADS + head) * s->stride * 16;
    bool column = s->pool.dtype == MLL_DTYPE_F32;
    return element(s, s->k,
                   (size_t)(first + (column ? d * 16 + pos % 16 : pos % 16 * s->stride + d)));
}

static float value_at(const struct store *s, int seq, int pos, int head, int d)
{
    int first = (blocks[seq * MAX_BLOCKS + pos / 16] * HEADS + head) * s->stride * 16;
    return element(s, s->v, (size_t)(first + pos % 16 * s->stride + d));
}

/* x as the pool keeps it. */
static float kept(const struct store *s, float x)
{
    return s->pool.dtype == MLL_DTYPE_F32 ? x : f16_to_f32(f16_from_f32(x));
}

static size_t not_zero(const struct store *s, const unsigned char *pool)
{
    size_t n = 0;
    for (int i = 0; i < s->elements; i++)
        n += element(s, pool, (size_t)i) != 0;
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

Test(op_kv_append, of_two_rows_for_one_position_the_later_stays)
{
    static const int32_t seq[] = {1, 1}, pos[] = {3, 3};
    float *k = op_floats(2 * ROW, 1, 1);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        struct store s = new_store(ex);
        store_rows(ex, &s, NULL, k, k, NULL, seq, pos, 2);
        float v = value_at(&s, 1, 3, 0, 0);
        cr_expect(v == kept(&s, k[ROW]) || (op_is_cuda(ex) && v == kept(&s, k[0])));
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
