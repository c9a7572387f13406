/* vision.c - stage 4: the tiles of one image to vision states, as MllamaVisionModel does it.
 *
 * patches -> + tile embedding -> class token in front of every tile -> + position embeddings ->
 * layernorm_pre -> zero rows up to `rows` a tile -> local layers over all rows of all tiles ->
 * layernorm_post -> + tile embedding -> gated global layers -> drop the pad rows, append the kept
 * states (un-normed, interleaved) -> projector.
 *
 * All max_tiles tiles are computed, also the missing ones: real patches attend to them and to the
 * pad rows; only pairs of pad and missing rows are masked (docs/MODEL.md).
 * A kept state is the input of the layer that intermediate_layers_indices names (meta, hf4) or its
 * output (hf5). State i is the input of local layer i, state `layers` the output of the last. */
#include "engine.h"
#include "preprocess.h"

#include <math.h>
#include <stdlib.h>

/* Shapes of one image in the tower. */
struct tower {
    struct mll_engine *engine;
    struct mll_exec *ex;
    const struct cfg_vision *cfg;
    int n; /* rows of all tiles, pad included */
    float scale;
    uint8_t *pad;   /* (n) device: pad row or missing tile */
    int32_t *id;    /* (1) device: the aspect ratio id */
    float *norm;    /* (n, hidden) an operand */
    float *buffers; /* (4, n, hidden) q, k, v, attention; also a joined tile */
};

static bool is_kept(const struct mll_engine *engine, int state)
{
    const struct cfg_vision *v = &engine->cfg.vision;
    int shift = engine->options.reference == MLL_REFERENCE_HF5;
    for (int l = 0; l < v->n_kept; l++)
        if (v->kept[l] + shift == state)
            return true;
    return false;
}

/* Local layers have no gates. */
static const struct mat *gate_of(const struct mat *gate)
{
    return gate->data != NULL ? gate : NULL;
}

/* The MLP one tile at a time: its rows are wide. x += s * mlp(norm), s 1 where gate is NULL. */
static void vis_mlp(const struct tower *t, float *x, const struct vision_layer *w)
{
    const struct cfg_vision *v = t->cfg;
    size_t tile = (size_t)v->rows * (size_t)v->hidden_size;
    size_t mark = exec_mark(t->ex);
    float *wide = exec_alloc(t->ex, arena_floats((size_t)v->rows, (size_t)v->intermediate_size));
    exec_operand(t->ex, wide, v->rows, v->intermediate_size);
    for (int i = 0; i < v->max_tiles; i++) {
        op_matmul_gelu(t->ex, wide, t->norm + i * tile, &w->fc1_w, &w->fc1_b, v->rows);
        op_matmul_add(t->ex, x + i * tile, x + i * tile, wide, &w->fc2_w, &w->fc2_b,
                      gate_of(&w->gate_ffn), v->rows);
    }
    exec_release(t->ex, mark);
}

/* y = layer(x). y may be x. */
static void vis_layer(const struct tower *t, float *y, const float *x, const struct vision_layer *w)
{
    const struct cfg_vision *v = t->cfg;
    int d = v->hidden_size;
    size_t size = (size_t)t->n * (size_t)d;
    float *q = t->buffers, *k = q + size, *val = k + size, *attn = val + size;

    op_layernorm(t->ex, t->norm, x, &w->ln1_w, &w->ln1_b, t->n, d, v->norm_eps);
    op_matmul_group(t->ex, (float *[]){q, k, val}, t->norm,
                    (const struct mat *[]){&w->q, &w->k, &w->v}, 3, t->n);
    op_attn_vision(t->ex, attn, q, k, val, t->pad, t->n, v->heads, v->head_dim, t->scale);
    op_matmul_add(t->ex, y, x, attn, &w->o, NULL, gate_of(&w->gate_attn), t->n);
    op_layernorm(t->ex, t->norm, y, &w->ln2_w, &w->ln2_b, t->n, d, v->norm_eps);
    vis_mlp(t, y, w);
}

