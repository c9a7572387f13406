/* gemm.cu - matmul of prompt rows on the GPU: tiles of BM activation rows by BN weight rows, BK of
 * k at a time, in four warps.
 *
 * Every output is one accumulator from k = 0 up, in steps of the tensor core instruction, whatever
 * the tile: the bits of a row depend neither on the tile that was chosen for the shape nor on the
 * rows beside it. From sm_80 on, cp.async fills three stages of shared memory and the fragments of
 * the next step are read while this one is multiplied. On sm_70 the next tile waits in registers
 * and there are two stages. Tiles beyond the last row hold zeros. */
#include "gemm_tile.cuh"

template <int BM, int BN, int BK, int WM, int WN, bool GELU>
__global__ void __launch_bounds__(GEMM_THREADS, BM *BN > 8192 ? 2 : 3)
    gemm_kernel(struct matmul_args a)
{
    const int MB = WM / 16, NB = WN / 16, STEPS = BK / MMA_K;
    SHARED(__half, left, [GEMM_STAGES][BM * BK]);
    SHARED(__half, right, [GEMM_STAGES][BN * BK]);
    int m = (blockIdx.z * GEMM_GROUP + blockIdx.x) * BM;
    if (m >= a.x.n)
        return;
    struct matmul_part part = matmul_part_of(a, blockIdx.y);
    int o = (blockIdx.y - part.tile_from) * BN, warp = threadIdx.x / WARP;
    int wm = warp % (BM / WM) * WM, wn = warp / (BM / WM) * WN;
    tile_source<BM, BK> x = tile_source_of<BM, BK>(a.x.rows, m, a.x.n, a.x.step);
    tile_source<BN, BK> w = tile_source_of<BN, BK>(part.w, o, part.rows, a.x.stride);
    int tiles = a.x.stride / BK;
    float acc[MB][NB][8];
    clear_sums<MB, NB>(acc);

#if MLL_ARCH >= 800
    uint32_t fa[2][MB][4], fb[2][NB][4]; /* this step's fragments and the next one's */
#pragma unroll
    for (int s = 0; s < GEMM_STAGES - 1; s++) {
        if (s < tiles) {
            tile_copy<BM, BK>(left[s], x, s * BK);
            tile_copy<BN, BK>(right[s], w, s * BK);
        }
        cp_async_commit();
    }
    cp_async_wait<GEMM_STAGES - 2>();
    __syncthreads();
    load_step<BK, MB, NB>(fa[0], fb[0], left[0], right[0], wm, wn, 0);
    int stage = 0, fill = GEMM_STAGES - 1; /* read from; written next */
    for (int t = 0; t < tiles; t++) {
        /* all warps left the stage that is filled here at the barrier of the last tile */
        if (t + GEMM_STAGES - 1 < tiles) {
            tile_copy<BM, BK>(left[fill], x, (t + GEMM_STAGES - 1) * BK);
            tile_copy<BN, BK>(right[fill], w, (t + GEMM_STAGES - 1) * BK);
        }
        cp_async_commit();
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
                                      right[stage], wm, wn, (step + 1) % STEPS);
            multiply_step<MB, NB>(acc, fa[step % 2], fb[step % 2]);
        }
    }
#else
    uint4 held_x[BM * BK / 8 / GEMM_THREADS], held_w[BN * BK / 8 / GEMM_THREADS];
    tile_read<BM, BK>(held_x, x, 0);
    tile_read<BN, BK>(held_w, w, 0);
    tile_write<BM, BK>(left[0], held_x);
    tile_write<BN, BK>(right[0], held_w);
    __syncthreads();
    for (int t = 0; t < tiles; t++) {
        if (t + 1 < tiles) {
            tile_read<BM, BK>(held_x, x, (t + 1) * BK);
            tile_read<BN, BK>(held_w, w, (t + 1) * BK);
        }
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            uint32_t fa[MB][4], fb[NB][4];
            load_step<BK, MB, NB>(fa, fb, left[t % 2], right[t % 2], wm, wn, step);
            multiply_step<MB, NB>(acc, fa, fb);
        }
        if (t + 1 < tiles) {
            tile_write<BM, BK>(left[(t + 1) % 2], held_x);
            tile_write<BN, BK>(right[(t + 1) % 2], held_w);
        }
        __syncthreads();
    }
#endif
    part = matmul_part_of(a, opaque(blockIdx.y));
    if (GELU)
        gemm_store_gelu<MB, NB>(a, part, acc, m + wm, o + wn);
    else
        gemm_store<MB, NB>(a, part, acc, m + wm, o + wn, 1.0f);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

/* The tiles to choose from; cost: time of an output relative to the largest, which shares its
 * operands best. */
static const struct gemm_shape {
    int bm, bn;
    float cost;
} gemm_shapes[] = {{128, 128, 1.0f}, {128, 64, 1.05f}, {64, 64, 1.3f}};
enum { GEMM_SHAPES = 3 };
#define GEMM_ALONE                                                                \
    1.2f /* one block an SM: a warp a scheduler, which waits for its own operands \
          */

int gemm_choose(const struct mll_exec *ex, struct matmul_args *a)
{
    int best = 0;
    size_t sms = (size_t)((const struct exec_cuda *)ex)->sms;
    float least = 0.0f;
    for (int i = 0; i < GEMM_SHAPES; i++) {
        const struct gemm_shape *s = &gemm_shapes[i];
        size_t tiles = (size_t)matmul_tiles(a, s->bn) * blocks_for((size_t)a->x.n, (size_t)s->bm);
        size_t of_an_sm = (tiles + sms - 1) / sms;
        float time = (float)of_an_sm * (float)(s->bm * s->bn) * s->cost;
        if (of_an_sm == 1)
            time *= GEMM_ALONE;
        if (i == 0 || time < least) {
            least = time;
            best = i;
        }
    }
    return best;
}

dim3 gemm_grid(struct matmul_args *a, int shape)
{
    unsigned rows = blocks_for((size_t)a->x.n, (size_t)gemm_shapes[shape].bm);
    return dim3(rows < GEMM_GROUP ? rows : GEMM_GROUP, matmul_tiles(a, gemm_shapes[shape].bn),
                blocks_for(rows, GEMM_GROUP));
}

void gemm(struct mll_exec *ex, struct matmul_args *a)
{
    int shape = gemm_choose(ex, a);
    dim3 grid = gemm_grid(a, shape), block(GEMM_THREADS);
    cudaStream_t s = stream_of(ex);
    bool gelu = a->end.gelu.rows != NULL;
    if (shape == 0 && gelu)
        LAUNCH((gemm_kernel<128, 128, 32, 64, 64, true>), grid, block, 0, s, *a);
    else if (shape == 0)
        LAUNCH((gemm_kernel<128, 128, 32, 64, 64, false>), grid, block, 0, s, *a);
    else if (shape == 1 && gelu)
        LAUNCH((gemm_kernel<128, 64, 32, 64, 32, true>), grid, block, 0, s, *a);
    else if (shape == 1)
        LAUNCH((gemm_kernel<128, 64, 32, 64, 32, false>), grid, block, 0, s, *a);
    else if (gelu)
        LAUNCH((gemm_kernel<64, 64, 64, 32, 32, true>), grid, block, 0, s, *a);
    else
        LAUNCH((gemm_kernel<64, 64, 64, 32, 32, false>), grid, block, 0, s, *a);
    launched(ex, "gemm");
}
#endif
