/* test_engine_device.c - what the engine asks of a device, counted by the shim: one graph and one
 * wait a token, no allocation; devices that are missing, old, full or lost. */
#include "engine.h"
#include "golden.h"
#include "shim_control.h"

#include <criterion/criterion.h>
#include <string.h>

struct fixture {
    struct golden g;
    struct mll_engine *engine;
    struct mll_session *session;
    char log[1024];
};

static void note(void *user, const char *line)
{
    struct fixture *f = user;
    strncat(f->log, line, sizeof f->log - strlen(f->log) - 1);
}

static enum mll_status try_open(struct fixture *f, struct mll_options options,
                                struct mll_error *err)
{
    *f->log = 0;
    options.model = f->g.model;
    options.threads = 1;
    options.log = note;
    options.log_user = f;
    return mll_open(&f->engine, &options, err);
}

static void open_fixture(struct fixture *f, struct mll_options options)
{
    struct mll_error err;
    golden_open(&f->g, "one_tile");
    cr_assert(try_open(f, options, &err) == MLL_OK, "%s", err.message);
    cr_assert(mll_session_open(&f->session, f->engine, &err) == MLL_OK, "%s", err.message);
}

static void close_fixture(struct fixture *f)
{
    mll_session_close(f->session);
    mll_close(f->engine);
    golden_close(&f->g);
}

static enum mll_status step(struct fixture *f, int32_t id, struct mll_error *err)
{
    MLL_TRY(mll_session_feed(f->session, &id, 1, err));
    return mll_step(f->engine, &f->session, 1, NULL, err);
}

Test(device, a_token_is_one_graph_and_one_wait)
{
    struct fixture f;
    struct mll_error err;
    open_fixture(&f, (struct mll_options){.device = "cuda"});
    cr_expect(strstr(f.log, "of weights copied in") != NULL, "%s", f.log);
    size_t all = exec_memory(f.engine->exec), left = exec_memory_free(f.engine->exec);
    cr_expect(left > 0 && left < all, "%zu of %zu bytes free", left, all);
    for (int32_t id = 1; id <= 2; id++) /* the kernels are loaded, then recorded */
        cr_assert(step(&f, id, &err) == MLL_OK, "%s", err.message);
    for (int32_t id = 3; id <= 20; id++) { /* into the second KV block too */
        struct shim_counts before = shim_counted();
        cr_assert(step(&f, id, &err) == MLL_OK, "%s", err.message);
        struct shim_counts after = shim_counted();
        cr_expect(after.graph_launches == before.graph_launches + 1);
        cr_expect(after.waits == before.waits + 1, "%d waits", (int)(after.waits - before.waits));
        cr_expect(after.allocations == before.allocations);
    }
    close_fixture(&f);
    cr_expect(shim_device_bytes() == 0, "%zu bytes are left", shim_device_bytes());
}

/* What a run of n tokens costs the device beyond one of fewer: launches of graphs, waits. */
static struct shim_counts run(struct fixture *f, int n)
{
    struct mll_error err;
    const struct mll_result *result;
    f->g.sampling.max_new_tokens = n;
    struct shim_counts before = shim_counted();
    cr_assert(mll_session_run(f->session, &f->g.request, &result, &err) == MLL_OK, "%s",
              err.message);
    cr_assert(result->n == (size_t)n);
    struct shim_counts after = shim_counted();
    return (struct shim_counts){.graph_launches = after.graph_launches - before.graph_launches,
                                .waits = after.waits - before.waits};
}

Test(device, choosing_the_token_is_part_of_the_same_graph_and_wait)
{
    struct fixture f;
    open_fixture(&f, (struct mll_options){.device = "cuda"});
    for (int penalty = 0; penalty < 2; penalty++) {
        f.g.sampling.repetition_penalty = penalty ? 1.2f : 1.0f;
        run(&f, 4); /* the graph is made */
        struct shim_counts few = run(&f, 4), many = run(&f, 10);
        cr_expect(many.graph_launches == few.graph_launches + 6);
        cr_expect(many.waits == few.waits + 6, "%d waits more", (int)(many.waits - few.waits));
    }
    close_fixture(&f);
}

Test(device, synchronous_debugging_has_no_graphs)
{
    struct fixture f;
    struct mll_error err;
    open_fixture(&f, (struct mll_options){.device = "cuda", .debug_sync = true});
    for (int32_t id = 1; id <= 4; id++)
        cr_assert(step(&f, id, &err) == MLL_OK, "%s", err.message);
    cr_expect(shim_counted().graph_launches == 0);
    close_fixture(&f);
}