/* Patches, class tokens and embeddings. x (max_tiles, rows, hidden), pad rows zero. */
static void vis_embed(const struct tower *t, float *x, const float *pixels)
{
    const struct cfg_vision *v = t->cfg;
    const struct weights *w = t->engine->weights;
    int d = v->hidden_size, n_patch = v->channels * v->patch_size * v->patch_size;
    size_t tiles = (size_t)v->max_tiles, patches = (size_t)v->patches;
    size_t mark = exec_mark(t->ex);
    float *cut = exec_alloc(t->ex, arena_floats(tiles * patches, (size_t)n_patch));
    float *embedded = exec_alloc(t->ex, arena_floats(tiles * patches, (size_t)d));
    float *tight = exec_alloc(t->ex, arena_floats(tiles * (patches + 1), (size_t)d));

    op_patchify(t->ex, cut, pixels, v->max_tiles, v->image_size, v->patch_size);
    op_matmul(t->ex, embedded, cut, &w->patch_embedding, NULL, v->max_tiles * v->patches);
    op_add_tile_embedding(t->ex, embedded, &w->pre_tile, &w->pre_tile_gate, t->id, v->max_tiles,
                          v->patches, d);
    op_class_and_pad(t->ex, tight, embedded, &w->class_embedding, v->max_tiles, v->patches,
                     v->patches + 1, d);
    op_add_position_embedding(t->ex, tight, &w->position_embedding, &w->tile_position,
                              &w->position_gate, t->id, v->max_tiles, v->patches + 1, d);
    /* Once more for its zero rows; the norm then fills the others. */
    op_class_and_pad(t->ex, x, embedded, &w->class_embedding, v->max_tiles, v->patches, v->rows, d);
    for (size_t i = 0; i < tiles; i++)
        op_layernorm(t->ex, x + i * (size_t)v->rows * (size_t)d,
                     tight + i * (patches + 1) * (size_t)d, &w->ln_pre_w, &w->ln_pre_b,
                     v->patches + 1, d, 1e-5f);
    exec_release(t->ex, mark);
}

/* The final states of both transformers; kept[l] is the state that the l-th index names. */
static enum mll_status vis_layers(const struct tower *t, float **last, const float **kept, float *x,
                                  const atomic_bool *cancelled, struct mll_error *err)
{
    const struct cfg_vision *v = t->cfg;
    const struct weights *w = t->engine->weights;
    int shift = t->engine->options.reference == MLL_REFERENCE_HF5;
    size_t bytes = arena_floats((size_t)t->n, (size_t)v->hidden_size);

    for (int i = 0; i <= v->layers; i++) {
        for (int l = 0; l < v->n_kept; l++)
            if (v->kept[l] + shift == i)
                kept[l] = x;
        /* A kept state stays where it is: the next one goes into a buffer of its own. */
        float *y = is_kept(t->engine, i) ? exec_alloc(t->ex, bytes) : x;
        exec_label(t->ex, "vision", i);
        if (i < v->layers)
            vis_layer(t, y, x, &w->local[i]);
        else
            op_layernorm(t->ex, y, x, &w->ln_post_w, &w->ln_post_b, t->n, v->hidden_size, 1e-5f);
        x = y;
        if (atomic_load(cancelled))
            return mll_fail(err, MLL_ERR_CANCELLED, "cancelled in the vision tower");
    }
    op_add_tile_embedding(t->ex, x, &w->post_tile, &w->post_tile_gate, t->id, v->max_tiles, v->rows,
                          v->hidden_size);
    for (int i = 0; i < v->global_layers; i++) {
        exec_label(t->ex, "vision, global", i);
        vis_layer(t, x, x, &w->global[i]);
        if (atomic_load(cancelled))
            return mll_fail(err, MLL_ERR_CANCELLED, "cancelled in the vision tower");
    }
    *last = x;
    return MLL_OK;
}

/* Joins and projects the first n_tiles tiles. */
static void vis_project(const struct tower *t, float *states, const float *last,
                        const float *const *kept, int n_tiles)
{
    const struct cfg_vision *v = t->cfg;
    const struct weights *w = t->engine->weights;
    size_t tile = (size_t)v->rows * (size_t)v->hidden_size, rows = (size_t)v->patches + 1;
    int hidden = t->engine->cfg.text.hidden_size;
    float *joined = t->buffers;
    for (int i = 0; i < n_tiles; i++) {
        const float *at[CFG_MAX_KEPT];
        for (int l = 0; l < v->n_kept; l++)
            at[l] = kept[l] + i * tile;
        op_join_states(t->ex, joined, last + i * tile, at, v->n_kept, 1, v->patches, v->rows,
                       v->hidden_size);
        float *out = states + i * rows * (size_t)hidden;
        op_matmul(t->ex, out, joined, &w->projector_w, &w->projector_b, (int)rows);
        if (eng_tracing(t->engine)) {
            struct trace_sink sink = t->engine->trace;
            sink.rows(sink.user, t->ex, "vision_last_hidden", joined, rows, (size_t)v->output_dim);
            sink.rows(sink.user, t->ex, "cross_attention_states", out, rows, (size_t)hidden);
        }
    }
}

static size_t buffers_bytes(const struct cfg_vision *v)
{
    size_t n = (size_t)v->max_tiles * (size_t)v->rows;
    size_t layer = arena_floats(4 * n, (size_t)v->hidden_size);
    size_t joined = arena_floats((size_t)v->patches + 1, (size_t)v->output_dim);
    return layer > joined ? layer : joined;
}

/* Which rows are pad: those behind the patches, and whole missing tiles. */
static void fill_pad(uint8_t *pad, const struct cfg_vision *v, int n_tiles)
{
    for (int t = 0; t < v->max_tiles; t++)
        for (int r = 0; r < v->rows; r++)
            pad[t * v->rows + r] = t >= n_tiles || r > v->patches;
}

