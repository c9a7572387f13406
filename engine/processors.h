/* processors.h - the logits processors behind sampler.h, and the sampler's state. */
#ifndef MLL_PROCESSORS_H
#define MLL_PROCESSORS_H

#include <string.h>

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

/* e^(score - max) for score <= max, 0 below e^-100: e^x = 2^n e^r with |r| <= ln(2) / 2, the series
 * of e^r to r^9 (1e-11 off). Plain double steps without a fused one: the same bits on every CPU,
 * and what a compiler can make of a loop over 128256 logits is four times as fast as fm_exp. */
static inline double smp_weight(float score, float max)
{
    static const double log2e = 0x1.71547652b82fep+0, ln2 = 0x1.62e42fefa39efp-1;
    static const double round =
        0x1.8p+52; /* adding it leaves the nearest integer in the low bits */
    double x = (double)score - (double)max;
    double t = x * log2e + round, r = x - (t - round) * ln2, scale;
    double p = 1.0 / 362880;
    p = p * r + 1.0 / 40320;
    p = p * r + 1.0 / 5040;
    p = p * r + 1.0 / 720;
    p = p * r + 1.0 / 120;
    p = p * r + 1.0 / 24;
    p = p * r + 1.0 / 6;
    p = p * r + 0.5;
    p = p * r + 1.0;
    p = p * r + 1.0;
    uint64_t bits;
    memcpy(&bits, &t, sizeof bits);
    bits = (bits + 1023) << 52;
    memcpy(&scale, &bits, sizeof scale);
    return x > -100.0 ? p * scale : 0.0;
}

/* smp->scores through all processors, in HF's order. */
void proc_apply(struct sampler *smp, const int32_t *ids, size_t n, size_t n_prompt);
/* smp->scores to smp->warped: temperature, top-k, top-p, min-p. best is the most likely id. False
 * where the temperature makes scores overflow. */
bool proc_warp(struct sampler *smp, int best);

#endif