Test(device, weights_leave_the_host)
{
    struct fixture f;
    open_fixture(&f, (struct mll_options){.device = "cuda"});
    cr_expect(f.engine->weights->ckpt == NULL);
    cr_expect(f.engine->weights->lm_head.dtype == MLL_DTYPE_F16);
    cr_expect(f.engine->weights->norm.dtype == MLL_DTYPE_F32);
    close_fixture(&f);
    open_fixture(&f, (struct mll_options){.device = "cuda", .quant = "nf4-dq"});
    cr_expect(f.engine->weights->layers[0].gate.dtype == MLL_DTYPE_Q4);
    cr_expect(f.engine->weights->quant == NULL && f.engine->weights->copies == NULL);
    close_fixture(&f);
}

/* Three tokens' logits of an engine that may take most bytes of the GPU, with its image. */
static void run_within(struct fixture *f, float *logits, uint64_t most)
{
    struct mll_error err;
    int vocab = 276;
    open_fixture(f, (struct mll_options){.device = "cuda", .max_memory = most});
    cr_assert(mll_session_add_image(f->session, &f->g.images[0], &err) == MLL_OK);
    for (int32_t id = 276; id > 273; id--, logits += vocab) { /* 276: the image */
        cr_assert(step(f, id, &err) == MLL_OK, "%s", err.message);
        memcpy(logits, mll_session_logits(f->session), (size_t)vocab * sizeof *logits);
    }
}

/* Copies of the next layer's weights come as early as their waits allow. */
Test(device, layers_are_streamed_within_the_memory_that_is_allowed)
{
    float all[3 * 276], some[3 * 276];
    struct fixture f;
    run_within(&f, all, 0);
    size_t most = f.engine->plan.weights + f.engine->plan.arena - 1;
    size_t besides = shim_device_bytes() - most; /* the fault record and such */
    close_fixture(&f);
    shim_copies_ahead(true);
    uint64_t before = shim_counted().graph_launches;
    run_within(&f, some, most);
    cr_expect(memcmp(all, some, sizeof all) == 0);
    cr_expect(f.engine->plan.n_streamed == 3);
    cr_expect(shim_device_bytes() <= most + besides, "%zu of %zu", shim_device_bytes(), most);
    cr_expect(strstr(f.log, "3 of 5 decoder layers") != NULL, "%s", f.log);
    cr_expect(shim_counted().graph_launches == before);
    close_fixture(&f);
    cr_expect(shim_device_bytes() == 0, "%zu bytes are left", shim_device_bytes());
}

Test(device, missing_old_or_full)
{
    struct fixture f;
    struct mll_error err;
    static const struct {
        int refuse;
        const char *words;
    } cases[] = {{100, "no CUDA device"},
                 {35, "the NVIDIA driver is too old"},
                 {209, "this build has code for sm shim"}};
    golden_open(&f.g, "one_tile");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mll_info info;
        shim_refuse(cases[i].refuse);
        cr_expect(try_open(&f, (struct mll_options){.device = "cuda"}, &err) == MLL_ERR_DEVICE);
        cr_expect(strstr(err.message, cases[i].words) != NULL, "%s", err.message);
        cr_assert(try_open(&f, (struct mll_options){0}, &err) == MLL_OK, "%s", err.message);
        mll_engine_info(f.engine, &info);
        cr_expect(strncmp(info.device, "cpu", 3) == 0);
        cr_expect(strstr(f.log, cases[i].words) != NULL, "%s", f.log);
        cr_assert(info.why_cpu != NULL);
        cr_expect(strstr(info.why_cpu, cases[i].words) != NULL, "%s", info.why_cpu);
        mll_close(f.engine);
        shim_refuse(0);
    }
    /* room for the arena, not for the weights; for neither */
    static const size_t room[] = {1 << 20, 1 << 14};
    for (size_t i = 0; i < 2; i++) {
        shim_limit_memory(room[i]);
        cr_expect(try_open(&f, (struct mll_options){.device = "cuda"}, &err) == MLL_ERR_NO_MEMORY);
        cr_expect(strstr(err.message, "out of memory on the GPU") && strstr(err.message, "free"),
                  "%s", err.message);
        cr_assert(try_open(&f, (struct mll_options){0}, &err) == MLL_OK, "%s", err.message);
        cr_expect(strstr(f.log, "out of memory") && strstr(f.log, "running on the CPU"));
        mll_close(f.engine);
    }
    golden_close(&f.g);
}

Test(device, an_assert_loses_the_context_and_names_its_place)
{
    struct fixture f;
    struct mll_error err;
    int32_t bad = 1000;
    open_fixture(&f,
                 (struct mll_options){.device = "cuda", .debug_sync = true, .debug_bounds = true});
    cr_assert(step(&f, 1, &err) == MLL_OK, "%s", err.message);
    exec_upload(f.engine->exec, (int32_t *)f.engine->text_table.blocks, &bad, sizeof bad);
    cr_expect(step(&f, 1, &err) == MLL_ERR_DEVICE);
    cr_expect(strstr(err.message, "decoder, layer 0, rope_kv_append") != NULL, "%s", err.message);
    cr_expect(step(&f, 2, &err) == MLL_ERR_DEVICE, "the context is lost");
    close_fixture(&f);
    shim_reset();
}
