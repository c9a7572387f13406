/* test_gpu_engine.c - the whole model on a GPU, or on the shim that runs its kernels, against the
 * CPU engine, which test_goldens.c holds against transformers to 2e-4.
 *
 * fp16 operands differ from float32 by 2^-11 a product; through all layers of the small models
 * logits stay within 5e-3 of the largest, and the argmax is the same where its lead is twice that.
 */
#include "engine.h"
#include "golden.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BOUND 5e-3
/* Keys of int8: where a code tips it does so by 1/127 of its row's largest. */
#define BOUND_INT8 1.5e-2

/* One timeline on each device, fed the same. */
struct pair {
    struct mll_engine *cpu, *gpu;
    struct mll_session *on_cpu, *on_gpu;
    double bound; /* of the difference of a logit, over the largest logit */
    double worst; /* so far */
};

static void open_one(struct mll_engine **engine, struct mll_session **session,
                     const struct mll_options *options)
{
    struct mll_error err;
    cr_assert(mll_open(engine, options, &err) == MLL_OK, "%s", err.message);
    cr_assert(mll_session_open(session, *engine, &err) == MLL_OK, "%s", err.message);
}

/* The case's model on both, with the options' reference, kv_type and quant. */
static void open_pair(struct pair *p, const struct golden *g, struct mll_options options)
{
    options.model = g->model;
    options.threads = 1;
    options.device = "cpu";
    *p = (struct pair){.bound = options.kv_type ? BOUND_INT8 : BOUND};
    open_one(&p->cpu, &p->on_cpu, &options);
    options.device = "cuda";
    open_one(&p->gpu, &p->on_gpu, &options);
}

static void close_pair(struct pair *p)
{
    mll_session_close(p->on_cpu);
    mll_session_close(p->on_gpu);
    mll_close(p->cpu);
    mll_close(p->gpu);
}

static void feed(struct mll_engine *engine, struct mll_session *session, const int32_t *ids,
                 size_t n)
{
    struct mll_error err;
    size_t pending = 1;
    cr_assert(mll_session_feed(session, ids, n, &err) == MLL_OK, "%s", err.message);
    while (pending > 0)
        cr_assert(mll_step(engine, &session, 1, &pending, &err) == MLL_OK, "%s", err.message);
}

