/* test_sampler.c - the sampler against transformers' processors (tests/golden/make_sampler.py), and
 * the rules of sampler.h where transformers has none. */
#include "hash64.h"
#include "philox.h"
#include "sampler_rig.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LIST = 256, MAX_VOCAB = 128257 };

/* logits() of the script. */
static float *make_logits(int vocab, uint64_t seed)
{
    float *logits = malloc((size_t)vocab * sizeof *logits);
    for (int id = 0; id < vocab; id++) {
        uint64_t i = (uint64_t)id + seed, factor = 2654435761u + 15838u * seed;
        logits[id] = (float)((int)(i * factor & 0x3fffff) - (1 << 21)) / (1 << 18);
    }
    return logits;
}

static const struct mll_sampling neutral = {
    .temperature = 1.0f, .top_p = 1.0f, .repetition_penalty = 1.0f, .num_beams = 1};

/* The scores behind the processors. */
static const float *process(struct rig *rig, const float *logits, const int32_t *ids, size_t n,
                            size_t n_prompt)
{
    struct sampler *smp = rig->smp;
    smp_prepare(smp, ids, n, n_prompt);
    op_process(rig->ex, smp->scores, smp->out, logits, smp->row, 1, smp->place.vocab_size);
    smp->skipped += smp->out->skipped;
    return smp->scores;
}

/* What the filters leave, one byte an id. */
static void filter(uint8_t *kept, struct rig *rig, const float *logits, const int32_t *ids,
                   size_t n, size_t n_prompt)
{
    smp_prepare(rig->smp, ids, n, n_prompt);
    smp_enqueue(rig->smp, logits);
    for (int id = 0; id < rig->smp->place.vocab_size; id++)
        kept[id] = rig->smp->warped[id] != -INFINITY;
}

/* ---- against transformers -------------------------------------------------------------------- */

struct golden {
    int vocab, n_prompt, best;
    uint64_t seed;
    struct mll_sampling options;
    int32_t text[MAX_LIST], bias_ids[MAX_LIST], bad_words[MAX_LIST], suppress[MAX_LIST],
        eos[MAX_LIST];
    float bias[MAX_LIST];
    size_t n_text;
    unsigned long long scores, kept;
    double logprob;
};

static size_t read_ids(FILE *f, const char *name, int32_t *ids)
{
    char word[32];
    size_t n;
    cr_assert(fscanf(f, "%31s %zu", word, &n) == 2 && strcmp(word, name) == 0 && n <= MAX_LIST);
    for (size_t i = 0; i < n; i++)
        cr_assert(fscanf(f, "%d", &ids[i]) == 1);
    return n;
}

static bool read_golden(FILE *f, struct golden *g)
{
    struct mll_sampling *o = &g->options;
    size_t n_bias;
    *o = neutral;
    if (fscanf(f, " case %d %lu %f %d %f %f %f %d %d %d", &g->vocab, &g->seed, &o->temperature,
               &o->top_k, &o->top_p, &o->min_p, &o->repetition_penalty, &o->no_repeat_ngram_size,
               &o->min_new_tokens, &g->n_prompt) != 10)
        return false;
    g->n_text = read_ids(f, "text", g->text);
    o->n_bias = read_ids(f, "bias_ids", g->bias_ids);
    cr_assert(fscanf(f, " bias %zu", &n_bias) == 1 && n_bias == o->n_bias);
    for (size_t i = 0; i < n_bias; i++)
        cr_assert(fscanf(f, "%f", &g->bias[i]) == 1);
    o->n_bad_words = read_ids(f, "bad_words", g->bad_words);
    o->n_suppress = read_ids(f, "suppress", g->suppress);
    o->n_eos = read_ids(f, "eos", g->eos);
    o->bias_ids = g->bias_ids;
    o->bias = g->bias;
    o->bad_words = g->bad_words;
    o->suppress = g->suppress;
    o->do_sample = true;
    return fscanf(f, " scores %llx kept %llx best %d %lf", &g->scores, &g->kept, &g->best,
                  &g->logprob) == 4;
}

