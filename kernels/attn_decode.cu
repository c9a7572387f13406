/* attn_decode.cu - attention of single tokens over paged keys on the GPU.  Contract: ops.h.
 *
 * Blocks share the keys of a row and KV head by absolute position: SPLIT keys each, 32 a warp, and
 * where there are more than SPLITS of those every SPLITS-th split goes to the same block. A block's
 * part (o, ref, sum) goes to scratch, and the block that is last adds all parts, in the order of
 * the keys. So a row's bits depend on its own range and keys only, and the grid on shapes only:
 * blocks without keys exit at once.
 *
 * Up to 8 query heads are the rows of the tensor cores' operand A. Keys and values go from memory
 * to fragments without shared memory, 16 bytes a lane: which column of a fragment is which
 * dimension is ours to choose, as long as q and k, or v and o, agree.
 *   s = q k^T: a quad (sm_80; on sm_70 the four quad pairs) reads 64 bytes of a key
 *   o = p v:   sm_80: the halves of two keys are interleaved in registers; sm_70: B is row-major */
#include "attn.cuh"

#define DECODE_THREADS 256
#define DECODE_WARPS   (DECODE_THREADS / WARP)
#define DECODE_HEADS   8
#define SPLIT          (DECODE_WARPS * KEYS)
#define SPLITS         64

/* What the blocks of a pass over rows leave. */
struct decode_parts {
    float *o;          /* (rows, heads, SPLITS, D) */
    float2 *stats;     /* (rows, heads, SPLITS): ref, sum; sum -1 after a fault */
    unsigned *tickets; /* (rows, heads), zeros before and after */
    int first;         /* row of the op */
};

/* The keys of a warp: two blocks of memory, of which the op sees [from, to), at least one. */
struct warp_keys {
    int64_t low, high; /* elements of k and v */
    int dim, from, to;
};

__device__ __forceinline__ uint4 load_halves(const __half *p)
{
    return load_stream16(p);
}
__device__ __forceinline__ uint4 load_halves(const int8_t *p)
{
    uint2 codes = load_stream8(p);
    uint32_t h[4];
    i8_widen(h, codes.x);
    i8_widen(h + 2, codes.y);
    return make_uint4(h[0], h[1], h[2], h[3]);
}

/* 8 elements of key (or value) i from column d on, as fp16. Of keys that are not seen another is
 * read in their place, which is: their p is 0. Likewise columns. */
template <class T>
__device__ __forceinline__ uint4 load_8(const T *base, const warp_keys &keys, int i, int d)
{
    i = min(max(i, keys.from), keys.to - 1);
    const T *block = base + (i < KV_BLOCK ? keys.low : keys.high);
    return load_halves(block + (i % KV_BLOCK * keys.dim + min(d, keys.dim - 8)));
}

/* The scales of the warp's keys, through (2, KEYS) floats of shared memory; of keys that are not
 * seen another's, as above. */
template <class T>
__device__ __forceinline__ key_scales warp_scales(float *both, const T *k, const T *v,
                                                  const warp_keys &keys)
{
    int lane = threadIdx.x % WARP, i = min(max(lane, keys.from), keys.to - 1);
    int64_t at = i < KV_BLOCK ? keys.low : keys.high;
    float k_scale = *kv_scale_at(k + at, keys.dim, i % KV_BLOCK);
    float v_scale = *kv_scale_at(v + at, keys.dim, i % KV_BLOCK);
    both[lane] = k_scale;
    both[KEYS + lane] = v_scale;
    bool any = __any_sync(ALL_LANES, k_scale != 1.0f || v_scale != 1.0f);
    __syncwarp();
    return key_scales{both, both + KEYS, any};
}

#if MLL_ARCH >= 800
/* Lane 4g + t has head g, columns 8t to 8t + 7 of every 32, keys 2t and 2t + 1 of every 8. */
enum { DECODE_SLOTS = 1, DECODE_O = 8 };

__device__ __forceinline__ int query_head(void)
{
    return (int)threadIdx.x % WARP / 4;
}
__device__ __forceinline__ int query_column(void)
{
    return (int)threadIdx.x % 4 * 8;
}
/* The key, of 8, that the lane reads. */
__device__ __forceinline__ int query_key(void)
{
    return (int)threadIdx.x % WARP / 4;
}
/* The column, of 64, of element e of o[j]. */
__device__ __forceinline__ int decode_column(int j, int e)
{
    return column_of(e) * 8 + j;
}

