/* attn_mma.cuh - the tile of the attention kernels: the queries of a warp against KEYS keys, on
 * tensor cores.
 *
 *   s = q k^T;   top = max(s c);   p = exp2(s c - ref);   sum += p;   o += p v
 *
 * ref is raised, and sum and o brought down with it, only where top comes more than ROOM above it:
 * p stays below 2^ROOM, which fp16 holds, and a row is rarely rescaled. All of this is the row's
 * own: its bits depend on nothing but its query and the keys it sees; keys that it does not see
 * have p = 0 and change nothing. q and k are fp16, their scales in c, v is fp16; sums are float32.
 *
 * Keys and values may have scales of their own (key_scales): then s is multiplied by the key's, p
 * by the value's before it becomes fp16, and ref follows s c + log2 of the value's, so that this
 * stays below 2^ROOM too. Where all of a tile's are 1 none of that is done, and nothing would
 * change.
 *
 * From sm_80: m16n8k16 with fragments through ldmatrix, a warp has ROWS rows, a row's scores lie in
 * 4 lanes. sm_70 and sm_75: m8n8k4, each quad pair has 8 of 32 rows and all keys, a row's scores
 * lie in 2 lanes; with ROWS 16 two warps share 32 rows and each has half of v's columns. */
#ifndef MLL_ATTN_MMA_CUH
#define MLL_ATTN_MMA_CUH

#include "operand.cuh"

#define KEYS         32
#define ATTN_THREADS 128
#define ATTN_PAD     8 /* halves behind a row of shared memory: neighbours begin in other banks */
#define ROOM         15.0f
#define START        8.0f /* log2 of the largest p after ref was raised */
#define LOG2_E       1.4426950408889634f

#if MLL_ARCH >= 800
#define ATTN_M(rows)       ((rows) / 16)
#define ATTN_COLS(d, rows) (d)
enum { ATTN_E = 4, ATTN_Q = 4 };
#else
#define ATTN_M(rows)       1
#define ATTN_COLS(d, rows) ((rows) == 16 ? (d) / 2 : (d))
enum { ATTN_E = 8, ATTN_Q = 8 };
#endif

/* What a thread holds of the tile: M groups of rows, two rows ("slots") in each. ATTN_E elements of
 * every 8 columns, ATTN_Q registers of every 16 columns of q. */
template <int D, int ROWS> struct warp_tile {
    static constexpr int M = ATTN_M(ROWS), SLOTS = 2 * M, COLS = ATTN_COLS(D, ROWS);
    uint32_t q[M][D / 16][ATTN_Q];
    float s[M][KEYS / 8][ATTN_E]; /* scores, then p */
    float o[M][COLS / 8][ATTN_E];
    float c[SLOTS], ref[SLOTS], sum[SLOTS];
};

/* ---- numbers --------------------------------------------------------------------------------- */

/* 2^x within 2 units in the last place; 0 below 2^-126. */
__device__ __forceinline__ float exp2_fast(float x)
{
#if defined(MLL_SHIM)
    return exp2f(x);
#else
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#endif
}

__device__ __forceinline__ uint32_t pack_half(float low, float high)
{
    __half2 h = __floats2half2_rn(low, high);
    return *(const uint32_t *)&h;
}

/* Bits 0 to n - 1. */
__device__ __forceinline__ uint32_t first_bits(int n)
{
    return n <= 0 ? 0 : n >= 32 ? ~0u : (1u << n) - 1;
}

/* The rows of a block in a tensor (n, heads, dim): row i is head + i % group of first + i / group.
 */
struct row_map {
    int first, n, group, head, heads, dim; /* n: as many, of which group each are of one row */
};

/* Where row i begins; NULL behind the last. */
template <class T> __device__ __forceinline__ T *row_at(T *tensor, const struct row_map &map, int i)
{
    size_t row = (size_t)(map.first + i / map.group) * map.heads + map.head + i % map.group;
    return i < map.n ? tensor + row * map.dim : NULL;
}
__device__ __forceinline__ __half *row_at(const struct operand &o, const struct row_map &map, int i)
{
    int head = map.head + i % map.group;
    return i < map.n ? half_row(o, map.first + i / map.group) + head * map.dim : NULL;
}

/* Element d of a row; zeros behind its end and where there is no row. */
__device__ __forceinline__ float element(const float *row, int d, int dim)
{
    return row != NULL && d < dim ? row[d] : 0.0f;
}

