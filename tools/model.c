/* model.c - which model, with which options: --model, LLAMA_MODEL_PATH, the Hugging Face cache, the
 * embedded default. */
#include "hub.h"
#include "ops.h"
#include "tool.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_file(const char *dir, const char *name)
{
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path &&
           access(path, R_OK) == 0;
}

/* Beside an installed binary (PREFIX/bin, PREFIX/share/mllama) or in the source tree above the
 * build folder. */
static enum mll_status find_embedded(char out[PATH_MAX], struct mll_error *err)
{
    static const char *const places[] = {"../share/mllama/receipts-tiny", "../models/receipts-tiny",
                                         "../../models/receipts-tiny"};
    char exe[PATH_MAX], path[PATH_MAX + 64];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    exe[n > 0 ? n : 0] = 0;
    char *slash = strrchr(exe, '/');
    if (slash)
        *slash = 0;
    for (size_t i = 0; slash && i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s/%s", exe, places[i]);
        if (is_file(path, "config.json") && realpath(path, out))
            return MLL_OK;
    }
    return mll_fail(err, MLL_ERR_NOT_FOUND,
                    "the embedded model receipts-tiny is not beside the program; name a model with "
                    "-m DIR or LLAMA_MODEL_PATH");
}

/* The process's variables come before the .env's, whichever of the two names they use. */
static const char *wanted_model(const struct args *args)
{
    bool from_file = false;
    const char *shared = env_get(args->env, "LLAMA_MODEL_PATH", &from_file);
    if (!args->model)
        return shared;
    bool own_from_file = false;
    const char *own = env_get(args->env, "MLLAMA_MODEL", &own_from_file);
    bool by_flag = own != args->model;
    return !by_flag && own_from_file && shared && !from_file ? shared : args->model;
}

/* A directory stays as it is; ORG/NAME[@revision] that is none is looked up in the cache. */
static enum mll_status resolve_name(char out[PATH_MAX], const char *name, const struct args *args,
                                    struct mll_error *err)
{
    struct stat st;
    char hub[PATH_MAX];
    if (stat(name, &st) != 0 && hub_is_name(name)) {
        MLL_TRY(hub_directory(hub, sizeof hub, env_get(args->env, "HF_HUB_CACHE", NULL),
                              env_get(args->env, "HF_HOME", NULL),
                              env_get(args->env, "XDG_CACHE_HOME", NULL),
                              env_get(args->env, "HOME", NULL), err));
        return hub_resolve(out, PATH_MAX, name, hub, err);
    }
    if (snprintf(out, PATH_MAX, "%s", name) >= PATH_MAX)
        return mll_fail(err, MLL_ERR_NOT_FOUND, "a model path of %zu bytes", strlen(name));
    return MLL_OK;
}

enum mll_status model_resolve(struct tool_model *model, const struct args *args,
                              struct mll_error *err)
{
    *model = (struct tool_model){0};
    char embedded[PATH_MAX] = "";
    struct mll_error ignored;
    enum mll_status found = find_embedded(embedded, &ignored);
    const char *name = wanted_model(args);
    if (!name && found != MLL_OK)
        return find_embedded(embedded, err);
    char path[PATH_MAX];
    if (name)
        MLL_TRY(resolve_name(path, name, args, err));
    model->path = strdup(name ? path : embedded);
    if (!model->path)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "model path");
    char real[PATH_MAX];
    model->embedded = realpath(model->path, real) && strcmp(real, embedded) == 0;
    return MLL_OK;
}

void model_free(struct tool_model *model)
{
    free(model->path);
    *model = (struct tool_model){0};
}

void model_options(struct mll_options *options, const struct args *args,
                   const struct tool_model *model)
{
    static const char *const references[] = {"meta", "hf4", "hf5"};
    *options = (struct mll_options){.model = model->path,
                                    .device = args->device,
                                    .threads = args->threads,
                                    .ctx_size = args->ctx_size,
                                    .prefill_chunk = args->prefill_chunk,
                                    .max_images = args->max_images,
                                    .compute = args->compute,
                                    .no_mmap = args->no_mmap,
                                    .fast = args->fast,
                                    .no_early = args->no_early,
                                    .debug_sync = args->debug_sync ||
                                                  env_export(args->env, "CUDA_LAUNCH_BLOCKING"),
                                    .debug_bounds = args->debug_bounds,
                                    .isa = args->isa,
                                    .kv_type = args->kv_type,
                                    .quant = args->quant};
    for (size_t i = 0; args->reference && i < 3; i++)
        if (strcmp(args->reference, references[i]) == 0)
            options->reference = (enum mll_reference)i;
}

static void log_line(void *user, const char *line)
{
    (void)user;
    tool_note("%s", line);
}

/* Takes the weights as stored where they fit, else the best quantisation that does; one that was
 * asked for stays. On a GPU, where none fits: the smallest, with layers left in host memory. */
static enum mll_status fit_memory(struct mll_options *options, uint64_t most, struct mll_error *err)
{
    static const char *const quants[] = {NULL, "int8", "nf4", "nf4-dq"};
    const char *asked = options->quant;
    size_t n = asked ? 1 : sizeof quants / sizeof *quants;
    struct mll_memory plain = {0}, need = {0};
    options->max_memory = most;
    for (size_t i = 0; i < n; i++) {
        options->quant = asked ? asked : quants[i];
        MLL_TRY(mll_plan(options, &need, err));
        if (i == 0)
            plain = need;
        if (need.total <= most && (need.n_streamed == 0 || i + 1 == n)) {
            if (need.weights + need.streamed != plain.weights + plain.streamed)
                tool_note("--max-memory: quantised to %s while loading", options->quant);
            return MLL_OK;
        }
    }
    return mll_fail(err, MLL_ERR_BAD_OPTION,
                    "the model%s%s needs %llu bytes, --max-memory allows %llu: %llu are missing",
                    options->quant ? " in " : "", options->quant ? options->quant : "",
                    (unsigned long long)need.total, (unsigned long long)most,
                    (unsigned long long)(need.total - most));
}

enum mll_status model_open(struct opened *opened, const struct args *args, struct mll_error *err)
{
    *opened = (struct opened){0};
    MLL_TRY(model_resolve(&opened->model, args, err));
    struct mll_options options;
    model_options(&options, args, &opened->model);
    if (args->verbose)
        options.log = log_line;
    if (args->max_memory)
        MLL_TRY(fit_memory(&options, args->max_memory, err));
    MLL_TRY(mll_open(&opened->engine, &options, err));
    struct mll_info info;
    mll_engine_info(opened->engine, &info);
    /* the log has it; who has no GPU and asked for nothing need not be told each time */
    if (info.why_cpu && !args->verbose && (args->device || exec_cuda_devices() != 0))
        tool_note("running on the CPU, not on the GPU: %s", info.why_cpu);
    if (info.n_streamed > 0 && !args->verbose)
        tool_note("%llu of %d decoder layers do not fit on the GPU: they stay in host memory and "
                  "are copied for every token, which is slow (mllama plan says how slow)",
                  (unsigned long long)info.n_streamed, info.layers);
    if (args->verbose) {
        tool_note("%s on %s, context %d, %.1f MB of weights", info.path, info.device, info.ctx_size,
                  (double)info.weight_bytes * 1e-6);
    }
    return mll_session_open(&opened->session, opened->engine, err);
}

void model_close(struct opened *opened)
{
    signals_watch(NULL);
    mll_session_close(opened->session);
    mll_close(opened->engine);
    model_free(&opened->model);
    *opened = (struct opened){0};
}
