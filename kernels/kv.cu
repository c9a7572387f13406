/* kv.cu - storing keys and values in paged KV memory on the GPU, alone or with the rotation of q
 * and k.  Contract: ops.h. A block a row and head. */
#include "kv.cuh"
#include "rope.cuh"

#define KV_THREADS 64

__global__ void __launch_bounds__(KV_THREADS)
    kv_append_kernel(kv_view kv, const float *k, const float *v, const int32_t *seq,
                     const int32_t *pos)
{
    int row = blockIdx.x, head = blockIdx.y;
    int64_t to = kv_place(kv, row, seq[row], pos[row], head);
    size_t from = ((size_t)row * kv.n_kv_heads + head) * kv.head_dim;
    for (int d = threadIdx.x; to >= 0 && d < kv.head_dim; d += KV_THREADS) {
        kv.k[to + d] = __float2half_rn(k[from + d]);
        kv.v[to + d] = __float2half_rn(v[from + d]);
    }
    kv_pad(kv, to);
}

/* Heads of q first, then those of k, each with its v. */
__global__ void __launch_bounds__(KV_THREADS)
    rope_kv_append_kernel(kv_view kv, float *q, const float *k, const float *v,
                          const float *inv_freq, const int32_t *seq, const int32_t *pos, int heads)
{
    int row = blockIdx.x, head = (int)blockIdx.y - heads, half = kv.head_dim / 2;
    if (head < 0) {
        float *x = q + ((size_t)row * heads + blockIdx.y) * kv.head_dim;
        for (int d = threadIdx.x; d < half; d += KV_THREADS)
            rope_pair(&x[d], &x[d + half], pos[row], inv_freq[d]);
        return;
    }
    int64_t to = kv_place(kv, row, seq[row], pos[row], head);
    size_t from = ((size_t)row * kv.n_kv_heads + head) * kv.head_dim;
    for (int d = threadIdx.x; to >= 0 && d < half; d += KV_THREADS) {
        float a = k[from + d], b = k[from + d + half];
        rope_pair(&a, &b, pos[row], inv_freq[d]);
        kv.k[to + d] = __float2half_rn(a);
        kv.k[to + d + half] = __float2half_rn(b);
        kv.v[to + d] = __float2half_rn(v[from + d]);
        kv.v[to + d + half] = __float2half_rn(v[from + d + half]);
    }
    kv_pad(kv, to);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

void kv_append_cuda(struct mll_exec *ex, struct kv_pool *pool, const float *k, const float *v,
                    const struct kv_table *table, const int32_t *seq, const int32_t *pos, int n)
{
    LAUNCH(kv_append_kernel, dim3((unsigned)n, (unsigned)pool->n_kv_heads), dim3(KV_THREADS), 0,
           stream_of(ex), kv_view_of(ex, pool, table, OP_KV_APPEND), k, v, seq, pos);
    launched(ex, "kv_append");
}

void rope_kv_append_cuda(struct mll_exec *ex, struct kv_pool *pool, float *q, float *k,
                         const float *v, const struct kv_table *table, const int32_t *seq,
                         const int32_t *pos, const float *inv_freq, int n, int heads)
{
    LAUNCH(rope_kv_append_kernel, dim3((unsigned)n, (unsigned)(heads + pool->n_kv_heads)),
           dim3(KV_THREADS), 0, stream_of(ex), kv_view_of(ex, pool, table, OP_KV_APPEND), q, k, v,
           inv_freq, seq, pos, heads);
    launched(ex, "rope_kv_append");
}
#endif
