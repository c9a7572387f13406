/* test_ranks.c - tensor parallelism as the weight table describes it: two ranks, each with its half
 * of the heads, of the KV heads, of the MLPs and of the vocabulary, give the goldens' logits.
 *
 * A rank is an engine whose weights are cut by the table's split column and whose configuration has
 * the local numbers of heads; the stages run as they are. What ranks exchange stands behind
 * ops: a matrix cut by columns gives partial sums, which are added (all-reduce); the rows of
 * projector and lm_head, whose readers are not cut, are collected (all-gather); the embedding of an
 * id that another rank holds is a row of zeros, by the contract of an index out of range, and the
 * sum has it. The exchange is a barrier between threads here, and a library's call on GPUs. */
#include "backend.h"
#include "engine.h"
#include "golden.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { RANKS = 2, MAX_MATS = 256 };

/* A weight that is cut, and how its results come together. */
struct cut {
    const struct mat *mat;
    enum weights_split split;
    bool collect;
    void *data;
};

struct rank {
    int index;
    struct mll_engine *engine;
    struct mll_session *session;
    struct mat embedding; /* its rows; the engine's own stays whole, for it also bounds the ids */
    struct cut cuts[MAX_MATS];
    int n_cuts;
    const struct golden *g;
    const int32_t *ids;
    size_t n;
    float *logits; /* (n, vocab) */
    struct mll_error err;
    enum mll_status status;
};

/* The team under test; ops know their exec only. */
static struct {
    struct rank ranks[RANKS];
    const float *part[RANKS];
    pthread_barrier_t barrier;
    struct op_table ops;
} team;

static struct rank *rank_of(const struct mll_exec *ex)
{
    return &team.ranks[team.ranks[0].engine->exec == ex ? 0 : 1];
}

/* ---- what ranks exchange --------------------------------------------------------------------- */

/* y = the sum of all ranks' y, in order of rank: the same bits everywhere. */
static void all_reduce(const struct rank *r, float *y, size_t n)
{
    float *sum = malloc(n * sizeof *sum);
    team.part[r->index] = y;
    pthread_barrier_wait(&team.barrier);
    for (size_t i = 0; i < n; i++)
        sum[i] = team.part[0][i] + team.part[1][i];
    pthread_barrier_wait(&team.barrier);
    memcpy(y, sum, n * sizeof *sum);
    free(sum);
}

/* y (n, RANKS * cols) = the ranks' parts (n, cols) side by side. */
static void all_gather(const struct rank *r, float *y, const float *part, int n, int cols)
{
    team.part[r->index] = part;
    pthread_barrier_wait(&team.barrier);
    for (int row = 0; row < n; row++)
        for (int i = 0; i < RANKS; i++)
            memcpy(y + ((size_t)row * RANKS + (size_t)i) * (size_t)cols,
                   team.part[i] + (size_t)row * (size_t)cols, (size_t)cols * sizeof *y);
    pthread_barrier_wait(&team.barrier);
}

static void matmul_ranks(struct mll_exec *ex, float *y, const float *x, const struct mat *w,
                         const struct mat *bias, int n)
{
    struct rank *r = rank_of(ex);
    const struct cut *cut = NULL;
    for (int i = 0; i < r->n_cuts && cut == NULL; i++)
        cut = r->cuts[i].mat == w ? &r->cuts[i] : NULL;
    if (cut != NULL && cut->split == WEIGHTS_SPLIT_COLS) {
        matmul_cpu(ex, y, x, w, r->index == 0 ? bias : NULL, n);
        all_reduce(r, y, (size_t)n * (size_t)w->rows);
    } else if (cut != NULL && cut->collect) {
        float *part = malloc((size_t)n * (size_t)w->rows * sizeof *part);
        matmul_cpu(ex, part, x, w, bias, n);
        all_gather(r, y, part, n, w->rows);
        free(part);
    } else {
        matmul_cpu(ex, y, x, w, bias, n);
    }
}

