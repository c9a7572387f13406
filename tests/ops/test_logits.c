/* test_logits.c - op_hash_rows, op_process, op_choose, op_log_probs: the same bits on every exec.
 */
#include <math.h>
#include <signal.h>
#include <stdio.h>

#include "op_test.h"
#include "sample.h"
#ifdef MLL_SHIM
#include "shim_control.h"
#endif

/* 5000 is beyond what one block of threads takes at once. */
static const int dims[] = {1, 2, 19, 255, 1024, 5003};
enum { DIMS = sizeof dims / sizeof dims[0], ROWS = 3 };

static void run_hash(struct mll_exec *ex, struct sample_out *out, const float *x, int n, int dim)
{
    struct sample_out *d_out = op_dev(ex, out, (size_t)n * sizeof *out);
    op_hash_rows(ex, d_out, op_dev(ex, x, (size_t)(n * dim) * sizeof *x), n, dim);
    op_back(ex, out, d_out, (size_t)n * sizeof *out);
}

Test(op_hash_rows, is_a_sum_over_the_elements_and_names_the_first_that_is_not_finite)
{
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL)
        for (int d = 0; d < DIMS; d++) {
            int dim = dims[d];
            float *x = op_floats((size_t)(ROWS * dim), 3, 10);
            struct sample_out out[ROWS] = {{0}};
            x[dim + dim / 2] = bad[d % 3];
            x[dim + dim - 1] = bad[(d + 1) % 3];
            run_hash(ex, out, x, ROWS, dim);
            for (int r = 0; r < ROWS; r++) {
                uint64_t hash = 0;
                for (int i = dim; i-- > 0;)
                    hash += sample_hash((uint32_t)i, x[r * dim + i]);
                cr_expect(out[r].hash == hash && out[r].not_finite == (r == 1 ? dim / 2 : -1),
                          "%s, dim %d, row %d: id %d", exec_describe(ex), dim, r,
                          out[r].not_finite);
            }
            free(x);
        }
}

Test(op_hash_rows, tells_one_bit_and_one_place_from_another)
{
    struct sample_out out[4] = {{0}};
    float x[] = {1, 2, 3, 1, 3, 2, 1, 2, nextafterf(3, 4), -0.0f, 0.0f, 0.0f};
    struct mll_exec *ex = op_exec(1, MLL_ISA_AUTO, 0);
    op_hash_rows(ex, out, x, 4, 3);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < i; j++)
            cr_expect(out[i].hash != out[j].hash);
    exec_close(ex);
}

/* ---- processors ------------------------------------------------------------------------------ */

enum { TEXT = 700 };

struct lists {
    int32_t text[TEXT], bias_ids[5], banned[4];
    float bias[5];
};

/* Ids inside and, one in seven, outside [0, dim); distinct biases. */
static void make_lists(struct lists *l, int dim)
{
    for (int i = 0; i < TEXT; i++)
        l->text[i] = i % 7 == 3 ? dim + i % 3 : (i * 13 + 5) % dim;
    for (int i = 0; i < 5; i++) {
        l->bias_ids[i] = i == 2 ? -1 : i;
        l->bias[i] = (float)i - 1.5f;
    }
    l->banned[0] = dim - 1;
    l->banned[1] = INT32_MAX;
    l->banned[2] = INT32_MIN;
    l->banned[3] = dim - 1;
}

static uint32_t reference(float *y, const float *x, const struct lists *l,
                          const struct sample_row *row, int dim)
{
    uint32_t skipped = 0;
    for (int id = 0; id < dim; id++) {
        bool penalised = false;
        y[id] = x[id];
        for (int i = 0; i < row->n_bias; i++)
            y[id] += l->bias_ids[i] == id ? l->bias[i] : 0;
        for (int i = 0; i < row->n_text; i++)
            penalised |= l->text[i] == id;
        if (penalised)
            y[id] = y[id] < 0 ? y[id] * row->penalty : y[id] / row->penalty;
        for (int i = 0; i < row->n_banned; i++)
            if (l->banned[i] == id)
                y[id] = -INFINITY;
    }
    for (int i = 0; i < row->n_bias; i++)
        skipped += l->bias_ids[i] < 0 || l->bias_ids[i] >= dim;
    for (int i = 0; i < row->n_text && row->penalty != 1; i++)
        skipped += l->text[i] < 0 || l->text[i] >= dim;
    for (int i = 0; i < row->n_banned; i++)
        skipped += l->banned[i] < 0 || l->banned[i] >= dim;
    return skipped;
}

