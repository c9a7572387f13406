/* test_determinism.c - the bits of the logits do not depend on threads, instruction set, prefill
 * chunks, company in a batch, or whether weights are stored in 16 bits or widened to float32. */
#include "golden.h"
#include "ops.h"
#include "safetensors_write.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "half.h"

static const char *const some_cases[] = {"four_tiles_bf16", "images_side_by_side", "text_only",
                                         "odd_sizes",       "long_prompt",         NULL};

static uint64_t hash_of(const struct golden *g, struct mll_options options)
{
    struct mll_engine *engine;
    struct mll_session *session;
    const struct mll_result *result;
    struct mll_error err;
    if (options.model == NULL)
        options.model = g->model;
    options.device = "cpu";
    cr_assert(mll_open(&engine, &options, &err) == MLL_OK, "%s", err.message);
    cr_assert(mll_session_open(&session, engine, &err) == MLL_OK, "%s", err.message);
    cr_assert(mll_session_run(session, &g->request, &result, &err) == MLL_OK, "%s", err.message);
    uint64_t hash = result->logits_hash;
    mll_session_close(session);
    mll_close(engine);
    return hash;
}

Test(determinism, threads_isa_and_chunks_change_no_bit)
{
    static const int threads[] = {2, 3, 7}, chunks[] = {1, 2, 5, 16};
    static const char *const isas[] = {"avx2", "avx512"};
    for (int i = 0; some_cases[i] != NULL; i++) {
        struct golden g;
        golden_open(&g, some_cases[i]);
        g.sampling.max_new_tokens = 12;
        for (int m = 0; m < 3; m++) {
            enum mll_reference mode = (enum mll_reference)m;
            uint64_t plain =
                hash_of(&g, (struct mll_options){.reference = mode, .threads = 1, .isa = "c"});
            for (int k = 0; k < 3; k++)
                cr_expect(hash_of(&g, (struct mll_options){.reference = mode,
                                                           .threads = threads[k]}) == plain,
                          "%s: %d threads", some_cases[i], threads[k]);
            for (int k = 0; k < 2; k++)
                if (exec_isa_supported((enum mll_isa)(MLL_ISA_AVX2 + k)))
                    cr_expect(hash_of(&g, (struct mll_options){.reference = mode,
                                                               .threads = 1,
                                                               .isa = isas[k]}) == plain,
                              "%s: %s", some_cases[i], isas[k]);
            for (int k = 0; k < 4; k++)
                cr_expect(hash_of(&g, (struct mll_options){.reference = mode,
                                                           .threads = 1,
                                                           .prefill_chunk = chunks[k]}) == plain,
                          "%s: chunks of %d", some_cases[i], chunks[k]);
        }
        golden_close(&g);
    }
}

/* ---- alone or together ----------------------------------------------------------------------- */

enum { PARTIES = 8, NEW_TOKENS = 6 };

/* One party of a batch: its images (a prefix of the case's), its text, what came out. */
struct party {
    size_t n_images;
    const char *text;
    int starts_at; /* step at which it joins */
    float *logits; /* (NEW_TOKENS, vocab) */
    int n;
};

static void join(struct party *p, struct mll_session *session, struct mll_engine *engine,
                 const struct golden *g)
{
    struct mll_error err;
    const int32_t *ids;
    size_t n;
    for (size_t i = 0; i < p->n_images; i++)
        cr_assert(mll_session_add_image(session, &g->images[i], &err) == MLL_OK, "%s", err.message);
    cr_assert(mll_tokenize(engine, &ids, &n, p->text, strlen(p->text), true, &err) == MLL_OK);
    cr_assert(mll_session_feed(session, ids, n, &err) == MLL_OK, "%s", err.message);
}

