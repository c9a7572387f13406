/* weights_device.c - the weights of a model onto the device of an exec.  Contract: weights.h.
 *
 * Tensors go in the order in which they lie in memory, which is that of the files: a disk is read
 * from front to back, one tensor ahead, and what was read is given back at once, so that the host
 * never holds more than a few of them. */
#include "weights.h"

#include "checkpoint.h"
#include "quantise.h"
#include "weights_quant.h"

#include <stdlib.h>
#include <string.h>

struct pending {
    struct mat *mat;
    struct weights_entry entry;
    const struct st_tensor *tensor; /* NULL: not of a file */
};

static int by_address(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t)((const struct pending *)a)->mat->data;
    uintptr_t y = (uintptr_t)((const struct pending *)b)->mat->data;
    return x < y ? -1 : x > y;
}

/* Every bound weight in order of address; their number, or -1 without memory. */
static int list_weights(struct pending **out, struct weights *w, const struct cfg *cfg)
{
    struct weights_entry e = {0};
    int n = 0;
    while (weights_next(&e, cfg))
        n++;
    struct pending *list = *out = malloc((size_t)n * sizeof *list);
    if (list == NULL)
        return -1;
    n = 0;
    for (e = (struct weights_entry){0}; weights_next(&e, cfg);) {
        struct mat *m = weights_field(w, &e);
        if (m->data != NULL)
            list[n++] = (struct pending){m, e, w->ckpt ? weights_find(&e, w->ckpt) : NULL};
    }
    qsort(list, (size_t)n, sizeof *list, by_address);
    return n;
}

static int group_of(const struct weights_entry *e, const struct cfg *cfg, int n_streamed)
{
    int first = cfg->text.layers - n_streamed;
    bool decoder = e->layer >= 0 && strncmp(e->name, "language_model.", 15) == 0;
    if (!decoder || e->use != WEIGHT_MATRIX || e->layer < first)
        return 0;
    if (strstr(e->name, "cross_attn.k_proj") || strstr(e->name, "cross_attn.v_proj"))
        return 0;
    return e->layer - first + 1;
}

size_t weights_device_bytes(size_t *groups, struct weights *weights, const struct cfg *cfg,
                            const struct weights_move *move)
{
    struct weights_entry e = {0};
    size_t sum = 0;
    for (int i = 0; i < move->n_streamed; i++)
        groups[i] = 0;
    while (weights_next(&e, cfg)) {
        struct mat m = *weights_field(weights, &e);
        int group = group_of(&e, cfg, move->n_streamed);
        if (quantise_changes(&e, &m, move->quant))
            m = quantise_described(&m, move->quant);
        *(group > 0 ? &groups[group - 1] : &sum) += exec_gpu_weight_bytes(&m, e.use);
    }
    return sum;
}

/* One weight; what it is quantised to goes when it is on the device. */
static enum mll_status load_one(struct mll_exec *ex, const struct pending *p,
                                const struct weights_move *move, struct mll_error *err)
{
    struct weights owner = {0};
    enum mll_status status = MLL_OK;
    if (quantise_changes(&p->entry, p->mat, move->quant))
        status = quantise_mat(&owner, p->mat, p->entry.name, move->quant, move->threads, err);
    if (status == MLL_OK)
        status = exec_load_weight(ex, p->mat, p->entry.use, err);
    weights_quant_free(&owner);
    return status;
}

static enum mll_status load_all(struct weights *w, const struct cfg *cfg, struct mll_exec *ex,
                                const struct weights_move *move, const struct pending *list, int n,
                                struct mll_error *err)
{
    enum mll_status status = MLL_OK;
    for (int i = 0; i < n && status == MLL_OK; i++) {
        if (i + 1 < n && list[i + 1].tensor != NULL)
            st_expect(ckpt_file(w->ckpt, list[i + 1].tensor), list[i + 1].tensor);
        exec_set_group(ex, group_of(&list[i].entry, cfg, move->n_streamed));
        status = load_one(ex, &list[i], move, err);
        if (list[i].tensor != NULL)
            st_forget(ckpt_file(w->ckpt, list[i].tensor), list[i].tensor);
    }
    exec_set_group(ex, 0);
    return status;
}

enum mll_status weights_to_device(struct weights *weights, const struct cfg *cfg,
                                  struct mll_exec *ex, const struct weights_move *move,
                                  size_t *bytes, uint64_t *underflows, struct mll_error *err)
{
    size_t groups[CFG_MAX_LAYERS];
    struct pending *list;
    int n = list_weights(&list, weights, cfg);
    if (n < 0)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "out of memory for the list of weights");
    *bytes = weights_device_bytes(groups, weights, cfg, move);
    enum mll_status status = MLL_OK;
    if (move->n_streamed > 0)
        status = exec_begin_groups(ex, move->n_streamed, groups, err);
    if (status == MLL_OK)
        status = exec_begin_weights(ex, *bytes, err);
    if (status == MLL_OK)
        status = load_all(weights, cfg, ex, move, list, n, err);
    if (status == MLL_OK)
        status = exec_end_weights(ex, underflows, err);
    if (status == MLL_OK)
        weights_release(weights);
    for (int i = 0; i < move->n_streamed; i++)
        *bytes += groups[i];
    free(list);
    return status;
}
