/* weights_device.c - the weights of a model onto the device of an exec.  Contract: weights.h.
 *
 * Tensors go in the order in which they lie in memory, which is that of the files: a disk is read
 * from front to back, one tensor ahead, and what was read is given back at once, so that the host
 * never holds more than a few of them. */
#include "weights.h"

#include "checkpoint.h"

#include <stdlib.h>

struct pending {
    struct mat *mat;
    enum weight_use use;
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
            list[n++] = (struct pending){m, e.use, w->ckpt ? weights_find(&e, w->ckpt) : NULL};
    }
    qsort(list, (size_t)n, sizeof *list, by_address);
    return n;
}

static enum mll_status load_all(struct weights *w, struct mll_exec *ex, const struct pending *list,
                                int n, struct mll_error *err)
{
    for (int i = 0; i < n; i++) {
        if (i + 1 < n && list[i + 1].tensor != NULL)
            st_expect(ckpt_file(w->ckpt, list[i + 1].tensor), list[i + 1].tensor);
        MLL_TRY(exec_load_weight(ex, list[i].mat, list[i].use, err));
        if (list[i].tensor != NULL)
            st_forget(ckpt_file(w->ckpt, list[i].tensor), list[i].tensor);
    }
    return MLL_OK;
}

enum mll_status weights_to_device(struct weights *weights, const struct cfg *cfg,
                                  struct mll_exec *ex, size_t *bytes, uint64_t *underflows,
                                  struct mll_error *err)
{
    struct pending *list;
    int n = list_weights(&list, weights, cfg);
    *bytes = 0;
    *underflows = 0;
    if (n < 0)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "out of memory for the list of weights");
    for (int i = 0; i < n; i++)
        *bytes += exec_weight_bytes(ex, list[i].mat, list[i].use);
    enum mll_status status = MLL_OK;
    if (*bytes > 0) {
        status = exec_begin_weights(ex, *bytes, err);
        if (status == MLL_OK)
            status = load_all(weights, ex, list, n, err);
        if (status == MLL_OK)
            status = exec_end_weights(ex, underflows, err);
        if (status == MLL_OK)
            weights_release(weights);
    }
    free(list);
    return status;
}
