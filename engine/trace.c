/* trace.c - mll_trace: every stage's tensors of one request in one safetensors file.
 *
 * The stages hand over rows as they make them (struct trace_sink); here they are gathered by name
 * and written when the request is done. Names and shapes: docs/MODEL.md. Values do not depend on
 * chunks or threads and the writer is deterministic, so the same request gives the same bytes. */
#include "generation.h"
#include "image.h"
#include "preprocess.h"
#include "safetensors_write.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_TENSORS = CFG_MAX_LAYERS + 16, MAX_NAME = 32 };

struct trace_tensor {
    char name[MAX_NAME];
    bool is_int; /* data holds int64, else float */
    char *data;
    size_t n, width, capacity; /* rows, elements a row, bytes */
};

struct trace {
    struct cfg cfg;
    size_t n_images;
    struct trace_tensor tensors[MAX_TENSORS];
    size_t n;
    bool no_memory;
};

/* ---- gathering ------------------------------------------------------------------------------- */

/* Room for n more rows of the named tensor; NULL (and no_memory) where there is none. */
static void *grow(struct trace *t, const char *name, bool is_int, size_t n, size_t width)
{
    size_t i = 0;
    while (i < t->n && strcmp(t->tensors[i].name, name) != 0)
        i++;
    MLL_ASSERT(i < MAX_TENSORS && strlen(name) < MAX_NAME);
    struct trace_tensor *tensor = &t->tensors[i];
    if (i == t->n) {
        t->n++;
        strcpy(tensor->name, name);
        tensor->is_int = is_int;
        tensor->width = width;
    }
    MLL_ASSERT(tensor->width == width && tensor->is_int == is_int);
    size_t row = width * (is_int ? sizeof(int64_t) : sizeof(float));
    size_t need = (tensor->n + n) * row;
    if (need > tensor->capacity) {
        size_t capacity = need > 2 * tensor->capacity ? need : 2 * tensor->capacity;
        char *data = realloc(tensor->data, capacity);
        if (data == NULL) {
            t->no_memory = true;
            return NULL;
        }
        tensor->data = data;
        tensor->capacity = capacity;
    }
    void *at = tensor->data + tensor->n * row;
    tensor->n += n;
    return at;
}

static void add_rows(void *user, struct mll_exec *ex, const char *name, const float *rows, size_t n,
                     size_t width)
{
    void *to = grow(user, name, false, n, width);
    if (to != NULL && ex != NULL)
        exec_download(ex, to, rows, n * width * sizeof *rows);
    else if (to != NULL)
        memcpy(to, rows, n * width * sizeof *rows);
}

static void add_ints(void *user, const char *name, const int32_t *values, size_t n)
{
    int64_t *to = grow(user, name, true, n, 1);
    for (size_t i = 0; to != NULL && i < n; i++)
        to[i] = values[i];
}

static void trace_free(struct trace *t)
{
    for (size_t i = 0; i < t->n; i++)
        free(t->tensors[i].data);
}

/* ---- writing --------------------------------------------------------------------------------- */

static void set_shape(struct st_spec *spec, int rank, const int64_t *shape)
{
    spec->rank = rank;
    for (int i = 0; i < rank; i++)
        spec->shape[i] = shape[i];
}

/* Pixels and vision states have the images outermost; the rest is (n, width) or (n). */
static void describe(struct st_spec *spec, const struct trace *t, const struct trace_tensor *tensor)
{
    const struct cfg_vision *v = &t->cfg.vision;
    const struct cfg_preprocess *p = &t->cfg.preprocess;
    int64_t images = (int64_t)t->n_images;
    *spec = (struct st_spec){.name = tensor->name,
                             .dtype = tensor->is_int ? ST_DTYPE_I64 : ST_DTYPE_F32};
    int64_t rows[] = {(int64_t)tensor->n, (int64_t)tensor->width};
    int64_t pixels[] = {images, p->max_tiles, 3, p->size, p->size};
    int64_t states[] = {images, v->max_tiles, v->patches + 1, v->output_dim};
    if (strcmp(tensor->name, "pixel_values") == 0)
        set_shape(spec, 5, pixels);
    else if (strcmp(tensor->name, "vision_last_hidden") == 0)
        set_shape(spec, 4, states);
    else
        set_shape(spec, tensor->width == 1 ? 1 : 2, rows);
}

