/* logits.c - logits hashed, processed and the most likely chosen, on the CPU.  Contract: ops.h,
 * arithmetic: sample.h. One row at a time: rows are few. */
#include "sample.h"

#include <math.h>
#include <string.h>

#include "backend.h"

void hash_rows_cpu(struct mll_exec *ex, struct sample_out *out, const float *x, int n, int dim)
{
    (void)ex;
    for (int r = 0; r < n; r++, x += dim) {
        uint64_t hash = 0;
        int bad = -1;
        for (int i = 0; i < dim; i++)
            hash += sample_hash((uint32_t)i, x[i]);
        for (int i = 0; i < dim && bad < 0; i++)
            if (!sample_is_finite(x[i]))
                bad = i;
        out[r].hash = hash;
        out[r].not_finite = bad;
    }
}

/* ---- processors ------------------------------------------------------------------------------ */

#define LISTS_FN static inline

LISTS_FN bool lists_mark(uint32_t *word, uint32_t bit)
{
    bool was = (*word & bit) != 0;
    *word |= bit;
    return was;
}

LISTS_FN void lists_ban(float *score)
{
    *score = -INFINITY;
}

LISTS_FN void lists_trap(const char *file, int line, int block, int thread, int index, int bound)
{
    mll_index_failed(file, line, block, thread, index, bound);
}

#include "lists.h"

/* The block of threads that a GPU would give the row, one thread after the other. */
static uint32_t run_lists(const struct lists *l)
{
    static uint32_t (*const phases[])(const struct lists *, int, int) = {lists_bias, lists_penalty,
                                                                         lists_bans};
    uint32_t skipped = 0;
    for (int phase = 0; phase < 3; phase++)
        for (int thread = 0; thread < LISTS_THREADS; thread++)
            skipped += phases[phase](l, thread, LISTS_THREADS);
    return skipped;
}

void process_cpu(struct mll_exec *ex, float *y, struct sample_out *out, const float *x,
                 const struct sample_row *rows, int n, int dim)
{
    size_t mark = exec_mark(ex), words = ((size_t)dim + 31) / 32;
    uint32_t *marks = exec_alloc(ex, words * sizeof *marks);
    for (int r = 0; r < n; r++, x += dim, y += dim) {
        struct lists l = {y, marks, &rows[r], dim, r, ex->trap};
        if (y != x)
            memcpy(y, x, (size_t)dim * sizeof *y);
        memset(marks, 0, words * sizeof *marks);
        out[r].skipped = run_lists(&l);
    }
    exec_release(ex, mark);
}

/* ---- the choice ------------------------------------------------------------------------------ */

static uint64_t total_weight(const float *x, float max, int dim)
{
    uint64_t total = 0;
    for (int i = 0; i < dim; i++)
        total += sample_weight(x[i], max);
    return total;
}

static int most_likely(const float *x, int dim)
{
    float best = -INFINITY;
    int at = 0;
    for (int i = 0; i < dim; i++)
        if (x[i] > best) {
            best = x[i];
            at = i;
        }
    return at;
}

void choose_cpu(struct mll_exec *ex, struct sample_out *out, const float *scores, int n, int dim)
{
    (void)ex;
    for (int r = 0; r < n; r++, scores += dim) {
        int id = most_likely(scores, dim);
        float max = scores[id];
        out[r].id = id;
        out[r].score = max;
        out[r].max = max;
        out[r].total = sample_is_finite(max) ? total_weight(scores, max, dim) : 0;
    }
}

void log_probs_cpu(struct mll_exec *ex, float *y, const float *x, int n, int dim)
{
    (void)ex;
    for (int r = 0; r < n; r++, x += dim, y += dim) {
        float max = x[most_likely(x, dim)];
        double log_total = sample_log(total_weight(x, max, dim));
        for (int i = 0; i < dim; i++)
            y[i] = (float)((double)x[i] - (double)max - log_total);
    }
}
