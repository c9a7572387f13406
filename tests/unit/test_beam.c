/* test_beam.c - beam search with a toy model against transformers' generate (make_sampler.py). */
#include "beam.h"
#include "sampler_rig.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_TEXT = 64, MAX_VOCAB = 128 };

struct golden {
    int vocab, early;
    unsigned seed;
    struct mll_sampling options;
    int32_t prompt[MAX_TEXT], eos[MAX_TEXT], expected[MAX_TEXT];
    size_t n_prompt, n_eos, n_expected;
    double score;
};

static size_t read_ids(FILE *f, const char *name, int32_t *ids)
{
    char word[32];
    size_t n;
    cr_assert(fscanf(f, "%31s %zu", word, &n) == 2 && strcmp(word, name) == 0 && n <= MAX_TEXT);
    for (size_t i = 0; i < n; i++)
        cr_assert(fscanf(f, "%d", &ids[i]) == 1);
    return n;
}

static bool read_golden(FILE *f, struct golden *g)
{
    struct mll_sampling *o = &g->options;
    *o = (struct mll_sampling){.temperature = 1, .top_p = 1};
    if (fscanf(f, " case %d %u %d %d %d %f %d", &g->vocab, &g->seed, &o->num_beams, &g->early,
               &o->max_new_tokens, &o->repetition_penalty, &o->no_repeat_ngram_size) != 7)
        return false;
    g->n_prompt = read_ids(f, "prompt", g->prompt);
    g->n_eos = read_ids(f, "eos", g->eos);
    g->n_expected = read_ids(f, "new", g->expected);
    return fscanf(f, " score %lf", &g->score) == 1;
}

/* toy_logits() of the script for what follows ids (n). */
static void toy_logits(float *logits, const struct golden *g, const int32_t *ids, size_t n)
{
    uint64_t a = n > 1 ? (uint64_t)ids[n - 2] : 0, b = (uint64_t)ids[n - 1];
    for (int id = 0; id < g->vocab; id++) {
        uint64_t i = (uint64_t)id + g->seed + 977 * a + 131 * b;
        logits[id] = (float)((int)(i * 2654435761u & 0x3fffff) - (1 << 21)) / (1 << 19);
    }
    for (size_t i = 0; i < g->n_eos; i++)
        logits[g->eos[i]] += 2;
}

static void offer_all(struct beam_search *b, struct sampler *smp, const struct golden *g)
{
    for (int i = 0; i < beam_running(b); i++) {
        const struct beam_text *text = beam_text(b, i);
        int32_t ids[2 * MAX_TEXT];
        float logits[MAX_VOCAB];
        const float *log_probs;
        size_t n = g->n_prompt + text->n;
        memcpy(ids, g->prompt, g->n_prompt * sizeof *ids);
        memcpy(ids + g->n_prompt, text->ids, text->n * sizeof *ids);
        toy_logits(logits, g, ids, n);
        smp_log_probs(smp, &log_probs, logits, ids, n, g->n_prompt);
        beam_offer(b, i, log_probs);
    }
}

static void check_golden(const struct golden *g, int n)
{
    struct rig rig;
    struct beam_search *b;
    double sum = 0;
    cr_assert(rig_open(&rig, g->vocab, 2 * MAX_TEXT, &g->options, g->eos, g->n_eos, NULL) ==
              MLL_OK);
    cr_assert(beam_open(&b, g->options.num_beams, g->vocab, (size_t)g->options.max_new_tokens,
                        g->early, g->eos, g->n_eos, NULL) == MLL_OK);
    while (!beam_done(b)) {
        offer_all(b, rig.smp, g);
        beam_advance(b);
    }
    const struct beam_text *text = beam_best(b);
    cr_expect(text->finished && text->n == g->n_expected &&
                  memcmp(text->ids, g->expected, text->n * sizeof *text->ids) == 0,
              "case %d: %zu tokens, expected %zu", n, text->n, g->n_expected);
    for (size_t i = 0; i < text->n; i++)
        sum += (double)text->logprobs[i];
    cr_expect(fabs((double)text->score - g->score) < 1e-5 &&
                  fabs(sum / (double)text->n - g->score) < 1e-5,
              "case %d: score %g, expected %g", n, (double)text->score, g->score);
    beam_close(b);
    rig_close(&rig);
}

Test(beam, texts_and_scores_equal_those_of_transformers)
{
    FILE *f = fopen(MLL_SOURCE_DIR "/tests/golden/beams.txt", "r");
    struct golden g;
    int n = 0;
    cr_assert(f != NULL && fscanf(f, "%*[^\n]") == 0);
    while (read_golden(f, &g))
        check_golden(&g, n++);
    cr_expect(n == 200, "%d cases", n);
    fclose(f);
}

Test(beam, when_every_continuation_is_banned_the_search_ends)
{
    static const float first[] = {-1, -2, -INFINITY, -3};
    static const float none[] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY};
    struct beam_search *b;
    cr_assert(beam_open(&b, 2, 4, 10, false, NULL, 0, NULL) == MLL_OK);
    beam_offer(b, 0, first);
    beam_advance(b);
    cr_assert(beam_running(b) == 2 && !beam_done(b));
    beam_offer(b, 0, none);
    beam_offer(b, 1, none);
    beam_advance(b);
    cr_expect(beam_done(b));
    cr_expect(beam_best(b)->n == 1 && beam_best(b)->ids[0] == 0 && !beam_best(b)->finished);
    beam_close(b);
}
