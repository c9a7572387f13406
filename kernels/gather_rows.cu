/* gather_rows.cu - rows of a stored table by id on the GPU.  Contract: ops.h. A block a row. */
#include "device.cuh"

#define GATHER_THREADS 256

template <typename T>
__global__ void __launch_bounds__(GATHER_THREADS)
    gather_rows_kernel(float *y, const T *table, const int32_t *ids, int dim, bounds b)
{
    int id = ids[blockIdx.x];
    bool valid = id >= 0 && id < b.n;
    if (!valid && threadIdx.x == 0)
        in_bounds(b, blockIdx.x, id);
#pragma unroll 4
    for (int i = threadIdx.x; i < dim; i += GATHER_THREADS)
        y[(size_t)blockIdx.x * dim + i] = valid ? widen(table[(size_t)id * dim + i]) : 0.0f;
}

template __global__ void gather_rows_kernel<float>(float *, const float *, const int32_t *, int,
                                                   bounds);
template __global__ void gather_rows_kernel<__half>(float *, const __half *, const int32_t *, int,
                                                    bounds);
template __global__ void gather_rows_kernel<bf16>(float *, const bf16 *, const int32_t *, int,
                                                  bounds);

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

static void gather(struct mll_exec *ex, float *y, const void *table, enum mll_dtype dtype,
                   const int32_t *ids, int n, int dim, bounds b)
{
    dim3 grid((unsigned)n), block(GATHER_THREADS);
    cudaStream_t s = stream_of(ex);
    if (dtype == MLL_DTYPE_F32)
        LAUNCH(gather_rows_kernel<float>, grid, block, 0, s, y, (const float *)table, ids, dim, b);
    else if (dtype == MLL_DTYPE_F16)
        LAUNCH(gather_rows_kernel<__half>, grid, block, 0, s, y, (const __half *)table, ids, dim,
               b);
    else
        LAUNCH(gather_rows_kernel<bf16>, grid, block, 0, s, y, (const bf16 *)table, ids, dim, b);
}

void gather_rows_cuda(struct mll_exec *ex, float *y, const struct mat *table, const int32_t *ids,
                      int n)
{
    gather(ex, y, table->data, table->dtype, ids, n, table->cols,
           bounds_of(ex, OP_GATHER_ROWS, table->rows));
    launched(ex, "gather_rows");
}

void take_rows_cuda(struct mll_exec *ex, float *y, const float *x, const int32_t *ids, int n,
                    int n_x, int dim)
{
    gather(ex, y, x, MLL_DTYPE_F32, ids, n, dim, bounds_of(ex, OP_TAKE_ROWS, n_x));
    launched(ex, "take_rows");
}
#endif
