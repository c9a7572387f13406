/* test_gpu.c - what a GPU must keep over many runs: the bits of a request, alone and in batches of
 * any size, and the context after an index out of range. Skipped where there is none; fewer runs
 * where the kernels run on the CPU (MLL_SHIM). */
#include "golden.h"
#include "op_test.h"

#include <criterion/criterion.h>
#include <string.h>

#ifdef MLL_SHIM
enum { RUNS = 2, GOOD_LAUNCHES = 20, CASES = 1 };
#else
enum { RUNS = 100, GOOD_LAUNCHES = 10000, CASES = 2 };
#endif
static const char *const gpu_cases[] = {"images_side_by_side", "long_prompt"};

static void skip_without_gpu(void)
{
    if (exec_cuda_devices() == 0)
        cr_skip_test("no CUDA device");
}

static struct mll_engine *open_engine(const struct golden *g, int max_sessions)
{
    struct mll_options options = {
        .model = g->model, .device = "cuda", .max_sessions = max_sessions};
    struct mll_engine *engine;
    struct mll_error err;
    cr_assert(mll_open(&engine, &options, &err) == MLL_OK, "%s", err.message);
    return engine;
}

Test(gpu, a_request_run_a_hundred_times_has_one_hash)
{
    skip_without_gpu();
    for (int c = 0; c < CASES; c++) {
        struct golden g;
        struct mll_session *session;
        struct mll_error err;
        const struct mll_result *result;
        golden_open(&g, gpu_cases[c]);
        g.sampling.max_new_tokens = 8;
        struct mll_engine *engine = open_engine(&g, 1);
        cr_assert(mll_session_open(&session, engine, &err) == MLL_OK, "%s", err.message);
        uint64_t first = 0;
        for (int run = 0; run < RUNS; run++) {
            cr_assert(mll_session_run(session, &g.request, &result, &err) == MLL_OK, "%s",
                      err.message);
            if (run == 0)
                first = result->logits_hash;
            cr_assert(result->logits_hash == first, "%s: run %d", gpu_cases[c], run);
        }
        mll_session_close(session);
        mll_close(engine);
        golden_close(&g);
    }
}

/* ---- batches --------------------------------------------------------------------------------- */

enum { MOST = 8, NEW_TOKENS = 6 };

/* Feeds the most likely id. */
static void feed_best(struct mll_session *session, int vocab)
{
    struct mll_error err;
    const float *logits = mll_session_logits(session);
    int32_t best = 0;
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    cr_assert(mll_session_feed(session, &best, 1, &err) == MLL_OK, "%s", err.message);
}

static void start(struct mll_session *session, struct mll_engine *engine, const struct golden *g,
                  const char *text, bool image)
{
    const int32_t *ids;
    struct mll_error err;
    size_t n;
    if (image)
        cr_assert(mll_session_add_image(session, &g->images[0], &err) == MLL_OK, "%s", err.message);
    cr_assert(mll_tokenize(engine, &ids, &n, text, strlen(text), true, &err) == MLL_OK);
    cr_assert(mll_session_feed(session, ids, n, &err) == MLL_OK, "%s", err.message);
}

/* Sessions [first, first + n) of MOST together; logits of session i at (i, token), (vocab) each. */
static void run_batch(float *logits, int first, int n, struct mll_engine *engine,
                      const struct golden *g)
{
    static const char *const texts[MOST] = {"<|begin_of_text|>A <|image|> and text",
                                            "<|begin_of_text|>B",
                                            "<|begin_of_text|>Other words",
                                            "<|begin_of_text|>A third one, longer than it was",
                                            "<|begin_of_text|><|image|>",
                                            "<|begin_of_text|>a b c d e f g",
                                            "<|begin_of_text|>C",
                                            "<|begin_of_text|><|image|> D"};
    struct mll_session *sessions[MOST];
    struct mll_info info;
    struct mll_error err;
    mll_engine_info(engine, &info);
    size_t vocab = (size_t)info.vocab_size;
    for (int i = 0; i < n; i++) {
        const char *text = texts[first + i];
        cr_assert(mll_session_open(&sessions[i], engine, &err) == MLL_OK, "%s", err.message);
        start(sessions[i], engine, g, text, strstr(text, "<|image|>") != NULL);
    }
    for (int token = 0; token < NEW_TOKENS; token++) {
        size_t pending = 1;
        while (pending > 0)
            cr_assert(mll_step(engine, sessions, (size_t)n, &pending, &err) == MLL_OK, "%s",
                      err.message);
        for (int i = 0; i < n; i++) {
            memcpy(logits + (size_t)((first + i) * NEW_TOKENS + token) * vocab,
                   mll_session_logits(sessions[i]), vocab * sizeof *logits);
            feed_best(sessions[i], info.vocab_size);
        }
    }
    for (int i = 0; i < n; i++)
        mll_session_close(sessions[i]);
}

