/* gemv.cu - matmul of single tokens by fp16 rows on the GPU: it reads the weights once, as fast as
 * memory gives them, for up to eight rows of activations. gemv_tile.cuh has the division of the
 * work and why the bits of a row depend on nothing but the row. The first weights are on their way
 * before the kernel in front has ended (device.cuh, wait_for_previous).
 *
 * A warp takes chunks of 64 columns (two windows) in turn with the other warps: at any time a block
 * reads 1 KiB of each of its 16 rows. A lane has GEMV_AHEAD chunks of 64 bytes of weights on their
 * way before it needs the first: 48 KiB a block, two blocks fit an SM. Activations come with them,
 * from L2 and L1; a warp is the only one of its block that wants its columns, so that shared memory
 * would not save a load. */
#include "gemv_tile.cuh"
#include "matmul.cuh"

#define GEMV_AHEAD 3
#define GEMV_CHUNK 64
#define WINDOW     32 /* columns: 64 bytes */

/* Where a lane reads: weight rows `row` and `row` + 8, activation row `row`. */
struct gemv_source {
    const __half *w[2], *x;
    bool has_x;
};

/* What it reads of a chunk: two windows. */
struct gemv_chunk {
    uint4 w[2][2], x[2];
};

__device__ __forceinline__ void gemv_fetch_w(struct gemv_chunk *c, const struct gemv_source &from,
                                             int chunk)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int k = chunk * GEMV_CHUNK + i * WINDOW;
        c->w[0][i] = load_stream16(from.w[0] + k);
        c->w[1][i] = load_stream16(from.w[1] + k);
    }
}

__device__ __forceinline__ void gemv_fetch_x(struct gemv_chunk *c, const struct gemv_source &from,
                                             int chunk)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int k = chunk * GEMV_CHUNK + i * WINDOW;
        c->x[i] = from.has_x ? *(const uint4 *)(from.x + k) : make_uint4(0, 0, 0, 0);
    }
}

__device__ __forceinline__ void gemv_multiply(float sum[GEMV_SUMS], const struct gemv_chunk &c)
{
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint32_t w0[2] = {word_of(c.w[0][i], 2 * half), word_of(c.w[0][i], 2 * half + 1)};
            uint32_t w1[2] = {word_of(c.w[1][i], 2 * half), word_of(c.w[1][i], 2 * half + 1)};
            uint32_t x[2] = {word_of(c.x[i], 2 * half), word_of(c.x[i], 2 * half + 1)};
            gemv_mma(sum, w0, w1, x);
        }
}

__global__ void __launch_bounds__(GEMV_THREADS, 2) gemv_kernel(struct matmul_args a)
{
    SHARED(float, part, [GEMV_PART]);
    const struct matmul_part p = matmul_part_of(a, blockIdx.x);
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, chunks = a.x.stride / GEMV_CHUNK;
    int tile = blockIdx.x - p.tile_from, col0 = blockIdx.y * GEMV_COLS;
    struct gemv_source from;
    for (int i = 0; i < 2; i++)
        from.w[i] =
            p.w + (size_t)gemv_weight_row(tile, lane, i, p.rows) * a.x.stride + gemv_part(lane) * 8;
    from.has_x = col0 + gemv_row(lane) < a.x.n;
    from.x = half_row(a.x, col0 + gemv_row(lane)) + gemv_part(lane) * 8;
    struct gemv_chunk held[GEMV_AHEAD];
    float sum[GEMV_SUMS];
#pragma unroll
    for (int i = 0; i < GEMV_SUMS; i++)
        sum[i] = 0.0f;

#pragma unroll
    for (int s = 0; s < GEMV_AHEAD; s++)
        if (warp + s * GEMV_WARPS < chunks)
            gemv_fetch_w(&held[s], from, warp + s * GEMV_WARPS);
    wait_for_previous();
#pragma unroll
    for (int s = 0; s < GEMV_AHEAD; s++)
        if (warp + s * GEMV_WARPS < chunks)
            gemv_fetch_x(&held[s], from, warp + s * GEMV_WARPS);
    for (int c = warp; c < chunks; c += GEMV_AHEAD * GEMV_WARPS) {
#pragma unroll
        for (int s = 0; s < GEMV_AHEAD; s++) {
            int now = c + s * GEMV_WARPS, next = now + GEMV_AHEAD * GEMV_WARPS;
            if (now >= chunks)
                break;
            gemv_multiply(sum, held[s]);
            if (next < chunks) {
                gemv_fetch_w(&held[s], from, next);
                gemv_fetch_x(&held[s], from, next);
            }
        }
    }
    gemv_put(part, sum);
    __syncthreads();
    gemv_finish(p.y, part, a.x, tile, col0, p.scale, 1.0f, a.end.bias, p.rows);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

void gemv(struct mll_exec *ex, struct matmul_args *a)
{
    dim3 grid(matmul_tiles(a, GEMV_ROWS), blocks_for((size_t)a->x.n, GEMV_COLS));
    LAUNCH_EARLY(begins_early(ex), gemv_kernel, grid, dim3(GEMV_THREADS), 0, stream_of(ex), *a);
    launched(ex, "gemv");
}
#endif
