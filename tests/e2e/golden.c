/* golden.c - see golden.h. */
#include "golden.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const char *const golden_names[] = {
    "one_tile",          "four_tiles_bf16",     "three_tiles",
    "two_images",        "images_side_by_side", "text_only",
    "base_model",        "kept_unsorted",       "one_tile_at_most",
    "two_tiles_at_most", "three_tiles_at_most", "one_kv_head",
    "as_many_kv_heads",  "odd_sizes",           "cross_layers_adjacent",
    "image_last",        "long_prompt",         NULL};
const char *const golden_quant_names[] = {"quant_nf4", "quant_nf4_double", "quant_fp4",
                                          "quant_int8", NULL};
const char *const golden_modes[3] = {"meta", "hf4", "hf5"};

static void open_images(struct golden *g, const char *dir)
{
    struct mll_error err;
    size_t n = (size_t)json_integer_value(json_object_get(g->about, "images"));
    cr_assert(n <= GOLDEN_MAX_IMAGES);
    for (size_t i = 0; i < n; i++) {
        char path[600];
        snprintf(path, sizeof path, "%s/images/%zu.png", dir, i);
        cr_assert(img_load(&g->pixels[i], path, NULL, &err) == MLL_OK, "%s", err.message);
        g->images[i] = (struct mll_image){g->pixels[i].rgb, g->pixels[i].w, g->pixels[i].h};
    }
    g->request.images = g->images;
    g->request.n_images = n;
}

void golden_open(struct golden *g, const char *name)
{
    char dir[500], path[600];
    struct st_error st;
    json_error_t json;
    *g = (struct golden){0};
    snprintf(dir, sizeof dir, "%s/tests/golden/cases/%s", MLL_SOURCE_DIR, name);
    snprintf(g->model, sizeof g->model, "%s/model", dir);
    snprintf(path, sizeof path, "%s/case.json", dir);
    g->about = json_load_file(path, 0, &json);
    cr_assert(g->about != NULL, "%s: %s", path, json.text);
    snprintf(path, sizeof path, "%s/expected.safetensors", dir);
    if (access(path, F_OK) == 0) /* the bundle for GPUs has none */
        cr_assert(st_open(&g->expected, path, ST_MODE_MMAP, &st) == ST_OK, "%s: %s", path,
                  st.message);
    open_images(g, dir);
    mll_sampling_default(&g->sampling);
    g->sampling.max_new_tokens = (int)json_integer_value(json_object_get(g->about, "new_tokens"));
    g->request.raw = json_string_value(json_object_get(g->about, "prompt"));
    g->request.raw_size = strlen(g->request.raw);
    g->request.sampling = &g->sampling;
}

void golden_close(struct golden *g)
{
    for (size_t i = 0; i < g->request.n_images; i++)
        img_free(&g->pixels[i]);
    st_close(g->expected);
    json_decref(g->about);
}

const struct st_tensor *golden_tensor(const struct golden *g, const char *mode, const char *name)
{
    char key[64];
    snprintf(key, sizeof key, "%s.%s", mode, name);
    cr_assert(g->expected != NULL, "%s: no expected.safetensors beside the model", g->model);
    const char *twin = json_string_value(json_object_get(json_object_get(g->about, "same"), key));
    const struct st_tensor *t = st_find(g->expected, twin ? twin : key);
    return t ? t : st_find(g->expected, name);
}
