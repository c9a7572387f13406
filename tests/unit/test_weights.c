/* test_weights.c - the weight table against the names and shapes of transformers' state dict, and
 * binding of checkpoints in both name layouts. The damaged ones are in tests/errors. */
#include "../errors/fixture.h"
#include "checkpoint.h"
#include "weights.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ENTRIES 2048

/* ---- the released geometries ----------------------------------------------------------------- */

static void load_11b(struct cfg *cfg)
{
    struct mll_error err;
    enum mll_status status =
        cfg_load(cfg, MLL_SOURCE_DIR "/bench/configs/llama-3.2-11b-vision", &err);
    cr_assert_eq(status, MLL_OK, "%s", err.message);
}

static void make_base(struct cfg *cfg)
{
    cfg->vision.image_size = 448;
    cfg->vision.grid = 32;
    cfg->vision.patches = 1024;
}

static void make_90b(struct cfg *cfg)
{
    struct cfg_text *t = &cfg->text;
    t->hidden_size = 8192;
    t->intermediate_size = 28672;
    t->heads = 64;
    t->layers = 100;
    for (int l = 0; l < t->layers; l++)
        t->is_cross[l] = l % 5 == 3;
    t->n_cross = 20;
}

/* "DIMxDIM" of an entry. */
static void show_shape(char out[96], const struct weights_entry *e)
{
    int n = 0;
    for (int i = 0; i < e->n_dims; i++)
        n += snprintf(out + n, 96 - (size_t)n, i ? "x%lld" : "%lld", (long long)e->dims[i]);
}

/* The entry of a new-layout name has that shape; fails the test where there is none. */
static void expect_entry(const struct weights_entry *entries, size_t n, const char *name,
                         const char *shape)
{
    char found[96];
    for (size_t i = 0; i < n; i++)
        if (strcmp(entries[i].new_name, name) == 0) {
            show_shape(found, &entries[i]);
            cr_expect_str_eq(found, shape, "%s: expected %s, found %s", name, shape, found);
            return;
        }
    cr_expect_fail("the table lacks %s", name);
}

/* Every tensor of one geometry in the golden list; returns how many. */
static size_t expect_golden(const struct weights_entry *entries, size_t n_entries,
                            const char *geometry)
{
    char line[1024], name[16], pattern[128], shape[96], layers[512], full[256];
    size_t n = 0;
    FILE *in = fopen(MLL_SOURCE_DIR "/tests/golden/weights.txt", "r");
    cr_assert_not_null(in);
    while (fgets(line, sizeof line, in)) {
        if (sscanf(line, "%15s %127s %95s %511s", name, pattern, shape, layers) != 4 ||
            strcmp(name, geometry) != 0)
            continue;
        const char *mark = strstr(pattern, "%d");
        for (char *at = layers; *at; n++) {
            long layer = strtol(at, &at, 10);
            at += *at == ',';
            snprintf(full, sizeof full, "%s", pattern);
            if (mark)
                snprintf(full, sizeof full, "%.*s%ld%s", (int)(mark - pattern), pattern, layer,
                         mark + 2);
            expect_entry(entries, n_entries, full, shape);
        }
    }
    fclose(in);
    return n;
}

static void expect_geometry(const struct cfg *cfg, const char *geometry, size_t tensors,
                            int64_t parameters)
{
    struct weights_entry e = {0}, *entries = calloc(MAX_ENTRIES, sizeof *entries);
    size_t n = 0;
    int64_t total = 0;
    for (; weights_next(&e, cfg) && n < MAX_ENTRIES; n++) {
        total += (int64_t)e.rows * e.cols;
        entries[n] = e;
    }
    cr_expect_eq(n, tensors, "%s: %zu tensors", geometry, n);
    cr_expect_eq(total, parameters, "%s: %lld parameters", geometry, (long long)total);
    cr_expect_eq(expect_golden(entries, n, geometry), tensors);
    free(entries);
}

Test(weights, table_equals_transformers_for_the_released_models)
{
    struct cfg cfg;
    load_11b(&cfg);
    expect_geometry(&cfg, "11b", 906, INT64_C(10670220835));
    make_base(&cfg);
    expect_geometry(&cfg, "11b-base", 906, INT64_C(10642941475));
    load_11b(&cfg);
    make_90b(&cfg);
    expect_geometry(&cfg, "90b", 1494, INT64_C(88593355323));
}

Test(weights, names_and_fields_are_distinct)
{
    struct cfg cfg;
    struct weights *w;
    struct weights_entry e = {0};
    load_11b(&cfg);
    cr_assert_eq(weights_alloc(&w, &cfg, MLL_DTYPE_BF16, NULL), MLL_OK);
    while (weights_next(&e, &cfg)) {
        struct mat *m = weights_field(w, &e);
        cr_expect_eq(m->dtype, MLL_DTYPE_BF16, "%s shares its field", e.name);
        cr_expect(m->rows == e.rows && m->cols == e.cols, "%s", e.name);
        cr_expect_eq(weights_mat_bytes(m), 2 * (size_t)e.rows * (size_t)e.cols);
        m->dtype = MLL_DTYPE_NONE;
    }
    weights_free(w);
}

