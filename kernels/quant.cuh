/* quant.cuh - 4-bit weights in kernels: the pair table, absmax.  Format: struct mat_blocks in
 * ops.h.
 *
 * The 16 values become fp16 times `stretch`, chosen so that they round least (NF4: 0.0065 % of
 * their root mean square, 0.0156 % unstretched; FP4: exact); a byte of codes then is one look-up of
 * two values in a table of 256 pairs, held once for every lane or two lanes so that bank conflicts
 * are none or of degree two. absmax is applied in float32, or in fp16 as two terms. */
#ifndef MLL_QUANT_CUH
#define MLL_QUANT_CUH

#include "matmul.cuh"

/* A Q4 matrix as the kernels take it, made by q4_describe (quant_cuda.h). cols and block are
 * multiples of 64 and codes 16-byte aligned, or else only matmul_plain_kernel may have it. */
struct q4 {
    const uint8_t *codes; /* (rows, cols / 2), the high half first */
    const float *absmax;  /* (blocks), or NULL: double-quantised, by the next four */
    const uint8_t *absmax_codes;
    const float *nested_absmax, *nested_map;
    float nested_offset;
    float unit;     /* of the products: 1 / stretch, prompts: / power too; I8: 1 / 127 */
    float power;    /* of two: |absmax * power| <= 2^14 */
    int block_log2; /* a block is 2^block_log2 elements */
    int rows, cols;
    uint32_t values[8]; /* pairs of fp16: times stretch, so that the largest is in [1, 2) */
};

/* What the kernels are given: a.parts[i] has the outputs, rows and scale of weight w[i]. Of
 * I8 only codes, unit, rows and cols are there. All are of one kind and have the same values. */
struct quant_args {
    struct matmul_args a;
    struct q4 w[MLL_MATMUL_GROUP];
};

/* The weight that row tile `tile` of the launch belongs to; not its values, which w[0] has. */
__device__ __forceinline__ struct q4 quant_weight_of(const struct quant_args &q, int tile)
{
    struct q4 w = q.w[0];
#pragma unroll
    for (int i = 1; i < MLL_MATMUL_GROUP; i++)
        if (i < q.a.n_parts && tile >= q.a.parts[i].tile_from)
            w = q.w[i];
    return w;
}

/* Where bank conflicts would be the limit (as many weights a clock as HBM brings) one copy a lane.
 */
#if MLL_ARCH == 800 || MLL_ARCH >= 900
#define Q4_COPIES_LOG 5
#else
#define Q4_COPIES_LOG 4
#endif
#define Q4_COPIES (1 << Q4_COPIES_LOG)
#define Q4_TABLE  (256 * Q4_COPIES)

/* The 16 values to shared memory, where an index may depend on the thread: into w it would copy all
 * of w to local memory. A barrier has to follow. */
__device__ __forceinline__ void q4_values(uint32_t values[16], const struct q4 &w)
{
    if (threadIdx.x == 0)
#pragma unroll
        for (int i = 0; i < 16; i++)
            values[i] = w.values[i / 2] >> i % 2 * 16 & 0xffffu;
}

/* Fills table, of shared memory, by all threads of the block; a barrier has to follow. */
__device__ __forceinline__ void q4_fill(uint32_t *table, const uint32_t values[16])
{
    for (int i = threadIdx.x; i < Q4_TABLE / 4; i += blockDim.x) {
        int byte = i * 4 / Q4_COPIES;
        uint32_t pair = values[byte & 15] << 16 | values[byte >> 4];
        ((uint4 *)table)[i] = make_uint4(pair, pair, pair, pair);
    }
}

/* The lane's copy of the table. */
__device__ __forceinline__ shared_at q4_copy(const uint32_t *table)
{
    return shared_at_of(table + threadIdx.x % Q4_COPIES);
}

/* The two values of byte `byte` (0 to 3, known when compiling) of codes, the first in the low half;
 * copy: q4_copy(). */
__device__ __forceinline__ uint32_t q4_pair(shared_at copy, uint32_t codes, int byte)
{
    return shared_word(copy + __byte_perm(codes, 0, 0x4440 + byte) * (4 * Q4_COPIES));
}

/* The absmax of a block. map: nested_map, in shared memory. */
template <bool NESTED>
__device__ __forceinline__ float q4_absmax(const struct q4 &w, const float *map, size_t block)
{
    if (!NESTED)
        return w.absmax[block];
    float scaled = __fmul_rn(map[w.absmax_codes[block]], w.nested_absmax[block / 256]);
    return __fadd_rn(scaled, w.nested_offset);
}

/* ---- weights as fp16 ------------------------------------------------------------------------- */

/* The low and the high bytes of 16 fp16 values. */
struct q4_scaled {
    uint32_t low[4], high[4];
};

/* The values of a block times scale, as a sum of two halves, so that only the products are rounded.
 */
__device__ __forceinline__ struct q4_scaled q4_scale_values(const uint32_t values[8], float scale)
{
    __half first = __float2half_rn(scale);
    __half2 rest = __half2half2(__float2half_rn(scale - __half2float(first)));
    uint32_t pair[8];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        __half2 v = half2_of(values[i]);
        pair[i] = half2_bits(__hfma2(v, __half2half2(first), __hmul2(v, rest)));
    }
    struct q4_scaled s;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        s.low[i] = __byte_perm(pair[2 * i], pair[2 * i + 1], 0x6420);
        s.high[i] = __byte_perm(pair[2 * i], pair[2 * i + 1], 0x7531);
    }
    return s;
}

/* Eight codes as eight halves. A nibble selects a byte among the first eight or the last eight of
 * 16 by its low bits; its high bit then says which. */
__device__ __forceinline__ uint4 q4_expand(const struct q4_scaled &s, uint32_t codes)
{
    uint32_t low_bits = codes & 0x77777777u, which = (codes >> 1 & 0x44444444u) | 0x32103210u;
    uint32_t out[4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t at = low_bits >> 16 * i, from = which >> 16 * i;
        uint32_t low = __byte_perm(__byte_perm(s.low[0], s.low[1], at),
                                   __byte_perm(s.low[2], s.low[3], at), from);
        uint32_t high = __byte_perm(__byte_perm(s.high[0], s.high[1], at),
                                    __byte_perm(s.high[2], s.high[3], at), from);
        out[2 * i] = __byte_perm(low, high, 0x4051); /* the high nibble comes first */
        out[2 * i + 1] = __byte_perm(low, high, 0x6273);
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

#endif