#if MLL_ARCH >= 800
/* ---- fragments of m16n8k16: lane 4g + t has rows g and g + 8, columns 2t and 2t + 1 ------------
 */

template <int ROWS> __device__ __forceinline__ int warp_row(void)
{
    return (int)threadIdx.x / WARP * ROWS;
}
template <int D, int ROWS> __device__ __forceinline__ int warp_column(void)
{
    return 0;
}
/* Of the warp's rows, the one of this slot. */
__device__ __forceinline__ int slot_row(int slot)
{
    return slot / 2 * 16 + slot % 2 * 8 + (int)threadIdx.x % WARP / 4;
}
/* Element e of row group m: its slot, and its column of 8. */
__device__ __forceinline__ int slot_of(int m, int e)
{
    return 2 * m + e / 2;
}
__device__ __forceinline__ int column_of(int e)
{
    return (int)threadIdx.x % 4 * 2 + e % 2;
}
/* The column of o that element e of its group j is. */
__device__ __forceinline__ int output_column(int j, int e)
{
    return j * 8 + column_of(e);
}

__device__ __forceinline__ float row_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 1));
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
__device__ __forceinline__ float row_sum(float x)
{
    x += __shfl_xor_sync(ALL_LANES, x, 1);
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

/* The warp's rows of q as fp16 over a power of two; c = factor times that. */
template <int D, int ROWS>
__device__ __forceinline__ void load_queries(warp_tile<D, ROWS> &w, const float *q,
                                             const struct row_map &map, float factor)
{
    const int dim = map.dim;
    int first = (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int slot = 0; slot < w.SLOTS; slot++) {
        const float *row = row_at(q, map, warp_row<ROWS>() + slot_row(slot));
        float max = 0.0f;
#pragma unroll 4
        for (int d = first; d < D; d += 8)
            max = fmaxf(
                max, fmaxf(finite_abs(element(row, d, dim)), finite_abs(element(row, d + 1, dim))));
        float scale = half_scale(row_max(max)), inverse = 1.0f / scale;
        w.c[slot] = factor * scale;
#pragma unroll
        for (int i = 0; i < D / 8; i++)
            w.q[slot / 2][i / 2][i % 2 * 2 + slot % 2] =
                pack_half(element(row, i * 8 + first, dim) * inverse,
                          element(row, i * 8 + first + 1, dim) * inverse);
    }
}

/* s = q k^T */
template <int D, int ROWS>
__device__ __forceinline__ void score_keys(warp_tile<D, ROWS> &w,
                                           const __half (*keys)[D + ATTN_PAD])
{
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int k = 0; k < D / 16; k++)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, &keys[n * 8 + lane % 8 + lane / 16 * 8][k * 16 + lane / 8 % 2 * 8]);
#pragma unroll
            for (int m = 0; m < w.M; m++) {
                mma_m16n8k16(w.s[m][n], w.q[m][k], b);
                mma_m16n8k16(w.s[m][n + 1], w.q[m][k], b + 2);
            }
        }
}

/* o += p v */
template <int D, int ROWS>
__device__ __forceinline__ void weigh_values(warp_tile<D, ROWS> &w,
                                             const __half (*values)[D + ATTN_PAD])
{
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n += 2) {
        uint32_t a[warp_tile<D, ROWS>::M][4];
#pragma unroll
        for (int m = 0; m < w.M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][i] = pack_half(w.s[m][n + i / 2][i % 2 * 2], w.s[m][n + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int j = 0; j < D / 8; j += 2) {
            uint32_t b[4];
            ldmatrix_x4_trans(b, &values[n * 8 + lane % 16][j * 8 + lane / 16 * 8]);
#pragma unroll
            for (int m = 0; m < w.M; m++) {
                mma_m16n8k16(w.o[m][j], a[m], b);
                mma_m16n8k16(w.o[m][j + 1], a[m], b + 2);
            }
        }
    }
}
#else
/* ---- fragments of m8n8k4: a quad pair is lanes 4i to 4i + 3 and 16 + 4i to 16 + 4i + 3 ---------
 */

