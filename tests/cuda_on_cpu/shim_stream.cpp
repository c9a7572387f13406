/* shim_stream.cpp - streams, events, graphs: lists of work, run when somebody waits.
 *
 * A stream counts the work it was given and the work it has done; an event is such a count. Waiting
 * for a stream runs its list in order; a wait for another stream's event in it runs that one first,
 * up to the event. While a stream captures, its work goes to the graph's list instead; launching
 * the graph runs the whole list as one piece of work. The NULL stream waits for all streams that
 * are not cudaStreamNonBlocking and then runs at once. */
#include "shim_core.h"

#include <stdlib.h>
#include <time.h>

enum work_kind {
    WORK_LAUNCH,
    WORK_COPY,
    WORK_FILL,
    WORK_RECORD,
    WORK_WAIT,
    WORK_HOST,
    WORK_GRAPH,
    WORK_NOTHING,
};

struct work {
    struct work *next;
    enum work_kind kind;
    struct shim_grid grid;
    void *to;
    const void *from; /* NULL: payload */
    size_t bytes;
    int value;
    cudaEvent_t event;
    cudaStream_t stream;
    unsigned long long upto;
    void (*call)(void *data);
    cudaGraphExec_t graph;
    alignas(16) unsigned char payload[]; /* what a launch's body or a pageable source was */
};

struct work_list {
    struct work *first, **end;
    size_t n;
};

struct shim_stream {
    struct shim_stream *next;
    unsigned flags;
    bool destroyed;
    struct work_list work;
    unsigned long long given, done;
    struct shim_graph *capture;
};

struct shim_event {
    struct shim_stream *stream;
    unsigned long long upto;
    struct shim_graph *capture;
    double ms;
};

struct shim_graph {
    struct work_list work;
    bool invalid;
};

struct shim_graph_exec {
    struct work_list work;
};

static struct {
    struct shim_stream null_stream, *streams;
    int capturing; /* streams */
    int running;   /* depth, for the memory's gate */
} r;

/* ---- lists of work --------------------------------------------------------------------------- */

static void append(struct work_list *list, struct work *w)
{
    if (list->n++ == 0)
        list->end = &list->first;
    w->next = NULL;
    *list->end = w;
    list->end = &w->next;
}

static struct work *take_first(struct work_list *list)
{
    struct work *w = list->first;
    list->first = w->next;
    list->n--;
    return w;
}

static void free_list(struct work_list *list)
{
    while (list->n > 0)
        free(take_first(list));
}

static struct work *new_work(enum work_kind kind, const void *payload, size_t bytes)
{
    struct work *w = (struct work *)calloc(1, sizeof *w + bytes);
    if (w == NULL)
        shim_die("no memory for work in a stream");
    w->kind = kind;
    w->bytes = bytes;
    if (bytes > 0)
        memcpy(w->payload, payload, bytes);
    return w;
}

static void copy_list(struct work_list *to, const struct work_list *from)
{
    for (const struct work *w = from->first; w != NULL && to->n < from->n; w = w->next) {
        size_t payload = w->kind == WORK_LAUNCH ? w->bytes : 0;
        struct work *copy = new_work(w->kind, w->payload, payload);
        size_t header = offsetof(struct work, payload);
        memcpy((void *)copy, w, header);
        append(to, copy);
    }
}

/* ---- running --------------------------------------------------------------------------------- */

static void run_until(struct shim_stream *stream, unsigned long long upto);

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void run_launch(struct work *w)
{
    w->grid.body = w->payload;
    shim_device.counts.launches++;
    if (!shim_run_grid(&w->grid))
        shim_device.lost = cudaErrorLaunchFailure;
}

static void run_work(struct work *w)
{
    if (shim_device.lost != cudaSuccess)
        return;
    switch (w->kind) {
    case WORK_LAUNCH:
        run_launch(w);
        break;
    case WORK_COPY:
        memmove(w->to, w->from != NULL ? w->from : w->payload, w->bytes);
        break;
    case WORK_FILL:
        memset(w->to, w->value, w->bytes);
        break;
    case WORK_RECORD:
        w->event->ms = now_ms();
        break;
    case WORK_WAIT:
        run_until(w->stream, w->upto);
        break;
    case WORK_HOST:
        w->call(w->to);
        break;
    case WORK_GRAPH:
        for (struct work *part = w->graph->work.first; part != NULL; part = part->next)
            run_work(part);
        break;
    case WORK_NOTHING:
        break;
    }
}

