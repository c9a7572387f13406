#include "bpe_table.h"
#include "split.h"
#include "utf8.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_FILE_BYTES ((size_t)256 << 20)

/* ---- opening ---- */

static enum mll_status read_all(int fd, char *bytes, size_t size, const char *path,
                                struct mll_error *err)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(fd, bytes + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return mll_fail(err, MLL_ERR_IO, "%s: %s after %zu of %zu bytes", path,
                            n < 0 ? strerror(errno) : "the file ends", done, size);
        done += (size_t)n;
    }
    return MLL_OK;
}

/* Reads a regular file; the caller frees *bytes. */
static enum mll_status read_file(char **bytes, size_t *size, const char *path,
                                 struct mll_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return mll_fail(err, errno == ENOENT || errno == ENOTDIR ? MLL_ERR_NOT_FOUND : MLL_ERR_IO,
                        "%s: %s", path, strerror(errno));
    enum mll_status status;
    struct stat st;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        status = mll_fail(err, MLL_ERR_FILE_NOT_REGULAR,
                          "%s: expected a regular file, found another kind", path);
    } else if ((uint64_t)st.st_size > MAX_FILE_BYTES) {
        status = mll_fail(err, MLL_ERR_TOKENIZER_SIZE, "%s: %lld bytes, at most %zu are read", path,
                          (long long)st.st_size, MAX_FILE_BYTES);
    } else {
        *size = (size_t)st.st_size;
        *bytes = malloc(*size + 1);
        status = *bytes
                     ? read_all(fd, *bytes, *size, path, err)
                     : mll_fail(err, MLL_ERR_NO_MEMORY, "%s: no memory for %zu bytes", path, *size);
    }
    close(fd);
    return status;
}

/* The tokenizer's file of a directory; a path that is no directory stands for itself. */
static enum mll_status find_file(char *out, size_t capacity, const char *path,
                                 struct mll_error *err)
{
    static const char *const names[] = {"tokenizer.json", "tokenizer.model"};
    struct stat st;
    if (strlen(path) + sizeof "/tokenizer.model" > capacity)
        return mll_fail(err, MLL_ERR_NOT_FOUND, "the path of the tokenizer is too long");
    strcpy(out, path);
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode))
        return MLL_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(out, capacity, "%s/%s", path, names[i]);
        if (access(out, F_OK) == 0)
            return MLL_OK;
    }
    return mll_fail(err, MLL_ERR_NOT_FOUND, "%s: no tokenizer.json and no tokenizer.model", path);
}

/* A file's name says what it is, else its first byte does. */
static bool is_json(const char *path, const char *bytes, size_t size)
{
    const char *dot = strrchr(path, '.');
    size_t i = 0;
    while (i < size && memchr(" \t\r\n", bytes[i], 4))
        i++;
    return (dot && strcmp(dot, ".json") == 0) || (i < size && bytes[i] == '{');
}

enum mll_status bpe_open(struct bpe **bpe, const char *path, struct mll_error *err)
{
    char file[4096];
    char *bytes = NULL;
    size_t size = 0;
    MLL_TRY(find_file(file, sizeof file, path, err));
    enum mll_status status = read_file(&bytes, &size, file, err);
    if (status == MLL_OK && is_json(file, bytes, size))
        status = bpe_read_json(bpe, bytes, size, file, err);
    else if (status == MLL_OK)
        status = bpe_read_tiktoken(bpe, bytes, size, file, err);
    free(bytes);
    return status;
}

int bpe_size(const struct bpe *b)
{
    return b->size;
}

const char *bpe_token_bytes(const struct bpe *b, int32_t id, size_t *size)
{
    *size = id >= 0 && id < b->size ? b->tokens[id].size : 0;
    return *size > 0 ? b->blob + b->tokens[id].start : NULL;
}

bool bpe_is_special(const struct bpe *b, int32_t id)
{
    return id >= 0 && id < b->size && b->tokens[id].special;
}

/* ---- encoding ---- */

/* The longest added token that text starts with, -1 if none: halves the sorted list byte by byte.
 */
static int32_t match_added(const struct bpe *b, const char *text, size_t size, bool special)
{
    int low = 0, high = b->n_added;
    int32_t found = -1;
    for (size_t depth = 0; depth < size && low < high; depth++) {
        uint8_t c = (uint8_t)text[depth];
        int ends[2]; /* first token whose byte at depth is >= c, first whose is > c */
        for (int above = 0; above < 2; above++) {
            int from = low, to = high;
            while (from < to) {
                int middle = from + (to - from) / 2;
                const struct bpe_token *token = &b->tokens[b->added[middle]];
                int byte = depth < token->size ? (uint8_t)b->blob[token->start + depth] : -1;
                if (byte < c + above)
                    from = middle + 1;
                else
                    to = middle;
            }
            ends[above] = from;
        }
        low = ends[0];
        high = ends[1];
        if (low == high)
            break;
        const struct bpe_token *first = &b->tokens[b->added[low]];
        if (first->size == depth + 1 && (special || !first->special))
            found = b->added[low];
    }
    return found;
}

