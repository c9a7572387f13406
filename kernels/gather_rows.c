/* gather_rows.c - rows of a weight table, widened to float32.  Contract: ops.h.  HF: nn.Embedding
 */
#include "backend.h"
#include "half.h"

#include <string.h>

static void widen_row(float *y, const struct mat *table, size_t row)
{
    size_t cols = (size_t)table->cols, first = row * cols;
    for (size_t i = 0; i < cols; i++)
        y[i] = weight_at(table->data, table->dtype, first + i);
}

void gather_rows_cpu(struct mll_exec *ex, float *y, const struct mat *table, const int32_t *ids,
                     int n)
{
    size_t cols = (size_t)table->cols;
    for (int r = 0; r < n; r++) {
        if (ids[r] >= 0 && ids[r] < table->rows) {
            widen_row(y + (size_t)r * cols, table, (size_t)ids[r]);
        } else {
            exec_fault(ex, OP_GATHER_ROWS, r, ids[r], table->rows);
            memset(y + (size_t)r * cols, 0, cols * sizeof *y);
        }
    }
}
