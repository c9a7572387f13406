/* matmul_quant.cu - y = x W^T + bias by 4-bit and 8-bit weights on the GPU: which kernel, and the
 * plain form for shapes that the others do not take.  Contract: ops.h.
 *
 * The kernels of gemv_quant.cu and gemm_quant.cu want rows of whole blocks of 64 elements, as all
 * layers of the models have. Anything else (blocks that run over the ends of rows, blocks of 32) is
 * slow, right, and the same in both phases: a warp an element, with float32 sums. */
#include "quant.cuh"

#define PLAIN_WARPS 4

/* Element i of w in row-major order, of any block and rows. */
__device__ __forceinline__ float q4_element(const struct q4 &w, const uint32_t values[16], size_t i)
{
    uint32_t pair = w.codes[i / 2], code = i % 2 == 0 ? pair >> 4 : pair & 15;
    size_t block = i >> w.block_log2;
    float absmax = w.absmax != nullptr ? q4_absmax<false>(w, nullptr, block)
                                       : q4_absmax<true>(w, w.nested_map, block);
    return __half2float(__ushort_as_half((unsigned short)values[code])) * absmax;
}

/* Element o of the row of y that starts at `row`. */
__device__ __forceinline__ void plain_finish(float *y, const struct matmul_end &end, float sum,
                                             size_t row, int o)
{
    sum += end.bias == nullptr ? 0.0f : end.bias[o];
    y[row + o] = end.base == nullptr ? sum : add_scaled(end.base[row + o], matmul_factor(end), sum);
}

__global__ void __launch_bounds__(PLAIN_WARPS *WARP)
    matmul_plain_q4_kernel(float *y, struct operand x, struct q4 w, struct matmul_end end)
{
    SHARED(uint32_t, values, [16]);
    int o = blockIdx.x * PLAIN_WARPS + threadIdx.x / WARP, r = blockIdx.y;
    const __half *row = half_row(x, r);
    q4_values(values, w);
    __syncthreads();
    if (o >= w.rows)
        return;
    float sum = 0.0f;
    for (int k = threadIdx.x % WARP; k < w.cols; k += WARP)
        sum = fmaf(__half2float(row[k]), q4_element(w, values, (size_t)o * w.cols + k), sum);
    sum = warp_sum(sum) * w.unit * half_row_scale(x, r);
    if (threadIdx.x % WARP == 0)
        plain_finish(y, end, sum, (size_t)r * w.rows, o);
}

__global__ void __launch_bounds__(PLAIN_WARPS *WARP)
    matmul_plain_i8_kernel(float *y, struct operand x, const int8_t *codes, const float *scale,
                           int rows, struct matmul_end end)
{
    int o = blockIdx.x * PLAIN_WARPS + threadIdx.x / WARP, r = blockIdx.y;
    const __half *row = half_row(x, r);
    if (o >= rows)
        return;
    float sum = 0.0f;
    for (int k = threadIdx.x % WARP; k < x.cols; k += WARP)
        sum = fmaf(__half2float(row[k]), (float)codes[(size_t)o * x.cols + k], sum);
    sum = warp_sum(sum) * scale[o] * (1.0f / 127.0f) * half_row_scale(x, r);
    if (threadIdx.x % WARP == 0)
        plain_finish(y, end, sum, (size_t)r * rows, o);
}

#ifndef __CUDACC_RTC__
#include "quant_cuda.h"

#include <math.h>
#include <string.h>

#include "half.h"

/* ---- description ----------------------------------------------------------------------------- */

