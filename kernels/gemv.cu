/* gemv.cu - matmul of single tokens on the GPU: it reads the weights once, as fast as memory gives
 * them, for up to eight rows of activations.
 *
 * A block has GEMV_ROWS weight rows, its warps take chunks of 64 columns in turn: a fixed split by
 * the weight's shape alone, whose parts are added in the order of the warps. In the product the
 * weights are the left operand and the activation rows the columns of the right one, so that the
 * bits of a row cannot depend on the others. The order of k inside one step is free as long as both
 * operands agree on it: a lane takes 16 consecutive bytes of its weight rows, and the same bytes of
 * its activation row, as they come, and needs no shared memory to arrange them.
 *
 * Bytes in flight: a lane has GEMV_AHEAD chunks of 64 bytes of weights on their way before it needs
 * the first, a block GEMV_AHEAD * 16 KiB, two blocks fit an SM. Activations come from L2 and L1. */
#include "matmul.cuh"

#define GEMV_ROWS  16
#define GEMV_N     8
#define GEMV_WARPS 8
#define GEMV_AHEAD 3
#define GEMV_CHUNK 64

/* One lane's share of a chunk: rows i and i + 8, halves of 32 columns. */
struct gemv_chunk {
    uint4 w[2][2], x[2];
};

/* A lane's row (0 to 7) among the rows of a fragment, and which 16 bytes of 64 are its own. */
__device__ __forceinline__ int gemv_row(int lane)
{
    return MLL_ARCH >= 800 ? lane / 4 : (lane & 3) + (lane >> 4) * 4;
}
__device__ __forceinline__ int gemv_piece(int lane)
{
    return MLL_ARCH >= 800 ? lane % 4 : lane >> 2 & 3;
}

#if MLL_ARCH >= 800
#define GEMV_ACC 4
#else
#define GEMV_ACC 16
#endif

/* Adds the product of one 32-column half: GEMV_ROWS weight rows by 8 activation rows. */
__device__ __forceinline__ void gemv_multiply(float acc[GEMV_ACC], const uint4 &w0, const uint4 &w1,
                                              const uint4 &x)
{
#if MLL_ARCH >= 800
    const uint32_t a0[4] = {w0.x, w1.x, w0.y, w1.y}, b0[2] = {x.x, x.y};
    const uint32_t a1[4] = {w0.z, w1.z, w0.w, w1.w}, b1[2] = {x.z, x.w};
    mma_m16n8k16(acc, a0, b0);
    mma_m16n8k16(acc, a1, b1);
#else
    const uint32_t a0[2] = {w0.x, w0.y}, a1[2] = {w1.x, w1.y}, b0[2] = {x.x, x.y};
    const uint32_t a2[2] = {w0.z, w0.w}, a3[2] = {w1.z, w1.w}, b1[2] = {x.z, x.w};
    mma_m8n8k4(acc, a0, b0);
    mma_m8n8k4(acc + 8, a1, b0);
    mma_m8n8k4(acc, a2, b1);
    mma_m8n8k4(acc + 8, a3, b1);
#endif
}

/* Puts a warp's sums into part[activation row][weight row]. */
__device__ __forceinline__ void gemv_spread(float part[GEMV_N][GEMV_ROWS], float acc[GEMV_ACC])
{
    int lane = threadIdx.x % WARP;
#if MLL_ARCH >= 800
#pragma unroll
    for (int e = 0; e < 4; e++)
        part[lane % 4 * 2 + (e & 1)][lane / 4 + (e & 2) * 4] = acc[e];
#else
    /* the four quad pairs hold sums of different columns */
#pragma unroll
    for (int e = 0; e < 16; e++) {
        acc[e] += __shfl_xor_sync(ALL_LANES, acc[e], 4);
        acc[e] += __shfl_xor_sync(ALL_LANES, acc[e], 8);
    }
#pragma unroll
    for (int e = 0; e < 16 && (lane & 12) == 0; e++)
        part[(e & 4) + (lane & 2) + (e & 1)][(e & 8) + (lane & 1) + (e & 2) + (lane >> 4) * 4] =
            acc[e];
#endif
}

