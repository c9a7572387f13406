/* matmul.c - y = x W^T + b: the plain form, and the choice of a form.  Contract: ops.h.
 *   y[r][o] = dot(x[r], w[o]) + bias[o]        HF: nn.Linear
 * The order of every sum is that of dot() in ops.h: 16 lanes, one fused multiply-add an element. */
#include "matmul_int8.h"

#include <math.h>

#include "fmath.h"
#include "par.h"
#include "quant.h"

/* Up to this many rows of x, w is read where it lies; above, packing it pays. */
enum { DIRECT_ROWS = 24 };

void matmul_ends(struct matmul_ends *ends, const struct matmul *m, size_t row, int rows)
{
    const struct mat *w = m->w, *bias = m->bias;
    ends->scale = w->scale != NULL ? ends->scales : NULL;
    ends->bias = bias != NULL ? ends->biases : NULL;
    ends->step = w->dtype == MLL_DTYPE_I8 ? MLL_INT8_STEP : 1;
    ends->factor = m->factor;
    for (int i = 0; i < MATMUL_W; i++) {
        bool in = i < rows;
        ends->scales[i] = in && w->scale != NULL ? w->scale[row + (size_t)i] : 0;
        ends->biases[i] = in && bias != NULL ? quant_at(bias, row + (size_t)i) : 0;
    }
}

bool matmul_q4_fits(const struct mat *w)
{
    return w->cols % Q4_CHUNK == 0 && w->blocks->block % Q4_CHUNK == 0;
}

/* ---- the plain form -------------------------------------------------------------------------- */

static float dot(const float *x, const struct mat *w, size_t row)
{
    float lane[MATMUL_LANES] = {0};
    size_t cols = (size_t)w->cols;
    for (size_t k = 0; k < cols; k++)
        lane[k % 16] = fmaf(x[k], quant_unscaled(w, row * cols + k), lane[k % 16]);
    for (int apart = 8; apart > 0; apart /= 2)
        for (int i = 0; i < apart; i++)
            lane[i] += lane[i + apart];
    return quant_scale(w, row, lane[0]);
}

static void plain_rows(void *arg, size_t begin, size_t end, int thread)
{
    const struct matmul *m = arg;
    (void)thread;
    for (size_t o = begin; o < end; o++) {
        for (size_t r = 0; r < (size_t)m->n; r++) {
            size_t at = r * (size_t)m->w->rows + o;
            float y = dot(m->x + r * (size_t)m->w->cols, m->w, o);
            if (m->bias != NULL)
                y += quant_at(m->bias, o);
            m->y[at] = m->base != NULL ? m->base[at] + m->factor * y : y;
        }
    }
}

/* ---- choice ---------------------------------------------------------------------------------- */

static const struct matmul_form *form_of(const struct mll_exec *ex, const struct mat *w)
{
    if (w->dtype == MLL_DTYPE_Q4 && !matmul_q4_fits(w))
        return NULL;
#if defined(__x86_64__)
    if (ex->compute == MLL_COMPUTE_BF16 && (w->dtype == MLL_DTYPE_BF16 || quant_is_coded(w->dtype)))
        return w->dtype == MLL_DTYPE_Q4 ? &matmul_avx512_bf16_q4 : &matmul_avx512_bf16;
    if (ex->isa == MLL_ISA_AVX512)
        return &matmul_avx512;
    if (ex->isa == MLL_ISA_AVX2)
        return &matmul_avx2;
#endif
    (void)ex;
    return NULL;
}

static void direct_groups(void *arg, size_t begin, size_t end, int thread)
{
    const struct matmul *m = arg;
    (void)thread;
    m->form->direct(m, begin, end);
}

static size_t bf16_row_bytes(int cols)
{
    return ((size_t)cols + 31) / 32 * 64;
}

