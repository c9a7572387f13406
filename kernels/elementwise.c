/* elementwise.c - add, add_gated, silu_mul and gelu on the CPU.  Contract: kernels/ops.h.
 * Every element by itself, so any split over threads gives the same bits. The additions are left to
 * the compiler's vectoriser: without fused multiply-adds its results are those of the plain loop.
 */
#include <math.h>

#include "backend.h"
#include "elementwise.h"
#include "fmath.h"
#include "par.h"

struct elementwise_args {
    float *y;
    const float *x, *z;
    span_fn *span;
};

static void add_span(float *y, const float *x, const float *z, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = x[i] + z[i];
}

void silu_mul_span_c(float *y, const float *gate, const float *up, size_t n)
{
    for (size_t i = 0; i < n; i++)
        y[i] = gate[i] / (1.0f + fm_exp(-gate[i])) * up[i];
}

void gelu_span_c(float *y, const float *x, const float *unused, size_t n)
{
    (void)unused;
    for (size_t i = 0; i < n; i++)
        y[i] = fm_gelu(x[i]);
}

static void elementwise_part(void *arg, size_t begin, size_t end, int thread)
{
    const struct elementwise_args *a = arg;
    (void)thread;
    a->span(a->y + begin, a->x + begin, a->z ? a->z + begin : NULL, end - begin);
}

void add_cpu(struct mll_exec *ex, float *y, const float *x, const float *z, size_t n)
{
    struct elementwise_args a = {y, x, z, add_span};
    par_for(ex->par, exec_threads_for(ex, n), n, elementwise_part, &a);
}

void silu_mul_cpu(struct mll_exec *ex, float *y, const float *gate, const float *up, int rows,
                  int dim)
{
    size_t n = (size_t)rows * (size_t)dim;
    struct elementwise_args a = {y, gate, up, SIMD_FORM(ex, silu_mul_span)};
    par_for(ex->par, exec_threads_for(ex, n), n, elementwise_part, &a);
}

void gelu_cpu(struct mll_exec *ex, float *y, const float *x, int rows, int dim)
{
    size_t n = (size_t)rows * (size_t)dim;
    struct elementwise_args a = {y, x, NULL, SIMD_FORM(ex, gelu_span)};
    par_for(ex->par, exec_threads_for(ex, n), n, elementwise_part, &a);
}

struct add_gated_args {
    float *y;
    const float *x, *row_scale;
    float gate;
    size_t dim;
};

static void add_gated_rows(void *arg, size_t begin, size_t end, int thread)
{
    const struct add_gated_args *a = arg;
    (void)thread;
    for (size_t r = begin; r < end; r++) {
        float scale = a->row_scale ? a->gate * a->row_scale[r] : a->gate;
        float *y = a->y + r * a->dim;
        const float *x = a->x + r * a->dim;
        for (size_t i = 0; i < a->dim; i++)
            y[i] += scale * x[i];
    }
}

void add_gated_cpu(struct mll_exec *ex, float *y, const float *x, const struct mat *gate,
                   const float *row_scale, int rows, int dim)
{
    float s = gate ? fm_tanh(weight_at(gate->data, gate->dtype, 0)) : 1.0f;
    struct add_gated_args a = {y, x, row_scale, s, (size_t)dim};
    par_for(ex->par, exec_threads_for(ex, (size_t)rows * a.dim), (size_t)rows, add_gated_rows, &a);
}
