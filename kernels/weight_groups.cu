/* weight_groups.cu - weights that a GPU has no room for: kept in pinned host memory, group by
 * group, and copied to the device each time they are used.  Contract: ops.h.
 *
 * The device has two places, each as large as the largest group. A group always goes to the same
 * one, so that what describes a weight never changes; the copy of the next group, on a stream of
 * its own, fills one place while the ops read the other. A weight is loaded as any other, into its
 * group's place, and from there brought to the host: its bytes are those it would have on the
 * device. A recorded graph could not know which groups lie there, so ops are not recorded. */
#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

#include <stdlib.h>
#include <string.h>

struct weight_groups {
    int n;
    size_t *begin;           /* (n + 1) where group i + 1 begins in host; [n]: the end */
    size_t *used;            /* (n) bytes that were loaded */
    unsigned char *host;     /* pinned */
    unsigned char *place[2]; /* device */
    int held[2];             /* the group that lies there or is on its way; 0: none */
    cudaStream_t stream;     /* the copies' */
    cudaEvent_t ready[2];    /* the copy into the place is done */
    cudaEvent_t passed;      /* ops that may have read a place are done */
};

static enum mll_status open_memory(struct weight_groups *w, const size_t *bytes,
                                   struct mll_error *err)
{
    size_t largest = 0;
    for (int i = 0; i < w->n; i++) {
        w->begin[i + 1] = w->begin[i] + bytes[i];
        largest = bytes[i] > largest ? bytes[i] : largest;
    }
    if (cudaHostAlloc((void **)&w->host, w->begin[w->n], cudaHostAllocDefault) != cudaSuccess) {
        cudaGetLastError();
        return mll_fail(err, MLL_ERR_NO_MEMORY,
                        "out of memory: %zu bytes of weights that the GPU has no room for cannot "
                        "be pinned in host memory",
                        w->begin[w->n]);
    }
    for (int i = 0; i < 2; i++)
        if (cudaMalloc((void **)&w->place[i], largest) != cudaSuccess)
            return device_out_of_memory(err, "a place for streamed weights", largest);
    return MLL_OK;
}

static cudaError_t open_events(struct weight_groups *w)
{
    cudaError_t error = cudaStreamCreateWithFlags(&w->stream, cudaStreamNonBlocking);
    for (int i = 0; i < 2 && error == cudaSuccess; i++)
        error = cudaEventCreateWithFlags(&w->ready[i], cudaEventDisableTiming);
    if (error == cudaSuccess)
        error = cudaEventCreateWithFlags(&w->passed, cudaEventDisableTiming);
    return error;
}

enum mll_status begin_groups_cuda(struct mll_exec *ex, int n, const size_t *bytes,
                                  struct mll_error *err)
{
    struct exec_cuda *e = exec_cuda(ex);
    MLL_ASSERT(n > 0 && e->groups == NULL);
    cudaSetDevice(e->options.device);
    struct weight_groups *w = (struct weight_groups *)calloc(1, sizeof *w);
    if (w != NULL) {
        w->begin = (size_t *)calloc((size_t)n + 1, sizeof *w->begin);
        w->used = (size_t *)calloc((size_t)n, sizeof *w->used);
    }
    e->groups = w; /* from here on close frees it */
    if (w == NULL || w->begin == NULL || w->used == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a list of weights");
    w->n = n;
    e->no_graphs = true;
    e->early = false; /* kernels that begin early read weights at once */
    MLL_TRY(open_memory(w, bytes, err));
    cudaError_t error = open_events(w);
    if (error != cudaSuccess)
        return mll_fail(err, MLL_ERR_DEVICE, "a stream for weights: %s", cudaGetErrorString(error));
    return MLL_OK;
}

void groups_close(struct exec_cuda *e)
{
    struct weight_groups *w = e->groups;
    if (w == NULL)
        return;
    if (w->stream != NULL) {
        cudaStreamSynchronize(w->stream);
        cudaStreamDestroy(w->stream);
    }
    for (int i = 0; i < 2; i++) {
        if (w->ready[i] != NULL)
            cudaEventDestroy(w->ready[i]);
        cudaFree(w->place[i]);
    }
    if (w->passed != NULL)
        cudaEventDestroy(w->passed);
    if (w->host != NULL)
        cudaFreeHost(w->host);
    free(w->begin);
    free(w->used);
    free(w);
    e->groups = NULL;
}

/* ---- loading --------------------------------------------------------------------------------- */

unsigned char *groups_take(struct exec_cuda *e, size_t bytes)
{
    struct weight_groups *w = e->groups;
    int i = e->base.group - 1;
    MLL_ASSERT(w != NULL && i < w->n && bytes <= w->begin[i + 1] - w->begin[i] - w->used[i]);
    unsigned char *p = w->place[e->base.group % 2] + w->used[i];
    w->used[i] += bytes;
    return p;
}

size_t groups_used(const struct exec_cuda *e)
{
    return e->base.group > 0 ? e->groups->used[e->base.group - 1] : 0;
}

void groups_keep(struct exec_cuda *e, size_t from)
{
    struct weight_groups *w = e->groups;
    int i = e->base.group - 1;
    cudaMemcpyAsync(w->host + w->begin[i] + from, w->place[e->base.group % 2] + from,
                    w->used[i] - from, cudaMemcpyDeviceToHost, e->stream);
    launched(&e->base, "bringing weights to the host");
    wait_for_device(e); /* the place takes the next weight */
}

/* ---- use ------------------------------------------------------------------------------------- */

static void fetch_group(struct exec_cuda *e, int group)
{
    struct weight_groups *w = e->groups;
    int place = group % 2;
    cudaEventRecord(w->passed, e->stream);
    cudaStreamWaitEvent(w->stream, w->passed, 0);
    cudaMemcpyAsync(w->place[place], w->host + w->begin[group - 1],
                    w->begin[group] - w->begin[group - 1], cudaMemcpyHostToDevice, w->stream);
    cudaEventRecord(w->ready[place], w->stream);
    w->held[place] = group;
    launched(&e->base, "streaming weights");
}

void use_group_cuda(struct mll_exec *ex, int group, int next)
{
    struct exec_cuda *e = exec_cuda(ex);
    struct weight_groups *w = e->groups;
    MLL_ASSERT(w != NULL && group > 0 && group <= w->n && next >= 0 && next <= w->n);
    cudaSetDevice(e->options.device);
    if (w->held[group % 2] != group)
        fetch_group(e, group);
    cudaStreamWaitEvent(e->stream, w->ready[group % 2], 0);
    if (next > 0 && next % 2 != group % 2 && w->held[next % 2] != next)
        fetch_group(e, next);
    launched(ex, "waiting for weights");
}
#endif