/* Row 0 has every list, row 1 a penalty that is none, row 2 nothing. */
static void make_rows(struct sample_row rows[ROWS], struct mll_exec *ex, const struct lists *l)
{
    struct lists *d = op_dev(ex, l, sizeof *l);
    memset(rows, 0, ROWS * sizeof *rows);
    for (int r = 0; r < ROWS; r++)
        rows[r] = (struct sample_row){.text = d->text,
                                      .bias_ids = d->bias_ids,
                                      .bias = d->bias,
                                      .banned = d->banned,
                                      .n_text = r < 2 ? TEXT : 0,
                                      .n_bias = r < 1 ? 5 : 0,
                                      .n_banned = r < 1 ? 4 : 0,
                                      .penalty = r == 1 ? 1.0f : 1.7f};
}

static void check_process(struct mll_exec *ex, int dim, bool in_place)
{
    struct lists l;
    struct sample_row rows[ROWS];
    struct sample_out out[ROWS] = {{0}};
    size_t bytes = (size_t)(ROWS * dim) * sizeof(float);
    float *x = op_floats((size_t)(ROWS * dim), 7, 5), *y = op_floats((size_t)(ROWS * dim), 8, 1);
    float *expected = malloc(bytes);
    make_lists(&l, dim);
    make_rows(rows, ex, &l);
    float *dx = op_dev(ex, x, bytes), *dy = in_place ? dx : op_dev(ex, y, bytes);
    for (int r = 0; r < ROWS; r++) /* before x may change */
        out[r].skipped = reference(expected + r * dim, x + r * dim, &l, &rows[r], dim);
    uint32_t skipped[ROWS] = {out[0].skipped, out[1].skipped, out[2].skipped};
    struct sample_out *d_out = op_dev(ex, out, sizeof out);
    op_process(ex, dy, d_out, dx, op_dev(ex, rows, sizeof rows), ROWS, dim);
    op_back(ex, in_place ? x : y, dy, bytes);
    op_back(ex, out, d_out, sizeof out);
    size_t at = op_first_difference(in_place ? x : y, expected, (size_t)(ROWS * dim));
    cr_expect(at == (size_t)(ROWS * dim), "%s, dim %d: element %zu", exec_describe(ex), dim, at);
    for (int r = 0; r < ROWS; r++)
        cr_expect(out[r].skipped == skipped[r], "%s, dim %d, row %d: %u skipped, not %u",
                  exec_describe(ex), dim, r, out[r].skipped, skipped[r]);
    cr_expect_eq(exec_take_fault(ex).op, OP_NONE);
    free(x);
    free(y);
    free(expected);
}

Test(op_process, equals_the_lists_one_by_one_and_counts_what_has_no_row)
{
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL)
        for (int d = 2; d < DIMS; d++)
            check_process(ex, dims[d], d % 2);
}

/* The smallest case of the assert that other runtimes end with: an id of 128256, as many rows. */
Test(op_process, the_image_token_of_an_11b_has_no_row_and_its_neighbour_has)
{
    enum { VOCAB = 128256 };
    static const int32_t text[] = {VOCAB, VOCAB - 1};
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
        float *x = op_floats(VOCAB, 1, 1);
        struct sample_row row = {
            .text = op_dev(ex, text, sizeof text), .n_text = 2, .penalty = 2.0f};
        struct sample_out out = {0}, *d_out = op_dev(ex, &out, sizeof out);
        float *dx = op_dev(ex, x, VOCAB * sizeof *x), last = fabsf(x[VOCAB - 1]), first = x[0];
        x[VOCAB - 1] = last;
        exec_upload(ex, dx, x, VOCAB * sizeof *x);
        op_process(ex, dx, d_out, dx, op_dev(ex, &row, sizeof row), 1, VOCAB);
        op_back(ex, x, dx, VOCAB * sizeof *x);
        op_back(ex, &out, d_out, sizeof out);
        cr_expect(x[VOCAB - 1] == last / 2 && x[0] == first && out.skipped == 1);
        free(x);
    }
}

static void process_outside(struct mll_exec *ex)
{
    static const int32_t text[] = {3, 7};
    float x[7] = {1, 2, 3, 4, 5, 6, 7}, *dx = op_dev(ex, x, sizeof x);
    struct sample_row row = {.text = op_dev(ex, text, sizeof text), .n_text = 2, .penalty = 2};
    struct sample_out out = {0};
    op_process(ex, dx, op_dev(ex, &out, sizeof out), dx, op_dev(ex, &row, sizeof row), 1, 7);
}

Test(op_process, an_id_without_a_row_ends_the_process_where_that_is_asked, .signal = SIGABRT)
{
    struct mll_exec *ex = op_exec(1, MLL_ISA_AUTO, 1 << 16);
    exec_trap_bounds(ex);
    process_outside(ex);
}

#ifdef MLL_SHIM /* on a card `mllama repro` does it in a child */
Test(op_process, an_id_without_a_row_ends_the_context_of_a_gpu_where_that_is_asked)
{
    struct exec_cuda_options options = {.debug_bounds = true};
    struct mll_exec *ex;
    struct mll_error err;
    cr_assert_eq(exec_open_cuda(&ex, &options, 1 << 16, &err), MLL_OK);
    cr_expect_eq(exec_take_error(ex, &err), MLL_OK);
    process_outside(ex);
    cr_expect_eq(exec_take_error(ex, &err), MLL_ERR_DEVICE);
    exec_close(ex);
    cr_expect(exec_open_cuda(&ex, &options, 1 << 16, &err) == MLL_ERR_DEVICE, "a lost context");
    shim_reset();
}
#endif

