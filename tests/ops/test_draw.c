/* test_draw.c - op_warp and op_draw: filters against their definition, one exec against another by
 * bits, ids by their weights. That they do what HF does: tests/unit/test_sampler.c. */
#include <math.h>
#include <stdio.h>

#include "op_test.h"
#include "sample.h"

enum { POSITION = 12 };

static const struct draw_case {
    int dim, top_k;
    float temperature, top_p, min_p;
    int levels; /* scores are multiples of 1 / 8, this many: equals; 0: all different */
} cases[] = {
    {1, 0, 1, 1, 0, 0},         {19, 3, 1, 1, 0, 4},         {100, 0, 0.7f, 0.5f, 0, 0},
    {100, 7, 2, 0.9f, 0, 3},    {257, 0, 1, 1, 0.3f, 0},     {1000, 40, 0.6f, 0.8f, 0.01f, 0},
    {1000, 40, 3, 0.3f, 0, 5},  {4099, 500, 1, 0.95f, 0, 0}, {4099, 0, 5, 0.2f, 0.5f, 9},
    {9001, 0, 1, 0.9f, 0, 0},   {9001, 1, 1, 1, 0, 2},       {9001, 100000, 1, 0, 0, 2},
    {300, 0, 0, 0.5f, 0.5f, 0}, {300, 5, 1e-40f, 1, 0, 0},   {9001, 0, 1, 0.5f, 0, 1},
};
enum { CASES = sizeof cases / sizeof cases[0] };

/* Whether the filters keep id: an id drops where top_k others are strictly more likely, and where
 * those less likely, it and its equals of a higher id weigh no more than top-p lets go. */
static bool keeps(const float *y, int id, const struct draw_case *c)
{
    uint64_t total = 0, below = 0;
    int better = 0;
    float max = -INFINITY, least = -INFINITY; /* the top_k-th */
    for (int i = 0; i < c->dim; i++)
        max = y[i] > max ? y[i] : max;
    for (int i = 0; i < c->dim; i++)
        better += y[i] > y[id];
    if (y[id] == -INFINITY || (c->top_k > 0 && better >= c->top_k))
        return false;
    if (c->top_k > 0)
        for (int i = 0; i < c->dim; i++) {
            int rank = 0;
            for (int j = 0; j < c->dim && c->top_p < 1; j++)
                rank += y[j] > y[i];
            if (rank >= c->top_k)
                least = y[i] > least ? y[i] : least;
        }
    for (int i = 0; i < c->dim; i++) {
        uint64_t weight = c->top_k > 0 && y[i] <= least ? 0 : sample_weight(y[i], max);
        total += weight;
        below += y[i] < y[id] || (y[i] == y[id] && i >= id) ? weight : 0;
    }
    bool first = better == 0;
    for (int i = 0; i < id; i++)
        first &= y[i] != y[id];
    if (c->top_p < 1 && !first && below <= sample_droppable(c->top_p, total))
        return false;
    return c->min_p == 0 || !sample_below(sample_weight(y[id], max), c->min_p);
}

struct outcome {
    float *y;
    int32_t id[POSITION];
};

static void run(struct outcome *o, struct mll_exec *ex, const float *scores,
                const struct draw_case *c)
{
    size_t bytes = (size_t)c->dim * sizeof(float);
    float *dx = op_dev(ex, scores, bytes), *dy = op_dev(ex, o->y, bytes);
    for (int p = 0; p < POSITION; p++) {
        struct sample_row row = {.penalty = 1,
                                 .temperature = c->temperature,
                                 .top_k = c->top_k,
                                 .top_p = c->top_p,
                                 .min_p = c->min_p,
                                 .seed = 11,
                                 .position = (uint64_t)p};
        struct sample_out out = {0}, *d_out = op_dev(ex, &out, sizeof out);
        struct sample_row *d_row = op_dev(ex, &row, sizeof row);
        op_choose(ex, d_out, dx, 1, c->dim);
        op_warp(ex, dy, dx, d_row, d_out, 1, c->dim);
        op_draw(ex, d_out, dy, dx, d_row, 1, c->dim);
        op_back(ex, &out, d_out, sizeof out);
        o->id[p] = out.id;
        cr_assert(out.id >= 0 && out.id < c->dim && out.score == scores[out.id]);
    }
    op_back(ex, o->y, dy, bytes);
}

