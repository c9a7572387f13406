/* lists.h - what the logit processors do to a row of scores, one source for the GPU and the CPU.
 *
 * Bias, then the penalty of the text, then the bans, each the share of one thread among `threads`,
 * with a barrier between; logits.cu runs them on the threads of a block, logits.c on one after the
 * other. Gathering and scattering scores by id is where other runtimes die of an id without a logit
 * row (the image token of Llama-3.2-Vision): here it is skipped and counted, unless `trap` asks for
 * the assert. Who includes this gives three functions first:
 *   lists_mark   sets a bit of a word, tells whether it was set, in one step
 *   lists_ban    makes a score -Inf, though others may do the same
 *   lists_trap   prints what a device assert prints and ends the kernel, or the process */
#ifndef MLL_LISTS_H
#define MLL_LISTS_H

#include "sample.h"

#define LISTS_THREADS 512

struct lists {
    float *score;    /* (dim) */
    uint32_t *marks; /* (dim / 32, rounded up) zero: ids that the text has penalised */
    const struct sample_row *row;
    int dim;
    int block; /* which row this is */
    bool trap;
};

LISTS_FN bool lists_has_row(const struct lists *l, int thread, int id, int line)
{
    if (id >= 0 && id < l->dim)
        return true;
    if (l->trap)
        lists_trap("kernels/lists.h", line, l->block, thread, id, l->dim);
    return false;
}
#define HAS_ROW(id) lists_has_row(l, thread, (id), __LINE__)

/* Each returns how many of its ids have no logit row. */
LISTS_FN uint32_t lists_bias(const struct lists *l, int thread, int threads)
{
    uint32_t skipped = 0;
    for (int i = thread; i < l->row->n_bias; i += threads) {
        int id = l->row->bias_ids[i];
        if (HAS_ROW(id))
            l->score[id] += l->row->bias[i];
        else
            skipped++;
    }
    return skipped;
}

/* Which of an id's places in the text penalises it makes no difference: the first to mark it. */
LISTS_FN uint32_t lists_penalty(const struct lists *l, int thread, int threads)
{
    uint32_t skipped = 0;
    for (int i = thread; i < l->row->n_text && l->row->penalty != 1.0f; i += threads) {
        int id = l->row->text[i];
        if (!HAS_ROW(id))
            skipped++;
        else if (!lists_mark(&l->marks[id / 32], 1u << id % 32))
            l->score[id] = sample_penalised(l->score[id], l->row->penalty);
    }
    return skipped;
}

LISTS_FN uint32_t lists_bans(const struct lists *l, int thread, int threads)
{
    uint32_t skipped = 0;
    for (int i = thread; i < l->row->n_banned; i += threads) {
        int id = l->row->banned[i];
        if (HAS_ROW(id))
            lists_ban(&l->score[id]);
        else
            skipped++;
    }
    return skipped;
}

#endif
