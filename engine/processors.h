/* processors.h - the logits processors behind sampler.h, and the sampler's state. */
#ifndef MLL_PROCESSORS_H
#define MLL_PROCESSORS_H

#include "sampler.h"

struct sampler {
    int vocab_size;
    struct mll_sampling options; /* its arrays are the caller's */
    const int32_t *eos;
    size_t n_eos;
    uint64_t skipped;
    float *scores;           /* (vocab_size) after the processors */
    float *warped;           /* (vocab_size) after temperature and filters; NULL when greedy */
    uint8_t *marks;          /* (vocab_size) zero between calls */
    uint64_t *order, *spare; /* (vocab_size) for sorting; NULL when greedy */
};

/* smp->scores through all processors, in HF's order. */
void proc_apply(struct sampler *smp, const int32_t *ids, size_t n, size_t n_prompt);
/* smp->scores to smp->warped: temperature, top-k, top-p, min-p. best is the most likely id. False
 * where the temperature makes scores overflow. */
bool proc_warp(struct sampler *smp, int best);

#endif
