/* attn_vision.cu - attention of all rows of an image over all of them, on the GPU.  Contract:
 * ops.h. The tile is attn_mma.cuh's; nothing of size rows x rows is stored.
 *
 * First k and v become fp16, head by head: k over a power of two for every 32 keys, v over one for
 * the head, chosen by an atomic maximum of integers, whose order does not show. Then a block takes
 * 4 * ROWS queries of a head along all keys, 32 at a time, the next 32 under way. Tiles whose keys
 * and queries are all pads are left out. */
#include "attn_mma.cuh"

/* What belongs to 32 keys of a head. Rows that do not exist count as pads. */
struct key_tile {
    float scale;  /* of k */
    uint32_t pad; /* bit i: key i is a pad */
};

struct vision_args {
    float *y;           /* (rows, heads, dim), as q, k, v */
    struct operand out; /* the same; rows NULL: y it is */
    const float *q, *k, *v;
    const uint8_t *pad;    /* (rows) */
    __half *k16, *v16;     /* (heads, tiles, KEYS, D), zeros behind dim and rows */
    struct key_tile *info; /* (heads, tiles) */
    unsigned *max;         /* (heads), the largest |v| as the bits of a float; 0 at first */
    int rows, heads, dim, tiles;
    float scale;
};

/* Fills max. A block a tile and head, as below. */
__global__ void __launch_bounds__(ATTN_THREADS) vision_max_kernel(vision_args a)
{
    SHARED(float, part, [WARP]);
    int first = blockIdx.x * KEYS, head = blockIdx.y;
    float top = 0.0f;
    for (int i = threadIdx.x; i < KEYS * a.dim && first + i / a.dim < a.rows; i += ATTN_THREADS) {
        size_t row = (size_t)(first + i / a.dim) * a.heads + head;
        top = fmaxf(top, finite_abs(a.v[row * a.dim + i % a.dim]));
    }
    top = block_max(top, part);
    if (threadIdx.x == 0)
        atomicMax(&a.max[head], __float_as_uint(top));
}

/* Fills k16, v16, info. */
template <int D> __global__ void __launch_bounds__(ATTN_THREADS) vision_pack_kernel(vision_args a)
{
    enum { PAIRS = KEYS * D / 2 / ATTN_THREADS };
    SHARED(float, part, [WARP]);
    int head = blockIdx.y, first = blockIdx.x * KEYS, tile = head * a.tiles + (int)blockIdx.x;
    float k[PAIRS][2], v[PAIRS][2], top = 0.0f;
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        int at = 2 * (i * ATTN_THREADS + (int)threadIdx.x), row = first + at / D;
        size_t from = ((size_t)row * a.heads + head) * a.dim;
#pragma unroll
        for (int e = 0; e < 2; e++) {
            bool there = row < a.rows && at % D + e < a.dim;
            k[i][e] = there ? a.k[from + at % D + e] : 0.0f;
            v[i][e] = there ? a.v[from + at % D + e] : 0.0f;
            top = fmaxf(top, finite_abs(k[i][e]));
        }
    }
    float scale = half_scale(block_max(top, part));
    float over_k = 1.0f / scale, over_v = 1.0f / half_scale(__uint_as_float(a.max[head]));
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
        size_t to = (size_t)tile * (KEYS * D) + 2 * (i * ATTN_THREADS + threadIdx.x);
        *(uint32_t *)&a.k16[to] = pack_half(k[i][0] * over_k, k[i][1] * over_k);
        *(uint32_t *)&a.v16[to] = pack_half(v[i][0] * over_v, v[i][1] * over_v);
    }
    if (threadIdx.x < KEYS) {
        int row = first + (int)threadIdx.x;
        uint32_t pad = __ballot_sync(ALL_LANES, row >= a.rows || a.pad[row] != 0);
        if (threadIdx.x == 0)
            a.info[tile] = key_tile{scale, pad};
    }
}

/* The first tile from t on that is not all pads, where those are left out. */
__device__ __forceinline__ int next_tile(const key_tile *info, int t, int tiles, bool skip)
{
    while (skip && t < tiles && info[t].pad == ~0u)
        t++;
    return t;
}

