/* gemv_quant.cu - y = x W^T + bias for a few rows of x, W of 4-bit or 8-bit codes.
 *
 * The codes are read once, in place, 16 bytes a lane, several windows ahead (gemv_tile.cuh has the
 * geometry). All products are of fp16 numbers into float32:
 *   Q4  values from the pair table; after each window the sums are multiplied by absmax and added
 * to float32 sums. A window has two blocks. On sm_70 they are different quad pairs' anyway; from
 *       sm_75 on columns 0-3 of the operand are x where the first block is and zeros elsewhere,
 *       columns 4-7 x of the second block: rows 0-3 of x take one mma, rows 4-7 (GROUPS 2) another.
 *       What a block does before its first product costs as much as 4096 columns of 16 rows: where
 *       there are enough rows for all SMs it has 32 (TILES 2), half as many windows ahead.
 *   I8  the codes themselves, exact in fp16; scale[row] / 127 at the end. */
#include "gemv_tile.cuh"
#include "quant.cuh"

/* ---- Q4 -------------------------------------------------------------------------------------- */

#define Q4_AHEAD (GEMV_QUADS ? 4 : 2) /* windows of codes in registers, of 16 rows */
#define Q4_K     128                  /* elements of a window */

/* What a lane reads: where its rows' codes, two of each 16, and its columns of x begin. The second
 * column is four rows of x further. has: it exists and meets the lane's block of the window. */
template <int TILES> struct q4_lane {
    const uint8_t *codes[2 * TILES];
    const __half *x[2];
    bool has[2];
};

template <int TILES>
__device__ __forceinline__ q4_lane<TILES> q4_lane_of(const struct q4 &w, const struct operand &x,
                                                     int tile, int col0)
{
    int lane = threadIdx.x % WARP, part = gemv_part(lane);
    int col = GEMV_QUADS ? gemv_row(lane) & 3 : gemv_row(lane);
    bool meets = !GEMV_QUADS || gemv_row(lane) >> 2 == part >> 1;
    q4_lane<TILES> l;
#pragma unroll
    for (int i = 0; i < 2 * TILES; i++)
        l.codes[i] = w.codes + (size_t)gemv_weight_row(tile, lane, i, w.rows) * (w.cols / 2);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        l.has[i] = meets && col0 + col + 4 * i < x.n;
        l.x[i] = half_row(x, col0 + col + 4 * i);
    }
    return l;
}

/* Floats from one row's absmax to the next in shared memory: room for a zero behind an odd number
 * of blocks, and 2 modulo 4, so that eight rows by two blocks lie in different banks. */
__host__ __device__ __forceinline__ int q4_absmax_stride(int cols)
{
    return (cols / 64 + 1) / 4 * 4 + 2;
}

/* The absmax of ROWS rows from those of the tile on to shared memory (ROWS, stride). */
template <bool NESTED, int ROWS>
__device__ __forceinline__ void q4_fill_absmax(float *absmax, const struct q4 &w, const float *map,
                                               int tile)
{
    int blocks = w.cols / 64, stride = q4_absmax_stride(w.cols);
    for (int r = threadIdx.x / WARP; r < ROWS; r += GEMV_WARPS) {
        size_t first = (size_t)min(tile * GEMV_ROWS + r, w.rows - 1) * blocks;
        for (int b = threadIdx.x % WARP; b < blocks; b += WARP)
            absmax[r * stride + b] = q4_absmax<NESTED>(w, map, (first + b) >> (w.block_log2 - 6));
        if (blocks % 2 == 1 && threadIdx.x % WARP == 0)
            absmax[r * stride + blocks] = 0.0f; /* the last window's second half */
    }
}

/* The lane's 32 codes of its rows at k. Behind the row, as the second half of a last window may be,
 * nothing is read: what is multiplied then is old, and absmax 0 takes it out. */
template <int TILES>
__device__ __forceinline__ void q4_load(uint4 codes[2 * TILES], const q4_lane<TILES> &lane, int k,
                                        int cols)
{
    if (k < cols)
#pragma unroll
        for (int i = 0; i < 2 * TILES; i++)
            codes[i] = load_stream16(lane.codes[i] + k / 2);
}