/* All in one engine, whose KV blocks go from batch to batch. */
Test(gpu, company_in_a_batch_changes_no_bit)
{
    static const int sizes[] = {2, 3, 5, MOST};
    skip_without_gpu();
    struct golden g;
    struct mll_info info;
    golden_open(&g, "images_side_by_side");
    struct mll_engine *engine = open_engine(&g, MOST);
    mll_engine_info(engine, &info);
    size_t one = NEW_TOKENS * (size_t)info.vocab_size, n = MOST * one;
    float *alone = calloc(n, sizeof *alone), *together = calloc(n, sizeof *together);
    for (int i = 0; i < MOST; i++)
        run_batch(alone, i, 1, engine, &g);
    for (int i = 0; i < 4; i++) {
        run_batch(together, 0, sizes[i], engine, &g);
        size_t all = (size_t)sizes[i] * one, at = op_first_difference(alone, together, all);
        cr_expect(at == all, "among %d: element %zu is %a, not %a", sizes[i], at,
                  (double)together[at], (double)alone[at]);
    }
    mll_close(engine);
    free(alone);
    free(together);
    golden_close(&g);
}

/* ---- faults ---------------------------------------------------------------------------------- */

Test(gpu, thousands_of_good_launches_follow_an_index_out_of_range)
{
    enum { ROWS = 33, DIM = 260, N = 5 };
    skip_without_gpu();
    struct mll_exec *ex = op_exec_cuda(1 << 20);
    struct mll_error err;
    struct mat host = op_mat(ROWS, DIM, MLL_DTYPE_F16, 0, 3, 1.0f);
    struct mat table = op_weight(ex, &host, WEIGHT_TABLE);
    int32_t bad[N] = {1, 2, ROWS, -1, 0}, good[N] = {1, 2, ROWS - 1, 0, 0};
    float y[N * DIM], expected[N * DIM];
    float *out = op_dev(ex, y, sizeof y);
    const int32_t *bad_ids = op_dev(ex, bad, sizeof bad), *ids = op_dev(ex, good, sizeof good);

    op_gather_rows(ex, out, &table, bad_ids, N);
    struct mll_fault fault = exec_take_fault(ex);
    cr_expect(fault.op == OP_GATHER_ROWS && fault.position == 2 && fault.index == ROWS &&
                  fault.bound == ROWS,
              "%s at %d: %d of %d", op_name(fault.op), (int)fault.position, (int)fault.index,
              (int)fault.bound);
    op_gather_rows(ex, out, &table, ids, N);
    op_back(ex, expected, out, sizeof expected);
    for (int i = 0; i < GOOD_LAUNCHES; i++)
        op_gather_rows(ex, out, &table, ids, N);
    fault = exec_take_fault(ex);
    cr_expect(fault.op == OP_NONE);
    op_back(ex, y, out, sizeof y);
    cr_expect(memcmp(y, expected, sizeof y) == 0);
    for (int i = 0; i < DIM; i++)
        cr_expect(y[i] == f16_to_f32(((const uint16_t *)host.data)[DIM + i]), "element %d", i);
    cr_expect(exec_take_error(ex, &err) == MLL_OK, "%s", err.message);
    exec_close(ex);
    op_mat_free(&host, 0);
}
