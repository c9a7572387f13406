/* attn_vision.cu - attention of all rows of an image over all of them, on the GPU.  Contract:
 * ops.h. A warp a row and head. */
#include "device.cuh"

#define VISION_PER_LANE 8 /* head_dim up to 256 */

__global__ void __launch_bounds__(WARP)
    attn_vision_kernel(float *y, const float *q, const float *k, const float *v, const uint8_t *pad,
                       int rows, int heads, int dim, float scale)
{
    int row = blockIdx.x, head = blockIdx.y;
    size_t at = ((size_t)row * heads + head) * dim;
    bool alike = true;
    for (int j = 0; j < rows; j++)
        alike = alike && pad[row] && pad[j];
    float o[VISION_PER_LANE] = {0}, max = -INFINITY, sum = 0.0f;
    for (int j = 0; j < rows; j++) {
        size_t from = ((size_t)j * heads + head) * dim;
        if (!alike && pad[row] && pad[j])
            continue;
        float s = 0.0f;
        for (int d = threadIdx.x; d < dim; d += WARP)
            s = fmaf(q[at + d], k[from + d], s);
        s = alike ? 0.0f : warp_sum(s) * scale;
        float top = fmaxf(max, s), keep = expf(max - top), p = expf(s - top);
        sum = sum * keep + p;
        for (int i = 0, d = threadIdx.x; d < dim; d += WARP, i++)
            o[i] = o[i] * keep + p * v[from + d];
        max = top;
    }
    for (int i = 0, d = threadIdx.x; d < dim; d += WARP, i++)
        y[at + d] = o[i] / sum;
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

size_t attn_vision_scratch_cuda(const struct mll_exec *ex, int rows, int heads, int head_dim)
{
    (void)ex, (void)rows, (void)heads, (void)head_dim;
    return 0;
}

void attn_vision_cuda(struct mll_exec *ex, float *y, const float *q, const float *k, const float *v,
                      const uint8_t *pad, int rows, int heads, int head_dim, float scale)
{
    LAUNCH(attn_vision_kernel, dim3((unsigned)rows, (unsigned)heads), dim3(WARP), 0, stream_of(ex),
           y, q, k, v, pad, rows, heads, head_dim, scale);
    launched(ex, "attn_vision");
}
#endif
