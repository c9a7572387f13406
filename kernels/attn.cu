/* attn.cu - attention over paged keys on the GPU.  Contract: ops.h. A warp a row and head: online
 * softmax key by key, a lane holding head_dim / 32 elements. */
#include "kv.cuh"

#define ATTN_PER_LANE 8 /* head_dim up to 256 */

__global__ void __launch_bounds__(WARP)
    attn_kernel(float *y, const float *q, kv_view kv, const int32_t *seq, const int32_t *begin,
                const int32_t *end, int heads, float scale)
{
    int row = blockIdx.x, head = blockIdx.y, dim = kv.head_dim;
    size_t at = ((size_t)row * heads + head) * dim;
    float o[ATTN_PER_LANE] = {0}, max = -INFINITY, sum = 0.0f;
    bool valid = begin[row] >= end[row] ||
                 (in_bounds(kv.position, row, begin[row]) && in_bounds(kv.position, row, end[row]));
    for (int j = begin[row]; valid && j < end[row]; j++) {
        int64_t from = kv_place(kv, row, seq[row], j, head / (heads / kv.n_kv_heads));
        if (from < 0) {
            valid = false;
            break;
        }
        float s = 0.0f;
        for (int d = threadIdx.x; d < dim; d += WARP)
            s = fmaf(q[at + d], __half2float(kv.k[from + d]), s);
        s = warp_sum(s) * scale;
        float top = fmaxf(max, s), keep = expf(max - top), p = expf(s - top);
        sum = sum * keep + p;
        for (int i = 0, d = threadIdx.x; d < dim; d += WARP, i++)
            o[i] = o[i] * keep + p * __half2float(kv.v[from + d]);
        max = top;
    }
    for (int i = 0, d = threadIdx.x; d < dim; d += WARP, i++)
        y[at + d] = valid && sum > 0.0f ? o[i] / sum : 0.0f;
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

size_t attn_scratch_cuda(const struct mll_exec *ex, int n, int heads, int head_dim)
{
    (void)ex, (void)n, (void)heads, (void)head_dim;
    return 0;
}

void attn_cuda(struct mll_exec *ex, float *y, const float *q, const struct kv_pool *pool,
               const struct kv_table *table, const int32_t *seq, const int32_t *begin,
               const int32_t *end, int n, int heads, float scale)
{
    LAUNCH(attn_kernel, dim3((unsigned)n, (unsigned)heads), dim3(WARP), 0, stream_of(ex), y, q,
           kv_view_of(ex, pool, table, OP_ATTN, 1), seq, begin, end, heads, scale);
    launched(ex, "attn");
}
#endif
