/* draw.cu - temperature, filters and the draw on the GPU.  Contract: ops.h, arithmetic: sample.h,
 * parts of a row: sample.cuh.
 *
 * Filters keep a beginning of the ids in their order: most likely first, lower ids first among
 * equals. Place c of an id in that order is its key (32 bits), then the id (20 bits). Top-k and
 * top-p each look for the last place to keep, the lowest c with
 *     top-k    the ids up to c (of any id part: equals stay together) are at least k
 *     top-p    the weights up to c sum to at least what must stay
 * four bits a kernel: each block sorts the weights of its ids into the 16 values of the next digit,
 * and the blocks of the next kernel add those up and see which digit it is. */
#include "sample.cuh"

#define ID_BITS    20
#define PLACE_BITS (32 + ID_BITS)
#define DIGITS     16
#define K_PASSES   8  /* digits of a key */
#define P_PASSES   13 /* of a place */

static_assert(SAMPLE_DIM_MAX <= 1 << ID_BITS, "an id fits its bits");
static_assert(P_PASSES * 4 == PLACE_BITS && K_PASSES * 4 == 32, "whole digits");

/* What is known of the place that a row's search looks for. */
struct search {
    uint64_t limit;  /* places above are dropped already */
    uint64_t prefix; /* the digits found */
    uint64_t before; /* weight of the places below the prefix */
    uint64_t wanted; /* weight to reach */
};

__device__ __forceinline__ uint64_t place_of(float y, int id)
{
    return (uint64_t)sample_key(y) << ID_BITS | (uint32_t)id;
}

/* The digit in which the sum over bins, in their order, reaches s->wanted; the last if none. */
__device__ __forceinline__ void take_digit(search *s, const uint64_t *bins)
{
    int digit = 0;
    while (digit < DIGITS - 1 && s->before + bins[digit] < s->wanted)
        s->before += bins[digit++];
    s->prefix = s->prefix << 4 | (uint32_t)digit;
}

/* Takes up what pass found: bins (DIGITS) of the whole row. Passes of top-k come first. */
__device__ __forceinline__ void advance(search *s, const uint64_t *bins, const sample_row &row,
                                        int pass)
{
    if (pass == 0)
        s->wanted = (uint64_t)row.top_k;
    if (pass == K_PASSES) {
        uint64_t total = 0;
        for (int i = 0; i < DIGITS; i++)
            total += bins[i];
        uint64_t droppable = sample_droppable(row.top_p, total);
        s->wanted = droppable < total ? total - droppable : 1; /* the first always stays */
    }
    bool active = pass < K_PASSES ? row.top_k > 0 : row.top_p < 1.0f;
    if (!active)
        return;
    take_digit(s, bins);
    if (pass == K_PASSES - 1)
        s->limit = s->prefix << ID_BITS | ((1u << ID_BITS) - 1);
    if (pass == K_PASSES + P_PASSES - 1)
        s->limit = s->prefix;
    if (pass == K_PASSES - 1)
        s->prefix = s->before = 0;
}

/* The search behind passes 0 .. pass - 1, in every thread; states and bins are those of the last.
 */
__device__ __forceinline__ search search_state(const search *states, const uint64_t *bins,
                                               const sample_row &row, int pass, search *shared)
{
    SHARED(uint64_t, sums, [DIGITS]);
    const uint64_t *mine = bins + (size_t)blockIdx.y * gridDim.x * DIGITS;
    if (threadIdx.x < DIGITS && pass > 0) {
        uint64_t sum = 0;
        for (unsigned i = 0; i < gridDim.x; i++)
            sum += mine[i * DIGITS + threadIdx.x];
        sums[threadIdx.x] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        search s = {~(uint64_t)0, 0, 0, 0};
        if (pass > 0) {
            s = states[blockIdx.y];
            advance(&s, sums, row, pass - 1);
        }
        *shared = s;
    }
    __syncthreads();
    return *shared;
}

/* y = scores / temperature and the weights of y. */
__global__ void __launch_bounds__(SAMPLE_THREADS)
    temper_kernel(float *y, uint64_t *weights, const float *scores, const sample_row *rows,
                  const sample_out *out, int dim)
{
    const sample_row &row = rows[blockIdx.y];
    float max = out[blockIdx.y].max;
    if (!sample_draws(&row, max))
        return;
    max /= row.temperature;
#pragma unroll 4
    for (int k = 0; k < SAMPLE_EACH; k++) {
        int i = (int)blockIdx.x * SAMPLE_PART + k * SAMPLE_THREADS + (int)threadIdx.x;
        size_t at = (size_t)blockIdx.y * dim + i;
        if (i >= dim)
            break;
        float value = scores[at] / row.temperature;
        y[at] = value;
        weights[at] = sample_weight(value, max);
    }
}