/* The lane's 32 elements of its columns at k; where it has none they stay. */
template <int N, int TILES>
__device__ __forceinline__ void q4_load_x(uint4 xs[N][4], const q4_lane<TILES> &lane, int k,
                                          int cols)
{
#pragma unroll
    for (int g = 0; g < N; g++)
        if (lane.has[g] && k < cols)
#pragma unroll
            for (int j = 0; j < 4; j++)
                xs[g][j] = ((const uint4 *)(lane.x[g] + k))[j];
}

/* d = the products of two rows' codes by x, absmax left out. */
template <int N>
__device__ __forceinline__ void q4_multiply(float d[N][GEMV_SUMS], const uint4 xs[N][4],
                                            shared_at copy, const uint4 codes[2])
{
#pragma unroll
    for (int g = 0; g < N; g++)
#pragma unroll
        for (int i = 0; i < GEMV_SUMS; i++)
            d[g][i] = 0.0f;
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
            uint32_t w0[2], w1[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                w0[i] = q4_pair(copy, word_of(codes[0], j), 2 * h + i);
                w1[i] = q4_pair(copy, word_of(codes[1], j), 2 * h + i);
            }
#pragma unroll
            for (int g = 0; g < N; g++) {
                uint32_t b[2] = {word_of(xs[g][j], 2 * h), word_of(xs[g][j], 2 * h + 1)};
                gemv_mma(d[g], w0, w1, b);
            }
        }
}

/* sum += d * absmax of its rows. absmax: of the lane's first row and the window's block that is the
 * lane's; the next row's is `stride` floats further. */
template <int GROUPS, int N>
__device__ __forceinline__ void q4_scale(float sum[N][GEMV_SUMS], const float d[N][GEMV_SUMS],
                                         shared_at absmax, int stride)
{
#pragma unroll
    for (int i = 0; i < GEMV_SUMS; i++) {
        if (!GEMV_QUADS && GROUPS == 1 && (i & 4))
            continue; /* columns 4-7, which nobody wants */
        float s = __uint_as_float(shared_word(absmax + gemv_sum_row(0, i) * stride * 4));
#pragma unroll
        for (int g = 0; g < N; g++)
            sum[g][i] = fmaf(d[g][i], s, sum[g][i]);
    }
}

/* The warp's sums to part. From sm_75 on columns 0-3 and 4-7 are the blocks of a window. */
template <int N> __device__ __forceinline__ void q4_put(float *part, const float sum[N][GEMV_SUMS])
{
#if MLL_ARCH >= 750
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int g = 0; g < N; g++)
#pragma unroll
        for (int i = 0; i < GEMV_SUMS; i++) {
            float both = sum[g][i] + __shfl_xor_sync(ALL_LANES, sum[g][i], 2);
            int col = 4 * g + gemv_sum_col(lane, i);
            if (gemv_part(lane) < 2)
                part[(warp * GEMV_COLS + col) * GEMV_ROWS + gemv_sum_row(lane, i)] = both;
        }
#else
    gemv_put(part, sum[0]);
#endif
}