/* Notes the logits and feeds the most likely id. */
static void take_token(struct party *p, struct mll_session *session, int vocab)
{
    struct mll_error err;
    const float *logits = mll_session_logits(session);
    int32_t best = 0;
    memcpy(p->logits + (size_t)p->n++ * (size_t)vocab, logits, (size_t)vocab * sizeof *logits);
    for (int i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    cr_assert(mll_session_feed(session, &best, 1, &err) == MLL_OK, "%s", err.message);
}

/* Runs the parties, each from its step on, all that are there in one batch. */
static void run_parties(struct party *parties, int n, const struct golden *g, int mode, int chunk,
                        const char *kv_type)
{
    struct mll_engine *engine;
    struct mll_error err;
    struct mll_info info;
    struct mll_session *sessions[PARTIES], *present[PARTIES];
    struct mll_options options = {.model = g->model,
                                  .device = "cpu",
                                  .threads = 2,
                                  .max_sessions = n,
                                  .kv_type = kv_type,
                                  .prefill_chunk = chunk,
                                  .reference = (enum mll_reference)mode};
    cr_assert(mll_open(&engine, &options, &err) == MLL_OK, "%s", err.message);
    mll_engine_info(engine, &info);
    for (int i = 0; i < n; i++)
        cr_assert(mll_session_open(&sessions[i], engine, &err) == MLL_OK, "%s", err.message);
    for (int step = 0, busy = 1; busy; step++) {
        size_t n_present = 0;
        busy = 0;
        for (int i = 0; i < n; i++) {
            struct party *p = &parties[i];
            if (step == p->starts_at)
                join(p, sessions[i], engine, g);
            if (step >= p->starts_at && p->n < NEW_TOKENS)
                present[n_present++] = sessions[i];
            busy |= p->n < NEW_TOKENS;
        }
        if (n_present == 0)
            continue;
        cr_assert(mll_step(engine, present, n_present, NULL, &err) == MLL_OK, "%s", err.message);
        for (int i = 0; i < n; i++)
            if (step >= parties[i].starts_at && parties[i].n < NEW_TOKENS &&
                mll_session_logits(sessions[i]) != NULL)
                take_token(&parties[i], sessions[i], info.vocab_size);
    }
    for (int i = 0; i < n; i++)
        mll_session_close(sessions[i]);
    mll_close(engine);
}

/* Each of the first n parties alone and in their company, in chunks that cut the prompts. */
static void check_company(const struct golden *g, int mode, int n, const char *kv_type)
{
    static const struct party all[PARTIES] = {
        {.n_images = 0, .text = "<|begin_of_text|>Only text here", .starts_at = 2},
        {.n_images = 3, .text = "<|begin_of_text|>A <|image|><|image|> b <|image|> c"},
        {.n_images = 1, .text = "<|begin_of_text|>Look at this page: <|image|>", .starts_at = 3},
        {.n_images = 0, .text = "<|begin_of_text|>"},
        {.n_images = 2, .text = "<|image|>x<|image|>"},
        {.n_images = 0, .text = "<|begin_of_text|>A prompt of more than two blocks of sixteen"},
        {.n_images = 1, .text = "<|image|>", .starts_at = 1},
        {.n_images = 0, .text = "<|begin_of_text|>Last", .starts_at = 4},
    };
    size_t size = NEW_TOKENS * 1024 * sizeof(float);
    struct party together[PARTIES], alone[PARTIES];
    for (int i = 0; i < n; i++) {
        together[i] = alone[i] = all[i];
        together[i].logits = calloc(1, size);
        alone[i].logits = calloc(1, size);
        alone[i].starts_at = 0;
        run_parties(&alone[i], 1, g, mode, 0, kv_type);
    }
    run_parties(together, n, g, mode, 4, kv_type);
    for (int i = 0; i < n; i++) {
        cr_expect(memcmp(alone[i].logits, together[i].logits, size) == 0, "%s: party %d of %d",
                  golden_modes[mode], i, n);
        free(alone[i].logits);
        free(together[i].logits);
    }
}

Test(determinism, company_in_a_batch_changes_no_bit)
{
    static const int sizes[] = {1, 2, 3, 5, PARTIES};
    struct golden g;
    golden_open(&g, "images_side_by_side");
    for (int i = 0; i < 5; i++)
        check_company(&g, MLL_REFERENCE_META, sizes[i], NULL);
    check_company(&g, MLL_REFERENCE_HF4, PARTIES, "f16");
    check_company(&g, MLL_REFERENCE_HF5, PARTIES, "int8");
    golden_close(&g);
}

/* ---- 16-bit weights -------------------------------------------------------------------------- */

static void copy_file(const char *from_dir, const char *to_dir, const char *name)
{
    char path[700], buffer[1 << 16];
    snprintf(path, sizeof path, "%s/%s", from_dir, name);
    FILE *from = fopen(path, "rb");
    snprintf(path, sizeof path, "%s/%s", to_dir, name);
    FILE *to = fopen(path, "wb");
    cr_assert(from != NULL && to != NULL, "%s", path);
    for (size_t n; (n = fread(buffer, 1, sizeof buffer, from)) > 0;)
        fwrite(buffer, 1, n, to);
    fclose(from);
    fclose(to);
}

/* The checkpoint of a case with every weight widened to float32. */
static void widen(const char *model, const char *to_dir)
{
    char path[700];
    struct st_file *file;
    struct st_writer *writer;
    struct st_error st;
    snprintf(path, sizeof path, "%s/model.safetensors", model);
    cr_assert(st_open(&file, path, ST_MODE_READ, &st) == ST_OK, "%s", st.message);
    size_t n = st_count(file);
    struct st_spec *specs = calloc(n, sizeof *specs);
    for (size_t i = 0; i < n; i++) {
        const struct st_tensor *t = st_at(file, i);
        specs[i] = (struct st_spec){.name = t->name, .dtype = ST_DTYPE_F32, .rank = t->rank};
        memcpy(specs[i].shape, t->shape, sizeof specs[i].shape);
    }
    snprintf(path, sizeof path, "%s/model.safetensors", to_dir);
    cr_assert(st_create(&writer, path, specs, n, NULL, 0, &st) == ST_OK, "%s", st.message);
    for (size_t i = 0; i < n; i++) {
        const struct st_tensor *t = st_at(file, i);
        enum mll_dtype dtype = t->dtype == ST_DTYPE_BF16 ? MLL_DTYPE_BF16 : MLL_DTYPE_F16;
        size_t count = (size_t)t->size / 2;
        float *wide = malloc(count * sizeof *wide);
        for (size_t k = 0; k < count; k++)
            wide[k] = weight_at(t->data, dtype, k);
        cr_assert(st_put(writer, i, wide, 0, count * sizeof *wide, &st) == ST_OK);
        free(wide);
    }
    cr_assert(st_finish(writer, &st) == ST_OK, "%s", st.message);
    free(specs);
    st_close(file);
}

Test(determinism, stored_in_16_bits_or_widened_changes_no_bit)
{
    static const char *const cases[] = {"four_tiles_bf16", "kept_unsorted", "odd_sizes", NULL};
    static const char *const files[] = {"config.json", "generation_config.json",
                                        "preprocessor_config.json", "tokenizer.json",
                                        "model.safetensors"};
    for (int i = 0; cases[i] != NULL; i++) {
        struct golden g;
        char dir[64], path[128];
        golden_open(&g, cases[i]);
        snprintf(dir, sizeof dir, "/tmp/mllama-wide-XXXXXX");
        cr_assert(mkdtemp(dir) != NULL);
        for (int f = 0; f < 4; f++)
            copy_file(g.model, dir, files[f]);
        widen(g.model, dir);
        struct mll_options wide = {.model = dir, .threads = 1};
        cr_expect(hash_of(&g, (struct mll_options){.threads = 1}) == hash_of(&g, wide), "%s",
                  cases[i]);
        for (int f = 0; f < 5; f++) {
            snprintf(path, sizeof path, "%s/%s", dir, files[f]);
            unlink(path);
        }
        rmdir(dir);
        golden_close(&g);
    }
}
