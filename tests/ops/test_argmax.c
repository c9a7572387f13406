/* test_argmax.c - op_argmax: ties, NaN, infinities. */
#include <math.h>

#include "op_test.h"

#define DIM 19

static const struct argmax_case {
    float at[3]; /* values at the places 4, 11 and 18; all others are -2 */
    int id;
    bool finite;
} cases[] = {
    {{-2, -2, -2}, 0, true},
    {{-1, 0, 1}, 18, true},
    {{3, 3, 3}, 4, true},
    {{-5, 7, 7}, 11, true},
    {{NAN, 1, 0}, 11, false},
    {{1, INFINITY, INFINITY}, 11, false},
    {{-INFINITY, -1, -2}, 11, true},
    {{NAN, NAN, NAN}, 0, false},
    {{0.0f, -0.0f, -1}, 4, true},
};

/* Every case many times: enough work for all threads. */
enum { CASES = sizeof cases / sizeof cases[0], N = 200 * CASES };

Test(op_argmax, takes_the_lowest_of_the_largest)
{
    static float x[N][DIM];
    for (int r = 0; r < N; r++) {
        for (int i = 0; i < DIM; i++)
            x[r][i] = -2;
        for (int i = 0; i < 3; i++)
            x[r][4 + 7 * i] = cases[r % CASES].at[i];
    }
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        static int32_t id[N];
        static uint8_t finite[N];
        int32_t *d_id = op_dev(ex, id, sizeof id);
        uint8_t *d_finite = op_dev(ex, finite, sizeof finite);
        op_argmax(ex, d_id, d_finite, op_dev(ex, x, sizeof x), N, DIM);
        op_back(ex, id, d_id, sizeof id);
        op_back(ex, finite, d_finite, sizeof finite);
        for (int r = 0; r < N; r++)
            cr_expect(id[r] == cases[r % CASES].id && finite[r] == cases[r % CASES].finite,
                      "%s: row %d gives %d, finite %d", exec_describe(ex), r, id[r], finite[r]);
    }
}

Test(op_argmax, a_row_without_a_number_gives_id_0)
{
    float x[] = {-INFINITY, -INFINITY, NAN, NAN};
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 0)) != NULL) {
        int32_t id[2] = {7, 7}, *d_id = op_dev(ex, id, sizeof id);
        uint8_t finite[2] = {0}, *d_finite = op_dev(ex, finite, sizeof finite);
        op_argmax(ex, d_id, d_finite, op_dev(ex, x, sizeof x), 2, 2);
        op_back(ex, id, d_id, sizeof id);
        op_back(ex, finite, d_finite, sizeof finite);
        cr_expect(id[0] == 0 && finite[0] == 1);
        cr_expect(id[1] == 0 && finite[1] == 0);
    }
}
