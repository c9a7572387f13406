/* test_quantise.c - quantising and dequantising against bitsandbytes' generic code, bit for bit
 * (tests/golden/make_quantised.py). */
#include "quant.h"
#include "quant_state.h"
#include "quantise.h"
#include "safetensors.h"
#include "synthetic.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct st_file *open_golden(void)
{
    struct st_file *f;
    struct st_error err;
    const char *path = MLL_SOURCE_DIR "/tests/golden/quantised.safetensors";
    cr_assert_eq(st_open(&f, path, ST_MODE_READ, &err), ST_OK, "%s", err.message);
    return f;
}

static const struct st_tensor *get(const struct st_file *f, const char *name, const char *part)
{
    char full[64];
    snprintf(full, sizeof full, "%s.%s", name, part);
    const struct st_tensor *t = st_find(f, full);
    cr_assert(t != NULL, "no %s", full);
    return t;
}

static enum mll_dtype dtype_of(const struct st_tensor *t)
{
    return t->dtype == ST_DTYPE_BF16  ? MLL_DTYPE_BF16
           : t->dtype == ST_DTYPE_F16 ? MLL_DTYPE_F16
                                      : MLL_DTYPE_F32;
}

static void expect_bytes(const struct st_tensor *want, const void *found, const char *name)
{
    const unsigned char *a = want->data, *b = found;
    for (int64_t i = 0; i < want->size; i++)
        cr_assert_eq(a[i], b[i], "%s: %s: byte %lld is %d, expected %d", name, want->name,
                     (long long)i, b[i], a[i]);
}

Test(quantise, nf4_codes_and_absmax_are_those_of_bitsandbytes)
{
    static const char *const names[] = {"whole", "odd", "zeros_last", "bfloat16", "float16"};
    struct st_file *f = open_golden();
    for (int i = 0; i < 5; i++) {
        const struct st_tensor *x = get(f, names[i], "x"), *codes = get(f, names[i], "codes");
        const struct st_tensor *absmax = get(f, names[i], "absmax");
        for (int threads = 1; threads <= 3; threads += 2) {
            uint8_t *q = malloc((size_t)codes->size);
            float *a = malloc((size_t)absmax->size);
            size_t n = (size_t)(x->shape[0] * x->shape[1]);
            cr_expect(quantise_nf4(q, a, x->data, dtype_of(x), n, threads));
            expect_bytes(absmax, a, names[i]);
            expect_bytes(codes, q, names[i]);
            free(q);
            free(a);
        }
    }
    st_close(f);
}

Test(quantise, double_quantisation_is_that_of_bitsandbytes)
{
    struct st_file *f = open_golden();
    const struct st_tensor *absmax = get(f, "doubled", "absmax"), *w = get(f, "doubled", "w");
    float map[256], nested[3], offset;
    uint8_t codes[600];
    quantise_dynamic_map(map);
    expect_bytes(st_find(f, "dynamic"), map, "map");
    quantise_absmax(codes, nested, &offset, absmax->data, 600);
    expect_bytes(get(f, "doubled", "offset"), &offset, "offset");
    expect_bytes(get(f, "doubled", "nested"), nested, "nested");
    expect_bytes(get(f, "doubled", "codes"), codes, "codes");
    struct mat_blocks b = {
        .codes = codes, .nested_absmax = nested, .nested_map = map, .nested_offset = offset};
    for (size_t i = 0; i < 600; i++) {
        float found = quant_absmax(&b, i);
        cr_assert(memcmp(&found, (const float *)w->data + i, 4) == 0, "absmax %zu", i);
    }
    st_close(f);
}

Test(quantise, int8_codes_and_scales_are_those_of_bitsandbytes)
{
    struct st_file *f = open_golden();
    const struct st_tensor *x = get(f, "int8", "x"), *w = get(f, "int8", "w");
    int rows = (int)x->shape[0], cols = (int)x->shape[1];
    int8_t codes[30 * 70];
    float scale[30];
    cr_assert(rows == 30 && cols == 70);
    cr_expect(quantise_int8(codes, scale, x->data, dtype_of(x), rows, cols, 2));
    expect_bytes(get(f, "int8", "scb"), scale, "int8");
    expect_bytes(get(f, "int8", "codes"), codes, "int8");
    struct mat m = {
        .data = codes, .scale = scale, .dtype = MLL_DTYPE_I8, .rows = rows, .cols = cols};
    for (size_t i = 0; i < sizeof codes; i++) {
        float found = quant_at(&m, i);
        cr_assert(memcmp(&found, (const float *)w->data + i, 4) == 0, "int8: weight %zu", i);
    }
    st_close(f);
}