/* One pass of the search; reads states and bins of the pass before, writes its own. */
__global__ void __launch_bounds__(SAMPLE_THREADS)
    search_kernel(search *states, uint64_t *bins, const search *states_before,
                  const uint64_t *bins_before, const float *y, const uint64_t *weights,
                  const sample_row *rows, const sample_out *out, int dim, int pass)
{
    SHARED(search, shared, [1]);
    SHARED(uint64_t, part, [SAMPLE_THREADS / WARP][DIGITS]);
    const sample_row &row = rows[blockIdx.y];
    bool by_count = pass < K_PASSES;
    if (!sample_draws(&row, out[blockIdx.y].max))
        return;
    search s = search_state(states_before, bins_before, row, pass, shared);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        states[blockIdx.y] = s;
    int shift = PLACE_BITS - 4 * (by_count ? pass : pass - K_PASSES);
    uint64_t bin[DIGITS] = {0};
    bool active = by_count ? row.top_k > 0 : row.top_p < 1.0f;
    for (int k = 0; k < SAMPLE_EACH && active; k++) {
        int i = (int)blockIdx.x * SAMPLE_PART + k * SAMPLE_THREADS + (int)threadIdx.x;
        size_t at = (size_t)blockIdx.y * dim + i;
        if (i >= dim)
            break;
        uint64_t place = place_of(y[at], i), weight = by_count ? 1 : weights[at];
        bool counts = y[at] != -INFINITY && place <= s.limit && place >> shift == s.prefix;
        int digit = counts ? (int)(place >> (shift - 4) & 15) : DIGITS;
#pragma unroll
        for (int d = 0; d < DIGITS; d++)
            bin[d] += d == digit ? weight : 0;
    }
#pragma unroll
    for (int d = 0; d < DIGITS; d++) {
        uint64_t sum = warp_sum64(bin[d]);
        if (threadIdx.x % WARP == 0)
            part[threadIdx.x / WARP][d] = sum;
    }
    __syncthreads();
    if (threadIdx.x < DIGITS) {
        uint64_t sum = 0;
        for (int w = 0; w < SAMPLE_THREADS / WARP; w++)
            sum += part[w][threadIdx.x];
        bins[((size_t)blockIdx.y * gridDim.x + blockIdx.x) * DIGITS + threadIdx.x] = sum;
    }
}

__global__ void __launch_bounds__(SAMPLE_THREADS)
    filter_kernel(float *y, const search *states, const uint64_t *bins, const uint64_t *weights,
                  const sample_row *rows, const sample_out *out, int dim)
{
    SHARED(search, shared, [1]);
    const sample_row &row = rows[blockIdx.y];
    if (!sample_draws(&row, out[blockIdx.y].max))
        return;
    search s = search_state(states, bins, row, K_PASSES + P_PASSES, shared);
    for (int k = 0; k < SAMPLE_EACH; k++) {
        int i = (int)blockIdx.x * SAMPLE_PART + k * SAMPLE_THREADS + (int)threadIdx.x;
        size_t at = (size_t)blockIdx.y * dim + i;
        if (i >= dim)
            break;
        if (sample_below(weights[at], row.min_p) || place_of(y[at], i) > s.limit)
            y[at] = -INFINITY;
    }
}

/* ---- the draw -------------------------------------------------------------------------------- */

__global__ void __launch_bounds__(SAMPLE_THREADS)
    draw_parts_kernel(uint64_t *totals, const float *y, const sample_row *rows,
                      const sample_out *out, int dim)
{
    SHARED(uint64_t, part, [WARP]);
    const sample_row &row = rows[blockIdx.y];
    float max = out[blockIdx.y].max;
    uint64_t sum = 0;
    if (!sample_draws(&row, max))
        return;
    max /= row.temperature;
#pragma unroll 4
    for (int k = 0; k < SAMPLE_EACH; k++) {
        int i = (int)blockIdx.x * SAMPLE_PART + k * SAMPLE_THREADS + (int)threadIdx.x;
        if (i < dim)
            sum += sample_weight(y[(size_t)blockIdx.y * dim + i], max);
    }
    sum = block_sum64(sum, part);
    if (threadIdx.x == 0)
        totals[blockIdx.y * gridDim.x + blockIdx.x] = sum;
}

/* The sum of x over the threads before this one. A barrier must stand behind the last use of part.
 */
__device__ __forceinline__ uint64_t block_before(uint64_t x, uint64_t *part)
{
    int lane = (int)(threadIdx.x % WARP), warp = (int)(threadIdx.x / WARP);
    uint64_t sum = x;
#pragma unroll
    for (int o = 1; o < WARP; o <<= 1) {
        uint64_t below = (uint64_t)__shfl_up_sync(ALL_LANES, (unsigned long long)sum, (unsigned)o);
        sum += lane >= o ? below : 0;
    }
    if (lane == WARP - 1)
        part[warp] = sum;
    __syncthreads();
    sum -= x;
    for (int i = 0; i < warp; i++)
        sum += part[i];
    return sum;
}

