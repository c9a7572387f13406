/* load_weights.cu - weights from host memory, usually a mapped file, onto the GPU.  Contract:
 * ops.h.
 *
 * Three things run at once: the threads of the host fill one pinned buffer from the file, the copy
 * engine moves another one to the device, a kernel turns the rows of a third into fp16. The copies
 * have a stream of their own; events order the three. Host memory: the pinned buffers, whatever the
 * model's size. Device memory: one slab for all weights, taken at the beginning, and until the end
 * two buffers of rows as they were stored.
 * How weights lie there: weight_bytes.h. */
#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "half.h"
#include "par.h"
#include "quant_cuda.h"
#include "weight_bytes.h"

enum { PINNED = 4, STORED = 2 };
#define CHUNK_MOST  ((size_t)16 << 20)
#define CHUNK_LEAST ((size_t)1 << 16)

/* Device memory that lives as long as the exec. */
struct weight_slab {
    struct weight_slab *next;
    unsigned char *memory;
    size_t size, used;
};

struct weight_loader {
    struct weight_slab *slab;
    cudaStream_t stream;           /* the copies' */
    size_t chunk;                  /* bytes of a buffer */
    unsigned char *pinned[PINNED]; /* filled by the host */
    cudaEvent_t copied[PINNED];    /* its last copy is done */
    unsigned char *stored[STORED]; /* device: rows as the file has them */
    cudaEvent_t converted[STORED]; /* its last rows are fp16 */
    unsigned next_pinned, next_stored;
    unsigned long long *underflows; /* device */
    struct par *par;                /* fills the buffers */
};

size_t weight_bytes_cuda(const struct mll_exec *ex, const struct mat *m, enum weight_use use)
{
    (void)ex;
    return weight_gpu_bytes(m, use);
}

/* ---- begin, end ------------------------------------------------------------------------------ */

static void loader_close(struct exec_cuda *e)
{
    struct weight_loader *l = e->loader;
    if (l == NULL)
        return;
    if (l->stream != NULL)
        cudaStreamSynchronize(l->stream);
    for (int i = 0; i < PINNED; i++) {
        if (l->copied[i] != NULL)
            cudaEventDestroy(l->copied[i]);
        if (l->pinned[i] != NULL)
            cudaFreeHost(l->pinned[i]);
    }
    for (int i = 0; i < STORED; i++) {
        if (l->converted[i] != NULL)
            cudaEventDestroy(l->converted[i]);
        cudaFree(l->stored[i]);
    }
    cudaFree(l->underflows);
    par_close(l->par);
    if (l->stream != NULL)
        cudaStreamDestroy(l->stream);
    free(l);
    e->loader = NULL;
}

static cudaError_t open_buffers(struct weight_loader *l)
{
    cudaError_t error = cudaStreamCreateWithFlags(&l->stream, cudaStreamNonBlocking);
    for (int i = 0; i < PINNED && error == cudaSuccess; i++) {
        error = cudaHostAlloc((void **)&l->pinned[i], l->chunk, cudaHostAllocDefault);
        if (error == cudaSuccess)
            error = cudaEventCreateWithFlags(&l->copied[i], cudaEventDisableTiming);
    }
    for (int i = 0; i < STORED && error == cudaSuccess; i++) {
        error = cudaMalloc((void **)&l->stored[i], l->chunk);
        if (error == cudaSuccess)
            error = cudaEventCreateWithFlags(&l->converted[i], cudaEventDisableTiming);
    }
    if (error == cudaSuccess)
        error = cudaMalloc((void **)&l->underflows, sizeof *l->underflows);
    return error;
}