static float *make_scores(const struct draw_case *c)
{
    float *scores = op_floats((size_t)c->dim, 17, 6);
    for (int i = 0; i < c->dim && c->levels > 0; i++)
        scores[i] = (float)((i * 7 + 3) % c->levels) / 8;
    if (c->dim > 50)
        scores[c->dim / 3] = -INFINITY; /* banned */
    return scores;
}

static void check(const struct draw_case *c)
{
    float *scores = make_scores(c), *warped = malloc((size_t)c->dim * sizeof *warped);
    struct outcome first = {0}, o = {.y = op_floats((size_t)c->dim, 1, 1)};
    struct mll_exec *ex = NULL;
    bool draws = c->temperature > 0 && c->temperature > 1e-30f;
    for (int i = 0; i < c->dim; i++)
        warped[i] = scores[i] / c->temperature;
    while ((ex = op_each_exec(ex, 1 << 22)) != NULL) {
        op_fill(o.y, (size_t)c->dim, 1, 1);
        run(&o, ex, scores, c);
        if (first.y == NULL) {
            first = o;
            o.y = op_floats((size_t)c->dim, 1, 1);
            for (int i = 0; i < c->dim && draws && c->dim <= 300; i++)
                cr_expect((first.y[i] != -INFINITY) == keeps(warped, i, c),
                          "top_k %d, top_p %g, min_p %g, dim %d: id %d", c->top_k, (double)c->top_p,
                          (double)c->min_p, c->dim, i);
            for (int p = 0; p < POSITION && draws; p++)
                cr_expect(first.y[first.id[p]] == warped[first.id[p]]);
            continue;
        }
        size_t at = op_first_difference(o.y, first.y, (size_t)c->dim);
        cr_expect(at == (size_t)c->dim, "%s, dim %d: %g, not %g at %zu", exec_describe(ex), c->dim,
                  (double)o.y[at], (double)first.y[at], at);
        cr_expect(memcmp(o.id, first.id, sizeof o.id) == 0, "%s, dim %d: other ids",
                  exec_describe(ex), c->dim);
    }
    free(first.y);
    free(o.y);
    free(scores);
    free(warped);
}

Test(op_draw, filters_and_ids_are_those_of_the_definition_on_every_exec)
{
    for (int i = 0; i < CASES; i++)
        check(&cases[i]);
}

/* Ragged: a greedy row between two that draw. */
Test(op_draw, rows_do_not_touch_each_other)
{
    enum { DIM = 700, N = 3 };
    float *x = op_floats(N * DIM, 2, 3);
    struct mll_exec *ex = NULL;
    while ((ex = op_each_exec(ex, 1 << 20)) != NULL) {
        struct sample_row rows[N];
        struct sample_out out[N] = {{0}}, alone[N] = {{0}};
        float *y = op_floats(N * DIM, 3, 1);
        float *dx = op_dev(ex, x, N * DIM * sizeof *x), *dy = op_dev(ex, y, N * DIM * sizeof *y);
        for (int r = 0; r < N; r++)
            rows[r] = (struct sample_row){.penalty = 1,
                                          .temperature = r == 1 ? 0.0f : 1.5f,
                                          .top_p = 0.9f,
                                          .top_k = 50 * r,
                                          .seed = (uint64_t)r,
                                          .position = 5};
        struct sample_row *d_rows = op_dev(ex, rows, sizeof rows);
        struct sample_out *d_out = op_dev(ex, out, sizeof out);
        op_choose(ex, d_out, dx, N, DIM);
        op_warp(ex, dy, dx, d_rows, d_out, N, DIM);
        op_draw(ex, d_out, dy, dx, d_rows, N, DIM);
        op_back(ex, out, d_out, sizeof out);
        for (int r = 0; r < N; r++) {
            struct sample_out *one = op_dev(ex, &alone[r], sizeof *alone);
            op_choose(ex, one, dx + r * DIM, 1, DIM);
            op_warp(ex, dy, dx + r * DIM, d_rows + r, one, 1, DIM);
            op_draw(ex, one, dy, dx + r * DIM, d_rows + r, 1, DIM);
            op_back(ex, &alone[r], one, sizeof *alone);
            cr_expect(out[r].id == alone[r].id && out[r].total == alone[r].total, "%s, row %d",
                      exec_describe(ex), r);
            cr_expect(r != 1 || out[r].score == out[r].max);
        }
        free(y);
    }
    free(x);
}
