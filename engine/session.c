/* session.c - images and one text timeline, step by step.
 *
 * A session owns a row of the engine's block tables, which fills as text and images come. What a
 * text row sees of the images is decided here: the images from the first of the run of consecutive
 * image tokens in front of it to the last token of that run that is not behind it (HF:
 * get_cross_attention_token_mask). Generated rows follow the same rule. */
#include "engine.h"
#include "preprocess.h"

#include <stdlib.h>
#include <string.h>

/* ---- open, close ----------------------------------------------------------------------------- */

enum mll_status mll_session_open(struct mll_session **session, struct mll_engine *engine,
                                 struct mll_error *err)
{
    const struct memory_plan *p = &engine->plan;
    int slot = 0;
    *session = NULL;
    while (slot < p->max_sessions && engine->slot_used[slot])
        slot++;
    if (slot == p->max_sessions)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "all %d sessions of the engine are open", slot);

    struct mll_session *s = calloc(1, sizeof *s);
    if (s != NULL) {
        s->ids = calloc((size_t)p->ctx_size, sizeof *s->ids);
        s->alone = calloc((size_t)p->ctx_size, sizeof *s->alone);
        s->images = calloc((size_t)p->max_images, sizeof *s->images);
        s->logits = calloc((size_t)engine->cfg.text.vocab_size, sizeof *s->logits);
    }
    if (s == NULL || !s->ids || !s->alone || !s->images || !s->logits) {
        mll_session_close(s);
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a session");
    }
    s->engine = engine;
    s->slot = slot;
    s->logits_row = -1;
    engine->slot_used[slot] = true;
    size_t row = (size_t)(p->text_blocks + p->image_blocks);
    s->text_blocks = engine->table_rows + (size_t)slot * row;
    s->image_blocks = s->text_blocks + p->text_blocks;
    memset(s->text_blocks, -1, row * sizeof *s->text_blocks);
    mll_session_clear(s);
    *session = s;
    return MLL_OK;
}

void mll_session_close(struct mll_session *session)
{
    if (session == NULL)
        return;
    if (session->engine != NULL) {
        blocks_give(session, true);
        blocks_give(session, false);
        session->engine->slot_used[session->slot] = false;
        if (session->logits_row >= 0)
            session->engine->logits_of[session->logits_row] = NULL;
    }
    generation_free(session->generation);
    free(session->ids);
    free(session->alone);
    free(session->images);
    free(session->logits);
    free(session);
}

void mll_session_clear(struct mll_session *session)
{
    blocks_give(session, true);
    blocks_give(session, false);
    session->n_ids = session->n_done = 0;
    session->n_images = session->n_image_tokens = 0;
    session->key_begin = session->key_end = session->engine->plan.middle;
    session->has_logits = false;
}

void mll_cancel(struct mll_session *session)
{
    atomic_store(&session->cancelled, true);
}

/* ---- images ---------------------------------------------------------------------------------- */

void session_trace_tiles(const struct trace_sink *sink, const struct tiles *tiles)
{
    size_t tile = 3 * (size_t)tiles->size * (size_t)tiles->size;
    int32_t id = tiles->aspect_ratio_id, n = tiles->n;
    sink->rows(sink->user, NULL, "pixel_values", tiles->pixels, (size_t)tiles->max_tiles, tile);
    sink->ints(sink->user, "aspect_ratio_ids", &id, 1);
    sink->ints(sink->user, "num_tiles", &n, 1);
}

/* Stages 4 and 5 for tiles; fills image and moves the ends of the session's keys. */
static enum mll_status encode_image(struct mll_session *s, struct session_image *image,
                                    const struct tiles *tiles, struct mll_error *err)
{
    struct mll_engine *e = s->engine;
    const struct cfg_vision *v = &e->cfg.vision;
    bool meta = e->options.reference == MLL_REFERENCE_META;
    int rows = v->patches + 1, missing = meta ? 0 : v->max_tiles - tiles->n;
    int begin = s->key_begin - missing * rows, end = s->key_end + tiles->n * rows;
    int n_states = meta && !eng_tracing(e) ? tiles->n : v->max_tiles;
    size_t tile = (size_t)rows * (size_t)e->cfg.text.hidden_size;
    blocks_grow(s, true, begin, end);
    e->vision_ran = true;

    size_t mark = exec_mark(e->exec);
    float *states = exec_alloc(e->exec, arena_floats((size_t)v->max_tiles, tile));
    enum mll_status status = vision_run(e, states, tiles, n_states, &s->cancelled, err);
    for (int i = 0; i < tiles->n + missing && status == MLL_OK; i++) {
        int key = i < tiles->n ? s->key_end + i * rows : begin + (i - tiles->n) * rows;
        status = crosskv_run(e, s->slot, states + (size_t)i * tile, rows, key, err);
    }
    exec_release(e->exec, mark);
    if (status == MLL_OK)
        status = eng_check_fault(e, "vision", err);
    if (status != MLL_OK)
        return status;
    *image = (struct session_image){s->key_end, end, -1};
    s->key_begin = begin;
    s->key_end = end;
    return MLL_OK;
}

