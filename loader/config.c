#include "config.h"

#include "checkpoint.h"
#include "json_read.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_WIDTH  (1 << 17) /* hidden sizes */
#define MAX_MLP    (1 << 20)
#define MAX_HEADS  4096
#define MAX_VOCAB  (1 << 19)
#define MAX_IMAGE  (1 << 14)
#define MAX_TOKENS (1 << 30)

/* Defects are counted around a part: what is derived from it is only checked if the part is sound.
 */

int cfg_canvases(int max_tiles)
{
    int n = 0;
    for (int rows = 1; rows <= max_tiles; rows++)
        n += max_tiles / rows;
    return n;
}

/* Adds a defect where a product of sizes exceeds an int, the type of struct mat's dimensions. */
static void check_product(const struct jr_object *o, const char *what, int a, int b, int c)
{
    if ((int64_t)a * b > INT_MAX || (int64_t)a * b * c > INT_MAX)
        jr_defect(o, what, MLL_ERR_CONFIG_TOO_LARGE, "expected at most %d elements a row, found %g",
                  INT_MAX, (double)a * b * c);
}

/* ---- vision_config --------------------------------------------------------------------------- */

static void read_aspect_ratios(struct cfg_vision *v, const struct jr_object *o)
{
    const json_t *list = jr_get(o, "supported_aspect_ratios", NULL);
    int canvases = cfg_canvases(v->max_tiles);
    v->aspect_ratios = list ? (int)json_array_size(list) : cfg_canvases(4);
    if (list && !json_is_array(list))
        jr_defect(o, "supported_aspect_ratios", MLL_ERR_CONFIG_TYPE,
                  "expected an array of pairs, found %s", jr_type_name(list));
    else if (v->aspect_ratios != canvases)
        /* Ids count the canvases of the image processor; the tables have a row for each. */
        jr_defect(o, "supported_aspect_ratios", MLL_ERR_CONFIG_ASPECT_RATIOS,
                  "expected the %d canvases of at most %d tiles, found %d", canvases, v->max_tiles,
                  v->aspect_ratios);
}

static void read_kept_layers(struct cfg_vision *v, const struct jr_object *o)
{
    static const char key[] = "intermediate_layers_indices";
    bool seen[CFG_MAX_LAYERS] = {false};
    size_t before = o->d->n;
    v->n_kept =
        jr_ints(o, key, false, v->kept, CFG_MAX_KEPT, 0, v->layers - 1, MLL_ERR_CONFIG_KEPT_LAYER);
    if (o->d->n > before)
        return;
    if (v->n_kept == 0)
        jr_defect(o, key, MLL_ERR_CONFIG_KEY, "expected at least one layer, found none");
    for (int i = 0; i < v->n_kept; i++) {
        if (seen[v->kept[i]])
            jr_defect(o, key, MLL_ERR_CONFIG_KEPT_LAYER, "expected distinct layers, found %d twice",
                      v->kept[i]);
        seen[v->kept[i]] = true;
    }
    int want = v->hidden_size * (1 + v->n_kept);
    if (o->d->n == before && v->output_dim != want)
        jr_defect(o, "vision_output_dim", MLL_ERR_CONFIG_OUTPUT_DIM,
                  "expected hidden_size * (1 + kept layers) = %d, found %d", want, v->output_dim);
}

static void check_activation(const struct jr_object *o, const char *want)
{
    const char *found = jr_string(o, "hidden_act", want);
    if (strcmp(found, want) != 0)
        jr_defect(o, "hidden_act", MLL_ERR_CONFIG_ACTIVATION, "expected \"%s\", found \"%.60s\"",
                  want, found);
}

