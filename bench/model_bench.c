/* model_bench.c - prefill and decode speed of a model directory (no tokenizer needed).
 *
 *     model_bench DIR [-t THREADS] [-p PROMPT] [-n TOKENS] [-r REPEATS] [--bf16]
 *
 * Prints one JSON list of rows {test, tokens_per_s (median), p10, p90, bytes_per_token, read_gb_s,
 * bandwidth_share}: "ppP" evaluates P tokens, "tgN" N tokens one after the other. Each repeat
 * measures the memory read beside the decode, with the same threads; bytes_per_token are the
 * weights that a decoded token reads; bandwidth_share = bytes_per_token * tokens_per_s / read_gb_s
 * is the median of the repeats' shares. */
#include "bench.h"
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_REPEATS = 100, MAX_TOKENS = 4096 };

struct run {
    const char *dir;
    int threads, prompt, tokens, repeats;
    bool bf16;
    struct mll_engine *engine;
    struct mll_session *session;
    void *read_memory;
    double prefill[MAX_REPEATS], decode[MAX_REPEATS], read[MAX_REPEATS], share[MAX_REPEATS];
};

/* Weights that a text token reads: the self layers, the head and one row of the embedding. */
static size_t bytes_per_token(const struct mll_engine *e)
{
    const struct weights *w = e->weights;
    size_t bytes = weights_mat_bytes(&w->norm) + weights_mat_bytes(&w->lm_head) +
                   weights_mat_bytes(&w->embed_tokens) / (size_t)w->embed_tokens.rows;
    for (int i = 0; i < e->cfg.text.layers; i++) {
        const struct text_layer *l = &w->layers[i];
        const struct mat *mats[] = {&l->input_norm, &l->q,    &l->k,  &l->v,   &l->o,
                                    &l->post_norm,  &l->gate, &l->up, &l->down};
        for (size_t m = 0; !e->cfg.text.is_cross[i] && m < sizeof mats / sizeof mats[0]; m++)
            bytes += weights_mat_bytes(mats[m]);
    }
    return bytes;
}

static enum mll_status feed_and_step(struct run *r, const int32_t *ids, size_t n,
                                     struct mll_error *err)
{
    size_t pending = 1;
    MLL_TRY(mll_session_feed(r->session, ids, n, err));
    while (pending > 0)
        MLL_TRY(mll_step(r->engine, &r->session, 1, &pending, err));
    return MLL_OK;
}

static enum mll_status repeat(struct run *r, int i, double bytes, struct mll_error *err)
{
    int32_t ids[MAX_TOKENS];
    struct mll_info info;
    mll_engine_info(r->engine, &info);
    for (int k = 0; k < r->prompt || k < r->tokens; k++)
        ids[k] = (int32_t)((uint32_t)k * 7919u % (uint32_t)info.vocab_size);
    mll_session_clear(r->session);
    double start = bench_seconds();
    MLL_TRY(feed_and_step(r, ids, (size_t)r->prompt, err));
    double middle = bench_seconds();
    for (int k = 0; k < r->tokens; k++)
        MLL_TRY(feed_and_step(r, &ids[k], 1, err));
    double end = bench_seconds();
    r->read[i] = bench_read_gb_s(exec_threads(r->engine->exec), r->read_memory, BENCH_READ_BYTES,
                                 bench_seconds);
    r->prefill[i] = r->prompt / (middle - start);
    r->decode[i] = r->tokens / (end - middle);
    r->share[i] = bytes * r->decode[i] * 1e-9 / r->read[i];
    return MLL_OK;
}

static void print_rows(struct run *r, size_t bytes)
{
    size_t n = (size_t)r->repeats;
    struct bench_stats pp = bench_stats(r->prefill, n), tg = bench_stats(r->decode, n);
    struct bench_stats read = bench_stats(r->read, n), share = bench_stats(r->share, n);
    printf("[{\"test\": \"pp%d\", \"tokens_per_s\": %.6g, \"p10\": %.6g, \"p90\": %.6g},\n",
           r->prompt, pp.median, pp.p10, pp.p90);
    printf(" {\"test\": \"tg%d\", \"tokens_per_s\": %.6g, \"p10\": %.6g, \"p90\": %.6g, "
           "\"bytes_per_token\": %zu, \"read_gb_s\": %.6g, \"bandwidth_share\": %.4g}]\n",
           r->tokens, tg.median, tg.p10, tg.p90, bytes, read.median, share.median);
}

static enum mll_status measure(struct run *r, struct mll_error *err)
{
    struct mll_options options = {.model = r->dir,
                                  .threads = r->threads,
                                  .ctx_size = r->prompt + r->tokens,
                                  .prefill_chunk = r->prompt,
                                  .compute_bf16 = r->bf16};
    MLL_TRY(mll_open(&r->engine, &options, err));
    MLL_TRY(mll_session_open(&r->session, r->engine, err));
    r->read_memory = bench_weights(BENCH_READ_BYTES, 1);
    if (r->read_memory == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory to read");
    size_t bytes = bytes_per_token(r->engine);
    MLL_TRY(repeat(r, 0, (double)bytes, err)); /* maps the weights; measured again below */
    for (int i = 0; i < r->repeats; i++)
        MLL_TRY(repeat(r, i, (double)bytes, err));
    print_rows(r, bytes);
    return MLL_OK;
}

static bool parse(struct run *r, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        int *value = NULL;
        if (strcmp(argv[i], "-t") == 0)
            value = &r->threads;
        else if (strcmp(argv[i], "-p") == 0)
            value = &r->prompt;
        else if (strcmp(argv[i], "-n") == 0)
            value = &r->tokens;
        else if (strcmp(argv[i], "-r") == 0)
            value = &r->repeats;
        if (value != NULL && i + 1 < argc)
            *value = atoi(argv[++i]);
        else if (strcmp(argv[i], "--bf16") == 0)
            r->bf16 = true;
        else if (value == NULL && argv[i][0] != '-' && r->dir == NULL)
            r->dir = argv[i];
        else
            return false;
    }
    return r->dir != NULL && r->prompt >= 1 && r->prompt <= MAX_TOKENS && r->tokens >= 1 &&
           r->tokens <= MAX_TOKENS && r->repeats >= 1 && r->repeats <= MAX_REPEATS;
}

int main(int argc, char **argv)
{
    static struct run run = {.prompt = 64, .tokens = 32, .repeats = 3};
    struct mll_error err;
    if (!parse(&run, argc, argv)) {
        fputs("usage: model_bench DIR [-t THREADS] [-p PROMPT] [-n TOKENS] [-r REPEATS] [--bf16]\n",
              stderr);
        return 64;
    }
    enum mll_status status = measure(&run, &err);
    if (status != MLL_OK)
        fprintf(stderr, "%s\n", err.message);
    mll_session_close(run.session);
    mll_close(run.engine);
    free(run.read_memory);
    return mll_status_exit_code(status);
}
