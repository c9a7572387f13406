/* ratio.c - quotients of measurements and their interval.  See ratio.h. */
#include "ratio.h"

#include <math.h>
#include <stdlib.h>

enum { COUNTED = 50 };
static const double z_of_half_alpha = 2.5758293; /* a normal's quantile of 1 - ALPHA / 2 */

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* The largest k with P(U < k) <= ALPHA / 2. The chances of U are the coefficients of the product
 * over i of (1 - q^(m + i)) / (1 - q^i), each factor divided by its sum, (m + i) / i. */
static size_t counted_limit(double *chance, size_t n, size_t m)
{
    size_t last = n * m, k = 0;
    double sum = 0;
    for (size_t u = 0; u <= last; u++)
        chance[u] = u == 0;
    for (size_t i = 1; i <= n; i++) {
        for (size_t u = last; u >= m + i; u--)
            chance[u] -= chance[u - m - i];
        for (size_t u = i; u <= last; u++)
            chance[u] += chance[u - i];
        for (size_t u = 0; u <= last; u++)
            chance[u] *= (double)i / (double)(m + i);
    }
    while (k < last && (sum += chance[k]) <= BENCH_RATIO_ALPHA / 2)
        k++;
    return k;
}

static size_t normal_limit(size_t n, size_t m)
{
    double all = (double)n * (double)m, spread = sqrt(all * (double)(n + m + 1) / 12);
    double k = all / 2 - z_of_half_alpha * spread;
    return k > 0 ? (size_t)k : 0;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bool bench_ratio(struct bench_ratio *out, const double *a, size_t n, const double *b, size_t m)
{
    size_t all = n * m;
    double *q = malloc((all + 1) * sizeof *q);
    *out = (struct bench_ratio){1, 0, INFINITY};
    if (q == NULL)
        return false;
    size_t k = n + m <= COUNTED ? counted_limit(q, smaller(n, m), n + m - smaller(n, m))
                                : normal_limit(n, m);
    for (size_t i = 0; i < all; i++)
        q[i] = b[i % m] / a[i / m];
    qsort(q, all, sizeof *q, by_value);
    out->ratio = sqrt(q[(all - 1) / 2] * q[all / 2]);
    if (k > 0) {
        out->low = q[k - 1];
        out->high = q[all - k];
    }
    free(q);
    return true;
}

enum bench_verdict bench_verdict(const struct bench_ratio *r)
{
    const double more = 1 + BENCH_RATIO_CHANGE;
    if (r->low > 1 && r->ratio >= more)
        return BENCH_FASTER;
    if (r->high < 1 && r->ratio <= 1 / more)
        return BENCH_SLOWER;
    return r->low > 1 / more && r->high < more ? BENCH_SAME : BENCH_NOISY;
}