static void expect_weights(const struct st_file *f, const char *name, const char *part,
                           enum mll_dtype rounded)
{
    const struct st_tensor *w = get(f, name, part);
    struct mat_blocks b = {.absmax = get(f, name, "absmax")->data, .block = 64, .rounded = rounded};
    bool fp4 = strcmp(name, "fp4") == 0;
    memcpy(b.values, fp4 ? quant_values_fp4 : quant_values_nf4, sizeof b.values);
    struct mat m = {.data = get(f, name, "codes")->data,
                    .blocks = &b,
                    .dtype = MLL_DTYPE_Q4,
                    .rows = (int)w->shape[0],
                    .cols = (int)w->shape[1]};
    for (size_t i = 0; i < (size_t)w->size / 4; i++) {
        float found = quant_at(&m, i);
        cr_assert(memcmp(&found, (const float *)w->data + i, 4) == 0, "%s: weight %zu", w->name, i);
    }
}

Test(quantise, dequantised_weights_are_those_of_bitsandbytes)
{
    static const char *const names[] = {"whole", "odd", "zeros_last", "bfloat16", "float16", "fp4"};
    struct st_file *f = open_golden();
    for (int i = 0; i < 6; i++) {
        expect_weights(f, names[i], "w", MLL_DTYPE_F32);
        expect_weights(f, names[i], "w_bfloat16", MLL_DTYPE_BF16);
        expect_weights(f, names[i], "w_float16", MLL_DTYPE_F16);
    }
    st_close(f);
}

Test(quantise, what_is_not_finite_is_refused)
{
    float x[70] = {0}, scale[2];
    uint8_t codes[35];
    int8_t eight[70];
    x[69] = -1.0f / 0.0f;
    cr_expect_not(quantise_nf4(codes, scale, x, MLL_DTYPE_F32, 70, 1));
    cr_expect_not(quantise_int8(eight, scale, x, MLL_DTYPE_F32, 2, 35, 1));
    x[69] = 65520; /* infinite in fp16, which int8 goes through */
    cr_expect(quantise_nf4(codes, scale, x, MLL_DTYPE_F32, 70, 1));
    cr_expect_not(quantise_int8(eight, scale, x, MLL_DTYPE_F32, 2, 35, 1));
    x[69] = 0.0f / 0.0f;
    cr_expect_not(quantise_nf4(codes, scale, x, MLL_DTYPE_F32, 70, 1));
    cr_expect_not(quantise_int8(eight, scale, x, MLL_DTYPE_F32, 2, 35, 1));
}

Test(quantise, patterns_are_whole_words_of_a_module)
{
    static const struct {
        const char *pattern;
        bool selected;
    } cases[] = {{"layers.3", false},       {"layers.3.mlp", false}, {"mlp.gate_proj", false},
                 {"language_model", false}, {"layers.33", true},     {"mlp.gate", true},
                 {"model.layers.3", false}, {"gate_proj", false},    {"none", true},
                 {"3.mlp.gate_proj", false}};
    struct weights_entry e = {.name = "language_model.model.layers.3.mlp.gate_proj.weight",
                              .new_name = "model.language_model.layers.3.mlp.gate_proj.weight",
                              .linear = true};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_expect_eq(quantise_selects(&e, &cases[i].pattern, 1), cases[i].selected, "%s",
                     cases[i].pattern);
    cr_expect(quantise_selects(&e, NULL, 0));
    e.linear = false;
    cr_expect_not(quantise_selects(&e, NULL, 0));
}

/* What is made up, described and measured (bench, plan) is what quantize and --quant make. */
Test(quantise, made_up_weights_follow_the_same_rule)
{
    static const char *const plain[] = {"vision_model.", "multi_modal_projector.", "cross_attn.",
                                        "lm_head.", "embed_tokens."};
    struct cfg cfg;
    struct weights *made, *planned;
    cr_assert_eq(synthetic_config(&cfg, "1b", NULL), MLL_OK);
    cfg.text.vocab_size = 64;
    cfg.text.hidden_size = cfg.text.intermediate_size = 64 * cfg.text.heads;
    cr_assert_eq(synthetic_weights(&made, &cfg, "nf4-dq", false, NULL), MLL_OK);
    cr_assert_eq(weights_alloc(&planned, &cfg, MLL_DTYPE_BF16, NULL), MLL_OK);
    quantise_describe(planned, &cfg, QUANTISE_NF4_DOUBLE);
    for (struct weights_entry e = {0}; weights_next(&e, &cfg);) {
        const struct mat *m = weights_field(made, &e), *p = weights_field(planned, &e);
        bool coded = m->rows > 1;
        for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
            coded = coded && strstr(e.name, plain[i]) == NULL;
        cr_expect_eq(m->dtype == MLL_DTYPE_Q4, coded, "%s", e.name);
        cr_expect(m->rows == 1 || weights_mat_bytes(m) == weights_mat_bytes(p), "%s", e.name);
    }
    weights_free(made);
    weights_free(planned);
}
