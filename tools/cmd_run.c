/* cmd_run.c - mllama run: one answer, streamed to stdout, or all about it as JSON. */
#include "jsonout.h"
#include "run_request.h"
#include "tool.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What the stream needs to know. */
struct stream {
    bool active, terminal;
    enum mll_status status; /* of writing to stdout */
    struct mll_error *err;
};

static bool on_text(void *user, const char *text, size_t size)
{
    struct stream *stream = user;
    if (stream->active && stream->status == MLL_OK) {
        stream->status = tool_write(text, size, stream->err);
        if (stream->status == MLL_OK && stream->terminal)
            stream->status = tool_flush(stream->err);
    }
    return stream->status == MLL_OK && !signals_exit_code();
}

static enum mll_status write_json(struct jw *w, struct mll_error *err)
{
    jw_newline(w);
    enum mll_status status =
        w->failed ? mll_fail(err, MLL_ERR_NO_MEMORY, "the result") : tool_write(w->data, w->n, err);
    jw_free(w);
    return status;
}

static void put_ids(struct jw *w, const char *key, const int32_t *ids, size_t n)
{
    jw_array(w, key);
    for (size_t i = 0; i < n; i++)
        jw_int(w, NULL, ids[i]);
    jw_end(w, ']');
}

static enum mll_status dry_run(struct mll_engine *engine, const struct request *request,
                               struct mll_error *err)
{
    const char *text;
    const int32_t *ids;
    size_t n;
    MLL_TRY(mll_prompt(engine, &text, &ids, &n, &request->request, err));
    struct jw w = {0};
    jw_object(&w, NULL);
    jw_string(&w, "prompt", text);
    put_ids(&w, "ids", ids, n);
    jw_end(&w, '}');
    return write_json(&w, err);
}

static enum mll_status put_result(const struct mll_result *r, struct mll_error *err)
{
    static const char *const finishes[] = {"length", "eos", "stop", "cancelled"};
    struct jw w = {0};
    jw_object(&w, NULL);
    jw_string_n(&w, "text", r->text, r->text_size);
    put_ids(&w, "ids", r->ids, r->n);
    jw_array(&w, "logprobs");
    for (size_t i = 0; i < r->n; i++)
        jw_real(&w, NULL, r->logprobs[i], 6);
    jw_end(&w, ']');
    jw_string(&w, "finish", finishes[r->finish]);
    jw_object(&w, "tokens");
    jw_int(&w, "prompt", (int64_t)r->n_prompt);
    jw_int(&w, "generated", (int64_t)r->n);
    jw_end(&w, '}');
    jw_int(&w, "ids_skipped", (int64_t)r->ids_skipped);
    jw_object(&w, "seconds");
    jw_real(&w, "vision", r->seconds_vision, 4);
    jw_real(&w, "prefill", r->seconds_prefill, 4);
    jw_real(&w, "decode", r->seconds_decode, 4);
    jw_end(&w, '}');
    jw_hash(&w, "logits_hash", r->logits_hash);
    jw_end(&w, '}');
    return write_json(&w, err);
}

static void put_details(const struct mll_result *r)
{
    tool_note("%zu prompt and %zu new tokens; vision %.3f s, prefill %.3f s, decode %.3f s "
              "(%.1f tokens/s); logits %016llx",
              r->n_prompt, r->n, r->seconds_vision, r->seconds_prefill, r->seconds_decode,
              r->seconds_decode > 0 ? (double)r->n / r->seconds_decode : 0.0,
              (unsigned long long)r->logits_hash);
    if (r->ids_skipped > 0)
        tool_note("%llu ids without a logit row were skipped by the processors",
                  (unsigned long long)r->ids_skipped);
}

static enum mll_status answer(struct opened *opened, struct request *request,
                              const struct args *args, struct mll_error *err)
{
    struct stream stream = {.active = !args->json, .terminal = isatty(STDOUT_FILENO), .err = err};
    const struct mll_result *result;
    request->request.on_text = on_text;
    request->request.user = &stream;
    signals_watch(opened->session);
    enum mll_status status = mll_session_run(opened->session, &request->request, &result, err);
    signals_watch(NULL);
    if (stream.status != MLL_OK)
        return stream.status;
    MLL_TRY(status);
    if (args->json)
        MLL_TRY(put_result(result, err));
    else
        MLL_TRY(tool_write("\n", 1, err));
    if (args->verbose)
        put_details(result);
    return tool_flush(err);
}

int cmd_run(const struct args *args)
{
    struct mll_error err;
    struct opened opened;
    struct request request = {0};
    /* a misuse is told before a large model is opened */
    enum mll_status status = request_check(args, &err);
    if (status != MLL_OK)
        return tool_fail(&err);
    status = model_open(&opened, args, &err);
    if (status == MLL_OK)
        status = request_build(&request, args, opened.engine, &err);
    if (status == MLL_OK)
        status = args->dry_run ? dry_run(opened.engine, &request, &err)
                               : answer(&opened, &request, args, &err);
    request_free(&request);
    model_close(&opened);
    if (signals_exit_code())
        return signals_exit_code();
    return status == MLL_OK ? 0 : tool_fail(&err);
}