static enum mll_status trace_write(const struct trace *t, const char *path, struct mll_error *err)
{
    struct st_spec specs[MAX_TENSORS];
    struct st_writer *writer;
    struct st_error e;
    if (t->no_memory)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for the traced tensors");
    for (size_t i = 0; i < t->n; i++)
        describe(&specs[i], t, &t->tensors[i]);
    if (st_create(&writer, path, specs, t->n, NULL, 0, &e) != ST_OK)
        return mll_fail(err, MLL_ERR_CANNOT_CREATE, "%.200s: %s", path, e.message);
    for (size_t i = 0; i < t->n; i++) {
        const struct trace_tensor *tensor = &t->tensors[i];
        size_t size = tensor->is_int ? sizeof(int64_t) : sizeof(float);
        if (st_put(writer, i, tensor->data, 0, tensor->n * tensor->width * size, &e) != ST_OK) {
            st_abort(writer);
            return mll_fail(err, MLL_ERR_IO, "%.200s: %s", path, e.message);
        }
    }
    if (st_finish(writer, &e) != ST_OK)
        return mll_fail(err, MLL_ERR_IO, "%.200s: %s", path, e.message);
    return MLL_OK;
}

/* ---- the stages ------------------------------------------------------------------------------ */

/* Stage 2 alone, which needs no more than preprocessor_config.json. */
static enum mll_status trace_preprocess(struct trace *t, const struct mll_options *options,
                                        const struct mll_request *request, struct mll_error *err)
{
    char *path;
    MLL_TRY(eng_resolve(&path, options->model, err));
    enum mll_status status = cfg_load_preprocess(&t->cfg.preprocess, path, err);
    free(path);
    for (size_t i = 0; i < request->n_images && status == MLL_OK; i++) {
        const struct mll_image *from = &request->images[i];
        struct image image = {.w = from->w, .h = from->h, .rgb = (uint8_t *)from->rgb};
        struct tiles tiles;
        status = pre_tiles(&tiles, &image, &t->cfg.preprocess, err);
        if (status == MLL_OK) {
            session_trace_tiles(&(struct trace_sink){add_rows, add_ints, t}, &tiles);
            pre_tiles_free(&tiles);
        }
    }
    return status;
}

static enum mll_status trace_stages(struct trace *t, const struct mll_options *options,
                                    const struct mll_request *request, enum gen_stage last,
                                    struct mll_error *err)
{
    struct mll_engine *engine;
    struct mll_session *session = NULL;
    const struct mll_result *result;
    MLL_TRY(mll_open(&engine, options, err));
    t->cfg = engine->cfg;
    engine->trace = (struct trace_sink){add_rows, add_ints, t};
    enum mll_status status = mll_session_open(&session, engine, err);
    if (status == MLL_OK)
        status = gen_run(session, request, last, &result, err);
    if (status == MLL_OK && last == GEN_ALL) {
        add_ints(t, "generated", result->ids, result->n);
        add_rows(t, NULL, "generated_logprobs", result->logprobs, result->n, 1);
    }
    mll_session_close(session);
    mll_close(engine);
    return status;
}

/* Stage 3 alone: the tokenizer and the template. */
static enum mll_status trace_prompt(struct trace *t, const struct mll_options *options,
                                    const struct mll_request *request, struct mll_error *err)
{
    struct mll_engine *engine;
    const int32_t *ids;
    size_t n;
    MLL_TRY(eng_open_text(&engine, options, err));
    enum mll_status status = mll_prompt(engine, NULL, &ids, &n, request, err);
    if (status == MLL_OK)
        add_ints(t, "input_ids", ids, n);
    mll_close(engine);
    return status;
}

enum mll_status mll_trace(const struct mll_options *options, const struct mll_request *request,
                          const char *path, const char *until, struct mll_error *err)
{
    static const char *const names[] = {"preprocess", "prompt", "vision", "cross", "decoder"};
    static const enum gen_stage stages[] = {GEN_ALL, GEN_ALL, GEN_VISION, GEN_VISION, GEN_DECODER};
    int stop = 0;
    while (until != NULL && stop < 5 && strcmp(until, names[stop]) != 0)
        stop++;
    if (until != NULL && stop == 5)
        return mll_fail(err, MLL_ERR_USAGE,
                        "until: expected preprocess, prompt, vision, cross or decoder, found %s",
                        until);
    struct trace *t = calloc(1, sizeof *t);
    if (t == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a trace");
    t->n_images = request->n_images;
    enum mll_status status;
    if (until == NULL || stop >= 2)
        status = trace_stages(t, options, request, until ? stages[stop] : GEN_ALL, err);
    else if (stop == 1)
        status = trace_prompt(t, options, request, err);
    else
        status = trace_preprocess(t, options, request, err);
    if (status == MLL_OK)
        status = trace_write(t, path, err);
    trace_free(t);
    free(t);
    return status;
}
