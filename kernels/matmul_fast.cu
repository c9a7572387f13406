/* matmul_fast.cu - prompt rows by cuBLASLt, for --fast: what the order of gemm.cu's sums costs can
 * be measured against it. Which algorithm runs, and with it the bits of a row, then depends on the
 * number of rows beside it.
 *
 * The library is opened when it is asked for; the few declarations of its interface that are needed
 * stand here (cublasLt.h, the same from 11 to 13), so that no build depends on it. cuBLASLt counts
 * matrices by columns: y (n, rows) is its D (rows, n), the product of W (rows, k), transposed, and
 * x (k, n). The powers of two and the bias follow in a pass of our own. */
#include "matmul.cuh"

#define FAST_THREADS 256

__global__ void __launch_bounds__(FAST_THREADS)
    fast_finish_kernel(float *y, const float *w_scale, struct operand x, const float *bias,
                       int rows)
{
    int r = blockIdx.x, o = blockIdx.y * FAST_THREADS + threadIdx.x;
    size_t at = (size_t)r * rows + o;
    if (o < rows)
        y[at] = matmul_finish(y[at], w_scale[o], half_row_scale(x, r),
                              bias == nullptr ? 0.0f : bias[o]);
}

#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

#include <dlfcn.h>
#include <stdlib.h>

/* ---- cublasLt.h ------------------------------------------------------------------------------ */

enum { R_32F = 0, R_16F = 2, COMPUTE_32F = 68, OP_TRANSPOSE = 1 };
enum { DESC_TRANSA = 3, PREF_WORKSPACE = 1, PREF_ALIGN_A = 5, PREF_ALIGN_D = 8 };

struct lt_algo {
    uint64_t data[8];
};
struct lt_result {
    struct lt_algo algo;
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
};

/* X(name, parameters) */
#define LT_FUNCTIONS(X)                                                                          \
    X(Create, void **handle)                                                                     \
    X(Destroy, void *handle)                                                                     \
    X(MatmulDescCreate, void **desc, int compute, int scale)                                     \
    X(MatmulDescSetAttribute, void *desc, int attribute, const void *value, size_t bytes)        \
    X(MatmulDescDestroy, void *desc)                                                             \
    X(MatrixLayoutCreate, void **layout, int type, uint64_t rows, uint64_t cols, int64_t stride) \
    X(MatrixLayoutDestroy, void *layout)                                                         \
    X(MatmulPreferenceCreate, void **preference)                                                 \
    X(MatmulPreferenceSetAttribute, void *preference, int attribute, const void *value,          \
      size_t bytes)                                                                              \
    X(MatmulPreferenceDestroy, void *preference)                                                 \
    X(MatmulAlgoGetHeuristic, void *handle, void *desc, void *a, void *b, void *c, void *d,      \
      void *preference, int asked, struct lt_result *results, int *found)                        \
    X(Matmul, void *handle, void *desc, const void *alpha, const void *a, void *a_layout,        \
      const void *b, void *b_layout, const void *beta, const void *c, void *c_layout, void *d,   \
      void *d_layout, const struct lt_algo *algo, void *workspace, size_t bytes,                 \
      cudaStream_t stream)

struct matmul_fast {
    void *library, *handle, *workspace;
#define X(name, ...) int (*name)(__VA_ARGS__);
    LT_FUNCTIONS(X)
#undef X
};

#define WORKSPACE_BYTES ((size_t)32 << 20)

/* ---- open, close ----------------------------------------------------------------------------- */

void matmul_fast_close(struct exec_cuda *e)
{
    struct matmul_fast *f = e->fast;
    if (f == NULL)
        return;
    if (f->handle != NULL)
        f->Destroy(f->handle);
    cudaFree(f->workspace);
    if (f->library != NULL)
        dlclose(f->library);
    free(f);
    e->fast = NULL;
}

