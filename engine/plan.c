/* plan.c - what a model needs in memory, known before it is opened.
 *
 * The arena holds, from the bottom: KV pools, tables and the samplers' memory (as long as the
 * engine lives), then what the running stage stacks: vision states, tower and cross K/V of one
 * image, or one step's batch. mll_plan adds the weights, which are mapped: a matrix becomes
 * resident when it is first used, a table that is read row by row (token and position embeddings)
 * only where it was read. */
#include "engine.h"
#include "quantise.h"
#include "synthetic.h"
#include "sampler.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum {
    DEFAULT_CTX = 8192,
    DEFAULT_CHUNK = 256,
    DEFAULT_CHUNK_GPU = 1024, /* a weight is read once a chunk */
    DEFAULT_IMAGES = 4,
    MAX_CHUNK = 8192,
};

/* Which of the names, a list that ends with NULL, name is; NULL is the first. */
static enum mll_status index_of(int *index, const char *name, const char *const *names,
                                const char *expected, struct mll_error *err)
{
    for (*index = 0; name != NULL && names[*index] != NULL; ++*index)
        if (strcmp(name, names[*index]) == 0)
            return MLL_OK;
    if (name == NULL)
        return MLL_OK;
    return mll_fail(err, MLL_ERR_BAD_OPTION, "%s, found %s", expected, name);
}

static enum mll_status open_cpu(struct mll_exec **ex, const struct mll_options *options,
                                struct mll_error *err)
{
    static const char *const isas[] = {"auto", "c", "avx2", "avx512", NULL};
    static const char *const computes[] = {"f32", "bf16", "int8", NULL};
    int isa, compute;
    MLL_TRY(index_of(&isa, options->isa, isas, "isa: expected auto, c, avx2 or avx512", err));
    MLL_TRY(
        index_of(&compute, options->compute, computes, "compute: expected f32, bf16 or int8", err));
    MLL_TRY(
        exec_open_cpu(ex, options->threads, (enum mll_isa)isa, (enum mll_compute)compute, 0, err));
    if (options->debug_bounds)
        exec_trap_bounds(*ex);
    return MLL_OK;
}

static enum mll_status open_any(struct mll_exec **ex, const struct mll_options *options,
                                struct mll_error *why_cpu, struct mll_error *err)
{
    const char *device = options->device ? options->device : "auto";
    bool is_auto = strcmp(device, "auto") == 0;
    int index = is_auto ? 0 : exec_cuda_index(device);
    struct exec_cuda_options cuda = {.device = index,
                                     .threads = options->threads,
                                     .debug_sync = options->debug_sync,
                                     .fast = options->fast,
                                     .no_early = options->no_early,
                                     .debug_bounds = options->debug_bounds};
    struct mll_error gpu = {.code = MLL_OK};
    *ex = NULL;
    if (options->threads < 0)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "threads: expected at least 1, found %d",
                        options->threads);
    if (index < 0 && strcmp(device, "cpu") != 0)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "device: expected auto, cpu or cuda[:i], found %s",
                        device);
    if (index < 0)
        return open_cpu(ex, options, err);
    if (!is_auto)
        return exec_open_cuda(ex, &cuda, 0, err);
    /* Asking for a form of the CPU's is asking for the CPU. */
    bool any_form = options->compute == NULL || strcmp(options->compute, "f32") == 0;
    if (options->isa == NULL && any_form && exec_open_cuda(ex, &cuda, 0, &gpu) == MLL_OK)
        return MLL_OK;
    if (why_cpu != NULL)
        *why_cpu = gpu;
    return open_cpu(ex, options, err);
}

