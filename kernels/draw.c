/* draw.c - temperature, filters and the draw on the CPU.  Contract: ops.h, arithmetic: sample.h.
 *
 * Top-k and top-p sort the ids by score: a radix sort, stable, three passes of 11 bits. */
#include "sample.h"

#include <math.h>
#include <string.h>

#include "backend.h"

/* Ids by score, most likely first, lower ids first among equals, as key << 32 | id; those of -Inf
 * are left out. */
struct ranking {
    float *y; /* scores by id */
    uint64_t *order, *spare;
    size_t n;
};

size_t sample_scratch_cpu(const struct mll_exec *ex, int n, int dim)
{
    (void)ex, (void)n;
    return 2 * ((size_t)dim * sizeof(uint64_t) + 64);
}

static void sort_scores(struct ranking *k, int dim)
{
    uint32_t starts[3][2048] = {0};
    size_t n = 0;
    for (int id = 0; id < dim; id++) {
        if (k->y[id] == -INFINITY)
            continue;
        uint32_t key = sample_key(k->y[id]);
        k->order[n++] = (uint64_t)key << 32 | (uint32_t)id;
        for (int pass = 0; pass < 3; pass++)
            starts[pass][key >> (11 * pass) & 2047]++;
    }
    k->n = n;
    for (int pass = 0; pass < 3; pass++) {
        uint32_t sum = 0;
        for (int digit = 0; digit < 2048; digit++) {
            uint32_t count = starts[pass][digit];
            starts[pass][digit] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++)
            k->spare[starts[pass][k->order[i] >> (32 + 11 * pass) & 2047]++] = k->order[i];
        uint64_t *swap = k->order;
        k->order = k->spare;
        k->spare = swap;
    }
}

static float *score_at(const struct ranking *k, size_t rank)
{
    return &k->y[(uint32_t)k->order[rank]];
}

/* Keeps the first top_k ids and the equals of the last of them. */
static void keep_top_k(struct ranking *k, size_t top_k)
{
    if (top_k == 0 || top_k >= k->n)
        return;
    while (top_k < k->n && *score_at(k, top_k) == *score_at(k, top_k - 1))
        top_k++;
    for (size_t i = top_k; i < k->n; i++)
        *score_at(k, i) = -INFINITY;
    k->n = top_k;
}

/* Drops the least likely while their weights sum to no more than top-p allows; never the first. */
static void keep_top_p(struct ranking *k, float top_p)
{
    float max = *score_at(k, 0);
    uint64_t total = 0, sum = 0;
    for (size_t i = 0; i < k->n; i++)
        total += sample_weight(*score_at(k, i), max);
    uint64_t droppable = sample_droppable(top_p, total);
    for (size_t i = k->n; i-- > 1;) {
        sum += sample_weight(*score_at(k, i), max);
        if (sum > droppable)
            return;
        *score_at(k, i) = -INFINITY;
    }
}

static void warp_row(struct ranking *k, const float *scores, const struct sample_row *row,
                     float max, int dim)
{
    for (int id = 0; id < dim; id++)
        k->y[id] = scores[id] / row->temperature;
    if (row->top_k > 0 || row->top_p < 1.0f) {
        sort_scores(k, dim);
        keep_top_k(k, (size_t)row->top_k);
        if (row->top_p < 1.0f)
            keep_top_p(k, row->top_p);
    }
    if (row->min_p > 0.0f)
        for (int id = 0; id < dim; id++)
            if (sample_below(sample_weight(k->y[id], max), row->min_p))
                k->y[id] = -INFINITY;
}

void warp_cpu(struct mll_exec *ex, float *y, const float *scores, const struct sample_row *rows,
              const struct sample_out *out, int n, int dim)
{
    size_t mark = exec_mark(ex);
    struct ranking k = {.order = exec_alloc(ex, (size_t)dim * sizeof *k.order),
                        .spare = exec_alloc(ex, (size_t)dim * sizeof *k.spare)};
    for (int r = 0; r < n; r++, y += dim, scores += dim) {
        k.y = y;
        if (sample_draws(&rows[r], out[r].max))
            warp_row(&k, scores, &rows[r], out[r].max / rows[r].temperature, dim);
    }
    exec_release(ex, mark);
}

/* The sum exceeds the target, which is below the total, at an id of some weight. */
static int draw_row(const float *y, const struct sample_row *row, float max, int dim)
{
    uint64_t total = 0, sum = 0;
    int id = 0;
    for (int i = 0; i < dim; i++)
        total += sample_weight(y[i], max);
    uint64_t target = sample_target(row->seed, row->position, total);
    while (id < dim - 1 && (sum += sample_weight(y[id], max)) <= target)
        id++;
    return id;
}

void draw_cpu(struct mll_exec *ex, struct sample_out *out, const float *y, const float *scores,
              const struct sample_row *rows, int n, int dim)
{
    (void)ex;
    for (int r = 0; r < n; r++, y += dim, scores += dim) {
        if (!sample_draws(&rows[r], out[r].max))
            continue;
        out[r].id = draw_row(y, &rows[r], out[r].max / rows[r].temperature, dim);
        out[r].score = scores[out[r].id];
    }
}
