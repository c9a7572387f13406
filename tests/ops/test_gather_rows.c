/* test_gather_rows.c - op_gather_rows and op_take_rows: values, and indices out of range. */
#include "op_test.h"

static const struct gather_case {
    int rows, cols, n;
    enum mll_dtype dtype;
    size_t offset;
} cases[] = {
    {1, 1, 1, MLL_DTYPE_F32, 0},    {7, 5, 3, MLL_DTYPE_BF16, 1},  {9, 16, 4, MLL_DTYPE_F16, 0},
    {33, 31, 40, MLL_DTYPE_F32, 2}, {5, 129, 9, MLL_DTYPE_F16, 1}, {100, 64, 65, MLL_DTYPE_BF16, 0},
};

static void check_gather(struct mll_exec *ex, const struct gather_case *c)
{
    struct mat table = op_mat(c->rows, c->cols, c->dtype, c->offset, 11, 2);
    size_t cols = (size_t)c->cols, count = (size_t)c->n * cols;
    float *y = op_floats(count, 1, 1);
    int32_t *ids = malloc((size_t)c->n * sizeof *ids);
    for (int r = 0; r < c->n; r++)
        ids[r] = (r * 7 + 3) % c->rows;
    struct mat loaded = op_weight(ex, &table, WEIGHT_TABLE);
    float *dy = op_dev(ex, y, count * sizeof *y);
    op_gather_rows(ex, dy, &loaded, op_dev(ex, ids, (size_t)c->n * sizeof *ids), c->n);
    op_back(ex, y, dy, count * sizeof *y);
    for (size_t i = 0; i < count; i++) {
        size_t from = (size_t)ids[i / cols] * cols + i % cols;
        cr_assert_eq(y[i], weight_at(table.data, c->dtype, from), "%s %dx%d at %zu",
                     exec_describe(ex), c->rows, c->cols, i);
    }
    cr_expect_eq(exec_take_fault(ex).op, OP_NONE);
    free(ids);
    free(y);
    op_mat_free(&table, c->offset);
}

Test(op_gather_rows, rows_are_widened_exactly)
{
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
            check_gather(ex, &cases[i]);
}

Test(op_gather_rows, ids_out_of_range_give_zero_rows_and_the_lowest_fault)
{
    static const int32_t ids[] = {3, 4, -1, 0, INT32_MAX, INT32_MIN};
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        struct mat table = op_mat(4, 19, MLL_DTYPE_BF16, 0, 3, 1);
        float *y = op_floats(6 * 19, 1, 1);
        struct mat loaded = op_weight(ex, &table, WEIGHT_TABLE);
        float *dy = op_dev(ex, y, 6 * 19 * sizeof *y);
        op_gather_rows(ex, dy, &loaded, op_dev(ex, ids, sizeof ids), 6);
        op_back(ex, y, dy, 6 * 19 * sizeof *y);
        struct mll_fault fault = exec_take_fault(ex);
        cr_expect(fault.op == OP_GATHER_ROWS && fault.position == 1 && fault.index == 4 &&
                  fault.bound == 4);
        for (size_t i = 0; i < 6 * 19; i++) {
            bool inside = ids[i / 19] >= 0 && ids[i / 19] < 4;
            float expected =
                inside ? weight_at(table.data, MLL_DTYPE_BF16, (size_t)ids[i / 19] * 19 + i % 19)
                       : 0;
            cr_expect_eq(y[i], expected);
        }
        free(y);
        op_mat_free(&table, 0);
    }
}

Test(op_gather_rows, the_image_token_of_an_11b_is_a_fault_against_its_logit_rows)
{
    struct mll_exec *ex = op_exec(2, MLL_ISA_AUTO, 0);
    struct mat table = op_mat(128256, 1, MLL_DTYPE_BF16, 0, 3, 1);
    int32_t ids[] = {128255, 128256};
    float y[2];
    op_gather_rows(ex, y, &table, ids, 2);
    struct mll_fault fault = exec_take_fault(ex);
    cr_expect(fault.position == 1 && fault.index == 128256 && fault.bound == 128256);
    cr_expect_eq(y[1], 0);
    exec_close(ex);
    op_mat_free(&table, 0);
}

Test(op_take_rows, rows_are_copied_and_bad_ids_give_zero_rows_and_the_lowest_fault)
{
    static const int32_t ids[] = {2, 0, 7, 3, -5, 2};
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        float *x = op_floats(3 * 17, 1, 1), *y = op_floats(6 * 17, 2, 1);
        float *dx = op_dev(ex, x, 3 * 17 * sizeof *x), *dy = op_dev(ex, y, 6 * 17 * sizeof *y);
        op_take_rows(ex, dy, dx, op_dev(ex, ids, sizeof ids), 6, 3, 17);
        op_back(ex, y, dy, 6 * 17 * sizeof *y);
        struct mll_fault fault = exec_take_fault(ex);
        cr_expect(fault.op == OP_TAKE_ROWS && fault.position == 2 && fault.index == 7 &&
                  fault.bound == 3);
        for (size_t i = 0; i < 6 * 17; i++) {
            int32_t id = ids[i / 17];
            cr_expect_eq(y[i], id >= 0 && id < 3 ? x[(size_t)id * 17 + i % 17] : 0);
        }
        free(x);
        free(y);
    }
}

Test(op_take_rows, no_rows_need_no_pointers)
{
    struct mll_exec *ex = op_exec(1, MLL_ISA_AUTO, 0);
    op_take_rows(ex, NULL, NULL, NULL, 0, 0, 8);
    exec_close(ex);
}