/* Uploads what one image needs: pixels, aspect ratio id, pad flags. */
static enum mll_status vis_upload(struct tower *t, float *pixels, const struct tiles *tiles,
                                  struct mll_error *err)
{
    const struct cfg_vision *v = t->cfg;
    uint8_t *pad = malloc((size_t)t->n);
    if (pad == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %d pad flags", t->n);
    fill_pad(pad, v, tiles->n);
    int32_t id = tiles->aspect_ratio_id;
    exec_upload(t->ex, t->pad, pad, (size_t)t->n);
    exec_upload(t->ex, t->id, &id, sizeof id);
    size_t n_pixels = (size_t)v->max_tiles * 3 * (size_t)v->image_size * (size_t)v->image_size;
    exec_upload(t->ex, pixels, tiles->pixels, n_pixels * sizeof *pixels);
    free(pad);
    return MLL_OK;
}

enum mll_status vision_run(struct mll_engine *engine, float *states, const struct tiles *tiles,
                           int n_tiles, const atomic_bool *cancelled, struct mll_error *err)
{
    const struct cfg_vision *v = &engine->cfg.vision;
    struct mll_exec *ex = engine->exec;
    size_t mark = exec_mark(ex);
    int n = v->max_tiles * v->rows;
    struct tower t = {.engine = engine, .ex = ex, .cfg = v, .n = n};
    MLL_ASSERT(tiles->size == v->image_size && tiles->max_tiles == v->max_tiles);
    exec_set_phase(ex, MLL_PREFILL);
    exec_label(ex, "vision, embedding", -1);

    t.scale = 1.0f / sqrtf((float)v->head_dim);
    t.pad = exec_alloc(ex, (size_t)n);
    t.id = exec_alloc(ex, sizeof *t.id);
    t.norm = exec_alloc(ex, arena_floats((size_t)n, (size_t)v->hidden_size));
    t.buffers = exec_alloc(ex, buffers_bytes(v));
    exec_operand(ex, t.norm, n, v->hidden_size);
    exec_operand(ex, t.buffers + 3 * (size_t)n * (size_t)v->hidden_size, n, v->hidden_size);
    float *x = exec_alloc(ex, arena_floats((size_t)n, (size_t)v->hidden_size));
    size_t top = exec_mark(ex);
    float *pixels = exec_alloc(
        ex, arena_floats((size_t)v->max_tiles * 3 * (size_t)v->image_size, (size_t)v->image_size));
    enum mll_status status = vis_upload(&t, pixels, tiles, err);
    if (status == MLL_OK) {
        const float *kept[CFG_MAX_KEPT] = {0};
        float *last = NULL;
        vis_embed(&t, x, pixels);
        exec_release(ex, top);
        status = vis_layers(&t, &last, kept, x, cancelled, err);
        exec_label(ex, "projector", -1);
        if (status == MLL_OK)
            vis_project(&t, states, last, kept, n_tiles);
    }
    exec_release(ex, mark);
    return status;
}

size_t vision_scratch(const struct cfg *cfg, const struct mll_exec *ex)
{
    const struct cfg_vision *v = &cfg->vision;
    size_t n = (size_t)v->max_tiles * (size_t)v->rows, d = (size_t)v->hidden_size;
    size_t tiles = (size_t)v->max_tiles, patches = (size_t)v->patches;
    size_t n_patch = (size_t)v->channels * (size_t)v->patch_size * (size_t)v->patch_size;
    size_t distinct = 0;
    for (int l = 0; l < v->n_kept; l++) {
        bool first = true;
        for (int m = 0; m < l; m++)
            first = first && v->kept[m] != v->kept[l];
        distinct += first;
    }

    size_t embed = arena_floats(tiles * 3 * (size_t)v->image_size, (size_t)v->image_size) +
                   arena_floats(tiles * patches, n_patch) + arena_floats(tiles * patches, d) +
                   arena_floats(tiles * (patches + 1), d) +
                   op_matmul_scratch(ex, (int)(tiles * patches), (int)n_patch);
    size_t attn = op_attn_vision_scratch(ex, (int)n, v->heads, v->head_dim);
    size_t qkvo = op_matmul_add_scratch(ex, (int)n, v->hidden_size, v->hidden_size);
    size_t mlp = arena_floats((size_t)v->rows, (size_t)v->intermediate_size) +
                 op_matmul_add_scratch(ex, v->rows, v->hidden_size, v->intermediate_size);
    size_t project = op_matmul_scratch(ex, v->patches + 1, v->output_dim);
    size_t layer = attn > qkvo ? attn : qkvo;
    layer = layer > mlp ? layer : mlp;
    layer = distinct * arena_floats(n, d) + (layer > project ? layer : project);
    return (n + 63) / 64 * 64 + 64 + 2 * arena_floats(n, d) + buffers_bytes(v) +
           (embed > layer ? embed : layer);
}
