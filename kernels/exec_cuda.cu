/* exec_cuda.cu - the exec of a GPU: device, stream, arena, faults, errors, copies.  See ops.h. */
#include "device.cuh"

/* Empties the fault record. Also the first kernel that an exec runs: where the build has no code
 * for the card, this is what fails. */
__global__ void __launch_bounds__(1) clear_record_kernel(unsigned long long *record)
{
    *record = ~0ull;
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"
#include "par.h"

#include <stdlib.h>
#include <string.h>

#ifndef MLL_CUDA_ARCH_NAMES /* the build's list */
#define MLL_CUDA_ARCH_NAMES "shim"
#endif

/* ---- devices --------------------------------------------------------------------------------- */

int exec_cuda_devices(void)
{
    int n = 0, driver = 0;
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error == cudaSuccess)
        return n;
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    return error == cudaErrorNoDevice || driver == 0 ? 0 : -1;
}

const char *exec_cuda_architectures(void)
{
    return MLL_CUDA_ARCH_NAMES;
}

static enum mll_status device_error(struct mll_error *err, const char *what, cudaError_t error)
{
    cudaGetLastError();
    return mll_fail(err, MLL_ERR_DEVICE, "%s: %s", what, cudaGetErrorString(error));
}

/* Why there is no device at all. */
static enum mll_status no_device(struct mll_error *err, cudaError_t error)
{
    int driver = 0, runtime = 0;
    cudaGetLastError();
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (error == cudaErrorInsufficientDriver && driver == 0)
        return mll_fail(err, MLL_ERR_DEVICE, "no CUDA device: no NVIDIA driver is loaded");
    if (error == cudaErrorInsufficientDriver)
        return mll_fail(err, MLL_ERR_DEVICE,
                        "the NVIDIA driver is too old: it knows CUDA %d.%d, this build needs %d.%d",
                        driver / 1000, driver / 10 % 100, runtime / 1000, runtime / 10 % 100);
    return mll_fail(err, MLL_ERR_DEVICE, "no CUDA device: %s", cudaGetErrorString(error));
}

enum mll_status exec_cuda_device(struct exec_device *device, int index, struct mll_error *err)
{
    struct cudaDeviceProp prop;
    int n = 0;
    memset(device, 0, sizeof *device);
    cudaError_t error = cudaGetDeviceCount(&n);
    if (error != cudaSuccess)
        return no_device(err, error);
    if (index < 0 || index >= n)
        return mll_fail(err, MLL_ERR_DEVICE, "no device cuda:%d: this machine has %d", index, n);
    if ((error = cudaGetDeviceProperties(&prop, index)) != cudaSuccess)
        return device_error(err, "reading the properties of the CUDA device", error);
    snprintf(device->name, sizeof device->name, "%.95s", prop.name);
    device->major = prop.major;
    device->minor = prop.minor;
    device->multiprocessors = prop.multiProcessorCount;
    device->memory = prop.totalGlobalMem;
    return MLL_OK;
}

/* ---- open, close ----------------------------------------------------------------------------- */

enum mll_status device_out_of_memory(struct mll_error *err, const char *what, size_t bytes)
{
    size_t available = 0, total = 0;
    cudaGetLastError();
    cudaMemGetInfo(&available, &total);
    return mll_fail(err, MLL_ERR_NO_MEMORY,
                    "out of memory on the GPU: %s of %zu bytes (%.2f GiB), %zu of %zu bytes are "
                    "free (%.2f of %.2f GiB)",
                    what, bytes, (double)bytes / 0x1p30, available, total,
                    (double)available / 0x1p30, (double)total / 0x1p30);
}

static enum mll_status open_stream(struct exec_cuda *e, const struct exec_device *device,
                                   struct mll_error *err)
{
    cudaError_t error = cudaSetDevice(e->options.device);
    if (error == cudaSuccess)
        error = cudaStreamCreateWithFlags(&e->stream, cudaStreamNonBlocking);
    if (error == cudaSuccess)
        error = cudaMalloc((void **)&e->record, sizeof *e->record);
    if (error == cudaSuccess)
        error = cudaMalloc((void **)&e->tickets, EXEC_TICKETS * sizeof *e->tickets);
    if (error == cudaSuccess)
        error = cudaMemsetAsync(e->tickets, 0, EXEC_TICKETS * sizeof *e->tickets, e->stream);
    if (error == cudaSuccess)
        error =
            cudaHostAlloc((void **)&e->host_record, sizeof *e->host_record, cudaHostAllocDefault);
    if (error == cudaErrorMemoryAllocation)
        return device_out_of_memory(err, "a context", sizeof *e->record);
    if (error != cudaSuccess)
        return device_error(err, "opening the CUDA device", error);
    LAUNCH(clear_record_kernel, dim3(1), dim3(1), 0, e->stream, e->record);
    if ((error = cudaGetLastError()) == cudaSuccess)
        error = cudaStreamSynchronize(e->stream);
    if (error == cudaErrorNoKernelImageForDevice || error == cudaErrorInvalidDeviceFunction)
        return mll_fail(err, MLL_ERR_DEVICE,
                        "this build has code for sm %s, not for the sm_%d%d of %s",
                        exec_cuda_architectures(), device->major, device->minor, device->name);
    return error == cudaSuccess ? MLL_OK : device_error(err, "opening the CUDA device", error);
}

