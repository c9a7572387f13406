/* quant_data.h - seeded quantised weights for op tests, and what they mean in double.
 *
 * The codes, absmax and scales are random bytes and floats, not the quantised form of anything: an
 * op has to read every one of them. */
#ifndef QUANT_DATA_H
#define QUANT_DATA_H

#include "op_test.h"

/* Q4 with float32 absmax or double-quantised, of NF4 or FP4 values; or I8. */
struct quant_kind {
    enum mll_dtype dtype;
    bool nested, fp4;
    int block;
    enum mll_dtype rounded;
};

struct quant_data {
    struct mat mat;
    struct mat_blocks blocks;
    unsigned char *bytes;
    uint8_t *absmax_codes;
    float *floats; /* absmax, or nested_absmax, or scale */
    float map[256];
};

static const float quant_nf4[16] = {-1.0f,
                                    -0.6961928009986877f,
                                    -0.5250730514526367f,
                                    -0.39491748809814453f,
                                    -0.28444138169288635f,
                                    -0.18477343022823334f,
                                    -0.09105003625154495f,
                                    0.0f,
                                    0.07958029955625534f,
                                    0.16093020141124725f,
                                    0.24611230194568634f,
                                    0.33791524171829224f,
                                    0.44070982933044434f,
                                    0.5626170039176941f,
                                    0.7229568362236023f,
                                    1.0f};
static const float quant_fp4[16] = {
    0.0f,  0.0625f / 12,  8.0f / 12,  12.0f / 12,  4.0f / 12,  6.0f / 12,  2.0f / 12,  3.0f / 12,
    -0.0f, -0.0625f / 12, -8.0f / 12, -12.0f / 12, -4.0f / 12, -6.0f / 12, -2.0f / 12, -3.0f / 12};

static inline void *quant_bytes(size_t n, uint64_t seed)
{
    unsigned char *bytes = malloc(n + 1);
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 77;
    cr_assert(bytes != NULL);
    for (size_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        bytes[i] = (unsigned char)(state >> 56);
    }
    return bytes;
}

/* rows x cols of the kind; the codes stand `offset` bytes past an aligned address. */
static inline struct quant_data *quant_make(const struct quant_kind *k, int rows, int cols,
                                            size_t offset, uint64_t seed)
{
    struct quant_data *d = calloc(1, sizeof *d);
    cr_assert(d != NULL);
    size_t n = (size_t)rows * (size_t)cols;
    size_t size = k->dtype == MLL_DTYPE_I8 ? n : (n + 1) / 2;
    d->bytes = quant_bytes(offset + size, seed);
    d->mat = (struct mat){.data = d->bytes + offset, .dtype = k->dtype, .rows = rows, .cols = cols};
    if (k->dtype == MLL_DTYPE_I8) {
        d->mat.scale = d->floats = op_floats((size_t)rows, seed + 1, 3);
        return d;
    }
    size_t blocks = (n + (size_t)k->block - 1) / (size_t)k->block;
    d->mat.blocks = &d->blocks;
    d->blocks.block = k->block;
    d->blocks.rounded = k->rounded;
    memcpy(d->blocks.values, k->fp4 ? quant_fp4 : quant_nf4, sizeof d->blocks.values);
    d->floats = op_floats(blocks, seed + 2, 1);
    for (size_t i = 0; i < blocks; i++) /* where the code's value is 1, a tie of bf16 */
        d->floats[i] = f32_from_bits(f32_to_bits(d->floats[i]) & ~(uint32_t)0x7fff);
    if (!k->nested) {
        d->blocks.absmax = d->floats;
        return d;
    }
    op_fill(d->map, 256, seed + 3, 1);
    d->blocks.codes = d->absmax_codes = quant_bytes(blocks, seed + 4);
    d->blocks.nested_absmax = d->floats;
    d->blocks.nested_map = d->map;
    d->blocks.nested_offset = 0.37f;
    return d;
}

static inline void quant_free(struct quant_data *d)
{
    free(d->bytes);
    free(d->absmax_codes);
    free(d->floats);
    free(d);
}

/* Element i of the weight in double; float32 roundings of the format left out, but `rounded`. */
static inline double quant_value(const struct quant_data *d, size_t i)
{
    const struct mat *m = &d->mat;
    if (m->dtype == MLL_DTYPE_I8)
        return (double)((const int8_t *)m->data)[i] * m->scale[i / (size_t)m->cols] / 127;
    const struct mat_blocks *b = m->blocks;
    size_t block = i / (size_t)b->block;
    double absmax = b->absmax != NULL
                        ? b->absmax[block]
                        : (double)b->nested_map[b->codes[block]] * b->nested_absmax[block / 256] +
                              b->nested_offset;
    unsigned pair = ((const unsigned char *)m->data)[i / 2];
    double w = b->values[i % 2 == 0 ? pair / 16 : pair % 16] * absmax;
    if (b->rounded == MLL_DTYPE_BF16)
        return bf16_to_f32(bf16_from_f32((float)w));
    return b->rounded == MLL_DTYPE_F16 ? f16_to_f32(f16_from_f32((float)w)) : w;
}

#endif
