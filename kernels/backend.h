/* backend.h - what a backend is: the table of op functions and the exec they run on.
 *
 * kernels/ops.c checks the arguments of a call once and then calls exec->ops->X; the CPU functions,
 * X_cpu, live in kernels/X.c and contain no argument checks. Where an op has faster forms for some
 * instruction set, X_cpu picks one by exec->isa; all forms give the same bits.
 * Internal to kernels/. */
#ifndef MLL_BACKEND_H
#define MLL_BACKEND_H

#include "ops.h"

#ifdef __cplusplus
extern "C" {
#endif

struct par;

/* X(op, parameters): every op with its parameter list behind the exec. */
#define MLL_OP_LIST(X)                                                                             \
    X(gather_rows, float *y, const struct mat *table, const int32_t *ids, int n)                   \
    X(take_rows, float *y, const float *x, const int32_t *ids, int n, int n_x, int dim)            \
    X(rmsnorm, float *y, const float *x, const struct mat *w, int rows, int dim, float eps)        \
    X(layernorm, float *y, const float *x, const struct mat *w, const struct mat *b, int rows,     \
      int dim, float eps)                                                                          \
    X(add, float *y, const float *x, const float *z, size_t n)                                     \
    X(add_gated, float *y, const float *x, const struct mat *gate, const float *row_scale,         \
      int rows, int dim)                                                                           \
    X(add_rmsnorm, float *y, float *h, const float *x, const struct mat *gate,                     \
      const float *row_scale, const struct mat *w, int rows, int dim, float eps)                   \
    X(silu_mul, float *y, const float *gate, const float *up, int rows, int dim)                   \
    X(gelu, float *y, const float *x, int rows, int dim)                                           \
    X(matmul, float *y, const float *x, const struct mat *w, const struct mat *bias, int n)        \
    X(matmul_gelu, float *y, const float *x, const struct mat *w, const struct mat *bias, int n)   \
    X(matmul_add, float *y, const float *base, const float *x, const struct mat *w,                \
      const struct mat *bias, const struct mat *gate, int n)                                       \
    X(matmul_group, float *const y[], const float *x, const struct mat *const w[], int count,      \
      int n)                                                                                       \
    X(rope, float *x, const int32_t *pos, const float *inv_freq, int n, int heads, int head_dim)   \
    X(kv_append, struct kv_pool *pool, const float *k, const float *v,                             \
      const struct kv_table *table, const int32_t *seq, const int32_t *pos, int n)                 \
    X(rope_kv_append, struct kv_pool *pool, float *q, float *k, const float *v,                    \
      const struct kv_table *table, const int32_t *seq, const int32_t *pos, const float *inv_freq, \
      int n, int heads)                                                                            \
    X(attn, float *y, const float *q, const struct kv_pool *pool, const struct kv_table *table,    \
      const int32_t *seq, const int32_t *begin, const int32_t *end, int n, int heads, float scale) \
    X(attn_vision, float *y, const float *q, const float *k, const float *v, const uint8_t *pad,   \
      int rows, int heads, int head_dim, float scale)                                              \
    X(patchify, float *y, const float *x, int tiles, int size, int patch)                          \
    X(add_tile_embedding, float *x, const struct mat *table, const struct mat *gate,               \
      const int32_t *id, int tiles, int rows, int dim)                                             \
    X(add_position_embedding, float *x, const struct mat *position,                                \
      const struct mat *tile_position, const struct mat *gate, const int32_t *id, int tiles,       \
      int rows, int dim)                                                                           \
    X(class_and_pad, float *y, const float *x, const struct mat *cls, int tiles, int patches,      \
      int rows, int dim)                                                                           \
    X(join_states, float *y, const float *last, const float *const *kept, int n_kept, int tiles,   \
      int patches, int rows, int dim)                                                              \
    X(hash_rows, struct sample_out *out, const float *x, int n, int dim)                           \
    X(log_probs, float *y, const float *x, int n, int dim)                                         \
    X(process, float *y, struct sample_out *out, const float *x, const struct sample_row *rows,    \
      int n, int dim)                                                                              \
    X(choose, struct sample_out *out, const float *scores, int n, int dim)                         \
    X(warp, float *y, const float *scores, const struct sample_row *rows,                          \
      const struct sample_out *out, int n, int dim)                                                \
    X(draw, struct sample_out *out, const float *y, const float *scores,                           \
      const struct sample_row *rows, int n, int dim)

struct op_table {
#define X(op, ...) void (*op)(struct mll_exec * ex, __VA_ARGS__);
    MLL_OP_LIST(X)
#undef X
    size_t (*matmul_scratch)(const struct mll_exec *ex, int n, int cols);
    size_t (*matmul_add_scratch)(const struct mll_exec *ex, int n, int rows, int cols);
    size_t (*attn_scratch)(const struct mll_exec *ex, int n, int heads, int head_dim);
    size_t (*attn_vision_scratch)(const struct mll_exec *ex, int rows, int heads, int head_dim);
    size_t (*sample_scratch)(const struct mll_exec *ex, int n, int dim);
    /* the exec itself; ops.h has the contracts */
    void (*close)(struct mll_exec *ex);
    void (*trim)(struct mll_exec *ex);
    size_t (*memory_free)(struct mll_exec *ex);
    struct mll_fault (*take_fault)(struct mll_exec *ex);
    enum mll_status (*take_error)(struct mll_exec *ex, struct mll_error *err);
    void (*upload)(struct mll_exec *ex, void *device, const void *host, size_t bytes);
    void (*download)(struct mll_exec *ex, void *host, const void *device, size_t bytes);
    enum mll_status (*reserve)(struct mll_exec *ex, size_t scratch_bytes, struct mll_error *err);
    void (*zero)(struct mll_exec *ex, void *device, size_t bytes);
    void *(*alloc_host)(struct mll_exec *ex, size_t bytes);
    void (*send)(struct mll_exec *ex, void *device, const void *host, size_t bytes);
    void (*fetch)(struct mll_exec *ex, void *host, const void *device, size_t bytes);
    enum mll_status (*repeat)(struct mll_exec *ex, const void *key, size_t size,
                              enum mll_status (*ops)(void *arg), void *arg);
    size_t (*weight_bytes)(const struct mll_exec *ex, const struct mat *m, enum weight_use use);
    enum mll_status (*begin_weights)(struct mll_exec *ex, size_t bytes, struct mll_error *err);
    enum mll_status (*load_weight)(struct mll_exec *ex, struct mat *m, enum weight_use use,
                                   struct mll_error *err);
    enum mll_status (*end_weights)(struct mll_exec *ex, uint64_t *underflows,
                                   struct mll_error *err);
    enum mll_status (*begin_groups)(struct mll_exec *ex, int n, const size_t *bytes,
                                    struct mll_error *err);
    void (*use_group)(struct mll_exec *ex, int group, int next);
};

#define X(op, ...)                                   \
    void op##_cpu(struct mll_exec *ex, __VA_ARGS__); \
    void op##_cuda(struct mll_exec *ex, __VA_ARGS__);
MLL_OP_LIST(X)
#undef X
size_t matmul_scratch_cpu(const struct mll_exec *ex, int n, int cols);
size_t matmul_add_scratch_cpu(const struct mll_exec *ex, int n, int rows, int cols);
size_t attn_scratch_cpu(const struct mll_exec *ex, int n, int heads, int head_dim);
size_t attn_vision_scratch_cpu(const struct mll_exec *ex, int rows, int heads, int head_dim);
size_t matmul_scratch_cuda(const struct mll_exec *ex, int n, int cols);
size_t matmul_add_scratch_cuda(const struct mll_exec *ex, int n, int rows, int cols);
size_t attn_scratch_cuda(const struct mll_exec *ex, int n, int heads, int head_dim);
size_t attn_vision_scratch_cuda(const struct mll_exec *ex, int rows, int heads, int head_dim);
size_t sample_scratch_cpu(const struct mll_exec *ex, int n, int dim);
size_t sample_scratch_cuda(const struct mll_exec *ex, int n, int dim);

enum { EXEC_OPERANDS = 8 };

/* The exec of the CPU; the head of the exec of a GPU (exec_cuda.h). */
struct mll_exec {
    const struct op_table *ops;
    enum mll_phase phase;
    enum mll_dtype kv_dtype;
    unsigned char *arena; /* memory of the device */
    size_t arena_size, used, peak;
    struct {
        const float *x; /* (n, cols) */
        int n, cols;
        size_t mark; /* of the arena, below which it lies */
    } operands[EXEC_OPERANDS];
    int n_operands;
    size_t memory;     /* of the device, in bytes; the CPU's exec has 0 */
    int group;         /* that weights are loaded into; 0: none */
    const char *stage; /* the label */
    int layer;
    char describe[96];
    /* the CPU's own */
    enum mll_isa isa; /* never AUTO */
    enum mll_compute compute;
    int threads;
    struct par *par; /* of so many */
    bool trap;       /* exec_trap_bounds */
    bool fault_lock;
    struct mll_fault fault;
    void **host; /* (n_host) what exec_alloc_host lent */
    int n_host;
};

extern const struct op_table op_table_cpu, op_table_cuda;

/* The rows of the table that belong to an exec, in exec.c and exec_cuda.cu. */
#define EXEC_ROWS(backend)                                                                \
    .close = close_##backend, .trim = trim_##backend, .take_fault = take_fault_##backend, \
    .take_error = take_error_##backend, .upload = upload_##backend,                       \
    .download = download_##backend, .zero = zero_##backend, .reserve = reserve_##backend, \
    .alloc_host = alloc_host_##backend, .send = send_##backend, .fetch = fetch_##backend, \
    .repeat = repeat_##backend, .weight_bytes = weight_bytes_##backend,                   \
    .begin_weights = begin_weights_##backend, .load_weight = load_weight_##backend,       \
    .end_weights = end_weights_##backend, .begin_groups = begin_groups_##backend,         \
    .use_group = use_group_##backend, .memory_free = memory_free_##backend
#define EXEC_DECLARE(backend)                                                                      \
    void close_##backend(struct mll_exec *ex);                                                     \
    void trim_##backend(struct mll_exec *ex);                                                      \
    size_t memory_free_##backend(struct mll_exec *ex);                                             \
    struct mll_fault take_fault_##backend(struct mll_exec *ex);                                    \
    enum mll_status take_error_##backend(struct mll_exec *ex, struct mll_error *err);              \
    void upload_##backend(struct mll_exec *ex, void *device, const void *host, size_t bytes);      \
    void download_##backend(struct mll_exec *ex, void *host, const void *device, size_t bytes);    \
    enum mll_status reserve_##backend(struct mll_exec *ex, size_t scratch_bytes,                   \
                                      struct mll_error *err);                                      \
    void zero_##backend(struct mll_exec *ex, void *device, size_t bytes);                          \
    void *alloc_host_##backend(struct mll_exec *ex, size_t bytes);                                 \
    void send_##backend(struct mll_exec *ex, void *device, const void *host, size_t bytes);        \
    void fetch_##backend(struct mll_exec *ex, void *host, const void *device, size_t bytes);       \
    enum mll_status repeat_##backend(struct mll_exec *ex, const void *key, size_t size,            \
                                     enum mll_status (*ops)(void *arg), void *arg);                \
    size_t weight_bytes_##backend(const struct mll_exec *ex, const struct mat *m,                  \
                                  enum weight_use use);                                            \
    enum mll_status begin_weights_##backend(struct mll_exec *ex, size_t bytes,                     \
                                            struct mll_error *err);                                \
    enum mll_status load_weight_##backend(struct mll_exec *ex, struct mat *m, enum weight_use use, \
                                          struct mll_error *err);                                  \
    enum mll_status end_weights_##backend(struct mll_exec *ex, uint64_t *underflows,               \
                                          struct mll_error *err);                                  \
    enum mll_status begin_groups_##backend(struct mll_exec *ex, int n, const size_t *bytes,        \
                                           struct mll_error *err);                                 \
    void use_group_##backend(struct mll_exec *ex, int group, int next)
