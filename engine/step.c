/* step.c - mll_step: what the sessions were fed, as ragged batches.
 *
 * Prompt rows and generated tokens are computed by different kernels on a GPU, so that a step runs
 * two batches, one after the other: which of them a row is in depends on how it was fed alone,
 * never on its company. In a batch rows of sessions with images come first (cross layers run on a
 * prefix of it), each session's rows in order. At most prefill_chunk rows go at once; a session
 * whose last row is in the batch gets logits.
 *
 * Everything that changes between steps is one array of int32, copied to the device, and what the
 * sampler sends; what comes back is whether the logits are finite, their hash and the next id. A
 * batch of generated tokens is thus a sequence of device work that is the same from token to token
 * (exec_repeat), with one wait behind it. Logits stay on the device until somebody asks or the next
 * step needs their place. */
#include "engine.h"
#include "sample.h"
#include "sampler.h"

#include <string.h>

enum {
    ROW_ID = 0,
    ROW_POS,
    ROW_SLOT,
    ROW_ZERO,
    ROW_END,
    ROW_CROSS_BEGIN,
    ROW_CROSS_END,
    ROW_ATTN,
    ROW_MLP
};

/* One batch on its way through the device. */
struct step_job {
    struct mll_engine *engine;
    struct batch batch;
    int first_logits;        /* row of engine->logits that its first goes to */
    size_t n;                /* sessions of the step */
    struct sampler *sampler; /* of the one session that has logits; NULL: none, or several do */
    struct mll_error *err;
};

/* ---- the batch on the host ------------------------------------------------------------------- */

static void stage_float(int32_t *where, float x)
{
    memcpy(where, &x, sizeof x);
}

static void stage_rows(int32_t *host, int stride, const struct share *share)
{
    const struct mll_session *s = share->session;
    for (int r = 0; r < share->n; r++) {
        int position = s->n_done + r;
        int32_t *row = host + share->first + r;
        struct cross_view view = session_cross_view(s, position);
        row[ROW_ID * stride] = s->ids[position];
        row[ROW_POS * stride] = position;
        row[ROW_SLOT * stride] = s->slot;
        row[ROW_ZERO * stride] = 0;
        row[ROW_END * stride] = position + 1;
        row[ROW_CROSS_BEGIN * stride] = view.begin;
        row[ROW_CROSS_END * stride] = view.end;
        stage_float(row + ROW_ATTN * stride, view.attn_scale);
        stage_float(row + ROW_MLP * stride, view.mlp_scale);
    }
}

/* Rows that a session can give to a batch: those waiting, up to the first of the other kind. */
static int rows_waiting(const struct mll_session *s, enum mll_phase phase)
{
    int n = 0;
    while (s->n_done + n < s->n_ids && s->alone[s->n_done + n] == (phase == MLL_DECODE))
        n++;
    return n;
}

/* Hands at most `room` rows out to the sessions, those with images first, and fills the host side
 * of the batch. */
static void step_collect(struct mll_engine *e, struct batch *b, struct mll_session *const *sessions,
                         size_t n, int room)
{
    int chunk = e->plan.prefill_chunk;
    int32_t *logit_rows = e->staging + (size_t)STEP_ARRAYS * (size_t)chunk;
    for (int with_images = 1; with_images >= 0; with_images--) {
        for (size_t i = 0; i < n; i++) {
            struct mll_session *s = sessions[i];
            int waiting = rows_waiting(s, b->phase), left = room - b->n;
            if ((s->n_images > 0) != with_images)
                continue;
            e->shares[i] = (struct share){s, b->n, waiting < left ? waiting : left};
            if (e->shares[i].n == 0)
                continue;
            blocks_grow(s, false, s->n_done, s->n_done + e->shares[i].n);
            stage_rows(e->staging, chunk, &e->shares[i]);
            b->n += e->shares[i].n;
            if (s->n_done + e->shares[i].n == s->n_ids)
                logit_rows[b->n_logits++] = b->n - 1;
        }
        if (with_images)
            b->n_cross = b->n;
    }
}

/* ---- logits ---------------------------------------------------------------------------------- */

void step_take_logits(struct mll_session *session)
{
    struct mll_engine *e = session->engine;
    size_t vocab = (size_t)e->cfg.text.vocab_size;
    if (session->logits_row < 0)
        return;
    exec_download(e->exec, session->logits, e->logits + (size_t)session->logits_row * vocab,
                  vocab * sizeof *session->logits);
    e->logits_of[session->logits_row] = NULL;
    session->logits_row = -1;
}

