/* bench.h - what the benchmarks share: the clock, order statistics, the memory read beside which
 * everything that streams weights is measured. */
#ifndef MLL_BENCH_H
#define MLL_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "ops.h"

double bench_seconds(void); /* monotonic */
/* CPU time of the calling thread: what one thread needs, whatever else the machine does. */
double bench_thread_seconds(void);

/* Order statistics; nearest rank. */
struct bench_stats {
    double median, p10, p90;
};
struct bench_stats bench_stats(double *values, size_t n); /* sorts values */

/* Memory to be read at full speed: huge pages where the system gives them, filled with bf16 numbers
 * in [-1, 1). NULL where there is none; free() it. */
void *bench_weights(size_t bytes, uint64_t seed);

/* Reads data once with the given threads (AVX-512 loads where the CPU has them), each thread one
 * contiguous part as in par_for; returns GB/s (1e9) by the given clock. */
double bench_read_gb_s(int threads, const void *data, size_t bytes, double (*clock)(void));
/* Bytes that such a read should at least touch, so that no cache helps. */
#define BENCH_READ_BYTES ((size_t)1 << 31)

/* Copies the first half of such memory over the second with the given threads; GB/s, what is read
 * and what is written counted. */
double bench_copy_gb_s(int threads, void *data, size_t bytes);

/* What the threads reach together with multiply-adds in registers: float32, or where the CPU has
 * them the dot instructions of bf16 and int8; AVX-512 where there is it; in 1e12 operations a
 * second: the roof of everything that computes so. Some 30 ms. */
double bench_fma_tflop_s(int threads, enum mll_compute compute);

/* The clock of the core that this runs on, from a chain of additions of one cycle each: the best of
 * a few tries of a millisecond. Low where the machine throttles or something else has the core. */
double bench_clock_ghz(void);

#endif
