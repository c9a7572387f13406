/* test_synthetic.c - made-up weights: whole, of the kinds asked for, and the same where all
 * matrices share one memory. */
#include "quantise.h"
#include "synthetic.h"

#include <criterion/criterion.h>
#include <string.h>

/* The 1B, small enough for a test. */
static void small_config(struct cfg *cfg)
{
    struct mll_error err;
    cr_assert_eq(synthetic_config(cfg, "1b", &err), MLL_OK, "%s", err.message);
    cfg->text.layers = 3;
    cfg->text.n_cross = 1;
    memset(cfg->text.is_cross, 0, sizeof cfg->text.is_cross);
    cfg->text.is_cross[1] = true;
    cfg->text.hidden_size = 256;
    cfg->text.intermediate_size = 512;
    cfg->text.heads = 4;
    cfg->text.vocab_size = 5000;
}

static size_t data_bytes(const struct mat *m)
{
    size_t n = (size_t)m->rows * (size_t)m->cols;
    return m->dtype == MLL_DTYPE_Q4 ? n / 2 : m->dtype == MLL_DTYPE_I8 ? n : n * 2;
}

Test(synthetic, shared_weights_are_those_that_lie_apart)
{
    static const char *const quants[] = {NULL, "nf4", "nf4-dq", "int8"};
    for (int q = 0; q < 4; q++) {
        struct weights *apart, *shared;
        struct mll_error err;
        struct cfg cfg;
        int quantised = 0;
        small_config(&cfg);
        cr_assert_eq(synthetic_weights(&apart, &cfg, quants[q], false, &err), MLL_OK);
        cr_assert_eq(synthetic_weights(&shared, &cfg, quants[q], true, &err), MLL_OK);
        cr_expect(shared->mapping_bytes < apart->mapping_bytes, "%zu of %zu bytes",
                  shared->mapping_bytes, apart->mapping_bytes);
        for (struct weights_entry e = {0}; weights_next(&e, &cfg);) {
            const struct mat *a = weights_field(apart, &e), *b = weights_field(shared, &e);
            cr_assert(a->dtype == b->dtype && a->rows == b->rows && a->cols == b->cols);
            if (a->rows > 1)
                cr_expect(memcmp(a->data, b->data, data_bytes(a)) == 0, "%s of layer %d", e.name,
                          e.layer);
            cr_expect_eq(weights_mat_bytes(a), weights_mat_bytes(b));
            quantised += a->dtype == MLL_DTYPE_Q4 || a->dtype == MLL_DTYPE_I8;
        }
        cr_expect((quantised > 0) == (q > 0));
        weights_free(apart);
        weights_free(shared);
    }
}
