/* par.c - a pool of threads that take the parts of a loop.  See par.h.
 *
 * A call is announced by three words: `ticket` holds how many parts there are and how many have
 * been begun, `left` how many are not done yet, and `call` counts the calls, for the threads that
 * sleep on it. A thread owns a part when its compare-and-swap has counted it; the job cannot
 * change before that part is done. A ticket seen in an earlier call does no harm: should the swap
 * succeed, the part is one of the present call. */
#include "par.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Looks at a word before sleeping on it: some 50 us. */
enum { SPINS = 2000, PARTS_SHIFT = 16 };

struct job {
    par_fn *body;
    void *arg;
    size_t n;
    int parts;
};

struct par {
    int n_threads; /* started; the caller not counted */
    pid_t owner;
    struct job job;
    atomic_bool busy, ending;
    /* a cache line for the caller's words, one for the threads' */
    _Alignas(64) atomic_uint ticket;
    atomic_uint call, sleepers;
    _Alignas(64) atomic_uint left;
    atomic_bool caller_sleeps;
    pthread_t threads[];
};

/* ---- waiting --------------------------------------------------------------------------------- */

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void futex_wait(atomic_uint *word, unsigned value)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void await_call(struct par *p, unsigned seen)
{
    for (int i = 0; i < SPINS; i++, relax())
        if (atomic_load_explicit(&p->call, memory_order_acquire) != seen)
            return;
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->call) == seen)
        futex_wait(&p->call, seen);
    atomic_fetch_sub(&p->sleepers, 1);
}

static void announce(struct par *p)
{
    atomic_fetch_add(&p->call, 1);
    if (atomic_load(&p->sleepers) > 0)
        futex_wake(&p->call);
}

static void await_parts(struct par *p)
{
    unsigned left = 0;
    for (int i = 0; i < SPINS; i++, relax())
        if (atomic_load_explicit(&p->left, memory_order_acquire) == 0)
            return;
    atomic_store(&p->caller_sleeps, true);
    while ((left = atomic_load(&p->left)) != 0)
        futex_wait(&p->left, left);
    atomic_store(&p->caller_sleeps, false);
}

/* ---- parts ----------------------------------------------------------------------------------- */

static size_t part_begin(const struct job *job, int part)
{
    size_t parts = (size_t)job->parts, whole = job->n / parts, rest = job->n % parts;
    return whole * (size_t)part + rest * (size_t)part / parts;
}

static void run_part(const struct job *job, int part)
{
    size_t begin = part_begin(job, part), end = part_begin(job, part + 1);
    if (begin < end)
        job->body(job->arg, begin, end, part);
}

/* Takes and runs parts until all have been begun. */
static void run_parts(struct par *p)
{
    unsigned ticket = atomic_load_explicit(&p->ticket, memory_order_relaxed);
    for (;;) {
        unsigned part = ticket & ((1u << PARTS_SHIFT) - 1);
        if (part >= ticket >> PARTS_SHIFT)
            return;
        if (!atomic_compare_exchange_weak_explicit(&p->ticket, &ticket, ticket + 1,
                                                   memory_order_acquire, memory_order_relaxed))
            continue;
        run_part(&p->job, (int)part);
        if (atomic_fetch_sub(&p->left, 1) == 1 && atomic_load(&p->caller_sleeps))
            futex_wake(&p->left);
        ticket = atomic_load_explicit(&p->ticket, memory_order_relaxed);
    }
}

static void *thread_main(void *arg)
{
    struct par *p = arg;
    for (unsigned seen = 0;;) {
        await_call(p, seen);
        seen = atomic_load(&p->call);
        if (atomic_load(&p->ending))
            return NULL;
        run_parts(p);
    }
}

void par_for(struct par *p, int threads, size_t n, par_fn *body, void *arg)
{
    MLL_ASSERT(threads >= 1 && threads <= PAR_MOST);
    struct job job = {.body = body, .arg = arg, .n = n, .parts = threads};
    if (threads == 1 || n <= 1) {
        if (n > 0)
            body(arg, 0, n, 0);
        return;
    }
    if (p == NULL || atomic_exchange(&p->busy, true)) {
        for (int i = 0; i < threads; i++)
            run_part(&job, i);
        return;
    }
    p->job = job;
    atomic_store(&p->left, (unsigned)threads);
    atomic_store(&p->ticket, (unsigned)threads << PARTS_SHIFT);
    announce(p);
    run_parts(p);
    await_parts(p);
    atomic_store(&p->busy, false);
}

/* ---- open, close ----------------------------------------------------------------------------- */

/* Signals from outside go to the threads of the program; a fault is its thread's own. */
static void block_signals(sigset_t *before)
{
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t set;
    sigfillset(&set);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        sigdelset(&set, own[i]);
    pthread_sigmask(SIG_SETMASK, &set, before);
}

enum mll_status par_open(struct par **par, int threads, struct mll_error *err)
{
    MLL_ASSERT(threads >= 1 && threads <= PAR_MOST);
    const size_t most = (size_t)threads - 1, line = _Alignof(struct par);
    size_t bytes = (sizeof **par + most * sizeof *(*par)->threads + line - 1) / line * line;
    struct par *p = *par = aligned_alloc(line, bytes);
    if (p == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %d threads", threads);
    *p = (struct par){.owner = getpid()};
    sigset_t before;
    block_signals(&before);
    while (p->n_threads < (int)most &&
           pthread_create(&p->threads[p->n_threads], NULL, thread_main, p) == 0)
        p->n_threads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return MLL_OK;
}

void par_close(struct par *p)
{
    if (p == NULL)
        return;
    atomic_store(&p->ending, true);
    announce(p);
    for (int i = 0; i < p->n_threads && p->owner == getpid(); i++)
        pthread_join(p->threads[i], NULL);
    free(p);
}

void par_once(int threads, size_t n, par_fn *body, void *arg)
{
    struct par *p = NULL;
    struct mll_error err;
    if (threads > 1 && n > 1)
        par_open(&p, threads, &err); /* without memory the caller does it all */
    par_for(p, threads, n, body, arg);
    par_close(p);
}
