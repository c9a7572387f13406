/* embed.cu - the gated embeddings of the vision tower on the GPU.  Formulas: embed.c. A block a
 * row; an aspect ratio id out of range adds nothing of its table. */
#include "device.cuh"
#include "fmath.h"

#define EMBED_THREADS 256

/* x[t][r][d] += tanh(gate) * table[id][t][d], or [t][r][d] where whole is set. */
template <typename T>
__global__ void __launch_bounds__(EMBED_THREADS)
    add_table_kernel(float *x, const T *table, const float *gate, const int32_t *id, int rows,
                     int dim, int cols, bool whole, bounds b)
{
    int at = id[0];
    bool valid = at >= 0 && at < b.n;
    if (!valid && blockIdx.x == 0 && threadIdx.x == 0)
        in_bounds(b, 0, at);
    if (!valid)
        return;
    float g = fm_tanh(gate[0]);
    size_t from = whole ? blockIdx.x : blockIdx.x / (unsigned)rows;
    const T *add = table + (size_t)at * cols + from * dim;
    float *row = x + (size_t)blockIdx.x * dim;
#pragma unroll 4
    for (int d = threadIdx.x; d < dim; d += EMBED_THREADS)
        row[d] += fm_mul(g, widen(add[d]));
}

template <typename T>
__global__ void __launch_bounds__(EMBED_THREADS)
    add_position_kernel(float *x, const T *position, const float *gate, int rows, int dim)
{
    float g = 1.0f - fm_tanh(gate[0]);
    const T *add = position + (size_t)(blockIdx.x % (unsigned)rows) * dim;
    float *row = x + (size_t)blockIdx.x * dim;
#pragma unroll 4
    for (int d = threadIdx.x; d < dim; d += EMBED_THREADS)
        row[d] += fm_mul(g, widen(add[d]));
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

template <typename T>
static void add_table(struct mll_exec *ex, float *x, const struct mat *table,
                      const struct mat *gate, const int32_t *id, int tiles, int rows, int dim,
                      enum mll_op op)
{
    LAUNCH(add_table_kernel<T>, dim3((unsigned)(tiles * rows)), dim3(EMBED_THREADS), 0,
           stream_of(ex), x, (const T *)table->data, (const float *)gate->data, id, rows, dim,
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
                         const struct mat *gate, int tiles)
{
    LAUNCH(add_position_kernel<T>, dim3((unsigned)(tiles * position->rows)), dim3(EMBED_THREADS), 0,
           stream_of(ex), x, (const T *)position->data, (const float *)gate->data, position->rows,
           position->cols);
}

void add_position_embedding_cuda(struct mll_exec *ex, float *x, const struct mat *position,
                                 const struct mat *tile_position, const struct mat *gate,
                                 const int32_t *id, int tiles, int rows, int dim)
{
    if (position->dtype == MLL_DTYPE_F32)
        add_position<float>(ex, x, position, gate, tiles);
    else if (position->dtype == MLL_DTYPE_F16)
        add_position<__half>(ex, x, position, gate, tiles);
    else
        add_position<bf16>(ex, x, position, gate, tiles);
    launched(ex, "add_position_embedding");
    add_any_table(ex, x, tile_position, gate, id, tiles, rows, dim, OP_ADD_POSITION_EMBEDDING);
    launched(ex, "add_position_embedding");
}
#endif