static void read_vision(struct cfg_vision *v, const struct jr_object *o)
{
    size_t before = o->d->n;
    v->hidden_size = jr_int(o, "hidden_size", NULL, JR_REQUIRED, 1, MAX_WIDTH);
    v->intermediate_size = jr_int(o, "intermediate_size", NULL, JR_REQUIRED, 1, MAX_MLP);
    v->heads = jr_int(o, "attention_heads", "num_attention_heads", JR_REQUIRED, 1, MAX_HEADS);
    v->layers = jr_int(o, "num_hidden_layers", NULL, JR_REQUIRED, 1, CFG_MAX_LAYERS);
    v->global_layers = jr_int(o, "num_global_layers", NULL, JR_REQUIRED, 1, CFG_MAX_LAYERS);
    v->image_size = jr_int(o, "image_size", NULL, JR_REQUIRED, 1, MAX_IMAGE);
    v->patch_size = jr_int(o, "patch_size", NULL, JR_REQUIRED, 1, MAX_IMAGE);
    v->channels = jr_int(o, "num_channels", NULL, 3, 3, 3);
    v->max_tiles = jr_int(o, "max_num_tiles", NULL, 4, 1, CFG_MAX_TILES);
    v->output_dim = jr_int(o, "vision_output_dim", NULL, JR_REQUIRED, 1, INT_MAX);
    v->norm_eps = (float)jr_number(o, "norm_eps", 1e-5, 1e-12, 1);
    check_activation(o, "gelu");
    if (o->d->n > before)
        return;
    if (v->hidden_size % v->heads)
        jr_defect(o, "attention_heads", MLL_ERR_CONFIG_HEADS, "expected a divisor of %d, found %d",
                  v->hidden_size, v->heads);
    v->head_dim = v->hidden_size / v->heads;
    if (v->patch_size > v->image_size)
        jr_defect(o, "patch_size", MLL_ERR_CONFIG_PATCH, "expected at most image_size %d, found %d",
                  v->image_size, v->patch_size);
    v->grid = v->image_size / v->patch_size;
    v->patches = v->grid * v->grid;
    v->rows = (v->patches + 1 + 7) / 8 * 8;
    check_product(o, "image_size", v->max_tiles, v->patches + 1, v->hidden_size);
    check_product(o, "patch_size", v->patch_size, v->patch_size, v->channels);
    check_product(o, "hidden_size", v->hidden_size, 1 + CFG_MAX_KEPT, 1);
    read_aspect_ratios(v, o);
    read_kept_layers(v, o);
}

/* ---- text_config ----------------------------------------------------------------------------- */

static void read_rope(struct cfg_text *t, const struct jr_object *o)
{
    t->rope_theta = jr_number(o, "rope_theta", 500000.0, 1e-3, 1e12);
    const json_t *value = jr_get(o, "rope_parameters", "rope_scaling");
    if (!value)
        return;
    const char *key =
        json_object_get(o->value, "rope_parameters") == value ? "rope_parameters" : "rope_scaling";
    if (!json_is_object(value)) {
        jr_defect(o, key, MLL_ERR_CONFIG_ROPE, "expected an object or null, found %s",
                  jr_type_name(value));
        return;
    }
    char prefix[64];
    snprintf(prefix, sizeof prefix, "%s%s.", o->prefix, key);
    struct jr_object r = {value, o->file, prefix, MLL_ERR_CONFIG_ROPE, o->d};
    const char *type = jr_string(&r, "rope_type", jr_string(&r, "type", "default"));
    t->rope_theta = jr_number(&r, "rope_theta", t->rope_theta, 1e-3, 1e12);
    double partial = jr_number(&r, "partial_rotary_factor", 1, 0, 1);
    if (partial != 1)
        jr_defect(&r, "partial_rotary_factor", MLL_ERR_CONFIG_ROPE, "expected 1, found %g",
                  partial);
    if (strcmp(type, "default") == 0)
        return;
    if (strcmp(type, "llama3") != 0) {
        jr_defect(&r, "rope_type", MLL_ERR_CONFIG_ROPE,
                  "expected \"llama3\" or \"default\", found \"%.60s\"", type);
        return;
    }
    t->rope_scaled = true;
    /* NAN marks an absent key: none of these has a default. */
    t->rope_factor = jr_number(&r, "factor", NAN, 1e-6, 1e6);
    t->rope_low_freq = jr_number(&r, "low_freq_factor", NAN, 1e-6, 1e6);
    t->rope_high_freq = jr_number(&r, "high_freq_factor", NAN, 1e-6, 1e6);
    t->rope_original_max_position =
        jr_int(&r, "original_max_position_embeddings", NULL, t->max_position, 1, MAX_TOKENS);
    if (isnan(t->rope_factor))
        jr_defect(&r, "factor", MLL_ERR_CONFIG_ROPE, "expected a number, found none");
    if (!(t->rope_low_freq < t->rope_high_freq))
        jr_defect(&r, "high_freq_factor", MLL_ERR_CONFIG_ROPE,
                  "expected low_freq_factor < high_freq_factor, found %g and %g", t->rope_low_freq,
                  t->rope_high_freq);
}

