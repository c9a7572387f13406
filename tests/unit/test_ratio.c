/* test_ratio.c - how often bench compare is wrong, with simulated measurements. */
#include "ratio.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>

enum { TRIALS = 3000, MOST = 64 };

struct source {
    uint64_t state;
    double scatter; /* relative */
    int kind;       /* 0: normal, 1: its e-th power, 2: mostly close, one in ten far slower */
};

static double uniform(struct source *s)
{
    s->state = s->state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(s->state >> 12) + 0.5) * 0x1p-52;
}

static double measure(struct source *s)
{
    double z = sqrt(-2 * log(uniform(s))) * cos(6.283185307179586 * uniform(s));
    if (s->kind == 0)
        return fmax(1 + s->scatter * z, 0.01);
    if (s->kind == 1)
        return exp(s->scatter * z);
    return (1 + s->scatter * z / 10) * (uniform(s) < 0.1 ? 0.4 : 1);
}

/* The share of trials in which b, faster by factor, gets this verdict. */
static double share(struct source s, double factor, size_t n, size_t m, enum bench_verdict verdict)
{
    double a[MOST], b[MOST];
    struct bench_ratio r;
    int count = 0;
    for (int t = 0; t < TRIALS; t++) {
        for (size_t i = 0; i < n; i++)
            a[i] = measure(&s);
        for (size_t i = 0; i < m; i++)
            b[i] = factor * measure(&s);
        cr_assert(bench_ratio(&r, a, n, b, m));
        count += bench_verdict(&r) == verdict;
    }
    return (double)count / TRIALS;
}

static const size_t sizes[][2] = {{5, 5}, {4, 6}, {10, 7}, {25, 25}, {26, 26}};
enum { SIZES = sizeof sizes / sizeof *sizes };
/* three standard errors of TRIALS draws on top */
static const double one_percent = 0.01 + 0.0055, half_percent = 0.005 + 0.004;

Test(ratio, equal_sets_are_rarely_called_different)
{
    for (int kind = 0; kind < 3; kind++)
        for (int i = 0; i < SIZES; i++) {
            struct source s = {1, 0.2, kind};
            double wrong = share(s, 1, sizes[i][0], sizes[i][1], BENCH_FASTER) +
                           share(s, 1, sizes[i][0], sizes[i][1], BENCH_SLOWER);
            cr_assert_lt(wrong, one_percent, "kind %d, %zu and %zu: %g", kind, sizes[i][0],
                         sizes[i][1], wrong);
            cr_assert_gt(wrong, 0.002, "no test at all: kind %d, %zu and %zu: %g", kind,
                         sizes[i][0], sizes[i][1], wrong);
        }
}

Test(ratio, sets_that_differ_are_rarely_called_same)
{
    for (int kind = 0; kind < 3; kind++)
        for (int i = 0; i < SIZES; i++) {
            struct source s = {2, 0.008, kind};
            double wrong = share(s, 1.021, sizes[i][0], sizes[i][1], BENCH_SAME);
            cr_assert_lt(wrong, half_percent, "kind %d, %zu and %zu: %g", kind, sizes[i][0],
                         sizes[i][1], wrong);
        }
}

Test(ratio, clear_cases_are_told)
{
    struct source quiet = {3, 0.003, 0};
    cr_assert_gt(share(quiet, 1.05, 5, 5, BENCH_FASTER), 0.99);
    cr_assert_gt(share(quiet, 1 / 1.05, 5, 5, BENCH_SLOWER), 0.99);
    cr_assert_gt(share(quiet, 1, 5, 5, BENCH_SAME), 0.9);
    struct source loud = {4, 0.2, 0};
    cr_assert_gt(share(loud, 1, 5, 5, BENCH_NOISY), 0.95);
}

Test(ratio, interval_is_the_kth_quotient)
{
    const double a[] = {4, 4, 4, 4, 4}, b[] = {8, 6, 9, 7, 10};
    struct bench_ratio r;
    cr_assert(bench_ratio(&r, a, 5, b, 5)); /* P(U < 1) = 1 / 252, P(U < 2) = 2 / 252 */
    cr_assert_eq(r.ratio, 2);
    cr_assert_eq(r.low, 1.5);
    cr_assert_eq(r.high, 2.5);
}

Test(ratio, few_measurements_say_nothing)
{
    const double a[] = {1, 1.001, 1.002, 1.003}, b[] = {2, 2.001, 2.002, 2.003};
    struct bench_ratio r;
    cr_assert(bench_ratio(&r, a, 4, b, 4));
    cr_assert_eq(r.low, 0);
    cr_assert_eq(bench_verdict(&r), BENCH_NOISY);
}
