/* elementwise.cu - sums, gates and activations on the GPU, with the CPU's bits.  Contract: ops.h.
 *
 * Additions take four elements a thread. Activations stand in front of a matmul: a block takes a
 * row, so that it can leave an operand (rows.cuh). */
#include "device.cuh"
#include "fmath.h"
#include "rows.cuh"

#define ELEMENT_THREADS 256

__global__ void __launch_bounds__(ELEMENT_THREADS)
    add_kernel(float *y, const float *x, const float *z, size_t n)
{
    size_t i = (size_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x;
    if (i < n)
        y[i] = x[i] + z[i];
}

__global__ void __launch_bounds__(ELEMENT_THREADS)
    add4_kernel(float4 *y, const float4 *x, const float4 *z, size_t n)
{
    size_t i = (size_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x;
    if (i >= n)
        return;
    float4 a = x[i], b = z[i];
    y[i] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

/* A row of blocks a row. */
__global__ void __launch_bounds__(ELEMENT_THREADS)
    add_gated_kernel(float *y, const float *base, const float *x, const float *gate,
                     const float *row_scale, int dim)
{
    int i = (int)(blockIdx.y * ELEMENT_THREADS + threadIdx.x);
    size_t at = (size_t)blockIdx.x * dim + i;
    float s = gate == nullptr ? 1.0f : fm_tanh(gate[0]);
    if (i >= dim)
        return;
    if (row_scale != nullptr)
        s *= row_scale[blockIdx.x];
    y[at] = add_scaled(base[at], s, x[at]);
}

__device__ __forceinline__ float silu_mul(float gate, float up)
{
    return gate / (1.0f + fm_exp(-gate)) * up;
}

/* up NULL: gelu(x), else silu(x) up. */
template <int VECS>
__global__ void __launch_bounds__(ROW_THREADS)
    activate_kernel(float *y, struct operand form, const float *x, const float *up, int dim)
{
    SHARED(float, part, [WARP]);
    float4 v[VECS];
    wait_for_previous();
    row_load<VECS>(v, x, dim);
#pragma unroll
    for (int k = 0; k < VECS; k++) {
        float4 a = v[k];
        if (up == nullptr) {
            v[k] = make_float4(fm_gelu(a.x), fm_gelu(a.y), fm_gelu(a.z), fm_gelu(a.w));
        } else {
            float4 b = row_vector(up + (size_t)blockIdx.x * dim, k, dim);
            v[k] = make_float4(silu_mul(a.x, b.x), silu_mul(a.y, b.y), silu_mul(a.z, b.z),
                               silu_mul(a.w, b.w));
        }
    }
    row_put<VECS>(y, form, v, dim, part);
}

__global__ void __launch_bounds__(ELEMENT_THREADS)
    activate_any_kernel(float *y, const float *x, const float *up, size_t n)
{
    size_t i = (size_t)blockIdx.x * ELEMENT_THREADS + threadIdx.x;
    if (i < n)
        y[i] = up == nullptr ? fm_gelu(x[i]) : silu_mul(x[i], up[i]);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

void add_cuda(struct mll_exec *ex, float *y, const float *x, const float *z, size_t n)
{
    if (n % 4 == 0 && ((uintptr_t)y | (uintptr_t)x | (uintptr_t)z) % 16 == 0)
        LAUNCH(add4_kernel, dim3(blocks_for(n / 4, ELEMENT_THREADS)), dim3(ELEMENT_THREADS), 0,
               stream_of(ex), (float4 *)y, (const float4 *)x, (const float4 *)z, n / 4);
    else
        LAUNCH(add_kernel, dim3(blocks_for(n, ELEMENT_THREADS)), dim3(ELEMENT_THREADS), 0,
               stream_of(ex), y, x, z, n);
    launched(ex, "add");
}

void add_rows(struct mll_exec *ex, float *y, const float *base, const float *x, const float *gate,
              const float *row_scale, int rows, int dim)
{
    dim3 grid((unsigned)rows, blocks_for((size_t)dim, ELEMENT_THREADS));
    LAUNCH(add_gated_kernel, grid, dim3(ELEMENT_THREADS), 0, stream_of(ex), y, base, x, gate,
           row_scale, dim);
    launched(ex, "add_gated");
}

void add_gated_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *gate,
                    const float *row_scale, int rows, int dim)
{
    add_rows(ex, y, y, x, gate ? (const float *)gate->data : NULL, row_scale, rows, dim);
}

static void activate(struct mll_exec *ex, float *y, const float *x, const float *up, int rows,
                     int dim, const char *name)
{
    dim3 grid((unsigned)rows), block(row_threads(dim));
    size_t n = (size_t)rows * (size_t)dim;
    int vectors = row_vectors(dim);
    bool whole = dim % 4 == 0 && vectors <= 8, early = begins_early(ex);
    struct operand form = operand_at(ex, y, rows, dim); /* of whole rows, if there is one */
    cudaStream_t s = stream_of(ex);
    if (!whole)
        LAUNCH(activate_any_kernel, dim3(blocks_for(n, ELEMENT_THREADS)), dim3(ELEMENT_THREADS), 0,
               s, y, x, up, n);
    else if (vectors == 1)
        LAUNCH_EARLY(early, activate_kernel<1>, grid, block, 0, s, y, form, x, up, dim);
    else if (vectors == 2)
        LAUNCH_EARLY(early, activate_kernel<2>, grid, block, 0, s, y, form, x, up, dim);
    else if (vectors <= 4)
        LAUNCH_EARLY(early, activate_kernel<4>, grid, block, 0, s, y, form, x, up, dim);
    else
        LAUNCH_EARLY(early, activate_kernel<8>, grid, block, 0, s, y, form, x, up, dim);
    launched(ex, name);
}

void silu_mul_cuda(struct mll_exec *ex, float *y, const float *gate, const float *up, int rows,
                   int dim)
{
    activate(ex, y, gate, up, rows, dim, "silu_mul");
}

void gelu_cuda(struct mll_exec *ex, float *y, const float *x, int rows, int dim)
{
    activate(ex, y, x, NULL, rows, dim, "gelu");
}
#endif
