/* fuzz_tokenizer_file.c - tokenizer.json and tokenizer.model from any bytes: refused with a
 * message, or a tokenizer that encodes and decodes without loss. */
#include "bpe_table.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] =
        "It's a <|image|> receipt:  12.50\r\n\n\xe4\xb8\x80\xff aaaaaaaaaaaaaaaa";
    const char *bytes = (const char *)data;
    struct bpe *bpe = NULL;
    struct bpe_ids ids = {0};
    struct mll_error err = {0};
    enum mll_status status = size > 0 && bytes[0] == '{'
                                 ? bpe_read_json(&bpe, bytes, size, "f", &err)
                                 : bpe_read_tiktoken(&bpe, bytes, size, "f", &err);
    if (status != MLL_OK) {
        MLL_ASSERT(err.code == status && err.message[0]);
        return 0;
    }
    for (int special = 0; special < 2; special++) {
        size_t at = 0, width;
        ids.n = 0;
        MLL_ASSERT(bpe_encode(bpe, &ids, text, sizeof text - 1, special, &err) == MLL_OK);
        for (size_t i = 0; i < ids.n; at += width, i++) {
            const char *token = bpe_token_bytes(bpe, ids.data[i], &width);
            MLL_ASSERT(token && width <= sizeof text - 1 - at && !memcmp(token, text + at, width));
        }
        MLL_ASSERT(at == sizeof text - 1);
    }
    MLL_ASSERT(bpe_add_post_processor(bpe, &ids, &err) == MLL_OK);
    bpe_ids_free(&ids);
    bpe_close(bpe);
    return 0;
}
