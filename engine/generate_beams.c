/* generate_beams.c - the decode loop of a beam search in one session.
 *
 * The session holds one text at a time. To score a beam it is rewound to what the beam shares with
 * the text in it and fed the rest; results do not depend on how a text came about, so that this is
 * the search that separate caches would give. The price is to evaluate again, as one batch, the
 * tokens behind the fork: few, for beams of one search share most of their text. They are fed one
 * by one, as generated tokens are. */
#include "beam.h"
#include "engine.h"
#include "generation.h"

#include <string.h>

/* Brings text behind the prompt into the session and its logits up to date. */
static enum mll_status evaluate(struct mll_session *session, size_t n_prompt,
                                const struct beam_text *text, struct mll_error *err)
{
    size_t held = (size_t)session->n_ids - n_prompt, shared = 0, pending = 1;
    if (text->n == 0) /* the prompt was just evaluated */
        return MLL_OK;
    while (shared < held && shared + 1 < text->n &&
           session->ids[n_prompt + shared] == text->ids[shared])
        shared++;
    MLL_TRY(mll_session_rewind(session, n_prompt + shared, err));
    for (size_t i = shared; i < text->n; i++)
        MLL_TRY(mll_session_feed(session, &text->ids[i], 1, err));
    while (pending > 0)
        MLL_TRY(mll_step(session->engine, &session, 1, &pending, err));
    return MLL_OK;
}

static enum mll_status score_beams(struct generation *g, struct mll_session *session,
                                   size_t n_prompt, struct beam_search *b, struct mll_error *err)
{
    for (int i = 0; i < beam_running(b); i++) {
        const float *log_probs;
        MLL_TRY(evaluate(session, n_prompt, beam_text(b, i), err));
        gen_hash_logits(g, session);
        smp_log_probs(g->sampler, &log_probs, step_logits(session), session->ids,
                      (size_t)session->n_ids, n_prompt);
        beam_offer(b, i, log_probs);
    }
    beam_advance(b);
    return MLL_OK;
}

static void take_text(struct generation *g, const struct beam_text *text)
{
    memcpy(g->ids, text->ids, text->n * sizeof *g->ids);
    memcpy(g->logprobs, text->logprobs, text->n * sizeof *g->logprobs);
    g->n = text->n;
}

enum mll_status gen_beams(struct generation *g, struct mll_session *session,
                          const struct mll_request *request, const struct mll_sampling *sampling,
                          struct mll_error *err)
{
    const struct mll_engine *e = session->engine;
    size_t n_prompt = (size_t)session->n_ids, room = (size_t)e->plan.ctx_size - n_prompt + 1;
    size_t most = g->capacity < room ? g->capacity : room, n_eos;
    const int32_t *eos = gen_eos(&n_eos, e, sampling);
    struct beam_search *b;
    if (most == 0)
        return MLL_OK;
    MLL_TRY(beam_open(&b, sampling->num_beams, e->cfg.text.vocab_size, most,
                      sampling->early_stopping, eos, n_eos, err));
    enum mll_status status = MLL_OK;
    for (size_t step = 1; !beam_done(b) && status == MLL_OK; step++) {
        status = score_beams(g, session, n_prompt, b, err);
        if (status == MLL_OK && atomic_load(&session->cancelled))
            status = MLL_ERR_CANCELLED;
        if (request->on_progress != NULL)
            request->on_progress(request->user, "decode", (int)step, (int)most);
    }
    if (status == MLL_ERR_CANCELLED) {
        g->finish = MLL_FINISH_CANCELLED;
        status = MLL_OK;
    }
    if (status == MLL_OK)
        take_text(g, beam_best(b));
    beam_close(b);
    return status;
}
