/* elementwise.cu - sums, gates and activations on the GPU.  Contract: ops.h. A thread an element.
 */
#include "device.cuh"

#define ELEMENT_THREADS 256

__global__ void __launch_bounds__(ELEMENT_THREADS)
    add_kernel(float *y, const float *x, const float *z, size_t n)
{
    size_t i = (size_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x;
    if (i < n)
        y[i] = x[i] + z[i];
}

__global__ void __launch_bounds__(ELEMENT_THREADS)
    add_gated_kernel(float *y, const float *x, const float *gate, const float *row_scale, size_t n,
                     int dim)
{
    size_t i = (size_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x;
    if (i >= n)
        return;
    float s = gate == nullptr ? 1.0f : tanhf(gate[0]);
    if (row_scale != nullptr)
        s *= row_scale[i / dim];
    y[i] += s * x[i];
}

__global__ void __launch_bounds__(ELEMENT_THREADS)
    silu_mul_kernel(float *y, const float *gate, const float *up, size_t n)
{
    size_t i = (size_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x;
    if (i < n)
        y[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
}

__global__ void __launch_bounds__(ELEMENT_THREADS) gelu_kernel(float *y, const float *x, size_t n)
{
    size_t i = (size_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x;
    if (i < n)
        y[i] = 0.5f * x[i] * (1.0f + erff(x[i] * 0.70710678f));
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

void add_cuda(struct mll_exec *ex, float *y, const float *x, const float *z, size_t n)
{
    LAUNCH(add_kernel, dim3(blocks_for(n, ELEMENT_THREADS)), dim3(ELEMENT_THREADS), 0,
           stream_of(ex), y, x, z, n);
    launched(ex, "add");
}

void add_gated_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *gate,
                    const float *row_scale, int rows, int dim)
{
    size_t n = (size_t)rows * (size_t)dim;
    LAUNCH(add_gated_kernel, dim3(blocks_for(n, ELEMENT_THREADS)), dim3(ELEMENT_THREADS), 0,
           stream_of(ex), y, x, gate ? (const float *)gate->data : nullptr, row_scale, n, dim);
    launched(ex, "add_gated");
}

void silu_mul_cuda(struct mll_exec *ex, float *y, const float *gate, const float *up, size_t n)
{
    LAUNCH(silu_mul_kernel, dim3(blocks_for(n, ELEMENT_THREADS)), dim3(ELEMENT_THREADS), 0,
           stream_of(ex), y, gate, up, n);
    launched(ex, "silu_mul");
}

void gelu_cuda(struct mll_exec *ex, float *y, const float *x, size_t n)
{
    LAUNCH(gelu_kernel, dim3(blocks_for(n, ELEMENT_THREADS)), dim3(ELEMENT_THREADS), 0,
           stream_of(ex), y, x, n);
    launched(ex, "gelu");
}
#endif
