/* request.c - text and ids: mll_tokenize, mll_detokenize, mll_prompt. */
#include "engine.h"

#include <stdlib.h>
#include <string.h>

static enum mll_status need_tokenizer(const struct mll_engine *engine, struct mll_error *err)
{
    if (engine->bpe != NULL)
        return MLL_OK;
    return mll_fail(err, MLL_ERR_NOT_FOUND,
                    "%s has neither tokenizer.json nor tokenizer.model: only ids can be used",
                    engine->path);
}

enum mll_status mll_tokenize(struct mll_engine *engine, const int32_t **ids, size_t *n,
                             const char *text, size_t size, bool special, struct mll_error *err)
{
    MLL_TRY(need_tokenizer(engine, err));
    engine->ids.n = 0;
    MLL_TRY(bpe_encode(engine->bpe, &engine->ids, text, size, special, err));
    *ids = engine->ids.data;
    *n = engine->ids.n;
    return MLL_OK;
}

enum mll_status mll_detokenize(struct mll_engine *engine, const char **text, size_t *size,
                               const int32_t *ids, size_t n, bool keep_special,
                               struct mll_error *err)
{
    struct bpe_stream stream = {0};
    size_t capacity = 16, used = 0, length;
    MLL_TRY(need_tokenizer(engine, err));
    for (size_t i = 0; i < n; i++) {
        bpe_token_bytes(engine->bpe, ids[i], &length);
        capacity += 3 * length + 16;
    }
    char *grown = realloc(engine->text, capacity);
    if (grown == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %zu bytes of text", capacity);
    engine->text = grown;
    for (size_t i = 0; i < n; i++) {
        const char *bytes = bpe_token_bytes(engine->bpe, ids[i], &length);
        if (keep_special || !bpe_is_special(engine->bpe, ids[i]))
            used += bpe_stream_push(&stream, grown + used, bytes, length);
    }
    used += bpe_stream_finish(&stream, grown + used);
    grown[used] = '\0';
    *text = grown;
    *size = used;
    return MLL_OK;
}

enum mll_status mll_prompt(struct mll_engine *engine, const char **text, const int32_t **ids,
                           size_t *n, const struct mll_request *request, struct mll_error *err)
{
    const int32_t *built = request->ids;
    size_t n_built = request->n_ids, size;
    /* Given ids need no tokenizer, unless they are to be shown as text. */
    if (built == NULL) {
        MLL_TRY(need_tokenizer(engine, err));
        engine->ids.n = 0;
        MLL_TRY(prompt_build(engine->prompt, &engine->ids, request, err));
        built = engine->ids.data;
        n_built = engine->ids.n;
    }
    if (text != NULL)
        MLL_TRY(mll_detokenize(engine, text, &size, built, n_built, true, err));
    if (ids != NULL)
        *ids = built;
    if (n != NULL)
        *n = n_built;
    return MLL_OK;
}

void mll_sampling_default(struct mll_sampling *sampling)
{
    *sampling = (struct mll_sampling){.temperature = 1.0f,
                                      .top_p = 1.0f,
                                      .repetition_penalty = 1.0f,
                                      .num_beams = 1,
                                      .max_new_tokens = 512};
}

void mll_sampling_from_model(const struct mll_engine *engine, struct mll_sampling *sampling)
{
    const struct cfg_generation *g = &engine->cfg.generation;
    sampling->do_sample = g->do_sample;
    sampling->temperature = g->temperature;
    sampling->top_p = g->top_p;
    sampling->min_p = g->min_p;
    sampling->top_k = g->top_k;
    sampling->repetition_penalty = g->repetition_penalty;
    sampling->no_repeat_ngram_size = g->no_repeat_ngram_size;
    if (g->max_new_tokens > 0)
        sampling->max_new_tokens = g->max_new_tokens;
}