template <bool NESTED, int GROUPS, int TILES>
__global__ void __launch_bounds__(GEMV_THREADS, GROUPS *TILES == 1 && GEMV_QUADS ? 3 : 2)
    gemv_q4_kernel(struct quant_args q)
{
    SHARED(uint32_t, table, [Q4_TABLE]);
    SHARED(uint32_t, values, [16]);
    SHARED(float, map, [NESTED ? 256 : 1]);
    DYN_SHARED(float, absmax);
    DYN_SHARED_BYTES(TILES * GEMV_ROWS * 66 * sizeof(float)); /* of 4096 columns */
    const struct matmul_part out = matmul_part_of(q.a, blockIdx.x);
    const struct q4 w = quant_weight_of(q, blockIdx.x);
    const struct operand &x = q.a.x;
    const int N = GEMV_QUADS ? GROUPS : 1, STEP = GEMV_WARPS * Q4_K, AHEAD = Q4_AHEAD / TILES;
    const int tile = (blockIdx.x - out.tile_from) * TILES;
    const int col0 = blockIdx.y * GEMV_COLS, warp = threadIdx.x / WARP, part = threadIdx.x % WARP;
    const int offset = gemv_part(part) * 32; /* of the lane in a window */
    const q4_lane<TILES> lane = q4_lane_of<TILES>(w, x, tile, col0);
    uint4 ahead[AHEAD][2 * TILES] = {};
#pragma unroll
    for (int a = 0; a < AHEAD; a++)
        q4_load(ahead[a], lane, warp * Q4_K + a * STEP + offset, w.cols);
    if (NESTED)
        map[threadIdx.x] = w.nested_map[threadIdx.x];
    q4_values(values, q.w[0]);
    __syncthreads();
    q4_fill(table, values);
    q4_fill_absmax<NESTED, TILES * GEMV_ROWS>(absmax, w, map, tile);
    __syncthreads();
    wait_for_previous();

    const shared_at copy = q4_copy(table);
    const int stride = q4_absmax_stride(w.cols);
    const shared_at own = shared_at_of(absmax + gemv_sum_row(part, 0) * stride);
    float sum[TILES][N][GEMV_SUMS] = {};
    uint4 xs[N][4] = {};
    for (int first = warp * Q4_K; first < w.cols; first += AHEAD * STEP) {
#pragma unroll
        for (int a = 0; a < AHEAD; a++) {
            if (first + a * STEP >= w.cols)
                break;
            int k = first + a * STEP + offset;
            float d[TILES][N][GEMV_SUMS];
            q4_load_x<N>(xs, lane, k, w.cols);
#pragma unroll
            for (int t = 0; t < TILES; t++)
                q4_multiply<N>(d[t], xs, copy, ahead[a] + 2 * t);
            q4_load(ahead[a], lane, k + AHEAD * STEP, w.cols);
#pragma unroll
            for (int t = 0; t < TILES; t++)
                q4_scale<GROUPS, N>(sum[t], d[t], own + (t * GEMV_ROWS * stride + k / 64) * 4,
                                    stride);
        }
    }
    __syncthreads(); /* the table is done with */
#pragma unroll
    for (int t = 0; t < TILES; t++)
        q4_put<N>((float *)table + t * GEMV_PART, sum[t]);
    __syncthreads();
#pragma unroll
    for (int t = 0; t < TILES; t++)
        gemv_finish(out.y, (const float *)table + t * GEMV_PART, x, tile + t, col0, nullptr, w.unit,
                    q.a.end.bias, out.rows);
}

template __global__ void gemv_q4_kernel<true, 1, 1>(struct quant_args);
template __global__ void gemv_q4_kernel<true, 1, 2>(struct quant_args);
template __global__ void gemv_q4_kernel<true, 2, 1>(struct quant_args);
template __global__ void gemv_q4_kernel<false, 1, 1>(struct quant_args);
template __global__ void gemv_q4_kernel<false, 1, 2>(struct quant_args);
template __global__ void gemv_q4_kernel<false, 2, 1>(struct quant_args);

/* ---- I8 -------------------------------------------------------------------------------------- */

#define I8_AHEAD 4
#define I8_K     64 /* elements of a window */

