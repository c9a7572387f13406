/* embed.cu - the gated embeddings of the vision tower on the GPU.  Formulas: embed.c. A thread an
 * element; an aspect ratio id out of range adds nothing of its table. */
#include "device.cuh"

#define EMBED_THREADS 256

/* x[t][r][d] += tanh(gate) * table[id][t][d], or [t][r][d] where whole is set. */
template <typename T>
__global__ void __launch_bounds__(EMBED_THREADS)
    add_table_kernel(float *x, const T *table, const float *gate, const int32_t *id, size_t n,
                     int rows, int dim, int cols, bool whole, bounds b)
{
    size_t i = (size_t)blockIdx.x * EMBED_THREADS + threadIdx.x;
    bool valid = id[0] >= 0 && id[0] < b.n;
    if (i == 0 && !valid)
        in_bounds(b, 0, id[0]);
    if (i >= n || !valid)
        return;
    size_t at = whole ? i : i / dim / rows * dim + i % dim;
    x[i] += tanhf(gate[0]) * widen(table[(size_t)id[0] * cols + at]);
}

template <typename T>
__global__ void __launch_bounds__(EMBED_THREADS)
    add_position_kernel(float *x, const T *position, const float *gate, size_t n, size_t period)
{
    size_t i = (size_t)blockIdx.x * EMBED_THREADS + threadIdx.x;
    if (i < n)
        x[i] += (1.0f - tanhf(gate[0])) * widen(position[i % period]);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

template <typename T>
static void add_table(struct mll_exec *ex, float *x, const struct mat *table,
                      const struct mat *gate, const int32_t *id, int tiles, int rows, int dim,
                      enum mll_op op)
{
    size_t n = (size_t)tiles * (size_t)rows * (size_t)dim;
    LAUNCH(add_table_kernel<T>, dim3(blocks_for(n, EMBED_THREADS)), dim3(EMBED_THREADS), 0,
           stream_of(ex), x, (const T *)table->data, (const float *)gate->data, id, n, rows, dim,
           table->cols, op == OP_ADD_POSITION_EMBEDDING, bounds_of(ex, op, table->rows));
}

static void add_any_table(struct mll_exec *ex, float *x, const struct mat *table,
                          const struct mat *gate, const int32_t *id, int tiles, int rows, int dim,
                          enum mll_op op)
{
    if (table->dtype == MLL_DTYPE_F32)
        add_table<float>(ex, x, table, gate, id, tiles, rows, dim, op);
    else if (table->dtype == MLL_DTYPE_F16)
        add_table<__half>(ex, x, table, gate, id, tiles, rows, dim, op);
    else
        add_table<bf16>(ex, x, table, gate, id, tiles, rows, dim, op);
}

void add_tile_embedding_cuda(struct mll_exec *ex, float *x, const struct mat *table,
                             const struct mat *gate, const int32_t *id, int tiles, int rows,
                             int dim)
{
    add_any_table(ex, x, table, gate, id, tiles, rows, dim, OP_ADD_TILE_EMBEDDING);
    launched(ex, "add_tile_embedding");
}

template <typename T>
static void add_position(struct mll_exec *ex, float *x, const struct mat *position,
                         const struct mat *gate, size_t n)
{
    LAUNCH(add_position_kernel<T>, dim3(blocks_for(n, EMBED_THREADS)), dim3(EMBED_THREADS), 0,
           stream_of(ex), x, (const T *)position->data, (const float *)gate->data, n,
           (size_t)position->rows * (size_t)position->cols);
}

void add_position_embedding_cuda(struct mll_exec *ex, float *x, const struct mat *position,
                                 const struct mat *tile_position, const struct mat *gate,
                                 const int32_t *id, int tiles, int rows, int dim)
{
    size_t n = (size_t)tiles * (size_t)rows * (size_t)dim;
    if (position->dtype == MLL_DTYPE_F32)
        add_position<float>(ex, x, position, gate, n);
    else if (position->dtype == MLL_DTYPE_F16)
        add_position<__half>(ex, x, position, gate, n);
    else
        add_position<bf16>(ex, x, position, gate, n);
    add_any_table(ex, x, tile_position, gate, id, tiles, rows, dim, OP_ADD_POSITION_EMBEDDING);
    launched(ex, "add_position_embedding");
}
#endif
