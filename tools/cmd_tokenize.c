/* cmd_tokenize.c - JSON lines through the tokenizer: {"text": ...} to {"ids": [...]} and, with
 * --decode, back. One line out per line in, in order; a line that cannot be read becomes
 * {"error": {"code", "message"}} and makes the exit code 1. Needs the tokenizer's file only. */
#include "tool.h"
#include "bpe.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Writes value as one ASCII line and releases it. */
static enum mll_status write_line(json_t *value, struct mll_error *err)
{
    char *line = value ? json_dumps(value, JSON_ENSURE_ASCII | JSON_COMPACT) : NULL;
    json_decref(value);
    if (!line)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a line of output");
    enum mll_status status = tool_write(line, strlen(line), err);
    free(line);
    return status == MLL_OK ? tool_write("\n", 1, err) : status;
}

static enum mll_status encode_line(const struct bpe *bpe, struct bpe_ids *ids, const json_t *line,
                                   bool special, struct mll_error *err)
{
    const json_t *text = json_object_get(line, "text");
    if (!json_is_string(text))
        return mll_fail(err, MLL_ERR_LINE, "expected an object with a string \"text\"");
    ids->n = 0;
    return bpe_encode(bpe, ids, json_string_value(text), json_string_length(text), special, err);
}

static enum mll_status write_ids(const struct bpe_ids *ids, struct mll_error *err)
{
    char number[16];
    MLL_TRY(tool_write("{\"ids\":[", 8, err));
    for (size_t i = 0; i < ids->n; i++) {
        int n = snprintf(number, sizeof number, "%s%" PRId32, i > 0 ? "," : "", ids->data[i]);
        MLL_TRY(tool_write(number, (size_t)n, err));
    }
    return tool_write("]}\n", 3, err);
}

/* The bytes that the ids stand for, in *bytes (the caller frees it). */
static enum mll_status gather_bytes(const struct bpe *bpe, char **bytes, size_t *size,
                                    const json_t *ids, struct mll_error *err)
{
    FILE *f = open_memstream(bytes, size);
    if (!f)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a text");
    enum mll_status status = MLL_OK;
    for (size_t i = 0; i < json_array_size(ids) && status == MLL_OK; i++) {
        const json_t *item = json_array_get(ids, i);
        json_int_t id = json_is_integer(item) ? json_integer_value(item) : -1;
        size_t n = 0;
        const char *token =
            id >= 0 && id < bpe_size(bpe) ? bpe_token_bytes(bpe, (int32_t)id, &n) : NULL;
        if (token)
            fwrite(token, 1, n, f);
        else
            status = mll_fail(err, MLL_ERR_TOKEN_ID, "ids[%zu] is no token of this tokenizer", i);
    }
    if (fclose(f) != 0 && status == MLL_OK)
        status = mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a text");
    return status;
}

static enum mll_status decode_line(const struct bpe *bpe, json_t **text, const json_t *line,
                                   struct mll_error *err)
{
    const json_t *ids = json_object_get(line, "ids");
    if (!json_is_array(ids))
        return mll_fail(err, MLL_ERR_LINE, "expected an object with a list \"ids\"");
    char *bytes = NULL;
    size_t size = 0;
    enum mll_status status = gather_bytes(bpe, &bytes, &size, ids, err);
    char *out = status == MLL_OK ? malloc(3 * size + 16) : NULL;
    if (out) {
        struct bpe_stream stream = {0};
        size_t n = bpe_stream_push(&stream, out, bytes, size);
        n += bpe_stream_finish(&stream, out + n);
        *text = json_pack("{s:s%}", "text", out, n);
    } else if (status == MLL_OK) {
        status = mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for a text of %zu bytes", size);
    }
    free(out);
    free(bytes);
    return status;
}

/* One line in, one line out. *failed: the line was refused and an error stands in its place. */
static enum mll_status convert_line(const struct bpe *bpe, struct bpe_ids *ids, bool *failed,
                                    const char *line, size_t size, const struct args *args,
                                    struct mll_error *err)
{
    json_error_t parse;
    struct mll_error refused;
    enum mll_status status;
    json_t *in = json_loadb(line, size, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &parse);
    json_t *text = NULL;
    if (!in)
        status = mll_fail(&refused, MLL_ERR_LINE, "not JSON at byte %d", parse.position);
    else if (args->decode)
        status = decode_line(bpe, &text, in, &refused);
    else
        status = encode_line(bpe, ids, in, !args->no_special, &refused);
    json_decref(in);
    *failed = status != MLL_OK;
    if (*failed)
        return write_line(json_pack("{s:{s:s, s:s}}", "error", "code", mll_status_name(status),
                                    "message", refused.message),
                          err);
    return args->decode ? write_line(text, err) : write_ids(ids, err);
}

int cmd_tokenize(const struct args *args)
{
    struct mll_error err;
    struct tool_model model;
    struct bpe *bpe = NULL;
    struct bpe_ids ids = {0};
    char *line = NULL;
    size_t capacity = 0;
    ssize_t size;
    bool any_failed = false;
    enum mll_status status = model_resolve(&model, args, &err);
    if (status == MLL_OK)
        status = bpe_open(&bpe, model.path, &err);
    while (status == MLL_OK && (size = getline(&line, &capacity, stdin)) > 0) {
        bool failed = false;
        status = convert_line(bpe, &ids, &failed, line, (size_t)size, args, &err);
        any_failed |= failed;
        if (status == MLL_OK)
            status = tool_flush(&err);
    }
    free(line);
    bpe_ids_free(&ids);
    bpe_close(bpe);
    model_free(&model);
    if (status != MLL_OK)
        return tool_fail(&err);
    return any_failed ? 1 : 0;
}