static void run_until(struct shim_stream *stream, unsigned long long upto)
{
    if (stream->done >= upto || stream->work.n == 0)
        return;
    if (r.running++ == 0)
        shim_open_memory(true);
    while (stream->done < upto && stream->work.n > 0) {
        struct work *w = take_first(&stream->work);
        stream->done++; /* before it runs: a stream may wait for its own event */
        run_work(w);
        free(w);
    }
    if (--r.running == 0)
        shim_open_memory(false);
}

static void drain(struct shim_stream *stream)
{
    run_until(stream, stream->given);
}

void shim_drain_all(void)
{
    for (struct shim_stream *stream = r.streams; stream != NULL; stream = stream->next)
        drain(stream);
}

/* What need not wait for another stream. */
static void run_ahead(struct shim_stream *stream)
{
    for (const struct work *w; (w = stream->work.first, stream->work.n > 0);) {
        if (w->kind == WORK_WAIT && w->stream->done < w->upto)
            return;
        run_until(stream, stream->done + 1);
    }
}

static void drain_blocking(void)
{
    for (struct shim_stream *stream = r.streams; stream != NULL; stream = stream->next)
        if ((stream->flags & cudaStreamNonBlocking) == 0)
            drain(stream);
}

bool shim_capturing(void)
{
    for (struct shim_stream *s = r.streams; s != NULL && r.capturing > 0; s = s->next)
        if (s->capture != NULL)
            s->capture->invalid = true;
    return r.capturing > 0;
}

static struct shim_stream *stream_of(cudaStream_t stream)
{
    if (stream != NULL && stream->destroyed)
        shim_die("a stream that was destroyed is used");
    return stream != NULL ? stream : &r.null_stream;
}

/* Into the stream, its graph, or done at once. Takes w over. */
static cudaError_t give(cudaStream_t handle, struct work *w)
{
    struct shim_stream *stream = stream_of(handle);
    if (shim_usable() != cudaSuccess) {
        free(w);
        return shim_usable();
    }
    if (stream->capture != NULL) {
        append(&stream->capture->work, w);
        return cudaSuccess;
    }
    if (stream == &r.null_stream) {
        if (shim_capturing()) {
            free(w);
            return cudaErrorStreamCaptureImplicit;
        }
        drain_blocking();
    }
    append(&stream->work, w);
    stream->given++;
    if (stream == &r.null_stream || shim_device.blocking)
        drain(stream);
    else if (shim_device.copies_ahead && w->kind == WORK_COPY)
        run_ahead(stream);
    return cudaSuccess;
}

/* ---- launches -------------------------------------------------------------------------------- */

static cudaError_t check_launch(const void *kernel, dim3 grid, dim3 block, size_t shared,
                                size_t bytes)
{
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 ||
        grid.z > 65535)
        return cudaErrorInvalidConfiguration;
    if (block.x == 0 || block.y == 0 || block.z == 0 || block.z > 64 ||
        (uint64_t)block.x * block.y * block.z > SHIM_THREADS_MAX)
        return cudaErrorInvalidConfiguration;
    if (shared > shim_kernel_limit(kernel) || bytes > 4096)
        return cudaErrorInvalidValue;
    bool no_image = shim_device.refused == cudaErrorNoKernelImageForDevice;
    return no_image ? cudaErrorNoKernelImageForDevice : cudaSuccess;
}

void shim_enqueue(const char *name, const void *kernel, bool early, dim3 grid, dim3 block,
                  size_t shared, cudaStream_t stream, void (*run)(const void *body),
                  const void *body, size_t bytes)
{
    shim_lock();
    cudaError_t error = check_launch(kernel, grid, block, shared, bytes);
    if (error == cudaSuccess) {
        struct work *w = new_work(WORK_LAUNCH, body, bytes);
        w->grid = shim_grid{name, early, grid, block, shared, shim_kernel_limit(kernel), run, NULL};
        error = give(stream, w);
    }
    shim_note(error);
    shim_unlock();
}

/* ---- copies ---------------------------------------------------------------------------------- */

static bool fits(enum shim_place place, bool device)
{
    return device ? place == SHIM_ON_DEVICE : place == SHIM_PAGEABLE || place == SHIM_PINNED;
}

static cudaError_t check_copy(enum shim_place to, enum shim_place from, enum cudaMemcpyKind kind)
{
    bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (to == SHIM_ASTRIDE || from == SHIM_ASTRIDE)
        return cudaErrorInvalidValue;
    if (kind != cudaMemcpyDefault && (!fits(to, to_device) || !fits(from, from_device)))
        return cudaErrorInvalidValue;
    return cudaSuccess;
}

