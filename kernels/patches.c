/* patches.c - moving pixels and vision rows into place on the CPU.  Contract: kernels/ops.h.
 * patchify, class_and_pad and join_states only copy; each unit of work is one output row. */
#include <string.h>

#include "backend.h"
#include "half.h"
#include "par.h"

struct patchify_args {
    float *y;
    const float *x;
    size_t size, patch, grid;
};

static void patchify_rows(void *arg, size_t begin, size_t end, int thread)
{
    const struct patchify_args *a = arg;
    size_t p = a->patch, g = a->grid;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t tile = i / (g * g), r = i / g % g, c = i % g;
        float *y = a->y + i * 3 * p * p;
        for (size_t channel = 0; channel < 3; channel++)
            for (size_t row = 0; row < p; row++) {
                size_t from = ((tile * 3 + channel) * a->size + r * p + row) * a->size + c * p;
                memcpy(y + (channel * p + row) * p, a->x + from, p * sizeof(float));
            }
    }
}

void patchify_cpu(struct mll_exec *ex, float *y, const float *x, int tiles, int size, int patch)
{
    size_t grid = (size_t)(size / patch);
    struct patchify_args a = {y, x, (size_t)size, (size_t)patch, grid};
    par_for(ex->par, ex->threads, (size_t)tiles * grid * grid, patchify_rows, &a);
}

struct class_and_pad_args {
    float *y;
    const float *x;
    const struct mat *cls;
    size_t patches, rows, dim;
};

static void class_and_pad_rows(void *arg, size_t begin, size_t end, int thread)
{
    const struct class_and_pad_args *a = arg;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t tile = i / a->rows, r = i % a->rows;
        float *y = a->y + i * a->dim;
        if (r == 0)
            for (size_t d = 0; d < a->dim; d++)
                y[d] = weight_at(a->cls->data, a->cls->dtype, d);
        else if (r <= a->patches)
            memcpy(y, a->x + (tile * a->patches + r - 1) * a->dim, a->dim * sizeof(float));
        else
            memset(y, 0, a->dim * sizeof(float));
    }
}

void class_and_pad_cpu(struct mll_exec *ex, float *y, const float *x, const struct mat *cls,
                       int tiles, int patches, int rows, int dim)
{
    struct class_and_pad_args a = {y, x, cls, (size_t)patches, (size_t)rows, (size_t)dim};
    par_for(ex->par, ex->threads, (size_t)tiles * (size_t)rows, class_and_pad_rows, &a);
}

struct join_states_args {
    float *y;
    const float *last;
    const float *const *kept;
    size_t n_kept, patches, rows, dim;
};

static void join_states_rows(void *arg, size_t begin, size_t end, int thread)
{
    const struct join_states_args *a = arg;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        size_t tile = i / (a->patches + 1), r = i % (a->patches + 1);
        size_t from = (tile * a->rows + r) * a->dim;
        float *y = a->y + i * a->dim * (1 + a->n_kept);
        memcpy(y, a->last + from, a->dim * sizeof(float));
        y += a->dim;
        for (size_t l = 0; l < a->n_kept; l++)
            for (size_t d = 0; d < a->dim; d++)
                y[d * a->n_kept + l] = a->kept[l][from + d];
    }
}

void join_states_cpu(struct mll_exec *ex, float *y, const float *last, const float *const *kept,
                     int n_kept, int tiles, int patches, int rows, int dim)
{
    struct join_states_args a = {
        y, last, kept, (size_t)n_kept, (size_t)patches, (size_t)rows, (size_t)dim};
    par_for(ex->par, ex->threads, (size_t)tiles * (a.patches + 1), join_states_rows, &a);
}
