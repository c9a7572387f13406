/* norm.c - RMS and layer normalisation on the CPU.  Contract: kernels/ops.h.
 *   rmsnorm    y = w * (x * (1 / sqrt(mean(x^2) + eps)))            HF: MllamaTextRMSNorm
 *   layernorm  y = (x - mean) * (1 / sqrt(var + eps)) * w + b       HF: nn.LayerNorm
 * A row is one unit of work. Sums in 16 lanes (lanes.h), squares by fused multiply-add. */
#include <math.h>

#include "backend.h"
#include "half.h"
#include "lanes.h"
#include "norm.h"
#include "par.h"

struct norm_args {
    float *y;
    const float *x;
    const struct mat *w, *b; /* b NULL for rmsnorm */
    int dim;
    float eps;
    norm_row_fn *row;
};

void rmsnorm_row_c(float *y, const float *x, const struct mat *w, const struct mat *b, int dim,
                   float eps)
{
    float lane[MLL_LANES] = {0};
    (void)b;
    for (int i = 0; i < dim; i++)
        lane[i % MLL_LANES] = fmaf(x[i], x[i], lane[i % MLL_LANES]);
    float r = 1.0f / sqrtf(lanes_tree(lane) / (float)dim + eps);
    for (int i = 0; i < dim; i++)
        y[i] = weight_at(w->data, w->dtype, (size_t)i) * (x[i] * r);
}

void layernorm_row_c(float *y, const float *x, const struct mat *w, const struct mat *b, int dim,
                     float eps)
{
    float lane[MLL_LANES] = {0}, square[MLL_LANES] = {0};
    for (int i = 0; i < dim; i++)
        lane[i % MLL_LANES] += x[i];
    float mean = lanes_tree(lane) / (float)dim;
    for (int i = 0; i < dim; i++)
        square[i % MLL_LANES] = fmaf(x[i] - mean, x[i] - mean, square[i % MLL_LANES]);
    float r = 1.0f / sqrtf(lanes_tree(square) / (float)dim + eps);
    for (int i = 0; i < dim; i++)
        y[i] = fmaf((x[i] - mean) * r, weight_at(w->data, w->dtype, (size_t)i),
                    weight_at(b->data, b->dtype, (size_t)i));
}

static void norm_rows(void *arg, size_t begin, size_t end, int thread)
{
    const struct norm_args *a = arg;
    (void)thread;
    for (size_t r = begin; r < end; r++)
        a->row(a->y + r * (size_t)a->dim, a->x + r * (size_t)a->dim, a->w, a->b, a->dim, a->eps);
}

void rmsnorm_cpu(struct mll_exec *ex, float *y, const float *x, const struct mat *w, int rows,
                 int dim, float eps)
{
    struct norm_args a = {y, x, w, NULL, dim, eps, SIMD_FORM(ex, rmsnorm_row)};
    par_for(ex->par, exec_threads_for(ex, (size_t)rows * (size_t)dim), (size_t)rows, norm_rows, &a);
}

void add_rmsnorm_cpu(struct mll_exec *ex, float *y, float *h, const float *x,
                     const struct mat *gate, const float *row_scale, const struct mat *w, int rows,
                     int dim, float eps)
{
    add_gated_cpu(ex, h, x, gate, row_scale, rows, dim);
    rmsnorm_cpu(ex, y, h, w, rows, dim, eps);
}

void layernorm_cpu(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                   const struct mat *b, int rows, int dim, float eps)
{
    struct norm_args a = {y, x, w, b, dim, eps, SIMD_FORM(ex, layernorm_row)};
    par_for(ex->par, exec_threads_for(ex, (size_t)rows * (size_t)dim), (size_t)rows, norm_rows, &a);
}
