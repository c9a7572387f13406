/* decoder.c - stage 6: one ragged batch of tokens to logits, as MllamaTextModel does it.
 *
 * embedding -> layers -> RMSNorm -> lm_head. A self layer is Llama's. A cross layer has attention
 * over the image keys in the place of self attention (q_norm, no RoPE) and a tanh gate behind both
 * of its halves; its output is dropped (scale 0) for rows that see no image: in meta that of both
 * halves, in hf4 and hf5 the MLP's only. Rows of sessions without an image do not take part in
 * cross layers at all; they stand behind the others in the batch.
 * Every op treats rows alone, so a token's logits do not depend on what shares its batch. The head
 * is always run as for decoded tokens, whatever the batch: few rows, many weights. */
#include "engine.h"

#include <math.h>
#include <stdio.h>

/* Buffers of one step. */
struct dec_scratch {
    float *h;         /* (n, hidden) the residual stream */
    float *x;         /* (n, hidden) normed, an operand, or a half's output */
    float *q, *attn;  /* (n, heads * head_dim) */
    float *k, *v;     /* (n, kv_heads * head_dim) */
    float *gate, *up; /* (n, intermediate); gate also their product, an operand */
};

/* A half of a layer whose output, in s->x, is not yet added to the residual stream: the next norm
 * does that in the same pass. */
struct dec_pending {
    int n; /* rows; 0: none */
    const struct mat *gate;
    const float *row_scale;
};

/* Adds what is pending to rows [first, p->n). */
static void dec_add(struct mll_engine *e, const struct dec_scratch *s, const struct dec_pending *p,
                    int first)
{
    int dim = e->cfg.text.hidden_size;
    size_t at = (size_t)first * (size_t)dim;
    if (p->n > first)
        op_add_gated(e->exec, s->h + at, s->x + at, p->gate,
                     p->row_scale ? p->row_scale + first : NULL, p->n - first, dim);
}

/* h += what is pending, x = norm(h) for the first n rows. */
static void dec_norm(struct mll_engine *e, const struct dec_scratch *s, struct dec_pending *p,
                     const struct mat *w, int n)
{
    const struct cfg_text *t = &e->cfg.text;
    int dim = t->hidden_size, both = p->n < n ? p->n : n;
    size_t at = (size_t)both * (size_t)dim;
    dec_add(e, s, p, both);
    if (n > both)
        op_rmsnorm(e->exec, s->x + at, s->h + at, w, n - both, dim, t->rms_norm_eps);
    if (both > 0)
        op_add_rmsnorm(e->exec, s->x, s->h, s->x, p->gate, p->row_scale, w, both, dim,
                       t->rms_norm_eps);
    p->n = 0;
}

/* x = down(silu(gate(norm(h))) * up(norm(h))) for the first n rows. */
static void dec_mlp(struct mll_engine *e, const struct dec_scratch *s, struct dec_pending *p,
                    const struct text_layer *w, int n)
{
    dec_norm(e, s, p, &w->post_norm, n);
    op_matmul_group(e->exec, (float *[]){s->gate, s->up}, s->x,
                    (const struct mat *[]){&w->gate, &w->up}, 2, n);
    op_silu_mul(e->exec, s->gate, s->gate, s->up, n, e->cfg.text.intermediate_size);
    op_matmul(e->exec, s->x, s->gate, &w->down, NULL, n);
}