/* Whether kernels may begin early: this build has code for sm_90 or later, which the device runs,
 * and runtime and driver take such launches into graphs. */
static bool can_begin_early(const struct exec_cuda *e)
{
    struct cudaFuncAttributes code;
    int driver = 0;
    bool found = cudaFuncGetAttributes(&code, clear_record_kernel) == cudaSuccess &&
                 cudaDriverGetVersion(&driver) == cudaSuccess;
    cudaGetLastError();
    return found && CUDART_VERSION >= 12030 && driver >= 12030 && code.ptxVersion >= 90 &&
           !e->options.debug_sync && !e->options.no_early;
}

static enum mll_status open_device(struct exec_cuda *e, size_t scratch_bytes, struct mll_error *err)
{
    struct exec_device device;
    int index = e->options.device;
    MLL_TRY(exec_cuda_device(&device, index, err));
    if (device.major < 7)
        return mll_fail(err, MLL_ERR_DEVICE, "cuda:%d, %s, is sm_%d%d; sm_70 or later is needed",
                        index, device.name, device.major, device.minor);
    snprintf(e->base.describe, sizeof e->base.describe, "cuda:%d %.60s, sm_%d%d", index,
             device.name, device.major, device.minor);
    e->base.memory = device.memory;
    e->sms = device.multiprocessors;
    e->arch = 10 * device.major + device.minor;
    MLL_TRY(open_stream(e, &device, err));
    e->early = can_begin_early(e);
    if (e->options.fast)
        MLL_TRY(matmul_fast_open(e, err));
    return scratch_bytes > 0 ? reserve_cuda(&e->base, scratch_bytes, err) : MLL_OK;
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
    e->base.threads = options->threads > 0 ? options->threads : exec_usable_cores();
    if (e->base.threads > PAR_MOST)
        e->base.threads = PAR_MOST;
    enum mll_status status = open_device(e, scratch_bytes, err);
    if (status != MLL_OK) {
        close_cuda(&e->base);
        return status;
    }
    *ex = &e->base;
    return MLL_OK;
}

/* CUDA's current device is the thread's: the engine may have come to another one. */
static struct exec_cuda *enter(struct mll_exec *ex)
{
    struct exec_cuda *e = exec_cuda(ex);
    cudaSetDevice(e->options.device);
    return e;
}

void close_cuda(struct mll_exec *ex)
{
    struct exec_cuda *e = enter(ex);
    if (e->stream != NULL)
        cudaStreamSynchronize(e->stream);
    graphs_close(e);
    groups_close(e);
    weights_close(e);
    matmul_fast_close(e);
    for (int i = 0; i < e->base.n_host; i++)
        cudaFreeHost(e->base.host[i]);
    free(e->base.host);
    cudaFree(e->base.arena);
    cudaFree(e->record);
    cudaFree(e->tickets);
    if (e->host_record != NULL)
        cudaFreeHost(e->host_record);
    if (e->stream != NULL)
        cudaStreamDestroy(e->stream);
    cudaGetLastError();
    free(e);
}

enum mll_status reserve_cuda(struct mll_exec *ex, size_t scratch_bytes, struct mll_error *err)
{
    struct exec_cuda *e = enter(ex);
    size_t size = scratch_bytes == 0 ? 256 : (scratch_bytes + 255) / 256 * 256;
    cudaFree(e->base.arena);
    e->base.arena = NULL;
    if (cudaMalloc((void **)&e->base.arena, size) != cudaSuccess)
        return device_out_of_memory(err, "scratch and KV cache", size);
    e->base.arena_size = size;
    return MLL_OK;
}

/* ---- errors and faults ----------------------------------------------------------------------- */

static void keep_error(struct exec_cuda *e, cudaError_t error, const char *where)
{
    if (error == cudaSuccess || e->error != cudaSuccess)
        return;
    e->error = error;
    const char *stage = e->base.stage;
    if (stage == NULL || !e->options.debug_sync) /* else the label may be of a later op */
        snprintf(e->error_where, sizeof e->error_where, "%s", where);
    else if (e->base.layer < 0)
        snprintf(e->error_where, sizeof e->error_where, "%s, %s", stage, where);
    else
        snprintf(e->error_where, sizeof e->error_where, "%s, layer %d, %s", stage, e->base.layer,
                 where);
}

