/* shim.h - CUDA C++ as C++ for the CPU: what kernels/X.cu see in place of nvcc's language.
 *
 * Every CUDA thread of a block is a fiber; fibers switch only at barriers and warp collectives, the
 * blocks of a grid run one after the other (shim.cpp, shim_warp.cpp). A kernel that breaks a rule
 * ends the process with a line that says which: divergent barriers, wrong masks, misaligned 16-byte
 * accesses, threads that wait for each other, copies in flight at the end. Sanitizers see fibers as
 * threads, every __shared__ array is a heap block of its own.
 *
 * The program may do what the hardware may do: shared and device memory start as NaN, an
 * asynchronous copy makes its target NaN at once and arrives at the wait for its group, and work in
 * a stream runs when somebody waits for it.
 *
 * Only what the kernels use is here. There are no float atomics: their order would show. */
#ifndef SHIM_H
#define SHIM_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if !defined(MLL_SHIM) || !defined(__x86_64__) || !defined(__F16C__)
#error "the shim needs -DMLL_SHIM=700 or 800 and x86-64 with -mavx2 -mfma -mf16c"
#endif

/* ---- the language ---------------------------------------------------------------------------- */

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

static inline int2 make_int2(int x, int y)
{
    return int2{x, y};
}
static inline int4 make_int4(int x, int y, int z, int w)
{
    return int4{x, y, z, w};
}
static inline uint2 make_uint2(unsigned x, unsigned y)
{
    return uint2{x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return uint4{x, y, z, w};
}
static inline float2 make_float2(float x, float y)
{
    return float2{x, y};
}
static inline float4 make_float4(float x, float y, float z, float w)
{
    return float4{x, y, z, w};
}

/* Where the running thread is; the shim sets them at every switch. */
extern const struct uint3 *shim_thread_index;
extern struct uint3 shim_block_index;
extern struct dim3 shim_block_dim, shim_grid_dim;
#define threadIdx (*shim_thread_index)
#define blockIdx  shim_block_index
#define blockDim  shim_block_dim
#define gridDim   shim_grid_dim

/* The place of a call, as the last two parameters of a function. */
#define SHIM_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

/* An array of shared memory is found by the address of a variable that stands beside it. */
#define SHARED(T, name, dims)         \
    typedef T name##_array dims;      \
    static const char name##_key = 0; \
    name##_array &name = *(name##_array *)shim_shared(&name##_key, sizeof(name##_array))
#define DYN_SHARED(T, name) T *name = (T *)shim_dynamic_shared()

void *shim_shared(const void *key, size_t bytes);
void *shim_dynamic_shared(void);

#include "shim_half.h"
#include "shim_runtime.h"

/* ---- checks ---------------------------------------------------------------------------------- */

/* Ends the process unless p is a multiple of bytes. */
void shim_misaligned(const void *p, size_t bytes, const char *file, int line);
static inline void shim_check_aligned(const void *p, size_t bytes, SHIM_SITE)
{
    if ((uintptr_t)p % bytes != 0)
        shim_misaligned(p, bytes, file, line);
}

/* What __trap and a failed device assert do: the launch ends here, the context is lost. */
[[noreturn]] void shim_trap(const char *message);

/* ---- barriers and warp collectives ----------------------------------------------------------- */

enum shim_vote { SHIM_VOTE_COUNT, SHIM_VOTE_AND, SHIM_VOTE_OR };
int shim_barrier(enum shim_vote vote, bool predicate, const char *file, int line);
void shim_sync_warp(unsigned mask, const char *file, int line);
unsigned shim_ballot(unsigned mask, bool predicate, const char *file, int line);
/* *to becomes the value that lane source gave; bytes 4 or 8. */
void shim_shuffle(unsigned mask, void *to, const void *from, size_t bytes, int source,
                  const char *file, int line);
int shim_lane(void);

static inline void __syncthreads(SHIM_SITE)
{
    shim_barrier(SHIM_VOTE_COUNT, false, file, line);
}
static inline int __syncthreads_count(int predicate, SHIM_SITE)
{
    return shim_barrier(SHIM_VOTE_COUNT, predicate != 0, file, line);
}
static inline int __syncthreads_and(int predicate, SHIM_SITE)
{
    return shim_barrier(SHIM_VOTE_AND, predicate != 0, file, line);
}
static inline int __syncthreads_or(int predicate, SHIM_SITE)
{
    return shim_barrier(SHIM_VOTE_OR, predicate != 0, file, line);
}
static inline void __syncwarp(unsigned mask = 0xffffffffu, SHIM_SITE)
{
    shim_sync_warp(mask, file, line);
}
static inline unsigned __ballot_sync(unsigned mask, int predicate, SHIM_SITE)
{
    return shim_ballot(mask, predicate != 0, file, line);
}
static inline int __any_sync(unsigned mask, int predicate, SHIM_SITE)
{
    return shim_ballot(mask, predicate != 0, file, line) != 0;
}
static inline int __all_sync(unsigned mask, int predicate, SHIM_SITE)
{
    return shim_ballot(mask, predicate == 0, file, line) == 0;
}
unsigned __activemask(void); /* not offered: what it returns is nobody's contract */

template <class T>
static inline T shim_shuffled(unsigned mask, T value, int source, const char *file, int line)
{
    static_assert(sizeof(T) == 2 || sizeof(T) == 4 || sizeof(T) == 8,
                  "shuffles move 2, 4, 8 bytes");
    const size_t bytes = sizeof(T) == 2 ? 4 : sizeof(T);
    unsigned char mine[8] = {0}, theirs[8];
    memcpy(mine, &value, sizeof value);
    shim_shuffle(mask, theirs, mine, bytes, source, file, line);
    memcpy(&value, theirs, sizeof value);
    return value;
}

template <class T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32, SHIM_SITE)
{
    int first = shim_lane() & ~(width - 1);
    return shim_shuffled(mask, value, first + (source & (width - 1)), file, line);
}
template <class T>
static inline T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, SHIM_SITE)
{
    int lane = shim_lane(), source = lane ^ with;
    bool beyond = source >= (lane & ~(width - 1)) + width;
    return shim_shuffled(mask, value, beyond ? lane : source, file, line);
}
template <class T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, SHIM_SITE)
{
    int lane = shim_lane(), source = lane + (int)by;
    bool beyond = (lane & (width - 1)) + (int)by >= width;
    return shim_shuffled(mask, value, beyond ? lane : source, file, line);
}
template <class T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, SHIM_SITE)
{
    int lane = shim_lane(), source = lane - (int)by;
    bool beyond = (lane & (width - 1)) < (int)by;
    return shim_shuffled(mask, value, beyond ? lane : source, file, line);
}

