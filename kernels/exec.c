/* exec.c - the CPU exec: instruction sets, the arena, the fault record.  See ops.h, backend.h. */
#include "backend.h"
#include "weight_bytes.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "par.h"

enum { ARENA_ALIGN = 64 };

/* ---- what this CPU has ----------------------------------------------------------------------- */

#if defined(__x86_64__)
static bool has_avx2(void)
{
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || (ecx & bit_F16C) == 0)
        return false;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool has_bf16_dot(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#else
static bool has_avx2(void)
{
    return false;
}

static bool has_avx512(void)
{
    return false;
}

static bool has_bf16_dot(void)
{
    return false;
}
#endif

bool exec_isa_supported(enum mll_isa isa)
{
    if (isa == MLL_ISA_AVX512)
        return has_avx512();
    return isa != MLL_ISA_AVX2 || has_avx2();
}

static enum mll_isa best_isa(void)
{
    if (has_avx512())
        return MLL_ISA_AVX512;
    return has_avx2() ? MLL_ISA_AVX2 : MLL_ISA_C;
}

static const char *isa_name(enum mll_isa isa)
{
    static const char *const names[] = {"auto", "c", "avx2", "avx512"};
    return names[isa];
}

int exec_usable_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
    return 1;
}

/* ---- open, close ----------------------------------------------------------------------------- */

enum mll_status exec_open_cpu(struct mll_exec **ex, int threads, enum mll_isa isa,
                              enum mll_compute compute, size_t scratch_bytes, struct mll_error *err)
{
    static const char *const computes[] = {"", " bf16", " int8"};
    *ex = NULL;
    MLL_ASSERT(threads >= 0);
    if (!exec_isa_supported(isa))
        return mll_fail(err, MLL_ERR_DEVICE, "this CPU has no %s", isa_name(isa));
    if (isa == MLL_ISA_AUTO)
        isa = best_isa();
    if (compute == MLL_COMPUTE_BF16 && (isa != MLL_ISA_AVX512 || !has_bf16_dot()))
        return mll_fail(err, MLL_ERR_DEVICE,
                        "compute in bf16 needs a CPU with AVX512_BF16; this exec is cpu %s",
                        isa_name(isa));
    if (threads == 0)
        threads = exec_usable_cores();
    if (threads > PAR_MOST)
        threads = PAR_MOST;

