/* beam.c - beam search bookkeeping.  Contract: beam.h.
 *
 * Texts are stored whole: a step copies at most num_beams of them into the spare set, which then
 * becomes the running one. Sums and scores are float32, as in transformers. */
#include "beam.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct candidate {
    float score;
    float logprob;
    int parent;
    int32_t id;
};

struct beam_search {
    int num_beams, vocab_size;
    size_t max_new;
    bool early_stopping, improvable, done;
    const int32_t *eos;
    size_t n_eos;
    int n_running, n_finished;
    struct beam_text *running, *spare, *finished; /* (num_beams); finished: best first */
    struct candidate *best;                       /* (n_keep) of this step, best first */
    int n_best, n_keep;
};

static bool texts_alloc(struct beam_text **texts, int n, size_t max_new)
{
    *texts = calloc((size_t)n, sizeof **texts);
    bool complete = *texts != NULL;
    for (int i = 0; complete && i < n; i++) {
        (*texts)[i].ids = calloc(max_new, sizeof *(*texts)[i].ids);
        (*texts)[i].logprobs = calloc(max_new, sizeof *(*texts)[i].logprobs);
        complete = (*texts)[i].ids && (*texts)[i].logprobs;
    }
    return complete;
}

static void texts_free(struct beam_text *texts, int n)
{
    for (int i = 0; texts && i < n; i++) {
        free(texts[i].ids);
        free(texts[i].logprobs);
    }
    free(texts);
}

enum mll_status beam_open(struct beam_search **out, int num_beams, int vocab_size, size_t max_new,
                          bool early_stopping, const int32_t *eos, size_t n_eos,
                          struct mll_error *err)
{
    MLL_ASSERT(num_beams >= 1 && num_beams <= BEAM_MAX && max_new >= 1);
    struct beam_search *b = *out = calloc(1, sizeof *b);
    if (!b)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a beam search");
    b->num_beams = num_beams;
    b->vocab_size = vocab_size;
    b->max_new = max_new;
    b->early_stopping = early_stopping;
    b->improvable = true;
    b->eos = eos;
    b->n_eos = n_eos;
    b->n_running = 1;
    b->n_keep = num_beams * (n_eos > 0 ? 1 + (int)n_eos : 2);
    b->best = calloc((size_t)b->n_keep, sizeof *b->best);
    if (!b->best || !texts_alloc(&b->running, num_beams, max_new) ||
        !texts_alloc(&b->spare, num_beams, max_new) ||
        !texts_alloc(&b->finished, num_beams, max_new)) {
        beam_close(b);
        *out = NULL;
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %d beams of %zu tokens", num_beams,
                        max_new);
    }
    return MLL_OK;
}

void beam_close(struct beam_search *b)
{
    if (!b)
        return;
    texts_free(b->running, b->num_beams);
    texts_free(b->spare, b->num_beams);
    texts_free(b->finished, b->num_beams);
    free(b->best);
    free(b);
}

int beam_running(const struct beam_search *b)
{
    return b->n_running;
}

const struct beam_text *beam_text(const struct beam_search *b, int i)
{
    MLL_ASSERT(i >= 0 && i < b->n_running);
    return &b->running[i];
}

bool beam_done(const struct beam_search *b)
{
    return b->done;
}

const struct beam_text *beam_best(const struct beam_search *b)
{
    return b->n_finished > 0 ? &b->finished[0] : &b->running[0];
}

/* Sorts c in; the worst falls out. Equals stay behind those that came first. */
static void insert_candidate(struct beam_search *b, struct candidate c)
{
    if (b->n_best == b->n_keep && c.score <= b->best[b->n_keep - 1].score)
        return;
    int at = b->n_best < b->n_keep ? b->n_best++ : b->n_keep - 1;
    for (; at > 0 && c.score > b->best[at - 1].score; at--)
        b->best[at] = b->best[at - 1];
    b->best[at] = c;
}

void beam_offer(struct beam_search *b, int i, const float *log_probs)
{
    MLL_ASSERT(i >= 0 && i < b->n_running && !b->done);
    for (int32_t id = 0; id < b->vocab_size; id++) {
        float score = b->running[i].score + log_probs[id];
        if (score > -INFINITY)
            insert_candidate(b, (struct candidate){score, log_probs[id], i, id});
    }
}

static void extend(struct beam_text *text, const struct beam_text *parent,
                   const struct candidate *c)
{
    memcpy(text->ids, parent->ids, parent->n * sizeof *text->ids);
    memcpy(text->logprobs, parent->logprobs, parent->n * sizeof *text->logprobs);
    text->ids[parent->n] = c->id;
    text->logprobs[parent->n] = c->logprob;
    text->n = parent->n + 1;
    text->score = c->score;
    text->finished = false;
}

static bool ends(const struct beam_search *b, const struct candidate *c)
{
    for (size_t i = 0; i < b->n_eos; i++)
        if (b->eos[i] == c->id)
            return true;
    return b->running[c->parent].n + 1 == b->max_new;
}

/* Keeps the finished texts sorted; the worst one's place is taken where all are. */
static void finish(struct beam_search *b, const struct candidate *c)
{
    const struct beam_text *parent = &b->running[c->parent];
    float score = c->score / (float)(parent->n + 1);
    bool full = b->n_finished == b->num_beams;
    if (full && score <= b->finished[b->num_beams - 1].score)
        return;
    int at = full ? b->num_beams - 1 : b->n_finished++;
    struct beam_text text = b->finished[at];
    extend(&text, parent, c);
    text.score = score;
    text.finished = true;
    for (; at > 0 && score > b->finished[at - 1].score; at--)
        b->finished[at] = b->finished[at - 1];
    b->finished[at] = text;
}

void beam_advance(struct beam_search *b)
{
    bool closed = b->early_stopping && b->n_finished == b->num_beams;
    int n_spare = 0;
    for (int k = 0; k < b->n_best; k++) {
        const struct candidate *c = &b->best[k];
        if (!ends(b, c)) {
            if (n_spare < b->num_beams)
                extend(&b->spare[n_spare++], &b->running[c->parent], c);
        } else if (k < b->num_beams && !closed) {
            finish(b, c);
        }
    }
    b->n_best = 0;
    if (n_spare == 0) { /* the running texts stay, for beam_best */
        b->done = true;
        return;
    }
    struct beam_text *swap = b->running;
    b->running = b->spare;
    b->spare = swap;
    b->n_running = n_spare;
    bool full = b->n_finished == b->num_beams;
    float hope = b->running[0].score / (float)b->running[0].n;
    b->improvable = !full || hope > b->finished[b->num_beams - 1].score;
    b->done = !b->improvable || (full && b->early_stopping);
}
