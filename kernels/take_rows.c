/* take_rows.c - rows of an activation, by index.  Contract: ops.h. */
#include "backend.h"

#include <string.h>

void take_rows_cpu(struct mll_exec *ex, float *y, const float *x, const int32_t *ids, int n,
                   int n_x, int dim)
{
    size_t bytes = (size_t)dim * sizeof *y;
    for (int r = 0; r < n; r++) {
        float *to = y + (size_t)r * (size_t)dim;
        if (ids[r] >= 0 && ids[r] < n_x) {
            memcpy(to, x + (size_t)ids[r] * (size_t)dim, bytes);
        } else {
            exec_fault(ex, OP_TAKE_ROWS, r, ids[r], n_x);
            memset(to, 0, bytes);
        }
    }
}
