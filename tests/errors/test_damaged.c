/* test_damaged.c - damaged model directories: each defect has its own status and a message that
 * names the file, what was expected and what was found; check and loading agree.
 *
 * Three tables: headers of a safetensors file, texts replaced in JSON files, everything else. */
#include "fixture.h"
#include "mllama.h"
#include "weights.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- one case -------------------------------------------------------------------------------- */

struct findings {
    size_t n;
    enum mll_status first;
    char message[600]; /* of the first */
};

static void on_finding(void *user, enum mll_status code, const char *message)
{
    struct findings *f = user;
    if (code == MLL_OK)
        return;
    if (f->n++ == 0) {
        f->first = code;
        snprintf(f->message, sizeof f->message, "%s", message);
    }
}

/* Config and weights as mll_open reads them. */
static enum mll_status load(const char *dir, bool no_mmap, struct mll_error *err)
{
    struct cfg cfg;
    struct weights *w;
    enum mll_status status = cfg_load(&cfg, dir, err);
    if (status == MLL_OK) {
        status = weights_load(&w, &cfg, dir, no_mmap, err);
        weights_free(w);
    }
    return status;
}

/* says: a part of the message. loads: loading gives the status too (not so where only the tokenizer
 * or the weights' values are wrong). */
static void expect_defect(const struct fixture *f, enum mll_status want, const char *says,
                          bool deep, bool loads)
{
    struct findings found = {0};
    struct mll_error err = {0};
    enum mll_status status = mll_check(f->dir, deep, on_finding, &found, &err);
    const char *name = mll_status_name(want);
    cr_expect_eq(status, want, "check: expected %s, found %s: %s", name, mll_status_name(status),
                 err.message);
    cr_expect_eq(found.first, want, "%s: first finding is %s", name, mll_status_name(found.first));
    cr_expect(strstr(found.message, says) != NULL, "%s: message lacks \"%s\": %s", name, says,
              found.message);
    bool both = strstr(found.message, "expected") && strstr(found.message, "found");
    cr_expect(both || !loads, /* the tokenizer words its own */
              "%s: message lacks expected or found: %s", name, found.message);
    cr_expect_eq(mll_status_exit_code(want), 65, "%s: exit code", name);
    for (int no_mmap = 0; no_mmap < 2 && loads; no_mmap++) {
        status = load(f->dir, no_mmap, &err);
        cr_expect_eq(status, want, "load: expected %s, found %s: %s", name, mll_status_name(status),
                     err.message);
    }
}

Test(damaged, the_undamaged_fixture_is_accepted)
{
    for (int layout = 0; layout < 2; layout++) {
        struct fixture f;
        struct findings found = {0};
        struct mll_error err = {0};
        fixture_make(&f, layout, NULL);
        cr_expect_eq(mll_check(f.dir, true, on_finding, &found, &err), MLL_OK, "%s", err.message);
        cr_expect_eq(found.n, 0);
        cr_expect_eq(load(f.dir, false, &err), MLL_OK, "%s", err.message);
        fixture_remove(&f);
    }
}

/* ---- headers of a safetensors file ----------------------------------------------------------- */

#define ENTRY(dtype, shape, offsets) \
    "{\"dtype\":\"" dtype "\",\"shape\":[" shape "],\"data_offsets\":[" offsets "]}"