static void check_golden(const struct golden *g, int n)
{
    struct rig rig;
    struct smp_choice choice;
    size_t vocab = (size_t)g->vocab;
    float *logits = make_logits(g->vocab, g->seed);
    uint8_t *kept = malloc(vocab);
    struct mll_sampling greedy = g->options;
    cr_assert(rig_open(&rig, g->vocab, MAX_LIST, &g->options, g->eos, g->options.n_eos, NULL) ==
              MLL_OK);
    const float *scores = process(&rig, logits, g->text, g->n_text, (size_t)g->n_prompt);
    cr_expect(hash64(scores, vocab * sizeof *scores) == g->scores, "case %d: scores differ", n);
    filter(kept, &rig, logits, g->text, g->n_text, (size_t)g->n_prompt);
    cr_expect(hash64(kept, vocab) == g->kept, "case %d: other ids are kept", n);
    rig_close(&rig);
    greedy.do_sample = false;
    cr_assert(rig_open(&rig, g->vocab, MAX_LIST, &greedy, g->eos, g->options.n_eos, NULL) ==
              MLL_OK);
    cr_assert(smp_next(rig.smp, &choice, logits, g->text, g->n_text, (size_t)g->n_prompt, NULL) ==
              MLL_OK);
    cr_expect(choice.id == g->best && fabs((double)choice.logprob - g->logprob) < 1e-6,
              "case %d: id %d, %.9f; expected %d, %.9f", n, choice.id, (double)choice.logprob,
              g->best, g->logprob);
    rig_close(&rig);
    free(kept);
    free(logits);
}

Test(sampler, processors_equal_those_of_transformers)
{
    FILE *f = fopen(MLL_SOURCE_DIR "/tests/golden/sampler.txt", "r");
    struct golden *g = malloc(sizeof *g);
    int n = 0;
    cr_assert(f != NULL && fscanf(f, "%*[^\n]") == 0);
    while (read_golden(f, g))
        check_golden(g, n++);
    cr_expect(n == 252, "%d cases", n);
    free(g);
    fclose(f);
}

/* ---- ids without a logit row ----------------------------------------------------------------- */

enum { VOCAB = 128256, IMAGE = 128256 };

static uint64_t expect_skipped(const struct mll_sampling *options, const int32_t *eos, size_t n_eos)
{
    static const int32_t text[] = {128000, IMAGE, 5, IMAGE, 9};
    struct rig rig;
    float *logits = make_logits(VOCAB, 3);
    cr_assert(rig_open(&rig, VOCAB, MAX_LIST, options, eos, n_eos, NULL) == MLL_OK);
    const float *scores = process(&rig, logits, text, 5, 5);
    cr_expect(memcmp(scores, logits, VOCAB * sizeof *logits) == 0, "an innocent id was touched");
    uint64_t skipped = smp_skipped(rig.smp);
    rig_close(&rig);
    free(logits);
    return skipped;
}

Test(sampler, an_id_without_a_logit_row_is_skipped_and_counted)
{
    static const int32_t word[] = {IMAGE, -1, 9, IMAGE, -1, IMAGE, 5, IMAGE, -1},
                         ids[] = {IMAGE, -1};
    static const float bias[] = {-7.0f, 3.0f};
    struct mll_sampling biased = neutral, bad = neutral, suppressed = neutral, longer = neutral;
    biased.bias_ids = ids, biased.bias = bias, biased.n_bias = 2;
    bad.bad_words = word, bad.n_bad_words = 9;
    suppressed.suppress = ids, suppressed.n_suppress = 1;
    longer.min_new_tokens = 1;
    cr_expect(expect_skipped(&neutral, NULL, 0) == 0);
    cr_expect(expect_skipped(&biased, NULL, 0) == 2);
    cr_expect(expect_skipped(&bad, NULL, 0) == 2, "the third word does not match the text");
    cr_expect(expect_skipped(&suppressed, NULL, 0) == 1);
    cr_expect(expect_skipped(&longer, ids, 1) == 1);
}

