#include "weights_quant.h"

#include "checkpoint.h"
#include "quant_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STATE       ".quant_state.bitsandbytes__"
#define STATE_BYTES 4096 /* the JSON has some 200 */

static const char *const part_names[] = {
    ".absmax",   ".quant_map", ".nested_absmax", ".nested_quant_map", STATE "nf4",
    STATE "fp4", "SCB",        "weight_format"};

enum { N_PARTS = sizeof part_names / sizeof part_names[0] };
_Static_assert(N_PARTS <= WEIGHTS_MAX_PARTS, "room for every part");

/* "NAME.absmax", or with the last word of NAME replaced: "MODULE.SCB". */
static const char *part_name(char out[2 * WEIGHTS_MAX_NAME], const char *name, const char *part)
{
    size_t n = strlen(name);
    while (part[0] != '.' && n > 0 && name[n - 1] != '.')
        n--;
    snprintf(out, 2 * WEIGHTS_MAX_NAME, "%.*s%s", (int)n, name, part);
    return out;
}

static const struct st_tensor *find_part(const struct ckpt *ckpt, const struct st_tensor *t,
                                         const char *part)
{
    char name[2 * WEIGHTS_MAX_NAME];
    return ckpt_find(ckpt, part_name(name, t->name, part));
}

int weights_quant_parts(const struct st_tensor **parts, const struct ckpt *ckpt,
                        const struct st_tensor *t)
{
    int n = 0;
    for (int i = 0; i < N_PARTS; i++)
        if ((parts[n] = find_part(ckpt, t, part_names[i])) != NULL)
            n++;
    return n;
}

void weights_quant_free(struct weights *weights)
{
    while (weights->quant != NULL) {
        struct weights_quant *next = weights->quant->next;
        free(weights->quant);
        weights->quant = next;
    }
    while (weights->copies != NULL) {
        struct weights_copy *next = weights->copies->next;
        free(weights->copies);
        weights->copies = next;
    }
}

/* ---- parts ----------------------------------------------------------------------------------- */

struct binding {
    struct weights *weights;
    const struct ckpt *ckpt;
    const struct st_tensor *t; /* the weight */
    struct defects *d;
};

/* The part, of dtype and n elements; NULL after a defect. */
static const struct st_tensor *expect(const struct binding *b, const char *part,
                                      enum st_dtype dtype, size_t n)
{
    const struct st_tensor *t = find_part(b->ckpt, b->t, part);
    char name[2 * WEIGHTS_MAX_NAME];
    if (!t) {
        if (!ckpt_is_incomplete(b->ckpt))
            defects_add(b->d, MLL_ERR_TENSOR_MISSING,
                        "tensor '%s': expected %s (%zu) beside quantised '%s', found none",
                        part_name(name, b->t->name, part), st_dtype_name(dtype), n, b->t->name);
        return NULL;
    }
    const char *file = ckpt_file_name(b->ckpt, t);
    if (t->dtype != dtype) {
        defects_add(b->d, MLL_ERR_TENSOR_DTYPE, "%.60s: tensor '%s': expected dtype %s, found %s",
                    file, t->name, st_dtype_name(dtype), st_dtype_name(t->dtype));
        return NULL;
    }
    int64_t found = t->size * 8 / st_dtype_bits(dtype);
    if (found != (int64_t)n) {
        defects_add(b->d, MLL_ERR_TENSOR_SHAPE,
                    "%.60s: tensor '%s': expected %zu elements, found %lld", file, t->name, n,
                    (long long)found);
        return NULL;
    }
    return t;
}

/* The first n bytes of a part; false after a defect. */
static bool read_part(const struct binding *b, const struct st_tensor *t, void *out, size_t n)
{
    struct st_error e;
    struct mll_error err;
    if (st_read(ckpt_file(b->ckpt, t), t, out, 0, n, &e) == ST_OK)
        return true;
    ckpt_fail_st(&err, ckpt_file_name(b->ckpt, t), &e);
    defects_add(b->d, err.code, "%s", err.message);
    return false;
}

