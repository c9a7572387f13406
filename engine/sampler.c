/* sampler.c - options checked, the ops of a choice and what they found.  Contract: sampler.h;
 * lists: processors.c. */
#include "sampler.h"
#include "beam.h"
#include "processors.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static enum mll_status check_numbers(const struct mll_sampling *o, struct mll_error *err)
{
    if (o->do_sample && !(o->temperature >= 0.0f && o->temperature < INFINITY))
        return mll_fail(err, MLL_ERR_BAD_OPTION, "temperature is %g; at least 0 is needed",
                        (double)o->temperature);
    if (!(o->top_p >= 0.0f && o->top_p <= 1.0f))
        return mll_fail(err, MLL_ERR_BAD_OPTION, "top_p is %g; 0 to 1 is needed", (double)o->top_p);
    if (!(o->min_p >= 0.0f && o->min_p <= 1.0f))
        return mll_fail(err, MLL_ERR_BAD_OPTION, "min_p is %g; 0 to 1 is needed", (double)o->min_p);
    if (!(o->repetition_penalty > 0.0f && o->repetition_penalty < INFINITY))
        return mll_fail(err, MLL_ERR_BAD_OPTION,
                        "repetition_penalty is %g; more than 0 is needed (1: none)",
                        (double)o->repetition_penalty);
    if (o->top_k < 0 || o->no_repeat_ngram_size < 0 || o->min_new_tokens < 0)
        return mll_fail(
            err, MLL_ERR_BAD_OPTION,
            "top_k %d, no_repeat_ngram_size %d, min_new_tokens %d: at least 0 is needed", o->top_k,
            o->no_repeat_ngram_size, o->min_new_tokens);
    if (o->num_beams < 0 || o->num_beams > BEAM_MAX)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "num_beams is %d; 1 to %d is needed", o->num_beams,
                        BEAM_MAX);
    if (o->num_beams > 1 && o->do_sample)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "num_beams %d and sampling exclude each other",
                        o->num_beams);
    return MLL_OK;
}

static enum mll_status check_lists(const struct mll_sampling *o, struct mll_error *err)
{
    for (size_t i = 0; i < o->n_bias; i++)
        if (isnan(o->bias[i]) || o->bias[i] == INFINITY)
            return mll_fail(err, MLL_ERR_BAD_OPTION, "logit bias of id %d is %g",
                            (int)o->bias_ids[i], (double)o->bias[i]);
    if (o->n_bad_words > 0 && o->bad_words[o->n_bad_words - 1] >= 0)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "the last bad word is not ended by -1");
    for (size_t i = 0; i < o->n_bad_words; i++)
        if (o->bad_words[i] < 0 && (i == 0 || o->bad_words[i - 1] < 0))
            return mll_fail(err, MLL_ERR_BAD_OPTION, "a bad word of no tokens");
    return MLL_OK;
}

/* ---- memory ---------------------------------------------------------------------------------- */

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

size_t smp_bytes(int vocab_size, int ctx_size)
{
    size_t n = (size_t)vocab_size;
    return aligned(sizeof(struct sample_row)) + aligned(sizeof(struct sample_out)) +
           5 * aligned(n * 4) + aligned((size_t)ctx_size * 4);
}

size_t smp_host_bytes(int vocab_size, int ctx_size)
{
    return aligned(sizeof(struct sample_row)) + aligned(sizeof(struct sample_out)) +
           aligned((size_t)vocab_size * 4) + aligned((size_t)ctx_size * 4);
}

static void *take(unsigned char **memory, size_t bytes)
{
    unsigned char *p = *memory;
    *memory += aligned(bytes);
    return p;
}

static void place_arrays(struct sampler *smp)
{
    unsigned char *at = smp->place.memory;
    size_t n = (size_t)smp->place.vocab_size;
    smp->row = take(&at, sizeof *smp->row);
    smp->out = take(&at, sizeof *smp->out);
    smp->scores = take(&at, n * sizeof *smp->scores);
    smp->warped = take(&at, n * sizeof *smp->warped);
    smp->bias_ids = take(&at, n * sizeof *smp->bias_ids);
    smp->bias = take(&at, n * sizeof *smp->bias);
    smp->banned = take(&at, n * sizeof *smp->banned);
    smp->text = take(&at, (size_t)smp->place.ctx_size * sizeof *smp->text);

    at = smp->place.host;
    smp->row_host = take(&at, sizeof *smp->row_host);
    smp->out_host = take(&at, sizeof *smp->out_host);
    smp->banned_host = take(&at, n * sizeof *smp->banned_host);
    if (smp->options.repetition_penalty != 1.0f)
        smp->text_host = take(&at, (size_t)smp->place.ctx_size * sizeof *smp->text_host);
}

static bool alloc_arrays(struct sampler *smp)
{
    size_t n = (size_t)smp->place.vocab_size;
    bool beams = smp->options.num_beams > 1;
    smp->marks = calloc(n, sizeof *smp->marks);
    if (beams)
        smp->log_probs = malloc(n * sizeof *smp->log_probs);
    return smp->marks && (smp->log_probs || !beams);
}

