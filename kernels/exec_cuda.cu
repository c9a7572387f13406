/* exec_cuda.cu - the exec of a GPU: device, stream, arena, faults, errors, weights.  See ops.h. */
#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

#include <stdlib.h>
#include <string.h>

/* ---- open, close ----------------------------------------------------------------------------- */

int exec_cuda_devices(void)
{
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

static enum mll_status device_error(struct mll_error *err, const char *what, cudaError_t error)
{
    return mll_fail(err, MLL_ERR_DEVICE, "%s: %s", what, cudaGetErrorString(error));
}

static enum mll_status out_of_memory(struct mll_error *err, const char *what, size_t bytes)
{
    size_t available = 0, total = 0;
    cudaGetLastError();
    cudaMemGetInfo(&available, &total);
    return mll_fail(err, MLL_ERR_NO_MEMORY, "%s: %zu bytes needed on the device, %zu of %zu free",
                    what, bytes, available, total);
}

static enum mll_status open_device(struct exec_cuda *e, size_t scratch_bytes, struct mll_error *err)
{
    int n = 0, index = e->options.device;
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error != cudaSuccess)
        return device_error(err, "no CUDA device", error);
    if (index < 0 || index >= n)
        return mll_fail(err, MLL_ERR_DEVICE, "cuda:%d: there are %d devices", index, n);
    struct cudaDeviceProp prop;
    if ((error = cudaSetDevice(index)) != cudaSuccess ||
        (error = cudaGetDeviceProperties(&prop, index)) != cudaSuccess)
        return device_error(err, "opening the CUDA device", error);
    if (prop.major < 7)
        return mll_fail(err, MLL_ERR_DEVICE, "cuda:%d: %s is sm_%d%d; sm_70 or later is needed",
                        index, prop.name, prop.major, prop.minor);
    snprintf(e->base.describe, sizeof e->base.describe, "cuda:%d %.60s, sm_%d%d", index, prop.name,
             prop.major, prop.minor);
    if ((error = cudaStreamCreate(&e->stream)) != cudaSuccess ||
        (error = cudaMalloc((void **)&e->record, sizeof *e->record)) != cudaSuccess ||
        (error = cudaMemset(e->record, 0xff, sizeof *e->record)) != cudaSuccess)
        return device_error(err, "opening the CUDA device", error);
    if (cudaMalloc((void **)&e->base.arena, e->base.arena_size) != cudaSuccess)
        return out_of_memory(err, "scratch and KV cache", scratch_bytes);
    return MLL_OK;
}

