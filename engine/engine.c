/* engine.c - opening an engine: config -> weight table -> mapped files -> exec, arena, KV pools. */
#include "engine.h"
#include "sample.h"
#include "sampler.h"
#include "check.h"
#include "defects.h"
#include "quantise.h"
#include "synthetic.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

float eng_rope_frequency(const struct cfg_text *t, int i)
{
    float exponent = (float)(2 * i) / (float)t->head_dim;
    float freq = 1.0f / (float)pow(t->rope_theta, exponent);
    if (!t->rope_scaled)
        return freq;
    float original = (float)t->rope_original_max_position;
    float wavelength = (float)(2.0 * M_PI) / freq;
    float low = (float)t->rope_low_freq, high = (float)t->rope_high_freq;
    if (wavelength > original / low)
        return freq / (float)t->rope_factor;
    if (wavelength < original / high)
        return freq;
    float smooth = (original / wavelength - low) / (high - low);
    return (1.0f - smooth) * (freq / (float)t->rope_factor) + smooth * freq;
}

static enum mll_status open_frequencies(struct mll_engine *e, struct mll_error *err)
{
    int n = e->cfg.text.head_dim / 2;
    float *host = malloc((size_t)n * sizeof *host);
    if (host == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %d frequencies", n);
    for (int i = 0; i < n; i++)
        host[i] = eng_rope_frequency(&e->cfg.text, i);
    e->inv_freq = exec_alloc(e->exec, (size_t)n * sizeof *host);
    exec_upload(e->exec, e->inv_freq, host, (size_t)n * sizeof *host);
    free(host);
    return MLL_OK;
}

static struct kv_table open_table(struct mll_engine *e, int blocks)
{
    size_t n = (size_t)e->plan.max_sessions;
    return (struct kv_table){.blocks = exec_alloc(e->exec, arena_floats(n, (size_t)blocks)),
                             .n_seqs = e->plan.max_sessions,
                             .max_blocks = blocks};
}

size_t plan_block_bytes(const struct cfg *cfg, const struct mll_exec *ex)
{
    return (size_t)cfg->text.kv_heads * kv_block_bytes(exec_kv_dtype(ex), cfg->text.head_dim);
}

/* Pools, tables and logits at the bottom of the arena. */
static enum mll_status open_kv(struct mll_engine *e, struct mll_error *err)
{
    const struct cfg_text *t = &e->cfg.text;
    const struct memory_plan *p = &e->plan;
    size_t block = plan_block_bytes(&e->cfg, e->exec);
    e->pools = calloc((size_t)t->layers, sizeof *e->pools);
    if (e->pools == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %d KV pools", t->layers);
    MLL_TRY(blocks_open(&e->text_stack, p->max_sessions * p->text_blocks, err));
    MLL_TRY(blocks_open(&e->image_stack, p->max_sessions * p->image_blocks_used, err));
    for (int i = 0; i < t->layers; i++) {
        int n = t->is_cross[i] ? e->image_stack.n_free : e->text_stack.n_free;
        e->pools[i] = (struct kv_pool){.dtype = exec_kv_dtype(e->exec),
                                       .n_blocks = n,
                                       .n_kv_heads = t->kv_heads,
                                       .head_dim = t->head_dim};
        e->pools[i].k = exec_alloc(e->exec, (size_t)n * block);
        e->pools[i].v = exec_alloc(e->exec, (size_t)n * block);
    }
    e->text_table = open_table(e, p->text_blocks);
    e->image_table = open_table(e, p->image_blocks);
    e->logits = exec_alloc(e->exec, arena_floats((size_t)p->max_sessions, (size_t)t->vocab_size));
    if (exec_memory(e->exec) > 0)
        blocks_zero(e);
    return MLL_OK;
}

/* What a step needs on the host. */
static enum mll_status open_step(struct mll_engine *e, struct mll_error *err)
{
    size_t chunk = (size_t)e->plan.prefill_chunk, sessions = (size_t)e->plan.max_sessions;
    e->staging =
        exec_alloc_host(e->exec, ((size_t)STEP_ARRAYS * chunk + sessions) * sizeof *e->staging);
    e->found = exec_alloc_host(e->exec, sessions * sizeof *e->found);
    e->sampling_host = exec_alloc_host(
        e->exec, sessions * smp_host_bytes(e->cfg.text.vocab_size, e->plan.ctx_size));
    e->table_rows =
        exec_alloc_host(e->exec, sessions * sizeof *e->table_rows *
                                     (size_t)(e->plan.text_blocks + e->plan.image_blocks));
    e->slot_used = calloc(sessions, sizeof *e->slot_used);
    e->shares = calloc(sessions, sizeof *e->shares);
    e->cancelled = calloc(sessions, sizeof *e->cancelled);
    e->logits_of = calloc(sessions, sizeof *e->logits_of);
    if (!e->staging || !e->found || !e->sampling_host || !e->table_rows || !e->slot_used ||
        !e->shares || !e->cancelled || !e->logits_of)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for the engine");
    return MLL_OK;
}

static void log_line(const struct mll_engine *e, const char *fmt, ...) MLL_PRINTF(2, 3);

static void log_line(const struct mll_engine *e, const char *fmt, ...)
{
    char line[512];
    if (e->options.log == NULL)
        return;
    va_list args;
    va_start(args, fmt);
    vsnprintf(line, sizeof line, fmt, args);
    va_end(args);
    e->options.log(e->options.log_user, line);
}

static enum mll_status open_weights(struct mll_engine *e, struct mll_error *err)
{
    struct timespec start, end;
    struct weights_move move = {e->quant, e->options.threads, e->plan.n_streamed};
    uint64_t underflows;
    size_t bytes;
    clock_gettime(CLOCK_MONOTONIC, &start);
    MLL_TRY(weights_to_device(e->weights, &e->cfg, e->exec, &move, &bytes, &underflows, err));
    clock_gettime(CLOCK_MONOTONIC, &end);
    double s = (double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec);
    log_line(e, "%.2f GB of weights copied in %.2f s (%.2f GB/s); %llu underflows in fp16",
             (double)bytes * 1e-9, s, (double)bytes * 1e-9 / s, (unsigned long long)underflows);
    if (move.n_streamed > 0)
        log_line(e,
                 "%d of %d decoder layers, %.2f GB, stay in host memory and are copied to the "
                 "GPU once a step, without graphs",
                 move.n_streamed, e->cfg.text.layers, (double)e->plan.streamed * 1e-9);
    return MLL_OK;
}

/* Plain weights of the CPU stay mapped, or are quantised in memory. */
static enum mll_status open_on_cpu(struct mll_engine *e, struct mll_error *err)
{
    MLL_TRY(quantise_weights(e->weights, &e->cfg, e->quant, e->options.threads, err));
    if (e->options.reference != MLL_REFERENCE_META)
        weights_round_q4(e->weights);
    return exec_reserve(e->exec, e->plan.arena, err);
}

/* The device: its exec, an arena of the size that the stages and its ops say they need, weights. */
static enum mll_status open_exec(struct mll_engine *e, struct mll_error *err)
{
    MLL_TRY(plan_open_exec(&e->exec, &e->options, &e->why_cpu, err));
    MLL_TRY(plan_memory(&e->plan, &e->cfg, &e->options, e->exec, err));
    if (exec_memory(e->exec) == 0)
        return open_on_cpu(e, err);
    size_t least;
    uint64_t budget = plan_budget(&e->options, e->exec);
    if (!plan_streaming(&e->plan, &least, e->weights, &e->cfg, e->quant, budget))
        return mll_fail(
            err, MLL_ERR_NO_MEMORY,
            "out of memory on the GPU: %zu bytes (%.2f GiB) are needed with all decoder "
            "layers in host memory, %llu are free or allowed",
            least, (double)least / 0x1p30, (unsigned long long)budget);
    MLL_TRY(exec_reserve(e->exec, e->plan.arena, err));
    return open_weights(e, err);
}

/* Made-up weights in the form that the options name, or the files' as they are. */
static enum mll_status load_weights(struct mll_engine *e, struct mll_error *err)
{
    const struct mll_options *o = &e->options;
    MLL_TRY(quantise_type_of(&e->quant, o->quant, err));
    bool gpu = (o->device == NULL || strcmp(o->device, "cpu") != 0) && exec_cuda_devices() > 0;
    if (o->synthetic != NULL)
        return synthetic_weights(&e->weights, &e->cfg, o->quant, gpu, err);
    return weights_load(&e->weights, &e->cfg, e->path, o->no_mmap, err);
}

/* Device auto: a model that the GPU cannot take runs on the CPU. */
static enum mll_status open_device(struct mll_engine *e, struct mll_error *err)
{
    const char *device = e->options.device ? e->options.device : "auto";
    struct mll_error gpu = {.code = MLL_OK};
    enum mll_status status = open_exec(e, &gpu);
    bool on_cpu = e->exec == NULL || exec_memory(e->exec) == 0;
    if (status != MLL_OK && (on_cpu || strcmp(device, "auto") != 0)) {
        if (err != NULL)
            *err = gpu;
        return status;
    }
    if (status != MLL_OK) {
        exec_close(e->exec);
        e->exec = NULL;
        weights_free(e->weights);
        e->weights = NULL;
        e->options.device = "cpu";
        MLL_TRY(load_weights(e, err));
        MLL_TRY(open_exec(e, err));
        e->why_cpu = gpu;
    }
    if (e->why_cpu.code != MLL_OK)
        log_line(e, "device auto: %s; running on the CPU", e->why_cpu.message);
    MLL_TRY(open_step(e, err));
    MLL_TRY(open_frequencies(e, err));
    e->sampling = exec_alloc(e->exec, (size_t)e->plan.max_sessions * e->plan.sampling);
    return open_kv(e, err);
}

/* Tokenizer and chat template. image_token: the configuration's, -1 where it was not read. */
static enum mll_status open_text(struct mll_engine *e, int image_token, struct mll_error *err)
{
    struct prompt_log log = {e->options.log, e->options.log_user};
    MLL_TRY(bpe_open(&e->bpe, e->path, err));
    return prompt_open(&e->prompt, e->path, e->bpe, image_token, log, err);
}

/* Ids of the tokenizer beyond the embedding would fault later; refused here. */
static enum mll_status check_text(const struct mll_engine *e, struct mll_error *err)
{
    struct defects d = {0};
    if (e->bpe != NULL)
        check_tokenizer(&e->cfg, e->bpe, &d);
    return defects_result(&d, err);
}

/* A model without files: no tokenizer either. */
static enum mll_status open_synthetic(struct mll_engine *e, struct mll_error *err)
{
    MLL_TRY(synthetic_config(&e->cfg, e->options.synthetic, err));
    MLL_TRY(load_weights(e, err));
    return open_device(e, err);
}

static enum mll_status open_model(struct mll_engine *e, struct mll_error *err)
{
    MLL_TRY(cfg_load(&e->cfg, e->path, err));
    MLL_TRY(load_weights(e, err));
    /* A directory without a tokenizer still serves requests made of ids. */
    enum mll_status status = open_text(e, e->cfg.image_token, err);
    if (status != MLL_OK && status != MLL_ERR_NOT_FOUND)
        return status;
    MLL_TRY(check_text(e, err));
    return open_device(e, err);
}

enum mll_status mll_open(struct mll_engine **engine, const struct mll_options *options,
                         struct mll_error *err)
{
    *engine = NULL;
    if (options->model == NULL && options->synthetic == NULL)
        return mll_fail(err, MLL_ERR_USAGE, "no model given");
    struct mll_engine *e = calloc(1, sizeof *e);
    if (e == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for an engine");
    e->options = *options;
    enum mll_status status =
        eng_resolve(&e->path, options->synthetic ? options->synthetic : options->model, err);
    if (status == MLL_OK)
        status = options->synthetic ? open_synthetic(e, err) : open_model(e, err);
    if (status != MLL_OK) {
        mll_close(e);
        return status;
    }
    *engine = e;
    return MLL_OK;
}

void mll_close(struct mll_engine *engine)
{
    if (engine == NULL)
        return;
    exec_close(engine->exec);
    blocks_close(&engine->text_stack);
    blocks_close(&engine->image_stack);
    prompt_close(engine->prompt);
    bpe_close(engine->bpe);
    weights_free(engine->weights);
    bpe_ids_free(&engine->ids);
    free(engine->pools);
    free(engine->slot_used);
    free(engine->shares);
    free(engine->cancelled);
    free(engine->logits_of);
    free(engine->text);
    free(engine->path);
    free(engine);
}

enum mll_status eng_check_fault(struct mll_engine *engine, const char *stage, struct mll_error *err)
{
    struct mll_fault fault = exec_take_fault(engine->exec);
    MLL_TRY(exec_take_error(engine->exec, err));
    if (fault.op == OP_NONE)
        return MLL_OK;
    char where[64];
    if (fault.stage != NULL && fault.layer >= 0)
        snprintf(where, sizeof where, "%.40s, layer %d", fault.stage, fault.layer);
    else
        snprintf(where, sizeof where, "%.40s", fault.stage ? fault.stage : stage);
    return mll_fail(err, MLL_ERR_BOUNDS, "%s: op %s, element %lld: index %lld, bound %lld", where,
                    op_name(fault.op), (long long)fault.position, (long long)fault.index,
                    (long long)fault.bound);
}

static size_t weight_bytes(const struct mll_engine *engine, size_t *parameters)
{
    struct weights_entry entry = {0};
    size_t bytes = 0;
    while (weights_next(&entry, &engine->cfg)) {
        const struct mat *m = weights_field(engine->weights, &entry);
        bytes += weights_mat_bytes(m);
        *parameters += (size_t)m->rows * (size_t)m->cols;
    }
    return bytes;
}

void mll_engine_info(const struct mll_engine *engine, struct mll_info *info)
{
    const struct cfg *cfg = &engine->cfg;
    size_t parameters = 0;
    *info = (struct mll_info){
        .path = engine->path,
        .device = exec_describe(engine->exec),
        .why_cpu = engine->why_cpu.code != MLL_OK ? engine->why_cpu.message : NULL,
        .vocab_size = cfg->text.vocab_size,
        .embedding_rows = engine->weights->embed_tokens.rows,
        .hidden_size = cfg->text.hidden_size,
        .layers = cfg->text.layers,
        .ctx_size = engine->plan.ctx_size,
        .max_tiles = cfg->vision.max_tiles,
        .tile_size = cfg->vision.image_size,
        .image_token = cfg->image_token,
        .rows_per_tile = cfg->vision.patches + 1,
        .vision_output_dim = cfg->vision.output_dim,
        .has_chat_template = engine->prompt != NULL && prompt_has_template(engine->prompt),
        .n_eos = cfg->generation.n_eos,
        .weight_bytes = weight_bytes(engine, &parameters),
        .kv_bytes = engine->plan.text_kv + engine->plan.image_kv,
        .scratch_bytes = engine->plan.arena - engine->plan.text_kv - engine->plan.image_kv,
        .streamed_bytes = engine->plan.streamed,
        .n_streamed = (uint64_t)engine->plan.n_streamed,
    };
    info->parameters = parameters;
    for (int i = 0; i < cfg->generation.n_eos; i++)
        info->eos[i] = cfg->generation.eos[i];
}

const char *mll_version(void)
{
    return MLL_VERSION;
}

enum mll_status eng_resolve(char **path, const char *model, struct mll_error *err)
{
    *path = strdup(model);
    return *path ? MLL_OK : mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a path");
}

enum mll_status eng_open_text(struct mll_engine **engine, const struct mll_options *options,
                              struct mll_error *err)
{
    struct mll_engine *e = calloc(1, sizeof *e);
    *engine = NULL;
    if (e == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for an engine");
    e->options = *options;
    enum mll_status status = eng_resolve(&e->path, options->model, err);
    if (status == MLL_OK)
        status = open_text(e, -1, err);
    if (status != MLL_OK) {
        mll_close(e);
        return status;
    }
    *engine = e;
    return MLL_OK;
}