static const struct header_case {
    enum mll_status want;
    const char *says;
    const char *header;
    int data; /* bytes behind the header */
} header_cases[] = {
    {MLL_ERR_ST_UTF8, "byte 2 of the header", "{\"\xff\":" ENTRY("U8", "1", "0,1") "}", 1},
    {MLL_ERR_ST_NOT_OBJECT, "found '['", "[]", 0},
    {MLL_ERR_ST_JSON, "expected ':'", "{\"a\" 1}", 0},
    {MLL_ERR_ST_JSON_TRAILING, "nothing after the object", "{} {}", 0},
    {MLL_ERR_ST_STRING, "a valid escape", "{\"\\q\":1}", 0},
    {MLL_ERR_ST_NAME, "U+0000", "{\"a\\u0000\":" ENTRY("U8", "1", "0,1") "}", 1},
    {MLL_ERR_ST_METADATA, "'format': expected a string, found '1'",
     "{\"__metadata__\":{\"format\":1}}", 0},
    {MLL_ERR_ST_DUPLICATE_METADATA, "'k': expected once",
     "{\"__metadata__\":{\"k\":\"1\",\"k\":\"1\"}}", 0},
    {MLL_ERR_ST_DUPLICATE_TENSOR, "tensor 'a': expected once",
     "{\"a\":" ENTRY("U8", "1", "0,1") ",\"a\":" ENTRY("U8", "1", "1,2") "}", 2},
    {MLL_ERR_ST_ENTRY, "tensor 'a': byte", "{\"a\":[1]}", 0},
    {MLL_ERR_ST_FIELD_UNKNOWN, "found 'x'", "{\"a\":{\"x\":1}}", 0},
    {MLL_ERR_ST_FIELD_DUPLICATE, "expected 'dtype' once",
     "{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0},
    {MLL_ERR_ST_FIELD_MISSING, "expected a field 'shape'",
     "{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1},
    {MLL_ERR_ST_DTYPE, "found 'F33'", "{\"a\":" ENTRY("F33", "1", "0,1") "}", 1},
    {MLL_ERR_ST_SHAPE, "tensor 'a': byte",
     "{\"a\":{\"dtype\":\"U8\",\"shape\":1,\"data_offsets\":[0,1]}}", 1},
    {MLL_ERR_ST_RANK, "at most 8 dimensions", "{\"a\":" ENTRY("U8", "1,1,1,1,1,1,1,1,1", "0,1") "}",
     1},
    {MLL_ERR_ST_NUMBER, "found -1", "{\"a\":" ENTRY("U8", "-1", "0,1") "}", 1},
    {MLL_ERR_ST_OFFSETS, "the second of 2", "{\"a\":" ENTRY("U8", "1", "0") "}", 1},
    {MLL_ERR_ST_OFFSETS_REVERSED, "to end at 1 or later, found 0",
     "{\"a\":" ENTRY("U8", "1", "1,0") "}", 1},
    {MLL_ERR_ST_OVERFLOW, "expected a size that fits 64 bits, found U8 (",
     "{\"a\":" ENTRY("U8", "281474976710655,281474976710655", "0,1") "}", 1},
    {MLL_ERR_ST_SUB_BYTE, "expected a whole number of bytes, found F4 (3)",
     "{\"a\":" ENTRY("F4", "3", "0,1") "}", 1},
    {MLL_ERR_ST_SPAN, "expected data_offsets to span the 24 bytes of F32 (2, 3), found 20",
     "{\"a\":" ENTRY("F32", "2,3", "0,20") "}", 20},
    {MLL_ERR_ST_OVERLAP, "'b': expected to begin at 2",
     "{\"a\":" ENTRY("U8", "2", "0,2") ",\"b\":" ENTRY("U8", "2", "1,3") "}", 3},
    {MLL_ERR_ST_HOLE, "'b': expected to begin at 1",
     "{\"a\":" ENTRY("U8", "1", "0,1") ",\"b\":" ENTRY("U8", "1", "2,3") "}", 3},
    {MLL_ERR_ST_DATA_TRUNCATED, "expected 4 bytes of tensors after the header, found 3",
     "{\"a\":" ENTRY("F32", "", "0,4") "}", 3},
    {MLL_ERR_ST_DATA_TRAILING, "expected 4 bytes of tensors after the header, found 5",
     "{\"a\":" ENTRY("F32", "", "0,4") "}", 5},
};

/* length: what the file claims; the header's own where it is 0. */
static void write_raw(const struct fixture *f, uint64_t length, const char *header, size_t size,
                      int data)
{
    char *bytes = calloc(1, 8 + size + (size_t)data);
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)((length ? length : size) >> (8 * i));
    memcpy(bytes + 8, header, size);
    fixture_write(f, "model.safetensors", bytes, 8 + size + (size_t)data);
    free(bytes);
}

Test(damaged, safetensors_headers)
{
    struct fixture f;
    fixture_make(&f, FIXTURE_ONE_FILE, NULL);
    for (size_t i = 0; i < sizeof header_cases / sizeof *header_cases; i++) {
        const struct header_case *c = &header_cases[i];
        write_raw(&f, 0, c->header, strlen(c->header), c->data);
        expect_defect(&f, c->want, c->says, false, true);
        expect_defect(&f, c->want, "model.safetensors: ", false, false);
    }
    fixture_remove(&f);
}

/* ---- texts replaced in JSON files ------------------------------------------------------------ */

#define CONFIG    "config.json"
#define TOKENIZER "tokenizer.json"
#define INDEX     "model.safetensors.index.json"

static const struct text_case {
    enum mll_status want;
    const char *says;
    const char *file, *from, *to;
} text_cases[] = {
    {MLL_ERR_JSON_SYNTAX, "config.json: line 1", CONFIG, "{\"model_type\": ", "{\"model_type\" "},
    {MLL_ERR_JSON_DUPLICATE, "model_type", CONFIG,
     "{\"model_type\": ", "{\"model_type\": \"mllama\", \"model_type\": "},
    {MLL_ERR_CONFIG_MODEL_TYPE, "config.json: model_type: expected \"mllama\", found \"llava\"",
     CONFIG, "\"mllama\"", "\"llava\""},
    {MLL_ERR_CONFIG_KEY, "text_config.num_hidden_layers: expected an integer, found no such key",
     CONFIG, "\"num_hidden_layers\": 3", "\"layers\": 3"},
    {MLL_ERR_CONFIG_TYPE, "text_config.vocab_size: expected an integer, found a string", CONFIG,
     "\"vocab_size\": 264", "\"vocab_size\": \"264\""},
    {MLL_ERR_CONFIG_ZERO, "vision_config.patch_size: expected 1 to", CONFIG, "\"patch_size\": 14",
     "\"patch_size\": 0"},
    {MLL_ERR_CONFIG_NEGATIVE, "text_config.num_key_value_heads: expected 1 to 4096, found -1",
     CONFIG, "\"num_key_value_heads\": 1", "\"num_key_value_heads\": -1"},
    {MLL_ERR_CONFIG_TOO_LARGE, "found 1099511627776", CONFIG, "\"vocab_size\": 264",
     "\"vocab_size\": 1099511627776"},
    {MLL_ERR_CONFIG_VALUE, "rms_norm_eps: expected 1e-12 to 1, found -1", CONFIG,
     "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1"},
    {MLL_ERR_CONFIG_ACTIVATION, "vision_config.hidden_act: expected \"gelu\", found \"relu\"",
     CONFIG, "\"gelu\"", "\"relu\""},
    {MLL_ERR_CONFIG_HEADS, "vision_config.attention_heads: expected a divisor of 16, found 3",
     CONFIG, "\"attention_heads\": 2,\n  \"num_hidden_layers\": 2",
     "\"attention_heads\": 3,\n  \"num_hidden_layers\": 2"},
    {MLL_ERR_CONFIG_PATCH, "patch_size: expected at most image_size 28, found 29", CONFIG,
     "\"patch_size\": 14", "\"patch_size\": 29"},
    {MLL_ERR_CONFIG_ASPECT_RATIOS, "expected the 8 canvases of at most 4 tiles, found 2", CONFIG,
     "\"norm_eps\": 1e-05}}", "\"supported_aspect_ratios\": [[1, 1], [1, 2]]}}"},
    {MLL_ERR_CONFIG_KEPT_LAYER, "intermediate_layers_indices: expected 0 to 1, found 2", CONFIG,
     "\"intermediate_layers_indices\": [0]", "\"intermediate_layers_indices\": [2]"},
    {MLL_ERR_CONFIG_OUTPUT_DIM, "expected hidden_size * (1 + kept layers) = 32, found 48", CONFIG,
     "\"vision_output_dim\": 32", "\"vision_output_dim\": 48"},
    {MLL_ERR_CONFIG_CROSS_LAYER, "cross_attention_layers: expected 0 to 2, found 3", CONFIG,
     "\"cross_attention_layers\": [1]", "\"cross_attention_layers\": [3]"},
    {MLL_ERR_CONFIG_ROPE,
     "rope_scaling.rope_type: expected \"llama3\" or \"default\", found \"yarn\"", CONFIG,
     "\"llama3\"", "\"yarn\""},
    {MLL_ERR_CONFIG_TOKEN_ID, "config.json: text_config.eos_token_id: expected 0 to 271, found 272",
     CONFIG, "[258, 259]", "[258, 272]"},
    {MLL_ERR_GENERATION_VALUE, "generation_config.json: top_p: expected 0 to 1, found 1.5",
     "generation_config.json", "\"top_p\": 0.9", "\"top_p\": 1.5"},
    {MLL_ERR_PREPROCESS_VALUE, "preprocessor_config.json: resample: expected 2",
     "preprocessor_config.json", "\"resample\": 2", "\"resample\": 3"},
    {MLL_ERR_PREPROCESS_MISMATCH, "expected config.json's 28 pixels and 4 tiles, found 28 and 2",
     "preprocessor_config.json", "\"max_image_tiles\": 4", "\"max_image_tiles\": 2"},
    {MLL_ERR_IMAGE_TOKEN_EMBEDDING, "expected an id below the embedding's 272 rows, found 272",
     CONFIG, "\"image_token_index\": 264", "\"image_token_index\": 272"},
    {MLL_ERR_QUANT_METHOD, "found \"awq\"", CONFIG, "{\"model_type\"",
     "{\"quantization_config\": {\"quant_method\": \"awq\"}, \"model_type\""},
    {MLL_ERR_INDEX_FORM, "expected an object weight_map", INDEX, "\"weight_map\"", "\"weights\""},
};

/* More ways to the same defects. */
static const struct text_case variants[] = {
    {MLL_ERR_CONFIG_TYPE, "expected an object, found an array", CONFIG, "\"vision_config\": {",
     "\"vision_config\": [], \"other\": {"},
    {MLL_ERR_CONFIG_KEY, "text_config: expected an object, found no such key", CONFIG,
     "\"text_config\": {", "\"other\": {"},
    {MLL_ERR_CONFIG_TYPE, "expected an array of integers, found an integer", CONFIG,
     "\"cross_attention_layers\": [1]", "\"cross_attention_layers\": 1"},
    {MLL_ERR_CONFIG_TYPE, "expected integers, found a real number", CONFIG,
     "\"cross_attention_layers\": [1]", "\"cross_attention_layers\": [1.0]"},
    {MLL_ERR_CONFIG_TYPE, "expected a number, found a string", CONFIG, "\"rms_norm_eps\": 1e-05",
     "\"rms_norm_eps\": \"small\""},
    {MLL_ERR_CONFIG_TYPE, "expected a string, found true", CONFIG, "\"gelu\"", "true"},
    {MLL_ERR_CONFIG_TYPE, "expected true or false, found an integer", CONFIG, "\"rms_norm_eps\"",
     "\"tie_word_embeddings\": 1, \"rms_norm_eps\""},
    {MLL_ERR_CONFIG_TYPE, "expected an array of pairs, found an object", CONFIG,
     "\"norm_eps\": 1e-05}}", "\"supported_aspect_ratios\": {}}}"},
    {MLL_ERR_CONFIG_VALUE, "tie_word_embeddings: expected false", CONFIG, "\"rms_norm_eps\"",
     "\"tie_word_embeddings\": true, \"rms_norm_eps\""},
    {MLL_ERR_CONFIG_KEPT_LAYER, "expected distinct layers, found 0 twice", CONFIG, "[0]", "[0, 0]"},
    {MLL_ERR_CONFIG_KEY, "expected at least one layer, found none", CONFIG, "[0]", "[]"},
    {MLL_ERR_CONFIG_KEPT_LAYER, "expected 0 to 1, found -1", CONFIG, "[0]", "[-1]"},
    {MLL_ERR_CONFIG_CROSS_LAYER, "expected distinct layers, found 1 twice", CONFIG, "[1]",
     "[1, 1]"},
    {MLL_ERR_CONFIG_KEY, "cross_attention_layers: expected at least one", CONFIG, "[1]", "[]"},
    {MLL_ERR_CONFIG_HEADS, "num_key_value_heads: expected a divisor", CONFIG,
     "\"num_key_value_heads\": 1", "\"num_key_value_heads\": 3"},
    {MLL_ERR_CONFIG_HEADS, "expected an even share", CONFIG, "\"num_attention_heads\": 2",
     "\"num_attention_heads\": 8"},
    {MLL_ERR_CONFIG_HEADS, "head_dim: expected hidden_size / heads = 4, found 8", CONFIG,
     "\"rms_norm_eps\"", "\"head_dim\": 8, \"rms_norm_eps\""},
    {MLL_ERR_CONFIG_TOO_LARGE, "elements a row", CONFIG,
     "\"image_size\": 28, \"patch_size\": 14,\n  \"num_channels\": 3, \"max_num_tiles\": 4",
     "\"image_size\": 16384, \"patch_size\": 1, \"max_num_tiles\": 16"},
    {MLL_ERR_CONFIG_TOO_LARGE, "too big integer", CONFIG, "\"vocab_size\": 264",
     "\"vocab_size\": 99999999999999999999"},
    {MLL_ERR_CONFIG_ROPE, "expected an object or null, found an integer", CONFIG,
     "\"rope_scaling\": {", "\"rope_scaling\": 1, \"other\": {"},
    {MLL_ERR_CONFIG_ROPE, "partial_rotary_factor: expected 1, found 0.5", CONFIG, "\"factor\": 8.0",
     "\"factor\": 8.0, \"partial_rotary_factor\": 0.5"},
    {MLL_ERR_CONFIG_ROPE, "factor: expected a number, found none", CONFIG, "\"factor\": 8.0,", ""},
    {MLL_ERR_CONFIG_ROPE, "expected low_freq_factor < high_freq_factor, found 1 and 1", CONFIG,
     "\"high_freq_factor\": 4.0", "\"high_freq_factor\": 1.0"},
    {MLL_ERR_CONFIG_TOKEN_ID, "expected at most 16 entries, found 17", CONFIG, "[258, 259]",
     "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]"},
    {MLL_ERR_QUANT_METHOD, "found \"unknown\"", CONFIG, "{\"model_type\"",
     "{\"quantization_config\": {\"bits\": 4}, \"model_type\""},
    {MLL_ERR_CONFIG_TOKEN_ID, "generation_config.json: eos_token_id: expected an array",
     "generation_config.json", "[258, 259]", "\"end\""},
    {MLL_ERR_PREPROCESS_VALUE, "do_resize, do_pad: expected true", "preprocessor_config.json",
     "\"do_rescale\": true", "\"do_resize\": false"},
    {MLL_ERR_PREPROCESS_VALUE, "size.width: expected the height 28, found 29",
     "preprocessor_config.json", "\"width\": 28", "\"width\": 29"},
    {MLL_ERR_PREPROCESS_VALUE, "image_mean: expected 3 numbers", "preprocessor_config.json",
     "0.48145466, ", ""},
    {MLL_ERR_PREPROCESS_MISMATCH, "found 224 and 4", "preprocessor_config.json", "\"size\"",
     "\"crop\""},
    {MLL_ERR_INDEX_FORM, "expected a file name, found no string", INDEX,
     "\"language_model.lm_head.weight\": \"model-00002-of-00002.safetensors\"",
     "\"language_model.lm_head.weight\": 2"},
    {MLL_ERR_FORMAT_PICKLE, "found 'pytorch_model.bin'", INDEX,
     "\"language_model.lm_head.weight\": \"model-00002-of-00002.safetensors\"",
     "\"language_model.lm_head.weight\": \"pytorch_model.bin\""},
};

static const struct text_case tokenizer_cases[] = {
    {MLL_ERR_IMAGE_TOKEN_TOKENIZER, "expected <|image|> to be config.json's image_token_index 264",
     TOKENIZER, "\"id\": 264", "\"id\": 265"},
    {MLL_ERR_TOKENIZER_EMBEDDING,
     "expected ids below the embedding's 272 rows, found ids up to 300", TOKENIZER, "\"id\": 259",
     "\"id\": 300"},
    {MLL_ERR_TOKENIZER_MERGE_PART, "merge", TOKENIZER, "\"a b\"", "\"a zz\""},
    {MLL_ERR_TOKENIZER_MERGE_RESULT, "merge", TOKENIZER, "\"a b\"", "\"b a\""},
    {MLL_ERR_TOKENIZER_JSON, "tokenizer.json", TOKENIZER, "\"version\": ", "\"version\" "},
    {MLL_ERR_TOKENIZER_DUPLICATE_ID, "256", TOKENIZER, "\"ab\": 256", "\"ab\": 256, \"cd\": 256"},
};

static void run_text_cases(const struct text_case *cases, size_t n, bool loads)
{
    for (size_t i = 0; i < n; i++) {
        const struct text_case *c = &cases[i];
        struct fixture f;
        fixture_make(&f, strcmp(c->file, INDEX) == 0 ? FIXTURE_SHARDED : FIXTURE_ONE_FILE, NULL);
        fixture_replace(&f, c->file, c->from, c->to);
        expect_defect(&f, c->want, c->says, false, loads);
        fixture_remove(&f);
    }
}

Test(damaged, configuration)
{
    run_text_cases(text_cases, sizeof text_cases / sizeof *text_cases, true);
    run_text_cases(variants, sizeof variants / sizeof *variants, true);
}

Test(damaged, tokenizer)
{
    run_text_cases(tokenizer_cases, sizeof tokenizer_cases / sizeof *tokenizer_cases, false);
}

/* ---- everything else ------------------------------------------------------------------------- */

static void no_edit_shorten(const struct fixture *f)
{
    fixture_write(f, "model.safetensors", "abcd", 4);
}

static void claim_terabytes(const struct fixture *f)
{
    write_raw(f, UINT64_C(1) << 40, "{}", 2, 0);
}

static void claim_past_the_end(const struct fixture *f)
{
    write_raw(f, 1000, "{}", 2, 0);
}

/* One more tensor than is allowed, all empty. */
static void too_many_tensors(const struct fixture *f)
{
    size_t cap = (size_t)(ST_MAX_TENSORS + 1) * 64, n = 0;
    char *text = malloc(cap);
    for (int i = 0; i <= ST_MAX_TENSORS; i++)
        n += (size_t)snprintf(text + n, cap - n, "%c\"%d\":" ENTRY("U8", "0", "0,0"), i ? ',' : '{',
                              i);
    text[n++] = '}';
    write_raw(f, 0, text, n, 0);
    free(text);
}

static void make_directory(const struct fixture *f)
{
    char path[256];
    fixture_delete(f, "model.safetensors");
    fixture_path(f, path, "model.safetensors");
    mkdir(path, 0755);
}

static void no_weights(const struct fixture *f)
{
    fixture_delete(f, "model.safetensors");
}

static void gguf_instead(const struct fixture *f)
{
    no_weights(f);
    fixture_write(f, "model-q4_k.gguf", "GGUF", 4);
}

static void pickle_instead(const struct fixture *f)
{
    no_weights(f);
    fixture_write(f, "pytorch_model.bin", "PK", 2);
}

static void adapter_instead(const struct fixture *f)
{
    no_weights(f);
    fixture_delete(f, "config.json");
    fixture_write(f, "adapter_config.json", "{}", 2);
    fixture_write(f, "adapter_model.safetensors", "", 0);
}

static void no_config(const struct fixture *f)
{
    fixture_delete(f, "config.json");
}

/* 100,000 brackets: neither a crash nor a deep stack. */
static void deep_config(const struct fixture *f)
{
    size_t n = 100000;
    char *text = malloc(n);
    memset(text, '[', n);
    fixture_write(f, "config.json", text, n);
    free(text);
}

static void huge_config(const struct fixture *f)
{
    char path[256];
    fixture_path(f, path, "config.json");
    if (truncate(path, 65 << 20) != 0)
        cr_assert_fail("truncate");
}

static void escape_directory(const struct fixture *f)
{
    fixture_replace(f, INDEX, "lm_head.weight\": \"model", "lm_head.weight\": \"../model");
}

static void no_second_shard(const struct fixture *f)
{
    fixture_delete(f, "model-00002-of-00002.safetensors");
}

static void patch_first_element(const struct fixture *f, const char *bytes, size_t width)
{
    size_t size, header = 0;
    char *text = fixture_read(f, "model.safetensors", &size);
    for (int i = 7; i >= 0; i--)
        header = header << 8 | (uint8_t)text[i];
    memcpy(text + 8 + header, bytes, width);
    fixture_write(f, "model.safetensors", text, size);
    free(text);
}

static void put_nan(const struct fixture *f)
{
    patch_first_element(f, "\xc0\x7f", 2);
}

static void put_inf(const struct fixture *f)
{
    patch_first_element(f, "\x80\xff", 2);
}

static struct st_spec *find_spec(struct st_spec *specs, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(specs[i].name, name) == 0)
            return &specs[i];
    return NULL;
}

