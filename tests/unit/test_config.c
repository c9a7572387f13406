/* test_config.c - what the three configuration files may leave out or spell differently. What is
 * refused is in tests/errors. */
#include "../errors/fixture.h"
#include "config.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG     "config.json"
#define GENERATION "generation_config.json"
#define PREPROCESS "preprocessor_config.json"

static struct cfg load(const struct fixture *f)
{
    struct cfg cfg;
    struct mll_error err;
    cr_assert_eq(cfg_load(&cfg, f->dir, &err), MLL_OK, "%s", err.message);
    return cfg;
}

Test(config, values_and_what_follows_from_them)
{
    struct fixture f;
    fixture_make(&f, FIXTURE_ONE_FILE, NULL);
    struct cfg cfg = load(&f);
    cr_expect(cfg.vision.grid == 2 && cfg.vision.patches == 4 && cfg.vision.rows == 8);
    cr_expect(cfg.vision.aspect_ratios == 8 && cfg.vision.n_kept == 1);
    cr_expect(cfg.text.head_dim == 4 && cfg.text.n_cross == 1 && cfg.text.is_cross[1]);
    cr_expect(cfg.text.rope_scaled && cfg.text.rope_factor == 8 &&
              cfg.text.rope_original_max_position == 32);
    cr_expect(cfg.generation.n_eos == 2 && cfg.generation.eos[1] == 259 &&
              cfg.generation.bos == 257);
    cr_expect(cfg.generation.do_sample && cfg.generation.temperature == 0.6f);
    cr_expect(cfg.generation.top_k == 50 && cfg.generation.repetition_penalty == 1);
    cr_expect(cfg.preprocess.size == 28 && cfg.preprocess.mean[2] == 0.40821073f);
    cr_expect_str_empty(cfg.quant_method);
    fixture_remove(&f);
}

/* Old spelling -> new spelling: the same struct. */
Test(config, both_spellings_mean_the_same)
{
    static const char *const pairs[][2] = {
        {"\"image_token_index\"", "\"image_token_id\""},
        {"\"attention_heads\": 2,\n  \"num_hidden_layers\": 2",
         "\"num_attention_heads\": 2,\n  \"num_hidden_layers\": 2"},
        {"\"rope_scaling\": {\"rope_type\"", "\"rope_parameters\": {\"rope_type\""},
        {"\"rope_scaling\": {\"rope_type\"", "\"rope_scaling\": {\"type\""},
        {"\"rope_theta\": 500000.0, \"rope_scaling\": {",
         "\"rope_parameters\": {\"rope_theta\": 500000.0, "},
        {"\"norm_eps\": 1e-05", "\"norm_eps\": 1e-05, \"supported_aspect_ratios\": "
                                "[[1,1],[1,2],[1,3],[1,4],[2,1],[2,2],[3,1],[4,1]]"},
        {", \"hidden_act\": \"gelu\", \"norm_eps\": 1e-05", ""},
        {"\"num_channels\": 3, \"max_num_tiles\": 4, ", "\"torch_dtype\": \"bfloat16\", "},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct fixture f;
        fixture_make(&f, FIXTURE_ONE_FILE, NULL);
        struct cfg before = load(&f);
        fixture_replace(&f, CONFIG, pairs[i][0], pairs[i][1]);
        struct cfg after = load(&f);
        cr_expect_arr_eq(&before, &after, sizeof before, "%s", pairs[i][1]);
        fixture_remove(&f);
    }
}

Test(config, rope_scaling_may_be_null)
{
    static const char text[] = "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0,\n"
                               "   \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0,\n"
                               "   \"original_max_position_embeddings\": 32}";
    static const char *const others[] = {"\"rope_scaling\": null",
                                         "\"rope_scaling\": {\"rope_type\": \"default\"}",
                                         "\"rope_parameters\": {\"rope_theta\": 500000.0}"};
    for (size_t i = 0; i < 3; i++) {
        struct fixture f;
        fixture_make(&f, FIXTURE_ONE_FILE, NULL);
        fixture_replace(&f, CONFIG, text, others[i]);
        struct cfg cfg = load(&f);
        cr_expect(!cfg.text.rope_scaled && cfg.text.rope_theta == 500000.0, "%s", others[i]);
        fixture_remove(&f);
    }
}

