/* quant_state.h - the JSON that bitsandbytes stores beside a 4-bit weight, in the uint8 tensor
 * X.quant_state.bitsandbytes__nf4 (or __fp4).
 *
 *     {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [rows, cols],
 *      "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.02}
 * The last three stand there where the absmax are double-quantised.
 * HF: bitsandbytes.functional.QuantState.as_dict(packed=True) */
#ifndef MLL_QUANT_STATE_H
#define MLL_QUANT_STATE_H

#include "defects.h"

/* The values of the 16 codes, as bitsandbytes' get_4bit_type() has them. */
extern const float quant_values_nf4[16], quant_values_fp4[16];

struct quant_state {
    bool fp4, nested;
    int block;            /* a power of two, 32 to 4096 */
    enum mll_dtype dtype; /* of the weight before: F32, F16 or BF16 */
    int rows, cols;
    float nested_offset;
};

/* Reads size bytes of text; name stands in messages. False after a defect (quant_state). */
bool quant_state_parse(struct quant_state *state, const char *text, size_t size, const char *name,
                       struct defects *d);
/* Writes the JSON as bitsandbytes would, NUL-terminated; returns its length. */
size_t quant_state_format(const struct quant_state *state, char *out, size_t cap);

#endif