enum mll_status smp_open(struct sampler **out, const struct smp_place *place,
                         const struct mll_sampling *sampling, const int32_t *eos, size_t n_eos,
                         struct mll_error *err)
{
    MLL_ASSERT(place->vocab_size > 0 && place->ctx_size >= 0);
    *out = NULL;
    MLL_TRY(check_numbers(sampling, err));
    MLL_TRY(check_lists(sampling, err));
    struct sampler *smp = calloc(1, sizeof *smp);
    if (!smp)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a sampler");
    smp->place = *place;
    smp->options = *sampling;
    smp->eos = eos;
    smp->n_eos = n_eos;
    smp->options.do_sample = sampling->do_sample && sampling->temperature > 0.0f;
    place_arrays(smp);
    enum mll_status status =
        alloc_arrays(smp) ? proc_open(smp, err)
                          : mll_fail(err, MLL_ERR_NO_MEMORY, "no memory to sample from %d logits",
                                     place->vocab_size);
    if (status != MLL_OK) {
        smp_close(smp);
        return status;
    }
    *out = smp;
    return MLL_OK;
}

void smp_close(struct sampler *smp)
{
    if (!smp)
        return;
    free(smp->marks);
    free(smp->log_probs);
    free(smp);
}

/* ---- choosing -------------------------------------------------------------------------------- */

bool smp_is_eos(const struct sampler *smp, int32_t id)
{
    for (size_t i = 0; i < smp->n_eos; i++)
        if (smp->eos[i] == id)
            return true;
    return false;
}

uint64_t smp_skipped(const struct sampler *smp)
{
    return smp->skipped;
}

/* Whether any processor may touch a logit. */
static bool processes(const struct mll_sampling *o)
{
    return o->n_bias > 0 || o->repetition_penalty != 1.0f || o->no_repeat_ngram_size > 0 ||
           o->n_bad_words > 0 || o->min_new_tokens > 0 || o->n_suppress > 0;
}

void smp_prepare(struct sampler *smp, const int32_t *ids, size_t n, size_t n_prompt)
{
    MLL_ASSERT(n_prompt <= n);
    if (smp_kind(smp) != SMP_PLAIN || smp->options.num_beams > 1)
        proc_prepare(smp, ids, n, n_prompt);
}

int smp_kind(const struct sampler *smp)
{
    return (processes(&smp->options) ? SMP_PROCESSES : SMP_PLAIN) |
           (smp->options.do_sample ? SMP_DRAWS : SMP_PLAIN);
}

void smp_enqueue(struct sampler *smp, const float *logits)
{
    struct mll_exec *ex = smp->place.ex;
    const float *scores = logits;
    int n = smp->place.vocab_size;
    if (processes(&smp->options)) {
        op_process(ex, smp->scores, smp->out, logits, smp->row, 1, n);
        scores = smp->scores;
    }
    op_choose(ex, smp->out, scores, 1, n);
    if (smp->options.do_sample) {
        op_warp(ex, smp->warped, scores, smp->row, smp->out, 1, n);
        op_draw(ex, smp->out, smp->warped, scores, smp->row, 1, n);
    }
    exec_fetch(ex, smp->out_host, smp->out, sizeof *smp->out);
}

static enum mll_status choose_end(const struct sampler *smp, struct smp_choice *choice,
                                  struct mll_error *err)
{
    for (size_t i = 0; i < smp->n_eos; i++)
        if (smp->eos[i] >= 0 && smp->eos[i] < smp->place.vocab_size) {
            *choice = (struct smp_choice){.id = smp->eos[i], .forced = true};
            return MLL_OK;
        }
    return mll_fail(err, MLL_ERR_BAD_OPTION,
                    "the sampling options ban every token, and there is no end token");
}

enum mll_status smp_result(struct sampler *smp, struct smp_choice *choice, struct mll_error *err)
{
    struct sample_out out = *smp->out_host;
    if (processes(&smp->options))
        smp->skipped += out.skipped;
    if (out.max == -INFINITY)
        return choose_end(smp, choice, err);
    if (out.max == INFINITY)
        return mll_fail(err, MLL_ERR_NOT_FINITE, "the logit of id %d overflows by bias or penalty",
                        out.id);
    *choice = (struct smp_choice){
        .id = out.id,
        .logprob = (float)((double)out.score - (double)out.max - sample_log(out.total))};
    return MLL_OK;
}

enum mll_status smp_next(struct sampler *smp, struct smp_choice *choice, const float *logits,
                         const int32_t *ids, size_t n, size_t n_prompt, struct mll_error *err)
{
    smp_prepare(smp, ids, n, n_prompt);
    smp_enqueue(smp, logits);
    MLL_TRY(exec_take_error(smp->place.ex, err));
    return smp_result(smp, choice, err);
}

void smp_log_probs(struct sampler *smp, const float **log_probs, const float *logits,
                   const int32_t *ids, size_t n, size_t n_prompt)
{
    struct mll_exec *ex = smp->place.ex;
    int vocab_size = smp->place.vocab_size;
    struct sample_out out;
    MLL_ASSERT(smp->log_probs != NULL);
    smp_prepare(smp, ids, n, n_prompt);
    op_log_probs(ex, smp->scores, logits, 1, vocab_size);
    op_process(ex, smp->scores, smp->out, smp->scores, smp->row, 1, vocab_size);
    exec_download(ex, &out, smp->out, sizeof out);
    exec_download(ex, smp->log_probs, smp->scores, (size_t)vocab_size * sizeof *smp->log_probs);
    smp->skipped += out.skipped;
    *log_probs = smp->log_probs;
}
