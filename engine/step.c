/* step.c - mll_step: what the sessions were fed, as one ragged batch.
 *
 * Rows of sessions with images come first (cross layers run on a prefix of the batch), each
 * session's rows in order. At most prefill_chunk rows go at once; a session whose last row is in
 * the batch gets logits. Everything that changes between steps is one upload of int32 arrays. */
#include "engine.h"

#include <string.h>

enum {
    ROW_ID = 0,
    ROW_POS,
    ROW_SLOT,
    ROW_ZERO,
    ROW_END,
    ROW_CROSS_BEGIN,
    ROW_CROSS_END,
    ROW_ATTN,
    ROW_MLP
};

static void stage_float(int32_t *where, float x)
{
    memcpy(where, &x, sizeof x);
}

static void stage_rows(int32_t *host, int stride, const struct share *share)
{
    const struct mll_session *s = share->session;
    for (int r = 0; r < share->n; r++) {
        int position = s->n_done + r;
        int32_t *row = host + share->first + r;
        struct cross_view view = session_cross_view(s, position);
        row[ROW_ID * stride] = s->ids[position];
        row[ROW_POS * stride] = position;
        row[ROW_SLOT * stride] = s->slot;
        row[ROW_ZERO * stride] = 0;
        row[ROW_END * stride] = position + 1;
        row[ROW_CROSS_BEGIN * stride] = view.begin;
        row[ROW_CROSS_END * stride] = view.end;
        stage_float(row + ROW_ATTN * stride, view.attn_scale);
        stage_float(row + ROW_MLP * stride, view.mlp_scale);
    }
}

/* Hands the chunk's rows out to the sessions, those with images first, and fills the host side of
 * the batch. */
static void step_collect(struct mll_engine *e, struct batch *b, struct share *shares,
                         struct mll_session *const *sessions, size_t n)
{
    int chunk = e->plan.prefill_chunk;
    int32_t *logit_rows = e->staging + (size_t)STEP_ARRAYS * (size_t)chunk;
    for (int with_images = 1; with_images >= 0; with_images--) {
        for (size_t i = 0; i < n; i++) {
            struct mll_session *s = sessions[i];
            int left = s->n_ids - s->n_done, room = chunk - b->n;
            if ((s->n_images > 0) != with_images)
                continue;
            shares[i] = (struct share){s, b->n, left < room ? left : room};
            if (shares[i].n == 0)
                continue;
            stage_rows(e->staging, chunk, &shares[i]);
            b->n += shares[i].n;
            if (shares[i].n == left)
                logit_rows[b->n_logits++] = b->n - 1;
        }
        if (with_images)
            b->n_cross = b->n;
    }
}

static void step_upload(struct mll_engine *e, struct batch *b)
{
    size_t chunk = (size_t)e->plan.prefill_chunk, sessions = (size_t)e->plan.max_sessions;
    size_t count = STEP_ARRAYS * chunk + sessions;
    int32_t *device = exec_alloc(e->exec, count * sizeof *device);
    exec_upload(e->exec, device, e->staging, count * sizeof *device);
    b->ids = device + ROW_ID * chunk;
    b->pos = device + ROW_POS * chunk;
    b->slot = device + ROW_SLOT * chunk;
    b->zero = device + ROW_ZERO * chunk;
    b->end = device + ROW_END * chunk;
    b->cross_begin = device + ROW_CROSS_BEGIN * chunk;
    b->cross_end = device + ROW_CROSS_END * chunk;
    b->attn_scale = (const float *)(device + ROW_ATTN * chunk);
    b->mlp_scale = (const float *)(device + ROW_MLP * chunk);
    b->logit_rows = device + STEP_ARRAYS * chunk;
    b->logits = exec_alloc(e->exec, arena_floats(sessions, (size_t)e->cfg.text.vocab_size));
}

size_t step_scratch(const struct cfg *cfg, const struct memory_plan *plan,
                    const struct mll_exec *ex)
{
    size_t chunk = (size_t)plan->prefill_chunk, sessions = (size_t)plan->max_sessions;
    return arena_floats(STEP_ARRAYS * chunk + sessions, 1) +
           arena_floats(sessions, (size_t)cfg->text.vocab_size) + 2 * arena_floats(sessions, 1) +
           decoder_scratch(cfg, ex, plan->prefill_chunk);
}