static enum mll_status slab_open(struct exec_cuda *e, size_t bytes, struct mll_error *err)
{
    struct weight_slab *slab = (struct weight_slab *)calloc(1, sizeof *slab);
    if (slab == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a list of weights");
    slab->next = e->slabs;
    e->slabs = slab;
    if (bytes > 0 && cudaMalloc((void **)&slab->memory, bytes) != cudaSuccess)
        return device_out_of_memory(err, "weights", bytes);
    slab->size = bytes;
    return MLL_OK;
}

enum mll_status begin_weights_cuda(struct mll_exec *ex, size_t bytes, struct mll_error *err)
{
    struct exec_cuda *e = exec_cuda(ex);
    MLL_ASSERT(e->loader == NULL);
    cudaSetDevice(e->options.device);
    MLL_TRY(slab_open(e, bytes, err));
    struct weight_loader *l = (struct weight_loader *)calloc(1, sizeof *l);
    if (l == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory to load weights");
    e->loader = l;
    l->slab = e->slabs;
    l->chunk = bytes < CHUNK_LEAST  ? CHUNK_LEAST
               : bytes < CHUNK_MOST ? weight_aligned(bytes)
                                    : CHUNK_MOST;
    cudaError_t error = open_buffers(l);
    if (error != cudaSuccess) {
        loader_close(e);
        return device_out_of_memory(err, "buffers to load weights through",
                                    (PINNED + STORED) * CHUNK_MOST);
    }
    enum mll_status status = par_open(&l->par, ex->threads, err);
    if (status != MLL_OK) {
        loader_close(e);
        return status;
    }
    cudaMemsetAsync(l->underflows, 0, sizeof *l->underflows, e->stream);
    launched(ex, "clearing the count of underflows");
    return MLL_OK;
}

enum mll_status end_weights_cuda(struct mll_exec *ex, uint64_t *underflows, struct mll_error *err)
{
    struct exec_cuda *e = exec_cuda(ex);
    unsigned long long n = 0;
    MLL_ASSERT(e->loader != NULL);
    cudaStreamSynchronize(e->loader->stream);
    download_cuda(ex, &n, e->loader->underflows, sizeof n);
    if (underflows != NULL)
        *underflows = n;
    loader_close(e);
    return take_error_cuda(ex, err);
}

void weights_close(struct exec_cuda *e)
{
    loader_close(e);
    while (e->slabs != NULL) {
        struct weight_slab *next = e->slabs->next;
        cudaFree(e->slabs->memory);
        free(e->slabs);
        e->slabs = next;
    }
    while (e->blocks != NULL) {
        struct device_blocks *next = e->blocks->next;
        free(e->blocks);
        e->blocks = next;
    }
}

/* ---- copies ---------------------------------------------------------------------------------- */

/* n elements or bytes of the host that a pinned buffer is filled with. */
struct fill {
    unsigned char *to;
    const unsigned char *from;
    enum mll_dtype widen; /* elements of this type to float32; NONE: bytes as they are */
};

static void fill_part(void *arg, size_t begin, size_t end, int thread)
{
    const struct fill *f = (const struct fill *)arg;
    (void)thread;
    if (f->widen == MLL_DTYPE_NONE)
        memcpy(f->to + begin, f->from + begin, end - begin);
    for (size_t i = begin; f->widen != MLL_DTYPE_NONE && i < end; i++) {
        float x = weight_at(f->from, f->widen, i);
        memcpy(f->to + i * sizeof x, &x, sizeof x);
    }
}

/* Fills the next pinned buffer, once its last copy is done, and starts its copy; `bytes` is what
 * arrives. Returns the buffer's number. */
static unsigned send_chunk(struct exec_cuda *e, void *to, const struct fill *what, size_t n,
                           size_t bytes)
{
    struct weight_loader *l = e->loader;
    unsigned b = l->next_pinned++ % PINNED;
    struct fill f = *what;
    MLL_ASSERT(bytes <= l->chunk);
    f.to = l->pinned[b];
    cudaEventSynchronize(l->copied[b]);
    par_for(l->par, bytes < CHUNK_LEAST ? 1 : e->base.threads, n, fill_part, &f);
    cudaMemcpyAsync(to, l->pinned[b], bytes, cudaMemcpyHostToDevice, l->stream);
    cudaEventRecord(l->copied[b], l->stream);
    launched(&e->base, "copying weights");
    return b;
}

static unsigned char *take(struct exec_cuda *e, size_t bytes)
{
    struct weight_slab *slab = e->loader->slab;
    if (e->base.group > 0)
        return groups_take(e, weight_aligned(bytes));
    unsigned char *p = slab->memory + slab->used;
    MLL_ASSERT(weight_aligned(bytes) <= slab->size - slab->used);
    slab->used += weight_aligned(bytes);
    return p;
}

/* bytes of the host as they are; returns where they lie on the device. */
static const void *send_bytes(struct exec_cuda *e, const void *from, size_t bytes)
{
    unsigned char *to = take(e, bytes);
    for (size_t at = 0, n; at < bytes; at += n) {
        n = bytes - at < e->loader->chunk ? bytes - at : e->loader->chunk;
        struct fill f = {NULL, (const unsigned char *)from + at, MLL_DTYPE_NONE};
        send_chunk(e, to + at, &f, n, n);
    }
    return to;
}

static void send_vector(struct exec_cuda *e, struct mat *m)
{
    size_t n = weight_count(m), most = e->loader->chunk / sizeof(float),
           size = weight_element_bytes(m->dtype);
    unsigned char *to = take(e, (n + 1) * sizeof(float));
    float largest = 0.0f;
    for (size_t at = 0, part; at < n; at += part) {
        part = n - at < most ? n - at : most;
        struct fill f = {NULL, (const unsigned char *)m->data + at * size, m->dtype};
        send_chunk(e, to + at * sizeof(float), &f, part, part * sizeof(float));
    }
    for (size_t i = 0; i < n; i++)
        largest = fmaxf(largest, fabsf(weight_at(m->data, m->dtype, i)));
    struct fill f = {NULL, (const unsigned char *)&largest, MLL_DTYPE_NONE};
    send_chunk(e, to + n * sizeof(float), &f, sizeof largest, sizeof largest);
    m->data = to;
    m->dtype = MLL_DTYPE_F32;
}

/* Rows as stored go through a buffer on the device; the exec's stream turns them into fp16. */
static enum mll_status send_matrix(struct exec_cuda *e, struct mat *m, struct mll_error *err)
{
    struct weight_loader *l = e->loader;
    size_t row = (size_t)m->cols * weight_element_bytes(m->dtype),
           stride = (size_t)half_stride(m->cols);
    int most = (int)(l->chunk / row < INT32_MAX ? l->chunk / row : INT32_MAX);
    if (most == 0)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "a weight's row has %zu bytes, at most %zu fit",
                        row, l->chunk);
    __half *rows = (__half *)take(e, (size_t)m->rows * stride * sizeof(__half));
    float *scale = (float *)take(e, ((size_t)m->rows + 1) * sizeof(float)), *norm = scale + m->rows;
    cudaMemsetAsync(norm, 0, sizeof *norm, e->stream);
    for (int r = 0, n; r < m->rows; r += n) {
        n = m->rows - r < most ? m->rows - r : most;
        unsigned s = l->next_stored++ % STORED;
        size_t bytes = (size_t)n * row;
        struct fill f = {NULL, (const unsigned char *)m->data + (size_t)r * row, MLL_DTYPE_NONE};
        cudaStreamWaitEvent(l->stream, l->converted[s], 0);
        unsigned b = send_chunk(e, l->stored[s], &f, bytes, bytes);
        cudaStreamWaitEvent(e->stream, l->copied[b], 0);
        weights_to_half(&e->base, rows + (size_t)r * stride, scale + r, norm, l->underflows,
                        l->stored[s], m->dtype, n, m->cols);
        cudaEventRecord(l->converted[s], e->stream);
    }
    m->data = rows;
    m->scale = scale;
    m->dtype = MLL_DTYPE_F16;
    return MLL_OK;
}

static enum mll_status send_q4(struct exec_cuda *e, struct mat *m, struct mll_error *err)
{
    struct device_blocks *d = (struct device_blocks *)calloc(1, sizeof *d);
    if (d == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a list of weights");
    d->next = e->blocks;
    e->blocks = d;
    d->blocks = *m->blocks;
    size_t n = weight_blocks(m);
    m->data = send_bytes(e, m->data, (weight_count(m) + 1) / 2);
    if (m->blocks->absmax != NULL) {
        d->blocks.absmax = (const float *)send_bytes(e, m->blocks->absmax, n * sizeof(float));
    } else {
        d->blocks.codes = (const uint8_t *)send_bytes(e, m->blocks->codes, n);
        d->blocks.nested_absmax = (const float *)send_bytes(
            e, m->blocks->nested_absmax, weight_nested_blocks(n) * sizeof(float));
        d->blocks.nested_map =
            (const float *)send_bytes(e, m->blocks->nested_map, 256 * sizeof(float));
    }
    q4_describe(d, m);
    m->blocks = &d->blocks;
    return MLL_OK;
}

static enum mll_status send_weight(struct exec_cuda *e, struct mat *m, enum weight_use use,
                                   struct mll_error *err)
{
    if (m->dtype == MLL_DTYPE_Q4)
        return send_q4(e, m, err);
    if (m->dtype == MLL_DTYPE_I8) {
        m->data = send_bytes(e, m->data, weight_count(m));
        m->scale = (const float *)send_bytes(e, m->scale, (size_t)m->rows * sizeof(float));
        return MLL_OK;
    }
    if (use == WEIGHT_MATRIX)
        return send_matrix(e, m, err);
    if (use == WEIGHT_VECTOR)
        send_vector(e, m);
    else
        m->data = send_bytes(e, m->data, weight_count(m) * weight_element_bytes(m->dtype));
    return MLL_OK;
}

enum mll_status load_weight_cuda(struct mll_exec *ex, struct mat *m, enum weight_use use,
                                 struct mll_error *err)
{
    struct exec_cuda *e = exec_cuda(ex);
    if (m->data == NULL)
        return MLL_OK;
    bool alone = e->loader == NULL;
    size_t before = groups_used(e);
    if (alone)
        MLL_TRY(begin_weights_cuda(ex, weight_bytes_cuda(ex, m, use), err));
    cudaSetDevice(e->options.device);
    enum mll_status status = send_weight(e, m, use, err);
    if (e->base.group > 0) {
        cudaStreamSynchronize(e->loader->stream);
        groups_keep(e, before);
    }
    if (status == MLL_OK)
        status = e->error == cudaSuccess ? MLL_OK : take_error_cuda(ex, err);
    if (alone) {
        enum mll_status end = end_weights_cuda(ex, NULL, status == MLL_OK ? err : NULL);
        status = status == MLL_OK ? end : status;
    }
    return status;
}
#endif