static bool find_functions(struct matmul_fast *f)
{
    bool found = true;
#define X(name, ...)                                          \
    *(void **)&f->name = dlsym(f->library, "cublasLt" #name); \
    found = found && f->name != NULL;
    LT_FUNCTIONS(X)
#undef X
    return found;
}

enum mll_status matmul_fast_open(struct exec_cuda *e, struct mll_error *err)
{
    static const char *const names[] = {"libcublasLt.so.13", "libcublasLt.so.12",
                                        "libcublasLt.so.11"};
    struct matmul_fast *f = (struct matmul_fast *)calloc(1, sizeof *f);
    if (f == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for an exec");
    e->fast = f;
    bool found = false, complete = false;
    int status = 0;
    /* The newest that works here: it may be too new for the driver, or for the card. */
    for (int i = 0; i < 3 && f->handle == NULL; i++) {
        f->library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (f->library == NULL)
            continue;
        found = true;
        complete = find_functions(f);
        if (complete && (status = f->Create(&f->handle)) == 0)
            break;
        f->handle = NULL;
        dlclose(f->library);
        f->library = NULL;
    }
    if (!found)
        return mll_fail(err, MLL_ERR_DEVICE,
                        "fast needs cuBLASLt: libcublasLt.so.13, .12 or .11 was not found (%s)",
                        dlerror());
    if (!complete)
        return mll_fail(err, MLL_ERR_DEVICE, "fast: this cuBLASLt lacks a function of 11 to 13");
    if (f->handle == NULL)
        return mll_fail(err, MLL_ERR_DEVICE, "fast: cublasLtCreate gave status %d", status);
    if (cudaMalloc(&f->workspace, WORKSPACE_BYTES) != cudaSuccess)
        return device_out_of_memory(err, "cuBLASLt", WORKSPACE_BYTES);
    return MLL_OK;
}

/* ---- matmul ---------------------------------------------------------------------------------- */

/* The largest power of two up to 256 that p is a multiple of. */
static uint32_t alignment(const void *p)
{
    uint32_t bytes = 256;
    while ((uintptr_t)p % bytes != 0)
        bytes /= 2;
    return bytes;
}

/* What one product is described by; NULL where it could not be made. */
struct lt_product {
    void *desc, *a, *b, *d, *preference;
};

static bool describe(struct matmul_fast *f, struct lt_product *p, const struct matmul_args *args,
                     const struct matmul_part *part)
{
    const int32_t transpose = OP_TRANSPOSE;
    const void *operands[] = {part->w, args->x.rows, part->y, part->y};
    uint64_t rows = (uint64_t)part->rows, n = (uint64_t)args->x.n;
    uint64_t k = (uint64_t)args->x.stride;
    int status = f->MatmulDescCreate(&p->desc, COMPUTE_32F, R_32F);
    status |= f->MatrixLayoutCreate(&p->a, R_16F, k, rows, args->x.stride);
    status |= f->MatrixLayoutCreate(&p->b, R_16F, k, n, args->x.step);
    status |= f->MatrixLayoutCreate(&p->d, R_32F, rows, n, part->rows);
    status |= f->MatmulPreferenceCreate(&p->preference);
    if (status != 0)
        return false;
    const uint64_t workspace = WORKSPACE_BYTES;
    status |= f->MatmulDescSetAttribute(p->desc, DESC_TRANSA, &transpose, sizeof transpose);
    status |= f->MatmulPreferenceSetAttribute(p->preference, PREF_WORKSPACE, &workspace,
                                              sizeof workspace);
    for (int i = PREF_ALIGN_A; i <= PREF_ALIGN_D; i++) {
        const uint32_t bytes = alignment(operands[i - PREF_ALIGN_A]);
        status |= f->MatmulPreferenceSetAttribute(p->preference, i, &bytes, sizeof bytes);
    }
    return status == 0;
}

static bool multiply(struct mll_exec *ex, const struct lt_product *p,
                     const struct matmul_args *args, const struct matmul_part *part)
{
    struct matmul_fast *f = exec_cuda(ex)->fast;
    const float one = 1.0f, zero = 0.0f;
    struct lt_result result;
    int found = 0;
    if (f->MatmulAlgoGetHeuristic(f->handle, p->desc, p->a, p->b, p->d, p->d, p->preference, 1,
                                  &result, &found) != 0 ||
        found == 0)
        return false;
    return f->Matmul(f->handle, p->desc, &one, part->w, p->a, args->x.rows, p->b, &zero, part->y,
                     p->d, part->y, p->d, &result.algo, f->workspace, WORKSPACE_BYTES,
                     stream_of(ex)) == 0;
}

bool matmul_fast(struct mll_exec *ex, const struct matmul_args *args,
                 const struct matmul_part *part)
{
    struct matmul_fast *f = exec_cuda(ex)->fast;
    struct lt_product p = {NULL, NULL, NULL, NULL, NULL};
    bool done = describe(f, &p, args, part) && multiply(ex, &p, args, part);
    if (done) {
        dim3 grid((unsigned)args->x.n, blocks_for((size_t)part->rows, FAST_THREADS));
        LAUNCH(fast_finish_kernel, grid, dim3(FAST_THREADS), 0, stream_of(ex), part->y, part->scale,
               args->x, args->end.bias, part->rows);
        launched(ex, "matmul_fast");
    }
    if (p.preference != NULL)
        f->MatmulPreferenceDestroy(p.preference);
    void *const layouts[] = {p.a, p.b, p.d};
    for (int i = 0; i < 3; i++)
        if (layouts[i] != NULL)
            f->MatrixLayoutDestroy(layouts[i]);
    if (p.desc != NULL)
        f->MatmulDescDestroy(p.desc);
    return done;
}
#endif