/* The next added token at or after pos: its id, and where it starts in *start (size if none). */
static int32_t next_added(const struct bpe *b, size_t *start, const char *text, size_t size,
                          size_t pos, bool special)
{
    for (; b->n_added > 0 && pos < size; pos++) {
        if (!b->added_first[(uint8_t)text[pos]])
            continue;
        int32_t id = match_added(b, text + pos, size - pos, special);
        if (id >= 0) {
            *start = pos;
            return id;
        }
    }
    *start = size;
    return -1;
}

static enum mll_status encode_plain(const struct bpe *b, struct bpe_ids *out,
                                    struct bpe_work **work, const char *text, size_t size,
                                    struct mll_error *err)
{
    for (size_t pos = 0; pos < size;) {
        size_t end = split_next(text, size, pos);
        int32_t id = -1;
        if (b->ignore_merges && end - pos <= BPE_MAX_TOKEN)
            id = bpe_find_token(b, text + pos, end - pos);
        if (id >= 0) {
            MLL_TRY(bpe_append(out, id, err));
        } else {
            MLL_TRY(bpe_merge_piece(b, out, work, text + pos, end - pos, err));
        }
        pos = end;
    }
    return MLL_OK;
}

enum mll_status bpe_encode(const struct bpe *b, struct bpe_ids *out, const char *text, size_t size,
                           bool special, struct mll_error *err)
{
    if (size > INT32_MAX)
        return mll_fail(err, MLL_ERR_TEXT_SIZE, "a text of %zu bytes, at most %d are tokenized",
                        size, INT32_MAX);
    struct bpe_work *work = NULL;
    enum mll_status status = MLL_OK;
    for (size_t pos = 0; pos < size && status == MLL_OK;) {
        size_t start;
        int32_t id = next_added(b, &start, text, size, pos, special);
        status = encode_plain(b, out, &work, text + pos, start - pos, err);
        pos = start;
        if (id >= 0 && status == MLL_OK) {
            status = bpe_append(out, id, err);
            pos += b->tokens[id].size;
        }
    }
    bpe_work_free(work);
    return status;
}

int bpe_special_id(const struct bpe *b, const char *text)
{
    int32_t id = match_added(b, text, strlen(text), true);
    return id >= 0 && b->tokens[id].special && b->tokens[id].size == strlen(text) ? id : -1;
}

enum mll_status bpe_add_post_processor(const struct bpe *b, struct bpe_ids *ids,
                                       struct mll_error *err)
{
    size_t before = (size_t)b->n_before, after = (size_t)b->n_after;
    if (before + after == 0)
        return MLL_OK;
    MLL_TRY(bpe_reserve(ids, before + after, err));
    memmove(ids->data + before, ids->data, ids->n * sizeof *ids->data);
    memcpy(ids->data, b->before, before * sizeof *ids->data);
    memcpy(ids->data + before + ids->n, b->after, after * sizeof *ids->data);
    ids->n += before + after;
    return MLL_OK;
}

enum mll_status bpe_append(struct bpe_ids *ids, int32_t id, struct mll_error *err)
{
    MLL_TRY(bpe_reserve(ids, 1, err));
    ids->data[ids->n++] = id;
    return MLL_OK;
}

void bpe_ids_free(struct bpe_ids *ids)
{
    free(ids->data);
    *ids = (struct bpe_ids){0};
}

/* ---- decoding ---- */

static size_t put_replacement(char *out)
{
    memcpy(out, "\xEF\xBF\xBD", 3);
    return 3;
}

size_t bpe_stream_push(struct bpe_stream *s, char *out, const char *bytes, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < size; i++) {
        if (s->n_held == 0 && (uint8_t)bytes[i] < 0x80) {
            out[n++] = bytes[i];
            continue;
        }
        s->held[s->n_held++] = (uint8_t)bytes[i];
        struct utf8_part part = utf8_read(s->held, (size_t)s->n_held);
        if (part.size == part.need) {
            memcpy(out + n, s->held, part.size);
            n += part.size;
            s->n_held = 0;
        } else if (part.need == 0) {
            n += put_replacement(out + n);
            s->n_held = 0;
        } else if (part.size < s->n_held) {
            /* This byte broke off what was held; it may begin something itself. */
            n += put_replacement(out + n);
            s->n_held = 0;
            i--;
        }
    }
    return n;
}

size_t bpe_stream_finish(struct bpe_stream *s, char *out)
{
    size_t n = s->n_held > 0 ? put_replacement(out) : 0;
    s->n_held = 0;
    return n;
}