/* The floats of a part where they lie, or a copy where they are not aligned; NULL where nothing is
 * mapped or memory ran out. */
static const float *floats(const struct binding *b, const struct st_tensor *t)
{
    if (!t || !t->data || (uintptr_t)t->data % _Alignof(float) == 0)
        return t ? t->data : NULL;
    struct weights_copy *copy = malloc(sizeof *copy + (size_t)t->size);
    if (!copy) {
        defects_add(b->d, MLL_ERR_NO_MEMORY, "out of memory");
        return NULL;
    }
    memcpy(copy->floats, t->data, (size_t)t->size);
    copy->next = b->weights->copies;
    b->weights->copies = copy;
    return copy->floats;
}

/* ---- 4 bits ---------------------------------------------------------------------------------- */

/* The parsed state of a 4-bit weight, made for these rows and columns. */
static bool read_state(struct quant_state *state, const struct binding *b,
                       const struct st_tensor *t, bool fp4, const struct weights_entry *e)
{
    char text[STATE_BYTES];
    size_t before = b->d->n;
    if (t->dtype != ST_DTYPE_U8 || t->size > STATE_BYTES) {
        defects_add(b->d, MLL_ERR_QUANT_STATE,
                    "tensor '%s': expected at most %d bytes of JSON, found %lld of %s", t->name,
                    STATE_BYTES, (long long)t->size, st_dtype_name(t->dtype));
        return false;
    }
    if (!read_part(b, t, text, (size_t)t->size) ||
        !quant_state_parse(state, text, (size_t)t->size, t->name, b->d))
        return false;
    if (state->fp4 != fp4)
        defects_add(b->d, MLL_ERR_QUANT_STATE,
                    "tensor '%s': quant_type: expected the type of its name, found \"%s\"", t->name,
                    state->fp4 ? "fp4" : "nf4");
    if (state->rows != e->rows || state->cols != e->cols)
        defects_add(b->d, MLL_ERR_TENSOR_SHAPE,
                    "tensor '%s': shape: expected (%d, %d), found (%d, %d)", t->name, e->rows,
                    e->cols, state->rows, state->cols);
    return b->d->n == before;
}

/* The codes' values must be those of the type: bitsandbytes' kernels know no others. */
static void check_map(const struct binding *b, const float *values)
{
    float map[16];
    const struct st_tensor *t = expect(b, ".quant_map", ST_DTYPE_F32, 16);
    if (!t || !read_part(b, t, map, sizeof map))
        return;
    for (int i = 0; i < 16; i++) {
        if (map[i] != values[i]) {
            defects_add(b->d, MLL_ERR_QUANT_STATE,
                        "tensor '%s': element %d: expected %.9g, found %.9g", t->name, i,
                        (double)values[i], (double)map[i]);
            return;
        }
    }
}

/* Codes in any storage type: the bytes are the same. */
static void check_codes(const struct binding *b, size_t n)
{
    size_t bytes = (n + 1) / 2;
    enum st_dtype dtype = b->t->dtype;
    const char *file = ckpt_file_name(b->ckpt, b->t);
    if (dtype != ST_DTYPE_U8 && dtype != ST_DTYPE_BF16 && dtype != ST_DTYPE_F16 &&
        dtype != ST_DTYPE_F32)
        defects_add(b->d, MLL_ERR_TENSOR_DTYPE,
                    "%.60s: tensor '%s': expected 4-bit codes in U8, BF16, F16 or F32, found %s",
                    file, b->t->name, st_dtype_name(dtype));
    else if (b->t->size != (int64_t)bytes)
        defects_add(b->d, MLL_ERR_TENSOR_SHAPE,
                    "%.60s: tensor '%s': expected %zu bytes of 4-bit codes, found %lld", file,
                    b->t->name, bytes, (long long)b->t->size);
}