/* s += 8 columns of q times those of 8 keys */
__device__ __forceinline__ void decode_score(float (&s)[ATTN_E], uint4 q, uint4 x)
{
    uint32_t a[2][4] = {{q.x, 0, q.y, 0}, {q.z, 0, q.w, 0}}, b[2][2] = {{x.x, x.y}, {x.z, x.w}};
    mma_m16n8k16(s, a[0], b[0]);
    mma_m16n8k16(s, a[1], b[1]);
}

__device__ __forceinline__ void decode_sum(float (&s)[ATTN_E])
{
    (void)s;
}

/* p as operand A of KEYS / 8 / DECODE_P groups of keys. */
enum { DECODE_P = 2 };

__device__ __forceinline__ void decode_operand(uint32_t (&a)[4], const float (&p)[KEYS / 8][ATTN_E],
                                               int i)
{
    a[0] = pack_half(p[2 * i][0], p[2 * i][1]);
    a[2] = pack_half(p[2 * i + 1][0], p[2 * i + 1][1]);
    a[1] = a[3] = 0;
}

/* o += p v for 64 columns from d on, 16 keys: B wants two keys of a column side by side. */
template <class T>
__device__ __forceinline__ void decode_weigh(float (&o)[DECODE_O][ATTN_E], const uint32_t (&a)[4],
                                             const T *v, const warp_keys &keys, int i, int d)
{
    int lane = threadIdx.x % WARP;
    uint32_t x[4][4];
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int key = i * 16 + k / 2 * 8 + lane % 4 * 2 + k % 2;
        uint4 from = load_8(v, keys, key, d + lane / 4 * 8);
        x[k][0] = from.x;
        x[k][1] = from.y;
        x[k][2] = from.z;
        x[k][3] = from.w;
    }
#pragma unroll
    for (int j = 0; j < DECODE_O; j++) {
        unsigned halves = j % 2 ? 0x7632 : 0x5410;
        uint32_t b[2] = {__byte_perm(x[0][j / 2], x[1][j / 2], halves),
                         __byte_perm(x[2][j / 2], x[3][j / 2], halves)};
        mma_m16n8k16(o[j], a, b);
    }
}
#else
/* A lane has one head as operand A and two in s and o; quad pair i columns 8i to 8i + 7 of every 32
 * of q and k, and 16i to 16i + 15 of every 64 of v. */
enum { DECODE_SLOTS = 2, DECODE_O = 2 };

__device__ __forceinline__ int query_head(void)
{
    return operand_row() % 8;
}
__device__ __forceinline__ int query_column(void)
{
    return (int)threadIdx.x / 4 % 4 * 8;
}
__device__ __forceinline__ int query_key(void)
{
    return operand_row() % 8;
}
__device__ __forceinline__ int decode_column(int j, int e)
{
    int column = column_of(e);
    return (int)threadIdx.x / 4 % 4 * 16 + column / 4 * 8 + j * 4 + column % 4;
}

__device__ __forceinline__ void decode_score(float (&s)[ATTN_E], uint4 q, uint4 x)
{
    uint32_t a[4] = {q.x, q.y, q.z, q.w}, b[4] = {x.x, x.y, x.z, x.w};
    mma_m8n8k4(s, a, b);
    mma_m8n8k4(s, a + 2, b + 2);
}

/* The quad pairs have the scores of their columns. */
__device__ __forceinline__ void decode_sum(float (&s)[ATTN_E])
{
#pragma unroll
    for (int e = 0; e < ATTN_E; e++) {
        s[e] += __shfl_xor_sync(ALL_LANES, s[e], 4);
        s[e] += __shfl_xor_sync(ALL_LANES, s[e], 8);
    }
}

enum { DECODE_P = 1 };

__device__ __forceinline__ void decode_operand(uint32_t (&a)[4], const float (&p)[KEYS / 8][ATTN_E],
                                               int i)
{
    uint32_t x[2][2];
    exchange(x, p[i]);
    a[0] = x[0][0];
    a[1] = x[0][1];
    a[2] = x[1][0];
    a[3] = x[1][1];
}

template <class T>
__device__ __forceinline__ void decode_weigh(float (&o)[DECODE_O][ATTN_E], const uint32_t (&a)[4],
                                             const T *v, const warp_keys &keys, int i, int d)
{
    int lane = threadIdx.x % WARP, column = lane / 4 % 4 * 16 + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < 2; k++) {
        uint4 x = load_8(v, keys, i * 8 + k * 4 + lane % 4, d + column);
        uint32_t b[4] = {x.x, x.y, x.z, x.w};
        mma_m8n8k4_row(o[0], a + 2 * k, b);
        mma_m8n8k4_row(o[1], a + 2 * k, b + 2);
    }
}
#endif

