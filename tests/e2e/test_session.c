/* test_session.c - a session step by step: what it refuses, rewinding, cancelling, memory. */
#include "engine.h"
#include "golden.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

struct fixture {
    struct golden g;
    struct mll_engine *engine;
    struct mll_session *session;
};

static void open_fixture(struct fixture *f, const char *name, struct mll_options options)
{
    struct mll_error err;
    golden_open(&f->g, name);
    options.model = f->g.model;
    options.device = "cpu";
    options.threads = 1;
    cr_assert(mll_open(&f->engine, &options, &err) == MLL_OK, "%s", err.message);
    cr_assert(mll_session_open(&f->session, f->engine, &err) == MLL_OK, "%s", err.message);
}

static void close_fixture(struct fixture *f)
{
    mll_session_close(f->session);
    mll_close(f->engine);
    golden_close(&f->g);
}

static void feed_text(struct fixture *f, const char *text)
{
    struct mll_error err;
    const int32_t *ids;
    size_t n, pending = 1;
    cr_assert(mll_tokenize(f->engine, &ids, &n, text, strlen(text), true, &err) == MLL_OK);
    cr_assert(mll_session_feed(f->session, ids, n, &err) == MLL_OK, "%s", err.message);
    while (pending > 0)
        cr_assert(mll_step(f->engine, &f->session, 1, &pending, &err) == MLL_OK, "%s", err.message);
}

static void add_images(struct fixture *f)
{
    struct mll_error err;
    for (size_t i = 0; i < f->g.request.n_images; i++)
        cr_assert(mll_session_add_image(f->session, &f->g.images[i], &err) == MLL_OK);
}

static float *logits_copy(const struct fixture *f)
{
    size_t size = (size_t)f->engine->cfg.text.vocab_size * sizeof(float);
    cr_assert(mll_session_logits(f->session) != NULL);
    float *copy = malloc(size);
    memcpy(copy, mll_session_logits(f->session), size);
    return copy;
}

Test(session, rewinding_keeps_the_images)
{
    static const char *const first = "<|begin_of_text|>What <|image|> and <|image|> is this?";
    static const char *const second = "<|begin_of_text|><|image|><|image|>Total";
    for (int mode = 0; mode < 3; mode++) {
        struct fixture f;
        struct mll_error err;
        open_fixture(&f, "two_images", (struct mll_options){.reference = (enum mll_reference)mode});
        add_images(&f);
        feed_text(&f, second);
        float *fresh = logits_copy(&f);
        mll_session_clear(f.session);
        cr_assert(mll_session_logits(f.session) == NULL);
        add_images(&f);
        feed_text(&f, first);
        cr_assert(mll_session_rewind(f.session, 0, &err) == MLL_OK);
        cr_assert(mll_session_logits(f.session) == NULL);
        feed_text(&f, second);
        float *again = logits_copy(&f);
        cr_expect(memcmp(fresh, again, (size_t)f.engine->cfg.text.vocab_size * sizeof *fresh) == 0,
                  "%s", golden_modes[mode]);
        /* into the middle, behind the images */
        size_t whole = mll_session_length(f.session);
        feed_text(&f, " and more text");
        cr_assert(mll_session_rewind(f.session, whole - 1, &err) == MLL_OK);
        int32_t last = f.session->ids[whole - 1];
        cr_assert(mll_session_feed(f.session, &last, 1, &err) == MLL_OK);
        cr_assert(mll_step(f.engine, &f.session, 1, NULL, &err) == MLL_OK);
        float *back = logits_copy(&f);
        cr_expect(memcmp(fresh, back, (size_t)f.engine->cfg.text.vocab_size * sizeof *fresh) == 0);
        free(fresh);
        free(again);
        free(back);
        close_fixture(&f);
    }
}

