/* matmul.cu - y = x W^T + bias on the GPU.  Contract: ops.h. The phase chooses the kernel: gemm.cu
 * for prompt rows, gemv.cu for single tokens; matmul_quant.cu has 4-bit and 8-bit weights. */
#include "device.cuh"

#ifndef __CUDACC_RTC__
#include "matmul.cuh"
#include "quant_cuda.h"

size_t matmul_scratch_cuda(const struct mll_exec *ex, int n, int cols)
{
    (void)ex;
    return operand_bytes(n, cols);
}

/* By fp16 rows with a scale each, which is what exec_load_weight makes of every matrix. */
static void matmul_half(struct mll_exec *ex, float *y, const struct operand *x, const struct mat *w,
                        const float *bias)
{
    MLL_ASSERT(w->dtype == MLL_DTYPE_F16 && w->scale != NULL);
    struct matmul_args a = {x->rows, x->scale, x->n, x->stride, 1, {}};
    a.parts[0].y = y;
    a.parts[0].w = (const __half *)w->data;
    a.parts[0].scale = w->scale;
    a.parts[0].bias = bias;
    a.parts[0].rows = w->rows;
    if (ex->phase == MLL_DECODE)
        gemv(ex, &a);
    else
        gemm(ex, &a);
}

/* Whether the n floats at y and the m at x share memory. */
static bool overlap(const float *y, size_t n, const float *x, size_t m)
{
    return y < x + m && x < y + n;
}

void matmul_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                 const struct mat *bias, int n)
{
    struct operand o = operand_of(ex, x, n, w->cols);
    const float *b = bias ? (const float *)bias->data : NULL;
    if (w->dtype == MLL_DTYPE_Q4 || w->dtype == MLL_DTYPE_I8)
        matmul_quant(ex, y, x, &o, w, b);
    else
        matmul_half(ex, y, &o, w, b);
    size_t outputs = (size_t)n * (size_t)w->rows, inputs = (size_t)n * (size_t)w->cols;
    if (!overlap(y, outputs, x, inputs))
        operand_keep(ex, &o);
}
#endif
