/* rope.cu - rotary position embedding on the GPU.  Contract: ops.h. A thread a pair. */
#include "device.cuh"

#define ROPE_THREADS 128

__global__ void __launch_bounds__(ROPE_THREADS)
    rope_kernel(float *x, const int32_t *pos, const float *inv_freq, int pairs, int heads, int half)
{
    int i = blockIdx.x * ROPE_THREADS + threadIdx.x;
    if (i >= pairs)
        return;
    int row = i / (heads * half), d = i % half;
    float *at = x + (size_t)(i / half) * 2 * half + d;
    float angle = (float)pos[row] * inv_freq[d], c = cosf(angle), s = sinf(angle);
    float a = at[0], b = at[half];
    at[0] = a * c - b * s;
    at[half] = b * c + a * s;
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