/* Queries of the block's heads as fp16 over a power of two. */
template <int D> struct decode_queries {
    __half q[DECODE_HEADS][D + ATTN_PAD];
    float c[DECODE_HEADS];
};

/* Warp i prepares head i; zeros where row is NULL. */
template <int D>
__device__ __forceinline__ void decode_query(decode_queries<D> &queries, const float *row, int dim,
                                             float factor)
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float max = 0.0f;
    for (int d = lane; d < D; d += WARP)
        max = fmaxf(max, finite_abs(element(row, d, dim)));
    float scale = half_scale(warp_max(max));
    for (int d = lane; d < D; d += WARP)
        queries.q[warp][d] = __float2half_rn(element(row, d, dim) * (1.0f / scale));
    if (lane == 0)
        queries.c[warp] = factor * scale;
}

/* One warp's keys: o (DECODE_HEADS, D) and stats (DECODE_HEADS) in shared memory. */
template <int D, class T>
__device__ __forceinline__ void decode_warp(float (*o_out)[D + 4], float2 *stats,
                                            float *both_scales, const kv_view &kv,
                                            const decode_queries<D> &queries, const warp_keys &keys)
{
    constexpr int P = KEYS / 8 / DECODE_P;
    const T *k = (const T *)kv.k, *v = (const T *)kv.v;
    float s[KEYS / 8][ATTN_E] = {};
    key_scales scales = warp_scales(both_scales, k, v, keys);
#pragma unroll 1
    for (int d = 0; d < D; d += 32) {
        uint4 q = *(const uint4 *)&queries.q[query_head()][d + query_column()];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
            decode_score(s[n], q, load_8(k, keys, n * 8 + query_key(), d + query_column()));
    }
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
        decode_sum(s[n]);
    if (scales.any)
        scale_scores(s, scales);
    uint32_t hidden = first_bits(keys.from) | ~first_bits(keys.to);
#pragma unroll
    for (int slot = 0; slot < DECODE_SLOTS; slot++) {
        float sum = 0.0f, c = queries.c[slot_row(slot) % 8];
        hide_keys(s, slot, hidden);
        float ref = (scales.any ? scaled_top(s, slot, c, scales) : plain_top(s, slot) * c) - START;
        ref = ref > -FLOAT_MAX ? ref : -FLOAT_MAX;
#pragma unroll
        for (int i = 0; i < KEYS / 8 * ATTN_E; i++)
            if (slot_of(0, i % ATTN_E) == slot) {
                float *p = &s[i / ATTN_E][i % ATTN_E];
                *p = exp2_fast(fmaf(*p, c, -ref));
                sum += *p;
                if (scales.any)
                    *p *= value_scale(scales, i / ATTN_E * 8 + column_of(i % ATTN_E));
            }
        sum = row_sum(sum);
        if (decode_column(0, 0) == 0) /* one of the lanes that have it */
            stats[slot_row(slot) % 8] = make_float2(ref, sum);
    }
    uint32_t a[P][4];
#pragma unroll
    for (int i = 0; i < P; i++)
        decode_operand(a[i], s, i);
#pragma unroll 1
    for (int d = 0; d < D; d += 64) {
        float o[DECODE_O][ATTN_E] = {};
#pragma unroll
        for (int i = 0; i < P; i++)
            decode_weigh(o, a[i], v, keys, i, d);
#pragma unroll
        for (int j = 0; j < DECODE_O; j++)
#pragma unroll
            for (int e = 0; e < ATTN_E; e++)
                if (slot_of(0, e) < DECODE_SLOTS && d + decode_column(j, e) < D)
                    o_out[slot_row(slot_of(0, e)) % 8][d + decode_column(j, e)] = o[j][e];
    }
}

/* The keys of this warp in a split, none where *good is or becomes false: a block that the table
 * does not name. */
