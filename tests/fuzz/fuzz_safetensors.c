/* fuzz_safetensors.c - one safetensors file. The first byte chooses: the rest is the file as it is,
 * or it is a header (what its length should be is then put in front) and up to 255 bytes of data.
 */
#include "safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok)
{
    if (!ok)
        __builtin_trap();
}

/* What an accepted file promises. */
static void check_file(const struct st_file *f, size_t size)
{
    int64_t at = 0;
    for (size_t i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        int64_t bytes;
        uint8_t byte;
        require(t->begin == at && t->rank >= 0 && t->rank <= ST_MAX_RANK);
        require(st_dtype_bytes(&bytes, t->dtype, t->shape, t->rank) == ST_OK && bytes == t->size);
        require(st_find(f, t->name) == t);
        at += t->size;
        if (t->size)
            require(st_read(f, t, &byte, t->size - 1, 1, NULL) == ST_OK);
        require(st_read(f, t, &byte, t->size, 1, NULL) != ST_OK);
    }
    require((uint64_t)at <= size);
    for (size_t i = 0; i < st_metadata_count(f); i++)
        require(st_metadata_at(f, i).value[st_metadata_at(f, i).value_size] == 0);
}

static void open_exact(const uint8_t *bytes, size_t size)
{
    struct st_file *f;
    struct st_error err;
    uint8_t *exact = malloc(size ? size : 1);
    if (size)
        memcpy(exact, bytes, size);
    if (st_open_memory(&f, exact, size, &err) == ST_OK)
        check_file(f, size);
    else
        require(err.code != ST_OK && err.message[0] && !f);
    st_close(f);
    free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    size_t n = size - 2, extra = data[1];
    if (data[0] & 1) {
        open_exact(data + 2, n);
        return 0;
    }
    uint8_t *file = calloc(1, 8 + n + extra);
    for (int i = 0; i < 8; i++)
        file[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(file + 8, data + 2, n);
    open_exact(file, 8 + n + extra);
    free(file);
    return 0;
}