static void drop_norm(struct st_spec *specs, size_t *n, int shard)
{
    struct st_spec *s = find_spec(specs, *n, "language_model.model.norm.weight");
    (void)shard;
    if (s)
        *s = specs[--*n];
}

static void widen_norm(struct st_spec *specs, size_t *n, int shard)
{
    (void)shard;
    find_spec(specs, *n, "language_model.model.norm.weight")->shape[0] = 9;
}

static void integer_norm(struct st_spec *specs, size_t *n, int shard)
{
    (void)shard;
    find_spec(specs, *n, "language_model.model.norm.weight")->dtype = ST_DTYPE_I64;
}

static void add_new_name(struct st_spec *specs, size_t *n, int shard)
{
    (void)shard;
    specs[*n] = *find_spec(specs, *n, "language_model.model.norm.weight");
    specs[(*n)++].name = "model.language_model.norm.weight";
}

static void fewer_embeddings(struct st_spec *specs, size_t *n, int shard)
{
    (void)shard;
    find_spec(specs, *n, "language_model.model.embed_tokens.weight")->shape[0] = 264;
}

static void more_logits(struct st_spec *specs, size_t *n, int shard)
{
    (void)shard;
    find_spec(specs, *n, "language_model.lm_head.weight")->shape[0] = 265;
}

