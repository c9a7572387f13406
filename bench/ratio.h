/* ratio.h - by what factor two sets of measurements differ, and how sure that is.
 *
 * Nothing is assumed of how measurements scatter but that they are independent of each other. The
 * factor is Hodges and Lehmann's: the median of all n * m quotients b[j] / a[i]. Its interval is
 * Mann and Whitney's: from the k-th smallest to the k-th largest quotient, where k is the largest
 * number for which U < k has at most half of BENCH_RATIO_ALPHA's chance when both sets come from
 * one distribution; all orders of n + m measurements are then equally likely. So it leaves out the
 * true factor in at most one of 1 / BENCH_RATIO_ALPHA experiments. Up to 50 measurements the
 * chances are counted, beyond that U is taken as normal. */
#ifndef MLL_RATIO_H
#define MLL_RATIO_H

#include <stdbool.h>
#include <stddef.h>

#define BENCH_RATIO_ALPHA  0.01
#define BENCH_RATIO_CHANGE 0.02 /* less is not worth a word */

/* low 0 and high infinite: too few measurements to say anything (5 and 5, 4 and 6 are enough). */
struct bench_ratio {
    double ratio, low, high;
};

/* a (n), b (m): positive numbers, n and m at least 1. false where there is no memory. */
bool bench_ratio(struct bench_ratio *out, const double *a, size_t n, const double *b, size_t m);

/* faster, slower: the interval leaves out 1, and the factor is BENCH_RATIO_CHANGE or more apart
 *                 from it. Of equal sets at most BENCH_RATIO_ALPHA are called one or the other.
 * same:           the whole interval is closer to 1 than that. At most half of BENCH_RATIO_ALPHA
 *                 of sets that do differ so much are called that.
 * noisy:          neither can be said. */
enum bench_verdict { BENCH_SAME = 0, BENCH_FASTER, BENCH_SLOWER, BENCH_NOISY };
enum bench_verdict bench_verdict(const struct bench_ratio *r);

#endif