template <int ROWS> __device__ __forceinline__ int warp_row(void)
{
    int warp = (int)threadIdx.x / WARP;
    return ROWS == 16 ? warp / 2 * 32 : warp * ROWS;
}
template <int D, int ROWS> __device__ __forceinline__ int warp_column(void)
{
    return ROWS == 16 ? (int)threadIdx.x / WARP % 2 * (D / 2) : 0;
}
/* The row of A that a lane holds, the warp's 32 counted through its quad pairs. */
__device__ __forceinline__ int operand_row(void)
{
    int lane = threadIdx.x % WARP;
    return lane / 4 % 4 * 8 + lane / 16 * 4 + lane % 4;
}
__device__ __forceinline__ int slot_row(int slot)
{
    int lane = threadIdx.x % WARP;
    return lane / 4 % 4 * 8 + lane / 16 * 4 + lane % 2 + slot * 2;
}
__device__ __forceinline__ int slot_of(int m, int e)
{
    return 2 * m + e / 2 % 2;
}
__device__ __forceinline__ int column_of(int e)
{
    return e / 4 * 4 + ((int)threadIdx.x & 2) + e % 2;
}
/* v is read 16 bytes at a time, so that the columns of two groups are interleaved by fours. */
__device__ __forceinline__ int output_column(int j, int e)
{
    int column = column_of(e);
    return j / 2 * 16 + j % 2 * 4 + column / 4 * 8 + column % 4;
}

__device__ __forceinline__ float row_max(float x)
{
    return fmaxf(x, __shfl_xor_sync(ALL_LANES, x, 2));
}
__device__ __forceinline__ float row_sum(float x)
{
    return x + __shfl_xor_sync(ALL_LANES, x, 2);
}

template <int D, int ROWS>
__device__ __forceinline__ void load_queries(warp_tile<D, ROWS> &w, const float *q,
                                             const struct row_map &map, float factor)
{
    const int dim = map.dim;
    const float *row = row_at(q, map, warp_row<ROWS>() + operand_row());
    float max = 0.0f;
#pragma unroll 8
    for (int d = 0; d < D; d++)
        max = fmaxf(max, finite_abs(element(row, d, dim)));
    float scale = half_scale(max), inverse = 1.0f / scale;
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        w.q[0][i / 8][i % 8] =
            pack_half(element(row, i * 2, dim) * inverse, element(row, i * 2 + 1, dim) * inverse);
#pragma unroll
    for (int slot = 0; slot < w.SLOTS; slot++) /* from the lane of the quad pair that has the row */
        w.c[slot] = factor * __shfl_sync(ALL_LANES, scale, ((int)threadIdx.x & 29) + slot * 2);
}

template <int D, int ROWS>
__device__ __forceinline__ void score_keys(warp_tile<D, ROWS> &w,
                                           const __half (*keys)[D + ATTN_PAD])
{
    int lane = threadIdx.x % WARP, key = lane / 16 * 4 + lane % 4;
#pragma unroll
    for (int k = 0; k < D / 8; k++)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
            uint4 x = *(const uint4 *)&keys[n * 8 + key][k * 8];
            uint32_t b[4] = {x.x, x.y, x.z, x.w};
            mma_m8n8k4(w.s[0][n], w.q[0][k / 2] + k % 2 * 4, b);
            mma_m8n8k4(w.s[0][n], w.q[0][k / 2] + k % 2 * 4 + 2, b + 2);
        }
}

/* p as operand A: of its two rows a lane keeps one, its neighbour has the missing columns. */
__device__ __forceinline__ void exchange(uint32_t (&a)[2][2], const float (&p)[ATTN_E])
{
    bool second = (threadIdx.x & 2) != 0;
    uint32_t own[2], other[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t x = pack_half(p[i * 4], p[i * 4 + 1]), y = pack_half(p[i * 4 + 2], p[i * 4 + 3]);
        own[i] = second ? y : x;
        other[i] = __shfl_xor_sync(ALL_LANES, second ? x : y, 2);
        a[i][0] = second ? other[i] : own[i];
        a[i][1] = second ? own[i] : other[i];
    }
}

template <int D, int ROWS>
__device__ __forceinline__ void weigh_values(warp_tile<D, ROWS> &w,
                                             const __half (*values)[D + ATTN_PAD])
{
    int lane = threadIdx.x % WARP, column = warp_column<D, ROWS>() + lane / 16 * 8;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++) {
        uint32_t a[2][2];
        exchange(a, w.s[0][n]);
#pragma unroll
        for (int k = 0; k < 2; k++)
#pragma unroll
            for (int j = 0; j < w.COLS / 8; j += 2) {
                uint4 x = *(const uint4 *)&values[n * 8 + k * 4 + lane % 4][j * 8 + column];
                uint32_t b[4] = {x.x, x.y, x.z, x.w};
                mma_m8n8k4_row(w.o[0][j], a[k], b);
                mma_m8n8k4_row(w.o[0][j + 1], a[k], b + 2);
            }
    }
}
#endif

