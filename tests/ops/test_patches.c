/* test_patches.c - op_patchify, op_class_and_pad and op_join_states: every element's place. */
#include "op_test.h"

static const struct patchify_case {
    int tiles, size, patch;
} patchify_cases[] = {{1, 1, 1}, {2, 6, 3}, {3, 17, 4}, {4, 56, 14}, {1, 30, 14}};

static void check_patchify(struct mll_exec *ex, const struct patchify_case *c)
{
    int g = c->size / c->patch, p = c->patch, s = c->size;
    size_t n_x = (size_t)(c->tiles * 3 * s * s), n_y = (size_t)(c->tiles * g * g * 3 * p * p);
    float *x = op_floats(n_x, 1, 1), *y = op_floats(n_y, 2, 1),
          *dy = op_dev(ex, y, n_y * sizeof *y);
    const float *at = y;
    op_patchify(ex, dy, op_dev(ex, x, n_x * sizeof *x), c->tiles, s, p);
    op_back(ex, y, dy, n_y * sizeof *y);
    for (int t = 0; t < c->tiles; t++)
        for (int patch = 0; patch < g * g; patch++)
            for (int channel = 0; channel < 3; channel++)
                for (int pixel = 0; pixel < p * p; pixel++, at++) {
                    int row = patch / g * p + pixel / p, col = patch % g * p + pixel % p;
                    cr_assert_eq(*at, x[((t * 3 + channel) * s + row) * s + col],
                                 "%s: size %d, tile %d, patch %d", exec_describe(ex), s, t, patch);
                }
    free(x);
    free(y);
}

Test(op_patchify, every_pixel_goes_to_its_patch)
{
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL)
        for (size_t i = 0; i < sizeof patchify_cases / sizeof patchify_cases[0]; i++)
            check_patchify(ex, &patchify_cases[i]);
}

static const struct rows_case {
    int tiles, patches, rows, dim, n_kept;
    enum mll_dtype dtype;
} rows_cases[] = {
    {1, 0, 1, 1, 0, MLL_DTYPE_F32},
    {2, 4, 8, 5, 1, MLL_DTYPE_BF16},
    {4, 9, 16, 33, 5, MLL_DTYPE_F16},
    {3, 7, 8, 16, 2, MLL_DTYPE_BF16},
};

static void check_class_and_pad(struct mll_exec *ex, const struct rows_case *c)
{
    int dim = c->dim;
    struct mat cls = op_mat(1, dim, c->dtype, 1, 3, 1);
    size_t n_x = (size_t)(c->tiles * c->patches * dim), n_y = (size_t)(c->tiles * c->rows * dim);
    float *x = op_floats(n_x, 1, 1), *y = op_floats(n_y, 2, 1),
          *dy = op_dev(ex, y, n_y * sizeof *y);
    struct mat loaded = op_weight(ex, &cls, WEIGHT_VECTOR);
    op_class_and_pad(ex, dy, op_dev(ex, x, n_x * sizeof *x), &loaded, c->tiles, c->patches, c->rows,
                     dim);
    op_back(ex, y, dy, n_y * sizeof *y);
    for (int t = 0; t < c->tiles; t++)
        for (int r = 0; r < c->rows; r++)
            for (int i = 0; i < dim; i++) {
                float expected = r == 0            ? weight_at(cls.data, c->dtype, (size_t)i)
                                 : r <= c->patches ? x[(t * c->patches + r - 1) * dim + i]
                                                   : 0;
                cr_assert_eq(y[(t * c->rows + r) * dim + i], expected, "tile %d, row %d", t, r);
            }
    op_mat_free(&cls, 1);
    free(x);
    free(y);
}

Test(op_class_and_pad, a_tile_is_class_token_patches_and_zeros)
{
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL)
        for (size_t i = 0; i < sizeof rows_cases / sizeof rows_cases[0]; i++)
            check_class_and_pad(ex, &rows_cases[i]);
}

static void check_join_states(struct mll_exec *ex, const struct rows_case *c)
{
    int dim = c->dim, width = dim * (1 + c->n_kept);
    size_t n = (size_t)(c->tiles * c->rows * dim);
    size_t n_y = (size_t)(c->tiles * (c->patches + 1) * width);
    float *last = op_floats(n, 1, 1), *kept[5];
    const float *d_kept[5];
    float *y = op_floats(n_y, 2, 1), *dy = op_dev(ex, y, n_y * sizeof *y);
    for (int l = 0; l < c->n_kept; l++) {
        kept[l] = op_floats(n, 10 + (uint64_t)l, 1);
        d_kept[l] = op_dev(ex, kept[l], n * sizeof *kept[l]);
    }
    op_join_states(ex, dy, op_dev(ex, last, n * sizeof *last), d_kept, c->n_kept, c->tiles,
                   c->patches, c->rows, dim);
    op_back(ex, y, dy, n_y * sizeof *y);
    for (int t = 0; t < c->tiles; t++)
        for (int r = 0; r <= c->patches; r++)
            for (int i = 0; i < width; i++) {
                int from = (t * c->rows + r) * dim;
                float expected = i < dim
                                     ? last[from + i]
                                     : kept[(i - dim) % c->n_kept][from + (i - dim) / c->n_kept];
                cr_assert_eq(y[(t * (c->patches + 1) + r) * width + i], expected,
                             "tile %d, row %d, feature %d", t, r, i);
            }
    for (int l = 0; l < c->n_kept; l++)
        free(kept[l]);
    free(last);
    free(y);
}

Test(op_join_states, kept_states_are_interleaved_behind_the_last)
{
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL)
        for (size_t i = 0; i < sizeof rows_cases / sizeof rows_cases[0]; i++)
            check_join_states(ex, &rows_cases[i]);
}
