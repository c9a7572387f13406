/* device.cuh - what every .cu includes: the language, whether CUDA or the shim, and the pieces that
 * the kernels share.
 *
 * A kernel's source is compiled by nvcc or clang, by NVRTC (no host part, no standard headers) and,
 * with MLL_SHIM, as C++ for the CPU (tests/cuda_on_cpu). MLL_ARCH is the architecture whose code
 * path is compiled, 100 * major + 10 * minor; 0 in a host pass.
 *
 *   SHARED(T, name, dims)          a __shared__ array, 16-byte aligned
 *   DYN_SHARED(T, name)            the launch's dynamic shared memory as T *name
 *   DYN_SHARED_BYTES(bytes)        how much of it this kernel is launched with: a constant, for the
 *                                  table of scripts/resources.py
 *   LAUNCH(kernel, grid, block, shared bytes, stream, arguments...)
 *   LAUNCH_EARLY(early, kernel, grid, block, shared bytes, stream, arguments...)
 *                                  where `early` is true the kernel may begin before the one in
 * front of it in the stream has ended: see wait_for_previous */
#ifndef MLL_DEVICE_CUH
#define MLL_DEVICE_CUH

#if defined(MLL_SHIM)
#include "shim.h"
#define MLL_ARCH MLL_SHIM
#else
#if defined(__CUDACC_RTC__)
typedef signed char int8_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
typedef unsigned long size_t;
#define INFINITY __int_as_float(0x7f800000)
#define MLL_HD   __device__
#else
#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#endif
#include <cuda_fp16.h>
#if defined(MLL_FORCE_ARCH700) && defined(__CUDA_ARCH__) /* Volta's path, on whatever card */
#define MLL_ARCH 700
#elif defined(__CUDA_ARCH__)
#define MLL_ARCH __CUDA_ARCH__
#else
#define MLL_ARCH 0
#endif
#define SHARED(T, name, dims) __shared__ __align__(16) T name dims
#define DYN_SHARED(T, name)                                             \
    extern __shared__ __align__(16) unsigned char mll_dynamic_shared[]; \
    T *name = (T *)mll_dynamic_shared
#define LAUNCH(kernel, grid, block, shared, stream, ...) \
    kernel<<<(grid), (block), (shared), (stream)>>>(__VA_ARGS__)
#if !defined(__CUDACC_RTC__)
static inline cudaLaunchConfig_t early_config(cudaLaunchAttribute *attribute, dim3 grid, dim3 block,
                                              size_t shared, cudaStream_t stream)
{
    cudaLaunchConfig_t config = {};
    *attribute = {};
    attribute->id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute->val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attribute;
    config.numAttrs = 1;
    return config;
}
/* The usual launch else: drivers of before CUDA 11.8 know no other. */
#define LAUNCH_EARLY(early, kernel, grid, block, shared, stream, ...)                        \
    do {                                                                                     \
        cudaLaunchAttribute attribute_;                                                      \
        cudaLaunchConfig_t config_ = early_config(&attribute_, grid, block, shared, stream); \
        if (early)                                                                           \
            cudaLaunchKernelEx(&config_, kernel, __VA_ARGS__);                               \
        else                                                                                 \
            LAUNCH(kernel, grid, block, shared, stream, __VA_ARGS__);                        \
    } while (0)
#endif
#endif

#if defined(MLL_SHIM)
#define NOINLINE inline
#else
#define NOINLINE __noinline__
#endif
/* clang has these for halves only. */
#if defined(__clang__) && defined(__CUDA__) && !defined(MLL_SHIM) && MLL_ARCH > 0
__device__ __forceinline__ float2 __ldcg(const float2 *p)
{
    float2 v;
    asm volatile("ld.global.cg.v2.f32 {%0,%1}, [%2];" : "=f"(v.x), "=f"(v.y) : "l"(p) : "memory");
    return v;
}
__device__ __forceinline__ void __stcg(float *p, float v)
{
    asm volatile("st.global.cg.f32 [%0], %1;" ::"l"(p), "f"(v) : "memory");
}
__device__ __forceinline__ void __stcg(float2 *p, float2 v)
{
    asm volatile("st.global.cg.v2.f32 [%0], {%1,%2};" ::"l"(p), "f"(v.x), "f"(v.y) : "memory");
}
#elif defined(__clang__) && defined(__CUDA__) && !defined(MLL_SHIM)
__device__ float2 __ldcg(const float2 *p);
__device__ void __stcg(float *p, float v);
__device__ void __stcg(float2 *p, float2 v);
#endif