Test(session, refuses_what_does_not_fit)
{
    struct fixture f;
    struct mll_error err;
    open_fixture(&f, "two_images", (struct mll_options){.ctx_size = 20, .max_images = 1});
    int32_t image = f.engine->cfg.image_token, ids[21] = {1};
    cr_expect(mll_session_feed(f.session, ids, 21, &err) == MLL_ERR_CONTEXT_FULL);
    cr_expect(strstr(err.message, "21") && strstr(err.message, "20"), "%s", err.message);
    cr_expect(mll_session_feed(f.session, &image, 1, &err) == MLL_ERR_IMAGE_COUNT);
    cr_expect(mll_session_rewind(f.session, 1, &err) == MLL_ERR_USAGE);
    ids[3] = f.engine->weights->embed_tokens.rows;
    cr_expect(mll_session_feed(f.session, ids, 4, &err) == MLL_ERR_TOKEN_ID);
    ids[3] = -1;
    cr_expect(mll_session_feed(f.session, ids, 4, &err) == MLL_ERR_TOKEN_ID);
    cr_expect(mll_session_length(f.session) == 0);
    cr_expect(mll_session_add_image(f.session, &f.g.images[0], &err) == MLL_OK);
    cr_expect(mll_session_add_image(f.session, &f.g.images[1], &err) == MLL_ERR_IMAGE_COUNT);
    feed_text(&f, "<|image|>Text");
    cr_expect(mll_session_feed(f.session, &image, 1, &err) == MLL_ERR_IMAGE_COUNT);
    cr_expect(mll_session_add_image(f.session, &f.g.images[0], &err) == MLL_ERR_USAGE);
    struct mll_session *one_too_many;
    cr_expect(mll_session_open(&one_too_many, f.engine, &err) == MLL_ERR_NO_MEMORY);
    cr_expect(one_too_many == NULL);
    close_fixture(&f);
}

Test(session, an_answer_ends_where_the_context_does)
{
    struct fixture f;
    struct mll_error err;
    const struct mll_result *result;
    open_fixture(&f, "text_only", (struct mll_options){.ctx_size = 24});
    cr_assert(mll_session_run(f.session, &f.g.request, &result, &err) == MLL_OK, "%s", err.message);
    cr_expect(result->finish == MLL_FINISH_LENGTH);
    cr_expect(result->n_prompt + result->n == 24 + 1, "%zu + %zu", result->n_prompt, result->n);
    close_fixture(&f);
}

static bool stop_after_first(void *user, const char *text, size_t size)
{
    (void)text;
    (void)size;
    ++*(int *)user;
    return false;
}

Test(session, a_cancelled_run_leaves_a_usable_session)
{
    struct fixture f;
    struct mll_error err;
    const struct mll_result *result;
    int calls = 0;
    open_fixture(&f, "one_tile", (struct mll_options){0});
    mll_cancel(f.session);
    cr_expect(mll_session_run(f.session, &f.g.request, &result, &err) == MLL_ERR_CANCELLED);
    struct mll_request request = f.g.request;
    request.on_text = stop_after_first;
    request.user = &calls;
    cr_assert(mll_session_run(f.session, &request, &result, &err) == MLL_OK, "%s", err.message);
    cr_expect(result->finish == MLL_FINISH_CANCELLED);
    cr_expect(calls == 1);
    cr_assert(mll_session_run(f.session, &f.g.request, &result, &err) == MLL_OK, "%s", err.message);
    cr_expect(result->n == 64);
    close_fixture(&f);
}

Test(session, the_arena_is_what_the_plan_says)
{
    static const char *const names[] = {"four_tiles_bf16", "kept_unsorted",    "odd_sizes",
                                        "long_prompt",     "one_tile_at_most", NULL};
    for (int i = 0; names[i] != NULL; i++) {
        /* small chunks: vision is the larger stage; one large chunk: the decoder is */
        for (int chunk = 4; chunk <= 64; chunk *= 16) {
            struct fixture f;
            struct mll_error err;
            const struct mll_result *result;
            open_fixture(&f, names[i], (struct mll_options){.prefill_chunk = chunk});
            f.g.sampling.max_new_tokens = 2;
            cr_assert(mll_session_run(f.session, &f.g.request, &result, &err) == MLL_OK);
            const struct memory_plan *plan = &f.engine->plan;
            size_t peak = exec_peak(f.engine->exec);
            cr_expect(peak <= plan->arena);
            if (plan->vision > plan->text)
                /* matmul states what its coded weights would need too */
                cr_expect(plan->arena - peak < 16384, "%s: %zu used of %zu", names[i], peak,
                          plan->arena);
            close_fixture(&f);
        }
    }
}

