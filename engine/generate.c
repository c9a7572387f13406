/* generate.c - stages 2 to 8 for one request: mll_session_run.
 *
 * Every token: append the id that the last step chose, show what text became certain, evaluate it.
 * logits_hash joins the hashes of the steps' logits: hash = mix(hash + that of the step), from
 * 0; op_hash_rows and mix are in kernels/sample.h. */
#include "answer.h"
#include "generation.h"
#include "engine.h"
#include "sample.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void progress(const struct mll_request *request, const char *stage, size_t done,
                     size_t total)
{
    if (request->on_progress != NULL)
        request->on_progress(request->user, stage, (int)done, (int)total);
}

/* ---- before the first token ------------------------------------------------------------------ */

void generation_free(struct generation *g)
{
    if (g == NULL)
        return;
    answer_free(&g->answer);
    smp_close(g->sampler);
    free(g->ids);
    free(g->logprobs);
    free(g->text_end);
    free(g);
}

const int32_t *gen_eos(size_t *n, const struct mll_engine *engine,
                       const struct mll_sampling *sampling)
{
    const struct cfg_generation *model = &engine->cfg.generation;
    *n = sampling->eos ? sampling->n_eos : (size_t)model->n_eos;
    return sampling->eos ? sampling->eos : model->eos;
}

static enum mll_status gen_alloc(struct generation **out, const struct mll_session *session,
                                 const struct mll_sampling *sampling, struct mll_error *err)
{
    size_t most = (size_t)session->engine->plan.ctx_size;
    *out = NULL;
    if (sampling->max_new_tokens < 0)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "max_new_tokens is %d", sampling->max_new_tokens);
    if ((size_t)sampling->max_new_tokens < most)
        most = (size_t)sampling->max_new_tokens;
    struct generation *g = calloc(1, sizeof *g);
    *out = g;
    if (g != NULL) {
        g->ids = calloc(most + 1, sizeof *g->ids);
        g->logprobs = calloc(most + 1, sizeof *g->logprobs);
        g->text_end = calloc(most + 1, sizeof *g->text_end);
    }
    if (g == NULL || g->ids == NULL || g->logprobs == NULL || g->text_end == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %zu new tokens", most);
    g->capacity = most;
    g->answer.stop = sampling->stop;
    g->answer.n_stop = sampling->n_stop;
    size_t n_eos;
    const struct mll_engine *e = session->engine;
    const int32_t *eos = gen_eos(&n_eos, e, sampling);
    struct smp_place place = {.ex = e->exec,
                              .memory = e->sampling + (size_t)session->slot * e->plan.sampling,
                              .host = e->sampling_host +
                                      (size_t)session->slot *
                                          smp_host_bytes(e->cfg.text.vocab_size, e->plan.ctx_size),
                              .vocab_size = e->cfg.text.vocab_size,
                              .ctx_size = e->plan.ctx_size};
    return smp_open(&g->sampler, &place, sampling, eos, n_eos, err);
}

static enum mll_status gen_images(struct mll_session *session, const struct mll_request *request,
                                  struct mll_error *err)
{
    for (size_t i = 0; i < request->n_images; i++) {
        MLL_TRY(mll_session_add_image(session, &request->images[i], err));
        progress(request, "vision", i + 1, request->n_images);
    }
    return MLL_OK;
}

static enum mll_status gen_prefill(struct mll_session *session, const struct mll_request *request,
                                   const int32_t *ids, size_t n, struct mll_error *err)
{
    size_t pending;
    MLL_TRY(mll_session_feed(session, ids, n, err));
    do {
        MLL_TRY(mll_step(session->engine, &session, 1, &pending, err));
        progress(request, "prefill", n - pending, n);
    } while (pending > 0);
    return MLL_OK;
}

