/* matmul.cu - y = x W^T + bias on the GPU.  Contract: ops.h. A warp an element. */
#include "device.cuh"

#define MATMUL_WARPS 4

template <typename T>
__global__ void __launch_bounds__(MATMUL_WARPS *WARP)
    matmul_kernel(float *y, const float *x, const T *w, const float *scale, const float *bias,
                  int rows, int cols, int stride)
{
    int o = blockIdx.x * MATMUL_WARPS + threadIdx.x / WARP, r = blockIdx.y;
    if (o >= rows)
        return;
    float sum = 0.0f;
    for (int k = threadIdx.x % WARP; k < cols; k += WARP)
        sum = fmaf(x[(size_t)r * cols + k], widen(w[(size_t)o * stride + k]), sum);
    sum = warp_sum(sum);
    if (threadIdx.x % WARP == 0)
        y[(size_t)r * rows + o] =
            sum * (scale == nullptr ? 1.0f : scale[o]) + (bias == nullptr ? 0.0f : bias[o]);
}

#ifndef __CUDACC_RTC__
#include "quant_cuda.h"

size_t matmul_scratch_cuda(const struct mll_exec *ex, int n, int cols)
{
    (void)ex;
    return operand_bytes(n, cols);
}

void matmul_cuda(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                 const struct mat *bias, int n)
{
    dim3 grid(blocks_for((size_t)w->rows, MATMUL_WARPS), (unsigned)n), block(MATMUL_WARPS * WARP);
    const float *b = bias ? (const float *)bias->data : nullptr;
    int stride = w->scale == NULL ? w->cols : half_stride(w->cols);
    cudaStream_t s = stream_of(ex);
    if (w->dtype == MLL_DTYPE_Q4 || w->dtype == MLL_DTYPE_I8) {
        struct operand o = operand_of(ex, x, n, w->cols);
        matmul_quant(ex, y, x, &o, w, b);
        return;
    }
    if (w->dtype == MLL_DTYPE_F32)
        LAUNCH(matmul_kernel<float>, grid, block, 0, s, y, x, (const float *)w->data, w->scale, b,
               w->rows, w->cols, stride);
    else if (w->dtype == MLL_DTYPE_F16)
        LAUNCH(matmul_kernel<__half>, grid, block, 0, s, y, x, (const __half *)w->data, w->scale, b,
               w->rows, w->cols, stride);
    else
        LAUNCH(matmul_kernel<bf16>, grid, block, 0, s, y, x, (const bf16 *)w->data, w->scale, b,
               w->rows, w->cols, stride);
    launched(ex, "matmul");
}
#endif