/* A block a row: finds the part in which the running sum passes the target, then the thread's
 * SAMPLE_EACH ids side by side, then the id. */
__global__ void __launch_bounds__(SAMPLE_THREADS)
    draw_kernel(sample_out *out, const uint64_t *totals, const float *y, const float *scores,
                const sample_row *rows, int dim, int n_parts)
{
    SHARED(uint64_t, part, [WARP]);
    SHARED(uint64_t, before, [1]);
    SHARED(int, at, [1]);
    const sample_row &row = rows[blockIdx.x];
    const uint64_t *total = totals + (size_t)blockIdx.x * n_parts;
    float max = out[blockIdx.x].max;
    if (!sample_draws(&row, max))
        return;
    max /= row.temperature;
    uint64_t target = sample_target(row.seed, row.position, block_total(total, n_parts, part));
    if (threadIdx.x == 0) {
        uint64_t sum = 0;
        int p = 0;
        while (p < n_parts - 1 && sum + total[p] <= target)
            sum += total[p++];
        before[0] = sum;
        at[0] = p;
    }
    __syncthreads();
    int first = at[0] * SAMPLE_PART + (int)threadIdx.x * SAMPLE_EACH;
    const float *mine = y + (size_t)blockIdx.x * dim;
    uint64_t weight = 0;
    for (int i = first; i < first + SAMPLE_EACH && i < dim; i++)
        weight += sample_weight(mine[i], max);
    uint64_t sum = before[0] + block_before(weight, part);
    if (sum > target || sum + weight <= target)
        return;
    int id = first;
    while ((sum += sample_weight(mine[id], max)) <= target)
        id++;
    out[blockIdx.x].id = id;
    out[blockIdx.x].score = scores[(size_t)blockIdx.x * dim + id];
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

size_t sample_scratch_cuda(const struct mll_exec *ex, int n, int dim)
{
    size_t rows = (size_t)n, parts = blocks_for((size_t)dim, SAMPLE_PART);
    (void)ex;
    return rows * ((size_t)dim * sizeof(uint64_t) +
                   2 * (sizeof(search) + parts * DIGITS * sizeof(uint64_t))) +
           8 * 64;
}

void warp_cuda(struct mll_exec *ex, float *y, const float *scores, const struct sample_row *rows,
               const struct sample_out *out, int n, int dim)
{
    size_t mark = exec_mark(ex), count = (size_t)n * (size_t)dim;
    unsigned parts = blocks_for((size_t)dim, SAMPLE_PART);
    dim3 grid(parts, (unsigned)n), block(SAMPLE_THREADS);
    cudaStream_t stream = stream_of(ex);
    uint64_t *weights = (uint64_t *)exec_alloc(ex, count * sizeof *weights), *bins[2];
    search *states[2];
    for (int i = 0; i < 2; i++) {
        states[i] = (search *)exec_alloc(ex, (size_t)n * sizeof *states[i]);
        bins[i] = (uint64_t *)exec_alloc(ex, (size_t)n * parts * DIGITS * sizeof *bins[i]);
    }
    LAUNCH(temper_kernel, grid, block, 0, stream, y, weights, scores, rows, out, dim);
    launched(ex, "warp");
    for (int pass = 0; pass < K_PASSES + P_PASSES; pass++) {
        int now = pass % 2, before = 1 - now;
        LAUNCH(search_kernel, grid, block, 0, stream, states[now], bins[now], states[before],
               bins[before], y, weights, rows, out, dim, pass);
        launched(ex, "warp");
    }
    int last = (K_PASSES + P_PASSES - 1) % 2;
    LAUNCH(filter_kernel, grid, block, 0, stream, y, states[last], bins[last], weights, rows, out,
           dim);
    launched(ex, "warp");
    exec_release(ex, mark);
}

void draw_cuda(struct mll_exec *ex, struct sample_out *out, const float *y, const float *scores,
               const struct sample_row *rows, int n, int dim)
{
    size_t mark = exec_mark(ex);
    unsigned parts = blocks_for((size_t)dim, SAMPLE_PART);
    uint64_t *totals = (uint64_t *)exec_alloc(ex, (size_t)n * parts * sizeof *totals);
    LAUNCH(draw_parts_kernel, dim3(parts, (unsigned)n), dim3(SAMPLE_THREADS), 0, stream_of(ex),
           totals, y, rows, out, dim);
    launched(ex, "draw");
    LAUNCH(draw_kernel, dim3((unsigned)n), dim3(SAMPLE_THREADS), 0, stream_of(ex), out, totals, y,
           scores, rows, dim, (int)parts);
    launched(ex, "draw");
    exec_release(ex, mark);
}
#endif
