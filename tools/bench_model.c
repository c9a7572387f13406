/* bench_model.c - mllama bench model: load, vision, prefill, decode of one model.
 *
 * Tests, in llama-bench's words: ppP (a prompt of P tokens at once), tgN (N tokens one by one),
 * ppP+tgN (both, one rate), each "@ dD" behind D tokens of context; and visionT (an image of T
 * tiles; its rate counts vision rows), tgN@B (B sessions in one step, all their tokens counted),
 * receipt (an image, and as many tokens of prompt and answer as extract takes for a receipt on the
 * embedded model), load (from nothing to the first logits). With --image all of them see the image.
 * One repetition before the others is not counted (receipt comes last and needs none). Behind each
 * repetition that decodes, the same threads read 2 GB of memory: bandwidth_share is the median of
 * the repetitions' bytes_per_token * tokens_per_s / read_gb_s. */
#include "bench_model.h"
#include "bench.h"
#include "bench_tool.h"
#include "engine.h"
#include "report.h"
#include "tool.h"
#include "version.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_TOKENS = 131072, MOST_BATCH = 64 };
enum { RECEIPT_PROMPT = 41, RECEIPT_ANSWER = 93 };

static const struct report_column columns[] = {
    {.name = "test", .title = "test"},
    {.name = "quant", .title = "quant"},
    {.name = "threads", .title = "threads"},
    {.name = "tokens_per_s", .title = "tokens/s"},
    {.name = "stddev", .title = "+-"},
    {.name = "p10", .title = "p10"},
    {.name = "p90", .title = "p90"},
    {.name = "seconds", .title = "seconds"},
    {.name = "ttft_seconds", .title = "first token, s"},
    {.name = "bytes_per_token"},
    {.name = "weights_gb_s", .title = "weights, GB/s"},
    {.name = "read_gb_s", .title = "read, GB/s"},
    {.name = "bandwidth_share", .title = "% of read", .scale = 100},
    {.name = "samples"},
    {.name = "n_prompt"},
    {.name = "n_gen"},
    {.name = "n_depth"},
    {.name = "n_batch"},
    {.name = "image_tiles"},
    {.name = "load_seconds"},
    {.name = "peak_bytes", .title = "peak, MB", .scale = 1e-6},
    {.name = "free_bytes", .title = "free, MB", .scale = 1e-6},
    {.name = "weight_bytes"},
    {.name = "parameters"},
    {.name = "repetitions"},
    {.name = "model", .use = REPORT_BELOW},
    {.name = "kv", .use = REPORT_BELOW},
    {.name = "device", .use = REPORT_BELOW},
    {.name = "version", .use = REPORT_BELOW},
    {.name = "build_commit", .use = REPORT_BELOW},
    {.name = "test_time"}};

/* What one test measures. */
enum test_kind { TEST_TEXT = 0, TEST_VISION, TEST_RECEIPT, TEST_LOAD_COLD, TEST_LOAD_WARM };

struct test {
    enum test_kind kind;
    int prompt, tokens, depth, batch; /* batch 0: one session */
};

struct lists {
    int *prompts, *tokens, *batches, *depths, *pair, *threads;
    size_t n_prompts, n_tokens, n_batches, n_depths, n_pair, n_threads;
};

struct run {
    const struct args *args;
    const struct lists *lists;
    struct mll_options options;
    struct mll_engine *engine;
    struct mll_session *sessions[MOST_BATCH];
    bool has_image[MOST_BATCH]; /* the session */
    struct mll_info info;
    char device[96]; /* info's own is the engine's */
    const char *kv;
    struct mll_image image; /* of as many tiles as asked for; rgb NULL: none */
    bool cpu;
    void *read_memory; /* NULL: no CPU, or nothing to read for */
    double load_seconds, vision_seconds;
    struct report *report;
    int32_t *ids;                          /* room for the longest prompt */
    double *rate, *seconds, *read, *share; /* (repetitions) */
};

/* ---- the work -------------------------------------------------------------------------------- */

