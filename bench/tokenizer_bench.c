/* tokenizer_bench.c - time to open a tokenizer and to encode documents, for
 * bench/peers/tokenizers_speed.py.
 *
 *     tokenizer_bench MODEL FILE ROUNDS
 * FILE holds documents, each ended by a NUL. Prints "open SECONDS", a line "round SECONDS" for each
 * pass over all documents, and "ids COUNT HASH" (FNV-1a over the ids as 4 bytes). One thread. */
#include "bench.h"
#include "bpe.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *read_documents(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    char *bytes = NULL;
    if (f && fseek(f, 0, SEEK_END) == 0 && (bytes = malloc((size_t)ftell(f) + 1)) != NULL) {
        *size = (size_t)ftell(f);
        rewind(f);
        *size = fread(bytes, 1, *size, f);
    }
    if (f)
        fclose(f);
    return bytes;
}

static enum mll_status encode_all(const struct bpe *bpe, struct bpe_ids *ids, const char *bytes,
                                  size_t size, struct mll_error *err)
{
    ids->n = 0;
    for (const char *at = bytes; at < bytes + size; at += strlen(at) + 1)
        MLL_TRY(bpe_encode(bpe, ids, at, strlen(at), false, err));
    return MLL_OK;
}

int main(int argc, char **argv)
{
    struct bpe *bpe;
    struct bpe_ids ids = {0};
    struct mll_error err;
    size_t size;
    char *bytes = argc == 4 ? read_documents(argv[2], &size) : NULL;
    if (!bytes) {
        fprintf(stderr, "usage: tokenizer_bench MODEL FILE ROUNDS\n");
        return 64;
    }
    double start = bench_seconds();
    enum mll_status status = bpe_open(&bpe, argv[1], &err);
    if (status == MLL_OK)
        printf("open %.6f\n", bench_seconds() - start);
    for (int round = atoi(argv[3]); round > 0 && status == MLL_OK; round--) {
        start = bench_seconds();
        status = encode_all(bpe, &ids, bytes, size, &err);
        printf("round %.6f\n", bench_seconds() - start);
    }
    if (status != MLL_OK) {
        fprintf(stderr, "%s\n", err.message);
        return mll_status_exit_code(status);
    }
    uint64_t hash = 0xCBF29CE484222325u;
    for (size_t i = 0; i < 4 * ids.n; i++)
        hash = (hash ^ ((const uint8_t *)ids.data)[i]) * 0x100000001B3u;
    printf("ids %zu %016" PRIx64 "\n", ids.n, hash);
    bpe_ids_free(&ids);
    bpe_close(bpe);
    free(bytes);
    return 0;
}
