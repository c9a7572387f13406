/* quantise_file.c - one safetensors file of a model into one with quantised weights.
 *
 * Tensor by tensor: a weight is quantised from the mapped file, written, forgotten.  Layout:
 * weights_quant.h; internal to mll_quantize (quantise_dir.c). */
#include "quantise_file.h"

#include "quant_state.h"
#include "safetensors_write.h"
#include "weights_quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_BYTES = 256, STATE_BYTES = 224, COPY_BYTES = 16 << 20, MOST_PARTS = 6 };

/* One tensor of the new file. The parts of a quantised weight stand together, codes first. */
enum part { PLAIN, Q4_CODES, I8_CODES, ABSMAX, MAP, NESTED_ABSMAX, NESTED_MAP, STATE, SCB, FORMAT };

struct item {
    enum part part;
    const struct st_tensor *from;
    char name[NAME_BYTES];
};

struct layout {
    struct item *items;
    struct st_spec *specs;
    size_t n;
};

/* ---- layout ---------------------------------------------------------------------------------- */

static int by_tensor(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)((const struct quantise_pick *)a)->tensor;
    uintptr_t y = (uintptr_t)((const struct quantise_pick *)b)->tensor;
    return x < y ? -1 : x > y;
}

/* A pattern that is misspelt would quantise what it should have kept. */
static enum mll_status check_skip(const struct mll_quantize *o, const struct cfg *cfg,
                                  struct mll_error *err)
{
    for (size_t i = 0; i < o->n_skip; i++) {
        bool matches = strcmp(o->skip[i], "none") == 0;
        for (struct weights_entry e = {0}; !matches && weights_next(&e, cfg);)
            matches = quantise_matches(&e, o->skip[i]);
        if (!matches)
            return mll_fail(err, MLL_ERR_USAGE, "skip: no weight has '%s' in its name", o->skip[i]);
    }
    return MLL_OK;
}

enum mll_status quantise_pick(struct quantise_job *job, const struct cfg *cfg,
                              struct mll_error *err)
{
    const struct mll_quantize *o = job->options;
    const struct ckpt *ckpt = job->weights->ckpt;
    struct weights_entry e = {0};
    size_t n = 0;
    while (weights_next(&e, cfg))
        n++;
    job->picks = calloc(n + 1, sizeof *job->picks);
    if (job->picks == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "out of memory");
    MLL_TRY(check_skip(o, cfg, err));
    for (size_t i = 0; i < ckpt_count(ckpt); i++)
        job->total += (uint64_t)ckpt_at(ckpt, i)->size;
    job->to_write = job->total;
    for (e = (struct weights_entry){0}; weights_next(&e, cfg);) {
        if (!quantise_selects(&e, o->n_skip > 0 ? o->skip : NULL, o->n_skip))
            continue;
        struct quantise_pick *p = &job->picks[job->n_picks++];
        *p = (struct quantise_pick){weights_find(&e, ckpt), weights_field(job->weights, &e)};
        job->to_write += quantise_bytes(p->mat, job->type);
        job->to_write -= (uint64_t)p->tensor->size;
    }
    qsort(job->picks, job->n_picks, sizeof *job->picks, by_tensor);
    return MLL_OK;
}

/* The weight that t is, if it is to be quantised. */
static const struct mat *picked(const struct quantise_job *job, const struct st_tensor *t)
{
    struct quantise_pick key = {t, NULL};
    const struct quantise_pick *found =
        bsearch(&key, job->picks, job->n_picks, sizeof key, by_tensor);
    return found ? found->mat : NULL;
}

static void add(struct layout *l, enum part part, const struct st_tensor *t, enum st_dtype dtype,
                int rank, int64_t rows, int64_t cols)
{
    static const char *const endings[] = {
        [PLAIN] = "",
        [Q4_CODES] = "",
        [I8_CODES] = "",
        [ABSMAX] = ".absmax",
        [MAP] = ".quant_map",
        [NESTED_ABSMAX] = ".nested_absmax",
        [NESTED_MAP] = ".nested_quant_map",
        [STATE] = ".quant_state.bitsandbytes__nf4",
        [SCB] = "SCB",
        [FORMAT] = "weight_format",
    };
    struct item *item = &l->items[l->n];
    size_t kept = strlen(t->name) - (part >= SCB ? strlen("weight") : 0);
    snprintf(item->name, sizeof item->name, "%.*s%s", (int)kept, t->name, endings[part]);
    item->part = part;
    item->from = t;
    l->specs[l->n++] = (struct st_spec){item->name, dtype, rank, {rows, cols}};
}

