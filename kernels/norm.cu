/* norm.cu - RMSNorm, also behind a residual, and LayerNorm on the GPU.  Contract: ops.h.
 *
 * A block a row, which stays in registers from the first sum to the last product: VECS float4 a
 * thread. An operand (ops.h, exec_operand) then takes no more than the row's maximum. Rows too long
 * for the registers, or not of whole float4s, are read again for every step. A row's sum depends on
 * dim only. */
#include "device.cuh"
#include "fmath.h"
#include "rows.cuh"

#define NORM_THREADS 256 /* of rows that are read again */

/* y = w v / sqrt(mean(v^2) + eps), v = x, or where h is given h = h + s row_scale x. */
template <int VECS>
__global__ void __launch_bounds__(ROW_THREADS)
    rmsnorm_kernel(float *y, struct operand form, float *h, const float *x, const float *gate,
                   const float *row_scale, const float *w, int dim, float eps)
{
    SHARED(float, part, [WARP]);
    float4 v[VECS];
    float sum = 0.0f;
    wait_for_previous();
    row_load<VECS>(v, x, dim);
    if (h != nullptr) {
        float s = gate == nullptr ? 1.0f : fm_tanh(gate[0]);
        float4 old[VECS];
        s = row_scale == nullptr ? s : s * row_scale[blockIdx.x];
        row_load<VECS>(old, h, dim);
#pragma unroll
        for (int k = 0; k < VECS; k++)
            v[k] = make_float4(add_scaled(old[k].x, s, v[k].x), add_scaled(old[k].y, s, v[k].y),
                               add_scaled(old[k].z, s, v[k].z), add_scaled(old[k].w, s, v[k].w));
        row_store<VECS>(h, v, dim);
    }
#pragma unroll
    for (int k = 0; k < VECS; k++)
        sum = fmaf(v[k].w, v[k].w,
                   fmaf(v[k].z, v[k].z, fmaf(v[k].y, v[k].y, fmaf(v[k].x, v[k].x, sum))));
    float r = 1.0f / sqrtf(block_sum(sum, part) / (float)dim + eps);
#pragma unroll
    for (int k = 0; k < VECS; k++) {
        float4 a = row_vector(w, k, dim);
        v[k] = make_float4(a.x * (v[k].x * r), a.y * (v[k].y * r), a.z * (v[k].z * r),
                           a.w * (v[k].w * r));
    }
    row_put<VECS>(y, form, v, dim, part);
}

/* y = (x - mean) / sqrt(var + eps) w + b */
template <int VECS>
__global__ void __launch_bounds__(ROW_THREADS)
    layernorm_kernel(float *y, struct operand form, const float *x, const float *w, const float *b,
                     int dim, float eps)
{
    SHARED(float, part, [WARP]);
    float4 v[VECS];
    float sum = 0.0f, squares = 0.0f;
    row_load<VECS>(v, x, dim);
#pragma unroll
    for (int k = 0; k < VECS; k++)
        sum += v[k].x + v[k].y + v[k].z + v[k].w;
    float mean = block_sum(sum, part) / (float)dim;
#pragma unroll
    for (int k = 0; k < VECS; k++) {
        if (row_column(k) >= dim)
            break;
        v[k] = make_float4(v[k].x - mean, v[k].y - mean, v[k].z - mean, v[k].w - mean);
        squares = fmaf(v[k].w, v[k].w,
                       fmaf(v[k].z, v[k].z, fmaf(v[k].y, v[k].y, fmaf(v[k].x, v[k].x, squares))));
    }
    float r = 1.0f / sqrtf(block_sum(squares, part) / (float)dim + eps);
#pragma unroll
    for (int k = 0; k < VECS; k++) {
        float4 a = row_vector(w, k, dim), c = row_vector(b, k, dim);
        v[k] = make_float4(fmaf(v[k].x * r, a.x, c.x), fmaf(v[k].y * r, a.y, c.y),
                           fmaf(v[k].z * r, a.z, c.z), fmaf(v[k].w * r, a.w, c.w));
    }
    row_put<VECS>(y, form, v, dim, part);
}

__global__ void __launch_bounds__(NORM_THREADS)
    rmsnorm_any_kernel(float *y, const float *x, const float *w, int dim, float eps)
{
    SHARED(float, part, [WARP]);
    const float *row = x + (size_t)blockIdx.x * dim;
    float *out = y + (size_t)blockIdx.x * dim, sum = 0.0f;
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        sum = fmaf(row[i], row[i], sum);
    float r = 1.0f / sqrtf(block_sum(sum, part) / (float)dim + eps);
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        out[i] = w[i] * (row[i] * r);
}