/* Before anything is computed: as many image tokens as images, and room for the prompt. */
static enum mll_status check_prompt(const struct mll_engine *e, const struct mll_request *request,
                                    const int32_t *ids, size_t n, struct mll_error *err)
{
    size_t images = 0;
    for (size_t i = 0; i < n; i++)
        images += ids[i] == e->cfg.image_token;
    if (images != request->n_images)
        return mll_fail(err, MLL_ERR_IMAGE_COUNT, "the prompt has %zu image tokens for %zu images",
                        images, request->n_images);
    if (request->n_images > (size_t)e->plan.max_images)
        return mll_fail(err, MLL_ERR_IMAGE_COUNT, "%zu images; the engine was opened for %d",
                        request->n_images, e->plan.max_images);
    if (n == 0)
        return mll_fail(err, MLL_ERR_USAGE, "the prompt is empty");
    if (n > (size_t)e->plan.ctx_size)
        return mll_fail(err, MLL_ERR_CONTEXT_FULL, "the prompt has %zu tokens, the context %d", n,
                        e->plan.ctx_size);
    return MLL_OK;
}

/* ---- token by token -------------------------------------------------------------------------- */

void gen_hash_logits(struct generation *g, const struct mll_session *session)
{
    g->hash = sample_mix(g->hash + session->logits_hash);
}

/* Adds the token's text and hands over what became certain; *go_on false where the caller asked to
 * stop. */
static enum mll_status show(struct generation *g, const struct mll_engine *e,
                            const struct mll_request *request, int32_t id, bool *go_on,
                            struct mll_error *err)
{
    size_t size = 0;
    if (e->bpe == NULL)
        return MLL_OK;
    const char *bytes = bpe_token_bytes(e->bpe, id, &size);
    if (bpe_is_special(e->bpe, id))
        size = 0;
    MLL_TRY(answer_push(&g->answer, bytes, size, err));
    const char *piece = answer_ready(&g->answer, &size, false);
    if (request->on_text != NULL && size > 0)
        *go_on = request->on_text(request->user, piece, size);
    return MLL_OK;
}

static enum mll_status gen_decode(struct generation *g, struct mll_session *session,
                                  const struct mll_request *request, struct mll_error *err)
{
    struct mll_engine *e = session->engine;
    g->finish = MLL_FINISH_LENGTH;
    while (g->n < g->capacity) {
        bool go_on = true;
        gen_hash_logits(g, session);
        struct smp_choice choice;
        MLL_TRY(smp_result(g->sampler, &choice, err));
        int32_t id = choice.id;
        g->ids[g->n] = id;
        g->logprobs[g->n] = choice.logprob;
        if (smp_is_eos(g->sampler, id)) {
            g->text_end[g->n++] = g->answer.size;
            g->finish = MLL_FINISH_EOS;
            break;
        }
        MLL_TRY(show(g, e, request, id, &go_on, err));
        g->text_end[g->n++] = g->answer.size;
        progress(request, "decode", g->n, g->capacity);
        if (g->answer.stopped) {
            g->finish = MLL_FINISH_STOP;
            break;
        }
        if (!go_on || atomic_load(&session->cancelled)) {
            g->finish = MLL_FINISH_CANCELLED;
            break;
        }
        if (g->n == g->capacity || session->n_ids == e->plan.ctx_size)
            break;
        MLL_TRY(mll_session_feed(session, &id, 1, err));
        enum mll_status status = mll_step(e, &session, 1, NULL, err);
        if (status == MLL_ERR_CANCELLED) {
            g->finish = MLL_FINISH_CANCELLED;
            break;
        }
        MLL_TRY(status);
    }
    return MLL_OK;
}

/* The same behind a beam search, whose text is only known as a whole. */
static enum mll_status gen_decode_beams(struct generation *g, struct mll_session *session,
                                        const struct mll_request *request,
                                        const struct mll_sampling *sampling, struct mll_error *err)
{
    bool go_on = true;
    g->finish = MLL_FINISH_LENGTH;
    MLL_TRY(gen_beams(g, session, request, sampling, err));
    for (size_t i = 0, n = g->n; i < n; i++) {
        bool end = smp_is_eos(g->sampler, g->ids[i]);
        if (!end)
            MLL_TRY(show(g, session->engine, request, g->ids[i], &go_on, err));
        g->text_end[i] = g->answer.size;
        if (end || g->answer.stopped || !go_on) {
            g->n = i + 1;
            g->finish = end                 ? MLL_FINISH_EOS
                        : g->answer.stopped ? MLL_FINISH_STOP
                                            : MLL_FINISH_CANCELLED;
            break;
        }
    }
    return MLL_OK;
}

