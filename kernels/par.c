/* par.c - par_for() by OpenMP, by pthreads (MLL_PTHREADS), or in a plain loop.  See par.h. */
#include "par.h"

#include <stdbool.h>

struct job {
    void (*body)(void *arg, size_t begin, size_t end, int thread);
    void *arg;
    size_t n;
    int threads;
};

static size_t part_begin(const struct job *job, int part)
{
    size_t whole = job->n / (size_t)job->threads, rest = job->n % (size_t)job->threads;
    return whole * (size_t)part + rest * (size_t)part / (size_t)job->threads;
}

static void run_part(const struct job *job, int part)
{
    size_t begin = part_begin(job, part), end = part_begin(job, part + 1);
    if (begin < end)
        job->body(job->arg, begin, end, part);
}

#ifdef MLL_PTHREADS
#include <pthread.h>

struct part {
    const struct job *job;
    pthread_t thread;
    int index;
    bool started;
};

static void *part_main(void *arg)
{
    struct part *part = arg;
    run_part(part->job, part->index);
    return NULL;
}

/* Parts that get no thread run in the caller. */
static void run_parts(const struct job *job)
{
    struct part parts[64];
    int n = job->threads < 64 ? job->threads : 64;
    for (int i = 1; i < n; i++) {
        parts[i] = (struct part){.job = job, .index = i};
        parts[i].started = pthread_create(&parts[i].thread, NULL, part_main, &parts[i]) == 0;
    }
    run_part(job, 0);
    for (int i = n; i < job->threads; i++)
        run_part(job, i);
    for (int i = 1; i < n; i++) {
        if (parts[i].started)
            pthread_join(parts[i].thread, NULL);
        else
            run_part(job, i);
    }
}
#else
static void run_parts(const struct job *job)
{
    int threads = job->threads;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int i = 0; i < threads; i++)
        run_part(job, i);
}
#endif

void par_for(int threads, size_t n, void (*body)(void *arg, size_t begin, size_t end, int thread),
             void *arg)
{
    struct job job = {.body = body, .arg = arg, .n = n, .threads = threads};
    if (threads <= 1 || n <= 1) {
        if (n > 0)
            body(arg, 0, n, 0);
        return;
    }
    run_parts(&job);
}
