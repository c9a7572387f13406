/* matmul_int8.c - sums of int8 products: the plain form, and what surrounds either.  Formulas:
 * matmul_int8.h. */
#include "matmul_int8.h"

#include <math.h>

#include "par.h"
#include "quant.h"

static size_t stride_of(int cols)
{
    return ((size_t)cols + 2 * INT8_BLOCK - 1) / (2 * INT8_BLOCK) * 2;
}

/* ---- the plain form -------------------------------------------------------------------------- */

static void quantise(const struct int8_job *j, size_t row, size_t b, const float *x, size_t n)
{
    const size_t block = row * j->stride + b;
    int8_t *q = j->q + block * INT8_BLOCK;
    uint32_t most = 0;
    int sum = 0;
    float inverse;
    for (size_t i = 0; i < n; i++) {
        uint32_t size = f32_to_bits(x[i]) & 0x7fffffffu;
        most = size > most ? size : most;
    }
    j->scale[block] = int8_scale_of(most, &inverse);
    for (size_t i = 0; i < INT8_BLOCK; i++) {
        q[i] = i < n && inverse > 0 ? (int8_t)lrintf(x[i] * inverse) : 0;
        sum += q[i];
    }
    j->bias[block] = -128 * sum;
}

static void weights_of(int8_t w[INT8_BLOCK], const struct int8_job *j, size_t first, size_t n)
{
    const struct mat *m = j->m->w;
    for (size_t i = 0; i < INT8_BLOCK; i++) {
        if (i >= n)
            w[i] = 0;
        else if (m->dtype == MLL_DTYPE_I8)
            w[i] = ((const int8_t *)m->data)[first + i];
        else
            w[i] = j->table[quant_code(m->data, first + i)];
    }
}

static void group(const struct int8_job *j, struct int8_scratch *scratch, size_t o)
{
    const struct mat *m = j->m->w;
    size_t cols = (size_t)m->cols, count = min_size(INT8_GROUP, (size_t)m->rows);
    for (size_t i = 0; i < count * j->blocks; i++) {
        size_t out = i / j->blocks, b = i % j->blocks, first = (o + out) * cols + b * INT8_BLOCK;
        int8_t w[INT8_BLOCK];
        weights_of(w, j, first, min_size(INT8_BLOCK, cols - b * INT8_BLOCK));
        float absmax = 1;
        if (m->dtype == MLL_DTYPE_Q4)
            absmax = quant_absmax(m->blocks, first / (size_t)m->blocks->block);
        for (size_t r = 0; r < j->rows; r++) {
            const int8_t *q = j->q + (r * j->stride + b) * INT8_BLOCK;
            float *sum = &scratch->sums[r][out];
            int dot = 0;
            for (int k = 0; k < INT8_BLOCK; k++)
                dot += w[k] * q[k];
            *sum = fmaf((float)dot, j->scale[r * j->stride + b] * absmax, b == 0 ? 0 : *sum);
        }
    }
}

static const struct int8_form plain = {.quantise = quantise, .group = group};

/* ---- around them ----------------------------------------------------------------------------- */

static void quantise_rows(void *arg, size_t begin, size_t end, int thread)
{
    const struct int8_job *j = arg;
    const size_t cols = (size_t)j->m->w->cols;
    (void)thread;
    for (size_t r = begin; r < end; r++) {
        const float *x = j->m->x + (j->first + r) * cols;
        for (size_t b = 0; b < j->stride; b++) {
            const size_t at = min_size(b * INT8_BLOCK, cols);
            j->form->quantise(j, r, b, x + at, min_size(INT8_BLOCK, cols - at));
        }
    }
}

