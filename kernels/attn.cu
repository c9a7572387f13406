/* attn.cu - attention over paged keys on the GPU: the launcher, and the family of prompt rows.
 * Contract: ops.h. The tile is attn_mma.cuh's; single tokens: attn_decode.cu.
 *
 * First every row's range is checked, a faulty one becomes empty. A block has 64 queries: rows side
 * by side, times the query heads of one KV head. It walks the keys of its rows, KEYS at a time at
 * absolute positions, sequence by sequence; what a row does not see is hidden from it, so that the
 * neighbours in its block change none of its bits. */
#include "attn.cuh"

#define PREFILL_QUERIES 64
#define NO_KEY          0x7fffffff

/* ranges[row] = the row's keys, none after a fault. A warp a row. */
__global__ void __launch_bounds__(WARP) attn_ranges_kernel(int2 *ranges, attn_args a)
{
    int row = blockIdx.x, seq = a.seq[row];
    int2 range = make_int2(a.begin[row], a.end[row]);
    bool good = kv_range(a.kv, row, seq, range.x, range.y);
    if (good && range.x < range.y) {
        int64_t entry = (int64_t)seq * a.kv.max_blocks;
        int last = (range.y - 1) / KV_BLOCK;
        for (int b = range.x / KV_BLOCK + (int)threadIdx.x; b <= last; b += WARP)
            good = in_bounds(a.kv.block, entry + b, a.kv.blocks[entry + b]) && good;
    }
    good = __all_sync(ALL_LANES, good);
    if (threadIdx.x == 0)
        ranges[row] = good && range.x < range.y ? range : make_int2(0, 0);
}

/* Rows of a block that follow each other and belong to one sequence. */
struct row_run {
    int first, last, seq;
    int begin, end;               /* all their keys */
    int common_begin, common_end; /* keys that every row of the block sees */
};

/* The run that begins at row `first` of `rows`. */
__device__ __forceinline__ row_run find_run(const int *seq, const int2 *ranges, int first, int rows)
{
    row_run run = {first, first, seq[first], NO_KEY, 0, 0, NO_KEY};
    for (; run.last < rows && seq[run.last] == run.seq; run.last++) {
        int2 range = ranges[run.last];
        run.common_begin = max(run.common_begin, range.x);
        run.common_end = min(run.common_end, range.y);
        if (range.x < range.y) {
            run.begin = min(run.begin, range.x);
            run.end = max(run.end, range.y);
        }
    }
    if (first > 0 || run.last < rows)
        run.common_end = 0;
    return run;
}

/* Where tile t of the run lies. A block of keys that no row sees may be anything: it is left out.
 */
template <class T>
__device__ __forceinline__ key_rows<T> run_tile(const kv_view &kv, const row_run &run, int head,
                                                int t)
{
    int64_t entry = (int64_t)run.seq * kv.max_blocks + t * 2;
    key_rows<T> rows = {(const T *)kv.k,      (const T *)kv.v,   0, 0, kv.stride,
                        run.begin - t * KEYS, run.end - t * KEYS};
    int low = rows.from < KV_BLOCK ? kv.blocks[entry] : -1;
    int high = rows.to > KV_BLOCK ? kv.blocks[entry + 1] : -1;
    if (low >= 0 && low < kv.block.n)
        rows.low = kv_block_at<T>(kv, low, head);
    else
        rows.from = max(rows.from, KV_BLOCK);
    if (high >= 0 && high < kv.block.n)
        rows.high = kv_block_at<T>(kv, high, head);
    else
        rows.to = min(rows.to, KV_BLOCK);
    return rows;
}

/* The scale that a thread brings to shared memory: the first KEYS those of keys, the next those of
 * values; 1 where there is no key. */
template <class T> __device__ __forceinline__ float read_scale(const key_rows<T> &rows)
{
    int thread = opaque(threadIdx.x), i = thread % KEYS;
    if (i < rows.from || i >= rows.to || thread >= 2 * KEYS)
        return 1.0f;
    const T *block = (thread < KEYS ? rows.k : rows.v) + (i < KV_BLOCK ? rows.low : rows.high);
    return *kv_scale_at(block, rows.dim, i % KV_BLOCK);
}

/* Whether a tile's scales, (2, KEYS), are not all 1; int8 has no such. */
template <class T> __device__ __forceinline__ key_scales tile_scales(const float *both)
{
    const float *k = both, *v = both + KEYS;
    int i = (int)threadIdx.x % WARP;
    bool any = __any_sync(ALL_LANES, k[i] != 1.0f || v[i] != 1.0f);
    return key_scales{k, v, any};
}

