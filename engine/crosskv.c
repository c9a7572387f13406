/* crosskv.c - stage 5: keys and values of the cross layers, once per image.
 *
 * For every cross layer: k = k_norm(states Wk), v = states Wv, no RoPE (MllamaTextCrossAttention).
 * They are stored under the session's image keys (engine.h) in the pool of that layer. */
#include "engine.h"

#include <stdlib.h>

enum mll_status crosskv_run(struct mll_engine *engine, int slot, const float *states, int n_rows,
                            int key, struct mll_error *err)
{
    const struct cfg_text *t = &engine->cfg.text;
    struct mll_exec *ex = engine->exec;
    size_t n = (size_t)n_rows;
    size_t width = (size_t)t->kv_heads * (size_t)t->head_dim;
    int32_t *host = malloc(2 * n * sizeof *host); /* keys, then slots */
    if (host == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %d keys", n_rows);
    for (int r = 0; r < n_rows; r++) {
        host[r] = key + r;
        host[n_rows + r] = slot;
    }

    size_t mark = exec_mark(ex);
    exec_set_phase(ex, MLL_PREFILL);
    int32_t *pos = exec_alloc(ex, n * sizeof *pos);
    int32_t *seq = exec_alloc(ex, n * sizeof *seq);
    float *k = exec_alloc(ex, n * width * sizeof *k);
    float *v = exec_alloc(ex, n * width * sizeof *v);
    exec_upload(ex, pos, host, n * sizeof *pos);
    exec_upload(ex, seq, host + n_rows, n * sizeof *seq);
    for (int i = 0; i < t->layers; i++) {
        const struct text_layer *w = &engine->weights->layers[i];
        if (!t->is_cross[i])
            continue;
        exec_label(ex, "cross K/V", i);
        op_matmul_group(ex, (float *[]){k, v}, states, (const struct mat *[]){&w->k, &w->v}, 2,
                        n_rows);
        op_rmsnorm(ex, k, k, &w->k_norm, n_rows * t->kv_heads, t->head_dim, t->rms_norm_eps);
        op_kv_append(ex, &engine->pools[i], k, v, &engine->image_table, seq, pos, n_rows);
    }
    exec_release(ex, mark);
    free(host);
    return MLL_OK;
}

size_t crosskv_scratch(const struct cfg *cfg, const struct mll_exec *ex)
{
    const struct cfg_text *t = &cfg->text;
    size_t n = (size_t)cfg->vision.patches + 1;
    size_t width = (size_t)t->kv_heads * (size_t)t->head_dim;
    return 2 * arena_floats(n, 1) + 2 * arena_floats(n, width) +
           op_matmul_scratch(ex, (int)n, t->hidden_size);
}