Test(sampler, a_penalty_skips_each_image_token_and_punishes_the_rest)
{
    static const int32_t text[] = {128000, IMAGE, 5, IMAGE, 5};
    struct rig rig;
    struct mll_sampling options = neutral;
    options.repetition_penalty = 1.5f;
    float *logits = make_logits(VOCAB, 4);
    cr_assert(rig_open(&rig, VOCAB, MAX_LIST, &options, NULL, 0, NULL) == MLL_OK);
    const float *scores = process(&rig, logits, text, 5, 5);
    for (int id = 0; id < VOCAB; id++) {
        float expected = logits[id];
        if (id == 5 || id == 128000) /* once, though 5 stands there twice */
            expected = expected < 0 ? expected * 1.5f : expected / 1.5f;
        cr_assert(scores[id] == expected, "id %d", id);
    }
    cr_expect(smp_skipped(rig.smp) == 2);
    rig_close(&rig);
    free(logits);
}

/* ---- rules of our own ------------------------------------------------------------------------ */

static enum mll_status choose(struct smp_choice *choice, const struct mll_sampling *options,
                              const float *logits, int vocab, const int32_t *eos, size_t n_eos,
                              struct mll_error *err)
{
    static const int32_t text[] = {1, 2, 3};
    struct rig rig;
    MLL_TRY(rig_open(&rig, vocab, MAX_LIST, options, eos, n_eos, err));
    enum mll_status status = smp_next(rig.smp, choice, logits, text, 3, 2, err);
    rig_close(&rig);
    return status;
}

Test(sampler, the_lowest_of_equally_likely_ids_is_chosen)
{
    static const float logits[] = {-1, 4, 0, 4, 4};
    struct smp_choice choice;
    cr_assert(choose(&choice, &neutral, logits, 5, NULL, 0, NULL) == MLL_OK);
    cr_expect(choice.id == 1 && !choice.forced);
}

static void expect_left(const struct mll_sampling *options, const float *logits, int vocab,
                        const char *expected)
{
    struct rig rig;
    struct mll_sampling sampling = *options;
    char left[32] = {0};
    uint8_t kept[32];
    sampling.do_sample = true;
    cr_assert(rig_open(&rig, vocab, MAX_LIST, &sampling, NULL, 0, NULL) == MLL_OK);
    filter(kept, &rig, logits, NULL, 0, 0);
    for (int id = 0; id < vocab; id++)
        left[id] = kept[id] ? 'x' : '.';
    cr_expect(strcmp(left, expected) == 0, "left %s, expected %s", left, expected);
    rig_close(&rig);
}

Test(sampler, ties_at_the_edge_of_a_filter)
{
    static const float logits[] = {0, 1, 0, 2, 1, 1}, equal[] = {1, 1, 1, 1};
    struct mll_sampling options = neutral;
    options.top_k = 2;
    expect_left(&options, logits, 6, ".x.xxx");
    options.top_k = 1;
    expect_left(&options, equal, 4, "xxxx");
    options.top_k = 0;
    options.top_p = 0.5f;
    expect_left(&options, equal, 4, "xx..");
    options.top_p = 0;
    expect_left(&options, equal, 4, "x...");
    expect_left(&options, logits, 6, "...x..");
    options.top_p = 1;
    options.min_p = 1;
    expect_left(&options, logits, 6, "...x..");
    options.top_k = 1000000;
    options.min_p = 0;
    expect_left(&options, logits, 6, "xxxxxx");
}

Test(sampler, a_logit_that_a_penalty_makes_infinite_is_named)
{
    static const float large[] = {1, 3e38f};
    struct mll_sampling options = neutral;
    struct smp_choice choice;
    struct mll_error err;
    options.repetition_penalty = 0.5f;
    cr_expect(choose(&choice, &options, large, 2, NULL, 0, &err) == MLL_ERR_NOT_FINITE);
    cr_expect(strstr(err.message, "id 1") != NULL, "%s", err.message);
}

Test(sampler, when_everything_is_banned_the_text_ends)
{
    static const float logits[] = {1, 2, 3};
    static const int32_t all[] = {0, 1, 2}, eos[] = {77, 2, 1};
    struct mll_sampling options = neutral;
    struct smp_choice choice;
    options.suppress = all;
    options.n_suppress = 3;
    cr_assert(choose(&choice, &options, logits, 3, eos, 3, NULL) == MLL_OK);
    cr_expect(choice.id == 2 && choice.forced && choice.logprob == 0);
    cr_expect(choose(&choice, &options, logits, 3, eos, 1, NULL) == MLL_ERR_BAD_OPTION);
}