enum mll_status exec_open_cuda(struct mll_exec **ex, const struct exec_cuda_options *options,
                               size_t scratch_bytes, struct mll_error *err)
{
    *ex = NULL;
    struct exec_cuda *e = (struct exec_cuda *)calloc(1, sizeof *e);
    if (e == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for an exec");
    e->options = *options;
    e->base.ops = &op_table_cuda;
    e->base.kv_dtype = MLL_DTYPE_F16;
    e->base.arena_size = (scratch_bytes + 255) / 256 * 256 + 256;
    enum mll_status status = open_device(e, scratch_bytes, err);
    if (status != MLL_OK) {
        close_cuda(&e->base);
        return status;
    }
    *ex = &e->base;
    return MLL_OK;
}

void close_cuda(struct mll_exec *ex)
{
    struct exec_cuda *e = exec_cuda(ex);
    for (int i = 0; i < e->n_weights; i++)
        cudaFree(e->weights[i]);
    free(e->weights);
    cudaFree(e->base.arena);
    cudaFree(e->record);
    if (e->stream != NULL)
        cudaStreamDestroy(e->stream);
    free(e);
}

/* ---- errors and faults ----------------------------------------------------------------------- */

void launched(struct mll_exec *ex, const char *kernel)
{
    struct exec_cuda *e = exec_cuda(ex);
    cudaError_t error = cudaGetLastError();
    e->operand.x = NULL;
    if (error == cudaSuccess && e->options.debug_sync)
        error = cudaStreamSynchronize(e->stream);
    if (error == cudaSuccess || e->error != cudaSuccess)
        return;
    e->error = error;
    snprintf(e->error_where, sizeof e->error_where, "%s", kernel);
}

enum mll_status take_error_cuda(struct mll_exec *ex, struct mll_error *err)
{
    struct exec_cuda *e = exec_cuda(ex);
    cudaError_t error = cudaStreamSynchronize(e->stream);
    if (e->error == cudaSuccess && error != cudaSuccess) {
        e->error = error;
        snprintf(e->error_where, sizeof e->error_where, "the device");
    }
    if (e->error == cudaSuccess)
        return MLL_OK;
    return mll_fail(err, MLL_ERR_DEVICE, "%s: %s", e->error_where, cudaGetErrorString(e->error));
}

struct bounds bounds_of(struct mll_exec *ex, enum mll_op op, int64_t bound)
{
    struct exec_cuda *e = exec_cuda(ex);
    int site = 0;
    while (site < e->n_sites && (e->sites[site].op != op || e->sites[site].bound != bound))
        site++;
    MLL_ASSERT(site < FAULT_SITES);
    if (site == e->n_sites) {
        e->sites[site].op = op;
        e->sites[site].bound = bound;
        e->n_sites++;
    }
    struct bounds b = {e->record, (uint32_t)site, (int)bound, e->options.debug_bounds};
    return b;
}

struct mll_fault take_fault_cuda(struct mll_exec *ex)
{
    struct exec_cuda *e = exec_cuda(ex);
    struct mll_fault fault = {OP_NONE, 0, 0, 0};
    unsigned long long word = ~0ull;
    download_cuda(ex, &word, e->record, sizeof word);
    if (word == ~0ull || e->error != cudaSuccess)
        return fault;
    cudaMemsetAsync(e->record, 0xff, sizeof *e->record, e->stream);
    launched(ex, "clearing the fault record");
    const struct fault_site *site = &e->sites[word >> (FAULT_POSITION_BITS + 32)];
    fault.op = site->op;
    fault.position = (int64_t)(word >> 32 & ((1ull << FAULT_POSITION_BITS) - 1));
    fault.index = (int32_t)((uint32_t)word ^ 0x80000000u);
    fault.bound = site->bound;
    return fault;
}

/* ---- memory ---------------------------------------------------------------------------------- */

void trim_cuda(struct mll_exec *ex)
{
    (void)ex; /* the arena is the device's and stays */
}

void upload_cuda(struct mll_exec *ex, void *device, const void *host, size_t bytes)
{
    cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_of(ex));
    cudaStreamSynchronize(stream_of(ex)); /* host may go */
    launched(ex, "an upload");
}

void download_cuda(struct mll_exec *ex, void *host, const void *device, size_t bytes)
{
    cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_of(ex));
    cudaStreamSynchronize(stream_of(ex));
    launched(ex, "a download");
}

/* Device memory that lives as long as the exec. */
static void *weight_alloc(struct exec_cuda *e, size_t bytes)
{
    if (e->n_weights == e->weights_size) {
        int size = e->weights_size ? 2 * e->weights_size : 64;
        void **grown = (void **)realloc(e->weights, (size_t)size * sizeof *grown);
        if (grown == NULL)
            return NULL;
        e->weights = grown;
        e->weights_size = size;
    }
    void *p = NULL;
    if (cudaMalloc(&p, bytes) != cudaSuccess)
        return NULL;
    e->weights[e->n_weights++] = p;
    return p;
}

enum mll_status load_weight_cuda(struct mll_exec *ex, struct mat *m, enum weight_use use,
                                 struct mll_error *err)
{
    size_t n = (size_t)m->rows * (size_t)m->cols, bytes = n * (m->dtype == MLL_DTYPE_F32 ? 4 : 2);
    void *p = weight_alloc(exec_cuda(ex), bytes);
    (void)use;
    if (p == NULL)
        return out_of_memory(err, "weights", bytes);
    upload_cuda(ex, p, m->data, bytes);
    m->data = p;
    return exec_take_error(ex, err);
}
#endif