static int best_of(const float *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* Compares the logits of both; returns the CPU's best id. */
static int32_t compare(struct pair *p, const char *what, size_t token)
{
    int vocab = p->cpu->cfg.text.vocab_size, second = 0;
    const float *a = mll_session_logits(p->on_cpu), *b = mll_session_logits(p->on_gpu);
    cr_assert(a != NULL && b != NULL);
    double largest = 0, worst = 0;
    for (int i = 0; i < vocab; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        largest = fabs((double)a[i]) > largest ? fabs((double)a[i]) : largest;
        worst = d > worst || isnan(d) ? d : worst;
    }
    cr_expect(worst <= p->bound * largest, "%s, token %zu: off by %g of %g", what, token, worst,
              largest);
    p->worst = worst / largest > p->worst ? worst / largest : p->worst;
    int best = best_of(a, vocab);
    for (int i = 0; i < vocab; i++)
        second = i != best && (second == best || a[i] > a[second]) ? i : second;
    if ((double)a[best] - (double)a[second] > 2 * p->bound * largest)
        cr_expect(best_of(b, vocab) == best, "%s, token %zu: another argmax", what, token);
    return best;
}

static void check_case(const char *name, int tokens, struct mll_options options)
{
    struct golden g;
    struct pair p;
    struct mll_error err;
    const int32_t *ids;
    char what[96];
    size_t n;
    golden_open(&g, name);
    open_pair(&p, &g, options);
    snprintf(what, sizeof what, "%s, %s, kv %s", name, golden_modes[options.reference],
             options.kv_type ? options.kv_type : "of the device");
    for (size_t i = 0; i < g.request.n_images; i++) {
        cr_assert(mll_session_add_image(p.on_cpu, &g.images[i], &err) == MLL_OK, "%s", err.message);
        cr_assert(mll_session_add_image(p.on_gpu, &g.images[i], &err) == MLL_OK, "%s", err.message);
    }
    cr_assert(mll_prompt(p.cpu, NULL, &ids, &n, &g.request, &err) == MLL_OK, "%s", err.message);
    feed(p.cpu, p.on_cpu, ids, n);
    feed(p.gpu, p.on_gpu, ids, n);
    for (int i = 0; i < tokens; i++) {
        int32_t id = compare(&p, what, (size_t)i);
        feed(p.cpu, p.on_cpu, &id, 1);
        feed(p.gpu, p.on_gpu, &id, 1);
    }
    compare(&p, what, (size_t)tokens);
    close_pair(&p);
    golden_close(&g);
}

/* The cases from the first on, every other one: two tests run side by side. */
static void check_cases(int first)
{
    if (exec_cuda_devices() < 1)
        cr_skip_test("no CUDA device");
    for (int i = 0; golden_names[i] != NULL; i++)
        if (i % 2 == first)
            check_case(golden_names[i], 4, (struct mll_options){0});
}

Test(gpu_engine, logits_of_the_first_cases_are_the_cpus)
{
    check_cases(0);
}

Test(gpu_engine, logits_of_the_other_cases_are_the_cpus)
{
    check_cases(1);
}

Test(gpu_engine, logits_in_the_other_references_are_the_cpus)
{
    if (exec_cuda_devices() < 1)
        cr_skip_test("no CUDA device");
    check_case("two_images", 2, (struct mll_options){.reference = MLL_REFERENCE_HF4});
    check_case("two_images", 2, (struct mll_options){.reference = MLL_REFERENCE_HF5});
    check_case("kept_unsorted", 2, (struct mll_options){.reference = MLL_REFERENCE_HF5});
}

Test(gpu_engine, logits_with_keys_of_int8_are_the_cpus)
{
    if (exec_cuda_devices() < 1)
        cr_skip_test("no CUDA device");
    check_case("two_images", 4, (struct mll_options){.kv_type = "int8"});
    check_case("four_tiles_bf16", 4,
               (struct mll_options){.reference = MLL_REFERENCE_HF5, .kv_type = "int8"});
}

Test(gpu_engine, logits_of_quantised_weights_are_the_cpus)
{
    if (exec_cuda_devices() < 1)
        cr_skip_test("no CUDA device");
    for (int i = 0; golden_quant_names[i] != NULL; i++)
        check_case(golden_quant_names[i], 2, (struct mll_options){0});
    check_case("one_tile", 2, (struct mll_options){.quant = "nf4-dq"}); /* on the way */
    check_case("one_tile", 2, (struct mll_options){.quant = "int8"});
}

/* ---- the same bits --------------------------------------------------------------------------- */

enum { NEW_TOKENS = 5, MOST_ROWS = 3 };

/* A request with the case's first images, its tokens and, behind them, fixed ones; their logits. */
struct run {
    struct golden *g;
    size_t n_images;
    struct mll_session *session;
    float *logits; /* (NEW_TOKENS, vocab) */
    int done;
};

static void start(struct run *r, struct mll_engine *engine)
{
    struct mll_error err;
    const int32_t *ids;
    const char *text = r->n_images == 0   ? "<|begin_of_text|>Only text"
                       : r->n_images == 1 ? "<|begin_of_text|>A <|image|> page"
                                          : "<|begin_of_text|><|image|> and <|image|> more";
    size_t n;
    cr_assert(mll_session_open(&r->session, engine, &err) == MLL_OK, "%s", err.message);
    r->logits = calloc(NEW_TOKENS, (size_t)engine->cfg.text.vocab_size * sizeof *r->logits);
    for (size_t i = 0; i < r->n_images; i++)
        cr_assert(mll_session_add_image(r->session, &r->g->images[i], &err) == MLL_OK);
    cr_assert(mll_tokenize(engine, &ids, &n, text, strlen(text), true, &err) == MLL_OK);
    cr_assert(mll_session_feed(r->session, ids, n, &err) == MLL_OK, "%s", err.message);
}

/* Notes the logits of a session that has some, and feeds its next token. */
static void next_token(struct run *r, struct mll_engine *engine)
{
    struct mll_error err;
    size_t vocab = (size_t)engine->cfg.text.vocab_size;
    const float *logits = mll_session_logits(r->session);
    int32_t id = 40 + 3 * r->done;
    if (logits == NULL || r->done == NEW_TOKENS)
        return;
    memcpy(r->logits + (size_t)r->done++ * vocab, logits, vocab * sizeof *logits);
    cr_assert(mll_session_feed(r->session, &id, 1, &err) == MLL_OK, "%s", err.message);
}

/* Runs n requests together; the i-th joins at step i. */
static void run_together(struct run *runs, int n, struct mll_options options)
{
    struct mll_engine *engine;
    struct mll_session *sessions[MOST_ROWS];
    struct mll_error err;
    options.model = runs[0].g->model;
    options.device = "cuda";
    options.max_sessions = n;
    cr_assert(mll_open(&engine, &options, &err) == MLL_OK, "%s", err.message);
    for (int step = 0, busy = 1; busy; step++) {
        int present = step + 1 < n ? step + 1 : n;
        if (step < n)
            start(&runs[step], engine);
        sessions[present - 1] = runs[present - 1].session;
        cr_assert(mll_step(engine, sessions, (size_t)present, NULL, &err) == MLL_OK, "%s",
                  err.message);
        busy = present < n;
        for (int i = 0; i < present; i++) {
            next_token(&runs[i], engine);
            busy |= runs[i].done < NEW_TOKENS;
        }
    }
    for (int i = 0; i < n; i++)
        mll_session_close(runs[i].session);
    mll_close(engine);
}

static void expect_same(struct run *a, struct run *b, const char *what)
{
    size_t size = NEW_TOKENS * 276 * sizeof(float); /* the vocabulary of the case */
    cr_expect(memcmp(a->logits, b->logits, size) == 0, "%s", what);
    free(b->logits);
    b->logits = NULL;
}

Test(gpu_engine, neither_chunks_nor_company_nor_graphs_change_a_bit)
{
    struct golden g;
    if (exec_cuda_devices() < 1)
        cr_skip_test("no CUDA device");
    golden_open(&g, "two_images");
    struct run alone[MOST_ROWS], together[MOST_ROWS];
    for (int i = 0; i < MOST_ROWS; i++) {
        alone[i] = together[i] = (struct run){.g = &g, .n_images = (size_t)(MOST_ROWS - 1 - i)};
        run_together(&alone[i], 1, (struct mll_options){0});
    }
    run_together(together, MOST_ROWS, (struct mll_options){.prefill_chunk = 5});
    for (int i = 0; i < MOST_ROWS; i++)
        expect_same(&alone[i], &together[i], "in company");
    struct run chunks = {.g = &g, .n_images = 2}, synchronous = chunks, other = chunks;
    run_together(&chunks, 1, (struct mll_options){.prefill_chunk = 1});
    expect_same(&alone[0], &chunks, "row by row");
    run_together(&synchronous, 1, (struct mll_options){.debug_sync = true});
    expect_same(&alone[0], &synchronous, "without graphs");
    run_together(&other, 1, (struct mll_options){.reference = MLL_REFERENCE_HF5});
    cr_expect(memcmp(alone[0].logits, other.logits, NEW_TOKENS * 276 * sizeof(float)) != 0);
    free(other.logits);
    for (int i = 0; i < MOST_ROWS; i++)
        free(alone[i].logits);
    golden_close(&g);
}

enum { FEW_TOKENS = 2 };

/* The logits of tokens fed after a prompt, with a page and without, by an engine that may take
 * most bytes (0: all) of the GPU's memory. Returns what it takes, *n_streamed: layers. */
static size_t run_within(float *logits, struct golden *g, uint64_t most, int *n_streamed)
{
    struct mll_options options = {.model = g->model, .device = "cuda", .max_memory = most};
    struct mll_engine *engine;
    struct mll_session *session;
    int32_t ids[] = {3, 276, 5, 6}; /* 276: the page */
    size_t vocab = 276;
    struct mll_error err;
    open_one(&engine, &session, &options);
    for (int image = 0; image < 2; image++) {
        mll_session_clear(session);
        ids[1] = image ? 276 : 4;
        if (image)
            cr_assert(mll_session_add_image(session, &g->images[0], &err) == MLL_OK);
        feed(engine, session, ids, 4);
        for (int i = 0; i < FEW_TOKENS; i++, logits += vocab) {
            feed(engine, session, (int32_t[]){40 + 3 * i}, 1);
            memcpy(logits, mll_session_logits(session), vocab * sizeof *logits);
        }
    }
    size_t bytes = engine->plan.weights + engine->plan.arena;
    *n_streamed = engine->plan.n_streamed;
    mll_session_close(session);
    mll_close(engine);
    return bytes;
}

Test(gpu_engine, layers_that_do_not_fit_are_streamed_and_change_no_bit)
{
    static const char *const names[] = {"two_images", "quant_nf4_double"};
    size_t size = 2 * FEW_TOKENS * 276 * sizeof(float);
    float *all = malloc(size), *some = malloc(size);
    if (exec_cuda_devices() < 1)
        cr_skip_test("no CUDA device");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct golden g;
        int n, before = 0;
        golden_open(&g, names[i]);
        size_t bytes = run_within(all, &g, 0, &n);
        cr_expect(n == 0);
        for (size_t most = bytes - 1; before < 5; most = bytes - 1, before = n) {
            memset(some, 0, size);
            bytes = run_within(some, &g, most, &n);
            cr_assert(n > before && n > 2 && bytes <= most, "%s: %d layers", names[i], n);
            cr_expect(memcmp(all, some, size) == 0, "%s, %d layers streamed", names[i], n);
            if (n == 5)
                break;
        }
        struct mll_options options = {.model = g.model, .device = "cuda", .max_memory = bytes - 1};
        struct mll_engine *engine;
        struct mll_error err;
        cr_expect(mll_open(&engine, &options, &err) == MLL_ERR_NO_MEMORY);
        cr_expect(strstr(err.message, "with all decoder layers in host memory") != NULL, "%s",
                  err.message);
        golden_close(&g);
    }
    free(all);
    free(some);
}