#define WARP      32
#define ALL_LANES 0xffffffffu

#if defined(__CUDACC_RTC__)
#define DYN_SHARED_BYTES(bytes) asm volatile("// dynamic shared memory %0" ::"n"((int)(bytes)))
#else
#define DYN_SHARED_BYTES(bytes) ((void)(bytes))
#endif

#define FLOAT_MAX 3.402823466e38f

/* ---- numbers --------------------------------------------------------------------------------- */

/* A bfloat16 as stored: the upper half of a float32. */
struct bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float widen(float x)
{
    return x;
}
__device__ __forceinline__ float widen(__half x)
{
    return __half2float(x);
}
__device__ __forceinline__ float widen(bf16 x)
{
    return __uint_as_float((uint32_t)x.bits << 16);
}

/* The power of two 2^e with 2^-14 <= max / 2^e < 2^15: a row with this largest magnitude, divided
 * by it, fits fp16 with a bit to spare; 1 for a row of zeros. Not finite: the result is 1. */
__device__ __forceinline__ float half_scale(float max)
{
    uint32_t bits = __float_as_uint(max);
    int exponent = (int)(bits >> 23 & 255);
    if (bits == 0 || exponent == 255)
        return 1.0f;
    exponent = exponent - 14 < 1 ? 1 : exponent - 14; /* max / 2^e in [2^14, 2^15) */
    return __uint_as_float((uint32_t)exponent << 23);
}

/* 1 / s of such a power of two, or another from 2^-126 to 2^113. */
__device__ __forceinline__ float half_inverse(float s)
{
    return __uint_as_float(0x7f000000u - __float_as_uint(s));
}

__device__ __forceinline__ uint32_t half_pair(float a, float b)
{
    return (uint32_t)__half_as_ushort(__float2half_rn(a)) |
           (uint32_t)__half_as_ushort(__float2half_rn(b)) << 16;
}

/* h + s x, rounded twice. */
__device__ __forceinline__ float add_scaled(float h, float s, float x)
{
    return __fadd_rn(h, __fmul_rn(s, x));
}

/* |x|, or 0 where x is not finite: what a scale is chosen by. */
__device__ __forceinline__ float finite_abs(float x)
{
    return fabsf(x) <= FLOAT_MAX ? fabsf(x) : 0.0f;
}

/* ---- reductions, in fixed order -------------------------------------------------------------- */

__device__ __forceinline__ float warp_sum(float x)
{
#pragma unroll
    for (int o = WARP / 2; o > 0; o >>= 1)
        x += __shfl_xor_sync(ALL_LANES, x, o);
    return x;
}

__device__ __forceinline__ float warp_max(float x)
{
#pragma unroll
    for (int o = WARP / 2; o > 0; o >>= 1)
        x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, o));
    return x;
}

/* The sum over a block of whole warps, in every thread; part: (WARP) floats of shared memory, free
 * for others after the next barrier. Every thread of the block calls it. */
__device__ __forceinline__ float block_sum(float x, float *part)
{
    int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_sum(x);
    __syncthreads(); /* part may still be read by an earlier call */
    if (threadIdx.x % WARP == 0)
        part[warp] = x;
    __syncthreads();
    float sum = part[0];
    for (int i = 1; i < warps; i++)
        sum += part[i];
    return sum;
}

__device__ __forceinline__ float block_max(float x, float *part)
{
    int warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        part[warp] = x;
    __syncthreads();
    float max = part[0];
    for (int i = 1; i < warps; i++)
        max = fmaxf(max, part[i]);
    return max;
}

/* ---- beginning early ------------------------------------------------------------------------- */

/* Until the kernel in front of this one in the stream has ended and all it wrote shows; from then
 * on the kernel behind may begin. CUDA C++ Programming Guide, programmatic dependent launch; for
 * kernels that are launched with LAUNCH_EARLY, on sm_90 and later; elsewhere nothing.
 *
 * Every thread of such a kernel calls it before it reads what a kernel may have written or writes
 * anything, so before all but loads of weights. Why that is enough: a kernel has not ended before
 * its threads have waited, so that whoever waits for it has waited for all in front of it too; and
 * since a kernel lets the next one begin behind its own wait only, at most two are under way, of
 * which the later has only read weights. What is read behind it is read by plain loads, not by
 * __ldg, whose data must not change while the kernel is there. */
