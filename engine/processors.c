/* processors.c - HF's logits processors on float32 scores.  Rules: sampler.h.
 *
 * A ban is a score of -infinity. Penalty: score < 0 ? score * penalty : score / penalty, once an
 * id. HF classes: SequenceBias, RepetitionPenalty, NoRepeatNGram, NoBadWords, MinNewTokensLength,
 * SuppressTokens; Temperature, TopK, TopP, MinP. */
#include "processors.h"
#include "half.h"

#include <math.h>
#include <string.h>

/* Whether id has a logit row; counts it otherwise. */
static bool has_row(struct sampler *smp, int32_t id)
{
    bool inside = id >= 0 && id < smp->vocab_size;
    smp->skipped += !inside;
    return inside;
}

static void ban(struct sampler *smp, int32_t id)
{
    if (has_row(smp, id))
        smp->scores[id] = -INFINITY;
}

static void add_bias(struct sampler *smp)
{
    const struct mll_sampling *o = &smp->options;
    for (size_t i = o->n_bias; i-- > 0;) {
        int32_t id = o->bias_ids[i];
        if (!has_row(smp, id) || smp->marks[id])
            continue;
        smp->marks[id] = 1;
        smp->scores[id] += o->bias[i];
    }
    for (size_t i = 0; i < o->n_bias; i++)
        if (o->bias_ids[i] >= 0 && o->bias_ids[i] < smp->vocab_size)
            smp->marks[o->bias_ids[i]] = 0;
}

static void penalise_repetition(struct sampler *smp, const int32_t *ids, size_t n)
{
    float penalty = smp->options.repetition_penalty;
    if (penalty == 1.0f)
        return;
    for (size_t i = 0; i < n; i++)
        if (has_row(smp, ids[i]))
            smp->marks[ids[i]] = 1;
    for (int id = 0; id < smp->vocab_size; id++)
        if (smp->marks[id]) {
            float score = smp->scores[id];
            smp->scores[id] = score < 0 ? score * penalty : score / penalty;
        }
    memset(smp->marks, 0, (size_t)smp->vocab_size);
}

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

void proc_apply(struct sampler *smp, const int32_t *ids, size_t n, size_t n_prompt)
{
    add_bias(smp);
    penalise_repetition(smp, ids, n);
    ban_repeated_ngrams(smp, ids, n);
    ban_bad_words(smp, ids, n);
    if (n - n_prompt < (size_t)smp->options.min_new_tokens)
        for (size_t i = 0; i < smp->n_eos; i++)
            ban(smp, smp->eos[i]);
    for (size_t i = 0; i < smp->options.n_suppress; i++)
        ban(smp, smp->options.suppress[i]);
}

/* ---- temperature and filters ----------------------------------------------------------------- */

/* Smaller for larger scores; -0 and 0 are one. */
static uint32_t descending_key(float score)
{
    uint32_t bits = f32_to_bits(score + 0.0f);
    return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}

/* smp->order: the ids left, most likely first, lower ids first among equals, as key << 32 | id.
 * Radix sort: stable, three passes of 11 bits. Returns their number. */
static size_t sort_scores(struct sampler *smp)
{
    uint32_t starts[3][2048] = {0};
    size_t n = 0;
    for (int id = 0; id < smp->vocab_size; id++) {
        if (smp->warped[id] == -INFINITY)
            continue;
        uint32_t key = descending_key(smp->warped[id]);
        smp->order[n++] = (uint64_t)key << 32 | (uint32_t)id;
        for (int pass = 0; pass < 3; pass++)
            starts[pass][key >> (11 * pass) & 2047]++;
    }
    for (int pass = 0; pass < 3; pass++) {
        uint32_t sum = 0;
        for (int digit = 0; digit < 2048; digit++) {
            uint32_t count = starts[pass][digit];
            starts[pass][digit] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++)
            smp->spare[starts[pass][smp->order[i] >> (32 + 11 * pass) & 2047]++] = smp->order[i];
        uint64_t *swap = smp->order;
        smp->order = smp->spare;
        smp->spare = swap;
    }
    return n;
}

static float *warped_at(struct sampler *smp, size_t rank)
{
    return &smp->warped[(uint32_t)smp->order[rank]];
}

/* Keeps the first k of n sorted ids and the equals of the last of them. */
static size_t keep_top_k(struct sampler *smp, size_t n, size_t k)
{
    if (k == 0 || k >= n)
        return n;
    while (k < n && *warped_at(smp, k) == *warped_at(smp, k - 1))
        k++;
    for (size_t i = k; i < n; i++)
        *warped_at(smp, i) = -INFINITY;
    return k;
}

/* Drops the least likely of n sorted ids while their probabilities sum to at most 1 - p. */
static void keep_top_p(struct sampler *smp, size_t n, double p)
{
    float max = *warped_at(smp, 0);
    double total = 0, sum = 0;
    for (size_t i = n; i-- > 0;)
        total += smp_weight(*warped_at(smp, i), max);
    for (size_t i = n; i-- > 1;) {
        sum += smp_weight(*warped_at(smp, i), max);
        if (sum > (1.0 - p) * total)
            return;
        *warped_at(smp, i) = -INFINITY;
    }
}

static void keep_min_p(struct sampler *smp, float max, float min_p)
{
    for (int id = 0; id < smp->vocab_size; id++)
        if (smp_weight(smp->warped[id], max) < (double)min_p)
            smp->warped[id] = -INFINITY;
}

bool proc_warp(struct sampler *smp, int best)
{
    const struct mll_sampling *o = &smp->options;
    for (int id = 0; id < smp->vocab_size; id++)
        smp->warped[id] = smp->scores[id] / o->temperature;
    float max = smp->warped[best];
    if (!isfinite(max))
        return false;
    if (o->top_k > 0 || o->top_p < 1.0f) {
        size_t n = keep_top_k(smp, sort_scores(smp), (size_t)o->top_k);
        if (o->top_p < 1.0f)
            keep_top_p(smp, n, (double)o->top_p);
    }
    if (o->min_p > 0.0f)
        keep_min_p(smp, max, o->min_p);
    return true;
}
