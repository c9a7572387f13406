/* test_changed.c - a model file that is cut while the engine uses it: an error, never a signal. */
#include "fixture.h"
#include "mllama.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static enum mll_status run_after_cut(bool no_mmap, struct mll_error *err)
{
    static const int32_t ids[] = {257, 97, 98};
    struct fixture f;
    struct mll_engine *engine;
    struct mll_session *session;
    const struct mll_result *result;
    size_t size;
    fixture_make(&f, FIXTURE_ONE_FILE, NULL);
    struct mll_options options = {
        .model = f.dir, .device = "cpu", .threads = 1, .no_mmap = no_mmap};
    cr_assert_eq(mll_open(&engine, &options, err), MLL_OK, "%s", err->message);
    cr_assert_eq(mll_session_open(&session, engine, err), MLL_OK, "%s", err->message);
    char *bytes = fixture_read(&f, "model.safetensors", &size);
    fixture_write(&f, "model.safetensors", bytes, 100);
    struct mll_sampling sampling;
    mll_sampling_default(&sampling);
    sampling.max_new_tokens = 2;
    struct mll_request request = {.ids = ids, .n_ids = 3, .sampling = &sampling};
    enum mll_status status = mll_session_run(session, &request, &result, err);
    mll_session_close(session);
    mll_close(engine);
    free(bytes);
    fixture_remove(&f);
    return status;
}

Test(changed, a_mapped_file_that_was_cut_is_an_error)
{
    struct mll_error err = {0};
    cr_expect_eq(run_after_cut(false, &err), MLL_ERR_FILE_CHANGED, "%s", err.message);
}

Test(changed, without_mmap_the_weights_stay)
{
    struct mll_error err = {0};
    cr_expect_eq(run_after_cut(true, &err), MLL_OK, "%s", err.message);
}