__device__ __forceinline__ void wait_for_previous(void)
{
#if defined(MLL_SHIM)
    shim_wait_for_previous();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- index faults ---------------------------------------------------------------------------- */

/* What an index is checked against. The record is one 64-bit word, all ones where nothing happened:
 * site (6 bits: the op and which of its bounds), position (26), index (32, biased): the lowest of
 * all faults stays, by one atomic minimum. The host knows the op and bound of a site
 * (exec_cuda.h). trap: print what a device assert prints, then end the kernel and the context. */
struct bounds {
    unsigned long long *record;
    uint32_t site;
    int n;
    bool trap;
};

#define FAULT_POSITION_BITS 26

/* Prints the line of a device assert and ends the kernel. Its registers are not the callers'. */
static __device__ NOINLINE void trap_index(const char *file, int line, int index, int bound)
{
    printf("%s:%d: block: [%u,%u,%u], thread: [%u,%u,%u] Assertion `index >= 0 && index < bound` "
           "failed: index %d, bound %d.\n",
           file, line, blockIdx.x, blockIdx.y, blockIdx.z, threadIdx.x, threadIdx.y, threadIdx.z,
           index, bound);
#if defined(MLL_SHIM)
    shim_trap("index out of bounds");
#else
    __trap();
    __builtin_unreachable(); /* nothing lives across the call of printf */
#endif
}

/* Whether index is in [0, b.n); the line that asks is the one a trap names. */
#define in_bounds(b, position, index) in_bounds_at(b, position, index, __FILE__, __LINE__)
__device__ __forceinline__ bool in_bounds_at(const struct bounds &b, int64_t position, int index,
                                             const char *file, int line)
{
    if (index >= 0 && index < b.n)
        return true;
    if (b.trap)
        trap_index(file, line, index, b.n);
    const int64_t last = (1ll << FAULT_POSITION_BITS) - 1;
    unsigned long long at = (unsigned long long)(position < last ? position : last);
    unsigned long long word = (unsigned long long)b.site << (FAULT_POSITION_BITS + 32) | at << 32 |
                              ((uint32_t)index ^ 0x80000000u);
    atomicMin(b.record, word);
    return false;
}

/* x, of which the compiler knows nothing: what follows from it is not kept in registers meanwhile.
 */
__device__ __forceinline__ int opaque(int x)
{
#if !defined(MLL_SHIM)
    asm volatile("" : "+r"(x));
#endif
    return x;
}
template <typename T> __device__ __forceinline__ T *opaque(T *x)
{
#if !defined(MLL_SHIM) && MLL_ARCH > 0
    asm volatile("" : "+l"(x));
#endif
    return x;
}

/* ---- shared memory by address ---------------------------------------------------------------- */

/* A place in shared memory as the hardware takes it. What the compiler makes of a computed index
 * into a shared array may be four instructions; at + i * c by hand is one. */
#if defined(MLL_SHIM)
typedef const char *shared_at;
#else
typedef uint32_t shared_at;
#endif

__device__ __forceinline__ shared_at shared_at_of(const void *p)
{
#if defined(MLL_SHIM)
    return (const char *)p;
#else
    uint32_t at = (uint32_t)__cvta_generic_to_shared(p);
    asm("" : "+r"(at)); /* not to be taken apart again */
    return at;
#endif
}

__device__ __forceinline__ uint32_t shared_word(shared_at at)
{
#if defined(MLL_SHIM)
    shim_check_aligned(at, 4);
    return *(const uint32_t *)at;
#else
    uint32_t word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(at) : "memory");
    return word;
#endif
}

/* ---- tensor cores, asynchronous copies ------------------------------------------------------- */

/* Four products of (8, 4) by (4, 8), one a quad pair (lanes 4i..4i+3 and 16+4i..16+4i+3); A row-,
 * B column-major, d += a b in float32. PTX ISA: mma.m8n8k4 with .f16. */
__device__ __forceinline__ void mma_m8n8k4(float d[8], const uint32_t a[2], const uint32_t b[2])
{
#if defined(MLL_SHIM)
    shim_mma_m8n8k4(d, a, b);
#elif MLL_ARCH >= 700
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9}, {%10,%11}, {%0,%1,%2,%3,%4,%5,%6,%7};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                   "+f"(d[6]), "+f"(d[7])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(b[1]));
#endif
}

/* The same with B row-major: lane i of a quad has row i % 4, columns 0..3 or, from lane 16, 4..7.
 */
