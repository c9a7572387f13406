/* rope.cu - rotary position embedding on the GPU.  Contract: ops.h. A thread a pair. */
#include "rope.cuh"

#define ROPE_THREADS 128

__global__ void __launch_bounds__(ROPE_THREADS)
    rope_kernel(float *x, const int32_t *pos, const float *inv_freq, int pairs, int heads, int half)
{
    int i = blockIdx.x * ROPE_THREADS + threadIdx.x;
    if (i >= pairs)
        return;
    int row = i / (heads * half), d = i % half;
    float *at = x + (size_t)(i / half) * 2 * half + d;
    rope_pair(&at[0], &at[half], pos[row], inv_freq[d]);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

void rope_cuda(struct mll_exec *ex, float *x, const int32_t *pos, const float *inv_freq, int n,
               int heads, int head_dim)
{
    int pairs = n * heads * (head_dim / 2);
    LAUNCH(rope_kernel, dim3(blocks_for((size_t)pairs, ROPE_THREADS)), dim3(ROPE_THREADS), 0,
           stream_of(ex), x, pos, inv_freq, pairs, heads, head_dim / 2);
    launched(ex, "rope");
}
#endif
