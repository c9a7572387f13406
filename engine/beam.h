/* beam.h - beam search as bookkeeping: log-probabilities in, texts out. It runs no model.
 *
 *     while (!beam_done(b)) {
 *         for (int i = 0; i < beam_running(b); i++)
 *             beam_offer(b, i, log-probabilities of what follows beam_text(b, i));
 *         beam_advance(b);
 *     }
 *
 * The rules of transformers' GenerationMixin._beam_search with length_penalty 1, for one request:
 * a step takes the best (1 + number of end tokens) * beams continuations of all running texts by
 * the sum of log-probabilities. One that ends (end token, or max_new tokens) is finished if it is
 * among the first num_beams of them, with its sum divided by its length as its score; the best of
 * the others run on. The search is done when no running text can beat the worst of num_beams
 * finished ones by its score at the present length, when with early_stopping there are num_beams
 * finished ones, or when nothing runs on. Equals: the beam, then the id that is lower. */
#ifndef MLL_BEAM_H
#define MLL_BEAM_H

#include "base.h"

enum { BEAM_MAX = 64 };

struct beam_search;

/* Tokens behind the prompt. */
struct beam_text {
    int32_t *ids;
    float *logprobs; /* of each id, as offered */
    size_t n;
    float score; /* running: sum of log-probabilities; finished: that / n */
    bool finished;
};

/* eos is borrowed. num_beams is 1 to BEAM_MAX, max_new at least 1. */
enum mll_status beam_open(struct beam_search **b, int num_beams, int vocab_size, size_t max_new,
                          bool early_stopping, const int32_t *eos, size_t n_eos,
                          struct mll_error *err);
void beam_close(struct beam_search *b);

/* Texts that wait for log-probabilities: at first one, empty; text i is valid until beam_advance.
 */
int beam_running(const struct beam_search *b);
const struct beam_text *beam_text(const struct beam_search *b, int i);
/* log_probs (vocab_size); -infinity is never taken. */
void beam_offer(struct beam_search *b, int i, const float *log_probs);
void beam_advance(struct beam_search *b);
bool beam_done(const struct beam_search *b);
/* The best finished text, else the best running one. */
const struct beam_text *beam_best(const struct beam_search *b);

#endif