/* The weights that a decoded token of a session reads, cross layers where it has an image. */
static size_t bytes_per_token(const struct mll_engine *e, bool image)
{
    const struct weights *w = e->weights;
    size_t bytes = weights_mat_bytes(&w->norm) + weights_mat_bytes(&w->lm_head) +
                   weights_mat_bytes(&w->embed_tokens) / (size_t)w->embed_tokens.rows;
    for (int i = 0; i < e->cfg.text.layers; i++) {
        const struct text_layer *l = &w->layers[i];
        bool cross = e->cfg.text.is_cross[i];
        const struct mat *both[] = {&l->input_norm, &l->q,  &l->o,   &l->post_norm,
                                    &l->gate,       &l->up, &l->down};
        for (size_t m = 0; (image || !cross) && m < sizeof both / sizeof *both; m++)
            bytes += weights_mat_bytes(both[m]);
        if (!cross)
            bytes += weights_mat_bytes(&l->k) + weights_mat_bytes(&l->v);
    }
    return bytes;
}

/* Token k of session s: any ids will do, and not the same ones; the image's where it begins. */
static int32_t token(const struct run *r, size_t s, size_t k)
{
    if (k == 0 && r->image.rgb)
        return r->info.image_token;
    return (int32_t)(((uint32_t)k * 7919u + (uint32_t)s * 104729u) % (uint32_t)r->info.vocab_size);
}

static enum mll_status prefill(struct run *r, size_t s, int n, struct mll_error *err)
{
    size_t pending = n > 0, at = mll_session_length(r->sessions[s]);
    for (int k = 0; k < n; k++)
        r->ids[k] = token(r, s, at + (size_t)k);
    if (n > 0)
        MLL_TRY(mll_session_feed(r->sessions[s], r->ids, (size_t)n, err));
    while (pending > 0)
        MLL_TRY(mll_step(r->engine, &r->sessions[s], 1, &pending, err));
    return MLL_OK;
}

static enum mll_status decode(struct run *r, size_t batch, int n, struct mll_error *err)
{
    for (int k = 0; k < n; k++) {
        for (size_t s = 0; s < batch; s++) {
            int32_t id = token(r, s, mll_session_length(r->sessions[s]));
            MLL_TRY(mll_session_feed(r->sessions[s], &id, 1, err));
        }
        MLL_TRY(mll_step(r->engine, r->sessions, batch, NULL, err));
        if (signals_exit_code())
            return mll_fail(err, MLL_ERR_CANCELLED, "interrupted");
    }
    return MLL_OK;
}

static size_t batch_of(const struct test *t)
{
    return t->batch > 0 ? (size_t)t->batch : 1;
}

/* What is there before a repetition begins, not timed: the image and the tokens of the context,
 * whose first one decoding alone needs. */
static enum mll_status set_up(struct run *r, const struct test *t, struct mll_error *err)
{
    bool alone = t->prompt == 0 && t->depth == 0 && t->kind == TEST_TEXT;
    for (size_t s = 0; s < batch_of(t) && t->kind == TEST_TEXT; s++) {
        MLL_TRY(mll_session_rewind(r->sessions[s], 0, err));
        if (r->image.rgb && !r->has_image[s])
            MLL_TRY(mll_session_add_image(r->sessions[s], &r->image, err));
        r->has_image[s] = r->image.rgb != NULL;
        MLL_TRY(prefill(r, s, alone ? 1 : t->depth, err));
    }
    return MLL_OK;
}

/* Back to where set_up left it. */
static enum mll_status reset(struct run *r, const struct test *t, struct mll_error *err)
{
    size_t length = t->prompt == 0 && t->depth == 0 ? 1 : (size_t)t->depth;
    for (size_t s = 0; s < batch_of(t); s++) {
        if (t->kind != TEST_TEXT) {
            mll_session_clear(r->sessions[s]);
            r->has_image[s] = false;
        } else {
            MLL_TRY(mll_session_rewind(r->sessions[s], length, err));
        }
    }
    return MLL_OK;
}

