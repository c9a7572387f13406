/* norm.cu - RMSNorm and LayerNorm on the GPU.  Contract: ops.h. A block a row; a thread takes
 * elements blockDim.x apart, the block's sum is in fixed order. */
#include "device.cuh"

#define NORM_THREADS 256

/* y = w x / sqrt(mean(x^2) + eps) */
__global__ void __launch_bounds__(NORM_THREADS)
    rmsnorm_kernel(float *y, const float *x, const float *w, int dim, float eps)
{
    SHARED(float, part, [WARP]);
    const float *row = x + (size_t)blockIdx.x * dim;
    float *out = y + (size_t)blockIdx.x * dim, sum = 0.0f;
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        sum = fmaf(row[i], row[i], sum);
    float scale = 1.0f / sqrtf(block_sum(sum, part) / (float)dim + eps);
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        out[i] = w[i] * (row[i] * scale);
}

/* y = (x - mean) / sqrt(var + eps) w + b */
__global__ void __launch_bounds__(NORM_THREADS)
    layernorm_kernel(float *y, const float *x, const float *w, const float *b, int dim, float eps)
{
    SHARED(float, part, [WARP]);
    const float *row = x + (size_t)blockIdx.x * dim;
    float *out = y + (size_t)blockIdx.x * dim, sum = 0.0f, squares = 0.0f;
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        sum += row[i];
    float mean = block_sum(sum, part) / (float)dim;
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        squares = fmaf(row[i] - mean, row[i] - mean, squares);
    float scale = 1.0f / sqrtf(block_sum(squares, part) / (float)dim + eps);
    for (int i = threadIdx.x; i < dim; i += NORM_THREADS)
        out[i] = (row[i] - mean) * scale * w[i] + b[i];
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

void rmsnorm_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *w, int rows,
                  int dim, float eps)
{
    LAUNCH(rmsnorm_kernel, dim3((unsigned)rows), dim3(NORM_THREADS), 0, stream_of(ex), y, x,
           (const float *)w->data, dim, eps);
    launched(ex, "rmsnorm");
}

void layernorm_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                    const struct mat *b, int rows, int dim, float eps)
{
    LAUNCH(layernorm_kernel, dim3((unsigned)rows), dim3(NORM_THREADS), 0, stream_of(ex), y, x,
           (const float *)w->data, (const float *)b->data, dim, eps);
    launched(ex, "layernorm");
}
#endif
