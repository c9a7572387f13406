/* shim_runtime.h - the part of the CUDA runtime API that host code uses: one device, memory,
 * streams, events, graphs.
 *
 * As on a device, work in a stream other than NULL runs later: here at the last moment, when the
 * host waits for it, so that a missing wait or a staging buffer reused too early shows. Copies from
 * memory that is not pinned read it at once, copies to it wait, as CUDA's do. After shim_trap every
 * call returns the launch's error, as in a lost context, until shim_reset. shim_control.h has the
 * switches for tests. */
#ifndef SHIM_RUNTIME_H
#define SHIM_RUNTIME_H

#include <stddef.h>

#define CUDART_VERSION 12090

/* X(name, code) */
#define SHIM_ERRORS(X)                           \
    X(cudaSuccess, 0)                            \
    X(cudaErrorInvalidValue, 1)                  \
    X(cudaErrorMemoryAllocation, 2)              \
    X(cudaErrorInitializationError, 3)           \
    X(cudaErrorInvalidConfiguration, 9)          \
    X(cudaErrorInvalidDevicePointer, 17)         \
    X(cudaErrorInsufficientDriver, 35)           \
    X(cudaErrorInvalidDeviceFunction, 98)        \
    X(cudaErrorNoDevice, 100)                    \
    X(cudaErrorInvalidDevice, 101)               \
    X(cudaErrorNoKernelImageForDevice, 209)      \
    X(cudaErrorInvalidResourceHandle, 400)       \
    X(cudaErrorNotReady, 600)                    \
    X(cudaErrorIllegalAddress, 700)              \
    X(cudaErrorLaunchOutOfResources, 701)        \
    X(cudaErrorAssert, 710)                      \
    X(cudaErrorHostMemoryAlreadyRegistered, 712) \
    X(cudaErrorHostMemoryNotRegistered, 713)     \
    X(cudaErrorLaunchFailure, 719)               \
    X(cudaErrorNotSupported, 801)                \
    X(cudaErrorStreamCaptureUnsupported, 900)    \
    X(cudaErrorStreamCaptureInvalidated, 901)    \
    X(cudaErrorStreamCaptureImplicit, 906)       \
    X(cudaErrorUnknown, 999)

enum cudaError_t {
#define X(name, code) name = code,
    SHIM_ERRORS(X)
#undef X
};
typedef enum cudaError_t cudaError;

const char *cudaGetErrorName(cudaError_t error);
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);

/* ---- the device ------------------------------------------------------------------------------ */

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    size_t sharedMemPerBlock, sharedMemPerBlockOptin, sharedMemPerMultiprocessor;
    int regsPerBlock, warpSize, maxThreadsPerBlock, maxThreadsPerMultiProcessor;
    int major, minor, multiProcessorCount, l2CacheSize, memoryBusWidth, persistingL2CacheMaxSize;
    int pciDomainID, pciBusID, pciDeviceID, ECCEnabled, integrated;
};

enum cudaDeviceAttr {
    cudaDevAttrMaxThreadsPerBlock = 1,
    cudaDevAttrMaxSharedMemoryPerBlock = 8,
    cudaDevAttrClockRate = 13,
    cudaDevAttrMultiProcessorCount = 16,
    cudaDevAttrMemoryClockRate = 36,
    cudaDevAttrGlobalMemoryBusWidth = 37,
    cudaDevAttrL2CacheSize = 38,
    cudaDevAttrComputeCapabilityMajor = 75,
    cudaDevAttrComputeCapabilityMinor = 76,
    cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDevice(int *device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *prop, int device);
cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attr, int device);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaDeviceSynchronize(void);
cudaError_t cudaFree(void *p);

enum cudaFuncAttribute {
    cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
    cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};
struct cudaFuncAttributes {
    int ptxVersion, binaryVersion; /* here those of the newest code path of kernels that wait */
};
template <class... P>
static inline cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *attr, void (*)(P...))
{
    attr->ptxVersion = attr->binaryVersion = 90;
    return cudaPeekAtLastError();
}
cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute attr, int value);
template <class... P>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), enum cudaFuncAttribute attr,
                                               int value)
{
    return cudaFuncSetAttribute((const void *)kernel, attr, value);
}

/* ---- memory ---------------------------------------------------------------------------------- */

enum cudaMemcpyKind {
    cudaMemcpyHostToHost,
    cudaMemcpyHostToDevice,
    cudaMemcpyDeviceToHost,
    cudaMemcpyDeviceToDevice,
    cudaMemcpyDefault,
};
#define cudaHostAllocDefault     0x00
#define cudaHostAllocPortable    0x01
#define cudaHostRegisterDefault  0x00
#define cudaHostRegisterPortable 0x01
#define cudaHostRegisterReadOnly 0x08

typedef struct shim_stream *cudaStream_t;

cudaError_t shim_malloc(void **p, size_t bytes);
cudaError_t shim_malloc_host(void **p, size_t bytes);
template <class T> static inline cudaError_t cudaMalloc(T **p, size_t bytes)
{
    return shim_malloc((void **)p, bytes);
}
template <class T> static inline cudaError_t cudaMallocHost(T **p, size_t bytes, unsigned flags = 0)
{
    (void)flags;
    return shim_malloc_host((void **)p, bytes);
}
template <class T> static inline cudaError_t cudaHostAlloc(T **p, size_t bytes, unsigned flags)
{
    (void)flags;
    return shim_malloc_host((void **)p, bytes);
}
cudaError_t cudaFreeHost(void *p);
cudaError_t cudaHostRegister(void *p, size_t bytes, unsigned flags);
cudaError_t cudaHostUnregister(void *p);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream = NULL);
cudaError_t cudaMemset(void *to, int value, size_t bytes);
cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream = NULL);

/* ---- streams, events ------------------------------------------------------------------------- */

typedef struct shim_event *cudaEvent_t;
#define cudaStreamDefault      0x00
#define cudaStreamNonBlocking  0x01
#define cudaEventDefault       0x00
#define cudaEventBlockingSync  0x01
#define cudaEventDisableTiming 0x02

cudaError_t cudaStreamCreate(cudaStream_t *stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags = 0);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*run)(void *), void *data);
cudaError_t cudaEventCreate(cudaEvent_t *event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream = NULL);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end);

/* ---- graphs ---------------------------------------------------------------------------------- */

typedef struct shim_graph *cudaGraph_t;
typedef struct shim_graph_exec *cudaGraphExec_t;
enum cudaStreamCaptureMode {
    cudaStreamCaptureModeGlobal,
    cudaStreamCaptureModeThreadLocal,
    cudaStreamCaptureModeRelaxed,
};
enum cudaStreamCaptureStatus {
    cudaStreamCaptureStatusNone,
    cudaStreamCaptureStatusActive,
    cudaStreamCaptureStatusInvalidated,
};

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph,
                                 unsigned long long flags = 0);
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph,
                                          unsigned long long flags = 0);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void *nodes, size_t *n); /* nodes NULL: count */
cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);

#endif
