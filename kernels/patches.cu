/* patches.cu - moving pixels and vision rows into place on the GPU.  Contract: ops.h. A thread an
 * element of the output. */
#include "device.cuh"

#define PATCH_THREADS 256

__global__ void __launch_bounds__(PATCH_THREADS)
    patchify_kernel(float *y, const float *x, size_t n, int size, int patch, int grid)
{
    size_t i = (size_t)blockIdx.x * PATCH_THREADS + threadIdx.x;
    if (i >= n)
        return;
    int width = 3 * patch * patch, at = (int)(i % width);
    int channel = at / (patch * patch), row = at / patch % patch, col = at % patch;
    size_t cell = i / width, tile = cell / (grid * grid);
    int r = (int)(cell / grid % grid) * patch + row, c = (int)(cell % grid) * patch + col;
    y[i] = x[((tile * 3 + channel) * size + r) * size + c];
}

__global__ void __launch_bounds__(PATCH_THREADS)
    class_and_pad_kernel(float *y, const float *x, const float *cls, size_t n, int patches,
                         int rows, int dim)
{
    size_t i = (size_t)blockIdx.x * PATCH_THREADS + threadIdx.x;
    if (i >= n)
        return;
    size_t tile = i / dim / rows;
    int r = (int)(i / dim % rows), d = (int)(i % dim);
    if (r == 0)
        y[i] = cls[d];
    else
        y[i] = r <= patches ? x[(tile * patches + r - 1) * dim + d] : 0.0f;
}

/* Copies one of the joined states: y[t][r][first + d * stride] = x[t][r][d], r < keep. */
__global__ void __launch_bounds__(PATCH_THREADS)
    join_state_kernel(float *y, const float *x, size_t n, int keep, int rows, int dim, int width,
                      int first, int stride)
{
    size_t i = (size_t)blockIdx.x * PATCH_THREADS + threadIdx.x;
    if (i >= n)
        return;
    size_t row = i / dim, from = row / keep * rows + row % keep;
    int d = (int)(i % dim);
    y[row * width + first + (size_t)d * stride] = x[from * dim + d];
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

void patchify_cuda(struct mll_exec *ex, float *y, const float *x, int tiles, int size, int patch)
{
    int grid = size / patch;
    size_t n = (size_t)tiles * (size_t)(grid * grid) * (size_t)(3 * patch * patch);
    LAUNCH(patchify_kernel, dim3(blocks_for(n, PATCH_THREADS)), dim3(PATCH_THREADS), 0,
           stream_of(ex), y, x, n, size, patch, grid);
    launched(ex, "patchify");
}

void class_and_pad_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *cls,
                        int tiles, int patches, int rows, int dim)
{
    size_t n = (size_t)tiles * (size_t)rows * (size_t)dim;
    LAUNCH(class_and_pad_kernel, dim3(blocks_for(n, PATCH_THREADS)), dim3(PATCH_THREADS), 0,
           stream_of(ex), y, x, (const float *)cls->data, n, patches, rows, dim);
    launched(ex, "class_and_pad");
}

void join_states_cuda(struct mll_exec *ex, float *y, const float *last, const float *const *kept,
                      int n_kept, int tiles, int patches, int rows, int dim)
{
    int keep = patches + 1, width = dim * (1 + n_kept);
    size_t n = (size_t)tiles * (size_t)keep * (size_t)dim;
    for (int l = -1; l < n_kept; l++) {
        LAUNCH(join_state_kernel, dim3(blocks_for(n, PATCH_THREADS)), dim3(PATCH_THREADS), 0,
               stream_of(ex), y, l < 0 ? last : kept[l], n, keep, rows, dim, width,
               l < 0 ? 0 : dim + l, l < 0 ? 1 : n_kept);
        launched(ex, "join_states");
    }
}
#endif
