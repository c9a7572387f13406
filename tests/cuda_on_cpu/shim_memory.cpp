/* shim_memory.cpp - the device of the shim: its properties, errors, memory.
 *
 * Device memory is a heap block each, filled with NaN, so that the address sanitizer sees overruns;
 * with it, the host may not touch device memory either, but through copies. What lies where is kept
 * in one list, which tells pinned and device memory from the rest. */
#include "shim_core.h"

#include <pthread.h>
#include <stdlib.h>

#ifdef SHIM_ASAN
#include <sanitizer/asan_interface.h>
#endif

enum { KERNELS_MAX = 256 };
static const size_t device_align = 256, default_memory = (size_t)16 << 30;

struct block {
    struct block *next;
    char *memory;
    size_t bytes;
    enum shim_place place;
    bool registered; /* the caller's memory, pinned */
    bool lent;       /* by shim_block */
    struct fence *fences;
};

/* Bytes that no kernel may touch. */
struct fence {
    struct fence *next;
    const char *begin;
    size_t bytes;
};

struct kernel_limit {
    const void *kernel;
    size_t shared;
};

static struct {
    pthread_mutex_t lock;
    struct block *blocks;
    struct kernel_limit limits[KERNELS_MAX];
    int n_limits;
    bool environment_read;
} m = {PTHREAD_MUTEX_INITIALIZER, NULL, {}, 0, false};

struct shim_device shim_device = {default_memory, 0,     cudaSuccess, cudaSuccess,
                                  cudaSuccess,    false, false,       {}};

void shim_lock(void)
{
    pthread_mutex_lock(&m.lock);
    if (!m.environment_read) {
        m.environment_read = true;
        shim_read_environment();
    }
}

void shim_unlock(void)
{
    pthread_mutex_unlock(&m.lock);
}

/* ---- errors ---------------------------------------------------------------------------------- */

