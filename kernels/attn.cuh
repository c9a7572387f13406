/* attn.cuh - what the two families of op_attn share.  Contract: ops.h. Internal to kernels/. */
#ifndef MLL_ATTN_CUH
#define MLL_ATTN_CUH

#include "attn_mma.cuh"
#include "kv.cuh"

/* An op_attn as its kernels take it. A block works for `group` query heads of one KV head. */
struct attn_args {
    float *y; /* (n, heads, head_dim), as q */
    const float *q;
    kv_view kv;
    const int32_t *seq, *begin, *end; /* (n) */
    int n, heads, group;
    float scale;
};

#ifndef __CUDACC_RTC__
/* The largest divisor of the group of query heads that is at most max. */
static inline int heads_in_block(int group, int max)
{
    int n = group < max ? group : max;
    while (group % n != 0)
        n--;
    return n;
}

/* Decode: n rows, ATTN_DECODE_ROWS at a time in the same scratch. */
enum { ATTN_DECODE_ROWS = 8 };
size_t attn_decode_scratch(int n, int heads, int head_dim);
void attn_decode(struct mll_exec *ex, const struct attn_args *args, enum mll_dtype dtype);
#endif
#endif