/* The residual, which every rank has, is added to what they have together. */
static void matmul_add_ranks(struct mll_exec *ex, float *y, const float *base, const float *x,
                             const struct mat *w, const struct mat *bias, const struct mat *gate,
                             int n)
{
    size_t bytes = (size_t)n * (size_t)w->rows * sizeof *y;
    float *product = malloc(bytes);
    matmul_ranks(ex, product, x, w, bias, n);
    memmove(y, base, bytes);
    add_gated_cpu(ex, y, product, gate, NULL, n, w->rows);
    free(product);
}

static void gather_rows_ranks(struct mll_exec *ex, float *y, const struct mat *table,
                              const int32_t *ids, int n)
{
    struct rank *r = rank_of(ex);
    int32_t *local = malloc((size_t)n * sizeof *local);
    for (int i = 0; i < n; i++)
        local[i] = ids[i] - r->index * r->embedding.rows;
    gather_rows_cpu(ex, y, &r->embedding, local, n);
    exec_take_fault(ex); /* the ids of the others */
    all_reduce(r, y, (size_t)n * (size_t)table->cols);
    free(local);
}

/* ---- a rank ---------------------------------------------------------------------------------- */

static size_t element_bytes(const struct mat *m)
{
    return m->dtype == MLL_DTYPE_F32 ? 4 : 2;
}

/* The rank's part of a weight, in memory of its own. */
static struct mat part_of(const struct mat *m, enum weights_split split, int index)
{
    struct mat part = *m;
    size_t size = element_bytes(m);
    if (split == WEIGHTS_SPLIT_ROWS)
        part.rows /= RANKS;
    else
        part.cols /= RANKS;
    cr_assert(part.rows * part.cols * RANKS == m->rows * m->cols, "a weight that cannot be halved");
    size_t row = (size_t)part.cols * size, from = (size_t)m->cols * size;
    size_t first = split == WEIGHTS_SPLIT_ROWS ? (size_t)index * (size_t)part.rows * from
                                               : (size_t)index * row;
    unsigned char *data = malloc((size_t)part.rows * row);
    for (int r = 0; r < part.rows; r++)
        memcpy(data + (size_t)r * row, (const unsigned char *)m->data + first + (size_t)r * from,
               row);
    part.data = data;
    return part;
}

static void cut_weights(struct rank *r)
{
    struct weights_entry entry = {0};
    struct weights *w = r->engine->weights;
    const struct cfg cfg = r->engine->cfg; /* whole */
    while (weights_next(&entry, &cfg)) {
        struct mat *m = weights_field(w, &entry);
        if (entry.split == WEIGHTS_SPLIT_NONE)
            continue;
        cr_assert(r->n_cuts < MAX_MATS);
        struct mat part = part_of(m, entry.split, r->index);
        r->cuts[r->n_cuts++] =
            (struct cut){m, entry.split, entry.layer < 0, (void *)(uintptr_t)part.data};
        *(m == &w->embed_tokens ? &r->embedding : m) = part;
    }
}

static void rank_open(struct rank *r, int index, const struct golden *g,
                      enum mll_reference reference)
{
    struct mll_options options = {
        .model = g->model, .device = "cpu", .reference = reference, .threads = 1};
    *r = (struct rank){.index = index, .g = g};
    cr_assert(mll_open(&r->engine, &options, &r->err) == MLL_OK, "%s", r->err.message);
    cut_weights(r);
    struct mll_engine *e = r->engine;
    e->exec->ops = &team.ops;
    e->cfg.text.heads /= RANKS;
    e->cfg.text.kv_heads /= RANKS;
    e->cfg.text.intermediate_size /= RANKS;
    e->cfg.vision.heads /= RANKS;
    e->cfg.vision.intermediate_size /= RANKS;
    for (int i = 0; i < e->cfg.text.layers; i++)
        e->pools[i].n_kv_heads /= RANKS;
    cr_assert(mll_session_open(&r->session, e, &r->err) == MLL_OK, "%s", r->err.message);
}