enum mll_status plan_open_exec(struct mll_exec **ex, const struct mll_options *options,
                               struct mll_error *why_cpu, struct mll_error *err)
{
    static const struct {
        const char *name;
        enum mll_dtype dtype;
    } types[] = {{"f32", MLL_DTYPE_F32}, {"f16", MLL_DTYPE_F16}, {"int8", MLL_DTYPE_I8}};
    MLL_TRY(open_any(ex, options, why_cpu, err));
    if (options->kv_type == NULL)
        return MLL_OK;
    enum mll_dtype dtype = MLL_DTYPE_NONE;
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(options->kv_type, types[i].name) == 0)
            dtype = types[i].dtype;
    enum mll_status status = exec_set_kv_dtype(*ex, dtype, err);
    if (status != MLL_OK) {
        exec_close(*ex);
        *ex = NULL;
    }
    return status;
}

/* *value, or its default where zero, which must lie in [1, most]. */
static enum mll_status resolve(int *out, const char *name, int value, int otherwise, int most,
                               struct mll_error *err)
{
    *out = value == 0 ? otherwise : value;
    if (*out < 1 || *out > most)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "%s: expected 1 to %d, found %d", name, most,
                        *out);
    return MLL_OK;
}

static enum mll_status resolve_options(struct memory_plan *p, const struct cfg *cfg,
                                       const struct mll_options *o, const struct mll_exec *ex,
                                       struct mll_error *err)
{
    int chunk = exec_memory(ex) > 0 ? DEFAULT_CHUNK_GPU : DEFAULT_CHUNK;
    int longest = cfg->text.max_position;
    int ctx = longest < DEFAULT_CTX ? longest : DEFAULT_CTX;
    MLL_TRY(resolve(&p->ctx_size, "ctx-size", o->ctx_size, ctx, longest, err));
    MLL_TRY(resolve(&p->prefill_chunk, "prefill chunk", o->prefill_chunk, chunk, MAX_CHUNK, err));
    if (p->prefill_chunk > p->ctx_size)
        p->prefill_chunk = p->ctx_size;
    MLL_TRY(resolve(&p->max_sessions, "sessions", o->max_sessions, 1, 4096, err));
    return resolve(&p->max_images, "images", o->max_images, DEFAULT_IMAGES, 1024, err);
}

