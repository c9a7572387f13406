/* argmax.cu - the most likely id on the GPU.  Contract: ops.h. A block a row. */
#include "device.cuh"

#define ARGMAX_THREADS 256

/* Order of candidates: the larger value, of equals the lower index. */
__device__ __forceinline__ bool argmax_better(float x, int i, float best, int at)
{
    return x > best || (x == best && i < at);
}

__global__ void __launch_bounds__(ARGMAX_THREADS)
    argmax_kernel(int32_t *id, uint8_t *finite, const float *x, int dim)
{
    SHARED(float, best_of, [ARGMAX_THREADS]);
    SHARED(int, at_of, [ARGMAX_THREADS]);
    SHARED(int, finite_of, [ARGMAX_THREADS]);
    const float *row = x + (size_t)blockIdx.x * dim;
    float best = -INFINITY;
    int at = dim, ok = 1;
    for (int i = threadIdx.x; i < dim; i += ARGMAX_THREADS) {
        ok &= row[i] < INFINITY;
        if (argmax_better(row[i], i, best, at)) {
            best = row[i];
            at = i;
        }
    }
    best_of[threadIdx.x] = best;
    at_of[threadIdx.x] = at;
    finite_of[threadIdx.x] = ok;
    for (int half = ARGMAX_THREADS / 2; half > 0; half /= 2) {
        __syncthreads();
        int other = threadIdx.x + half;
        if ((int)threadIdx.x >= half)
            continue;
        finite_of[threadIdx.x] &= finite_of[other];
        if (argmax_better(best_of[other], at_of[other], best_of[threadIdx.x], at_of[threadIdx.x])) {
            best_of[threadIdx.x] = best_of[other];
            at_of[threadIdx.x] = at_of[other];
        }
    }
    if (threadIdx.x == 0) {
        id[blockIdx.x] = at_of[0] < dim ? at_of[0] : 0;
        finite[blockIdx.x] = (uint8_t)finite_of[0];
    }
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

void argmax_cuda(struct mll_exec *ex, int32_t *id, uint8_t *finite, const float *x, int n, int dim)
{
    LAUNCH(argmax_kernel, dim3((unsigned)n), dim3(ARGMAX_THREADS), 0, stream_of(ex), id, finite, x,
           dim);
    launched(ex, "argmax");
}
#endif
