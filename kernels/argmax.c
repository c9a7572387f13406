/* argmax.c - the greedy choice on the CPU.  Contract: kernels/ops.h.
 * NaN never wins; a row without any number above -Inf gives id 0. */
#include <math.h>

#include "backend.h"
#include "par.h"

struct argmax_args {
    int32_t *id;
    uint8_t *finite;
    const float *x;
    size_t dim;
};

static void argmax_rows(void *arg, size_t begin, size_t end, int thread)
{
    const struct argmax_args *a = arg;
    (void)thread;
    for (size_t r = begin; r < end; r++) {
        const float *x = a->x + r * a->dim;
        float best = -INFINITY;
        size_t id = 0;
        bool finite = true;
        for (size_t i = 0; i < a->dim; i++) {
            finite &= x[i] < INFINITY; /* false for NaN too */
            if (x[i] > best) {
                best = x[i];
                id = i;
            }
        }
        a->id[r] = (int32_t)id;
        a->finite[r] = finite;
    }
}

void argmax_cpu(struct mll_exec *ex, int32_t *id, uint8_t *finite, const float *x, int n, int dim)
{
    struct argmax_args a = {id, finite, x, (size_t)dim};
    par_for(exec_threads_for(ex, (size_t)n * (size_t)dim), (size_t)n, argmax_rows, &a);
}
