/* quantise_weights.c - a loaded model's weights replaced by quantised ones: --quant, and what they
 * would take: plan.  Contract: quantise.h. */
#include "quantise.h"

#include "checkpoint.h"
#include "quant_state.h"
#include "weights_quant.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Memory that lives as long as the weights do. */
static void *take(struct weights *w, size_t bytes)
{
    struct weights_copy *copy = malloc(sizeof *copy + bytes);
    if (copy == NULL)
        return NULL;
    copy->next = w->copies;
    w->copies = copy;
    return copy->floats;
}

static enum mll_status out_of_memory(const char *name, struct mll_error *err)
{
    return mll_fail(err, MLL_ERR_NO_MEMORY, "out of memory for quantising '%s'", name);
}

static enum mll_status not_finite(const char *name, struct mll_error *err)
{
    return mll_fail(err, MLL_ERR_WEIGHT_NAN,
                    "tensor '%s': expected finite values to quantise, found NaN or infinity", name);
}

/* Replaces the float32 absmax of q by the double-quantised form. */
static bool nest(struct weights *w, struct mat_blocks *b, size_t blocks)
{
    size_t outer = (blocks + MLL_NESTED_BLOCK - 1) / MLL_NESTED_BLOCK;
    float *floats = take(w, (256 + outer) * sizeof *floats + blocks);
    if (floats == NULL)
        return false;
    uint8_t *codes = (uint8_t *)(floats + 256 + outer);
    quantise_dynamic_map(floats);
    quantise_absmax(codes, floats + 256, &b->nested_offset, b->absmax, blocks);
    b->absmax = NULL;
    b->codes = codes;
    b->nested_map = floats;
    b->nested_absmax = floats + 256;
    return true;
}

static enum mll_status to_nf4(struct weights *w, struct mat *m, const char *name, bool nested,
                              int threads, struct mll_error *err)
{
    size_t n = (size_t)m->rows * (size_t)m->cols;
    size_t blocks = (n + QUANTISE_BLOCK - 1) / QUANTISE_BLOCK;
    struct weights_quant *q = calloc(1, sizeof *q);
    uint8_t *codes = take(w, (n + 1) / 2);
    float *absmax = nested ? malloc(blocks * sizeof *absmax) : take(w, blocks * sizeof *absmax);
    enum mll_status status = MLL_OK;
    if (q == NULL || codes == NULL || absmax == NULL)
        status = out_of_memory(name, err);
    else if (!quantise_nf4(codes, absmax, m->data, m->dtype, n, threads))
        status = not_finite(name, err);
    if (status == MLL_OK) {
        q->dtype = m->dtype;
        q->blocks = (struct mat_blocks){
            .absmax = absmax, .block = QUANTISE_BLOCK, .rounded = MLL_DTYPE_F32};
        memcpy(q->blocks.values, quant_values_nf4, sizeof q->blocks.values);
        if (nested && !nest(w, &q->blocks, blocks))
            status = out_of_memory(name, err);
    }
    if (nested)
        free(absmax);
    if (status != MLL_OK) {
        free(q);
        return status;
    }
    q->next = w->quant;
    w->quant = q;
    *m = (struct mat){.data = codes,
                      .blocks = &q->blocks,
                      .dtype = MLL_DTYPE_Q4,
                      .rows = m->rows,
                      .cols = m->cols};
    return MLL_OK;
}

static enum mll_status to_int8(struct weights *w, struct mat *m, const char *name, int threads,
                               struct mll_error *err)
{
    int8_t *codes = take(w, (size_t)m->rows * (size_t)m->cols);
    float *scale = take(w, (size_t)m->rows * sizeof *scale);
    if (codes == NULL || scale == NULL)
        return out_of_memory(name, err);
    if (!quantise_int8(codes, scale, m->data, m->dtype, m->rows, m->cols, threads))
        return not_finite(name, err);
    *m = (struct mat){
        .data = codes, .scale = scale, .dtype = MLL_DTYPE_I8, .rows = m->rows, .cols = m->cols};
    return MLL_OK;
}

static bool is_plain(const struct mat *m)
{
    return m->dtype == MLL_DTYPE_F32 || m->dtype == MLL_DTYPE_F16 || m->dtype == MLL_DTYPE_BF16;
}

enum mll_status quantise_mat(struct weights *owner, struct mat *m, const char *name,
                             enum quantise_type type, int threads, struct mll_error *err)
{
    if (threads <= 0)
        threads = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (type == QUANTISE_INT8)
        return to_int8(owner, m, name, threads, err);
    return to_nf4(owner, m, name, type == QUANTISE_NF4_DOUBLE, threads, err);
}

enum mll_status quantise_weights(struct weights *weights, const struct cfg *cfg,
                                 enum quantise_type type, int threads, struct mll_error *err)
{
    struct weights_entry e = {0};
    while (weights_next(&e, cfg)) {
        struct mat *m = weights_field(weights, &e);
        if (!quantise_changes(&e, m, type))
            continue;
        MLL_TRY(quantise_mat(weights, m, e.name, type, threads, err));
        const struct st_tensor *t = weights->ckpt ? weights_find(&e, weights->ckpt) : NULL;
        if (t != NULL)
            st_forget(ckpt_file(weights->ckpt, t), t);
    }
    return MLL_OK;
}

bool quantise_changes(const struct weights_entry *entry, const struct mat *m,
                      enum quantise_type type)
{
    return type != QUANTISE_NONE && quantise_selects(entry, NULL, 0) && is_plain(m);
}

struct mat quantise_described(const struct mat *m, enum quantise_type type)
{
    static const float one = 1;
    static const uint8_t code = 0;
    static const struct mat_blocks plain = {.absmax = &one, .block = QUANTISE_BLOCK};
    static const struct mat_blocks nested = {.codes = &code, .block = QUANTISE_BLOCK};
    bool eight = type == QUANTISE_INT8;
    return (struct mat){.data = m->data,
                        .scale = eight ? &one : NULL,
                        .blocks = eight                  ? NULL
                                  : type == QUANTISE_NF4 ? &plain
                                                         : &nested,
                        .dtype = eight ? MLL_DTYPE_I8 : MLL_DTYPE_Q4,
                        .rows = m->rows,
                        .cols = m->cols};
}

size_t quantise_bytes(const struct mat *m, enum quantise_type type)
{
    struct mat described = quantise_described(m, type);
    return weights_mat_bytes(&described);
}

void quantise_describe(struct weights *weights, const struct cfg *cfg, enum quantise_type type)
{
    struct weights_entry e = {0};
    while (weights_next(&e, cfg)) {
        struct mat *m = weights_field(weights, &e);
        if (quantise_changes(&e, m, type))
            *m = quantise_described(m, type);
    }
}