__device__ __forceinline__ void mma_m8n8k4_row(float d[8], const uint32_t a[2], const uint32_t b[2])
{
#if defined(MLL_SHIM)
    shim_mma_m8n8k4_row(d, a, b);
#elif MLL_ARCH >= 700
    asm volatile("mma.sync.aligned.m8n8k4.row.row.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3,%4,%5,%6,%7}, {%8,%9}, {%10,%11}, {%0,%1,%2,%3,%4,%5,%6,%7};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]),
                   "+f"(d[6]), "+f"(d[7])
                 : "r"(a[0]), "r"(a[1]), "r"(b[0]), "r"(b[1]));
#endif
}

/* (16, 16) by (16, 8), d += a b in float32, from sm_75. PTX ISA: mma.m16n8k16 with .f16; sm_75 has
 * it in two halves of k, whose fragments are the halves of these. */
__device__ __forceinline__ void mma_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
#if defined(MLL_SHIM)
    shim_mma_m16n8k16(d, a, b);
#elif MLL_ARCH >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif MLL_ARCH >= 750
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5}, {%8}, {%0,%1,%2,%3};\n"
                 "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 "
                 "{%0,%1,%2,%3}, {%6,%7}, {%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

/* Four 8x8 matrices of 16-bit elements; lane i gives the address of row i % 8 of matrix i / 8, a
 * 16-byte aligned row of shared memory. */
__device__ __forceinline__ void ldmatrix_x4(uint32_t r[4], const void *row)
{
#if defined(MLL_SHIM)
    shim_ldmatrix_x4(r, row);
#elif MLL_ARCH >= 750
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
#endif
}

__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t r[4], const void *row)
{
#if defined(MLL_SHIM)
    shim_ldmatrix_x4_trans(r, row);
#elif MLL_ARCH >= 750
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
#endif
}

/* Copies bytes (0 to 16) from global to shared memory behind the thread's back and fills up to 16
 * with zeros; there after the wait for its group and a barrier. Both ends 16-byte aligned. */
__device__ __forceinline__ void cp_async16(void *shared, const void *global, int bytes)
{
#if defined(MLL_SHIM)
    shim_cp_async16(shared, global, bytes);
#elif MLL_ARCH >= 800
    uint32_t at = (uint32_t)__cvta_generic_to_shared(shared);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(global), "r"(bytes)
                 : "memory");
#endif
}

__device__ __forceinline__ void cp_async_commit(void)
{
#if defined(MLL_SHIM)
    shim_cp_async_commit();
#elif MLL_ARCH >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

/* Until at most N of the thread's groups are under way. */
template <int N> __device__ __forceinline__ void cp_async_wait(void)
{
#if defined(MLL_SHIM)
    shim_cp_async_wait(N);
#elif MLL_ARCH >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

/* Word i (known when compiling) of 16 bytes. */
__device__ __forceinline__ uint32_t word_of(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

__device__ __forceinline__ __half2 half2_of(uint32_t bits)
{
    return __halves2half2(__ushort_as_half((unsigned short)bits),
                          __ushort_as_half((unsigned short)(bits >> 16)));
}
__device__ __forceinline__ uint32_t half2_bits(__half2 x)
{
    return __half_as_ushort(__low2half(x)) | (uint32_t)__half_as_ushort(__high2half(x)) << 16;
}

/* Four 8-bit codes as fp16, exactly: 1024 + (code + 128) by its bits, less 1152. */
__device__ __forceinline__ void i8_widen(uint32_t out[2], uint32_t codes)
{
    const __half2 bias = __half2half2(__ushort_as_half(0x6480)); /* 1152 */
    uint32_t biased = codes ^ 0x80808080u;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        uint32_t bits = __byte_perm(biased, 0x64646464u, i ? 0x4342 : 0x4140);
        out[i] = half2_bits(__hsub2(half2_of(bits), bias));
    }
}

/* 16 bytes of global memory that are read once: past L1, first to leave L2. */
__device__ __forceinline__ uint4 load_stream16(const void *p)
{
#if defined(MLL_SHIM)
    shim_check_aligned(p, 16);
    return __ldcs((const uint4 *)p);
#elif MLL_ARCH > 0 /* __ldcs, which clang lacks */
    uint4 v;
    asm("ld.global.cs.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(p));
    return v;
#else
    return *(const uint4 *)p;
#endif
}

/* The same, 8 bytes. */
__device__ __forceinline__ uint2 load_stream8(const void *p)
{
#if defined(MLL_SHIM)
    shim_check_aligned(p, 8);
    return __ldcs((const uint2 *)p);
#elif MLL_ARCH > 0
    uint2 v;
    asm("ld.global.cs.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
#else
    return *(const uint2 *)p;
#endif
}

#endif