/* ---- softmax, the same for both -------------------------------------------------------------- */

template <int D, int ROWS> __device__ __forceinline__ void clear_tile(warp_tile<D, ROWS> &w)
{
#pragma unroll
    for (int slot = 0; slot < w.SLOTS; slot++) {
        w.ref[slot] = -FLOAT_MAX;
        w.sum[slot] = 0.0f;
    }
#pragma unroll
    for (int m = 0; m < w.M; m++)
#pragma unroll
        for (int j = 0; j < w.COLS / 8; j++)
#pragma unroll
            for (int e = 0; e < ATTN_E; e++)
                w.o[m][j][e] = 0.0f;
}

/* Raises ref where the largest score asks for it. */
template <int D, int ROWS>
__device__ __forceinline__ void raise_ref(warp_tile<D, ROWS> &w, int slot, float top)
{
    if (!(top > w.ref[slot] + ROOM))
        return;
    float keep = exp2_fast(w.ref[slot] - (top - START));
    w.ref[slot] = top - START;
    w.sum[slot] *= keep;
#pragma unroll
    for (int j = 0; j < w.COLS / 8; j++)
#pragma unroll
        for (int e = 0; e < ATTN_E; e++)
            if (slot_of(slot / 2, e) == slot)
                w.o[slot / 2][j][e] *= keep;
}

__device__ __forceinline__ void hide_keys(float (&s)[KEYS / 8][ATTN_E], int slot, uint32_t hidden)
{
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < ATTN_E; e++)
            if (slot_of(slot / 2, e) == slot && (hidden >> (n * 8 + column_of(e)) & 1))
                s[n][e] = -INFINITY;
}

/* The scales of KEYS keys and of their values, in shared memory. any: not all of them are 1. */
struct key_scales {
    const float *k, *v;
    bool any;
};

/* v's scale, or 1 where there is no number: what no row sees may be anything, and its p is 0. */
__device__ __forceinline__ float value_scale(const key_scales &scales, int key)
{
    float v = scales.v[key];
    return fabsf(v) <= FLOAT_MAX ? v : 1.0f;
}

/* s times the scale of its key; NaN where that of its value is no number. */
__device__ __forceinline__ void scale_scores(float (&s)[KEYS / 8][ATTN_E], const key_scales &scales)
{
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < ATTN_E; e++)
            if (slot_of(0, e) == 0) {
                int key = n * 8 + column_of(e);
                float scale = scales.k[key] + (scales.v[key] - scales.v[key]);
                s[n][e] *= scale;
                s[n][e + 2] *= scale; /* the other slot's */
            }
}

/* The smallest power of two that is not below a value's scale, as its logarithm. */
__device__ __forceinline__ float log_scale(float scale)
{
    uint32_t bits = __float_as_uint(scale);
    int log = (int)(bits >> 23 & 255) - 127 + ((bits & 0x7fffffu) != 0);
    return (float)max(log, -64); /* 2^ROOM / 2^log has to stay far from the largest float */
}

/* The largest s c + log2 of the value's scale of a slot. */
__device__ __forceinline__ float scaled_top(const float (&s)[KEYS / 8][ATTN_E], int slot, float c,
                                            const key_scales &scales)
{
    float top = -INFINITY;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < ATTN_E; e++)
            if (slot_of(slot / 2, e) == slot) {
                float log = log_scale(value_scale(scales, n * 8 + column_of(e)));
                top = fmaxf(top, fmaf(s[n][e], c, log));
            }
    return row_max(top);
}

/* The largest s of a slot. */
__device__ __forceinline__ float plain_top(const float (&s)[KEYS / 8][ATTN_E], int slot)
{
    float top = -INFINITY;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
        for (int e = 0; e < ATTN_E; e++)
            if (slot_of(slot / 2, e) == slot)
                top = fmaxf(top, s[n][e]);
    return row_max(top);
}

/* The tile's queries against KEYS keys and values in shared memory. scale: what the scores of these
 * keys are multiplied by beside c. hidden: bit i set where the slot does not see key i. */
