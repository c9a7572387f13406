/* exec_graph.cu - exec_repeat on a GPU: what repeats becomes a CUDA graph, one launch instead of
 * hundreds.  Contract: ops.h.
 *
 * The first time a key is met its ops just run: that loads their kernels, which a recording cannot
 * do. The second time they are recorded and the recording is launched; from then on it is launched
 * without calling. Where recording fails (a driver or a debugger that cannot) ops run as they are.
 * The least recently used graph goes when there are too many. */
#ifndef __CUDACC_RTC__
#include "exec_cuda.h"

#include <string.h>

static void graph_free(struct exec_graph *g)
{
    if (g->graph != NULL)
        cudaGraphExecDestroy(g->graph);
    memset(g, 0, sizeof *g);
}

void graphs_close(struct exec_cuda *e)
{
    for (int i = 0; i < EXEC_GRAPHS; i++)
        graph_free(&e->graphs[i]);
}

/* The entry of a key; *met: it was asked for before. */
static struct exec_graph *graph_find(struct exec_cuda *e, const void *key, size_t size, bool *met)
{
    struct exec_graph *oldest = &e->graphs[0];
    MLL_ASSERT(size > 0 && size <= GRAPH_KEY);
    *met = true;
    for (int i = 0; i < EXEC_GRAPHS; i++) {
        struct exec_graph *g = &e->graphs[i];
        if (g->size == size && memcmp(g->key, key, size) == 0) {
            g->age = ++e->graph_clock;
            return g;
        }
        if (g->age < oldest->age)
            oldest = g;
    }
    *met = false;
    graph_free(oldest);
    memcpy(oldest->key, key, size);
    oldest->size = size;
    oldest->age = ++e->graph_clock;
    return oldest;
}

/* Records ops. g->graph stays NULL where that failed, and no error is left behind: the ops did not
 * run and can be called again. */
static enum mll_status graph_record(struct exec_cuda *e, struct exec_graph *g,
                                    enum mll_status (*ops)(void *arg), void *arg)
{
    cudaGraph_t graph = NULL;
    if (cudaStreamBeginCapture(e->stream, cudaStreamCaptureModeThreadLocal) != cudaSuccess) {
        cudaGetLastError();
        return MLL_OK;
    }
    enum mll_status status = ops(arg);
    cudaError_t error = cudaStreamEndCapture(e->stream, &graph);
    if (error == cudaSuccess && e->error == cudaSuccess && status == MLL_OK)
        error = cudaGraphInstantiateWithFlags(&g->graph, graph, 0);
    if (error != cudaSuccess)
        g->graph = NULL;
    if (graph != NULL)
        cudaGraphDestroy(graph);
    cudaGetLastError();
    e->error = cudaSuccess;
    return status;
}

enum mll_status repeat_cuda(struct mll_exec *ex, const void *key, size_t size,
                            enum mll_status (*ops)(void *arg), void *arg)
{
    struct exec_cuda *e = exec_cuda(ex);
    bool met;
    if (e->options.debug_sync || e->no_graphs || e->error != cudaSuccess)
        return ops(arg);
    cudaSetDevice(e->options.device);
    struct exec_graph *g = graph_find(e, key, size, &met);
    if (!met)
        return ops(arg);
    if (g->graph == NULL) {
        enum mll_status status = graph_record(e, g, ops, arg);
        if (status != MLL_OK)
            return status;
        if (g->graph == NULL) {
            e->no_graphs = true;
            return ops(arg);
        }
    }
    cudaGraphLaunch(g->graph, e->stream);
    launched(ex, "a graph");
    return MLL_OK;
}
#endif