static cudaError_t copy_async(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                              cudaStream_t stream)
{
    if (bytes == 0 || shim_usable() != cudaSuccess)
        return shim_usable();
    enum shim_place to_place = shim_where(to, bytes), from_place = shim_where(from, bytes);
    cudaError_t error = check_copy(to_place, from_place, kind);
    if (error != cudaSuccess)
        return error;
    bool captured = stream_of(stream)->capture != NULL;
    if (captured && (to_place == SHIM_PAGEABLE || from_place == SHIM_PAGEABLE))
        shim_die("a graph copies memory of the host that is not pinned");
    bool snapshot = from_place == SHIM_PAGEABLE && !captured;
    struct work *w = new_work(WORK_COPY, from, snapshot ? bytes : 0);
    w->to = to;
    w->from = snapshot ? NULL : from;
    w->bytes = bytes;
    error = give(stream, w);
    if (error == cudaSuccess && to_place == SHIM_PAGEABLE && !captured)
        drain(stream_of(stream));
    return error == cudaSuccess ? shim_usable() : error;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    shim_lock();
    cudaError_t error = shim_note(copy_async(to, from, bytes, kind, stream));
    shim_unlock();
    return error;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    return cudaMemcpyAsync(to, from, bytes, kind, NULL);
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t stream)
{
    shim_lock();
    cudaError_t error = shim_usable();
    if (error == cudaSuccess && bytes > 0 && shim_where(to, bytes) != SHIM_ON_DEVICE)
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess && bytes > 0) {
        struct work *w = new_work(WORK_FILL, NULL, 0);
        w->to = to;
        w->value = value;
        w->bytes = bytes;
        error = give(stream, w);
    }
    error = shim_note(error);
    shim_unlock();
    return error;
}

cudaError_t cudaMemset(void *to, int value, size_t bytes)
{
    return cudaMemsetAsync(to, value, bytes, NULL);
}

/* ---- streams --------------------------------------------------------------------------------- */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    *stream = NULL;
    shim_lock();
    cudaError_t error = shim_note(cudaSuccess);
    if (error == cudaSuccess) {
        struct shim_stream *made = (struct shim_stream *)calloc(1, sizeof *made);
        made->flags = flags;
        made->next = r.streams;
        *stream = r.streams = made;
    }
    shim_unlock();
    return error;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

/* Events may still name the stream: its memory stays until shim_reset. */
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    shim_lock();
    drain(stream_of(stream));
    stream->destroyed = true;
    cudaError_t error = shim_note(cudaSuccess);
    shim_unlock();
    return error;
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle)
{
    shim_lock();
    struct shim_stream *stream = stream_of(handle);
    cudaError_t error = cudaSuccess;
    shim_device.counts.waits++;
    if (stream->capture != NULL) {
        stream->capture->invalid = true;
        error = cudaErrorStreamCaptureUnsupported;
    } else if (stream == &r.null_stream) {
        drain_blocking();
    } else {
        drain(stream);
    }
    error = shim_note(error);
    shim_unlock();
    return error;
}

cudaError_t cudaDeviceSynchronize(void)
{
    shim_lock();
    cudaError_t error = shim_capturing() ? cudaErrorStreamCaptureUnsupported : cudaSuccess;
    shim_device.counts.waits++;
    if (error == cudaSuccess)
        shim_drain_all();
    error = shim_note(error);
    shim_unlock();
    return error;
}

/* Who asks again and again must see progress: one piece of work per question. */
static cudaError_t query(struct shim_stream *stream, unsigned long long upto)
{
    run_until(stream, stream->done + 1 < upto ? stream->done + 1 : upto);
    return stream->done >= upto ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    shim_lock();
    cudaError_t error = shim_note(query(stream_of(stream), stream_of(stream)->given));
    shim_unlock();
    return error;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*run)(void *), void *data)
{
    shim_lock();
    struct work *w = new_work(WORK_HOST, NULL, 0);
    w->call = run;
    w->to = data;
    cudaError_t error = shim_note(give(stream, w));
    shim_unlock();
    return error;
}

/* ---- events ---------------------------------------------------------------------------------- */

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    (void)flags;
    *event = NULL;
    shim_lock();
    cudaError_t error = shim_note(cudaSuccess);
    if (error == cudaSuccess) {
        *event = (struct shim_event *)calloc(1, sizeof **event);
        (*event)->stream = &r.null_stream;
    }
    shim_unlock();
    return error;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    if (event == NULL)
        return cudaErrorInvalidResourceHandle;
    shim_lock();
    run_until(event->stream, event->upto);
    free(event);
    cudaError_t error = shim_note(cudaSuccess);
    shim_unlock();
    return error;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle)
{
    shim_lock();
    struct shim_stream *stream = stream_of(handle);
    cudaError_t error = cudaSuccess;
    event->capture = stream->capture;
    if (stream->capture == NULL) {
        struct work *w = new_work(WORK_RECORD, NULL, 0);
        w->event = event;
        event->stream = stream;
        event->upto = stream->given + 1;
        error = give(handle, w);
    }
    error = shim_note(error);
    shim_unlock();
    return error;
}