EXEC_DECLARE(cpu);
EXEC_DECLARE(cuda);

/* Records an index fault; of all those since the last exec_take_fault the lowest stays, compared by
 * op, position, index and bound, so that the record is the same for any thread count. For any
 * thread. */
void exec_fault(struct mll_exec *ex, enum mll_op op, int64_t position, int64_t index,
                int64_t bound);

/* Whether exec_operand named the n rows of cols at x, among others or alone. */
bool exec_is_operand(const struct mll_exec *ex, const float *x, int n, int cols);

/* The cores that this process may use. */
int exec_usable_cores(void);

/* The form of a loop for the exec's instruction set: name_c, name_avx2 or name_avx512. */
#if defined(__x86_64__)
#define SIMD_FORM(ex, name)                      \
    ((ex)->isa == MLL_ISA_AVX512 ? name##_avx512 \
     : (ex)->isa == MLL_ISA_AVX2 ? name##_avx2   \
                                 : name##_c)
#else
#define SIMD_FORM(ex, name) name##_c
#endif

/* Threads for n elements of light work: few are done sooner than a thread wakes up. */
static inline int exec_threads_for(const struct mll_exec *ex, size_t n)
{
    return n < 32768 ? 1 : ex->threads;
}

#ifdef __cplusplus
}
#endif
#endif
