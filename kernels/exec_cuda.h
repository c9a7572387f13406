/* exec_cuda.h - the exec of a GPU, and what every launcher uses.
 *
 * All work goes to one stream. A launcher ends with launched(ex, "kernel"), which keeps the first
 * error and, with debug_sync, waits for the kernel, so that the error names it. exec_take_error
 * reports it. Internal to the .cu files. */
#ifndef MLL_EXEC_CUDA_H
#define MLL_EXEC_CUDA_H

#include "device.cuh"
#include "backend.h"

enum { FAULT_SITES = 64 };

/* What a bounds check belongs to. */
struct fault_site {
    enum mll_op op;
    int64_t bound;
};

/* Half rows of the last operand: (n, padded k) fp16, each row divided by its power of two. */
struct operand {
    const float *x; /* what it was made from; NULL: none */
    int n, k, stride;
    __half *rows;
    float *scale; /* (n) */
};

struct exec_cuda {
    struct mll_exec base;
    struct exec_cuda_options options;
    cudaStream_t stream;
    unsigned long long *record; /* device: the lowest fault, all ones for none */
    struct fault_site sites[FAULT_SITES];
    int n_sites;
    cudaError_t error; /* the first, with the kernel or call that met it */
    char error_where[64];
    void **weights; /* (n_weights) device memory that exec_load_weight took */
    int n_weights, weights_size;
};

static inline struct exec_cuda *exec_cuda(struct mll_exec *ex)
{
    return (struct exec_cuda *)ex;
}

static inline cudaStream_t stream_of(struct mll_exec *ex)
{
    return exec_cuda(ex)->stream;
}

/* Keeps the error of the launch or call just made. */
void launched(struct mll_exec *ex, const char *kernel);
/* What a kernel needs to check an index of op against bound. */
struct bounds bounds_of(struct mll_exec *ex, enum mll_op op, int64_t bound);

static inline unsigned blocks_for(size_t n, size_t per_block)
{
    return (unsigned)((n + per_block - 1) / per_block);
}

#endif