/* Keeps the label of the first op whose index fault is seen. */
static cudaError_t look_for_fault(struct exec_cuda *e)
{
    cudaError_t error = cudaMemcpyAsync(e->host_record, e->record, sizeof *e->record,
                                        cudaMemcpyDeviceToHost, e->stream);
    if (error == cudaSuccess)
        error = cudaStreamSynchronize(e->stream);
    if (error == cudaSuccess && *e->host_record != ~0ull && e->fault_stage == NULL) {
        e->fault_stage = e->base.stage;
        e->fault_layer = e->base.layer;
    }
    return error;
}

void launched(struct mll_exec *ex, const char *kernel)
{
    struct exec_cuda *e = exec_cuda(ex);
    cudaError_t error = cudaGetLastError();
    e->busy = true;
    if (error == cudaSuccess && e->options.debug_sync)
        error = look_for_fault(e);
    keep_error(e, error, kernel);
}

void wait_for_device(struct exec_cuda *e)
{
    if (e->busy)
        keep_error(e, cudaStreamSynchronize(e->stream), "the device");
    e->busy = false;
}

enum mll_status take_error_cuda(struct mll_exec *ex, struct mll_error *err)
{
    struct exec_cuda *e = enter(ex);
    wait_for_device(e);
    if (e->error == cudaSuccess)
        return MLL_OK;
    return mll_fail(err, MLL_ERR_DEVICE, "%s: %s%s", e->error_where, cudaGetErrorString(e->error),
                    e->options.debug_sync ? "" : " (debug-sync tells which kernel, stage, layer)");
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
    struct exec_cuda *e = enter(ex);
    struct mll_fault fault = {OP_NONE, 0, 0, 0, NULL, -1};
    fetch_cuda(ex, e->host_record, e->record, sizeof *e->record);
    wait_for_device(e);
    unsigned long long word = *e->host_record;
    if (word == ~0ull || e->error != cudaSuccess)
        return fault;
    const struct fault_site *site = &e->sites[word >> (FAULT_POSITION_BITS + 32)];
    fault.op = site->op;
    fault.position = (int64_t)(word >> 32 & ((1ull << FAULT_POSITION_BITS) - 1));
    fault.index = (int32_t)((uint32_t)word ^ 0x80000000u);
    fault.bound = site->bound;
    fault.stage = e->fault_stage;
    fault.layer = e->fault_layer;
    e->fault_stage = NULL;
    LAUNCH(clear_record_kernel, dim3(1), dim3(1), 0, e->stream, e->record);
    launched(ex, "clearing the fault record");
    return fault;
}

/* ---- memory ---------------------------------------------------------------------------------- */

void trim_cuda(struct mll_exec *ex)
{
    (void)ex; /* the arena is the device's and stays */
}

size_t memory_free_cuda(struct mll_exec *ex)
{
    size_t available = 0, total = 0;
    enter(ex);
    return cudaMemGetInfo(&available, &total) == cudaSuccess ? available : 0;
}

void send_cuda(struct mll_exec *ex, void *device, const void *host, size_t bytes)
{
    struct exec_cuda *e = enter(ex);
    cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, e->stream);
    launched(ex, "an upload");
}

void fetch_cuda(struct mll_exec *ex, void *host, const void *device, size_t bytes)
{
    struct exec_cuda *e = enter(ex);
    cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, e->stream);
    launched(ex, "a download");
}

void upload_cuda(struct mll_exec *ex, void *device, const void *host, size_t bytes)
{
    send_cuda(ex, device, host, bytes);
    wait_for_device(exec_cuda(ex)); /* host may go */
}

void download_cuda(struct mll_exec *ex, void *host, const void *device, size_t bytes)
{
    fetch_cuda(ex, host, device, bytes);
    wait_for_device(exec_cuda(ex));
}

void zero_cuda(struct mll_exec *ex, void *device, size_t bytes)
{
    struct exec_cuda *e = enter(ex);
    cudaMemsetAsync(device, 0, bytes, e->stream);
    launched(ex, "zeroing memory");
}

void *alloc_host_cuda(struct mll_exec *ex, size_t bytes)
{
    struct exec_cuda *e = enter(ex);
    void **grown = (void **)realloc(e->base.host, (size_t)(e->base.n_host + 1) * sizeof *grown);
    if (grown == NULL)
        return NULL;
    e->base.host = grown;
    void *p = NULL;
    if (cudaHostAlloc(&p, bytes, cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError();
        return NULL;
    }
    memset(p, 0, bytes);
    e->base.host[e->base.n_host++] = p;
    return p;
}
#endif
