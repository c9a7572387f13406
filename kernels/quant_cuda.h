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

/* op_matmul by a Q4 or I8 weight; x: what operand_of made of rows, which the plain form reads
 * itself; bias (w->rows) or NULL. The exec's phase chooses the kernel. */
void matmul_quant(struct mll_exec *ex, float *y, const float *rows, const struct operand *x,
                  const struct mat *w, const float *bias);

/* Prompt rows; q: w's description where it is Q4, or NULL. */
void gemm_quant(struct mll_exec *ex, float *y, const struct operand *x, const struct mat *w,
                const struct q4 *q, const float *bias);
/* Single tokens, eight rows at a time. */
void gemv_q4(struct mll_exec *ex, float *y, const struct operand *x, const struct q4 *w,
             const float *bias);
void gemv_i8(struct mll_exec *ex, float *y, const struct operand *x, const struct mat *w,
             const float *bias);

#endif