Test(gpu_engine, rewinding_gives_the_same_bits_again)
{
    struct golden g;
    struct mll_error err;
    struct mll_engine *engine;
    if (exec_cuda_devices() < 1)
        cr_skip_test("no CUDA device");
    golden_open(&g, "text_only");
    struct run r = {.g = &g};
    struct mll_options options = {.model = g.model, .device = "cuda"};
    cr_assert(mll_open(&engine, &options, &err) == MLL_OK, "%s", err.message);
    start(&r, engine);
    float *first = r.logits;
    size_t prompt = mll_session_length(r.session), size = 276 * sizeof *first;
    for (int again = 0; again < 2; again++) {
        while (r.done < NEW_TOKENS) {
            cr_assert(mll_step(engine, &r.session, 1, NULL, &err) == MLL_OK, "%s", err.message);
            next_token(&r, engine);
        }
        /* behind the prompt again; the first token is in first already */
        cr_assert(mll_session_rewind(r.session, prompt, &err) == MLL_OK);
        r.logits = calloc(NEW_TOKENS, size);
        r.done = 1;
        cr_assert(mll_session_feed(r.session, (int32_t[]){40}, 1, &err) == MLL_OK);
    }
    cr_assert(mll_step(engine, &r.session, 1, NULL, &err) == MLL_OK, "%s", err.message);
    cr_expect(memcmp(mll_session_logits(r.session), first + 276, size) == 0);
    mll_session_close(r.session);
    mll_close(engine);
    free(r.logits);
    golden_close(&g);
}

