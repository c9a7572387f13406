/* processors.h - the sampler's state, and the lists that HF's processors come down to.
 *
 * What a processor does to a logit is op_process; which ids it does that to, the host works out
 * (processors.c): the bias of each id once, and the ids banned at this place of the text. */
#ifndef MLL_PROCESSORS_H
#define MLL_PROCESSORS_H

#include "sample.h"
#include "sampler.h"

/* Bits of smp_kind: which ops a choice takes. */
enum { SMP_PLAIN = 0, SMP_PROCESSES = 1, SMP_DRAWS = 2 };

struct sampler {
    struct smp_place place;
    struct mll_sampling options; /* its arrays are the caller's */
    const int32_t *eos;
    size_t n_eos;
    uint64_t skipped; /* ids that the host left out, and those that ops skipped */
    /* in the memory of the device; (vocab_size) but where said */
    struct sample_row *row; /* (1) */
    struct sample_out *out; /* (1) */
    float *scores, *warped;
    int32_t *text; /* (ctx_size) as far as text_host holds the same */
    int32_t *bias_ids, *banned;
    float *bias;
    /* in the host's, read and written by the device until it is waited for */
    struct sample_row *row_host; /* (1) */
    struct sample_out *out_host; /* (1) */
    int32_t *text_host;          /* (ctx_size), n_text of it in use; NULL without a penalty */
    size_t n_text;
    uint8_t *marks;       /* (vocab_size) ids in banned_host; the host's own */
    int32_t *banned_host; /* (vocab_size) distinct: the suppressed ones first, then this step's */
    size_t n_suppressed, n_banned;
    size_t n_bias;
    float *log_probs; /* (vocab_size) of beams, else NULL */
};

/* What does not change between tokens: the bias and the suppressed ids go to the device. */
enum mll_status proc_open(struct sampler *smp, struct mll_error *err);
/* The bans behind ids (n), of which n_prompt are the prompt; row and lists go to the device. */
void proc_prepare(struct sampler *smp, const int32_t *ids, size_t n, size_t n_prompt);

#endif
