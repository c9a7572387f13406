/* cmd_quantize.c - mllama quantize SRC DST: a model with 4-bit or 8-bit weights, as bitsandbytes
 * would save it. */
#include "jsonout.h"
#include "tool.h"

#include <stdio.h>

struct quantising {
    struct progress progress;
    uint64_t total;
};

static bool on_progress(void *user, const char *tensor, uint64_t done, uint64_t total)
{
    struct quantising *q = user;
    q->total = total;
    progress_show(&q->progress, (size_t)(done >> 20), (size_t)(total >> 20), 0, tensor);
    return signals_exit_code() == 0;
}

static int check_arguments(const struct args *args)
{
    if (args->n_operands != 2)
        return tool_usage("quantize takes SRC and DST, %zu given", args->n_operands);
    if (args->nf4 == args->int8)
        return tool_usage("quantize takes one of --nf4 and --int8");
    if (args->double_quant && !args->nf4)
        return tool_usage("--double-quant belongs to --nf4");
    return 0;
}

static int print_json(const char *dst, const char *type, uint64_t bytes, double seconds)
{
    struct jw w = {0};
    struct mll_error err;
    jw_object(&w, NULL);
    jw_string(&w, "model", dst);
    jw_string(&w, "quant", type);
    jw_int(&w, "bytes_read", (int64_t)bytes);
    jw_real(&w, "seconds", seconds, 3);
    jw_end(&w, '}');
    jw_newline(&w);
    enum mll_status status = tool_write(w.data, w.n, &err);
    jw_free(&w);
    return status == MLL_OK ? 0 : tool_fail(&err);
}

int cmd_quantize(const struct args *args)
{
    int code = check_arguments(args);
    if (code != 0)
        return code;
    struct mll_error err;
    struct tool_model model;
    struct args source = *args;
    source.model = args->operands[0];
    if (model_resolve(&model, &source, &err) != MLL_OK)
        return tool_fail(&err);
    struct quantising q = {0};
    struct mll_quantize options = {
        .type = args->int8           ? "int8"
                : args->double_quant ? "nf4-dq"
                                     : "nf4",
        .skip = args->skip.items,
        .n_skip = args->skip.n,
        .threads = args->threads,
        .on_progress = on_progress,
        .user = &q,
    };
    double start = tool_seconds();
    progress_start(&q.progress, "MiB");
    enum mll_status status = mll_quantize(model.path, args->operands[1], &options, &err);
    progress_clear(&q.progress);
    if (status == MLL_ERR_CANCELLED && signals_exit_code() != 0)
        code = signals_exit_code();
    else if (status != MLL_OK)
        code = tool_fail(&err);
    else if (args->json)
        code = print_json(args->operands[1], options.type, q.total, tool_seconds() - start);
    else
        tool_note("%s: %s, %.1f GB read in %.0f s", args->operands[1], options.type,
                  (double)q.total * 1e-9, tool_seconds() - start);
    model_free(&model);
    return code;
}
