/* quant_cuda.h - 4-bit and 8-bit weights on the GPU, host side: how they are described once they
 * are there, and their matmul. Internal to the .cu files. */
#ifndef MLL_QUANT_CUDA_H
#define MLL_QUANT_CUDA_H

#include "exec_cuda.h"
#include "quant.cuh"

/* What mat.blocks of a weight on the GPU points at. */
struct device_blocks {
    struct mat_blocks blocks; /* with the device's pointers */
    struct q4 q4;
    struct device_blocks *next;
};

/* Fills d->q4 from d->blocks and m, whose data is the device's but whose blocks are still in host
 * memory: their absmax is looked at. */
void q4_describe(struct device_blocks *d, const struct mat *m);

/* y[i] = x w[i]^T for count Q4 and I8 weights of the same cols; end is empty unless count is 1, and
 * has a base in front of prompt rows only. The exec's phase chooses the kernel; one launch where
 * the weights are of one kind. */
void matmul_quant(struct mll_exec *ex, float *const y[], const struct operand *x,
                  const struct mat *const w[], const struct matmul_end *end, int count);

/* Prompt rows. */
void gemm_quant(struct mll_exec *ex, struct quant_args *q, bool is_q4);
/* Single tokens, eight rows at a time. */
void gemv_q4(struct mll_exec *ex, struct quant_args *q);
void gemv_i8(struct mll_exec *ex, struct quant_args *q);

#endif