/* Image keys and the blocks that they take; see engine.h for their layout. */
static enum mll_status plan_image_keys(struct memory_plan *p, const struct cfg *cfg,
                                       enum mll_reference reference, struct mll_error *err)
{
    size_t rows = (size_t)cfg->vision.patches + 1, images = (size_t)p->max_images;
    size_t tiles = (size_t)cfg->vision.max_tiles, keys, middle = 0;
    if (!mll_mul_size(&keys, images * tiles, rows) || keys > INT_MAX / 4)
        return mll_fail(err, MLL_ERR_BAD_OPTION, "images: %d of %zu tiles of %zu rows are too many",
                        p->max_images, tiles, rows);
    if (reference != MLL_REFERENCE_META)
        middle =
            (images * (tiles - 1) * rows + MLL_ATTN_CHUNK - 1) / MLL_ATTN_CHUNK * MLL_ATTN_CHUNK;
    p->middle = (int)middle;
    p->image_blocks = (int)((middle + keys + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK);
    /* Both ends of the interval may stand in the middle of a block. */
    p->image_blocks_used = (int)((keys + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK) + (middle > 0);
    return MLL_OK;
}

static enum mll_status too_large(struct mll_error *err)
{
    return mll_fail(err, MLL_ERR_NO_MEMORY, "the KV cache would exceed the address space");
}

static enum mll_status plan_kv(struct memory_plan *p, const struct cfg *cfg,
                               const struct mll_exec *ex, struct mll_error *err)
{
    const struct cfg_text *t = &cfg->text;
    size_t block = 2 * kv_block_bytes(exec_kv_dtype(ex), t->head_dim);
    size_t sessions = (size_t)p->max_sessions;
    size_t n_self = (size_t)(t->layers - t->n_cross);
    p->text_blocks = (p->ctx_size + MLL_KV_BLOCK - 1) / MLL_KV_BLOCK;
    if (sessions * (size_t)p->text_blocks > INT_MAX ||
        sessions * (size_t)p->image_blocks_used > INT_MAX ||
        !mll_mul_size(&block, block, (size_t)t->kv_heads) ||
        !mll_mul_size(&p->text_kv, block, sessions * (size_t)p->text_blocks) ||
        !mll_mul_size(&p->text_kv, p->text_kv, n_self) ||
        !mll_mul_size(&p->image_kv, block, sessions * (size_t)p->image_blocks_used) ||
        !mll_mul_size(&p->image_kv, p->image_kv, (size_t)t->n_cross))
        return too_large(err);
    size_t tables = arena_floats(sessions, (size_t)p->text_blocks) +
                    arena_floats(sessions, (size_t)p->image_blocks) +
                    arena_floats(sessions, (size_t)t->vocab_size);
    p->sampling = smp_bytes(t->vocab_size, p->ctx_size);
    p->fixed = tables + arena_floats((size_t)t->head_dim / 2, 1) + sessions * p->sampling;
    if (!mll_add_size(&p->fixed, p->fixed, p->text_kv) ||
        !mll_add_size(&p->fixed, p->fixed, p->image_kv))
        return too_large(err);
    return MLL_OK;
}

/* What a GPU's kernels are made for. */
static enum mll_status check_heads(const struct cfg *cfg, const struct mll_exec *ex,
                                   struct mll_error *err)
{
    int text = cfg->text.head_dim, vision = cfg->vision.head_dim;
    if (exec_memory(ex) == 0 || (text <= MLL_ATTN_DIM_MAX && vision <= MLL_ATTN_DIM_MAX))
        return MLL_OK;
    return mll_fail(err, MLL_ERR_DEVICE, "heads of %d (text) and %d (vision): on a GPU at most %d",
                    text, vision, MLL_ATTN_DIM_MAX);
}

enum mll_status plan_memory(struct memory_plan *plan, const struct cfg *cfg,
                            const struct mll_options *options, const struct mll_exec *ex,
                            struct mll_error *err)
{
    *plan = (struct memory_plan){0};
    MLL_TRY(check_heads(cfg, ex, err));
    MLL_TRY(resolve_options(plan, cfg, options, ex, err));
    MLL_TRY(plan_image_keys(plan, cfg, options->reference, err));
    MLL_TRY(plan_kv(plan, cfg, ex, err));

    size_t states = arena_floats((size_t)cfg->vision.max_tiles * (size_t)(cfg->vision.patches + 1),
                                 (size_t)cfg->text.hidden_size);
    size_t tower = vision_scratch(cfg, ex), cross = crosskv_scratch(cfg, ex);
    plan->vision = states + (tower > cross ? tower : cross);
    plan->text = step_scratch(cfg, plan, ex);
    size_t stage = plan->vision > plan->text ? plan->vision : plan->text;
    if (!mll_add_size(&plan->arena, plan->fixed, stage))
        return too_large(err);
    return MLL_OK;
}

/* ---- weights on a GPU ------------------------------------------------------------------------ */

/* What loading takes for a while, and what a driver takes for kernels. */
enum { DEVICE_SPARE = 96 << 20 };
/* What a driver takes for a context; measured on no card of ours, reported for V100 to H200. */
enum { CONTEXT_BYTES = 512 << 20 };

uint64_t plan_budget(const struct mll_options *options, struct mll_exec *ex)
{
    uint64_t left = options->gpu_memory > 0 ? options->gpu_memory : exec_memory_free(ex);
    uint64_t spare = DEVICE_SPARE + (options->gpu_memory > 0 ? (uint64_t)CONTEXT_BYTES : 0);
    left = left > spare ? left - spare : 0;
    return options->max_memory > 0 && options->max_memory < left ? options->max_memory : left;
}

bool plan_streaming(struct memory_plan *plan, size_t *least, struct weights *weights,
                    const struct cfg *cfg, enum quantise_type quant, uint64_t budget)
{
    size_t layer[CFG_MAX_LAYERS], largest = 0;
    int n = cfg->text.layers;
    struct weights_move all = {.quant = quant, .n_streamed = n};
    size_t resident = weights_device_bytes(layer, weights, cfg, &all);
    for (int i = 0; i < n; i++)
        resident += layer[i];
    plan->weights = resident;
    plan->streamed = 0;
    plan->n_streamed = 0;
    *least = resident + plan->arena;
    while (*least > budget && plan->n_streamed < n) {
        size_t bytes = layer[n - ++plan->n_streamed];
        largest = bytes > largest ? bytes : largest;
        plan->streamed += bytes;
        plan->weights = resident - plan->streamed + 2 * largest;
        *least = plan->weights + plan->arena;
    }
    return *least <= budget;
}

/* Memory beside model and arena, measured: code, libraries and thread stacks; the tokenizer, an
 * entry of its vocabulary. */
enum { PROCESS_BYTES = 3840 << 10, TOKENIZER_ENTRY_BYTES = 176 };

/* Tables that are read row by row: embed_tokens and the per-aspect-ratio embeddings. Of a mapped
 * file a page cache maps 16 pages around a touched one, so a looked-up row costs that much. */
static size_t table_resident(const struct mat *m, size_t looked_up)
{
    size_t whole = weights_mat_bytes(m), row = whole / (size_t)m->rows;
    size_t touched = looked_up * ((row + 65535) / 65536 * 65536);
    return touched < whole ? touched : whole;
}

/* Resident bytes of the weights that a stage uses: the tower's and projector's, or all. */
static size_t resident_weights(struct weights *weights, const struct cfg *cfg, bool mapped,
                               bool vision_only)
{
    struct weights_entry entry = {0};
    enum { TOKENS_MET = 256, SHAPES_MET = 1 };
    size_t sum = 0;
    while (weights_next(&entry, cfg)) {
        const struct mat *m = weights_field(weights, &entry);
        bool tokens = m == &weights->embed_tokens;
        bool tiles =
            m == &weights->tile_position || m == &weights->pre_tile || m == &weights->post_tile;
        if (vision_only && strncmp(entry.name, "language_model.", 15) == 0)
            continue;
        sum += tokens && mapped  ? table_resident(m, TOKENS_MET)
               : tiles && mapped ? table_resident(m, SHAPES_MET)
                                 : weights_mat_bytes(m);
    }
    return sum;
}

static size_t all_weights(struct weights *weights, const struct cfg *cfg)
{
    struct weights_entry entry = {0};
    size_t sum = 0;
    while (weights_next(&entry, cfg))
        sum += weights_mat_bytes(weights_field(weights, &entry));
    return sum;
}

/* The larger of two moments: the tower at work, and the decoder once it has met every weight. A
 * large scratch of the tower is given back in between (exec_trim). */
static size_t peak_bytes(struct weights *weights, const struct cfg *cfg,
                         const struct memory_plan *plan, bool mapped)
{
    size_t stage = plan->arena - plan->fixed;
    size_t tower = resident_weights(weights, cfg, mapped, true) + plan->vision;
    size_t decoder = resident_weights(weights, cfg, mapped, false);
    decoder += stage < EXEC_TRIM_LEAST ? stage : plan->text;
    return plan->fixed + (tower > decoder ? tower : decoder);
}

/* The configuration and what the weights take: of a directory, or of made-up ones. */
static enum mll_status plan_weights(struct weights **weights, struct cfg *cfg,
                                    const struct mll_options *o, const char *path,
                                    struct mll_error *err)
{
    enum quantise_type type;
    MLL_TRY(quantise_type_of(&type, o->quant, err));
    if (o->synthetic != NULL) {
        MLL_TRY(synthetic_config(cfg, o->synthetic, err));
        MLL_TRY(weights_alloc(weights, cfg, MLL_DTYPE_BF16, err));
    } else {
        MLL_TRY(cfg_load(cfg, path, err));
        MLL_TRY(weights_load(weights, cfg, path, false, err));
    }
    quantise_describe(*weights, cfg, type);
    return MLL_OK;
}

/* Of two GPUs that split the matrices as the weight table says. */
static size_t half_weights(struct weights *weights, const struct cfg *cfg)
{
    struct weights_entry e = {0};
    size_t sum = 0;
    while (weights_next(&e, cfg)) {
        size_t bytes = exec_gpu_weight_bytes(weights_field(weights, &e), e.use);
        sum += e.split == WEIGHTS_SPLIT_NONE ? bytes : bytes / 2;
    }
    return sum;
}

/* A GPU's part: everything there where it has room, else with layers streamed, else what is
 * missing. */
static void fill_device(struct mll_memory *memory, struct memory_plan *plan,
                        struct weights *weights, const struct cfg *cfg, struct mll_exec *ex,
                        const struct mll_options *options)
{
    size_t least;
    memory->available = plan_budget(options, ex);
    plan_streaming(plan, &least, weights, cfg, QUANTISE_NONE, memory->available);
    memory->weights = plan->weights;
    memory->streamed = plan->streamed;
    memory->n_streamed = (uint64_t)plan->n_streamed;
    memory->total = least;
    memory->half = plan->arena - (plan->text_kv + plan->image_kv) / 2 + half_weights(weights, cfg);
}

static void fill_host(struct mll_memory *memory, const struct memory_plan *plan,
                      struct weights *weights, const struct cfg *cfg, bool mapped)
{
    memory->weights = all_weights(weights, cfg);
    memory->total = peak_bytes(weights, cfg, plan, mapped) + memory->other;
}

/* The CPU's exec with the sizes that a GPU's would have; scratch of kernels differs by some
 * megabytes. */
static void as_on_a_gpu(struct mll_options *options)
{
    options->device = "cpu";
    options->kv_type = "f16";
    options->compute = NULL;
    if (options->prefill_chunk == 0)
        options->prefill_chunk = DEFAULT_CHUNK_GPU;
}

enum mll_status mll_plan(const struct mll_options *options, struct mll_memory *memory,
                         struct mll_error *err)
{
    struct cfg cfg;
    struct weights *weights = NULL;
    struct mll_exec *ex = NULL;
    struct memory_plan plan;
    struct mll_options one = *options;
    char *path;
    *memory = (struct mll_memory){0};
    if (one.gpu_memory > 0)
        as_on_a_gpu(&one);
    MLL_TRY(eng_resolve(&path, options->synthetic ? options->synthetic : options->model, err));
    enum mll_status status = plan_weights(&weights, &cfg, options, path, err);
    if (status == MLL_OK)
        status = plan_open_exec(&ex, &one, NULL, err);
    if (status == MLL_OK) {
        memory->device = one.gpu_memory > 0 ? one.gpu_memory : exec_memory(ex);
        if (memory->device == 0 && one.max_images == 0)
            one.max_images = 1; /* memory of more becomes resident when they come */
        status = plan_memory(&plan, &cfg, &one, ex, err);
    }
    if (status == MLL_OK) {
        memory->kv = plan.text_kv;
        memory->cross_kv = plan.image_kv;
        memory->scratch = plan.arena - plan.text_kv - plan.image_kv;
        memory->other = PROCESS_BYTES + TOKENIZER_ENTRY_BYTES * (size_t)cfg.text.vocab_size;
        if (memory->device > 0)
            fill_device(memory, &plan, weights, &cfg, ex, &one);
        else
            fill_host(memory, &plan, weights, &cfg,
                      options->synthetic == NULL && !options->no_mmap);
    }
    exec_close(ex);
    weights_free(weights);
    free(path);
    return status;
}
