/* op_test.h - what the op tests share: seeded values, stored weights, errors, execs of every form,
 * memory on whatever device.
 *
 * An op test holds one table of cases and a reference in double, and runs the table on every exec
 * that op_each_exec() opens: C, AVX2, AVX-512 (where this CPU has them), with 1, 2, 3 and 7
 * threads, then the GPU where there is one. A program linked with the kernels' CUDA source compiled
 * for the CPU (MLL_SHIM, tests/cuda_on_cpu) opens one exec of the CPU and that one.
 *
 * The first exec, one of the CPU, is judged by the reference, the CPU's others by the first, by
 * bits; the GPU by the reference within a bound of its own, or by bits too where the bound is 0.
 *
 * Ops get pointers from op_dev() and weights from op_weight(): the host's own blocks on the CPU, so
 * that a sanitizer sees their exact ends, copies on a GPU.
 *
 *     struct mll_exec *ex = NULL;
 *     while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
 *         float *on_device = op_dev(ex, y, bytes);
 *         op_gelu(ex, on_device, op_dev(ex, x, bytes), n);
 *         op_back(ex, y, on_device, bytes);
 *         op_judge(&first, y, reference, n, 1e-12, 1e-12, ex, "gelu");
 *     } */
#ifndef OP_TEST_H
#define OP_TEST_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "half.h"
#include "ops.h"
#include "weight_bytes.h"
#ifdef MLL_SHIM
#include "shim_control.h"
#endif

/* For .disabled: a program of the shim leaves out what says nothing about a GPU; `make race`, where
 * all takes a hundred times as long, what is large or launches the same kernels again. */
#ifdef MLL_SHIM
#define OP_SHIM 1
#else
#define OP_SHIM 0
#endif
#ifdef RACE
#define OP_RACE 1
#else
#define OP_RACE 0
#endif

#ifdef MLL_SHIM
#define OP_DEVICE_BYTES ((size_t)0)
#else
#define OP_DEVICE_BYTES ((size_t)1 << 28)
#endif

/* Uniform in [-scale, scale), the same for the same seed everywhere. */
static inline void op_fill(float *x, size_t n, uint64_t seed, float scale)
{
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 0x1234567u;
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x[i] = ((float)(state >> 40) * 0x1p-23f - 1.0f) * scale;
    }
}

static inline float *op_floats(size_t n, uint64_t seed, float scale)
{
    float *x = malloc((n + 1) * sizeof *x);
    cr_assert(x != NULL);
    op_fill(x, n, seed, scale);
    return x;
}

/* Squared error over squared reference; 0 where both are all zero, infinite for a NaN. */
static inline double op_nmse(const float *x, const double *reference, size_t n)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - reference[i];
        error += d * d;
        norm += reference[i] * reference[i];
    }
    if (error == 0)
        return 0;
    return error == error && norm > 0 ? error / norm : 1e300;
}

/* The first element whose bits differ, or n. */
static inline size_t op_first_difference(const float *a, const float *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0)
            return i;
    return n;
}

static inline bool op_is_cuda(const struct mll_exec *ex)
{
    return strncmp(exec_describe(ex), "cuda", 4) == 0;
}

/* Where ops of this exec find the block: itself, or a copy in the arena; on the shim, in a block of
 * its own. */
static inline void *op_dev(struct mll_exec *ex, const void *host, size_t bytes)
{
    if (!op_is_cuda(ex))
        return (void *)(uintptr_t)host;
#ifdef MLL_SHIM
    void *device = shim_block(bytes);
#else
    void *device = exec_alloc(ex, bytes);
#endif
    exec_upload(ex, device, host, bytes);
    return device;
}

/* Back to the block that op_dev was given. */
static inline void op_back(struct mll_exec *ex, void *host, const void *device, size_t bytes)
{
    if (device != host)
        exec_download(ex, host, device, bytes);
}

/* Leaves only `bytes` of the arena of a GPU's exec, opened with `scratch`: an operand that fills
 * them ends where the arena does, and a read behind it shows. */
static inline void op_leave(struct mll_exec *ex, size_t scratch, size_t bytes)
{
    if (op_is_cuda(ex))
        exec_alloc(ex, weight_aligned(scratch + OP_DEVICE_BYTES) - exec_mark(ex) - bytes);
}

/* To the address sanitizer, what the loader leaves free behind a part of a weight is not there. */
static inline void op_fence(const void *part, size_t bytes)
{
#ifdef MLL_SHIM
    if (part != NULL)
        shim_fence((const char *)part + bytes, weight_aligned(bytes) - bytes);
#endif
    (void)part;
    (void)bytes;
}

static inline void op_fence_weight(const struct mat *m, enum weight_use use)
{
    if (m->dtype == MLL_DTYPE_Q4) {
        const struct mat_blocks *b = m->blocks;
        size_t n = weight_blocks(m);
        op_fence(m->data, (weight_count(m) + 1) / 2);
        op_fence(b->absmax, n * sizeof(float));
        op_fence(b->absmax == NULL ? b->codes : NULL, n);
        op_fence(b->absmax == NULL ? b->nested_absmax : NULL,
                 weight_nested_blocks(n) * sizeof(float));
    } else if (m->dtype == MLL_DTYPE_I8) {
        op_fence(m->data, weight_count(m));
        op_fence(m->scale, (size_t)m->rows * sizeof(float));
    } else if (use == WEIGHT_VECTOR) {
        op_fence(m->data, (weight_count(m) + 1) * sizeof(float));
    } else if (use == WEIGHT_MATRIX) {
        op_fence(m->data, (size_t)m->rows * (size_t)half_stride(m->cols) * 2);
        op_fence(m->scale, ((size_t)m->rows + 1) * sizeof(float));
    }
}