template <int D>
__device__ __forceinline__ key_rows<__half> tile_rows(const __half *k16, const __half *v16, int t)
{
    int64_t at = (int64_t)t * (KEYS * D);
    return key_rows<__half>{k16, v16, at, at + 16 * D, D, 0, KEYS};
}

/* The block's rows, from `first` on. */
template <int ROWS> __device__ __forceinline__ row_map vision_rows(const vision_args &a, int first)
{
    return row_map{first, min(a.rows - first, 4 * ROWS), 1, (int)blockIdx.y, a.heads, a.dim};
}

/* To y, or to the operand, all of whose rows are over the power of two of the largest |v|: what is
 * a mean of values is no larger. */
template <int D, int ROWS, bool OPERAND>
__device__ __forceinline__ void store_vision(const vision_args &a, const warp_tile<D, ROWS> &w,
                                             const row_map &map)
{
    float of_head = half_scale(__uint_as_float(a.max[map.head]));
    if (!OPERAND) {
        store_rows(a.y, w, map, of_head);
        return;
    }
    unsigned top = 0;
    for (int i = 0; i < a.heads; i++)
        top = max(top, a.max[i]);
    float scale = half_scale(__uint_as_float(top));
    store_rows(a.out, w, map, of_head / scale);
    if (map.head == 0 && (int)threadIdx.x < map.n)
        half_row_end(a.out, map.first + threadIdx.x, scale, 0, 1);
}