static void add_nf4(struct layout *l, const struct st_tensor *t, const struct mat *m, bool nested)
{
    int64_t n = (int64_t)m->rows * m->cols, blocks = (n + QUANTISE_BLOCK - 1) / QUANTISE_BLOCK;
    struct quant_state state = {
        .block = QUANTISE_BLOCK, .dtype = m->dtype, .rows = m->rows, .cols = m->cols};
    char text[STATE_BYTES];
    int64_t length = (int64_t)quant_state_format(&state, text, sizeof text);
    add(l, Q4_CODES, t, ST_DTYPE_U8, 2, (n + 1) / 2, 1);
    add(l, ABSMAX, t, nested ? ST_DTYPE_U8 : ST_DTYPE_F32, 1, blocks, 0);
    add(l, MAP, t, ST_DTYPE_F32, 1, 16, 0);
    if (nested) {
        int64_t outer = (blocks + MLL_NESTED_BLOCK - 1) / MLL_NESTED_BLOCK;
        add(l, NESTED_ABSMAX, t, ST_DTYPE_F32, 1, outer, 0);
        add(l, NESTED_MAP, t, ST_DTYPE_F32, 1, 256, 0);
    }
    add(l, STATE, t, ST_DTYPE_U8, 1, nested ? STATE_BYTES : length, 0);
}

/* The tensors that t becomes, at most MOST_PARTS. */
static void add_tensor(struct layout *l, const struct quantise_job *job, const struct st_tensor *t)
{
    const struct mat *m = picked(job, t);
    if (m == NULL) {
        add(l, PLAIN, t, t->dtype, t->rank, 0, 0);
        memcpy(l->specs[l->n - 1].shape, t->shape, sizeof t->shape);
    } else if (job->type == QUANTISE_INT8) {
        add(l, I8_CODES, t, ST_DTYPE_I8, 2, m->rows, m->cols);
        add(l, SCB, t, ST_DTYPE_F32, 1, m->rows, 0);
        add(l, FORMAT, t, ST_DTYPE_U8, 0, 0, 0);
    } else {
        add_nf4(l, t, m, job->type == QUANTISE_NF4_DOUBLE);
    }
}

/* ---- writing --------------------------------------------------------------------------------- */

struct output {
    struct st_writer *writer;
    const char *file;
    size_t i; /* the next tensor */
};

static enum mll_status put(struct output *out, const void *data, int64_t at, size_t size,
                           struct mll_error *err)
{
    struct st_error e;
    if (st_put(out->writer, out->i, data, at, size, &e) == ST_OK)
        return MLL_OK;
    return ckpt_fail_st(err, out->file, &e);
}

static enum mll_status put_next(struct output *out, const void *data, size_t size,
                                struct mll_error *err)
{
    MLL_TRY(put(out, data, 0, size, err));
    out->i++;
    return MLL_OK;
}

/* Counts what was read of t and asks whether to go on. */
static enum mll_status advance(struct quantise_job *job, const struct st_tensor *t, int64_t bytes,
                               struct mll_error *err)
{
    const struct mll_quantize *o = job->options;
    job->done += (uint64_t)bytes;
    if (o->on_progress == NULL || o->on_progress(o->user, t->name, job->done, job->total))
        return MLL_OK;
    return mll_fail(err, MLL_ERR_CANCELLED, "stopped after %llu of %llu bytes",
                    (unsigned long long)job->done, (unsigned long long)job->total);
}

static enum mll_status put_plain(struct output *out, struct quantise_job *job,
                                 const struct st_tensor *t, struct mll_error *err)
{
    for (int64_t at = 0; at < t->size; at += COPY_BYTES) {
        size_t n = t->size - at < COPY_BYTES ? (size_t)(t->size - at) : COPY_BYTES;
        MLL_TRY(put(out, (const char *)t->data + at, at, n, err));
        MLL_TRY(advance(job, t, (int64_t)n, err));
    }
    out->i++;
    return MLL_OK;
}

static enum mll_status put_int8(struct output *out, const struct mat *m, struct mll_error *err)
{
    MLL_TRY(put_next(out, m->data, (size_t)m->rows * (size_t)m->cols, err));
    MLL_TRY(put_next(out, m->scale, (size_t)m->rows * sizeof *m->scale, err));
    return put_next(out, "", 1, err); /* weight_format 0: row by row */
}