Test(config, eos_is_a_number_or_a_list_and_generation_config_comes_first)
{
    struct fixture f;
    fixture_make(&f, FIXTURE_ONE_FILE, NULL);
    fixture_replace(&f, GENERATION, "[258, 259]", "258");
    struct cfg cfg = load(&f);
    cr_expect(cfg.generation.n_eos == 1 && cfg.generation.eos[0] == 258);
    fixture_delete(&f, GENERATION);
    cfg = load(&f);
    cr_expect(cfg.generation.n_eos == 2 && !cfg.generation.do_sample);
    cr_expect(cfg.generation.temperature == 1 && cfg.generation.top_p == 1);
    fixture_remove(&f);
}

/* No file: what was released. A file without a key: transformers' class default. */
Test(config, preprocessor_defaults)
{
    struct fixture f;
    fixture_make(&f, FIXTURE_ONE_FILE, NULL);
    struct cfg given = load(&f);
    fixture_delete(&f, PREPROCESS);
    struct cfg cfg = load(&f);
    cr_expect_arr_eq(&cfg.preprocess, &given.preprocess, sizeof given.preprocess);

    static const char bare[] = "{\"size\": {\"height\": 28, \"width\": 28}}";
    fixture_write(&f, PREPROCESS, bare, sizeof bare - 1);
    cfg = load(&f);
    cr_expect(cfg.preprocess.mean[0] == 0.5f && cfg.preprocess.std[2] == 0.5f);
    cr_expect(cfg.preprocess.max_tiles == 4 && cfg.preprocess.rescale == 1.0 / 255);

    static const char plain[] =
        "{\"size\": {\"height\": 28, \"width\": 28}, \"do_rescale\": false, "
        "\"do_normalize\": false}";
    fixture_write(&f, PREPROCESS, plain, sizeof plain - 1);
    cfg = load(&f);
    cr_expect(cfg.preprocess.mean[0] == 0 && cfg.preprocess.std[0] == 1 &&
              cfg.preprocess.rescale == 1);
    fixture_remove(&f);
}

Test(config, processor_config_may_hold_the_preprocessor)
{
    static const char nested[] =
        "{\"processor_class\": \"MllamaProcessor\", \"image_processor\": "
        "{\"size\": {\"height\": 28, \"width\": 28}, \"image_mean\": 0.25}}";
    struct fixture f;
    fixture_make(&f, FIXTURE_ONE_FILE, NULL);
    fixture_delete(&f, PREPROCESS);
    fixture_write(&f, "processor_config.json", nested, sizeof nested - 1);
    struct cfg cfg = load(&f);
    cr_expect(cfg.preprocess.mean[1] == 0.25f && cfg.preprocess.std[1] == 0.5f);
    fixture_remove(&f);
}

Test(config, preprocessor_alone)
{
    struct fixture f;
    struct cfg_preprocess pre;
    fixture_make(&f, FIXTURE_ONE_FILE, NULL);
    fixture_delete(&f, CONFIG);
    cr_expect_eq(cfg_load_preprocess(&pre, f.dir, NULL), MLL_OK);
    cr_expect_eq(pre.size, 28);
    fixture_delete(&f, PREPROCESS);
    cr_expect_eq(cfg_load_preprocess(&pre, f.dir, NULL), MLL_ERR_CONFIG_MISSING);
    fixture_remove(&f);
}

Test(config, canvases_are_counted_as_the_image_processor_does)
{
    static const int want[] = {1, 3, 5, 8, 10, 14};
    for (int tiles = 1; tiles <= 6; tiles++)
        cr_expect_eq(cfg_canvases(tiles), want[tiles - 1]);
}

/* Any bytes in place of any file: a clean answer. */
Test(config, damage_at_every_byte_is_survived)
{
    struct fixture f;
    size_t size;
    fixture_make(&f, FIXTURE_ONE_FILE, NULL);
    char *text = fixture_read(&f, CONFIG, &size);
    for (size_t i = 0; i < size; i++) {
        struct cfg cfg;
        char kept = text[i];
        text[i] = (char)(i % 3 == 0 ? '9' : i % 3 == 1 ? ',' : 0x80);
        fixture_write(&f, CONFIG, text, size);
        cfg_load(&cfg, f.dir, NULL);
        text[i] = kept;
    }
    free(text);
    fixture_remove(&f);
}