/* ---- tensor cores ---------------------------------------------------------------------------- */

/* Fragments as the PTX ISA lays them over the lanes. Sums are float32 in ascending k; hardware may
 * round otherwise. */
void shim_mma_m8n8k4(float d[8], const uint32_t a[2], const uint32_t b[2], SHIM_SITE);
void shim_mma_m8n8k4_row(float d[8], const uint32_t a[2], const uint32_t b[2], SHIM_SITE);
void shim_mma_m16n8k8(float d[4], const uint32_t a[2], const uint32_t b[1], SHIM_SITE);
void shim_mma_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2], SHIM_SITE);
void shim_ldmatrix(uint32_t r[4], const struct uint4 *row, bool transposed, const char *file,
                   int line);

/* The lane that names a row reads it: here, where sanitizers look. */
static inline void shim_ldmatrix_x4(uint32_t r[4], const void *row, SHIM_SITE)
{
    shim_check_aligned(row, 16, file, line);
    uint4 mine = *(const uint4 *)row;
    shim_ldmatrix(r, &mine, false, file, line);
}
static inline void shim_ldmatrix_x4_trans(uint32_t r[4], const void *row, SHIM_SITE)
{
    shim_check_aligned(row, 16, file, line);
    uint4 mine = *(const uint4 *)row;
    shim_ldmatrix(r, &mine, true, file, line);
}

/* ---- asynchronous copies --------------------------------------------------------------------- */

struct shim_copy {
    void *to;
    const void *from;
    int bytes;
};
void shim_copy_push(const struct shim_copy *copy, const char *file, int line);
void shim_cp_async_commit(void);
/* Takes the oldest copy of a group that may not be under way when `groups` are; false: none. */
bool shim_copy_pop(int groups, struct shim_copy *copy);

static inline void shim_cp_async16(void *to, const void *from, int bytes, SHIM_SITE)
{
    struct shim_copy copy = {to, from, bytes};
    shim_check_aligned(to, 16, file, line);
    shim_check_aligned(from, 16, file, line);
    shim_copy_push(&copy, file, line);
    *(uint4 *)to = uint4{~0u, ~0u, ~0u, ~0u}; /* from now on nobody may rely on what was here */
}

static inline void shim_cp_async_wait(int groups)
{
    struct shim_copy copy;
    while (shim_copy_pop(groups, &copy)) {
        uint4 value = {0, 0, 0, 0};
        if (copy.bytes == 16)
            value = *(const uint4 *)copy.from;
        for (int i = 0; i < copy.bytes && copy.bytes < 16; i++)
            ((unsigned char *)&value)[i] = ((const unsigned char *)copy.from)[i];
        *(uint4 *)copy.to = value;
    }
}