/* m as this exec's ops want it; the exec owns what that takes. */
static inline struct mat op_weight(struct mll_exec *ex, const struct mat *m, enum weight_use use)
{
    struct mat loaded = *m;
    struct mll_error err;
    cr_assert_eq(exec_load_weight(ex, &loaded, use, &err), MLL_OK, "%s", err.message);
    if (op_is_cuda(ex))
        op_fence_weight(&loaded, use);
    return loaded;
}

/* Judges y, the result of one exec: the first time (*first NULL) against the reference, keeping it
 * in *first (freed by the caller); later against *first by bits, or on a GPU, where nmse_cuda is
 * not 0, against the reference. */
static inline void op_judge(float **first, const float *y, const double *reference, size_t n,
                            double nmse_cpu, double nmse_cuda, const struct mll_exec *ex,
                            const char *what)
{
    double nmse_max = op_is_cuda(ex) ? nmse_cuda : nmse_cpu;
    if (*first == NULL || (op_is_cuda(ex) && nmse_cuda > 0)) {
        double nmse = op_nmse(y, reference, n);
        cr_expect(nmse <= nmse_max, "%s, %s: nmse %g > %g", what, exec_describe(ex), nmse,
                  nmse_max);
    }
    if (*first == NULL) {
        *first = malloc((n + 1) * sizeof **first);
        cr_assert(*first != NULL);
        memcpy(*first, y, n * sizeof *y);
    }
    if (op_is_cuda(ex) && nmse_cuda > 0)
        return;
    size_t at = op_first_difference(*first, y, n);
    cr_expect(at == n, "%s, %s: element %zu is %a, not %a", what, exec_describe(ex), at,
              (double)y[at], (double)(*first)[at]);
}

static inline size_t op_dtype_bytes(enum mll_dtype dtype)
{
    return dtype == MLL_DTYPE_F32 ? 4 : 2;
}

/* A weight of seeded values stored as dtype, its data `offset` bytes past an aligned address;
 * op_mat_free frees it. The bytes end where the allocation ends. */
static inline struct mat op_mat(int rows, int cols, enum mll_dtype dtype, size_t offset,
                                uint64_t seed, float scale)
{
    size_t n = (size_t)rows * (size_t)cols, size = op_dtype_bytes(dtype);
    float *x = op_floats(n, seed, scale);
    unsigned char *data = malloc(n * size + offset);
    cr_assert(data != NULL);
    for (size_t i = 0; i < n; i++) {
        uint16_t h = dtype == MLL_DTYPE_BF16 ? bf16_from_f32(x[i]) : f16_from_f32(x[i]);
        if (dtype == MLL_DTYPE_F32)
            memcpy(data + offset + i * 4, &x[i], 4);
        else
            memcpy(data + offset + i * 2, &h, 2);
    }
    free(x);
    return (struct mat){.data = data + offset, .dtype = dtype, .rows = rows, .cols = cols};
}

static inline void op_mat_free(struct mat *m, size_t offset)
{
    free((unsigned char *)(uintptr_t)m->data - offset);
}

static inline struct mll_exec *op_exec(int threads, enum mll_isa isa, size_t scratch)
{
    struct mll_exec *ex;
    struct mll_error err;
    cr_assert_eq(exec_open_cpu(&ex, threads, isa, MLL_COMPUTE_F32, scratch, &err), MLL_OK, "%s",
                 err.message);
    return ex;
}

/* A GPU's exec, with room for what op_dev copies; NULL where there is none. */
static inline struct mll_exec *op_exec_cuda(size_t scratch)
{
    struct exec_cuda_options options = {0};
    struct mll_exec *ex;
    struct mll_error err;
    if (exec_cuda_devices() == 0)
        return NULL;
    cr_assert_eq(exec_open_cuda(&ex, &options, scratch + OP_DEVICE_BYTES, &err), MLL_OK, "%s",
                 err.message);
    return ex;
}

/* Closes ex and opens the next exec, the first for NULL; NULL after the last. */
static inline struct mll_exec *op_each_exec(struct mll_exec *ex, size_t scratch)
{
    static const enum mll_isa isas[] = {MLL_ISA_C, MLL_ISA_AVX2, MLL_ISA_AVX512};
    static const int threads[] = {1, 2, 3, 7};
#if defined(MLL_SHIM) || defined(MLL_GPU_TESTS)
    enum { ISAS = 1, THREADS = 1 };
#else
    enum { ISAS = 3, THREADS = 4 };
#endif
    bool found = ex == NULL;
    struct mll_exec *next = NULL;
    struct mll_error err;
    if (ex != NULL)
        cr_assert_eq(exec_take_error(ex, &err), MLL_OK, "%s", err.message);
    for (int i = 0; i < ISAS * THREADS && next == NULL; i++) {
        enum mll_isa isa = isas[i / THREADS];
        if (!exec_isa_supported(isa) || (ex != NULL && op_is_cuda(ex)))
            continue;
        struct mll_exec *e = op_exec(threads[i % THREADS], isa, scratch);
        if (found)
            next = e;
        else
            found = strcmp(exec_describe(e), exec_describe(ex)) == 0;
        if (next == NULL)
            exec_close(e);
    }
    if (next == NULL && (ex == NULL || !op_is_cuda(ex)))
        next = op_exec_cuda(scratch);
    exec_close(ex);
#ifdef MLL_SHIM
    shim_free_blocks();
#endif
    return next;
}

#endif
