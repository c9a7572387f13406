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

/* Whether the id of a list has a logit row; counts it otherwise. */
static bool has_row(struct sample_out *out, int32_t id, int dim)
{
    bool inside = id >= 0 && id < dim;
    out->skipped += !inside;
    return inside;
}

/* marks (dim) zero, and again afterwards. */
static void penalise(float *y, struct sample_out *out, const struct sample_row *row, uint8_t *marks,
                     int dim)
{
    memset(marks, 0, (size_t)dim);
    for (int i = 0; i < row->n_text; i++) {
        int32_t id = row->text[i];
        if (!has_row(out, id, dim) || marks[id])
            continue;
        marks[id] = 1;
        y[id] = sample_penalised(y[id], row->penalty);
    }
}

void process_cpu(struct mll_exec *ex, float *y, struct sample_out *out, const float *x,
                 const struct sample_row *rows, int n, int dim)
{
    size_t mark = exec_mark(ex);
    uint8_t *marks = exec_alloc(ex, (size_t)dim);
    for (int r = 0; r < n; r++, x += dim, y += dim) {
        const struct sample_row *row = &rows[r];
        if (y != x)
            memcpy(y, x, (size_t)dim * sizeof *y);
        out[r].skipped = 0;
        for (int i = 0; i < row->n_bias; i++)
            if (has_row(&out[r], row->bias_ids[i], dim))
                y[row->bias_ids[i]] += row->bias[i];
        if (row->penalty != 1.0f)
            penalise(y, &out[r], row, marks, dim);
        for (int i = 0; i < row->n_banned; i++)
            if (has_row(&out[r], row->banned[i], dim))
                y[row->banned[i]] = -INFINITY;
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
