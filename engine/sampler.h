/* sampler.h - stage 7: logits become an id.
 *
 * HF's processors in HF's order: logit bias, repetition penalty, no-repeat n-gram, bad words, min
 * new tokens, suppressed tokens; when sampling also temperature, top-k, top-p, min-p. Then the most
 * likely id, or a draw. The prompt belongs to the text that penalties and n-grams look at.
 *
 * Rules where HF has none or fails:
 *   - An id without a logit row (the image token, or anything outside 0 .. vocab_size - 1) is
 * skipped and counted wherever a processor would touch its logit; never clamped. As part of an
 * n-gram or a bad word's beginning it is compared like any other id.
 *   - Ties: the most likely id is the lowest of equals. Top-k keeps every id as likely as the k-th;
 *     where top-p cuts through equals, the lower ids stay.
 *   - A bias given twice for an id counts once, the last.
 *   - If nothing is left, the text ends: the first end token that has a logit row is chosen, with
 *     log-probability 0 and forced set; without one the call fails (BAD_OPTION).
 *   - A temperature so low that scores overflow means greedy, and so does temperature 0.
 *   - A logit that a bias or a penalty makes infinite fails (NOT_FINITE).
 * A draw takes the id at which the running sum of weights, in order of id, first exceeds u times
 * their total; u is philox_bits(seed, number of tokens before it): a request repeats whatever ran
 * beside it. Weights are integers, multiples of 2^-44 (kernels/sample.h), whose sums are exact:
 * choice and log-probability have the same bits on every backend that has the same logits.
 *
 * Everything happens in ops, on the device; the host works out which ids are banned before, and
 * reads one small struct afterwards. */
#ifndef MLL_SAMPLER_H
#define MLL_SAMPLER_H

#include "mllama.h"
#include "ops.h"

struct sampler;

struct smp_choice {
    int32_t id;
    float logprob; /* natural log, after the processors, before temperature */
    bool forced;   /* nothing was left to choose from */
};

/* Where a sampler works: smp_bytes of the device's memory and smp_host_bytes of exec_alloc_host's,
 * both 64-byte aligned, for its own use; the exec's arena must hold op_sample_scratch beside. */
struct smp_place {
    struct mll_exec *ex;
    void *memory, *host;
    int vocab_size, ctx_size;
};
size_t smp_bytes(int vocab_size, int ctx_size);
size_t smp_host_bytes(int vocab_size, int ctx_size);

/* Checks the options and allocates all that later calls need; with beams sampling is refused.
 * sampling's arrays and eos (the list in force) are borrowed until smp_close. */
enum mll_status smp_open(struct sampler **smp, const struct smp_place *place,
                         const struct mll_sampling *sampling, const int32_t *eos, size_t n_eos,
                         struct mll_error *err);
void smp_close(struct sampler *smp);

/* Chooses the id that follows ids (n <= ctx_size), of which the first n_prompt are the prompt.
 * logits (vocab_size), finite, in the device's memory, are not changed. The same as the three calls
 * below. */
enum mll_status smp_next(struct sampler *smp, struct smp_choice *choice, const float *logits,
                         const int32_t *ids, size_t n, size_t n_prompt, struct mll_error *err);
/* Sends what belongs to this place of the text, without waiting. */
void smp_prepare(struct sampler *smp, const int32_t *ids, size_t n, size_t n_prompt);
/* The ops alone, for exec_repeat: they depend on place, logits and smp_kind. */
void smp_enqueue(struct sampler *smp, const float *logits);
int smp_kind(const struct sampler *smp);
/* What was chosen, once the device was waited for (exec_take_error). */
enum mll_status smp_result(struct sampler *smp, struct smp_choice *choice, struct mll_error *err);

/* As HF's beam search scores what follows: the log-probabilities of logits, then through the
 * processors (those of sampling left out); -infinity where banned. (vocab_size) in the host's
 * memory, borrowed until the next call. For options with num_beams above 1. */
void smp_log_probs(struct sampler *smp, const float **log_probs, const float *logits,
                   const int32_t *ids, size_t n, size_t n_prompt);

bool smp_is_eos(const struct sampler *smp, int32_t id);
/* How often, in all calls, a processor met an id without a logit row; a penalty counts an id once a
 * call for each place in the text. */
uint64_t smp_skipped(const struct sampler *smp);

#endif
