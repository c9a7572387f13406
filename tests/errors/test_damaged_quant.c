/* test_damaged_quant.c - damaged bitsandbytes checkpoints: each defect has its status, and a
 * message that names the tensor, what was expected and what was found; check and loading agree.
 *
 * A case copies a golden checkpoint and changes one tensor of it. */
#include "mllama.h"
#include "safetensors_write.h"
#include "weights.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_TENSORS = 512, MAX_PATH = 600 };

enum damage {
    DROP,   /* the tensor is left out */
    DTYPE,  /* it becomes `number`, an enum st_dtype, of one dimension and the same bytes */
    LENGTH, /* its first dimension grows by `number` */
    TEXT,   /* `from` in its bytes becomes `to`, as long */
    FLOAT,  /* its first float becomes `to` */
    BYTE,   /* its first byte becomes `number` */
};

#define NF4    "quant_nf4"
#define INT8   "quant_int8"
#define FC1    "model.vision_model.transformer.layers.0.mlp.fc1.weight"
#define STATE  FC1 ".quant_state.bitsandbytes__nf4"
#define Q_PROJ "language_model.model.layers.0.self_attn.q_proj"

static const struct quant_damage {
    enum mll_status want;
    const char *says;
    const char *model, *tensor;
    enum damage damage;
    int number;
    const char *from, *to;
} cases[] = {
    {MLL_ERR_TENSOR_MISSING, "'" FC1 ".absmax': expected F32 (128)", NF4, FC1 ".absmax", DROP, 0,
     NULL, NULL},
    {MLL_ERR_TENSOR_MISSING, "'" FC1 ".quant_map': expected F32 (16)", NF4, FC1 ".quant_map", DROP,
     0, NULL, NULL},
    {MLL_ERR_TENSOR_MISSING, "'" STATE "' (or __fp4)", NF4, STATE, DROP, 0, NULL, NULL},
    {MLL_ERR_TENSOR_SHAPE, "absmax': expected 128 elements, found 129", NF4, FC1 ".absmax", LENGTH,
     1, NULL, NULL},
    {MLL_ERR_TENSOR_DTYPE, "absmax': expected dtype F32, found BF16", NF4, FC1 ".absmax", DTYPE,
     ST_DTYPE_BF16, NULL, NULL},
    {MLL_ERR_TENSOR_SHAPE, "'" FC1 "': expected 4096 bytes of 4-bit codes, found 4095", NF4, FC1,
     LENGTH, -1, NULL, NULL},
    {MLL_ERR_TENSOR_DTYPE, "'" FC1 "': expected 4-bit codes in U8, BF16, F16 or F32, found I16",
     NF4, FC1, DTYPE, ST_DTYPE_I16, NULL, NULL},
    {MLL_ERR_QUANT_STATE, "quant_map': element 0: expected -1, found 0.5", NF4, FC1 ".quant_map",
     FLOAT, 0, NULL, "0.5"},
    {MLL_ERR_QUANT_STATE, "quant_type: expected \"nf4\" or \"fp4\", found \"af4\"", NF4, STATE,
     TEXT, 0, "\"nf4\"", "\"af4\""},
    {MLL_ERR_QUANT_STATE, "quant_type: expected the type of its name, found \"fp4\"", NF4, STATE,
     TEXT, 0, "\"nf4\"", "\"fp4\""},
    {MLL_ERR_QUANT_STATE, "blocksize: expected a power of two, found 65", NF4, STATE, TEXT, 0,
     "\"blocksize\": 64", "\"blocksize\": 65"},
    {MLL_ERR_QUANT_STATE, "blocksize: expected 32 to 4096, found 16", NF4, STATE, TEXT, 0,
     "\"blocksize\": 64", "\"blocksize\": 16"},
    {MLL_ERR_QUANT_STATE, "dtype: expected float32, float16 or bfloat16, found \"bfloat17\"", NF4,
     STATE, TEXT, 0, "bfloat16", "bfloat17"},
    {MLL_ERR_TENSOR_SHAPE, "shape: expected (128, 64), found (128, 65)", NF4, STATE, TEXT, 0,
     "[128, 64]", "[128, 65]"},
    {MLL_ERR_QUANT_STATE, "shape: expected two sizes, found 1", NF4, STATE, TEXT, 0, "[128, 64]",
     "[12864  ]"},
    {MLL_ERR_JSON_SYNTAX, STATE, NF4, STATE, TEXT, 0, "[128, 64]", "[128, 64,"},
    {MLL_ERR_QUANT_STATE, STATE "': expected at most 4096 bytes of JSON, found 79 of I8", NF4,
     STATE, DTYPE, ST_DTYPE_I8, NULL, NULL},
    {MLL_ERR_QUANT_STATE, "nested_blocksize: expected 256", "quant_fp4",
     "model.language_model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__fp4", TEXT, 0,
     "\"nested_blocksize\": 256", "\"nested_blocksize\": 255"},
    {MLL_ERR_TENSOR_MISSING, "nested_quant_map': expected F32 (256)", "quant_fp4",
     "model.language_model.layers.0.mlp.up_proj.weight.nested_quant_map", DROP, 0, NULL, NULL},
    {MLL_ERR_TENSOR_MISSING, "'" Q_PROJ ".SCB': expected F32 (32)", INT8, Q_PROJ ".SCB", DROP, 0,
     NULL, NULL},
    {MLL_ERR_TENSOR_SHAPE, "'" Q_PROJ ".weight': expected 32 x 32 8-bit codes", INT8,
     Q_PROJ ".weight", LENGTH, 1, NULL, NULL},
    {MLL_ERR_QUANT_METHOD, "weight_format': expected 0, codes row by row, found 2", INT8,
     Q_PROJ ".weight_format", BYTE, 2, NULL, NULL},
    {MLL_ERR_WEIGHT_NAN, "absmax': expected finite values, found NaN 1 times", NF4, FC1 ".absmax",
     FLOAT, 0, NULL, "nan"},
    {MLL_ERR_WEIGHT_INF, "SCB': expected finite values, found infinity 1 times", INT8,
     Q_PROJ ".SCB", FLOAT, 0, NULL, "inf"},
};