/* ---- binding --------------------------------------------------------------------------------- */

/* Writes the new name of an old one. */
static void rename_tensor(char out[WEIGHTS_MAX_NAME], const char *name)
{
    static const char *const prefixes[][2] = {{"vision_model.", "model.vision_model."},
                                              {"multi_modal_", "model.multi_modal_"},
                                              {"language_model.model.", "model.language_model."},
                                              {"language_model.lm_head", "lm_head"}};
    for (size_t i = 0; i < 4; i++) {
        size_t n = strlen(prefixes[i][0]);
        if (strncmp(name, prefixes[i][0], n) == 0)
            snprintf(out, WEIGHTS_MAX_NAME, "%s%s", prefixes[i][1], name + n);
    }
}

/* New names for every other tensor: any mix is accepted. One tensor that nothing needs. */
static void mix_names(struct st_spec *specs, size_t *n, int shard)
{
    static char names[256][WEIGHTS_MAX_NAME];
    for (size_t i = 0; i < *n; i += 2) {
        rename_tensor(names[i], specs[i].name);
        specs[i].name = names[i];
    }
    specs[(*n)++] = (struct st_spec){"rotary_emb.inv_freq", ST_DTYPE_F32, 1, {2}};
    (void)shard;
}

static void mix_dtypes(struct st_spec *specs, size_t *n, int shard)
{
    static const enum st_dtype dtypes[] = {ST_DTYPE_F32, ST_DTYPE_F16, ST_DTYPE_BF16};
    for (size_t i = 0; i < *n; i++)
        specs[i].dtype = dtypes[i % 3];
    (void)shard;
}

static struct weights *load_fixture(struct fixture *f, struct cfg *cfg, bool no_mmap)
{
    struct weights *w;
    struct mll_error err;
    cr_assert_eq(cfg_load(cfg, f->dir, &err), MLL_OK, "%s", err.message);
    cr_assert_eq(weights_load(&w, cfg, f->dir, no_mmap, &err), MLL_OK, "%s", err.message);
    return w;
}

Test(weights, both_name_layouts_may_be_mixed)
{
    struct fixture f;
    struct cfg cfg;
    struct weights_entry e = {0};
    fixture_make(&f, FIXTURE_ONE_FILE, mix_names);
    struct weights *w = load_fixture(&f, &cfg, false);
    while (weights_next(&e, &cfg))
        cr_expect_not_null(weights_field(w, &e)->data, "%s is not bound", e.name);
    cr_expect_eq(w->n_unused, 1);
    cr_expect_str_eq(w->unused[0], "rotary_emb.inv_freq");
    weights_free(w);
    fixture_remove(&f);
}

/* Each tensor's data is the file's, whatever its dtype, mapped or read, in one file or two. */
Test(weights, data_is_the_files)
{
    for (int i = 0; i < 8; i++) {
        struct fixture f;
        struct cfg cfg;
        struct weights_entry e = {0};
        fixture_make(&f, i & 1 ? FIXTURE_SHARDED : FIXTURE_ONE_FILE, i & 2 ? mix_dtypes : NULL);
        struct weights *w = load_fixture(&f, &cfg, i & 4);
        while (weights_next(&e, &cfg)) {
            const struct mat *m = weights_field(w, &e);
            const struct st_tensor *t = weights_find(&e, w->ckpt);
            cr_expect_eq(m->data, t->data);
            cr_expect_eq((int64_t)weights_mat_bytes(m), t->size, "%s", e.name);
        }
        weights_free(w);
        fixture_remove(&f);
    }
}

Test(weights, layers_have_the_attention_of_their_kind)
{
    struct fixture f;
    struct cfg cfg;
    fixture_make(&f, FIXTURE_ONE_FILE, NULL);
    struct weights *w = load_fixture(&f, &cfg, false);
    for (int l = 0; l < cfg.text.layers; l++) {
        const struct text_layer *t = &w->layers[l];
        cr_expect_eq(t->q_norm.data != NULL, cfg.text.is_cross[l]);
        cr_expect_eq(t->mlp_gate.data != NULL, cfg.text.is_cross[l]);
        cr_expect(t->q.data && t->k.data && t->v.data && t->o.data && t->down.data);
    }
    cr_expect_null(w->local[0].gate_attn.data);
    cr_expect_not_null(w->global[0].gate_ffn.data);
    weights_free(w);
    fixture_remove(&f);
}

Test(weights, a_file_cut_while_mapped_is_noticed)
{
    struct fixture f;
    struct cfg cfg;
    struct mll_error err;
    size_t size;
    fixture_make(&f, FIXTURE_ONE_FILE, NULL);
    struct weights *w = load_fixture(&f, &cfg, false);
    cr_expect_eq(ckpt_check_unchanged(w->ckpt, &err), MLL_OK);
    char *bytes = fixture_read(&f, "model.safetensors", &size);
    fixture_write(&f, "model.safetensors", bytes, size - 1);
    cr_expect_eq(ckpt_check_unchanged(w->ckpt, &err), MLL_ERR_FILE_CHANGED);
    cr_expect(strstr(err.message, "model.safetensors: "), "%s", err.message);
    free(bytes);
    weights_free(w);
    fixture_remove(&f);
}
