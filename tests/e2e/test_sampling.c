/* test_sampling.c - whole answers under logits processors and beams against transformers' generate
 * (tests/golden/make_sampling.py); draws that repeat; prompts whose image token has no logit. */
#include "golden.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define RUNS MLL_SOURCE_DIR "/tests/golden/sampling.json"

static int32_t suppressed[16];

static void read_options(struct mll_sampling *s, const json_t *options)
{
    const json_t *v, *ids = json_object_get(options, "suppress_tokens");
    s->max_new_tokens = 32;
    if ((v = json_object_get(options, "repetition_penalty")))
        s->repetition_penalty = (float)json_number_value(v);
    s->no_repeat_ngram_size =
        (int)json_integer_value(json_object_get(options, "no_repeat_ngram_size"));
    s->min_new_tokens = (int)json_integer_value(json_object_get(options, "min_new_tokens"));
    s->num_beams = (int)json_integer_value(json_object_get(options, "num_beams"));
    s->early_stopping = json_is_true(json_object_get(options, "early_stopping"));
    s->n_suppress = json_array_size(ids);
    s->suppress = suppressed;
    for (size_t i = 0; i < s->n_suppress; i++)
        suppressed[i] = (int32_t)json_integer_value(json_array_get(ids, i));
}

static void check_answer(const struct mll_result *result, const json_t *run)
{
    const json_t *ids = json_object_get(run, "ids"), *score = json_object_get(run, "score");
    char *options = json_dumps(json_object_get(run, "options"), 0);
    const char *name = json_string_value(json_object_get(run, "case"));
    double sum = 0;
    cr_expect(result->n == json_array_size(ids), "%s %s: %zu tokens", name, options, result->n);
    for (size_t i = 0; i < result->n && i < json_array_size(ids); i++) {
        sum += (double)result->logprobs[i];
        cr_assert(result->ids[i] == json_integer_value(json_array_get(ids, i)), "%s %s: token %zu",
                  name, options, i);
    }
    cr_expect(!score || fabs(sum / (double)result->n - json_number_value(score)) < 1e-4,
              "%s %s: score %g", name, options, sum / (double)result->n);
    free(options);
}

Test(sampling, answers_equal_those_of_transformers)
{
    json_t *file = json_load_file(RUNS, 0, NULL), *runs = json_object_get(file, "runs"), *run;
    size_t i;
    cr_assert(json_array_size(runs) == 32);
    json_array_foreach(runs, i, run)
    {
        struct golden g;
        struct mll_engine *engine;
        struct mll_session *session;
        const struct mll_result *result;
        struct mll_error err;
        golden_open(&g, json_string_value(json_object_get(run, "case")));
        struct mll_options options = {
            .model = g.model, .device = "cpu", .threads = 1, .prefill_chunk = 7};
        read_options(&g.sampling, json_object_get(run, "options"));
        cr_assert(mll_open(&engine, &options, &err) == MLL_OK, "%s", err.message);
        cr_assert(mll_session_open(&session, engine, &err) == MLL_OK, "%s", err.message);
        cr_assert(mll_session_run(session, &g.request, &result, &err) == MLL_OK, "%s", err.message);
        check_answer(result, run);
        mll_session_close(session);
        mll_close(engine);
        golden_close(&g);
    }
    json_decref(file);
}

struct fixture {
    struct golden g;
    struct mll_engine *engine;
    struct mll_session *session;
};

static void open_fixture(struct fixture *f, const char *name, int ctx_size)
{
    struct mll_error err;
    golden_open(&f->g, name);
    struct mll_options options = {
        .model = f->g.model, .device = "cpu", .threads = 1, .ctx_size = ctx_size};
    cr_assert(mll_open(&f->engine, &options, &err) == MLL_OK, "%s", err.message);
    cr_assert(mll_session_open(&f->session, f->engine, &err) == MLL_OK, "%s", err.message);
    f->g.sampling.max_new_tokens = 16;
}

static void close_fixture(struct fixture *f)
{
    mll_session_close(f->session);
    mll_close(f->engine);
    golden_close(&f->g);
}

static const struct mll_result *answer(struct fixture *f)
{
    const struct mll_result *result;
    struct mll_error err;
    cr_assert(mll_session_run(f->session, &f->g.request, &result, &err) == MLL_OK, "%s",
              err.message);
    return result;
}

Test(sampling, a_seed_repeats_its_answer_and_another_gives_another)
{
    struct fixture f;
    int32_t first[16];
    open_fixture(&f, "one_tile", 0);
    f.g.sampling.do_sample = true;
    f.g.sampling.temperature = 1.5f;
    f.g.sampling.seed = 1;
    const struct mll_result *result = answer(&f);
    size_t n = result->n;
    memcpy(first, result->ids, n * sizeof *first);
    result = answer(&f);
    cr_expect(result->n == n && memcmp(first, result->ids, n * sizeof *first) == 0);
    f.g.sampling.seed = 2;
    result = answer(&f);
    cr_expect(result->n != n || memcmp(first, result->ids, n * sizeof *first) != 0);
    close_fixture(&f);
}

Test(sampling, the_image_token_of_the_prompt_is_skipped_and_counted)
{
    struct fixture f;
    open_fixture(&f, "two_images", 0);
    cr_expect(answer(&f)->ids_skipped == 0);
    f.g.sampling.repetition_penalty = 1.3f;
    const struct mll_result *result = answer(&f);
    cr_expect(result->ids_skipped == 2 * result->n, "%lu", (unsigned long)result->ids_skipped);
    close_fixture(&f);
}

Test(sampling, bad_options_are_refused_before_anything_is_computed)
{
    struct fixture f;
    const struct mll_result *result;
    struct mll_error err;
    open_fixture(&f, "one_tile", 0);
    f.g.sampling.top_p = 2;
    cr_expect(mll_session_run(f.session, &f.g.request, &result, &err) == MLL_ERR_BAD_OPTION);
    cr_expect(strstr(err.message, "top_p is 2") != NULL, "%s", err.message);
    f.g.sampling.top_p = 1;
    f.g.sampling.num_beams = 2;
    f.g.sampling.do_sample = true;
    cr_expect(mll_session_run(f.session, &f.g.request, &result, &err) == MLL_ERR_BAD_OPTION);
    close_fixture(&f);
}

static bool stop_at_once(void *user, const char *text, size_t size)
{
    (void)text;
    (void)size;
    ++*(int *)user;
    return false;
}

Test(sampling, a_beam_search_can_be_stopped)
{
    struct fixture f;
    int calls = 0;
    open_fixture(&f, "one_tile", 0);
    f.g.sampling.num_beams = 3;
    f.g.sampling.max_new_tokens = 0;
    cr_expect(answer(&f)->n == 0);
    f.g.sampling.max_new_tokens = 8;
    f.g.request.on_text = stop_at_once;
    f.g.request.user = &calls;
    const struct mll_result *result = answer(&f);
    cr_expect(calls == 1 && result->finish == MLL_FINISH_CANCELLED && result->n <= 8);
    close_fixture(&f);
}

Test(sampling, a_beam_search_ends_where_the_context_does)
{
    struct fixture f;
    open_fixture(&f, "one_tile", 0);
    f.g.sampling.num_beams = 3;
    size_t n_prompt = answer(&f)->n_prompt;
    close_fixture(&f);
    open_fixture(&f, "one_tile", (int)n_prompt + 3);
    f.g.sampling.num_beams = 3;
    const struct mll_result *result = answer(&f);
    cr_expect(result->n == 4 && result->finish == MLL_FINISH_LENGTH, "%zu tokens", result->n);
    close_fixture(&f);
}
