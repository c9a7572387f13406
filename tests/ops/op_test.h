/* op_test.h - what the op tests share: seeded values, stored weights, errors, execs of every form.
 *
 * An op test holds one table of cases and a reference in double, and runs the table on every exec
 * that op_each_exec() opens: C, AVX2, AVX-512 (where this CPU has them), with 1, 2, 3 and 7
 * threads. The results of the first exec are compared with the reference, all others with the
 * first, by bits.
 *
 *     struct mll_exec *ex = NULL;
 *     while ((ex = op_each_exec(ex, 1 << 20)) != NULL)
 *         check_all_cases(ex); */
#ifndef OP_TEST_H
#define OP_TEST_H

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "half.h"
#include "ops.h"

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

/* Judges y, the result of one exec: the first time (*first NULL) against the reference, keeping it
 * in *first (freed by the caller); later against *first by bits. */
static inline void op_judge(float **first, const float *y, const double *reference, size_t n,
                            double nmse_max, const struct mll_exec *ex, const char *what)
{
    if (*first == NULL) {
        double nmse = op_nmse(y, reference, n);
        cr_expect(nmse <= nmse_max, "%s: nmse %g > %g", what, nmse, nmse_max);
        *first = malloc((n + 1) * sizeof **first);
        cr_assert(*first != NULL);
        memcpy(*first, y, n * sizeof *y);
    }
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
    cr_assert_eq(exec_open_cpu(&ex, threads, isa, false, scratch, &err), MLL_OK, "%s", err.message);
    return ex;
}

/* Closes ex and opens the next exec, the first for NULL; NULL after the last. */
static inline struct mll_exec *op_each_exec(struct mll_exec *ex, size_t scratch)
{
    static const enum mll_isa isas[] = {MLL_ISA_C, MLL_ISA_AVX2, MLL_ISA_AVX512};
    static const int threads[] = {1, 2, 3, 7};
    bool found = ex == NULL;
    struct mll_exec *next = NULL;
    for (size_t i = 0; i < 3 && next == NULL; i++) {
        if (!exec_isa_supported(isas[i]))
            continue;
        for (size_t t = 0; t < 4 && next == NULL; t++) {
            struct mll_exec *e = op_exec(threads[t], isas[i], scratch);
            if (found)
                next = e;
            else
                found = strcmp(exec_describe(e), exec_describe(ex)) == 0;
            if (next == NULL)
                exec_close(e);
        }
    }
    exec_close(ex);
    return next;
}

#endif
