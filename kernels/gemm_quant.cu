/* gemm_quant.cu - matmul of prompt rows by 4-bit or 8-bit weights, from sm_70 on: gemm.cu's tiles,
 * but what lies in memory are codes.
 *
 * A thread takes its 16 or 32 codes of a tile, always of one row and one block, into registers
 * while the tile before the last is multiplied, and writes them as fp16 while the last one is. Of
 * Q4 the 16 values times absmax and the matrix' power of two, each rounded once to fp16, are made
 * anew for every tile as two tables of bytes in registers; eight codes then take 21 byte
 * permutations and masks, and no shared memory but where they go. I8 are the codes themselves; the
 * row's scale waits for the epilogue. Sums are gemm.cu's: one accumulator an output, in ascending
 * steps of k. */
#include "gemm_tile.cuh"
#include "quant.cuh"

/* A thread's codes of a tile of (BN, BK) and what is needed of their absmax. */
template <bool Q4, int BN, int BK> struct quant_piece {
    enum {
        CODES = BN * BK / GEMM_THREADS,
        LANES = BK / CODES, /* threads that share a row */
        BYTES = Q4 ? CODES / 2 : CODES
    };
    uint32_t codes[BYTES / 4];
    uint32_t absmax; /* its bits, or its code */
    float nested;
};

/* Reads the piece at k of the thread's row, which starts at element `row`. */
template <bool Q4, int BN, int BK>
__device__ __forceinline__ void quant_read(quant_piece<Q4, BN, BK> &piece, const struct q4 &w,
                                           uint32_t row, int k)
{
    typedef quant_piece<Q4, BN, BK> shape;
    uint32_t at = row + k + threadIdx.x % shape::LANES * shape::CODES;
    const uint8_t *from = w.codes + (Q4 ? at / 2 : at);
    if (shape::BYTES == 8) {
        uint2 v = __ldg((const uint2 *)from);
        piece.codes[0] = v.x, piece.codes[1] = v.y;
    } else {
#pragma unroll
        for (int i = 0; i < shape::BYTES / 16; i++) {
            uint4 v = __ldg((const uint4 *)from + i);
#pragma unroll
            for (int j = 0; j < 4; j++)
                piece.codes[4 * i + j] = word_of(v, j);
        }
    }
    if (!Q4)
        return;
    uint32_t block = at >> w.block_log2;
    if (w.absmax != nullptr) {
        piece.absmax = __float_as_uint(__ldg(w.absmax + block));
    } else {
        piece.absmax = __ldg(w.absmax_codes + block);
        piece.nested = __ldg(w.nested_absmax + block / 256);
    }
}

/* Writes it to its place in the tile. map: nested_map, in shared memory. */
template <bool Q4, int BN, int BK>
__device__ __forceinline__ void quant_write(__half *tile, const quant_piece<Q4, BN, BK> &piece,
                                            const struct q4 &w, const uint32_t values16[8],
                                            const float *map)
{
    typedef quant_piece<Q4, BN, BK> shape;
    int row = threadIdx.x / shape::LANES;
    int chunk = threadIdx.x % shape::LANES * (shape::CODES / 8);
    struct q4_scaled values;
    if (Q4) {
        float absmax = __uint_as_float(piece.absmax);
        if (w.absmax == nullptr)
            absmax = __fadd_rn(__fmul_rn(map[piece.absmax], piece.nested), w.nested_offset);
        values = q4_scale_values(values16, absmax * w.power);
    }
#pragma unroll
    for (int i = 0; i < shape::CODES / 8; i++) {
        uint4 v;
        if (Q4) {
            v = q4_expand(values, piece.codes[i]);
        } else {
            uint32_t a[2], b[2];
            i8_widen(a, piece.codes[2 * i]);
            i8_widen(b, piece.codes[2 * i + 1]);
            v = make_uint4(a[0], a[1], b[0], b[1]);
        }
        *(uint4 *)(tile + tile_at<BK>(row, chunk + i)) = v;
    }
}