/* ---- atomics and memory ---------------------------------------------------------------------- */

template <class T> struct shim_same {
    typedef T type;
};
#define SHIM_T typename shim_same<T>::type

/* Atomics order memory here: a __threadfence that is missing beside one goes unnoticed. */
template <class T> static inline T atomicAdd(T *p, SHIM_T value)
{
    return __atomic_fetch_add(p, value, __ATOMIC_ACQ_REL);
}
template <class T> static inline T atomicOr(T *p, SHIM_T value)
{
    return __atomic_fetch_or(p, value, __ATOMIC_ACQ_REL);
}
template <class T> static inline T atomicExch(T *p, SHIM_T value)
{
    return __atomic_exchange_n(p, value, __ATOMIC_ACQ_REL);
}
template <class T> static inline T atomicCAS(T *p, SHIM_T expected, SHIM_T value)
{
    __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
    return expected;
}
template <class T> static inline T atomicMin(T *p, SHIM_T value)
{
    T old = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    while (value < old &&
           !__atomic_compare_exchange_n(p, &old, value, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
    return old;
}
template <class T> static inline T atomicMax(T *p, SHIM_T value)
{
    T old = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    while (value > old &&
           !__atomic_compare_exchange_n(p, &old, value, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        ;
    return old;
}
static inline void __threadfence(void)
{
    asm volatile("" ::: "memory");
}
static inline void __threadfence_block(void)
{
    asm volatile("" ::: "memory");
}

/* Loads and stores with a cache hint; like the hardware they need natural alignment. */
template <class T> static inline T shim_load(const T *p, const char *file, int line)
{
    shim_check_aligned(p, sizeof(T), file, line);
    return *p;
}
template <class T> static inline T __ldg(const T *p, SHIM_SITE)
{
    return shim_load(p, file, line);
}
template <class T> static inline T __ldcs(const T *p, SHIM_SITE)
{
    return shim_load(p, file, line);
}
template <class T> static inline T __ldcg(const T *p, SHIM_SITE)
{
    return shim_load(p, file, line);
}
template <class T> static inline T __ldca(const T *p, SHIM_SITE)
{
    return shim_load(p, file, line);
}
template <class T> static inline void __stcs(T *p, SHIM_T value, SHIM_SITE)
{
    shim_check_aligned(p, sizeof(T), file, line);
    *p = value;
}
template <class T> static inline void __stcg(T *p, SHIM_T value, SHIM_SITE)
{
    shim_check_aligned(p, sizeof(T), file, line);
    *p = value;
}

/* ---- numbers --------------------------------------------------------------------------------- */

template <class To, class From> static inline To shim_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "the bits of a value of the same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float x)
{
    return shim_bits<unsigned>(x);
}
static inline int __float_as_int(float x)
{
    return shim_bits<int>(x);
}
static inline float __uint_as_float(unsigned x)
{
    return shim_bits<float>(x);
}
static inline float __int_as_float(int x)
{
    return shim_bits<float>(x);
}
static inline long long __double_as_longlong(double x)
{
    return shim_bits<long long>(x);
}
static inline double __longlong_as_double(long long x)
{
    return shim_bits<double>(x);
}
static inline int __clz(int x)
{
    return x == 0 ? 32 : __builtin_clz((unsigned)x);
}
static inline int __clzll(long long x)
{
    return x == 0 ? 64 : __builtin_clzll((unsigned long long)x);
}
static inline int __popc(unsigned x)
{
    return __builtin_popcount(x);
}
static inline int __popcll(unsigned long long x)
{
    return __builtin_popcountll(x);
}
static inline int __ffs(int x)
{
    return __builtin_ffs(x);
}
static inline unsigned __brev(unsigned x)
{
    unsigned y = 0;
    for (int i = 0; i < 32; i++)
        y |= (x >> i & 1u) << (31 - i);
    return y;
}
/* Byte i of the result is byte (selector >> 4 i & 7) of y:x; with bit 3 its sign, spread. */
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector)
{
    unsigned long long both = (unsigned long long)y << 32 | x;
    unsigned result = 0;
    for (int i = 0; i < 4; i++) {
        unsigned nibble = selector >> 4 * i & 15u;
        unsigned byte = (unsigned)(both >> 8 * (nibble & 7u)) & 255u;
        if (nibble & 8u)
            byte = byte & 128u ? 255u : 0u;
        result |= byte << 8 * i;
    }
    return result;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned by)
{
    return (unsigned)(((unsigned long long)high << 32 | low) >> (by & 31u));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by)
{
    return (unsigned)(((unsigned long long)high << 32 | low) << (by & 31u) >> 32);
}
static inline unsigned __umulhi(unsigned x, unsigned y)
{
    return (unsigned)((unsigned long long)x * y >> 32);
}
static inline unsigned long long __umul64hi(unsigned long long x, unsigned long long y)
{
    return (unsigned long long)((unsigned __int128)x * y >> 64);
}
static inline int __dp4a(int a, int b, int c)
{
    for (int i = 0; i < 4; i++)
        c += (int)(int8_t)(a >> 8 * i) * (int)(int8_t)(b >> 8 * i);
    return c;
}

#define SHIM_MIN_MAX(T)           \
    static inline T min(T a, T b) \
    {                             \
        return b < a ? b : a;     \
    }                             \
    static inline T max(T a, T b) \
    {                             \
        return a < b ? b : a;     \
    }
SHIM_MIN_MAX(int)
SHIM_MIN_MAX(unsigned)
SHIM_MIN_MAX(long)
SHIM_MIN_MAX(long long)
SHIM_MIN_MAX(unsigned long)
SHIM_MIN_MAX(unsigned long long)
static inline float min(float a, float b)
{
    return fminf(a, b);
}
static inline float max(float a, float b)
{
    return fmaxf(a, b);
}

static inline float rsqrtf(float x)
{
    return (float)(1.0 / sqrt((double)x));
}
static inline float __fdividef(float x, float y)
{
    return x / y;
}
static inline float __frcp_rn(float x)
{
    return 1.0f / x;
}
static inline float __fsqrt_rn(float x)
{
    return sqrtf(x);
}
static inline float __fdiv_rn(float x, float y)
{
    return x / y;
}
static inline float __fadd_rn(float x, float y)
{
    return x + y;
}
static inline float __fsub_rn(float x, float y)
{
    return x - y;
}
static inline float __fmul_rn(float x, float y)
{
    return x * y;
}
static inline float __fmaf_rn(float x, float y, float z)
{
    return fmaf(x, y, z);
}
static inline double __dadd_rn(double x, double y)
{
    return x + y;
}
static inline double __dsub_rn(double x, double y)
{
    return x - y;
}
static inline double __dmul_rn(double x, double y)
{
    return x * y;
}
static inline double __ddiv_rn(double x, double y)
{
    return x / y;
}
static inline double __fma_rn(double x, double y, double z)
{
    return fma(x, y, z);
}
static inline float __saturatef(float x)
{
    return x > 0 ? (x < 1 ? x : 1) : 0;
}
/* glibc declares functions of these names. */
#define __expf(x) expf(x)
#define __logf(x) logf(x)
static inline float __int2float_rn(int x)
{
    return (float)x;
}
static inline float __uint2float_rn(unsigned x)
{
    return (float)x;
}
static inline int __float2int_rn(float x)
{
    return (int)rintf(x);
}
static inline int __float2int_rz(float x)
{
    return (int)x;
}

/* ---- launches -------------------------------------------------------------------------------- */

#define LAUNCH(kernel, grid, block, shared, stream, ...) \
    shim_launch(#kernel, kernel, false, grid, block, shared, stream, ##__VA_ARGS__)
#define LAUNCH_EARLY(early, kernel, grid, block, shared, stream, ...) \
    shim_launch(#kernel, kernel, early, grid, block, shared, stream, ##__VA_ARGS__)

/* griddepcontrol.wait, then .launch_dependents: every thread of a kernel that was launched early
 * must call it. Here kernels follow one another all the same. */
void shim_wait_for_previous(void);

/* A pointer that a kernel gets must be NULL, device memory or pinned host memory. */
void shim_check_pointer(const char *kernel, const void *p);
template <class T> static inline void shim_check_argument(const char *kernel, T *p)
{
    shim_check_pointer(kernel, (const void *)p);
}
template <class T> static inline void shim_check_argument(const char *, const T &)
{
}
/* Enqueues body, bytes that are copied, for every thread of the grid: run(body). */
void shim_enqueue(const char *name, const void *kernel, bool early, dim3 grid, dim3 block,
                  size_t shared, cudaStream_t stream, void (*run)(const void *body),
                  const void *body, size_t bytes);

template <class... P>
static inline void shim_launch(const char *name, void (*kernel)(P...), bool early, dim3 grid,
                               dim3 block, size_t shared, cudaStream_t stream,
                               typename shim_same<P>::type... args)
{
    (shim_check_argument(name, args), ...);
    auto body = [kernel, args...] { kernel(args...); };
    void (*run)(const void *) = [](const void *p) { (*(const decltype(body) *)p)(); };
    shim_enqueue(name, (const void *)kernel, early, grid, block, shared, stream, run, &body,
                 sizeof body);
}

#endif