static enum mll_status put_nf4(struct output *out, const struct mat *m, enum mll_dtype from,
                               struct mll_error *err)
{
    const struct mat_blocks *b = m->blocks;
    size_t n = (size_t)m->rows * (size_t)m->cols;
    size_t blocks = (n + QUANTISE_BLOCK - 1) / QUANTISE_BLOCK;
    struct quant_state state = {.nested = b->codes != NULL,
                                .block = b->block,
                                .dtype = from,
                                .rows = m->rows,
                                .cols = m->cols,
                                .nested_offset = b->nested_offset};
    char text[STATE_BYTES + 1];
    size_t length = quant_state_format(&state, text, sizeof text);
    MLL_TRY(put_next(out, m->data, (n + 1) / 2, err));
    if (!state.nested) {
        MLL_TRY(put_next(out, b->absmax, blocks * sizeof *b->absmax, err));
        MLL_TRY(put_next(out, b->values, sizeof b->values, err));
        return put_next(out, text, length, err);
    }
    size_t outer = (blocks + MLL_NESTED_BLOCK - 1) / MLL_NESTED_BLOCK;
    MLL_TRY(put_next(out, b->codes, blocks, err));
    MLL_TRY(put_next(out, b->values, sizeof b->values, err));
    MLL_TRY(put_next(out, b->nested_absmax, outer * sizeof *b->nested_absmax, err));
    MLL_TRY(put_next(out, b->nested_map, 256 * sizeof *b->nested_map, err));
    /* the digits of the offset are not known when the file is laid out: JSON may end in blanks */
    memset(text + length, ' ', STATE_BYTES - length);
    return put_next(out, text, STATE_BYTES, err);
}

static enum mll_status put_quantised(struct output *out, struct quantise_job *job,
                                     const struct item *item, struct mll_error *err)
{
    struct weights owner = {0};
    struct mat m = *picked(job, item->from);
    enum mll_dtype from = m.dtype;
    enum mll_status status =
        quantise_mat(&owner, &m, item->name, job->type, job->options->threads, err);
    if (status == MLL_OK)
        status = m.dtype == MLL_DTYPE_I8 ? put_int8(out, &m, err) : put_nf4(out, &m, from, err);
    weights_quant_free(&owner);
    return status == MLL_OK ? advance(job, item->from, item->from->size, err) : status;
}

static enum mll_status write_items(struct quantise_job *job, struct output *out,
                                   const struct layout *l, struct mll_error *err)
{
    const struct ckpt *ckpt = job->weights->ckpt;
    while (out->i < l->n) {
        const struct item *item = &l->items[out->i];
        MLL_TRY(ckpt_check_unchanged(ckpt, err));
        if (item->part == PLAIN)
            MLL_TRY(put_plain(out, job, item->from, err));
        else
            MLL_TRY(put_quantised(out, job, item, err));
        st_forget(ckpt_file(ckpt, item->from), item->from);
    }
    return MLL_OK;
}

static enum mll_status write_layout(struct quantise_job *job, const char *path, const char *file,
                                    const struct layout *l, struct mll_error *err)
{
    static const struct st_metadata made_for = {"format", "pt", 2};
    struct output out = {.file = file};
    struct st_error e;
    if (st_create(&out.writer, path, l->specs, l->n, &made_for, 1, &e) != ST_OK)
        return ckpt_fail_st(err, file, &e);
    enum mll_status status = write_items(job, &out, l, err);
    if (status != MLL_OK)
        st_abort(out.writer);
    else if (st_finish(out.writer, &e) != ST_OK)
        return ckpt_fail_st(err, file, &e);
    return status;
}

enum mll_status quantise_file(struct quantise_job *job, const char *path, const char *file,
                              struct mll_error *err)
{
    const struct ckpt *ckpt = job->weights->ckpt;
    size_t total = ckpt_count(ckpt), here = 0;
    for (size_t i = 0; i < total; i++)
        here += strcmp(ckpt_file_name(ckpt, ckpt_at(ckpt, i)), file) == 0;
    struct layout l = {.items = calloc(MOST_PARTS * here + 1, sizeof *l.items),
                       .specs = calloc(MOST_PARTS * here + 1, sizeof *l.specs)};
    enum mll_status status = MLL_OK;
    if (l.items == NULL || l.specs == NULL)
        status = mll_fail(err, MLL_ERR_NO_MEMORY, "out of memory");
    for (size_t i = 0; status == MLL_OK && i < total; i++)
        if (strcmp(ckpt_file_name(ckpt, ckpt_at(ckpt, i)), file) == 0)
            add_tensor(&l, job, ckpt_at(ckpt, i));
    if (status == MLL_OK)
        status = write_layout(job, path, file, &l, err);
    free(l.items);
    free(l.specs);
    return status;
}