const float *step_logits(struct mll_session *session)
{
    struct mll_engine *e = session->engine;
    size_t vocab = (size_t)e->cfg.text.vocab_size;
    if (session->logits_row < 0) { /* a step of others needed the place */
        int row = session->slot;
        if (e->logits_of[row] != NULL)
            step_take_logits(e->logits_of[row]);
        exec_upload(e->exec, e->logits + (size_t)row * vocab, session->logits,
                    vocab * sizeof *session->logits);
        e->logits_of[row] = session;
        session->logits_row = row;
    }
    return e->logits + (size_t)session->logits_row * vocab;
}

/* Frees the rows of logits: of a session that takes part nobody will want the old ones. */
static void step_clear_logits(struct mll_engine *e, struct mll_session *const *sessions, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (sessions[i]->n_done < sessions[i]->n_ids && sessions[i]->logits_row >= 0) {
            e->logits_of[sessions[i]->logits_row] = NULL;
            sessions[i]->logits_row = -1;
        }
    for (int r = 0; r < e->plan.max_sessions; r++)
        if (e->logits_of[r] != NULL)
            step_take_logits(e->logits_of[r]);
}

/* ---- the batch on the device ----------------------------------------------------------------- */

static void step_send(struct mll_engine *e, struct batch *b)
{
    size_t chunk = (size_t)e->plan.prefill_chunk, sessions = (size_t)e->plan.max_sessions;
    size_t count = STEP_ARRAYS * chunk + sessions;
    int32_t *device = exec_alloc(e->exec, count * sizeof *device);
    exec_send(e->exec, device, e->staging, count * sizeof *device);
    b->ids = device + ROW_ID * chunk;
    b->pos = device + ROW_POS * chunk;
    b->slot = device + ROW_SLOT * chunk;
    b->zero = device + ROW_ZERO * chunk;
    b->end = device + ROW_END * chunk;
    b->cross_begin = device + ROW_CROSS_BEGIN * chunk;
    b->cross_end = device + ROW_CROSS_END * chunk;
    b->attn_scale = (const float *)(device + ROW_ATTN * chunk);
    b->mlp_scale = (const float *)(device + ROW_MLP * chunk);
    b->logit_rows = device + STEP_ARRAYS * chunk;
}

size_t step_scratch(const struct cfg *cfg, const struct memory_plan *plan,
                    const struct mll_exec *ex)
{
    size_t chunk = (size_t)plan->prefill_chunk, sessions = (size_t)plan->max_sessions;
    size_t decoder = decoder_scratch(cfg, ex, plan->prefill_chunk);
    size_t sample = op_sample_scratch(ex, plan->max_sessions, cfg->text.vocab_size);
    return arena_floats(STEP_ARRAYS * chunk + sessions, 1) +
           arena_floats(sessions, sizeof(struct sample_out) / sizeof(float)) +
           (decoder > sample ? decoder : sample);
}

/* All device work of a batch. */
static enum mll_status step_ops(void *arg)
{
    struct step_job *job = arg;
    struct mll_engine *e = job->engine;
    struct batch b = job->batch;
    size_t mark = exec_mark(e->exec), n = (size_t)b.n_logits;
    int vocab = e->cfg.text.vocab_size;
    b.logits = e->logits + (size_t)job->first_logits * (size_t)vocab;
    step_send(e, &b);
    enum mll_status status =
        decoder_run(e, &b, (const atomic_bool *const *)e->cancelled, job->n, job->err);
    if (status == MLL_OK && n > 0) {
        struct sample_out *found = exec_alloc(e->exec, n * sizeof *found);
        op_hash_rows(e->exec, found, b.logits, b.n_logits, vocab);
        exec_fetch(e->exec, e->found, found, n * sizeof *found);
    }
    if (status == MLL_OK && job->sampler != NULL)
        smp_enqueue(job->sampler, b.logits);
    exec_release(e->exec, mark);
    return status;
}

/* What makes the device work of one batch differ from another's. */
struct step_key {
    int n, n_cross, n_logits, first_logits;
    int sampler, slot; /* smp_kind and the session, or -1 */
    size_t mark;
};

/* Readies the sampler of the step's only session, where this batch gives it logits. */
static void step_sampler(struct step_job *job)
{
    const struct mll_session *s = job->engine->shares[0].session;
    if (job->n > 1 || job->batch.n_logits == 0 || s->sampler == NULL)
        return;
    job->sampler = s->sampler;
    smp_prepare(s->sampler, s->ids, (size_t)s->n_ids, s->n_prompt);
}