template <int D, int ROWS>
__device__ __forceinline__ void attend(warp_tile<D, ROWS> &w, const __half (*keys)[D + ATTN_PAD],
                                       const __half (*values)[D + ATTN_PAD], float scale,
                                       const key_scales &scales,
                                       const uint32_t (&hidden)[warp_tile<D, ROWS>::SLOTS])
{
#pragma unroll
    for (int m = 0; m < w.M; m++)
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < ATTN_E; e++)
                w.s[m][n][e] = 0.0f;
    score_keys(w, keys);
#pragma unroll
    for (int m = 0; m < w.M && scales.any; m++)
        scale_scores(w.s[m], scales);
#pragma unroll
    for (int slot = 0; slot < w.SLOTS; slot++) {
        float c = w.c[slot] * scale;
        if (hidden[slot])
            hide_keys(w.s[slot / 2], slot, hidden[slot]);
        raise_ref(w, slot,
                  scales.any ? scaled_top(w.s[slot / 2], slot, c, scales)
                             : plain_top(w.s[slot / 2], slot) * c);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++)
#pragma unroll
            for (int e = 0; e < ATTN_E; e++)
                if (slot_of(slot / 2, e) == slot) {
                    float *x = &w.s[slot / 2][n][e];
                    *x = exp2_fast(fmaf(*x, c, -w.ref[slot]));
                    w.sum[slot] += *x;
                    if (scales.any)
                        *x *= value_scale(scales, n * 8 + column_of(e));
                }
    }
    weigh_values(w, values);
}

__device__ __forceinline__ void put(float *to, float x)
{
    *to = x;
}
__device__ __forceinline__ void put(__half *to, float x)
{
    *to = __float2half_rn(x);
}

/* y, floats or an operand, = o / sum times factor, zeros for a row that saw no key. */
template <class Y, int D, int ROWS>
__device__ __forceinline__ void store_rows(const Y &y, const warp_tile<D, ROWS> &w,
                                           const struct row_map &map, float factor)
{
#pragma unroll
    for (int slot = 0; slot < w.SLOTS; slot++) {
        auto row = row_at(y, map, warp_row<ROWS>() + slot_row(slot));
        float sum = row_sum(w.sum[slot]);
        float inverse = sum == 0.0f ? 0.0f : factor / sum;
#pragma unroll
        for (int j = 0; j < w.COLS / 8; j++)
#pragma unroll
            for (int e = 0; e < ATTN_E; e++) {
                int d = warp_column<D, ROWS>() + output_column(j, e);
                if (slot_of(slot / 2, e) == slot && row != NULL && d < map.dim)
                    put(row + d, w.o[slot / 2][j][e] * inverse + 0.0f); /* no -0 */
            }
    }
}

/* ---- keys and values to shared memory -------------------------------------------------------- */

/* Where KEYS keys and values lie: 16 at element `low` of k and v, 16 at `high`, a row dim elements,
 * whole 16 bytes. Those outside [from, to) are not read and become zeros. */
template <class T> struct key_rows {
    const T *k, *v;
    int64_t low, high;
    int dim, from, to;
};

/* What a thread has under way. int8 becomes fp16 on its way and so goes through registers, as all
 * does before sm_80. */
template <int D, class T> struct tile_copy {
    static constexpr int EACH = 16 / (int)sizeof(T); /* elements of 16 bytes */
    static constexpr int N = (KEYS * D / EACH + ATTN_THREADS - 1) / ATTN_THREADS;
    static constexpr bool ASYNC = MLL_ARCH >= 800 && sizeof(T) == 2;
    uint4 k[ASYNC ? 1 : N] = {}, v[ASYNC ? 1 : N] = {};
};

/* Whether the thread's copy i is one at all, and of which row and column. */
template <int D, class T> __device__ __forceinline__ bool copy_place(int i, int *row, int *column)
{
    constexpr int EACH = tile_copy<D, T>::EACH;
    int at = i * ATTN_THREADS + (int)threadIdx.x;
    *row = at / (D / EACH);
    *column = at % (D / EACH) * EACH;
    return at < KEYS * D / EACH;
}

