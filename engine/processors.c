/* processors.c - HF's logits processors as lists of ids for op_process.  Rules: sampler.h.
 *
 * HF classes: SequenceBias, RepetitionPenalty, NoRepeatNGram, NoBadWords, MinNewTokensLength,
 * SuppressTokens. Ids without a logit row are left out here, and counted; but for the text, in
 * which op_process finds them. */
#include "processors.h"

#include <stdlib.h>
#include <string.h>

static bool has_row(const struct sampler *smp, int32_t id)
{
    return id >= 0 && id < smp->place.vocab_size;
}

static void ban(struct sampler *smp, int32_t id)
{
    if (!has_row(smp, id)) {
        smp->skipped++;
    } else if (!smp->marks[id]) {
        smp->marks[id] = 1;
        smp->banned_host[smp->n_banned++] = id;
    }
}

/* ---- once ------------------------------------------------------------------------------------ */

/* Each id once, with the last bias given for it. */
static enum mll_status open_bias(struct sampler *smp, struct mll_error *err)
{
    const struct mll_sampling *o = &smp->options;
    int32_t *ids = malloc((o->n_bias + 1) * sizeof *ids);
    float *bias = malloc((o->n_bias + 1) * sizeof *bias);
    if (ids != NULL && bias != NULL) {
        for (size_t i = o->n_bias; i-- > 0;) {
            int32_t id = o->bias_ids[i];
            if (!has_row(smp, id) || smp->marks[id])
                continue;
            smp->marks[id] = 1;
            ids[smp->n_bias] = id;
            bias[smp->n_bias++] = o->bias[i];
        }
        for (size_t i = 0; i < smp->n_bias; i++)
            smp->marks[ids[i]] = 0;
        exec_upload(smp->place.ex, smp->bias_ids, ids, smp->n_bias * sizeof *ids);
        exec_upload(smp->place.ex, smp->bias, bias, smp->n_bias * sizeof *bias);
    }
    bool complete = ids != NULL && bias != NULL;
    free(ids);
    free(bias);
    return complete ? MLL_OK
                    : mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %zu biases", o->n_bias);
}

enum mll_status proc_open(struct sampler *smp, struct mll_error *err)
{
    const struct mll_sampling *o = &smp->options;
    MLL_TRY(open_bias(smp, err));
    uint64_t skipped = smp->skipped;
    for (size_t i = 0; i < o->n_suppress; i++)
        ban(smp, o->suppress[i]);
    smp->skipped = skipped; /* they count a step */
    smp->n_suppressed = smp->n_banned;
    exec_upload(smp->place.ex, smp->banned, smp->banned_host,
                smp->n_banned * sizeof *smp->banned_host);
    return MLL_OK;
}

/* ---- every token ----------------------------------------------------------------------------- */

/* Whether the text ends in the n_tail ids of tail. */
static bool ends_in(const int32_t *ids, size_t n, const int32_t *tail, size_t n_tail)
{
    return n >= n_tail && memcmp(ids + n - n_tail, tail, n_tail * sizeof *ids) == 0;
}

/* Every id that once followed the last size - 1 ids. */
static void ban_repeated_ngrams(struct sampler *smp, const int32_t *ids, size_t n)
{
    size_t size = (size_t)smp->options.no_repeat_ngram_size;
    if (size == 0)
        return;
    for (size_t i = 0; i + size <= n; i++)
        if (ends_in(ids, n, ids + i, size - 1))
            ban(smp, ids[i + size - 1]);
}

/* A word's last id where the text ends in what comes before it; a lone end token is no bad word. */
static void ban_bad_words(struct sampler *smp, const int32_t *ids, size_t n)
{
    const int32_t *word = smp->options.bad_words, *end = word + smp->options.n_bad_words;
    while (word < end) {
        size_t size = 0;
        while (word[size] >= 0)
            size++;
        if (ends_in(ids, n, word, size - 1) && !(size == 1 && smp_is_eos(smp, word[0])))
            ban(smp, word[size - 1]);
        word += size + 1;
    }
}

/* Sends what is new of the text; a beam's may part from the last one anywhere. */
static void send_text(struct sampler *smp, const int32_t *ids, size_t n)
{
    size_t same = 0;
    MLL_ASSERT(n <= (size_t)smp->place.ctx_size);
    while (same < n && same < smp->n_text && smp->text_host[same] == ids[same])
        same++;
    if (same < n) {
        memcpy(smp->text_host + same, ids + same, (n - same) * sizeof *ids);
        exec_send(smp->place.ex, smp->text + same, smp->text_host + same, (n - same) * sizeof *ids);
    }
    smp->n_text = n;
}

/* Ids that a list of the options names but that have no logit row, a step. */
static size_t without_row(const struct sampler *smp, const int32_t *ids, size_t n)
{
    size_t count = 0;
    for (size_t i = 0; i < n; i++)
        count += !has_row(smp, ids[i]);
    return count;
}

void proc_prepare(struct sampler *smp, const int32_t *ids, size_t n, size_t n_prompt)
{
    const struct mll_sampling *o = &smp->options;
    while (smp->n_banned > smp->n_suppressed)
        smp->marks[smp->banned_host[--smp->n_banned]] = 0;
    ban_repeated_ngrams(smp, ids, n);
    ban_bad_words(smp, ids, n);
    if (n - n_prompt < (size_t)o->min_new_tokens)
        for (size_t i = 0; i < smp->n_eos; i++)
            ban(smp, smp->eos[i]);
    smp->skipped += without_row(smp, o->bias_ids, o->n_bias);
    smp->skipped += without_row(smp, o->suppress, o->n_suppress);
    if (smp->text_host != NULL)
        send_text(smp, ids, n);
    *smp->row_host = (struct sample_row){
        .text = smp->text,
        .bias_ids = smp->bias_ids,
        .bias = smp->bias,
        .banned = smp->banned,
        .n_text = (int32_t)smp->n_text,
        .n_bias = (int32_t)smp->n_bias,
        .n_banned = (int32_t)smp->n_banned,
        .top_k = o->top_k,
        .penalty = o->repetition_penalty,
        .temperature = o->do_sample ? o->temperature : 0.0f,
        .top_p = o->top_p,
        .min_p = o->min_p,
        .seed = o->seed,
        .position = n,
    };
    exec_send(smp->place.ex, smp->banned + smp->n_suppressed, smp->banned_host + smp->n_suppressed,
              (smp->n_banned - smp->n_suppressed) * sizeof *smp->banned_host);
    exec_send(smp->place.ex, smp->row, smp->row_host, sizeof *smp->row);
}