Test(sampler, the_last_of_two_biases_for_an_id_counts)
{
    static const float logits[] = {1, 2, 3}, bias[] = {100, -100, 1};
    static const int32_t ids[] = {0, 0, 1};
    struct mll_sampling options = neutral;
    struct rig rig;
    options.bias_ids = ids, options.bias = bias, options.n_bias = 3;
    cr_assert(rig_open(&rig, 3, MAX_LIST, &options, NULL, 0, NULL) == MLL_OK);
    for (int repeat = 0; repeat < 2; repeat++) {
        const float *scores = process(&rig, logits, NULL, 0, 0);
        cr_expect(scores[0] == -99 && scores[1] == 3 && scores[2] == 3);
    }
    rig_close(&rig);
}

Test(sampler, options_out_of_range_are_refused)
{
    static const int32_t unended[] = {1, -1, 2}, empty[] = {1, -1, -1}, id[] = {1};
    static const float nan_bias[] = {NAN};
    struct mll_sampling bad[14];
    struct smp_choice choice;
    static const float logits[] = {1, 2, 3};
    for (int i = 0; i < 14; i++)
        bad[i] = neutral;
    bad[0].do_sample = true, bad[0].temperature = -1;
    bad[1].do_sample = true, bad[1].temperature = NAN;
    bad[2].top_p = 1.5f;
    bad[3].top_p = NAN;
    bad[4].min_p = -0.1f;
    bad[5].repetition_penalty = 0;
    bad[6].repetition_penalty = INFINITY;
    bad[7].top_k = -1;
    bad[8].no_repeat_ngram_size = -2;
    bad[9].bad_words = unended, bad[9].n_bad_words = 3;
    bad[10].bad_words = empty, bad[10].n_bad_words = 3;
    bad[11].bias_ids = id, bad[11].bias = nan_bias, bad[11].n_bias = 1;
    bad[12].num_beams = 3, bad[12].do_sample = true;
    bad[13].num_beams = 65;
    for (int i = 0; i < 14; i++)
        cr_expect(choose(&choice, &bad[i], logits, 3, NULL, 0, NULL) == MLL_ERR_BAD_OPTION,
                  "options %d", i);
}

/* ---- draws ----------------------------------------------------------------------------------- */

