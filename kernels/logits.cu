/* logits.cu - logits hashed, processed and the most likely chosen, on the GPU.  Contract: ops.h,
 * arithmetic: sample.h, parts of a row: sample.cuh. */
#include "sample.cuh"

/* ---- hash ------------------------------------------------------------------------------------ */

struct hash_part {
    uint64_t hash;
    uint64_t not_finite; /* the lowest id, or ~0 */
};

__global__ void __launch_bounds__(SAMPLE_THREADS)
    hash_parts_kernel(hash_part *parts, const float *x, int dim)
{
    SHARED(uint64_t, part, [WARP]);
    SHARED(unsigned, lowest, [1]);
    const float *row = x + (size_t)blockIdx.y * dim;
    uint64_t hash = 0;
    if (threadIdx.x == 0)
        lowest[0] = ~0u;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < SAMPLE_EACH; k++) {
        int i = (int)blockIdx.x * SAMPLE_PART + k * SAMPLE_THREADS + (int)threadIdx.x;
        if (i >= dim)
            break;
        float value = row[i];
        hash += sample_hash((uint32_t)i, value);
        if (!sample_is_finite(value))
            atomicMin(&lowest[0], (unsigned)i);
    }
    hash = block_sum64(hash, part);
    if (threadIdx.x == 0) {
        hash_part found = {hash, lowest[0] == ~0u ? ~(uint64_t)0 : lowest[0]};
        parts[blockIdx.y * gridDim.x + blockIdx.x] = found;
    }
}

/* A warp a row. */
__global__ void __launch_bounds__(WARP)
    hash_join_kernel(sample_out *out, const hash_part *parts, int n_parts)
{
    uint64_t hash = 0, lowest = ~(uint64_t)0;
    for (int i = threadIdx.x; i < n_parts; i += WARP) {
        hash_part found = parts[(size_t)blockIdx.x * n_parts + i];
        hash += found.hash;
        lowest = found.not_finite < lowest ? found.not_finite : lowest;
    }
    hash = warp_sum64(hash);
#pragma unroll
    for (int o = WARP / 2; o > 0; o >>= 1) {
        uint64_t other = __shfl_xor_sync(ALL_LANES, (unsigned long long)lowest, o);
        lowest = other < lowest ? other : lowest;
    }
    if (threadIdx.x == 0) {
        out[blockIdx.x].hash = hash;
        out[blockIdx.x].not_finite = lowest == ~(uint64_t)0 ? -1 : (int32_t)lowest;
    }
}

/* ---- processors ------------------------------------------------------------------------------ */

__global__ void __launch_bounds__(SAMPLE_THREADS)
    copy_scores_kernel(float *y, const float *x, size_t n)
{
    size_t i = (size_t)blockIdx.x * SAMPLE_THREADS + threadIdx.x;
    if (i < n)
        y[i] = x[i];
}

#define LISTS_FN __device__ __forceinline__

LISTS_FN bool lists_mark(uint32_t *word, uint32_t bit)
{
    return (atomicOr(word, bit) & bit) != 0;
}

LISTS_FN void lists_ban(float *score)
{
    atomicExch((unsigned *)score, 0xff800000u);
}

LISTS_FN void lists_trap(const char *file, int line, int, int, int index, int bound)
{
    trap_index(file, line, index, bound);
}

#include "lists.h"

/* A block a row. */
__global__ void __launch_bounds__(LISTS_THREADS)
    process_lists_kernel(float *y, sample_out *out, unsigned *marks, const sample_row *rows,
                         int dim, bool trap)
{
    SHARED(uint64_t, part, [WARP]);
    int block = (int)blockIdx.x, thread = (int)threadIdx.x, words = (dim + 31) / 32;
    const lists l = {
        y + (size_t)block * dim, marks + (size_t)block * words, rows + block, dim, block, trap};
    for (int i = thread; i < words; i += LISTS_THREADS)
        l.marks[i] = 0;
    uint32_t skipped = lists_bias(&l, thread, LISTS_THREADS);
    __syncthreads();
    skipped += lists_penalty(&l, thread, LISTS_THREADS);
    __syncthreads();
    skipped += lists_bans(&l, thread, LISTS_THREADS);
    uint64_t sum = block_sum64(skipped, part);
    if (thread == 0)
        out[block].skipped = (uint32_t)sum;
}

