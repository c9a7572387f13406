/* answer.c - see answer.h. */
#include "answer.h"

#include <stdlib.h>
#include <string.h>

static enum mll_status reserve(struct answer *a, size_t more, struct mll_error *err)
{
    size_t need = a->size + more + 1;
    if (need <= a->capacity)
        return MLL_OK;
    size_t capacity = a->capacity * 2 > need ? a->capacity * 2 : need;
    char *text = realloc(a->text, capacity);
    if (text == NULL)
        return mll_fail(err, MLL_ERR_NO_MEMORY, "no memory for %zu bytes of text", capacity);
    a->text = text;
    a->capacity = capacity;
    return MLL_OK;
}

/* Ends the text before the first stop string that ends behind `from`. */
static void cut_at_stop(struct answer *a, size_t from)
{
    size_t cut = a->size;
    for (size_t i = 0; i < a->n_stop; i++) {
        size_t n = strlen(a->stop[i]);
        size_t begin = from >= n ? from - n + 1 : 0;
        if (n == 0)
            continue;
        for (size_t at = begin; at + n <= a->size && at < cut; at++)
            if (memcmp(a->text + at, a->stop[i], n) == 0)
                cut = at;
    }
    if (cut < a->size) {
        a->stopped = true;
        a->size = cut;
    }
}

static void added(struct answer *a, size_t n)
{
    size_t from = a->size;
    a->size += n;
    cut_at_stop(a, from);
    a->text[a->size] = '\0';
}

enum mll_status answer_push(struct answer *a, const char *bytes, size_t size, struct mll_error *err)
{
    MLL_TRY(reserve(a, 3 * size + 16, err));
    added(a, bpe_stream_push(&a->stream, a->text + a->size, bytes, size));
    return MLL_OK;
}

enum mll_status answer_finish(struct answer *a, struct mll_error *err)
{
    MLL_TRY(reserve(a, 16, err));
    added(a, a->stopped ? 0 : bpe_stream_finish(&a->stream, a->text + a->size));
    return MLL_OK;
}

/* How many bytes at the end of the text could begin a stop string. */
static size_t held_back(const struct answer *a)
{
    size_t held = 0;
    for (size_t i = 0; i < a->n_stop; i++) {
        size_t n = strlen(a->stop[i]);
        for (size_t k = n < a->size ? n : a->size; k > held; k--) {
            if (memcmp(a->text + a->size - k, a->stop[i], k) == 0) {
                held = k;
                break;
            }
        }
    }
    return held;
}

const char *answer_ready(struct answer *a, size_t *size, bool last)
{
    size_t end = a->size - (last || a->stopped ? 0 : held_back(a));
    const char *piece = a->text + a->sent;
    *size = end > a->sent ? end - a->sent : 0;
    a->sent += *size;
    return piece;
}

void answer_free(struct answer *a)
{
    free(a->text);
    *a = (struct answer){0};
}
