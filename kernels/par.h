/* par.h - the one way to use several threads: par_for().
 *
 * Calls body(arg, begin, end, thread) once a part; part `thread` of `threads` is the range
 * [n * thread / threads, n * (thread + 1) / threads), empty ranges are left out, the caller runs
 * parts too, and all are done when par_for returns. The split depends on n and threads alone.
 * With OpenMP parts go to its threads by static schedule; MLL_PTHREADS starts plain threads for
 * each call instead, which the thread sanitizer understands. */
#ifndef MLL_PAR_H
#define MLL_PAR_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

void par_for(int threads, size_t n, void (*body)(void *arg, size_t begin, size_t end, int thread),
             void *arg);

#ifdef __cplusplus
}
#endif

#endif