static float largest(const float *x, size_t n)
{
    float most = 0.0f;
    for (size_t i = 0; i < n; i++)
        most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

/* A bound of every |absmax| of m. */
static float absmax_bound(const struct mat *m)
{
    const struct mat_blocks *host = m->blocks;
    size_t n = (size_t)m->rows * (size_t)m->cols, block = (size_t)host->block;
    size_t blocks = (n + block - 1) / block;
    if (host->absmax != NULL)
        return largest(host->absmax, blocks);
    size_t nested = (blocks + MLL_NESTED_BLOCK - 1) / MLL_NESTED_BLOCK;
    return largest(host->nested_map, 256) * largest(host->nested_absmax, nested) +
           fabsf(host->nested_offset);
}

/* The squared error of the values, all together, when they are rounded to fp16 times stretch. */
static double rounding(const float values[16], float stretch)
{
    double sum = 0;
    for (int i = 0; i < 16; i++) {
        double x = (double)values[i] * stretch;
        double error = (double)f16_to_f32(f16_from_f32((float)x)) - x;
        sum += error * error / ((double)stretch * stretch);
    }
    return sum;
}

/* The stretch that rounds least among the multiples of 2^-10 that bring the largest of the values
 * into [1, 2). */
static float best_stretch(const float values[16])
{
    int exponent;
    float most = largest(values, 16), best = 1.0f;
    double least = INFINITY;
    frexpf(most, &exponent); /* most in [0.5, 1) * 2^exponent */
    for (int i = 0; i < 1024; i++) {
        float stretch = ldexpf(1.0f + (float)i / 1024.0f, -exponent);
        if (most * stretch < 1.0f)
            stretch *= 2.0f;
        double error = rounding(values, stretch);
        if (error < least) {
            least = error;
            best = stretch;
        }
    }
    return best;
}

void q4_describe(struct device_blocks *d, const struct mat *m)
{
    const struct mat_blocks *b = &d->blocks;
    struct q4 *q = &d->q4;
    float stretch = best_stretch(b->values), bound = absmax_bound(m);
    int exponent = 0;
    if (bound > 0.0f && isfinite(bound))
        frexpf(bound, &exponent);
    q->codes = (const uint8_t *)m->data;
    q->absmax = b->absmax;
    q->absmax_codes = b->codes;
    q->nested_absmax = b->nested_absmax;
    q->nested_map = b->nested_map;
    q->nested_offset = b->nested_offset;
    q->unit = 1.0f / stretch;
    q->power = ldexpf(1.0f, 14 - exponent);
    q->block_log2 = 0;
    while (1 << q->block_log2 < b->block)
        q->block_log2++;
    q->rows = m->rows;
    q->cols = m->cols;
    for (int i = 0; i < 16; i += 2)
        q->values[i / 2] = (uint32_t)f16_from_f32(b->values[i] * stretch) |
                           (uint32_t)f16_from_f32(b->values[i + 1] * stretch) << 16;
}

/* ---- choice ---------------------------------------------------------------------------------- */

static const struct q4 *q4_of(const struct mat *w)
{
    return w->dtype == MLL_DTYPE_Q4 ? &((const struct device_blocks *)(const void *)w->blocks)->q4
                                    : NULL;
}

/* Whether the kernels of gemv_quant.cu and gemm_quant.cu take it. */
static bool is_regular(const struct mat *w)
{
    bool whole = w->cols % 64 == 0 && (w->dtype == MLL_DTYPE_I8 || w->blocks->block % 64 == 0);
    return whole && (uintptr_t)w->data % 16 == 0 && w->cols <= 32768 &&
           (size_t)w->rows * (size_t)w->cols <= UINT32_MAX;
}

/* Whether both may go into one launch. */
static bool is_alike(const struct mat *a, const struct mat *b)
{
    const struct q4 *p = q4_of(a), *q = q4_of(b);
    return a->dtype == b->dtype && is_regular(b) &&
           (p == NULL || ((p->absmax == NULL) == (q->absmax == NULL) &&
                          memcmp(p->values, q->values, sizeof p->values) == 0));
}

static void matmul_plain(struct mll_exec *ex, float *y, const struct operand *x,
                         const struct mat *w, const struct matmul_end *end)
{
    dim3 grid(blocks_for((size_t)w->rows, PLAIN_WARPS), (unsigned)x->n), block(PLAIN_WARPS * WARP);
    if (w->dtype == MLL_DTYPE_Q4)
        LAUNCH(matmul_plain_q4_kernel, grid, block, 0, stream_of(ex), y, *x, *q4_of(w), *end);
    else
        LAUNCH(matmul_plain_i8_kernel, grid, block, 0, stream_of(ex), y, *x,
               (const int8_t *)w->data, w->scale, w->rows, *end);
    launched(ex, "matmul_plain");
}

/* Adds w to the launch. */
static void add_part(struct quant_args *q, float *y, const struct mat *w, enum mll_phase phase)
{
    struct matmul_part *part = &q->a.parts[q->a.n_parts];
    struct q4 *codes = &q->w[q->a.n_parts++];
    part->y = y;
    part->scale = w->scale;
    part->rows = w->rows;
    if (w->dtype == MLL_DTYPE_Q4) {
        *codes = *q4_of(w);
        if (phase == MLL_PREFILL) /* the weights are multiplied by power first */
            codes->unit /= codes->power;
        return;
    }
    codes->codes = (const uint8_t *)w->data;
    codes->unit = 1.0f / 127.0f;
    codes->rows = w->rows;
    codes->cols = w->cols;
}

void matmul_quant(struct mll_exec *ex, float *const y[], const struct operand *x,
                  const struct mat *const w[], const struct matmul_end *end, int count)
{
    for (int i = 0; i < count;) {
        struct quant_args q = {{*x, *end, 0, {}}, {}};
        const struct mat *first = w[i];
        bool is_q4 = first->dtype == MLL_DTYPE_Q4;
        if (!is_regular(first)) {
            matmul_plain(ex, y[i], x, first, end);
            i++;
            continue;
        }
        for (; i < count && q.a.n_parts < MLL_MATMUL_GROUP && is_alike(first, w[i]); i++)
            add_part(&q, y[i], w[i], ex->phase);
        if (ex->phase == MLL_PREFILL)
            gemm_quant(ex, &q, is_q4);
        else if (is_q4)
            gemv_q4(ex, &q);
        else
            gemv_i8(ex, &q);
    }
}
#endif