static enum mll_status repeat(struct run *r, const struct test *t, double *seconds,
                              struct mll_error *err)
{
    MLL_TRY(reset(r, t, err));
    double start = bench_seconds();
    if (t->kind == TEST_VISION || t->kind == TEST_RECEIPT)
        MLL_TRY(mll_session_add_image(r->sessions[0], &r->image, err));
    r->has_image[0] = r->image.rgb != NULL;
    if (t->kind != TEST_VISION) {
        MLL_TRY(prefill(r, 0, t->prompt, err));
        MLL_TRY(decode(r, batch_of(t), t->tokens, err));
    }
    *seconds = bench_seconds() - start;
    return MLL_OK;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void name_test(char name[48], const struct run *r, const struct test *t)
{
    char depth[16] = "";
    if (t->depth > 0)
        snprintf(depth, sizeof depth, " @ d%d", t->depth);
    if (t->kind == TEST_LOAD_COLD || t->kind == TEST_LOAD_WARM)
        snprintf(name, 48, "load %s", t->kind == TEST_LOAD_COLD ? "cold" : "warm");
    else if (t->kind == TEST_VISION)
        snprintf(name, 48, "vision%d", r->args->image_tiles);
    else if (t->kind == TEST_RECEIPT)
        snprintf(name, 48, "receipt");
    else if (t->prompt > 0 && t->tokens > 0)
        snprintf(name, 48, "pp%d+tg%d%s", t->prompt, t->tokens, depth);
    else if (t->prompt > 0)
        snprintf(name, 48, "pp%d%s", t->prompt, depth);
    else if (t->batch > 0)
        snprintf(name, 48, "tg%d@%d%s", t->tokens, t->batch, depth);
    else
        snprintf(name, 48, "tg%d%s", t->tokens, depth);
}

/* Tokens (or vision rows) that a repetition counts; 0: there is no rate. */
static double work_of(const struct run *r, const struct test *t)
{
    if (t->kind == TEST_VISION)
        return (double)r->args->image_tiles * r->info.rows_per_tile;
    return t->kind == TEST_TEXT ? t->prompt + (double)t->tokens * (double)batch_of(t) : 0;
}

static bool only_decodes(const struct test *t)
{
    return t->kind == TEST_TEXT && t->prompt == 0;
}

/* Of this process, the memory for the read left out. */
static double peak_bytes(const struct run *r)
{
    return bench_peak_memory() - (r->read_memory ? (double)BENCH_READ_BYTES : 0);
}

/* With the model open; of the GPU where it runs there. */
static double free_bytes(const struct run *r)
{
    if (r->cpu)
        return bench_available_memory() + (r->read_memory ? (double)BENCH_READ_BYTES : 0);
    return r->engine ? (double)exec_memory_free(r->engine->exec) : NAN;
}

static void add_rates(const struct run *r, const struct test *t, size_t n)
{
    struct report *p = r->report;
    double sum = 0, squares = 0, work = work_of(r, t);
    report_list(p, "samples", work > 0 ? r->rate : r->seconds, n);
    struct bench_stats rate = bench_stats(r->rate, n), seconds = bench_stats(r->seconds, n);
    report_number(p, "seconds", seconds.median);
    if (t->kind == TEST_TEXT && t->prompt > 0 && t->tokens == 0 && t->depth == 0)
        report_number(p, "ttft_seconds", seconds.median + r->vision_seconds);
    if (work == 0)
        return;
    for (size_t i = 0; i < n; i++)
        sum += r->rate[i] / (double)n;
    for (size_t i = 0; i < n; i++)
        squares += (r->rate[i] - sum) * (r->rate[i] - sum);
    report_number(p, "tokens_per_s", rate.median);
    report_number(p, "stddev", n > 1 ? sqrt(squares / (double)(n - 1)) : NAN);
    report_number(p, "p10", rate.p10);
    report_number(p, "p90", rate.p90);
    if (!only_decodes(t))
        return;
    double bytes = (double)bytes_per_token(r->engine, r->image.rgb != NULL) / (double)batch_of(t);
    report_number(p, "bytes_per_token", bytes);
    report_number(p, "weights_gb_s", bytes * rate.median * 1e-9);
    if (r->read_memory) {
        report_number(p, "read_gb_s", bench_stats(r->read, n).median);
        report_number(p, "bandwidth_share", bench_stats(r->share, n).median);
    }
}

static enum mll_status add_row(const struct run *r, const struct test *t, struct mll_error *err)
{
    struct report *p = r->report;
    char name[48], when[32];
    time_t now = time(NULL);
    struct tm utc;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    name_test(name, r, t);
    MLL_TRY(report_row(p, err));
    report_text(p, "test", name);
    add_rates(r, t, (size_t)r->args->repetitions);
    report_number(p, "n_prompt", t->prompt);
    report_number(p, "n_gen", t->tokens);
    report_number(p, "n_depth", t->depth);
    report_number(p, "n_batch", (double)batch_of(t));
    report_number(p, "image_tiles", r->args->image_tiles);
    report_number(p, "load_seconds", r->load_seconds);
    report_number(p, "peak_bytes", peak_bytes(r));
    report_number(p, "free_bytes", free_bytes(r));
    report_number(p, "weight_bytes", (double)r->info.weight_bytes);
    report_number(p, "parameters", (double)r->info.parameters);
    report_number(p, "repetitions", r->args->repetitions);
    const char *model = r->options.synthetic ? r->options.synthetic : r->options.model;
    const char *slash = strrchr(model, '/'); /* so that rows of two checkouts belong together */
    report_text(p, "model", slash && slash[1] ? slash + 1 : model);
    report_text(p, "quant", r->options.quant ? r->options.quant : "as stored");
    report_text(p, "kv", r->kv);
    report_text(p, "device", r->device);
    report_number(p, "threads", r->options.threads);
    report_text(p, "version", MLL_VERSION);
    report_text(p, "build_commit", MLL_COMMIT);
    report_text(p, "test_time", when);
    return MLL_OK;
}

static enum mll_status measure(struct run *r, const struct test *t, struct mll_error *err)
{
    double seconds, bytes = (double)bytes_per_token(r->engine, r->image.rgb != NULL);
    struct progress progress;
    char name[48];
    name_test(name, r, t);
    progress_start(&progress, "repetitions");
    MLL_TRY(set_up(r, t, err));
    if (t->kind != TEST_RECEIPT) /* brings weights and buffers into memory; then they are there */
        MLL_TRY(repeat(r, t, &seconds, err));
    for (int i = 0; i < r->args->repetitions; i++) {
        progress_show(&progress, (size_t)i, (size_t)r->args->repetitions, 0, name);
        MLL_TRY(repeat(r, t, &seconds, err));
        r->seconds[i] = seconds;
        r->rate[i] = work_of(r, t) / seconds;
        if (r->read_memory && only_decodes(t)) {
            r->read[i] = bench_read_gb_s(r->options.threads, r->read_memory, BENCH_READ_BYTES,
                                         bench_seconds);
            r->share[i] = bytes * r->rate[i] / (double)batch_of(t) * 1e-9 / r->read[i];
        }
    }
    progress_clear(&progress);
    if (t->kind == TEST_VISION) {
        memcpy(r->share, r->seconds, (size_t)r->args->repetitions * sizeof *r->share);
        r->vision_seconds = bench_stats(r->share, (size_t)r->args->repetitions).median;
    }
    return add_row(r, t, err);
}

/* ---- one engine ------------------------------------------------------------------------------ */

static int largest(const int *values, size_t n)
{
    int most = 0;
    for (size_t i = 0; i < n; i++)
        most = values[i] > most ? values[i] : most;
    return most;
}

static void size_session(struct mll_options *o, const struct lists *l, bool image)
{
    int prompt = largest(l->prompts, l->n_prompts), longest = largest(l->tokens, l->n_tokens) + 1;
    int pair = l->n_pair ? l->pair[0] + l->pair[1] : 0, batch = largest(l->batches, l->n_batches);
    int receipt = image ? RECEIPT_PROMPT + RECEIPT_ANSWER : 0;
    longest = longest > prompt ? longest : prompt;
    longest = longest > pair ? longest : pair;
    longest = longest > receipt ? longest : receipt;
    o->max_sessions = batch > 1 ? batch : 1;
    o->max_images = 1;
    if (o->ctx_size == 0)
        o->ctx_size = longest + largest(l->depths, l->n_depths);
    if (o->prefill_chunk == 0 && prompt > 0)
        o->prefill_chunk = prompt < 512 ? prompt : 512;
}

/* A grey image with some structure, of as many whole tiles side by side, or two rows of them. */
static enum mll_status make_image(struct run *r, struct mll_error *err)
{
    int tiles = r->args->image_tiles, size = r->info.tile_size;
    if (tiles == 0)
        return MLL_OK;
    if (tiles > r->info.max_tiles)
        return mll_fail(err, MLL_ERR_USAGE, "--image: the model has at most %d tiles",
                        r->info.max_tiles);
    int rows = tiles == 4 ? 2 : 1;
    int w = tiles / rows * size, h = rows * size;
    uint8_t *rgb = malloc((size_t)w * (size_t)h * 3);
    if (rgb == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for an image");
    for (size_t i = 0; i < (size_t)w * (size_t)h * 3; i++)
        rgb[i] = (uint8_t)((uint32_t)i * 2654435761u >> 24);
    r->image = (struct mll_image){.rgb = rgb, .w = w, .h = h};
    return MLL_OK;
}

static enum mll_status open_all(struct run *r, struct mll_error *err)
{
    static const char *const types[] = {
        [MLL_DTYPE_F32] = "f32", [MLL_DTYPE_F16] = "f16", [MLL_DTYPE_I8] = "int8"};
    size_t n = (size_t)r->args->repetitions;
    bench_forget_peak();
    double start = bench_seconds();
    MLL_TRY(mll_open(&r->engine, &r->options, err));
    r->load_seconds = bench_seconds() - start;
    mll_engine_info(r->engine, &r->info);
    snprintf(r->device, sizeof r->device, "%s", r->info.device);
    r->kv = types[exec_kv_dtype(r->engine->exec)];
    r->options.threads = exec_threads(r->engine->exec);
    for (int s = 0; s < r->options.max_sessions; s++)
        MLL_TRY(mll_session_open(&r->sessions[s], r->engine, err));
    MLL_TRY(make_image(r, err));
    r->cpu = exec_memory(r->engine->exec) == 0;
    bool read = r->cpu && largest(r->lists->tokens, r->lists->n_tokens) > 0;
    r->rate = calloc(4 * n, sizeof *r->rate);
    r->ids = calloc(MOST_TOKENS, sizeof *r->ids);
    r->read_memory = read ? bench_weights(BENCH_READ_BYTES, 1) : NULL;
    if (!r->rate || !r->ids || (read && !r->read_memory))
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for the benchmark");
    r->seconds = r->rate + n;
    r->read = r->seconds + n;
    r->share = r->read + n;
    return MLL_OK;
}

static void close_engine(struct run *r)
{
    for (int s = 0; s < MOST_BATCH; s++) {
        mll_session_close(r->sessions[s]);
        r->sessions[s] = NULL;
    }
    mll_close(r->engine);
    r->engine = NULL;
}

static enum mll_status run_depth(struct run *r, int depth, struct mll_error *err)
{
    const struct lists *l = r->lists;
    for (size_t i = 0; i < l->n_prompts; i++)
        if (l->prompts[i] > 0)
            MLL_TRY(measure(r, &(struct test){.prompt = l->prompts[i], .depth = depth}, err));
    for (size_t i = 0; i < l->n_tokens; i++) {
        struct test t = {.tokens = l->tokens[i], .depth = depth};
        if (t.tokens > 0 && l->n_batches == 0)
            MLL_TRY(measure(r, &t, err));
        for (size_t b = 0; t.tokens > 0 && b < l->n_batches; b++) {
            t.batch = l->batches[b];
            MLL_TRY(measure(r, &t, err));
        }
    }
    struct test pair = {.prompt = l->n_pair ? l->pair[0] : 0, .depth = depth};
    pair.tokens = l->n_pair ? l->pair[1] : 0;
    return l->n_pair ? measure(r, &pair, err) : MLL_OK;
}

static enum mll_status run_loads(struct run *r, struct mll_error *err)
{
    close_engine(r); /* a file that is mapped stays in the cache */
    for (int kind = TEST_LOAD_COLD; kind <= TEST_LOAD_WARM; kind++) {
        bool cold = kind == TEST_LOAD_COLD;
        if (cold && r->options.synthetic)
            continue;
        struct mll_error why = {0};
        enum mll_status status =
            bench_load(r->seconds, (size_t)r->args->repetitions, &r->options,
                       r->image.rgb ? &r->image : NULL, cold, cold ? &why : err);
        if (cold && status == MLL_ERR_IO)
            tool_note("%s", why.message);
        else if (status != MLL_OK)
            return cold ? mll_fail(err, status, "%s", why.message) : status;
        else
            MLL_TRY(add_row(r, &(struct test){.kind = (enum test_kind)kind}, err));
    }
    return MLL_OK;
}

static enum mll_status run_all(struct run *r, struct mll_error *err)
{
    const struct lists *l = r->lists;
    MLL_TRY(open_all(r, err));
    if (r->image.rgb)
        MLL_TRY(measure(r, &(struct test){.kind = TEST_VISION}, err));
    for (size_t d = 0; d < l->n_depths; d++)
        MLL_TRY(run_depth(r, l->depths[d], err));
    if (r->image.rgb)
        MLL_TRY(measure(r,
                        &(struct test){.kind = TEST_RECEIPT,
                                       .prompt = RECEIPT_PROMPT,
                                       .tokens = RECEIPT_ANSWER},
                        err));
    return r->args->load ? run_loads(r, err) : MLL_OK;
}

static enum mll_status run_engine(struct report *report, const struct args *args,
                                  const struct lists *lists, const struct tool_model *model,
                                  const char *quant, int threads, struct mll_error *err)
{
    struct run r = {.args = args, .lists = lists, .report = report};
    model_options(&r.options, args, model);
    r.options.synthetic = args->synthetic;
    r.options.quant = quant;
    r.options.threads = threads;
    size_session(&r.options, lists, args->image_tiles > 0);
    enum mll_status status = run_all(&r, err);
    close_engine(&r);
    free((uint8_t *)(uintptr_t)r.image.rgb);
    free(r.read_memory);
    free(r.rate);
    free(r.ids);
    return status;
}

/* ---- what to run ----------------------------------------------------------------------------- */

static enum mll_status read_lists(struct lists *l, const struct args *a, struct mll_error *err)
{
    const char *tokens = a->n_gen ? a->n_gen : "128", *depths = a->depth ? a->depth : "0";
    MLL_TRY(bench_list(&l->prompts, &l->n_prompts, "n-prompt", a->n_prompt ? a->n_prompt : "512", 0,
                       MOST_TOKENS, err));
    MLL_TRY(bench_list(&l->tokens, &l->n_tokens, "n-gen", tokens, 0, MOST_TOKENS, err));
    MLL_TRY(bench_list(&l->depths, &l->n_depths, "n-depth", depths, 0, MOST_TOKENS, err));
    MLL_TRY(bench_threads(&l->threads, &l->n_threads, a, err));
    if (a->batch)
        MLL_TRY(bench_list(&l->batches, &l->n_batches, "batch", a->batch, 1, MOST_BATCH, err));
    if (!a->prompt_gen && !a->image_tiles && !a->load && largest(l->prompts, l->n_prompts) == 0 &&
        largest(l->tokens, l->n_tokens) == 0)
        return mll_fail(err, MLL_ERR_USAGE, "nothing to measure: no prompt, no tokens, no image");
    if (!a->prompt_gen)
        return MLL_OK;
    MLL_TRY(bench_list(&l->pair, &l->n_pair, "pg", a->prompt_gen, 1, MOST_TOKENS, err));
    if (l->n_pair != 2)
        return mll_fail(err, MLL_ERR_USAGE, "--pg takes two numbers, prompt and tokens");
    return MLL_OK;
}

static void free_lists(struct lists *l)
{
    int *all[] = {l->prompts, l->tokens, l->batches, l->depths, l->pair, l->threads};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* An engine for each quantisation and number of threads. */
static enum mll_status run_lists(struct report *report, const struct args *args,
                                 const struct lists *lists, const struct tool_model *model,
                                 struct mll_error *err)
{
    static const char *const known[] = {"none", "nf4", "nf4-dq", "int8"};
    char *quants = strdup(args->quant_list ? args->quant_list : "none"), *rest = quants, *quant;
    enum mll_status status = quants ? MLL_OK : mll_fail(err, MLL_ERR_NO_MEMORY, "no memory");
    while (status == MLL_OK && (quant = strsep(&rest, ",")) != NULL) {
        bool found = false;
        for (size_t i = 0; i < sizeof known / sizeof *known; i++)
            found |= strcmp(quant, known[i]) == 0;
        if (!found)
            status = mll_fail(err, MLL_ERR_USAGE,
                              "--quant: '%s' is not none, nf4, nf4-dq or int8, or a list of them",
                              quant);
        const char *type = strcmp(quant, "none") == 0 ? NULL : quant;
        for (size_t i = 0; i < lists->n_threads && status == MLL_OK; i++)
            status = run_engine(report, args, lists, model, type, lists->threads[i], err);
    }
    free(quants);
    return status;
}

int bench_model(const struct args *args)
{
    struct mll_error err;
    struct lists lists = {0};
    struct tool_model model = {0};
    struct args all = *args;
    if (all.repetitions == 0)
        all.repetitions = 5;
    struct report report = {
        .name = "bench_model", .columns = columns, .n_columns = sizeof columns / sizeof *columns};
    enum mll_status status = read_lists(&lists, &all, &err);
    if (status == MLL_OK && !all.synthetic)
        status = model_resolve(&model, &all, &err);
    if (status == MLL_OK)
        status = run_lists(&report, &all, &lists, &model, &err);
    if (report.n_rows > 0)
        report_print(&report, all.json ? "json" : all.format ? all.format : "md");
    int code = status == MLL_OK ? 0 : tool_fail(&err);
    report_free(&report);
    model_free(&model);
    free_lists(&lists);
    return signals_exit_code() ? signals_exit_code() : code;
}