static void bind_q4(const struct binding *b, struct mat *mat, const struct weights_entry *e,
                    const struct st_tensor *state_tensor, bool fp4)
{
    struct quant_state state;
    size_t n = (size_t)e->rows * (size_t)e->cols, before = b->d->n;
    if (!read_state(&state, b, state_tensor, fp4, e))
        return;
    size_t blocks = (n + (size_t)state.block - 1) / (size_t)state.block;
    struct weights_quant *q = calloc(1, sizeof *q);
    if (!q) {
        defects_add(b->d, MLL_ERR_NO_MEMORY, "out of memory");
        return;
    }
    q->next = b->weights->quant;
    b->weights->quant = q;
    q->dtype = state.dtype;
    q->blocks.block = state.block;
    q->blocks.rounded = MLL_DTYPE_F32;
    memcpy(q->blocks.values, fp4 ? quant_values_fp4 : quant_values_nf4, sizeof q->blocks.values);
    check_codes(b, n);
    check_map(b, q->blocks.values);
    const struct st_tensor *absmax =
        expect(b, ".absmax", state.nested ? ST_DTYPE_U8 : ST_DTYPE_F32, blocks);
    if (!state.nested) {
        q->blocks.absmax = floats(b, absmax);
    } else {
        size_t outer = (blocks + MLL_NESTED_BLOCK - 1) / MLL_NESTED_BLOCK;
        q->blocks.codes = absmax ? absmax->data : NULL;
        q->blocks.nested_absmax = floats(b, expect(b, ".nested_absmax", ST_DTYPE_F32, outer));
        q->blocks.nested_map = floats(b, expect(b, ".nested_quant_map", ST_DTYPE_F32, 256));
        q->blocks.nested_offset = state.nested_offset;
    }
    if (b->d->n > before)
        return;
    mat->dtype = MLL_DTYPE_Q4;
    mat->data = b->t->data;
    mat->blocks = &q->blocks;
}

/* ---- 8 bits ---------------------------------------------------------------------------------- */

static void bind_i8(const struct binding *b, struct mat *mat, const struct weights_entry *e)
{
    const struct st_tensor *t = b->t, *format = find_part(b->ckpt, t, "weight_format");
    size_t before = b->d->n;
    if (t->rank != 2 || t->shape[0] != e->rows || t->shape[1] != e->cols)
        defects_add(b->d, MLL_ERR_TENSOR_SHAPE,
                    "%.60s: tensor '%s': expected %d x %d 8-bit codes, found %lld bytes",
                    ckpt_file_name(b->ckpt, t), t->name, e->rows, e->cols, (long long)t->size);
    const float *scale = floats(b, expect(b, "SCB", ST_DTYPE_F32, (size_t)e->rows));
    uint8_t layout = 0;
    if (format && expect(b, "weight_format", ST_DTYPE_U8, 1) && read_part(b, format, &layout, 1) &&
        layout != 0)
        defects_add(b->d, MLL_ERR_QUANT_METHOD,
                    "tensor '%s': expected 0, codes row by row, found %d, a layout of one kind of "
                    "card",
                    format->name, layout);
    if (b->d->n > before)
        return;
    mat->dtype = MLL_DTYPE_I8;
    mat->data = t->data;
    mat->scale = scale;
}

bool weights_bind_quant(struct weights *weights, struct mat *mat, const struct weights_entry *entry,
                        const struct ckpt *ckpt, const struct st_tensor *t, struct defects *d)
{
    const struct binding b = {weights, ckpt, t, d};
    const struct st_tensor *nf4 = find_part(ckpt, t, STATE "nf4");
    const struct st_tensor *fp4 = find_part(ckpt, t, STATE "fp4");
    if (!entry->linear)
        return false;
    if (nf4 != NULL || fp4 != NULL)
        bind_q4(&b, mat, entry, nf4 ? nf4 : fp4, nf4 == NULL);
    else if (t->dtype == ST_DTYPE_I8)
        bind_i8(&b, mat, entry);
    else if (t->dtype == ST_DTYPE_U8 && !ckpt_is_incomplete(ckpt))
        defects_add(d, MLL_ERR_TENSOR_MISSING,
                    "tensor '%s" STATE "nf4' (or __fp4): expected beside quantised '%s', found "
                    "none",
                    t->name, t->name);
    else if (t->dtype != ST_DTYPE_U8)
        return false;
    return true;
}