static void read_cross_layers(struct cfg_text *t, const struct jr_object *o)
{
    static const char key[] = "cross_attention_layers";
    int list[CFG_MAX_LAYERS];
    size_t before = o->d->n;
    t->n_cross =
        jr_ints(o, key, false, list, CFG_MAX_LAYERS, 0, t->layers - 1, MLL_ERR_CONFIG_CROSS_LAYER);
    if (o->d->n == before && t->n_cross == 0)
        jr_defect(o, key, MLL_ERR_CONFIG_KEY, "expected at least one layer, found none");
    for (int i = 0; i < t->n_cross; i++) {
        if (t->is_cross[list[i]])
            jr_defect(o, key, MLL_ERR_CONFIG_CROSS_LAYER,
                      "expected distinct layers, found %d twice", list[i]);
        t->is_cross[list[i]] = true;
    }
}

static void check_text_heads(struct cfg_text *t, const struct jr_object *o)
{
    if (t->hidden_size % t->heads || t->hidden_size / t->heads % 2)
        jr_defect(o, "num_attention_heads", MLL_ERR_CONFIG_HEADS,
                  "expected an even share of hidden_size %d a head, found %d heads", t->hidden_size,
                  t->heads);
    else if (t->heads % t->kv_heads)
        jr_defect(o, "num_key_value_heads", MLL_ERR_CONFIG_HEADS,
                  "expected a divisor of num_attention_heads %d, found %d", t->heads, t->kv_heads);
    t->head_dim = t->hidden_size / t->heads;
    int head_dim = jr_int(o, "head_dim", NULL, t->head_dim, 1, MAX_WIDTH);
    if (head_dim != t->head_dim)
        jr_defect(o, "head_dim", MLL_ERR_CONFIG_HEADS,
                  "expected hidden_size / heads = %d, found %d", t->head_dim, head_dim);
}

static void read_text(struct cfg_text *t, const struct jr_object *o)
{
    size_t before = o->d->n;
    t->vocab_size = jr_int(o, "vocab_size", NULL, JR_REQUIRED, 1, MAX_VOCAB);
    t->hidden_size = jr_int(o, "hidden_size", NULL, JR_REQUIRED, 1, MAX_WIDTH);
    t->intermediate_size = jr_int(o, "intermediate_size", NULL, JR_REQUIRED, 1, MAX_MLP);
    t->layers = jr_int(o, "num_hidden_layers", NULL, JR_REQUIRED, 1, CFG_MAX_LAYERS);
    t->heads = jr_int(o, "num_attention_heads", NULL, JR_REQUIRED, 1, MAX_HEADS);
    t->kv_heads = jr_int(o, "num_key_value_heads", NULL, JR_REQUIRED, 1, MAX_HEADS);
    t->max_position = jr_int(o, "max_position_embeddings", NULL, 131072, 1, MAX_TOKENS);
    t->rms_norm_eps = (float)jr_number(o, "rms_norm_eps", 1e-5, 1e-12, 1);
    check_activation(o, "silu");
    if (jr_bool(o, "tie_word_embeddings", false))
        jr_defect(o, "tie_word_embeddings", MLL_ERR_CONFIG_VALUE,
                  "expected false (lm_head has 8 rows fewer than the embedding), found true");
    if (o->d->n > before)
        return;
    check_text_heads(t, o);
    read_cross_layers(t, o);
    read_rope(t, o);
}