Test(sampler, philox_gives_the_published_values)
{
    /* kat_vectors of Random123 */
    static const struct {
        uint32_t counter[4];
        uint64_t key;
        uint32_t out[4];
    } known[] = {
        {{0, 0, 0, 0}, 0, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         0xffffffffffffffff,
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         0x299f31d0a4093822,
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct philox_block block;
        memcpy(block.word, known[i].counter, sizeof block.word);
        block = philox4x32(block, known[i].key);
        cr_expect(memcmp(block.word, known[i].out, sizeof block.word) == 0, "vector %zu", i);
    }
}

Test(sampler, draws_follow_the_distribution)
{
    enum { N = 8, DRAWS = 200000 };
    static const float logits[N] = {0, 1, 2, -1, 0.5f, 1.5f, -3, 2};
    struct rig rig;
    struct mll_sampling options = neutral;
    int counts[N] = {0};
    double total = 0, chi2 = 0;
    options.do_sample = true, options.seed = 42, options.temperature = 0.8f;
    cr_assert(rig_open(&rig, N, MAX_LIST, &options, NULL, 0, NULL) == MLL_OK);
    for (size_t i = 0; i < DRAWS; i++) {
        struct smp_choice choice;
        cr_assert(smp_next(rig.smp, &choice, logits, NULL, i, 0, NULL) == MLL_OK);
        counts[choice.id]++;
    }
    for (int id = 0; id < N; id++)
        total += exp((double)logits[id] / 0.8);
    for (int id = 0; id < N; id++) {
        double expected = exp((double)logits[id] / 0.8) / total * DRAWS;
        chi2 += (counts[id] - expected) * (counts[id] - expected) / expected;
    }
    cr_expect(chi2 < 24.3, "chi-square %g, 7 degrees of freedom: 24.3 has probability 0.001", chi2);
    rig_close(&rig);
}

Test(sampler, a_draw_depends_on_seed_and_position_only)
{
    enum { N = 500, POSITIONS = 40 };
    float *logits = make_logits(N, 1);
    struct rig rig;
    struct mll_sampling options = neutral;
    int32_t text[POSITIONS] = {0}, first[POSITIONS];
    int differ = 0;
    options.do_sample = true, options.seed = 7, options.temperature = 3;
    for (int run = 0; run < 3; run++) {
        options.seed = run == 2 ? 8 : 7;
        cr_assert(rig_open(&rig, N, MAX_LIST, &options, NULL, 0, NULL) == MLL_OK);
        for (size_t i = 0; i < POSITIONS; i++) {
            struct smp_choice choice;
            size_t at = run == 1 ? POSITIONS - 1 - i : i;
            cr_assert(smp_next(rig.smp, &choice, logits, text, at, 0, NULL) == MLL_OK);
            cr_expect(run != 1 || choice.id == first[at], "position %zu", at);
            differ += run == 2 && choice.id != first[at];
            if (run == 0)
                first[at] = choice.id;
        }
        rig_close(&rig);
    }
    cr_expect(differ > POSITIONS / 2, "another seed draws other ids");
    free(logits);
}

Test(sampler, the_log_probability_is_that_before_temperature)
{
    static const float logits[] = {0, 1, 2};
    struct smp_choice choice;
    struct mll_sampling options = neutral;
    options.do_sample = true, options.temperature = 5, options.top_k = 2;
    for (options.seed = 0; options.seed < 20; options.seed++) {
        cr_assert(choose(&choice, &options, logits, 3, NULL, 0, NULL) == MLL_OK);
        double expected = (double)logits[choice.id] - log(1 + exp(1) + exp(2));
        cr_expect(fabs((double)choice.logprob - expected) < 1e-6);
    }
}

Test(sampler, no_or_hardly_any_temperature_is_greedy)
{
    static const float temperatures[] = {0, 1e-45f, 1e-38f, 1e-6f};
    static const float logits[] = {5, 100, -3, 99.99f};
    for (int i = 0; i < 4; i++) {
        struct smp_choice choice;
        struct mll_sampling options = neutral;
        options.do_sample = true, options.temperature = temperatures[i], options.top_p = 0.9f;
        cr_assert(choose(&choice, &options, logits, 4, NULL, 0, NULL) == MLL_OK);
        cr_expect(choice.id == 1, "temperature %g: id %d", (double)temperatures[i], choice.id);
    }
}

Test(sampler, extreme_numbers_never_lead_out_of_range)
{
    static const float values[] = {0, 1e-38f, 1e-3f, 0.5f, 1, 1e3f, 3e38f};
    float logits[16];
    int32_t text[] = {3, 200, -5, 2147483647, 3};
    for (int i = 0; i < 7 * 7 * 7 * 4; i++) {
        struct smp_choice choice = {.id = -1};
        struct rig rig;
        struct mll_sampling options = neutral;
        options.do_sample = true, options.seed = (uint64_t)i, options.temperature = values[i % 7];
        options.repetition_penalty = values[1 + i / 7 % 6];
        options.top_p = fminf(1, values[i / 49 % 7]), options.min_p = fminf(1, values[i / 7 % 7]);
        options.top_k = (i & 3) * 7, options.no_repeat_ngram_size = i % 5;
        for (int id = 0; id < 16; id++)
            logits[id] = (float)((id * 7 + i) % 5 - 2) * values[i / 343 + (id & 3)];
        cr_assert(rig_open(&rig, 16, MAX_LIST, &options, NULL, 0, NULL) == MLL_OK);
        enum mll_status status = smp_next(rig.smp, &choice, logits, text, 5, 1, NULL);
        cr_assert(status == MLL_ERR_NOT_FINITE ||
                      (status == MLL_OK && choice.id >= 0 && choice.id < 16 && choice.logprob <= 0),
                  "options %d: %s, id %d, %g", i, mll_status_name(status), choice.id,
                  (double)choice.logprob);
        rig_close(&rig);
    }
}
