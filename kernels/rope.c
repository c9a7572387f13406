/* rope.c - rotary position embedding on the CPU.  Contract: kernels/ops.h.
 *   angle = pos[r] * inv_freq[i],  h = head_dim / 2       HF: apply_rotary_pos_emb
 *   x[i] <- x[i] cos - x[i + h] sin
 *   x[i + h] <- x[i + h] cos + x[i] sin
 *
 * Cosine and sine are computed once a row, by libm in every form, and used for all heads. */
#include <math.h>

#include "backend.h"
#include "par.h"

#define ROPE_SPAN 64

struct rope_args {
    float *x;
    const int32_t *pos;
    const float *inv_freq;
    int heads, head_dim;
};

/* Rotates pairs [first, first + n) of all heads of one row. */
static void rope_span(float *x, float pos, const float *inv_freq, int first, int n, int heads,
                      int head_dim)
{
    float c[ROPE_SPAN], s[ROPE_SPAN];
    for (int i = 0; i < n; i++) {
        float angle = pos * inv_freq[first + i];
        c[i] = cosf(angle);
        s[i] = sinf(angle);
    }
    for (int h = 0; h < heads; h++) {
        float *low = x + (size_t)h * (size_t)head_dim + first;
        float *high = low + head_dim / 2;
        for (int i = 0; i < n; i++) {
            float a = low[i], b = high[i];
            low[i] = a * c[i] - b * s[i];
            high[i] = b * c[i] + a * s[i];
        }
    }
}

static void rope_rows(void *arg, size_t begin, size_t end, int thread)
{
    const struct rope_args *a = arg;
    int pairs = a->head_dim / 2;
    (void)thread;
    for (size_t r = begin; r < end; r++) {
        float *x = a->x + r * (size_t)a->heads * (size_t)a->head_dim;
        for (int i = 0; i < pairs; i += ROPE_SPAN) {
            int n = pairs - i < ROPE_SPAN ? pairs - i : ROPE_SPAN;
            rope_span(x, (float)a->pos[r], a->inv_freq, i, n, a->heads, a->head_dim);
        }
    }
}

void rope_cpu(struct mll_exec *ex, float *x, const int32_t *pos, const float *inv_freq, int n,
              int heads, int head_dim)
{
    struct rope_args a = {x, pos, inv_freq, heads, head_dim};
    par_for(ex->par, exec_threads_for(ex, (size_t)n * (size_t)heads * (size_t)head_dim), (size_t)n,
            rope_rows, &a);
}