/* Moves the first tensor of shard 0 to shard 1. */
static void move_tensor(struct st_spec *specs, size_t *n, int shard)
{
    if (shard == 0)
        specs[0] = specs[--*n];
    else
        specs[(*n)++] = (struct st_spec){
            "vision_model.patch_embedding.weight", ST_DTYPE_BF16, 4, {16, 3, 14, 14}};
}

static void add_unlisted(struct st_spec *specs, size_t *n, int shard)
{
    if (shard == 1)
        specs[(*n)++] = (struct st_spec){"unlisted", ST_DTYPE_BF16, 1, {1}};
}

static void store_twice(struct st_spec *specs, size_t *n, int shard)
{
    if (shard == 1)
        specs[(*n)++] = (struct st_spec){"vision_model.class_embedding", ST_DTYPE_BF16, 1, {16}};
}

static const struct other_case {
    enum mll_status want;
    const char *says;
    enum fixture_layout layout;
    fixture_edit *edit;
    void (*damage)(const struct fixture *f);
    bool deep, check_only;
} other_cases[] = {
    {MLL_ERR_ST_HEADER_TOO_SMALL, "model.safetensors: expected at least 8 bytes, found 4",
     FIXTURE_ONE_FILE, NULL, no_edit_shorten, 0, 0},
    {MLL_ERR_ST_HEADER_TOO_LARGE, "found a length of 1099511627776", FIXTURE_ONE_FILE, NULL,
     claim_terabytes, 0, 0},
    {MLL_ERR_ST_HEADER_LENGTH, "at most the 2 bytes that follow, found a length of 1000",
     FIXTURE_ONE_FILE, NULL, claim_past_the_end, 0, 0},
    {MLL_ERR_ST_TOO_MANY, "expected at most 100000 tensors", FIXTURE_ONE_FILE, NULL,
     too_many_tensors, 0, 0},
    {MLL_ERR_FILE_NOT_REGULAR, "model.safetensors: expected a regular file", FIXTURE_ONE_FILE, NULL,
     make_directory, 0, 0},
    {MLL_ERR_NO_WEIGHTS, "expected model.safetensors or", FIXTURE_ONE_FILE, NULL, no_weights, 0, 0},
    {MLL_ERR_FORMAT_GGUF, "model-q4_k.gguf: expected safetensors", FIXTURE_ONE_FILE, NULL,
     gguf_instead, 0, 0},
    {MLL_ERR_FORMAT_PICKLE, "pytorch_model.bin", FIXTURE_ONE_FILE, NULL, pickle_instead, 0, 0},
    {MLL_ERR_FORMAT_LORA, "adapter_config.json", FIXTURE_ONE_FILE, NULL, adapter_instead, 0, 0},
    {MLL_ERR_CONFIG_MISSING, "config.json: expected in", FIXTURE_ONE_FILE, NULL, no_config, 0, 0},
    {MLL_ERR_JSON_DEPTH, "config.json: line 1", FIXTURE_ONE_FILE, NULL, deep_config, 0, 0},
    {MLL_ERR_JSON_TOO_LARGE, "config.json: expected at most 67108864 bytes", FIXTURE_ONE_FILE, NULL,
     huge_config, 0, 0},
    {MLL_ERR_INDEX_FILE_NAME, "expected a bare file name, found '../model", FIXTURE_SHARDED, NULL,
     escape_directory, 0, 0},
    {MLL_ERR_SHARD_MISSING, "model-00002-of-00002.safetensors: expected a shard in",
     FIXTURE_SHARDED, NULL, no_second_shard, 0, 0},
    {MLL_ERR_SHARD_TENSOR_ABSENT,
     "model-00002-of-00002.safetensors: expected tensor 'language_model.model.norm.weight'",
     FIXTURE_SHARDED, drop_norm, NULL, 0, 0},
    {MLL_ERR_SHARD_TENSOR_ELSEWHERE,
     "expected in model-00001-of-00002.safetensors by the index, found in model-00002",
     FIXTURE_SHARDED, move_tensor, NULL, 0, 0},
    {MLL_ERR_SHARD_TENSOR_UNLISTED, "model-00002-of-00002.safetensors: tensor 'unlisted'",
     FIXTURE_SHARDED, add_unlisted, NULL, 0, 0},
    {MLL_ERR_SHARD_TENSOR_TWICE, "'vision_model.class_embedding': expected only in model-00001",
     FIXTURE_SHARDED, store_twice, NULL, 0, 0},
    {MLL_ERR_TENSOR_MISSING,
     "'language_model.model.norm.weight' (or 'model.language_model.norm.weight'): expected (8), "
     "found none",
     FIXTURE_ONE_FILE, drop_norm, NULL, 0, 0},
    {MLL_ERR_TENSOR_SHAPE,
     "model.safetensors: tensor 'language_model.model.norm.weight': expected shape (8), found (9)",
     FIXTURE_ONE_FILE, widen_norm, NULL, 0, 0},
    {MLL_ERR_TENSOR_DTYPE, "expected dtype F32, F16 or BF16, found I64", FIXTURE_ONE_FILE,
     integer_norm, NULL, 0, 0},
    {MLL_ERR_TENSOR_TWO_NAMES, "found also 'model.language_model.norm.weight'", FIXTURE_ONE_FILE,
     add_new_name, NULL, 0, 0},
    {MLL_ERR_EMBEDDING_ROWS, "embed_tokens.weight': expected shape (272, 8), found (264, 8)",
     FIXTURE_ONE_FILE, fewer_embeddings, NULL, 0, 0},
    {MLL_ERR_LM_HEAD_ROWS, "lm_head.weight': expected shape (264, 8), found (265, 8)",
     FIXTURE_ONE_FILE, more_logits, NULL, 0, 0},
    {MLL_ERR_WEIGHT_NAN, "found NaN 1 times, first at element 0", FIXTURE_ONE_FILE, NULL, put_nan,
     1, 1},
    {MLL_ERR_WEIGHT_INF, "found infinity 1 times, first at element 0", FIXTURE_ONE_FILE, NULL,
     put_inf, 1, 1},
};

