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

/* What exec_load_weight makes of every matrix: fp16 rows with a scale each. */
static bool is_half(const struct mat *w)
{
    return w->dtype == MLL_DTYPE_F16 && w->scale != NULL;
}

/* By cuBLASLt, or by gemm what that does not take. */
static void gemm_fast(struct mll_exec *ex, struct matmul_args *a)
{
    for (int i = 0; i < a->n_parts; i++) {
        struct matmul_args one = *a;
        one.n_parts = 1;
        one.parts[0] = a->parts[i];
        if (!matmul_fast(ex, &one, &one.parts[0]))
            gemm(ex, &one);
    }
}

static void matmul_half(struct mll_exec *ex, float *const y[], const struct operand *x,
                        const struct mat *const w[], const struct matmul_end *end, int count)
{
    struct matmul_args a = {*x, *end, count, {}};
    for (int i = 0; i < count; i++) {
        MLL_ASSERT(is_half(w[i]));
        a.parts[i].y = y[i];
        a.parts[i].w = (const __half *)w[i]->data;
        a.parts[i].scale = w[i]->scale;
        a.parts[i].rows = w[i]->rows;
    }
    if (ex->phase == MLL_DECODE)
        gemv(ex, &a);
    else if (exec_cuda(ex)->fast == NULL)
        gemm(ex, &a);
    else
        gemm_fast(ex, &a);
}

static const float *floats_of(const struct mat *vector)
{
    return vector != NULL ? (const float *)vector->data : NULL;
}

static void multiply(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                     const struct matmul_end *end, int n)
{
    struct operand o = operand_of(ex, x, n, w->cols);
    if (w->dtype == MLL_DTYPE_Q4 || w->dtype == MLL_DTYPE_I8)
        matmul_quant(ex, &y, &o, &w, end, 1);
    else
        matmul_half(ex, &y, &o, &w, end, 1);
}

void matmul_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                 const struct mat *bias, int n)
{
    struct matmul_end end = {floats_of(bias), NULL, NULL, {}};
    multiply(ex, y, x, w, &end, n);
}

void matmul_gelu_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                      const struct mat *bias, int n)
{
    struct matmul_end end = {floats_of(bias), NULL, NULL, operand_at(ex, y, n, w->rows)};
    bool fits = ex->phase == MLL_PREFILL && is_half(w) && exec_cuda(ex)->fast == NULL;
    if (fits && end.gelu.rows != NULL) {
        multiply(ex, y, x, w, &end, n);
        return;
    }
    matmul_cuda(ex, y, x, w, bias, n);
    gelu_cuda(ex, y, y, n, w->rows);
}

/* Rows of a product that wait for op_matmul_add: of cuBLASLt all, whose number must not change. */
static int waiting_rows(const struct mll_exec *ex, int n)
{
    const int few = 64;
    return n < few || ((const struct exec_cuda *)ex)->fast != NULL ? n : few;
}

size_t matmul_add_scratch_cuda(const struct mll_exec *ex, int n, int rows, int cols)
{
    return (size_t)waiting_rows(ex, n) * (size_t)rows * sizeof(float) + 64 + operand_bytes(n, cols);
}

/* Where the kernel has no such end, one addition more. */
void matmul_add_cuda(struct mll_exec *ex, float *y, const float *base, const float *x,
                     const struct mat *w, const struct mat *bias, const struct mat *gate, int n)
{
    struct matmul_end end = {floats_of(bias), base, floats_of(gate), {}};
    if (ex->phase == MLL_PREFILL && !(is_half(w) && exec_cuda(ex)->fast != NULL)) {
        multiply(ex, y, x, w, &end, n);
        return;
    }
    end.base = end.gate = NULL;
    size_t mark = exec_mark(ex), rows = (size_t)w->rows;
    int most = waiting_rows(ex, n);
    float *product = (float *)exec_alloc(ex, (size_t)most * rows * sizeof *product);
    for (int r = 0, part; r < n; r += part) {
        size_t at = (size_t)r * rows;
        part = n - r < most ? n - r : most;
        multiply(ex, product, x + (size_t)r * (size_t)w->cols, w, &end, part);
        add_rows(ex, y + at, base + at, product, floats_of(gate), NULL, part, w->rows);
    }
    exec_release(ex, mark);
}

void matmul_group_cuda(struct mll_exec *ex, float *const y[], const float *x,
                       const struct mat *const w[], int count, int n)
{
    struct operand o = operand_of(ex, x, n, w[0]->cols);
    struct matmul_end none = {NULL, NULL, NULL, {}};
    for (int i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && is_half(w[end]) == is_half(w[i]);)
            end++;
        if (is_half(w[i]))
            matmul_half(ex, y + i, &o, w + i, &none, end - i);
        else
            matmul_quant(ex, y + i, &o, w + i, &none, end - i);
    }
}
#endif