/* Begins to copy; finish_copy brings it to an end, a barrier behind it shows it to the others. */
template <int D, class T>
__device__ __forceinline__ void begin_copy(tile_copy<D, T> &copy, __half (*keys)[D + ATTN_PAD],
                                           __half (*values)[D + ATTN_PAD], const key_rows<T> &rows)
{
#pragma unroll
    for (int i = 0; i < copy.N; i++) {
        int row, column;
        if (!copy_place<D, T>(i, &row, &column))
            continue;
        bool there = row >= rows.from && row < rows.to && column < rows.dim;
        int64_t at = (row < 16 ? rows.low : rows.high) + (row % 16 * rows.dim + column);
        const T *k = rows.k + (there ? at : 0), *v = rows.v + (there ? at : 0);
        if constexpr (tile_copy<D, T>::ASYNC) {
            cp_async16(&keys[row][column], k, there ? 16 : 0);
            cp_async16(&values[row][column], v, there ? 16 : 0);
        } else {
            copy.k[i] = there ? __ldg((const uint4 *)k) : make_uint4(0, 0, 0, 0);
            copy.v[i] = there ? __ldg((const uint4 *)v) : make_uint4(0, 0, 0, 0);
        }
    }
    if constexpr (tile_copy<D, T>::ASYNC)
        cp_async_commit();
}

/* 16 bytes of a row to shared memory, as fp16. */
__device__ __forceinline__ void put_row(__half *to, uint4 x, __half)
{
    *(uint4 *)to = x;
}
__device__ __forceinline__ void put_row(__half *to, uint4 x, int8_t)
{
    uint32_t h[8];
#pragma unroll
    for (int i = 0; i < 4; i++)
        i8_widen(h + 2 * i, word_of(x, i));
    ((uint4 *)to)[0] = make_uint4(h[0], h[1], h[2], h[3]);
    ((uint4 *)to)[1] = make_uint4(h[4], h[5], h[6], h[7]);
}

template <int D, class T>
__device__ __forceinline__ void finish_copy(const tile_copy<D, T> &copy,
                                            __half (*keys)[D + ATTN_PAD],
                                            __half (*values)[D + ATTN_PAD])
{
    if constexpr (tile_copy<D, T>::ASYNC) {
        cp_async_wait<0>();
    } else {
#pragma unroll
        for (int i = 0; i < copy.N; i++) {
            int row, column;
            if (!copy_place<D, T>(i, &row, &column))
                continue;
            put_row(&keys[row][column], copy.k[i], T());
            put_row(&values[row][column], copy.v[i], T());
        }
    }
}

/* Whether one of 8 halves is infinite or NaN. */
__device__ __forceinline__ bool any_not_finite(const __half *p)
{
    uint4 x = *(const uint4 *)p;
    return ((((x.x & 0x7c007c00u) + 0x04000400u) | ((x.y & 0x7c007c00u) + 0x04000400u) |
             ((x.z & 0x7c007c00u) + 0x04000400u) | ((x.w & 0x7c007c00u) + 0x04000400u)) &
            0x80008000u) != 0;
}

/* A value that is not finite would reach the rows that do not see it too: 0 times NaN. So where
 * rows see different keys it becomes 0 and its key a bit of the result, for poison_rows. Every
 * thread of the block calls it, between finish_copy and attend; it is a barrier. */
template <int D> __device__ __forceinline__ uint32_t purge_values(__half (*values)[D + ATTN_PAD])
{
    bool found = false;
    int row, column;
#pragma unroll
    for (int i = 0; i < tile_copy<D, __half>::N; i++)
        if (copy_place<D, __half>(i, &row, &column))
            found = found || any_not_finite(&values[row][column]);
    if (!__syncthreads_or(found))
        return 0;
    found = false;
    for (column = 0; column < D; column += 8)
        found = found || any_not_finite(&values[threadIdx.x % KEYS][column]);
    uint32_t keys = __ballot_sync(ALL_LANES, found);
    __syncthreads();
    for (int i = 0; i < tile_copy<D, __half>::N; i++)
        if (copy_place<D, __half>(i, &row, &column) && (keys >> row & 1))
            *(uint4 *)&values[row][column] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    return keys;
}

/* Rows that see one of these keys become NaN. */
template <int D, int ROWS>
__device__ __forceinline__ void poison_rows(warp_tile<D, ROWS> &w, uint32_t keys,
                                            const uint32_t (&hidden)[warp_tile<D, ROWS>::SLOTS])
{
#pragma unroll
    for (int slot = 0; slot < w.SLOTS; slot++)
        if (keys & ~hidden[slot])
            w.sum[slot] += __uint_as_float(0x7fc00000u);
}

#endif
