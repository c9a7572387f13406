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

#include "matmul.cuh"

#if MLL_ARCH >= 800
#define MMA_K 16
#else
#define MMA_K 8
#endif
#define GEMM_THREADS 128
#define GEMM_GROUP   8 /* row tiles whose blocks run side by side, for the L2 */
#if MLL_ARCH >= 800
#define GEMM_STAGES 3
#else
#define GEMM_STAGES 2
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

/* The fragments of one step of k: of MB * 16 rows of left from row m on, of NB * 16 of right from
 * n.
 */
template <int BK, int MB, int NB>
__device__ __forceinline__ void load_step(uint32_t a[MB][4], uint32_t b[NB][4], const __half *left,
                                          const __half *right, int m, int n, int step)
{
#pragma unroll
    for (int i = 0; i < MB; i++)
        load_left<BK>(a[i], left, m + i * 16, step);
#pragma unroll
    for (int j = 0; j < NB; j++)
        load_right<BK>(b[j], right, n + j * 16, step);
}

template <int MB, int NB>
__device__ __forceinline__ void multiply_step(float acc[MB][NB][8], const uint32_t a[MB][4],
                                              const uint32_t b[NB][4])
{
#pragma unroll
    for (int i = 0; i < MB; i++)
#pragma unroll
        for (int j = 0; j < NB; j++)
            multiply_block(acc[i][j], a[i], b[j]);
}

template <int MB, int NB> __device__ __forceinline__ void clear_sums(float acc[MB][NB][8])
{
#pragma unroll
    for (int i = 0; i < MB; i++)
#pragma unroll
        for (int j = 0; j < NB; j++)
#pragma unroll
            for (int e = 0; e < 8; e++)
                acc[i][j][e] = 0.0f;
}

/* ---- from memory to the tiles, from the accumulators to memory ------------------------------- */

/* The part of an operand that a thread copies: `rows` valid ones of (ROWS, stride). */
template <int ROWS, int BK> struct tile_source {
    enum { STEP = GEMM_THREADS / (BK / 8), COPIES = ROWS / STEP }; /* rows that all threads copy */
    const __half *from; /* this thread's chunk of its first row; what follows is an int further */
    int stride, rows;   /* valid rows, counted from this thread's first */
};

template <int ROWS, int BK>
__device__ __forceinline__ tile_source<ROWS, BK> tile_source_of(const __half *base, int row,
                                                                int rows, int stride)
{
    int first = threadIdx.x / (BK / 8), chunk = threadIdx.x % (BK / 8);
    tile_source<ROWS, BK> s;
    s.from = opaque(base + (size_t)(row + first) * stride + chunk * 8);
    s.stride = stride;
    s.rows = rows - row - first;
    return s;
}

#if MLL_ARCH >= 800
template <int ROWS, int BK>
__device__ __forceinline__ void tile_copy(__half *tile, const tile_source<ROWS, BK> &s, int k)
{
    int first = threadIdx.x / (BK / 8), chunk = threadIdx.x % (BK / 8);
#pragma unroll
    for (int i = 0; i < tile_source<ROWS, BK>::COPIES; i++)
        cp_async16(tile + tile_at<BK>(first + i * tile_source<ROWS, BK>::STEP, chunk),
                   s.from + (i * tile_source<ROWS, BK>::STEP * s.stride + k),
                   i * tile_source<ROWS, BK>::STEP < s.rows ? 16 : 0);
}
#else
template <int ROWS, int BK>
__device__ __forceinline__ void tile_read(uint4 *held, const tile_source<ROWS, BK> &s, int k)
{
#pragma unroll
    for (int i = 0; i < tile_source<ROWS, BK>::COPIES; i++)
        held[i] =
            i * tile_source<ROWS, BK>::STEP < s.rows
                ? __ldg((const uint4 *)(s.from + (i * tile_source<ROWS, BK>::STEP * s.stride + k)))
                : make_uint4(0, 0, 0, 0);
}

template <int ROWS, int BK>
__device__ __forceinline__ void tile_write(__half *tile, const uint4 *held)
{
    int first = threadIdx.x / (BK / 8), chunk = threadIdx.x % (BK / 8);
#pragma unroll
    for (int i = 0; i < tile_source<ROWS, BK>::COPIES; i++)
        *(uint4 *)(tile + tile_at<BK>(first + i * tile_source<ROWS, BK>::STEP, chunk)) = held[i];
}
#endif

/* The element of a block's accumulator in a lane's first or second row, column c of four. */
__device__ __forceinline__ int block_element(int second, int c)
{
    return (c & 1) | second << 1 | (c & 2) << 1;
}