__global__ void __launch_bounds__(NORM_THREADS)
    layernorm_any_kernel(float *y, const float *x, const float *w, const float *b, int dim,
                         float eps)
{
    SHARED(float, part, [WARP]);
    const float *row = x + (size_t)blockIdx.x * dim;
    float *out = y + (size_t)blockIdx.x * dim, sum = 0.0f, squares = 0.0f;
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        sum += row[i];
    float mean = block_sum(sum, part) / (float)dim;
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        squares = fmaf(row[i] - mean, row[i] - mean, squares);
    float r = 1.0f / sqrtf(block_sum(squares, part) / (float)dim + eps);
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        out[i] = fmaf((row[i] - mean) * r, w[i], b[i]);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

/* h NULL: no residual. */
static void rmsnorm(struct mll_exec *ex, float *y, float *h, const float *x, const float *gate,
                    const float *row_scale, const struct mat *w, int rows, int dim, float eps)
{
    dim3 grid((unsigned)rows), block(row_threads(dim));
    struct operand form = operand_at(ex, y, rows, dim);
    const float *weight = (const float *)w->data;
    if (row_vectors(dim) == 1)
        LAUNCH_EARLY(begins_early(ex), rmsnorm_kernel<1>, grid, block, 0, stream_of(ex), y, form, h,
                     x, gate, row_scale, weight, dim, eps);
    else
        LAUNCH_EARLY(begins_early(ex), rmsnorm_kernel<2>, grid, block, 0, stream_of(ex), y, form, h,
                     x, gate, row_scale, weight, dim, eps);
}

/* Rows of two float4 a thread at most. */
static bool fits_registers(int dim)
{
    return dim % 4 == 0 && row_vectors(dim) <= 2;
}

/* Behind a kernel that wrote floats where there may be an operand. */
static void floats_written(struct mll_exec *ex, float *y, int rows, int dim, const char *name)
{
    struct operand o = operand_at(ex, y, rows, dim);
    launched(ex, name);
    if (o.rows != NULL)
        operand_from(ex, &o, y);
}

void rmsnorm_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *w, int rows,
                  int dim, float eps)
{
    if (fits_registers(dim)) {
        rmsnorm(ex, y, NULL, x, NULL, NULL, w, rows, dim, eps);
        launched(ex, "rmsnorm");
        return;
    }
    LAUNCH(rmsnorm_any_kernel, dim3((unsigned)rows), dim3(NORM_THREADS), 0, stream_of(ex), y, x,
           (const float *)w->data, dim, eps);
    floats_written(ex, y, rows, dim, "rmsnorm");
}

void add_rmsnorm_cuda(struct mll_exec *ex, float *y, float *h, const float *x,
                      const struct mat *gate, const float *row_scale, const struct mat *w, int rows,
                      int dim, float eps)
{
    if (!fits_registers(dim)) {
        add_gated_cuda(ex, h, x, gate, row_scale, rows, dim);
        rmsnorm_cuda(ex, y, h, w, rows, dim, eps);
        return;
    }
    rmsnorm(ex, y, h, x, gate ? (const float *)gate->data : NULL, row_scale, w, rows, dim, eps);
    launched(ex, "add_rmsnorm");
}

void layernorm_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                    const struct mat *b, int rows, int dim, float eps)
{
    dim3 grid((unsigned)rows), block(row_threads(dim));
    const float *weight = (const float *)w->data, *bias = (const float *)b->data;
    struct operand form = operand_at(ex, y, rows, dim);
    if (!fits_registers(dim)) {
        LAUNCH(layernorm_any_kernel, grid, dim3(NORM_THREADS), 0, stream_of(ex), y, x, weight, bias,
               dim, eps);
        floats_written(ex, y, rows, dim, "layernorm");
        return;
    }
    if (row_vectors(dim) == 1)
        LAUNCH(layernorm_kernel<1>, grid, block, 0, stream_of(ex), y, form, x, weight, bias, dim,
               eps);
    else
        LAUNCH(layernorm_kernel<2>, grid, block, 0, stream_of(ex), y, form, x, weight, bias, dim,
               eps);
    launched(ex, "layernorm");
}
#endif
