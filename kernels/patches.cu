/* patches.cu - moving pixels and vision rows into place on the GPU.  Contract: ops.h. A block a row
 * of the output, whose elements lie side by side. */
#include "device.cuh"

#define PATCH_THREADS 256
#define JOINED_MAX    16 /* states that join_states takes beside the last */

__global__ void __launch_bounds__(PATCH_THREADS)
    patchify_kernel(float *y, const float *x, int size, int patch, int grid)
{
    int cells = grid * grid, cell = (int)blockIdx.x % cells, area = patch * patch;
    size_t tile = blockIdx.x / (unsigned)cells;
    const float *corner =
        x + (tile * 3 * size + (size_t)(cell / grid) * patch) * size + cell % grid * patch;
    float *row = y + (size_t)blockIdx.x * 3 * area;
    for (int i = threadIdx.x; i < 3 * area; i += PATCH_THREADS) {
        int channel = i / area, pixel = i % area;
        row[i] = corner[((size_t)channel * size + pixel / patch) * size + pixel % patch];
    }
}

__global__ void __launch_bounds__(PATCH_THREADS)
    class_and_pad_kernel(float *y, const float *x, const float *cls, int patches, int rows, int dim)
{
    int tile = (int)blockIdx.x / rows, r = (int)blockIdx.x % rows;
    const float *from = r == 0 ? cls : x + ((size_t)tile * patches + r - 1) * dim;
    float *row = y + (size_t)blockIdx.x * dim;
#pragma unroll 4
    for (int d = threadIdx.x; d < dim; d += PATCH_THREADS)
        row[d] = r <= patches ? from[d] : 0.0f;
}

struct joined {
    const float *kept[JOINED_MAX]; /* (n) of them */
    int n;
};

__global__ void __launch_bounds__(PATCH_THREADS)
    join_states_kernel(float *y, const float *last, joined states, int keep, int rows, int dim)
{
    size_t from =
        ((size_t)(blockIdx.x / (unsigned)keep) * rows + blockIdx.x % (unsigned)keep) * dim;
    float *row = y + (size_t)blockIdx.x * dim * (1 + states.n);
    for (int d = threadIdx.x; d < dim; d += PATCH_THREADS)
        row[d] = last[from + d];
    for (int i = threadIdx.x; i < dim * states.n; i += PATCH_THREADS)
        row[dim + i] = states.kept[i % states.n][from + i / states.n];
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

void patchify_cuda(struct mll_exec *ex, float *y, const float *x, int tiles, int size, int patch)
{
    int grid = size / patch;
    LAUNCH(patchify_kernel, dim3((unsigned)(tiles * grid * grid)), dim3(PATCH_THREADS), 0,
           stream_of(ex), y, x, size, patch, grid);
    launched(ex, "patchify");
}

void class_and_pad_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *cls,
                        int tiles, int patches, int rows, int dim)
{
    LAUNCH(class_and_pad_kernel, dim3((unsigned)(tiles * rows)), dim3(PATCH_THREADS), 0,
           stream_of(ex), y, x, (const float *)cls->data, patches, rows, dim);
    launched(ex, "class_and_pad");
}

void join_states_cuda(struct mll_exec *ex, float *y, const float *last, const float *const *kept,
                      int n_kept, int tiles, int patches, int rows, int dim)
{
    int keep = patches + 1;
    joined states = {{NULL}, n_kept};
    MLL_ASSERT(n_kept <= JOINED_MAX);
    for (int l = 0; l < n_kept; l++)
        states.kept[l] = kept[l];
    LAUNCH(join_states_kernel, dim3((unsigned)(tiles * keep)), dim3(PATCH_THREADS), 0,
           stream_of(ex), y, last, states, keep, rows, dim);
    launched(ex, "join_states");
}
#endif