static enum mll_status step_run(struct step_job *job)
{
    struct mll_engine *e = job->engine;
    const struct batch *b = &job->batch;
    struct step_key key;
    memset(&key, 0, sizeof key); /* padding is compared too */
    key.n = b->n;
    key.n_cross = b->n_cross;
    key.n_logits = b->n_logits;
    key.first_logits = job->first_logits;
    key.sampler = job->sampler ? smp_kind(job->sampler) : -1;
    key.slot = job->sampler ? e->shares[0].session->slot : -1;
    key.mark = exec_mark(e->exec);
    if (b->phase == MLL_DECODE && !eng_tracing(e))
        return exec_repeat(e->exec, &key, sizeof key, step_ops, job);
    return step_ops(job);
}

/* ---- a step ---------------------------------------------------------------------------------- */

/* Moves the sessions on; MLL_ERR_NOT_FINITE where logits are not. */
static enum mll_status step_finish(struct step_job *job)
{
    struct mll_engine *e = job->engine;
    const int32_t *logit_rows = e->staging + (size_t)STEP_ARRAYS * (size_t)e->plan.prefill_chunk;
    for (size_t i = 0; i < job->n; i++) {
        const struct share *share = &e->shares[i];
        struct mll_session *s = share->session;
        if (share->n == 0)
            continue;
        s->n_done += share->n;
        s->has_logits = s->n_done == s->n_ids;
        for (int l = 0; l < job->batch.n_logits && s->has_logits; l++) {
            if (logit_rows[l] != share->first + share->n - 1)
                continue;
            s->logits_row = job->first_logits + l;
            e->logits_of[s->logits_row] = s;
            s->logits_hash = e->found[l].hash;
            if (e->found[l].not_finite >= 0)
                return mll_fail(job->err, MLL_ERR_NOT_FINITE,
                                "the logits of token %d are not finite, that of id %d first: the "
                                "weights are damaged or overflow",
                                s->n_done - 1, e->found[l].not_finite);
        }
    }
    return MLL_OK;
}

static enum mll_status step_check(const struct mll_engine *engine,
                                  struct mll_session *const *sessions, size_t n,
                                  struct mll_error *err)
{
    if (n == 0 || n > (size_t)engine->plan.max_sessions)
        return mll_fail(err, MLL_ERR_USAGE, "a step takes 1 to %d sessions, not %zu",
                        engine->plan.max_sessions, n);
    for (size_t i = 0; i < n; i++) {
        MLL_ASSERT(sessions[i] != NULL && sessions[i]->engine == engine);
        for (size_t j = 0; j < i; j++)
            if (sessions[i] == sessions[j])
                return mll_fail(err, MLL_ERR_USAGE, "session %zu stands twice in one step", i);
    }
    return weights_check_files(engine->weights, err);
}

/* Both batches. */
static enum mll_status step_batches(struct mll_engine *engine, struct mll_session *const *sessions,
                                    size_t n, struct mll_error *err)
{
    static const enum mll_phase phases[] = {MLL_PREFILL, MLL_DECODE};
    int room = engine->plan.prefill_chunk, first_logits = 0;
    step_clear_logits(engine, sessions, n);
    for (int i = 0; i < 2; i++) {
        struct step_job job = {.engine = engine,
                               .batch = {.phase = phases[i]},
                               .first_logits = first_logits,
                               .n = n,
                               .err = err};
        step_collect(engine, &job.batch, sessions, n, room);
        if (job.batch.n == 0)
            continue;
        step_sampler(&job);
        MLL_TRY(step_run(&job));
        MLL_TRY(eng_check_fault(engine, "decoder", err));
        MLL_TRY(step_finish(&job));
        room -= job.batch.n;
        first_logits += job.batch.n_logits;
    }
    return MLL_OK;
}

enum mll_status mll_step(struct mll_engine *engine, struct mll_session *const *sessions, size_t n,
                         size_t *pending, struct mll_error *err)
{
    MLL_TRY(step_check(engine, sessions, n, err));
    for (size_t i = 0; i < n; i++)
        engine->cancelled[i] = &sessions[i]->cancelled;
    if (engine->vision_ran) /* the tower needs far more than a step, and rarely */
        exec_trim(engine->exec);
    engine->vision_ran = false;
    enum mll_status status = step_batches(engine, sessions, n, err);
    for (size_t i = 0; i < n && status == MLL_ERR_CANCELLED; i++)
        atomic_store(&sessions[i]->cancelled, false);
    if (pending != NULL) {
        *pending = 0;
        for (size_t i = 0; i < n; i++)
            *pending += (size_t)(sessions[i]->n_ids - sessions[i]->n_done);
    }
    return status;
}
