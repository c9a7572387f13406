/* sample.cuh - what logits.cu and draw.cu share: how a row falls into parts, and exact sums.
 *
 * A row of logits goes to a block for every SAMPLE_PART elements. What a block finds out goes to
 * scratch, and every block of the next kernel adds it up anew: sums are integers, so that their
 * order does not matter. */
#ifndef MLL_SAMPLE_CUH
#define MLL_SAMPLE_CUH

#include "device.cuh"
#include "sample.h"

#define SAMPLE_THREADS 256
#define SAMPLE_EACH    16 /* elements of a thread */
#define SAMPLE_PART    (SAMPLE_THREADS * SAMPLE_EACH)

__device__ __forceinline__ uint64_t warp_sum64(uint64_t x)
{
#pragma unroll
    for (int o = WARP / 2; o > 0; o >>= 1)
        x += (uint64_t)__shfl_xor_sync(ALL_LANES, (unsigned long long)x, o);
    return x;
}

/* The sum over a block of whole warps, in every thread; part: (WARP) of shared memory. */
__device__ __forceinline__ uint64_t block_sum64(uint64_t x, uint64_t *part)
{
    int warps = blockDim.x / WARP;
    x = warp_sum64(x);
    __syncthreads(); /* part may still be read by an earlier call */
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = x;
    __syncthreads();
    uint64_t sum = 0;
    for (int i = 0; i < warps; i++)
        sum += part[i];
    return sum;
}

/* The sum of n numbers in memory, in every thread of the block. */
__device__ __forceinline__ uint64_t block_total(const uint64_t *x, int n, uint64_t *part)
{
    uint64_t sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        sum += x[i];
    return block_sum64(sum, part);
}

#endif
