/* test_goldens.c - every traced tensor of every case in every reference against transformers.
 *
 * Floats: largest difference over the largest expected value at most 1e-4, logits 2e-4. Integers
 * (ids, the 64 greedy tokens) and pixels: equal. The cases are made by tests/golden/make.py
 * and make_quant.py. */
#include "golden.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static double largest_difference(const float *a, const float *b, size_t n, double *scale)
{
    double worst = 0;
    *scale = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]), size = fabs((double)a[i]);
        worst = d > worst || isnan(d) ? d : worst;
        *scale = size > *scale ? size : *scale;
    }
    return worst;
}

static void compare(const char *where, const struct st_tensor *expected,
                    const struct st_tensor *found)
{
    cr_assert(expected != NULL, "%s: not in the golden", where);
    cr_expect(expected->dtype == found->dtype && expected->rank == found->rank, "%s: rank", where);
    for (int i = 0; i < expected->rank && i < found->rank; i++)
        cr_expect(expected->shape[i] == found->shape[i], "%s: dimension %d is %lld, expected %lld",
                  where, i, (long long)found->shape[i], (long long)expected->shape[i]);
    cr_assert(expected->size == found->size, "%s: size", where);
    if (expected->dtype == ST_DTYPE_I64 || strstr(where, "pixel_values") != NULL) {
        cr_expect(memcmp(expected->data, found->data, expected->size) == 0, "%s: not equal", where);
        return;
    }
    double scale,
        worst = largest_difference((const float *)expected->data, (const float *)found->data,
                                   expected->size / sizeof(float), &scale);
    double bound = strstr(where, "logits") != NULL ? 2e-4 : 1e-4;
    cr_expect(worst <= bound * scale, "%s: off by %g of %g", where, worst, scale);
}

static void check_case(const char *name, enum mll_reference reference)
{
    struct golden g;
    struct st_file *trace;
    struct st_error st;
    struct mll_error err;
    char path[64], where[160];
    golden_open(&g, name);
    snprintf(path, sizeof path, "/tmp/mllama-golden-%d.safetensors", (int)getpid());
    struct mll_options options = {
        .model = g.model, .device = "cpu", .reference = reference, .threads = 1};
    cr_assert(mll_trace(&options, &g.request, path, NULL, &err) == MLL_OK, "%s: %s", name,
              err.message);
    cr_assert(st_open(&trace, path, ST_MODE_READ, &st) == ST_OK, "%s", st.message);
    cr_expect(st_count(trace) >= (g.request.n_images ? 9 : 4), "%s: tensors are missing", name);
    for (size_t i = 0; i < st_count(trace); i++) {
        const struct st_tensor *t = st_at(trace, i);
        snprintf(where, sizeof where, "%s, %s: %s", name, golden_modes[reference], t->name);
        compare(where, golden_tensor(&g, golden_modes[reference], t->name), t);
    }
    st_close(trace);
    unlink(path);
    golden_close(&g);
}

static void check_cases(enum mll_reference reference)
{
    for (int i = 0; golden_names[i] != NULL; i++)
        check_case(golden_names[i], reference);
    for (int i = 0; golden_quant_names[i] != NULL; i++)
        check_case(golden_quant_names[i], reference);
}

Test(goldens, meta)
{
    check_cases(MLL_REFERENCE_META);
}

Test(goldens, hf4)
{
    check_cases(MLL_REFERENCE_HF4);
}

Test(goldens, hf5)
{
    check_cases(MLL_REFERENCE_HF5);
}