template <class T>
__device__ __forceinline__ warp_keys split_keys(const kv_view &kv, int seq, int begin, int end,
                                                int split, int kv_head, bool *good)
{
    int first = split * SPLIT + (int)threadIdx.x / WARP * KEYS;
    int64_t entry = (int64_t)seq * kv.max_blocks + first / KV_BLOCK;
    warp_keys keys = {0, 0, kv.stride, max(begin - first, 0), min(end - first, KEYS)};
    if (keys.from < KV_BLOCK && keys.to > 0) {
        int block = kv.blocks[entry];
        *good = in_bounds(kv.block, entry, block) && *good;
        keys.low = kv_block_at<T>(kv, block, kv_head);
    }
    if (keys.from < keys.to && keys.to > KV_BLOCK) {
        int block = kv.blocks[entry + 1];
        *good = in_bounds(kv.block, entry + 1, block) && *good;
        keys.high = kv_block_at<T>(kv, block, kv_head);
    }
    if (!*good)
        keys.to = 0;
    return keys;
}

/* Parts of one head, added in the order of their keys; a lane has D / 32 columns. */
template <int D> struct decode_total {
    float ref, sum, o[D / 32];
};

template <int D> __device__ __forceinline__ void clear_total(decode_total<D> &t)
{
    t.ref = -FLOAT_MAX;
    t.sum = 0.0f;
#pragma unroll
    for (int i = 0; i < D / 32; i++)
        t.o[i] = 0.0f;
}

/* o: (D) of the part. */
template <int D>
__device__ __forceinline__ void add_part(decode_total<D> &t, float2 stats, const float *o)
{
    float ref = fmaxf(t.ref, stats.x);
    float keep = exp2_fast(t.ref - ref), weight = exp2_fast(stats.x - ref);
    t.ref = ref;
    t.sum = t.sum * keep + stats.y * weight;
#pragma unroll
    for (int i = 0; i < D / 32; i++)
        t.o[i] = t.o[i] * keep + o[(int)threadIdx.x % WARP * (D / 32) + i] * weight;
}

/* The last block of a row and KV head: y = the sum of the parts. */
template <int D>
__device__ __forceinline__ void decode_combine(float *y, const decode_parts &parts, size_t part,
                                               int first, int blocks, int dim)
{
    decode_total<D> total;
    bool good = true;
    clear_total(total);
    for (int i = 0; i < blocks; i++) {
        size_t at = part + (size_t)((first + i) & (SPLITS - 1));
        float2 stats = __ldcg(&parts.stats[at]);
        good = good && !(stats.y < 0.0f); /* NaN is no fault */
        add_part(total, stats, parts.o + at * D);
    }
    float inverse = good && total.sum != 0.0f ? 1.0f / total.sum : 0.0f;
    for (int i = 0; i < D / 32; i++) {
        int d = (int)threadIdx.x % WARP * (D / 32) + i;
        if (d < dim)
            y[d] = good ? total.o[i] * inverse : 0.0f;
    }
}

template <int D, class T>
__global__ void __launch_bounds__(DECODE_THREADS)
    attn_decode_kernel(attn_args a, decode_parts parts)
{
    SHARED(float, outs, [DECODE_WARPS][DECODE_HEADS][D + 4]);
    SHARED(float2, stats, [DECODE_WARPS][DECODE_HEADS]);
    SHARED(float, both_scales, [DECODE_WARPS][2 * KEYS]);
    SHARED(decode_queries<D>, shared_queries, [1]);
    SHARED(bool, seen, [DECODE_WARPS]); /* whether the warp has keys */
    SHARED(unsigned, ticket, [1]);
    int row = parts.first + (int)blockIdx.z, head = blockIdx.y * a.group, dim = a.kv.head_dim;
    wait_for_previous();
    int seq = a.seq[row], begin = a.begin[row], end = a.end[row], warp = threadIdx.x / WARP;
    decode_queries<D> &queries = shared_queries[0];
    bool good = kv_range(a.kv, row, seq, begin, end);
    if (!good || begin >= end) {
        float *y = a.y + ((size_t)row * a.heads + head) * dim;
        for (int i = threadIdx.x; blockIdx.x == 0 && i < a.group * dim; i += DECODE_THREADS)
            y[i] = 0.0f;
        return;
    }
    int first = begin / SPLIT, split = first + (((int)blockIdx.x - first) & (SPLITS - 1));
    if (split * SPLIT >= end)
        return;

    const float *query = a.q + ((size_t)row * a.heads + head + warp) * dim;
    decode_query(queries, warp < a.group ? query : NULL, dim, a.scale * LOG2_E);
    __syncthreads();
    decode_total<D> total;
    clear_total(total);
    for (; split * SPLIT < end; split += SPLITS) {
        int kv_head = head / (a.heads / a.kv.n_kv_heads);
        warp_keys keys = split_keys<T>(a.kv, seq, begin, end, split, kv_head, &good);
        bool any = keys.from < keys.to;
        if (threadIdx.x % WARP == 0)
            seen[warp] = any;
        if (any)
            decode_warp<D, T>(outs[warp], stats[warp], both_scales[warp], a.kv, queries, keys);
        __syncthreads();
#pragma unroll 2
        for (int w = 0; w < DECODE_WARPS; w++)
            if (seen[w])
                add_part(total, stats[w][warp], outs[w][warp]);
        good = __syncthreads_and(good) != 0;
    }

    /* Warp i has the part of head i. */
    size_t part = ((size_t)blockIdx.z * a.heads + head + warp) * SPLITS;
    if (warp < a.group) {
        size_t to = part + blockIdx.x;
        for (int i = 0; i < D / 32; i++)
            __stcg(&parts.o[to * D + threadIdx.x % WARP * (D / 32) + i], total.o[i]);
        if (threadIdx.x % WARP == 0)
            __stcg(&parts.stats[to], make_float2(total.ref, good ? total.sum : -1.0f));
    }
    __threadfence();
    __syncthreads();
    unsigned *tickets = &parts.tickets[blockIdx.z * a.heads + head];
    first = opaque(begin) / SPLIT;
    int blocks = min((end - 1) / SPLIT - first + 1, SPLITS);
    if (threadIdx.x == 0)
        ticket[0] = atomicAdd(tickets, 1u);
    __syncthreads();
    if (ticket[0] != (unsigned)blocks - 1)
        return;
    __threadfence();
    if (threadIdx.x == 0)
        *tickets = 0;
    float *y = a.y + ((size_t)opaque(row) * a.heads + head + warp) * dim;
    if (warp < a.group)
        decode_combine<D>(y, parts, part, first, blocks, dim);
}

