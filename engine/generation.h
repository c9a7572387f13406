/* generation.h - one answer in the making; shared by generate.c and trace.c. */
#ifndef MLL_GENERATION_H
#define MLL_GENERATION_H

#include "answer.h"
#include "engine.h"
#include "sampler.h"

/* Arrays are (capacity); what the last mll_session_run of a session lends. */
struct generation {
    int32_t *ids;
    float *logprobs;
    size_t *text_end;
    size_t n, capacity;
    struct answer answer;
    struct sampler *sampler; /* while it runs */
    uint64_t hash;
    enum mll_finish finish;
    struct mll_result result;
};

/* The stage after which gen_run stops. */
enum gen_stage { GEN_ALL = 0, GEN_VISION, GEN_DECODER };

/* mll_session_run, up to a stage. What runs behind the prompt is not traced. */
enum mll_status gen_run(struct mll_session *session, const struct mll_request *request,
                        enum gen_stage last, const struct mll_result **result,
                        struct mll_error *err);

/* generate_beams.c: the answer of a beam search, as ids and log-probabilities only. */
enum mll_status gen_beams(struct generation *g, struct mll_session *session,
                          const struct mll_request *request, const struct mll_sampling *sampling,
                          struct mll_error *err);
void gen_hash_logits(struct generation *g, const struct mll_session *session);
/* The end tokens in force. */
const int32_t *gen_eos(size_t *n, const struct mll_engine *engine,
                       const struct mll_sampling *sampling);

#endif
