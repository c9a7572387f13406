/* fuzz_tokenizer_input.c - any bytes through the small vocabulary: the ids spell the bytes, and the
 * stream of them, cut anywhere, is the same whole UTF-8. */
#include "bpe.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

#define VOCABULARY MLL_SOURCE_DIR "/tests/golden/tokenizer/small/tokenizer.json"

/* Writes the stream of bytes, pushed in pieces of cut, and returns its length. */
static size_t decode(char *out, const char *bytes, size_t size, size_t cut)
{
    struct bpe_stream stream = {0};
    size_t n = 0;
    for (size_t at = 0; at < size; at += cut)
        n += bpe_stream_push(&stream, out + n, bytes + at, size - at < cut ? size - at : cut);
    return n + bpe_stream_finish(&stream, out + n);
}

static void check_stream(const char *bytes, size_t size)
{
    char *whole = malloc(3 * size + 16), *pieces = malloc(3 * size + 16);
    size_t n = decode(whole, bytes, size, size + 1);
    for (size_t cut = 1; cut < 4; cut++)
        MLL_ASSERT(decode(pieces, bytes, size, cut) == n && memcmp(whole, pieces, n) == 0);
    for (size_t i = 0; i < n;) {
        struct utf8_part part = utf8_read((uint8_t *)whole + i, n - i);
        MLL_ASSERT(part.size == part.need);
        i += part.size;
    }
    free(whole);
    free(pieces);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct bpe *bpe;
    const char *text = (const char *)data;
    struct bpe_ids ids = {0};
    if (!bpe)
        MLL_ASSERT(bpe_open(&bpe, VOCABULARY, NULL) == MLL_OK);
    for (int special = 0; special < 2; special++) {
        size_t at = 0, width;
        ids.n = 0;
        MLL_ASSERT(bpe_encode(bpe, &ids, text, size, special, NULL) == MLL_OK);
        for (size_t i = 0; i < ids.n; at += width, i++) {
            const char *token = bpe_token_bytes(bpe, ids.data[i], &width);
            MLL_ASSERT(token && width <= size - at && !memcmp(token, text + at, width));
            MLL_ASSERT(special || !bpe_is_special(bpe, ids.data[i]));
        }
        MLL_ASSERT(at == size);
    }
    bpe_ids_free(&ids);
    check_stream(text, size);
    return 0;
}