/* ---- the choice ------------------------------------------------------------------------------ */

struct best {
    float score;
    int id;
};

/* The larger score, of equals the lower id; NaN loses. */
__device__ __forceinline__ best better(best a, best b)
{
    return b.score > a.score || (b.score == a.score && b.id < a.id) ? b : a;
}

/* The best of the candidates that the threads bring, in every thread. */
__device__ __forceinline__ best block_best(best x, best *of)
{
#pragma unroll
    for (int o = WARP / 2; o > 0; o >>= 1) {
        best other = {__shfl_xor_sync(ALL_LANES, x.score, o), __shfl_xor_sync(ALL_LANES, x.id, o)};
        x = better(x, other);
    }
    if (threadIdx.x % WARP == 0)
        of[threadIdx.x / WARP] = x;
    __syncthreads();
    x = of[0];
    for (int i = 1; i < SAMPLE_THREADS / WARP; i++)
        x = better(x, of[i]);
    return x;
}

/* The best of a row, from its parts. */
__device__ __forceinline__ best row_best(const best *parts, int n_parts, best *of)
{
    best x = {-INFINITY, 0};
    for (int i = threadIdx.x; i < n_parts; i += SAMPLE_THREADS)
        x = better(x, parts[i]);
    return block_best(x, of);
}

__global__ void __launch_bounds__(SAMPLE_THREADS)
    best_parts_kernel(best *parts, const float *x, int dim)
{
    SHARED(best, of, [SAMPLE_THREADS / WARP]);
    const float *row = x + (size_t)blockIdx.y * dim;
    best mine = {-INFINITY, 0};
#pragma unroll
    for (int k = 0; k < SAMPLE_EACH; k++) {
        int i = (int)blockIdx.x * SAMPLE_PART + k * SAMPLE_THREADS + (int)threadIdx.x;
        if (i >= dim)
            break;
        best next = {row[i], i};
        if (next.score > mine.score)
            mine = next;
    }
    mine = block_best(mine, of);
    if (threadIdx.x == 0)
        parts[blockIdx.y * gridDim.x + blockIdx.x] = mine;
}