/* ---- generation ------------------------------------------------------------------------------ */

/* bos, pad and eos of text_config or generation_config.json. An id past the embedding is a defect.
 */
static void read_token_ids(struct cfg *cfg, const struct jr_object *o)
{
    struct cfg_generation *g = &cfg->generation;
    int top = cfg->text.vocab_size + 7;
    struct jr_object ids = *o;
    ids.bad = MLL_ERR_CONFIG_TOKEN_ID;
    g->bos = jr_int(&ids, "bos_token_id", NULL, g->bos, -1, top);
    g->pad = jr_int(&ids, "pad_token_id", NULL, g->pad, -1, top);
    if (jr_get(&ids, "eos_token_id", NULL))
        g->n_eos = jr_ints(&ids, "eos_token_id", true, g->eos, CFG_MAX_EOS, 0, top,
                           MLL_ERR_CONFIG_TOKEN_ID);
}

static void read_generation(struct cfg *cfg, const char *dir, struct defects *d)
{
    static const char file[] = "generation_config.json";
    struct cfg_generation *g = &cfg->generation;
    json_t *root = jr_load(dir, file, false, d);
    if (!root)
        return;
    struct jr_object o = {root, file, "", MLL_ERR_GENERATION_VALUE, d};
    read_token_ids(cfg, &o);
    g->do_sample = jr_bool(&o, "do_sample", false);
    g->temperature = (float)jr_number(&o, "temperature", 1, 0, 1e6);
    g->top_p = (float)jr_number(&o, "top_p", 1, 0, 1);
    g->min_p = (float)jr_number(&o, "min_p", 0, 0, 1);
    g->repetition_penalty = (float)jr_number(&o, "repetition_penalty", 1, 1e-6, 1e6);
    g->top_k = jr_int(&o, "top_k", NULL, 50, 0, MAX_TOKENS);
    g->no_repeat_ngram_size = jr_int(&o, "no_repeat_ngram_size", NULL, 0, 0, MAX_TOKENS);
    g->max_new_tokens = jr_int(&o, "max_new_tokens", NULL, 0, 0, MAX_TOKENS);
    json_decref(root);
}

/* ---- preprocessing --------------------------------------------------------------------------- */

/* Three numbers in [min, max], or one for all channels. */
static void read_channels(float out[3], const struct jr_object *o, const char *key, double min,
                          double max)
{
    const json_t *v = jr_get(o, key, NULL);
    if (!v)
        return;
    for (size_t i = 0; i < 3; i++) {
        const json_t *e = json_is_array(v) ? json_array_get(v, i) : v;
        double x = json_number_value(e);
        if (!json_is_number(e) || !(x >= min && x <= max) ||
            (json_is_array(v) && json_array_size(v) != 3)) {
            jr_defect(o, key, MLL_OK, "expected 3 numbers from %g to %g, found others", min, max);
            return;
        }
        out[i] = (float)x;
    }
}

static void read_size(struct cfg_preprocess *p, const struct jr_object *o)
{
    const json_t *size = jr_get(o, "size", NULL);
    struct jr_object s = *o;
    p->size = 224; /* the class's default */
    if (!json_is_object(size)) {
        p->size = jr_int(o, "size", NULL, 224, 1, MAX_IMAGE);
        return;
    }
    s.value = size;
    s.prefix = "size.";
    p->size = jr_int(&s, "height", NULL, JR_REQUIRED, 1, MAX_IMAGE);
    int width = jr_int(&s, "width", NULL, JR_REQUIRED, 1, MAX_IMAGE);
    if (width != p->size)
        jr_defect(&s, "width", MLL_OK, "expected the height %d, found %d", p->size, width);
}