enum mll_status mll_session_add_image(struct mll_session *session, const struct mll_image *image,
                                      struct mll_error *err)
{
    struct mll_engine *e = session->engine;
    if (session->n_ids > 0)
        return mll_fail(err, MLL_ERR_USAGE, "images come before text; rewind to 0 or clear first");
    if (session->n_images == e->plan.max_images)
        return mll_fail(err, MLL_ERR_IMAGE_COUNT, "a session of this engine holds %d images",
                        e->plan.max_images);
    MLL_TRY(weights_check_files(e->weights, err));
    struct tiles tiles;
    struct image pixels = {.w = image->w, .h = image->h, .rgb = (uint8_t *)image->rgb};
    MLL_TRY(pre_tiles(&tiles, &pixels, &e->cfg.preprocess, err));
    if (eng_tracing(e))
        session_trace_tiles(&e->trace, &tiles);
    enum mll_status status =
        encode_image(session, &session->images[session->n_images], &tiles, err);
    if (status == MLL_OK)
        session->n_images++;
    else if (status == MLL_ERR_CANCELLED)
        atomic_store(&session->cancelled, false);
    pre_tiles_free(&tiles);
    return status;
}

struct cross_view session_cross_view(const struct mll_session *session, int position)
{
    bool meta = session->engine->options.reference == MLL_REFERENCE_META;
    int last = session->n_image_tokens - 1;
    while (last >= 0 && session->images[last].position > position)
        last--;
    if (last < 0) {
        if (meta)
            return (struct cross_view){0, 0, 0.0f, 0.0f};
        return (struct cross_view){session->key_begin, session->key_end, 1.0f, 0.0f};
    }
    int first = last;
    while (first > 0 && session->images[first - 1].position == session->images[first].position - 1)
        first--;
    return (struct cross_view){session->images[first].key_begin, session->images[last].key_end,
                               1.0f, 1.0f};
}

/* ---- text ------------------------------------------------------------------------------------ */

static enum mll_status check_ids(const struct mll_session *s, const int32_t *ids, size_t n,
                                 struct mll_error *err)
{
    const struct mll_engine *e = s->engine;
    int bound = e->weights->embed_tokens.rows, images = s->n_image_tokens;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= bound)
            return mll_fail(err, MLL_ERR_TOKEN_ID,
                            "token id %d at position %zu; the model knows ids below %d", ids[i],
                            (size_t)s->n_ids + i, bound);
        images += ids[i] == e->cfg.image_token;
    }
    if (images > s->n_images)
        return mll_fail(err, MLL_ERR_IMAGE_COUNT, "the prompt has %d image tokens for %d images",
                        images, s->n_images);
    return MLL_OK;
}

enum mll_status mll_session_feed(struct mll_session *session, const int32_t *ids, size_t n,
                                 struct mll_error *err)
{
    int ctx = session->engine->plan.ctx_size;
    if (n > (size_t)(ctx - session->n_ids))
        return mll_fail(err, MLL_ERR_CONTEXT_FULL, "%zu tokens do not fit a context of %d",
                        (size_t)session->n_ids + n, ctx);
    MLL_TRY(check_ids(session, ids, n, err));
    for (size_t i = 0; i < n; i++) {
        if (ids[i] == session->engine->cfg.image_token)
            session->images[session->n_image_tokens++].position = session->n_ids;
        session->alone[session->n_ids] = n == 1;
        session->ids[session->n_ids++] = ids[i];
    }
    if (n > 0)
        session->has_logits = false;
    return MLL_OK;
}

enum mll_status mll_session_rewind(struct mll_session *session, size_t n, struct mll_error *err)
{
    if (n > (size_t)session->n_ids)
        return mll_fail(err, MLL_ERR_USAGE, "cannot rewind %d tokens to %zu", session->n_ids, n);
    session->has_logits = session->has_logits && n == (size_t)session->n_done;
    session->n_ids = (int)n;
    if (session->n_done > session->n_ids)
        session->n_done = session->n_ids;
    while (session->n_image_tokens > 0 &&
           session->images[session->n_image_tokens - 1].position >= session->n_ids)
        session->images[--session->n_image_tokens].position = -1;
    return MLL_OK;
}

size_t mll_session_length(const struct mll_session *session)
{
    return (size_t)session->n_ids;
}

const float *mll_session_logits(struct mll_session *session)
{
    if (!session->has_logits)
        return NULL;
    step_take_logits(session);
    return session->logits;
}
