/* gemv_tile.cuh - y = W x for up to 8 rows of x: how a block divides the work, for every format.
 *
 * A block has 16 rows of W; its warps divide k, and their sums meet in shared memory, where they
 * are added in the order of the warps. A warp takes 64 bytes of each row at once (a window), lane
 * (row, part) bytes 16 part ... of rows `row` and `row` + 8, as they lie in memory. Those bytes are
 * the lane's part of the A operand of mma: it wants the same k from A and B in matching places, not
 * k in order, so that x is read with the same permutation and nothing is shuffled. The rows of x
 * are columns of the B operand. What a row of y becomes thus depends neither on how many rows there
 * are nor on where it stands: the other columns never meet it.
 *   - sm_75 on: m16n8k16 takes both rows; row = lane / 4, part = lane % 4 (on sm_75 as two m16n8k8)
 *   - sm_70: two m8n8k4, one for each row; quad pairs hold one part each, added at the end */
#ifndef MLL_GEMV_TILE_CUH
#define MLL_GEMV_TILE_CUH

#include "operand.cuh"

#define GEMV_ROWS    16
#define GEMV_COLS    8 /* rows of x a pass */
#define GEMV_WARPS   8
#define GEMV_THREADS (GEMV_WARPS * WARP)
#define GEMV_QUADS   (MLL_ARCH >= 750) /* fragments by quads of lanes, not by quad pairs */
#define GEMV_SUMS    (GEMV_QUADS ? 4 : 16)
#define GEMV_PART    (GEMV_WARPS * GEMV_COLS * GEMV_ROWS) /* floats of the warps' sums */

__device__ __forceinline__ int gemv_row(int lane)
{
    return GEMV_QUADS ? lane >> 2 : (lane & 3) | (lane >> 4) << 2;
}
__device__ __forceinline__ int gemv_part(int lane)
{
    return GEMV_QUADS ? lane & 3 : (lane >> 2) & 3;
}

/* The row of W that is the lane's row i of two in tile `tile` of GEMV_ROWS; behind the last one the
 * last again. */
__device__ __forceinline__ int gemv_weight_row(int tile, int lane, int i, int rows)
{
    return min(tile * GEMV_ROWS + gemv_row(lane) + 8 * i, rows - 1);
}

/* d (16 rows, 8 columns) += the lane's four elements of two rows by its four of x. */
__device__ __forceinline__ void gemv_mma(float d[GEMV_SUMS], const uint32_t w0[2],
                                         const uint32_t w1[2], const uint32_t x[2])
{
#if MLL_ARCH >= 750
    uint32_t a[4] = {w0[0], w1[0], w0[1], w1[1]};
    mma_m16n8k16(d, a, x);
#else
    mma_m8n8k4(d, w0, x);
    mma_m8n8k4(d + 8, w1, x);
#endif
}

/* Where the lane's sum i of such a d belongs: row of W among the 16, column. */
__device__ __forceinline__ int gemv_sum_row(int lane, int i)
{
    if (GEMV_QUADS)
        return (lane >> 2) + (i & 2) * 4;
    return (i & 8) + (lane & 1) + (i & 2) + ((lane >> 4) << 2);
}
__device__ __forceinline__ int gemv_sum_col(int lane, int i)
{
    return GEMV_QUADS ? (lane & 3) * 2 + (i & 1) : (i & 4) + (lane & 2) + (i & 1);
}

/* The warp's sums d to part (GEMV_WARPS, GEMV_COLS, GEMV_ROWS), shared memory. */
__device__ __forceinline__ void gemv_put(float *part, const float d[GEMV_SUMS])
{
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll
    for (int i = 0; i < GEMV_SUMS; i++) {
        float sum = d[i];
        if (!GEMV_QUADS) {
            sum += __shfl_xor_sync(ALL_LANES, sum, 4);
            sum += __shfl_xor_sync(ALL_LANES, sum, 8);
        }
        if (GEMV_QUADS || gemv_part(lane) == 0)
            part[(warp * GEMV_COLS + gemv_sum_col(lane, i)) * GEMV_ROWS + gemv_sum_row(lane, i)] =
                sum;
    }
}

/* y[col][row] = the sum of the warps' parts * the scale of x[col] * scale[row] + bias[row] for the
 * rows of tile `tile`, after a barrier; rows: those of W, also the stride of y. scale NULL: unit.
 */
__device__ __forceinline__ void gemv_finish(float *y, const float *part, const struct operand &x,
                                            int tile, int col0, const float *scale, float unit,
                                            const float *bias, int rows)
{
    int row = tile * GEMV_ROWS + threadIdx.x % GEMV_ROWS, col = threadIdx.x / GEMV_ROWS;
    if (threadIdx.x >= GEMV_ROWS * GEMV_COLS || row >= rows || col0 + col >= x.n)
        return;
    float sum = part[threadIdx.x];
#pragma unroll
    for (int w = 1; w < GEMV_WARPS; w++)
        sum += part[w * GEMV_COLS * GEMV_ROWS + threadIdx.x];
    sum *= half_row_scale(x, col0 + col) * (scale == nullptr ? unit : scale[row] * unit);
    y[(size_t)(col0 + col) * rows + row] = sum + (bias == nullptr ? 0.0f : bias[row]);
}

#endif