const char *cudaGetErrorName(cudaError_t error)
{
    switch (error) {
#define X(name, code) \
    case name:        \
        return #name;
        SHIM_ERRORS(X)
#undef X
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    switch (error) {
    case cudaSuccess:
        return "no error";
    case cudaErrorMemoryAllocation:
        return "out of memory";
    case cudaErrorNoDevice:
        return "no CUDA-capable device is detected";
    case cudaErrorInsufficientDriver:
        return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoKernelImageForDevice:
        return "no kernel image is available for execution on the device";
    case cudaErrorAssert:
        return "device-side assert triggered";
    case cudaErrorLaunchFailure:
        return "unspecified launch failure";
    default:
        return cudaGetErrorName(error);
    }
}

cudaError_t shim_usable(void)
{
    bool launches_only = shim_device.refused == cudaErrorNoKernelImageForDevice;
    return shim_device.lost != cudaSuccess ? shim_device.lost
           : launches_only                 ? cudaSuccess
                                           : shim_device.refused;
}

cudaError_t shim_note(cudaError_t error)
{
    if (shim_usable() != cudaSuccess)
        error = shim_usable();
    if (error != cudaSuccess && error != cudaErrorNotReady)
        shim_device.last = error;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    shim_lock();
    cudaError_t error = shim_device.lost != cudaSuccess ? shim_device.lost : shim_device.last;
    shim_unlock();
    return error;
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t error = cudaPeekAtLastError();
    shim_device.last = cudaSuccess;
    return error;
}

/* ---- the device ------------------------------------------------------------------------------ */

/* A V100 or an L40S, as far as code may ask. */
static const struct cudaDeviceProp *properties(void)
{
    static struct cudaDeviceProp p;
    const bool volta = MLL_SHIM < 800;
    strcpy(p.name, "shim");
    p.totalGlobalMem = shim_device.memory;
    p.sharedMemPerBlock = 49152;
    p.sharedMemPerBlockOptin = volta ? 98304 : 101376;
    p.sharedMemPerMultiprocessor = volta ? 98304 : 102400;
    p.regsPerBlock = 65536;
    p.warpSize = SHIM_WARP;
    p.maxThreadsPerBlock = SHIM_THREADS_MAX;
    p.maxThreadsPerMultiProcessor = volta ? 2048 : 1536;
    p.major = MLL_SHIM / 100;
    p.minor = MLL_SHIM / 10 % 10;
    p.multiProcessorCount = 2; /* few, so that small shapes fill them */
    p.l2CacheSize = (volta ? 6 : 96) << 20;
    p.memoryBusWidth = volta ? 4096 : 384;
    return &p;
}

int shim_arch(void)
{
    return MLL_SHIM;
}

size_t shim_shared_limit(void)
{
    return properties()->sharedMemPerBlockOptin;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    shim_lock();
    *count = shim_device.refused == cudaSuccess || shim_usable() == cudaSuccess;
    cudaError_t error = shim_note(cudaSuccess);
    shim_unlock();
    return error;
}

cudaError_t cudaSetDevice(int device)
{
    shim_lock();
    cudaError_t error = shim_note(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
    shim_unlock();
    return error;
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSetDevice(0);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device)
{
    cudaError_t error = cudaSetDevice(device);
    if (error == cudaSuccess)
        *prop = *properties();
    return error;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device)
{
    const struct cudaDeviceProp *p = properties();
    switch (attr) {
    case cudaDevAttrMaxThreadsPerBlock:
        *value = p->maxThreadsPerBlock;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
        *value = (int)p->sharedMemPerBlock;
        break;
    case cudaDevAttrClockRate:
        *value = 1380000;
        break;
    case cudaDevAttrMultiProcessorCount:
        *value = p->multiProcessorCount;
        break;
    case cudaDevAttrMemoryClockRate:
        *value = 877000;
        break;
    case cudaDevAttrGlobalMemoryBusWidth:
        *value = p->memoryBusWidth;
        break;
    case cudaDevAttrL2CacheSize:
        *value = p->l2CacheSize;
        break;
    case cudaDevAttrComputeCapabilityMajor:
        *value = p->major;
        break;
    case cudaDevAttrComputeCapabilityMinor:
        *value = p->minor;
        break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
        *value = (int)p->sharedMemPerBlockOptin;
        break;
    }
    return cudaSetDevice(device);
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = shim_device.refused == cudaErrorNoDevice ? 0 : CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

size_t shim_kernel_limit(const void *kernel)
{
    for (int i = 0; i < m.n_limits; i++)
        if (m.limits[i].kernel == kernel)
            return m.limits[i].shared;
    return properties()->sharedMemPerBlock;
}

static cudaError_t set_limit(const void *kernel, size_t shared)
{
    int i = 0;
    while (i < m.n_limits && m.limits[i].kernel != kernel)
        i++;
    if (shared > shim_shared_limit() || i == KERNELS_MAX)
        return cudaErrorInvalidValue;
    m.limits[i] = (struct kernel_limit){kernel, shared};
    if (i == m.n_limits)
        m.n_limits++;
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attr, int value)
{
    shim_lock();
    cudaError_t error = cudaSuccess;
    if (attr == cudaFuncAttributeMaxDynamicSharedMemorySize)
        error = value < 0 ? cudaErrorInvalidValue : set_limit(kernel, (size_t)value);
    error = shim_note(error);
    shim_unlock();
    return error;
}

/* ---- memory ---------------------------------------------------------------------------------- */

void shim_open_memory(bool open)
{
#ifdef SHIM_ASAN
    for (struct block *b = m.blocks; b != NULL; b = b->next) {
        if (b->place != SHIM_ON_DEVICE)
            continue;
        if (open)
            __asan_unpoison_memory_region(b->memory, b->bytes);
        else
            __asan_poison_memory_region(b->memory, b->bytes);
        for (const struct fence *f = b->fences; f != NULL; f = f->next)
            __asan_poison_memory_region(f->begin, f->bytes);
    }
#endif
    (void)open;
}

void shim_fence(const void *p, size_t bytes)
{
    const char *begin = (const char *)p;
    shim_lock();
    for (struct block *b = m.blocks; b != NULL; b = b->next) {
        if (begin < b->memory || begin + bytes > b->memory + b->bytes)
            continue;
        struct fence *f = (struct fence *)malloc(sizeof *f);
        if (f == NULL)
            shim_die("no memory for a fence");
        *f = {b->fences, begin, bytes};
        b->fences = f;
        break;
    }
    shim_unlock();
}

/* A pointer just behind a block belongs to it where no other begins there and nothing is copied. */
enum shim_place shim_where(const void *p, size_t bytes)
{
    const char *begin = (const char *)p;
    enum shim_place place = SHIM_PAGEABLE;
    for (const struct block *b = m.blocks; b != NULL; b = b->next) {
        const char *end = b->memory + b->bytes;
        if (begin >= b->memory && begin < end)
            return bytes <= (size_t)(end - begin) ? b->place : SHIM_ASTRIDE;
        if (begin == end && bytes == 0)
            place = b->place;
    }
    return place;
}

void shim_check_pointer(const char *kernel, const void *p)
{
    shim_lock();
    enum shim_place place = p == NULL ? SHIM_PINNED : shim_where(p, 0);
    shim_unlock();
    if (place == SHIM_PAGEABLE && shim_usable() == cudaSuccess)
        shim_die("%s gets the pointer %p, which is neither device nor pinned memory", kernel, p);
}

static cudaError_t add_block(void *memory, size_t bytes, enum shim_place place, bool registered)
{
    struct block *b = (struct block *)malloc(sizeof *b);
    if (b == NULL)
        return cudaErrorMemoryAllocation;
    *b = (struct block){m.blocks, (char *)memory, bytes, place, registered, false, NULL};
    m.blocks = b;
    return cudaSuccess;
}

static cudaError_t allocate(void **p, size_t bytes, enum shim_place place)
{
    *p = NULL;
    if (shim_usable() != cudaSuccess)
        return shim_usable();
    if (shim_capturing())
        return cudaErrorStreamCaptureUnsupported;
    if (bytes == 0)
        return cudaSuccess;
    bool device = place == SHIM_ON_DEVICE;
    if (device && (bytes > shim_device.memory || shim_device.used > shim_device.memory - bytes))
        return cudaErrorMemoryAllocation;
    if (posix_memalign(p, device_align, bytes) != 0)
        return cudaErrorMemoryAllocation;
    memset(*p, 0xff, bytes);
    cudaError_t error = add_block(*p, bytes, place, false);
    if (error != cudaSuccess) {
        free(*p);
        *p = NULL;
        return error;
    }
    shim_device.counts.allocations++;
    if (device)
        shim_device.used += bytes;
    shim_open_memory(false);
    return cudaSuccess;
}

cudaError_t shim_malloc(void **p, size_t bytes)
{
    shim_lock();
    cudaError_t error = shim_note(allocate(p, bytes, SHIM_ON_DEVICE));
    shim_unlock();
    return error;
}

cudaError_t shim_malloc_host(void **p, size_t bytes)
{
    shim_lock();
    cudaError_t error = shim_note(allocate(p, bytes, SHIM_PINNED));
    shim_unlock();
    return error;
}

static void remove_block(struct block **at)
{
    struct block *b = *at;
    *at = b->next;
    if (b->place == SHIM_ON_DEVICE) {
        shim_device.used -= b->bytes;
#ifdef SHIM_ASAN
        __asan_unpoison_memory_region(b->memory, b->bytes);
#endif
    }
    for (struct fence *f = b->fences, *next; f != NULL; f = next) {
        next = f->next;
        free(f);
    }
    if (!b->registered)
        free(b->memory);
    free(b);
}

/* Waits for all work, as cudaFree does, and for memory that a copy may still need. */
static cudaError_t release_block(void *p, enum shim_place place, bool registered)
{
    if (p == NULL)
        return shim_usable();
    if (shim_capturing())
        return cudaErrorStreamCaptureUnsupported;
    shim_drain_all();
    struct block **at = &m.blocks;
    while (*at != NULL &&
           ((*at)->memory != p || (*at)->place != place || (*at)->registered != registered))
        at = &(*at)->next;
    if (*at == NULL)
        return registered ? cudaErrorHostMemoryNotRegistered : cudaErrorInvalidValue;
    remove_block(at);
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    shim_lock();
    cudaError_t error = shim_note(release_block(p, SHIM_ON_DEVICE, false));
    shim_unlock();
    return error;
}

cudaError_t cudaFreeHost(void *p)
{
    shim_lock();
    cudaError_t error = shim_note(release_block(p, SHIM_PINNED, false));
    shim_unlock();
    return error;
}

cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags)
{
    (void)flags;
    shim_lock();
    cudaError_t error = shim_usable();
    if (error == cudaSuccess && (p == NULL || bytes == 0))
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess && shim_where(p, bytes) != SHIM_PAGEABLE)
        error = cudaErrorHostMemoryAlreadyRegistered;
    if (error == cudaSuccess)
        error = add_block(p, bytes, SHIM_PINNED, true);
    error = shim_note(error);
    shim_unlock();
    return error;
}

cudaError_t cudaHostUnregister(void *p)
{
    shim_lock();
    cudaError_t error = shim_note(release_block(p, SHIM_PINNED, true));
    shim_unlock();
    return error;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    shim_lock();
    *total_bytes = shim_device.memory;
    *free_bytes = shim_device.used < *total_bytes ? *total_bytes - shim_device.used : 0;
    cudaError_t error = shim_note(cudaSuccess);
    shim_unlock();
    return error;
}

void shim_free_memory(void)
{
    while (m.blocks != NULL)
        remove_block(&m.blocks);
}

/* ---- switches for tests ---------------------------------------------------------------------- */

void shim_limit_memory(size_t bytes)
{
    shim_device.memory = bytes;
}

void shim_copies_ahead(bool ahead)
{
    shim_device.copies_ahead = ahead;
}

void *shim_block(size_t bytes)
{
    void *p;
    if (shim_malloc(&p, bytes > 0 ? bytes : 1) != cudaSuccess)
        shim_die("no device memory for a test's %zu bytes", bytes);
    shim_lock();
    m.blocks->lent = true;
    shim_unlock();
    return p;
}

void shim_free_blocks(void)
{
    shim_lock();
    shim_drain_all();
    for (struct block **at = &m.blocks; *at != NULL;) {
        if ((*at)->lent)
            remove_block(at);
        else
            at = &(*at)->next;
    }
    shim_unlock();
}

void shim_refuse(int error)
{
    shim_device.refused = (cudaError_t)error;
    shim_device.last = cudaSuccess;
}

void shim_blocking(bool blocking)
{
    shim_device.blocking = blocking;
}

size_t shim_device_bytes(void)
{
    return shim_device.used;
}

struct shim_counts shim_counted(void)
{
    return shim_device.counts;
}

void shim_reset(void)
{
    shim_lock();
    shim_free_streams();
    shim_free_memory();
    shim_device.lost = shim_device.refused = shim_device.last = cudaSuccess;
    shim_device.memory = default_memory;
    m.n_limits = 0;
    shim_unlock();
}

void shim_read_environment(void)
{
    const char *order = getenv("MLL_SHIM_SCHEDULE"), *memory = getenv("MLL_SHIM_MEMORY");
    const char *refuse = getenv("MLL_SHIM_REFUSE"), *blocking = getenv("CUDA_LAUNCH_BLOCKING");
    if (order != NULL && strcmp(order, "descending") == 0)
        shim_schedule(SHIM_DESCENDING, 0);
    else if (order != NULL && strcmp(order, "ascending") != 0)
        shim_schedule(SHIM_RANDOM, strtoull(order, NULL, 10));
    if (memory != NULL)
        shim_limit_memory(strtoull(memory, NULL, 10));
    if (refuse != NULL)
        shim_refuse(atoi(refuse));
    if (blocking != NULL && blocking[0] != '\0' && strcmp(blocking, "0") != 0)
        shim_blocking(true);
}