static void self_layer(struct mll_engine *e, const struct dec_scratch *s, struct dec_pending *p,
                       int layer, const struct batch *b)
{
    const struct cfg_text *t = &e->cfg.text;
    const struct text_layer *w = &e->weights->layers[layer];
    struct kv_pool *pool = &e->pools[layer];
    struct mll_exec *ex = e->exec;
    float scale = 1.0f / sqrtf((float)t->head_dim);

    dec_norm(e, s, p, &w->input_norm, b->n);
    op_matmul_group(ex, (float *[]){s->q, s->k, s->v}, s->x,
                    (const struct mat *[]){&w->q, &w->k, &w->v}, 3, b->n);
    op_rope_kv_append(ex, pool, s->q, s->k, s->v, &e->text_table, b->slot, b->pos, e->inv_freq,
                      b->n, t->heads);
    op_attn(ex, s->attn, s->q, pool, &e->text_table, b->slot, b->zero, b->end, b->n, t->heads,
            scale);
    op_matmul(ex, s->x, s->attn, &w->o, NULL, b->n);
    *p = (struct dec_pending){.n = b->n};
    dec_mlp(e, s, p, w, b->n);
    *p = (struct dec_pending){.n = b->n};
}

static void cross_layer(struct mll_engine *e, const struct dec_scratch *s, struct dec_pending *p,
                        int layer, const struct batch *b)
{
    const struct cfg_text *t = &e->cfg.text;
    const struct text_layer *w = &e->weights->layers[layer];
    struct mll_exec *ex = e->exec;
    float scale = 1.0f / sqrtf((float)t->head_dim);
    int n = b->n_cross;
    if (n == 0)
        return;

    dec_norm(e, s, p, &w->input_norm, n);
    op_matmul(ex, s->q, s->x, &w->q, NULL, n);
    op_rmsnorm(ex, s->q, s->q, &w->q_norm, n * t->heads, t->head_dim, t->rms_norm_eps);
    op_attn(ex, s->attn, s->q, &e->pools[layer], &e->image_table, b->slot, b->cross_begin,
            b->cross_end, n, t->heads, scale);
    op_matmul(ex, s->x, s->attn, &w->o, NULL, n);
    *p = (struct dec_pending){n, &w->attn_gate, b->attn_scale};
    dec_mlp(e, s, p, w, n);
    *p = (struct dec_pending){n, &w->mlp_gate, b->mlp_scale};
}

/* Has the layer's weights where ops can read them, and asks for those that will be used next. */
static void use_layer(struct mll_engine *e, const struct batch *b, int layer)
{
    const struct cfg_text *t = &e->cfg.text;
    int next = 0;
    for (int i = 1; i <= t->layers && next == 0; i++) {
        int after = (layer + i) % t->layers;
        if (!t->is_cross[after] || b->n_cross > 0)
            next = eng_group(e, after);
    }
    exec_use_group(e->exec, eng_group(e, layer), next);
}

static void trace_hidden(struct mll_engine *e, const struct dec_scratch *s, struct dec_pending *p,
                         int layer, int n)
{
    char name[32];
    if (!eng_tracing(e))
        return;
    dec_add(e, s, p, 0);
    p->n = 0;
    snprintf(name, sizeof name, "hidden.%d", layer);
    e->trace.rows(e->trace.user, e->exec, name, s->h, (size_t)n, (size_t)e->cfg.text.hidden_size);
}

static void scratch_alloc(struct dec_scratch *s, struct mll_exec *ex, const struct cfg_text *t,
                          int rows)
{
    size_t n = (size_t)rows, hd = (size_t)t->head_dim;
    s->h = exec_alloc(ex, arena_floats(n, (size_t)t->hidden_size));
    s->x = exec_alloc(ex, arena_floats(n, (size_t)t->hidden_size));
    s->q = exec_alloc(ex, arena_floats(n, (size_t)t->heads * hd));
    s->attn = exec_alloc(ex, arena_floats(n, (size_t)t->heads * hd));
    s->k = exec_alloc(ex, arena_floats(n, (size_t)t->kv_heads * hd));
    s->v = exec_alloc(ex, arena_floats(n, (size_t)t->kv_heads * hd));
    s->gate = exec_alloc(ex, arena_floats(n, (size_t)t->intermediate_size));
    s->up = exec_alloc(ex, arena_floats(n, (size_t)t->intermediate_size));
    exec_operand(ex, s->x, rows, t->hidden_size);
    exec_operand(ex, s->gate, rows, t->intermediate_size);
}