/* Moves the sessions on and copies their logits out; MLL_ERR_NOT_FINITE where they are not. */
static enum mll_status step_finish(struct mll_engine *e, const struct batch *b,
                                   const struct share *shares, size_t n, struct mll_error *err)
{
    size_t vocab = (size_t)e->cfg.text.vocab_size;
    int32_t *best = exec_alloc(e->exec, arena_floats((size_t)b->n_logits, 1));
    uint8_t *finite = exec_alloc(e->exec, arena_floats((size_t)b->n_logits, 1));
    if (b->n_logits > 0)
        op_argmax(e->exec, best, finite, b->logits, b->n_logits, (int)vocab);
    const int32_t *logit_rows = e->staging + (size_t)STEP_ARRAYS * (size_t)e->plan.prefill_chunk;
    for (int l = 0; l < b->n_logits; l++) {
        for (size_t i = 0; i < n; i++) {
            struct mll_session *s = shares[i].session;
            uint8_t is_finite;
            if (shares[i].n == 0 || shares[i].first + shares[i].n - 1 != logit_rows[l])
                continue;
            exec_download(e->exec, s->logits, b->logits + (size_t)l * vocab,
                          vocab * sizeof *s->logits);
            exec_download(e->exec, &is_finite, finite + l, 1);
            if (!is_finite)
                return mll_fail(err, MLL_ERR_NOT_FINITE,
                                "the logits of token %d are not finite: the weights are damaged or "
                                "overflow",
                                s->n_done + shares[i].n - 1);
        }
    }
    for (size_t i = 0; i < n; i++) {
        struct mll_session *s = shares[i].session;
        s->n_done += shares[i].n;
        s->has_logits = s->n_done == s->n_ids && s->n_done > 0;
    }
    return MLL_OK;
}

static enum mll_status step_check(const struct mll_engine *engine,
                                  struct mll_session *const *sessions, size_t n,
                                  struct mll_error *err)
{
    if (n == 0 || n > (size_t)engine->plan.max_sessions)
        return mll_fail(err, MLL_ERR_USAGE, "a step takes 1 to %d sessions, not %zu",
                        engine->plan.max_sessions, n);
    for (size_t i = 0; i < n; i++) {
        MLL_ASSERT(sessions[i] != NULL && sessions[i]->engine == engine);
        for (size_t j = 0; j < i; j++)
            if (sessions[i] == sessions[j])
                return mll_fail(err, MLL_ERR_USAGE, "session %zu stands twice in one step", i);
    }
    return weights_check_files(engine->weights, err);
}

enum mll_status mll_step(struct mll_engine *engine, struct mll_session *const *sessions, size_t n,
                         size_t *pending, struct mll_error *err)
{
    MLL_TRY(step_check(engine, sessions, n, err));
    struct share *shares = engine->shares;
    const atomic_bool **cancelled = engine->cancelled;
    struct batch b = {0};
    step_collect(engine, &b, shares, sessions, n);
    for (size_t i = 0; i < n; i++)
        cancelled[i] = &sessions[i]->cancelled;

    enum mll_status status = MLL_OK;
    if (engine->vision_ran) /* the tower needs far more than a step, and rarely */
        exec_trim(engine->exec);
    engine->vision_ran = false;
    if (b.n > 0) {
        size_t mark = exec_mark(engine->exec);
        step_upload(engine, &b);
        status = decoder_run(engine, &b, cancelled, n, err);
        if (status == MLL_OK)
            status = eng_check_fault(engine, "decoder", err);
        if (status == MLL_OK)
            status = step_finish(engine, &b, shares, n, err);
        exec_release(engine->exec, mark);
    }
    for (size_t i = 0; i < n && status == MLL_ERR_CANCELLED; i++)
        atomic_store(&sessions[i]->cancelled, false);
    if (pending != NULL) {
        *pending = 0;
        for (size_t i = 0; i < n; i++)
            *pending += (size_t)(sessions[i]->n_ids - sessions[i]->n_done);
    }
    return status;
}