static void read_preprocess_object(struct cfg_preprocess *p, const struct jr_object *o)
{
    for (int i = 0; i < 3; i++)
        p->mean[i] = p->std[i] = 0.5f;
    read_size(p, o);
    p->max_tiles = jr_int(o, "max_image_tiles", NULL, 4, 1, CFG_MAX_TILES);
    read_channels(p->mean, o, "image_mean", -1e6, 1e6);
    read_channels(p->std, o, "image_std", 1e-6, 1e6);
    p->rescale = jr_number(o, "rescale_factor", 1.0 / 255, 1e-9, 1e9);
    if (!jr_bool(o, "do_rescale", true))
        p->rescale = 1;
    if (!jr_bool(o, "do_normalize", true))
        for (int i = 0; i < 3; i++) {
            p->mean[i] = 0;
            p->std[i] = 1;
        }
    if (!jr_bool(o, "do_resize", true) || !jr_bool(o, "do_pad", true))
        jr_defect(o, "do_resize, do_pad", MLL_OK, "expected true, found false");
    int resample = jr_int(o, "resample", NULL, 2, 0, 5);
    if (resample != 2)
        jr_defect(o, "resample", MLL_OK, "expected 2 (bilinear), found %d", resample);
}

/* False where the directory has no such file. transformers 5 may nest the values in
 * processor_config.json. */
static bool read_preprocess(struct cfg_preprocess *p, const char *dir, struct defects *d)
{
    size_t before = d->n;
    const char *file = "preprocessor_config.json";
    json_t *root = jr_load(dir, file, false, d);
    const json_t *value = root;
    if (!root && d->n == before) {
        file = "processor_config.json";
        root = jr_load(dir, file, false, d);
        value = json_object_get(root, "image_processor");
    }
    struct jr_object o = {value, file, "", MLL_ERR_PREPROCESS_VALUE, d};
    if (json_is_object(value))
        read_preprocess_object(p, &o);
    bool found = json_is_object(value);
    json_decref(root);
    return found || d->n > before;
}

static void use_released_preprocess(struct cfg_preprocess *p, const struct cfg_vision *v)
{
    *p = (struct cfg_preprocess){v->image_size,
                                 v->max_tiles,
                                 {0.48145466f, 0.4578275f, 0.40821073f},
                                 {0.26862954f, 0.26130258f, 0.27577711f},
                                 0.00392156862745098};
}

static void check_preprocess(const struct cfg *cfg, struct defects *d)
{
    const struct cfg_preprocess *p = &cfg->preprocess;
    const struct cfg_vision *v = &cfg->vision;
    if (p->size != v->image_size || p->max_tiles != v->max_tiles)
        defects_add(d, MLL_ERR_PREPROCESS_MISMATCH,
                    "preprocessor_config.json: expected config.json's %d pixels and %d tiles, "
                    "found %d and %d",
                    v->image_size, v->max_tiles, p->size, p->max_tiles);
}

/* ---- the whole ------------------------------------------------------------------------------- */

/* The object under key; NULL after a defect. */
static const json_t *section(const struct jr_object *o, const char *key)
{
    const json_t *v = jr_get(o, key, NULL);
    if (!v)
        jr_defect(o, key, MLL_ERR_CONFIG_KEY, "expected an object, found no such key");
    else if (!json_is_object(v))
        jr_defect(o, key, MLL_ERR_CONFIG_TYPE, "expected an object, found %s", jr_type_name(v));
    return json_is_object(v) ? v : NULL;
}

static void read_quantization(struct cfg *cfg, const struct jr_object *o)
{
    const json_t *v = jr_get(o, "quantization_config", NULL);
    if (!v)
        return;
    struct jr_object q = {v, o->file, "quantization_config.", MLL_OK, o->d};
    /* Old bitsandbytes configurations do not name their method. */
    bool unnamed_bnb = json_is_true(json_object_get(v, "load_in_4bit")) ||
                       json_is_true(json_object_get(v, "load_in_8bit"));
    snprintf(cfg->quant_method, sizeof cfg->quant_method, "%s",
             jr_string(&q, "quant_method", unnamed_bnb ? "bitsandbytes" : "unknown"));
}