enum { N_CASES = sizeof cases / sizeof cases[0] };

/* ---- a damaged copy -------------------------------------------------------------------------- */

static void copy_text(const char *from, const char *to, const char *name)
{
    char path[MAX_PATH], bytes[1 << 14];
    snprintf(path, sizeof path, "%s/%s", from, name);
    FILE *in = fopen(path, "rb");
    snprintf(path, sizeof path, "%s/%s", to, name);
    FILE *out = fopen(path, "wb");
    cr_assert(in != NULL && out != NULL, "%s", path);
    fwrite(bytes, 1, fread(bytes, 1, sizeof bytes, in), out);
    fclose(in);
    fclose(out);
}

static void change_spec(struct st_spec *spec, const struct quant_damage *c, int64_t bytes)
{
    if (c->damage == DTYPE) {
        spec->dtype = (enum st_dtype)c->number;
        spec->rank = 1;
        spec->shape[0] = bytes * 8 / st_dtype_bits(spec->dtype);
    } else if (c->damage == LENGTH) {
        spec->shape[0] += c->number;
    }
}

static void change_bytes(unsigned char *bytes, size_t size, const struct quant_damage *c)
{
    if (c->damage == BYTE)
        bytes[0] = (unsigned char)c->number;
    if (c->damage == FLOAT) {
        float x = strtof(c->to, NULL);
        memcpy(bytes, &x, sizeof x);
    }
    if (c->damage != TEXT)
        return;
    unsigned char *at = memmem(bytes, size, c->from, strlen(c->from));
    cr_assert(at != NULL && strlen(c->from) == strlen(c->to), "%s: no %s", c->says, c->from);
    memcpy(at, c->to, strlen(c->to));
}

