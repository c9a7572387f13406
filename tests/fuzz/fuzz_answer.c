/* fuzz_answer.c - the reader of models' answers: any bytes, with one token a byte. */
#include "fields.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fld_record record;
    size_t *ends = malloc((size + 1) * sizeof *ends);
    float *logprobs = calloc(size + 1, sizeof *logprobs);
    if (ends && logprobs) {
        for (size_t i = 0; i < size; i++)
            ends[i] = i + 1;
        const struct fld_tokens tokens = {ends, logprobs, size < 256 ? size : 256};
        if (fld_parse(&record, (const char *)data, size, &tokens, NRM_DATE_UNKNOWN, NULL) == MLL_OK)
            fld_free(&record);
    }
    free(ends);
    free(logprobs);
    return 0;
}