Test(damaged, files_shards_tensors_and_values)
{
    for (size_t i = 0; i < sizeof other_cases / sizeof *other_cases; i++) {
        const struct other_case *c = &other_cases[i];
        struct fixture f;
        fixture_make(&f, c->layout, c->edit);
        if (c->damage)
            c->damage(&f);
        expect_defect(&f, c->want, c->says, c->deep, !c->check_only);
        fixture_remove(&f);
    }
}

/* ---- the promise as a whole ------------------------------------------------------------------ */

Test(damaged, every_defect_has_a_code_of_its_own)
{
    enum mll_status all[256];
    size_t n = 0;
    for (size_t i = 0; i < sizeof header_cases / sizeof *header_cases; i++)
        all[n++] = header_cases[i].want;
    for (size_t i = 0; i < sizeof text_cases / sizeof *text_cases; i++)
        all[n++] = text_cases[i].want;
    for (size_t i = 0; i < sizeof tokenizer_cases / sizeof *tokenizer_cases; i++)
        all[n++] = tokenizer_cases[i].want;
    for (size_t i = 0; i < sizeof other_cases / sizeof *other_cases; i++)
        all[n++] = other_cases[i].want;
    cr_expect_geq(n, 45);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < i; k++) {
            cr_expect_neq(all[i], all[k], "%s stands twice", mll_status_name(all[i]));
            cr_expect_str_neq(mll_status_name(all[i]), mll_status_name(all[k]));
        }
}