template <bool Q4, int BM, int BN, int BK, int WM, int WN>
__global__ void __launch_bounds__(GEMM_THREADS, 2) gemm_quant_kernel(struct quant_args q)
{
    const int MB = WM / 16, NB = WN / 16, STEPS = BK / MMA_K;
    SHARED(__half, left, [GEMM_STAGES][BM * BK]);
    SHARED(__half, right, [2][BN * BK]);
    SHARED(float, map, [Q4 ? 256 : 1]);
    int m = (blockIdx.z * GEMM_GROUP + blockIdx.x) * BM;
    if (m >= q.a.x.n)
        return;
    const struct q4 w = quant_weight_of(q, blockIdx.y);
    int o = (blockIdx.y - matmul_part_of(q.a, blockIdx.y).tile_from) * BN;
    if (Q4 && w.absmax == nullptr)
        for (int i = threadIdx.x; i < 256; i += GEMM_THREADS)
            map[i] = w.nested_map[i];
    __syncthreads();
    int warp = threadIdx.x / WARP;
    int wm = warp % (BM / WM) * WM, wn = warp / (BM / WM) * WN;
    tile_source<BM, BK> x = tile_source_of<BM, BK>(q.a.x.rows, m, q.a.x.n, q.a.x.step);
    /* rows beyond the last read the last one again; what they give is not stored */
    size_t row =
        (size_t)min(o + (int)threadIdx.x / quant_piece<Q4, BN, BK>::LANES, w.rows - 1) * w.cols;
    int tiles = w.cols / BK;
    quant_piece<Q4, BN, BK> piece = {};
    float acc[MB][NB][8];
    clear_sums<MB, NB>(acc);
    quant_read(piece, w, row, 0);
    quant_write(right[0], piece, w, q.w[0].values, map);
    if (tiles > 1)
        quant_read(piece, w, row, BK);

#if MLL_ARCH >= 800
    uint32_t fa[2][MB][4], fb[2][NB][4]; /* this step's fragments and the next one's */
#pragma unroll
    for (int s = 0; s < GEMM_STAGES - 1; s++) {
        if (s < tiles)
            tile_copy<BM, BK>(left[s], x, s * BK);
        cp_async_commit();
    }
    cp_async_wait<GEMM_STAGES - 2>();
    __syncthreads();
    load_step<BK, MB, NB>(fa[0], fb[0], left[0], right[0], wm, wn, 0);
    int stage = 0, fill = GEMM_STAGES - 1; /* read from; written next */
    for (int t = 0; t < tiles; t++) {
        /* all warps left the stages that are filled here at the barrier of the last tile */
        if (t + GEMM_STAGES - 1 < tiles)
            tile_copy<BM, BK>(left[fill], x, (t + GEMM_STAGES - 1) * BK);
        cp_async_commit();
        if (t + 1 < tiles)
            quant_write(right[(t + 1) % 2], piece, w, q.w[0].values, map);
        if (t + 2 < tiles)
            quant_read(piece, w, row, (t + 2) * BK);
        fill = fill + 1 == GEMM_STAGES ? 0 : fill + 1;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            if (step == STEPS - 1) { /* the next fragments are those of the next stage */
                stage = stage + 1 == GEMM_STAGES ? 0 : stage + 1;
                cp_async_wait<GEMM_STAGES - 2>();
                __syncthreads();
            }
            if (step < STEPS - 1 || t + 1 < tiles)
                load_step<BK, MB, NB>(fa[(step + 1) % 2], fb[(step + 1) % 2], left[stage],
                                      right[(step < STEPS - 1 ? t : t + 1) % 2], wm, wn,
                                      (step + 1) % STEPS);
            multiply_step<MB, NB>(acc, fa[step % 2], fb[step % 2]);
        }
    }
#else
    uint4 held[BM * BK / 8 / GEMM_THREADS];
    tile_read<BM, BK>(held, x, 0);
    tile_write<BM, BK>(left[0], held);
    __syncthreads();
    for (int t = 0; t < tiles; t++) {
        if (t + 1 < tiles)
            tile_read<BM, BK>(held, x, (t + 1) * BK);
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            uint32_t fa[MB][4], fb[NB][4];
            load_step<BK, MB, NB>(fa, fb, left[t % 2], right[t % 2], wm, wn, step);
            multiply_step<MB, NB>(acc, fa, fb);
        }
        if (t + 1 < tiles) {
            tile_write<BM, BK>(left[(t + 1) % 2], held);
            quant_write(right[(t + 1) % 2], piece, w, q.w[0].values, map);
        }
        if (t + 2 < tiles)
            quant_read(piece, w, row, (t + 2) * BK);
        __syncthreads();
    }
#endif
    int tile = opaque(blockIdx.y);
    gemm_store<MB, NB>(q.a, matmul_part_of(q.a, tile), acc, m + wm, o + wn,
                       quant_weight_of(q, tile).unit);
}

#ifndef __CUDACC_RTC__
#include "quant_cuda.h"

void gemm_quant(struct mll_exec *ex, struct quant_args *q, bool is_q4)
{
    int shape = gemm_choose(ex, &q->a);
    dim3 grid = gemm_grid(&q->a, shape), block(GEMM_THREADS);
    cudaStream_t s = stream_of(ex);
    if (is_q4 && shape == 0)
        LAUNCH((gemm_quant_kernel<true, 128, 128, 32, 64, 64>), grid, block, 0, s, *q);
    else if (is_q4 && shape == 1)
        LAUNCH((gemm_quant_kernel<true, 128, 64, 32, 64, 32>), grid, block, 0, s, *q);
    else if (is_q4)
        LAUNCH((gemm_quant_kernel<true, 64, 64, 64, 32, 32>), grid, block, 0, s, *q);
    else if (shape == 0)
        LAUNCH((gemm_quant_kernel<false, 128, 128, 32, 64, 64>), grid, block, 0, s, *q);
    else if (shape == 1)
        LAUNCH((gemm_quant_kernel<false, 128, 64, 32, 64, 32>), grid, block, 0, s, *q);
    else
        LAUNCH((gemm_quant_kernel<false, 64, 64, 64, 32, 32>), grid, block, 0, s, *q);
    launched(ex, "gemm_quant");
}
#endif