/* ---- faults ---------------------------------------------------------------------------------- */

Test(gpu_engine, an_index_fault_is_an_error_and_the_context_lives)
{
    struct golden g;
    if (exec_cuda_devices() < 1)
        cr_skip_test("no CUDA device");
    golden_open(&g, "text_only");
    for (int sync = 0; sync < 2; sync++) {
        struct mll_options options = {.model = g.model, .device = "cuda", .debug_sync = sync};
        struct mll_engine *engine;
        struct mll_session *session;
        struct mll_error err;
        int32_t ids[] = {1, 2, 3}, bad = 1000;
        open_one(&engine, &session, &options);
        feed(engine, session, ids, 3);
        float *good = malloc(276 * sizeof *good);
        memcpy(good, mll_session_logits(session), 276 * sizeof *good);
        int32_t *table = (int32_t *)engine->text_table.blocks;
        exec_upload(engine->exec, table, &bad, sizeof bad);
        cr_assert(mll_session_rewind(session, 0, &err) == MLL_OK);
        cr_assert(mll_session_feed(session, ids, 3, &err) == MLL_OK);
        cr_expect(mll_step(engine, &session, 1, NULL, &err) == MLL_ERR_BOUNDS);
        cr_expect(strstr(err.message, "kv_append, element 0: index 1000, bound ") != NULL, "%s",
                  err.message);
        cr_expect((strstr(err.message, "decoder, layer 0") != NULL) == (sync == 1), "%s",
                  err.message);
        exec_upload(engine->exec, table, session->text_blocks, sizeof bad);
        cr_assert(mll_session_rewind(session, 0, &err) == MLL_OK);
        feed(engine, session, ids, 3);
        cr_expect(memcmp(good, mll_session_logits(session), 276 * sizeof *good) == 0);
        free(good);
        mll_session_close(session);
        mll_close(engine);
    }
    golden_close(&g);
}

Test(gpu_engine, devices_that_are_not_there)
{
    struct golden g;
    struct mll_engine *engine;
    struct mll_error err;
    golden_open(&g, "text_only");
    struct mll_options options = {.model = g.model, .device = "cuda:77"};
    cr_expect(mll_open(&engine, &options, &err) == MLL_ERR_DEVICE);
    cr_expect(exec_cuda_devices() < 1 || strstr(err.message, "cuda:77: this machine has") != NULL,
              "%s", err.message);
    options.device = "cuda:";
    cr_expect(mll_open(&engine, &options, &err) == MLL_ERR_BAD_OPTION);
    golden_close(&g);
}
