/* sample.h - what choosing an id takes, the same in C and on a GPU: weights, keys, hash.
 *
 * Weights are fixed point, multiples of 2^-44, so that their sums are exact and have the same bits
 * whatever the order: all backends draw the same id from the same scores. What is lost is below
 * 3e-14 a weight, less than the error of the series; an id below e^-31 of the most likely one
 * weighs nothing. */
#ifndef MLL_SAMPLE_H
#define MLL_SAMPLE_H

#ifndef __CUDACC_RTC__
#include <math.h>
#endif

#include "half.h"
#include "philox.h"

/* The most logits of a row: with SAMPLE_BITS weights of 1 add up within 64 bits. */
#define SAMPLE_DIM_MAX (1 << 19)

/* What the ops need to know of a row; lies in the memory of the device, as do its lists. */
struct sample_row {
    const int32_t *text;     /* (n_text) what the penalty looks at; an id counts once */
    const int32_t *bias_ids; /* (n_bias) distinct */
    const float *bias;       /* (n_bias) */
    const int32_t *banned;   /* (n_banned) */
    int32_t n_text, n_bias, n_banned;
    int32_t top_k;           /* 0: none */
    float penalty;           /* 1: none */
    float temperature;       /* 0: the most likely id */
    float top_p, min_p;      /* 1 and 0: none */
    uint64_t seed, position; /* of the draw */
};

/* What they find out; each op fills its own part. */
struct sample_out {
    uint64_t hash;      /* op_hash_rows */
    int32_t not_finite; /* op_hash_rows: the lowest id whose logit is NaN or infinite, or -1 */
    uint32_t skipped;   /* op_process: list entries without a logit row */
    int32_t id;         /* op_choose, op_draw: the choice; the lowest id where all are -Inf */
    float score, max;   /* of id, and the largest */
    uint32_t unused;
    uint64_t total; /* weights of all scores, see sample_weight; 0 where max is infinite */
};

/* One step of splitmix64's finaliser: every bit of x reaches every bit of the result. */
MLL_HD static inline uint64_t sample_mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* What element i adds to a row's hash. */
MLL_HD static inline uint64_t sample_hash(uint32_t i, float x)
{
    return sample_mix((uint64_t)i << 32 | f32_to_bits(x));
}

/* x * y + z rounded twice, whatever the compiler would like to fuse. */
MLL_HD static inline double sample_step(double x, double y, double z)
{
#ifdef __CUDA_ARCH__
    return __dadd_rn(__dmul_rn(x, y), z);
#else
    return x * y + z;
#endif
}

MLL_HD static inline uint64_t sample_bits(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* SAMPLE_ONE e^(score - max) for score <= max, to the nearest integer: e^x = 2^n e^r with |r| <=
 * ln(2) / 2, the series of e^r to r^9 (1e-11 off). Adding 1.5 2^52 or 2^52 leaves the nearest
 * integer in the low bits. Plain double steps: the same bits everywhere, and what a compiler can
 * make of a loop over 128256 scores is four times as fast as fm_exp. */
#define SAMPLE_BITS 44
#define SAMPLE_ONE  (1ull << SAMPLE_BITS)

MLL_HD static inline uint64_t sample_weight(float score, float max)
{
    const double log2e = 0x1.71547652b82fep+0, ln2 = 0x1.62e42fefa39efp-1;
    double x = (double)score - (double)max;
    double t = sample_step(x, log2e, 0x1.8p+52);
    double r = sample_step(t - 0x1.8p+52, -ln2, x), scale;
    double p = 1.0 / 362880;
    p = sample_step(p, r, 1.0 / 40320);
    p = sample_step(p, r, 1.0 / 5040);
    p = sample_step(p, r, 1.0 / 720);
    p = sample_step(p, r, 1.0 / 120);
    p = sample_step(p, r, 1.0 / 24);
    p = sample_step(p, r, 1.0 / 6);
    p = sample_step(p, r, 0.5);
    p = sample_step(p, r, 1.0);
    p = sample_step(p, r, 1.0);
    uint64_t exponent = (sample_bits(t) + 1023 + SAMPLE_BITS) << 52;
    memcpy(&scale, &exponent, sizeof scale);
    uint64_t weight = sample_bits(sample_step(p, scale, 0x1p+52)) - 0x4330000000000000u;
    return x > -100.0 ? weight : 0;
}

/* The natural logarithm of a sum of weights, for hosts. */
#ifndef __CUDACC_RTC__
static inline double sample_log(uint64_t total)
{
    return log((double)total / (double)SAMPLE_ONE);
}
#endif

/* floor(u total), u the uniform draw of 53 bits. */
MLL_HD static inline uint64_t sample_target(uint64_t seed, uint64_t position, uint64_t total)
{
    uint64_t u = philox_bits(seed, position) << 11;
#ifdef __CUDA_ARCH__
    return __umul64hi(u, total);
#else
    return (uint64_t)((unsigned __int128)u * total >> 64);
#endif
}

/* The weight that top-p may drop: floor((1 - p) total). */
MLL_HD static inline uint64_t sample_droppable(float top_p, uint64_t total)
{
#ifdef __CUDA_ARCH__
    return (uint64_t)__dmul_rn(1.0 - (double)top_p, (double)total);
#else
    return (uint64_t)((1.0 - (double)top_p) * (double)total);
#endif
}

/* Whether min-p drops an id of this weight. */
MLL_HD static inline bool sample_below(uint64_t weight, float min_p)
{
    return (double)weight < (double)min_p * (double)SAMPLE_ONE;
}

/* Smaller for larger scores; -0 and 0 are one. */
MLL_HD static inline uint32_t sample_key(float score)
{
    uint32_t bits = f32_to_bits(score + 0.0f);
    return bits & 0x80000000u ? bits : ~bits & 0x7fffffffu;
}

MLL_HD static inline float sample_penalised(float score, float penalty)
{
    return score < 0 ? score * penalty : score / penalty;
}

MLL_HD static inline bool sample_is_finite(float x)
{
    return (f32_to_bits(x) & 0x7f800000u) != 0x7f800000u;
}

/* Whether a row's id is drawn. A temperature so low that scores overflow means greedy. */
MLL_HD static inline bool sample_draws(const struct sample_row *row, float max)
{
    return row->temperature > 0 && sample_is_finite(max) &&
           sample_is_finite(max / row->temperature);
}

#endif