/* Memory follows the text: a block is touched when the text reaches it, and used again before any
 * other. */
Test(session, blocks_come_with_the_text_and_serve_the_next)
{
    struct fixture f;
    struct mll_error err;
    int32_t ids[40];
    for (int i = 0; i < 40; i++)
        ids[i] = 1 + i;
    open_fixture(&f, "text_only", (struct mll_options){.ctx_size = 80, .max_sessions = 2});
    const struct block_stack *stack = &f.engine->text_stack;
    cr_assert(stack->n_free == 10 && stack->n_fresh == 0);
    float *first = NULL;
    for (int round = 0; round < 3; round++) {
        size_t pending = 1;
        cr_assert(mll_session_feed(f.session, ids, 40, &err) == MLL_OK, "%s", err.message);
        cr_expect(stack->n_free == 10, "not before they are needed");
        while (pending > 0)
            cr_assert(mll_step(f.engine, &f.session, 1, &pending, &err) == MLL_OK);
        cr_expect(stack->n_free == 7 && stack->n_fresh == 3, "%d free", stack->n_free);
        float *logits = logits_copy(&f);
        if (first == NULL)
            first = logits;
        cr_expect(memcmp(first, logits, (size_t)f.engine->cfg.text.vocab_size * 4) == 0);
        if (logits != first)
            free(logits);
        if (round == 0) {
            mll_session_clear(f.session);
        } else {
            mll_session_close(f.session);
            cr_assert(mll_session_open(&f.session, f.engine, &err) == MLL_OK);
        }
        cr_expect(stack->n_free == 10);
    }
    free(first);
    close_fixture(&f);
}

Test(session, tables_count_in_full_where_no_file_is_mapped)
{
    struct mll_options options = {.model = MLL_SOURCE_DIR "/models/receipts-tiny", .device = "cpu"};
    struct mll_memory mapped, read;
    struct mll_error err;
    cr_assert(mll_plan(&options, &mapped, &err) == MLL_OK, "%s", err.message);
    options.no_mmap = true;
    cr_assert(mll_plan(&options, &read, &err) == MLL_OK, "%s", err.message);
    cr_expect(read.total > mapped.total && read.weights == mapped.weights);
}

Test(session, the_plan_before_opening_counts_what_the_engine_takes)
{
    struct fixture f;
    struct mll_error err;
    struct mll_memory memory;
    struct mll_options options = {.ctx_size = 100, .max_images = 2};
    open_fixture(&f, "four_tiles_bf16", options);
    options.model = f.g.model;
    options.device = "cpu";
    options.threads = 1;
    cr_assert(mll_plan(&options, &memory, &err) == MLL_OK, "%s", err.message);
    const struct memory_plan *plan = &f.engine->plan;
    cr_expect(memory.kv == plan->text_kv && memory.cross_kv == plan->image_kv);
    cr_expect(memory.kv + memory.cross_kv + memory.scratch == plan->arena);
    cr_expect(memory.total <= memory.weights + plan->arena + memory.other);
    options.max_images = 0; /* one image is what most requests hold */
    cr_assert(mll_plan(&options, &memory, &err) == MLL_OK, "%s", err.message);
    cr_expect(memory.cross_kv < plan->image_kv);
    options.ctx_size = 1 << 30;
    cr_expect(mll_plan(&options, &memory, &err) == MLL_ERR_BAD_OPTION);
    close_fixture(&f);
}