/* Where a lane reads. */
struct gemv_source {
    const __half *w[2], *x;
    bool has_x;
};

__device__ __forceinline__ void gemv_fetch(struct gemv_chunk *c, const struct gemv_source &from,
                                           int chunk)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int k = chunk * GEMV_CHUNK + i * 32;
        c->w[0][i] = load_stream16(from.w[0] + k);
        c->w[1][i] = load_stream16(from.w[1] + k);
        c->x[i] = from.has_x ? __ldg((const uint4 *)(from.x + k)) : make_uint4(0, 0, 0, 0);
    }
}

__global__ void __launch_bounds__(GEMV_WARPS *WARP, 2) gemv_kernel(struct matmul_args a)
{
    SHARED(float, part, [GEMV_WARPS][GEMV_N][GEMV_ROWS]);
    const struct matmul_part p = matmul_part_of(a, blockIdx.x);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, chunks = a.stride / GEMV_CHUNK;
    int o = (blockIdx.x - p.tile_from) * GEMV_ROWS, r = blockIdx.y * GEMV_N;
    struct gemv_source from;
    /* rows beyond the last read the last one again; what they give is not stored */
    for (int i = 0; i < 2; i++)
        from.w[i] = p.w + (size_t)min(o + 8 * i + gemv_row(lane), p.rows - 1) * a.stride +
                    gemv_piece(lane) * 8;
    from.x = a.x + (size_t)(r + gemv_row(lane)) * a.stride + gemv_piece(lane) * 8;
    from.has_x = r + gemv_row(lane) < a.n;
    struct gemv_chunk held[GEMV_AHEAD];
    float acc[GEMV_ACC];
#pragma unroll
    for (int e = 0; e < GEMV_ACC; e++)
        acc[e] = 0.0f;

#pragma unroll
    for (int s = 0; s < GEMV_AHEAD; s++)
        if (warp + s * GEMV_WARPS < chunks)
            gemv_fetch(&held[s], from, warp + s * GEMV_WARPS);
    for (int c = warp; c < chunks; c += GEMV_AHEAD * GEMV_WARPS) {
#pragma unroll
        for (int s = 0; s < GEMV_AHEAD; s++) {
            int now = c + s * GEMV_WARPS, next = now + GEMV_AHEAD * GEMV_WARPS;
            if (now >= chunks)
                break;
            gemv_multiply(acc, held[s].w[0][0], held[s].w[1][0], held[s].x[0]);
            gemv_multiply(acc, held[s].w[0][1], held[s].w[1][1], held[s].x[1]);
            if (next < chunks)
                gemv_fetch(&held[s], from, next);
        }
    }
    gemv_spread(part[warp], acc);
    __syncthreads();
    int row = threadIdx.x % GEMV_ROWS, col = threadIdx.x / GEMV_ROWS;
    if (col >= GEMV_N || r + col >= a.n || o + row >= p.rows)
        return;
    float sum = part[0][col][row];
    for (int i = 1; i < GEMV_WARPS; i++)
        sum += part[i][col][row];
    p.y[(size_t)(r + col) * p.rows + o + row] = matmul_finish(
        sum, p.scale[o + row], a.x_scale[r + col], p.bias == nullptr ? 0.0f : p.bias[o + row]);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

void gemv(struct mll_exec *ex, struct matmul_args *a)
{
    dim3 grid(matmul_tiles(a, GEMV_ROWS), blocks_for((size_t)a->n, GEMV_N));
    LAUNCH(gemv_kernel, grid, dim3(GEMV_WARPS * WARP), 0, stream_of(ex), *a);
    launched(ex, "gemv");
}
#endif
