/* sampler.c - options checked, the choice itself.  Contract: sampler.h; processors: processors.c.
 */
#include "sampler.h"
#include "beam.h"
#include "processors.h"
#include "philox.h"

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

enum mll_status smp_open(struct sampler **out, int vocab_size, const struct mll_sampling *sampling,
                         const int32_t *eos, size_t n_eos, struct mll_error *err)
{
    MLL_ASSERT(vocab_size > 0);
    size_t n = (size_t)vocab_size;
    *out = NULL;
    MLL_TRY(check_numbers(sampling, err));
    MLL_TRY(check_lists(sampling, err));
    struct sampler *smp = calloc(1, sizeof *smp);
    if (!smp)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a sampler");
    smp->vocab_size = vocab_size;
    smp->options = *sampling;
    smp->eos = eos;
    smp->n_eos = n_eos;
    smp->options.do_sample = sampling->do_sample && sampling->temperature > 0.0f;
    smp->scores = malloc(n * sizeof *smp->scores);
    smp->marks = calloc(n, sizeof *smp->marks);
    bool complete = smp->scores && smp->marks;
    if (smp->options.do_sample) {
        smp->warped = malloc(n * sizeof *smp->warped);
        smp->order = malloc(n * sizeof *smp->order);
        smp->spare = malloc(n * sizeof *smp->spare);
        complete = complete && smp->warped && smp->order && smp->spare;
    }
    if (!complete) {
        smp_close(smp);
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory to sample from %d logits", vocab_size);
    }
    *out = smp;
    return MLL_OK;
}

void smp_close(struct sampler *smp)
{
    if (!smp)
        return;
    free(smp->scores);
    free(smp->marks);
    free(smp->warped);
    free(smp->order);
    free(smp->spare);
    free(smp);
}

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

static int most_likely(const float *scores, int n)
{
    int best = 0;
    for (int id = 1; id < n; id++)
        if (scores[id] > scores[best])
            best = id;
    return best;
}

static double weigh(const float *scores, int n, float max)
{
    double total = 0;
    for (int id = 0; id < n; id++)
        total += smp_weight(scores[id], max);
    return total;
}

/* Weights of 0 are never drawn: the sum must grow to exceed the target, which is below the total.
 */
static int draw(const struct sampler *smp, float max, double u)
{
    double target = u * weigh(smp->warped, smp->vocab_size, max), sum = 0;
    int last = 0;
    for (int id = 0; id < smp->vocab_size; id++) {
        double weight = smp_weight(smp->warped[id], max);
        if (weight == 0)
            continue;
        sum += weight;
        last = id;
        if (sum > target)
            break;
    }
    return last;
}

static enum mll_status check_finite(const float *logits, int n, struct mll_error *err)
{
    for (int id = 0; id < n; id++)
        if (!isfinite(logits[id]))
            return mll_fail(err, MLL_ERR_NOT_FINITE, "the logit of id %d is %g", id,
                            (double)logits[id]);
    return MLL_OK;
}

static enum mll_status choose_end(const struct sampler *smp, struct smp_choice *choice,
                                  struct mll_error *err)
{
    for (size_t i = 0; i < smp->n_eos; i++)
        if (smp->eos[i] >= 0 && smp->eos[i] < smp->vocab_size) {
            *choice = (struct smp_choice){.id = smp->eos[i], .forced = true};
            return MLL_OK;
        }
    return mll_fail(err, MLL_ERR_BAD_OPTION,
                    "the sampling options ban every token, and there is no end token");
}

enum mll_status smp_next(struct sampler *smp, struct smp_choice *choice, const float *logits,
                         const int32_t *ids, size_t n, size_t n_prompt, struct mll_error *err)
{
    int vocab_size = smp->vocab_size;
    const float *scores = smp->scores;
    MLL_ASSERT(n_prompt <= n);
    MLL_TRY(check_finite(logits, vocab_size, err));
    memcpy(smp->scores, logits, (size_t)vocab_size * sizeof *logits);
    proc_apply(smp, ids, n, n_prompt);
    int best = most_likely(scores, vocab_size), id = best;
    float max = scores[best];
    if (max == -INFINITY)
        return choose_end(smp, choice, err);
    if (max == INFINITY)
        return mll_fail(err, MLL_ERR_NOT_FINITE, "the logit of id %d overflows by bias or penalty",
                        best);
    double log_total = log(weigh(scores, vocab_size, max));
    if (smp->options.do_sample && proc_warp(smp, best))
        id = draw(smp, smp->warped[best], philox_uniform(smp->options.seed, n));
    *choice = (struct smp_choice){.id = id,
                                  .logprob = (float)((double)scores[id] - (double)max - log_total)};
    return MLL_OK;
}

enum mll_status smp_log_probs(struct sampler *smp, const float **log_probs, const float *logits,
                              const int32_t *ids, size_t n, size_t n_prompt, struct mll_error *err)
{
    MLL_ASSERT(n_prompt <= n);
    MLL_TRY(check_finite(logits, smp->vocab_size, err));
    float max = logits[most_likely(logits, smp->vocab_size)];
    double log_total = log(weigh(logits, smp->vocab_size, max));
    for (int id = 0; id < smp->vocab_size; id++)
        smp->scores[id] = (float)((double)logits[id] - (double)max - log_total);
    proc_apply(smp, ids, n, n_prompt);
    *log_probs = smp->scores;
    return MLL_OK;
}
