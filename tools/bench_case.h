/* bench_case.h - checks, then times one op at one shape. */
#ifndef MLL_BENCH_CASE_H
#define MLL_BENCH_CASE_H

#include "op_case.h"

/* Times of a case. cold: weights or keys from memory (copies in turn, 256 MB of them; other ops on
 * the CPU after a read of as much; on a GPU they are as warm as they are small). warm: the same
 * call again at once, empty where one copy is more than any cache. */
struct bench_case {
    int most, least;     /* repetitions: at least `least`, then until they took a few seconds */
    double tolerance;    /* of the largest difference, by the largest expected magnitude; 0 for ops
                            whose bits are the same on all backends */
    const void *flush;   /* BENCH_READ_BYTES of memory; NULL: none */
    double *cold, *warm; /* (most) seconds */
    size_t n_cold, n_warm;
    double difference;
};

/* On an exec that was opened without scratch and for this case alone, since it keeps the weights.
 * First the result is compared with what the plain C form says (of up to three rows, the first, one
 * in the middle and the last; all of ops without rows): MLL_ERR_INTERNAL where it is further away
 * than the tolerance, and nothing is timed then. */
enum mll_status bench_case_run(struct bench_case *b, struct mll_exec *ex,
                               const struct op_shape *shape, struct mll_error *err);

#endif