__global__ void __launch_bounds__(GEMV_THREADS, 2) gemv_i8_kernel(struct quant_args q)
{
    SHARED(float, part_sums, [GEMV_PART]);
    const struct matmul_part out = matmul_part_of(q.a, blockIdx.x);
    const struct q4 w = quant_weight_of(q, blockIdx.x);
    const struct operand &x = q.a.x;
    const int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, part = gemv_part(lane);
    const int tile = blockIdx.x - out.tile_from, col0 = blockIdx.y * GEMV_COLS;
    const int windows = w.cols / I8_K;
    const uint8_t *row[2];
#pragma unroll
    for (int i = 0; i < 2; i++)
        row[i] = w.codes + (size_t)gemv_weight_row(tile, lane, i, w.rows) * w.cols + part * 16;
    const bool has = col0 + gemv_row(lane) < x.n;
    const __half *xs = half_row(x, col0 + gemv_row(lane)) + part * 16;
    uint4 ahead[I8_AHEAD][2];
#pragma unroll
    for (int a = 0; a < I8_AHEAD; a++)
        if (warp + a * GEMV_WARPS < windows)
#pragma unroll
            for (int i = 0; i < 2; i++)
                ahead[a][i] = load_stream16(row[i] + (warp + a * GEMV_WARPS) * I8_K);

    wait_for_previous();
    float sum[GEMV_SUMS] = {0.0f};
    for (int first = warp; first < windows; first += I8_AHEAD * GEMV_WARPS) {
#pragma unroll
        for (int a = 0; a < I8_AHEAD; a++) {
            int window = first + a * GEMV_WARPS, next = window + I8_AHEAD * GEMV_WARPS;
            if (window >= windows)
                break;
#pragma unroll
            for (int j = 0; j < 2; j++) {
                uint4 v = make_uint4(0, 0, 0, 0);
                if (has)
                    v = *(const uint4 *)(xs + window * I8_K + 8 * j);
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    uint32_t w0[2], w1[2], b[2] = {word_of(v, 2 * h), word_of(v, 2 * h + 1)};
                    i8_widen(w0, word_of(ahead[a][0], 2 * j + h));
                    i8_widen(w1, word_of(ahead[a][1], 2 * j + h));
                    gemv_mma(sum, w0, w1, b);
                }
            }
            if (next < windows)
#pragma unroll
                for (int i = 0; i < 2; i++)
                    ahead[a][i] = load_stream16(row[i] + next * I8_K);
        }
    }
    gemv_put(part_sums, sum);
    __syncthreads();
    gemv_finish(out.y, part_sums, x, tile, col0, out.scale, w.unit, q.a.end.bias, out.rows);
}

#ifndef __CUDACC_RTC__
#include "quant_cuda.h"

/* Launches with as much dynamic shared memory as the columns want. */
static void launch_q4(void (*kernel)(struct quant_args), struct mll_exec *ex, struct quant_args *q,
                      int tiles)
{
    dim3 grid(matmul_tiles(&q->a, tiles * GEMV_ROWS), blocks_for((size_t)q->a.x.n, GEMV_COLS));
    int shared = tiles * GEMV_ROWS * q4_absmax_stride(q->w[0].cols) * (int)sizeof(float);
    if (shared > 14 * 1024) /* with the table more than what every kernel may have */
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    LAUNCH_EARLY(begins_early(ex), kernel, grid, dim3(GEMV_THREADS), shared, stream_of(ex), *q);
    launched(ex, "gemv_q4");
}

void gemv_q4(struct mll_exec *ex, struct quant_args *q)
{
    const struct exec_cuda *e = exec_cuda(ex);
    bool nested = q->w[0].absmax == NULL;
    if (q->a.x.n > 4)
        launch_q4(nested ? gemv_q4_kernel<true, 2, 1> : gemv_q4_kernel<false, 2, 1>, ex, q, 1);
    else if (e->arch >= 80 && matmul_tiles(&q->a, 2 * GEMV_ROWS) >= 4 * (unsigned)e->sms)
        launch_q4(nested ? gemv_q4_kernel<true, 1, 2> : gemv_q4_kernel<false, 1, 2>, ex, q, 2);
    else
        launch_q4(nested ? gemv_q4_kernel<true, 1, 1> : gemv_q4_kernel<false, 1, 1>, ex, q, 1);
}

void gemv_i8(struct mll_exec *ex, struct quant_args *q)
{
    dim3 grid(matmul_tiles(&q->a, GEMV_ROWS), blocks_for((size_t)q->a.x.n, GEMV_COLS));
    LAUNCH_EARLY(begins_early(ex), gemv_i8_kernel, grid, dim3(GEMV_THREADS), 0, stream_of(ex), *q);
    launched(ex, "gemv_i8");
}
#endif