/* Waiting for an event of a capture makes the stream part of it. */
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned flags)
{
    (void)flags;
    shim_lock();
    struct shim_stream *stream = stream_of(handle);
    cudaError_t error = cudaSuccess;
    if (event->capture != NULL) {
        r.capturing += stream->capture == NULL;
        stream->capture = event->capture;
    } else {
        struct work *w = new_work(WORK_WAIT, NULL, 0);
        w->stream = event->stream;
        w->upto = event->upto;
        error = give(handle, w);
    }
    error = shim_note(error);
    shim_unlock();
    return error;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    shim_lock();
    shim_device.counts.waits++;
    run_until(event->stream, event->upto);
    cudaError_t error = shim_note(cudaSuccess);
    shim_unlock();
    return error;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    shim_lock();
    cudaError_t error = shim_note(query(event->stream, event->upto));
    shim_unlock();
    return error;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    shim_lock();
    bool done = start->stream->done >= start->upto && end->stream->done >= end->upto;
    *ms = done ? (float)(end->ms - start->ms) : 0;
    cudaError_t error = shim_note(done ? cudaSuccess : cudaErrorNotReady);
    shim_unlock();
    return error;
}

/* ---- graphs ---------------------------------------------------------------------------------- */

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    (void)mode;
    shim_lock();
    cudaError_t error = shim_usable();
    if (error == cudaSuccess && stream == NULL)
        error = cudaErrorStreamCaptureUnsupported;
    if (error == cudaSuccess && stream->capture != NULL)
        error = cudaErrorInvalidValue;
    if (error == cudaSuccess) {
        stream->capture = (struct shim_graph *)calloc(1, sizeof *stream->capture);
        r.capturing++;
    }
    error = shim_note(error);
    shim_unlock();
    return error;
}

/* Ends the capture of stream and of those that joined it. */
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    shim_lock();
    *graph = NULL;
    struct shim_graph *captured = stream->capture;
    cudaError_t error = captured == NULL ? cudaErrorInvalidValue : cudaSuccess;
    for (struct shim_stream *s = r.streams; s != NULL && captured != NULL; s = s->next) {
        if (s->capture == captured) {
            s->capture = NULL;
            r.capturing--;
        }
    }
    if (captured != NULL && captured->invalid) {
        error = cudaErrorStreamCaptureInvalidated;
        free_list(&captured->work);
        free(captured);
    } else {
        *graph = captured;
    }
    error = shim_note(error);
    shim_unlock();
    return error;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    shim_lock();
    const struct shim_graph *graph = stream_of(stream)->capture;
    *status = graph == NULL    ? cudaStreamCaptureStatusNone
              : graph->invalid ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
    cudaError_t error = shim_note(cudaSuccess);
    shim_unlock();
    return error;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    *exec = NULL;
    shim_lock();
    cudaError_t error = graph == NULL ? cudaErrorInvalidValue : shim_usable();
    if (error == cudaSuccess) {
        *exec = (struct shim_graph_exec *)calloc(1, sizeof **exec);
        copy_list(&(*exec)->work, &graph->work);
    }
    error = shim_note(error);
    shim_unlock();
    return error;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *exec, cudaGraph_t graph,
                                          unsigned long long flags)
{
    return cudaGraphInstantiate(exec, graph, flags);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, void *nodes, size_t *n)
{
    if (nodes != NULL)
        return cudaErrorNotSupported;
    *n = graph->work.n;
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    (void)exec;
    (void)stream;
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    shim_lock();
    struct work *w = new_work(WORK_GRAPH, NULL, 0);
    w->graph = exec;
    shim_device.counts.graph_launches++;
    cudaError_t error = shim_note(give(stream, w));
    shim_unlock();
    return error;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    if (exec == NULL)
        return cudaErrorInvalidValue;
    shim_lock();
    shim_drain_all();
    free_list(&exec->work);
    free(exec);
    cudaError_t error = shim_note(cudaSuccess);
    shim_unlock();
    return error;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    if (graph == NULL)
        return cudaErrorInvalidValue;
    free_list(&graph->work);
    free(graph);
    return cudaSuccess;
}

void shim_free_streams(void)
{
    while (r.streams != NULL) {
        struct shim_stream *stream = r.streams;
        r.streams = stream->next;
        free_list(&stream->work);
        free(stream);
    }
    r.capturing = 0;
}