/* What a lane's columns are multiplied by, unit times part.scale where there is one, and what is
 * added to them. */
template <int NB>
__device__ __forceinline__ void gemm_columns(float scale[NB][4], float bias[NB][4],
                                             const struct matmul_args &a,
                                             const struct matmul_part &part, int col, float unit)
{
    int lane = threadIdx.x % WARP;
#pragma unroll
    for (int j = 0; j < NB; j++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
            int o = col + j * 16 + block_col(lane, block_element(0, c));
            bool there = o < part.rows;
            scale[j][c] = there && part.scale != nullptr ? part.scale[o] * unit : unit;
            bias[j][c] = there && a.end.bias != nullptr ? a.end.bias[o] : 0.0f;
        }
}

/* Writes a warp's accumulators, row by row. What is added to a row is read at once: y may be base,
 * so that the compiler moves no load in front of a store, and each alone would be waited for. */
template <int MB, int NB>
__device__ __forceinline__ void gemm_store(const struct matmul_args &a,
                                           const struct matmul_part &part,
                                           const float acc[MB][NB][8], int row, int col, float unit)
{
    int lane = threadIdx.x % WARP;
    const float *base = a.end.base;
    float factor = base == nullptr ? 0.0f : matmul_factor(a.end);
    float scale[NB][4], bias[NB][4];
    gemm_columns<NB>(scale, bias, a, part, col, unit);
#pragma unroll
    for (int i = 0; i < 2 * MB; i++) {
        int r = row + i / 2 * 16 + block_row(lane, block_element(i % 2, 0));
        if (r >= a.x.n)
            continue;
        float x_scale = half_row_scale(a.x, r), added[NB][4];
        size_t at = (size_t)r * part.rows;
#pragma unroll
        for (int j = 0; j < NB; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                int o = col + j * 16 + block_col(lane, block_element(0, c));
                added[j][c] = base != nullptr && o < part.rows ? base[at + o] : 0.0f;
            }
#pragma unroll
        for (int j = 0; j < NB; j++)
#pragma unroll
            for (int c = 0; c < 4; c++) {
                int o = col + j * 16 + block_col(lane, block_element(0, c));
                float sum = acc[i / 2][j][block_element(i % 2, c)];
                float y = matmul_finish(sum, scale[j][c], x_scale, bias[j][c]);
                if (base != nullptr)
                    y = add_scaled(added[j][c], factor, y);
                if (o < part.rows)
                    part.y[at + o] = y;
            }
    }
}

/* The same of gelu, to an operand. One row a turn, then the accumulators move up: 128 of these
 * functions written out would not fit the instruction cache. */
template <int MB, int NB>
__device__ __forceinline__ void gemm_store_gelu(const struct matmul_args &a,
                                                const struct matmul_part &part,
                                                float acc[MB][NB][8], int row, int col)
{
    int lane = threadIdx.x % WARP;
    float scale[NB][4], bias[NB][4];
    gemm_columns<NB>(scale, bias, a, part, col, 1.0f);
#pragma unroll 1
    for (int i = 0; i < 2 * MB; i++) {
        int r = row + i / 2 * 16 + block_row(lane, block_element(i % 2, 0));
        if (r < a.x.n) {
            float x_scale = half_row_scale(a.x, r), s = matmul_gelu_scale(a, part, r);
            float inverse = half_inverse(s);
            __half *to = half_row(a.end.gelu, r);
#pragma unroll
            for (int j = 0; j < NB; j++)
#pragma unroll
                for (int c = 0; c < 4; c += 2) {
                    int o = col + j * 16 + block_col(lane, block_element(0, c));
                    float y[2];
#pragma unroll
                    for (int k = 0; k < 2; k++)
                        y[k] = fm_gelu(matmul_finish(acc[0][j][block_element(0, c + k)],
                                                     scale[j][c + k], x_scale, bias[j][c + k]));
                    if (o < part.rows) /* an even number */
                        *(uint32_t *)(to + o) = half_pair(y[0] * inverse, y[1] * inverse);
                }
            if (col + block_col(lane, 0) == 0)
                half_row_end(a.end.gelu, r, s, 0, 1);
        }
#pragma unroll
        for (int k = 0; k < 2 * MB - 1; k++)
#pragma unroll
            for (int j = 0; j < NB; j++)
#pragma unroll
                for (int c = 0; c < 4; c++)
                    acc[k / 2][j][block_element(k % 2, c)] =
                        acc[(k + 1) / 2][j][block_element((k + 1) % 2, c)];
    }
}

#endif
