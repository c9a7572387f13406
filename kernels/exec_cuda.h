/* exec_cuda.h - the exec of a GPU, and what every launcher uses.
 *
 * All work goes to one stream. A launcher ends with launched(ex, "kernel"), which keeps the first
 * error and, with debug_sync, waits for the kernel, so that the error names it, and looks for index
 * faults. exec_take_error reports it. Internal to kernels/X.cu. */
#ifndef MLL_EXEC_CUDA_H
#define MLL_EXEC_CUDA_H

#include "operand.cuh"
#include "backend.h"
#include "weight_bytes.h"

enum { FAULT_SITES = 64, EXEC_GRAPHS = 16, GRAPH_KEY = 64, EXEC_TICKETS = 4096 };

/* What a bounds check belongs to. */
struct fault_site {
    enum mll_op op;
    int64_t bound;
};

/* What exec_repeat knows under a key: nothing, that it ran once, or its graph. */
struct exec_graph {
    unsigned char key[GRAPH_KEY];
    size_t size;       /* of the key; 0: free */
    unsigned long age; /* when it was last asked for */
    cudaGraphExec_t graph;
};

struct weight_loader; /* load_weights.cu */
struct weight_groups; /* weight_groups.cu */
struct matmul_fast;   /* matmul_fast.cu */

struct exec_cuda {
    struct mll_exec base;
    struct exec_cuda_options options;
    cudaStream_t stream;
    int sms, arch;                   /* multiprocessors; compute capability times 10 */
    bool busy;                       /* something may be under way */
    unsigned long long *record;      /* device: the lowest fault, all ones for none */
    unsigned long long *host_record; /* pinned */
    unsigned *tickets; /* device (EXEC_TICKETS), zeros between kernels: where blocks of one row
                        * count themselves, so that the last knows it is */
    struct fault_site sites[FAULT_SITES];
    int n_sites;
    const char *fault_stage; /* the label in force when a fault was first seen; debug_sync only */
    int fault_layer;
    cudaError_t error; /* the first, with the kernel or call that met it */
    char error_where[96];
    struct exec_graph graphs[EXEC_GRAPHS];
    unsigned long graph_clock;
    bool no_graphs; /* the driver cannot, or weights are streamed */
    bool early;     /* kernels of a decoded token may begin early: device.cuh, wait_for_previous */
    struct weight_loader *loader;
    struct weight_groups *groups; /* NULL: all weights are on the device */
    struct weight_slab *slabs;    /* device memory of weights, and what describes it */
    struct device_blocks *blocks;
    struct matmul_fast *fast; /* cuBLASLt, NULL without options.fast */
};

static inline struct exec_cuda *exec_cuda(struct mll_exec *ex)
{
    return (struct exec_cuda *)ex;
}

static inline cudaStream_t stream_of(struct mll_exec *ex)
{
    return exec_cuda(ex)->stream;
}

/* What LAUNCH_EARLY wants to know: prompts and images are long kernels, whose beginnings do not
 * matter. */
static inline bool begins_early(const struct mll_exec *ex)
{
    return ((const struct exec_cuda *)ex)->early && ex->phase == MLL_DECODE;
}

/* Keeps the error of the launch or call just made. */
void launched(struct mll_exec *ex, const char *kernel);
/* Waits for all that is under way and keeps its error. */
void wait_for_device(struct exec_cuda *e);
/* MLL_ERR_NO_MEMORY: what for, how much was needed, how much is free. */
enum mll_status device_out_of_memory(struct mll_error *err, const char *what, size_t bytes);
void graphs_close(struct exec_cuda *e);
void weights_close(struct exec_cuda *e);
void groups_close(struct exec_cuda *e);
/* While weights of a group are loaded: bytes of its place on the device; how many are taken; those
 * from `from` on, which the device has written or will have, to their place on the host. */
unsigned char *groups_take(struct exec_cuda *e, size_t bytes);
size_t groups_used(const struct exec_cuda *e);
void groups_keep(struct exec_cuda *e, size_t from);
enum mll_status matmul_fast_open(struct exec_cuda *e, struct mll_error *err);
void matmul_fast_close(struct exec_cuda *e);
/* What a kernel needs to check an index of op against bound. */
struct bounds bounds_of(struct mll_exec *ex, enum mll_op op, int64_t bound);

/* ---- half_rows.cu ---------------------------------------------------------------------------- */

/* rows (n, half_stride(cols)) and scale (n) of n weight rows of dtype F32, F16 or BF16, aligned for
 * it. Device memory: *norm grows to the largest sum of the magnitudes of a row, *underflows by how
 * many other elements became zero. */
void weights_to_half(struct mll_exec *ex, __half *rows, float *scale, float *norm,
                     unsigned long long *underflows, const void *data, enum mll_dtype dtype, int n,
                     int cols);

/* The operand that lies at x (n, cols), for who writes it; rows NULL: those are floats. */
struct operand operand_at(const struct mll_exec *ex, const float *x, int n, int cols);
/* The floats x, there or elsewhere, become it. */
void operand_from(struct mll_exec *ex, const struct operand *o, const float *x);
/* The operand of a matmul: what lies at x, or x converted, in the arena behind all that is
 * allocated, where the next exec_alloc may overwrite it: op_matmul_scratch has its bytes
 * (operand_bytes). */
struct operand operand_of(struct mll_exec *ex, const float *x, int n, int cols);
size_t operand_bytes(int n, int cols);

/* ---- elementwise.cu -------------------------------------------------------------------------- */

/* op_add_gated to base instead of y; y may be base or x. gate: one float, or NULL. */
void add_rows(struct mll_exec *ex, float *y, const float *base, const float *x, const float *gate,
              const float *row_scale, int rows, int dim);

static inline unsigned blocks_for(size_t n, size_t per_block)
{
    return (unsigned)((n + per_block - 1) / per_block);
}

#endif