/* The checkpoint of the case, one file, with its one tensor changed. */
static void copy_weights(const char *from, const char *to, const struct quant_damage *c)
{
    static struct st_spec specs[MAX_TENSORS];
    struct st_file *file;
    struct st_writer *writer;
    struct st_error err;
    char path[MAX_PATH];
    size_t n = 0;
    bool met = false;
    snprintf(path, sizeof path, "%s/model.safetensors", from);
    cr_assert_eq(st_open(&file, path, ST_MODE_READ, &err), ST_OK, "%s", err.message);
    for (size_t i = 0; i < st_count(file); i++) {
        const struct st_tensor *t = st_at(file, i);
        bool victim = strcmp(t->name, c->tensor) == 0;
        met = met || victim;
        if (victim && c->damage == DROP)
            continue;
        specs[n] = (struct st_spec){t->name, t->dtype, t->rank, {0}};
        memcpy(specs[n].shape, t->shape, sizeof specs[n].shape);
        if (victim)
            change_spec(&specs[n], c, t->size);
        n++;
    }
    cr_assert(met, "no tensor %s", c->tensor);
    snprintf(path, sizeof path, "%s/model.safetensors", to);
    cr_assert_eq(st_create(&writer, path, specs, n, NULL, 0, &err), ST_OK, "%s", err.message);
    for (size_t i = 0; i < n; i++) {
        const struct st_tensor *t = st_find(file, specs[i].name);
        int64_t size;
        cr_assert_eq(st_dtype_bytes(&size, specs[i].dtype, specs[i].shape, specs[i].rank), ST_OK);
        unsigned char *bytes = calloc(1, (size_t)size + 1);
        memcpy(bytes, t->data, (size_t)(t->size < size ? t->size : size));
        if (strcmp(t->name, c->tensor) == 0)
            change_bytes(bytes, (size_t)size, c);
        cr_assert_eq(st_put(writer, i, bytes, 0, (size_t)size, &err), ST_OK, "%s", err.message);
        free(bytes);
    }
    cr_assert_eq(st_finish(writer, &err), ST_OK, "%s", err.message);
    st_close(file);
}

/* ---- the cases ------------------------------------------------------------------------------- */

struct findings {
    size_t n;
    char message[600]; /* of the first */
};

static void on_finding(void *user, enum mll_status code, const char *message)
{
    struct findings *f = user;
    if (code != MLL_OK && f->n++ == 0)
        snprintf(f->message, sizeof f->message, "%s", message);
}

static void expect_defect(const char *dir, const struct quant_damage *c)
{
    struct findings found = {0};
    struct mll_error err = {0};
    struct cfg cfg;
    struct weights *w = NULL;
    const char *want = mll_status_name(c->want);
    enum mll_status status = mll_check(dir, true, on_finding, &found, &err);
    cr_expect_eq(status, c->want, "%s: check: expected %s, found %s", c->says, want, err.message);
    cr_expect(strstr(found.message, c->says) != NULL, "message lacks \"%s\": %s", c->says,
              found.message);
    if (c->want == MLL_ERR_WEIGHT_NAN || c->want == MLL_ERR_WEIGHT_INF)
        return; /* loading does not look at values */
    cr_expect_eq(found.n, 1, "%s: %zu findings", c->says, found.n);
    cr_assert_eq(cfg_load(&cfg, dir, &err), MLL_OK);
    status = weights_load(&w, &cfg, dir, false, &err);
    cr_expect_eq(status, c->want, "%s: loading: expected %s, found %s", c->says, want, err.message);
    cr_expect_null(w);
}

Test(damaged_quant, every_defect_has_its_name)
{
    static const char *const texts[] = {"config.json", "generation_config.json",
                                        "preprocessor_config.json", "tokenizer.json"};
    for (int i = 0; i < N_CASES; i++) {
        char from[MAX_PATH - 64], to[64], path[MAX_PATH];
        snprintf(from, sizeof from, "%s/tests/golden/cases/%s/model", MLL_SOURCE_DIR,
                 cases[i].model);
        snprintf(to, sizeof to, "/tmp/mllama-quant-XXXXXX");
        cr_assert(mkdtemp(to) != NULL);
        for (int t = 0; t < 4; t++)
            copy_text(from, to, texts[t]);
        copy_weights(from, to, &cases[i]);
        expect_defect(to, &cases[i]);
        for (int t = 0; t < 5; t++) {
            snprintf(path, sizeof path, "%s/%s", to, t < 4 ? texts[t] : "model.safetensors");
            unlink(path);
        }
        rmdir(to);
    }
}