/* Flushes the text and fills what the caller borrows. */
static enum mll_status gen_result(struct generation *g, const struct mll_request *request,
                                  size_t n_prompt, struct mll_error *err)
{
    size_t size;
    MLL_TRY(answer_finish(&g->answer, err));
    const char *piece = answer_ready(&g->answer, &size, true);
    if (request->on_text != NULL && size > 0)
        request->on_text(request->user, piece, size);
    for (size_t i = 0; i < g->n; i++)
        if (g->text_end[i] > g->answer.size)
            g->text_end[i] = g->answer.size;
    g->result.text = g->answer.text;
    g->result.text_size = g->answer.size;
    g->result.ids = g->ids;
    g->result.logprobs = g->logprobs;
    g->result.n = g->n;
    g->result.text_end = g->text_end;
    g->result.n_prompt = n_prompt;
    g->result.finish = g->finish;
    g->result.logits_hash = g->hash;
    g->result.ids_skipped = smp_skipped(g->sampler);
    return MLL_OK;
}

/* The stages in order. */
static enum mll_status run_stages(struct generation *g, struct mll_session *session,
                                  const struct mll_request *request,
                                  const struct mll_sampling *sampling, enum gen_stage last,
                                  struct mll_error *err)
{
    struct mll_engine *e = session->engine;
    const int32_t *ids;
    size_t n;
    double start = now();
    /* A trace of the vision stages does without a prompt where there is no tokenizer. */
    if (last != GEN_VISION || e->bpe != NULL || request->ids != NULL) {
        MLL_TRY(mll_prompt(e, NULL, &ids, &n, request, err)); /* stage 3 */
        MLL_TRY(check_prompt(e, request, ids, n, err));
        if (eng_tracing(e))
            e->trace.ints(e->trace.user, "input_ids", ids, n);
    }
    MLL_TRY(gen_images(session, request, err)); /* stages 2, 4, 5 */
    g->result.seconds_vision = now() - start;
    if (last == GEN_VISION)
        return MLL_OK;
    if (last == GEN_ALL && sampling->num_beams <= 1 && g->capacity > 0)
        session->sampler = g->sampler; /* steps end with a choice from here on */
    session->n_prompt = n;
    MLL_TRY(gen_prefill(session, request, ids, n, err)); /* stage 6 */
    g->result.seconds_prefill = now() - start - g->result.seconds_vision;
    e->trace = (struct trace_sink){0};
    if (last == GEN_DECODER)
        return MLL_OK;
    if (sampling->num_beams > 1) /* stages 6, 7, 8 */
        MLL_TRY(gen_decode_beams(g, session, request, sampling, err));
    else
        MLL_TRY(gen_decode(g, session, request, err));
    g->result.seconds_decode = now() - start - g->result.seconds_vision - g->result.seconds_prefill;
    return gen_result(g, request, n, err);
}

enum mll_status gen_run(struct mll_session *session, const struct mll_request *request,
                        enum gen_stage last, const struct mll_result **result,
                        struct mll_error *err)
{
    struct mll_sampling greedy;
    mll_sampling_default(&greedy);
    const struct mll_sampling *sampling = request->sampling ? request->sampling : &greedy;
    *result = NULL;
    mll_session_clear(session);
    generation_free(session->generation);
    enum mll_status status = gen_alloc(&session->generation, session, sampling, err);
    if (status == MLL_OK)
        status = run_stages(session->generation, session, request, sampling, last, err);
    session->sampler = NULL;
    if (session->generation != NULL) {
        smp_close(session->generation->sampler);
        session->generation->sampler = NULL;
    }
    atomic_store(&session->cancelled, false);
    if (status != MLL_OK) {
        mll_session_clear(session);
        return status;
    }
    *result = &session->generation->result;
    return MLL_OK;
}

enum mll_status mll_session_run(struct mll_session *session, const struct mll_request *request,
                                const struct mll_result **result, struct mll_error *err)
{
    return gen_run(session, request, GEN_ALL, result, err);
}