__global__ void __launch_bounds__(SAMPLE_THREADS)
    weight_parts_kernel(uint64_t *totals, const best *parts, const float *x, int dim)
{
    SHARED(best, of, [SAMPLE_THREADS / WARP]);
    SHARED(uint64_t, part, [WARP]);
    const float *row = x + (size_t)blockIdx.y * dim;
    float max = row_best(parts + blockIdx.y * gridDim.x, (int)gridDim.x, of).score;
    uint64_t sum = 0;
    if (sample_is_finite(max)) {
#pragma unroll 4
        for (int k = 0; k < SAMPLE_EACH; k++) {
            int i = (int)blockIdx.x * SAMPLE_PART + k * SAMPLE_THREADS + (int)threadIdx.x;
            if (i < dim)
                sum += sample_weight(row[i], max);
        }
    }
    sum = block_sum64(sum, part);
    if (threadIdx.x == 0)
        totals[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

__global__ void __launch_bounds__(SAMPLE_THREADS)
    choose_kernel(sample_out *out, const best *parts, const uint64_t *totals, int n_parts)
{
    SHARED(best, of, [SAMPLE_THREADS / WARP]);
    SHARED(uint64_t, part, [WARP]);
    best top = row_best(parts + (size_t)blockIdx.x * n_parts, n_parts, of);
    uint64_t total = block_total(totals + (size_t)blockIdx.x * n_parts, n_parts, part);
    if (threadIdx.x == 0) {
        out[blockIdx.x].id = top.id;
        out[blockIdx.x].score = top.score;
        out[blockIdx.x].max = top.score;
        out[blockIdx.x].total = total;
    }
}

__global__ void __launch_bounds__(SAMPLE_THREADS)
    log_probs_kernel(float *y, const best *parts, const uint64_t *totals, const float *x, int dim)
{
    SHARED(best, of, [SAMPLE_THREADS / WARP]);
    SHARED(uint64_t, part, [WARP]);
    int n_parts = (int)gridDim.x;
    float max = row_best(parts + blockIdx.y * n_parts, n_parts, of).score;
    uint64_t total = block_total(totals + blockIdx.y * n_parts, n_parts, part);
    double log_total = log((double)total / (double)SAMPLE_ONE);
    for (int k = 0; k < SAMPLE_EACH; k++) {
        int i = (int)blockIdx.x * SAMPLE_PART + k * SAMPLE_THREADS + (int)threadIdx.x;
        size_t at = (size_t)blockIdx.y * dim + i;
        if (i < dim)
            y[at] = (float)((double)x[at] - (double)max - log_total);
    }
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

static unsigned parts_of(int dim)
{
    return blocks_for((size_t)dim, SAMPLE_PART);
}

void hash_rows_cuda(struct mll_exec *ex, struct sample_out *out, const float *x, int n, int dim)
{
    size_t mark = exec_mark(ex);
    unsigned n_parts = parts_of(dim), rows = (unsigned)n;
    hash_part *parts = (hash_part *)exec_alloc(ex, rows * n_parts * sizeof *parts);
    LAUNCH(hash_parts_kernel, dim3(n_parts, rows), dim3(SAMPLE_THREADS), 0, stream_of(ex), parts, x,
           dim);
    launched(ex, "hash_rows");
    LAUNCH(hash_join_kernel, dim3(rows), dim3(WARP), 0, stream_of(ex), out, parts, (int)n_parts);
    launched(ex, "hash_rows");
    exec_release(ex, mark);
}

void process_cuda(struct mll_exec *ex, float *y, struct sample_out *out, const float *x,
                  const struct sample_row *rows, int n, int dim)
{
    size_t mark = exec_mark(ex), words = (size_t)n * (size_t)((dim + 31) / 32);
    size_t count = (size_t)n * (size_t)dim;
    unsigned *marks = (unsigned *)exec_alloc(ex, words * sizeof *marks);
    if (y != x) {
        LAUNCH(copy_scores_kernel, dim3(blocks_for(count, SAMPLE_THREADS)), dim3(SAMPLE_THREADS), 0,
               stream_of(ex), y, x, count);
        launched(ex, "process");
    }
    LAUNCH(process_lists_kernel, dim3((unsigned)n), dim3(LISTS_THREADS), 0, stream_of(ex), y, out,
           marks, rows, dim, exec_cuda(ex)->options.debug_bounds);
    launched(ex, "process");
    exec_release(ex, mark);
}

/* What choose and log_probs need to know of each row. */
struct row_parts {
    unsigned n;
    best *bests;
    uint64_t *totals;
};

static struct row_parts weigh(struct mll_exec *ex, const float *x, int n, int dim)
{
    unsigned n_parts = parts_of(dim), rows = (unsigned)n;
    struct row_parts p = {n_parts, (best *)exec_alloc(ex, rows * n_parts * sizeof(best)),
                          (uint64_t *)exec_alloc(ex, rows * n_parts * sizeof(uint64_t))};
    LAUNCH(best_parts_kernel, dim3(n_parts, rows), dim3(SAMPLE_THREADS), 0, stream_of(ex), p.bests,
           x, dim);
    launched(ex, "choose");
    LAUNCH(weight_parts_kernel, dim3(n_parts, rows), dim3(SAMPLE_THREADS), 0, stream_of(ex),
           p.totals, p.bests, x, dim);
    launched(ex, "choose");
    return p;
}

void choose_cuda(struct mll_exec *ex, struct sample_out *out, const float *scores, int n, int dim)
{
    size_t mark = exec_mark(ex);
    struct row_parts p = weigh(ex, scores, n, dim);
    LAUNCH(choose_kernel, dim3((unsigned)n), dim3(SAMPLE_THREADS), 0, stream_of(ex), out, p.bests,
           p.totals, (int)p.n);
    launched(ex, "choose");
    exec_release(ex, mark);
}

void log_probs_cuda(struct mll_exec *ex, float *y, const float *x, int n, int dim)
{
    size_t mark = exec_mark(ex);
    struct row_parts p = weigh(ex, x, n, dim);
    LAUNCH(log_probs_kernel, dim3(p.n, (unsigned)n), dim3(SAMPLE_THREADS), 0, stream_of(ex), y,
           p.bests, p.totals, x, dim);
    launched(ex, "log_probs");
    exec_release(ex, mark);
}
#endif
