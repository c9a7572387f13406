/* test_generate.c - how an answer ends, what is shown while it grows, what a result holds. */
#include "golden.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fixture {
    struct golden g;
    struct mll_engine *engine;
    struct mll_session *session;
    char shown[4096]; /* what on_text was given, joined */
    size_t n_shown;
};

static bool note_text(void *user, const char *text, size_t size)
{
    struct fixture *f = user;
    cr_assert(size > 0 && f->n_shown + size < sizeof f->shown);
    memcpy(f->shown + f->n_shown, text, size);
    f->n_shown += size;
    return true;
}

static void open_fixture(struct fixture *f, const char *name)
{
    struct mll_error err;
    golden_open(&f->g, name);
    struct mll_options options = {.model = f->g.model, .device = "cpu", .threads = 1};
    cr_assert(mll_open(&f->engine, &options, &err) == MLL_OK, "%s", err.message);
    cr_assert(mll_session_open(&f->session, f->engine, &err) == MLL_OK, "%s", err.message);
    f->g.request.on_text = note_text;
    f->g.request.user = f;
}

static void close_fixture(struct fixture *f)
{
    mll_session_close(f->session);
    mll_close(f->engine);
    golden_close(&f->g);
}

static const struct mll_result *run(struct fixture *f)
{
    struct mll_error err;
    const struct mll_result *r;
    f->n_shown = 0;
    cr_assert(mll_session_run(f->session, &f->g.request, &r, &err) == MLL_OK, "%s", err.message);
    cr_expect(r->text_size == f->n_shown && memcmp(r->text, f->shown, f->n_shown) == 0,
              "what was shown is not the text");
    cr_expect(strlen(r->text) == r->text_size || memchr(r->text, 0, r->text_size) != NULL);
    for (size_t i = 0; i < r->n; i++) {
        cr_expect(r->text_end[i] >= (i ? r->text_end[i - 1] : 0));
        cr_expect(r->text_end[i] <= r->text_size);
        cr_expect(r->logprobs[i] <= 0 && isfinite(r->logprobs[i]));
    }
    return r;
}

Test(generate, the_result_holds_text_ids_and_where_each_token_ends)
{
    struct fixture f;
    struct mll_error err;
    const char *text;
    size_t size;
    open_fixture(&f, "one_tile");
    const struct mll_result *r = run(&f);
    cr_expect(r->finish == MLL_FINISH_LENGTH && r->n == 64 && r->n_prompt > 10);
    cr_assert(mll_detokenize(f.engine, &text, &size, r->ids, r->n, false, &err) == MLL_OK);
    cr_expect(size == r->text_size && memcmp(text, r->text, size) == 0);
    /* the text after k tokens is the beginning of the whole, up to bytes held back */
    cr_assert(mll_detokenize(f.engine, &text, &size, r->ids, 20, false, &err) == MLL_OK);
    cr_expect(r->text_end[19] <= size && memcmp(text, r->text, r->text_end[19]) == 0);
    close_fixture(&f);
}

Test(generate, ends_at_an_end_token_which_is_an_id_but_no_text)
{
    struct fixture f;
    open_fixture(&f, "one_tile");
    const struct mll_result *r = run(&f);
    int32_t eos = r->ids[9];
    size_t first = 0;
    while (r->ids[first] != eos)
        first++;
    f.g.sampling.eos = &eos;
    f.g.sampling.n_eos = 1;
    r = run(&f);
    cr_expect(r->finish == MLL_FINISH_EOS && r->n == first + 1 && r->ids[first] == eos);
    cr_expect(r->text_end[first] == (first ? r->text_end[first - 1] : 0));
    close_fixture(&f);
}

Test(generate, ends_before_a_stop_string_and_shows_none_of_it)
{
    struct fixture f;
    char stop[8] = "";
    open_fixture(&f, "one_tile");
    const struct mll_result *r = run(&f);
    /* three bytes from the middle, beginning at a whole character */
    size_t at = r->text_end[20];
    while (((unsigned char)r->text[at] & 0xc0) == 0x80)
        at++;
    memcpy(stop, r->text + at, 5);
    char *whole = strdup(r->text);
    size_t expected = (size_t)(strstr(whole, stop) - whole);
    const char *stops[] = {"never in here", stop};
    f.g.sampling.stop = stops;
    f.g.sampling.n_stop = 2;
    r = run(&f);
    cr_expect(r->finish == MLL_FINISH_STOP);
    cr_expect(r->text_size == expected, "%zu bytes, expected %zu", r->text_size, expected);
    cr_expect(memcmp(r->text, whole, expected) == 0);
    free(whole);
    close_fixture(&f);
}

Test(generate, a_draw_repeats_with_its_seed)
{
    struct fixture f;
    int32_t first[64];
    open_fixture(&f, "text_only");
    f.g.sampling.do_sample = true;
    f.g.sampling.temperature = 1.5f;
    f.g.sampling.seed = 7;
    const struct mll_result *r = run(&f);
    size_t n = r->n;
    memcpy(first, r->ids, n * sizeof *first);
    r = run(&f);
    cr_expect(r->n == n && memcmp(first, r->ids, n * sizeof *first) == 0);
    f.g.sampling.seed = 8;
    r = run(&f);
    cr_expect(r->n != n || memcmp(first, r->ids, n * sizeof *first) != 0);
    close_fixture(&f);
}

Test(generate, a_penalty_skips_and_counts_the_image_token)
{
    struct fixture f;
    open_fixture(&f, "two_images");
    f.g.sampling.repetition_penalty = 1.3f;
    f.g.sampling.max_new_tokens = 5;
    const struct mll_result *r = run(&f);
    cr_expect(r->n == 5);
    cr_expect(r->ids_skipped == 2 * 5, "%llu", (unsigned long long)r->ids_skipped);
    close_fixture(&f);
}

Test(generate, image_tokens_and_images_must_agree)
{
    struct fixture f;
    struct mll_error err;
    const struct mll_result *r;
    int32_t ids[] = {1, 2, 3};
    open_fixture(&f, "two_images");
    f.g.request.ids = ids;
    f.g.request.n_ids = 3;
    cr_expect(mll_session_run(f.session, &f.g.request, &r, &err) == MLL_ERR_IMAGE_COUNT);
    f.g.request.ids = NULL;
    f.g.request.n_images = 1;
    cr_expect(mll_session_run(f.session, &f.g.request, &r, &err) == MLL_ERR_IMAGE_COUNT);
    f.g.request.n_images = 2;
    f.g.sampling.max_new_tokens = 3;
    cr_expect(run(&f)->n == 3);
    close_fixture(&f);
}

Test(generate, nothing_new_was_asked_for)
{
    struct fixture f;
    open_fixture(&f, "text_only");
    f.g.sampling.max_new_tokens = 0;
    const struct mll_result *r = run(&f);
    cr_expect(r->n == 0 && r->text_size == 0 && r->finish == MLL_FINISH_LENGTH);
    close_fixture(&f);
}