bool cfg_quant_is_read(const struct cfg *cfg)
{
    return cfg->quant_method[0] == 0 || strcmp(cfg->quant_method, "bitsandbytes") == 0;
}

static void read_config(struct cfg *cfg, const json_t *root, struct defects *d)
{
    struct jr_object o = {root, "config.json", "", MLL_OK, d};
    const char *type = jr_string(&o, "model_type", "none");
    if (strcmp(type, "mllama") != 0) {
        jr_defect(&o, "model_type", MLL_ERR_CONFIG_MODEL_TYPE,
                  "expected \"mllama\", found \"%.60s\"", type);
        return; /* nothing else can be expected of another model */
    }
    size_t before = d->n;
    struct jr_object vision = {section(&o, "vision_config"), o.file, "vision_config.", MLL_OK, d};
    struct jr_object text = {section(&o, "text_config"), o.file, "text_config.", MLL_OK, d};
    if (vision.value)
        read_vision(&cfg->vision, &vision);
    if (text.value)
        read_text(&cfg->text, &text);
    read_quantization(cfg, &o);
    cfg->image_token = jr_int(&o, "image_token_index", "image_token_id", 128256, 0, INT_MAX);
    if (d->n > before)
        return;
    read_token_ids(cfg, &text);
    if (cfg->image_token >= cfg->text.vocab_size + 8)
        jr_defect(&o, "image_token_index", MLL_ERR_IMAGE_TOKEN_EMBEDDING,
                  "expected an id below the embedding's %d rows, found %d",
                  cfg->text.vocab_size + 8, cfg->image_token);
}

void cfg_check(struct cfg *cfg, const char *dir, struct defects *d)
{
    struct stat info;
    memset(cfg, 0, sizeof *cfg);
    cfg->generation = (struct cfg_generation){
        .bos = -1, .pad = -1, .temperature = 1, .top_p = 1, .repetition_penalty = 1, .top_k = 50};
    if (stat(dir, &info) != 0 || !S_ISDIR(info.st_mode)) {
        if (!ckpt_refuse_format(dir, d))
            defects_add(d, MLL_ERR_NOT_FOUND, "%.400s: expected a model directory, found none",
                        dir);
        return;
    }
    size_t before = d->n;
    json_t *root = jr_load(dir, "config.json", false, d);
    if (root)
        read_config(cfg, root, d);
    else if (d->n == before && !ckpt_refuse_format(dir, d))
        defects_add(d, MLL_ERR_CONFIG_MISSING, "config.json: expected in %.400s, found none", dir);
    json_decref(root);
    bool sound = d->n == before;
    if (!sound)
        cfg->text.vocab_size = MAX_VOCAB; /* no token id of the other files can be judged */
    read_generation(cfg, dir, d);
    size_t at = d->n;
    if (!read_preprocess(&cfg->preprocess, dir, d))
        use_released_preprocess(&cfg->preprocess, &cfg->vision);
    else if (sound && d->n == at)
        check_preprocess(cfg, d);
}

enum mll_status cfg_load(struct cfg *cfg, const char *dir, struct mll_error *err)
{
    struct defects d = {0};
    cfg_check(cfg, dir, &d);
    return defects_result(&d, err);
}

enum mll_status cfg_load_preprocess(struct cfg_preprocess *pre, const char *dir,
                                    struct mll_error *err)
{
    struct defects d = {0};
    if (!read_preprocess(pre, dir, &d))
        return mll_fail(err, MLL_ERR_CONFIG_MISSING,
                        "preprocessor_config.json: expected a file in %s, found none", dir);
    return defects_result(&d, err);
}