static bool any_cancelled(const atomic_bool *const *cancelled, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (atomic_load(cancelled[i]))
            return true;
    return false;
}

/* logits = lm_head(norm(h)) of n rows; s->x is the space between. */
static void dec_head(struct mll_engine *e, float *logits, const struct dec_scratch *s,
                     const float *h, int n)
{
    const struct cfg_text *t = &e->cfg.text;
    op_rmsnorm(e->exec, s->x, h, &e->weights->norm, n, t->hidden_size, t->rms_norm_eps);
    op_matmul(e->exec, logits, s->x, &e->weights->lm_head, NULL, n);
}

static void dec_logits(struct mll_engine *e, const struct dec_scratch *s, const struct batch *b)
{
    const struct cfg_text *t = &e->cfg.text;
    size_t hidden = (size_t)t->hidden_size;
    exec_set_phase(e->exec, MLL_DECODE);
    exec_label(e->exec, "head", -1);
    for (int r = 0; eng_tracing(e) && r < b->n; r++) {
        dec_head(e, b->logits, s, s->h + (size_t)r * hidden, 1);
        e->trace.rows(e->trace.user, e->exec, "logits", b->logits, 1, (size_t)t->vocab_size);
    }
    if (b->n_logits == 0)
        return;
    op_take_rows(e->exec, s->x, s->h, b->logit_rows, b->n_logits, b->n, t->hidden_size);
    dec_head(e, b->logits, s, s->x, b->n_logits);
}

enum mll_status decoder_run(struct mll_engine *engine, const struct batch *batch,
                            const atomic_bool *const *cancelled, size_t n_cancelled,
                            struct mll_error *err)
{
    const struct cfg_text *t = &engine->cfg.text;
    struct mll_exec *ex = engine->exec;
    struct dec_scratch s;
    MLL_ASSERT(batch->n > 0 && batch->n_cross <= batch->n && batch->n_logits <= batch->n);
    size_t mark = exec_mark(ex);
    scratch_alloc(&s, ex, t, batch->n);
    exec_set_phase(ex, batch->phase);
    exec_label(ex, "embedding", -1);

    op_gather_rows(ex, s.h, &engine->weights->embed_tokens, batch->ids, batch->n);
    enum mll_status status = MLL_OK;
    struct dec_pending pending = {0};
    for (int i = 0; i < t->layers && status == MLL_OK; i++) {
        exec_label(ex, "decoder", i);
        if (eng_group(engine, i) > 0 && (!t->is_cross[i] || batch->n_cross > 0))
            use_layer(engine, batch, i);
        if (t->is_cross[i])
            cross_layer(engine, &s, &pending, i, batch);
        else
            self_layer(engine, &s, &pending, i, batch);
        trace_hidden(engine, &s, &pending, i, batch->n);
        if (any_cancelled(cancelled, n_cancelled))
            status = mll_fail(err, MLL_ERR_CANCELLED, "cancelled in decoder layer %d", i);
    }
    dec_add(engine, &s, &pending, 0);
    if (status == MLL_OK)
        dec_logits(engine, &s, batch);
    exec_release(ex, mark);
    return status;
}

size_t decoder_scratch(const struct cfg *cfg, const struct mll_exec *ex, int rows)
{
    const struct cfg_text *t = &cfg->text;
    size_t n = (size_t)rows, hd = (size_t)t->head_dim;
    size_t buffers = 2 * arena_floats(n, (size_t)t->hidden_size) +
                     2 * arena_floats(n, (size_t)t->heads * hd) +
                     2 * arena_floats(n, (size_t)t->kv_heads * hd) +
                     2 * arena_floats(n, (size_t)t->intermediate_size);
    int widest = t->hidden_size > t->intermediate_size ? t->hidden_size : t->intermediate_size;
    size_t matmul = op_matmul_scratch(ex, rows, widest);
    size_t attn = op_attn_scratch(ex, rows, t->heads, t->head_dim);
    return buffers + (matmul > attn ? matmul : attn);
}