static void run_direct(struct mll_exec *ex, struct matmul *m)
{
    size_t mark = exec_mark(ex), cols = (size_t)m->w->cols;
    m->x_steps = (const unsigned char *)m->x;
    m->x_stride = cols * sizeof *m->x;
    if (m->form->step == 32) {
        m->x_stride = bf16_row_bytes(m->w->cols);
        unsigned char *rounded = exec_alloc(ex, (size_t)m->n * m->x_stride);
        for (size_t r = 0; r < (size_t)m->n; r++)
            m->form->pack_x(rounded + r * m->x_stride, m->x + r * cols, cols, 1, cols);
        m->x_steps = rounded;
    } else if (m->w->dtype == MLL_DTYPE_Q4 && m->form->order_q4_x != NULL) {
        float *ordered = exec_alloc(ex, (size_t)m->n * m->x_stride);
        m->form->order_q4_x(ordered, m->x, (size_t)m->n * cols);
        m->x_steps = (const unsigned char *)ordered;
    }
    /* a weight costs about an eighth of an element of the light ops */
    size_t work = (size_t)m->w->rows * cols * (size_t)m->n / 8;
    par_for(ex->par, exec_threads_for(ex, work), ((size_t)m->w->rows + MATMUL_W - 1) / MATMUL_W,
            direct_groups, m);
    exec_release(ex, mark);
}

static void multiply(struct mll_exec *ex, struct matmul *m)
{
    m->form = form_of(ex, m->w);
    if (ex->compute == MLL_COMPUTE_INT8 && matmul_int8_takes(m->w))
        matmul_int8(ex, m);
    else if (m->form == NULL)
        par_for(ex->par, ex->threads, (size_t)m->w->rows, plain_rows, m);
    else if (m->n > DIRECT_ROWS)
        matmul_block(ex, m);
    else
        run_direct(ex, m);
}

void matmul_cpu(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                const struct mat *bias, int n)
{
    multiply(ex, &(struct matmul){.y = y, .x = x, .w = w, .bias = bias, .n = n});
}

void matmul_gelu_cpu(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                     const struct mat *bias, int n)
{
    matmul_cpu(ex, y, x, w, bias, n);
    gelu_cpu(ex, y, y, n, w->rows);
}

void matmul_add_cpu(struct mll_exec *ex, float *y, const float *base, const float *x,
                    const struct mat *w, const struct mat *bias, const struct mat *gate, int n)
{
    float factor = gate ? fm_tanh(weight_at(gate->data, gate->dtype, 0)) : 1.0f;
    multiply(ex, &(struct matmul){
                     .y = y, .x = x, .w = w, .bias = bias, .base = base, .factor = factor, .n = n});
}

void matmul_group_cpu(struct mll_exec *ex, float *const y[], const float *x,
                      const struct mat *const w[], int count, int n)
{
    for (int i = 0; i < count; i++)
        matmul_cpu(ex, y[i], x, w[i], NULL, n);
}

static size_t float_scratch(const struct mll_exec *ex, int n, int cols)
{
    if (ex->isa == MLL_ISA_C)
        return 0;
    if (n > DIRECT_ROWS)
        return matmul_block_scratch(ex->threads, n, cols);
    if (ex->isa != MLL_ISA_AVX512)
        return 0;
    size_t ordered = (size_t)n * (size_t)cols * sizeof(float);
    size_t rounded = ex->compute == MLL_COMPUTE_BF16 ? (size_t)n * bf16_row_bytes(cols) : 0;
    return ordered > rounded ? ordered : rounded;
}

size_t matmul_scratch_cpu(const struct mll_exec *ex, int n, int cols)
{
    size_t floats = float_scratch(ex, n, cols), int8 = 0;
    if (ex->compute == MLL_COMPUTE_INT8)
        int8 = matmul_int8_scratch(ex->threads, n, cols);
    return floats > int8 ? floats : int8;
}

size_t matmul_add_scratch_cpu(const struct mll_exec *ex, int n, int rows, int cols)
{
    (void)rows;
    return matmul_scratch_cpu(ex, n, cols);
}