static void all_f32(struct st_spec *specs, size_t *n, int shard)
{
    (void)shard;
    for (size_t i = 0; i < *n; i++)
        specs[i].dtype = ST_DTYPE_F32;
}

static void all_f16(struct st_spec *specs, size_t *n, int shard)
{
    (void)shard;
    for (size_t i = 0; i < *n; i++)
        specs[i].dtype = ST_DTYPE_F16;
}

/* Each dtype has its own bits for NaN, infinity and the largest finite number. */
Test(damaged, deep_knows_the_bits_of_every_dtype)
{
    static const struct {
        fixture_edit *edit;
        size_t width;
        const char *bits;
        enum mll_status want;
    } cases[] = {
        {all_f32, 4, "\1\0\x80\x7f", MLL_ERR_WEIGHT_NAN},
        {all_f32, 4, "\0\0\x80\xff", MLL_ERR_WEIGHT_INF},
        {all_f32, 4, "\xff\xff\x7f\x7f", MLL_OK},
        {all_f16, 2, "\1\xfc", MLL_ERR_WEIGHT_NAN},
        {all_f16, 2, "\0\x7c", MLL_ERR_WEIGHT_INF},
        {all_f16, 2, "\xff\x7b", MLL_OK},
        {NULL, 2, "\x81\x7f", MLL_ERR_WEIGHT_NAN},
        {NULL, 2, "\x7f\x7f", MLL_OK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        struct mll_error err;
        fixture_make(&f, FIXTURE_ONE_FILE, cases[i].edit);
        patch_first_element(&f, cases[i].bits, cases[i].width);
        cr_expect_eq(mll_check(f.dir, true, NULL, NULL, &err), cases[i].want, "case %zu", i);
        cr_expect_eq(mll_check(f.dir, false, NULL, NULL, &err), MLL_OK, "headers alone");
        fixture_remove(&f);
    }
}

/* An incomplete download in the HF cache: links without their blobs. */
Test(damaged, dangling_links_are_missing_files)
{
    static const struct {
        const char *name;
        enum mll_status want;
    } cases[] = {{"generation_config.json", MLL_ERR_CONFIG_MISSING},
                 {"preprocessor_config.json", MLL_ERR_CONFIG_MISSING},
                 {"model.safetensors", MLL_ERR_SHARD_MISSING}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct fixture f;
        char path[256];
        fixture_make(&f, FIXTURE_ONE_FILE, NULL);
        fixture_delete(&f, cases[i].name);
        fixture_path(&f, path, cases[i].name);
        cr_assert_eq(symlink("../../blobs/absent", path), 0);
        expect_defect(&f, cases[i].want, cases[i].name, false, true);
        fixture_remove(&f);
    }
}

/* Several defects at once: check names all of them, loading says how many more there are. */
Test(damaged, check_reports_every_defect)
{
    struct fixture f;
    struct findings found = {0};
    struct mll_error err = {0};
    fixture_make(&f, FIXTURE_ONE_FILE, widen_norm);
    fixture_replace(&f, TOKENIZER, "\"id\": 264", "\"id\": 265");
    put_nan(&f);
    mll_check(f.dir, true, on_finding, &found, &err);
    cr_expect_eq(found.n, 3, "%zu findings", found.n);
    cr_expect(strstr(err.message, "(and 2 more)") != NULL, "%s", err.message);
    fixture_remove(&f);
}

Test(damaged, a_missing_directory_is_no_input)
{
    struct mll_error err = {0};
    enum mll_status status = mll_check("/nonexistent/model", false, NULL, NULL, &err);
    cr_expect_eq(mll_status_exit_code(status), 66, "%s", err.message);
}