template <int D, class T>
__global__ void __launch_bounds__(ATTN_THREADS, 2)
    attn_prefill_kernel(attn_args a, const int2 *all_ranges)
{
    using tile = warp_tile<D, 16>;
    SHARED(__half, keys, [2][KEYS][D + ATTN_PAD]);
    SHARED(__half, values, [2][KEYS][D + ATTN_PAD]);
    SHARED(float, both_scales, [2][2 * KEYS]);
    SHARED(int2, ranges, [PREFILL_QUERIES]);
    SHARED(int, seq, [PREFILL_QUERIES]);
    SHARED(row_run, runs, [1]);
    int of_kv_head = a.heads / a.kv.n_kv_heads, head = blockIdx.y * a.group;
    int kv_head = head / of_kv_head, first = blockIdx.x * (PREFILL_QUERIES / a.group);
    int rows = min(PREFILL_QUERIES / a.group, a.n - first);
    row_map map = {first, rows * a.group, a.group, head, a.heads, a.kv.head_dim};
    for (int i = threadIdx.x; i < rows; i += ATTN_THREADS) {
        ranges[i] = all_ranges[first + i];
        seq[i] = a.seq[first + i];
    }

    tile w;
    int row[tile::SLOTS]; /* of the block; -1: none */
#pragma unroll
    for (int slot = 0; slot < tile::SLOTS; slot++) {
        int i = warp_row<16>() + slot_row(slot);
        row[slot] = i < map.n ? i / a.group : -1;
    }
    clear_tile(w);
    load_queries(w, a.q, map, a.scale * LOG2_E);

    tile_copy<D, T> copy;
    for (int from = 0, b = 0; from < rows; from = runs[0].last) {
        __syncthreads(); /* the run before is done with it and both buffers */
        if (threadIdx.x == 0)
            runs[0] = find_run(seq, ranges, from, rows);
        __syncthreads();
        const row_run &run = runs[0];
        int t = run.begin / KEYS, last = (run.end - 1) / KEYS;
        if (run.begin >= run.end)
            continue;
        key_rows<T> keys_of = run_tile<T>(a.kv, run, kv_head, t);
        begin_copy(copy, keys[b], values[b], keys_of);
        float scale = read_scale(keys_of);
        for (; t <= last; t++, b ^= 1) {
            uint32_t poison = 0, hidden[tile::SLOTS];
            bool sees = false;
#pragma unroll
            for (int slot = 0; slot < tile::SLOTS; slot++) {
                bool in_run = row[slot] >= run.first && row[slot] < run.last;
                int2 range = in_run ? ranges[row[slot]] : make_int2(0, 0);
                hidden[slot] = first_bits(range.x - t * KEYS) | ~first_bits(range.y - t * KEYS);
                sees = sees || hidden[slot] != ~0u;
            }
            finish_copy(copy, keys[b], values[b]);
            if (threadIdx.x < 2 * KEYS)
                both_scales[b][threadIdx.x] = scale;
            bool all_seen = t * KEYS >= run.common_begin && t * KEYS + KEYS <= run.common_end;
            if (sizeof(T) == 2 && !all_seen) /* codes are always finite */
                poison = purge_values<D>(values[b]);
            else
                __syncthreads();
            key_scales scales = tile_scales<T>(both_scales[b]);
            if (t < last) {
                keys_of = run_tile<T>(a.kv, run, kv_head, t + 1);
                begin_copy(copy, keys[b ^ 1], values[b ^ 1], keys_of);
                scale = read_scale(keys_of);
            }
            if (__any_sync(ALL_LANES, sees))
                attend(w, keys[b], values[b], 1.0f, scales, hidden);
            if (poison)
                poison_rows(w, poison, hidden);
        }
    }
    store_rows(a.y, w, map, 1.0f);
}

#ifndef __CUDACC_RTC__
size_t attn_scratch_cuda(const struct mll_exec *ex, int n, int heads, int head_dim)
{
    size_t ranges = (size_t)n * sizeof(int2) + 64, decode = attn_decode_scratch(n, heads, head_dim);
    (void)ex;
    return ranges > decode ? ranges : decode;
}

static void attn_prefill(struct mll_exec *ex, const struct attn_args *args, enum mll_dtype dtype)
{
    int group = heads_in_block(args->heads / args->kv.n_kv_heads, PREFILL_QUERIES);
    int2 *ranges = (int2 *)exec_alloc(ex, (size_t)args->n * sizeof *ranges);
    struct attn_args a = *args;
    a.group = group;
    dim3 grid(blocks_for((size_t)a.n, (size_t)(PREFILL_QUERIES / group)),
              (unsigned)(a.heads / group));
    LAUNCH(attn_ranges_kernel, dim3((unsigned)a.n), dim3(WARP), 0, stream_of(ex), ranges, a);
    launched(ex, "attn_ranges");
    dim3 block(ATTN_THREADS);
    if (a.kv.head_dim <= 32 && dtype == MLL_DTYPE_I8)
        LAUNCH((attn_prefill_kernel<32, int8_t>), grid, block, 0, stream_of(ex), a, ranges);
    else if (a.kv.head_dim <= 32)
        LAUNCH((attn_prefill_kernel<32, __half>), grid, block, 0, stream_of(ex), a, ranges);
    else if (dtype == MLL_DTYPE_I8)
        LAUNCH((attn_prefill_kernel<128, int8_t>), grid, block, 0, stream_of(ex), a, ranges);
    else
        LAUNCH((attn_prefill_kernel<128, __half>), grid, block, 0, stream_of(ex), a, ranges);
    launched(ex, "attn_prefill");
}

void attn_cuda(struct mll_exec *ex, float *y, const float *q, const struct kv_pool *pool,
               const struct kv_table *table, const int32_t *seq, const int32_t *begin,
               const int32_t *end, int n, int heads, float scale)
{
    struct attn_args a = {y, q,    kv_view_of(ex, pool, table, OP_ATTN), seq, begin, end, n, heads,
                          0, scale};
    size_t mark = exec_mark(ex);
    if (ex->phase == MLL_DECODE)
        attn_decode(ex, &a, pool->dtype);
    else
        attn_prefill(ex, &a, pool->dtype);
    exec_release(ex, mark);
}
#endif
