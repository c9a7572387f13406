/* par.h - the one way to use several threads: par_for() on a pool of them.
 *
 * par_for calls body(arg, begin, end, part) once for each of `threads` parts; part p is the range
 * [n * p / threads, n * (p + 1) / threads), empty ones are left out, and all are done when par_for
 * returns. The split depends on n and threads alone. Which thread takes a part does not: the caller
 * and the pool's threads take the next one that nobody has begun, so that the caller never waits
 * for a thread that the system does not run. No two parts of a call share a number, so that
 * `part` may index scratch.
 *
 * Threads without work spin for some ten microseconds, then sleep. A pool serves one call at a
 * time: a call from within a body, or from another thread meanwhile, runs its parts one by one
 * in the thread that calls. So does a process forked from the one that opened the pool, for threads
 * do not survive a fork; it may close its copy. The pool's threads take no signals but those that
 * their own instructions raise. */
#ifndef MLL_PAR_H
#define MLL_PAR_H

#include "base.h"

#ifdef __cplusplus
extern "C" {
#endif

struct par;

typedef void par_fn(void *arg, size_t begin, size_t end, int part);

/* A pool for calls of up to `threads` threads, the caller among them; 1 to PAR_MOST. Threads that
 * the system refuses are done without. MLL_ERR_NO_MEMORY. */
enum { PAR_MOST = 1024 };
enum mll_status par_open(struct par **par, int threads, struct mll_error *err);
void par_close(struct par *par); /* NULL is allowed */

/* threads may be anything from 1 to PAR_MOST, whatever the pool has. par NULL: no pool, the caller
 * runs all. */
void par_for(struct par *par, int threads, size_t n, par_fn *body, void *arg);

/* The same on threads of its own, started and ended by the call: for work of milliseconds. */
void par_once(int threads, size_t n, par_fn *body, void *arg);

#ifdef __cplusplus
}
#endif

#endif