#ifndef __CUDACC_RTC__
/* Columns of a head in scratch. */
static size_t decode_columns(int head_dim)
{
    return head_dim <= 32 ? 32 : 128;
}

size_t attn_decode_scratch(int n, int heads, int head_dim)
{
    size_t rows = (size_t)(n < ATTN_DECODE_ROWS ? n : ATTN_DECODE_ROWS);
    size_t parts = rows * (size_t)heads * SPLITS;
    return parts * (decode_columns(head_dim) * sizeof(float) + sizeof(float2)) + 2 * 64;
}

void attn_decode(struct mll_exec *ex, const struct attn_args *args, enum mll_dtype dtype)
{
    struct attn_args a = *args;
    int n_rows = a.n < ATTN_DECODE_ROWS ? a.n : ATTN_DECODE_ROWS;
    size_t n_parts = (size_t)n_rows * (size_t)a.heads * SPLITS;
    int keys = a.kv.max_blocks * KV_BLOCK, splits = (keys + SPLIT - 1) / SPLIT;
    struct decode_parts parts;
    MLL_ASSERT(n_rows * a.heads <= EXEC_TICKETS);
    a.group = heads_in_block(a.heads / a.kv.n_kv_heads, DECODE_HEADS);
    parts.o = (float *)exec_alloc(ex, n_parts * decode_columns(a.kv.head_dim) * sizeof(float));
    parts.stats = (float2 *)exec_alloc(ex, n_parts * sizeof(float2));
    parts.tickets = exec_cuda(ex)->tickets;
    bool early = begins_early(ex);
    for (parts.first = 0; parts.first < a.n; parts.first += ATTN_DECODE_ROWS) {
        int rows = a.n - parts.first < ATTN_DECODE_ROWS ? a.n - parts.first : ATTN_DECODE_ROWS;
        dim3 grid((unsigned)(splits < SPLITS ? splits : SPLITS), (unsigned)(a.heads / a.group),
                  (unsigned)rows),
            block(DECODE_THREADS);
        if (a.kv.head_dim <= 32 && dtype == MLL_DTYPE_I8)
            LAUNCH_EARLY(early, (attn_decode_kernel<32, int8_t>), grid, block, 0, stream_of(ex), a,
                         parts);
        else if (a.kv.head_dim <= 32)
            LAUNCH_EARLY(early, (attn_decode_kernel<32, __half>), grid, block, 0, stream_of(ex), a,
                         parts);
        else if (dtype == MLL_DTYPE_I8)
            LAUNCH_EARLY(early, (attn_decode_kernel<128, int8_t>), grid, block, 0, stream_of(ex), a,
                         parts);
        else
            LAUNCH_EARLY(early, (attn_decode_kernel<128, __half>), grid, block, 0, stream_of(ex), a,
                         parts);
        launched(ex, "attn_decode");
    }
}
#endif
