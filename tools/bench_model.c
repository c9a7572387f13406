/* bench_model.c - mllama bench model: load, vision, prefill, decode of one model.
 *
 * Each repetition clears the session, encodes the image, evaluates the prompt and decodes, then
 * reads 2 GB of memory with the same threads: bandwidth_share is the median of the repetitions'
 * bytes_per_token * tokens_per_s / read_gb_s. One repetition before them is not counted.
 * Tests: ppP (P tokens at once), tgN (N tokens one by one), ppP+tgN (both, one rate), visionT (an
 * image of T tiles; its rate counts vision rows), and with --batch B tgN@B (B sessions in one
 * step, all their tokens counted). */
#include "bench.h"
#include "bench_tool.h"
#include "engine.h"
#include "tool.h"
#include "report.h"
#include "version.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { MOST_TOKENS = 131072, MOST_REPEATS = 1000, MOST_BATCH = 64 };

static const char *const columns[] = {
    "test",         "tokens_per_s",    "p10",        "p90",
    "seconds",      "bytes_per_token", "read_gb_s",  "bandwidth_share",
    "ttft_seconds", "load_seconds",    "peak_bytes", "weight_bytes",
    "parameters",   "repetitions",     "model",      "quant",
    "device",       "threads",         "version"};

struct run {
    const struct args *args;
    struct mll_engine *engine;
    struct mll_session *sessions[MOST_BATCH];
    struct mll_info info;
    struct mll_image image; /* of as many tiles as asked for; rgb NULL: none */
    void *read_memory;      /* NULL: the device is no CPU */
    double load_seconds;
    struct report report;
    char (*names)[32]; /* of the rows' tests */
    int32_t *ids;      /* room for the longest prompt */
    double *rate, *seconds, *read, *share;
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

/* Token k of session s: any ids will do, and not the same ones. */
static int32_t token(const struct run *r, size_t s, int k)
{
    return (int32_t)(((uint32_t)k * 7919u + (uint32_t)s * 104729u) % (uint32_t)r->info.vocab_size);
}

static enum mll_status prefill(struct run *r, size_t s, int n, struct mll_error *err)
{
    size_t pending = 1;
    for (int k = 0; k < n; k++)
        r->ids[k] = k == 0 && r->image.rgb ? r->info.image_token : token(r, s, k);
    MLL_TRY(mll_session_feed(r->sessions[s], r->ids, (size_t)n, err));
    while (pending > 0)
        MLL_TRY(mll_step(r->engine, &r->sessions[s], 1, &pending, err));
    return MLL_OK;
}

static enum mll_status decode(struct run *r, size_t batch, int n, struct mll_error *err)
{
    for (int k = 0; k < n; k++) {
        for (size_t s = 0; s < batch; s++) {
            int32_t id = token(r, s, k + 1);
            MLL_TRY(mll_session_feed(r->sessions[s], &id, 1, err));
        }
        MLL_TRY(mll_step(r->engine, r->sessions, batch, NULL, err));
        if (signals_exit_code())
            return mll_fail(err, MLL_ERR_CANCELLED, "interrupted");
    }
    return MLL_OK;
}

/* What one test measures: a prompt, tokens behind it in so many sessions, or the image alone. */
struct test {
    int prompt, tokens, batch;
    bool vision;
};

static enum mll_status repeat(struct run *r, const struct test *t, double *seconds,
                              struct mll_error *err)
{
    size_t batch = t->batch > 0 ? (size_t)t->batch : 1;
    *seconds = 0;
    for (size_t s = 0; s < batch; s++) {
        mll_session_clear(r->sessions[s]);
        double start = bench_seconds();
        if (r->image.rgb)
            MLL_TRY(mll_session_add_image(r->sessions[s], &r->image, err));
        double encoded = bench_seconds();
        int prompt = t->prompt > 0 ? t->prompt : 1; /* decoding needs something before it */
        if (!t->vision)
            MLL_TRY(prefill(r, s, prompt, err));
        double filled = bench_seconds();
        *seconds += t->vision ? encoded - start : t->prompt > 0 ? filled - encoded : 0;
    }
    double start = bench_seconds();
    MLL_TRY(decode(r, batch, t->tokens, err));
    *seconds += bench_seconds() - start;
    return MLL_OK;
}

/* ---- rows ------------------------------------------------------------------------------------ */

static void name_test(char name[32], const struct run *r, const struct test *t)
{
    if (t->vision)
        snprintf(name, 32, "vision%d", r->args->image_tiles);
    else if (t->prompt > 0 && t->tokens > 0)
        snprintf(name, 32, "pp%d+tg%d", t->prompt, t->tokens);
    else if (t->prompt > 0)
        snprintf(name, 32, "pp%d", t->prompt);
    else if (t->batch > 0)
        snprintf(name, 32, "tg%d@%d", t->tokens, t->batch);
    else
        snprintf(name, 32, "tg%d", t->tokens);
}

/* Tokens (or vision rows) that a repetition counts. */
static double work_of(const struct run *r, const struct test *t)
{
    if (t->vision)
        return (double)r->args->image_tiles * r->info.rows_per_tile;
    return t->prompt + (double)t->tokens * (t->batch > 0 ? t->batch : 1);
}

/* Of this process, the memory for the read left out. */
static double peak_bytes(const struct run *r)
{
    struct rusage usage;
    double read = r->read_memory ? (double)BENCH_READ_BYTES : 0;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (double)usage.ru_maxrss * 1024 - read : NAN;
}

static enum mll_status add_row(struct run *r, const struct test *t, struct mll_error *err)
{
    size_t n = (size_t)r->args->repetitions;
    struct bench_stats rate = bench_stats(r->rate, n), seconds = bench_stats(r->seconds, n);
    struct report *p = &r->report;
    char *name = r->names[p->n_rows];
    name_test(name, r, t);
    MLL_TRY(report_row(p, err));
    report_text(p, "test", name);
    report_number(p, "tokens_per_s", rate.median);
    report_number(p, "p10", rate.p10);
    report_number(p, "p90", rate.p90);
    report_number(p, "seconds", seconds.median);
    bool decodes = t->prompt == 0 && t->tokens > 0;
    if (decodes) {
        double bytes = (double)bytes_per_token(r->engine, r->image.rgb != NULL);
        report_number(p, "bytes_per_token", bytes / (t->batch > 0 ? t->batch : 1));
    }
    if (decodes && r->read_memory != NULL) {
        report_number(p, "read_gb_s", bench_stats(r->read, n).median);
        report_number(p, "bandwidth_share", bench_stats(r->share, n).median);
    }
    if (t->prompt > 0 && t->tokens == 0)
        report_number(p, "ttft_seconds", seconds.median);
    report_number(p, "load_seconds", r->load_seconds);
    report_number(p, "peak_bytes", peak_bytes(r));
    report_number(p, "weight_bytes", (double)r->info.weight_bytes);
    report_number(p, "parameters", (double)r->info.parameters);
    report_number(p, "repetitions", (double)n);
    report_text(p, "model", r->info.path);
    report_text(p, "quant", r->args->quant ? r->args->quant : "as stored");
    report_text(p, "device", r->info.device);
    report_number(p, "threads", exec_threads(r->engine->exec));
    report_text(p, "version", MLL_VERSION);
    return MLL_OK;
}

static enum mll_status run_test(struct run *r, const struct test *t, struct mll_error *err)
{
    double seconds, bytes = (double)bytes_per_token(r->engine, r->image.rgb != NULL);
    struct progress progress;
    progress_start(&progress, "repetitions");
    MLL_TRY(repeat(r, t, &seconds, err)); /* brings weights and buffers into memory */
    for (int i = 0; i < r->args->repetitions; i++) {
        char name[32];
        name_test(name, r, t);
        progress_show(&progress, (size_t)i, (size_t)r->args->repetitions, 0, name);
        MLL_TRY(repeat(r, t, &seconds, err));
        r->seconds[i] = seconds;
        r->rate[i] = work_of(r, t) / seconds;
        if (r->read_memory != NULL && t->prompt == 0 && t->tokens > 0) {
            r->read[i] = bench_read_gb_s(exec_threads(r->engine->exec), r->read_memory,
                                         BENCH_READ_BYTES, bench_seconds);
            r->share[i] = bytes * r->rate[i] / (t->batch > 0 ? t->batch : 1) * 1e-9 / r->read[i];
        }
    }
    progress_clear(&progress);
    return add_row(r, t, err);
}

/* ---- what to run ----------------------------------------------------------------------------- */

struct lists {
    int *prompts, *tokens, *batches, *pair;
    size_t n_prompts, n_tokens, n_batches, n_pair;
};

static enum mll_status read_lists(struct lists *l, const struct args *a, struct mll_error *err)
{
    MLL_TRY(bench_list(&l->prompts, &l->n_prompts, "n-prompt", a->n_prompt ? a->n_prompt : "512", 0,
                       MOST_TOKENS, err));
    MLL_TRY(bench_list(&l->tokens, &l->n_tokens, "n-gen", a->n_gen ? a->n_gen : "128", 0,
                       MOST_TOKENS, err));
    if (a->batch)
        MLL_TRY(bench_list(&l->batches, &l->n_batches, "batch", a->batch, 1, MOST_BATCH, err));
    if (!a->prompt_gen)
        return MLL_OK;
    MLL_TRY(bench_list(&l->pair, &l->n_pair, "pg", a->prompt_gen, 1, MOST_TOKENS, err));
    if (l->n_pair != 2)
        return mll_fail(err, MLL_ERR_USAGE, "--pg takes two numbers, prompt and tokens");
    return MLL_OK;
}

static int largest(const int *values, size_t n)
{
    int most = 0;
    for (size_t i = 0; i < n; i++)
        most = values[i] > most ? values[i] : most;
    return most;
}

static enum mll_status open_all(struct run *r, const struct lists *l, struct mll_error *err)
{
    struct tool_model model = {0};
    struct mll_options options;
    int longest = largest(l->tokens, l->n_tokens) + 1, prompt = largest(l->prompts, l->n_prompts);
    int batch = largest(l->batches, l->n_batches), pair = l->n_pair ? l->pair[0] + l->pair[1] : 0;
    longest = longest > prompt ? longest : prompt;
    longest = longest > pair ? longest : pair;
    if (!r->args->synthetic)
        MLL_TRY(model_resolve(&model, r->args, err));
    model_options(&options, r->args, &model);
    options.synthetic = r->args->synthetic;
    options.quant = r->args->quant;
    options.max_sessions = batch > 1 ? batch : 1;
    options.max_images = 1;
    if (options.ctx_size == 0)
        options.ctx_size = longest;
    if (options.prefill_chunk == 0 && prompt > 0)
        options.prefill_chunk = prompt < 512 ? prompt : 512;
    double start = bench_seconds();
    enum mll_status status = mll_open(&r->engine, &options, err);
    r->load_seconds = bench_seconds() - start;
    model_free(&model);
    MLL_TRY(status);
    mll_engine_info(r->engine, &r->info);
    for (int s = 0; s < options.max_sessions; s++)
        MLL_TRY(mll_session_open(&r->sessions[s], r->engine, err));
    return MLL_OK;
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
        rgb[i] = (uint8_t)(i * 2654435761u >> 24);
    r->image = (struct mll_image){.rgb = rgb, .w = w, .h = h};
    return MLL_OK;
}

static enum mll_status prepare(struct run *r, const struct lists *l, struct mll_error *err)
{
    size_t n = (size_t)r->args->repetitions;
    size_t tests = l->n_prompts + l->n_tokens * (1 + l->n_batches) + 2;
    MLL_TRY(open_all(r, l, err));
    MLL_TRY(make_image(r, err));
    r->rate = calloc(4 * n, sizeof *r->rate);
    r->names = calloc(tests, sizeof *r->names);
    r->ids = calloc(MOST_TOKENS, sizeof *r->ids);
    if (strncmp(r->info.device, "cpu", 3) == 0)
        r->read_memory = bench_weights(BENCH_READ_BYTES, 1);
    if (!r->rate || !r->names || !r->ids ||
        (strncmp(r->info.device, "cpu", 3) == 0 && !r->read_memory))
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for the benchmark");
    r->seconds = r->rate + n;
    r->read = r->seconds + n;
    r->share = r->read + n;
    return MLL_OK;
}

static enum mll_status run_all(struct run *r, const struct lists *l, struct mll_error *err)
{
    if (r->image.rgb)
        MLL_TRY(run_test(r, &(struct test){.vision = true}, err));
    for (size_t i = 0; i < l->n_prompts; i++)
        if (l->prompts[i] > 0)
            MLL_TRY(run_test(r, &(struct test){.prompt = l->prompts[i]}, err));
    for (size_t i = 0; i < l->n_tokens; i++) {
        if (l->tokens[i] == 0)
            continue;
        if (l->n_batches == 0)
            MLL_TRY(run_test(r, &(struct test){.tokens = l->tokens[i]}, err));
        for (size_t b = 0; b < l->n_batches; b++)
            MLL_TRY(
                run_test(r, &(struct test){.tokens = l->tokens[i], .batch = l->batches[b]}, err));
    }
    if (l->n_pair)
        MLL_TRY(run_test(r, &(struct test){.prompt = l->pair[0], .tokens = l->pair[1]}, err));
    return MLL_OK;
}

int bench_model(const struct args *args)
{
    struct mll_error err;
    struct lists lists = {0};
    struct args all = *args;
    if (all.repetitions == 0)
        all.repetitions = 5;
    struct run r = {.args = &all,
                    .report = {.name = "bench_model",
                               .columns = columns,
                               .n_columns = sizeof columns / sizeof *columns}};
    enum mll_status status = read_lists(&lists, &all, &err);
    if (status == MLL_OK)
        status = prepare(&r, &lists, &err);
    if (status == MLL_OK)
        status = run_all(&r, &lists, &err);
    if (r.report.n_rows > 0)
        report_print(&r.report, all.json ? "json" : all.format ? all.format : "md");
    int code = status == MLL_OK ? 0 : tool_fail(&err);
    for (int s = 0; s < MOST_BATCH; s++)
        mll_session_close(r.sessions[s]);
    mll_close(r.engine);
    report_free(&r.report);
    free((uint8_t *)(uintptr_t)r.image.rgb);
    free(r.read_memory);
    free(r.rate);
    free(r.names);
    free(r.ids);
    free(lists.prompts);
    free(lists.tokens);
    free(lists.batches);
    free(lists.pair);
    return signals_exit_code() ? signals_exit_code() : code;
}