template <int D, int ROWS, bool OPERAND>
__global__ void __launch_bounds__(ATTN_THREADS, 2) vision_kernel(vision_args a)
{
    using tile = warp_tile<D, ROWS>;
    SHARED(__half, keys, [2][KEYS][D + ATTN_PAD]);
    SHARED(__half, values, [2][KEYS][D + ATTN_PAD]);
    int first = blockIdx.x * (4 * ROWS), head = blockIdx.y, tiles = a.tiles;
    row_map map = vision_rows<ROWS>(a, first);
    const key_tile *info = a.info + head * tiles;
    const __half *k16 = a.k16 + (size_t)head * tiles * (KEYS * D);
    const __half *v16 = a.v16 + (size_t)head * tiles * (KEYS * D);

    bool all = true;
    for (int i = threadIdx.x; i < tiles; i += ATTN_THREADS)
        all = all && info[i].pad == ~0u;
    bool alike = __syncthreads_and(all), any_pad = false, only_pads = !alike;
    for (int i = first / KEYS; i < tiles && i * KEYS < first + 4 * ROWS; i++) {
        any_pad = any_pad || info[i].pad != 0;
        only_pads = only_pads && info[i].pad == ~0u;
    }
    tile w;
    bool is_pad[tile::SLOTS];
#pragma unroll
    for (int slot = 0; slot < tile::SLOTS; slot++) {
        int row = first + warp_row<ROWS>() + slot_row(slot);
        is_pad[slot] = !alike && row < a.rows && (info[row / KEYS].pad >> row % KEYS & 1);
    }
    row_map queries = map;
    if (alike)
        queries.n = 0; /* zeros: all scores are the same */
    clear_tile(w);
    load_queries(w, a.q, queries, a.scale * LOG2_E);

    const key_scales none = {NULL, NULL, false}; /* beside k_scale */
    tile_copy<D, __half> copy;
    int t = next_tile(info, 0, tiles, only_pads);
    begin_copy(copy, keys[0], values[0], tile_rows<D>(k16, v16, t));
    key_tile now = info[t];
    for (int b = 0; t < tiles; b ^= 1) {
        uint32_t behind = ~first_bits(a.rows - t * KEYS), poison = 0, hidden[tile::SLOTS];
        float k_scale = now.scale;
        finish_copy(copy, keys[b], values[b]);
        if (any_pad && !alike && now.pad != 0)
            poison = purge_values<D>(values[b]);
        else
            __syncthreads();
#pragma unroll
        for (int slot = 0; slot < tile::SLOTS; slot++)
            hidden[slot] = behind | (is_pad[slot] ? now.pad : 0);
        t = next_tile(info, t + 1, tiles, only_pads);
        if (t < tiles) {
            begin_copy(copy, keys[b ^ 1], values[b ^ 1], tile_rows<D>(k16, v16, t));
            now = info[t];
        }
        attend(w, keys[b], values[b], k_scale, none, hidden);
        if (poison)
            poison_rows(w, poison, hidden);
    }
    store_vision<D, ROWS, OPERAND>(a, w, vision_rows<ROWS>(a, opaque(blockIdx.x) * (4 * ROWS)));
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

/* Columns of a tile: a head's, then zeros. */
static int padded_dim(int head_dim)
{
    return head_dim <= 32 ? 32 : head_dim <= 80 ? 80 : 128;
}

size_t attn_vision_scratch_cuda(const struct mll_exec *ex, int rows, int heads, int head_dim)
{
    size_t tiles = (size_t)blocks_for((size_t)rows, KEYS) * (size_t)heads;
    (void)ex;
    return tiles * (KEYS * (size_t)padded_dim(head_dim) * 2 * sizeof(__half) + sizeof(key_tile)) +
           (size_t)heads * sizeof(unsigned) + 4 * 64;
}

void attn_vision_cuda(struct mll_exec *ex, float *y, const float *q, const float *k, const float *v,
                      const uint8_t *pad, int rows, int heads, int head_dim, float scale)
{
    size_t mark = exec_mark(ex);
    int d = padded_dim(head_dim), tiles = (int)blocks_for((size_t)rows, KEYS);
    size_t all = (size_t)tiles * (size_t)heads;
    size_t halves = all * KEYS * (size_t)d * sizeof(__half);
    __half *k16 = (__half *)exec_alloc(ex, halves), *v16 = (__half *)exec_alloc(ex, halves);
    key_tile *info = (key_tile *)exec_alloc(ex, all * sizeof *info);
    unsigned *max = (unsigned *)exec_alloc(ex, (size_t)heads * sizeof *max);
    vision_args a = {y,        operand_at(ex, y, rows, heads * head_dim),
                     q,        k,
                     v,        pad,
                     k16,      v16,
                     info,     max,
                     rows,     heads,
                     head_dim, tiles,
                     scale};

    cudaStream_t stream = stream_of(ex);
    dim3 pack((unsigned)tiles, (unsigned)heads), threads(ATTN_THREADS);
    dim3 grid(blocks_for((size_t)rows, d == 128 ? 64 : 128), (unsigned)heads);
    cudaMemsetAsync(max, 0, (size_t)heads * sizeof *max, stream);
    LAUNCH(vision_max_kernel, pack, threads, 0, stream, a);
    launched(ex, "vision_max");
    if (d == 32)
        LAUNCH((vision_pack_kernel<32>), pack, threads, 0, stream, a);
    else if (d == 80)
        LAUNCH((vision_pack_kernel<80>), pack, threads, 0, stream, a);
    else
        LAUNCH((vision_pack_kernel<128>), pack, threads, 0, stream, a);
    launched(ex, "vision_pack");
    bool floats = a.out.rows == NULL;
    if (d == 32 && floats)
        LAUNCH((vision_kernel<32, 32, false>), grid, threads, 0, stream, a);
    else if (d == 32)
        LAUNCH((vision_kernel<32, 32, true>), grid, threads, 0, stream, a);
    else if (d == 80 && floats)
        LAUNCH((vision_kernel<80, 32, false>), grid, threads, 0, stream, a);
    else if (d == 80)
        LAUNCH((vision_kernel<80, 32, true>), grid, threads, 0, stream, a);
    else if (floats)
        LAUNCH((vision_kernel<128, 16, false>), grid, threads, 0, stream, a);
    else
        LAUNCH((vision_kernel<128, 16, true>), grid, threads, 0, stream, a);
    launched(ex, "vision");
    exec_release(ex, mark);
}
#endif
