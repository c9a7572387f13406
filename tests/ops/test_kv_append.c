/* test_kv_append.c - op_kv_append: where keys and values go, and indices out of range. */
#include "op_test.h"

enum { HEADS = 3, DIM = 5, BLOCKS = 7, SEQS = 2, MAX_BLOCKS = 3, ROW = HEADS * DIM };
enum { POOL = BLOCKS * ROW * MLL_KV_BLOCK, N_POS = MAX_BLOCKS * MLL_KV_BLOCK };

static const int32_t blocks[SEQS * MAX_BLOCKS] = {4, 0, 6, 2, 5, 1};

struct store {
    float k[POOL], v[POOL];
    struct kv_pool pool;
    struct kv_table table;
};

static struct store *new_store(void)
{
    struct store *s = calloc(1, sizeof *s);
    cr_assert(s != NULL);
    s->pool = (struct kv_pool){s->k, s->v, MLL_DTYPE_F32, BLOCKS, HEADS, DIM};
    s->table = (struct kv_table){blocks, SEQS, MAX_BLOCKS};
    return s;
}

Test(op_kv_append, rows_land_in_their_blocks)
{
    static const int32_t seq[] = {0, 1, 0, 0, 1}, pos[] = {0, 15, 16, 47, 32};
    float *k = op_floats(5 * ROW, 1, 1), *v = op_floats(5 * ROW, 2, 1);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        struct store *s = new_store();
        size_t written = 0;
        op_kv_append(ex, &s->pool, k, v, &s->table, seq, pos, 5);
        cr_expect_eq(exec_take_fault(ex).op, OP_NONE);
        for (int r = 0; r < 5; r++)
            for (int i = 0; i < ROW; i++) {
                int block = blocks[seq[r] * MAX_BLOCKS + pos[r] / 16], slot = pos[r] % 16;
                int head = (block * HEADS + i / DIM) * DIM * 16, d = i % DIM;
                cr_expect_eq(s->k[head + d * 16 + slot], k[r * ROW + i]);
                cr_expect_eq(s->v[head + slot * DIM + d], v[r * ROW + i]);
            }
        for (int i = 0; i < POOL; i++)
            written += (s->k[i] != 0) + (s->v[i] != 0);
        cr_expect_eq(written, 2 * 5 * ROW, "nothing else is written");
        free(s);
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
        struct store *s = new_store();
        op_kv_append(ex, &s->pool, k, k, &s->table, seq, pos, 2);
        cr_expect_eq(s->v[(2 * HEADS * 16 + 3) * DIM], k[ROW]);
        free(s);
    }
    free(k);
}

/* Enough rows for all threads; rows 0 to 39 are overwritten again and again. */
Test(op_kv_append, many_rows_leave_the_same_for_any_number_of_threads)
{
    enum { ROWS = 2400 };
    float *k = op_floats(ROWS * ROW, 1, 1), *v = op_floats(ROWS * ROW, 2, 1);
    int32_t *seq = calloc(ROWS, sizeof *seq), *pos = calloc(ROWS, sizeof *pos);
    struct store *first = NULL;
    for (int r = 0; r < ROWS; r++) {
        seq[r] = r == 1000 ? SEQS : r / 40 % SEQS;
        pos[r] = r % 40;
    }
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        struct store *s = new_store();
        op_kv_append(ex, &s->pool, k, v, &s->table, seq, pos, ROWS);
        cr_expect_eq(exec_take_fault(ex).position, 1000);
        cr_expect_eq(s->v[(2 * HEADS * 16 + 3) * DIM], v[(ROWS - 37) * ROW]);
        if (first == NULL) {
            first = s;
            continue;
        }
        cr_expect(memcmp(s->k, first->k, sizeof s->k) == 0, "%s", exec_describe(ex));
        cr_expect(memcmp(s->v, first->v, sizeof s->v) == 0, "%s", exec_describe(ex));
        free(s);
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
            struct store *s = new_store();
            int32_t changed[SEQS * MAX_BLOCKS];
            int32_t seq[] = {0, c->seq, 0}, pos[] = {1, c->pos, 2};
            size_t written = 0;
            memcpy(changed, blocks, sizeof changed);
            changed[4] = c->block;
            s->table.blocks = changed;
            op_kv_append(ex, &s->pool, k, k, &s->table, seq, pos, 3);
            struct mll_fault f = exec_take_fault(ex);
            cr_expect(f.op == OP_KV_APPEND && f.position == c->position && f.index == c->index &&
                          f.bound == c->bound,
                      "case %zu: op %d at %lld: %lld of %lld", i, (int)f.op, (long long)f.position,
                      (long long)f.index, (long long)f.bound);
            for (int j = 0; j < POOL; j++)
                written += s->v[j] != 0;
            cr_expect_eq(written, 2 * ROW, "the rows beside it are stored");
            free(s);
        }
    }
    free(k);
}