/* Outputs from the sums of rows of w from row o on, but the first `skip`. */
static void finish(const struct int8_job *j, const struct int8_scratch *scratch, size_t o,
                   size_t skip)
{
    const struct mat *w = j->m->w, *bias = j->m->bias;
    size_t rows = (size_t)w->rows, count = min_size(INT8_GROUP, rows);
    float scales[INT8_GROUP] = {0}, biases[INT8_GROUP] = {0};
    for (size_t i = 0; i < count; i++) {
        scales[i] = w->scale != NULL ? w->scale[o + i] : 1;
        biases[i] = bias != NULL ? quant_at(bias, o + i) : 0;
    }
    for (size_t r = 0; r < j->rows; r++) {
        float y[INT8_GROUP];
        for (int i = 0; i < INT8_GROUP; i++)
            y[i] = scratch->sums[r][i] * scales[i] * MLL_INT8_STEP;
        for (int i = 0; i < INT8_GROUP && bias != NULL; i++)
            y[i] += biases[i];
        size_t at = (j->first + r) * rows + o;
        const float *base = matmul_base(j->m, at);
        for (size_t i = skip; i < count && base != NULL; i++)
            y[i] = base[i] + j->m->factor * y[i];
        memcpy(j->m->y + at + skip, y + skip, (count - skip) * sizeof *y);
    }
}

/* The last group begins early enough to be whole, where there are rows enough. */
static void groups(void *arg, size_t begin, size_t end, int thread)
{
    const struct int8_job *j = arg;
    const size_t rows = (size_t)j->m->w->rows, last = rows < INT8_GROUP ? 0 : rows - INT8_GROUP;
    for (size_t g = begin; g < end; g++) {
        size_t o = min_size(g * INT8_GROUP, last);
        j->form->group(j, &j->scratch[thread], o);
        finish(j, &j->scratch[thread], o, g * INT8_GROUP - o);
    }
}

static const struct int8_form *form_of(const struct mll_exec *ex, const struct mat *w)
{
#if defined(__x86_64__)
    if (ex->isa == MLL_ISA_AVX512 && w->rows >= INT8_GROUP && __builtin_cpu_supports("avx512vnni"))
        return &matmul_int8_vnni;
#endif
    (void)ex, (void)w;
    return &plain;
}

bool matmul_int8_takes(const struct mat *w)
{
    return w->dtype == MLL_DTYPE_I8 || (w->dtype == MLL_DTYPE_Q4 && matmul_q4_fits(w));
}

void matmul_int8(struct mll_exec *ex, const struct matmul *m)
{
    const size_t mark = exec_mark(ex), n = (size_t)m->n, rows = min_size(n, INT8_ROWS);
    const size_t out = (size_t)m->w->rows, stride = stride_of(m->w->cols);
    struct int8_job j = {.m = m, .form = form_of(ex, m->w), .stride = stride};
    j.blocks = ((size_t)m->w->cols + INT8_BLOCK - 1) / INT8_BLOCK;
    for (int i = 0; i < 16 && m->w->dtype == MLL_DTYPE_Q4; i++)
        j.table[i] = (int8_t)lrintf(m->w->blocks->values[i] * 127);
    j.q = exec_alloc(ex, rows * stride * INT8_BLOCK);
    j.scale = exec_alloc(ex, rows * stride * sizeof *j.scale);
    j.bias = exec_alloc(ex, rows * stride * sizeof *j.bias);
    j.scratch = exec_alloc(ex, (size_t)ex->threads * sizeof *j.scratch);
    for (j.first = 0; j.first < n; j.first += j.rows) {
        j.rows = min_size(INT8_ROWS, n - j.first);
        const size_t work = j.rows * stride * INT8_BLOCK;
        par_for(ex->par, exec_threads_for(ex, work), j.rows, quantise_rows, &j);
        par_for(ex->par, exec_threads_for(ex, work * out / 16), (out + INT8_GROUP - 1) / INT8_GROUP,
                groups, &j);
    }
    exec_release(ex, mark);
}

size_t matmul_int8_scratch(int threads, int n, int cols)
{
    size_t blocks = min_size((size_t)n, INT8_ROWS) * stride_of(cols);
    return blocks * (INT8_BLOCK + sizeof(float) + sizeof(int32_t)) + 3 * 64 +
           (size_t)threads * sizeof(struct int8_scratch);
}