/* ---- the choice ------------------------------------------------------------------------------ */

#define DIM 19

static const struct choose_case {
    float at[3]; /* values at the places 4, 11 and 18; all others are -2 */
    int id;
} cases[] = {
    {{-2, -2, -2}, 0},         {{-1, 0, 1}, 18},       {{3, 3, 3}, 4},
    {{-5, 7, 7}, 11},          {{NAN, 1, 0}, 11},      {{1, INFINITY, INFINITY}, 11},
    {{-INFINITY, -1, -2}, 11}, {{0.0f, -0.0f, -1}, 4}, {{-80, -110, 30}, 18},
};
enum { CASES = sizeof cases / sizeof cases[0] };

Test(op_choose, takes_the_lowest_of_the_largest_and_sums_the_weights)
{
    float x[CASES + 1][DIM];
    for (int r = 0; r <= CASES; r++)
        for (int i = 0; i < DIM; i++)
            x[r][i] = r == CASES ? -INFINITY : i % 7 == 4 ? cases[r].at[i / 7] : -2;
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
        struct sample_out out[CASES + 1] = {{0}}, *d_out = op_dev(ex, out, sizeof out);
        op_choose(ex, d_out, op_dev(ex, x, sizeof x), CASES + 1, DIM);
        op_back(ex, out, d_out, sizeof out);
        for (int r = 0; r <= CASES; r++) {
            int id = r == CASES ? 0 : cases[r].id;
            uint64_t total = 0;
            for (int i = 0; i < DIM && isfinite(x[r][id]); i++)
                total += sample_weight(x[r][i], x[r][id]);
            cr_expect(out[r].id == id && out[r].max == x[r][id] && out[r].score == x[r][id] &&
                          out[r].total == total,
                      "%s: row %d gives %d", exec_describe(ex), r, out[r].id);
        }
    }
}

Test(op_choose, finds_the_only_peak_wherever_it_is)
{
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL)
        for (int d = 0; d < DIMS; d++) {
            int dim = dims[d];
            float *x = op_floats((size_t)dim, 9, 1);
            struct sample_out out = {0}, *d_out = op_dev(ex, &out, sizeof out);
            for (int at = 0; at < dim; at += 1 + dim / 23) {
                float was = x[at];
                x[at] = 2;
                op_choose(ex, d_out, op_dev(ex, x, (size_t)dim * sizeof *x), 1, dim);
                op_back(ex, &out, d_out, sizeof out);
                cr_expect(out.id == at, "%s, dim %d: %d, not %d", exec_describe(ex), dim, out.id,
                          at);
                x[at] = was;
            }
            free(x);
        }
}

Test(op_choose, weights_are_those_of_the_formula)
{
    for (int i = 0; i < 4000; i++) {
        float max = (float)(i % 7), score = max - (float)i * 0.01f;
        double expected = exp((double)score - (double)max);
        double weight = (double)sample_weight(score, max) / (double)SAMPLE_ONE;
        cr_expect(fabs(weight - expected) < 1e-11 * expected + 3e-14, "e^-%g: %g", i * 0.01,
                  weight);
    }
    cr_expect(sample_weight(3, 3) == SAMPLE_ONE && sample_weight(-INFINITY, 3) == 0 &&
              sample_weight(NAN, 3) == 0 && sample_weight(-3e38f, 3e38f) == 0);
}

Test(op_log_probs, equals_the_formula_on_every_exec)
{
    for (int d = 1; d < DIMS; d++) {
        size_t n = (size_t)(ROWS * dims[d]);
        float *x = op_floats(n, 4, 9), *y = op_floats(n, 5, 1), *first = NULL;
        double *expected = malloc(n * sizeof *expected);
        for (int r = 0; r < ROWS; r++) {
            const float *row = x + r * dims[d];
            double sum = 0;
            for (int i = 0; i < dims[d]; i++)
                sum += exp((double)row[i]);
            for (int i = 0; i < dims[d]; i++)
                expected[r * dims[d] + i] = (double)row[i] - log(sum);
        }
        struct mll_exec *ex = NULL;
        while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
            float *dy = op_dev(ex, y, n * sizeof *y);
            op_log_probs(ex, dy, op_dev(ex, x, n * sizeof *x), ROWS, dims[d]);
            op_back(ex, y, dy, n * sizeof *y);
            op_judge(&first, y, expected, n, 1e-13, 1e-13, ex, "log_probs");
        }
        free(first);
        free(expected);
        free(x);
        free(y);
    }
}