    struct mll_exec *e = calloc(1, sizeof *e);
    if (e == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for an exec");
    enum mll_status status = reserve_cpu(e, scratch_bytes, err);
    if (status == MLL_OK)
        status = par_open(&e->par, threads, err);
    if (status != MLL_OK) {
        close_cpu(e);
        return status;
    }
    e->ops = &op_table_cpu;
    e->isa = isa;
    e->compute = compute;
    e->threads = threads;
    e->kv_dtype = MLL_DTYPE_F32;
    snprintf(e->describe, sizeof e->describe, "cpu %s%s, %d thread%s", isa_name(isa),
             computes[compute], threads, threads == 1 ? "" : "s");
    *ex = e;
    return MLL_OK;
}

int exec_cuda_index(const char *device)
{
    char *end;
    if (strcmp(device, "cuda") == 0)
        return 0;
    if (strncmp(device, "cuda:", 5) != 0 || device[5] < '0' || device[5] > '9')
        return -1;
    long index = strtol(device + 5, &end, 10);
    return *end == 0 && index <= 1023 ? (int)index : -1;
}

enum mll_status reserve_cpu(struct mll_exec *ex, size_t scratch_bytes, struct mll_error *err)
{
    if (scratch_bytes > SIZE_MAX - ARENA_ALIGN)
        scratch_bytes = SIZE_MAX - ARENA_ALIGN;
    free(ex->arena);
    ex->arena_size = (scratch_bytes + ARENA_ALIGN) / ARENA_ALIGN * ARENA_ALIGN;
    ex->arena = aligned_alloc(ARENA_ALIGN, ex->arena_size);
    if (ex->arena == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %zu bytes of scratch",
                        scratch_bytes);
    return MLL_OK;
}

enum mll_status exec_reserve(struct mll_exec *ex, size_t scratch_bytes, struct mll_error *err)
{
    MLL_ASSERT(ex->used == 0);
    return ex->ops->reserve(ex, scratch_bytes, err);
}

void close_cpu(struct mll_exec *ex)
{
    for (int i = 0; i < ex->n_host; i++)
        free(ex->host[i]);
    par_close(ex->par);
    free(ex->host);
    free(ex->arena);
    free(ex);
}

void exec_close(struct mll_exec *ex)
{
    if (ex != NULL)
        ex->ops->close(ex);
}

void exec_set_phase(struct mll_exec *ex, enum mll_phase phase)
{
    ex->phase = phase;
}

enum mll_status exec_set_kv_dtype(struct mll_exec *ex, enum mll_dtype dtype, struct mll_error *err)
{
    bool cpu = ex->ops == &op_table_cpu;
    if (dtype != MLL_DTYPE_F16 && dtype != MLL_DTYPE_I8 && !(cpu && dtype == MLL_DTYPE_F32))
        return mll_fail(err, MLL_ERR_BAD_OPTION, "kv-type: expected %s on %s",
                        cpu ? "f32, f16 or int8" : "f16 or int8", ex->describe);
    ex->kv_dtype = dtype;
    return MLL_OK;
}

enum mll_dtype exec_kv_dtype(const struct mll_exec *ex)
{
    return ex->kv_dtype;
}

void exec_label(struct mll_exec *ex, const char *stage, int layer)
{
    ex->stage = stage;
    ex->layer = layer;
}

/* ---- weights --------------------------------------------------------------------------------- */

size_t weight_bytes_cpu(const struct mll_exec *ex, const struct mat *m, enum weight_use use)
{
    (void)ex, (void)m, (void)use;
    return 0;
}

enum mll_status begin_weights_cpu(struct mll_exec *ex, size_t bytes, struct mll_error *err)
{
    (void)ex, (void)bytes, (void)err;
    return MLL_OK;
}

enum mll_status load_weight_cpu(struct mll_exec *ex, struct mat *m, enum weight_use use,
                                struct mll_error *err)
{
    (void)ex, (void)m, (void)use, (void)err;
    return MLL_OK;
}

enum mll_status end_weights_cpu(struct mll_exec *ex, uint64_t *underflows, struct mll_error *err)
{
    (void)ex, (void)err;
    if (underflows != NULL)
        *underflows = 0;
    return MLL_OK;
}

enum mll_status begin_groups_cpu(struct mll_exec *ex, int n, const size_t *bytes,
                                 struct mll_error *err)
{
    (void)ex, (void)n, (void)bytes, (void)err;
    return MLL_OK;
}

void use_group_cpu(struct mll_exec *ex, int group, int next)
{
    (void)ex, (void)group, (void)next;
}

size_t exec_weight_bytes(const struct mll_exec *ex, const struct mat *m, enum weight_use use)
{
    return ex->ops->weight_bytes(ex, m, use);
}

size_t exec_gpu_weight_bytes(const struct mat *m, enum weight_use use)
{
    return weight_gpu_bytes(m, use);
}

enum mll_status exec_begin_weights(struct mll_exec *ex, size_t bytes, struct mll_error *err)
{
    return ex->ops->begin_weights(ex, bytes, err);
}

enum mll_status exec_load_weight(struct mll_exec *ex, struct mat *m, enum weight_use use,
                                 struct mll_error *err)
{
    return ex->ops->load_weight(ex, m, use, err);
}

enum mll_status exec_end_weights(struct mll_exec *ex, uint64_t *underflows, struct mll_error *err)
{
    return ex->ops->end_weights(ex, underflows, err);
}

enum mll_status exec_begin_groups(struct mll_exec *ex, int n, const size_t *bytes,
                                  struct mll_error *err)
{
    return ex->ops->begin_groups(ex, n, bytes, err);
}

void exec_set_group(struct mll_exec *ex, int group)
{
    ex->group = group;
}

void exec_use_group(struct mll_exec *ex, int group, int next)
{
    if (group > 0)
        ex->ops->use_group(ex, group, next);
}

/* ---- what it is ------------------------------------------------------------------------------ */

enum mll_status take_error_cpu(struct mll_exec *ex, struct mll_error *err)
{
    (void)ex, (void)err;
    return MLL_OK;
}

enum mll_status exec_take_error(struct mll_exec *ex, struct mll_error *err)
{
    return ex->ops->take_error(ex, err);
}

void exec_trap_bounds(struct mll_exec *ex)
{
    ex->trap = true;
}

int exec_threads(const struct mll_exec *ex)
{
    return ex->threads;
}

size_t exec_memory(const struct mll_exec *ex)
{
    return ex->memory;
}

size_t exec_memory_free(struct mll_exec *ex)
{
    return ex->ops->memory_free(ex);
}

size_t memory_free_cpu(struct mll_exec *ex)
{
    (void)ex;
    return 0;
}

const char *exec_describe(const struct mll_exec *ex)
{
    return ex->describe;
}

/* ---- arena ----------------------------------------------------------------------------------- */

void *exec_alloc(struct mll_exec *ex, size_t bytes)
{
    size_t rounded = (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
    MLL_ASSERT(rounded >= bytes && rounded <= ex->arena_size - ex->used);
    void *p = ex->arena + ex->used;
    ex->used += rounded;
    if (ex->used > ex->peak)
        ex->peak = ex->used;
    return p;
}

size_t exec_mark(const struct mll_exec *ex)
{
    return ex->used;
}

void exec_release(struct mll_exec *ex, size_t mark)
{
    MLL_ASSERT(mark <= ex->used);
    ex->used = mark;
    while (ex->n_operands > 0 && ex->operands[ex->n_operands - 1].mark > mark)
        ex->n_operands--;
}

void exec_operand(struct mll_exec *ex, const float *x, int n, int cols)
{
    MLL_ASSERT(ex->n_operands < EXEC_OPERANDS && n > 0 && cols > 0);
    int i = ex->n_operands++;
    ex->operands[i].x = x;
    ex->operands[i].n = n;
    ex->operands[i].cols = cols;
    ex->operands[i].mark = ex->used;
}

bool exec_is_operand(const struct mll_exec *ex, const float *x, int n, int cols)
{
    for (int i = 0; i < ex->n_operands; i++) {
        const float *base = ex->operands[i].x;
        size_t width = (size_t)ex->operands[i].cols, size = (size_t)ex->operands[i].n * width;
        if (x < base || x >= base + size)
            continue;
        size_t at = (size_t)(x - base);
        return (size_t)cols == width && at % width == 0 && at + (size_t)n * width <= size;
    }
    return false;
}

size_t exec_peak(const struct mll_exec *ex)
{
    return ex->peak;
}

void exec_trim(struct mll_exec *ex)
{
    ex->ops->trim(ex);
}

void trim_cpu(struct mll_exec *ex)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = ((uintptr_t)ex->arena + ex->used + page - 1) / page * page;
    uintptr_t end = ((uintptr_t)ex->arena + ex->arena_size) / page * page;
    if (end > begin && end - begin >= EXEC_TRIM_LEAST)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

/* ---- faults ---------------------------------------------------------------------------------- */

const char *op_name(enum mll_op op)
{
    switch (op) {
    case OP_NONE:
        return "none";
    case OP_GATHER_ROWS:
        return "gather_rows";
    case OP_KV_APPEND:
        return "kv_append";
    case OP_ATTN:
        return "attn";
    case OP_ADD_TILE_EMBEDDING:
        return "add_tile_embedding";
    case OP_ADD_POSITION_EMBEDDING:
        return "add_position_embedding";
    case OP_TAKE_ROWS:
        return "take_rows";
    }
    return "unknown";
}

static bool fault_less(const struct mll_fault *a, const struct mll_fault *b)
{
    if (a->op != b->op)
        return a->op < b->op;
    if (a->position != b->position)
        return a->position < b->position;
    if (a->index != b->index)
        return a->index < b->index;
    return a->bound < b->bound;
}

void exec_fault(struct mll_exec *ex, enum mll_op op, int64_t position, int64_t index, int64_t bound)
{
    struct mll_fault fault = {.op = op,
                              .position = position,
                              .index = index,
                              .bound = bound,
                              .stage = ex->stage,
                              .layer = ex->layer};
    while (__atomic_test_and_set(&ex->fault_lock, __ATOMIC_ACQUIRE))
        ;
    if (ex->fault.op == OP_NONE || fault_less(&fault, &ex->fault))
        ex->fault = fault;
    __atomic_clear(&ex->fault_lock, __ATOMIC_RELEASE);
}

struct mll_fault exec_take_fault(struct mll_exec *ex)
{
    return ex->ops->take_fault(ex);
}

struct mll_fault take_fault_cpu(struct mll_exec *ex)
{
    struct mll_fault fault = ex->fault;
    ex->fault = (struct mll_fault){.op = OP_NONE};
    return fault;
}

void exec_upload(struct mll_exec *ex, void *device, const void *host, size_t bytes)
{
    if (bytes > 0)
        ex->ops->upload(ex, device, host, bytes);
}

void upload_cpu(struct mll_exec *ex, void *device, const void *host, size_t bytes)
{
    (void)ex;
    memcpy(device, host, bytes);
}

void exec_download(struct mll_exec *ex, void *host, const void *device, size_t bytes)
{
    if (bytes > 0)
        ex->ops->download(ex, host, device, bytes);
}

void download_cpu(struct mll_exec *ex, void *host, const void *device, size_t bytes)
{
    (void)ex;
    memcpy(host, device, bytes);
}

void zero_cpu(struct mll_exec *ex, void *device, size_t bytes)
{
    (void)ex;
    memset(device, 0, bytes);
}

void exec_zero(struct mll_exec *ex, void *device, size_t bytes)
{
    if (bytes > 0)
        ex->ops->zero(ex, device, bytes);
}

void *alloc_host_cpu(struct mll_exec *ex, size_t bytes)
{
    void **grown = realloc(ex->host, (size_t)(ex->n_host + 1) * sizeof *grown);
    if (grown == NULL)
        return NULL;
    ex->host = grown;
    void *p = calloc(1, bytes);
    if (p != NULL)
        ex->host[ex->n_host++] = p;
    return p;
}

void *exec_alloc_host(struct mll_exec *ex, size_t bytes)
{
    return ex->ops->alloc_host(ex, bytes > 0 ? bytes : 1);
}

void send_cpu(struct mll_exec *ex, void *device, const void *host, size_t bytes)
{
    upload_cpu(ex, device, host, bytes);
}

void exec_send(struct mll_exec *ex, void *device, const void *host, size_t bytes)
{
    if (bytes > 0)
        ex->ops->send(ex, device, host, bytes);
}

void fetch_cpu(struct mll_exec *ex, void *host, const void *device, size_t bytes)
{
    download_cpu(ex, host, device, bytes);
}

void exec_fetch(struct mll_exec *ex, void *host, const void *device, size_t bytes)
{
    if (bytes > 0)
        ex->ops->fetch(ex, host, device, bytes);
}

enum mll_status repeat_cpu(struct mll_exec *ex, const void *key, size_t size,
                           enum mll_status (*ops)(void *arg), void *arg)
{
    (void)ex, (void)key, (void)size;
    return ops(arg);
}

enum mll_status exec_repeat(struct mll_exec *ex, const void *key, size_t size,
                            enum mll_status (*ops)(void *arg), void *arg)
{
    return ex->ops->repeat(ex, key, size, ops, arg);
}
