/* bpe_tiktoken.c - tokenizer.model as tiktoken and llama-models have it: one line a token, its
 * bytes in base64, a space, its rank. The rank is both the id and the time of merging: a pair
 * merges to the token that its bytes spell, lowest rank first. Special tokens and pattern are not
 * in the file; they are Llama 3.2's, their ids following the last rank. */
#include "bpe_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_SPECIAL 257 /* begin_of_text ... reserved_special_token_246, image */

static enum mll_status in_file(enum mll_status status, const char *path, struct mll_error *err)
{
    if (status != MLL_OK && err) {
        char message[sizeof err->message];
        memcpy(message, err->message, sizeof message);
        return mll_fail(err, status, "%s: %s", path, message);
    }
    return status;
}

/* The rank at text, digits only; -1 if it is none. */
static int64_t parse_rank(const char *text, size_t size)
{
    int64_t rank = 0;
    if (size == 0 || size > 9)
        return -1;
    for (size_t i = 0; i < size; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        rank = rank * 10 + (text[i] - '0');
    }
    return rank;
}

/* One line without its end. n_lines bounds the rank: n different ranks below n leave no gap. */
static enum mll_status read_line(struct bpe *b, const char *line, size_t size, size_t number,
                                 size_t n_lines, struct mll_error *err)
{
    char bytes[BPE_MAX_TOKEN * 4 / 3 + 8];
    const char *space = memchr(line, ' ', size);
    size_t width = space ? (size_t)(space - line) : 0;
    if (width == 0 || width > sizeof bytes)
        return mll_fail(err, MLL_ERR_TOKENIZER_LINE,
                        "line %zu is not a token in base64, a space and its rank", number);
    size_t n = mll_decode_base64(bytes, line, width);
    int64_t rank = parse_rank(space + 1, size - width - 1);
    if (n == SIZE_MAX)
        return mll_fail(err, MLL_ERR_TOKENIZER_LINE, "line %zu: '%.*s' is not base64", number,
                        width < 40 ? (int)width : 40, line);
    if (rank < 0 || (size_t)rank >= n_lines)
        return mll_fail(err, MLL_ERR_TOKENIZER_RANK,
                        "line %zu: the rank is not a number below %zu, the number of tokens",
                        number, n_lines);
    return bpe_add_token(b, rank, bytes, n, err);
}

/* Every way to cut a token into two tokens is a merge of its rank. */
static enum mll_status add_merges(struct bpe *b, struct mll_error *err)
{
    for (int32_t id = 0; id < b->size; id++) {
        const char *bytes = b->blob + b->tokens[id].start;
        size_t size = b->tokens[id].size;
        for (size_t cut = 1; cut < size; cut++) {
            int32_t left = bpe_find_token(b, bytes, cut);
            int32_t right = left < 0 ? -1 : bpe_find_token(b, bytes + cut, size - cut);
            if (right >= 0)
                MLL_TRY(bpe_add_merge(b, left, right, id, (uint32_t)id, err));
        }
    }
    return MLL_OK;
}

static enum mll_status add_specials(struct bpe *b, struct mll_error *err)
{
    static const char *const names[] = {"begin_of_text",
                                        "end_of_text",
                                        "reserved_special_token_0",
                                        "reserved_special_token_1",
                                        "finetune_right_pad_id",
                                        "step_id",
                                        "start_header_id",
                                        "end_header_id",
                                        "eom_id",
                                        "eot_id",
                                        "python_tag"};
    const int n_names = sizeof names / sizeof *names;
    int64_t first = b->size;
    for (int i = 0; i < N_SPECIAL; i++) {
        char text[64];
        int n;
        if (i < n_names)
            n = snprintf(text, sizeof text, "<|%s|>", names[i]);
        else if (i < N_SPECIAL - 1)
            n = snprintf(text, sizeof text, "<|reserved_special_token_%d|>", i - n_names + 2);
        else
            n = snprintf(text, sizeof text, "<|image|>");
        MLL_TRY(bpe_add_added(b, first + i, text, (size_t)n, true, err));
    }
    b->before[0] = (int32_t)first;
    b->n_before = 1;
    return MLL_OK;
}

static enum mll_status fill(struct bpe *b, const char *bytes, size_t size, size_t n_lines,
                            struct mll_error *err)
{
    size_t number = 0;
    for (size_t pos = 0; pos < size;) {
        const char *newline = memchr(bytes + pos, '\n', size - pos);
        size_t end = newline ? (size_t)(newline - bytes) : size;
        MLL_TRY(read_line(b, bytes + pos, end - pos, ++number, n_lines, err));
        pos = end + 1;
    }
    b->ignore_merges = true;
    MLL_TRY(add_merges(b, err));
    MLL_TRY(add_specials(b, err));
    return bpe_seal(b, err);
}

enum mll_status bpe_read_tiktoken(struct bpe **bpe, const char *bytes, size_t size,
                                  const char *path, struct mll_error *err)
{
    size_t n_lines = size > 0 && bytes[size - 1] != '\n';
    for (size_t i = 0; i < size; i++)
        n_lines += bytes[i] == '\n';
    struct bpe *b;
    enum mll_status status = bpe_new(&b, n_lines + N_SPECIAL, 3 * n_lines, err);
    if (status != MLL_OK)
        return in_file(status, path, err);
    status = fill(b, bytes, size, n_lines, err);
    if (status == MLL_OK)
        *bpe = b;
    else
        bpe_close(b);
    return in_file(status, path, err);
}
