/* gemm_tile.cuh - the pieces of a matrix product on tensor cores: operand tiles in shared memory,
 * fragments, and where the elements of an accumulator stand.
 *
 * An operand tile is (rows, BK) fp16 along k, its 16-byte chunks swizzled so that eight rows of one
 * chunk column lie in eight different bank groups: reading fragments and filling the tile are free
 * of bank conflicts without padding.
 *
 * A warp works on blocks of 16 x 16 outputs. One step multiplies 16 rows by 16 columns over MMA_K
 * elements of k; operands take four registers, the block eight.
 *   sm_80 on: m16n8k16 twice, fragments by ldmatrix.
 *   sm_70 (and sm_75, which has it too): m8n8k4 twice; each quad pair q of the warp owns an 8 x 8
 *   quarter, rows by bit 0 of q, columns by bit 1, and reads 16 bytes of one row and one column a
 *   lane. Rows of the odd quad pairs go in the order 4-7, 0-3, so that eight neighbouring lanes
 *   touch eight bank groups. */
#ifndef MLL_GEMM_TILE_CUH
#define MLL_GEMM_TILE_CUH

#include "device.cuh"

#if MLL_ARCH >= 800
#define MMA_K 16
#else
#define MMA_K 8
#endif

/* Where chunk `chunk` (8 elements) of a row of a tile lies, in elements. */
template <int BK> __device__ __forceinline__ int tile_at(int row, int chunk)
{
    int swizzled = BK == 32 ? chunk ^ (row >> 1 & 3) : chunk ^ (row & 7);
    return row * BK + swizzled * 8;
}

/* Lane's place in the 16 rows of a block, as the fragment loads and the accumulator use it. */
#if MLL_ARCH >= 800
__device__ __forceinline__ int block_row(int lane, int e)
{
    return lane / 4 + (e & 2) * 4;
}
__device__ __forceinline__ int block_col(int lane, int e)
{
    return lane % 4 * 2 + (e & 4) * 2 + (e & 1);
}
#else
__device__ __forceinline__ int block_row(int lane, int e)
{
    int odd = lane >> 2 & 1, row = (lane & 1) + (e & 2) + (lane >> 4) * 4;
    return odd * 8 + (row ^ odd * 4);
}
__device__ __forceinline__ int block_col(int lane, int e)
{
    return (lane >> 3 & 1) * 8 + (e & 4) + (lane & 2) + (e & 1);
}
#endif

/* Rows row to row + 15 of a tile as the left operand (activations), step `step` of k. */
template <int BK>
__device__ __forceinline__ void load_left(uint32_t a[4], const __half *tile, int row, int step)
{
    int lane = threadIdx.x % WARP;
#if MLL_ARCH >= 800
    ldmatrix_x4(a, tile + tile_at<BK>(row + lane % 16, step * 2 + lane / 16));
#else
    int odd = lane >> 2 & 1, i = (lane & 3) + (lane >> 4) * 4;
    uint4 v = *(const uint4 *)(tile + tile_at<BK>(row + odd * 8 + (i ^ odd * 4), step));
    a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
#endif
}

/* Rows row to row + 15 of a tile as the right operand (weights): the columns of the product. */
template <int BK>
__device__ __forceinline__ void load_right(uint32_t b[4], const __half *tile, int row, int step)
{
    int lane = threadIdx.x % WARP;
#if MLL_ARCH >= 800
    int from = row + lane % 8 + lane / 16 * 8;
    ldmatrix_x4(b, tile + tile_at<BK>(from, step * 2 + lane / 8 % 2));
#else
    int i = (lane & 3) + (lane >> 4) * 4;
    uint4 v = *(const uint4 *)(tile + tile_at<BK>(row + (lane >> 3 & 1) * 8 + i, step));
    b[0] = v.x, b[1] = v.y, b[2] = v.z, b[3] = v.w;
#endif
}

__device__ __forceinline__ void multiply_block(float d[8], const uint32_t a[4], const uint32_t b[4])
{
#if MLL_ARCH >= 800
    mma_m16n8k16(d, a, b);
    mma_m16n8k16(d + 4, a, b + 2);
#else
    mma_m8n8k4(d, a, b);
    mma_m8n8k4(d, a + 2, b + 2);
#endif
}

#endif