static void rank_close(struct rank *r)
{
    mll_session_close(r->session);
    mll_close(r->engine);
    for (int i = 0; i < r->n_cuts; i++)
        free(r->cuts[i].data);
    free(r->logits);
}

/* Images, then one token after the other, so that each has its logits. */
static enum mll_status rank_run(struct rank *r)
{
    size_t vocab = (size_t)r->engine->cfg.text.vocab_size;
    for (size_t i = 0; i < r->g->request.n_images; i++)
        MLL_TRY(mll_session_add_image(r->session, &r->g->images[i], &r->err));
    for (size_t i = 0; i < r->n; i++) {
        MLL_TRY(mll_session_feed(r->session, &r->ids[i], 1, &r->err));
        MLL_TRY(mll_step(r->engine, &r->session, 1, NULL, &r->err));
        memcpy(r->logits + i * vocab, mll_session_logits(r->session), vocab * sizeof(float));
    }
    return MLL_OK;
}

static void *rank_main(void *arg)
{
    struct rank *r = arg;
    r->status = rank_run(r);
    return NULL;
}

static void check_case(const char *name, enum mll_reference reference)
{
    struct golden g;
    pthread_t threads[RANKS];
    struct mll_error err;
    const int32_t *ids;
    size_t n;
    golden_open(&g, name);
    team.ops = op_table_cpu;
    team.ops.matmul = matmul_ranks;
    team.ops.matmul_add = matmul_add_ranks;
    team.ops.gather_rows = gather_rows_ranks;
    pthread_barrier_init(&team.barrier, NULL, RANKS);
    for (int i = 0; i < RANKS; i++)
        rank_open(&team.ranks[i], i, &g, reference);
    cr_assert(mll_prompt(team.ranks[0].engine, NULL, &ids, &n, &g.request, &err) == MLL_OK);
    size_t count = n * (size_t)team.ranks[0].engine->cfg.text.vocab_size;
    for (int i = 0; i < RANKS; i++) {
        struct rank *r = &team.ranks[i];
        r->ids = ids;
        r->n = n;
        r->logits = calloc(count, sizeof *r->logits);
        cr_assert(pthread_create(&threads[i], NULL, rank_main, r) == 0);
    }
    for (int i = 0; i < RANKS; i++) {
        pthread_join(threads[i], NULL);
        cr_assert(team.ranks[i].status == MLL_OK, "%s", team.ranks[i].err.message);
    }

    const struct st_tensor *expected = golden_tensor(&g, golden_modes[reference], "logits");
    cr_assert(expected != NULL && (size_t)expected->size == count * sizeof(float));
    const float *a = expected->data, *b = team.ranks[0].logits;
    double worst = 0, largest = 0;
    for (size_t i = 0; i < count; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        worst = d > worst || isnan(d) ? d : worst;
        largest = fabs((double)a[i]) > largest ? fabs((double)a[i]) : largest;
    }
    cr_expect(worst <= 2e-4 * largest, "%s, %s: off by %g of %g", name, golden_modes[reference],
              worst, largest);
    cr_expect(memcmp(b, team.ranks[1].logits, count * sizeof *b) == 0, "the ranks differ");
    for (int i = 0; i < RANKS; i++)
        rank_close(&team.ranks[i]);
    pthread_barrier_destroy(&team.barrier);
    golden_close(&g);
}

Test(ranks, two_halves_give_the_goldens_logits)
{
    check_case("two_images", MLL_REFERENCE_META);
    check_case("two_images", MLL_REFERENCE_HF4);
    check_case("base_model", MLL_REFERENCE_META);
    check_case("as_many_kv_heads", MLL_REFERENCE_HF5);
    check_case("text_only", MLL_REFERENCE_META);
}
