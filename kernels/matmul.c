/* matmul.c - y = x W^T + b: the plain form, and the choice of a form.  Contract: ops.h.
 *   y[r][o] = dot(x[r], w[o]) + bias[o]        HF: nn.Linear
 * The order of every sum is that of dot() in ops.h: 16 lanes, one fused multiply-add an element. */
#include "backend.h"
#include "half.h"
#include "par.h"

#include <math.h>

struct matmul {
    float *y;
    const float *x;
    const struct mat *w, *bias;
    int n;
};

static float dot(const float *x, const struct mat *w, size_t row)
{
    float lane[16] = {0};
    size_t cols = (size_t)w->cols;
    for (size_t k = 0; k < cols; k++)
        lane[k % 16] = fmaf(x[k], weight_at(w->data, w->dtype, row * cols + k), lane[k % 16]);
    for (int apart = 8; apart > 0; apart /= 2)
        for (int i = 0; i < apart; i++)
            lane[i] += lane[i + apart];
    return lane[0];
}

static void matmul_rows(void *arg, size_t begin, size_t end, int thread)
{
    const struct matmul *m = arg;
    (void)thread;
    for (size_t o = begin; o < end; o++) {
        for (size_t r = 0; r < (size_t)m->n; r++) {
            float *y = m->y + r * (size_t)m->w->rows + o;
            *y = dot(m->x + r * (size_t)m->w->cols, m->w, o);
            if (m->bias != NULL)
                *y += weight_at(m->bias->data, m->bias->dtype, o);
        }
    }
}

void matmul_cpu(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                const struct mat *bias, int n)
{
    struct matmul m = {.y = y, .x = x, .w = w, .bias = bias, .n = n};
    par_for(ex->threads, (size_t)w->rows, matmul_rows, &m);
}

size_t matmul_scratch_cpu(const struct mll_exec *ex, int n, int cols)
{
    (void)ex;
    (void)n;
    (void)cols;
    return 0;
}
